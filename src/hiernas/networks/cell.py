"""Cell networks: the skeleton of DARTS-like spaces.

A site is an edge of a cell (`normal.0->2`: from state 0 to node 2), and its options are operations, `none` among them.
All cells of one kind share their choices, not their weights. Exactly two edges of each node are not `none`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from hiernas.errors import ConfigError, SpaceError
from hiernas.networks.cell_ops import OPERATIONS, AuxiliaryHead, CellNet, ReLUConv, operation
from hiernas.networks.genotype import INPUTS, Edge, Genotype, edge_name, edges_of, operations_by_edge, read_genotype
from hiernas.networks.ops import Classifier, Conv, Op
from hiernas.networks.parts import EdgeChoices, Part, Parts, Place, build_parts, cell_options, chosen_edges, output_of, strided
from hiernas.networks.supernets import CellSupernet
from hiernas.space import Architecture, Choice, Decision, Group, SearchSpace


@dataclass(frozen=True)
class CellNetwork:
    """Skeleton of a cell space: a stem, a row of cells of given kinds, a classifier.

    The channels double at every reduction cell. `search`: DARTS' search network, whose batch norms have no scale and
    shift and stand behind pooling too; of the networks that are trained for good H-DAS' have the latter (`pool_bn`).
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]
    input_size: tuple[int, int, int]
    num_classes: int
    channels: int
    kinds: tuple[str, ...]  # of the cells, in order; a kind that begins with "reduce" halves its input
    stem: str  # cifar or imagenet
    auxiliary: bool = False
    search: bool = False
    pool_bn: bool = False
    nodes: int = 4
    stages: Any = None  # the stage graphs whose cells these are (H-DAS): costs are those of their network
    searched = "cells"

    @property
    def cell_kinds(self) -> tuple[str, ...]:
        """The kinds that differ, in order of their first cell."""
        return tuple(dict.fromkeys(self.kinds))

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(edge_name(kind, s, n) for kind in self.cell_kinds for s, n in edges_of(self.nodes))

    @property
    def groups(self) -> tuple[Group, ...]:
        """The edges into each node: two of them stay."""
        nodes = range(INPUTS, INPUTS + self.nodes)
        return tuple(Group(tuple(edge_name(kind, s, n) for s in range(n)), 2) for kind in self.cell_kinds for n in nodes)

    def span(self, kind: str) -> slice:
        """Where the edges of a kind of cell are among all sites."""
        start, edges = self.cell_kinds.index(kind), len(list(edges_of(self.nodes)))
        return slice(start * edges, (start + 1) * edges)

    def space(self) -> SearchSpace:
        return SearchSpace(self, tuple(Decision(name, OPERATIONS) for name in self.site_names))

    @property
    def same_operations(self) -> bool:
        """Whether the network that is searched in has the operations of the others: batch norm behind pooling, too."""
        return self.pool_bn or self.search

    def proxy(self, channels: int | None = None, cells: int | None = None) -> CellNetwork:
        """The smaller network that is searched in, with the same kinds of cells, and batch norms as DARTS has them there."""
        kinds = self.kinds if cells is None else row_of_cells(self.cell_kinds, cells)
        if tuple(dict.fromkeys(kinds)) != self.cell_kinds:
            raise ConfigError(
                f"a search network of {cells} cells (--set cells={cells}) does not have the same kinds of cells as this space, "
                f"{', '.join(self.cell_kinds)}; both it and the final network (--set space.cells=...) need at least 5 cells"
            )
        channels = channels or self.channels
        return replace(self, channels=channels, kinds=kinds, search=True, auxiliary=False, stages=None)

    def operation(self, name: str) -> Op:
        return operation(name, affine=not self.search, pool_bn=self.search or self.pool_bn)

    # -- published encodings -------------------------------------------------------------------------------------

    def read(self, choices: Any) -> Any:
        """A genotype (value, text, JSON) as choices by site; any other value is returned as it is."""
        is_genotype = isinstance(choices, str | Genotype) or (
            isinstance(choices, Mapping) and not any("->" in str(key) for key in choices)
        )
        if not is_genotype:
            return choices
        genotype = read_genotype(choices)
        known = {*self.cell_kinds, *(kind.rstrip("0123456789") for kind in self.cell_kinds)}
        stray = [kind for kind, _ in genotype.cells if kind not in known]
        if stray:
            raise SpaceError(f"space '{self.name}' has no cell '{stray[0]}'; its cells are {', '.join(self.cell_kinds)}")
        return {name: op for kind in self.cell_kinds for name, op in self._edges(kind, genotype)}

    def _edges(self, kind: str, genotype: Genotype) -> Iterator[tuple[str, str]]:
        graph = genotype.graph(kind)
        if len(graph) != self.nodes:
            raise SpaceError(f"cell '{kind}' has {len(graph)} nodes; space '{self.name}' has {self.nodes}")
        kept = operations_by_edge(graph, kind, OPERATIONS)
        return ((edge_name(kind, s, n), kept.get((s, n), "none")) for s, n in edges_of(self.nodes))

    def genotype(self, architecture: Architecture) -> Genotype:
        """The genotype of an architecture; raises `SpaceError` where it has none (several operations on an edge)."""
        chosen = dict(zip(self.site_names, architecture.options, strict=True))
        cells = []
        for kind in self.cell_kinds:
            nodes = [[(chosen[edge_name(kind, s, n)], s) for s in range(n)] for n in range(INPUTS, INPUTS + self.nodes)]
            cells.append((kind, tuple(map(_two_or_more, nodes))))
        return Genotype(tuple(cells))

    # -- structure -----------------------------------------------------------------------------------------------

    def stems(self) -> tuple[list[Part], list[Part]]:
        """The parts before the first cell: those that make its first input, and those that go on to its second."""
        parts = stem_parts(self.stem, self.input_size, self.channels, 3 * self.channels)
        return parts[:2], parts[2:]

    def places(self) -> list[Place]:
        """All cells in order."""
        first, second = self.stems()
        inputs = [output_of(first)] if not second else [output_of(first), output_of(second)]
        before, last = inputs[0], inputs[-1]
        channels, found = self.channels, []
        for kind in self.kinds:
            channels *= 2 if kind.startswith("reduce") else 1
            found.append(Place.of(kind, (before, last), channels, not self.search))
            before, last = last, (self.nodes * channels, found[-1].out_size)
        return found

    def parts(self) -> Parts:
        if self.stages is not None:
            return self.stages.parts_by_cells(self)
        places = self.places()
        fixed = [part for stem in self.stems() for part in stem]
        fixed += [part for p in places for part in (*p.preprocess, *p.joins(self.nodes))]
        return [*fixed, self._classifier(places)], cell_options(places, self.cell_kinds, self.nodes, self.operation)

    def _classifier(self, places: Sequence[Place]) -> Part:
        last = places[-1]
        return Part("classifier", Classifier(), self.nodes * last.channels, self.num_classes, 1, last.out_size)

    # -- networks ------------------------------------------------------------------------------------------------

    def build(self, choices: Sequence[Choice]) -> nn.Module:
        """The plain network of the chosen edges: [B, C, H, W] -> [B, classes]."""
        places = self.places()
        cells = [p.build(self.cell_choices(p.kind, choices), self.operation, self.nodes) for p in places]
        stem0, stem1 = (build_parts(parts) for parts in self.stems())
        classifier, at, auxiliary = self._classifier(places).build(), 2 * len(places) // 3, None
        if self.auxiliary:
            width, size = self.nodes * places[at].channels, places[at].out_size
            auxiliary = AuxiliaryHead(width, self.num_classes, size, self.stem == "cifar")
        return CellNet(stem0, stem1, cells, classifier, auxiliary, at)

    def cell_choices(self, kind: str, choices: Sequence[Choice]) -> EdgeChoices:
        """The choices of the edges of one kind of cell, from those of all sites."""
        return chosen_edges(edges_of(self.nodes), choices[self.span(kind)])

    def supernet(self, decisions: Sequence[Decision]) -> CellSupernet:
        return CellSupernet(self, decisions)


def stem_parts(stem: str, input_size: tuple[int, int, int], channels: int, width: int) -> list[Part]:
    """DARTS' stems: for small images one convolution to this width, for ImageNet's three of stride 2."""
    given, *size = input_size
    pixels, half = (size[0], size[1]), channels // 2
    if stem == "cifar":
        return [Part("stem", Conv(3, None), given, width, 1, pixels)]
    first = Part("stem", Conv(3, "relu"), given, half, 2, pixels)
    second = Part("stem", Conv(3, None), half, channels, 2, strided(pixels))
    return [first, second, Part("stem", ReLUConv(3), channels, channels, 2, strided(strided(pixels)))]


def row_of_cells(kinds: Sequence[str], cells: int) -> tuple[str, ...]:
    """The kinds of a row of cells: reductions after one and two thirds; `kinds`: normal and reduce, or one per stage."""
    reductions = [kind for kind in kinds if kind.startswith("reduce")]
    normals = [kind for kind in kinds if kind.startswith("normal")]
    at = (cells // 3, 2 * cells // 3)
    found = []
    for i in range(cells):
        of = reductions if i in at else normals
        found.append(of[min(at.index(i) if i in at else sum(i > j for j in at), len(of) - 1)])
    return tuple(found)


def _two_or_more(edges: Sequence[Edge]) -> tuple[Edge, ...]:
    """The edges of a node that are not `none`; where one or two are lacking, the first that are `none` beside them."""
    kept = [edge for edge in edges if edge[0] != "none"]
    lacking = [edge for edge in edges if edge[0] == "none"][: max(0, 2 - len(kept))]
    return tuple(sorted([*kept, *lacking], key=lambda edge: edge[1]))

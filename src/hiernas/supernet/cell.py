"""Cell networks: the skeleton of DARTS-like spaces.

A site is an edge of a cell (`normal.0->2`: from state 0 to node 2), and its options are operations, `none` among them.
All cells of one kind share their choices, not their weights. Exactly two edges of each node are not `none`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from hiernas.cells import OPERATIONS, AuxiliaryHead, Cell, CellNet, Concat, Preprocess, ReLUConv, Sum, operation
from hiernas.combinatorics import Decision, Group
from hiernas.errors import ConfigError, SpaceError
from hiernas.genotype import INPUTS, Edge, Genotype, check_operations, read_genotype
from hiernas.ops import Classifier, Conv, Op
from hiernas.space import Architecture, Choice, SearchSpace
from hiernas.supernet.chain import SEARCHED, Mixed, Mixture, Part, Site, Size, halved, mixed_parts, part_of

if TYPE_CHECKING:
    from hiernas.supernet.cell_mixed import CellSupernet

EdgeChoices = Mapping[tuple[int, int], Choice]  # by (source, node)


@dataclass(frozen=True)
class Place:
    """One cell of a network: its kind, its channels, and what brings its two inputs to them."""

    kind: str
    channels: int
    preprocess: tuple[Part, Part]
    size: Size  # of states 0 and 1, after preprocessing
    reduction: bool

    @property
    def out_size(self) -> Size:
        return halved(self.size) if self.reduction else self.size

    def part(self, source: int, op: Op) -> Part:
        """An operation on an edge; in a reduction cell the edges from the inputs have stride 2."""
        stride = 2 if self.reduction and source < INPUTS else 1
        size = self.size if source < INPUTS else self.out_size
        return Part(Site(self.kind, self.channels, self.channels, stride, (op,)), op, size)


def place(kind: str, inputs: tuple[tuple[int, Size], tuple[int, Size]], channels: int, affine: bool) -> Place:
    """A cell that reads two tensors of (channels, size); the first may have twice the pixels of the second."""
    (c0, size0), (c1, size1) = inputs
    op = Preprocess(affine)
    parts = (
        Part(Site("preprocess0", c0, channels, 1 if size0 == size1 else 2, (op,)), op, size0),
        Part(Site("preprocess1", c1, channels, 1, (op,)), op, size1),
    )
    return Place(kind, channels, parts, size1, kind.startswith("reduce"))


def edges_of(nodes: int) -> Iterator[tuple[int, int]]:
    """All (source, node) pairs of a cell, in the order of DARTS' alphas."""
    return ((source, node) for node in range(INPUTS, INPUTS + nodes) for source in range(node))


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
        return tuple(
            Group(tuple(edge_name(kind, s, n) for s in range(n)), 2) for kind in self.cell_kinds for n in nodes
        )

    def space(self) -> SearchSpace:
        """The search space over all operations of all edges."""
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

    def without_dead(self, choices: Sequence[Choice]) -> tuple[Choice, ...]:
        """The same: every node is part of the output."""
        return tuple(choices)

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
        known = {*self.cell_kinds, *_general(self.cell_kinds)}
        stray = [kind for kind, _ in genotype.cells if kind not in known]
        if stray:
            raise SpaceError(f"space '{self.name}' has no cell '{stray[0]}'; its cells are {', '.join(self.cell_kinds)}")
        return {name: op for kind in self.cell_kinds for name, op in self._edges(kind, genotype)}

    def _edges(self, kind: str, genotype: Genotype) -> Iterator[tuple[str, str]]:
        graph = genotype.graph(kind)
        if len(graph) != self.nodes:
            raise SpaceError(f"cell '{kind}' has {len(graph)} nodes; space '{self.name}' has {self.nodes}")
        check_operations(graph, kind, OPERATIONS)
        kept = {(source, node): op for node, edges in enumerate(graph, INPUTS) for op, source in edges}
        return ((edge_name(kind, s, n), kept.get((s, n), "none")) for s, n in edges_of(self.nodes))

    def genotype(self, architecture: Architecture) -> Genotype:
        """The genotype of an architecture; raises `SpaceError` where it has none (several operations on an edge)."""
        chosen = dict(zip(self.site_names, architecture.options, strict=True))
        cells = []
        for kind in self.cell_kinds:
            edges = [(n, (chosen[edge_name(kind, s, n)], s)) for s, n in edges_of(self.nodes)]
            nodes = [[edge for node, edge in edges if node == n] for n in range(INPUTS, INPUTS + self.nodes)]
            cells.append((kind, tuple(map(_two_or_more, nodes))))
        return Genotype(tuple(cells))

    # -- structure -----------------------------------------------------------------------------------------------

    def stems(self) -> tuple[list[Part], list[Part]]:
        """The parts before the first cell: those that make its first input, and those that go on to its second."""
        channels, size = self.input_size[0], self.input_size[1:]
        if self.stem == "cifar":
            return [part_of("stem", channels, 3 * self.channels, 1, Conv(3, None), size)], []
        c = self.channels
        first = part_of("stem", channels, c // 2, 2, Conv(3, "relu"), size)
        second = part_of("stem", c // 2, c, 2, Conv(3, None), halved(size))
        third = part_of("stem", c, c, 2, ReLUConv(), halved(halved(size)))
        return [first, second], [third]

    def places(self) -> list[Place]:
        """All cells in order."""
        first, second = self.stems()
        inputs = [output_of(first)] if not second else [output_of(first), output_of(second)]
        before, last = inputs[0], inputs[-1]
        channels, found = self.channels, []
        for kind in self.kinds:
            channels *= 2 if kind.startswith("reduce") else 1
            found.append(place(kind, (before, last), channels, not self.search))
            before, last = last, (self.nodes * channels, found[-1].out_size)
        return found

    def parts(self) -> tuple[list[Part], list[dict[str, tuple[Part, ...]]]]:
        """All operations with their input sizes: those of every network, and per site those of each option."""
        if self.stages is not None:
            found: tuple[list[Part], list[dict[str, tuple[Part, ...]]]] = self.stages.parts_by_cells(self)
            return found
        places = self.places()
        fixed = [part for stem in self.stems() for part in stem]
        fixed += [part for p in places for part in (*p.preprocess, *joins(p, self.nodes, SEARCHED))]
        ops = [self.operation(name) for name in OPERATIONS]
        options = [
            {op.name: tuple(p.part(s, op) for p in places if p.kind == kind and op.name != "none") for op in ops}
            for kind in self.cell_kinds
            for s, _ in edges_of(self.nodes)
        ]
        return [*fixed, self._classifier(places)], options

    def mixed_parts(self) -> Mixed:
        """As `parts`, for networks that keep several options."""
        return mixed_parts(self.parts())

    def _classifier(self, places: Sequence[Place]) -> Part:
        last = places[-1]
        return part_of("classifier", self.nodes * last.channels, self.num_classes, 1, Classifier(), last.out_size)

    # -- networks ------------------------------------------------------------------------------------------------

    def build(self, choices: Sequence[Choice]) -> nn.Module:
        """The plain network of the chosen edges: [B, C, H, W] -> [B, classes]."""
        places = self.places()
        cells = [build_cell(p, self.cell_choices(p.kind, choices), self.operation, self.nodes) for p in places]
        stem0, stem1 = (build_parts(parts) for parts in self.stems())
        return CellNet(stem0, stem1, cells, self._classifier(places).build(), *self._auxiliary(places))

    def cell_choices(self, kind: str, choices: Sequence[Choice]) -> EdgeChoices:
        """The choices of the edges of one kind of cell, from those of all sites."""
        chosen = dict(zip(self.site_names, choices, strict=True))
        return {(s, n): chosen[edge_name(kind, s, n)] for s, n in edges_of(self.nodes)}

    def _auxiliary(self, places: Sequence[Place]) -> tuple[nn.Module | None, int]:
        at = 2 * len(places) // 3
        if not self.auxiliary:
            return None, at
        p = places[at]
        return AuxiliaryHead(self.nodes * p.channels, self.num_classes, p.out_size, self.stem == "cifar"), at

    def supernet(self, decisions: Sequence[Decision]) -> CellSupernet:
        from hiernas.supernet.cell_mixed import CellSupernet

        return CellSupernet(self, decisions)


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


def edge_name(kind: str, source: int, node: int) -> str:
    """The site's name of an edge."""
    return f"{kind}.{source}->{node}"


def _general(kinds: Sequence[str]) -> set[str]:
    return {kind.rstrip("0123456789") for kind in kinds}


def output_of(parts: Sequence[Part]) -> tuple[int, Size]:
    """Channels and size of what the last part returns."""
    last = parts[-1]
    return last.site.cout, halved(last.size) if last.site.stride == 2 else last.size


def joins(p: Place, nodes: int, name: str) -> list[Part]:
    """What a cell does beside its operations: the sum of each node's two edges, and the nodes one behind the other."""
    sums = [part_of(name, p.channels, p.channels, 1, Sum(), p.out_size)] * nodes
    return [*sums, part_of(p.kind, p.channels, nodes * p.channels, 1, Concat(nodes), p.out_size)]


def build_parts(parts: Sequence[Part]) -> nn.Module:
    """Parts one after another as a module; no part: the identity."""
    modules = [part.build() for part in parts]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules) if modules else nn.Identity()


def build_cell(p: Place, choices: EdgeChoices, make: Any, nodes: int) -> Cell:
    """The plain cell of chosen edges; `make` gives the operation of a name."""
    edges = {}
    for (source, node), choice in choices.items():
        module = build_edge([(p.part(source, make(option)), weight) for option, weight in choice if option != "none"])
        if module is not None:
            edges[source, node] = module
    if not edges:
        raise SpaceError(f"cell '{p.kind}' has no edge; one of its nodes needs one, the others may be without")
    return Cell(p.preprocess[0].build(), p.preprocess[1].build(), edges, nodes, p.reduction)


def build_edge(kept: Sequence[tuple[Part, float]]) -> nn.Module | None:
    """The module of one edge with its kept operations and their weights; None where nothing is kept."""
    if not kept:
        return None
    if len(kept) == 1 and kept[0][1] == 1.0:
        return kept[0][0].build()
    return Mixture([part.build() for part, _ in kept], [weight for _, weight in kept])

"""Stage networks of H-DAS (arXiv 2101.04028v2): the cells are given, the graph between the cells of each stage is searched.

States 0 and 1 of a stage are two preprocessings of its input, states 2, 3, ... its cells. A cell reads the sum of two
edges, from the last `window` states, as both of its inputs; a stage's output is its last two states (Rule 2). A cell
that no path joins to that output is dead: networks leave it out, with its edges. Where the number of cells is searched,
too, a site of the stage says how many there are; those behind them are dead. All stages may share one graph: then their
sites are the same, and each has weights of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from hiernas.errors import SpaceError
from hiernas.networks.cell import CellNetwork, row_of_cells, stem_parts
from hiernas.networks.cell_ops import FREE, AuxiliaryHead, Cell, Concat, ReLUConv, StageGraph, StageNet, Sum, operation
from hiernas.networks.genotype import INPUTS, Genotype, check_concat, edge_name, genotype, operations_by_edge, read_graph
from hiernas.networks.ops import Classifier, Op
from hiernas.networks.parts import (
    SEARCHED,
    EdgeChoices,
    Options,
    Part,
    Parts,
    Place,
    StageShape,
    build_edges,
    build_parts,
    cell_options,
    chosen_edges,
    live_nodes,
    output_of,
)
from hiernas.networks.supernets import StageSupernet
from hiernas.space import Choice, Decision, Group, SearchSpace

STAGES, WINDOW = 3, 3
CELLS = ("normal1", "reduce1", "normal2", "reduce2", "normal3")  # each stage's own
JSON_STAGE = "DAG{}"  # H-DAS' own names of the stage graphs


@dataclass(frozen=True)
class StagePlace:
    """One stage of a network: the preprocessing of its input, its cells in order, and the reduction behind it, if any."""

    preprocess: Part
    cells: tuple[Place, ...]
    reductions: tuple[Place, ...]

    @property
    def width(self) -> int:
        return self.preprocess.cout

    def part(self, op: Op) -> Part:
        """An operation on an edge between states."""
        return Part("edge", op, self.width, self.width, 1, self.preprocess.size)


@dataclass(frozen=True)
class StageNetwork:
    """Skeleton of a space of stage graphs over the cells of a genotype.

    `least`: the least number of cells of a stage, where their number is searched (N_min), else None. `shared`: one graph
    for all stages, which then have as many cells each.
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]
    input_size: tuple[int, int, int]
    num_classes: int
    channels: int
    cells: tuple[int, ...]  # per stage
    stem: str  # cifar or imagenet
    genotype: Genotype
    window: int = WINDOW
    least: int | None = None
    auxiliary: bool = False
    shared: bool = False
    nodes: int = 4  # of a cell
    same_operations = True

    @property
    def searched(self) -> str:
        """The graphs between the cells, or their numbers, too."""
        return "graphs" if self.least is None else "numbers"

    def proxy(self, channels: int | None = None, cells: int | None = None) -> StageNetwork:
        """The same stages with fewer channels: the network that is searched in."""
        return replace(self, channels=channels or self.channels, auxiliary=False)

    @property
    def stem_parts(self) -> list[Part]:
        return stem_parts(self.stem, self.input_size, self.channels, self.nodes * self.channels)

    @property
    def graphs(self) -> range:
        """The stages whose graphs have sites of their own."""
        return range(1 if self.shared else STAGES)

    def graph_name(self, stage: int) -> str:
        """What the names of a stage's sites begin with."""
        return "stages" if self.shared else f"stage{stage + 1}"

    def span(self, stage: int) -> slice:
        """Where a stage's sites are among all."""
        start = 0 if self.shared else sum(len(self.stage_sites(k)) for k in range(stage))
        return slice(start, start + len(self.stage_sites(stage)))

    def edges(self, stage: int) -> Iterator[tuple[int, int]]:
        """The (source, node) pairs of a stage's graph."""
        nodes = range(INPUTS, INPUTS + self.cells[stage])
        return ((s, n) for n in nodes for s in range(max(0, n - max(self.window, INPUTS)), n))

    def outputs(self, stage: int, cells: int | None = None) -> tuple[int, int]:
        """The two states that are concatenated, with all cells or with this number of them."""
        last = INPUTS + (cells or self.cells[stage]) - 1
        return (last - 1, last)

    def numbers(self, stage: int) -> tuple[str, ...]:
        """The options for the number of a stage's cells; empty where it is not searched."""
        return () if self.least is None else tuple(str(n) for n in range(self.least, self.cells[stage] + 1))

    def stage_sites(self, stage: int) -> list[Decision]:
        """The sites of a stage with all their options: its edges, then the number of its cells."""
        edges = [Decision(self.site(stage, s, n), FREE) for s, n in self.edges(stage)]
        numbers = self.numbers(stage)
        return [*edges, Decision(f"{self.graph_name(stage)}.cells", numbers)] if numbers else edges

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(d.name for k in self.graphs for d in self.stage_sites(k))

    @property
    def groups(self) -> tuple[Group, ...]:
        """The edges into each cell: two of them stay."""
        found = []
        for k in self.graphs:
            for node in range(INPUTS, INPUTS + self.cells[k]):
                found.append(Group(tuple(self.site(k, s, n) for s, n in self.edges(k) if n == node), 2))
        return tuple(found)

    def site(self, stage: int, source: int, node: int) -> str:
        return edge_name(self.graph_name(stage), source, node)

    def space(self) -> SearchSpace:
        """The search space over the four operations of all edges (Rule 1)."""
        return SearchSpace(self, tuple(d for k in self.graphs for d in self.stage_sites(k)))

    def operation(self, name: str) -> Op:
        return operation(name, pool_bn=True)

    # -- the levels of H-DAS --------------------------------------------------------------------------------------

    def cell_space(self) -> SearchSpace:
        """The five cells that the stages' networks are made of, in a network of as many cells."""
        cells = sum(self.cells) + 2
        network = CellNetwork(
            name="hdas_cells", arguments=(), input_size=self.input_size, num_classes=self.num_classes,
            channels=self.channels, kinds=row_of_cells(CELLS, cells), stem=self.stem, pool_bn=True, stages=self,
        )  # fmt: skip
        return network.space()

    def over(self, genotype: Genotype, cells: tuple[int, ...] | None = None, least: int | None = None) -> SearchSpace:
        """The space of stage graphs over other cells, or over another number of them, searched from `least` on or given."""
        numbers = cells or self.cells
        given: dict[str, Any] = {
            "input_size": tuple(self.input_size), "num_classes": self.num_classes, "channels": self.channels, "cells": numbers,
            "stem": self.stem, "auxiliary": self.auxiliary, "cell": genotype.title,
            "window": self.window if self.window != WINDOW else 0, "least": least, "shared": self.shared,
        }  # fmt: skip
        arguments = tuple((key, value) for key, value in given.items() if value)
        return replace(self, arguments=arguments, genotype=genotype, cells=numbers, least=least).space()

    def parts_by_cells(self, network: CellNetwork) -> Parts:
        """As `parts`, by the choices of the cells (`cell_space`), without the edges between them.

        These have no multiply-adds and, behind pooling, the few parameters of a batch norm: costs are lower bounds.
        """
        places = [cell for stage in self.places() for cell in stage.cells + stage.reductions]
        options = cell_options(places, network.cell_kinds, network.nodes, network.operation)
        return self._fixed(lambda cell: [*cell.preprocess, *cell.joins(self.nodes, cell.kind)]), options

    # -- published encodings -------------------------------------------------------------------------------------

    def read(self, choices: Any) -> Any:
        """H-DAS' object with `cell` and `stage` as choices by site; any other value is returned as it is."""
        if not isinstance(choices, Mapping) or "stage" not in choices or self.least is not None:
            return choices
        if "cell" in choices and genotype(choices["cell"]) != self.genotype:
            cell = choices["cell"]
            raise SpaceError(f"these stage graphs are over the cell '{cell}'; make their space with hdas_stages(cell={cell!r})")
        read = [dict(self._read_stage(k, choices["stage"])) for k in range(STAGES)]
        if self.shared and any(graph != read[0] for graph in read):
            raise SpaceError("the stages of this space share one graph, and DAG1, DAG2 and DAG3 differ; leave shared out")
        return {name: op for graph in read for name, op in graph.items()}

    def _read_stage(self, stage: int, graphs: Any) -> Iterator[tuple[str, str]]:
        key = JSON_STAGE.format(stage + 1)
        if not isinstance(graphs, Mapping) or key not in graphs:
            raise SpaceError(f"the stage graphs lack '{key}'; an object with DAG1, DAG2 and DAG3 is expected")
        graph = read_graph(graphs[key], key)
        kept = operations_by_edge(graph, key, FREE[1:])
        check_concat(graphs.get(f"{key}_concat"), key, self.outputs(stage))
        if len(graph) != self.cells[stage]:
            raise SpaceError(f"'{key}' has {len(graph)} cells; stage {stage + 1} of this space has {self.cells[stage]}")
        stray = sorted(kept.keys() - set(self.edges(stage)))
        if stray:
            read = f"cell {stray[0][1]} of '{key}' reads state {stray[0][0]}"
            raise SpaceError(f"{read}; with window {self.window} it reads one of the last {self.window}")
        return ((self.site(stage, s, n), kept.get((s, n), "none")) for s, n in self.edges(stage))

    # -- structure -----------------------------------------------------------------------------------------------

    def places(self) -> list[StagePlace]:
        """All stages in order."""
        (given, size), found = output_of(self.stem_parts), []
        for k, count in enumerate(self.cells):
            c = self.channels * 2**k
            width = self.nodes * c
            inputs = ((width, size), (width, size))
            cells = tuple(Place.of(f"normal{k + 1}", inputs, c, True) for _ in range(count))
            out = ((2 * width, size), (2 * width, size))
            reductions = (Place.of(f"reduce{k + 1}", out, 2 * c, True),) if k + 1 < STAGES else ()
            found.append(StagePlace(Part("preprocess", ReLUConv(1), given, width, 1, size), cells, reductions))
            for reduction in reductions:
                given, size = self.nodes * 2 * c, reduction.out_size
        return found

    def parts(self) -> Parts:
        """All cells are counted, those of a searched number with that number: costs by table are upper bounds for graphs
        with dead cells.
        """
        places = self.places()
        options: list[Options] = []
        for k, p in enumerate(places):
            options += [{"none": ()} | {o: (p.part(self.operation(o)),) for o in FREE[1:]} for _ in self.edges(k)]
            if self.least is not None:
                beyond = {n: p.cells[self.least : int(n)] for n in self.numbers(k)}
                options.append({n: tuple(x for cell in cells for x in self._cell_parts(cell)) for n, cells in beyond.items()})
        if self.shared:  # an option is there in every stage
            each = [options[i :: len(options) // STAGES] for i in range(len(options) // STAGES)]
            options = [{o: tuple(part for site in of for part in site[o]) for o in of[0]} for of in each]
        return self._fixed(self._cell_parts), options

    def _fixed(self, of_cell: Callable[[Place], list[Part]]) -> list[Part]:
        """What every network has, with these parts of each cell."""
        places, fixed = self.places(), self.stem_parts
        for p in places:
            cells = p.cells[: self.least] + p.reductions
            fixed += [p.preprocess, p.preprocess, *(part for cell in cells for part in of_cell(cell))]
            size = p.preprocess.size  # of the states; each cell reads a sum, and the output is two of them
            fixed += [Part(SEARCHED, Sum(), p.width, p.width, 1, size)] * len(p.cells[: self.least])
            fixed.append(Part("stage", Concat(2), p.width, 2 * p.width, 1, size))
        return [*fixed, self._classifier(places)]

    def _cell_parts(self, cell: Place) -> list[Part]:
        edges = [edge for node in self.genotype.graph(cell.kind) for edge in node]
        operations = [cell.part(source, self.operation(op)) for op, source in edges if op != "none"]
        return [*cell.preprocess, *operations, *cell.joins(self.nodes, cell.kind)]

    def _classifier(self, places: Sequence[StagePlace]) -> Part:
        last = places[-1]
        return Part("classifier", Classifier(), 2 * last.width, self.num_classes, 1, last.preprocess.size)

    # -- networks ------------------------------------------------------------------------------------------------

    def build(self, choices: Sequence[Choice]) -> nn.Module:
        """The plain network of the chosen graphs, without dead cells: [B, C, H, W] -> [B, classes]."""
        places = self.places()
        stages = [self._build_stage(k, p, *self.stage_choices(k, choices)) for k, p in enumerate(places)]
        reductions = [self.build_cell(cell) for p in places for cell in p.reductions]
        last, auxiliary = places[-1].preprocess, None
        if self.auxiliary:
            auxiliary = AuxiliaryHead(last.cin, self.num_classes, last.size, self.stem == "cifar")
        return StageNet(build_parts(self.stem_parts), stages, reductions, self._classifier(places).build(), auxiliary)

    def stage_choices(self, stage: int, choices: Sequence[Choice]) -> tuple[EdgeChoices, tuple[int, int]]:
        """The choices of one stage's edges, and the states that are its output."""
        chosen = choices[self.span(stage)]
        edges = chosen_edges(self.edges(stage), chosen)
        if self.least is None:
            return edges, self.outputs(stage)
        number = chosen[-1]
        if len(number) != 1:
            raise SpaceError(f"stage {stage + 1} has several numbers of cells; a network has one")
        return edges, self.outputs(stage, int(number[0][0]))

    def without_dead(self, choices: Sequence[Choice]) -> tuple[Choice, ...]:
        """The same network without the edges into dead cells, which it is built without."""
        found: list[Choice] = []
        for k in self.graphs:
            alive = live_nodes(*self.stage_choices(k, choices))
            for (_, node), choice in zip(self.edges(k), choices[self.span(k)], strict=False):
                found.append(choice if node in alive else (("none", 1.0),))
            found += [choices[len(found)]] if self.numbers(k) else []
        return tuple(found)

    def shapes(self, choices: Sequence[Choice]) -> list[StageShape]:
        """Depth and dead cells of each stage."""
        chosen = (self.stage_choices(k, choices) for k in range(STAGES))
        return [StageShape.of(edges, outputs, outputs[-1] - INPUTS + 1) for edges, outputs in chosen]

    def _build_stage(self, k: int, p: StagePlace, choices: EdgeChoices, outputs: tuple[int, int]) -> StageGraph:
        alive = live_nodes(choices, outputs)
        without = sorted(alive - {0, 1} - {n for _, n in choices})
        if without:
            raise SpaceError(f"cell {without[0]} of stage {k + 1} has no edge; every cell needs at least one")
        live = {edge: choice for edge, choice in choices.items() if edge[1] in alive}
        edges = build_edges(live, lambda _, option: p.part(self.operation(option)))
        cells = {n: self.build_cell(cell) for n, cell in enumerate(p.cells, INPUTS) if n in alive}
        return StageGraph(p.preprocess.build(), p.preprocess.build(), edges, cells, outputs)

    def build_cell(self, p: Place) -> Cell:
        """A cell of the genotype at its place."""
        graph = self.genotype.graph(p.kind)
        choices = {(s, n): ((op, 1.0),) for n, edges in enumerate(graph, INPUTS) for op, s in edges if op != "none"}
        return p.build(choices, self.operation, len(graph))

    def supernet(self, decisions: Sequence[Decision]) -> StageSupernet:
        return StageSupernet(self, decisions)

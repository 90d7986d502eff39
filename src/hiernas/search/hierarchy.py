"""What joins the levels of H-DAS: costs of the whole network by the choices of its cells, and spaces of the next level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hiernas.costs.count import LatencyTable, parts_of
from hiernas.costs.tables import CostTable, counted
from hiernas.genotype import Genotype
from hiernas.space import SearchSpace
from hiernas.spaces import hdas_cells, hdas_stages
from hiernas.supernet.cell import CellNetwork, Place, edges_of
from hiernas.supernet.chain import Part
from hiernas.supernet.stage import StageNetwork


def cells_of(stages: SearchSpace) -> SearchSpace:
    """The space of the five cells that the stages' networks are made of, in a network of as many cells."""
    s = stages.skeleton
    assert isinstance(s, StageNetwork)  # methods refuse other spaces before
    return hdas_cells(s.input_size, s.num_classes, channels=s.channels, cells=sum(s.cells) + 2, stem=s.stem)


def stages_of(stages: SearchSpace, genotype: Genotype, cells: Any = None, least: int | None = None) -> SearchSpace:
    """The space of stage graphs over other cells, or over another number of them."""
    s = stages.skeleton
    assert isinstance(s, StageNetwork)
    numbers: Any = cells or s.cells
    return hdas_stages(
        s.input_size, s.num_classes, channels=s.channels, cells=numbers, stem=s.stem, auxiliary=s.auxiliary,
        cell=genotype, window=s.window, least=least, shared=s.shared,
    )  # fmt: skip


def wider_stages(stages: SearchSpace, genotype: Genotype, extra: int, least: int) -> SearchSpace:
    """The space in which the number of cells is searched, from `least` to `extra` more than given."""
    s = stages.skeleton
    assert isinstance(s, StageNetwork)
    numbers = tuple(n + extra for n in s.cells)
    return stages_of(stages, genotype, numbers, min(least, *numbers))


def cell_skeleton(cells: SearchSpace) -> CellNetwork:
    """The skeleton of a space of cells."""
    assert isinstance(cells.skeleton, CellNetwork)
    return cells.skeleton


def cell_tables(stages: SearchSpace, cells: SearchSpace, latency: LatencyTable | None) -> dict[str, CostTable]:
    """Costs of the stages' networks by the choices of their cells, without those of the edges between the cells.

    These have no multiply-adds and, behind pooling, the few parameters of a batch norm: a lower bound, and a near one.
    """
    skeleton, network = stages.skeleton, cells.skeleton
    assert isinstance(skeleton, StageNetwork)
    assert isinstance(network, CellNetwork)
    measures: dict[str, Callable[[Part], float]] = {
        "params": lambda part: counted(part).params,
        "macs": lambda part: counted(part).macs,
    }
    constants = {"params": 0.0, "macs": 0.0}
    if latency is not None:
        measures["latency_ms"], constants["latency_ms"] = latency.part_ms, latency.overhead_ms
    places = [cell for stage in skeleton.places() for cell in (*stage.cells, *([stage.reduction] if stage.reduction else []))]
    fixed, _ = parts_of(skeleton)
    found = {}
    for metric, cost in measures.items():
        edges = sum(cost(part) for place in places for part in _edges(skeleton, place))
        constant = constants[metric] + sum(cost(part) for part in fixed) - edges
        rows = [
            np.array([_edge_cost(network, places, kind, s, o, cost) for o in d.options], dtype=np.float64)
            for (kind, s, _), d in zip(_sites(network), cells.decisions, strict=True)
        ]
        found[metric] = CostTable(metric, constant, tuple(rows), cells)
    return found


def _sites(network: CellNetwork) -> list[tuple[str, int, int]]:
    return [(kind, s, n) for kind in network.cell_kinds for s, n in edges_of(network.nodes)]


def _edges(skeleton: StageNetwork, place: Place) -> list[Part]:
    graph = skeleton.genotype.graph(place.kind)
    return [place.part(source, skeleton.operation(op)) for node in graph for op, source in node if op != "none"]


def _edge_cost(network: CellNetwork, places: Sequence[Place], kind: str, source: int, option: str, cost: Any) -> float:
    if option == "none":
        return 0.0
    return float(sum(cost(p.part(source, network.operation(option))) for p in places if p.kind == kind))

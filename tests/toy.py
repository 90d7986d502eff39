"""A space of 12 architectures: small enough to be listed, built and checked by brute force."""

from collections.abc import Mapping, Sequence
from typing import Any

from hiernas.budget import CostTable, Limit
from hiernas.costs.limits import TableBudget
from hiernas.networks.ops import MBConv
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import Stage, chain_space


def toy_space() -> SearchSpace:
    """Two sites of 3 and 4 options over input (3, 16, 16), 4 classes; the second site may be skipped."""
    stages = [
        Stage(8, 1, 2, (MBConv(3, 2), MBConv(5, 2), MBConv(3, 4))),
        Stage(8, 1, 1, (MBConv(3, 1), MBConv(5, 3), MBConv(7, 2)), skip=True),
    ]
    return chain_space("toy", (3, 16, 16), 4, stem=8, stages=stages, head=16)


RUN = {"method": "hnas", "seed": 0, "data": {}}  # the least that a run's config.yaml must hold


def budget(limits: Sequence[Limit], tables: Mapping[str, CostTable] | None = None) -> TableBudget:
    """Limits, checked by these tables or by those of the space in question."""
    return TableBudget(tuple(limits), own=None if tables is None else lambda space: tables)


def stage_genotype(architecture: Architecture) -> dict[str, Any]:
    """The stage graphs of an architecture in H-DAS' own form."""
    network: Any = architecture.skeleton
    chosen = dict(zip(network.site_names, architecture.options, strict=True))
    graphs: dict[str, Any] = {}
    for k, cells in enumerate(network.cells):
        edges = [(n, [chosen[network.site(k, s, n)], s]) for s, n in network.edges(k)]
        graphs[f"DAG{k + 1}"] = [[edge for n, edge in edges if n == 2 + i and edge[0] != "none"] for i in range(cells)]
        graphs[f"DAG{k + 1}_concat"] = [cells, cells + 1]
    return {"cell": dict(network.arguments)["cell"], "stage": graphs}

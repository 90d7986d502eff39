"""A space of 12 architectures: small enough to be listed, built and checked by brute force."""

from collections.abc import Mapping, Sequence

from hiernas.budget import CostTable, Limit
from hiernas.costs.limits import TableBudget
from hiernas.networks.ops import MBConv
from hiernas.space import SearchSpace
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

"""Costs as a table per site and option plus a constant: exact for an architecture, and fast for many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hiernas.costs.count import Count, Footprint, LatencyTable, count, footprint, parts_of_space, saved_by
from hiernas.space import SearchSpace

if TYPE_CHECKING:
    from hiernas.supernet.chain import Part

METRICS = ("latency_ms", "params", "macs")

_counts: dict[str, Count] = {}  # by Part.key, which is equal where the count is
_footprints: dict[str, Footprint] = {}


@dataclass(frozen=True, eq=False)
class CostTable:
    """One metric of a space: the cost of an architecture is `constant` plus one number of each row of `sites`."""

    metric: str
    constant: float  # stem, head and, for a latency, what every call of a network costs
    sites: tuple[np.ndarray, ...]  # per site float64 [options of the space]
    space: SearchSpace

    def of(self, genes: np.ndarray) -> np.ndarray:
        """Costs of architectures: option indices int64 [N, sites] -> float64 [N] (exact integers for params, macs)."""
        total = np.full(len(genes), self.constant)
        for row, column in zip(self.sites, genes.T, strict=True):
            total += row[column]
        return total

    @property
    def smallest(self) -> float:
        """The least cost of any architecture of the space (exact)."""
        return self._sum(largest=False)

    @property
    def largest(self) -> float:
        """The greatest cost of any architecture of the space (exact)."""
        return self._sum(largest=True)

    def _sum(self, largest: bool) -> float:
        total = self.constant
        for term in self.space.extreme(self.sites, largest):  # in the order of `of`: equal to the last bit in a chain
            total += term
        return total


def cost_tables(space: SearchSpace, latency: LatencyTable | None) -> dict[str, CostTable]:
    """The tables of a space by metric: params, macs and, where a latency table is given, latency_ms.

    Raises `LatencyError` where the latency table misses an operation of the space.
    """
    tables = {
        "params": _table("params", space, lambda part: counted(part).params, 0.0),
        "macs": _table("macs", space, lambda part: counted(part).macs, 0.0),
    }
    if latency is not None:
        tables["latency_ms"] = _table("latency_ms", space, latency.part_ms, latency.overhead_ms)
    return tables


def counted(part: Part) -> Count:
    """The count of one operation, remembered for the life of the process."""
    if part.key not in _counts:
        _counts[part.key] = count(part.build, part.input_size)
    return _counts[part.key]


def taken_by(part: Part) -> Footprint:
    """The footprint of one operation, remembered for the life of the process."""
    if part.key not in _footprints:
        _footprints[part.key] = footprint(part.build, part.input_size)
    return _footprints[part.key]


def _table(metric: str, space: SearchSpace, cost_of: Callable[[Part], float], constant: float) -> CostTable:
    fixed, options = parts_of_space(space)
    for part in fixed:
        constant += cost_of(part)
    for part in saved_by(space.skeleton):
        constant -= cost_of(part)
    rows = tuple(np.array([sum(map(cost_of, parts)) for parts in site], dtype=np.float64) for site in options)
    return CostTable(metric, constant, rows, space)

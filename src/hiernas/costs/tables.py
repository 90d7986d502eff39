"""Costs as a table per site and option plus a constant: exact for an architecture, and fast for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hiernas.budget import CostTable
from hiernas.costs.count import Count, Footprint, LatencyTable, count, footprint, parts_of_space, saved_by
from hiernas.space import SearchSpace

if TYPE_CHECKING:
    from hiernas.networks.parts import Part

_counts: dict[str, Count] = {}  # by Part.key, which is equal where the count is
_footprints: dict[str, Footprint] = {}


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

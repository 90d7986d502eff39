"""Limits on costs, the costs of a space as tables, and what a search asks of both: its `Budget`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import numpy as np

from hiernas.errors import LimitError, did_you_mean
from hiernas.space import Architecture, SearchSpace

METRICS = ("latency_ms", "latency_int8_ms", "params", "macs", "peak_ram", "peak_ram_int8", "flash", "flash_int8")
SUFFIXES = {"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Limit:
    """low <= metric <= high, both included; latency in ms, memory in bytes, parameters and MACs as numbers."""

    metric: str
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise LimitError(f"unknown metric '{self.metric}' in a limit; {did_you_mean(self.metric, METRICS)}")
        if not (0 <= self.low < math.inf or self.low == -math.inf) or not self.high >= 0:
            bound = self.low if self.high >= 0 else self.high
            raise LimitError(f"{bound} is no bound for {self.metric}; a bound is a number from 0 upward")
        if self.low > self.high:
            low, high = quantity(self.metric, self.low), quantity(self.metric, self.high)
            raise LimitError(f"no {self.metric} is both at least {low} and at most {high}; widen the bounds")

    @property
    def bounds(self) -> tuple[float, ...]:
        """The finite ones of low and high."""
        return tuple(b for b in (self.low, self.high) if math.isfinite(b))

    def excess(self, values: np.ndarray) -> np.ndarray:
        """How far values lie outside, relative to the bound: float64 [N], 0 inside."""
        over = np.maximum(values - self.high, 0.0) / _scale(self.high)
        return over + np.maximum(self.low - values, 0.0) / _scale(self.low)

    def __str__(self) -> str:
        low, high = quantity(self.metric, self.low), quantity(self.metric, self.high)
        if math.isinf(self.low):
            return f"{self.metric} <= {high}"
        return f"{self.metric} >= {low}" if math.isinf(self.high) else f"{low} <= {self.metric} <= {high}"


def _scale(bound: float) -> float:
    return bound if 0 < bound < math.inf else 1.0


def quantity(metric: str, value: float) -> str:
    """A value as text, such as "7.4" or "2.15M", exactly; `parse_limits` reads it back."""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    unit = "" if metric in METRICS[:2] else next((s for s in "GMk" if value >= SUFFIXES[s]), "")
    sizes, exact = {unit: SUFFIXES.get(unit, 1), **({"Ki": 1024} if metric in METRICS[4:] else {})}, Decimal(repr(float(value)))
    text, unit = min(((f"{(exact / n).normalize():f}", unit) for unit, n in sizes.items()), key=lambda form: len(form[0]))
    return f"{text}.0" if metric in METRICS[:2] and len(text) == 1 else text + unit


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


Tables = Mapping[str, CostTable]  # by metric


class Budget(Protocol):
    """The limits of a search, and the costs that they are checked by: of a space's architectures, by tables, exactly.

    Genes are option indices: int64 [N, sites]. `LimitError` is raised where no architecture is found that meets the limits.
    """

    @property
    def limits(self) -> tuple[Limit, ...]: ...
    @property
    def latency(self) -> Any | None: ...  # what predicts latencies, if anything does
    def tables(self, space: SearchSpace) -> Tables: ...
    def count(self, architecture: Architecture) -> tuple[int, int]:
        """Parameters and multiply-adds of a whole network."""

    def met(self, space: SearchSpace, genes: np.ndarray) -> np.ndarray:
        """Which of these architectures meet all limits: bool [N]."""

    def sample(self, space: SearchSpace, rng: np.random.Generator, n: int, exclude: Iterable[bytes] = ()) -> np.ndarray:
        """Up to `n` distinct ones that meet them, drawn evenly, without those excluded (int64 bytes)."""

    def best(self, space: SearchSpace, gains: Sequence[np.ndarray]) -> np.ndarray:
        """The one of greatest total gain that meets them: int64 [sites]; `gains`: per site [options]."""

    def nearest(self, space: SearchSpace) -> np.ndarray:
        """The one that misses them least: int64 [1, sites]."""

    def by(self, tables: Callable[[SearchSpace], Tables]) -> Budget:
        """The same limits, checked by other tables."""

    def within(self, limits: Sequence[Limit]) -> Budget:
        """Other limits, checked by the same tables."""

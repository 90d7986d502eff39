"""The budget of a search (`hiernas.budget.Budget`): hard limits, checked by exact tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hiernas.budget import Limit, Tables
from hiernas.costs import limits
from hiernas.costs.count import cost
from hiernas.costs.tables import cost_tables
from hiernas.space import Architecture, SearchSpace


@dataclass(frozen=True)
class TableBudget:
    """Limits by the tables of each space; `latency`: a latency table (ours or a phone's), or None."""

    limits: tuple[Limit, ...]
    latency: Any | None = None
    own: Callable[[SearchSpace], Tables] | None = None  # tables in place of the space's

    def tables(self, space: SearchSpace) -> Tables:
        """Cost tables of a (restricted) space."""
        return cost_tables(space, self.latency) if self.own is None else self.own(space)

    def count(self, architecture: Architecture) -> tuple[int, int]:
        """Parameters and multiply-adds of a whole network."""
        found = cost(architecture)
        return found.params, found.macs

    def met(self, space: SearchSpace, genes: np.ndarray) -> np.ndarray:
        """Which architectures meet all limits: [N, sites] -> bool [N]."""
        return limits.satisfied(self.tables(space), self.limits, genes)

    def sample(self, space: SearchSpace, rng: np.random.Generator, n: int, exclude: Iterable[bytes] = ()) -> np.ndarray:
        """See `sample_feasible`."""
        return limits.sample_feasible(space, self.tables(space), self.limits, rng, n, exclude)

    def best(self, space: SearchSpace, gains: Sequence[np.ndarray]) -> np.ndarray:
        """See `best_within`."""
        return limits.best_within(space, self.tables(space), self.limits, gains)

    def nearest(self, space: SearchSpace) -> np.ndarray:
        """See `limits.nearest`."""
        return limits.nearest(space, self.tables(space), self.limits)[0]

    def by(self, tables: Callable[[SearchSpace], Tables]) -> TableBudget:
        """The same limits by other tables."""
        return replace(self, own=tables)

    def within(self, wanted: Sequence[Limit]) -> TableBudget:
        """Other limits by the same tables."""
        return replace(self, limits=tuple(wanted))

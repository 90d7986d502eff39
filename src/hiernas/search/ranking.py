"""Candidates, their non-dominated ranks, and the frequency of operations among the best ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hiernas.problem import Candidate, Frequency
from hiernas.space import SearchSpace


def objectives(candidates: Sequence[Candidate], metric: str) -> np.ndarray:
    """What is minimised: validation error and a cost, float64 [N, 2]."""
    rows = [(1.0 - c.val_accuracy, c.cost(metric)) for c in candidates]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def ranks(values: np.ndarray) -> np.ndarray:
    """Non-dominated rank of each row of [N, objectives]: 1 is the Pareto front (NSGA-II, Deb et al. 2002)."""
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    result = np.zeros(len(values), dtype=np.int64)
    if len(values):
        for rank, members in enumerate(NonDominatedSorting().do(values), 1):
            result[members] = rank
    return result


def pareto_front(candidates: Sequence[Candidate], metric: str) -> list[Candidate]:
    """The non-dominated candidates, from the cheapest to the most accurate; of equal pairs the first found."""
    front = [c for c, rank in zip(candidates, ranks(objectives(candidates, metric)), strict=True) if rank == 1]
    unique = {(c.val_accuracy, c.cost(metric)): c for c in reversed(front)}
    return sorted(unique.values(), key=lambda c: (c.cost(metric), -c.val_accuracy))


def most_accurate(candidates: Sequence[Candidate], metric: str) -> Candidate:
    """The candidate of highest accuracy; of those the cheapest."""
    return min(candidates, key=lambda c: (-c.val_accuracy, c.cost(metric), c.options))


def operation_frequency(
    candidates: Sequence[Candidate], space: SearchSpace, metric: str, rank_below: int = 10
) -> Frequency:
    """Share of each option per site among candidates of rank 1 .. rank_below - 1 (HNAS Algorithm 1, lines 4 to 6)."""
    chosen = [
        c for c, rank in zip(candidates, ranks(objectives(candidates, metric)), strict=True) if rank < rank_below
    ]
    return {
        d.name: {o: sum(c.options[j] == o for c in chosen) / len(chosen) for o in d.options}
        for j, d in enumerate(space.decisions)
    }


def at_least(frequency: Frequency, threshold: float) -> Mapping[str, list[str]]:
    """Options whose share is at least the threshold; a site where none is keeps its most frequent one."""
    kept = {}
    for site, shares in frequency.items():
        kept[site] = [o for o, p in shares.items() if p >= threshold] or [max(shares, key=lambda o: shares[o])]
    return kept

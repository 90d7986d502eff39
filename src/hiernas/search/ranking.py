"""Candidates: evaluated once and kept (`Ledger`), their non-dominated ranks, and operations among the best ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hiernas.budget import Tables
from hiernas.problem import Candidate, Frequency, Problem
from hiernas.space import Architecture, SearchSpace


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


def operation_frequency(candidates: Sequence[Candidate], space: SearchSpace, metric: str, rank_below: int = 10) -> Frequency:
    """Share of each option per site among candidates of rank 1 .. rank_below - 1 (HNAS Algorithm 1, lines 4 to 6)."""
    chosen = [c for c, rank in zip(candidates, ranks(objectives(candidates, metric)), strict=True) if rank < rank_below]
    return {
        d.name: {o: sum(c.options[j] == o for c in chosen) / len(chosen) for o in d.options}
        for j, d in enumerate(space.decisions)
    }


def at_least(frequency: Frequency, threshold: float) -> Mapping[str, list[str]]:
    """Options whose share is at least the threshold; a site where none is keeps its most frequent one."""
    return {
        site: [o for o, p in shares.items() if p >= threshold] or [max(shares, key=shares.__getitem__)]
        for site, shares in frequency.items()
    }


def candidate_of(space: SearchSpace, genes: np.ndarray, accuracy: float, tables: Tables) -> Candidate:
    """The candidate of genes [sites]."""
    costs = {name: float(table.of(genes[None])[0]) for name, table in tables.items()}
    return Candidate(space.decode(genes).options, accuracy, int(costs["params"]), int(costs["macs"]), costs.get("latency_ms"))


Evaluate = Callable[[Sequence[Architecture]], list[float]]


class Ledger:
    """Candidates of one phase by their options; an architecture is never evaluated twice, not even by a resumed run."""

    def __init__(self, space: SearchSpace, evaluate: Evaluate, metric: str, phase: str, problem: Problem) -> None:
        self.space, self._evaluate, self.metric, self.phase = space, evaluate, metric, phase
        self.run, self.tables = problem.run, problem.budget.tables(space)
        self.known = self.run.candidates(phase)  # also those a killed process evaluated
        self.found: dict[str, Candidate] = {}

    @property
    def candidates(self) -> list[Candidate]:
        return list(self.found.values())

    def evaluate(self, genes: np.ndarray) -> list[Candidate]:
        """The candidates of genes [n, sites]; only those not evaluated before are."""
        architectures = [self.space.decode(g) for g in genes]
        keys = [",".join(a.options) for a in architectures]
        new = {k: a for k, a in zip(keys, architectures, strict=True) if k not in self.known}
        with self.run.timed(self.phase):
            accuracies = self._evaluate(list(new.values())) if new else []
        self.known.update(zip(new, accuracies, strict=True))
        found = [candidate_of(self.space, g, self.known[k], self.tables) for k, g in zip(keys, genes, strict=True)]
        by_key = dict(zip(keys, found, strict=True))
        rows = [(k, c.val_accuracy, c.params, c.macs, c.latency_ms) for k, c in by_key.items() if k in new]
        self.run.add_candidates(self.phase, rows)
        self.found.update((k, c) for k, c in by_key.items() if k not in self.found)
        return found

    def report(self, generation: int, generations: int) -> None:
        values = {"best": max(c.val_accuracy for c in self.candidates), "evaluated": len(self.found)}
        self.run.event("generation", phase=self.phase, generation=generation, generations=generations, **values)

"""Evaluated candidates of one phase: asked once, and kept in the run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hiernas.problem import Candidate, Problem
from hiernas.space import Architecture, SearchSpace

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
        found = [self._candidate(k, g) for k, g in zip(keys, genes, strict=True)]
        pairs = zip(keys, found, strict=True)
        rows = [(k, c.val_accuracy, c.params, c.macs, c.latency_ms) for k, c in pairs if k in new]
        self.run.add_candidates(self.phase, rows)
        self.found.update((k, c) for k, c in zip(keys, found, strict=True) if k not in self.found)
        return found

    def recall(self, keys: Sequence[str]) -> None:
        """Take up candidates of earlier generations, in their order."""
        genes = [self.space.encode(self.space.architecture(k.split(","))) for k in keys]
        self.evaluate(np.array(genes, dtype=np.int64).reshape(len(keys), -1))

    def _candidate(self, key: str, genes: np.ndarray) -> Candidate:
        costs = {name: float(table.of(genes[None])[0]) for name, table in self.tables.items()}
        latency = costs.get("latency_ms")
        return Candidate(tuple(key.split(",")), self.known[key], int(costs["params"]), int(costs["macs"]), latency)

    def report(self, generation: int, generations: int) -> None:
        best = max(c.val_accuracy for c in self.candidates)
        self.run.event(
            "generation", phase=self.phase, generation=generation, generations=generations, best=best,
            evaluated=len(self.found),
        )  # fmt: skip

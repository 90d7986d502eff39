"""Constrained evolutionary search of HNAS (section 3.2) on pymoo's NSGA-II, by ask and tell.

Two-point crossover and polynomial mutation over option indices. Children that violate a limit are discarded
and drawn again, a bounded number of times; nothing else is thrown away: all are sorted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PolynomialMutation
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.problems.static import StaticProblem

Feasible = Callable[[np.ndarray], np.ndarray]  # int64 [n, sites] -> bool [n]
Genes = tuple[int, ...]


class _FeasibleAndNew(DuplicateElimination):  # type: ignore[misc] # pymoo has no types
    """Discards children that were evaluated before, stand twice among their kind, or violate a limit."""

    def __init__(self, feasible: Feasible, told: Mapping[Genes, None]) -> None:
        super().__init__()
        self.feasible, self.told = feasible, told

    def _do(self, pop: Any, other: Any, is_duplicate: np.ndarray) -> np.ndarray:
        genes = pop.get("X").astype(np.int64)
        seen = set(map(tuple, other.get("X").astype(np.int64).tolist())) if other is not None else set()
        for i, g in enumerate(map(tuple, genes.tolist())):
            is_duplicate[i] |= g in seen or g in self.told
            if other is None:
                seen.add(g)
        return is_duplicate | ~self.feasible(genes)


class ConstrainedNSGA2:
    """NSGA-II over genes [n, sites]; sites with one option left are no variables. It never asks anything twice."""

    MATINGS = 100  # of one generation, at the most, to replace discarded children
    ETA = 3  # of the mutation; at the usual 20 a gene of 3 options would round back to itself 998 times in 1000

    def __init__(
        self,
        sizes: np.ndarray,
        feasible: Feasible,
        initial: np.ndarray,
        population: int,
        rng: np.random.Generator,
    ) -> None:
        self.fixed, self.free = initial[:1].copy(), np.flatnonzero(sizes > 1)
        self.told: dict[Genes, None] = {}  # the free genes of everything evaluated so far
        upper = sizes[self.free] - 1
        self.problem = Problem(n_var=len(self.free), n_obj=2, xl=np.zeros_like(upper), xu=upper, vtype=int)
        mutation = PolynomialMutation(prob=1.0, prob_var=1 / len(self.free), eta=self.ETA, vtype=float, repair=RoundingRepair())
        self.algorithm = NSGA2(
            pop_size=population,
            sampling=initial[:, self.free],
            crossover=TwoPointCrossover(prob=0.9),
            mutation=mutation,
            eliminate_duplicates=_FeasibleAndNew(lambda x: feasible(self._genes(x)), self.told),
        )
        self.algorithm.mating.n_max_iterations = self.MATINGS
        self.algorithm.setup(self.problem, termination=("n_gen", 10**9), seed=int(rng.integers(2**31)), verbose=False)
        self.asked: Any = None

    def _genes(self, x: np.ndarray) -> np.ndarray:
        genes = np.repeat(self.fixed, len(x), axis=0)
        genes[:, self.free] = x
        return genes

    def ask(self) -> np.ndarray:
        """The next population's genes, int64 [n, sites]; empty when no new feasible child was found."""
        self.asked = self.algorithm.ask()
        if self.asked is None or len(self.asked) == 0:
            return np.zeros((0, self.fixed.shape[1]), dtype=np.int64)
        return self._genes(self.asked.get("X").astype(np.int64))

    def tell(self, genes: np.ndarray, values: np.ndarray) -> None:
        """The objectives [n, 2] of what was asked."""
        Evaluator().eval(StaticProblem(self.problem, F=values), self.asked)
        self.algorithm.tell(infills=self.asked)
        self.told.update(dict.fromkeys(map(tuple, genes[:, self.free].tolist())))

    @property
    def state(self) -> dict[str, Any]:
        """Everything the next generation depends on, as JSON; infinite crowding distances as text."""
        pop, algorithm = self.algorithm.pop, self.algorithm
        return {
            "told": [list(g) for g in self.told],
            "genes": pop.get("X").astype(np.int64).tolist(),
            "values": pop.get("F").tolist(),
            "rank": [int(r) for r in pop.get("rank")],
            "crowding": [repr(float(c)) for c in pop.get("crowding")],
            "iteration": algorithm.n_iter,
            "evaluations": algorithm.evaluator.n_eval,
            "rng": algorithm.random_state.bit_generator.state,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next `ask` gives the same children, bit for bit."""
        algorithm = self.algorithm
        pop = Population.new(X=np.array(state["genes"]))
        Evaluator().eval(StaticProblem(self.problem, F=np.array(state["values"])), pop)
        pop.set("rank", state["rank"])
        pop.set("crowding", [float(c) for c in state["crowding"]])
        algorithm.pop = pop
        self.told.update((tuple(g), None) for g in state["told"])
        algorithm._set_optimum()
        algorithm.start_time = time.time()
        algorithm.is_initialized = True
        algorithm.n_iter, algorithm.evaluator.n_eval = state["iteration"], state["evaluations"]
        algorithm.random_state.bit_generator.state = state["rng"]

"""One-shot search: a supernet is trained by uniform single paths, and then searched by evolution under hard limits.

Evolutions are HNAS' constrained search on NSGA-II, that of SPOS, and random search. Each is an object with
`ask() -> genes`, int64 [n, sites], empty when nothing new can be found, `tell(genes, objectives)`, [n, 2], minimised, and a
JSON `state`; `evolve` drives it, evaluates what is new, keeps every candidate in the run folder, and goes on where a killed
run stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator as Told
from pymoo.core.population import Population
from pymoo.core.problem import Problem as Variables
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PolynomialMutation
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.problems.static import StaticProblem

from hiernas.budget import Budget
from hiernas.errors import LimitError
from hiernas.gates import uniform_path
from hiernas.problem import Candidate, Problem
from hiernas.randomness import numpy_generator
from hiernas.search.ranking import Evaluate, Ledger, objectives
from hiernas.space import SearchSpace
from hiernas.train.recipes import Phase

LOOKS = 10  # at the validation accuracy during a training
MONITORED = 4  # architectures whose mean accuracy is that of the supernet
EXHAUSTIVE = 200_000  # architectures that are enumerated at the most
PIECE = 64  # architectures evaluated between two saves of an enumeration

Feasible = Callable[[np.ndarray], np.ndarray]  # int64 [n, sites] -> bool [n]
Genes = tuple[int, ...]


def train_supernet(supernet: Any, problem: Problem, phase: Phase, config: Any) -> None:
    """One training by uniform single paths (SPOS), in place; the accuracy of a few fixed paths is watched.

    `config`, here and below: HNAS', or another with the same names.
    """
    space, rng = supernet.space, numpy_generator(problem.seed, "monitor")
    evaluate = problem.trainer.evaluator(supernet, config.train, config.calibration_images)
    watched = [space.sample(rng) for _ in range(MONITORED)]
    every = math.ceil(phase.epochs / LOOKS)

    def validate(epoch: int) -> float | None:
        looks = epoch % every == 0 or epoch == phase.epochs
        return float(np.mean(evaluate(watched))) if looks else None

    gates = partial(uniform_path, space)
    problem.trainer.fit(supernet, problem.data.train, phase, config.train, draw_gates=gates, validate=validate)


def search_supernet(supernet: Any, problem: Problem, phase: str, config: Any) -> list[Candidate]:
    """All candidates that a search of this supernet under the limits evaluated."""
    evaluate = problem.trainer.evaluator(supernet, config.train, config.calibration_images)
    return evolve(supernet.space, evaluate, problem, phase, config)


def evolve(space: SearchSpace, evaluate: Evaluate, problem: Problem, phase: str, config: Any) -> list[Candidate]:
    """All feasible candidates evaluated, in the order found, by an evolution "ces" (NSGA-II, HNAS), "spos" or "random".

    Raises `LimitError` where no architecture of the space is found that meets the limits.
    """
    metric, generations, run = config.objective, config.generations, problem.run
    ledger = Ledger(space, evaluate, metric, phase, problem)
    everything = _small_space(space, problem.budget, config.population * (generations + 1))
    if everything is not None:
        pieces = np.array_split(everything, -(-len(everything) // PIECE))
        for i, piece in enumerate(pieces, 1):
            ledger.evaluate(piece)
            ledger.report(i, len(pieces))
        return ledger.candidates
    algorithm = start(space, problem.budget, config, numpy_generator(problem.seed, phase))
    file = f"checkpoint/{phase}.json"
    saved, begun = run.read_json(file), 0
    if saved is not None:
        with run.fitting(file):
            algorithm.restore(saved["state"])
            algorithm.ask()  # what cannot be gone on from is refused
            algorithm.restore(saved["state"])
            begun, seen = int(saved["generation"]), [space.encode(space.architecture(k.split(","))) for k in saved["seen"]]
        ledger.evaluate(np.array(seen, dtype=np.int64).reshape(len(seen), -1))  # in their order
    for generation in range(begun + 1, generations + 2):  # 1 is the initial population
        genes = algorithm.ask()
        if len(genes) == 0:
            break
        algorithm.tell(genes, objectives(ledger.evaluate(genes), metric))
        ledger.report(generation, generations + 1)  # before it is saved: a kill between the two loses none
        run.write_json(file, {"generation": generation, "seen": list(ledger.found), "state": algorithm.state})
    return ledger.candidates


def _small_space(space: SearchSpace, budget: Budget, most: int) -> np.ndarray | None:
    """All feasible genes of a space where they are so many at most, otherwise None."""
    if space.size() > EXHAUSTIVE:
        return None
    genes = space.all_encoded()
    feasible = genes[budget.met(space, genes)]
    if len(feasible) == 0:
        raise LimitError(f"none of the {space.size()} architectures left in '{space.name}' meets the limits")
    return feasible if len(feasible) <= most else None


def start(
    space: SearchSpace, budget: Budget, config: Any, rng: np.random.Generator
) -> RandomSearch | SposEvolution | ConstrainedNSGA2:
    """The named algorithm with its initial population of feasible architectures."""
    feasible, sample = partial(budget.met, space), partial(budget.sample, space, rng)
    sizes = np.array([len(d.options) for d in space.decisions])
    if config.evolution == "random":
        return RandomSearch(sample, config.population, rng)
    initial = sample(config.population, set())
    if len(initial) == 0:
        raise LimitError(f"no architecture of '{space.name}' that meets the limits was found; widen them")
    if config.evolution == "spos":
        return SposEvolution(sizes, feasible, sample, initial, config.population, rng)
    return ConstrainedNSGA2(sizes, feasible, initial, config.population, rng)


class RandomSearch:
    """New uniform feasible architectures each generation: the control with the same number of evaluations."""

    def __init__(self, sample: Callable[[int, set[bytes]], np.ndarray], population: int, rng: np.random.Generator) -> None:
        self.sample, self.population, self.rng = sample, population, rng
        self.seen: list[list[int]] = []

    def ask(self) -> np.ndarray:
        return self.sample(self.population, {np.array(g, dtype=np.int64).tobytes() for g in self.seen})

    def tell(self, genes: np.ndarray, values: np.ndarray) -> None:
        self.seen += genes.tolist()

    @property
    def state(self) -> dict[str, Any]:
        return {"seen": self.seen, "rng": self.rng.bit_generator.state}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.seen = [list(g) for g in state["seen"]]
        self.rng.bit_generator.state = state["rng"]


class SposEvolution:
    """The evolution of single-path one-shot search (Guo et al. 2020), the alternative of HNAS' Fig. 7.

    The ten most accurate so far are parents; half of the next population are their mutations (each site with
    probability 0.1), half uniform crossovers, the rest random; whatever violates a limit is drawn again.
    """

    PARENTS, MUTATION, TRIES = 10, 0.1, 100

    def __init__(
        self, sizes: np.ndarray, feasible: Feasible, sample: Callable[[int, set[bytes]], np.ndarray], initial: np.ndarray,
        population: int, rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.sizes, self.feasible, self.sample = sizes, feasible, sample
        self.population, self.rng, self.initial = population, rng, initial
        self.errors: dict[tuple[int, ...], float] = {}  # of everything told so far

    def ask(self) -> np.ndarray:
        if not self.errors:
            return self.initial
        parents = np.array(sorted(self.errors, key=lambda g: (self.errors[g], g))[: self.PARENTS], dtype=np.int64)
        half = self.population // 2
        children: dict[tuple[int, ...], None] = {}
        self._fill(children, half, lambda: self._mutated(parents))
        self._fill(children, self.population, lambda: self._crossed(parents))
        missing = self.population - len(children)
        if missing:
            known = {np.array(g, dtype=np.int64).tobytes() for g in (*self.errors, *children)}
            children.update((tuple(g), None) for g in self.sample(missing, known).tolist())
        return np.array(list(children), dtype=np.int64).reshape(len(children), len(self.sizes))

    def _fill(self, children: dict[tuple[int, ...], None], n: int, draw: Callable[[], np.ndarray]) -> None:
        for _ in range(self.TRIES):
            batch = draw()
            for genes in batch[self.feasible(batch)].tolist():
                if len(children) < n and tuple(genes) not in self.errors:
                    children[tuple(genes)] = None
            if len(children) >= n:
                return

    def _mutated(self, parents: np.ndarray) -> np.ndarray:
        chosen = parents[self.rng.integers(len(parents), size=self.population)]
        mutate = self.rng.random(chosen.shape) < self.MUTATION
        return np.where(mutate, self.rng.integers(self.sizes, size=chosen.shape), chosen)

    def _crossed(self, parents: np.ndarray) -> np.ndarray:
        first, second = (parents[self.rng.integers(len(parents), size=self.population)] for _ in range(2))
        return np.where(self.rng.random(first.shape) < 0.5, first, second)

    def tell(self, genes: np.ndarray, values: np.ndarray) -> None:
        self.errors.update((tuple(g), float(v)) for g, v in zip(genes.tolist(), values[:, 0], strict=True))

    @property
    def state(self) -> dict[str, Any]:
        return {"errors": [[list(g), e] for g, e in self.errors.items()], "rng": self.rng.bit_generator.state}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.errors = {tuple(g): e for g, e in state["errors"]}
        self.rng.bit_generator.state = state["rng"]


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
    """Constrained evolutionary search of HNAS (section 3.2): pymoo's NSGA-II over genes [n, sites], by ask and tell.

    Two-point crossover and polynomial mutation over option indices; sites with one option left are no variables. Children
    that violate a limit are discarded and drawn again, a bounded number of times; nothing else is thrown away: all are
    sorted. It never asks anything twice.
    """

    MATINGS = 100  # of one generation, at the most, to replace discarded children
    ETA = 3  # of the mutation; at the usual 20 a gene of 3 options would round back to itself 998 times in 1000

    def __init__(
        self, sizes: np.ndarray, feasible: Feasible, initial: np.ndarray, population: int, rng: np.random.Generator
    ) -> None:
        self.fixed, self.free = initial[:1].copy(), np.flatnonzero(sizes > 1)
        self.told: dict[Genes, None] = {}  # the free genes of everything evaluated so far
        upper = sizes[self.free] - 1
        self.problem = Variables(n_var=len(self.free), n_obj=2, xl=np.zeros_like(upper), xu=upper, vtype=int)
        mutation = PolynomialMutation(prob=1.0, prob_var=1 / len(self.free), eta=self.ETA, vtype=float, repair=RoundingRepair())
        self.algorithm = NSGA2(
            pop_size=population, sampling=initial[:, self.free], crossover=TwoPointCrossover(prob=0.9), mutation=mutation,
            eliminate_duplicates=_FeasibleAndNew(lambda x: feasible(self._genes(x)), self.told),
        )  # fmt: skip
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
        Told().eval(StaticProblem(self.problem, F=values), self.asked)
        self.algorithm.tell(infills=self.asked)
        self.told.update(dict.fromkeys(map(tuple, genes[:, self.free].tolist())))

    @property
    def state(self) -> dict[str, Any]:
        """Everything the next generation depends on, as JSON; infinite crowding distances as text."""
        pop, algorithm = self.algorithm.pop, self.algorithm
        return {
            "told": [list(g) for g in self.told], "genes": pop.get("X").astype(np.int64).tolist(),
            "values": pop.get("F").tolist(), "rank": [int(r) for r in pop.get("rank")],
            "crowding": [repr(float(c)) for c in pop.get("crowding")], "iteration": algorithm.n_iter,
            "evaluations": algorithm.evaluator.n_eval, "rng": algorithm.random_state.bit_generator.state,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next `ask` gives the same children, bit for bit."""
        algorithm = self.algorithm
        if len({len(state[key]) for key in ("genes", "values", "rank", "crowding")}) > 1:  # pymoo's error has no kind
            raise ValueError("not as many values as genes")
        pop = Population.new(X=np.array(state["genes"], dtype=np.int64))
        Told().eval(StaticProblem(self.problem, F=np.array(state["values"]).reshape(-1, 2)), pop)
        pop.set("rank", state["rank"], "crowding", [float(c) for c in state["crowding"]])
        algorithm.pop = pop
        self.told.update((tuple(g), None) for g in state["told"])
        algorithm._set_optimum()
        algorithm.start_time = time.time()
        algorithm.is_initialized = True
        algorithm.n_iter, algorithm.evaluator.n_eval = state["iteration"], state["evaluations"]
        algorithm.random_state.bit_generator.state = state["rng"]

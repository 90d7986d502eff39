"""One-shot search in two steps: train a supernet by uniform single paths, then search it under the limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hiernas.gates import Gates, uniform_path
from hiernas.randomness import numpy_generator, seeded
from hiernas.search.evaluate import Evaluator, batch_for
from hiernas.search.evolution import Effort, evolve
from hiernas.search.problem import Problem
from hiernas.search.ranking import Candidate
from hiernas.space import SearchSpace
from hiernas.supernet.chain import ChainSupernet
from hiernas.train.loop import fit, make_fabric
from hiernas.train.recipes import Phase, Recipe

LOOKS = 10  # at the validation accuracy during a training
MONITORED = 4  # architectures whose mean accuracy is that of the supernet


def fresh_supernet(space: SearchSpace, seed: int) -> ChainSupernet:
    """A supernet with random weights."""
    with seeded(seed, "supernet"):
        supernet = space.supernet()
    if not isinstance(supernet, ChainSupernet):
        raise TypeError(f"single-path search needs a chain space; '{space.name}' is none")
    return supernet


def train_supernet(
    supernet: ChainSupernet, problem: Problem, phase: Phase, recipe: Recipe, calibration_images: int
) -> None:
    """One training by uniform single paths (SPOS), in place; the accuracy of a few fixed paths is watched."""
    space = supernet.space
    evaluate = make_evaluator(supernet, problem, recipe, calibration_images)
    fit(
        supernet,
        problem.data.train,
        problem.data,
        phase,
        recipe,
        seed=problem.seed,
        run=problem.run,
        draw_gates=_uniform(space),
        validate=_monitor(space, evaluate, phase, problem.seed),
    )


def _uniform(space: SearchSpace) -> Callable[[np.random.Generator], Gates]:
    return lambda rng: uniform_path(space, rng)


def _monitor(space: SearchSpace, evaluate: Evaluator, phase: Phase, seed: int) -> Callable[[int], float | None]:
    rng = numpy_generator(seed, "monitor")
    watched = [space.sample(rng) for _ in range(MONITORED)]
    every = math.ceil(phase.epochs / LOOKS)

    def validate(epoch: int) -> float | None:
        looks = epoch % every == 0 or epoch == phase.epochs
        return float(np.mean(evaluate(watched))) if looks else None

    return validate


def search_supernet(
    supernet: ChainSupernet,
    problem: Problem,
    phase: str,
    effort: Effort,
    metric: str,
    recipe: Recipe,
    calibration_images: int,
) -> list[Candidate]:
    """All candidates that a search of this supernet under the limits evaluated."""
    space = supernet.space
    return evolve(
        space,
        make_evaluator(supernet, problem, recipe, calibration_images),
        problem.tables(space),
        problem.limits,
        effort,
        metric=metric,
        phase=phase,
        run=problem.run,
        seed=problem.seed,
    )


def make_evaluator(supernet: ChainSupernet, problem: Problem, recipe: Recipe, calibration_images: int) -> Evaluator:
    """Validation accuracy of architectures with this supernet's weights, on the recipe's device."""
    fabric, batch = make_fabric(recipe), batch_for(supernet.space)
    return Evaluator(
        supernet, problem.data, fabric, seed=problem.seed, calibration_images=calibration_images, batch_size=batch
    )

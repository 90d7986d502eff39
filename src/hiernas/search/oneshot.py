"""One-shot search in two steps: train a supernet by uniform single paths, then search it under the limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hiernas.gates import uniform_path
from hiernas.problem import Candidate, Evaluator, Problem
from hiernas.randomness import numpy_generator
from hiernas.search.evolution import Effort, evolve
from hiernas.space import SearchSpace
from hiernas.train.recipes import Phase, Recipe

LOOKS = 10  # at the validation accuracy during a training
MONITORED = 4  # architectures whose mean accuracy is that of the supernet


def train_supernet(supernet: Any, problem: Problem, phase: Phase, recipe: Recipe, calibration_images: int) -> None:
    """One training by uniform single paths (SPOS), in place; the accuracy of a few fixed paths is watched."""
    space = supernet.space
    evaluate = problem.trainer.evaluator(supernet, recipe, calibration_images)
    problem.trainer.fit(
        supernet, problem.data.train, phase, recipe, draw_gates=lambda rng: uniform_path(space, rng),
        validate=_monitor(space, evaluate, phase, problem.seed),
    )  # fmt: skip


def _monitor(space: SearchSpace, evaluate: Evaluator, phase: Phase, seed: int) -> Callable[[int], float | None]:
    rng = numpy_generator(seed, "monitor")
    watched = [space.sample(rng) for _ in range(MONITORED)]
    every = math.ceil(phase.epochs / LOOKS)

    def validate(epoch: int) -> float | None:
        looks = epoch % every == 0 or epoch == phase.epochs
        return float(np.mean(evaluate(watched))) if looks else None

    return validate


def search_supernet(
    supernet: Any, problem: Problem, phase: str, effort: Effort, metric: str, recipe: Recipe, calibration_images: int
) -> list[Candidate]:
    """All candidates that a search of this supernet under the limits evaluated."""
    evaluate = problem.trainer.evaluator(supernet, recipe, calibration_images)
    return evolve(supernet.space, evaluate, problem, effort, metric=metric, phase=phase)

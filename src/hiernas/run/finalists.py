"""The last step of a search: its best candidates are trained, and the best of those is taken.

Accuracies in a supernet put networks in a rough order; of a few networks at its top the best one is closer to the best of
all than the first one is. Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): all of them are trained
briefly, the better half for twice as long, until one is left. Each training is from scratch, on the training images
alone, and is judged on the validation images.
"""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from typing import Any

from hiernas.problem import Candidate, Found, Problem, rungs
from hiernas.randomness import seeded
from hiernas.search.ranking import pareto_front
from hiernas.train.recipes import Phase, Recipe
from hiernas.train.retraining import Retraining

FILE = "checkpoint/finalists.json"


def best_of(problem: Problem, found: Found, config: Any, final: Retraining) -> Found:
    """What was found with the best finalist chosen; as it is where the configuration asks for one.

    A network that was trained before the run was cut off is not trained again. Networks that nothing was known of
    (`random-k`) have the accuracy after their longest training.
    """
    steps = rungs(getattr(config, "finalists", 1), getattr(config, "finalist_epochs", 1), final.epochs)
    if not steps or len(found.candidates) < 2:
        return found
    unknown = any(isnan(c.val_accuracy) for c in found.candidates)
    ordered = found.candidates if unknown else sorted(found.candidates, key=lambda c: (-c.val_accuracy, c.options))
    left = list(ordered[: steps[0][0]])
    reached: dict[Candidate, list[tuple[int, float]]] = {c: [] for c in left}
    known, number = problem.run.read_json(FILE) or {}, 0
    for networks, epochs in steps:
        left = left[:networks]
        for candidate in left:
            number += 1
            phase = f"brief{number}"
            if phase not in known:
                known[phase] = _accuracy(problem, found, candidate, Phase(phase, epochs, final.lr), final.recipe, config)
                problem.run.write_json(FILE, known)
            reached[candidate].append((epochs, known[phase]))
        left.sort(key=lambda c: -reached[c][-1][1])  # equal ones stay in their order
    placed = sorted(reached, key=lambda c: (-len(reached[c]), -reached[c][-1][1]))
    rows = [{"options": list(c.options), "trained": [list(step) for step in reached[c]]} for c in placed]
    details = {**found.details, "finalists": rows}
    if not unknown:
        return replace(found, chosen=placed[0], details=details)
    judged = tuple(replace(c, val_accuracy=reached[c][-1][1]) for c in placed)
    front = tuple(pareto_front(judged, config.objective))
    return replace(found, candidates=judged, front=front, chosen=judged[0], details=details)


def _accuracy(problem: Problem, found: Found, candidate: Candidate, phase: Phase, recipe: Recipe, config: Any) -> float:
    """Of a network on the validation images, after a training on the training images, with statistics of its own."""
    with seeded(problem.seed, phase.name, "network"):
        network = found.space.architecture(candidate.options).build()
    problem.trainer.fit(network, problem.data.train, phase, recipe)
    evaluator = problem.trainer.evaluator(None, recipe, config.calibration_images, paths=False)
    evaluator.calibrate(network.cpu())
    return evaluator.accuracy(network)

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

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from hiernas.data.batches import normalise
from hiernas.networks.ops import ACTIVATIONS
from hiernas.problem import Candidate, Found, Problem, rungs
from hiernas.randomness import seeded
from hiernas.search.ranking import pareto_front
from hiernas.train.recipes import Phase, Recipe
from hiernas.train.retraining import Retraining

FILE, PRIOR = "checkpoint/finalists.json", "checkpoint/prior.json"
IMAGES = 128  # of NASWOT, as published


def best_of(problem: Problem, found: Found, config: Any, final: Retraining) -> Found:
    """What was found with the best finalist chosen; as it is where the configuration asks for one, and for no prior.

    A network that was trained before the run was cut off is not trained again. Networks that nothing was known of
    (`random-k`) have the accuracy after their longest training.
    """
    steps = rungs(getattr(config, "finalists", 1), getattr(config, "finalist_epochs", 1), final.epochs)
    prior = getattr(config, "prior", "none")
    if (not steps and prior == "none") or len(found.candidates) < 2:
        return found
    ordered = _promising(problem, found, prior)
    if not steps:
        return replace(found, chosen=ordered[0])
    left = ordered[: steps[0][0]]
    reached: dict[Candidate, list[tuple[int, float]]] = {c: [] for c in left}
    known, number = problem.run.read_json(FILE, dict[str, float]) or {}, 0
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
    if not any(isnan(c.val_accuracy) for c in placed):
        return replace(found, chosen=placed[0], details=details)
    judged = tuple(replace(c, val_accuracy=reached[c][-1][1]) for c in placed)
    front = tuple(pareto_front(judged, config.objective))
    return replace(found, candidates=judged, front=front, chosen=judged[0], details=details)


def _promising(problem: Problem, found: Found, prior: str) -> list[Candidate]:
    """The candidates, the best first: by accuracy or, with a prior, by the sum of the ranks by both; drawn ones as drawn."""
    candidates = found.candidates
    accuracies = np.array([c.val_accuracy for c in candidates])
    if np.isnan(accuracies).any():
        return list(candidates)
    scores = accuracies
    if prior == "naswot":
        with problem.run.timed("prior"):
            scores = rankdata(accuracies) + rankdata(_naswot(problem, found))
    order = sorted(range(len(candidates)), key=lambda i: (-scores[i], candidates[i].options))
    return [candidates[i] for i in order]


def _naswot(problem: Problem, found: Found) -> list[float]:
    """Of each candidate with its random weights, on the same training images."""
    data = problem.data
    images = normalise(data.train.images.fetch(torch.arange(min(IMAGES, len(data.train)))), data, torch.device("cpu"))
    scores: dict[str, float] = problem.run.read_json(PRIOR, dict[str, float]) or {}
    for candidate in found.candidates:
        key = ",".join(candidate.options)
        if key not in scores:
            with seeded(problem.seed, "naswot"):
                network = found.space.architecture(candidate.options).build()
            scores[key] = naswot(network, images)
    problem.run.write_json(PRIOR, scores)
    return [scores[",".join(c.options)] for c in found.candidates]


def _accuracy(problem: Problem, found: Found, candidate: Candidate, phase: Phase, recipe: Recipe, config: Any) -> float:
    """Of a network on the validation images, after a training on the training images, with statistics of its own."""
    with seeded(problem.seed, phase.name, "network"):
        network = found.space.architecture(candidate.options).build()
    problem.trainer.fit(network, problem.data.train, phase, recipe)
    evaluator = problem.trainer.evaluator(None, recipe, config.calibration_images, paths=False)
    evaluator.calibrate(network.cpu())
    return evaluator.accuracy(network)


@torch.no_grad()
def naswot(network: nn.Module, images: Tensor) -> float:
    """NASWOT of an untrained network (Mellor et al. 2021, arXiv 2006.04647): the logarithm of |det K|.

    K counts, for each pair of images [B, C, H, W], the units on which their activations agree. The more a network tells images
    apart at its start, the higher it is. Batch norms normalise by these images, and those whose scale starts at zero by one, as
    their branches would be dead.
    """
    kernel = images.new_zeros(len(images), len(images), dtype=torch.float64)

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        on = (inputs[0] > 0).flatten(1).float()
        kernel.add_((on @ on.T + (1 - on) @ (1 - on).T).double())

    kinds = tuple(dict.fromkeys(ACTIVATIONS.values()))
    hooks = [m.register_forward_pre_hook(count) for m in network.modules() if isinstance(m, kinds)]
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.affine and not m.weight.any()):
        nn.init.ones_(norm.weight)
    try:
        network.train()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return float(torch.linalg.slogdet(kernel).logabsdet)

"""The last step of a search: its best candidates are trained, and the best of those is taken.

Accuracies in a supernet put networks in a rough order. What NASWOT says of them before any training can stand beside them,
and a linear predictor takes the noise out of both. Of a few networks at the top the best one is closer to the best of all
than the first one is. Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): all of them are trained
briefly, the better half for twice as long, until one is left. Each training is from scratch, on the training images
alone, and is judged on the validation images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, isnan, nan, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiernas import ranks
from hiernas.data import normalise
from hiernas.errors import LimitError
from hiernas.networks.ops import ACTIVATIONS
from hiernas.problem import Candidate, Found, Problem, rungs
from hiernas.randomness import numpy_generator, seeded
from hiernas.search.ranking import Ledger, candidate_of, pareto_front
from hiernas.space import SearchSpace
from hiernas.train.loop import make_fabric
from hiernas.train.recipes import Phase, Recipe
from hiernas.train.retraining import Retraining

FILE, PRIOR, PREDICTED = (f"checkpoint/{name}.json" for name in ("finalists", "prior", "predicted"))
IMAGES = 128  # of NASWOT, as published
LARGE = 3 * 96**2  # values of an image from which on there are fewer, as all activations are kept at once
RIDGE = 1.0  # beside as many networks as have an option
POOL = 5_000  # networks that a predictor looks at


def best_of(problem: Problem, found: Found, config: Any, final: Retraining) -> Found:
    """What was found with the best finalist chosen; as it is where the configuration asks for none of it.

    A network that was trained before the run was cut off is not trained again. Networks that nothing was known of
    (`random-k`, `naswot`) have the accuracy after their longest training.
    """
    steps = rungs(getattr(config, "finalists", 1), getattr(config, "finalist_epochs", 1), final.epochs)
    prior, predictor = getattr(config, "prior", "none"), getattr(config, "predictor", "none")
    if (not steps and prior == predictor == "none") or len(found.candidates) < 2:
        return found
    found = _in_order(problem, found, config.objective, prior, predictor, steps[0][0] if steps else 1, final.recipe)
    if not steps:
        return replace(found, chosen=found.candidates[0])
    saved = problem.run.read_json(FILE) or {"order": [list(c.options) for c in found.candidates[: steps[0][0]]], "reached": {}}
    with problem.run.fitting(FILE):  # in the order in which they were begun
        candidates = {c.options: c for c in found.candidates}
        left, known = [candidates[tuple(options)] for options in saved["order"]], dict[str, float](saved["reached"])
    reached: dict[Candidate, list[tuple[int, float]]] = {c: [] for c in left}
    number = 0
    for networks, epochs in steps:
        left = left[:networks]
        for candidate in left:
            number += 1
            phase = f"brief{number}"
            if phase not in known:
                known[phase] = _accuracy(problem, found, candidate, Phase(phase, epochs, final.lr), final.recipe, config)
                problem.run.write_json(FILE, {"order": saved["order"], "reached": known})
            reached[candidate].append((epochs, known[phase]))
        left.sort(key=lambda c: -reached[c][-1][1])  # equal ones stay in their order
    placed = sorted(reached, key=lambda c: (-len(reached[c]), -reached[c][-1][1]))
    rows = [{"options": list(c.options), "trained": [list(step) for step in reached[c]]} for c in placed]
    details = {**found.details, "finalists": rows}
    if not any(isnan(c.val_accuracy) for c in placed):
        return replace(found, chosen=placed[0], details=details)
    judged = tuple(replace(c, val_accuracy=reached[c][-1][1]) for c in placed)
    front, others = tuple(pareto_front(judged, config.objective)), tuple(c for c in found.candidates if c not in reached)
    return replace(found, candidates=(*judged, *others), front=front, chosen=judged[0], details=details)


def _in_order(problem: Problem, found: Found, metric: str, prior: str, predictor: str, wanted: int, recipe: Recipe) -> Found:
    """What was found with its candidates in order, the best first: by accuracy or, with a prior, by the sum of the ranks by
    both, or by a predictor; drawn ones as drawn. A predictor adds the `wanted` networks that it puts first."""
    accuracies = np.array([c.val_accuracy for c in found.candidates])
    known = [] if np.isnan(accuracies).any() else [accuracies]
    if prior == "naswot":
        with problem.run.timed("prior"):
            known.append(np.array(_naswot(problem, found, make_fabric(recipe).device)))
    if not known:
        return found
    if predictor == "linear":
        return _predicted(problem, found, metric, sum((x - x.mean()) / (x.std() or 1.0) for x in known), wanted)
    both = [np.searchsorted(np.sort(x), x) + np.searchsorted(np.sort(x), x, "right") for x in known]  # ranks, ties shared
    scores = known[0] if len(known) == 1 else np.sum(both, axis=0)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], found.candidates[i].options))
    ordered = tuple(found.candidates[i] for i in order)
    return replace(found, candidates=ordered, front=ordered[:1] if isnan(ordered[0].val_accuracy) else found.front)


def _predicted(problem: Problem, found: Found, metric: str, scores: Any, wanted: int) -> Found:
    """The candidates, and the networks within the limits that a sum of effects puts first, in its order.

    It is asked for the best network of the space, exactly, for all that differ from that one in a single layer, and for
    `POOL` drawn ones. Those that are new are judged by the supernet, if there is one.
    """
    seen = {d.name: [o for o in d.options if any(c.options[i] == o for c in found.candidates)]
            for i, d in enumerate(found.space.decisions)}  # fmt: skip
    space, budget = found.space.restrict(seen), problem.budget
    genes = np.array([space.encode(space.architecture(c.options)) for c in found.candidates])
    gains, certainty = effects(genes, scores, [len(d.options) for d in space.decisions])
    first = problem.run.read_json(PREDICTED, list[list[int]])  # a solver that is stopped by the clock may find another best
    if first is None:
        pool = np.unique(np.concatenate([genes, _near_best(problem, space, gains)]), axis=0)
        first = sorted(pool.tolist(), key=lambda row: (-_sum(gains, row), row))[:wanted]
        problem.run.write_json(PREDICTED, first)
    taken = {c.options: c for c in found.candidates}
    new = np.array([row for row in first if space.decode(row).options not in taken]).reshape(-1, len(gains))
    if found.judge is None:
        added = [candidate_of(space, row, nan, budget.tables(space)) for row in new]
    else:
        added = Ledger(space, found.judge, metric, "predicted", problem).evaluate(new)
    every = [(_sum(gains, row), c) for row, c in zip([*genes, *new], [*found.candidates, *added], strict=True)]
    ordered = tuple(c for _, c in sorted(every, key=lambda pair: (-pair[0], pair[1].options)))
    known = [c for c in ordered if not isnan(c.val_accuracy)]
    front = tuple(pareto_front(known, metric)) if known else ordered[:1]
    details = {**found.details, "predictor": {"networks": len(genes), "added": len(new), "r2": certainty}}
    return replace(found, candidates=ordered, front=front, details=details)


def _near_best(problem: Problem, space: SearchSpace, gains: list[np.ndarray]) -> np.ndarray:
    """Networks within the limits that are to be asked for beside the candidates: int64 [N, sites]."""
    drawn = problem.budget.sample(space, numpy_generator(problem.seed, "predictor"), POOL)
    try:
        best = problem.budget.best(space, gains)
    except LimitError:  # found none in its time; the candidates meet the limits
        return drawn
    options = [(i, option) for i, d in enumerate(space.decisions) for option in range(len(d.options))]
    changed = np.array([[*best[:i], option, *best[i + 1 :]] for i, option in options])
    return np.concatenate([changed[problem.budget.met(space, changed)], drawn])


def effects(genes: np.ndarray, scores: np.ndarray, options: Sequence[int]) -> tuple[list[np.ndarray], float]:
    """How much each option of each site adds to a score, per site [options], and R^2 of networks that were left out.

    Ridge regression on genes [N, sites], one variable for each of `options` per site. What a layer is worth is learned from
    all networks that have it, so that the noise of single scores is averaged out.
    """
    x = np.concatenate([np.eye(n)[column] for n, column in zip(options, genes.T, strict=True)], axis=1)
    x, y = x - x.mean(0), scores - scores.mean()
    solve = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T)
    weights = solve @ y
    leverage = np.einsum("ij,ji->i", x, solve) + 1 / len(y)
    left_out = (y - x @ weights) / np.maximum(1 - leverage, 1e-9)  # the error for a network that was not learned from
    return np.split(weights, np.cumsum(options)[:-1]), float(1 - (left_out**2).mean() / (y.var() or 1.0))


def _sum(gains: Sequence[np.ndarray], row: Sequence[int]) -> float:
    return float(sum(of_site[option] for of_site, option in zip(gains, row, strict=True)))


@ranks.told
def _naswot(problem: Problem, found: Found, device: torch.device) -> list[float]:
    """Of each candidate with its random weights, on the same training images."""
    data = problem.data
    wanted = min(IMAGES, len(data.train), max(16, IMAGES * LARGE // prod(data.input_size)))
    pixels = data.train.images.fetch(torch.linspace(0, len(data.train) - 1, wanted).long())  # folders are in order of class
    images = normalise(torch.unique(pixels, dim=0), data, device)
    scores: dict[str, float] = problem.run.read_json(PRIOR, dict[str, float]) or {}
    for candidate in found.candidates:
        key = ",".join(candidate.options)
        if key not in scores:
            with seeded(problem.seed, "naswot"):
                network = found.space.architecture(candidate.options).build()
            scores[key] = naswot(network.to(device), images)
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
    their branches would be dead. Two images that it cannot tell apart at all count as one unit apart.
    """
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        on = (inputs[0] > 0).flatten(1).float()
        counts = on.sum(1).cpu().double()
        kernel.add_(2 * (on @ on.T).cpu().double() - counts - counts[:, None] + on.shape[1])  # on in both, and off in both

    kinds = tuple(dict.fromkeys(ACTIVATIONS.values()))
    hooks = [m.register_forward_pre_hook(count) for m in network.modules() if isinstance(m, kinds)]
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.affine and not m.weight.any()):
        nn.init.ones_(norm.weight)
    try:
        network.train()(images)
    finally:
        for hook in hooks:
            hook.remove()
    value = float(torch.linalg.slogdet(kernel).logabsdet)
    return value if isfinite(value) else float(torch.linalg.slogdet(kernel + torch.eye(len(kernel))).logabsdet)

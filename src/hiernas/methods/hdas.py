"""H-DAS: unchained differentiable search (AAAI 2021, arXiv 2101.04028v2): cells, their number, and the graphs between them.

Three searches, each of which restricts the next: cells of each stage's own (H^c); the number of cells of each stage; and
the graph between the cells of each stage (H^s), under three rules and with a loss that asks for depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from hiernas.data.split import ImageData
from hiernas.errors import ConfigError
from hiernas.search.alphas import cost_penalty
from hiernas.search.depth import computation_loss, depth_loss, shapes
from hiernas.search.differentiable import SearchSettings, found, learn, smaller_network, sum_of_losses
from hiernas.search.problem import Found, Problem, training_work
from hiernas.space import SearchSpace
from hiernas.supernet.stage import StageNetwork
from hiernas.train.recipes import RECIPES, Recipe


@dataclass(frozen=True)
class HDASConfig:
    """Settings of one level of H-DAS; the defaults are the paper's on its own scale."""

    search: SearchSettings = field(default_factory=SearchSettings)
    cells: int = 8  # of the network that cells are searched in
    delta: float = 1.0  # weight of the depth loss (Eqs. 2, 4)
    gamma: float = 0.4  # weight of the number of cells (Eq. 5), where it is searched
    objective: str = "params"  # the metric of the automatic limit
    calibration_images: int = 1000  # training images for batch-norm statistics of what is found
    final_epochs: int = 600  # training of the chosen network from scratch
    final_lr: float = 0.025
    train: Recipe = field(default_factory=lambda: RECIPES["darts"].recipe)  # of the chosen network

    def __post_init__(self) -> None:
        self.search.check()
        if not (0 <= self.delta < math.inf and 0 <= self.gamma < math.inf):
            raise ConfigError(f"delta={self.delta} and gamma={self.gamma} must be at least 0 and finite")
        if self.cells < 3 or self.final_epochs < 1 or self.calibration_images < 2 or not self.final_lr > 0:
            raise ConfigError(
                f"cells={self.cells} must be at least 3, final_epochs={self.final_epochs} at least 1, "
                f"calibration_images={self.calibration_images} at least 2, and final_lr={self.final_lr} positive"
            )


def hdas_cells(problem: Problem, config: HDASConfig) -> Found:
    """H^c-DAS (arXiv 2101.04028v2): three normal and two reduction cells, each stage's own, searched as DARTS does."""
    proxy = smaller_network(problem.space, config.search.channels, config.cells)
    extra = cost_penalty(problem.space, problem.tables(problem.space), problem.limits, config.search.cost_weight)
    supernet, architect = learn(proxy, problem, config.search, "train1", extra)
    return found(proxy, supernet, architect, problem, config, {})


def hdas_stages(problem: Problem, config: HDASConfig) -> Found:
    """H^s-DAS (arXiv 2101.04028v2): the graph between the cells of each stage, with the depth loss (Eq. 2)."""
    return _stage_search(problem, config)


def hdas_distribution(problem: Problem, config: HDASConfig) -> Found:
    """H-DAS' search for the number of cells of each stage (arXiv 2101.04028v2, Eqs. 3 to 6), with the graphs between them."""
    return _stage_search(problem, config)


def _stage_search(problem: Problem, config: HDASConfig) -> Found:
    proxy = narrower(problem.space, config.search.channels)
    losses = [(config.delta, depth_loss(proxy))]  # Eq. 6
    if isinstance(proxy.skeleton, StageNetwork) and proxy.skeleton.least is not None:
        losses.append((config.gamma, computation_loss(proxy)))
    tables = problem.tables(problem.space)
    losses.append((1.0, cost_penalty(problem.space, tables, problem.limits, config.search.cost_weight)))
    supernet, architect = learn(proxy, problem, config.search, "train1", sum_of_losses(*losses))
    result = found(proxy, supernet, architect, problem, config, {})
    stages = [{"cells": s.cells, "depth": s.depth, "dead": s.dead} for s in shapes(result.architecture)]
    return replace(result, details={**result.details, "stages": stages})


def narrower(space: SearchSpace, channels: int) -> SearchSpace:
    """The same stages with fewer channels: the network that is searched in."""
    assert isinstance(space.skeleton, StageNetwork)  # other spaces are refused before
    return replace(space, skeleton=replace(space.skeleton, channels=channels, auxiliary=False))


def plan(config: HDASConfig, data: ImageData) -> dict[str, float]:
    """Work per phase: the logits' half needs no gradients of weights."""
    weights = (1 - config.search.share) * len(data.train)
    return {"train1": training_work(config.search.epochs, round(weights * (1 + 2 / 3)))}


SEARCH = Recipe(batch_size=64, weight_decay=3e-4, schedule="cosine", grad_clip=5.0)

PRESETS: dict[str, Any] = {
    "quick": HDASConfig(
        search=SearchSettings(epochs=10, lr=0.1, train=SEARCH, channels=4),
        cells=5,
        calibration_images=300,
        final_epochs=25,
        final_lr=0.1,
        train=replace(SEARCH, label_smoothing=0.1),
    ),
    "small": HDASConfig(
        search=SearchSettings(epochs=4, lr=0.1, train=replace(SEARCH, batch_size=96), channels=4),
        cells=5,
        calibration_images=500,
        final_epochs=8,
        final_lr=0.1,
        train=replace(SEARCH, batch_size=96),
    ),
    "paper": HDASConfig(),
}

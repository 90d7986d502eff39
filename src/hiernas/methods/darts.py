"""DARTS (Liu et al. 2019, arXiv 1806.09055), first order: the control of H-DAS, and of all searches in cells.

A cell's operations are mixed by softmax gates; weights and logits learn by turns, on halves of the training images.
Each node keeps the two edges whose best operation weighs most.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from hiernas.problem import CELLS, Config, Found, Method, Problem, sized
from hiernas.search.alphas import Softmax, cost_penalty
from hiernas.search.differentiable import QUICK, SEARCH, SMALL, SearchSettings, found, learn, plan, proxy
from hiernas.train.recipes import DARTS, Recipe


@dataclass(frozen=True)
class DARTSConfig(Config):
    """Settings of DARTS; the defaults are the paper's on its own scale."""

    search: SearchSettings = field(default_factory=SearchSettings)
    cells: Annotated[int, Field(ge=3)] = 8  # of the network that is searched in
    channels: Annotated[int, Field(ge=2, multiple_of=2)] = 16  # of its first cells
    objective: str = "params"  # the metric of the automatic limit
    calibration_images: Annotated[int, Field(ge=2)] = 1000  # for batch-norm statistics of what is found
    final_epochs: PositiveInt = 600  # training of the chosen network from scratch
    final_lr: PositiveFloat = 0.025  # initial learning rate of it
    train: Recipe = field(default_factory=lambda: DARTS)  # of the chosen network

def darts(problem: Problem, config: DARTSConfig) -> Found:
    """DARTS (arXiv 1806.09055), first order: weights and logits by turns, then the two strongest edges of each node."""
    encoding = Softmax(proxy(problem.space, config))
    extra = cost_penalty(problem.space, problem.budget, config.search.cost_weight)
    return found(learn(encoding, problem, config.search, "train1", extra), problem, config)


SMALL_SIZE = {"channels": 8, "cells": 5}
SIZES: dict[str, Any] = {"quick": SMALL_SIZE, "small": SMALL_SIZE, "paper": {"auxiliary": True}}  # of what is trained for good
PRESETS: dict[str, Any] = {
    "quick": DARTSConfig(
        search=QUICK, cells=4, channels=4, calibration_images=300, final_epochs=25, final_lr=0.1,
        train=replace(SEARCH, label_smoothing=0.1),
    ),
    "small": DARTSConfig(search=SMALL, cells=5, channels=4, calibration_images=500, final_epochs=4, final_lr=0.1, train=SEARCH),
    "paper": DARTSConfig(),
}  # fmt: skip


METHODS = {"darts": Method(darts, PRESETS, plan, sized("darts", SIZES), CELLS, proxy, control="search")}

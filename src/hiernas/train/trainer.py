"""The trainer of a search (`hiernas.problem.Trainer`): by the training loop, on the data and in the folder of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from hiernas.data.split import ImageData, Split
from hiernas.gates import Gates
from hiernas.problem import Journal
from hiernas.train.evaluate import Evaluator, batch_for
from hiernas.train.loop import accuracy, fit, make_fabric
from hiernas.train.recipes import Phase, Recipe


@dataclass(frozen=True)
class RunTrainer:
    """Trains on the data of a run, and saves to its folder."""

    data: ImageData
    run: Journal
    seed: int

    def fit(self, model: nn.Module, images: Split, phase: Phase, recipe: Recipe, **how: Any) -> None:
        """See `hiernas.train.loop.fit`."""
        fit(model, images, self.data, phase, recipe, seed=self.seed, run=self.run, **how)

    def accuracy(self, model: nn.Module, images: Split, batch_size: int, gates: Gates) -> float:
        """See `hiernas.train.loop.accuracy`."""
        return accuracy(model, images, self.data, batch_size, gates)

    def evaluator(self, supernet: Any, recipe: Recipe, calibration_images: int, *, paths: bool = True) -> Evaluator:
        """See `hiernas.train.evaluate.Evaluator`; the beginnings that paths share take memory, and decide how many images."""
        batch = batch_for(supernet.space) if paths else None
        return Evaluator(
            supernet, self.data, make_fabric(recipe), seed=self.seed, calibration_images=calibration_images, batch_size=batch
        )

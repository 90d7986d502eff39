"""How networks are trained: one frozen value, used for supernets and stand-alone networks alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from hiernas.errors import Settings


@dataclass(frozen=True)
class Recipe(Settings):
    """SGD with momentum; the defaults are HNAS' (arXiv 2005.07564v1, section 4.1) but for the batch size."""

    batch_size: Annotated[int, Field(ge=2)] = 64  # images of a step; HNAS' paper: 1024
    momentum: Annotated[float, Field(ge=0, le=0.9999)] = 0.9  # of stochastic gradient descent
    weight_decay: NonNegativeFloat = 4e-5  # not applied to batch norm and biases, as in SPOS
    schedule: Literal["linear", "cosine"] = "linear"  # decay of the learning rate, per step
    lr_min: NonNegativeFloat = 0.0  # where the decay of the learning rate ends
    warmup_epochs: NonNegativeFloat = 0.0  # linear increase from 0
    label_smoothing: Annotated[float, Field(ge=0, le=0.99)] = 0.0  # share of a label that all classes get alike
    grad_clip: NonNegativeFloat = 0.0  # largest gradient norm; 0: not clipped
    augment: Literal["auto", "crop", "resized_crop", "none"] = "auto"  # auto: crop, and resized_crop from 96 pixels on
    flip: bool | None = None  # horizontal; None: for colour images
    cutout: NonNegativeInt = 0  # side of the square, in pixels
    autoaugment: bool = False  # torchvision's AutoAugment; refused where torchvision cannot be imported
    auxiliary: NonNegativeFloat = 0.4  # weight of the auxiliary classifier's loss, in networks that have one
    drop_path: Annotated[float, Field(ge=0, le=0.99)] = 0.0  # probability at the last epoch, from 0; for networks of cells
    ema: Annotated[float, Field(ge=0, le=0.999999)] = 0.0  # decay of a moving average of the weights, which remains; 0: none
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"  # of a step's numbers, as Lightning Fabric names it
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: a GPU where there is one

    def lr(self, initial: float, epoch: float, epochs: int) -> float:
        """Learning rate at a point of the training (in epochs, fractional) that begins with `initial`."""
        factor, least = self.lr_factor(epoch, epochs), self.lr_min if epoch >= self.warmup_epochs else 0.0
        return least + (initial - least) * factor

    def lr_factor(self, epoch: float, epochs: int) -> float:
        """How far the schedule is at a point of the training (in epochs, fractional): 1 for the initial learning rate."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-9)
        return 1.0 - done if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Phase:
    """One training of a run: its name in the run folder, its length and initial learning rate."""

    name: str
    epochs: int
    lr: float


# networks of cells on CIFAR-10: DARTS (arXiv 1806.09055), appendix A.2
DARTS = Recipe(batch_size=96, weight_decay=3e-4, schedule="cosine", cutout=16, grad_clip=5.0, auxiliary=0.4, drop_path=0.2)

"""Published ways to train a network that was found."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hiernas.errors import one_of
from hiernas.train.recipes import DARTS, Recipe


@dataclass(frozen=True)
class Retraining:
    """A published way to train a network that was found: the recipe, its length and initial learning rate."""

    recipe: Recipe
    epochs: int
    lr: float

    def scaled(self, preset: str) -> Retraining:
        """For a smaller data set and machine: the learning rate goes with the batch, the warm-up with the epochs.

        Raises `ConfigError` for an unknown preset.
        """
        if preset == "paper":
            return self
        one_of("preset", preset, (*SCALES, "paper"))
        epochs, batch = SCALES[preset]
        warmup = self.recipe.warmup_epochs * epochs / self.epochs
        scale = batch / self.recipe.batch_size
        recipe = replace(self.recipe, batch_size=batch, warmup_epochs=round(warmup, 3), lr_min=self.recipe.lr_min * scale)
        return Retraining(recipe, epochs, self.lr * batch / self.recipe.batch_size)


SCALES = {"quick": (60, 64), "small": (10, 128)}  # epochs and batch size

# FBNet's networks: 350 epochs, batch 512, learning rate 0.25, label smoothing and warm-up (5 epochs are our choice)
FBNET = Recipe(batch_size=512, weight_decay=1e-5, schedule="cosine", warmup_epochs=5, label_smoothing=0.1)

RECIPES = {  # section 4.2 of HourNAS (arXiv 2005.14446v3), but for the last
    "fbnet": Retraining(FBNET, 350, 0.25),
    # EfficientNet's: the same with a moving average of the weights; swish belongs to the space
    "efficientnet": Retraining(replace(FBNET, ema=0.9999), 350, 0.25),
    # CIFAR-10 with cutout (Table 2); what the paper does not say is DARTS'
    "cifar": Retraining(Recipe(batch_size=96, weight_decay=3e-4, schedule="cosine", cutout=16, grad_clip=5.0), 600, 0.025),
    "darts": Retraining(DARTS, 600, 0.025),
}


def retraining(name: str, preset: str) -> Retraining:
    """A published recipe by name, at the size of a preset. Raises `ConfigError` with what is known."""
    one_of("recipe", name, RECIPES)
    return RECIPES[name].scaled(preset)

"""Planted spaces: chains in which one option of each site sees the image and all others output only noise.

All options of a site cost the same, so that no limit tells them apart, unless `priced`: then the right one is the dearer one
at every other site, and the cheaper one at the others. The right one stands at every place at equally
many sites (or one more), in an order that the seed draws: the first options are right at a share of 1 / options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.data import ImageData, load_data
from hiernas.space import SearchSpace
from hiernas.spaces import Stage, chain_space

RIGHT = "sees"  # the name of the right option; the others are noise1, noise2, ...
WIDTH = 8  # channels of a residual chain
LOUD = 1.5  # standard deviation of the noise that is added to the image's features


def textures(size: int = 16, classes: int = 4, per_class: int = 200, seed: int = 0) -> ImageData:
    """Grey waves of as many directions as classes, each image with a phase and a length of its own, under noise."""
    rng = np.random.default_rng([seed, 77])
    labels = np.tile(np.arange(classes), per_class)
    y, x = np.mgrid[:size, :size]
    angle = np.pi * labels / classes
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    length, phase = rng.uniform(3, 5, len(labels)), rng.uniform(0, 2 * np.pi, len(labels))
    waves = np.sin(2 * np.pi * along / length[:, None, None] + phase[:, None, None])
    pixels = 127.5 + 50 * waves + 60 * rng.standard_normal(waves.shape)
    images = torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))[:, None]
    return load_data(list(zip(images, labels.tolist(), strict=True)))


class Block(nn.Module):
    """A convolution and a batch norm of the image or of noise, [B, C, H, W]; where `around`, an identity leads around it."""

    def __init__(self, cin: int, cout: int, stride: int, sees: bool, around: bool, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, stride, 1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(cout, affine=False)  # no scale: noise cannot be turned down
        self.sees, self.around = sees, around

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.sees else torch.randn_like(x[:, :, :1, :1]).expand_as(x) + torch.randn_like(x)
        found = self.norm(self.conv(inner))
        return x + (found if self.sees else LOUD * found) if self.around else found.relu()


@dataclass(frozen=True)
class Planted:
    """An operation of a planted space; residual where the shape is kept."""

    name: str
    groups: int = 1  # of the convolution: the cheaper, the more of them

    def describe(self) -> str:
        return f"planted_{self.name}_{self.groups}"

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        return Block(cin, cout, stride, self.name == RIGHT, stride == 1 and cin == cout, self.groups)


def residual_chain(
    sites: int = 4, options: int = 2, size: int = 16, classes: int = 4, seed: int = 0, priced: bool = False
) -> SearchSpace:
    """Blocks that keep the shape, none of them vital: noise is added to what comes, or the image's own features are."""
    return _chain("residual_chain", [(WIDTH, 1)] * sites, options, size, classes, seed, priced)


def vital_chain(sites: int = 3, options: int = 2, size: int = 16, classes: int = 4, seed: int = 0) -> SearchSpace:
    """Blocks that change the width, all of them vital: behind one that outputs noise nothing of the image is left."""
    return _chain("vital_chain", [(WIDTH + 4 * (i + 1), 1) for i in range(sites)], options, size, classes, seed)


def right_sites(chosen: Sequence[str]) -> int:
    """At how many sites the option that sees the image was taken."""
    return sum(option == RIGHT for option in chosen)


def _chain(
    name: str, shapes: Sequence[tuple[int, int]], options: int, size: int, classes: int, seed: int, priced: bool = False
) -> SearchSpace:
    places, stages = np.random.default_rng([seed, 78]).permutation(np.arange(len(shapes)) % options), []
    for site, ((width, stride), place) in enumerate(zip(shapes, places, strict=True)):
        names = [f"noise{i}" for i in range(1, options)]
        names.insert(int(place), RIGHT)
        ops = [Planted(n, 2 if priced and (n == RIGHT) == (site % 2 == 0) else 1) for n in names]
        stages.append(Stage(width, 1, stride, tuple(ops)))
    return chain_space(name, (1, size, size), classes, stem=WIDTH, stages=stages, head=2 * WIDTH, act="relu")

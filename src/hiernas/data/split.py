"""A data set as searches see it: images, labels, and three splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hiernas.randomness import torch_generator


class Images(Protocol):
    """Pixels of one size, in memory or in a file."""

    def fetch(self, indices: Tensor) -> Tensor: ...  # int64 [B] -> uint8 [B, C, H, W]


class Normalisation(Protocol):
    """What pixels are normalised by, per channel."""

    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...


class Subset:
    """Some of the images, in the order of `rows`: int64 [N]."""

    def __init__(self, images: Images, rows: Tensor) -> None:
        self.images, self.rows = images, rows

    def fetch(self, indices: Tensor) -> Tensor:
        return self.images.fetch(self.rows[indices])


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels: int64 [N], each within 0 .. classes - 1."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set ready for searching: three splits of images of one size."""

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    input_size: tuple[int, int, int]  # channels, height, width
    mean: tuple[float, ...]  # per channel, of the training images scaled to 0..1
    std: tuple[float, ...]
    notes: tuple[str, ...]  # what was converted, resized, held out or left out, for the user
    fingerprint: str  # changes with the classes, sizes, splits, with any label and any pixel

    @property
    def num_classes(self) -> int:
        return len(self.classes)


def shares(split: Split, share: float, seed: int, images: int = 0) -> tuple[Split, Split]:
    """The images of the weights and those of the architecture: `share` of them, drawn once; two or more on each side.

    `images`: only so many are used; 0: all.
    """
    order = torch.randperm(len(split), generator=torch_generator(seed, "shares"))[: max(images, 4) if images else len(split)]
    cut = min(len(order) - 2, max(2, round(share * len(order))))  # batch norm needs two images
    rows = order[cut:].sort().values, order[:cut].sort().values
    weights, architecture = (Split(Subset(split.images, some), split.labels[some]) for some in rows)
    return weights, architecture

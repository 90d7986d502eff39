"""Bilevel search: weights on one part of the training images, the architecture on the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hiernas.data.split import Split, Subset
from hiernas.randomness import torch_generator


def shares(split: Split, share: float, seed: int, images: int = 0) -> tuple[Split, Split]:
    """The images of the weights and those of the architecture: `share` of them, drawn once; two or more on each side.

    `images`: only so many are used; 0: all.
    """
    order = torch.randperm(len(split), generator=torch_generator(seed, "shares"))[: max(images, 4) if images else len(split)]
    cut = min(len(order) - 2, max(2, round(share * len(order))))  # batch norm needs two images
    rows = order[cut:].sort().values, order[:cut].sort().values
    weights, architecture = (Split(Subset(split.images, some), split.labels[some]) for some in rows)
    return weights, architecture


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, the weights get no gradients: none is computed."""
    weights = [p for p in model.parameters() if p.requires_grad]
    for p in weights:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in weights:
            p.requires_grad_(True)

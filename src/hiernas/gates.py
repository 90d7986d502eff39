"""Gates: how the options of each site are mixed in one forward pass.

A gate names the options that are computed, and their weights; options without a gate cost nothing. The
methods' forward passes differ in their gates and in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.space import Architecture, SearchSpace


class Gates(NamedTuple):
    """Per site the indices of the active options and, where they are mixed, their weights (1-D, same length)."""

    indices: tuple[tuple[int, ...], ...]
    weights: tuple[Tensor | None, ...]  # None: one option of weight 1


def single_path(genes: Sequence[int] | np.ndarray) -> Gates:
    """The gates of one option per site: option indices [sites]."""
    return Gates(tuple((int(g),) for g in genes), (None,) * len(genes))


def uniform_path(space: SearchSpace, rng: np.random.Generator) -> Gates:
    """One option per site, uniform (HNAS section 3.2; SPOS)."""
    return single_path([int(rng.integers(len(d.options))) for d in space.decisions])


def of_architecture(space: SearchSpace, architecture: Architecture) -> Gates:
    """The gates that compute an architecture, several weighted options per site included."""
    choices = architecture.choices
    indices = tuple(tuple(d.index(o) for o, _ in choice) for d, choice in zip(space.decisions, choices, strict=True))
    plain = [len(choice) == 1 and choice[0][1] == 1.0 for choice in choices]
    return Gates(indices, tuple(None if p else torch.tensor([w for _, w in c]) for c, p in zip(choices, plain, strict=True)))


def softmax(alphas: Sequence[Tensor]) -> Gates:
    """All options, weighted by the softmax of their logits: one 1-D tensor of logits per site (DARTS)."""
    return Gates(tuple(tuple(range(len(a))) for a in alphas), tuple(a.softmax(0) for a in alphas))


def straight_through(mask: Tensor, threshold: float) -> Tensor:
    """1 where a real-valued mask exceeds the threshold, else 0; backwards the identity (Mallya et al. 2018, Piggyback)."""
    binary = (mask.detach() > threshold).to(mask.dtype)  # what is dropped goes on learning, and can come back
    return binary + (mask - mask.detach())  # in this order exactly 0 or 1


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, the weights of a model get no gradients, and none is computed: for a step of what gates are made of."""
    weights = [p for p in model.parameters() if p.requires_grad]
    for p in weights:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in weights:
            p.requires_grad_(True)

"""How a chain space is written down: a stem, stages of blocks with options, a head.

    Stage(width=32, repeats=4, stride=2, ops=(MBConv(3, 3), MBConv(5, 6)), skip=True)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hiernas.errors import SpaceError, did_you_mean
from hiernas.networks.chain import Chain
from hiernas.networks.ops import Classifier, Conv, Op, Skip
from hiernas.networks.parts import Site
from hiernas.space import SearchSpace

STEMS = ("imagenet", "cifar")


@dataclass(frozen=True)
class Stage:
    """Blocks of one width; the stride is the first block's. `skip` adds the identity where the shape is kept."""

    width: int
    repeats: int
    stride: int
    ops: tuple[Op, ...]
    skip: bool = False


def chain_space(
    name: str,
    input_size: tuple[int, int, int],
    num_classes: int,
    *,
    stem: int,
    stages: Sequence[Stage],
    head: int,
    stem_stride: int = 2,
    act: str = "relu6",
    dropout: float = 0.0,
    bn_eps: float = 1e-5,
    published: tuple[int, ...] | None = None,
    arguments: dict[str, Any] | None = None,
) -> SearchSpace:
    """A search space from stages: 3x3 convolution stem, the stages' blocks, 1x1 convolution head, classifier.

    Sites are named `stage1.block1`, `stage1.block2`, ... `published` are the blocks per stage of a published network
    with fewer of them: its own option list is then read, too. `arguments` are those of the function that makes the
    space, beyond `input_size` and `num_classes` and without those that are None; architecture files repeat them, so
    that they can be read without the space at hand. Raises `SpaceError` for sizes and stages that make no network.
    """
    _check(input_size, num_classes)
    _check_stages(stages, published)
    if any(not isinstance(n, int) or n < 1 for n in (stem, head)):
        raise SpaceError(f"the stem has {stem!r} channels and the head {head!r}; both are whole numbers from 1")
    channels, height, width = input_size
    own = {"input_size": (channels, height, width), "num_classes": num_classes} | (arguments or {})
    sites = _sites(stem, stages)
    skeleton = Chain(
        name=name,
        arguments=tuple((key, value) for key, value in own.items() if value is not None),
        input_size=(channels, height, width),
        num_classes=num_classes,
        stem=(Site("stem", channels, stem, stem_stride, (Conv(3, act),)),),
        sites=sites,
        head=(
            Site("head", sites[-1].cout, head, 1, (Conv(1, act),)),
            Site("classifier", head, num_classes, 1, (Classifier(dropout),)),
        ),
        bn_eps=bn_eps,
        published=published,
    )
    return skeleton.space()


def fit_strides(
    stem_stride: int, stages: Sequence[Stage], input_size: tuple[int, int, int], stem: str | None = None
) -> tuple[int, list[Stage]]:
    """The published strides of the stem and the stages, fitted to the image size.

    `stem` "imagenet": as published. None: the last feature map keeps at least 4 pixels a side, so the shorter side
    may be halved floor(log2(side / 4)) times; the earliest strides (the stem's first) become 1 until that fits.
    224 pixels keep the usual five strides of 2, 32 pixels the last three. "cifar": as None, and at most as many
    strides as 32 pixels keep, however large the image. Raises `SpaceError` where the published strides leave a feature
    map smaller than 2x2.
    """
    _check(input_size)
    if stem is not None and stem not in STEMS:
        raise SpaceError(f"there is no stem '{stem}'; {did_you_mean(str(stem), STEMS)}")
    strides, side = [stem_stride, *(s.stride for s in stages)], min(input_size[1:])
    halvings = sum(s > 1 for s in strides)
    if stem == "imagenet":
        least = 2**halvings + 1
        if side < least:
            raise SpaceError(
                f"stem='imagenet' halves images {halvings} times, too often for {side} pixels: the last feature map would "
                f"be smaller than 2x2; leave stem out, or use images of at least {least} pixels a side"
            )
        return stem_stride, list(stages)
    allowed = max(0, math.floor(math.log2((min(side, 32) if stem == "cifar" else side) / 4)))
    for i, stride in enumerate(strides):
        if stride > 1 and halvings > allowed:
            strides[i], halvings = 1, halvings - 1
    return strides[0], [replace(stage, stride=s) for stage, s in zip(stages, strides[1:], strict=True)]


def _sites(cin: int, stages: Sequence[Stage]) -> tuple[Site, ...]:
    sites = []
    for i, stage in enumerate(stages, 1):
        for j in range(1, stage.repeats + 1):
            stride = stage.stride if j == 1 else 1
            keeps_shape = stride == 1 and cin == stage.width
            ops = (*stage.ops, Skip()) if stage.skip and keeps_shape else stage.ops
            names = [op.name for op in ops]
            if len(set(names)) < len(names):
                raise SpaceError(f"stage {i} lists an option twice: {', '.join(names)}; names must differ at a site")
            sites.append(Site(f"stage{i}.block{j}", cin, stage.width, stride, ops))
            cin = stage.width
    return tuple(sites)


def _check(input_size: tuple[int, int, int], num_classes: int = 2) -> None:
    if len(input_size) != 3 or any(not isinstance(n, int) or n < 1 for n in input_size):
        raise SpaceError(f"input_size is (channels, height, width) in whole numbers from 1, not {input_size!r}")
    if not isinstance(num_classes, int) or num_classes < 2:
        raise SpaceError(f"num_classes is {num_classes!r}; a classifier needs at least 2")


def _check_stages(stages: Sequence[Stage], published: tuple[int, ...] | None) -> None:
    if not stages:
        raise SpaceError("a chain space needs at least one Stage")
    for i, stage in enumerate(stages, 1):
        if min(stage.width, stage.repeats, stage.stride) < 1 or not stage.ops:
            raise SpaceError(f"stage {i} is {stage!r}; width, repeats and stride are at least 1, and ops names an operation")
    repeats = tuple(stage.repeats for stage in stages)
    if published is not None and (
        len(published) != len(repeats) or any(not 1 <= p <= n for p, n in zip(published, repeats, strict=True))
    ):
        raise SpaceError(f"published blocks per stage {published} do not fit into stages of {repeats} blocks")

"""How a chain space is written down: a stem, stages of blocks with options, a head.

    Stage(width=32, repeats=4, stride=2, ops=(MBConv(3, 3), MBConv(5, 6)), skip=True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hiernas.errors import SpaceError
from hiernas.ops import Classifier, Conv, Op, Skip
from hiernas.space import SearchSpace
from hiernas.supernet.chain import Chain, Site


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
    arguments: dict[str, Any] | None = None,
) -> SearchSpace:
    """A search space from stages: 3x3 convolution stem, the stages' blocks, 1x1 convolution head, classifier.

    Sites are named `stage1.block1`, `stage1.block2`, ... `arguments` are those of the function that makes the
    space; architecture files repeat them, so that they can be read without the space at hand.
    """
    _check(input_size, num_classes)
    sites, cin = [], stem
    for i, stage in enumerate(stages, 1):
        for j in range(1, stage.repeats + 1):
            stride = stage.stride if j == 1 else 1
            keeps_shape = stride == 1 and cin == stage.width
            ops = (*stage.ops, Skip()) if stage.skip and keeps_shape else stage.ops
            sites.append(Site(f"stage{i}.block{j}", cin, stage.width, stride, ops))
            cin = stage.width
    skeleton = Chain(
        name=name,
        arguments=tuple((arguments or {"input_size": tuple(input_size), "num_classes": num_classes}).items()),
        input_size=input_size,
        num_classes=num_classes,
        stem=(Site("stem", input_size[0], stem, stem_stride, (Conv(3, act),)),),
        sites=tuple(sites),
        head=(
            Site("head", cin, head, 1, (Conv(1, act),)),
            Site("classifier", head, num_classes, 1, (Classifier(dropout),)),
        ),
        bn_eps=bn_eps,
    )
    return skeleton.space()


def _check(input_size: tuple[int, int, int], num_classes: int) -> None:
    if len(input_size) != 3 or any(not isinstance(n, int) or n < 1 for n in input_size):
        raise SpaceError(f"input_size is (channels, height, width) in whole numbers from 1, not {input_size!r}")
    if not isinstance(num_classes, int) or num_classes < 2:
        raise SpaceError(f"num_classes is {num_classes!r}; a classifier needs at least 2")

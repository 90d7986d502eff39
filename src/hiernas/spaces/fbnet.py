"""FBNet's space (Wu et al. 2019, Tables 1 and 2) and the enlarged one of HourNAS (CVPR 2021, section 4.2)."""

from __future__ import annotations

from hiernas.networks.ops import MBConv, Op, Skip
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space, fit_strides


def block(kernel: int, expand: int, groups: int = 1) -> MBConv:
    """FBNet's block: ReLU, and the first 1x1 convolution stays where the expansion is 1."""
    return MBConv(kernel, expand, act="relu", groups=groups, keep_1x1=True)


SKIP = Skip(act="relu")  # where the shape changes, a 1x1 convolution with batch norm and ReLU
OPS: tuple[Op, ...] = (  # Table 2
    block(3, 1),
    block(3, 1, groups=2),
    block(3, 3),
    block(3, 6),
    block(5, 1),
    block(5, 1, groups=2),
    block(5, 3),
    block(5, 6),
    SKIP,
)
ENLARGED: tuple[Op, ...] = (*(block(k, e) for k in (3, 5, 7) for e in (1, 3, 6)), SKIP)  # with k = 7, without g = 2


def fbnet(
    input_size: tuple[int, int, int] = (3, 224, 224),
    num_classes: int = 1000,
    stem: str | None = None,
    head: int | None = None,
) -> SearchSpace:
    """FBNet: 22 layers of 9 operations, 9^22 = 9.848e20 architectures.

    `head` is the width of the last 1x1 convolution; None: 1984, and 1504 with the strides for 32 pixels. `stem`: see
    `fit_strides`.
    """
    return _space("fbnet", OPS, input_size, num_classes, stem, head)


def fbnet_enlarged(
    input_size: tuple[int, int, int] = (3, 224, 224),
    num_classes: int = 1000,
    stem: str | None = None,
    head: int | None = None,
) -> SearchSpace:
    """HourNAS' enlarged FBNet space: 22 layers of 10 operations, 10^22 architectures. Otherwise as `fbnet`."""
    return _space("fbnet_enlarged", ENLARGED, input_size, num_classes, stem, head)


def _space(
    name: str, ops: tuple[Op, ...], input_size: tuple[int, int, int], num_classes: int, stem: str | None, head: int | None
) -> SearchSpace:
    published = [
        Stage(16, 1, 1, ops),  # Table 1
        Stage(24, 4, 2, ops),
        Stage(32, 4, 2, ops),
        Stage(64, 4, 2, ops),
        Stage(112, 4, 1, ops),
        Stage(184, 4, 2, ops),
        Stage(352, 1, 1, ops),
    ]
    stem_stride, stages = fit_strides(2, published, input_size, stem)
    width = 1504 if stem_stride * stages[1].stride == 1 else 1984  # 1504: with the strides for 32 pixels, or fewer
    return chain_space(
        name, input_size, num_classes, stem=16, stem_stride=stem_stride, stages=stages,
        head=width if head is None else head, act="relu", arguments={"stem": stem, "head": head},
    )  # fmt: skip

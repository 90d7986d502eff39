"""EfficientNet-B0's layers (Tan and Le 2019) as a space with a choice in every layer, as HourNAS (CVPR 2021) searches it."""

from __future__ import annotations

from hiernas.errors import SpaceError
from hiernas.networks.ops import MBConv, Op, Skip
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space, fit_strides

B0 = (1, 2, 2, 3, 3, 4, 1)  # blocks per stage of the published network


def efficientnet(
    input_size: tuple[int, int, int] = (3, 224, 224),
    num_classes: int = 1000,
    stem: str | None = None,
    keep_1x1: bool = False,
) -> SearchSpace:
    """22 layers of 7 options: 7^22 = 3.910e18 architectures (HourNAS: 4e18).

    'skip' is an option of every layer; where the shape changes it is a 1x1 convolution with batch norm and SiLU.
    EfficientNet-B0's own list of 16 blocks is read, too. `keep_1x1`: blocks of expansion 1 keep their first 1x1
    convolution, which HourNAS does and EfficientNet-B0 does not. `stem`: see `fit_strides`.
    """
    if not isinstance(keep_1x1, bool):
        raise SpaceError(f"keep_1x1 is {keep_1x1!r}; it is true or false")
    blocks = (MBConv(k, e, se=True, act="silu", keep_1x1=keep_1x1) for k in (3, 5) for e in (1, 3, 6))
    ops: tuple[Op, ...] = (*blocks, Skip(act="silu"))
    published = [
        Stage(16, 1, 1, ops),
        Stage(24, 4, 2, ops),
        Stage(40, 4, 2, ops),
        Stage(80, 4, 2, ops),
        Stage(112, 4, 1, ops),
        Stage(192, 4, 2, ops),
        Stage(320, 1, 1, ops),
    ]
    stem_stride, stages = fit_strides(2, published, input_size, stem)
    return chain_space(
        "efficientnet", input_size, num_classes, stem=32, stem_stride=stem_stride, stages=stages, head=1280, act="silu",
        dropout=0.2, bn_eps=1e-3, published=B0, arguments={"stem": stem, "keep_1x1": keep_1x1 or None},
    )  # fmt: skip

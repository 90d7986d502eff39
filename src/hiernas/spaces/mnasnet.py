"""MnasNet's layers (Tan et al. 2019) as a space with a choice in every layer, as HourNAS (CVPR 2021) searches it."""

from __future__ import annotations

from hiernas.errors import SpaceError, did_you_mean
from hiernas.networks.ops import MBConv, Op, Skip
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space, fit_strides

FIRST = (MBConv(3, 1, act="relu"),)  # fixed
OPS: tuple[Op, ...] = (
    *(MBConv(k, e, se, act="relu") for k in (3, 5) for e in (1, 3, 6) for se in (False, True)),
    Skip(act="relu"),
)

WIDTHS = {  # stages, and blocks per stage of the published network
    "a1": ((16, 24, 40, 80, 112, 160, 320), (1, 2, 3, 4, 2, 3, 1)),
    "b1": ((16, 24, 40, 80, 96, 192, 320), (1, 3, 3, 3, 2, 4, 1)),
}


def mnasnet(
    input_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 1000, widths: str = "a1", stem: str | None = None
) -> SearchSpace:
    """22 layers, the first fixed, 13 options in the others: 13^21 = 2.471e23 architectures (HourNAS: 2.5e23).

    'skip' is an option of every layer but the first; where the shape changes it is a 1x1 convolution with batch norm
    and ReLU. `widths` is 'a1' or 'b1', after the network; its own list of 16 or 17 blocks is read, too. `stem`: see
    `fit_strides`.
    """
    if str(widths) not in WIDTHS:
        raise SpaceError(f"mnasnet has no widths '{widths}'; {did_you_mean(str(widths), WIDTHS)}")
    (w1, w2, w3, w4, w5, w6, w7), blocks = WIDTHS[widths]
    published = [
        Stage(w1, 1, 1, FIRST),
        Stage(w2, 4, 2, OPS),
        Stage(w3, 4, 2, OPS),
        Stage(w4, 4, 2, OPS),
        Stage(w5, 4, 1, OPS),
        Stage(w6, 4, 2, OPS),
        Stage(w7, 1, 1, OPS),
    ]
    stem_stride, stages = fit_strides(2, published, input_size, stem)
    return chain_space(
        "mnasnet", input_size, num_classes, stem=32, stem_stride=stem_stride, stages=stages, head=1280, act="relu",
        dropout=0.2, bn_eps=1e-3, published=blocks, arguments={"widths": widths, "stem": stem},
    )  # fmt: skip

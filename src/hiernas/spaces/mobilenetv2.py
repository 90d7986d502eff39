"""MobileNetV2's layers (Sandler et al. 2018, Table 2) with a choice of kernel and expansion: a plain baseline space."""

from __future__ import annotations

from hiernas.networks.ops import MBConv
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space, fit_strides

FIRST = (MBConv(3, 1),)  # fixed
OPS = tuple(MBConv(k, e) for k in (3, 5, 7) for e in (3, 6))
STAGES = (  # Table 2; all k3_e6 is MobileNetV2
    Stage(16, 1, 1, FIRST),
    Stage(24, 2, 2, OPS, skip=True),
    Stage(32, 3, 2, OPS, skip=True),
    Stage(64, 4, 2, OPS, skip=True),
    Stage(96, 3, 1, OPS, skip=True),
    Stage(160, 3, 2, OPS, skip=True),
    Stage(320, 1, 1, OPS),
)


def mobilenetv2(
    input_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 1000, stem: str | None = None
) -> SearchSpace:
    """17 layers, the first fixed: 6^6 * 7^10 = 1.318e13 architectures.

    `stem`: see `fit_strides`.
    """
    stem_stride, stages = fit_strides(2, STAGES, input_size, stem)
    return chain_space(
        "mobilenetv2", input_size, num_classes, stem=32, stem_stride=stem_stride, stages=stages, head=1280, dropout=0.2,
        arguments={"stem": stem},
    )  # fmt: skip

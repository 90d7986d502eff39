"""NAS-Bench-Macro (Su et al. 2021): 8 layers of 3 options, 3^8 = 6561 architectures, all of them trained on CIFAR-10."""

from __future__ import annotations

from hiernas.networks.ops import MBConv, Skip
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space, fit_strides

OPS = (Skip(), MBConv(3, 3, act="relu"), MBConv(5, 6, act="relu"))  # the benchmark's ids 0, 1, 2
STAGES = (Stage(64, 2, 2, OPS), Stage(128, 3, 2, OPS), Stage(256, 3, 2, OPS))


def nasbench_macro(
    input_size: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10, stem: str | None = None
) -> SearchSpace:
    """The benchmark's space: 8 layers of 3 options, 3^8 = 6561 architectures.

    In a stage's first layer 'skip' is a 1x1 convolution of the layer's stride with batch norm. `stem`: see
    `fit_strides`; the published strides are those for 32 pixels.
    """
    stem_stride, stages = fit_strides(1, STAGES, input_size, stem)
    return chain_space(
        "nasbench_macro", input_size, num_classes, stem=32, stem_stride=stem_stride, stages=stages, head=1280, act="relu",
        arguments={"stem": stem},
    )  # fmt: skip

"""NAS-Bench-Macro (Su et al. 2021): 8 layers of 3 options, 3^8 = 6561 architectures, all of them trained on CIFAR-10."""

from __future__ import annotations

from hiernas.ops import MBConv, Skip
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space

OPS = (Skip(), MBConv(3, 3, act="relu"), MBConv(5, 6, act="relu"))  # the benchmark's ids 0, 1, 2


def nasbench_macro(input_size: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10) -> SearchSpace:
    """The benchmark's space. In a stage's first layer 'skip' is a 1x1 convolution of stride 2 with batch norm."""
    stages = [Stage(64, 2, 2, OPS), Stage(128, 3, 2, OPS), Stage(256, 3, 2, OPS)]
    return chain_space(
        "nasbench_macro", input_size, num_classes, stem=32, stem_stride=1, stages=stages, head=1280, act="relu"
    )

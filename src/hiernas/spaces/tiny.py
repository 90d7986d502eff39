"""A small space for small images and small machines: 8 layers, 4 operations, any image size."""

from __future__ import annotations

import math

from hiernas.networks.ops import MBConv
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space

OPS = tuple(MBConv(k, e) for k in (3, 5) for e in (3, 6))
WIDTHS = (16, 24, 40, 80)


def tiny(input_size: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> SearchSpace:
    """Up to 4^3 * 5^5 = 200,000 architectures. Strides follow the image: the last stage works at 4 to 7 pixels a side."""
    halvings = min(5, max(0, round(math.log2(max(1, min(input_size[1:])) / 5))))  # 8 px: 1, 32 px: 3, 224 px: 5
    strides = dict.fromkeys((4, 0, 3, 2, 1)[:halvings], 2)  # the last stage first, then the stem (0), stage 3, 2, 1
    stages = [Stage(w, 2, strides.get(i, 1), OPS, skip=True) for i, w in enumerate(WIDTHS, 1)]
    return chain_space(
        "tiny", input_size, num_classes, stem=16, stem_stride=strides.get(0, 1), stages=stages, head=160
    )

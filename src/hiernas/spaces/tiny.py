"""A small space for small images and small machines: 8 layers, 4 operations, any image size."""

from __future__ import annotations

import math

from hiernas.ops import MBConv
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space

OPS = tuple(MBConv(k, e) for k in (3, 5) for e in (3, 6))
WIDTHS = (16, 24, 40, 80)


def tiny(input_size: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> SearchSpace:
    """4^4 * 5^4 = 160,000 architectures. Strides follow the image: the last stage works at 3 to 8 pixels a side."""
    halvings = min(5, max(0, round(math.log2(max(1, min(input_size[1:])) / 5))))  # 8 px: 1, 32 px: 3, 224 px: 5
    strides = {i: 2 for i in (4, 3, 2, 0, 1)[:halvings]}  # stage 4 first, then 3, 2, the stem and stage 1
    stages = [Stage(w, 2, strides.get(i, 1), OPS, skip=True) for i, w in enumerate(WIDTHS, 1)]
    return chain_space(
        "tiny", input_size, num_classes, stem=16, stem_stride=strides.get(0, 1), stages=stages, head=160
    )

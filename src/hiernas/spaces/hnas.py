"""The two spaces of HNAS (arXiv 2005.07564v1, Tables 1 and 2) and ProxylessNAS', which they build on."""

from __future__ import annotations

from hiernas.errors import SpaceError, did_you_mean
from hiernas.ops import MBConv
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space

REPEATS, STRIDES = (1, 4, 4, 4, 4, 4, 1), (1, 2, 2, 2, 1, 2, 1)  # Table 1
FIRST = tuple(MBConv(k, 1) for k in (3, 5, 7))  # the first block's expansion is fixed to 1
BASIC = tuple(MBConv(k, e) for k in (3, 5, 7) for e in (3, 6))  # Table 2, left
LARGE = tuple(MBConv(k, e) for k in (3, 5, 7) for e in (1, 2, 3, 4, 5, 6))  # Table 2, both columns

PROXYLESS_WIDTHS = {  # stem, stages, head
    "mobile": (32, (16, 32, 40, 80, 96, 192, 320), 1280),  # the released network
    "search": (32, (16, 24, 40, 80, 96, 192, 320), 1280),  # the search script, and the Pixel 1 table
    "cpu": (40, (24, 32, 48, 88, 104, 216, 360), 1432),
    "gpu": (40, (24, 32, 56, 112, 128, 256, 432), 1728),
}


def hnas_basic(input_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 1000) -> SearchSpace:
    """The basic space: 3 * 6^6 * 7^15 = 6.645e17 architectures."""
    stages = _stages((16, 32, 40, 80, 96, 192, 320), FIRST, BASIC)
    return chain_space("hnas_basic", input_size, num_classes, stem=32, stages=stages, head=1280)


def hnas_large(input_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 1000) -> SearchSpace:
    """The large space: 3 * 18^6 * 19^15 = 1.549e27 architectures."""
    stages = _stages((16, 24, 40, 80, 96, 192, 320), FIRST, LARGE)
    return chain_space("hnas_large", input_size, num_classes, stem=16, stages=stages, head=1280)


def proxyless(
    input_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 1000, widths: str = "mobile"
) -> SearchSpace:
    """ProxylessNAS (Cai et al. 2019): 6^6 * 7^15 = 2.215e17; `widths` is 'mobile', 'search', 'cpu' or 'gpu'.

    The Pixel 1 latency table covers the 'search' widths.
    """
    if widths not in PROXYLESS_WIDTHS:
        raise SpaceError(f"proxyless has no widths '{widths}'; {did_you_mean(widths, PROXYLESS_WIDTHS)}")
    stem, stage_widths, head = PROXYLESS_WIDTHS[widths]
    arguments = {"input_size": tuple(input_size), "num_classes": num_classes, "widths": widths}
    stages = _stages(stage_widths, FIRST[:1], BASIC)
    return chain_space(
        "proxyless", input_size, num_classes, stem=stem, stages=stages, head=head, bn_eps=1e-3, arguments=arguments
    )


def _stages(widths: tuple[int, ...], first: tuple[MBConv, ...], ops: tuple[MBConv, ...]) -> list[Stage]:
    rows = zip(widths, REPEATS, STRIDES, strict=True)
    return [Stage(w, n, s, first if i == 0 else ops, skip=i > 0) for i, (w, n, s) in enumerate(rows)]

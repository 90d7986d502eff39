"""The two spaces of HNAS (arXiv 2005.07564v1, Tables 1 and 2) and ProxylessNAS', which they build on."""

from __future__ import annotations

from hiernas.errors import SpaceError, did_you_mean
from hiernas.networks.ops import MBConv
from hiernas.space import SearchSpace
from hiernas.spaces.chain import Stage, chain_space, fit_strides

REPEATS, STRIDES = (1, 4, 4, 4, 4, 4, 1), (1, 2, 2, 2, 1, 2, 1)  # Table 1
FIRST = tuple(MBConv(k, 1) for k in (3, 5, 7))  # the first block's expansion is fixed to 1
BASIC = tuple(MBConv(k, e) for k in (3, 5, 7) for e in (3, 6))  # Table 2, left
LARGE = tuple(MBConv(k, e) for k in (3, 5, 7) for e in (1, 2, 3, 4, 5, 6))  # Table 2, both columns

PROXYLESS_WIDTHS = {  # stem, stages, head
    "mobile": (32, (16, 32, 40, 80, 96, 192, 320), 1280),  # the released network
    "search": (32, (16, 24, 40, 80, 96, 192, 320), 1280),  # the search script, and the Pixel 1 table
    "cpu": (40, (24, 32, 48, 88, 104, 216, 360), 1432),
    "gpu": (40, (24, 32, 56, 112, 128, 256, 432), 1728),
    "mobile_14": (48, (24, 40, 56, 112, 136, 256, 448), 1792),  # "mobile" 1.4 times as wide
}


def hnas_basic(
    input_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 1000, stem: str | None = None
) -> SearchSpace:
    """The basic space: 3 * 6^6 * 7^15 = 6.645e17 architectures.

    `stem`: see `fit_strides`.
    """
    stem_stride, stages = fit_strides(2, _stages((16, 32, 40, 80, 96, 192, 320), FIRST, BASIC), input_size, stem)
    return chain_space(
        "hnas_basic", input_size, num_classes, stem=32, stem_stride=stem_stride, stages=stages, head=1280,
        arguments={"stem": stem},
    )  # fmt: skip


def hnas_large(
    input_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 1000, stem: str | None = None
) -> SearchSpace:
    """The large space: 3 * 18^6 * 19^15 = 1.549e27 architectures.

    `stem`: see `fit_strides`.
    """
    stem_stride, stages = fit_strides(2, _stages((16, 24, 40, 80, 96, 192, 320), FIRST, LARGE), input_size, stem)
    return chain_space(
        "hnas_large", input_size, num_classes, stem=16, stem_stride=stem_stride, stages=stages, head=1280,
        arguments={"stem": stem},
    )  # fmt: skip


def proxyless(
    input_size: tuple[int, int, int] = (3, 224, 224),
    num_classes: int = 1000,
    widths: str = "mobile",
    stem: str | None = None,
) -> SearchSpace:
    """ProxylessNAS (Cai et al. 2019): 6^6 * 7^15 = 2.215e17 architectures.

    `widths` is 'mobile', 'search', 'cpu', 'gpu' or 'mobile_14'. The Pixel 1 latency table covers 'search'. `stem`: see
    `fit_strides`.
    """
    if str(widths) not in PROXYLESS_WIDTHS:
        raise SpaceError(f"proxyless has no widths '{widths}'; {did_you_mean(str(widths), PROXYLESS_WIDTHS)}")
    stem_width, stage_widths, head = PROXYLESS_WIDTHS[widths]
    stem_stride, stages = fit_strides(2, _stages(stage_widths, FIRST[:1], BASIC), input_size, stem)
    return chain_space(
        "proxyless", input_size, num_classes, stem=stem_width, stem_stride=stem_stride, stages=stages, head=head,
        bn_eps=1e-3, arguments={"widths": widths, "stem": stem},
    )  # fmt: skip


def _stages(widths: tuple[int, ...], first: tuple[MBConv, ...], ops: tuple[MBConv, ...]) -> list[Stage]:
    rows = zip(widths, REPEATS, STRIDES, strict=True)
    return [Stage(w, n, s, first if i == 0 else ops, skip=i > 0) for i, (w, n, s) in enumerate(rows)]

"""Chain spaces: how one is written down (a stem, stages of blocks with options, a head), and those of the papers.

    Stage(width=32, repeats=4, stride=2, ops=(MBConv(3, 3), MBConv(5, 6)), skip=True)

The papers' all take `stem`: see `fit_strides`. Where 'skip' is an option of a layer that changes the shape, it is there a
1x1 convolution with batch norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hiernas.errors import SpaceError, one_of
from hiernas.networks.chain import Chain
from hiernas.networks.ops import Classifier, Conv, MBConv, Op, Skip
from hiernas.networks.parts import Site
from hiernas.space import SearchSpace

Size = tuple[int, int, int]  # channels, height, width
STEMS = ("imagenet", "cifar")
MOST = 65_536  # pixels a side, channels, classes


@dataclass(frozen=True)
class Stage:
    """Blocks of one width; the stride is the first block's. `skip` adds the identity where the shape is kept."""

    width: int
    repeats: int
    stride: int
    ops: tuple[Op, ...]
    skip: bool = False


def chain_space(
    name: str, input_size: Size, num_classes: int, *, stem: int, stages: Sequence[Stage], head: int, stem_stride: int = 2,
    act: str = "relu6", dropout: float = 0.0, bn_eps: float = 1e-5, published: tuple[int, ...] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> SearchSpace:  # fmt: skip
    """A search space from stages: 3x3 convolution stem, the stages' blocks, 1x1 convolution head, classifier.

    Sites are named `stage1.block1`, `stage1.block2`, ... `published` are the blocks per stage of a published network
    with fewer of them: its own option list is then read, too. `arguments` are those of the function that makes the
    space, beyond `input_size` and `num_classes` and without those that are None; architecture files repeat them, so
    that they can be read without the space at hand. Raises `SpaceError` for sizes and stages that make no network.
    """
    check_sizes(input_size, num_classes)
    _check_stages(stages, published)
    if any(not isinstance(n, int) or not 1 <= n <= MOST for n in (stem, head)):
        raise SpaceError(f"the stem has {stem!r} channels and the head {head!r}; both are whole numbers from 1 to {MOST}")
    channels, height, width = input_size
    own = {"input_size": (channels, height, width), "num_classes": num_classes, **(arguments or {})}
    given = tuple((key, value) for key, value in own.items() if value is not None)
    sites = _sites(stem, stages)
    first = Site("stem", channels, stem, stem_stride, (Conv(3, act),))
    last = Site("head", sites[-1].cout, head, 1, (Conv(1, act),))
    classifier = Site("classifier", head, num_classes, 1, (Classifier(dropout),))
    sizes = (channels, height, width)
    return Chain(name, given, sizes, num_classes, (first,), sites, (last, classifier), bn_eps, published).space()


def fit_strides(
    stem_stride: int, stages: Sequence[Stage], input_size: Size, stem: str | None = None
) -> tuple[int, list[Stage]]:
    """The published strides of the stem and the stages, fitted to the image size.

    `stem` "imagenet": as published. None: the last feature map keeps at least 4 pixels a side, so the shorter side
    may be halved floor(log2(side / 4)) times; the earliest strides (the stem's first) become 1 until that fits.
    224 pixels keep the usual five strides of 2, 32 pixels the last three. "cifar": as None, and at most as many
    strides as 32 pixels keep, however large the image. Raises `SpaceError` where the published strides leave a feature
    map smaller than 2x2.
    """
    check_sizes(input_size)
    if stem is not None:
        one_of("stem", str(stem), STEMS, SpaceError)
    strides, side = [stem_stride, *(s.stride for s in stages)], min(input_size[1:])
    halvings = sum(s > 1 for s in strides)
    if stem == "imagenet":
        least = 2**halvings + 1
        if side < least:
            raise SpaceError(
                f"stem='imagenet' halves images {halvings} times, too often for {side} pixels: the last feature map would "
                f"be smaller than 2x2; leave stem out, or use images of at least {least} pixels a side"
            )
        return stem_stride, list(stages)
    allowed = max(0, math.floor(math.log2((min(side, 32) if stem == "cifar" else side) / 4)))
    for i, stride in enumerate(strides):
        if stride > 1 and halvings > allowed:
            strides[i], halvings = 1, halvings - 1
    return strides[0], [replace(stage, stride=s) for stage, s in zip(stages, strides[1:], strict=True)]


def _sites(cin: int, stages: Sequence[Stage]) -> tuple[Site, ...]:
    sites = []
    for i, stage in enumerate(stages, 1):
        for j in range(1, stage.repeats + 1):
            stride = stage.stride if j == 1 else 1
            keeps_shape = stride == 1 and cin == stage.width
            ops = (*stage.ops, Skip()) if stage.skip and keeps_shape else stage.ops
            names = [op.name for op in ops]
            if len(set(names)) < len(names):
                raise SpaceError(f"stage {i} lists an option twice: {', '.join(names)}; names must differ at a site")
            sites.append(Site(f"stage{i}.block{j}", cin, stage.width, stride, ops))
            cin = stage.width
    return tuple(sites)


def check_sizes(input_size: Size, num_classes: int = 2) -> None:
    """Refuse images and classes that no network is for."""
    if len(input_size) != 3 or any(not isinstance(n, int) or not 1 <= n <= MOST for n in input_size):
        raise SpaceError(f"input_size is (channels, height, width) in whole numbers from 1 to {MOST}, not {input_size!r}")
    if not isinstance(num_classes, int) or not 2 <= num_classes <= MOST:
        raise SpaceError(f"num_classes is {num_classes!r}; a classifier needs at least 2, and has {MOST} at most")


def _check_stages(stages: Sequence[Stage], published: tuple[int, ...] | None) -> None:
    if not stages:
        raise SpaceError("a chain space needs at least one Stage")
    for i, stage in enumerate(stages, 1):
        if min(stage.width, stage.repeats, stage.stride) < 1 or not stage.ops:
            raise SpaceError(f"stage {i} is {stage!r}; width, repeats and stride are at least 1, and ops names an operation")
        for op in stage.ops:
            if not callable(getattr(op, "build", None)):
                raise SpaceError(f"stage {i}: {op!r} is no operation; give objects, such as MBConv(3, 6) or Skip()")
    repeats = tuple(stage.repeats for stage in stages)
    if published is not None and (
        len(published) != len(repeats) or any(not 1 <= p <= n for p, n in zip(published, repeats, strict=True))
    ):
        raise SpaceError(f"published blocks per stage {published} do not fit into stages of {repeats} blocks")


# -- those of the papers -------------------------------------------------------------------------------------------

IMAGENET: Size = (3, 224, 224)
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # MobileNetV2's, which all but the two smallest follow
REPEATS = (1, 4, 4, 4, 4, 4, 1)
SEARCHED = (16, 24, 40, 80, 96, 192, 320)  # ProxylessNAS' script and HNAS' large space
PUBLISHED = (16, 32, 40, 80, 96, 192, 320)  # ProxylessNAS' released network and HNAS' basic space


def _stages(
    widths: Sequence[int], ops: tuple[Op, ...], first: tuple[Op, ...], skip: bool = False, repeats: Sequence[int] = REPEATS
) -> list[Stage]:
    """Seven stages; `first`: the operations of the first one, which has no skip of its own."""
    rows = enumerate(zip(widths, repeats, STRIDES, strict=True))
    return [Stage(w, n, s, ops if i else first, skip=skip and i > 0) for i, (w, n, s) in rows]


def _fitted(
    name: str, input_size: Size, num_classes: int, stages: Sequence[Stage], arguments: Mapping[str, Any],
    stem: int = 32, head: int = 1280, stem_stride: int = 2, **more: Any,
) -> SearchSpace:  # fmt: skip
    """A chain space with its published strides fitted to the images; `more`: see `chain_space`."""
    stride, fitted = fit_strides(stem_stride, stages, input_size, arguments["stem"])
    return chain_space(
        name, input_size, num_classes, stem=stem, stem_stride=stride, stages=fitted, head=head, arguments=arguments, **more
    )


def _widths(space: str, name: str, known: Mapping[str, Any]) -> Any:
    one_of(f"widths of {space}", str(name), known, SpaceError)
    return known[name]


FIRST = tuple(MBConv(k, 1) for k in (3, 5, 7))  # the first block's expansion is fixed to 1
BASIC = tuple(MBConv(k, e) for k in (3, 5, 7) for e in (3, 6))  # Table 2 of HNAS, left
LARGE = tuple(MBConv(k, e) for k in (3, 5, 7) for e in (1, 2, 3, 4, 5, 6))  # both columns


def hnas_basic(input_size: Size = IMAGENET, num_classes: int = 1000, stem: str | None = None) -> SearchSpace:
    """The basic space of HNAS (arXiv 2005.07564v1, Tables 1 and 2): 3 * 6^6 * 7^15 = 6.645e17 architectures."""
    return _fitted("hnas_basic", input_size, num_classes, _stages(PUBLISHED, BASIC, FIRST, skip=True), {"stem": stem})


def hnas_large(input_size: Size = IMAGENET, num_classes: int = 1000, stem: str | None = None) -> SearchSpace:
    """The large space of HNAS (arXiv 2005.07564v1, Tables 1 and 2): 3 * 18^6 * 19^15 = 1.549e27 architectures."""
    return _fitted("hnas_large", input_size, num_classes, _stages(SEARCHED, LARGE, FIRST, skip=True), {"stem": stem}, stem=16)


PROXYLESS_WIDTHS = {  # stem, stages, head
    "mobile": (32, PUBLISHED, 1280),  # the released network
    "search": (32, SEARCHED, 1280),  # the search script, and the Pixel 1 table
    "cpu": (40, (24, 32, 48, 88, 104, 216, 360), 1432),
    "gpu": (40, (24, 32, 56, 112, 128, 256, 432), 1728),
    "mobile_14": (48, (24, 40, 56, 112, 136, 256, 448), 1792),  # "mobile" 1.4 times as wide
}


def proxyless(
    input_size: Size = IMAGENET, num_classes: int = 1000, widths: str = "mobile", stem: str | None = None
) -> SearchSpace:
    """ProxylessNAS (Cai et al. 2019): 6^6 * 7^15 = 2.215e17 architectures.

    `widths` is 'mobile', 'search', 'cpu', 'gpu' or 'mobile_14'. The Pixel 1 latency table covers 'search'.
    """
    stem_width, stages, head = _widths("proxyless", widths, PROXYLESS_WIDTHS)
    return _fitted(
        "proxyless", input_size, num_classes, _stages(stages, BASIC, FIRST[:1], skip=True), {"widths": widths, "stem": stem},
        stem_width, head, bn_eps=1e-3,
    )  # fmt: skip


def mobilenetv2(input_size: Size = IMAGENET, num_classes: int = 1000, stem: str | None = None) -> SearchSpace:
    """MobileNetV2's layers (Sandler et al. 2018, Table 2) with a choice of kernel and expansion: a plain baseline space.

    17 layers, the first fixed: 6^6 * 7^10 = 1.318e13 architectures. All k3_e6 is MobileNetV2.
    """
    stages = _stages((16, 24, 32, 64, 96, 160, 320), BASIC, FIRST[:1], skip=True, repeats=(1, 2, 3, 4, 3, 3, 1))
    return _fitted("mobilenetv2", input_size, num_classes, stages, {"stem": stem}, dropout=0.2)


MNASNET_OPS: tuple[Op, ...] = (
    *(MBConv(k, e, se, act="relu") for k in (3, 5) for e in (1, 3, 6) for se in (False, True)),
    Skip(act="relu"),
)
MNASNET_WIDTHS = {  # stages, and blocks per stage of the published network
    "a1": ((16, 24, 40, 80, 112, 160, 320), (1, 2, 3, 4, 2, 3, 1)),
    "b1": ((16, 24, 40, 80, 96, 192, 320), (1, 3, 3, 3, 2, 4, 1)),
}


def mnasnet(input_size: Size = IMAGENET, num_classes: int = 1000, widths: str = "a1", stem: str | None = None) -> SearchSpace:
    """MnasNet's layers (Tan et al. 2019) with a choice in every layer, as HourNAS (CVPR 2021) searches them.

    22 layers, the first fixed, 13 options in the others: 13^21 = 2.471e23 architectures (HourNAS: 2.5e23). `widths` is
    'a1' or 'b1', after the network; its own list of 16 or 17 blocks is read, too.
    """
    stages, blocks = _widths("mnasnet", widths, MNASNET_WIDTHS)
    return _fitted(
        "mnasnet", input_size, num_classes, _stages(stages, MNASNET_OPS, (MBConv(3, 1, act="relu"),)),
        {"widths": widths, "stem": stem}, act="relu", dropout=0.2, bn_eps=1e-3, published=blocks,
    )  # fmt: skip


def efficientnet(
    input_size: Size = IMAGENET, num_classes: int = 1000, stem: str | None = None, keep_1x1: bool = False
) -> SearchSpace:
    """EfficientNet-B0's layers (Tan and Le 2019) with a choice in every layer, as HourNAS (CVPR 2021) searches them.

    22 layers of 7 options: 7^22 = 3.910e18 architectures (HourNAS: 4e18). EfficientNet-B0's own list of 16 blocks is read,
    too. `keep_1x1`: blocks of expansion 1 keep their first 1x1 convolution, which HourNAS does and EfficientNet-B0 does not.
    """
    if not isinstance(keep_1x1, bool):
        raise SpaceError(f"keep_1x1 is {keep_1x1!r}; it is true or false")
    blocks = (MBConv(k, e, se=True, act="silu", keep_1x1=keep_1x1) for k in (3, 5) for e in (1, 3, 6))
    ops: tuple[Op, ...] = (*blocks, Skip(act="silu"))
    return _fitted(
        "efficientnet", input_size, num_classes, _stages((16, 24, 40, 80, 112, 192, 320), ops, ops),
        {"stem": stem, "keep_1x1": keep_1x1 or None}, act="silu", dropout=0.2, bn_eps=1e-3, published=(1, 2, 2, 3, 3, 4, 1),
    )  # fmt: skip


def _fbnet_block(kernel: int, expand: int, groups: int = 1) -> MBConv:
    """FBNet's block: ReLU, and the first 1x1 convolution stays where the expansion is 1."""
    return MBConv(kernel, expand, act="relu", groups=groups, keep_1x1=True)


def fbnet(
    input_size: Size = IMAGENET, num_classes: int = 1000, stem: str | None = None, head: int | None = None
) -> SearchSpace:
    """FBNet (Wu et al. 2019, Tables 1 and 2): 22 layers of 9 operations, 9^22 = 9.848e20 architectures.

    `head` is the width of the last 1x1 convolution; None: 1984, and 1504 with the strides for 32 pixels.
    """
    blocks = [_fbnet_block(k, *rest) for k in (3, 5) for rest in ((1,), (1, 2), (3,), (6,))]
    return _fbnet("fbnet", (*blocks, Skip(act="relu")), input_size, num_classes, stem, head)


def fbnet_enlarged(
    input_size: Size = IMAGENET, num_classes: int = 1000, stem: str | None = None, head: int | None = None
) -> SearchSpace:
    """HourNAS' enlarged FBNet space (CVPR 2021, section 4.2): 22 layers of 10 operations, 10^22 architectures.

    Kernel 7 in addition, and no groups. Otherwise as `fbnet`.
    """
    blocks = [_fbnet_block(k, e) for k in (3, 5, 7) for e in (1, 3, 6)]
    return _fbnet("fbnet_enlarged", (*blocks, Skip(act="relu")), input_size, num_classes, stem, head)


def _fbnet(
    name: str, ops: tuple[Op, ...], input_size: Size, num_classes: int, stem: str | None, head: int | None
) -> SearchSpace:
    stages = _stages((16, 24, 32, 64, 112, 184, 352), ops, ops)
    stem_stride, fitted = fit_strides(2, stages, input_size, stem)
    width = 1504 if stem_stride * fitted[1].stride == 1 else 1984  # 1504: with the strides for 32 pixels, or fewer
    return _fitted(
        name, input_size, num_classes, stages, {"stem": stem, "head": head},
        stem=16, head=width if head is None else head, act="relu",
    )  # fmt: skip


def nasbench_macro(input_size: Size = (3, 32, 32), num_classes: int = 10, stem: str | None = None) -> SearchSpace:
    """NAS-Bench-Macro (Su et al. 2021): 8 layers of 3 options, 3^8 = 6561 architectures, all of them trained on CIFAR-10.

    The options are the benchmark's ids 0, 1 and 2. The published strides are those for 32 pixels.
    """
    ops = (Skip(), MBConv(3, 3, act="relu"), MBConv(5, 6, act="relu"))
    stages = (Stage(64, 2, 2, ops), Stage(128, 3, 2, ops), Stage(256, 3, 2, ops))
    return _fitted("nasbench_macro", input_size, num_classes, stages, {"stem": stem}, stem_stride=1, act="relu")


def tiny(input_size: Size = (1, 8, 8), num_classes: int = 10) -> SearchSpace:
    """A space for small images and small machines: 8 layers, up to 4^3 * 5^5 = 200,000 architectures.

    Strides follow the image: the last stage works at 4 to 7 pixels a side.
    """
    halvings = min(5, max(0, round(math.log2(max(1, min(input_size[1:])) / 5))))  # 8 px: 1, 32 px: 3, 224 px: 5
    strides = dict.fromkeys((4, 0, 3, 2, 1)[:halvings], 2)  # the last stage first, then the stem (0), stage 3, 2, 1
    ops = tuple(MBConv(k, e) for k in (3, 5) for e in (3, 6))
    stages = [Stage(w, 2, strides.get(i, 1), ops, skip=True) for i, w in enumerate((16, 24, 40, 80), 1)]
    return chain_space("tiny", input_size, num_classes, stem=16, stem_stride=strides.get(0, 1), stages=stages, head=160)

"""A chain of inverted bottlenecks in timm's block strings, such as `ir_r2_k5_s2_e3_c24_se0.25`.

The strings and the arguments beside them make timm's `EfficientNet` build the same layers in the same order (checked
with timm 1.0.31). Its rules: only the first block of a stage has a stride, channels are multiples of 8, and
squeeze-and-excite is reduced to round(0.25 * input channels). Its stem has stride 2, which has to be changed afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from hiernas.errors import ExportError
from hiernas.export.layout import data, layout
from hiernas.ops import ACTIVATIONS, Classifier, Conv, MBConv, Op, Skip
from hiernas.space import Architecture
from hiernas.supernet.chain import Chain, Site

ACT_SUFFIX = {"relu": "re", "relu6": "r6", "silu": "sw", "hswish": "hs"}
LARGEST_STRIDE = 16  # of all blocks together: timm turns further strides into dilation
SE_RATIO = 0.25


@dataclass(frozen=True)
class TimmNetwork:
    """What timm's EfficientNet needs to build a network."""

    arch_def: tuple[tuple[str, ...], ...]  # per stage its blocks
    stem_size: int
    stem_stride: int  # no argument of timm's, which takes 2
    num_features: int  # channels of the head
    act: str
    bn_eps: float
    drop_rate: float


def timm_network(architecture: Architecture) -> TimmNetwork:
    """The timm description of an architecture; raises `ExportError` with the reason where timm cannot build it."""
    chain = architecture.skeleton
    if not isinstance(chain, Chain):
        raise ExportError(f"'{chain.name}' is no chain of blocks")
    if architecture.filters:
        raise ExportError("some of its operations keep only a part of their output filters")
    stem, head, classifier = _ends(chain)
    act = _same_act(stem.ops[0], head.ops[0])
    _check_strides(chain)
    chosen = dict(zip(chain.sites, _options(architecture), strict=True))
    stages = []
    for _, sites in groupby(chain.sites, key=lambda s: s.name.rpartition(".")[0]):
        blocks = [_block(site, site.op(chosen[site]), act) for site in sites]
        if any(blocks):
            stages.append(tuple(_merged([b for b in blocks if b])))
    if not stages:
        raise ExportError("no block is left between its stem and its head")
    dropout = classifier.ops[0].dropout if isinstance(classifier.ops[0], Classifier) else 0.0
    return TimmNetwork(tuple(stages), stem.cout, stem.stride, head.cout, act, chain.bn_eps, dropout)


def _options(architecture: Architecture) -> list[str]:
    for name, choice in zip(architecture.skeleton.site_names, architecture.choices, strict=True):
        if len(choice) != 1 or choice[0][1] != 1.0:
            raise ExportError(f"'{name}' is a weighted sum of operations")
    return list(architecture.options)


def _ends(chain: Chain) -> tuple[Site, Site, Site]:
    fits = len(chain.stem) == 1 and len(chain.head) == 2
    ops = [site.ops[0] for site in (*chain.stem, *chain.head)]
    if not fits or [type(op) for op in ops] != [Conv, Conv, Classifier] or [getattr(o, "kernel", 0) for o in ops] != [3, 1, 0]:
        raise ExportError("its stem is not one 3x3 convolution, or its head not a 1x1 convolution and a linear layer")
    if chain.head[0].stride != 1:
        raise ExportError(f"its head has stride {chain.head[0].stride}, and timm's has 1")
    _check_channels(chain.stem[0].cout, "stem")
    return (*chain.stem, *chain.head)  # type: ignore[return-value] # the lengths were checked


def _same_act(stem: Op, head: Op) -> str:
    acts = [op.act for op in (stem, head) if isinstance(op, Conv)]
    if acts[0] != acts[1] or acts[0] is None:
        raise ExportError(f"its stem has activation {acts[0]}, its head {acts[1]}, and timm has one for both")
    return acts[0]


def _check_strides(chain: Chain) -> None:
    total = 1
    for site in chain.sites:
        total *= site.stride
        if site.stride not in (1, 2):
            raise ExportError(f"'{site.name}' has stride {site.stride}, and timm takes 1 and 2")
    if total > LARGEST_STRIDE:
        raise ExportError(f"its blocks reduce the image {total} times, and timm's at most {LARGEST_STRIDE} times")


def _check_channels(channels: int, name: str) -> None:
    if channels % 8:
        raise ExportError(f"'{name}' has {channels} channels, which timm rounds to a multiple of 8")


def _block(site: Site, op: Op, act: str) -> str:
    """The string of one block; "" for the identity."""
    _check_channels(site.cout, site.name)
    if isinstance(op, MBConv):
        return _mbconv(site, op) + _act_suffix(op.act, act)
    if isinstance(op, Skip) and site.stride == 1 and site.cin == site.cout:
        return ""
    if not isinstance(op, Conv | Skip):
        raise ExportError(f"'{site.name}' is a '{op.name}', which timm has no block for")
    if op.act is None:
        raise ExportError(f"'{site.name}' is a convolution without activation, which timm has no block for")
    return f"cn_r1_k{op.kernel if isinstance(op, Conv) else 1}_s{site.stride}_c{site.cout}{_act_suffix(op.act, act)}"


def _mbconv(site: Site, op: MBConv) -> str:
    if op.groups != 1:
        raise ExportError(f"'{site.name}' has 1x1 convolutions in groups with a channel shuffle")
    expands = op.expand != 1 or op.keep_1x1
    mid = site.cin * op.expand
    if expands:
        _check_channels(mid, f"{site.name}, expanded,")
    reduced = round(mid * (SE_RATIO / op.expand))
    if op.se and reduced != max(1, site.cin // 4):
        raise ExportError(f"'{site.name}' squeezes to {max(1, site.cin // 4)} channels, and timm to {reduced}")
    kind = "ir" if expands else "ds"
    return f"{kind}_r1_k{op.kernel}_s{site.stride}_e{op.expand}_c{site.cout}" + (f"_se{SE_RATIO}" if op.se else "")


def _act_suffix(own: str, common: str) -> str:
    return "" if own == common else f"_n{ACT_SUFFIX[own]}"


def _merged(blocks: list[str]) -> Iterator[str]:
    """Blocks that differ at most in the first one's stride as one string with their number."""
    for _, same in groupby(blocks, key=lambda block: re.sub(r"_s\d_", "_", block)):
        equal = list(same)
        yield equal[0].replace("_r1_", f"_r{len(equal)}_", 1)


# -- as source ---------------------------------------------------------------------------------------------------


def timm_source(found: TimmNetwork | str, num_classes: int, channels: int) -> str:
    """The constant ARCH_DEF and, where timm can build the network, a function that makes it do so."""
    if isinstance(found, str):
        return f"# timm cannot build this network: {found}.\nARCH_DEF = None"
    arguments = {
        "num_classes": num_classes, "in_chans": channels, "stem_size": found.stem_size,
        "num_features": found.num_features, "drop_rate": found.drop_rate,
    }  # fmt: skip
    shown = layout(data(arguments), prefix="TIMM = ")
    stages = "\n".join(layout(data(list(stage)), 4, suffix=",") for stage in found.arch_def)
    stride = "" if found.stem_stride == 2 else STEM_STRIDE.format(found.stem_stride)
    act = ACTIVATIONS[found.act].__name__
    return TIMM.format(stages=stages, shown=shown, act=act, eps=repr(found.bn_eps), stem_stride=stride)


TIMM = '''\
# The network in timm's block strings, per stage, with the arguments of its EfficientNet.
ARCH_DEF = [
{stages}
]
{shown}


def to_timm(network: nn.Module) -> nn.Module:
    """timm's module (1.0.31) with the weights of `network`, whose layers stand in the same order."""
    from functools import partial

    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    norm = partial(nn.BatchNorm2d, eps={eps})
    made = EfficientNet(decode_arch_def(ARCH_DEF), act_layer=nn.{act}, norm_layer=norm, fix_stem=True, **TIMM)
{stem_stride}    made.load_state_dict(dict(zip(made.state_dict(), network.state_dict().values(), strict=True)))
    return made.train(network.training)'''

STEM_STRIDE = "    made.conv_stem.stride = ({0}, {0})  # timm's stem has 2\n"

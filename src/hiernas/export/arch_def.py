"""A chain of inverted bottlenecks in timm's block strings, such as `ir_r2_k5_s2_e3_c24_se0.25`.

The strings and the arguments beside them make timm's `EfficientNet` build the same layers in the same order (checked
with timm 1.0.31). Its rules: only the first block of a stage has a stride, channels are multiples of 8, and
squeeze-and-excite is reduced to round(0.25 * input channels). Its stem has stride 2, which has to be changed afterwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

from hiernas.errors import ExportError
from hiernas.export.source import layers_of
from hiernas.networks.ops import ACTIVATIONS, Classifier, Conv, MBConv, Origin, Skip
from hiernas.space import Architecture

ACT_SUFFIX = {"relu": "re", "relu6": "r6", "silu": "sw", "hswish": "hs"}
LARGEST_STRIDE = 16  # of all blocks together: timm turns further strides into dilation
SE_RATIO = 0.25


@dataclass(frozen=True)
class TimmNetwork:
    """What timm's EfficientNet needs to build a network."""

    arch_def: list[list[str]]  # per stage its blocks
    arguments: dict[str, float]  # those that are numbers
    stem_stride: int  # no argument of timm's, which takes 2
    act: str
    bn_eps: float

    @property
    def layer(self) -> str:
        """The class of the activation, in torch.nn."""
        return ACTIVATIONS[self.act].__name__


def timm_network(architecture: Architecture, network: nn.Module | None = None) -> TimmNetwork:
    """The timm description of an architecture; raises `ExportError` with the reason where timm cannot build it.

    `network`: the architecture's, where it was built already.
    """
    if network is None:
        with torch.device("meta"):
            network = architecture.build()
    if not isinstance(network, nn.Sequential):
        raise ExportError(f"'{architecture.skeleton.name}' is no chain of blocks")
    if architecture.filters:
        raise ExportError("some of its operations keep only a part of their output filters")
    match list(layers_of(network)):
        case [
            ("stem.0", Origin(Conv(3, str(act)), _, stem_size, stem_stride)), *blocks,
            ("head.0", Origin(Conv(1, head_act), _, features, 1)), ("head.1", Origin(Classifier(dropout)))
        ] if act == head_act:  # fmt: skip
            _check_channels("stem", stem_size)
        case _:
            raise ExportError("it has not timm's stem (a 3x3 convolution) and head (1x1, as activated as the stem; linear)")
    arguments = {
        "num_classes": architecture.skeleton.num_classes, "in_chans": architecture.skeleton.input_size[0],
        "stem_size": stem_size, "num_features": features, "drop_rate": dropout,
    }  # fmt: skip
    eps = next(m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    return TimmNetwork(_stages(blocks, act), arguments, stem_stride, act, eps)


def _stages(blocks: list[tuple[str, Origin | None]], act: str) -> list[list[str]]:
    """The strings of all blocks, stage by stage."""
    total = math.prod(origin.stride for _, origin in blocks if origin)
    if total > LARGEST_STRIDE:
        raise ExportError(f"its blocks reduce the image {total} times, and timm's at most {LARGEST_STRIDE} times")
    stages = []
    for _, stage in groupby(blocks, key=lambda block: block[0].rpartition("_")[0]):
        strings = [string for name, origin in stage if (string := _block(name, origin, act))]
        stages += [list(_merged(strings))] if strings else []
    if not stages:
        raise ExportError("no block is left between its stem and its head")
    return stages


def _check_channels(name: str, channels: int) -> None:
    if channels % 8:
        raise ExportError(f"'{name}' has {channels} channels, which timm rounds to a multiple of 8")


def _block(name: str, block: Origin | None, common_act: str) -> str:
    """The string of one block; "" for the identity."""
    if block is None:
        raise ExportError(f"'{name}' is a weighted sum of operations")
    op, cin, cout, stride = block
    _check_channels(name, cout)
    if stride not in (1, 2):
        raise ExportError(f"'{name}' has stride {stride}, and timm takes 1 and 2")
    if isinstance(op, Skip) and stride == 1 and cin == cout:
        return ""
    if not isinstance(op, MBConv | Conv | Skip):
        raise ExportError(f"'{name}' is a '{op.name}', which timm has no block for")
    if op.act is None:
        raise ExportError(f"'{name}' is a convolution without activation, which timm has no block for")
    act = "" if op.act == common_act else f"_n{ACT_SUFFIX[op.act]}"
    if not isinstance(op, MBConv):
        return f"cn_r1_k{op.kernel if isinstance(op, Conv) else 1}_s{stride}_c{cout}{act}"
    if op.groups != 1:
        raise ExportError(f"'{name}' has 1x1 convolutions in groups with a channel shuffle")
    expands = op.expand != 1 or op.keep_1x1
    _check_channels(f"{name}, expanded,", cin * op.expand if expands else 8)
    ours, theirs = max(1, cin // 4), round(cin * op.expand * (SE_RATIO / op.expand))
    if op.se and ours != theirs:
        raise ExportError(f"'{name}' squeezes to {ours} channels, and timm to {theirs}")
    se = f"_se{SE_RATIO}" if op.se else ""
    return f"{'ir' if expands else 'ds'}_r1_k{op.kernel}_s{stride}_e{op.expand}_c{cout}{se}{act}"


def _merged(blocks: list[str]) -> Iterator[str]:
    """Blocks that differ at most in the first one's stride as one string with their number."""
    for _, same in groupby(blocks, key=lambda block: re.sub(r"_s\d_", "_", block)):
        equal = list(same)
        yield equal[0].replace("_r1_", f"_r{len(equal)}_", 1)

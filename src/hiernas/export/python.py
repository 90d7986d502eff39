"""Export to Python: one readable module file that needs torch only, with its weights beside it.

    import best
    network = best.load()

The layers are the ones the network was trained with: classes are copied from where they are defined, and put into the
frame `network.py.jinja`. The whole file is run without HierNAS before it is written (about 3 s, most of it torch's import).
"""

from __future__ import annotations

import copy
import io
import json
import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from torch import Tensor, nn

from hiernas.costs.tables import count, drop_train_only
from hiernas.errors import ExportError
from hiernas.export.source import WIDTH, Sources, Writer, layers_of, literal
from hiernas.names import VERSION
from hiernas.networks.filters import Spread, leave, tail_of
from hiernas.networks.ops import ACTIVATIONS, Classifier, Conv, MBConv, Origin, Skip
from hiernas.space import Architecture

FRAME = Path(__file__).with_name("network.py.jinja")


def python_files(
    network: nn.Module, images: Tensor, metadata: Mapping[str, str], architecture: Architecture | None
) -> tuple[bytes, bytes]:
    """The module file and its weights: a state dict that `torch.load(weights_only=True)` reads.

    Raises `ExportError` where a module's source is not at hand or needs more than torch.
    """
    deployed = copy.deepcopy(network)
    drop_train_only(deployed)
    state = {name: value.contiguous() for name, value in deployed.state_dict().items()}
    values = {name: _read(value) for name, value in metadata.items()}
    size = tuple(images.shape[1:])
    timm: TimmNetwork | str | None
    try:
        timm = None if architecture is None else timm_network(architecture, deployed)
    except ExportError as error:  # which says why timm has no words for it
        timm = str(error)
    frame = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    text = frame.from_string(FRAME.read_text()).render(
        version=VERSION, about=_about(deployed, size, values, architecture), **_parts(deployed, size),
        train_only=len(state) < len(network.state_dict()), timm=timm, metadata=values, literal=literal, input_size=(1, *size),
    )  # fmt: skip
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return text.encode(), buffer.getvalue()


def _read(value: str) -> Any:
    """A metadata value: JSON where it is, else the text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _parts(network: nn.Module, input_size: tuple[int, ...]) -> dict[str, Any]:
    """What the frame says of the network itself."""
    sources = Sources()
    writer, layers = Writer(sources), dict(layers_of(network))
    filters = {
        path: tuple(i for i, digit in enumerate(spread.kept) if digit == "1")
        for path, module in network.named_modules()
        for spread in module.children()
        if isinstance(spread, Spread)
    }
    for helper in (leave, tail_of) if filters else ():
        sources.refer(helper)
    eps = {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    is_chain = isinstance(network, nn.Sequential) and all(layers.values())
    try:
        return {
            "layers": writer.table(layers, input_size) if is_chain else [],
            "expression": "" if is_chain else writer.value(network),
            "functions": writer.functions,
            "filters": literal(filters) if filters else "",
            "bn_eps": eps.pop() if len(eps) == 1 else None,
            "definitions": sources.definitions.values(),
            "imports": sources.imports(),
        }
    except ExportError as error:
        raise ExportError(
            f"the network cannot be written as Python: {error}; export to onnx or pt2 instead, or define its modules at the "
            "top of a file that needs PyTorch only"
        ) from error


def _about(
    network: nn.Module, input_size: tuple[int, ...], values: Mapping[str, Any], architecture: Architecture | None
) -> str:
    counted = count(lambda: copy.deepcopy(network).to("meta"), (input_size[0], input_size[1], input_size[2]))
    entries = {}
    if architecture is not None:
        arguments = ", ".join(f"{k}={v!r}" for k, v in architecture.skeleton.arguments)
        sites = architecture.to_json()["sites"].values()
        entries["space"] = f"{architecture.skeleton.name}({arguments})"
        entries["options"] = " ".join(s if isinstance(s, str) else json.dumps(s) for s in sites)
    entries["input"] = f"float32 [batch, {', '.join(map(str, input_size))}]"
    if "mean" in values and "std" in values:
        entries["input"] += f", (pixels / 255 - mean) / std per channel, mean {values['mean']}, std {values['std']}"
    entries["output"] = "logits [batch, classes]" + ', in the order of METADATA["classes"]' * ("classes" in values)
    entries["params"] = f"{counted.params:,}"
    entries["MACs"] = f"{counted.macs:,} multiply-adds of convolutions and linear layers, for one image"
    wrapped = (textwrap.wrap(f"{name:<9}{text}", WIDTH, subsequent_indent=" " * 9) for name, text in entries.items())
    lines = [line for entry in wrapped for line in entry]
    return "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")


# -- in timm's words ---------------------------------------------------------------------------------------------
# A chain of inverted bottlenecks in timm's block strings, such as `ir_r2_k5_s2_e3_c24_se0.25`. They and the arguments
# beside them make timm's `EfficientNet` build the same layers in the same order (checked with timm 1.0.31). Its rules: only
# the first block of a stage has a stride, channels are multiples of 8, and squeeze-and-excite is reduced to
# round(0.25 * input channels). Its stem has stride 2, which has to be changed afterwards.

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
        # those that differ at most in the first one's stride become one string with their number
        equal = [list(same) for _, same in groupby(strings, key=lambda block: re.sub(r"_s\d_", "_", block))]
        stages += [[same[0].replace("_r1_", f"_r{len(same)}_", 1) for same in equal]] if equal else []
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

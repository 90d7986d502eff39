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
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from torch import Tensor, nn

from hiernas.costs.count import count
from hiernas.errors import ExportError
from hiernas.export.arch_def import TimmNetwork, timm_network
from hiernas.export.source import WIDTH, Sources, Writer, layers_of, literal
from hiernas.networks.filters import Spread, leave, tail_of
from hiernas.space import Architecture
from hiernas.version import VERSION

FRAME = Path(__file__).with_name("network.py.jinja")


def python_files(
    network: nn.Module, images: Tensor, metadata: Mapping[str, str], architecture: Architecture | None
) -> tuple[bytes, bytes]:
    """The module file and its weights: a state dict that `torch.load(weights_only=True)` reads.

    Raises `ExportError` where a module's source is not at hand or needs more than torch.
    """
    deployed = copy.deepcopy(network)
    for module in list(deployed.modules()):
        for name, child in list(module.named_children()):
            if getattr(child, "train_only", False):  # auxiliary heads
                setattr(module, name, None)
    state = {name: value.contiguous() for name, value in deployed.state_dict().items()}
    values = {name: _read(value) for name, value in metadata.items()}
    size = tuple(images.shape[1:])
    frame = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    text = frame.from_string(FRAME.read_text()).render(
        version=VERSION, about=_about(deployed, size, values, architecture), **_parts(deployed, size),
        train_only=len(state) < len(network.state_dict()), timm=_timm(deployed, architecture), metadata=values, literal=literal,
        input_size=(1, *size),
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


def _timm(network: nn.Module, architecture: Architecture | None) -> TimmNetwork | str | None:
    """The network in timm's words, or why it has none."""
    try:
        return None if architecture is None else timm_network(architecture, network)
    except ExportError as error:
        return str(error)


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

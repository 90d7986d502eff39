"""Export to Python: one readable module file that needs torch only, with its weights beside it.

    import best
    network = best.load()

The layers are the ones the network was trained with: classes are copied from where they are defined, and the whole file
is run in a fresh interpreter without HierNAS before it is written (about 3 s, most of it torch's import).
"""

from __future__ import annotations

import copy
import io
import json
import textwrap
from collections.abc import Mapping
from string import Template
from typing import Any

import torch
from torch import Tensor, nn

from hiernas.costs.count import count
from hiernas.errors import ExportError
from hiernas.export.arch_def import timm_source
from hiernas.export.source import WIDTH, Import, Sources, Writer, layers_of, literal
from hiernas.networks.filters import Spread, leave, tail_of
from hiernas.space import Architecture
from hiernas.version import VERSION

RESERVED = (
    "ARCH_DEF", "FILTERS", "LAYERS", "METADATA", "Path", "TIMM", "WEIGHTS", "build", "load", "nn", "to_timm", "torch",
)  # fmt: skip
NEEDED = (Import("pathlib", "Path"), Import("torch"), Import("torch", "nn"))


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
    text = python_source(deployed, tuple(images.shape[1:]), metadata, architecture)
    if len(state) < len(network.state_dict()):
        text = text.replace("load_state_dict(state)", "load_state_dict({name: state[name] for name in network.state_dict()})")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return text.encode(), buffer.getvalue()


def python_source(
    network: nn.Module, input_size: tuple[int, ...], metadata: Mapping[str, str], architecture: Architecture | None
) -> str:
    """The text of the module file."""
    sources = Sources(RESERVED, NEEDED)
    try:
        body = _body(network, input_size, sources)
    except ExportError as error:
        raise ExportError(
            f"the network cannot be written as Python: {error}; export to onnx or pt2 instead, or define its modules at the "
            "top of a file that needs PyTorch only"
        ) from error
    values = {name: _read(value) for name, value in metadata.items()}
    parts = [*sources.definitions.values(), *body]
    return FILE.substitute(
        about=_about(network, input_size, values, architecture),
        imports=sources.imports(),
        body="\n\n\n".join(parts),
        timm="" if architecture is None else f"{timm_source(architecture)}\n\n\n",
        metadata=literal(values),
        size=", ".join(map(str, (1, *input_size))),
    )


def _body(network: nn.Module, input_size: tuple[int, ...], sources: Sources) -> list[str]:
    """Tables, functions and `build`; what they use is added to `sources`."""
    writer, layers = Writer(sources), {name: origin for name, origin in layers_of(network) if origin}
    if isinstance(network, nn.Sequential) and len(layers) == len(list(layers_of(network))):
        parts, steps = [writer.table(layers, input_size)], [CHAIN]
    else:
        expression = writer.value(network)
        parts, steps = writer.functions(), [f"network = {expression}"]
    filters = {
        path: tuple(i for i, digit in enumerate(spread.kept) if digit == "1")
        for path, module in network.named_modules()
        for spread in module.children()
        if isinstance(spread, Spread)
    }
    if filters:
        parts.append(f"FILTERS = {literal(filters)}  # what these operations keep of their output filters")
        steps.append(LEAVE.format(leave=sources.refer(leave), tail_of=sources.refer(tail_of)))
    eps = {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    if len(eps) == 1:
        steps.append(EPS.format(*eps))
    return [*parts, BUILD.format(textwrap.indent("\n".join(steps), "    "))]


def _read(value: str) -> Any:
    """A metadata value: JSON where it is, else the text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


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
    lines = [f"A network written by HierNAS {VERSION}. It needs PyTorch and nothing else.", ""]
    for name, text in entries.items():
        lines += textwrap.wrap(f"{name:<9}{text}", WIDTH, subsequent_indent=" " * 9, break_long_words=False)
    return "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")


# -- the text ----------------------------------------------------------------------------------------------------

BUILD = '''\
def build() -> nn.Module:
    """The network with random weights."""
{}
    return network'''

CHAIN = """\
network = nn.Sequential()
for name, operation, cin, cout, stride in LAYERS:
    group, _, place = name.rpartition(".")  # "head.1" is the second layer of "head"
    if group and not hasattr(network, group):
        network.add_module(group, nn.Sequential())
    network.get_submodule(group).add_module(place, operation.build(cin, cout, stride))"""

LEAVE = """\
for path, kept in FILTERS.items():
    {leave}({tail_of}(network.get_submodule(path)), kept)"""

EPS = """\
for module in network.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.eps = {}"""

FILE = Template('''\
"""$about
"""

from __future__ import annotations

$imports

WEIGHTS = Path(__file__).with_suffix(".pt")  # beside this file


$body


def load(weights: str | Path = WEIGHTS) -> nn.Module:
    """The trained network, in evaluation mode; `weights` is a state dict as .pt or .safetensors."""
    if Path(weights).suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(weights)
    else:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    network = build()
    network.load_state_dict(state)
    return network.eval()


${timm}METADATA = $metadata


if __name__ == "__main__":
    image = torch.rand($size)
    with torch.no_grad():
        print("image", tuple(image.shape), "-> logits", tuple(load()(image).shape))
''')

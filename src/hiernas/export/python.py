"""Export to Python: one readable module file that needs torch only, with its weights beside it.

    import best
    network = best.load()

The layers are the ones the network was trained with: classes are copied from where they are defined, and what is
generated around them is run in a fresh interpreter without HierNAS before it is written (about 3 s, most of it torch's
import).
"""

from __future__ import annotations

import copy
import io
import json
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hiernas.costs.count import count
from hiernas.errors import ExportError
from hiernas.export.arch_def import TimmNetwork, timm_network, timm_source
from hiernas.export.chain import RESERVED as CHAIN_NAMES
from hiernas.export.chain import chain_source
from hiernas.export.layout import WIDTH, data, layout
from hiernas.export.modules import expression
from hiernas.export.shared import shared
from hiernas.export.sources import Sources
from hiernas.space import Architecture
from hiernas.supernet.chain import Chain
from hiernas.version import VERSION

RESERVED = CHAIN_NAMES | {"ARCH_DEF", "METADATA", "TIMM", "WEIGHTS", "Path", "build", "load", "nn", "to_timm", "torch"}


def python_files(
    network: nn.Module, images: Tensor, metadata: Mapping[str, str], architecture: Architecture | None
) -> tuple[bytes, bytes]:
    """The module file and its weights: a state dict that `torch.load(weights_only=True)` reads.

    With the architecture of a chain the file has a table of its layers; else the modules' tree is written out.
    Raises `ExportError` where a module's source is not at hand or needs more than torch.
    """
    whole = len(network.state_dict())
    network = _without_training_parts(network)
    text = python_source(network, tuple(images.shape[1:]), metadata, architecture)
    if len(network.state_dict()) < whole:
        text = text.replace("load_state_dict(state)", "load_state_dict({name: state[name] for name in network.state_dict()})")
    buffer = io.BytesIO()
    torch.save({name: value.contiguous() for name, value in network.state_dict().items()}, buffer)
    return text.encode(), buffer.getvalue()


def _without_training_parts(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if getattr(child, "train_only", False):  # auxiliary heads
                setattr(module, name, None)
    return network


def python_source(
    network: nn.Module, input_size: tuple[int, ...], metadata: Mapping[str, str], architecture: Architecture | None
) -> str:
    """The text of the module file."""
    needed = {("pathlib", "Path", ""), ("torch", "", ""), ("torch", "nn", "")}
    sources = Sources(imports=needed, reserved=RESERVED)
    values = {name: _read(value) for name, value in metadata.items()}
    body = _body(network, architecture, sources)
    head = [_header(network, input_size, values, architecture), sources.import_lines(), WEIGHTS]
    about = layout(data(values), prefix="METADATA = ")
    main = MAIN.format(size=", ".join(map(str, (1, *input_size))))
    return "\n\n\n".join(["\n\n".join(head), *sources.definitions.values(), *body, about, main]) + "\n"


def _body(network: nn.Module, architecture: Architecture | None, sources: Sources) -> list[str]:
    """From the network's own functions to `load`; for a chain with timm's words for it."""
    chain = None if architecture is None else architecture.skeleton
    if architecture is None or not isinstance(chain, Chain):
        try:
            tree = expression(network, sources)
        except ExportError as error:
            raise ExportError(f"the network cannot be written as Python: {error}; export to onnx or pt2 instead") from error
        (tree,), functions = shared([tree], RESERVED | set(sources.definitions))
        return [*functions, BUILD.format(layout(tree, 4, "return ")), LOAD]
    body = chain_source(chain, architecture, network, sources)
    try:
        timm: TimmNetwork | str = timm_network(architecture)
    except ExportError as error:
        timm = str(error)
    return [body, LOAD, timm_source(timm, chain.num_classes, chain.input_size[0])]


def _read(value: str) -> Any:
    """A metadata value: JSON where it is, else the text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _header(
    network: nn.Module, input_size: tuple[int, ...], values: Mapping[str, Any], architecture: Architecture | None
) -> str:
    counted = count(lambda: copy.deepcopy(network).to("meta"), (input_size[0], input_size[1], input_size[2]))
    lines = ["A network written by HierNAS " + VERSION + ". It needs PyTorch and nothing else.", ""]
    if architecture is not None:
        arguments = ", ".join(f"{k}={v!r}" for k, v in architecture.skeleton.arguments)
        lines += _entry("space", f"{architecture.skeleton.name}({arguments})")
        sites = architecture.to_json()["sites"].values()
        lines += _entry("options", " ".join(s if isinstance(s, str) else json.dumps(s) for s in sites))
    normalised = ""
    if "mean" in values and "std" in values:
        normalised = f", (pixels / 255 - mean) / std per channel, mean {values['mean']}, std {values['std']}"
    lines += _entry("input", f"float32 [batch, {', '.join(map(str, input_size))}]{normalised}")
    lines += _entry("output", "logits [batch, classes]" + ', in the order of METADATA["classes"]' * ("classes" in values))
    lines += _entry("params", f"{counted.params:,}")
    lines += _entry("MACs", f"{counted.macs:,} multiply-adds of convolutions and linear layers, for one image")
    text = "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{text}\n"""\n\nfrom __future__ import annotations'


def _entry(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{name:<9}", subsequent_indent=" " * 9, break_long_words=False)


WEIGHTS = 'WEIGHTS = Path(__file__).with_suffix(".pt")  # beside this file'

BUILD = '''\
def build() -> nn.Module:
    """The network with random weights."""
{}'''

LOAD = '''\
def load(weights: str | Path = WEIGHTS) -> nn.Module:
    """The trained network, in evaluation mode; `weights` is a state dict as .pt or .safetensors."""
    if Path(weights).suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(weights)
    else:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    network = build()
    network.load_state_dict(state)
    return network.eval()'''

MAIN = '''\
if __name__ == "__main__":
    image = torch.rand({size})
    with torch.no_grad():
        print("image", tuple(image.shape), "-> logits", tuple(load()(image).shape))'''

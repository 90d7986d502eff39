"""Output filters of operations: what has some, what each costs, and networks without those that were dropped.

An operation has output filters where it ends in a convolution without groups and its batch norm: separable convolutions,
inverted bottlenecks (whose residual sum stays whole). Pooling, identities and factorized reductions have none. A
filter that is dropped is really gone from convolution and batch norm; its channel of the operation's output is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiernas.errors import SpaceError

ENDS = ("stem", "head")  # of a chain: what is no operation of a site


class Spread(nn.Module):
    """Puts channels back at their places, 0 at all others: [B, kept, H, W] -> [B, width, H, W].

    `kept`: a digit per channel of the full width, "1" where it is among the input's.
    """

    index: Tensor

    def __init__(self, kept: str) -> None:
        super().__init__()
        self.kept = kept
        places = [kept[:i].count("1") if digit == "1" else kept.count("1") for i, digit in enumerate(kept)]
        self.register_buffer("index", torch.tensor(places), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.index)  # one channel of 0 behind the others


@dataclass(frozen=True)
class Tail:
    """The end of an operation: its last convolution and the batch norm behind it, in their sequence."""

    layers: nn.Sequential
    conv: nn.Conv2d
    norm: nn.BatchNorm2d


@dataclass(frozen=True)
class Output:
    """The output filters of one operation of a network, and what each of them costs."""

    path: str  # of the operation's module
    channels: int
    params: int  # of a filter: its convolution's weights and what batch norm has for it
    macs: int


def tail_of(operation: nn.Module) -> Tail | None:
    """The end of an operation that has output filters, else None."""
    layers = getattr(operation, "body", operation)  # of a residual block
    if not isinstance(layers, nn.Sequential) or len(layers) < 2:
        return None
    conv, norm = layers[-2], layers[-1]
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or conv.groups != 1:
        return None
    return Tail(layers, conv, norm)


def tails_of(network: nn.Module) -> dict[str, Tail]:
    """The ends of all operations with output filters, by the operations' paths in a network that was built."""
    found = ((path, tail_of(operation)) for path, operation in _operations(network))
    return {path: tail for path, tail in found if tail is not None}


def _operations(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The operations on the edges of all cells and graphs, or in the blocks of a chain."""
    holders: list[tuple[str, nn.Module]] = []
    if isinstance(network, nn.Sequential):
        holders = [(name, block) for name, block in network.named_children() if name not in ENDS]
    for prefix, module in network.named_modules():
        edges = getattr(module, "edges", None)
        if isinstance(edges, nn.ModuleDict):
            holders += [(f"{prefix}.edges.{name}", edge) for name, edge in edges.named_children()]
    for path, module in holders:
        several = getattr(module, "ops", None)
        if isinstance(several, nn.ModuleList):
            yield from ((f"{path}.ops.{i}", operation) for i, operation in several.named_children())
        else:
            yield path, module


# -- costs -------------------------------------------------------------------------------------------------------


def outputs_of(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> tuple[Output, ...]:
    """The output filters of all operations of the network that `build` makes, in its order."""
    with torch.device("meta"):
        network = build()
        return _costs(network, tails_of(network), input_size)


def output_of(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> Output | None:
    """The output filters of the one operation that `build` makes; None where it has none."""
    with torch.device("meta"):
        operation = build()
        tail = tail_of(operation)
        return None if tail is None else _costs(operation, {"": tail}, input_size)[0]


@torch.no_grad()
def _costs(module: nn.Module, tails: Mapping[str, Tail], input_size: tuple[int, int, int]) -> tuple[Output, ...]:
    pixels: dict[str, int] = {}

    def note(path: str, conv: nn.Module, given: Any, y: Tensor) -> None:
        pixels[path] = y.shape[2] * y.shape[3]

    for path, tail in tails.items():
        tail.conv.register_forward_hook(partial(note, path))
    module.eval()(torch.empty(1, *input_size))
    found = []
    for path, tail in tails.items():
        channels = tail.conv.out_channels
        params = sum(p.numel() for layer in (tail.conv, tail.norm) for p in layer.parameters()) // channels
        found.append(Output(path, channels, params, tail.conv.weight[0].numel() * pixels[path]))
    return tuple(found)


# -- masked and without --------------------------------------------------------------------------------------------


@contextmanager
def masked(norms: Sequence[nn.Module], masks: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the output of each of these batch norms is multiplied by its mask [channels]."""

    def multiply(mask: Tensor, norm: nn.Module, given: Any, y: Tensor) -> Tensor:
        return y * mask.to(y.dtype)[:, None, None]

    with ExitStack() as hooks:
        for norm, mask in zip(norms, masks, strict=True):
            hooks.callback(norm.register_forward_hook(partial(multiply, mask)).remove)
        yield


def narrow(network: nn.Module, filters: Mapping[str, Sequence[int]]) -> None:
    """Leave only these output filters of the named operations, in place; the kept ones keep their weights.

    Raises `SpaceError` for an operation that the network does not have, and for filters that the operation does not have.
    """
    tails = tails_of(network)
    for path, kept in filters.items():
        if path not in tails:
            example = f", as '{next(iter(tails))}' has" if tails else ""
            raise SpaceError(f"filters of '{path}': the network has no operation there that has output filters{example}")
        width = tails[path].conv.out_channels
        outside = [i for i in kept if not 0 <= i < width]
        if outside:
            raise SpaceError(f"filters of '{path}': there is no filter {outside[0]}; it has {width}, which count from 0")
        if not kept or any(a >= b for a, b in pairwise(kept)):
            raise SpaceError(f"filters of '{path}': {list(kept)} must be at least one index, each greater than the one before")
    for path, kept in filters.items():
        leave(tails[path], kept)


@torch.no_grad()
def leave(tail: Tail, kept: Sequence[int]) -> None:
    """Leave only these output filters of an operation, in place."""
    conv, norm = tail.conv, tail.norm
    rows, there = torch.tensor(kept, device=conv.weight.device), set(kept)
    tail.layers.append(Spread("".join(str(int(i in there)) for i in range(conv.out_channels))).to(rows.device))
    for layer in (conv, norm):
        for name, parameter in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(parameter[rows], parameter.requires_grad))
    norm.running_mean = None if norm.running_mean is None else norm.running_mean[rows]
    norm.running_var = None if norm.running_var is None else norm.running_var[rows]
    conv.out_channels = norm.num_features = len(kept)

"""What networks cost: counted from the module that `build()` returns, and as a table per site and option.

There is no second formula. MACs are the multiply-adds of convolutions and linear layers for one image (what the papers
call FLOPs). Biases, batch norm, activations, pooling, residual sums and the products of squeeze-and-excite count as 0.
A table with a constant beside it is exact for an architecture, and fast for many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hiernas.budget import CostTable
from hiernas.costs import PEAKS
from hiernas.costs.memory import Memory, memory
from hiernas.networks.ops import ACTIVATIONS
from hiernas.networks.parts import mixed
from hiernas.space import Architecture, SearchSpace, Skeleton

if TYPE_CHECKING:
    from hiernas.networks.parts import Part

# modules without multiply-adds that keep the shape
FREE: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, *ACTIVATIONS.values())
T = TypeVar("T")


@dataclass(frozen=True)
class Count:
    """Trainable numbers and multiply-adds of a module."""

    params: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """What a whole network costs: bytes of memory in 32 bits and in INT8; `latency_ms` where a latency table was given."""

    params: int
    macs: int
    peak_ram: int
    peak_ram_int8: int
    flash: int
    flash_int8: int
    latency_ms: float | None = None


class LatencyTable(Protocol):
    """Latencies of a device, as far as costs ask for them; `hiernas.latency` has such tables."""

    @property
    def overhead_ms(self) -> float: ...  # of one call of a network
    def part_ms(self, part: Part) -> float:
        """Latency of one operation in ms; raises `LatencyError` where the table misses it."""

    def predict(self, architecture: Architecture) -> float:
        """Latency of a network in ms: its operations and `overhead_ms`."""


def count(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> Count:
    """Count the module that `build` makes on one input [C, H, W].

    It is built on the meta device, so no weight is allocated and no random number drawn.
    """
    with torch.device("meta"), torch.no_grad():
        module = build().eval()
        drop_train_only(module)
        params = sum(p.numel() for p in module.parameters())
        _drop_free(module)
        with FlopCounterMode(display=False) as counter:
            module(torch.empty(1, *input_size))
    return Count(params, counter.get_total_flops() // 2)


class Footprint(NamedTuple):
    """Bytes in 32 bits: of a module's parameters, and of one input [C, H, W] and all that its layers compute from it."""

    weights: int
    activations: int


def footprint(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> Footprint:
    """What a module takes where nothing is given back before the end; built on the meta device, as in `count`."""
    sizes = [math.prod(input_size)]
    with torch.device("meta"), torch.no_grad():
        module = build().eval()
        drop_train_only(module)
        for layer in module.modules():
            if not any(layer.children()):
                layer.register_forward_hook(lambda _, inputs, output: sizes.append(output.numel()))
        module(torch.empty(1, *input_size))
        return Footprint(4 * sum(p.numel() for p in module.parameters()), 4 * sum(sizes))


def drop_train_only(module: nn.Module) -> None:
    """Take out, in place, an auxiliary classifier, which is no part of the network that is used."""
    for name, child in list(module.named_children()):
        if getattr(child, "train_only", False):
            setattr(module, name, None)


def _drop_free(module: nn.Module) -> None:
    # nine tenths of the counter's time goes into modules in which it has nothing to count
    for name, child in module.named_children():
        if isinstance(child, FREE):
            setattr(module, name, nn.Identity())
        else:
            _drop_free(child)


def cost(architecture: Architecture, latency: LatencyTable | None = None) -> Cost:
    """Count the whole network of an architecture and, with a latency table, predict its latency.

    Raises `LatencyError` where the table misses an operation of the network.
    """
    size, latency_ms = architecture.skeleton.input_size, None if latency is None else latency.predict(architecture)
    counted = count(architecture.build, size)
    return Cost(counted.params, counted.macs, **memory(architecture.build, size).bytes, latency_ms=latency_ms)


def saved_by(skeleton: Skeleton) -> list[Part]:
    """What the sum over a skeleton's parts has too much of, whatever the choices; nothing but in `Subsets`."""
    saved = getattr(skeleton, "saved", None)
    return [] if saved is None else saved()


def parts_of_space(space: SearchSpace) -> tuple[list[Part], list[list[tuple[Part, ...]]]]:
    """Operations with their input sizes: those of every network, and per site and option that the space has left.

    An option of a cell space stands at several places of the network and has a part for each of them.
    """
    fixed, options = space.skeleton.parts()
    return fixed, [[parts[o] for o in d.options] for d, parts in zip(space.decisions, options, strict=True)]


# -- tables ------------------------------------------------------------------------------------------------------


def cost_tables(space: SearchSpace, latency: LatencyTable | None) -> dict[str, CostTable]:
    """The tables of a space by metric: params, macs, flash and, where a latency table is given, latency_ms.

    Raises `LatencyError` where the latency table misses an operation of the space.
    """
    tables = [
        _table("params", space, lambda part: counted(part).params),
        _table("macs", space, lambda part: counted(part).macs),
        _table("flash", space, lambda part: needed(part).bytes["flash"]),
        _table("flash_int8", space, lambda part: needed(part).bytes["flash_int8"]),
    ]
    if latency is not None:
        tables.append(_table("latency_ms", space, latency.part_ms, latency.overhead_ms))
    return {table.metric: table for table in tables}


def _remembered(of_module: Callable[[Callable[[], nn.Module], tuple[int, int, int]], T]) -> Callable[[Part], T]:
    """The same of one operation, for the life of the process: `Part.key` is equal where the result is."""
    known: dict[str, T] = {}

    def of_part(part: Part) -> T:
        if part.key not in known:
            known[part.key] = of_module(part.build, part.input_size)
        return known[part.key]

    return of_part


counted, needed, taken_by = _remembered(count), _remembered(memory), _remembered(footprint)


def _table(metric: str, space: SearchSpace, cost_of: Callable[[Part], float], constant: float = 0.0) -> CostTable:
    fixed, options = parts_of_space(space)
    for part in fixed:
        constant += cost_of(part)
    for part in saved_by(space.skeleton):
        constant -= cost_of(part)
    rows = tuple(np.array([sum(map(cost_of, parts)) for parts in site], dtype=np.float64) for site in options)
    return CostTable(metric, constant, rows, space)


class PeakTable(CostTable):
    """The same of a peak: the greatest of `constant`, which every network has, and of one number of each row."""

    def of(self, genes: np.ndarray) -> np.ndarray:
        rows = [row[column] for row, column in zip(self.sites, genes.T, strict=True)]
        return np.max([np.full(len(genes), self.constant), *rows], axis=0)

    def _sum(self, largest: bool) -> float:
        return float(max(self.constant, *((row.max() if largest else row.min()) for row in self.sites)))


def peak_tables(space: SearchSpace, several: bool = False) -> dict[str, PeakTable]:
    """The tables of `peak_ram` of a chain, exact: between two of its layers, all that lives is what one hands on to the next.

    `several`: a bound, for networks that keep any number of a site's options: while one of these runs, no more is alive than
    in the midst of three of its kind. None for cells, whose peak is no maximum over their parts.
    """
    if space.skeleton.searched != "blocks":
        return {}
    fixed, options = parts_of_space(space)
    sites = [[_three(part) if several else needed(part) for (part,) in site] for site in options]
    found = {}
    for metric in PEAKS:
        constant = max(needed(part).bytes[metric] for part in fixed)
        rows = tuple(np.array([need.bytes[metric] for need in site], dtype=np.float64) for site in sites)
        found[metric] = PeakTable(metric, constant, rows, space)
    return found


def _three(part: Part) -> Memory:
    return memory(lambda: mixed([part.build() for _ in range(3)], [0.5] * 3), part.input_size)

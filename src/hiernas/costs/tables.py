"""What networks cost: counted from the module that `build()` returns, and as a table per site and option.

There is no second formula: one forward pass on the meta device tells all, operation by operation.

MACs are the multiply-adds of convolutions and linear layers for one image (what the papers call FLOPs). Biases, batch norm,
activations, pooling, residual sums and the products of squeeze-and-excite count as 0.

`peak_ram`: while an operation runs, memory holds its inputs, its output, and all that a later operation reads. A tensor lives
from the operation that writes it to the last one that reads it, the image from the beginning, the output to the end; views
of a tensor are that tensor. Weights are read where they are stored. Batch norm, and a function of one tensor (an activation)
whose argument nobody reads later, are done in place: runtimes merge them into the operation before. Nothing else is: sums,
products and convolutions have their output beside their inputs.

`flash`: the weights that are read. Batch norm is merged into the convolution before it and leaves a bias there; behind
anything else it is a scale and a shift. In INT8 weights and activations take a byte each; biases, scales and shifts four.

A table with a constant beside it is exact for an architecture, and fast for many.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hiernas.budget import CostTable
from hiernas.costs import PEAKS
from hiernas.networks.parts import Part, mixed
from hiernas.space import Architecture, SearchSpace, Skeleton

KEEPS = ("relu", "hardtanh", "hardswish", "hardsigmoid")  # the shape, of one tensor: on the meta device PyTorch is slow


@dataclass(frozen=True)
class Count:
    """Trainable numbers and multiply-adds of a module."""

    params: int
    macs: int


class Memory(NamedTuple):
    """Numbers, not bytes: activations alive at once at the worst moment, weights, and biases."""

    activations: int
    weights: int
    biases: int

    @property
    def bytes(self) -> dict[str, int]:
        """By metric."""
        return {
            "peak_ram": 4 * self.activations,
            "peak_ram_int8": self.activations,
            "flash": 4 * (self.weights + self.biases),
            "flash_int8": self.weights + 4 * self.biases,
        }


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


class Footprint(NamedTuple):
    """Bytes in 32 bits: of a module's parameters, and of one input [C, H, W] and all that its layers compute from it."""

    weights: int
    activations: int


def traced(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> tuple[Count, Memory, Footprint]:
    """What the module that `build` makes costs for one input [C, H, W].

    It is built on the meta device, so no weight is allocated and no random number drawn.
    """
    sizes = [math.prod(input_size)]
    with torch.device("meta"), torch.no_grad():
        module, image = build().eval(), torch.empty(1, *input_size)
        drop_train_only(module)
        for layer in module.modules():
            if not any(layer.children()):
                layer.register_forward_hook(lambda _, inputs, output: sizes.extend(t.numel() for t in _tensors(output)))
        with _Trace(module, image) as trace:
            output = module(image)
    params = sum(p.numel() for p in module.parameters())
    needed = Memory(max(trace.alive(output)), *trace.stored())
    return Count(params, trace.flops // 2), needed, Footprint(4 * params, 4 * sum(sizes))


def count(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> Count:
    """Parameters and multiply-adds alone."""
    return traced(build, input_size)[0]


def memory(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> Memory:
    """Memory alone."""
    return traced(build, input_size)[1]


def footprint(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> Footprint:
    """What a module takes where nothing is given back before the end."""
    return traced(build, input_size)[2]


def drop_train_only(module: nn.Module) -> None:
    """Take out, in place, an auxiliary classifier, which is no part of the network that is used."""
    for name, child in list(module.named_children()):
        if getattr(child, "train_only", False):
            setattr(module, name, None)


def cost(architecture: Architecture, latency: LatencyTable | None = None) -> Cost:
    """Count the whole network of an architecture and, with a latency table, predict its latency.

    Raises `LatencyError` where the table misses an operation of the network.
    """
    size, latency_ms = architecture.skeleton.input_size, None if latency is None else latency.predict(architecture)
    counted, needed, _ = traced(architecture.build, size)
    return Cost(**asdict(counted), **needed.bytes, latency_ms=latency_ms)


def parts_of(architecture: Architecture) -> list[Part]:
    """The operations of a network; a site that keeps several options has the parts of each."""
    fixed, options = architecture.skeleton.parts()
    chosen = (parts[o] for parts, choice in zip(options, architecture.choices, strict=True) for o, _ in choice)
    return [*fixed, *(part for of_option in chosen for part in of_option)]


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


_KNOWN: dict[str, tuple[Count, Memory, Footprint]] = {}  # for the life of the process: `Part.key` is equal where the result is


def _traced(part: Part) -> tuple[Count, Memory, Footprint]:
    if part.key not in _KNOWN:
        _KNOWN[part.key] = traced(part.build, part.input_size)
    return _KNOWN[part.key]


def counted(part: Part) -> Count:
    return _traced(part)[0]


def needed(part: Part) -> Memory:
    return _traced(part)[1]


def taken_by(part: Part) -> Footprint:
    """What one operation takes."""
    return _traced(part)[2]


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


# -- one forward pass --------------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """One operation; tensors are known by their storage."""

    name: str
    reads: frozenset[int]  # activations
    writes: frozenset[int]
    constants: frozenset[int]
    in_place: bool  # where nobody reads its argument later


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch has no types here
    """The operations of a forward pass, in their order."""

    def __init__(self, module: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.constants = {_storage(t): t for t in (*module.parameters(), *module.buffers())}
        self.image, self.steps = _storage(image), list[_Step]()
        self.sizes = {self.image: image.numel()}
        self.held: list[Any] = [image]  # so that no storage is used twice
        self.flops = 0  # two for each multiply-add

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "constant_pad_nd" and not any(args[1]):
            return args[0]  # by no pixel: PyTorch copies it, runtimes do not
        norm, others = "batch_norm" in name, len(func._schema.returns) - 1
        if norm:
            result: Any = (torch.empty_like(args[0]), *args[0].new_empty(others, 0))
        elif name in KEEPS:
            result = torch.empty_like(args[0])
        else:
            result = args[0] if name.removesuffix("_") in KEEPS else func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        self.held.append(result)
        given = {_storage(t) for t in _tensors((args, kwargs))}
        written = {_storage(t): t for t in _tensors(result)[: 1 if norm else None]}  # its others are statistics
        self.sizes |= {s: t.untyped_storage().nbytes() // t.element_size() for s, t in written.items()}
        constants, reads = frozenset(given & self.constants.keys()), frozenset(given - self.constants.keys())
        alone = len(reads) == 1 and (norm or torch.Tag.pointwise in func.tags or name in KEEPS)
        self.steps.append(_Step(name, reads, frozenset(written.keys() - self.constants.keys()), constants, alone))
        return result

    def alive(self, output: Any) -> Iterable[int]:
        """How many numbers are alive while each operation runs; at least those of the image."""
        last = {s: i for i, step in enumerate(self.steps) for s in (*step.reads, *step.writes)}
        last |= dict.fromkeys(map(_storage, _tensors(output)), len(self.steps))
        now = {self.image}
        yield self.sizes[self.image]
        for i, step in enumerate(self.steps):
            ends = {s for s in step.reads if last[s] == i}
            in_place = step.in_place and bool(ends - step.writes)
            now |= step.writes
            yield sum(self.sizes[s] for s in (now - ends if in_place else now))
            now = {s for s in now if last[s] > i}

    def stored(self) -> tuple[int, int]:
        """Weights and biases; what has one dimension is a bias."""
        read, norms, maker = dict[int, Tensor](), 0, dict[int, _Step]()
        for step in self.steps:
            constants = {s: self.constants[s] for s in step.constants}
            if "batch_norm" in step.name:
                before = next((maker.get(s) for s in step.reads), None)
                of_it = 2  # scale and shift
                if before is not None and before.name == "convolution":  # a bias, where it has none
                    of_it = int(all(self.constants[s].dim() > 1 for s in before.constants))
                norms += of_it * max((t.numel() for t in constants.values()), default=0)
            else:
                read |= constants
            maker |= dict.fromkeys(step.writes, step)
        biases = sum(t.numel() for t in read.values() if t.dim() < 2)
        return sum(t.numel() for t in read.values() if t.dim() > 1), biases + norms


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]

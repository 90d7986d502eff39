"""What memory a network needs on a small device, traced on the meta device with the exact lifetime of every tensor.

`peak_ram`: while an operation runs, memory holds its inputs, its output, and all that a later operation reads. A tensor lives
from the operation that writes it to the last one that reads it, the image from the beginning, the output to the end; views
of a tensor are that tensor. Weights are read where they are stored. Batch norm, and a function of one tensor (an activation)
whose argument nobody reads later, are done in place: runtimes merge them into the operation before. Nothing else is: sums,
products and convolutions have their output beside their inputs.

`flash`: the weights that are read. Batch norm is merged into the convolution before it and leaves a bias there; behind
anything else it is a scale and a shift. In INT8 weights and activations take a byte each; biases, scales and shifts four.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NO_TAG = ("hardswish",)  # functions of one tensor that PyTorch does not mark as such


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


def memory(build: Callable[[], nn.Module], input_size: tuple[int, int, int]) -> Memory:
    """What the module that `build` makes needs for one input [C, H, W]; no weight is allocated."""
    with torch.device("meta"), torch.no_grad():
        module, image = build().eval(), torch.empty(1, *input_size)
        trace = _Trace(module, image)
        with trace:
            output = module(image)
    return Memory(max(trace.alive(output)), *trace.stored())


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

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "constant_pad_nd" and not any(args[1]):
            return args[0]  # by no pixel: PyTorch copies it, runtimes do not
        result = func(*args, **(kwargs or {}))
        self.held.append(result)
        given = {_storage(t) for t in _tensors((args, kwargs))}
        norm = "batch_norm" in name
        written = {_storage(t): t for t in _tensors(result)[: 1 if norm else None]}  # its others are statistics
        self.sizes |= {s: t.untyped_storage().nbytes() // t.element_size() for s, t in written.items()}
        constants, reads = frozenset(given & self.constants.keys()), frozenset(given - self.constants.keys())
        alone = len(reads) == 1 and (norm or torch.Tag.pointwise in func.tags or name in NO_TAG)
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

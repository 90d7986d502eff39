"""A training by several processes: each has its part of every batch, and all take the step that one would take alone.

The logits of the whole batch are put together, so that every process has the whole loss, its own and an architect's. Batch
norms normalise by the whole batch, and what is dropped at random is drawn for it. Gradients are averaged, those of the leaves
that a loss depends on: of a single path its weights alone, and of an architect what it learns, wherever that is kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from hiernas import ranks
from hiernas.errors import ConfigError
from hiernas.networks.cell_ops import DropPath
from hiernas.networks.ops import ChannelShuffle, SqueezeExcite
from hiernas.networks.supernets import convolve, observe

READERS = (nn.Conv2d, ChannelShuffle, SqueezeExcite)
PER_CHANNEL = (None, slice(None), None, None)


def device_of(accelerator: str) -> tuple[str, int | list[int]]:
    """The accelerator and the devices that Fabric is to take: of several processes each takes one GPU, or all the CPU."""
    if ranks.size() == 1:
        return accelerator, 1
    if accelerator == "mps":
        raise ConfigError("train.accelerator=mps is one device, and several processes were started; give cpu, or start one")
    if accelerator == "cpu" or not torch.cuda.is_available():
        return ("cpu" if accelerator == "auto" else accelerator), 1
    own, there = int(os.environ.get("LOCAL_RANK", ranks.number())), torch.cuda.device_count()
    if own >= there:
        raise ConfigError(f"{own + 1} processes were started for {there} GPUs; start {there} (--nproc-per-node {there})")
    return "cuda", [own]


class WholeBatch(nn.Module):
    """A network that takes this process' images, and gives the logits of all."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: Any) -> Any:
        output = self.network(*given)
        return tuple(map(_all_of, output)) if isinstance(output, tuple) else _all_of(output)


def backward_of(fabric: Fabric) -> Callable[[Tensor], Any]:
    """The backward pass of a loss of the whole batch, after which all processes have the same gradients."""

    def backward(loss: Tensor) -> None:
        found = leaves(loss)
        fabric.backward(loss)
        ranks.average([leaf.grad for leaf in found if leaf.grad is not None])

    return fabric.backward if ranks.size() == 1 else backward


def leaves(loss: Tensor) -> list[Tensor]:
    """The tensors that a loss has gradients for, in an order that depends on the computation alone."""
    found: dict[int, Tensor] = {}
    seen, todo = set[Any](), [loss.grad_fn]
    while todo:
        node: Any = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        todo += [source for source, _ in node.next_functions]
    return list(found.values())


class _AllOf(torch.autograd.Function):
    """The gradient of a process' own rows is that of the whole loss times the processes: it is averaged later."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return ranks.concatenated(own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0][ranks.rows(len(gradients[0]))] * ranks.size()


def _all_of(own: Tensor) -> Tensor:
    every: Tensor = _AllOf.apply(own)  # type: ignore[no-untyped-call] # torch has no types here
    return every


# -- inside the network --------------------------------------------------------------------------------------------


@contextmanager
def whole_batches(network: nn.Module) -> Iterator[None]:
    """Inside, what looks at a batch as a whole (batch norm, dropout) looks at that of all processes.

    Convolutions, and ReLU6 where a layer reads it that changes nothing in place, compute what they do outside, with faster
    backward passes.
    """
    kinds: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _Conv, nn.ReLU6: _ReLU6}
    if ranks.size() > 1:
        kinds |= {nn.BatchNorm2d: _Norm, nn.Dropout: _Dropout, DropPath: _DropPath}
    rows = [pairwise(m) for m in network.modules() if type(m) is nn.Sequential]
    read = {id(layer) for layer, reader in chain.from_iterable(rows) if type(reader) in READERS}
    changed = [(m, type(m)) for m in network.modules() if type(m) in kinds and (type(m) is not nn.ReLU6 or id(m) in read)]
    for module, kind in changed:
        module.__class__ = kinds[kind]
    try:
        yield
    finally:
        for module, kind in changed:
            module.__class__ = kind


class _Conv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, x)


class _ReLU6(nn.ReLU6):
    def forward(self, x: Tensor) -> Tensor:
        if not self.inplace or not torch.is_grad_enabled():
            return super().forward(x)
        made: Tensor = _Clipped.apply(x)  # type: ignore[no-untyped-call] # torch has no types here
        return made


class _Clipped(torch.autograd.Function):
    """ReLU6 in place: its output says as well as its input where it has a gradient, and no copy of that is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(F.hardtanh_(x, 0.0, 6.0))
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.hardtanh_backward(gradients[0], *ctx.saved_tensors, 0.0, 6.0)
        return found


class _Norm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        made: tuple[Tensor, Tensor, Tensor] = _Normalised.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call] # torch has no types here
        y, mean, variance = made
        observe(self, mean, variance, ranks.size() * x.numel() // x.shape[1])
        return y


class _Normalised(torch.autograd.Function):
    """Batch norm by the statistics of all processes' images; two small sums are exchanged on each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.promote_types(x.dtype, torch.float32)
        mean, variance = torch.batch_norm_update_stats(x.to(exact), None, None, 0.0)  # a tenth of the time of var_mean
        own = torch.stack([mean, variance]).double()  # so that a variance is not lost in the square of its mean
        own[1] += own[0].square()
        mean, square = ranks.summed(own) / ranks.size()
        mean, variance = mean.to(exact), (square - mean.square()).to(exact)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        y = gradients[0]
        scale = torch.ones_like(mean) if weight is None else weight
        _, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            y, x, scale, None, None, mean, inverse_std, True, ctx.eps, [False, True, True]
        )
        to_x = None
        if ctx.needs_input_grad[0]:
            n = ranks.size() * x.numel() // x.shape[1]
            of_weight, of_bias = ranks.summed(torch.stack([to_weight, to_bias])) / n
            by_y = scale * inverse_std
            by_x = -by_y * of_weight * inverse_std
            rest = -by_x * mean - by_y * of_bias
            to_x = torch.addcmul(rest[PER_CHANNEL], x, by_x[PER_CHANNEL]).addcmul_(y, by_y[PER_CHANNEL]).to(x.dtype)
        needed = ctx.needs_input_grad
        return to_x, to_weight if needed[1] else None, to_bias if needed[2] else None, None


class _Dropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        n = ranks.size() * len(x)
        return x * F.dropout(x.new_ones(n, *x.shape[1:]), self.p, self.training)[ranks.rows(n)]


class _DropPath(DropPath):
    def forward(self, x: Tensor) -> Tensor:
        n = ranks.size() * len(x)
        whole = super().forward(x.new_ones(n, 1, 1, 1))
        return x if not self.training or self.p == 0.0 else x * whole[ranks.rows(n)]

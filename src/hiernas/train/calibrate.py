"""Batch-norm statistics re-estimated on training images, as single-path one-shot search does before evaluating."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Statistics = list[tuple[Tensor, Tensor]]  # running mean and variance of each batch norm of a module, in order


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms of a module, in the order of its modules."""
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


@contextmanager
def observing(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms normalise by the batch at hand and their statistics become exactly that batch's.

    Everything else (dropout) is in evaluation mode. The statistics and modes found before are put back.
    """
    norms = batch_norms(module)
    before = [(n.running_mean, n.running_var, n.momentum) for n in norms]
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
        norm.running_mean, norm.running_var = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)  # type: ignore[arg-type] # tracked: not None
    try:
        yield
    finally:
        for norm, (mean, var, momentum) in zip(norms, before, strict=True):
            norm.running_mean, norm.running_var, norm.momentum = mean, var, momentum
        for m, mode in modes:
            m.training = mode


def read_statistics(norms: Sequence[nn.BatchNorm2d]) -> Statistics:
    """Copies of the current statistics of batch norms."""
    return [(n.running_mean.clone(), n.running_var.clone()) for n in norms]  # type: ignore[union-attr] # tracked: not None


def add_statistics(total: Statistics | None, new: Statistics) -> Statistics:
    """Sums of statistics, to be averaged over batches."""
    if total is None:
        return new
    return [(m + n_m, v + n_v) for (m, v), (n_m, n_v) in zip(total, new, strict=True)]


def average(total: Statistics, batches: int) -> Statistics:
    return [(m / batches, v / batches) for m, v in total]


def write_statistics(norms: Sequence[nn.BatchNorm2d], statistics: Statistics) -> None:
    """Make batch norms use these statistics."""
    for norm, (mean, var) in zip(norms, statistics, strict=True):
        norm.running_mean, norm.running_var = mean, var


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimate a network's batch-norm statistics as the mean over batches [B, C, H, W] of each batch's own."""
    norms, count = batch_norms(network), 0
    total: Statistics | None = None
    with observing(network):
        for x in batches:
            network(x)
            total = add_statistics(total, read_statistics(norms))
            count += 1
    if total is not None:
        write_statistics(norms, average(total, count))

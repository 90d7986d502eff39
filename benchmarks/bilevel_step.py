"""One bilevel step of a cell supernet (logits, then weights) against the plain formulation; what gives how much; memory.

    python benchmarks/bilevel_step.py

The plain formulation is that of DARTS' published code: one module per edge and operation, each computed by itself, in
contiguous memory, and gradients of weights and logits in both halves of the step. Every row is measured in a process of
its own; where two things are compared, they take turns in it.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import side_by_side, write
from hiernas import spaces
from hiernas.data.split import Split, Subset
from hiernas.gates import softmax
from hiernas.networks import supernets
from hiernas.networks.cell_ops import FactorizedReduce
from hiernas.networks.supernets import Source
from hiernas.search.alphas import AlphaArchitect, AlphaSettings, Softmax
from hiernas.space import SearchSpace

Batch = tuple[Tensor, Tensor]
NO_IMAGES = Split(Subset(torch.zeros(0), torch.zeros(0, dtype=torch.int64)), torch.zeros(0, dtype=torch.int64))
MIB = 2**20
FREE_SHARE = 0.8  # of the memory that is free, to be used at most


def darts_space() -> SearchSpace:
    """DARTS' search network: 8 cells, 16 channels, images of CIFAR's size."""
    return spaces.darts((3, 32, 32), 10, search=True)


def stage_space() -> SearchSpace:
    """The network that H-DAS searches stage graphs in: 20 cells."""
    return spaces.hdas_stages((3, 32, 32), 10, channels=16)


def batches(n: int) -> tuple[Batch, Batch]:
    """Images for the logits and for the weights."""
    generator = torch.Generator().manual_seed(0)
    made = [(torch.randn(n, 3, 32, 32, generator=generator), torch.randint(10, (n,), generator=generator)) for _ in "ab"]
    return made[0], made[1]


# -- the plain formulation ---------------------------------------------------------------------------------------


def plain_forward(supernet: nn.Module, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """[B, C, H, W] and the weights of all options of all edges -> [B, classes]."""
    s0 = supernet.stem0(x)
    s1 = supernet.stem1(s0)
    kinds = supernet.skeleton.cell_kinds
    for cell, kind in zip(supernet.cells, supernet.skeleton.kinds, strict=True):
        rows = iter(weights[14 * kinds.index(kind) :])
        states = [cell.preprocess0(s0), cell.preprocess1(s1)]
        for node in range(2, 6):
            edges = [(s, cell.edges[f"{s}_{node}"], next(rows)) for s in range(node)]
            states.append(reduce(add, [mixed(edge, states[s], row) for s, edge, row in edges]))
        s0, s1 = s1, torch.cat(states[2:], 1)
    return supernet.classifier(s1)


def mixed(edge: nn.Module, x: Tensor, row: Tensor) -> Tensor:
    return reduce(add, [w * edge.ops[o](x) for o, w in zip(edge.options, row, strict=True) if o != "none"])


class Plain:
    """The step of DARTS' published code, first order."""

    def __init__(self, supernet: nn.Module, alphas: Sequence[Tensor]) -> None:
        self.supernet, self.alphas = supernet, [a.detach().clone().requires_grad_() for a in alphas]
        self.optimizers = (torch.optim.Adam(self.alphas, 3e-4, (0.5, 0.999), weight_decay=1e-3), sgd(supernet))

    def __call__(self, given: tuple[Batch, Batch]) -> None:
        for (x, y), optimizer in zip(given, self.optimizers, strict=True):
            loss = self.loss(x, y)
            for p in (*self.alphas, *self.supernet.parameters()):
                p.grad = None
            loss.backward()
            nn.utils.clip_grad_norm_(self.supernet.parameters(), 5.0)
            optimizer.step()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(plain_forward(self.supernet, x, [a.softmax(0) for a in self.alphas]), y)


# -- ours --------------------------------------------------------------------------------------------------------


class Ours:
    """The step of `search.alphas` and `train.loop`."""

    def __init__(self, supernet: nn.Module, architect: AlphaArchitect, layout: torch.memory_format) -> None:
        self.supernet, self.architect, self.layout = supernet.to(memory_format=layout), architect, layout
        self.optimizer, self.rng = sgd(supernet), np.random.default_rng(0)

    def __call__(self, given: tuple[Batch, Batch]) -> None:
        (x, y), of_weights = given
        x = x.contiguous(memory_format=self.layout)
        self.architect.learn(self.supernet, x, y, Tensor.backward, self.rng, 0.0)
        self.weights(of_weights)

    def weights(self, batch: Batch) -> None:
        x, y = batch
        x = x.contiguous(memory_format=self.layout)
        loss = F.cross_entropy(self.supernet(x, self.architect.draw(self.rng, 0.0)), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.supernet.parameters(), 5.0)
        self.optimizer.step()


class WithWeightGradients(Ours):
    """The same, with gradients of the weights in the logits' half, too."""

    def __call__(self, given: tuple[Batch, Batch]) -> None:
        (x, y), of_weights = given
        loss = F.cross_entropy(self.supernet(x.contiguous(memory_format=self.layout), softmax(self.architect.alphas)), y)
        loss.backward()
        self.architect.optimizer.step()
        self.architect.optimizer.zero_grad(set_to_none=True)
        self.weights(of_weights)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), 1e-4, 0.9, weight_decay=3e-4)  # small: outputs stay what they are


def architect_of(space: SearchSpace) -> AlphaArchitect:
    return AlphaArchitect(Softmax(space), NO_IMAGES, AlphaSettings(), torch.Generator().manual_seed(0))


def both(kind: type[Ours] = Ours, layout: torch.memory_format = torch.channels_last) -> tuple[Plain, Ours]:
    torch.manual_seed(0)
    space = darts_space()
    supernet, architect = space.supernet().train(), architect_of(space)
    return Plain(copy.deepcopy(supernet), architect.alphas), kind(supernet, architect, layout)


# -- what is measured --------------------------------------------------------------------------------------------


def agreement(_: int, __: int) -> dict[str, float]:
    """The largest relative differences of outputs and gradients, in float64."""
    plain, ours = both()
    for model in (plain.supernet, ours.supernet):
        model.double()
    (x, y), _unused = batches(2)
    x = x.double()
    alphas = [a.detach().clone().double().requires_grad_() for a in plain.alphas]
    plain.alphas = [a.detach().clone().requires_grad_() for a in alphas]
    theirs = plain.loss(x, y)
    mine = F.cross_entropy(ours.supernet(x.contiguous(memory_format=torch.channels_last), softmax(alphas)), y)
    of_plain = torch.autograd.grad(theirs, [*plain.alphas, *plain.supernet.parameters()])
    of_ours = torch.autograd.grad(mine, [*alphas, *ours.supernet.parameters()])
    norm = max(float(g.norm()) for g in of_plain)
    n = len(alphas)
    gradients = [float((a - b).norm()) / max(float(b.norm()), 1e-6 * norm) for a, b in zip(of_ours, of_plain, strict=True)]
    return {"loss": abs((mine - theirs).item()) / theirs.item(), "logits": max(gradients[:n]), "weights": max(gradients[n:])}


def times(batch: int, rounds: int) -> dict[str, float]:
    """Seconds of both, by turns: means, and the ratios of pairs."""
    plain, ours = both()
    given = batches(batch)
    works = {"plain": lambda: plain(given), "ours": lambda: ours(given)}
    seconds = side_by_side(works, rounds, warmup=1)  # the first step makes the pages of memory
    ratios = seconds["plain"] / seconds["ours"]
    return {
        "plain": float(seconds["plain"].mean()), "ours": float(seconds["ours"].mean()), "mean": float(ratios.mean()),
        "deviation": float(ratios.std(ddof=1)), "least": float(ratios.min()), "greatest": float(ratios.max()),
    }  # fmt: skip


def by_itself(source: Source, option: str, op: nn.Module) -> Tensor:
    """An operation that shares nothing with others, with the fast backward pass of its depthwise convolutions."""
    if option in supernets.POOLS or isinstance(op, FactorizedReduce) or not isinstance(op, nn.Sequential):
        return op(source.x)
    y = source.x
    for layer in op:
        y = supernets.convolve(layer, y) if isinstance(layer, nn.Conv2d) else layer(y)
    return y


def parts(batch: int, rounds: int) -> dict[str, list[float]]:
    """How many times slower the step is without one of the parts: mean, least and greatest ratio."""
    given = batches(batch)
    step = both()[1]
    contiguous, gradients = both(layout=torch.contiguous_format)[1], both(WithWeightGradients)[1]

    def patched(target: object, name: str, new: Callable[..., Tensor]) -> Callable[[], None]:
        def work() -> None:
            with mock.patch.object(target, name, new):
                step(given)

        return work

    works = {
        "ours": lambda: step(given),
        "channels-last memory": lambda: contiguous(given),
        "no gradients of weights in the logits' half": lambda: gradients(given),
        "shared ReLU and pooling": patched(Source, "through", by_itself),
        "fast backward of depthwise convolutions": patched(supernets, "convolve", lambda conv, x: conv(x)),
    }
    seconds = side_by_side(works, rounds, warmup=1)
    ratios = {name: values / seconds["ours"] for name, values in seconds.items() if name != "ours"}
    return {name: [float(r.mean()), float(r.min()), float(r.max())] for name, r in ratios.items()}


def memory(batch: int, which: int) -> dict[str, float]:
    """MiB of one step: resident at its peak beyond what was resident before, and kept for the backward pass."""
    torch.manual_seed(0)
    if which == STAGES:
        space = stage_space()
        step: Plain | Ours = Ours(space.supernet().train(), architect_of(space), torch.channels_last)
    else:
        step = both()[which]
    given, kept, most = batches(batch), dict[int, int](), 0

    def keep(t: Tensor) -> Tensor:
        nonlocal most
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        most = max(most, sum(kept.values()))
        return t

    before = resident()
    step(given)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        step.loss(*given[0]) if isinstance(step, Plain) else keeping(step, given[1])
    return {"peak": peak, "step": peak - before, "kept": most / MIB}


def keeping(step: Ours, batch: Batch) -> Tensor:
    """A forward pass with gradients of the weights, as the weights' half has it."""
    x = batch[0].contiguous(memory_format=step.layout)
    return F.cross_entropy(step.supernet(x, step.architect.draw(step.rng, 0.0)), batch[1])


def resident() -> float:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize() / MIB


PLAIN, OURS, STAGES = 0, 1, 2
WORKS = {"agreement": agreement, "times": times, "parts": parts, "memory": memory}


# -- the result --------------------------------------------------------------------------------------------------


def child(work: str, batch: int, argument: int, threads: int) -> dict:
    """What a process of its own measures."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "65536"} if work == "memory" else {}  # glibc: what is freed is given back
    command = [sys.executable, __file__, work, str(batch), str(argument), str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    print(work, batch, argument, threads, done.stdout.strip(), flush=True)
    return json.loads(done.stdout)


def available() -> float:
    """Free memory in MiB."""
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("MemAvailable"))


def measured_memory(which: int, sizes: Sequence[int]) -> list[tuple[int, dict | None, float]]:
    """By batch size: what was measured, or None where it would not fit, and the peak expected from the two before."""
    found: list[tuple[int, dict | None, float]] = []
    for batch in sizes:
        peaks = [(n, row["peak"]) for n, row, _ in found if row is not None]
        expected = 0.0
        if len(peaks) > 1:
            (a, low), (b, high) = peaks[-2:]
            expected = high + (high - low) / (b - a) * (batch - b)
        fits = expected < FREE_SHARE * available()
        found.append((batch, child("memory", batch, which, 2) if fits else None, expected))
    return found


def memory_rows(name: str, which: int, sizes: Sequence[int]) -> list[str]:
    rows = []
    for batch, row, expected in measured_memory(which, sizes):
        text = "{peak:,.0f} | {step:,.0f} | {kept:,.0f}".format(**row) if row else f"about {expected:,.0f}, not run | |"
        rows.append(f"| {name} | {batch} | {text} |")
    return rows


def times_row(batch: int, rounds: int, threads: int) -> str:
    row = child("times", batch, rounds, threads)
    ratio = "{mean:.2f} ± {deviation:.2f} ({least:.2f} to {greatest:.2f})".format(**row)
    return f"| {batch} | {threads} | {ratio} | {row['plain']:.1f} | {row['ours']:.1f} | {rounds} |"


def main() -> None:
    load = os.getloadavg()[0]
    same = child("agreement", 2, 0, 2)
    assert max(same.values()) < 1e-5, same
    rows = [times_row(batch, rounds, threads) for batch, rounds in ((16, 5), (64, 3)) for threads in (1, 2)]
    shares = child("parts", 16, 4, 1)
    used = [*memory_rows("plain", PLAIN, (8, 16, 64)), *memory_rows("ours", OURS, (8, 16, 64))]
    used += memory_rows("stage graphs, 20 cells", STAGES, (8, 16, 32, 64))
    differences = ", ".join(f"{name} {value:.1e}" for name, value in same.items())
    lines = [
        "A step of the logits and one of the weights, DARTS' search network (8 cells, 16 channels, 3x32x32), first order.",
        f"Goal: at least 2.5 times as fast as the plain formulation. Load average at the start: {load:.1f}, on 2 cores.", "",
        f"Largest relative differences in float64: {differences}.", "",
        "| batch | threads | plain over ours: mean ± deviation (range) | plain, s | ours, s | turns |",
        "|---|---|---|---|---|---|", *rows, "",
        "The step without one of its parts, batch 16, one thread, four turns:", "",
        "| without | times as slow | range |", "|---|---|---|",
        *(f"| {name} | {mean:.2f} | {low:.2f} to {high:.2f} |" for name, (mean, low, high) in shares.items()), "",
        "Memory of a step in MiB: of the process at its peak; of that, what the step added; kept for one backward pass:", "",
        "| network | batch | peak | added | kept |", "|---|---|---|---|---|", *used,
    ]  # fmt: skip
    write("bilevel_step", "Bilevel step: cell supernets", lines)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        torch.set_num_threads(int(sys.argv[4]))
        print(json.dumps(WORKS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()

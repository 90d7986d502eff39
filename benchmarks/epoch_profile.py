"""Where an epoch of `tiny` goes, how far it is from what the machine can do, and what faster backward passes save.

    python benchmarks/epoch_profile.py [--steps N] [--rounds N]

One thread. Processor time, so that a busy neighbour does not count; caches that it empties do.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from common import ratio, side_by_side, write
from hiernas import spaces
from hiernas.costs.tables import cost_tables
from hiernas.data import load_data
from hiernas.gates import uniform_path
from hiernas.methods.hnas import QUICK, SMALL
from hiernas.space import SearchSpace
from hiernas.train import loop
from hiernas.train.recipes import Phase, Recipe

SIZES = {"8x8, digits": ((1, 8, 8), QUICK.train), "32x32, CIFAR-10": ((3, 32, 32), SMALL.train)}
KINDS = {  # of operations: what its name contains, and whether it is one of a depthwise convolution
    "depthwise convolution, forward": ("mkldnn_convolution", True),
    "depthwise convolution, backward": ("convolution_backward", True),
    "other convolutions, forward": ("mkldnn_convolution", False),
    "other convolutions, backward": ("convolution_backward", False),
    "batch norm, forward": ("native_batch_norm", None),
    "batch norm, backward": ("native_batch_norm_backward", None),
    "ReLU6, forward": ("clamp", None),
    "ReLU6, backward": ("hardtanh_backward", None),
    "copies": ("copy_", None),
}


def trainer(size: tuple[int, int, int], recipe: Recipe, steps: int) -> tuple[loop._Trainer, SearchSpace]:
    """A supernet's training on as many random images as its epoch of so many steps takes."""
    pixels = torch.randint(0, 256, (steps * recipe.batch_size * 2, *size), dtype=torch.uint8)
    data = load_data([(x, i % 10) for i, x in enumerate(pixels)])
    space = spaces.tiny(size, 10)
    torch.manual_seed(0)
    supernet, phase, fabric = space.supernet(), Phase("train1", 1000, 0.01), loop.make_fabric(recipe)
    supernet = supernet.to(memory_format=torch.channels_last)
    model, optimizer = fabric.setup(supernet, loop._optimizer(supernet, phase, recipe))
    draw = partial(uniform_path, space)
    return loop._Trainer(fabric, model, optimizer, data.train, data, phase, recipe, 0, draw, None, None), space


def epochs(made: loop._Trainer, steps: int, before: bool) -> Callable[[], None]:
    """One more epoch a call, of so many steps: the same paths and images for both."""
    number = iter(range(10**6))

    def one() -> None:
        with mock.patch.object(loop, "whole_batches", nullcontext) if before else nullcontext():
            for done, _ in enumerate(made.steps(loop.Position(next(number))), 1):
                if done == steps:
                    return

    return one


def kind_of(name: str, shapes: list[list[int]]) -> str:
    for kind, (part, depthwise) in KINDS.items():
        if name == f"aten::{part}":
            weight = shapes[2] if part == "convolution_backward" else shapes[1]
            if depthwise is None or depthwise == (len(weight) == 4 and weight[1] == 1 and weight[0] > 1):
                return kind
    return "all else: the optimizer, sums, augmentation, Python"


def shares(work: Callable[[], None]) -> Counter[str]:
    """Microseconds by kind of operation."""
    found: Counter[str] = Counter()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        work()
    for row in seen.key_averages(group_by_input_shape=True):
        found[kind_of(row.key, row.input_shapes)] += row.self_cpu_time_total
    return found


def machine() -> tuple[float, float]:
    """What one thread reaches: GFLOP/s of a product of large matrices, GB/s of copying what no cache near it holds."""
    a, b, x = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.randn(2**25)
    y = torch.empty_like(x)
    best = side_by_side({"product": lambda: a @ b, "copy": lambda: y.copy_(x)}, 8, clock=time.process_time)
    return 2 * 1024**3 / best["product"].min() / 1e9, 2 * 4 * 2**25 / best["copy"].min() / 1e9


def mean_macs(space: SearchSpace) -> float:
    return float(cost_tables(space, None)["macs"].of(space.sample_encoded(np.random.default_rng(0), 500)).mean())


def compare(name: str, size: tuple[int, int, int], recipe: Recipe, steps: int, rounds: int) -> list[str]:
    made, space = trainer(size, recipe, steps)
    works = {"before": epochs(made, steps, True), "now": epochs(made, steps, False)}
    seconds = side_by_side(works, rounds, warmup=1, clock=time.process_time)
    found = shares(epochs(made, steps, False))
    flops, bandwidth = machine()
    least = 2 * 3 * mean_macs(space) * recipe.batch_size / flops / 1e6  # ms; backward is twice forward
    step = 1e3 * float(np.median(seconds["now"])) / steps
    rows = [f"| {kind} | {us / sum(found.values()):.0%} |" for kind, us in found.most_common()]
    return [
        f"## {name}, batch {recipe.batch_size}", "",
        f"A step before over now: {ratio(seconds['before'], seconds['now'])}, {rounds} turns of {steps} steps; now {step:.0f}",
        f"ms. Matrix product {flops:.0f} GFLOP/s, copying {bandwidth:.1f} GB/s. A step's multiply-adds at that speed:",
        f"{least:.1f} ms; it takes {step / least:.0f} times as long.", "",
        "| now, by kind of operation | share |", "|---|---|", *rows, "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = [line for name, (size, recipe) in SIZES.items() for line in compare(name, size, recipe, given.steps, given.rounds)]
    write("epoch_profile", "A training step of the supernet `tiny`, by kind of operation", lines)


if __name__ == "__main__":
    main()

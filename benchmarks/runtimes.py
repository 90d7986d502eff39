"""Runtimes side by side with ONNX Runtime: latency of operations and whole networks, parity with PyTorch, and the sums.

    python benchmarks/runtimes.py [NAME ...]

For each named runtime (all that can be loaded here, without names) on one thread: the latency of six operations and
three networks, measured one after the other with ONNX Runtime in the same three passes, twice, of which the lower
counts; how far each output is from PyTorch's; the seconds it takes to convert and load. Then the latency table of tiny
at 32x32, and how far its sums and its correction are from 16 random networks. Adds a section per runtime to
benchmarks/results/runtimes-DATE.md. LiteRT and ExecuTorch want an environment of their own, each: see docs/latency.md.
Takes half a minute to some minutes per runtime.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hiernas.errors import LatencyError
from hiernas.latency import RUNS, WARMUP, Entry
from hiernas.latency.calibrate import calibrate
from hiernas.latency.measure import measure_table
from hiernas.latency.runner import by_looks
from hiernas.latency.runtimes import RUNTIMES, Loaded, Runtime, difference, example
from hiernas.networks.ops import Classifier, Conv, MBConv
from hiernas.spaces import hnas_basic, nasbench_macro, tiny

Work = tuple[str, nn.Module, tuple[int, int, int]]
SEED, NETWORKS = 0, 16


def works() -> list[Work]:
    """Six operations and three networks, with trained-like weights."""
    operations: list[Work] = [
        ("3x3 convolution, stride 2", Conv(3).build(3, 32, 2), (3, 224, 224)),
        ("MBConv k3 e3 at 56x56x32", MBConv(3, 3).build(32, 32, 1), (32, 56, 56)),
        ("MBConv k5 e6 at 14x14x80", MBConv(5, 6).build(80, 80, 1), (80, 14, 14)),
        ("MBConv k7 e6 at 7x7x192, SE, hard swish", MBConv(7, 6, se=True, act="hswish").build(192, 192, 1), (192, 7, 7)),
        ("MBConv k3 e6 at 8x8x40", MBConv(3, 6).build(40, 40, 1), (40, 8, 8)),
        ("classifier of 1000 at 7x7x1280", Classifier().build(1280, 1000, 1), (1280, 7, 7)),
    ]
    rng = np.random.default_rng(SEED)
    spaces = {
        "tiny at 32x32": tiny((3, 32, 32)), "nasbench_macro at 32x32": nasbench_macro(), "hnas_basic at 224x224": hnas_basic(),
    }  # fmt: skip
    for name, space in spaces.items():
        network = space.sample(rng).build()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
        operations.append((f"network of {name}", network, space.skeleton.input_size))
    return [(name, module.eval(), size) for name, module, size in operations]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    named, base = sys.argv[1:], Runtime()
    for name in named or RUNTIMES:
        load = os.getloadavg()[0]
        try:
            runtime = Runtime(name)
        except LatencyError as error:
            print(f"{name}: {error}")
            continue
        lines = [f"| {' | '.join(row(work, runtime, base))} |" for work in works()]
        write(runtime, load, lines, table(runtime))


def row(work: Work, runtime: Runtime, base: Runtime) -> list[str]:
    name, module, size = work
    x = example(1, size)
    start = time.perf_counter()
    mine, reference = runtime.load(module, x), base.load(module, x)
    seconds = time.perf_counter() - start
    entries = lowest([mine, reference])
    ratio = entries[0].p10_ms / entries[1].p10_ms
    times = [f"{e.p10_ms:.4g} ({e.median_ms:.4g})" for e in entries]
    return [name, *times, f"{ratio:.2f}", f"{difference(module, x, mine[1]):.1e}", f"{seconds:.1f}"]


def lowest(loaded: list[Loaded]) -> list[Entry]:
    """Latencies one after the other in three passes, twice; the lower of the two."""
    loaders = {str(i): lambda call=one[0]: call for i, one in enumerate(loaded)}
    *_, found = by_looks([(loaders, RUNS, WARMUP)], in_turn=1)
    return [Entry(**row) for row in found.values()]


def table(runtime: Runtime) -> list[str]:
    space = tiny((3, 32, 32))
    start = time.perf_counter()
    made = measure_table(space, runtime)
    seconds = time.perf_counter() - start
    found = calibrate(space, made, runtime, NETWORKS, np.random.default_rng(SEED))
    c, measured = found.correction, found.measured_ms
    errors = {
        f"sum, {NETWORKS} networks": found.all_errors(),
        "sum, the 8 that did not fit": found.errors(corrected=False),
        "corrected, the same 8": found.errors(corrected=True),
    }
    said = [f"{what}: {e}" for what, e in errors.items()]
    return [
        f"Table of tiny at 32x32: {len(made.entries)} entries from nothing in {seconds:.0f} s, call overhead "
        f"{made.raw_overhead_ms * 1e3:.1f} us. Networks take {measured.min():.3g} to {measured.max():.3g} ms.",
        *said,
        f"correction: {c or 'none'}",
    ]


def write(runtime: Runtime, load: float, lines: list[str], sums: list[str]) -> None:
    now = datetime.datetime.now()
    path = Path(__file__).parent / "results" / f"runtimes-{now:%Y-%m-%d}.md"
    path.parent.mkdir(exist_ok=True)
    title = (
        f"# Runtimes beside ONNX Runtime, {now:%Y-%m-%d}\n\nOne thread, batch 1. Latencies in ms: the tenth percentile (the "
        "median). `difference` is the largest one from PyTorch, relative to the largest output.\n"
    )
    versions = f"ONNX Runtime {Runtime().version}, torch {torch.__version__}, numpy {np.__version__}, Python "
    text = [
        "", f"## {now:%H:%M}, `python benchmarks/runtimes.py {runtime.runtime}`", "",
        f"{runtime.runtime} {runtime.version} on {runtime.device}, {versions}{sys.version.split()[0]}; load {load:.1f} before "
        f"and {os.getloadavg()[0]:.1f} after on {os.cpu_count()} cores.", "",
        f"| | {runtime.runtime} | onnxruntime | ratio | difference | s to load both |", "|---|---|---|---|---|---|", *lines, "",
        *(line + "  " for line in sums),
    ]  # fmt: skip
    before = path.read_text() if path.exists() else title
    path.write_text(before + "\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()

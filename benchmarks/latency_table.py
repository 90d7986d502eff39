"""How well the latency tables of hnas_basic at 224x224 and of tiny at 32x32 predict whole networks of this device.

    python benchmarks/latency_table.py [RUNS]

For each space, RUNS times (3 without): builds the table from nothing with ONNX Runtime on one thread, measures 40
random networks whole, and adds a section to benchmarks/results/latency_table-DATE.md: the errors of the sums over all
networks, and those of the correction over the half that did not fit it. Every run is written down, bad ones too. A
run of both spaces takes about a minute; the load and the spread within a network's runs say whether the device was
busy meanwhile.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hiernas.costs.calibrate import Calibration, Errors, calibrate
from hiernas.costs.latency import RUNS, measure_table
from hiernas.costs.runtimes import OnnxRuntime
from hiernas.space import SearchSpace
from hiernas.spaces import hnas_basic, tiny

NETWORKS, REPEATS = 40, 3
SPACES = {"hnas_basic at 224x224": hnas_basic, "tiny at 32x32": lambda: tiny((3, 32, 32))}


def main() -> None:
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS):
        for name, make in SPACES.items():
            write(name, seed, *run(make(), seed))


def run(space: SearchSpace, seed: int) -> tuple[list[tuple[str, str]], Calibration]:
    runtime, load = OnnxRuntime(), os.getloadavg()[0]
    start = time.perf_counter()
    table = measure_table(space, runtime)
    seconds = time.perf_counter() - start
    found = calibrate(space, table, runtime, NETWORKS, np.random.default_rng(seed))
    measured, c = found.measured_ms, found.correction
    spread = np.median([e.p90_ms / e.p10_ms - 1 for e in found.entries])
    facts = [
        ("device", f"{table.device}, {table.threads} thread, batch {table.batch}"),
        ("software", f"{table.runtime} {table.version}, torch {torch.__version__}"),
        ("load before and after", f"{load:.1f} and {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores (this run counts 1)"),
        ("table", f"{len(table.entries)} entries of at least {RUNS} runs, built from nothing in {seconds:.1f} s"),
        ("overhead of a call", f"{table.raw_overhead_ms * 1e3:.1f} us"),
        ("networks", f"{len(measured)} random ones (seed {seed}), {measured.min():.3g} to {measured.max():.3g} ms"),
        ("spread within a network's runs", f"the 90th percentile is typically {spread:.1%} above the tenth"),
        ("sum, all networks", said(found.all_errors())),
        ("correction", "none" if c is None else f"{c.constant_ms:+.4f} ms + {c.scale:.4f} x sum, of {c.networks} networks"),
        ("sum, the other half", said(found.errors(corrected=False))),
        ("corrected, the other half", said(found.errors(corrected=True))),
    ]
    return facts, found


def said(e: Errors) -> str:
    return f"mean absolute error {e.mean_absolute_percent:.2f} %, bias {e.bias_percent:+.2f} %, Spearman {e.spearman:.4f}"


def write(name: str, seed: int, facts: list[tuple[str, str]], found: Calibration) -> None:
    now = datetime.datetime.now()
    path = Path(__file__).parent / "results" / f"latency_table-{now:%Y-%m-%d}.md"
    path.parent.mkdir(exist_ok=True)
    title = f"# Latency tables against whole networks, {now:%Y-%m-%d}\n"
    lines = ["", f"## {now:%H:%M}, `python benchmarks/latency_table.py`: {name}, seed {seed}", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts]
    pairs = ", ".join(f"{s:.4g}/{m:.4g}" for m, s in sorted(zip(found.measured_ms, found.sums_ms, strict=True)))
    lines += ["", f"Sum/measured in ms: {pairs}"]
    before = path.read_text() if path.exists() else title
    path.write_text(before + "\n".join(lines) + "\n")
    print("\n".join(lines[1:-1]))


if __name__ == "__main__":
    main()

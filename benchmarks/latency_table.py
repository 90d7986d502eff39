"""How well the latency tables of hnas_basic at 224x224 and of tiny at 32x32 predict whole networks of this device.

    python benchmarks/latency_table.py [RUNS]

For each of them, RUNS times (3 without): builds the table from nothing with ONNX Runtime on one thread, measures 40
random networks whole, and adds a section to benchmarks/results/latency_table-DATE.md: the errors of the sums over all
networks, and those of the correction over the half that did not fit it. Every run is written down, bad ones too. A
run of all takes about two minutes; the load and the spread within a network's runs say whether the device was
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

from hiernas.costs.tables import cost_tables
from hiernas.latency import RUNS, WARMUP
from hiernas.latency.calibrate import Calibration, calibrate
from hiernas.latency.measure import measure_table
from hiernas.latency.runner import by_turns
from hiernas.latency.runtimes import Runtime
from hiernas.space import SearchSpace
from hiernas.spaces import hnas_basic, tiny

NETWORKS, REPEATS = 40, 3
SPACES = {  # by name: the space, and whether networks spread evenly over its latencies
    "hnas_basic at 224x224": (hnas_basic, False),
    "tiny at 32x32": (lambda: tiny((3, 32, 32)), False),
    "hnas_basic at 224x224, networks spread evenly": (hnas_basic, True),
}


def main() -> None:
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS):
        for name, (make, even) in SPACES.items():
            write(name, seed, *run(make(), seed, even))


def run(space: SearchSpace, seed: int, even: bool) -> tuple[list[tuple[str, str]], Calibration]:
    runtime, load = Runtime(), os.getloadavg()[0]
    start = time.perf_counter()
    table = measure_table(space, runtime)
    seconds = time.perf_counter() - start
    found = calibrate(space, table, runtime, NETWORKS, np.random.default_rng(seed), even)
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
        ("sum, all networks", str(found.all_errors())),
        ("correction", "none" if c is None else f"{c}, of {c.networks} networks"),
        ("sum, the other half", str(found.errors(corrected=False))),
        ("corrected, the other half", str(found.errors(corrected=True))),
        ("fastest and slowest network of the space", " and ".join(extremes(space, runtime, found))),
    ]
    return facts, found


def extremes(space: SearchSpace, runtime: Runtime, found: Calibration) -> list[str]:
    """Sum, corrected sum and measurement of the networks at both ends of the space."""
    rows = cost_tables(space, found.table)["latency_ms"].sites
    lines = []
    for pick in (np.argmin, np.argmax):
        architecture = space.decode([int(pick(row)) for row in rows])
        calls = [runtime.prepare(architecture.build(), space.skeleton.input_size)]
        measured = min(by_turns(calls, RUNS, WARMUP)[0]["p10_ms"] for _ in range(3))
        total, c = found.table.predict(architecture), found.correction
        corrected = "" if c is None else f", corrected {c.of(total):.3g}"
        lines.append(f"sum {total:.3g}{corrected}, measured {measured:.3g} ms")
    return lines


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

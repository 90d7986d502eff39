"""How well the latency table of hnas_basic predicts whole networks of this device.

    python benchmarks/latency_table.py

Builds the table at 224x224 from nothing, measures 20 random networks whole, each ten times in turn (the least of
the ten medians counts), and adds a section to benchmarks/results/latency_table-DATE.md. Takes about a minute.
A large spread between the turns says that the device was busy, and that the measured side is in doubt.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from hiernas.costs.latency import RUNS, measure_table
from hiernas.costs.runtimes import OnnxRuntime, measure_by_turns
from hiernas.spaces import hnas_basic

NETWORKS, TURNS, SEED = 20, 10, 0


def main() -> None:
    space, runtime, rng = hnas_basic(), OnnxRuntime(), np.random.default_rng(SEED)
    start = time.perf_counter()
    table = measure_table(space, runtime)
    seconds = time.perf_counter() - start

    architectures = [space.sample(rng) for _ in range(NETWORKS)]
    predicted = np.array([table.predict(a) for a in architectures])
    calls = [runtime.prepare(a.build(), space.skeleton.input_size) for a in architectures]
    medians = [[measure_by_turns([call], runs=10, warmup=3)[0].median_ms for call in calls] for _ in range(TURNS)]
    measured = np.min(medians, axis=0)
    errors = predicted / measured - 1
    facts = [
        ("device", f"{table.device}, {table.threads} thread, batch {table.batch}"),
        ("software", f"{table.runtime} {table.version}, torch {torch.__version__}"),
        ("table", f"{len(table.entries)} entries of at least {RUNS} runs, built from nothing in {seconds:.1f} s"),
        ("overhead of a call", f"{table.overhead_ms * 1e3:.1f} us"),
        ("networks", f"{NETWORKS} random ones (seed {SEED}), {measured.min():.2f} to {measured.max():.2f} ms"),
        ("Spearman", f"{spearmanr(predicted, measured).statistic:.3f}"),
        ("Kendall tau", f"{kendalltau(predicted, measured).statistic:.3f}"),
        ("mean absolute error", f"{np.abs(errors).mean():.1%}"),
        ("mean error (bias)", f"{errors.mean():+.1%}"),
        ("spread of the turns", f"a median is typically {np.median(medians / measured - 1):.1%} above the least"),
    ]
    for name, value in facts:
        print(f"{name}: {value}")
    _write(facts, predicted, measured)


def _write(facts: list[tuple[str, str]], predicted: np.ndarray, measured: np.ndarray) -> None:
    now = datetime.datetime.now()
    path = Path(__file__).parent / "results" / f"latency_table-{now:%Y-%m-%d}.md"
    path.parent.mkdir(exist_ok=True)
    title = f"# Latency table of hnas_basic at 224x224, {now:%Y-%m-%d}\n\n`python benchmarks/latency_table.py`\n"
    lines = ["", f"## {now:%H:%M}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts]
    lines += ["", "| predicted ms | measured ms | error |", "|---|---|---|"]
    lines += [f"| {p:.2f} | {m:.2f} | {p / m - 1:+.1%} |" for m, p in sorted(zip(measured, predicted, strict=True))]
    before = path.read_text() if path.exists() else title
    path.write_text(before + "\n".join(lines) + "\n")
    print(f"written: {path.relative_to(Path(__file__).parents[1])}")


if __name__ == "__main__":
    main()

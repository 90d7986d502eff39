"""Latency in INT8: predicted against measured, how much faster than FP32, and whether it puts networks in another order.

    python benchmarks/int8_latency.py [SPACE ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from common import write
from hiernas import spaces
from hiernas.latency.measure import measure_table
from hiernas.latency.runner import by_turns
from hiernas.latency.runtimes import make_runtime
from hiernas.space import SearchSpace

NETWORKS, TURNS = 20, 3
SPACES: dict[str, Callable[[], SearchSpace]] = {
    "tiny 3x32x32": lambda: spaces.tiny((3, 32, 32), 10),
    "hnas_basic 3x224x224": lambda: spaces.hnas_basic((3, 224, 224), 1000),
}
HEAD = (
    "| space | error of the prediction | Spearman | times as fast as FP32 | tau of INT8 with FP32 | tau of INT8 with itself |",
    "|---|---|---|---|---|---|",
)


def row(name: str, space: SearchSpace) -> str:
    """What is found in a space."""
    kinds = [make_runtime(runtime, 1) for runtime in ("onnxruntime", "onnxruntime-int8")]
    table = measure_table(space, kinds[1])
    networks = [space.sample(np.random.default_rng(i)) for i in range(NETWORKS)]
    predicted = np.array([table.predict(a) for a in networks])
    taken = np.zeros((TURNS, NETWORKS, 2))
    for turn in range(TURNS):
        for i, architecture in enumerate(networks):
            torch.manual_seed(0)
            calls = [kind.prepare(architecture.build(), space.skeleton.input_size) for kind in kinds]
            taken[turn, i] = [found["p10_ms"] for found in by_turns(calls, 40, 5)]
    plain, small = np.median(taken, axis=0).T
    off, faster = predicted / small - 1, plain / small
    again = np.mean([kendalltau(taken[a, :, 1], taken[b, :, 1])[0] for a, b in ((0, 1), (0, 2), (1, 2))])
    return (
        f"| {name} | {100 * np.abs(off).mean():.1f} % on average, {100 * off.min():+.1f} to {100 * off.max():+.1f} % | "
        f"{spearmanr(predicted, small)[0]:.3f} | {np.median(faster):.2f} ({faster.min():.2f} to {faster.max():.2f}) | "
        f"{kendalltau(plain, small)[0]:.2f} | {again:.2f} |"
    )


def main(names: Sequence[str]) -> None:
    rows = [row(name, make()) for name, make in SPACES.items() if not names or name.split()[0] in names]
    note = f"{NETWORKS} random networks, untrained, one thread; medians of {TURNS} turns, both files of a network side by side."
    write("int8_latency", "Latency in INT8", [note, "", *HEAD, *rows])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])

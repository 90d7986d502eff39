"""What the benchmarks share: side-by-side timing and dated result files."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch

RESULTS = Path(__file__).resolve().parent / "results"
CIFAR10 = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"


def side_by_side(
    works: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2, clock: Callable[[], float] = time.perf_counter
) -> dict[str, np.ndarray]:
    """Seconds of each work, taken in turns so that a busy neighbour hits all of them: float [rounds] per name."""
    for work in works.values():
        for _ in range(warmup):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds):
        order = list(works) if i % 2 == 0 else list(works)[::-1]
        for name in order:
            start = clock()
            works[name]()
            seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(a: np.ndarray, b: np.ndarray) -> str:
    """Median of a over median of b, with the quartiles of the ratios of pairs."""
    low, high = np.percentile(a / b, [25, 75])
    return f"{np.median(a) / np.median(b):.3f} (quartiles of pairs {low:.3f} to {high:.3f})"


def dated(name: str) -> Path:
    """Where today's results of a benchmark go."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{name}-{date.today().isoformat()}.md"


def write(name: str, title: str, lines: Sequence[str], command: str | None = None) -> Path:
    """A dated result file, also printed. `command`: what made it, where that is not the benchmark of this name alone."""
    path = dated(name)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    made = f"`python benchmarks/{command or f'{name}.py'}`"
    head = [f"# {title}", "", f"torch {torch.__version__}, {platform.machine()}, {device}. {made}", ""]
    text = "\n".join([*head, *lines]) + "\n"
    path.write_text(text)
    print(text)
    return path

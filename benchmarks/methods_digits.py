"""HNAS against its controls on digits: mean and spread over seeds, the same supernet epochs and final training.

    python benchmarks/methods_digits.py [SEEDS]

HNAS searches three times, the controls once, each time with the same number of evaluations. "one random network" is not
searched at all: the first random architecture within the limit, trained in the same way.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import hiernas
from common import write
from hiernas.costs import parse_limits
from hiernas.costs.limits import sample_feasible
from hiernas.costs.tables import cost_tables
from hiernas.methods.hnas import QUICK
from hiernas.randomness import numpy_generator
from hiernas.run.folder import RunFolder
from hiernas.run.outcome import train_network
from hiernas.run.settings import with_settings
from hiernas.train.loop import accuracy
from hiernas.train.recipes import Phase

LIMIT = "macs<=1.8M"  # of tiny at 1x8x8: tight, so that there is something to choose
CONFIG = with_settings(
    QUICK, ["epochs=14,6,4", "population=16", "generations=5", "final_epochs=20", "objective=macs"]
)


def searched(method: hiernas.api.Search, seed: int, folder: Path) -> tuple[float, float]:
    found = method("tiny", "digits", [LIMIT], CONFIG, seed=seed, out=folder)
    return found.chosen.val_accuracy, found.test_accuracy


def unsearched(seed: int, folder: Path) -> tuple[float, float]:
    data = hiernas.load_data("digits", seed=seed)
    space = hiernas.spaces.tiny(data.input_size, data.num_classes)
    tables, limits = cost_tables(space, None), parse_limits([LIMIT])
    genes = sample_feasible(space, tables, limits, numpy_generator(seed, "one random"), 1)
    run = RunFolder.create(folder, {"method": "train", "seed": seed, "data": {}})
    phase = Phase("final", CONFIG.final_epochs, CONFIG.final_lr)
    network = train_network(space.decode(genes[0]), data, phase, CONFIG.train, run)
    return float("nan"), accuracy(network, data.test, data)


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    methods = {"HNAS": hiernas.hnas, "SPOS": hiernas.spos, "random search": hiernas.random_search, "one random network": None}
    rows = []
    for name, method in methods.items():
        results = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "r"
                results.append(searched(method, seed, path) if method else unsearched(seed, path))
        val, test = np.array(results).T * 100
        shown = "-" if np.isnan(val).any() else f"{val.mean():.2f} ± {val.std(ddof=1):.2f}"
        each = ", ".join(f"{t:.2f}" for t in test)
        rows.append(f"| {name} | {shown} | {test.mean():.2f} ± {test.std(ddof=1):.2f} | {each} |")
        print(rows[-1], flush=True)
    lines = [
        f"digits, space `tiny`, {LIMIT}, {seeds} seeds (each with its own split), {sum(CONFIG.epochs)} supernet epochs, "
        f"{CONFIG.population * (CONFIG.generations + 1)} evaluations per search, {CONFIG.final_epochs} final epochs;",
        "mean ± standard deviation in %. 359 test images: one image is 0.28 %.", "",
        "| | supernet accuracy of the chosen | test accuracy, from scratch | per seed |", "|---|---|---|---|", *rows,
    ]  # fmt: skip
    write("methods_digits", "HNAS and its controls on digits", lines)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()

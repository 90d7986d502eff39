"""What the depth loss of H-DAS does to stage graphs: the same search with other weights of it, over seeds.

    python benchmarks/depth_loss.py [SEEDS]

Searches the stage graphs of `hdas-stages` (preset `quick`, digits) with delta from 0, which is no depth loss, upward, and
trains what is found from scratch. About four minutes per row and seed on 2 idle cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common import write
from hiernas.methods.hdas import PRESETS
from hiernas.run import Request, search

DELTAS = (0.0, 0.1, 1.0)


def searched(delta: float, seed: int) -> tuple[float, float, float]:
    """Mean depth and number of dead cells of a stage, and the test accuracy in %."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(PRESETS["quick"], delta=delta)
        run = search(Request("hdas-stages", config=config, seed=seed), Path(folder) / "r")
        result = json.loads((run.path / "result.json").read_text())
    stages = result["details"]["stages"]
    depth, dead = (float(np.mean([stage[key] for stage in stages])) for key in ("depth", "dead"))
    return depth, dead, 100 * result["chosen"]["test_accuracy"]


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows = []
    for delta in DELTAS:
        found = np.array([searched(delta, seed) for seed in range(seeds)])
        shown = [f"{m:.2f} ± {s:.2f}" for m, s in zip(found.mean(0), found.std(0, ddof=1), strict=True)]
        rows.append(f"| {delta} | {' | '.join(shown)} |")
        print(rows[-1], flush=True)
    lines = [
        f"`hdas-stages` on digits, preset `quick`, four cells per stage, {seeds} seeds; mean ± standard deviation. The limit",
        "is the median number of parameters, which graphs between given cells hardly change.", "",
        "| delta | depth of a stage | dead cells of a stage | test accuracy, % |", "|---|---|---|---|", *rows,
    ]  # fmt: skip
    write("depth_loss", "Depth loss of H-DAS", lines)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()

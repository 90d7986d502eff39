"""What H-DAS' depth loss and its window do to stage graphs (arXiv 2101.04028v2, Table 4): the same search without them.

    python benchmarks/depth_loss.py [SEEDS] [FOLDER]

Searches the stage graphs of `hdas-stages` (preset `small`, CIFAR-10) with each cell reading from the last m = 3 states, with
and without the depth loss, and with m = 7 and the depth loss, and takes the two strongest edges of each cell. No network is
trained afterwards. About five minutes per row and seed on one idle core. FOLDER keeps the searches, so that a run that was
cut off goes on.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common import CIFAR10, write
from hiernas.methods.hdas import PRESETS, hdas_stages
from hiernas.randomness import numpy_generator
from hiernas.run.folder import RunFolder
from hiernas.run.request import Request, prepare
from hiernas.run.search import make_problem
from hiernas.spaces import hdas_stages as space_of

CELLS, CHANNELS = 14, 8  # of the network that is derived, as in the preset
NO_LIMIT = "params<=100M"  # the strongest edges, whatever they cost
SEARCHED = ((3, 1.0), (3, 0.0), (7, 1.0))  # window and delta
DRAWN = 1000  # random graphs of the control


def searched(delta: float, window: int, seed: int, folder: Path) -> list[float]:
    """Mean depth and number of dead cells of a stage, and the supernet's validation accuracy of the graphs in %."""
    path = folder / f"delta{delta}-window{window}-seed{seed}"
    config = replace(PRESETS["small"], delta=delta)
    config = replace(config, search=replace(config.search, decided=0.0))  # the graphs are read off, whatever was decided
    arguments = {"channels": CHANNELS, "cells": CELLS, "window": window}
    request = Request(
        "hdas-stages", "hdas_stages", arguments, str(CIFAR10), (NO_LIMIT,), config=config, seed=seed, preset="small"
    )
    kept = path / "depth.json"
    if not kept.exists():
        begun = (path / "config.yaml").exists()
        header = {"method": "hdas-stages", "seed": seed, "data": None}
        run = RunFolder.open(path) if begun else RunFolder.create(path, header)
        asked = prepare(request)
        found = hdas_stages(make_problem(asked.space, asked.data, asked.limits, asked.latency, run, seed), config)
        kept.write_text(json.dumps([*_depth_and_dead(found.architecture), 100 * found.chosen.val_accuracy]))
    return list(json.loads(kept.read_text()))


def drawn(window: int) -> np.ndarray:
    """Depth and dead cells of random graphs: [DRAWN, 2]."""
    space = space_of(channels=CHANNELS, cells=CELLS, window=window)
    rng = numpy_generator(0, "drawn")
    return np.array([_depth_and_dead(space.sample(rng)) for _ in range(DRAWN)])


def _depth_and_dead(architecture) -> tuple[float, float]:
    stages = architecture.skeleton.shapes(architecture.choices)
    return float(np.mean([s.depth for s in stages])), float(np.mean([s.dead for s in stages]))


def _shown(values: np.ndarray) -> str:
    return " | ".join(f"{m:.2f} ± {s:.2f}" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True))


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for window, delta in SEARCHED:
        for seed in range(seeds):
            rows[window, delta, seed] = searched(delta, window, seed, folder)
            print(window, delta, seed, rows[window, delta, seed], flush=True)
    small = PRESETS["small"].search
    lines = [
        f"`hdas-stages` on CIFAR-10, preset `small` ({small.images} images, four cells per stage, search in 4 channels,",
        f"{small.epochs} epochs), {seeds} seeds: mean ± standard deviation. No limit. m is the window of Rule 3; with four",
        f"cells a window of 7 is every state before a cell. Random: {DRAWN} random graphs.", "",
        "| m | delta | depth of a stage (of 4) | dead cells of it | supernet's accuracy, % | depth by seed | dead by seed |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for window, delta in SEARCHED:
        found = np.array([rows[window, delta, seed] for seed in range(seeds)])
        each = (", ".join(f"{value:.2f}" for value in column) for column in found.T[:2])
        lines.append(f"| {window} | {delta} | {_shown(found)} | {' | '.join(each)} |")
    lines += [f"| {window} | random | {_shown(drawn(window))} | | | |" for window in (3, 7)]
    write("depth_loss", "Depth loss and window of H-DAS", lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

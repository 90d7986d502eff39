"""HNAS in a planted chain: how much of it is found, and whether a pruning ever drops what is right."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hiernas.methods.hnas import HNASConfig, hnas
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.train.recipes import Recipe
from planted import RIGHT, right_sites, textures, vital_chain
from toy import RUN

SITES, OPTIONS = 2, 4
CONFIG = HNASConfig(
    stages=4, epochs=(20, 10, 10), lr=(0.1, 0.05, 0.05),
    train=Recipe(batch_size=32, schedule="cosine", augment="none", accelerator="cpu", grad_clip=5.0),
    population=12, generations=3, objective="macs", rank_below=4, p_th=0.1, calibration_images=200,
)  # fmt: skip


def of_hnas(seed: int) -> tuple[float, float]:
    """The share of the sites at which the option that sees the image was found, and never pruned; and that by chance."""
    space = vital_chain(SITES, OPTIONS, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "r", RUN)
        found = hnas(make_problem(space, textures(seed=seed), (), None, run, seed), CONFIG)
        run.close()
    kept = [all(RIGHT in d.options for d in p.space.decisions) for p in found.prunings]
    return right_sites(found.architecture.options) / SITES if all(kept) else 0.0, 1 / OPTIONS

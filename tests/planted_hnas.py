"""HNAS in a planted chain: how much of it is found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hiernas.methods.hnas import HNASConfig, hnas
from hiernas.problem import Found, Problem
from hiernas.run.finalists import best_of
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.space import SearchSpace
from hiernas.train.recipes import Recipe
from hiernas.train.retraining import Retraining
from planted import right_sites, textures, vital_chain
from planted_cells import Measured
from toy import RUN

CONFIG = HNASConfig(
    stages=4, epochs=(20, 10, 10), lr=(0.1, 0.05, 0.05),
    train=Recipe(batch_size=32, schedule="cosine", augment="none", accelerator="cpu", grad_clip=5.0),
    population=12, generations=3, objective="macs", rank_below=4, p_th=0.1, calibration_images=200,
)  # fmt: skip


def of_hnas(
    seed: int, make: Callable[..., SearchSpace] = vital_chain, sites: int = 2, options: int = 4,
    method: Callable[[Problem, Any], Found] = hnas, config: HNASConfig = CONFIG,
) -> Measured:  # fmt: skip
    """The share of the sites at which the option that sees the image was found (so that no pruning dropped it); by chance."""
    space = make(sites, options, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "r", RUN)
        problem = make_problem(space, textures(seed=seed), (), None, run, seed)
        found = best_of(problem, method(problem, config), config, Retraining(config.train, 1, 0.1))
        run.close()
    return Measured(right_sites(found.architecture.options) / sites, 1 / options)

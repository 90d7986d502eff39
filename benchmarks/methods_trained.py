"""Whole searches in a small space in which what they take can be trained: HNAS with M = 2, 3, 4, and HourNAS by its parts.

    python benchmarks/methods_trained.py FOLDER DATA [SEED ...] [--searches NAME ...] [--space nasbench_macro] [--size 12]
        [--networks 24] [--images 8000] [--epochs 5]

FOLDER and all settings: those of `trained_networks.py`, whose trainings are used where they are there. Each search has the
limit on MACs, the images and four epochs of a supernet (HourNAS without its prior five). What it takes
is trained alone, and compared with networks drawn within the limit; HourNAS, too, with what four of its proposals would give
if nothing were learned in them. Ten minutes per seed for the searches and a minute per training on one core; what
FOLDER has is not computed again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import dated
from hiernas.budget import Limit
from hiernas.data import load_data
from hiernas.methods.controls import PRESETS as CONTROLS
from hiernas.methods.controls import plain
from hiernas.methods.hnas import hnas
from hiernas.methods.hournas import PRESETS, hournas, vital_sites
from hiernas.methods.hournas.proposals import gains, option_mask
from hiernas.problem import Found, Problem
from hiernas.run.finalists import best_of
from hiernas.run.search import make_problem
from hiernas.train.retraining import Retraining
from nas_bench_macro import append, cached, opened
from trained_networks import CONFIG, Table, shared_out

M = {2: CONFIG, 3: replace(CONFIG, stages=3, epochs=(2, 2), lr=(0.2, 0.1)),
     4: replace(CONFIG, stages=4, epochs=(2, 1, 1), lr=(0.2, 0.1, 0.1))}  # fmt: skip
HOURNAS = replace(PRESETS["small"], train=CONFIG.train, calibration_images=250, objective="macs", vital_epochs=1, epochs=3)
SEARCHES: dict[str, tuple[Any, Any]] = {
    **{f"hnas, M = {m}{', predictor=linear' * (p == 'linear')}": (hnas, replace(c, predictor=p))
       for m, c in M.items() for p in ("none", "linear")},
    "hournas": (hournas, HOURNAS),
    "hournas, vital_prior=false": (hournas, replace(HOURNAS, vital_prior=False, epochs=2)),
    "hournas, proposals=1": (hournas, replace(HOURNAS, proposals=1)),
    "hournas, sampling=gumbel_softmax": (hournas, replace(HOURNAS, sampling="gumbel_softmax")),
    "hournas, estimator=straight_through": (hournas, replace(HOURNAS, estimator="straight_through")),
    "plain": (plain, CONTROLS["small"]),
}  # fmt: skip
DRAWN = 4  # proposals
HEAD = """# What whole searches take, trained

`python benchmarks/methods_trained.py`, one thread. Taken: accuracy (%) of the network that a search takes, trained alone, and
how many points it is above the mean of networks drawn within the limit. From its proposals: the mean of what four of
HourNAS' proposals give without any learning in them, within the limit, with the vital blocks that it fixed.

| data | seed | search | taken | above the mean | from its proposals | vital blocks |
|---|---|---|---|---|---|---|
"""


def from_proposals(table: Table, problem: Problem, found: Found) -> list[list[int]]:
    """What the first proposals would give if nothing had been learned in them: genes in the whole space, within the limit."""
    space, budget = found.prunings[-1].space if found.prunings else table.space, problem.budget
    saved = problem.run.load_tensors("proposals")
    assert saved is not None
    options, rows = option_mask(space), list[list[int]]()
    for theta in saved[0]["theta"].numpy()[:DRAWN]:
        genes = np.where(options, theta, -np.inf).argmax(-1)
        if not budget.met(space, genes[None])[0]:
            genes = budget.best(space, gains(theta, options))
        rows.append([int(g) for g in table.space.encode(table.space.architecture(space.decode(genes).options))])
    return rows


def taken(table: Table, name: str, seed: int) -> dict[str, Any]:
    """Genes of what a search takes, and of what its proposals give without learning."""
    method, config = SEARCHES[name]
    at = table.folder / f"seed{seed}-{name}"

    def search() -> dict[str, Any]:
        run = opened(at, seed)
        problem = make_problem(table.space, table.data, (Limit("macs", high=table.limit),), None, run, seed)
        found = best_of(problem, method(problem, config), config, Retraining(config.train, 1, 0.1))
        drawn = from_proposals(table, problem, found) if method is hournas else []
        run.close()
        chosen = table.space.architecture(found.chosen.options)
        return {"taken": [int(g) for g in table.space.encode(chosen)], "options": list(chosen.options), "drawn": drawn}

    return dict(cached(table.folder / f"seed{seed}-{name}.json", search))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data")
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=SEARCHES, metavar="NAME")
    parser.add_argument("--space", default="nasbench_macro")
    for name, value in {"size": 12, "networks": 24, "images": 8000, "epochs": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    data = shared_out(load_data(asked.data, image_size=asked.size), asked.images)
    table, path = Table(asked.folder, data, asked.epochs, asked.space), dated("methods_trained")
    if not path.exists():
        path.write_text(HEAD)
    mean = np.mean([table.trained(g) for g in table.within[: asked.networks]])
    vital = vital_sites(table.space)
    for seed in asked.seeds:
        for name in asked.searches:
            known = taken(table, name, seed)
            accuracy = table.trained(known["taken"])
            begun = [table.trained(g) for g in known["drawn"]]
            drawn = f"{np.mean(begun):.2f}" if begun else "-"
            sites = dict(zip(table.space.skeleton.site_names, known["options"], strict=True))
            blocks = ", ".join(sites[site] for site in vital)
            append(path, [f"| {table.name} | {seed} | {name} | {accuracy:.2f} | {accuracy - mean:+.2f} | {drawn} | {blocks} |"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

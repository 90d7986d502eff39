"""What the weights of H-DAS' losses decide (arXiv 2101.04028v2, Eq. 6), as printed and as its authors' code has them.

    python benchmarks/hdas_losses.py [SEEDS] [FOLDER] [search]

Digits, light cells (one separable convolution each), four channels, four cells per stage, or three to five where their
number is searched; the searches are those of the preset `quick`. Each is followed by a training of the graphs found, from
scratch, and both are judged on validation images; no test image is looked at. With `search`, the paper's form alone, and
nothing is trained. About a minute per search on one idle core, and FOLDER keeps what is done.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from common import write
from hiernas.data import load_data, normalise
from hiernas.methods.hdas import StageSoftmax, computation_loss, depth_loss, sum_of_losses
from hiernas.networks.cell_ops import FREE
from hiernas.randomness import numpy_generator, seeded
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.search.alphas import by_strength
from hiernas.search.differentiable import QUICK, SearchSettings, learn
from hiernas.space import SearchSpace
from hiernas.spaces import hdas_stages
from hiernas.train.loop import accuracy, fit
from hiernas.train.recipes import Phase, Recipe

ONE = "[('sep_conv_3x3', 0), ('skip_connect', 1), ('skip_connect', 0), ('skip_connect', 2), " \
      "('skip_connect', 1), ('skip_connect', 2), ('skip_connect', 0), ('skip_connect', 1)]"  # fmt: skip
CELL = f"Genotype(normal={ONE}, normal_concat=range(2, 6), reduce={ONE}, reduce_concat=range(2, 6))"
RECIPE = Recipe(batch_size=64, weight_decay=3e-4, schedule="cosine", grad_clip=5.0)
SEARCH = replace(QUICK, decided=0.0)
STEPS = 180  # of the logits in a search: ten epochs of half the training images, in batches of 32
TRAIN_EPOCHS = 12  # of what is found
SPACES: dict[str, dict[str, Any]] = {"graphs": {"cells": (4, 4, 4)}, "numbers": {"cells": (5, 5, 5), "least": 3}}
DRAWS = 3  # of the first logits, for the losses alone
POINTS = (  # what is searched, the form, delta and gamma
    *(("graphs", "paper", delta, 0.0) for delta in (0.0, 0.01, 0.1, 0.3, 1.0)),
    ("graphs", "release", 1.0, 0.0),
    *(("numbers", "paper", 0.1, gamma) for gamma in (0.0, 0.004, 0.04, 0.4)),
    ("numbers", "paper", 1.0, 0.4),
    *(("numbers", "release", 1.0, gamma) for gamma in (0.0, 0.4)),
)
WITHOUT = {"graphs": ("graphs", "paper", 0.0, 0.0), "numbers": ("numbers", "paper", 0.1, 0.0)}  # what others are compared with


def space_of(what: str) -> SearchSpace:
    return hdas_stages((1, 8, 8), 10, channels=4, cell=CELL, **SPACES[what])


def searched(
    what: str, form: Any, delta: float, gamma: float, seed: int, search: SearchSettings = SEARCH, train: bool = True
) -> dict[str, Any]:  # fmt: skip
    """Depth, dead cells and numbers of the graphs found, and their validation accuracy after a training of their own."""
    data = load_data("digits")
    space = space_of(what)
    losses = [(delta, depth_loss(space, form)), *([(gamma, computation_loss(space))] if what == "numbers" else [])]
    encoding = StageSoftmax(space, raw=form == "release")
    further = {"apart" if form == "release" else "extra": sum_of_losses(*losses)}
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", {"method": "hdas-stages", "seed": seed, "data": None})
        supernet, architect, _ = learn(encoding, make_problem(space, data, (), None, run, seed), search, "train1", **further)
        found = space.architecture(by_strength(space, architect.strengths()))
    stages = found.skeleton.shapes(found.choices)
    return {
        "depth": float(np.mean([s.depth for s in stages])), "dead": float(np.mean([s.dead for s in stages])),
        "cells": [s.cells for s in stages], "val": trained(found, data, seed) if train else math.nan,
        "ratio": ratio(supernet, architect, data, sum_of_losses(*losses)), "options": list(found.options),
    }  # fmt: skip


def trained(found: Any, data: Any, seed: int) -> float:
    """Validation accuracy in % of a network trained from scratch."""
    with seeded(seed, "network"):
        network = found.build()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", {"method": "train", "seed": seed, "data": None})
        fit(network, data.train, data, Phase("final", TRAIN_EPOCHS, 0.1), RECIPE, seed=seed, run=run)
    return 100 * accuracy(network, data.val, data)


def ratio(supernet: Any, architect: Any, data: Any, further: Any) -> float:
    """Size of the further losses' gradient over that of the task's, for the logits as they were learned."""
    images = torch.arange(min(256, len(architect.images)))
    x, y = normalise(architect.images.images.fetch(images), data, torch.device("cpu")), architect.images.labels[images]
    task = torch.autograd.grad(F.cross_entropy(supernet(x, architect.gates()), y), architect.alphas)
    loss = further(architect.alphas)
    if not loss.requires_grad:
        return 0.0
    other = torch.autograd.grad(loss, architect.alphas, allow_unused=True)
    sizes = [sum(float(g.abs().sum()) for g in grads if g is not None) for grads in (other, task)]
    return sizes[0] / sizes[1]


def alone(what: str, form: Any, gamma: float, seed: int) -> tuple[float, float, float]:
    """Depth, mean number of cells, and largest share of an edge's operation after as many steps of the losses alone."""
    space = space_of(what)
    generator = torch.Generator().manual_seed(seed)
    alphas = [(1e-3 * torch.randn(len(d.options), generator=generator)).requires_grad_() for d in space.decisions]
    adam = torch.optim.Adam(alphas, lr=SEARCH.alpha.lr, betas=SEARCH.alpha.betas, weight_decay=SEARCH.alpha.weight_decay)
    losses = [(1.0, depth_loss(space, form)), *([(gamma, computation_loss(space))] if what == "numbers" else [])]
    for _ in range(STEPS):
        adam.zero_grad()
        sum_of_losses(*losses)(alphas).backward()
        adam.step()
    rows = [(a.exp() if form == "release" else a.softmax(0)).detach().numpy() for a in alphas]
    rows = [np.where([o == "none" for o in d.options], 0, row) for d, row in zip(space.decisions, rows, strict=True)]
    stages = space.skeleton.shapes(space.architecture(by_strength(space, rows)).choices)
    largest = max(float(a.detach().softmax(0).max()) for a, d in zip(alphas, space.decisions, strict=True) if "->" in d.name)
    return float(np.mean([s.depth for s in stages])), float(np.mean([s.cells for s in stages])), largest


def shown(values: Any) -> str:
    row = np.array(values, dtype=float)
    if np.isnan(row).any():
        return ""  # not measured
    return f"{row.mean():.2f} ± {row.std(ddof=1):.2f}" if len(row) > 1 else f"{row.mean():.2f}"


def table(rows: dict[str, Any], seeds: int) -> list[str]:
    lines = [
        "| searched | form | delta | gamma | seeds | depth | cells of a stage | dead | validation accuracy, % |"
        " as without | gradient, losses / task |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for what, form, delta, gamma in POINTS:
        names = [(key(what, form, delta, gamma, seed), key(*WITHOUT[what], seed)) for seed in range(seeds)]
        both = [(rows[name], rows[without]) for name, without in names if name in rows and without in rows]
        if not both:
            continue
        found, free = zip(*both, strict=True)
        same = [np.mean(np.array(f["options"]) == np.array(g["options"])) for f, g in zip(found, free, strict=True)]
        cells = [np.mean(f["cells"]) for f in found]
        columns = [shown([f[name] for f in found]) for name in ("depth", "dead", "val")]
        lines.append(
            f"| {what} | {form} | {delta} | {gamma if what == 'numbers' else ''} | {len(found)} | {columns[0]} | "
            f"{shown(cells)} | {columns[1]} | {columns[2]} | {100 * np.mean(same):.0f} % | "
            f"{np.median([f['ratio'] for f in found]):.2g} |"
        )
    return lines


def by_chance(what: str) -> str:
    """How many sites two random graphs have in common."""
    space, rng = space_of(what), numpy_generator(0, "chance")
    one, two = (space.sample_encoded(rng, 2000) for _ in range(2))
    return f"{100 * np.mean(one == two):.0f} %"


def related(rows: dict[str, Any], seeds: int) -> str:
    """What the validation accuracy goes with: rank correlations over all networks of the table, each graph once."""
    every = [(point[0], rows[key(*point, seed)]) for point in POINTS for seed in range(seeds) if key(*point, seed) in rows]
    unique = {tuple(row["options"]): (what, row) for what, row in every}
    found, pooled = [row for _, row in unique.values()], []
    for what, row in unique.values():
        space = space_of(what)
        choices = space.skeleton.without_dead(space.architecture(row["options"]).choices)
        kept = [o for ((o, _),) in choices if o in FREE[1:]]
        pooled.append(np.mean(["pool" in o for o in kept]))
    val = [row["val"] for row in found]
    depth, pools = (spearmanr(x, val) for x in ([row["depth"] for row in found], pooled))
    return (
        f"Over the {len(found)} different networks the validation accuracy has a rank correlation of {depth.statistic:.2f} (p ="
        f" {depth.pvalue:.2g}) with depth and of {pools.statistic:.2f} (p = {pools.pvalue:.2g}) with the share of poolings."
    )


def key(*point: Any) -> str:
    return " ".join(str(value) for value in point)


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    train = "search" not in sys.argv[3:]
    kept = folder / "rows.jsonl"
    rows = dict(json.loads(line) for line in kept.read_text().splitlines()) if kept.exists() else {}
    for seed in range(seeds):
        for point in POINTS:
            name = key(*point, seed)
            if name not in rows and (train or "paper" in point):
                rows[name] = searched(*point, seed, train=train)
                with kept.open("a") as file:
                    file.write(json.dumps([name, rows[name]]) + "\n")
                print(name, {k: v for k, v in rows[name].items() if k != "options"}, flush=True)
    report(rows, seeds, train)


def report(rows: dict[str, Any], seeds: int, train: bool) -> None:
    lines = [
        f"Digits, mean ± standard deviation over seeds; {SEARCH.warmup_epochs} epochs of the weights alone, {SEARCH.epochs} of "
        f"search (Adam of the logits at {SEARCH.alpha.lr:g}), {TRAIN_EPOCHS if train else 'none'} of training.",
        "Graphs: four cells per stage. Numbers: three to five. 'As without': sites with the same option as in the search of",
        "the same seed in the paper's form with delta 0 (graphs), or with delta 0.1 and gamma 0 (numbers). The last column:",
        "sum of the gradients' sizes of the losses over that of the task, at the end, median.",
        f"Two random graphs have {by_chance('graphs')} of the sites in common, with numbers {by_chance('numbers')}.", "",
        *table(rows, seeds), "", *([related(rows, seeds), ""] if train else []),
        f"The losses alone, without a task, {STEPS} steps of Adam from {DRAWS} draws of the first logits:", "",
        "| searched | form | delta | gamma | depth | cells of a stage | largest softmax weight on an edge |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    forms, gammas = ("paper", "release"), (0.0, 0.4)
    for what, form, gamma in (*(("graphs", f, 0.0) for f in forms), *(("numbers", f, g) for f in forms for g in gammas)):
        columns = zip(*[alone(what, form, gamma, seed) for seed in range(DRAWS)], strict=True)
        lines.append(f"| {what} | {form} | 1 | {gamma} | {' | '.join(shown(c) for c in columns)} |")
    command = " ".join(["hdas_losses.py", str(seeds), "FOLDER", *([] if train else ["search"])])
    write("hdas_losses", "The weights of H-DAS' losses", lines, command)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

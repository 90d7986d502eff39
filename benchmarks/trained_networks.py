"""What puts networks of a space in the order of their own trainings, and what is taken by it: a second NAS-Bench, by hand.

    python benchmarks/trained_networks.py FOLDER DATA [SEED ...] [--space tiny] [--size 16] [--networks 32] [--images 12000]
        [--epochs 5] [--twice 12]

DATA: what `hiernas search --data` takes; its training images alone are used: so many to train, 1,000 to search, 20,000 to
judge by, so that no choice rests on test images. So many networks drawn within a limit on MACs (of networks drawn at random
a quarter meets it) are trained from scratch. Per seed a supernet is trained (four epochs) and searched twice, by HNAS'
evolution and at random, 168 candidates each; what the accuracies, NASWOT, both, and predictors learned from them put first
is trained in the same way. --twice: so many of the networks are trained with another seed, too, which says how well any
order can do. A minute or two per training, five per search, on one core; what FOLDER has is not computed again. The space:
`tiny`, or a chain of at most a million networks with its published strides.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from common import dated
from hiernas.budget import Limit
from hiernas.costs.tables import cost_tables
from hiernas.data import load_data
from hiernas.data.split import ImageData, Split, Subset
from hiernas.methods.hnas import SMALL
from hiernas.problem import Problem
from hiernas.randomness import seeded
from hiernas.run.finalists import effects
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.search.evolution import search_supernet, train_supernet
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import make_space
from hiernas.train.evaluate import RunTrainer
from hiernas.train.recipes import Phase
from nas_bench_macro import append, cached, opened, promise, standard

CONFIG = replace(
    SMALL, stages=2, epochs=(4,), lr=(0.2,), population=24, generations=6, objective="macs", calibration_images=250,
    train=replace(SMALL.train, accelerator="cpu", warmup_epochs=0.5),
)  # fmt: skip
LR, JUDGES, SEARCH = 0.1, 20_000, 1000
HEAD = """# Networks of small spaces, trained

`python benchmarks/trained_networks.py`, one thread. tau: Kendall's, with the accuracies of trained networks drawn within the
limit, of `tiny` where no space is named. Taken: accuracy (%) of the trained network that is put first, and how many points
it is above the mean of the drawn ones. `linear`: by what a sum over layers says, learned from the search's 168 candidates;
it may take any network within the limit.

| data | seed | candidates | by | tau | taken | above the mean |
|---|---|---|---|---|---|---|
"""


class Table:
    """Networks within a limit by their genes, and the accuracies of those that were trained."""

    def __init__(self, folder: Path, data: ImageData, epochs: int, space: str = "tiny") -> None:
        self.folder, self.data, self.epochs = folder, data, epochs
        strides = {} if space == "tiny" else {"stem": "imagenet"}
        self.space: SearchSpace = make_space(space, data, strides)
        self.name = data.name if space == "tiny" else f"{data.name}, {space}"
        self.macs = cost_tables(self.space, None)["macs"]
        rng = np.random.default_rng(7)
        drawn = self.space.sample_encoded(rng, 4000)
        self.limit = float(np.quantile(self.macs.of(drawn), 0.25))
        self.within = np.unique(drawn[self.macs.of(drawn) <= self.limit], axis=0)
        self.within = self.within[rng.permutation(len(self.within))]

    def trained(self, genes: Any, seed: int = 0) -> float:
        """Accuracy in percent on images that neither a training nor a search sees."""
        name = "".join(map(str, genes)) + (f"-{seed}" if seed else "")

        def train() -> float:
            with seeded(seed, name):
                network: Any = self.space.decode([int(g) for g in genes]).build()
            own = self.folder / f"trained-{name}"
            run = opened(own, seed)
            trainer = RunTrainer(self.data, run, seed)
            trainer.fit(network, self.data.train, Phase("final", self.epochs, LR), CONFIG.train)
            evaluator = trainer.evaluator(None, CONFIG.train, 1000, paths=False)
            evaluator.calibrate(network.cpu())
            found = 100 * trainer.accuracy(network, self.data.test, 500, None)
            run.close()
            shutil.rmtree(own)
            return found

        return float(cached(self.folder / f"{name}.json", train))

    def best(self, gains: Any) -> list[int]:
        """The network within the limit that a sum over layers puts first: exact, as the space is small."""
        every = np.array(np.meshgrid(*[np.arange(len(g)) for g in gains], indexing="ij")).reshape(len(gains), -1).T
        every = every[self.macs.of(every) <= self.limit]
        return [int(g) for g in every[np.argmax(sum(g[column] for g, column in zip(gains, every.T, strict=True)))]]


def shared_out(whole: ImageData, images: int) -> ImageData:
    """Training, search and judging images, all of the training images; the same for every seed."""
    order = torch.from_numpy(np.random.default_rng(7).permutation(len(whole.train)))
    parts = order.split([images, SEARCH, JUDGES, len(order) - images - SEARCH - JUDGES])[:3]
    train, val, test = (Split(Subset(whole.train.images, rows), whole.train.labels[rows]) for rows in parts)
    return replace(whole, train=train, val=val, test=test)


def together(networks: Sequence[Architecture], accuracies: Sequence[float], promised: Sequence[float]) -> list[Any]:
    return [[list(a.options), x, w] for a, x, w in zip(networks, accuracies, promised, strict=True)]


def searched(table: Table, drawn: np.ndarray, seed: int) -> list[str]:
    """Rows of one supernet: both searches, and what each order takes."""
    at = table.folder / f"seed{seed}"
    at.mkdir(exist_ok=True)
    truth, space, data = np.array([table.trained(g) for g in drawn]), table.space, table.data
    sizes = [len(d.options) for d in space.decisions]

    def search() -> dict[str, Any]:
        run: RunFolder = opened(at / "run", seed)
        problem: Problem = make_problem(space, data, (Limit("macs", high=table.limit),), None, run, seed)
        supernet = problem.supernet(space)
        train_supernet(supernet, problem, CONFIG.trainings()[0], CONFIG)
        evaluate = problem.trainer.evaluator(supernet, CONFIG.train, CONFIG.calibration_images)
        found = {}
        for name, evolution in {"evolved": "ces", "drawn": "random"}.items():
            rows = search_supernet(supernet, problem, f"evolve-{name}", replace(CONFIG, evolution=evolution))
            networks, accuracies = [space.architecture(c.options) for c in rows], [c.val_accuracy for c in rows]
            found[name] = together(networks, accuracies, promise(networks, data, seed))
        networks = [space.decode([int(x) for x in g]) for g in drawn]
        found["table"] = together(networks, evaluate(networks), promise(networks, data, seed))
        run.close()
        return found

    known = cached(at / "found.json", search)
    _, accuracies, promised = zip(*known["table"], strict=True)
    of_table = {"supernet": np.array(accuracies), "NASWOT": np.array(promised)}
    of_table["both"] = standard(of_table["supernet"]) + standard(of_table["NASWOT"])
    lines = []
    for name in ("evolved", "drawn"):
        options, accuracies, promised = zip(*known[name], strict=True)
        genes = np.array([space.encode(space.architecture(tuple(o))) for o in options])
        scores = {"supernet": np.array(accuracies), "NASWOT": np.array(promised)}
        scores["both"] = standard(scores["supernet"]) + standard(scores["NASWOT"])
        for by, values in scores.items():
            gains, _ = effects(genes, values, sizes)
            said = np.sum([g[column] for g, column in zip(gains, drawn.T, strict=True)], axis=0)
            orders = {by: (of_table[by], genes[np.argmax(values)]), f"{by}, linear": (said, table.best(gains))}
            for order, (of_drawn, first) in orders.items():
                taken = table.trained(first)
                tau = kendalltau(of_drawn, truth).statistic
                shown = f"{tau:.3f} | {taken:.2f} | {taken - truth.mean():+.2f} |"
                lines.append(f"| {table.name} | {seed} | {name} | {order} | {shown}")
    return lines


def controls(table: Table, drawn: np.ndarray) -> list[str]:
    """Rows without a search: what the drawn ones reach, and what costs put first."""
    truth, macs = np.array([table.trained(g) for g in drawn]), table.macs.of(drawn)
    blocks = np.array([sum(o != "skip" for o in table.space.decode([int(x) for x in g]).options) for g in drawn])
    begin = f"| {table.name} | - | {len(drawn)} drawn, MACs <= {table.limit / 1e6:.2f}M"
    mean, spread, best = truth.mean(), truth.std(ddof=1), truth.max()
    largest = table.trained(table.best(table.macs.sites))
    rows = [f"| themselves, mean ± standard deviation, best | - | {mean:.2f} ± {spread:.2f}, {best:.2f} | {best - mean:+.2f} |"]
    rows.append(f"| MACs | {kendalltau(macs, truth).statistic:.3f} | {largest:.2f} | {largest - mean:+.2f} |")
    rows.append(f"| blocks | {kendalltau(blocks, truth).statistic:.3f} | - | - |")
    return [f"{begin} {row}" for row in rows]


def twice(table: Table, drawn: np.ndarray) -> list[str]:
    """A row: how far two trainings of the same networks agree, and what the better of five gains by it, trained again."""
    first, second = (np.array([table.trained(g, seed) for g in drawn]) for seed in (0, 1))
    noise, tau = (first - second).std(ddof=1) / np.sqrt(2), kendalltau(first, second).statistic
    rng, gains = np.random.default_rng(7), []
    for _ in range(10_000):
        five = rng.permutation(len(drawn))[:5]
        gains.append(second[five[np.argmax(first[five])]] - second.mean())
    begin = f"| {table.name} | - | {len(drawn)} of them, trained twice: ± {noise:.2f} points between two"
    return [f"{begin} | the other training; the best of five by it | {tau:.3f} | - | {np.mean(gains):+.2f} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data")
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--space", default="tiny")
    for name, value in {"size": 16, "networks": 32, "images": 12_000, "epochs": 5, "twice": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    data = shared_out(load_data(asked.data, image_size=asked.size), asked.images)
    table, path = Table(asked.folder, data, asked.epochs, asked.space), dated("trained_networks")
    drawn = table.within[: asked.networks]
    if not path.exists():
        path.write_text(HEAD)
    append(path, controls(table, drawn))
    for seed in asked.seeds:
        append(path, searched(table, drawn, seed))
    if asked.twice:
        append(path, twice(table, drawn[: asked.twice]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""Estimators of HourNAS' gradient in planted spaces: at how many sites the right option is taken, what of a step is signal,
and what a step costs.

    python benchmarks/hournas_planted.py [SEEDS [OPTIONS [SPACE ...]]]

Two spaces (`tests/planted.py`), one of vital blocks only and one without any; each candidate searches both with each seed.
In a third one, `priced`, options differ in their costs, and the limit is what the truth costs: there proposals have a target
that some wrong networks miss and others meet, and `score` is measured beside what targets alone find. With SPACE, only what
is found in these spaces is measured.
Every row is written as its search ends, and what the result file has already is not done again. Three candidates are
options of the method, the others are written down here only.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from common import dated, side_by_side
from hiernas import spaces
from hiernas.costs import parse_limits
from hiernas.costs.tables import cost_tables
from hiernas.data import normalise
from hiernas.data.split import shares
from hiernas.gates import Gates, frozen, single_path, uniform_path
from hiernas.methods import hournas as module
from hiernas.methods.hournas import HourNASConfig, hournas
from hiernas.methods.hournas.architect import Learned, ProposalArchitect
from hiernas.methods.hournas.proposals import fresh_parameters, option_mask
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.space import SearchSpace
from hiernas.train.loop import fit
from hiernas.train.recipes import Phase, Recipe
from planted import RIGHT, residual_chain, right_sites, textures, vital_chain

SPACES: dict[str, Callable[..., SearchSpace]] = {
    "vital": vital_chain, "residual": residual_chain, "priced": partial(residual_chain, priced=True)
}  # fmt: skip
FREE = ("vital", "residual")  # all networks cost the same, within this limit
WIDE = "macs<=10M"
RECIPE = Recipe(batch_size=32, schedule="cosine", augment="none", accelerator="cpu", grad_clip=5.0)
CONFIG = HourNASConfig(
    vital_epochs=20, epochs=20, train=RECIPE, share=0.4, architecture_lr=0.03, proposal_iterations=300, objective="macs",
    calibration_images=64,
)  # fmt: skip
STEPS, ROUNDS, PATHS, BATCH = 200, 8, 4, 32
HEAD = """# HourNAS: estimators in planted spaces

`python benchmarks/hournas_planted.py`
"""
COSTS = f"""
A step of the architecture over a training step of the network that is drawn, built plainly: {PATHS} networks, of each the
median of {ROUNDS} turns, batch {BATCH}, one thread; mean ± standard deviation over the networks, and the worst.

| | space | estimator | ratio | worst |
|---|---|---|---|---|
"""
SLOPES = f"""
Slope towards the right option in {STEPS} steps at temperature 1, with a supernet trained on uniform paths: mean over the
steps by their standard deviation, mean over the sites; mean ± standard deviation over three seeds, and the share of the
sites where the mean is right.

| | options | space | estimator | mean by deviation | right |
|---|---|---|---|---|---|
"""
SITES = """
Sites at which a search took the option that sees the image, of those there are.

| | options | space | estimator | seed | right | sites |
|---|---|---|---|---|---|---|
"""


# -- candidates that are no options of the method --------------------------------------------------------------------


class TwoPaths(ProposalArchitect):
    """ProxylessNAS (arXiv 1812.00332, section 3.2.1): two options per site are computed, one of them with weight 0, and each
    gate's gradient goes to the binary choice between the two."""

    def _by_gates(
        self, model: nn.Module, x: Tensor, y: Tensor, backward: Callable[[Tensor], Any], rng: np.random.Generator
    ) -> Learned:
        i = int((self.pi / self._now + rng.gumbel(size=self.pi.shape)).argmax())
        z = np.where(self.options, self.theta[i] / self._now + rng.gumbel(size=self.theta[i].shape), -np.inf)
        first = torch.from_numpy(np.argsort(-z, axis=1)[:, :2].copy())  # drawn without replacement; the first one is taken
        theta, pi = self._parameters(True)
        weight = (pi / self._now).softmax(0)[i]
        gates, indices = [], []
        for site, (both, there) in enumerate(zip(first, self.options, strict=True)):
            both = both[: int(there.sum())]
            p = (theta[i, site, both] / self._now).softmax(0)
            taken = F.one_hot(torch.zeros((), dtype=torch.int64), len(both))
            gates.append(((taken + p - p.detach()) * (1.0 + weight - weight.detach())).float())
            indices.append(tuple(both.tolist()))
        with frozen(model):
            loss = F.cross_entropy(model(x, Gates(tuple(indices), tuple(gates))), y)
            backward(loss)
        assert theta.grad is not None
        return loss.detach(), theta.grad.numpy(), np.zeros_like(self.pi) if pi.grad is None else pi.grad.numpy()


class OneNetwork(ProposalArchitect):
    """The score function of one network a step; the baseline is a running mean of the losses before (ENAS, REINFORCE)."""

    before: float | None = None

    def _by_score(self, model: nn.Module, x: Tensor, y: Tensor, rng: np.random.Generator) -> Learned:
        _, genes = self._drawn(rng.gumbel(size=self.pi.shape), rng.gumbel(size=self.theta.shape))
        with torch.no_grad():
            loss = F.cross_entropy(model(x, single_path(genes)), y)
        worse = 0.0 if self.before is None else float(loss) - self.before
        self.before = float(loss) if self.before is None else 0.9 * self.before + 0.1 * float(loss)
        by_theta, by_pi = self.score(genes)
        return loss, worse * by_theta, worse * by_pi


class NothingLearned(ProposalArchitect):
    """The control: proposals stay as they start."""

    def _by_score(self, model: nn.Module, x: Tensor, y: Tensor, rng: np.random.Generator) -> Learned:
        return torch.zeros(()), np.zeros_like(self.theta), np.zeros_like(self.pi)


CANDIDATES: dict[str, tuple[type[ProposalArchitect], dict[str, Any]]] = {
    "score": (ProposalArchitect, {}),
    "score, one network": (OneNetwork, {}),
    "two paths": (TwoPaths, {"estimator": "straight_through"}),
    "straight through": (ProposalArchitect, {"estimator": "straight_through"}),
    "Gumbel-softmax": (ProposalArchitect, {"sampling": "gumbel_softmax"}),
    "nothing learned": (NothingLearned, {}),
}


# -- sites that are right --------------------------------------------------------------------------------------------


def cost_of_truth(space: SearchSpace) -> float:
    """Multiply-adds of the network whose options all see the image."""
    genes = np.array([[d.options.index(RIGHT) for d in space.decisions]])
    return float(cost_tables(space, None)["macs"].of(genes)[0])


def searched(kind: str, candidate: str, options: int, seed: int) -> tuple[int, int]:
    """How many sites of a search's network are right, and how many there are."""
    space, (architect, more) = SPACES[kind](options=options, seed=seed), CANDIDATES[candidate]
    with tempfile.TemporaryDirectory() as folder, patch.object(module, "ProposalArchitect", architect):
        run = RunFolder.create(Path(folder) / "run", {"method": "hournas", "seed": seed, "data": {}})
        limit = WIDE if kind in FREE else f"macs<={cost_of_truth(space):.0f}"
        problem = make_problem(space, textures(seed=seed), parse_limits([limit]), None, run, seed)
        found = hournas(problem, replace(CONFIG, **more))
    return right_sites(found.chosen.options), len(space.decisions)


# -- signal ----------------------------------------------------------------------------------------------------------


def signals(kind: str, candidate: str, options: int, seed: int) -> tuple[float, float]:
    """By a supernet that was trained on uniform paths: the slope towards the right option and its share of a step.

    Mean over steps of the gradient along (right - mean of the others), by its standard deviation, mean over the sites;
    and the share of the sites where that mean points to the right option.
    """
    space, data = SPACES[kind](options=options, seed=seed), textures(seed=seed)
    images, others = shares(data.train, CONFIG.share, seed)
    supernet, (kind_of, more) = space.supernet(), CANDIDATES[candidate]
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", {"method": "hournas", "seed": seed, "data": {}})
        fit(supernet, images, data, Phase("p", 10, CONFIG.lr), RECIPE, seed=seed, run=run,
            draw_gates=lambda rng: uniform_path(space, rng))  # fmt: skip
    mask, rng = option_mask(space), np.random.default_rng(seed)
    architect = kind_of(fresh_parameters(1, mask, rng), mask, others, lr=1e-12, tau=(1.0, 1.0), **more)
    supernet.train()
    towards = np.array([[1.0 if o == RIGHT else -1.0 / (len(d.options) - 1) for o in d.options] for d in space.decisions])
    slopes = []
    for _ in range(STEPS):
        rows = torch.from_numpy(rng.permutation(len(others))[: RECIPE.batch_size])
        x = normalise(others.images.fetch(rows), data, torch.device("cpu"))
        mean = 0.9 * architect._adam["theta"].mean
        architect.learn(supernet, x, others.labels[rows], Tensor.backward, rng, 0.0)
        gradient = (architect._adam["theta"].mean - mean)[0] / 0.1  # what went into this step
        slopes.append(-(gradient * towards).sum(1))
    mean, deviation = np.mean(slopes, axis=0), np.std(slopes, axis=0)
    return float((mean / np.maximum(deviation, 1e-30)).mean()), float((mean > 0).mean())


# -- costs -----------------------------------------------------------------------------------------------------------


def costs(space: SearchSpace) -> dict[str, list[float]]:
    """A step of the architecture over a training step of the network that is drawn, built plainly: medians by network."""
    supernet = space.supernet().train().to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, *space.skeleton.input_size).contiguous(memory_format=torch.channels_last)
    y, mask, found = torch.arange(BATCH) % space.skeleton.num_classes, option_mask(space), dict[str, list[float]]()
    theta = fresh_parameters(8, mask, np.random.default_rng(0))
    of = {name: kind(theta, mask, None, lr=1e-9, tau=(5.0, 0.01), **more) for name, (kind, more) in CANDIDATES.items()}  # type: ignore[arg-type]
    for path in range(PATHS):
        genes = [i for (i,) in of["score"].draw(np.random.default_rng(path), 0.0).indices]
        plain = supernet.subnet(space.decode(genes)).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(plain.parameters(), lr=1e-3, momentum=0.9)

        def train(plain: nn.Module = plain, optimizer: torch.optim.Optimizer = optimizer) -> None:
            loss = F.cross_entropy(plain(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        def learner(name: str, path: int = path) -> Callable[[], object]:
            return lambda: of[name].learn(supernet, x, y, Tensor.backward, np.random.default_rng(path), 0.0)

        works = {"plain": train} | {name: learner(name) for name in of if name != "nothing learned"}
        seconds = side_by_side(works, ROUNDS, warmup=1)
        for name in works:
            found.setdefault(name, []).append(float(np.median(seconds[name] / seconds["plain"])))
    return found


# -- all together ----------------------------------------------------------------------------------------------------


class Rows:
    """Tables that grow in today's result file; a row that is there is not done again."""

    def __init__(self, name: str, head: str) -> None:
        self.path = dated(name)
        if not self.path.exists():
            self.path.write_text(head)

    def section(self, title: str) -> None:
        if title not in self.path.read_text():
            self._append(title)

    def add(self, key: str, make: Callable[[], str]) -> None:
        if key not in self.path.read_text():
            self._append(f"{key} {make()} |\n")

    def _append(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)
        print(text, end="", flush=True)


def said(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values):.2f}"


def cost_rows(rows: Rows) -> None:
    rows.section(COSTS)
    for space in (spaces.tiny((3, 32, 32), 10), spaces.fbnet((3, 32, 32), 10)):
        if f"| cost | {space.name} |" not in rows.path.read_text():
            for name, values in costs(space).items():
                rows.add(f"| cost | {space.name} | {name} |", partial("{} | {:.2f}".format, said(values), max(values)))


def slope_rows(rows: Rows, options: int) -> None:
    def row(kind: str, name: str) -> str:
        slope, right = zip(*(signals(kind, name, options, seed) for seed in range(3)), strict=True)
        return f"{said(list(slope))} | {np.mean(right):.2f}"

    rows.section(SLOPES)
    for kind in FREE:
        for name in CANDIDATES:
            if name != "nothing learned":
                rows.add(f"| slope | {options} | {kind} | {name} |", partial(row, kind, name))


def site_rows(rows: Rows, options: int, seeds: int, kinds: Sequence[str]) -> None:
    def row(kind: str, name: str, seed: int) -> str:
        right, sites = searched(kind, name, options, seed)
        return f"{right} | {sites}"

    rows.section(SITES)
    for seed in range(seeds):
        for kind in kinds:
            for name in CANDIDATES if kind in FREE else ("score", "nothing learned"):
                rows.add(f"| sites | {options} | {kind} | {name} | {seed} |", partial(row, kind, name, seed))


def main(words: Sequence[str]) -> None:
    seeds, options = int(words[0]) if words else 10, int(words[1]) if len(words) > 1 else 2
    rows = Rows("hournas_planted", HEAD)
    if not words[2:]:
        cost_rows(rows)
        slope_rows(rows, options)
    site_rows(rows, options, seeds, words[2:] or tuple(SPACES))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])

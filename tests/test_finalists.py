"""The last step of a search, by a judge whose verdict is known: a network is as good as its parameters and epochs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from hiernas.budget import Limit
from hiernas.costs.limits import TableBudget
from hiernas.costs.tables import cost
from hiernas.data import ImageData, load_data
from hiernas.errors import ConfigError, RunError
from hiernas.methods import METHODS
from hiernas.methods.controls import NaswotConfig, RandomKConfig, naswot, random_k
from hiernas.methods.hnas import HNASConfig
from hiernas.problem import Candidate, Found, Problem, brief_work
from hiernas.run.finalists import best_of, effects
from hiernas.run.folder import RunFolder
from hiernas.train.recipes import Recipe
from hiernas.train.retraining import Retraining
from toy import RUN, toy_space

FINAL = Retraining(Recipe(batch_size=8), 7, 0.1)


class Judge:
    """Stands in for a trainer: what was trained, and for how long, is written down."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.trained: list[tuple[str, int]] = []
        self.stop_after = stop_after

    def fit(self, model: nn.Module, images: Any, phase: Any, recipe: Any, **_: Any) -> None:
        if len(self.trained) == self.stop_after:
            raise KeyboardInterrupt
        assert (recipe, phase.lr) == (FINAL.recipe, FINAL.lr)
        self.trained.append((phase.name, phase.epochs))

    def evaluator(self, *_: Any, **__: Any) -> Judge:
        return self

    def calibrate(self, network: nn.Module) -> None: ...

    def accuracy(self, network: nn.Module) -> float:
        return sum(p.numel() for p in network.parameters()) / 1e5 + self.trained[-1][1] / 1e4


def problem(folder: Path, data: ImageData, trainer: Any, *limits: Limit) -> Problem:
    run = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder, RUN)
    return Problem(toy_space(), data, TableBudget(limits), trainer, run, 0)


def candidates() -> list[Candidate]:
    """All twelve, judged by a supernet that has them in the order of their options."""
    networks = sorted(toy_space(), key=lambda a: a.options)
    return [Candidate(a.options, 0.9 - i / 100, cost(a).params, cost(a).macs, None) for i, a in enumerate(networks)]


def found() -> Found:
    every = candidates()
    return Found(toy_space(), (every[0],), every[0], candidates=tuple(reversed(every)))


def test_halving_keeps_the_better_and_takes_the_best_of_them(tmp_path: Path, digits: ImageData) -> None:
    judge, config = Judge(), HNASConfig(finalists=6, finalist_epochs=3, objective="macs", final_epochs=7)
    after = best_of(problem(tmp_path / "r", digits, judge), found(), config, FINAL)
    first = candidates()[:6]
    better = sorted(first, key=lambda c: -c.params)
    assert judge.trained == [(f"brief{i}", 3) for i in range(1, 7)] + [(f"brief{i}", 6) for i in range(7, 10)]
    assert after.chosen == better[0]
    assert after.front == found().front  # by the supernet, as before
    rows = after.details["finalists"]
    assert [tuple(row["options"]) for row in rows] == [c.options for c in better]
    assert [[epochs for epochs, _ in row["trained"]] for row in rows] == [[3, 6]] * 3 + [[3]] * 3
    assert rows[0]["trained"][1][1] == pytest.approx(better[0].params / 1e5 + 6e-4)


def test_no_training_is_longer_than_the_final_one(tmp_path: Path, digits: ImageData) -> None:
    judge, config = Judge(), HNASConfig(finalists=8, finalist_epochs=4, objective="macs", final_epochs=7)
    best_of(problem(tmp_path / "r", digits, judge), found(), config, FINAL)
    assert [epochs for _, epochs in judge.trained] == [4] * 8 + [7] * 4 + [7] * 2
    judged = len(digits.val) + min(config.calibration_images, len(digits.train))
    assert list(brief_work(config, digits).values()) == [3 * e * len(digits.train) + judged for _, e in judge.trained]


def test_one_finalist_is_no_step(tmp_path: Path, digits: ImageData) -> None:
    judge = Judge()
    for config, what in ((HNASConfig(), found()), (HNASConfig(finalists=5), replace(found(), candidates=()))):
        assert best_of(problem(tmp_path / "r", digits, judge), what, config, FINAL) is what
    assert judge.trained == []
    with pytest.raises(ConfigError, match="finalists: input should be greater than 0"):
        HNASConfig(finalists=0)


def test_the_best_of_k_after_a_kill_is_that_of_one_go(tmp_path: Path, digits: ImageData) -> None:
    config = RandomKConfig(finalists=7, finalist_epochs=1, objective="macs", final_epochs=7)
    limit = Limit("params", high=float(np.median([c.params for c in candidates()])))

    def taken(name: str, judge: Judge) -> Found:
        asked = problem(tmp_path / name, digits, judge, limit)
        return best_of(asked, random_k(asked, config), config, FINAL)

    whole, cut, rest = Judge(), Judge(stop_after=8), Judge()
    once = taken("a", whole)
    with pytest.raises(KeyboardInterrupt):
        taken("b", cut)
    assert taken("b", rest) == once
    assert cut.trained + rest.trained == whole.trained
    drawn = random_k(problem(tmp_path / "a", digits, Judge(), limit), config).candidates
    assert once.chosen.params == max(c.params for c in drawn)
    assert {c.options for c in once.candidates} == {c.options for c in drawn}
    assert once.chosen in once.front
    assert all(c.val_accuracy > 0 for c in once.front)


@pytest.mark.parametrize("finalists", [1, 3])
def test_a_prior_orders_the_candidates_beside_their_accuracies(tmp_path: Path, finalists: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    data = load_data([(image, i % 4) for i, image in enumerate(pixels)])
    judge = Judge()
    asked, config = problem(tmp_path / "r", data, judge), HNASConfig(prior="naswot", finalists=finalists, objective="macs")
    after = best_of(asked, found(), config, FINAL)
    scores = asked.run.read_json("checkpoint/prior.json")
    assert scores is not None
    by_promise = sorted(candidates(), key=lambda c: scores[",".join(c.options)])
    by_accuracy = list(reversed(candidates()))
    ordered = sorted(candidates(), key=lambda c: (-by_promise.index(c) - by_accuracy.index(c), c.options))
    assert len(set(scores.values())) == 12
    assert [c.options for c in ordered] != [c.options for c in candidates()]
    if finalists == 1:
        assert (after.chosen, judge.trained) == (ordered[0], [])
    else:
        assert {tuple(row["options"]) for row in after.details["finalists"]} == {c.options for c in ordered[:3]}


def test_effects_are_those_of_a_sum(tmp_path: Path) -> None:
    rng, options = np.random.default_rng(0), [2, 3, 4]
    worth = [rng.standard_normal(n) for n in options]
    genes = np.array([[i, j, k] for i in range(2) for j in range(3) for k in range(4)] * 40)
    scores = np.array([sum(w[o] for w, o in zip(worth, row, strict=True)) for row in genes])
    gains, certainty = effects(genes, scores, options)
    for found, true in zip(gains, worth, strict=True):
        assert np.allclose(found - found.mean(), true - true.mean(), atol=0.01)
    assert certainty > 0.999
    few, noise = genes[:24], rng.standard_normal(24)
    hats = []
    for out in range(24):  # learned anew without each one
        keep = np.arange(24) != out
        x = np.concatenate([np.eye(n)[c] for n, c in zip(options, few.T, strict=True)], axis=1)
        x, y = x - x[keep].mean(0), noise - noise[keep].mean()
        weights = np.linalg.solve(x[keep].T @ x[keep] + np.eye(9), x[keep].T @ y[keep])
        hats.append(noise[keep].mean() + x[out] @ weights)
    by_hand = 1 - ((noise - hats) ** 2).mean() / noise.var()
    assert effects(few, noise, options)[1] == pytest.approx(by_hand, abs=1e-6)


def test_a_predictor_finds_the_best_network_that_no_search_looked_at(tmp_path: Path, digits: ImageData) -> None:
    """A judge whose accuracies are a sum over layers, under noise, and a search that has not seen the best ones."""
    space, rng = toy_space(), np.random.default_rng(3)
    worth = [rng.permutation(len(d.options)) / 10 for d in space.decisions]

    def true(options: tuple[str, ...]) -> float:
        return sum(w[d.options.index(o)] for w, d, o in zip(worth, space.decisions, options, strict=True)) / 4

    def judge(networks: Any) -> list[float]:
        return [true(a.options) for a in networks]

    every = sorted(candidates(), key=lambda c: -true(c.options))
    limit = Limit("params", high=float(max(c.params for c in every) - 1))  # which the largest one does not meet
    allowed = [c for c in every if c.params <= limit.high]
    seen = tuple(replace(c, val_accuracy=true(c.options) + 0.01 * rng.standard_normal()) for c in allowed[2:])
    searched = Found(space, (seen[0],), seen[0], candidates=seen, judge=judge)  # type: ignore[arg-type]
    asked = problem(tmp_path / "r", digits, Judge(), limit)
    after = best_of(asked, searched, HNASConfig(predictor="linear", objective="macs"), FINAL)
    assert after.chosen.options == allowed[0].options
    assert after.chosen.val_accuracy == pytest.approx(true(allowed[0].options))
    assert after.details["predictor"]["added"] == 1
    assert len(after.candidates) == len(seen) + 1
    assert after.chosen in after.front
    again = best_of(asked, replace(searched, judge=None), HNASConfig(predictor="linear", objective="macs"), FINAL)
    assert again.chosen.options == after.chosen.options


def test_naswot_alone_is_a_control(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    data, judge = load_data([(image, i % 4) for i, image in enumerate(pixels)]), Judge()
    asked = problem(tmp_path / "r", data, judge, Limit("params", high=float(np.median([c.params for c in candidates()]))))
    config = NaswotConfig(drawn=5, finalists=3, finalist_epochs=2, objective="macs", final_epochs=7)
    after = best_of(asked, naswot(asked, config), config, FINAL)
    scores = asked.run.read_json("checkpoint/prior.json")
    assert scores is not None
    assert len(scores) == 5
    assert [epochs for _, epochs in judge.trained] == [2, 2, 2]
    trained = [c for c in after.candidates if not math.isnan(c.val_accuracy)]
    assert after.chosen.params == max(c.params for c in trained) <= asked.budget.limits[0].high
    genes = np.array([toy_space().encode(toy_space().architecture(key.split(","))) for key in scores])
    gains, certainty = effects(genes, np.array(list(scores.values())), [len(d.options) for d in toy_space().decisions])
    worth = {
        c.options: sum(w[d.options.index(o)] for w, d, o in zip(gains, toy_space().decisions, c.options, strict=True))
        for c in candidates() if c.params <= asked.budget.limits[0].high
    }  # fmt: skip
    best = sorted(worth, key=lambda options: -worth[options])
    learned = [o for o in best if all(o[i] in {key.split(",")[i] for key in scores} for i in range(len(o)))]
    assert {c.options for c in trained} == set(learned[:3])
    assert after.details["predictor"]["r2"] == pytest.approx(certainty)
    assert len(after.candidates) == 5 + after.details["predictor"]["added"]
    work = METHODS["naswot"].plan(config, data)
    assert list(work) == ["prior", *(name for name, _ in judge.trained)]


@pytest.mark.parametrize("finalists", [1, 2])
def test_naswot_without_a_predictor_takes_the_first_in_order(tmp_path: Path, finalists: int) -> None:
    """Images in the order of their classes, every one of them twice."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), dtype=np.uint8)
    data, judge = load_data([(pixels[i // 2], i // 50) for i in range(200)]), Judge()
    asked = problem(tmp_path / "r", data, judge)
    config = NaswotConfig(drawn=6, predictor="none", finalists=finalists, finalist_epochs=1, objective="macs", final_epochs=7)
    after = best_of(asked, naswot(asked, config), config, FINAL)
    scores = asked.run.read_json("checkpoint/prior.json")
    assert scores is not None
    assert len(set(scores.values())) == len(scores) == len(after.candidates) == 6
    first = sorted(scores, key=lambda key: -scores[key])[:finalists]
    assert {",".join(c.options) for c in after.candidates[:finalists]} == set(first)
    assert after.chosen in after.front
    assert len(judge.trained) == (0 if finalists == 1 else 2)


def test_finalists_keep_their_order_when_a_run_goes_on(tmp_path: Path, digits: ImageData) -> None:
    """Killed after the third training; candidates that come in another order do not get each other's accuracies."""
    config = HNASConfig(finalists=4, finalist_epochs=3, objective="macs", final_epochs=7)
    once = best_of(problem(tmp_path / "a", digits, Judge()), found(), config, FINAL)
    with pytest.raises(KeyboardInterrupt):
        best_of(problem(tmp_path / "b", digits, Judge(stop_after=3)), found(), config, FINAL)
    ties = tuple(replace(c, val_accuracy=0.5) for c in found().candidates)
    again = best_of(problem(tmp_path / "b", digits, Judge()), replace(found(), candidates=ties), config, FINAL)
    assert again.chosen.options == once.chosen.options
    assert again.details == once.details
    other = replace(found(), candidates=found().candidates[:-1])  # without the first finalist
    with pytest.raises(RunError, match=r"finalists\.json"):
        best_of(problem(tmp_path / "b", digits, Judge()), other, config, FINAL)

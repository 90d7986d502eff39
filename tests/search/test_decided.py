"""A search that has decided nothing says so and hands over the control; one that has decided something does neither."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hiernas
from hiernas.cli import print_summary
from hiernas.costs import parse_limits
from hiernas.costs.limits import best_within
from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData
from hiernas.errors import ConfigError
from hiernas.methods import METHODS
from hiernas.methods import darts as of_darts
from hiernas.problem import Found, Problem
from hiernas.run.folder import RunFolder
from hiernas.run.request import Request
from hiernas.run.search import make_problem, search
from hiernas.run.settings import for_images, keys
from hiernas.search.alphas import AlphaSettings
from hiernas.search.decided import Verdict, regular, separation
from hiernas.search.differentiable import QUICK, SearchSettings, search_work
from hiernas.space import SearchSpace
from methods.test_contract import CHAIN
from planted_cells import SETTINGS, cells, images
from toy import RUN

LIMITS = ("params<=3k", "macs<=150k")
SAID = "decided nothing"


# -- the verdict -------------------------------------------------------------------------------------------------------


def test_separation_is_the_entropy_that_is_gone() -> None:
    certain, equal = torch.tensor([0.0, 60.0, 0.0]), torch.full((8,), 0.3)
    assert separation([certain]) == pytest.approx(1.0)
    assert separation([equal]) == pytest.approx(0.0, abs=1e-7)
    assert separation([certain, equal, torch.zeros(1)]) == pytest.approx(0.5)  # one option is no choice
    p = np.array([0.7, 0.2, 0.1])
    drop = 1 + float((p * np.log(p)).sum()) / math.log(3)
    assert separation([torch.tensor(np.log(p))]) == pytest.approx(drop)
    assert separation([torch.tensor(np.log(p) + 5)]) == pytest.approx(drop)  # what all have in common says nothing


@pytest.mark.parametrize(
    ("logits", "needed", "accuracy", "decided"),
    [
        (2.0, 0.05, 0.6, True),
        (0.01, 0.05, 0.6, False),
        (2.0, 0.05, 0.30, False),  # 40 images, 25 % chance: the 95 % interval goes down to 18 %
        (2.0, 0.99, 0.6, False),
        (0.01, 0.0, 0.25, True),  # not asked
    ],
)
def test_logits_and_supernet_are_both_asked(logits: float, needed: float, accuracy: float, decided: bool) -> None:
    space = hiernas.spaces.darts((1, 8, 8), 4, channels=2, cells=3)
    labels = torch.arange(40) % 4
    found = Verdict.of(space, [torch.tensor([0.0, logits, 0.0])], needed, accuracy, labels)
    assert found.decided == found.record()["decided"] == decided
    assert len(found.doubts()) == (not decided)
    for said in found.doubts():
        assert said.startswith("the search for cells has decided nothing: its ")
        assert ("its logits ended at" in said) == (logits < 0.1 or needed > 0.9)
        assert ("not above chance (25.00%)" in said) == (accuracy < 0.5)


# -- the control -------------------------------------------------------------------------------------------------------


def control(space: SearchSpace, *limits: str) -> dict[str, str]:
    genes = best_within(space, cost_tables(space, None), parse_limits(limits), regular(space))
    return dict(zip(space.skeleton.site_names, space.decode(genes).options, strict=True))


def test_the_control_is_regular_and_within_the_limits() -> None:
    cells = hiernas.spaces.darts((1, 8, 8), 10, channels=4, cells=5)
    nearest = {f"{kind}.{s}->{n}" for kind in ("normal", "reduce") for n in range(2, 6) for s in (n - 1, n - 2)}
    assert {site: o for site, o in control(cells).items() if o != "none"} == dict.fromkeys(nearest, "sep_conv_3x3")
    params = cost_tables(cells, None)["params"]
    middle = (params.smallest + params.of(cells.encode(cells.architecture(control(cells)))[None])[0]) / 2
    fewer = control(cells, f"params<={middle:.0f}")
    assert set(fewer.values()) == {"none", "sep_conv_3x3", "skip_connect"}
    assert hiernas.cost(cells.architecture(fewer)).params <= middle

    graphs = hiernas.spaces.hdas_stages((1, 8, 8), 10, channels=2, cells=(4, 4, 4), least=3)
    found = control(graphs)
    assert [found.pop(f"stage{k}.cells") for k in (1, 2, 3)] == ["4"] * 3
    chained = {f"stage{k}.{s}->{n}" for k in (1, 2, 3) for n in range(2, 6) for s in (n - 1, n - 2)}
    assert {site: o for site, o in found.items() if o != "none"} == dict.fromkeys(chained, "skip_connect")

    chain = hiernas.spaces.chain_space("chain", (1, 8, 8), 3, stem=8, stem_stride=2, stages=CHAIN, head=16)
    assert set(control(chain).values()) == {"k3_e1"}


# -- whole searches ----------------------------------------------------------------------------------------------------


def of_method(
    method: str, data: ImageData, folder: Path, limits: tuple[str, ...], **search_settings: Any
) -> tuple[Found, Problem]:
    spaces: Mapping[str, Any] = {
        "darts": lambda: hiernas.spaces.darts((1, 8, 8), 10, channels=2, cells=4),
        "hdas-stages": lambda: hiernas.spaces.hdas_stages((1, 8, 8), 10, channels=2, cells=(2, 2, 2), cell="DARTS_V2"),
        "hdas": lambda: hiernas.spaces.hdas_stages((1, 8, 8), 10, channels=2, cells=(2, 2, 2)),
        "hmnas": lambda: hiernas.spaces.darts((1, 8, 8), 10, channels=2, cells=3, pool_bn=True),
    }
    config = METHODS[method].presets["quick"]
    given = {"epochs": 1, "warmup_epochs": 0, "images": 96, **search_settings}
    more = {"extra_cells": 0} if method == "hdas" else {}
    config = replace(config, search=replace(config.search, **given), calibration_images=32, **more)
    problem = make_problem(spaces[method](), data, parse_limits(limits), None, RunFolder.create(folder, RUN), 0)
    return METHODS[method].search(problem, config), problem


@pytest.mark.parametrize("method", ["darts", "hdas-stages", "hdas", "hmnas"])
def test_logits_that_stay_where_they_began_hand_over_the_control(method: str, digits: ImageData, tmp_path: Path) -> None:
    limits = ("params<=40k",)
    found, problem = of_method(method, digits, tmp_path / "r", limits, alpha=AlphaSettings(lr=1e-6))
    assert not any(v["decided"] for v in found.details["decided"].values())
    assert [SAID in doubt for doubt in found.doubts] == [True] * (2 if method == "hdas" else 1)
    assert [e["doubt"] for e in problem.run.events() if e["event"] == "undecided"] == list(found.doubts)
    expected = control(found.space, *limits)
    if method.startswith("hdas"):  # without its dead cells
        expected = dict(zip(expected, found.space.architecture(expected).options, strict=True))
    assert dict(zip(expected, found.chosen.options, strict=True)) == expected
    assert found.start is None


def test_doubt_and_control_reach_terminal_result_and_report(
    few: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["search.epochs=1", "search.warmup_epochs=0", "search.images=96", "final_epochs=1", "search.alpha.lr=1e-6"]
    small = {"channels": 2, "cells": 3}
    asked = Request("darts", space_arguments=small, data=few, limits=LIMITS, settings=[*short, "channels=2"])
    run = search(asked, tmp_path / "r")
    result = json.loads((run.path / "result.json").read_text())
    (said,) = (doubt for doubt in result["doubts"] if SAID in doubt)
    assert set(result["chosen"]["sites"].values()) <= {"none", "sep_conv_3x3", "skip_connect"}
    assert not any("hardly above chance" in doubt for doubt in result["doubts"])  # which would say the same
    page = html.unescape((run.path / "report.html").read_text())
    assert said in page
    assert f'>For so few images</th><td>{result["fitted"]}</td>' in page
    assert "search.train.batch_size 32 -> 16" in result["fitted"]
    print_summary(run.path)
    told = " ".join(capsys.readouterr().out.split())  # folded at the terminal's width
    assert all(f"doubtful: {' '.join(doubt.split())}" in told for doubt in result["doubts"])


def test_a_search_that_has_decided_has_no_doubt(tmp_path: Path) -> None:
    space, _ = cells(0)
    config = of_darts.DARTSConfig(search=replace(SETTINGS, epochs=4, warmup_epochs=2), cells=3, channels=4)
    problem = make_problem(space, images(0), (), None, RunFolder.create(tmp_path / "r", RUN), 0)
    found = METHODS["darts"].search(problem, config)
    (verdict,) = found.details["decided"].values()
    assert (verdict["decided"], found.doubts) == (True, ())
    assert verdict["separated"] > 2 * SETTINGS.decided
    assert verdict["accuracy"] > 0.5  # of four classes
    assert not any(e["event"] == "undecided" for e in problem.run.events())


# -- the warm-up -------------------------------------------------------------------------------------------------------


def test_in_the_warm_up_the_weights_learn_alone(digits: ImageData, tmp_path: Path) -> None:
    still, problem = of_method("darts", digits, tmp_path / "r", (), epochs=1, warmup_epochs=2, decided=0.0)
    epochs = [e for e in problem.run.events() if e["event"] == "epoch"]
    assert [e["epochs"] for e in epochs] == [3, 3, 3]
    assert [abs(e["entropy"] - math.log(8)) < 1e-5 for e in epochs] == [True, True, False]
    assert epochs[1]["loss"] < epochs[0]["loss"]
    assert still.doubts == ()


def test_the_best_epoch_is_never_one_of_the_warm_up(digits: ImageData, tmp_path: Path) -> None:
    found, _ = of_method("darts", digits, tmp_path / "r", (), epochs=1, warmup_epochs=1, decided=0.0, keep="best")
    assert found.details["decided"]["train1"]["separated"] > 1e-4


def test_the_warm_up_is_counted_and_fitted(digits: ImageData) -> None:
    settings = SearchSettings(epochs=3, warmup_epochs=2, share=0.5)
    half = len(digits.train) / 2
    assert search_work(settings, digits) == pytest.approx(half * (2 * 3 + 3 * (3 + 2)), rel=0.01)
    fitted = for_images(of_darts.PRESETS["quick"], "quick", 250)
    assert (fitted.search.warmup_epochs, fitted.search.epochs) == (math.ceil(QUICK.warmup_epochs * 2), QUICK.epochs * 2)
    assert keys(of_darts.PRESETS["paper"])["search.warmup_epochs"] == 0
    for name, wrong in (("warmup_epochs", -1), ("decided", 1.5)):
        with pytest.raises(ConfigError, match=f"{name}: input should be "):
            replace(settings, **{name: wrong})

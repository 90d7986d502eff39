"""DARTS and the levels of H-DAS: what is chosen follows from the logits that were learned, and resumes to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hiernas
from hiernas.costs import parse_limits
from hiernas.data import ImageData, load_data, normalise
from hiernas.errors import ConfigError, LimitError
from hiernas.methods import METHODS
from hiernas.methods.darts import DARTSConfig, darts
from hiernas.methods.hdas import HDASConfig, hdas, hdas_stages
from hiernas.networks.genotype import read_genotype
from hiernas.problem import Found, Problem
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.search.alphas import AlphaSettings
from hiernas.search.differentiable import SearchSettings
from hiernas.space import SearchSpace
from hiernas.train.evaluate import RunTrainer
from hiernas.train.loop import accuracy
from hiernas.train.recipes import Recipe
from toy import RUN

SIZE, CLASSES = (1, 8, 8), 3
SETTINGS = SearchSettings(
    epochs=1, train=Recipe(batch_size=10, accelerator="cpu"), alpha=AlphaSettings(lr=0.5), decided=0.0  # whatever is learned
)
MORE: dict[str, Any] = {"search": SETTINGS, "channels": 2, "calibration_images": 12, "final_epochs": 1}
ONE = "[('sep_conv_3x3', 0), ('skip_connect', 1)" + ", ('skip_connect', 0), ('skip_connect', 1)" * 3 + "]"
LIGHT = f"Genotype(normal={ONE}, reduce={ONE})"  # one convolution in a cell


@pytest.fixture(scope="module")
def few() -> ImageData:
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, SIZE) + 80 * (i % CLASSES)).astype(np.uint8) for i in range(72)]
    return load_data([(torch.from_numpy(x), i % CLASSES) for i, x in enumerate(pixels)])


def problem(folder: Path, space: SearchSpace, data: ImageData, *limits: str) -> Problem:
    run = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder, RUN)
    return make_problem(space, data, parse_limits(limits), None, run, 0)


def stages(*cells: int, **more: Any) -> SearchSpace:
    return hiernas.spaces.hdas_stages(SIZE, CLASSES, channels=2, cells=cells, **{"cell": LIGHT, **more})


def softmaxes(folder: Path, phase: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The softmax of the learned logits of a phase, by site."""
    saved = load_file(folder / "checkpoint" / f"{phase}.safetensors")
    logits = [saved[f"architecture.alpha{i}"].double().exp().numpy() for i in range(len(names))]
    return {name: e / e.sum() for name, e in zip(names, logits, strict=True)}


def top_two(weights: Mapping[str, np.ndarray], space: SearchSpace) -> dict[str, str]:
    """DARTS' rule by node: the two sources whose best operation but `none` weighs most."""
    options = {d.name: d.options for d in space.decisions}
    best = {
        name: max((w, o) for o, w in zip(options[name], row, strict=True) if o != "none") for name, row in weights.items()
    }
    nodes: dict[tuple[str, str], list[str]] = {}
    for name in weights:
        if "->" in name:
            nodes.setdefault((name.partition(".")[0], name.partition("->")[2]), []).append(name)
    gone = {name for edges in nodes.values() for name in sorted(edges, key=lambda e: best[e])[:-2]}
    return {name: "none" if name in gone else option for name, (_, option) in best.items()}


def chosen_by(found: Found) -> dict[str, str]:
    return dict(zip(found.architecture.skeleton.site_names, found.chosen.options, strict=True))


# -- what is chosen ----------------------------------------------------------------------------------------------


def test_without_limits_the_choice_is_darts_rule_on_the_learned_logits(tmp_path: Path, few: ImageData) -> None:
    space = stages(3, 2, 2)
    found = hdas_stages(problem(tmp_path / "r", space, few), HDASConfig(**MORE))
    weights = softmaxes(tmp_path / "r", "train1", space.skeleton.site_names)
    assert chosen_by(found) == top_two(weights, space)
    assert found.details["moved"] == []
    for d in space.decisions:
        shown = found.details["weights"][d.name]
        assert [shown[o] for o in d.options] == pytest.approx(weights[d.name].tolist(), abs=6e-5)
    assert max(row.max() for row in weights.values()) > 0.5  # something was learned
    for stage, shown in zip(found.architecture.build().stages, found.details["stages"], strict=True):
        assert shown["cells"] - shown["dead"] == len(stage.cells)


def test_limits_move_the_choice_and_the_result_says_where(tmp_path: Path, few: ImageData) -> None:
    space = hiernas.spaces.darts(SIZE, CLASSES, channels=4, cells=3)
    config = DARTSConfig(**{**MORE, "search": replace(SETTINGS, cost_weight=0.0)}, cells=3)  # the logits know of no limit
    smallest = problem(tmp_path / "x", space, few).budget.tables(space)["params"].smallest
    limit = f"params<={smallest * 1.05:.0f}"
    found = darts(problem(tmp_path / "r", space, few, limit), config)
    assert hiernas.cost(found.architecture).params == found.chosen.params <= smallest * 1.05
    plain = top_two(softmaxes(tmp_path / "r", "train1", space.skeleton.site_names), space)
    chosen = chosen_by(found)
    assert found.details["moved"] == [site for site in chosen if chosen[site] != plain[site]] != []


def test_dead_cells_count_for_nothing_and_are_not_counted(tmp_path: Path, few: ImageData) -> None:
    still = replace(SETTINGS, alpha=AlphaSettings(lr=1e-9))  # the graphs of the first, random logits
    space, config = stages(6, 5, 5, window=5), HDASConfig(**{**MORE, "search": still}, delta=0.0)
    asked = problem(tmp_path / "r", space, few)
    found = hdas_stages(asked, config)
    assert sum(stage["dead"] for stage in found.details["stages"]) > 0
    counted = sum(p.numel() for p in found.architecture.build().parameters())
    with_dead = float(asked.budget.tables(space)["params"].of(space.encode(found.architecture)[None])[0])
    assert found.chosen.params == counted < with_dead
    with pytest.raises(LimitError, match=f"^without its dead cells .* has params {counted:,}, and params >= "):
        hdas_stages(problem(tmp_path / "low", space, few, f"params>={with_dead:.0f}"), config)


def test_delta_asks_for_depth_and_gamma_for_few_cells(tmp_path: Path, few: ImageData) -> None:
    space = stages(4, 3, 3, least=2)
    for delta, gamma, expected in ((1e4, 0.0, [(4, 4), (3, 3), (3, 3)]), (0.0, 1e4, [(2, None)] * 3)):
        config = HDASConfig(**{**MORE, "search": replace(SETTINGS, epochs=3)}, delta=delta, gamma=gamma)
        found = hdas_stages(problem(tmp_path / f"{gamma}", space, few), config)
        for shown, (cells, depth) in zip(found.details["stages"], expected, strict=True):
            assert shown["cells"] == cells
            assert depth is None or (shown["depth"], shown["dead"]) == (depth, 0)


def test_each_level_of_the_hierarchy_takes_what_the_one_before_found(tmp_path: Path, few: ImageData) -> None:
    space = stages(2, 2, 3)
    found = hdas(problem(tmp_path / "r", space, few), HDASConfig(**MORE, cells=5, extra_cells=1, least=2))
    cells = hiernas.spaces.hdas_cells(SIZE, CLASSES, channels=2, cells=5)
    chosen = top_two(softmaxes(tmp_path / "r", "train1", cells.skeleton.site_names), cells)
    genotype = read_genotype(found.details["genotype"])
    assert genotype == cells.skeleton.genotype(cells.architecture(chosen))
    wider = stages(3, 3, 4, least=2, cell=genotype)
    betas = softmaxes(tmp_path / "r", "train2", wider.skeleton.site_names)
    numbers = tuple(2 + int(betas[f"stage{k}.cells"].argmax()) for k in (1, 2, 3))
    assert tuple(found.details["numbers"]) == numbers
    last = stages(*numbers, cell=genotype)
    assert replace(found.architecture.skeleton, arguments=()) == replace(last.skeleton, arguments=())
    assert chosen_by(found) == top_two(softmaxes(tmp_path / "r", "train3", last.skeleton.site_names), last)


def test_one_graph_for_all_stages_is_searched_at_every_level(tmp_path: Path, few: ImageData) -> None:
    """H^s-DAS* (Table 3): the cells of each stage's own, their number and the graph shared by the stages."""
    space = stages(2, 2, 2, shared=True)
    found = hdas(problem(tmp_path / "r", space, few), HDASConfig(**MORE, cells=5, extra_cells=1, least=2))
    first, *others = found.details["stages"]
    assert others == [first, first]
    assert found.details["numbers"] == (first["cells"],) * 3
    genotype = read_genotype(found.details["genotype"])
    last = stages(*found.details["numbers"], cell=genotype, shared=True)
    assert chosen_by(found) == top_two(softmaxes(tmp_path / "r", "train3", last.skeleton.site_names), last)
    assert {site.partition(".")[0] for site in chosen_by(found)} == {"stages"}


# -- the network that is searched in -----------------------------------------------------------------------------


def shapes(space: SearchSpace) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in space.supernet().state_dict().items()}


def test_the_search_network_is_darts_own() -> None:
    final = hiernas.spaces.darts((3, 32, 32), 10, channels=12, cells=11, auxiliary=True)
    proxy = final.proxy(channels=4, cells=8)
    assert shapes(proxy) == shapes(hiernas.spaces.darts((3, 32, 32), 10, channels=4, cells=8, search=True))
    assert proxy.decisions == final.decisions
    three = hiernas.spaces.hdas_cells((3, 32, 32), 10, cells=20).proxy(channels=2, cells=5)
    assert shapes(three) == shapes(hiernas.spaces.hdas_cells((3, 32, 32), 10, channels=2, cells=5, search=True))
    with pytest.raises(ConfigError, match=r"a search network of 4 cells .* normal1, .* need at least 5 cells$"):
        hiernas.spaces.hdas_cells((3, 32, 32), 10, cells=20).proxy(channels=2, cells=4)
    graphs = hiernas.spaces.hdas_stages((3, 32, 32), 10, channels=6, cells=(3, 2, 2), auxiliary=True)
    assert shapes(graphs.proxy(channels=4)) == shapes(hiernas.spaces.hdas_stages((3, 32, 32), 10, channels=4, cells=(3, 2, 2)))


# -- interrupted -------------------------------------------------------------------------------------------------


class Stop:
    """Interrupts at the nth step of a phase."""

    def __init__(self, phase: str, nth: int) -> None:
        self.phase, self.left = phase, nth

    def __call__(self, record: Mapping[str, Any]) -> None:
        if record["event"] == "step" and record["phase"] == self.phase:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_stopped_between_two_steps_it_ends_with_the_same_bits(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = stages(3, 2, 2, least=2)
    config = HDASConfig(**{**MORE, "search": replace(SETTINGS, epochs=2)})
    whole = hdas_stages(problem(tmp_path / "whole", space, few), config)
    monkeypatch.setattr(RunFolder, "checkpoint_seconds", -1.0)  # saved after every step
    for nth in (1, 2, 4):  # after steps of the logits, and of the weights
        parts = problem(tmp_path / "parts", space, few)
        parts.run.listener = Stop("train1", nth)
        with pytest.raises(KeyboardInterrupt):
            hdas_stages(parts, config)
    found = hdas_stages(problem(tmp_path / "parts", space, few), config)
    assert found == whole
    one, two = (load_file(tmp_path / name / "checkpoint" / "train1.safetensors") for name in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    epochs = [e for e in parts.run.events() if e["event"] == "epoch"]
    assert [e["epoch"] for e in epochs] == [1, 2]
    assert epochs[-1]["derived"].keys() == set(space.skeleton.site_names)


def test_the_best_epoch_is_kept_and_a_search_goes_on_with_it(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of the epoch whose supernet was best on their images, also where the search was cut off after it."""
    monkeypatch.setattr(RunFolder, "checkpoint_seconds", -1.0)  # saved after every step
    seen: list[tuple[float, list[torch.Tensor]]] = []

    def worse_and_worse(trainer: RunTrainer, supernet: Any, split: Any, batch_size: int, gates: Any) -> float:
        data = trainer.data
        if split is data.val:  # the verdict at the end of the search
            return 0.5
        with torch.no_grad():
            logits = supernet.eval()(normalise(split.images.fetch(torch.arange(len(split))), data, torch.device("cpu")), gates)
        right = float((logits.argmax(1) == split.labels).float().mean())
        assert accuracy(supernet.train(), split, data, batch_size, gates) == pytest.approx(right)
        seen.append((1 / (1 + len(seen) % 3), [w.detach() for w in gates.weights]))  # of three epochs the first is the best
        return seen[-1][0]

    monkeypatch.setattr(RunTrainer, "accuracy", worse_and_worse)
    space = stages(2, 2, 2)
    config = HDASConfig(**{**MORE, "search": replace(SETTINGS, epochs=3, keep="best", lr=0.1)})
    asked = problem(tmp_path / "whole", space, few)
    whole = hdas_stages(asked, config)
    assert [e["val_accuracy"] for e in asked.run.events() if e["event"] == "epoch"] == [1, 1 / 2, 1 / 3]
    for d, first, last in zip(space.decisions, seen[0][1], seen[2][1], strict=True):
        shown = [whole.details["weights"][d.name][o] for o in d.options]
        assert shown == pytest.approx(first.tolist(), abs=6e-5)
        assert shown != pytest.approx(last.tolist(), abs=6e-5)
    parts = problem(tmp_path / "parts", space, few)
    parts.run.listener = Stop("train1", 7)  # in the second epoch
    with pytest.raises(KeyboardInterrupt):
        hdas_stages(parts, config)
    assert len(seen) == 4
    assert hdas_stages(problem(tmp_path / "parts", space, few), config) == whole
    assert len(seen) == 6


# -- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (HDASConfig, {"delta": -1.0}, "delta: input should be greater than or equal to 0"),
        (HDASConfig, {"gamma": float("inf")}, "gamma: input should be a finite number"),
        (HDASConfig, {"depth_form": "printed"}, "depth_form: input should be 'paper' or 'release'"),
        (HDASConfig, {"cells": 2}, "cells: input should be greater than or equal to 3"),
        (DARTSConfig, {"calibration_images": 1}, "calibration_images: input should be greater than or equal to 2"),
        (SearchSettings, {"epochs": 0}, "epochs: input should be greater than 0"),
        (SearchSettings, {"keep": "first"}, "keep: input should be 'last' or 'best'"),
        (SearchSettings, {"images": 1}, "images is 1; it must be 0, for all, or at least 2"),
        (SearchSettings, {"lr": 0.0005}, "train.lr_min=0.001 is above lr=0.0005"),
        (DARTSConfig, {"channels": 3}, "channels: input should be a multiple of 2"),
        (SearchSettings, {"share": 1.0}, "share: input should be less than 1"),
        (SearchSettings, {"train": Recipe(precision="16-mixed")}, "use bf16-mixed or 32-true"),
    ],
)
def test_settings_that_make_no_sense_are_named(config: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


@pytest.mark.parametrize("method", ["darts", "hdas-cells", "hdas-stages", "hdas-distribution"])
def test_the_plan_counts_a_step_of_the_logits_as_two_thirds_of_one_of_the_weights(method: str, few: ImageData) -> None:
    config = METHODS[method].presets["paper"]
    steps = config.search.epochs * len(few.train) / 2  # of each kind, one image at a time
    assert METHODS[method].plan(config, few) == {"train1": pytest.approx(steps * (3 + 2), rel=0.02)}

"""`hiernas rank`: the supernet that chose is the one that is ranked, over its own space; and what a ranking is worth."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little import few_of, latency_file, little
from safetensors.torch import load_file

from hiernas import spaces
from hiernas.commands import rank as trust
from hiernas.costs.tables import cost
from hiernas.data import ImageData
from hiernas.methods import METHODS
from hiernas.run.folder import RunFolder
from hiernas.run.outcome import inherited_weights, last_supernet
from hiernas.run.request import Request, restore
from hiernas.run.search import search
from hiernas.run.settings import with_settings
from hiernas.space import Architecture
from hiernas.train.evaluate import RunTrainer
from hiernas.train.loop import accuracy

COMMON = ["final_epochs=1", "calibration_images=40", "train.batch_size=24", "train.accelerator=cpu"]
CONFIGS = {
    "hnas": ["stages=3", "epochs=4,2", "lr=0.1,0.1", "population=8", "generations=2", "rank_below=2", "objective=params"],
    "hournas": ["vital_epochs=5", "epochs=15", "proposals=3", "proposal_iterations=100"],
}


def tau_b(one: list[float], two: list[float]) -> float:
    """Kendall's tau-b by its definition, pair by pair."""
    pairs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(zip(one, two, strict=True), 2)]
    agree = sum(float(x * y) for x, y in pairs)
    return agree / math.sqrt(sum(x != 0 for x, _ in pairs) * sum(y != 0 for _, y in pairs))


def test_rankings_of_known_order() -> None:
    rng = np.random.default_rng(0)
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    same = trust.order_of(rising, [2 * x for x in rising], rng)
    assert isinstance(same, trust.Order)
    assert (same.tau, same.low, same.high, same.networks) == (pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0), 6)
    assert same.chance == pytest.approx(2 / math.factorial(6))  # one order and its reverse, of all
    assert trust.order_of(rising, rising[::-1], rng).tau == pytest.approx(-1.0)  # type: ignore[union-attr]
    two = [0.3, 0.3, 0.1, 0.5, 0.4, 0.4]
    tied = trust.order_of(rising, two, rng)
    assert isinstance(tied, trust.Order)
    assert tied.tau == pytest.approx(tau_b(rising, two))
    assert tied.low < tied.tau < tied.high


def test_where_there_is_no_ranking_it_says_why() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 4):
        assert str(trust.order_of([0.1] * n, [0.2] * n, rng)).startswith(f"no Kendall's tau of {n}: fewer than 5 networks")
    rising, constant = [0.1, 0.2, 0.3, 0.4, 0.5], [0.1] * 5
    assert "all 5 have the same accuracy in the supernet, 10.00%" in str(trust.order_of(constant, rising, rng))
    assert "all 5 have the same accuracy after training" in str(trust.order_of(rising, constant, rng))
    shown = trust.Trust(0.9, (0.8, 0.7), 20.0, {trust.OWN: "no Kendall's tau of 2"}, 3).rows()
    assert "rank again with more --networks" in shown[f"supernet, {trust.OWN}"]


@pytest.fixture(scope="module")
def few(digits: ImageData) -> ImageData:
    return few_of(digits)


@pytest.fixture(scope="module")
def searched(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A search of two supernets, the second one over a smaller space: by method, each done once."""

    @cache
    def do(method: str) -> Path:
        folder = tmp_path_factory.mktemp(method)
        config = with_settings(METHODS[method].presets["quick"], [*COMMON, *CONFIGS[method]])
        table = latency_file(folder, little())  # another device's: nothing is measured
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spaces, "known_space", lambda *_: little())  # best.json is of a space without a name
            run = search(Request(method, little(), {}, few, ["params<=5k"], table, config=config), folder / "r")
        run.close()
        return run.path

    return do


@pytest.fixture(params=["hnas", "hournas"])
def finished(
    request: Any, searched: Callable[[str], Path], few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunFolder:
    """What the search of a method left, in a folder of one's own."""
    monkeypatch.setattr(trust, "restore", lambda run: restore(run, little(), few))
    monkeypatch.setattr(spaces, "known_space", lambda *_: little())
    return RunFolder.open(shutil.copytree(searched(request.param), tmp_path / "r"))


def in_supernet(run: RunFolder, architecture: Architecture, data: ImageData, config: Any) -> float:
    """Accuracy of the stand-alone network with weights cut from the last supernet."""
    network = architecture.build()
    network.load_state_dict(inherited_weights(run, architecture, data))
    return float(accuracy(network.eval(), data.val, data))


def test_the_supernet_that_chose_is_ranked_over_its_own_space(
    finished: RunFolder, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = json.loads((finished.path / "result.json").read_text())
    prepared = restore(finished, little(), few)
    kept = result["stages"][-1]["kept"]
    supernet = last_supernet(finished, little())
    assert supernet is not None
    assert {d.name: list(d.options) for d in supernet.space.decisions} == kept
    assert supernet.space.size() < little().size()
    last = load_file(finished.path / "checkpoint" / "train2.safetensors")
    assert all((value == last[f"model.{name}"]).all() for name, value in supernet.state_dict().items())
    # the accuracies that the search itself went by, from the checkpoint; the first supernet has others
    evaluate = RunTrainer(prepared.data, finished, prepared.seed).evaluator(supernet, prepared.config.train, 40)
    front = [little().architecture(m["options"]) for m in result["front"]]
    assert evaluate(front) == [m["val_accuracy"] for m in result["front"]]

    trained: dict[str, tuple[Architecture, float]] = {}

    def train(run: RunFolder, prepared: Any, architecture: Architecture, key: str, epochs: int) -> float:
        assert key not in trained
        trained[key] = architecture, (cost(architecture).macs % 997) / 997
        return trained[key][1]

    monkeypatch.setattr(trust, "_train", train)
    found = trust.rank(finished.path, 7, None, lambda _: None)
    drawn, ranked, _ = trust._networks(finished, prepared, result, 7)
    own = ranked[trust.OWN]
    assert len(own) == len(set(own)) == 7
    for a in own:
        assert all(o in kept[site] for site, o in zip(little().skeleton.site_names, a.options, strict=True))
        assert cost(a).params <= 5000
    every = {*drawn, *own, *ranked[trust.FRONT]}
    assert {a for a, _ in trained.values()} | {Architecture.load(finished.path / "best.json", little())} >= every
    assert len(trained) <= 7 + 7 + len(front)
    reached = [next((y for a, y in trained.values() if a == b), result["chosen"]["test_accuracy"]) for b in own]
    by_hand = [in_supernet(finished, a, few, prepared.config) for a in own]
    order = found.orders[trust.OWN]
    assert isinstance(order, trust.Order)
    assert order.tau == pytest.approx(tau_b(by_hand, reached), abs=1e-9)
    assert (found.chosen, len(found.random)) == (result["chosen"]["test_accuracy"], 7)


@pytest.mark.parametrize("finished", ["hnas"], indirect=True)
def test_a_ranking_goes_on_after_a_kill(finished: RunFolder, few: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed where the folder of a network was made and nothing is in it yet, and amid the line of an event."""
    prepared, network = restore(finished, little(), few), next(iter(little()))
    whole = trust._train(finished, prepared, network, "whole", 2)
    (finished.path / "rank").rename(finished.path / "rank-whole")
    (folder,) = (finished.path / "rank-whole").iterdir()
    (finished.path / "rank" / folder.name).mkdir(parents=True)
    with monkeypatch.context() as killed:
        killed.setattr(trust, "accuracy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        killed.setattr(RunFolder, "close", lambda run: run._lock.release(force=True))  # nothing is put in order
        with pytest.raises(KeyboardInterrupt):
            trust._train(finished, prepared, network, "whole", 2)
    events = finished.path / "rank" / folder.name / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-20])
    assert trust._train(finished, prepared, network, "whole", 2) == whole
    assert [e["epoch"] for e in RunFolder.open(events.parent).events() if e["event"] == "epoch"] == [1]
    RunFolder.open(events.parent).event("epoch", epoch=2)
    assert [e["epoch"] for e in RunFolder.open(events.parent).events() if e["event"] == "epoch"] == [1, 2]

"""A search within a given time: the rule, its rehearsal, and that it is the search that these settings would have made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import hiernas
from hiernas.commands import SearchOptions, TrainOptions, seconds_of
from hiernas.commands import train as command
from hiernas.data import ImageData, load_data
from hiernas.errors import ConfigError
from hiernas.methods import METHODS
from hiernas.methods.hnas import QUICK
from hiernas.problem import final_work
from hiernas.run import search as run_module
from hiernas.run.folder import RunFolder
from hiernas.run.request import Request, prepare
from hiernas.run.search import Pace, fitting, in_miniature, largest_step, paced, rehearse, rehearsed, resume, search
from hiernas.run.settings import keys, scaled, with_settings
from processes import bare

SIZE, CLASSES = (1, 8, 8), 3


@pytest.fixture(autouse=True, scope="module")
def _bare() -> Iterator[None]:
    with bare():
        yield


@pytest.fixture(scope="module")
def few() -> ImageData:
    """120 images whose class is how bright they are."""
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, SIZE) + 80 * (i % CLASSES)).astype(np.uint8) for i in range(120)]
    return load_data([(torch.from_numpy(x), i % CLASSES) for i, x in enumerate(pixels)])


def takes(config: Any) -> float:
    """Seconds of HNAS, by hand: 2 an epoch of a supernet, 3 a generation, 1 a final epoch, and 10."""
    return 2.0 * sum(config.epochs) + 3 * 3.0 * config.generations + 1.0 * config.final_epochs + 10


def lengths(factor: float) -> tuple[int, ...]:
    """Of HNAS' quick preset, by hand: three trainings, generations, final epochs."""
    return tuple(max(1, round(n * factor)) for n in (30, 15, 10, 8, 60))


STEPS = sorted({(k + 0.5) / n for n in (30, 15, 10, 8, 60) for k in range(6 * n)} | {0.0})  # where one of them changes
POSSIBLE = {lengths(f) for a, b in pairwise(STEPS) for f in (a, (a + b) / 2)}


@settings(max_examples=40, deadline=None)
@given(st.floats(27, 600))
def test_all_lengths_are_one_factor_of_the_presets_and_no_other_factor_is_nearer_to_the_time(seconds: float) -> None:
    found = fitting(QUICK, takes, seconds)
    mine = (*found.epochs, found.generations, found.final_epochs)
    assert mine in POSSIBLE

    def missed(n: tuple[int, ...]) -> float:
        return abs(2.0 * sum(n[:3]) + 9.0 * n[3] + n[4] + 10 - seconds)

    assert missed(mine) <= min(map(missed, POSSIBLE)) + 1e-9
    assert found.train.warmup_epochs == pytest.approx(2 * found.final_epochs / 60, abs=0.1)  # in fractions of an epoch
    others = {"epochs", "generations", "final_epochs", "train.warmup_epochs"}
    assert {k: v for k, v in keys(found).items() if k not in others} == {
        k: v for k, v in keys(QUICK).items() if k not in others
    }


def test_what_was_set_stays_and_what_was_nothing_stays_nothing() -> None:
    found = fitting(QUICK, takes, 200.0, {"final_epochs", "epochs"})
    assert (found.epochs, found.final_epochs) == (QUICK.epochs, QUICK.final_epochs)
    assert found.generations == 2  # 110 + 60 + 10 seconds, and 9 a generation
    small = METHODS["darts"].presets["paper"]
    assert (small.search.epochs, small.search.warmup_epochs) == (50, 0)
    assert scaled(small, 0.1).search.epochs == 5
    assert scaled(small, 0.1).search.warmup_epochs == 0
    assert scaled(small, 1.0) == small


def test_a_time_that_is_too_short_is_refused_with_the_least_one() -> None:
    with pytest.raises(ConfigError, match=r"^20\.0.s are left .* epoch of each training it takes 26\.0.s; give 6\.0.s more"):
        fitting(QUICK, takes, 20.0)
    assert takes(fitting(QUICK, takes, 26.0)) == 26.0


def test_what_cannot_be_in_time_is_refused_before_it_is_rehearsed(
    few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is rehearsed would take ten steps of a second, of which it tells."""
    done: list[int] = []
    monkeypatch.setattr("time.monotonic", lambda: float(len(done)))

    def do(run: RunFolder) -> None:
        for step in range(10):
            run.tell("step")
            done.append(step)

    with pytest.raises(ConfigError, match=r"^--time is too short: 3\.5.s are left, .* longer; give more \(`hiernas check`"):
        rehearsed({"method": "hdas", "seed": 0, "data": {}}, {"final": 1.0}, do, 7.0)
    assert len(done) == 4
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"^--time is too short: 3\.0.s were over before the search could begin; give more"):
        search(Request("hnas", "tiny", {}, few, ["params<=150k"], time=3.0), tmp_path / "r", began=time.monotonic() - 4)
    assert not (tmp_path / "r").exists()
    lengths = [f"{k}={json.dumps(v)}" for k, v in keys(QUICK).items() if k.endswith("epochs") or k == "generations"]
    asked = Request("hnas", "tiny", {}, few, ["params<=150k"], settings=lengths, time=1000.0)
    monkeypatch.setattr(run_module, "rehearse", None)
    with pytest.raises(ConfigError, match="--time has nothing to set: every length is given by --set"):
        paced(asked, prepare(asked), None, 0.0)


def test_seconds_are_those_of_the_rehearsal_for_its_work() -> None:
    pace = Pace.of({"train1": 4.0, "brief": 1.0, "final": 3.0}, {"train1": 200.0, "mask1": 7.0, "final": 50.0}, total=10.0)
    assert pace == Pace({"train1": 0.02, "final": 0.06}, 3.0)  # what has no work of its own counts as beside
    expected = {"train1": 2.0, "mask1": 0.4, "final": 6.0, "all else": 3.0}  # a phase not come to: as the others
    assert pace.seconds({"train1": 100.0, "mask1": 10.0, "final": 100.0}) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["90s", "1.5m", "0.025h"])
def test_times_are_read(text: str) -> None:
    assert seconds_of(text) == 90.0
    assert SearchOptions(time=text).seconds == 90.0


@pytest.mark.parametrize("text", ["soon", "90", "-5m", "0m", "5 d", ""])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--time {text}: write a number with s, m or h, such as 90s, 30m or 1.5h$"):
        SearchOptions(time=text)
    with pytest.raises(ConfigError, match="--time sets the epochs; leave it or --epochs out"):
        TrainOptions(source=Path("fbnet-c"), time="5m", epochs=3)


@pytest.mark.parametrize("method", ["hnas", "hournas", "darts", "hmnas", "random-k", "naswot"])
def test_a_rehearsal_comes_to_every_phase_and_leaves_nothing(method: str, few: ImageData, tmp_path: Path) -> None:
    space = _few_operations(method) if method in ("darts", "hmnas") else None
    prepared = prepare(Request(method, space, {}, few, ["params<=150k"], settings=_smaller(method)))
    small = in_miniature(prepared, step_seconds=0.5)  # four steps of 16 images would be more than there are
    assert len(small.data.train) == min(len(few.train), 4 * 16)
    assert set(small.data.train.labels.tolist()) == set(range(CLASSES))
    assert set(keys(small.config).items()) - set(keys(prepared.config).items()) <= {
        *((k, 1) for k in keys(prepared.config)), ("epochs", (1, 1, 1)), ("train.warmup_epochs", 0.0), ("population", 8),
        ("drawn", 8), ("search.decided", 0.0),
    }  # fmt: skip
    told: list[Mapping[str, Any]] = []
    pace = rehearse(prepared, 0.5, told.append)
    assert told == [{"event": "rehearsal"}]  # and nothing of the miniature's own
    work = METHODS[method].work(prepared.config, few)
    assert pace.rates.keys() == work.keys()
    assert all(rate > 0 for rate in pace.rates.values())
    assert not any(tmp_path.iterdir())


def _few_operations(method: str) -> hiernas.SearchSpace:
    cells = hiernas.spaces.darts(SIZE, CLASSES, channels=2, cells=3, pool_bn=method == "hmnas")
    return cells.restrict({d.name: ["none", "skip_connect", "sep_conv_3x3"] for d in cells.decisions})


def _smaller(method: str) -> list[str]:
    own = {"hnas": ["epochs=7,5,3"], "random-k": ["finalists=2"], "naswot": ["finalists=2"], "hournas": ["proposals=2"]}
    return [*own.get(method, []), "train.batch_size=16", "train.accelerator=cpu"]


def test_a_rehearsal_that_fails_tells_what_it_came_to(tmp_path: Path) -> None:
    def do(run: RunFolder) -> None:
        run._add_seconds("train1", 5.0)
        raise hiernas.LimitError("the graphs found leave cells dead")

    pace = rehearsed({"method": "hdas", "seed": 0, "data": {}}, {"train1": 10.0, "final": 10.0}, do)
    assert pace == Pace({"train1": 0.5}, 0.0)


def test_a_search_within_a_time_is_the_search_with_its_settings(
    few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second for 60 images of a training or 200 evaluations; the clock of the real machine counts for nothing.

    The search ends as much earlier than planned as an epoch of the final training takes, so that there is one more of them.
    """
    common = ["population=4", "calibration_images=24", "train.batch_size=24", "train.accelerator=cpu", "stages=3"]
    work = METHODS["hnas"].work(with_settings(QUICK, common), few)
    pace = Pace(dict.fromkeys(work, 1000.0), 0.0)  # so slow that what was really spent does not matter
    monkeypatch.setattr(run_module, "rehearse", lambda *given: (rehearse(*given), pace)[1])
    asked = Request("hnas", "tiny", {}, few, ["params<=150k"], settings=[*common, "epochs=20,10", "final_epochs=10"])
    whole = prepare(replace(asked, settings=common)).config  # fitted to few images
    small = scaled(whole, 0.005)
    planned = {phase: 1000.0 * w for phase, w in METHODS["hnas"].work(small, few).items()}
    seconds = sum(planned.values())
    early = 1000.0 * (final_work(1, few) - final_work(0, few))
    monkeypatch.setattr(run_module, "training_pace", lambda *_, **__: Pace({"final": 1000.0}, 0.0))
    monkeypatch.setattr(RunFolder, "seconds", lambda self: {"search": seconds - planned["final"] - early})
    timed = search(replace(asked, settings=common, time=seconds + 30), tmp_path / "timed")
    config = timed.config["config"]
    assert timed.config["preset"] == "custom"
    assert timed.config["asked"]["time"] == seconds + 30
    assert f"final_epochs {whole.final_epochs} -> {small.final_epochs}" in timed.config["timed"]
    assert f"were left: final_epochs {small.final_epochs} -> {small.final_epochs + 1}" in timed.config["timed"]
    assert (config["final_epochs"], config["generations"]) == (small.final_epochs + 1, small.generations)
    assert timed.config["left"] is None
    texts = [f"{k}={config[k]}" for k in ("epochs", "final_epochs", "generations")]
    texts += [f"train.warmup_epochs={config['train']['warmup_epochs']}"]
    plain = search(replace(asked, settings=[*common, *texts]), tmp_path / "plain")
    results = [run.read_json("result.json") for run in (timed, plain)]
    assert results[0]["timed"] == timed.config["timed"]
    assert "timed" not in results[1]
    for key in ("front", "chosen"):
        for member in results[0][key] if key == "front" else [results[0][key]]:
            member["latency_ms"] = None
    (tmp_path / "timed" / "result.json").unlink()
    monkeypatch.setattr(run_module, "training_pace", None)
    again = resume(tmp_path / "timed", data=few)  # by the plan, not planned anew
    assert again.config["config"] == config
    found = [(m["options"], m["val_accuracy"]) for r in (results[1], again.read_json("result.json")) for m in r["front"]]
    assert found[: len(found) // 2] == found[len(found) // 2 :]


def test_a_final_training_takes_what_is_left(few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tenth of a second an epoch is left, of a day more than there were, by the real clock; as planned where it fails."""
    asked = Request("hnas", "tiny", {}, few, ["params<=150k"], settings=["train.batch_size=24", "train.accelerator=cpu"])
    prepared, architecture = prepare(asked), hiernas.spaces.tiny(few.input_size, CLASSES).sample(np.random.default_rng(0))
    for i, (left, least, most) in enumerate(((0.1, 1, 1), (86400.0, prepared.config.final_epochs + 1, 10**9))):
        now = replace(prepared, left=left, timed="1 day: nothing changed")
        run = RunFolder.create(tmp_path / str(i), run_module._config(now))
        decided = run_module._in_time(now, run, architecture)
        run.close()
        epochs = decided.config.final_epochs
        assert least <= epochs <= most
        kept = RunFolder.open(run.path).config
        assert (kept["config"]["final_epochs"], kept["left"], decided.left) == (epochs, None, None)
        assert kept["timed"] == decided.timed
        assert decided.timed.endswith(f"were left: final_epochs {prepared.config.final_epochs} -> {epochs}")
        assert run_module._in_time(decided, run, architecture) is decided  # once
    monkeypatch.setattr(run_module, "training_pace", lambda *_, **__: Pace({}, 0.0))
    assert run_module._in_time(now, run, architecture).config == prepared.config


def test_a_training_within_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        (tmp_path / "d" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 100 * (i % 2) + i).save(tmp_path / "d" / str(i % 2) / f"{i}.png")
    data = load_data(str(tmp_path / "d"))
    epoch = 3.0 * (len(data.train) + len(data.val))
    monkeypatch.setattr(command, "training_pace", lambda *_: Pace({"final": 1000 / epoch}, 400.0))  # 1000 seconds an epoch
    architecture = hiernas.spaces.tiny(data.input_size, data.num_classes).sample(np.random.default_rng(0))
    architecture.save(tmp_path / "a.json")
    options = TrainOptions(source=tmp_path / "a.json", data=str(tmp_path / "d"), time="40m", out=tmp_path / "r")
    command.train(options, lambda _: None)
    config = RunFolder.open(tmp_path / "r").config
    assert config["train"]["epochs"] == 2  # 400 seconds are for all else, 333 for batch-norm statistics: 2,733 of 2,400
    assert config["timed"].startswith("40 min: recipe.warmup_epochs 19.2 -> 0.0499, epochs 577 -> 2; ")  # of few images
    with pytest.raises(ConfigError, match=r"with one epoch of each training it takes 29 min; give"):
        command.train(replace(options, time="600s", out=tmp_path / "s"), lambda _: None)
    assert not (tmp_path / "s").exists()


def test_the_largest_step_is_of_the_whole_supernet(few: ImageData) -> None:
    prepared = prepare(Request("darts", None, {}, few, ["params<=150k"], settings=_smaller("darts")))
    proxy = METHODS["darts"].proxy(prepared.space, prepared.config)
    step = largest_step(prepared)
    assert step.params == sum(p.numel() for p in proxy.supernet().parameters())
    assert step.saved > 0
    assert step.seconds > 0

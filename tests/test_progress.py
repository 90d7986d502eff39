"""What is shown of a run, line by line where there is no terminal; of one's own, and of one of another process."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hiernas.cli import progress
from hiernas.cli.progress import Display, follow
from hiernas.commands import SearchOptions, TrainOptions
from hiernas.errors import ConfigError, RunError
from hiernas.run.folder import RunFolder
from hiernas.run.study import Study, claim, entries_of
from toy import RUN


def shown(events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines, with eleven seconds between two events."""
    clock = iter(range(11, 100_000, 11))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    file = io.StringIO()
    display = Display(Console(file=file, width=200))
    for event in events:
        display(event)
    return file.getvalue().splitlines()


def test_the_bar_is_full_when_nothing_is_left_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = {"event": "epoch", "epochs": 2, "loss": 1.0, "train_accuracy": 0.5, "val_accuracy": None}
    events = [
        {"event": "start", "plan": {"train1": 50.0, "prior": 10.0, "final": 40.0}, "run": "r", "limits": ["params <= 60k"]},
        *({**epoch, "phase": phase, "epoch": n} for phase in ("train1", "final") for n in (1, 2)),
        *({"event": "measured", "done": n, "total": 3} for n in (1, 2, 3)),
    ]
    reading = [{"event": "decoding", "what": "decoding", "done": 1500, "total": 60_000}]
    assert shown(reading, monkeypatch) == ["  2% decoding pictures: 1,500 of 60,000"]
    first, *lines = shown(events, monkeypatch)
    assert first == "run folder r, limits params <= 60k"
    shares = [int(re.findall(r"^ *(\d+)%", line)[0]) for line in lines]
    assert shares == sorted(shares)
    assert shares[:2] == [24, 49]  # of what is planned, 25 and 50 %
    assert all(share < 100 for share in shares[:-1])
    assert lines[-1] == "100% measuring whole network 3 of 3"
    assert "training the chosen network · epoch 2/2" in lines[3]


def test_the_time_left_goes_by_the_pace_of_each_kind_of_phase() -> None:
    """Four epochs a phase: 100 seconds each of supernets, 10 of searching, and of a kind not seen yet as of all so far."""
    now, epoch = [0.0], {"event": "epoch", "epochs": 4, "loss": 1.0, "train_accuracy": None, "val_accuracy": None}
    display = Display(Console(file=io.StringIO()), lambda: now[0])

    def left(seconds: float, phase: str, done: int) -> float:
        now[0] += seconds
        display({**epoch, "phase": phase, "epoch": done})
        assert display.ends is not None
        return (display.ends - now[0]) * 0.98 - 0.02 * now[0]  # 2 % are no epochs

    plan = dict.fromkeys(("train1", "evolve2", "train2", "evolve3", "final"), 20.0)
    display({"event": "start", "plan": plan, "run": "r", "limits": ["none"]})
    display({**epoch, "phase": "train1", "epoch": 0})
    assert left(200, "train1", 2) == pytest.approx(2 * 100 + 4 * 400)  # nothing else is known
    left(200, "train1", 4), left(10, "evolve2", 1)
    assert left(30, "evolve2", 4) == pytest.approx(400 + 40 + 4 * (440 / 8))
    assert left(100, "train2", 1) == pytest.approx(300 + 40 + 4 * (540 / 9))
    left(300, "train2", 4), left(40, "evolve3", 4)
    assert left(7, "final", 1) == pytest.approx(3 * 7)
    # of a run that goes on where it was: what was done before it began says nothing of the pace
    display({"event": "start", "plan": plan, "run": "r", "limits": ["none"]})
    now[0] = 0.0
    display({**epoch, "phase": "train2", "epoch": 2})
    assert display.ends is None
    assert left(50, "train2", 3) == pytest.approx(50 + 4 * 50 + 4 * 50)


EPOCH = {"phase": "final", "epochs": 4, "loss": 1.0, "train_accuracy": 0.5, "val_accuracy": None}


def followed(do: Callable[[], None], path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed of a run that is done meanwhile, in a console of 60 columns."""
    monkeypatch.setattr(progress, "POLL", 0.01)
    file, other = io.StringIO(), threading.Thread(target=do)
    other.start()
    try:
        follow(path, Console(file=file, width=60, soft_wrap=True))
    finally:
        other.join()
    return file.getvalue().splitlines()


def test_a_run_of_another_process_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r"

    def do() -> None:
        time.sleep(0.1)  # it is waited for
        run = RunFolder.create(path, {**RUN, "method": "hnas"})
        time.sleep(0.2)  # nobody may say that it was killed
        run.event("start", plan={"final": 1.0}, run=str(path), limits=["none"])
        for epoch in (1, 2, 3, 4):
            run.event("epoch", **EPOCH, epoch=epoch)
            time.sleep(0.05)
        run.write_json("result.json", {})
        run.close()

    lines = followed(do, path, monkeypatch)
    assert lines[:2] == [f"{path} holds no run yet; waiting for one to begin there (Ctrl-C ends)",
                         f"{path}: hnas, nothing is written yet"]  # fmt: skip
    assert any(line.startswith(" 98% training the chosen network · epoch 4/4 · loss 1.000 · train 50.0%") for line in lines)


def test_a_study_of_other_processes_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    study = Study(path, entries_of("plain,random"), ("params<=1k",), 1, {"settings": ()})

    def do() -> None:
        time.sleep(0.1)  # it is waited for
        study.save()
        time.sleep(0.1)
        for job, accuracy in zip(study.jobs(), (0.5, 0.75), strict=True):
            with claim(job):
                time.sleep(0.2)  # nobody may say that it was left, though it has no run yet
                run = RunFolder.create(job.path, {**RUN, "method": job.label})
                run.event("start", plan={"final": 1.0}, run="r", limits=["none"])
                run.event("epoch", **EPOCH, epoch=2)
                time.sleep(0.2)
                run.write_json("result.json", {"chosen": {"test_accuracy": accuracy}})
                run.close()
                time.sleep(0.2)  # as long as a report is written

    lines = followed(do, path, monkeypatch)
    at = f"on {platform.node()}, process {os.getpid()}"
    where = r":  ( 0% starting|49% training the chosen network · epoch 2/4 · loss 1.000 · train 50.0%)$"  # as it is seen
    assert list(dict.fromkeys(re.sub(where, "", line) for line in lines)) == [
        f"{path} holds no run yet; waiting for one to begin there (Ctrl-C ends)",
        "0 of 2 runs are done, 0 under way", "0 of 2 runs are done, 1 under way",
        f"plain, seed 0, params<=1k, {at}",
        "plain, seed 0, params<=1k: 50.00\N{NO-BREAK SPACE}%",
        "1 of 2 runs are done, 0 under way", "1 of 2 runs are done, 1 under way",
        f"random, seed 0, params<=1k, {at}",
        "random, seed 0, params<=1k: 75.00\N{NO-BREAK SPACE}%", "2 of 2 runs are done, 0 under way",
    ]  # fmt: skip


def test_a_study_that_was_left_is_no_longer_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path / "s", entries_of("plain,random"), ("params<=1k",), 1, {"settings": ()})
    study.save()
    RunFolder.create(next(study.jobs()).path, RUN).close()
    monkeypatch.setattr(progress, "POLL", 0.01)
    message = r"^0 of 2 runs are done, 0 under way, and no process is at any; `hiernas compare .*s` goes on with the others"
    with pytest.raises(RunError, match=message):
        follow(study.path, Console(file=io.StringIO()))


def test_what_has_been_says_where_a_run_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first half of its epochs took 20 seconds and ended 10 seconds ago, and now its process is gone."""
    run, began = RunFolder.create(tmp_path / "r", {**RUN, "method": "train"}), time.time() - 30
    events = [
        (0, {"event": "start", "plan": {"final": 1.0}, "run": "r", "limits": ["none"]}),
        (0, {"event": "generation", "phase": "evolve2", "best": 0.75, "evaluated": 9, "generation": 1, "generations": 2}),
        (10, {"event": "epoch", **EPOCH, "epoch": 1}),
        (20, {"event": "epoch", **EPOCH, "epoch": 2}),
    ]
    times = (datetime.fromtimestamp(began + after).isoformat(timespec="seconds") for after, _ in events)
    lines = (json.dumps({"time": at, **event}) for at, (_, event) in zip(times, events, strict=True))
    (tmp_path / "r" / "events.jsonl").write_text("\n".join(lines) + '\n{"time": "2026-')
    run.close()
    monkeypatch.setattr(progress, "POLL", 0.01)
    file = io.StringIO()
    with pytest.raises(RunError, match=r"no process is at it any more.*go on with `hiernas resume .*r`"):
        follow(tmp_path / "r", Console(file=file, soft_wrap=True))
    first, second = file.getvalue().splitlines()
    assert re.fullmatch(r".*r: train, begun \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", first)
    found = re.fullmatch(r" 49% training the chosen network · epoch 2/4 · loss .* · best 75\.0% about ([\d.]+)\ss left", second)
    assert found is not None
    assert float(found[1]) == pytest.approx(20 * 0.51 / 0.49 - 10, abs=2.5)  # 2 % are no epochs; times are in whole seconds


def test_a_narrow_terminal_shows_all_of_it() -> None:
    display = Display(Console(file=io.StringIO()))
    display.state = ("stage 2/4 · training supernet · epoch 3/60 · loss 2.100 · best 50.0%", 0.25)
    display.ends = display.clock() + 5400
    file = io.StringIO()
    Console(file=file, width=60).print(display.picture())
    lines = file.getvalue().splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert " ".join(" ".join(lines[:-1]).split()) == display.state[0]
    assert re.search(r"25% about 1 h 30 min left", lines[-1])


def test_what_was_left_out_and_pruned_is_said() -> None:
    file = io.StringIO()
    display = Display(Console(file=file, soft_wrap=True))
    notes = ["2 damaged images left out: a.png, b.png", "no test split given"]
    data = {"name": "photos", "classes": ["a", "b"], "train": 1200, "val": 30, "test": 40, "input_size": [3, 8, 9]}
    data["notes"] = notes
    display({"event": "start", "plan": {}, "run": "r", "limits": ["none"], "data": data})
    display({"event": "pruned", "stage": 2, "size_before": 3888, "size_after": 1296})
    display({"event": "pruned", "stage": 3, "size_before": 1296, "size_after": 1296})
    assert file.getvalue().splitlines() == [
        "run folder r, limits none",
        "photos: 1,200 training, 30 validation and 40 test images of 3×8×9 in 2 classes",
        "images: 2 damaged images left out: a.png, b.png",
        "stage 2: pruned the space from 3,888 to 1,296 architectures",
        "stage 3: pruned nothing of the space of 1,296 architectures",
    ]  # fmt: skip


LOGGED = [
    {"event": "generation", "phase": "evolve2", "generation": 1, "generations": 9, "best": 0.5, "evaluated": 7},
    {"event": "epoch", **EPOCH, "epoch": 3, "lr": 0.1, "alarm": "no number", "derived": {"a": "b"}},
]
NUMBERS = {("evolve2", 1): {"best": 0.5, "evaluated": 7}, ("final", 3): {"loss": 1.0, "train_accuracy": 0.5, "lr": 0.1}}


def logged(to: str, folder: Path) -> None:
    display = Display(Console(file=io.StringIO()), log=to)
    for event in ({"event": "start", "plan": {}, "run": str(folder), "limits": []}, *LOGGED):
        display(event)


def test_numbers_go_to_a_csv_file_that_a_resumed_run_goes_on_in(tmp_path: Path) -> None:
    for times in (1, 2):
        logged("csv", tmp_path)
        rows = list(csv.reader((tmp_path / "scalars.csv").read_text().splitlines()))
        expected = [[p, str(step), name, str(x)] for (p, step), of in NUMBERS.items() for name, x in of.items()]
        assert rows == [["phase", "step", "name", "value"], *times * expected]


def test_numbers_go_to_tensorboard(tmp_path: Path) -> None:
    read = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logged("tensorboard", tmp_path)
    found = read.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    shown = {tag: [(x.step, x.value) for x in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert shown == {
        f"{phase}/{name}": [(step, pytest.approx(x))] for (phase, step), of in NUMBERS.items() for name, x in of.items()
    }


@pytest.mark.parametrize("log", ["wandb", ""])
def test_other_logs_are_refused(log: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown log '{log}'; known: csv, tensorboard"):
        TrainOptions(source=Path("r"), log=log)


def test_tensorboard_that_cannot_be_imported_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "__init__.py").write_text("import absl_is_gone")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] == "tensorboard" or n.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"--log tensorboard needs hiernas\[tensorboard\] \(.*absl_is_gone.*\); --log csv"):
        SearchOptions(log="tensorboard")


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_text("")
    with pytest.raises(RunError, match=r"is not a run folder: it has no config\.yaml"):
        follow(tmp_path, Console(file=io.StringIO()))


@pytest.mark.parametrize("line", [b"[" * 9**5, b"3", b"\xff", b'{"event": "x"}', b'{"event": "epoch", "time": "2026-11-27"}'])
def test_events_that_cannot_be_shown_are_named(line: bytes, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", RUN)
    (run.path / "events.jsonl").write_bytes(line + b"\n")
    with pytest.raises(RunError, match=r"events\.jsonl is damaged.*; delete .*only the curves"):
        follow(run.path, Console(file=io.StringIO()))

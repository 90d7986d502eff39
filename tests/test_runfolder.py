"""The run folder: atomic, mended after a kill, and clear about what is wrong with it."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest
import torch
import yaml

from hiernas.cli import report
from hiernas.commands import ReportOptions, VitalOptions
from hiernas.commands.rank import rank
from hiernas.commands.vital import reset
from hiernas.errors import RunError
from hiernas.run.folder import RunFolder, TakenError, begin
from processes import Forked, script
from toy import RUN


def test_round_trips(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", {**RUN, "seed": 3})
    run.event("epoch", epoch=1, loss=0.5)
    run.add_candidates("evolve2", [("a,b", 0.1 + 0.2, 5, 6, 0.3), ("a,c", 0.5, 7, 8, None)])
    tensors = {"w": torch.randn(3, 4).T, "n": torch.tensor(7)}
    run.save_tensors("train1", tensors, {"epoch": 2})
    opened = RunFolder.open(tmp_path / "r")
    assert opened.config["seed"] == 3
    assert opened.events()[0]["loss"] == 0.5
    assert opened.candidates("evolve2") == {"a,b": 0.1 + 0.2, "a,c": 0.5}
    assert len(opened.table()) == 2
    loaded = opened.load_tensors("train1")
    assert loaded is not None
    assert torch.equal(loaded[0]["w"], tensors["w"])
    assert loaded[1] == {"epoch": 2}
    assert opened.read_json("result.json") is None
    assert opened.load_tensors("train9") is None


def test_what_a_kill_leaves_behind_is_mended(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", RUN)
    run.event("epoch", epoch=1)
    run._lock.release(force=True)  # as a kill does it
    with open(tmp_path / "r" / "events.jsonl", "a") as f:
        f.write('{"event": "epo')
    for name in ("checkpoint/train1.safetensors.partial", "best.onnx.partial"):
        (tmp_path / "r" / name).write_bytes(b"half")
    again = RunFolder.open(tmp_path / "r")
    again.own()
    again.event("epoch", epoch=2)
    assert [e["epoch"] for e in again.events()] == [1, 2]
    assert not list((tmp_path / "r").rglob("*.partial"))


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "r", RUN).close()
    with pytest.raises(RunError, match="already holds a run; go on with `hiernas resume"):
        RunFolder.create(tmp_path / "r", RUN)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(RunError, match="not an empty folder"):
        RunFolder.create(tmp_path / "full", {})
    with pytest.raises(RunError, match="full is not a run folder"):
        RunFolder.open(tmp_path / "full")
    with pytest.raises(RunError, match="nothing does not exist"):
        RunFolder.open(tmp_path / "nothing")
    (tmp_path / "r" / "config.yaml").write_text(yaml.safe_dump({"format": 99, "hiernas": "9.9"}))
    with pytest.raises(RunError, match=r"written by HierNAS 9\.9 in run format 99"):
        RunFolder.open(tmp_path / "r")
    (tmp_path / "r" / "config.yaml").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        RunFolder.open(tmp_path / "r")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", RUN)
    (run.path / "checkpoint" / "evolve2.json").write_text('{"generation": 3, ')
    with pytest.raises(RunError, match=r"evolve2\.json is damaged \(content: invalid JSON: .*\); delete it"):
        run.read_json("checkpoint/evolve2.json")
    (run.path / "candidates.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(RunError, match=r"candidates\.sqlite is damaged"):
        run.candidates("evolve2")
    with pytest.raises(ValueError, match="Out of range"):
        run.write_json("x.json", {"loss": float("nan")})


def test_a_full_disk_is_said_and_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "r", RUN)
    run.write_json("x.json", {"kept": True})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        run.write_json("x.json", {"kept": False})
    assert json.loads((run.path / "x.json").read_text()) == {"kept": True}
    assert not list(run.path.glob("*.partial"))
    with pytest.raises(RunError, match="the disk is full"):
        RunFolder.create(tmp_path / "new", {})
    assert not (tmp_path / "new").exists()  # it could be neither resumed nor used again


def test_a_renamed_file_is_there_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is on the disk before it gets its name, and then the folder, which knows the name."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(f"sync {Path(f'/proc/self/fd/{fd}').readlink().name}"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"name {Path(b).name}"), replace(a, b)))
    RunFolder.create(tmp_path / "r", RUN).close()
    assert done[:4] == ["sync config.yaml.partial", "name config.yaml", "sync r", f"sync {tmp_path.name}"]
    assert done[4:7] in ([], ["sync SHA256SUMS.partial", "name SHA256SUMS", "sync r"])


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", RUN)
    code = f"from hiernas.run.folder import RunFolder; run = RunFolder.open({str(run.path)!r}); run.own()"
    assert "another process is working on" in Forked(script, code).ended()[2]
    run.close()
    other = Forked(script, f"import time; {code}; print('owned', flush=True); time.sleep(600)")
    while other.running and other.said != "owned\n":
        time.sleep(0.02)
    with pytest.raises(RunError, match="another process is working on"):
        run.own()
    other.kill()
    assert other.ended()[1] == "owned\n"
    run.own()  # nothing is left of the one that was killed
    run.close()


def test_new_run_folders_are_numbered(tmp_path: Path) -> None:
    assert begin(None, "hnas", RUN).path == Path("runs/hnas-001")
    (tmp_path / "runs" / "hnas-002").mkdir()
    (tmp_path / "runs" / "hnas-002" / "thesis.tex").touch()
    assert begin(None, "hnas", RUN).path == Path("runs/hnas-003")


STARTS = """
import signal, time
from pathlib import Path
from hiernas.errors import RunError
from hiernas.run.folder import RunFolder, begin
signal.alarm(120)  # where all of them wait for each other
kept = []
for i in range(ROUNDS):
    moment = BEGIN + 0.04 * i
    time.sleep(max(0.0, moment - 0.005 - time.time()))
    while time.time() < moment:
        pass
    try:
        kept.append(RunFolder.create(f"same/{i}", {"method": "hnas", "seed": 0, "data": {}}))
        print(i, "mine", flush=True)
    except RunError as error:
        print(i, error, flush=True)
    kept.append(begin(None, "hnas", {"method": "hnas", "seed": 0, "data": {}}))
    print("named", kept[-1].path, flush=True)
"""


def test_of_starts_at_the_same_moment_exactly_one_survives(tmp_path: Path) -> None:
    rounds, starters = 60, 4
    Forked(script, "").ended()  # so that what others are forked from is there
    code = f"BEGIN, ROUNDS = {time.time() + 1.0}, {rounds}{STARTS}"
    ends = [each.ended() for each in [Forked(script, code) for _ in range(starters)]]
    assert [code for code, _, _ in ends] == [0] * starters
    lines = [line.split(maxsplit=1) for _, said, _ in ends for line in said.splitlines()]
    for i in range(rounds):
        said = sorted(text for name, text in lines if name == str(i))
        assert len(said) == starters
        assert said.count("mine") == 1
        assert all("another process" in text or "already holds a run" in text for text in said if text != "mine"), said
        assert RunFolder.open(f"same/{i}").config["method"] == "hnas"
    named = [text for name, text in lines if name == "named"]
    assert len(set(named)) == len(named) == rounds * starters  # each has a name of its own
    assert {RunFolder.open(path).config["seed"] for path in named} == {0}


def test_what_a_start_that_was_killed_left_is_used_by_the_next(tmp_path: Path) -> None:
    """Killed at every step before config.yaml is there."""
    create = f"from hiernas.run.folder import RunFolder; RunFolder.create({str(tmp_path / 'r')!r}, {RUN!r})"
    for step in ("fsync", "replace"):
        code = f"import os; os.{step} = lambda *_: os._exit(9); {create}"
        assert Forked(script, code).ended()[0] == 9
        assert (tmp_path / "r").exists()
        assert not (tmp_path / "r" / "config.yaml").exists()
    RunFolder.create(tmp_path / "r", RUN).close()
    assert RunFolder.open(tmp_path / "r").config["seed"] == 0
    (tmp_path / "only").mkdir()
    RunFolder.create(tmp_path / "only", RUN).close()
    with pytest.raises(TakenError, match="already holds a run"):
        RunFolder.create(tmp_path / "only", RUN)


def test_commands_that_write_take_the_lock(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", RUN)
    asked = VitalOptions(source=str(run.path), reset=True)
    for command in (lambda: rank(run.path, 2, None, print), lambda: reset(asked), lambda: report(ReportOptions(run=run.path))):
        with pytest.raises(TakenError, match="another process is working on"):
            command()

"""A run that goes on under other threads, versions or another device says so, and its result tells both ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hiernas
from hiernas.run.folder import RunFolder, owned
from hiernas.run.outcome import environment, tell_changes
from toy import RUN

SETTINGS = (
    "final_epochs=1", "stages=3", "epochs=1,1", "lr=0.1,0.1", "population=4", "generations=1", "calibration_images=24",
    "train.batch_size=256",
)  # fmt: skip
QUICK = (  # by the quicker exporter
    "from importlib import import_module; from hiernas import cli; export = import_module('hiernas.export'); "
    "export._by_dynamo = export._by_tracing; cli.main()"
)


def cli(*arguments: str, threads: int) -> str:
    command = [sys.executable, "-c", QUICK, *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_other_threads_are_said_and_recorded(few: str) -> None:
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    cli("search", "random-search", "--data", few, "--limit", "params<=100k", *words, "--out", "r", threads=1)
    first = json.loads(Path("r/result.json").read_text())["environment"]
    assert first["began"] == first["ended"] == {**environment({}), "threads": 1}
    Path("r/result.json").unlink()
    assert "another environment (threads 1 -> 2): its numbers can differ" in " ".join(cli("resume", "r", threads=2).split())
    second = json.loads(Path("r/result.json").read_text())["environment"]
    assert second == {"began": first["began"], "ended": {**first["ended"], "threads": 2}}


@pytest.mark.parametrize("name", ["hiernas", "torch", "threads", "device"])
def test_each_part_is_looked_at(name: str, tmp_path: Path) -> None:
    now = environment(RUN)
    assert (now["hiernas"], now["torch"], now["threads"]) == (
        hiernas.__version__, torch.__version__, torch.get_num_threads(),
    )  # fmt: skip
    other = 99 if name == "threads" else "other"
    RunFolder.create(tmp_path / "r", {**RUN, "environment": {**now, name: other}}).close()
    told: list[str] = []
    with owned(RunFolder.open(tmp_path / "r", lambda event: told.append(event["changed"]))) as run:
        tell_changes(run)
    assert told == [f"{name} {other} -> {now[name]}"]


def test_a_gpu_counts_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
    assert environment({"train": {"accelerator": "auto"}})["device"].startswith("GPU, ")
    cpu = environment({"train": {"accelerator": "cpu"}, "search": {"train": {"accelerator": "cpu"}}})
    assert not cpu["device"].startswith("GPU")

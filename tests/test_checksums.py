"""Every file that a resume or a result depends on: damaged, edited or gone, it is named, and nothing differs in silence."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import hiernas
from hiernas.commands.cost import architecture_file
from hiernas.data import ImageData, load_data
from hiernas.errors import RunError
from hiernas.methods.hnas import QUICK
from hiernas.run import disk
from hiernas.run.folder import RunFolder
from hiernas.run.settings import with_settings
from hiernas.run.trained import load_network
from processes import bare
from toy import RUN

SETTINGS = [
    "epochs=1,1", "lr=0.1,0.1", "stages=3", "population=4", "generations=1", "final_epochs=1", "calibration_images=24",
    "train.batch_size=24", "train.accelerator=cpu", "objective=params",
]  # fmt: skip


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zero_tail(data: bytes) -> bytes:
    return data[: -len(data) // 8] + bytes(len(data) - len(data[: -len(data) // 8]))


def flipped(data: bytes) -> bytes:
    """One bit, in the digits of a text where there are some: a value that can still be read."""
    at = next((i for i in range(len(data) // 2, len(data)) if chr(data[i]).isdigit()), len(data) // 2)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = (half, zero_tail, flipped)


@pytest.fixture(scope="module")
def few() -> ImageData:
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, (1, 8, 8)) + 80 * (i % 3)).astype(np.uint8) for i in range(120)]
    return load_data([(torch.from_numpy(x), i % 3) for i, x in enumerate(pixels)])


@pytest.fixture(scope="module")
def finished(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has finished."""
    path = tmp_path_factory.mktemp("finished") / "r"
    hiernas.hnas("tiny", few, ["params<=200k"], with_settings(QUICK, SETTINGS), out=path)
    return path


def outcome(run: Path) -> object:
    result = json.loads((run / "result.json").read_text())
    weights = {k: (v.dtype, v.shape, v.numpy().tobytes()) for k, v in load_file(run / "best.safetensors").items()}
    front = [(m["options"], m["val_accuracy"]) for m in result["front"]]
    return front, result["chosen"]["test_accuracy"], result["evaluated"], weights


def names(run: Path) -> list[str]:
    return sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and p.name != ".lock")


def test_damage_is_named_or_does_not_matter(finished: Path, few: ImageData, tmp_path: Path) -> None:
    """A run resumed at its end, with one file damaged: named, and repaired by what the sentence says, or the same result."""
    whole, named = outcome(finished), set()

    def resumed(run: Path) -> None:
        with bare():
            hiernas.resume(run, data=few)

    for i, name in enumerate(names(finished)):
        run = tmp_path / str(i)
        shutil.copytree(finished, run)
        (run / "result.json").unlink()
        if name == "result.json":
            continue
        data = (run / name).read_bytes()
        if not data:
            continue
        (run / name).write_bytes(DAMAGES[i % 3](data))
        try:
            resumed(run)
        except RunError as error:
            assert Path(name).name in str(error)  # noqa: PT017 - one sentence for each file
            named.add(name)
            if "delete it" in str(error):
                (run / name).unlink()
                resumed(run)
        if (run / "result.json").exists():
            assert outcome(run) == whole, name
    assert {"config.yaml", "candidates.sqlite", "checkpoint/final.safetensors", "checkpoint/train1.safetensors"} <= named


def test_what_is_taken_home_is_checked(finished: Path, few: ImageData, tmp_path: Path) -> None:
    run = tmp_path / "r"
    shutil.copytree(finished, run)
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=run, check=False).returncode == 0
    for name, read in {
        "best.json": lambda: architecture_file(run),
        "best.safetensors": lambda: load_network(architecture_file(run), run / "best.safetensors"),
        "result.json": lambda: hiernas.resume(run, data=few),
    }.items():
        data = (run / name).read_bytes()
        (run / name).write_bytes(flipped(data))
        with pytest.raises(RunError, match=rf"{name} is not what the run wrote.*; delete it, and `hiernas resume "):
            read()
        (run / name).write_bytes(data)


@pytest.mark.parametrize("gone", [["best.safetensors"], ["best.json", "best.onnx"], ["candidates.sqlite"], ["result.json"]])
def test_a_finished_run_whose_files_are_gone_is_built_again(
    gone: list[str], finished: Path, few: ImageData, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    shutil.copytree(finished, run)
    for name in gone:
        (run / name).unlink()
    hiernas.resume(run, data=few)
    assert outcome(run) == outcome(finished)
    assert not RunFolder.open(run).missing()


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("seed: 0", "seed: 1", 1),
        lambda text: text.replace("final_epochs: 1", "final_epochs: 2"),
        lambda text: text + "more: 1\n",
        lambda text: text[: text.index("# sha256")],
        lambda text: yaml.safe_dump(yaml.safe_load(text)),
    ],
)
def test_an_edited_config_is_refused_with_the_way_out(edit: Callable[[str], str], finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    shutil.copytree(finished, run)
    text = (run / "config.yaml").read_text()
    assert edit(text) != text
    (run / "config.yaml").write_text(edit(text))
    with pytest.raises(RunError, match=r"config\.yaml is not what was asked .*start a new run with what you want, `hiernas s"):
        hiernas.resume(run)


def test_a_candidate_that_was_changed_in_the_database(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "r", RUN)
    run.add_candidates("evolve1", [("a,b", 0.56, 5, 6, 0.3)])
    assert run.candidates("evolve1") == {"a,b": 0.56}
    with closing(sqlite3.connect(run.path / "candidates.sqlite")) as db, db:
        db.execute("UPDATE candidates SET val_accuracy = 0.25")
    with pytest.raises(RunError, match=r"candidates\.sqlite is damaged .*; delete it"):
        run.candidates("evolve1")


def test_a_kill_between_checksum_and_file_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed twice just before the file itself is renamed: the former content still counts."""
    run = RunFolder.create(tmp_path / "r", RUN)
    run.write_json("checkpoint/evolve1.json", {"generation": 1})
    write = disk.write_whole

    def killed(path: Path, data: bytes) -> None:
        if path.name == "evolve1.json":
            raise KeyboardInterrupt
        write(path, data)

    for generation in (2, 3):
        monkeypatch.setattr("hiernas.run.folder.write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            run.write_json("checkpoint/evolve1.json", {"generation": generation})
        monkeypatch.undo()
        run._lock.release(force=True)
        run = RunFolder.open(tmp_path / "r")
        assert run.read_json("checkpoint/evolve1.json") == {"generation": 1}
        run.own()
        assert run.read_json("checkpoint/evolve1.json") == {"generation": 1}
    run.write_json("checkpoint/evolve1.json", {"generation": 4})
    assert run.read_json("checkpoint/evolve1.json") == {"generation": 4}
    (tmp_path / "r" / "checkpoint" / "evolve1.json").write_text('{"generation": 1}\n')
    with pytest.raises(RunError, match=r"evolve1\.json is not what the run wrote"):
        run.read_json("checkpoint/evolve1.json")
    run.close()
    run = RunFolder.open(tmp_path / "r")
    run.own()  # which settles checksums: not by what a file was made into
    with pytest.raises(RunError, match=r"evolve1\.json is not what the run wrote"):
        run.read_json("checkpoint/evolve1.json")

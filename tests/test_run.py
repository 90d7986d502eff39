"""Whole runs: every method, limits met, killed at random moments and resumed, and a user's mistakes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import hiernas
from hiernas.cli import main
from hiernas.data import normalise
from hiernas.errors import ConfigError, RunError
from hiernas.methods.hnas import QUICK
from hiernas.run.folder import RunFolder
from hiernas.run.outcome import last_supernet
from hiernas.run.settings import with_settings
from processes import QUICK as QUICKLY
from processes import Command, cli

TINY = [
    "epochs=1,1,1", "population=6", "generations=1", "final_epochs=1", "calibration_images=24", "train.batch_size=64",
    "train.accelerator=cpu",
]  # fmt: skip


LONG = "n" * 300  # longer than a file system allows


def settings(*more: str) -> list[str]:
    return [word for s in (*TINY, *more) for word in ("--set", s)]


@pytest.fixture(scope="module")
def finished(few: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has finished; to be copied where it is changed."""
    run = tmp_path_factory.mktemp("finished") / "r"
    cli("search", "random-search", "--data", few, *settings(), "--out", str(run))
    return run


WHOLE = ["search", *settings("generations=3"), "--limit", "params<=100k"]


@pytest.fixture(scope="module")
def whole(few: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of four stages that has finished."""
    run = tmp_path_factory.mktemp("whole") / "r"
    cli(*WHOLE, "--data", few, "--out", str(run))
    return run


def outcome(run: Path) -> dict[str, object]:
    """What must not depend on interruptions."""
    result = json.loads((run / "result.json").read_text())
    members = [(m["options"], m["val_accuracy"], m["latency_ms"]["predicted"]) for m in result["front"]]
    return {"front": members, "chosen": result["chosen"]["options"], "test": result["chosen"]["test_accuracy"]}


@pytest.mark.parametrize(
    ("method", "kind"),
    [(hiernas.hnas, "tiny"), (hiernas.spos, "own"), (hiernas.random_search, "own")],
    ids=lambda x: getattr(x, "method", x),
)
def test_every_method_and_every_kind_of_space(tmp_path: Path, few: str, method: object, kind: str) -> None:
    data = hiernas.load_data(few)
    own = hiernas.chain_space(
        "own", data.input_size, 10, stem=8, stem_stride=2, head=16,
        stages=[hiernas.Stage(8, 3, 1, (hiernas.MBConv(3, 1), hiernas.MBConv(3, 2)), skip=True)],
    )  # fmt: skip
    config = with_settings(QUICK, [*TINY, "predictor=none"])  # the published choice
    most = 150_000, 4_000_000
    found = method(own if kind == "own" else kind, data, [f"params<={most[0]}", f"macs<={most[1]}"], config, out=tmp_path / "r")
    for member in (*found.front, found.chosen):
        architecture = found.architecture.skeleton.space().architecture(member.options)
        cost = hiernas.cost(architecture)  # counted on the whole network
        assert (cost.params, cost.macs) == (member.params, member.macs)
        assert (cost.params <= most[0], cost.macs <= most[1]) == (True, True)
    assert found.chosen.val_accuracy == max(m.val_accuracy for m in found.front)
    assert (tmp_path / "r" / "report.html").exists()
    assert len(found.result["stages"]) == (2 if method is hiernas.hnas else 0)


def test_files_of_a_run_agree_with_each_other(tmp_path: Path, few: str) -> None:
    data = hiernas.load_data(few)
    found = hiernas.hnas("tiny", data, config=with_settings(QUICK, TINY), out=tmp_path / "r")
    network = hiernas.Architecture.load(found.run_folder / "best.json").build().eval()
    network.load_state_dict(load_file(found.run_folder / "best.safetensors"))
    x = normalise(data.test.images.fetch(torch.arange(len(data.test))), data, torch.device("cpu"))
    with torch.no_grad():
        ours = network(x)
    assert float((ours.argmax(1) == data.test.labels).float().mean()) == pytest.approx(found.test_accuracy, abs=1e-6)
    session = onnxruntime.InferenceSession(str(found.run_folder / "best.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], ours.numpy(), rtol=1e-3, atol=1e-4)
    table = hiernas.LatencyTable.load(found.run_folder / "latency.json")
    assert table.predict(found.architecture) == pytest.approx(found.chosen.latency_ms)
    for stage in found.result["stages"]:
        for site, shares in stage["sites"].items():
            assert sum(shares.values()) == pytest.approx(1.0)
            kept = [o for o, p in shares.items() if p >= 0.01]
            assert stage["kept"][site] == kept
    again = cli("report", str(found.run_folder))
    assert "report.html" in again


def test_python_takes_what_the_command_line_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = cli("search", "random", "--limit", "params<=90k", "--limit", "macs<=2M", "--set", "final_epochs=1", "--image-size",
                "8", "--val-per-class", "20", "--skip-bad-images", "--threads", "1", "--out", "one")  # fmt: skip
    events: list[str] = []
    found = hiernas.api.Search("random")(
        limits="params<=90k and macs<=2M", settings=["final_epochs=1"], image_size=8, val_per_class=20, threads=1,
        skip_bad_images=True, out="two", on_event=lambda event: events.append(event["event"]),
    )  # fmt: skip
    assert f"test accuracy {found.test_accuracy:.2%}" in shown
    one, two = (yaml.safe_load(Path(run, "config.yaml").read_text()) for run in ("one", "two"))
    assert {k for k in one if one[k] != two[k]} <= {"asked", "latency_table"}
    assert one["data"]["skip_bad_images"] is True
    assert {"start", "epoch", "finished"} <= set(events)
    with pytest.raises(ConfigError, match="give one of them"):
        hiernas.hnas(preset="small", config=QUICK)


def test_a_limit_that_is_asked_is_met(few: str) -> None:
    shown = cli("search", "--data", few, "--limit", "80k<=params<=90k", "--limit", "macs<=2M", *settings(), "--out", "r")
    assert "asked" in shown
    for member in json.loads(Path("r/result.json").read_text())["front"]:
        assert 80_000 <= member["params"] <= 90_000
        assert member["macs"] <= 2_000_000


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(whole: Path, few: str) -> None:
    took = sum(json.loads((whole / "result.json").read_text())["seconds"].values())
    rng, kills, started = random.Random(0), 0, False
    for _ in range(40):
        command = ["resume", "parts"] if started else [*WHOLE, "--data", few, "--out", "parts"]
        process = Command(*command)
        wait = 0.4 * took if kills < 6 else 300.0  # in the end it may finish
        deadline = time.monotonic() + rng.uniform(0.1 * took, wait)
        while process.running and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.running:
            process.kill()
            kills += 1
        process.ended()
        started = (Path("parts") / "config.yaml").exists()
        if (Path("parts") / "result.json").exists():
            break
    assert kills >= 3
    assert outcome(Path("parts")) == outcome(whole)
    with_weights = [load_file(path / "best.safetensors") for path in (whole, Path("parts"))]
    assert all(torch.equal(value, with_weights[1][name]) for name, value in with_weights[0].items())


def test_training_again_from_scratch_and_from_inherited_weights(whole: Path, few: str) -> None:
    shutil.copytree(whole, "r")
    cli("train", "r", "--epochs", "1", "--out", "again")
    cli("train", "r", "--inherit", "--epochs", "1", "--lr", "1e-9", "--out", "inherited")
    results = {n: json.loads(Path(n, "result.json").read_text()) for n in ("r", "again", "inherited")}
    assert results["again"]["chosen"]["sites"] == results["r"]["chosen"]["sites"]
    assert results["again"]["chosen"]["test_accuracy"] == results["r"]["chosen"]["test_accuracy"]  # same seed, same recipe
    page, reached = Path("again/report.html").read_text(), results["again"]["chosen"]["test_accuracy"]
    for said in (f"{100 * reached:.2f}\xa0% test accuracy", "The chosen network", "Training"):
        assert said in page
    assert results["again"]["chosen"]["macs"] == results["r"]["chosen"]["macs"]
    Path("again/report.html").unlink()  # as of a kill between the two
    assert "again was finished" in cli("resume", "again")
    assert Path("again/report.html").read_text() == page
    # with a learning rate of nearly 0 the inherited network has the weights of its path in the last supernet
    supernet = last_supernet(RunFolder.open("r"), hiernas.spaces.tiny())
    assert supernet is not None
    kept, other = (load_file(Path(n, "best.safetensors")) for n in ("inherited", "again"))
    for name, weight in supernet.subnet(hiernas.Architecture.load(Path("r/best.json"))).named_parameters():
        torch.testing.assert_close(kept[name], weight.detach(), rtol=0, atol=1e-6)
        assert weight.ndim == 1 or not torch.allclose(other[name], weight, atol=1e-3)
    cli("train", "again/best.json", "--data", few, "--epochs", "1", "--set", "train.batch_size=128", "--out", "third")
    assert "needs a run folder" in cli("train", "again/best.json", "--inherit", check=2)
    assert "name them with --data" in cli("train", "again/best.json", check=2)
    shown = cli("cost", "r/best.json")
    assert f"{results['r']['chosen']['params']:,}" in shown
    assert "latency measured" in shown
    assert "parity" in cli("export", "r", "--to", "pt2", "--out", "best.pt2")
    assert "unknown format 'tflite'" in cli("export", "r", "--to", "tflite", check=2)


def images(folder: Path, classes: int = 3, each: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 80, (12, 12, 3)) + 60 * c
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{c}" / f"{i}.png")
    return folder


def test_a_users_folder_end_to_end(tmp_path: Path) -> None:
    images(tmp_path / "mine")
    more = settings("train.batch_size=16", "calibration_images=12")
    shown = cli("check", "--data", "mine", *more)
    assert "nothing was trained" in shown
    assert "within the limits" in shown
    cli("search", "--data", "mine", *more, "--out", "r")
    assert json.loads(Path("r/result.json").read_text())["data"]["classes"] == ["class0", "class1", "class2"]
    (tmp_path / "mine" / "class0" / "0.png").unlink()
    (tmp_path / "r" / "result.json").unlink()
    assert "changed since" in cli("resume", "r", check=2)


def test_a_moved_folder_of_images(tmp_path: Path) -> None:
    images(tmp_path / "mine")
    more = [*settings("train.batch_size=16", "calibration_images=12", "objective=params"), "--limit", "params<=200k"]
    cli("search", "random-search", "--data", "mine", *more, "--out", "r")
    whole = outcome(Path("r"))
    Path("r/result.json").unlink()
    (tmp_path / "mine").rename(tmp_path / "there")
    assert "any more; say where: `hiernas resume r --data NEW`" in cli("resume", "r", check=2)
    shutil.copytree("there", "other")
    (tmp_path / "other" / "class0" / "0.png").unlink()
    assert "the data at other changed since" in cli("resume", "r", "--data", "other", check=2)
    cli("resume", "r", "--data", "there")
    assert outcome(Path("r")) == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "hnsa"], "unknown method 'hnsa'; did you mean 'hnas'"),
        (["search", "--space", "tinny"], "unknown space 'tinny'; did you mean 'tiny'"),
        (["search", "--set", "space.widths=cpu"], "space 'tiny' has no setting 'space.widths'"),
        (["search", "--preset", "fast"], "unknown preset 'fast'"),
        (["search", "--data", "nowhere"], "nowhere"),
        (["search", "--limit", "latency<=2"], "did you mean 'latency_ms'"),
        (["search", "--limit", "params<=1"], "no architecture of 'tiny' meets params"),
        (["search", "--latency-table", "none.json"], "none.json"),
        (["search", "--runtime", "tensorrt"], "unknown runtime 'tensorrt'; known: onnxruntime"),
        (["resume", "nowhere"], "nowhere does not exist"),
        (["resume", "."], ". is not a run folder"),
        (["rank", "nowhere"], "nowhere does not exist"),
        (["export", "nowhere"], "there is no run folder and no architecture file nowhere; name a run (`hiernas list runs`)"),
        (["search", "darts", "--cells", "darts-v2"], "--cells gives the cells of a stage search, and space 'darts' takes none"),
        (["export", "fbnet-c"], "it is a published network, which `hiernas cost` knows"),
        (["cost", "nowhere.json"], "no architecture file nowhere.json"),
        (["report", "nowhere"], "nowhere"),
        (["search", "--set", "train.accelerator=cuda"], "this machine cannot train with train.accelerator=cuda"),
        (["search", "--set", "train.cutout=8"], "train.cutout is 8, and the images are (8, 8) pixels"),
        (["search", "--set", "train.batch_size=0"], "train.batch_size: input should be greater than or equal to 2 (got 0)"),
        (["search", "--data", ""], "--data is empty"),
        (["predict", "r"], "Missing argument 'IMAGE...'; see `"),
        (["serach"], "No such command 'serach'. Did you mean 'search'?; see `"),
        (["search", "--limt", "params<=60k"], "No such option: --limt (Possible options: --int8, --limit"),
        (["search", "--seed"], "Option '--seed' requires an argument; see `hiernas -h`"),
        (["search", "--seed", "x"], "Invalid value for '--seed': Input should be a valid integer"),
        (["search", "--time", "soon"], "--time soon: write a number with s, m or h"),
        (["measure", "tiny", "--set", "population=3"], "takes --set space.KEY=VALUE only"),
        (["list", "colours"], "unknown list 'colours'"),
        (["list", "presets", "hnsa"], "unknown method 'hnsa'; did you mean 'hnas'?"),
        (["measure", "tiny", "--import", ""], "cannot read the latency table .: Is a directory"),
        (["measure", "tiny", "--input-size", "3x32x32"], "write channels,height,width"),
        (["vital", "tiny", "--input-size", "3,100000,100000"], "one such input takes 111.8 GiB"),
        (["search", "--image-size", "100000"], "at most 128"),
        (["check", "--threads", "640000"], "threads is 640000, and this process may use"),
        *((words, "File name too long; name a") for words in (
            ["resume", LONG], ["report", LONG], ["search", "--out", LONG, "--continue"], ["check", "--data", LONG],
            ["train", LONG], ["predict", LONG, "x"], ["evaluate", LONG], ["cost", LONG], ["vital", LONG], ["compare", LONG],
            ["list", "runs", LONG], ["export", LONG], ["measure", "tiny", "--out", LONG],
        )),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hiernas", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    out, shown = capfd.readouterr()
    assert out == ""
    assert message in shown
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert not Path("runs").exists()


def test_a_run_folder_is_never_overwritten(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, "r")
    before = (tmp_path / "r" / "result.json").read_bytes()
    assert "already holds a run" in cli("search", "--out", "r", check=2)
    (tmp_path / "r" / "report.html").unlink()  # as if killed between the last two files
    again = cli("resume", "r")
    assert "r was finished; there is nothing to go on with" in again
    assert "everything is in r" in again
    assert (tmp_path / "r" / "report.html").exists()
    assert (tmp_path / "r" / "result.json").read_bytes() == before
    config = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    (tmp_path / "r" / "config.yaml").write_text(yaml.safe_dump({**config, "format": 0}))
    with pytest.raises(RunError, match="run format 0"):
        hiernas.resume(tmp_path / "r")


def test_a_restricted_space_stays_restricted_when_resumed(tmp_path: Path, few: str) -> None:
    half = hiernas.spaces.tiny().restrict({d.name: d.options[:2] for d in hiernas.spaces.tiny().decisions})
    config = with_settings(QUICK, [*TINY, "objective=params"])
    whole = hiernas.spos(half, few, ["params<=200k"], config, out=tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for name in ("result.json", "checkpoint/evolve2.json", "checkpoint/final.safetensors", "candidates.sqlite"):
        (tmp_path / "parts" / name).unlink()  # as if killed after the supernet's training
    parts = hiernas.resume(tmp_path / "parts")
    assert parts.result["space"]["size"] == 2**8
    assert parts.front == whole.front
    assert parts.test_accuracy == whole.test_accuracy
    cli("train", "parts", "--inherit", "--epochs", "1", "--seed", "5", "--out", "inherited")
    (tmp_path / "inherited" / "result.json").unlink()
    cli("resume", "inherited")  # of another seed than the search: the split is still the search's


def test_what_a_run_goes_by_is_never_replaced_in_silence(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, "r")
    (tmp_path / "r" / "result.json").rename(tmp_path / "result.json")
    config = (tmp_path / "r" / "config.yaml").read_text()
    (tmp_path / "r" / "config.yaml").write_text(config.replace("  final_lr:", "  finallr:"))
    assert "config.yaml is not what was asked when the run was started" in cli("resume", "r", check=2)
    (tmp_path / "r" / "config.yaml").write_text(config)
    table = (tmp_path / "r" / "latency.json").read_text()
    (tmp_path / "r" / "latency.json").write_text(table[:200])
    assert "latency.json, which this run's limits were checked against, is damaged" in cli("resume", "r", check=2)
    (tmp_path / "r" / "latency.json").unlink()
    assert "the latency table of r is gone" in cli("resume", "r", check=2)
    (tmp_path / "r" / "latency.json").write_text(table)
    (tmp_path / "r" / "checkpoint" / "seconds.json").write_text("{")  # nothing depends on it
    cli("resume", "r")
    (tmp_path / "r" / "result.json").write_text("{}")
    assert "result.json is not what the run wrote" in cli("resume", "r", check=2)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "asked to stop (SIGTERM)"),
        (signal.SIGHUP, 129, "hung up (SIGHUP)"),
    ],
)
def test_asked_to_stop_while_it_trains(number: int, code: int, said: str, tmp_path: Path) -> None:
    """The weights are saved at the next step, within seconds, and one line says how to go on."""
    log = Path("r/events.jsonl")
    process = Command("search", *settings("epochs=500,1,1", "objective=params"), "--limit", "params<=200k", "--out", "r")
    while "epoch" not in (log.read_text() if log.exists() else "") and process.running:
        time.sleep(0.02)
    process.send(number)
    ended, _, shown = process.ended()
    assert ended == code
    assert shown == f"{said}: go on with `hiernas resume r`; what was saved is not done again\n"
    saved = RunFolder.open("r").load_tensors("train1")
    assert saved is not None
    assert saved[1]["epoch"] + saved[1]["step"] > 0


def test_one_line_for_a_job_that_is_queued_again(few: str) -> None:
    asked = ["search", "random-search", "--data", few, *settings("objective=params"), "--limit", "params<=200k"]
    asked += ["--out", "r", "--continue"]
    process = Command(*asked)
    while not Path("r/events.jsonl").exists() and process.running:
        time.sleep(0.02)
    process.kill()
    gone = "r is not finished, and no process is at it any more: it was stopped or killed, or it failed; go on with"
    assert f"{gone} `hiernas resume r`" in cli("watch", "r", check=2)
    other = "r was asked for seed as always, and now it is 3; go on with `hiernas resume r`"
    assert other in cli(*asked, "--seed", "3", check=2)
    assert "everything is in r" in cli(*asked)
    result = Path("r/result.json").read_bytes()
    assert cli("watch", "r").splitlines() == cli(*asked).splitlines()  # it had finished
    assert Path("r/result.json").read_bytes() == result
    assert "already holds a run" in cli(*asked[:-1], check=2)
    assert "--continue needs the run's folder" in cli("search", "--continue", check=2)


def test_a_reader_that_leaves_does_not_end_a_run(few: str) -> None:
    command = [sys.executable, "-c", QUICKLY, "search", "random", "--set", "final_epochs=1", "--out", "r", "--data", few]
    command += ["--limit", "params<=200k"]
    with Path("errors").open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"run folder r")
        process.stdout.close()
        assert process.wait(timeout=120) == 0
    assert Path("errors").read_bytes() == b""
    assert Path("r/report.html").exists()


def test_lists() -> None:
    assert "1.55×10²⁷" in cli("list", "spaces")
    assert "hnas" in cli("list", "methods")
    assert "onnxruntime" in cli("list", "runtimes")
    assert "train.batch_size" in cli("list", "presets")
    kinds = [line.split()[0] for line in cli("list").splitlines()[1:]]
    assert {"methods", "spaces", "networks", "recipes", "data", "runtimes", "presets", "runs"} <= set(kinds)
    assert cli("search", "-h") == cli("search", "--help")


def test_names_of_any_kind_reach_neither_terminal_nor_page_raw(tmp_path: Path) -> None:
    """Classes whose names steer a terminal, are no UTF-8 or very long, from the folder to the report, the files and resume."""
    names = [b"\x1b[31mred", b"two\nlines", b"caf\xe9", b"<b>&$x'\"", b"n" * 255]  # the longest
    images(tmp_path / "mine")
    for child, name in zip(sorted((tmp_path / "mine").iterdir()), names, strict=False):
        child.rename(tmp_path / "mine" / os.fsdecode(name))
    for i, name in enumerate(names[3:]):
        shutil.copytree(next((tmp_path / "mine").iterdir()), tmp_path / "mine" / os.fsdecode(name))
        for path in (tmp_path / "mine" / os.fsdecode(name)).iterdir():
            Image.fromarray(np.random.default_rng([i, *path.name.encode()]).integers(0, 255, (12, 12, 3), np.uint8)).save(path)
    more = ["--data", "mine", "--limit", "params<=200k", "--set", "train.batch_size=16", "--set", "final_epochs=1"]
    run = tmp_path / "r\x1b[2J<i>"
    shown = cli("search", "random", *more, "--out", str(run))
    (run / "result.json").unlink()
    shown += cli("resume", str(run)) + cli("report", str(run)) + cli("check", "random", *more)
    page = (run / "report.html").read_text()
    for text in (shown, page):
        assert "\x1b" not in text
    assert "<b>&$x" not in page
    assert "caf\\udce9" in page
    classes = json.loads((run / "result.json").read_text())["data"]["classes"]
    assert sorted(map(os.fsencode, classes)) == sorted(names)
    metadata = onnxruntime.InferenceSession(str(run / "best.onnx")).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == classes

"""Networks on the hub: huggingface_hub itself, against a stand-in of the hub's HTTP surface (`hubserver`)."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner

import hiernas
from hiernas.api import SearchResult
from hiernas.cli import app
from hiernas.data.sources import pictures
from hiernas.errors import HiernasError, RunError
from hiernas.latency import runtimes
from hiernas.methods.hnas import QUICK
from hiernas.run.hub import fetched, md, push
from hiernas.run.settings import with_settings
from hubserver import Hub, Repository, serving
from processes import Command, Forked, script
from test_use import COLOURS, SETTINGS, write

SENT = {"README.md", "SHA256SUMS", "best.json", "best.onnx", "best.safetensors", "config.yaml", "report.html", "result.json"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders below a folder with somebody's name, one picture damaged, so that the run's notes name a file."""
    path = tmp_path_factory.mktemp("data") / "jane-doe" / "photos"
    write(path / "train", 14, 0)
    write(path / "test", 7, 1)
    (path / "train" / "red" / "bad.png").write_text("no picture")
    return path


@pytest.fixture(scope="module")
def found(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    out = tmp_path_factory.mktemp("found") / "r"
    settings = [*(s for s in SETTINGS if "final_epochs" not in s), "final_epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "_by_dynamo", runtimes._by_tracing)
        config = with_settings(QUICK, settings)
        result = hiernas.hnas("tiny", str(photos), ["params<=200k"], config, out=out, skip_bad_images=True)
    assert result.result["tested"]["worst"]
    assert "jane-doe" in str(result.result["data"]["notes"])
    return result


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving() as there:
        monkeypatch.setattr(constants, "ENDPOINT", there.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", there.url + "/{repo_id}/resolve/{revision}/{filename}")
        for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"):  # large files by LFS: Xet has no stand-in
            monkeypatch.setattr(constants, name, True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        fresh(monkeypatch, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", "hf_jo")
        yield there


def fresh(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def quietly(_: str) -> None:
    """Says nothing."""


def test_a_network_comes_back_as_it_went(found: SearchResult, photos: Path, hub: Hub, tmp_path: Path) -> None:
    """By the commands, in processes of their own, with a fresh cache; probabilities to the bit."""
    there = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    there |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HOME": str(tmp_path / "home")}

    def run(do: Callable[..., Forked], *words: object, **more: str) -> str:
        with mock.patch.dict(os.environ, {**there, **more}, clear=True):
            code, said, mistakes = do(*map(str, words)).ended()
        assert (code, mistakes) == (0, ""), mistakes
        return said

    run(partial(Forked, script), "import sys; assert 'huggingface_hub' not in sys.modules")  # it reads its environment once
    writer = {"HF_TOKEN": "hf_jo", "HF_HOME": str(tmp_path / "a")}
    said = run(Command, "push", found.run_folder, "--to", "hf:jo/colours", **writer)
    before, _, after = said.partition("hf:jo/colours is public\nsent: ")
    assert all(f"{name} (" in before for name in SENT)
    assert "no image is among them" in before
    assert after.strip() == f"{hub.url}/jo/colours"
    assert set(hub.repositories["jo/colours"].files) == SENT | {".gitattributes"}
    code = f"""
import hiernas
from hiernas.data.sources import pictures
for name, row in hiernas.load("hf:jo/colours").probabilities(pictures({str(photos / "test")!r})):
    print(name, *map(float.hex, row.tolist()))
"""
    shown = run(partial(Forked, script), code, HF_HOME=str(tmp_path / "b"))
    local = found.load().probabilities(pictures(photos / "test"))
    expected = [" ".join([name, *map(float.hex, row.tolist())]) for name, row in local if not isinstance(row, str)]
    assert shown.splitlines() == expected
    assert len(expected) == 21
    asked, picture = len(hub.asked), photos / "test" / "red" / "03.png"
    again = {"HF_HOME": str(tmp_path / "b"), "HF_HUB_OFFLINE": "1"}  # what was loaded once needs no hub
    (seen,) = found.load().predict(picture)
    shown = run(Command, "predict", "hf:jo/colours", picture, "--csv", "-", **again)
    assert shown.splitlines()[1] == f"{picture},{seen.label},{seen.probability:.4f}"
    assert len(hub.asked) == asked


def test_nothing_private_goes_there(found: SearchResult, photos: Path, hub: Hub, tmp_path: Path) -> None:
    """No path, no name of a person, machine or file, no picture; but the pictures where they are asked for."""
    run = Path(shutil.copytree(found.run_folder, tmp_path / "john-roe" / "r"))
    planted = json.loads((run / "result.json").read_text())
    planted["doubts"] = [f"see '{photos}/train/red/bad.png' and C:\\Users\\jane-doe\\x.png, or 3/4 of https://x.org/a/b"]
    (run / "result.json").write_text(json.dumps(planted))
    (run / "SHA256SUMS").write_text("")
    push(run, "hf:jo/x", say=quietly)
    files = hub.repositories["jo/x"].files
    secret = [str(photos), str(run), str(Path.home()), os.getcwd(), "jane-doe", "john-roe", "bad.png' is", str(tmp_path)]
    secret += [name for name in (getpass.getuser(), platform.node()) if len(name) > 5]
    secret += [each["png"] for each in planted["tested"]["worst"]]
    names = {name: [text for text in secret if text.encode() in data] for name, data in files.items()}
    assert not {name: leaks for name, leaks in names.items() if leaks}
    assert json.loads(files["result.json"])["doubts"] == ["see 'bad.png' and x.png, or 3/4 of https://x.org/a/b"]
    assert b"<img" not in files["report.html"]
    assert yaml.safe_load(files["config.yaml"])["data"]["source"] is None
    push(run, "hf:jo/x", with_images=True, say=quietly)
    files = hub.repositories["jo/x"].files
    assert files["report.html"].count(b"data:image/png;base64,") == len(planted["tested"]["worst"])
    assert json.loads(files["result.json"])["tested"] == planted["tested"]


def test_the_card_is_of_the_hubs_form_and_says_what_the_run_found(found: SearchResult, hub: Hub, tmp_path: Path) -> None:
    push(found.run_folder, "hf:jo/colours", license="mit", dry_run=tmp_path / "d", say=quietly)
    read, result = ModelCard.load(tmp_path / "d" / "README.md"), found.result
    (value,) = read.data.eval_results
    assert (value.metric_type, value.metric_value) == ("accuracy", found.test_accuracy)
    assert (value.dataset_name, value.dataset_split, read.data.model_name) == ("photos", "test", "colours")
    assert (read.data.license, read.data.pipeline_tag, read.data.library_name) == ("mit", "image-classification", "hiernas")
    read.validate()  # by the stand-in
    text = read.text.replace("\N{NO-BREAK SPACE}", " ")
    for doubt in result["doubts"]:
        assert str(md(doubt)) in text
    assert f"Right on {100 * found.test_accuracy:.2f} % of 21 test images (95 % interval " in text
    assert f"naming the largest class every time would be right on {100 / 3:.2f} %" in text
    assert "[arXiv 2005.07564v1](https://arxiv.org/abs/2005.07564v1)" in text
    facts = onnxruntime.InferenceSession(tmp_path / "d" / "best.onnx").get_modelmeta().custom_metadata_map
    for key, words in (("mean", "lose {}"), ("std", "divided by {}, channel")):
        assert words.format(", ".join(str(round(v, 6)) for v in json.loads(facts[key]))) in text
    assert "Outputs, in this order: blue, green, red." in text
    assert "| params | params &lt;= 200k |" in text
    assert "license" not in yaml.safe_load(ModelCard.load(_dry(found, tmp_path / "e") / "README.md").data.to_yaml())
    assert not hub.store


def _dry(found: SearchResult, at: Path) -> Path:
    push(found.run_folder, "hf:jo/colours", dry_run=at, say=quietly)
    return at


def test_what_the_card_says_to_do_is_done(
    found: SearchResult, photos: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    push(found.run_folder, "hf:jo/colours", say=quietly)
    for name, data in hub.repositories["jo/colours"].files.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "test" / "red" / "03.png", "picture.png")
    by_hiernas, by_onnx = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    (seen,) = found.load().predict("picture.png")
    capsys.readouterr()
    exec(by_onnx, {})
    assert capsys.readouterr().out.strip() == seen.label
    exec(by_hiernas, {})
    assert capsys.readouterr().out.strip() == str([seen])
    commands = [line.split() for line in re.findall(r"^hiernas .*$", (tmp_path / "README.md").read_text(), re.MULTILINE)]
    assert [words[1] for words in commands] == ["predict", "evaluate", "export"]
    assert seen.label in command(*commands[0][1:])
    shown = command(*commands[1][1:-1], photos, "--skip-bad-images")
    assert f"accuracy {found.test_accuracy:.2%}" in shown
    assert "21 test images" in shown
    command(*commands[2][1:4], "pt2", "--out", "network.pt2")
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, *found.load().input_size), dtype=np.uint8))
    network = found.load()
    x = (pixels / 255 - torch.tensor(network.mean)[:, None, None]) / torch.tensor(network.std)[:, None, None]
    with torch.no_grad():
        assert torch.allclose(torch.export.load("network.pt2").module()(x), network(pixels), atol=1e-5)
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], capture_output=True, check=False).returncode == 0


def command(*words: object) -> str:
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_names_of_classes_do_nothing_in_the_card() -> None:
    name = "a|b`c*_[x](y) <img src=1> ~z\\ \x1b[31m\u202e"
    assert str(md(name)) == "a\\|b\\`c\\*\\_\\[x\\](y) &lt;img src=1&gt; \\~z\\\\ \\\\x1b\\[31m\\\\u202e"


def test_revisions_private_ones_and_what_is_there(
    found: SearchResult, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    push(found.run_folder, "hf:jo/x", private=True, say=said.append)
    assert hub.repositories["jo/x"].private
    assert said[-2] == "hf:jo/x is private"
    repository, first = hub.repositories["jo/x"], hub.repositories["jo/x"].names["main"]
    repository.names["v1"] = first
    repository.commit({"best.safetensors": b"another"})
    for revision in (first, "v1"):
        assert hiernas.load(f"hf:jo/x@{revision}").classes == tuple(COLOURS)
    with pytest.raises(RunError, match=r"hf:jo/x was damaged or edited: its best\.safetensors is not what its SHA"):
        hiernas.load("hf:jo/x")
    with pytest.raises(RunError, match="hf:jo/x@v2 has no such revision; name a branch, a tag or a commit"):
        hiernas.load("hf:jo/x@v2")
    push(found.run_folder, "hf:jo/x", say=quietly)
    assert hiernas.load("hf:jo/x").classes == tuple(COLOURS)
    monkeypatch.delenv("HF_TOKEN")
    fresh(monkeypatch, tmp_path / "other")
    with pytest.raises(RunError, match="there is no hf:jo/x, or it is not open to you; check the name, or log in"):
        hiernas.load("hf:jo/x")


def test_a_cache_that_was_damaged(found: SearchResult, hub: Hub) -> None:
    push(found.run_folder, "hf:jo/x", say=quietly)
    file = fetched("hf:jo/x") / "best.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.resolve().write_bytes(data)
    with pytest.raises(RunError, match=r"best\.safetensors is not what its SHA256SUMS says; delete .*models--jo--x to load"):
        hiernas.load("hf:jo/x")


def test_an_upload_that_is_cut_off_leaves_nothing_and_goes_on(found: SearchResult, hub: Hub) -> None:
    hub.cut = "POST .*/commit/main"
    with pytest.raises(RunError, match=r"cannot be reached \(.*\); check the network, and give the command again"):
        push(found.run_folder, "hf:jo/x", say=quietly)
    assert set(hub.repositories["jo/x"].files) == {".gitattributes"}
    assert sum(each.startswith("PUT") for each in hub.asked) == 2
    with pytest.raises(RunError, match=r"hf:jo/x holds no network of HierNAS: it has no best\.json; name one that"):
        hiernas.load("hf:jo/x")
    hub.cut = ""
    push(found.run_folder, "hf:jo/x", say=quietly)
    assert sum(each.startswith("PUT") for each in hub.asked) == 2
    assert len(hub.repositories["jo/x"].commits) == 2  # that of its making, and ours
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in hub.repositories["jo/x"].files.items()}
    assert sums["best.safetensors"] == hashlib.sha256((found.run_folder / "best.safetensors").read_bytes()).hexdigest()


def test_a_download_that_is_cut_off(found: SearchResult, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    push(found.run_folder, "hf:jo/x", say=quietly)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library tries again, after a while
    hub.cut = "GET /store/"
    with pytest.raises(RunError, match=r"hf:jo/x cannot be reached \(.*\); check the network; what was loaded once is there"):
        hiernas.load("hf:jo/x")
    hub.cut = ""
    assert hiernas.load("hf:jo/x").classes == tuple(COLOURS)


def test_what_cannot_be_pushed_or_loaded(
    found: SearchResult, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, there = found.run_folder, hub.repositories

    def refused(words: str, *arguments: object) -> None:
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert isinstance(done.exception, HiernasError), done.exception
        assert done.exception.exit_code == 2
        assert re.search(words, str(done.exception)), str(done.exception)
        assert "\n" not in str(done.exception)

    there["jo/other"] = Repository(False)
    there["jo/other"].commit({"pytorch_model.bin": b"x", "README.md": b"# mine"})
    refused(r"hf:jo/other holds something else \(pytorch_model.bin\); name another", "push", run, "--to", "hf:jo/other")
    refused("hf:jo/other holds no network of HierNAS: it has no best.json", "predict", "hf:jo/other", tmp_path)
    assert set(there["jo/other"].files) == {"pytorch_model.bin", "README.md"}
    there["jo/public"] = Repository(False)
    there["jo/public"].commit({".gitattributes": b""})
    refused("hf:jo/public is there already and public; make it private", "push", run, "--to", "hf:jo/public", "--private")
    assert set(there["jo/public"].files) == {".gitattributes"}
    refused("the hub does not accept the token, or not for this", "push", run, "--to", "hf:ann/x")
    refused(r'is not taken by the hub: .*"license" must be one of', "push", run, "--to", "hf:jo/x", "--license", "mine")
    refused("'jo/x' is no network of the hub; write hf:USER/NAME", "push", run, "--to", "jo/x")
    refused("is no network of the hub; write hf:USER/NAME", "predict", "hf:jo", tmp_path)
    refused("is not taken by the hub: ", "predict", "hf:jo/a--b", tmp_path)
    refused("a network is put on the main branch; leave @v1 out", "push", run, "--to", "hf:jo/x@v1")
    refused("there is no hf:jo/none, or it is not open to you; check the name", "evaluate", "hf:jo/none")
    refused("is no run folder|does not exist|is not a run folder", "push", tmp_path, "--to", "hf:jo/x")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").touch()
    refused("--dry-run .*d is not empty; name a new folder", "push", run, "--to", "hf:jo/x", "--dry-run", tmp_path / "d")
    push(run, "hf:jo/y", say=quietly)
    refused("lies in the hub's cache; name the file to write with --out", "export", "hf:jo/y", "--to", "pt2")
    refused("does not say where its images are .*; give them with data=... or --data", "evaluate", "hf:jo/y")
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    (copied / "best.onnx").unlink()
    refused(r"best\.onnx is gone; `hiernas resume .*` writes it again", "push", copied, "--to", "hf:jo/x")
    (copied / "best.onnx").write_bytes(b"x")
    refused(r"best\.onnx is not what the run wrote", "push", copied, "--to", "hf:jo/x")
    (copied / "result.json").unlink()
    refused("is not finished; go on with `hiernas resume", "push", copied, "--to", "hf:jo/x")
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    refused("the hub does not accept the token", "push", run, "--to", "hf:jo/x")
    monkeypatch.delenv("HF_TOKEN")
    refused("there is no token to write with; get one by `hf auth login`, or set HF_TOKEN", "push", run, "--to", "hf:jo/x")
    monkeypatch.setenv("HF_TOKEN", "hf_jo")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(r"hf:jo/x cannot be reached \(.*\); check the network, and give the command again", "push", run, "--to", "hf:jo/x")
    refused(r"hf:jo/z cannot be reached \(.*\); check the network", "predict", "hf:jo/z", tmp_path)
    assert hiernas.load("hf:jo/y").classes == tuple(COLOURS)  # it was loaded before
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    missing = r"hf:jo/y needs huggingface_hub, which is not installed: pip install 'hiernas\[hub\]'"
    refused(missing, "predict", "hf:jo/y", tmp_path)
    refused(missing, "push", run, "--to", "hf:jo/y")
    command("push", run, "--to", "hf:jo/y", "--dry-run", tmp_path / "e")  # needs neither
    assert {path.name for path in (tmp_path / "e").iterdir()} == SENT
    assert hiernas.load(tmp_path / "e").classes == tuple(COLOURS)

"""A found network in use: `hiernas.load`, `found.load()`, `hiernas predict` and `hiernas evaluate`; and in INT8."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
import shlex
import shutil
import sqlite3
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from sklearn.metrics import confusion_matrix
from typer.main import get_command
from typer.testing import CliRunner

import hiernas
from hiernas.api import SearchResult
from hiernas.cli import app
from hiernas.commands.use import tables
from hiernas.data import ImageData
from hiernas.data.images import small_png
from hiernas.errors import ConfigError, DataError, ExportError, RunError
from hiernas.export import export
from hiernas.latency import runtimes
from hiernas.latency.runtimes import _by_dynamo
from hiernas.methods.hnas import QUICK
from hiernas.report.page import write_report
from hiernas.report.trust import Evaluation
from hiernas.run.folder import RunFolder
from hiernas.run.outcome import _in_int8, _worst
from hiernas.run.request import reload_data
from hiernas.run.settings import with_settings

SETTINGS = [
    "epochs=1,1,1", "lr=0.1,0.1,0.1", "population=4", "generations=2", "final_epochs=3", "calibration_images=24",
    "train.batch_size=12", "train.accelerator=cpu", "objective=params",
]  # fmt: skip
COLOURS = {"blue": (40, 60, 200), "green": (60, 190, 70), "red": (200, 50, 40)}


def write(folder: Path, per_class: int, seed: int) -> list[Path]:
    """Noisy pictures of one colour, of mixed sizes, in class folders."""
    rng, paths = np.random.default_rng(seed), []
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            height, width = rng.integers(14, 22, 2)
            pixels = np.clip(rng.normal(colour, 70, (height, width, 3)), 0, 255).astype(np.uint8)
            paths.append(folder / name / f"{i:02}.png")
            Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("colours")
    write(path / "train", 14, 0)
    write(path / "test", 7, 1)
    return path


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    out = tmp_path_factory.mktemp("found") / "r"
    return hiernas.hnas("tiny", str(folder), ["params<=200k"], with_settings(QUICK, SETTINGS), int8=True, out=out)


def test_what_a_report_says_to_do_can_be_copied(found: SearchResult, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (found.run_folder / "report.html").read_text()
    (code,) = (html.unescape(text) for text in re.findall(r"<pre>\n(import .*?)</pre>", page, re.DOTALL))
    pictures = sorted((folder / "test").rglob("*.png"))[::4]
    for picture in pictures:
        exec(code.replace("picture.png", str(picture)), {})
    assert capsys.readouterr().out.split() == [p.label for p in found.load().predict(pictures)]
    commands = [html.unescape(text) for text in re.findall(r"<code>(hiernas .*?)</code>", page)]
    assert [words.split()[1] for words in commands] == ["predict", "evaluate", "rank", "export", "compare"]
    for words in commands:  # read as typed, without being done
        _, command, *rest = shlex.split(words)
        get_command(app).commands[command].make_context(command, rest)


def by_onnx(run: Path, paths: list[Path], file: str = "best.onnx") -> np.ndarray:
    """Probabilities of pictures by an exported file, read and scaled by Pillow alone: [N, classes]."""
    session = onnxruntime.InferenceSession(run / file, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    mean, std = (np.array(json.loads(facts[k]), dtype=np.float32)[:, None, None] for k in ("mean", "std"))
    _, height, width = json.loads(facts["input_size"])
    rows = []
    for path in paths:
        scaled = ImageOps.fit(Image.open(path).convert("RGB"), (width, height), Image.Resampling.BILINEAR)
        x = (np.asarray(scaled, dtype=np.float32).transpose(2, 0, 1) / 255 - mean) / std
        e = np.exp(session.run(["logits"], {"image": x[None]})[0][0])
        rows.append(e / e.sum())
    return np.array(rows)


def test_predictions_are_those_of_the_exported_file(found: SearchResult, folder: Path) -> None:
    paths = sorted((folder / "test").rglob("*.png"))
    expected, network = by_onnx(found.run_folder, paths), hiernas.load(found.run_folder)
    assert network.classes == tuple(COLOURS)
    assert len({network.classes[i] for i in expected.argmax(1)}) > 1  # so that a wrong order of classes is seen
    opened = [Image.open(p) for p in paths]
    for given in (folder / "test", list(map(str, paths)), opened, [np.array(image) for image in opened]):
        predictions = network.predict(given)
        assert [p.label for p in predictions] == [network.classes[i] for i in expected.argmax(1)]
        assert np.allclose([p.probability for p in predictions], expected.max(1), atol=1e-5)
    alone = found.load().predict(paths[3])
    assert alone == network.predict([paths[3]])
    plain = found.load().network
    trained = load_file(found.run_folder / "best.safetensors")
    assert all(torch.equal(value, trained[name]) for name, value in plain.state_dict().items())


def test_a_batch_of_arrays_and_tensors(found: SearchResult) -> None:
    network = found.load()
    batch = np.random.default_rng(0).integers(0, 256, (3, *network.input_size[1:], 3), dtype=np.uint8)
    tensors = torch.from_numpy(batch).permute(0, 3, 1, 2)
    assert network.predict(batch) == network.predict(tensors) == network.predict(list(tensors.float() / 255))
    with torch.no_grad():
        logits = network(tensors)
    assert [p.label for p in network.predict(batch)] == [network.classes[i] for i in logits.argmax(1)]
    with pytest.raises(DataError, match=r"image 2 has values from .* floats must be in 0\.\.1"):
        network.predict([batch[0], batch[1].astype(np.float32)])
    with pytest.raises(DataError, match=r"image 1 cannot be read \(it has 4 channels, and 3 are needed"):
        network.predict(np.zeros((8, 8, 4), dtype=np.uint8))


def run_command(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_predict_writes_csv(found: SearchResult, folder: Path, tmp_path: Path) -> None:
    paths = sorted((folder / "test").rglob("*.png"))
    expected = by_onnx(found.run_folder, paths)
    weights = shutil.copy(found.run_folder / "best.safetensors", tmp_path / "w.safetensors")
    rows = list(csv.reader(io.StringIO(run_command("predict", weights, folder / "test", "--csv", "-"))))
    assert rows[0] == ["image", "class", "probability"]
    assert [row[:2] for row in rows[1:]] == [[str(p), list(COLOURS)[i]] for p, i in zip(paths, expected.argmax(1), strict=True)]
    assert np.allclose([float(row[2]) for row in rows[1:]], expected.max(1), atol=1e-4)

    (tmp_path / "bad.png").write_text("no picture")
    given = ["predict", found.run_folder, paths[0], tmp_path / "bad.png"]
    with pytest.raises(DataError, match=r"bad\.png cannot be read \(not a picture in a known format\)"):
        run_command(*given)
    run_command(*given, "--skip-bad-images", "--csv", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines() == [",".join(rows[0]), ",".join(rows[1])]


def test_evaluate_counts_what_the_exported_file_says(found: SearchResult, folder: Path) -> None:
    paths = sorted((folder / "test").rglob("*.png"))
    truth, named = [list(COLOURS).index(p.parent.name) for p in paths], by_onnx(found.run_folder, paths).argmax(1)
    matrix = confusion_matrix(truth, named, labels=[0, 1, 2])
    for more in ((), ("--data", folder), ("--data", folder / "test")):
        value = json.loads(run_command("evaluate", found.run_folder, "--json", *more))
        assert value["confusion"] == matrix.tolist()
        assert value["accuracy"] == pytest.approx(found.test_accuracy) == pytest.approx(np.mean(truth == named))
        assert [each["accuracy"] for each in value["classes"].values()] == pytest.approx(list(np.diag(matrix) / 7))
    shown = run_command("evaluate", found.run_folder)
    assert f"accuracy {found.test_accuracy:.2%}, 95 % interval" in shown
    assert "21 test images" in shown


def test_a_run_keeps_what_it_says_of_the_test_images(found: SearchResult, folder: Path) -> None:
    paths = sorted((folder / "test").rglob("*.png"))
    truth, chances = np.array([list(COLOURS).index(p.parent.name) for p in paths]), by_onnx(found.run_folder, paths)
    named = chances.argmax(1)
    kept = Evaluation.read(found.result)
    assert kept is not None
    assert kept.confusion.tolist() == confusion_matrix(truth, named, labels=[0, 1, 2]).tolist()
    wrong = [i for i in range(len(paths)) if named[i] != truth[i]]
    assert len(found.result["tested"]["worst"]) == min(8, len(wrong))


def test_the_surest_mistakes_are_kept_with_their_pictures(digits: ImageData) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(digits.test), 10)).astype(np.float32)
    labels, chances = digits.test.labels.numpy(), np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = sorted(np.flatnonzero(logits.argmax(1) != labels), key=lambda i: -chances[i].max())[:8]
    kept = _worst(digits, torch.from_numpy(logits))
    assert [each["row"] for each in kept] == wrong
    assert [each["probability"] for each in kept] == pytest.approx(chances.max(1)[wrong].tolist())
    assert [(each["class"], each["named"]) for each in kept] == [(str(labels[i]), str(logits[i].argmax())) for i in wrong]
    for each in kept:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(each["png"]))))
        assert (shown == digits.test.images.fetch(torch.tensor([each["row"]]))[0, 0].numpy()).all()
    assert _worst(digits, torch.eye(10)[digits.test.labels]) == []


def test_a_small_picture_has_the_pixels_and_their_order() -> None:
    pixels = torch.randint(256, (3, 6, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    opened = Image.open(io.BytesIO(base64.b64decode(small_png(pixels))))
    assert (np.asarray(opened) == pixels.permute(1, 2, 0).numpy()).all()
    assert Image.open(io.BytesIO(base64.b64decode(small_png(torch.zeros(4, 200, 100, dtype=torch.uint8))))).size == (48, 96)


def test_the_candidates_are_a_table(found: SearchResult) -> None:
    rows = found.table()
    with closing(sqlite3.connect(found.run_folder / "candidates.sqlite")) as db:
        known = dict(db.execute("SELECT phase || options, val_accuracy FROM candidates").fetchall())
    assert {row["phase"] + ",".join(row["options"]): row["val_accuracy"] for row in rows} == known
    assert len(rows) == found.result["evaluated"] == len(known)
    assert {tuple(row["options"]) for row in rows if row["chosen"]} == {found.chosen.options}
    for row in rows[:3]:
        network = found.architecture.skeleton.space().architecture(row["options"]).build()
        assert row["params"] == sum(p.numel() for p in network.parameters())
    (found.run_folder / "candidates.sqlite").rename(found.run_folder / "kept")  # as of a method that evaluates none
    front = found.table()
    (found.run_folder / "kept").replace(found.run_folder / "candidates.sqlite")
    assert [(row["options"], row["params"]) for row in front] == [(list(c.options), c.params) for c in found.front]


def test_a_report_is_opened(found: SearchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda at: not opened.append(at))
    assert run_command("report", found.run_folder, "--open") == f"wrote {found.run_folder / 'report.html'}\n"
    assert opened == [(found.run_folder / "report.html").as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    done = CliRunner().invoke(app, ["report", str(found.run_folder), "--open"], catch_exceptions=False)
    assert f"no browser could be started here; open {opened[0]}" in done.stderr


@pytest.mark.parametrize(("words", "expected"), [
    ("hiernas wa", {"watch"}), ("hiernas search hdas-", {"hdas-cells", "hdas-distribution", "hdas-stages"}),
    ("hiernas check --space mn", {"mnasnet"}), ("hiernas list ru", {"runtimes", "runs"}),
])  # fmt: skip
def test_a_shell_completes_names(words: str, expected: set[str]) -> None:
    asked = {"_HIERNAS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = CliRunner().invoke(app, [], prog_name="hiernas", env=asked)
    assert set(done.stdout.split()) == expected


def test_other_images_are_taken_by_the_names_of_their_classes(found: SearchResult, folder: Path, tmp_path: Path) -> None:
    """Fewer classes, so that their numbers differ from the network's; and no image that the run was trained on."""
    shutil.copytree(folder / "test" / "red", tmp_path / "d" / "red")
    value = json.loads(run_command("evaluate", found.run_folder, "--data", tmp_path / "d", "--json"))
    whole = json.loads(run_command("evaluate", found.run_folder, "--json"))
    assert value["confusion"] == [[0, 0, 0], [0, 0, 0], whole["confusion"][2]]
    assert value["classes"]["blue"] == {"images": 0, "accuracy": None}
    (tmp_path / "d" / "red").rename(tmp_path / "d" / "pink")
    with pytest.raises(DataError, match="class 'pink' of 'd' is none of the network's: blue, green, red; give its folder "):
        run_command("evaluate", found.run_folder, "--data", tmp_path / "d")


def test_the_runs_own_folder_without_a_test_split_counts_only_what_was_held_out(tmp_path: Path) -> None:
    write(tmp_path / "d", 12, 3)
    out = tmp_path / "r"
    hiernas.hnas("tiny", str(tmp_path / "d"), ["params<=200k"], with_settings(QUICK, [*SETTINGS, "final_epochs=1"]), out=out)
    (tmp_path / "d").rename(tmp_path / "moved")
    value = json.loads(run_command("evaluate", out, "--data", tmp_path / "moved", "--json"))
    assert value["data"] == "moved, 6 test images, which the run held out"


def test_many_classes_show_the_worst_confusions() -> None:
    matrix = np.eye(30, dtype=np.int64) * 5
    matrix[3, 7], matrix[2, 9] = 4, 2
    first, second = tables(Evaluation(tuple(f"c{i}" for i in range(30)), matrix), "x")
    assert first[1][3] == ["c3", "9", "55.56\N{NO-BREAK SPACE}%"]
    assert second[1] == [["c3", "c7", "4"], ["c2", "c9", "2"]]


def test_what_cannot_be_used_is_said(found: SearchResult, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is nothing at .*none; name a run folder"):
        hiernas.load(tmp_path / "none")
    with pytest.raises(RunError, match="is not a run folder"):
        hiernas.load(tmp_path)
    run = Path(shutil.copytree(found.run_folder, tmp_path / "r"))
    tensors = load_file(run / "best.safetensors")
    with pytest.raises(RunError, match="lies in no run folder, so it has no test images"):
        run_command("evaluate", shutil.copy(run / "best.safetensors", tmp_path / "w.safetensors"))
    (run / "best.safetensors").unlink()
    with pytest.raises(RunError, match=r"best\.safetensors is gone or not trained yet; go on with `hiernas resume"):
        hiernas.load(run)
    header = {"architecture": json.dumps(found.architecture.to_json()), "classes": '["a", "b"]', "std": "[1.0, 1.0, 1.0]",
              "mean": "[0.5, 0.5, 0.5]", "input_size": json.dumps([3, 16, 16])}  # fmt: skip
    for left_out in header:
        save_file(tensors, tmp_path / "w.safetensors", {k: v for k, v in header.items() if k != left_out})
        with pytest.raises(RunError, match=f"does not say its {left_out}"):
            hiernas.load(tmp_path / "w.safetensors")
    save_file(tensors, tmp_path / "w.safetensors", header)
    with pytest.raises(RunError, match="classes, input size and normalisation do not go together"):
        hiernas.load(tmp_path / "w.safetensors")
    save_file(tensors, tmp_path / "w.safetensors", {**header, "mean": '["a"]'})
    with pytest.raises(RunError, match=r"w\.safetensors is damaged: mean\.0: "):
        hiernas.load(tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="there is no file or folder 'none'"):
        found.load().predict("none")
    with pytest.raises(DataError, match="there are no images"):
        found.load().predict([])
    Image.new("RGB", (16, 16)).save(tmp_path / "p.png")
    with pytest.raises(ConfigError, match=r"--csv .*: name a file in a folder that exists"):
        run_command("predict", found.run_folder, tmp_path / "p.png", "--csv", tmp_path / "no" / "p.csv")


# -- INT8 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8(found: SearchResult, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that was exported to INT8, and what was printed."""
    run = Path(shutil.copytree(found.run_folder, tmp_path_factory.mktemp("int8") / "r"))
    return run, run_command("export", run, "--to", "onnx-int8")


def test_int8_tells_what_its_file_does(int8: tuple[Path, str], found: SearchResult, folder: Path) -> None:
    run, shown = int8
    paths, value = sorted((folder / "test").rglob("*.png")), json.loads((run / "int8.json").read_text())
    truth = [list(COLOURS).index(p.parent.name) for p in paths]
    for kind, file in (("fp32", "best.onnx"), ("int8", value["file"])):
        right = np.mean(by_onnx(run, paths, file).argmax(1) == truth)
        assert value[kind]["accuracy"] == pytest.approx(right)
        assert value[kind]["bytes"] == (run / file).stat().st_size
        assert 0 < value[kind]["latency_ms"]["p10"] <= value[kind]["latency_ms"]["median"] <= value[kind]["latency_ms"]["p90"]
        assert f"{100 * right:.2f}\N{NO-BREAK SPACE}%" in shown
    assert value["fp32"]["accuracy"] == pytest.approx(found.test_accuracy)
    assert np.abs(by_onnx(run, paths, value["file"]) - by_onnx(run, paths)).max() < 0.1
    assert f"on {len(paths)} test images" in shown
    ratio = value["fp32"]["latency_ms"]["p10"] / value["int8"]["latency_ms"]["p10"]
    page = (run / "report.html").read_text()
    assert all(f"{ratio:.2f} times as fast" in text for text in (shown, page))
    assert "<h2>In INT8</h2>" in page
    assert value["preprocessing"] is False
    assert all("Both files by ONNX Runtime" in text for text in (shown, page))


def test_a_search_tells_of_int8_where_it_is_asked(found: SearchResult, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, value = found.run_folder, found.result["int8"]
    paths = sorted((folder / "test").rglob("*.png"))
    right = np.mean(by_onnx(run, paths, "best.int8.onnx").argmax(1) == [list(COLOURS).index(p.parent.name) for p in paths])
    assert value == json.loads((run / "int8.json").read_text())
    assert (value["int8"]["accuracy"], value["fp32"]["accuracy"]) == pytest.approx((right, found.test_accuracy))
    assert value["int8"]["bytes"] == (run / "best.int8.onnx").stat().st_size < (run / "best.onnx").stat().st_size
    shown = run_command("resume", run)
    accuracies = "  ".join(f"{100 * a:.2f}\N{NO-BREAK SPACE}%" for a in (found.test_accuracy, right))
    assert re.search(rf"FP32 +INT8 +Change *\nTest accuracy +{accuracies.replace('  ', ' +')}", shown)
    assert all("INT8" not in line for line in found.result["doubts"])
    data, network = reload_data(RunFolder.open(run)), found.load().network
    monkeypatch.setattr("onnxruntime.quantization.quantize_static", lambda *_, **__: 1 / 0)
    reason = "there is no network in INT8: ONNX Runtime cannot quantise this network: division by zero"
    assert _in_int8(RunFolder.open(run), data, network) == ({}, [reason])  # a search ends all the same


@pytest.mark.parametrize("to", ["onnx", "onnx-int8"])
def test_a_file_with_its_preprocessing_takes_pictures_as_they_are(
    int8: tuple[Path, str], found: SearchResult, folder: Path, to: str
) -> None:
    run, _ = int8
    with mock.patch.object(runtimes, "_by_dynamo", _by_dynamo) if to == "onnx" else nullcontext():  # as users have it
        shown = run_command("export", run, "--to", to, "--with-preprocessing")
    file = run / {"onnx": "best.pixels.onnx", "onnx-int8": "best.pixels.int8.onnx"}[to]
    assert file.name in "".join(shown.split())  # a long path is broken over lines
    if to == "onnx-int8":  # whose numbers RUN/int8.json and the page now have
        assert json.loads((run / "int8.json").read_text())["preprocessing"] is True
        page = (run / "report.html").read_text()
        assert all("Both files, with their preprocessing, by ONNX Runtime" in text for text in (shown, page))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (asked,) = session.get_inputs()
    _, height, width = found.load().input_size
    assert (asked.name, asked.type, asked.shape[1:]) == ("pixels", "tensor(uint8)", [height, width, 3])
    path = sorted((folder / "test").rglob("*.png"))[0]
    with Image.open(path) as image:
        picture = ImageOps.fit(image, (width, height))  # already of the network's size: nothing is normalised here
    logits = session.run(None, {"pixels": np.asarray(picture)[None].repeat(3, 0)})[0]
    expected = found.load()(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None]).detach().numpy()
    assert np.abs(logits - expected).max() < (1e-4 if to == "onnx" else 0.1)
    assert session.get_modelmeta().custom_metadata_map["preprocessing"] == '"included"'


def test_preprocessing_is_refused_where_there_is_none(found: SearchResult, tmp_path: Path) -> None:
    for to in ("python", "litert", "executorch"):
        with pytest.raises(ConfigError, match=rf"a file for {to} takes normalised images only; preprocessing goes into onnx, "):
            run_command("export", found.run_folder, "--to", to, "--with-preprocessing")
    tensors = load_file(found.run_folder / "best.safetensors")
    shutil.copy(found.run_folder / "best.json", tmp_path / "mine.json")
    save_file(tensors, tmp_path / "mine.safetensors")
    with pytest.raises(ConfigError, match="the weights do not say their mean and std"):
        run_command("export", tmp_path / "mine.json", "--with-preprocessing")


def test_int8_weights_are_of_8_bits_with_a_scale_per_channel(int8: tuple[Path, str], folder: Path) -> None:
    run, _ = int8
    graph = onnx.load(run / "best.int8.onnx").graph
    held = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    weights = [[held[name] for name in made_by[layer.input[1]].input[:2]] for layer in layers]
    assert {weight.dtype for weight, _ in weights} == {np.dtype(np.int8)}
    assert all(scale.shape in ((len(weight),), (weight.shape[-1],)) for weight, scale in weights)
    assert max(value.size for value in held.values() if value.dtype == np.float32) <= max(len(w) for w, _ in weights)

    modules = list(hiernas.load(run).network.modules())  # the first convolution, its batch norm folded by hand
    conv, norm = (next(m for m in modules if isinstance(m, kind)) for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d))
    folded = conv.weight * (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
    scale = weights[0][1][:, None, None, None]
    assert np.all(np.abs(weights[0][0] * scale - folded.detach().numpy()) <= 0.51 * scale)

    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
    covered = float(held[first.input[1]]) * 255  # by the input's scale: what training images span once they are normalised
    facts = onnxruntime.InferenceSession(run / "best.onnx").get_modelmeta().custom_metadata_map
    mean, std = (np.array(json.loads(facts[k])) for k in ("mean", "std"))
    span = ((1 - mean) / std).max() - (-mean / std).min()
    assert 0.9 * span <= covered <= 1.001 * span


def test_int8_files_that_are_gone_or_edited(int8: tuple[Path, str], tmp_path: Path) -> None:
    run = Path(shutil.copytree(int8[0], tmp_path / "r"))
    (run / "best.int8.onnx").unlink()
    assert RunFolder.open(run).missing() == []  # so that `resume` does nothing about it
    (run / "int8.json").write_text("{")
    with pytest.raises(RunError, match=r"int8\.json is not what the run wrote .*, and `hiernas export .*r --to onnx-int8` w"):
        run_command("report", run)
    (run / "SHA256SUMS").unlink()  # then its content alone can tell
    with pytest.raises(RunError, match=r"int8\.json is damaged .*delete it, and `hiernas export .*r --to onnx-int8` writes it"):
        write_report(RunFolder(run, {}))


def test_int8_is_refused(int8: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, file = int8[0], tmp_path / "x.onnx"
    with pytest.raises(ConfigError, match=r"training images of a run, and .*best\.json is none; name a run folder"):
        run_command("export", run / "best.json", "--to", "onnx-int8")
    with pytest.raises(ConfigError, match="it is a folder; name a file"):
        run_command("export", run, "--to", "onnx-int8", "--out", tmp_path)
    with pytest.raises(ConfigError, match="an INT8 file needs images to find its scales on"):
        export(hiernas.load(run).network, torch.zeros(2, 3, 16, 16), file, "onnx-int8")
    with monkeypatch.context() as patch:
        patch.setattr("onnxruntime.quantization.quantize_static", lambda *_, **__: 1 / 0)
        with pytest.raises(ExportError, match="ONNX Runtime cannot quantise this network: division by zero"):
            run_command("export", run, "--to", "onnx-int8", "--out", file)
    assert not file.exists()
    for name in [n for n in sys.modules if n.startswith(("onnxruntime.quantization", "onnxruntime.tools.symbolic"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sympy", None)  # of which ONNX Runtime's symbolic shapes are made
    run_command("export", run, "--to", "onnx-int8", "--out", file)
    assert file.exists()

"""What a search needs before it starts, and what is refused before it holds memory or threads."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import hiernas
from hiernas.commands import CostOptions
from hiernas.commands.check import estimate
from hiernas.commands.cost import cost
from hiernas.costs import MEMORY
from hiernas.data import ImageData, load_data
from hiernas.errors import LatencyError, LimitError, RunError
from hiernas.latency import Entry, LatencyTable
from hiernas.latency.measure import Plan, identity, plan_of
from hiernas.latency.runtimes import Runtime
from hiernas.methods import METHODS
from hiernas.report.page import summary
from hiernas.run import request as run_module
from hiernas.run.folder import RunFolder
from hiernas.run.request import OPTIONS, Prepared, Request, prepare, read_data, reload_data, restore
from hiernas.run.search import Pace, largest_step, resume, search
from hiernas.run.settings import with_settings
from hiernas.spaces import Stage, chain_space
from hiernas.train.evaluate import evaluation_bytes, kept_bytes

SIZE, CLASSES = (1, 8, 8), 3
OPS = (hiernas.MBConv(3, 1), hiernas.MBConv(3, 2), hiernas.MBConv(5, 2))
SPACE = chain_space("little", SIZE, CLASSES, stem=8, stem_stride=2, stages=(Stage(8, 2, 1, OPS, skip=True),), head=16)
LITTLE = [
    "epochs=1,1", "lr=0.1,0.1", "stages=3", "population=4", "generations=1", "final_epochs=1", "calibration_images=24",
    "train.batch_size=24", "train.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def few() -> ImageData:
    """120 images whose class is how bright they are."""
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, SIZE) + 80 * (i % CLASSES)).astype(np.uint8) for i in range(120)]
    return load_data([(torch.from_numpy(x), i % CLASSES) for i, x in enumerate(pixels)])


def config(*more: str) -> Any:
    return with_settings(METHODS["hnas"].presets["quick"], [*LITTLE, *more])


class Measured(Exception):
    """A latency table was about to be measured."""


def refuse(*_: object) -> None:
    raise Measured


@pytest.mark.parametrize(
    ("method", "space", "limits", "settings", "needed"),
    [
        ("hnas", None, ["params<=100k"], [], False),
        ("hnas", None, ["params<=100k"], ["objective=latency_ms"], True),
        ("spos", None, ["macs<=3M"], [], False),
        ("hnas", None, ["macs<=3M", "latency_ms<=100"], ["objective=macs"], True),
        ("hnas", None, [], [], True),  # the limit is then the median latency
        ("hnas", None, [], ["objective=params"], False),
        ("hournas", None, ["params<=100k"], [], False),
        ("hournas", None, ["latency_ms<=100"], [], True),
        ("hournas", None, [], [], True),
        ("darts", None, [], [], False),
        ("hmnas", "tiny", ["params<=100k"], [], False),
        ("hdas-cells", None, ["latency_ms<=100"], [], True),
    ],
)
def test_a_latency_table_is_measured_where_the_search_goes_by_it(
    method: str, space: str | None, limits: list[str], settings: list[str], needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "measure_table", refuse)
    chosen = with_settings(METHODS[method].presets["quick"], settings)
    request = Request(method, space, {}, "digits", limits, config=chosen)
    if needed:
        with pytest.raises(Measured):
            prepare(request)
    else:
        assert prepare(request).latency is None


@pytest.mark.parametrize("method", ["hnas", "hournas"])
def test_what_is_limited_is_the_objective(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "measure_table", refuse)
    assert prepare(Request(method, limits=["macs<=3M", "params<=200k"])).config.objective == "macs"
    asked = with_settings(METHODS[method].presets["quick"], ["objective=params"])
    assert prepare(Request(method, limits=["macs<=3M"], config=asked)).config.objective == "params"


def test_an_impossible_limit_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "measure_table", refuse)
    with pytest.raises(LimitError, match="no architecture of 'tiny' meets params"):
        prepare(Request(limits=["latency_ms<=5", "params<=1"]))


def test_a_search_is_read_as_it_was_written(tmp_path: Path) -> None:
    limits, sizes = ["50k<=params<=200k", "macs<=3M", "latency_ms<=100"], {"val_per_class": 20, "seed": 3}
    made_up(hiernas.spaces.tiny(), Runtime()).save(tmp_path / "t.json")
    table = tmp_path / "t.json"
    prepared = prepare(Request("hnas", "tiny", limits=limits, latency_table=table, settings=["stages=3"], **sizes))
    few = prepared.space.restrict({"stage1.block2": ["k3_e3", "skip"]})
    prepared = replace(prepared, space=few, doubts=("one", "two"))
    run = RunFolder.create(tmp_path / "r", prepared.to_dict())
    run.close()
    opened = RunFolder.open(run.path)
    again = restore(opened)
    different = {f.name for f in fields(Prepared) if f.name != "data" and getattr(again, f.name) != getattr(prepared, f.name)}
    assert not different
    assert [s.labels.tolist() for s in (again.data.train, again.data.val)] == [
        s.labels.tolist() for s in (prepared.data.train, prepared.data.val)
    ]
    assert {"format": 1, **again.to_dict()} == opened.config
    del opened.config["data"]["val_per_class"]
    with pytest.raises(RunError, match=r"config.yaml is damaged \('val_per_class' is missing or unknown\)"):
        reload_data(opened)


def test_a_search_without_latencies_from_beginning_to_end(few: ImageData, tmp_path: Path) -> None:
    request = Request("hnas", SPACE, {}, few, ["params<=4k"], config=config("objective=params"))
    prepared = prepare(request)
    assert set(estimate(prepared, largest_step(prepared), Pace({}, 0.0))["costs"]) == {"params", "macs", *MEMORY}
    run = search(request, tmp_path / "r")
    assert not list(run.path.glob("latency*"))
    result = json.loads((run.path / "result.json").read_text())
    for member in (*result["front"], result["chosen"]):
        assert member["latency_ms"]["predicted"] is None
        assert member["latency_ms"]["measured"] > 0
    assert result["latency_error"] is None
    runtime = Runtime()
    assert result["device"] == {
        "device": runtime.device, "runtime": "onnxruntime", "version": runtime.version, "threads": 1, "batch": 1
    }  # fmt: skip
    lines, rows = summary(result)
    assert rows[0][:3] == ["latency", "–", "–"]
    assert "ms" in rows[0][3]
    assert not [line for line in lines if "cannot be measured" in line]
    assert "Latency" in (run.path / "report.html").read_text()
    (run.path / "result.json").unlink()
    resumed = resume(run.path, space=SPACE, data=few)
    again = json.loads((resumed.path / "result.json").read_text())
    assert [m["options"] for m in again["front"]] == [m["options"] for m in result["front"]]
    assert again["chosen"]["latency_ms"] == result["chosen"]["latency_ms"]


def table(path: Path, runtime: str, threads: int) -> Path:
    entries = {o.key: Entry(0.02, 0.02, 0.02, 9) for o in plan_of(SPACE, with_edges=True).operations}
    LatencyTable("another device", runtime, "1", threads, 1, 0.01, entries).save(path)
    return path


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"runtime": "onnxruntime"}, "runtime 'openvino', but 'onnxruntime' is asked for; name another table"),
        ({"runtime": "openvino", "threads": 1}, "threads '2', but '1' is asked for; name another table"),
    ],
)
def test_a_table_and_a_runtime_that_disagree(asked: dict[str, Any], message: str, few: ImageData, tmp_path: Path) -> None:
    file = table(tmp_path / "t.json", "openvino", 2)
    with pytest.raises(LatencyError, match=f"t.json was measured with {message}"):
        prepare(Request("hnas", SPACE, {}, few, config=config(), latency_table=file, **asked))
    with pytest.raises(LatencyError, match=message):
        cost(CostOptions(source="mobilenetv2", latency_table=file, **asked), print)
    agreeing = prepare(Request("hnas", SPACE, {}, few, config=config(), latency_table=file, runtime="openvino", threads=2))
    assert agreeing.latency.threads == 2


def test_a_table_says_its_runtime_where_none_is_asked_for(few: ImageData, tmp_path: Path) -> None:
    file = table(tmp_path / "t.json", "openvino", 2)
    stopped: list[str] = []

    def stop(record: Any) -> None:
        stopped.append(record["event"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(Request("hnas", SPACE, {}, few, config=config(), latency_table=file), tmp_path / "r", stop)
    assert stopped
    written = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert (written["runtime"], written["threads"]) == ("openvino", 2)
    resumed = resume(tmp_path / "r", space=SPACE, data=few)
    chosen = json.loads((resumed.path / "result.json").read_text())["chosen"]
    assert chosen["latency_ms"]["measured"] is None  # another device
    assert chosen["latency_ms"]["predicted"] > 0


def test_check_foretells_what_evaluating_measuring_and_pixels_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [Image.fromarray(np.full((40, 64, 3), 10 * i, dtype=np.uint8)) for i in range(24)]
    for i, picture in enumerate(pictures):
        (tmp_path / "data" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "data" / f"class{i % 2}" / f"{i}.png")
    pairs: Any = [(picture, i % 2) for i, picture in enumerate(pictures)]
    kept, filed = load_data(pairs, image_size=32), load_data(tmp_path / "data", image_size=32)
    chosen = config("train.batch_size=2", "objective=params")

    def foretold(data: ImageData, *limits: str, **more: Any) -> float:
        prepared = prepare(Request("hnas", "tiny", {}, data, limits or ["params<=200k"], config=chosen, **more))
        return estimate(prepared, largest_step(prepared), Pace({}, 0.0))["memory_gib"] * 2**30

    small = foretold(kept)
    space = hiernas.spaces.tiny((3, 32, 32), 2)
    weights = 4 * sum(p.numel() for p in space.supernet().parameters())
    evaluated = weights + 24 * evaluation_bytes(space)  # as many images as batch norm's statistics are of
    evaluated += kept_bytes(space, 24 + len(kept.val))
    assert small == pytest.approx(evaluated + 24 * 3 * 32 * 32)
    assert foretold(filed) == pytest.approx(evaluated)  # pixels in a file take no memory
    # a table of this device is measured first; a given one is not
    monkeypatch.setattr(run_module, "measure_table", lambda space, runtime, *_: made_up(space, runtime))
    monkeypatch.setattr(Plan, "loaded_bytes", lambda plan, threads, batch: 10 * int(small) * threads * batch)
    assert foretold(kept, "latency_ms<=100") == pytest.approx(10 * int(small) + 24 * 3 * 32 * 32)
    made_up(space, Runtime()).save(tmp_path / "t.json")
    assert foretold(kept, "latency_ms<=100", latency_table=tmp_path / "t.json") == pytest.approx(small)


def made_up(space: Any, runtime: Any) -> LatencyTable:
    entries = {o.key: Entry(0.02, 0.02, 0.02, 9) for o in plan_of(space, with_edges=True).operations}
    return LatencyTable(**identity(runtime), raw_overhead_ms=0.01, entries=entries)


def test_a_folder_that_is_named_as_the_embedded_images_is_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    images, source = read_data("digits", **{**dict.fromkeys(OPTIONS), "seed": 0, "skip_bad_images": False})
    assert (len(images.classes), source["source"]) == (10, "digits")

"""The page is parsed as a browser would: its numbers against result.json, its figures, and that nothing is loaded."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import report_runs as runs
from report_runs import Page
from typer.main import get_command

from hiernas.cli import app
from hiernas.commands import SearchOptions
from hiernas.commands.check import request_of
from hiernas.errors import RunError
from hiernas.report.page import write_report
from hiernas.run.folder import RunFolder
from hiernas.run.request import Request
from hiernas.spaces import hnas_large, tiny

PHASES = {"train1": 24, "train2": 10, "train3": 10, "final": 40}


def made(folder: Path, value: dict[str, Any], phases: dict[str, int] | None = None) -> Page:
    return Page(runs.report(runs.write(folder, value, runs.events(PHASES if phases is None else phases))))


@pytest.fixture(scope="module")
def value() -> dict[str, Any]:
    return runs.result(tiny())


@pytest.fixture(scope="module")
def page(value: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return made(tmp_path_factory.mktemp("run"), value)


def test_headline_says_what_was_found(page: Page, value: dict[str, Any]) -> None:
    for said in (
        "98.89 % test accuracy on digits",
        "10 classes, 1×8×8 images) with latency ≤ 0.127 ms",
        "evaluated 412 of the 200,000 architectures of the space tiny",
        "hnas · quick · 2026-11-22 06:01:26",
        f"Latency {value['chosen']['latency_ms']['measured']:.3f} ms measured",
        f"Parameters {value['chosen']['params'] / 1000:.1f} k counted",
    ):
        assert said in page.text


def test_asked_predicted_measured(page: Page, value: dict[str, Any]) -> None:
    chosen = value["chosen"]
    t = chosen["latency_ms"]
    rows = {row[0]: row[1:] for row in page.rows["asked"]}
    assert rows["Accuracy"][1] == f"{100 * chosen['val_accuracy']:.2f} % validation, supernet"
    # Wilson's interval for 356 of 360, computed by hand
    assert rows["Accuracy"][2] == "98.89 % test; 95 % interval 97.2 to 99.6"
    assert rows["Latency"][:2] == ["≤ 0.127 ms", f"{t['predicted']:.3f} ms"]
    assert rows["Latency"][2] == f"{t['measured']:.3f} ms 10–90 %: {t['p10']:.3f} ms to {t['p90']:.3f} ms"
    assert rows["Latency"][3] == "met"
    assert rows["Parameters"] == ["–", f"{chosen['params']:,}", f"{chosen['params']:,} counted", ""]
    assert rows["Multiply-adds"][1] == f"{chosen['macs']:,}"
    assert "off by 4.1 % on average, and 1.0 % too low as a whole, over 9 measured networks" in page.text
    assert "Xeon at 2.5 GHz, onnxruntime 1.31.1, 1 thread, batch 1." in page.text


def test_front_table_holds_every_network(page: Page, value: dict[str, Any]) -> None:
    _, *rows = page.rows["front"]
    assert len(rows) == len(value["front"]) == 7
    for row, member in zip(rows, value["front"], strict=True):
        is_chosen = member["options"] == value["chosen"]["options"]
        t = (value["chosen"] if is_chosen else member)["latency_ms"]
        measured = "–" if t["measured"] is None else f"{t['measured']:.3f} ms"
        accuracy = f"{100 * member['val_accuracy']:.2f} %"
        predicted = f"{t['predicted']:.3f} ms"
        assert row[1:6] == [accuracy, predicted, measured, f"{member['params']:,}", f"{member['macs']:,}"]
        assert row[0].endswith("chosen") == is_chosen
        runs_of = [word.split("×") if "×" in word else ["1", word] for word in row[6].split()]
        assert [option for n, option in runs_of for _ in range(int(n))] == member["options"]


def test_what_the_network_says_of_the_test_images(tmp_path: Path, value: dict[str, Any]) -> None:
    mistake = {"row": 7, "class": "<3>", "named": "5", "probability": 0.9, "png": "iVBORw0KGgo="}
    tested = {"images": [30, 40, 20, *[38] * 7, 4], "confused": [[0, 2, 6], [2, 1, 5], [1, 0, 1]], "worst": [mistake]}
    value = {**value, "data": {**value["data"], "classes": ["<ant>", *map(str, range(1, 11))]}, "tested": tested}
    page = made(tmp_path, value)
    said = "Better than guessing and within the limit. Right on 98.89 % of 360 test images (95 % interval 97.2 to 99.6), where"
    assert f"{said} naming the largest class every time would be right on 11.11 %; latency" in page.text
    assert page.rows["classes"][1:5] == [  # the worst first
        ["2", "20", "75.00 %", ""], ["<ant>", "30", "80.00 %", ""], ["1", "40", "97.50 %", ""], ["3", "38", "100.00 %", ""],
    ]  # fmt: skip
    head, *matrix = page.rows["heat"]
    assert head[1:] == [row[0] for row in matrix] == value["data"]["classes"]
    assert [row[1:4] for row in matrix[:3]] == [["24", "", "6"], ["1", "39", ""], ["", "5", "15"]]
    (picture,) = (a for tag, a in page.attributes if tag == "img")
    assert (picture["src"], picture["alt"]) == ("data:image/png;base64,iVBORw0KGgo=", "Test image 7")
    assert "5 90.00 % is <3>" in page.text

    many = [f"c{i}" for i in range(30)]
    tested = {"images": [12] * 30, "confused": [[3, 7, 4], [2, 9, 2]], "worst": []}
    page = made(tmp_path, {**value, "data": {**value["data"], "classes": many}, "tested": tested})
    assert [row[0] for row in page.rows["classes"][1:4]] == ["c3", "c2", "c0"]
    assert len(page.rows["classes"]) == 10 + 20 + 2  # the others are folded
    assert page.rows["mistakes"][1:] == [["c3", "c7", "4"], ["c2", "c9", "2"]]
    assert "img" not in {tag for tag, _ in page.attributes}

    page = made(tmp_path, {**value, "data": {**value["data"], "classes": many}, "tested": {**tested, "confused": []}})
    assert "None: all 360 test images are named right." in page.text
    assert "The worst classes" not in page.text
    assert "mistakes" not in page.rows


def test_a_run_of_a_study_is_held_against_its_controls(tmp_path: Path, value: dict[str, Any]) -> None:
    for name, seed, accuracy in (("plain", 0, 0.97), ("random", 0, 0.96), ("plain", 1, 0.1)):
        control = {**value, "method": name, "seed": seed, "details": {"control": name}}
        control["chosen"] = {**value["chosen"], "test_accuracy": accuracy}
        runs.write(tmp_path / "params-60k" / f"{name}-{seed}", control, [])
    folder = tmp_path / "params-60k" / "hnas-0"
    assert "in its study" not in made(folder, value).text  # beside others, but in no study
    (tmp_path / "study.yaml").write_text("")
    (tmp_path / "params-60k" / "gone-0").mkdir()
    (tmp_path / "params-60k" / "gone-0" / "result.json").write_text("{")  # another run's, and no matter of this one
    assert "in its study, with the same seed: plain 97.00 %, random 96.00 %." in made(folder, value).text


def test_settings_data_and_times(page: Page, value: dict[str, Any]) -> None:
    pairs = dict(page.rows["pairs"])
    assert pairs["Images"] == "1,150 for training, 287 for validation, 360 for the test"
    assert pairs["10 classes"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert pairs["Space"] == "tiny(input_size=[1, 8, 8], num_classes=10), 200,000 architectures"
    assert (pairs["Seed"], pairs["Limits"]) == ("0", "latency_ms <= 0.127")
    assert pairs["File (onnx)"] == "best.onnx, outputs within 1.0e-07 of PyTorch's"
    assert "3 images are in both the training and the test part" in page.text
    times = {row[0].split(" ")[0]: row[1] for row in page.rows["times"]}
    assert page.rows["times"][1][0] == "train1 training the supernet"
    assert times == {**{k: f"{s:.1f} s" for k, s in value["seconds"].items()}, "Total": "3 min"}


def test_page_is_complete_in_itself(page: Page) -> None:
    assert {tag for tag, _ in page.attributes}.isdisjoint({"link", "img", "iframe", "object", "image"})
    assert [a for tag, a in page.attributes if tag == "script"] == [{}]  # the page's own, within it
    targets = [v for _, a in page.attributes for k, v in a.items() if k in ("src", "href", "xlink:href")]
    ids = [a["id"] for _, a in page.attributes if "id" in a]
    assert targets  # the figures' markers
    assert all(t.startswith("#") and t[1:] in ids for t in targets)
    assert len(ids) == len(set(ids))  # figures do not share ids
    clips = [a["clip-path"] for _, a in page.attributes if "clip-path" in a]
    assert {re.fullmatch(r"url\(#(.+)\)", c)[1] for c in clips} <= set(ids)
    assert not any("http" in v or "@import" in v for _, a in page.attributes for v in a.values())


def test_figures_have_descriptions_and_the_pages_colours(page: Page) -> None:
    assert len(page.figures) == 3  # the front, and two trainings
    assert all(f["role"] == "img" and len(f["aria-label"]) > 60 for f in page.figures)
    assert "Pareto front of 7 networks" in page.figures[0]["aria-label"]
    styles = " ".join(a.get("style", "") for _, a in page.attributes)
    assert re.findall(r"#[0-9a-fA-F]{6}", styles) == []  # each colour is a variable, with a value for the dark
    assert "Latency (ms)" in page.svg_words
    assert "Accuracy (%)" in page.svg_words


def test_user_text_is_escaped(tmp_path: Path) -> None:
    value = runs.result(tiny(), members=2)
    value["data"] |= {"name": "<script>alert(1)</script>", "classes": ["<b>", "a & b"], "notes": ["'<i>' & \"x\""]}
    value["space"]["arguments"]["widths"] = "<u>"
    value["front"][0]["options"][0] = "<em>"
    first = value["stages"][0]["sites"]["stage1.block1"]
    first["$<q>$"] = 0.5
    page = made(tmp_path, value)
    tags = {tag for tag, _ in page.attributes}
    assert tags.isdisjoint({"b", "u", "em", "q"})
    assert sum(tag == "script" for tag, _ in page.attributes) == 1  # the page's own
    for said in ("on <script>alert(1)</script>", "<b>, a & b", "'<i>' & \"x\"", 'widths="<u>"'):
        assert said in page.text
    assert "$<q>$" in {row[0] for row in page.rows["heat upright"]}
    assert page.rows["front"][1][6].startswith("<em>")


def test_finalists_are_listed_with_what_they_reached(tmp_path: Path) -> None:
    value = runs.result(tiny(), members=2, stages=0)
    better, worse = (member["options"] for member in value["front"])
    found = [{"options": better, "trained": [[2, 0.5], [8, 0.75]]}, {"options": worse, "trained": [[2, 0.25]]}]
    page = made(tmp_path, {**value, "details": {"finalists": found}, "seconds": {"brief1": 2.5, "brief2": 1.0, "final": 3.0}})
    head, *rows = page.rows["front"][-3:]
    assert head[1:3] == ["After 2 epochs", "After 8 epochs"]
    assert [row[:3] for row in rows] == [["1", "50.00 %", "75.00 %"], ["2", "25.00 %", ""]]
    assert [row[:2] for row in page.rows["times"]] == [
        ["final training the chosen network", "3.0 s"], ["finalists short trainings of the best", "3.5 s"], ["Total", "6.5 s"],
    ]  # fmt: skip


def test_limits_that_are_missed_are_said(tmp_path: Path) -> None:
    value = runs.result(tiny())
    value["chosen"]["latency_ms"] |= {"predicted": 0.12, "measured": 0.1397, "p10": None, "p90": None}
    value["limits"].append({"metric": "params", "low": 50_000, "high": None, "text": "params >= 50k"})
    value["limits"].append({"metric": "flash", "low": 0, "high": None, "text": "flash >= 0"})  # which every network meets
    value["limits"].append({"metric": "macs", "low": 1000, "high": 2e6, "text": "1k <= macs <= 2M"})
    rows = {row[0]: row for row in made(tmp_path, value).rows["asked"]}
    assert rows["Latency"][3:] == ["0.140 ms", "missed by 10.0 %"]
    assert rows["Parameters"][1::3] == ["≥ 50,000", f"missed by {100 * (1 - 39094 / 50000):.1f} %"]
    assert rows["Multiply-adds"][1::3] == ["1,000 to 2,000,000", "met"]
    value["chosen"]["latency_ms"]["measured"] = None
    rows = {row[0]: row for row in made(tmp_path, value).rows["asked"]}
    assert rows["Latency"][3:] == ["–", "met (predicted)"]


def test_random_search_without_limits_and_latency(tmp_path: Path) -> None:
    value = runs.result(tiny(), members=1, stages=0, latency=False)
    value["method"], value["seconds"] = "random", {}
    value["front"][0]["latency_ms"] = value["chosen"]["latency_ms"] = {"predicted": None, "measured": None}
    page = made(tmp_path, value, {"final": 3})
    assert "98.89 % test accuracy on digits" in page.text
    assert "1×8×8 images) without limits" in page.text
    assert "Latency – not measured" in page.text
    assert not any("heat" in kind for kind in page.rows)  # no operation probabilities
    assert "No other network that was found is both more accurate and better in multiply-adds" in page.text
    assert "Multiply-adds (thousands)" in page.svg_words
    assert "Supernet" not in page.svg_words


def test_large_space_on_a_page(tmp_path: Path) -> None:
    value = runs.result(hnas_large(), members=18, ms=7.5)
    page = made(tmp_path, value)
    assert "1.55×10²⁷ architectures" in page.text  # 3 * 18^6 * 19^15
    assert [len(row) for row in page.rows["heat upright many"]] == [1 + 22] * 2 * (1 + 19)  # layers, operations
    assert {"224×224", "112×112", "56×56", "28×28", "14×14", "7×7"} <= set(page.words)
    assert page.words.count("stride 2") == 5  # stem and four stages


def test_torn_last_event_is_left_out_and_others_are_not(tmp_path: Path, value: dict[str, Any]) -> None:
    folder = runs.write(tmp_path, value, runs.events(PHASES))
    whole = runs.report(folder).read_text()
    log = folder / "events.jsonl"
    with log.open("a") as f:
        f.write('{"time": "2026-11-22T07:00:00", "event": "epoch", "phase": "final", "epo')
    assert runs.report(folder).read_text() == whole
    log.write_text("{not JSON}\n" + log.read_text())
    with pytest.raises(RunError, match=r"line 1 of .*events\.jsonl is damaged; delete that line"):
        runs.report(folder)
    assert (folder / "report.html").read_text() == whole
    assert sorted(p.name for p in folder.iterdir()) == ["events.jsonl", "report.html", "result.json"]


def test_repeated_epoch_counts_once(tmp_path: Path, value: dict[str, Any]) -> None:
    lines = runs.events(PHASES)
    wrong = [{**line, "val_accuracy": 0.01, "train_accuracy": 0.02} for line in lines if line.get("phase") == "train2"]
    start = next(i for i, line in enumerate(lines) if line.get("phase") == "train2")
    resumed = lines[:start] + wrong + lines[start:]  # the run was stopped in train2 and resumed from its start
    expected = runs.report(runs.write(tmp_path / "a", value, lines)).read_text()
    found = runs.report(runs.write(tmp_path / "b", value, resumed)).read_text()
    assert found.replace(str(tmp_path / "b"), str(tmp_path / "a")) == expected


def test_damaged_runs_are_refused(tmp_path: Path, value: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"has no result\.json, so there is nothing to report yet.*hiernas resume"):
        runs.report(tmp_path)
    folder = runs.write(tmp_path / "run", value, [])
    without = runs.report(folder).read_text()
    (folder / "events.jsonl").unlink()
    assert runs.report(folder).read_text() == without  # only the curves are lost
    (folder / "report.html").unlink()
    (folder / "result.json").write_text('{"format": 1, "chosen": ')
    with pytest.raises(RunError, match=r"result\.json is damaged \(content: invalid JSON: Expecting value.*delete it"):
        runs.report(folder)
    (folder / "result.json").write_text(json.dumps({**value, "format": 2}))
    with pytest.raises(RunError, match=r"has result format 2, and this version reads 1"):
        runs.report(folder)
    (folder / "result.json").write_text("[]")
    with pytest.raises(RunError, match=r"result\.json is damaged"):
        runs.report(folder)
    broken = copy.deepcopy(value)
    del broken["front"]
    (folder / "result.json").write_text(json.dumps(broken))
    with pytest.raises(RunError, match=r"result\.json is damaged \(.*front"):
        runs.report(folder)
    assert not (folder / "report.html").exists()


def with_config(folder: Path, config: dict[str, Any]) -> str:
    made = runs.result(tiny())
    made["environment"] = {"ended": {"hiernas": "0.1.0", "torch": "2.13.0", "threads": 2, "device": "a Xeon"}}
    return Page(write_report(RunFolder(runs.write(folder, made, runs.events(PHASES)), config))).text


ASKED = Request(
    "hournas", "tiny", {"stem": 8}, "my images", ["params<=150k", "60<=latency_ms<=70"], "phone's.json", threads=2,
    preset="small", settings=["train.cutout=2"], seed=3, val_per_class=5, skip_bad_images=True, time=90.0, int8=False,
    calibrate=0,
)  # fmt: skip


@pytest.mark.parametrize("request_", [Request(), Request("random"), ASKED], ids=["nothing", "method", "all"])
def test_search_is_done_again_by_the_command_of_its_page(tmp_path: Path, request_: Request) -> None:
    text = with_config(tmp_path, {"method": request_.method, "asked": request_.asked()})
    found = re.search(r"The same search once more: (hiernas search .*?) (Copy )?Elsewhere", text)
    assert found is not None
    command = shlex.split(found[1])
    search = get_command(app).commands["search"]  # type: ignore[attr-defined]
    asked = search.make_context("search", command[2:]).params
    assert request_of(SearchOptions(**asked)).asked() == request_.asked()


def test_no_command_is_named_for_a_search_of_objects(tmp_path: Path) -> None:
    request = Request("hnas", tiny().restrict({"stage1.block1": ["k3_e3"]}), limits=["params<=150k"])
    assert request.asked() == {"limits": ["params<=150k"], "objects": ["space"]}
    assert "once more" not in with_config(tmp_path, {"method": "hnas", "asked": request.asked()})


def test_settings_that_held_and_what_the_run_was_made_with_are_told(tmp_path: Path) -> None:
    text = with_config(tmp_path, {"method": "hnas", "config": {"stages": 3, "train": {"batch_size": 48, "flip": None}}})
    assert "HierNAS 0.1.0, PyTorch 2.13.0, by 2 threads on a Xeon" in text
    assert "All settings stages 3 train.batch_size 48 train.flip None" in text

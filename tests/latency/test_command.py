"""`hiernas measure` by its function: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from known import Known

from hiernas.commands import MeasureOptions
from hiernas.commands import measure as command
from hiernas.commands.lists import listing
from hiernas.commands.measure import measure
from hiernas.data import ImageData
from hiernas.errors import ConfigError, LatencyError
from hiernas.latency import Entry, LatencyTable, merge
from hiernas.latency.measure import cached_table_path, fingerprint, identity, plan_of
from hiernas.latency.runner import RESULT_KIND
from hiernas.run.request import Request, prepare
from hiernas.spaces import tiny

SMALL = MeasureOptions(source="tiny", input_size="3,16,16", num_classes=4)
SPACE = tiny((3, 16, 16), 4)


def asked(**more: object) -> MeasureOptions:
    return MeasureOptions(**{**vars(SMALL), **more})  # type: ignore[arg-type]


def silent(event: object) -> None:
    pass


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    runtime = Known(0.3, 1.25)
    monkeypatch.setattr(command, "make_runtime", lambda name, threads: runtime)
    return runtime


def test_a_calibration_is_written_beside_the_table(known: Known, tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    shown = measure(asked(out=tmp_path / "t.json", calibrate=10, store_correction=True), events.append)  # type: ignore[arg-type]
    assert shown["entries"] == "31 of the space's 31 operations (36 in the file)"
    assert shown["fitted"] == "+0.3000 ms + 1.2500 x the sum, on 5 of the networks"
    assert shown["corrected"] == "mean absolute error 0.00 %, bias +0.00 %, Spearman 1.0000, over the other 5 networks" or (
        shown["corrected"].startswith("mean absolute error 0.00 %, bias -0.00 %")
    )
    table = LatencyTable.load(tmp_path / "t.json")
    assert table.correction is not None
    assert table.correction.scale == pytest.approx(1.25)
    architecture = SPACE.decode([0] * len(SPACE.decisions))
    assert table.predict(architecture) == pytest.approx(known.prepare(architecture.build(), (3, 16, 16))())
    value = json.loads((tmp_path / "t-calibration.json").read_text())
    assert value["correction"]["constant_ms"] == pytest.approx(0.3)
    assert len(value["networks"]) == 10
    drawing = ElementTree.parse(tmp_path / "t-calibration.svg").getroot()
    text = " ".join(t for t in drawing.itertext() if t.strip())
    assert "measured (ms)" in text
    assert "corrected, other networks" in text
    assert [e["event"] for e in events[-1:]] == ["calibrating"]

    before = known.prepared
    again = measure(asked(out=tmp_path / "t.json"), silent)
    assert known.prepared == before  # all was there
    assert again["correction"] == "+0.3000 ms + 1.2500 x the sum, fitted on 5 networks of tiny 3x16x16, 4 classes"
    other = measure(asked(out=tmp_path / "t.json", num_classes=5), silent)
    assert other["correction"].endswith("which is another space: calibrate this one in a file of its own")


def test_a_busy_device_is_told(known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.os, "cpu_count", lambda: 4)
    for load, told in ((2.9, False), (3.0, True)):
        monkeypatch.setattr(command.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        shown = measure(asked(out=tmp_path / "t.json"), silent)
        assert ("busy" in shown) is told
    assert shown["busy"].startswith("load 3.0 on 4 cores before the measurement: measure again")


def test_what_comes_back_becomes_a_table_and_completes_one(known: Known, tmp_path: Path) -> None:
    plan = plan_of(SPACE, with_edges=True)
    rows = {}
    for key, probe in plan.probes().items():
        ms = known.prepare(probe.build(), probe.input_size)()
        rows[key] = {"median_ms": ms, "p10_ms": ms, "p90_ms": ms, "runs": 60, "shape": [1, *probe.input_size]}
    header = {"kind": RESULT_KIND, "plan": fingerprint(plan), "hiernas": "0", "space": "", **identity(known)}
    last = plan.operations[-1].key
    some = {k: v for k, v in rows.items() if k != last}
    (tmp_path / "some.json").write_text(json.dumps({**header, "entries": some}))
    (tmp_path / "all.json").write_text(json.dumps({**header, "entries": rows}))
    with pytest.raises(LatencyError, match=r"lacks 1 of 31 operations .*take the rest with --allow-missing"):
        measure(asked(import_file=tmp_path / "some.json"), silent)
    shown = measure(asked(import_file=tmp_path / "some.json", allow_missing=True), silent)
    assert shown["file"] == str(tmp_path / "some-table.json")
    assert shown["missing"] == f"1 operations, such as '{last}': networks with them have no latency"
    assert "fastest network" not in shown
    shown = measure(asked(import_file=tmp_path / "all.json", out=tmp_path / "some-table.json"), silent)
    assert shown["merged"].startswith("1 new entries, 0 replaced by ones of more runs, 35 kept")
    table = LatencyTable.load(tmp_path / "some-table.json")
    direct = measure(asked(out=tmp_path / "direct.json"), silent)
    assert shown["fastest network"] == direct["fastest network"]
    assert {k: e.p10_ms for k, e in table.entries.items()} == {
        k: e.p10_ms for k, e in LatencyTable.load(tmp_path / "direct.json").entries.items()
    }
    assert measure(asked(pack=tmp_path / "pack"), silent)["folder"].startswith(f"{tmp_path / 'pack'}: {len(rows)} ONNX files")


def test_merging_takes_the_entry_of_more_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(**runs: int) -> dict[str, Entry]:
        return {key: Entry(n, n, n, n) for key, n in runs.items()}

    mine = LatencyTable("d", "known", "1", 1, 1, 0.1, entries(a=45, b=45, c=45))
    other = LatencyTable("d", "known", "1", 1, 1, 0.2, entries(b=46, c=44, d=45))
    table, said = merge(mine, other)
    assert table == LatencyTable("d", "known", "1", 1, 1, 0.1, entries(a=45, b=46, c=45, d=45))
    assert said == "1 new entries, 1 replaced by ones of more runs, 1 kept as they were (of as many runs or more)"
    for name, value in (("device", "e"), ("runtime", "torch"), ("version", "2"), ("threads", 2), ("batch", 8)):
        changed = LatencyTable(**{**identity(other), name: value}, raw_overhead_ms=0.2)
        with pytest.raises(LatencyError, match=rf"to be merged was measured with {name} '{value}', but '.*' is asked for"):
            merge(mine, changed)

    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path / "cache"))
    other.save(tmp_path / "other.json")
    with pytest.raises(LatencyError, match=r"no table .*latency-d-known-1-t1-b1.json that .*other.json could be merged"):
        measure(asked(merge=tmp_path / "other.json"), silent)
    mine.save(cached_table_path(mine))
    shown = measure(asked(merge=tmp_path / "other.json"), silent)
    assert LatencyTable.load(cached_table_path(mine)) == table
    assert shown["merged"] == (
        "1 new entries, 1 replaced by ones of more runs, 1 kept as they were (of as many runs or more)"
    )
    assert shown["entries"] == "0 of the space's 31 operations (4 in the file)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pack": Path("p"), "merge": Path("m")}, "--pack and --merge do not go together; give one of them"),
        ({"allow_missing": True}, "--allow-missing is for --import; give both, or neither"),
        ({"even": True}, "--even is for --calibrate"),
        ({"seed": 1}, "--seed is for --calibrate"),
        ({"store_correction": True, "out": Path("t")}, "--store-correction is for --calibrate"),
        ({"calibrate": 20, "store_correction": True}, "--store-correction needs a table of its own, --out FILE"),
        ({"pack": Path("p"), "threads": 2}, "--runtime and --threads do not go with --pack: nothing is measured here"),
        ({"import_file": Path("m"), "runtime": "torch"}, "--runtime and --threads do not go with --import"),
        ({"pack": Path("p"), "out": Path("t")}, "--out does not go with --pack"),
        ({"calibrate": 7}, "--calibrate 7: so few networks tell too little; take at least 8"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(asked(**options), silent)


def test_latencies_in_int8_are_of_the_quantised_operations_and_are_said_to_be(digits: ImageData) -> None:
    """A quantised file has its own table; a limit means it."""
    here = {row[0]: row[1] for row in listing("runtimes")[1]}
    assert here["onnxruntime-int8"] == here["onnxruntime"] == "yes"
    few = tiny(digits.input_size, 10)
    few = few.restrict({d.name: d.options[:2] for d in few.decisions})
    asked_for = Request("random", few, data=digits, limits=("latency_ms<=1",), runtime="onnxruntime-int8")
    prepared, without = prepare(asked_for), prepare(replace(asked_for, int8=False))
    assert prepared.latency.runtime == prepared.runtime == "onnxruntime-int8"
    assert (prepared.int8, without.int8) == (True, False)  # the file that the limit means is written, too
    assert any("latencies are in INT8, accuracies and best.onnx in FP32" in doubt for doubt in without.doubts)
    plain = prepare(replace(asked_for, runtime=None))
    assert not any("INT8" in doubt for found in (plain, prepared) for doubt in found.doubts)
    assert (plain.int8, prepare(replace(asked_for, runtime=None, int8=True)).int8) == (False, True)
    entries = [{k: e.p10_ms for k, e in found.latency.entries.items()} for found in (plain, prepared)]
    asked = {o.key for o in plan_of(prepared.space, with_edges=True).operations}
    assert asked <= entries[0].keys() & entries[1].keys()  # the cache may hold those of other sizes
    assert [entries[0][key] for key in asked] != [entries[1][key] for key in asked]

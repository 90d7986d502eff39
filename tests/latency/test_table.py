"""Latency tables: what is measured, kept, resumed and refused, with ONNX Runtime on the toy space."""

import json
import os
import pwd
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from known import Known

from hiernas.commands.measure import _merge
from hiernas.costs.tables import cost_tables, parts_of_space
from hiernas.errors import LatencyError
from hiernas.latency import Correction, Entry, LatencyTable, load_table
from hiernas.latency import measure as probes_module
from hiernas.latency.measure import _keep, cached_table_path, measure_table
from hiernas.latency.runtimes import Runtime
from hiernas.spaces import tiny
from processes import FORKED, Forked
from toy import toy_space

EDGES = ["edge 8x8x8", "edge 8x4x4", "edge 16x4x4"]  # the tensors between the toy's operations


class Counting:
    """A real runtime that notes the input size of what it is asked to prepare."""

    def __init__(self, threads: int = 1) -> None:
        self._inner, self.prepared = Runtime(threads=threads), list[tuple[int, int, int]]()
        for name in ("runtime", "version", "threads", "batch", "device", "inner_layout"):
            setattr(self, name, getattr(self._inner, name))

    def prepare(self, module: torch.nn.Module, input_size: tuple[int, int, int]) -> Callable[[], float]:
        self.prepared.append(input_size)
        return self._inner.prepare(module, input_size)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[LatencyTable, Path]:
    path = tmp_path_factory.mktemp("tables") / "toy.json"
    return measure_table(toy_space(), Runtime(), path, runs=5), path


def operation_keys() -> set[str]:
    fixed, options = parts_of_space(toy_space())
    return {p.key for p in (*fixed, *(part for site in options for (part,) in site)) if p.op.name != "skip"}


def test_a_measured_table_holds_each_operation_once(measured: tuple[LatencyTable, Path]) -> None:
    table, path = measured
    assert set(table.entries) == operation_keys() | set(EDGES)
    assert table.entries["conv3_relu6 3->8 s2 16x16"].p90_ms > 0
    assert all(entry.runs >= 5 for entry in table.entries.values())
    assert table.overhead_ms > 0
    assert load_table(path) == LatencyTable.load(path) == table
    assert (table.runtime, table.threads, table.batch) == ("onnxruntime", 1, 1)


def test_predictions_equal_the_cost_table(measured: tuple[LatencyTable, Path]) -> None:
    table, space = measured[0], toy_space()
    costs = cost_tables(space, table)["latency_ms"]
    for architecture in space:
        assert table.predict(architecture) == costs.of(space.encode(architecture)[None])[0] > table.overhead_ms


def test_resume_measures_what_is_missing_and_nothing_else(
    measured: tuple[LatencyTable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes_module, "AT_ONCE", 2)
    path, done = tmp_path / "deep" / "toy.json", []

    def stop_at_the_fifth(number: int, total: int, key: str) -> None:
        done.append((number, total, key))
        if number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_table(toy_space(), Runtime(), path, stop_at_the_fifth, runs=3)
    assert [(number, total) for number, total, _ in done] == [(i, 12) for i in range(1, 6)]
    kept = LatencyTable.load(path)
    assert list(kept.entries)[:3] == EDGES  # all edges, then the first operations, two by two
    assert len(kept.entries) == 5

    runtime = Counting()
    state = torch.get_rng_state()
    table = measure_table(toy_space(), runtime, path, runs=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(runtime.prepared) == 12 - 5
    assert set(table.entries) == set(measured[0].entries)
    assert {key: table.entries[key] for key in kept.entries} == kept.entries
    assert table.overhead_ms == kept.overhead_ms

    again = Counting()
    assert measure_table(toy_space(), again, path, runs=3) == table
    assert again.prepared == []


def test_a_restricted_space_measures_only_its_options(tmp_path: Path) -> None:
    runtime, path = Counting(), tmp_path / "toy.json"
    space = toy_space().restrict({"stage1.block1": ["k5_e2"], "stage2.block1": ["skip"]})
    table = measure_table(space, runtime, path, runs=3)
    assert [k for k in table.entries if "mbconv" in k] == ["mbconv_k5_e2_relu6 8->8 s2 8x8"]
    assert len(runtime.prepared) == 1 + 4 + 2 * len(EDGES)  # the identity; an edge is probed by one and two convolutions
    bigger = measure_table(toy_space(), runtime, path, runs=3)
    assert len(runtime.prepared) == 1 + 9 + 2 * len(EDGES)
    assert bigger.entries.items() >= table.entries.items()


def test_call_overhead_and_edges_are_taken_off() -> None:
    """A runtime of known latencies: 1 ms a call, 0.5 ms for each edge, 2 ms per convolution."""

    class Ends(Known):
        def prepare(self, module: torch.nn.Module, input_size: tuple[int, int, int]) -> Callable[[], float]:
            convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in module.modules())
            classifier = any(isinstance(m, torch.nn.Linear) for m in module.modules())
            edges = (input_size[0] != 3) + (not classifier) if convolutions or classifier else 0
            return lambda: 1.0 + 0.5 * edges + 2.0 * convolutions + classifier

    space = toy_space()
    table = measure_table(space, Ends(), runs=3)
    assert table.overhead_ms == 1.0
    assert {table.entries[key].p10_ms for key in EDGES} == {1.0}  # in and out
    assert table.predict(space.architecture(["k3_e2", "k3_e1"])) == pytest.approx(1 + 2 + 6 + 4 + 2 + 1)
    assert table.predict(space.architecture(["k3_e2", "skip"])) == pytest.approx(1 + 2 + 6 + 2 + 1)


@pytest.mark.parametrize("busy", [range(400), range(3000, 4200)])
def test_a_busy_moment_does_not_show(busy: range) -> None:
    """Calls of a moment take three times as long; everything is looked at twice, and the lower latency counts."""
    calls = [0]

    class Disturbed(Known):
        def prepare(self, module: torch.nn.Module, input_size: tuple[int, int, int]) -> Callable[[], float]:
            call = super().prepare(module, input_size)

            def timed() -> float:
                calls[0] += 1
                return call() * (3 if calls[0] in busy else 1)

            return timed

    table, quiet = measure_table(toy_space(), Disturbed()), measure_table(toy_space(), Known())
    assert calls[0] > 4200
    assert table.overhead_ms == quiet.overhead_ms
    assert {k: e.p10_ms for k, e in table.entries.items()} == {k: e.p10_ms for k, e in quiet.entries.items()}


def test_eager_pytorch_has_no_edges() -> None:
    table = measure_table(toy_space(), Runtime("torch"), runs=3)
    assert set(table.entries) == operation_keys()
    assert table.predict(toy_space().architecture(["k3_e2", "skip"])) > table.overhead_ms


@pytest.mark.parametrize(("field", "value"), [("threads", 2), ("device", "another"), ("version", "0.1"), ("batch", 8)])
def test_a_table_of_another_setting_is_not_mixed(
    measured: tuple[LatencyTable, Path], tmp_path: Path, field: str, value: object
) -> None:
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({**json.loads(measured[1].read_text()), field: value}))
    with pytest.raises(LatencyError, match=rf"was measured with {field} '{value}', but '.*' is asked for"):
        measure_table(toy_space(), Runtime(), path)


def test_damaged_and_foreign_files(measured: tuple[LatencyTable, Path], tmp_path: Path) -> None:
    good = measured[1].read_text()
    value = json.loads(good)
    entries = value["entries"]
    first = next(iter(entries))
    cases = {
        good[: len(good) // 2]: r"is damaged .*; delete it and measure again",
        "{}": r"is not a latency table of this version",
        json.dumps({**value, "kind": "other"}): r"is not a latency table of this version",
        json.dumps({k: v for k, v in value.items() if k != "overhead_ms"}): r"is damaged .*overhead_ms",
        json.dumps({**value, "overhead_ms": -1.0}): r"is damaged \(its content: ",
        json.dumps({**value, "entries": [1]}): r"is damaged",
        json.dumps({**value, "entries": {**entries, first: {"median_ms": 1.0}}}): r"is damaged .*p10_ms",
        json.dumps({**value, "entries": {**entries, first: {**entries[first], "p10_ms": -1.0}}}): r"no measurement",
        json.dumps({**value, "entries": {**entries, first: {**entries[first], "p90_ms": float("nan")}}}): r"no measurement",
        json.dumps({**value, "entries": {**entries, first: {**entries[first], "median_ms": "1"}}}): r"is damaged",
    }
    path = tmp_path / "table.json"
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(LatencyError, match=message):
            load_table(path)
        assert path.read_text() == text
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(LatencyError, match="it is not a text file"):
        load_table(path)
    with pytest.raises(LatencyError, match=r"cannot read the latency table .*nowhere.json: No such file"):
        load_table(tmp_path / "nowhere.json")


def test_saving_is_all_or_nothing(
    measured: tuple[LatencyTable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    path.write_text("what was there")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(LatencyError, match=r"cannot write the latency table .*: No space left on device"):
            measured[0].save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]
    assert path.read_text() == "what was there"
    with pytest.raises(LatencyError, match=r"cannot write the latency table"):
        measured[0].save(path / "below a file.json")


def test_what_a_kill_left_beside_a_table_goes(tmp_path: Path) -> None:
    path, others = tmp_path / "[a].json", tmp_path / "a.json.7.partial"
    others.touch()
    path.with_name("[a].json.123.partial").touch()
    _keep(LatencyTable("cpu", "onnxruntime", "1", 1, 1, 0.1, {}), path)
    assert {p.name for p in tmp_path.iterdir()} - {"[a].json.lock"} == {"[a].json", others.name}


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime = Counting(threads=2)
    runtime.device, runtime.version = "Some CPU (R) @ 2.0GHz", "1.2.3"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HIERNAS_CACHE", raising=False)
    name = "latency-some-cpu-r-2.0ghz-onnxruntime-1.2.3-t2-b1.json"
    assert cached_table_path(runtime) == tmp_path / "home" / ".cache" / "hiernas" / name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cached_table_path(runtime) == tmp_path / "xdg" / "hiernas" / name
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path / "own"))
    assert cached_table_path(runtime) == tmp_path / "own" / name


def measure_or_merge(me: int, all_are_there: Any) -> None:
    space, path = tiny(), Path("t.json")
    all_are_there.wait()
    for i in range(20):
        table = LatencyTable("cpu", "onnxruntime", "1", 1, 1, 0.1, {f"{me} {i}": Entry(2.0, 1.0, 3.0, 45)})
        if me < 2:
            _keep(table, path)
        else:
            while not path.exists():
                time.sleep(0.001)
            table.save(f"{me}.json")
            _merge(space, Path(f"{me}.json"), path)
        assert f"{me} {i}" in LatencyTable.load(path).entries


def test_processes_that_measure_and_merge_side_by_side_lose_no_entry(tmp_path: Path) -> None:
    """Four real processes: two that measure, two that merge, and all read what the others write."""
    all_are_there = FORKED.Barrier(4)
    workers = [Forked(measure_or_merge, i, all_are_there) for i in range(4)]
    ended = [worker.ended() for worker in workers]
    assert [code for code, *_ in ended] == [0] * 4, ended
    assert set(LatencyTable.load(tmp_path / "t.json").entries) == {f"{me} {i}" for me in range(4) for i in range(20)}


def test_what_is_measured_keeps_a_correction_that_another_process_has_stored(tmp_path: Path) -> None:
    table = LatencyTable("cpu", "onnxruntime", "1", 1, 1, 0.1, {"a": Entry(2.0, 1.0, 3.0, 45)})
    corrected = replace(table, correction=Correction(0.2, 1.1, 20, "tiny"))
    corrected.save(tmp_path / "t.json")
    _keep(replace(table, entries={"b": Entry(2.0, 1.0, 3.0, 45)}), tmp_path / "t.json")
    found = LatencyTable.load(tmp_path / "t.json")
    assert (set(found.entries), found.correction) == ({"a", "b"}, corrected.correction)


def test_without_home_and_passwd_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is a bare number."""

    def unknown(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "HIERNAS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.warns(UserWarning, match="kept in hiernas-cache here: name a folder by HIERNAS_CACHE"):
        path = cached_table_path(Counting())
    assert path.parent == Path("hiernas-cache")
    _keep(LatencyTable("cpu", "onnxruntime", "1", 1, 1, 0.1), path)
    assert path.exists()


def test_a_damaged_cache_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path))
    path = cached_table_path(Counting())
    path.write_text("{")
    with pytest.warns(UserWarning, match=r"is damaged .*set aside as .*HIERNAS_CACHE"):
        assert cached_table_path(Counting()) == path
    assert not path.exists()
    assert path.with_suffix(".damaged").read_text() == "{"


@pytest.mark.parametrize("folder", ["/proc/none", "~/x"])
def test_without_a_folder_for_the_cache(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIERNAS_CACHE", folder)
    with pytest.warns(UserWarning, match="name a folder by HIERNAS_CACHE"):
        assert cached_table_path(Counting()).parent == Path("hiernas-cache")

"""Calibration: the correction of a runtime of known latencies is found exactly, and the table applies it everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from known import Known, weights
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import nn

from hiernas.costs.tables import cost_tables
from hiernas.errors import ConfigError, LatencyError
from hiernas.latency import Correction, LatencyTable, load_table
from hiernas.latency import calibrate as module
from hiernas.latency.calibrate import calibrate, errors_of, fit, measured_whole, sample
from hiernas.latency.measure import measure_table
from hiernas.run import outcome, request
from hiernas.run import search as search_module
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import darts, tiny
from hiernas.subsets import subsets
from toy import toy_space

CONSTANT, SCALE = 0.3, 1.25


def whole(runtime: Known, genes: list[int]) -> float:
    """Latency of the network of an encoding."""
    return runtime.prepare(toy_space().decode(genes).build(), (3, 16, 16))()


@pytest.mark.parametrize("inner_layout", [True, False])
def test_a_known_correction_is_recovered_exactly(inner_layout: bool) -> None:
    space, runtime = toy_space(), Known(CONSTANT, SCALE, inner_layout)
    table = measure_table(space, runtime)
    found = calibrate(space, table, runtime, 12, np.random.default_rng(0))
    assert {a.options for a in found.architectures} == {a.options for a in space}  # 12 draws: all there are
    assert found.correction is not None
    assert (found.correction.constant_ms, found.correction.scale) == pytest.approx((CONSTANT, SCALE))
    assert found.correction.networks == 6
    assert found.correction.space == "toy 3x16x16, 4 classes"
    after, before = found.errors(corrected=True), found.errors(corrected=False)
    assert (after.networks, after.spearman) == (6, pytest.approx(1.0))
    assert after.mean_absolute_percent == pytest.approx(0.0, abs=1e-9)
    held_out = np.array([table.predict(a) for a in found.architectures[1::2]])
    by_hand = 100 * (held_out / (CONSTANT + SCALE * held_out) - 1)
    assert before.mean_absolute_percent == pytest.approx(np.abs(by_hand).mean())
    assert before.bias_percent == pytest.approx(by_hand.mean())


def test_a_stored_correction_is_applied_everywhere_and_kept(tmp_path: Path) -> None:
    space, runtime, path = toy_space(), Known(CONSTANT, SCALE), tmp_path / "toy.json"
    raw = measure_table(space, runtime, path)
    calibrate(space, raw, runtime, 12, np.random.default_rng(0)).corrected_table().save(path)
    table = load_table(path)
    assert table != raw
    tables = cost_tables(space, table)["latency_ms"]
    for architecture in space:
        genes = space.encode(architecture)
        assert table.predict(architecture) == pytest.approx(whole(runtime, list(genes)))
        assert tables.of(genes[None])[0] == pytest.approx(table.predict(architecture), rel=1e-12)
    assert table.overhead_ms == pytest.approx(CONSTANT + SCALE * Known.overhead)
    assert json.loads(path.read_text())["overhead_ms"] == raw.raw_overhead_ms == Known.overhead
    assert json.loads(path.read_text())["entries"] == {key: asdict(entry) for key, entry in raw.entries.items()}
    again = calibrate(space, LatencyTable.load(path), runtime, 12, np.random.default_rng(1))
    assert again.correction is not None
    assert (again.correction.constant_ms, again.correction.scale) == pytest.approx((CONSTANT, SCALE))  # of raw sums


def test_half_of_the_networks_are_of_another_space_and_both_halves_fit_and_tell() -> None:
    space, runtime = darts((1, 8, 8), 4, channels=2, cells=3), Known(CONSTANT, SCALE, inner_layout=False)
    every = subsets(space)
    table = measure_table(every, runtime, None)
    table = replace(table, entries={**measure_table(space, runtime).entries, **table.entries})
    found = calibrate(space, table, runtime, 8, np.random.default_rng(0), even=True, among=every)
    own = [architecture.skeleton == space.skeleton for architecture in found.architectures]
    assert own == [True, True, False, False] * 2  # every second one fits
    assert found.correction is not None
    assert found.correction.networks == 4


def test_more_entries_are_measured_from_raw_numbers(tmp_path: Path) -> None:
    runtime, path = Known(CONSTANT, SCALE), tmp_path / "toy.json"
    small = toy_space().restrict({"stage2.block1": ["k3_e1", "skip"]})
    table = measure_table(small, runtime, path)
    replace(table, correction=Correction(CONSTANT, SCALE, 6, "toy")).save(path)
    bigger = measure_table(toy_space(), runtime, path)
    direct = measure_table(toy_space(), runtime)
    assert {k: e.p10_ms for k, e in bigger.entries.items()} == {k: e.p10_ms for k, e in direct.entries.items()}
    assert bigger.raw_overhead_ms == direct.raw_overhead_ms
    assert LatencyTable.load(path).correction == Correction(CONSTANT, SCALE, 6, "toy")
    assert bigger.predict(toy_space().decode([1, 1])) == pytest.approx(whole(runtime, [1, 1]))


def test_a_table_without_correction_reads_and_writes_as_before(tmp_path: Path) -> None:
    table = measure_table(toy_space(), Known(), tmp_path / "toy.json")
    value = json.loads((tmp_path / "toy.json").read_text())
    assert list(value) == ["kind", "device", "runtime", "version", "threads", "batch", "overhead_ms", "entries"]
    assert table.overhead_ms == table.raw_overhead_ms == value["overhead_ms"] == Known.overhead


def test_the_fit_is_least_squares_on_the_relative_error() -> None:
    rng = np.random.default_rng(3)
    sums = rng.uniform(1, 5, 40)
    measured = (0.4 + 1.1 * sums) * rng.lognormal(0, 0.1, 40)
    searched = minimize(lambda c: np.sum(((c[0] + c[1] * sums) / measured - 1) ** 2), [0.0, 1.0], tol=1e-12)
    assert fit(sums, measured) == pytest.approx(tuple(searched.x), rel=1e-4)


def test_errors_and_ranks() -> None:
    predicted, measured = np.array([1.1, 1.8, 3.3, 3.3]), np.array([1.0, 2.0, 3.0, 4.0])
    found = errors_of(predicted, measured)
    assert found.mean_absolute_percent == pytest.approx((10 + 10 + 10 + 17.5) / 4)
    assert found.bias_percent == pytest.approx((10 - 10 + 10 - 17.5) / 4)
    assert found.spearman == pytest.approx(spearmanr(predicted, measured).statistic)
    assert errors_of(np.ones(3), np.arange(1.0, 4.0)).spearman == 0.0


def test_networks_are_seeded_distinct_and_uniform_or_even() -> None:
    space, table = tiny(), measure_table(tiny(), Known(inner_layout=False))
    uniform = [sample(space, table, 30, np.random.default_rng(seed), even=False) for seed in (0, 0, 1)]
    assert uniform[0] == uniform[1] != uniform[2]
    assert len({a.options for a in uniform[0]}) == 30
    even = sample(space, table, 30, np.random.default_rng(0), even=True)
    assert len({a.options for a in even}) == 30
    spans = [np.sort([table.predict(a) for a in some]) for some in (uniform[0], even)]
    assert spans[1][0] < spans[0][0]
    assert spans[1][-1] > spans[0][-1]
    steps = np.diff(spans[1])  # nearly equal ones: thousands of networks were drawn
    assert steps.max() < 2 * steps.mean() < np.diff(spans[0]).max()


def test_a_correction_that_makes_no_sense_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    space, runtime = toy_space(), Known()
    table = measure_table(space, runtime)
    monkeypatch.setattr(module, "fit", lambda *_: (9.0, -1.0))
    found = calibrate(space, table, runtime, 8, np.random.default_rng(0))
    assert found.correction is None
    assert found.errors(corrected=True) == found.errors(corrected=False)
    assert found.to_json()["correction"] is None
    with pytest.raises(LatencyError, match="the measured latencies do not grow with the predicted ones"):
        found.corrected_table()
    with pytest.raises(LatencyError, match=r"9 ms \+ -1 x the sum makes no sense: the scale must be positive"):
        Correction(9.0, -1.0, 4, "toy")


def test_where_the_fastest_network_would_take_no_time_the_line_goes_through_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    space, runtime = toy_space(), Known(0.0, SCALE)
    monkeypatch.setattr(module, "fit", lambda *_: (-9.0, 2.0))
    found = calibrate(space, measure_table(space, runtime), runtime, 8, np.random.default_rng(0)).correction
    assert found is not None
    assert (found.constant_ms, found.scale) == (0.0, pytest.approx(SCALE))


def test_a_correction_that_makes_matters_worse_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    space, runtime = toy_space(), Known()
    table = measure_table(space, runtime)
    monkeypatch.setattr(module, "fit", lambda *_: (0.0, 1.3))  # the sums are exact
    found = calibrate(space, table, runtime, 8, np.random.default_rng(0))
    with pytest.raises(LatencyError, match=r"not stored: over networks that it has not seen, its error is 30.00 %, and 0.00 %"):
        found.corrected_table()
    monkeypatch.setattr(module, "fit", lambda *_: (0.0, 1.0005))
    assert calibrate(space, table, runtime, 8, np.random.default_rng(0)).corrected_table().correction is not None


def test_too_few_networks() -> None:
    table = measure_table(toy_space(), Known())
    with pytest.raises(LatencyError, match=r"^7 different networks of .* tell too little; calibrate with at least 8$"):
        calibrate(toy_space(), table, Known(), 7, np.random.default_rng(0))
    small = toy_space().restrict({"stage1.block1": ["k3_e2"]})
    with pytest.raises(LatencyError, match=r"^4 different networks of 'toy' tell too little"):
        calibrate(small, table, Known(), 20, np.random.default_rng(0))


def test_measured_networks_have_no_scale_of_zero() -> None:
    seen: list[float] = []

    class Looking(Known):
        def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> Callable[[], float]:
            if hasattr(module, "stem"):
                seen.extend(float(m.weight.detach().abs().min()) for m in module.modules() if isinstance(m, nn.BatchNorm2d))
            return super().prepare(module, input_size)

    calibrate(toy_space(), measure_table(toy_space(), Looking()), Looking(), 8, np.random.default_rng(0))
    assert len(seen) > 8
    assert set(seen) == {1.0}


def test_a_busy_second_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes twice as long in its first 1.5 seconds; a run takes a millisecond of the clock."""

    class Busy(Known):
        now = 0.0

        def sleep(self, seconds: float) -> None:
            self.now += seconds

        def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> Callable[[], float]:
            ms = super().prepare(module, input_size)()

            def call() -> float:
                self.now += 0.001
                return ms if self.now > 1.5 else 2 * ms

            return call

    networks = {name: toy_space().sample(np.random.default_rng(i)).build for i, name in enumerate("ab")}
    quiet = {name: 0.05 + 1e-4 * weights(build()) for name, build in networks.items()}
    for apart, factor in ((0.0, 2.0), (1.0, 1.0)):
        clock = Busy()
        monkeypatch.setattr("hiernas.latency.runner.time", SimpleNamespace(monotonic=lambda c=clock: c.now, sleep=clock.sleep))
        monkeypatch.setattr(module, "APART", apart)
        found = dict(measured_whole(networks, toy_space().skeleton.input_size, clock))
        assert {name: entry.p10_ms for name, entry in found.items()} == pytest.approx(
            {name: factor * ms for name, ms in quiet.items()}
        )


def test_a_search_goes_by_latencies_that_whole_networks_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Known(CONSTANT, SCALE, inner_layout=False)
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path / "cache"))
    for at in (request, outcome):
        monkeypatch.setattr(at, "make_runtime", lambda name, threads: runtime)
    space = tiny()
    real = sorted(runtime.prepare(a.build(), (1, 8, 8))() for a in (space.decode(g) for g in genes_of(space, 40)))
    asked = request.Request(
        "random", limits=[f"latency_ms<={real[8]}"], calibrate=8, settings=["final_epochs=1"], data="digits"
    )
    told: list[Any] = []
    with monkeypatch.context() as patch:  # killed before its table is in the run folder
        patch.setattr(search_module, "keep_latency", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search_module.search(asked, tmp_path / "run", told.append)
    assert not list((tmp_path / "run").glob("latency.*"))
    assert [e["done"] for e in told if e["event"] == "calibrating"] == list(range(1, 9))
    run = search_module.resume(tmp_path / "run", told.append)
    assert sum(e["event"] == "calibrating" for e in told) == 8  # kept
    result = json.loads((run.path / "result.json").read_text())
    latency = result["chosen"]["latency_ms"]
    assert latency["predicted"] == pytest.approx(latency["measured"])
    assert latency["measured"] == pytest.approx(runtime.prepare(Architecture.load(run.path / "best.json").build(), (1, 8, 8))())
    assert latency["measured"] <= real[8] * (1 + 1e-9)
    assert result["corrected"] == run.config["corrected"]
    assert re.fullmatch(
        r"latencies are corrected \(\+0\.3000 ms \+ 1\.2500 x the sum\): mean error \d\d\.\d -> 0\.0 % over 4 other whole "
        "networks", result["corrected"],
    )  # fmt: skip
    kept = LatencyTable.load(run.path / "latency.json").correction
    assert kept is not None
    assert kept.space == "tiny 1x8x8, 10 classes"
    (cached,) = (tmp_path / "cache").glob("latency*-b1.json")
    assert LatencyTable.load(cached).correction is None  # it serves other spaces

    plain = request.prepare(replace(asked, calibrate=None))
    assert "corrected" in plain.to_dict()
    assert plain.latency.predict(Architecture.load(run.path / "best.json")) < 0.9 * latency["measured"]


def test_a_correction_is_measured_once_for_all_that_go_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Known(CONSTANT, SCALE, inner_layout=False)
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(request, "make_runtime", lambda name, threads: runtime)

    def prepared(method: str = "random", n: int = 8, seed: int = 0) -> tuple[Any, int]:
        """And how many whole networks were measured for it."""
        told: list[Any] = []
        asked = request.Request(method, "tiny", limits=["latency_ms<=50"], calibrate=n, seed=seed)
        found = request.prepare(asked, told.append)
        assert found.latency.correction.scale == pytest.approx(SCALE)
        return found, sum(e["event"] == "calibrating" for e in told)

    first, measured = prepared()
    assert measured == 8
    since = f"{first.corrected}, measured on {date.today()}"
    for method, seed in (("random", 1), ("hnas", 2)):
        other, measured = prepared(method, seed=seed)
        assert (other.latency, other.corrected, measured) == (first.latency, since, 0)
    assert prepared(n=9)[1] == 9
    every = (tmp_path / "cache").glob("*.corrected-*.json")
    (kept,) = (path for path in every if json.loads(path.read_text())["said"] == first.corrected)
    negative = json.dumps({**json.loads(kept.read_text()), "correction": {**asdict(first.latency.correction), "scale": -1.0}})
    for damaged in ("", "{}", negative, "\xff"):
        kept.write_bytes(damaged.encode("latin-1"))
        assert prepared()[1] == 8
        assert prepared()[1] == 0
    (table,) = (tmp_path / "cache").glob("latency*-b1.json")
    values = json.loads(table.read_text())
    key = next(iter(values["entries"]))
    values["entries"][key] |= {ms: 1.01 * values["entries"][key][ms] for ms in ("median_ms", "p10_ms", "p90_ms")}
    table.write_text(json.dumps(values))
    assert prepared()[1] == 8  # of another table


def test_what_is_corrected_and_what_is_not_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(request, "make_runtime", lambda name, threads: Known(50.0, -1.0))  # faster where the sum is more
    prepared = request.prepare(request.Request("random", limits=["latency_ms<=50"], calibrate=8))
    assert prepared.latency.correction is None
    assert prepared.corrected.startswith("latencies are not corrected: there is no correction to store: the measured latencies")
    monkeypatch.setattr(request, "make_runtime", lambda name, threads: Known(CONSTANT, SCALE, inner_layout=False))
    monkeypatch.setattr(request, "WHOLE", 9)  # of cells, where nothing is said
    asked_for = {None: 9, 0: 0, 8: 8}
    for given, measured in asked_for.items():
        prepared = request.prepare(request.Request("darts", limits=["latency_ms<=50"], calibrate=given))
        assert prepared.calibrate == measured
        assert (prepared.latency.correction is not None) == (measured > 0)
    assert request.prepare(request.Request("random", limits=["latency_ms<=50"])).calibrate == 0
    refused = {
        "--calibrate 7: so few networks tell too little; take at least 8, or 0": {"calibrate": 7},
        "--calibrate corrects what is measured here, and --latency-table gives a file; leave one of them out": {
            "calibrate": 8, "latency_table": "phone.yaml",
        },
        "--calibrate corrects latencies, and this search goes by none; limit latency_ms, or leave it out": {
            "calibrate": 8, "limits": ["params<=100k"],
        },
    }  # fmt: skip
    for said, asked in refused.items():
        with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
            request.prepare(request.Request("random", **asked))


def genes_of(space: SearchSpace, n: int) -> np.ndarray:
    return space.sample_encoded(np.random.default_rng(0), n)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt

"""Limits on the latency in FP32 and on that in INT8 in one search, on runtimes of known latencies: what is found meets both."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from known import Known, weights
from torch import nn

from hiernas.costs.limits import TableBudget
from hiernas.data import ImageData, load_data
from hiernas.errors import ConfigError, LimitError
from hiernas.latency import LatencyTable
from hiernas.networks.ops import MBConv
from hiernas.report.page import summary
from hiernas.run import outcome, request
from hiernas.run.request import Request, prepare, restore
from hiernas.run.search import search
from hiernas.space import Architecture
from hiernas.spaces import Stage, chain_space
from test_golden import LOGITS, MASKS, ONE_SHOT, UNSEARCHED, VITAL

SIZE, CLASSES = (1, 8, 8), 3
OPS = (MBConv(3, 1), MBConv(3, 4), MBConv(5, 6, se=True))
SPACE = chain_space("little", SIZE, CLASSES, stem=8, stem_stride=1, stages=(Stage(8, 3, 1, OPS, skip=True),), head=12)
SETTINGS = {
    "hnas": f"{ONE_SHOT} epochs=1,1,1", "hournas": VITAL, "random": UNSEARCHED,
    "hmnas": f"{LOGITS} {MASKS} compare=false inherit=false",
}  # fmt: skip
LIMITS = ("latency_ms<=0.3", "latency_int8_ms<=0.15")


class InInt8(Known):
    """Weights take a third, but those of kernels of 5 twice as long: another order of the networks than in FP32."""

    runtime, version = "onnxruntime-int8", "1"

    def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> object:  # type: ignore[override]
        wide = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (5, 5))
        ms = self.overhead + self.per_weight * ((weights(module) - wide) / 3 + 2 * wide)
        return lambda: ms


ENGINES = {"onnxruntime": Known(inner_layout=False), "onnxruntime-int8": InInt8(inner_layout=False)}


def took(architecture: Architecture) -> tuple[float, ...]:
    return tuple(engine.prepare(architecture.build(), SIZE)() for engine in ENGINES.values())  # type: ignore[operator]


@pytest.fixture(scope="module")
def few() -> ImageData:
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, SIZE) + 80 * (i % CLASSES)).astype(np.uint8) for i in range(120)]
    return load_data([(torch.from_numpy(x), i % CLASSES) for i, x in enumerate(pixels)])


@pytest.fixture(autouse=True)
def _engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path / "cache"))
    for module in (request, outcome):
        monkeypatch.setattr(module, "make_runtime", lambda name, threads: ENGINES.get(name, ENGINES["onnxruntime"]))


@pytest.mark.parametrize("method", SETTINGS)
def test_what_is_found_meets_both(method: str, few: ImageData, tmp_path: Path) -> None:
    settings = [*SETTINGS[method].split(), "final_epochs=1"]
    run = search(Request(method, SPACE, {}, few, LIMITS, settings=settings), tmp_path / "r")
    result = run.read_json("result.json")
    best, chosen = Architecture.load(run.path / "best.json", SPACE), result["chosen"]
    foretold = chosen["latency_ms"]["predicted"], chosen["latency_int8_ms"]["predicted"]
    assert foretold[0] <= 0.3
    assert foretold[1] <= 0.15
    if method != "hmnas":  # whose sums of several operations take no time here
        assert foretold == pytest.approx(took(best))
    assert chosen["latency_int8_ms"]["measured"] == result["int8"]["int8"]["latency_ms"]["p10"]  # of the file, for real
    rows = {row[0]: row[1:] for row in summary(result)[1]}
    assert rows["latency in INT8"][0] == "latency_int8_ms <= 0.15"
    assert "Latency, INT8" in (run.path / "report.html").read_text()
    kept = LatencyTable.load(run.path / "latency.json")
    assert kept.int8 is not None
    assert (kept.runtime, kept.int8.runtime) == ("known", "onnxruntime-int8")
    again = restore(run, SPACE, few)
    assert again.latency == kept
    assert again.limits == tuple(prepare(Request(method, SPACE, {}, few, LIMITS, settings=settings)).limits)


def test_each_limit_rules_out_what_the_other_allows(few: ImageData) -> None:
    prepared = prepare(Request("random", SPACE, {}, few, LIMITS))
    space = prepared.space
    real = np.array([took(space.decode(genes)) for genes in space.all_encoded()])
    met = real <= [0.3, 0.15]
    assert (met[:, 0] & ~met[:, 1]).any()
    assert (~met[:, 0] & met[:, 1]).any()
    budget = TableBudget(prepared.limits, prepared.latency)
    assert (budget.met(space, space.all_encoded()) == met.all(1)).all()
    assert prepared.int8
    assert prepared.config.objective == "latency_ms"
    only = prepare(Request("random", SPACE, {}, few, LIMITS[1:]))
    assert only.config.objective == "latency_ms"
    assert (TableBudget(only.limits, only.latency).met(space, space.all_encoded()) == met[:, 1]).all()


def test_what_cannot_be_is_said(few: ImageData, tmp_path: Path) -> None:
    def refused(error: type[Exception], said: str, **asked: object) -> None:
        with pytest.raises(error, match=f"^{re.escape(said)}"):
            prepare(Request("random", SPACE, {}, few, **{"limits": LIMITS, **asked}))  # type: ignore[arg-type]

    same = "with --runtime onnxruntime-int8 latency_ms is in INT8, and latency_int8_ms the same; leave one out"
    refused(ConfigError, same, runtime="onnxruntime-int8")
    said = "no architecture of 'little' meets latency_int8_ms <= 0.01; the fastest takes"
    refused(LimitError, said, limits=["latency_int8_ms<=0.01"])
    prepare(Request("random", SPACE, {}, few, LIMITS[:1])).latency.save(tmp_path / "mine.json")
    assert "int8" not in json.loads((tmp_path / "mine.json").read_text())
    refused(ConfigError, "latency_int8_ms is measured here; leave --latency-table out", latency_table=tmp_path / "mine.json")
    corrected = prepare(Request("random", SPACE, {}, few, LIMITS, calibrate=8))
    assert re.search(r"latencies are .*; in INT8 latencies are ", corrected.corrected)

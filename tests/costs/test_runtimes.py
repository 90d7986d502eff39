"""Runtimes: real measurements of small modules, and the bookkeeping of turns with calls of known duration."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from hiernas.costs import runtimes as runtimes_module
from hiernas.costs.runtimes import RUNTIMES, OnnxRuntime, TorchRuntime, measure_by_turns, to_onnx
from hiernas.errors import LatencyError
from hiernas.ops import MBConv
from toy import toy_space


@pytest.mark.parametrize("name", list(RUNTIMES))
def test_a_measurement_is_positive_and_ordered_and_changes_nothing(name: str) -> None:
    runtime, threads = RUNTIMES[name](threads=1), torch.get_num_threads()
    network = toy_space().decode([0, 1]).build().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = torch.get_rng_state()
    entry = runtime.measure(network, (3, 16, 16), runs=20, warmup=3)
    assert 0 < entry.p10_ms <= entry.median_ms <= entry.p90_ms
    assert entry.runs >= 20
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert runtime.name == name
    assert runtime.device


@pytest.mark.parametrize("batch", [1, 3])
def test_what_onnx_runtime_times_is_the_module(batch: int) -> None:
    module = MBConv(5, 3, se=True, act="hswish").build(8, 8, 1).eval()
    x = torch.randn(batch, 8, 9, 9, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(to_onnx(module, x), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found, module(x).detach().numpy(), atol=1e-5)
    assert OnnxRuntime(batch=batch).prepare(module, (8, 9, 9))() > 0


def test_the_new_exporter_takes_over_where_tracing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> bytes:
        raise TypeError("export() got an unexpected keyword argument")

    monkeypatch.setattr(runtimes_module, "_traced", gone)
    module, x = MBConv(3, 3).build(4, 8, 2).eval(), torch.ones(1, 4, 6, 6)
    session = onnxruntime.InferenceSession(to_onnx(module, x), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], module(x).detach().numpy(), atol=1e-5)


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x).abs()


def test_a_module_that_cannot_be_exported() -> None:
    with pytest.raises(LatencyError, match=r"^a Unexportable cannot be exported to ONNX: \S"):
        OnnxRuntime().measure(Unexportable(), (1, 3, 3), 1, 1)


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        entry = TorchRuntime(device="cuda").measure(nn.Conv2d(3, 8, 3), (3, 8, 8), 20, 3)
        assert 0 < entry.p10_ms <= entry.median_ms <= entry.p90_ms
    else:
        with pytest.raises(LatencyError, match="finds no GPU here; measure on the CPU"):
            TorchRuntime(device="cuda")


def test_turns_passes_and_percentiles() -> None:
    log: list[int] = []

    def call(i: int) -> float:
        log.append(i)
        return 100.0 + i + 0.5 * (len(log) % 2)

    entries = measure_by_turns([lambda i=i: call(i) for i in range(6)], runs=6, warmup=2)
    first, second = [0, 1, 2, 3], [4, 5]
    assert log == 2 * first + 2 * second + 3 * (2 * first + 2 * second)  # warm-up, then three passes of two rounds
    assert [e.runs for e in entries] == [6] * 6
    for i, entry in enumerate(entries):
        values = [100.0 + i + 0.5 * ((k + 1) % 2) for k, j in enumerate(log) if j == i][2:]
        expected = np.percentile(values, (10, 50, 90))
        assert (entry.p10_ms, entry.median_ms, entry.p90_ms) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(("ms", "runs", "expected"), [(10.0, 4, 6), (1.0, 4, 30), (0.001, 4, 201), (0.001, 300, 300)])
def test_short_operations_run_more_often(ms: float, runs: int, expected: int) -> None:
    assert measure_by_turns([lambda: ms], runs, 1)[0].runs == expected  # 30 ms, at most 200 times, in three passes

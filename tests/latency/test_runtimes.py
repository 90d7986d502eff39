"""Runtimes: real measurements of small modules, and the bookkeeping of turns with calls of known duration."""

import gc
import os
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hiernas.errors import LatencyError
from hiernas.latency import Entry
from hiernas.latency import runtimes as runtimes_module
from hiernas.latency.runner import by_turns, load_onnx, load_onnxruntime
from hiernas.latency.runtimes import (
    RUNTIMES,
    Kind,
    Loaded,
    Runtime,
    difference,
    example,
    make_runtime,
    quantised,
    to_onnx,
)
from hiernas.networks.ops import MBConv
from processes import Forked, script
from toy import toy_space


def runtime_or_skip(name: str) -> Any:
    """The runtime; skips where its package or device is not here."""
    try:
        return Runtime(name)
    except LatencyError as error:
        pytest.skip(str(error))


def block() -> nn.Module:
    """For inputs (8, 9, 9): one for all tests, as `torch_compiled` takes 10 seconds for a new one and keeps it."""
    return MBConv(3, 2, se=True, act="hswish").build(8, 8, 1)


NAMES = [pytest.param(n, marks=pytest.mark.slow) if n == "torch_compiled" else n for n in RUNTIMES]


@pytest.mark.parametrize("name", NAMES)
def test_a_measurement_is_positive_and_ordered_and_changes_nothing(name: str) -> None:
    runtime, threads = runtime_or_skip(name), torch.get_num_threads()
    network = (block() if name != "torch_compiled" else nn.BatchNorm2d(8)).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = torch.get_rng_state()
    entry = Entry(**by_turns([runtime.prepare(network, (8, 9, 9))], runs=20, warmup=3)[0])
    assert 0 < entry.p10_ms <= entry.median_ms <= entry.p90_ms
    assert entry.runs >= 20
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert runtime.runtime == name
    assert runtime.device


@pytest.mark.parametrize("batch", [1, 3])
def test_what_onnx_runtime_times_is_the_module(batch: int) -> None:
    module = MBConv(5, 3, se=True, act="hswish").build(8, 8, 1).eval()
    x = torch.randn(batch, 8, 9, 9, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(to_onnx(module, x), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(found, module(x).detach().numpy(), atol=1e-5)
    assert Runtime(batch=batch).prepare(module, (8, 9, 9))() > 0


def test_buffers_live_as_long_as_the_call() -> None:
    """ONNX Runtime only points at them: freed ones would be computed on all the same."""
    array = example(1, (3, 4, 4)).numpy().copy()
    call, output = load_onnx(to_onnx(nn.ReLU(), torch.ones(1, 3, 4, 4)), array, 1)
    np.testing.assert_array_equal(output, np.maximum(array, 0))
    alive = weakref.ref(array)
    del array
    gc.collect()
    assert call() > 0
    assert alive() is not None
    del call
    gc.collect()
    assert alive() is None


def test_the_new_exporter_takes_over_where_tracing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    export: Any = torch.onnx.export

    def newer(*arguments: Any, dynamo: bool, **more: Any) -> Any:
        if not dynamo:
            raise TypeError("export() got an unexpected keyword argument")
        return export(*arguments, dynamo=True, **more)

    monkeypatch.setattr(torch.onnx, "export", newer)
    module, x = MBConv(3, 3).build(4, 8, 2).eval(), torch.ones(1, 4, 6, 6)
    session = onnxruntime.InferenceSession(to_onnx(module, x), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], module(x).detach().numpy(), atol=1e-5)


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x).abs()


def test_a_module_that_cannot_be_exported() -> None:
    with pytest.raises(LatencyError, match=r"^a Unexportable cannot be exported to ONNX: \S"):
        Runtime().prepare(Unexportable(), (1, 3, 3))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_runtime_times_is_what_pytorch_computes(name: str) -> None:
    runtime = runtime_or_skip(name)
    x = example(1, (8, 9, 9))
    for module in (block().eval(), nn.Identity()):
        expected = module(x).detach().numpy()
        call, output = runtime.load(module, x)
        np.testing.assert_allclose(output, expected, atol={"cuda": 1e-2, "onnxruntime-int8": 0.05}.get(name, 1e-5))
        assert call() > 0


@pytest.mark.slow
def test_every_module_is_compiled_not_only_the_first_eight() -> None:
    runtime, x = Runtime("torch_compiled"), example(1, (4, 4, 4))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    calls = [runtime.load(nn.ReLU(), x)[0] for _ in range(9)]
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled - before == 9
    assert all(call() > 0 for call in calls)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled  # no call compiles again


def test_openvino_computes_in_float32() -> None:
    runtime = runtime_or_skip("openvino")
    network = toy_space().decode([1, 2]).build().eval()
    x = example(1, (3, 16, 16))
    assert difference(network, x, runtime.load(network, x)[1]) < 1e-5  # bfloat16 would differ by about 5e-3


def test_a_signal_is_heard_when_networks_in_openvino_are_gone() -> None:
    """Of several networks, as of a table; in a process of its own, which a lost stack of signals would end."""
    runtime_or_skip("openvino")
    code = """
import os, signal, time
from torch import nn
from hiernas.latency.runtimes import example, make_runtime
runtime, x = make_runtime("openvino", 1), example(1, (8, 9, 9))
loaded = [runtime.load(nn.Conv2d(8, 8, 3).eval(), x) for _ in range(2)]
del loaded[0], loaded[0]
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    assert Forked(script, code).ended()[:2] == (0, "heard\n")


def test_int8_is_computed_with_weights_of_eight_bits() -> None:
    module, x = MBConv(3, 3).build(4, 8, 2).eval(), example(1, (4, 9, 9))
    file = onnx.load_from_string(quantised(to_onnx(module, x), [x], "x"))
    kinds = {tensor.name: tensor.data_type for tensor in file.graph.initializer}
    weights = [node.input[1] for node in file.graph.node if node.op_type == "Conv"]
    quantised_from = {node.output[0]: node.input[0] for node in file.graph.node if node.op_type == "DequantizeLinear"}
    assert len(weights) == sum(isinstance(m, nn.Conv2d) for m in module.modules()) == 3
    assert {kinds[quantised_from[weight]] for weight in weights} == {onnx.TensorProto.INT8}
    found = difference(module, x, Runtime("onnxruntime-int8").load(module, x)[1])
    assert 1e-4 < found < 0.05  # not the same file, and not another function


def doubled(module: nn.Module, x: torch.Tensor, threads: int) -> Loaded:
    with torch.no_grad():
        return lambda: 1.0, 2 * module(x).numpy()


def test_the_latency_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "unlike", Kind(lambda: "1", doubled))
    with pytest.raises(LatencyError, match=r"unlike 1 computes something else .* a Conv2d of inputs \(3, 8, 8\) .*1.0e\+00"):
        Runtime("unlike").prepare(nn.Conv2d(3, 4, 1), (3, 8, 8))
    x = torch.ones(1, 3, 2, 2)
    assert difference(nn.Identity(), x, 0.75 * x.numpy()) == 0.25
    assert difference(nn.Identity(), x, x.numpy()[:, :2]) == float("inf")


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("openvino", "openvino"),
        ("litert", "litert_torch"),
        ("executorch", "executorch.exir"),
    ],
)
def test_a_package_that_is_not_there(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    missing, install = package.split(".")[0], rf"pip install 'hiernas\[{name}\]'"
    message = rf"^the runtime '{name}' cannot be loaded \(.*{missing}.*\); install it: {install}$"
    with pytest.raises(LatencyError, match=message):
        Runtime(name)


def test_onnx_runtime_is_loaded_with_its_telemetry_off_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "import os\nseen, off = os.environ.get('ORT_DISABLE_TELEMETRY'), []\n"
        "def disable_telemetry_events(): off.append(True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    loaded = load_onnxruntime()
    assert (loaded.__file__, loaded.seen, loaded.off) == (str(tmp_path / "onnxruntime.py"), "1", [True])
    package = Path(runtimes_module.__file__).parents[1]
    importing = [p.name for p in package.rglob("*.py") if re.search(r"^\s*(import|from) onnxruntime", p.read_text(), re.M)]
    assert importing == ["runner.py"]
    assert (package / "latency" / "runner.py").read_text().count("import onnxruntime\n") == 1


def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert make_runtime("onnxruntime", 3).threads == 3
    for threads in (0, 4, 64):
        message = f"^threads is {threads}, and this process may use 3 cores: .*; give 1 to 3$"
        with pytest.raises(LatencyError, match=message):
            make_runtime("onnxruntime", threads)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LatencyError, match="finds no GPU here; measure on the CPU"):
        Runtime("cuda")


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(LatencyError, match=r"cannot compile a Identity: InvalidCxx.* found; it needs a C\+\+ compiler"):
        Runtime("torch_compiled").load(nn.Identity(), torch.ones(1, 1, 1, 1))


def test_turns_passes_and_percentiles() -> None:
    log: list[int] = []

    def call(i: int) -> float:
        log.append(i)
        return 100.0 + i + 0.5 * (len(log) % 2)

    entries = [Entry(**row) for row in by_turns([lambda i=i: call(i) for i in range(6)], runs=6, warmup=2)]
    first, second = [0, 1, 2, 3], [4, 5]
    assert log == 2 * first + 2 * second + 3 * (2 * first + 2 * second)  # warm-up, then three passes of two rounds
    assert [e.runs for e in entries] == [6] * 6
    for i, entry in enumerate(entries):
        values = [100.0 + i + 0.5 * ((k + 1) % 2) for k, j in enumerate(log) if j == i][2:]
        expected = np.percentile(values, (10, 50, 90))
        assert (entry.p10_ms, entry.median_ms, entry.p90_ms) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(("ms", "runs", "expected"), [(10.0, 4, 6), (1.0, 4, 30), (0.001, 4, 201), (0.001, 300, 300)])
def test_short_operations_run_more_often(ms: float, runs: int, expected: int) -> None:
    assert by_turns([lambda: ms], runs, 1)[0]["runs"] == expected  # 30 ms, at most 200 times, in three passes

"""Runtimes: what executes a module on this device, and how long it takes.

ONNX Runtime is the default: its latencies agree with other deployment runtimes within about a tenth, while
eager PyTorch is several times slower on a CPU and ranks small networks by their number of operations.
"""

from __future__ import annotations

import copy
import io
import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from hiernas.costs.latency import Entry
from hiernas.errors import LatencyError
from hiernas.quiet import quiet

TimedCall = Callable[[], float]  # runs the module once and returns the milliseconds it took

ENOUGH_MS = 30.0  # a short operation is repeated until it ran this long in total,
MOST_RUNS = 200  # or this often
IN_TURN = 4  # operations that are measured by turns
PASSES = 3  # times that all operations are gone through


class Runtime(Protocol):
    """Executes modules on one device, always with the same number of threads and images."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def device(self) -> str: ...  # the processor's name
    @property
    def inner_layout(self) -> bool: ...  # whether tensors are converted where they enter and leave a network
    def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> TimedCall:
        """Load a module (the given one stays as it is) for inputs [batch, C, H, W]."""
        ...

    def measure(self, module: nn.Module, input_size: tuple[int, int, int], runs: int, warmup: int) -> Entry:
        """Latency of one module or whole network."""
        ...


class OnnxRuntime:
    """ONNX Runtime on the CPU, with all graph optimisations. Input and output stay in buffers bound beforehand."""

    name = "onnxruntime"
    inner_layout = True

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        import onnxruntime

        self.version = str(onnxruntime.__version__)
        self.threads, self.batch, self.device = threads, batch, cpu_name()

    def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> TimedCall:
        """Export and load a module. Raises `LatencyError` where it cannot be exported or loaded."""
        import onnxruntime as ort

        example = _example(self.batch, input_size)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self.threads
        options.log_severity_level = 3  # errors only
        try:
            session = ort.InferenceSession(to_onnx(module, example), options, providers=["CPUExecutionProvider"])
            outputs = session.run(None, {"x": example.numpy()})
        except LatencyError:
            raise
        except Exception as error:  # ONNX Runtime has no base class for its errors
            raise LatencyError(f"ONNX Runtime cannot run a {type(module).__name__}: {_first_line(error)}") from error
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(example.numpy()))
        for output, value in zip(session.get_outputs(), outputs, strict=True):
            binding.bind_ortvalue_output(output.name, ort.OrtValue.ortvalue_from_numpy(value))

        def call() -> float:
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            return (time.perf_counter() - start) * 1e3

        return call

    def measure(self, module: nn.Module, input_size: tuple[int, int, int], runs: int, warmup: int) -> Entry:
        """Latency of one module: at least `runs` runs and, where they are short, about 30 ms or 200 runs."""
        return measure_by_turns([self.prepare(module, input_size)], runs, warmup)[0]


class TorchRuntime:
    """Eager PyTorch, on the CPU or a GPU (`device="cuda"`; every run is synchronised)."""

    name = "torch"
    inner_layout = False

    def __init__(self, threads: int = 1, batch: int = 1, device: str = "cpu") -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise LatencyError("PyTorch finds no GPU here; measure on the CPU, or on a machine with a GPU")
        self.version = str(torch.__version__)
        self.threads, self.batch = threads, batch
        self.device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else cpu_name()

    def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> TimedCall:
        """Put a copy of a module in evaluation mode on the device."""
        x = _example(self.batch, input_size).to(self._device)
        module = copy.deepcopy(module).eval().to(self._device)
        wait: Callable[[], object] = torch.cuda.synchronize if self._device.type == "cuda" else lambda: None

        def call() -> float:
            threads = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                with torch.inference_mode():
                    wait()
                    start = time.perf_counter()
                    module(x)
                    wait()
                    return (time.perf_counter() - start) * 1e3
            finally:
                torch.set_num_threads(threads)

        return call

    def measure(self, module: nn.Module, input_size: tuple[int, int, int], runs: int, warmup: int) -> Entry:
        """Latency of one module: at least `runs` runs and, where they are short, about 30 ms or 200 runs."""
        return measure_by_turns([self.prepare(module, input_size)], runs, warmup)[0]


RUNTIMES: dict[str, type[OnnxRuntime] | type[TorchRuntime]] = {"onnxruntime": OnnxRuntime, "torch": TorchRuntime}


def measure_by_turns(calls: Sequence[TimedCall], runs: int, warmup: int) -> list[Entry]:
    """Latencies of several modules, measured four by four in turn, and all of them in three passes.

    Within a network an operation finds caches that other operations have used: alone in a burst it would be
    too fast, and between too many others too slow. The passes spread the runs of a module over a longer time,
    so that a busy neighbour disturbs a part of them only; the tenth percentile then is the undisturbed latency.
    """
    groups = [calls[i : i + IN_TURN] for i in range(0, len(calls), IN_TURN)]
    rounds = [_rounds(group, runs, warmup) for group in groups]
    samples: list[list[list[float]]] = [[] for _ in groups]
    for _ in range(PASSES):
        for group, n, rows in zip(groups, rounds, samples, strict=True):
            rows += [[call() for call in group] for _ in range(-(-n // PASSES))]
    return [_entry(column) for rows in samples for column in zip(*rows, strict=True)]


def _rounds(group: Sequence[TimedCall], runs: int, warmup: int) -> int:
    warm = [[call() for call in group] for _ in range(max(1, warmup))]
    ms = sum(min(column) for column in zip(*warm, strict=True)) / len(group)
    return max(1, runs, min(MOST_RUNS, math.ceil(ENOUGH_MS / max(ms, 1e-6))))


def _entry(samples: Sequence[float]) -> Entry:
    p10, median, p90 = np.percentile(samples, (10, 50, 90))
    return Entry(float(median), float(p10), float(p90), len(samples))


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown processor"


def to_onnx(module: nn.Module, example: torch.Tensor) -> bytes:
    """A module as an ONNX file with one input `x`, by the tracing exporter (it is 40 times as fast) or the new one."""
    module = copy.deepcopy(module).eval().cpu()
    try:
        with quiet():
            return _traced(module, example)
    except Exception:  # the tracing exporter is gone from this torch, or does not know an operation
        pass
    try:
        with quiet():
            return _exported(module, example)
    except Exception as error:  # exporters raise almost anything
        raise LatencyError(f"a {type(module).__name__} cannot be exported to ONNX: {_first_line(error)}") from error


def _traced(module: nn.Module, example: torch.Tensor) -> bytes:
    buffer: Any = io.BytesIO()  # the annotation of `export` leaves buffers out
    torch.onnx.export(module, (example,), buffer, dynamo=False, input_names=["x"])
    return buffer.getvalue()


def _exported(module: nn.Module, example: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    program: Any = torch.onnx.export(module, (example,), dynamo=True, input_names=["x"], verbose=False)
    program.save(buffer)
    return buffer.getvalue()


def _example(batch: int, input_size: tuple[int, int, int]) -> torch.Tensor:
    return torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

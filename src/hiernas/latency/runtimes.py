"""Runtimes that execute modules: one latency is comparable only with others of the same runtime.

ONNX Runtime is the default: its latencies agree with other deployment runtimes within about a tenth, while
eager PyTorch is several times slower on a CPU and ranks small networks by their number of operations.
"""

from __future__ import annotations

import copy
import io
import time
from typing import Any

import torch
from torch import nn

from hiernas.errors import LatencyError
from hiernas.latency.mobile import ExecuTorch, LiteRt
from hiernas.latency.runner import cpu_name, load_onnx, load_onnxruntime
from hiernas.latency.timing import Loaded, Runtime, first_line, package
from hiernas.latency.torch_runtimes import CompiledTorch, CudaRuntime, TorchRuntime
from hiernas.quiet import quiet


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, with all graph optimisations. Input and output stay in buffers bound beforehand."""

    name = "onnxruntime"
    inner_layout = True

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        self.version = str(load_onnxruntime().__version__)
        self.threads, self.batch, self.device = threads, batch, cpu_name()

    def load(self, module: nn.Module, x: torch.Tensor) -> Loaded:
        """Export and load a module. Raises `LatencyError` where it cannot be exported or loaded."""
        model = to_onnx(module, x)
        try:
            return Loaded(*load_onnx(model, x.numpy(), self.threads))
        except Exception as error:  # ONNX Runtime has no base class for its errors
            raise LatencyError(f"ONNX Runtime cannot run a {type(module).__name__}: {first_line(error)}") from error


class OpenVino(Runtime):
    """OpenVINO on the CPU in float32, with the hint LATENCY. Needs the extra hiernas[openvino]."""

    name = "openvino"
    inner_layout = True

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        openvino = package("openvino", "openvino")
        self.version = str(openvino.__version__).split("-")[0]  # without the build
        self.threads, self.batch, self.device = threads, batch, cpu_name()
        self._core = openvino.Core()

    def load(self, module: nn.Module, x: torch.Tensor) -> Loaded:
        """Export to ONNX and load a module. Raises `LatencyError` where it cannot be exported or loaded."""
        import openvino

        # without the precision hint OpenVINO takes bfloat16 where the processor has it
        hints = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        model, array = to_onnx(module, x), x.numpy()
        try:
            request = self._core.compile_model(self._core.read_model(model), "CPU", hints).create_infer_request()
            request.set_input_tensor(openvino.Tensor(array, shared_memory=True))
            request.infer()
        except Exception as error:  # of several types
            raise LatencyError(f"OpenVINO cannot run a {type(module).__name__}: {first_line(error)}") from error

        def call(held: object = array) -> float:  # OpenVINO does not keep it, and reads whatever comes there
            start = time.perf_counter()
            request.infer()
            return (time.perf_counter() - start) * 1e3

        return Loaded(call, request.get_output_tensor().data.copy())


RUNTIMES: dict[str, type[Runtime]] = {
    runtime.name: runtime
    for runtime in (OnnxRuntime, OpenVino, LiteRt, ExecuTorch, TorchRuntime, CompiledTorch, CudaRuntime)
}


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
        raise LatencyError(f"a {type(module).__name__} cannot be exported to ONNX: {first_line(error)}") from error


def _traced(module: nn.Module, example: torch.Tensor) -> bytes:
    buffer: Any = io.BytesIO()  # the annotation of `export` leaves buffers out
    torch.onnx.export(module, (example,), buffer, dynamo=False, input_names=["x"])
    return buffer.getvalue()


def _exported(module: nn.Module, example: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    program: Any = torch.onnx.export(module, (example,), dynamo=True, input_names=["x"], verbose=False)
    program.save(buffer)
    return buffer.getvalue()

"""Runtimes that execute modules: one latency is comparable only with others of the same runtime.

ONNX Runtime is the default: its latencies agree with other deployment runtimes within about a tenth, while
eager PyTorch is several times slower on a CPU and ranks small networks by their number of operations.
"""

from __future__ import annotations

import copy
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.errors import LatencyError, one_of
from hiernas.latency.runner import by_turns, cpu_name, load_onnx, load_onnxruntime, timed
from hiernas.latency.table import Entry
from hiernas.machine import usable_cores
from hiernas.quiet import quiet

if TYPE_CHECKING:
    from hiernas.latency.runner import TimedCall

MOST_DIFFERENT = 1e-2  # of the largest output; float32 differs by 1e-6, TF32 and bfloat16 by some 1e-3


@dataclass(frozen=True)
class Loaded:
    """A module in a runtime: the call that runs it once and returns the milliseconds, and what it computed."""

    call: TimedCall
    output: np.ndarray


class Runtime(Protocol):
    """Executes modules on one device, always with the same number of threads and images."""

    name: str
    version: str
    threads: int
    batch: int
    device: str  # the processor's name
    inner_layout: bool  # whether tensors are converted where they enter and leave a network

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        self.threads, self.batch, self.device = threads, batch, cpu_name()
        self.version = self.open()

    def open(self) -> str:
        """Look for all that is needed; returns the version. Raises `LatencyError` where its package or device is not here."""
        ...

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Load a module in evaluation mode, which may be changed, for an input [batch, C, H, W], and run it once.

        Raises `LatencyError` where the runtime cannot run it.
        """
        ...

    def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> TimedCall:
        """Load a copy of a module for inputs [batch, C, H, W], and compare its output with PyTorch's.

        Raises `LatencyError` where the runtime cannot run it, or computes something else.
        """
        x = example(self.batch, input_size)
        loaded = self.load(copy.deepcopy(module).eval().cpu(), x)
        found = difference(module, x, loaded.output)
        if not found <= MOST_DIFFERENT:
            raise LatencyError(
                f"{self.name} {self.version} computes something else than PyTorch for a {type(module).__name__} of inputs "
                f"{input_size} (difference {found:.1e} of the largest output), so its latency means nothing; use another "
                "runtime or version"
            )
        return loaded.call

    def measure(self, module: nn.Module, input_size: tuple[int, int, int], runs: int, warmup: int) -> Entry:
        """Latency of one module or whole network: at least `runs` runs and, if short, about 30 ms or 200 runs."""
        return Entry(**by_turns([self.prepare(module, input_size)], runs, warmup)[0])


def example(batch: int, input_size: tuple[int, int, int]) -> Tensor:
    """Fixed noise [batch, C, H, W]."""
    return torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0))


def difference(module: nn.Module, x: Tensor, output: np.ndarray) -> float:
    """Largest difference between an output and the module's in PyTorch, relative to the largest value."""
    with torch.inference_mode():
        expected = copy.deepcopy(module).eval().cpu()(x).numpy()
    if output.shape != expected.shape:
        return float("inf")
    return float(np.abs(output - expected).max(initial=0.0) / max(np.abs(expected).max(initial=0.0), 1e-12))


@contextmanager
def _refusing(message: str, way_out: str = "") -> Iterator[None]:
    """Whatever a runtime or converter raises, of many types, as a `LatencyError` with the first line of its text."""
    try:
        yield
    except Exception as error:
        raise LatencyError(f"{message}: {_first_line(error)}{way_out}") from error


def _package(name: str, extra: str) -> Any:
    """An optional package; raises `LatencyError` that names the extra which installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LatencyError(
            f"the runtime '{extra}' cannot be loaded ({_first_line(error)}); install it: pip install 'hiernas[{extra}]'"
        ) from error


def _first_line(error: Exception) -> str:
    """The first line of an error's text that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# -- on the processor, from ONNX files ---------------------------------------------------------------------------


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, with all graph optimisations. Input and output stay in buffers bound beforehand."""

    name = "onnxruntime"
    inner_layout = True

    def open(self) -> str:
        return str(load_onnxruntime().__version__)

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Export and load a module. Raises `LatencyError` where it cannot be exported or loaded."""
        model = to_onnx(module, x)
        with _refusing(f"ONNX Runtime cannot run a {type(module).__name__}"):
            return Loaded(*load_onnx(model, x.numpy(), self.threads))


class OpenVino(Runtime):
    """OpenVINO on the CPU in float32, with the hint LATENCY. Needs the extra hiernas[openvino]."""

    name = "openvino"
    inner_layout = True

    def open(self) -> str:
        self._openvino = _package("openvino", "openvino")
        self._core = self._openvino.Core()
        return str(self._openvino.__version__).split("-")[0]  # without the build

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Export to ONNX and load a module. Raises `LatencyError` where it cannot be exported or loaded."""
        # without the precision hint OpenVINO takes bfloat16 where the processor has it
        hints = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        model, array = to_onnx(module, x), x.numpy()
        with _refusing(f"OpenVINO cannot run a {type(module).__name__}"):
            request = self._core.compile_model(self._core.read_model(model), "CPU", hints).create_infer_request()
            request.set_input_tensor(self._openvino.Tensor(array, shared_memory=True))
            request.infer()
        # OpenVINO does not keep the array, and reads whatever comes there
        return Loaded(timed(request.infer, array), request.get_output_tensor().data.copy())


def to_onnx(module: nn.Module, example: Tensor) -> bytes:
    """A module as an ONNX file with one input `x`, by the tracing exporter (it is 40 times as fast) or the new one."""
    module = copy.deepcopy(module).eval().cpu()
    try:
        with quiet():
            return _traced(module, example)
    except Exception:  # the tracing exporter is gone from this torch, or does not know an operation
        pass
    buffer = io.BytesIO()
    with quiet(), _refusing(f"a {type(module).__name__} cannot be exported to ONNX"):
        program: Any = torch.onnx.export(module, (example,), dynamo=True, input_names=["x"], verbose=False)
        program.save(buffer)
    return buffer.getvalue()


def _traced(module: nn.Module, example: Tensor) -> bytes:
    buffer: Any = io.BytesIO()  # the annotation of `export` leaves buffers out
    torch.onnx.export(module, (example,), buffer, dynamo=False, input_names=["x"])
    return buffer.getvalue()


# -- those of phones and small boards, on the processor at hand --------------------------------------------------
# Both compute with XNNPACK. Their converters take about a second per operation, and the packages are large.


class LiteRt(Runtime):
    """LiteRT (TensorFlow Lite) on the CPU, with XNNPACK. Needs the extra hiernas[litert]."""

    name = "litert"
    inner_layout = True

    def open(self) -> str:
        with _silent():
            self._converter = _package("litert_torch", "litert")
            self._interpreter = _package("ai_edge_litert.interpreter", "litert")
        return metadata.version("ai-edge-litert")

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Convert and load a module. Raises `LatencyError` where it cannot be converted or loaded."""
        with _refusing(f"LiteRT cannot run a {type(module).__name__}"), _silent(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "module.tflite"
            self._converter.convert(module, (x,)).export(str(path))
            interpreter = self._interpreter.Interpreter(model_content=path.read_bytes(), num_threads=self.threads)
            interpreter.allocate_tensors()
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x.numpy())
            interpreter.invoke()
            output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).copy()
        return Loaded(timed(interpreter.invoke), output)


class ExecuTorch(Runtime):
    """ExecuTorch on the CPU, with XNNPACK. Needs the extra hiernas[executorch]."""

    name = "executorch"
    inner_layout = True

    def open(self) -> str:
        with _silent():
            self._exir = _package("executorch.exir", "executorch")
            self._xnnpack = _package("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
            self._runtime = _package("executorch.extension.pybindings.portable_lib", "executorch")
        return metadata.version("executorch")

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Export and load a module. Raises `LatencyError` where it cannot be exported or loaded."""
        with _silent():
            self._runtime._unsafe_reset_threadpool(self.threads)  # of the whole process; there is no public setting
        with _refusing(f"ExecuTorch cannot run a {type(module).__name__}"), _silent():
            partitioner = [self._xnnpack.XnnpackPartitioner()]
            edge = self._exir.to_edge_transform_and_lower(torch.export.export(module, (x,)), partitioner=partitioner)
            file = bytes(edge.to_executorch().buffer)  # which the program reads without keeping it alive
            program = self._runtime._load_for_executorch_from_buffer(file)
            output = program.forward([x])[0].numpy().copy()
        return Loaded(timed(partial(program.forward, [x]), file), output)


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing on standard output and error, not even what C++ writes there past Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with quiet(), open(os.devnull, "w") as nowhere:
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            yield
    finally:
        for number, copied in zip((1, 2), kept, strict=True):
            os.dup2(copied, number)
            os.close(copied)


# -- PyTorch itself ----------------------------------------------------------------------------------------------


class TorchRuntime(Runtime):
    """Eager PyTorch on the CPU: for networks that are deployed so; it is several times slower than the others."""

    name = "torch"
    inner_layout = False

    def open(self) -> str:
        return str(torch.__version__)

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Nothing is converted: the module itself is called."""
        return _on_cpu(module, x, self.threads)


class CompiledTorch(Runtime):
    """PyTorch on the CPU, compiled by torch.compile with frozen weights. Needs a C++ compiler and takes its time."""

    name = "torch_compiled"
    inner_layout = True

    def open(self) -> str:
        return str(torch.__version__)

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Compile a module. Raises `LatencyError` where it cannot be compiled, or there is no compiler."""
        import torch._inductor.config as inductor

        # frozen weights fold the batch norms into the convolutions; without, compiling gains little
        settings = {"freezing": True, "cpp.threads": self.threads, "compile_threads": 1}
        way_out = "; it needs a C++ compiler (such as g++); measure with another runtime where there is none"
        with _refusing(f"torch.compile cannot compile a {type(module).__name__}", way_out), quiet(), inductor.patch(settings):
            return _on_cpu(torch.compile(_new_function(module), dynamic=False, fullgraph=True), x, self.threads)


def _new_function(module: nn.Module) -> Callable[[Tensor], Tensor]:
    # torch.compile keeps its results by the code of a function, and after 8 of them goes on uncompiled without a
    # word; so every module is called by a function with code of its own
    def forward(x: Tensor) -> Tensor:
        return module(x)

    code = forward.__code__.replace(co_name=f"forward_{id(module)}")
    return FunctionType(code, forward.__globals__, "forward", None, forward.__closure__)


def _on_cpu(function: Callable[[Tensor], Tensor], x: Tensor, threads: int) -> Loaded:
    run = timed(partial(function, x))

    def call() -> float:
        with _without_gradients(threads):
            return run()

    with _without_gradients(threads):
        return Loaded(call, function(x).numpy().copy())


@contextmanager
def _without_gradients(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


class CudaRuntime(Runtime):
    """Eager PyTorch on a GPU, timed by the GPU's own clock (CUDA events)."""

    name = "cuda"
    inner_layout = False

    def open(self) -> str:
        if not torch.cuda.is_available():
            raise LatencyError("PyTorch finds no GPU here; measure on the CPU, or on a machine with a GPU")
        self.device = torch.cuda.get_device_name()
        return f"{torch.__version__} cuda {torch.version.cuda or torch.version.hip}"

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Move a module to the GPU. Raises `LatencyError` where it does not fit or run."""
        with _refusing(f"the GPU cannot run a {type(module).__name__}"), torch.no_grad():
            module, x = module.cuda(), x.cuda()
            output = module(x).cpu().numpy()
        event: Any = torch.cuda.Event  # it has no annotations
        start, end = event(enable_timing=True), event(enable_timing=True)

        def call() -> float:
            torch.cuda.synchronize()  # what was asked for before is not timed
            with torch.no_grad():
                start.record()
                module(x)
                end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

        return Loaded(call, output)


RUNTIMES: dict[str, type[Runtime]] = {
    runtime.name: runtime for runtime in (OnnxRuntime, OpenVino, LiteRt, ExecuTorch, TorchRuntime, CompiledTorch, CudaRuntime)
}

RUNTIME = "onnxruntime"  # where none is named


def make_runtime(name: str, threads: int) -> Any:
    """A runtime by name."""
    one_of("runtime", name, RUNTIMES, LatencyError)
    if not 1 <= threads <= usable_cores():
        raise LatencyError(
            f"threads is {threads}, and this process may use {usable_cores()} cores: more threads than cores wait for each "
            f"other, and such a latency says nothing; give 1 to {usable_cores()}"
        )
    return RUNTIMES[name](threads=threads)

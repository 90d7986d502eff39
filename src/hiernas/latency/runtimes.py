"""Runtimes that execute modules: one latency is comparable only with others of the same runtime.

ONNX Runtime is the default: its latencies agree with other deployment runtimes within about a tenth, while
eager PyTorch is several times slower on a CPU and ranks small networks by their number of operations. `hiernas.names`
says of each what it is.
"""

from __future__ import annotations

import copy
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.errors import LatencyError, one_of
from hiernas.host import first_line, quiet, usable_cores
from hiernas.latency.runner import cpu_name, load_onnx, load_onnxruntime, timed

MOST_DIFFERENT = 1e-2  # of the largest output; float32 differs by 1e-6, TF32 and bfloat16 by some 1e-3
MOST_IN_INT8 = 0.2  # networks of 8 to 24 layers differ by 0.01 to 0.03; something else, by about 1
RUNTIME = "onnxruntime"  # where none is named

Loaded = tuple[Callable[[], float], np.ndarray]  # runs a module once and returns the milliseconds; what it computed


@dataclass(frozen=True)
class Kind:
    """How a runtime is asked, see `RUNTIMES`."""

    version: Callable[[], str]  # looks for all that is needed; `LatencyError` where its package or device is not here
    load: Callable[[nn.Module, Tensor, int], Loaded]  # a module in evaluation mode, which may be changed; its input; threads
    inner_layout: bool = True  # whether tensors are converted where they enter and leave a network
    most_different: float = MOST_DIFFERENT


class Runtime:
    """Executes modules on one device, always with the same number of threads and images."""

    def __init__(self, name: str = RUNTIME, threads: int = 1, batch: int = 1) -> None:
        self.runtime, self.threads, self.batch = name, threads, batch
        self.version, self.inner_layout = RUNTIMES[name].version(), RUNTIMES[name].inner_layout
        self.device = torch.cuda.get_device_name() if name == "cuda" else cpu_name()

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Load a module in evaluation mode, which may be changed, for an input [batch, C, H, W], and run it once.

        Raises `LatencyError` where the runtime cannot run it.
        """
        try:
            return RUNTIMES[self.runtime].load(module, x, self.threads)
        except LatencyError:
            raise
        except Exception as error:  # of many types
            raise LatencyError(f"{self.runtime} cannot run a {type(module).__name__}: {first_line(error)}") from error

    def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> Callable[[], float]:
        """Load a copy of a module for inputs [batch, C, H, W], and compare its output with PyTorch's.

        Raises `LatencyError` where the runtime cannot run it, or computes something else.
        """
        x = example(self.batch, input_size)
        call, output = self.load(copy.deepcopy(module).eval().cpu(), x)
        found = difference(module, x, output)
        if not found <= RUNTIMES[self.runtime].most_different:
            raise LatencyError(
                f"{self.runtime} {self.version} computes something else than PyTorch for a {type(module).__name__} of inputs "
                f"{input_size} (difference {found:.1e} of the largest output), so its latency means nothing; use another "
                "runtime or version"
            )
        return call


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


def packages(extra: str, *names: str) -> list[Any]:
    """Optional packages; raises `LatencyError` that names the extra which installs them."""
    try:
        with silent():
            return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise LatencyError(
            f"the runtime '{extra}' cannot be loaded ({first_line(error)}); install it: pip install 'hiernas[{extra}]'"
        ) from error


@contextmanager
def silent() -> Iterator[None]:
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


# -- on the processor, from ONNX files ---------------------------------------------------------------------------


@cache
def openvino_core(openvino: Any) -> Any:
    """One for the process: a core gives signals a stack, and the last of several leaves them one that is gone."""
    return openvino.Core()


def _openvino(module: nn.Module, x: Tensor, threads: int) -> Loaded:
    (openvino,), array = packages("openvino", "openvino"), x.numpy()
    # without the precision hint OpenVINO takes bfloat16 where the processor has it
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino_core(openvino)
    request = core.compile_model(core.read_model(to_onnx(module, x)), "CPU", hints).create_infer_request()
    request.set_input_tensor(openvino.Tensor(array, shared_memory=True))
    request.infer()
    # OpenVINO does not keep the array, and reads whatever comes there
    return timed(request.infer, array), request.get_output_tensor().data.copy()


def to_onnx(module: nn.Module, x: Tensor, names: tuple[str, str] = ("x", "y"), any_batch: bool = False) -> bytes:
    """A module in evaluation mode as an ONNX file with one input and one output, of these names.

    For the number of images in `x` by the tracing exporter, which is 40 times as fast, for any number by the new one; where
    it does not know an operation, or is gone from this torch, by the other.
    """
    module, reason = copy.deepcopy(module).eval().cpu(), ""
    for write in (_by_dynamo, _by_tracing) if any_batch else (_by_tracing, _by_dynamo):
        try:
            with quiet():
                return write(module, x, names, any_batch)
        except Exception as error:  # of many types
            reason = first_line(error)
    raise LatencyError(f"a {type(module).__name__} cannot be exported to ONNX: {reason}")


def _by_tracing(module: nn.Module, x: Tensor, names: tuple[str, str], any_batch: bool) -> bytes:
    file: Any = io.BytesIO()  # the annotation of `export` leaves buffers out
    axes = {name: {0: "batch"} for name in names} if any_batch else None
    torch.onnx.export(module, (x,), file, dynamo=False, input_names=names[:1], output_names=names[1:], dynamic_axes=axes)
    return bytes(file.getvalue())


def _by_dynamo(module: nn.Module, x: Tensor, names: tuple[str, str], any_batch: bool) -> bytes:
    program: Any = torch.onnx.export(
        module, (x,), dynamo=True, input_names=names[:1], output_names=names[1:], external_data=False, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},) if any_batch else None,
    )  # fmt: skip
    return bytes(program.model_proto.SerializeToString())


def quantised(file: bytes, batches: Iterable[Tensor], name: str) -> bytes:
    """An ONNX file in INT8, by ONNX Runtime's static quantisation, which raises almost anything where it cannot.

    Batch norms are folded first. Weights get a scale per output channel, activations one per tensor, found on `batches` of the
    input `name`.
    """
    asked = ({name: batch.numpy()} for batch in batches)
    reader = SimpleNamespace(get_next=partial(next, asked, None))  # in the form that ONNX Runtime asks for images
    tools = load_onnxruntime("quantization")
    kinds = {"weight_type": tools.QuantType.QInt8, "activation_type": tools.QuantType.QUInt8}
    with silent(), tempfile.TemporaryDirectory() as folder:
        plain, prepared, small = (Path(folder, f"{stage}.onnx") for stage in ("plain", "prepared", "small"))
        plain.write_bytes(file)
        load_onnxruntime("quantization.shape_inference").quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        tools.quantize_static(prepared, small, reader, per_channel=True, **kinds)
        return small.read_bytes()


# -- those of phones and small boards, on the processor at hand --------------------------------------------------
# Both compute with XNNPACK. Their converters take about a second per operation, and the packages are large.

LITERT = ("litert", "litert_torch", "ai_edge_litert.interpreter")  # the extra, and its packages
EXECUTORCH = (
    "executorch", "executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner",
    "executorch.extension.pybindings.portable_lib",
)  # fmt: skip


def _version(distribution: str, needed: tuple[str, ...]) -> str:
    packages(*needed)
    return metadata.version(distribution)


def to_litert(module: nn.Module, x: Tensor) -> bytes:
    """A module in evaluation mode as a .tflite file, for inputs of this shape."""
    converter, _ = packages(*LITERT)
    with silent(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.tflite"
        converter.convert(module, (x,)).export(str(path))
        return path.read_bytes()


def load_litert(file: bytes, threads: int = 1) -> tuple[Callable[[], None], Callable[[Tensor], Tensor]]:
    """What runs a .tflite file again, and what runs it on an input."""
    _, interpreters = packages(*LITERT)
    with silent():
        interpreter = interpreters.Interpreter(model_content=file, num_threads=threads)
        interpreter.allocate_tensors()
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: Tensor) -> Tensor:
        interpreter.set_tensor(given["index"], x.numpy())
        interpreter.invoke()
        return torch.from_numpy(interpreter.get_tensor(found["index"]).copy())

    return interpreter.invoke, run


def _litert(module: nn.Module, x: Tensor, threads: int) -> Loaded:
    again, run = load_litert(to_litert(module, x), threads)
    with silent():
        output = run(x).numpy()
    return timed(again), output


def to_executorch(module: nn.Module, x: Tensor) -> bytes:
    """A module in evaluation mode as a .pte file, for inputs of this shape."""
    exir, xnnpack, _ = packages(*EXECUTORCH)
    with silent():
        partitioner = [xnnpack.XnnpackPartitioner()]
        edge = exir.to_edge_transform_and_lower(torch.export.export(module, (x,)), partitioner=partitioner)
        return bytes(edge.to_executorch().buffer)


def load_executorch(file: bytes) -> Callable[[list[Tensor]], list[Tensor]]:
    """What a .pte file computes. The program reads the bytes without keeping them alive: who calls it must."""
    with silent():
        return packages(*EXECUTORCH)[-1]._load_for_executorch_from_buffer(file).forward


def _executorch(module: nn.Module, x: Tensor, threads: int) -> Loaded:
    file = to_executorch(module, x)
    with silent():
        packages(*EXECUTORCH)[-1]._unsafe_reset_threadpool(threads)  # of the whole process; there is no public setting
        run = load_executorch(file)
        output = run([x])[0].numpy().copy()
    return timed(partial(run, [x]), file), output


# -- PyTorch itself ----------------------------------------------------------------------------------------------


def _compiled(module: nn.Module, x: Tensor, threads: int) -> Loaded:
    import torch._inductor.config as inductor

    # frozen weights fold the batch norms into the convolutions; without, compiling gains little
    settings = {"freezing": True, "cpp.threads": threads, "compile_threads": 1}
    try:
        with quiet(), inductor.patch(settings):
            return _on_cpu(torch.compile(_new_function(module), dynamic=False, fullgraph=True), x, threads)
    except Exception as error:  # of many types
        raise LatencyError(
            f"torch.compile cannot compile a {type(module).__name__}: {first_line(error)}; it needs a C++ compiler (such as "
            "g++); measure with another runtime where there is none"
        ) from error


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
        return call, function(x).numpy().copy()


@contextmanager
def _without_gradients(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def _cuda_version() -> str:
    if not torch.cuda.is_available():
        raise LatencyError("PyTorch finds no GPU here; measure on the CPU, or on a machine with a GPU")
    return f"{torch.__version__} cuda {torch.version.cuda or torch.version.hip}"


def _cuda(module: nn.Module, x: Tensor, threads: int) -> Loaded:
    """Timed by the GPU's own clock."""
    module, x = module.cuda(), x.cuda()
    with torch.no_grad():
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

    return call, output


RUNTIMES: dict[str, Kind] = {
    "onnxruntime": Kind(lambda: str(load_onnxruntime().__version__), lambda m, x, n: load_onnx(to_onnx(m, x), x.numpy(), n)),
    "onnxruntime-int8": Kind(
        lambda: RUNTIMES["onnxruntime"].version(),
        lambda m, x, n: load_onnx(quantised(to_onnx(m, x), [x], "x"), x.numpy(), n), most_different=MOST_IN_INT8,
    ),
    "openvino": Kind(lambda: packages("openvino", "openvino")[0].__version__.split("-")[0], _openvino),  # without the build
    "litert": Kind(partial(_version, "ai-edge-litert", LITERT), _litert),
    "executorch": Kind(partial(_version, "executorch", EXECUTORCH), _executorch),
    "torch": Kind(lambda: str(torch.__version__), _on_cpu, inner_layout=False),  # nothing is converted
    "torch_compiled": Kind(lambda: str(torch.__version__), _compiled),
    "cuda": Kind(_cuda_version, _cuda, inner_layout=False),
}  # fmt: skip


def make_runtime(name: str, threads: int) -> Runtime:
    one_of("runtime", name, RUNTIMES, LatencyError)
    cores = usable_cores()
    if not 1 <= threads <= cores:
        raise LatencyError(
            f"threads is {threads}, and this process may use {cores} cores: more wait for each other; give 1 to {cores}"
        )
    return Runtime(name, threads)

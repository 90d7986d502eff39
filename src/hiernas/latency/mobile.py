"""The runtimes of phones and small boards, on the processor at hand: LiteRT (TensorFlow Lite) and ExecuTorch.

Both compute with XNNPACK. Their converters take about a second per operation, and the packages are large.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hiernas.errors import LatencyError
from hiernas.latency.runner import cpu_name
from hiernas.latency.timing import Loaded, Runtime, first_line, package, version_of
from hiernas.quiet import quiet


class LiteRt(Runtime):
    """LiteRT (TensorFlow Lite) on the CPU, with XNNPACK. Needs the extra hiernas[litert]."""

    name = "litert"
    inner_layout = True

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        with silent():
            self._converter = package("litert_torch", "litert")
            self._interpreter = package("ai_edge_litert.interpreter", "litert")
        self.version = version_of("ai-edge-litert")
        self.threads, self.batch, self.device = threads, batch, cpu_name()

    def load(self, module: nn.Module, x: torch.Tensor) -> Loaded:
        """Convert and load a module. Raises `LatencyError` where it cannot be converted or loaded."""
        try:
            with silent():
                model = self._converted(module, x)
                interpreter = self._interpreter.Interpreter(model_content=model, num_threads=self.threads)
                interpreter.allocate_tensors()
                interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x.numpy())
                interpreter.invoke()
            output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).copy()
        except Exception as error:  # of many types
            raise LatencyError(f"LiteRT cannot run a {type(module).__name__}: {first_line(error)}") from error

        def call() -> float:
            start = time.perf_counter()
            interpreter.invoke()
            return (time.perf_counter() - start) * 1e3

        return Loaded(call, output)

    def _converted(self, module: nn.Module, x: torch.Tensor) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "module.tflite"
            self._converter.convert(module, (x,)).export(str(path))
            return path.read_bytes()


class ExecuTorch(Runtime):
    """ExecuTorch on the CPU, with XNNPACK. Needs the extra hiernas[executorch]."""

    name = "executorch"
    inner_layout = True

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        with silent():
            self._exir = package("executorch.exir", "executorch")
            self._xnnpack = package("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
            self._runtime = package("executorch.extension.pybindings.portable_lib", "executorch")
        self.version = version_of("executorch")
        self.threads, self.batch, self.device = threads, batch, cpu_name()

    def load(self, module: nn.Module, x: torch.Tensor) -> Loaded:
        """Export and load a module. Raises `LatencyError` where it cannot be exported or loaded."""
        with silent():
            self._runtime._unsafe_reset_threadpool(self.threads)  # of the whole process; there is no public setting
        try:
            with silent():
                program = _Program(self._runtime, self._exported(module, x))
                output = program.forward([x])[0].numpy().copy()
        except Exception as error:  # of many types
            raise LatencyError(f"ExecuTorch cannot run a {type(module).__name__}: {first_line(error)}") from error

        def call() -> float:
            start = time.perf_counter()
            program.forward([x])
            return (time.perf_counter() - start) * 1e3

        return Loaded(call, output)

    def _exported(self, module: nn.Module, x: torch.Tensor) -> bytes:
        exported = torch.export.export(module, (x,))
        edge = self._exir.to_edge_transform_and_lower(exported, partitioner=[self._xnnpack.XnnpackPartitioner()])
        return bytes(edge.to_executorch().buffer)


class _Program:
    """A loaded program and its file, which the runtime reads without keeping it alive."""

    def __init__(self, runtime: Any, file: bytes) -> None:
        self._file = file
        self.forward = runtime._load_for_executorch_from_buffer(file).forward


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
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)

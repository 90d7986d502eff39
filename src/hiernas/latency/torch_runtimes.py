"""PyTorch as a runtime: eager and compiled on the CPU, eager on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from hiernas.errors import LatencyError
from hiernas.latency.runner import cpu_name
from hiernas.latency.timing import Loaded, Runtime, first_line
from hiernas.quiet import quiet


class TorchRuntime(Runtime):
    """Eager PyTorch on the CPU: for networks that are deployed so; it is several times slower than the others."""

    name = "torch"
    inner_layout = False

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        self.version = str(torch.__version__)
        self.threads, self.batch, self.device = threads, batch, cpu_name()

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Nothing is converted: the module itself is called."""
        return _on_cpu(module, x, self.threads)


class CompiledTorch(Runtime):
    """PyTorch on the CPU, compiled by torch.compile with frozen weights. Needs a C++ compiler and takes its time."""

    name = "torch_compiled"
    inner_layout = True

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        self.version = str(torch.__version__)
        self.threads, self.batch, self.device = threads, batch, cpu_name()

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Compile a module. Raises `LatencyError` where it cannot be compiled, or there is no compiler."""
        import torch._inductor.config as inductor

        # frozen weights fold the batch norms into the convolutions; without, compiling gains little
        settings = {"freezing": True, "cpp.threads": self.threads, "compile_threads": 1}
        try:
            with quiet(), inductor.patch(settings):
                return _on_cpu(torch.compile(_new_function(module), dynamic=False, fullgraph=True), x, self.threads)
        except Exception as error:  # of many types
            raise LatencyError(
                f"torch.compile cannot compile a {type(module).__name__}: {first_line(error)}; it needs a C++ compiler "
                "(such as g++); measure with another runtime where there is none"
            ) from error


def _new_function(module: nn.Module) -> Callable[[Tensor], Tensor]:
    # torch.compile keeps its results by the code of a function, and after 8 of them goes on uncompiled without a
    # word; so every module is called by a function with code of its own
    def forward(x: Tensor) -> Tensor:
        return module(x)

    code = forward.__code__.replace(co_name=f"forward_{id(module)}")
    return FunctionType(code, forward.__globals__, "forward", None, forward.__closure__)


def _on_cpu(function: Callable[[Tensor], Tensor], x: Tensor, threads: int) -> Loaded:
    with torch.no_grad(), _threads(threads):
        output = function(x).numpy().copy()

    def call() -> float:
        with torch.no_grad(), _threads(threads):
            start = time.perf_counter()
            function(x)
            return (time.perf_counter() - start) * 1e3

    return Loaded(call, output)


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CudaRuntime(Runtime):
    """Eager PyTorch on a GPU, timed by the GPU's own clock (CUDA events)."""

    name = "cuda"
    inner_layout = False

    def __init__(self, threads: int = 1, batch: int = 1) -> None:
        if not torch.cuda.is_available():
            raise LatencyError("PyTorch finds no GPU here; measure on the CPU, or on a machine with a GPU")
        self.version = f"{torch.__version__} cuda {torch.version.cuda or torch.version.hip}"
        self.threads, self.batch, self.device = threads, batch, torch.cuda.get_device_name()

    def load(self, module: nn.Module, x: Tensor) -> Loaded:
        """Move a module to the GPU. Raises `LatencyError` where it does not fit or run."""
        try:
            module, x = module.cuda(), x.cuda()
            with torch.no_grad():
                output = module(x).cpu().numpy()
        except RuntimeError as error:
            raise LatencyError(f"the GPU cannot run a {type(module).__name__}: {first_line(error)}") from error
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

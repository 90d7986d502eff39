"""What all runtimes share: how a module is loaded, checked against PyTorch, and timed."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from hiernas.errors import LatencyError
from hiernas.latency.runner import IN_TURN, by_turns
from hiernas.latency.table import Entry

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
        """Raises `LatencyError` where the runtime's package or its kind of device is not here."""
        ...

    def load(self, module: nn.Module, x: torch.Tensor) -> Loaded:
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
        return measure_by_turns([self.prepare(module, input_size)], runs, warmup)[0]


def measure_by_turns(calls: Sequence[TimedCall], runs: int, warmup: int, in_turn: int = IN_TURN) -> list[Entry]:
    """Latencies of several modules, measured four by four in turn (see `runner.by_turns`)."""
    return [Entry(**row) for row in by_turns(calls, runs, warmup, in_turn)]


def difference(module: nn.Module, x: torch.Tensor, output: np.ndarray) -> float:
    """Largest difference between an output and the module's in PyTorch, relative to the largest value."""
    with torch.inference_mode():
        expected = copy.deepcopy(module).eval().cpu()(x).numpy()
    if output.shape != expected.shape:
        return float("inf")
    return float(np.abs(output - expected).max(initial=0.0) / max(np.abs(expected).max(initial=0.0), 1e-12))


def example(batch: int, input_size: tuple[int, int, int]) -> torch.Tensor:
    """Fixed noise [batch, C, H, W]."""
    return torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0))


def package(name: str, extra: str) -> Any:
    """An optional package; raises `LatencyError` that names the extra which installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LatencyError(
            f"the runtime '{extra}' cannot be loaded ({first_line(error)}); install it: pip install 'hiernas[{extra}]'"
        ) from error


def version_of(distribution: str) -> str:
    """The installed version of a distribution."""
    return metadata.version(distribution)


def first_line(error: Exception) -> str:
    """The first line of an error's text that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

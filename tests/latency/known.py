"""A runtime whose latencies are known: what a table of it holds can be written down."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def weights(module: nn.Module) -> int:
    """Weights of all convolutions and linear layers."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear))


class Known:
    """A call takes 0.05 ms, a weight 0.1 us, an end of an operation with an inner layout 0.02 ms.

    A whole network (it has a stem) takes `constant` + `scale` times what the sum of its operations says.
    """

    runtime, version, threads, batch, device = "known", "1", 1, 1, "imaginary"
    overhead, per_weight, edge = 0.05, 1e-4, 0.02

    def __init__(self, constant: float = 0.0, scale: float = 1.0, inner_layout: bool = True) -> None:
        self.constant, self.scale, self.inner_layout = constant, scale, inner_layout
        self.prepared = 0

    def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> Callable[[], float]:
        self.prepared += 1
        ms = self.overhead + self.per_weight * weights(module)
        if hasattr(module, "stem"):
            ms = self.constant + self.scale * ms
        elif weights(module) and self.inner_layout:
            ends = (input_size[0] != 3) + (not any(isinstance(m, nn.Linear) for m in module.modules()))
            ms += self.edge * ends
        return lambda: ms

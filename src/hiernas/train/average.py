"""Exponential moving average of a network's weights and batch-norm statistics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """A running average of everything in a network's state; early on it forgets faster, so that it is never stale.

    The decay of update n is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._current = dict(network.state_dict())  # shares its memory with the network
        self.values = {name: value.clone() for name, value in self._current.items()}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Take in the network's state after `done` updates before this one."""
        weight = 1.0 - min(self.decay, (1.0 + done) / (10.0 + done))
        floats = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[n] for n in floats], [self._current[n] for n in floats], weight)
        for name in self.values.keys() - set(floats):
            self.values[name].copy_(self._current[name])

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Go on with saved values."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average into the network."""
        for name, value in self._current.items():
            value.copy_(self.values[name])

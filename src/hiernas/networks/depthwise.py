"""Depthwise convolutions whose backward pass is as fast as their forward pass, on CPUs.

The gradient of the input of a convolution of stride 1 is itself a convolution, with the kernel turned by 180 degrees.
The library's own backward pass for dilated depthwise kernels is several times slower than that (docs/log.md).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = padding, dilation
        return F.conv2d(x, weight, None, 1, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (x, weight), (padding, dilation), (gradient,) = ctx.saved_tensors, ctx.settings, gradients
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            rest = dilation * (weight.shape[2] - 1) - padding
            to_x = F.conv2d(gradient, weight.flip(2, 3), None, 1, rest, dilation, len(weight))
        if ctx.needs_input_grad[1]:
            twice = [padding, padding], [dilation, dilation]
            _, to_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [1, 1], *twice, False, [0, 0], len(weight), [False, True, False]
            )
        return to_x, to_weight, None, None


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`conv(x)`, with the faster backward pass where it has one: depthwise, square, stride 1, no bias, on a CPU."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.stride == (1, 1)
    square = conv.kernel_size[0] == conv.kernel_size[1] and conv.bias is None
    if depthwise and square and x.device.type == "cpu" and torch.is_grad_enabled():
        settings = int(conv.padding[0]), conv.dilation[0]
        made: Tensor = _Depthwise.apply(x, conv.weight, *settings)  # type: ignore[no-untyped-call] # torch has no types here
        return made
    return conv(x)

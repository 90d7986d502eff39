"""Candidate operations of cells (DARTS, Liu et al. 2019, quark0/darts), and what else costs something between them.

Operations are frozen values like those of `ops`. Within a cell all states have the same number of channels; an edge of
stride 2 halves its input. `affine`: whether batch norms have scale and shift; DARTS' search networks have none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiernas.networks.ops import Op

OPERATIONS = (  # in the order of DARTS' alphas
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
    "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
)  # fmt: skip
FREE = OPERATIONS[:4]  # those without a parameter of their own: the edges between cells (H-DAS, rule 1)


def operation(name: str, affine: bool = True, pool_bn: bool = False) -> Op:
    """One of `OPERATIONS`. `pool_bn`: batch norm after pooling."""
    kind, _, size = name.rpartition("_")
    if name == "none":
        return Nothing()
    if name == "skip_connect":
        return SkipConnect(affine)
    if kind in ("max_pool", "avg_pool"):
        return Pool(kind, pool_bn, affine)
    return SeparableConv(int(size[0]), 1 if kind == "sep_conv" else 2, affine)


def _describe(name: str, affine: bool) -> str:
    return name if affine else f"{name}_plain"


@dataclass(frozen=True)
class Nothing:
    """No edge: it adds nothing to its node."""

    name: str = "none"

    def describe(self) -> str:
        return "none"

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        raise TypeError("an edge 'none' has no module")  # skeletons leave it out


@dataclass(frozen=True)
class Pool:
    """3x3 max or average pooling (padding not averaged), where wanted with batch norm."""

    kind: str  # max_pool or avg_pool
    bn: bool = False
    affine: bool = True

    @property
    def name(self) -> str:
        return f"{self.kind}_3x3"

    def describe(self) -> str:
        return self.name + (_describe("_bn", self.affine) if self.bn else "")

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        average = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        pool = average if self.kind == "avg_pool" else nn.MaxPool2d(3, stride, 1)
        return nn.Sequential(pool, nn.BatchNorm2d(cout, affine=self.affine)) if self.bn else pool


@dataclass(frozen=True)
class SkipConnect:
    """Identity; at stride 2 a factorized reduction."""

    affine: bool = True

    @property
    def name(self) -> str:
        return "skip_connect"

    def describe(self) -> str:
        return _describe("skip_connect", self.affine)

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        return nn.Identity() if stride == 1 else FactorizedReduce(cin, cout, self.affine)


@dataclass(frozen=True)
class SeparableConv:
    """ReLU, depthwise and 1x1 convolution, batch norm: twice without dilation (`sep_conv`), once with 2 (`dil_conv`)."""

    kernel: int
    dilation: int
    affine: bool = True

    @property
    def name(self) -> str:
        return f"{'sep' if self.dilation == 1 else 'dil'}_conv_{self.kernel}x{self.kernel}"

    def describe(self) -> str:
        return _describe(self.name, self.affine)

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        if self.dilation > 1:
            return nn.Sequential(*self._half(cin, cout, stride))
        return nn.Sequential(*self._half(cin, cin, stride), *self._half(cin, cout, 1))

    def _half(self, cin: int, cout: int, stride: int) -> list[nn.Module]:
        k, d = self.kernel, self.dilation
        depthwise = nn.Conv2d(cin, cin, k, stride, d * (k // 2), d, groups=cin, bias=False)
        pointwise = nn.Conv2d(cin, cout, 1, bias=False)
        return [nn.ReLU(), depthwise, pointwise, nn.BatchNorm2d(cout, affine=self.affine)]


@dataclass(frozen=True)
class ReLUConv:
    """ReLU, convolution, batch norm. With kernel 1, what brings a cell's input to its channels: at stride 2 a factorized
    reduction. With kernel 3, the last layer of DARTS' ImageNet stem.
    """

    kernel: int
    affine: bool = True

    @property
    def name(self) -> str:
        return f"relu_conv{self.kernel}"

    def describe(self) -> str:
        return _describe(self.name, self.affine)

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        if self.kernel == 1 and stride == 2:
            return FactorizedReduce(cin, cout, self.affine)
        conv = nn.Conv2d(cin, cout, self.kernel, stride, self.kernel // 2, bias=False)
        return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(cout, affine=self.affine))


@dataclass(frozen=True)
class Sum:
    """A term added to others at a node, with a weight of its own or without: counted in latencies only."""

    weighted: bool = False

    @property
    def name(self) -> str:
        return "weighted_sum" if self.weighted else "sum"

    def describe(self) -> str:
        return self.name

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        return Added(0.5 if self.weighted else 1.0)


@dataclass(frozen=True)
class Concat:
    """Several states one behind the other: counted in latencies only."""

    states: int

    @property
    def name(self) -> str:
        return f"concat_{self.states}"

    def describe(self) -> str:
        return self.name

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        return Repeated(self.states)


# -- modules -----------------------------------------------------------------------------------------------------


class Added(nn.Module):
    """x + weight * x: what adding a term takes, with one input."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x + x if self.weight == 1.0 else x + self.weight * x


class Repeated(nn.Module):
    """The input several times, one behind the other: what a concatenation takes, with one input."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.times, 1)


class FactorizedReduce(nn.Module):
    """Half the pixels by two 1x1 convolutions of stride 2, the second one pixel further: [B, C, H, W] -> [B, O, H/2, W/2].

    Odd sides are padded by a pixel for the second one, so that both halves have the same size.
    """

    def __init__(self, cin: int, cout: int, affine: bool = True) -> None:
        super().__init__()
        self.even = nn.Conv2d(cin, cout // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(cin, cout - cout // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(cout, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(F.relu(x))

    def reduce(self, x: Tensor) -> Tensor:
        """The same of an input that is not negative."""
        padded = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        if self.training:  # every second pixel is taken first: torch 2.13's gradient of the weights of a 1x1
            # convolution of stride 2 writes outside its memory on some CPUs (few channels last, about 80 pixels)
            even, odd = x[:, :, ::2, ::2], padded[:, :, 1::2, 1::2]
            halves = F.conv2d(even, self.even.weight), F.conv2d(odd, self.odd.weight)
        else:
            halves = self.even(x), self.odd(padded[:, :, 1:, 1:])
        return self.bn(torch.cat(halves, 1))

"""What networks of cells are made of (DARTS, Liu et al. 2019, quark0/darts): operations, and plain modules.

Operations are frozen values like those of `ops`. Within a cell all states have the same number of channels; an edge of
stride 2 halves its input. `affine`: whether batch norms have scale and shift; DARTS' search networks have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """One of `OPERATIONS` but `none`. `pool_bn`: batch norm after pooling."""
    kind, _, size = name.rpartition("_")
    if name == "skip_connect":
        return SkipConnect(affine)
    if kind in ("max_pool", "avg_pool"):
        return Pool(kind, pool_bn, affine)
    return SeparableConv(int(size[0]), 1 if kind == "sep_conv" else 2, affine)


def _describe(name: str, affine: bool) -> str:
    return name if affine else f"{name}_plain"


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
    name = "skip_connect"

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


# -- modules of operations ---------------------------------------------------------------------------------------


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


# -- modules of networks: cells, graphs of cells, and what holds them --------------------------------------------


class DropPath(nn.Module):
    """In training an image's whole tensor is zeroed with probability `p` and scaled by 1 / (1 - p) otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.p = 0.0  # raised by the training as it goes on

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        keep = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.p)
        return x * keep / (1.0 - self.p)


class Cell(nn.Module):
    """A cell: two inputs, nodes that sum their edges, and the nodes' concatenation as output.

    `edges`: the module of each edge by (source, node); sources 0 and 1 are the inputs, nodes count from 2. A node
    without edges is 0, in the size of the others: half that of the inputs in a `reduction`.
    """

    def __init__(
        self, preprocess0: nn.Module, preprocess1: nn.Module, edges: Mapping[tuple[int, int], nn.Module],
        nodes: int = 4, reduction: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.preprocess0, self.preprocess1 = preprocess0, preprocess1
        self.edges = nn.ModuleDict({f"{source}_{node}": module for (source, node), module in edges.items()})
        self.drop = DropPath()
        self.sources = tuple(tuple(s for s, n in edges if n == node) for node in range(2, 2 + nodes))
        self.nodes, self.reduction = nodes, reduction

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node, sources in enumerate(self.sources, 2):
            terms = [self._edge(source, node, states[source]) for source in sources]
            states.append(sum_of(terms) if terms else nothing(states[0], self.reduction))
        return torch.cat(states[2:], 1)

    def _edge(self, source: int, node: int, x: Tensor) -> Tensor:
        module = self.edges[f"{source}_{node}"]
        return x if isinstance(module, nn.Identity) else self.drop(module(x))


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """The sum of one or more tensors of one shape."""
    return sum(terms[1:], start=terms[0])


def nothing(x: Tensor, halved: bool) -> Tensor:
    """Zeros in the shape of a tensor [B, C, H, W], or of it at stride 2."""
    return torch.zeros_like(x[:, :, ::2, ::2] if halved else x)


class StageGraph(nn.Module):
    """The cells of one stage as a graph (H-DAS): a cell reads the sum of its edges as both inputs.

    `edges`: by (source, node), as in `Cell`, where node 2 is the first cell. `cells`: by node; dead cells are left out.
    The output is the concatenation of the states in `outputs`.
    """

    def __init__(
        self, preprocess0: nn.Module, preprocess1: nn.Module, edges: Mapping[tuple[int, int], nn.Module],
        cells: Mapping[int, nn.Module], outputs: tuple[int, ...],
    ) -> None:  # fmt: skip
        super().__init__()
        self.preprocess0, self.preprocess1 = preprocess0, preprocess1
        self.edges = nn.ModuleDict({f"{source}_{node}": module for (source, node), module in edges.items()})
        self.cells = nn.ModuleDict({str(node): cell for node, cell in cells.items()})
        self.sources = {node: tuple(s for s, n in edges if n == node) for node in cells}
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        states = {0: self.preprocess0(x), 1: self.preprocess1(x)}
        for node, sources in self.sources.items():
            total = sum_of([self.edges[f"{source}_{node}"](states[source]) for source in sources])
            states[node] = self.cells[str(node)](total, total)
        return torch.cat([states[node] for node in self.outputs], 1)


class AuxiliaryHead(nn.Module):
    """A second classifier for training, two thirds into the network: [B, C, H, W] -> [B, classes].

    5x5 average pooling to 2x2, 1x1 convolution to 128, 2x2 convolution to 768, linear. `last_bn`: batch norm after the
    second one; DARTS has it on CIFAR and not on ImageNet. Left out of every count and export.
    """

    train_only = True

    def __init__(self, cin: int, num_classes: int, size: tuple[int, int], last_bn: bool) -> None:
        super().__init__()
        strides = (size[0] - 5, size[1] - 5)  # 8 pixels: 3, 7 pixels: 2; what is left is 2x2
        pool = nn.AvgPool2d(5, strides, count_include_pad=False) if min(strides) > 0 else nn.AdaptiveAvgPool2d(2)
        layers = [
            nn.ReLU(), pool, nn.Conv2d(cin, 128, 1, bias=False), nn.BatchNorm2d(128),
            nn.ReLU(), nn.Conv2d(128, 768, 2, bias=False),
        ]  # fmt: skip
        layers += [nn.BatchNorm2d(768)] if last_bn else []
        self.features = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class CellNet(nn.Module):
    """A row of cells, each reading the two before it: [B, C, H, W] -> [B, classes].

    With an auxiliary head, in training: (logits, auxiliary logits). The head reads the output of cell `auxiliary_at`.
    """

    def __init__(
        self, stem0: nn.Module, stem1: nn.Module, cells: Sequence[nn.Module], classifier: nn.Module,
        auxiliary: nn.Module | None = None, auxiliary_at: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem0, self.stem1 = stem0, stem1
        self.cells = nn.ModuleList(cells)
        self.classifier = classifier
        self.auxiliary = auxiliary
        self.auxiliary_at = auxiliary_at

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        s0 = self.stem0(x)
        s1 = self.stem1(s0)
        for i, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1)
            if self.training and self.auxiliary is not None and i == self.auxiliary_at:
                auxiliary = self.auxiliary(s1)
        logits = self.classifier(s1)
        return (logits, auxiliary) if self.training and self.auxiliary is not None else logits


class StageNet(nn.Module):
    """Stages of cells with a reduction cell between them: [B, C, H, W] -> [B, classes]; auxiliary head as in `CellNet`."""

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], reductions: Sequence[nn.Module],
        classifier: nn.Module, auxiliary: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = stem
        self.stages, self.reductions = nn.ModuleList(stages), nn.ModuleList(reductions)
        self.classifier = classifier
        self.auxiliary = auxiliary

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stages[0](self.stem(x))
        for reduction, stage in zip(self.reductions, list(self.stages)[1:], strict=True):
            last = reduction(x, x)
            x = stage(last)
        logits = self.classifier(x)
        return (logits, self.auxiliary(last)) if self.training and self.auxiliary is not None else logits

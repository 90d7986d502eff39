"""The plain modules of networks of cells: cells, graphs of cells, and what holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


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
        self,
        preprocess0: nn.Module,
        preprocess1: nn.Module,
        edges: Mapping[tuple[int, int], nn.Module],
        nodes: int = 4,
        reduction: bool = False,
    ) -> None:
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
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def nothing(x: Tensor, halved: bool) -> Tensor:
    """Zeros in the shape of a tensor [B, C, H, W], or of it at stride 2."""
    return torch.zeros_like(x[:, :, ::2, ::2] if halved else x)


class StageGraph(nn.Module):
    """The cells of one stage as a graph (H-DAS): a cell reads the sum of its edges as both inputs.

    `edges`: by (source, node), as in `Cell`, where node 2 is the first cell. `cells`: by node; dead cells are left out.
    The output is the concatenation of the states in `outputs`.
    """

    def __init__(
        self,
        preprocess0: nn.Module,
        preprocess1: nn.Module,
        edges: Mapping[tuple[int, int], nn.Module],
        cells: Mapping[int, nn.Module],
        outputs: tuple[int, ...],
    ) -> None:
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
        self,
        stem0: nn.Module,
        stem1: nn.Module,
        cells: Sequence[nn.Module],
        classifier: nn.Module,
        auxiliary: nn.Module | None = None,
        auxiliary_at: int = 0,
    ) -> None:
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
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        reductions: Sequence[nn.Module],
        classifier: nn.Module,
        auxiliary: nn.Module | None = None,
    ) -> None:
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

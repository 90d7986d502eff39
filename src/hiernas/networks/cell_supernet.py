"""The supernet of cell spaces: the weights of all options of all edges, called with gates.

All cells of one kind share their choices, not their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiernas.combinatorics import Decision
from hiernas.errors import SpaceError
from hiernas.gates import Gates
from hiernas.networks.cell_modules import nothing, sum_of
from hiernas.networks.cell_ops import FactorizedReduce
from hiernas.networks.genotype import INPUTS
from hiernas.networks.parts import EdgeChoices, Mixture, Place, build_parts, edges_of
from hiernas.space import Architecture, SearchSpace

POOLS = ("max_pool_3x3", "avg_pool_3x3")
SiteGates = tuple[tuple[int, ...], Tensor | None]  # the active options of one site, and their weights


class Source:
    """One state of a cell, with what the edges that read it have in common, computed once.

    All convolutions begin with the same ReLU, and all edges of a source pool the same pixels; where batch norm behind
    pooling has no parameters, they normalise by the same statistics, too.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._relu: Tensor | None = None
        self._pooled: dict[str, Tensor] = {}
        self._normalised: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def relu(self) -> Tensor:
        if self._relu is None:
            self._relu = F.relu(self.x)
        return self._relu

    def through(self, option: str, op: nn.Module) -> Tensor:
        """The output of an operation, [B, C, H, W]."""
        if isinstance(op, FactorizedReduce):
            return op.reduce(self.relu)
        if option in POOLS:
            return self._pool(option, op)
        if isinstance(op, nn.Sequential) and isinstance(op[0], nn.ReLU):
            y = self.relu
            for layer in list(op)[1:]:
                y = convolve(layer, y) if isinstance(layer, nn.Conv2d) else layer(y)
            return y
        return op(self.x)

    def _pool(self, option: str, op: nn.Module) -> Tensor:
        pool: nn.Module = op[0] if isinstance(op, nn.Sequential) else op
        norm: Any = op[1] if isinstance(op, nn.Sequential) else None
        if option not in self._pooled:
            self._pooled[option] = pool(self.x)
        if norm is None or norm.affine or not norm.training or norm.momentum is None:
            return self._pooled[option] if norm is None else norm(self._pooled[option])
        if option not in self._normalised:
            y = self._pooled[option]
            self._normalised[option] = torch.native_batch_norm(y, None, None, None, None, True, 0.0, norm.eps)
        y, mean, inverse_std = self._normalised[option]
        _observe(norm, mean, inverse_std, y.numel() // y.shape[1])
        return y


@torch.no_grad()
def _observe(norm: nn.BatchNorm2d, mean: Tensor, inverse_std: Tensor, n: int) -> None:
    """What a batch norm in training does to its running statistics, from the batch's."""
    assert norm.running_mean is not None  # ours all track statistics
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    variance = (inverse_std.square().reciprocal() - norm.eps) * (n / max(1, n - 1))
    norm.running_mean.lerp_(mean, norm.momentum or 0.0)
    norm.running_var.lerp_(variance, norm.momentum or 0.0)
    norm.num_batches_tracked.add_(1)


class Edge(nn.Module):
    """All options of one edge of one cell."""

    def __init__(self, modules: Mapping[str, nn.Module], options: tuple[str, ...]) -> None:
        super().__init__()
        self.ops = nn.ModuleDict(modules)
        self.options = options

    def restrict(self, options: Sequence[str]) -> None:
        """Drop all other options."""
        self.options = tuple(options)
        for option in [o for o in self.ops if o not in self.options]:
            del self.ops[option]

    def forward(self, source: Source, gates: SiteGates) -> Tensor | None:
        """The gated sum of the options, [B, C, H, W]; None where only `none` is active."""
        indices, weights = gates
        terms = []
        for position, i in enumerate(indices):
            if self.options[i] != "none":
                y = source.through(self.options[i], self.ops[self.options[i]])
                terms.append(y if weights is None else weights[position] * y)
        return sum_of(terms) if terms else None


class MixedCell(nn.Module):
    """One cell with all options of all its edges; called with the gates of its edges, in their order."""

    def __init__(self, p: Place, decisions: Sequence[Decision], make: Any, nodes: int) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = p.preprocess[0].build(), p.preprocess[1].build()
        self.nodes, self.reduction = nodes, p.reduction
        self.edges = nn.ModuleDict()
        for (source, node), decision in zip(edges_of(nodes), decisions, strict=True):
            modules = {o: p.part(source, make(o)).build() for o in decision.options if o != "none"}
            self.edges[f"{source}_{node}"] = Edge(modules, decision.options)

    def forward(self, s0: Tensor, s1: Tensor, gates: Sequence[SiteGates]) -> Tensor:
        sources = [Source(self.preprocess0(s0)), Source(self.preprocess1(s1))]
        gate = iter(gates)
        for node in range(INPUTS, INPUTS + self.nodes):
            found = [self.edges[f"{s}_{node}"](sources[s], next(gate)) for s in range(node)]
            terms = [term for term in found if term is not None]
            sources.append(Source(sum_of(terms) if terms else nothing(sources[0].x, self.reduction)))
        return torch.cat([source.x for source in sources[INPUTS:]], 1)


class CellSupernet(nn.Module):
    """The weights of all options of a cell space; the architecture is an argument of the call."""

    def __init__(self, skeleton: Any, decisions: Sequence[Decision]) -> None:
        super().__init__()
        self.space = SearchSpace(skeleton, tuple(decisions))
        self.skeleton = skeleton
        places = skeleton.places()
        self.stem0, self.stem1 = (build_parts(parts) for parts in skeleton.stems())
        per_kind = len(decisions) // len(skeleton.cell_kinds)
        starts = {kind: i * per_kind for i, kind in enumerate(skeleton.cell_kinds)}
        self._spans = [slice(starts[p.kind], starts[p.kind] + per_kind) for p in places]
        self.cells = nn.ModuleList(
            MixedCell(p, decisions[span], skeleton.operation, skeleton.nodes)
            for p, span in zip(places, self._spans, strict=True)
        )
        self.classifier = skeleton.parts()[0][-1].build()

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """[B, C, H, W] and gates -> [B, classes]. Only options with a gate are computed, `none` never."""
        pairs = list(zip(gates.indices, gates.weights, strict=True))
        s0 = self.stem0(x)
        s1 = self.stem1(s0)
        for i, span in enumerate(self._spans):
            s0, s1 = s1, self.cells[i](s0, s1, pairs[span])
        return self.classifier(s1)

    def path(self, architecture: Architecture) -> list[tuple[str, nn.Module]]:
        """The network an architecture runs through, as one step: what an evaluation in shared prefixes needs."""
        return [(str(architecture.choices), self.subnet(architecture))]

    def restrict(self, space: SearchSpace) -> CellSupernet:
        """A supernet of the smaller space that keeps the surviving weights (copied), stem and classifier included."""
        if space.skeleton != self.skeleton:
            raise SpaceError(f"a supernet of '{self.space.name}' cannot be restricted to '{space.name}'")
        for mine, theirs in zip(self.space.decisions, space.decisions, strict=True):
            for option in theirs.options:
                mine.index(option)  # refuses options this supernet does not hold
        smaller = copy.deepcopy(self)
        smaller.space = space
        cells: Any = smaller.cells
        for cell, span in zip(cells, smaller._spans, strict=True):
            for edge, decision in zip(cell.edges.values(), space.decisions[span], strict=True):
                edge.restrict(decision.options)
        return smaller

    def subnet(self, architecture: Architecture) -> nn.Module:
        """The stand-alone network with inherited weights (copied). Its batch-norm statistics need re-estimation."""
        network: Any = architecture.build()
        for name in ("stem0", "stem1", "classifier"):
            network.get_submodule(name).load_state_dict(self.get_submodule(name).state_dict())
        for p, mine, theirs in zip(self.skeleton.places(), self.cells, network.cells, strict=True):
            inherit_cell(mine, theirs, self.skeleton.cell_choices(p.kind, architecture.choices))
        return network


def edge_key(site: str) -> str:
    """The module's name of an edge's site: 'normal.0->2' is '0_2'."""
    return site.rpartition(".")[2].replace("->", "_")


def inherit_cell(source: Any, target: Any, choices: EdgeChoices) -> None:
    """Copy the weights of the chosen edges of a mixed cell into a plain one."""
    for name in ("preprocess0", "preprocess1"):
        getattr(target, name).load_state_dict(getattr(source, name).state_dict())
    inherit_edges(source, target, choices)


def inherit_edges(source: Any, target: Any, choices: EdgeChoices) -> None:
    """Copy the weights of the chosen edges."""
    targets: list[Any]
    for (s, n), choice in choices.items():
        kept = [source.edges[f"{s}_{n}"].ops[option] for option, _ in choice if option != "none"]
        module = target.edges[f"{s}_{n}"] if kept else None
        targets = list(module.ops) if isinstance(module, Mixture) else [module]
        for mine, theirs in zip(targets if kept else [], kept, strict=True):
            mine.load_state_dict(theirs.state_dict())


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

"""The supernets of cells and of the graphs between them: the weights of all options of all edges, called with gates.

All cells of one kind share their choices, not their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partialmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiernas.errors import SpaceError
from hiernas.gates import Gates
from hiernas.networks.cell_ops import FactorizedReduce, nothing, sum_of
from hiernas.networks.genotype import INPUTS, edges_of
from hiernas.networks.parts import EdgeChoices, Mixture, Part, Place, build_parts, live_nodes
from hiernas.space import Architecture, Decision, SearchSpace

POOLS = ("max_pool_3x3", "avg_pool_3x3")
SiteGates = tuple[tuple[int, ...], Tensor | None]  # the active options of one site, and their weights


class Source:
    """One state of a cell, with what the edges that read it have in common, computed once.

    All convolutions begin with the same ReLU, and all edges of a source pool the same pixels; where batch norm behind
    pooling has no parameters, they normalise by the same statistics, too.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._pooled: dict[str, Tensor] = {}
        self._normalised: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    @cached_property
    def relu(self) -> Tensor:
        return F.relu(self.x)

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
        alone = norm is None or type(norm) is not nn.BatchNorm2d or norm.affine
        if alone or not norm.training or norm.momentum is None:
            return self._pooled[option] if norm is None else norm(self._pooled[option])
        if option not in self._normalised:
            y = self._pooled[option]
            self._normalised[option] = torch.native_batch_norm(y, None, None, None, None, True, 0.0, norm.eps)
        y, mean, inverse_std = self._normalised[option]
        observe(norm, mean, inverse_std.square().reciprocal() - norm.eps, y.numel() // y.shape[1])
        return y


@torch.no_grad()
def observe(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, n: int) -> None:
    """What a batch norm in training does to its running statistics, from those of a batch of n values: [C] each."""
    assert norm.running_mean is not None  # ours all track statistics
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean.lerp_(mean, norm.momentum or 0.0)
    norm.running_var.lerp_(variance * (n / max(1, n - 1)), norm.momentum or 0.0)
    norm.num_batches_tracked.add_(1)


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
            to_weight = gradient_of_weight(gradient, x, weight.shape[2], dilation)
        return to_x, to_weight, None, None


def gradient_of_weight(gradient: Tensor, x: Tensor, kernel: int, dilation: int = 1) -> Tensor:
    """[C, 1, kernel, kernel] of a depthwise convolution that keeps the size of `x`, [B, C, H, W].

    oneDNN has a fast way for kernels up to 3 columns wide, without dilation, and one 5 to 20 times slower for all others. So
    the even columns of 5 are taken as 3 in an image of half the width, in which pairs of columns stand one behind the other
    as channels: the same memory, channels last. Pixels that a dilation of 2 does not bring together are images of their own.
    """
    channels, radius = x.shape[1], kernel // 2
    if dilation == 2:
        x, gradient = (_paired(_rows_apart(F.pad(t, (0, t.shape[3] % 2, 0, t.shape[2] % 2)))) for t in (x, gradient))
        return gradient_of_weight(gradient, x, kernel).reshape(2, channels, 1, kernel, kernel).sum(0)
    if kernel != 5 or dilation != 1:
        return _gradient(gradient, x, (kernel, kernel), (dilation * radius, dilation * radius), dilation)
    x, gradient = (F.pad(t, (0, t.shape[3] % 2)) if t.shape[3] % 2 else t for t in (x, gradient))
    rows = radius
    if x.shape[2] < kernel:
        x, rows = F.pad(x, (0, 0, radius, radius)), 0
    near = _gradient(gradient, x, (5, 3), (rows, 1))
    far = _gradient(_paired(gradient), _paired(x), (5, 3), (rows, 1)).reshape(2, channels, 1, 5, 3).sum(0)
    return torch.cat([far[..., :1], near, far[..., 2:]], 3)


def _gradient(gradient: Tensor, x: Tensor, kernel: tuple[int, int], padding: tuple[int, int], dilation: int = 1) -> Tensor:
    weight, n = x.new_empty(x.shape[1], 1, *kernel), x.shape[1]
    found: tuple[Any, Tensor, Any] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], list(padding), [dilation, dilation], False, [0, 0], n, [False, True, False]
    )
    return found[1]


def _paired(x: Tensor) -> Tensor:
    """Pairs of columns as channels: [B, C, H, W] -> [B, 2C, H, W / 2], the same memory where channels are last."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h, w // 2, 2 * c).permute(0, 3, 1, 2)


def _rows_apart(x: Tensor) -> Tensor:
    """Even and odd rows as images of their own: [B, C, H, W] -> [2B, C, H / 2, W]."""
    return torch.cat([x[:, :, ::2], x[:, :, 1::2]])


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`conv(x)`, with the faster backward pass where it has one: depthwise, odd, stride 1, size kept, no bias, on a CPU."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.stride == (1, 1) and conv.bias is None
    (k, _), (d, _) = conv.kernel_size, conv.dilation
    plain = x.device.type == "cpu" and x.dtype == conv.weight.dtype and not torch.is_autocast_enabled("cpu")
    if depthwise and _keeps_size(conv) and plain and torch.is_grad_enabled():
        settings = d * (k // 2), d
        y: Tensor = _Depthwise.apply(x, conv.weight, *settings)  # type: ignore[no-untyped-call] # torch has no types here
        return y
    return conv._conv_forward(x, conv.weight, conv.bias)


def _keeps_size(conv: nn.Conv2d) -> bool:
    (k, width), (d, _) = conv.kernel_size, conv.dilation
    kept = conv.dilation == (d, d) and conv.padding == (d * (k // 2),) * 2 and conv.padding_mode == "zeros"
    return kept and k == width and k % 2 == 1


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


def check_restriction(mine: SearchSpace, smaller: SearchSpace) -> None:
    """Refuse a space over another skeleton, and options that a supernet of `mine` does not hold."""
    if smaller.skeleton != mine.skeleton:
        raise SpaceError(f"a supernet of '{mine.name}' cannot be restricted to '{smaller.name}'")
    for held, wanted in zip(mine.decisions, smaller.decisions, strict=True):
        for option in wanted.options:
            held.index(option)


def as_one_step(supernet: Any, architecture: Architecture) -> list[tuple[str, nn.Module]]:
    """The network an architecture runs through, as one step: what an evaluation in shared prefixes needs."""
    return [(str(architecture.choices), supernet.subnet(architecture))]


def restricted(supernet: Any, space: SearchSpace, parts: str) -> Any:
    """A supernet of the smaller space that keeps the surviving weights (copied), with all that is not searched."""
    check_restriction(supernet.space, space)
    smaller = copy.deepcopy(supernet, {id(supernet.space): space})
    for part, span in zip(getattr(smaller, parts), smaller._spans, strict=True):
        part.restrict(space.decisions[span])
    return smaller


def inherit(source: Any, target: Any, *names: str) -> None:
    """Copy the weights of these parts."""
    for name in names:
        target.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())


def inherit_edges(source: Any, target: Any, choices: EdgeChoices) -> None:
    """Copy the weights of the chosen edges that the target has."""
    for (s, n), choice in choices.items():
        if f"{s}_{n}" in target.edges:
            load_mixed(target.edges[f"{s}_{n}"], [source.edges[f"{s}_{n}"].ops[option] for option, _ in choice])


def load_mixed(target: nn.Module, sources: Sequence[nn.Module]) -> None:
    """Copy the weights of operations into one of them, or into their mixture."""
    for theirs, mine in zip(target.ops if isinstance(target, Mixture) else [target], sources, strict=True):
        theirs.load_state_dict(mine.state_dict())


def all_edges(
    wiring: Iterable[tuple[int, int]], decisions: Sequence[Decision], part: Callable[[int, str], Part]
) -> nn.ModuleDict:
    """The edges of a cell or stage with all their options, by name; `part`: of an operation that reads a state."""
    edges = nn.ModuleDict()
    for (source, node), decision in zip(wiring, decisions, strict=False):
        modules = {o: part(source, o).build() for o in decision.options if o != "none"}
        edges[f"{source}_{node}"] = Edge(modules, decision.options)
    return edges


# -- cells -------------------------------------------------------------------------------------------------------


class MixedCell(nn.Module):
    """One cell with all options of all its edges; called with the gates of its edges, in their order."""

    def __init__(self, p: Place, decisions: Sequence[Decision], make: Any, nodes: int) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = p.preprocess[0].build(), p.preprocess[1].build()
        self.nodes, self.reduction = nodes, p.reduction
        self.edges = all_edges(edges_of(nodes), decisions, lambda source, option: p.part(source, make(option)))

    def restrict(self, decisions: Sequence[Decision]) -> None:
        """Drop all other options."""
        for edge, decision in zip(self.edges.values(), decisions, strict=True):
            edge.restrict(decision.options)  # type: ignore[operator] # an Edge

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
        self._spans = [skeleton.span(p.kind) for p in places]
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

    path = as_one_step
    restrict = partialmethod(restricted, parts="cells")

    def subnet(self, architecture: Architecture) -> nn.Module:
        network: Any = architecture.build()
        inherit(self, network, "stem0", "stem1", "classifier")
        for p, mine, theirs in zip(self.skeleton.places(), self.cells, network.cells, strict=True):
            inherit(mine, theirs, "preprocess0", "preprocess1")
            inherit_edges(mine, theirs, self.skeleton.cell_choices(p.kind, architecture.choices))
        return network


# -- graphs of cells ---------------------------------------------------------------------------------------------


class MixedStage(nn.Module):
    """One stage with all options of its edges; called with their gates. Dead cells are not computed."""

    def __init__(self, skeleton: Any, stage: int, decisions: Sequence[Decision]) -> None:
        super().__init__()
        p = skeleton.places()[stage]
        self.preprocess0, self.preprocess1 = p.preprocess.build(), p.preprocess.build()
        self.edges = all_edges(skeleton.edges(stage), decisions, lambda _, option: p.part(skeleton.operation(option)))
        self.cells = nn.ModuleDict({str(n): skeleton.build_cell(cell) for n, cell in enumerate(p.cells, INPUTS)})
        self.wiring = tuple(skeleton.edges(stage))
        numbers = decisions[len(self.wiring)].options if skeleton.least is not None else (str(len(self.cells)),)
        self.outputs = [skeleton.outputs(stage, int(n)) for n in numbers]  # by the number of cells

    def restrict(self, decisions: Sequence[Decision]) -> None:
        """Drop all other options, and numbers of cells."""
        for edge, decision in zip(self.edges.values(), decisions, strict=False):
            edge.restrict(decision.options)  # type: ignore[operator] # an Edge
        for number in decisions[len(self.wiring) :]:
            self.outputs = [pair for pair in self.outputs if str(pair[1] - INPUTS + 1) in number.options]

    def forward(self, x: Tensor, gates: Sequence[SiteGates]) -> Tensor:
        """[B, C, H, W] -> [B, 2 states, H, W]; the last gate, where there is one, is that of the number of cells."""
        active = dict(zip(self.wiring, gates, strict=False))
        indices, weights = gates[-1] if len(gates) > len(self.wiring) else ((0,), None)
        ends = [self.outputs[i] for i in indices]
        alive = live_nodes((e for e, gate in active.items() if self._computes(e, gate)), [n for pair in ends for n in pair])
        states = {0: Source(self.preprocess0(x)), 1: Source(self.preprocess1(x))}
        for node in (n for n in range(INPUTS, INPUTS + len(self.cells)) if n in alive):
            read = [(s, gate) for (s, n), gate in active.items() if n == node and self._computes((s, n), gate)]
            terms = [self.edges[f"{s}_{node}"](states[s], gate) for s, gate in read]
            total = sum_of(terms) if terms else torch.zeros_like(states[0].x)
            states[node] = Source(self.cells[str(node)](total, total))
        pairs = [torch.cat([states[node].x for node in pair], 1) for pair in ends]
        return pairs[0] if weights is None else sum_of([w * pair for w, pair in zip(weights, pairs, strict=True)])

    def _computes(self, edge: tuple[int, int], gate: SiteGates) -> bool:
        options: Any = self.edges[f"{edge[0]}_{edge[1]}"].options
        return any(options[i] != "none" for i in gate[0])


class StageSupernet(nn.Module):
    """The weights of a space of stage graphs; the architecture is an argument of the call."""

    def __init__(self, skeleton: Any, decisions: Sequence[Decision]) -> None:
        super().__init__()
        self.space = SearchSpace(skeleton, tuple(decisions))
        self.skeleton = skeleton
        self._spans = [skeleton.span(k) for k in range(len(skeleton.cells))]
        places = skeleton.places()
        self.stem = build_parts(skeleton.stem_parts)
        self.stages = nn.ModuleList(MixedStage(skeleton, k, decisions[span]) for k, span in enumerate(self._spans))
        self.reductions = nn.ModuleList(skeleton.build_cell(cell) for p in places for cell in p.reductions)
        self.classifier = skeleton.parts()[0][-1].build()

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """[B, C, H, W] and gates -> [B, classes]. Only options with a gate and live cells are computed."""
        pairs = list(zip(gates.indices, gates.weights, strict=True))
        x = self.stem(x)
        for k, (stage, span) in enumerate(zip(self.stages, self._spans, strict=True)):
            x = stage(x, pairs[span])
            if k < len(self.stages) - 1:
                x = self.reductions[k](x, x)
        return self.classifier(x)

    path = as_one_step
    restrict = partialmethod(restricted, parts="stages")

    def subnet(self, architecture: Architecture) -> nn.Module:
        network: Any = architecture.build()
        stages: Any = self.stages
        inherit(self, network, "stem", "reductions", "classifier")
        for k, (mine, theirs) in enumerate(zip(stages, network.stages, strict=True)):
            inherit(mine, theirs, "preprocess0", "preprocess1", *(f"cells.{node}" for node in theirs.cells))
            inherit_edges(mine, theirs, self.skeleton.stage_choices(k, architecture.choices)[0])
        return network

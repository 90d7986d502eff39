"""Operations at their places in a network, with all that their costs depend on, and modules made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hiernas.errors import SpaceError
from hiernas.networks.cell_modules import Cell
from hiernas.networks.cell_ops import Concat, Preprocess, Sum
from hiernas.networks.genotype import INPUTS
from hiernas.networks.ops import Op, built
from hiernas.space import Choice

Size = tuple[int, int]
SEARCHED = "node"  # name of the sums of nodes whose edges are searched


@dataclass(frozen=True)
class Site:
    """One layer of a chain: what may stand there, between how many channels, at which stride."""

    name: str
    cin: int
    cout: int
    stride: int
    ops: tuple[Op, ...]

    def op(self, option: str) -> Op:
        """The operation of an option name."""
        return next(op for op in self.ops if op.name == option)

    def build(self, option: str) -> nn.Module:
        return built(self.op(option), self.cin, self.cout, self.stride)


@dataclass(frozen=True)
class Part:
    """One operation at one place of a network, with all that its cost depends on."""

    site: Site
    op: Op
    size: tuple[int, int]  # height and width of its input

    @property
    def key(self) -> str:
        """Equal for operations of equal cost: operation, channels, stride and input size."""
        s = self.site
        return f"{self.op.describe()} {s.cin}->{s.cout} s{s.stride} {self.size[0]}x{self.size[1]}"

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (self.site.cin, *self.size)

    @property
    def is_identity(self) -> bool:
        return self.op.name in ("skip", "skip_connect") and self.site.stride == 1 and self.site.cin == self.site.cout

    def build(self) -> nn.Module:
        return built(self.op, self.site.cin, self.site.cout, self.site.stride)


Mixed = tuple[list[Part], list[dict[str, tuple[Part, ...]]], Callable[[Part], bool]]


def output_size(part: Part) -> tuple[int, int, int]:
    """Channels, height and width of what a part returns, pooled or not."""
    s = part.site
    return (s.cout, -(-part.size[0] // s.stride), -(-part.size[1] // s.stride))


def halved(size: Size) -> Size:
    """The size after a stride of 2."""
    return (-(-size[0] // 2), -(-size[1] // 2))


def part_of(name: str, cin: int, cout: int, stride: int, op: Op, size: Size) -> Part:
    """One operation at one place."""
    return Part(Site(name, cin, cout, stride, (op,)), op, size)


def mixed_parts(parts: tuple[list[Part], list[dict[str, tuple[Part, ...]]]]) -> Mixed:
    """Parts of networks that keep any number of a site's options, each followed by the weighted sum that takes it up.

    The sums of nodes whose edges are searched are left out of what every network has. The last: which parts are sums.
    """
    fixed, options = parts
    kept = [part for part in fixed if not (isinstance(part.op, Sum) and part.site.name == SEARCHED)]
    summed = [{option: with_sums(of) for option, of in site.items()} for site in options]
    return kept, summed, lambda part: isinstance(part.op, Sum)


def with_sums(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Operations, each followed by the weighted sum that takes up its output."""
    found: list[Part] = []
    for part in parts:
        size = halved(part.size) if part.site.stride == 2 else part.size
        found += [part, part_of("sum", part.site.cout, part.site.cout, 1, Sum(weighted=True), size)]
    return tuple(found)


class Mixture(nn.Module):
    """Several operations in parallel with fixed weights: sum of w_i * op_i(x)."""

    def __init__(self, ops: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)
        self.weights = tuple(weights)

    def forward(self, x: Tensor) -> Tensor:
        total = self.weights[0] * self.ops[0](x)
        for weight, op in zip(self.weights[1:], list(self.ops)[1:], strict=True):
            total = torch.add(total, op(x), alpha=weight)
        return total


# -- cells -------------------------------------------------------------------------------------------------------


EdgeChoices = Mapping[tuple[int, int], Choice]  # by (source, node)


@dataclass(frozen=True)
class Place:
    """One cell of a network: its kind, its channels, and what brings its two inputs to them."""

    kind: str
    channels: int
    preprocess: tuple[Part, Part]
    size: Size  # of states 0 and 1, after preprocessing
    reduction: bool

    @property
    def out_size(self) -> Size:
        return halved(self.size) if self.reduction else self.size

    def part(self, source: int, op: Op) -> Part:
        """An operation on an edge; in a reduction cell the edges from the inputs have stride 2."""
        stride = 2 if self.reduction and source < INPUTS else 1
        size = self.size if source < INPUTS else self.out_size
        return Part(Site(self.kind, self.channels, self.channels, stride, (op,)), op, size)


def place(kind: str, inputs: tuple[tuple[int, Size], tuple[int, Size]], channels: int, affine: bool) -> Place:
    """A cell that reads two tensors of (channels, size); the first may have twice the pixels of the second."""
    (c0, size0), (c1, size1) = inputs
    op = Preprocess(affine)
    parts = (
        Part(Site("preprocess0", c0, channels, 1 if size0 == size1 else 2, (op,)), op, size0),
        Part(Site("preprocess1", c1, channels, 1, (op,)), op, size1),
    )
    return Place(kind, channels, parts, size1, kind.startswith("reduce"))


def edges_of(nodes: int) -> Iterator[tuple[int, int]]:
    """All (source, node) pairs of a cell, in the order of DARTS' alphas."""
    return ((source, node) for node in range(INPUTS, INPUTS + nodes) for source in range(node))


def edge_name(kind: str, source: int, node: int) -> str:
    """The site's name of an edge."""
    return f"{kind}.{source}->{node}"


def output_of(parts: Sequence[Part]) -> tuple[int, Size]:
    """Channels and size of what the last part returns."""
    last = parts[-1]
    return last.site.cout, halved(last.size) if last.site.stride == 2 else last.size


def joins(p: Place, nodes: int, name: str) -> list[Part]:
    """What a cell does beside its operations: the sum of each node's two edges, and the nodes one behind the other."""
    sums = [part_of(name, p.channels, p.channels, 1, Sum(), p.out_size)] * nodes
    return [*sums, part_of(p.kind, p.channels, nodes * p.channels, 1, Concat(nodes), p.out_size)]


def build_parts(parts: Sequence[Part]) -> nn.Module:
    """Parts one after another as a module; no part: the identity."""
    modules = [part.build() for part in parts]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules) if modules else nn.Identity()


def build_cell(p: Place, choices: EdgeChoices, make: Any, nodes: int) -> Cell:
    """The plain cell of chosen edges; `make` gives the operation of a name."""
    edges = {}
    for (source, node), choice in choices.items():
        module = build_edge([(p.part(source, make(option)), weight) for option, weight in choice if option != "none"])
        if module is not None:
            edges[source, node] = module
    if not edges:
        raise SpaceError(f"cell '{p.kind}' has no edge; one of its nodes needs one, the others may be without")
    return Cell(p.preprocess[0].build(), p.preprocess[1].build(), edges, nodes, p.reduction)


def build_edge(kept: Sequence[tuple[Part, float]]) -> nn.Module | None:
    """The module of one edge with its kept operations and their weights; None where nothing is kept."""
    if not kept:
        return None
    if len(kept) == 1 and kept[0][1] == 1.0:
        return kept[0][0].build()
    return Mixture([part.build() for part, _ in kept], [weight for _, weight in kept])


# -- graphs of cells ---------------------------------------------------------------------------------------------


class StageShape(NamedTuple):
    """One stage of a derived network: cells on the longest path to its output, and cells that no path joins to it."""

    cells: int
    depth: int
    dead: int


def shape(edges: Sequence[tuple[int, int]], outputs: Sequence[int], cells: int) -> StageShape:
    """Depth and dead cells of a graph of (source, node) edges, with states 0 and 1 as inputs."""
    alive = live_nodes(edges, outputs)
    depth = {0: 0, 1: 0}
    for node in range(INPUTS, INPUTS + cells):
        depth[node] = 1 + max((depth[s] for s, n in edges if n == node), default=0)
    dead = sum(node not in alive for node in range(INPUTS, INPUTS + cells))
    return StageShape(cells, max(depth[node] for node in outputs), dead)


def live_nodes(edges: Iterable[tuple[int, int]], outputs: Sequence[int]) -> set[int]:
    """The states from which a path leads to an output, along (source, node) edges."""
    incoming: dict[int, list[int]] = {}
    for source, node in edges:
        incoming.setdefault(node, []).append(source)
    alive, waiting = set(outputs), list(outputs)
    while waiting:
        for source in incoming.get(waiting.pop(), []):
            if source not in alive:
                alive.add(source)
                waiting.append(source)
    return alive

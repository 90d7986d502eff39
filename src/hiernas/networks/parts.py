"""Operations at their places in a network, with all that their costs depend on, and modules made of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hiernas.errors import SpaceError
from hiernas.networks.cell_ops import OPERATIONS, Cell, Concat, ReLUConv, Sum
from hiernas.networks.genotype import INPUTS, edges_of
from hiernas.networks.ops import Op, built
from hiernas.space import Choice

Size = tuple[int, int]
SEARCHED = "node"  # name of the sums of nodes whose edges are searched


@dataclass(frozen=True)
class Part:
    """One operation at one place of a network, with all that its cost depends on."""

    name: str  # of the place
    op: Op
    cin: int
    cout: int
    stride: int
    size: Size  # height and width of its input

    @property
    def key(self) -> str:
        """Equal for operations of equal cost: operation, channels, stride and input size."""
        return f"{self.op.describe()} {self.cin}->{self.cout} s{self.stride} {self.size[0]}x{self.size[1]}"

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (self.cin, *self.size)

    @property
    def output_size(self) -> tuple[int, int, int]:
        return (self.cout, *strided(self.size, self.stride))

    @property
    def is_identity(self) -> bool:
        return self.op.name in ("skip", "skip_connect") and self.stride == 1 and self.cin == self.cout

    @property
    def is_sum(self) -> bool:
        return isinstance(self.op, Sum)

    @property
    def is_searched_sum(self) -> bool:
        """Whether it is the sum of a node whose edges are searched: other networks have any number of these."""
        return self.is_sum and self.name == SEARCHED

    def summed(self) -> Part:
        """The weighted sum that takes up its output where a site keeps any number of options."""
        return Part("sum", Sum(weighted=True), self.cout, self.cout, 1, strided(self.size, self.stride))

    def build(self) -> nn.Module:
        return built(self.op, self.cin, self.cout, self.stride)


def strided(size: Size, stride: int = 2) -> Size:
    """What a stride leaves of a size."""
    return (-(-size[0] // stride), -(-size[1] // stride))


@dataclass(frozen=True)
class Site:
    """One layer of a chain: what may stand there, between how many channels, at which stride."""

    name: str
    cin: int
    cout: int
    stride: int
    ops: tuple[Op, ...]

    def part(self, op: Op, size: Size) -> Part:
        """One of its operations, for inputs of this size."""
        return Part(self.name, op, self.cin, self.cout, self.stride, size)

    def build(self, option: str) -> nn.Module:
        """The module of an option by name."""
        return built(next(op for op in self.ops if op.name == option), self.cin, self.cout, self.stride)


Options = dict[str, tuple[Part, ...]]  # by option, what it adds: nothing, or a part at each place where it stands
Parts = tuple[list[Part], list[Options]]  # of every network; of each site's options


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


def mixed(modules: Sequence[nn.Module], weights: Sequence[float]) -> nn.Module:
    """Operations and their weights as one module: the operation itself where there is one, of weight 1."""
    return modules[0] if tuple(weights) == (1.0,) else Mixture(modules, weights)


# -- cells -------------------------------------------------------------------------------------------------------


EdgeChoices = Mapping[tuple[int, int], Choice]  # by (source, node), without `none`


def chosen_edges(edges: Iterable[tuple[int, int]], choices: Sequence[Choice]) -> EdgeChoices:
    """What is kept of each edge, but of those that keep nothing."""
    kept = {edge: tuple(pair for pair in choice if pair[0] != "none") for edge, choice in zip(edges, choices, strict=False)}
    return {edge: choice for edge, choice in kept.items() if choice}


def build_edges(choices: EdgeChoices, part: Callable[[int, str], Part]) -> dict[tuple[int, int], nn.Module]:
    """The module of each edge; `part`: of an operation that reads a state."""
    return {
        (s, n): mixed([part(s, option).build() for option, _ in choice], [weight for _, weight in choice])
        for (s, n), choice in choices.items()
    }


@dataclass(frozen=True)
class Place:
    """One cell of a network: its kind, its channels, and what brings its two inputs to them."""

    kind: str
    channels: int
    preprocess: tuple[Part, Part]
    size: Size  # of states 0 and 1, after preprocessing
    reduction: bool

    @classmethod
    def of(cls, kind: str, inputs: tuple[tuple[int, Size], tuple[int, Size]], channels: int, affine: bool) -> Place:
        """A cell that reads two tensors of (channels, size); the first may have twice the pixels of the second."""
        (c0, size0), (c1, size1) = inputs
        op = ReLUConv(1, affine)
        first = Part("preprocess0", op, c0, channels, 1 if size0 == size1 else 2, size0)
        second = Part("preprocess1", op, c1, channels, 1, size1)
        return cls(kind, channels, (first, second), size1, kind.startswith("reduce"))

    @property
    def out_size(self) -> Size:
        return strided(self.size) if self.reduction else self.size

    def part(self, source: int, op: Op) -> Part:
        """An operation on an edge; in a reduction cell the edges from the inputs have stride 2."""
        inner = source >= INPUTS
        stride = 2 if self.reduction and not inner else 1
        return Part(self.kind, op, self.channels, self.channels, stride, self.out_size if inner else self.size)

    def joins(self, nodes: int, name: str = SEARCHED) -> list[Part]:
        """What it does beside its operations: the sum of each node's two edges, and the nodes one behind the other."""
        c, size = self.channels, self.out_size
        return [*[Part(name, Sum(), c, c, 1, size)] * nodes, Part(self.kind, Concat(nodes), c, nodes * c, 1, size)]

    def build(self, choices: EdgeChoices, make: Callable[[str], Op], nodes: int) -> Cell:
        """The plain cell of chosen edges; `make` gives the operation of a name."""
        if not choices:
            raise SpaceError(f"cell '{self.kind}' has no edge; one of its nodes needs one, the others may be without")
        edges = build_edges(choices, lambda source, option: self.part(source, make(option)))
        return Cell(self.preprocess[0].build(), self.preprocess[1].build(), edges, nodes, self.reduction)


def cell_options(places: Sequence[Place], kinds: Sequence[str], nodes: int, make: Callable[[str], Op]) -> list[Options]:
    """Per edge of each kind of cell the parts of each operation: one in every cell of that kind."""
    ops = {name: make(name) for name in OPERATIONS if name != "none"}
    return [
        {"none": ()} | {name: tuple(p.part(s, op) for p in places if p.kind == kind) for name, op in ops.items()}
        for kind in kinds
        for s, _ in edges_of(nodes)
    ]


def output_of(parts: Sequence[Part]) -> tuple[int, Size]:
    """Channels and size of what the last part returns."""
    channels, height, width = parts[-1].output_size
    return channels, (height, width)


def build_parts(parts: Sequence[Part]) -> nn.Module:
    """Parts one after another as a module; no part: the identity."""
    modules = [part.build() for part in parts]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules) if modules else nn.Identity()


# -- graphs of cells ---------------------------------------------------------------------------------------------


class StageShape(NamedTuple):
    """One stage of a derived network: cells on the longest path to its output, and cells that no path joins to it."""

    cells: int
    depth: int
    dead: int

    @classmethod
    def of(cls, edges: Collection[tuple[int, int]], outputs: Sequence[int], cells: int) -> StageShape:
        """Of a graph of (source, node) edges, with states 0 and 1 as inputs."""
        nodes, alive, depth = range(INPUTS, INPUTS + cells), live_nodes(edges, outputs), {0: 0, 1: 0}
        for node in nodes:
            depth[node] = 1 + max((depth[s] for s, n in edges if n == node), default=0)
        return cls(cells, max(depth[node] for node in outputs), sum(node not in alive for node in nodes))


def live_nodes(edges: Iterable[tuple[int, int]], outputs: Sequence[int]) -> set[int]:
    """The states from which a path leads to an output, along (source, node) edges, which lead to later states."""
    alive = set(outputs)
    for source, node in sorted(edges, key=itemgetter(1), reverse=True):
        if node in alive:
            alive.add(source)
    return alive

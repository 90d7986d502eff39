"""A network as the graph of its calls, read by torch.export: which ways information takes from the image to the output.

A call is one operation of the forward pass; the calls that take parameters are the layers. Where a layer's output is
set to zero, a sum or a concatenation goes on with its other terms, but a product is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import networkx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from hiernas.errors import SpaceError
from hiernas.host import first_line, quiet
from hiernas.networks.ops import Residual

PRODUCTS = frozenset({"mul", "mm", "bmm", "matmul", "einsum", "scaled_dot_product_attention"})  # zero if a factor is
EMPTY = frozenset({"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"})
CONTAINERS = ("torch.nn.modules.container.",)
NORMS = ("torch.nn.modules.batchnorm.", "torch.nn.modules.instancenorm.", "torch.nn.modules.normalization.")


@dataclass(frozen=True)
class Call:
    """One operation on data that come from the network's input."""

    name: str
    sources: tuple[str, ...]  # the calls whose results it takes, or the input
    product: bool
    module: str  # path of the module whose forward makes the call
    parameters: tuple[str, ...]  # qualified names of those it takes, directly or computed from parameters alone
    macs: int  # multiply-adds for one image


@dataclass(frozen=True)
class Region:
    """Layers that are taken together as a block."""

    name: str
    paths: tuple[str, ...]  # the modules, or single parameters, that it consists of
    layers: frozenset[str]  # names of its calls that take parameters

    def holds(self, path: str) -> bool:
        """Whether a module or a parameter is part of it."""
        return any(within(path, mine) for mine in self.paths)


@dataclass(frozen=True)
class Graph:
    """The calls between a network's input and its (first) output, in the order they run."""

    start: str
    end: str
    calls: Mapping[str, Call]
    kinds: Mapping[str, str]  # class by module path, of the modules that are called
    sizes: Mapping[str, int]  # numbers in each parameter, by its qualified name

    def reached(self, closed: Collection[str], start: str, calls: Collection[Call]) -> set[str]:
        """The calls, of these, that information from `start` reaches where the calls `closed` give zeros."""
        reached = {start}
        for call in calls:
            carried = [source in reached for source in call.sources]
            if call.name not in closed and (all(carried) if call.product else any(carried)):
                reached.add(call.name)
        return reached

    def passes(self, closed: Collection[str]) -> bool:
        """Whether information from the input reaches the output where the calls `closed` give zeros."""
        return self.end in self.reached(closed, self.start, self.calls.values())

    def layers_of(self, path: str) -> frozenset[str]:
        """The layers whose parameters are of this module, or are this parameter; all with the path ''."""
        return frozenset(c.name for c in self.calls.values() if any(within(p, path) for p in c.parameters))

    @cached_property
    def bypassed(self) -> Mapping[str, int]:
        """The layers around which an identity leads, each with the number of that identity, counted from the input.

        An identity is a way without any layer from one dominator of the output to the next. A layer beside a projection
        shortcut is none of these: each of the two ways has layers.
        """
        edges = [(source, c.name) for c in self.calls.values() for source in c.sources]
        tree = networkx.immediate_dominators(networkx.DiGraph(edges), self.start)
        dominators = [self.end]
        while dominators[-1] != self.start:
            dominators.append(tree[dominators[-1]])
        calls, layers = list(self.calls.values()), self.layers_of("")
        position = {self.start: -1} | {c.name: i for i, c in enumerate(calls)}
        found: dict[str, int] = {}
        for number, (first, last) in enumerate(pairwise(reversed(dominators))):
            between = calls[position[first] + 1 : position[last] + 1]
            if last in self.reached(layers, first, between):
                found |= {c.name: number for c in between if c.name in layers}
        return found

    def branch_ends(self, region: Region) -> list[str]:
        """Where an identity leads around a region: the calls whose results are added to it. Else none."""
        if not region.layers <= self.bypassed.keys():
            return []
        around = self.reached(region.layers, self.start, self.calls.values())
        joins = [c for c in self.calls.values() if c.name in around]
        return list(dict.fromkeys(s for c in joins for s in c.sources if s not in around))

    def count(self, region: Region) -> tuple[int, int]:
        """Parameters that the region computes with, and its multiply-adds for one image."""
        mine = [c for c in self.calls.values() if c.name in region.layers or (not c.parameters and region.holds(c.module))]
        parameters = dict.fromkeys(p for c in mine for p in c.parameters if region.holds(p))
        return sum(self.sizes[p] for p in parameters), sum(c.macs for c in mine)


def within(path: str, parent: str) -> bool:
    """Whether a module or a parameter is this module or parameter, or part of it."""
    return not parent or path == parent or path.startswith(f"{parent}.")


# -- blocks --------------------------------------------------------------------------------------------------------


def regions(graph: Graph) -> list[Region]:
    """The blocks of a network, in the order they run; every parameter that is used belongs to one of them.

    They are the parts of the network. A part is taken apart itself where it is a container of modules that have parts,
    where an identity leads around one of its parts, and where identities lead around all of them, one around each. A
    normalisation right behind a single layer joins it.
    """
    tree, title = _Tree(graph), graph.kinds.get("", "network").rpartition(".")[2]
    found = [Region(path or title, (path,), graph.layers_of(path)) for path in tree.expanded("")]
    order = {name: i for i, name in enumerate(graph.calls)}
    joined: list[Region] = []
    for region in sorted(found, key=lambda r: min(order[layer] for layer in r.layers)):
        last = joined[-1] if joined else None
        if last is not None and tree.is_norm(region) and tree.is_layer(last) and not tree.is_norm(last):
            joined[-1] = Region(f"{last.name} + {region.name}", last.paths + region.paths, last.layers | region.layers)
        else:
            joined.append(region)
    return joined


class _Tree:
    """The modules that hold parameters, by path."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.inside: dict[str, dict[str, None]] = {"": {}}  # by module: its own parameters and modules
        for path in dict.fromkeys(p for c in graph.calls.values() for p in c.parameters):
            while path:
                parent = path.rpartition(".")[0]
                self.inside.setdefault(parent, {})[path] = None
                path = parent

    def modules(self, path: str) -> list[str]:
        """The modules of a module; a layer has none."""
        return [inner for inner in self.inside.get(path, ()) if inner in self.inside]

    def is_layer(self, region: Region) -> bool:
        return len(region.paths) == 1 and not self.modules(region.paths[0])

    def is_norm(self, region: Region) -> bool:
        return self.is_layer(region) and self.graph.kinds.get(region.paths[0], "").startswith(NORMS)

    def expanded(self, path: str) -> list[str]:
        if not self.modules(path):
            return [path]
        parts = [part for inner in self.inside[path] for part in self.expanded(inner)]
        return parts if not path or self._splits(path, parts) else [path]

    def _splits(self, path: str, parts: Sequence[str]) -> bool:
        kind = self.graph.kinds.get(path, CONTAINERS[0])  # a module list is never called
        container = kind.startswith(CONTAINERS) and all(map(self.modules, self.modules(path)))
        ways = [self._ways(part) for part in parts]
        if self._ways(path):
            return (container or len(parts) > 1) and sum(map(len, ways)) == len(set().union(*ways))
        return container or any(ways)

    def _ways(self, path: str) -> set[int]:
        """The identities that lead around a part; none if there are layers without one."""
        layers = self.graph.layers_of(path)
        return {self.graph.bypassed[layer] for layer in layers} if layers <= self.graph.bypassed.keys() else set()


# -- reading -------------------------------------------------------------------------------------------------------


def graph_of_network(network: nn.Module, input_size: tuple[int, int, int]) -> Graph:
    """The graph of a network in evaluation mode, for one image [1, C, H, W].

    Raises `SpaceError` where torch.export cannot trace it.
    """
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    image = torch.zeros(1, *input_size, dtype=like.dtype, device=like.device)
    try:
        with evaluating(network), quiet():
            program = torch.export.export(network, (image,))
    except Exception as error:  # torch.export raises almost anything
        raise SpaceError(
            f"the graph of this {type(network).__name__} cannot be read for images {list(input_size)}: {first_line(error)}; "
            "it must be a network that torch.export can trace"
        ) from error
    return graph_of_program(program)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """In evaluation mode inside, then every module in its own mode again."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def graph_of_program(program: ExportedProgram) -> Graph:
    """The graph of an exported program from its first input to its first output.

    Raises `SpaceError` where none leads from one to the other, or it has no layers.
    """
    signature = program.graph_signature
    start = next((n for n in signature.user_inputs if isinstance(n, str)), "")
    end = next((n for n in signature.user_outputs if isinstance(n, str)), "")
    reader = Reader(start, dict(signature.inputs_to_parameters))
    for node in program.graph.nodes:
        if node.name == start:
            reader.batch = int(_example(node).shape[0])
        if node.op == "call_function" and any(isinstance(v, Tensor) for v in tree_leaves(node.meta.get("val"))):
            operation = getattr(getattr(node.target, "overloadpacket", node.target), "__name__", "")
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            kinds = {path: k if isinstance(k, str) else f"{k.__module__}.{k.__qualname__}" for path, k in stack}
            reader.read(node.name, operation, [n.name for n in node.all_input_nodes], kinds, partial(_run, node))
    return reader.graph(end, {name: parameter.numel() for name, parameter in program.named_parameters()})


class Reader:
    """Takes the operations of a program in order, and makes a graph of those from the input on."""

    def __init__(self, start: str, parameters: Mapping[str, str]) -> None:
        self.start = start
        self.calls: dict[str, Call] = {}
        self.kinds: dict[str, str] = {}
        self.batch = 1
        self.now: dict[str, str] = {}  # what a value was changed to in place
        self.parameters: dict[str, tuple[str, ...]] = {name: (p,) for name, p in parameters.items()}  # a value is made of

    def read(
        self, name: str, operation: str, taken: Sequence[str], kinds: Mapping[str, str], run: Callable[[], object] | None
    ) -> None:
        """The next operation, on the values `taken`; `kinds`: class by path of the modules that it is called in, the
        innermost last; `run` does it on meta tensors (None: it has no multiply-adds)."""
        arguments = [self.now.get(value, value) for value in taken]
        sources = tuple(a for a in arguments if a == self.start or a in self.calls)
        parameters = tuple(dict.fromkeys(p for a in arguments for p in self.parameters.get(a, ())))
        if not sources:
            self.parameters[name] = parameters
            return
        self.kinds |= kinds
        if operation in EMPTY:
            return
        product, macs = operation.rstrip("_") in PRODUCTS, 0
        if run is not None and (parameters or product):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                run()
            macs = counter.get_total_flops() // 2 // self.batch
        self.calls[name] = Call(name, sources, product, ["", *kinds][-1], parameters, macs)
        if operation.endswith("_") and not operation.startswith("_"):  # in place
            changed = arguments[0]
            self.now |= {old: name for old, new in self.now.items() if new == changed} | {changed: name}

    def graph(self, end: str, sizes: Mapping[str, int]) -> Graph:
        """What leads to the output. Raises `SpaceError` where nothing from the input does, or no layers."""
        needed = {end}
        for call in reversed(self.calls.values()):
            if call.name in needed:
                needed.update(call.sources)
        calls = {name: call for name, call in self.calls.items() if name in needed}
        if end not in calls or not any(c.parameters for c in calls.values()):
            raise SpaceError(
                "this program has no layers between its first input and its first output; export a network of layers"
            )
        return Graph(self.start, end, calls, self.kinds, sizes)


def _run(node: torch.fx.Node) -> None:
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), _example)
    node.target(*args, **kwargs)  # type: ignore[operator] # of a call_function it is a function


def _example(node: torch.fx.Node) -> Any:
    """A node's value as an empty tensor of its size, or as the number it is."""

    def example(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty([example(n) for n in value.shape], dtype=value.dtype, device="meta")
        return value.node.hint if isinstance(value, torch.SymInt) else value

    return tree_map(example, node.meta.get("val"))


def has_identity(module: nn.Module, input_size: tuple[int, int, int]) -> bool:
    """Whether an identity leads around the layers of a module, for inputs [C, H, W].

    Known at sight for most; the graph decides on a user's own, as an operation of a space may be any module.
    """
    if isinstance(module, Residual) or next(module.parameters(), None) is None:
        return True
    children = list(module.children())
    if not children:
        return False  # a layer
    if type(module) is nn.Sequential and any(not list(c.children()) and list(c.parameters()) for c in children):
        return False
    graph = graph_of_network(module, input_size)
    return graph.passes(graph.layers_of(""))

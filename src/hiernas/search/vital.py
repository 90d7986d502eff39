"""Vital blocks of HourNAS (arXiv 2005.14446v3, section 3.1): those that stand on every path from input to output.

In a residual network information passes through a block or around it, by the identity. Where there is no way around,
in stems, heads, and blocks that change width or resolution, the block is vital.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hiernas.costs.count import Count, parts_of
from hiernas.costs.tables import counted
from hiernas.errors import SpaceError
from hiernas.ops import Residual
from hiernas.quiet import quiet
from hiernas.space import SearchSpace
from hiernas.supernet.chain import Part


@dataclass(frozen=True)
class Block:
    """One block, whether it is vital, and what it costs (in a space: its largest option)."""

    name: str
    vital: bool
    count: Count


# -- spaces ------------------------------------------------------------------------------------------------------


def vital_sites(space: SearchSpace) -> tuple[str, ...]:
    """The vital sites of a chain space, in order: the dominators of the output in the graph of its blocks.

    There is a way around a block that can be skipped, and around one whose every option is residual. Raises
    `SpaceError` for spaces of cells.
    """
    if space.skeleton.groups:
        raise SpaceError(f"vital blocks are those of chains of layers; '{space.name}' is a space of cells")
    _, options = parts_of(space.skeleton)
    graph = networkx.DiGraph()
    for i, (decision, parts) in enumerate(zip(space.decisions, options, strict=True)):
        graph.add_edge(i, decision.name)  # numbers are the tensors between blocks
        graph.add_edge(decision.name, i + 1)
        if any(p.is_identity for p in parts.get("skip", ())) or all(_residual(parts[o]) for o in decision.options):
            graph.add_edge(i, i + 1)
    dominators = networkx.immediate_dominators(graph, 0)
    found, node = set(), len(options)
    while node:
        node = dominators[node]
        found.add(node)
    return tuple(d.name for d in space.decisions if d.name in found)


def _residual(parts: Sequence[Part]) -> bool:
    with torch.device("meta"):
        return all(isinstance(part.build(), Residual | nn.Identity) for part in parts)


def blocks_of_space(space: SearchSpace) -> list[Block]:
    """All blocks of a chain space, those that every network has included."""
    vital, (fixed, options) = set(vital_sites(space)), parts_of(space.skeleton)
    searched = []
    for decision, parts in zip(space.decisions, options, strict=True):
        largest = max((counted(part) for o in decision.options for part in parts[o]), key=lambda c: (c.params, c.macs))
        searched.append(Block(decision.name, decision.name in vital, largest))
    around = [Block(part.site.name, True, counted(part)) for part in fixed]
    return [*around[:1], *searched, *around[1:]]


# -- any network -------------------------------------------------------------------------------------------------


def blocks_of_network(network: nn.Module, input_size: tuple[int, int, int]) -> list[Block]:
    """The blocks of any network that `torch.export` can trace, for inputs [1, C, H, W]; vital by its graph.

    A block is vital where its layers cut the input from the output: without them no path is left. Raises
    `SpaceError` where the network cannot be traced.
    """
    names = [name for name, _ in _blocks(network)]
    graph, owners, ends = _graph(network, input_size)
    counts = _counts(network, input_size, names)
    found = []
    for name in names:
        layers = [node for node, owner in owners.items() if owner == name or owner.startswith(f"{name}.")]
        if layers:
            left = graph.subgraph(set(graph) - set(layers))
            around = all(end in left for end in ends) and networkx.has_path(left, *ends)
            found.append(Block(name, not around, counts[name]))
    return found


def _blocks(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The parts of a network that are taken as blocks: what its containers hold, down to the first layers."""
    for name, child in module.named_children():
        inner = [c for c in child.children() if any(True for _ in c.parameters())]
        container = type(child) in (nn.Sequential, nn.ModuleList) and all(any(True for _ in c.children()) for c in inner)
        if container and inner:
            yield from _blocks(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _graph(
    network: nn.Module, input_size: tuple[int, int, int]
) -> tuple[networkx.DiGraph, dict[str, str], tuple[str, str]]:
    """The graph of a network's calls, the module that owns each call's parameters, and the input and output nodes."""
    try:
        with quiet():
            program = torch.export.export(network.eval(), (torch.zeros(1, *input_size),))
    except Exception as error:  # torch.export raises almost anything
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SpaceError(f"the graph of a {type(network).__name__} cannot be read: {reason}") from error
    parameters = dict(program.graph_signature.inputs_to_parameters)
    graph, owners = networkx.DiGraph(), dict[str, str]()
    for node in program.graph.nodes:
        for source in node.all_input_nodes:
            graph.add_edge(source.name, node.name)
            if source.name in parameters:
                owners[node.name] = parameters[source.name].rpartition(".")[0]
    start = next(name for name in program.graph_signature.user_inputs if isinstance(name, str))
    end = next(name for name in program.graph_signature.user_outputs if isinstance(name, str))
    return graph, owners, (start, end)


def _counts(network: nn.Module, input_size: tuple[int, int, int], names: Sequence[str]) -> dict[str, Count]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, *input_size))
    flops = counter.get_flop_counts()
    found = {}
    for name in names:
        module = network.get_submodule(name)
        operations = flops.get(f"{type(network).__name__}.{name}", {})
        found[name] = Count(sum(p.numel() for p in module.parameters()), sum(operations.values()) // 2)
    return found

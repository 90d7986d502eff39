"""Vital blocks of HourNAS (arXiv 2005.14446v3, section 3.1): those that stand on every path from input to output.

In a residual network information passes through a block or around it, by the identity. Where there is no way around,
in stems, heads, and blocks that change width or resolution, the block is vital.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx
import torch
from torch import nn

from hiernas.costs.count import Count, parts_of
from hiernas.costs.tables import counted
from hiernas.errors import SpaceError
from hiernas.ops import Residual
from hiernas.space import SearchSpace
from hiernas.supernet.chain import Chain, Part

if TYPE_CHECKING:
    from hiernas.search.graph import Graph


@dataclass(frozen=True)
class Block:
    """One block, whether it is vital, and what it costs (in a space: its largest option)."""

    name: str
    vital: bool
    count: Count


# -- spaces ------------------------------------------------------------------------------------------------------


def vital_sites(space: SearchSpace) -> tuple[str, ...]:
    """The vital sites of a chain space, in order: the dominators of the output in the graph of its blocks.

    There is a way around a block that can be skipped, and around one through whose every option an identity leads.
    Raises `SpaceError` for spaces of cells.
    """
    if space.skeleton.groups:
        raise SpaceError(
            f"vital blocks are those of chains of layers, and '{space.name}' is a space of cells; name a chain space "
            "(`hiernas list spaces`), or one network of cells (`hiernas list networks`)"
        )
    _, options = parts_of(space.skeleton)
    graph = networkx.DiGraph()
    for i, (decision, parts) in enumerate(zip(space.decisions, options, strict=True)):
        graph.add_edge(i, decision.name)  # numbers are the tensors between blocks
        graph.add_edge(decision.name, i + 1)
        if any(p.is_identity for p in parts.get("skip", ())) or all(_leads_around(parts[o]) for o in decision.options):
            graph.add_edge(i, i + 1)
    dominators = networkx.immediate_dominators(graph, 0)
    found, node = set(), len(options)
    while node:
        node = dominators[node]
        found.add(node)
    return tuple(d.name for d in space.decisions if d.name in found)


def _leads_around(parts: Sequence[Part]) -> bool:
    """Whether an identity leads around the layers of an option."""
    with torch.device("meta"):
        return all(_has_identity(part.build(), part.input_size) for part in parts)


def _has_identity(module: nn.Module, input_size: tuple[int, int, int]) -> bool:
    """Known at sight for most modules; the graph decides on a user's own, as an operation of a space may be any module."""
    if isinstance(module, Residual) or next(module.parameters(), None) is None:
        return True
    children = list(module.children())
    if not children:
        return False  # a layer
    if type(module) is nn.Sequential and any(not list(c.children()) and list(c.parameters()) for c in children):
        return False
    from hiernas.search.graph import graph_of_network

    graph = graph_of_network(module, input_size)
    return graph.passes(graph.layers_of(""))


def blocks_of_space(space: SearchSpace) -> list[Block]:
    """All blocks of a chain space, those that every network has included."""
    vital, (fixed, options) = set(vital_sites(space)), parts_of(space.skeleton)
    searched = []
    for decision, parts in zip(space.decisions, options, strict=True):
        largest = max((counted(part) for o in decision.options for part in parts[o]), key=lambda c: (c.params, c.macs))
        searched.append(Block(decision.name, decision.name in vital, largest))
    around = [Block(part.site.name, True, counted(part)) for part in fixed]
    stem = len(space.skeleton.stem) if isinstance(space.skeleton, Chain) else 1
    return [*around[:stem], *searched, *around[stem:]]


# -- any network -------------------------------------------------------------------------------------------------


def blocks_of_network(network: nn.Module, input_size: tuple[int, int, int]) -> list[Block]:
    """The blocks of any network that `torch.export` can trace, for images [C, H, W]; vital by its graph.

    Without a vital block no way is left from input to output: a block with a projection shortcut is vital, since no
    identity leads around it (footnote 2 of the paper). `hiernas.search.graph.regions` says what is taken as a block.
    Raises `SpaceError` where the network cannot be traced.
    """
    from hiernas.search.graph import graph_of_network

    return blocks_of_graph(graph_of_network(network, input_size))


def blocks_of_graph(graph: Graph) -> list[Block]:
    """The blocks of a network whose graph was read."""
    from hiernas.search.graph import regions

    return [Block(r.name, not graph.passes(r.layers), graph.count(r)) for r in regions(graph)]

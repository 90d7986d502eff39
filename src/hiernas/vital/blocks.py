"""The blocks of a space and of any network, and which of them are vital (HourNAS, arXiv 2005.14446v3, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from hiernas.costs.count import Count, parts_of
from hiernas.costs.tables import counted
from hiernas.methods.hournas.vital import vital_sites
from hiernas.networks.graph import Graph, Region, graph_of_network, regions
from hiernas.space import SearchSpace


@dataclass(frozen=True)
class Block:
    """One block, whether it is vital, and what it costs (in a space: its largest option)."""

    name: str
    vital: bool
    count: Count


# -- spaces ------------------------------------------------------------------------------------------------------


def blocks_of_space(space: SearchSpace) -> list[Block]:
    """All blocks of a chain space, those that every network has included."""
    vital, (fixed, options) = set(vital_sites(space)), parts_of(space.skeleton)
    searched = []
    for decision, parts in zip(space.decisions, options, strict=True):
        largest = max((counted(part) for o in decision.options for part in parts[o]), key=lambda c: (c.params, c.macs))
        searched.append(Block(decision.name, decision.name in vital, largest))
    around = [Block(part.site.name, True, counted(part)) for part in fixed]
    chain: Any = space.skeleton
    stem = len(chain.stem)
    return [*around[:stem], *searched, *around[stem:]]


# -- any network -------------------------------------------------------------------------------------------------


def blocks_of_network(network: nn.Module, input_size: tuple[int, int, int]) -> list[Block]:
    """The blocks of any network that `torch.export` can trace, for images [C, H, W]; vital by its graph.

    Without a vital block no way is left from input to output: a block with a projection shortcut is vital, since no
    identity leads around it (footnote 2 of the paper). `hiernas.networks.graph.regions` says what is taken as a block.
    Raises `SpaceError` where the network cannot be traced.
    """
    return blocks_of_graph(graph_of_network(network, input_size))


def blocks_of_graph(graph: Graph) -> list[Block]:
    """The blocks of a network whose graph was read."""
    return [block_of(graph, region) for region in regions(graph)]


def block_of(graph: Graph, region: Region) -> Block:
    """The block of a region of a network's graph."""
    return Block(region.name, not graph.passes(region.layers), Count(*graph.count(region)))

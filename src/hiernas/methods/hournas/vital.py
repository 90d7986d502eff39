"""Vital blocks of HourNAS (arXiv 2005.14446v3, section 3.1): those that stand on every path from input to output.

In a residual network information passes through a block or around it, by the identity. Where there is no way around,
in stems, heads, and blocks that change width or resolution, the block is vital.
"""

from __future__ import annotations

from typing import Any

import networkx

from hiernas.errors import SpaceError
from hiernas.space import SearchSpace


def vital_sites(space: SearchSpace) -> tuple[str, ...]:
    """The vital sites of a chain space, in order: the dominators of the output in the graph of its blocks.

    There is a way around a block that can be skipped, and around one through whose every option an identity leads.
    Raises `SpaceError` for spaces of cells.
    """
    if space.skeleton.searched != "blocks":
        raise SpaceError(
            f"vital blocks are those of chains of layers, and '{space.name}' is a space of cells; name a chain space "
            "(`hiernas list spaces`), or one network of cells (`hiernas list networks`)"
        )
    chain: Any = space.skeleton  # which alone knows where an identity leads around a block
    graph = networkx.DiGraph()
    for i, (decision, way_around) in enumerate(zip(space.decisions, chain.ways_around(space.decisions), strict=True)):
        graph.add_edge(i, decision.name)  # numbers are the tensors between blocks
        graph.add_edge(decision.name, i + 1)
        if way_around:
            graph.add_edge(i, i + 1)
    dominators = networkx.immediate_dominators(graph, 0)
    found, node = set(), len(space.decisions)
    while node:
        node = dominators[node]
        found.add(node)
    return tuple(d.name for d in space.decisions if d.name in found)

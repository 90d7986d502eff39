"""Cells and stage graphs of a result: what is in them, in words and as JSON, and as graphs to draw.

All is read from the names of the sites (`normal.0->2`, `stage1.3->5`, `stage1.cells`), so that spaces of a user's own
are shown, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hiernas.errors import SpaceError
from hiernas.genotype import INPUTS, Genotype
from hiernas.genotypes import genotype as genotype_of
from hiernas.report.layout import Edge, Graph, Node
from hiernas.supernet.stage import JSON_STAGE, STAGES, live_nodes

Values = Mapping[str, Any]
SHORT = {"skip_connect": "skip", "max_pool_3x3": "max", "avg_pool_3x3": "avg"}
SITE = re.compile(r"(.+)\.(\d+)->(\d+)")
STAGE = re.compile(r"stages|stage\d+")  # one graph for all stages, or that of one


@dataclass(frozen=True)
class Kept:
    """An edge that was kept, with one of its operations; `weight` is 1 where the edge has no other."""

    source: int
    node: int
    op: str
    weight: float = 1.0


@dataclass(frozen=True)
class Part:
    """A cell, or a stage with its cells: the edges into each node. States 0 and 1 are inputs, nodes count from 2."""

    name: str
    nodes: int
    kept: tuple[Kept, ...]  # by node, then source
    outputs: tuple[int, ...]  # the states that are concatenated

    @property
    def is_stage(self) -> bool:
        return STAGE.fullmatch(self.name) is not None

    @property
    def label(self) -> str:
        """The name in a sentence: 'normal', 'stage 1', 'all stages'."""
        if self.is_stage:
            return self.name.replace("stage", "stage ") if self.name != "stages" else "all stages"
        return self.name

    @property
    def is_weighted(self) -> bool:
        return any(k.weight != 1.0 for k in self.kept)

    @property
    def dead(self) -> tuple[int, ...]:
        """The nodes from which no path leads to the output."""
        alive = live_nodes(((k.source, k.node) for k in self.kept), self.outputs)
        return tuple(n for n in range(INPUTS, INPUTS + self.nodes) if n not in alive)

    @property
    def depth(self) -> int:
        """Nodes on the longest path to the output."""
        layers = self.graph().layers()
        return max(layers[n] for n in self.outputs)

    @property
    def pairs(self) -> list[list[tuple[str, int]]] | None:
        """(operation, source) of each node's edges, as genotypes have them; None where an edge has several operations."""
        if len({(k.source, k.node) for k in self.kept}) < len(self.kept) or self.is_weighted:
            return None
        return [[(k.op, k.source) for k in self.kept if k.node == n] for n in range(INPUTS, INPUTS + self.nodes)]

    def graph(self) -> Graph:
        """The graph to draw: inputs, nodes, and the output, to which the concatenated nodes lead."""
        dead = set(self.dead)
        states = [Node(str(i), "input") for i in range(INPUTS)]
        states += [Node(str(n), "node", n in dead) for n in range(INPUTS, INPUTS + self.nodes)]
        most = max((k.weight for k in self.kept), default=1.0) if self.is_weighted else None
        edges = [
            Edge(k.source, k.node, short(k.op), k.weight / most if most else None, k.node in dead) for k in self.kept
        ]
        out = len(states)
        return Graph((*states, Node("out", "output")), (*edges, *(Edge(n, out) for n in self.outputs)))


def short(op: str) -> str:
    """An operation's name as a label: 'sep_conv_3x3' -> 'sep 3×3', 'max_pool_3x3' -> 'max'."""
    found = re.fullmatch(r"(sep|dil)_conv_(\d+)x(\d+)", op)
    return f"{found[1]} {found[2]}×{found[3]}" if found else SHORT.get(op, op)


def is_cells(result: Values) -> bool:
    """Whether the chosen network's sites are edges of cells, or of graphs between them."""
    return any(SITE.fullmatch(site) for site in result["chosen"]["sites"])


def parts_of(result: Values) -> list[Part]:
    """The cells, or the stages, of the chosen network."""
    edges: dict[str, list[Kept]] = {}
    sites = result["chosen"]["sites"]
    for site, choice in sites.items():
        found = SITE.fullmatch(site)
        if found is None:
            continue
        kept = edges.setdefault(found[1], [])
        options = {choice: 1.0} if isinstance(choice, str) else choice
        kept += [Kept(int(found[2]), int(found[3]), op, float(w)) for op, w in options.items() if op != "none"]
    return [_part(name, kept, sites.get(f"{name}.cells")) for name, kept in edges.items()]


def _part(name: str, kept: list[Kept], number: str | None) -> Part:
    """`number`: how many of a stage's cells there are, where that was searched."""
    nodes = int(number) if number is not None else max((k.node for k in kept), default=INPUTS - 1) - INPUTS + 1
    within = tuple(sorted((k for k in kept if k.node < INPUTS + nodes), key=lambda k: (k.node, k.source)))
    states = range(INPUTS, INPUTS + nodes)
    return Part(name, nodes, within, tuple(states[-2:] if STAGE.fullmatch(name) else states))


def cells_of(result: Values) -> list[Part]:
    """The cells that the stages of the chosen network are made of; empty where they are not known."""
    try:
        found = genotype_of(result["space"]["arguments"]["cell"])
    except (KeyError, TypeError, SpaceError):  # a space of the user's own
        return []
    return [
        Part(kind, len(graph), tuple(Kept(s, n, op) for n, edges in enumerate(graph, INPUTS) for op, s in edges),
             tuple(range(INPUTS, INPUTS + len(graph))))
        for kind, graph in found.cells
    ]  # fmt: skip


def alike(parts: list[Part]) -> list[tuple[str, Part]]:
    """Each different cell once, with the names of all that are like it."""
    names: dict[tuple[Kept, ...], list[str]] = {}
    first: dict[tuple[Kept, ...], Part] = {}
    for part in parts:
        names.setdefault(part.kept, []).append(part.name)
        first.setdefault(part.kept, part)
    return [(" and ".join(names[kept]), part) for kept, part in first.items()]


# -- as text ---------------------------------------------------------------------------------------------------------


def genotype_lines(parts: list[Part]) -> list[str]:
    """DARTS' printed form, a line for each cell; empty where an edge has several operations."""
    found = [(part.name, part.pairs) for part in parts]
    cells = [(name, tuple(map(tuple, pairs))) for name, pairs in found if pairs is not None]
    if len(cells) < len(found):
        return []
    texts = [Genotype((cell,)).to_text() for cell in cells]
    return ["Genotype(", *(f"    {text.removeprefix('Genotype(')[:-1]}," for text in texts), ")"]


def stage_lines(parts: list[Part], cell: Any) -> list[str]:
    """H-DAS' object with `cell` and `stage` as JSON, a line for each stage; empty where an edge has several operations."""
    graphs = []
    for k, part in enumerate(parts * STAGES if len(parts) == 1 else parts, 1):
        key, pairs = JSON_STAGE.format(k), part.pairs
        if pairs is None:
            return []
        graphs.append(f'    "{key}": {json.dumps(pairs)}, "{key}_concat": {json.dumps(part.outputs)}')
    return [f'{{"cell": {json.dumps(cell)},', '"stage": {', *",\n".join(graphs).split("\n"), "}}"]

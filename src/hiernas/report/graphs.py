"""Cells and stage graphs of a result: what is in them, drawn, in words, and as text to copy.

All is read from the names of the sites (`normal.0->2`, `stage1.3->5`, `stage1.cells`), so that spaces of a user's own
are shown, too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from hiernas.errors import SpaceError
from hiernas.networks.genotype import INPUTS, Genotype
from hiernas.networks.genotype import genotype as genotype_of
from hiernas.networks.parts import StageShape, live_nodes
from hiernas.networks.stage import JSON_STAGE, STAGES
from hiernas.report.kit import Values

SHORT = {"skip_connect": "skip", "max_pool_3x3": "max", "avg_pool_3x3": "avg"}
SITE = re.compile(r"(.+)\.(\d+)->(\d+)")
STAGE = re.compile(r"stages|stage\d+")  # one graph for all stages, or that of one
# -- what is in them ------------------------------------------------------------------------------------------------


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
    def states(self) -> range:
        """The nodes, as states of the graph."""
        return range(INPUTS, INPUTS + self.nodes)

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
    def edges(self) -> list[tuple[int, int]]:
        """(source, node) of what was kept."""
        return [(k.source, k.node) for k in self.kept]

    @property
    def dead(self) -> tuple[int, ...]:
        """The nodes from which no path leads to the output."""
        alive = live_nodes(self.edges, self.outputs)
        return tuple(n for n in self.states if n not in alive)

    @property
    def depth(self) -> int:
        """Nodes on the longest path to the output."""
        return StageShape.of(self.edges, self.outputs, self.nodes).depth

    @property
    def pairs(self) -> list[list[tuple[str, int]]] | None:
        """(operation, source) of each node's edges, as genotypes have them; None where an edge has several operations."""
        if len(set(self.edges)) < len(self.kept) or self.is_weighted:
            return None
        return [[(k.op, k.source) for k in self.kept if k.node == n] for n in self.states]

    def edges_into(self, node: int) -> dict[int, list[Kept]]:
        """By source, the strongest operation of each edge first."""
        kept = sorted((k for k in self.kept if k.node == node), key=lambda k: (k.source, -k.weight))
        return {source: list(ops) for source, ops in groupby(kept, key=lambda k: k.source)}


def short(op: str) -> str:
    """An operation's name as a label: 'sep_conv_3x3' -> 'sep 3×3', 'max_pool_3x3' -> 'max'."""
    found = re.fullmatch(r"(sep|dil)_conv_(\d+)x(\d+)", op)
    return f"{found[1]} {found[2]}×{found[3]}" if found else SHORT.get(op, op)


def weights_of(choice: str | Mapping[str, float]) -> Mapping[str, float]:
    """The options that a site keeps, each with its weight."""
    return {choice: 1.0} if isinstance(choice, str) else choice


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
        kept += [Kept(int(found[2]), int(found[3]), op, w) for op, w in weights_of(choice).items() if op != "none"]
    parts: list[Part] = []
    for name, kept in edges.items():
        number = sites.get(f"{name}.cells")  # how many of a stage's cells there are, where that was searched
        nodes = int(number) if number is not None else max((k.node for k in kept), default=INPUTS - 1) - INPUTS + 1
        within = tuple(sorted((k for k in kept if k.node < INPUTS + nodes), key=lambda k: (k.node, k.source)))
        states = range(INPUTS, INPUTS + nodes)
        parts.append(Part(name, nodes, within, tuple(states[-2:] if STAGE.fullmatch(name) else states)))
    return parts


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
    same: dict[tuple[Kept, ...], list[Part]] = {}
    for part in parts:
        same.setdefault(part.kept, []).append(part)
    return [(" and ".join(part.name for part in alike), alike[0]) for alike in same.values()]


# -- drawn -----------------------------------------------------------------------------------------------------------

BOX, COLUMN, ROW, GAP, ROUND = 24, 31, 19, 9, 6  # pixels


@dataclass(frozen=True)
class Line:
    """An edge: down from its source's box, round to the right, to (x, y) at its target's; the text stands beyond, at `at`."""

    kind: str  # edge, dead, or output
    path: str
    x: int
    y: int
    at: int
    text: str = ""
    wide: float = 0.0


@dataclass(frozen=True)
class Box:
    """A state's box by its left upper corner."""

    kind: str  # input, node, dead or output
    text: str
    x: int
    y: int
    height: int
    width: int = BOX


@dataclass(frozen=True)
class Drawing:
    """Each state has a column of its own, and each edge a row, so that nothing stands in the way of anything else."""

    lines: tuple[Line, ...]
    boxes: tuple[Box, ...]

    @property
    def width(self) -> int:
        return max(*(b.x + b.width for b in self.boxes), *(line.at + text_width(line.text) for line in self.lines)) + 4

    @property
    def height(self) -> int:
        return max(b.y + b.height for b in self.boxes) + 4


def text_width(text: str) -> int:
    """Pixels that a text of 11 pixels' height takes, at most."""
    return math.ceil(4 + 6.6 * len(text))


def drawing(part: Part) -> Drawing:
    """The inputs side by side; every other state a column to the right, below the edges of those before it."""
    dead, weighted = set(part.dead), part.is_weighted
    boxes = [Box("input", str(i), 4 + COLUMN * i, 4, BOX) for i in range(INPUTS)]
    lines: list[Line] = []

    def enter(kind: str, text: str, edges: Sequence[tuple[int, str, str, float]], row: int, wide: int = BOX) -> None:
        """A box with a row for each edge into it: source, kind, text and width."""
        x, y = 4 + COLUMN * len(boxes), boxes[-1].y + boxes[-1].height + GAP
        height = max(BOX, row * len(edges))
        for i, (source, of, said, width) in enumerate(edges):
            start, at = boxes[source], y + height // 2 + int(row * (i - (len(edges) - 1) / 2))
            bus = start.x + BOX // 2
            path = f"M {bus} {start.y + start.height} V {at - ROUND} q 0 {ROUND} {ROUND} {ROUND} H {x - 5}"
            lines.append(Line(of, path, x, at, x + wide + 6, said, width))
        boxes.append(Box(kind, text, x, y, height, wide))

    def label(ops: Sequence[Kept]) -> str:
        """An edge's operations, the strongest first: two where they have weights, and how many more there are."""
        shown = [f"{short(k.op)} {100 * k.weight:.0f}" if weighted else short(k.op) for k in ops]
        return ", ".join(shown[:2] if weighted else shown) + (f", +{len(shown) - 2}" if weighted and len(shown) > 2 else "")

    most = max((sum(k.weight for k in ops) for n in part.states for ops in part.edges_into(n).values()), default=1.0)
    for n in part.states:
        kind = "dead" if n in dead else "edge"
        edges = [
            (source, kind, label(ops), 0.6 + 3.4 * sum(k.weight for k in ops) / most if weighted else 0.0)
            for source, ops in part.edges_into(n).items()
        ]
        enter("dead" if n in dead else "node", str(n), edges, ROW)
    enter("output", "out", [(n, "output", "", 0.0) for n in part.outputs], 9, BOX + 8)
    return Drawing(tuple(sorted(lines, key=lambda line: line.kind == "edge")), tuple(boxes))


def in_words(part: Part) -> str:
    """What the drawing shows, for those who do not see it."""
    said = []
    for n in part.states:
        edges = [f"{short(k.op)} of {source}" for source, ops in part.edges_into(n).items() for k in ops]
        if edges:
            said.append(f"{n}{' (dead)' if n in part.dead else ''} is {' plus '.join(edges)}")
    joined = ", ".join(map(str, part.outputs))
    return f"{part.label.capitalize() if part.is_stage else f'Cell {part.name}'}: {'; '.join(said)}. Output: {joined}."


# -- as text ---------------------------------------------------------------------------------------------------------


def genotype_lines(parts: Sequence[Part]) -> list[str]:
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

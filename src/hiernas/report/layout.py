"""Where the nodes, edges and labels of a graph stand: layers from the inputs to the output.

The method is Sugiyama's (1981) as Gansner et al. (1993) have it: a node stands one layer behind the last of those it
reads, a label in a layer of its own between two of them, and an edge has a lane in every layer it passes. The order in
the layers is that of few crossings, and the lanes are as straight as the order allows. Within a layer edges run
straight in their lanes, so that none crosses a node or a label.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]

NODE, LABEL = 26.0, 15.0  # least height in pixels; the width is that of the text
PORTS = 5.0  # between two edges at one side of a node, at least
MARGIN, GAP, LANES = 8.0, (14.0, 40.0), 7.0  # around the graph, between two layers, and between two lanes
STARTS, SWEEPS, GOLDEN = 10, 6, 0.618033988749895  # of the order; the golden ratio's sequence shuffles


@dataclass(frozen=True)
class Node:
    """A state of the graph: an input, a node or cell, or the output. `dead`: no path leads from it to the output."""

    text: str
    kind: str  # input, node or output
    dead: bool = False


@dataclass(frozen=True)
class Edge:
    """An edge between two nodes, by their positions in the graph. `weight` (0 to 1) is drawn as the line's width."""

    source: int
    target: int
    label: str = ""
    weight: float | None = None
    dead: bool = False


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which every edge goes forwards, and the edges between them."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def layers(self) -> list[int]:
        """The layer of each node: edges on the longest path to it; the output stands alone in the last one."""
        found: list[int] = []
        for i, node in enumerate(self.nodes):
            before = (found[e.source] for e in self.edges if e.target == i)
            found.append(1 + max(found) if node.kind == "output" else 1 + max(before, default=-1))
        return found


@dataclass(frozen=True)
class Box:
    """A rectangle by its centre."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Layout:
    """A drawing in pixels, y downwards: a box for each node, for each edge its label's box and the points of its curve.

    A curve is made of cubic Bézier pieces: the point it starts from, then three for each piece.
    """

    width: float
    height: float
    nodes: tuple[Box, ...]
    labels: tuple[Box | None, ...]
    paths: tuple[tuple[Point, ...], ...]


def label_width(text: str) -> float:
    """The width that a text of 10.5 pixels needs, at most, in whole pixels."""
    return math.ceil(6 + 6.1 * len(text))


def node_width(text: str) -> float:
    """The width of a node's box, in whole pixels."""
    return max(NODE, 8.0 + 7 * len(text))


def layered(graph: Graph, width: float) -> Layout:
    """Left to right where that fits into `width` pixels, else from top to bottom."""
    right, down = _Sheet(graph, True), _Sheet(graph, False)
    return right.layout(width) if right.least <= max(width, down.breadth) else down.layout(width)


# -- layers and lanes ----------------------------------------------------------------------------------------------


@dataclass
class _Slot:
    """A place in a layer: a node's, a label's, or an edge's lane (of no size). `at` is its centre across the layers."""

    layer: int
    along: float  # its size in the direction of the edges
    across: float
    at: float = 0.0


class _Sheet:
    """A graph's slots in their layers, in order and in place. `right`: edges run to the right, else downwards."""

    def __init__(self, graph: Graph, right: bool) -> None:
        self.graph, self.right = graph, right
        self.slots: list[_Slot] = []
        self.chains: list[list[int]] = []  # per edge its slots, from its source to its target
        self.label_slots: list[int | None] = []
        self._fill()
        self.layers: list[list[int]] = [[] for _ in range(1 + max(s.layer for s in self.slots))]
        for i, slot in enumerate(self.slots):
            self.layers[slot.layer].append(i)
        self.before: list[list[int]] = [[] for _ in self.slots]
        self.behind: list[list[int]] = [[] for _ in self.slots]
        for a, b in (pair for chain in self.chains for pair in pairwise(chain)):
            self.before[b].append(a)
            self.behind[a].append(b)
        self._order()
        self._place()
        self.depths = [max((self.slots[i].along for i in layer), default=0.0) for layer in self.layers]
        self.least = sum(self.depths) + GAP[0] * self._gaps() + 2 * MARGIN
        ends = [(s.at - s.across / 2, s.at + s.across / 2) for s in self.slots]
        self.start = min(low for low, _ in ends)
        self.breadth = max(high for _, high in ends) - self.start + 2 * MARGIN

    def _slot(self, layer: int, width: float, height: float) -> int:
        self.slots.append(_Slot(layer, *((width, height) if self.right else (height, width))))
        return len(self.slots) - 1

    def _fill(self) -> None:
        """Slots for the nodes in even layers; for each edge lanes, and its label in the emptiest odd layer it passes."""
        layers = self.graph.layers()
        for i, (node, layer) in enumerate(zip(self.graph.nodes, layers, strict=True)):
            self._slot(2 * layer, node_width(node.text), NODE)
            ends = max(sum(e.source == i for e in self.graph.edges), sum(e.target == i for e in self.graph.edges))
            self.slots[i].across = max(self.slots[i].across, 10 + PORTS * (ends - 1))
        labels = [0] * (2 * max(layers) + 1)
        for edge in self.graph.edges:
            passed = range(2 * layers[edge.source] + 1, 2 * layers[edge.target])
            chosen = min(passed[::2], key=lambda layer: (labels[layer], -layer)) if edge.label else -1
            labels[chosen] += bool(edge.label)
            inner = [
                self._slot(layer, *((label_width(edge.label), LABEL) if layer == chosen else (0.0, 0.0))) for layer in passed
            ]
            self.chains.append([edge.source, *inner, edge.target])
            self.label_slots.append(inner[passed.index(chosen)] if edge.label else None)

    # -- order -----------------------------------------------------------------------------------------------------

    def _order(self) -> None:
        """Keep the order of the fewest crossings among those reached from several first orders; the first is the nodes' own."""
        best, fewest = self.layers, -1
        for start in range(STARTS):
            self.layers = [sorted(layer, key=lambda i: start * (i + 1) * GOLDEN % 1) for layer in best]
            for sweep in range(SWEEPS):
                self._sort(back=sweep % 2 == 1)
                self._swap()
                crossings = self._crossings()
                if fewest < 0 or crossings < fewest:
                    best, fewest = [list(layer) for layer in self.layers], crossings
            if fewest == 0:
                break
        turned = best[0][0] > best[0][-1]  # the first input comes first, and a mirror image has as many crossings
        self.layers = [layer[::-1] for layer in best] if turned else best
        self.rank = self._ranks()

    def _sort(self, back: bool) -> None:
        """Sort the layers by the means of their neighbours in the layer before, or `back` from the last in that behind."""
        side = self.behind if back else self.before
        for layer in self.layers[::-1] if back else self.layers:
            rank = self._ranks()
            means = {i: _mean([rank[j] for j in side[i]], rank[i]) for i in layer}
            layer.sort(key=means.__getitem__)

    def _ranks(self) -> list[int]:
        rank = [0] * len(self.slots)
        for layer in self.layers:
            for k, i in enumerate(layer):
                rank[i] = k
        return rank

    def _swap(self) -> None:
        """Swap neighbours in a layer as long as that takes away crossings."""
        rank = self._ranks()
        for _ in range(len(self.slots)):
            swapped = False
            for layer in self.layers:
                for k in range(len(layer) - 1):
                    a, b = layer[k], layer[k + 1]
                    if self._between(a, b, rank) > self._between(b, a, rank):
                        layer[k], layer[k + 1] = b, a
                        rank[a], rank[b] = k + 1, k
                        swapped = True
            if not swapped:
                return

    def _between(self, a: int, b: int, rank: Sequence[int]) -> int:
        """Crossings of the edges of two slots of a layer, where `a` stands before `b`."""
        return sum(rank[i] > rank[j] for side in (self.before, self.behind) for i in side[a] for j in side[b])

    def _crossings(self) -> int:
        rank = self._ranks()
        return sum(
            rank[i] > rank[j]
            for layer in self.layers
            for k, a in enumerate(layer)
            for b in layer[k + 1 :]
            for i in self.behind[a]
            for j in self.behind[b]
        )

    # -- place -----------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Centres across the layers, in order and apart: a linear program for straight lanes, and nodes amid their edges."""
        from scipy.optimize import linprog

        terms = list(self._terms())
        slots, n = len(self.slots), len(self.slots) + len(terms)
        rows: list[dict[int, float]] = []
        bounds: list[float] = []
        for a, b in (pair for layer in self.layers for pair in pairwise(layer)):
            rows.append({a: 1.0, b: -1.0})
            bounds.append(-(self.slots[a].across + self.slots[b].across) / 2 - LANES)
        for k, (_, term, shift) in enumerate(terms, slots):  # its absolute value is at most variable k
            rows += [{**term, k: -1.0}, {**{i: -c for i, c in term.items()}, k: -1.0}]
            bounds += [-shift, shift]
        matrix = [[row.get(i, 0.0) for i in range(n)] for row in rows]
        cost = [0.0] * slots + [weight for weight, _, _ in terms]
        free = [(0.0, 0.0), *[(None, None)] * (slots - 1), *[(0.0, None)] * len(terms)]
        found = linprog(cost, matrix, bounds, bounds=free, method="highs").x
        for slot, at in zip(self.slots, found[:slots], strict=True):
            slot.at = float(at)

    def _terms(self) -> Iterator[tuple[float, dict[int, float], float]]:
        """What is to be small: (weight, coefficients by slot, constant), of which the absolute value counts."""
        nodes = len(self.graph.nodes)
        for chain in self.chains:
            yield from ((8.0, {a: 1.0, b: -1.0}, 0.0) for a, b in pairwise(chain[1:-1]))
            yield 0.5, {chain[1]: 1.0, chain[0]: -1.0}, -self._port(chain[0], chain[1], self.behind)
            yield 0.5, {chain[-2]: 1.0, chain[-1]: -1.0}, -self._port(chain[-1], chain[-2], self.before)
        for side in (self.before, self.behind):
            for i in range(nodes):
                if side[i]:
                    yield 2.0, {i: -1.0, **{j: 1.0 / len(side[i]) for j in side[i]}}, 0.0

    # -- the drawing -----------------------------------------------------------------------------------------------

    def _gaps(self) -> float:
        """How many gaps there are between the layers; those around a layer of lanes alone count half."""
        return sum(self._share(k) for k in range(len(self.depths) - 1))

    def _share(self, k: int) -> float:
        return 0.5 if self.depths[k] == 0 or self.depths[k + 1] == 0 else 1.0

    def layout(self, width: float) -> Layout:
        """The drawing: along the edges as wide as there is room for, across them as broad as it must be."""
        room = (width - self.least) / max(1.0, self._gaps()) if self.right else 10.0
        gap = min(GAP[1], GAP[0] + max(0.0, room))
        starts, x = [], MARGIN
        for k, depth in enumerate(self.depths):
            starts.append(x)
            x += depth + gap * (self._share(k) if k + 1 < len(self.depths) else 0.0)
        length = x + MARGIN
        boxes = [self._box(slot, starts[slot.layer]) for slot in self.slots]
        paths = [tuple(self._point(*p) for p in self._path(chain, starts)) for chain in self.chains]
        size = (length, self.breadth) if self.right else (self.breadth, length)
        labels = tuple(None if i is None else boxes[i] for i in self.label_slots)
        return Layout(*size, tuple(boxes[: len(self.graph.nodes)]), labels, tuple(paths))

    def _point(self, along: float, across: float) -> Point:
        across += MARGIN - self.start
        return (along, across) if self.right else (across, along)

    def _box(self, slot: _Slot, start: float) -> Box:
        size = (slot.along, slot.across) if self.right else (slot.across, slot.along)
        return Box(*self._point(start + self.depths[slot.layer] / 2, slot.at), *size)

    def _path(self, chain: Sequence[int], starts: Sequence[float]) -> list[Point]:
        """Straight through each layer in the edge's lane, curved from one to the next; (along, across) points."""
        source, target = self.slots[chain[0]], self.slots[chain[-1]]
        leave = starts[source.layer] + (self.depths[source.layer] + source.along) / 2
        points = [(leave, source.at + self._port(chain[0], chain[1], self.behind))]
        for a, b in pairwise(chain):
            _straight(points, starts[self.slots[a].layer] + self.depths[self.slots[a].layer])
            inside = self.slots[b].at + (self._port(b, a, self.before) if b == chain[-1] else 0.0)
            (x, y), end = points[-1], starts[self.slots[b].layer]
            points += [((x + end) / 2, y), ((x + end) / 2, inside), (end, inside)]
        _straight(points, starts[target.layer] + (self.depths[target.layer] - target.along) / 2)
        return points

    def _port(self, node: int, lane: int, side: Sequence[Sequence[int]]) -> float:
        """Where a node's edge leaves or enters it, from the node's centre: side by side, in the order of the lanes."""
        order = sorted(side[node], key=self.rank.__getitem__)
        apart = min(6.0, 0.7 * self.slots[node].across / max(1, len(order) - 1))
        return apart * (order.index(lane) - (len(order) - 1) / 2)


def _straight(points: list[Point], end: float) -> None:
    x, y = points[-1]
    if abs(end - x) > 1e-9:
        points += [(x + (end - x) / 3, y), (end - (end - x) / 3, y), (end, y)]


def _mean(values: Sequence[float], without: float) -> float:
    return sum(values) / len(values) if values else without

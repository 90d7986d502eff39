"""The figures of a search in cells: a cell or stage as a graph, and how the search went.

Each returns inline SVG of a given width in pixels, and "" where there is nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from hiernas.report.figures import Curve, curves_of, marks, points_of, verticals
from hiernas.report.graphs import Part
from hiernas.report.graphviz import by_dot
from hiernas.report.layout import Box, Edge, Layout, Node, Point, layered
from hiernas.report.svg import BLUE, INK, MUTED, ORANGE, PAPER, axes, draw, sheet

Values = Mapping[str, Any]
ARROW = 6.0  # pixels

# -- graphs --------------------------------------------------------------------------------------------------------


def graph(part: Part, name: str, width: float) -> str:
    """A cell or stage: inputs, nodes, the operation on each edge, the output; dead nodes in grey.

    It is as wide as it must be, which may be more than `width`.
    """
    if not part.kept:
        return ""
    what = part.graph()
    found = by_dot(what, width) or layered(what, width)

    def paint(figure: Figure) -> None:
        ax = sheet(figure)
        for edge, path, box in zip(what.edges, found.paths, found.labels, strict=True):
            _edge(ax, edge, path, box)
        for node, box in zip(what.nodes, found.nodes, strict=True):
            _node(ax, node, box)

    return draw(f"{name}-{width:.0f}", in_words(part), *_size(found), paint)


def _size(found: Layout) -> tuple[float, float]:
    return math.ceil(found.width - 1e-6), math.ceil(found.height - 1e-6)


def in_words(part: Part) -> str:
    """What the drawing shows, for those who do not see it."""
    what, dead = part.graph(), set(part.dead)
    said = []
    for i, node in enumerate(what.nodes):
        edges = [f"{e.label} of {what.nodes[e.source].text}" for e in what.edges if e.target == i and e.label]
        if edges:
            said.append(f"{node.text}{' (dead)' if i in dead else ''} is {' plus '.join(edges)}")
    joined = ", ".join(map(str, part.outputs))
    return f"{part.label.capitalize() if part.is_stage else f'Cell {part.name}'}: {'; '.join(said)}. Output: {joined}."


def _edge(ax: Axes, edge: Edge, path: Sequence[Point], label: Box | None) -> None:
    named = bool(edge.label)
    colour, alpha = (MUTED, 0.55) if edge.dead else (INK if named else MUTED, 1.0)
    wide = 1.1 if edge.weight is None else 0.6 + 3.4 * edge.weight
    tip, base, head = _arrow(path, ARROW + wide / 2)
    codes = [Path.MOVETO, *[Path.CURVE4] * (len(path) - 1)]
    ax.add_patch(PathPatch(Path([*path[:-1], base], codes), fill=False, edgecolor=colour, linewidth=wide, alpha=alpha,
                           linestyle="-" if named else (0, (3, 2)), zorder=1))  # fmt: skip
    ax.add_patch(Polygon([tip, *head], facecolor=colour, edgecolor="none", alpha=alpha, zorder=2))
    if label is not None:
        low = label.x - label.width / 2, label.y - label.height / 2
        ax.add_patch(Rectangle(low, label.width, label.height, facecolor=PAPER, edgecolor="none", zorder=3))
        ax.text(label.x, label.y, edge.label, ha="center", va="center", fontsize=10.5, zorder=4,
                color=MUTED if edge.dead else INK)  # fmt: skip


def _arrow(path: Sequence[Point], size: float) -> tuple[Point, Point, tuple[Point, Point]]:
    """Tip, the middle of the base, and the corners of the base of the head at a curve's end."""
    (x, y), end = next(p for p in path[-2::-1] if math.dist(p, path[-1]) > 1e-6), path[-1]
    length = math.dist((x, y), end)
    dx, dy = (end[0] - x) / length * size, (end[1] - y) / length * size
    base = end[0] - dx, end[1] - dy
    side = 0.45
    return end, base, ((base[0] - side * dy, base[1] + side * dx), (base[0] + side * dy, base[1] - side * dx))


def _node(ax: Axes, node: Node, box: Box) -> None:
    edge, face = {"input": (MUTED, PAPER), "output": (MUTED, PAPER), "node": (BLUE, (BLUE, 0.15))}[node.kind]
    if node.dead:
        edge, face = MUTED, PAPER
    round_by = 8 if node.kind == "node" else 2
    corner = box.x - box.width / 2, box.y - box.height / 2
    for fill, line, order in ((PAPER, PAPER, 5), (face, edge, 6)):
        ax.add_patch(FancyBboxPatch(corner, box.width, box.height, boxstyle=f"round,pad=0,rounding_size={round_by}",
                                    facecolor=fill, edgecolor=line, linewidth=1.0, zorder=order,
                                    linestyle="--" if node.dead else "-"))  # fmt: skip
    ax.text(box.x, box.y, node.text, ha="center", va="center", fontsize=11.5, zorder=7, color=MUTED if node.dead else INK)


# -- how the search went ---------------------------------------------------------------------------------------------


def search(result: Values, events: Sequence[Values], width: float) -> str:
    """By epoch: the entropy of the sites, and the shares of identities and of `none`; an alarm where there was one."""
    supernet, _ = curves_of(events)
    curves = [c for c in supernet if all("entropy" in e for e in c.epochs)]
    if not curves:
        return ""
    beside = width > 500
    each = 290.0 if beside else 250.0
    height = each if beside else 2 * each
    epochs = [e for c in curves for e in c.epochs]

    def paint(figure: Figure) -> None:
        for i, lines in enumerate(SHOWN):
            if beside:
                ax = axes(figure, 56 + i * width / 2, 12, (1 - i) * width / 2 + 10, 72)
            else:
                ax = axes(figure, 56, 12 + each * i, 12, each * (1 - i) + 72)
            _panel(ax, curves, lines)
            verticals(ax, curves, marks(result, curves))
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -40 / (each - 84)), ncols=3, columnspacing=1.2)

    first, last = epochs[0], epochs[-1]
    alt = (
        f"The search by epoch: entropy from {first['entropy']:.2f} to {last['entropy']:.2f}, share of identities from "
        f"{100 * first['skips']:.0f} % to {100 * last['skips']:.0f} %, of none from {100 * first['none']:.0f} % to "
        f"{100 * last['none']:.0f} %."
    )
    return draw(f"search{width:.0f}", alt, width, height, paint)


Line = tuple[str, str, str, str]  # key of the event, label, style, colour
SHOWN: tuple[tuple[Line, ...], ...] = (
    (("entropy", "entropy of the weights (nats)", "-", BLUE),),
    (("skips", "identities (%)", "-", BLUE), ("none", "none (%)", "--", MUTED)),
)


def _panel(ax: Axes, curves: Sequence[Curve], lines: Sequence[Line]) -> None:
    epochs = [e for c in curves for e in c.epochs]
    for key, label, style, colour in lines:
        x, y = np.array(points_of(curves, key, joined=False)).T
        ax.plot(x, y / 100 if key == "entropy" else y, style, color=colour, marker="o" if len(epochs) <= 20 else "",
                markersize=4, label=label)  # fmt: skip
    alarm = next((x for x, e in enumerate(epochs, 1) if e.get("alarm")), None)
    if alarm is not None:
        ax.axvline(alarm, color=ORANGE, linewidth=1.2, label="alarm")
    ax.set_xlabel("Epoch")
    ax.set_xlim(0.5, len(epochs) + 0.5)
    ax.set_ylim(0, None if lines[0][0] == "entropy" else 100)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))

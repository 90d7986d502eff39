"""The layout of a graph by the program `dot`, where it is installed (graphviz.org)."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from hiernas.report.layout import LABEL, NODE, Box, Graph, Layout, Point, label_width, node_width

SECONDS = 20  # that a layout may take; it takes some hundredths
INCH, MARGIN = 72.0, 8.0


def by_dot(graph: Graph, width: float) -> Layout | None:
    """Left to right where that fits into `width` pixels, else from top to bottom; None where there is no `dot`."""
    program = shutil.which("dot")
    if program is None:
        return None
    right = _run(program, graph, "LR")
    if right is None or right.width <= width:
        return right
    down = _run(program, graph, "TB")
    return right if down is None or down.width > right.width else down


def _run(program: str, graph: Graph, direction: str) -> Layout | None:
    """One layout; None where the program fails or says what cannot be read."""
    try:
        done = subprocess.run(
            [program, "-Tjson0"], input=source(graph, direction), capture_output=True, text=True, timeout=SECONDS, check=True
        )
        return read(graph, json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, IndexError):
        return None


def source(graph: Graph, direction: str) -> str:
    """The graph in dot's language. A label is a node on its edge, so that nothing comes to lie over it."""
    out, into, apart = ("e", "w", 0.36) if direction == "LR" else ("s", "n", 0.26)
    lines = [f"digraph {{ rankdir={direction}; ranksep={apart}; nodesep=0.14; node [shape=box, fixedsize=true, label=\"\"];"]
    for i, node in enumerate(graph.nodes):
        lines.append(_node(f"n{i}", node_width(node.text), NODE))
    inputs = " -> ".join(f"n{i}" for i, node in enumerate(graph.nodes) if node.kind == "input")
    output = " ".join(f"n{i};" for i, node in enumerate(graph.nodes) if node.kind == "output")
    lines += [f"{{ rank=min; {inputs} [style=invis]; }}", f"{{ rank=max; {output} }}"]
    for i, edge in enumerate(graph.edges):
        ends = f"n{edge.source}:{out}", f"n{edge.target}:{into}"
        if edge.label:
            lines.append(_node(f"l{i}", label_width(edge.label), LABEL))
            lines += [f"{ends[0]} -> l{i}:{into} [arrowhead=none];", f"l{i}:{out} -> {ends[1]} [arrowhead=none];"]
        else:
            lines.append(f"{ends[0]} -> {ends[1]} [arrowhead=none];")
    return "\n".join([*lines, "}"])


def _node(name: str, width: float, height: float) -> str:
    return f"{name} [width={width / INCH:.4f}, height={height / INCH:.4f}];"


def read(graph: Graph, found: Mapping[str, Any]) -> Layout:
    """The layout from what `dot -Tjson0` printed."""
    left, bottom, right, top = map(float, found["bb"].split(","))

    def point(text: str) -> Point:
        x, y = map(float, text.split(","))
        return x - left + MARGIN, top - y + MARGIN

    boxes = {o["name"]: Box(*point(o["pos"]), INCH * float(o["width"]), INCH * float(o["height"])) for o in _boxes(found)}
    names = {o["_gvid"]: o["name"] for o in _boxes(found)}
    pieces: dict[tuple[str, str], list[list[Point]]] = {}
    for e in (e for e in found["edges"] if e.get("style") != "invis"):
        ends = names[e["tail"]], names[e["head"]]
        pieces.setdefault(ends, []).append([point(p) for p in e["pos"].split()])
    paths, labels = [], []
    for i, edge in enumerate(graph.edges):
        way = [f"n{edge.source}", *([f"l{i}"] if edge.label else []), f"n{edge.target}"]
        paths.append(_joined([pieces[ends].pop(0) for ends in pairwise(way)]))
        labels.append(boxes[f"l{i}"] if edge.label else None)
    nodes = tuple(boxes[f"n{i}"] for i in range(len(graph.nodes)))
    size = right - left + 2 * MARGIN, top - bottom + 2 * MARGIN
    return Layout(*size, nodes, tuple(labels), tuple(paths))


def _boxes(found: Mapping[str, Any]) -> list[Any]:
    return [o for o in found["objects"] if "pos" in o]  # without the groups of one rank


def _joined(pieces: Sequence[Sequence[Point]]) -> tuple[Point, ...]:
    """Curves one after another as one; a straight piece leads from the end of one to the start of the next."""
    points = list(pieces[0])
    for piece in pieces[1:]:
        (x0, y0), (x1, y1) = points[-1], piece[0]
        points += [(x0 + (x1 - x0) / 3, y0 + (y1 - y0) / 3), (x1 - (x1 - x0) / 3, y1 - (y1 - y0) / 3), *piece]
    return tuple(points)

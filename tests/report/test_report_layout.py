"""Layouts of graphs, checked as rectangles and curves: nothing overlaps, edges go forwards, all is inside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

import hiernas
from hiernas.cells import OPERATIONS
from hiernas.genotypes import GENOTYPES
from hiernas.report import graphs, graphviz
from hiernas.report.layout import Box, Edge, Graph, Layout, Node, label_width, layered, node_width
from hiernas.spaces import hdas_stages

WIDE, NARROW = 856, 350
Layouter = Callable[[Graph, float], Layout | None]


def stages(architecture: hiernas.Architecture) -> list[graphs.Part]:
    return graphs.parts_of({"chosen": {"sites": architecture.to_json()["sites"]}})


def drawn() -> dict[str, Graph]:
    """Every published cell, the published stages, random ones with eight cells, and a cell that keeps all its edges."""
    found = {f"{name} {p.name}": p for name in GENOTYPES for p in graphs.cells_of({"space": {"arguments": {"cell": name}}})}
    found |= {f"published {p.name}": p for p in stages(hiernas.known("hdas-stages"))}
    rng = np.random.default_rng(3)
    found |= {f"random {i} {p.name}": p for i in range(2) for p in stages(hdas_stages(cells=26).sample(rng))}
    every = {f"normal.{s}->{n}": {"sep_conv_3x3": 0.7, "skip_connect": 0.2} for n in range(2, 6) for s in range(n)}
    found["all edges"] = graphs.parts_of({"chosen": {"sites": every}})[0]
    return {name: part.graph() for name, part in found.items()}


DRAWN = drawn()


def overlap(a: Box, b: Box) -> bool:
    return 2 * abs(a.x - b.x) < a.width + b.width and 2 * abs(a.y - b.y) < a.height + b.height


def inside(x: float, y: float, box: Box, by: float = 0.0) -> bool:
    return abs(x - box.x) <= box.width / 2 + by and abs(y - box.y) <= box.height / 2 + by


def curve(path: tuple[tuple[float, float], ...], n: int = 12) -> np.ndarray:
    """Points on the cubic pieces of a path, by the definition of Bézier curves."""
    points, t = np.array(path), np.linspace(0, 1, n)[:, None]
    pieces = [
        (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
        for a, b, c, d in (points[i : i + 4] for i in range(0, len(points) - 1, 3))
    ]
    return np.concatenate(pieces)


def check(graph: Graph, found: Layout) -> None:
    """What every layout has to keep, whoever made it."""
    labels = [box for box in found.labels if box is not None]
    assert [box is not None for box in found.labels] == [bool(edge.label) for edge in graph.edges]
    boxes = [*found.nodes, *labels]
    for a, b in combinations(boxes, 2):
        assert not overlap(a, b)
    for box in boxes:
        assert box.width / 2 <= box.x <= found.width - box.width / 2
        assert box.height / 2 <= box.y <= found.height - box.height / 2
    for node, box in zip(graph.nodes, found.nodes, strict=True):
        assert box.width >= node_width(node.text) - 0.01
    for edge, box, path in zip(graph.edges, found.labels, found.paths, strict=True):
        points = curve(path)
        assert points.min() >= 0
        assert (points.max(0) <= [found.width, found.height]).all()
        assert inside(*path[0], found.nodes[edge.source], by=1.5)
        assert inside(*path[-1], found.nodes[edge.target], by=1.5)
        if box is not None:
            assert box.width >= label_width(edge.label) - 0.01
            assert any(inside(x, y, box, by=0.5) for x, y in points)


def axis_of(graph: Graph, found: Layout) -> int:
    """0 where the edges run to the right, 1 where they run downwards; all of them."""
    ends = [(found.nodes[e.source], found.nodes[e.target]) for e in graph.edges]
    axis = 0 if all(a.x + a.width / 2 < b.x - b.width / 2 for a, b in ends) else 1
    assert all((a.x, a.y)[axis] < (b.x, b.y)[axis] for a, b in ends)
    where = [(box.x, box.y)[axis] for box in found.nodes]
    assert where.index(max(where)) == len(where) - 1  # the output is the last of all
    assert max(where[:2]) < min(where[2:])  # the inputs are the first
    return axis


@pytest.mark.parametrize("name", DRAWN)
def test_own_layout(name: str) -> None:
    graph = DRAWN[name]
    for width in (WIDE, NARROW):
        found = layered(graph, width)
        check(graph, found)
        axis = axis_of(graph, found)
        first, second = ((box.y, box.x)[axis] for box in found.nodes[:2])
        assert first < second  # input 0 before input 1
        assert axis == 0 or width == NARROW or name == "all edges"
        assert found.width <= width + 1e-6 or name == "all edges"
        for edge, path in zip(graph.edges, found.paths, strict=True):  # no edge runs through what is not its own
            points = curve(path)
            assert (np.diff(points[:, axis]) >= -1e-6).all()  # forwards all the way
            others = [b for e, b in zip(graph.edges, found.labels, strict=True) if b is not None and e is not edge]
            others += [b for i, b in enumerate(found.nodes) if i not in (edge.source, edge.target)]
            assert not any(inside(x, y, box, by=-0.1) for box in others for x, y in points)


def test_layers_are_longest_paths() -> None:
    for graph in DRAWN.values():
        dag = nx.DiGraph((e.source, e.target) for e in graph.edges)
        for i, layer in enumerate(graph.layers()[:-1]):
            above = dag.subgraph({i, *nx.ancestors(dag, i)}) if i in dag else nx.DiGraph()
            assert layer == (nx.dag_longest_path_length(above) if i in dag else 0)
        assert graph.layers()[-1] == 1 + max(graph.layers()[:-1])


def test_a_chain_is_a_straight_line() -> None:
    nodes = (Node("0", "input"), Node("2", "node"), Node("3", "node"), Node("out", "output"))
    found = layered(Graph(nodes, (Edge(0, 1, "skip"), Edge(1, 2, "max"), Edge(2, 3))), WIDE)
    assert {round(y, 3) for path in found.paths for _, y in path} == {round(found.height / 2, 3)}


def test_crossings_that_need_not_be_are_not() -> None:
    """Given in the worst order, three pairs are untangled: their edges do not meet."""
    nodes = (*(Node(str(i), "input") for i in range(3)), *(Node(str(i), "node") for i in range(3, 6)), Node("out", "output"))
    found = layered(Graph(nodes, (Edge(0, 5, "a"), Edge(1, 4, "b"), Edge(2, 3, "c"), Edge(4, 6))), WIDE)
    heights = [sorted(range(3), key=lambda i: found.nodes[i].y), sorted(range(3), key=lambda i: found.nodes[5 - i].y)]
    assert heights[0] == heights[1]


def inversions(first: list[float], second: list[float]) -> int:
    """Crossings of straight edges between two layers, from the heights of their ends."""
    ends = list(zip(first, second, strict=True))
    return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(ends, 2))


@pytest.mark.parametrize("seed", range(8))
def test_crossings_are_the_fewest_possible(seed: int) -> None:
    """Two layers of four nodes, against all 4! * 4! orders."""
    rng = np.random.default_rng(seed)
    pairs = [(s, 4 + t) for s in range(4) for t in sorted(rng.choice(4, 2, replace=False).tolist())]
    nodes = (*(Node(str(i), "input") for i in range(4)), *(Node(str(i), "node") for i in range(4, 8)), Node("out", "output"))
    found = layered(Graph(nodes, tuple(Edge(s, t, "max") for s, t in pairs)), WIDE)
    ys, labels = [box.y for box in found.nodes], [box.y for box in found.labels if box is not None]
    crossings = inversions([ys[s] for s, _ in pairs], labels) + inversions(labels, [ys[t] for _, t in pairs])
    orders = list(permutations(range(4)))
    assert crossings == min(inversions([p[s] for s, _ in pairs], [q[t - 4] for _, t in pairs]) for p in orders for q in orders)


def test_labels_of_long_edges_are_spread() -> None:
    nodes = (Node("0", "input"), *(Node(str(i), "node") for i in (2, 3, 4)), Node("out", "output"))
    chain = (Edge(0, 1, "max"), Edge(1, 2, "max"), Edge(2, 3, "max"), Edge(3, 4))
    found = layered(Graph(nodes, (*chain, Edge(0, 3, "skip"), Edge(0, 3, "avg"))), WIDE)
    places = [round(box.x) for box in found.labels if box is not None]
    assert max(map(places.count, places)) == 2  # five labels in the three layers between 0 and 4


def test_labels_fit_their_boxes() -> None:
    """Widths of the widest of the page's fonts, from its outlines."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans")
    for op in OPERATIONS[1:]:
        text = graphs.short(op)
        assert TextPath((0, 0), text, size=10.5, prop=font).get_extents().width <= label_width(text)
    for text in ("0", "12", "out"):
        assert TextPath((0, 0), text, size=11.5, prop=font).get_extents().width <= node_width(text) - 2


# -- dot -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
@pytest.mark.parametrize("name", DRAWN)
def test_layout_by_dot(name: str) -> None:
    for width in (WIDE, NARROW):
        found = graphviz.by_dot(DRAWN[name], width)
        assert found is not None
        check(DRAWN[name], found)
        axis = axis_of(DRAWN[name], found)
        assert axis == 0 or width == NARROW or name == "all edges"


ONE = Graph((Node("0", "input"), Node("2", "node")), (Edge(0, 1, "skip"), Edge(0, 1, "max", 0.5)))
PRINTED = {  # of ONE: y upwards, sizes in inches, positions in points, edges in any order
    "bb": "-4,0,196,100",
    "objects": [
        {"_gvid": 0, "name": "%1", "rank": "min", "nodes": [1]},
        {"_gvid": 1, "name": "n0", "pos": "9,50", "width": "0.5", "height": "0.25"},
        {"_gvid": 2, "name": "n1", "pos": "182,50", "width": "0.5", "height": "0.25"},
        {"_gvid": 3, "name": "l0", "pos": "100,80", "width": "0.5", "height": "0.25"},
        {"_gvid": 4, "name": "l1", "pos": "100,20", "width": "0.5", "height": "0.25"},
    ],
    "edges": [
        {"tail": 4, "head": 2, "pos": "118,20 130,20 150,50 164,50"},
        {"tail": 1, "head": 3, "pos": "27,50 40,50 60,80 82,80"},
        {"tail": 3, "head": 2, "pos": "118,80 130,80 150,50 164,50"},
        {"tail": 1, "head": 4, "pos": "27,50 40,50 60,20 82,20"},
    ],
}


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program called dot, the only one on the PATH."""
    path = folder / "dot"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_what_dot_prints_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, f"while read -r line; do :; done\necho '{json.dumps(PRINTED)}'")
    found = graphviz.by_dot(ONE, WIDE)
    assert found is not None
    assert (found.width, found.height) == (216, 116)  # 200 by 100 and a margin of 8
    assert found.nodes == (Box(21, 58, 36, 18), Box(194, 58, 36, 18))
    assert found.labels == (Box(112, 28, 36, 18), Box(112, 88, 36, 18))
    assert found.paths[0][0] == (39, 58)
    assert found.paths[0][-1] == found.paths[1][-1] == (176, 58)
    assert found.paths[1][3] == (94, 88)
    assert [len(path) % 3 for path in found.paths] == [1, 1]


@pytest.mark.parametrize("script", ["exit 1", "echo no JSON", "echo '{}'", "echo '{\"bb\": \"0,0\"}'", ""])
def test_without_a_layout_by_dot_there_is_our_own(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, script)
    assert graphviz.by_dot(ONE, WIDE) is None
    (tmp_path / "dot").unlink()
    assert graphviz.by_dot(ONE, WIDE) is None
    check(ONE, layered(ONE, WIDE))

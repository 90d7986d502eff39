"""Genotypes: cells written down in DARTS' own form, as text and as JSON.

    Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ...], normal_concat=range(2, 6), reduce=..., ...)

A cell is a list of (operation, input) pairs, two for each node in order; inputs 0 and 1 are the two cells before it,
2, 3, ... its own nodes. An edge may be `none` (SNAS has such): it adds nothing. Lists of one list per node, as H-DAS writes
them, are read too.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from hiernas.errors import UNREADABLE, SpaceError, did_you_mean

Edge = tuple[str, int]  # operation and the state it reads
Graph = tuple[tuple[Edge, ...], ...]  # the edges into each node, in the order of the nodes

INPUTS = 2  # states that a graph starts from
MOST_NODES = 100  # that `range` lists


def edges_of(nodes: int) -> Iterator[tuple[int, int]]:
    """All (source, node) pairs of a cell, in the order of DARTS' alphas."""
    return ((source, node) for node in range(INPUTS, INPUTS + nodes) for source in range(node))


def edge_name(kind: str, source: int, node: int) -> str:
    """The site's name of an edge."""
    return f"{kind}.{source}->{node}"


@dataclass(frozen=True)
class Genotype:
    """Cells by kind (`normal` and `reduce`, or H-DAS' five), each with the edges into its nodes, sorted by input."""

    cells: tuple[tuple[str, Graph], ...]

    def graph(self, kind: str) -> Graph:
        """The cell of a kind; where the genotype has no `normal2`, its `normal` stands for it."""
        graphs = dict(self.cells)
        general = kind.rstrip("0123456789")
        if kind not in graphs and general not in graphs:
            raise SpaceError(f"the genotype has no cell '{kind}'; it has {', '.join(graphs)}")
        return graphs[kind] if kind in graphs else graphs[general]

    @property
    def title(self) -> str:
        """Its published name, else its text: what `genotype` reads."""
        return next((name for name, known in GENOTYPES.items() if known == self), self.to_text())

    def to_json(self) -> dict[str, Any]:
        """Plain values in DARTS' form: per kind the pairs of all nodes in one list, and the concatenated nodes."""
        value: dict[str, Any] = {}
        for kind, graph in self.cells:
            value[kind] = [[op, source] for node in graph for op, source in node]
            value[f"{kind}_concat"] = list(range(INPUTS, INPUTS + len(graph)))
        return value

    def to_text(self) -> str:
        """DARTS' printed form, which `read_genotype` and DARTS' own code read."""
        parts = []
        for kind, graph in self.cells:
            pairs = [(op, source) for node in graph for op, source in node]
            parts += [f"{kind}={pairs}", f"{kind}_concat=range({INPUTS}, {INPUTS + len(graph)})"]
        return f"Genotype({', '.join(parts)})"


def read_genotype(value: str | Mapping[str, Any] | Genotype) -> Genotype:
    """A genotype from its text, its JSON text or its JSON value. Raises `SpaceError` with what is wrong."""
    if isinstance(value, Genotype):
        return value
    fields = _fields_of_text(value) if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not fields:
        raise SpaceError(f"not a genotype: {_short(value)}; write Genotype(normal=[('sep_conv_3x3', 0), ...], ...)")
    cells = tuple((kind, read_graph(fields[kind], kind)) for kind in fields if not kind.endswith("_concat"))
    for kind, graph in cells:
        check_concat(fields.get(f"{kind}_concat"), kind, tuple(range(INPUTS, INPUTS + len(graph))))
    return Genotype(cells)


def read_graph(value: Any, what: str) -> Graph:
    """The edges into each node from pairs in one list (two for each node), or from one list per node."""
    try:
        nested = bool(value) and not isinstance(value[0][0], str)
        nodes = value if nested else [value[i : i + 2] for i in range(0, len(value), 2)]
        graph = tuple(tuple(sorted(((str(op), int(source)) for op, source in node), key=itemgetter(1))) for node in nodes)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise SpaceError(f"'{what}' is no list of (operation, input) pairs: {_short(value)}") from error
    for node, edges in enumerate(graph, INPUTS):
        sources = [source for _, source in edges]
        if len(edges) != 2 or sources[0] == sources[1]:
            raise SpaceError(f"node {node} of '{what}' has edges from {sources}; it takes two edges from different inputs")
        for source in sources:
            if not 0 <= source < node:
                raise SpaceError(f"node {node} of '{what}' takes input {source}; it can take 0 to {node - 1}")
    return graph


def check_concat(value: Any, what: str, expected: tuple[int, ...]) -> None:
    """Refuse a cell whose output is not the concatenation that its space builds; None stands for that one."""
    nodes = list(value) if isinstance(value, list | tuple | range) else value
    if nodes is not None and nodes != list(expected):
        raise SpaceError(f"'{what}' concatenates the nodes {nodes!r:.80}; this space concatenates {list(expected)}")


def operations_by_edge(graph: Graph, what: str, allowed: Sequence[str]) -> dict[tuple[int, int], str]:
    """The operation of each (source, node); operations that a space does not have are refused."""
    for node, edges in enumerate(graph, INPUTS):
        for op, source in edges:
            if op not in allowed:
                raise SpaceError(f"the edge from {source} to {node} of '{what}' cannot be '{op}'; {did_you_mean(op, allowed)}")
    return {(source, node): op for node, edges in enumerate(graph, INPUTS) for op, source in edges}


def _fields_of_text(text: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except UNREADABLE as error:
            raise SpaceError(f"not a genotype: {error}") from error
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        return {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
    except (SyntaxError, MemoryError, *UNREADABLE) as error:
        raise SpaceError(f"not a genotype: {_short(text)}; write Genotype(normal=[('sep_conv_3x3', 0), ...], ...)") from error


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        nodes = range(*(int(ast.literal_eval(argument)) for argument in node.args))
        if len(nodes) > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES} nodes")
        return list(nodes)
    return ast.literal_eval(node)


def _short(value: Any) -> str:
    return f"'{' '.join(str(value).split()):.60}'"


# -- published cells -------------------------------------------------------------------------------------------------


def nodes_of(text: str) -> list[list[tuple[str, int]]]:
    """The (operation, input) pairs of each node of a cell that is written as 'sep_conv_3x3 0, skip_connect 1 | ...'."""
    nodes = [[edge.split() for edge in node.split(",")] for node in text.split("|")]
    return [[(op, int(source)) for op, source in node] for node in nodes]


GENOTYPES = {
    name: read_genotype({kind: nodes_of(text) for kind, text in cells.items()})
    for name, cells in tomllib.loads(Path(__file__).with_name("genotypes.toml").read_text(encoding="utf-8")).items()
}


def genotype(value: str | Mapping[str, Any] | Genotype) -> Genotype:
    """A genotype by published name, from DARTS' text, or from JSON. Raises `SpaceError` where it is none of them."""
    if not isinstance(value, str) or "(" in value or "{" in value:
        return read_genotype(value)
    by_name = {_plain(name): cells for name, cells in GENOTYPES.items()}
    if _plain(value) not in by_name:
        raise SpaceError(f"there is no genotype '{value}'; {did_you_mean(value, GENOTYPES)}")
    return by_name[_plain(value)]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")

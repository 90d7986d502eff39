"""Functions for what repeats in an expression: trees of modules that differ only in numbers become calls of one function.

So a network of 20 cells is written as two or three kinds of cell and 20 calls.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hiernas.export.layout import Call, Expression, layout

SMALLEST = 3  # calls in a tree that is worth a function
SHORT = {"in_channels": "cin", "out_channels": "cout", "num_features": "channels", "kernel_size": "kernel"}
LAYERS = {"BatchNorm2d": "bn", "Conv2d": "conv", "ReLU": "relu", "ReLU6": "relu6", "SiLU": "silu"}  # in functions' names

Place = tuple[tuple[int, int], ...]  # shapes that a call stands in, the outermost first, with its position in each


@dataclass(frozen=True)
class Node:
    """A call in a tree. Calls of one shape are equal but for their numbers."""

    call: Call
    shape: int
    size: int  # calls in it, itself included
    above: Place
    argument: str  # what it is to the call it stands in


def shared(roots: Sequence[Expression], taken: frozenset[str] = frozenset()) -> tuple[list[Expression], list[str]]:
    """The expressions with their repeated parts as calls, and the functions' source in the order they need.

    `taken` are names that the functions must not have.
    """
    shapes: dict[tuple[object, ...], int] = {}
    nodes = [node for root in roots for node in _nodes(root, shapes)]
    chosen = _chosen(nodes)
    replaced: dict[int, Expression] = {}
    functions: list[str] = []
    names = set(taken)
    groups = [[node for node in nodes if node.shape == shape] for shape in chosen]
    for group in sorted(groups, key=lambda g: g[0].size):  # inner ones first
        name = _free(_name(group[0].call, group[0].argument), names)
        names.add(name)
        functions.append(_function(name, [node.call for node in group], replaced, names))
    return [_rewritten(root, replaced) for root in roots], functions


def _nodes(value: Expression, shapes: dict[tuple[object, ...], int], above: Place = (), argument: str = "") -> list[Node]:
    """All calls of a tree, itself first."""
    if isinstance(value, str):
        return []
    shape = _shape(value, shapes)
    found = []
    for i, (prefix, item) in enumerate(value.items):
        found += _nodes(item, shapes, (*above, (shape, i)), _argument(value, i, prefix))
    return [Node(value, shape, 1 + len(found), above, argument), *found]


def _shape(value: Expression, shapes: dict[tuple[object, ...], int]) -> int:
    """A number that is the same for trees which are equal but for their numbers."""
    if isinstance(value, str):
        return shapes.setdefault(("",) if value.isdigit() else (value,), len(shapes))
    items = tuple((prefix, _shape(item, shapes)) for prefix, item in value.items)
    return shapes.setdefault((value.head, value.tail, items), len(shapes))


def _argument(call: Call, i: int, prefix: str) -> str:
    return call.names[i] if i < len(call.names) else prefix.strip('=": ')


def _chosen(nodes: Sequence[Node]) -> list[int]:
    """The shapes that stand at several places of the text, where what is within a function is there once."""
    places: dict[int, set[object]] = {}
    chosen: dict[int, None] = {}
    for depth in range(1 + max((len(node.above) for node in nodes), default=0)):
        for node in (n for n in nodes if len(n.above) == depth):
            inside = next((i for i in reversed(range(depth)) if node.above[i][0] in chosen), None)
            if node.size >= SMALLEST and node.call.head[0].isalpha():
                places.setdefault(node.shape, set()).add(id(node.call) if inside is None else node.above[inside:])
        chosen.update({shape: None for shape, found in places.items() if len(found) > 1})
    return list(chosen)


def _function(name: str, group: Sequence[Call], replaced: dict[int, Expression], names: set[str]) -> str:
    """The function of trees of one shape; `replaced` gets the call that stands for each of them.

    `names` are those that its body may use, which no argument may hide.
    """
    bodies = [_rewritten(call, replaced) for call in group]
    leaves = [list(_leaves(body)) for body in bodies]
    columns = list(zip(*([number for number, _ in found] for found in leaves), strict=True))
    parameters: dict[tuple[str, ...], str] = {}
    for column in columns:
        if len(set(column)) > 1 and column not in parameters:
            arguments = {argument for (_, argument), other in zip(leaves[0], columns, strict=True) if other == column}
            parameters[column] = _free(_parameter(arguments), names | set(parameters.values()))
    for i, call in enumerate(group):
        values = tuple(("", column[i]) for column in parameters)
        replaced[id(call)] = Call(f"{name}(", values, ")", tuple(parameters.values()))
    body = _filled(bodies[0], iter([parameters.get(column, column[0]) for column in columns]))
    signature = ", ".join(f"{p}: int" for p in parameters.values())
    return f"def {name}({signature}) -> nn.Module:\n{layout(body, 4, 'return ')}"


def _rewritten(value: Expression, replaced: dict[int, Expression]) -> Expression:
    if isinstance(value, str):
        return value
    if id(value) in replaced:
        return replaced[id(value)]
    return _with_items(value, [_rewritten(item, replaced) for _, item in value.items])


def _with_items(call: Call, items: Sequence[Expression]) -> Call:
    prefixes = (prefix for prefix, _ in call.items)
    return Call(call.head, tuple(zip(prefixes, items, strict=True)), call.tail, call.names, call.comma)


def _leaves(value: Expression, argument: str = "") -> Iterator[tuple[str, str]]:
    """The numbers of a tree, each with the argument it is."""
    if not isinstance(value, str):
        for i, (prefix, item) in enumerate(value.items):
            yield from _leaves(item, _argument(value, i, prefix))
    elif value.isdigit():
        yield value, argument


def _filled(value: Expression, numbers: Iterator[str]) -> Expression:
    """The tree with its numbers replaced, in order."""
    if isinstance(value, str):
        return next(numbers) if value.isdigit() else value
    return _with_items(value, [_filled(item, numbers) for _, item in value.items])


# -- names -------------------------------------------------------------------------------------------------------


def _parameter(arguments: set[str]) -> str:
    short = {SHORT.get(a, a) for a in arguments}
    name = "channels" if {"cin", "cout"} <= short or "groups" in short else min(short, key=lambda a: (a == "channels", a))
    return name if name.isidentifier() else "n"


def _name(call: Call, argument: str) -> str:
    """`cell` for a class Cell, `relu_conv_bn` for a sequence of these layers, `edges` for a container of this name."""
    if call.head.startswith("nn.Module"):
        return argument if argument.isidentifier() else "modules"
    if call.head.startswith("nn.Sequential("):
        layers = [_name(item, "") for _, item in call.items if isinstance(item, Call)]
        half = len(layers) // 2
        repeated = half > 1 and layers[:half] == layers[half:]
        name = ("twice_" if repeated else "") + "_".join(layers[:half] if repeated else layers)
        return name if len(name) <= 40 else "block"
    words = re.findall(r"\w+", call.head)
    kind = words[1] if words[0] in ("nn", "assembled") and len(words) > 1 else words[0]
    return LAYERS.get(kind) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken."""
    number, free = 1, name
    while free in taken or keyword.iskeyword(free):
        number += 1
        free = f"{name}{number}"
    return free

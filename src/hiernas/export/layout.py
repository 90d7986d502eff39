"""Python expressions that are laid out over lines: what generated files are made of."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any

from hiernas.errors import ExportError

WIDTH = 116  # characters of a line, at most
PIECE = 80  # characters of a string; a longer one is written in pieces


@dataclass(frozen=True)
class Call:
    """Items between brackets, each behind a prefix such as `kernel=`: a call, a tuple, a list or a dictionary."""

    head: str  # with the opening bracket
    items: tuple[tuple[str, Expression], ...]
    tail: str
    names: tuple[str, ...] = ()  # of the first items, where their prefix does not say it
    comma: str = ","  # none between the pieces of a string


Expression = str | Call


def layout(value: Expression, indent: int = 0, prefix: str = "", suffix: str = "") -> str:
    """The expression on one line where it fits, else with one item per line, short items of a list side by side."""
    short = " " * indent + prefix + one_line(value) + suffix
    if isinstance(value, str) or not value.items or len(short) <= WIDTH:
        return short
    lines = [layout(item, indent + 4, name, value.comma) for name, item in value.items]
    if value.head == "[" and all(isinstance(item, str) for _, item in value.items):
        text = "\0".join(f"{item}," for _, item in value.items)  # no item is broken
        room = textwrap.wrap(text.replace(" ", "\1").replace("\0", " "), WIDTH - indent - 4, break_on_hyphens=False)
        lines = [" " * (indent + 4) + line.replace("\1", " ") for line in room]
    return "\n".join([" " * indent + prefix + value.head, *lines, " " * indent + value.tail + suffix])


def one_line(value: Expression) -> str:
    """The expression on one line."""
    if isinstance(value, str):
        return value
    items = f"{value.comma} ".join(name + one_line(item) for name, item in value.items)
    comma = "," if value.head == "(" and len(value.items) == 1 else ""
    return value.head + items + comma + value.tail


def row(*items: Expression) -> Call:
    """A tuple."""
    return Call("(", tuple(("", item) for item in items), ")")


def data(value: Any) -> Expression:
    """A plain value as an expression; raises `ExportError` for one that cannot be written down."""
    if isinstance(value, dict):
        return Call("{", tuple((f"{one_line(data(k))}: ", data(v)) for k, v in value.items()), "}")
    if isinstance(value, list):
        return Call("[", tuple(("", data(v)) for v in value), "]")
    if isinstance(value, str) and len(value) > PIECE:
        pieces = [value[i : i + PIECE] for i in range(0, len(value), PIECE)]
        return Call("(", tuple(("", quoted(piece)) for piece in pieces), ")", comma="")
    return row(*map(data, value)) if isinstance(value, tuple) else literal(value)


def literal(value: Any) -> str:
    """A number, a text, a truth value or None as source; raises `ExportError` for anything else."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, str):
        return quoted(value)
    if type(value) in (int, float, bool, bytes, type(None)):
        return repr(value)
    raise ExportError(f"a value of type {type(value).__name__}, which has no plain form in Python source")


def quoted(text: str) -> str:
    """A string literal in double quotes, as formatters write it."""
    plain = repr(text)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in plain else plain

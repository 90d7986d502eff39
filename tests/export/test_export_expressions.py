"""What generated files are made of: data, calls and definitions mean what they were made from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hiernas.errors import ExportError
from hiernas.export.source import WIDTH, Sources, Writer, bracketed, literal
from hiernas.networks.ops import Conv, MBConv, Op, Skip


def test_data_reads_back() -> None:
    value = {
        "classes": ["it's", 'a "b"', "two\nlines", "nul\0", "x" * 60, *(f"class {i}" for i in range(200))],
        "mean": [0.1, 1e-30, -2.0], "nested": {"a": [{"b": (1,)}, {}, []], "c": None, "d": True}, 3: (1, (2, "é")),
    }  # fmt: skip
    text = f"VALUE = {literal(value)}"
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["VALUE"] == value
    assert max(map(len, text.splitlines())) <= WIDTH + 8
    for short in ("it's", 'a "b"', "two\nlines", (1,), [], {}, None, -0.5, list(range(100)), ("x" * 200,)):
        assert eval(literal(short)) == short
    for kind, wrong in {"list": [object()], "float": math.nan, "dict": {"a": math.inf}}.items():
        with pytest.raises(ExportError, match=f"a value of type {kind}, which has no plain form"):
            literal(wrong)


@pytest.mark.parametrize("seed", range(20))
def test_brackets_mean_the_same_on_one_line_and_on_many(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def tree(depth: int) -> tuple[str, Any]:
        if depth == 0:
            number = int(rng.integers(10**6))
            return str(number), number
        items = [tree(depth - 1) for _ in range(rng.integers(1, 6))]
        texts, values = [text for text, _ in items], [value for _, value in items]
        if rng.random() < 0.5:
            return bracketed("(", texts, ",)" if len(items) == 1 else ")"), tuple(values)
        return bracketed("[", texts, "]"), values

    text, value = tree(4)
    assert eval(text) == value
    assert max(map(len, text.splitlines())) <= WIDTH


@dataclass(frozen=True, kw_only=True)
class Both:
    """An operation made of others, that has to be named by keyword."""

    first: Op
    others: tuple[Op, ...]
    kind: type = int


def test_calls_make_the_value_again() -> None:
    made = Both(first=Conv(3, None), others=(MBConv(3, 6, se=True), Skip("silu")), kind=Both)
    names = {kind.__name__: kind for kind in (Both, Conv, MBConv, Skip)}
    for value in (made, Both(first=Conv(1), others=(made,))):
        sources = Sources()
        text = Writer(sources).value(value)
        assert eval(text, dict(names)) == value
        assert {"Both", "Conv", "MBConv", "Skip"} < set(sources.definitions)
    exec("\n\n".join(["from __future__ import annotations", sources.imports(), *sources.definitions.values()]), names)
    again = eval(text, names)
    assert str(again.others[0].others[0].build(8, 8, 1)) == str(MBConv(3, 6, se=True).build(8, 8, 1))


def test_our_operations_come_without_checks_and_names() -> None:
    sources = Sources()
    sources.refer(MBConv)
    text = "\n".join(sources.definitions.values())
    assert "def build(" in text
    assert not [word for word in ("SpaceError", "describe", "__post_init__", "def name") if word in text]


def load() -> None:
    """Named as a function of every generated file."""


def test_names_cannot_mean_two_things() -> None:
    with pytest.raises(ExportError, match=r"the name 'load' of .*test_export_expressions is taken by the file itself"):
        Sources().refer(load)
    with pytest.raises(ExportError, match=r"'test_names.*<lambda>' cannot be written into a file"):
        Sources().refer(lambda: 1)

"""Expressions of generated files: what they mean does not depend on how they are laid out or shared."""

from __future__ import annotations

import math
import textwrap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hiernas.errors import ExportError
from hiernas.export.layout import WIDTH, Call, Expression, data, layout, one_line
from hiernas.export.shared import shared
from hiernas.export.sources import Sources, narrow


def made(name: str) -> Any:
    return lambda *args, **kwargs: (name, args, tuple(kwargs.items()))


NAMES = {name: made(name) for name in ("conv", "bn", "cell")} | {"nn": SimpleNamespace(Module=object, Sequential=made("seq"))}


def tree(rng: np.random.Generator, depth: int) -> Expression:
    """A random tree of calls with numbers; some of its parts are likely to be alike."""
    if depth == 0 or rng.random() < 0.1:
        return str(rng.integers(0, 4))
    head = ("conv(", "bn(", "cell(", "nn.Sequential(")[rng.integers(4)]
    items = [(("", "width=")[i], tree(rng, depth - 1)) for i in range(2)]
    return Call(head, tuple(items[: rng.integers(1, 3)]), ")")


@pytest.mark.parametrize("seed", range(40))
def test_shared_parts_mean_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    roots = [tree(rng, 5) for _ in range(4)]
    trees, functions = shared(roots, frozenset({"cell", "conv", "bn"}))
    names = dict(NAMES)
    for function in functions:
        exec(function, names)
    for before, after in zip(roots, trees, strict=True):
        assert eval(layout(after), names) == eval(one_line(before), dict(NAMES))
    assert all(len(line) <= WIDTH for function in functions for line in function.splitlines())


def test_equal_parts_become_one_function_whose_arguments_are_what_differs() -> None:
    def block(cin: str, cout: str) -> Call:
        conv = Call("nn.Conv2d(", (("", cin), ("", cout), ("", "3")), ")", ("in_channels", "out_channels", "kernel_size"))
        return Call("nn.Sequential(", (("", conv), ("", Call("nn.BatchNorm2d(", (("", cout),), ")", ("num_features",)))), ")")

    (found,), functions = shared([Call("[", (("", block("8", "16")), ("", block("16", "24"))), "]")])
    assert one_line(found) == "[conv_bn(8, 16), conv_bn(16, 24)]"
    assert functions == [
        "def conv_bn(cin: int, cout: int) -> nn.Module:\n"
        "    return nn.Sequential(nn.Conv2d(cin, cout, 3), nn.BatchNorm2d(cout))"
    ]


def test_data_reads_back() -> None:
    value = {
        "classes": ["it's", 'a "b"', "two\nlines", "nul\0", "x" * 1000, *(f"class {i}" for i in range(200))],
        "mean": [0.1, 1e-30, -2.0], "nested": {"a": [{"b": (1,)}, {}, []], "c": None, "d": True}, 3: (1, (2, "é")),
    }  # fmt: skip
    text = layout(data(value), prefix="VALUE = ")
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["VALUE"] == value
    assert max(map(len, text.splitlines())) <= WIDTH
    assert math.isinf(eval(one_line(data([math.inf, -math.inf])))[1])
    with pytest.raises(ExportError, match="a value of type object, which has no plain form"):
        data([object()])


def test_copied_lines_fit() -> None:
    head = "def function(" + ", ".join(f"argument{i}: int = {i}" for i in range(6)) + ") -> int: "
    for line in (f"    {head}".rstrip(), f'    """{"word " * 30}"""'):
        assert len(line) > WIDTH
        shown = narrow(line)
        assert max(map(len, shown.splitlines())) <= WIDTH
        assert "".join(shown.split()) == "".join(line.split())
    names: dict[str, Any] = {}
    exec(textwrap.dedent(narrow(f"    {head}".rstrip())) + "\n    return argument5", names)
    assert names["function"]() == 5


def test_names_cannot_mean_two_things() -> None:
    sources = Sources(reserved=frozenset({"narrow"}))
    with pytest.raises(ExportError, match=r"the name 'narrow' of hiernas\.export\.sources is taken by the file itself"):
        sources.refer(narrow)
    with pytest.raises(ExportError, match=r"'made\.<locals>\.<lambda>' cannot be written into a file"):
        sources.refer(made("x"))

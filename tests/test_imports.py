"""Public names, and what importing costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import hiernas
from hiernas import names, spaces
from hiernas.latency.runtimes import RUNTIMES
from hiernas.methods import METHODS


def test_public_names_are_sorted_and_load() -> None:
    public = [n for n in hiernas.__all__ if n != "__version__"]
    assert public == sorted(public)
    assert len(public) <= 46
    for name in public:
        assert getattr(hiernas, name) is not None
    assert callable(hiernas.cost)


def python(code: str, *arguments: str) -> str:
    """What a process of its own prints."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout


HEAVY = {"torch", "pymoo", "scipy", "onnx", "onnxruntime", "lightning_fabric", "matplotlib", "PIL", "sklearn", "networkx"}


def test_importing_loads_nothing_heavy() -> None:
    loaded = python("import sys, hiernas; print(*[m for m in sys.modules if '.' not in m])").split()
    assert "hiernas" in loaded
    assert not {*HEAVY, "numpy"} & set(loaded)


COMMANDS = [
    ("--help", 0), ("search --help", 0), ("measure --help", 0), ("list methods", 0), ("list runtimes", 0), ("list data", 0),
    *((f"list {what}", 0) for what in ("recipes", "spaces", "networks", "presets", "presets hmnas")), ("list presets hnsa", 2),
    ("list colours", 2), ("search hnsa", 2), ("check --space tinny", 2), ("search --preset quik", 2),
    ("search --limit latncy<=3", 2), ("search --runtime onnx", 2), ("measure tinny", 2), ("cost fbnet-c --runtime onnx", 2),
    ("export run --to onxx", 2), ("resume /nowhere", 2), ("train best.json --preset quik", 2),
    ("train b.json --inherit", 2), ("measure tiny --seed 3", 2), ("vital tiny --seed 3", 2),
    ("predict --help", 0), ("evaluate run --skip-bad-images", 2),
]  # fmt: skip
EACH = """
import json, os, sys
from hiernas.cli import main
for words in sys.argv[1:]:
    if os.fork() == 0:  # with nothing loaded but the command line
        answer = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        sys.argv, code = ["hiernas", *words.split()], 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        os.write(answer, json.dumps([words, code, [m for m in sys.modules if "." not in m]]).encode() + b"\\n")
        os._exit(0)
    os.wait()
"""


def test_what_needs_no_torch_loads_none() -> None:
    answers = [json.loads(line) for line in python(EACH, *(words for words, _ in COMMANDS)).splitlines()]
    assert [(words, code) for words, code, _ in answers] == COMMANDS
    for words, _, loaded in answers:
        assert "hiernas" in loaded
        assert not HEAVY & set(loaded), words


def test_names_that_are_known_beforehand_are_those_that_are_there() -> None:
    assert all(tuple(method.presets) == names.PRESETS for method in METHODS.values())  # each name of a method has its record
    assert all(callable(getattr(spaces, name)) for name in names.SPACES)
    assert list(RUNTIMES) == list(names.RUNTIMES)


def test_what_benchmarks_and_examples_import_is_there() -> None:
    """No test runs all of them, and a name that has moved is missed by nobody until then."""
    root, tried, missing = Path(__file__).parents[1], 0, []
    for path in sorted([*root.glob("benchmarks/*.py"), *root.glob("examples/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom) and "hiernas" in (line := ast.unparse(node)):
                tried += 1
                try:
                    exec(line, {})
                except ImportError as error:
                    missing.append(f"{path.name}: {error}")
    assert tried > 150
    assert missing == []

"""Public names, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*[m for m in sys.modules if '.' not in m])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "pymoo", "scipy", "onnx", "onnxruntime", "lightning_fabric", "matplotlib", "PIL", "sklearn", "networkx"}


def test_importing_loads_nothing_heavy() -> None:
    assert not {*HEAVY, "numpy"} & loaded_by("import hiernas")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("--help", 0), ("search --help", 0), ("measure --help", 0), ("list methods", 0), ("list runtimes", 0), ("list data", 0),
        ("list recipes", 0), ("list colours", 2), ("search hnsa", 2), ("check --space tinny", 2), ("search --preset quik", 2),
        ("search --limit latncy<=3", 2), ("search --runtime onnx", 2), ("measure tinny", 2), ("cost fbnet-c --runtime onnx", 2),
        ("export run --to onxx", 2), ("resume /nowhere", 2), ("train best.json --preset quik", 2),
        ("train b.json --inherit", 2), ("measure tiny --seed 3", 2), ("vital tiny --seed 3", 2),
        ("predict --help", 0), ("evaluate run --skip-bad-images", 2),
    ],
)  # fmt: skip
def test_what_needs_no_torch_loads_none(arguments: str, code: int) -> None:
    command = (
        f"from hiernas.cli import main\nsys.argv = ['hiernas', *{arguments.split()}]\n"
        f"try: main()\nexcept SystemExit as end: assert (end.code or 0) == {code}, end.code"
    )
    assert not HEAVY & loaded_by(command)


def test_names_that_are_known_beforehand_are_those_that_are_there() -> None:
    assert all(tuple(method.presets) == names.PRESETS for method in METHODS.values())  # each name of a method has its record
    assert all(callable(getattr(spaces, name)) for name in names.SPACES)
    assert list(RUNTIMES) == list(names.RUNTIMES)

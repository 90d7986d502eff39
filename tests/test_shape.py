"""The shape of the package: sizes, how much a reader of a method opens, circles, and which way imports point."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hiernas

AT_MOST = {  # files and lines; to be lowered, never raised. A method's: what its imports reach, itself included
    "hnas": (11, 1641), "baselines": (12, 1680), "darts": (13, 1848),
    "hournas": (12, 1848), "hdas": (13, 2082), "hmnas": (19, 2947),
    "controls": (13, 1900), "the package": (109, 22413),  # the package in the end: 100 and 15,500
}  # fmt: skip
LARGEST = 400  # lines of a file
CIRCLES: list[int] = []  # files in each circle of imports
LAYERS = [  # each imports only from itself and from those before it
    {"errors", "names", "randomness", "host", "stop", "ranks", "run.disk"},
    {"space", "subsets", "gates", "budget"},
    {"data.split", "train.recipes"},
    {"problem"},
    {"networks"},
    {"spaces"},
    {"costs"},
    {"latency"},
    {"data"},
    {"train"},
    {"search"},
    {"methods"},
    {"export", "report"},
    {"run"},
    {"commands"},
    {"cli", "api", "__main__"},
]
BARE = 5  # lines of an __init__.py that nobody needs to open


class Package:
    """The modules of a folder, their lines, and what they import: for types and inside functions, too."""

    def __init__(self, root: Path) -> None:
        paths = {self._name(path, root): path for path in sorted(root.rglob("*.py"))}
        self.lines = {name: len(path.read_text().splitlines()) for name, path in paths.items()}
        self.edges = {name: {m for m in self._imports(path, root) if m in paths} - {name} for name, path in paths.items()}
        self.bare = {n for n, path in paths.items() if path.name == "__init__.py" and self.lines[n] <= BARE}

    @staticmethod
    def _name(path: Path, root: Path) -> str:
        return ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")

    @staticmethod
    def _imports(path: Path, root: Path) -> Iterator[str]:
        """Also names that are no modules."""
        package = path.relative_to(root.parent).parent.parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) + 1 - node.level] if node.level else ()
                base = ".".join((*above, node.module) if node.module else above)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def reached(self, module: str, but: frozenset[str] = frozenset()) -> set[str]:
        """A module and all that its imports lead to."""
        seen, todo = set(), [module]
        while todo:
            at = todo.pop()
            if at not in seen:
                seen.add(at)
                todo += self.edges[at] - but
        return seen

    def distance(self, module: str) -> tuple[int, int]:
        """Files and lines to read: bare __init__ files are passed over."""
        found = self.reached(module, frozenset(self.bare))
        return len(found), sum(self.lines[m] for m in found)

    def circles(self) -> list[set[str]]:
        """Modules that reach each other, the longest circle first."""
        reached = {m: self.reached(m) for m in self.lines}
        found = {frozenset(d for d in reached[m] if m in reached[d]) for m in self.lines}
        return sorted((set(circle) for circle in found if len(circle) > 1), key=len, reverse=True)


@pytest.fixture(scope="module")
def package() -> Package:
    return Package(Path(hiernas.__file__).parent)


def test_a_package_made_by_hand(tmp_path: Path) -> None:
    files = {
        "p/__init__.py": "", "p/a.py": "def f():\n    import p.b\n", "p/b.py": "from . import a\nfrom .sub.d import x\n",
        "p/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import b\n",
        "p/sub/__init__.py": "from p.sub import d\n" * 6, "p/sub/d.py": "import os\nx = 1\n", "p/e.py": "import p.sub\n",
    }  # fmt: skip
    (tmp_path / "p" / "sub").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    made = Package(tmp_path / "p")
    assert made.circles() == [{"p.a", "p.b"}]
    assert {m: made.distance(m) for m in ("p.a", "p.b", "p.c", "p.sub.d", "p.e")} == {
        "p.a": (3, 6), "p.b": (3, 6), "p.c": (4, 9), "p.sub.d": (1, 2), "p.e": (3, 9),
    }  # fmt: skip


def test_methods_are_within_reach(package: Package) -> None:
    """Each file of a method, which may be a module or a folder."""
    modules = [m for m in package.lines if m.startswith("hiernas.methods.")]
    assert {m.split(".")[2] for m in modules} == set(AT_MOST) - {"the package"}
    far = {m: package.distance(m) for m in modules}
    assert not {m: d for m, d in far.items() if not _within(d, AT_MOST[m.split(".")[2]])}


def test_the_package_is_small(package: Package) -> None:
    assert _within((len(package.lines), sum(package.lines.values())), AT_MOST["the package"])
    assert not {m: n for m, n in package.lines.items() if n > LARGEST}


def _within(found: tuple[int, int], most: tuple[int, int]) -> bool:
    return found[0] <= most[0] and found[1] <= most[1]


def test_no_further_circles_of_imports(package: Package) -> None:
    found = [len(circle) for circle in package.circles()]
    assert len(found) <= len(CIRCLES)
    assert all(n <= most for n, most in zip(found, CIRCLES, strict=False)), package.circles()


def layer(module: str) -> int:
    part = module.removeprefix("hiernas.")
    found = [i for i, names in enumerate(LAYERS) if part in names]
    return found[0] if found else layer(module.rpartition(".")[0])


def test_imports_point_one_way(package: Package) -> None:
    pairs = [(m, other) for m, others in package.edges.items() for other in others if "hiernas" not in (m, other)]
    assert len(pairs) > 100
    assert not [f"{m} imports {other}" for m, other in pairs if layer(other) > layer(m)]


def test_methods_do_not_import_each_other(package: Package) -> None:
    """But the files of one method in its own folder."""
    for module, others in package.edges.items():
        if module.startswith("hiernas.methods."):
            own = ".".join(module.split(".")[:3]).replace("baselines", "hnas").replace("controls", "hnas")  # by its settings
            foreign = [m for m in others if m.startswith("hiernas.methods.") and not f"{m}.".startswith(f"{own}.")]
            assert not foreign, module

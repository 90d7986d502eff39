"""Import direction, public names, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import hiernas

ROOT = Path(hiernas.__file__).parent
LAYERS = [  # each imports only from itself and from those before it
    {"version", "errors", "machine", "architecture", "space", "gates", "genotype", "genotypes", "randomness", "quiet"},
    {"ops"},
    {"cells"},
    {"supernet"},
    {"spaces"},
    {"runfolder", "data", "costs", "latency", "settings", "progress"},
    {"train", "export", "report"},
    {"search"},
    {"methods"},
    {"finish", "catalogue", "compare"},
    {"run"},
    {"estimate", "costing", "exporting", "training", "trust", "latency.command", "vitality", "commands", "api"},
    {"terminal", "cli"},
]


def layer(module: str) -> int:
    names = [module.removeprefix("hiernas."), module.split(".")[1]]  # a command may stand in its room
    return next(i for name in names for i, layer in enumerate(LAYERS) if name in layer)


def imported(path: Path) -> list[str]:
    """Modules of the package that a file imports when it is imported or called (not those for types only)."""
    found = []
    tree = ast.parse(path.read_text())
    types_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in types_only:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hiernas."):
            found.append(str(node.module))
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.startswith("hiernas.")]
    return found


def test_imports_point_one_way() -> None:
    checked = 0
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if parts == ("hiernas", "__init__"):
            continue
        module = ".".join(parts)
        for other in imported(path):
            assert layer(other) <= layer(module), f"{module} imports {other}"
            checked += 1
    assert checked > 100


def test_methods_do_not_import_each_other() -> None:
    for path in (ROOT / "methods").glob("*.py"):
        assert not [m for m in imported(path) if m.startswith("hiernas.methods")], path.name


def test_public_names_are_sorted_and_load() -> None:
    names = [n for n in hiernas.__all__ if n != "__version__"]
    assert names == sorted(names)
    assert len(names) <= 36
    for name in names:
        assert getattr(hiernas, name) is not None
    assert callable(hiernas.cost)


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*[m for m in sys.modules if '.' not in m])"
    return set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())


def test_importing_and_helping_load_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "pymoo", "onnx", "onnxruntime", "lightning_fabric", "matplotlib", "PIL", "sklearn"}
    assert not heavy & loaded_by("import hiernas")
    help_code = (
        "import sys\nfrom hiernas.cli import main\nsys.argv = ['hiernas', 'search', '--help']\n"
        "try: main()\nexcept SystemExit: pass"
    )
    assert not heavy & loaded_by(help_code)

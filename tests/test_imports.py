"""Public names, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import hiernas


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

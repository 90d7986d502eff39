"""The wheel: with every file of the package, and enough by itself, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from processes import QUICK

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_is_all_that_a_search_needs(few: str, tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    installed = tmp_path / "site" / "hiernas"
    for folder, _, names in os.walk(ROOT / "src" / "hiernas"):
        for name in names if not folder.endswith("__pycache__") else ():
            path = Path(folder, name).relative_to(ROOT / "src" / "hiernas")
            assert (installed / path).read_bytes() == (ROOT / "src" / "hiernas" / path).read_bytes()

    there: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path / "site")}}
    where = run(sys.executable, "-P", "-c", "import hiernas; print(hiernas.__file__)", **there)
    assert Path(where.strip()) == installed / "__init__.py"
    words = ("random", "--data", few, "--limit", "params<=60k", "--set", "final_epochs=1", "--out", "RUN")
    run(sys.executable, "-P", "-c", QUICK, "search", *words, **there)
    assert {"best.onnx", "best.safetensors", "report.html"} <= {path.name for path in (tmp_path / "RUN").iterdir()}

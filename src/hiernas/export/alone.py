"""Runs a generated module file where HierNAS is not: in a fresh interpreter, from a folder of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hiernas.errors import ExportError

TIMEOUT = 600  # seconds for the file to load and run

CHECK = """
import importlib.util, sys
sys.modules["hiernas"] = None  # importing it fails
sys.path.append(sys.argv[1])  # where torch is, should this interpreter not know
import torch
spec = importlib.util.spec_from_file_location("network", "network.py")
module = sys.modules["network"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
network = module.load()
with torch.no_grad():
    outputs = [network(x) for x in torch.load("images.pt", weights_only=True)]
torch.save(outputs, "outputs.pt")
"""


def run_alone(source: bytes, weights: bytes, batches: Sequence[Tensor]) -> list[Tensor]:
    """What a module file computes on batches of images, in a fresh interpreter that has no HierNAS.

    Raises `ExportError` where it does not load or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "network.py").write_bytes(source)
        (place / "network.pt").write_bytes(weights)
        torch.save(list(batches), place / "images.pt")
        packages = str(Path(torch.__file__).parents[1])
        command = [sys.executable, "-I", "-c", CHECK, packages]
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"the python file could not be run by itself: {error}") from error
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
            raise ExportError(f"the python file does not run by itself: {said[-1].strip()}; no file was written")
        return list(torch.load(place / "outputs.pt", weights_only=True))


def load_python(source: bytes, weights: bytes, batches: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """The file as a runner of these batches, which it is given all at once: an interpreter takes seconds to start."""
    found = dict(zip(map(len, batches), run_alone(source, weights, batches), strict=True))
    return lambda x: found[len(x)]

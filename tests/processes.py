"""The command line in processes of its own that start at once: each is forked from one that has loaded what runs load."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LOADED = (
    "hiernas.cli.progress", "hiernas.commands.check", "hiernas.commands.cost", "hiernas.commands.train", "hiernas.methods.hnas",
    "hiernas.report.page", "hiernas.run.search", "matplotlib.backends.backend_svg", "onnxruntime", "onnxscript",
    "pymoo.problems.static", "safetensors.torch", "torch._dynamo", "torch._inductor.decomposition",
    "torch.onnx._internal.exporter._core",
)  # fmt: skip # no threads begin by these
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(list(LOADED))


class Command:
    """`hiernas WORDS` in the working folder and with the environment of now, on its way since it was made.

    `quick`: ONNX files by the older exporter, which takes a tenth of the time; the other one has tests of its own.
    """

    def __init__(self, *words: str, quick: bool = True) -> None:
        self._said = Path(tempfile.mkdtemp())
        self.process = FORKED.Process(target=_run, args=(words, Path.cwd(), dict(os.environ), self._said, quick), daemon=True)
        self.process.start()

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def ended(self) -> tuple[int, str, str]:
        """Its exit code (minus the signal that killed it), what it printed, and what it said of mistakes; to be asked once."""
        self.process.join()
        assert self.process.exitcode is not None
        out, err = ((self._said / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._said)
        return self.process.exitcode, out, err


def _run(words: tuple[str, ...], folder: Path, environment: Mapping[str, str], said: Path, quick: bool) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["hiernas", *words]

    from hiernas import cli

    export = importlib.import_module("hiernas.export")
    if quick:
        export._by_dynamo = export._by_tracing
    cli.main()


def cli(*words: str, check: int = 0, quick: bool = True) -> str:
    """Run the command line in a process of its own; all that it said. The exit code must be `check`."""
    code, out, err = Command(*words, quick=quick).ended()
    assert code == check, out + err
    assert "Traceback" not in err, err
    return out + err

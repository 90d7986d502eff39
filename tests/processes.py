"""The command line and other code in processes of their own that start at once: forked from one that has loaded everything."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

LOADED = (
    "hiernas.cli.progress", "hiernas.commands.check", "hiernas.commands.cost", "hiernas.commands.rank",
    "hiernas.commands.train", "hiernas.methods.controls", "hiernas.methods.hnas", "hiernas.report.page", "hiernas.run.search",
    "matplotlib.backends.backend_svg", "matplotlib.figure", "matplotlib.style", "onnxruntime", "onnxscript",
    "pydantic.dataclasses", "pymoo.problems.static", "rich._emoji_codes", "safetensors.torch", "sklearn.datasets",
    "torch._dynamo", "torch.onnx._internal.exporter._core",
    *(f"torch.onnx._internal.torchscript_exporter.symbolic_opset{i}" for i in range(7, 21)),
)  # fmt: skip # no threads begin by these
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(list(LOADED))
QUICK = (
    "from hiernas import cli; import hiernas.latency.runtimes as r; r._by_dynamo = r._by_tracing\n"
    "from hiernas.latency import calibrate, runner; calibrate.APART, calibrate.LOOKS, runner.ENOUGH_MS = 0.0, 1, 1.0\n"
    "cli.main()"
)


def unsynced() -> None:
    """Files are not waited for until they are on the disk, which a power cut alone would show."""
    os.fsync = lambda fd: None  # type: ignore[assignment]


@contextmanager
def quick_export() -> Iterator[None]:
    """ONNX files by the older exporter, which takes a tenth of the time; the other one has tests of its own.

    And no waiting between looks at whole networks.
    """
    from hiernas.latency import calibrate, runtimes

    with mock.patch.object(runtimes, "_by_dynamo", runtimes._by_tracing), mock.patch.object(calibrate, "APART", 0.0):
        yield


@contextmanager
def hasty() -> Iterator[None]:
    """Latencies by few runs: right in all but their value."""
    from hiernas.latency import calibrate, runner

    with mock.patch.object(calibrate, "LOOKS", 1), mock.patch.object(runner, "ENOUGH_MS", 1.0):
        yield


@contextmanager
def undrawn() -> Iterator[None]:
    """Report pages without their figures, of which nothing but the drawing itself is left out: all that they show is read."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from hiernas.report import kit

    nothing = mock.Mock(return_value="")
    with (
        mock.patch.object(Figure, "savefig", nothing), mock.patch.object(ConstrainedLayoutEngine, "execute", nothing),
        mock.patch.object(kit, "_inline", nothing),
    ):  # fmt: skip
        yield


@contextmanager
def bare() -> Iterator[None]:
    """Runs that end without what takes long there and is no part of the search: the ONNX file is empty, no page is written."""
    from hiernas.export import Exported
    from hiernas.run import outcome

    def empty(network: Any, images: Any, path: Path, to: str, *_: object) -> Exported:
        path.touch()
        return Exported(path, to, 0.0)

    with (
        mock.patch.object(outcome, "export", empty), mock.patch.object(outcome, "write_report"),
        mock.patch.object(outcome, "_meter", return_value=None),
    ):  # fmt: skip
        yield


class Forked:
    """A function in the working folder and with the environment of now, on its way since it was made.

    `threads`: of torch, as if OMP_NUM_THREADS had said so.
    """

    def __init__(self, do: Callable[..., Any], *given: Any, threads: int = 1) -> None:
        self._said = Path(tempfile.mkdtemp())  # files `out` and `err`
        about = Path.cwd(), dict(os.environ), self._said, threads
        self.process = FORKED.Process(target=_run, args=(do, given, *about), daemon=True)
        self.process.start()

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return (self._said / "out").read_text() if (self._said / "out").exists() else ""

    def send(self, number: int) -> None:
        """A signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

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


def _run(
    do: Callable[..., Any], given: tuple[Any, ...], folder: Path, environment: dict[str, str], said: Path, threads: int
) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), number)
    gc.freeze()  # what was loaded before stays
    unsynced()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if threads != 1:
        import torch

        torch.set_num_threads(threads)
    do(*given)


class Command(Forked):
    """`hiernas WORDS`, `quick` by `quick_export`. It hears signals that what started the tests may ignore, as `nohup` does."""

    def __init__(self, *words: str, quick: bool = True, threads: int = 1) -> None:
        super().__init__(_main, words, quick, threads=threads)


def _main(words: tuple[str, ...], quick: bool) -> None:
    sys.argv = ["hiernas", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if quick:
        with undrawn():
            exec(QUICK, {})
    else:
        from hiernas import cli

        cli.main()


def script(code: str) -> None:
    """Code as a process runs it that is given it by `python -c`."""
    exec(code, {"__name__": "__main__"})


def cli(*words: str, check: int = 0, quick: bool = True, threads: int = 1) -> str:
    """Run the command line in a process of its own; all that it said. The exit code must be `check`."""
    code, out, err = Command(*words, quick=quick, threads=threads).ended()
    assert code == check, out + err
    assert "Traceback" not in err, err
    return out + err

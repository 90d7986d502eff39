"""Runs that are killed, find the disk full, are damaged or are started twice: what is lost, and what differs in silence.

    python benchmarks/faults.py [TRIES] [METHOD ...]

For each method a tiny search on drawn images is done undisturbed, by the plain command. Then, TRIES times of each kind:

    killed             at an operation on the file system, drawn at random: before, amid or after it; then resumed
    killed twice       the same, and again while it is resumed
    killed any time    after a random share of the time that it takes
    full               from a random write on the disk is full; then there is room again
    damaged, finished  a file of the finished run cut to half, its tail zeroed, a bit flipped, gone; then predict, report,
                       resume
    damaged, begun     the same of a run that was killed at its last quarter
    at once            two or three starts, two resumes, or two rankings on one folder at the same moment
    two, one killed    a search by two processes, one killed after a random share of the time; resumed by two (four methods)
    rank, killed       a ranking of the finished run's networks killed at an operation, and asked for again

It has held where all files of the run are in the end, to the bit, those of the undisturbed one (but times of day and
seconds), or where one sentence names the file and the exit code is 2; then what it says is done, which must lead to the same.
Every try is a process of its own, forked from one that has loaded everything. Latencies of whole networks are made up, and
SQLite's own operations are taken as one. Each row is written as it ends, and what the result file has is not done again.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

import hiernas.cli
import hiernas.commands.check  # what runs load, loaded once
import hiernas.commands.rank
import hiernas.commands.use
import hiernas.run.outcome
import hiernas.run.search
from common import dated
from failing_disk import DAMAGES, Fault
from hiernas.costs.tables import cost_tables
from hiernas.latency import Entry, LatencyTable, calibrate, runtimes
from hiernas.latency.measure import plan_of
from hiernas.latency.runner import load_onnxruntime
from hiernas.methods import METHODS
from hiernas.run.folder import RunFolder
from hiernas.spaces import tiny
from same_run import differing, facts

COMMON = ("train.batch_size=24", "train.warmup_epochs=0", "train.accelerator=cpu", "final_epochs=2", "final_lr=0.05")
ONE_SHOT = (
    "epochs=2,1", "lr=0.1,0.1", "stages=3", "population=4", "generations=2", "calibration_images=24", "objective=params",
)  # fmt: skip
CELLS = (
    "search.epochs=2", "search.warmup_epochs=1", "search.decided=0", "search.train.batch_size=24",
    "search.train.accelerator=cpu", "calibration_images=24", "space.channels=2",
)  # fmt: skip
BRIEF = ("search.epochs=1", "search.warmup_epochs=0")
MASKS = ("mask.edges_epochs=1", "mask.operations_epochs=1", "mask.filters_epochs=1")
PROXY = (*CELLS, "cells=5", "channels=2")
GRAPHS = (*CELLS, "channels=2", "space.cells=[3,2,2]")
ASKED: dict[str, tuple[str, ...]] = {
    "hnas": ONE_SHOT, "spos": ONE_SHOT, "random-search": ONE_SHOT,
    "hournas": ("vital_epochs=1", "epochs=2", "proposals=2", "proposal_iterations=100", "calibration_images=24"),
    "darts": PROXY, "hmnas": (*BRIEF, *CELLS[2:], *MASKS, "space.cells=3"), "hdas-cells": PROXY, "hdas-stages": GRAPHS,
    "hdas-distribution": (*GRAPHS, "space.least=2"), "hdas": (*BRIEF, *GRAPHS[2:], "cells=5"),
    "random": (), "naswot": ("drawn=4", "finalists=2", "finalist_epochs=1", "calibration_images=24"),
    "random-k": ("finalists=2", "finalist_epochs=1", "calibration_images=24"), "plain": (),
}  # fmt: skip
HEAD = """# Faults

`python benchmarks/faults.py`, whose first lines say what the kinds are. Held: in the end all files are, to the bit, those of
the undisturbed run, or one sentence names the file, and what it says leads there.

| method | kind | tried | held | what did not hold |
|---|---|---|---|---|
"""
KINDS = (
    "killed", "killed twice", "killed any time", "full", "damaged, finished", "damaged, begun", "at once", "two, one killed",
    "rank, killed",
)  # fmt: skip
BY_TWO = ("hnas", "hournas", "darts", "hmnas")
RANKED, RANK = ("hnas", "spos", "hournas"), ("rank", "r", "--networks", "2", "--epochs", "1")
RESULTS = ("result.json", "best.json", "best.safetensors", "best.onnx")


# -- processes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (minus the signal that killed it), what it said, and its operations on files."""

    code: int
    out: str
    err: str
    operations: int = 0

    @property
    def refused(self) -> bool:
        """With one sentence."""
        return self.code == 2 and self.err.startswith("error: ") and self.err.count("\n") == 1

    def __str__(self) -> str:
        lines = self.err.strip().splitlines()
        return f"exit code {self.code}: {lines[-1] if lines else ''}"


class Started:
    """A command of the command line in a process of its own, in a folder that may hold a run `r`."""

    def __init__(
        self, place: Path, words: Sequence[str], how: str = "none", at: int = -1, environment: dict[str, str] | None = None
    ) -> None:
        self.place, self.name, self.environment = place, f"{time.monotonic_ns()}", environment or {}
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = self._run(words, Fault(place / "r", how, at))
            except BaseException:
                traceback.print_exc()
            os._exit(code)

    def _run(self, words: Sequence[str], fault: Fault) -> int:
        for number, kind in ((1, "out"), (2, "err")):
            handle = os.open(self.place / f"{self.name}.{kind}", os.O_WRONLY | os.O_CREAT)
            os.dup2(handle, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(self.place)
        os.environ.update(self.environment)
        sys.argv = ["hiernas", *words]
        fault.install()
        try:
            hiernas.cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            (self.place / f"{self.name}.count").write_text(str(fault.count))
        return 0

    def ended(self) -> Ended:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        out, err, count = (self.place / f"{self.name}.{kind}" for kind in ("out", "err", "count"))
        operations = int(count.read_text()) if count.exists() else 0
        found = Ended(code, out.read_text(), err.read_text(), operations)
        for path in (out, err, count):
            path.unlink(missing_ok=True)
        return found


def by_two(place: Path, words: Sequence[str]) -> list[Started]:
    """The same command by two processes, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [Started(place, words, environment={**both, "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(2)]


def command(place: Path, *words: str, how: str = "none", at: int = -1) -> Ended:
    return Started(place, words, how, at).ended()


class Meter(SimpleNamespace):
    """A runtime whose latencies are made up, and the same in every process."""

    def prepare(self, network: torch.nn.Module, _: object) -> Callable[[], float]:
        ms = 1e-6 * sum(p.numel() for p in network.parameters())
        return lambda: ms


def prepare(folder: Path) -> None:
    """What all processes share: images, a latency table of another device, quick exports, many checkpoints."""
    rng = np.random.default_rng(0)
    for i in range(120):
        path = folder / "images" / f"class{i % 3}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((rng.integers(0, 90, (8, 8)) + 80 * (i % 3)).astype(np.uint8)).save(path)
    device = {"device": "another", "runtime": "onnxruntime", "version": "1", "threads": 1, "batch": 1}
    space = tiny((1, 8, 8), 3)
    cost_tables(space, None)  # counted once for all processes
    entries = {o.key: Entry(0.02, 0.02, 0.02, 9) for o in plan_of(space, with_edges=True).operations}
    LatencyTable(**device, raw_overhead_ms=0.01, entries=entries).save(folder / "table.json")
    os.environ["HIERNAS_CACHE"] = str(folder / "cache")
    hiernas.run.outcome.make_runtime = lambda *_: Meter(**device)  # type: ignore[assignment, return-value]
    calibrate.APART = 0.0  # seconds between looks at whole networks
    runtimes._by_dynamo = runtimes._by_tracing
    RunFolder.checkpoint_seconds = 0.0  # after every step
    torch.set_num_threads(1)
    load_onnxruntime()


def asked(folder: Path, method: str) -> list[str]:
    """A tiny search, by the plain command, into `r`."""
    words = ["search", method, "--data", str(folder / "images"), "--limit", "params<=200k", "--out", "r"]
    if method == "hnas":
        words += ["--latency-table", str(folder / "table.json"), "--limit", "latency_ms<=1"]
    return [*words, *(word for setting in (*COMMON, *ASKED[method]) for word in ("--set", setting))]


# -- tries -------------------------------------------------------------------------------------------------------------


class Tries:
    """The tries of one method: each says "" where it held, or what did not hold."""

    def __init__(self, folder: Path, method: str) -> None:
        self.folder, self.method, self.words = folder, method, asked(folder, method)
        self.rng = random.Random(method)
        self.place = self._new("whole")
        began = time.monotonic()
        ended = command(self.place, *self.words)
        self.seconds = time.monotonic() - began
        assert ended.code == 0, f"{method}: {ended}"
        self.damages: dict[Path, list[tuple[str, str]]] = {}  # still to be tried
        self.operations, self.whole = ended.operations, facts(self.place / "r")
        self.kinds: dict[str, Callable[[], str]] = {
            "killed": self.killed, "killed twice": self.killed_twice, "killed any time": self.killed_any_time,
            "full": self.full, "damaged, finished": self.damaged_finished, "damaged, begun": self.damaged_begun,
            "at once": self.at_once, "two, one killed": self.one_of_two_killed, "rank, killed": self.rank_killed,
        }  # fmt: skip

    def _new(self, name: str = "") -> Path:
        place = self.folder / self.method / (name or f"try{time.monotonic_ns()}")
        place.mkdir(parents=True)
        return place

    def _copy(self, of: Path) -> Path:
        place = self._new()
        shutil.copytree(of / "r", place / "r")
        return place

    def _on(self, place: Path, how: str = "none", at: int = -1) -> Ended:
        """Go on, or begin again where nothing was begun."""
        begun = (place / "r" / "config.yaml").exists()
        return command(place, *(["resume", "r"] if begun else self.words), how=how, at=at)

    def _end(self, place: Path, before: str) -> str:
        """Go on undisturbed, and compare."""
        ended = self._on(place)
        other = str(ended) if ended.code else differing(facts(place / "r"), self.whole)
        shutil.rmtree(place)
        return other and f"{before}: {other}"

    def _kill(self, place: Path, most: int) -> str:
        how, at = self.rng.choice(("before", "amid", "after")), self.rng.randrange(most)
        ended = self._on(place, how, at)
        return f"{how} {at}" + ("" if ended.code in (0, -signal.SIGKILL) else f" ({ended})")

    def killed(self) -> str:
        place = self._new()
        return self._end(place, self._kill(place, self.operations))

    def killed_twice(self) -> str:
        place = self._new()
        before = self._kill(place, self.operations)
        return self._end(place, f"{before}, then {self._kill(place, self.operations // 2)}")

    def killed_any_time(self) -> str:
        place, share = self._new(), self.rng.random()
        started = Started(place, self.words)
        time.sleep(share * self.seconds)
        os.kill(started.pid, signal.SIGKILL)
        started.ended()
        return self._end(place, f"after {share:.3f} of the time")

    def full(self) -> str:
        place, at = self._new(), self.rng.randrange(self.operations)
        ended = self._on(place, "full", at)
        if ended.code and not (ended.refused and "disk is full" in ended.err):
            return f"full from {at}: {ended}"
        return self._end(place, f"full from {at}")

    def _begun(self) -> Path:
        """A run that was killed at its last quarter."""
        place = self.folder / self.method / "begun"
        if not place.exists():
            place.mkdir()
            command(place, *self.words, how="before", at=self.operations * 3 // 4)
        return place

    def damaged_finished(self) -> str:
        return self._damaged(self.place)

    def damaged_begun(self) -> str:
        return self._damaged(self._begun())

    def _damages(self, of: Path) -> list[tuple[str, str]]:
        """Files and what is done to them, each pair once in a random order."""
        files = [p for p in (of / "r").rglob("*") if p.is_file() and p.name != ".lock" and p.stat().st_size]
        pairs = [(str(path.relative_to(of)), how) for path in sorted(files) for how in DAMAGES]
        return self.rng.sample(pairs, len(pairs))

    @cache  # noqa: B019 - an object lives as long as its method is tried
    def _expected(self, of: Path, *words: str) -> Ended:
        return command(self._copy(of), *words)

    def _damaged(self, of: Path) -> str:
        if not self.damages.get(of):
            self.damages[of] = self._damages(of)
        name, how = self.damages[of].pop()
        place = self._copy(of)
        path, what = place / name, f"{how} {name}"
        DAMAGES[how](path)
        picture = str(next((self.folder / "images" / "class0").iterdir()))
        for words in (("predict", "r", picture), ("report", "r"), ("resume", "r")):
            expected, ended = self._expected(of, *words), command(place, *words)
            same = ended.code == expected.code and (words[0] == "resume" or ended.out == expected.out)
            if not same and not (ended.refused and path.name in ended.err):
                return f"{what}, {words[0]}: {ended}"
        return self._mended(place, path, ended, what)

    def _mended(self, place: Path, path: Path, ended: Ended, what: str) -> str:
        """After a resume: the result is that of the undisturbed run, or is after what the sentence says."""
        if ended.refused and "delete it" not in ended.err:
            return ""  # begin again
        if ended.refused:
            path.unlink(missing_ok=True)
            ended = command(place, "resume", "r")
        found, whole = ({k: v for k, v in each.items() if k in RESULTS} for each in (facts(place / "r"), self.whole))
        other = str(ended) if ended.code else differing(found, whole)
        shutil.rmtree(place)
        return other and f"{what}, resume: {other}"

    def at_once(self) -> str:
        n, what = self.rng.choice(((2, "start"), (3, "start"), (2, "resume"), (2, "rank")))
        if what == "rank" and self.method not in RANKED:
            what = "resume"
        place = self._new() if what == "start" else self._copy(self.place if what == "rank" else self._begun())
        words = {"start": self.words, "resume": ["resume", "r"], "rank": RANK}[what]
        ended = [each.ended() for each in [Started(place, words) for _ in range(n)]]
        others = [e for e in ended if e.code]
        if len(others) == n or not all(e.refused and re.search(r"\br\b", e.err) for e in others):
            return f"{n} {what}s: {'; '.join(map(str, ended))}"
        whole = self._ranked()[1] if what == "rank" else self.whole
        other = differing(facts(place / "r"), whole)
        shutil.rmtree(place)
        return other and f"{n} {what}s: {other}"

    @cache  # noqa: B019 - an object lives as long as its method is tried
    def _by_two(self) -> tuple[float, dict[str, str]]:
        """Seconds of the search by two processes that nothing disturbs, and the run after it."""
        place, began = self._new(), time.monotonic()
        ended = [each.ended() for each in by_two(place, self.words)]
        assert not any(each.code for each in ended), ended
        return time.monotonic() - began, facts(place / "r")

    def one_of_two_killed(self) -> str:
        (seconds, whole), place, which, share = self._by_two(), self._new(), self.rng.randrange(2), self.rng.random()
        two = by_two(place, self.words)
        time.sleep(share * seconds)
        os.kill(two[which].pid, signal.SIGKILL)
        other = [each.ended() for each in two][1 - which]
        before = f"number {which} of two killed after {share:.3f} of the time"
        if other.code and not other.refused and not (which == 0 and other.code == 2):  # the second says nothing
            return f"{before}: the other: {other}"
        begun = (place / "r" / "config.yaml").exists()
        ended = [each.ended() for each in by_two(place, ["resume", "r"] if begun else self.words)]
        wrong = [str(each) for each in ended if each.code] or [differing(facts(place / "r"), whole)]
        shutil.rmtree(place)
        return wrong[0] and f"{before}: {'; '.join(wrong)}"

    @cache  # noqa: B019 - an object lives as long as its method is tried
    def _ranked(self) -> tuple[int, dict[str, str]]:
        """Operations of a ranking that nothing disturbs, and the run after it."""
        place = self._copy(self.place)
        ended = command(place, *RANK)
        assert ended.code == 0, ended
        return ended.operations, facts(place / "r")

    def rank_killed(self) -> str:
        place, (operations, whole) = self._copy(self.place), self._ranked()
        how, at = self.rng.choice(("before", "amid", "after")), self.rng.randrange(operations)
        command(place, *RANK, how=how, at=at)
        ended = command(place, *RANK)
        other = str(ended) if ended.code else differing(facts(place / "r"), whole)
        shutil.rmtree(place)
        return other and f"rank, {how} {at}: {other}"


def rows(folder: Path, methods: Sequence[str], tries: int, done: str) -> Iterator[str]:
    """A row of the table for each method and kind that is not in it."""
    for method in methods:
        kinds = [k for k in KINDS if (method in RANKED or k != KINDS[-1]) and (method in BY_TWO or k != "two, one killed")]
        left = [kind for kind in kinds if f"| {method} | {kind} |" not in done]
        if not left:
            continue
        every = Tries(folder, method)
        for kind in left:
            said = [every.kinds[kind]() for _ in range(tries)]
            wrong = [each for each in said if each]
            yield f"| {method} | {kind} | {tries} | {tries - len(wrong)} | {'; '.join(wrong).replace('|', '/')} |"
        shutil.rmtree(folder / method)



def main(methods: Sequence[str], tries: int) -> None:
    path = dated("faults")
    if not path.exists():
        path.write_text(HEAD)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        prepare(folder)
        for row in rows(folder, methods, tries, path.read_text()):
            with path.open("a") as file:
                file.write(row + "\n")
            print(row, flush=True)
    counts = re.findall(r"^\|[^|]*\|[^|]*\| (\d+) \| (\d+) \|", path.read_text(), re.MULTILINE)
    print(f"tried {sum(int(n) for n, _ in counts)}, held {sum(int(n) for _, n in counts)}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main([w for w in given if not w.isdigit()] or list(METHODS), next((int(w) for w in given if w.isdigit()), 5))

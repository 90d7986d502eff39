"""Live progress of a run in a terminal, and plain lines where there is none; also of a run of another process."""

import csv
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hiernas.errors import UNREADABLE, RunError
from hiernas.host import first_line, visible
from hiernas.report import units
from hiernas.run.disk import damaged, on_disk
from hiernas.run.folder import RunFolder, held

PHASES = {
    "train": "training supernet", "evolve": "searching", "final": "training the chosen network",
    "prior": "computing NASWOT", "predicted": "judging what the predictor added",
    "mask1": "masks of edges", "mask2": "masks of operations", "mask3": "masks of filters",
    **{f"compare{i}": f"training for comparison {i}/3" for i in (1, 2, 3)},
}  # fmt: skip
PLANNED = 0.98  # of the bar: what has its place in the plan; files are written and networks measured after it
SEARCHED = {
    "entropy": "entropy", "beta_entropy": "of beta", "skips": "identities", "none": "none", "depth": "depth",
    "dead": "dead cells",
}  # fmt: skip
LINES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {  # events that are a line each
    "job": lambda e: f"{e['label']}, seed {e['seed']}, {e['limit']}",
    "undecided": lambda e: f"warning: {e['doubt']}",
    "pruned": lambda e: f"stage {e['stage']}: pruned "
    + (f"the space from {units.size(e['size_before'])} to" if e["size_after"] < e["size_before"] else "nothing of the space of")
    + f" {units.size(e['size_after'])} architectures",
    "ranking": lambda e: f"{e['of'] - e['trained']} networks to train for {e['epochs']} epochs each; "
    f"{e['trained']} are trained",
    "cells": lambda e: f"cells: {e['genotype']}",
    "environment": lambda e: f"warning: this run began under another environment ({e['changed']}): its numbers can differ "
    "from those of a run that was never interrupted",
    "left": lambda e: e["words"],
    "rehearsal": lambda e: "timing a search in miniature",
    "numbers": lambda e: f"cells per stage: {', '.join(map(str, e['cells']))}",
}
COUNTED: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, float]]] = {  # and those that move the bar, and how far
    "decoding": lambda e: (f"{e['what']} pictures: {e['done']:,} of {e['total']:,}", e["done"] / max(e["total"], 1)),
    "measuring": lambda e: (f"measuring latency of operation {e['done']} of {e['total']}", e["done"] / max(e["total"], 1)),
    "calibrating": lambda e: (f"measuring whole network {e['done']} of {e['total']}", e["done"] / max(e["total"], 1)),
    "measured": lambda e: (
        f"measuring whole network {e['done']} of {e['total']}", PLANNED + (1 - PLANNED) * e["done"] / max(e["total"], 1)
    ),
    "jobs": lambda e: (f"{e['done']} of {e['of']} runs are done", e["done"] / e["of"]),
}


class Display:
    """A listener for a run's events: stage, epoch, generation, best so far, time left.

    `clock`: seconds from anywhere; `log`: csv or tensorboard, see `Scalars`.
    """

    def __init__(self, console: Console, clock: Callable[[], float] | None = None, log: str | None = None) -> None:
        self.console, self.clock, self.log = console, clock or time.monotonic, log and Scalars(log)
        self.plan: Mapping[str, float] = {}
        self.again = ""  # the command that goes on with what is being done
        self.of_study = False
        self.best = 0.0
        self.at: tuple[str, float, float] | None = None  # phase, share of it that is done, and when that was
        self.spent: dict[str, tuple[float, float]] = {}  # by phase: the work that was seen being done, and its seconds
        self.last_line = 0.0
        self.alarms: set[str] = set()
        self.state = ("starting", 0.0)  # what is shown
        self.ends: float | None = None  # when it will, by the clock
        self.live = Live(console=console, transient=True, get_renderable=self.picture)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self.log:
            self.log(event)
        kind = event["event"]
        if kind in LINES:
            self.console.print(LINES[kind](event))
        elif kind in COUNTED:
            self._show(*COUNTED[kind](event))
        elif handler := getattr(self, f"_on_{kind}", None):
            handler(event)

    def _on_study(self, e: Mapping[str, Any]) -> None:
        self.again, self.of_study = f"hiernas compare {e['path']}", True
        self.console.print(f"study {e['path']}: {e['of']} runs")

    def _on_start(self, e: Mapping[str, Any]) -> None:
        self.plan = e["plan"]
        if not self.of_study:
            self.again = f"hiernas resume {e['run']}"
        self.best, self.at, self.spent = 0.0, None, {}
        self.console.print(f"run folder {e['run']}, limits {', '.join(e['limits'])}")
        if data := e.get("data"):
            left_out = [f"images: {note}" for note in data["notes"] if "left out" in note]
            for line in (units.images(data), *left_out):
                self.console.print(line)
        if e.get("fitted"):
            self.console.print(f"for so few images: {e['fitted']}")
        if e.get("timed"):
            self.console.print(f"within {e['timed']}")
        if e.get("corrected"):
            self.console.print(e["corrected"])

    def _on_step(self, e: Mapping[str, Any]) -> None:
        share = (e["epoch"] + e["step"] / e["steps"]) / e["epochs"]
        self._advance(e["phase"], share, f"epoch {e['epoch'] + 1}/{e['epochs']}", final=False)

    def _on_epoch(self, e: Mapping[str, Any]) -> None:
        text = f"epoch {e['epoch']}/{e['epochs']} · loss {e['loss']:.3f}"
        if e["train_accuracy"] is not None:
            text += f" · train {e['train_accuracy']:.1%}"
        if "level" in e:
            text += f" · {e['kept']} of {e['of']} {e['level']} kept · {e['excess']:.0%} above the limits"
        if e["val_accuracy"] is not None:
            text += f" · validation {e['val_accuracy']:.1%}"
        for name, words in SEARCHED.items():  # what a search by gradients has come to
            if name in e:
                text += f" · {words} {e[name]:.2f}" if isinstance(e[name], float) else f" · {words} {e[name]}"
        counts = Counter(option for option in e.get("derived", {}).values() if option != "none" and not option.isdigit())
        if counts:  # the operations of the network as it stands
            text += f" · now {', '.join(f'{n} {option}' for option, n in counts.most_common())}"
        if e.get("alarm") and e["alarm"] not in self.alarms:
            self.alarms.add(e["alarm"])
            self.console.print(f"warning: {e['alarm']}")
        self._advance(e["phase"], e["epoch"] / e["epochs"], text, final=e["epoch"] == e["epochs"])

    def _on_generation(self, e: Mapping[str, Any]) -> None:
        self.best = e["best"]
        text = f"generation {e['generation']}/{e['generations']} · {e['evaluated']} evaluated"
        share = e["generation"] / e["generations"]
        self._advance(e["phase"], share, text, final=share == 1)

    def _advance(self, phase: str, share: float, text: str, final: bool) -> None:
        names = list(self.plan)
        before = sum(self.plan[p] for p in names[: names.index(phase)]) if phase in self.plan else 0.0
        total = sum(self.plan.values()) or 1.0
        done = PLANNED * (before + share * self.plan.get(phase, 0.0)) / total
        best = f" · best {self.best:.1%}" if self.best else ""
        self._show(f"{self._title(phase)} · {text}{best}", done, self._left(phase, share), final)

    def _title(self, phase: str) -> str:
        if phase in PHASES:
            return PHASES[phase]
        kind = phase.rstrip("0123456789")
        if kind == "brief":
            return f"brief training {phase[len(kind) :]}/{sum(p.startswith(kind) for p in self.plan)}"
        searched = sum(p.startswith("evolve") for p in self.plan)
        stages = 1 + searched if searched else sum(p.startswith("train") for p in self.plan)
        number = phase[len(kind) :]
        where = f"stage {number}/{stages} · " if number else ""
        return where + PHASES.get(kind, phase)

    def _left(self, phase: str, share: float) -> float | None:
        """Seconds, where enough is done to tell: of each phase by the pace of those of its kind, or else by that of all."""
        names, total, now = list(self.plan), sum(self.plan.values()), self.clock()
        if phase not in self.plan:
            return None
        if self.at is not None:
            before = self.at[1] if self.at[0] == phase else 0.0
            work, seconds = self.spent.get(phase, (0.0, 0.0))
            self.spent[phase] = work + (share - before) * self.plan[phase], seconds + now - self.at[2]
        self.at = (phase, share, now)

        def pace(kind: str) -> float | None:
            seen = [spent for name, spent in self.spent.items() if name.startswith(kind)]
            work = sum(work for work, _ in seen)
            return sum(seconds for _, seconds in seen) / work if work >= 0.005 * total else None

        if (overall := pace("")) is None:
            return None
        coming = {**{name: self.plan[name] for name in names[names.index(phase) :]}, phase: (1.0 - share) * self.plan[phase]}
        left = sum(work * (pace(name.rstrip("0123456789")) or overall) for name, work in coming.items())
        return left + (1.0 - PLANNED) / PLANNED * (left + sum(seconds for _, seconds in self.spent.values()))

    def _show(self, text: str, done: float, left: float | None = None, final: bool = False) -> None:
        self.state, self.ends = (text, done), None if left is None else self.clock() + left
        if not self.console.is_terminal and (final or time.monotonic() - self.last_line > 10.0):
            self.print_line()

    def line(self) -> str:
        """Where it stands, in a line."""
        return f"{self.state[1]:4.0%} {self.state[0]} {self._left_words()}".rstrip()

    def print_line(self) -> None:
        self.last_line = time.monotonic()
        self.console.print(self.line())

    def picture(self) -> Group:
        """The same in a terminal, however narrow it is: in words, and below them a bar and the time that is left by now."""
        below, (text, done) = Table.grid(padding=(0, 1)), self.state
        below.add_row(ProgressBar(total=1.0, completed=done, width=30), f"{done:4.0%}", self._left_words())
        return Group(Text(visible(text)), below)

    def _left_words(self) -> str:
        return "" if self.ends is None else f"about {units.seconds(max(0.0, self.ends - self.clock()))} left"


class Scalars:
    """A listener that writes the numbers of a run's epochs and generations: to RUN/scalars.csv or RUN/tensorboard.

    Both are appended to, so that a resumed run goes on in them.
    """

    def __init__(self, to: str) -> None:
        self.to, self.run = to, Path()
        self.board: Any = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "start":
            self.run, self.board = Path(event["run"]), None
        elif kind in ("epoch", "generation"):
            counters = (kind, f"{kind}s")  # 3 of 20
            values = {k: v for k, v in event.items() if type(v) in (int, float) and k not in counters}
            with on_disk(self.run):
                getattr(self, f"_to_{self.to}")(event["phase"], event[kind], values)

    def _to_csv(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        with open(self.run / "scalars.csv", "a", newline="") as f:
            writer = csv.writer(f)
            writer.writerows([("phase", "step", "name", "value")] if f.tell() == 0 else [])
            writer.writerows((phase, step, name, value) for name, value in values.items())

    def _to_tensorboard(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        self.board = self.board or TensorBoardLogger(self.run, name="tensorboard", version="")
        self.board.log_metrics({f"{phase}/{name}": value for name, value in values.items()}, step)
        self.board.save()  # to the disk


# -- a run of another process ------------------------------------------------------------------------------------------

POLL, QUIET = 1.0, 3  # seconds from look to look; looks without news after which it is asked whether anybody is at it
PAUSE = 30  # looks without a run under way after which a study counts as left
PATIENCE = 600  # looks for a run that has not begun


class Followed:
    """A run of another process, which is only read, and its display."""

    def __init__(self, path: Path, console: Console) -> None:
        self.run, self.read, self.quiet, self.began = RunFolder.open(path), 0, 0, "nothing is written yet"
        self.at: float | None = None  # of the event that is shown
        self.display = Display(console, lambda: time.time() if self.at is None else self.at)

    def look(self) -> None:
        """Show what is new."""
        try:
            events = self.run.events()[self.read :]
            for event in events:
                self.at = datetime.fromisoformat(event["time"]).timestamp()
                self.display(event)
        except UNREADABLE as error:
            raise damaged(self.run.path, "events.jsonl", first_line(error)) from error
        if events and not self.read:
            self.began = f"begun {events[0]['time'].replace('T', ' ')}"
        self.at, self.read, self.quiet = None, self.read + len(events), 0 if events else self.quiet + 1

    def left(self) -> bool:
        """Whether no process is at it; asked only where it is quiet, since for a moment nobody can begin to be."""
        return self.quiet >= QUIET and not held(self.run.lock)


def follow(path: Path, console: Console) -> None:
    """Show a run, or a study, from where it stands until it has its result; it is only read.

    Raises `RunError` where there is no run, or where it is not finished and no process is at it.
    """
    _wait_for(path, console)
    if (path / "study.yaml").exists():
        study = FollowedStudy(path, console)
        with study.live if console.is_terminal else nullcontext():
            while not study.look():
                time.sleep(POLL)
        return
    run = Followed(path, console)  # says so where it is none
    with run.display as display:
        while not (path / "result.json").exists():
            console.quiet = first = (run.read, run.quiet) == (0, 0)  # what has been is not told again
            run.look()
            console.quiet = False
            if first:
                console.print(f"{path}: {run.run.config['method']}, {run.began}")
                if not console.is_terminal:
                    display.print_line()
            if run.left() and not (path / "result.json").exists():
                raise RunError(
                    f"{path} is not finished, and no process is at it any more: it was stopped or killed, or it failed; go on "
                    f"with `hiernas resume {path}`: what was saved is not done again"
                )
            time.sleep(POLL)


class FollowedStudy:
    """A study that other processes do: a line for each run that has ended, and how far the others are."""

    def __init__(self, path: Path, console: Console) -> None:
        self.path, self.console, self.lines = path, console, [""]
        self.runs, self.ended = dict[Path, Followed](), set[Path]()
        self.last_line, self.quiet = 0.0, 0
        self.live = Live(console=console, transient=True, get_renderable=lambda: Text("\n".join(map(visible, self.lines))))

    def look(self) -> bool:
        """Show what is new; whether all runs have ended. Raises `RunError` where no process is at any other."""
        from hiernas.run.study import Study

        jobs, before = list(Study.open(self.path).jobs()), self.lines[0]  # more can be asked meanwhile
        at_work = [line for job in jobs if job.path not in self.ended and (line := self._line(job))]
        self.lines = [f"{len(self.ended)} of {len(jobs)} runs are done, {len(at_work)} under way", *at_work]
        self.quiet = 0 if at_work or self.lines[0] != before else self.quiet + 1
        if not self.console.is_terminal and (self.lines[0] != before or time.monotonic() - self.last_line > 10.0):
            self.last_line = time.monotonic()
            for line in self.lines:
                self.console.print(line)
        if self.quiet >= PAUSE and not any(held(job.lock) for job in jobs):  # a report may still be written
            raise RunError(f"{self.lines[0]}, and no process is at any; `hiernas compare {self.path}` goes on with the others")
        return len(self.ended) == len(jobs)

    def _line(self, job: Any) -> str:
        """Where a run stands, while a process is at it; its result is printed once."""
        name = f"{job.label}, seed {job.seed}, {job.limit}"
        if not (job.path / "config.yaml").exists():
            return ""
        run = self.runs[job.path] = self.runs.get(job.path) or Followed(job.path, Console(quiet=True))
        if result := run.run.read_json("result.json"):
            self.ended.add(job.path)
            self.console.print(f"{name}: {units.percent(result['chosen']['test_accuracy'])}")
            return ""
        run.look()
        return "" if run.left() else f"{name}, on {job.by}: {run.display.line()}"


def _wait_for(path: Path, console: Console) -> None:
    """Wait for what is about to be made in a folder: a search measures latencies first."""
    for look in range(PATIENCE):
        there = {p.name for p in path.iterdir()} if path.is_dir() else set()
        if "config.yaml" in there or there - {".lock", "checkpoint", "config.yaml.partial", "study.yaml.partial"}:
            return
        if look == 0:
            console.print(f"{path} holds no run yet; waiting for one to begin there (Ctrl-C ends)")
        time.sleep(POLL)

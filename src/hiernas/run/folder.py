"""The run folder: everything a run knows, written so that a run killed at any moment loses nothing.

    config.yaml        what was asked, and the version that wrote it
    events.jsonl       one JSON object per event, append-only
    candidates.sqlite  every evaluated architecture, per phase
    checkpoint/        *.safetensors (weights; their position is in the header) and *.json
    latency.json, result.json, best.*, report.html
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from hiernas import ranks
from hiernas.errors import UNREADABLE, HiernasError, RunError, validated
from hiernas.run.disk import SUMS, WITHOUT, Checksums, damaged, full, on_disk, sync_folder, to_yaml, without, write_whole
from hiernas.run.settings import FORMAT, config_of, sealed

if TYPE_CHECKING:
    from torch import Tensor

LIVE = ("events.jsonl", "candidates.sqlite")  # grow while a run is under way, and are sealed when it is left
Listener = Callable[[Mapping[str, Any]], None]


def teller(listener: Listener | None, event: str = "measuring") -> Callable[[int, int, str], None]:
    """Progress of a measurement, (done, total, key), as events for a listener."""
    return lambda done, total, key: listener and listener({"event": event, "done": done, "total": total, "key": key})


class TakenError(RunError):
    """The folder is another run's, or another process is at it."""


class RunFolder:
    """One run's folder. Use `create` for a new run and `open` for one that exists."""

    checkpoint_seconds = 60.0  # within an epoch, weights are saved at least this often

    def __init__(self, path: Path, config: Mapping[str, Any], listener: Listener | None = None) -> None:
        self.path = path
        self.config = config
        self.listener = listener
        self.checksums = Checksums(path)
        self._owned = False
        self._lock = FileLock(self.lock, blocking=False, thread_local=False)  # held as long as this object lives

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], listener: Listener | None = None) -> RunFolder:
        """A new run folder; raises `RunError` where something is there already."""
        run = cls(Path(path), {"format": FORMAT, **config}, listener)
        run._make()
        return run

    def change(self, **values: Any) -> None:
        """Other values in config.yaml, from here on."""
        self.config = {**self.config, **values}
        self._write_config()

    @ranks.by_first
    def _write_config(self) -> None:
        write_whole(self.path / "config.yaml", sealed(to_yaml(dict(self.config))).encode())

    @ranks.told
    def _make(self) -> None:
        path, there_before = self.path, self.path.exists()
        refuse_existing(path)
        with on_disk(path):
            (path / "checkpoint").mkdir(parents=True, exist_ok=True)
        self._take_lock()  # another process may have made the folder, too; from here on it is one's own
        try:
            refuse_existing(path)
            try:
                self._write_config()
            except BaseException:  # a folder without its config.yaml could be neither resumed nor used again
                (path / "checkpoint").rmdir()
                self.lock.unlink(missing_ok=True)
                if not there_before:
                    path.rmdir()
                raise
            sync_folder(path.absolute().parent)
        except BaseException:
            self.close()
            raise
        self._owned = True

    @classmethod
    def open(cls, path: str | Path, listener: Listener | None = None) -> RunFolder:
        """A run folder that exists; raises `RunError` where it is none, is damaged or from another version."""
        return cls(Path(path), config_of(Path(path)), listener)

    @ranks.told
    def own(self) -> None:
        """Claim the folder for writing (one process at a time) and mend what a killed process left behind."""
        self._take_lock()
        try:
            for leftover in self.path.rglob("*.partial"):
                leftover.unlink()
            for name in LIVE:
                self.check(name)
            self.checksums.settle(live=LIVE)
        except BaseException:
            self.close()
            raise
        self._owned = True
        events = self.path / "events.jsonl"
        if events.exists():
            text = events.read_bytes()
            if not text.endswith(b"\n"):  # a line that was being written
                write_whole(events, text[: text.rfind(b"\n") + 1])

    def _take_lock(self) -> None:
        with on_disk(self.path):
            try:
                self._lock.acquire()
            except Timeout as error:
                raise TakenError(f"another process is working on {self.path}; wait for it or stop it") from error
            if not self.lock.exists():  # one that could not begin has removed it in between
                self.close()
                raise TakenError(f"another process was working on {self.path}; try again")

    @property
    def lock(self) -> Path:
        """The file that is `held` by the process that works on the folder."""
        return self.path / ".lock"

    def close(self) -> None:
        """Give the folder free for other processes."""
        if self._owned:
            with suppress(RunError):  # no space for it: they are then not checked
                self.checksums.settle(sealed=LIVE)
            self._owned = False
        self._lock.release(force=True)

    # -- files -------------------------------------------------------------------------------------------------

    @ranks.by_first
    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file of the folder, whole or not at all, and its checksum."""
        self.checksums.expect(name, hashlib.sha256(data).hexdigest())
        write_whole(self.path / name, data)

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the folder atomically."""
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file atomically; numbers that are not finite are refused."""
        self.write_text(name, json.dumps(value, indent=1, allow_nan=False) + "\n")

    @ranks.told
    def check(self, name: str) -> None:
        """Raise `RunError` where a file of the folder is not what this run wrote. What is gone passes."""
        if not self.checksums.holds(name):
            edited = f"is not what the run wrote (by {SUMS} it was damaged or edited)"
            raise RunError(f"{self.path / name} {edited}; {without(self.path, name)}")

    @ranks.by_first
    def record(self, name: str) -> None:
        """Take up a file that was written by other means than this class."""
        self.write_bytes(name, (self.path / name).read_bytes())

    @ranks.told
    def missing(self) -> list[str]:
        """Files that the run wrote beside its checkpoints, and that are gone."""
        names = (name for name in self.checksums.read() if "/" not in name and name not in WITHOUT)
        return [name for name in names if not (self.path / name).exists()]

    @ranks.told
    def read_json(self, name: str, kind: Any = dict[str, Any]) -> Any | None:
        """A JSON file of the folder as a type, None where it was not written yet; raises `RunError` where it is damaged."""
        self.check(name)
        data = self._read(name)
        try:
            return None if data is None else validated(kind, json.loads(data), name, RunError)
        except json.JSONDecodeError as error:
            raise damaged(self.path, name, f"content: invalid JSON: {error}") from error
        except (RunError, *UNREADABLE) as error:
            why = str(error).removeprefix(f"{name}: ") if isinstance(error, RunError) else ""
            raise damaged(self.path, name, why) from error

    def _read(self, name: str) -> bytes | None:
        """What a file holds; None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{self.path / name} cannot be read: {error.strerror}; name a run folder you may read") from error

    @ranks.by_first
    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
        """Write weights and the position they belong to as one safetensors file, atomically."""
        from safetensors.torch import save

        data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"position": json.dumps(position)})
        self.write_bytes(f"checkpoint/{name}.safetensors", data)

    @ranks.told
    def load_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Weights and position, None where not saved yet; raises `RunError` where the file is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self.path / "checkpoint" / f"{name}.safetensors"
        if not path.exists():
            return None
        self.check(f"checkpoint/{name}.safetensors")
        try:
            with safe_open(path, "pt") as f:
                position = validated(dict[str, Any], f.metadata()["position"], "position", RunError)
                return {k: f.get_tensor(k) for k in f.keys()}, position  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, RunError, *UNREADABLE) as error:
            raise damaged(self.path, f"checkpoint/{name}.safetensors") from error

    @contextmanager
    def fitting(self, name: str) -> Iterator[None]:
        """Inside, what a file holds is taken up; `RunError` where it does not go together with the rest of the run."""
        try:
            yield
        except (HiernasError, RuntimeError, ArithmeticError, *UNREADABLE) as error:  # of ours, torch, numpy and pymoo
            raise damaged(self.path, name, "it does not fit the run") from error

    # -- events ------------------------------------------------------------------------------------------------

    @ranks.by_first
    def event(self, event: str, **fields: Any) -> None:
        """Append an event to events.jsonl and tell the listener."""
        record = {"time": datetime.now().isoformat(timespec="seconds"), "event": event, **fields}
        with on_disk(self.path), open(self.path / "events.jsonl", "a") as f:
            f.write(json.dumps(record) + "\n")
        if self.listener is not None:
            self.listener(record)

    @ranks.by_first
    def tell(self, event: str, **fields: Any) -> None:
        """Tell the listener something that is not worth keeping."""
        if self.listener is not None:
            self.listener({"event": event, **fields})

    def events(self) -> list[dict[str, Any]]:
        """All events so far; a line that was cut off is left out. Raises `RunError` with one that is damaged."""
        found: list[dict[str, Any]] = []
        for i, line in enumerate((self._read("events.jsonl") or b"").split(b"\n")[:-1], 1):
            try:
                found.append(dict(**json.loads(line)))  # no list and no number
            except UNREADABLE as error:
                where = f"line {i} of {self.path / 'events.jsonl'} is damaged"
                raise RunError(f"{where}; delete that line: {WITHOUT['events.jsonl']}") from error
        return found

    # -- candidates --------------------------------------------------------------------------------------------

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        path = self.path / "candidates.sqlite"
        try:
            with on_disk(path), closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS candidates (phase TEXT, options TEXT, val_accuracy REAL NOT NULL, params "
                    "INTEGER, macs INTEGER, latency_ms REAL, sha256 TEXT, PRIMARY KEY (phase, options)) STRICT"
                )
                yield connection
        except sqlite3.DatabaseError as error:
            if "full" in str(error):
                raise full(path) from error
            if "locked" in str(error):
                raise RunError(f"{path} is in use by another program; close it and resume the run") from error
            raise RunError(
                f"{path} is damaged ({error}); delete it, and `hiernas resume {self.path}` evaluates again"
            ) from error

    @ranks.by_first
    def add_candidates(self, phase: str, rows: Sequence[tuple[str, float, float, float, float | None]]) -> None:
        """Keep evaluated architectures: (options joined by commas, accuracy, params, macs, latency in ms)."""
        values = [(phase, o, float(a), int(p), int(m), None if t is None else float(t)) for o, a, p, m, t in rows]
        with self._database() as db:
            db.executemany("INSERT OR REPLACE INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?)", [(*v, _seal(v)) for v in values])

    @ranks.told
    def candidates(self, phase: str) -> dict[str, float]:
        """Accuracy by options (joined by commas) of every architecture evaluated in a phase."""
        with self._database() as db:
            rows = db.execute("SELECT * FROM candidates WHERE phase = ?", (phase,)).fetchall()
            whole = db.execute("PRAGMA quick_check").fetchone()
            if whole != ("ok",) or any(_seal(values) != seal for *values, seal in rows):
                raise sqlite3.DatabaseError("its rows are not what was written")
        return {options: accuracy for _, options, accuracy, *_ in rows}

    @ranks.told
    def table(self) -> list[dict[str, Any]]:
        """Every evaluation of every phase."""
        columns = ("phase", "options", "val_accuracy", "params", "macs", "latency_ms")
        with self._database() as db:
            rows = db.execute(f"SELECT {', '.join(columns)} FROM candidates").fetchall()
        found = (dict(zip(columns, row, strict=True)) for row in rows)
        return [{**each, "options": each["options"].split(",")} for each in found]

    # -- time --------------------------------------------------------------------------------------------------

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside to checkpoint/seconds.json (over all resumes)."""
        start = time.monotonic()
        try:
            yield
        except BaseException:
            with suppress(RunError):  # the error at hand is the one to be seen
                self._add_seconds(phase, time.monotonic() - start)
            raise
        self._add_seconds(phase, time.monotonic() - start)

    @ranks.told
    def seconds(self) -> dict[str, float]:
        """Seconds by phase; empty where the file is missing or damaged, since nothing depends on it."""
        try:
            return dict(self.read_json("checkpoint/seconds.json", dict[str, float]) or {})
        except RunError:
            return {}

    @ranks.by_first
    def _add_seconds(self, phase: str, spent: float) -> None:
        seconds = self.seconds()
        seconds[phase] = round(seconds.get(phase, 0.0) + spent, 3)
        self.write_json("checkpoint/seconds.json", seconds)


def held(lock: Path) -> bool:
    """Whether a process holds a lock."""
    try:
        with FileLock(lock, blocking=False) if lock.exists() else nullcontext():
            return False
    except (Timeout, OSError):  # somebody has it, or nobody may ask
        return True


@ranks.told
def refuse_existing(path: Path) -> None:
    """Raise `TakenError` where a run cannot be put: before any work is done. What a start that was killed left is no run."""
    try:
        found = {p.name for p in path.iterdir()} if path.is_dir() else set()
        begun = {".lock", "config.yaml.partial", *([] if any((path / "checkpoint").glob("*")) else ["checkpoint"])}
        holds_run, in_use = "config.yaml" in found, bool(found - begun) or (path.exists() and not path.is_dir())
    except OSError as error:
        raise RunError(f"cannot use the folder {path}: {error.strerror}; name another one with --out") from error
    if holds_run:
        raise TakenError(
            f"{path} already holds a run; go on with `hiernas resume {path}`, or name another folder with --out"
        )
    if in_use:
        raise TakenError(f"{path} exists and is not an empty folder; name another one with --out")


def begin(out: str | Path | None, stem: str, config: Mapping[str, Any], listener: Listener | None = None) -> RunFolder:
    """A new run in `out`, or without one in the first of runs/stem-001, runs/stem-002, ... that no other process takes."""
    if out is not None:
        return RunFolder.create(out, config, listener)
    for i in range(1, 1_000_000):
        with suppress(TakenError):
            return RunFolder.create(Path("runs") / f"{stem}-{i:03d}", config, listener)
    raise RunError("there is no free name left under runs/; name a folder with --out")


@contextmanager
def owned(run: RunFolder) -> Iterator[RunFolder]:
    """Inside, no other process writes to the folder."""
    run.own()
    try:
        yield run
    finally:
        run.close()


def _seal(row: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(list(row)).encode()).hexdigest()

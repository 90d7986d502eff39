"""A study: methods x limits x seeds on the same images, each an ordinary run folder inside the study's own.

All have the same final training: that of the first method. Any number of processes, on any machines that see the folder,
may work on a study; each run is done by whoever takes its lock first, and is gone on with where it was cut off.
"""

import importlib
import os
import platform
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

from filelock import FileLock, Timeout
from pydantic import Field

from hiernas.costs import parse_limits
from hiernas.errors import UNREADABLE, ConfigError, HiernasError, LimitError, RunError, SpaceError
from hiernas.methods import METHODS, variants
from hiernas.randomness import numpy_generator
from hiernas.run.disk import from_yaml, on_disk, to_yaml, write_whole
from hiernas.run.folder import Listener
from hiernas.run.request import ONE_LEFT, Prepared, Read, Request, prepare
from hiernas.run.search import resume, search
from hiernas.run.settings import from_dict, keys, names_of, plain, to_dict, with_settings
from hiernas.train.retraining import Retraining

FORMAT = 1
FILE = "study.yaml"


@dataclass(frozen=True)
class Entry:
    """What is compared: a method, with settings of its own where it is a variant."""

    method: str
    settings: tuple[str, ...] = ()
    space: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the space
    name: str = ""  # where it was given one
    matched: tuple[str, ...] = ()  # settings that make its work that of the first search, where it has such

    @property
    def label(self) -> str:
        return self.name or (f"{self.method}:{'+'.join(self.settings)}" if self.settings else self.method)


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    label: str
    limit: str
    seed: int
    path: Path
    request: Request

    @property
    def done(self) -> bool:
        return (self.path / "result.json").exists()

    @property
    def lock(self) -> Path:
        """The file that is held by the process that does it."""
        return self.path.parents[1] / ".locks" / f"{self.path.parent.name}-{self.path.name}"

    @property
    def by(self) -> str:
        """Host and number of the process that did it last."""
        left = self.lock.with_name(f"{self.lock.name}.by")
        return left.read_text(errors="replace") if left.exists() else "a machine that left no name"


@dataclass(frozen=True)
class Study:
    """What is asked of a study, and what was decided when it began; study.yaml holds it."""

    path: Path
    entries: tuple[Entry, ...]
    limits: tuple[str, ...]  # each one or more conditions joined by "and"; the study is done under each
    seeds: Annotated[int, Field(ge=1, le=10**5)]
    request: Mapping[str, Any]  # what all requests share
    final: Retraining | None = None  # the final training of all
    work: float | None = None  # of the first search, in forward passes of a network

    def jobs(self) -> Iterator[Job]:
        """All runs, one seed after the other, so that a study that was cut short compares what it has."""
        for seed in range(self.seeds):
            for limit in self.limits:
                for entry in self.entries:
                    path = self.path / _file_name(limit) / f"{_file_name(entry.label)}-{seed}"
                    yield Job(entry.label, limit, seed, path, self.request_of(entry, limit, seed))

    def request_of(self, entry: Entry, limit: str, seed: int) -> Request:
        method, shared = METHODS[entry.method], {k: v for k, v in self.request.items() if k != "settings"}
        has = keys(method.presets["paper"])
        common = [text for text in self.request["settings"] if names_of([text]) <= has.keys()]
        settings = [*entry.matched, *common, *entry.settings]
        arguments = {k: v for k, v in entry.arguments.items() if k not in method.finds}
        return Request(
            method=entry.method, space=entry.space, space_arguments=arguments, limits=(limit,), settings=settings,
            final=self.final, seed=seed, **shared,
        )  # fmt: skip

    def save(self) -> None:
        values = {"format": FORMAT, **{k: v for k, v in to_dict(self).items() if k != "path"}}
        with on_disk(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / FILE, to_yaml(values).encode())

    @classmethod
    def open(cls, path: Path) -> Self:
        """The study of a folder; raises `RunError` where there is none, or where its file is damaged."""
        try:
            values = from_yaml((path / FILE).read_text())
            if values["format"] != FORMAT:
                raise RunError(f"{path / FILE} is of format {values['format']}, and this version reads {FORMAT}")
            study: Self = from_dict(cls, {**values, "path": path})
            list(replace(study, seeds=1).jobs())  # what is no request is refused here
            return study
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(f"{path} is no study: it has no {FILE}; begin one with `hiernas compare --out {path}`") from error
        except (OSError, ConfigError, *UNREADABLE) as error:
            raise RunError(f"{path / FILE} is damaged ({error}); put it back, or begin another study") from error


def _file_name(text: str) -> str:
    """'params<=60k and macs<=3M' -> 'params-60k-macs-3M'."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text.replace(" and ", "-")).strip("-.")[:120]


def entries_of(methods: str, space: str | None = None, arguments: Mapping[str, Any] | None = None) -> tuple[Entry, ...]:
    """Read "hnas,once=hnas:stages=2+population=8,plain": methods, some with settings and a name of their own."""
    found = [Entry(method, own, space, dict(arguments or {}), name) for name, method, own in variants(methods)]
    for entry in found:
        with_settings(METHODS[entry.method].presets["paper"], entry.settings)  # a wrong one is named
    labels = [_file_name(e.label) for e in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(f"'{twice[0]}' is named twice; name each method once")
    return tuple(found)


def begin(
    path: Path, entries: Sequence[Entry], limits: Sequence[str], seeds: int, request: Mapping[str, Any],
    listener: Listener | None = None,
) -> Study:  # fmt: skip
    """A new study, checked as a whole before anything is trained; or one that is there already and is asked for again.

    `request`: fields of `Request` that all runs share. More seeds and more methods may be asked of a study that is there.
    """
    for limit in limits:
        parse_limits([limit])
    if not limits:
        raise LimitError('a study compares under a limit, and none is given; name one with --limit, such as "params<=100k"')
    shared = plain({"settings": (), **request})
    for key in sorted(names_of(shared["settings"])):
        if not any(key in keys(METHODS[e.method].presets["paper"]) for e in entries):
            raise ConfigError(f"--set {key}=...: none of the methods has this setting")
    there = Study.open(path) if (path / FILE).exists() else None
    if there is not None and (there.limits, there.request) != (tuple(limits), shared):
        raise RunError(f"{path} is a study of other data, limits or settings; name another folder with --out")
    seeds = max(seeds, 0 if there is None else there.seeds)
    study = _decided(Study(path, tuple(entries), tuple(limits), seeds, shared), there, listener)
    study.save()
    return study


def _decided(study: Study, there: Study | None, listener: Listener | None) -> Study:
    """With its final training, spaces and work, by the first method, or as in the study that is there.

    Everything is prepared once, so that what cannot be done is said before anything is.
    """
    old, entries, prepared = {} if there is None else {e.label: e for e in there.entries}, list[Entry](), dict[str, Prepared]()
    read: Read | None = None
    if there is not None:
        study = replace(study, final=there.final, work=there.work)
    for entry in study.entries:
        if entry.label in old:
            entries.append(_as_before(entry, old[entry.label], study.path))
            continue
        others_space = entries[0].space if entries and entry.space is None else None
        if others_space is not None:
            entry = replace(entry, space=others_space, arguments=entries[0].arguments)
        for limit in study.limits:
            prepared[entry.label] = found = _prepared(study, entry, limit, others_space is not None, listener, read)
            read = found.data, found.data_source  # the same for all
            if ONE_LEFT in found.doubts:
                raise LimitError(f"under {limit} there is nothing to compare: {ONE_LEFT}")
            skeleton, of_data = found.space.skeleton, ("input_size", "num_classes")
            arguments = {k: plain(v) for k, v in skeleton.arguments if k not in of_data}
            entry = replace(entry, space=skeleton.name, arguments=arguments)
            study = replace(study, final=study.final or found.final)
        if study.work is None and (method := METHODS[entry.method]).control != "unsearched":
            share = method.final_share(found.space, found.config, numpy_generator(0, "share"))
            study = replace(study, work=sum(method.plan(found.config, found.data).values()) / share)
        entries.append(entry)
    kept = [e for label, e in old.items() if label not in {x.label for x in entries}]
    new = [_matched(e, prepared[e.label], study.work) if e.label in prepared else e for e in entries]
    return replace(study, entries=(*new, *kept))


def _as_before(entry: Entry, old: Entry, path: Path) -> Entry:
    """An entry of the study that is there, which must be asked for as it was."""
    same_space = entry.space in (None, old.space) and all(old.arguments.get(k) == plain(v) for k, v in entry.arguments.items())
    if (entry.method, entry.settings) != (old.method, old.settings) or not same_space:
        raise RunError(f"'{entry.label}' of {path} was asked for otherwise; give this one a name of its own, NAME=METHOD:...")
    return old


def _matched(entry: Entry, prepared: Prepared, work: float | None) -> Entry:
    """With settings by which it does as much work, where its method has such."""
    own = [] if work is None else METHODS[entry.method].matching(prepared.config, prepared.data, work)
    return replace(entry, matched=tuple(own))


def _prepared(study: Study, entry: Entry, limit: str, movable: bool, listener: Listener | None, read: Read | None) -> Prepared:
    """What an entry would search; its own space where it does not take that of another method."""
    try:
        try:
            return prepare(study.request_of(entry, limit, 0), listener, read)
        except SpaceError:
            if not movable:
                raise
        return prepare(study.request_of(replace(entry, space=None, arguments={}), limit, 0), listener, read)
    except HiernasError as error:
        raise type(error)(f"{entry.label}: {error}") from error


# -- doing it ----------------------------------------------------------------------------------------------------------


def work(path: Path, listener: Listener | None = None) -> dict[str, str]:
    """Do the runs of a study that are not done and that nobody else is at; what failed, by folder, and why.

    Comes back when nothing is left to take: others may still be at work.
    """
    failed: dict[str, str] = {}
    while True:
        taken = 0
        for job in Study.open(path).jobs():
            if job.done or str(job.path) in failed:
                continue
            with claim(job) as mine:
                if not mine or job.done:
                    continue
                taken += 1
                if listener is not None:
                    listener({"event": "job", "label": job.label, "limit": job.limit, "seed": job.seed})
                try:
                    if (job.path / "config.yaml").exists():
                        resume(job.path, listener)
                    else:
                        search(job.request, job.path, listener)
                except HiernasError as error:
                    failed[str(job.path)] = str(error)
        if not taken:
            return failed


@contextmanager
def claim(job: Job) -> Iterator[bool]:
    """Whether this process may do a run; the lock is free again when the process ends, however it ends."""
    job.lock.parent.mkdir(exist_ok=True)
    lock = FileLock(job.lock, blocking=False, thread_local=False)
    with ExitStack() as held:
        with suppress(Timeout, OSError):  # another process is at it; or its name cannot be left
            held.enter_context(lock)
            job.lock.with_name(f"{job.lock.name}.by").write_text(f"{platform.node()}, process {os.getpid()}")
        yield lock.is_locked


def spread(study: Study, jobs: int, backend: str, listener: Listener | None = None) -> dict[str, str]:
    """The same by several processes: `backend` is one of joblib's, or that of a Ray or Dask cluster."""
    from joblib import Parallel, delayed, parallel_config  # type: ignore[import-untyped]

    try:
        if backend == "ray":
            importlib.import_module("ray.util.joblib").register_ray()
        if backend == "dask":  # the cluster that its configuration names, or else this machine
            importlib.import_module("dask.distributed").Client()
    except ImportError as error:
        raise ConfigError(f"--backend {backend} needs hiernas[{backend}], which is not installed ({error})") from error
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with _watched(study, listener), parallel_config(backend=backend, n_jobs=jobs):
        found = Parallel()(delayed(_work_quietly)(str(study.path.resolve()), threads) for _ in range(jobs))
    return {path: reason for failed in found for path, reason in failed.items()}


def _work_quietly(path: str, threads: int) -> dict[str, str]:
    import torch

    torch.set_num_threads(threads)
    return work(Path(path))


@contextmanager
def _watched(study: Study, listener: Listener | None) -> Iterator[None]:
    """Tell a listener how many runs are done while other processes do them."""
    ended, jobs = threading.Event(), list(study.jobs())

    def watch() -> None:
        while listener is not None and not ended.wait(1.0):
            listener({"event": "jobs", "done": sum(job.done for job in jobs), "of": len(jobs)})

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

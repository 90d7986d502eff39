"""Latency tables: how long each operation of a space takes on one device; a network takes their sum.

Each operation is measured alone, by turns with others (see `runner.by_turns`), and what a network does not pay per
operation is taken off (see `probes`). A table may carry a correction that whole networks told (see `calibrate`).

An operation counts with the tenth percentile of its runs: on an idle device that is the median within a few
percent, on a busy one it stays while the median follows the neighbours.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hiernas.architecture import Architecture
from hiernas.costs.count import parts_of, saved_by
from hiernas.errors import LatencyError
from hiernas.space import SearchSpace
from hiernas.supernet.subsets import as_subset

if TYPE_CHECKING:
    from hiernas.latency.probes import Plan
    from hiernas.latency.runner import TimedCall
    from hiernas.latency.timing import Runtime
    from hiernas.supernet.chain import Part

KIND = "hiernas latency table, format 1"
RUNS, WARMUP = 45, 3

Progress = Callable[[int, int, str], None]  # operations done, operations to do, the last one's key


@dataclass(frozen=True)
class Entry:
    """Latency of one module over `runs` runs: median, tenth and ninetieth percentile, in ms."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int

    def __post_init__(self) -> None:
        if not 0 <= self.p10_ms <= self.median_ms <= self.p90_ms < math.inf:
            raise LatencyError(f"{self} is no measurement: 0 <= p10 <= median <= p90 must hold")


@dataclass(frozen=True)
class Correction:
    """What whole networks of a space told: their latency is `constant_ms` + `scale` times the sum of the table."""

    constant_ms: float
    scale: float
    networks: int  # it was fitted on
    space: str  # they were of

    def __post_init__(self) -> None:
        if not (math.isfinite(self.constant_ms) and 0 < self.scale < math.inf):
            raise LatencyError(
                f"a correction of {self.constant_ms:.3g} ms + {self.scale:.3g} x the sum makes no sense: the scale must be "
                "positive; calibrate again on an idle device, with more networks"
            )


class LatencySource(Protocol):
    """A latency table: one we measured, or a phone's."""

    @property
    def device(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def overhead_ms(self) -> float: ...  # of one call of a network
    def part_ms(self, part: Part) -> float:
        """Latency of one operation in ms; raises `LatencyError` where the table misses it."""
        ...

    def predict(self, architecture: Architecture) -> float:
        """Latency of a network in ms: its operations and `overhead_ms`."""
        ...


@dataclass(frozen=True)
class LatencyTable:
    """Latencies measured on one device with one runtime; `entries` are net of call overhead and edges.

    They and `raw_overhead_ms` are as measured; `overhead_ms`, `part_ms` and `predict` apply the correction.
    """

    device: str
    runtime: str
    version: str
    threads: int
    batch: int
    raw_overhead_ms: float
    entries: Mapping[str, Entry] = field(default_factory=dict)  # by `Part.key`
    correction: Correction | None = None

    @property
    def overhead_ms(self) -> float:
        """What every network pays once, in ms."""
        c = self.correction
        return self.raw_overhead_ms if c is None else c.constant_ms + c.scale * self.raw_overhead_ms

    def part_ms(self, part: Part) -> float:
        """Latency of one operation in ms; raises `LatencyError` where the table misses it."""
        if part.is_identity:
            return 0.0
        if part.key not in self.entries:
            raise LatencyError(
                f"the latency table of '{self.device}' ({self.runtime} {self.version}) has no entry '{part.key}'; "
                f"measure the space on that device: hiernas measure SPACE --runtime {self.runtime}"
            )
        scale = 1.0 if self.correction is None else self.correction.scale
        return scale * self.entries[part.key].p10_ms

    def predict(self, architecture: Architecture) -> float:
        """Latency of a network in ms: the sum of its operations plus `overhead_ms`."""
        return predict_ms(self, architecture)

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, at once: the file is whole, or as it was before."""
        path = Path(path)
        value = asdict(self)
        value["overhead_ms"] = value.pop("raw_overhead_ms")
        value["entries"] = value.pop("entries")  # last, for those who read the file
        if self.correction is None:
            del value["correction"]
        text = json.dumps({"kind": KIND, **value}, indent=1) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            try:
                partial.write_text(text)
                os.replace(partial, path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise
        except OSError as error:
            raise LatencyError(f"cannot write the latency table {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a table that `save` wrote; raises `LatencyError` for any other file."""
        try:
            value = json.loads(read_text(path))
        except ValueError as error:
            raise LatencyError(f"the latency table {path} is damaged ({error}); delete it and measure again") from error
        if not isinstance(value, dict) or value.pop("kind", None) != KIND:
            raise LatencyError(f"{path} is not a latency table of this version; measure one with `hiernas measure`")
        try:
            value["entries"] = {str(key): Entry(**entry) for key, entry in value["entries"].items()}
            value["raw_overhead_ms"] = value.pop("overhead_ms")
            if "correction" in value:
                value["correction"] = Correction(**value["correction"])
            table = cls(**value)
            usable = 0 <= table.raw_overhead_ms < math.inf and table.threads >= 1 and table.batch >= 1
        except (KeyError, TypeError, AttributeError, LatencyError) as error:
            raise LatencyError(f"the latency table {path} is damaged ({error}); delete it and measure again") from error
        if not usable:
            raise LatencyError(f"the latency table {path} is damaged (its header); delete it and measure again")
        return table


def predict_ms(table: LatencySource, architecture: Architecture) -> float:
    """Latency of a network by any table; a site that keeps several options pays for each, and for their sum."""
    if not architecture.is_single:
        architecture = as_subset(architecture)
    fixed, options = parts_of(architecture.skeleton)
    total = table.overhead_ms
    for part in fixed:
        total += table.part_ms(part)
    for part in saved_by(architecture.skeleton):
        total -= table.part_ms(part)
    for parts, choice in zip(options, architecture.choices, strict=True):
        total += sum(table.part_ms(part) for option, _ in choice for part in parts[option])
    return total


def load_table(path: str | Path, runtime: str | None = None, threads: int | None = None) -> LatencySource:
    """Read a latency table: our JSON, or a phone's YAML (see `phone`).

    Raises `LatencyError` where it was measured with another runtime or number of threads than those asked for, if any.
    """
    from hiernas.latency.phone import PhoneTable

    table = LatencyTable.load(path) if read_text(path).lstrip().startswith("{") else PhoneTable.load(path)
    for name, asked in (("runtime", runtime), ("threads", threads)):
        if asked not in (None, getattr(table, name)):
            raise LatencyError(
                f"the latency table {path} was measured with {name} '{getattr(table, name)}', but --{name} {asked} is asked "
                f"for; leave --{name} out, or name a table that was measured so"
            )
    return table


def read_text(path: str | Path) -> str:
    """The text of a table's file; raises `LatencyError`."""
    try:
        return Path(path).read_text()
    except OSError as error:
        raise LatencyError(f"cannot read the latency table {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LatencyError(f"{path} is not a latency table: it is not a text file") from error


def cached_table_path(owner: Runtime | LatencyTable) -> Path:
    """Where this device's table is kept: in $HIERNAS_CACHE, $XDG_CACHE_HOME/hiernas or ~/.cache/hiernas."""
    if os.environ.get("HIERNAS_CACHE"):
        folder = Path(os.environ["HIERNAS_CACHE"])
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hiernas"
    names = (*(identity(owner)[name] for name in ("device", "runtime", "version")), f"t{owner.threads}", f"b{owner.batch}")
    slugs = [re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name in names]
    return folder / f"{'-'.join(['latency', *slugs])}.json"


# -- measurement -------------------------------------------------------------------------------------------------


def measure_table(
    space: SearchSpace,
    runtime: Runtime,
    path: str | Path | None = None,
    on_progress: Progress | None = None,
    runs: int = RUNS,
) -> LatencyTable:
    """Measure the distinct operations of a space that the table at `path` does not hold yet.

    The table is saved every few operations: an interrupted measurement goes on where it was. Torch's global
    random state is left as it was. `runs` is the least number of runs of each operation. Raises `LatencyError`
    where the stored table belongs to another device, runtime, version, number of threads or batch size.
    """
    import torch

    from hiernas.latency.probes import OVERHEAD, plan_of

    stored = _stored(path, runtime)
    known = {}
    if stored is not None:
        ms = stored.raw_overhead_ms
        known = {OVERHEAD: Entry(ms, ms, ms, 0), **stored.entries}
    plan = plan_of(space, runtime.inner_layout).without(known)
    table = stored or LatencyTable(**identity(runtime), raw_overhead_ms=0.0)
    left = {item.key for item in plan} - {OVERHEAD}
    total = len(left)
    with torch.random.fork_rng(devices=[]):
        for found in _looks(plan, runtime, known, runs):
            overhead = found.pop(OVERHEAD).p10_ms
            table = replace(table, raw_overhead_ms=overhead, entries=found)
            if path is not None:
                table.save(path)
            for key in [key for key in found if key in left]:
                left.remove(key)
                if on_progress is not None:
                    on_progress(total - len(left), total, key)
    return table


def _looks(plan: Plan, runtime: Runtime, known: Mapping[str, Entry], runs: int) -> Iterator[dict[str, Entry]]:
    """The known entries and those of the plan, whenever there are new ones.

    Everything is measured a second time when the rest was measured once, and the lower latency counts.
    """
    from hiernas.latency.runner import LOOKS
    from hiernas.latency.timing import measure_by_turns

    known = dict(known)
    for held in plan.groups(runtime.threads, runtime.batch):
        calls: dict[str, TimedCall] = {}
        raw: dict[str, Entry] = {}
        for look in range(LOOKS):
            for chunk in held:
                probes = [probe for item in chunk for probe in item.probes]
                if look == 0:
                    calls |= {p.key: runtime.prepare(p.build(), p.input_size) for p in probes}
                found = measure_by_turns([calls[p.key] for p in probes], chunk[0].runs * runs, WARMUP)
                for probe, entry in zip(probes, found, strict=True):
                    raw[probe.key] = min(raw.get(probe.key, entry), entry, key=lambda e: e.p10_ms)
                known |= {item.key: item.entry(raw, known) for item in chunk}
                yield dict(known)


def identity(owner: Runtime | LatencyTable) -> dict[str, Any]:
    """What the latencies of a runtime or table belong to, by the table's field names."""
    runtime = owner.runtime if isinstance(owner, LatencyTable) else owner.name
    return {"device": owner.device, "runtime": runtime, **{n: getattr(owner, n) for n in ("version", "threads", "batch")}}


def _stored(path: str | Path | None, runtime: Runtime) -> LatencyTable | None:
    if path is None or not Path(path).exists():
        return None
    table = LatencyTable.load(path)
    for name, value in identity(runtime).items():
        if getattr(table, name) != value:
            raise LatencyError(
                f"the latency table {path} was measured with {name} '{getattr(table, name)}', but '{value}' is asked "
                "for; name another file, or measure with what the table says"
            )
    return table

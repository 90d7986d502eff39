"""Latency tables: how long each operation of a space takes on one device; a network takes their sum.

Entries come from measuring (see `measure`). A table may carry a correction that whole networks told (see `calibrate`).

An operation counts with the tenth percentile of its runs: on an idle device that is the median within a few
percent, on a busy one it stays while the median follows the neighbours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiernas.costs.count import LatencyTable as AnyTable
from hiernas.costs.count import parts_of, saved_by
from hiernas.errors import LatencyError
from hiernas.latency.runner import write
from hiernas.space import Architecture
from hiernas.subsets import as_subset

if TYPE_CHECKING:
    from hiernas.networks.parts import Part

KIND = "hiernas latency table, format 1"
BELONGS_TO = ("device", "runtime", "version", "threads", "batch")  # what the latencies of a table hold for
RUNS, WARMUP = 45, 3


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

    def __str__(self) -> str:
        return f"{self.constant_ms:+.4f} ms + {self.scale:.4f} x the sum"

    def of(self, sums_ms: Any) -> Any:
        """Latency of a network by the sum of the table, or of several by an array of sums."""
        return self.constant_ms + self.scale * sums_ms


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
        return self.raw_overhead_ms if self.correction is None else self.correction.of(self.raw_overhead_ms)

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
        path, value = Path(path), asdict(self)
        value["overhead_ms"] = value.pop("raw_overhead_ms")
        value["entries"] = value.pop("entries")  # last, for those who read the file
        if self.correction is None:
            del value["correction"]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, {"kind": KIND, **value})
        except OSError as error:
            raise LatencyError(f"cannot write the latency table {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a table that `save` wrote; raises `LatencyError` for any other file."""
        text = read_text(path)
        try:
            value = json.loads(text)
            kind = value.pop("kind", None) if isinstance(value, dict) else None
            if kind == KIND:
                value["entries"] = {str(key): Entry(**entry) for key, entry in value["entries"].items()}
                value["raw_overhead_ms"] = value.pop("overhead_ms")
                if "correction" in value:
                    value["correction"] = Correction(**value["correction"])
                table = cls(**value)
                if not (0 <= table.raw_overhead_ms < math.inf and table.threads >= 1 and table.batch >= 1):
                    raise LatencyError("its header")
                return table
        except (ValueError, KeyError, TypeError, AttributeError, LatencyError) as error:
            raise LatencyError(f"the latency table {path} is damaged ({error}); delete it and measure again") from error
        raise LatencyError(f"{path} is not a latency table of this version; measure one with `hiernas measure`")


def predict_ms(table: AnyTable, architecture: Architecture) -> float:
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


def check_asked(path: str | Path, table: object, asked: Mapping[str, Any]) -> None:
    """Refuse a table that was measured with another device, runtime, ... than what is asked for, by its field names."""
    for name, value in asked.items():
        found = getattr(table, name)
        if found != value:
            raise LatencyError(
                f"the latency table {path} was measured with {name} '{found}', but '{value}' is asked for; name another "
                "table, or ask for what this one was measured with"
            )


def read_text(path: str | Path) -> str:
    """The text of a table's file; raises `LatencyError`."""
    try:
        return Path(path).read_text()
    except OSError as error:
        raise LatencyError(f"cannot read the latency table {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LatencyError(f"{path} is not a latency table: it is not a text file") from error


@dataclass(frozen=True)
class Merged:
    """The table of two, and how many entries are the other's: new ones, and some that took the place of ours."""

    table: LatencyTable
    added: int
    replaced: int
    kept: int

    def __str__(self) -> str:
        end = f"{self.kept} kept as they were (of as many runs or more)"
        return f"{self.added} new entries, {self.replaced} replaced by ones of more runs, {end}"


def merge(mine: LatencyTable, other: LatencyTable) -> Merged:
    """Both tables' entries; where both have one, the one of more runs stays, and ours where they are equal.

    Overhead and correction stay ours. Raises `LatencyError` where device, runtime, version, threads or batch differ.
    """
    for name in BELONGS_TO:
        ours, theirs = getattr(mine, name), getattr(other, name)
        if ours != theirs:
            raise LatencyError(
                f"these tables cannot be merged: one was measured with {name} '{ours}', the other with '{theirs}'; keep a "
                "file for each"
            )
    added = {k: e for k, e in other.entries.items() if k not in mine.entries}
    better = {k: e for k, e in other.entries.items() if k in mine.entries and e.runs > mine.entries[k].runs}
    entries = {**mine.entries, **added, **better}
    kept = len(other.entries) - len(added) - len(better)
    return Merged(replace(mine, entries=entries), len(added), len(better), kept)

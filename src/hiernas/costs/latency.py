"""Latency tables: how long each operation of a space takes on one device; a network takes their sum.

Each operation is measured alone (see `runtimes.measure_by_turns`), and two things that a network does not pay
per operation are taken off: `overhead_ms`, the cost of a call, which a network pays once, and, for runtimes with
an inner layout of tensors, the conversion from and to the plain one at both ends of the operation ("edges").

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
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hiernas.architecture import Architecture
from hiernas.costs.count import parts_of, parts_of_space
from hiernas.errors import LatencyError
from hiernas.space import SearchSpace

if TYPE_CHECKING:
    from torch import nn

    from hiernas.costs.runtimes import Runtime
    from hiernas.supernet.chain import Part

KIND = "hiernas latency table, format 1"
RUNS, WARMUP = 45, 3
SAVED_AT_ONCE = 16  # operations measured between two saves

T = TypeVar("T")
Shape = tuple[int, int, int]  # channels, height, width
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
    """Latencies measured on one device with one runtime; `entries` are net of call overhead and edges."""

    device: str
    runtime: str
    version: str
    threads: int
    batch: int
    overhead_ms: float
    entries: Mapping[str, Entry] = field(default_factory=dict)  # by `Part.key`

    def part_ms(self, part: Part) -> float:
        """Latency of one operation in ms; raises `LatencyError` where the table misses it."""
        if part.is_identity:
            return 0.0
        if part.key not in self.entries:
            raise LatencyError(
                f"the latency table of '{self.device}' ({self.runtime} {self.version}) has no entry '{part.key}'; "
                f"measure the space on that device: hiernas measure SPACE --runtime {self.runtime}"
            )
        return self.entries[part.key].p10_ms

    def predict(self, architecture: Architecture) -> float:
        """Latency of a network in ms: the sum of its operations plus `overhead_ms`."""
        return predict_ms(self, architecture)

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, at once: the file is whole, or as it was before."""
        path = Path(path)
        text = json.dumps({"kind": KIND, **asdict(self)}, indent=1) + "\n"
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
            table = cls(**value)
            usable = 0 <= table.overhead_ms < math.inf and table.threads >= 1 and table.batch >= 1
        except (KeyError, TypeError, AttributeError, LatencyError) as error:
            raise LatencyError(f"the latency table {path} is damaged ({error}); delete it and measure again") from error
        if not usable:
            raise LatencyError(f"the latency table {path} is damaged (its header); delete it and measure again")
        return table


def predict_ms(table: LatencySource, architecture: Architecture) -> float:
    """Latency of a network by any table; a site that keeps several options pays for each."""
    fixed, options = parts_of(architecture.skeleton)
    total = table.overhead_ms
    for part in fixed:
        total += table.part_ms(part)
    for parts, choice in zip(options, architecture.choices, strict=True):
        total += sum(table.part_ms(part) for option, _ in choice for part in parts[option])
    return total


def load_table(path: str | Path) -> LatencySource:
    """Read a latency table: our JSON, or a phone's YAML (see `phone`)."""
    from hiernas.costs.phone import PhoneTable

    return LatencyTable.load(path) if read_text(path).lstrip().startswith("{") else PhoneTable.load(path)


def read_text(path: str | Path) -> str:
    """The text of a table's file; raises `LatencyError`."""
    try:
        return Path(path).read_text()
    except OSError as error:
        raise LatencyError(f"cannot read the latency table {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LatencyError(f"{path} is not a latency table: it is not a text file") from error


def cached_table_path(runtime: Runtime) -> Path:
    """Where this device's table is kept: in $HIERNAS_CACHE, $XDG_CACHE_HOME/hiernas or ~/.cache/hiernas."""
    if os.environ.get("HIERNAS_CACHE"):
        folder = Path(os.environ["HIERNAS_CACHE"])
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hiernas"
    names = (runtime.device, runtime.name, runtime.version, f"t{runtime.threads}", f"b{runtime.batch}")
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

    table = _stored(path, runtime)
    operations = _operations(space, runtime.inner_layout)
    missing = {k: v for k, v in operations.items() if table is None or k not in table.entries}
    if table is not None and not missing:
        return table
    with torch.random.fork_rng(devices=[]):
        if table is None:
            overhead = runtime.measure(torch.nn.Identity(), (1, 1, 1), 3 * runs, WARMUP).p10_ms
            table = LatencyTable(**_identity(runtime), overhead_ms=overhead)
        edges = {e.key: e for o in missing.values() for e in o.edges if e.key not in table.entries}
        done, total = 0, len(edges) + len(missing)
        for found in _new_entries(list(edges.values()), list(missing.values()), table, runtime, runs):
            table = replace(table, entries={**table.entries, **found})
            if path is not None:
                table.save(path)
            for key in found:
                done += 1
                if on_progress is not None:
                    on_progress(done, total, key)
    return table


@dataclass(frozen=True)
class _Edge:
    """A place where a tensor enters or leaves an operation that is measured alone."""

    shape: Shape

    @property
    def key(self) -> str:
        return f"edge {'x'.join(map(str, self.shape))}"

    def probe(self, repeats: int) -> nn.Module:
        """The cheapest convolution, once or twice: two in one call have one edge pair and one overhead less."""
        from torch import nn

        c = self.shape[0]
        return nn.Sequential(*(nn.Conv2d(c, c, 1, groups=c, bias=False) for _ in range(repeats)))


@dataclass(frozen=True)
class _Operation:
    """An operation and its edges; where the network itself begins or ends there is none."""

    part: Part
    edges: tuple[_Edge, ...]


def _operations(space: SearchSpace, with_edges: bool) -> dict[str, _Operation]:
    fixed, options = parts_of_space(space)
    found: dict[str, _Operation] = {}
    for part in (*fixed, *(part for site in options for parts in site for part in parts)):
        s = part.site
        edges = [] if part is fixed[0] else [_Edge(part.input_size)]
        if part is not fixed[-1]:
            edges.append(_Edge((s.cout, -(-part.size[0] // s.stride), -(-part.size[1] // s.stride))))
        if not part.is_identity:
            found.setdefault(part.key, _Operation(part, tuple(edges) if with_edges else ()))
    return found


def _new_entries(
    edges: list[_Edge], operations: list[_Operation], table: LatencyTable, runtime: Runtime, runs: int
) -> Iterator[dict[str, Entry]]:
    from hiernas.costs.runtimes import measure_by_turns

    known = dict(table.entries)
    for some in _chunks(edges):
        found = _measured_edges(some, runtime, table.overhead_ms, runs)
        known |= found
        yield found
    for few in _chunks(operations):
        raw = measure_by_turns([runtime.prepare(o.part.build(), o.part.input_size) for o in few], runs, WARMUP)
        spent = [table.overhead_ms + sum(known[e.key].p10_ms for e in o.edges) / 2 for o in few]
        yield {o.part.key: _less(entry, ms) for o, entry, ms in zip(few, raw, spent, strict=True)}


def _measured_edges(edges: list[_Edge], runtime: Runtime, overhead_ms: float, runs: int) -> dict[str, Entry]:
    from hiernas.costs.runtimes import measure_by_turns

    calls = [runtime.prepare(e.probe(n), e.shape) for e in edges for n in (1, 2)]
    raw = measure_by_turns(calls, runs, WARMUP)
    found = {}
    for edge, one, two in zip(edges, raw[::2], raw[1::2], strict=True):
        pairs = ((one.p10_ms, two.p10_ms), (one.median_ms, two.median_ms), (one.p90_ms, two.p90_ms))
        p10, median, p90 = sorted(max(0.0, 2 * a - b - overhead_ms) for a, b in pairs)
        found[edge.key] = Entry(median, p10, p90, one.runs)
    return found


def _less(entry: Entry, ms: float) -> Entry:
    """An entry with a constant taken off, not below 0."""
    p10, median, p90 = (max(0.0, value - ms) for value in (entry.p10_ms, entry.median_ms, entry.p90_ms))
    return Entry(median, p10, p90, entry.runs)


def _identity(runtime: Runtime) -> dict[str, Any]:
    """What a table belongs to, by the table's field names."""
    names = {"device": "device", "runtime": "name", "version": "version", "threads": "threads", "batch": "batch"}
    return {field: getattr(runtime, name) for field, name in names.items()}


def _stored(path: str | Path | None, runtime: Runtime) -> LatencyTable | None:
    if path is None or not Path(path).exists():
        return None
    table = LatencyTable.load(path)
    for name, value in _identity(runtime).items():
        if getattr(table, name) != value:
            raise LatencyError(
                f"the latency table {path} was measured with {name} '{getattr(table, name)}', but '{value}' is asked "
                "for; name another file, or measure with what the table says"
            )
    return table


def _chunks(items: list[T]) -> Iterator[list[T]]:
    return (items[i : i + SAVED_AT_ONCE] for i in range(0, len(items), SAVED_AT_ONCE))

"""What is measured for a latency table, how entries follow from it, measuring it here, and what then looks wrong.

Operations are measured alone, by turns with others (see `runner.by_turns`). Two things that a network does not pay per
operation are then taken off: the overhead of a call, which a network pays once, and, for runtimes with an inner layout
of tensors, the conversion from and to the plain one at both ends of the operation ("edges").
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from hiernas.costs.tables import counted, footprint, parts_of_space
from hiernas.errors import LatencyError
from hiernas.host import cache_folder
from hiernas.latency import BELONGS_TO, RUNS, WARMUP, Entry, LatencyTable, check_asked
from hiernas.latency.runner import HELD, IN_TURN, Batch, by_looks, share, together
from hiernas.latency.runtimes import Runtime
from hiernas.networks.parts import Part
from hiernas.space import SearchSpace

OVERHEAD = "overhead"  # key of the cost of a call
AT_ONCE = 16  # operations that are measured between two saves, at most
SPREAD, AT_LEAST_MS = 3.0, 0.01  # in doubt: a 90th percentile above 3 times the tenth and another 0.01 ms
MORE_MACS, FASTER = 3.0, 0.5  # in doubt: operations of one shape, 3 times the multiply-adds in half the time

Shape = tuple[int, int, int]  # channels, height, width
Progress = Callable[[int, int, str], None]  # operations done, operations to do, the last one's key


@dataclass(frozen=True)
class Probe:
    """One module that is measured alone."""

    key: str
    input_size: Shape
    build: Callable[[], nn.Module]

    def taken(self, batch: int = 1) -> int:
        """Bytes that it takes while it is loaded, for inputs [batch, C, H, W]."""
        weights, activations = footprint(self.build, self.input_size)
        return weights + batch * activations

    def load(self, runtime: Runtime) -> Callable[[], float]:
        return runtime.prepare(self.build(), self.input_size)


@dataclass(frozen=True)
class Item:
    """An entry of a table: modules that are measured for it, and entries before it that are taken off."""

    key: str
    probes: tuple[Probe, ...]
    weights: tuple[int, ...] = (1,)  # of the probes' latencies in its own
    needs: tuple[str, ...] = ()  # keys of the overhead, and of edges, of which half is an operation's
    runs: int = 1  # times as many as those of operations
    part: Part | None = None  # of an operation

    def entry(self, raw: Mapping[str, Entry], known: Mapping[str, Entry]) -> Entry:
        """What it takes within a network, from the probes' latencies and the entries that it needs."""
        taken = sum(known[key].p10_ms for key in self.needs[1:]) / 2
        taken += known[OVERHEAD].p10_ms if self.needs else 0.0
        alone = [raw[probe.key] for probe in self.probes]
        columns = ([e.p10_ms for e in alone], [e.median_ms for e in alone], [e.p90_ms for e in alone])
        sums = (sum(w * ms for w, ms in zip(self.weights, column, strict=True)) for column in columns)
        p10, median, p90 = sorted(max(0.0, ms - taken) for ms in sums)
        return Entry(median, p10, p90, alone[0].runs)


def _edge(shape: Shape) -> Item:
    """A place where a tensor enters and leaves an operation that is measured alone; what both cost together.

    The cheapest convolution, once and twice: two in one call have one pair of edges and one overhead less.
    """

    def build(repeats: int) -> nn.Module:
        return nn.Sequential(*(nn.Conv2d(shape[0], shape[0], 1, groups=shape[0], bias=False) for _ in range(repeats)))

    key = f"edge {'x'.join(map(str, shape))}"
    probes = tuple(Probe(f"{key} {n}", shape, partial(build, n)) for n in (1, 2))
    return Item(key, probes, (2, -1), (OVERHEAD,))


@dataclass(frozen=True)
class Plan:
    """All that is to be measured, in this order: entries follow from those before them."""

    overhead: tuple[Item, ...]
    edges: tuple[Item, ...]
    operations: tuple[Item, ...]

    def without(self, known: Container[str]) -> Plan:
        """What is left where these keys are known; an edge stays as long as an operation needs it."""
        operations = tuple(o for o in self.operations if o.key not in known)
        needed = {key for o in operations for key in o.needs}
        edges = tuple(e for e in self.edges if e.key in needed and e.key not in known)
        return Plan(tuple(o for o in self.overhead if o.key not in known), edges, operations)

    def chunks(self, threads: int = 1, batch: int = 1) -> list[tuple[Sequence[Item], float]]:
        """Items that are measured by turns, with the share that they take of what may be loaded at a time."""
        found: list[tuple[Sequence[Item], float]] = []
        for items in (self.overhead, self.edges, self.operations):
            shares = [sum(share(p.taken(batch), threads) for p in item.probes) for item in items]
            ranges = together(shares, AT_ONCE, IN_TURN)
            found += [(items[r.start : r.stop], sum(shares[r.start : r.stop])) for r in ranges]
        return found

    def loaded_bytes(self, threads: int = 1, batch: int = 1) -> int:
        """The most that is loaded at a time while all this is measured."""
        chunks, shares = zip(*self.chunks(threads, batch), strict=True)
        taken = [sum(p.taken(batch) for item in chunk for p in item.probes) for chunk in chunks]
        return max(sum(taken[r.start : r.stop]) for r in together(shares, HELD))

    def entries(self, raw: Mapping[str, Entry], known: Mapping[str, Entry]) -> dict[str, Entry]:
        """All entries that follow from the probes' latencies as far as they are there, and those that were known before."""
        found = dict(known)
        for item in self:
            if all(p.key in raw for p in item.probes) and all(key in found for key in item.needs):
                found[item.key] = item.entry(raw, found)
        return found

    def __iter__(self) -> Iterator[Item]:
        return iter((*self.overhead, *self.edges, *self.operations))

    def probes(self) -> dict[str, Probe]:
        return {probe.key: probe for item in self for probe in item.probes}


def plan_of(space: SearchSpace, with_edges: bool) -> Plan:
    """The distinct operations of a space and, for runtimes with an inner layout, their edges.

    Where the network itself begins or ends there is none. Operations without multiply-adds, such as pooling, are computed
    in the plain layout when they are alone. Of cells the weighted sums are measured, too, with which nodes of any number
    of edges take them up.
    """
    fixed, options = parts_of_space(space)
    every = [part for site in options for parts in site for part in parts]
    edges: dict[str, Item] = {}
    operations: dict[str, Item] = {}
    for part in (*fixed, *every, *(part.summed() for part in every if space.skeleton.groups)):
        if part.is_identity or part.key in operations:
            continue
        ends = [] if part is fixed[0] else [part.input_size]
        ends += [] if part is fixed[-1] else [part.output_size]
        own = [_edge(shape) for shape in ends] if with_edges and counted(part).macs else []
        edges |= {edge.key: edge for edge in own}
        probe, needs = Probe(part.key, part.input_size, part.build), (OVERHEAD, *(edge.key for edge in own))
        operations[part.key] = Item(part.key, (probe,), needs=needs, part=part)
    overhead = Item(OVERHEAD, (Probe(OVERHEAD, (1, 1, 1), nn.Identity),), runs=3)  # every entry depends on it
    return Plan((overhead,), tuple(edges.values()), tuple(operations.values()))


def title(space: SearchSpace) -> str:
    """A space as files and messages name it: 'tiny 3x32x32, 10 classes', and its other settings."""
    skeleton = space.skeleton
    channels, height, width = skeleton.input_size
    other = [f", {k}={v}" for k, v in skeleton.arguments if k not in ("input_size", "num_classes")]
    return f"{skeleton.name} {channels}x{height}x{width}, {skeleton.num_classes} classes{''.join(other)}"


def fingerprint(plan: Plan) -> str:
    """SHA-256 over the keys and shapes of all probes, in order: equal where the same things are measured."""
    probes = [(probe.key, probe.input_size) for probe in plan.probes().values()]
    return hashlib.sha256(json.dumps(probes).encode()).hexdigest()


# -- measuring it here -------------------------------------------------------------------------------------------


def identity(owner: Runtime | LatencyTable) -> dict[str, Any]:
    """What the latencies of a runtime or table belong to, by the table's field names."""
    return {name: getattr(owner, name) for name in BELONGS_TO}


def cached_table_path(owner: Runtime | LatencyTable) -> Path:
    """Where this device's table is kept, in the cache folder. A damaged one is set aside, as a warning says."""
    device, runtime, version, threads, batch = identity(owner).values()
    names = ("latency", device, runtime, version, f"t{threads}", f"b{batch}")
    plain = (re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name in names)
    path = cache_folder("latencies") / f"{'-'.join(plain)}.json"
    if path.exists():
        with locked(path):
            try:
                LatencyTable.load(path)
            except LatencyError as error:
                if path.exists():  # unless another process has done it
                    aside = path.with_suffix(".damaged")
                    path.replace(aside)
                    warnings.warn(f"{error}; it was set aside as {aside} (HIERNAS_CACHE names another folder)", stacklevel=2)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, no other process writes the latency table at `path`; its folder is made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            for left in path.parent.glob(f"{escape(path.name)}.*.partial"):  # by a process that was killed
                left.unlink(missing_ok=True)
            yield
    except OSError as error:
        raise LatencyError(f"cannot write the latency table {path}: {error.strerror}; HIERNAS_CACHE names a folder") from error


def _keep(table: LatencyTable, path: Path) -> None:
    """Save a table with what other processes have measured for it in the meantime."""
    with locked(path):
        if path.exists():
            stored = LatencyTable.load(path)
            correction = stored.correction or table.correction
            table = replace(table, entries={**stored.entries, **table.entries}, correction=correction)
        table.save(path)


def measure_table(
    space: SearchSpace, runtime: Runtime, path: str | Path | None = None, on_progress: Progress | None = None, runs: int = RUNS
) -> LatencyTable:
    """Measure the distinct operations of a space that the table at `path` does not hold yet.

    The table is saved every few operations: an interrupted measurement goes on where it was. Torch's global
    random state is left as it was. `runs` is the least number of runs of each operation. Raises `LatencyError`
    where the stored table belongs to another device, runtime, version, number of threads or batch size.
    """
    table = LatencyTable(**identity(runtime), raw_overhead_ms=0.0)
    known: dict[str, Entry] = {}
    if path is not None and Path(path).exists():
        table = LatencyTable.load(path)
        check_asked(path, table, identity(runtime))
        ms = table.raw_overhead_ms
        known = {OVERHEAD: Entry(ms, ms, ms, 0), **table.entries}
    plan = plan_of(space, runtime.inner_layout).without(known)
    left = [item.key for item in (*plan.edges, *plan.operations)]
    total = len(left)
    raw: dict[str, Entry] = {}
    batches = [
        Batch({p.key: partial(p.load, runtime) for item in chunk for p in item.probes}, chunk[0].runs * runs, WARMUP, taken)
        for chunk, taken in plan.chunks(runtime.threads, runtime.batch)
    ]
    with torch.random.fork_rng(devices=[]):
        for rows in by_looks(batches):
            raw |= {key: Entry(**row) for key, row in rows.items()}
            known = plan.entries(raw, known)
            entries = {key: entry for key, entry in known.items() if key != OVERHEAD}
            table = replace(table, raw_overhead_ms=known[OVERHEAD].p10_ms, entries=entries)
            if path is not None:
                _keep(table, Path(path))
            for key in [key for key in left if key in known]:
                left.remove(key)
                if on_progress is not None:
                    on_progress(total - len(left), total, key)
    return table


# -- what looks wrong: entries that a busy device or a mistake in the measuring leaves behind ----------------------


def doubts(plan: Plan, entries: Mapping[str, Entry]) -> dict[str, str]:
    """What looks wrong, one sentence by the operation's key; empty where all look right."""
    alike: dict[object, dict[str, int]] = defaultdict(dict)  # operations of one shape: their multiply-adds by key
    for o in plan.operations:
        if o.part is not None and o.key in entries:
            alike[(o.part.cin, o.part.cout, o.part.stride, o.part.size)][o.key] = counted(o.part).macs
    found = {key: entry_doubt(key, entries[key]) or _too_fast(key, macs, entries) for macs in alike.values() for key in macs}
    return {o.key: found[o.key] for o in plan.operations if found.get(o.key)}


def entry_doubt(key: str, entry: Entry) -> str:
    """What looks wrong in one entry by itself, or ""."""
    if entry.p10_ms == 0:
        return f"'{key}' takes no time"
    if entry.p90_ms > SPREAD * entry.p10_ms + AT_LEAST_MS:
        return f"'{key}' takes {entry.p10_ms:.3g} to {entry.p90_ms:.3g} ms: the device was busy"
    return ""


def _too_fast(key: str, macs: Mapping[str, int], entries: Mapping[str, Entry]) -> str:
    ms = {k: entries[k].p10_ms for k in macs}
    slower = [k for k in macs if 0 < MORE_MACS * macs[k] <= macs[key] and 0 < ms[key] < FASTER * ms[k]]
    if not slower:
        return ""
    worst = max(slower, key=lambda k: ms[k])
    return (
        f"'{key}' has {macs[key] / macs[worst]:.1f} times the multiply-adds of '{worst}' and takes "
        f"{ms[key] / ms[worst]:.2f} of its time"
    )

"""What is measured for a latency table, and how entries follow from it.

Two things that a network does not pay per operation are taken off what an operation takes alone: the overhead of a
call, which a network pays once, and, for runtimes with an inner layout of tensors, the conversion from and to the
plain one at both ends of the operation ("edges").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hiernas.costs.count import footprint, parts_of_space
from hiernas.costs.tables import counted
from hiernas.latency.runner import HELD, IN_TURN, share, together
from hiernas.latency.table import Entry
from hiernas.space import SearchSpace
from hiernas.supernet.subsets import with_sums

if TYPE_CHECKING:
    from torch import nn

    from hiernas.supernet.chain import Part

OVERHEAD = "overhead"  # key of the cost of a call
AT_ONCE = 16  # operations that are measured between two saves, at most

Shape = tuple[int, int, int]  # channels, height, width


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


@dataclass(frozen=True)
class Overhead:
    """The cost of a call: the latency of the identity."""

    key = OVERHEAD
    needs = ()  # keys of other entries
    runs = 3  # times as many as others: every entry depends on it

    @property
    def probes(self) -> tuple[Probe, ...]:
        from torch import nn

        return (Probe(self.key, (1, 1, 1), nn.Identity),)

    def entry(self, raw: Mapping[str, Entry], known: Mapping[str, Entry]) -> Entry:
        """As measured."""
        return raw[self.key]


@dataclass(frozen=True)
class Edge:
    """A place where a tensor enters or leaves an operation that is measured alone."""

    shape: Shape
    needs = (OVERHEAD,)
    runs = 1

    @property
    def key(self) -> str:
        return f"edge {'x'.join(map(str, self.shape))}"

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The cheapest convolution, once and twice: two in one call have one pair of edges and one overhead less."""
        return tuple(Probe(f"{self.key} {n}", self.shape, partial(_convolutions, self.shape[0], n)) for n in (1, 2))

    def entry(self, raw: Mapping[str, Entry], known: Mapping[str, Entry]) -> Entry:
        """What both ends cost together, from the probes' latencies."""
        one, two = (raw[probe.key] for probe in self.probes)
        pairs = ((one.p10_ms, two.p10_ms), (one.median_ms, two.median_ms), (one.p90_ms, two.p90_ms))
        p10, median, p90 = sorted(max(0.0, 2 * a - b - known[OVERHEAD].p10_ms) for a, b in pairs)
        return Entry(median, p10, p90, one.runs)


def _convolutions(channels: int, repeats: int) -> nn.Module:
    from torch import nn

    return nn.Sequential(*(nn.Conv2d(channels, channels, 1, groups=channels, bias=False) for _ in range(repeats)))


@dataclass(frozen=True)
class Operation:
    """An operation and its edges; where the network itself begins or ends there is none."""

    part: Part
    edges: tuple[Edge, ...]
    runs = 1

    @property
    def key(self) -> str:
        return self.part.key

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the entries that its own entry follows from."""
        return (OVERHEAD, *(edge.key for edge in self.edges))

    @property
    def probes(self) -> tuple[Probe, ...]:
        return (Probe(self.key, self.part.input_size, self.part.build),)

    def entry(self, raw: Mapping[str, Entry], known: Mapping[str, Entry]) -> Entry:
        """What it takes within a network: its own latency without overhead and edges, which `known` holds."""
        taken = known[OVERHEAD].p10_ms + sum(known[edge.key].p10_ms for edge in self.edges) / 2
        alone = raw[self.key]
        p10, median, p90 = (max(0.0, value - taken) for value in (alone.p10_ms, alone.median_ms, alone.p90_ms))
        return Entry(median, p10, p90, alone.runs)


Item = Overhead | Edge | Operation


@dataclass(frozen=True)
class Plan:
    """All that is to be measured, in this order: entries follow from those before them."""

    overhead: tuple[Overhead, ...]
    edges: tuple[Edge, ...]
    operations: tuple[Operation, ...]

    def without(self, known: Container[str]) -> Plan:
        """What is left where these keys are known; an edge stays as long as an operation needs it."""
        operations = tuple(o for o in self.operations if o.key not in known)
        edges = {e.key: e for o in operations for e in o.edges if e.key not in known}
        return Plan(tuple(o for o in self.overhead if o.key not in known), tuple(edges.values()), operations)

    def groups(self, threads: int = 1, batch: int = 1) -> list[list[Sequence[Item]]]:
        """Chunks whose items are measured by turns, in groups that stay loaded together: bounded threads and bytes."""
        shares = {item.key: sum(share(p.taken(batch), threads) for p in item.probes) for item in self}
        kinds: tuple[Sequence[Item], ...] = (self.overhead, self.edges, self.operations)
        chunks = [
            items[r.start : r.stop] for items in kinds for r in together([shares[i.key] for i in items], AT_ONCE, IN_TURN)
        ]
        held = together([sum(shares[item.key] for item in chunk) for chunk in chunks], HELD)
        return [chunks[r.start : r.stop] for r in held]

    def loaded_bytes(self, threads: int = 1, batch: int = 1) -> int:
        """The most that `groups` keeps loaded at a time."""
        items = ([item for chunk in group for item in chunk] for group in self.groups(threads, batch))
        return max((sum(p.taken(batch) for item in group for p in item.probes) for group in items), default=0)

    def __iter__(self) -> Iterator[Item]:
        return iter((*self.overhead, *self.edges, *self.operations))

    def __len__(self) -> int:
        return len(self.overhead) + len(self.edges) + len(self.operations)

    def probes(self) -> dict[str, Probe]:
        """All probes by key."""
        return {probe.key: probe for item in self for probe in item.probes}


def plan_of(space: SearchSpace, with_edges: bool) -> Plan:
    """The distinct operations of a space and, for runtimes with an inner layout, their edges.

    Operations without multiply-adds, such as pooling, are computed in the plain layout when they are alone. Of cells the
    weighted sums are measured, too, with which nodes of any number of edges take them up.
    """
    fixed, options = parts_of_space(space)
    every = [part for site in options for parts in site for part in parts]
    found: dict[str, Operation] = {}
    for part in (*fixed, *every, *(with_sums(every) if space.skeleton.groups else ())):
        edges = () if part is fixed[0] else (Edge(part.input_size),)
        if part is not fixed[-1]:
            edges = (*edges, Edge(output_size(part)))
        if not part.is_identity:
            found.setdefault(part.key, Operation(part, edges if with_edges and counted(part).macs else ()))
    return Plan((Overhead(),), (), tuple(found.values())).without(())


def output_size(part: Part) -> Shape:
    """Channels, height and width of what a part returns, pooled or not."""
    s = part.site
    return (s.cout, -(-part.size[0] // s.stride), -(-part.size[1] // s.stride))


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

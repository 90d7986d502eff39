"""What in a measurement looks wrong: entries that a busy device or a mistake in the measuring leaves behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from hiernas.costs.tables import counted
from hiernas.latency.probes import Operation, Plan
from hiernas.latency.table import Entry

SPREAD, AT_LEAST_MS = 3.0, 0.01  # a 90th percentile above 3 times the tenth and another 0.01 ms
MORE_MACS, FASTER = 3.0, 0.5  # operations of one shape: 3 times the multiply-adds in half the time


def doubts(plan: Plan, entries: Mapping[str, Entry]) -> dict[str, str]:
    """What looks wrong, one sentence by the operation's key; empty where all look right."""
    known = [o for o in plan.operations if o.key in entries]
    by_shape: dict[object, list[Operation]] = defaultdict(list)
    for o in known:
        by_shape[(o.part.site.cin, o.part.site.cout, o.part.site.stride, o.part.size)].append(o)
    too_fast = {o.key: _too_fast(o, operations, entries) for operations in by_shape.values() for o in operations}
    found = {o.key: entry_doubt(o.key, entries[o.key]) or too_fast[o.key] for o in known}
    return {key: line for key, line in found.items() if line}


def entry_doubt(key: str, entry: Entry) -> str:
    """What looks wrong in one entry by itself, or ""."""
    if entry.p10_ms == 0:
        return f"'{key}' takes no time"
    if entry.p90_ms > SPREAD * entry.p10_ms + AT_LEAST_MS:
        return f"'{key}' takes {entry.p10_ms:.3g} to {entry.p90_ms:.3g} ms: the device was busy"
    return ""


def _too_fast(operation: Operation, others: Iterable[Operation], entries: Mapping[str, Entry]) -> str:
    macs, ms = counted(operation.part).macs, entries[operation.key].p10_ms
    slower = [
        o for o in others if 0 < MORE_MACS * counted(o.part).macs <= macs and 0 < ms < FASTER * entries[o.key].p10_ms
    ]
    if not slower:
        return ""
    worst = max(slower, key=lambda o: entries[o.key].p10_ms)
    return (
        f"'{operation.key}' has {macs / counted(worst.part).macs:.1f} times the multiply-adds of '{worst.key}' and takes "
        f"{ms / entries[worst.key].p10_ms:.2f} of its time"
    )

"""Two latency tables of one device become one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hiernas.errors import LatencyError
from hiernas.latency.table import LatencyTable, identity


@dataclass(frozen=True)
class Merged:
    """The table of both, and how many entries are the other's: new ones, and some that took the place of ours."""

    table: LatencyTable
    added: int
    replaced: int
    kept: int


def merge(mine: LatencyTable, other: LatencyTable) -> Merged:
    """Both tables' entries; where both have one, the one of more runs stays, and ours where they are equal.

    Overhead and correction stay ours. Raises `LatencyError` where device, runtime, version, threads or batch differ.
    """
    theirs = identity(other)
    for name, value in identity(mine).items():
        if theirs[name] != value:
            raise LatencyError(
                f"these tables cannot be merged: one was measured with {name} '{value}', the other with '{theirs[name]}'; "
                "keep a file for each"
            )
    added = [key for key in other.entries if key not in mine.entries]
    better = [k for k, e in other.entries.items() if k in mine.entries and e.runs > mine.entries[k].runs]
    entries = {**mine.entries, **{key: other.entries[key] for key in (*added, *better)}}
    kept = len(other.entries) - len(added) - len(better)
    return Merged(replace(mine, entries=entries), len(added), len(better), kept)

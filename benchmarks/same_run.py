"""What two runs must have in common to the bit, file by file."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from safetensors import SafetensorError, safe_open

PASSING = (".lock", "SHA256SUMS", "report.html", "seconds.json")  # differ by times of day and seconds, or are none of a run's


def facts(run: Path) -> dict[str, str]:
    """A digest of each file of a run, by its name; times of day and seconds are left out."""
    found = {}
    for path in run.rglob("*"):
        if path.name not in PASSING and not (path.is_dir() and path.name == "checkpoint"):
            try:
                found[str(path.relative_to(run))] = hashlib.sha256(content(path)).hexdigest()
            except (ValueError, SafetensorError, sqlite3.DatabaseError) as error:
                found[str(path.relative_to(run))] = f"damaged: {error}"
    return found


def content(path: Path) -> bytes:
    if path.is_dir():
        return b"folder"
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as f:
            values = {k: f.get_tensor(k) for k in sorted(f.keys())}
            shown = [(k, str(v.dtype), v.shape, v.tobytes()) for k, v in values.items()]
            return repr((shown, sorted((f.metadata() or {}).items()))).encode()
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as db:
            return repr(sorted(db.execute("SELECT * FROM candidates").fetchall())).encode()
    if path.name == "result.json":
        return json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}).encode()
    if path.name == "events.jsonl":
        events = [json.loads(line) for line in path.read_text().splitlines()]
        return repr(sorted({json.dumps({k: v for k, v in e.items() if k not in ("time", "run")}) for e in events})).encode()
    return path.read_bytes()


def differing(found: dict[str, str], whole: dict[str, str]) -> str:
    """Names of files that are other than they should be; "" where all are as they should be."""
    return ", ".join(sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name)))

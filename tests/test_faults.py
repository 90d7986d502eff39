"""The short form of `benchmarks/faults.py`: kills, a full disk and damage, by the tool and by a comparison of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from processes import Forked, script

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BEGIN = f"""
import sys
from pathlib import Path
sys.path.append({str(BENCHMARKS)!r})
import faults
from processes import undrawn
pages = undrawn()
pages.__enter__()
folder = Path("faults").resolve()
folder.mkdir()
faults.prepare(folder)
"""
KILLED = """
words = faults.asked(folder, "random-search")
tries = faults.Tries(folder, "random-search")
for i, (how, share) in enumerate([("before", 0.1), ("amid", 0.35), ("after", 0.6), ("full", 0.8), ("amid", 0.95)]):
    place = folder / str(i)
    place.mkdir()
    first = faults.command(place, *words, how=how, at=int(share * tries.operations))
    again = tries._on(place)
    print(first.code, again.code, faults.differing(faults.facts(place / "r"), tries.whole))
said = [tries.damaged_finished() for _ in range(4)]
print(*filter(None, said))
"""
BROKEN = """
import os
from hiernas.run import disk, folder as run_folder
def at_once(path, data):
    with open(path, "wb") as f:
        f.write(data)
disk.write_whole = run_folder.write_whole = at_once  # neither beside its place nor renamed
disk.Checksums.holds = lambda *_: True
tries = faults.Tries(folder, "plain")
tries.damages[tries.place] = [("r/result.json", "flipped"), ("r/best.safetensors", "zero tail")]
print(*(tries.damaged_finished() != "" for _ in range(2)))
place = folder / "cut"
place.mkdir()
failed = []
for i in range(2, 12):
    (place / str(i)).mkdir()
    faults.command(place / str(i), *tries.words, how="amid", at=i)
    failed += [tries._on(place / str(i)).code] if (place / str(i) / "r" / "config.yaml").exists() else []
    if 2 in failed:
        break
print(2 in failed)
"""


def lines(code: str) -> list[str]:
    """What a process prints that has done this after preparing."""
    ended, said, mistakes = Forked(script, BEGIN + code).ended()
    assert ended == 0, mistakes
    return said.splitlines()


def outcome(run: Path) -> dict[str, Any]:
    """What must be the same, read by this file."""
    result = json.loads((run / "result.json").read_text())
    weights = load_file(run / "best.safetensors")
    members = [(m["options"], m["val_accuracy"], m["latency_ms"]) for m in result["front"]]
    return {"weights": weights, "front": members, **result["chosen"], "evaluated": result["evaluated"]}


def test_what_is_killed_filled_or_damaged_ends_as_if_nothing_had_been() -> None:
    *codes, damaged = lines(KILLED)
    assert codes == ["-9 0 ", "-9 0 ", "-9 0 ", "2 0 ", "-9 0 "]
    assert damaged == ""
    runs = [outcome(path) for path in (Path("faults/random-search/whole/r"), *(Path(f"faults/{i}/r") for i in range(5)))]
    weights = [run.pop("weights") for run in runs]
    assert all(run == runs[0] for run in runs)
    assert all(torch.equal(value, other[name]) for other in weights for name, value in weights[0].items())
    assert len(weights[0]) > 20


def test_the_tool_sees_what_is_lost() -> None:
    """Without whole files and checksums, tries do not hold."""
    assert lines(BROKEN) == ["True True", "True"]

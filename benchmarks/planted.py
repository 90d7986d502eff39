"""Planted truths: how much of what can be shown to be right each method finds, beside what chance finds of it.

    python benchmarks/planted.py [SEEDS] [NAME ...]

What is planted is in `tests/planted_cells.py` and, for HNAS, `tests/planted.py`; HourNAS has `hournas_planted.py`. Rows are
appended to the dated result file as they come, and what it holds is not computed again; half a minute per seed on one idle
core. NAME: the beginning of what is to be measured.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common import dated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from planted_cells import PLANTED
from planted_hnas import of_hnas

EVERY = {**PLANTED, "hnas: options of two vital blocks": of_hnas}
HEAD = """# Planted truths

`python benchmarks/planted.py`, one thread. Each row: the share of the planted operations that a search found, and the share
by chance: of random networks of the space or, for masks, the share of all operations that they keep.

| what is planted | seed | found, % | by chance, % |
|---|---|---|---|
"""
ROW = re.compile(r"\| (.+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|")


def main(words: Sequence[str]) -> None:
    seeds, names = int(words[0]) if words else 5, words[1:]
    path = dated("planted")
    if not path.exists():
        path.write_text(HEAD)
    for seed in range(seeds):
        for name, measure in EVERY.items():
            if f"| {name} | {seed} |" in path.read_text() or (names and not name.startswith(tuple(names))):
                continue
            found, chance = measure(seed)
            line = f"| {name} | {seed} | {100 * found:.1f} | {100 * chance:.1f} |"
            with path.open("a") as file:  # others may be writing, too
                file.write(line + "\n")
            print(line, flush=True)
    summary(path.read_text())


def summary(text: str) -> None:
    """Mean and standard deviation over seeds, printed."""
    for name in EVERY:
        rows = np.array([[float(x) for x in m.groups()[2:]] for m in ROW.finditer(text) if m[1] == name])
        if len(rows) > 1:
            (found, chance), spread = rows.mean(0), rows.std(0, ddof=1)
            print(f"{name}: found {found:.0f} ± {spread[0]:.0f} %, by chance {chance:.0f} %, {len(rows)} seeds")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])

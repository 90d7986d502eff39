"""Planted truths: how much of what can be shown to be right each method finds, beside what chance finds of it.

    python benchmarks/planted.py [SEEDS] [NAME ...]

What is planted is in `tests/planted_cells.py` and, for HNAS, `tests/planted.py`; HourNAS has `hournas_planted.py`. Rows are
appended to the dated result file as they come, and what it holds is not computed again. NAME: the beginning of what is to be
measured.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import dated

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hiernas.methods.baselines import one_shot
from hiernas.methods.hnas import QUICK, hnas
from planted import residual_chain
from planted_cells import BY_HAND, TRUTHS, Measured, quick
from planted_hnas import CONFIG, of_hnas

PRESET = replace(QUICK, objective="macs", train=replace(QUICK.train, accelerator="cpu", augment="none"))
WORDS: dict[str, dict[str, Any]] = {
    "": {"predictor": "none"}, " with its predictor": {"predictor": "linear"},
    " with NASWOT and its predictor": {"predictor": "linear", "prior": "naswot"},
}  # fmt: skip
RESIDUAL = {"four residual blocks of four options": (4, 4), "eight residual blocks of two options": (8, 2)}  # 256 networks each
EVERY: dict[str, Callable[[int], Measured]] = {
    **{name: partial(measure, config=BY_HAND[method]) for name, (method, measure) in TRUTHS.items()},
    "hnas: options of two vital blocks": of_hnas,
    **{f"{name}, preset quick": partial(measure, config=quick(method)) for name, (method, measure) in TRUTHS.items()},
    **{
        f"{name}{words}: {what}{preset}": partial(
            of_hnas, make=residual_chain, sites=sites, options=options, method=method, config=replace(config, **way)
        )
        for what, (sites, options) in RESIDUAL.items()
        for preset, config in (("", CONFIG), (", preset quick", PRESET))
        for name, method in (("hnas", hnas), ("random-search", partial(one_shot, algorithm="random")))
        for words, way in WORDS.items()
    },
}
HEAD = """# Planted truths

`python benchmarks/planted.py`, one thread. Each row: the share of the planted operations that a search found, and the share
by chance: of random networks of the space or, for masks, the share of all operations that they keep. Undecided: the search
said that it had decided nothing, and the share is that of the control it handed over.

| what is planted | seed | found, % | by chance, % | undecided |
|---|---|---|---|---|
"""
ROW = re.compile(r"\| (.+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| (yes)? ?\|")


def main(words: Sequence[str]) -> None:
    seeds, names = int(words[0]) if words else 5, words[1:]
    path = dated("planted")
    if not path.exists():
        path.write_text(HEAD)
    for seed in range(seeds):
        for name, measure in EVERY.items():
            if f"| {name} | {seed} |" in path.read_text() or (names and not name.startswith(tuple(names))):
                continue
            found, chance, decided = measure(seed)
            line = f"| {name} | {seed} | {100 * found:.1f} | {100 * chance:.1f} | {'' if decided else 'yes '}|"
            with path.open("a") as file:  # others may be writing, too
                file.write(line + "\n")
            print(line, flush=True)
    summary(path.read_text())


def summary(text: str) -> None:
    """Mean and standard deviation over seeds, printed; over those that decided as well, where some did not."""
    for name in EVERY:
        rows = [m.groups() for m in ROW.finditer(text) if m[1] == name]
        decided = [row for row in rows if not row[4]]
        for what, some in ((name, rows), (f"{name}, those that decided", decided if len(decided) < len(rows) else [])):
            if len(some) > 1:
                print(f"{what}: {_said(some)}")


def _said(rows: Sequence[Sequence[str]]) -> str:
    values = np.array([[float(x) for x in row[2:4]] for row in rows])
    (found, chance), spread = values.mean(0), values.std(0, ddof=1)
    return f"found {found:.0f} ± {spread[0]:.0f} %, by chance {chance:.0f} %, {len(rows)} seeds"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])

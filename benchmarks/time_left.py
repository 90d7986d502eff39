"""The time left that is shown during a search against the time that it then took.

    python benchmarks/time_left.py [METHODS [SEEDS [SETTINGS...]]]      # hnas,darts,hournas 1

Digits, preset quick. At a tenth, a quarter, a half and three quarters of each search: the end that is foretold by then over
its true one, both counted from its first event. Rows are appended to today's result file.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from common import dated
from hiernas.cli.progress import Display
from hiernas.run.request import Request
from hiernas.run.search import search

LIMIT, SHARES = "params<=80k", (0.1, 0.25, 0.5, 0.75)
HEAD = f"""# Time left, as it is shown

`python benchmarks/time_left.py`, digits, preset quick, {LIMIT}, one thread on {os.cpu_count()} cores that other work shares.
End that is foretold at a share of the search, over its true end; load: mean number of processes that want a core, before and
after.

| method | seed | settings | took, s | {" | ".join(f"at {share:.0%}" for share in SHARES)} | load |
|---|---|---|---|{"---|" * len(SHARES)}---|
"""


def told(method: str, seed: int, settings: tuple[str, ...], folder: Path) -> tuple[float, list[float | None]]:
    """Seconds of a search, and at each share of them the end that was foretold, over them; None where none was."""
    display, told = Display(Console(file=io.StringIO())), list[tuple[float, float | None]]()

    def listener(event: Mapping[str, Any]) -> None:
        display(event)
        told.append((time.monotonic(), display.ends))

    search(Request(method, limits=(LIMIT,), settings=settings, seed=seed), folder, listener)
    start, end = told[0][0], time.monotonic()
    ends = [[ends for at, ends in told if at <= start + share * (end - start)][-1] for share in SHARES]
    return end - start, [None if each is None else (each - start) / (end - start) for each in ends]


def main() -> None:
    methods, seeds = (*sys.argv[1:3], *("hnas,darts,hournas", "1")[len(sys.argv[1:3]) :])
    settings, path = tuple(sys.argv[3:]), dated("time_left")
    if not path.exists():
        path.write_text(HEAD)
    for seed in range(int(seeds)):
        for method in methods.split(","):
            load = os.getloadavg()[0]
            with tempfile.TemporaryDirectory() as folder:
                taken, ends = told(method, seed, settings, Path(folder) / "run")
            shown = " | ".join("none" if each is None else f"{each:.2f}" for each in ends)
            words = " ".join(settings) or "as in the preset"
            line = f"| {method} | {seed} | {words} | {taken:.0f} | {shown} | {load:.1f}, {os.getloadavg()[0]:.1f} |"
            print(line, flush=True)
            with path.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()

"""Searches of digits within a time: what was asked and foretold against what it took.

    python benchmarks/time_budget.py [METHODS [TIME [SEEDS]]]      # hnas,hournas,darts 2m 1

Each is a command of its own, timed from outside. Rows are appended to today's result file, with the load of the machine (the
mean number of processes that want a core) before and after: a plan is made for the machine as busy as it was at the start.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import dated
from hiernas.commands import seconds_of
from hiernas.run.folder import RunFolder

LIMIT = "params<=80k"
HEAD = f"""# Searches within a time

`python benchmarks/time_budget.py`, digits, preset quick, {LIMIT}, one thread on {os.cpu_count()} cores that other work shares.
Foretold and taken: the phases of the search and the final training, in seconds; factor: foretold over taken. Load: mean number
of processes that want a core, before and after.

| method | seed | asked, s | taken, s | taken / asked | foretold | taken | factor | load |
|---|---|---|---|---|---|---|---|---|
"""


def seconds(text: str) -> float:
    """Of "9.5 s" or "2 min"."""
    number, unit = text.split()
    return float(number) * (60 if unit == "min" else 1)


def row(method: str, asked: str, seed: int, folder: Path) -> str:
    command = [sys.executable, "-m", "hiernas", "search", method, "--limit", LIMIT, "--time", asked, "--seed", str(seed)]
    load, start = os.getloadavg()[0], time.monotonic()
    subprocess.run([*command, "--out", folder], check=True, stdout=subprocess.DEVNULL)
    taken, run = time.monotonic() - start, RunFolder.open(folder)
    plan = run.config["timed"].partition(" are over, then ")[2]
    foretold = {name: seconds(f"{n} {unit}") for name, n, unit in re.findall(r"(\w+)\s([\d.]+)\s(s|min)", plan)}
    spent = run.seconds()
    phases = [name for name in foretold if name in spent]
    sums = [sum(values[name] for name in phases) for values in (foretold, spent)]
    told = [", ".join(f"{name} {values[name]:.0f}" for name in phases) for values in (foretold, spent)]
    target = seconds_of(asked) or 0.0
    return (
        f"| {method} | {seed} | {target:.0f} | {taken:.0f} | {taken / target:.2f} | {told[0]} | {told[1]} | "
        f"{sums[0] / sums[1]:.2f} | {load:.1f}, {os.getloadavg()[0]:.1f} |"
    )


def main() -> None:
    methods, asked, seeds = (*sys.argv[1:], *("hnas,hournas,darts", "2m", "1")[len(sys.argv) - 1 :])
    path = dated("time_budget")
    if not path.exists():
        path.write_text(HEAD)
    for seed in range(int(seeds)):
        for method in methods.split(","):
            with tempfile.TemporaryDirectory() as folder:
                line = row(method, asked, seed, Path(folder) / "run")
            print(line, flush=True)
            with path.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()

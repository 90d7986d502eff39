"""Every method on digits under two limits, with the preset `quick`; in some of the spaces these rule nothing out.

    python benchmarks/digits_all.py [SEEDS] [FOLDER] [METHOD ...]

Each row is appended to the dated result file as its run ends, and FOLDER keeps the runs, so that what was cut off goes on.
Settings were chosen on validation images with seed 0; seeds 1 and 2 are the confirmation.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common import dated
from hiernas.run.request import Request
from hiernas.run.search import resume, search

METHODS = (
    "hdas-stages", "darts", "hmnas", "hdas", "hdas-cells", "hdas-distribution", "spos", "random-search", "hnas", "hournas",
)  # fmt: skip
SETTINGS = {"hmnas": ("compare=false",)}  # leaves the network that is handed over as it is, and three trainings out
LIMITS = ("params<=120k", "macs<=6M")
HEAD = """# Every method on digits, preset quick, params <= 120k and macs <= 6M

`python benchmarks/digits_all.py`, one thread. 359 test images: one is 0.28 %. Supernet: accuracy on the validation images at
the end of the search, of each level of `hdas`; of methods in chains, the chosen network's with the supernet's weights.
Entropy: of the logits, in shares of that of equal ones. Undecided: searches that say of themselves that they decided
nothing. The presets' settings were chosen on validation images with seed 0; seeds 1 and 2 confirm.

| method | seed | test accuracy, % | supernet, % | entropy | params | MACs | seconds | undecided | other doubts |
|---|---|---|---|---|---|---|---|---|---|
"""


def result_of(method: str, seed: int, folder: Path) -> dict[str, Any]:
    """result.json of one run, finished or taken up where it was."""
    path = folder / f"{method}-{seed}"
    if not (path / "result.json").exists():
        if (path / "config.yaml").exists():
            resume(path)
        else:
            search(Request(method, data="digits", limits=LIMITS, settings=SETTINGS.get(method, ()), seed=seed), path)
    return dict(json.loads((path / "result.json").read_text()))


def row(method: str, seed: int, result: dict[str, Any]) -> str:
    chosen, decided = result["chosen"], (result["details"].get("decided") or {}).values()
    supernet = [100 * v["accuracy"] for v in decided] or [100 * chosen["val_accuracy"]]
    undecided = sum("has decided nothing" in doubt for doubt in result["doubts"])
    cells = [
        method, str(seed), f"{100 * chosen['test_accuracy']:.2f}", ", ".join(f"{a:.1f}" for a in supernet),
        ", ".join(f"{1 - v['separated']:.2f}" for v in decided) or "-", f"{chosen['params'] / 1e3:.1f} k",
        f"{chosen['macs'] / 1e6:.2f} M", f"{sum(result['seconds'].values()):.0f}", str(undecided),
        str(len(result["doubts"]) - undecided),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(words: Sequence[str]) -> None:
    seeds = int(words[0]) if words else 3
    folder = Path(words[1] if len(words) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    path = dated("digits_all")
    if not path.exists():
        path.write_text(HEAD)
    for method in words[2:] or METHODS:
        for seed in range(seeds):
            if f"| {method} | {seed} |" not in path.read_text():
                line = row(method, seed, result_of(method, seed, folder))
                with path.open("a") as file:  # others may be writing, too
                    file.write(line + "\n")
                print(line, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])

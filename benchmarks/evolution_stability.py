"""Fig. 7 of HNAS: how stable the operation frequencies of the constrained search are, against SPOS' and random search.

    python benchmarks/evolution_stability.py

On NAS-Bench-Macro, whose 6561 trained accuracies stand in for the supernet's: the space is real, the accuracies are
real, only the supernet's error is absent. Each algorithm runs with ten seeds and the same number of evaluations.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from common import write
from hiernas import spaces
from hiernas.budget import Limit
from hiernas.costs.limits import satisfied
from hiernas.costs.tables import cost_tables
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.search.evolution import evolve
from hiernas.search.ranking import operation_frequency
from hiernas.space import Architecture

RECORDS = Path(__file__).resolve().parents[2] / "shared" / "data" / "nas-bench-macro" / "nas-bench-macro_cifar10.json"
SPACE = spaces.nasbench_macro()
LIMITS = (Limit("macs", 40e6, 70e6),)
EFFORT = {"population": 32, "generations": 15}
SEEDS = 10


def main() -> None:
    records = {k: v["mean_acc"] / 100 for k, v in json.loads(RECORDS.read_text()).items()}
    tables = cost_tables(SPACE, None)
    everything = np.array([[int(c) for c in k] for k in records])
    feasible = everything[satisfied(tables, LIMITS, everything)]
    best = max(records["".join(map(str, g))] for g in feasible)

    def accuracy(architectures: Sequence[Architecture]) -> list[float]:
        return [records["".join(map(str, SPACE.encode(a)))] for a in architectures]

    rows = []
    for name in ("ces", "spos", "random"):
        shares, regrets, entropies = [], [], []
        for seed in range(SEEDS):
            with tempfile.TemporaryDirectory() as folder:
                run = RunFolder.create(Path(folder) / "r", {})
                problem = make_problem(SPACE, None, LIMITS, None, run, seed)  # type: ignore[arg-type] # without data
                found = evolve(SPACE, accuracy, problem, "p", SimpleNamespace(evolution=name, objective="macs", **EFFORT))
            p = operation_frequency(found, SPACE, "macs", 10)
            flat = np.array([v for site in p.values() for v in site.values()])
            shares.append(flat)
            regrets.append(best - max(c.val_accuracy for c in found))
            entropies.append(float(-(flat * np.log2(np.maximum(flat, 1e-12))).sum() / len(p)))
        spread = np.std(shares, axis=0, ddof=1).mean()
        pruned = float(np.mean([(s < 0.01).sum() for s in shares]))
        rows.append(
            f"| {name} | {spread:.4f} | {np.mean(entropies):.3f} ± {np.std(entropies, ddof=1):.3f} | {pruned:.1f} | "
            f"{100 * np.mean(regrets):.3f} ± {100 * np.std(regrets, ddof=1):.3f} |"
        )
    evaluations = EFFORT["population"] * (EFFORT["generations"] + 1)
    lines = [
        f"{SEEDS} seeds, {evaluations} evaluations each, {LIMITS[0]} ({len(feasible)} of 6561 architectures, best {best:.4f}).",
        "Frequencies are of ranks 1 to 9.", "",
        "| search | spread of a frequency over seeds (mean std) | entropy per layer, bits (of 1.585) | "
        "options below 1 % (of 24) | regret of the best found, % points |",
        "|---|---|---|---|---|", *rows,
    ]  # fmt: skip
    write("evolution_stability", "Stability of the operation frequencies (HNAS Fig. 7)", lines)


if __name__ == "__main__":
    main()

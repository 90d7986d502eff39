"""A study with real trainings on CIFAR-10 in NAS-Bench-Macro's space: searches against controls, beside the benchmark's table.

    python benchmarks/cifar10_study.py STUDY [DATA [SEEDS [JOBS]]]

DATA: CIFAR-10 as a folder of parquet files. Without it nothing is run: the table is written of the runs that are there. On one
large GPU 14 processes side by side (JOBS, with CUDA MPS) do three seeds in 8 minutes; a study that was cut off goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import write
from hiernas.commands.compare import summarised
from hiernas.report.study import Row, differences, labels_of
from hiernas.run.folder import RunFolder
from hiernas.run.study import begin, entries_of, spread
from nas_bench_macro import Benchmark

LIMIT, MACS, EPOCHS = "macs<=45.5M", 45.5e6, 12
SUPERNET = f"stages=2+epochs=[{EPOCHS}]"
METHODS = (
    f"hnas=hnas:{SUPERNET}+predictor=none,full=hnas:{SUPERNET}+prior=naswot+predictor=linear+finalists=5,"
    f"hournas=hournas:vital_epochs={EPOCHS // 4}+epochs={EPOCHS - EPOCHS // 4},naswot,random-k,random,plain"
)
SETTINGS = (
    f"final_epochs={EPOCHS}", "lr=0.3", "final_lr=0.4",
    "train.batch_size=256", "train.precision=bf16-mixed", "train.warmup_epochs=1",
)  # fmt: skip
RUNS = "| | seeds | test accuracy, % | mean | minutes of search | regret by the benchmark | mean |"
PAIRS = "| | over | pairs | points (95 % interval) | relative |"


def do(path: Path, data: str, seeds: int, jobs: int) -> None:
    request = {"data": data, "val_per_class": 500, "preset": "small", "settings": SETTINGS}
    spread(begin(path, entries_of(METHODS, "nasbench_macro"), [LIMIT], seeds, request), jobs, "loky")


def regret(bench: Benchmark, row: Row) -> float:
    """Of the network of a run, by the benchmark's trainings."""
    sites = RunFolder.open(row.folder).read_json("best.json")["sites"]
    return bench.regret(MACS, [bench.row[tuple(sites.values())]])


def lines(rows: Sequence[Row]) -> list[str]:
    bench, found = Benchmark(), []
    for label in labels_of(rows):
        of = sorted((r for r in rows if r.label == label), key=lambda r: r.seed)
        accuracies, regrets = [100 * r.test_accuracy for r in of], [regret(bench, r) for r in of]
        spread_of = f" ± {np.std(accuracies, ddof=1):.2f}" if len(of) > 1 else ""
        each, looked_up = (", ".join(f"{x:.2f}" for x in values) for values in (accuracies, regrets))
        seeds = ", ".join(str(r.seed) for r in of)
        mean = f"{np.mean(accuracies):.2f}{spread_of}"
        minutes = np.mean([r.search_seconds for r in of]) / 60
        found.append(f"| {label} | {seeds} | {each} | {mean} | {minutes:.1f} | {looked_up} | {np.mean(regrets):.2f} |")
    pairs = [f"| {d.label} | {d.other} | {d.pairs} | {d} | {d.relative:+.1f} % |" for d in differences(rows)]
    return [RUNS, "|---" * 7 + "|", *found, "", PAIRS, "|---" * 5 + "|", *pairs]


def main(words: Sequence[str]) -> None:
    path = Path(words[0])
    if len(words) > 1:
        do(path, str(Path(words[1]).resolve()), *(int(n) for n in (*words[2:], *(3, 1)[len(words) - 2 :])))
    rows = summarised(path).rows
    devices = {RunFolder.open(r.folder).config["environment"]["device"] for r in rows}
    head = (
        f"Trained on {'; '.join(sorted(devices))}. Test accuracies after {EPOCHS} epochs of 50,000 images from scratch, "
        f"{LIMIT}; supernets have {EPOCHS} epochs of 45,000. Regret: points below the best network within the limit, by the "
        "benchmark's own three trainings of each network. Chance, exact: 4.31."
    )
    write("cifar10_study", "Real trainings on CIFAR-10", [head, "", *lines(rows)], "cifar10_study.py STUDY")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Whether latencies hold that whole networks corrected (`search --calibrate N`): networks just within a limit, measured.

    python benchmarks/calibrated.py [--networks 12] [--seeds 3] [--taken 6] [SPACE ...]

For each space and seed a table is measured anew, and corrected by N whole networks. A limit lies in the middle of what others
take. Then, as a search would, networks are drawn that are predicted to take 85 to 100 % of it, by the table as it is and by the
corrected one, and measured whole. `subsets`: networks that keep any number of operations, as HM-NAS finds them. Ten minutes a
seed on two cores.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from common import dated
from hiernas.costs.tables import cost_tables
from hiernas.latency.calibrate import _as_trained, calibrate, corrected, measured_whole
from hiernas.latency.measure import measure_table
from hiernas.latency.runtimes import make_runtime
from hiernas.space import SearchSpace
from hiernas.spaces import space_function
from hiernas.subsets import subsets

SPACES = ("tiny", "tiny32", "darts", "subsets", "hdas_stages")
HEAD = """# Limits on latencies that whole networks corrected

`python benchmarks/calibrated.py`, ONNX Runtime, one thread, on 2 cores beside other work. Of networks
that are predicted to take 85 to 100 % of the limit (none: of 5,000 that were drawn, none is):

| space | seed | networks | correction took, s | predicted by | mean error, % | bias, % | above the limit | limit, ms |
|---|---|---|---|---|---|---|---|---|
"""


def space_of(name: str) -> SearchSpace:
    size = (3, 32, 32) if name == "tiny32" else (1, 8, 8)
    if name.startswith("tiny"):
        return space_function("tiny", {})(input_size=size, num_classes=10)
    if name == "hdas_stages":
        return space_function("hdas_stages", {})(input_size=size, num_classes=10, channels=4, cells=8)
    cells = space_function("darts", {"channels": 4, "cells": 3})(input_size=size, num_classes=10, channels=4, cells=3)
    return subsets(cells) if name == "subsets" else cells


def near(space: SearchSpace, table: object, limit: float, taken: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Genes of different networks that are predicted to take 85 to 100 % of the limit."""
    genes = np.unique(space.sample_encoded(rng, 5000), axis=0)
    predicted = cost_tables(space, table)["latency_ms"].of(genes)
    within = np.flatnonzero((predicted <= limit) & (predicted >= 0.85 * limit))
    return list(genes[rng.permutation(within)[:taken]])


def rows(name: str, seed: int, networks: int, taken: int) -> list[str]:
    space, engine = space_of(name), make_runtime("onnxruntime", 1)
    single = space_of("darts") if name == "subsets" else space
    with TemporaryDirectory() as folder:
        for each in dict.fromkeys((single, space)):
            table = measure_table(each, engine, Path(folder) / "table.json", None)
    before = time.perf_counter()
    better, said = corrected(single, space, table, engine, networks, np.random.default_rng(seed), lambda *_: None)
    seconds = time.perf_counter() - before
    print(name, seed, said, flush=True)
    measured = calibrate(space, table, engine, 8, np.random.default_rng(1000 + seed), even=True).measured_ms
    limit, rng = float(np.median(measured)), np.random.default_rng(2000 + seed)
    chosen = {"sum": near(space, table, limit, taken, rng), "corrected": near(space, better, limit, taken, rng)}
    builds = {f"{way} {i}": partial(_as_trained, space.decode(g)) for way, some in chosen.items() for i, g in enumerate(some)}
    took = {key: entry.p10_ms for key, entry in measured_whole(builds, space.skeleton.input_size, engine)}
    lines = []
    for way, by in (("sum", table), ("corrected", better)):
        some = chosen[way]
        real = np.array([took[f"{way} {i}"] for i in range(len(some))])
        if not some:
            means, above = "- | -", "none"
        else:
            errors = 100 * (cost_tables(space, by)["latency_ms"].of(np.array(some)) / real - 1)
            means, above = f"{np.abs(errors).mean():.1f} | {errors.mean():+.1f}", f"{int((real > limit).sum())} of {len(some)}"
        lines.append(f"| {name} | {seed} | {networks} | {seconds:.0f} | {way} | {means} | {above} | {limit:.3g} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spaces", nargs="*", default=list(SPACES))
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--taken", type=int, default=6)
    asked = parser.parse_args()
    path = dated("calibrated")
    if not path.exists():
        path.write_text(HEAD)
    for seed in range(asked.seeds):
        for name in asked.spaces:
            if f"| {name} | {seed} | {asked.networks} |" in path.read_text():
                continue
            with path.open("a") as file:
                for line in rows(name, seed, asked.networks, asked.taken):
                    file.write(line + "\n")
                    print(line, flush=True)


if __name__ == "__main__":
    main()

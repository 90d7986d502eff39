"""Latencies of networks of cells, predicted by tables against measured, with and without sums and concatenations.

    python benchmarks/cell_latency.py [NETWORKS]

Random networks at 32 pixels, 8 channels, ONNX Runtime, one thread: of DARTS' space, of stage graphs, and of sets of several
operations per edge as HM-NAS finds them. About two minutes on an idle machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from common import write
from hiernas.errors import SpaceError
from hiernas.latency import LatencyTable, predict_ms
from hiernas.latency.calibrate import measured_whole
from hiernas.latency.measure import cached_table_path, measure_table
from hiernas.latency.runtimes import make_runtime
from hiernas.methods.hmnas.encoding import Encoding
from hiernas.networks.cell_ops import Concat, Sum
from hiernas.randomness import numpy_generator
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import darts, hdas_stages
from hiernas.subsets import subsets

SPACES = {"darts": darts(channels=8, cells=5), "stage graphs": hdas_stages(channels=8, cells=14)}
POOLED = darts(channels=8, cells=5, pool_bn=True)


class WithoutJoins:
    """A table that knows of no sums and concatenations."""

    def __init__(self, table: LatencyTable) -> None:
        self.table, self.overhead_ms = table, table.overhead_ms

    def part_ms(self, part: Any) -> float:
        return 0.0 if isinstance(part.op, Sum | Concat) else self.table.part_ms(part)


def drawn(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """A random network that keeps 15 to 50 % of all operations of its edges, all of the same importance before shares."""
    encoding, pairs = Encoding(space), subsets(space)
    while True:
        genes = rng.random(len(pairs.decisions)) < rng.uniform(0.15, 0.5)
        try:
            pairs.decode(genes.astype(int))
        except SpaceError:  # a node without an edge
            continue
        kept = torch.split(torch.from_numpy(genes).float(), [len(options) for options in encoding.options])
        alphas = [torch.zeros(len(d.options)) for d in space.decisions]
        betas = [torch.zeros(len(sites)) for sites in encoding.nodes]
        return encoding.architecture(encoding.shares(alphas, betas, None, kept))


def rows(name: str, space: SearchSpace, draw: Callable[[], Architecture], networks: int) -> list[str]:
    """Errors of the predictions with and without joins, and the measured range."""
    runtime = make_runtime("onnxruntime", 1)
    table = measure_table(space, runtime, cached_table_path(runtime))
    found = [draw() for _ in range(networks)]
    builds = {str(i): a.build for i, a in enumerate(found)}
    measured = np.array([entry.p10_ms for _, entry in measured_whole(builds, (3, 32, 32), runtime)])
    lines = []
    for label, source in (("with", table), ("without", WithoutJoins(table))):
        predicted = np.array([predict_ms(source, a) for a in found])  # type: ignore[arg-type] # all that it asks for
        error = 100 * (predicted - measured) / measured
        ranks = spearmanr(predicted, measured).statistic
        lines.append(
            f"| {name} | {label} | {np.abs(error).mean():.1f} | {error.mean():+.1f} | {ranks:.3f} | {measured.min():.2f} to "
            f"{measured.max():.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    networks = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rng, load = numpy_generator(0, "cells"), os.getloadavg()[0]
    found = [line for name, space in SPACES.items() for line in rows(name, space, lambda s=space: s.sample(rng), networks)]
    found += rows("several operations", subsets(POOLED), lambda: drawn(POOLED, rng), networks)
    lines = [
        f"{networks} random networks each; load {load:.1f} on {os.cpu_count()} cores at first. Errors of tenth percentiles.",
        "",
        "| networks | joins | mean absolute error | bias | Spearman | measured, ms |", "|---|---|---|---|---|---|", *found,
    ]  # fmt: skip
    write("cell_latency", "Latencies of networks of cells", lines)


if __name__ == "__main__":
    main()

"""How far the sum of a table's entries is from whole networks of a space, and the correction that follows.

The networks are measured in three passes and three looks, and count with the same percentile as operations. Half of them
fit `measured = constant + scale * sum`, by least squares on the relative error; the other half says what the correction is
worth.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hiernas.costs.tables import cost_tables
from hiernas.errors import LatencyError, validated
from hiernas.latency import Correction, Entry, LatencyTable
from hiernas.latency.measure import Probe, Progress, cached_table_path, identity, locked, plan_of, title
from hiernas.latency.runner import Batch, by_looks, share, write
from hiernas.latency.runtimes import Runtime
from hiernas.randomness import numpy_generator
from hiernas.space import Architecture, SearchSpace

FEWEST = 8  # networks; half of them must tell a line
RUNS, LOOKS, APART, WARMUP = 34, 3, 1.0, 10  # of whole networks: a look's runs, at least; looks, at least so many seconds apart
NO_BETTER = 0.1  # percent that the corrected error may be above the other before it counts as worse
DRAWN = 50  # random networks per network, of which an even choice picks those that spread over the latencies


@dataclass(frozen=True)
class Errors:
    """Predicted against measured latencies: percent of the measured one, and Spearman's rank correlation."""

    networks: int
    mean_absolute_percent: float
    bias_percent: float
    spearman: float

    def __str__(self) -> str:
        error, bias = self.mean_absolute_percent, self.bias_percent
        return f"mean absolute error {error:.2f} %, bias {bias:+.2f} %, Spearman {self.spearman:.4f}"


@dataclass(frozen=True)
class Calibration:
    """Networks of a space with the table's raw sums and their latencies; every second one fitted the correction."""

    table: LatencyTable  # without a correction
    architectures: tuple[Architecture, ...]
    sums_ms: np.ndarray  # float64 [networks]
    entries: tuple[Entry, ...]
    correction: Correction | None  # None: measured latencies do not grow with the sums

    @property
    def measured_ms(self) -> np.ndarray:
        """A network counts with the tenth percentile of its runs, as an operation does: float64 [networks]."""
        return np.array([entry.p10_ms for entry in self.entries])

    def errors(self, corrected: bool) -> Errors:
        """Errors of the networks that did not fit the correction, with it or without."""
        sums = self.sums_ms[1::2]
        if corrected and self.correction is not None:
            sums = self.correction.of(sums)
        return errors_of(sums, self.measured_ms[1::2])

    def all_errors(self) -> Errors:
        """Errors of the sums alone, over all networks."""
        return errors_of(self.sums_ms, self.measured_ms)

    def corrected_table(self) -> LatencyTable:
        """The table with the correction; raises `LatencyError` where there is none, or it makes matters worse."""
        if self.correction is None:
            raise LatencyError(
                "there is no correction to store: the measured latencies do not grow with the predicted ones; calibrate "
                "again on an idle device, with more networks"
            )
        worse, as_is = (self.errors(corrected).mean_absolute_percent for corrected in (True, False))
        if worse > as_is + NO_BETTER:
            raise LatencyError(
                f"the correction is not stored: over networks that it has not seen, its error is {worse:.2f} %, and "
                f"{as_is:.2f} % without it; calibrate again on an idle device, with more networks"
            )
        return replace(self.table, correction=self.correction)

    def to_json(self) -> dict[str, Any]:
        """All numbers, as plain values."""
        rows = zip(self.architectures, self.sums_ms, self.entries, strict=True)
        return {
            "kind": "hiernas latency calibration, format 1",
            **identity(self.table),
            "correction": None if self.correction is None else asdict(self.correction),
            "fitted": {"networks": "every second one, from the first", "by": "least squares on the relative error"},
            "errors": {
                "sum, all networks": asdict(self.all_errors()),
                "sum, networks that did not fit": asdict(self.errors(corrected=False)),
                "corrected, networks that did not fit": asdict(self.errors(corrected=True)),
            },
            "networks": [{"options": list(a.options), "sum_ms": float(s), **asdict(e)} for a, s, e in rows],
        }


def calibrate(
    space: SearchSpace, table: LatencyTable, runtime: Runtime, n: int, rng: np.random.Generator,
    even: bool = False, on_progress: Progress | None = None, among: SearchSpace | None = None,
) -> Calibration:  # fmt: skip
    """Measure `n` random networks of a space and compare them with the table, which must hold all of it.

    They are uniform over the space or, where `even`, spread evenly over the latencies that random networks have: for
    limits far from the typical network. `among`: half of them are of this space, where networks of both are found (HM-NAS').
    A correction that the table has is put aside. Raises `LatencyError` for fewer than 8 networks.
    """
    table = replace(table, correction=None)
    spaces = dict.fromkeys((space, among or space))
    drawn = [sample(each, table, -(-n // len(spaces)), rng, even) for each in spaces]
    pairs = zip(*(some[i::2] for some in drawn for i in (0, 1)), strict=False) if len(spaces) > 1 else drawn
    architectures = [a for some in pairs for a in some]  # every second one of each space fits
    if len(architectures) < FEWEST:
        different = f"{len(architectures)} different networks of '{space.name}'"
        raise LatencyError(f"{different} tell too little; calibrate with at least {FEWEST}")
    entries: list[Entry] = []
    networks = {str(i): partial(_as_trained, a) for i, a in enumerate(architectures)}
    for _, entry in measured_whole(networks, space.skeleton.input_size, runtime):
        entries.append(entry)
        if on_progress is not None:
            on_progress(len(entries), len(architectures), " ".join(architectures[len(entries) - 1].options))
    sums = np.array([table.predict(a) for a in architectures])
    fitted, measured = sums[::2], np.array([entry.p10_ms for entry in entries[::2]])
    constant, scale = fit(fitted, measured)
    fastest = min(cost_tables(each, table)["latency_ms"].smallest for each in spaces)
    if scale > 0 and constant + scale * fastest <= 0:  # it would take no time at all
        constant, scale = 0.0, float((fitted / measured).sum() / ((fitted / measured) ** 2).sum())
    correction = Correction(constant, scale, len(fitted), title(space)) if scale > 0 else None
    return Calibration(table, tuple(architectures), sums, tuple(entries), correction)


@dataclass(frozen=True)
class Kept:
    """A correction as it is kept beside the table: what it is worth, in words, and the day of its measurement."""

    correction: Correction
    said: str
    day: str


def corrected(
    space: SearchSpace, among: SearchSpace, table: LatencyTable, runtime: Runtime, n: int, on_progress: Progress
) -> tuple[LatencyTable, str]:
    """This device's table as `n` networks, spread evenly over the latencies, correct it, and what that is worth, in words.

    As it was, and why, where a correction makes no sense or nothing better. A correction is kept in the cache folder and holds
    for these spaces as long as their operations' entries stay: a check, a search and all runs of a study go by the same one.
    """
    path = _kept_at(space, among, table, runtime, n)
    with locked(path):  # whoever comes second waits and has it, too
        with suppress(OSError, ValueError, LatencyError):  # none, or a damaged one
            kept: Kept = validated(Kept, path.read_text(), path, LatencyError)
            return replace(table, correction=kept.correction), f"{kept.said}, measured on {kept.day}"
        try:
            rng = numpy_generator(0, "calibrate")
            found = calibrate(space, table, runtime, n, rng, even=True, on_progress=on_progress, among=among)
            better = found.corrected_table()
        except LatencyError as error:
            return table, f"latencies are not corrected: {error}"
        before, after = (found.errors(way) for way in (False, True))
        errors = f"mean error {before.mean_absolute_percent:.1f} -> {after.mean_absolute_percent:.1f} %"
        said = f"latencies are corrected ({better.correction}): {errors} over {after.networks} other whole networks"
        assert better.correction is not None
        write(path, asdict(Kept(better.correction, said, date.today().isoformat())))
    return better, said


def measured_whole(
    networks: Mapping[str, Callable[[], nn.Module]], input_size: tuple[int, int, int], runtime: Runtime
) -> Iterator[tuple[str, Entry]]:
    """Latencies of whole networks by name, each as soon as it is known; the look at which it was lowest counts.

    Each runs alone, and finds its own weights in the caches, not another's.
    """
    probes, seen = [Probe(key, input_size, build) for key, build in networks.items()], Counter[str]()
    shares = [share(p.taken(runtime.batch), runtime.threads) for p in probes]
    loaders = [{p.key: partial(p.load, runtime)} for p in probes]
    batches = [Batch(each, RUNS, WARMUP, taken) for each, taken in zip(loaders, shares, strict=True)]
    with torch.random.fork_rng(devices=[]):
        for ((key, row),) in map(dict.items, by_looks(batches, 1, LOOKS, APART)):
            seen[key] += 1
            if seen[key] == LOOKS:
                yield key, Entry(**row)


def sample(space: SearchSpace, table: LatencyTable, n: int, rng: np.random.Generator, even: bool) -> list[Architecture]:
    """Different random architectures in random order; fewer than `n` where the space is too small.

    Where `even`, those nearest to even steps from the smallest to the largest predicted latency.
    """
    drawn = space.sample_encoded(rng, DRAWN * n)
    genes = drawn[np.sort(np.unique(drawn, axis=0, return_index=True)[1])]  # different ones, in the order they were drawn
    if even:
        latency = cost_tables(space, table)["latency_ms"].of(genes)
        left, chosen = np.ones(len(genes), dtype=bool), []
        for target in rng.permutation(np.linspace(latency.min(), latency.max(), min(n, len(genes)))):
            chosen.append(int(np.argmin(np.where(left, np.abs(latency - target), np.inf))))
            left[chosen[-1]] = False
        genes = genes[chosen]
    return [space.decode(row) for row in genes[:n]]


def fit(sums_ms: np.ndarray, measured_ms: np.ndarray) -> tuple[float, float]:
    """Constant and scale that make the sum of ((constant + scale * sum) / measured - 1)^2 least."""
    rows = np.stack([1 / measured_ms, sums_ms / measured_ms], axis=1)
    constant, scale = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
    return float(constant), float(scale)


def errors_of(predicted_ms: np.ndarray, measured_ms: np.ndarray) -> Errors:
    """Errors of predictions; Spearman's correlation is 0 where either side is constant."""
    from scipy.stats import spearmanr

    relative = 100 * (predicted_ms / measured_ms - 1)
    varies = np.ptp(predicted_ms) > 0 and np.ptp(measured_ms) > 0
    spearman = float(spearmanr(predicted_ms, measured_ms).statistic) if varies else 0.0
    return Errors(len(relative), float(np.abs(relative).mean()), float(relative.mean()), spearman)


def _as_trained(architecture: Architecture) -> nn.Module:
    """A network without scales of 0, which residual branches start with: a runtime might leave those out."""
    network = architecture.build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.ones_(module.weight)
    return network


def _kept_at(space: SearchSpace, among: SearchSpace, table: LatencyTable, runtime: Runtime, n: int) -> Path:
    """Where the correction of a table by `n` networks of these spaces is kept: another name if any of it is another."""
    told: list[Any] = [identity(table), n, table.raw_overhead_ms]
    for each in dict.fromkeys((space, among)):
        keys = [item.key for item in plan_of(each, runtime.inner_layout).operations]
        options = [(d.name, d.options) for d in each.decisions]
        told.append((title(each), options, [(key, table.entries[key].p10_ms) for key in keys if key in table.entries]))
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    return cached_table_path(runtime).with_suffix(f".corrected-{digest}.json")

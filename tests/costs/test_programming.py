"""The best architecture within limits against brute force over small random spaces, listed and by the solver."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from hiernas import spaces
from hiernas.budget import CostTable, Limit
from hiernas.costs import limits as limits_module
from hiernas.costs.limits import best_within, nearest, satisfied, violation
from hiernas.costs.tables import cost_tables
from hiernas.errors import LimitError
from hiernas.space import SearchSpace

METRICS = ("params", "macs", "latency_ms")
TINY = spaces.tiny((1, 8, 8), 4)


@pytest.fixture(params=["listed", "solved"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the same functions: small spaces listed, or treated as too large for that."""
    if request.param == "solved":
        monkeypatch.setattr(limits_module, "ENUMERABLE", 0)
    return request.param


def random_case(rng: np.random.Generator) -> tuple[SearchSpace, dict[str, CostTable], list[np.ndarray]]:
    """A space of up to 3 * 3 * 4 * 4 architectures, made-up costs (whole numbers but for the latency), and gains."""
    kept = {}
    for i, d in enumerate(TINY.decisions):
        n = int(rng.integers(1, len(d.options) + 1)) if i % 2 else 1
        kept[d.name] = [d.options[j] for j in sorted(rng.permutation(len(d.options))[:n])]
    space = TINY.restrict(kept)
    tables = {}
    for metric in METRICS:
        rows = [rng.integers(0, 10_000, len(d.options)).astype(float) for d in space.decisions]
        scale = 1e-3 * math.pi if metric == "latency_ms" else 1.0
        tables[metric] = CostTable(metric, 7.0, tuple(scale * row for row in rows), space)
    return space, tables, [rng.normal(size=len(d.options)) for d in space.decisions]


def brute_force(
    space: SearchSpace, tables: dict[str, CostTable], limits: list[Limit], gains: list[np.ndarray]
) -> float | None:
    """The greatest gain within the limits, in plain Python; None where nothing meets them."""
    best = None
    for genes in itertools.product(*(range(len(d.options)) for d in space.decisions)):
        costs = {m: float(tables[m].of(np.array([genes]))[0]) for m in METRICS}
        if all(x.low <= costs[x.metric] <= x.high for x in limits):
            gain = sum(float(row[g]) for row, g in zip(gains, genes, strict=True))
            best = gain if best is None else max(best, gain)
    return best


def random_limits(rng: np.random.Generator, space: SearchSpace, tables: dict[str, CostTable]) -> list[Limit]:
    """One to three limits; bounds lie between costs, on them, or beside them."""
    some = space.sample_encoded(rng, 2)
    limits = []
    for metric in rng.permutation(METRICS)[: rng.integers(1, 4)]:
        low, high = np.sort(tables[metric].of(some) * rng.choice([0.99, 1.0, 1.0, 1.01], 2))
        kind = rng.integers(4)  # of a range both bounds, of the last kind the same one twice
        low, high = (-math.inf if kind == 0 else low), (math.inf if kind == 1 else high)
        limits.append(Limit(str(metric), low, low if kind == 3 else high))
    return limits


def test_the_best_within_limits_is_that_of_brute_force(way: str) -> None:
    rng, outcomes = np.random.default_rng(0), Counter[bool]()
    for _ in range(60):
        space, tables, gains = random_case(rng)
        limits = random_limits(rng, space, tables)
        best = brute_force(space, tables, limits, gains)
        outcomes[best is None] += 1
        if best is None:
            with pytest.raises(LimitError, match=r"no architecture of 'tiny' that meets .*; widen them"):
                best_within(space, tables, limits, gains)
            continue
        genes = best_within(space, tables, limits, gains)
        assert satisfied(tables, limits, genes[None])[0], limits
        assert sum(float(row[g]) for row, g in zip(gains, genes, strict=True)) == pytest.approx(best, abs=1e-6), limits
    assert min(outcomes.values()) >= 8  # both happen


def test_without_limits_every_site_has_its_best_option(way: str) -> None:
    space, tables, gains = random_case(np.random.default_rng(5))
    assert best_within(space, tables, [], gains).tolist() == [int(row.argmax()) for row in gains]


def test_bounds_that_one_architecture_alone_meets(way: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        space, tables, gains = random_case(rng)
        genes = space.sample_encoded(rng, 1)
        exact = [Limit(m, float(tables[m].of(genes)[0]), float(tables[m].of(genes)[0])) for m in METRICS]
        assert best_within(space, tables, exact, gains).tolist() == genes[0].tolist()
        least = Limit("params", high=tables["params"].smallest)
        assert tables["params"].of(best_within(space, tables, [least], gains)[None])[0] == least.high


def test_a_bound_that_is_missed_by_a_hair_is_missed(way: str) -> None:
    space, tables, gains = random_case(np.random.default_rng(2))
    with pytest.raises(LimitError, match="found no architecture of 'tiny' that meets latency_ms <= "):
        best_within(space, tables, [Limit("latency_ms", high=math.nextafter(tables["latency_ms"].smallest, 0))], gains)


def test_the_nearest_is_that_of_brute_force(way: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        space, tables, _ = random_case(rng)
        limits = random_limits(rng, space, tables)
        everything = np.array(list(itertools.product(*(range(len(d.options)) for d in space.decisions))))
        genes, _ = nearest(space, tables, limits)
        assert violation(tables, limits, genes)[0] == pytest.approx(violation(tables, limits, everything).min(), abs=1e-7)


def test_a_space_of_10_to_the_21_is_solved_exactly() -> None:
    space = spaces.fbnet((3, 32, 32), 10)
    tables, rng = cost_tables(space, None), np.random.default_rng(0)
    hidden = space.sample_encoded(rng, 1)  # the one that the gains prefer at every site, and that just meets the limits
    gains = [rng.uniform(0, 1, len(d.options)) for d in space.decisions]
    for row, g in zip(gains, hidden[0], strict=True):
        row[g] = 2.0
    limits = [Limit(m, high=float(tables[m].of(hidden)[0])) for m in ("params", "macs")]
    assert best_within(space, tables, limits, gains).tolist() == hidden[0].tolist()
    tighter = [Limit(m.metric, high=m.high - 1) for m in limits]
    second = best_within(space, tables, tighter, gains)
    assert satisfied(tables, tighter, second[None])[0]
    assert (second != hidden[0]).sum() >= 1
    assert sum(float(row[g]) for row, g in zip(gains, second, strict=True)) > 40  # of 44: one or two sites give way

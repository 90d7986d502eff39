"""Limits against brute force over the 12 architectures of the toy space, listed and by the solver."""

import math
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
from test_cost_tables import toy_latency

from hiernas.costs import limits as limits_module
from hiernas.costs import parse_limits
from hiernas.costs.limits import (
    Limit,
    check_reachable,
    count_feasible,
    nearest,
    sample_feasible,
    satisfied,
    violation,
)
from hiernas.costs.tables import cost_tables
from hiernas.errors import LimitError
from hiernas.space import SearchSpace
from hiernas.spaces import hnas_basic, proxyless
from toy import toy_space

SPACE = toy_space()
TABLES = cost_tables(SPACE, toy_latency(SPACE))
GENES = np.array([SPACE.encode(a) for a in SPACE])
VALUES = {metric: table.of(GENES) for metric, table in TABLES.items()}


@pytest.fixture(params=["listed", "solved"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the same functions: the toy space listed, or treated as one too large for that."""
    if request.param == "solved":
        monkeypatch.setattr(limits_module, "ENUMERABLE", 0)
        monkeypatch.setattr(limits_module, "STEPS", 200)  # plenty for 12
    return request.param


def by_hand(limits: list[Limit]) -> list[float]:
    """Relative excess of the 12 architectures, without numpy."""
    total = [0.0] * 12
    for m in limits:
        for i, value in enumerate(VALUES[m.metric].tolist()):
            total[i] += max(0.0, value / m.high - 1) if m.high < math.inf else 0.0
            total[i] += max(0.0, 1 - value / m.low) if m.low > 0 else 0.0
    return total


def some_limits() -> list[list[Limit]]:
    """Single bounds, ranges and pairs whose bounds lie on, just beside and between the 12 values."""
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        limits = []
        for metric in rng.permutation(["latency_ms", "params", "macs"])[: rng.integers(1, 4)]:
            low, high = sorted(rng.choice(VALUES[metric], 2) * rng.choice([0.97, 1.0, 1.02], 2))
            kind = rng.integers(3)
            limits.append(Limit(str(metric), -math.inf if kind == 0 else low, math.inf if kind == 1 else high))
        found.append(limits)
    return found


def test_satisfied_and_violation_against_brute_force() -> None:
    for limits in some_limits():
        expected = by_hand(limits)
        np.testing.assert_allclose(violation(TABLES, limits, GENES), expected, atol=1e-12)
        assert satisfied(TABLES, limits, GENES).tolist() == [e <= 1e-12 for e in expected], limits


def test_reachable_exactly_where_brute_force_finds_one(way: str) -> None:
    outcomes = Counter()
    for limits in some_limits():
        best = min(by_hand(limits))
        genes, _ = nearest(SPACE, TABLES, limits)
        assert violation(TABLES, limits, genes)[0] == pytest.approx(best, abs=1e-9), limits
        outcomes[best <= 1e-12] += 1
        with nullcontext() if best <= 1e-12 else pytest.raises(LimitError, match=r"no architecture of 'toy' meets"):
            check_reachable(SPACE, TABLES, limits)
    assert min(outcomes.values()) >= 10  # both happen


def test_the_bound_itself_is_allowed(way: str) -> None:
    for metric, table in TABLES.items():
        check_reachable(SPACE, TABLES, [Limit(metric, high=table.smallest)])
        check_reachable(SPACE, TABLES, [Limit(metric, table.largest, table.largest)])
        with pytest.raises(LimitError, match=rf"meets {metric} <= "):
            check_reachable(SPACE, TABLES, [Limit(metric, high=math.nextafter(table.smallest, 0))])


def test_messages_name_the_nearest_reachable_value(way: str) -> None:
    # params: 232 (stem) + 480 to 944 (site 1) + 0 to 1120 (site 2) + 160 (head) + 68 (classifier), by hand
    cases = {
        "latency_ms<=1.5": "latency_ms <= 1.5; the fastest takes 1.67 ms",
        "latency_ms>=4ms": "latency_ms >= 4.0; the slowest takes 3.77 ms",
        "params<=0.8k": "params <= 800; the smallest has 940",
        "params>=3k": "params >= 3k; the largest has 2.52k",  # 2524, rounded to what can be asked for
        "macs<=1k": "macs <= 1k; the cheapest needs 28.5k",  # 13,824 + 12,544 + 2,048 + 64 = 28,480
    }
    for text, message in cases.items():
        with pytest.raises(LimitError, match=rf"^no architecture of 'toy' meets {message}$"):
            check_reachable(SPACE, TABLES, parse_limits([text]))


def test_message_of_a_range_and_of_several_limits(way: str) -> None:
    # just below the smallest network with an operation at site 2: 940 + 256
    with pytest.raises(LimitError, match=r"meets 1.19k <= params <= 1.195k; the nearest has params 1.2k$"):
        check_reachable(SPACE, TABLES, [parse_limits(["1190<=params<=1195"])[0]])
    pair = parse_limits(["params<=940", "latency_ms>=2"])
    assert parse_limits(["params<=940 and latency_ms>=2"]) == parse_limits("params<=940 and latency_ms>=2") == pair
    message = r"params <= 940 and latency_ms >= 2.0 together; the nearest has params 940 and latency_ms 1.67$"
    with pytest.raises(LimitError, match=message):
        check_reachable(SPACE, TABLES, pair)


def test_a_nearest_value_is_shown_on_its_side_of_the_bound() -> None:
    limit = Limit("latency_ms", low=5.0, high=6.0)
    shown = {4.9996: "4.9996", 4.9876: "4.99", 6.0004: "6.0004", 6.01239: "6.01", 5.5555: "5.56"}
    assert {value: limits_module._outside(limit, value) for value in shown} == shown


def test_real_spaces_are_refused_before_any_training() -> None:
    space = proxyless()
    tables = cost_tables(space, None)
    with pytest.raises(LimitError, match=r"^no architecture of 'proxyless' meets params <= 1M; the smallest has 2.16M$"):
        check_reachable(space, tables, parse_limits(["params<=1M"]))
    check_reachable(space, tables, parse_limits(["4M<=params<=4.001M", "300M<=macs<=300.5M"]))
    together = r"meets params >= 5.1M and macs <= 500M together; the nearest has params \S+ and macs \S+$"
    with pytest.raises(LimitError, match=together):
        check_reachable(space, tables, parse_limits(["params>=5.1M", "macs<=500M"]))
    with pytest.raises(LimitError, match=r"the limit latency_ms <= 5.0 needs a latency table"):
        check_reachable(space, tables, parse_limits(["latency_ms<=5"]))


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["latency_ms<=5"], [("latency_ms", -math.inf, 5.0)]),
        (["latency_ms <= 5 ms"], [("latency_ms", -math.inf, 5.0)]),
        (["5ms>=latency_ms"], [("latency_ms", -math.inf, 5.0)]),
        (["params>=4.8M"], [("params", 4_800_000.0, math.inf)]),
        (["macs<=300M", "params<=2.154088M"], [("macs", -math.inf, 3e8), ("params", -math.inf, 2154088.0)]),
        (["macs<=0.3G"], [("macs", -math.inf, 3e8)]),
        (["params<=800k"], [("params", -math.inf, 8e5)]),
        (["peak_ram_int8<=256k", "peak_ram<=1 MB"], [("peak_ram_int8", -math.inf, 256e3), ("peak_ram", -math.inf, 1e6)]),
        (["flash<=1Mi", "flash_int8<=256KiB"], [("flash", -math.inf, 2.0**20), ("flash_int8", -math.inf, 2.0**18)]),
        (["params<=4_800_000"], [("params", -math.inf, 4.8e6)]),
        (["macs<=3e8"], [("macs", -math.inf, 3e8)]),
        (["60<=latency_ms<=70"], [("latency_ms", 60.0, 70.0)]),
        (["70ms >= latency_ms >= 60ms"], [("latency_ms", 60.0, 70.0)]),
        (["latency_ms<=5", "latency_ms>=.5", "latency_ms<=4"], [("latency_ms", 0.5, 4.0)]),
        ("params<=1M", [("params", -math.inf, 1e6)]),
        ("MACs≤3M,params ≥ 1k and 2>=LATENCY_ms", [
            ("macs", -math.inf, 3e6), ("params", 1e3, math.inf), ("latency_ms", -math.inf, 2.0),
        ]),
        ([], []),
    ],
)
def test_limits_that_can_be_read(texts: list[str], expected: list[tuple]) -> None:
    limits = parse_limits(texts)
    assert [(m.metric, m.low, m.high) for m in limits] == expected
    assert parse_limits(map(str, limits)) == limits  # what is shown is what was meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency<=5", r"unknown metric 'latency' in limit 'latency<=5'; did you mean 'latency_ms'\?"),
        ("flops<=5M", r"unknown metric 'flops' .*; papers' FLOPs are 'macs'"),
        ("speed<=5M", r"unknown metric 'speed' .*; known: latency_ms, latency_int8_ms, params, macs, peak_ram, .*, flash_int8"),
        ("peak_ram<=256kb", r"'256kb' is no number for peak_ram; write 256k, 256Ki or 262144 \(bytes\)"),
        ("peak_ram_int8>=1k", r"'peak_ram_int8>=1k': .* is what a device has, so the limit is an upper one; write '<='"),
        ("1k<=flash<=2k", r"flash is what a device has"),
        ("<=5", r"unknown metric '' in limit '<=5'; known"),
        ("latency_ms<5", r"uses '<'; write '<=' or '>='"),
        ("latency_ms=5", r"uses '='; write '<=' or '>='"),
        ("latency_ms=<5", r"uses '=<'; write '<='"),
        ("latency_ms", r"'latency_ms' is not a limit; write 'metric<=number'"),
        ("60<=latency_ms>=70", r"is not a limit; write .* 'low<=metric<=high'"),
        ("latency_ms<=fast", r"'fast' is no number for latency_ms; write 5 or 5ms"),
        ("latency_ms<=5s", r"'5s' is no number for latency_ms"),
        ("latency_ms<=5M", r"'5M' is no number for latency_ms"),
        ("params<=4.8m", r"'4.8m' is no number for params; write 4.8M or 4800000"),
        ("macs<=", r"'' is no number for macs; write 300M or 3e8"),
        ("params<=nan", r"'nan' is no number for params"),
        ("params<=10,000", r"'10,000' is no number for params"),
        ("params<=-3M", r"-3M is no bound for params; a bound is a number from 0 upward"),
        ("macs<=1e999", r"1e999 is no bound for macs"),
        ("70<=latency_ms<=60", r"no latency_ms is both at least 70 and at most 60; widen the bounds"),
    ],
)
def test_limits_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(LimitError, match=message):
        parse_limits([text])


def test_limits_that_exclude_each_other() -> None:
    with pytest.raises(LimitError, match=r"no params is both at least 5M and at most 4\.8M"):
        parse_limits(["params<=4.8M", "macs<=1M", "params>=5M"])


@pytest.mark.parametrize("bounds", [(math.nan, 5.0), (0.0, math.nan), (-1.0, 5.0), (math.inf, math.inf), (-math.inf, -1.0)])
def test_bounds_are_numbers_from_0_upward(bounds: tuple[float, float]) -> None:
    with pytest.raises(LimitError, match=r"(nan|-1.0|inf) is no bound for params"):
        Limit("params", *bounds)


# -- sampling ----------------------------------------------------------------------------------------------------


def test_all_feasible_architectures_are_found_once(way: str) -> None:
    for limits in some_limits()[:20]:
        feasible = {tuple(g) for g, e in zip(GENES.tolist(), by_hand(limits), strict=True) if e <= 1e-12}
        found = sample_feasible(SPACE, TABLES, limits, np.random.default_rng(1), 20)
        assert (found.dtype, found.shape) == (np.int64, (len(feasible), 2))
        assert {tuple(g) for g in found.tolist()} == feasible, limits
        met, of = count_feasible(SPACE, TABLES, limits, np.random.default_rng(2))
        assert of == (12 if way == "listed" else 10_000)
        assert met / of == pytest.approx(len(feasible) / 12, abs=0 if way == "listed" else 0.02)


def test_excluded_ones_do_not_come_back(way: str) -> None:
    rng = np.random.default_rng(0)
    first = sample_feasible(SPACE, TABLES, [], rng, 7)
    rest = sample_feasible(SPACE, TABLES, [], rng, 12, {g.tobytes() for g in first})
    assert (len(first), len(rest)) == (7, 5)
    assert {tuple(g) for g in (*first.tolist(), *rest.tolist())} == {tuple(g) for g in GENES.tolist()}


def test_small_spaces_are_sampled_uniformly() -> None:
    limits = [Limit("params", high=float(np.median(VALUES["params"])))]
    rng = np.random.default_rng(3)
    drawn = Counter(tuple(sample_feasible(SPACE, TABLES, limits, rng, 1)[0].tolist()) for _ in range(1200))
    k = int(satisfied(TABLES, limits, GENES).sum())
    assert len(drawn) == k
    assert max(abs(n - 1200 / k) for n in drawn.values()) < 4 * math.sqrt(1200 / k)


def test_rare_regions_of_a_large_space() -> None:
    space = hnas_basic()
    tables = cost_tables(space, None)
    limits = parse_limits(["4M<=params<=4.002M", "320M<=macs<=320.3M"])  # about one architecture in 600,000
    assert not satisfied(tables, limits, space.sample_encoded(np.random.default_rng(5), 50_000)).any()
    found = sample_feasible(space, tables, limits, np.random.default_rng(0), 24)
    again = sample_feasible(space, tables, limits, np.random.default_rng(0), 24)
    assert len(np.unique(found, axis=0)) == len(found) == 24
    assert satisfied(tables, limits, found).all()
    np.testing.assert_array_equal(found, again)


def test_an_empty_region_gives_none() -> None:
    space = hnas_basic()
    tables = cost_tables(space, None)
    limits = [Limit("params", high=tables["params"].smallest - 1)]
    assert sample_feasible(space, tables, limits, np.random.default_rng(0), 5).shape == (0, 22)
    assert count_feasible(space, tables, limits, np.random.default_rng(0)) == (0, 10_000)


def test_the_tables_of_a_space_are_made_once_and_are_those_of_that_space(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SearchSpace] = []

    def counted(space: SearchSpace, latency: object) -> object:
        made.append(space)
        return cost_tables(space, None)

    monkeypatch.setattr(limits_module, "cost_tables", counted)
    space = toy_space()
    smaller = space.restrict({space.decisions[0].name: space.decisions[0].options[:1]})
    budget = limits_module.TableBudget(parse_limits(["macs<=1"]))
    for asked in (space, smaller, space, smaller):
        for metric, table in budget.tables(asked).items():
            expected = cost_tables(asked, None)[metric]
            assert (table.smallest, table.largest) == (expected.smallest, expected.largest)
    assert made == [space, smaller]
    other = budget.by(lambda of: {"macs": cost_tables(of, None)["params"]})  # not what the first one knows
    assert other.tables(space)["macs"].largest == cost_tables(space, None)["params"].largest

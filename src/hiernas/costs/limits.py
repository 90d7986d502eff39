"""Hard limits on costs: checked exactly, refused before any training where nothing meets them.

A limit is met or it is not: both are decided by the exact tables (`CostTable`), never by the solver of integer programs,
which only proposes architectures of spaces too large to list.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any, Self

import numpy as np

from hiernas import ranks
from hiernas.budget import CostTable, Limit, Tables, quantity
from hiernas.costs import LATENCIES, MEMORY, PEAKS
from hiernas.costs.tables import cost_tables, count, peak_tables
from hiernas.errors import LimitError
from hiernas.space import Architecture, SearchSpace

ENUMERABLE = 20_000  # spaces up to this size are listed
BATCH, BATCHES = 4096, 16  # uniform samples drawn before a sampler turns to walks
WALKERS, STEPS = 256, 2000  # walks towards and within the region that meets the limits
SOLVER_SECONDS = 10.0
SCALE = 1e4  # a bound in the solver's rows, so that its tolerance of 1e-6 is 1e-10 of the bound

SMALLEST = {**dict.fromkeys(LATENCIES, "the fastest takes"), "params": "the smallest has", "macs": "the cheapest needs"}
LARGEST = {**dict.fromkeys(LATENCIES, "the slowest takes"), "params": "the largest has", "macs": "the costliest needs"}
UNITS = {**dict.fromkeys(LATENCIES, " ms"), **dict.fromkeys(MEMORY, " bytes")}
SMALLEST |= dict.fromkeys(MEMORY, "the smallest needs")


def _amount(metric: str, value: float) -> str:
    """Memory in bytes: the limit beside it may be in kB or in KiB."""
    return f"{value:,.0f}" if metric in MEMORY else quantity(metric, value)


def _rounded(value: float, digits: int, rounding: str = ROUND_HALF_EVEN) -> float:
    number = Decimal(repr(value))
    return float(number.quantize(Decimal(1).scaleb(number.adjusted() - digits + 1), rounding))


# -- checking ----------------------------------------------------------------------------------------------------


def satisfied(tables: Tables, limits: Sequence[Limit], genes: np.ndarray) -> np.ndarray:
    """Which architectures meet all limits: option indices int64 [N, sites] -> bool [N]."""
    met = np.ones(len(genes), dtype=bool)
    for limit in limits:
        values = _table(tables, limit).of(genes)
        met &= (limit.low <= values) & (values <= limit.high)
    return met


def violation(tables: Tables, limits: Sequence[Limit], genes: np.ndarray) -> np.ndarray:
    """Sum over the limits of the excess relative to the bound: int64 [N, sites] -> float64 [N], 0 where all are met."""
    total = np.zeros(len(genes))
    for limit in limits:
        total += limit.excess(_table(tables, limit).of(genes))
    return total


def check_reachable(space: SearchSpace, tables: Tables, limits: Sequence[Limit]) -> None:
    """Raise `LimitError`, with the nearest reachable values, where no architecture meets all limits.

    Exact for one bound. For several at once: exact by listing for small spaces, else by integer programming;
    where the solver's time does not do (very narrow ranges), the message says that none was *found*.
    """
    for limit in limits:
        table = _table(tables, limit)
        for extreme, words, outside, rounding in (
            (table.smallest, SMALLEST, table.smallest > limit.high, ROUND_CEILING),
            (table.largest, LARGEST, table.largest < limit.low, ROUND_FLOOR),
        ):
            if outside:
                shown = extreme if limit.metric in MEMORY else _rounded(extreme, 3, rounding)
                value = _amount(limit.metric, shown) + UNITS.get(limit.metric, "")
                raise LimitError(f"no architecture of '{space.name}' meets {limit}; {words[limit.metric]} {value}")
    if sum(len(limit.bounds) for limit in limits) < 2:
        return
    genes, proven = nearest(space, tables, limits)
    if not satisfied(tables, limits, genes)[0]:
        raise LimitError(_unreachable(space, tables, limits, genes, proven))


def _unreachable(space: SearchSpace, tables: Tables, limits: Sequence[Limit], genes: np.ndarray, proven: bool) -> str:
    wanted = " and ".join(map(str, limits)) + (" together" if len(limits) > 1 else "")
    values = " and ".join(f"{m.metric} {_outside(m, float(tables[m.metric].of(genes)[0]))}" for m in limits)
    if proven:
        return f"no architecture of '{space.name}' meets {wanted}; the nearest has {values}"
    found = f"found no architecture of '{space.name}' that meets {wanted}"
    return f"{found} in {SOLVER_SECONDS:.0f} s; the nearest found has {values}; widen the limits"


def _outside(limit: Limit, value: float) -> str:
    """A value in the fewest digits, from 3 on, that show it on the side of the bounds where it is."""
    for digits in range(3, 17):
        shown = _rounded(value, digits)
        if (shown > limit.high, shown < limit.low) == (value > limit.high, value < limit.low):
            return _amount(limit.metric, shown)
    return _amount(limit.metric, value)


def _table(tables: Tables, limit: Limit) -> CostTable:
    if limit.metric not in tables:
        raise LimitError(f"the limit {limit} needs a latency table: name one with --latency-table FILE, or measure this device")
    return tables[limit.metric]


def within_peaks(space: SearchSpace, limits: Sequence[Limit], several: bool = False) -> SearchSpace:
    """The space of exactly the networks that meet the limits on `peak_ram`: without the options that exceed them.

    `several`: see `peak_tables`. Raises `LimitError` where none is left, and for cells, whose peak depends on all choices.
    """
    for limit in (limit for limit in limits if limit.metric in PEAKS):
        tables = peak_tables(space, several)
        if not tables:
            raise LimitError(
                f"{limit} cannot be held in '{space.name}': the peak of a network of cells is no maximum over its parts, but "
                "depends on all of them; limit flash, params or macs, or search a chain (`hiernas list spaces`)"
            )
        check_reachable(space, tables, [limit])
        rows = zip(space.decisions, tables[limit.metric].sites, strict=True)
        space = space.restrict({d.name: [d.options[i] for i in np.flatnonzero(row <= limit.high)] for d, row in rows})
    return space


def median_limit(space: SearchSpace, table: CostTable, rng: np.random.Generator) -> Limit:
    """An upper limit at the median cost of 1000 random architectures."""
    median = float(np.median(table.of(space.sample_encoded(rng, 1000))))
    return Limit(table.metric, high=float(f"{median * 1.005:.3g}"))  # three digits, not below the median


def nearest(space: SearchSpace, tables: Tables, limits: Sequence[Limit]) -> tuple[np.ndarray, bool]:
    """The architecture of least `violation`, int64 [1, sites], and whether it is proven to be that."""
    if space.size() <= ENUMERABLE:
        genes = space.all_encoded()
        return genes[[int(np.argmin(violation(tables, limits, genes)))]], True
    genes, status = _solved(space, tables, limits)
    return genes, status == PROVEN and float(violation(tables, limits, genes)[0]) > 1e-8


def best_within(space: SearchSpace, tables: Tables, limits: Sequence[Limit], gains: Sequence[np.ndarray]) -> np.ndarray:
    """The architecture of greatest total gain that meets all limits, int64 [sites]; `gains`: per site [options].

    Exact by listing for small spaces, by integer programming for others. Raises `LimitError` where none is found.
    """
    if space.size() <= ENUMERABLE:
        genes = space.all_encoded()
        genes = genes[satisfied(tables, limits, genes)]
        totals = sum((np.asarray(row)[column] for row, column in zip(gains, genes.T, strict=True)), np.zeros(len(genes)))
        best = genes[[int(np.argmax(totals))]] if len(genes) else genes
    else:
        best = np.zeros((0, len(space.decisions)), dtype=np.int64)
        for margin in (0.0, 1e-9):  # beyond the solver's tolerance, where that is what breaks a limit
            if not len(best):
                genes, status = _solved(space, tables, limits, gains, margin)
                best = genes[satisfied(tables, limits, genes) & (status in (PROVEN, TIME_IS_UP))]
    if not len(best):
        raise LimitError(f"found no architecture of '{space.name}' that meets {' and '.join(map(str, limits))}; widen them")
    return best[0]


# -- integer programs, for spaces too large to list -----------------------------------------------------------------

PROVEN, TIME_IS_UP, NONE_FOUND = 0, 1, 4  # HiGHS' own numbers


@ranks.told  # the clock decides where a search for the best one ends
def _solved(
    space: SearchSpace, tables: Tables, limits: Sequence[Limit], gains: Sequence[np.ndarray] | None = None, margin: float = 0.0
) -> tuple[np.ndarray, int]:
    """The architecture of greatest total gain within the limits or, without `gains`, of least `violation`.

    Returns int64 [1, sites], a proposal whose costs are to be checked, and how sure the solver is. It has a tolerance,
    and a limit has none: bounds are kept by `margin`, relatively, where that is needed.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows, most = _bounds(tables, limits, sum(len(d.options) for d in space.decisions))
    options, slacks = rows.shape[1], 0 if gains is not None else len(rows)  # a variable of each; a slack is an excess
    objective = np.r_[np.zeros(options), np.ones(slacks)] if gains is None else -np.concatenate(gains)
    ends = np.cumsum([0, *(len(d.options) for d in space.decisions)])
    one_of = np.zeros((len(space.decisions), options + slacks))
    for i, (start, end) in enumerate(itertools.pairwise(ends)):
        one_of[i, start:end] = 1.0
    constraints = [LinearConstraint(one_of, 1.0, 1.0), *_groups(space, options + slacks)]
    if len(rows):
        constraints.append(LinearConstraint(np.c_[rows, -np.eye(len(rows), slacks)], -np.inf, most - margin * SCALE))
    found = milp(
        objective,
        integrality=np.r_[np.ones(options), np.zeros(slacks)],
        bounds=Bounds(0.0, np.r_[np.ones(options), np.full(slacks, np.inf)]),
        constraints=constraints,
        options={"time_limit": SOLVER_SECONDS, "mip_rel_gap": 0.0},
    )
    x = np.zeros(options) if found.x is None else found.x
    genes = np.array([[int(np.argmax(x[a:b])) for a, b in itertools.pairwise(ends)]])
    return genes, NONE_FOUND if found.x is None else int(found.status)


def _bounds(tables: Tables, limits: Sequence[Limit], options: int) -> tuple[np.ndarray, np.ndarray]:
    """Limits as rows over all options, scaled: rows @ x <= most."""
    bounds = [(_table(tables, m), sign, b) for m in limits for sign, b in ((1, m.high), (-1, m.low)) if math.isfinite(b)]
    rows, most = np.zeros((len(bounds), options)), np.zeros(len(bounds))
    for i, (table, sign, bound) in enumerate(bounds):
        factor = sign * SCALE / (bound if bound > 0 else 1.0)
        rows[i] = factor * np.concatenate([row - row.min() for row in table.sites])
        most[i] = factor * (bound - table.constant - sum(float(row.min()) for row in table.sites))
    return rows, most


def _groups(space: SearchSpace, variables: int) -> list[Any]:
    """Of each group of sites so many, or at least so many, are other than 'none'."""
    from scipy.optimize import LinearConstraint

    kept: dict[str, list[int]] = {}  # by site, the variables of options other than 'none'
    numbers = itertools.count()
    for d in space.decisions:
        kept[d.name] = [i for option, i in zip(d.options, numbers, strict=False) if option != "none"]
    found = []
    for group in space.skeleton.groups:
        row = np.zeros((1, variables))
        row[0, [i for site in group.sites for i in kept[site]]] = 1.0
        found.append(LinearConstraint(row, group.keep, np.inf if group.more else group.keep))
    return found


# -- sampling ----------------------------------------------------------------------------------------------------


def sample_feasible(
    space: SearchSpace, tables: Tables, limits: Sequence[Limit], rng: np.random.Generator, n: int, exclude: Iterable[bytes] = ()
) -> np.ndarray:
    """Up to `n` distinct architectures that meet the limits, as option indices: int64 [m, sites], m <= n.

    `exclude`: architectures not wanted, as int64 bytes (`genes.tobytes()`). Uniform where the space is small (it is
    listed) or the limits are met often (samples are rejected); rare regions are entered by random walks that never raise
    `violation`, half of them from the solver's architecture, and are sampled as the walks find them. Fewer than `n` are
    returned where no more are found with bounded effort.
    """
    excluded, found = set(exclude), dict[bytes, np.ndarray]()  # in the order found
    drawn: Iterator[np.ndarray] = _drawn(space, tables, limits, rng, found)
    if space.size() <= ENUMERABLE:
        genes = space.all_encoded()
        drawn = iter([rng.permutation(genes[satisfied(tables, limits, genes)])])
    while len(found) < n:
        more: np.ndarray | None = next(drawn, None)
        if more is None:
            break
        for row in more:
            if len(found) < n and (key := row.tobytes()) not in excluded:
                found.setdefault(key, row)
    return _rows(space, found)


def _rows(space: SearchSpace, found: dict[bytes, np.ndarray]) -> np.ndarray:
    return np.array(list(found.values()), dtype=np.int64).reshape(-1, len(space.decisions))


def _drawn(
    space: SearchSpace, tables: Tables, limits: Sequence[Limit], rng: np.random.Generator, found: dict[bytes, np.ndarray]
) -> Iterator[np.ndarray]:
    """Uniform samples, then random walks that change one or two sites at a time and never raise the violation."""
    for _ in range(BATCHES):
        genes = space.sample_encoded(rng, BATCH)
        yield genes[satisfied(tables, limits, genes)]
    genes, known = space.sample_encoded(rng, WALKERS), _rows(space, found)
    genes[::2] = known[rng.integers(len(known), size=WALKERS // 2)] if len(known) else nearest(space, tables, limits)[0]
    outside = violation(tables, limits, genes)
    for _ in range(STEPS):
        yield genes[outside == 0]
        proposed = genes
        for _ in range(int(rng.integers(1, 3))):
            proposed = space.resample(proposed, rng)
        then = violation(tables, limits, proposed)
        better = then <= outside
        genes[better], outside[better] = proposed[better], then[better]


def count_feasible(space: SearchSpace, tables: Tables, limits: Sequence[Limit], rng: np.random.Generator) -> tuple[int, int]:
    """How many architectures meet the limits, and of how many: all of a small space, else 10,000 that are drawn evenly."""
    genes = space.all_encoded() if space.size() <= ENUMERABLE else space.sample_encoded(rng, 10_000)
    return int(satisfied(tables, limits, genes).sum()), len(genes)


# -- the budget of a search ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableBudget:
    """Fulfils `hiernas.budget.Budget` by the tables of each space; `latency`: a latency table (ours or a phone's), or None."""

    limits: tuple[Limit, ...]
    latency: Any | None = None
    own: Callable[[SearchSpace], Tables] | None = None  # tables in place of the space's
    _made: dict[int, tuple[SearchSpace, Tables]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def tables(self, space: SearchSpace) -> Tables:
        """Cost tables of a (restricted) space, made once for each: an evolution asks for every generation's children."""
        if id(space) not in self._made:  # the space is kept with them, so that its id stays its own
            self._made[id(space)] = space, cost_tables(space, self.latency) if self.own is None else self.own(space)
        return self._made[id(space)][1]

    def count(self, architecture: Architecture) -> tuple[int, int]:
        found = count(architecture.build, architecture.skeleton.input_size)
        return found.params, found.macs

    def met(self, space: SearchSpace, genes: np.ndarray) -> np.ndarray:
        return satisfied(self.tables(space), self.limits, genes)

    def sample(self, space: SearchSpace, rng: np.random.Generator, n: int, exclude: Iterable[bytes] = ()) -> np.ndarray:
        return sample_feasible(space, self.tables(space), self.limits, rng, n, exclude)

    def best(self, space: SearchSpace, gains: Sequence[np.ndarray]) -> np.ndarray:
        return best_within(space, self.tables(space), self.limits, gains)

    def nearest(self, space: SearchSpace) -> np.ndarray:
        return nearest(space, self.tables(space), self.limits)[0]

    def by(self, tables: Callable[[SearchSpace], Tables]) -> Self:
        return replace(self, own=tables)

    def within(self, wanted: Sequence[Limit]) -> Self:
        return replace(self, limits=tuple(wanted))

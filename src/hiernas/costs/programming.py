"""Integer programs over the options of a space (HiGHS, by `scipy.optimize.milp`): for spaces too large to list.

One binary variable per option, one option per site. A solution is a proposal: its costs are checked by the tables.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiernas.budget import CostTable
from hiernas.space import SearchSpace

Bounded = tuple[CostTable, float, float]  # a metric's table, and the least and the greatest value allowed

SCALE = 1e4  # a bound in the solver's rows, so that its tolerance of 1e-6 is 1e-10 of the bound


def least_violation(space: SearchSpace, bounded: Sequence[Bounded], seconds: float) -> tuple[np.ndarray, bool]:
    """The architecture with the least sum of relative excesses, int64 [1, sites], and whether that is proven."""
    rows, most = _rows(bounded)
    slacks = len(rows)
    genes, status = _solve(
        space,
        np.c_[rows, -np.eye(slacks)],
        most,
        np.r_[np.zeros(rows.shape[1]), np.ones(slacks)],
        slacks,
        seconds,
    )
    return genes, status == 0


def greatest_gain(
    space: SearchSpace, bounded: Sequence[Bounded], gains: Sequence[np.ndarray], seconds: float, margin: float = 0.0
) -> np.ndarray:
    """The architecture of greatest total gain within the bounds, int64 [1, sites], or [0, sites] where none is found.

    The solver has a tolerance, a limit has none: bounds are kept by `margin`, relatively, where that is needed.
    """
    rows, most = _rows(bounded)
    genes, status = _solve(space, rows, most - margin * SCALE, -np.concatenate(gains), 0, seconds)
    return genes if status in (0, 1) else genes[:0]


def _rows(bounded: Sequence[Bounded]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds as rows over all options, scaled: rows @ x <= most."""
    signed = [(table, sign, b) for table, low, high in bounded for sign, b in ((1, high), (-1, low)) if math.isfinite(b)]
    options = sum(len(row) for row in bounded[0][0].sites) if bounded else 0
    rows, most = np.zeros((len(signed), options)), np.zeros(len(signed))
    for i, (table, sign, bound) in enumerate(signed):
        factor = sign * SCALE / (bound if bound > 0 else 1.0)
        rows[i] = factor * np.concatenate([row - row.min() for row in table.sites])
        most[i] = factor * (bound - table.constant - sum(float(row.min()) for row in table.sites))
    return rows, most


def _groups(space: SearchSpace, variables: int) -> list[Any]:
    """Of each group of sites so many, or at least so many, are other than 'none'."""
    from scipy.optimize import LinearConstraint

    starts, found = dict[str, int](), []
    for decision in space.decisions:
        starts[decision.name] = sum(len(d.options) for d in space.decisions[: len(starts)])
    options = {d.name: d.options for d in space.decisions}
    for group in space.skeleton.groups:
        row = np.zeros((1, variables))
        for site in group.sites:
            row[0, [starts[site] + i for i, option in enumerate(options[site]) if option != "none"]] = 1.0
        found.append(LinearConstraint(row, group.keep, np.inf if group.more else group.keep))
    return found


def _solve(
    space: SearchSpace, rows: np.ndarray, most: np.ndarray, objective: np.ndarray, slacks: int, seconds: float
) -> tuple[np.ndarray, int]:
    from scipy.optimize import Bounds, LinearConstraint, milp

    starts = np.cumsum([0, *(len(d.options) for d in space.decisions)])
    options = int(starts[-1])
    one_of = np.zeros((len(space.decisions), options + slacks))
    for i, (start, end) in enumerate(itertools.pairwise(starts)):
        one_of[i, start:end] = 1.0
    constraints = [LinearConstraint(one_of, 1.0, 1.0), *_groups(space, options + slacks)]
    if len(rows):
        constraints.append(LinearConstraint(rows, -np.inf, most))
    found = milp(
        objective,
        integrality=np.r_[np.ones(options), np.zeros(slacks)],
        bounds=Bounds(0.0, np.r_[np.ones(options), np.full(slacks, np.inf)]),
        constraints=constraints,
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    x = np.zeros(options) if found.x is None else found.x
    genes = np.array([[int(np.argmax(x[a:b])) for a, b in itertools.pairwise(starts)]])
    return genes, int(found.status) if found.x is not None else 4

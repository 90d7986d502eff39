"""Controls without a search: by listing a small space, and by a trainer whose verdict is known beforehand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiernas.budget import Limit
from hiernas.costs.limits import TableBudget
from hiernas.costs.tables import Cost, cost
from hiernas.data import ImageData
from hiernas.errors import LimitError
from hiernas.methods.controls import ControlConfig, RandomKConfig, plain, random_k, random_network
from hiernas.networks.ops import MBConv
from hiernas.problem import Problem
from hiernas.run.folder import RunFolder
from hiernas.space import SearchSpace
from hiernas.spaces import Stage, chain_space
from toy import RUN

SIZES = (1, 8, 8)
OPERATIONS = (MBConv(3, 3), MBConv(5, 3), MBConv(3, 6))


def space() -> SearchSpace:
    stages = [Stage(6, 2, 1, OPERATIONS), Stage(8, 2, 2, OPERATIONS, skip=True)]
    return chain_space("own", SIZES, 3, stem=4, stem_stride=2, stages=stages, head=8)


def asked(folder: Path, data: Any, *limits: Limit) -> Problem:
    run = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder, RUN)
    return Problem(space(), data, TableBudget(limits), None, run, 0)  # type: ignore[arg-type] # nothing is trained


@cache
def counted(options: tuple[str, ...]) -> Cost:
    """On the whole network."""
    return cost(space().architecture(options))


def params_of(options: Any) -> int:
    return counted(tuple(options)).params


def limit_at(share: float) -> Limit:
    sizes = sorted(params_of(a.options) for a in space())
    return Limit("params", high=sizes[int(share * (len(sizes) - 1))])


def test_one_network_is_drawn_evenly_from_those_within(tmp_path: Path, digits: ImageData) -> None:
    limit = limit_at(0.05)
    within = {a.options for a in space() if params_of(a.options) <= limit.high}
    n = 40 * len(within)
    first = asked(tmp_path / "r", digits, limit)
    drawn = Counter(random_network(replace(first, seed=seed), ControlConfig()).chosen.options for seed in range(n))
    assert set(drawn) == within
    expected = n / len(within)
    square = sum((drawn[o] - expected) ** 2 / expected for o in within)
    assert square < len(within) + 5 * np.sqrt(2 * len(within))  # chi-square: five standard deviations


def test_the_largest_regular_network_that_fits(tmp_path: Path, digits: ImageData) -> None:
    names = ["k3_e3", "k5_e3", "k3_e6"]
    sizes = {name: params_of([name] * 4) for name in names}
    assert len(set(sizes.values())) == 3
    for high in (*sizes.values(), max(sizes.values()) + 1000):
        fitting = [n for n in names if sizes[n] <= high]
        found = plain(asked(tmp_path / f"r{high}", digits, Limit("params", high=high)), ControlConfig())
        macs = {n: counted((n,) * 4).macs for n in fitting}
        assert found.chosen.options == (max(fitting, key=lambda n: macs[n]),) * 4


def test_where_no_operation_fits_everywhere_it_stands_where_it_can(tmp_path: Path, digits: ImageData) -> None:
    limit = Limit("params", high=params_of(["k3_e3"] * 4) - 1)
    found = plain(asked(tmp_path / "r", digits, limit), ControlConfig()).chosen
    best = max(
        max(o.count(name) for name in ("k3_e3", "k5_e3", "k3_e6"))
        for o in product(*(d.options for d in space().decisions))
        if params_of(o) <= limit.high
    )
    assert found.params <= limit.high
    assert max(Counter(o for o in found.options if o != "skip").values()) == best
    with pytest.raises(LimitError):
        random_network(asked(tmp_path / "n", digits, Limit("params", high=10)), ControlConfig())


def test_k_networks_are_drawn_and_nothing_is_known_of_them(tmp_path: Path, digits: ImageData) -> None:
    limit = limit_at(0.7)
    found = random_k(asked(tmp_path / "a", digits, limit), RandomKConfig(finalists=7, objective="macs"))
    assert len({c.options for c in found.candidates}) == 7
    assert all(np.isnan(c.val_accuracy) and params_of(c.options) == c.params <= limit.high for c in found.candidates)
    assert found.chosen == found.candidates[0]

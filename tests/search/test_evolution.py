"""Evolution under limits: never outside them, nothing twice, resumed bit for bit, and better than chance."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiernas import spaces
from hiernas.budget import Limit
from hiernas.costs.limits import satisfied
from hiernas.costs.tables import cost_tables
from hiernas.errors import LimitError
from hiernas.methods.hnas import HNASConfig
from hiernas.problem import Candidate, Problem
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.search.evolution import ConstrainedNSGA2, evolve, start
from hiernas.space import Architecture
from toy import RUN, budget

SPACE = spaces.nasbench_macro()
TABLES = cost_tables(SPACE, None)
LIMITS = (Limit("macs", 40e6, 60e6), Limit("params", high=1.5e6))


class Oracle:
    """A made-up accuracy that a search can climb; counts what it is asked."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.asked: list[Architecture] = []
        self.fail_after = fail_after

    def __call__(self, architectures: Sequence[Architecture]) -> list[float]:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += architectures
        weights = np.linspace(1.0, 2.0, 8)
        return [float(0.5 + 0.01 * (SPACE.encode(a) * weights).sum()) for a in architectures]


def run(
    folder: Path, algorithm: str, oracle: Oracle, generations: int = 6, limits: tuple[Limit, ...] = LIMITS
) -> list[Candidate]:
    try:
        opened = RunFolder.open(folder)
    except Exception:
        opened = RunFolder.create(folder, RUN)
        opened.close()
    return evolve(SPACE, oracle, problem(opened, limits), "evolve2", effort(algorithm, 16, generations))


def effort(evolution: Any, population: int, generations: int) -> HNASConfig:
    return HNASConfig(evolution=evolution, population=population, generations=generations, objective="macs")


def problem(folder: RunFolder, limits: Sequence[Limit] = ()) -> Problem:
    return make_problem(SPACE, None, limits, None, folder, 0)  # type: ignore[arg-type] # without data


@pytest.mark.parametrize("algorithm", ["ces", "spos", "random"])
def test_candidates_meet_the_limits_and_are_evaluated_once(tmp_path: Path, algorithm: str) -> None:
    oracle = Oracle()
    found = run(tmp_path / "r", algorithm, oracle)
    genes = np.array([SPACE.encode(SPACE.architecture(c.options)) for c in found])
    assert satisfied(TABLES, LIMITS, genes).all()
    assert len(oracle.asked) == len(set(oracle.asked)) == len(found)
    assert [c.macs for c in found] == TABLES["macs"].of(genes).tolist()
    assert RunFolder.open(tmp_path / "r").candidates("evolve2") == {",".join(c.options): c.val_accuracy for c in found}


@pytest.mark.parametrize("algorithm", ["ces", "spos", "random"])
def test_an_interrupted_evolution_goes_on_bit_for_bit(tmp_path: Path, algorithm: str) -> None:
    whole = run(tmp_path / "whole", algorithm, Oracle())
    asked = 0
    for fail_after in (20, 25, 60):
        oracle = Oracle(fail_after)
        with contextlib.suppress(KeyboardInterrupt):
            run(tmp_path / "parts", algorithm, oracle)
        asked += len(oracle.asked)
    last = Oracle()
    parts = run(tmp_path / "parts", algorithm, last)
    assert parts == whole
    assert asked + len(last.asked) == len(whole)  # nothing twice, over all processes


def test_evolution_finds_better_candidates_than_chance(tmp_path: Path) -> None:
    limits = (Limit("macs", high=60e6),)
    found = {a: run(tmp_path / a, a, Oracle(), 20, limits) for a in ("ces", "spos", "random")}
    assert dominated_area(found["ces"]) > dominated_area(found["random"])  # what the paper's search is for
    best = {a: max(c.val_accuracy for c in candidates) for a, candidates in found.items()}
    assert best["spos"] > best["random"]


def dominated_area(candidates: list[Candidate]) -> float:
    """Area between the front and the corner (0 accuracy, 60 M MACs)."""
    area, best = 0.0, 0.0
    ordered = sorted(candidates, key=lambda c: c.macs)
    for c, following in zip(ordered, [*(d.macs for d in ordered[1:]), 60e6], strict=True):
        best = max(best, c.val_accuracy)
        area += best * (following - c.macs)
    return area


def test_a_space_that_the_effort_covers_is_evaluated_completely(tmp_path: Path) -> None:
    names = SPACE.skeleton.site_names
    small = SPACE.restrict(dict.fromkeys(names[:4], "k3_e3"))  # 81 left
    oracle = Oracle()
    folder = RunFolder.create(tmp_path / "r", RUN)
    config = effort("ces", 16, 6)
    found = evolve(small, oracle, problem(folder), "p", config)
    assert sorted(c.options for c in found) == sorted(a.options for a in small)
    impossible = (Limit("macs", high=1.0),)
    with pytest.raises(LimitError, match="none of the 81 architectures"):
        evolve(small, oracle, problem(folder, impossible), "q", config)


def test_state_is_json_and_restores_the_next_children() -> None:
    config = effort("ces", 16, 5)
    rng = np.random.default_rng(0)
    a = start(SPACE, budget(LIMITS), config, rng)
    assert isinstance(a, ConstrainedNSGA2)
    for _ in range(3):
        genes = a.ask()
        a.tell(genes, np.c_[genes.sum(1), -genes[:, 0]].astype(float))
    b = start(SPACE, budget(LIMITS), config, np.random.default_rng(7))
    b.restore(json.loads(json.dumps(a.state)))
    for _ in range(3):
        ours, theirs = a.ask(), b.ask()
        assert ours.tolist() == theirs.tolist()
        for algorithm in (a, b):
            algorithm.tell(ours, np.c_[ours.sum(1), -ours[:, 0]].astype(float))


def test_fixed_sites_are_no_variables(tmp_path: Path) -> None:
    names = SPACE.skeleton.site_names
    small = SPACE.restrict({names[0]: ["k5_e6"], names[5]: ["skip"]})
    folder = RunFolder.create(tmp_path / "r", RUN)
    found = evolve(small, Oracle(), problem(folder), "p", effort("ces", 16, 3))
    assert {(c.options[0], c.options[5]) for c in found} == {("k5_e6", "skip")}
    assert len(found) > 40

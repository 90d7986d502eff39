"""Controls on the same core and the same budget: single-path one-shot search (SPOS) and random search.

Both train one supernet for as many epochs as HNAS trains all of its stages, with its first learning rate, and
search it once with as many evaluations as HNAS' last search. Nothing is pruned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hiernas.data.split import ImageData
from hiernas.methods.hnas import PRESETS, plan
from hiernas.problem import CHAINS, TINY, Found, Method, Problem
from hiernas.search.evolution import search_supernet, train_supernet
from hiernas.search.ranking import most_accurate, pareto_front


def spos(problem: Problem, config: Any) -> Found:
    """SPOS (Guo et al. 2020, arXiv 1904.00420) with its own evolution; `config` is HNAS'."""
    return _one_shot(problem, config, "spos")


def random_search(problem: Problem, config: Any) -> Found:
    """Random feasible architectures, judged by the same supernet; `config` is HNAS'."""
    return _one_shot(problem, config, "random")


def _one_shot(problem: Problem, config: Any, algorithm: str) -> Found:
    config = replace(config, stages=2, evolution=algorithm)
    supernet = problem.supernet(problem.space)
    train_supernet(supernet, problem, config.trainings()[0], config)
    found = search_supernet(supernet, problem, "evolve2", config)
    front, chosen = tuple(pareto_front(found, config.objective)), most_accurate(found, config.objective)
    judge = problem.trainer.evaluator(supernet, config.train, config.calibration_images)
    return Found(problem.space, front, chosen, candidates=tuple(found), judge=judge)


def plan_once(config: Any, data: ImageData) -> dict[str, float]:
    """Work per phase: one supernet, searched once."""
    return plan(replace(config, stages=2), data)


METHODS = {
    "spos": Method(spos, PRESETS, plan_once, TINY, CHAINS, inherits=True, control="search"),
    "random-search": Method(random_search, PRESETS, plan_once, TINY, CHAINS, inherits=True, control="search"),
}

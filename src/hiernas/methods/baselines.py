"""Controls on the same core and the same budget: single-path one-shot search (SPOS) and random search.

Both train one supernet for as many epochs as HNAS trains all of its stages, with its first learning rate, and
search it once with as many evaluations as HNAS' last search. Nothing is pruned.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from hiernas.data.split import ImageData
from hiernas.methods.hnas import PRESETS, plan
from hiernas.problem import CHAINS, TINY, Found, Method, Problem
from hiernas.search.evolution import search_supernet, train_supernet
from hiernas.search.ranking import most_accurate, pareto_front


def one_shot(problem: Problem, config: Any, algorithm: str) -> Found:
    """One supernet, searched by SPOS' own evolution (Guo et al. 2020, arXiv 1904.00420) or at random; `config` is HNAS'."""
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
    name: Method(partial(one_shot, algorithm=algorithm), PRESETS, plan_once, TINY, CHAINS, inherits=True, control="search")
    for name, algorithm in {"spos": "spos", "random-search": "random"}.items()
}

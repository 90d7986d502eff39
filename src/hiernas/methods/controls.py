"""Controls without a search: what one would take if there were none. They share limits, tables and final training with it.

One network drawn within the limits; as many of them, trained briefly, as a search costs, of which the best is taken; many of
them, put in order untrained by NASWOT (arXiv 2006.04647); and the largest regular network. All but NASWOT take every kind of
space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from hiernas.data.split import ImageData
from hiernas.errors import LimitError
from hiernas.methods.hnas import PRESETS as HNAS
from hiernas.problem import CHAINS, TINY, Config, Found, Method, Problem, brief_work
from hiernas.randomness import numpy_generator
from hiernas.search.decided import regular
from hiernas.search.ranking import candidate_of
from hiernas.space import SearchSpace
from hiernas.train.recipes import Recipe


@dataclass(frozen=True)
class ControlConfig(Config):
    """Settings of a control: those of the final training, which is all that it does."""

    objective: Literal["auto", "latency_ms", "macs", "params"] = "auto"  # of the limit that is chosen where none is given
    final_epochs: PositiveInt = 240  # of the training from scratch
    final_lr: PositiveFloat = 0.5  # initial learning rate of it
    train: Recipe = field(default_factory=lambda: HNAS["paper"].train)

@dataclass(frozen=True)
class RandomKConfig(ControlConfig):
    finalists: Annotated[int, Field(ge=2)] = 20  # k: drawn and trained, the better half for twice as long, until one is left
    finalist_epochs: PositiveInt = 4  # of the first trainings, on the training images alone; their learning rate is `final_lr`
    calibration_images: Annotated[int, Field(ge=2)] = 1000  # for batch-norm statistics after a brief training, or all


@dataclass(frozen=True)
class NaswotConfig(ControlConfig):
    drawn: Annotated[int, Field(ge=2)] = 200  # networks that NASWOT is computed of
    prior: ClassVar[str] = "naswot"
    predictor: Literal["none", "linear"] = "linear"  # what learns from their values, and adds networks of its own
    finalists: PositiveInt = 5  # the first in order, of which brief trainings leave one; 1: the first is taken
    finalist_epochs: PositiveInt = 4  # of the first of them; of each half that is left twice as many
    calibration_images: Annotated[int, Field(ge=2)] = 1000  # for batch-norm statistics after a brief training, or all


def random_network(problem: Problem, config: ControlConfig) -> Found:
    """One network, drawn evenly from those within the limits."""
    return drawn(problem, 1, "random")


def random_k(problem: Problem, config: RandomKConfig) -> Found:
    """`finalists` of them, of which the program trains each briefly, and the better ones for longer, until one is left."""
    return drawn(problem, config.finalists, "random-k")


def naswot(problem: Problem, config: NaswotConfig) -> Found:
    """`drawn` networks that nothing is known of. The program (`hiernas.run.finalists`) puts them in order by NASWOT.

    What the values say of each layer's operations, a linear predictor learns, and it adds the networks that it puts first.
    The first few are trained briefly before one is taken.
    """
    return drawn(problem, config.drawn, "naswot")


def plain(problem: Problem, config: ControlConfig) -> Found:
    """The largest regular network within the limits: in a chain the same operation everywhere, in cells the plainest one.

    Where no network of one operation meets them, that of as many equal layers as there can be. Of several, the one with
    the most multiply-adds.
    """
    genes = [problem.budget.best(problem.space, strengths) for strengths in _regular(problem.space)]
    macs = problem.budget.tables(problem.space)["macs"].of(np.array(genes))
    equal = [_most_equal(problem.space, row) for row in genes]
    chosen = max(range(len(genes)), key=lambda i: (equal[i], macs[i]))
    return _untrained(problem, genes[chosen], {"control": "plain"})


def drawn(problem: Problem, n: int, control: str) -> Found:
    """Up to `n` different networks within the limits, as candidates where one of them is to be chosen."""
    genes = problem.budget.sample(problem.space, numpy_generator(problem.seed, "control"), n)
    if not len(genes):
        raise LimitError(f"found no architecture of '{problem.space.name}' within the limits; widen them")
    found = [_untrained(problem, row, {"control": control}) for row in genes]
    return replace(found[0], candidates=tuple(one.chosen for one in found) if n > 1 else ())


def _untrained(problem: Problem, genes: np.ndarray, details: dict[str, Any]) -> Found:
    """An architecture that nothing is known of but its costs."""
    chosen = candidate_of(problem.space, genes, math.nan, problem.budget.tables(problem.space))
    return Found(problem.space, (chosen,), chosen, details=details)


def _regular(space: SearchSpace) -> list[list[np.ndarray]]:
    """Strengths of regular networks, per site [options]: of a chain one for each operation that a site has."""
    if space.skeleton.searched != "blocks":
        return [regular(space)]
    operations = dict.fromkeys(o for d in space.decisions for o in d.options if o != "skip")
    return [[np.array([float(o == wanted) for o in d.options]) for d in space.decisions] for wanted in operations]


def _most_equal(space: SearchSpace, genes: np.ndarray) -> int:
    """How many sites of a chain have the operation that most of them have, as far as they offer it."""
    options = space.decode(genes).options
    return max(sum(o == wanted for o in options) for wanted in set(options) - {"skip"} or {"skip"})


def final_training(preset: str) -> dict[str, Any]:
    config = HNAS[preset]
    return {"train": config.train, "final_epochs": config.final_epochs, "final_lr": config.final_lr}


PRESETS = {preset: ControlConfig(**final_training(preset)) for preset in HNAS}
K_PRESETS = {
    "quick": RandomKConfig(**final_training("quick"), finalists=8, finalist_epochs=5, calibration_images=300),
    "small": RandomKConfig(**final_training("small"), finalists=8, finalist_epochs=1, calibration_images=500),
    "paper": RandomKConfig(**final_training("paper")),
}


NASWOT = {
    "quick": NaswotConfig(**final_training("quick"), finalist_epochs=5, calibration_images=300),
    "small": NaswotConfig(**final_training("small"), finalist_epochs=1, calibration_images=500),
    "paper": NaswotConfig(**final_training("paper")),
}


def as_much(config: RandomKConfig, data: ImageData, work: float) -> list[str]:
    """As many networks as can be trained briefly in the work of a search, in forward passes of an image; 2 at least."""
    most = 2
    while sum(brief_work(replace(config, finalists=most + 1), data).values()) <= work:
        most += 1
    return [f"finalists={most}"]


METHODS = {
    "random": Method(random_network, PRESETS, lambda config, data: {}, TINY, lambda space: None, control="unsearched"),
    "random-k": Method(random_k, K_PRESETS, brief_work, TINY, lambda space: None, control="unsearched", matching=as_much),
    "naswot": Method(naswot, NASWOT, lambda c, data: brief_work(c, data, c.drawn), TINY, CHAINS, control="unsearched"),
    "plain": Method(plain, PRESETS, lambda config, data: {}, TINY, lambda space: None, control="unsearched"),
}

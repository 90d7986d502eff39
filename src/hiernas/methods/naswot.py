"""A choice without a search: networks drawn within the limits are put in order by NASWOT (arXiv 2006.04647).

What the values say of each layer's operations, a linear predictor learns, and it adds the networks that it puts first.
The program computes both, and trains the first few briefly before it takes one (`hiernas.run.finalists`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from hiernas.data.split import ImageData
from hiernas.methods.controls import ControlConfig, drawn, final_training
from hiernas.problem import CHAINS, TINY, Found, Method, Problem, brief_work


@dataclass(frozen=True)
class NaswotConfig(ControlConfig):
    """Settings of `naswot`."""

    drawn: Annotated[int, Field(ge=2)] = 200  # networks that NASWOT is computed of
    prior: ClassVar[str] = "naswot"
    predictor: Literal["none", "linear"] = "linear"  # what learns from their values, and adds networks of its own
    finalists: PositiveInt = 5  # the first in order, of which brief trainings leave one; 1: the first is taken
    finalist_epochs: PositiveInt = 4  # of the first of them; of each half that is left twice as many
    calibration_images: Annotated[int, Field(ge=2)] = 1000  # for batch-norm statistics after a brief training, or all


def naswot(problem: Problem, config: NaswotConfig) -> Found:
    """`drawn` networks that nothing is known of."""
    return drawn(problem, config.drawn, "naswot")


def plan(config: NaswotConfig, data: ImageData) -> dict[str, float]:
    """Work per phase."""
    return brief_work(config, data, config.drawn)


PRESETS = {
    "quick": NaswotConfig(**final_training("quick"), finalist_epochs=5, calibration_images=300),
    "small": NaswotConfig(**final_training("small"), finalist_epochs=1, calibration_images=500),
    "paper": NaswotConfig(**final_training("paper")),
}

METHODS = {"naswot": Method(naswot, PRESETS, plan, TINY, CHAINS, control="unsearched")}

"""HNAS: hierarchical operation pruning for one-shot search (arXiv 2005.07564v1, Algorithm 1).

Train a supernet by uniform single paths; search it under the limits; drop each layer's operations that the
best ranks do not use; fine-tune what is left; repeat. M = 2 is the paper's I-Supernet, M = 3 P-Supernet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from hiernas.data.split import ImageData
from hiernas.errors import ConfigError
from hiernas.problem import CHAINS, TINY, Config, Found, Method, Problem, Pruning, brief_work, training_work
from hiernas.search.evolution import LOOKS, MONITORED, search_supernet, train_supernet
from hiernas.search.ranking import at_least, most_accurate, operation_frequency, pareto_front
from hiernas.train.recipes import Phase, Recipe


@dataclass(frozen=True)
class HNASConfig(Config):
    """Settings of HNAS; the defaults are the paper's (section 4.1) on its own scale."""

    stages: Annotated[int, Field(ge=2)] = 4  # M: initial training, M - 2 prunings with fine-tuning, final search
    epochs: tuple[PositiveInt, ...] = (120, 80, 40)  # of each supernet training; with a smaller M the last one takes the rest
    lr: tuple[PositiveFloat, ...] = (0.5, 0.1, 0.1)  # initial learning rate of each
    train: Recipe = field(default_factory=lambda: Recipe(batch_size=1024, label_smoothing=0.1))
    population: Annotated[int, Field(ge=4)] = 64  # networks of a generation
    generations: NonNegativeInt = 40  # after the initial population
    p_th: Annotated[float, Field(ge=0, le=1)] = 0.01  # P_th: operations used less often are dropped, per layer
    rank_below: Annotated[int, Field(ge=2)] = 10  # the ranks that count, 1-based
    evolution: Literal["ces", "spos", "random"] = "ces"  # the paper's; SPOS' (its Fig. 7); random feasible architectures
    objective: Literal["auto", "latency_ms", "macs", "params"] = "auto"  # minimised beside the error; auto: what is limited
    calibration_images: Annotated[int, Field(ge=2)] = 1000  # training images for a candidate's batch-norm statistics, or all
    prior: Literal["none", "naswot"] = "none"  # what orders the candidates in the end beside their accuracies
    predictor: Literal["none", "linear"] = "none"  # what learns from both, and adds networks of its own
    finalists: PositiveInt = 1  # the most accurate candidates, of which brief trainings leave one; 1: no such step
    finalist_epochs: PositiveInt = 1  # of the first of them; of each half that is left twice as many
    final_epochs: PositiveInt = 240  # training of the chosen network from scratch
    final_lr: PositiveFloat = 0.5  # initial learning rate of it

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.epochs) < self.stages - 1 or len(self.lr) < self.stages - 1:
            given = f"epochs has {len(self.epochs)} and lr has {len(self.lr)}"
            raise ConfigError(f"stages={self.stages} needs {self.stages - 1} values of epochs and lr (epochs=[4,2,1]); {given}")

    def trainings(self) -> list[Phase]:
        """The supernet trainings. All M share one total of epochs, so that they can be compared."""
        n = self.stages - 1
        epochs = [*self.epochs[: n - 1], sum(self.epochs[n - 1 :])]
        return [Phase(f"train{i + 1}", epochs[i], self.lr[i]) for i in range(n)]


def hnas(problem: Problem, config: HNASConfig) -> Found:
    """HNAS (arXiv 2005.07564v1), Algorithm 1: the Pareto front of the last search, and its most accurate member."""
    space, prunings, trainings = problem.space, [], config.trainings()
    supernet = problem.supernet(space)
    train_supernet(supernet, problem, trainings[0], config)  # line 1
    for k in range(2, config.stages):  # line 2
        found = search_supernet(supernet, problem, f"evolve{k}", config)  # line 3
        p = operation_frequency(found, space, config.objective, config.rank_below)  # lines 4-6
        smaller = space.restrict(at_least(p, config.p_th))  # line 7
        prunings.append(Pruning(k, p, space.size(), smaller))
        problem.run.event("pruned", **prunings[-1].summary())
        space, supernet = smaller, supernet.restrict(smaller)
        train_supernet(supernet, problem, trainings[k - 1], config)  # line 8
    found = search_supernet(supernet, problem, f"evolve{config.stages}", config)  # line 10
    front, chosen = pareto_front(found, config.objective), most_accurate(found, config.objective)
    judge = problem.trainer.evaluator(supernet, config.train, config.calibration_images)
    return Found(problem.space, tuple(front), chosen, tuple(prunings), candidates=tuple(found), judge=judge)  # line 11


QUICK = HNASConfig(  # digits: 3.5 minutes on 2 idle cores, 99.2 % test accuracy with seed 0 (docs/log.md)
    epochs=(30, 15, 10), lr=(0.2, 0.1, 0.1), population=24, generations=8, calibration_images=300,
    predictor="linear", final_epochs=60, final_lr=0.1,
    train=Recipe(batch_size=64, weight_decay=5e-4, schedule="cosine", warmup_epochs=2, label_smoothing=0.1, grad_clip=5.0),
)  # fmt: skip
SMALL = HNASConfig(  # 10,000 to 100,000 small images on 2 cores; CIFAR-10: 33 minutes beside other work (docs/log.md)
    epochs=(4, 2, 2), lr=(0.2, 0.1, 0.1), population=24, generations=6, calibration_images=500,
    predictor="linear", final_epochs=7, final_lr=0.3,
    train=Recipe(batch_size=128, weight_decay=1e-4, schedule="cosine", warmup_epochs=0.5, label_smoothing=0.1, grad_clip=5.0),
)  # fmt: skip
PAPER = HNASConfig()  # ImageNet on a large GPU: 240 epochs of supernet training and 240 of final training; days

PRESETS = {"quick": QUICK, "small": SMALL, "paper": PAPER}


def plan(config: HNASConfig, data: ImageData) -> dict[str, float]:
    """Work per phase; candidates share the beginnings of their paths."""
    work: dict[str, float] = {}
    candidates = config.population * (config.generations + 1)
    images = len(data.val) + min(config.calibration_images, len(data.train))
    for i, phase in enumerate(config.trainings()):
        looks = MONITORED * min(LOOKS, phase.epochs)  # at candidates, while a supernet is trained
        work[phase.name] = training_work(phase.epochs, len(data.train)) + looks * images
        work[f"evolve{i + 2}"] = 0.6 * candidates * images
    return {**work, **brief_work(config, data, candidates)}


METHODS = {"hnas": Method(hnas, PRESETS, plan, TINY, CHAINS, inherits=True)}

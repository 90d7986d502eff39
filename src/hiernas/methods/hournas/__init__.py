"""HourNAS: extremely fast search through an hourglass lens (CVPR 2021, arXiv 2005.14446v3, Algorithm 1).

Search the vital blocks, those on every path from input to output, in the network that has nothing else; fix them.
Then search the other blocks inside space proposals, distributions whose architectures meet the cost targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from hiernas.data.split import ImageData, Split, shares
from hiernas.errors import ConfigError, SpaceError
from hiernas.methods.hournas import proposals
from hiernas.methods.hournas.architect import Estimator, ProposalArchitect, Sampling
from hiernas.problem import CHAINS, TINY, Config, Found, Method, Problem, Pruning, brief_work, training_work
from hiernas.randomness import numpy_generator
from hiernas.search.ranking import Ledger, pareto_front
from hiernas.space import SearchSpace
from hiernas.train.recipes import Phase, Recipe

SEPARATED = 0.9  # share of the entropy of equal probabilities, above which a search of vital blocks has decided nothing


@dataclass(frozen=True)
class HourNASConfig(Config):
    """Settings of HourNAS; the defaults are the paper's (section 4.1) on its own scale."""

    vital_epochs: PositiveInt = 1  # E_vital
    epochs: PositiveInt = 1  # E_n-vital
    vital_prior: bool = True  # False: all blocks are searched together, for the twofold time (section 4.3)
    lr: PositiveFloat = 0.1  # initial learning rate of the weights, in both searches
    train: Recipe = field(default_factory=lambda: Recipe(batch_size=256, schedule="cosine"))
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of the training images: those that the architecture learns from
    proposals: PositiveInt = 8  # m
    proposal_iterations: PositiveInt = 1000  # I_sp
    architecture_lr: PositiveFloat = 0.01  # Adam, for theta and Pi
    tau: PositiveFloat = 5.0  # first temperature
    tau_end: PositiveFloat = 0.01  # last one, of the proposals' optimisation and of each search: 5.0 * 0.9999^62143
    alpha: NonNegativeFloat = 5.0  # weight of the regulariser T (Eq. 10), which is never larger than the task
    beta: NonNegativeFloat = 0.01  # weight of the orthogonality of the proposals (Eq. 7) when they are made; 0: without it
    sampling: Sampling = "gumbel_max"  # how a step's path is drawn from the logits
    estimator: Estimator = "score"  # of the gradient through one sampled network; straight_through: the gates' own
    objective: Literal["auto", "latency_ms", "macs", "params"] = "auto"  # of the front; auto: what is limited
    calibration_images: Annotated[int, Field(ge=2)] = 1000  # training images for a candidate's batch-norm statistics, or all
    prior: Literal["none", "naswot"] = "none"  # what orders the candidates in the end beside their accuracies
    finalists: PositiveInt = 1  # the proposals' best networks, of which brief trainings leave one; 1: no such step
    finalist_epochs: PositiveInt = 1  # of the first of them; of each half that is left twice as many
    final_epochs: PositiveInt = 350  # training of the chosen network from scratch
    final_lr: PositiveFloat = 0.25  # initial learning rate of it

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau_end > self.tau:
            raise ConfigError(f"tau_end={self.tau_end} is above tau={self.tau}; the temperature falls")
        if self.sampling == "gumbel_softmax" and self.estimator != "score":
            raise ConfigError("estimator is that of one sampled network; with sampling=gumbel_softmax leave it out")
        if self.train.precision == "16-mixed" and (self.sampling, self.estimator) != ("gumbel_max", "score"):
            raise ConfigError("train.precision=16-mixed scales the architecture's gradients; use bf16-mixed or 32-true")


def hournas(problem: Problem, config: HourNASConfig) -> Found:
    """HourNAS (arXiv 2005.14446v3): vital blocks first, then the others inside space proposals that meet the limits."""
    space, prunings = problem.space, []
    images, validation = shares(problem.data.train, config.share, problem.seed)  # D_train, D_val
    supernet = problem.supernet(space)
    if config.vital_prior and vital_sites(space):
        minimal = minimal_space(space, problem)  # Alg. 1, line 2
        smallest = supernet.restrict(minimal)
        theta = search_vital(smallest, images, validation, problem, config)  # lines 3-10
        fixed = fix_vital(space, theta, minimal, problem)  # line 11
        prunings.append(Pruning(2, _frequency(minimal, theta, config), space.size(), fixed))
        problem.run.event("pruned", **prunings[-1].summary())
        space, supernet = fixed, supernet.restrict(fixed)
        supernet.load_state_dict(smallest.state_dict(), strict=False)  # the vital blocks keep what they learned
    aims = proposals.aims_of(space, problem.budget)
    targets = proposals.make_targets(space, problem.budget.tables(space), aims)
    theta = space_proposals(targets, problem, config)  # line 13
    problem.run.event("proposals", aims=aims)
    architect = ProposalArchitect(theta, targets.options, validation, config, targets)
    phase = Phase(f"train{len(prunings) + 1}", joint_epochs(config), config.lr)
    problem.trainer.fit(supernet, images, phase, config.train, architect=architect)  # lines 15-22
    return _found(space, supernet, architect, tuple(prunings), theta, targets, problem, config)  # line 23


def joint_epochs(config: HourNASConfig) -> int:
    """Of the search inside the proposals. Without the prior it has the time of both searches twice, as in the paper:
    one epoch of an hour and one of two hours there, three epochs of two hours here.
    """
    return config.epochs if config.vital_prior else config.vital_epochs + 2 * config.epochs


def vital_sites(space: SearchSpace) -> tuple[str, ...]:
    """The vital sites of a chain space, in order (section 3.1): those on every path from input to output.

    Information passes through a block or around it, by the identity. Where there is no way around, in stems, heads, and
    blocks that change width or resolution, the block is vital. There is a way around a block that can be skipped, and
    around one through whose every option an identity leads. Raises `SpaceError` for spaces of cells.
    """
    if space.skeleton.searched != "blocks":
        raise SpaceError(
            f"vital blocks are those of chains of layers, and '{space.name}' is a space of cells; name a chain space "
            "(`hiernas list spaces`), or one network of cells (`hiernas list networks`)"
        )
    chain: Any = space.skeleton  # which alone knows where an identity leads around a block
    around = chain.ways_around(space.decisions)
    return tuple(d.name for d, way_around in zip(space.decisions, around, strict=True) if not way_around)


def minimal_space(space: SearchSpace, problem: Problem) -> SearchSpace:
    """The vital blocks with all their options; the others skipped, or at their cheapest where they cannot be."""
    vital, macs = set(vital_sites(space)), problem.budget.tables(space)["macs"]
    kept = {}
    for decision, row in zip(space.decisions, macs.sites, strict=True):
        cheapest = "skip" if "skip" in decision.options else decision.options[int(row.argmin())]
        kept[decision.name] = decision.options if decision.name in vital else (cheapest,)
    return space.restrict(kept)


def search_vital(supernet: Any, images: Split, validation: Split, problem: Problem, config: HourNASConfig) -> np.ndarray:
    """The architecture parameters of the vital blocks, trained with the weights of the minimal supernet: [L, O]."""
    options = proposals.option_mask(supernet.space)
    theta = proposals.fresh_parameters(1, options, numpy_generator(problem.seed, "vital"))
    architect = ProposalArchitect(theta, options, validation, config)
    phase = Phase("train1", config.vital_epochs, config.lr)
    problem.trainer.fit(supernet, images, phase, config.train, architect=architect)
    return architect.theta[0]


def fix_vital(space: SearchSpace, theta: np.ndarray, minimal: SearchSpace, problem: Problem) -> SearchSpace:
    """The space whose vital blocks are fixed to their most probable options with which the limits can be met."""
    vital = set(vital_sites(space))
    rows = [
        row[: len(left.options)] if decision.name in vital else np.zeros(len(decision.options))
        for decision, left, row in zip(space.decisions, minimal.decisions, theta, strict=True)
    ]
    genes = problem.budget.best(space, rows)
    chosen = {d.name: d.options[g] for d, g in zip(space.decisions, genes, strict=True) if d.name in vital}
    return space.restrict({site: (option,) for site, option in chosen.items()})


def space_proposals(targets: proposals.Targets, problem: Problem, config: HourNASConfig) -> np.ndarray:
    """The m proposals, optimised once: a resumed run takes up the same ones."""
    saved = problem.run.load_tensors("proposals")
    if saved is not None:
        return saved[0]["theta"].numpy().copy()
    with problem.run.timed("proposals"):
        theta = proposals.optimise_proposals(targets, config, numpy_generator(problem.seed, "proposals"))
    problem.run.save_tensors("proposals", {"theta": torch.from_numpy(theta)}, {})
    return theta


def _found(
    space: SearchSpace, supernet: Any, architect: ProposalArchitect, prunings: tuple[Pruning, ...], theta: np.ndarray,
    targets: proposals.Targets, problem: Problem, config: HourNASConfig,
) -> Found:  # fmt: skip
    """Every proposal's most probable architecture within the limits, or the most probable that is; the best one's is chosen."""
    options, budget = architect.options, problem.budget
    free = [np.where(options, t, -np.inf).argmax(-1) for t in architect.theta]
    genes = [
        g if budget.met(space, g[None])[0] else budget.best(space, proposals.gains(t, options))
        for g, t in zip(free, architect.theta, strict=True)
    ]
    evaluate = problem.trainer.evaluator(supernet, config.train, config.calibration_images)
    ledger = Ledger(space, evaluate, config.objective, "evolve2", problem)
    candidates = ledger.evaluate(np.array(genes))
    rows = [
        {"weight": w, "options": list(c.options), "val_accuracy": c.val_accuracy, "moved": int((a != b).sum())}
        for w, c, a, b in zip(architect.summary()["proposals"], candidates, genes, free, strict=True)
    ]
    details = {
        "vital": list(vital_sites(problem.space)),
        "aims": dict(zip(targets.metrics, targets.absolute.tolist(), strict=True)),
        "proposals": rows,
        "best": architect.best,
        "spread": proposals.spread(space, budget.tables(space), targets, theta, config.tau, config.tau_end, problem.seed),
    }
    front = tuple(pareto_front(candidates, config.objective))
    every, doubts = tuple(ledger.candidates), undecided(prunings)
    return Found(problem.space, front, candidates[architect.best], prunings, details, candidates=every, doubts=doubts)


def undecided(prunings: tuple[Pruning, ...]) -> tuple[str, ...]:
    """A doubt where the vital blocks' probabilities ended near equal ones: the greatest is then that of the first draw."""
    rows = [np.array([*row.values()]) for p in prunings for row in p.frequency.values()]
    entropy = -sum(float((row * np.log(np.where(row > 0, row, 1.0))).sum()) for row in rows)
    most = sum(math.log(len(row)) for row in rows)
    if entropy <= SEPARATED * most:
        return ()
    return (
        f"the search for vital blocks has decided nothing: its probabilities ended at {entropy / most:.2%} of the entropy of "
        f"equal ones (decided: {SEPARATED:.0%} at the most), and what the blocks were fixed to is chance; search for longer "
        "(--set vital_epochs=...) or let the architecture learn faster (--set architecture_lr=...)",
    )


def _frequency(space: SearchSpace, theta: np.ndarray, config: HourNASConfig) -> dict[str, dict[str, float]]:
    p = proposals.probabilities(theta[None], proposals.option_mask(space), 0.0, config.tau_end)[0]
    rows = zip(space.decisions, p, strict=True)
    return {d.name: {option: float(x) for option, x in zip(d.options, row, strict=False)} for d, row in rows}


def plan(config: HourNASConfig, data: ImageData) -> dict[str, float]:
    """Work per phase: a step of the architecture takes about as long as one of the weights."""
    epochs = [config.vital_epochs] * config.vital_prior + [joint_epochs(config)]
    trainings = {f"train{i}": training_work(e, len(data.train)) for i, e in enumerate(epochs, 1)}
    return {**trainings, **brief_work(config, data, config.proposals)}


PRESETS: dict[str, Any] = {
    "quick": HourNASConfig(
        vital_epochs=20, epochs=40, lr=0.2, share=0.4, architecture_lr=0.03, calibration_images=300, final_epochs=60,
        final_lr=0.1, train=Recipe(batch_size=64, weight_decay=5e-4, schedule="cosine", label_smoothing=0.1, grad_clip=5.0),
    ),
    "small": HourNASConfig(
        vital_epochs=2, epochs=6, calibration_images=500, final_epochs=7, final_lr=0.3,
        train=Recipe(batch_size=128, weight_decay=1e-4, schedule="cosine", label_smoothing=0.1, grad_clip=5.0),
    ),
    "paper": HourNASConfig(),  # ImageNet on a large GPU: two epochs of search, 350 of final training
}  # fmt: skip

METHODS = {"hournas": Method(hournas, PRESETS, plan, TINY, CHAINS, inherits=True)}

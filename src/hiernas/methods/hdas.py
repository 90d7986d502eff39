"""H-DAS: unchained differentiable search (AAAI 2021, arXiv 2101.04028v2): cells, their number, and the graphs between them.

Three searches, each of which restricts the next: cells of each stage's own (H^c); the number of cells of each stage; and
the graph between the cells of each stage (H^s), under three rules and with a loss that asks for depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol, cast

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from hiernas.data.split import ImageData
from hiernas.problem import CELLS, Config, Found, Method, Problem, only, sized
from hiernas.search.alphas import AlphaArchitect, Extra, Logits, Softmax, by_strength, cost_penalty, mean_entropy, strengths
from hiernas.search.decided import NUMBER, Verdict
from hiernas.search.differentiable import QUICK, SEARCH, SMALL, SearchSettings, found, learn, plan, proxy, search_work
from hiernas.space import Choice, SearchSpace
from hiernas.train.recipes import DARTS, Recipe

INPUTS = 2  # states of a stage before its cells
FREE = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")  # the operations between cells (Rule 1)
Form = Literal["paper", "release"]


@dataclass(frozen=True)
class HDASConfig(Config):
    """Settings of one level of H-DAS; the defaults are the paper's on its own scale, but for the losses' weights.

    Those are measured (benchmarks/hdas_losses.py). The authors' are 1 and 0.4, in the form `release`: preset `paper`.
    """

    search: SearchSettings = field(default_factory=SearchSettings)
    cells: Annotated[int, Field(ge=3)] = 8  # of the network that cells are searched in
    channels: Annotated[int, Field(ge=2, multiple_of=2)] = 16  # of the networks that are searched in
    depth_form: Form = "paper"  # of the depth loss and its step: as printed, or as in the authors' code
    delta: NonNegativeFloat = 0.1  # weight of the depth loss (Eqs. 2, 4)
    gamma: NonNegativeFloat = 0.04  # weight of the number of cells (Eq. 5), where it is searched
    extra_cells: int = 2  # in the whole hierarchy: cells of a stage among which those given are found; 0: none
    least: int = 4  # N_min in the whole hierarchy
    objective: str = "params"  # the metric of the automatic limit
    calibration_images: Annotated[int, Field(ge=2)] = 1000  # for batch-norm statistics of what is found
    final_epochs: PositiveInt = 600  # training of the chosen network from scratch
    final_lr: PositiveFloat = 0.025  # initial learning rate of it
    train: Recipe = field(default_factory=lambda: DARTS)  # of the chosen network

def hdas_cells(problem: Problem, config: HDASConfig) -> Found:
    """H^c-DAS (arXiv 2101.04028v2): three normal and two reduction cells, each stage's own, searched as DARTS does."""
    encoding = Softmax(proxy(problem.space, config))
    extra = cost_penalty(problem.space, problem.budget, config.search.cost_weight)
    return found(learn(encoding, problem, config.search, "train1", extra), problem, config)


def hdas_stages(problem: Problem, config: HDASConfig, phase: str = "train1") -> Found:
    """H^s-DAS (arXiv 2101.04028v2): the graph between the cells of each stage, with the depth loss (Eq. 2).

    In a space where the number of cells of each stage is searched, H-DAS' search for that, too (Eqs. 3 to 6).
    """
    result = found(_learned(problem, config, phase), problem, config, phase)
    shapes = graphs_of(result.space).shapes(result.architecture.choices)
    stages = [{"cells": s.cells, "depth": s.depth, "dead": s.dead} for s in shapes]
    return replace(result, details={**result.details, "stages": stages})


def _learned(problem: Problem, config: HDASConfig, phase: str) -> tuple[Any, AlphaArchitect, Verdict]:
    """The search by Eq. 6: beside the task depth, where it is searched the number of cells, and what exceeds the limits.

    In the form of the authors' code depth and number take a step of their own.
    """
    space, release = proxy(problem.space, config), config.depth_form == "release"
    losses = [(config.delta, depth_loss(space, config.depth_form))]
    if graphs_of(space).least is not None:
        losses.append((config.gamma, computation_loss(space)))
    penalty = cost_penalty(problem.space, problem.budget, config.search.cost_weight)
    extra = penalty if release else sum_of_losses(*losses, (1.0, penalty))
    apart = sum_of_losses(*losses) if release else None
    return learn(StageSoftmax(space, raw=release), problem, config.search, phase, extra, apart)


def hdas(problem: Problem, config: HDASConfig) -> Found:
    """H-DAS (arXiv 2101.04028v2): cells, then the number of cells of each stage, then the graphs between them."""
    stages = graphs_of(problem.space)
    genotype, moved, verdict = _cells(problem, config)
    verdicts, numbers = {"train1": verdict}, None
    if config.extra_cells:  # the second level: as many cells more in each stage, of which some are kept
        most = tuple(n + config.extra_cells for n in stages.cells)
        wider = stages.over(genotype, most, min(config.least, *most))
        numbers, verdicts["train2"] = _numbers(replace(problem, space=wider), config)
        problem.run.event("numbers", cells=list(numbers))
    last = replace(problem, space=stages.over(genotype, numbers))  # the third: the graphs
    result = hdas_stages(last, config, "train3")
    decided = {phase: v.record() for phase, v in verdicts.items()} | result.details["decided"]
    details = {"genotype": genotype.to_text(), "numbers": numbers, "moved_in_cells": moved, "decided": decided}
    doubts = [doubt for v in verdicts.values() for doubt in v.doubts()]
    return replace(result, details={**result.details, **details}, doubts=(*doubts, *result.doubts))


def _cells(problem: Problem, config: HDASConfig) -> tuple[Any, list[str] | None, Verdict]:
    """The first level: five cells, with the costs they will have in the stages, and the edges that the limits moved."""
    cells = graphs_of(problem.space).cell_space()
    encoding = Softmax(proxy(cells, config))
    penalty = cost_penalty(cells, problem.budget, config.search.cost_weight)
    _, architect, verdict = learn(encoding, problem, config.search, "train1", penalty)
    chosen = cells.decode(problem.budget.best(cells, architect.strengths()))
    rule = by_strength(encoding.space, architect.strengths())
    moved = [site for site, o in zip(cells.skeleton.site_names, chosen.options, strict=True) if o != rule[site]]
    skeleton: Any = cells.skeleton  # which alone knows its genotypes
    genotype = skeleton.genotype(chosen)
    problem.run.event("cells", genotype=genotype.to_text())
    return genotype, moved if verdict.decided else None, verdict


def _numbers(problem: Problem, config: HDASConfig) -> tuple[tuple[int, ...], Verdict]:
    """The number of cells of each stage (Eqs. 3 to 6), within the limits, and whether it was decided."""
    space, (_, architect, verdict) = problem.space, _learned(problem, config, "train2")
    chosen = space.decode(problem.budget.best(space, architect.strengths())).options
    numbers = [int(option) for site, option in zip(space.skeleton.site_names, chosen, strict=True) if site.endswith(NUMBER)]
    return tuple(numbers * (len(graphs_of(space).cells) // len(numbers))), verdict  # one for all stages that share a graph


def plan_whole(config: HDASConfig, data: ImageData) -> dict[str, float]:
    """Work of the whole hierarchy: one search for each level."""
    work = search_work(config.search, data)
    return {f"train{i}": work for i in ((1, 2, 3) if config.extra_cells else (1, 3))}


# -- depth of stage graphs, and the losses on it: as printed (Eqs. 2, 4, 5), and as released -----------------------------


class StageGraphs(Protocol):
    """What H-DAS asks of the skeleton of a space of stage graphs (`hiernas.networks.stage.StageNetwork`)."""

    @property
    def cells(self) -> tuple[int, ...]: ...  # per stage
    @property
    def least(self) -> int | None: ...  # cells of a stage, where their number is searched
    def graph_name(self, stage: int) -> str: ...  # what the names of a stage's sites begin with
    def edges(self, stage: int) -> Iterator[tuple[int, int]]: ...  # (source, node): two inputs, then the cells
    def site(self, stage: int, source: int, node: int) -> str: ...
    def shapes(self, choices: Sequence[Choice]) -> Sequence[Any]: ...  # cells, depth and dead cells of each stage
    def cell_space(self) -> SearchSpace: ...  # of the cells that the stages are made of
    def over(self, genotype: Any, cells: tuple[int, ...] | None = None, least: int | None = None) -> SearchSpace:
        """The space of stage graphs over other cells, or over another number of them."""


def graphs_of(space: SearchSpace) -> StageGraphs:
    """The skeleton of a space of stage graphs; methods refuse other spaces before."""
    return cast(StageGraphs, space.skeleton)


class StageSoftmax(Softmax):
    """DARTS' encoding of stage graphs. `raw`: edges are compared by their logits as they are, as in the authors' code."""

    def __init__(self, space: SearchSpace, raw: bool) -> None:
        super().__init__(space)
        self.raw = raw

    def strengths(self, alphas: Logits, betas: Logits) -> list[np.ndarray]:
        return strengths(self.space, alphas, self.raw)

    def summary(self, alphas: Logits, betas: Logits, chosen: dict[str, str]) -> dict[str, Any]:
        """Entropies of the edges and of the numbers of cells, apart; mean depth of the stages, and dead cells."""
        found = super().summary(alphas, betas, chosen)
        numbers = [d.name.endswith(NUMBER) for d in self.space.decisions]
        p = [a.detach().softmax(0) for a in alphas]
        found["entropy"] = mean_entropy([q for q, number in zip(p, numbers, strict=True) if not number])
        if any(numbers):  # the betas of H-DAS
            found["beta_entropy"] = mean_entropy([q for q, number in zip(p, numbers, strict=True) if number])
        stages = graphs_of(self.space).shapes(self.space.architecture(chosen).choices)
        return {**found, "depth": float(np.mean([s.depth for s in stages])), "dead": sum(s.dead for s in stages)}


def depth_loss(space: SearchSpace, form: Form = "paper") -> Extra:
    """L_depth of the logits: Eq. 2, or Eq. 4 where the number of cells is searched; or what the authors' code has instead.

    alpha_ij is the softmax over the edges into a cell of each edge's strongest operation; depths of inputs are 0. The
    release divides by the number of those edges at each cell, which shrinks what is deep, and where the numbers are
    given it takes the logits of all operations as they are, `none` too, each with a recursion of its own.
    """
    skeleton, position = graphs_of(space), {d.name: i for i, d in enumerate(space.decisions)}
    raw = form == "release" and skeleton.least is None

    def weights(alphas: Sequence[Tensor], sites: Sequence[str]) -> Tensor:
        into = [(alphas[position[site]], space.decisions[position[site]].options) for site in sites]
        if raw:  # [edges, operations]; 0 for those that a restricted space has not
            rows = [[a[options.index(o)] if o in options else a.new_zeros(()) for o in FREE] for a, options in into]
            return torch.stack([torch.stack(row) for row in rows])
        kept = [(a, [i for i, option in enumerate(options) if option != "none"]) for a, options in into]
        strongest = [a[some].max() if some else a.new_full((), -torch.inf) for a, some in kept]
        return torch.stack(strongest).softmax(0)

    def loss(alphas: Sequence[Tensor]) -> Tensor:
        total = alphas[0].new_zeros(())
        for k in range(len(skeleton.cells)):
            beta = _by_number(space, k, alphas) if skeleton.least is not None else {}
            start = alphas[0].new_zeros(len(FREE) if raw else ())
            total = total + _stage_depth(skeleton, k, lambda sites: weights(alphas, sites), beta, form, start)
        return -total

    return loss


def _stage_depth(
    skeleton: StageGraphs, k: int, weights: Callable[[Sequence[str]], Tensor], beta: Mapping[int, Tensor], form: Form,
    start: Tensor,
) -> Tensor:  # fmt: skip
    """1/N sum_i 1/i sum_j alpha_ij (d_j + 1), with the factor 1 + i * softmax(beta) of Eq. 4 for cells that have a beta.

    i counts cells from 1; a beta belongs to the cell that would be the last one: N_min, N_min + 1, ... In the release i
    counts from 0, there is no 1/i, and the factor is part of d_i, so that deeper cells inherit it.
    """
    depth, total = {0: start, 1: start}, start
    for node in range(INPUTS, INPUTS + skeleton.cells[k]):
        i, edges = node - INPUTS + 1, [(s, n) for s, n in skeleton.edges(k) if n == node]
        deeper = torch.stack([depth[s] + 1.0 for s, _ in edges])
        depth[node] = (weights([skeleton.site(k, s, n) for s, n in edges]) * deeper).sum(0)
        if form == "paper":
            total = total + depth[node] * (1.0 + i * beta.get(i, 0.0)) / i
        else:
            depth[node] = depth[node] / len(edges) * (1.0 + (i - 1) * beta.get(i, 0.0))
            total = total + depth[node]
    return total.sum() / skeleton.cells[k]


def _by_number(space: SearchSpace, stage: int, alphas: Sequence[Tensor]) -> dict[int, Tensor]:
    """softmax(beta) of a stage by the number of cells."""
    site = graphs_of(space).graph_name(stage) + NUMBER
    decision, beta = next((d, a) for d, a in zip(space.decisions, alphas, strict=True) if d.name == site)
    return {int(n): p for n, p in zip(decision.options, beta.softmax(0), strict=True)}


def computation_loss(space: SearchSpace) -> Extra:
    """L_comp (Eq. 5) with theta = 1: the expected number of cells, summed over the stages."""

    def loss(alphas: Sequence[Tensor]) -> Tensor:
        terms = [n * p for k in range(len(graphs_of(space).cells)) for n, p in _by_number(space, k, alphas).items()]
        return torch.stack(terms).sum()

    return loss


def sum_of_losses(*losses: tuple[float, Extra]) -> Extra:
    """The weighted sum of losses; those of weight 0 are not computed."""

    def total(alphas: Sequence[Tensor]) -> Tensor:
        terms = [weight * loss(alphas) for weight, loss in losses if weight]
        return torch.stack(terms).sum() if terms else alphas[0].new_zeros(())

    return total


# -- presets, and the records of the methods ---------------------------------------------------------------------------

PRESETS: dict[str, Any] = {
    "quick": HDASConfig(
        search=QUICK, cells=5, channels=4, calibration_images=300, final_epochs=40, final_lr=0.1,
        train=replace(SEARCH, label_smoothing=0.1),
    ),
    "small": HDASConfig(search=SMALL, cells=5, channels=4, calibration_images=500, final_epochs=4, final_lr=0.1, train=SEARCH),
    "paper": HDASConfig(depth_form="release", delta=1.0, gamma=0.4),
}  # fmt: skip


STAGES: dict[str, Any] = {  # sizes of the networks that are trained for good, by preset
    "quick": {"channels": 4, "cells": 14}, "small": {"channels": 8, "cells": 14}, "paper": {"auxiliary": True},
}  # fmt: skip
NUMBERS = {preset: {**size, "cells": 26, "least": 4} for preset, size in STAGES.items()}
LITTLE = {"channels": 8, "cells": 5}
OF_CELLS: dict[str, Any] = {"quick": LITTLE, "small": LITTLE, "paper": {"auxiliary": True}}
GRAPHS_ONLY = only("graphs", reason="it searches the graphs between given cells (hdas_stages)")
NUMBERS_ONLY = only("numbers", reason="it searches the number of cells (hdas_stages with space.cells=26 and space.least=4)")

METHODS = {
    "hdas": Method(
        hdas, PRESETS, plan_whole, sized("hdas_stages", STAGES), GRAPHS_ONLY, proxy, finds=("cell", "least"),
        among=lambda space: graphs_of(space).cell_space(),
    ),
    "hdas-cells": Method(hdas_cells, PRESETS, plan, sized("hdas_cells", OF_CELLS), CELLS, proxy),
    "hdas-distribution": Method(hdas_stages, PRESETS, plan, sized("hdas_stages", NUMBERS), NUMBERS_ONLY, proxy),
    "hdas-stages": Method(hdas_stages, PRESETS, plan, sized("hdas_stages", STAGES), GRAPHS_ONLY, proxy),
}  # fmt: skip

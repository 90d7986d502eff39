"""H-DAS: unchained differentiable search (AAAI 2021, arXiv 2101.04028v2): cells, their number, and the graphs between them.

Three searches, each of which restricts the next: cells of each stage's own (H^c); the number of cells of each stage; and
the graph between the cells of each stage (H^s), under three rules and with a loss that asks for depth.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from hiernas.data.split import ImageData
from hiernas.methods.hdas.depth import Form, StageSoftmax, computation_loss, depth_loss, graphs_of, sum_of_losses
from hiernas.problem import CELLS, Config, Found, Method, Problem, only, sized
from hiernas.search.alphas import AlphaArchitect, Softmax, by_strength, cost_penalty
from hiernas.search.decided import NUMBER, Verdict
from hiernas.search.differentiable import QUICK, SEARCH, SMALL, SearchSettings, found, learn, plan, proxy, search_work
from hiernas.train.recipes import DARTS, Recipe


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
    final_lr: PositiveFloat = 0.025
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

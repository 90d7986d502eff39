"""HM-NAS (ICCV Workshops 2019, arXiv 1909.00122v2): learned masks decide what stays, not hand-made rules.

A supernet with logits for operations (alpha) and edges (beta) is trained; then, with the supernet as it is, masks on
edges, then on the operations of the edges that were kept. A node keeps any number of edges, an edge any number of
operations, each with its importance. With `weights_level` further masks drop output filters of these operations. Only the
paper's first page is at hand; what it leaves open is our design.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from hiernas.budget import Budget
from hiernas.data.split import ImageData, Split, shares
from hiernas.errors import LimitError
from hiernas.methods.hmnas.encoding import NONE, Encoding
from hiernas.methods.hmnas.filter_masks import COUNTED, FilterArchitect, filters_within, with_fewer_filters
from hiernas.methods.hmnas.kept import candidate_of, narrowed, restored, start_of, within_limits
from hiernas.methods.hmnas.masks import Level, MaskArchitect, MaskSettings
from hiernas.networks.filters import outputs_of
from hiernas.problem import Config, Evaluator, Found, Method, Problem, Rival, Spaces, Start, final_work, training_work
from hiernas.search.alphas import AlphaArchitect, Pressure, rounded
from hiernas.search.decided import Verdict
from hiernas.search.differentiable import QUICK, SEARCH, SMALL, SearchSettings, learn, search_work
from hiernas.space import Architecture, SearchSpace
from hiernas.subsets import subsets
from hiernas.train.recipes import DARTS, Phase, Recipe


@dataclass(frozen=True)
class HMNASConfig(Config):
    """Settings of HM-NAS; the defaults are our design on DARTS' scale (the paper's are not at hand)."""

    search: SearchSettings = field(default_factory=SearchSettings)  # of the supernet and its logits
    mask: MaskSettings = field(default_factory=lambda: MaskSettings(edges_epochs=5, operations_epochs=5, filters_epochs=5))
    weights_level: bool = False  # a third level of masks, on the output filters of the operations that were kept
    compare: bool = True  # train what DARTS' rule finds in the same supernet, too, and each network both ways
    inherit: bool = True  # the final training starts from the supernet's weights; otherwise from scratch
    objective: str = "params"  # the metric of the automatic limit
    calibration_images: Annotated[int, Field(ge=2)] = 1000  # for batch-norm statistics of what is found
    final_epochs: PositiveInt = 600  # training of the chosen network
    final_lr: PositiveFloat = 0.025  # from scratch
    inherited_lr: PositiveFloat = 0.01  # from the supernet's weights
    train: Recipe = field(default_factory=lambda: DARTS)  # of the chosen network

def hmnas(problem: Problem, config: HMNASConfig) -> Found:
    """HM-NAS (arXiv 1909.00122v2): a supernet with weighted edges and operations, of which learned masks keep what stays."""
    proxy = problem.space.proxy()
    encoding = Encoding(proxy)
    supernet, architect, verdict = learn(encoding, problem, config.search, "train1")  # alpha, beta, the weights
    rule = _by_rule(architect, problem)
    if rule is not None and not verdict.decided:
        return _control(rule, supernet, problem, config, verdict)
    budget, edges = problem.budget, None
    if config.weights_level:  # edges and operations go by what filters can be counted on to save
        budget = budget.by(lambda space: with_fewer_filters(problem.budget.tables(space), config.mask.filters))
    if encoding.nodes:  # a chain has operations only
        edges = _masked(supernet, architect, "edges", config.mask.edges_epochs, problem, config, budget)
    operations = _masked(supernet, architect, "operations", config.mask.operations_epochs, problem, config, budget, edges)
    masked, values, moved = within_limits(operations, edges, problem, budget)
    networks = [Architecture(proxy.skeleton, a.choices) for a in (masked, rule) if a is not None]
    evaluate = _evaluator(supernet, problem, config)
    accuracies = evaluate(networks)
    starts = [start_of(supernet, a, problem.space, evaluate, problem.seed, config.inherited_lr) for a in networks]
    records = {m.level: m.record() for m in (edges, operations) if m is not None}
    filters: dict[str, Any] = {}
    if config.weights_level:
        masked, starts[0], accuracies[0], filters = _filtered(masked, starts[0], accuracies[0], evaluate, problem, config)
        records |= filters.pop("masks", {})
    problem.run.save_tensors("found", starts[0].weights, {})
    chosen = candidate_of(masked, accuracies[0], problem, "evolve2")
    rivals = [Rival("masked", masked, chosen, starts[0])]
    if rule is not None:
        name = "two edges, one operation" if encoding.nodes else "one operation per block"
        rivals.append(Rival(name, rule, candidate_of(rule, accuracies[1], problem, "evolve2"), starts[1]))
    details = {
        "decided": {"train1": verdict.record()}, "masks": records, "moved": moved, "pairs": values,
        **({"filters": filters} if filters else {}),
        "importance": rounded(proxy, encoding.strengths(architect.alphas, architect.betas), but=NONE),
    }  # fmt: skip
    compared = tuple(rivals) if config.compare else ()
    return Found(
        problem.space, (chosen,), chosen, (), details, masked, starts[0] if config.inherit else None, compared,
        verdict.doubts(),
    )  # fmt: skip


def _control(rule: Architecture, supernet: Any, problem: Problem, config: HMNASConfig, verdict: Verdict) -> Found:
    """What is handed over where nothing was decided, from scratch; masks on such a supernet would say as little."""
    (accuracy,) = _evaluator(supernet, problem, config)([Architecture(problem.space.proxy().skeleton, rule.choices)])
    chosen = candidate_of(rule, accuracy, problem, "evolve2")
    details = {"decided": {"train1": verdict.record()}}
    return Found(problem.space, (chosen,), chosen, (), details, doubts=verdict.doubts())


def _evaluator(supernet: Any, problem: Problem, config: HMNASConfig) -> Evaluator:
    return problem.trainer.evaluator(supernet, config.search.train, config.calibration_images, paths=False)


def _masked(
    supernet: Any, architect: AlphaArchitect, level: Level, epochs: int, problem: Problem, config: HMNASConfig,
    budget: Budget, edges: MaskArchitect | None = None,
) -> MaskArchitect:  # fmt: skip
    """The masks of one level, learned on the images that the logits learned from; the supernet stays as it is."""
    encoding = architect.encoding
    assert isinstance(encoding, Encoding)  # it was trained with one
    pressure = Pressure.of(budget.tables(problem.space), budget.limits, encoding.options)
    images, steps = _images(problem, config, epochs)
    kept = None if edges is None else edges.kept_edges()
    masks = MaskArchitect(encoding, (architect.alphas, architect.betas), level, images, config.mask, pressure, steps, kept)
    phase = Phase("mask1" if level == "edges" else "mask2", epochs, config.search.lr)
    problem.trainer.fit(supernet, images, phase, config.search.train, architect=masks)
    return masks


def _images(problem: Problem, config: HMNASConfig, epochs: int) -> tuple[Split, int]:
    """The images that a level of masks learns from, and its steps."""
    _, images = shares(problem.data.train, config.search.share, problem.seed, config.search.images)
    return images, epochs * math.ceil(len(images) / config.search.train.batch_size)


def _filtered(
    whole: Architecture, start: Start, accuracy: float, evaluate: Evaluator, problem: Problem, config: HMNASConfig
) -> tuple[Architecture, Start, float, dict[str, Any]]:
    """The network without the filters that their masks drop: its weights, its accuracy, and what is told of the masks."""
    outputs = outputs_of(whole.build, whole.skeleton.input_size)
    if not outputs:  # pooling and identities only
        return whole, start, accuracy, {}
    network, epochs = restored(whole, start, problem.seed), config.mask.filters_epochs
    images, steps = _images(problem, config, epochs)
    full = dict(zip(COUNTED, problem.budget.count(whole), strict=True))
    masks = FilterArchitect(network, outputs, full, images, config.mask, problem.budget.limits, steps)
    problem.trainer.fit(network, images, Phase("mask3", epochs, config.search.lr), config.search.train, architect=masks)
    smaller = filters_within(masks, whole, problem.budget)
    narrow = narrowed(smaller, start, evaluate, problem.seed)
    reached = evaluate.accuracy(narrow)
    told = {"masks": {"filters": masks.record()}, **masks.told(smaller), "accuracy_before": accuracy}
    return smaller, Start(narrow.state_dict(), start.lr), reached, told


def _by_rule(architect: AlphaArchitect, problem: Problem) -> Architecture | None:
    """The control: DARTS' rule within the limits, by the same encoding; None where no such network meets them."""
    space = problem.space
    try:
        return space.decode(problem.budget.best(space, architect.strengths()))
    except LimitError:
        return None


def plan(config: HMNASConfig, data: ImageData) -> dict[str, float]:
    images = config.search.share * min(config.search.images or len(data.train), len(data.train))
    masks = {"mask1": config.mask.edges_epochs, "mask2": config.mask.operations_epochs}
    masks |= {"mask3": config.mask.filters_epochs} if config.weights_level else {}
    work = {"train1": search_work(config.search, data)}
    work |= {phase: training_work(epochs, round(images * 2 / 3)) for phase, epochs in masks.items()}
    training = final_work(config.final_epochs, data)
    return {**work, **{f"compare{i}": training for i in ((1, 2, 3) if config.compare else ())}}  # beside the final one


PRESETS: dict[str, Any] = {
    "quick": HMNASConfig(
        search=QUICK, mask=MaskSettings(edges_epochs=2, operations_epochs=2, filters_epochs=2),
        calibration_images=300, final_epochs=25, final_lr=0.1, inherited_lr=0.05, train=replace(SEARCH, label_smoothing=0.1),
    ),
    "small": HMNASConfig(
        search=SMALL, mask=MaskSettings(), calibration_images=500, final_epochs=1, final_lr=0.1,
        inherited_lr=0.05, train=SEARCH,
    ),
    "paper": HMNASConfig(),
}  # fmt: skip


def _spaces() -> Spaces:
    """Its own spaces: the supernet is as large as what is found in it."""
    quick = {"channels": 4, "cells": 5}
    sizes = {"quick": quick, "small": quick, "paper": {"channels": 16, "cells": 8, "auxiliary": True}}
    stages = {"quick": {"channels": 4, "cells": 14}, "small": {"channels": 4, "cells": 14}, "paper": {"channels": 16}}
    return {
        preset: {"darts": {**values, "pool_bn": True}, "hdas_cells": values, "hdas_stages": stages[preset], "tiny": {}}
        for preset, values in sizes.items()
    }


def _refusal(space: SearchSpace) -> str | None:
    if not space.skeleton.same_operations:
        return "it searches in networks whose pooling is followed by batch norm (--set space.pool_bn=true)"
    if space.skeleton.searched == "numbers":
        return "it searches edges and operations, and here the number of cells is searched, too (leave space.least out)"
    return None


METHODS = {
    "hmnas": Method(
        hmnas, PRESETS, plan, _spaces(), _refusal, lambda space, config: space.proxy(), among=subsets, several=True
    ),
}

"""What masks keep, as an architecture within the limits; and networks of several operations per site as candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from hiernas.budget import Budget
from hiernas.errors import LimitError
from hiernas.methods.hmnas.encoding import NONE, Encoding
from hiernas.methods.hmnas.masks import MaskArchitect
from hiernas.networks.filters import narrow
from hiernas.problem import Candidate, Evaluator, Problem, Start
from hiernas.randomness import seeded
from hiernas.search.differentiable import counted
from hiernas.space import Architecture, SearchSpace
from hiernas.subsets import subsets


def within_limits(
    operations: MaskArchitect, edges: MaskArchitect | None, problem: Problem, budget: Budget
) -> tuple[Architecture, dict[str, float], list[str]]:
    """What the masks keep, changed as little as the limits ask; how far each pair is from the threshold; what changed.

    Exact: of all sets of pairs within the limits, by these tables, the one with the greatest sum of these distances. Where
    the masks meet the limits, that is what they keep. Only if nothing else does, edges that were dropped come back.
    """
    encoding, threshold = operations.encoding, operations.settings.threshold
    space, pairs = problem.space, encoding.pairs
    values: dict[str, float] = {}
    dropped: dict[str, tuple[str]] = {}
    wanted: set[str] = set()
    per_site = zip(pairs, operations.values(), _edge_values(encoding, edges), operations.shares(), strict=True)
    for names, masks, edge, shares in per_site:
        values |= {name: (mask if edge is None else edge) - threshold for name, mask in zip(names, masks.tolist(), strict=True)}
        dropped |= {} if edge is None else dict.fromkeys(names, (NONE,))
        wanted |= {name for name, share in zip(names, shares.tolist(), strict=True) if share > 0}
    every = subsets(space)
    try:
        kept = _best(every.restrict(dropped), values, budget)
    except LimitError:
        kept = _best(every, values, budget)
    binary = [torch.tensor([float(name in kept) for name in names]) for names in pairs]
    alphas, betas = ([x.cpu() for x in part] for part in (operations.alphas, operations.betas))
    weights = encoding.shares(alphas, betas, None, binary)
    architecture = encoding.architecture(weights, space.skeleton)
    without_dead = getattr(space.skeleton, "without_dead", tuple)  # only graphs between cells can have dead ones
    architecture = replace(architecture, choices=without_dead(architecture.choices))
    return architecture, {pair: round(value, 6) for pair, value in values.items()}, sorted(kept ^ wanted)


def _edge_values(encoding: Encoding, edges: MaskArchitect | None) -> list[float | None]:
    """Per site the mask of its edge where that was dropped, else None."""
    found: list[float | None] = [None] * len(encoding.options)
    if edges is not None:
        for sites, kept, values in zip(encoding.nodes, edges.kept_edges(), edges.values(), strict=True):
            for i, there, value in zip(sites, kept.tolist(), values.tolist(), strict=True):
                found[i] = None if there else value
    return found


def _best(space: SearchSpace, values: dict[str, float], budget: Budget) -> set[str]:
    gains = [np.array([0.0 if o == NONE else values[d.name] for o in d.options]) for d in space.decisions]
    genes = budget.best(space, gains)
    return {d.name for d, gene in zip(space.decisions, genes, strict=True) if d.options[gene] != NONE}


def start_of(supernet: Any, architecture: Architecture, space: SearchSpace, evaluate: Evaluator, seed: int, lr: float) -> Start:
    """The weights of a network in the supernet, statistics re-estimated; what the supernet lacks (scales, shifts) is fresh."""
    inherited = supernet.subnet(architecture).cpu()
    evaluate.calibrate(inherited)
    state = fresh(Architecture(space.skeleton, architecture.choices), seed).state_dict()
    state.update(inherited.state_dict())
    return Start(state, lr)


def fresh(architecture: Architecture, seed: int) -> nn.Module:
    """The network with the random weights that a training from scratch would start from."""
    with seeded(seed, "network"):
        return architecture.build()


def restored(architecture: Architecture, start: Start, seed: int) -> nn.Module:
    """The network with the weights of a start."""
    network = fresh(architecture, seed)
    network.load_state_dict(dict(start.weights))
    return network


def narrowed(architecture: Architecture, start: Start, evaluate: Evaluator, seed: int) -> nn.Module:
    """The network with those filters of a whole one's start that it keeps, statistics re-estimated."""
    network = restored(replace(architecture, filters=()), start, seed)
    narrow(network, dict(architecture.filters))
    evaluate.calibrate(network)
    return network


def candidate_of(architecture: Architecture, accuracy: float, problem: Problem, phase: str) -> Candidate:
    """A network of any number of options per site as a candidate, kept in the run folder.

    Raises `LimitError` where it lies below a lower limit without its dead cells and the edges into them.
    """
    costs = counted(architecture, problem.budget)
    problem.run.add_candidates(phase, [(",".join(architecture.labels), accuracy, *costs)])
    return Candidate(architecture.labels, accuracy, *costs)

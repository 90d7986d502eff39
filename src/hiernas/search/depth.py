"""Depth of stage graphs, and the losses of H-DAS on it: as printed (arXiv 2101.04028v2, Eqs. 2, 4, 5), and as released."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hiernas.architecture import Architecture
from hiernas.cells import FREE
from hiernas.genotype import INPUTS
from hiernas.space import SearchSpace
from hiernas.supernet.stage import STAGES, StageNetwork, live_nodes

Form = Literal["paper", "release"]


@dataclass(frozen=True)
class StageShape:
    """One stage of a derived network: cells on the longest path to its output, and cells that no path joins to it."""

    cells: int
    depth: int
    dead: int


def shapes(architecture: Architecture) -> list[StageShape]:
    """Depth and dead cells of each stage of an architecture of stage graphs."""
    skeleton, found = architecture.skeleton, []
    assert isinstance(skeleton, StageNetwork)  # no other skeleton has stage graphs
    for k in range(STAGES):
        choices, outputs = skeleton.stage_choices(k, architecture.choices)
        edges = [edge for edge, choice in choices.items() if any(option != "none" for option, _ in choice)]
        found.append(shape(edges, outputs, outputs[-1] - INPUTS + 1))
    return found


def shape(edges: Sequence[tuple[int, int]], outputs: Sequence[int], cells: int) -> StageShape:
    """Depth and dead cells of a graph of (source, node) edges, with states 0 and 1 as inputs."""
    alive = live_nodes(edges, outputs)
    depth = {0: 0, 1: 0}
    for node in range(INPUTS, INPUTS + cells):
        depth[node] = 1 + max((depth[s] for s, n in edges if n == node), default=0)
    dead = sum(node not in alive for node in range(INPUTS, INPUTS + cells))
    return StageShape(cells, max(depth[node] for node in outputs), dead)


def depth_loss(space: SearchSpace, form: Form = "paper") -> Callable[[Sequence[Tensor]], Tensor]:
    """L_depth of the logits: Eq. 2, or Eq. 4 where the number of cells is searched; or what the authors' code has instead.

    alpha_ij is the softmax over the edges into a cell of each edge's strongest operation; depths of inputs are 0. The
    release divides by the number of those edges at each cell, which shrinks what is deep, and where the numbers are
    given it takes the logits of all operations as they are, `none` too, each with a recursion of its own.
    """
    skeleton, position = _stage_network(space), {d.name: i for i, d in enumerate(space.decisions)}
    raw = form == "release" and skeleton.least is None

    def weights(alphas: Sequence[Tensor], sites: Sequence[str]) -> Tensor:
        into = [(alphas[position[site]], space.decisions[position[site]].options) for site in sites]
        if raw:  # [edges, operations]; 0 for those that a restricted space has not
            return torch.stack([_by_operation(alpha, options) for alpha, options in into])
        return torch.stack([_strongest(alpha, options) for alpha, options in into]).softmax(0)

    def loss(alphas: Sequence[Tensor]) -> Tensor:
        total = alphas[0].new_zeros(())
        for k in range(STAGES):
            beta = _numbers(space, k, alphas) if skeleton.least is not None else {}
            start = alphas[0].new_zeros(len(FREE) if raw else ())
            total = total + _stage_depth(skeleton, k, lambda sites: weights(alphas, sites), beta, form, start)
        return -total

    return loss


def _stage_depth(
    skeleton: StageNetwork, k: int, weights: Callable[[Sequence[str]], Tensor], beta: Mapping[int, Tensor], form: Form,
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


def _by_operation(alpha: Tensor, options: Sequence[str]) -> Tensor:
    """The logits of the four operations of an edge, 0 for those that it has not: [4]."""
    return torch.stack([alpha[options.index(o)] if o in options else alpha.new_zeros(()) for o in FREE])


def _strongest(alpha: Tensor, options: Sequence[str]) -> Tensor:
    """The greatest logit of an edge but for `none`; -inf where a restricted space has left no other option."""
    kept = [i for i, option in enumerate(options) if option != "none"]
    return alpha[kept].max() if kept else alpha.new_full((), -torch.inf)


def _numbers(space: SearchSpace, stage: int, alphas: Sequence[Tensor]) -> dict[int, Tensor]:
    """softmax(beta) of a stage by the number of cells."""
    site = f"{_stage_network(space).graph_name(stage)}.cells"
    decision, beta = next((d, a) for d, a in zip(space.decisions, alphas, strict=True) if d.name == site)
    return {int(n): p for n, p in zip(decision.options, beta.softmax(0), strict=True)}


def computation_loss(space: SearchSpace) -> Callable[[Sequence[Tensor]], Tensor]:
    """L_comp (Eq. 5) with theta = 1: the expected number of cells, summed over the stages."""

    def loss(alphas: Sequence[Tensor]) -> Tensor:
        terms = [n * p for k in range(STAGES) for n, p in _numbers(space, k, alphas).items()]
        return torch.stack(terms).sum()

    return loss


def _stage_network(space: SearchSpace) -> StageNetwork:
    assert isinstance(space.skeleton, StageNetwork)  # methods refuse other spaces before
    return space.skeleton

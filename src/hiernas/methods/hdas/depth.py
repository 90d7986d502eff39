"""Depth of stage graphs, and the losses of H-DAS on it: as printed (arXiv 2101.04028v2, Eqs. 2, 4, 5), and as released."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from hiernas.search.alphas import Extra, Logits, Softmax, mean_entropy, strengths
from hiernas.search.decided import NUMBER
from hiernas.space import Choice, SearchSpace

INPUTS = 2  # states of a stage before its cells
FREE = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")  # the operations between cells (Rule 1)
Form = Literal["paper", "release"]


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
            beta = _numbers(space, k, alphas) if skeleton.least is not None else {}
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


def _numbers(space: SearchSpace, stage: int, alphas: Sequence[Tensor]) -> dict[int, Tensor]:
    """softmax(beta) of a stage by the number of cells."""
    site = graphs_of(space).graph_name(stage) + NUMBER
    decision, beta = next((d, a) for d, a in zip(space.decisions, alphas, strict=True) if d.name == site)
    return {int(n): p for n, p in zip(decision.options, beta.softmax(0), strict=True)}


def computation_loss(space: SearchSpace) -> Extra:
    """L_comp (Eq. 5) with theta = 1: the expected number of cells, summed over the stages."""

    def loss(alphas: Sequence[Tensor]) -> Tensor:
        terms = [n * p for k in range(len(graphs_of(space).cells)) for n, p in _numbers(space, k, alphas).items()]
        return torch.stack(terms).sum()

    return loss


def sum_of_losses(*losses: tuple[float, Extra]) -> Extra:
    """The weighted sum of losses; those of weight 0 are not computed."""

    def total(alphas: Sequence[Tensor]) -> Tensor:
        terms = [weight * loss(alphas) for weight, loss in losses if weight]
        return torch.stack(terms).sum() if terms else alphas[0].new_zeros(())

    return total

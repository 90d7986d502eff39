"""Depth of stage graphs, and the losses of H-DAS on it (arXiv 2101.04028v2, Eqs. 2, 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hiernas.architecture import Architecture
from hiernas.genotype import INPUTS
from hiernas.space import SearchSpace
from hiernas.supernet.stage import STAGES, StageNetwork, live_nodes


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


def depth_loss(space: SearchSpace) -> Callable[[Sequence[Tensor]], Tensor]:
    """L_depth of the logits: Eq. 2, or Eq. 4 where the number of cells is searched.

    alpha_ij is the softmax over the edges into a cell of each edge's strongest operation; depths of inputs are 0.
    """
    skeleton, position = _stage_network(space), {d.name: i for i, d in enumerate(space.decisions)}
    none = [d.options.index("none") if "none" in d.options else None for d in space.decisions]

    def loss(alphas: Sequence[Tensor]) -> Tensor:
        total = alphas[0].new_zeros(())
        for k in range(STAGES):
            beta = alphas[position[f"stage{k + 1}.cells"]].softmax(0) if skeleton.least is not None else None
            total = total + _stage_depth(skeleton, k, alphas, position, none, beta)
        return -total

    return loss


def _stage_depth(
    skeleton: StageNetwork, k: int, alphas: Sequence[Tensor], position: Mapping[str, int], none: Sequence[int | None],
    beta: Tensor | None,
) -> Tensor:  # fmt: skip
    """1/N sum_i 1/i sum_j alpha_ij (d_j + 1), with the factor 1 + i * softmax(beta) of Eq. 4 where beta is given.

    i counts cells from 1; beta belongs to cells N_min, N_min + 1, ... as the last ones.
    """
    zero = alphas[0].new_zeros(())
    depth: dict[int, Tensor] = {0: zero, 1: zero}
    total, cells = zero, skeleton.cells[k]
    for node in range(INPUTS, INPUTS + cells):
        i, edges = node - INPUTS + 1, [(s, n) for s, n in skeleton.edges(k) if n == node]
        sites = [position[f"stage{k + 1}.{s}->{n}"] for s, n in edges]
        weights = torch.stack([_strongest(alphas[j], none[j]) for j in sites]).softmax(0)
        deeper = torch.stack([depth[s] + 1.0 for s, _ in edges])
        depth[node] = (weights * deeper).sum()
        factor = zero + 1.0
        if beta is not None and skeleton.least is not None and i >= skeleton.least:
            factor = 1.0 + i * beta[i - skeleton.least]
        total = total + depth[node] * factor / i
    return total / cells


def _strongest(alpha: Tensor, none: int | None) -> Tensor:
    kept = [i for i in range(len(alpha)) if i != none]
    return alpha[kept].max()


def computation_loss(space: SearchSpace) -> Callable[[Sequence[Tensor]], Tensor]:
    """L_comp (Eq. 5) with theta = 1: the expected number of cells, summed over the stages."""
    skeleton, position = _stage_network(space), {d.name: i for i, d in enumerate(space.decisions)}

    def loss(alphas: Sequence[Tensor]) -> Tensor:
        total = alphas[0].new_zeros(())
        for k in range(STAGES):
            beta = alphas[position[f"stage{k + 1}.cells"]].softmax(0)
            numbers = torch.tensor([float(n) for n in skeleton.numbers(k)], device=beta.device)
            total = total + (beta * numbers).sum()
        return total

    return loss


def _stage_network(space: SearchSpace) -> StageNetwork:
    assert isinstance(space.skeleton, StageNetwork)  # methods refuse other spaces before
    return space.skeleton

"""What limits ask of a search by gradients: the relative excess of expected costs, differentiable in what is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hiernas.budget import Budget, Limit, Tables
from hiernas.space import SearchSpace

Extra = Callable[[Sequence[Tensor]], Tensor]  # a further loss of the logits, a scalar


@dataclass(frozen=True)
class Pressure:
    """The sum over the limits of what costs exceed them by, relative to the bound; 0 inside."""

    tables: tuple[tuple[Limit, float, list[Tensor]], ...]  # limit, constant cost, and per site those of its options

    @classmethod
    def of(cls, tables: Tables, limits: Sequence[Limit], options: Sequence[Sequence[int]] | None = None) -> Pressure:
        """`options`: per site those that are looked at, by index; None: all."""
        found = []
        for limit in limits:
            rows = tables[limit.metric].sites
            kept = rows if options is None else [row[list(some)] for row, some in zip(rows, options, strict=True)]
            found.append((limit, tables[limit.metric].constant, [torch.from_numpy(row).float() for row in kept]))
        return cls(tuple(found))

    def __call__(self, shares: Sequence[Tensor], edges: Sequence[Tensor] | None = None) -> Tensor:
        """`shares`: per site how much of each option there is; `edges`: per site how much of it, where that is apart."""
        total = shares[0].new_zeros(())
        for limit, constant, rows in self.tables:
            terms = [(s * row.to(s.device)).sum() for s, row in zip(shares, rows, strict=True)]
            if edges is not None:
                terms = [edge * term for edge, term in zip(edges, terms, strict=True)]
            cost = torch.stack(terms).sum() + constant
            if math.isfinite(limit.high):
                total = total + F.relu(cost / limit.high - 1.0)
            if limit.low > 0:
                total = total + F.relu(1.0 - cost / limit.low)
        return total


def cost_penalty(space: SearchSpace, budget: Budget, weight: float) -> Extra:
    """weight * the relative excess of the expected costs over the upper limits; differentiable in the logits.

    Of each node's edges `keep` stay, shared out by the softmax of their strongest operations; an operation's share of
    its edge is its softmax weight among those other than `none`.
    """
    uppers = [Limit(m.metric, high=m.high) for m in budget.limits if math.isfinite(m.high)]
    pressure = Pressure.of(budget.tables(space), uppers)
    group_of = {site: group for group in space.skeleton.groups for site in group.sites}
    position = {d.name: i for i, d in enumerate(space.decisions)}
    real = [torch.tensor([o != "none" for o in d.options]) for d in space.decisions]

    def penalty(alphas: Sequence[Tensor]) -> Tensor:
        shares = [_shares(a, mask.to(a.device)) for a, mask in zip(alphas, real, strict=True)]
        kept = edge_weights(alphas, real, space, group_of, position)
        return weight * pressure(shares, kept)

    return penalty


def _shares(alpha: Tensor, real: Tensor) -> Tensor:
    """The softmax over the options other than `none`; all 0 where a restricted space has left no other."""
    return alpha.masked_fill(~real, -torch.inf).softmax(0) if bool(real.any()) else torch.zeros_like(alpha)


def edge_weights(
    alphas: Sequence[Tensor], real: Sequence[Tensor], space: SearchSpace, group_of: Mapping[str, Any],
    position: Mapping[str, int],
) -> list[Tensor]:  # fmt: skip
    """How much of each site stays: 1 outside groups; within one, `keep` shared out by the strongest operations."""
    strongest = [a.masked_fill(~mask.to(a.device), -torch.inf).max() for a, mask in zip(alphas, real, strict=True)]
    found: list[Tensor] = []
    for decision, value in zip(space.decisions, strongest, strict=True):
        group = group_of.get(decision.name)
        if group is None:
            found.append(torch.ones_like(value))
        else:
            among = torch.stack([strongest[position[site]] for site in group.sites])
            found.append(group.keep * among.softmax(0)[group.sites.index(decision.name)])
    return found

"""HM-NAS' multi-level encoding (arXiv 1909.00122v2): logits alpha of an edge's operations and beta of a node's edges.

An operation weighs softmax(beta)_edge * softmax(alpha)_operation; with binary masks on edges and operations both shares
are taken among what is kept. Sites that lead into no node, such as a chain's blocks, have no beta. `none` has no
share: whether an edge is there is beta's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiernas.gates import Gates
from hiernas.search.alphas import mean_entropy
from hiernas.space import Architecture, SearchSpace

NONE = "none"


class Encoding:
    """What logits (see `search.alphas.Encoding`) and masks belong to; per site: tensors over its options but `none`."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.options = [[i for i, o in enumerate(d.options) if o != NONE] for d in space.decisions]
        named = zip(space.decisions, self.options, strict=True)
        self.pairs = [[f"{d.name} {d.options[o]}" for o in options] for d, options in named]  # as in `subsets`
        position = {d.name: i for i, d in enumerate(space.decisions)}
        held = ([position[site] for site in group.sites] for group in space.skeleton.groups)
        self.nodes = [edges for sites in held if (edges := [i for i in sites if self.options[i]])]  # those that can be kept
        grouped = {i for edges in self.nodes for i in edges}
        self.alone = [i for i, options in enumerate(self.options) if options and i not in grouped]
        self.droppable = [NONE in d.options for d in space.decisions]

    def shares(
        self, alphas: Sequence[Tensor], betas: Sequence[Tensor], edges: Sequence[Tensor] | None = None,
        operations: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """The weight of each option per site; `alphas`: logits of all options, `betas`: per node those of its edges.

        `edges` (per node) and `operations` (per site, other than `none`): masks of 0 and 1. A node whose edges are all
        dropped, and a site all of whose operations are, gets weights 0.
        """
        found = self.of_operations(alphas)
        if operations is not None:
            found = [_among(share, mask) for share, mask in zip(found, operations, strict=True)]
        for k, sites in enumerate(self.nodes):
            mask = torch.ones_like(betas[k]) if edges is None else edges[k]
            if operations is not None:  # an edge that has lost all operations is none
                mask = mask * torch.stack([operations[i].detach().amax() for i in sites])
            for edge, i in zip(_among(betas[k].softmax(0), mask), sites, strict=True):
                found[i] = edge * found[i]
        return found

    def of_operations(self, alphas: Sequence[Tensor]) -> list[Tensor]:
        """softmax(alpha) per site, over the options other than `none`."""
        return [a[kept].softmax(0) if kept else a[:0] for a, kept in zip(alphas, self.options, strict=True)]

    def bundles(self, present: Sequence[bool]) -> list[list[int]]:
        """The sites, among those present, of which something must remain: those of a node, or one that leads into none.

        An edge of a restricted space that cannot be `none` is one by itself.
        """
        found = [[i] for i in self.alone]
        for sites in self.nodes:
            fixed = [i for i in sites if not self.droppable[i]]
            found += [[i] for i in fixed] or [[i for i in sites if present[i]]]
        return found

    def fresh_betas(self, scale: float, generator: torch.Generator) -> list[Tensor]:
        return [scale * torch.randn(len(sites), generator=generator) for sites in self.nodes]

    def gates(self, alphas: Sequence[Tensor], betas: Sequence[Tensor]) -> Gates:
        return self.gates_of(self.shares(alphas, betas), [True] * len(alphas))

    def decided(self, alphas: Sequence[Tensor], betas: Sequence[Tensor]) -> list[Tensor]:
        """Per site the logits of the options that there are, then per node those of its edges."""
        return [*(a[kept] for a, kept in zip(alphas, self.options, strict=True) if kept), *betas]

    def summary(self, alphas: Sequence[Tensor], betas: Sequence[Tensor], chosen: dict[str, str]) -> dict[str, Any]:
        """Mean entropies of the operations and of the edges."""
        p = [a.detach()[kept].softmax(0) for a, kept in zip(alphas, self.options, strict=True) if kept]
        edges = {"beta_entropy": mean_entropy([b.detach().softmax(0) for b in betas])} if betas else {}
        return {"entropy": mean_entropy(p), **edges, "none": 0.0}  # which has no share

    def gates_of(self, shares: Sequence[Tensor], present: Sequence[bool]) -> Gates:
        """Gates of all options but `none` of the sites that are present; others cost nothing."""
        indices = tuple(tuple(options) if there else () for options, there in zip(self.options, present, strict=True))
        return Gates(indices, tuple(share if there else share[:0] for share, there in zip(shares, present, strict=True)))

    def strengths(self, alphas: Sequence[Tensor], betas: Sequence[Tensor]) -> list[np.ndarray]:
        found = []
        for decision, options, share in zip(self.space.decisions, self.options, self.shares(alphas, betas), strict=True):
            row = np.zeros(len(decision.options))
            row[options] = share.detach().double().cpu().numpy()
            found.append(row)
        return found

    def architecture(self, shares: Sequence[Tensor], skeleton: object = None) -> Architecture:
        """The network that keeps all options of a weight above 0, each with its weight."""
        choices = []
        for decision, options, share in zip(self.space.decisions, self.options, shares, strict=True):
            kept = [(decision.options[o], float(w)) for o, w in zip(options, share.detach(), strict=True) if w > 0]
            choices.append(tuple(kept) or ((NONE, 1.0),))
        return Architecture(skeleton or self.space.skeleton, tuple(choices))  # type: ignore[arg-type]


def _among(share: Tensor, mask: Tensor) -> Tensor:
    """Shares among what a mask of 0 and 1 keeps: sum to 1, or all 0."""
    kept = share * mask
    return kept / kept.sum().clamp_min(torch.finfo(kept.dtype).tiny)

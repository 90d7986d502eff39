"""Whether a differentiable search has decided anything, and what is handed over where it has not.

Logits that end where they began still have a greatest one, that of the noise they were drawn with: a derivation from them
looks like any other. So a search is asked two things at its end: how far its logits have separated, and whether
its supernet names the classes of validation images better than by chance.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hiernas.space import SearchSpace

PLAIN = {"sep_conv_3x3": 1.0, "skip_connect": 0.6, "avg_pool_3x3": 0.2, "max_pool_3x3": 0.2, "skip": 0.2, "none": 0.0}
NUMBER = ".cells"  # how the names of those sites end that say how many cells there are
SEARCHED = {
    "blocks": "blocks", "cells": "cells", "graphs": "the graphs between cells",
    "numbers": "the numbers of cells and the graphs between them",
}  # fmt: skip
OTHER, FIRST, LAST = 0.3, 0.9, 0.05  # any other operation; the first such of a site; more for the nearest edge into a node


@dataclass(frozen=True)
class Verdict:
    """What a search is judged by at its end."""

    what: str  # was searched, in words
    separated: float  # share of the entropy of equal logits that is gone, mean over the sites
    needed: float  # what counts as decided; 0: anything
    accuracy: float  # of the supernet on the validation images, all options weighted
    chance: float  # share of the largest class among them
    images: int

    @classmethod
    def of(cls, space: SearchSpace, logits: Sequence[Tensor], needed: float, accuracy: float, labels: Tensor) -> Self:
        """`logits`: of the sites; `labels`: int64 [N] of the validation images."""
        largest = float(torch.bincount(labels).max()) / len(labels)
        return cls(SEARCHED[space.skeleton.searched], separation(logits), needed, accuracy, largest, len(labels))

    @property
    def decided(self) -> bool:
        """Whether what is derived from the logits means anything."""
        learned = wilson(self.accuracy, self.images)[0] > self.chance
        return self.needed == 0 or (self.separated >= self.needed and learned)

    def doubts(self) -> tuple[str, ...]:
        """Why not, in a sentence; none where it is decided."""
        if self.decided:
            return ()
        reasons = []
        if self.separated < self.needed:
            reasons.append(
                f"its logits ended at {1 - self.separated:.3%} of the entropy of equal ones (decided: {1 - self.needed:.0%} at "
                "the most)"
            )
        if wilson(self.accuracy, self.images)[0] <= self.chance:
            reasons.append(
                f"its supernet names {self.accuracy:.2%} of the validation images rightly, not above chance ({self.chance:.2%})"
            )
        return (
            f"the search for {self.what} has decided nothing: {' and '.join(reasons)}; in place of its noise the control "
            "is handed over, a regular network within the limits that no search has found; search for "
            "longer (--set search.epochs=..., --set search.warmup_epochs=...) or let the logits learn faster "
            "(--set search.alpha.lr=...)",
        )

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "decided": self.decided}


def wilson(fraction: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion seen in n trials (Wilson 1927)."""
    z = 1.959964
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def separation(logits: Sequence[Tensor]) -> float:
    """1 - entropy / entropy of equal logits, mean over the sites that have a choice: 0 for equal ones, 1 for certain ones."""
    p = [a.detach().double().softmax(0) for a in logits if len(a) > 1]
    shares = [1 + float((q * q.clamp_min(1e-300).log()).sum()) / math.log(len(q)) for q in p]
    return float(np.mean(shares)) if shares else 1.0


def regular(space: SearchSpace) -> list[np.ndarray]:
    """Strengths of a regular network, per site [options]: one plain operation wherever the limits allow it.

    In cells a separable convolution of 3x3, else identities; each node reads the nearest two before it. Between cells
    identities alone: a chain of cells. As many cells as there can be; of a chain's block the first operation.
    """
    rows = []
    for decision in space.decisions:
        row = np.array([PLAIN.get(o, OTHER) for o in decision.options])
        if decision.name.endswith(NUMBER):
            row = np.arange(1.0, len(row) + 1) / len(row)
        elif not set(PLAIN) & set(decision.options) - {"skip", "none"}:  # a chain's block
            row[int(row.argmax())] = FIRST
        rows.append(row)
    position = {d.name: i for i, d in enumerate(space.decisions)}
    for group in space.skeleton.groups:
        for k, site in enumerate(group.sites):
            row = rows[position[site]]
            row[row > 0] += LAST * k / len(group.sites)
    return rows

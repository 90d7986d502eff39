"""Bilevel search: weights on one part of the training images, architecture parameters on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hiernas.data.images import Subset
from hiernas.data.split import Split
from hiernas.randomness import torch_generator
from hiernas.search.architect import ProposalArchitect
from hiernas.search.evolution import Book
from hiernas.search.oneshot import make_evaluator
from hiernas.search.problem import Problem
from hiernas.search.ranking import Candidate
from hiernas.space import SearchSpace
from hiernas.supernet.chain import ChainSupernet
from hiernas.train.loop import fit
from hiernas.train.recipes import Phase, Recipe


def shares(split: Split, share: float, seed: int, images: int = 0) -> tuple[Split, Split]:
    """The images of the weights and those of the architecture: `share` of them, drawn once; two or more on each side.

    `images`: only so many are used; 0: all.
    """
    order = torch.randperm(len(split), generator=torch_generator(seed, "shares"))[: max(images, 4) if images else len(split)]
    cut = min(len(order) - 2, max(2, round(share * len(order))))  # batch norm needs two images
    return _part(split, order[cut:].sort().values), _part(split, order[:cut].sort().values)


def _part(split: Split, rows: torch.Tensor) -> Split:
    return Split(Subset(split.images, rows), split.labels[rows])


def train_bilevel(
    supernet: ChainSupernet, architect: ProposalArchitect, images: Split, problem: Problem, phase: Phase, recipe: Recipe
) -> None:
    """One search: the supernet's weights on `images`, the architect on its own, in place."""
    fit(supernet, images, problem.data, phase, recipe, seed=problem.seed, run=problem.run, architect=architect)


def evaluate_all(
    space: SearchSpace, supernet: ChainSupernet, genes: Sequence[np.ndarray], phase: str, problem: Problem, config: Any
) -> list[Candidate]:
    """Architectures with the supernet's weights, evaluated once and kept in the run folder; in the order given."""
    evaluate = make_evaluator(supernet, problem, config.train, config.calibration_images)
    book = Book(space, evaluate, problem.tables(space), config.objective, phase, problem.run)
    by_key = {row.tobytes(): row for row in genes}
    found = dict(zip(by_key, book.evaluate(np.array(list(by_key.values()))), strict=True))
    return [found[row.tobytes()] for row in genes]

"""DARTS' space (Liu et al. 2019, arXiv 1806.09055): one normal and one reduction cell, found in one and used everywhere."""

from __future__ import annotations

from dataclasses import replace

from hiernas.errors import SpaceError
from hiernas.networks.cell import CellNetwork, row_of_cells
from hiernas.space import SearchSpace
from hiernas.spaces.chain import _check as check_sizes


def darts(
    input_size: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    channels: int | None = None,
    cells: int | None = None,
    stem: str | None = None,
    auxiliary: bool = False,
    search: bool = False,
    pool_bn: bool = False,
) -> SearchSpace:
    """Two cells of 4 nodes with 2 edges each, 7 operations per edge: (180 * 7^8)^2 = 1.077e18 architectures.

    Without `channels` and `cells`: the network that is trained for good, 36 and 20 for the 'cifar' stem, 48 and 14 for
    'imagenet'; with `search=True` 16 and 8, with batch norms as DARTS' search network has them. `auxiliary` adds the
    second classifier for training. The stem follows the image size where it is not given. `pool_bn`: batch norm behind
    pooling, as search networks have it.
    """
    kinds = ("normal", "reduce")
    space = cell_space("darts", kinds, input_size, num_classes, channels, cells, stem, auxiliary, search, pool_bn)
    if not pool_bn:
        return space
    return replace(space, skeleton=replace(space.skeleton, arguments=(*space.skeleton.arguments, ("pool_bn", True))))  # type: ignore[type-var] # a dataclass


def cell_space(
    name: str, kinds: tuple[str, ...], input_size: tuple[int, int, int], num_classes: int,
    channels: int | None, cells: int | None, stem: str | None, auxiliary: bool, search: bool, pool_bn: bool = False,
) -> SearchSpace:  # fmt: skip
    """A row of cells with reductions after one and two thirds; `kinds`: normal and reduce, or one for each stage."""
    check_sizes(input_size, num_classes)
    given = {"channels": channels, "cells": cells, "stem": stem, "auxiliary": auxiliary, "search": search}
    stem = stem_of(stem, input_size)
    channels = channels or (16 if search else 36 if stem == "cifar" else 48)
    cells = cells or (8 if search else 20 if stem == "cifar" else 14)
    if cells < 3 or channels < 2 or channels % 2:
        raise SpaceError(f"a cell network has at least 3 cells and an even number of channels, not {cells} and {channels}")
    arguments = {"input_size": tuple(input_size), "num_classes": num_classes, **{k: v for k, v in given.items() if v}}
    skeleton = CellNetwork(
        name=name, arguments=tuple(arguments.items()), input_size=input_size, num_classes=num_classes,
        channels=channels, kinds=row_of_cells(kinds, cells), stem=stem, auxiliary=auxiliary, search=search,
        pool_bn=pool_bn,
    )  # fmt: skip
    return skeleton.space()


def stem_of(stem: str | None, input_size: tuple[int, int, int]) -> str:
    """'cifar' keeps the image's size, 'imagenet' works at an eighth of it; without a wish, the size decides."""
    side = min(input_size[1:])
    if stem not in (None, "cifar", "imagenet"):
        raise SpaceError(f"there is no stem '{stem}'; known: cifar, imagenet")
    if stem == "imagenet" and side < 33:
        raise SpaceError(f"stem 'imagenet' brings images of {side} pixels down to one; use stem 'cifar', or leave it out")
    if side < 5:
        raise SpaceError(f"images of {side} pixels are too small for two reductions; resize them to 8 or more")
    return stem or ("imagenet" if side >= 128 else "cifar")

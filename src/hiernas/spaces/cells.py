"""Spaces of cells: that of DARTS (arXiv 1806.09055), and those of H-DAS (arXiv 2101.04028v2), with graphs between cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hiernas.errors import SpaceError, one_of
from hiernas.networks.cell import CellNetwork, row_of_cells
from hiernas.networks.genotype import Genotype
from hiernas.networks.genotype import genotype as genotype_of
from hiernas.networks.stage import CELLS, WINDOW, StageNetwork
from hiernas.space import SearchSpace
from hiernas.spaces.chains import MOST, STEMS, Size, check_sizes

CIFAR: Size = (3, 32, 32)
MOST_CELLS, MOST_WINDOW = 200, 12


def darts(
    input_size: Size = CIFAR, num_classes: int = 10, channels: int | None = None, cells: int | None = None,
    stem: str | None = None, auxiliary: bool = False, search: bool = False, pool_bn: bool = False,
) -> SearchSpace:  # fmt: skip
    """Two cells of 4 nodes with 2 edges each, 7 operations per edge: (180 * 7^8)^2 = 1.077e18 architectures.

    Without `channels` and `cells`: the network that is trained for good, 36 and 20 for the 'cifar' stem, 48 and 14 for
    'imagenet'; with `search=True` 16 and 8, with batch norms as DARTS' search network has them. `auxiliary` adds the
    second classifier for training. The stem follows the image size where it is not given. `pool_bn`: batch norm behind
    pooling, as search networks have it.
    """
    given = {"channels": channels, "cells": cells, "stem": stem, "auxiliary": auxiliary, "search": search, "pool_bn": pool_bn}
    return _cells("darts", ("normal", "reduce"), input_size, num_classes, given, pool_bn)


def hdas_cells(
    input_size: Size = CIFAR, num_classes: int = 10, channels: int | None = None, cells: int | None = None,
    stem: str | None = None, auxiliary: bool = False, search: bool = False,
) -> SearchSpace:  # fmt: skip
    """Five cells, one for each stage and reduction: (180 * 7^8)^5 = 1.203e45 architectures.

    Arguments as `darts`. As in the authors' code, batch norm follows pooling.
    """
    given = {"channels": channels, "cells": cells, "stem": stem, "auxiliary": auxiliary, "search": search}
    return _cells("hdas_cells", CELLS, input_size, num_classes, given, pool_bn=True)


def _cells(
    name: str, kinds: tuple[str, ...], input_size: Size, num_classes: int, given: Mapping[str, Any], pool_bn: bool
) -> SearchSpace:
    """A row of cells with reductions after one and two thirds; `kinds`: normal and reduce, or one for each stage."""
    check_sizes(input_size, num_classes)
    stem, search = _stem(given["stem"], input_size), given["search"]
    channels = given["channels"] or (16 if search else 36 if stem == "cifar" else 48)
    cells = given["cells"] or (8 if search else 20 if stem == "cifar" else 14)
    if not 3 <= cells <= MOST_CELLS or not 2 <= channels <= MOST or channels % 2:
        allowed = f"3 to {MOST_CELLS} cells and an even number of channels up to {MOST}"
        raise SpaceError(f"a cell network has {allowed}, not {cells} and {channels}")
    skeleton = CellNetwork(
        name=name, arguments=_arguments(input_size, num_classes, given), input_size=input_size, num_classes=num_classes,
        channels=channels, kinds=row_of_cells(kinds, cells), stem=stem, auxiliary=given["auxiliary"], search=search,
        pool_bn=pool_bn,
    )  # fmt: skip
    return skeleton.space()


def _arguments(input_size: Size, num_classes: int, given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What architecture files repeat: of the function's arguments those that were given."""
    return ("input_size", tuple(input_size)), ("num_classes", num_classes), *((k, v) for k, v in given.items() if v)


def hdas_stages(
    input_size: Size = CIFAR, num_classes: int = 10, channels: int | None = None,
    cells: int | tuple[int, int, int] | None = None, stem: str | None = None, auxiliary: bool = False,
    cell: str | Mapping[str, Any] | Genotype = "DARTS_V2", window: int = WINDOW, least: int | None = None,
    shared: bool = False,
) -> SearchSpace:  # fmt: skip
    """Three stage graphs over the cells of a genotype: [9 * 27^5]^3 = 2.154e24 architectures with 20 cells.

    `cells`: of the whole network, two reductions included (20: six for each stage; 26, for the search of the cells'
    distribution: eight), or the numbers of the three stages. `cell`: a genotype by name, as text or as JSON.
    `window`: each cell reads two of the states right before it (the paper's m; Rule 3). `least`: the number of cells of
    a stage is searched as well, from this one on (N_min; the paper's 4, with 26 cells): 5^3 times as many. `shared`: one graph
    for all three stages (H^s-DAS* of Table 3): 9 * 27^5 = 1.291e8 architectures with 20 cells.
    """
    check_sizes(input_size, num_classes)
    chosen_stem, genotype = _stem(stem, input_size), genotype_of(cell)
    per_stage = _per_stage(cells or (20 if chosen_stem == "cifar" else 14))
    if sum(per_stage) > MOST_CELLS or window > MOST_WINDOW or not 1 <= (channels or 1) <= MOST:
        raise SpaceError(f"there are at most {MOST_CELLS} cells, a window of {MOST_WINDOW}, and {MOST} channels")
    if window < 2:
        raise SpaceError(f"a window of {window} leaves a cell without two edges; 2 is the least, the paper's is 3")
    if least is not None and not 2 <= least <= min(per_stage):
        raise SpaceError(f"least={least} cells of a stage: it is from 2 to {min(per_stage)}")
    if shared and len(set(per_stage)) > 1:
        raise SpaceError(f"stages that share one graph have as many cells each, not {', '.join(map(str, per_stage))}")
    given = {
        "channels": channels, "cells": cells, "stem": stem, "auxiliary": auxiliary, "cell": genotype.title,
        "window": window if window != WINDOW else 0, "least": least, "shared": shared,
    }  # fmt: skip
    skeleton = StageNetwork(
        name="hdas_stages", arguments=_arguments(input_size, num_classes, given), input_size=input_size,
        num_classes=num_classes, channels=channels or (36 if chosen_stem == "cifar" else 48), cells=per_stage,
        stem=chosen_stem, genotype=genotype, window=window, least=least, auxiliary=auxiliary, shared=shared,
    )  # fmt: skip
    return skeleton.space()


def _per_stage(cells: int | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(cells, int):
        if cells < 8 or (cells - 2) % 3:
            raise SpaceError(f"{cells} cells cannot be spread evenly over three stages; use 14, 20, 26, or three numbers")
        return ((cells - 2) // 3,) * 3
    if len(cells) != 3 or min(cells) < 2:
        raise SpaceError(f"cells={cells!r}: a stage has at least 2 cells, and there are three stages")
    return tuple(cells)


def _stem(stem: str | None, input_size: Size) -> str:
    """'cifar' keeps the image's size, 'imagenet' works at an eighth of it; without a wish, the size decides."""
    side = min(input_size[1:])
    if stem is not None:
        one_of("stem", str(stem), STEMS, SpaceError)
    if stem == "imagenet" and side < 33:
        raise SpaceError(f"stem 'imagenet' brings images of {side} pixels down to one; use stem 'cifar', or leave it out")
    if side < 5:
        raise SpaceError(f"images of {side} pixels are too small for two reductions; resize them to 8 or more")
    return stem or ("imagenet" if side >= 80 else "cifar")  # docs/data.md has figures at 80

"""The two spaces of H-DAS (arXiv 2101.04028v2): cells of each stage's own, and the graph between the cells of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hiernas.errors import SpaceError
from hiernas.networks.genotype import Genotype
from hiernas.networks.genotypes import genotype as genotype_of
from hiernas.networks.genotypes import name_of
from hiernas.networks.stage import CELLS, StageNetwork
from hiernas.space import SearchSpace
from hiernas.spaces.chain import _check as check_sizes
from hiernas.spaces.darts import cell_space, stem_of


def hdas_cells(
    input_size: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    channels: int | None = None,
    cells: int | None = None,
    stem: str | None = None,
    auxiliary: bool = False,
    search: bool = False,
) -> SearchSpace:
    """Five cells, one for each stage and reduction: (180 * 7^8)^5 = 1.203e45 architectures.

    Arguments as `darts`. As in the authors' code, batch norm follows pooling.
    """
    return cell_space("hdas_cells", CELLS, input_size, num_classes, channels, cells, stem, auxiliary, search, pool_bn=True)


def hdas_stages(
    input_size: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    channels: int | None = None,
    cells: int | tuple[int, int, int] | None = None,
    stem: str | None = None,
    auxiliary: bool = False,
    cell: str | Mapping[str, Any] | Genotype = "DARTS_V2",
    window: int = 3,
    least: int | None = None,
    shared: bool = False,
) -> SearchSpace:
    """Three stage graphs over the cells of a genotype: [9 * 27^5]^3 = 2.154e24 architectures with 20 cells.

    `cells`: of the whole network, two reductions included (20: six for each stage; 26, for the search of the cells'
    distribution: eight), or the numbers of the three stages. `cell`: a genotype by name, as text or as JSON.
    `window`: each cell reads two of the states right before it (the paper's m; Rule 3). `least`: the number of cells of
    a stage is searched as well, from this one on (N_min; the paper's 4, with 26 cells): 5^3 times as many. `shared`: one graph
    for all three stages (H^s-DAS* of Table 3): 9 * 27^5 = 1.291e8 architectures with 20 cells.
    """
    check_sizes(input_size, num_classes)
    given = {"channels": channels, "cells": cells, "stem": stem, "auxiliary": auxiliary}
    stem = stem_of(stem, input_size)
    channels = channels or (36 if stem == "cifar" else 48)
    per_stage = _per_stage(cells or (20 if stem == "cifar" else 14))
    if window < 2:
        raise SpaceError(f"a window of {window} leaves a cell without two edges; 2 is the least, the paper's is 3")
    if least is not None and not 2 <= least <= min(per_stage):
        raise SpaceError(f"least={least} cells of a stage: it is from 2 to {min(per_stage)}")
    if shared and len(set(per_stage)) > 1:
        raise SpaceError(f"stages that share one graph have as many cells each, not {', '.join(map(str, per_stage))}")
    genotype = genotype_of(cell)
    arguments: dict[str, Any] = {"input_size": tuple(input_size), "num_classes": num_classes}
    arguments |= {k: v for k, v in given.items() if v} | {"cell": name_of(genotype)}
    arguments |= {"window": window} if window != 3 else {}
    arguments |= ({"least": least} if least else {}) | ({"shared": True} if shared else {})
    skeleton = StageNetwork(
        name="hdas_stages", arguments=tuple(arguments.items()), input_size=input_size, num_classes=num_classes,
        channels=channels, cells=per_stage, stem=stem, genotype=genotype, window=window, least=least,
        auxiliary=auxiliary, shared=shared,
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

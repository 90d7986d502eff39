"""Methods, spaces and runtimes by name; each method with the spaces it can search, and its own where the user names none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import hiernas.spaces
from hiernas.data import ImageData
from hiernas.errors import LatencyError, SpaceError, did_you_mean
from hiernas.latency.runtimes import RUNTIMES
from hiernas.machine import usable_cores
from hiernas.methods import baselines, darts, hdas, hmnas, hnas, hournas
from hiernas.search.differentiable import smaller_network
from hiernas.search.hierarchy import cell_tables, cells_of
from hiernas.search.problem import Method
from hiernas.space import SearchSpace
from hiernas.supernet.cell import CellNetwork
from hiernas.supernet.stage import StageNetwork
from hiernas.supernet.subsets import subsets


def _one_supernet(config: hnas.HNASConfig, data: ImageData) -> dict[str, float]:
    return hnas.plan(replace(config, stages=2), data)


def _chains(space: SearchSpace) -> str | None:
    return None if not space.skeleton.groups else "it searches chains of layers, and this is a space of cells"


def _cells(space: SearchSpace) -> str | None:
    return None if isinstance(space.skeleton, CellNetwork) else "it searches cells (darts, hdas_cells)"


def _stages(space: SearchSpace) -> str | None:
    fits = isinstance(space.skeleton, StageNetwork) and space.skeleton.least is None
    return None if fits else "it searches the graphs between given cells (hdas_stages)"


def _numbers(space: SearchSpace) -> str | None:
    fits = isinstance(space.skeleton, StageNetwork) and space.skeleton.least is not None
    return None if fits else "it searches the number of cells (hdas_stages with space.cells=26 and space.least=4)"


BySize = dict[str, dict[str, Any]]  # arguments of a space, by preset

Spaces = Mapping[str, Mapping[str, Mapping[str, Any]]]  # by preset: spaces by name, with arguments

TINY: Spaces = {preset: {"tiny": {}} for preset in ("quick", "small", "paper")}
SMALL_CELLS: BySize = {
    "quick": {"channels": 8, "cells": 5},
    "small": {"channels": 8, "cells": 5},
    "paper": {"auxiliary": True},
}
SMALL_STAGES: BySize = {
    "quick": {"channels": 4, "cells": 14},
    "small": {"channels": 8, "cells": 14},
    "paper": {"auxiliary": True},
}
NUMBERS = {"cells": 26, "least": 4}


def _smaller(space: SearchSpace, config: Any) -> SearchSpace:
    return smaller_network(space, config.channels, config.cells)


def _narrower(space: SearchSpace, config: Any) -> SearchSpace:
    return hdas.narrower(space, config.channels)


def _with(space: str, arguments: BySize) -> Spaces:
    return {preset: {space: values} for preset, values in arguments.items()}


def _for_masks() -> Spaces:
    """HM-NAS' own spaces: the supernet is as large as what is found in it."""
    quick = {"channels": 4, "cells": 5}
    sizes = {"quick": quick, "small": quick, "paper": {"channels": 16, "cells": 8, "auxiliary": True}}
    stages = {"quick": {"channels": 4, "cells": 14}, "small": {"channels": 4, "cells": 14}, "paper": {"channels": 16}}
    return {
        preset: {"darts": {**values, "pool_bn": True}, "hdas_cells": values, "hdas_stages": stages[preset], "tiny": {}}
        for preset, values in sizes.items()
    }


def _maskable(space: SearchSpace) -> str | None:
    skeleton = space.skeleton
    if isinstance(skeleton, CellNetwork) and not (skeleton.pool_bn or skeleton.search):
        return "it searches in networks whose pooling is followed by batch norm (--set space.pool_bn=true)"
    if isinstance(skeleton, StageNetwork) and skeleton.least is not None:
        return "it searches edges and operations, and here the number of cells is searched, too (leave space.least out)"
    return None


def _searched_by_masks(space: SearchSpace, config: Any) -> SearchSpace:
    return hmnas.searched(space)


METHODS: dict[str, Method] = {
    "hnas": Method(hnas.hnas, hnas.PRESETS, hnas.plan, TINY, _chains),
    "hournas": Method(hournas.hournas, hournas.PRESETS, hournas.plan, TINY, _chains),
    "darts": Method(darts.darts, darts.PRESETS, darts.plan, _with("darts", SMALL_CELLS), _cells, _smaller),
    "hdas": Method(
        hdas.hdas, hdas.PRESETS, hdas.plan_whole, _with("hdas_stages", SMALL_STAGES), _stages, _narrower, ("cell", "least"),
        lambda s: (cells_of(s),), cells_of, cell_tables,
    ),
    "hdas-cells": Method(hdas.hdas_cells, hdas.PRESETS, hdas.plan, _with("hdas_cells", SMALL_CELLS), _cells, _smaller),
    "hdas-distribution": Method(
        hdas.hdas_distribution, hdas.PRESETS, hdas.plan,
        _with("hdas_stages", {p: {**values, **NUMBERS} for p, values in SMALL_STAGES.items()}), _numbers, _narrower,
    ),
    "hdas-stages": Method(hdas.hdas_stages, hdas.PRESETS, hdas.plan, _with("hdas_stages", SMALL_STAGES), _stages, _narrower),
    "hmnas": Method(
        hmnas.hmnas, hmnas.PRESETS, hmnas.plan, _for_masks(), _maskable, _searched_by_masks,
        also=lambda space: (subsets(space),), among=subsets,
    ),
    "spos": Method(baselines.spos, hnas.PRESETS, _one_supernet, TINY, _chains),
    "random": Method(baselines.random_search, hnas.PRESETS, _one_supernet, TINY, _chains),
}  # fmt: skip


def space_function(name: str, arguments: Mapping[str, Any]) -> Callable[..., SearchSpace]:
    if name not in hiernas.spaces.NAMES:
        raise SpaceError(f"unknown space '{name}'; {did_you_mean(name, hiernas.spaces.NAMES)}")
    function: Callable[..., SearchSpace] = getattr(hiernas.spaces, name)
    known = [p for p in inspect.signature(function).parameters if p not in ("input_size", "num_classes")]
    for key in arguments:
        if key not in known:
            raise SpaceError(f"space '{name}' has no setting 'space.{key}'; known: {', '.join(known) or 'none'}")
    return function


def make_space(space: str | SearchSpace | None, data: ImageData, arguments: Mapping[str, Any]) -> SearchSpace:
    """The named space for the data's image size and classes; a given space must fit them."""
    if space is None:
        raise SpaceError("no space was named")
    if isinstance(space, str):
        return space_function(space, arguments)(input_size=data.input_size, num_classes=data.num_classes, **arguments)
    wanted = (space.skeleton.input_size, space.skeleton.num_classes)
    if wanted != (data.input_size, data.num_classes):
        raise SpaceError(
            f"space '{space.name}' is for images of size {wanted[0]} in {wanted[1]} classes, but {data.name} has "
            f"{data.input_size} in {data.num_classes}; make the space with input_size={data.input_size}, "
            f"num_classes={data.num_classes}"
        )
    return space


RUNTIME = "onnxruntime"  # where none is named


def make_runtime(name: str, threads: int) -> Any:
    """A runtime by name."""
    if name not in RUNTIMES:
        raise LatencyError(f"unknown runtime '{name}'; {did_you_mean(name, RUNTIMES)}")
    if not 1 <= threads <= usable_cores():
        raise LatencyError(
            f"threads is {threads}, and this process may use {usable_cores()} cores: more threads than cores wait for each "
            f"other, and such a latency says nothing; give 1 to {usable_cores()}"
        )
    return RUNTIMES[name](threads=threads)

"""Truths planted for searches of cells: on some edges one operation sees its source, all else gives noise.

What gives noise says nothing about the image and can only hide what the others say, so the operations that see are the
right ones by construction. A share found is compared with the share that a random network of the space has of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.data import ImageData, load_data
from hiernas.methods import METHODS
from hiernas.methods.darts import DARTSConfig, darts
from hiernas.methods.hdas import HDASConfig, hdas_stages
from hiernas.methods.hmnas import HMNASConfig, hmnas
from hiernas.methods.hmnas.masks import MaskSettings
from hiernas.networks.cell import CellNetwork
from hiernas.networks.genotype import edge_name
from hiernas.networks.parts import Mixture
from hiernas.networks.stage import StageNetwork
from hiernas.problem import Found, Problem
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.run.settings import for_images
from hiernas.search.alphas import AlphaSettings
from hiernas.search.differentiable import SearchSettings
from hiernas.space import SearchSpace
from hiernas.spaces import hdas_stages as stage_space
from hiernas.train.recipes import Recipe
from toy import RUN

SIZE, CLASSES = (1, 8, 8), 4
SEEING = ("skip_connect", "max_pool_3x3", "sep_conv_3x3")  # the operations of an edge in cells, besides `none`
ONE = "[('sep_conv_3x3', 0), ('skip_connect', 1)" + ", ('skip_connect', 0), ('skip_connect', 1)" * 3 + "]"
LIGHT = f"Genotype(normal={ONE}, reduce={ONE})"  # one convolution in a cell
Truth = tuple[tuple[str, str], ...]  # site and operation
SETTINGS = SearchSettings(
    epochs=12, warmup_epochs=4, lr=0.1, alpha=AlphaSettings(lr=0.05),
    train=Recipe(batch_size=32, accelerator="cpu", schedule="cosine", weight_decay=3e-4, grad_clip=5.0, augment="none"),
)  # fmt: skip


def images(seed: int) -> ImageData:
    """One pattern for each class, under pixels of noise: 640 images."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (CLASSES, *SIZE))
    pixels = [np.clip(patterns[i % CLASSES] * 0.6 + rng.normal(60, 50, SIZE), 0, 255).astype(np.uint8) for i in range(640)]
    return load_data([(torch.from_numpy(x), i % CLASSES) for i, x in enumerate(pixels)])


class Noise(nn.Module):
    """Noise in the shape that an operation of this stride would give, whatever it is given."""

    affine = True  # behind a pooling, in the place of its batch norm, it is not taken for one without parameters

    def __init__(self, deviation: float, stride: int = 1) -> None:
        super().__init__()
        self.deviation, self.stride = deviation, stride

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return self.deviation * torch.randn(b, c, -(-h // self.stride), -(-w // self.stride), device=x.device)


def blind(op: nn.Module, option: str, deviation: float, stride: int) -> nn.Module:
    """The operation that gives noise in the place of `op`."""
    pool: Any = op
    return nn.Sequential(pool[0], Noise(deviation)) if "pool" in option else Noise(deviation, stride)


def hide(
    cell: Any, kind: str, truth: Truth, deviation: float, choices: Mapping[tuple[int, int], Any] | None = None
) -> None:
    """Blind all operations of a cell's or stage's edges but the truth's; `choices`: of a plain network's edges."""
    for key, edge in list(cell.edges.items()):
        s, n = map(int, key.split("_"))
        stride, site = (2 if getattr(cell, "reduction", False) and s < 2 else 1), edge_name(kind, s, n)
        if choices is None:
            for option in [o for o in edge.ops if (site, o) not in truth]:
                edge.ops[option] = blind(edge.ops[option], option, deviation, stride)
            continue
        for i, option in enumerate(o for o, _ in choices[s, n] if o != "none"):
            if (site, option) not in truth and isinstance(edge, Mixture):
                edge.ops[i] = blind(edge.ops[i], option, deviation, stride)
            elif (site, option) not in truth:
                cell.edges[key] = blind(edge, option, deviation, stride)


@dataclass(frozen=True)
class PlantedCells(CellNetwork):
    """Cells with a truth."""

    truth: Truth = ()
    deviation: float = 1.0

    def supernet(self, decisions: Sequence[Any]) -> Any:
        supernet = super().supernet(decisions)
        for cell, kind in zip(supernet.cells, self.kinds, strict=True):
            hide(cell, kind, self.truth, self.deviation)
        return supernet

    def build(self, choices: Sequence[Any]) -> nn.Module:
        network: Any = super().build(choices)
        for cell, kind in zip(network.cells, self.kinds, strict=True):
            hide(cell, kind, self.truth, self.deviation, self.cell_choices(kind, choices))
        return network


@dataclass(frozen=True)
class PlantedStages(StageNetwork):
    """Graphs between cells with a truth."""

    truth: Truth = ()
    deviation: float = 1.0

    def supernet(self, decisions: Sequence[Any]) -> Any:
        supernet = super().supernet(decisions)
        for k, stage in enumerate(supernet.stages):
            hide(stage, f"stage{k + 1}", self.truth, self.deviation)
        return supernet

    def build(self, choices: Sequence[Any]) -> nn.Module:
        network: Any = super().build(choices)
        for k, stage in enumerate(network.stages):
            hide(stage, f"stage{k + 1}", self.truth, self.deviation, self.stage_choices(k, choices)[0])
        return network


# -- spaces ------------------------------------------------------------------------------------------------------------


def cells(seed: int) -> tuple[SearchSpace, Truth]:
    """Cells of three nodes, each with two edges that see, by one operation each."""
    skeleton = PlantedCells("planted", (), SIZE, CLASSES, 4, ("normal", "reduce", "reduce"), "cifar", pool_bn=True, nodes=3)
    rng, truth = np.random.default_rng([seed, 1]), []
    for group in skeleton.groups:
        seen = rng.permutation(len(group.sites))[: group.keep]
        truth += [(group.sites[i], SEEING[rng.integers(len(SEEING))]) for i in sorted(seen)]
    space = replace(skeleton, truth=tuple(truth)).space()
    return space.restrict({d.name: ("none", *SEEING) for d in space.decisions}), tuple(truth)


def graphs(seed: int, edges: int) -> tuple[SearchSpace, Truth]:
    """Two cells in each stage, each with an edge that sees the cell before it, and with two edges another one."""
    plain: Any = stage_space(SIZE, CLASSES, channels=4, cells=(2, 2, 2), cell=LIGHT).skeleton
    rng, truth = np.random.default_rng([seed, 2]), []
    for group in plain.groups:
        others = rng.permutation(len(group.sites) - 1)[: edges - 1]
        seen = [*others, len(group.sites) - 1]
        truth += [(group.sites[i], ("max_pool_3x3", "avg_pool_3x3", "skip_connect")[rng.integers(3)]) for i in sorted(seen)]
    values = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    return PlantedStages(**values, truth=tuple(truth)).space(), tuple(truth)


# -- searches ----------------------------------------------------------------------------------------------------------


def searched(method: Callable[[Problem, Any], Found], config: Any, space: SearchSpace, seed: int) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "r", RUN)
        return method(make_problem(space, images(seed), (), None, run, seed), config)


def share(kept: Mapping[str, Sequence[str]], truth: Truth) -> float:
    """How much of the truth is among the options kept at each site."""
    return float(np.mean([operation in kept[site] for site, operation in truth]))


def by_chance(space: SearchSpace, truth: Truth) -> float:
    """The share that random networks of the space have of the truth."""
    names = space.skeleton.site_names
    drawn = [space.decode(row).options for row in space.sample_encoded(np.random.default_rng(0), 1000)]
    return float(np.mean([share({n: [o] for n, o in zip(names, row, strict=True)}, truth) for row in drawn]))


def kept_by(found: Found) -> dict[str, list[str]]:
    """Per site what the network that was handed over keeps."""
    names = found.architecture.skeleton.site_names
    return {n: [o for o, _ in choice] for n, choice in zip(names, found.architecture.choices, strict=True)}


class Measured(NamedTuple):
    """What a search found of a truth."""

    found: float  # share of the truth in the network that was handed over
    chance: float  # the same by chance
    decided: bool = True  # False: the search says that it has decided nothing, and what was handed over is the control


def measured(found: Found, kept: Mapping[str, Sequence[str]], truth: Truth, chance: float) -> Measured:
    return Measured(share(kept, truth), chance, all(v["decided"] for v in found.details["decided"].values()))


LITTLE: dict[str, Any] = {"calibration_images": 64, "final_epochs": 1}
BY_HAND: dict[str, Any] = {  # settings that were chosen for these truths
    "darts": DARTSConfig(search=SETTINGS, cells=3, channels=4, **LITTLE),
    "hdas-stages": HDASConfig(search=SETTINGS, channels=4, delta=0.0, **LITTLE),
    "hmnas": HMNASConfig(search=SETTINGS, mask=MaskSettings(edges_epochs=4, operations_epochs=4), **LITTLE),
}


def quick(method: str) -> Any:
    """The preset `quick` as `hiernas search` fits it to so few images, in networks of the planted size."""
    config = for_images(METHODS[method].presets["quick"], "quick", len(images(0).train))
    return replace(config, **LITTLE, **({"cells": 3} if method == "darts" else {}))


def of_darts(seed: int, config: Any = BY_HAND["darts"]) -> Measured:
    """Operations and edges of cells, by DARTS."""
    space, truth = cells(seed)
    found = searched(darts, config, space, seed)
    return measured(found, kept_by(found), truth, by_chance(space, truth))


def of_hdas(seed: int, edges: int, config: Any = BY_HAND["hdas-stages"]) -> Measured:
    """Operations and edges between cells, by H-DAS."""
    space, truth = graphs(seed, edges)
    found = searched(hdas_stages, config, space, seed)
    return measured(found, kept_by(found), truth, by_chance(space, truth))


def of_hmnas(seed: int, rule: bool = False, config: Any = BY_HAND["hmnas"]) -> Measured:
    """Operations of cells, by HM-NAS' masks; chance: the share of all operations that they keep. Or by `rule`, its control."""
    space, truth = cells(seed)
    found = _by_hmnas(seed, config)
    if rule:  # what is handed over where nothing was decided
        options = found.rivals[1].architecture.options if found.rivals else found.architecture.options
        kept = {site: [o] for site, o in zip(space.skeleton.site_names, options, strict=True)}
        return measured(found, kept, truth, by_chance(space, truth))
    every = tuple((d.name, o) for d in space.decisions for o in d.options if o != "none")
    return measured(found, kept_by(found), truth, share(kept_by(found), every))


@lru_cache(1)
def _by_hmnas(seed: int, config: Any) -> Found:
    return searched(hmnas, config, cells(seed)[0], seed)


Planting = Callable[[int, Any], Measured]  # of a seed and a configuration
TRUTHS: Mapping[str, tuple[str, Planting]] = {  # by name: the method, and how to measure it
    "darts: operations and edges of cells": ("darts", of_darts),
    "hdas-stages: a chain of cells": ("hdas-stages", lambda seed, config: of_hdas(seed, 1, config)),
    "hdas-stages: two edges into each cell": ("hdas-stages", lambda seed, config: of_hdas(seed, 2, config)),
    "hmnas: operations of cells, by masks": ("hmnas", lambda seed, config: of_hmnas(seed, False, config)),
    "hmnas: operations and edges of cells, by rule": ("hmnas", lambda seed, config: of_hmnas(seed, True, config)),
}

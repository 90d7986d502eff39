"""A small search for HourNAS: a space of 576 architectures, few images, few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import hiernas
from hiernas.costs import parse_limits
from hiernas.costs.tables import parts_of_space
from hiernas.data import ImageData
from hiernas.data.split import Split, Subset
from hiernas.latency import Entry, LatencyTable
from hiernas.methods.hournas import HourNASConfig, hournas
from hiernas.problem import Found, Problem
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.space import SearchSpace
from hiernas.spaces import Stage, chain_space
from hiernas.train.recipes import Recipe
from toy import RUN

CONFIG = HourNASConfig(
    vital_epochs=2, epochs=3, train=Recipe(batch_size=24, accelerator="cpu"), share=0.25, proposals=3,
    proposal_iterations=200, objective="macs", calibration_images=40, final_epochs=1, final_lr=0.1,
)  # fmt: skip
LIMITS = ("params<=4k", "macs<=20k")
OPS = (hiernas.MBConv(3, 1), hiernas.MBConv(3, 2), hiernas.MBConv(5, 2))


def little() -> SearchSpace:
    """576 architectures over images of 8x8 pixels; the two blocks that change the shape are vital."""
    stages = [Stage(8, 2, 1, OPS, skip=True), Stage(16, 2, 2, OPS, skip=True), Stage(24, 1, 1, OPS[:2])]
    return chain_space("little", (1, 8, 8), 10, stem=8, stem_stride=2, stages=stages, head=16)


def few_of(digits: ImageData) -> ImageData:
    """96 training images, 40 for validation, 40 for testing."""

    def first(split: Split, n: int) -> Split:
        return Split(Subset(split.images, torch.arange(n)), split.labels[:n])

    return replace(digits, train=first(digits.train, 96), val=first(digits.val, 40), test=first(digits.test, 40))


def problem(
    run: RunFolder, data: ImageData, limits: tuple[str, ...] = LIMITS, space: SearchSpace | None = None, seed: int = 0
) -> Problem:
    return make_problem(space=space or little(), data=data, limits=parse_limits(limits), latency=None, run=run, seed=seed)


def found_by(folder: Path, data: ImageData, config: HourNASConfig = CONFIG, **more: Any) -> Found:
    return hournas(problem(RunFolder.create(folder, RUN), data, **more), config)


def latency_file(folder: Path, space: SearchSpace) -> Path:
    """A made-up table of another device, so that nothing is measured."""
    fixed, options = parts_of_space(space)
    keys = dict.fromkeys(p.key for p in (*fixed, *(p for site in options for ps in site for p in ps)) if not p.is_identity)
    entries = {key: Entry(0.02 + 0.001 * i, 0.01 + 0.001 * i, 0.03 + 0.001 * i, 9) for i, key in enumerate(keys)}
    LatencyTable("another", "onnxruntime", "1", 1, 1, 0.01, entries).save(folder / "table.json")
    return folder / "table.json"

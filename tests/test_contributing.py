"""The worked examples of CONTRIBUTING.md, run as they stand there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from hiernas.data import ImageData
from hiernas.latency.runtimes import RUNTIMES, Runtime
from hiernas.methods.hnas import QUICK
from hiernas.run.folder import RunFolder
from hiernas.run.settings import with_settings
from hiernas.spaces import Stage, chain_space
from methods.little import few_of, little, problem
from toy import RUN

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def examples() -> Any:
    module = ModuleType("examples_of_contributing")
    sys.modules[module.__name__] = module  # dataclasses look for it
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, "CONTRIBUTING.md", "exec"), module.__dict__)
    return module


def test_the_space_has_the_size_that_is_said(examples: Any) -> None:
    space = examples.slim()
    assert f"`slim().size()` is {space.size():,}" in TEXT
    assert space.size() == 9**7 * 8**2  # two blocks change the shape and cannot be skipped
    network = space.sample(np.random.default_rng(0)).build()
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_operation_is_one_of_a_space(examples: Any) -> None:
    space = chain_space("own", (1, 8, 8), 3, stem=4, stages=[Stage(4, 2, 2, (examples.Double(3), examples.Double(5)))], head=8)
    assert space.size() == 4
    for architecture in space:
        assert architecture.build()(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_the_method_finds_a_network_within_a_hundredth_of_the_best(examples: Any, digits: ImageData, tmp_path: Path) -> None:
    words = ["epochs=[1,1,1]", "population=6", "generations=1", "calibration_images=20", "objective=macs"]
    config = with_settings(QUICK, words)
    found = examples.METHODS["thrifty"].search(problem(RunFolder.create(tmp_path / "r", RUN), few_of(digits)), config)
    best = max(c.val_accuracy for c in found.front)
    near = [c for c in found.front if c.val_accuracy >= best - 0.01]
    assert found.chosen == min(near, key=lambda c: c.macs)
    assert examples.METHODS["thrifty"].refusal(little()) is None


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch's own, when `fuse` is imported
def test_the_runtime_computes_what_torch_computes(examples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "fused", examples.FUSED)
    network = little().sample(np.random.default_rng(0)).build().eval()
    assert Runtime("fused").prepare(network, (1, 8, 8))() > 0

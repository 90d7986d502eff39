"""Block strings against those that timm's own source has for published networks, and against timm where it is installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from generated import computes, noise, trained, written

from hiernas import spaces
from hiernas.errors import ExportError
from hiernas.export import timm_network
from hiernas.networks.ops import ACTIVATIONS, Conv, MBConv, Op, Skip
from hiernas.space import Architecture
from hiernas.spaces import Stage, chain_space, known

PUBLISHED = {  # timm/models/efficientnet.py; "noskip" left out where the shape changes anyway
    "mobilenetv2": "ds_r1_k3_s1_e1_c16 | ir_r2_k3_s2_e6_c24 | ir_r3_k3_s2_e6_c32 | ir_r4_k3_s2_e6_c64 | ir_r3_k3_s1_e6_c96 | "
    "ir_r3_k3_s2_e6_c160 | ir_r1_k3_s1_e6_c320",
    "mnasnet-a1": "ds_r1_k3_s1_e1_c16 | ir_r2_k3_s2_e6_c24 | ir_r3_k5_s2_e3_c40_se0.25 | ir_r4_k3_s2_e6_c80 | "
    "ir_r2_k3_s1_e6_c112_se0.25 | ir_r3_k5_s2_e6_c160_se0.25 | ir_r1_k3_s1_e6_c320",
    "efficientnet-b0": "ds_r1_k3_s1_e1_c16_se0.25 | ir_r2_k3_s2_e6_c24_se0.25 | ir_r2_k5_s2_e6_c40_se0.25 | "
    "ir_r3_k3_s2_e6_c80_se0.25 | ir_r3_k5_s1_e6_c112_se0.25 | ir_r4_k5_s2_e6_c192_se0.25 | ir_r1_k3_s1_e6_c320_se0.25",
    "fbnet-c": "ir_r1_k3_s1_e1_c16 | ir_r1_k3_s2_e6_c24 ir_r2_k3_s1_e1_c24 | "
    "ir_r1_k5_s2_e6_c32 ir_r1_k5_s1_e3_c32 ir_r1_k5_s1_e6_c32 ir_r1_k3_s1_e6_c32 | "
    "ir_r1_k5_s2_e6_c64 ir_r1_k5_s1_e3_c64 ir_r2_k5_s1_e6_c64 | ir_r3_k5_s1_e6_c112 ir_r1_k5_s1_e3_c112 | "
    "ir_r4_k5_s2_e6_c184 | ir_r1_k3_s1_e6_c352",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_strings_are_those_of_timm(name: str) -> None:
    found = timm_network(known(name))
    assert " | ".join(" ".join(stage) for stage in found.arch_def) == PUBLISHED[name]
    expected = {
        "mobilenetv2": (32, 1280, "relu6"), "mnasnet-a1": (32, 1280, "relu"),
        "efficientnet-b0": (32, 1280, "silu"), "fbnet-c": (16, 1984, "relu"),
    }  # fmt: skip
    assert (found.arguments["stem_size"], found.arguments["num_features"], found.act) == expected[name]


def chain(*ops: Op, width: int = 16, cin: int = 16, act: str = "relu", stride: int = 1) -> Architecture:
    """A stage of these operations in this order."""
    stages = [Stage(width, 1, stride, ops[:1]), *(Stage(width, 1, 1, (op,)) for op in ops[1:])]
    space = chain_space("chain", (3, 32, 32), 5, stem=cin, stages=stages, head=24, act=act)
    return space.architecture([op.name for op in ops])


def test_blocks_of_other_kinds() -> None:
    found = timm_network(chain(Skip("relu"), MBConv(3, 1, act="relu"), Skip(), Conv(5, "silu"), cin=8, stride=2))
    assert found.arch_def == [["cn_r1_k1_s2_c16"], ["ds_r1_k3_s1_e1_c16"], ["cn_r1_k5_s1_c16_nsw"]]
    assert found.stem_stride == 2


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        (chain(Skip(), cin=8), "'stage1_block1' is a convolution without activation"),
        (chain(MBConv(3, 3, groups=2)), "'stage1_block1' has 1x1 convolutions in groups with a channel shuffle"),
        (chain(MBConv(3, 3), width=12), "'stage1_block1' has 12 channels, which timm rounds to a multiple of 8"),
        (chain(MBConv(3, 3), cin=12), "'stem' has 12 channels"),
        (chain(MBConv(3, 3), stride=3), "'stage1_block1' has stride 3, and timm takes 1 and 2"),
        (chain(Skip()), "no block is left"),
        (spaces.darts().sample(np.random.default_rng(0)), "'darts' is no chain of blocks"),
    ],
)
def test_reasons_why_timm_cannot(architecture: Architecture, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        timm_network(architecture)


def test_too_many_strides() -> None:
    stages = [Stage(16, 1, 2, (MBConv(3, 3),)) for _ in range(5)]
    space = chain_space("deep", (3, 64, 64), 5, stem=16, stages=stages, head=24)
    with pytest.raises(ExportError, match="its blocks reduce the image 32 times, and timm's at most 16 times"):
        timm_network(space.architecture(["k3_e3"] * 5))


# -- timm itself -----------------------------------------------------------------------------------------------------


def torchvision() -> ModuleType:
    """torchvision, also where it was built for another torch than the one installed: two operations lack a schema then."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    module = importlib.import_module("torchvision")
    module.kept = library  # the schemas last as long as it does
    return module


@pytest.fixture(scope="module")
def _timm() -> None:
    try:
        torchvision()
        importlib.import_module("timm")
    except ImportError as error:
        pytest.skip(f"timm is not installed: {error}")


def every_block() -> Architecture:
    """All strings of one network: activations, squeeze-and-excite, a kept 1x1 convolution, skips that change the shape."""
    acts = list(ACTIVATIONS)
    ops: list[Op] = [MBConv(k, e, se, acts[(k + e) % 4]) for k in (3, 7) for e in (1, 2, 3) for se in (False, True)]
    ops += [MBConv(5, 1, True, keep_1x1=True), Conv(3, "silu")]
    stages = [Stage(8 * (2 + i % 3), 1, 1 + (i in (2, 5)), (op,)) for i, op in enumerate(ops)]
    stages.append(Stage(40, 2, 2, (Skip("hswish"),)))
    space = chain_space("every", (3, 32, 32), 5, stem=24, stages=stages, head=48, act="hswish", bn_eps=1e-2, dropout=0.1)
    return space.architecture([op.name for op in ops] + ["skip", "skip"])


TIMM = {
    **{name: known(name, (3, 64, 64), 10) for name in ("proxyless-mobile", "mnasnet-a1", "efficientnet-b0", "fbnet-b")},
    "tiny": spaces.tiny((1, 8, 8)).sample(np.random.default_rng(1)),  # its stem has stride 1
    "every": every_block(),
}


@pytest.mark.usefixtures("_timm")
@pytest.mark.parametrize("name", TIMM)
def test_timm_builds_the_same_network(name: str, tmp_path: Path) -> None:
    architecture = TIMM[name]
    network = trained(architecture.build())
    _, module = written(network, tmp_path, architecture)
    theirs = module.to_timm(network)
    assert type(theirs).__module__ == "timm.models.efficientnet"
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in network.parameters())
    x = noise(architecture.skeleton.input_size)
    torch.testing.assert_close(computes(theirs, x), computes(network, x), rtol=1e-5, atol=1e-5)
    assert not theirs.training
    drop = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)]
    assert theirs.drop_rate == (drop[0] if drop else 0.0)

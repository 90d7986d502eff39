"""Resetting blocks: networks in which it is known what a block is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from handmade import BasicBlock, ResNet18
from torch import Tensor, nn

from hiernas import spaces
from hiernas.commands.vital import output_modules, reset_blocks
from hiernas.data import ImageData, normalise
from hiernas.data.images import InMemory
from hiernas.data.split import Split
from hiernas.errors import ConfigError, SpaceError
from hiernas.networks.graph import graph_of_network, regions
from hiernas.networks.ops import Residual
from hiernas.randomness import numpy_generator, seeded
from hiernas.train.loop import accuracy

SHARE = 0.3  # of the dark images, class 0


@pytest.fixture(scope="module")
def lamps(digits: ImageData) -> ImageData:
    """300 images of 8x8 pixels, all dark (class 0, 30 %) or all bright; normalised they are -1 and 1."""
    labels = (torch.arange(300) >= 300 * SHARE).long()
    pixels = (255 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    split = Split(InMemory(pixels), labels)
    return replace(digits, test=split, classes=("dark", "bright"), mean=(0.5,), std=(0.5,))


class Layers(nn.Module):
    """A module of layers that is no container, so that it is a block."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def conv(cin: int, cout: int, weight: float, bias: float = 0.0) -> nn.Conv2d:
    """A 1x1 convolution with all weights equal."""
    layer = nn.Conv2d(cin, cout, 1)
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def lamp_network(around: float) -> nn.Sequential:
    """Four channels that all hold the brightness; a residual block adds `around` to each; bright if their sum exceeds 0.

    The sum is 4 times the brightness, -1 or 1, and what the block adds: only below 1 each it changes nothing.
    """
    judge = nn.Linear(4, 2)
    judge.weight.data = torch.tensor([[0.0] * 4, [1.0] * 4])
    nn.init.zeros_(judge.bias)
    body = Layers(conv(4, 4, 0.0, around))
    return nn.Sequential(Layers(conv(1, 4, 1.0)), Residual(body), nn.AdaptiveAvgPool2d(1), nn.Flatten(), judge)


def test_a_block_that_does_nothing_loses_nothing(lamps: ImageData) -> None:
    stem, idle, judge = reset_blocks(lamp_network(0.0), lamps.test, lamps, seed=0, draws=4)
    assert [each.block.vital for each in (stem, idle, judge)] == [True, False, True]
    assert [each.branch for each in (stem, idle, judge)] == [False, True, False]
    assert idle.accuracies == {0.3: (1.0,) * 4, 0.6: (1.0,) * 4, 1.0: (1.0,)}
    assert stem.accuracies[1.0] == judge.accuracies[1.0] == (SHARE,)  # both classes' outputs are 0: the first is taken


def test_a_block_that_does_everything_is_missed(lamps: ImageData) -> None:
    """The block turns both brightnesses bright (+3 a channel); without it the network is right."""
    network = lamp_network(3.0)
    assert accuracy(network, lamps.test, lamps) == 1 - SHARE
    _, wrong, _ = reset_blocks(network, lamps.test, lamps, seed=0, draws=3)
    assert wrong.accuracies[1.0] == (1.0,)
    for p, each in wrong.accuracies.items():
        for draw, found in enumerate(each):  # with k of 4 channels left a dark image sums up to 3k - 4
            left = (numpy_generator(0, "reset", "1", draw, "1.body.layers.0").random(4) >= p).sum()
            assert found == (1.0 if 3 * left - 4 <= 0 else 1 - SHARE)


def test_resetting_is_the_same_as_weights_of_zero(digits: ImageData) -> None:
    """The last batch norm of a block, with scale and shift of the drawn channels set to zero by hand."""
    space = spaces.tiny()
    with seeded(3, "test"):
        network = space.architecture(["k3_e3", "skip", "k5_e3", "k3_e3", "k3_e3", "skip", "k3_e3", "skip"]).build()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            with seeded(4, "test"):
                nn.init.normal_(m.weight)
                nn.init.normal_(m.bias)
    images = normalise(digits.test.images.fetch(torch.arange(90)), digits, "cpu")
    for _ in range(20):
        network(images)  # batch statistics, so that images differ in what they are taken for
    with torch.no_grad():
        network.head[1][-1].bias -= network.eval()(images).mean(0)
        few = Split(digits.test.images, network(images).argmax(1))
    assert len(few.labels.unique()) > 3
    found = {r.block.name: r for r in reset_blocks(network, few, digits, seed=7, probabilities=(0.4, 0.8), draws=2)}
    for name, last in (("stage1_block1", "body.7"), ("stage2_block1", "7"), ("stage2_block2", "body.7")):
        end = f"{name}.{last}"
        norm = network.get_submodule(end)
        weight, bias = norm.weight.data.clone(), norm.bias.data.clone()
        output = name if found[name].block.vital else end
        for p in (0.4, 0.8):
            for draw in range(2):
                kept = torch.from_numpy(numpy_generator(7, "reset", name, draw, output).random(len(weight)) >= p)
                norm.weight.data, norm.bias.data = weight * kept, bias * kept
                assert found[name].accuracies[p][draw] == accuracy(network, few, digits), (name, p, draw)
        norm.weight.data, norm.bias.data = weight, bias
    assert len({a for r in found.values() for each in r.accuracies.values() for a in each}) > 10


def test_a_network_that_is_no_sequence_is_run_as_a_whole(lamps: ImageData) -> None:
    plain = lamp_network(3.0)
    within = Layers(*plain)  # no sequence itself
    by_part = reset_blocks(plain, lamps.test, lamps, seed=0)
    seen = []
    as_whole = reset_blocks(within, lamps.test, lamps, seed=0, progress=lambda done, of: seen.append((done, of)))
    assert [r.accuracies[1.0] for r in as_whole] == [r.accuracies[1.0] for r in by_part]
    assert seen == [(i, 6) for i in range(1, 7)]  # three blocks, two batches
    assert within.training
    assert not any(m._forward_hooks for m in within.modules())


def test_what_is_reset() -> None:
    graph = graph_of_network(ResNet18((4, 4, 8, 8), 5), (3, 32, 32))
    outputs = {r.name: output_modules(graph, r) for r in regions(graph)}
    assert outputs["conv1 + bn1"] == ["bn1"]
    assert outputs["layer1.0"] == ["layer1.0.bn2"]  # the identity is left
    assert outputs["layer2.0"] == ["layer2.0"]  # with its projection shortcut
    assert outputs["fc"] == ["fc"]


class Within(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 1, 1), nn.Linear(1, 2)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x + F.relu(self.conv(x))).mean((2, 3)) * self.scale)


def test_what_cannot_be_reset_is_named(lamps: ImageData) -> None:
    with pytest.raises(SpaceError, match=r"branch of 'conv' ends within the forward function of .*; make the branch's last"):
        reset_blocks(Within(), lamps.test, lamps, seed=0)
    graph = graph_of_network(Within(), (1, 8, 8))
    scale = next(r for r in regions(graph) if r.name == "scale")
    with pytest.raises(SpaceError, match="'scale' is no module that is called, so it has no output to reset"):
        output_modules(graph, scale)
    with pytest.raises(ConfigError, match=r"draws=0, probabilities=\[0.3, 0.6, 1.0\]: at least one draw"):
        reset_blocks(Within(), lamps.test, lamps, seed=0, draws=0)
    with pytest.raises(ConfigError, match="p above 0 and at most 1"):
        reset_blocks(BasicBlock(1, 1, 1), lamps.test, lamps, seed=0, probabilities=(0.0,))

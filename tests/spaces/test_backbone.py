"""A network of one's own as a space: it stands in it as it is, and something else in the place of each block."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_backbone
import pytest
import torch
from torch import Tensor, nn

import hiernas
from hiernas.costs.tables import cost
from hiernas.data import ImageData
from hiernas.errors import RunError, SpaceError
from hiernas.networks.ops import MBConv
from hiernas.run.trained import Facts, TrainedNetwork
from hiernas.space import SearchSpace

OPS = (MBConv(3, 2), MBConv(5, 2))


class Basic(nn.Module):
    """ResNet's block, as others write it."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout, eps=1e-3)
        self.down = nn.Conv2d(cin, cout, 1, stride) if stride != 1 or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.down(x))


def backbone() -> nn.ModuleDict:
    """A small one for digits, its statistics and scales not as they begin."""
    parts = nn.ModuleDict(
        {
            "stem": nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU()),
            "blocks": nn.ModuleList([Basic(6, 6), Basic(6, 10, 2), Basic(10, 10)]),
            "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 10)),
        }
    )
    generator = torch.Generator().manual_seed(3)
    for value in parts.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) - 0.3 * (value.ndim > 1))
    return parts


def whole(parts: Any) -> nn.Module:
    return nn.Sequential(parts.stem, *parts.blocks, parts.head).eval()


def space_of(parts: Any, **other: Any) -> SearchSpace:
    given = {"stem": parts.stem, "blocks": parts.blocks, "head": parts.head, "ops": OPS, **other}
    return hiernas.backbone_space("ours", (1, 8, 8), 10, **given)


def test_with_every_block_as_it_is_it_is_the_network_itself() -> None:
    parts = backbone()
    space, x = space_of(parts), torch.rand(3, 1, 8, 8)
    assert space.size() == 4 * 3 * 4  # the middle block changes the shape and cannot be left out
    assert [d.name for d in space.decisions] == ["stage1.block1", "stage2.block1", "stage2.block2"]
    own, expected = space.architecture(("own",) * 3), whole(parts)(x)
    assert torch.equal(own.build().eval()(x), expected)
    assert torch.equal(space.supernet().subnet(own).eval()(x), expected)  # type: ignore[operator]
    counted = cost(own)
    assert counted.params == sum(p.numel() for p in parts.parameters())
    convolutions = 64 * (9 * 6 + 2 * 9 * 36) + 16 * (9 * 60 + 9 * 100 + 60) + 16 * 2 * 9 * 100
    assert counted.macs == convolutions + 10 * 10


def test_what_takes_a_blocks_place_begins_anew_and_what_stays_keeps_its_weights() -> None:
    parts = backbone()
    before, x = copy.deepcopy(parts.state_dict()), torch.rand(2, 1, 8, 8)
    network = space_of(parts).architecture(("k3_e2", "own", "skip")).build().eval()
    first: Any = network[1]
    assert float(first.body[-1].weight.detach().abs().max()) == 0.0  # a residual branch that begins at nothing: the identity
    assert torch.equal(network(x), nn.Sequential(parts.stem, parts.blocks[1], parts.head).eval()(x))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    assert all(torch.equal(before[key], value) for key, value in parts.state_dict().items())  # it works on copies


def test_blocks_are_copied_and_leave_their_input_alone() -> None:
    parts = backbone()
    first = nn.Sequential(nn.ReLU(inplace=True), nn.InstanceNorm2d(6), nn.Conv2d(6, 6, 1))
    space = space_of(parts, blocks=[first, *parts.blocks[1:]])
    own, supernet = space.architecture(("own",) * 3), space.supernet()
    x = torch.rand(2, 1, 8, 8) - 0.5
    expected = nn.Sequential(parts.stem, first, *parts.blocks[1:], parts.head).eval()(x)
    features = torch.randn(2, 6, 8, 8)
    before = features.clone()
    supernet.sites[0]["own"](features)  # type: ignore[index, union-attr]
    assert torch.equal(features, before)  # another option reads it, too
    with torch.no_grad():
        for p in parts.parameters():
            p.zero_()
    assert torch.equal(own.build().eval()(x), expected)
    assert cost(own).peak_ram > 0


def test_without_a_head_a_new_classifier_stands_behind_the_mean() -> None:
    network = space_of(backbone(), head=None).architecture(("own", "own", "own")).build()
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert next(p for p in reversed(list(network.parameters())) if p.ndim == 2).shape == (10, 10)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not with me")


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(x)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: {"blocks": []}, "`blocks` is empty"),
        (lambda p: {"blocks": [p.blocks[1], Basic(6, 6)]}, r"block 2 cannot take features of shape \[10, 4, 4\]"),
        (lambda p: {"blocks": [Broken()]}, "block 1 cannot take .*: not with me"),
        (lambda p: {"stem": nn.Flatten()}, r"stem returns values of shape \[64\]"),
        (lambda p: {"stem": nn.Conv2d(1, 6, 3)}, "stem makes 6x6 of 8x8 pixels"),
        (lambda p: {"head": nn.Sequential(p.head, nn.Linear(10, 1000))}, r"shape \[1000\] and num_classes is 10"),
        (lambda p: {"blocks": [nn.LazyConv2d(6, 3, padding=1)]}, "LazyConv2d has no weights yet: run the network once"),
        (lambda p: {"blocks": [Basic(6, 6).to("meta")]}, "Conv2d has no weights yet"),
        (lambda p: {"blocks": [nn.BatchNorm2d(6, track_running_stats=False)]}, "must be BatchNorm2d with running statistics"),
        (lambda p: {"blocks": [InPlace()]}, "block 1 writes into its input"),
        (lambda p: {"ops": (MBConv(3, 2), MBConv(3, 2))}, "a name twice, .* k3_e2, k3_e2"),
    ],
)
def test_parts_that_do_not_fit_are_named(change: Callable[[Any], dict[str, Any]], sentence: str) -> None:
    parts = backbone()
    with pytest.raises(SpaceError, match=sentence):
        space_of(parts, **change(parts))


def test_features_are_the_last_maps_of_each_resolution() -> None:
    parts = backbone()
    architecture = space_of(parts).architecture(("own",) * 3)
    facts = Facts({}, tuple("0123456789"), (0.0,), (1.0,), (1, 8, 8))
    network = TrainedNetwork(architecture, architecture.build().eval(), facts)
    pixels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    x = parts.stem(pixels / 255)
    fine = parts.blocks[0].eval()(x)
    coarse = parts.blocks[2].eval()(parts.blocks[1].eval()(fine))
    found = network.features(pixels)
    assert [f.shape for f in found] == [(2, 6, 8, 8), (2, 10, 4, 4)]
    assert torch.allclose(found[0], fine, atol=1e-6)
    assert torch.allclose(found[1], coarse, atol=1e-5)
    found[1].sum().backward()
    assert next(network.parameters()).grad is not None


def test_features_of_cells() -> None:
    space = hiernas.spaces.darts((3, 32, 32), 4, channels=4, cells=5)
    architecture = space.architecture(hiernas.known("darts-v2").to_json()["sites"])
    facts = Facts({}, tuple("abcd"), (0.0,) * 3, (1.0,) * 3, (3, 32, 32))
    network = TrainedNetwork(architecture, architecture.build().eval(), facts)
    shapes = [tuple(f.shape[1:]) for f in network.features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_a_search_begins_and_goes_on_with_the_weights_it_was_given(digits: ImageData, tmp_path: Path) -> None:
    parts = backbone()
    settings = ["final_epochs=1", "epochs=1,1", "lr=0.1,0.1", "stages=3", "population=4", "generations=1"]
    found = hiernas.hnas(space_of(parts), digits, ["params<=3500"], settings=settings, out=tmp_path / "RUN")
    assert found.chosen.params <= 3500
    (tmp_path / "RUN" / "result.json").unlink()
    with torch.no_grad():
        next(parts.parameters()).add_(1.0)
    with pytest.raises(RunError, match=r"'weights': .* the space given has"):
        hiernas.resume(tmp_path / "RUN", space_of(parts), digits)


def test_the_example_s_space_is_around_its_network() -> None:
    network = own_backbone.Backbone()
    space, x = own_backbone.space_around(network), torch.rand(2, 1, 8, 8)
    assert torch.equal(space.architecture(("own",) * 5).build().eval()(x), network.eval()(x))

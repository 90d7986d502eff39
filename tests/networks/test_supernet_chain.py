"""The chain supernet against networks built by hand from the same weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hiernas import gates, spaces
from hiernas.errors import SpaceError
from hiernas.networks.ops import Residual
from toy import toy_space


def by_hand(supernet: nn.Module, options: tuple[str, ...], x: torch.Tensor) -> torch.Tensor:
    """The path of an architecture, layer by layer, from the state dict alone (evaluation mode, toy space)."""
    state = supernet.state_dict()

    def bn(name: str, y: torch.Tensor) -> torch.Tensor:
        values = [state[f"{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")]
        mean, var, weight, bias = values
        return (y - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(name: str, y: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
        w = state[f"{name}.weight"]
        return torch.nn.functional.conv2d(y, w, None, stride, w.shape[-1] // 2, groups=groups)

    y = bn("stem.0.1", conv("stem.0.0", x, stride=supernet.skeleton.stem[0].stride)).clamp(0, 6)
    for i, (site, option) in enumerate(zip(supernet.skeleton.sites, options, strict=True)):
        if option == "skip":
            continue
        residual = site.stride == 1 and site.cin == site.cout
        name = f"sites.{i}.{option}" + (".body" if residual else "")
        z, k = y, 0
        if next(op for op in site.ops if op.name == option).expand != 1:
            z, k = bn(f"{name}.1", conv(f"{name}.0", z)).clamp(0, 6), 3
        z = bn(f"{name}.{k + 1}", conv(f"{name}.{k}", z, site.stride, z.shape[1])).clamp(0, 6)
        z = bn(f"{name}.{k + 4}", conv(f"{name}.{k + 3}", z))
        y = y + z if residual else z
    y = bn("head.0.1", conv("head.0.0", y)).clamp(0, 6).mean((2, 3))
    return y @ state["head.1.2.weight"].T + state["head.1.2.bias"]


@pytest.fixture
def supernet() -> nn.Module:
    torch.manual_seed(0)
    net = toy_space().supernet()
    for m in net.modules():  # statistics that matter
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.1)
    return net.eval()


def test_every_path_computes_what_the_weights_say(supernet: nn.Module) -> None:
    x = torch.randn(2, *supernet.skeleton.input_size)
    for architecture in supernet.space:
        path = gates.of_architecture(supernet.space, architecture)
        expected = by_hand(supernet, architecture.options, x)
        torch.testing.assert_close(supernet(x, path), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(supernet.subnet(architecture).eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_mixtures_are_weighted_sums(supernet: nn.Module) -> None:
    space = supernet.space
    first, second = space.decisions
    x = torch.randn(2, *supernet.skeleton.input_size)
    mixed = space.architecture([{first.options[0]: 0.3, first.options[1]: 0.7}, second.options[0]])
    h = supernet.stem(x)
    h = 0.3 * supernet.sites[0][first.options[0]](h) + 0.7 * supernet.sites[0][first.options[1]](h)
    expected = supernet.head(supernet.sites[1][second.options[0]](h))
    torch.testing.assert_close(supernet(x, gates.of_architecture(space, mixed)), expected)
    torch.testing.assert_close(supernet.subnet(mixed).eval()(x), expected)


def test_only_gated_options_are_computed(supernet: nn.Module) -> None:
    called = []
    for i, site in enumerate(supernet.sites):
        for option, module in site.items():
            module.register_forward_hook(lambda *_, at=(i, option): called.append(at))
    chosen = supernet.space.decode([1, 2])
    supernet(torch.randn(1, *supernet.skeleton.input_size), gates.of_architecture(supernet.space, chosen))
    assert called == list(enumerate(chosen.options))


def test_restriction_keeps_weights_and_shares_nothing(supernet: nn.Module) -> None:
    space = supernet.space
    smaller_space = space.restrict({space.decisions[1].name: space.decisions[1].options[1:3]})
    smaller = supernet.restrict(smaller_space)
    x = torch.randn(2, *supernet.skeleton.input_size)
    for architecture in smaller_space:
        theirs = smaller(x, gates.of_architecture(smaller_space, architecture))
        torch.testing.assert_close(theirs, supernet(x, gates.of_architecture(space, architecture)), rtol=0, atol=0)
    before = copy.deepcopy(supernet.state_dict())
    for p in smaller.parameters():
        nn.init.zeros_(p)
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(SpaceError, match="has no option"):
        smaller.restrict(space)
    with pytest.raises(SpaceError, match="cannot be restricted"):
        supernet.restrict(spaces.tiny())


def test_residual_blocks_start_as_the_identity() -> None:
    torch.manual_seed(0)
    network = spaces.nasbench_macro().decode([1, 1, 1, 1, 1, 1, 1, 1]).build().eval()
    x = torch.randn(2, 64, 16, 16)
    torch.testing.assert_close(network.stage1_block2(x), x)
    assert not torch.equal(network.stage1_block1(torch.randn(2, 32, 32, 32)), torch.zeros(2, 64, 16, 16))


def test_derived_networks_hold_no_search_code() -> None:
    space = spaces.tiny(input_size=(3, 16, 16), num_classes=5)
    network = space.sample(np.random.default_rng(0)).build()
    kinds = {type(m).__module__ for m in network.modules()}
    assert all(kind.startswith("torch.nn.") or kind == "hiernas.networks.ops" for kind in kinds)
    assert not any("supernet" in kind for kind in kinds)


def test_identity_and_residual_follow_the_shape() -> None:
    site = spaces.nasbench_macro().skeleton.sites
    assert isinstance(site[1].build("skip"), nn.Identity)
    assert isinstance(site[0].build("skip"), nn.Sequential)  # 1x1 convolution of stride 2
    assert isinstance(site[1].build("k3_e3"), Residual)
    assert not isinstance(site[0].build("k3_e3"), Residual)

"""Published networks by name, against what is printed about them; and HourNAS' largest networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from hiernas.costs.tables import cost, cost_tables
from hiernas.errors import SpaceError
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import KNOWN, Known, efficientnet, fbnet, hdas_stages, known, mnasnet

# exactly: parameters and MACs, counted by other people's code or from the released graphs
EXACT = {
    "proxyless-cpu": (4_361_648, 439_243_864),
    "proxyless-gpu": (7_119_848, None),
    "proxyless-mobile": (4_080_512, 320_427_584),
    "proxyless-mobile-14": (6_857_568, None),
    "fbnet-c": (5_572_200, 384_960_160),
    "mnasnet-a1": (3_887_038, 311_579_072),
    "mnasnet-b1": (4_383_312, None),
    "efficientnet-b0": (5_288_548, 385_814_752),
    "mobilenetv2": (3_504_872, 300_774_272),
}
# unit of the last printed digit: millions of parameters, millions of MACs
PRINTED = {
    "proxyless-mobile": (0.01, 0.1),
    "proxyless-cpu": (0.01, 0.1),
    "proxyless-gpu": (0.01, 0.1),
    "proxyless-mobile-14": (1e-6, None),
    "fbnet-a": (0.1, 0.1),
    "fbnet-b": (0.1, 0.1),
    "fbnet-c": (0.1, 0.1),
    "mnasnet-a1": (0.1, 1),
    "mnasnet-b1": (1e-6, 10),
    "efficientnet-b0": (0.1, 10),
    "hournas-f": (0.1, 1),
    "mobilenetv2": (1e-6, 10),
}
# FBNet's released graphs: batch norms folded into biases, and in some blocks (channels, side) two 3x3 depthwise
# convolutions instead of one 5x5, which is 7 weights per channel fewer and one bias more
RELEASED = {"fbnet-a": [], "fbnet-b": [(192, 28)], "fbnet-c": [(192, 28), (672, 14)]}


def architectures() -> dict[str, Known]:
    return {name: network for name, network in KNOWN.items() if name in PRINTED}


def test_every_chain_network_is_compared() -> None:
    assert set(architectures()) == set(PRINTED)
    assert [name for name, network in KNOWN.items() if name != network.name] == []


@pytest.mark.parametrize("network", architectures().values(), ids=lambda n: n.name)
def test_counted_as_printed(network: Known) -> None:
    architecture = known(network.name)
    found = cost(architecture)
    params, macs = found.params, found.macs
    if network.name in RELEASED:
        params -= bn_channels(architecture)
    for channels, side in RELEASED.get(network.name, []):
        params -= 7 * channels - channels
        macs -= 7 * channels * side**2
    unit_params, unit_macs = PRINTED[network.name]
    assert abs(params / 1e6 - network.published_params) <= unit_params / 2 + 1e-9
    assert (unit_macs is None) == (network.published_macs is None)
    if unit_macs is not None:
        assert abs(macs / 1e6 - network.published_macs) <= unit_macs / 2


@pytest.mark.parametrize("name", EXACT)
def test_counted_exactly(name: str) -> None:
    found = cost(known(name))
    params, macs = EXACT[name]
    assert found.params == params
    assert macs in (None, found.macs)


@pytest.mark.parametrize("name", PRINTED)
def test_known_networks_take_other_images_and_classes(name: str) -> None:
    architecture = known(name, input_size=(1, 24, 20), num_classes=5)
    assert architecture.skeleton.input_size == (1, 24, 20)
    assert architecture.options == known(name).options
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    assert architecture.build().eval()(torch.zeros(1, 1, 24, 20)).shape == (1, 5)


def test_unknown_networks_and_sizes_are_refused() -> None:
    with pytest.raises(SpaceError, match="unknown network 'fbnet_c'; did you mean 'fbnet-c'"):
        known("fbnet_c")
    with pytest.raises(SpaceError, match="at least 2"):
        known("mobilenetv2", num_classes=1)


def test_lists_of_the_published_length_are_read() -> None:
    space = mnasnet()
    a1 = space.architecture(KNOWN["mnasnet-a1"].encoding)
    stage3 = a1.options[5:9]
    assert stage3 == ("k5_e3_se", "k5_e3_se", "k5_e3_se", "skip")
    assert a1 == space.architecture(a1.options)
    with pytest.raises(SpaceError, match="22 sites, but 17 choices"):
        space.architecture(KNOWN["mnasnet-b1"].encoding)  # of the other widths
    with pytest.raises(SpaceError, match="has no option 'k7_e6_se'"):
        efficientnet().architecture(["k7_e6_se"] * 16)


def bn_channels(architecture: Architecture) -> int:
    with torch.device("meta"):
        return sum(m.num_features for m in architecture.build().modules() if isinstance(m, nn.BatchNorm2d))


def bn_outputs(architecture: Architecture) -> int:
    """Elements that batch norm puts out for one image."""
    total = 0

    def add(_: nn.Module, __: object, y: torch.Tensor) -> None:
        nonlocal total
        total += y.numel()

    with torch.device("meta"):
        network = architecture.build().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(add)
        network(torch.empty(1, *architecture.skeleton.input_size))
    return total


@pytest.mark.parametrize(
    ("space", "largest", "params", "flops"), [(fbnet(), "k5_e6", 5.7, 583), (efficientnet(), "k5_e6_se", 5.8, 738)]
)
def test_the_largest_networks_of_hournas(space: SearchSpace, largest: str, params: float, flops: int) -> None:
    """HourNAS, Table 3. It counts batch norm there, once per element, and cuts digits off."""
    architecture = space.architecture([largest] * 22)
    found = cost(architecture)
    assert abs(found.params / 1e6 - params) < 0.06
    assert int((found.macs + bn_outputs(architecture)) / 1e6) == flops


def cells_by_hand(sep5: int, sep3: int, dil5: int, reduce_sep5: int, reduce_dil5: int) -> int:
    """Parameters of DARTS' CIFAR-10 network (C = 36, 20 cells) by the numbers of operations in its two cells."""
    total, before, last, c = 27 * 108 + 2 * 108, 108, 108, 36
    for i in range(20):
        reduction = i in (6, 13)
        c *= 2 if reduction else 1
        sep = {k: 2 * (k * k * c + c * c) + 4 * c for k in (3, 5)}
        dil = 25 * c + c * c + 2 * c
        edges = reduce_sep5 * sep[5] + reduce_dil5 * dil if reduction else sep5 * sep[5] + sep3 * sep[3] + dil5 * dil
        total += (before + last) * c + 4 * c + edges
        before, last = last, 4 * c
    return total + 4 * c * 10 + 10


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("snas-moderate", cells_by_hand(0, 2, 2, 5, 1)),
        ("snas-aggressive", cells_by_hand(1, 0, 2, 2, 0)),  # six edges `none`, and nothing else in the reduction cell
    ],
)
def test_snas_under_its_constraints(name: str, by_hand: int) -> None:
    """SNAS (arXiv 1812.09926), Table 2, to the printed digit; edges that are `none` cost nothing."""
    architecture = known(name)
    found = cost(architecture)
    assert found.params == by_hand == sum(p.numel() for p in architecture.build().parameters())
    assert round(found.params / 1e6, 1) == KNOWN[name].published_params
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    small = known(name, input_size=(1, 12, 12), num_classes=5, channels=4, cells=5)
    assert small.build().eval()(torch.zeros(2, 1, 12, 12)).shape == (2, 5)


def test_cells_with_edges_that_are_none_stand_in_stage_graphs() -> None:
    space = hdas_stages((1, 12, 12), 5, channels=4, cells=(2, 2, 2), cell="SNAS_aggressive")
    architecture = space.sample(np.random.default_rng(0))
    tables, genes = cost_tables(space, None), space.encode(architecture)[None]
    assert cost(architecture).params == tables["params"].of(genes)[0]
    assert cost(architecture).macs == tables["macs"].of(genes)[0]
    assert architecture.build().eval()(torch.zeros(2, 1, 12, 12)).shape == (2, 5)

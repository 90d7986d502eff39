"""Properties of every chain space on random members: they build, run, restrict, encode, and cost what the tables say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hiernas import gates, spaces
from hiernas.costs.tables import cost, cost_tables
from hiernas.space import Architecture, SearchSpace

CHAINS = (
    "efficientnet", "fbnet", "fbnet_enlarged", "hnas_basic", "hnas_large", "mnasnet", "mobilenetv2", "nasbench_macro",
    "proxyless", "tiny",
)  # fmt: skip


def a_space(name: str, side: int) -> SearchSpace:
    return getattr(spaces, name)(input_size=(2, side, side), num_classes=3)


def smaller(space: SearchSpace, rng: np.random.Generator) -> SearchSpace:
    """At most two random options of each site: small enough for a supernet."""
    return space.restrict(
        {d.name: [str(o) for o in rng.choice(d.options, min(2, len(d.options)), replace=False)] for d in space.decisions}
    )


def shake(network: nn.Module) -> None:
    """Batch norms of a trained network: scales that are not 0, statistics that are not 0 and 1."""
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(name=st.sampled_from(CHAINS), side=st.integers(5, 12), seed=st.integers(0, 2**32 - 1))
def test_random_members_run_and_inherit_weights(name: str, side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    space = smaller(a_space(name, side), rng)
    architecture = space.sample(rng)
    supernet = space.supernet().eval()
    shake(supernet)
    x = torch.randn(2, 2, side, side)
    expected = supernet(x, gates.of_architecture(space, architecture))
    assert expected.isfinite().all()
    assert expected.shape == (2, 3)
    torch.testing.assert_close(supernet.subnet(architecture).eval()(x), expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=24, deadline=None, derandomize=True, database=None)
@given(name=st.sampled_from(CHAINS), side=st.integers(5, 64), seed=st.integers(0, 2**32 - 1))
def test_random_members_are_encoded_and_costed(name: str, side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = a_space(name, side)
    architecture = space.sample(rng)
    genes = space.encode(architecture)
    assert space.decode(genes) == architecture == space.architecture(architecture.options)
    assert Architecture.from_json(architecture.to_json()) == architecture
    part = smaller(space, rng)
    member = part.sample(rng)
    assert part.decode(part.encode(member)) == member == space.decode(space.encode(member))
    assert part.size() == math.prod(min(2, len(d.options)) for d in space.decisions)
    whole, tables = cost(member), cost_tables(part, None)
    found = {metric: tables[metric].of(part.encode(member)[None])[0] for metric in ("params", "macs")}
    assert found == {"params": whole.params, "macs": whole.macs}


@pytest.mark.parametrize(
    ("space", "sites", "size"),
    [
        (spaces.fbnet(), 22, 9**22),
        (spaces.fbnet_enlarged(), 22, 10**22),
        (spaces.mnasnet(), 22, 13**21),
        (spaces.mnasnet(widths="b1"), 22, 13**21),
        (spaces.efficientnet(), 22, 7**22),
        (spaces.efficientnet(keep_1x1=True), 22, 7**22),
        (spaces.mobilenetv2(), 17, 6**6 * 7**10),
        (spaces.proxyless(widths="mobile_14"), 22, 6**6 * 7**15),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_sizes(space: SearchSpace, sites: int, size: int) -> None:
    assert len(space.decisions) == sites
    assert space.size() == size


def test_claimed_sizes_of_hournas() -> None:
    claimed = {"fbnet": "1e+21", "fbnet_enlarged": "1e+22", "efficientnet": "4e+18"}
    assert {name: f"{getattr(spaces, name)().size():.0e}" for name in claimed} == claimed
    assert f"{spaces.mnasnet().size():.1e}" == "2.5e+23"


def test_options_of_fbnet_in_the_papers_order() -> None:
    nine = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
    assert {d.options for d in spaces.fbnet().decisions} == {nine}
    enlarged = {d.options for d in spaces.fbnet_enlarged().decisions}
    without = [o for o in nine if not o.endswith("_g2")]
    assert enlarged == {(*without[:-1], "k7_e1", "k7_e3", "k7_e6", "skip")}


def test_a_skip_changes_shapes_with_a_convolution() -> None:
    sites = {site.name: site for site in spaces.fbnet().skeleton.sites}
    assert isinstance(sites["stage1.block1"].build("skip"), nn.Identity)  # 16 channels in and out
    assert isinstance(sites["stage2.block2"].build("skip"), nn.Identity)
    conv, bn, act = sites["stage2.block1"].build("skip")
    assert (conv.kernel_size, conv.stride, bn.num_features) == ((1, 1), (2, 2), 24)
    assert isinstance(act, nn.ReLU)
    first, *others = spaces.mnasnet().decisions
    assert first.options == ("k3_e1",)
    assert all("skip" in d.options for d in others)
    baseline = spaces.mobilenetv2()
    keeps = [s.stride == 1 and s.cin == s.cout for s in baseline.skeleton.sites]
    assert ["skip" in d.options for d in baseline.decisions] == keeps

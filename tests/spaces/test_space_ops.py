"""Blocks with groups, kept 1x1 convolutions and squeeze-and-excite, against closed forms and layers put together by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hiernas.costs.tables import Count, count
from hiernas.errors import SpaceError
from hiernas.export import export
from hiernas.networks.ops import ACTIVATIONS, ChannelShuffle, Conv, MBConv, Op, Residual, Skip
from hiernas.spaces import Stage, chain_space, fbnet


def closed_form(op: MBConv, cin: int, cout: int, stride: int, h: int) -> Count:
    """Parameters and MACs on paper; every batch norm has two parameters per channel."""
    out, mid, r, g = -(-h // stride), cin * op.expand, max(1, cin // 4), op.groups
    first = op.expand != 1 or op.keep_1x1
    params = (cin * mid // g + 2 * mid) * first + op.kernel**2 * mid + 2 * mid + mid * cout // g + 2 * cout
    macs = (cin * mid // g * h**2) * first + op.kernel**2 * mid * out**2 + mid * cout // g * out**2
    if op.se:
        params, macs = params + 2 * mid * r + r + mid, macs + 2 * mid * r
    return Count(params, macs)


def random_block(rng: np.random.Generator) -> tuple[MBConv, int, int, int, int]:
    groups = int(rng.choice([1, 2, 4]))
    cin, cout = groups * int(rng.integers(1, 20)), groups * int(rng.integers(1, 20))
    op = MBConv(
        kernel=int(rng.choice([1, 3, 5, 7])),
        expand=int(rng.integers(1, 7)),
        se=bool(rng.integers(2)),
        act=str(rng.choice(sorted(ACTIVATIONS))),
        groups=groups,
        keep_1x1=bool(rng.integers(2)),
    )
    return op, cin, cout if rng.integers(2) else cin, int(rng.integers(1, 3)), int(rng.integers(1, 30))


@pytest.mark.parametrize("seed", range(60))
def test_random_blocks_cost_what_the_closed_form_says(seed: int) -> None:
    op, cin, cout, stride, h = random_block(np.random.default_rng(seed))
    assert count(lambda: op.build(cin, cout, stride), (cin, h, h)) == closed_form(op, cin, cout, stride, h)


@pytest.mark.parametrize("seed", range(8))
def test_random_blocks_build_and_keep_the_promised_shape(seed: int) -> None:
    op, cin, cout, stride, h = random_block(np.random.default_rng(seed))
    block = op.build(cin, cout, stride).eval()
    assert block(torch.randn(2, cin, h, h)).shape == (2, cout, -(-h // stride), -(-h // stride))
    assert isinstance(block, Residual) == (stride == 1 and cin == cout)


@pytest.mark.parametrize(("channels", "groups"), [(4, 2), (6, 2), (6, 3), (12, 4), (5, 1), (7, 7)])
def test_the_shuffle_interleaves_the_groups(channels: int, groups: int) -> None:
    x = torch.randn(2, channels, 3, 2)
    per_group = channels // groups
    from_channel = [g * per_group + i for i in range(per_group) for g in range(groups)]  # first of each group, second, ...
    shuffled = ChannelShuffle(groups)(x)
    assert torch.equal(shuffled, x[:, from_channel])
    assert torch.equal(shuffled, nn.functional.channel_shuffle(x, groups))


def test_a_grouped_block_computes_what_its_layers_say() -> None:
    torch.manual_seed(0)
    op = MBConv(3, 1, act="relu", groups=2, keep_1x1=True)
    block = op.build(4, 4, 1).eval()
    pw, bn1, relu1, shuffle, dw, bn2, relu2, pwl, bn3 = block.body
    for bn in (bn1, bn2, bn3):
        nn.init.uniform_(bn.weight, 0.5, 1.5)
        nn.init.normal_(bn.bias)
    assert isinstance(shuffle, ChannelShuffle)
    assert isinstance(relu1, nn.ReLU)
    assert isinstance(relu2, nn.ReLU)
    x = torch.randn(3, 4, 5, 5)

    def halves(conv: nn.Conv2d, y: Tensor) -> Tensor:  # a 1x1 convolution in two groups, without one
        w = conv.weight[:, :, 0, 0]
        return torch.cat([torch.einsum("oc,bchw->bohw", w[:2], y[:, :2]), torch.einsum("oc,bchw->bohw", w[2:], y[:, 2:])], 1)

    y = bn1(halves(pw, x)).relu()[:, [0, 2, 1, 3]]
    y = bn2(nn.functional.conv2d(y, dw.weight, padding=1, groups=4)).relu()
    torch.testing.assert_close(block(x), x + bn3(halves(pwl, y)))


def test_names_and_descriptions_tell_operations_apart() -> None:
    assert MBConv(3, 1, groups=2).name == "k3_e1_g2"
    assert MBConv(5, 6, se=True, groups=2).name == "k5_e6_g2_se"
    assert MBConv(3, 1, act="relu", keep_1x1=True).name == "k3_e1"
    flags = itertools.product((False, True), ("relu", "silu"), (1, 2), (False, True))
    ops: list[Op] = [MBConv(3, 1, *flag) for flag in flags]
    ops += [Conv(3, None), Conv(3, "relu"), Conv(1, None), Skip(), Skip("relu")]
    assert len({op.describe() for op in ops}) == len(ops)
    # keys of latency tables that were measured before there were groups
    assert MBConv(5, 6, True, "hswish").describe() == "mbconv_k5_e6_se_hswish"
    assert (MBConv(3, 1).describe(), Conv(3).describe(), Skip().describe()) == ("mbconv_k3_e1_relu6", "conv3_relu6", "skip")
    # at other ratios the kept convolution is there anyway: the same operation, so the same entry
    assert MBConv(3, 6, keep_1x1=True).describe() == MBConv(3, 6).describe()


def test_a_convolution_may_go_without_an_activation() -> None:
    assert Conv(3, None).describe() == "conv3"
    assert [type(m) for m in Conv(3, None).build(3, 8, 1)] == [nn.Conv2d, nn.BatchNorm2d]


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_networks_with_shuffles_are_exported(to: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    space = fbnet(input_size=(3, 8, 8), num_classes=4)
    options = ["k3_e1_g2" if i in (1, 5, 21) else "k5_e1_g2" if i == 2 else "skip" for i in range(22)]
    network = space.architecture(options).build()
    for m in network.modules():  # branches start at scale 0: the shuffles would not show
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
    done = export(network, torch.randn(5, 3, 8, 8), tmp_path / f"net.{to}", to, {})  # compares the outputs
    assert done.largest_difference < 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MBConv(4, 3), "the kernel is an odd number"),
        (lambda: MBConv(3, 0), "expand and groups are at least 1"),
        (lambda: MBConv(3, 1, act="relu7"), "unknown activation 'relu7'; did you mean 'relu"),
        (lambda: Skip("swish"), "unknown activation 'swish'; did you mean 'hswish'"),
        (lambda: Conv(3, "gelu"), "unknown activation 'gelu'"),
        (lambda: MBConv(3, 1, groups=2).build(15, 24, 1), "'k3_e1_g2' splits channels into 2 groups.*from 15 channels to 24"),
    ],
)
def test_impossible_operations_are_refused(make, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


def test_two_options_of_one_name_are_refused() -> None:
    twice = (MBConv(3, 1), MBConv(3, 1, keep_1x1=True))
    with pytest.raises(SpaceError, match="stage 1 lists an option twice: k3_e1, k3_e1"):
        chain_space("twice", (3, 8, 8), 4, stem=8, stages=[Stage(8, 1, 1, twice)], head=16)

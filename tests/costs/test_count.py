"""Counts against closed forms written by hand, and against hooks on a whole network."""


import pytest
import torch
from torch import nn

from hiernas.costs.tables import Cost, Count, cost, count, memory
from hiernas.errors import LatencyError
from hiernas.networks.ops import Classifier, Conv, MBConv, Skip
from toy import toy_space


def mbconv(op: MBConv, cin: int, cout: int, stride: int, h: int) -> Count:
    """Closed form: a batch norm has two parameters per channel and no MACs."""
    out, mid = -(-h // stride), cin * op.expand
    params = op.kernel**2 * mid + 2 * mid + mid * cout + 2 * cout
    macs = op.kernel**2 * mid * out**2 + mid * cout * out**2
    if op.expand != 1:
        params += cin * mid + 2 * mid
        macs += cin * mid * h**2
    if op.se:
        r = max(1, cin // 4)
        params += 2 * mid * r + r + mid
        macs += 2 * mid * r
    return Count(params, macs)


@pytest.mark.parametrize("act", ["relu", "relu6", "silu", "hswish"])
@pytest.mark.parametrize(("cin", "cout", "stride", "h"), [(16, 16, 1, 14), (16, 24, 2, 14), (3, 40, 2, 15), (16, 8, 1, 7)])
@pytest.mark.parametrize("op", [(3, 1, False), (5, 6, False), (7, 3, True), (3, 1, True)])
def test_mbconv(op: tuple, cin: int, cout: int, stride: int, h: int, act: str) -> None:
    block = MBConv(*op, act=act)
    assert count(lambda: block.build(cin, cout, stride), (cin, h, h)) == mbconv(block, cin, cout, stride, h)


def test_stem_head_classifier_and_skips() -> None:
    assert count(lambda: Conv(3).build(3, 32, 2), (3, 33, 20)) == Count(27 * 32 + 64, 27 * 32 * 17 * 10)
    assert count(lambda: Conv(1).build(320, 1280, 1), (320, 7, 7)) == Count(320 * 1280 + 2560, 320 * 1280 * 49)
    assert count(lambda: Classifier(0.2).build(64, 10, 1), (64, 7, 7)) == Count(650, 640)
    assert count(lambda: Skip().build(64, 64, 1), (64, 8, 8)) == Count(0, 0)
    assert count(lambda: Skip("relu").build(32, 64, 2), (32, 8, 8)) == Count(32 * 64 + 128, 32 * 64 * 16)


def hooked_macs(network: nn.Module, x: torch.Tensor) -> int:
    """MACs of one image by forward hooks: output elements times the numbers that go into each."""
    total = 0

    def add(module: nn.Module, _: object, y: torch.Tensor) -> None:
        nonlocal total
        total += y.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    network.eval()(x)
    return total


def test_whole_network_against_hooks_and_no_random_number_is_drawn() -> None:
    space = toy_space()
    for architecture in space:
        state = torch.get_rng_state()
        found = cost(architecture)
        assert torch.equal(torch.get_rng_state(), state)
        network = architecture.build()
        params = sum(p.numel() for p in network.parameters())
        macs, memory_bytes = hooked_macs(network, torch.zeros(1, 3, 16, 16)), memory(architecture.build, (3, 16, 16)).bytes
        assert found == Cost(params, macs, **memory_bytes, latency_ms=None)


def test_several_options_at_a_site_all_count() -> None:
    space = toy_space()
    both = cost(space.architecture(["k3_e2", {"k3_e1": 0.3, "k5_e3": 0.7}]))
    alone = [cost(space.architecture(["k3_e2", option])) for option in ("k3_e1", "k5_e3", "skip")]
    assert both.params == alone[0].params + alone[1].params - alone[2].params
    assert both.macs == alone[0].macs + alone[1].macs - alone[2].macs


def test_cost_needs_the_entries_of_the_latency_table() -> None:
    from hiernas.latency import LatencyTable

    architecture = next(iter(toy_space()))
    with pytest.raises(LatencyError, match=r"of 'cpu' .* has no entry 'conv3_relu6 3->8 s2 16x16'; measure the space"):
        cost(architecture, LatencyTable("cpu", "onnxruntime", "1", 1, 1, 0.1))

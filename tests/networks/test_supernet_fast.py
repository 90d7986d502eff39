"""The fast supernets of cells against their plain formulation: outputs, gradients, running statistics."""

import copy

import pytest
import torch
import torch.nn.functional as F
from plain_cells import plain_cells, plain_stages
from torch import Tensor, nn

from hiernas import gates
from hiernas.networks.cell_ops import FactorizedReduce
from hiernas.networks.supernets import convolve
from hiernas.space import SearchSpace
from hiernas.spaces import darts, hdas_cells, hdas_stages
from processes import Forked, script

SPACES = {
    "darts-search": (darts((3, 10, 10), 4, channels=4, cells=4, search=True), plain_cells),
    "darts-affine": (darts((3, 9, 9), 4, channels=4, cells=3), plain_cells),
    "hdas-cells": (hdas_cells((2, 8, 8), 4, channels=4, cells=5), plain_cells),
    "hdas-stages": (hdas_stages((3, 8, 8), 4, channels=4, cells=(2, 3, 2)), plain_stages),
    "hdas-numbers": (hdas_stages((3, 8, 8), 4, channels=4, cells=(4, 3, 2), least=2), plain_stages),
}


def random_alphas(space: SearchSpace) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    made = [torch.randn(len(d.options), generator=generator, dtype=torch.float64) for d in space.decisions]
    return [a.requires_grad_() for a in made]


@pytest.mark.parametrize("name", SPACES)
def test_fast_equals_plain(name: str) -> None:
    space, plain = SPACES[name]
    supernet = space.supernet().double().train()
    reference = copy.deepcopy(supernet)
    x = torch.randn(3, *space.skeleton.input_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 3])
    one, two = random_alphas(space), random_alphas(space)
    for _ in range(2):  # running statistics of the second step tell whether those of the first were kept
        found = F.cross_entropy(supernet(x.to(memory_format=torch.channels_last), gates.softmax(one)), y)
        expected = F.cross_entropy(plain(reference, x, [a.softmax(0) for a in two]), y)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    mine, theirs = torch.autograd.grad(found, one), torch.autograd.grad(expected, two)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)
    found = F.cross_entropy(supernet(x, gates.softmax([a.detach() for a in one])), y)
    expected = F.cross_entropy(plain(reference, x, [a.detach().softmax(0) for a in two]), y)
    found.backward()
    expected.backward()
    for (key, p), q in zip(supernet.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-10, msg=key)
    for (key, p), q in zip(supernet.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10, msg=key)
    with torch.no_grad():
        torch.testing.assert_close(
            supernet.eval()(x, gates.softmax(one)), plain(reference.eval(), x, [a.softmax(0) for a in two])
        )


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_gradients(kernel: int, dilation: int, stride: int) -> None:
    conv = nn.Conv2d(4, 4, kernel, stride, dilation * (kernel // 2), dilation, groups=4, bias=False).double()
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(conv(x))
    expected = torch.autograd.grad(conv(x), (x, conv.weight), upstream)
    torch.testing.assert_close(torch.autograd.grad(convolve(conv, x), (x, conv.weight), upstream), expected)
    conv.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(convolve(conv, x), x, upstream)[0], expected[0])


def test_other_convolutions_are_left_alone() -> None:
    for conv in (nn.Conv2d(4, 6, 1), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, (3, 1), groups=4)):
        x = torch.randn(1, 4, 5, 5)
        torch.testing.assert_close(convolve(conv, x), conv(x))


@pytest.mark.parametrize("side", [8, 7])
def test_reductions_in_training_are_strided_convolutions(side: int) -> None:
    """Output and gradients against the same weights as two convolutions of stride 2."""
    torch.manual_seed(0)
    op, x = FactorizedReduce(4, 6), torch.randn(3, 4, side, side)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    y = op.train()(inputs[0])
    gradient = torch.randn_like(y)
    y.backward(gradient)
    found = [op.even.weight.grad, op.odd.weight.grad]
    op.zero_grad()
    positive = torch.relu(inputs[1])
    shifted = F.pad(positive, (0, side % 2, 0, side % 2))[:, :, 1:, 1:]
    plain = op.bn(torch.cat([op.even(positive), op.odd(shifted)], 1))
    plain.backward(gradient)
    torch.testing.assert_close(y, plain)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for a, b in zip(found, [op.even.weight.grad, op.odd.weight.grad], strict=True):
        torch.testing.assert_close(a, b)


def test_reductions_of_larger_images_leave_the_memory_alone() -> None:
    """In a process of its own: as two convolutions of stride 2 this ends with a segmentation fault on some CPUs."""
    program = """
import torch
from hiernas.networks.cell_ops import FactorizedReduce
torch.set_num_threads(1)
for channels in (4, 8, 12) * 20:
    op = FactorizedReduce(channels, channels).to(memory_format=torch.channels_last)
    op(torch.randn(16, channels, 80, 80).to(memory_format=torch.channels_last)).sum().backward()
"""
    assert Forked(script, program).ended()[0] == 0

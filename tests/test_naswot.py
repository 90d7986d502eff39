"""NASWOT against a count by hand, unit by unit."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hiernas.run.finalists import naswot
from toy import toy_space


def test_the_kernel_counts_units_that_agree() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3), nn.ReLU6())
    images = torch.randn(7, 2, 8, 8)
    kernel = np.zeros((7, 7))
    hidden = network[1](network[0](images))
    for before in (hidden, network[3](hidden.relu())):
        on = (before > 0).flatten(1).numpy()
        for i in range(7):
            for j in range(7):
                kernel[i, j] += sum(a == b for a, b in zip(on[i], on[j], strict=True))
    assert np.isclose(naswot(network, images), np.linalg.slogdet(kernel)[1])


def test_images_that_it_cannot_tell_apart_leave_a_number() -> None:
    torch.manual_seed(0)
    network = next(iter(toy_space())).build()
    images = torch.randn(8, 3, 16, 16)
    assert np.isfinite(naswot(network, images[[0, 0, 1, 2, 3, 4, 5, 6]]))
    assert naswot(network, images[[0, 0, 1, 2, 3, 4, 5, 6]]) < naswot(network, images)


def test_a_branch_that_starts_at_zero_is_not_dead() -> None:
    torch.manual_seed(0)
    network = next(iter(toy_space())).build()
    images = torch.randn(8, 3, 16, 16)
    expected = naswot(network, images)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.zeros_(norm.weight)
    assert naswot(network, images) == expected

"""Gates against their definitions and analytic gradients."""

from __future__ import annotations

import numpy as np
import torch

from hiernas import gates
from toy import toy_space


def test_uniform_paths_choose_every_option_equally() -> None:
    space, rng = toy_space(), np.random.default_rng(0)
    drawn = np.array([[g[0] for g in gates.uniform_path(space, rng).indices] for _ in range(6000)])
    for site, decision in enumerate(space.decisions):
        counts = np.bincount(drawn[:, site], minlength=len(decision.options))
        expected = 6000 / len(decision.options)
        assert float(((counts - expected) ** 2 / expected).sum()) < 16.3  # 99.9 %, 3 degrees of freedom


def test_softmax_gates() -> None:
    alpha = torch.tensor([0.0, float(np.log(3.0))], dtype=torch.float32, requires_grad=True)
    made = gates.softmax([alpha])
    assert made.indices == ((0, 1),)
    torch.testing.assert_close(made.weights[0], torch.tensor([0.25, 0.75]))


def test_masks_are_straight_through() -> None:
    mask = torch.tensor([0.001, 0.02, -0.3, 0.005], requires_grad=True)
    weight = gates.straight_through(mask, threshold=0.004)
    assert weight.tolist() == [0.0, 1.0, 0.0, 1.0]
    (weight * torch.tensor([3.0, 2.0, -7.0, 5.0])).sum().backward()
    assert mask.grad.tolist() == [3.0, 2.0, -7.0, 5.0]  # also of those that are dropped

"""Gates against their definitions and analytic gradients."""

from __future__ import annotations

import numpy as np
import pytest
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


def test_gumbel_max_samples_the_softmax_and_carries_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    alpha = torch.tensor([0.0, np.log(3.0)], dtype=torch.float64, requires_grad=True)
    chosen = [gates.gumbel_max([alpha], generator).indices[0][0] for _ in range(4000)]
    assert np.mean(chosen) == pytest.approx(0.75, abs=0.03)  # four standard errors
    made = gates.gumbel_max([alpha], generator)
    weight, i = made.weights[0], made.indices[0][0]
    assert weight is not None
    assert weight.tolist() == [1.0]
    weight.sum().backward()
    p = np.array([0.25, 0.75])
    analytic = p[i] * (np.eye(2)[i] - p)  # d softmax_i / d alpha
    np.testing.assert_allclose(alpha.grad.numpy(), analytic, rtol=1e-12)


def test_gumbel_softmax_sharpens_as_the_temperature_falls() -> None:
    alpha = torch.zeros(4)
    warm = gates.gumbel_softmax([alpha], 10.0, torch.Generator().manual_seed(1)).weights[0]
    cold = gates.gumbel_softmax([alpha], 0.01, torch.Generator().manual_seed(1)).weights[0]
    assert warm is not None
    assert cold is not None
    assert float(warm.max()) < 0.4 < 0.99 < float(cold.max())
    assert int(warm.argmax()) == int(cold.argmax())  # the same noise
    torch.testing.assert_close(warm.sum(), torch.tensor(1.0))


def test_binary_masks_are_straight_through() -> None:
    mask = torch.tensor([0.001, 0.02, -0.3, 0.005], requires_grad=True)
    made = gates.binary_mask([mask], threshold=0.004)
    assert made.indices == ((0, 1, 2, 3),)
    weight = made.weights[0]
    assert weight is not None
    assert weight.tolist() == [0.0, 1.0, 0.0, 1.0]
    (weight * torch.tensor([3.0, 2.0, -7.0, 5.0])).sum().backward()
    assert mask.grad.tolist() == [3.0, 2.0, -7.0, 5.0]  # also of those that are dropped

"""Proposals that learn: gradients against the analytic ones, sampling frequencies, and what is computed at all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiernas.costs.tables import cost_tables
from hiernas.data.split import Split, Subset, shares
from hiernas.errors import TrainingError
from hiernas.gates import Gates
from hiernas.methods.hournas import HourNASConfig
from hiernas.methods.hournas.architect import NETWORKS, Estimator, ProposalArchitect, Sampling
from hiernas.methods.hournas.proposals import Targets, make_targets, option_mask
from toy import toy_space

SPACE = toy_space()
OPTIONS = option_mask(SPACE)  # 3 and 4 options
NONE = Split(Subset(torch.zeros(0), torch.zeros(0, dtype=torch.int64)), torch.zeros(0, dtype=torch.int64))
X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 1, 0])


def architect(
    theta: np.ndarray, sampling: Sampling = "gumbel_max", estimator: Estimator = "score", targets: Targets | None = None, *,
    lr: float = 0.01, tau: tuple[float, float] = (2.0, 0.5), alpha: float = 0.0,
) -> ProposalArchitect:  # fmt: skip
    config = HourNASConfig(architecture_lr=lr, tau=tau[0], tau_end=tau[1], sampling=sampling, estimator=estimator, alpha=alpha)
    return ProposalArchitect(theta * OPTIONS, OPTIONS, NONE, config, targets)


def random_theta(m: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(m, *OPTIONS.shape))


class Probe(nn.Module):
    """A network whose logits are linear in the gates: x + sum of gate * v[site, option]. Keeps what it was called with."""

    def __init__(self, v: Tensor) -> None:
        super().__init__()
        self.v, self.gates = nn.Parameter(v), list[Gates]()

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        self.gates.append(gates)
        for site, (indices, weights) in enumerate(zip(gates.indices, gates.weights, strict=True)):
            for i, w in zip(indices, [1.0] if weights is None else weights, strict=True):
                x = x + w * self.v[site, i]
        return x


def probe(seed: int = 1) -> Probe:
    return Probe(torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(seed)))


def gradients(a: ProposalArchitect) -> tuple[np.ndarray, np.ndarray]:
    """Of theta and Pi in the first step: Adam's mean is a tenth of them."""
    tensors = a.tensors()
    return tensors["theta.mean"].numpy() / 0.1, tensors["pi.mean"].numpy() / 0.1


def learn(a: ProposalArchitect, model: nn.Module, seed: int = 0, progress: float = 0.0) -> float:
    return float(a.learn(model, X, Y, Tensor.backward, np.random.default_rng(seed), progress))


def softmax(values: np.ndarray) -> np.ndarray:
    e = np.exp(values - values.max())
    return e / e.sum()


# -- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_straight_through_gradients_are_the_analytic_ones(progress: float) -> None:
    tau = 2.0 * 0.25**progress
    seen = set()
    for seed in range(8):
        a, model = architect(random_theta(), estimator="straight_through"), probe()
        a.pi[:] = (0.3, -0.2, 0.5)
        loss = learn(a, model, seed, progress)
        genes = [i for (i,) in model.gates[0].indices]
        assert [w.tolist() for w in model.gates[0].weights] == [[1.0], [1.0]]  # the value is that of the plain network
        logits = X + sum(model.v.detach()[site, g] for site, g in enumerate(genes))
        assert loss == pytest.approx(float(F.cross_entropy(logits, Y)), rel=1e-5)
        by_logits = ((logits.softmax(1) - F.one_hot(Y, 4)) / len(Y)).double().numpy()
        by_theta, by_pi = gradients(a)
        (i,) = np.flatnonzero(np.abs(by_theta).sum((1, 2)))  # only the sampled proposal learns
        seen.add(int(i))
        expected_theta, expected_pi = np.zeros_like(by_theta), np.zeros_like(by_pi)
        weights = softmax(np.array([0.3, -0.2, 0.5]) / tau)
        for site, g in enumerate(genes):
            by_gate = float((by_logits * model.v.detach().double().numpy()[site, g]).sum())
            n = int(OPTIONS[site].sum())
            p = softmax((random_theta() * OPTIONS)[i, site, :n] / tau)
            expected_theta[i, site, :n] = by_gate * p[g] * (np.eye(n)[g] - p) / tau  # d p_g / d theta: each factor is 1
            expected_pi += by_gate * weights[i] * (np.eye(3)[i] - weights) / tau  # d pi_i / d Pi
        np.testing.assert_allclose(by_theta, expected_theta, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(by_pi, expected_pi, rtol=1e-4, atol=1e-7)
    assert len(seen) > 1


def test_the_score_is_the_gradient_of_the_expected_loss() -> None:
    theta, pi, tau, v = random_theta(2), np.array([0.4, -0.3]), 2.0, probe().v.detach().double()
    t, w = torch.from_numpy(theta).requires_grad_(), torch.from_numpy(pi).requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for g in np.ndindex(3, 4):  # all networks of both proposals
        loss = F.cross_entropy(X.double() + v[0, g[0]] + v[1, g[1]], Y)
        for i in range(2):
            p = (t[i, 0, :3] / tau).softmax(0)[g[0]] * (t[i, 1] / tau).softmax(0)[g[1]]
            expected = expected + (w / tau).softmax(0)[i] * p * loss
    expected.backward()
    found = []
    for seed in range(4000):
        a = architect(theta)
        a.pi[:] = pi
        learn(a, probe(), seed)
        found.append(np.concatenate([g.ravel() for g in gradients(a)]))
    truth = np.concatenate([t.grad.numpy().ravel(), w.grad.numpy()])  # type: ignore[union-attr]
    error = np.std(found, axis=0) / len(found) ** 0.5
    assert (np.abs(np.mean(found, axis=0) - truth) <= 4.5 * error + 1e-12).all()
    assert (np.abs(truth) > 8 * error).sum() >= 5  # enough of it is seen


def test_the_score_of_a_network_is_the_gradient_of_its_log_probability() -> None:
    a = architect(random_theta(2))
    a.pi[:] = (0.4, -0.3)
    t, w = torch.from_numpy(a.theta.copy()).requires_grad_(), torch.from_numpy(a.pi.copy()).requires_grad_()
    p = (t[:, 0, :3] / 2.0).softmax(1)[:, 1] * (t[:, 1] / 2.0).softmax(1)[:, 3]  # options 1 and 3, by each proposal
    ((w / 2.0).softmax(0) * p).sum().log().backward()
    by_theta, by_pi = a.score(np.array([1, 3]))
    np.testing.assert_allclose(by_theta, t.grad.numpy(), atol=1e-12)  # type: ignore[union-attr]
    np.testing.assert_allclose(by_pi, w.grad.numpy(), atol=1e-12)  # type: ignore[union-attr]


def test_the_mixture_has_the_gradient_of_finite_differences() -> None:
    base, h = random_theta(2), 3e-3

    def loss(theta: np.ndarray, pi: np.ndarray) -> float:
        a = architect(theta, "gumbel_softmax")
        a.pi[:] = pi
        return learn(a, probe())

    a = architect(base, "gumbel_softmax")
    learn(a, probe())
    by_theta, by_pi = gradients(a)
    for place in np.argwhere(np.broadcast_to(OPTIONS, base.shape)):
        step = np.zeros_like(base)
        step[tuple(place)] = h
        slope = (loss(base + step, np.zeros(2)) - loss(base - step, np.zeros(2))) / (2 * h)
        assert by_theta[tuple(place)] == pytest.approx(slope, abs=3e-4)
    for i in range(2):
        step = np.eye(2)[i] * h
        assert by_pi[i] == pytest.approx((loss(base, step) - loss(base, -step)) / (2 * h), abs=3e-4)
    assert np.abs(by_theta).max() > 0.01  # far above the differences allowed
    assert np.abs(by_pi).max() > 0.003


def test_the_mixture_is_eq_9_of_relaxed_samples() -> None:
    theta = np.zeros((2, 2, 4))
    theta[0, :, 1] = theta[1, :, 2] = 1000.0  # far above the noise: each proposal's samples are one option
    a = architect(theta, "gumbel_softmax")
    a.pi[:] = (1000.0, 0.0)
    for _ in range(3):
        gates = a.draw(np.random.default_rng(0), 0.0)
        assert gates.indices == ((0, 1, 2), (0, 1, 2, 3))
        assert [w.tolist() for w in gates.weights] == [[0, 1, 0], [0, 1, 0, 0]]
    a.pi[:] = 0.0  # pi is a relaxed sample, too
    drawn = np.array([a.draw(np.random.default_rng(i), 0.0).weights[0].tolist() for i in range(500)])
    np.testing.assert_allclose(drawn[:, 1:].sum(1), 1.0, rtol=1e-6)
    assert drawn[:, 1].std() > 0.2
    assert drawn[:, 1].mean() == pytest.approx(0.5, abs=0.05)


def test_the_regulariser_counts_alpha_times_and_no_more_than_the_task() -> None:
    tables = cost_tables(SPACE, None)
    targets = make_targets(SPACE, tables, {"params": 1500.0})

    def added(loud: float, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """The task's gradient, and what the regulariser adds to it."""
        found = []
        for weight in (0.0, alpha):
            a = architect(random_theta(), targets=targets, alpha=weight)
            learn(a, Probe(loud * probe().v.detach()))
            found.append(gradients(a)[0])
        return found[0], found[1] - found[0]

    (_, once), (task, five) = added(100.0, 1.0), added(100.0, 5.0)
    assert np.abs(once).max() > 0.005
    np.testing.assert_allclose(five, 5.0 * once, atol=1e-12)
    assert np.square(five).mean() < np.square(task).mean()
    task, capped = added(0.001, 5.0)  # a task that says little
    assert np.square(capped).mean() == pytest.approx(np.square(task).mean())
    np.testing.assert_allclose(capped / np.abs(capped).max(), five / np.abs(five).max(), atol=1e-5)
    assert np.abs(added(0.0, 5.0)[1]).max() == 0.0  # and one that says nothing

    away = {}
    for alpha in (0.0, 5.0):
        a = architect(random_theta(8), targets=targets, alpha=alpha, tau=(5.0, 0.05))
        for step in range(400):
            learn(a, Probe(0.01 * probe().v.detach()), step, step / 400)
        genes = np.where(OPTIONS, a.theta, -np.inf).argmax(-1)
        away[alpha] = np.median(np.abs(tables["params"].of(genes) - 1500.0))
    assert away[5.0] < 0.5 * away[0.0]  # the task's best networks are elsewhere


# -- sampling and computing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_networks_are_sampled_as_pi_and_theta_say(progress: float) -> None:
    tau, n = 2.0 * 0.25**progress, 8000
    a = architect(random_theta(2))
    a.pi[:] = (1.0, 0.0)
    rng = np.random.default_rng(0)
    counts = Counter(tuple(i for (i,) in a.draw(rng, progress).indices) for _ in range(n))
    chi2 = 0.0
    for g in np.ndindex(3, 4):  # sites are independent within a proposal only
        p = 0.0
        for weight, theta in zip(softmax(a.pi / tau), a.theta, strict=True):
            p += weight * softmax(theta[0, :3] / tau)[g[0]] * softmax(theta[1] / tau)[g[1]]
        chi2 += (counts[g] - n * p) ** 2 / (n * p)
    assert chi2 < 31.3  # 99.9 %, 11 degrees of freedom


@pytest.mark.parametrize("sampling", ["gumbel_max", "gumbel_softmax"])
def test_only_gated_options_are_computed(sampling: Sampling) -> None:
    supernet, calls = SPACE.supernet(), list[tuple[int, int]]()
    for site, ops in enumerate(supernet.sites):
        for option, op in enumerate(ops.values()):
            op.register_forward_hook(lambda *_, place=(site, option): calls.append(place))
    x = torch.randn(4, 3, 16, 16)
    everything = [(site, option) for site in range(2) for option in range(len(SPACE.decisions[site].options))]
    for seed in range(5):
        a = architect(random_theta(), sampling)
        gates = a.draw(np.random.default_rng(seed), 0.0)
        expected = [(site, i) for site, (i, *_) in enumerate(gates.indices)] if sampling == "gumbel_max" else everything
        supernet(x, gates)
        assert calls == expected
        calls.clear()
        a.learn(supernet, x, Y[:4], Tensor.backward, np.random.default_rng(seed), 0.0)
        networks = NETWORKS if sampling == "gumbel_max" else 1
        assert [site for site, _ in calls] == [site for site, _ in expected] * networks
        assert sampling == "gumbel_max" or calls == expected
        calls.clear()


@pytest.mark.parametrize("estimator", ["score", "straight_through"])
def test_a_step_of_the_architecture_leaves_the_weights_alone(estimator: Estimator) -> None:
    supernet = SPACE.supernet()
    frozen = supernet.head[0][0].weight
    frozen.requires_grad_(False)
    for m in supernet.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)  # residual branches start at 0, and all networks would be alike
    before = {n: p.clone() for n, p in supernet.named_parameters()}
    a = architect(random_theta(), estimator=estimator)
    theta = a.theta.copy()
    a.learn(supernet, torch.randn(4, 3, 16, 16), Y[:4], Tensor.backward, np.random.default_rng(0), 0.0)
    assert not np.array_equal(a.theta, theta)
    for name, p in supernet.named_parameters():
        assert p.grad is None, name
        assert torch.equal(p, before[name]), name
        assert p.requires_grad is (p is not frozen), name

    def fails(loss: Tensor) -> None:
        raise RuntimeError("stopped")

    a = architect(random_theta(), estimator="straight_through")
    with pytest.raises(RuntimeError, match="stopped"):
        a.learn(supernet, torch.randn(4, 3, 16, 16), Y[:4], fails, np.random.default_rng(0), 0.0)
    assert all(p.requires_grad for p in supernet.parameters() if p is not frozen)


@pytest.mark.parametrize("sampling", ["gumbel_max", "gumbel_softmax"])
def test_a_broken_network_does_not_break_the_parameters(sampling: Sampling) -> None:
    a = architect(random_theta(), sampling)
    with pytest.raises(TrainingError, match=r"no finite gradient \(temperature 2\); start a new search with a smaller"):
        learn(a, Probe(torch.full((2, 4, 4), torch.nan)))
    np.testing.assert_array_equal(a.theta, random_theta() * OPTIONS)
    assert a.pi.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("sampling", ["gumbel_max", "gumbel_softmax"])
def test_the_better_proposal_and_the_better_option_win(sampling: Sampling) -> None:
    good = torch.zeros(2, 4, 4)
    good[0, 2] = good[1, 3] = torch.tensor([3.0, 0.0, 0.0, 0.0])  # right for images of class 0
    theta = np.zeros((2, 2, 4))
    theta[1, 0, 0] = theta[1, 1, 0] = 50.0  # the second proposal holds on to options that bring nothing
    a = architect(theta, sampling, lr=0.05, tau=(2.0, 0.3))
    for step in range(150):
        rng = np.random.default_rng(step)
        a.learn(Probe(good), torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64), Tensor.backward, rng, step / 150)
    assert a.best == 0
    assert a.summary()["proposals"][0] > 0.9
    assert a.theta[0].argmax(-1).tolist() == [2, 3]


# -- state -------------------------------------------------------------------------------------------------------


def test_what_was_saved_goes_on_with_the_same_bits() -> None:
    targets = make_targets(SPACE, cost_tables(SPACE, None), {"params": 1500.0})
    more = {"targets": targets, "alpha": 5.0}
    whole, parts = architect(random_theta(), **more), architect(random_theta(), **more)
    for step in range(6):
        learn(whole, probe(), step, step / 6)
        learn(parts, probe(), step, step / 6)
        saved = {name: value.clone() for name, value in parts.tensors().items()}
        parts = architect(np.zeros((3, 2, 4)), **more)
        parts.restore(saved)
        assert parts.summary() == whole.summary()  # the temperature included
    for name, value in whole.tensors().items():
        assert torch.equal(value, parts.tensors()[name]), name
    with pytest.raises(KeyError, match="theta"):
        parts.restore({})


# -- images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "share", "size"), [(100, 0.2, 20), (7, 0.2, 2), (50, 1e-6, 2), (50, 0.99999, 48)])
def test_images_are_shared_without_overlap(n: int, share: float, size: int) -> None:
    pixels = torch.arange(n).reshape(n, 1, 1, 1)
    split = Split(Subset(_Pixels(pixels), torch.arange(n)), torch.arange(n))
    weights, architecture = shares(split, share, seed=3)
    assert (len(weights), len(architecture)) == (n - size, size)
    assert sorted([*weights.labels.tolist(), *architecture.labels.tolist()]) == list(range(n))
    for part in (weights, architecture):
        assert torch.equal(part.images.fetch(torch.arange(len(part))).flatten(), part.labels)
    assert not torch.equal(architecture.labels, shares(split, share, seed=4)[1].labels) or size == n
    assert torch.equal(architecture.labels, shares(split, share, seed=3)[1].labels)


class _Pixels:
    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def fetch(self, indices: Tensor) -> Tensor:
        return self.pixels[indices]

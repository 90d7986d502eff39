"""Space proposals against hand computation, finite differences, other optimisers and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from hiernas import spaces
from hiernas.budget import CostTable, Limit
from hiernas.costs.limits import satisfied
from hiernas.costs.tables import cost_tables
from hiernas.errors import LimitError
from hiernas.methods.hournas import HourNASConfig
from hiernas.methods.hournas.proposals import (
    NEAR,
    Adam,
    Targets,
    aims_of,
    entropy,
    fresh_parameters,
    make_targets,
    optimise_proposals,
    option_mask,
    probabilities,
    resource_loss,
    resources,
    sample,
    spread,
    temperature,
)
from toy import budget, toy_space

TAU = (5.0, 0.01)
SPACE = toy_space()
TABLES = cost_tables(SPACE, None)
GENES = SPACE.all_encoded()


# -- Eqs. 5 to 7 -------------------------------------------------------------------------------------------------


def two_by_three() -> Targets:
    """Two sites of 2 and 3 options; costs (2, 6) and (1, 3, 5) over a constant 4; the target is 9, of 15 at most."""
    space = SPACE.restrict({"stage1.block1": ["k3_e2", "k5_e2"], "stage2.block1": ["k3_e1", "k5_e3", "k7_e2"]})
    table = CostTable("params", 4.0, (np.array([2.0, 6.0]), np.array([1.0, 3.0, 5.0])), space)
    return make_targets(space, {"params": table}, {"params": 9.0})


def test_the_loss_of_two_proposals_computed_by_hand() -> None:
    targets = two_by_three()
    assert targets.options.tolist() == [[True, True, False], [True, True, True]]
    theta = np.zeros((2, 2, 3))
    theta[0, 0, 1], theta[0, 1, 0] = math.log(3), math.log(2)  # p = (1/4, 3/4), (1/2, 1/4, 1/4); the second: uniform
    loss, _ = resource_loss(theta, targets, 0.0, 1.0, 0.1)
    # the first costs 4 + 5 + 2.5 = 11.5, the second 4 + 4 + 3 = 11; 2.5 and 2 away from 9, of a maximum of 15
    distance = (2.5 / 15 + 2.0 / 15) / 2
    orthogonality = abs(math.log(3) ** 2 + math.log(2) ** 2 - 1) + abs(0.0 - 1)  # their products are 0
    assert loss == pytest.approx(distance + 0.1 * orthogonality, rel=1e-12)
    noise = np.zeros((2, 2, 3))
    noise[1] = theta[0]  # noise adds to the logits: now the second costs what the first did
    theta[0] = 0.0
    assert resource_loss(theta, targets, noise, 1.0, 0.0)[0] == pytest.approx(distance)
    assert resource_loss(2 * theta, targets, noise, 2.0, 0.0)[0] == pytest.approx(distance)  # the temperature divides theta


def test_several_targets_count_alike() -> None:
    rng = np.random.default_rng(0)
    aims = {m: float(TABLES[m].of(GENES[5:6])[0]) for m in ("params", "macs")}
    targets = make_targets(SPACE, TABLES, aims)
    theta, noise = rng.normal(size=(3, 2, 4)) * targets.options, rng.gumbel(size=(3, 2, 4))
    p = probabilities(theta, targets.options, noise, 0.5)
    expected = []
    for j in range(3):
        for metric, aim in aims.items():
            rows = TABLES[metric].sites
            cost = TABLES[metric].constant + sum(float(p[j, site, : len(row)] @ row) for site, row in enumerate(rows))
            expected.append(abs(cost - aim) / float(TABLES[metric].of(GENES).max()))
    assert resource_loss(theta, targets, noise, 0.5, 0.0)[0] == pytest.approx(sum(expected) / 6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    targets = make_targets(SPACE, TABLES, {"params": 1500.0, "macs": 40_000.0})
    rng, h = np.random.default_rng(1), 1e-6
    for tau, beta in ((0.7, 0.3), (2.0, 0.0), (0.1, 0.01)):
        theta = rng.normal(size=(3, 2, 4)) * targets.options
        noise = rng.gumbel(size=theta.shape)
        _, gradient = resource_loss(theta, targets, noise, tau, beta)
        for place in np.argwhere(np.ones_like(theta)):
            step = np.zeros_like(theta)
            step[tuple(place)] = h * targets.options[tuple(place[1:])]
            up, down = (resource_loss(theta + s, targets, noise, tau, beta)[0] for s in (step, -step))
            assert gradient[tuple(place)] == pytest.approx((up - down) / (2 * h), abs=1e-7), (tau, beta, place)


def test_resources_of_one_option_per_site_are_the_exact_costs() -> None:
    targets = make_targets(SPACE, TABLES, {"params": 1000.0, "macs": 30_000.0})
    chosen = np.zeros((len(GENES), 2, 4))
    for row, genes in zip(chosen, GENES, strict=True):
        row[[0, 1], genes] = 1.0
    away = resources(chosen, targets) - targets.values
    for i, (metric, aim) in enumerate((("params", 1000.0), ("macs", 30_000.0))):
        exact = TABLES[metric].of(GENES)
        np.testing.assert_allclose(away[:, i], (exact - aim) / exact.max(), atol=1e-12)


# -- schedule and optimiser --------------------------------------------------------------------------------------


def test_the_temperature_is_the_papers_stretched_to_the_real_number_of_iterations() -> None:
    iterations = 62_143  # until 5.0 * 0.9999^t has fallen to 0.01
    for t in (0, 1, 1000, 40_000, iterations):
        assert temperature(5.0, 0.01, t / iterations) == pytest.approx(5.0 * 0.9999**t, rel=2e-4)
    assert temperature(5.0, 0.01, 1.0) == pytest.approx(0.01)


def test_adam_is_that_of_torch() -> None:
    rng = np.random.default_rng(0)
    ours, adam = np.zeros((2, 3)), Adam((2, 3), 0.05)
    theirs = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([theirs], lr=0.05)
    for _ in range(20):
        gradient = rng.normal(size=(2, 3))
        ours += adam.update(gradient)
        theirs.grad = torch.from_numpy(gradient)
        optimiser.step()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-9)


# -- samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 5.0])
def test_gumbel_max_samples_options_as_often_as_the_softmax_says(tau: float) -> None:
    rng = np.random.default_rng(0)
    options = option_mask(SPACE)
    theta = rng.normal(size=options.shape) * options
    drawn = sample(theta, options, tau, rng, 20_000)
    for site, (row, there) in enumerate(zip(theta, options, strict=True)):
        p = np.exp(row[there] / tau) / np.exp(row[there] / tau).sum()
        counts = np.bincount(drawn[:, site], minlength=len(p))
        assert len(counts) == len(p)  # nothing beyond the site's own options
        assert float(((counts - 20_000 * p) ** 2 / (20_000 * p)).sum()) < 16.3  # 99.9 %, 3 degrees of freedom


def test_entropy_goes_from_that_of_a_uniform_choice_to_0() -> None:
    options = option_mask(SPACE)
    assert entropy(np.zeros((1, 2, 4)), options, 1.0) == pytest.approx((math.log(3) + math.log(4)) / 2)
    assert entropy(np.eye(4)[None, :2] * 50, options, 0.1) == pytest.approx(0.0, abs=1e-12)


def test_fresh_parameters_leave_places_without_an_option_at_0() -> None:
    theta = fresh_parameters(5, option_mask(SPACE), np.random.default_rng(0))
    assert np.abs(theta[:, 0, 3]).max() == 0.0
    assert 0 < np.abs(theta[:, 0, :3]).max() < 0.01


# -- optimised ---------------------------------------------------------------------------------------------------


def random_aims(rng: np.random.Generator, reachable: bool) -> dict[str, float]:
    """Values to aim at on one or two metrics: the costs of an architecture, or anything between least and greatest."""
    metrics = [str(m) for m in rng.permutation(["params", "macs"])[: rng.integers(1, 3)]]
    if reachable:
        genes = GENES[rng.integers(len(GENES))][None]
        return {m: float(TABLES[m].of(genes)[0]) for m in metrics}
    return {m: float(rng.uniform(TABLES[m].smallest, TABLES[m].largest)) for m in metrics}


def distances(genes: np.ndarray, aims: dict[str, float]) -> np.ndarray:
    """Eq. 6 of architectures [N], from the tables."""
    return np.mean([np.abs(TABLES[m].of(genes) - a) / TABLES[m].of(GENES).max() for m, a in aims.items()], axis=0)


@pytest.mark.parametrize("reachable", [True, False])
def test_final_samples_are_the_best_architecture_there_is(reachable: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        aims = random_aims(rng, reachable)
        targets = make_targets(SPACE, TABLES, aims)
        theta = optimise_proposals(targets, HourNASConfig(), rng)
        least = distances(GENES, aims).min()
        hits = [(distances(sample(t, targets.options, 0.01, rng, 200), aims) <= least + 1e-12).mean() for t in theta]
        assert max(hits) > 0.9, aims  # of eight proposals that must differ, on two sites


def test_proposals_meet_the_papers_targets_and_sharpen_as_the_temperature_falls() -> None:
    space = spaces.fbnet()
    tables = cost_tables(space, None)
    targets = make_targets(space, tables, {"params": 4.8e6, "macs": 300e6})  # Fig. 3
    theta = optimise_proposals(targets, HourNASConfig(), np.random.default_rng(0))
    shown = spread(space, tables, targets, theta, *TAU, seed=0)
    assert [round(s["tau"], 3) for s in shown] == [5.0, 0.63, 0.079, 0.01]
    assert {s["samples"] for s in shown} == {10_000}
    assert shown[0]["within"] < 0.05 < shown[-1]["within"]
    assert shown[-1]["within"] >= 0.95
    wide, narrow = (np.std(s["relative"]["macs"]) for s in (shown[0], shown[-1]))
    assert narrow < 0.02 < wide
    genes = np.concatenate([sample(t, targets.options, 0.01, np.random.default_rng(1), 100) for t in theta])
    near = [np.abs(tables[m].of(genes) / a - 1) <= 0.02 for m, a in (("params", 4.8e6), ("macs", 300e6))]
    assert np.logical_and(*near).mean() >= 0.95  # counted anew


def test_the_orthogonality_term_makes_proposals_differ() -> None:
    space = spaces.tiny((3, 32, 32), 10)
    tables = cost_tables(space, None)
    targets = make_targets(space, tables, {m: (tables[m].smallest + tables[m].largest) / 2 for m in ("params", "macs")})
    away = []
    for beta in (0.01, 0.0):
        config = HourNASConfig(proposal_iterations=500, beta=beta)
        theta = optimise_proposals(targets, config, np.random.default_rng(0)).reshape(8, -1)
        away.append(np.abs(theta @ theta.T - np.eye(8)).mean())
    assert away[0] < 0.05 < away[1]


# -- from limits to targets --------------------------------------------------------------------------------------


def some_limits(rng: np.random.Generator) -> list[Limit]:
    """One or two limits of all kinds, most of which something meets."""
    limits = []
    for metric in rng.permutation(["params", "macs"])[: rng.integers(1, 3)]:
        values = TABLES[metric].of(GENES)
        low, high = np.sort(rng.uniform(0.98 * values.min(), 1.05 * values.max(), 2))
        kind = rng.integers(3)
        limits.append(Limit(str(metric), -math.inf if kind == 0 else low, math.inf if kind == 1 else high))
    return limits


def spans(limits: list[Limit]) -> list[tuple[float, float]]:
    """The last 3 % of every upper bound, the first of every lower one, all of a range."""
    found = []
    for m in limits:
        found.append((m.low if m.low > 0 else NEAR * m.high, m.high if m.high < math.inf else m.low / NEAR))
    return found


def test_aims_are_within_the_limits_and_near_their_bounds() -> None:
    rng, kinds = np.random.default_rng(0), {"span": 0, "nearest": 0, "none": 0}
    for _ in range(200):
        limits = some_limits(rng)
        feasible = GENES[satisfied(TABLES, limits, GENES)]
        if not len(feasible):
            kinds["none"] += 1
            with pytest.raises(LimitError, match="no architecture of 'toy'"):
                aims_of(SPACE, budget(limits))
            continue
        aims = aims_of(SPACE, budget(limits))
        values = np.stack([TABLES[m.metric].of(feasible) for m in limits], axis=1)
        inside = [all(low <= v <= high for v, (low, high) in zip(row, spans(limits), strict=True)) for row in values]
        if any(inside):
            kinds["span"] += 1
            assert list(aims.values()) == pytest.approx([(low + high) / 2 for low, high in spans(limits)])
        else:
            kinds["nearest"] += 1
            assert list(aims.values()) in values.tolist()  # the costs of one that meets all limits
            if len(limits) == 1:
                ((low, high),) = spans(limits)
                assert aims[limits[0].metric] == min(values[:, 0], key=lambda v: max(low - v, v - high))
    assert min(kinds.values()) >= 20  # all of them happen


def test_what_is_just_above_a_limit_is_not_aimed_at() -> None:
    values = np.unique(TABLES["params"].of(GENES))
    taken = 0
    for below, above in itertools.pairwise(values):  # `above` is nearer to the bound than `below`
        if below < NEAR * (above - 1):
            taken += 1
            assert aims_of(SPACE, budget([Limit("params", high=above - 1)])) == {"params": below}
    assert taken >= 5

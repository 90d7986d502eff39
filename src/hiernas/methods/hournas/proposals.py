"""Space proposals of HourNAS (arXiv 2005.14446v3, section 3.3): distributions of architectures that meet cost targets.

Architecture parameters theta [m, L, O] are logits of m proposals over L sites with up to O options. At temperature
tau an option has the probability softmax(theta / tau), and an architecture is sampled by Gumbel-Max, the argmax of
theta / tau plus Gumbel noise: as tau falls, the samples of a proposal become one architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiernas.budget import Budget, Limit, Tables
from hiernas.randomness import numpy_generator
from hiernas.space import SearchSpace

NEAR = 0.97  # a target is aimed at from this share of its bound on
INITIAL = 1e-3  # standard deviation of fresh parameters
FIGURE_TEMPERATURES, FIGURE_SAMPLES, FIGURE_POINTS = 4, 10_000, 400
WITHIN = 0.02  # of every target


@dataclass(frozen=True)
class Targets:
    """What proposals aim at: per metric a cost table, padded to [L, O], and a value. All of it divided by the maxima."""

    metrics: tuple[str, ...]
    costs: np.ndarray  # float64 [n, L * O]: of every option, divided by M_i
    values: np.ndarray  # float64 [n]: T_i less the constant costs, divided by M_i
    absolute: np.ndarray  # float64 [n]: T_i, in the metric's unit
    options: np.ndarray  # bool [L, O]: which places of the padded tables are options


def option_mask(space: SearchSpace) -> np.ndarray:
    """Which places of a table of sites by options, padded to the widest, are options: bool [L, O]."""
    width = max(len(d.options) for d in space.decisions)
    return np.array([[o < len(d.options) for o in range(width)] for d in space.decisions])


def make_targets(space: SearchSpace, tables: Tables, aims: Mapping[str, float]) -> Targets:
    """The targets for these values by metric; M_i is the greatest cost in the space (Eq. 5)."""
    options = option_mask(space)
    costs = np.zeros((len(aims), *options.shape))
    absolute, values = np.array([float(v) for v in aims.values()]), np.zeros(len(aims))
    for i, metric in enumerate(aims):
        table = tables[metric]
        costs[i][options] = np.concatenate(table.sites) / table.largest
        values[i] = (absolute[i] - table.constant) / table.largest
    return Targets(tuple(aims), costs.reshape(len(aims), -1), values, absolute, options)


def aims_of(space: SearchSpace, budget: Budget) -> dict[str, float]:
    """Values to aim at: the upper bounds, or what is nearest to them all at once within the limits.

    Limits on several metrics can rule out that all bounds are used up; the aims are then the costs of an
    architecture that comes near them. Of a range the middle is aimed at, of a lower bound the bound.
    """
    tables = budget.tables(space)
    limits = budget.limits or (Limit("macs", high=tables["macs"].largest),)  # nothing that adds up is limited
    wanted = budget.within([_span(limit) for limit in limits])
    genes = wanted.nearest(space)
    if not budget.met(space, genes)[0]:
        genes = budget.best(space, _towards(space, tables, limits))[None]
    elif wanted.met(space, genes)[0]:
        return {w.metric: (w.low + w.high) / 2 for w in wanted.limits}
    return {limit.metric: float(tables[limit.metric].of(genes)[0]) for limit in limits}


def _towards(space: SearchSpace, tables: Tables, limits: Sequence[Limit]) -> list[np.ndarray]:
    """Gains of options that lead to the bounds: costs relative to an upper bound, less those relative to a lower one."""
    total = [np.zeros(len(d.options)) for d in space.decisions]
    for limit in limits:
        if len(limit.bounds) == 1:  # within a range any value will do
            scale = (limit.bounds[0] or 1.0) * (-1.0 if np.isinf(limit.high) else 1.0)
            total = [t + row / scale for t, row in zip(total, tables[limit.metric].sites, strict=True)]
    return total


def _span(limit: Limit) -> Limit:
    if np.isinf(limit.low):
        return Limit(limit.metric, NEAR * limit.high, limit.high)
    return Limit(limit.metric, limit.low, limit.low / NEAR) if np.isinf(limit.high) else limit


def probabilities(theta: np.ndarray, options: np.ndarray, noise: np.ndarray | float, tau: float) -> np.ndarray:
    """softmax(theta / tau + noise) over the options of each site: [m, L, O], 0 where there is no option."""
    z = np.where(options, theta / tau + noise, -np.inf)
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def resources(p: np.ndarray, targets: Targets) -> np.ndarray:
    """R_i of architectures [m, L, O] (Eq. 5), divided by M_i and without the constant costs: [m, n]."""
    return p.reshape(len(p), -1) @ targets.costs.T


def resource_loss(
    theta: np.ndarray, targets: Targets, noise: np.ndarray | float, tau: float, beta: float
) -> tuple[float, np.ndarray]:
    """Eq. 7 and its gradient by theta: mean distance to the targets plus beta * sum |theta theta^T - I|.

    `noise`: Gumbel noise [m, L, O] of the sampled architectures, which are relaxed (Gumbel-softmax).
    """
    p = probabilities(theta, targets.options, noise, tau)
    away = resources(p, targets) - targets.values  # [m, n]
    d_p = (np.sign(away) @ targets.costs).reshape(theta.shape) / away.size
    gradient = p * (d_p - (p * d_p).sum(-1, keepdims=True)) / tau
    flat = theta.reshape(len(theta), -1)
    off = flat @ flat.T - np.eye(len(theta))
    gradient += beta * 2.0 * (np.sign(off) @ flat).reshape(theta.shape)
    return float(np.abs(away).mean() + beta * np.abs(off).sum()), gradient


def temperature(start: float, end: float, progress: float) -> float:
    """Geometric from start to end over the real number of iterations; `progress` goes from 0 to 1."""
    return start * (end / start) ** progress


class Adam:
    """Adam (Kingma and Ba 2015) for one small array, a tenth of the overhead of the general one."""

    def __init__(self, shape: tuple[int, ...], lr: float) -> None:
        self.lr, self.step = lr, 0
        self.mean, self.square = np.zeros(shape), np.zeros(shape)

    def update(self, gradient: np.ndarray) -> np.ndarray:
        """The change of the array."""
        self.step += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient * gradient - self.square)
        mean, square = self.mean / (1 - 0.9**self.step), self.square / (1 - 0.999**self.step)
        return -self.lr * mean / (np.sqrt(square) + 1e-8)


def fresh_parameters(m: int, options: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """theta [m, L, O] near 0, exactly 0 where there is no option."""
    return INITIAL * rng.standard_normal((m, *options.shape)) * options


def optimise_proposals(targets: Targets, config: Any, rng: np.random.Generator) -> np.ndarray:
    """HourNAS' m proposals that meet the targets, optimised together: theta [m, L, O] (Eq. 7; Alg. 1, line 13)."""
    theta = fresh_parameters(config.proposals, targets.options, rng)
    adam = Adam(theta.shape, config.architecture_lr)
    for i in range(config.proposal_iterations):
        now = temperature(config.tau, config.tau_end, i / max(1, config.proposal_iterations - 1))
        _, gradient = resource_loss(theta, targets, rng.gumbel(size=theta.shape), now, config.beta)
        theta += adam.update(gradient)
    return theta


def sample(theta: np.ndarray, options: np.ndarray, tau: float, rng: np.random.Generator, n: int) -> np.ndarray:
    """n architectures of one proposal theta [L, O], by Gumbel-Max: option indices int64 [n, L]."""
    noise = rng.gumbel(size=(n, *theta.shape))
    return np.where(options, theta / tau + noise, -np.inf).argmax(-1)


def gains(theta: np.ndarray, options: np.ndarray) -> list[np.ndarray]:
    """Per site the logits of its options: their sum ranks architectures by probability."""
    return [row[there] for row, there in zip(theta, options, strict=True)]


def entropy(theta: np.ndarray, options: np.ndarray, tau: float) -> float:
    """Mean entropy of the sites' distributions, in nats."""
    p = probabilities(theta, options, 0.0, tau)
    return float(-(p * np.log(np.where(p > 0, p, 1.0))).sum(-1).mean())


def spread(
    space: SearchSpace, tables: Tables, targets: Targets, theta: np.ndarray, tau: float, tau_end: float, seed: int
) -> list[dict[str, Any]]:
    """Fig. 3: what 10,000 architectures sampled from the proposals cost at falling temperatures.

    Per temperature the share within 2 % of all targets, and the costs of the first few hundred, relative to the
    targets, by metric.
    """
    rng, found = numpy_generator(seed, "spread"), []
    for now in np.geomspace(tau, tau_end, FIGURE_TEMPERATURES):
        each = -(-FIGURE_SAMPLES // len(theta))
        genes = np.concatenate([sample(t, targets.options, float(now), rng, each) for t in theta])
        genes = genes[rng.permutation(len(genes))[:FIGURE_SAMPLES]]
        ratios = {m: tables[m].of(genes) / a for m, a in zip(targets.metrics, targets.absolute, strict=True)}
        near = np.all([np.abs(r - 1.0) <= WITHIN for r in ratios.values()], axis=0)
        shown = {m: [round(float(x), 4) for x in r[:FIGURE_POINTS]] for m, r in ratios.items()}
        found.append({"tau": float(now), "within": float(near.mean()), "samples": len(genes), "relative": shown})
    return found

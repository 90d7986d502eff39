"""The upper level of HourNAS' bilevel search (arXiv 2005.14446v3, Eqs. 8 to 10): proposals that learn which network is best.

Parameters theta [m, L, O] of m proposals and Pi [m], which weighs the proposals. A step of the weights trains one
sampled network. A step of the architecture compares the validation losses of a few of them (Gumbel-Max, by the score
function), or sends a loss back through the gates of one (straight-through) or of the mixture of all (Gumbel-softmax).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiernas.data.split import Split
from hiernas.errors import TrainingError
from hiernas.gates import Gates, frozen, single_path
from hiernas.methods.hournas.proposals import Adam, Targets, entropy, probabilities, resource_loss, temperature

NETWORKS = 3  # per step by score: their forward passes take less time than a training step, see docs/methods/hournas.md
Sampling = Literal["gumbel_max", "gumbel_softmax"]
Estimator = Literal["score", "straight_through"]
Learned = tuple[Tensor, np.ndarray, np.ndarray]  # the loss, detached, and its gradients by theta and Pi


class ProposalArchitect:
    """Proposals under training; see `hiernas.problem.Architect`. `config`: HourNAS', or another with the same names.

    `targets`: of the regulariser T of Eq. 10, which holds the proposals at them; None without any.
    """

    alternation: Literal["epoch", "step"] = "epoch"  # Alg. 1: an epoch of the weights, then one of the architecture

    def __init__(
        self, theta: np.ndarray, options: np.ndarray, images: Split, config: Any, targets: Targets | None = None
    ) -> None:
        self.theta, self.pi = theta.copy(), np.zeros(len(theta))
        self.options, self.images, self.config, self.targets = options, images, config, targets
        self._adam = {name: Adam(x.shape, config.architecture_lr) for name, x in (("theta", self.theta), ("pi", self.pi))}
        self._widths = options.sum(1).tolist()
        self._device = torch.device("cpu")
        self._now = config.tau
        self._squares = np.zeros(2)  # running means of the squared gradients of the task and of the regulariser

    def to(self, device: torch.device) -> None:
        """The gates' weights go to this device; the parameters, a few hundred numbers, stay where they are."""
        self._device = device

    # -- sampling ----------------------------------------------------------------------------------------------

    def draw(self, rng: np.random.Generator, progress: float) -> Gates:
        """The gates of one sampled network (or of one sampled mixture), without gradients."""
        with torch.no_grad():
            self._now = temperature(self.config.tau, self.config.tau_end, progress)
            return self._sampled(rng, *self._parameters(False))

    def _parameters(self, learning: bool) -> tuple[Tensor, Tensor]:
        theta, pi = torch.from_numpy(self.theta.copy()), torch.from_numpy(self.pi.copy())
        return theta.requires_grad_(learning), pi.requires_grad_(learning)

    def _sampled(self, rng: np.random.Generator, theta: Tensor, pi: Tensor) -> Gates:
        proposal_noise, noise = rng.gumbel(size=pi.shape), rng.gumbel(size=theta.shape)
        if self.config.sampling == "gumbel_max":
            return self._one_path(theta, pi, proposal_noise, noise)
        # all options, weighted by the relaxed samples of all proposals (Eq. 9)
        mixed = (pi / self._now + torch.from_numpy(proposal_noise)).softmax(0)
        samples = torch.stack([self._softmax(t, n) for t, n in zip(theta, torch.from_numpy(noise), strict=True)])
        weights = (mixed[:, None, None] * samples).sum(0).to(self._device, torch.float32)
        rows = [row[:width] for row, width in zip(weights.unbind(), self._widths, strict=True)]
        return Gates(tuple(tuple(range(width)) for width in self._widths), tuple(rows))

    def _drawn(self, proposal_noise: np.ndarray, noise: np.ndarray) -> tuple[int, np.ndarray]:
        """A proposal, and of it an option per site, by Gumbel-Max."""
        i = int((self.pi / self._now + proposal_noise).argmax())
        return i, np.where(self.options, self.theta[i] / self._now + noise[i], -np.inf).argmax(-1)

    def _one_path(self, theta: Tensor, pi: Tensor, proposal_noise: np.ndarray, noise: np.ndarray) -> Gates:
        """One option per site: weight 1, with the gradients of the proposal's probability and of the option's own."""
        i, genes = self._drawn(proposal_noise, noise)
        if not theta.requires_grad:
            return single_path(genes)
        p = self._softmax(theta[i])[torch.arange(len(genes)), torch.from_numpy(genes)]
        weight = (pi / self._now).softmax(0)[i]
        gates = ((1.0 + weight - weight.detach()) * (1.0 + p - p.detach())).to(self._device, torch.float32)
        return Gates(single_path(genes).indices, tuple(gates.unsqueeze(1).unbind()))

    def _softmax(self, theta: Tensor, noise: Tensor | float = 0.0) -> Tensor:
        return (theta / self._now + noise).masked_fill(~torch.from_numpy(self.options), -torch.inf).softmax(-1)

    # -- learning ----------------------------------------------------------------------------------------------

    def learn(
        self, model: nn.Module, x: Tensor, y: Tensor, backward: Callable[[Tensor], Any], rng: np.random.Generator,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """One step of theta and Pi on the validation loss and alpha * T (Eq. 10); the weights get no gradients.

        Raises `TrainingError` where the gradient is not finite; the parameters then stay as they were.
        """
        self._now = temperature(self.config.tau, self.config.tau_end, progress)
        by_score = self.config.sampling == "gumbel_max" and self.config.estimator == "score"
        loss, by_theta, by_pi = self._by_score(model, x, y, rng) if by_score else self._by_gates(model, x, y, backward, rng)
        if not np.isfinite(by_theta).all():
            raise TrainingError(
                f"the loss on the architecture's images has no finite gradient (temperature {self._now:.3g}); start a new "
                "search with a smaller --set lr=..., or with --set train.grad_clip=5"
            )
        if self.targets is not None:
            by_theta = by_theta + self._regulariser(self.targets, by_theta, rng.gumbel(size=self.theta.shape))
        self.theta += self._adam["theta"].update(by_theta * self.options)
        self.pi += self._adam["pi"].update(by_pi)
        return loss

    def _regulariser(self, targets: Targets, by_theta: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The gradient of alpha * T (Eq. 6), made as small as the task's where it is larger, by running mean squares."""
        gradient = self.config.alpha * resource_loss(self.theta, targets, noise, self._now, 0.0)[1]
        self._squares += 0.05 * (np.array([np.square(by_theta).mean(), np.square(gradient).mean()]) - self._squares)
        task, own = self._squares
        return gradient * (1.0 if own <= task else (task / own) ** 0.5)

    def _by_score(self, model: nn.Module, x: Tensor, y: Tensor, rng: np.random.Generator) -> Learned:
        """The score function: a few networks on the same images, each against the mean of the others."""
        drawn = [self._drawn(rng.gumbel(size=self.pi.shape), rng.gumbel(size=self.theta.shape))[1] for _ in range(NETWORKS)]
        with torch.no_grad():
            losses = torch.stack([F.cross_entropy(model(x, single_path(genes)), y) for genes in drawn])
        worse = np.array(losses.tolist())
        worse = (worse - worse.mean()) / (NETWORKS - 1)
        by_theta, by_pi = np.zeros_like(self.theta), np.zeros_like(self.pi)
        for genes, amount in zip(drawn, worse, strict=True):
            theta_score, pi_score = self.score(genes)
            by_theta += amount * theta_score
            by_pi += amount * pi_score
        return losses.mean(), by_theta, by_pi

    def score(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradient of a network's log-probability by theta and Pi, whichever proposal it may come from: [m, L, O], [m].

        A proposal takes part by the probability that the network is its own.
        """
        p, weights = probabilities(self.theta, self.options, 0.0, self._now), self._weights()
        taken = np.arange(p.shape[2]) == genes[:, None]
        with np.errstate(divide="ignore"):  # of probabilities that are 0 in floating point
            logs = np.log(p[:, taken]).sum(1) + np.log(weights)
        owner = np.exp(logs - logs.max())
        owner /= owner.sum()
        return owner[:, None, None] * (taken - p) / self._now, (owner - weights) / self._now

    def _by_gates(
        self, model: nn.Module, x: Tensor, y: Tensor, backward: Callable[[Tensor], Any], rng: np.random.Generator
    ) -> Learned:
        """What the loss sends back through the gates."""
        theta, pi = self._parameters(True)
        with frozen(model):
            loss = F.cross_entropy(model(x, self._sampled(rng, theta, pi)), y)
            backward(loss)
        return loss.detach(), _numpy(theta.grad, self.theta), _numpy(pi.grad, self.pi)

    # -- results -----------------------------------------------------------------------------------------------

    @property
    def best(self) -> int:
        return int(self.pi.argmax())

    def tensors(self) -> dict[str, Tensor]:
        """Parameters, temperature and the optimiser's state."""
        arrays = {"theta": self.theta, "pi": self.pi, "tau": np.array([self._now]), "squares": self._squares}
        for name, adam in self._adam.items():
            arrays |= {f"{name}.mean": adam.mean, f"{name}.square": adam.square, f"{name}.step": np.array([adam.step])}
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.theta, self.pi = tensors["theta"].numpy().copy(), tensors["pi"].numpy().copy()
        self._now, self._squares = float(tensors["tau"][0]), tensors["squares"].numpy().copy()
        for name, adam in self._adam.items():
            adam.mean, adam.square = tensors[f"{name}.mean"].numpy().copy(), tensors[f"{name}.square"].numpy().copy()
            adam.step = int(tensors[f"{name}.step"][0])

    def summary(self) -> dict[str, Any]:
        """Temperature, entropy of the sites' choices, weights of the proposals."""
        return {
            "tau": self._now,
            "entropy": entropy(self.theta[[self.best]], self.options, self._now),
            "proposals": [round(float(w), 4) for w in self._weights()],
        }

    def _weights(self) -> np.ndarray:
        """The proposals' probabilities: [m]."""
        weights = np.exp((self.pi - self.pi.max()) / self._now)
        return weights / weights.sum()


def _numpy(gradient: Tensor | None, like: np.ndarray) -> np.ndarray:
    return np.zeros_like(like) if gradient is None else gradient.double().numpy()

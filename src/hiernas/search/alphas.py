"""Differentiable search: logits for the options of every site, learned by gradients through softmax gates.

First order, as DARTS' (arXiv 1806.09055, with xi = 0): by turns one step of the logits on the validation loss and one
of the weights on the training loss. In the step of the logits no gradients of weights are computed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor, nn

from hiernas.budget import Budget, Limit, Tables
from hiernas.data.split import Split
from hiernas.errors import Settings
from hiernas.gates import Gates, frozen, softmax
from hiernas.space import SearchSpace

COLLAPSED = 0.6  # share of identities, or of `none`, from which a search is said to have collapsed
INITIAL = 1e-3  # standard deviation of fresh logits, as in DARTS
Logits = Sequence[Tensor]
Extra = Callable[[Sequence[Tensor]], Tensor]  # a further loss of the logits, a scalar


@dataclass(frozen=True)
class AlphaSettings(Settings):
    """Adam for the logits; the defaults are DARTS'."""

    lr: PositiveFloat = 3e-4  # learning rate of the logits
    betas: tuple[float, float] = (0.5, 0.999)  # Adam's decays of its two averages
    weight_decay: float = 1e-3  # of the logits


class Encoding(Protocol):
    """What logits mean: alphas, of the options of each site, and where there are any betas, of the edges into a node."""

    @property
    def space(self) -> SearchSpace: ...
    def fresh_betas(self, scale: float, generator: torch.Generator) -> list[Tensor]: ...
    def gates(self, alphas: Logits, betas: Logits) -> Gates: ...
    def strengths(self, alphas: Logits, betas: Logits) -> list[np.ndarray]:
        """What a derivation by rule goes by: the weight of each option of each site, 0 for `none`."""

    def decided(self, alphas: Logits, betas: Logits) -> list[Tensor]:
        """The logits of all that is decided, one tensor for each decision."""

    def summary(self, alphas: Logits, betas: Logits, chosen: dict[str, str]) -> dict[str, Any]:
        """What an epoch's event says of the logits, and of the network as it stands, `chosen`."""


class Softmax:
    """DARTS' encoding: an option weighs the softmax of its site's logits; `none` is one of them."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def fresh_betas(self, scale: float, generator: torch.Generator) -> list[Tensor]:
        return []  # edges are compared by their operations

    def gates(self, alphas: Logits, betas: Logits) -> Gates:
        return softmax(alphas)

    def strengths(self, alphas: Logits, betas: Logits) -> list[np.ndarray]:
        return strengths(self.space, alphas)

    def decided(self, alphas: Logits, betas: Logits) -> list[Tensor]:
        return list(alphas)

    def summary(self, alphas: Logits, betas: Logits, chosen: dict[str, str]) -> dict[str, Any]:
        """Mean entropy of the sites, and the mean share of `none`."""
        p = [a.detach().softmax(0) for a in alphas]
        none = [float(q[d.options.index("none")]) for d, q in zip(self.space.decisions, p, strict=True) if "none" in d.options]
        return {"entropy": mean_entropy(p), "none": sum(none) / max(1, len(none))}


class AlphaArchitect:
    """The logits of a space's sites under training; see `hiernas.problem.Architect`."""

    alternation: Literal["epoch", "step"] = "step"

    def __init__(
        self, encoding: Encoding, images: Split, settings: AlphaSettings, generator: torch.Generator,
        extra: Extra | None = None, apart: Extra | None = None, warmup: float = 0.0,
    ) -> None:  # fmt: skip
        """`extra`: a loss beside the task's. `apart`: one that takes a step of its own after the task's. `warmup`: share of
        the phase, at its beginning, in which the logits stay as they are."""
        self.encoding, self.space, self.images = encoding, encoding.space, images
        self.extra, self.apart, self.warmup = extra, apart, warmup
        self.alphas = [INITIAL * torch.randn(len(d.options), generator=generator) for d in self.space.decisions]
        self.betas = encoding.fresh_betas(INITIAL, generator)
        self._named = {f"{kind}{i}": x for kind in ("alpha", "beta") for i, x in enumerate(getattr(self, f"{kind}s"))}
        logits = [x.requires_grad_() for x in self._named.values()]
        self.optimizer = torch.optim.Adam(logits, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)
        self.optimizer.zero_grad(set_to_none=True)
        self._marked: dict[str, Tensor] = {}  # the logits of the best epoch, and its accuracy
        self.control: list[np.ndarray] | None = None  # strengths to go by in place of those of the logits

    def mark(self, accuracy: float) -> None:
        """Remember the logits as they are if no earlier ones reached this accuracy."""
        if not self._marked or accuracy > float(self._marked["accuracy"]):
            logits = {key: a.detach().clone() for key, a in self._named.items()}
            self._marked = {**logits, "accuracy": torch.tensor(accuracy, dtype=torch.float64)}

    def take_marked(self) -> None:
        """Go back to the logits that were remembered, if any were."""
        for key, a in self._named.items():
            a.data = self._marked.get(key, a.detach()).to(a.device)

    def to(self, device: torch.device) -> None:
        for a in self._named.values():
            a.data = a.data.to(device)
            for name, value in self.optimizer.state.get(a, {}).items():
                if name != "step":
                    self.optimizer.state[a][name] = value.to(device)

    def draw(self, rng: np.random.Generator, progress: float) -> Gates:
        with torch.no_grad():
            return self.gates()

    def gates(self) -> Gates:
        return self.encoding.gates(self.alphas, self.betas)

    def logits(self) -> list[Tensor]:
        """Of all that is decided."""
        return self.encoding.decided(self.alphas, self.betas)

    def strengths(self) -> list[np.ndarray]:
        """Those of the encoding, or the control's."""
        return self.control if self.control is not None else self.encoding.strengths(self.alphas, self.betas)

    def learn(
        self, model: nn.Module, x: Tensor, y: Tensor, backward: Callable[[Tensor], Any], rng: np.random.Generator,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """One step of the logits on images [B, C, H, W] and labels [B], after the warm-up; the weights get no gradients."""
        if progress < self.warmup:
            return torch.zeros((), device=x.device)
        with frozen(model):
            task = F.cross_entropy(model(x, self.gates()), y)
            loss = task if self.extra is None else task + self.extra(self.alphas)
            backward(loss)
        self._step()
        own = self.apart(self.alphas) if self.apart is not None else None
        if own is None or not own.requires_grad:  # none, or all of its weights are 0
            return loss.detach()
        backward(own)
        self._step()
        return loss.detach() + own.detach()

    def _step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Logits, Adam's state, and what was remembered."""
        found = {f"best.{key}": value.reshape(-1) for key, value in self._marked.items()}
        for key, a in self._named.items():
            found[key] = a.detach()
            for name, value in self.optimizer.state.get(a, {}).items():
                found[f"{key}.{name}"] = value.reshape(-1)
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        marked = {k.removeprefix("best."): v.clone() for k, v in tensors.items() if k.startswith("best.")}
        self._marked = marked | {k: v.reshape(()) for k, v in marked.items() if k == "accuracy"}
        for key, a in self._named.items():
            a.data = tensors[key].clone()
            prefix = f"{key}."
            state = {k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                state["step"] = state["step"].reshape(())
                self.optimizer.state[a] = state

    def summary(self) -> dict[str, Any]:
        """What the encoding says of its logits, the share of identities, the network as it stands, and whether to worry."""
        chosen = by_strength(self.space, self.strengths())
        kept = [option for option in chosen.values() if option != "none"]
        skips = sum(option == "skip_connect" for option in kept) / len(kept)
        of_logits = self.encoding.summary(self.alphas, self.betas, chosen)
        return {**of_logits, "skips": skips, "derived": chosen, "alarm": self._alarm(skips, of_logits["none"])}

    def _alarm(self, skips: float, none: float) -> str | None:
        """What to do where the search has collapsed; identities are no news between cells, whose edges have no others."""
        searches_cells = any("sep_conv_3x3" in d.options for d in self.space.decisions)
        if searches_cells and skips >= COLLAPSED:
            return (
                f"{skips:.0%} of the cells' edges are identities: the search has collapsed, as DARTS is known to; search "
                "for fewer epochs (--set search.epochs=...) or with a smaller learning rate of the logits "
                "(--set search.alpha.lr=...)"
            )
        if none >= COLLAPSED:
            return (
                f"'none' has {none:.0%} of the weight on average: little is computed any more; search for fewer epochs "
                "(--set search.epochs=...)"
            )
        return None


def mean_entropy(p: Sequence[Tensor]) -> float:
    """Of distributions, in nats."""
    return float(torch.stack([-(q * q.clamp_min(1e-12).log()).sum() for q in p]).mean())


def strengths(space: SearchSpace, alphas: Logits, raw: bool = False) -> list[np.ndarray]:
    """What the derivation goes by, per site: the options' softmax weights, and 0 for `none`.

    `raw`: the exponential of each logit, which is in the order of the logits across edges, too, as H-DAS' code has it.
    """
    found = []
    for decision, alpha in zip(space.decisions, alphas, strict=True):
        logits = alpha.detach().double()
        p = (logits.exp() if raw else logits.softmax(0)).cpu().numpy()
        found.append(np.array([0.0 if o == "none" else x for o, x in zip(decision.options, p, strict=True)]))
    return found


def rounded(space: SearchSpace, rows: Sequence[Any], but: str = "") -> dict[str, dict[str, float]]:
    """Numbers of the options of each site by name, as a result tells them; those of the option `but` left out."""
    return {
        d.name: {o: round(float(x), 4) for o, x in zip(d.options, row, strict=True) if o != but}
        for d, row in zip(space.decisions, rows, strict=True)
    }


def by_strength(space: SearchSpace, rows: Sequence[np.ndarray]) -> dict[str, str]:
    """DARTS' rule: of each node's edges the two whose best operation weighs most, with that operation.

    That is the architecture of the greatest sum of strengths (per site one number for each option, 0 for `none`); sites
    outside any node take their best option, and edges of a restricted space that cannot be `none` stay.
    """
    best = zip(space.decisions, rows, strict=True)
    chosen = {d.name: (d.options[int(row.argmax())], float(row.max())) for d, row in best}
    optional = {d.name for d in space.decisions if "none" in d.options}
    for group in space.skeleton.groups:
        order = sorted(group.sites, key=lambda site: (site in optional, -chosen[site][1]))  # stable: the first of equals
        for site in order[group.keep :]:
            chosen[site] = ("none", 0.0)
    return {site: option for site, (option, _) in chosen.items()}


# -- what limits ask of a search by gradients: the relative excess of expected costs, differentiable in what is learned ---


@dataclass(frozen=True)
class Pressure:
    """The sum over the limits of what costs exceed them by, relative to the bound; 0 inside."""

    tables: tuple[tuple[Limit, float, list[Tensor]], ...]  # limit, constant cost, and per site those of its options

    @classmethod
    def of(cls, tables: Tables, limits: Sequence[Limit], options: Sequence[Sequence[int]] | None = None) -> Self:
        """`options`: per site those that are looked at, by index; None: all."""
        found = []
        for limit in limits:
            rows = tables[limit.metric].sites
            kept = rows if options is None else [row[list(some)] for row, some in zip(rows, options, strict=True)]
            found.append((limit, tables[limit.metric].constant, [torch.from_numpy(row).float() for row in kept]))
        return cls(tuple(found))

    def __call__(self, shares: Sequence[Tensor], edges: Sequence[Tensor] | None = None) -> Tensor:
        """`shares`: per site how much of each option there is; `edges`: per site how much of it, where that is apart."""
        total = shares[0].new_zeros(())
        for limit, constant, rows in self.tables:
            terms = [(s * row.to(s.device)).sum() for s, row in zip(shares, rows, strict=True)]
            if edges is not None:
                terms = [edge * term for edge, term in zip(edges, terms, strict=True)]
            cost = torch.stack(terms).sum() + constant
            if math.isfinite(limit.high):
                total = total + F.relu(cost / limit.high - 1.0)
            if limit.low > 0:
                total = total + F.relu(1.0 - cost / limit.low)
        return total


def cost_penalty(space: SearchSpace, budget: Budget, weight: float) -> Extra:
    """weight * the relative excess of the expected costs over the upper limits; differentiable in the logits.

    Of each node's edges `keep` stay, shared out by the softmax of their strongest operations; an operation's share of
    its edge is its softmax weight among those other than `none`.
    """
    uppers = [Limit(m.metric, high=m.high) for m in budget.limits if math.isfinite(m.high)]
    pressure = Pressure.of(budget.tables(space), uppers)
    group_of = {site: group for group in space.skeleton.groups for site in group.sites}
    position = {d.name: i for i, d in enumerate(space.decisions)}
    real = [torch.tensor([o != "none" for o in d.options]) for d in space.decisions]

    def penalty(alphas: Sequence[Tensor]) -> Tensor:
        masks = [mask.to(a.device) for a, mask in zip(alphas, real, strict=True)]
        shares = [  # all 0 where a restricted space has left no option but `none`
            a.masked_fill(~mask, -torch.inf).softmax(0) if bool(mask.any()) else torch.zeros_like(a)
            for a, mask in zip(alphas, masks, strict=True)
        ]
        strongest = [a.masked_fill(~mask, -torch.inf).max() for a, mask in zip(alphas, masks, strict=True)]
        edges: list[Tensor] = []
        for decision, value in zip(space.decisions, strongest, strict=True):
            group = group_of.get(decision.name)
            if group is None:
                edges.append(torch.ones_like(value))
            else:
                among = torch.stack([strongest[position[site]] for site in group.sites])
                edges.append(group.keep * among.softmax(0)[group.sites.index(decision.name)])
        return weight * pressure(shares, edges)

    return penalty

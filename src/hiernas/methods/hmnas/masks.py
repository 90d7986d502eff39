"""Masks of HM-NAS (arXiv 1909.00122v2): on a trained supernet that stays as it is, which edges and operations remain.

Real-valued masks are binarised by a threshold, with a straight-through gradient (Piggyback, Mallya et al. 2018, arXiv
1801.06519). One level learns at a time: edges, then the operations of the edges that were kept, then, where wanted, the
output filters of these operations (`methods/hmnas/filter_masks.py`). The paper's first page
leaves the optimiser open. Ours divides the gradient of a level by one running root mean square (Adam would have one for
each mask, and under a common pressure of costs drop all of them in the same step), so that masks are dropped in the
order of how much they are pressed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiernas.data.split import Split
from hiernas.errors import ConfigError, Settings, TrainingError
from hiernas.gates import Gates, frozen, straight_through
from hiernas.methods.hmnas.encoding import Encoding
from hiernas.search.alphas import Pressure

Level = Literal["edges", "operations"]
MOMENTUM, DECAY = 0.9, 0.99  # of the masks' optimiser: of its steps, and of the mean square gradient
ROWS = 40  # of a level's history that are kept


@dataclass(frozen=True)
class MaskSettings(Settings):
    """How masks learn; initial value and threshold are Piggyback's."""

    edges_epochs: PositiveInt = 1  # over the images that the logits learned from
    operations_epochs: PositiveInt = 1  # of the masks on operations, after those on edges
    filters_epochs: PositiveInt = 1  # only with weights_level
    travel: PositiveFloat = 0.03  # how far the masks of a level could move over all its steps, by root mean square
    initial: float = 1e-2  # value of every mask before it learns
    threshold: float = 5e-3  # what is below it is masked out
    cost_weight: NonNegativeFloat = 1.0  # of the costs' relative excess over the limits
    filters: Annotated[float, Field(gt=0, le=1)] = 0.75  # with weights_level: share of filters that others make room for

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.initial > self.threshold:
            raise ConfigError(
                f"mask.initial={self.initial} must be above mask.threshold={self.threshold}: all is kept at first"
            )


class Masks(ABC):
    """Real-valued masks under training, beside weights that do not move: what the levels have in common.

    A level gives `pressure` and `decides`, and says what its masks do in `logits` and `kept`.
    """

    alternation: Literal["alone"] = "alone"
    pressure: Pressure
    decides: Tensor  # bool: which masks decide anything

    def __init__(self, number: int, settings: MaskSettings, steps: int) -> None:
        self.settings, self.lr = settings, settings.travel / steps
        self.mask = torch.full((number,), settings.initial).requires_grad_()
        self.velocity, self.square, self.step = torch.zeros_like(self.mask), 0.0, 0
        self.history: list[Tensor] = []

    @abstractmethod
    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        """What the masked network says of images [B, C, H, W], with the gradients of the masks: [B, classes]."""

    @abstractmethod
    def kept(self) -> list[Tensor]:
        """How much there is of what costs something, as the pressure's tables have it."""

    def to(self, device: torch.device) -> None:
        self.mask.data, self.velocity = self.mask.data.to(device), self.velocity.to(device)

    def learn(
        self, model: nn.Module, x: Tensor, y: Tensor, backward: Callable[[Tensor], Any], rng: np.random.Generator,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """One step of the masks on images [B, C, H, W] and labels [B]; the weights get no gradients."""
        with frozen(model):
            loss = F.cross_entropy(self.logits(model, x), y)
            backward(loss + self.settings.cost_weight * self.pressure(self.kept()))
        self._update()
        return loss.detach()

    @torch.no_grad()
    def _update(self) -> None:
        gradient = self.mask.grad
        assert gradient is not None  # the loss depends on all masks
        if not bool(torch.isfinite(gradient).all()):
            raise TrainingError(
                f"the loss on the masks' images has no finite gradient in step {self.step + 1}; start a new search with a "
                "smaller learning rate of the supernet (--set search.lr=...)"
            )
        self.step += 1
        self.square = DECAY * self.square + (1.0 - DECAY) * float(gradient[self.decides].square().mean())
        scale = math.sqrt(self.square / (1.0 - DECAY**self.step))
        if scale > 0:
            self.velocity.mul_(MOMENTUM).add_(gradient / scale, alpha=1.0 - MOMENTUM)
            self.mask.sub_(self.lr * self.velocity)
        self.mask.grad = None
        self.history.append(self.seen())

    def seen(self) -> Tensor:
        """What the history keeps of a step."""
        return self.mask.detach().cpu().clone()

    def tensors(self) -> dict[str, Tensor]:
        """Masks, the optimiser's state, and the history."""
        past = torch.stack(self.history) if self.history else torch.zeros(0, len(self.seen()))
        state = torch.tensor([self.square, float(self.step)], dtype=torch.float64)
        return {"mask": self.mask.detach(), "velocity": self.velocity, "state": state, "history": past}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.mask.data, self.velocity = tensors["mask"].clone(), tensors["velocity"].clone()
        self.square, self.step = float(tensors["state"][0]), int(tensors["state"][1])
        self.history = list(tensors["history"].clone())

    def rows(self) -> dict[int, Tensor]:
        """The history by step, from 1: at most `ROWS` of it, the last one included."""
        steps = sorted({round(i) for i in np.linspace(0, len(self.history) - 1, min(ROWS, len(self.history)))})
        return {i + 1: self.history[i] for i in steps}


class MaskArchitect(Masks):
    """The masks of one level under training; see `hiernas.problem.Architect`. The supernet's weights do not move.

    `logits`: the trained encoding (alphas, betas). `steps`: of this level. `edges`: of the level of operations, which
    edges were kept.
    """

    def __init__(
        self, encoding: Encoding, logits: tuple[Sequence[Tensor], Sequence[Tensor]], level: Level, images: Split,
        settings: MaskSettings, pressure: Pressure, steps: int, edges: Sequence[Tensor] | None = None,
    ) -> None:  # fmt: skip
        sizes = [len(n) for n in encoding.nodes] if level == "edges" else [len(o) for o in encoding.options]
        super().__init__(sum(sizes), settings, steps)
        self.encoding, self.level, self.images, self.pressure = encoding, level, images, pressure
        self.alphas, self.betas = ([x.detach().clone() for x in part] for part in logits)
        self.edges, self.sizes = edges, sizes
        self.present = self._present(edges)  # per site: whether its edge is there when this level begins
        of_sites = [torch.full((n,), level == "edges" or self.present[i]) for i, n in enumerate(sizes)]
        self.decides = torch.cat(of_sites)  # not those of operations of edges that were dropped: bool [masks]

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.alphas, self.betas = [x.to(device) for x in self.alphas], [x.to(device) for x in self.betas]
        self.edges = None if self.edges is None else [x.to(device) for x in self.edges]

    # -- what the masks say --------------------------------------------------------------------------------------

    def values(self) -> list[Tensor]:
        """The real-valued masks: per node those of its edges, or per site those of its operations."""
        return list(torch.split(self.mask, self.sizes))

    def binary(self) -> list[Tensor]:
        """0 or 1, with straight-through gradients. What a network cannot be without is 1: see `_held`."""
        masks = [straight_through(m, self.settings.threshold) for m in self.values()]
        return [torch.where(held, 1.0 + m - m.detach(), m) for m, held in zip(masks, self._held(), strict=True)]

    @torch.no_grad()
    def _held(self) -> list[Tensor]:
        """Edges that cannot be `none`, and the strongest of what must not be dropped as a whole."""
        values = self.values()
        held = [torch.zeros(len(m), dtype=torch.bool, device=m.device) for m in values]
        bundles = self.encoding.bundles(self.present)
        if self.level == "edges":
            bundles = [[k] for k in range(len(held))]
            for fixed, sites in zip(held, self.encoding.nodes, strict=True):
                fixed |= torch.tensor([not self.encoding.droppable[i] for i in sites], device=fixed.device)
        for rows in filter(None, bundles):
            if not any(bool(((values[i] > self.settings.threshold) | held[i]).any()) for i in rows):
                best = max(rows, key=lambda i: float(values[i].max()))
                held[best][int(values[best].argmax())] = True
        return held

    def kept_edges(self) -> list[Tensor]:
        """Of the level of edges: per node, 0 or 1 for each, as the level of operations finds them."""
        return [m.detach() for m in self.binary()]

    def shares(self) -> list[Tensor]:
        """Weights of all options, with the gradients of the masks."""
        binary = self.binary()
        if self.level == "edges":
            return self.encoding.shares(self.alphas, self.betas, edges=binary)
        return self.encoding.shares(self.alphas, self.betas, self.edges or None, binary)

    def kept(self) -> list[Tensor]:
        """Per site how much of each option is kept, for costs; of an edge, before its operations are chosen, one in all."""
        binary = self.binary()
        if self.level == "operations":
            return [m * float(there) for m, there in zip(binary, self.present, strict=True)]
        kept = self.encoding.of_operations(self.alphas)
        for sites, row in zip(self.encoding.nodes, binary, strict=True):
            for edge, i in zip(row, sites, strict=True):
                kept[i] = edge * kept[i]
        return kept

    def _present(self, edges: Sequence[Tensor] | None) -> list[bool]:
        there = [bool(options) for options in self.encoding.options]
        for sites, row in zip(self.encoding.nodes, edges, strict=True) if edges else ():
            for i, value in zip(sites, row, strict=True):
                there[i] = bool(value > 0)
        return there

    def gates(self) -> Gates:
        """Gates of all that this level decides about; operations of edges that were dropped are not computed."""
        return self.encoding.gates_of(self.shares(), self.present)

    # -- learning ------------------------------------------------------------------------------------------------

    def draw(self, rng: np.random.Generator, progress: float) -> Gates:
        with torch.no_grad():
            return self.gates()

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        return model(x, self.gates())

    # -- results -------------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """How many masks are above the threshold, of those that this level decides about."""
        kept = torch.cat(self.binary()).detach()[self.decides]
        excess = float(self.pressure(self.kept()).detach())
        return {"level": self.level, "kept": int(kept.sum()), "of": len(kept), "excess": round(excess, 4)}

    def record(self) -> dict[str, Any]:
        """The masks over time, as JSON; masks that decide nothing left out."""
        rows = {step: [round(float(v), 6) for v in row[self.decides]] for step, row in self.rows().items()}
        edges = ([self.encoding.space.decisions[i].name for i in sites] for sites in self.encoding.nodes)
        every = chain.from_iterable(edges if self.level == "edges" else self.encoding.pairs)
        names = [name for name, wanted in zip(every, self.decides, strict=True) if wanted]
        return {
            "names": names, "steps": list(rows), "values": list(rows.values()), "initial": self.settings.initial,
            "threshold": self.settings.threshold,
        }  # fmt: skip

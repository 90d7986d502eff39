"""The third level of HM-NAS' masks: output filters of the operations that were kept, in the network that they make.

Each operation has masks of its own: cells of one kind share their choices, not their weights. The limits on parameters and
multiply-adds are exact here, since each filter costs the same of them whatever else is kept. A latency table has no entry for
an operation with fewer filters, so a predicted latency stays that of whole operations. Time is hardly saved: to put the
channels back at their places takes about as long as the dropped filters did, in small operations longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.budget import Budget, CostTable, Limit
from hiernas.data.split import Split
from hiernas.errors import LimitError
from hiernas.gates import Gates
from hiernas.methods.hmnas.masks import Masks, MaskSettings
from hiernas.networks.filters import Output, masked, output_of, tails_of
from hiernas.search.alphas import Pressure
from hiernas.space import Architecture, Decision, SearchSpace

COUNTED = ("params", "macs")  # what filters cost
DRAWN = 60  # masks of a history, at most


# -- what edges and operations must make room for --------------------------------------------------------------------


def with_fewer_filters(tables: Mapping[str, CostTable], share: float) -> dict[str, CostTable]:
    """Tables in which of each operation's output filters only `share` costs anything, beside the one that always stays."""
    return {m: _fewer(table, 1.0 - share) if m in COUNTED else table for m, table in tables.items()}


def _fewer(table: CostTable, dropped: float) -> CostTable:
    fixed, options = table.space.skeleton.parts()
    known: dict[str, float] = {}

    def removable(parts: Sequence[Any]) -> float:
        for part in parts:
            if part.key not in known:
                output = output_of(part.build, part.input_size)
                known[part.key] = 0.0 if output is None else getattr(output, table.metric) * (output.channels - 1.0)
        return dropped * sum(known[part.key] for part in parts)

    of_cells = [part for part in fixed if "_conv_" in part.op.name]  # separable ones, of the cells of stage graphs
    rows = [
        row - np.array([removable(site[o]) for o in d.options])
        for row, d, site in zip(table.sites, table.space.decisions, options, strict=True)
    ]
    return replace(table, constant=table.constant - removable(of_cells), sites=tuple(rows))


# -- learning ----------------------------------------------------------------------------------------------------


class FilterArchitect(Masks):
    """Masks on the output filters of a network's operations under training; see `hiernas.problem.Architect`.

    `network`: whose weights stay as they are, with operations of these `outputs`; `full`: its cost. `steps`: of this level.
    """

    def __init__(
        self, network: nn.Module, outputs: Sequence[Output], full: Mapping[str, int], images: Split, settings: MaskSettings,
        limits: Sequence[Limit], steps: int,
    ) -> None:  # fmt: skip
        self.sizes = [output.channels for output in outputs]
        super().__init__(sum(self.sizes), settings, steps)
        self.outputs, self.full, self.images = outputs, full, images
        self.limits = [limit for limit in limits if limit.metric in COUNTED]
        tails = tails_of(network)
        self.norms = [tails[output.path].norm for output in outputs]
        self.owner = torch.repeat_interleave(torch.tensor(self.sizes))
        self.decides = torch.ones(len(self.mask), dtype=torch.bool)
        self.drawn = torch.linspace(0, len(self.mask) - 1, min(DRAWN, len(self.mask))).round().long()
        costs = {m: torch.tensor([float(getattr(output, m)) for output in outputs])[self.owner] for m in COUNTED}  # of each
        self.pressure = Pressure(tuple((m, self.rest(m.metric), [costs[m.metric]]) for m in self.limits))

    def rest(self, metric: str) -> float:
        """The network's cost but for all filters."""
        return float(self.full[metric] - sum(getattr(o, metric) * o.channels for o in self.outputs))

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.owner = self.owner.to(device)

    @torch.no_grad()
    def on(self) -> Tensor:
        """Which filters are kept: those above the threshold; of an operation without any the strongest. Bool [filters]."""
        lowest = torch.full((len(self.sizes),), -math.inf, dtype=self.mask.dtype, device=self.mask.device)
        strongest = lowest.scatter_reduce(0, self.owner, self.mask, "amax")[self.owner]
        return (self.mask > self.settings.threshold) | (self.mask == strongest) & (strongest <= self.settings.threshold)

    def binary(self) -> Tensor:
        """1 for a filter that is kept, else 0; backwards the identity, as in `gates.straight_through`."""
        return self.on().to(self.mask.dtype) + (self.mask - self.mask.detach())

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        with masked(self.norms, torch.split(self.binary(), self.sizes)):
            output = model(x)
        return output[0] if isinstance(output, tuple) else output  # without those of an auxiliary classifier

    def kept(self) -> list[Tensor]:
        return [self.binary()]

    def draw(self, rng: np.random.Generator, progress: float) -> Gates:
        """No gates: the network has no options left."""
        return Gates((), ())

    # -- results -------------------------------------------------------------------------------------------------

    def told(self, architecture: Architecture) -> dict[str, Any]:
        """How many filters a network keeps of how many, per operation; and of how many it differs from the masks. JSON."""
        kept = dict(architecture.filters)
        rows = {o.path: set(kept.get(o.path, range(o.channels))) for o in self.outputs}
        wanted = torch.split(self.on().cpu(), self.sizes)
        moved = sum(len(row ^ set(w.nonzero()[:, 0].tolist())) for row, w in zip(rows.values(), wanted, strict=True))
        return {"operations": {o.path: [len(rows[o.path]), o.channels] for o in self.outputs}, "moved": moved}

    def seen(self) -> Tensor:
        """Some of the masks, and the number of all that are kept."""
        drawn = self.mask.detach()[self.drawn.to(self.mask.device)]
        return torch.cat([drawn, self.on().sum().to(drawn.dtype).reshape(1)]).cpu()

    def summary(self) -> dict[str, Any]:
        kept = int(self.on().sum())
        excess = float(self.pressure(self.kept()).detach())
        return {"level": "filters", "kept": kept, "of": len(self.mask), "excess": round(excess, 4)}

    def record(self) -> dict[str, Any]:
        """Masks over time, as JSON: at most `DRAWN` of them, spread evenly, and the number of all that are kept."""
        rows = self.rows()
        paths = [output.path for output in self.outputs]
        first = np.cumsum([0, *self.sizes])
        names = [f"{paths[k]} {int(i) - int(first[k])}" for i, k in ((i, int(self.owner[i])) for i in self.drawn)]
        return {
            "names": names, "steps": list(rows), "values": [[round(float(v), 6) for v in row[:-1]] for row in rows.values()],
            "kept": [int(row[-1]) for row in rows.values()], "of": len(self.mask), "initial": self.settings.initial,
            "threshold": self.settings.threshold,
        }  # fmt: skip


# -- the exact choice --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Numbers:
    """Skeleton of the choice of how many filters each operation keeps: these sites depend on nothing else."""

    name: str
    groups: tuple[()] = ()


def filters_within(masks: FilterArchitect, architecture: Architecture, budget: Budget) -> Architecture:
    """The network with the filters that the masks keep, changed as little as the limits ask.

    Exact: of all choices with at least one filter of each operation that meet the limits on parameters and multiply-adds,
    the one with the greatest sum of (mask - threshold). Raises `LimitError` where no choice meets them.
    """
    flat = torch.split(masks.mask.detach().cpu() - masks.settings.threshold, masks.sizes)
    ranked = [torch.argsort(row, descending=True, stable=True).tolist() for row in flat]
    gains = [row[order].double().cumsum(0).numpy() for row, order in zip(flat, ranked, strict=True)]
    skeleton: Any = _Numbers(f"{architecture.skeleton.name} with fewer filters")
    numbers = [tuple(str(k) for k in range(1, n + 1)) for n in masks.sizes]
    space = SearchSpace(skeleton, tuple(Decision(o.path, n) for o, n in zip(masks.outputs, numbers, strict=True)))
    tables = {}
    for metric in COUNTED:
        rows = [getattr(o, metric) * np.arange(1.0, o.channels + 1.0) for o in masks.outputs]
        tables[metric] = CostTable(metric, masks.rest(metric), tuple(rows), space)
    try:
        genes = budget.within(masks.limits).by(lambda _: tables).best(space, gains)
    except LimitError as error:
        spans = [(m.metric, tables[m.metric]) for m in masks.limits]
        reach = " and ".join(f"{metric} from {table.smallest:,.0f} to {table.largest:,.0f}" for metric, table in spans)
        raise LimitError(
            "no choice of output filters of the operations that were kept meets "
            f"{' and '.join(map(str, masks.limits))}: they reach {reach}; search again with another --seed or --set "
            "mask.filters nearer to 1, or widen the limits"
        ) from error
    kept = [tuple(sorted(order[: int(g) + 1])) for order, g in zip(ranked, genes, strict=True)]
    pairs = zip(masks.outputs, kept, strict=True)
    return replace(architecture, filters=tuple((o.path, k) for o, k in pairs if len(k) < o.channels))

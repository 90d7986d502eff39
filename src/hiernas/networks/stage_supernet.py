"""The supernet of stage graphs: the weights of all options of all edges between cells, called with gates."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiernas.combinatorics import Decision
from hiernas.errors import SpaceError
from hiernas.gates import Gates
from hiernas.networks.cell_modules import sum_of
from hiernas.networks.cell_supernet import Edge, SiteGates, Source, edge_key, inherit_edges
from hiernas.networks.genotype import INPUTS
from hiernas.networks.parts import build_parts, live_nodes
from hiernas.space import Architecture, SearchSpace


class MixedStage(nn.Module):
    """One stage with all options of its edges; called with their gates. Dead cells are not computed."""

    def __init__(self, skeleton: Any, stage: int, decisions: Sequence[Decision]) -> None:
        super().__init__()
        p = skeleton.places()[stage]
        self.preprocess0, self.preprocess1 = p.preprocess.build(), p.preprocess.build()
        self.edges = nn.ModuleDict()
        for (source, node), decision in zip(skeleton.edges(stage), decisions, strict=False):
            modules = {o: p.part(skeleton.operation(o)).build() for o in decision.options if o != "none"}
            self.edges[f"{source}_{node}"] = Edge(modules, decision.options)
        self.cells = nn.ModuleDict({str(n): skeleton.build_cell(cell) for n, cell in enumerate(p.cells, INPUTS)})
        self.wiring = tuple(skeleton.edges(stage))
        numbers = decisions[len(self.wiring)].options if skeleton.least is not None else (str(len(self.cells)),)
        self.outputs = [skeleton.outputs(stage, int(n)) for n in numbers]  # by the number of cells

    def forward(self, x: Tensor, gates: Sequence[SiteGates]) -> Tensor:
        """[B, C, H, W] -> [B, 2 states, H, W]; the last gate, where there is one, is that of the number of cells."""
        active = dict(zip(self.wiring, gates, strict=False))
        indices, weights = gates[-1] if len(gates) > len(self.wiring) else ((0,), None)
        ends = [self.outputs[i] for i in indices]
        alive = live_nodes((e for e, gate in active.items() if self._computes(e, gate)), [n for pair in ends for n in pair])
        states = {0: Source(self.preprocess0(x)), 1: Source(self.preprocess1(x))}
        for node in (n for n in range(INPUTS, INPUTS + len(self.cells)) if n in alive):
            read = [(s, gate) for (s, n), gate in active.items() if n == node and self._computes((s, n), gate)]
            terms = [self.edges[f"{s}_{node}"](states[s], gate) for s, gate in read]
            total = sum_of(terms) if terms else torch.zeros_like(states[0].x)
            states[node] = Source(self.cells[str(node)](total, total))
        pairs = [torch.cat([states[node].x for node in pair], 1) for pair in ends]
        return pairs[0] if weights is None else sum_of([w * pair for w, pair in zip(weights, pairs, strict=True)])

    def _computes(self, edge: tuple[int, int], gate: SiteGates) -> bool:
        options: Any = self.edges[f"{edge[0]}_{edge[1]}"].options
        return any(options[i] != "none" for i in gate[0])


class StageSupernet(nn.Module):
    """The weights of a space of stage graphs; the architecture is an argument of the call."""

    def __init__(self, skeleton: Any, decisions: Sequence[Decision]) -> None:
        super().__init__()
        self.space = SearchSpace(skeleton, tuple(decisions))
        self.skeleton = skeleton
        self._spans = [skeleton.span(k) for k in range(len(skeleton.cells))]
        places = skeleton.places()
        self.stem = build_parts(skeleton.stem_parts())
        self.stages = nn.ModuleList(MixedStage(skeleton, k, decisions[span]) for k, span in enumerate(self._spans))
        self.reductions = nn.ModuleList(skeleton.build_cell(p.reduction) for p in places if p.reduction)
        self.classifier = skeleton.parts()[0][-1].build()

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """[B, C, H, W] and gates -> [B, classes]. Only options with a gate and live cells are computed."""
        pairs = list(zip(gates.indices, gates.weights, strict=True))
        x = self.stem(x)
        for k, (stage, span) in enumerate(zip(self.stages, self._spans, strict=True)):
            x = stage(x, pairs[span])
            if k < len(self.stages) - 1:
                x = self.reductions[k](x, x)
        return self.classifier(x)

    def path(self, architecture: Architecture) -> list[tuple[str, nn.Module]]:
        """The network an architecture runs through, as one step: what an evaluation in shared prefixes needs."""
        return [(str(architecture.choices), self.subnet(architecture))]

    def restrict(self, space: SearchSpace) -> StageSupernet:
        """A supernet of the smaller space that keeps the surviving weights (copied), with all that is not searched."""
        if space.skeleton != self.skeleton:
            raise SpaceError(f"a supernet of '{self.space.name}' cannot be restricted to '{space.name}'")
        smaller = copy.deepcopy(self)
        smaller.space = space
        stages: Any = smaller.stages
        for k, (stage, span) in enumerate(zip(stages, self._spans, strict=True)):
            for mine, theirs in zip(self.space.decisions[span], space.decisions[span], strict=True):
                kept = [mine.options[mine.index(option)] for option in theirs.options]
                if mine.name.endswith(".cells"):
                    stage.outputs = [self.skeleton.outputs(k, int(n)) for n in kept]
                else:
                    stage.edges[edge_key(mine.name)].restrict(kept)
        return smaller

    def subnet(self, architecture: Architecture) -> nn.Module:
        """The stand-alone network with inherited weights (copied). Its batch-norm statistics need re-estimation."""
        network: Any = architecture.build()
        stages: Any = self.stages
        for name in ("stem", "reductions", "classifier"):
            getattr(network, name).load_state_dict(getattr(self, name).state_dict())
        for k, (mine, theirs) in enumerate(zip(stages, network.stages, strict=True)):
            for name in ("preprocess0", "preprocess1"):
                getattr(theirs, name).load_state_dict(getattr(mine, name).state_dict())
            for node, cell in theirs.cells.items():
                cell.load_state_dict(mine.cells[node].state_dict())
            chosen, _ = self.skeleton.stage_choices(k, architecture.choices)
            inherit_edges(mine, theirs, {(s, n): c for (s, n), c in chosen.items() if f"{s}_{n}" in theirs.edges})
        return network

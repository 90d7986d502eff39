"""The plain formulation of a cell supernet: one module per edge and operation, every option computed by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiernas.networks.parts import live_nodes
from hiernas.networks.supernets import CellSupernet, StageSupernet


def plain_cells(supernet: CellSupernet, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """[B, C, H, W] and the weights of all options of all sites -> [B, classes]."""
    s0 = supernet.stem0(x)
    s1 = supernet.stem1(s0)
    kinds = list(dict.fromkeys(supernet.skeleton.kinds))
    for cell, kind in zip(supernet.cells, supernet.skeleton.kinds, strict=True):
        rows = iter(weights[14 * kinds.index(kind) : 14 * (kinds.index(kind) + 1)])
        states = [cell.preprocess0(s0), cell.preprocess1(s1)]
        for node in range(2, 6):
            terms = []
            for source in range(node):
                edge, row = cell.edges[f"{source}_{node}"], next(rows)
                terms += [w * edge.ops[o](states[source]) for o, w in zip(edge.options, row, strict=True) if o != "none"]
            states.append(sum(terms[1:], terms[0]))
        s0, s1 = s1, torch.cat(states[2:], 1)
    return supernet.classifier(s1)


def plain_stages(supernet: StageSupernet, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The same of a supernet of stage graphs."""
    x, rows = supernet.stem(x), iter(weights)
    for k, stage in enumerate(supernet.stages):
        mixed = {edge: next(rows) for edge in stage.wiring}
        numbers = next(rows) if supernet.skeleton.least is not None else torch.ones(1, dtype=x.dtype)
        alive = live_nodes(mixed, [n for pair in stage.outputs for n in pair])
        states = {0: stage.preprocess0(x), 1: stage.preprocess1(x)}
        for node in sorted(n for n in alive if n >= 2):
            terms = []
            for (source, n), row in mixed.items():
                edge = stage.edges[f"{source}_{n}"]
                if n == node:
                    terms += [w * edge.ops[o](states[source]) for o, w in zip(edge.options, row, strict=True) if o != "none"]
            total = sum(terms[1:], terms[0])
            states[node] = stage.cells[str(node)](total, total)
        x = sum(w * torch.cat([states[n] for n in pair], 1) for w, pair in zip(numbers, stage.outputs, strict=True))
        if k < len(supernet.reductions):
            x = supernet.reductions[k](x, x)
    return supernet.classifier(x)

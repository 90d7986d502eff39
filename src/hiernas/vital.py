"""The blocks of a space and of any network, and which of them are vital (HourNAS, arXiv 2005.14446v3, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hiernas.costs.tables import Count, counted
from hiernas.data.batches import in_order, normalise
from hiernas.data.split import ImageData, Split
from hiernas.errors import ConfigError, SpaceError
from hiernas.methods.hournas import vital_sites
from hiernas.networks.graph import Graph, Region, evaluating, graph_of_network, regions, within
from hiernas.randomness import numpy_generator
from hiernas.space import SearchSpace

PROBABILITIES = (0.3, 0.6, 1.0)  # the paper's p
DRAWS = 5  # for p < 1
BATCH = 250
Progress = Callable[[int, int], None]  # blocks done, of how many (in all batches)


@dataclass(frozen=True)
class Block:
    """One block, whether it is vital, and what it costs (in a space: its largest option)."""

    name: str
    vital: bool
    count: Count


# -- spaces ------------------------------------------------------------------------------------------------------


def blocks_of_space(space: SearchSpace) -> list[Block]:
    """All blocks of a chain space, those that every network has included."""
    vital, (fixed, options) = set(vital_sites(space)), space.skeleton.parts()
    searched = []
    for decision, parts in zip(space.decisions, options, strict=True):
        largest = max((counted(part) for o in decision.options for part in parts[o]), key=lambda c: (c.params, c.macs))
        searched.append(Block(decision.name, decision.name in vital, largest))
    around = [Block(part.name, True, counted(part)) for part in fixed]
    chain: Any = space.skeleton
    stem = len(chain.stem)
    return [*around[:stem], *searched, *around[stem:]]


# -- any network -------------------------------------------------------------------------------------------------


def blocks_of_network(network: nn.Module, input_size: tuple[int, int, int]) -> list[Block]:
    """The blocks of any network that `torch.export` can trace, for images [C, H, W]; vital by its graph.

    Without a vital block no way is left from input to output: a block with a projection shortcut is vital, since no
    identity leads around it (footnote 2 of the paper). `hiernas.networks.graph.regions` says what is taken as a block.
    Raises `SpaceError` where the network cannot be traced.
    """
    return blocks_of_graph(graph_of_network(network, input_size))


def blocks_of_graph(graph: Graph) -> list[Block]:
    """The blocks of a network whose graph was read."""
    return [block_of(graph, region) for region in regions(graph)]


def block_of(graph: Graph, region: Region) -> Block:
    """The block of a region of a network's graph."""
    return Block(region.name, not graph.passes(region.layers), Count(*graph.count(region)))


@dataclass(frozen=True)
class Reset:
    """What became of the accuracy when channels of one block were set to zero."""

    block: Block
    branch: bool  # whether it was the residual branch, beside an identity, or else the block's whole output
    accuracies: Mapping[float, tuple[float, ...]]  # by probability, of each draw


def reset_blocks(
    network: nn.Module, split: Split, data: ImageData, *, seed: int, probabilities: Sequence[float] = PROBABILITIES,
    draws: int = DRAWS, progress: Progress | None = None,
) -> list[Reset]:  # fmt: skip
    """Reset every block of a network in turn, and take its accuracy on the split's images each time.

    A draw is a number in 0..1 per channel, and channels whose number is below p are reset, for all images. The draws
    are the same for every p, so that a larger p resets the same channels and more; for p = 1 there is one.
    Raises `ConfigError` for other probabilities, and `SpaceError` where a block's output is not that of a module.
    """
    if draws < 1 or not all(0 < p <= 1 for p in probabilities):
        raise ConfigError(f"draws={draws}, probabilities={list(probabilities)}: at least one draw, p above 0 and at most 1")
    graph = graph_of_network(network, data.input_size)
    cases = [(p, draw) for p in probabilities for draw in range(draws if p < 1 else 1)]
    plan = [(region, output_modules(graph, region)) for region in regions(graph)]
    correct = torch.zeros(len(plan), len(cases), dtype=torch.int64)
    batches = in_order(len(split), BATCH)
    with torch.no_grad(), evaluating(network):
        for done, indices in enumerate(batches):
            x = normalise(split.images.fetch(indices), data, next(network.parameters()).device)
            for i, hits in enumerate(_hits(network, x, split.labels[indices].to(x.device), plan, cases, seed), 1):
                correct[i - 1] += hits
                if progress is not None:
                    progress(done * len(plan) + i, len(batches) * len(plan))
    found = []
    for (region, _), hits in zip(plan, correct.tolist(), strict=True):
        shares = {p: tuple(n / len(split) for n, (q, _) in zip(hits, cases, strict=True) if q == p) for p in probabilities}
        found.append(Reset(block_of(graph, region), bool(graph.branch_ends(region)), shares))
    return found


def _hits(
    network: nn.Module, x: Tensor, labels: Tensor, plan: Sequence[tuple[Region, list[str]]],
    cases: Sequence[tuple[float, int]], seed: int,
) -> Iterator[Tensor]:  # fmt: skip
    """Per block the numbers of images [cases] that are classified rightly; a case is a probability and a draw."""
    names, position, behind = list(dict(network.named_children())), 0, network
    for region, outputs in plan:
        if type(network) is nn.Sequential:  # what comes before a block does not depend on it: once for all cases
            at = names.index(region.paths[0].partition(".")[0])
            x, behind, position = network[position:at](x), network[at:], at
        hits = []
        for p, draw in cases:
            with ExitStack() as hooks:
                for name in outputs:
                    hook = partial(_zero, p, (seed, "reset", region.name, draw, name))
                    hooks.enter_context(network.get_submodule(name).register_forward_hook(hook))
                hits.append((behind(x.clone()).argmax(1) == labels).sum())
        yield torch.stack(hits).cpu()


def output_modules(graph: Graph, region: Region) -> list[str]:
    """The modules whose outputs are y = F(x) of a block: that of its residual branch, or its own."""
    ends = graph.branch_ends(region)
    if not ends:
        module = region.paths[-1]
        if module not in graph.kinds:
            raise SpaceError(f"'{module}' is no module that is called, so it has no output to reset; make it one")
        return [module]
    modules = [graph.calls[end].module for end in ends]
    for module, end in zip(modules, ends, strict=True):
        if not module or any(within(c.module, module) for c in graph.calls.values() if end in c.sources):
            raise SpaceError(
                f"the residual branch of '{region.name}' ends within the forward function of "
                f"{graph.kinds.get(module, 'the network')}, where it cannot be reset; make the branch's last operation a module"
            )
    return list(dict.fromkeys(modules))


def _zero(p: float, purpose: tuple[Any, ...], module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """What becomes of a module's output: channels are zero that are drawn for this purpose, the same each time."""
    dim = 1 if output.ndim == 4 else output.ndim - 1  # [B, C, H, W]; [B, C], and sequences [B, N, C]
    drawn = torch.from_numpy(numpy_generator(*purpose).random(output.shape[dim]) < p).to(output.device)
    return output.masked_fill(drawn[:, None, None] if output.ndim == 4 else drawn, 0.0)

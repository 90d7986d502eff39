"""The blocks of a space and of any network, and which of them are vital (HourNAS, arXiv 2005.14446v3, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hiernas.costs.count import Count, parts_of
from hiernas.costs.tables import counted
from hiernas.data.batches import in_order, normalise
from hiernas.data.split import ImageData, Split
from hiernas.errors import ConfigError, SpaceError
from hiernas.methods.hournas.vital import vital_sites
from hiernas.networks.graph import Graph, Region, evaluating, graph_of_network, regions
from hiernas.randomness import numpy_generator
from hiernas.space import SearchSpace

PROBABILITIES = (0.3, 0.6, 1.0)  # the paper's p
DRAWS = 5  # for p < 1
BATCH = 250
Case = tuple[float, int]  # probability and draw
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
    vital, (fixed, options) = set(vital_sites(space)), parts_of(space.skeleton)
    searched = []
    for decision, parts in zip(space.decisions, options, strict=True):
        largest = max((counted(part) for o in decision.options for part in parts[o]), key=lambda c: (c.params, c.macs))
        searched.append(Block(decision.name, decision.name in vital, largest))
    around = [Block(part.site.name, True, counted(part)) for part in fixed]
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
    blocks = regions(graph)
    cases = [(p, draw) for p in probabilities for draw in range(draws if p < 1 else 1)]
    plan = [(region, output_modules(graph, region)) for region in blocks]
    correct = torch.zeros(len(blocks), len(cases), dtype=torch.int64)
    batches = in_order(len(split), BATCH)
    with torch.no_grad(), evaluating(network):
        for done, indices in enumerate(batches):
            x = normalise(split.images.fetch(indices), data, next(network.parameters()).device)
            for i, hits in enumerate(_hits(network, x, split.labels[indices].to(x.device), plan, cases, seed), 1):
                correct[i - 1] += hits
                if progress is not None:
                    progress(done * len(blocks) + i, len(batches) * len(blocks))
    return [_result(graph, *each, cases, len(split)) for each in zip(blocks, correct, strict=True)]


def _result(graph: Graph, region: Region, correct: Tensor, cases: Sequence[Case], images: int) -> Reset:
    accuracies: dict[float, list[float]] = {}
    for (p, _), hits in zip(cases, correct.tolist(), strict=True):
        accuracies.setdefault(p, []).append(hits / images)
    return Reset(block_of(graph, region), bool(graph.branch_ends(region)), {p: tuple(each) for p, each in accuracies.items()})


def _hits(
    network: nn.Module, x: Tensor, labels: Tensor, plan: Sequence[tuple[Region, list[str]]], cases: Sequence[Case], seed: int
) -> Iterator[Tensor]:
    """Per block the numbers of images [cases] that are classified rightly."""
    for (before, behind), (region, outputs) in zip(_cut(network, [r for r, _ in plan]), plan, strict=True):
        x = before(x)  # once for all cases: what comes before a block does not depend on it
        hits = []
        for p, draw in cases:
            with _resetting(network, outputs, p, (seed, "reset", region.name, draw)):
                hits.append((behind(x.clone()).argmax(1) == labels).sum())
        yield torch.stack(hits).cpu()


def _cut(network: nn.Module, blocks: Sequence[Region]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Per block what lies between the block before and it, and the network from it on; in a sequence of modules.

    Any other network is run as a whole each time.
    """
    names, position = list(dict(network.named_children())), 0
    for region in blocks:
        if type(network) is not nn.Sequential:
            yield nn.Identity(), network
            continue
        at = names.index(region.paths[0].partition(".")[0])
        yield network[position:at], network[at:]
        position = at


def output_modules(graph: Graph, region: Region) -> list[str]:
    """The modules whose outputs are y = F(x) of a block: that of its residual branch, or its own."""
    ends = graph.branch_ends(region)
    if not ends:
        module = region.paths[-1]
        if module not in graph.kinds:
            raise SpaceError(f"'{module}' is no module that is called, so it has no output to reset; make it one")
        return [module]
    return list(dict.fromkeys(_module_of(graph, region, end) for end in ends))


def _module_of(graph: Graph, region: Region, end: str) -> str:
    """The module whose output is the result of a call."""
    module = graph.calls[end].module
    users = [c for c in graph.calls.values() if end in c.sources]
    if not module or any(c.module == module or c.module.startswith(f"{module}.") for c in users):
        raise SpaceError(
            f"the residual branch of '{region.name}' ends within the forward function of "
            f"{graph.kinds.get(module, 'the network')}, where it cannot be reset; make the branch's last operation a module"
        )
    return module


@contextmanager
def _resetting(network: nn.Module, modules: Sequence[str], p: float, purpose: tuple[Any, ...]) -> Iterator[None]:
    with ExitStack() as stack:
        for name in modules:
            hook = _zeroing(p, (*purpose, name))
            stack.callback(network.get_submodule(name).register_forward_hook(hook).remove)
        yield


def _zeroing(p: float, purpose: tuple[Any, ...]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that sets the same channels of every output to zero."""

    def zero(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        dim = 1 if output.ndim in (2, 4) else output.ndim - 1  # [B, C], [B, C, H, W]; sequences are [B, N, C]
        numbers = numpy_generator(*purpose).random(output.shape[dim])
        shape = [1] * output.ndim
        shape[dim] = -1
        kept = torch.from_numpy(numbers >= p).to(output.device).reshape(shape)
        return output.masked_fill(~kept, 0.0)

    return zero

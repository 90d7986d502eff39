"""`hiernas vital`: which blocks of a network or a space are vital, and what becomes of the accuracy without each of them.

Vital is a block without which no way is left from input to output (HourNAS, arXiv 2005.14446v3, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hiernas.spaces
from hiernas.commands import Table, VitalOptions
from hiernas.commands.cost import architecture_file, architecture_of
from hiernas.costs.tables import Count, counted
from hiernas.data import in_order, normalise
from hiernas.data.split import ImageData, Split, Subset
from hiernas.errors import ConfigError, RunError, SpaceError, did_you_mean
from hiernas.methods.hournas import vital_sites
from hiernas.networks.archive import graph_of_file
from hiernas.networks.graph import Graph, Region, evaluating, graph_of_network, regions, within
from hiernas.randomness import numpy_generator
from hiernas.report import hournas, kit
from hiernas.report.page import write_report
from hiernas.run.folder import RunFolder, owned
from hiernas.run.request import reload_data
from hiernas.run.trained import load_network
from hiernas.space import Architecture, SearchSpace, Skeleton
from hiernas.spaces import KNOWN, space_function
from hiernas.train.loop import accuracy

Progress = Callable[[int, int], None]  # blocks done, of how many (in all batches)
IMAGES = 1000  # test images that a network with reset blocks is judged on, at most
PROBABILITIES = (0.3, 0.6, 1.0)  # the paper's p
DRAWS = 5  # for p < 1
BATCH = 250


# -- blocks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One block, whether it is vital, and what it costs (in a space: its largest option)."""

    name: str
    vital: bool
    count: Count


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


# -- listed ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """The blocks of a network or a space in order, and what is to be said of them."""

    title: str
    blocks: Sequence[Block]
    remarks: Sequence[str] = ()

    def total(self, vital: bool | None = None) -> Count:
        """The costs of the vital blocks, of the others, or of all."""
        counts = [b.count for b in self.blocks if vital is None or b.vital == vital]
        return Count(sum(c.params for c in counts), sum(c.macs for c in counts))

    def table(self) -> Table:
        """Blocks with their costs and shares of the whole, then the sums."""
        whole, no_row = self.total(), [""] * 6
        rows = [[b.name, "vital" if b.vital else "", *_shares(b.count, whole)] for b in self.blocks]
        sums = [("vital blocks", True), ("other blocks", False), ("all", None)]
        rows += [no_row, *([name, "", *_shares(self.total(vital), whole)] for name, vital in sums)]
        return ["block", "", "params", "", "MACs", ""], rows, ["", self.title, *self.remarks]


def _shares(part: Count, whole: Count) -> list[str]:
    pairs = ((part.params, whole.params), (part.macs, whole.macs))
    return [text for n, of in pairs for text in (f"{n:,}", f"{n / max(of, 1):.1%}")]


def listing(asked: VitalOptions) -> Listing:
    """The blocks of what is asked for. Raises `SpaceError`, `RunError` or `ConfigError` with what is wrong."""
    name, path = asked.source, Path(asked.source)
    if path.suffix == ".pt2":
        asked.none_given("image size and layers", "names of spaces and networks")
        return Listing(f"{path}: an exported program", blocks_of_graph(graph_of_file(path)))
    if not path.exists() and name in hiernas.spaces.NAMES:
        return _of_space(asked)
    if not path.exists() and name not in KNOWN and not path.suffix and len(path.parts) == 1:
        near = did_you_mean(name, [*hiernas.spaces.NAMES, *KNOWN])
        raise SpaceError(f"there is no space, network, file or run '{name}'; {near}")
    architecture = architecture_of(asked)
    skeleton: Any = architecture.skeleton
    blocks = named(blocks_of_network(architecture.build(), skeleton.input_size), architecture)
    sites = zip(skeleton.sites, architecture.choices, strict=True) if skeleton.searched == "blocks" else ()
    out = [s.name for s, choice in sites if len(choice) == 1 and type(s.build(choice[0][0])) is nn.Identity]
    remarks = (f"left out, since 'skip' was chosen: {', '.join(out)}",) if out else ()
    return Listing(f"{name}: a network of {skeleton.name} for {_images_of(skeleton)}", blocks, remarks)


def _images_of(skeleton: Skeleton) -> str:
    return f"images of {skeleton.input_size} in {skeleton.num_classes} classes"


def _of_space(asked: VitalOptions) -> Listing:
    given = {"input_size": asked.sizes, "num_classes": asked.num_classes}
    make = space_function(asked.source, asked.arguments)
    space = make(**{key: value for key, value in given.items() if value is not None}, **asked.arguments)
    remarks = ["a space: every block counts with its largest operation"]
    if asked.source in KNOWN:
        remarks.append(f"a published network has this name, too: `hiernas cost {asked.source}`")
    return Listing(f"{asked.source} for {_images_of(space.skeleton)}", blocks_of_space(space), remarks)


def named(blocks: Sequence[Block], architecture: Architecture) -> list[Block]:
    """The blocks of a chain network under the names of its sites; those of any other network as they are."""
    names: dict[str, str] = {}
    skeleton: Any = architecture.skeleton
    if skeleton.searched == "blocks":
        for part, sites in (("stem", skeleton.stem), ("head", skeleton.head)):
            names |= {f"{part}.{i}": site.name for i, site in enumerate(sites)}
        names |= {name.replace(".", "_"): name for name in skeleton.site_names}
    return [replace(block, name=names.get(block.name, block.name)) for block in blocks]


# -- without a block -------------------------------------------------------------------------------------------------


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


def reset(asked: VitalOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Reset channels of every block of a run's trained network in turn; what became of its test accuracy.

    Written to the run folder as vital.json and vital.svg, and to its report where it has one. Accuracies are shares of
    the test images, the same for every block; draws: see `reset_blocks`. Raises `RunError` where the run has no trained
    network.
    """
    if not Path(asked.source).is_dir():
        raise ConfigError(
            f"--reset takes a run folder, whose network is trained and whose test images are known, not {asked.source}"
        )
    draws, images, seed = asked.draws or DRAWS, asked.images or IMAGES, asked.seed or 0
    with owned(RunFolder.open(asked.source)) as run:
        path = run.path
        architecture = architecture_file(path)
        if not (path / "best.safetensors").is_file():
            raise RunError(f"{path} has no trained network yet; go on with `hiernas resume {path}`")
        network, _ = load_network(architecture, path / "best.safetensors")
        data = reload_data(run, None)
        chosen = torch.from_numpy(np.sort(numpy_generator(seed, "reset images").permutation(len(data.test))[:images]))
        split = Split(Subset(data.test.images, chosen), data.test.labels[chosen])
        found = reset_blocks(network, split, data, seed=seed, draws=draws, progress=progress)
        blocks = named([each.block for each in found], architecture)
        rows = [
            {
                "name": block.name, "vital": block.vital, "params": block.count.params, "macs": block.count.macs,
                "reset": "residual branch" if each.branch else "whole output",
                "accuracies": [list(each.accuracies[p]) for p in PROBABILITIES],
            }
            for block, each in zip(blocks, found, strict=True)
        ]  # fmt: skip
        whole = {"format": 1, "accuracy": accuracy(network, split, data), "images": len(split)}
        result = {**whole, "seed": seed, "draws": draws, "probabilities": list(PROBABILITIES), "blocks": rows}
        run.write_json("vital.json", result)
        run.write_text("vital.svg", kit.alone(hournas.reset(result)))
        if (path / "report.html").exists():
            write_report(run)
    return result


def reset_table(result: Mapping[str, Any], path: Path) -> Table:
    """Per block the accuracy lost in percentage points: the mean of the draws, the least and the most."""
    rows = []
    for block in result["blocks"]:
        lost = [[100 * (result["accuracy"] - a) for a in each] for each in block["accuracies"]]
        rows.append([block["name"], "vital" if block["vital"] else "", block["reset"].split()[-1], *map(_points, lost)])
    remarks = [
        f"accuracy {result['accuracy']:.2%} on {result['images']} test images; the table shows what is lost of it, in "
        "percentage points, when channels of one block are reset to 0, each with probability p: the mean over "
        f"{result['draws']} random draw{'s' if result['draws'] != 1 else ''} of channels (the least to the most); of a block "
        "with an identity around it the residual branch is reset, of any other its output",
        f"wrote {path / 'vital.svg'} and {path / 'vital.json'}",
    ]
    head = ["block", "", "reset", *(f"p = {p:g}" for p in result["probabilities"])]
    return head, rows, ["", *remarks]


def _points(lost: Sequence[float]) -> str:
    """'8.9 (1.4 to 17.8)', or one number alone; without the sign of a zero."""
    mean, least, most = (round(float(x), 1) + 0.0 for x in (np.mean(lost), min(lost), max(lost)))
    return f"{mean:.1f}" + (f" ({least:.1f} to {most:.1f})" if len(lost) > 1 else "")

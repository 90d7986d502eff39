"""`hiernas vital`: which blocks of a network or a space are vital, and what becomes of the accuracy without each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hiernas.spaces
from hiernas.commands.cost import architecture_file, architecture_of
from hiernas.commands.options import VitalOptions
from hiernas.costs.tables import Count
from hiernas.data.split import Split, Subset
from hiernas.errors import ConfigError, RunError, SpaceError, did_you_mean
from hiernas.networks.archive import graph_of_file
from hiernas.randomness import numpy_generator
from hiernas.report.hournas import reset_picture
from hiernas.report.page import write_report
from hiernas.run.folder import RunFolder, owned
from hiernas.run.request import reload_data
from hiernas.run.trained import load_network
from hiernas.space import Architecture, Skeleton
from hiernas.spaces import KNOWN, space_function
from hiernas.train.loop import accuracy
from hiernas.vital import (
    DRAWS,
    PROBABILITIES,
    Block,
    Progress,
    blocks_of_graph,
    blocks_of_network,
    blocks_of_space,
    reset_blocks,
)

Table = tuple[list[str], list[list[str]], list[str]]  # column heads, rows, and remarks below
IMAGES = 1000  # test images that a network with reset blocks is judged on, at most


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
        return _of_program(asked, path)
    if not path.exists() and name in hiernas.spaces.NAMES:
        return _of_space(asked)
    if not path.exists() and name not in KNOWN and not path.suffix and len(path.parts) == 1:
        near = did_you_mean(name, [*hiernas.spaces.NAMES, *KNOWN])
        raise SpaceError(f"there is no space, network, file or run '{name}'; {near}")
    architecture = architecture_of(asked)
    blocks = blocks_of_network(architecture.build(), architecture.skeleton.input_size)
    title = f"{name}: a network of {architecture.skeleton.name} for {_images_of(architecture.skeleton)}"
    return Listing(title, named(blocks, architecture), _left_out(architecture))


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


def _of_program(asked: VitalOptions, path: Path) -> Listing:
    if asked.sizes or asked.num_classes or asked.arguments:
        raise ConfigError(
            f"{path} says its own image size and layers; --input-size, --num-classes and --set are for names of spaces "
            "and networks"
        )
    return Listing(f"{path}: an exported program", blocks_of_graph(graph_of_file(path)))


def named(blocks: Sequence[Block], architecture: Architecture) -> list[Block]:
    """The blocks of a chain network under the names of its sites; those of any other network as they are."""
    names: dict[str, str] = {}
    skeleton: Any = architecture.skeleton
    if skeleton.searched == "blocks":
        for part, sites in (("stem", skeleton.stem), ("head", skeleton.head)):
            names |= {f"{part}.{i}": site.name for i, site in enumerate(sites)}
        names |= {name.replace(".", "_"): name for name in skeleton.site_names}
    return [replace(block, name=names.get(block.name, block.name)) for block in blocks]


def _left_out(architecture: Architecture) -> tuple[str, ...]:
    skeleton: Any = architecture.skeleton
    if skeleton.searched != "blocks":
        return ()
    sites = zip(skeleton.sites, architecture.choices, strict=True)
    out = [s.name for s, choice in sites if len(choice) == 1 and type(s.build(choice[0][0])) is nn.Identity]
    return (f"left out, since 'skip' was chosen: {', '.join(out)}",) if out else ()


# -- without a block -------------------------------------------------------------------------------------------------


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
    with owned(RunFolder.open(asked.source)) as run:
        return _reset(run, asked, progress)


def _reset(run: RunFolder, asked: VitalOptions, progress: Progress | None) -> dict[str, Any]:
    draws, images, seed, path = asked.draws or DRAWS, asked.images or IMAGES, asked.seed or 0, run.path
    architecture = architecture_file(path)
    if not (path / "best.safetensors").is_file():
        raise RunError(f"{path} has no trained network yet; go on with `hiernas resume {path}`")
    network, _ = load_network(architecture, path / "best.safetensors")
    data = reload_data(run, None)
    chosen = torch.from_numpy(np.sort(numpy_generator(seed, "reset images").permutation(len(data.test))[:images]))
    split = Split(Subset(data.test.images, chosen), data.test.labels[chosen])
    found = reset_blocks(network, split, data, seed=seed, draws=draws, progress=progress)
    blocks = named([each.block for each in found], architecture)
    result = {
        "format": 1,
        "accuracy": accuracy(network, split, data),
        "images": len(split),
        "seed": seed,
        "draws": draws,
        "probabilities": list(PROBABILITIES),
        "blocks": [
            {
                "name": block.name, "vital": block.vital, "params": block.count.params, "macs": block.count.macs,
                "reset": "residual branch" if each.branch else "whole output",
                "accuracies": [list(each.accuracies[p]) for p in PROBABILITIES],
            }
            for block, each in zip(blocks, found, strict=True)
        ],
    }  # fmt: skip
    run.write_json("vital.json", result)
    run.write_text("vital.svg", reset_picture(result))
    if (path / "report.html").exists():
        write_report(path)
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

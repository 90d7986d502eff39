"""HM-NAS against DARTS' rule from the same supernet on CIFAR-10, what masking costs, and the speed of what it finds.

    python benchmarks/hmnas.py [SEEDS] [FOLDER]     # all of it; half an hour per seed on one idle core
    python benchmarks/hmnas.py speed                # only the derived network against one written by hand
    python benchmarks/hmnas.py latency [SEEDS] [FOLDER]  # both within the same predicted latency, on digits
    python benchmarks/hmnas.py params [SEEDS] [FOLDER]   # both within the same number of parameters, on digits

FOLDER keeps the searches (`hiernas search hmnas --space darts --preset small`), so that a run that was cut off goes on.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import CIFAR10, ratio, side_by_side, write
from hiernas.errors import SpaceError
from hiernas.methods.hmnas.encoding import Encoding
from hiernas.randomness import numpy_generator
from hiernas.run.request import Request
from hiernas.run.search import resume, search
from hiernas.space import SearchSpace
from hiernas.spaces import darts
from hiernas.subsets import subsets

WAYS = {"untrained": "without training (validation)", "fine_tuned": "fine-tuned (test)", "from_scratch": "from scratch (test)"}
BATCH, TURNS = 32, 15
EPOCHS = 15  # of each training on digits
EQUAL = {"latency": "latency_ms", "params": "params"}  # what is equal on digits


# -- accuracy ----------------------------------------------------------------------------------------------------------


def searched(seed: int, folder: Path) -> dict[str, Any]:
    """result.json of one search, run to its end."""
    path = folder / f"seed{seed}"
    if (path / "config.yaml").exists():
        resume(path)
    else:
        search(Request("hmnas", "darts", data=str(CIFAR10), preset="small", seed=seed), path)
    return dict(json.loads((path / "result.json").read_text()))


def on_digits(what: str, seeds: int, folder: Path) -> None:
    """Masks and rule within one limit on what is equal, the median of two-edge networks; written by itself."""
    results = []
    for seed in range(seeds):
        path = folder / f"{what}{seed}"
        if (path / "config.yaml").exists():
            resume(path)
        else:
            settings = (f"objective={EQUAL[what]}", f"final_epochs={EPOCHS}")
            search(Request("hmnas", space_arguments={"cells": 3}, data="digits", settings=settings, seed=seed), path)
        results.append(json.loads((path / "result.json").read_text()))
    kinds = ("predicted", "measured") if what == "latency" else ("measured",)
    lines = [
        f"Digits, preset `quick`, three cells, trainings of {EPOCHS} epochs, {seeds} seeds; %, mean ± standard deviation;",
        f"latencies in ms, {' and '.join(kinds)} of the whole network (tenth percentile). Both within one limit:",
        "; ".join(" and ".join(limit["text"] for limit in r["limits"]) for r in results) + ".", "",
        f"| network | {' | '.join((*WAYS.values(), *kinds))} | params |", "|---" * (len(WAYS) + len(kinds) + 2) + "|",
    ]  # fmt: skip
    for i, name in enumerate(("masked", "two edges, one operation")):
        rows = [r["compared"][i] for r in results if len(r.get("compared") or ()) == 2]
        cells = [_spread([100 * row[way] for row in rows], 2) for way in WAYS]
        cells += [_spread([row["latency_ms"][kind] for row in rows], 3) for kind in kinds]
        lines.append(f"| {name} | {' | '.join(cells)} | {_spread([row['params'] / 1e3 for row in rows], 1)} k |")
    for seed, r in enumerate(results):
        lines.append(f"\nDoubts of seed {seed}: {'; '.join(r['doubts']) or 'none'}.")
    write(f"hmnas_{what}", f"HM-NAS: masks against DARTS' rule within one limit on {EQUAL[what]}", lines, f"hmnas.py {what}")


def accuracies(results: list[dict[str, Any]]) -> list[str]:
    """The comparison's table: mean, standard deviation and every seed."""
    lines = ["| network | " + " | ".join(WAYS.values()) + " | params | MACs |", "|---|---|---|---|---|---|"]
    for i, name in enumerate(("masked", "two edges, one operation")):
        rows = [result["compared"][i] for result in results]
        cells = [_spread([100 * row[way] for row in rows], 2) for way in WAYS]
        cells.append(_spread([row["params"] / 1e3 for row in rows], 1) + " k")
        cells.append(_spread([row["macs"] / 1e6 for row in rows], 2) + " M")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for way, words in WAYS.items():
        gaps = [100 * (result["compared"][0][way] - result["compared"][1][way]) for result in results]
        lines.append(f"\nMasked less rule, {words}, percentage points by seed: {', '.join(f'{gap:+.2f}' for gap in gaps)}.")
    shares = [(r["seconds"]["mask1"] + r["seconds"]["mask2"]) / r["seconds"]["train1"] for r in results]
    lines.append(f"\nMasks took {_spread([100 * s for s in shares], 1)} % of the supernet's training time (goal: 20 at most).")
    kept = [_kept(result) for result in results]
    return [*lines, "", f"Edges and operations kept, of 28 and 196, by seed: {', '.join(kept)}."]


def _spread(values: list[float], digits: int) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def _kept(result: dict[str, Any]) -> str:
    chosen = [c for c in result["chosen"]["sites"].values() if c != "none"]
    return f"{len(chosen)} and {sum(1 if isinstance(c, str) else len(c) for c in chosen)}"


# -- speed -------------------------------------------------------------------------------------------------------------


class ByHand(nn.Module):
    """The same operations, summed as one would write it down for this one network."""

    def __init__(self, network: Any, choices: list[dict[tuple[int, int], Any]]) -> None:
        super().__init__()
        self.stem0, self.stem1, self.classifier = network.stem0, network.stem1, network.classifier
        self.cells = nn.ModuleList(network.cells)
        self.edges = choices

    def forward(self, x: Tensor) -> Tensor:
        s0 = self.stem0(x)
        s1 = self.stem1(s0)
        for cell, edges in zip(self.cells, self.edges, strict=True):
            states = [cell.preprocess0(s0), cell.preprocess1(s1)]
            for node in range(2, 6):
                total: Any = 0.0
                for (source, target), weights in edges.items():
                    if target == node:
                        module = cell.edges[f"{source}_{node}"]
                        for weight, op in zip(weights, getattr(module, "ops", [module]), strict=True):
                            total = total + weight * op(states[source])
                states.append(total)
            s0, s1 = s1, torch.cat(states[2:], 1)
        return self.classifier(s1)


def speed() -> list[str]:
    """The derived network of a random set of edges and operations, against the same one by hand: ratios of times."""
    space = darts(channels=16, cells=8, pool_bn=True)
    pairs, rng = subsets(space), numpy_generator(0, "speed")
    drawn = (rng.random(len(pairs.decisions)) < 0.3 for _ in range(1000))  # about as many as masks keep
    genes = next(row for row in drawn if _is_network(pairs, row))
    encoding = Encoding(space)
    kept: list[Tensor] = [torch.zeros(len(options)) for options in encoding.options]
    for (i, option), gene in zip(pairs.skeleton.pairs, genes, strict=True):  # type: ignore[attr-defined] # Subsets
        kept[i][[space.decisions[i].options[o] for o in encoding.options[i]].index(option)] = float(gene)
    alphas = [torch.zeros(len(d.options)) for d in space.decisions]
    betas = [torch.zeros(len(sites)) for sites in encoding.nodes]
    architecture = encoding.architecture(encoding.shares(alphas, betas, None, kept))
    network: Any = architecture.build()
    skeleton: Any = space.skeleton
    choices = []
    for place in skeleton.places():
        of_kind = skeleton.cell_choices(place.kind, architecture.choices)
        choices.append({edge: [w for _, w in choice] for edge, choice in of_kind.items() if choice[0][0] != "none"})
    by_hand = ByHand(network, choices)
    x = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)  # both hold the same modules
    with torch.no_grad():
        difference = float((network.eval()(x) - by_hand.eval()(x)).abs().max())
    trained = side_by_side({"derived": lambda: _step(network, x), "by hand": lambda: _step(by_hand, x)}, TURNS)
    applied = side_by_side({"derived": lambda: _apply(network, x), "by hand": lambda: _apply(by_hand, x)}, TURNS)
    return [
        f"A network of {int(genes.sum())} pairs (DARTS' space, 8 cells, 16 channels, batch {BATCH}), derived over by hand, in",
        f"{TURNS} turns:", "", f"* training step: {ratio(trained['derived'], trained['by hand'])}",
        f"* forward pass: {ratio(applied['derived'], applied['by hand'])}",
        f"* largest difference of the outputs: {difference:.1e}",
    ]  # fmt: skip


def _is_network(space: SearchSpace, genes: np.ndarray) -> bool:
    try:
        space.decode(genes.astype(int))
    except SpaceError:  # a node without an edge
        return False
    return True


def _step(network: nn.Module, x: Tensor) -> None:
    network.train()
    F.cross_entropy(network(x), torch.zeros(len(x), dtype=torch.int64)).backward()
    network.zero_grad(set_to_none=True)


@torch.no_grad()
def _apply(network: nn.Module, x: Tensor) -> None:
    network.eval()(x)


def main() -> None:
    if sys.argv[1:] == ["speed"]:
        print("\n".join(speed()))
        return
    what = sys.argv[1] if sys.argv[1:] and sys.argv[1] in EQUAL else ""
    words = sys.argv[2:] if what else sys.argv[1:]
    seeds = int(words[0]) if words else 3
    folder = Path(words[1] if len(words) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    if what:
        on_digits(what, seeds, folder)
        return
    results = [searched(seed, folder) for seed in range(seeds)]
    limits = " and ".join(limit["text"] for limit in results[0]["limits"])
    lines = [
        "CIFAR-10, space `darts`, preset `small` (supernet on 6,000 images, 4 epochs; networks of 5 cells and 4 channels, one",
        f"epoch on all training images), limit {limits} for both, {seeds} seeds; in %, mean ± standard deviation.", "",
        *accuracies(results), "", *speed(),
    ]  # fmt: skip
    write("hmnas", "HM-NAS: masks against DARTS' rule", lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

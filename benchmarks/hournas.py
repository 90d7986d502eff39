"""What HourNAS costs: its proposals, and Gumbel-Max iterations against Gumbel-softmax and against plain networks.

    python benchmarks/hournas.py [THREADS ...]

An iteration is a step of the weights and a step of the architecture, as a search takes them. What is compared takes
turns in one process, with 1 thread and with 2 unless told otherwise; memory is that of processes of their own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import side_by_side, write
from hiernas import spaces
from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData, load_data, normalise
from hiernas.methods.hournas import PRESETS
from hiernas.methods.hournas.architect import ProposalArchitect, Sampling
from hiernas.methods.hournas.proposals import Targets, make_targets, optimise_proposals, spread
from hiernas.space import SearchSpace

PUBLISHED = {  # the targets of the paper's Table 1: parameters, MACs
    "fbnet": (4.8e6, 300e6), "fbnet_enlarged": (4.8e6, 300e6), "mnasnet": (3.9e6, 312e6), "efficientnet": (5.3e6, 390e6),
}  # fmt: skip
PAPER = PRESETS["paper"]
TAU = (PAPER.tau, PAPER.tau_end)
REPEATS = 20  # searches for proposals
ROUNDS, PATHS = 10, 6  # rounds of timing; sampled networks in each
BATCH = 32
MODES: tuple[Sampling, ...] = ("gumbel_max", "gumbel_softmax")


def said(values: Sequence[float] | np.ndarray, digits: int = 2) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


# -- proposals -------------------------------------------------------------------------------------------------------


def proposals(name: str, m: int = PAPER.proposals, beta: float = PAPER.beta) -> str:
    space = getattr(spaces, name)()
    tables = cost_tables(space, None)
    params, macs = PUBLISHED[name]
    targets = make_targets(space, tables, {"params": params, "macs": macs})
    seconds, within, different = [], [], []
    for seed in range(REPEATS):
        start = time.perf_counter()
        theta = optimise_proposals(targets, replace(PAPER, proposals=m, beta=beta), np.random.default_rng(seed))
        seconds.append(time.perf_counter() - start)
        within.append(100 * spread(space, tables, targets, theta, *TAU, seed)[-1]["within"])
        different.append(differing_sites(theta, targets))
    shown = f"{np.mean(within):.2f} (least {min(within):.2f})"
    return f"| `{name}` | {m} | {beta} | {said(seconds, 3)} | {shown} | {said(different, 1) if m > 1 else '-'} |"


def differing_sites(theta: np.ndarray, targets: Targets) -> float:
    """Mean number of sites at which the most probable networks of two proposals differ."""
    best = np.where(targets.options, theta, -np.inf).argmax(-1)  # [m, L]
    pairs = [(a != b).sum() for i, a in enumerate(best) for b in best[:i]]
    return float(np.mean(pairs)) if pairs else 0.0


# -- iterations ------------------------------------------------------------------------------------------------------


def images() -> ImageData:
    """Images of CIFAR's size; what they show does not matter for time."""
    pixels = torch.randint(0, 256, (400, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return load_data([(x, i % 10) for i, x in enumerate(pixels)])


class Search:
    """A supernet and eight proposals at one moment of a search; the steps are those of `fit` with an architect."""

    def __init__(self, space: SearchSpace, sampling: Sampling, progress: float) -> None:
        torch.manual_seed(0)
        self.space, self.progress, self.rng = space, progress, np.random.default_rng(0)
        self.supernet = space.supernet().to(memory_format=torch.channels_last)
        for m in self.supernet.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.ones_(m.weight)  # branches that are exactly 0 could be faster than trained ones
        self.optimizer = torch.optim.SGD(self.supernet.parameters(), lr=1e-3, momentum=0.9)
        data = images()
        self.x, self.y = normalise(data.train.images.fetch(torch.arange(BATCH)), data, "cpu"), data.train.labels[:BATCH]
        targets = middle(space)
        theta = optimise_proposals(targets, PAPER, self.rng)
        # a rate that leaves the proposals where they are, so that all rounds sample from the same
        config = replace(PAPER, architecture_lr=1e-9, sampling=sampling)
        self.architect = ProposalArchitect(theta, targets.options, data.train, config, targets)

    def weights_step(self, rng: np.random.Generator) -> None:
        train(self.supernet, self.optimizer, self.x, self.y, self.architect.draw(rng, self.progress))

    def architecture_step(self, rng: np.random.Generator) -> None:
        self.architect.learn(self.supernet, self.x, self.y, torch.Tensor.backward, rng, self.progress)

    def iterate(self) -> None:
        self.weights_step(self.rng)
        self.architecture_step(self.rng)


def middle(space: SearchSpace) -> Targets:
    tables = cost_tables(space, None)
    return make_targets(space, tables, {m: (tables[m].smallest + tables[m].largest) / 2 for m in ("params", "macs")})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, *gates: object) -> None:
    loss = F.cross_entropy(model(x, *gates), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def against_softmax(space: SearchSpace, progress: float) -> str:
    """One iteration with all options against one with Gumbel-Max; of the latter, the mean over a few sampled networks."""
    searches = {mode: Search(space, mode, progress) for mode in MODES}

    def some() -> None:
        for _ in range(PATHS):
            searches["gumbel_max"].iterate()

    seconds = side_by_side({"gumbel_softmax": searches["gumbel_softmax"].iterate, "gumbel_max": some}, ROUNDS, warmup=1)
    one, all_options = seconds["gumbel_max"] / PATHS, seconds["gumbel_softmax"]
    options = np.mean([len(d.options) for d in space.decisions])
    ratios = all_options / one
    return (
        f"| `{space.name}` | {options:.0f} | {'start' if progress == 0 else 'end'} | {said(one)} | {said(all_options)} | "
        f"{said(ratios)} | {0.7 * options:.1f} |"
    )


def against_plain(space: SearchSpace) -> list[str]:
    """The steps of an iteration against training steps of the plain networks that it samples."""
    search = Search(space, "gumbel_max", 0.0)
    seconds = [beside_plain(search, path) for path in range(PATHS)]
    ratios = {name: [np.median(s[name] / s["plain"]) for s in seconds] for name in ("weights", "architecture")}
    ratios["both"] = [np.median((s["weights"] + s["architecture"]) / (2 * s["plain"])) for s in seconds]
    return [f"| `{space.name}` | {name} | {said(values)} | {max(values):.2f} |" for name, values in ratios.items()]


def beside_plain(search: Search, path: int) -> dict[str, np.ndarray]:
    """Seconds of the steps through one sampled network, and of a training step of that network built plainly."""
    genes = [i for (i,) in search.architect.draw(np.random.default_rng(path), 0.0).indices]
    plain = search.supernet.subnet(search.space.decode(genes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-3, momentum=0.9)
    works = {
        "weights": lambda: search.weights_step(np.random.default_rng(path)),
        "architecture": lambda: search.architecture_step(np.random.default_rng(path)),
        "plain": lambda: train(plain, optimizer, search.x, search.y),
    }
    return side_by_side(works, ROUNDS)


# -- memory ----------------------------------------------------------------------------------------------------------


def saved_mib(search: Search, step: Callable[[np.random.Generator], None]) -> float:
    """MiB that a step keeps for its backward pass, each piece of memory once, without the weights."""
    weights = {t.untyped_storage().data_ptr() for t in search.supernet.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        step(search.rng)
    return sum(n for pointer, n in kept.items() if pointer not in weights) / 2**20


def memory(mode: Sampling) -> dict[str, float]:
    """Of this process, in MiB: what the steps keep, mean and most over sampled networks; the peak before all, and after."""
    search = Search(cifar_fbnet(), mode, 0.0)
    found, networks = {"before": peak_mib()}, 40 if mode == "gumbel_max" else 2
    for name, step in (("weights", search.weights_step), ("architecture", search.architecture_step)):
        kept = [saved_mib(search, step) for _ in range(networks)]
        found |= {name: float(np.mean(kept)), f"{name}, most": max(kept)}
    found["momentum"] = sum(s["momentum_buffer"].nbytes for s in search.optimizer.state.values()) / 2**20
    return found | {"peak": peak_mib()}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- all together ----------------------------------------------------------------------------------------------------


def cifar_fbnet() -> SearchSpace:
    return spaces.fbnet((3, 32, 32), 10)


def part(name: str, threads: int) -> Any:
    """What runs in a process of its own, by name."""
    torch.set_num_threads(threads)
    cifar = cifar_fbnet()
    if name == "proposals":
        return [*map(proposals, PUBLISHED), proposals("fbnet", beta=0.0), proposals("fbnet", m=1)]
    if name == "softmax":
        return [against_softmax(cifar, progress) for progress in (0.0, 1.0)]
    if name == "plain":
        return [row for space in (cifar, spaces.tiny((3, 32, 32), 10)) for row in against_plain(space)]
    return memory("gumbel_max" if name == "gumbel_max" else "gumbel_softmax")


def child(name: str, threads: int) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "65536"} if name in MODES else {}  # glibc: what is freed is given back
    command = [sys.executable, __file__, name, str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def proposal_lines() -> list[str]:
    return [
        f"Proposals for the targets of the paper's Table 1 at 224 pixels, {PAPER.proposal_iterations} iterations, 1 thread,",
        f"{REPEATS} seeds, and 10,000 samples at the final temperature. Goals for `fbnet`, m = 8: under 1 s, at least 95 %.",
        "", "| space | m | beta | s | % within 2 % of both targets | sites that differ |", "|---" * 6 + "|",
        *child("proposals", 1),
    ]  # fmt: skip


def iteration_lines(threads: int) -> list[str]:
    return [
        "", f"## {threads} thread{'s' if threads > 1 else ''}", "",
        f"An iteration at 32 pixels, batch {BATCH}: {ROUNDS} rounds of one by Gumbel-softmax and {PATHS} by Gumbel-Max, mean",
        "± standard deviation over rounds. Goal: 0.7 times the number of options.",
        "", "| space | options | moment | Gumbel-Max, s | Gumbel-softmax, s | ratio | goal |", "|---" * 7 + "|",
        *child("softmax", threads), "",
        f"Gumbel-Max steps over training steps of the plain networks that they sample: {PATHS} networks, of each the median of",
        f"{ROUNDS} rounds, mean ± standard deviation over the networks. Goal: at most 1.15.",
        "", "| space | step | ratio | worst network |", "|---" * 4 + "|", *child("plain", threads),
    ]  # fmt: skip


def memory_lines() -> list[str]:
    one, every = (child(mode, 1) for mode in MODES)
    growth = [x["peak"] - x["before"] for x in (one, every)]
    rows = [("kept for the backward pass, " + k, one[k], every[k]) for k in ("weights", "architecture")]
    rows += [("the same, largest network, " + k, one[f"{k}, most"], every[f"{k}, most"]) for k in ("weights", "architecture")]
    rows += [("momentum", one["momentum"], every["momentum"]), ("growth of the process's peak", *growth)]
    return [
        "", "## Memory", "", f"`fbnet` at 32 pixels, batch {BATCH}, in MiB; 40 sampled networks. Goal: a ratio of 6.3.",
        "", "| | Gumbel-Max | Gumbel-softmax | ratio |", "|---" * 4 + "|",
        *(f"| {name} | {a:.0f} | {b:.0f} | {f'{b / a:.1f}' if a else '-'} |" for name, a, b in rows),  # by score: nothing
    ]  # fmt: skip


def main(threads: Sequence[int]) -> None:
    load, lines = os.getloadavg()[0], proposal_lines()
    for n in threads:
        lines += iteration_lines(n)
    lines += memory_lines()
    lines += ["", f"Load before and after: {load:.1f} and {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."]
    write("hournas", "HourNAS: proposals, iterations, memory", lines)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].isdigit():
        print(json.dumps(part(sys.argv[1], int(sys.argv[2]))))
    else:
        main([int(n) for n in sys.argv[1:]] or [1, 2])

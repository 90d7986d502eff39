"""Validation accuracy of architectures with the supernet's weights, a population at a time.

Candidates are visited in the order of their paths, so that those which begin with the same operations compute
them once. Batch-norm statistics are re-estimated on training images for every path, in the same shared
manner. A candidate's accuracy does not depend on the company it is evaluated in. Activations are kept only
where a later candidate branches off, and statistics for one group of candidates; what comes out of the first few
operations is kept for later populations, too, as long as it takes little: memory does not grow with the population.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from hiernas import ranks
from hiernas.costs.tables import parts_of_space, taken_by
from hiernas.data import AT_ONCE, at_once, in_order, normalise
from hiernas.data.split import ImageData, Split
from hiernas.gates import Gates
from hiernas.networks.graph import evaluating
from hiernas.problem import Journal
from hiernas.randomness import numpy_generator
from hiernas.space import Architecture, SearchSpace
from hiernas.train.loop import accuracy, fit, make_fabric
from hiernas.train.recipes import Phase, Recipe

MOST_BYTES = 2 * 2**30  # of the activations of images that are looked at together
MOST_KEPT = 256 * 2**20  # bytes of the activations that later populations begin with
KEPT_DEPTH = 4  # modules that these have run through: the stem and three sites
FEW = 4  # architectures, that are looked at while a supernet is trained: nothing is kept of them
GROUP = 64  # candidates whose statistics are held at a time
Path = list[tuple[str, nn.Module]]  # modules in order, each with a name that is equal where the module is
Names = tuple[str, ...]  # of the modules up to and including the one at hand: what identifies a shared prefix
Norms = Mapping[int, Sequence[nn.BatchNorm2d]]  # by module id
Apply = Callable[[Names, nn.Module, Tensor], Tensor]


class Evaluator:
    """Accuracy of a supernet's architectures on the validation split: `evaluator(architectures) -> accuracies`.

    `supernet.path(architecture)`: the modules that an architecture runs through, a `Path`.
    """

    def __init__(
        self, supernet: Any, data: ImageData, fabric: Fabric, *, seed: int, calibration_images: int,
        batch_size: int | None = None,
    ) -> None:  # fmt: skip
        self.supernet, self.data, self.fabric = supernet, data, fabric
        self.batch_size = batch_size or at_once(data.input_size)
        self.calibration = calibration_indices(data, seed, calibration_images, self.batch_size)
        self._kept: dict[Names, list[Tensor]] = {}  # activations of the calibration's batches, and of the validation's
        self._new: dict[Names, list[Tensor]] = {}  # the same, under way
        self._weights: list[tuple[int, int]] = []  # places and versions of those that they were made with
        self._room = 0  # bytes for more of them
        self._writes: dict[int, bool] = {}  # by module id: whether it writes into its input

    def calibrate(self, network: nn.Module) -> None:
        """Re-estimate the batch-norm statistics of a network on the same training images, on the CPU."""
        calibrate(network, [x.cpu() for x in self.calibration_batches()])

    def accuracy(self, network: nn.Module) -> float:
        """Validation accuracy of a network that the supernet does not hold."""
        found = accuracy(network.to(self.fabric.device), self.data.val, self.data)
        network.cpu()
        return found

    @torch.no_grad()
    def __call__(self, architectures: Sequence[Architecture]) -> list[float]:
        """Accuracies in 0..1, in the order given; of several processes each looks at its part of the paths in their order."""
        self.supernet.to(self.fabric.device)
        weights = [(p.data_ptr(), p._version) for p in self.supernet.parameters()]
        if weights != self._weights:
            self._weights, self._kept, self._room = weights, {}, 0 if len(architectures) <= FEW else MOST_KEPT
        paths = [self.supernet.path(a) for a in architectures]
        order = sorted(range(len(paths)), key=lambda i: _names(paths[i]))
        own, correct = [paths[i] for i in ranks.part(order)], list[int]()
        for start in range(0, len(own), GROUP):
            correct += self._correct(own[start : start + GROUP])
        found = dict(zip(order, ranks.gather(correct), strict=True))
        return [found[i] / len(self.data.val) for i in range(len(paths))]

    def calibration_batches(self) -> Iterator[Tensor]:
        """The training images that statistics are estimated on, normalised: [B, C, H, W] each."""
        for indices in self.calibration:
            yield normalise(self.data.train.images.fetch(indices), self.data, self.fabric.device)

    def _correct(self, paths: list[Path]) -> list[int]:
        modules = {id(m): m for path in paths for _, m in path}.values()
        norms = {id(m): batch_norms(m) for m in modules}
        self._new, self._writes = {}, {}
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(observing(module))  # puts modes and the supernet's own statistics back at the end
            statistics = self._statistics(paths, norms)
            for module in modules:
                module.eval()
            correct = self._count(paths, norms, statistics)
        self._kept |= self._new
        return correct

    def _run(self, names: Names, module: nn.Module, x: Tensor) -> Tensor:
        """A module's output. `x` is read by others, too: one that writes into its input, such as a user's own, gets a copy."""
        if len(names) > 1 and id(module) not in self._writes:
            few = x[:2].clone()
            before, _ = few._version, module(few)
            self._writes[id(module)] = few._version != before
        return module(x.clone() if self._writes.get(id(module)) else x)

    def _keep(self, names: Names, y: Tensor, images: int) -> None:
        """Keep activations for later populations where there is room for those of all `images`."""
        size = y.nbytes // len(y) * images
        if names not in self._new and size <= self._room and len(names) <= KEPT_DEPTH:
            self._new[names], self._room = [], self._room - size
        if names in self._new:
            self._new[names].append(y)

    def _statistics(self, paths: list[Path], norms: Norms) -> dict[Names, Statistics]:
        totals: dict[Names, Statistics] = {}
        images = sum(len(b) for b in self.calibration) + len(self.data.val)

        def apply(names: Names, module: nn.Module, x: Tensor) -> Tensor:
            if names in self._kept:
                return self._kept[names][batch]
            y = self._run(names, module, x)
            totals[names] = add_statistics(totals.get(names), read_statistics(norms[id(module)]))
            self._keep(names, y, images)
            return y

        for batch, x in enumerate(self.calibration_batches()):  # noqa: B007 # apply reads it
            with self.fabric.autocast():
                for _ in shared_prefixes(paths, x, apply):
                    pass
        return {names: average(total, len(self.calibration)) for names, total in totals.items()}

    def _count(self, paths: list[Path], norms: Norms, statistics: dict[Names, Statistics]) -> list[int]:
        def apply(names: Names, module: nn.Module, x: Tensor) -> Tensor:
            if names in self._kept:
                return self._kept[names][batch]
            write_statistics(norms[id(module)], statistics[names])
            y = self._run(names, module, x)
            if names in self._new:
                self._new[names].append(y)
            return y

        correct = [0] * len(paths)
        for batch, indices in enumerate(in_order(len(self.data.val), self.batch_size), len(self.calibration)):  # noqa: B007
            x = normalise(self.data.val.images.fetch(indices), self.data, self.fabric.device)
            labels = self.data.val.labels[indices].to(self.fabric.device)
            with self.fabric.autocast():
                for i, logits in enumerate(shared_prefixes(paths, x, apply)):
                    correct[i] += int((logits.argmax(1) == labels).sum())
        return correct


def evaluation_bytes(space: SearchSpace) -> int:
    """The most activations that one image takes in an evaluation of a chain's networks, in bytes.

    What paths branch off from is kept behind every site, and the largest operation is at work.
    """
    fixed, options = parts_of_space(space)
    sites = [[part] for part in fixed] + [[p for parts in site for p in parts] for site in options]
    kept = sum(4 * max(math.prod(part.output_size) for part in site) for site in sites)
    return kept + max(taken_by(part).activations for site in sites for part in site)


def kept_bytes(space: SearchSpace, images: int) -> int:
    """The most activations of so many images that a chain's evaluations keep for later populations, in bytes."""
    fixed, options = parts_of_space(space)
    each, ways = math.prod(fixed[0].output_size), 1
    for site in options[: KEPT_DEPTH - 1]:
        each += sum(math.prod(parts[-1].output_size) for parts in site) * ways
        ways *= len(site)
    return min(MOST_KEPT, 4 * images * each)


def batch_for(space: SearchSpace) -> int:
    """Images of a chain's evaluation that are looked at together: 250, fewer where they would take more than 2 GiB."""
    return max(2, min(AT_ONCE, MOST_BYTES // evaluation_bytes(space)))


def calibration_indices(data: ImageData, seed: int, images: int, batch_size: int = AT_ONCE) -> list[Tensor]:
    """The training images that statistics are estimated on, in equal batches, so that each counts the same."""
    chosen = torch.from_numpy(numpy_generator(seed, "calibration").permutation(len(data.train))[:images])
    return [chosen[b] for b in in_order(len(chosen), batch_size) if len(b) == min(batch_size, len(chosen))]


def shared_prefixes(paths: Sequence[Path], x: Tensor, apply: Apply) -> Iterator[Tensor]:
    """The output of each path for `x`, in order; paths must be sorted by names. Common beginnings run once."""
    names = [_names(path) for path in paths]
    common = [0] + [_common(a, b) for a, b in pairwise(names)]  # with the path before
    kept = {0: x}  # activations by depth, where this or a later path branches off
    for i, path in enumerate(paths):
        h = kept[common[i]]
        branches = _branches(common[i + 1 :])
        kept = {depth: a for depth, a in kept.items() if depth in branches}
        for depth in range(common[i], len(path)):
            h = apply(names[i][: depth + 1], path[depth][1], h)
            if depth + 1 in branches:
                kept[depth + 1] = h
        yield h


def _branches(common: Sequence[int]) -> list[int]:
    """Depths at which later paths leave the current one, given what each shares with the path before it."""
    depths: list[int] = []
    for shared in common:
        if not depths or shared < depths[-1]:
            depths.append(shared)
    return depths


def _names(path: Path) -> Names:
    return tuple(name for name, _ in path)


def _common(a: Names, b: Names) -> int:
    return next((i for i, (p, q) in enumerate(zip(a, b, strict=True)) if p != q), len(a))


Statistics = list[tuple[Tensor, Tensor]]  # running mean and variance of each batch norm of a module, in order


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


@contextmanager
def observing(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms normalise by the batch at hand and their statistics become exactly that batch's.

    Everything else (dropout) is in evaluation mode. The statistics and modes found before are put back.
    """
    norms = batch_norms(module)
    before = [(n.running_mean, n.running_var, n.momentum, n.num_batches_tracked) for n in norms]
    with evaluating(module):
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
            norm.running_mean, norm.running_var = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)  # type: ignore[arg-type] # tracked: not None
            norm.num_batches_tracked = norm.num_batches_tracked.clone()  # type: ignore[union-attr]
        try:
            yield
        finally:
            for norm, (mean, var, momentum, batches) in zip(norms, before, strict=True):
                norm.running_mean, norm.running_var, norm.momentum, norm.num_batches_tracked = mean, var, momentum, batches


def read_statistics(norms: Sequence[nn.BatchNorm2d]) -> Statistics:
    """Copies of the current statistics of batch norms."""
    return [(n.running_mean.clone(), n.running_var.clone()) for n in norms]  # type: ignore[union-attr] # tracked: not None


def add_statistics(total: Statistics | None, new: Statistics) -> Statistics:
    """Sums of statistics, to be averaged over batches."""
    if total is None:
        return new
    return [(m + n_m, v + n_v) for (m, v), (n_m, n_v) in zip(total, new, strict=True)]


def average(total: Statistics, batches: int) -> Statistics:
    return [(m / batches, v / batches) for m, v in total]


def write_statistics(norms: Sequence[nn.BatchNorm2d], statistics: Statistics) -> None:
    """Make batch norms use these statistics."""
    for norm, (mean, var) in zip(norms, statistics, strict=True):
        norm.running_mean, norm.running_var = mean, var


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimate a network's batch-norm statistics as the mean over batches [B, C, H, W] of each batch's own."""
    norms, count = batch_norms(network), 0
    total: Statistics | None = None
    with observing(network):
        for x in batches:
            network(x)
            total = add_statistics(total, read_statistics(norms))
            count += 1
        seen = [norm.num_batches_tracked for norm in norms]
    for norm, number in zip(norms, seen, strict=True):
        norm.num_batches_tracked = number
    if total is not None:
        write_statistics(norms, average(total, count))


# -- for a search ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunTrainer:
    """The trainer of a search (`hiernas.problem.Trainer`): by the training loop, on the data and in the folder of a run."""

    data: ImageData
    run: Journal
    seed: int

    def fit(self, model: nn.Module, images: Split, phase: Phase, recipe: Recipe, **how: Any) -> None:
        fit(model, images, self.data, phase, recipe, seed=self.seed, run=self.run, **how)

    def accuracy(self, model: nn.Module, images: Split, batch_size: int, gates: Gates) -> float:
        return accuracy(model, images, self.data, batch_size, gates)

    def evaluator(self, supernet: Any, recipe: Recipe, calibration_images: int, *, paths: bool = True) -> Evaluator:
        """See `hiernas.train.evaluate.Evaluator`; the beginnings that paths share take memory, and decide how many images."""
        batch = batch_for(supernet.space) if paths else None
        return Evaluator(
            supernet, self.data, make_fabric(recipe), seed=self.seed, calibration_images=calibration_images, batch_size=batch
        )

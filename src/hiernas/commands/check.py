"""`hiernas check`: what a search would face and cost, before anything is trained.

Time is measured on throw-away weights: a few training steps and evaluations on the real images, times the
number of them. Memory is weights, gradients and momentum plus the activations that the largest sampled
architecture keeps for its backward pass, counted as they are saved; or what is evaluated, or measured, at a time, where that
is more; and the images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiernas.commands.cost import cells_named
from hiernas.commands.options import CheckOptions, split_settings
from hiernas.costs.limits import feasible_share
from hiernas.costs.tables import cost_tables
from hiernas.data.batches import normalise
from hiernas.data.images import OnDemand
from hiernas.data.split import Split, Subset
from hiernas.gates import Gates, single_path, softmax
from hiernas.latency.measure import plan_of
from hiernas.latency.runtimes import RUNTIMES
from hiernas.methods import METHODS
from hiernas.randomness import numpy_generator
from hiernas.report import units
from hiernas.run.request import Prepared, Request
from hiernas.train.evaluate import Evaluator, batch_for, evaluation_bytes
from hiernas.train.loop import make_fabric
from hiernas.train.recipes import Recipe

STEPS = 6  # timed, after one that is not
TIMED_MACS = 3e9  # of one candidate's evaluation


@dataclass(frozen=True)
class Estimate:
    """What `check` reports. Costs are (smallest, typical, largest) by metric; typical is the median."""

    space_size: int
    costs: dict[str, tuple[float, float, float]]
    feasible_share: float
    supernet_params: int
    memory_gib: float
    seconds: dict[str, float]  # by phase, on this device as busy as it is now

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


def request_of(asked: CheckOptions) -> Request:
    """The search that is asked for. A mistake is named before anything is read."""
    of_space, settings = split_settings(asked.settings)
    if asked.cells is not None:
        of_space["cell"] = cells_named(asked.cells)
    request = Request(
        asked.method, asked.space, of_space, asked.data, asked.limit or (), asked.latency_table, asked.runtime, asked.threads,
        asked.preset, settings=settings, seed=asked.seed, image_size=asked.image_size, val_per_class=asked.val_per_class,
        skip_bad_images=asked.skip_bad_images,
    )  # fmt: skip
    request.resolved()
    return request


def shown(prepared: Prepared, e: Estimate) -> dict[str, str]:
    """What `hiernas check` says, by name."""
    data = prepared.data
    rows = {"space": f"{prepared.space.name}, {units.size(e.space_size)} architectures"}
    for metric, (smallest, typical, largest) in e.costs.items():
        values = (units.amount(metric, v) for v in (smallest, typical, largest))
        rows[metric] = "smallest {}, typical {}, largest {}".format(*values)
    rows["limits"] = ", ".join(map(str, prepared.limits)) + (" (the median: none was given)" * prepared.automatic_limit)
    rows["within the limits"] = f"{e.feasible_share:.1%} of the architectures (estimated from 10,000 in large spaces)"
    rows["data"] = f"{data.name}: {len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images of " + (
        f"{data.input_size} in {data.num_classes} classes"
    )
    rows |= {"note" + " " * i: note for i, note in enumerate(data.notes)}
    if prepared.fitted:
        rows["for so few images"] = prepared.fitted
    rows |= {"doubtful" + " " * i: doubt for i, doubt in enumerate(prepared.doubts)}
    if METHODS[prepared.method].control != "unsearched":
        rows["supernet"] = f"{e.supernet_params:,} parameters"
    rows["memory"] = f"about {e.memory_gib:.2f} GiB"
    phases = ", ".join(f"{phase} {units.seconds(s)}" for phase, s in e.seconds.items())
    rows["time"] = f"about {units.seconds(e.total_seconds)} here: {phases}"
    return rows


def estimate(prepared: Prepared) -> Estimate:
    """Measure what is needed for the estimates; trains nothing that is kept."""
    space, config, method = prepared.space, prepared.config, METHODS[prepared.method]
    among = method.among(space)
    tables = cost_tables(among, prepared.latency)
    rng = numpy_generator(prepared.seed, "check")
    genes = among.sample_encoded(rng, 10_000)
    costs = {name: (table.smallest, float(np.median(table.of(genes))), table.largest) for name, table in tables.items()}
    recipe = config.search.train if hasattr(config, "search") else config.train  # a search in cells has one of its own
    searched = method.proxy(space, config)
    supernet: Any = searched.supernet()
    params = sum(p.numel() for p in supernet.parameters())
    if method.inherits:
        largest = single_path(genes[int(np.argmax(tables["macs"].of(genes)))])
        paths = [single_path(path) for path in genes[:STEPS]]
    else:
        largest = softmax([torch.zeros(len(d.options)) for d in searched.decisions])
        paths = [largest] * (STEPS // 3)
    image_seconds, activations = _training_step(supernet, prepared, paths, largest, recipe)
    candidate_seconds = _evaluation(supernet, prepared, genes) if method.inherits else 0.0  # cells are evaluated once
    training = 4 * (3 * params) + activations  # weights, gradients, momentum in 32 bits
    return Estimate(
        space_size=max(space.size(), among.size()),
        costs=costs,
        feasible_share=feasible_share(among, tables, prepared.limits, numpy_generator(prepared.seed, "share")),
        supernet_params=params,
        memory_gib=(max(training, 4 * params + _evaluating(prepared), _measuring(prepared)) + _pictures(prepared)) / 2**30,
        seconds=_seconds(prepared, image_seconds, candidate_seconds),
    )


def _pictures(prepared: Prepared) -> int:
    """Bytes of the pixels in memory; of pictures that are read on demand, those that are being decoded."""
    data, images = prepared.data, prepared.data.train.images
    source = images.images if isinstance(images, Subset) else images
    if isinstance(source, OnDemand):
        return source.decoding_bytes
    return (len(data.train) + len(data.val) + len(data.test)) * int(np.prod(data.input_size))


def _evaluating(prepared: Prepared) -> int:
    """Bytes of activations while candidates of a chain are evaluated; in cells a training step takes more."""
    space, data = prepared.space, prepared.data
    if space.skeleton.searched != "blocks":
        return 0
    return min(batch_for(space), max(len(data.val), prepared.config.calibration_images)) * evaluation_bytes(space)


def _measuring(prepared: Prepared) -> int:
    """Bytes of the operations that are loaded at a time while this device's latency table is measured."""
    table = prepared.latency
    if table is None or prepared.latency_table is not None:
        return 0
    return plan_of(prepared.space, RUNTIMES[table.runtime].inner_layout).loaded_bytes(table.threads, table.batch)


def _seconds(prepared: Prepared, image_seconds: float, candidate_seconds: float) -> dict[str, float]:
    """By phase, from those of a training step of the supernet per image and of a candidate's evaluation.

    A step of single paths is like one of a network that is found; where all operations are computed at once, such a network
    is built and timed.
    """
    config, method, seconds = prepared.config, METHODS[prepared.method], {}
    final = image_seconds
    if not method.inherits or method.control == "unsearched":
        network = prepared.space.sample(numpy_generator(prepared.seed, "final")).build()
        final, _ = _training_step(network, prepared, [None] * (STEPS // 3), None, config.train)
    for phase, work in method.work(config, prepared.data).items():
        if phase.startswith("evolve"):
            seconds[phase] = config.population * (config.generations + 1) * candidate_seconds
        else:
            seconds[phase] = work / 3.0 * (final if phase.startswith(("final", "compare", "brief")) else image_seconds)
    return seconds


def _training_step(
    network: nn.Module, prepared: Prepared, paths: Sequence[Gates | None], largest: Gates | None, recipe: Recipe
) -> tuple[float, int]:
    """Seconds of a step per image, and bytes that the largest saves for its backward pass. None: a network without gates."""
    data, fabric = prepared.data, make_fabric(recipe)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
    model, wrapped = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=1e-4))
    indices = torch.arange(min(recipe.batch_size, len(data.train)))
    x, y = normalise(data.train.images.fetch(indices), data, fabric.device), data.train.labels[indices].to(fabric.device)

    def step(gates: Gates | None) -> None:
        output = model(x) if gates is None else model(x, gates)
        loss = F.cross_entropy(output[0] if isinstance(output, tuple) else output, y)  # an auxiliary classifier's is left out
        wrapped.zero_grad(set_to_none=True)
        fabric.backward(loss)
        wrapped.step()
        float(loss.detach())  # waits for the device

    with _counting_saved() as saved:
        step(largest)
    start = time.perf_counter()
    for path in paths:
        step(path)
    return (time.perf_counter() - start) / len(paths) / len(indices), saved[0]


@contextmanager
def _counting_saved() -> Iterator[list[int]]:
    total, seen = [0], set[int]()

    def pack(t: Tensor) -> Tensor:
        pointer = t.untyped_storage().data_ptr()
        if pointer not in seen:
            seen.add(pointer)
            total[0] += t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield total


def _evaluation(supernet: Any, prepared: Prepared, genes: np.ndarray) -> float:
    """Seconds for one candidate among many, with shared prefixes."""
    config, data = prepared.config, prepared.data
    typical = float(np.median(cost_tables(prepared.space, None)["macs"].of(genes)))
    n = int(min(200, max(16, TIMED_MACS / typical)))
    first = torch.arange(min(n, len(data.val)))
    few = replace(data, val=Split(Subset(data.val.images, first), data.val.labels[first]))
    evaluator = Evaluator(
        supernet, few, make_fabric(config.train), seed=0, calibration_images=min(n, config.calibration_images),
        batch_size=batch_for(prepared.space),
    )  # fmt: skip
    candidates = [prepared.space.decode(g) for g in genes[:8]]
    evaluator(candidates[:2])
    start = time.perf_counter()
    evaluator(candidates)
    seconds = (time.perf_counter() - start) / len(candidates)
    images = len(data.val) + min(config.calibration_images, len(data.train))
    timed = len(few.val) + min(n, config.calibration_images, len(data.train))
    return seconds * images / timed

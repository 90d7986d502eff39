"""`hiernas check`: what a search would face and cost, before anything is trained.

Time is that of a rehearsal, the search in miniature, times how much more there is to do (`hiernas.run.pace`). Memory is
weights, gradients and momentum plus the activations that the largest sampled architecture keeps for its backward pass,
counted as they are saved; or what is evaluated, or measured, at a time, where that is more; and the images.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiernas.commands.cost import cells_named
from hiernas.commands.options import AskedOptions, split_settings
from hiernas.costs import PEAKS, sums
from hiernas.costs.limits import feasible_share
from hiernas.costs.tables import cost_tables, peak_tables
from hiernas.data.images import OnDisk
from hiernas.data.split import Subset
from hiernas.latency.measure import plan_of
from hiernas.latency.runtimes import RUNTIMES
from hiernas.methods import METHODS
from hiernas.randomness import numpy_generator
from hiernas.report import units
from hiernas.run.folder import Listener
from hiernas.run.pace import LargestStep, Pace, largest_step, within
from hiernas.run.request import Prepared, Request, prepare
from hiernas.run.search import rehearse
from hiernas.run.settings import names_of
from hiernas.train.evaluate import batch_for, evaluation_bytes

IN_CELLS = 20  # more than what all images that are evaluated at a time come to, of all spaces (tests/latency/test_bounds.py)


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


def request_of(asked: AskedOptions) -> Request:
    """The search that is asked for. A mistake is named before anything is read."""
    of_space, settings = split_settings(asked.settings)
    if asked.cells is not None:
        of_space["cell"] = cells_named(asked.cells)
    request = Request(
        asked.method, asked.space, of_space, asked.data, asked.limit or (), asked.latency_table, asked.runtime, asked.threads,
        asked.preset, settings=settings, seed=asked.seed, image_size=asked.image_size, val_per_class=asked.val_per_class,
        skip_bad_images=asked.skip_bad_images, time=asked.seconds,
    )  # fmt: skip
    request.resolved()
    return request


def check(request: Request, listener: Listener, began: float) -> tuple[Prepared, Estimate]:
    """A search, and what it would face. `began`: see `hiernas.run.search.search`."""
    prepared = prepare(request, listener)
    step = largest_step(prepared)
    pace = rehearse(prepared, step.seconds, listener)
    if request.time is not None:
        prepared = within(prepared, pace, request.time, time.monotonic() - began, names_of(request.settings))
    return prepared, estimate(prepared, step, pace)


def to_json(prepared: Prepared, e: Estimate) -> dict[str, Any]:
    """An estimate in numbers."""
    data = prepared.data
    return {
        "method": prepared.method, "space": prepared.space.name, "architectures": e.space_size,
        "costs": {metric: dict(zip(("smallest", "typical", "largest"), span, strict=True)) for metric, span in e.costs.items()},
        "limits": [str(limit) for limit in prepared.limits], "automatic_limit": prepared.automatic_limit,
        "share_within_limits": e.feasible_share,
        "data": {
            "name": data.name, "classes": data.num_classes, "input_size": list(data.input_size), "train": len(data.train),
            "val": len(data.val), "test": len(data.test), "notes": list(data.notes),
        },
        "fitted": prepared.fitted, "timed": prepared.timed, "doubts": list(prepared.doubts),
        "supernet_params": None if METHODS[prepared.method].control == "unsearched" else e.supernet_params,
        "memory_gib": e.memory_gib, "seconds": e.seconds, "total_seconds": e.total_seconds,
    }  # fmt: skip


def shown(prepared: Prepared, e: Estimate) -> dict[str, str]:
    """An estimate in words."""
    data = prepared.data
    rows = {"space": f"{prepared.space.name}, {units.size(e.space_size)} architectures"}
    if held := " and ".join(str(limit) for limit in prepared.limits if limit.metric in PEAKS):
        rows["space"] += f", those of {held}"
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
    if prepared.timed:
        rows["within the time"] = prepared.timed
    rows |= {"doubtful" + " " * i: doubt for i, doubt in enumerate(prepared.doubts)}
    if METHODS[prepared.method].control != "unsearched":
        rows["supernet"] = f"{e.supernet_params:,} parameters"
    rows["memory"] = f"about {e.memory_gib:.2f} GiB"
    if (file := _file(prepared)) is not None:
        rows["memory"] += f"; {file.total / 2**30:.2f} GiB of pixels are in {Path(file.file.name).parent}"
    phases = ", ".join(f"{phase} {units.seconds(s)}" for phase, s in e.seconds.items())
    rows["time"] = f"about {units.seconds(e.total_seconds)} here: {phases}"
    return rows


def estimate(prepared: Prepared, step: LargestStep, pace: Pace) -> Estimate:
    """What a search faces, from a step of its training and its rehearsal."""
    space, method = prepared.space, METHODS[prepared.method]
    among = method.among(space)
    tables = cost_tables(among, prepared.latency)
    costs = dict[str, tuple[float, float, float]]()
    for each, by_metric in ((among, tables), (space, peak_tables(space, method.several))):
        genes = each.sample_encoded(numpy_generator(prepared.seed, "check"), 10_000)
        costs |= {m: (table.smallest, float(np.median(table.of(genes))), table.largest) for m, table in by_metric.items()}
    training = 4 * (3 * step.params) + step.saved  # weights, gradients, momentum in 32 bits
    evaluating = 4 * step.params + _evaluating(prepared, step)
    return Estimate(
        space_size=max(space.size(), among.size()),
        costs=costs,
        feasible_share=feasible_share(among, tables, sums(prepared.limits), numpy_generator(prepared.seed, "share")),
        supernet_params=step.params,
        memory_gib=(max(training, evaluating, _measuring(prepared)) + _pictures(prepared)) / 2**30,
        seconds=pace.seconds(method.work(prepared.config, prepared.data)),
    )


def _file(prepared: Prepared) -> OnDisk | None:
    """The file of the pixels, where they are not in memory."""
    images = prepared.data.train.images
    source = images.images if isinstance(images, Subset) else images
    return source if isinstance(source, OnDisk) else None


def _pictures(prepared: Prepared) -> int:
    """Bytes of the pixels in memory; those in a file are read as they are needed."""
    data = prepared.data
    return 0 if _file(prepared) else (len(data.train) + len(data.val) + len(data.test)) * int(np.prod(data.input_size))


def _evaluating(prepared: Prepared, step: LargestStep) -> int:
    """Bytes of activations while candidates are evaluated; in cells as many as a training step saves of `IN_CELLS` images."""
    space, data = prepared.space, prepared.data
    if space.skeleton.searched != "blocks":
        recipe = getattr(prepared.config, "search", prepared.config).train
        return step.saved * IN_CELLS // min(recipe.batch_size, len(data.train))
    return min(batch_for(space), max(len(data.val), prepared.config.calibration_images)) * evaluation_bytes(space)


def _measuring(prepared: Prepared) -> int:
    """Bytes of the operations that are loaded at a time while this device's latency table is measured."""
    table = prepared.latency
    if table is None or prepared.latency_table is not None:
        return 0
    return plan_of(prepared.space, RUNTIMES[table.runtime].inner_layout).loaded_bytes(table.threads, table.batch)

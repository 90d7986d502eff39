"""`hiernas check`: what a search would face and cost, before anything is trained.

Time is that of a rehearsal, the search in miniature, times how much more there is to do (`hiernas.run.search`). Memory is
weights, gradients and momentum plus the activations that the largest sampled architecture keeps for its backward pass,
counted as they are saved; or what is evaluated, or measured, at a time, where that is more; and the images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hiernas.commands import AskedOptions, split_settings
from hiernas.commands.cost import cells_named
from hiernas.costs import PEAKS, sums
from hiernas.costs.limits import count_feasible
from hiernas.costs.tables import cost_tables, peak_tables
from hiernas.data.images import OnDisk
from hiernas.data.split import Subset
from hiernas.latency.measure import plan_of
from hiernas.latency.runtimes import RUNTIMES
from hiernas.methods import METHODS
from hiernas.randomness import numpy_generator
from hiernas.report import units
from hiernas.run.folder import Listener
from hiernas.run.request import Prepared, Request, in_short, prepare
from hiernas.run.search import LargestStep, Pace, paced
from hiernas.train.evaluate import batch_for, evaluation_bytes, kept_bytes

IN_CELLS = 20  # more than what all images that are evaluated at a time come to, of all spaces (tests/latency/test_bounds.py)


def request_of(asked: AskedOptions) -> Request:
    """The search that is asked for. A mistake is named before anything is read."""
    of_space, settings = split_settings(asked.settings)
    if asked.cells is not None:
        of_space["cell"] = cells_named(asked.cells)
    request = Request(
        asked.method, asked.space, of_space, asked.data, asked.limits or (), asked.latency_table, asked.runtime, asked.threads,
        asked.preset, settings=settings, seed=asked.seed, image_size=asked.image_size, val_per_class=asked.val_per_class,
        skip_bad_images=asked.skip_bad_images, time=asked.seconds, int8=asked.int8, calibrate=asked.calibrate,
    )  # fmt: skip
    request.resolved()
    return request


def check(asked: AskedOptions, listener: Listener) -> dict[str, Any]:
    """What a search would face, in numbers."""
    request = request_of(asked)
    return estimate(*paced(request, prepare(request, listener), listener, asked.began))


def estimate(prepared: Prepared, step: LargestStep, pace: Pace) -> dict[str, Any]:
    """What a search faces, from a step of its training and its rehearsal: seconds by phase, on a device as busy as now."""
    space, method, data = prepared.space, METHODS[prepared.method], prepared.data
    among = method.among(space)
    tables = cost_tables(among, prepared.latency)
    costs = dict[str, dict[str, float]]()
    for each, by_metric in ((among, tables), (space, peak_tables(space, method.several))):
        genes = each.sample_encoded(numpy_generator(prepared.seed, "check"), 10_000)
        for metric, table in by_metric.items():
            typical = float(np.median(table.of(genes)))
            costs[metric] = {"smallest": table.smallest, "typical": typical, "largest": table.largest}
    training = 4 * (3 * step.params) + step.saved  # weights, gradients, momentum in 32 bits
    evaluating = 4 * step.params + _evaluating(prepared, step)
    met, looked_at = count_feasible(among, tables, sums(prepared.limits), numpy_generator(prepared.seed, "share"))
    seconds, file = pace.seconds(method.work(prepared.config, data)), _file(prepared)
    images = 0 if file else len(data.train) + len(data.val) + len(data.test)  # whose pixels are in memory
    return {
        "method": prepared.method, "space": space.name, "architectures": max(space.size(), among.size()), "costs": costs,
        "limits": [str(limit) for limit in prepared.limits], "automatic_limit": prepared.automatic_limit,
        "share_within_limits": met / looked_at, "looked_at": looked_at,
        "data": {**in_short(data), "classes": data.num_classes},
        "fitted": prepared.fitted, "timed": prepared.timed, "corrected": prepared.corrected, "doubts": list(prepared.doubts),
        "supernet_params": None if method.control == "unsearched" else step.params,
        "memory_gib": (max(training, evaluating, _measuring(prepared)) + images * math.prod(data.input_size)) / 2**30,
        "pixels": file and {"gib": file.total / 2**30, "folder": str(Path(file.file.name).parent)},
        "seconds": seconds, "total_seconds": sum(seconds.values()),
    }  # fmt: skip


def in_words(found: Mapping[str, Any]) -> dict[str, str]:
    """The same for the terminal."""
    data, limits = found["data"], found["limits"]
    rows = {"space": f"{found['space']}, {units.size(found['architectures'])} architectures"}
    if held := " and ".join(limit for limit in limits if {*PEAKS} & {*limit.split()}):
        rows["space"] += f", those of {held}"
    for metric, span in found["costs"].items():
        rows[metric] = ", ".join(f"{name} {units.amount(metric, value)}" for name, value in span.items())
    rows["limits"] = ", ".join(limits) + (" (the median: none was given)" * found["automatic_limit"])
    rows["within the limits"] = _within(found["share_within_limits"], found["looked_at"], found["architectures"])
    rows["data"] = units.images(data)
    rows |= {"note" + " " * i: note for i, note in enumerate(data["notes"])}
    if found["fitted"]:
        rows["for so few images"] = found["fitted"]
    if found["timed"]:
        rows["within the time"] = found["timed"]
    if found["corrected"]:
        rows["latency"] = found["corrected"]
    rows |= {"doubtful" + " " * i: doubt for i, doubt in enumerate(found["doubts"])}
    if found["supernet_params"] is not None:
        rows["supernet"] = f"{found['supernet_params']:,} parameters"
    rows["memory"] = f"about {found['memory_gib']:.2f} GiB"
    if file := found["pixels"]:
        rows["memory"] += f"; {file['gib']:.2f} GiB of pixels are in {file['folder']}"
    phases = ", ".join(f"{phase} {units.seconds(s)}" for phase, s in found["seconds"].items())
    rows["time"] = f"about {units.seconds(found['total_seconds'])} here: {phases}"
    return rows


def _within(share: float, looked_at: int, size: int) -> str:
    """Of how many architectures the limits hold: counted, or estimated from those that were drawn."""
    met = f"{round(share * looked_at):,} of {looked_at:,}"
    if looked_at == size:
        return f"{met} architectures ({share:.2%})"
    if not share:  # 0.9997 to the power of 10,000 is 5 %
        return f"none of {looked_at:,} architectures that were drawn: by all odds fewer than 1 in {looked_at // 3:,}"
    return f"about {share:.2%} of the architectures ({met} that were drawn)"


def _file(prepared: Prepared) -> OnDisk | None:
    """The file of the pixels, where they are not in memory."""
    images = prepared.data.train.images
    source = images.images if isinstance(images, Subset) else images
    return source if isinstance(source, OnDisk) else None


def _evaluating(prepared: Prepared, step: LargestStep) -> int:
    """Bytes of activations while candidates are evaluated; in cells as many as a training step saves of `IN_CELLS` images."""
    space, data = prepared.space, prepared.data
    if space.skeleton.searched != "blocks":
        recipe = getattr(prepared.config, "search", prepared.config).train
        return step.saved * IN_CELLS // min(recipe.batch_size, len(data.train))
    judged = len(data.val), getattr(prepared.config, "calibration_images", 0)  # a control may judge none
    return min(batch_for(space), max(judged)) * evaluation_bytes(space) + kept_bytes(space, sum(judged))


def _measuring(prepared: Prepared) -> int:
    """Bytes of the operations that are loaded at a time while this device's latency table is measured."""
    table = prepared.latency
    if table is None or prepared.latency_table is not None:
        return 0
    return plan_of(prepared.space, RUNTIMES[table.runtime].inner_layout).loaded_bytes(table.threads, table.batch)

"""A search from its request to its finished run folder, and from where it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hiernas import ranks
from hiernas.budget import Limit
from hiernas.costs import sums
from hiernas.costs.limits import TableBudget
from hiernas.data import ImageData
from hiernas.errors import RunError
from hiernas.methods import METHODS
from hiernas.problem import Problem
from hiernas.randomness import numpy_generator
from hiernas.report.page import write_report
from hiernas.run.finalists import best_of
from hiernas.run.folder import Listener, RunFolder, begin, owned, refuse_existing
from hiernas.run.outcome import complete, environment, tell_changes, train_only
from hiernas.run.pace import Pace, in_miniature, largest_step, rehearsed, within
from hiernas.run.request import Prepared, Request, keep_latency, prepare, reload_data, restore
from hiernas.run.settings import names_of
from hiernas.space import SearchSpace
from hiernas.train.evaluate import RunTrainer


def search(
    request: Request, out: str | Path | None = None, listener: Listener | None = None, began: float | None = None
) -> RunFolder:
    """Run a search from the beginning to its report; returns its folder (`result.json` holds what was found).

    `began`: when the time that is asked for began, by `time.monotonic()`; None: now.
    """
    began = time.monotonic() if began is None else began
    if out is not None:
        refuse_existing(Path(out))
    prepared = prepare(request, listener)
    if request.time is not None:
        pace = rehearse(prepared, largest_step(prepared).seconds, listener)
        prepared = within(prepared, pace, request.time, ranks.since(began), names_of(request.settings))
    run = begin(out, request.method, _config(prepared), listener)
    with closing(run):
        _finish(prepared, run)
    return run


def resume(path: str | Path, listener: Listener | None = None, space: SearchSpace | None = None, data: Any = None) -> RunFolder:
    """Go on with a run that was interrupted; on CPU it ends with the same architectures and accuracies.

    `space` and `data` are needed where the run was started from Python with objects that have no name.
    """
    run = RunFolder.open(path, listener)
    result = run.read_json("result.json")
    if result is not None and not run.missing():
        for name in ("best.json", "best.safetensors", "best.onnx"):
            run.check(name)
        if "space" in result:
            _report_where_missing(run)
        return run
    with owned(run):
        tell_changes(run)
        if run.config["method"] == "train":
            train_only(run, reload_data(run, data))
        else:
            _finish(restore(run, space, data), run)
    return run


@ranks.by_first
def _report_where_missing(run: RunFolder) -> None:
    if not (run.path / "report.html").exists():  # killed before it was written
        with owned(run):
            write_report(run.path)


def continued(request: Request, path: str | Path, listener: Listener | None = None) -> RunFolder:
    """Go on with a run that must have been asked the same; raises `RunError` with what differs."""
    before, now = RunFolder.open(path).config.get("asked", {}), request.asked()
    for name in (*before, *now):
        if before.get(name) != now.get(name):
            raise RunError(
                f"{path} was asked for {name} {before.get(name, 'as always')}, and now it is {now.get(name, 'as always')}; "
                f"go on with `hiernas resume {path}`, or name another folder with --out"
            )
    return resume(path, listener)


def rehearse(prepared: Prepared, step_seconds: float, listener: Listener | None = None) -> Pace:
    """Do a search in miniature, in a folder that is deleted. `step_seconds`: of a training step of the largest network."""
    if listener is not None:
        listener({"event": "rehearsal"})
    small = in_miniature(prepared, step_seconds)
    work = METHODS[prepared.method].work(small.config, small.data)
    return rehearsed(_config(small), work, lambda run: _finish(small, run))


def _config(prepared: Prepared) -> dict[str, Any]:
    """The config.yaml of a run that is begun."""
    asked = prepared.to_dict()
    return {**asked, "environment": environment(asked)}


def _finish(prepared: Prepared, run: RunFolder) -> None:
    """Do all that has not been done yet."""
    method, data, seed = METHODS[prepared.method], prepared.data, prepared.seed
    keep_latency(run, prepared)
    share = method.final_share(prepared.space, prepared.config, numpy_generator(seed, "share"))
    phases = method.work(prepared.config, data).items()
    work = {phase: x * (share if phase.startswith(("final", "compare", "brief")) else 1.0) for phase, x in phases}
    told = {"fitted": prepared.fitted, "timed": prepared.timed}
    run.event("start", plan=work, run=str(run.path), limits=[str(x) for x in prepared.limits], **told)
    problem = make_problem(prepared.space, data, prepared.limits, prepared.latency, run, seed)
    found = method.search(problem, prepared.config)
    complete(prepared, run, best_of(problem, found, prepared.config, prepared.final))


def make_problem(
    space: SearchSpace, data: ImageData, limits: Sequence[Limit], latency: Any, run: RunFolder, seed: int
) -> Problem:
    """A search as methods take it; `latency`: a latency table (ours or a phone's), or None."""
    return Problem(space, data, TableBudget(sums(limits), latency), RunTrainer(data, run, seed), run, seed)

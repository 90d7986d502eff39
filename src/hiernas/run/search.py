"""A search from its request to its finished run folder, and from where it was interrupted; as long as it may take.

How long it takes on this machine is rehearsed: done in miniature from its supernet to its report, every part at its least
length, on a few batches of the images. What a phase takes there for its work (`Method.work`) it takes for that of the search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiernas import ranks
from hiernas.budget import Limit
from hiernas.costs import sums
from hiernas.costs.limits import TableBudget
from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData, normalise
from hiernas.data.split import Split, Subset
from hiernas.errors import ConfigError, LimitError, RunError, TrainingError
from hiernas.gates import Gates, single_path, softmax
from hiernas.methods import METHODS
from hiernas.problem import Problem, final_work
from hiernas.randomness import numpy_generator
from hiernas.report import units
from hiernas.report.page import write_report
from hiernas.run.finalists import best_of
from hiernas.run.folder import Listener, RunFolder, begin, owned, refuse_existing
from hiernas.run.outcome import complete, environment, tell_changes, train_network, train_only
from hiernas.run.request import Prepared, Request, in_short, keep_latency, prepare, reload_data, restore
from hiernas.run.settings import differences, keys, names_of, scaled, to_dict, with_settings
from hiernas.space import Architecture, SearchSpace
from hiernas.train.evaluate import RunTrainer
from hiernas.train.loop import make_fabric
from hiernas.train.recipes import Phase, Recipe
from hiernas.train.retraining import Retraining

STEPS, SECONDS = (2, 16), 2.0  # of each training in a rehearsal: fewer steps where they would take longer than that
IMAGES, TIMED_MACS = (16, 200), 3e9  # that candidates are looked at with: fewer where one would take more multiply-adds
SMALL = {"population": 8, "drawn": 8, "search.decided": 0.0}  # in a rehearsal; whatever it ends with counts as decided
HALVINGS = 60
NO_END = 1e9  # seconds


def search(
    request: Request, out: str | Path | None = None, listener: Listener | None = None, began: float | None = None
) -> RunFolder:
    """Run a search from the beginning to its report; returns its folder (`result.json` holds what was found).

    `began`: when the time that is asked for began, by `time.monotonic()`; None: now.
    """
    began = time.monotonic() if began is None else began
    if out is not None:
        refuse_existing(Path(out))
    heard, asked = listener, request.time
    if asked is not None:
        heard = _timely(asked, began, f"{units.seconds(asked)} were over before the search could begin", listener)
    prepared = prepare(request, heard)
    if request.time is not None:
        prepared, *_ = paced(request, prepared, heard, began)
    run = begin(out, request.method, _config(prepared), listener)
    with closing(run):
        _finish(prepared, run)
    return run


def _timely(seconds: float, began: float, vain: str, listener: Listener | None = None) -> Listener:
    """A listener that ends all with `ConfigError` once `seconds` are over, which then is in vain for a reason."""

    def tell(event: Mapping[str, Any]) -> None:
        if ranks.since(began) > seconds:
            raise ConfigError(
                f"--time is too short: {vain}; give more (`hiernas check` without --time says how much), or choose less "
                "(--preset, --space, --set)"
            )
        if listener is not None:
            listener(event)

    return tell


def resume(path: str | Path, listener: Listener | None = None, space: SearchSpace | None = None, data: Any = None) -> RunFolder:
    """Go on with a run that was interrupted; on CPU it ends with the same architectures and accuracies.

    `space` and `data` are needed where the run was started from Python with objects that have no name.
    """
    run = RunFolder.open(path, listener)
    result = run.read_json("result.json")
    if result is not None and not run.missing():
        for name in ("best.json", "best.safetensors", "best.onnx"):
            run.check(name)
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
            write_report(run)


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
    told = {"data": in_short(data), "fitted": prepared.fitted, "timed": prepared.timed, "corrected": prepared.corrected}
    run.event("start", plan=work, run=str(run.path), limits=[str(x) for x in prepared.limits], **told)
    problem = make_problem(prepared.space, data, prepared.limits, prepared.latency, run, seed)
    found = best_of(problem, method.search(problem, prepared.config), prepared.config, prepared.final)
    complete(_in_time(prepared, run, found.architecture), run, found)


def make_problem(
    space: SearchSpace, data: ImageData, limits: Sequence[Limit], latency: Any, run: RunFolder, seed: int
) -> Problem:
    """A search as methods take it; `latency`: a latency table (ours or a phone's), or None."""
    return Problem(space, data, TableBudget(sums(limits), latency), RunTrainer(data, run, seed), run, seed)


def _in_time(prepared: Prepared, run: RunFolder, architecture: Architecture) -> Prepared:
    """The search with the final training as long as there is time left, now that its network is known.

    That is rehearsed, and what comes of it is written into config.yaml, by which a run that is cut off goes on.
    """
    if prepared.left is None:
        return prepared
    data, final, start = prepared.data, prepared.final, time.monotonic()
    header = {k: run.config[k] for k in ("preset", "seed", "data")}
    pace = training_pace(header, architecture, final, data, whole=False)
    rate = pace.rates.get("final", inf)  # in so short a run it may have failed
    trainings = sum(p.startswith(("final", "compare")) for p in METHODS[prepared.method].work(prepared.config, data))
    seconds = (prepared.left - sum(run.seconds().values()) - ranks.since(start)) / trainings
    none, one = (final_work(n, data) for n in (0, 1))
    epochs = max(1, round((seconds / rate - none) / (one - none))) if rate < inf else final.epochs
    config = replace(prepared.config, final_epochs=epochs)
    words = f"then {units.seconds(max(0.0, seconds))} were left: final_epochs {final.epochs} -> {epochs}"
    now = replace(prepared, config=config, left=None, timed=f"{prepared.timed}; {words}")
    run.change(config=now.to_dict()["config"], left=None, timed=now.timed)
    run.event("left", words=words)
    return now


# -- as long as it may take ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """How long a search takes here, on a machine as busy as it was when it was rehearsed."""

    rates: Mapping[str, float]  # seconds per unit of work (a forward pass of one image), by phase
    beside: float  # seconds of all else, however long the search: supernets are made, networks measured, exported, reported

    @classmethod
    def of(cls, seconds: Mapping[str, float], work: Mapping[str, float], total: float) -> Pace:
        """From a rehearsal: the seconds and the work of its phases, and the seconds of the whole."""
        timed = {phase: seconds[phase] for phase in work if phase in seconds}
        return cls({phase: s / work[phase] for phase, s in timed.items()}, max(0.0, total - sum(timed.values())))

    def seconds(self, work: Mapping[str, float]) -> dict[str, float]:
        """By phase, and of all else. A phase that the rehearsal did not come to is as fast as the others are."""
        mean = sum(self.rates.values()) / max(1, len(self.rates))
        return {**{phase: w * self.rates.get(phase, mean) for phase, w in work.items()}, "all else": self.beside}


def fitting(config: Any, takes: Callable[[Any], float], seconds: float, kept: Iterable[str] = ()) -> Any:
    """The configuration whose lengths are all one factor of the given ones, and that takes as near as can be to `seconds`.

    `takes`: seconds of a configuration; `kept`: dotted keys that stay as they are. Raises `ConfigError` where it takes
    longer even with an epoch of each training.
    """
    least, low, high = takes(scaled(config, 0.0, kept)), 0.0, 1.0
    if least > seconds:
        raise ConfigError(
            f"{units.seconds(max(0.0, seconds))} are left of the time, and with one epoch of each training it takes "
            f"{units.seconds(least)}; give {units.seconds(least - seconds)} more, or choose less (--preset, --space, --set)"
        )
    for _ in range(HALVINGS):
        if takes(scaled(config, high, kept)) > seconds:
            break
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if takes(scaled(config, middle, kept)) > seconds else (middle, high)
    return min((scaled(config, factor, kept) for factor in (low, high)), key=lambda c: abs(takes(c) - seconds))


def within(prepared: Prepared, pace: Pace, asked: float, spent: float, kept: Iterable[str]) -> Prepared:
    """A search as long as it may be to end after `asked` seconds, of which some are `spent`; `kept`: see `fitting`."""

    def phases(config: Any) -> dict[str, float]:
        return pace.seconds(METHODS[prepared.method].work(config, prepared.data))

    config = fitting(prepared.config, lambda c: sum(phases(c).values()), asked - spent, kept)
    timed = in_words(asked, spent, differences(prepared.config, config), phases(config))
    left = None if "final_epochs" in kept else asked - spent - pace.beside
    return replace(prepared, config=config, preset="custom", timed=timed, left=left)


def in_words(asked: float, spent: float, changed: str, phases: Mapping[str, float]) -> str:
    """A plan: what was changed for the time that was asked for, and what takes how long."""
    plan = ", ".join(f"{phase} {units.seconds(s)}" for phase, s in phases.items())
    return f"{units.seconds(asked)}: {changed or 'nothing changed'}; {units.seconds(spent)} are over, then {plan}"


# -- the rehearsal -----------------------------------------------------------------------------------------------------


def paced(
    request: Request, prepared: Prepared, listener: Listener | None, began: float
) -> tuple[Prepared, LargestStep, Pace]:
    """A search, as long as it may be where a time is asked for; its largest step, and its pace."""
    kept, asked = names_of(request.settings), request.time or NO_END
    if request.time is not None and scaled(prepared.config, 0.0, kept) == scaled(prepared.config, 2.0, kept):
        raise ConfigError("--time has nothing to set: every length is given by --set; leave one of them out")
    step = largest_step(prepared)
    pace = rehearse(prepared, step.seconds, listener, asked - ranks.since(began))
    if request.time is not None:
        prepared = within(prepared, pace, asked, ranks.since(began), kept)
    return prepared, step, pace


def rehearse(
    prepared: Prepared, step_seconds: float, listener: Listener | None = None, seconds: float = NO_END
) -> Pace:
    """Do a search in miniature, in a folder that is deleted. `step_seconds`: of a training step of the largest network.

    `seconds`: that are left for it and the search, see `rehearsed`.
    """
    if listener is not None:
        listener({"event": "rehearsal"})
    small = in_miniature(prepared, step_seconds)
    work = METHODS[prepared.method].work(small.config, small.data)
    return rehearsed(_config(small), work, lambda run: _finish(small, run), seconds)


def rehearsed(
    config: Mapping[str, Any], work: Mapping[str, float], do: Callable[[RunFolder], None], seconds: float = NO_END
) -> Pace:
    """The pace of what is done in a run folder, which is then deleted. `config`: its config.yaml; `work`: of its phases.

    `seconds`: that are left for this and for what it is the miniature of. That takes as long at least, so `ConfigError` is
    raised as soon as half of them are over.
    """
    start, half = time.monotonic(), seconds / 2
    in_time = _timely(half, start, f"{units.seconds(half)} are left, and with one epoch of each training it takes longer")
    with TemporaryDirectory() as folder, closing(RunFolder.create(Path(folder) / "run", config, in_time)) as run:
        with suppress(LimitError, TrainingError):  # of so short a run they say nothing
            do(run)
        return Pace.of(run.seconds(), work, ranks.since(start))


def training_pace(
    header: Mapping[str, Any], architecture: Architecture, how: Retraining, data: ImageData, seconds: float = NO_END,
    whole: bool = True,
) -> Pace:  # fmt: skip
    """Of a training of one network, rehearsed, and with all that follows where it is to be `whole`.

    `header`: what else is in its config.yaml; `seconds`: see `rehearsed`.
    """
    step_seconds, _ = training_step(architecture.build(), data, None, how.recipe)
    few, short = fewer(data, step_seconds, how.recipe.batch_size), scaled(how, 0.0)
    training = {"architecture": architecture.to_json(), **to_dict(short), "inherit": False}

    def do(run: RunFolder) -> None:
        if whole:
            train_only(run, few)
        else:
            train_network(architecture, few, Phase("final", short.epochs, short.lr), short.recipe, run)

    work = {"final": final_work(short.epochs, few)}
    return rehearsed({**header, "method": "train", "train": training}, work, do, seconds)


def in_miniature(prepared: Prepared, step_seconds: float) -> Prepared:
    """A search at its least lengths, on a few images. `step_seconds`: of a training step of the largest network."""
    config, space = scaled(prepared.config, 0.0), prepared.space
    known = keys(config)
    config = with_settings(config, [f"{k}={min(v, known[k])}" for k, v in SMALL.items() if k in known])
    largest = cost_tables(space, None)["macs"].largest
    looked_at = int(min(IMAGES[1], max(IMAGES[0], TIMED_MACS / largest)))
    batch = max(v for k, v in known.items() if k.endswith("batch_size"))
    return replace(prepared, config=config, data=fewer(prepared.data, step_seconds, batch, looked_at))


def fewer(data: ImageData, step_seconds: float, batch: int, looked_at: int = IMAGES[1]) -> ImageData:
    """A few batches of the training images, and as many validation and test images."""
    steps = int(min(STEPS[1], max(STEPS[0], SECONDS / step_seconds)))
    train, (val, test) = _few(data.train, steps * batch), (_few(split, looked_at) for split in (data.val, data.test))
    return replace(data, train=train, val=val, test=test)


def _few(split: Split, n: int) -> Split:
    rows = torch.linspace(0, len(split) - 1, min(n, len(split))).long()  # of all classes, where they stand in their order
    return Split(Subset(split.images, rows), split.labels[rows])


@dataclass(frozen=True)
class LargestStep:
    """A training step of the largest network that a search computes, its first."""

    params: int  # of the supernet
    seconds: float
    saved: int  # bytes that it saves for its backward pass


def largest_step(prepared: Prepared) -> LargestStep:
    """Take such a step on throw-away weights: on single paths the largest of many, else on all operations at once."""
    config, method = prepared.config, METHODS[prepared.method]
    searched = method.proxy(prepared.space, config)
    if method.inherits:
        genes = prepared.space.sample_encoded(numpy_generator(prepared.seed, "check"), 10_000)
        gates = single_path(genes[int(cost_tables(prepared.space, None)["macs"].of(genes).argmax())])
    else:
        gates = softmax([torch.zeros(len(d.options)) for d in searched.decisions])
    supernet: Any = searched.supernet()
    recipe = config.search.train if hasattr(config, "search") else config.train  # a search in cells has one of its own
    seconds, saved = training_step(supernet, prepared.data, gates, recipe)
    return LargestStep(sum(p.numel() for p in supernet.parameters()), seconds, saved)


@ranks.told
def training_step(network: nn.Module, data: ImageData, gates: Gates | None, recipe: Recipe) -> tuple[float, int]:
    """Seconds of a step, its second, and bytes that it saves for its backward pass. None: a network without gates."""
    fabric = make_fabric(recipe)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
    model, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=1e-4))
    indices = torch.arange(min(recipe.batch_size, len(data.train)))
    x, y = normalise(data.train.images.fetch(indices), data, fabric.device), data.train.labels[indices].to(fabric.device)

    def step() -> None:
        output = model(x) if gates is None else model(x, gates)
        loss = F.cross_entropy(output[0] if isinstance(output, tuple) else output, y)  # an auxiliary classifier's is left out
        fabric.backward(loss)
        optimizer.step()
        float(loss.detach())  # waits for the device

    with _counting_saved() as saved:
        step()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start, saved[0]


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

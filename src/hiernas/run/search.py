"""From what was asked to a finished run folder: prepare, search, train, measure, export, report; and resume."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import hiernas.spaces
from hiernas.budget import Limit
from hiernas.costs import parse_limits
from hiernas.costs.limits import TableBudget, check_reachable, median_limit
from hiernas.costs.tables import cost_tables
from hiernas.data import Augment, ImageData, load_data
from hiernas.errors import ConfigError, DataError, LatencyError, LimitError, RunError, SpaceError, did_you_mean
from hiernas.latency.measure import cached_table_path, measure_table
from hiernas.latency.phone import load_table
from hiernas.latency.runtimes import RUNTIME, make_runtime
from hiernas.methods import METHODS
from hiernas.problem import Problem
from hiernas.randomness import numpy_generator
from hiernas.report.doubts import of_limits
from hiernas.report.page import write_report
from hiernas.run.folder import Listener, RunFolder, next_free, refuse_existing
from hiernas.run.outcome import complete, train_only
from hiernas.run.settings import differences, for_images, from_file, names_of, to_dict, with_settings
from hiernas.space import SearchSpace
from hiernas.spaces import make_space, space_function
from hiernas.train.loop import make_fabric
from hiernas.train.trainer import RunTrainer
from hiernas.version import VERSION


@dataclass(frozen=True)
class Request:
    """What is asked of a search. Names and texts as on the command line; objects from Python."""

    method: str = "hnas"
    space: str | SearchSpace | None = None  # None: the method's own, of the preset's size
    space_arguments: Mapping[str, Any] = field(default_factory=dict)  # beyond input_size and num_classes
    data: Any = "digits"  # anything `load_data` takes, or an ImageData
    limits: Sequence[str] = ()
    latency_table: str | Path | None = None  # None: this device's, from the cache or measured
    runtime: str | None = None  # None: that of the latency table, else onnxruntime
    threads: int | None = None  # None: those of the latency table, else 1
    preset: str = "quick"
    config: Any = None  # of the method; None: the preset's, for as many images as there are
    settings: Sequence[str] = ()  # "key=value" on top of it
    seed: int = 0
    image_size: int | None = None
    val_per_class: int | None = None
    skip_bad_images: bool = False

    def resolved(self, images: int | None = None) -> Any:
        """The configuration: the given one or the preset's, with the settings; a preset for so many training images."""
        if self.method not in METHODS:
            raise ConfigError(f"unknown method '{self.method}'; {did_you_mean(self.method, METHODS)}")
        presets = METHODS[self.method].presets
        if self.config is not None:
            return with_settings(_of_kind(self.config, type(presets["paper"]), self.method), self.settings)
        if self.preset not in presets:
            raise ConfigError(f"unknown preset '{self.preset}'; {did_you_mean(self.preset, presets)}")
        config = with_settings(presets[self.preset], self.settings)
        return config if images is None else for_images(config, self.preset, images, names_of(self.settings))


def _of_kind(config: Any, kind: type, method: str) -> Any:
    if not isinstance(config, kind):
        raise ConfigError(f"method '{method}' takes a {kind.__name__}, not a {type(config).__name__}")
    return config


@dataclass(frozen=True)
class Prepared:
    """A request with everything loaded and checked, before anything is written."""

    request: Request
    config: Any
    space: SearchSpace
    data: ImageData
    limits: tuple[Limit, ...]
    latency: Any
    automatic_limit: bool
    fitted: str = ""  # what in the preset was changed for the number of images, in words
    doubts: tuple[str, ...] = ()  # what is doubtful before anything was searched

    def problem(self, run: RunFolder) -> Problem:
        return make_problem(self.space, self.data, self.limits, self.latency, run, self.request.seed)


def make_problem(
    space: SearchSpace, data: ImageData, limits: Sequence[Limit], latency: Any, run: RunFolder, seed: int
) -> Problem:
    """A search as methods take it; `latency`: a latency table (ours or a phone's), or None."""
    return Problem(space, data, TableBudget(tuple(limits), latency), RunTrainer(data, run, seed), run, seed)


def prepare(request: Request, listener: Listener | None = None) -> Prepared:
    """Load data, space, costs and limits; every mistake and every impossible limit is refused here."""
    asked = request.resolved()
    for name in METHODS[request.method].finds:
        if name in request.space_arguments:
            option = " (--cells)" if name == "cell" else ""
            raise ConfigError(f"method '{request.method}' finds space.{name} itself; leave it{option} out")
    request = _with_space(request)
    limits = parse_limits(request.limits)
    if isinstance(request.space, str):
        space_function(request.space, request.space_arguments)
    data = _load(request)
    config = request.resolved(len(data.train))
    fitted = differences(asked, config)
    if config.objective == "auto":
        config = replace(config, objective=_objective(limits))
    space = make_space(request.space, data, request.space_arguments)
    _check_inputs(config, data)
    refusal = METHODS[request.method].refusal(space)
    if refusal is not None:
        raise SpaceError(
            f"method '{request.method}' cannot search '{space.name}': {refusal}; leave --space out, or choose another method "
            "(`hiernas list methods`)"
        )
    if config.train.drop_path and space.skeleton.searched == "blocks":
        raise ConfigError(
            f"train.drop_path is for networks of cells, and '{space.name}' is a chain; leave it out (--set train.drop_path=0)"
        )
    method = METHODS[request.method]
    among = method.among(space)
    counted = [limit for limit in limits if limit.metric != "latency_ms"]
    check_reachable(among, cost_tables(among, None), counted)  # what can be refused before anything is measured
    latency = _latency(request, space, _needs_latency(config, limits), listener)
    tables = cost_tables(space, latency)
    automatic = not limits
    if automatic:
        limits = (median_limit(space, tables[config.objective], numpy_generator(request.seed, "limit")),)
    tables = tables if among is space else cost_tables(among, latency)
    check_reachable(among, tables, limits)
    doubts = tuple(of_limits(tables, limits, automatic))
    return Prepared(request, config, space, data, limits, latency, automatic, fitted, doubts)


def _objective(limits: Sequence[Limit]) -> str:
    """What `auto` stands for: the latency where it is limited or nothing is, else what the first limit is on."""
    return "latency_ms" if any(m.metric == "latency_ms" for m in limits) or not limits else limits[0].metric


def _with_space(request: Request) -> Request:
    """The request with its space: where none is named, the method's own; one of its own in the size of the preset."""
    spaces = METHODS[request.method].spaces
    own = spaces[request.preset if request.preset in spaces else "paper"]
    name = next(iter(own)) if request.space is None else request.space
    if not isinstance(name, str) or name not in own:
        return request
    return replace(request, space=name, space_arguments={**own[name], **request.space_arguments})


def _load(request: Request) -> ImageData:
    if isinstance(request.data, ImageData):
        return request.data
    if request.data == "":
        raise DataError("--data is empty; name 'digits', a folder or hf:NAME")
    return load_data(
        request.data,
        image_size=request.image_size,
        val_per_class=request.val_per_class,
        seed=request.seed,
        skip_bad_images=request.skip_bad_images,
    )


def _check_inputs(config: Any, data: ImageData) -> None:
    if len(data.train) < 2 * 2:
        raise ConfigError(f"{len(data.train)} training images are too few to train on")
    Augment.of(config.train)  # says so where it is not available
    make_fabric(config.train)  # says so where this machine lacks the device or the precision
    if config.train.cutout >= min(data.input_size[1:]):
        size = data.input_size[1:]
        raise ConfigError(f"train.cutout is {config.train.cutout}, and the images are {size} pixels; choose less")
    if config.calibration_images < data.num_classes:
        raise ConfigError(f"calibration_images={config.calibration_images} is fewer than one image per class")


def _needs_latency(config: Any, limits: Sequence[Limit]) -> bool:
    """Whether a limit is on latencies, or they are minimised (or limited, where no limit is given)."""
    return config.objective == "latency_ms" or any(limit.metric == "latency_ms" for limit in limits)


def _latency(request: Request, space: SearchSpace, needed: bool, listener: Listener | None) -> Any:
    """The latency table: the given one, checked to cover what the method needs, or this device's, measured where it lacks.

    None where no table is given and none is needed; what measures the final network is looked at all the same.
    """
    spaces = dict.fromkeys((space, METHODS[request.method].among(space)))
    if request.latency_table is not None:
        table = load_table(Path(request.latency_table), request.runtime, request.threads)
        for each in spaces:
            cost_tables(each, table)  # says what is missing
        return table
    runtime = make_runtime(request.runtime or RUNTIME, request.threads or 1)
    if not needed:
        return None

    def progress(done: int, total: int, key: str) -> None:
        if listener is not None:
            listener({"event": "measuring", "done": done, "total": total, "key": key})

    for each in spaces:
        measured = measure_table(each, runtime, cached_table_path(runtime), progress)
    return measured


# -- search and resume -----------------------------------------------------------------------------------------------


def search(request: Request, out: str | Path | None = None, listener: Listener | None = None) -> RunFolder:
    """Run a search from the beginning to its report; returns its folder (`result.json` holds what was found)."""
    if out is not None:
        refuse_existing(Path(out))
    prepared = prepare(request, listener)
    path = Path(out) if out is not None else next_free(Path("runs"), request.method)
    run = RunFolder.create(path, _config_file(prepared), listener)
    try:
        _keep_latency(run, prepared)
        _announce(prepared, run)
        _execute(prepared, run)
    finally:
        run.close()
    return run


def resume(
    path: str | Path, listener: Listener | None = None, space: SearchSpace | None = None, data: Any = None
) -> RunFolder:
    """Go on with a run that was interrupted; on CPU it ends with the same architectures and accuracies.

    `space` and `data` are needed where the run was started from Python with objects that have no name.
    """
    run = RunFolder.open(path, listener)
    result = run.read_json("result.json")
    if result is not None:
        if "front" in result and not (run.path / "report.html").exists():  # killed between the two
            write_report(run.path)
        return run
    run.own()
    try:
        if run.config["method"] == "train":
            train_only(run, reload_data(run, data))
            return run
        prepared = _reload(run, space, data)
        if not (run.path / "checkpoint" / "latency.ready").exists():
            _keep_latency(run, prepared)
        _announce(prepared, run)
        _execute(prepared, run)
    finally:
        run.close()
    return run


def _execute(prepared: Prepared, run: RunFolder) -> None:
    problem = prepared.problem(run)
    found = METHODS[prepared.request.method].search(problem, prepared.config)
    complete(problem, run, prepared.latency, prepared.config, found, prepared.doubts)


def _config_file(prepared: Prepared) -> dict[str, Any]:
    request, data, latency = prepared.request, prepared.data, prepared.latency
    source = str(request.data) if isinstance(request.data, str | Path) else None
    if source is not None and Path(source).exists():
        source = str(Path(source).resolve())
    skeleton = prepared.space.skeleton
    return {
        "hiernas": VERSION,
        "method": request.method,
        "preset": request.preset if request.config is None and not request.settings else "custom",
        "seed": request.seed,
        "space": {
            "name": skeleton.name,
            "arguments": {k: _plain(v) for k, v in skeleton.arguments},
            "options": {d.name: list(d.options) for d in prepared.space.decisions},
        },
        "data": {
            "source": source,
            "image_size": request.image_size,
            "val_per_class": request.val_per_class,
            "skip_bad_images": request.skip_bad_images,
            "seed": request.seed,
            "fingerprint": data.fingerprint,
        },
        "limits": [_exact(limit) for limit in prepared.limits],
        "automatic_limit": prepared.automatic_limit,
        "latency_table": None if request.latency_table is None else str(Path(request.latency_table).resolve()),
        "runtime": request.runtime or RUNTIME if latency is None else latency.runtime,
        "threads": request.threads or 1 if latency is None else latency.threads,
        "config": to_dict(prepared.config),
        "fitted": prepared.fitted,
        "doubts": list(prepared.doubts),
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _exact(limit: Limit) -> dict[str, Any]:
    return {
        "metric": limit.metric,
        "low": None if np.isinf(limit.low) else float(limit.low),
        "high": None if np.isinf(limit.high) else float(limit.high),
    }


def _keep_latency(run: RunFolder, prepared: Prepared) -> None:
    """Put the latency table that the search goes by into the run folder, where there is one."""
    source = prepared.request.latency_table
    if prepared.latency is None:
        return
    if source is not None:
        shutil.copyfile(source, run.path / f"latency{Path(source).suffix}")
    else:
        prepared.latency.save(run.path / "latency.json")
    run.write_text("checkpoint/latency.ready", "")


def _kept_latency(run: RunFolder) -> Path | None:
    if not (run.path / "checkpoint" / "latency.ready").exists():
        return None
    for path in sorted(run.path.glob("latency.*")):
        try:
            load_table(path)
        except LatencyError as error:
            raise RunError(f"{path}, which this run's limits were checked against, is damaged; start it again") from error
        return path
    raise RunError(f"the latency table of {run.path} is gone, and its limits were checked against it; start it again")


def reload_data(run: RunFolder, data: Any) -> ImageData:
    asked = run.config["data"]
    missing = {"source", "image_size", "val_per_class", "skip_bad_images", "seed", "fingerprint"} - set(asked or ())
    if missing:
        raise RunError(f"{run.path}/config.yaml is damaged: data has no {', '.join(sorted(missing))}; start the search again")
    source = data if data is not None else asked["source"]
    if source is None:
        raise RunError(f"{run.path} was started from Python with data that have no name; resume it with data=...")
    loaded = _load(
        Request(
            data=source,
            image_size=asked["image_size"],
            val_per_class=asked["val_per_class"],
            skip_bad_images=asked["skip_bad_images"],
            seed=asked["seed"],
        )
    )
    if loaded.fingerprint != asked["fingerprint"]:
        raise RunError(
            f"the data at {asked['source']} changed since {run.path} was started; put the former images back, or start a "
            "new search"
        )
    return loaded


def _reload(run: RunFolder, space: SearchSpace | None, data: Any) -> Prepared:
    try:
        config = run.config
        if space is None and config["space"]["name"] not in hiernas.spaces.NAMES:
            raise RunError(f"{run.path} searches a space of your own, '{config['space']['name']}'; resume it with space=...")
        loaded = reload_data(run, data)
        arguments = {k: v for k, v in config["space"]["arguments"].items() if k not in ("input_size", "num_classes")}
        table = _kept_latency(run) or config["latency_table"]
        request = Request(
            method=config["method"],
            space=space or config["space"]["name"],
            space_arguments=arguments,
            data=loaded,
            latency_table=table,
            **({} if table else {name: config[name] for name in ("runtime", "threads")}),
            preset=config["preset"],
            config=from_file(type(METHODS[config["method"]].presets["paper"]), config["config"]),
            seed=config["seed"],
        )
        limits = tuple(
            Limit(x["metric"], **{k: x[k] for k in ("low", "high") if x[k] is not None}) for x in config["limits"]
        )
        kept = {site: tuple(options) for site, options in config["space"]["options"].items()}
    except (KeyError, TypeError, AttributeError, ConfigError, LimitError) as error:
        raise RunError(f"{run.path}/config.yaml is damaged ({error}); start the search again") from error
    made = make_space(request.space, loaded, arguments).restrict(kept)
    latency = _latency(request, made, _needs_latency(request.config, limits), run.listener)
    original = replace(request, latency_table=config["latency_table"])
    told = {"fitted": config.get("fitted", ""), "doubts": tuple(config.get("doubts", ()))}
    return Prepared(original, request.resolved(), made, loaded, limits, latency, config["automatic_limit"], **told)


def reload_prepared(run: RunFolder) -> Prepared:
    """The request of a run with everything loaded and checked again; for runs whose space and data have names."""
    return _reload(run, None, None)


def _announce(prepared: Prepared, run: RunFolder) -> None:
    method, config = METHODS[prepared.request.method], prepared.config
    share = method.final_share(prepared.space, config, numpy_generator(prepared.request.seed, "share"))
    phases = method.work(config, prepared.data).items()
    work = {phase: x * (share if phase.startswith(("final", "compare")) else 1.0) for phase, x in phases}
    run.tell("start", plan=work, run=str(run.path), limits=[str(x) for x in prepared.limits], fitted=prepared.fitted)

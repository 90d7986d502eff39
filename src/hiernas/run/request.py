"""What is asked of a search, and what follows from it: everything loaded, checked and decided, as config.yaml keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import hiernas.spaces
from hiernas import ranks
from hiernas.budget import Limit
from hiernas.costs import MEMORY, parse_limits, sums
from hiernas.costs.limits import check_reachable, median_limit, sample_feasible, within_peaks
from hiernas.costs.tables import cost_tables, peak_tables
from hiernas.data import ImageData, check_augment, load_data
from hiernas.errors import ConfigError, DataError, LatencyError, LimitError, RunError, SpaceError, one_of
from hiernas.latency import bounded, load_table
from hiernas.latency.calibrate import FEWEST, corrected
from hiernas.latency.measure import cached_table_path, measure_table
from hiernas.latency.runtimes import RUNTIME, make_runtime
from hiernas.methods import METHODS
from hiernas.names import VERSION
from hiernas.randomness import numpy_generator
from hiernas.report.trust import of_limits
from hiernas.run.folder import Listener, RunFolder, teller
from hiernas.run.settings import differences, for_images, from_dict, from_file, names_of, plain, to_dict, with_settings
from hiernas.space import SearchSpace, Skeleton
from hiernas.spaces import make_space, space_function
from hiernas.train.loop import make_fabric
from hiernas.train.recipes import Recipe
from hiernas.train.retraining import Retraining

OPTIONS = ("image_size", "val_per_class", "skip_bad_images", "seed")  # of `load_data`
ONE_LEFT = "the limits leave one network of the space: there is nothing to search, and every method ends with it; widen them"
IN_8_BITS = "onnxruntime-int8"
IN_INT8 = "latencies are in INT8, accuracies and best.onnx in FP32: `hiernas export RUN --to onnx-int8` tests both"
BESIDE = {**dict.fromkeys(MEMORY[:2], "macs"), **dict.fromkeys(MEMORY[2:], "params"), "latency_int8_ms": "latency_ms"}
SAME = ("method", "preset", "seed", "automatic_limit", "latency_table", "runtime", "threads")  # in config.yaml as in `Prepared`
LATER = ("fitted", "timed", "left", "asked", "int8", "calibrate", "corrected")  # and where they are there, in newer runs
Read = tuple[ImageData, Mapping[str, Any]]  # images, and what config.yaml says of them
WHOLE = 12  # networks of cells, whose operations' latencies add up badly (benchmarks/calibrated.py)
READY = "checkpoint/latency.ready"  # empty: the run folder's copy of the latency table is complete


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
    final: Retraining | None = None  # the final training, where it is not the configuration's
    seed: int = 0
    image_size: int | None = None
    val_per_class: int | None = None
    skip_bad_images: bool = False
    time: float | None = None  # seconds in which all is to be done; None: as long as the configuration takes
    int8: bool | None = None  # whether what is found is also written and tested in INT8; None: where latencies are in INT8
    calibrate: int | None = None  # whole networks that correct a latency table measured here; None: WHOLE, of cells

    def asked(self) -> dict[str, Any]:
        """What was asked in words and numbers, and is not as always; of objects from Python the names, as "objects"."""
        values = {f.name: plain(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default}
        values = {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if v not in ({}, [])}
        told = {k: v for k, v in values.items() if isinstance(v, str | int | float | list | dict)}
        return told if told.keys() == values.keys() else {**told, "objects": sorted(values.keys() - told.keys())}

    def resolved(self) -> Any:
        """The configuration: the given one or the preset's, with the settings."""
        one_of("method", self.method, METHODS)
        presets, config = METHODS[self.method].presets, self.config
        kind = type(presets["paper"])
        if self.calibrate and self.calibrate < FEWEST:
            raise ConfigError(f"--calibrate {self.calibrate}: so few networks tell too little; take at least {FEWEST}, or 0")
        if self.calibrate and self.latency_table is not None:
            raise ConfigError(
                "--calibrate corrects what is measured here, and --latency-table gives a file; leave one of them out (`hiernas "
                "measure SPACE --out FILE --calibrate N --store-correction` corrects a file)"
            )
        if config is None:
            one_of("preset", self.preset, presets)
        if config is not None and not isinstance(config, kind):
            raise ConfigError(f"method '{self.method}' takes a {kind.__name__}, not a {type(config).__name__}")
        return with_settings(presets[self.preset] if config is None else config, self.settings)


@dataclass(frozen=True)
class Prepared:
    """A search with everything loaded, checked and decided. `to_dict` is its config.yaml, which `restore` reads."""

    method: str
    preset: str  # "custom" where anything else than a preset is asked for
    seed: int
    space: SearchSpace
    data: ImageData
    data_source: Mapping[str, Any]  # see `read_data`
    limits: tuple[Limit, ...]
    automatic_limit: bool
    latency_table: str | None  # the file that was given
    runtime: str  # that measures the networks that are found
    threads: int
    latency: Any  # the latency table that is gone by (ours or a phone's), or None
    config: Any
    final_recipe: Recipe | None = None  # of the final training, where it is not the configuration's
    fitted: str = ""  # what in the preset was changed for the number of images, in words
    timed: str = ""  # what was changed for the time that was given, and the plan, in words
    left: float | None = None  # seconds of its phases, of which the final training is still to take what is left
    doubts: tuple[str, ...] = ()  # what is doubtful before anything was searched
    asked: Mapping[str, Any] = field(default_factory=dict)  # see `Request.asked`
    int8: bool = False  # whether what is found is also written and tested in INT8
    calibrate: int = 0  # whole networks that were to correct the latency table
    corrected: str = ""  # what came of that, in words

    def to_dict(self) -> dict[str, Any]:
        """As config.yaml has it."""
        skeleton, options = self.space.skeleton, {d.name: list(d.options) for d in self.space.decisions}
        return {
            "hiernas": VERSION, "method": self.method, "preset": self.preset, "seed": self.seed,
            "space": {"name": skeleton.name, "arguments": plain(dict(skeleton.arguments)), "options": options},
            "data": dict(self.data_source),
            "limits": [
                {"metric": x.metric, **{k: b if isfinite(b) else None for k, b in (("low", x.low), ("high", x.high))}}
                for x in self.limits
            ],
            "automatic_limit": self.automatic_limit, "latency_table": self.latency_table, "runtime": self.runtime,
            "threads": self.threads, "config": to_dict(self.config), "fitted": self.fitted, "timed": self.timed,
            "doubts": list(self.doubts), "int8": self.int8, "calibrate": self.calibrate, "corrected": self.corrected,
            **({} if self.left is None else {"left": self.left}),
            **({} if self.final_recipe is None else {"final_recipe": to_dict(self.final_recipe)}),
            "asked": plain(dict(self.asked)),
        }  # fmt: skip

    @property
    def final(self) -> Retraining:
        return Retraining(self.final_recipe or self.config.train, self.config.final_epochs, self.config.final_lr)


def restore(run: RunFolder, space: SearchSpace | None = None, data: Any = None) -> Prepared:
    """The search of a run folder, loaded again by its config.yaml. `space`, `data`: those that have no name."""
    with reading(run) as config:
        same = {k: config[k] for k in (*SAME, *(k for k in LATER if k in config))}
        name, sizes = config["space"]["name"], ("input_size", "num_classes")
        arguments = {k: v for k, v in config["space"]["arguments"].items() if k not in sizes}
        kept = {site: tuple(options) for site, options in config["space"]["options"].items()}
        limits = tuple(Limit(**{k: v for k, v in limit.items() if v is not None}) for limit in config["limits"])
        chosen = from_file(type(METHODS[config["method"]].presets["paper"]), config["config"])
        other = config.get("final_recipe")
        final_recipe = None if other is None else from_file(Recipe, other)
    if space is None and name not in hiernas.spaces.NAMES:
        raise RunError(f"{run.path} searches a space of your own, '{name}'; resume it with space=...")
    if space is not None and (given := plain(dict(space.skeleton.arguments))) != config["space"]["arguments"]:
        was = config["space"]["arguments"]
        raise RunError(f"{run.path} searches '{name}' with {was}, and the space given has {given}; give the one it began with")
    images = reload_data(run, data)
    space = make_space(space or name, images, arguments).restrict(kept)
    kept_latency = _kept_latency(run)
    file, method = kept_latency or same["latency_table"], same["method"]
    latency = _latency(method, space, file, same["runtime"], same["threads"], chosen, limits, run.listener)
    if kept_latency is None and same.get("calibrate"):  # killed before it was kept
        latency, same["corrected"] = _corrected(method, space, latency, same["calibrate"], run.listener)
    return Prepared(
        **same, space=space, data=images, data_source=config["data"], limits=limits, latency=latency, config=chosen,
        final_recipe=final_recipe, doubts=tuple(config.get("doubts", ())),
    )  # fmt: skip


def prepare(request: Request, listener: Listener | None = None, read: Read | None = None) -> Prepared:
    """Load data (or take those `read`), space, costs and limits; every mistake and every impossible limit is refused here."""
    asked, method = request.resolved(), METHODS[request.method]
    (name, arguments), limits = _named_space(request), parse_limits(request.limits)
    if isinstance(name, str):
        space_function(name, arguments)
    data, source = read or read_data(request.data, listener, **{k: getattr(request, k) for k in OPTIONS})
    metrics, named = [limit.metric for limit in limits], names_of(request.settings)
    config = for_images(asked, request.preset, len(data.train), named) if request.config is None else asked
    fitted, final = differences(asked, config), request.final
    if final is not None:
        config = replace(config, final_epochs=final.epochs, final_lr=final.lr)
    if config.objective == "auto":  # the latency where it is limited or nothing is, else what the first limit is on
        first = "latency_ms" if "latency_ms" in metrics or not metrics else metrics[0]
        config = replace(config, objective=BESIDE.get(first, first))
    whole = make_space(name, data, arguments)
    recipe = config.train if final is None else final.recipe
    _refuse(request.method, config, recipe, whole, data)
    space = within_peaks(whole, limits, method.several)
    among = method.among(space)
    counted = cost_tables(among, None)  # what can be refused before anything is measured
    check_reachable(among, counted, [limit for limit in sums(limits) if limit.metric in counted])
    file, runtime, threads = request.latency_table, request.runtime, request.threads
    latency = _latency(request.method, space, file, runtime, threads, config, limits, listener)
    if request.calibrate and latency is None:
        raise ConfigError("--calibrate corrects latencies, and this search goes by none; limit latency_ms, or leave it out")
    in_doubt = latency is not None and file is None and space.skeleton.searched != "blocks"
    whole_ones = (WHOLE if in_doubt else 0) if request.calibrate is None else request.calibrate
    latency, said = _corrected(request.method, space, latency, whole_ones, listener) if whole_ones else (latency, "")
    if not metrics:
        table = cost_tables(space, latency)[config.objective]
        limits = (median_limit(space, table, numpy_generator(request.seed, "limit")),)
    tables, summed = cost_tables(among, latency), sums(limits)
    check_reachable(among, tables, summed)
    left = sample_feasible(among, tables, summed, numpy_generator(request.seed, "left"), 2)
    every = {**tables, **peak_tables(whole, method.several)}
    runtime = runtime or RUNTIME if latency is None else latency.runtime
    in_8_bits = runtime == IN_8_BITS or "latency_int8_ms" in metrics
    eighth = in_8_bits if request.int8 is None else request.int8
    of_latency = [*bounded(latency, space), *([IN_INT8] if in_8_bits and not eighth else [])]
    return Prepared(
        method=request.method, preset=request.preset if request.config is None and not request.settings else "custom",
        seed=request.seed, space=space, data=data, data_source=source, limits=limits, automatic_limit=not metrics,
        latency_table=None if file is None else str(Path(file).resolve()),
        runtime=runtime, threads=threads or 1 if latency is None else latency.threads, latency=latency, config=config,
        final_recipe=None if recipe == config.train else recipe, fitted=fitted,
        doubts=(*of_limits(every, limits, not metrics), *([ONE_LEFT] if len(left) < 2 else []), *of_latency),
        asked=request.asked(), int8=eighth, calibrate=whole_ones, corrected=said,
    )  # fmt: skip


def _named_space(request: Request) -> tuple[str | SearchSpace, Mapping[str, Any]]:
    """The space asked for and its arguments: without a name the method's own; one of its own in the size of the preset."""
    method = METHODS[request.method]
    for name in method.finds:
        if name in request.space_arguments:
            option = " (--cells)" if name == "cell" else ""
            raise ConfigError(f"method '{request.method}' finds space.{name} itself; leave it{option} out")
    own = method.spaces[request.preset if request.preset in method.spaces else "paper"]
    space = next(iter(own)) if request.space is None else request.space
    sizes = own.get(space, {}) if isinstance(space, str) else {}
    return space, {**sizes, **request.space_arguments}


def _refuse(method: str, config: Any, final: Recipe, space: SearchSpace, data: ImageData) -> None:
    """What cannot be searched, or trained on these images."""
    refusal, images = METHODS[method].refusal(space), getattr(config, "calibration_images", inf)
    if len(data.train) < 2 * 2:
        raise ConfigError(f"{len(data.train)} training images are too few to train on")
    if refusal is not None:
        raise SpaceError(
            f"method '{method}' cannot search '{space.name}': {refusal}; leave --space out, or choose another method "
            "(`hiernas list methods`)"
        )
    for recipe in dict.fromkeys((config.train, final)):
        check_recipe(recipe, space.skeleton)
        make_fabric(recipe)  # says so where this machine lacks the device or the precision
        size = data.input_size[1:]
        if recipe.cutout >= min(size):
            raise ConfigError(f"train.cutout is {recipe.cutout}, and the images are {size} pixels; choose less")
    if images < data.num_classes:
        raise ConfigError(f"calibration_images={images} is fewer than one image per class")


def check_recipe(recipe: Recipe, skeleton: Skeleton) -> None:
    """Refuse a recipe that asks for what is not here, or what such a network does not have."""
    check_augment(recipe)
    if recipe.drop_path and skeleton.searched == "blocks":
        chain = f"train.drop_path is for networks of cells, and '{skeleton.name}' is a chain"
        raise ConfigError(f"{chain}; leave it out (--set train.drop_path=0)")


def in_short(data: ImageData) -> dict[str, Any]:
    """What images there are, in numbers, and the notes on them: JSON."""
    sizes = {split: len(getattr(data, split)) for split in ("train", "val", "test")}
    return {"name": data.name, **sizes, **{k: list(getattr(data, k)) for k in ("classes", "input_size", "notes")}}


# -- what is read from files -------------------------------------------------------------------------------------------


@contextmanager
def reading(run: RunFolder) -> Iterator[Mapping[str, Any]]:
    """The run's config.yaml; what cannot be read in it is a `RunError`."""
    try:
        yield run.config
    except (KeyError, TypeError, AttributeError, ConfigError, LimitError) as error:
        what = f"{error} is missing or unknown" if isinstance(error, KeyError) else error
        raise RunError(f"{run.path}/config.yaml is damaged ({what}); start the search again") from error


def read_data(data: Any, listener: Listener | None = None, **options: Any) -> Read:
    """Images, and what config.yaml says of them: where they are from, how they were read, and how they are recognised.

    `data`: an `ImageData`, or anything that `load_data` takes; `options`: a value for each of OPTIONS.
    """
    if isinstance(data, str) and not data:
        raise DataError("--data is empty; name 'digits', a folder or hf:NAME")

    def told(what: str, done: int, total: int) -> None:
        if listener is not None:
            listener({"event": "decoding", "what": what, "done": done, "total": total})

    images = data if isinstance(data, ImageData) else load_data(data, **options, on_progress=told)
    name = str(data) if isinstance(data, str | Path) else None
    if name is not None and data != "digits" and Path(name).exists():  # the embedded images, whatever lies here
        name = str(Path(name).resolve())
    return images, {"source": name, **{k: options[k] for k in OPTIONS}, "fingerprint": images.fingerprint}


def reload_data(run: RunFolder, data: Any = None) -> ImageData:
    """The images of a run, which must be as they were. `data`: those images, where they have no name."""
    with reading(run) as config:
        asked = config["data"]
        source, fingerprint, options = asked["source"], asked["fingerprint"], {k: asked[k] for k in OPTIONS}
    if data is None and source is None:
        where = "they were given in Python, or it is from the hub"
        raise RunError(f"{run.path} does not say where its images are ({where}); give them with data=... or --data")
    if data is None and Path(source).is_absolute() and not Path(source).exists():
        raise RunError(f"the data are not at {source} any more; say where: `hiernas resume {run.path} --data NEW`")
    images, now = read_data(source if data is None else data, run.listener, **options)
    if now["fingerprint"] != fingerprint:
        where = data if isinstance(data, str) else source
        raise RunError(
            f"the data at {where} changed since {run.path} was started, or are others; put the former images back, or start "
            "a new search"
        )
    return images


def retraining_of(run: RunFolder) -> Retraining:
    """How a run of `hiernas train` trains its network."""
    with reading(run) as config:
        asked = config["train"]
        return from_dict(Retraining, {"recipe": asked["recipe"], "epochs": asked["epochs"], "lr": asked["lr"]})


@ranks.told
def _latency(
    method: str, space: SearchSpace, file: str | Path | None, runtime: str | None, threads: int | None, config: Any,
    limits: Sequence[Limit], listener: Listener | None,
) -> Any:  # fmt: skip
    """The latency table: the given one, checked to cover what the method needs, or this device's, measured where it lacks.

    None where no table is given and the search goes by no latencies; the runtime is looked at all the same.
    """
    spaces, table = dict.fromkeys((space, METHODS[method].among(space))), None
    in_int8 = any(limit.metric == "latency_int8_ms" for limit in limits)
    if file is not None:
        table = load_table(Path(file), runtime, threads)
        for each in spaces:
            cost_tables(each, table)  # says what is missing
        if in_int8 and table.int8 is None:
            raise ConfigError("latency_int8_ms is measured here; leave --latency-table out")
        return table
    engine = make_runtime(runtime or RUNTIME, threads or 1)
    if in_int8 and engine.runtime == IN_8_BITS:
        raise ConfigError(f"with --runtime {IN_8_BITS} latency_ms is in INT8, and latency_int8_ms the same; leave one out")
    if in_int8 or "latency_ms" in (config.objective, *(limit.metric for limit in limits)):
        engines = [engine, make_runtime(IN_8_BITS, engine.threads)] if in_int8 else [engine]
        for each in spaces:
            table, *others = [measure_table(each, e, cached_table_path(e), teller(listener)) for e in engines]
            table = replace(table, int8=others[0]) if others else table
    return table


@ranks.told
def _corrected(method: str, space: SearchSpace, table: Any, n: int, listener: Listener | None) -> tuple[Any, str]:
    """This device's table as whole networks of what the method finds correct it, and what that is worth, in words."""
    def of(each: Any) -> tuple[Any, str]:
        engine, tell = make_runtime(each.runtime, each.threads), teller(listener, "calibrating")
        return corrected(space, METHODS[method].among(space), each, engine, n, tell)

    (better, said), (int8, also) = of(table), (None, "") if table.int8 is None else of(table.int8)
    return replace(better, int8=int8), f"{said}; in INT8 {also}" if also else said


@ranks.by_first
def keep_latency(run: RunFolder, prepared: Prepared) -> None:
    """Put the latency table that the search goes by into the run folder, where there is one and it is not there yet."""
    if prepared.latency is None or (run.path / READY).exists():
        return
    if prepared.latency_table is not None:
        file = Path(prepared.latency_table)
        run.write_bytes(f"latency{file.suffix}", file.read_bytes())
    else:
        prepared.latency.save(run.path / "latency.json")
        run.record("latency.json")
    run.write_text(READY, "")


@ranks.told
def _kept_latency(run: RunFolder) -> Path | None:
    if not (run.path / READY).exists():
        return None
    for path in sorted(run.path.glob("latency.*")):
        try:
            run.check(path.name)
            load_table(path)
        except (LatencyError, RunError) as error:
            raise RunError(f"{path}, which this run's limits were checked against, is damaged; start it again") from error
        return path
    raise RunError(f"the latency table of {run.path} is gone, and its limits were checked against it; start it again")

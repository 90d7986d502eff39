"""The Python surface: the methods as functions that return a `SearchResult`, and the commands as functions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from functools import reduce, singledispatch
from operator import or_
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from torch.utils.data import Dataset
from typer.models import ArgumentInfo

from hiernas import cli, ranks
from hiernas.cli.progress import Display, Scalars
from hiernas.cli.show import Terminal
from hiernas.commands import checked_log, seconds_of
from hiernas.costs.tables import cost as count
from hiernas.data import ImageData
from hiernas.errors import ConfigError, SpaceError, builtin, did_you_mean
from hiernas.problem import Candidate
from hiernas.report.page import finished
from hiernas.run.folder import Listener, RunFolder
from hiernas.run.request import Request
from hiernas.run.search import resume as _resume
from hiernas.run.search import search
from hiernas.run.trained import TrainedNetwork, load
from hiernas.space import Architecture, SearchSpace


@dataclass(frozen=True)
class SearchResult:
    """What a search found. `result` is the run's result.json; costs are in ms, parameters and multiply-adds."""

    front: tuple[Candidate, ...]
    chosen: Candidate
    architecture: Architecture
    test_accuracy: float
    run_folder: Path
    result: dict[str, Any]

    def load(self) -> TrainedNetwork:
        """The trained network, with its classes and its `predict`; see `hiernas.load`."""
        return load(self.run_folder, self.architecture.skeleton.space())  # type: ignore[attr-defined] # all of ours have one

    def table(self) -> list[dict[str, Any]]:
        """Every architecture that was evaluated, a row each, as `pandas.DataFrame(found.table())` takes them.

        Keys: "phase", "options", "val_accuracy", "params", "macs", "latency_ms" (predicted, or None) and "chosen". Of a method
        that evaluates none one by one, the front's.
        """
        front = [{"phase": "front", **asdict(c), "options": list(c.options)} for c in self.front]
        rows = RunFolder.open(self.run_folder).table() or front
        return [{**row, "chosen": tuple(row["options"]) == self.chosen.options} for row in rows]


@dataclass(frozen=True)
class Search:
    """A search method as a function: `hiernas.hnas(space, data, limits=["latency_ms<=2", "params<=1M"])`."""

    method: str

    @ranks.joined()
    def __call__(
        self, space: SearchSpace | str | None = None, data: Any = "digits", limits: str | Sequence[str] = (),
        config: Any = None, *, preset: str = "quick", settings: str | Sequence[str] = (),
        latency_table: str | Path | None = None, runtime: str | None = None, threads: int | None = None,
        image_size: int | None = None, val_per_class: int | None = None, skip_bad_images: bool = False, seed: int = 0,
        time: float | str | None = None, int8: bool | None = None, calibrate: int | None = None,
        out: str | Path | None = None, on_event: Listener | None = None, progress: bool = False, log: str | None = None,
    ) -> SearchResult:  # fmt: skip
        """Search, train and measure; the run folder is `out`, by default a new one under runs/.

        `space`: the method's own where none is given; by name, one of its own has the size of the preset. `limits`: texts, or
        one such as "params<=60k and macs<=3M". `config`: of the method's own class, such as `HNASConfig`; without one, the
        preset's. `settings`: "key=value" on top of it. `time`: in which all is to be done, in seconds or such as "30m"; epochs
        are then set for it. `int8`: whether the network is written and tested in INT8, too. `calibrate`: so many whole
        networks are measured first, and correct latencies (0: none; by default 12 of cells). `on_event` is called with each
        event, a dict whose "event" says what it is: epochs, generations, ...; with `progress` it is shown as on the command
        line. The rest is as there.
        `data` is an `ImageData`, a torch Dataset of (image, label), or what `hiernas.load_data` takes. Raises
        `LimitError` before any training where no architecture meets the limits.

        >>> found = hiernas.hnas("tiny", limits="params<=60k", config=little, out="runs/digits")
        >>> found.chosen.params <= 60_000 and found.test_accuracy > 0.1
        True
        """
        if config is not None and preset != "quick":
            raise ConfigError(f"preset={preset!r} and a config were given; give one of them")
        if space is not None and not isinstance(space, str | SearchSpace):
            raise SpaceError(f"space={space!r} is no space; give a SearchSpace or a name (`hiernas list spaces`)")
        given, told = {
            "limits": limits, "settings": settings, "latency_table": latency_table, "runtime": runtime, "threads": threads,
            "preset": preset, "image_size": image_size, "val_per_class": val_per_class, "skip_bad_images": skip_bad_images,
            "time": time, "int8": int8, "calibrate": calibrate, "seed": seed, "out": out,
        }, _options(cli.asked_by(cli.search)[0])  # fmt: skip
        read = {option: _read(option, value, told[option][1], {}) for option, value in given.items()}
        read |= {"time": seconds_of(read["time"]), **{key: tuple(read[key] or ()) for key in ("limits", "settings")}}
        out, request = read.pop("out"), Request(self.method, space, {}, data, config=config, **read)
        with _listening(on_event, progress, log) as listener:
            return _result(search(request, out, listener), space)


hnas = Search("hnas")  # HNAS, arXiv 2005.07564v1
hournas = Search("hournas")  # HourNAS, arXiv 2005.14446v3
hdas = Search("hdas")  # H-DAS, arXiv 2101.04028v2: cells, their number, the graphs between them
hmnas = Search("hmnas")  # HM-NAS, arXiv 1909.00122v2: learned masks on edges and operations
darts = Search("darts")  # DARTS, arXiv 1806.09055, first order
spos = Search("spos")  # SPOS, arXiv 1904.00420, with the same budget
random_search = Search("random-search")  # random feasible architectures judged by one supernet, with the same budget


@ranks.joined()
def resume(
    run: str | Path, space: SearchSpace | None = None, data: Any = None, *, on_event: Listener | None = None,
    progress: bool = False, log: str | None = None,
) -> SearchResult:  # fmt: skip
    """Go on with an interrupted run. `space` and `data`: those it was started with, where they have no name.

    >>> hiernas.resume("runs/digits").test_accuracy == found.test_accuracy  # it was finished
    True
    """
    with _listening(on_event, progress, log) as listener:
        return _result(_resume(run, listener, space=space, data=data), space)


@contextmanager
def _listening(on_event: Listener | None, progress: bool, log: str | None) -> Iterator[Listener]:
    """Whatever is to be told: the caller, the terminal or notebook, a file of numbers."""
    if not (on_event is None or callable(on_event)):
        raise ConfigError(f"on_event={on_event!r} cannot be called; give a function of one argument, an event")
    told = [] if on_event is None else [on_event]
    if checked_log(log) is not None:
        told.append(Scalars(str(log)))

    def tell(event: Mapping[str, Any]) -> None:
        for each in told:
            each(event)

    with ExitStack() as stack:
        if progress and ranks.number() == 0:
            lines = False if Terminal().is_jupyter else None  # its streams say that they are terminals, and cannot go back
            shown = Terminal(force_terminal=lines, force_jupyter=False, highlight=False, soft_wrap=True, markup=False)
            told.append(stack.enter_context(Display(shown)))
        yield tell


def _result(run: RunFolder, space: SearchSpace | str | None) -> SearchResult:
    result = finished(run, search=True)
    own, named = space if isinstance(space, SearchSpace) else None, run.read_json("best.json")
    architecture = Architecture.from_json(named, own, source=f"{run.path}/best.json")
    front, chosen = tuple(_candidate(m) for m in result["front"]), _candidate(result["chosen"])
    return SearchResult(front, chosen, architecture, result["chosen"]["test_accuracy"], run.path, result)


def _candidate(member: dict[str, Any]) -> Candidate:
    latency = member["latency_ms"]["predicted"]
    accuracy = math.nan if member["val_accuracy"] is None else member["val_accuracy"]  # of a control's untrained network
    return Candidate(tuple(member["options"]), accuracy, member["params"], member["macs"], latency)


# -- the commands as functions -----------------------------------------------------------------------------------------

WIDER: dict[Any, Any] = {  # what Python takes beside the command line's words: by their type, and by name
    Path: str | Path, list[str]: str | Sequence[str], list[Path]: str | Path | Sequence[str | Path],
    "time": float, "input_size": Sequence[int], "methods": Sequence[str], "data": Path, "source": Path,
}  # fmt: skip
TOLD: dict[str, Any] = {"on_event": (Listener | None, None), "progress": (bool, False)}  # of what takes its time


def _function(run: Callable[..., Any], example: str, returns: Any = dict[str, Any], **objects: Any) -> Callable[..., Any]:
    """A command as a function of its options; of `objects`, too, types by option, where it takes others than words.

    It returns what the command prints as JSON, and raises what the command ends with.
    """
    (kind, listens), name = cli.asked_by(run), run.__name__
    options, empty = _options(kind), inspect.Parameter.empty
    defaults = {f.name: empty if f.default is MISSING else f.default for f in fields(kind)}
    told = TOLD if listens else {}
    parameters = [
        inspect.Parameter(o, _place(info), default=defaults[field], annotation=_annotation(o, words, objects))
        for o, (field, (words, info)) in options.items()
    ] + [inspect.Parameter(o, _place(), default=default, annotation=hint) for o, (hint, default) in told.items()]
    signature = inspect.Signature(sorted(parameters, key=lambda p: p.kind), return_annotation=returns)

    def function(*given: Any, **named: Any) -> Any:
        for option in named:
            if option not in signature.parameters:
                raise ConfigError(f"No such option: {option}; {did_you_mean(option, signature.parameters)}")
        try:
            values = signature.bind(*given, **named).arguments
        except TypeError as error:
            raise ConfigError(f"{name}: {error}") from error
        heard = values.pop("on_event", None), values.pop("progress", False), values.get("log")
        asked = kind(**{options[o][0]: _read(o, value, options[o][1], objects) for o, value in values.items()})
        with _listening(*heard) as listener:
            value, _ = run(asked, listener) if listens else run(asked)
        return value

    helped = "\n".join(f"    {o}: {info.help}" for o, (_, (_, info)) in options.items())
    function.__doc__ = f"{run.__doc__}\n{example}\n\nOptions, as on the command line:\n\n{helped}"
    function.__name__ = function.__qualname__ = name
    function.__signature__ = signature  # type: ignore[attr-defined] # for help() and editors
    return function


def _options(kind: type[Any]) -> dict[str, tuple[str, Any]]:
    """By its word, the field of a command's dataclass, and what the option holds."""
    hints = get_type_hints(kind, include_extras=True)
    return {f.name.rstrip("_"): (f.name, get_args(hints[f.name])) for f in fields(kind) if f.init and f.name != "json"}


def _place(info: Any = None) -> Any:
    return inspect.Parameter.POSITIONAL_OR_KEYWORD if isinstance(info, ArgumentInfo) else inspect.Parameter.KEYWORD_ONLY


def _annotation(option: str, words: Any, objects: Mapping[str, Any]) -> Any:
    kinds = [WIDER.get(k, k) for k in ([words] if words in WIDER else get_args(words) or [words])]
    kinds += [more[option] for more in (WIDER, objects) if option in more]
    return reduce(or_, sorted(kinds, key=lambda kind: kind is type(None)))


def _read(option: str, value: Any, hint: Any, objects: Mapping[str, Any]) -> Any:
    """A value as the command line reads it, and the same sentence where it cannot be."""
    (words, info), given = hint, value
    if option in objects and isinstance(value, objects[option]):
        return value
    value, kinds = builtin(value), {words, *get_args(words)}
    if option == "time" and type(value) in (int, float):
        value = f"{value}s"
    if {list[str], list[Path]} & kinds:
        value = (value,) if isinstance(value, str | Path) else value
    elif str in kinds:
        value = ",".join(map(str, value)) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    kind: Any = Annotated[words, Field(ge=getattr(info, "min", None))]
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        wrong = error.errors()[0]
        if wrong["type"].endswith("_type") or bool in kinds:  # which the command line cannot be given
            raise ConfigError(f"{option}={given!r:.80} cannot be used; give {_words(kinds)}") from error
        flag = option if isinstance(info, ArgumentInfo) else (info.param_decls or [f"--{option.replace('_', '-')}"])[0]
        raise ConfigError(f"Invalid value for '{flag}': {wrong['msg']}") from error


def _words(kinds: set[Any]) -> str:
    """What an option takes, in words."""
    known = {list[str]: "a text or a list of texts", list[Path]: "a path or a list of paths", bool: "True or False",
             Path: "a path", str: "a text", int: "a whole number", float: "a number"}  # fmt: skip
    return next(words for kind, words in known.items() if kind in kinds)


check = _function(cli.check, """
    >>> faced = hiernas.check("random", limits=["params<=60k", "macs<=3M"], settings="final_epochs=1")
    >>> faced["limits"], faced["total_seconds"] > 0
    (['params <= 60k', 'macs <= 3M'], True)""", space=SearchSpace, data=ImageData | Dataset)  # fmt: skip
train = ranks.joined()(_function(cli.train, """
    >>> hiernas.train("runs/digits", epochs=1, out="runs/again").name
    'again'""", Path, data=ImageData | Dataset))  # fmt: skip
export = _function(cli.export, """
    >>> hiernas.export("runs/digits", to="python")["file"]
    'runs/digits/best.py'""")  # fmt: skip
report = _function(cli.report, """
    >>> hiernas.report("runs/digits").name
    'report.html'""", Path)  # fmt: skip
rank = _function(cli.rank, """
    >>> hiernas.rank("runs/digits", networks=11, progress=True)["improvement"]  # doctest: +SKIP
    0.8""")  # fmt: skip
compare = _function(cli.compare, """
    >>> [run["method"] for run in hiernas.compare(["runs/digits", "runs/digits"])["runs"]]
    ['hnas', 'hnas']""")  # fmt: skip
measure = _function(cli.measure, """
    >>> hiernas.measure("tiny", input_size=(1, 8, 8), num_classes=10, out="tiny.json")["file"]
    'tiny.json'""")  # fmt: skip
evaluate = _function(cli.evaluate, """
    >>> hiernas.evaluate("runs/digits")["accuracy"] == found.test_accuracy
    True""", data=ImageData)  # fmt: skip
cost = singledispatch(_function(cli.cost, """
    >>> hiernas.cost("runs/digits")["params"] == hiernas.cost(found.architecture).params == found.chosen.params
    True

An `Architecture` gives a `Cost` of what is counted alone, with the latency where a `LatencyTable` follows it."""))  # fmt: skip
cost.register(Architecture, count)

"""The report page of a run: reads result.json and events.jsonl, writes report.html."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired, Protocol

import numpy as np
from jinja2 import UndefinedError
from markupsafe import Markup
from pydantic import Field
from typing_extensions import TypedDict

from hiernas.budget import METRICS
from hiernas.costs import LATENCIES, MEMORY
from hiernas.errors import UNREADABLE, RunError, validated
from hiernas.host import first_line, visible
from hiernas.problem import Journal
from hiernas.report import cells, figures, hmnas, hournas, kit, units
from hiernas.report.cells import is_cells
from hiernas.report.kit import Run, Teller, Told, Values, macros
from hiernas.report.trust import MOST, SHOWN, Evaluation, miss, verdict
from hiernas.run.disk import damaged, write_whole

SECTIONS = macros("run.html")
FORMAT = 1
LAST_STEP = {"prior": "NASWOT of the candidates", "predicted": "judging what the predictor added"}  # phases of any method
TELLERS: Mapping[str, Teller] = {  # by what a method left in the result's details; the first that is there tells
    "control": cells, "proposals": hournas, "masks": hmnas, "decided": cells, "weights": cells
}  # fmt: skip


# -- what the files hold, as far as the page and other commands read them ------------------------------------------

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Data(TypedDict):  # the images
    name: str
    classes: list[str]
    train: Count
    val: Count
    test: Count
    input_size: Annotated[list[Count], Field(min_length=3, max_length=3)]
    notes: list[str]


class Tested(TypedDict):  # a trained network
    test_accuracy: Number
    sites: dict[str, Any]


class Member(TypedDict):  # a network of the front
    options: list[str]
    val_accuracy: Number | None
    params: Count
    macs: Count
    latency_ms: dict[str, Number | None]


class Chosen(Member, Tested):
    """The network that was chosen."""


class Bound(TypedDict):  # a limit
    metric: str
    low: Number | None
    high: Number | None
    text: str


class Stage(TypedDict):  # a pruning
    sites: dict[str, dict[str, Number]]
    kept: dict[str, list[str]]
    size_before: int
    size_after: int


class Trained(TypedDict):  # result.json of `hiernas train`
    method: str
    seed: int
    data: Data
    chosen: Tested
    space: dict[str, str | int | dict[str, Any]]


class Searched(TypedDict):  # result.json of a search, but for what its method says in `details`
    method: str
    seed: int
    data: Data
    chosen: Chosen
    space: dict[str, str | int | dict[str, Any]]
    objective: str
    limits: list[Bound]
    device: dict[str, str | int] | None
    front: list[Member]
    latency_error: dict[str, Number] | None
    evaluated: Count
    stages: list[Stage]
    doubts: NotRequired[list[str]]
    seconds: dict[str, Number]


# -- in words ------------------------------------------------------------------------------------------------------


def words(result: Values) -> list[str]:
    lines, finalists = [*_teller(result).words(result), *_order_words(result)], _finalists(result)
    if finalists:
        epochs, accuracy = finalists[0]["trained"][-1]
        reached = f"{units.percent(accuracy)} validation accuracy after {units.number(epochs, 'epoch')} of training"
        lines.append(f"best of {len(finalists)} finalists: {reached}")
    return lines if is_cells(result) else [*lines, "chosen: " + " ".join(result["chosen"]["options"])]


def summary(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Lines and the asked / predicted / measured rows of a result."""
    chosen = result["chosen"]
    lines = [f"test accuracy {chosen['test_accuracy']:.2%} ({result['data']['name']}, {_test_words(result)})"]
    if "front" not in result:
        return lines, []
    asked = dict.fromkeys(METRICS, units.NONE) | {x["metric"]: x["text"] for x in result["limits"]}
    latency, counted = chosen["latency_ms"], {"params": "params", "macs": "MACs", **{m: units.name(m) for m in MEMORY}}
    ranked = units.NONE
    if chosen["val_accuracy"] is not None:
        ranked = f"{chosen['val_accuracy']:.2%} ({units.judged(result)})"
    rows = [
        ["latency", asked["latency_ms"], *(units.milliseconds(latency[kind]) for kind in ("predicted", "measured"))],
        *(
            ["latency in INT8", asked[m], *(units.milliseconds(units.latency(chosen, k, m)) for k in ("predicted", "measured"))]
            for m in LATENCIES[1:] if m in chosen
        ),
        *([name, asked[m], *[units.amount(m, chosen[m])] * 2] for m, name in counted.items() if m in chosen),
        ["accuracy", units.NONE, ranked, f"{chosen['test_accuracy']:.2%} (test)"],
    ]
    error = result["latency_error"]
    if error:
        lines.append(
            f"latency predicted against measured over {error['networks']} networks: mean absolute error "
            f"{error['mean_absolute_percent']:.1f} %, bias {error['bias_percent']:+.1f} %"
        )
    elif result["device"] and latency["measured"] is None:
        lines.append(f"latency is of {result['device']['device']}; it cannot be measured on this machine")
    return [*lines, *words(result)], rows


def _test_words(result: Values) -> str:
    """On how many images an accuracy was tested, how sure it is, and what guessing gives, where that is known."""
    images, found = result["data"]["test"], Evaluation.read(result)
    low, high = units.wilson(result["chosen"]["test_accuracy"], images)
    guessed = "" if found is None else f"; the largest class alone: {found.largest:.2%}"
    return f"{images} test images; 95 % interval {low:.1%} to {high:.1%}{guessed}"


class Folder(Journal, Protocol):
    """The folder of a run, as far as its page is made of it."""

    config: Mapping[str, Any]

    def events(self) -> list[dict[str, Any]]: ...


def write_report(run: Folder) -> Path:
    """Write RUN/report.html from RUN/result.json and RUN/events.jsonl, and return its path.

    The page is one file: figures and style are inside, nothing is loaded. Raises `RunError` where there is no result yet, or
    one of the files is damaged or from another version; a last event that was cut off is left out.
    """
    folder, result, path = run.path, result_of(run), run.path / "report.html"
    if result is None:
        stopped = f"if the search was stopped, go on with `hiernas resume {folder}`"
        raise RunError(f"{folder} has no result.json, so there is nothing to report yet; {stopped}")
    extras = [run.read_json(name) for name in ("vital.json", "int8.json")]
    with telling(folder / "result.json"):
        text = page(Run(folder, result, run.events(), run.config), *extras)
    write_whole(path, "\n".join(map(visible, text.split("\n"))).encode())
    return path


# -- reading the run -----------------------------------------------------------------------------------------------


def result_of(run: Journal) -> dict[str, Any] | None:
    """A run's result, of a search or of one network's training, None where it has not finished; damage is a `RunError`."""
    result = run.read_json("result.json")
    return result and _checked(result, run.path)


def finished(run: Journal, search: bool = False) -> dict[str, Any]:
    """The result of a finished run or, where it must be one, `search`. Raises `RunError` for any other."""
    result = result_of(run)
    if result is None or (search and "front" not in result):
        state = "no finished search" if search else "not finished"
        raise RunError(f"{run.path} is {state}; go on with `hiernas resume {run.path}`")
    return result


def _checked(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a result.json holds, as it is; raises `RunError` with the first key that is wrong."""
    if result.get("format") != FORMAT:
        other = f"has result format {result.get('format')!r}, and this version reads {FORMAT}"
        raise RunError(f"{folder / 'result.json'} {other}; use the one it is from")
    try:
        validated(Trained if result.get("method") == "train" else Searched, result, "content", RunError)
    except RunError as error:
        raise damaged(folder, "result.json", str(error).removeprefix("content: ")) from error
    return result


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Inside, what a file of a run holds is told; `RunError` where it cannot be."""
    try:
        yield
    except (UndefinedError, ArithmeticError, StopIteration, *UNREADABLE) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise damaged(path.parent, path.name, why) from error


# -- the page ------------------------------------------------------------------------------------------------------


def page(run: Run, reset: Values | None = None, int8: Values | None = None) -> str:
    """The whole page as text; `reset` is what `hiernas vital --reset` found, `int8` what the export to INT8 did."""
    result, searched = run.result, "front" in run.result
    drawn = cells.pictures(result) if is_cells(result) else []
    told = _teller(result).tell(run) if searched else Told("It was given, and was trained by itself.", drawn)
    by_phase = result.get("seconds") or {}
    brief = sum(s for phase, s in by_phase.items() if phase.startswith("brief"))  # trainings of finalists, as one
    with telling(run.folder / "events.jsonl"):
        curves = figures.training(run.events, told)
    with telling(run.folder / "vital.json"):
        blocks = hournas.SECTIONS.reset(hournas.reset(reset), reset) if reset else ""
    with telling(run.folder / "int8.json"):
        eighth = SECTIONS.int8(int8) if int8 else ""
    seconds = {k: s for k, s in by_phase.items() if not k.startswith("brief")} | ({"finalists": brief} if brief else {})
    sections = [
        SECTIONS.asked(result, partial(miss, result)) if searched else "",
        _tested(result),
        *told.found,
        SECTIONS.finalists(_finalists(result), _order_words(result)),
        "" if is_cells(result) else figures.network(result),
        blocks,
        curves,
        eighth,
        SECTIONS.now(shlex.quote(str(run.folder)), str(run.folder / "best.onnx"), result, _again(run.config)),
        SECTIONS.data(result["data"]),
        SECTIONS.settings(result, _arguments(result["space"]["arguments"]), searched, [*_keys(run.config.get("config", {}))]),
        SECTIONS.times(seconds, {**LAST_STEP, **told.phases}),
    ]
    last = next((str(e["time"]) for e in reversed(run.events) if "time" in e), "")
    return kit.page(
        over=["HierNAS report", result["method"], result.get("preset"), last.replace("T", " ")],
        title=f"{units.percent(result['chosen']['test_accuracy'])} test accuracy on {result['data']['name']}",
        verdict=verdict(result, _beside(run)), lead=SECTIONS.lead(result, told), tiles=SECTIONS.tiles(result["chosen"]),
        result=result, sections=sections,
    )  # fmt: skip


def _teller(result: Values) -> Teller:
    """Who tells of a result, by what is in it; `figures` of networks of a chain that were evaluated one by one."""
    details = result.get("details") or {}
    return next((teller for key, teller in TELLERS.items() if key in details), cells if is_cells(result) else figures)


def _beside(run: Run) -> dict[str, float]:
    """Test accuracies, by method, of the networks without a search in the same study, under its limit and with its seed."""
    folder = run.folder.resolve()
    if not (folder.parent.parent / "study.yaml").exists():
        return {}
    found = dict[str, float]()
    for path in sorted(folder.parent.glob("*/result.json")):
        with suppress(OSError, RunError, *UNREADABLE):  # a damaged one is not this run's
            other = _checked(json.loads(path.read_text()), path.parent)
            if path.parent != folder and "control" in (other.get("details") or {}) and other["seed"] == run.result["seed"]:
                found[other["method"]] = other["chosen"]["test_accuracy"]
    return found


def _tested(result: Values) -> Markup | str:
    """What the network says of the test images: by class, what it takes for what, and its surest mistakes."""
    if (found := Evaluation.read(result)) is None:
        return ""
    classes = sorted(found.by_class, key=lambda each: 1.0 if each[2] is None else each[2])
    if len(found.classes) > SHOWN:
        return SECTIONS.tested(classes[:MOST], classes[MOST:], found, found.confused[:MOST], None, result)
    shares = found.confusion / np.maximum(found.images, 1)[:, None]
    rows = {
        name: [kit.Cell(share, str(n) if n else "", kept=False) for share, n in zip(of, counts, strict=True)]
        for name, of, counts in zip(found.classes, shares.tolist(), found.confusion.tolist(), strict=True)
    }
    return SECTIONS.tested(classes, [], found, [], rows, result)


def _order_words(result: Values) -> list[str]:
    """How good the predictor that put the candidates in order is, where there was one."""
    predictor = (result.get("details") or {}).get("predictor")
    if predictor is None:
        return []
    known, added = units.number(predictor["networks"], "network"), units.number(predictor["added"], "network")
    return [f"predictor: learned from {known}, R² {predictor['r2']:.2f} on those left out; {added} added by it"]


def _finalists(result: Values) -> Sequence[Values]:
    """The candidates that were trained before one was taken, the best first; none where there was no such step."""
    return (result.get("details") or {}).get("finalists") or []


def _arguments(of_space: Values) -> str:
    """A genotype among them stands in full with the cells, and in result.json."""
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in of_space.items()}
    return ", ".join(f"{key}={text if len(text) <= 120 else f'{text[:60]}…'}" for key, text in texts.items())


def _keys(config: Values, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings as --set names them."""
    for key, value in config.items():
        yield from _keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]


FLAGS = {"limits": "--limit", "settings": "--set"}  # options that are not called as what is asked


def _again(config: Values) -> str:
    """The command that does a search once more; "" where objects from Python were given, and for other than searches."""
    asked, words = dict(config.get("asked") or {}), ["hiernas", "search", str(config.get("method"))]
    of_space, _ = asked.pop("space_arguments", {}), asked.pop("method", None)
    words += [word for key, value in of_space.items() for word in ("--set", f"space.{key}={value}")]
    if "asked" not in config or "objects" in asked or any(isinstance(value, dict | list) for value in of_space.values()):
        return ""
    for name, value in asked.items():
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
            continue
        for each in value if isinstance(value, list) else [value]:
            words += [flag, f"{each:g}s" if name == "time" else str(each)]
    return shlex.join(words)

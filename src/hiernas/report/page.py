"""The report page of a run: reads result.json and events.jsonl, writes report.html."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hiernas.errors import RunError
from hiernas.report import tables, units
from hiernas.report.tables import Html, Values, escape, section

FORMAT = 1
NEEDED = ("chosen", "data", "front", "limits", "method", "objective", "space", "stages")
WIDE, NARROW = 856, 350  # pixels; every figure is drawn for both, and the page shows the one that fits

ABOUT_OPERATIONS = (
    "Probability (%) of each operation in each layer, among the best architectures found before a pruning: the "
    "stronger the colour, the more frequent. A cross marks an operation that was dropped there; an empty place, one "
    "that the layer does not have."
)
ABOUT_TRAINING = "Accuracy by epoch."
ABOUT_PRUNING = " Dotted lines mark the prunings: the supernet goes on with the weights of what survives."


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from RUN/result.json and RUN/events.jsonl, and return its path.

    The page is one file: figures and style are inside, nothing is loaded. Raises `RunError` where one of the
    two files is missing, damaged or from another version; a last event that was cut off is left out.
    """
    run_folder = Path(run_folder)
    text = page(_result(run_folder), _events(run_folder))
    path = run_folder / "report.html"
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; make the run folder writable") from error
    return path


# -- reading the run -----------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    run = path.parent
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError as error:
        raise RunError(
            f"{run} has no {path.name}, so there is nothing to report yet; if the search was stopped, go on with "
            f"`hiernas resume {run}`"
        ) from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; name a run folder you may read") from error


def _result(run_folder: Path) -> Values:
    path = run_folder / "result.json"
    try:
        result = json.loads(_read(path))
    except ValueError as error:
        raise RunError(
            f"{path} is damaged ({error}); delete it, and `hiernas resume {run_folder}` writes it again"
        ) from error
    found = result.get("format") if isinstance(result, dict) else None
    if found != FORMAT:
        raise RunError(f"{path} has result format {found!r}, and this version reads {FORMAT}; use the one it is from")
    for key in NEEDED:
        if result.get(key) is None:
            raise RunError(f"{path} has no '{key}', so it is no search's result; name a folder of `hiernas search`")
    return dict(result)


def _events(run_folder: Path) -> list[Values]:
    path = run_folder / "events.jsonl"
    lines = _read(path).rstrip("\n").split("\n")
    events: list[Values] = []
    for i, line in enumerate(lines, 1):
        try:
            event = json.loads(line or "{}")
        except ValueError as error:
            if i == len(lines):  # cut off when the run was stopped
                break
            raise RunError(f"line {i} of {path} is damaged; delete that line and ask for the report again") from error
        if isinstance(event, dict):
            events.append(event)
    return events


# -- the page ------------------------------------------------------------------------------------------------------


def page(result: Values, events: Sequence[Values]) -> str:
    """The whole page as text."""
    from hiernas.report import drawing, figures  # matplotlib is loaded only where a page is made

    seconds = result.get("seconds")
    about_training = ABOUT_TRAINING + (ABOUT_PRUNING if result["stages"] else "")
    about_front = _about_front(result, figures.front_metric(result))
    body = [
        _header(result, events),
        section("Asked, predicted, measured", tables.asked(result), tables.precision(result)),
        _figure("Pareto front", lambda width: figures.front(result, width), about_front),
        _figure("What each pruning kept", lambda width: figures.operations(result, width), ABOUT_OPERATIONS),
        _figure("The chosen network", lambda width: drawing.architecture(result, width), drawing.about(result)),
        _figure("Training", lambda width: figures.training(result, events, width), about_training),
        section("The front in numbers", tables.front(result)) if result["front"] else Html(),
        section("Data", tables.data(result)),
        section("Settings", tables.settings(result)),
        section("Time", tables.times(seconds)) if seconds else Html(),
        Html(f"<footer>HierNAS {escape(result.get('hiernas', ''))}. This page is complete in itself.</footer>"),
    ]
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>HierNAS: {escape(_title(result))}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, body))
        + "\n</main>\n</body>\n</html>\n"
    )


def _figure(title: str, figure: Callable[[float], str], caption: str) -> Html:
    wide = figure(WIDE)
    if not wide:
        return Html()
    both = f'<div class="wide">{wide}</div>\n<div class="narrow">{figure(NARROW)}</div>'
    return section(title, Html(f"<figure>\n{both}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"))


def _about_front(result: Values, metric: str) -> str:
    """The front's caption: what is plotted, and what could not be."""
    n, of = len(result["front"]), units.name(metric).lower()
    none = "No other network that was found is" if n == 1 else f"{n} networks; none that was found is"
    said = [f"{none} both more accurate and better in {of}.", "Accuracy is that with the supernet's weights."]
    if any(limit["metric"] == metric for limit in result["limits"]):
        said.append("Grey is outside the limits.")
    others = [units.limit_text(limit) for limit in result["limits"] if limit["metric"] != metric]
    if others:
        said.append(f"Also asked: {', '.join(others)}.")
    if metric != result["objective"]:
        said.append(f"{units.name(result['objective'])} was not predicted for all of them.")
    return " ".join(said)


# -- headline ------------------------------------------------------------------------------------------------------


def _accuracy(chosen: Values) -> tuple[float, str]:
    """The best-founded accuracy of the chosen network, and on which images it was taken."""
    for key, where in (("test_accuracy", "test"), ("trained_val_accuracy", "validation")):
        if chosen.get(key) is not None:
            return chosen[key], where
    return chosen["val_accuracy"], "supernet validation"


def _title(result: Values) -> str:
    accuracy, where = _accuracy(result["chosen"])
    return f"{units.percent(accuracy)} {where} accuracy on {result['data']['name']}"


def _header(result: Values, events: Sequence[Values]) -> Html:
    data, space = result["data"], result["space"]
    last = next((str(e["time"]) for e in reversed(events) if "time" in e), "")
    over = ["HierNAS report", result["method"], result.get("preset"), last.replace("T", " ")]
    limits = " and ".join(units.limit_text(limit) for limit in result["limits"])
    size = "×".join(map(str, data["input_size"]))
    lead = (
        f"The best network found for {data['name']} ({len(data['classes'])} classes, {size} images) "
        f"{f'with {limits}' if limits else 'without limits'}. "
        f"The search evaluated {units.count(result.get('evaluated'))} of the {units.size(space['size'])} "
        f"architectures of the space {space['name']}."
    )
    return Html(
        f'<header>\n<p class="over">{escape(" · ".join(filter(None, over)))}</p>\n<h1>{escape(_title(result))}</h1>\n'
        f"<p>{escape(lead)}</p>\n{_tiles(result['chosen'])}\n</header>"
    )


def _tiles(chosen: Values) -> Html:
    accuracy, where = _accuracy(chosen)
    predicted, measured = units.latency(chosen, "predicted"), units.latency(chosen, "measured")
    latency, source = (predicted, "predicted") if measured is None else (measured, "measured")
    tiles = [
        ("Accuracy", units.percent(accuracy), where),
        ("Latency", units.milliseconds(latency), source if latency is not None else "not measured"),
        ("Parameters", units.short(chosen["params"]), "counted"),
        ("Multiply-adds", units.short(chosen["macs"]), "counted"),
    ]
    cells = (f"<div><dt>{escape(n)}</dt><dd>{escape(v)} <small>{escape(s)}</small></dd></div>" for n, v, s in tiles)
    return Html(f'<dl class="tiles">{"".join(cells)}</dl>')

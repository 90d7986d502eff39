"""The report page of a run: reads result.json and events.jsonl, writes report.html."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hiernas.errors import RunError
from hiernas.report import cells, graphs, hournas, masks, tables, units
from hiernas.report.tables import Html, Values, escape, figure, section

FORMAT = 1
NEEDED = ("chosen", "data", "front", "limits", "method", "objective", "space", "stages")

ABOUT_OPERATIONS = (
    "Probability (%) of each operation in each layer, among the best architectures found before a pruning: the "
    "stronger the colour, the more frequent. A cross marks an operation that was dropped there; an empty place, one "
    "that the layer does not have."
)
ABOUT_TRAINING = "Accuracy by epoch."
ABOUT_PRUNING = " Dotted lines mark the prunings: the supernet goes on with the weights of what survives."
ABOUT_VITAL = (
    " Left of the dotted line the vital blocks are trained with as little else as possible, right of it all blocks, the "
    "vital ones fixed. Training accuracy is that of the networks drawn while training; there is no other until the end."
)


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from RUN/result.json and RUN/events.jsonl, and return its path.

    The page is one file: figures and style are inside, nothing is loaded. Raises `RunError` where one of the
    two files is missing, damaged or from another version; a last event that was cut off is left out.
    """
    run_folder = Path(run_folder)
    result, reset = _result(run_folder), run_folder / "vital.json"
    if _is_hournas(result):
        result = hournas.with_costs(result, run_folder)
    text = page(result, _events(run_folder), _json(reset) if reset.exists() else None)
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


def _json(path: Path) -> Any:
    run = path.parent
    again = f"hiernas resume {run}" if path.name == "result.json" else f"hiernas vital {run} --reset"
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it, and `{again}` writes it again") from error


def _result(run_folder: Path) -> Values:
    path = run_folder / "result.json"
    result = _json(path)
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


def page(result: Values, events: Sequence[Values], reset: Values | None = None) -> str:
    """The whole page as text; `reset` is what `hiernas vital --reset` found."""
    from hiernas.report import figures  # matplotlib is loaded only where a page is made

    seconds = result.get("seconds")
    about_training, words, found = _of_method(result, events)
    body = [
        _header(result, events),
        section("Asked, predicted, measured", tables.asked(result), tables.precision(result)),
        *found,
        *([] if graphs.is_cells(result) else [_network(result)]),
        hournas.without_blocks(reset) if reset else Html(),
        figure("Training", lambda width: figures.training(result, events, width), about_training),
        section("The front in numbers", tables.front(result)) if _has_front(result) else Html(),
        section("Data", tables.data(result)),
        section("Settings", tables.settings(result)),
        section("Time", tables.times(seconds, words)) if seconds else Html(),
        Html(f"<footer>HierNAS {escape(result.get('hiernas', ''))}. This page is complete in itself.</footer>"),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>HierNAS: {escape(_title(result))}</title>\n<style>\n{tables.style()}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, body))
        + "\n</main>\n</body>\n</html>\n"
    )


def _is_hournas(result: Values) -> bool:
    return bool(result["method"] == "hournas")


def _has_front(result: Values) -> bool:
    """Whether there is a choice to show: HourNAS' is among proposals, and a search by gradients finds one network."""
    least = 2 if graphs.is_cells(result) or masks.is_masked(result) else 1
    return not _is_hournas(result) and len(result["front"]) >= least


def _network(result: Values) -> Html:
    from hiernas.report import drawing

    return figure("The chosen network", lambda width: drawing.architecture(result, width), drawing.about(result))


def _of_method(result: Values, events: Sequence[Values]) -> tuple[str, Mapping[str, str], list[Html]]:
    """What differs between the methods: words on the training and its phases, and the sections on what was found."""
    if _is_hournas(result):
        fixed = ABOUT_VITAL if result["stages"] else ""
        return ABOUT_TRAINING + fixed, hournas.times(result), hournas.sections(result)
    front = _front(result) if _has_front(result) else []
    if masks.is_masked(result):
        found = cells.pictures(result) if graphs.is_cells(result) else []
        return masks.ABOUT_TRAINING, masks.TIMES, [*found, *masks.sections(result), cells.how_it_went(result, events)]
    if graphs.is_cells(result):
        return cells.ABOUT_TRAINING, cells.times(result), [*cells.sections(result, events), *front]
    return ABOUT_TRAINING + (ABOUT_PRUNING if result["stages"] else ""), {}, front


def _front(result: Values) -> list[Html]:
    from hiernas.report import figures

    about = _about_front(result, figures.front_metric(result))
    return [
        figure("Pareto front", lambda width: figures.front(result, width), about),
        figure("What each pruning kept", lambda width: figures.operations(result, width), ABOUT_OPERATIONS),
    ]


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
    data = result["data"]
    last = next((str(e["time"]) for e in reversed(events) if "time" in e), "")
    over = ["HierNAS report", result["method"], result.get("preset"), last.replace("T", " ")]
    limits = " and ".join(units.limit_text(limit) for limit in result["limits"])
    size = "×".join(map(str, data["input_size"]))
    lead = (
        f"{_what(result)} for {data['name']} ({len(data['classes'])} classes, {size} images) "
        f"{f'with {limits}' if limits else 'without limits'}. "
    )
    lead += _done(result)
    return Html(
        f'<header>\n<p class="over">{escape(" · ".join(filter(None, over)))}</p>\n<h1>{escape(_title(result))}</h1>\n'
        f"<p>{escape(lead)}</p>\n{_doubts(result)}{_tiles(result['chosen'])}\n</header>"
    )


def _what(result: Values) -> str:
    """What the page is about: where a search in cells has decided nothing, what is handed over is no network that it found."""
    decided = [verdict["decided"] for verdict in result.get("details", {}).get("decided", {}).values()]
    if all(decided):
        return "The best network found"
    return "A network of which a part was found" if any(decided) else "A regular network, which no search has found,"


def _doubts(result: Values) -> Html:
    """What is doubtful, on top; nothing where nothing is."""
    lines = "\n".join(f"<li>{escape(doubt)}</li>" for doubt in result.get("doubts", ()))
    shown = f'<aside class="doubts" aria-label="Doubtful">\n<p>Doubtful</p>\n<ul>\n{lines}\n</ul>\n</aside>\n'
    return Html(shown if lines else "")


def _done(result: Values) -> str:
    """What the search did, in a sentence."""
    if _is_hournas(result):
        return hournas.lead(result)
    if masks.is_masked(result):
        return masks.lead(result)
    if graphs.is_cells(result) and len(result["front"]) == 1:
        return cells.lead(result)
    return (
        f"The search evaluated {units.count(result.get('evaluated'))} of the {units.size(result['space']['size'])} "
        f"architectures of the space {result['space']['name']}."
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

"""The report page of a run: reads result.json and events.jsonl, writes report.html."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hiernas.errors import RunError
from hiernas.quiet import visible
from hiernas.report import cells, controls, figures, hmnas, hournas, units
from hiernas.report.graphs import is_cells
from hiernas.report.kit import PARTS, TEMPLATES, Run, Teller, Told, Values, section, style, table

FORMAT = 1
NEEDED = ("chosen", "data", "front", "limits", "method", "objective", "space", "stages")
TELLERS: Mapping[str, Teller] = {  # by what a method left in the result's details; the first that is there tells
    "control": controls, "proposals": hournas, "masks": hmnas, "decided": cells, "weights": cells
}  # fmt: skip


def words(result: Values) -> list[str]:
    """Lines for the terminal: what was found."""
    lines = _teller(result).words(result)
    return lines if is_cells(result) else [*lines, "chosen: " + " ".join(result["chosen"]["options"])]


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from RUN/result.json and RUN/events.jsonl, and return its path.

    The page is one file: figures and style are inside, nothing is loaded. Raises `RunError` where one of the
    two files is missing, damaged or from another version; a last event that was cut off is left out.
    """
    run_folder = Path(run_folder)
    result, reset = _result(run_folder), run_folder / "vital.json"
    text = page(Run(run_folder, result, _events(run_folder)), _json(reset) if reset.exists() else None)
    path = run_folder / "report.html"
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text("\n".join(map(visible, text.split("\n"))), encoding="utf-8")
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


def _result(run_folder: Path) -> dict[str, Any]:
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


def page(run: Run, reset: Values | None = None) -> str:
    """The whole page as text; `reset` is what `hiernas vital --reset` found."""
    result, told = run.result, _teller(run.result).tell(run)
    sections = [
        figures.SECTIONS.asked(table(ASKED, _asked(result), "asked"), result.get("device"), result.get("latency_error")),
        *told.found,
        "" if is_cells(result) else figures.network(result),
        hournas.without_blocks(reset) if reset else "",
        figures.training(run.events, told),
        section("Data", table([], _data(result["data"]), "pairs"), PARTS.listed(result["data"].get("notes") or [], "notes")),
        section("Settings", table([], _settings(result), "pairs")),
        section("Time", _times(result["seconds"], told.phases)) if result.get("seconds") else "",
    ]
    last = next((str(e["time"]) for e in reversed(run.events) if "time" in e), "")
    accuracy, where = _accuracy(result["chosen"])
    return TEMPLATES.get_template("page.html").render(
        over=["HierNAS report", result["method"], result.get("preset"), last.replace("T", " ")],
        title=f"{units.percent(accuracy)} {where} accuracy on {result['data']['name']}",
        lead=_lead(result, told),
        tiles=_tiles(result["chosen"]),
        result=result,
        sections=sections,
        style=style(),
    )


def _teller(result: Values) -> Teller:
    """Who tells of a result, by what is in it; `figures` of networks of a chain that were evaluated one by one."""
    details = result.get("details") or {}
    return next((teller for key, teller in TELLERS.items() if key in details), cells if is_cells(result) else figures)


# -- headline ------------------------------------------------------------------------------------------------------


def _accuracy(chosen: Values) -> tuple[float, str]:
    """The best-founded accuracy of the chosen network, and on which images it was taken."""
    for key, where in (("test_accuracy", "test"), ("trained_val_accuracy", "validation")):
        if chosen.get(key) is not None:
            return chosen[key], where
    return chosen["val_accuracy"], "supernet validation"


def _lead(result: Values, told: Told) -> str:
    """What the page is about: where a search has decided nothing, what is handed over is no network that it found."""
    decided = [verdict["decided"] for verdict in (result.get("details") or {}).get("decided", {}).values()]
    what = controls.NAMES.get(str((result.get("details") or {}).get("control")), "The best network found")
    if not all(decided):
        what = "A network of which a part was found" if any(decided) else "A regular network, which no search has found,"
    data, limits = result["data"], " and ".join(units.limit_text(limit) for limit in result["limits"])
    where = f"{data['name']} ({len(data['classes'])} classes, {units.image(data)} images)"
    return f"{what} for {where} {f'with {limits}' if limits else 'without limits'}. {told.lead}"


def _tiles(chosen: Values) -> list[tuple[str, str, str]]:
    """Name, value and source of the numbers in large print."""
    accuracy, where = _accuracy(chosen)
    predicted, measured = units.latency(chosen, "predicted"), units.latency(chosen, "measured")
    latency, source = (predicted, "predicted") if measured is None else (measured, "measured")
    return [
        ("Accuracy", units.percent(accuracy), where),
        ("Latency", units.milliseconds(latency), source if latency is not None else "not measured"),
        ("Parameters", units.short(chosen["params"]), "counted"),
        ("Multiply-adds", units.short(chosen["macs"]), "counted"),
    ]


# -- asked, predicted, measured ------------------------------------------------------------------------------------

ASKED = ["", "Asked", "Predicted", "Measured", "Limit"]


def _asked(result: Values) -> list[list[object]]:
    """What was asked of the chosen network, what was predicted for it and what it turned out to be."""
    chosen = result["chosen"]
    predicted, measured = units.latency(chosen, "predicted"), units.latency(chosen, "measured")
    ranked = units.NONE
    if chosen["val_accuracy"] is not None:
        ranked = PARTS.note(units.percent(chosen["val_accuracy"]), f"validation, {units.judged(result)}")
    rows: list[list[object]] = [["Accuracy", "as high as possible", ranked, _accuracies(chosen, result["data"]), ""]]
    verdict = _verdict(result, "latency_ms", measured, predicted)
    rows.append(["Latency", _asks(result, "latency_ms"), units.milliseconds(predicted), _measured(chosen), verdict])
    for metric in ("params", "macs"):
        n = units.count(chosen[metric])
        verdict = _verdict(result, metric, chosen[metric], None)
        rows.append([units.name(metric), _asks(result, metric), n, PARTS.note(n, "counted"), verdict])
    return rows


def _asks(result: Values, metric: str) -> str:
    limits = [units.limit_text(limit, named=False) for limit in result["limits"] if limit["metric"] == metric]
    if limits:
        return ", ".join(limits)
    return "as low as possible" if metric == result["objective"] else units.NONE


def _accuracies(chosen: Values, data: Values) -> str:
    """Test accuracy with its 95 % interval, and the trained network's validation accuracy."""
    found = []
    if chosen.get("test_accuracy") is not None:
        remark = "test"
        if data.get("test"):
            low, high = units.wilson(chosen["test_accuracy"], data["test"])
            remark += f"; 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        found.append(PARTS.note(units.percent(chosen["test_accuracy"]), remark))
    if chosen.get("trained_val_accuracy") is not None:
        found.append(PARTS.note(units.percent(chosen["trained_val_accuracy"]), "validation, trained"))
    return Markup(" ").join(found) or units.NONE


def _measured(network: Values) -> str:
    measured, low, high = (units.latency(network, kind) for kind in ("measured", "p10", "p90"))
    said = units.milliseconds(measured)
    if low is None or high is None:
        return said
    return PARTS.note(said, f"10–90 %: {units.milliseconds(low, measured)} to {units.milliseconds(high, measured)}")


def _verdict(result: Values, metric: str, found: float | None, predicted: float | None) -> Markup | str:
    """Whether the limits on a metric are met by its final value, or by the predicted one where there is no other."""
    limits = [limit for limit in result["limits"] if limit["metric"] == metric]
    by = " (predicted)" if found is None and predicted is not None else ""
    final = predicted if found is None else found
    if not limits or final is None:
        return "not measured" if limits else ""
    above = [(final - limit["high"]) / limit["high"] for limit in limits if limit["high"]]
    below = [(limit["low"] - final) / limit["low"] for limit in limits if limit["low"]]
    miss = max(0.0, *above, *below)  # as a fraction of the limit
    return PARTS.verdict(miss <= 0, f"met{by}" if miss <= 0 else f"missed by {100 * miss:.1f} %{by}")


# -- data, settings, time ------------------------------------------------------------------------------------------

PARTS_OF_DATA = (("train", "for training"), ("val", "for validation"), ("test", "for the test"))


def _data(found: Values) -> list[tuple[str, object]]:
    classes = list(map(str, found["classes"]))
    names = ", ".join(classes[:40]) + (f" and {len(classes) - 40} more" if len(classes) > 40 else "")
    parts = [f"{units.count(found[part])} {use}" for part, use in PARTS_OF_DATA if found.get(part) is not None]
    return [
        ("Name", found["name"]),
        ("Images", ", ".join(parts)),
        ("Size", f"{units.image(found)} (channels, height, width)"),
        (f"{len(classes)} classes", names),
    ]


def _settings(result: Values) -> list[tuple[str, object]]:
    """What is needed to repeat the run, and the files it wrote."""
    space = result["space"]
    arguments = ", ".join(f"{k}={_short(json.dumps(v, ensure_ascii=False))}" for k, v in space["arguments"].items())
    rows: list[tuple[str, object]] = [
        ("Method", result["method"]),
        ("Preset", result.get("preset") or units.NONE),
        ("Seed", result.get("seed", units.NONE)),
        ("Space", f"{space['name']}({arguments}), {units.size(space['size'])} architectures"),
        ("Objective", units.name(result["objective"])),
        ("Limits", ", ".join(limit["text"] for limit in result["limits"]) or "none"),
        ("Evaluated", f"{units.count(result.get('evaluated'))} architecture{'' if result.get('evaluated') == 1 else 's'}"),
    ]
    if result.get("fitted"):
        rows.insert(2, ("For so few images", result["fitted"]))
    for kind, output in (result.get("outputs") or {}).items():
        difference = output.get("largest_difference")
        check = "" if difference is None else f", outputs within {difference:.1e} of PyTorch's"
        rows.append((f"File ({kind})", f"{output['file']}{check}"))
    return rows


def _short(text: str) -> str:
    """A genotype among the settings stands in full with the cells, and in result.json."""
    return text if len(text) <= 120 else f"{text[:60]}…"


def _times(seconds: Mapping[str, float], phases: Mapping[str, str]) -> Markup:
    """Seconds by phase, with bars, and their sum; `phases`: what these do."""
    most = max(seconds.values()) or 1.0
    rows = [
        [PARTS.note(phase, phases[phase]) if phase in phases else phase, units.seconds(s), PARTS.bar(100 * s / most)]
        for phase, s in seconds.items()
    ]
    return table([], [*rows, ["Total", units.seconds(sum(seconds.values())), ""]], "times", numbers=(1,))

"""The tables of a report, and the markup they are made of. Whatever is not markup already is escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hiernas.report import units

Values = Mapping[str, Any]
WIDE, NARROW = 856, 350  # pixels; every figure is drawn for both, and the page shows the one that fits
PARTS = (("train", "for training"), ("val", "for validation"), ("test", "for the test"))


class Html(str):
    """Text that is markup already; any other text is escaped when it is put on the page."""

    __slots__ = ()


def escape(value: object) -> Html:
    """Any value as markup."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def section(title: str, *parts: Html) -> Html:
    """A heading and what belongs under it."""
    return Html(f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(filter(None, parts)) + "\n</section>")


def style() -> str:
    """The style sheet of a page."""
    return Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def figure(title: str, draw: Callable[[float], str], caption: str) -> Html:
    """A section with a figure; nothing where there is nothing to draw."""
    drawn = picture(draw, caption)
    return section(title, drawn) if drawn else Html()


def picture(draw: Callable[[float], str], caption: str = "", title: str = "") -> Html:
    """A figure, drawn for a wide and for a narrow screen; nothing where there is nothing to draw."""
    wide = draw(WIDE)
    if not wide:
        return Html()
    both = f'<div class="wide">{wide}</div>\n<div class="narrow">{draw(NARROW)}</div>'
    below = f"\n<figcaption>{escape(caption)}</figcaption>" if caption else ""
    above = f"<h3>{escape(title)}</h3>\n" if title else ""
    return Html(f"{above}<figure>\n{both}{below}\n</figure>")


def text_to_copy(lines: Sequence[str]) -> Html:
    """Text as it is, which a click selects as a whole."""
    text = "\n".join(lines)
    return Html(f"<pre>{escape(text)}</pre>")


def folded(title: str, *parts: Html) -> Html:
    """What is shown only where the reader asks for it."""
    inside = "\n".join(filter(None, parts))
    return Html(f"<details>\n<summary>{escape(title)}</summary>\n{inside}\n</details>")


def note(main: str, small: str) -> Html:
    """A value with a remark in small letters."""
    return Html(f"{escape(main)} <small>{escape(small)}</small>")


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], kind: str, numbers: Sequence[int] = (), marked: int = -1
) -> Html:
    """A table that scrolls where it is too wide; columns `numbers` are set flush right, row `marked` stands out."""
    lines = [f'<div class="scroll"><table class="{kind}">']
    if head:
        cells = (_cell("th scope=col", h, i in numbers) for i, h in enumerate(head))
        lines.append(f"<thead><tr>{''.join(cells)}</tr></thead>")
    lines.append("<tbody>")
    for r, row in enumerate(rows):
        cells = (
            _cell(f'td data-head="{escape(head[i]) if head else ""}"' if i else "th scope=row", value, i in numbers)
            for i, value in enumerate(row)
        )
        lines.append(f"<tr{' class=chosen' if r == marked else ''}>{''.join(cells)}</tr>")
    return Html("\n".join([*lines, "</tbody></table></div>"]))


def _cell(tag: str, value: object, number: bool) -> str:
    return f"<{tag}{' class=n' if number else ''}>{escape(value)}</{tag[:2]}>"


# -- asked, predicted, measured ------------------------------------------------------------------------------------


def asked(result: Values) -> Html:
    """What was asked of the chosen network, what was predicted for it and what it turned out to be."""
    chosen = result["chosen"]
    predicted, measured = units.latency(chosen, "predicted"), units.latency(chosen, "measured")
    supernet = note(units.percent(chosen["val_accuracy"]), "validation, supernet's weights")
    rows: list[list[object]] = [["Accuracy", "as high as possible", supernet, _accuracies(chosen, result["data"]), ""]]
    verdict = _verdict(result, "latency_ms", measured, predicted)
    rows.append(["Latency", _asks(result, "latency_ms"), units.milliseconds(predicted), _measured(chosen), verdict])
    for metric in ("params", "macs"):
        n = units.count(chosen[metric])
        verdict = _verdict(result, metric, chosen[metric], None)
        rows.append([units.name(metric), _asks(result, metric), n, note(n, "counted"), verdict])
    return table(["", "Asked", "Predicted", "Measured", "Limit"], rows, "asked")


def _asks(result: Values, metric: str) -> str:
    limits = [units.limit_text(limit, named=False) for limit in result["limits"] if limit["metric"] == metric]
    if limits:
        return ", ".join(limits)
    return "as low as possible" if metric == result["objective"] else units.NONE


def _accuracies(chosen: Values, data: Values) -> Html:
    """Test accuracy with its 95 % interval, and the trained network's validation accuracy."""
    found = []
    if chosen.get("test_accuracy") is not None:
        remark = "test"
        if data.get("test"):
            low, high = units.wilson(chosen["test_accuracy"], data["test"])
            remark += f"; 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        found.append(note(units.percent(chosen["test_accuracy"]), remark))
    if chosen.get("trained_val_accuracy") is not None:
        found.append(note(units.percent(chosen["trained_val_accuracy"]), "validation, trained"))
    return Html("".join(found) or units.NONE)


def _measured(network: Values) -> Html:
    measured, low, high = (units.latency(network, kind) for kind in ("measured", "p10", "p90"))
    said = units.milliseconds(measured)
    if low is None or high is None:
        return escape(said)
    return note(said, f"10–90 %: {units.milliseconds(low, measured)} to {units.milliseconds(high, measured)}")


def _verdict(result: Values, metric: str, found: float | None, predicted: float | None) -> Html:
    """Whether the limits on a metric are met by its final value, or by the predicted one where there is no other."""
    limits = [limit for limit in result["limits"] if limit["metric"] == metric]
    by = " (predicted)" if found is None and predicted is not None else ""
    final = predicted if found is None else found
    if not limits or final is None:
        return Html("not measured" if limits else "")
    miss = max(_miss(limit, final) for limit in limits)
    if miss <= 0:
        return Html(f'<span class="met">met{by}</span>')
    return Html(f'<span class="missed">missed by {100 * miss:.1f} %{by}</span>')


def _miss(limit: Values, found: float) -> float:
    """By which fraction of the limit a value lies outside it; 0 inside."""
    low, high = limit["low"], limit["high"]
    above = (found - high) / high if high else 0.0
    below = (low - found) / low if low else 0.0
    return max(0.0, above, below)


def precision(result: Values) -> Html:
    """Where latency was measured, and how far its predictions were off."""
    device, error = result.get("device"), result.get("latency_error")
    said = []
    if device:
        threads = f"{device['threads']} thread{'s' if device['threads'] != 1 else ''}"
        runtime = f"{device['runtime']} {device['version']}"
        said.append(f"Latency on {device['device']}, {runtime}, {threads}, batch {device['batch']}.")
    if error:
        side = "too high" if error["bias_percent"] >= 0 else "too low"
        said.append(
            f"Predictions were off by {error['mean_absolute_percent']:.1f} % on average, and "
            f"{abs(error['bias_percent']):.1f} % {side} as a whole, over {error['networks']} measured networks."
        )
    return Html(f"<p>{escape(' '.join(said))}</p>") if said else Html()


# -- the front -----------------------------------------------------------------------------------------------------


def front(result: Values) -> Html:
    """Every network of the front, the chosen one marked."""
    members = units.front(result)
    like = max((t for m in members if (t := units.latency(m, "predicted"))), default=None)
    rows: list[list[object]] = []
    for i, m in enumerate(members, 1):
        rows.append([
            note(str(i), "chosen") if m is result["chosen"] else i,
            units.percent(m["val_accuracy"]),
            units.milliseconds(units.latency(m, "predicted"), like),
            units.milliseconds(units.latency(m, "measured"), like),
            units.count(m["params"]),
            units.count(m["macs"]),
            Html(f"<code>{escape(compact(m['options']))}</code>"),
        ])  # fmt: skip
    marked = next((i for i, m in enumerate(members) if m is result["chosen"]), -1)
    head = ["", "Accuracy", "Predicted", "Measured", "Parameters", "Multiply-adds", "Operations, layer by layer"]
    return table(head, rows, "front", numbers=range(1, 6), marked=marked)


def compact(options: Sequence[object]) -> str:
    """Options with repeats counted: 'k3_e3 2×skip k5_e6'."""
    runs: list[tuple[str, int]] = []
    for option in map(str, options):
        n = runs.pop()[1] if runs and runs[-1][0] == option else 0
        runs.append((option, n + 1))
    return " ".join(f"{n}×{option}" if n > 1 else option for option, n in runs)


# -- data, settings, time ------------------------------------------------------------------------------------------


def data(result: Values) -> Html:
    """The data set and what was noticed about it."""
    found = result["data"]
    classes = list(map(str, found["classes"]))
    names = ", ".join(classes[:40]) + (f" and {len(classes) - 40} more" if len(classes) > 40 else "")
    parts = [f"{units.count(found[part])} {use}" for part, use in PARTS if found.get(part) is not None]
    size = "×".join(map(str, found["input_size"]))
    rows = [
        ("Name", found["name"]),
        ("Images", ", ".join(parts)),
        ("Size", f"{size} (channels, height, width)"),
        (f"{len(classes)} classes", names),
    ]
    notes = "".join(f"<li>{escape(remark)}</li>" for remark in found.get("notes") or [])
    return Html(table([], rows, "pairs") + (f'\n<ul class="notes">{notes}</ul>' if notes else ""))


def settings(result: Values) -> Html:
    """What is needed to repeat the run, and the files it wrote."""
    space = result["space"]
    arguments = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in space["arguments"].items())
    rows: list[tuple[str, object]] = [
        ("Method", result["method"]),
        ("Preset", result.get("preset") or units.NONE),
        ("Seed", result.get("seed", units.NONE)),
        ("Space", f"{space['name']}({arguments}), {units.size(space['size'])} architectures"),
        ("Objective", units.name(result["objective"])),
        ("Limits", ", ".join(limit["text"] for limit in result["limits"]) or "none"),
        ("Evaluated", _evaluated(result.get("evaluated"))),
    ]
    if result.get("fitted"):
        rows.insert(2, ("For so few images", result["fitted"]))
    for kind, output in (result.get("outputs") or {}).items():
        difference = output.get("largest_difference")
        check = "" if difference is None else f", outputs within {difference:.1e} of PyTorch's"
        rows.append((f"File ({kind})", f"{output['file']}{check}"))
    return table([], rows, "pairs")


def _evaluated(n: int | None) -> str:
    return f"{units.count(n)} architecture{'' if n == 1 else 's'}"


def times(seconds: Mapping[str, float], words: Mapping[str, str]) -> Html:
    """Seconds by phase, with bars, and their sum; `words` say what a phase does."""
    most = max(seconds.values()) or 1.0
    rows: list[list[object]] = [
        [
            note(phase, words[phase]) if phase in words else phase,
            units.seconds(s),
            Html(f'<i style="width:{100 * s / most:.1f}%"></i>'),
        ]
        for phase, s in seconds.items()
    ]
    rows.append([Html("Total"), units.seconds(sum(seconds.values())), ""])
    return table([], rows, "times", numbers=(1,))

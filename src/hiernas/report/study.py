"""What a study or several finished runs say side by side: means, paired differences with their intervals, tables, a page.

A run is a row; runs of the same label under the same limit differ in their seeds alone. A difference is taken between runs of
the same seed and limit, so that what a seed does to both (its split of the images) cancels; its 95 % interval is Student's.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from hiernas.costs import parse_limits
from hiernas.methods import METHODS
from hiernas.names import VERSION
from hiernas.report import kit, units

SECTIONS = kit.macros("study.html")
FEWEST = 3  # seeds of a verdict
LETTERS = 60  # of a label in a figure
FINAL = ("final", "compare")  # how the names of phases begin that come after a search
MARKERS = "os^Dv<>"
COLOURS = (kit.BLUE, kit.ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", kit.MUTED)  # Okabe and Ito's


@dataclass(frozen=True)
class Row:
    """A finished run. Accuracies in 0..1, latencies in ms."""

    label: str
    method: str
    limit: str
    seed: int
    data: str
    space: str
    test_accuracy: float
    val_accuracy: float | None
    params: int
    macs: int
    predicted_ms: float | None
    measured_ms: float | None
    search_seconds: float
    final_seconds: float
    doubts: int
    folder: str

    @classmethod
    def of(cls, folder: Path, result: kit.Values, label: str | None = None, limit: str | None = None) -> Row:
        """Of a search's result.json. `label`, `limit`: in words, where they are not those of the run."""
        chosen, seconds = result["chosen"], result["seconds"]
        final = sum(s for phase, s in seconds.items() if phase.startswith(FINAL))
        return cls(
            label or result["method"], result["method"], limit or " and ".join(x["text"] for x in result["limits"]),
            result["seed"], result["data"]["name"], result["space"]["name"], chosen["test_accuracy"],
            chosen["val_accuracy"], chosen["params"], chosen["macs"], units.latency(chosen, "predicted"),
            units.latency(chosen, "measured"), sum(seconds.values()) - final, final, len(result.get("doubts", ())), str(folder),
        )  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A label's test accuracy less that of another, in percentage points: over runs of the same seeds under the same limit."""

    label: str
    other: str
    limit: str
    mean: float
    low: float  # of the 95 % interval; not finite for a single pair
    high: float
    pairs: int
    relative: float  # in percent of the other's mean: RI (Yang et al. 2019, arXiv 1912.12522) where that is `random`

    def __str__(self) -> str:
        if self.pairs < 2:
            return f"{self.mean:+.2f} (one seed)"
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"

    @property
    def shown(self) -> str:
        """What the interval shows."""
        if self.pairs < FEWEST or self.low <= 0 <= self.high:
            return "not shown to differ from"
        return "better than" if self.low > 0 else "worse than"


def difference(rows: Sequence[Row], label: str, other: str, limit: str) -> Difference | None:
    """None where no seed has both."""
    from scipy.stats import t

    mine, theirs = ({r.seed: r.test_accuracy for r in rows if (r.label, r.limit) == (x, limit)} for x in (label, other))
    seeds = sorted(mine.keys() & theirs.keys())
    if not seeds:
        return None
    pairs = np.array([100 * (mine[s] - theirs[s]) for s in seeds])
    n, mean = len(pairs), float(pairs.mean())
    half = float(t.ppf(0.975, n - 1) * pairs.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    base = 100 * float(np.mean([theirs[s] for s in seeds]))
    return Difference(label, other, limit, mean, mean - half, mean + half, n, 100 * mean / base if base else math.nan)


def control_of(method: str) -> str:
    """What a method is a control as: see `Method.control`; "" for one that is not known here."""
    return METHODS[method].control if method in METHODS else ""


def labels_of(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(r.label for r in rows))


def limits_of(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(r.limit for r in rows))


def differences(rows: Sequence[Row]) -> list[Difference]:
    """Of every label to each control (`Method.control`), and to variants of the same method that come after it."""
    labels, method = labels_of(rows), {r.label: r.method for r in rows}

    def held_against(label: str, other: str) -> bool:
        if method[label] == method[other]:
            return labels.index(label) < labels.index(other)
        return control_of(method[other]) != "" and control_of(method[label]) != "unsearched"

    pairs = [(a, b) for a in labels for b in labels if held_against(a, b)]
    found = [difference(rows, a, b, limit) for limit in limits_of(rows) for a, b in pairs]
    return [d for d in found if d is not None]


# -- in words ----------------------------------------------------------------------------------------------------------

COLUMNS = ["", "Runs", "Test accuracy", "Params", "MACs", "Predicted", "Measured", "Search", "Training"]


def table(rows: Sequence[Row], limit: str) -> list[list[str]]:
    """A line for each label under a limit, as COLUMNS has them: means over the seeds, the accuracy with its spread."""
    lines = []
    for label in labels_of(rows):
        of = [r for r in rows if (r.label, r.limit) == (label, limit)]
        if of:
            costs = [units.amount(metric, _mean(of, metric)) for metric in ("params", "macs")]
            latencies = [units.milliseconds(_mean(of, key)) for key in ("predicted_ms", "measured_ms")]
            times = [units.seconds(_mean(of, key) or 0.0) for key in ("search_seconds", "final_seconds")]
            lines.append([label, str(len(of)), _accuracy(of), *costs, *latencies, *times])
    return lines


def _accuracy(of: Sequence[Row]) -> str:
    values = [100 * r.test_accuracy for r in of]
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}{units.SPACE}%"


def _mean(of: Sequence[Row], key: str) -> float | None:
    values = [getattr(r, key) for r in of]
    return None if any(v is None for v in values) else float(np.mean(values))


def compared(rows: Sequence[Row], limit: str) -> tuple[list[str], list[list[str]]]:
    """Columns and lines of the differences under a limit, in percentage points: labels down, controls across."""
    found = {(d.label, d.other): d for d in differences(rows) if d.limit == limit}
    down, across = (list(dict.fromkeys(pair[i] for pair in found)) for i in (0, 1))
    lines = [[label, *(str(found[label, o]) if (label, o) in found else units.NONE for o in across)] for label in down]
    return ["Points over", *across], lines


def verdicts(rows: Sequence[Row]) -> list[str]:
    """What the differences to networks without a search show, in sentences; and what to take where a search gains nothing."""
    said, method = [], {r.label: r.method for r in rows}
    for limit in limits_of(rows):
        found = [d for d in differences(rows) if d.limit == limit and control_of(method[d.other]) == "unsearched"]
        most = max(sum(r.limit == limit and r.label == label for r in rows) for label in method)
        needed = f"{FEWEST} seeds at least are needed to show anything (--seeds {FEWEST})"
        if not found and most < FEWEST:
            said.append(f"under {limit}: {'one seed has no interval; ' * (most == 1)}{needed}")
        elif not found:
            said.append(f"under {limit}: no search stands beside a network without one; name both (--methods hnas,plain)")
        for label in dict.fromkeys(d.label for d in found):
            mine = [d for d in found if d.label == label]
            if max(d.pairs for d in mine) < FEWEST:
                said.append(f"{label} under {limit}: {needed}")
                continue
            shown = {word: [d.other for d in mine if d.shown == word] for word in dict.fromkeys(d.shown for d in mine)}
            parts = [f"{word} {' and '.join(others)}" for word, others in shown.items()]
            best = min(mine, key=lambda d: d.mean).other
            advice = f"; until a longer search or more seeds show otherwise, take '{best}'"
            said.append(f"{label} under {limit}: {', '.join(parts)}{'' if [*shown] == ['better than'] else advice}")
    return said


# -- files -------------------------------------------------------------------------------------------------------------


def as_csv(rows: Sequence[Row]) -> str:
    """Every run a line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def as_latex(rows: Sequence[Row]) -> str:
    """A tabular for each limit, for booktabs."""
    parts = []
    for limit in limits_of(rows):
        columns, lines = compared(rows, limit)
        more = {line[0]: line[1:] for line in lines}
        cells = [["Method", "Runs", "Test accuracy", "Params", "MACs", *(f"over {c}" for c in columns[1:])]]
        cells += [[*line[:5], *more.get(line[0], [units.NONE] * len(columns[1:]))] for line in table(rows, limit)]
        head, text = cells[0], [" & ".join(map(_tex, row)) + r" \\" for row in cells]
        parts.append(
            f"% {limit}\n\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\toprule\n{text[0]}\n\\midrule\n"
            + "\n".join(text[1:]) + "\n\\bottomrule\n\\end{tabular}\n"
        )  # fmt: skip
    return "\n".join(parts)


def _tex(text: str) -> str:
    for old, new in (("\\", "/"), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#"), ("±", r"$\pm$"), ("–", "--")):
        text = text.replace(old, new)
    return text.replace(units.SPACE, "~").replace("<=", r"$\le$").strip("~ ")


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Runs, differences and verdicts; an interval of one pair is null."""

    def finite(values: dict[str, Any]) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

    found = [finite(asdict(d)) for d in differences(rows)]
    return {"hiernas": VERSION, "runs": [asdict(r) for r in rows], "differences": found, "verdicts": verdicts(rows)}


# -- the page ----------------------------------------------------------------------------------------------------------


def page(rows: Sequence[Row], folder: Path, remarks: Sequence[str] = ()) -> str:
    """The study as one HTML page; `folder`: where it is put, which links are relative to."""
    limits, data = limits_of(rows), ", ".join(dict.fromkeys(r.data for r in rows))
    sections = [SECTIONS.verdicts(verdicts(rows))]
    bound = [_bound(limit) for limit in limits]
    metrics = {b[0] for b in bound if b is not None}
    if len(limits) > 1 and None not in bound and len(metrics) == 1:
        sections.append(SECTIONS.dots("Accuracy against the limit", _against(rows)))
    for i, limit in enumerate(limits):
        drawn, means = _dots(rows, limit, i), table(rows, limit)
        sections.append(SECTIONS.dots(f"Under {limit}", drawn, COLUMNS, means, *compared(rows, limit)))
    runs = [[_link(r, folder), r.limit, r.seed, units.percent(r.test_accuracy), r.space, r.doubts or units.NONE] for r in rows]
    sections.append(SECTIONS.runs(runs))
    return kit.page(
        over=["HierNAS study", f"{len(rows)} runs"], title=f"{units.number(len(labels_of(rows)), 'method')} on {data}",
        lead=f"Under {'; '.join(limits)}. " + " ".join(remarks), tiles="", verdict=("", ""), result={"hiernas": VERSION},
        sections=sections,
    )  # fmt: skip


def _link(row: Row, folder: Path) -> Markup:
    path = Path(row.folder, "report.html").resolve()
    inside = path.is_relative_to(folder.resolve())
    return kit.PARTS.link(row.label, path.relative_to(folder.resolve()).as_posix() if inside else path.as_uri())


def _bound(limit: str) -> tuple[str, float] | None:
    """The metric and the upper bound of a limit of one condition; None for others."""
    found = parse_limits([limit])
    return (found[0].metric, found[0].high) if len(found) == 1 and math.isfinite(found[0].high) else None


def _dots(rows: Sequence[Row], limit: str, number: int) -> Markup:
    """Every run under a limit as a dot, labels down."""
    under = [r for r in rows if r.limit == limit]
    labels = labels_of(under)

    def paint(ax: kit.Axes) -> None:
        for y, label in enumerate(labels):
            of = [r for r in under if r.label == label]
            xs = [100 * r.test_accuracy for r in of]
            colour = kit.MUTED if control_of(of[0].method) == "unsearched" else kit.BLUE
            ax.plot(xs, [y] * len(xs), "o", color=colour, markersize=7, alpha=0.75)
            ax.plot([np.mean(xs)] * 2, [y - 0.2, y + 0.2], "-", color=kit.INK, linewidth=2)
            said = label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…"
            ax.annotate(said, (0, y - 0.25), (2, 0), ("axes fraction", "data"), "offset points", va="bottom")
        ax.set(ylim=(len(labels) - 0.5, -0.75), xlabel="Test accuracy (%)", yticks=[])
        ax.grid(axis="y", visible=False)

    return kit.draw(f"dots{number}", f"Test accuracy {_said(rows, limit)}.", paint, height=42 * len(labels) + 54)


def _said(rows: Sequence[Row], limit: str) -> str:
    return f"under {limit}: " + ", ".join(f"{line[0]} {line[2]}" for line in table(rows, limit))


def _against(rows: Sequence[Row]) -> Markup:
    """Test accuracy against the limit, a line for each label."""
    bounds = {limit: b for limit in limits_of(rows) if (b := _bound(limit)) is not None}
    factor, axis = units.axis(next(iter(bounds.values()))[0], [b for _, b in bounds.values()])
    labels = labels_of(rows)

    def paint(ax: kit.Axes) -> None:
        for i, label in enumerate(labels):
            colour, style = COLOURS[i % len(COLOURS)], ("-", "--")[i >= len(COLOURS)]
            of = [(bounds[r.limit][1] / factor, 100 * r.test_accuracy) for r in rows if r.label == label]
            shape = MARKERS[i % len(MARKERS)]
            ax.plot(*zip(*of, strict=True), shape, color=colour, markersize=5, alpha=0.6)
            xs = sorted({x for x, _ in of})
            ax.plot(xs, [np.mean([y for x, y in of if x == at]) for at in xs], style + shape, color=colour, label=label)
        ax.set(xlabel=f"{axis}, at most", ylabel="Test accuracy (%)")

    alt = f"Mean test accuracy {'; '.join(_said(rows, limit) for limit in bounds)}."
    return kit.draw("against", alt, paint, height=280 + 20 * len(labels))


def files(rows: Sequence[Row], folder: Path, remarks: Sequence[str] = ()) -> dict[str, str]:
    """What runs.csv, table.tex, study.json and study.html of a folder hold, by name."""
    return {
        "runs.csv": as_csv(rows), "table.tex": as_latex(rows), "study.json": json.dumps(as_json(rows), indent=1) + "\n",
        "study.html": page(rows, folder, remarks),
    }  # fmt: skip

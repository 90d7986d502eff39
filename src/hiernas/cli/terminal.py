"""What the command line prints: progress, pairs, estimates, and the summary of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from hiernas.errors import RunError

out = Console(highlight=False, soft_wrap=True, markup=False)


def display() -> Any:
    """A listener that shows a run's progress."""
    from hiernas.cli.progress import Display

    return Display(out)


def interruptible(work: Any, display: Any) -> Any:
    """Do the work; an interruption ends with one line and exit code 130."""
    try:
        return work()
    except KeyboardInterrupt:
        again = f"go on with `hiernas resume {display.run}`; at most the last minute is done again"
        how = again if display.run else "nothing was written yet"
        Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"interrupted: {how}")
        raise typer.Exit(130) from None


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> None:
    """Columns and rows, then remarks, a line each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)
    for remark in remarks:
        out.print(remark)


def print_pairs(title: str, pairs: Mapping[str, str]) -> None:
    """Names and values below a title."""
    table = Table(box=None, show_header=False, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name.strip(), value)
    out.print(table)


def print_summary(run: Path) -> None:
    """The result of a finished run; raises `RunError` for others."""
    from hiernas.run.folder import RunFolder

    result = RunFolder.open(run).read_json("result.json")
    if result is None:
        raise RunError(f"{run} is not finished; go on with `hiernas resume {run}`")
    try:
        lines, rows = summary(result)
    except (KeyError, TypeError) as error:
        raise RunError(f"{run}/result.json is damaged; delete it, and `hiernas resume {run}` writes it again") from error
    where = f"everything is in {run}" + (f"; open {run / 'report.html'}" if rows else "")
    lines += [*(f"doubtful: {doubt}" for doubt in result.get("doubts", ())), where]
    if rows:
        print_table(["", "asked", "predicted", "measured"], rows, lines)
    else:
        out.print("\n".join(lines))


def summary(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Lines and the asked / predicted / measured rows of a result."""
    from hiernas.budget import METRICS
    from hiernas.report import units, words

    chosen = result["chosen"]
    lines = [f"test accuracy {chosen['test_accuracy']:.2%} ({result['data']['name']}, {result['data']['test']} test images)"]
    if "front" not in result:
        return lines, []
    asked = dict.fromkeys(METRICS, units.NONE) | {x["metric"]: x["text"] for x in result["limits"]}
    latency, params, macs = chosen["latency_ms"], units.short(chosen["params"]), units.short(chosen["macs"])
    rows = [
        ["latency", asked["latency_ms"], *(units.milliseconds(latency[kind]) for kind in ("predicted", "measured"))],
        ["params", asked["params"], params, params],
        ["MACs", asked["macs"], macs, macs],
        ["accuracy", units.NONE, f"{chosen['val_accuracy']:.2%} (supernet)", f"{chosen['test_accuracy']:.2%} (test)"],
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

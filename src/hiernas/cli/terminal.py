"""What the command line prints: progress, pairs, estimates, and the summary of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from hiernas.errors import RunError

if TYPE_CHECKING:
    from hiernas.run.search import Prepared

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


def print_estimate(prepared: Prepared, e: Any) -> None:
    """What `hiernas check` found."""
    from hiernas.cli.progress import duration, number, quantity

    rows = {"space": f"{prepared.space.name}, {number(e.space_size)} architectures"}
    for metric, (smallest, typical, largest) in e.costs.items():
        values = (quantity(metric, v) for v in (smallest, typical, largest))
        rows[metric] = "smallest {}, typical {}, largest {}".format(*values)
    rows["limits"] = ", ".join(map(str, prepared.limits)) + (" (the median: none was given)" * prepared.automatic_limit)
    rows["within the limits"] = f"{e.feasible_share:.1%} of the architectures (estimated from 10,000 in large spaces)"
    rows["data"] = f"{prepared.data.name}: {len(prepared.data.train)} training, {len(prepared.data.val)} validation, " + (
        f"{len(prepared.data.test)} test images of {prepared.data.input_size} in {prepared.data.num_classes} classes"
    )
    for i, note in enumerate(prepared.data.notes):
        rows["note" + " " * i] = note
    if prepared.fitted:
        rows["for so few images"] = prepared.fitted
    for i, doubt in enumerate(prepared.doubts):
        rows["doubtful" + " " * i] = doubt
    rows["supernet"] = f"{e.supernet_params:,} parameters"
    rows["memory"] = f"about {e.memory_gib:.2f} GiB"
    rows["time"] = f"about {duration(e.total_seconds)} here: " + ", ".join(
        f"{phase} {duration(s)}" for phase, s in e.seconds.items()
    )
    print_pairs("Check: nothing was trained", rows)


def print_summary(run: Path) -> None:
    """The result of a finished run; raises `RunError` for others."""
    from hiernas.commands.lists import summary
    from hiernas.run.folder import RunFolder

    result = RunFolder.open(run).read_json("result.json")
    if result is None:
        raise RunError(f"{run} is not finished; go on with `hiernas resume {run}`")
    try:
        lines, rows = summary(result)
    except (KeyError, TypeError) as error:
        raise RunError(f"{run}/result.json is damaged; delete it, and `hiernas resume {run}` writes it again") from error
    if rows:
        table = Table("", "asked", "predicted", "measured", box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*row)
        out.print(table)
    for line in lines:
        out.print(line)
    for doubt in result.get("doubts", ()):
        out.print(f"doubtful: {doubt}")
    out.print(f"everything is in {run}" + (f"; open {run / 'report.html'}" if rows else ""))

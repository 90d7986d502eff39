"""What the command line prints: lines, tables, pairs, JSON, and the result of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from hiernas.commands import Table
from hiernas.host import visible

WIDE = 10_000  # columns: lines are not broken


class Terminal(Console):
    """Prints lines; what steers a terminal in a name of a class, file or device is shown, not done.

    As wide as the terminal, or as COLUMNS says; what goes into a file or a pipe is not broken over lines.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = WIDE

    def print(self, *objects: Any, **how: Any) -> None:
        try:
            super().print(*(visible(each) if isinstance(each, str) else each for each in objects), **how)
        except OSError:  # nobody reads it any more
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Where the reader of a pipe or the terminal is gone, the run goes on in silence."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


out, errors = (Terminal(stderr=stderr, highlight=False, soft_wrap=True, markup=False) for stderr in (False, True))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> None:
    """Columns and rows, numbers flush right, then remarks, a line each."""
    table = Grid(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numbers = all(row[i].lstrip("-")[:1].isdigit() for row in rows if row[i].strip("-"))
        longest = max(len(cell) for cell in (column, *(row[i] for row in rows)))
        whole = longest if numbers or (i == 0 and longest <= 30) else None  # what is never broken over lines
        table.add_column(column, min_width=whole, no_wrap=i == 0 and whole is not None, overflow="fold",
                         justify="right" if numbers else "left")  # fmt: skip
    for row in rows:
        table.add_row(*map(visible, row))
    out.print(table)
    for remark in remarks:
        out.print(remark)


def print_tables(tables: Sequence[Table]) -> None:
    for table in tables:
        print_table(*table)


def print_either(as_json: bool, value: Any, show: Callable[[], None]) -> None:
    """A value as JSON, or what a function prints of it."""
    if as_json:
        out.print(json.dumps(value))
    else:
        show()


def print_pairs(title: str, pairs: Mapping[str, str]) -> None:
    """Names and values below a title."""
    table = Grid(box=None, show_header=False, pad_edge=False, title=visible(title), title_justify="left", title_style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(visible(name.strip()), visible(value))
    out.print(table)


def print_summary(run: Path) -> None:
    """The result of a finished run; raises `RunError` for others."""
    from hiernas.report import units
    from hiernas.report.page import finished, summary, telling
    from hiernas.run.folder import RunFolder

    result = finished(RunFolder.open(run))
    with telling(run / "result.json"):
        lines, rows = summary(result)
        tables: list[Table] = [(["", "asked", "predicted", "measured"], rows, ())] if rows else []
        if "int8" in result:
            tables.append((units.INT8, units.int8_rows(result["int8"]), [units.int8_words(result["int8"])]))
    where = f"everything is in {run}" + (f"; open {run / 'report.html'}" if (run / "report.html").exists() else "")
    lines += [*(f"doubtful: {doubt}" for doubt in result.get("doubts", ())), where]
    print_tables(tables)
    for line in lines:
        out.print(line)

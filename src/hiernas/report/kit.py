"""What sections of a report are made of: markup from the templates, figures from matplotlib, and what a method tells.

A figure is SVG that lives inside the page: text stays text, colours and font are the page's. It is drawn in CSS pixels.
"""

from __future__ import annotations

import html
import io
import re
import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hiernas.report import units

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes  # of those who draw, too

Values = Mapping[str, Any]
HERE = Path(__file__).parent
PANEL = 412, 290  # pixels of one of two figures side by side

TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), undefined=StrictUndefined, autoescape=True, trim_blocks=True,
    lstrip_blocks=True, extensions=["jinja2.ext.do"],
)
TEMPLATES.globals |= {"units": units}


def macros(template: str) -> Any:
    """What a template defines: sections with their words, or their parts."""
    return TEMPLATES.get_template(template).module


PARTS = macros("parts.html")  # tables, notes, folds, heat maps


@dataclass(frozen=True)
class Run:
    """What a run folder holds, as far as the page tells of it."""

    folder: Path
    result: Values
    events: Sequence[Values]
    config: Values = field(default_factory=dict)  # its config.yaml

    def evaluated(self, columns: str, where: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """Rows of candidates.sqlite, the networks that were evaluated one by one; none where it is gone or damaged."""
        path = quote(str((self.folder / "candidates.sqlite").resolve()))
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                return db.execute(f"SELECT {columns} FROM candidates WHERE {where}", values).fetchall()
        except sqlite3.Error:
            return []


@dataclass(frozen=True)
class Told:
    """What a method says of its result. `found`: sections; `phases`: what those do whose names do not say it."""

    lead: str  # what the search did, in a sentence
    found: Sequence[Markup] = ()
    training: str = ""  # on the accuracy curves
    phases: Mapping[str, str] = field(default_factory=dict)
    marks: Sequence[str] = ()  # what happened between two trainings of the supernet
    levels: bool = False  # whether each of these is a search of its own, so that no curve goes from one to the next


class Teller(Protocol):
    """A method's part of the report: a module of these two functions."""

    def tell(self, run: Run) -> Told:
        """What the page says."""

    def words(self, result: Values) -> list[str]:
        """Lines for the terminal."""


def style() -> str:
    return (HERE / "style.css").read_text(encoding="utf-8")


def page(sections: Sequence[str], **said: Any) -> str:
    """A page of these sections, the empty ones left out, with a list of them on top."""
    text, numbers = "\n".join(filter(None, sections)), count(1)
    titles = [Markup(title) for title in re.findall(r"<section>\n<h2>(.*?)</h2>", text)]
    placed = Markup(re.sub("<section>", lambda _: f'<section id="part{next(numbers)}">', text))
    return TEMPLATES.get_template("page.html").render(sections=placed, titles=titles, style=style(), **said)


@dataclass(frozen=True)
class Cell:
    """A place of a heat map: its share of the strongest colour, what is written in it, and whether it was kept."""

    share: float
    text: str
    kept: bool


def probabilities(stage: Values, sites: Sequence[str], framed: bool = False, stages: Sequence[Values] = ()) -> Markup:
    """A heat map of a pruning's probabilities: layers on x, on y all operations of the `stages`, `skip` last."""
    layers = sorted((layer for s in stages or [stage] for layer in (s["sites"][x] for x in s["sites"] if x in sites)), key=len)
    options = sorted(dict.fromkeys(o for layer in reversed(layers) for o in layer), key=lambda o: o == "skip")
    rows: dict[str, list[Cell | None]] = {option: [] for option in options}
    for option, row in rows.items():
        for site in sites:
            p = stage["sites"].get(site, {}).get(option)
            row.append(None if p is None else Cell(min(1.0, p), f"{100 * p:.0f}", option in stage["kept"].get(site, ())))
    return PARTS.heat_map(f"Probabilities, stage {stage['stage']}", sites, rows, framed)


# -- figures -----------------------------------------------------------------------------------------------------------

# Names of colours: in the page each becomes a CSS variable, so that one drawing serves light, dark and print.
INK, MUTED, RULE, PAPER = "#1b1f24", "#5b6471", "#d9dde3", "#fffffe"
BLUE, ORANGE = "#0072b2", "#d55e00"  # Okabe and Ito's palette, safe for the colour-blind
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", BLUE: "blue", ORANGE: "orange"}


def draw(name: str, alt: str, paint: Callable[[Axes], None], width: float = 480, height: float = 320) -> Markup:
    """One pair of axes as an inline SVG of so many pixels, with a legend below where something has a label.

    `name` keeps its ids apart from the page's other figures'.
    """
    from matplotlib import figure, layout_engine, rc_context  # only where something is drawn
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with rc_context({"svg.hashsalt": name}, HERE / "figures.mplstyle"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as a letter the fonts of this machine lack: the reader's has it
        made = figure.Figure(figsize=(width / 72, height / 72), frameon=False)  # at 72 dpi a point is a pixel
        ax = FigureCanvasSVG(made).figure.add_subplot()
        ax.patch.set_visible(False)
        paint(ax)
        handles, labels = ax.get_legend_handles_labels()
        if labels:
            columns = max(1, int(width / (7 * max(map(len, labels)) + 40)))
            made.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)
        layout_engine.ConstrainedLayoutEngine().execute(made)  # once: `savefig` would draw all of it for that
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    return Markup(_inline(buffer.getvalue(), name, alt, width, height))


def alone(inline: str) -> str:
    """An inline SVG as a file of its own, with the variables of the page's style sheet."""
    rules = style().split("* {")[0]  # the variables, for light and dark
    head, rest = str(inline).split(">", 1)
    ground = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    named = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ')
    return f"{named}>\n<style>\n{rules}svg {{ fill: var(--ink); stroke-linejoin: round; }}\n</style>\n{ground}{rest}"


def _inline(svg: str, name: str, alt: str, width: float, height: float) -> str:
    body = svg[svg.index("<defs>") :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"\n\s*", "\n", body)
    head = f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    return f"{head}>\n{body}"

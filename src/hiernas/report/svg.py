"""From matplotlib to SVG that lives inside a page: text stays text, colours and font are the page's.

Figures are drawn in CSS pixels. The colours below are names: in the page each becomes a CSS variable, so that
one drawing serves light, dark and print.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1b1f24", "#5b6471", "#d9dde3", "#fffffe"
BLUE, ORANGE, ON_BLUE = "#0072b2", "#d55e00", "#fffffd"  # Okabe and Ito's palette, safe for the colour-blind
VARIABLES = {
    INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", BLUE: "blue", ORANGE: "orange", ON_BLUE: "on-blue"
}  # fmt: skip
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text, not outlines
    "savefig.bbox": "standard",  # the size that was asked for
    "font.family": "sans-serif",
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 12.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.frameon": False,
    "legend.fontsize": 12.0,
    "lines.linewidth": 1.8,
    "patch.linewidth": 0.8,
}


def draw(name: str, alt: str, width: float, height: float, paint: Callable[[Figure], None]) -> str:
    """An inline SVG of width x height pixels. `name` keeps its ids apart from the page's other figures'."""
    style: Any = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as a letter the fonts of this machine lack: the reader's has it
        figure = Figure(figsize=(width / 72, height / 72))  # at 72 dpi a point is a pixel
        figure.patch.set_visible(False)
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    return _inline(buffer.getvalue(), name, alt, width, height)


def alone(inline: str, style: str) -> str:
    """An inline SVG as a file of its own, with the variables of the page's style sheet."""
    rules = style[: style.index("* {")]  # the variables, for light and dark
    head, rest = inline.split(">", 1)
    ground = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    named = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ')
    return f"{named}>\n<style>\n{rules}svg {{ fill: var(--ink); stroke-linejoin: round; }}\n</style>\n{ground}{rest}"


def axes(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes with these margins, in pixels from the figure's edges."""
    width, height = 72 * figure.get_figwidth(), 72 * figure.get_figheight()
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    added = figure.add_axes(box)
    added.patch.set_visible(False)
    return added


def sheet(figure: Figure) -> Axes:
    """Empty axes over the whole figure whose units are pixels, y downwards."""
    added = axes(figure, 0, 0, 0, 0)
    added.set_axis_off()
    added.set_xlim(0, 72 * figure.get_figwidth())
    added.set_ylim(72 * figure.get_figheight(), 0)
    return added


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

"""The figures of a HourNAS run: vital blocks' operations, costs at falling temperatures (Fig. 3), reset blocks (Fig. 2).

Each returns inline SVG of a given width in pixels, and "" where there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hiernas.report import units
from hiernas.report.figures import heat_map, options_of
from hiernas.report.svg import BLUE, INK, MUTED, ORANGE, axes, draw

Values = Mapping[str, Any]
WITHIN = 2.0  # percent of a target


# -- vital blocks --------------------------------------------------------------------------------------------------


def vital(result: Values, width: float) -> str:
    """Vital blocks on x, operations on y, the probability as colour and number, what was fixed in a frame."""
    stage = next(iter(result["stages"]), None)
    names = result["details"]["vital"]
    if stage is None or not names:
        return ""
    shown = {**stage, "sites": {site: stage["sites"][site] for site in names}}
    options = options_of([shown])
    left = 14 + 6.6 * max(map(len, options))
    cell = min(100.0, (width - left - 8) / len(names))
    longest = 6.4 * max(map(len, names))
    upright = longest + 8 > cell
    below, height = (12 + longest if upright else 24.0), 22.0 * len(options)

    def paint(figure: Figure) -> None:
        ax = axes(figure, left, 6, width - left - cell * len(names), below)
        heat_map(ax, shown, names, options, numbers=cell >= 24, framed=True)
        ax.set_xticks([x + 0.5 for x in range(len(names))], names, rotation=90 if upright else 0, fontsize=11)

    kept = {site: stage["kept"][site][0] for site in names}
    fixed = ", ".join(f"{site} {option} ({units.percent(stage['sites'][site][option])})" for site, option in kept.items())
    alt = f"Heat map of the operation probabilities of {len(names)} vital blocks. Fixed: {fixed}."
    return draw(f"vital{width:.0f}", alt, width, 6 + height + below, paint)


# -- costs at falling temperatures ---------------------------------------------------------------------------------


def spread(found: Sequence[Values], width: float) -> str:
    """A panel per temperature: for one target the costs in a strip, for two against each other, for more every two."""
    if not found:
        return ""
    metrics = list(found[0]["relative"])
    alt = "Costs of networks drawn from the proposals. " + " ".join(f"{_within(s)} within 2 % of every target." for s in found)
    if len(metrics) == 1:
        height = 46.0 * len(found) + 46
        return draw(f"spread{width:.0f}", alt, width, height, lambda figure: _strips(figure, found, metrics[0]))
    pairs = list(combinations(metrics, 2))
    grid = _Grid(len(found), 4 if width > 500 else 2, width)

    def paint(figure: Figure) -> None:
        for i, pair in enumerate(pairs):
            _scatters(figure, found, pair, grid, i * grid.height)

    return draw(f"spread{width:.0f}", alt, width, grid.height * len(pairs), paint)


@dataclass(frozen=True)
class _Grid:
    """Where the panels of one pair of targets stand, in pixels."""

    panels: int
    columns: int
    width: float
    left: float = 66.0
    gap: float = 16.0
    title: float = 24.0  # over each panel
    below: float = 56.0  # for the numbers and the name of the axis

    @property
    def side(self) -> float:
        return (self.width - self.left - self.gap * self.columns) / self.columns

    @property
    def rows(self) -> int:
        return -(-self.panels // self.columns)

    @property
    def height(self) -> float:
        return self.rows * (self.title + self.side) + self.below

    def corner(self, i: int) -> tuple[float, float]:
        """Left and top of a panel."""
        row, column = divmod(i, self.columns)
        return self.left + column * (self.side + self.gap), self.title + row * (self.title + self.side)


def _within(s: Values) -> str:
    return f"τ = {s['tau']:.2g}: {100 * s['within']:.1f}{units.SPACE}%"


def _percent(s: Values, metric: str) -> np.ndarray:
    return 100.0 * np.array(s["relative"][metric])


def _span(found: Sequence[Values], metric: str) -> tuple[float, float]:
    """An axis for all temperatures: the targets' surroundings are always on it."""
    low = min(90.0, *(float(_percent(s, metric).min()) for s in found))
    high = max(110.0, *(float(_percent(s, metric).max()) for s in found))
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _strips(figure: Figure, found: Sequence[Values], metric: str) -> None:
    ax = axes(figure, 132, 6, 16, 40)
    ax.axvspan(100 - WITHIN, 100 + WITHIN, color=ORANGE, alpha=0.25, linewidth=0)
    for y, s in enumerate(found):
        x = _percent(s, metric)
        ax.plot(x, y + _fan(len(x)), "o", color=BLUE, alpha=0.25, markersize=3, markeredgewidth=0)
    ax.set_yticks(range(len(found)), [_within(s) for s in found])
    ax.set(ylim=(len(found) - 0.5, -0.5), xlim=_span(found, metric), xlabel=_label(metric))
    ax.grid(axis="y", visible=False)


def _fan(n: int) -> np.ndarray:
    """Heights within a strip that keep neighbours apart: the golden ratio's sequence, in -0.35..0.35."""
    return 0.7 * (np.arange(n) * 0.6180339887 % 1.0) - 0.35


def _scatters(figure: Figure, found: Sequence[Values], pair: tuple[str, str], grid: _Grid, top: float) -> None:
    width, height = 72 * figure.get_figwidth(), 72 * figure.get_figheight()
    spans = _span(found, pair[0]), _span(found, pair[1])
    for i, s in enumerate(found):
        left, above = grid.corner(i)
        ax = axes(figure, left, top + above, width - left - grid.side, height - top - above - grid.side)
        corner, size = (100 - WITHIN, 100 - WITHIN), 2 * WITHIN
        ax.add_patch(Rectangle(corner, size, size, facecolor="none", edgecolor=ORANGE, zorder=4))
        ax.axvline(100, color=ORANGE, linewidth=0.8)
        ax.axhline(100, color=ORANGE, linewidth=0.8)
        ax.plot(*(_percent(s, m) for m in pair), "o", color=BLUE, alpha=0.3, markersize=3, markeredgewidth=0, zorder=3)
        ax.set(xlim=spans[0], ylim=spans[1])
        ax.locator_params(nbins=3)
        ax.tick_params(labelleft=i % grid.columns == 0, labelbottom=i + grid.columns >= grid.panels)
        ax.set_title(_within(s), loc="left", fontsize=12, pad=5)
    middle = top + (grid.title + grid.rows * (grid.title + grid.side)) / 2
    figure.text(12 / width, 1 - middle / height, _label(pair[1]), rotation=90, va="center", ha="center")
    under = top + grid.height - 18
    figure.text((grid.left + width) / 2 / width, 1 - under / height, _label(pair[0]), va="center", ha="center")


def _label(metric: str) -> str:
    return f"{units.name(metric)} (% of target)"


# -- reset blocks --------------------------------------------------------------------------------------------------


def reset(found: Values, width: float) -> str:
    """A bar per block and probability: what the network loses of its accuracy, in percentage points."""
    blocks, chances = found["blocks"], found["probabilities"]
    if not blocks:
        return ""
    left = 30 + 6.6 * max(len(b["name"]) for b in blocks)
    slot = 10.0 * len(chances) + 8

    def paint(figure: Figure) -> None:
        ax = axes(figure, left, 30, 16, 40)
        for y, block in enumerate(blocks):
            if block["vital"]:
                ax.axhspan(y - 0.5, y + 0.5, color=MUTED, alpha=0.12, linewidth=0, zorder=0)
            for i, accuracies in enumerate(block["accuracies"]):
                _bar(ax, y + (i - (len(chances) - 1) / 2) * 0.26, found["accuracy"], accuracies, (i + 1) / len(chances))
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set_yticks(range(len(blocks)), [b["name"] + ("  ●" if b["vital"] else "      ") for b in blocks], fontsize=11)
        ax.set(ylim=(len(blocks) - 0.5, -0.5), xlabel="Accuracy lost (percentage points)")
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        keys = [Rectangle((0, 0), 1, 1, facecolor=(BLUE, (i + 1) / len(chances))) for i in range(len(chances))]
        ax.legend(keys, [f"p = {p:g}" for p in chances], loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=len(chances),
                  columnspacing=1.2, handlelength=1.2)  # fmt: skip

    alt = "Accuracy lost when a block's channels are reset. " + " ".join(_in_words(found, b) for b in blocks)
    return draw(f"reset{width:.0f}", alt, width, 70 + slot * len(blocks), paint)


def _bar(ax: Axes, y: float, accuracy: float, accuracies: Sequence[float], strength: float) -> None:
    lost = [100 * (accuracy - a) for a in accuracies]
    ax.barh(y, float(np.mean(lost)), height=0.26, color=(BLUE, strength), zorder=2)
    if len(lost) > 1:
        ax.plot([min(lost), max(lost)], [y, y], color=INK, linewidth=0.8, zorder=3)


def _in_words(found: Values, block: Values) -> str:
    lost = ", ".join(f"{100 * (found['accuracy'] - float(np.mean(each))):.1f}" for each in block["accuracies"])
    return f"{block['name']}{' (vital)' if block['vital'] else ''}: {lost} points."

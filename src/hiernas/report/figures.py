"""The figures of a report that show numbers: the Pareto front, the operation probabilities, the accuracy curves.

Each returns inline SVG of a given width in pixels, and "" where the run has nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from hiernas.report import units
from hiernas.report.svg import BLUE, INK, MUTED, ON_BLUE, ORANGE, RULE, axes, draw

Values = Mapping[str, Any]

# -- the Pareto front --------------------------------------------------------------------------------------------


def front(result: Values, width: float) -> str:
    """Objective against the supernet's validation accuracy, the chosen network marked, forbidden values shaded."""
    metric = front_metric(result)
    members = [m for m in units.front(result) if cost(m, metric) is not None]
    if not members:
        return ""
    height = 0.42 * width + 100
    factor, label = units.axis(metric, [cost(m, metric) or 0.0 for m in members])

    def paint(figure: Figure) -> None:
        ax = axes(figure, 62, 26, 16, 82)
        ax.set_xlabel(label)
        ax.set_ylabel("Supernet validation accuracy (%)" if width > 500 else "Validation accuracy (%)")
        xs = [(cost(m, metric) or 0.0) / factor for m in members]
        ys = [100 * m["val_accuracy"] for m in members]
        ax.plot(xs, ys, "o-", color=BLUE, markersize=6, linewidth=1.2, label=_kind(metric), zorder=3)
        if metric == "latency_ms":
            _measured(ax, members)
        chosen = result["chosen"]
        at = cost(chosen, metric)
        if at is not None:
            y = 100 * chosen["val_accuracy"]
            ax.plot([at / factor], [y], "o", markersize=14, fillstyle="none", color=INK, label="chosen", zorder=4)
        _room(ax)
        _shade(ax, [limit for limit in result["limits"] if limit["metric"] == metric], factor)
        between, pad, handle = (1.4, 0.8, 2.0) if width > 500 else (0.7, 0.3, 1.4)
        ax.legend(loc="upper center", bbox_to_anchor=(0.45, -52 / (height - 108)), ncols=3,
                  columnspacing=between, handletextpad=pad, handlelength=handle)  # fmt: skip

    alt = (
        f"Pareto front of {len(members)} networks: {label} against supernet validation accuracy, from "
        f"{units.value(metric, cost(members[0], metric))} at {units.percent(members[0]['val_accuracy'])} to "
        f"{units.value(metric, cost(members[-1], metric))} at {units.percent(members[-1]['val_accuracy'])}."
    )
    return draw(f"front{width:.0f}", alt, width, height, paint)


def front_metric(result: Values) -> str:
    """The objective, or the multiply-adds where the objective has no values (no latency was predicted)."""
    metric = str(result["objective"])
    return metric if all(cost(m, metric) is not None for m in result["front"]) else "macs"


def cost(network: Values, metric: str) -> float | None:
    """A network's value of a metric before its measurement; None where it has none."""
    if metric == "latency_ms":
        return units.latency(network, "predicted")
    found = network.get(metric)
    return None if found is None else float(found)


def _kind(metric: str) -> str:
    return "predicted" if metric == "latency_ms" else "front"


def _measured(ax: Axes, members: Sequence[Values]) -> None:
    """Measured latency as diamonds, 10th to 90th percentile as bars, joined to the prediction."""
    label: str | None = "measured, 10–90 %"
    for m in members:
        measured, y = units.latency(m, "measured"), 100 * m["val_accuracy"]
        if measured is None:
            continue
        low, high = units.latency(m, "p10"), units.latency(m, "p90")
        if low is not None and high is not None:
            ax.plot([low, high], [y, y], color=ORANGE, linewidth=1.2, zorder=2)
        ax.plot([units.latency(m, "predicted") or 0.0, measured], [y, y], ":", color=MUTED, linewidth=1.0, zorder=1)
        ax.plot([measured], [y], "D", color=ORANGE, markersize=5.5, linewidth=1.2, label=label, zorder=2)
        label = None


def _room(ax: Axes) -> None:
    """Room around the points, also where there is only one."""
    (x0, x1), (y0, y1) = ax.dataLim.intervalx, ax.dataLim.intervaly
    dx, dy = max(0.08 * (x1 - x0), 0.02 * abs(x1), 1e-9), max(0.12 * (y1 - y0), 0.15)
    ax.set_xlim(x0 - dx, x1 + dx)
    ax.set_ylim(y0 - dy, y1 + dy)


def _shade(ax: Axes, limits: Sequence[Values], factor: float) -> None:
    """Grey over what the limits forbid, where the limit is within reach of the axis."""
    left, right = ax.get_xlim()
    reach = right - left
    for limit in limits:
        for side, bound in ((-1, limit["low"]), (1, limit["high"])):
            x = None if bound is None else bound / factor
            if x is None or not left - reach < x < right + reach:
                continue
            ax.set_xlim(min(ax.get_xlim()[0], x - 0.05 * reach), max(ax.get_xlim()[1], x + 0.05 * reach))
            ax.axvspan(x, x + side * 10 * reach, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
            ax.axvline(x, color=INK, linewidth=1.0, linestyle="--", zorder=1)
            said = f"limit {'≥' if side < 0 else '≤'} {units.asked(limit['metric'], bound)}"
            flush = "right" if x > left + 0.6 * reach else "left"
            ax.annotate(said, (x, 1), (0, 5), ("data", "axes fraction"), "offset points", ha=flush, color=INK)


# -- operation probabilities ---------------------------------------------------------------------------------------


def operations(result: Values, width: float) -> str:
    """One panel per pruning: layers on x, operations on y, the probability as colour; crosses mark what was dropped."""
    stages = [s for s in result["stages"] if s["sites"]]
    if not stages:
        return ""
    sites = list(dict.fromkeys(site for s in stages for site in s["sites"]))
    options = options_of(stages)
    left = 14 + 6.6 * max(map(len, options))
    cell = min(100.0, (width - left - 8) / len(sites))
    longest = 6.4 * max(map(len, sites))  # of the layers' names
    upright = longest + 8 > cell
    names = 12 + longest if upright else 24.0
    row, gap = 22.0, 34.0
    panel = row * len(options)
    height = len(stages) * (panel + gap) + names

    def paint(figure: Figure) -> None:
        right = width - left - cell * len(sites)
        for i, stage in enumerate(stages):
            top = i * (panel + gap) + gap
            ax = axes(figure, left, top, right, height - top - panel)
            heat_map(ax, stage, sites, options, numbers=cell >= 24)
            ax.set_title(_pruning(stage, short=width < 500), loc="left", fontsize=12, pad=7)
            if i == len(stages) - 1:
                ax.set_xticks([x + 0.5 for x in range(len(sites))], sites, rotation=90 if upright else 0, fontsize=11)

    alt = (
        f"Heat map of operation probabilities: {len(stages)} prunings, {len(sites)} layers, {len(options)} operations. "
        + " ".join(f"{_pruning(s)}." for s in stages)
    )
    return draw(f"operations{width:.0f}", alt, width, height, paint)


def options_of(stages: Sequence[Values]) -> list[str]:
    """All options in the order of the layer that has most of them, `skip` last."""
    layers = [probabilities for s in stages for probabilities in s["sites"].values()]
    found = dict.fromkeys(o for layer in sorted(layers, key=len, reverse=True) for o in layer)
    return sorted(found, key=lambda o: o == "skip")


def _pruning(stage: Values, short: bool = False) -> str:
    sizes = f"{units.size(stage['size_before'])} → {units.size(stage['size_after'])}"
    return f"Stage {stage['stage']}: {sizes}" + ("" if short else " architectures")


def heat_map(
    ax: Axes, stage: Values, sites: Sequence[str], options: Sequence[str], numbers: bool, framed: bool = False
) -> None:
    """Layers on x, operations on y, probability as colour; what was not kept is crossed out, or else what was is framed."""
    ax.set(xlim=(0, len(sites)), ylim=(len(options), 0))
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([y + 0.5 for y in range(len(options))], options, fontsize=11)
    for x, site in enumerate(sites):
        kept = stage["kept"].get(site, ())
        for y, option in enumerate(options):
            if option in stage["sites"].get(site, {}):
                _cell(ax, x, y, float(stage["sites"][site][option]), option in kept, numbers, framed)


def _cell(ax: Axes, x: int, y: int, p: float, kept: bool, numbers: bool, framed: bool) -> None:
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=(BLUE, min(1.0, p)), edgecolor=RULE))
    if framed and kept:
        ax.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor=INK, linewidth=2.0, zorder=3, clip_on=False))
    if not framed and not kept:
        ax.plot([x + 0.5], [y + 0.5], "x", color=MUTED, markersize=6, markeredgewidth=1.1, clip_on=False)
    elif numbers:
        colour = ON_BLUE if p > 0.75 else INK
        ax.text(x + 0.5, y + 0.54, f"{100 * p:.0f}", ha="center", va="center", fontsize=10.5, color=colour)


# -- accuracy curves -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """The epochs of one training phase, in order: each an event of events.jsonl."""

    phase: str
    epochs: tuple[Values, ...]


def curves_of(events: Sequence[Values]) -> tuple[list[Curve], list[Curve]]:
    """The supernet's training phases in order, and the chosen network's; of a repeated epoch the last one counts."""
    phases: dict[str, dict[int, Values]] = {}
    for event in events:
        if event.get("event") == "epoch":
            phases.setdefault(event["phase"], {})[event["epoch"]] = event
    found = [Curve(phase, tuple(epochs[e] for e in sorted(epochs))) for phase, epochs in phases.items()]
    supernet = [c for c in found if not c.phase.startswith(("final", "mask", "compare"))]
    return supernet, [c for c in found if c.phase == "final"]


def training(result: Values, events: Sequence[Values], width: float) -> str:
    """Accuracy by epoch: the supernet over all its phases, with the prunings, and the chosen network."""
    supernet, final = curves_of(events)
    panels = [(t, c) for t, c in (("Supernet", supernet), ("Chosen network", final)) if c]
    if not panels:
        return ""
    beside = width > 500
    height = 330.0 if beside else 290.0 * len(panels)

    def paint(figure: Figure) -> None:
        shares = [0.0, 1.0] if len(panels) == 1 else [0.0, 0.56, 1.0]
        for i, (title, curves) in enumerate(panels):
            if beside:
                ax = axes(figure, 56 + shares[i] * width, 30, (1 - shares[i + 1]) * width + 10, 72)
            else:
                ax = axes(figure, 56, 30 + 290 * i, 12, height - 290 * (i + 1) + 72)
            _curves(ax, curves, marks(result, curves) if curves is supernet else [], joined=result.get("method") != "hdas")
            ax.set_title(title, loc="left", fontsize=12, pad=9)
            ax.set_ylabel("Accuracy (%)")
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -40 / 228), ncols=2)

    last = {title: curves[-1].epochs[-1] for title, curves in panels}
    alt = "Accuracy by epoch. " + " ".join(
        f"{title}: training accuracy {units.percent(e.get('train_accuracy'))}, validation accuracy "
        f"{units.percent(e.get('val_accuracy'))} in the last epoch."
        for title, e in last.items()
    )
    return draw(f"training{width:.0f}", alt, width, height, paint)


FOUND = {"train1": "cells found", "train2": "numbers found"}  # by the phases of H-DAS


def marks(result: Values, curves: Sequence[Curve]) -> list[str]:
    """What happened between two trainings of the supernet."""
    if result.get("method") == "hournas":
        return ["vital blocks fixed" for _ in result["stages"]]
    if result.get("method") == "hdas":
        return [FOUND.get(c.phase, c.phase) for c in curves[:-1]]
    return [f"pruned to {units.size(s['size_after'])}" for s in result["stages"]]


def _curves(ax: Axes, curves: Sequence[Curve], said: Sequence[str], joined: bool) -> None:
    """One line per kind of accuracy over all phases; dotted verticals between them, with what was done there."""
    epochs = sum(len(curve.epochs) for curve in curves)
    for key, label, style in (("train_accuracy", "training", "--"), ("val_accuracy", "validation", "-")):
        points = points_of(curves, key, joined)
        if points:
            colour = MUTED if key == "train_accuracy" else BLUE
            marker = "o" if len(points) == 1 or (key == "val_accuracy" and len(points) <= 40) else ""
            ax.plot(*zip(*points, strict=True), style, color=colour, marker=marker, markersize=4, label=label)
    verticals(ax, curves, said)
    ax.set_xlabel("Epoch")
    ax.set_xlim(0.5, epochs + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def points_of(curves: Sequence[Curve], key: str, joined: bool) -> list[tuple[float, float]]:
    """(epoch over all phases, percent) where the value is known; without `joined`, a gap between two phases."""
    points: list[tuple[float, float]] = []
    start = 0
    for curve in curves:
        found = [(float(start + x), 100 * e[key]) for x, e in enumerate(curve.epochs, 1) if e.get(key) is not None]
        points += [(math.nan, math.nan)] * bool(points and found and not joined) + found
        start += len(curve.epochs)
    return points


def verticals(ax: Axes, curves: Sequence[Curve], said: Sequence[str]) -> None:
    """A dotted line between two phases, and what happened there."""
    start = 0
    for i, curve in enumerate(curves[:-1]):
        start += len(curve.epochs)
        ax.axvline(start + 0.5, color=INK, linewidth=1.0, linestyle=":")
        text = said[i] if i < len(said) else curves[i + 1].phase
        ax.annotate(text, (start + 0.5, 0.03), (4, 0), ("data", "axes fraction"), "offset points",
                    rotation=90, va="bottom", fontsize=11, color=INK)  # fmt: skip

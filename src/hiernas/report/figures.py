"""What every method's page shows: the Pareto front, the accuracy curves, the chosen network.

A figure is an inline SVG, and "" where the run has nothing to show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import numpy as np
from markupsafe import Markup

from hiernas.errors import SpaceError
from hiernas.networks.parts import Part
from hiernas.report import kit, units
from hiernas.report.kit import Values
from hiernas.space import FORMAT, Architecture

# -- the Pareto front --------------------------------------------------------------------------------------------


SECTIONS = kit.macros("figures.html")
DOTS = 1000  # evaluated networks that are drawn
ABOUT_PRUNING = "Dotted lines mark the prunings: the supernet goes on with the weights of what survives."


def tell(run: kit.Run) -> kit.Told:
    """What a search found that evaluates networks one by one."""
    result, stages = run.result, run.result["stages"]
    marks = [f"pruned to {units.size(s['size_after'])}" for s in stages]
    found = [front(result, cloud(run)), prunings(result)]
    return kit.Told(units.evaluated(result), found, training=ABOUT_PRUNING if stages else "", marks=marks)


def words(result: Values) -> list[str]:
    """Lines for the terminal."""
    return [f"Pareto front of {len(result['front'])} networks out of {result['evaluated']} evaluations"]


def cloud(run: kit.Run) -> list[Values]:
    """The networks that were evaluated with the same weights as those of the front."""
    first, columns = run.result["front"][0], ("params", "macs", "latency_ms", "val_accuracy")
    where = "phase IN (SELECT phase FROM candidates WHERE options = ? AND val_accuracy = ?)"
    rows = run.evaluated(", ".join(columns), where, [",".join(first["options"]), first["val_accuracy"]])
    found = (dict(zip(columns, row, strict=True)) for row in rows[:: -(-len(rows) // DOTS) or 1])
    return [{**each, "latency_ms": {"predicted": each["latency_ms"]}} for each in found]


def front(result: Values, others: Sequence[Values] = ()) -> Markup:
    """The section on the front: the figure, with others that were evaluated, and every network in numbers."""
    chosen, metric = result["chosen"], _metric(result)
    members = [chosen if m["options"] == chosen["options"] else m for m in result["front"]]  # with all that was measured of it
    at = next((i for i, m in enumerate(members) if m is chosen), -1)
    drawn = front_figure(members, result, metric, others)
    return SECTIONS.front(drawn, members, at, result, metric, len(others))


def prunings(result: Values) -> Markup:
    """What each pruning on the way to the front kept."""
    stages = [s for s in result["stages"] if s["sites"]]
    sites = list(dict.fromkeys(site for s in stages for site in s["sites"]))
    maps = []
    for s in stages:
        sizes = f"{units.size(s['size_before'])} → {units.size(s['size_after'])} architectures"
        maps.append((f"Stage {s['stage']}: {sizes}", kit.probabilities(s, sites, stages=stages)))
    return SECTIONS.prunings(maps)


def front_figure(members: Sequence[Values], result: Values, metric: str, others: Sequence[Values] = ()) -> Markup:
    """Objective against the supernet's validation accuracy, the chosen network marked, forbidden values shaded.

    Of the others the less accurate half may be below the figure, so that the front is seen.
    """
    members = [m for m in members if _cost(m, metric) is not None]
    if not members:
        return Markup()
    costs, chosen = [_cost(m, metric) or 0.0 for m in members], result["chosen"]
    factor, axis = units.axis(metric, costs)

    def paint(ax: kit.Axes) -> None:
        ax.set(xlabel=axis, ylabel="Validation accuracy (%)")
        label = "predicted" if metric == "latency_ms" else "front"
        xs, ys = [x / factor for x in costs], [100 * m["val_accuracy"] for m in members]
        ax.plot(xs, ys, "o-", color=kit.BLUE, markersize=6, linewidth=1.2, label=label, zorder=3)
        if metric == "latency_ms":
            _measured(ax, members)
        if (at := _cost(chosen, metric)) is not None:
            y = 100 * chosen["val_accuracy"]
            ax.plot([at / factor], [y], "o", markersize=14, fillstyle="none", color=kit.INK, label="chosen", zorder=4)
        around = [(x / factor, 100 * m["val_accuracy"]) for m in others if (x := _cost(m, metric)) is not None]
        middle = np.median([y for _, y in around]) if around else 0.0
        ax.update_datalim([(x, max(y, middle)) for x, y in around])
        _room(ax)
        if around:
            ax.plot(*zip(*around, strict=True), ".", color=kit.MUTED, markersize=4, alpha=0.5, label="evaluated", zorder=0.5)
        _shade(ax, [limit for limit in result["limits"] if limit["metric"] == metric], factor)

    ends = (f"{units.value(metric, costs[i])} at {units.percent(members[i]['val_accuracy'])}" for i in (0, -1))
    alt = f"Pareto front of {len(members)} networks: {axis} against validation accuracy, from {' to '.join(ends)}. "
    alt += f"Chosen: {units.value(metric, _cost(chosen, metric))} at {units.percent(chosen['val_accuracy'])}."
    return kit.draw("front", alt, paint, height=360)


def _metric(result: Values) -> str:
    """The objective, or the multiply-adds where the objective has no values (no latency was predicted)."""
    metric = str(result["objective"])
    return metric if all(_cost(m, metric) is not None for m in result["front"]) else "macs"


def _cost(network: Values, metric: str) -> float | None:
    """A network's value of a metric before its measurement; None where it has none."""
    if metric == "latency_ms":
        return units.latency(network, "predicted")
    return float(network[metric])


def _measured(ax: kit.Axes, members: Sequence[Values]) -> None:
    """Measured latency as diamonds, 10th to 90th percentile as bars, joined to the prediction."""
    kinds = ("predicted", "measured", "p10", "p90")
    found = [(100 * m["val_accuracy"], *(units.latency(m, kind) for kind in kinds)) for m in members]
    y, predicted, measured, low, high = np.array([row for row in found if None not in row], dtype=float).reshape(-1, 5).T
    ax.hlines(y, predicted, measured, color=kit.MUTED, linestyle=":", linewidth=1.0, zorder=1)
    ax.hlines(y, low, high, color=kit.ORANGE, linewidth=1.2, zorder=2)
    if len(y):
        ax.plot(measured, y, "D", color=kit.ORANGE, markersize=5.5, label="measured, 10–90 %", zorder=2)


def _room(ax: kit.Axes) -> None:
    """Room around the points, also where there is only one."""
    (x0, x1), (y0, y1) = ax.dataLim.intervalx, ax.dataLim.intervaly
    dx, dy = max(0.08 * (x1 - x0), 0.02 * abs(x1), 1e-9), max(0.12 * (y1 - y0), 0.15)
    ax.set_xlim(x0 - dx, x1 + dx)
    ax.set_ylim(y0 - dy, y1 + dy)


def _shade(ax: kit.Axes, limits: Sequence[Values], factor: float) -> None:
    """Grey over what the limits forbid, where the limit is within reach of the axis."""
    left, right = ax.get_xlim()
    reach = right - left
    for limit in limits:
        for side, bound in ((-1, limit["low"]), (1, limit["high"])):
            x = None if bound is None else bound / factor
            if x is None or not left - reach < x < right + reach:
                continue
            ax.set_xlim(min(ax.get_xlim()[0], x - 0.05 * reach), max(ax.get_xlim()[1], x + 0.05 * reach))
            ax.axvspan(x, x + side * 10 * reach, color=kit.MUTED, alpha=0.14, linewidth=0, zorder=0)
            ax.axvline(x, color=kit.INK, linewidth=1.0, linestyle="--", zorder=1)
            said = f"limit {'≥' if side < 0 else '≤'} {units.asked(limit['metric'], bound)}"
            flush = "right" if x > left + 0.6 * reach else "left"
            ax.annotate(said, (x, 1), (0, 5), ("data", "axes fraction"), "offset points", ha=flush, color=kit.INK)


# -- accuracy curves -----------------------------------------------------------------------------------------------


Curve = Sequence[Values]  # the epochs of one training phase, in order: each an event of events.jsonl


def curves_of(events: Sequence[Values]) -> tuple[list[Curve], list[Curve]]:
    """The supernet's training phases in order, and the chosen network's; of a repeated epoch the last one counts."""
    phases: dict[str, dict[int, Values]] = {}
    for event in events:
        if event.get("event") == "epoch":
            phases.setdefault(event["phase"], {})[event["epoch"]] = event
    found: dict[str, Curve] = {phase: [epochs[e] for e in sorted(epochs)] for phase, epochs in phases.items()}
    supernet = [curve for phase, curve in found.items() if not phase.startswith(("final", "mask", "compare", "brief"))]
    return supernet, [curve for phase, curve in found.items() if phase == "final"]


def training(events: Sequence[Values], told: kit.Told) -> Markup:
    """Accuracy by epoch: the supernet over all its phases, with what happened between them, and the chosen network."""
    supernet, final = curves_of(events)
    lines = [Line("train_accuracy", "training", "--", kit.MUTED), Line("val_accuracy", "validation", "-", kit.BLUE)]
    named = [("Supernet", supernet, told.marks), ("Chosen network", final, ())]
    panels = [
        (title, by_epoch(title, curves, lines, marks, joined=not told.levels, label="Accuracy (%)"))
        for title, curves, marks in named
        if curves
    ]
    return SECTIONS.training(panels, told.training)


@dataclass(frozen=True)
class Line:
    """A value of the epochs' events, and how it is drawn."""

    key: str
    label: str
    style: str
    colour: str
    factor: float = 100.0  # shares are shown in percent


def by_epoch(
    title: str, curves: Sequence[Curve], lines: Sequence[Line], marks: Sequence[str] = (), *, joined: bool = False,
    label: str = "", top: float | None = None, alarm: int | None = None,
) -> Markup:  # fmt: skip
    """Values by epoch over all phases; dotted lines between two phases, with what happened there. `joined`: across them."""
    points = {line: _points(curves, line, joined) for line in lines}
    ends, lone = list(accumulate(map(len, curves))), any(len(curve) == 1 for curve in curves)  # which a line would not show

    def paint(ax: kit.Axes) -> None:
        for line, of in points.items():
            if of:
                marker = "o" if (len(of) <= 40 and line.style == "-") or len(of) == 1 or lone else ""
                size = 7 if lone else 4
                ax.plot(*zip(*of, strict=True), line.style, color=line.colour, marker=marker, markersize=size, label=line.label)
        for end, text in zip(ends, marks, strict=False):
            ax.axvline(end + 0.5, color=kit.INK, linewidth=1.0, linestyle=":")
            ax.annotate(text, (end + 0.5, 0.03), (4, 0), ("data", "axes fraction"), "offset points", rotation=90, va="bottom",
                        fontsize=11, color=kit.INK, bbox={"facecolor": kit.PAPER, "edgecolor": "none", "pad": 1})  # fmt: skip
        if alarm is not None:
            ax.axvline(alarm, color=kit.ORANGE, linewidth=1.2, label="alarm")
        ax.set(xlabel="Epoch", ylabel=label, xlim=(0.5, ends[-1] + 0.5))
        ax.locator_params(axis="x", nbins=8, integer=True, min_n_ticks=1)
        if top is not None:
            ax.set_ylim(0, top)

    said = [f"{line.label} from {of[0][1]:.2f} to {of[-1][1]:.2f}" for line, of in points.items() if of]
    alt = f"{title} over {units.number(ends[-1], 'epoch')}: {'; '.join(said)}{'. ' * bool(marks)}{', '.join(marks)}."
    return kit.draw(title.lower().replace(" ", "-"), alt, paint, *kit.PANEL)


def _points(curves: Sequence[Curve], line: Line, joined: bool) -> list[tuple[float, float]]:
    """(epoch over all phases, value) where the value is known; unless `joined`, a gap between two phases."""
    points: list[tuple[float, float]] = []
    start = 0
    for curve in curves:
        values = [(float(start + x), e.get(line.key)) for x, e in enumerate(curve, 1)]
        found = [(x, line.factor * value) for x, value in values if value is not None]
        points += [(math.nan, math.nan)] * bool(points and found and not joined) + found
        start += len(curve)
    return points


# -- the chosen network --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A box of the drawing; those of one `group` (a stage) stand over one bracket with the notes."""

    group: str
    label: str
    kernel: int = 0  # 0: none, or not known
    expand: int = 1
    plain: bool = False  # stem, head and classifier, which were not searched
    identity: bool = False
    stride: int = 1
    vital: bool = False
    notes: tuple[str, ...] = ()  # channels and resolution of what leaves the block


def network(result: Values) -> Markup:
    """The section on the chosen network.

    Of a chain of ours the blocks are drawn in the order the image passes them, with their sizes, and so are the cells of a
    row of them; of any other space only what was chosen at each site, for a site's place in the network is not known here.
    """
    blocks, kind = blocks_of(result)
    groups = [list(same) for _, same in groupby(blocks, key=lambda b: b.group)]
    several = any(not isinstance(choice, str) for choice in result["chosen"]["sites"].values())
    return SECTIONS.network(groups, kind, any(b.vital for b in blocks), several)


def blocks_of(result: Values) -> tuple[list[Block], str]:
    """The chosen network's "blocks" or "cells", and which of them; "" where there is one per site, without sizes."""
    chosen, space = result["chosen"]["sites"], result["space"]
    vital = (result.get("details") or {}).get("vital", ())
    value = {"format": FORMAT, "space": space["name"], "arguments": space["arguments"], "sites": chosen}
    try:
        found: Architecture | None = Architecture.from_json(value)
    except (SpaceError, TypeError):  # a space of the user's own, or of another version
        found = None
    if found is None or found.skeleton.searched == "stages":
        labels = {site: choice if isinstance(choice, str) else "\n".join(choice) for site, choice in chosen.items()}
        return [Block(site, vital=site in vital, notes=(site,), **_said(label)) for site, label in labels.items()], ""
    skeleton: Any = found.skeleton
    fixed, options = skeleton.parts()
    channels, h, w = skeleton.input_size
    if skeleton.searched == "cells":
        stem, head = [part for parts in skeleton.stems() for part in parts], fixed[-1:]
        middle = [_cell(place, skeleton.nodes) for place in skeleton.places()]
    else:
        stem, head = fixed[: len(skeleton.stem)], fixed[len(skeleton.stem) :]
        chosen_parts = zip(options, found.choices, strict=True)
        middle = [_searched(parts[c[0][0]][0], [option for option, _ in c], vital) for parts, c in chosen_parts]
    around = [[_fixed(part, bool(vital)) for part in parts] for parts in (stem, head)]
    first = Block("input", "", plain=True, notes=("input", f"{channels} ch", f"{h}×{w}"))
    return [first, *around[0], *middle, *around[1]], skeleton.searched


def _said(option: str) -> dict[str, Any]:
    """What an option's name tells of its block."""
    found = re.fullmatch(r"k(\d+)_e(\d+)(_\w+)?", option)
    if found is None:
        return {"label": option, "identity": option in ("skip", "none")}
    kernel, expand, extra = int(found[1]), int(found[2]), (found[3] or "").replace("_", "\n")
    return {"label": f"{kernel}×{kernel}\ne{expand}{extra}", "kernel": kernel, "expand": expand}


def _searched(part: Part, options: Sequence[str], vital: Collection[str]) -> Block:
    said = _said(part.op.name)
    if len(options) > 1:
        said = {"label": "\n".join(options)}
    elif said.get("identity") and not part.is_identity:  # a skip that changes the shape
        said = {"label": "1×1"}
    group = part.name.partition(".")[0]
    return Block(group, stride=part.stride, vital=part.name in vital, notes=_sizes(group, part), **said)


def _cell(place: Any, nodes: int) -> Block:
    sizes = f"{nodes * place.channels} ch", "×".join(map(str, place.out_size))
    return Block(" ".join(sizes), place.kind, stride=2 if place.kind.startswith("reduce") else 1, notes=("cells", *sizes))


def _fixed(part: Part, vital: bool) -> Block:
    if part.op.name == "classifier":
        return Block("classes", "pool\nfc", plain=True, vital=vital, notes=("classes", str(part.cout)))
    kernel, notes = int(getattr(part.op, "kernel", 1)), _sizes(part.name, part)
    return Block(part.name, f"conv\n{kernel}×{kernel}", kernel, plain=True, stride=part.stride, vital=vital, notes=notes)


def _sizes(group: str, part: Part) -> tuple[str, ...]:
    channels, h, w = part.output_size
    return group, f"{channels} ch", f"{h}×{w}"

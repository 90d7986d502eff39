"""What every method's page shows: the Pareto front, the accuracy curves, the chosen network.

Figures with axes are inline SVG of a given width in pixels, and "" where the run has nothing to show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from hiernas.errors import SpaceError
from hiernas.networks.chain import Chain
from hiernas.networks.parts import Part
from hiernas.report import units
from hiernas.report.kit import BLUE, INK, MUTED, ORANGE, PAPER, PARTS, Told, Values, axes, draw
from hiernas.space import FORMAT, Architecture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def training(events: Sequence[Values], told: Told, width: float) -> str:
    """Accuracy by epoch: the supernet over all its phases, with what happened between them, and the chosen network."""
    supernet, final = curves_of(events)
    panels = [(t, c) for t, c in (("Supernet", supernet), ("Chosen network", final)) if c]
    if not panels:
        return ""
    height = 330.0 if width > 500 else 290.0 * len(panels)

    def paint(figure: Figure) -> None:
        shares = [0.0, 1.0] if len(panels) == 1 else [0.0, 0.56, 1.0]
        for i, (title, curves) in enumerate(panels):
            if width > 500:
                ax = axes(figure, 56 + shares[i] * width, 30, (1 - shares[i + 1]) * width + 10, 72)
            else:
                ax = axes(figure, 56, 30 + 290 * i, 12, height - 290 * (i + 1) + 72)
            for key, label, style in (("train_accuracy", "training", "--"), ("val_accuracy", "validation", "-")):
                points = points_of(curves, key, joined=not told.levels)
                marker = "o" if len(points) == 1 or (key == "val_accuracy" and len(points) <= 40) else ""
                colour = MUTED if key == "train_accuracy" else BLUE
                if points:
                    ax.plot(*zip(*points, strict=True), style, color=colour, marker=marker, markersize=4, label=label)
            epochs(ax, curves, told.marks if curves is supernet else ())
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


def points_of(curves: Sequence[Curve], key: str, joined: bool) -> list[tuple[float, float]]:
    """(epoch over all phases, percent) where the value is known; unless `joined`, a gap between two phases."""
    points: list[tuple[float, float]] = []
    start = 0
    for curve in curves:
        found = [(float(start + x), 100 * e[key]) for x, e in enumerate(curve.epochs, 1) if e.get(key) is not None]
        points += [(math.nan, math.nan)] * bool(points and found and not joined) + found
        start += len(curve.epochs)
    return points


def epochs(ax: Axes, curves: Sequence[Curve], marks: Sequence[str]) -> None:
    """The axis of epochs; a dotted line between two phases, and what happened there."""
    ends = list(accumulate(len(curve.epochs) for curve in curves))
    for i, end in enumerate(ends[:-1]):
        ax.axvline(end + 0.5, color=INK, linewidth=1.0, linestyle=":")
        text = marks[i] if i < len(marks) else curves[i + 1].phase
        ax.annotate(text, (end + 0.5, 0.03), (4, 0), ("data", "axes fraction"), "offset points", rotation=90, va="bottom",
                    fontsize=11, color=INK, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})  # fmt: skip
    ax.set_xlabel("Epoch")
    ax.set_xlim(0.5, ends[-1] + 0.5)
    ax.locator_params(axis="x", nbins=8, integer=True, min_n_ticks=1)


# -- the chosen network --------------------------------------------------------------------------------------------

CHAIN = (
    "Blocks in the order an image passes them. Height shows the expansion ratio (e), width and colour the kernel size; "
    "grey frames were not searched, a dashed frame is a layer left out."
)
VITAL = " A thick frame marks a vital block."
OPTIONS = "The operation chosen at each site; a dashed frame is a place left out."


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

    @property
    def kind(self) -> str:
        """How it is drawn."""
        if not self.label or self.identity:
            return "identity" if self.label else "input"
        return "plain" if self.plain or not self.kernel else "full" if self.kernel > 5 else "searched"

    @property
    def strength(self) -> int:
        """Of its colour, by the kernel, in percent."""
        return {1: 8, 3: 15, 5: 42}.get(self.kernel, 100) if self.kind in ("searched", "full") else 0

    @property
    def size(self) -> tuple[int, int]:
        """Least width and height in pixels: by kernel and expansion where it was searched."""
        if self.kind in ("searched", "full"):
            return 29 + 3 * min(self.kernel, 7), 34 + 12 * min(self.expand, 6)
        return {"input": (6, 52), "identity": (42, 24)}.get(self.kind, (42, 28 + 16 * self.label.count("\n")))


def network(result: Values) -> tuple[Markup, str]:
    """The chosen network and what is to be said of the drawing.

    Of a chain of ours the blocks are drawn in the order the image passes them, with their sizes; of any other space only
    what was chosen at each site, for a site's place in the network is not known here.
    """
    blocks, chain = blocks_of(result)
    groups = [list(same) for _, same in groupby(blocks, key=lambda b: b.group)]
    about = (CHAIN if chain else OPTIONS) + (VITAL if any(b.vital for b in blocks) else "")
    return (PARTS.network(groups, _in_words(blocks), chain) if blocks else Markup()), about


def blocks_of(result: Mapping[str, Any]) -> tuple[list[Block], bool]:
    """The chosen network's blocks, and whether they are a chain of ours; else there is one per site, without sizes."""
    chosen = result["chosen"]["sites"]
    space = result["space"]
    value = {"format": FORMAT, "space": space["name"], "arguments": space["arguments"], "sites": chosen}
    vital = (result.get("details") or {}).get("vital", ())
    try:
        found = Architecture.from_json(value)
    except (SpaceError, TypeError):  # a space of the user's own, or of another version
        return _by_name(chosen, vital), False
    blocks = _chain_blocks(found, vital)
    return (blocks, True) if blocks else (_by_name(chosen, vital), False)


def _by_name(sites: Mapping[str, Any], vital: Collection[str]) -> list[Block]:
    texts = {site: option if isinstance(option, str) else "\n".join(option) for site, option in sites.items()}
    return [replace(_named(site, text), vital=site in vital) for site, text in texts.items()]


def _named(group: str, option: str) -> Block:
    found = re.fullmatch(r"k(\d+)_e(\d+)(_\w+)?", option)
    if found is None:
        return Block(group, option, identity=option in ("skip", "none"), notes=(group,))
    kernel, expand = int(found[1]), int(found[2])
    extra = (found[3] or "").replace("_", "\n")
    return Block(group, f"{kernel}×{kernel}\ne{expand}{extra}", kernel, expand, notes=(group,))


def _chain_blocks(found: Architecture, vital: Collection[str]) -> list[Block]:
    skeleton = found.skeleton
    if not isinstance(skeleton, Chain) or any(len(choice) != 1 for choice in found.choices):
        return []
    fixed, options = skeleton.parts()
    stem, head = fixed[: len(skeleton.stem)], fixed[len(skeleton.stem) :]
    channels, h, w = skeleton.input_size
    blocks = [Block("input", "", plain=True, notes=("input", f"{channels} ch", f"{h}×{w}"))]
    blocks += [replace(_fixed(part), vital=bool(vital)) for part in stem]
    chosen = [parts[option][0] for parts, option in zip(options, found.options, strict=True)]
    blocks += [replace(_searched(part), vital=part.site.name in vital) for part in chosen]
    return blocks + [replace(_fixed(part), vital=bool(vital)) for part in head]


def _fixed(part: Part) -> Block:
    name = part.site.name
    if part.op.name == "classifier":
        return Block("classes", "pool\nfc", plain=True, notes=("classes", str(part.site.cout)))
    kernel = int(getattr(part.op, "kernel", 1))
    label = f"conv\n{kernel}×{kernel}"
    return Block(name, label, kernel, plain=True, stride=part.site.stride, notes=_notes(part, name))


def _searched(part: Part) -> Block:
    named = _named(part.site.name.partition(".")[0], part.op.name)
    notes = _notes(part, named.group)
    identity = part.is_identity
    label = "1×1" if named.identity and not identity else named.label  # a skip that changes the shape
    return Block(named.group, label, named.kernel, named.expand, False, identity, part.site.stride, notes=notes)


def _notes(part: Part, name: str) -> tuple[str, ...]:
    h, w = (-(-n // part.site.stride) for n in part.size)
    return (name, f"{part.site.cout} ch", f"{h}×{w}")


def _in_words(blocks: Sequence[Block]) -> str:
    words = []
    for b in blocks:
        if b.label:
            stride = f" stride {b.stride}" if b.stride != 1 else ""
            words.append(f"{b.group} {b.label}".replace("\n", " ") + stride + " (vital)" * b.vital)
    return "The chosen network: " + ", ".join(words) + "."



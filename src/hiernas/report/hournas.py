"""What is said of a HourNAS run: its vital blocks, its proposals, how well these meet the targets, and reset blocks.

Figures: costs at falling temperatures (Fig. 3 of the paper), and what is lost with reset blocks (Fig. 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from markupsafe import Markup

from hiernas.report import kit, units
from hiernas.report.kit import Values

SECTIONS = kit.macros("hournas.html")
ABOUT_TRAINING = (
    "Left of the dotted line the vital blocks are trained with as little else as possible, right of it all blocks, the "
    "vital ones fixed. Training accuracy is that of the networks drawn while training; there is no other until the end."
)
WITHIN = 2.0  # percent of a target


# -- in words --------------------------------------------------------------------------------------------------------


def words(result: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal: the vital blocks, and whether the limits changed what the search found most probable."""
    details, sites = result["details"], result["chosen"]["sites"]
    vital = ", ".join(f"{site} {sites[site]}" for site in details["vital"]) or "none but stem and head"
    lines = [f"vital blocks, which every path from input to output takes: {vital}"]
    changed = changed_vital(result)
    if changed:
        lines.append(f"to meet the limits, not the most probable operation in {', '.join(changed)}")
    best = details["proposals"][details["best"]]
    chosen = f"proposal {details['best'] + 1} of {len(details['proposals'])} is the best, weight {best['weight']:.0%}"
    of = f"{best['moved']} of {units.number(len(best['options']), 'layer')}"
    met = f"had to be changed in {of} to meet the limits" if best["moved"] else "meets the limits as it is"
    return [*lines, f"{chosen}; its most probable network {met}"]


def changed_vital(result: Mapping[str, Any]) -> list[str]:
    """The vital blocks that were not fixed to their most probable operation, because of the limits."""
    stage = next(iter(result["stages"]), None)
    if stage is None:
        return []
    shares = ((site, stage["sites"].get(site)) for site in result["details"]["vital"])
    return [site for site, p in shares if p and p[stage["kept"][site][0]] < max(p.values())]


# -- on the page -----------------------------------------------------------------------------------------------------


def tell(run: kit.Run) -> kit.Told:
    """What was found: vital blocks, proposals, and how well these meet the targets."""
    result, details, drawn = run.result, run.result["details"], run.result["details"].get("spread") or []
    stage = next(iter(result["stages"]), None)
    fixed = kit.probabilities(stage, details["vital"], framed=True) if stage and details["vital"] else ""
    first = "vital blocks" if result["stages"] else "all blocks"
    limits = {limit["metric"]: units.limit_text(limit, named=False) for limit in result["limits"]}
    samples = drawn[0]["samples"] if drawn else 0
    shown = min((len(costs) for s in drawn for costs in s["relative"].values()), default=0)
    return kit.Told(
        lead=_lead(result),
        found=[
            SECTIONS.vital_blocks(result, fixed, changed_vital(result)),
            SECTIONS.proposals([_costs(run, row["options"]) | row for row in details["proposals"]], details["best"]),
            SECTIONS.spread(spread(drawn), details["aims"], limits, samples, shown),
        ],
        training=ABOUT_TRAINING if result["stages"] else "",
        phases={"train1": first, "train2": "the other blocks", "evolve2": "evaluating the proposals"},
        marks=["vital blocks fixed" for _ in result["stages"]],
    )


def _lead(result: Values) -> str:
    vital, proposals = result["details"]["vital"], result["details"]["proposals"]
    where = f"the {units.size(result['space']['size'])} architectures of the space {result['space']['name']}"
    first = f": first the operations of the {units.number(len(vital), 'vital block')}, then the others,"
    return f"The search went through {where}{first if result['stages'] else ''} in {units.number(len(proposals), 'proposal')}."


def _costs(run: kit.Run, options: Sequence[str]) -> dict[str, Any]:
    """What a proposal's network costs, as far as the result or the run folder still knows it."""
    for network in (run.result["chosen"], *run.result["front"]):
        if network["options"] == options:
            return {key: network.get(key) for key in ("params", "macs", "latency_ms")}
    rows = run.evaluated("params, macs, latency_ms", "options = ?", [",".join(options)])
    params, macs, latency = rows[0] if rows else (None, None, None)
    return {"params": params, "macs": macs, "latency_ms": {"predicted": latency}}


# -- costs at falling temperatures ---------------------------------------------------------------------------------


def spread(found: Sequence[Values]) -> list[tuple[str, Markup]]:
    """A panel per temperature: for one target how often each cost is drawn, for more every two against each other."""
    metrics = list(found[0]["relative"]) if found else []
    pairs = list(combinations(metrics, 2)) or [(metric, "") for metric in metrics]
    return [(_within(s), _panel(i, s, pair, found)) for pair in pairs for i, s in enumerate(found)]


def _within(s: Values) -> str:
    return f"τ = {s['tau']:.2g}: {100 * s['within']:.1f}{units.SPACE}%"


def _panel(i: int, s: Values, pair: tuple[str, str], found: Sequence[Values]) -> Markup:
    costs = [100.0 * np.array(s["relative"][metric]) for metric in pair if metric]
    spans = [_span(found, metric) for metric in pair if metric]
    near, far = 100 - WITHIN, 100 + WITHIN

    def paint(ax: kit.Axes) -> None:
        ax.set(xlim=spans[0], xlabel=f"{units.name(pair[0])} (%)")
        if pair[1]:
            ax.plot(*costs, "o", color=kit.BLUE, alpha=0.3, markersize=3, markeredgewidth=0, zorder=3)
            ax.fill([near, far, far, near], [near, near, far, far], facecolor="none", edgecolor=kit.ORANGE, zorder=4)
            ax.axvline(100, color=kit.ORANGE, linewidth=0.8)
            ax.axhline(100, color=kit.ORANGE, linewidth=0.8)
            ax.set(ylim=spans[1], ylabel=f"{units.name(pair[1])} (%)")
        else:
            ax.axvspan(near, far, color=kit.ORANGE, alpha=0.25, linewidth=0)
            ax.hist(costs[0], np.arange(spans[0][0], spans[0][1] + WITHIN, WITHIN).tolist(), color=kit.BLUE)
            ax.set_ylabel("Networks")
        ax.locator_params(nbins=4)

    name = f"spread-{'-'.join(filter(None, pair))}-{i}"
    alt = f"Costs of networks drawn from the proposals. {_within(s)} within 2 % of every target."
    return kit.draw(name, alt, paint, 171, 180)


def _span(found: Sequence[Values], metric: str) -> tuple[float, float]:
    """An axis for all temperatures: the targets' surroundings are always on it."""
    costs = np.concatenate([[0.9, 1.1], *(s["relative"][metric] for s in found)]) * 100
    return float(costs.min()) - 0.04 * float(np.ptp(costs)), float(costs.max()) + 0.04 * float(np.ptp(costs))


# -- reset blocks --------------------------------------------------------------------------------------------------


def reset(found: Values) -> str:
    """A bar per block and probability: what the network loses of its accuracy, in percentage points."""
    blocks, chances = found["blocks"], found["probabilities"]
    if not blocks:
        return ""

    def paint(ax: kit.Axes) -> None:
        for y, block in enumerate(blocks):
            if block["vital"]:
                ax.axhspan(y - 0.5, y + 0.5, color=kit.MUTED, alpha=0.12, linewidth=0, zorder=0)
            for i, accuracies in enumerate(block["accuracies"]):
                lost, at = [100 * (found["accuracy"] - a) for a in accuracies], y + (i - (len(chances) - 1) / 2) * 0.26
                ax.barh(at, float(np.mean(lost)), height=0.26, color=(kit.BLUE, (i + 1) / len(chances)), zorder=2,
                        label="" if y else f"p = {chances[i]:g}")  # fmt: skip
                if len(lost) > 1:
                    ax.plot([min(lost), max(lost)], [at, at], color=kit.INK, linewidth=0.8, zorder=3)
        ax.axvline(0, color=kit.INK, linewidth=0.8)
        ax.set_yticks(range(len(blocks)), [b["name"] + ("  ●" if b["vital"] else "      ") for b in blocks], fontsize=11)
        ax.set(ylim=(len(blocks) - 0.5, -0.5), xlabel="Accuracy lost (percentage points)")
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)

    alt = "Accuracy lost when a block's channels are reset. " + " ".join(_in_words(found, b) for b in blocks)
    return kit.draw("reset", alt, paint, height=70 + (10 * len(chances) + 8) * len(blocks))


def _in_words(found: Values, block: Values) -> str:
    lost = ", ".join(f"{100 * (found['accuracy'] - float(np.mean(each))):.1f}" for each in block["accuracies"])
    return f"{block['name']}{' (vital)' if block['vital'] else ''}: {lost} points."

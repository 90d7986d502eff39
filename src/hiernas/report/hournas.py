"""What a report says of a HourNAS run: its vital blocks, its proposals, and how well these meet the targets."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hiernas.report import units
from hiernas.report.tables import WIDE, Html, Values, compact, escape, figure, note, section, style, table

ABOUT_PROPOSALS = (
    "A proposal is a table with a probability for every operation of every layer, made such that the networks drawn from "
    "it meet the targets. All proposals are searched at once; the weight is what the search came to think of each as a "
    "whole, the share of training steps that it would get. Each row is the proposal's most probable network. Where that "
    "one is outside the limits, it is the most probable one inside them, and the table says how many layers differ. The "
    "network of the proposal with the greatest weight is chosen; accuracy is that with the supernet's weights, on "
    "validation images."
)
ABOUT_SPREAD = (
    "Costs of networks drawn from the proposals before the search, relative to {what}: {targets}. At a high "
    "temperature τ every operation is drawn almost as often as any other; as τ falls, the most probable one is drawn ever "
    "more often. The percentages are the share of {samples} networks within 2 % of {every}; a square or band marks it."
)
ABOUT_RESET = (
    "Channels of one block's output are set to zero, each with probability p, one block at a time; the bars are what the "
    "trained network then loses of its accuracy on {images} test images ({accuracy} with all blocks), the lines the least "
    "and the most over {draws}. Of a block with an identity around it the residual branch is reset: at p = 1 the "
    "block is as good as removed. Of any other the whole output is. ● marks the vital blocks."
)


# -- the run ---------------------------------------------------------------------------------------------------------


def with_costs(result: Values, run_folder: Path) -> Values:
    """The result, each proposal with what its network costs, as far as the run folder still knows it."""
    costs = _evaluated(run_folder / "candidates.sqlite")
    known = {tuple(n["options"]): n for n in (*result["front"], result["chosen"])}
    rows = []
    for row in result["details"]["proposals"]:
        key = tuple(row["options"])
        params, macs, latency = costs.get(",".join(key), (None, None, None))
        costed = {"params": params, "macs": macs, "latency_ms": {"predicted": latency}}
        rows.append({**costed, **{k: v for k, v in known.get(key, {}).items() if k in costed}, **row})
    return {**result, "details": {**result["details"], "proposals": rows}}


def _evaluated(path: Path) -> dict[str, tuple[Any, ...]]:
    """Params, MACs and latency by options of every evaluated network; empty where the file is gone or damaged."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT options, params, macs, latency_ms FROM candidates").fetchall()
    except sqlite3.Error:
        return {}
    return {options: costs for options, *costs in rows}


# -- in words --------------------------------------------------------------------------------------------------------


def lead(result: Values) -> str:
    """What was done, in a sentence."""
    vital, proposals = result["details"]["vital"], result["details"]["proposals"]
    where = f"the {units.size(result['space']['size'])} architectures of the space {result['space']['name']}"
    first = f": first the operations of the {_number(len(vital), 'vital block')}, then the others,"
    return f"The search went through {where}{first if result['stages'] else ''} in {_number(len(proposals), 'proposal')}."


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
    of = f"{best['moved']} of {_number(len(best['options']), 'layer')}"
    met = f"had to be changed in {of} to meet the limits" if best["moved"] else "meets the limits as it is"
    return [*lines, f"{chosen}; its most probable network {met}"]


def changed_vital(result: Mapping[str, Any]) -> list[str]:
    """The vital blocks that were not fixed to their most probable operation, because of the limits."""
    stage = next(iter(result["stages"]), None)
    if stage is None:
        return []
    shares = {site: stage["sites"][site] for site in result["details"]["vital"] if site in stage["sites"]}
    return [site for site, p in shares.items() if p[stage["kept"][site][0]] < max(p.values())]


def _number(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


# -- on the page -----------------------------------------------------------------------------------------------------


def sections(result: Values) -> list[Html]:
    """What was found: vital blocks, proposals, and how well these meet the targets."""
    from hiernas.report import hournas_figures as figures  # matplotlib is loaded only where a page is made

    spread = result["details"].get("spread") or []
    return [
        figure("Vital blocks", lambda width: figures.vital(result, width), _about_vital(result))
        or section("Vital blocks", Html(f"<p>{escape(_about_vital(result))}</p>")),
        section("The proposals", Html(f"<p>{escape(ABOUT_PROPOSALS)}</p>"), _proposals(result)),
        figure("From proposals to targets", lambda width: figures.spread(spread, width), _about_spread(result)),
    ]


def _about_vital(result: Values) -> str:
    vital = result["details"]["vital"]
    what = "A block is vital where no identity leads around it, so that everything the network knows of an image passes it: "
    if not vital:
        return f"{what}in this space only stem and head are."
    said = [f"{what}stem and head, and of the searched blocks {', '.join(vital)}."]
    if not result["stages"]:
        return " ".join([*said, "They were searched together with the others."])
    said.append(
        "They were searched first, in the network that has as little else as possible. Numbers are the probability (%) of "
        "each operation at the end of that search; a thick frame marks the operation that was fixed."
    )
    changed = changed_vital(result)
    if changed:
        which = ", ".join(changed)
        said.append(f"With the most probable operation in all of them no network would meet the limits: see {which}.")
    return " ".join(said)


def _proposals(result: Values) -> Html:
    rows: list[list[object]] = []
    best = result["details"]["best"]
    found = result["details"]["proposals"]
    like = max((t for row in found if (t := units.latency(row, "predicted"))), default=None)
    for i, row in enumerate(found):
        rows.append([
            note(str(i + 1), "chosen") if i == best else i + 1,
            f"{100 * row['weight']:.1f}{units.SPACE}%",
            units.percent(row["val_accuracy"]),
            units.count(row.get("params")),
            units.count(row.get("macs")),
            units.milliseconds(units.latency(row, "predicted"), like),
            f"{row['moved']} layers" if row["moved"] > 1 else "1 layer" if row["moved"] else "none",
            Html(f"<code>{escape(compact(row['options']))}</code>"),
        ])  # fmt: skip
    costs = ["Parameters", "Multiply-adds", "Latency, predicted"]
    head = ["", "Weight", "Accuracy", *costs, "Changed", "Operations, layer by layer"]
    return table(head, rows, "front", numbers=range(1, 7), marked=best)


def _about_spread(result: Values) -> str:
    found, aims = result["details"].get("spread") or [], result["details"]["aims"]
    if not found:
        return ""
    limits = {limit["metric"]: units.limit_text(limit, named=False) for limit in result["limits"]}
    targets = [
        f"{units.value(metric, aim)}{'' if metric == 'latency_ms' else ' ' + units.name(metric).lower()}"
        f"{' latency' if metric == 'latency_ms' else ''} (limit {limits.get(metric, units.NONE)})"
        for metric, aim in aims.items()
    ]
    every = {1: "the target", 2: "both targets at once"}.get(len(targets), "all targets at once")
    what = "the target" if len(targets) == 1 else "the targets"
    said = ABOUT_SPREAD.format(what=what, targets=" and ".join(targets), samples=units.count(found[0]["samples"]), every=every)
    shown = min(len(next(iter(s["relative"].values()))) for s in found)
    return f"{said} Shown are the first {units.count(shown)} of each."


TIMES = {"train1": "vital blocks", "train2": "the other blocks", "evolve2": "evaluating the proposals"}


def times(result: Values) -> dict[str, str]:
    """What the phases do whose names do not say it."""
    return TIMES if result["stages"] else {**TIMES, "train1": "all blocks"}


# -- without a block -------------------------------------------------------------------------------------------------


def without_blocks(found: Values) -> Html:
    """The section of `hiernas vital RUN --reset`."""
    from hiernas.report import hournas_figures as figures

    said = ABOUT_RESET.format(
        images=units.count(found["images"]), accuracy=units.percent(found["accuracy"]), draws=_number(found["draws"], "draw")
    )
    return figure("What each block is worth", lambda width: figures.reset(found, width), said)


def reset_picture(found: Values) -> str:
    """The same figure as a file of its own."""
    from hiernas.report import hournas_figures as figures
    from hiernas.report.svg import alone

    return alone(figures.reset(found, WIDE), style())

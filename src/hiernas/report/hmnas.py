"""What is said of a search by masks (HM-NAS): what they kept, how that compares with DARTS' rule, and the masks over time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from hiernas.report import kit, units
from hiernas.report.cells import ABOUT_TRAINING, by_part, found_words, how_it_went, is_cells, pictures, weights_of
from hiernas.report.kit import Values

SECTIONS = kit.macros("hmnas.html")
PHASES = {"train1": "supernet with its logits", "mask1": "masks of edges", "mask2": "masks of operations",
          "mask3": "masks of filters"} | {f"compare{i}": f"training for comparison {i}" for i in (1, 2, 3)}  # fmt: skip


# -- in words --------------------------------------------------------------------------------------------------------


def words(result: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal: the comparison, what the limits changed, and what could be merged."""
    lines = []
    for row in result.get("compared") or ():
        lines.append(
            f"{row['name']}: {row['untrained']:.2%} without training (validation), {row['fine_tuned']:.2%} fine-tuned, "
            f"{row['from_scratch']:.2%} from scratch; {units.short(row['params'])} parameters, {units.short(row['macs'])} MACs"
        )
    lines += [said for said in (moved(result), filters(result)) if said]
    count = len(mergeable(result["chosen"]["sites"]))
    lines += [f"at {count} sites operations could be merged without loss: see the report"] * bool(count)
    return lines + (found_words(result) if is_cells(result) else [])


def moved(result: Mapping[str, Any]) -> str:
    """What the limits changed of what the masks kept."""
    changed, of = len(result["details"]["moved"]), len(result["details"]["pairs"])
    if not changed:
        return "what the masks keep meets the limits"
    return f"to meet the limits, {changed} of {of} pairs of site and operation were changed from what the masks keep"


def filters(result: Mapping[str, Any]) -> str:
    """How many output filters were kept, and what dropping the others did to the network as the supernet has it."""
    found = result["details"].get("filters")
    if not found:
        return ""
    kept, of = (sum(row[i] for row in found["operations"].values()) for i in (0, 1))
    before, after = found["accuracy_before"], result["chosen"]["val_accuracy"]
    unlike = f" ({found['moved']:,} changed from what the masks keep, to meet the limits)" if found["moved"] else ""
    return (
        f"{kept:,} of {of:,} output filters of {len(found['operations'])} operations were kept{unlike}; without training the "
        f"network had {before:.2%} with all of them and has {after:.2%} without the others (validation)"
    )


# -- on the page -----------------------------------------------------------------------------------------------------


def tell(run: kit.Run) -> kit.Told:
    """What was kept, the comparison, the masks over time, filters, and what could be merged."""
    result, merged = run.result, mergeable(run.result["chosen"]["sites"])
    drawn = [panel for level, record in result["details"]["masks"].items() for panel in masks(level, record)]
    operations = (result["details"].get("filters") or {}).get("operations", {})
    return kit.Told(
        lead=_lead(result),
        found=[
            *(pictures(result) if is_cells(result) else []),
            _importance(result),
            SECTIONS.compared(result.get("compared") or ()),
            SECTIONS.masks(drawn, units.sentence(moved(result))),
            SECTIONS.filters(units.sentence(filters(result)), [[path, *kept] for path, kept in operations.items()]),
            SECTIONS.merging([[site, " and ".join(alike), how] for site, alike, how in merged]),
            how_it_went(run),
        ],
        training=ABOUT_TRAINING,
        phases=PHASES,
    )


def _lead(result: Values) -> str:
    size, space = units.size(result["space"]["size"]), result["space"]["name"]
    levels = list(result["details"]["masks"])
    return (
        f"One supernet held all {size} architectures of the space {space} that keep one operation per site, and all those "
        f"that keep several; masks learned which {', '.join(levels[:-1])}{' and ' if levels[:-1] else ''}{levels[-1]} remain."
    )


def _importance(result: Values) -> Markup:
    """Per site the importances of what was kept."""
    kept = {site: weights_of(choice) for site, choice in result["chosen"]["sites"].items()}
    options = list(dict.fromkeys(op for choice in kept.values() for op in choice if op != "none"))
    most = max((w for choice in kept.values() for w in choice.values()), default=1.0)
    rows = {
        site: [kit.Cell(choice[op] / most, f"{100 * choice[op]:.1f}", True) if choice.get(op) else None for op in options]
        for site, choice in kept.items()
    }
    return SECTIONS.importance(by_part(options, rows))


def masks(level: str, record: Values) -> list[tuple[str, Markup]]:
    """The masks by step, and how many of them are above the threshold; nothing where there are none."""
    values, steps = np.array(record["values"], dtype=float), [0, *record["steps"]]
    if not values.size:
        return []
    values = np.concatenate([np.full((1, values.shape[1]), record["initial"]), values])
    kept = values > record["threshold"]
    shown, of = values.shape[1], record.get("of", values.shape[1])  # more than are drawn, where there are thousands
    above = np.array([of, *record["kept"]]) if "kept" in record else kept.sum(1)

    def lines(ax: kit.Axes) -> None:
        for line, stays in sorted(zip(values.T, kept[-1], strict=True), key=lambda pair: bool(pair[1])):
            ax.plot(steps, line, color=kit.BLUE if stays else kit.MUTED, linewidth=0.8, alpha=0.6)
        ax.axhline(record["threshold"], color=kit.INK, linestyle=(0, (4, 3)), linewidth=1.1)
        ax.set(xlabel="Step", xlim=(0, steps[-1]))
        ax.locator_params(axis="x", nbins=6, integer=True, min_n_ticks=1)

    def counts(ax: kit.Axes) -> None:
        ax.plot(steps, above, color=kit.BLUE, drawstyle="steps-post")
        ax.set(xlabel="Step", xlim=(0, steps[-1]), ylim=(0, of * 1.03))
        ax.locator_params(nbins=6, integer=True, min_n_ticks=1)

    alt = f"Masks of {level} over {steps[-1]} steps: {above[0]} above the threshold at first, {above[-1]} at last."
    some = f": {shown} of {of:,}, spread evenly" if of > shown else ""
    return [
        (f"Masks of {level}{some}", kit.draw(f"masks-{level}", alt, lines, *kit.PANEL)),
        (f"Of {of:,} above the threshold", kit.draw(f"above-{level}", alt, counts, *kit.PANEL)),
    ]


# -- merging ---------------------------------------------------------------------------------------------------------

FAMILIES = (  # patterns of option names, and how those that fit are merged
    (r"dil_conv_\d+x\d+", "their depthwise convolutions become one over twice the channels, their 1×1 convolutions one"),
    (r"sep_conv_\d+x\d+", "one of twice the inner channels, whose first 1×1 convolution has two groups"),
    (r"k\d+_e\d+", "one block whose inner channels are those of all together, the smaller kernels padded by zeros"),
)


def mergeable(sites: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], str]]:
    """(site, operations, how) where kept operations could be joined into one with the same output, once trained.

    They read the same input, differ at most in kernel size and inner channels, and end in a sum behind batch norm, which
    is folded into the last convolution.
    """
    found = (
        (site, tuple(op for op in weights_of(choice) if re.fullmatch(pattern, op)), how)
        for site, choice in sites.items()
        for pattern, how in FAMILIES
    )
    return [(site, alike, how) for site, alike, how in found if len(alike) > 1]

"""What is said of a search by masks (HM-NAS): what they kept, how that compares with DARTS' rule, and the masks over time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hiernas.report import units
from hiernas.report.cells import ABOUT_TRAINING as ABOUT_TRAINING
from hiernas.report.tables import Html, Values, escape, folded, picture, section, table

ABOUT_COMPARED = (
    "Both networks come from the same supernet: what the masks kept, and what DARTS' rule keeps (of each node the two edges "
    "whose best operation weighs most, with that operation; of a chain's block its strongest operation). Accuracy without "
    "training is on validation images with the supernet's weights, the others are on test images; both trainings have the "
    "same number of epochs. One seed, so small differences mean little."
)
ABOUT_TIME = (
    "Each line is a mask, by step. What lies above the dashed threshold is kept. A mask that falls below it goes on "
    "learning, and can come back. Blue lines are kept at the end, grey ones dropped."
)
ABOUT_MERGING = (
    "Operations that stand side by side could be joined into one without changing the network's output. Nothing is joined yet: "
    "the numbers on this page are those of the network as it is."
)
ABOUT_FILTERS = (
    "A filter that was dropped is gone from its operation's last convolution and batch norm; its channel of the output is 0. "
    "Parameters and multiply-adds are counted without it. The predicted latency is that of the operations with all their "
    "filters, since a table has no others. Do not expect time to be saved: to put the channels back at their places takes "
    "about as long as the dropped filters did, in small operations longer."
)
TIMES = {"train1": "supernet with its logits", "mask1": "masks of edges", "mask2": "masks of operations",
         "mask3": "masks of filters"} | {f"compare{i}": f"training for comparison {i}" for i in (1, 2, 3)}  # fmt: skip
LEVELS = {"edges": "Masks of edges", "operations": "Masks of operations", "filters": "Masks of filters"}


def is_masked(result: Mapping[str, Any]) -> bool:
    """Whether a search by masks found this."""
    return bool(result["method"] == "hmnas")


def lead(result: Values) -> str:
    """What was done, in a sentence."""
    size, space = units.size(result["space"]["size"]), result["space"]["name"]
    return (
        f"One supernet held all {size} architectures of the space {space} that keep one operation per site, and all those "
        f"that keep several; masks learned which {_counted(result)} remain."
    )


def _counted(result: Values) -> str:
    levels = [level for level in LEVELS if level in _masks(result)] or ["operations"]
    return ", ".join(levels[:-1]) + (" and " if levels[:-1] else "") + levels[-1]


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
    return [*lines, f"at {count} sites operations could be merged without loss: see the report"] if count else lines


def moved(result: Mapping[str, Any]) -> str:
    """What the limits changed of what the masks kept."""
    details = result.get("details") or {}
    if "moved" not in details:
        return ""
    changed, of = len(details["moved"]), len(details.get("pairs") or ())
    if not changed:
        return "what the masks keep meets the limits"
    return f"to meet the limits, {changed} of {of} pairs of site and operation were changed from what the masks keep"


def filters(result: Mapping[str, Any]) -> str:
    """How many output filters were kept, and what dropping the others did to the network as the supernet has it."""
    found = (result.get("details") or {}).get("filters")
    if not found:
        return ""
    kept, of = (sum(row[i] for row in found["operations"].values()) for i in (0, 1))
    before, after = found["accuracy_before"], result["chosen"]["val_accuracy"]
    unlike = f" ({found['moved']:,} changed from what the masks keep, to meet the limits)" if found["moved"] else ""
    return (
        f"{kept:,} of {of:,} output filters of {len(found['operations'])} operations were kept{unlike}; without training the "
        f"network had {before:.2%} with all of them and has {after:.2%} without the others (validation)"
    )


def sections(result: Values) -> list[Html]:
    """The comparison, what each site keeps, the masks over time, and what could be merged."""
    said = moved(result)
    changed = Html(f"<p>{escape(said[0].upper() + said[1:])}.</p>") if said else Html()
    return [_compared(result), _time(result, changed), _importance(result), _filters(result), _merging(result)]


def _compared(result: Values) -> Html:
    rows = []
    for row in result.get("compared") or ():
        latency = row["latency_ms"]
        rows.append([
            row["name"], units.percent(row["untrained"]), units.percent(row["fine_tuned"]), units.percent(row["from_scratch"]),
            units.count(row["params"]), units.count(row["macs"]), units.milliseconds(latency["predicted"]),
            units.milliseconds(latency["measured"]),
        ])  # fmt: skip
    head = ["", "Without training", "Fine-tuned", "From scratch", "Parameters", "Multiply-adds", "Predicted", "Measured"]
    if not rows:
        return Html()
    caption = Html(f'<p class="small">{escape(ABOUT_COMPARED)}</p>')
    return section("Masks against a rule", table(head, rows, "compared", numbers=range(1, len(head)), marked=0), caption)


def _masks(result: Values) -> Mapping[str, Values]:
    return (result.get("details") or {}).get("masks") or {}


def _time(result: Values, changed: Html) -> Html:
    from hiernas.report.mask_figures import masks  # matplotlib is loaded only where a page is made

    def drawn(level: str) -> Html:
        record = _masks(result)[level]
        shown = len(record["names"])
        some = f" ({shown} of {record['of']:,} are drawn, spread evenly)" if record.get("of", shown) > shown else ""
        return picture(lambda width: masks(level, record, width), title=LEVELS[level] + some)

    pictures = [drawn(level) for level in _masks(result)]
    if not any(pictures):
        return Html()
    return section("The masks over time", changed, *pictures, Html(f'<p class="small">{escape(ABOUT_TIME)}</p>'))


def _importance(result: Values) -> Html:
    """Per site the importances of what was kept."""
    rows = []
    for site, choice in result["chosen"]["sites"].items():
        kept = {choice: 1.0} if isinstance(choice, str) else choice
        shown = [f"{op} {100 * w:.1f}" if w != 1.0 else op for op, w in kept.items() if op != "none"]
        rows.append([site, ", ".join(shown) or units.NONE])
    about = Html('<p class="small">What each site keeps, with its importance in % of what enters the same node or block.</p>')
    return section("Importances", folded("All sites", about, table(["Site", "Kept"], rows, "kept")))


def _filters(result: Values) -> Html:
    """Per operation how many of its output filters were kept."""
    said = filters(result)
    if not said:
        return Html()
    operations = result["details"]["filters"]["operations"]
    rows = [[path, kept, of] for path, (kept, of) in operations.items()]
    listed = table(["Operation", "Kept", "Of"], rows, "filters", numbers=(1, 2))
    text = Html(f"<p>{escape(said[0].upper() + said[1:])}.</p>\n<p class=\"small\">{escape(ABOUT_FILTERS)}</p>")
    return section("Output filters", text, folded(f"All {len(rows)} operations, by their modules' names", listed))


# -- merging ---------------------------------------------------------------------------------------------------------

Family = tuple[str, str]  # pattern of option names, and how those that fit are merged
FAMILIES: tuple[Family, ...] = (
    (r"dil_conv_\d+x\d+", "their depthwise convolutions become one over twice the channels, their 1×1 convolutions one"),
    (r"sep_conv_\d+x\d+", "one of twice the inner channels, whose first 1×1 convolution has two groups"),
    (r"k\d+_e\d+", "one block whose inner channels are those of all together, the smaller kernels padded by zeros"),
)


def mergeable(sites: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], str]]:
    """(site, operations, how) where kept operations could be joined into one with the same output, once trained.

    They read the same input, differ at most in kernel size and inner channels, and end in a sum behind batch norm, which
    is folded into the last convolution.
    """
    found = []
    for site, choice in sites.items():
        for pattern, how in FAMILIES:
            alike = tuple(op for op in choice if re.fullmatch(pattern, op)) if not isinstance(choice, str) else ()
            if len(alike) > 1:
                found.append((site, alike, how))
    return found


def _merging(result: Values) -> Html:
    found = mergeable(result["chosen"]["sites"])
    if not found:
        return Html()
    rows = [[site, " and ".join(alike), how] for site, alike, how in found]
    caption = Html(f'<p class="small">{escape(ABOUT_MERGING)}</p>')
    listed = table(["Site", "Operations", "Into"], rows, "merge")
    return section("What could be merged", folded(f"{len(found)} places", caption, listed))

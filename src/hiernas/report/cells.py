"""What is said of a search in cells: the cells and stage graphs it found, how it went, and what the limits changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hiernas.costs.count import cost
from hiernas.errors import SpaceError
from hiernas.report import units
from hiernas.report.graphs import Part, alike, cells_of, genotype_lines, parts_of, stage_lines
from hiernas.report.tables import Html, Values, escape, folded, picture, section, table, text_to_copy
from hiernas.space import FORMAT, Architecture

ABOUT_CELLS = "0 and 1 are the inputs, the outputs of the two cells before. "
ABOUT_INNER = "0 and 1 are the inputs, two projections of what the cell reads. "
ABOUT_NODES = "A node is the sum of the edges into it, and the output (dashed) all nodes, one behind the other. "
ABOUT_REDUCTION = "In a reduction cell the edges from the inputs halve the image. "
ABOUT_STAGES = (
    "0 and 1 are two projections of what enters the stage. A cell reads the sum of the edges into it, and the output "
    "(dashed) is the last two states, one behind the other. "
)
ABOUT_LABELS = "sep and dil are separable and dilated convolutions, max and avg 3×3 pooling, skip the identity."
ABOUT_EDGES = "max and avg are 3×3 pooling, skip the identity."
ABOUT_WIDTHS = " The wider a line, the more its operation weighs."
ABOUT_DEAD = " Grey cells are dead: no path leads from them to the output, and the network is built without them."
ABOUT_DEPTH = "Depth is the number of cells on the longest path from the stage's input to its output."
ABOUT_TABLE = (
    "The softmax weights (%) at the end of the search, by which the edges and operations were chosen; what was chosen is "
    "bold. Of each node the two edges stay whose best operation other than none weighs most."
)
ABOUT_SEARCH = (
    "Entropy is the mean over all edges: ln n where n operations weigh the same (2.08 for eight, 1.39 for four), 0 where "
    "one has all the weight. Identities are the share of the edges that would be kept at that epoch, none is the mean "
    "weight of no edge at all."
)
ABOUT_TRAINING = "Accuracy by epoch. While searching, it is that of all operations mixed by their weights, on training images."
TIMES = {
    "darts": {"train1": "weights and logits by turns"},
    "hdas": {"train1": "cells", "train2": "numbers of cells", "train3": "graphs between the cells"},
    "hdas-cells": {"train1": "cells"},
    "hdas-distribution": {"train1": "numbers of cells, and the graphs between them"},
    "hdas-stages": {"train1": "graphs between the cells"},
}
EVALUATED = {"evolve2": "evaluating what was found"}

# -- in words --------------------------------------------------------------------------------------------------------


def lead(result: Values) -> str:
    """What was done, in a sentence."""
    size, space = units.size(result["space"]["size"]), result["space"]["name"]
    given = "" if found_cells(result) or not _is_stages(result) else ", over cells that were given"
    return f"The search went through the {size} architectures of the space {space}{given}, all at once, by gradients."


def words(result: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal: what the limits changed, and what was found in the papers' own forms."""
    return found_words(result, [moved(result)] if moved(result) else [])


def found_words(result: Mapping[str, Any], lines: list[str]) -> list[str]:
    """These lines, and what was found in the papers' own forms."""
    parts = parts_of(result)
    if not _is_stages(result):
        return [*lines, "cells:", *_genotype(parts)]
    cells = cells_of(result)
    if found_cells(result):
        lines += ["cells:", *_genotype(cells)]
    else:
        name = str(result["space"]["arguments"].get("cell", "of your own"))
        lines += ["cells, as given:", *_genotype(cells)] if "(" in name else [f"cells, as given: {name}"]
    for part in parts:
        lines += [f"{part.label}: {part.nodes} cells, depth {part.depth}, {_dead(part)}", *_edges(part)]
    return [*lines, *_without_dead(result, parts)]


def _genotype(parts: list[Part]) -> list[str]:
    return genotype_lines(parts) or [line for part in parts for line in _edges(part)]


def _edges(part: Part) -> list[str]:
    """(operation, source) of all edges in order; (operation, source, node, weight) where edges have several operations."""
    pairs = part.pairs
    if pairs is None:
        return [f"    {part.name}={[(k.op, k.source, k.node, round(k.weight, 4)) for k in part.kept]}"]
    return [f"    {part.name}={[pair for node in pairs for pair in node]}"]


def _without_dead(result: Mapping[str, Any], parts: Sequence[Part]) -> list[str]:
    """What the network costs that is built without its dead cells; empty where there are none, or it is not known."""
    if not any(part.dead for part in parts):
        return []
    space = result["space"]
    value = {"format": FORMAT, "space": space["name"], "arguments": space["arguments"], "sites": result["chosen"]["sites"]}
    try:
        counted = cost(Architecture.from_json(value))
    except (SpaceError, TypeError):  # a space of the user's own, or of another version
        return []
    if counted.params == result["chosen"].get("params"):
        return []  # a result of this version: its numbers are those of the network without them
    return [
        f"without its dead cells the network has {units.count(counted.params)} parameters and {units.count(counted.macs)} "
        "multiply-adds; the numbers that the limits were met by count them"
    ]


def _dead(part: Part) -> str:
    dead = part.dead
    if not dead:
        return "no dead cells"
    return f"{len(dead)} dead cell{'s' if len(dead) > 1 else ''} ({', '.join(map(str, dead))})"


def moved(result: Mapping[str, Any]) -> str:
    """Where the limits led away from DARTS' rule; "" where that is not known."""
    details = result.get("details") or {}
    if "moved" not in details or not result["limits"]:
        return ""
    inner = _moved_in_cells(details.get("moved_in_cells"))
    return _moved_sites(details["moved"], len(result["chosen"]["sites"])) + (f"; {inner}" if inner else "")


def _moved_in_cells(sites: Sequence[str] | None) -> str:
    """The same of the cells that `hdas` searched before the graphs between them."""
    if sites is None:
        return ""
    if not sites:
        return "within the cells the rule meets them"
    return f"within the cells, {len(sites)} {'edge differs' if len(sites) == 1 else 'edges differ'} from it: {', '.join(sites)}"


def _moved_sites(sites: Sequence[str], of: int) -> str:
    rule = "DARTS' rule (the two strongest edges of each node, with their strongest operations)"
    if not sites:
        return f"{rule} meets the limits"
    return f"to meet the limits, {len(sites)} of {of} sites {'differs' if len(sites) == 1 else 'differ'} from {rule}"


def found_cells(result: Mapping[str, Any]) -> bool:
    """Whether the cells were searched, too, and not only the graphs between them."""
    return not _is_stages(result) or "genotype" in (result.get("details") or {})


def _is_stages(result: Mapping[str, Any]) -> bool:
    return any(part.is_stage for part in parts_of(result))


def times(result: Values) -> dict[str, str]:
    """What the phases do whose names do not say it."""
    return {**TIMES.get(result["method"], {}), **EVALUATED}


# -- on the page -----------------------------------------------------------------------------------------------------


def sections(result: Values, events: Sequence[Values]) -> list[Html]:
    """What was found: the graphs between the cells, the cells, and how the search went."""
    return [*pictures(result, _moved(result), _weights(result)), how_it_went(result, events)]


def pictures(result: Values, *more: Html) -> list[Html]:
    """The cells, or the graphs between them and then the cells; `more` stands over and under the first of these."""
    parts = parts_of(result)
    if not _is_stages(result):
        return [_cells(parts, "The cells", ABOUT_CELLS, *more)]
    cells = _cells(cells_of(result), "The cells" if found_cells(result) else "The cells, as given", ABOUT_INNER)
    return [_stages(parts, result, *more), cells]


def _moved(result: Values) -> Html:
    said = moved(result)
    return Html(f"<p>{escape(_sentence(said))}</p>") if said else Html()


def _sentence(said: str) -> str:
    return f"{said[0].upper()}{said[1:]}."


def _cells(parts: list[Part], title: str, about: str, *more: Html) -> Html:
    if not parts:
        return Html()
    pictures = [_picture(part, names, i) for i, (names, part) in enumerate(alike(parts))]
    reduction = ABOUT_REDUCTION if any(part.name.startswith("reduce") for part in parts) else ""
    caption = _caption(parts, about + ABOUT_NODES + reduction + ABOUT_LABELS)
    return section(title, *more[:1], *pictures, caption, _text(parts, _genotype(parts)), *more[1:])


def _stages(parts: list[Part], result: Values, *more: Html) -> Html:
    rows = [[p.label.capitalize(), p.nodes, p.depth, len(p.dead), ", ".join(map(str, p.dead)) or units.NONE] for p in parts]
    head = ["", "Cells", "Depth", "Dead", "Which"]
    text = stage_lines(parts, result["space"]["arguments"].get("cell"))
    text = text or [line for part in parts for line in _edges(part)]
    dead = any(p.dead for p in parts)
    depth = " ".join([ABOUT_DEPTH, *map(_sentence, _without_dead(result, parts))])
    return section(
        "The graphs between the cells",
        *more[:1],
        *(_picture(part, part.label.capitalize(), f"stage{i}") for i, part in enumerate(parts)),
        _caption(parts, ABOUT_STAGES + ABOUT_EDGES + (ABOUT_DEAD if dead else "")),
        table(head, rows, "stages", numbers=(1, 2, 3)),
        Html(f'<p class="small">{escape(depth)}</p>'),
        _text(parts, text),
        *more[1:],
    )


def _text(parts: list[Part], lines: Sequence[str]) -> Html:
    """The text to copy; folded where nodes keep many edges, since it is long then."""
    text = text_to_copy(lines)
    return folded("As text: (operation, source, node, importance)", text) if any(p.is_weighted for p in parts) else text


def _picture(part: Part, title: str, name: object) -> Html:
    from hiernas.report.graph_figures import graph  # matplotlib is loaded only where a page is made

    return picture(lambda width: graph(part, f"graph{name}", width), title=title)


def _caption(parts: list[Part], said: str) -> Html:
    widths = ABOUT_WIDTHS if any(part.is_weighted for part in parts) else ""
    return Html(f'<p class="small">{escape(said + widths)}</p>')


def _weights(result: Values) -> Html:
    """The table of softmax weights, folded: one for each set of options."""
    details = result.get("details") or {}
    found: Mapping[str, Mapping[str, float]] = details.get("weights") or {}
    by_options: dict[tuple[str, ...], list[str]] = {}
    for site, row in found.items():
        by_options.setdefault(tuple(row), []).append(site)
    sites, changed = result["chosen"]["sites"], set(details.get("moved") or ())
    tables = [
        table(["", *options], [_row(site, found[site], sites.get(site), site in changed) for site in names], "weights",
              numbers=range(1, 1 + len(options)))
        for options, names in by_options.items()
    ]  # fmt: skip
    if not tables:
        return Html()
    marked = " The limits moved the choice where a name is followed by *." if changed else ""
    return folded("Weights of all operations", Html(f'<p class="small">{escape(ABOUT_TABLE + marked)}</p>'), *tables)


def _row(site: str, weights: Mapping[str, float], chosen: Any, changed: bool) -> list[object]:
    kept = {chosen} if isinstance(chosen, str) else set(chosen or ())
    values = [(f"{100 * p:.2f}", option in kept) for option, p in weights.items()]
    return [f"{site} *" if changed else site, *(Html(f"<b>{v}</b>") if bold else v for v, bold in values)]


def how_it_went(result: Values, events: Sequence[Values]) -> Html:
    """Entropy, identities and `none` by epoch, with the alarms."""
    from hiernas.report.graph_figures import search

    drawn = picture(lambda width: search(result, events, width), ABOUT_SEARCH)
    alarms = "".join(f"<li>{escape(said)}</li>" for said in alarms_of(events))
    listed = Html(f'<ul class="notes">{alarms}</ul>' if alarms else "")
    return section("How the search went", drawn, listed) if drawn else Html()


def alarms_of(events: Sequence[Values]) -> list[str]:
    """For each phase with alarms: since which epoch, whether they ended, and what the last one says."""
    phases: dict[str, dict[int, str | None]] = {}
    for event in events:
        if event.get("event") == "epoch" and "entropy" in event:
            phases.setdefault(event["phase"], {})[event["epoch"]] = event.get("alarm")
    said = []
    for phase, by_epoch in phases.items():
        raised = [epoch for epoch, alarm in sorted(by_epoch.items()) if alarm]
        if raised:
            where = f" of {phase}" if len(phases) > 1 else ""
            until = "" if raised[-1] == max(by_epoch) else f" to {raised[-1]}"
            since = f"Epochs {raised[0]}{until}" if until else f"Since epoch {raised[0]}"
            said.append(f"{since}{where}: {by_epoch[raised[-1]]}")
    return said

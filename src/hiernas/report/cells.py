"""What is said of a search in cells by gradients: the cells and stage graphs it found, how it went, what the limits changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from hiernas.report import figures, graphs, kit, units
from hiernas.report.graphs import Part, cells_of, parts_of
from hiernas.report.kit import Values

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
ABOUT_WIDTHS = " The wider a line, the more it weighs; numbers are importances (%), the two greatest of each edge."
ABOUT_DEAD = " Grey cells are dead: no path leads from them to the output, and the network is built without them."
ABOUT_DEPTH = "Depth is the number of cells on the longest path from the stage's input to its output."
ABOUT_TABLE = (
    "The softmax weights (%) at the end of the search, by which the edges and operations were chosen; what was chosen has "
    "a frame. Of each node the two edges stay whose best operation other than none weighs most."
)
ABOUT_SEARCH = (
    "Entropy is the mean over all edges: ln n where n operations weigh the same (2.08 for eight, 1.39 for four), 0 where "
    "one has all the weight. Identities are the share of the edges that would be kept at that epoch, none is the mean "
    "weight of no edge at all."
)
ABOUT_TRAINING = "While searching, it is that of all operations mixed by their weights, on training images."
FOUND = {"train1": "cells found", "train2": "numbers found"}  # by the phases of a search on several levels

# -- in words --------------------------------------------------------------------------------------------------------


def words(result: Values) -> list[str]:
    """Lines for the terminal: what the limits changed, and what was found in the papers' own forms."""
    said, lines = moved(result), figures.words(result) if len(result["front"]) > 1 else []
    return lines + [said] * bool(said) + found_words(result)


def found_words(result: Values) -> list[str]:
    """What was found in the papers' own forms."""
    parts = parts_of(result)
    if not _is_stages(parts):
        return ["cells:", *_as_text(parts)] if parts else []
    cells, lines = cells_of(result), []
    if _found_cells(result):
        lines = ["cells:", *_as_text(cells)]
    else:
        name = str(result["space"]["arguments"].get("cell", "of your own"))
        lines = ["cells, as given:", *_as_text(cells)] if "(" in name else [f"cells, as given: {name}"]
    for part in parts:
        which = f"{units.number(len(part.dead), 'dead cell')} ({', '.join(map(str, part.dead))})"
        dead = which if part.dead else "no dead cells"
        lines += [f"{part.label}: {part.nodes} cells, depth {part.depth}, {dead}", *_edges(part)]
    return lines


def _as_text(parts: Sequence[Part]) -> list[str]:
    return graphs.genotype_lines(parts) or [line for part in parts for line in _edges(part)]


def _edges(part: Part) -> list[str]:
    """(operation, source) of all edges in order; (operation, source, node, weight) where edges have several operations."""
    pairs = part.pairs
    if pairs is None:
        return [f"    {part.name}={[(k.op, k.source, k.node, round(k.weight, 4)) for k in part.kept]}"]
    return [f"    {part.name}={[pair for node in pairs for pair in node]}"]


def moved(result: Values) -> str:
    """Where the limits led away from DARTS' rule; "" where that is not known."""
    details = result.get("details") or {}
    if "moved" not in details or not result["limits"]:
        return ""
    sites, of, inner = details["moved"], len(result["chosen"]["sites"]), details.get("moved_in_cells")
    rule = "DARTS' rule (the two strongest edges of each node, with their strongest operations)"
    said = f"{rule} meets the limits"
    if sites:
        said = f"to meet the limits, {len(sites)} of {of} sites {'differs' if len(sites) == 1 else 'differ'} from {rule}"
    if inner is None:  # no cells were searched before the graphs between them
        return said
    if not inner:
        return f"{said}; so it does within the cells" if not sites else f"{said}; within the cells the rule meets them"
    differ = "edge differs" if len(inner) == 1 else "edges differ"
    return f"{said}; within the cells, {len(inner)} {differ} from it: {', '.join(inner)}"


def _found_cells(result: Values) -> bool:
    """Whether the cells were searched, too, and not only the graphs between them."""
    return not _is_stages(parts_of(result)) or "genotype" in (result.get("details") or {})


def _is_stages(parts: Sequence[Part]) -> bool:
    return any(part.is_stage for part in parts)


# -- on the page -----------------------------------------------------------------------------------------------------


def tell(run: kit.Run) -> kit.Told:
    """What was found: the graphs between the cells, the cells, and how the search went; a front where there is one."""
    result = run.result
    several = len(result["front"]) > 1
    said = units.sentence(moved(result))
    found = pictures(result, kit.PARTS.words(said) if said else "", _weights(result))
    searched = {phase: verdict["what"] for phase, verdict in ((result.get("details") or {}).get("decided") or {}).items()}
    marks = [FOUND.get(phase, phase) for phase in list(searched)[:-1]]
    return kit.Told(
        lead=units.evaluated(result) if several else _lead(result, list(searched.values())),
        found=[*found, how_it_went(run, marks), *([figures.front(result)] if several else [])],
        training=ABOUT_TRAINING,
        phases=searched | {"evolve2": "evaluating what was found"},
        marks=marks,
        levels=len(searched) > 1,
    )


def _lead(result: Values, searched: Sequence[str]) -> str:
    size, space = units.size(result["space"]["size"]), result["space"]["name"]
    if len(searched) > 1:
        levels = f"{', then '.join(searched)}. The last of these {len(searched)} levels alone, the space {space}, has"
        return f"The search went by gradients from level to level: {levels} {size} architectures."
    given = "" if _found_cells(result) else ", over cells that were given"
    return f"The search went through the {size} architectures of the space {space}{given}, all at once, by gradients."


def pictures(result: Values, above: Markup | str = "", below: Markup | str = "") -> list[Markup]:
    """The cells, or the graphs between them and then the cells; `above` and `below` frame the first of these."""
    parts = parts_of(result)
    if not _is_stages(parts):
        return [_cells(parts, "The cells", ABOUT_CELLS, above, below)] if parts else []
    inner = _cells(cells_of(result), "The cells" if _found_cells(result) else "The cells, as given", ABOUT_INNER)
    return [_stages(parts, result, above, below), inner]


def _cells(parts: list[Part], title: str, about: str, above: Markup | str = "", below: Markup | str = "") -> Markup:
    if not parts:
        return Markup()
    reduction = ABOUT_REDUCTION if any(part.name.startswith("reduce") for part in parts) else ""
    caption = about + ABOUT_NODES + reduction + ABOUT_LABELS
    return kit.section(title, above, _drawn(graphs.alike(parts), caption), _to_copy(parts, _as_text(parts)), below)


def _stages(parts: list[Part], result: Values, above: Markup | str, below: Markup | str) -> Markup:
    rows = [[p.label.capitalize(), p.nodes, p.depth, len(p.dead), ", ".join(map(str, p.dead)) or units.NONE] for p in parts]
    text = graphs.stage_lines(parts, result["space"]["arguments"].get("cell"))
    caption = ABOUT_STAGES + ABOUT_EDGES + ABOUT_DEAD * any(p.dead for p in parts)
    return kit.section(
        "The graphs between the cells",
        above,
        _drawn([(p.label.capitalize(), p) for p in parts], caption),
        kit.table(["", "Cells", "Depth", "Dead", "Which"], rows, "stages", numbers=(1, 2, 3)),
        kit.PARTS.words(ABOUT_DEPTH, small=True),
        _to_copy(parts, text or [line for part in parts for line in _edges(part)]),
        below,
    )


def _drawn(named: Sequence[tuple[str, Part]], caption: str) -> Markup:
    """The graphs side by side, and what is to be known to read them."""
    drawn = [(name, kit.PARTS.graph(graphs.drawing(part), graphs.in_words(part))) for name, part in named if part.kept]
    return kit.beside(drawn, caption + (ABOUT_WIDTHS if any(part.is_weighted for _, part in named) else ""))


def _to_copy(parts: Sequence[Part], lines: Sequence[str]) -> Markup:
    kind = "operation, source, node, importance" if any(p.is_weighted for p in parts) else "operation, source"
    return kit.PARTS.to_copy(f"As text: ({kind})", lines)


def _weights(result: Values) -> Markup:
    """The softmax weights, folded."""
    details = result.get("details") or {}
    sites, changed = result["chosen"]["sites"], set(details.get("moved") or ())
    tables: dict[tuple[str, ...], dict[str, list[kit.Cell | None]]] = {}  # one for each set of options
    for site, row in (details.get("weights") or {}).items():
        kept = graphs.weights_of(sites.get(site, {}))
        shown = [kit.Cell(p, f"{100 * p:.1f}", option in kept) for option, p in row.items()]
        tables.setdefault(tuple(row), {})[f"{site} *" if site in changed else site] = [*shown]
    maps = [named for options, rows in tables.items() for named in by_part(options, rows, framed=True)]
    about = ABOUT_TABLE + (" The limits moved the choice where a name is followed by *." if changed else "")
    return kit.PARTS.folded("Weights of all operations", [kit.beside(maps, about)]) if maps else Markup()


def by_part(
    options: Iterable[str], rows: Mapping[str, Sequence[kit.Cell | None]], framed: bool = False
) -> list[tuple[str, Markup]]:
    """A heat map for each cell or stage, by edge; one for all sites that are no edges."""
    parts: dict[str, dict[str, Sequence[kit.Cell | None]]] = {}
    for site, row in rows.items():
        part, edge = site.rsplit(".", 1) if "->" in site else ("", site)
        parts.setdefault(part, {})[edge.replace("->", " → ")] = row
    return [(part, kit.heat_map([graphs.short(option) for option in options], edges, framed)) for part, edges in parts.items()]


# -- how the search went ---------------------------------------------------------------------------------------------

ENTROPY = figures.Line("entropy", "entropy of the weights (nats)", "-", kit.BLUE, 1.0)
SHARES = [figures.Line("skips", "identities (%)", "-", kit.BLUE), figures.Line("none", "none (%)", "--", kit.MUTED)]


def how_it_went(run: kit.Run, marks: Sequence[str] = ()) -> Markup:
    """Entropy, identities and `none` by epoch, with the alarms."""
    curves = [c for c in figures.curves_of(run.events)[0] if all("entropy" in e for e in c.epochs)]
    if not curves:
        return Markup()
    epochs = [e for c in curves for e in c.epochs]
    alarm = next((x for x, e in enumerate(epochs, 1) if e.get("alarm")), None)
    most = max(e["entropy"] for e in epochs)
    panels = [
        ("Entropy", figures.by_epoch("Entropy", curves, [ENTROPY], marks, top=1.05 * most, alarm=alarm)),
        ("Operations", figures.by_epoch("Operations", curves, SHARES, marks, top=100, alarm=alarm)),
    ]
    alarms = kit.PARTS.listed(alarms_of(run.events), "alarms")
    return kit.section("How the search went", kit.beside(panels, ABOUT_SEARCH), alarms)


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
            ended = raised[-1] != max(by_epoch)
            since = f"Epochs {raised[0]} to {raised[-1]}" if ended else f"Since epoch {raised[0]}"
            said.append(f"{since}{where}: {by_epoch[raised[-1]]}")
    return said

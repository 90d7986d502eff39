"""What is said of a search in cells by gradients: the cells and stage graphs it found, how it went, what the limits changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from hiernas.report import figures, graphs, kit, units
from hiernas.report.graphs import Part, cells_of, parts_of
from hiernas.report.kit import Values

SECTIONS = kit.macros("cells.html")
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
    found = pictures(result, units.sentence(moved(result)), _weights(result))
    searched = {phase: verdict["what"] for phase, verdict in ((result.get("details") or {}).get("decided") or {}).items()}
    marks = [FOUND.get(phase, phase) for phase in list(searched)[:-1]]
    found += [how_it_went(run, marks), *([figures.front(result)] if several else [])]
    lead = units.evaluated(result) if several else _lead(result, list(searched.values()))
    phases = searched | {"evolve2": "evaluating what was found"}
    return kit.Told(lead, found, ABOUT_TRAINING, phases, marks, levels=len(searched) > 1)


def _lead(result: Values, searched: Sequence[str]) -> str:
    size, space = units.size(result["space"]["size"]), result["space"]["name"]
    if len(searched) > 1:
        levels = f"{', then '.join(searched)}. The last of these {len(searched)} levels alone, the space {space}, has"
        return f"The search went by gradients from level to level: {levels} {size} architectures."
    given = "" if _found_cells(result) else ", over cells that were given"
    return f"The search went through the {size} architectures of the space {space}{given}, all at once, by gradients."


def pictures(result: Values, moved: str = "", weights: Markup | str = "") -> list[Markup]:
    """The cells, or the graphs between them and then the cells; the first with what the limits changed, and the weights."""
    parts = parts_of(result)
    if not _is_stages(parts):
        return [_cells(parts, "The cells", False, moved, weights)]
    inner = _cells(cells_of(result), "The cells" if _found_cells(result) else "The cells, as given", True)
    return [_stages(parts, result, moved, weights), inner]


def _cells(parts: list[Part], title: str, inner: bool = False, moved: str = "", weights: Markup | str = "") -> Markup:
    """`inner`: of the graphs between them."""
    return SECTIONS.cells(title, parts, _drawn(graphs.alike(parts)), _as_text(parts), inner, moved, weights)


def _stages(parts: list[Part], result: Values, moved: str, weights: Markup | str) -> Markup:
    rows = [[p.label.capitalize(), p.nodes, p.depth, len(p.dead), ", ".join(map(str, p.dead)) or units.NONE] for p in parts]
    text = graphs.stage_lines(parts, result["space"]["arguments"].get("cell"))
    lines = text or [line for part in parts for line in _edges(part)]
    return SECTIONS.stages(parts, _drawn([(p.label.capitalize(), p) for p in parts]), rows, lines, moved, weights)


def _drawn(named: Sequence[tuple[str, Part]]) -> list[tuple[str, Markup]]:
    return [(name, kit.PARTS.graph(graphs.drawing(part), graphs.in_words(part))) for name, part in named if part.kept]


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
    return SECTIONS.weights(maps, bool(changed))


def by_part(
    options: Iterable[str], rows: Mapping[str, Sequence[kit.Cell | None]], framed: bool = False
) -> list[tuple[str, Markup]]:
    """A heat map for each cell or stage, by edge; one for all sites that are no edges."""
    parts: dict[str, dict[str, Sequence[kit.Cell | None]]] = {}
    for site, row in rows.items():
        part, edge = site.rsplit(".", 1) if "->" in site else ("", site)
        parts.setdefault(part, {})[edge.replace("->", " → ")] = row
    columns = list(map(graphs.short, options))
    return [(part, kit.PARTS.heat_map(columns, edges, framed)) for part, edges in parts.items()]


# -- how the search went ---------------------------------------------------------------------------------------------

ENTROPY = figures.Line("entropy", "entropy of the weights (nats)", "-", kit.BLUE, 1.0)
SHARES = [figures.Line("skips", "identities (%)", "-", kit.BLUE), figures.Line("none", "none (%)", "--", kit.MUTED)]


def how_it_went(run: kit.Run, marks: Sequence[str] = ()) -> Markup:
    """Entropy, identities and `none` by epoch, with the alarms."""
    curves = [c for c in figures.curves_of(run.events)[0] if all("entropy" in e for e in c)]
    if not curves:
        return Markup()
    epochs = [e for c in curves for e in c]
    alarm = next((x for x, e in enumerate(epochs, 1) if e.get("alarm")), None)
    most = max(e["entropy"] for e in epochs)
    panels = [
        ("Entropy", figures.by_epoch("Entropy", curves, [ENTROPY], marks, top=1.05 * most, alarm=alarm)),
        ("Operations", figures.by_epoch("Operations", curves, SHARES, marks, top=100, alarm=alarm)),
    ]
    return SECTIONS.search(panels, alarms_of(curves))


def alarms_of(curves: Sequence[figures.Curve]) -> list[str]:
    """For each phase with alarms: since which epoch, whether they ended, and what the last one says."""
    said = []
    for curve in curves:
        raised = [e for e in curve if e.get("alarm")]
        if raised:
            where = f" of {curve[0]['phase']}" if len(curves) > 1 else ""
            first, last = raised[0]["epoch"], raised[-1]["epoch"]
            since = f"Epochs {first} to {last}" if last != curve[-1]["epoch"] else f"Since epoch {first}"
            said.append(f"{since}{where}: {raised[-1]['alarm']}")
    return said

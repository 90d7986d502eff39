"""What is said of a network of cells: the cells and the graphs between them, drawn, in words and as text to copy; the search.

All is read from the names of the sites (`normal.0->2`, `stage1.3->5`, `stage1.cells`), so that spaces of a user's own
are shown, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from hiernas.errors import SpaceError
from hiernas.networks.genotype import INPUTS, Genotype
from hiernas.networks.genotype import genotype as genotype_of
from hiernas.networks.parts import StageShape, live_nodes
from hiernas.networks.stage import JSON_STAGE, STAGES
from hiernas.report import figures, kit, units
from hiernas.report.kit import Values

SECTIONS = kit.macros("cells.html")
SHORT = {"skip_connect": "skip", "max_pool_3x3": "max", "avg_pool_3x3": "avg"}
SITE = re.compile(r"(.+)\.(\d+)->(\d+)")
STAGE = re.compile(r"stages|stage\d+")  # one graph for all stages, or that of one
ABOUT_TRAINING = "While searching, it is that of all operations mixed by their weights, on training images."
FOUND = {"train1": "cells found", "train2": "numbers found"}  # by the phases of a search on several levels

# -- what is in them ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """An edge that was kept, with one of its operations; `weight` is 1 where the edge has no other."""

    source: int
    node: int
    op: str
    weight: float = 1.0


@dataclass(frozen=True)
class Part:
    """A cell, or a stage with its cells: the edges into each node. States 0 and 1 are inputs, nodes count from 2."""

    name: str
    nodes: int
    kept: tuple[Kept, ...]  # by node, then source
    outputs: tuple[int, ...]  # the states that are concatenated

    @property
    def states(self) -> range:
        """The nodes, as states of the graph."""
        return range(INPUTS, INPUTS + self.nodes)

    @property
    def is_stage(self) -> bool:
        return STAGE.fullmatch(self.name) is not None

    @property
    def label(self) -> str:
        """The name in a sentence: 'normal', 'stage 1', 'all stages'."""
        if self.is_stage:
            return self.name.replace("stage", "stage ") if self.name != "stages" else "all stages"
        return self.name

    @property
    def is_weighted(self) -> bool:
        return any(k.weight != 1.0 for k in self.kept)

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(source, node) of what was kept."""
        return [(k.source, k.node) for k in self.kept]

    @property
    def dead(self) -> tuple[int, ...]:
        """The nodes from which no path leads to the output."""
        alive = live_nodes(self.edges, self.outputs)
        return tuple(n for n in self.states if n not in alive)

    @property
    def depth(self) -> int:
        """Nodes on the longest path to the output."""
        return StageShape.of(self.edges, self.outputs, self.nodes).depth

    @property
    def pairs(self) -> list[list[tuple[str, int]]] | None:
        """(operation, source) of each node's edges, as genotypes have them; None where an edge has several operations."""
        if len(set(self.edges)) < len(self.kept) or self.is_weighted:
            return None
        return [[(k.op, k.source) for k in self.kept if k.node == n] for n in self.states]

    def edges_into(self, node: int) -> dict[int, list[Kept]]:
        """By source, the strongest operation of each edge first."""
        kept = sorted((k for k in self.kept if k.node == node), key=lambda k: (k.source, -k.weight))
        return {source: list(ops) for source, ops in groupby(kept, key=lambda k: k.source)}

    @property
    def drawn(self) -> list[tuple[str, str, list[tuple[int, str, str, float]]]]:
        """Of each state behind the inputs its kind, its name, and the edges into it: source, kind, text, width of the line."""
        into, weighted = {n: self.edges_into(n) for n in self.states}, self.is_weighted
        most = max((sum(k.weight for k in ops) for edges in into.values() for ops in edges.values()), default=1.0)

        def edge(n: int, source: int, ops: Sequence[Kept]) -> tuple[int, str, str, float]:
            kind, names = "dead" if n in self.dead else "edge", [short(k.op) for k in ops]
            if not weighted:
                return source, kind, ", ".join(names), 0.0
            shown = [f"{name} {100 * k.weight:.0f}" for name, k in zip(names, ops, strict=True)][:2]  # the strongest
            more = [f"+{len(ops) - 2}"] * (len(ops) > 2)
            return source, kind, ", ".join(shown + more), 0.6 + 3.4 * sum(k.weight for k in ops) / most

        nodes = [("dead" if n in self.dead else "node", str(n), [edge(n, *each) for each in into[n].items()]) for n in into]
        return [*nodes, ("output", "out", [(n, "output", "", 0.0) for n in self.outputs])]

    @property
    def in_words(self) -> str:
        """What the drawing shows, for those who do not see it."""
        said = []
        for n in self.states:
            edges = [f"{short(k.op)} of {source}" for source, ops in self.edges_into(n).items() for k in ops]
            if edges:
                said.append(f"{n}{' (dead)' if n in self.dead else ''} is {' plus '.join(edges)}")
        what = self.label.capitalize() if self.is_stage else f"Cell {self.name}"
        return f"{what}: {'; '.join(said)}. Output: {', '.join(map(str, self.outputs))}."


def short(op: str) -> str:
    """An operation's name as a label: 'sep_conv_3x3' -> 'sep 3×3', 'max_pool_3x3' -> 'max'."""
    found = re.fullmatch(r"(sep|dil)_conv_(\d+)x(\d+)", op)
    return f"{found[1]} {found[2]}×{found[3]}" if found else SHORT.get(op, op)


def weights_of(choice: str | Mapping[str, float]) -> Mapping[str, float]:
    """The options that a site keeps, each with its weight."""
    return {choice: 1.0} if isinstance(choice, str) else choice


def is_cells(result: Values) -> bool:
    """Whether the chosen network's sites are edges of cells, or of graphs between them."""
    return any(SITE.fullmatch(site) for site in result["chosen"]["sites"])


def parts_of(result: Values) -> list[Part]:
    """The cells, or the stages, of the chosen network."""
    edges: dict[str, list[Kept]] = {}
    sites = result["chosen"]["sites"]
    for site, choice in sites.items():
        found = SITE.fullmatch(site)
        if found is None:
            continue
        kept = edges.setdefault(found[1], [])
        kept += [Kept(int(found[2]), int(found[3]), op, w) for op, w in weights_of(choice).items() if op != "none"]
    parts: list[Part] = []
    for name, kept in edges.items():
        number = sites.get(f"{name}.cells")  # how many of a stage's cells there are, where that was searched
        nodes = int(number) if number is not None else max((k.node for k in kept), default=INPUTS - 1) - INPUTS + 1
        within = tuple(sorted((k for k in kept if k.node < INPUTS + nodes), key=lambda k: (k.node, k.source)))
        states = range(INPUTS, INPUTS + nodes)
        parts.append(Part(name, nodes, within, tuple(states[-2:] if STAGE.fullmatch(name) else states)))
    return parts


def cells_of(result: Values) -> list[Part]:
    """The cells that the stages of the chosen network are made of; empty where they are not known."""
    try:
        found = genotype_of(result["space"]["arguments"]["cell"])
    except (KeyError, TypeError, SpaceError):  # a space of the user's own
        return []
    return [
        Part(kind, len(graph), tuple(Kept(s, n, op) for n, edges in enumerate(graph, INPUTS) for op, s in edges),
             tuple(range(INPUTS, INPUTS + len(graph))))
        for kind, graph in found.cells
    ]  # fmt: skip


def alike(parts: list[Part]) -> list[tuple[str, Part]]:
    """Each different cell once, with the names of all that are like it."""
    same: dict[tuple[Kept, ...], list[Part]] = {}
    for part in parts:
        same.setdefault(part.kept, []).append(part)
    return [(" and ".join(part.name for part in alike), alike[0]) for alike in same.values()]


# -- as text ---------------------------------------------------------------------------------------------------------


def genotype_lines(parts: Sequence[Part]) -> list[str]:
    """DARTS' printed form, a line for each cell; empty where an edge has several operations."""
    found = [(part.name, part.pairs) for part in parts]
    cells = [(name, tuple(map(tuple, pairs))) for name, pairs in found if pairs is not None]
    if len(cells) < len(found):
        return []
    texts = [Genotype((cell,)).to_text() for cell in cells]
    return ["Genotype(", *(f"    {text.removeprefix('Genotype(')[:-1]}," for text in texts), ")"]


def stage_lines(parts: list[Part], cell: Any) -> list[str]:
    """H-DAS' object with `cell` and `stage` as JSON, a line for each stage; empty where an edge has several operations."""
    graphs = []
    for k, part in enumerate(parts * STAGES if len(parts) == 1 else parts, 1):
        key, pairs = JSON_STAGE.format(k), part.pairs
        if pairs is None:
            return []
        graphs.append(f'    "{key}": {json.dumps(pairs)}, "{key}_concat": {json.dumps(part.outputs)}')
    return [f'{{"cell": {json.dumps(cell)},', '"stage": {', *",\n".join(graphs).split("\n"), "}}"]


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
    return genotype_lines(parts) or [line for part in parts for line in _edges(part)]


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
    about = ABOUT_TRAINING if searched else ""  # not of a control
    return kit.Told(lead, found, about, phases, marks, levels=len(searched) > 1)


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
        found = SECTIONS.cells("The cells", parts, _drawn(alike(parts)), _as_text(parts), False, moved, weights)
        return [found, figures.network(result)] if figures.blocks_of(result)[1] == "cells" else [found]
    inner, title = cells_of(result), "The cells" if _found_cells(result) else "The cells, as given"
    lines = stage_lines(parts, result["space"]["arguments"].get("cell")) or [line for part in parts for line in _edges(part)]
    stages = SECTIONS.stages(parts, _drawn([(p.label.capitalize(), p) for p in parts]), lines, moved, weights)
    return [stages, SECTIONS.cells(title, inner, _drawn(alike(inner)), _as_text(inner), inner=True)]


def _drawn(named: Sequence[tuple[str, Part]]) -> list[tuple[str, Markup]]:
    return [(name, kit.PARTS.graph(part)) for name, part in named if part.kept]


def _weights(result: Values) -> Markup:
    """The softmax weights, folded."""
    details = result.get("details") or {}
    sites, changed = result["chosen"]["sites"], set(details.get("moved") or ())
    tables: dict[tuple[str, ...], dict[str, list[kit.Cell | None]]] = {}  # one for each set of options
    for site, row in (details.get("weights") or {}).items():
        kept = weights_of(sites.get(site, {}))
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
    columns, what = list(map(short, options)), "Weights" if framed else "Importances"
    return [(part, kit.PARTS.heat_map(f"{what} {part}".strip(), columns, edges, framed)) for part, edges in parts.items()]


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

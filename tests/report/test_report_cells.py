"""The report and the terminal lines of a search in cells, against the networks they tell of."""

from __future__ import annotations

import copy
import html
import json
import re
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_runs as runs
import torch
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from report_runs import Page

import hiernas
from hiernas.errors import SpaceError
from hiernas.networks.genotype import GENOTYPES, Genotype, read_genotype
from hiernas.report import cells, figures, kit
from hiernas.report.kit import Run, Told
from hiernas.report.page import summary
from hiernas.spaces import darts, hdas_stages, tiny

SMALL: dict[str, Any] = {"input_size": (1, 8, 8), "channels": 4}
RULE = "DARTS' rule (the two strongest edges of each node, with their strongest operations)"
SECTIONS = [
    "Asked, predicted, measured", "The cells", "The chosen network", "How the search went", "Training", "What now", "Data",
    "Settings", "Time",
]  # fmt: skip
DEAD = {  # cell 3 of stage 2 is read by none
    "DAG1": "skip 0, skip 1 | skip 1, max 2 | max 2, skip 3 | avg 3, skip 4",
    "DAG2": "max 0, max 1 | skip 0, skip 1 | skip 1, skip 2 | max 2, skip 4",
    "DAG3": "skip 0, skip 1 | skip 1, skip 2 | skip 2, skip 3 | max 3, skip 4",
}
LONG = {"skip": "skip_connect", "max": "max_pool_3x3", "avg": "avg_pool_3x3"}


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>([^<]*)</h2>", page)


def copied(page: str) -> list[str]:
    """The genotypes that the reader can copy, as the browser shows them; last on the page is the code that runs the network."""
    *genotypes, code = [html.unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", page, flags=re.DOTALL)]
    assert code.startswith("\nimport json, numpy as np, onnxruntime")
    return genotypes


def stage_graphs(dags: dict[str, str] = DEAD, **arguments: Any) -> hiernas.Architecture:
    split = {name: [[e.split() for e in node.split(",")] for node in text.split("|")] for name, text in dags.items()}
    pairs = {name: [[[LONG[op], int(s)] for op, s in node] for node in nodes] for name, nodes in split.items()}
    space = hdas_stages(**{**SMALL, "cells": 14, **arguments})
    return space.architecture({"cell": dict(space.skeleton.arguments)["cell"], "stage": pairs})


@pytest.fixture(scope="module")
def value() -> dict[str, Any]:
    return runs.cells("darts", darts(**SMALL, cells=5).architecture(GENOTYPES["PDARTS"]))


@pytest.fixture(scope="module")
def staged() -> dict[str, Any]:
    return runs.cells("hdas-stages", stage_graphs(cell="PDARTS"), moved=["stage1.0->2", "stage1.1->2"])


def made(folder: Path, value: dict[str, Any], **events: Any) -> tuple[Page, str]:
    phases = {"train1": 6, "final": 3}
    path = runs.report(runs.write(folder, value, runs.search_events(events.pop("phases", phases), **events)))
    return Page(path), path.read_text()


# -- cells -----------------------------------------------------------------------------------------------------------


def test_the_page_of_cells(tmp_path: Path, value: dict[str, Any]) -> None:
    page, text = made(tmp_path, value)
    assert headings(text) == SECTIONS  # no front of one network, no prunings, no boxes of 28 sites
    assert "went through the 1.08×10¹⁸ architectures of the space darts, all at once, by gradients." in page.text
    assert f"{RULE} meets the limits." in page.text
    assert len(page.figures) == 6  # two cells, two of the search, two trainings
    ids = [a["id"] for _, a in page.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    assert not re.findall(r"#[0-9a-fA-F]{6}", " ".join(a.get("style", "") for _, a in page.attributes))
    (genotype,) = copied(text)
    assert read_genotype(genotype) == GENOTYPES["PDARTS"]
    assert [line.split("=")[0].strip() for line in genotype.splitlines()[1:-1]] == ["normal", "reduce"]
    assert "Evaluated 1 architecture " in page.text
    times = [row[0] for row in page.rows["times"]]
    assert times[:2] == ["train1 cells", "evolve2 evaluating what was found"]
    words = [a["aria-label"] for a in page.figures]
    assert words[0] == (
        "Cell normal: 2 is skip of 0 plus dil 3×3 of 1; 3 is skip of 0 plus sep 3×3 of 1; 4 is sep 3×3 of 1 plus sep 3×3 of "
        "3; 5 is sep 3×3 of 0 plus dil 5×5 of 4. Output: 2, 3, 4, 5."
    )


def drawn() -> dict[str, cells.Part]:
    """Every published cell, the published stages, random ones with eight cells, and a cell that keeps all its edges."""
    found = {f"{name} {p.name}": p for name in GENOTYPES for p in cells.cells_of({"space": {"arguments": {"cell": name}}})}
    rng = np.random.default_rng(3)
    for name, sites in {
        "published": hiernas.known("hdas-stages").to_json()["sites"],
        "random": hdas_stages(cells=26).sample(rng).to_json()["sites"],
        "all": {f"normal.{s}->{n}": {"sep_conv_3x3": 0.7, "skip": 0.2, "a": 0.1} for n in range(2, 6) for s in range(n)},
        "few": {"normal.0->2": {"max": 0.5}, "normal.1->4": {"max": 0.2}},  # node 3 reads nothing
    }.items():
        found |= {f"{name} {p.name}": p for p in cells.parts_of({"chosen": {"sites": sites}})}
    return found


DRAWN = drawn()


@dataclass(frozen=True)
class Drawing:
    """What an SVG of a cell holds: boxes and texts as rectangles, and edges as where they begin, turn and end."""

    size: tuple[float, ...]
    boxes: list[tuple[float, ...]]
    names: list[str]  # of the boxes
    words: list[tuple[str, tuple[float, ...]]]  # of the edges
    lines: list[tuple[float, ...]]  # x and y at the source's box, y at the turn, x at the end

    @classmethod
    def of(cls, part: cells.Part) -> Drawing:
        svg = str(kit.PARTS.graph(part))
        size = numbers(re.search(r'viewBox="0 0 ([^"]*)"', svg)[1])
        found = re.findall(r'<rect class="\w+" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', svg)
        boxes = [numbers(" ".join(box)) for box in found]
        texts = re.findall(r'<text class="(?:edge|dead)" x="(.*?)" y="(.*?)">(.*?)<', svg)
        words = [(text, numbers(f"{x} {y}")) for x, y, text in texts]
        lines = re.findall(r'd="M (\S+) (\S+) V (\S+) q 0 6 6 6 H (\S+)"', svg)
        return cls(
            size, [(x, y, x + w, y + h) for x, y, w, h in boxes], re.findall(r'<text class="state [^>]*>(.*?)<', svg),
            [(text, (x, y - 9.5, x + font_width(text), y + 2.5)) for text, (x, y) in words],
            [(x, y, turn + 6, end + 5) for x, y, turn, end in (numbers(" ".join(line)) for line in lines)],
        )  # fmt: skip

    def ends(self, line: tuple[float, ...]) -> tuple[int, int]:
        """The states that a line leads from and to, by where it starts and ends."""
        x, y, level, end = line
        (source,) = (i for i, b in enumerate(self.boxes) if b[0] < x < b[2] and b[3] == y)
        (target,) = (i for i, b in enumerate(self.boxes) if b[0] == end and b[1] < level < b[3])
        return source, target

    def text_of(self, line: tuple[float, ...]) -> str:
        """What stands behind a line's end."""
        return next((text for text, (x, top, _, low) in self.words if 0 < x - line[3] < 40 and top < line[2] < low), "")


def numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


def font_width(text: str) -> float:
    """In the widest of the page's fonts, from its outlines."""
    return float(TextPath((0, 0), text, size=11, prop=FontProperties(family="DejaVu Sans")).get_extents().width)


def test_every_edge_is_drawn_with_its_operation() -> None:
    for name, found in GENOTYPES.items():
        for part in cells.cells_of({"space": {"arguments": {"cell": name}}}):
            nodes = enumerate(found.graph(part.name), 2)
            edges = {(cells.short(op), source, n) for n, node in nodes for op, source in node}
            figure = Drawing.of(part)
            assert figure.names == ["0", "1", "2", "3", "4", "5", "out"]
            drawn = {(figure.text_of(line), *figure.ends(line)) for line in figure.lines}
            assert len(figure.lines) == len(drawn) == len(edges) + 4
            assert drawn == edges | {("", n, 6) for n in range(2, 6)}


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_stands_in_the_way_of_anything_else(name: str) -> None:
    """Boxes, texts, and the two straight pieces of every edge, as rectangles."""
    figure = Drawing.of(DRAWN[name])
    things = [*figure.boxes, *(place for _, place in figure.words)]
    for a, b in combinations(things, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert all(x0 >= 0 and y0 >= 0 and x1 <= figure.size[0] and y1 <= figure.size[1] for x0, y0, x1, y1 in things)
    for line in figure.lines:
        source, target = figure.ends(line)
        assert source < target
        x, y, level, end = line
        for x0, y0, x1, y1 in ((x, y, x, level), (x, level, end, level)):
            for i, (left, top, right, bottom) in enumerate(things):
                assert i in (source, target) or x1 <= left or right <= x0 or y1 <= top or bottom <= y0


def test_the_weights_by_which_it_was_chosen(tmp_path: Path, value: dict[str, Any]) -> None:
    changed = copy.deepcopy(value)
    changed["details"]["moved"] = ["normal.0->2", "reduce.4->5"]
    page, text = made(tmp_path, changed)
    head = page.rows["heat"][0]
    rows = [row for row in page.rows["heat"] if row[0]]  # of two tables, one for each cell
    names = {cells.short(op): op for op in changed["details"]["weights"]["normal.0->2"]}
    sites, weights = changed["chosen"]["sites"], changed["details"]["weights"]
    edges = [site.split(".")[1].replace("->", " → ") + " *" * (site in changed["details"]["moved"]) for site in sites]
    assert [row[0] for row in rows] == edges
    for row, site in zip(rows, sites, strict=True):
        assert [float(x) / 100 for x in row[1:]] == pytest.approx([weights[site][names[o]] for o in head[1:]], abs=6e-4)
    framed = re.findall(r'class="kept[^"]*"><i>([\d.]+)</i>', text)
    assert framed == [f"{100 * weights[s][o]:.1f}" for s, o in sites.items()]
    assert f"To meet the limits, 2 of 28 sites differ from {RULE}." in page.text
    assert text.index("<details>") < text.index("0 → 2 *") < text.index("</details>")


def test_the_terminal_prints_the_genotype(value: dict[str, Any]) -> None:
    lines, rows = summary(value)
    at = lines.index("cells:")
    assert read_genotype("\n".join(lines[at + 1 :])) == GENOTYPES["PDARTS"]
    assert lines[at + 2].startswith("    normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ")
    assert lines[at - 1] == f"{RULE} meets the limits"
    assert not any("Pareto" in line or line.startswith("chosen") for line in lines)
    assert [row[0] for row in rows] == ["latency", "params", "MACs", "accuracy"]
    changed = copy.deepcopy(value)
    changed["details"]["moved"] = ["normal.0->2"]
    assert f"to meet the limits, 1 of 28 sites differs from {RULE}" in summary(changed)[0]
    changed["limits"] = []
    assert not any("rule" in line for line in summary(changed)[0])


def test_a_front_is_shown_where_there_is_one(tmp_path: Path, value: dict[str, Any]) -> None:
    """Of a method that finds several networks in cells."""
    other = {**value["front"][0], "macs": 2 * value["front"][0]["macs"], "val_accuracy": 0.99, "options": ["none"] * 28}
    several = {**value, "front": [*value["front"], other], "evaluated": 57, "details": {}}
    page, text = made(tmp_path, several)
    assert "Pareto front" in headings(text)
    assert len(page.rows["front"]) == 1 + 2
    assert "evaluated 57 of the" in page.text
    assert "heat" not in page.rows
    assert "Pareto front of 2 networks out of 57 evaluations" in summary(several)[0]


# -- stages ----------------------------------------------------------------------------------------------------------


def test_the_page_of_stages(tmp_path: Path, staged: dict[str, Any]) -> None:
    page, text = made(tmp_path, staged)
    assert headings(text) == [SECTIONS[0], "The graphs between the cells", "The cells, as given", *SECTIONS[3:]]
    assert [[*row] for row in page.rows["stages"][1:]] == [
        ["Stage 1", "4", "4", "0", "–"], ["Stage 2", "4", "3", "1", "3"], ["Stage 3", "4", "4", "0", "–"]
    ]  # fmt: skip
    graph, cell = copied(text)
    architecture = stage_graphs(cell="PDARTS")
    space = hdas_stages(**SMALL, cells=14, cell="PDARTS")
    assert space.architecture(json.loads(graph)) == architecture
    assert read_genotype(cell) == GENOTYPES["PDARTS"]
    assert "Grey cells are dead" in page.text
    assert "2 of 33 sites differ" in page.text
    assert "over cells that were given" in page.text
    figure = page.figures[1]["aria-label"]
    assert figure.startswith("Stage 2: 2 is max of 0 plus max of 1; 3 (dead) is skip of 0 plus skip of 1;")


def test_the_terminal_prints_the_stages(staged: dict[str, Any]) -> None:
    lines, _ = summary(staged)
    at = lines.index("cells, as given: PDARTS")
    assert lines[at + 1] == "stage 1: 4 cells, depth 4, no dead cells"
    assert lines[at + 2].startswith("    stage1=[('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 1), ")
    assert lines[at + 3] == "stage 2: 4 cells, depth 3, 1 dead cell (3)"
    found = {**staged, "method": "hdas", "details": {**staged["details"], "genotype": "Genotype(...)"}}
    lines, _ = summary(found)
    at = lines.index("cells:")
    assert read_genotype("\n".join(lines[at + 1 : at + 5])) == GENOTYPES["PDARTS"]
    own = copy.deepcopy(staged)
    own["space"] = {"name": "mine", "arguments": {}, "size": 10}
    assert "cells, as given: of your own" in summary(own)[0]


def test_depth_and_dead_cells_are_those_of_the_search() -> None:
    rng = np.random.default_rng(0)
    spaces = [hdas_stages(**SMALL, cells=cells, window=w) for cells in (14, 26) for w in (2, 3, 5)]
    dead = 0
    for space in [*spaces, hdas_stages(**SMALL, cells=26, least=4)]:
        for _ in range(15):
            architecture = space.sample(rng)
            parts = cells.parts_of({"chosen": {"sites": architecture.to_json()["sites"]}})
            found = [(p.nodes, p.depth, len(p.dead)) for p in parts]
            assert found == [(s.cells, s.depth, s.dead) for s in architecture.skeleton.shapes(architecture.choices)]
            dead += sum(len(p.dead) for p in parts)
    assert dead > 20


def test_one_graph_of_all_stages_is_shown_once_and_written_thrice() -> None:
    space = hdas_stages(**SMALL, cells=14, shared=True)
    architecture = space.sample(np.random.default_rng(0))
    (part,) = cells.parts_of({"chosen": {"sites": architecture.to_json()["sites"]}})
    found = architecture.skeleton.shapes(architecture.choices)
    assert [(part.nodes, part.depth, len(part.dead))] * 3 == [(s.cells, s.depth, s.dead) for s in found]
    assert (part.label, part.is_stage) == ("all stages", True)
    assert space.architecture(json.loads("\n".join(cells.stage_lines([part], "DARTS_V2")))) == architecture


def test_cells_beyond_the_number_found_are_left_out(tmp_path: Path) -> None:
    space = hdas_stages(**SMALL, cells=26, least=4, cell="DARTS_V2")
    numbers = {"stage1.cells": "5", "stage2.cells": "8", "stage3.cells": "4"}
    sites = space.sample(np.random.default_rng(1)).to_json()["sites"] | numbers
    value = runs.cells("hdas-distribution", space.architecture(sites))
    page, text = made(tmp_path, value)
    assert [row[1] for row in page.rows["stages"][1:]] == ["5", "8", "4"]
    read = hdas_stages(**SMALL, cells=(5, 8, 4), cell="DARTS_V2").architecture(json.loads(copied(text)[0]))
    kept = {name: sites[name] for name in read.to_json()["sites"]}
    assert read.to_json()["sites"] == kept
    assert text.count('<table class="heat">') == 3 + 1  # edges of the stages, and the numbers of cells
    assert ["", "4", "5", "6", "7", "8"] in page.rows["heat"]


def test_equal_cells_are_drawn_once() -> None:
    mild = GENOTYPES["DARTS_V2"].graph("normal")
    twice = Genotype((("normal1", mild), ("reduce1", GENOTYPES["PDARTS"].graph("reduce")), ("normal2", mild)))
    parts = cells.cells_of({"space": {"arguments": {"cell": twice.to_text()}}})
    assert [names for names, _ in cells.alike(parts)] == ["normal1 and normal2", "reduce1"]


# -- several operations on an edge -------------------------------------------------------------------------------------


def test_weights_are_widths_and_have_no_genotype(tmp_path: Path, value: dict[str, Any]) -> None:
    mixed = copy.deepcopy(value)
    mixed["chosen"]["sites"]["normal.0->2"] = {"sep_conv_3x3": 0.5, "skip_connect": 0.25, "none": 0.0}
    mixed["chosen"]["sites"]["normal.1->2"] = {"sep_conv_5x5": 2.0}
    part = cells.parts_of(mixed)[0]
    svg = kit.PARTS.graph(part)
    assert [text for text, _ in Drawing.of(part).words[:2]] == ["sep 3×3 50, skip 25", "sep 5×5 200"]
    widths = list(map(float, re.findall(r"stroke-width:([\d.]+)", svg)))
    assert widths[:2] == pytest.approx([0.6 + 3.4 * 0.75 / 2, 0.6 + 3.4], abs=0.01)  # relative to the greatest
    page, text = made(tmp_path, mixed)
    assert "The wider a line, the more it weighs" in page.text
    assert "normal=[('sep_conv_3x3', 0, 2, 0.5), ('skip_connect', 0, 2, 0.25), " in copied(text)[0]
    with pytest.raises(SpaceError, match="not a genotype"):
        read_genotype(copied(text)[0])


def test_names_are_escaped(tmp_path: Path, value: dict[str, Any]) -> None:
    odd = copy.deepcopy(value)
    odd["space"] = {"name": "mine", "arguments": {}, "size": 4}
    odd["chosen"]["sites"] = {"<b>.0->2": "<conv>", "<b>.1->2": "$x$"}
    page, text = made(tmp_path, odd)
    assert "b" not in {tag for tag, _ in page.attributes}
    assert "<h3>&lt;b&gt;</h3>" in text
    assert {"<conv>", "$x$"} <= set(page.svg_words)
    assert "<b>=[('<conv>', 0), ('$x$', 1)]" in copied(text)[0]


# -- how the search went ---------------------------------------------------------------------------------------------


def test_the_search_is_drawn_by_epoch() -> None:
    events = runs.search_events({"train1": 8, "final": 2}, {"train1": [6, 7]})
    svg = cells.how_it_went(Run(Path(), {}, events))
    lines = re.findall(r'<path d="(M [^"]*)" clip-path="[^"]*" style="fill: none; stroke: var\(--blue\)', svg)
    points = [np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", line), dtype=float) for line in lines[:2]]
    for found, key in zip(points, ("entropy", "skips"), strict=True):
        expected = np.array([e[key] for e in events if e["phase"] != "final"])
        rise = -(found[:, 1] - found[0, 1])
        np.testing.assert_allclose(rise / rise[-1], (expected - expected[0]) / (expected[-1] - expected[0]), atol=1e-3)
    assert texts(svg).count("alarm") == 2
    assert "entropy of the weights (nats) from 1.96 to 1.08" in svg
    assert cells.how_it_went(Run(Path(), {}, runs.events({"train1": 3}))) == ""


def test_levels_are_apart(staged: dict[str, Any]) -> None:
    """Between two levels of the hierarchy, each a search of its own, no line is drawn."""
    events = runs.search_events({"train1": 3, "train2": 3, "train3": 3, "final": 2})
    told = cells.tell(Run(Path(), {**staged, "details": {"decided": runs.LEVELS}}, events))
    assert told.lead.startswith("The search went by gradients from level to level: cells, then numbers, then graphs. The last")
    assert told.phases["train2"] == "numbers"
    svg = cells.how_it_went(Run(Path(), {}, events), told.marks)
    assert texts(svg).count("cells found") == texts(svg).count("numbers found") == 2
    lines = re.findall(r'<path d="(M [^"]*)" clip-path="[^"]*" style="fill: none; stroke: var\(--blue\)', svg)
    assert [line.count("M") for line in lines[:2]] == [3, 3]
    training = figures.training(events, told)
    dashed = re.findall(r'<path d="(M [^"]*)" clip-path="[^"]*" style="fill: none; stroke-dasharray[^"]*--muted', training)
    assert [line.count("M") for line in dashed] == [3, 1]
    joined = figures.training(events, Told(""))
    dashed = re.findall(r'<path d="(M [^"]*)" clip-path="[^"]*" style="fill: none; stroke-dasharray[^"]*--muted', joined)
    assert [line.count("M") for line in dashed] == [1, 1]


def test_alarms_are_said(tmp_path: Path, value: dict[str, Any]) -> None:
    page, _ = made(tmp_path, value, alarms={"train1": [4, 6]})
    assert "Since epoch 4: 100% collapsed <so>" in page.text
    events = runs.search_events({"train1": 6, "train2": 4}, {"train1": [2, 3], "train2": [4]})
    assert cells.alarms_of(figures.curves_of(events)[0]) == [
        "Epochs 2 to 3 of train1: 50% collapsed <so>", "Since epoch 4 of train2: 100% collapsed <so>"
    ]  # fmt: skip
    assert cells.alarms_of(figures.curves_of(runs.search_events({"train1": 6}))[0]) == []


def test_the_whole_network_is_drawn_as_it_is_built(value: dict[str, Any]) -> None:
    """Its cells by the tensors that leave them."""
    network, sizes = darts(**SMALL, cells=5).architecture(GENOTYPES["PDARTS"]).build().eval(), list[tuple[str, str]]()
    for cell in network.cells:
        cell.register_forward_hook(lambda _, __, y: sizes.append((f"{y.shape[1]} ch", f"{y.shape[2]}×{y.shape[3]}")))
    network(torch.zeros(1, 1, 8, 8))
    blocks, kind = figures.blocks_of(value)
    assert (kind, [b.label for b in blocks]) == (
        "cells", ["", "conv\n3×3", "normal", "reduce", "normal", "reduce", "normal", "pool\nfc"],
    )  # fmt: skip
    assert [b.notes[1:] for b in blocks[2:-1]] == sizes
    assert [b.stride for b in blocks[2:-1]] == [1, 2, 1, 2, 1]
    drawn = figures.network(value).split('<div class="group">')
    assert [group.count('<div class="block ') for group in drawn[1:]] == [1, 1, 1, 2, 2, 1]


def test_the_control_of_a_search_in_chains(tmp_path: Path) -> None:
    """What HM-NAS hands over where nothing was decided: no masks, no cells."""
    chain = runs.result(tiny(), members=1, stages=0)
    chain |= {"method": "hmnas", "evaluated": 1, "details": {"decided": {"train1": {"what": "blocks", "decided": False}}}}
    page, text = made(tmp_path, chain)
    assert headings(text) == [SECTIONS[0], "How the search went", "The chosen network", *SECTIONS[4:]]
    assert "A regular network, which no search has found, for digits" in page.text
    assert "went through the 200,000 architectures of the space tiny, all at once, by gradients." in page.text
    assert "train1 blocks" in {row[0] for row in page.rows["times"]}
    assert summary(chain)[0][-1] == "chosen: " + " ".join(chain["chosen"]["options"])
    assert not any("Pareto" in line or "cells" in line for line in summary(chain)[0])


def test_a_space_of_ones_own_is_shown(tmp_path: Path, staged: dict[str, Any]) -> None:
    own = copy.deepcopy(staged)
    own["space"] = {"name": "mine", "arguments": {"cell": "no genotype"}, "size": 10}
    page, text = made(tmp_path, own)
    assert headings(text)[1:3] == ["The graphs between the cells", "How the search went"]
    assert [row[3] for row in page.rows["stages"][1:]] == ["0", "1", "0"]
    skeleton = replace(darts(**SMALL, cells=5).skeleton, name="mine")
    mine = runs.cells("darts", skeleton.space().architecture(GENOTYPES["DARTS_V2"]))
    page, text = made(tmp_path / "cells", mine)
    assert read_genotype(copied(text)[0]) == GENOTYPES["DARTS_V2"]

"""The report of HourNAS: its numbers against result.json, its figures against the values they are drawn from."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_runs as runs
from report_runs import Page

from hiernas.errors import RunError
from hiernas.report import figures, hournas, kit
from hiernas.report.kit import Run
from hiernas.report.page import summary
from hiernas.spaces import tiny

VITAL = ("stage2.block1", "stage3.block1", "stage4.block1")
PHASES = {"train1": 3, "train2": 5, "final": 4}
SECTIONS = ["Asked, predicted, measured", "Vital blocks", "The proposals", "From proposals to targets", "The chosen network",
            "Training", "What now", "Data", "Settings", "Time"]  # fmt: skip


@pytest.fixture(scope="module")
def value() -> dict[str, Any]:
    return runs.hournas(tiny(), VITAL, ("params", "macs"))


def made(folder: Path, value: dict[str, Any]) -> Page:
    return Page(runs.report(runs.write(folder, value, runs.events(PHASES))))


def texts(svg: str) -> list[str]:
    return [t.replace("\xa0", " ") for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def sections(value: dict[str, Any]) -> str:
    return " ".join("".join(hournas.tell(Run(Path(), value, ())).found).split())


def headings(folder: Path) -> list[str]:
    return re.findall(r"<h2>([^<]*)</h2>", (folder / "report.html").read_text())


def test_sections_are_those_of_the_method(tmp_path: Path, value: dict[str, Any]) -> None:
    page = made(tmp_path, value)
    assert headings(tmp_path) == SECTIONS  # no Pareto front, no prunings
    assert (
        "with parameters ≤ 145,284 and multiply-adds ≤ 5,412,480. The search went through the 200,000 architectures of the "
        "space tiny: first the operations of the 3 vital blocks, then the others, in 4 proposals."
    ) in page.text
    assert "of the searched blocks stage2.block1, stage3.block1, stage4.block1. They were searched first" in page.text
    assert "the targets: 72,642 parameters (limit ≤ 145,284) and 2,706,240 multiply-adds (limit ≤ 5,412,480)" in page.text
    assert "share of 10,000 networks within 2 % of both targets at once" in page.text
    assert "Shown are the first 50 of each" in page.text
    assert "A thick frame marks a vital block" in page.text
    assert "vital blocks fixed" in page.svg_words
    assert {row[0] for row in page.rows["times"]} == {
        "train1 vital blocks", "proposals", "train2 the other blocks", "final training the chosen network", "Total"
    }  # fmt: skip
    ids = [a["id"] for _, a in page.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    assert len(page.figures) == 3 + 2  # temperatures, and two trainings
    assert not re.findall(r"#[0-9a-fA-F]{6}", " ".join(a.get("style", "") for _, a in page.attributes))


def test_every_proposal_is_a_row(tmp_path: Path, value: dict[str, Any]) -> None:
    proposals = value["details"]["proposals"]
    known = [(row["options"], 60_000 + i, 2_000_000 + i, 0.11 + i / 100) for i, row in enumerate(proposals)]
    runs.write_candidates(tmp_path, known[:2])  # the chosen one is in the result; of the last nothing is known
    chosen = value["chosen"]
    _, *rows = made(tmp_path, value).rows["front"]
    assert [row[0] for row in rows] == ["1", "2", "3 chosen", "4"]
    assert [row[2] for row in rows] == ["2.0 %", "8.0 %", "87.6 %", "2.4 %"]
    assert [row[3] for row in rows] == ["none", "1 layer", "2 layers", "3 layers"]
    assert [row[1] for row in rows] == [f"{100 * p['val_accuracy']:.2f} %" for p in proposals]
    predicted, measured = (f"{chosen['latency_ms'][kind]:.3f} ms" for kind in ("predicted", "measured"))
    assert [row[4] for row in rows] == ["0.110 ms", "0.120 ms", predicted, "–"]
    assert [row[5] for row in rows] == ["–", "–", measured, "–"]
    assert [row[6] for row in rows] == ["60,000", "60,001", f"{chosen['params']:,}", "–"]
    assert [row[7] for row in rows] == ["2,000,000", "2,000,001", f"{chosen['macs']:,}", "–"]
    for row, proposal in zip(rows, proposals, strict=True):
        counted = [word.split("×") if "×" in word else ["1", word] for word in row[8].split()]
        assert [option for n, option in counted for _ in range(int(n))] == proposal["options"]
    (tmp_path / "candidates.sqlite").write_text("damaged")
    _, *rows = made(tmp_path, value).rows["front"]
    assert [row[6] for row in rows] == ["–", "–", f"{chosen['params']:,}", "–"]


def test_vital_probabilities_are_numbers_and_the_fixed_are_framed(tmp_path: Path, value: dict[str, Any]) -> None:
    page = made(tmp_path, value)
    head, *rows = page.rows["heat"]
    assert head[1:] == list(VITAL)  # not the skipped ones beside them
    for option, *numbers in rows:
        shares = [value["stages"][0]["sites"][site].get(option) for site in VITAL]
        assert numbers == ["" if p is None else f"{100 * p:.0f}" for p in shares]
    assert len([a for tag, a in page.attributes if tag == "td" and "kept" in a.get("class", "")]) == len(VITAL)


def test_a_vital_block_that_gave_way_to_the_limits_is_named(value: dict[str, Any]) -> None:
    assert hournas.changed_vital(value) == []
    changed = copy.deepcopy(value)
    stage = changed["stages"][0]
    p = stage["sites"]["stage3.block1"]
    stage["kept"]["stage3.block1"] = [min(p, key=p.__getitem__)]
    assert hournas.changed_vital(changed) == ["stage3.block1"]
    assert "no network would meet the limits: see stage3.block1" in sections(changed)
    assert "to meet the limits, not the most probable operation in stage3.block1" in hournas.words(changed)


def test_points_lie_where_the_costs_are(value: dict[str, Any]) -> None:
    """Pixel distances of the first panel's points are in the ratio of their costs; every temperature has its own panel."""
    spread = value["details"]["spread"]
    panels = hournas.spread(spread)
    assert [title.replace("\xa0", " ") for title, _ in panels] == ["τ = 1: 0.5 %", "τ = 0.1: 28.4 %", "τ = 0.01: 95.1 %"]
    for (_, svg), drawn in zip(panels, spread, strict=True):
        found = re.findall(r'<use href="#spread-[\w-]+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--blue\)', svg)
        points = np.array(found, dtype=float)
        costs = np.array([drawn["relative"]["params"], [-c for c in drawn["relative"]["macs"]]]).T
        for pixels, values in zip(points.T, costs.T, strict=True):
            slope, start = np.polyfit(values, pixels, 1)
            assert slope > 0
            np.testing.assert_allclose(start + slope * values, pixels, atol=0.05)
        assert {"Parameters (%)", "Multiply-adds (%)"} <= set(texts(svg))


@pytest.mark.parametrize(("metrics", "panels"), [(("latency_ms",), 1), (("params", "macs", "latency_ms"), 3)])
def test_one_target_has_a_histogram_and_three_are_pairs(metrics: tuple[str, ...], panels: int) -> None:
    value = runs.hournas(tiny(), VITAL, metrics)
    drawn = hournas.spread(value["details"]["spread"])
    assert len(drawn) == 3 * panels
    points = [len(re.findall(r'<use href="[^"]*" x="[\d.]+" y="[\d.]+" style="fill: var\(--blue\)', svg)) for _, svg in drawn]
    assert points == [0 if panels == 1 else 50] * len(drawn)
    target = "in percent of the target: 0.125 ms latency" if panels == 1 else "of all targets at once"
    assert target in sections(value).replace("\xa0", " ")


def test_bars_are_how_often_a_cost_was_drawn() -> None:
    found = runs.hournas(tiny(), VITAL, ("latency_ms",))["details"]["spread"]
    for (_, svg), drawn in zip(hournas.spread(found), found, strict=True):
        corners = r"M ([\d.]+) ([\d.]+) \nL ([\d.]+) [\d.]+ \nL [\d.]+ ([\d.]+)"
        bars = re.findall(rf'd="{corners}[^"]*"[^>]*style="fill: var\(--blue\)', svg)
        assert len({round(float(right) - float(left), 3) for left, _, right, _ in bars}) == 1  # of one width
        heights = np.array([float(bottom) - float(top) for _, bottom, _, top in bars])
        costs = np.array([c for s in found for c in s["relative"]["latency_ms"]] + [0.9, 1.1]) * 100
        low, high = costs.min() - 0.04 * np.ptp(costs), costs.max() + 0.04 * np.ptp(costs)
        counts = [0] * len(bars)
        for c in drawn["relative"]["latency_ms"]:
            counts[int((100 * c - low) / 2)] += 1
        assert high - low <= 2 * len(bars) < high - low + 2
        np.testing.assert_allclose(heights / heights.sum(), np.array(counts) / sum(counts), atol=1e-3)


def test_the_vital_blocks_have_thick_frames(value: dict[str, Any]) -> None:
    blocks, _ = figures.blocks_of(value)
    inner = ["stage2", "stage3", "stage4"]
    assert [b.group for b in blocks if b.vital] == ["stem", *inner, "head", "classes"]
    assert figures.network(value).count(" vital\"") == 6
    assert "A thick frame marks a vital block." in figures.network(value)
    unknown = {**value, "space": {"name": "mine", "arguments": {}}}
    assert [b.notes for b in figures.blocks_of(unknown)[0] if b.vital] == [(name,) for name in VITAL]
    plain = {**value, "details": {}}
    assert not any(b.vital for b in figures.blocks_of(plain)[0])
    assert "vital" not in figures.network(plain)


def test_without_a_search_of_the_vital_blocks(tmp_path: Path) -> None:
    value = runs.hournas(tiny(), VITAL, ("macs",), searched=False)
    page = made(tmp_path, value)
    assert headings(tmp_path) == SECTIONS
    assert "They were searched together with the others." in page.text
    assert "The search went through the 200,000 architectures of the space tiny in 4 proposals." in page.text
    assert "train1 all blocks" in {row[0] for row in page.rows["times"]}
    assert "heat" not in page.rows  # no probabilities
    none = runs.hournas(tiny(), (), ("macs",), searched=False)
    assert "in this space only stem and head are" in sections(none)
    assert hournas.words(none)[0].endswith("none but stem and head")


def test_lines_for_the_terminal(value: dict[str, Any]) -> None:
    sites = value["chosen"]["sites"]
    lines, rows = summary(value)
    assert f"vital blocks, which every path from input to output takes: {', '.join(f'{s} {sites[s]}' for s in VITAL)}" in lines
    best = "proposal 3 of 4 is the best, weight 88%; its most probable network "
    assert f"{best}had to be changed in 2 of 8 layers to meet the limits" in lines
    assert not any("Pareto" in line for line in lines)
    assert rows[1][:2] == ["params", "params <= 145284"]
    free = copy.deepcopy(value)
    free["details"]["proposals"][2]["moved"] = 0
    assert hournas.words(free)[-1].endswith("its most probable network meets the limits as it is")


# -- reset blocks ------------------------------------------------------------------------------------------------------


BLOCKS = {"stem": True, "stage1.block1": False, "stage2.block1": True}


def test_bars_are_as_long_as_what_is_lost() -> None:
    svg = hournas.reset(runs.reset(BLOCKS))
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: var\(--blue\)', svg)
    lengths = np.array(bars, dtype=float) @ [-1, 1]
    lost = np.array([10, 30, 80, 0, 0, 1, 10, 30, 80])
    np.testing.assert_allclose(lengths / lengths[2], lost / 80, atol=1e-3)
    assert [t.strip() for t in texts(svg) if "block" in t or "stem" in t] == ["stem  ●", "stage1.block1", "stage2.block1  ●"]
    assert {"p = 0.3", "p = 0.6", "p = 1"} <= set(texts(svg))
    assert "stem (vital): 10.0, 30.0, 80.0 points. stage1.block1: 0.0, 0.0, 1.0 points." in svg
    line = r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip-path="[^"]*" style="[^"]*stroke: var\(--ink\)'
    assert len([x for x, y, to, level in re.findall(line, svg) if x != to and y == level]) == 2 * 2 + 1  # where draws differ


def test_the_page_shows_reset_blocks(tmp_path: Path, value: dict[str, Any]) -> None:
    runs.write(tmp_path, value, runs.events(PHASES))
    (tmp_path / "vital.json").write_text(json.dumps(runs.reset(BLOCKS)))
    page = Page(runs.report(tmp_path))
    assert headings(tmp_path) == [*SECTIONS[:5], "What each block is worth", *SECTIONS[5:]]
    assert "on 359 test images (90.00 % with all blocks), the thin lines the least and the most over 2 draws." in page.text
    (tmp_path / "vital.json").write_text("{")
    with pytest.raises(RunError, match=r"vital\.json is damaged .*delete it, and `hiernas vital .* --reset` writes it again"):
        runs.report(tmp_path)


def test_other_methods_show_them_too(tmp_path: Path) -> None:
    runs.write(tmp_path, runs.result(tiny(), members=2), runs.events(PHASES))
    (tmp_path / "vital.json").write_text(json.dumps(runs.reset(BLOCKS)))
    runs.report(tmp_path)
    assert "What each block is worth" in headings(tmp_path)
    assert "Pareto front" in headings(tmp_path)


def test_a_picture_of_its_own() -> None:
    picture = kit.alone(hournas.reset(runs.reset(BLOCKS)))
    named = set(re.findall(r"var\((--[\w-]+)\)", picture))
    assert named <= set(re.findall(r"(--[\w-]+):", picture))  # every colour has its value in the file
    assert picture.count("<svg") == picture.count("</svg>") == 1
    assert "http" not in picture.replace("http://www.w3.org/", "")

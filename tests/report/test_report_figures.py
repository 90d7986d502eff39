"""What the figures draw, against the values they draw it from."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_runs as runs

from hiernas.networks.ops import MBConv
from hiernas.report import figures, kit, units
from hiernas.report.kit import Told, probabilities
from hiernas.spaces import Stage, chain_space, nasbench_macro, tiny


def front(value: dict[str, Any]) -> str:
    return figures.front_figure(value["front"], value, figures._metric(value))


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_front_points_lie_where_the_values_say() -> None:
    """Pixel distances between the markers are in the ratio of the values."""
    value = runs.result(tiny(), members=5)
    svg = front(value)
    markers = re.findall(r'<use href="#front-\w+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--blue\)', svg)
    points = np.array(markers, dtype=float)[:5]
    expected = np.array([[m["latency_ms"]["predicted"], -m["val_accuracy"]] for m in value["front"]])
    for axis in (0, 1):
        pixels, values = points[:, axis], expected[:, axis]
        np.testing.assert_allclose(
            (pixels - pixels[0]) / (pixels[-1] - pixels[0]), (values - values[0]) / (values[-1] - values[0]), atol=1e-4
        )


def test_front_takes_another_axis_where_latency_is_missing() -> None:
    value = runs.result(tiny(), members=3)
    assert figures._metric(value) == "latency_ms"
    value["front"][1]["latency_ms"]["predicted"] = None
    assert figures._metric(value) == "macs"
    assert "Multiply-adds (thousands)" in texts(front(value))
    value["objective"] = "params"
    assert "Parameters (thousands)" in texts(front(value))


@pytest.mark.parametrize(("low", "high", "shown"), [(0.05, 0.13, 2), (None, 0.12, 1), (None, 99.0, 0), (None, None, 0)])
def test_limits_within_reach_are_shaded(low: float | None, high: float | None, shown: int) -> None:
    value = runs.result(tiny())
    value["limits"] = [{"metric": "latency_ms", "low": low, "high": high, "text": ""}]
    svg = front(value)
    assert len([t for t in texts(svg) if t.startswith("limit")]) == shown
    grounds = re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--muted\); opacity: 0.14', svg)
    lines = re.findall(r'<path d="M ([\d.]+) [^"]*"[^>]*stroke-dasharray[^>]*stroke: var\(--ink\)', svg)
    assert len(grounds) == len(lines) == shown
    sides = [side for side, bound in ((min, high), (max, low)) if bound is not None][:shown]
    for side in sides:  # the line is where the ground begins: its left edge for an upper bound
        edges = [side(float(x) for x in re.findall(r"[ML] (-?[\d.]+)", ground)) for ground in grounds]
        assert any(edge == pytest.approx(float(line)) for edge in edges for line in lines)


def test_every_probability_is_a_cell() -> None:
    value = runs.result(tiny())
    for s in value["stages"]:
        sites = list(s["sites"])
        markup = probabilities(s, sites, stages=value["stages"])
        rows = dict(re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', markup, flags=re.DOTALL))
        assert list(rows)[-1] == "skip"
        for option, row in rows.items():
            cells = re.findall(r"<td([^>]*)>(.*?)</td>", row)
            for site, (shown, text) in zip(sites, cells, strict=True):
                p = s["sites"][site].get(option)
                if p is None:
                    assert (shown, text) == ("", "")
                else:
                    assert f"--p:{100 * p:.1f}%" in shown
                    assert text == (f"<i>{100 * p:.0f}</i>" if option in s["kept"][site] else "<s>×</s>")


def test_curves_of_phases_in_order_and_last_word() -> None:
    def epoch(phase: str, number: int, accuracy: float) -> dict[str, Any]:
        return {"event": "epoch", "phase": phase, "epoch": number, "val_accuracy": accuracy, "train_accuracy": None}

    log = [epoch("train1", 1, 0.1), epoch("train1", 2, 0.2), {"event": "generation", "phase": "evolve2"}]
    log += [epoch("train2", 1, 0.9), epoch("train2", 1, 0.3), epoch("final", 1, 0.5), epoch("final", 1, 0.6)]
    supernet, final = figures.curves_of(log)
    accuracies = [(c[0]["phase"], [e["val_accuracy"] for e in c]) for c in supernet]
    assert accuracies == [("train1", [0.1, 0.2]), ("train2", [0.3])]
    assert [[e["val_accuracy"] for e in c] for c in final] == [[0.6]]
    svg = figures.training(log, Told("", marks=["pruned to 1,234"]))
    assert "pruned to 1,234" in texts(svg)
    assert "training" not in texts(svg)  # no such values
    assert "Chosen network over 1 epoch: validation from 60.00 to 60.00." in svg
    assert figures.training([], Told("")) == ""


def test_phases_of_one_epoch_are_points() -> None:
    """A line through a single point shows nothing, nor do lines of one point each where nothing joins them."""
    phases = [[{"train_accuracy": 0.5, "val_accuracy": 0.4}], [{"train_accuracy": 0.6, "val_accuracy": 0.7}]]
    dashed = figures.Line("train_accuracy", "training", "--", kit.ORANGE)
    solid = figures.Line("val_accuracy", "validation", "-", kit.BLUE)
    for curves, points in ((phases[:1], 1), (phases, 2)):
        svg = figures.by_epoch("One", curves, [dashed, solid])
        for colour in ("orange", "blue"):
            found = re.findall(rf"<use [^>]*fill: var\(--{colour}\)", svg)
            assert len(found) == points + 1  # and one in the legend


def blocks(space: Any, options: list[str]) -> tuple[list[figures.Block], bool]:
    sites = dict(zip((d.name for d in space.decisions), options, strict=True))
    described = {"name": space.name, "arguments": dict(space.skeleton.arguments)}
    return figures.blocks_of({"space": described, "chosen": {"sites": sites}})


def test_network_is_drawn_with_the_sizes_it_has() -> None:
    """Channels and resolution against the activations of the network itself."""
    import torch

    space = nasbench_macro()
    options = ["skip", "k3_e3", "k5_e6", "skip", "k3_e3", "skip", "skip", "k5_e6"]
    found, chain = blocks(space, options)
    x, sizes = torch.zeros(2, 3, 32, 32), []
    for layer in list(space.architecture(options).build().children())[:-1]:
        x = layer(x)
        sizes.append((f"{x.shape[1]} ch", f"{x.shape[2]}×{x.shape[3]}"))
    assert chain
    assert [b.notes[1:] for b in found[1:-2]] == sizes
    assert [b.label for b in found[2:-2]] == ["1×1", "3×3\ne3", "5×5\ne6", "skip", "3×3\ne3", "1×1", "skip", "5×5\ne6"]
    assert [b.stride for b in found[2:-2]] == [2, 1, 2, 1, 1, 2, 1, 1]
    assert [b.identity for b in found[2:-2]].index(True) == 3
    assert found[-1].notes == ("classes", "10")


def test_a_block_of_several_operations_has_its_place_in_the_chain() -> None:
    space = tiny()
    sites: dict[str, Any] = dict.fromkeys((d.name for d in space.decisions), "k3_e3")
    sites["stage1.block2"] = {"k3_e3": 0.6, "skip": 0.4}
    described = {"name": space.name, "arguments": dict(space.skeleton.arguments)}
    found, chain = figures.blocks_of({"space": described, "chosen": {"sites": sites}})
    assert chain
    assert [b.label for b in found[2:5]] == ["3×3\ne3", "k3_e3\nskip", "3×3\ne3"]
    assert found[3].notes == found[2].notes
    markup = figures.network({"space": described, "chosen": {"sites": sites}})
    drawn = re.findall(r'<div class="block (\w+)[^"]*" style="--p:(\d+)%', markup)
    assert drawn[1:4] == [("plain", "0"), ("searched", "15"), ("searched", "0")]


def test_unknown_spaces_are_drawn_by_their_options() -> None:
    stage = Stage(8, 2, 1, (MBConv(3, 1, se=True),), skip=True)
    mine = chain_space("mine", (3, 8, 8), 2, stem=8, stages=[stage], head=8)
    found, chain = blocks(mine, ["k3_e1_se", "skip"])
    assert not chain
    assert [(b.label, b.kernel, b.identity, b.notes) for b in found] == [
        ("3×3\ne1\nse", 3, False, ("stage1.block1",)),
        ("skip", 0, True, ("stage1.block2",)),
    ]
    several = {"space": {"name": "x", "arguments": {}}, "chosen": {"sites": {"a": {"conv": 0.6, "<pool>": 0.4}}}}
    assert figures.blocks_of(several)[0][0].label == "conv\n<pool>"
    assert "conv\n&lt;pool&gt;</div>" in figures.network(several)
    assert "The operation chosen at each site" in figures.network(several)
    assert "A frame with several operations holds their weighted sum." in figures.network(several)
    changed = {"space": {"name": "tiny", "arguments": {"colour": 1}}, "chosen": {"sites": {"a": "skip"}}}
    assert not figures.blocks_of(changed)[1]
    assert figures.network({"space": {"name": "x", "arguments": {}}, "chosen": {"sites": {}}}) == ""


def test_blocks_stand_in_stages_and_their_sizes_say_what_they_are() -> None:
    space = tiny()
    sites = dict(zip((d.name for d in space.decisions), ["k3_e3", "skip", "k5_e6", "skip", *["k5_e3"] * 4], strict=True))
    described = {"name": space.name, "arguments": dict(space.skeleton.arguments)}
    markup = figures.network({"space": described, "chosen": {"sites": sites}})
    assert "An image passes the blocks from left to right." in markup
    groups = markup.split('<div class="group">')[1:]
    assert [group.count('<div class="block ') for group in groups] == [1, 1, 2, 2, 2, 2, 1, 1]
    assert [re.findall(r"<span>([^<]*)</span>", group)[0] for group in groups] == [
        "input", "stem", "stage1", "stage2", "stage3", "stage4", "head", "classes"
    ]  # fmt: skip
    drawn = [found.split() for found in re.findall(r'<div class="block ([^"]*)"', markup)]
    assert [kind for kind, *_ in drawn[2:5]] == ["searched", "identity", "searched"]
    widths, heights = (
        [int(n) for n in re.findall(pattern, "".join(groups[2:5]))] for pattern in (r"min-width:(\d+)px", r";height:(\d+)px")
    )
    assert widths[0] < widths[2] == widths[4]  # by the kernel
    assert heights[0] == heights[4] < heights[2]  # by the expansion
    alt = re.search(r'aria-label="([^"]*)"', markup)
    assert alt is not None
    assert alt[1].startswith("The chosen network: stem conv 3×3, stage1 3×3 e3, stage1 skip, stage2 5×5 e6, stage2 skip, ")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (units.milliseconds(0.11), "0.110 ms"),
        (units.milliseconds(0.0712, like=0.13), "0.071 ms"),
        (units.milliseconds(12.345), "12.3 ms"),
        (units.milliseconds(1234.5), "1,234 ms"),
        (units.milliseconds(0.0), "0.000 ms"),
        (units.short(999), "999"),
        (units.short(12_345), "12.3 k"),
        (units.short(999_700), "1.00 M"),
        (units.short(300_774_272), "301 M"),
        (units.size(999_999_999), "999,999,999"),
        (units.size(6 * 10**12), "6.00×10¹²"),
        (units.seconds(99.96), "2 min"),
        (units.seconds(3723), "1 h 02 min"),
        (units.percent(None), "–"),
        (units.compact(["a", "a", "b", "a"]), "2×a b a"),
    ],
)
def test_numbers_as_written(written: str, expected: str) -> None:
    assert written.replace("\xa0", " ") == expected


def test_wilson_interval() -> None:
    """Newcombe 1998, table I: 81 of 263, Wilson's score interval 0.2553 to 0.3662; none of 20: 0 to 0.1611."""
    assert units.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert units.wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_networks_that_were_evaluated_with_the_weights_of_the_front_stand_around_it(tmp_path: Path) -> None:
    value = runs.result(tiny(), members=3)
    front = value["front"]
    folder = runs.write(tmp_path / "r", value, [])
    runs.write_candidates(folder, [(m["options"], 9, 9, 0.1) for m in front])  # with those of an earlier supernet
    without = runs.Page(runs.report(folder))
    with closing(sqlite3.connect(folder / "candidates.sqlite")) as db, db:
        rows = [("evolve4", ",".join(m["options"]), m["val_accuracy"], 9, 9, m["latency_ms"]["predicted"]) for m in front]
        rows += [("evolve4", f"o{i}", 0.5 + i / 100, 9, 9, 0.08 + i / 1000) for i in range(40)]
        db.executemany("INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?)", rows)
    run = kit.Run(folder, value, [])
    assert len(figures.cloud(run)) == 43
    page = runs.Page(runs.report(folder))
    assert "others that were evaluated with the same weights" in page.text
    assert "evaluated" in page.svg_words
    drawn, before = (sum(tag == "use" for tag, _ in p.attributes) for p in (page, without))
    assert drawn - before >= 20  # the better half, at least
    assert "evaluated" not in without.svg_words

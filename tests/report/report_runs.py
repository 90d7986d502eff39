"""Run folders for the report's tests, as a search writes them, and their pages, read as a browser would."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from hiernas.report.page import write_report
from hiernas.run.folder import RunFolder
from hiernas.space import SearchSpace
from hiernas.spaces import tiny

Entry = dict[str, Any]
VOID = {"meta", "img", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """What is on a page: text by section, tables as rows of cells, the attributes of every element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.rows: dict[str, list[list[str]]] = {}  # by the table's class
        self.words: list[str] = []
        self.svg_words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []  # every element was closed, in order

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {k: v or "" for k, v in attrs}
        self.attributes.append((tag, values))
        if tag not in VOID or "svg" in self.open:
            self.open.append(tag)
        if tag == "table":
            self.table = self.rows.setdefault(values["class"], [])
        if tag == "tr":
            self.table.append([])
        if tag in ("td", "th"):
            self.table[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "script" in self.open:
            return
        (self.svg_words if "svg" in self.open else self.words).append(data)
        if "table" in self.open and ("td" in self.open or "th" in self.open):
            self.table[-1][-1] += data.replace("\xa0", " ")

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\xa0", " ").split())

    @property
    def figures(self) -> list[dict[str, str]]:
        return [a for tag, a in self.attributes if tag == "svg"]


def stage(number: int, space: SearchSpace, rng: np.random.Generator) -> tuple[Entry, SearchSpace]:
    """Random probabilities per site, the options of 10 % or more kept, and the space that remains."""
    sites, kept = {}, {}
    for d in space.decisions:
        p = rng.dirichlet(np.full(len(d.options), 0.5)).round(2)
        sites[d.name] = dict(zip(d.options, map(float, p), strict=True))
        best = max(sites[d.name], key=lambda o, site=d.name: sites[site][o])
        kept[d.name] = [o for o, q in sites[d.name].items() if q >= 0.1] or [best]
    smaller = space.restrict(kept)
    entry = {"stage": number, "sites": sites, "kept": kept, "size_before": space.size(), "size_after": smaller.size()}
    return entry, smaller


def member(
    options: Iterable[str], accuracy: float, macs: int, predicted: float | None, measured: float | None
) -> Entry:
    """A network of the front."""
    near = measured is not None
    return {
        "options": list(options),
        "val_accuracy": accuracy,
        "params": macs // 9,
        "macs": macs,
        "latency_ms": {
            "predicted": predicted,
            "measured": measured,
            "p10": round(measured * 0.96, 6) if near else None,
            "p90": round(measured * 1.08, 6) if near else None,
        },
    }


def result(space: SearchSpace, *, members: int = 7, stages: int = 2, latency: bool = True, ms: float = 0.1) -> Entry:
    """A result of HNAS on a space; `ms` is the latency of the middle of the front."""
    rng = np.random.default_rng(4)
    found, smaller = [], space
    for i in range(stages):
        entry, smaller = stage(i + 2, smaller, rng)
        found.append(entry)
    front = []
    for i in range(members):
        t = ms * (0.7 + 0.6 * i / max(1, members - 1))
        real = float(t * rng.uniform(0.95, 1.06)) if i % 2 == 0 else None
        times = (t, real) if latency else (None, None)
        accuracy = round(0.985 - 0.12 / (i + 1.5), 4)
        front.append(member(smaller.sample(rng).options, accuracy, 123_456 + 45_678 * i, *times))
    best = max(0, members - 2)
    names = [d.name for d in space.decisions]
    chosen = {
        **front[best],
        "test_accuracy": 0.9889,
        "sites": dict(zip(names, front[best]["options"], strict=True)),
    }
    if latency:
        t = round(1.02 * chosen["latency_ms"]["predicted"], 6)
        chosen["latency_ms"] = {**chosen["latency_ms"], "measured": t, "p10": 0.99 * t, "p90": 1.06 * t}
    limit = round(1.27 * ms, 3)
    device = {"device": "Xeon at 2.5 GHz", "runtime": "onnxruntime", "version": "1.31.1", "threads": 1, "batch": 1}
    seconds = {"latency": 14.2, "train1": 31.0, "evolve2": 10.0, "train2": 12.5, "evolve3": 8.1, "train3": 9.0}
    limits = [{"metric": "latency_ms", "low": None, "high": limit, "text": f"latency_ms <= {limit}"}]
    return {
        "format": 1, "hiernas": "0.1.0", "method": "hnas", "preset": "quick", "seed": 0,
        "space": {"name": space.name, "arguments": dict(space.skeleton.arguments), "size": space.size()},
        "data": {
            "name": "digits", "classes": [str(i) for i in range(10)], "train": 1150, "val": 287, "test": 360,
            "input_size": list(space.skeleton.input_size),
            "notes": ["3 images are in both the training and the test part"],
        },
        "objective": "latency_ms" if latency else "macs",
        "limits": limits if latency else [],
        "device": device if latency else None,
        "front": front,
        "chosen": chosen,
        "latency_error": {"mean_absolute_percent": 4.1, "bias_percent": -1.0, "networks": 9} if latency else None,
        "evaluated": 412,
        "stages": found,
        "outputs": {"onnx": {"file": "best.onnx", "largest_difference": 1e-7}},
        "seconds": {**seconds, "evolve4": 9.9, "final": 61.4},
    }  # fmt: skip


def events(phases: Mapping[str, int]) -> list[Entry]:
    """Epoch events of these phases; validation accuracy is taken every second epoch of the supernet's phases."""
    lines: list[Entry] = []
    done = 0
    for phase, epochs in phases.items():
        for epoch in range(1, epochs + 1):
            done = epoch if phase == "final" else done + 1
            train = round(0.98 - 0.8 / (1 + 0.4 * done), 4)
            val = round(train - 0.02, 4) if phase == "final" or epoch % 2 == 0 else None
            lines.append({
                "time": f"2026-11-22T06:{len(lines) // 60:02d}:{len(lines) % 60:02d}",
                "event": "epoch", "phase": phase, "epoch": epoch, "epochs": epochs,
                "loss": round(2 / done, 3), "train_accuracy": train, "val_accuracy": val, "lr": 0.4,
            })  # fmt: skip
        if phase != "final":
            lines.append({"time": "2026-11-22T06:09:00", "event": "generation", "phase": "evolve2", "generation": 1,
                          "generations": 8, "best": 0.93, "evaluated": 12})  # fmt: skip
    return lines


def write(folder: Path, value: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> Path:
    """The run folder of a result and its events."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(value))
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def report(folder: Path) -> Path:
    """Write the page of a folder whose files were written by hand."""
    return write_report(RunFolder(folder, {}))


# -- HourNAS ---------------------------------------------------------------------------------------------------------


def hournas(space: SearchSpace, vital: Sequence[str], metrics: Sequence[str], *, searched: bool = True) -> Entry:
    """A result of HourNAS: these vital blocks, these targets; the third of its proposals is the best."""
    value, rng = result(space, members=2, stages=0), np.random.default_rng(9)
    shares, kept = {}, {}
    for d in space.decisions:
        options = d.options if d.name in vital else ("skip",)
        p = rng.dirichlet(np.full(len(options), 0.5)).round(3)
        shares[d.name] = dict(zip(options, map(float, p), strict=True))
        kept[d.name] = [max(shares[d.name], key=lambda o, site=d.name: shares[site][o])] if d.name in vital else list(d.options)
    fixed = space.restrict(kept)
    pruning = {"stage": 2, "size_before": space.size(), "size_after": fixed.size(), "kept": kept, "sites": shares}
    rows = [
        {"weight": w, "options": list(fixed.sample(rng).options), "val_accuracy": round(0.9 + w / 20, 4), "moved": i}
        for i, w in enumerate([0.02, 0.08, 0.8765, 0.0235])
    ]
    aims = {"params": 72_642.0, "macs": 2_706_240.0, "latency_ms": 0.125}
    spread = [
        {
            "tau": tau, "within": within, "samples": 10_000,
            "relative": {m: (1 + tau * rng.standard_normal(50)).round(4).tolist() for m in metrics},
        }
        for tau, within in ((1.0, 0.0046), (0.1, 0.284), (0.01, 0.951))
    ]  # fmt: skip
    best = rows[2]
    chosen = {**value["chosen"], "options": best["options"], "val_accuracy": best["val_accuracy"]}
    chosen["sites"] = dict(zip(shares, best["options"], strict=True))
    details = {"vital": list(vital), "aims": {m: aims[m] for m in metrics}, "proposals": rows, "best": 2, "spread": spread}
    limits = [{"metric": m, "low": None, "high": 2 * aims[m], "text": f"{m} <= {2 * aims[m]:g}"} for m in metrics]
    return {
        **value, "method": "hournas", "chosen": chosen, "stages": [pruning] if searched else [], "details": details,
        "limits": limits, "evaluated": len(rows), "seconds": {"train1": 3.5, "proposals": 0.5, "train2": 9.0, "final": 7.0},
    }  # fmt: skip


def write_candidates(folder: Path, rows: Iterable[tuple[Sequence[str], int, int, float | None]]) -> None:
    """The run's file of evaluated networks: options, params, macs and latency."""
    with sqlite3.connect(folder / "candidates.sqlite") as db:
        db.execute("CREATE TABLE candidates (phase, options TEXT, val_accuracy REAL, params INT, macs INT, latency_ms REAL)")
        values = [(",".join(o), p, m, t) for o, p, m, t in rows]
        db.executemany("INSERT INTO candidates VALUES ('evolve2', ?, 0.5, ?, ?, ?)", values)
    db.close()


def reset(names: Mapping[str, bool]) -> Entry:
    """What `hiernas vital --reset` found: a vital block loses 10, 30 and 80 points, any other 0, 0 and 1."""
    blocks = []
    for name, vital in names.items():
        lost = [[0.05, 0.15], [0.2, 0.4], [0.8]] if vital else [[0.01, -0.01], [0.0, 0.0], [0.01]]
        kind = "whole output" if vital else "residual branch"
        accuracies = [[round(0.9 - x, 6) for x in each] for each in lost]
        blocks.append({"name": name, "vital": vital, "params": 1, "macs": 1, "reset": kind, "accuracies": accuracies})
    return {
        "format": 1, "accuracy": 0.9, "images": 359, "seed": 0, "draws": 2, "probabilities": [0.3, 0.6, 1.0], "blocks": blocks,
    }  # fmt: skip


# -- cells -----------------------------------------------------------------------------------------------------------


def cells(method: str, architecture: Any, *, moved: Sequence[str] = (), **details: Any) -> Entry:
    """A result of a search in cells: one network, the weights that it was chosen by, and what the limits moved."""
    value, rng = result(tiny(), members=1, stages=0), np.random.default_rng(2)
    written = architecture.to_json()
    space = architecture.skeleton.space()
    weights = {d.name: dict(zip(d.options, rng.dirichlet(np.ones(len(d.options))).round(4).tolist(), strict=True))
               for d in space.decisions}  # fmt: skip
    chosen = {**value["chosen"], "sites": written["sites"], "options": [str(o) for o in written["sites"].values()]}
    return {
        **value, "method": method, "chosen": chosen, "front": [{**value["front"][0], "options": chosen["options"]}],
        "space": {"name": written["space"], "arguments": written["arguments"], "size": space.size()}, "evaluated": 1,
        "details": {"decided": {"train1": DECIDED}, "moved": list(moved), "weights": weights, **details},
        "seconds": {"train1": 3.5, "evolve2": 0.5, "final": 7.0},
    }  # fmt: skip


DECIDED = {"what": "cells", "decided": True}
LEVELS = {"train1": DECIDED, "train2": {**DECIDED, "what": "numbers"}, "train3": {**DECIDED, "what": "graphs"}}


def search_events(phases: Mapping[str, int], alarms: Mapping[str, Sequence[int]] | None = None) -> list[Entry]:
    """Events as `events` makes them, with what a search by gradients says of each epoch."""
    lines = []
    for line in events(phases):
        if line["event"] == "epoch" and line["phase"] != "final":
            share = line["epoch"] / line["epochs"]
            alarm = f"{share:.0%} collapsed <so>" if line["epoch"] in (alarms or {}).get(line["phase"], ()) else None
            found = {"entropy": round(2.08 - share, 3), "skips": round(0.8 * share, 3), "none": 0.125, "alarm": alarm}
            line = {**line, "val_accuracy": None, **found}
        if line["event"] == "epoch":
            lines.append(line)
    return lines

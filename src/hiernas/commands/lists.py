"""`hiernas list`: what there is, without loading it.

What has to be counted or imported stands in lists.json, which a test holds against what there is and writes anew.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from hiernas.commands import Table
from hiernas.errors import HiernasError, RunError, one_of
from hiernas.methods import FILES
from hiernas.names import PRESETS, RUNTIMES

MODULES = {  # that are not named as the runtime
    "litert": ("ai_edge_litert", "litert_torch"), "onnxruntime-int8": ("onnxruntime",), "torch_compiled": ("torch",),
}  # fmt: skip
DATA = [
    ["digits", "1,797 grey images of 8x8 pixels in 10 classes, from scikit-learn"],
    ["FOLDER", "class folders of images, or train/val/test folders that hold them"],
    ["FOLDER", "IDX files, gzipped or not, as MNIST and Fashion-MNIST come"],
    ["FOLDER", "parquet files with an image and a label column (needs hiernas[hub])"],
    ["hf:NAME", "a data set of the Hugging Face hub (needs hiernas[hub])"],
]


def listing(kind: str, of: str = "") -> Table:
    """What `hiernas list KIND` shows; `of`: the folder of runs, or the method of presets."""
    methods = [[name, words] for name, (_, words) in FILES.items()]
    lists: dict[str, tuple[Callable[[], Table], str]] = {
        "methods": (lambda: (["method", ""], methods, []), "searches, and the controls that they are held against"),
        "spaces": (partial(_written, "spaces"), "what is searched, with sizes and costs"),
        "networks": (partial(_written, "networks"), "published ones, with their costs"),
        "recipes": (partial(_written, "recipes"), "published trainings, for `hiernas train`"),
        "data": (lambda: (["--data", ""], DATA, []), "what --data takes"),
        "runtimes": (_runtimes, "what measures latency, and whether it is installed"),
        "presets": (partial(_presets, of), "settings of every method, or with their meaning of one: `list presets hnas`"),
        "runs": (partial(_runs, Path(of or "runs")), "run folders in runs, or in a folder: `list runs FOLDER`"),
    }
    if not kind:
        return ["hiernas list", ""], [[name, words] for name, (_, words) in lists.items()], []
    one_of("list", kind, lists)
    return lists[kind][0]()


def to_json(columns: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> dict[str, Any]:
    """A list as it is shown; what is a whole number is one."""
    whole = [[int(cell.replace(",", "")) if re.fullmatch(r"[\d,]*\d", cell) else cell for cell in row] for row in rows]
    return {"columns": columns, "rows": whole, "remarks": [line for line in remarks if line]}


def _runtimes() -> Table:
    rows = []
    for name, words in RUNTIMES.items():
        here = all(importlib.util.find_spec(module) for module in MODULES.get(name, (name,)) if name != "cuda")
        rows.append([name, "where torch sees a GPU" if name == "cuda" else "yes" if here else "no", words])
    return ["runtime", "installed", ""], rows, []


def _runs(folder: Path) -> Table:
    """Every run under a folder: where, what, and how far. What `rank` trained in a run's own folder is part of that run."""
    from hiernas.report import units
    from hiernas.report.page import result_of
    from hiernas.run.folder import RunFolder

    found = []
    runs = {path.parent for path in folder.rglob("config.yaml")}
    for at in sorted(at for at in runs if not runs & {*at.parents}):
        try:
            run = RunFolder.open(at)
            result = result_of(run)
        except HiernasError as error:
            found.append([str(at), "?", "", "", str(error)])
            continue
        limits = " and ".join(x["text"] for x in (result or {}).get("limits", ()))
        state = "not finished" if result is None else units.percent(result["chosen"]["test_accuracy"])
        found.append([str(at), run.config["method"], str(run.config["seed"]), limits, state])
    if not found:
        raise RunError(f"there is no run under {folder}; name the folder that holds them: hiernas list runs FOLDER")
    return ["run", "method", "seed", "limits", "test accuracy"], found, []


def _presets(method: str) -> Table:
    groups = _written("presets")
    if method:
        one_of("method", method, FILES)
        (rows,) = (group["settings"] for group in groups if method in group["methods"])
        shown = [[key, " | ".join(values[:1] if len(set(values)) == 1 else values), said] for key, *values, said in rows]
        return ["setting", " | ".join(PRESETS), "meaning"], shown, []
    every: list[list[str]] = []
    for group in groups:
        every += [[f"[{', '.join(group['methods'])}]", *[""] * len(PRESETS)]]
        every += [row[:-1] for row in group["settings"]]
    return ["setting", *PRESETS], every, []


def _written(kind: str) -> Any:
    return json.loads((files("hiernas.commands") / "lists.json").read_text("utf-8"))[kind]

"""`hiernas list`: what there is. Each list loads what it needs, and most need no more than names."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hiernas.commands import Table
from hiernas.errors import HiernasError, RunError, one_of
from hiernas.methods import FILES, METHODS
from hiernas.names import PRESETS, RUNTIMES, SPACES

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
        "spaces": (_spaces, "what is searched, with sizes and costs"),
        "networks": (_networks, "published ones, with their costs"),
        "recipes": (_recipes, "published trainings, for `hiernas train`"),
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


def _spaces() -> Table:
    import hiernas.spaces
    from hiernas.costs.tables import cost_tables
    from hiernas.report import units

    rows, remarks = [], []
    for name, paper in SPACES.items():
        function = getattr(hiernas.spaces, name)
        space = function()
        tables = cost_tables(space, None)
        spans = [f"{units.short(tables[m].smallest)} to {units.short(tables[m].largest)}" for m in ("params", "macs")]
        options = sorted({len(d.options) for d in space.decisions})
        per_site = str(options[0]) if len(options) == 1 else f"{options[0]} to {options[-1]}"
        rows.append([name, str(len(space.decisions)), per_site, units.size(space.size()), *spans])
        about = function.__doc__.strip().splitlines()[0]
        remarks.append(f"{name} ({paper}; costs for images of {space.skeleton.input_size}): {about}")
    return ["space", "sites", "options", "size", "params", "MACs"], rows, ["", *remarks]


def _networks() -> Table:
    from hiernas.costs.tables import counted, parts_of
    from hiernas.spaces import KNOWN, known

    rows = []
    for name, network in KNOWN.items():
        costs = [counted(part) for part in parts_of(known(name))]
        params, macs = f"{sum(c.params for c in costs):,}", f"{sum(c.macs for c in costs):,}"
        printed = [f"{v:.4g} M" if v is not None else "-" for v in (network.published_params, network.published_macs)]
        rows.append([name, network.space, params, printed[0], macs, printed[1]])
    columns = ["network", "space", "params", "printed", "MACs", "printed"]
    return columns, rows, ["", "`hiernas cost NAME` says where the printed numbers are from and why some of them differ"]


def _recipes() -> Table:
    from hiernas.run.settings import keys
    from hiernas.train.retraining import RECIPES, SCALES

    shown = {name: {"epochs": r.epochs, "lr": r.lr, **keys(r.recipe)} for name, r in RECIPES.items()}
    rows = [[key, *(str(values[key]) for values in shown.values())] for key in next(iter(shown.values()))]
    small = "; ".join(f"--preset {name}: {epochs} epochs, batch {batch}" for name, (epochs, batch) in SCALES.items())
    return ["setting", *shown], rows, ["", f"as published with --preset paper; {small}, learning rate by the batch"]


def _runtimes() -> Table:
    rows = []
    for name, words in RUNTIMES.items():
        here = all(importlib.util.find_spec(module) for module in MODULES.get(name, (name,)) if name != "cuda")
        rows.append([name, "where torch sees a GPU" if name == "cuda" else "yes" if here else "no", words])
    return ["runtime", "installed", ""], rows, []


def _runs(folder: Path) -> Table:
    """Every run under a folder: where, what, and how far."""
    from hiernas.report import units
    from hiernas.report.page import result_of
    from hiernas.run.folder import RunFolder

    found = []
    for path in sorted(folder.rglob("config.yaml")):
        try:
            run = RunFolder.open(path.parent)
            result = result_of(run)
        except HiernasError as error:
            found.append([str(path.parent), "?", "", "", str(error)])
            continue
        limits = " and ".join(x["text"] for x in (result or {}).get("limits", ()))
        state = "not finished" if result is None else units.percent(result["chosen"]["test_accuracy"])
        found.append([str(path.parent), run.config["method"], str(run.config["seed"]), limits, state])
    if not found:
        raise RunError(f"there is no run under {folder}; name the folder that holds them: hiernas list runs FOLDER")
    return ["run", "method", "seed", "limits", "test accuracy"], found, []


def _presets(method: str) -> Table:
    from hiernas.run.settings import keys, meanings

    if method:
        one_of("method", method, FILES)
        configs = METHODS[method].presets.values()
        said, shown = meanings(next(iter(configs))), [keys(config) for config in configs]
        values = {key: [str(v[key]) for v in shown] for key in shown[0]}
        same = {key: texts[:1] if len(set(texts)) == 1 else texts for key, texts in values.items()}
        return ["setting", " | ".join(PRESETS), "meaning"], [[k, " | ".join(v), said.get(k, "")] for k, v in same.items()], []
    rows: list[list[str]] = []
    alike: dict[int, list[str]] = {}  # methods that share their presets
    for name, record in METHODS.items():
        alike.setdefault(id(record.presets), []).append(name)
    for names in alike.values():
        shown = [keys(config) for config in METHODS[names[0]].presets.values()]
        rows += [[f"[{', '.join(names)}]", *[""] * len(shown)]]
        rows += [[key, *(str(values[key]) for values in shown)] for key in shown[0]]
    return ["setting", *PRESETS], rows, []

"""What the commands other than search do, as functions that return what is to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import hiernas.spaces
from hiernas.cli.progress import number, quantity
from hiernas.commands.rank import OWN, Order, Trust
from hiernas.costs.count import cost as count_cost
from hiernas.costs.tables import cost_tables
from hiernas.errors import ConfigError, did_you_mean
from hiernas.latency.runtimes import RUNTIMES
from hiernas.methods import METHODS
from hiernas.methods.hnas import PRESETS
from hiernas.report.page import words
from hiernas.run.settings import keys
from hiernas.spaces import known
from hiernas.train.recipes import RECIPES, SCALES


def summary(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Lines and the asked / predicted / measured rows of a result."""
    chosen = result["chosen"]
    lines = [f"test accuracy {chosen['test_accuracy']:.2%} ({result['data']['name']}, {result['data']['test']} test images)"]
    if "front" not in result:
        return lines, []
    asked = {x["metric"]: x["text"] for x in result["limits"]}
    latency = chosen["latency_ms"]
    rows = [
        ["latency", asked.get("latency_ms", "-"), *(quantity("latency_ms", latency[k]) for k in ("predicted", "measured"))],
        ["params", asked.get("params", "-"), quantity("params", chosen["params"]), quantity("params", chosen["params"])],
        ["MACs", asked.get("macs", "-"), quantity("macs", chosen["macs"]), quantity("macs", chosen["macs"])],
        ["accuracy", "-", f"{chosen['val_accuracy']:.2%} (supernet)", f"{chosen['test_accuracy']:.2%} (test)"],
    ]
    error = result["latency_error"]
    if error:
        lines.append(
            f"latency predicted against measured over {error['networks']} networks: mean absolute error "
            f"{error['mean_absolute_percent']:.1f} %, bias {error['bias_percent']:+.1f} %"
        )
    elif result["device"] and latency["measured"] is None:
        lines.append(f"latency is of {result['device']['device']}; it cannot be measured on this machine")
    return [*lines, *words(result)], rows


def trust_rows(found: Trust) -> dict[str, str]:
    """What `hiernas rank` shows, by name."""
    mean, spread = float(np.mean(found.random)), float(np.std(found.random, ddof=1))
    rows = {
        "chosen": f"{found.chosen:.2%} test accuracy after {found.epochs} epochs",
        "random": f"{mean:.2%} ± {spread:.2%} over {len(found.random)} networks within the same limits",
        "improvement": f"{found.improvement:+.2f} % over random (RI)",
    }
    return rows | {f"supernet, {over}": _order_text(over, order) for over, order in found.orders.items()}


def _order_text(over: str, order: Order | str) -> str:
    if isinstance(order, str):
        return f"{order}; rank again with more --networks (11 in HNAS' paper)" if over == OWN else order
    return (
        f"Kendall's tau {order.tau:.2f} (95 %: {order.low:.2f} to {order.high:.2f}; by chance with probability "
        f"{order.chance:.2g}) between its accuracies and those after training, over {order.networks}"
    )


# -- lists -------------------------------------------------------------------------------------------------------------


Listing = tuple[list[str], list[list[str]], list[str]]  # columns, rows, remarks below


def listing(kind: str) -> Listing:
    """What `hiernas list KIND` shows."""
    lists = {
        "methods": _methods,
        "spaces": _spaces,
        "networks": _networks,
        "recipes": _recipes,
        "data": _data,
        "runtimes": _runtimes,
        "presets": _presets,
    }
    if kind not in lists:
        raise ConfigError(f"there is no list of '{kind}'; {did_you_mean(kind, lists)}")
    return lists[kind]()


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def _methods() -> Listing:
    return ["method", ""], [[name, method.summary] for name, method in METHODS.items()], []


def _spaces() -> Listing:
    rows, remarks = [], []
    for name in hiernas.spaces.NAMES:
        function = getattr(hiernas.spaces, name)
        space = function()
        tables = cost_tables(space, None)
        spans = [f"{quantity(m, tables[m].smallest)} to {quantity(m, tables[m].largest)}" for m in ("params", "macs")]
        options = sorted({len(d.options) for d in space.decisions})
        per_site = str(options[0]) if len(options) == 1 else f"{options[0]} to {options[-1]}"
        rows.append([name, str(len(space.decisions)), per_site, number(space.size()), *spans])
        paper, size = hiernas.spaces.PAPERS[name], space.skeleton.input_size
        remarks.append(f"{name} ({paper}; costs for images of {size}): {_first_line(function)}")
    return ["space", "sites", "options", "size", "params", "MACs"], rows, ["", *remarks]


def _networks() -> Listing:
    rows = []
    for name, network in hiernas.spaces.KNOWN.items():
        counted = count_cost(known(name))
        printed = [f"{v:g} M" if v is not None else "-" for v in (network.published_params, network.published_macs)]
        rows.append([name, network.space, f"{counted.params:,}", printed[0], f"{counted.macs:,}", printed[1]])
    columns = ["network", "space", "params", "published", "MACs", "published"]
    return columns, rows, ["", "`hiernas cost NAME` says where the published numbers are from and why some of them differ"]


def _recipes() -> Listing:
    shown = {name: {"epochs": r.epochs, "lr": r.lr, **keys(r.recipe)} for name, r in RECIPES.items()}
    rows = [[key, *(str(values[key]) for values in shown.values())] for key in next(iter(shown.values()))]
    small = "; ".join(f"--preset {name}: {epochs} epochs, batch {batch}" for name, (epochs, batch) in SCALES.items())
    return ["setting", *shown], rows, ["", f"as published with --preset paper; {small}, learning rate by the batch"]


def _data() -> Listing:
    return ["--data", ""], [
        ["digits", "1,797 grey images of 8x8 pixels in 10 classes, from scikit-learn"],
        ["FOLDER", "class folders of images, or train/val/test folders that hold them"],
        ["FOLDER", "parquet files with an image and a label column (needs hiernas[hub])"],
        ["hf:NAME", "a data set of the Hugging Face hub (needs hiernas[hub])"],
    ], []


def _runtimes() -> Listing:
    return ["runtime", ""], [[name, _first_line(runtime)] for name, runtime in RUNTIMES.items()], []


def _presets() -> Listing:
    rows: list[list[str]] = []
    alike: dict[int, list[str]] = {}  # methods that share their presets
    for name, method in METHODS.items():
        alike.setdefault(id(method.presets), []).append(name)
    for names in alike.values():
        shown = [keys(config) for config in METHODS[names[0]].presets.values()]
        rows += [[f"[{', '.join(names)}]", *[""] * len(shown)]]
        rows += [[key, *(str(values[key]) for values in shown)] for key in shown[0]]
    return ["setting", *PRESETS], rows, []

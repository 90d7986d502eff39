"""Lists: what `hiernas list` shows of spaces, networks, recipes and presets is what they are.

`python tests/test_lists.py` writes src/hiernas/commands/lists.json, from which they are shown without torch.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import hiernas.spaces
from hiernas.cli import show
from hiernas.commands.lists import listing
from hiernas.costs.tables import cost_tables, counted, parts_of
from hiernas.methods import METHODS
from hiernas.names import PRESETS, SPACES
from hiernas.report import units
from hiernas.run.settings import keys
from hiernas.spaces import KNOWN, known
from hiernas.train.retraining import RECIPES, SCALES

WRITTEN = Path(__file__).parents[1] / "src/hiernas/commands/lists.json"


def spaces() -> Any:
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


def networks() -> Any:
    rows = []
    for name, network in KNOWN.items():
        costs = [counted(part) for part in parts_of(known(name))]
        params, macs = f"{sum(c.params for c in costs):,}", f"{sum(c.macs for c in costs):,}"
        printed = [f"{v:.4g} M" if v is not None else "-" for v in (network.published_params, network.published_macs)]
        rows.append([name, network.space, params, printed[0], macs, printed[1]])
    columns = ["network", "space", "params", "printed", "MACs", "printed"]
    return columns, rows, ["", "`hiernas cost NAME` says where the printed numbers are from and why some of them differ"]


def recipes() -> Any:
    shown = {name: {"epochs": r.epochs, "lr": r.lr, **keys(r.recipe)} for name, r in RECIPES.items()}
    rows = [[key, *(str(values[key]) for values in shown.values())] for key in next(iter(shown.values()))]
    small = "; ".join(f"--preset {name}: {epochs} epochs, batch {batch}" for name, (epochs, batch) in SCALES.items())
    return ["setting", *shown], rows, ["", f"as published with --preset paper; {small}, learning rate by the batch"]


def meanings(config: Any, prefix: str = "") -> dict[str, str]:
    """What dotted keys of a configuration mean: the words that stand beside them in its class."""
    kind, found = type(config), dict[str, str]()
    for source in (inspect.getsource(c) for c in reversed(kind.__mro__) if is_dataclass(c)):
        found |= {prefix + name: words for name, words in re.findall(r"^    (\w+): [^#\n]*#\s+(.+)$", source, re.M)}
    for f in fields(config):
        if is_dataclass(value := getattr(config, f.name)):
            found |= meanings(value, f"{prefix}{f.name}.")
    return found


def presets() -> list[dict[str, Any]]:
    """Of methods that share them: their names, and each setting with its values and what it means."""
    alike: dict[int, list[str]] = {}
    for name, record in METHODS.items():
        alike.setdefault(id(record.presets), []).append(name)
    found = []
    for names in alike.values():
        record = METHODS[names[0]].presets
        assert tuple(record) == tuple(PRESETS)
        shown, said = [keys(config) for config in record.values()], meanings(record["quick"])
        found.append({"methods": names, "settings": [[k, *(str(v[k]) for v in shown), said.get(k, "")] for k in shown[0]]})
    return found


def made() -> dict[str, Any]:
    return {"spaces": spaces(), "networks": networks(), "recipes": recipes(), "presets": presets()}


def text(value: dict[str, Any]) -> str:
    """JSON with a row to a line."""
    found = json.dumps(value, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda row: f"[{' '.join(map(str.strip, row[1].splitlines()))}]", found) + "\n"


def test_what_is_written_is_what_there_is() -> None:
    assert WRITTEN.read_text("utf-8") == text(made()), "python tests/test_lists.py"


@pytest.mark.parametrize("method", METHODS)
def test_the_presets_of_a_method_have_a_meaning_each(method: str) -> None:
    columns, rows, _ = listing("presets", method)
    said = {key: words for key, _, words in rows}
    values, config = {key: value.split(" | ") for key, value, _ in rows}, METHODS[method].presets["small"]
    assert columns == ["setting", "quick | small | paper", "meaning"]
    assert said["train.batch_size"] == "images of a step; HNAS' paper: 1024"
    assert all(said.values())
    assert {key: value[len(value) // 2] for key, value in values.items()} == {k: str(v) for k, v in keys(config).items()}


def test_every_space_is_listed_with_its_paper() -> None:
    columns, rows, remarks = listing("spaces")
    assert columns == ["space", "sites", "options", "size", "params", "MACs"]
    by_name = {row[0]: row for row in rows}
    assert by_name["fbnet"][1:4] == ["22", "9", "9.85×10²⁰"]
    assert by_name["darts"][1:4] == ["28", "8", "1.08×10¹⁸"]
    assert len([r for r in remarks if "arXiv" in r]) == len(rows) - 1


def test_networks_are_listed_in_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(show, "out", show.Terminal(width=80, highlight=False, soft_wrap=True, markup=False))
    shown = listing("networks")
    show.print_table(*shown)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1 : len(KNOWN) + 1]] == [[name, n.space] for name, n in KNOWN.items()]
    assert all(len(line) <= 80 for line in lines[: len(KNOWN) + 1])
    monkeypatch.setattr(show, "out", show.Terminal(width=60, highlight=False, soft_wrap=True, markup=False))
    show.print_table(*shown)
    narrow = capsys.readouterr().out
    assert all(cell in narrow for row in shown[1] for cell in row[2:])  # whole, where names have to be broken


if __name__ == "__main__":
    WRITTEN.write_text(text(made()), "utf-8")

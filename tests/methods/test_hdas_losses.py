"""`benchmarks/hdas_losses.py` searches with both forms of the losses, as they are said to be."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # last: both folders have a planted.py

import hdas_losses


@pytest.mark.parametrize(("form", "steps"), [("paper", 2), ("release", 4)])
def test_a_search_with_each_form(form: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of 64 images are two steps of 16; the release's losses take as many of their own."""
    learned: list[Any] = []

    def learn(*words: Any, **more: Any) -> Any:
        learned.append(hdas_learn(*words, **more))
        return learned[-1]

    hdas_learn = hdas_losses.learn
    monkeypatch.setattr(hdas_losses, "learn", learn)
    monkeypatch.setattr(hdas_losses, "TRAIN_EPOCHS", 1)
    short = replace(hdas_losses.SEARCH, epochs=1, warmup_epochs=0, images=64, train=replace(hdas_losses.RECIPE, batch_size=16))
    row = hdas_losses.searched("numbers", form, 1.0, 0.4, 0, short, train=form == "release")
    _, architect, _ = learned[0]
    assert {int(state["step"]) for state in architect.optimizer.state.values()} == {steps}
    assert architect.encoding.raw == (form == "release")
    assert row["ratio"] > 0
    assert np.isfinite(row["val"]) == (form == "release")

    depths, sites = [], dict(zip(architect.space.skeleton.site_names, row["options"], strict=True))
    for k, cells in enumerate(row["cells"], 1):
        names = [name.partition(".")[2] for name, option in sites.items() if name.startswith(f"stage{k}.") and option != "none"]
        real = networkx.DiGraph([tuple(map(int, name.split("->"))) for name in names if "->" in name])
        ends = [networkx.ancestors(real, n) | {n} for n in (cells, cells + 1) if n in real]  # the last two are the output
        depths.append(networkx.dag_longest_path_length(real.subgraph(set().union(*ends))))
    assert row["depth"] == pytest.approx(np.mean(depths))

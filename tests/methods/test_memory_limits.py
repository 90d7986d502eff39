"""A limit on the peak or on flash, in every method that searches chains: what is found meets it, traced as a whole network."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from hiernas.costs.memory import memory
from hiernas.data import ImageData, load_data
from hiernas.networks.ops import MBConv
from hiernas.run.request import Request, restore
from hiernas.run.search import resume, search
from hiernas.space import Architecture
from hiernas.spaces import Stage, chain_space
from test_golden import ALL, LOGITS, MASKS, ONE_SHOT, UNSEARCHED, VITAL

SIZE, CLASSES = (1, 8, 8), 3
OPS = (MBConv(3, 1), MBConv(3, 4), MBConv(5, 6, se=True))
SPACE = chain_space("little", SIZE, CLASSES, stem=8, stem_stride=1, stages=(Stage(8, 3, 1, OPS, skip=True),), head=12)
SETTINGS = {
    "hnas": ONE_SHOT, "spos": ONE_SHOT, "random-search": ONE_SHOT, "hournas": VITAL, "random": UNSEARCHED, "plain": UNSEARCHED,
    "random-k": f"{ALL} finalists=3 finalist_epochs=1", "hmnas": f"{LOGITS} {MASKS} compare=false inherit=false",
}  # fmt: skip
LIMITS = ("peak_ram_int8<=5200", "flash<=9k")


@pytest.fixture(scope="module")
def few() -> ImageData:
    """120 images whose class is how bright they are."""
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, SIZE) + 80 * (i % CLASSES)).astype(np.uint8) for i in range(120)]
    return load_data([(torch.from_numpy(x), i % CLASSES) for i, x in enumerate(pixels)])


def asked(method: str, data: ImageData, limits: tuple[str, ...] = LIMITS) -> Request:
    return Request(method, SPACE, {}, data, limits, settings=SETTINGS[method].split())


def traced(architecture: Architecture) -> dict[str, int]:
    return memory(architecture.build, architecture.skeleton.input_size).bytes


@pytest.mark.parametrize(("method", "limits"), [*((m, LIMITS) for m in SETTINGS), ("hournas", LIMITS[:1])])
def test_what_is_found_meets_the_limits(method: str, limits: tuple[str, ...], few: ImageData, tmp_path: Path) -> None:
    run = search(asked(method, few, limits), tmp_path / "r")
    result = run.read_json("result.json")
    best = Architecture.load(run.path / "best.json", SPACE)
    assert {metric: result["chosen"][metric] for metric in traced(best)} == traced(best)
    judged = [best]
    if method != "hmnas":  # whose candidates keep several options
        with closing(sqlite3.connect(run.path / "candidates.sqlite")) as db:
            judged += [SPACE.architecture(text.split(",")) for (text,) in db.execute("SELECT options FROM candidates")]
    needs = [traced(architecture) for architecture in dict.fromkeys(judged)]
    assert max(n["peak_ram_int8"] for n in needs) <= 5200
    if limits == LIMITS:
        assert max(n["flash"] for n in needs) <= 9_000
    page = (run.path / "report.html").read_text()
    assert "Peak RAM, INT8" in page
    assert "5,200\N{NO-BREAK SPACE}B" in page


def test_the_limits_rule_something_out() -> None:
    needs = [traced(SPACE.architecture([option] * 3)) for option in ("k3_e1", "k3_e4", "k5_e6_se")]
    assert [n["peak_ram_int8"] <= 5200 for n in needs] == [True, True, False]
    assert [n["flash"] <= 9000 for n in needs] == [True, False, False]


def test_a_run_is_read_again_as_it_was(few: ImageData, tmp_path: Path) -> None:
    run = search(asked("random", few), tmp_path / "r")
    first = json.loads((run.path / "result.json").read_text())
    (run.path / "result.json").unlink()
    run.close()
    again = resume(run.path, space=SPACE, data=few)
    assert restore(again, SPACE, few).space.size() < SPACE.size()
    assert {**again.read_json("result.json"), "seconds": 0} == {**first, "seconds": 0}

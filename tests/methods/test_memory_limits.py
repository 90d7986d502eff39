"""A limit on the peak or on flash, in every method that searches chains: what is found meets it, traced as a whole network."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from hiernas.commands.check import estimate, in_words
from hiernas.commands.rank import _draw
from hiernas.costs import MEMORY, parse_limits
from hiernas.costs.tables import memory
from hiernas.data import ImageData, load_data
from hiernas.errors import LimitError
from hiernas.networks.ops import MBConv
from hiernas.report.page import summary, write_report
from hiernas.run import outcome
from hiernas.run.outcome import _check_memory
from hiernas.run.request import Request, prepare, restore
from hiernas.run.search import Pace, largest_step, resume, search
from hiernas.space import Architecture
from hiernas.spaces import Stage, chain_space
from test_golden import ALL, LOGITS, MASKS, ONE_SHOT, UNSEARCHED, VITAL

SIZE, CLASSES = (1, 8, 8), 3
OPS = (MBConv(3, 1), MBConv(3, 4), MBConv(5, 6, se=True))
SPACE = chain_space("little", SIZE, CLASSES, stem=8, stem_stride=1, stages=(Stage(8, 3, 1, OPS, skip=True),), head=12)
BRIEF = f"{ONE_SHOT} epochs=1,1,1"  # what is learned does not matter here
SETTINGS = {
    "hnas": BRIEF, "spos": BRIEF, "random-search": BRIEF, "hournas": VITAL, "random": UNSEARCHED, "plain": UNSEARCHED,
    "random-k": f"{ALL} finalists=3 finalist_epochs=1", "naswot": f"{ALL} drawn=6 finalists=3 finalist_epochs=1",
    "hmnas": f"{LOGITS} {MASKS} compare=false inherit=false",
}  # fmt: skip
LIMITS = ("peak_ram_int8<=5200", "flash<=9k")


@pytest.fixture(scope="module")
def few() -> ImageData:
    """120 images whose class is how bright they are."""
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, SIZE) + 80 * (i % CLASSES)).astype(np.uint8) for i in range(120)]
    return load_data([(torch.from_numpy(x), i % CLASSES) for i, x in enumerate(pixels)])


def asked(method: str, data: ImageData, limits: tuple[str, ...] = LIMITS) -> Request:
    return Request(method, SPACE, {}, data, limits, settings=[*SETTINGS[method].split(), "final_epochs=1"])


def traced(architecture: Architecture) -> dict[str, int]:
    return memory(architecture.build, architecture.skeleton.input_size).bytes


@pytest.mark.parametrize(("method", "limits"), [*((m, LIMITS) for m in SETTINGS), ("hournas", LIMITS[:1])])
def test_what_is_found_meets_the_limits(
    method: str, limits: tuple[str, ...], few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "_meter", lambda _: None)  # as where the runtime is missing: no latency is measured
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


def test_a_run_is_read_again_as_it_was_and_ranked_within_its_limits(few: ImageData, tmp_path: Path) -> None:
    run = search(asked("random", few), tmp_path / "r")
    first = json.loads((run.path / "result.json").read_text())
    (run.path / "result.json").unlink()
    run.close()
    again = resume(run.path, space=SPACE, data=few)
    space = restore(again, SPACE, few).space
    assert space.size() == 3**3 < SPACE.size()
    assert {**again.read_json("result.json"), "seconds": 0} == {**first, "seconds": 0}


def test_networks_of_a_ranking_meet_the_limits(few: ImageData) -> None:
    prepared = prepare(asked("random", few))
    drawn = _draw(prepared.space, prepared, 50, 0, "rank")
    wanted = {a for a in SPACE if traced(a)["peak_ram_int8"] <= 5200 and traced(a)["flash"] <= 9000}
    assert set(drawn) == wanted


def test_what_is_said_before_a_search(few: ImageData) -> None:
    prepared = prepare(asked("hnas", few, ("peak_ram_int8<=5200",)))
    assert prepared.config.objective == "macs"
    assert prepared.doubts == ()
    value = json.loads(json.dumps(estimate(prepared, largest_step(prepared), Pace({"train1": 2.0}, 1.0))))
    found = in_words(value)
    peaks = [n for a in SPACE if (n := traced(a)["peak_ram_int8"]) <= 5200]
    assert {**value["costs"]["peak_ram_int8"], "typical": 0} == {"smallest": min(peaks), "typical": 0, "largest": max(peaks)}
    assert (value["limits"], value["architectures"]) == (["peak_ram_int8 <= 5.2k"], 27)
    assert value["total_seconds"] == pytest.approx(sum(value["seconds"].values()))
    assert found["space"] == "little, 27 architectures, those of peak_ram_int8 <= 5.2k"
    assert found["peak_ram_int8"].replace("\N{NO-BREAK SPACE}", " ") == "smallest 1.28 kB, typical 4.61 kB, largest 4.61 kB"
    assert found["within the limits"] == "27 of 27 architectures (100.00%)"
    for share, words in (
        (0.0, "none of 10,000 architectures that were drawn: by all odds fewer than 1 in 3,333"),  # rare is not none
        (0.0002, "about 0.02% of the architectures (2 of 10,000 that were drawn)"),
    ):
        drawn = {**value, "architectures": 10**9, "looked_at": 10_000, "share_within_limits": share}
        assert in_words(drawn)["within the limits"] == words
    loose = prepare(asked("hnas", few, ("flash_int8<=1M", "peak_ram<=1M")))
    assert loose.config.objective == "params"
    assert [doubt.split(":")[0] for doubt in loose.doubts] == [
        "the limit flash_int8 <= 1M rules nothing out", "the limit peak_ram <= 1M rules nothing out",
    ]  # fmt: skip
    for limit in ("1k", "4Ki"):
        message = f"no architecture of 'little' meets peak_ram <= {limit}; the smallest needs 5,120 bytes"
        with pytest.raises(LimitError, match=message):
            prepare(asked("hnas", few, (f"peak_ram<={limit}",)))


def test_a_network_that_needs_more_is_not_handed_over() -> None:
    needed = traced(SPACE.architecture(["k5_e6_se"] * 3))
    _check_memory(needed, parse_limits(["peak_ram_int8<=6704", "flash<=1M", "params<=1"]))
    with pytest.raises(LimitError, match=r"found needs peak_ram_int8 6,704, and peak_ram_int8 <= 6\.703k was asked"):
        _check_memory(needed, parse_limits(["peak_ram_int8<=6703"]))


def test_results_of_before_are_still_shown(few: ImageData, tmp_path: Path) -> None:
    run = search(asked("random", few), tmp_path / "r")
    result = run.read_json("result.json")
    rows = [row[0] for row in summary(result)[1]]
    assert rows == ["latency", "params", "MACs", "Peak RAM", "Peak RAM, INT8", "Flash", "Flash, INT8", "accuracy"]
    for metric in MEMORY:
        del result["chosen"][metric]
    result["limits"] = []
    assert [row[0] for row in summary(result)[1]] == ["latency", "params", "MACs", "accuracy"]
    run.write_json("result.json", result)
    assert "Peak RAM" not in write_report(run).read_text()

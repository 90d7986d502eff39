"""Studies: what is run, by whom, and what is said of it: against a second calculation, and with several processes at work."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from hiernas.cli import main
from hiernas.commands.compare import _unlike, summarised
from hiernas.commands.lists import listing
from hiernas.data import ImageData, load_data
from hiernas.errors import ConfigError, HiernasError, RunError
from hiernas.report import study as results
from hiernas.report.study import Row
from hiernas.run import request as requests
from hiernas.run.disk import from_yaml, to_yaml
from hiernas.run.folder import RunFolder
from hiernas.run.outcome import environment
from hiernas.run.request import Request, prepare, restore
from hiernas.run.settings import sealed
from hiernas.run.study import Study, _work_quietly, begin, entries_of, work
from hiernas.train.recipes import Recipe
from hiernas.train.retraining import Retraining
from processes import FORKED, quick_export, undrawn

FAST = ("train.batch_size=128", "final_epochs=1", "train.accelerator=cpu")
LIMITS = ("params<=60k and macs<=3M",)
REQUEST: dict[str, Any] = {"data": "digits", "preset": "quick", "settings": FAST}


def row(label: str, seed: int, accuracy: float, limit: str = "params<=1k", **more: Any) -> Row:
    values: dict[str, Any] = {
        "label": label, "method": label.partition(":")[0], "limit": limit, "seed": seed, "data": "d", "space": "s",
        "test_accuracy": accuracy, "val_accuracy": None, "params": 900, "macs": 10_000, "predicted_ms": None,
        "measured_ms": 0.5, "search_seconds": 60.0, "final_seconds": 6.0, "doubts": 0, "folder": f"/r/{label}-{seed}",
    }  # fmt: skip
    return Row(**{**values, **more})


def command(*words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hiernas", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code, words


# -- what is said ------------------------------------------------------------------------------------------------------


def test_a_difference_is_that_of_pairs_with_students_interval() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 7):
        a, b = rng.random(n), rng.random(n)
        rows = [row("hnas", i, x) for i, x in enumerate(a)] + [row("random", i, x) for i, x in enumerate(b)]
        strange = [row("hnas", 99, 0.0), row("hnas", 0, 0.0, limit="macs<=1")]
        found = results.difference([*rows, *strange], "hnas", "random", "params<=1k")
        assert found is not None
        expected = stats.ttest_rel(100 * a, 100 * b).confidence_interval(0.95)
        assert (found.pairs, found.mean) == (n, pytest.approx(100 * (a - b).mean()))
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        assert found.relative == pytest.approx(100 * (a.mean() - b.mean()) / b.mean())  # RI, by seeds that both have
    assert results.difference([row("hnas", 0, 0.5), row("random", 1, 0.5)], "hnas", "random", "params<=1k") is None


def test_what_is_held_against_what() -> None:
    labels = ("hnas", "hnas:stages=2", "hournas", "spos", "random", "plain", "darts")
    rows = [row(label, seed, 0.5) for label in labels for seed in range(2)]
    pairs = {(d.label, d.other) for d in results.differences(rows)}
    assert ("hnas", "hnas:stages=2") in pairs
    assert ("hnas:stages=2", "hnas") not in pairs
    assert {("hnas", "spos"), ("hournas", "random"), ("hournas", "plain"), ("spos", "random"), ("hnas", "darts")} <= pairs
    assert not {a for a, _ in pairs} & {"random", "plain"}
    assert ("hnas", "hournas") not in pairs


@pytest.mark.parametrize(
    ("gains", "said"),
    [((0.02, 0.021, 0.022), "better than random and plain"), ((-0.02, -0.021, -0.022), "worse than random and plain"),
     ((0.02, -0.02, 0.001), "not shown to differ from random and plain")],
)  # fmt: skip
def test_a_verdict_says_what_the_interval_shows(gains: tuple[float, ...], said: str) -> None:
    rows = [row(label, i, 0.8) for i in range(3) for label in ("random", "plain")]
    (verdict,) = results.verdicts([row("hnas", i, 0.8 + gain) for i, gain in enumerate(gains)] + rows)
    assert said in verdict
    assert ("take '" in verdict) == (not said.startswith("better"))
    assert "3 seeds at least" in results.verdicts([row("hnas", 0, 0.9), row("random", 0, 0.1)])[0]


@pytest.mark.parametrize(
    ("labels", "seeds", "said"),
    [
        (("random", "plain"), 1, "under params<=1k: one seed has no interval; 3 seeds at least are needed"),
        (("random", "plain"), 2, "under params<=1k: 3 seeds at least are needed to show anything (--seeds 3)"),
        (("random", "plain"), 3, "under params<=1k: no search stands beside a network without one; name both"),
        (("hnas", "spos"), 3, "under params<=1k: no search stands beside a network without one; name both"),
    ],
)
def test_where_nothing_is_shown_it_is_said_why(labels: tuple[str, ...], seeds: int, said: str) -> None:
    (verdict,) = results.verdicts([row(label, seed, 0.9) for label in labels for seed in range(seeds)])
    assert verdict.startswith(said)


def test_files_hold_every_run(tmp_path: Path) -> None:
    rows = [row(label, seed, 0.5 + 0.1 * seed, limit=limit) for label in ("hnas:a=1", "random_k & <b>") for seed in range(3)
            for limit in ("params<=1k", "params<=2k")]  # fmt: skip
    rows[0] = replace(rows[0], predicted_ms=math.inf)
    files = results.files(rows[1:], tmp_path)
    assert len(files["runs.csv"].splitlines()) == len(rows)
    value = json.loads(files["study.json"])
    assert [r["test_accuracy"] for r in value["runs"]] == [r.test_accuracy for r in rows[1:]]
    page, latex = files["study.html"], files["table.tex"]
    assert "<b>" not in page
    assert "random_k &amp; &lt;b&gt;" in page
    assert "Accuracy against the limit" in page
    assert page.count("<svg") == 1 + 2
    for block in re.findall(r"\\begin\{tabular\}\{(.*?)\}(.*?)\\end", latex, re.DOTALL):
        lines = [line for line in block[1].splitlines() if line.endswith("\\\\")]
        assert len(lines) == 3
        assert all(len(re.findall(r"(?<!\\)&", line)) == len(block[0]) - 1 for line in lines)


# -- what is run -------------------------------------------------------------------------------------------------------


def test_entries_are_read() -> None:
    found = entries_of("hnas, once=hnas:stages=2+epochs=[30,15] ,hournas:share=0.5")
    assert [(e.label, e.method, e.settings) for e in found] == [
        ("hnas", "hnas", ()), ("once", "hnas", ("stages=2", "epochs=[30,15]")),
        ("hournas:share=0.5", "hournas", ("share=0.5",)),
    ]  # fmt: skip
    for wrong in ("hnsa", "hnas,hnas", "hnas:nothing=2", ""):
        with pytest.raises(ConfigError):
            entries_of(wrong)


def quickly(path: Path) -> dict[str, str]:
    """Do what is left of a study."""
    torch.set_num_threads(1)
    with quick_export(), undrawn():
        return work(path)


def by_a_process(path: Path) -> None:
    """The same, of a process that others can be killed with."""
    os.setsid()
    quickly(path)


@pytest.fixture(scope="module")
def asked(few: str) -> dict[str, Any]:
    return {**REQUEST, "data": few}


@pytest.fixture(scope="module")
def study(asked: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("study") / "s"
    study = begin(path, entries_of("plain,random,random-k=random-k:finalists=2+finalist_epochs=1"), LIMITS, 2, asked)
    assert quickly(path) == {}
    return study


def test_every_run_is_an_ordinary_one_under_its_limit_with_one_final_training(study: Study) -> None:
    jobs = list(study.jobs())
    assert len(jobs) == 3 * 2
    assert len({job.path for job in jobs}) == len(jobs)
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)  # what was cut short compares what it has
    for job in jobs:
        result = json.loads((job.path / "result.json").read_text())
        assert result["chosen"]["params"] <= 60_000
        assert result["chosen"]["macs"] <= 3_000_000
        assert result["seed"] == job.seed
        assert (job.path / "report.html").exists()
        losses = [e for e in map(json.loads, (job.path / "events.jsonl").read_text().splitlines()) if e.get("phase") == "final"]
        assert len([e for e in losses if e["event"] == "epoch"]) == 1  # final_epochs=1 of all
    assert Study.open(study.path) == study


def test_more_is_added_and_other_things_are_refused(study: Study, asked: dict[str, Any]) -> None:
    again = begin(study.path, entries_of("plain,random,random-k=random-k:finalists=2+finalist_epochs=1"), LIMITS, 2, asked)
    assert again == study
    assert all(job.done for job in again.jobs())
    for limits, request in ((["params<=60k"], asked), (LIMITS, {**asked, "preset": "small"})):
        with pytest.raises(RunError, match="another folder"):
            begin(study.path, entries_of("plain"), limits, 2, request)
    for other, space in (("random=random:final_epochs=2", None), ("plain=random", None), ("random", "proxyless")):
        with pytest.raises(RunError, match="asked for otherwise"):  # the name is taken, or the space is another
            begin(study.path, entries_of(other, space), LIMITS, 2, asked)
    more = begin(study.path, entries_of("random,spos"), LIMITS, 3, asked)
    assert begin(study.path, entries_of("random"), LIMITS, 1, asked).seeds == 3  # nothing is taken from a study
    assert [e.label for e in more.entries] == ["random", "spos", "plain", "random-k"]
    assert sum(job.done for job in more.jobs()) == 6
    assert more.final == study.final
    study.save()  # as it was


def test_the_final_training_is_the_first_methods_and_controls_search_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(requests, "load_data", lambda *words, **options: read.append(words) or load_data(*words, **options))
    study = begin(tmp_path / "s", entries_of("darts,random,random-k,hnas"), ["params<=60k"], 1, {"data": "digits"})
    assert read == [("digits",)]  # once for all
    jobs = {job.label: job.request for job in study.jobs()}
    darts, random, hnas = jobs["darts"], jobs["random"], jobs["hnas"]
    assert (random.space, random.space_arguments) == (darts.space, darts.space_arguments)
    assert (darts.space, darts.space_arguments) == ("darts", {"channels": 8, "cells": 5})
    assert hnas.space == "tiny"  # which does not search cells
    assert random.final == hnas.final == darts.final
    assert darts.final is not None
    assert darts.final.epochs == 25


def test_random_k_does_as_much_work_as_the_first_search(tmp_path: Path, digits: ImageData) -> None:
    study = begin(tmp_path / "s", entries_of("random-k,spos"), ["params<=60k"], 1, {"data": "digits"})
    images = len(digits.train)
    steps = 3 * (30 + 15 + 10) * images  # forward passes of the supernet's training; a step counts as three
    judged = 0.6 * 24 * (8 + 1) * (len(digits.val) + 300)  # of the evolution, which shares beginnings
    k, each = int(next(study.jobs()).request.settings[0].removeprefix("finalists=")), len(digits.val) + 300

    def work(n: int) -> int:  # 5 epochs for all, 10 for half of them, ...
        return sum((n >> i) * (3 * (5 << i) * images + each) for i in range(n.bit_length()) if n >> i > 1)

    assert work(k) <= steps + judged < work(k + 1)


def test_a_final_training_of_its_own_outlives_the_process(tmp_path: Path) -> None:
    final = Retraining(Recipe(batch_size=32, label_smoothing=0.2, accelerator="cpu"), 1, 0.05)
    prepared = prepare(Request("random", limits=["params<=60k"], final=final))
    assert prepared.final == final
    assert prepared.config.train != final.recipe  # which a search goes by
    run = RunFolder.create(tmp_path / "r", {**prepared.to_dict(), "environment": environment({})})
    run.close()
    assert restore(RunFolder.open(tmp_path / "r")).final == final


def test_a_damaged_study_or_result_is_named(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.path, tmp_path / "s")
    path = next(Study.open(tmp_path / "s").jobs()).path / "result.json"
    path.write_text(path.read_text().replace('"test_accuracy": 0', '"test_accuracy": 1'))
    with pytest.raises(RunError, match=r"result\.json is not what the run wrote"):
        summarised(tmp_path / "s")
    text = (tmp_path / "s" / "study.yaml").read_text()
    for old, new in (("seeds: 2", "seeds: x"), ("entries:", "entry:"), ("format: 1", "format: [")):
        (tmp_path / "s" / "study.yaml").write_text(text.replace(old, new))
        with pytest.raises(RunError, match=r"study\.yaml is damaged"):
            Study.open(tmp_path / "s")


def test_mistakes_come_before_any_work(tmp_path: Path) -> None:
    for methods, limits, request in (
        ("hnas,plain", ["params<=6k"], REQUEST), ("hnas", [], REQUEST), ("hnas", ["params<=60k"], {"data": "nowhere"}),
        ("hnas", ["params<=60k"], {"data": "digits", "settings": ["nothing=1"]}), ("darts", ["params<=60k and"], REQUEST),
        ("hnas", ["macs<=1.2M"], REQUEST),  # which leaves one network
    ):  # fmt: skip
        with pytest.raises(HiernasError):
            begin(tmp_path / "s", entries_of(methods), limits, 1, request)
        assert not (tmp_path / "s").exists()


def test_processes_share_a_study_and_a_killed_one_loses_nothing(
    study: Study, asked: dict[str, Any], tmp_path: Path
) -> None:
    """One process is killed amid a run; two others then do all, each run once, and the results are those of one process."""
    path = tmp_path / "s"
    shared = begin(path, entries_of("plain,random-k=random-k:finalists=2+finalist_epochs=1"), LIMITS, 2, asked)
    doomed = FORKED.Process(target=by_a_process, args=(path,))
    doomed.start()
    while not any(path.rglob("events.jsonl")) and doomed.is_alive():
        time.sleep(0.02)
    os.killpg(doomed.pid, signal.SIGKILL)
    doomed.join()
    assert not all(job.done for job in shared.jobs())
    workers = [FORKED.Process(target=by_a_process, args=(path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    alone = [job for job in study.jobs() if job.label != "random"]
    for mine, theirs in zip(alone, shared.jobs(), strict=True):
        assert (mine.label, mine.seed) == (theirs.label, theirs.seed)
        a, b = (json.loads((job.path / "result.json").read_text()) for job in (mine, theirs))
        assert a["chosen"]["test_accuracy"] == b["chosen"]["test_accuracy"]
        assert a["chosen"]["options"] == b["chosen"]["options"]
        weights = [load_file(job.path / "best.safetensors") for job in (mine, theirs)]
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
        finished = [e for e in (theirs.path / "events.jsonl").read_text().splitlines() if '"finished"' in e]
        assert len(finished) == 1


def test_the_command_goes_on_tells_and_writes(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    command("compare", str(study.path))
    said = capsys.readouterr().out
    assert "under params<=60k and macs<=3M" in said
    assert "random-k" in said
    assert "\\n" not in said  # a remark is a line of its own
    assert "study.html" in said
    assert r"\n" not in said  # a remark is a line of its own
    command("report", str(study.path))
    first = next(study.jobs()).path
    shutil.copytree(first, first / "rank" / "0", ignore=shutil.ignore_patterns("rank"))  # as `rank` leaves its trainings
    command("list", "runs", str(study.path))
    assert sorted(line[1] for line in listing("runs", str(study.path))[1]) == sorted(["plain", "random", "random-k"] * 2)
    shutil.rmtree(first / "rank")
    two = [str(job.path) for job in study.jobs()][:2]
    command("compare", *two, "--out", str(study.path / "two"))
    assert len((study.path / "two" / "runs.csv").read_text().splitlines()) == 3


def test_runs_that_differ_in_more_than_their_search_are_told_apart(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "other"):
        shutil.copytree(next(study.jobs()).path, tmp_path / name)
    values = from_yaml(Path("other/config.yaml").read_text())
    values["config"]["final_epochs"], values["data"]["image_size"], values["data"]["fingerprint"] = 9, 12, "others"
    Path("other/config.yaml").write_text(sealed(to_yaml(values)))
    command("compare", "one", "other")
    said = capsys.readouterr().out
    assert said.index("\nplain (one)") < said.index("\nplain (other)")
    assert "one and other differ in more than the search, in images and final training" in said
    assert "(image_size None and 12, final_epochs 1 and 9)" in said
    assert not _unlike([row("hnas", 0, 0.5, folder="one"), row("plain", 0, 0.4, folder="one")])
    with pytest.raises(RunError, match=r"/r/hnas-1 was tested on 'e' and one on 'd': .* name runs on the same images"):
        _unlike([row("hnas", 0, 0.5, folder="one"), row("hnas", 1, 0.5, data="e")])


def quick_job(*given: Any) -> dict[str, str]:
    """What is spread over processes, with quick exports."""
    with quick_export(), undrawn():
        return _work_quietly(*given)


def test_jobs_are_spread_over_processes(few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiernas.run.study._work_quietly", quick_job)
    command("compare", "--data", few, "--methods", "plain,random", "--limit", "params<=60k", "--seeds", "1",
            "--set", "final_epochs=1", "--out", str(tmp_path / "s"), "--jobs", "2")  # fmt: skip
    assert len((tmp_path / "s" / "runs.csv").read_text().splitlines()) == 3

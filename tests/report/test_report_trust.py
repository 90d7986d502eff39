"""What is doubtful in a result is said, and what is not is not."""

from __future__ import annotations

import numpy as np
import pytest

from hiernas.costs import parse_limits
from hiernas.costs.tables import cost_tables
from hiernas.report import page, trust
from hiernas.report.kit import Told
from hiernas.report.trust import Evaluation
from toy import toy_space

RESULT = {"data": {"name": "x", "classes": [], "input_size": [1, 8, 8]}, "limits": [], "front": []}
CLASSES = ("ant", "bee", "cat", "dog")
LABELS = np.repeat(np.arange(4), 12)


def of_test(named: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    return trust.of_test(Evaluation.of(classes, labels, named))


def test_one_class_for_all_images_is_two_doubts() -> None:
    said = of_test(np.full(48, 2), LABELS, CLASSES)
    assert len(said) == 2
    assert said[0].startswith("test accuracy 25.00% (95 % interval 14.9% to 38.8% on 48 images)")  # Wilson's, by hand
    assert "above that of naming the largest class every time, 25.00%" in said[0]
    assert said[1] == "the network calls 100% of the test images 'cat', and no class holds more than 25%"


def test_accuracy_is_compared_with_the_largest_class() -> None:
    uneven = np.array([0] * 90 + [1] * 10)
    good = uneven.copy()
    assert of_test(good, uneven, CLASSES[:2]) == []
    said = of_test(np.zeros(100, int), uneven, CLASSES[:2])  # 90 % right, and worth nothing
    assert "90.00%" in said[0]
    assert "calls 100% of the test images 'ant', and no class holds more than 90%" in said[1]
    half = LABELS.copy()
    half[::2] = (half[::2] + 1) % 4
    assert of_test(half, LABELS, CLASSES) == []  # 50 %: 95 % interval 36 to 64 %


def test_a_ranking_at_chance_is_said() -> None:
    (said,) = trust.of_ranking(0.40, LABELS[::6])  # 8 images
    assert "hardly above chance (40.00% for the chosen one; the largest class: 25.00%)" in said
    assert trust.of_ranking(0.60, LABELS) == []


def test_limits_that_rule_nothing_out_and_those_of_the_program() -> None:
    space = toy_space()
    tables = cost_tables(space, None)
    largest = max(sum(p.numel() for p in a.build().parameters()) for a in space)
    loose, tight = parse_limits([f"params<={largest}"]), parse_limits([f"params<={largest - 1}"])
    (said,) = trust.of_limits(tables, loose, automatic=False)
    assert said.startswith(f"the limit {loose[0]} rules nothing out")
    assert trust.of_limits(tables, tight, automatic=False) == []
    (said,) = trust.of_limits(tables, tight, automatic=True)
    assert "was chosen by the program" in said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((1.0, 1.0, 1.0, 1.4), []),
        ((1.0, 1.0, 1.0, 1.6), ["the device was busy"]),
        ((1.11, 1.0, 1.0, 1.0), [r"measured at 1 ms, +11%"]),
        ((0.95, 1.04, 1.0, 1.1), []),
        ((1.0, 1.2, 1.1, 1.2), ["-17%", "the measured latency, 1.2 ms, is outside latency_ms <= 1.1"]),
        ((1.0, None, None, None), []),
        ((None, 1.0, 1.0, 1.0), []),
    ],
)
def test_latencies(values: tuple[float | None, ...], words: list[str]) -> None:
    chosen = {"latency_ms": dict(zip(("predicted", "measured", "p10", "p90"), values, strict=True))}
    said = trust.of_latency(chosen, parse_limits(["latency_ms<=1.1"]))
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True))


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [((), "The best network found"), ((True,), "The best network found"), ((True, False), "a part was found"),
     ((False,), "which no search has found")],
)  # fmt: skip
def test_the_page_does_not_call_a_control_the_best_network_found(verdicts: tuple[bool, ...], words: str) -> None:
    decided = {f"train{i}": {"decided": verdict} for i, verdict in enumerate(verdicts)}
    assert words in page.SECTIONS.lead(RESULT | {"details": {"decided": decided}}, Told(""))


def test_a_verdict_holds_the_test_against_guessing_limits_and_others() -> None:
    limits = [{"metric": "latency_ms", "low": None, "high": 2.0}, {"metric": "params", "low": None, "high": 900}]
    chosen = {"test_accuracy": 36 / 48, "latency_ms": {"predicted": 1.9, "measured": 2.5}, "params": 900}
    found = Evaluation.of(CLASSES, LABELS, np.where(np.arange(48) % 4 == 0, (LABELS + 1) % 4, LABELS))
    result = {"chosen": chosen, "data": {"test": 48, "classes": CLASSES}, "tested": found.kept(), "limits": limits}
    opening, facts = (said.replace("\xa0", " ") for said in trust.verdict(result, {"plain": 0.5}))
    assert opening == "Better than guessing and outside the limits."
    assert facts == (  # Wilson's interval, by hand
        "Right on 75.00 % of 48 test images (95 % interval 61.2 to 85.1), where naming the largest class every time would be "
        "right on 25.00 %; latency 2.50 ms measured, asked ≤ 2 ms; parameters 900, asked ≤ 900; in its study, with the same "
        "seed: plain 50.00 %."
    )
    chosen["latency_ms"] = {"predicted": 1.9, "measured": None}
    opening, facts = trust.verdict(result, {})
    assert opening == "Better than guessing and within the limits."
    assert "1.90\xa0ms predicted" in facts
    wrong = Evaluation.of(CLASSES, LABELS, np.zeros(48, dtype=np.int64))
    chosen["test_accuracy"] = 0.25
    assert trust.verdict({**result, "limits": [], "tested": wrong.kept()}, {})[0] == "Not shown to be better than guessing."
    del result["tested"]  # of an older version
    assert trust.verdict({**result, "limits": []}, {})[0] == ""


def test_what_is_kept_of_a_test_is_all_of_it() -> None:
    rng = np.random.default_rng(0)
    labels, named = rng.integers(0, 3, (2, 200))  # of the last class there is no image
    found = Evaluation.of(CLASSES, labels, named)
    again = Evaluation.read({"tested": found.kept(), "data": {"classes": list(CLASSES)}})
    assert again is not None
    assert (again.confusion == found.confusion).all()
    assert [name for name, n, right in again.by_class if right is None] == ["dog"]

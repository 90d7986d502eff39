"""What is doubtful in a result is said, and what is not is not."""

from __future__ import annotations

import numpy as np
import pytest

from hiernas.costs import parse_limits
from hiernas.costs.tables import cost_tables
from hiernas.report import doubts, page
from hiernas.report.kit import Told
from toy import toy_space

RESULT = {"data": {"name": "x", "classes": [], "input_size": [1, 8, 8]}, "limits": []}
CLASSES = ("ant", "bee", "cat", "dog")
LABELS = np.repeat(np.arange(4), 12)


def test_one_class_for_all_images_is_two_doubts() -> None:
    said = doubts.of_predictions(np.full(48, 2), LABELS, CLASSES)
    assert len(said) == 2
    assert said[0].startswith("test accuracy 25.00% (95 % interval 14.9% to 38.8% on 48 images)")  # Wilson's, by hand
    assert "above that of naming the largest class every time, 25.00%" in said[0]
    assert said[1] == "the network calls 100% of the test images 'cat', and no class holds more than 25%"


def test_accuracy_is_compared_with_the_largest_class() -> None:
    uneven = np.array([0] * 90 + [1] * 10)
    good = uneven.copy()
    assert doubts.of_predictions(good, uneven, CLASSES[:2]) == []
    said = doubts.of_predictions(np.zeros(100, int), uneven, CLASSES[:2])  # 90 % right, and worth nothing
    assert "90.00%" in said[0]
    assert "calls 100% of the test images 'ant', and no class holds more than 90%" in said[1]
    half = LABELS.copy()
    half[::2] = (half[::2] + 1) % 4
    assert doubts.of_predictions(half, LABELS, CLASSES) == []  # 50 %: 95 % interval 36 to 64 %


def test_a_ranking_at_chance_is_said() -> None:
    (said,) = doubts.of_ranking(0.40, LABELS[::6])  # 8 images
    assert "hardly above chance (40.00% for the chosen one; the largest class: 25.00%)" in said
    assert doubts.of_ranking(0.60, LABELS) == []


def test_limits_that_rule_nothing_out_and_those_of_the_program() -> None:
    space = toy_space()
    tables = cost_tables(space, None)
    largest = max(sum(p.numel() for p in a.build().parameters()) for a in space)
    loose, tight = parse_limits([f"params<={largest}"]), parse_limits([f"params<={largest - 1}"])
    (said,) = doubts.of_limits(tables, loose, automatic=False)
    assert said.startswith(f"the limit {loose[0]} rules nothing out")
    assert doubts.of_limits(tables, tight, automatic=False) == []
    (said,) = doubts.of_limits(tables, tight, automatic=True)
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
    said = doubts.of_latency(chosen, parse_limits(["latency_ms<=1.1"]))
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True))


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [((), "The best network found"), ((True,), "The best network found"), ((True, False), "a part was found"),
     ((False,), "which no search has found")],
)  # fmt: skip
def test_the_page_does_not_call_a_control_the_best_network_found(verdicts: tuple[bool, ...], words: str) -> None:
    decided = {f"train{i}": {"decided": verdict} for i, verdict in enumerate(verdicts)}
    assert words in page._lead(RESULT | {"details": {"decided": decided}}, Told(""))

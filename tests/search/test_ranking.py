"""Ranks and frequencies against brute force."""

from __future__ import annotations

import numpy as np

from hiernas.problem import Candidate
from hiernas.search.ranking import at_least, most_accurate, operation_frequency, pareto_front, ranks
from toy import toy_space


def brute_force_ranks(values: np.ndarray) -> list[int]:
    """Peel fronts off by definition: a row is dominated by one that is nowhere worse and somewhere better."""
    left, rank, result = set(range(len(values))), 1, [0] * len(values)
    while left:
        front = {
            i for i in left
            if not any((values[j] <= values[i]).all() and (values[j] < values[i]).any() for j in left)
        }  # fmt: skip
        for i in front:
            result[i] = rank
        left -= front
        rank += 1
    return result


def test_ranks_are_one_based_and_peel_the_fronts() -> None:
    values = np.random.default_rng(0).integers(0, 12, (80, 2)).astype(float)  # with ties
    assert ranks(values).tolist() == brute_force_ranks(values)
    assert len(ranks(np.zeros((0, 2)))) == 0


def candidates() -> list[Candidate]:
    rng = np.random.default_rng(1)
    return [
        Candidate(a.options, float(rng.integers(50, 60)) / 100, int(rng.integers(1, 9)), 1, float(rng.integers(1, 30)))
        for a in toy_space()
        for _ in range(3)
    ]


def test_frequencies_count_ranks_below_the_given_one() -> None:
    found, space = candidates(), toy_space()
    rank = brute_force_ranks(np.array([(1 - c.val_accuracy, c.latency_ms) for c in found]))
    for below in (2, 4, 10):
        best = [c for c, r in zip(found, rank, strict=True) if r < below]
        p = operation_frequency(found, space, "latency_ms", below)
        for j, decision in enumerate(space.decisions):
            for option in decision.options:
                expected = sum(c.options[j] == option for c in best) / len(best)
                assert p[decision.name][option] == expected
            assert abs(sum(p[decision.name].values()) - 1) < 1e-12


def test_pruning_keeps_at_least_the_threshold_or_the_most_frequent() -> None:
    p = {"a": {"x": 0.5, "y": 0.49, "z": 0.01}, "b": {"x": 0.004, "y": 0.006, "z": 0.0}}
    assert at_least(p, 0.01) == {"a": ["x", "y", "z"], "b": ["y"]}
    assert at_least(p, 0.02)["a"] == ["x", "y"]


def test_front_is_sorted_and_the_chosen_one_is_its_most_accurate() -> None:
    found = candidates()
    front = pareto_front(found, "latency_ms")
    best = max(c.val_accuracy for c in found)
    assert most_accurate(found, "latency_ms") == front[-1]
    assert front[-1].val_accuracy == best
    assert front[-1].latency_ms == min(c.latency_ms for c in found if c.val_accuracy == best)
    pairs = [(c.latency_ms, c.val_accuracy) for c in front]
    assert pairs == sorted(set(pairs))
    for c in found:
        assert any(f.val_accuracy >= c.val_accuracy and f.latency_ms <= c.latency_ms for f in front)

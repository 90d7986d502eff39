"""What is doubtful in a result, in sentences: for the terminal, result.json, and the top of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hiernas.budget import CostTable, Limit
from hiernas.report import units

ONE_CLASS = 0.95  # share of the images that are called one class, from which that is said
WIDE = 1.5  # a 90th percentile of a latency that is so many times the tenth
OFF = 0.10  # relative difference of a predicted latency from the measured one


def of_limits(tables: Mapping[str, CostTable], limits: Sequence[Limit], automatic: bool) -> list[str]:
    """Limits that rule nothing out, and those that nobody asked for. `tables`: costs of all that can be found."""
    if automatic:
        asked = " and ".join(map(str, limits))
        return [f"no limit was given: {asked}, the median of the space, was chosen by the program; name yours with --limit"]
    found = []
    for limit in limits:
        table = tables[limit.metric]
        if limit.low <= table.smallest and table.largest <= limit.high:
            span = " to ".join(units.amount(limit.metric, v) for v in (table.smallest, table.largest))
            found.append(
                f"the limit {limit} rules nothing out: the networks of the space go from {span}; choose a tighter limit or "
                "a larger space"
            )
    return found


def of_predictions(predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """A network's classes for test images int [N] that show that it has learned little. `labels`: int [N]."""
    n, found = len(labels), []
    counts = np.bincount(labels, minlength=len(classes))
    right, chance = float((predicted == labels).mean()), float(counts.max() / n)
    low, high = units.wilson(right, n)
    if low <= chance:
        found.append(
            f"test accuracy {right:.2%} (95 % interval {low:.1%} to {high:.1%} on {n} images) is not above that of naming the "
            f"largest class every time, {chance:.2%}: train longer (--set final_epochs=...), or give more images"
        )
    named = np.bincount(predicted, minlength=len(classes))
    share = float(named.max() / n)
    if share >= ONE_CLASS and share > chance + (1 - ONE_CLASS):
        name = classes[int(named.argmax())]
        found.append(f"the network calls {share:.0%} of the test images '{name}', and no class holds more than {chance:.0%}")
    return found


def of_ranking(val_accuracy: float, labels: np.ndarray) -> list[str]:
    """The accuracy that a search chose by, where it is not above chance on validation labels int [N]."""
    chance = float(np.bincount(labels).max() / len(labels))
    low, _ = units.wilson(val_accuracy, len(labels))
    if low > chance:
        return []
    return [
        f"the networks were ranked by accuracies with the supernet's weights that are hardly above chance ({val_accuracy:.2%} "
        f"for the chosen one; the largest class: {chance:.2%}): another one may be as good; search for longer "
        "(--set epochs=..., --set search.epochs=...)"
    ]


def of_latency(chosen: Mapping[str, Any], limits: Sequence[Limit]) -> list[str]:
    """A measured latency of wide spread, above its limit, or far from the predicted one."""
    values = {kind: units.latency(chosen, kind) for kind in ("predicted", "measured", "p10", "p90")}
    predicted, measured, low, high = values.values()
    if measured is None:
        return []
    found = []
    if low and high and high > WIDE * low:
        found.append(
            f"the chosen network took {low:.3g} to {high:.3g} ms (10 to 90 % of its runs): the device was busy; measure again "
            "on an idle one (`hiernas cost RUN`)"
        )
    if predicted is not None and abs(predicted - measured) > OFF * measured:
        error = f"{predicted / measured - 1:+.0%}"
        found.append(
            f"latency was predicted at {predicted:.3g} ms and measured at {measured:.3g} ms, {error}: limits hold for "
            "predictions, so leave some room (`hiernas measure SPACE --calibrate` shows how far they can be trusted)"
        )
    for limit in limits:
        if limit.metric == "latency_ms" and not limit.low <= measured <= limit.high:
            found.append(f"the measured latency, {measured:.3g} ms, is outside {limit}, which the predicted one meets")
    return found

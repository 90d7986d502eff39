"""Is a result good, and can it be trusted: what a network says of test images, a verdict, and what is doubtful, in sentences.

For the terminal, result.json, and the top of the report.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hiernas.budget import CostTable, Limit
from hiernas.report import units

SHOWN = 20  # classes up to which the whole confusion matrix is shown
MOST = 10  # mistakes, or classes, that are shown of more
WORST = 8  # test images that are shown
ONE_CLASS = 0.95  # share of the images that are called one class, from which that is said
WIDE = 1.5  # a 90th percentile of a latency that is so many times the tenth
OFF = 0.10  # relative difference of a predicted latency from the measured one


@dataclass(frozen=True)
class Evaluation:
    """Images of each class (rows) by the class that a network named (columns): int64 [classes, classes]."""

    classes: tuple[str, ...]
    confusion: np.ndarray

    @classmethod
    def of(cls, classes: Iterable[str], labels: np.ndarray, named: np.ndarray) -> Self:
        """By the true and the named classes of images: int64 [N]."""
        names = tuple(classes)
        n = len(names)
        return cls(names, np.bincount(labels * n + named, minlength=n * n).reshape(n, n))

    @classmethod
    def read(cls, result: Mapping[str, Any]) -> Self | None:
        """What a result.json has of the test; None where an older version wrote it."""
        if "tested" not in result:
            return None
        matrix = np.diag(np.array(result["tested"]["images"], dtype=np.int64))
        for true, named, images in result["tested"]["confused"]:
            matrix[true, named] += images
            matrix[true, true] -= images
        return cls(tuple(result["data"]["classes"]), matrix)

    def kept(self) -> dict[str, Any]:
        """What result.json has of it: images by class, and which were taken for which."""
        return {"images": self.images.tolist(), "confused": [list(each) for each in self.confused]}

    @property
    def images(self) -> np.ndarray:
        """Of each class: int64 [classes]."""
        return np.asarray(self.confusion.sum(1))

    @property
    def accuracy(self) -> float:
        return float(self.confusion.trace() / self.confusion.sum())

    @property
    def largest(self) -> float:
        """The accuracy of naming the largest class every time."""
        return float(self.images.max() / self.images.sum())

    @property
    def by_class(self) -> list[tuple[str, int, float | None]]:
        """Name, number of images and accuracy of each class, None where there is no image."""
        rows = zip(self.classes, self.images.tolist(), self.confusion.diagonal().tolist(), strict=True)
        return [(name, n, right / n if n else None) for name, n, right in rows]

    @property
    def confused(self) -> list[tuple[int, int, int]]:
        """Class, the class that was named instead, and number of images, the most frequent mistake first."""
        found = [(a, b, int(self.confusion[a, b])) for a, b in np.argwhere(self.confusion).tolist() if a != b]
        return sorted(found, key=lambda each: -each[2])


def miss(result: Mapping[str, Any], metric: str, final: float | None) -> float | None:
    """By what part of a limit a value of its metric misses it: 0 where it is met, None where there is no limit or no value."""
    limits = [limit for limit in result.get("limits", ()) if limit["metric"] == metric]
    if not limits or final is None:
        return None
    above = [(final - limit["high"]) / limit["high"] for limit in limits if limit["high"]]
    below = [(limit["low"] - final) / limit["low"] for limit in limits if limit["low"]]
    return max([0.0, *above, *below])


def verdict(result: Mapping[str, Any], others: Mapping[str, float]) -> tuple[str, str]:
    """Whether a network is good, in a few words ("" where nothing is known), and what that rests on, in a sentence.

    It is held against guessing, against its limits, and against test accuracies of `others`, by name.
    """
    chosen, images, found, opening = result["chosen"], result["data"]["test"], Evaluation.read(result), []
    low, high = units.wilson(chosen["test_accuracy"], images)
    said = [f"right on {units.percent(chosen['test_accuracy'])} of {units.number(images, 'test image')} "
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"]  # fmt: skip
    if found is not None:
        said[0] += f", where naming the largest class every time would be right on {units.percent(found.largest)}"
        opening = ["better than guessing" if low > found.largest else "not shown to be better than guessing"]
    misses = list[bool]()
    for limit in result.get("limits", ()):
        metric = limit["metric"]
        kind = "predicted" if units.latency(chosen, "measured") is None else "measured"
        value = units.latency(chosen, kind) if metric == "latency_ms" else chosen.get(metric)
        if (missed := miss(result, metric, value)) is not None:
            misses.append(missed > 0)
            how = f" {kind}" if metric == "latency_ms" else ""
            asked = units.limit_text(limit, named=False)
            said.append(f"{units.lower(metric)} {units.amount(metric, value)}{how}, asked {asked}")
    if misses:
        opening.append(f"{'outside' if any(misses) else 'within'} the limit{'s' if len(misses) > 1 else ''}")
    if others:
        said.append("in its study, with the same seed: " + ", ".join(f"{k} {units.percent(v)}" for k, v in others.items()))
    return units.sentence(" and ".join(opening)), units.sentence("; ".join(said))


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


def of_test(found: Evaluation) -> list[str]:
    """What a network says of test images that shows that it has learned little."""
    n, said, right, chance = int(found.images.sum()), [], found.accuracy, found.largest
    low, high = units.wilson(right, n)
    if low <= chance:
        said.append(
            f"test accuracy {right:.2%} (95 % interval {low:.1%} to {high:.1%} on {n} images) is not above that of naming the "
            f"largest class every time, {chance:.2%}: train longer (--set final_epochs=...), or give more images"
        )
    named = found.confusion.sum(0)
    share = float(named.max() / n)
    if share >= ONE_CLASS and share > chance + (1 - ONE_CLASS):
        name = found.classes[int(named.argmax())]
        said.append(f"the network calls {share:.0%} of the test images '{name}', and no class holds more than {chance:.0%}")
    return said


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
            "predictions, so leave some room, or search with --calibrate 12, which corrects them by whole networks"
        )
    for limit in limits:
        if limit.metric == "latency_ms" and not limit.low <= measured <= limit.high:
            found.append(f"the measured latency, {measured:.3g} ms, is outside {limit}, which the predicted one meets")
    return found

"""The Python surface: the methods as functions that return a `SearchResult`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hiernas import ranks
from hiernas.errors import ConfigError, RunError
from hiernas.problem import Candidate
from hiernas.report.page import result_of
from hiernas.run.folder import Listener, RunFolder
from hiernas.run.request import Request
from hiernas.run.search import resume as _resume
from hiernas.run.search import search
from hiernas.run.trained import TrainedNetwork, load
from hiernas.space import Architecture, SearchSpace


@dataclass(frozen=True)
class SearchResult:
    """What a search found. `result` is the run's result.json; costs are in ms, parameters and multiply-adds."""

    front: tuple[Candidate, ...]
    chosen: Candidate
    architecture: Architecture
    test_accuracy: float
    run_folder: Path
    result: dict[str, Any]

    def load(self) -> TrainedNetwork:
        """The trained network, with its classes and its `predict`; see `hiernas.load`."""
        return load(self.run_folder, self.architecture.skeleton.space())  # type: ignore[attr-defined] # all of ours have one

    def table(self) -> list[dict[str, Any]]:
        """Every architecture that was evaluated, a row each, as `pandas.DataFrame(found.table())` takes them.

        Keys: "phase", "options", "val_accuracy", "params", "macs", "latency_ms" (predicted, or None) and "chosen". Of a method
        that evaluates none one by one, the front's.
        """
        front = [{"phase": "front", **asdict(c), "options": list(c.options)} for c in self.front]
        rows = RunFolder.open(self.run_folder).table() or front
        return [{**row, "chosen": tuple(row["options"]) == self.chosen.options} for row in rows]


@dataclass(frozen=True)
class Search:
    """A search method as a function: `hiernas.hnas(space, data, limits=["latency_ms<=2", "params<=1M"])`."""

    method: str

    @ranks.joined()
    def __call__(
        self, space: SearchSpace | str | None = None, data: Any = "digits", limits: str | Sequence[str] = (),
        config: Any = None, *, preset: str = "quick", settings: str | Sequence[str] = (),
        latency_table: str | Path | None = None, runtime: str | None = None, threads: int | None = None,
        image_size: int | None = None, val_per_class: int | None = None, skip_bad_images: bool = False, seed: int = 0,
        time: float | None = None, out: str | Path | None = None, on_event: Listener | None = None,
    ) -> SearchResult:  # fmt: skip
        """Search, train and measure; the run folder is `out`, by default a new one under runs/.

        `space`: the method's own where none is given; by name, one of its own has the size of the preset. `limits`: texts, or
        one such as "params<=60k and macs<=3M". `config`: of the method's own class, such as `HNASConfig`; without one, the
        preset's. `settings`: "key=value" on top of it. `time`: seconds in which all is to be done, for which its epochs are
        then set. `on_event` is called with each event, a dict whose "event" says what it is: epochs, generations, ...
        The rest is as on the command line.
        `data` is an `ImageData`, a torch Dataset of (image, label), or what `hiernas.load_data` takes. Raises
        `LimitError` before any training where no architecture meets the limits.
        """
        if config is not None and preset != "quick":
            raise ConfigError(f"preset={preset!r} and a config were given; give one of them")
        texts, words = ((x,) if isinstance(x, str) else tuple(x) for x in (limits, settings))
        request = Request(
            self.method, space, {}, data, texts, latency_table, runtime, threads, preset, config, words, seed=seed,
            image_size=image_size, val_per_class=val_per_class, skip_bad_images=skip_bad_images, time=time,
        )  # fmt: skip
        return _result(search(request, out, on_event), space)


hnas = Search("hnas")  # HNAS, arXiv 2005.07564v1
hournas = Search("hournas")  # HourNAS, arXiv 2005.14446v3
hdas = Search("hdas")  # H-DAS, arXiv 2101.04028v2: cells, their number, the graphs between them
hmnas = Search("hmnas")  # HM-NAS, arXiv 1909.00122v2: learned masks on edges and operations
darts = Search("darts")  # DARTS, arXiv 1806.09055, first order
spos = Search("spos")  # SPOS, arXiv 1904.00420, with the same budget
random_search = Search("random-search")  # random feasible architectures judged by one supernet, with the same budget


@ranks.joined()
def resume(run: str | Path, space: SearchSpace | None = None, data: Any = None) -> SearchResult:
    """Go on with an interrupted run. `space` and `data`: those it was started with, where they have no name."""
    return _result(_resume(run, space=space, data=data), space)


def _result(run: RunFolder, space: SearchSpace | str | None) -> SearchResult:
    result = result_of(run)
    if result is None or "front" not in result:
        raise RunError(f"{run.path} holds no finished search")
    own, named = space if isinstance(space, SearchSpace) else None, run.read_json("best.json")
    architecture = Architecture.from_json(named, own, source=f"{run.path}/best.json")
    front, chosen = tuple(_candidate(m) for m in result["front"]), _candidate(result["chosen"])
    return SearchResult(front, chosen, architecture, result["chosen"]["test_accuracy"], run.path, result)


def _candidate(member: dict[str, Any]) -> Candidate:
    latency = member["latency_ms"]["predicted"]
    accuracy = math.nan if member["val_accuracy"] is None else member["val_accuracy"]  # of a control's untrained network
    return Candidate(tuple(member["options"]), accuracy, member["params"], member["macs"], latency)

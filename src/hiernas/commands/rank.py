"""`hiernas rank`: how far a search can be trusted, by networks within the same limits that are trained alike.

The relative improvement over random, RI = 100 (Acc_m - Acc_r) / Acc_r (Yang et al. 2019, arXiv 1912.12522), over random
networks of the whole space. And Kendall's tau between accuracies in the supernet that chose, the last one of a run, and those
after training: over random networks of the space that this supernet holds, and over members of the run's Pareto front (HNAS,
arXiv 2005.07564v1, Table 4 and Fig. 5). Batch-norm statistics in the supernet are re-estimated for each network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiernas.costs import sums
from hiernas.costs.limits import sample_feasible
from hiernas.costs.tables import cost_tables
from hiernas.errors import LimitError
from hiernas.randomness import numpy_generator
from hiernas.report.page import finished
from hiernas.run.folder import Listener, RunFolder, owned
from hiernas.run.outcome import last_supernet, train_network
from hiernas.run.request import Prepared, restore
from hiernas.space import Architecture, SearchSpace
from hiernas.train.evaluate import RunTrainer
from hiernas.train.loop import accuracy
from hiernas.train.recipes import Phase

RESAMPLES = 1000  # bootstrap samples of the interval of Kendall's tau
FEWEST = 5  # networks of a ranking: fewer in perfect order are no evidence (of 4, one order in 24; two-sided 8 %)
OWN, FRONT = "random networks of its space", "members of the front"


@dataclass(frozen=True)
class Order:
    """Kendall's tau-b between accuracies in a supernet and after training: 1 is the same order, 0 none, -1 the reverse."""

    tau: float
    low: float  # of the 95 % interval
    high: float
    chance: float  # probability of a |tau| so large where one has nothing to do with the other
    networks: int

    def __str__(self) -> str:
        return (
            f"Kendall's tau {self.tau:.2f} (95 %: {self.low:.2f} to {self.high:.2f}; by chance with probability "
            f"{self.chance:.2g}) between its accuracies and those after training, over {self.networks}"
        )


@dataclass(frozen=True)
class Trust:
    """What was found; accuracies in 0..1 on the run's test images, all after the same training."""

    chosen: float
    random: tuple[float, ...]
    improvement: float  # RI, in percent
    orders: Mapping[str, Order | str]  # by what was ranked; a sentence where there is no tau; empty without a supernet of all
    epochs: int

    def rows(self) -> dict[str, str]:
        """What `hiernas rank` shows, by name."""
        mean, spread = float(np.mean(self.random)), float(np.std(self.random, ddof=1))
        rows = {
            "chosen": f"{self.chosen:.2%} test accuracy after {self.epochs} epochs",
            "random": f"{mean:.2%} ± {spread:.2%} over {len(self.random)} networks within the same limits",
            "improvement": f"{self.improvement:+.2f} % over random (RI)",
        }
        for over, order in self.orders.items():
            more = "; rank again with more --networks (11 in HNAS' paper)" if isinstance(order, str) and over == OWN else ""
            rows[f"supernet, {over}"] = f"{order}{more}"
        return rows


def rank(path: Path, networks: int, epochs: int | None, listener: Listener) -> Trust:
    """Train `networks` random networks of a finished search, as many of its last space where pruning left another, and of
    its front, as its chosen one was trained; keeps each one's accuracy.

    Goes on where it was interrupted. Raises `RunError` for a run that is not a finished search.
    """
    with owned(RunFolder.open(path, listener)) as run:
        result = finished(run, search=True)
        run.check("best.json")
        prepared = restore(run)
        length = epochs or prepared.config.final_epochs
        drawn, ranked, supernet = _networks(run, prepared, result, networks)
        chosen = Architecture.load(run.path / "best.json")
        same = length == prepared.config.final_epochs and not result.get("inherited")  # the others begin from scratch
        known = {_key(chosen, length): result["chosen"]["test_accuracy"]} if same else {}
        every = [*drawn, *(a for some in ranked.values() for a in some), chosen]
        reached = _trained(run, prepared, every, length, known)
        random, ours = reached[: len(drawn)], reached[-1]
        orders, start = {}, len(random)
        for over, some in ranked.items():
            accuracies, config = list[float](), prepared.config
            if len(some) >= FEWEST:
                trainer = RunTrainer(prepared.data, run, prepared.seed)
                accuracies = trainer.evaluator(supernet, config.train, config.calibration_images)(some)
            trained = reached[start : start + len(some)]
            orders[over] = order_of(accuracies, trained, numpy_generator(run.config["seed"], "tau"))
            start += len(some)
    mean = float(np.mean(random))
    return Trust(ours, tuple(random), 100.0 * (ours - mean) / mean, orders, length)


def _networks(
    run: RunFolder, prepared: Prepared, result: Mapping[str, Any], n: int
) -> tuple[tuple[Architecture, ...], Mapping[str, tuple[Architecture, ...]], Any]:
    """What is trained, each once: random networks of the whole space, and, by OWN and FRONT, those that are ranked by the
    supernet that chose; which is the third, None where it does not hold all networks of its space."""
    space, seed = prepared.space, run.config["seed"]
    drawn = _draw(space, prepared, n, seed, "rank")
    if len(drawn) < 2:
        raise LimitError(f"there are {len(drawn)} networks of '{space.name}' within the limits; a spread needs at least 2")
    supernet = last_supernet(run, space)
    if supernet is None:
        return drawn, {}, None
    last = supernet.space
    inside = tuple(a for a in drawn if all(o in d.options for d, o in zip(last.decisions, a.options, strict=True)))
    more = _draw(last, prepared, n - len(inside), seed, "rank last", inside)
    front = [space.architecture(member["options"]) for member in result["front"]]
    spread = np.unique(np.linspace(0, len(front) - 1, min(n, len(front))).round().astype(int))  # from the cheapest on
    return drawn, {OWN: inside + more, FRONT: tuple(front[i] for i in spread)}, supernet


def _draw(
    space: SearchSpace, prepared: Prepared, n: int, seed: int, purpose: str, besides: Sequence[Architecture] = ()
) -> tuple[Architecture, ...]:
    """Up to `n` different networks of a space within the limits, and none of those given."""
    tables = cost_tables(space, prepared.latency)
    known = [space.encode(a).tobytes() for a in besides]
    genes = sample_feasible(space, tables, sums(prepared.limits), numpy_generator(seed, purpose), n, known)
    return tuple(space.decode(row) for row in genes)


def _key(architecture: Architecture, epochs: int) -> str:
    return f"{epochs} " + ",".join(str(choice) for choice in (*architecture.choices, *architecture.filters))


def _trained(
    run: RunFolder, prepared: Prepared, networks: Sequence[Architecture], epochs: int, known: Mapping[str, float]
) -> list[float]:
    """Test accuracies after training, in the order given; each network is trained once, unless it was before."""
    wanted = {_key(a, epochs): a for a in networks}
    reached = {k: v for k, v in ({**(run.read_json("rank.json", dict[str, float]) or {}), **known}).items() if k in wanted}
    run.tell("start", plan={"final": 1.0}, run=str(run.path), limits=[str(m) for m in prepared.limits])
    run.tell("ranking", trained=len(reached), of=len(wanted), epochs=epochs)
    for key, architecture in wanted.items():
        if key not in reached:
            reached[key] = _train(run, prepared, architecture, key, epochs)
    return [float(reached[_key(a, epochs)]) for a in networks]


def _train(run: RunFolder, prepared: Prepared, architecture: Architecture, key: str, epochs: int) -> float:
    """Test accuracy after training from scratch, kept in rank.json."""
    folder, data, final = run.path / "rank" / hashlib.sha256(key.encode()).hexdigest()[:12], prepared.data, prepared.final
    config = {"method": "train", "seed": run.config["seed"], "data": run.config["data"]}
    if not (folder / "config.yaml").exists():
        RunFolder.create(folder, config).close()
    with owned(RunFolder.open(folder, run.listener)) as own:
        network = train_network(architecture, data, Phase("final", epochs, final.lr), final.recipe, own)
        reached = float(accuracy(network, data.test, data))
    run.write_json("rank.json", {**(run.read_json("rank.json") or {}), key: reached})
    return reached


def order_of(supernet: Sequence[float], trained: Sequence[float], rng: np.random.Generator) -> Order | str:
    """Kendall's tau-b of two lists of accuracies of the same networks, its 95 % interval, by resampling the networks, and
    how likely chance gives as much; or why there is none, in a sentence."""
    from scipy.stats import kendalltau

    if len(trained) < FEWEST:
        return f"no Kendall's tau of {len(trained)}: fewer than {FEWEST} networks in any order may be chance"
    for name, values in (("in the supernet", supernet), ("after training", trained)):
        if len(set(values)) == 1:
            return f"no Kendall's tau: all {len(trained)} have the same accuracy {name}, {values[0]:.2%}"
    a, b = np.asarray(supernet), np.asarray(trained)
    samples = rng.integers(len(a), size=(RESAMPLES, len(a)))
    taus = np.array([kendalltau(a[rows], b[rows]).statistic for rows in samples])
    low, high = np.nanpercentile(taus, (2.5, 97.5))  # a sample of ties alone has none
    whole = kendalltau(a, b)
    return Order(float(whole.statistic), float(low), float(high), float(whole.pvalue), len(a))

"""`hiernas rank`: how far a search can be trusted, by networks drawn at random under the same limits and trained alike.

The relative improvement over random, RI = 100 (Acc_m - Acc_r) / Acc_r (Yang et al. 2019, arXiv 1912.12522), and, where a
supernet holds all networks of the space, Kendall's tau between its accuracies and those after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiernas.architecture import Architecture
from hiernas.costs.limits import sample_feasible
from hiernas.costs.tables import cost_tables
from hiernas.errors import ConfigError, RunError
from hiernas.finish import train_network
from hiernas.randomness import numpy_generator
from hiernas.run import Prepared, reload_prepared
from hiernas.runfolder import Listener, RunFolder
from hiernas.search.oneshot import make_evaluator
from hiernas.train.loop import accuracy
from hiernas.train.recipes import Phase

RESAMPLES = 2000  # bootstrap samples of the interval of Kendall's tau


@dataclass(frozen=True)
class Trust:
    """What was found; accuracies in 0..1 on the run's test images, all after the same training."""

    chosen: float
    random: tuple[float, ...]
    improvement: float  # RI, in percent
    tau: tuple[float, float, float] | None  # Kendall's tau and its 95 % interval; None where no supernet holds all networks
    epochs: int


def rank(path: Path, networks: int, epochs: int | None, listener: Listener) -> Trust:
    """Train `networks` random networks of a finished search as its chosen one was trained; keeps each one's accuracy.

    Goes on where it was interrupted. Raises `RunError` for a run that is not a finished search.
    """
    if networks < 2:
        raise ConfigError(f"--networks {networks}: a spread needs at least 2")
    run = RunFolder.open(path, listener)
    result = run.read_json("result.json")
    if result is None or "front" not in result:
        raise RunError(f"{path} is no finished search; `hiernas resume {path}` finishes one")
    prepared = reload_prepared(run)
    length = epochs or prepared.config.final_epochs
    space, seed = prepared.space, run.config["seed"]
    genes = sample_feasible(
        space, cost_tables(space, prepared.latency), prepared.limits, numpy_generator(seed, "rank"), networks
    )
    drawn = [space.decode(g) for g in genes]
    run.tell("start", plan={"final": 1.0}, run=str(path), limits=[str(m) for m in prepared.limits])
    trained = [_trained(run, prepared, a, f"random{i}", length) for i, a in enumerate(drawn)]
    same = length == prepared.config.final_epochs and not result.get("inherited")  # random ones begin from scratch
    chosen = result["chosen"]["test_accuracy"] if same else _trained(run, prepared, _chosen(path), "chosen", length)
    mean = float(np.mean(trained))
    return Trust(chosen, tuple(trained), 100.0 * (chosen - mean) / mean, _tau(run, prepared, drawn, trained), length)


def _chosen(path: Path) -> Architecture:
    return Architecture.load(path / "best.json")


def _trained(run: RunFolder, prepared: Prepared, architecture: Architecture, name: str, epochs: int) -> float:
    """Test accuracy after training from scratch; read where it was done before."""
    known = run.read_json("rank.json") or {}
    key = f"{epochs} " + ",".join(str(choice) for choice in (*architecture.choices, *architecture.filters))
    if key not in known:
        folder = run.path / "rank" / f"{name}-{epochs}"
        config = {"method": "train", "seed": run.config["seed"], "data": run.config["data"]}
        own = RunFolder.open(folder, run.listener) if folder.exists() else RunFolder.create(folder, config, run.listener)
        try:
            phase = Phase("final", epochs, prepared.config.final_lr)
            network = train_network(architecture, prepared.data, phase, prepared.config.train, own)
            known[key] = accuracy(network, prepared.data.test, prepared.data)
        finally:
            own.close()
        run.write_json("rank.json", known)
    return float(known[key])


def _tau(
    run: RunFolder, prepared: Prepared, drawn: Sequence[Architecture], trained: Sequence[float]
) -> tuple[float, float, float] | None:
    saved = run.load_tensors("train1")
    if prepared.space.skeleton.groups or run.config["method"] in ("hournas", "hmnas") or saved is None:
        return None
    supernet: Any = prepared.space.supernet()
    supernet.load_state_dict({k[6:]: v for k, v in saved[0].items() if k.startswith("model.")})
    evaluate = make_evaluator(supernet, prepared.problem(run), prepared.config.train, prepared.config.calibration_images)
    return tau_interval(evaluate(list(drawn)), trained, numpy_generator(run.config["seed"], "tau"))


def tau_interval(one: Sequence[float], two: Sequence[float], rng: np.random.Generator) -> tuple[float, float, float]:
    """Kendall's tau-b of two rankings and its 95 % interval, by resampling the networks."""
    from scipy.stats import kendalltau

    a, b = np.asarray(one), np.asarray(two)
    samples = rng.integers(len(a), size=(RESAMPLES, len(a)))
    found = np.array([kendalltau(a[rows], b[rows]).statistic for rows in samples])
    low, high = np.nanpercentile(found, (2.5, 97.5)) if np.isfinite(found).any() else (np.nan, np.nan)
    return float(kendalltau(a, b).statistic), float(low), float(high)

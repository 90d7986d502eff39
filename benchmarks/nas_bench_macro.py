"""What a search on CIFAR-10 finds in NAS-Bench-Macro, whose 6,561 networks have all been trained: tau, and regret.

    python benchmarks/nas_bench_macro.py FOLDER [SEED ...] [--stages 2 3 4] [--limits 25 50 75]

A supernet sees every training image but 1,000 four times in all, whatever M is: 4 epochs, 2 + 2 or 2 + 1 + 1. An hour and
more per seed and core. What FOLDER has is not computed again, and each row is appended to the dated result file once.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, rankdata

from common import CIFAR10, dated
from hiernas.budget import Limit
from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData, load_data, normalise
from hiernas.methods import hnas as method
from hiernas.methods.hnas import SMALL, hnas
from hiernas.problem import Candidate, Problem
from hiernas.randomness import seeded
from hiernas.run.finalists import effects, naswot
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.search.evolution import search_supernet, train_supernet
from hiernas.search.ranking import pareto_front
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import nasbench_macro

RECORDS = CIFAR10.parent / "nas-bench-macro" / "nas-bench-macro_cifar10.json"
LIMITS = {25: 45.5e6, 50: 55.4e6, 75: 65.4e6}  # by the quantile of MACs, in percent
CONFIG = replace(
    SMALL, epochs=(2, 1, 1), population=24, generations=6, objective="macs", calibration_images=250,
    train=replace(SMALL.train, accelerator="cpu"),
)  # fmt: skip
STAGES = (2, 3, 4)  # M: one supernet, one pruning, two
RANDOM, BEST = 120, 60  # networks that are ranked: of all, and of the best 600
IMAGES = 128  # of NASWOT
HEAD = """# NAS-Bench-Macro

`python benchmarks/nas_bench_macro.py`, CIFAR-10, one thread. `tau`: Kendall's, with the mean accuracy of the benchmark's
three trainings, over 120 random networks, and over 60 of the best 600; p@10: how many of the ten best of the 120 are among
the ten that are put first. `both`: the sum of the ranks by the supernet and by NASWOT. `linear`: by what a sum over layers,
learned from the same networks, says (of `both`: of the sum of both in standard deviations); it may take any network within
the limit, not only those that were looked at. Of each supernet of a search, in the space that is left to it: `tau` over 120
random networks of that space and over the search's Pareto front, with that of MACs and of blocks over the same. Regret:
percentage points between the best network within the limit and the one taken; k = 5: the best of the five that are put
first, as training them would show.

| seed | what | by | tau, 120 of all | p@10 | tau, 60 of the best 600 | regret, k = 1 | regret, k = 5 |
|---|---|---|---|---|---|---|---|
"""


class Benchmark:
    """Its networks by their genes, with accuracies in percent."""

    def __init__(self) -> None:
        self.space = nasbench_macro()
        self.genes = self.space.all_encoded()
        records = json.loads(RECORDS.read_text())
        self.accuracy = np.array([records["".join(map(str, g))]["mean_acc"] for g in self.genes])
        self.runs = np.array([records["".join(map(str, g))]["test_acc"] for g in self.genes])
        self.macs = cost_tables(self.space, None)["macs"].of(self.genes)
        self.row = {self.space.decode(g).options: i for i, g in enumerate(self.genes)}

    def predicted(self, rows: Sequence[int], scores: np.ndarray) -> np.ndarray:
        """By a linear predictor, of all networks, learned from those of these rows."""
        gains, _ = effects(self.genes[list(rows)], scores, [len(d.options) for d in self.space.decisions])
        return np.sum([of_site[column] for of_site, column in zip(gains, self.genes.T, strict=True)], axis=0)

    def first(self, limit: float, values: np.ndarray) -> list[int]:
        """Rows of the five within the limit that have the highest values, of all networks."""
        within = np.flatnonzero(self.macs <= limit)
        return within[np.argsort(-values[within], kind="stable")[:5]].tolist()

    def regret(self, limit: float, taken: Sequence[int]) -> float:
        """Of the best of these rows, under a limit that all of them meet."""
        assert (self.macs[list(taken)] <= limit).all()
        return float(self.accuracy[self.macs <= limit].max() - self.accuracy[list(taken)].max())


def standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def cached(file: Path, make: Callable[[], Any]) -> Any:
    if not file.exists():
        value = make()
        file.write_text(json.dumps(value))
    return json.loads(file.read_text())


def images_of(seed: int) -> ImageData:
    return load_data(CIFAR10, val_per_class=100, seed=seed)


def promise(networks: Sequence[Architecture], data: ImageData, seed: int) -> list[float]:
    """NASWOT of each, on the same training images."""
    x = normalise(data.train.images.fetch(torch.arange(IMAGES)), data, torch.device("cpu"))
    found = []
    for architecture in networks:
        with seeded(seed, "naswot"):
            network = architecture.build()
        found.append(naswot(network, x))
    return found


def problem_in(run: RunFolder, space: SearchSpace, data: ImageData, limit: float | None, seed: int) -> Problem:
    limits = () if limit is None else (Limit("macs", high=limit),)
    return make_problem(space, data, limits, None, run, seed)


def opened(folder: Path, seed: int) -> RunFolder:
    config = {"method": "hnas", "seed": seed, "data": {"source": "cifar10"}}
    return RunFolder.open(folder) if (folder / "config.yaml").exists() else RunFolder.create(folder, config)


def trained_once(bench: Benchmark, folder: Path, data: ImageData, stages: int, seed: int) -> Any:
    """The first supernet of a search with so many stages: it is the same under every limit."""
    config = replace(CONFIG, stages=stages)
    run = opened(folder, seed)
    problem = problem_in(run, bench.space, data, None, seed)
    supernet = problem.supernet(bench.space)
    train_supernet(supernet, problem, config.trainings()[0], config)
    run.close()
    return problem, supernet


def ranking(bench: Benchmark, folder: Path, data: ImageData, seed: int) -> list[str]:
    """Rows: how well what can be known before training puts networks in order."""
    rng = np.random.default_rng(7)  # the same networks for every seed
    rows = rng.permutation(len(bench.genes))[:RANDOM].tolist()
    best = np.argsort(-bench.accuracy)[:600][rng.permutation(600)[:BEST]].tolist()
    networks = [bench.space.decode(bench.genes[i]) for i in rows + best]

    def by_supernet() -> list[float]:
        problem, supernet = trained_once(bench, folder / "once", data, 2, seed)
        evaluate = problem.trainer.evaluator(supernet, CONFIG.train, CONFIG.calibration_images)
        return [x for start in range(0, len(networks), 30) for x in evaluate(networks[start : start + 30])]

    scores: dict[str, np.ndarray] = {
        "MACs": bench.macs[rows + best],
        "blocks": np.array([sum(o != "skip" for o in a.options) for a in networks], dtype=float),
        "NASWOT": np.array(cached(folder / "promise.json", lambda: promise(networks, data, seed))),
        "supernet": np.array(cached(folder / "supernet.json", by_supernet)),
    }
    scores["both"] = rankdata(scores["NASWOT"]) + rankdata(scores["supernet"])
    drawn = {name: scores[name][:RANDOM] for name in ("supernet", "NASWOT")}
    drawn["both"] = standard(drawn["supernet"]) + standard(drawn["NASWOT"])
    scores |= {f"{name}, linear": bench.predicted(rows, values)[rows + best] for name, values in drawn.items()}
    truth = bench.accuracy[rows + best]
    ten = set(np.argsort(-truth[:RANDOM])[:10].tolist())
    lines = []
    for name, values in scores.items():
        first = set(np.argsort(-values[:RANDOM], kind="stable")[:10].tolist())
        taus = [kendalltau(values[part], truth[part]).statistic for part in (slice(RANDOM), slice(RANDOM, None))]
        lines.append(f"| {seed} | ranking | {name} | {taus[0]:.3f} | {len(first & ten)} | {taus[1]:.3f} | - | - |")
    return lines


def searched(bench: Benchmark, folder: Path, data: ImageData, stages: int, label: int, seed: int) -> list[str]:
    """Rows: how each supernet of a search under a limit ranks, and what the search takes, by the last of them and by both."""
    base, limit = folder / ("once" if stages == 2 else "first"), LIMITS[label]
    own = folder / f"M{stages}-{label}"

    def search() -> dict[str, Any]:
        if not own.exists():
            trained_once(bench, base, data, stages, seed)
            shutil.copytree(base, own)
        run, ranks = opened(own, seed), dict[str, Any]()

        def looked_at(supernet: Any, problem: Problem, phase: str, config: Any) -> list[Candidate]:
            found = search_supernet(supernet, problem, phase, config)
            drawn = [a.options for a in some_of(supernet.space, RANDOM)]
            front = [c.options for c in pareto_front(found, config.objective)]
            evaluate = problem.trainer.evaluator(supernet, config.train, config.calibration_images)

            def judged() -> list[float]:
                some = [bench.space.architecture(list(options)) for options in drawn + front]
                return [x for start in range(0, len(some), 30) for x in evaluate(some[start : start + 30])]

            ranks[phase] = {"drawn": drawn, "front": front, "accuracies": cached(own / f"ranks-{phase}.json", judged)}
            return found

        setattr(method, "search_supernet", looked_at)  # noqa: B010  (mypy: not what the module exports)
        hnas(problem_in(run, bench.space, data, limit, seed), replace(CONFIG, stages=stages))
        found = run.candidates(f"evolve{stages}")
        run.close()
        return {"found": found, "ranks": ranks}

    known = cached(folder / f"M{stages}-{label}.json", search)
    found: Mapping[str, float] = known["found"]
    begin = f"| {seed} | M = {stages}, MACs <= {limit / 1e6:g}M"
    lines = [line for phase, ranked in known["ranks"].items() for line in of_supernet(bench, begin, phase, ranked)]
    rows = [bench.row[tuple(key.split(","))] for key in found]
    accuracies = np.array(list(found.values()))
    networks = [bench.space.decode(bench.genes[i]) for i in rows]
    scores = cached(own / "promise.json", lambda: promise(networks, data, seed))
    both = rankdata(accuracies) + rankdata(scores)
    orders = {"supernet": accuracies, "NASWOT": np.array(scores), "both": both}
    orders = {name: (values, [rows[i] for i in np.argsort(-values, kind="stable")]) for name, values in orders.items()}
    learned = {"supernet": accuracies, "NASWOT": np.array(scores), "both": standard(accuracies) + standard(np.array(scores))}
    for name, values in learned.items():
        everywhere = bench.predicted(rows, values)
        orders[f"{name}, linear"] = everywhere[rows], bench.first(limit, everywhere)
    return lines + chosen(bench, limit, rows, orders, f"{begin} ({len(rows)} evaluated)")


def some_of(space: SearchSpace, n: int) -> list[Architecture]:
    """Random networks of a space, different ones, or all where it has no more."""
    rng, found = np.random.default_rng(7), dict[Any, Architecture]()
    while len(found) < min(n, space.size()):
        drawn = space.sample(rng)
        found[drawn.options] = drawn
    return list(found.values())


def of_supernet(bench: Benchmark, begin: str, phase: str, ranked: Mapping[str, Any]) -> list[str]:
    """Rows: Kendall's tau of one supernet, and of what costs nothing, over networks of its space and over its front."""
    rows = [bench.row[tuple(options)] for options in ranked["drawn"] + ranked["front"]]
    n, truth = len(ranked["drawn"]), bench.accuracy[rows]
    values = {"supernet": np.array(ranked["accuracies"]), "MACs": bench.macs[rows]}
    values["blocks"] = np.array([sum(o != "skip" for o in bench.space.decode(bench.genes[i]).options) for i in rows])
    lines = []
    for name, of in values.items():
        parts = slice(n), slice(n, None)
        taus = [kendalltau(of[part], truth[part]).statistic if len(truth[part]) > 2 else float("nan") for part in parts]
        what = f"{begin}, supernet {int(phase.removeprefix('evolve')) - 1} | {name}"
        lines.append(f"{what} | {taus[0]:.3f} of its {n} | - | {taus[1]:.3f} of its front of {len(rows) - n} | - | - |")
    return lines


def chosen(bench: Benchmark, limit: float, rows: Sequence[int], orders: Mapping[str, Any], begin: str) -> list[str]:
    """Rows: for each name, values of the networks of these rows, and the first five of all in their order."""
    lines = []
    for name, (values, order) in orders.items():
        regrets = [bench.regret(limit, order[:k]) for k in (1, 5)]
        within = kendalltau(values, bench.accuracy[rows]).statistic
        lines.append(f"{begin} | {name} | {within:.3f} of those | - | - | {regrets[0]:.2f} | {regrets[1]:.2f} |")
    return lines


def drawn(bench: Benchmark, folder: Path, data: ImageData, label: int, seed: int) -> list[str]:
    """Rows of the control without a search: as many networks as an evolution judges, drawn within the limit, by NASWOT."""
    limit, rng = LIMITS[label], np.random.default_rng(seed)
    rows = rng.choice(np.flatnonzero(bench.macs <= limit), CONFIG.population * (CONFIG.generations + 1), replace=False).tolist()
    networks = [bench.space.decode(bench.genes[i]) for i in rows]
    scores = np.array(cached(folder / f"drawn-{label}.json", lambda: promise(networks, data, seed)))
    everywhere = bench.predicted(rows, scores)
    orders = {"NASWOT": (scores, [rows[i] for i in np.argsort(-scores, kind="stable")])}
    orders["NASWOT, linear"] = everywhere[rows], bench.first(limit, everywhere)
    return chosen(bench, limit, rows, orders, f"| {seed} | no search, MACs <= {limit / 1e6:g}M ({len(rows)} drawn)")


def exact(bench: Benchmark) -> list[str]:
    """Rows of the controls, from the table: no seeds."""
    lines = []
    for limit in LIMITS.values():
        within = np.flatnonzero(bench.macs <= limit)
        near = within[bench.macs[within] >= 0.9 * limit]
        regret = bench.accuracy[within].max() - bench.accuracy
        five = {name: best_of(regret[some], 5) for name, some in (("random", within), ("random, 90 to 100 % of it", near))}
        values = {"random": regret[within].mean(), "random, 90 to 100 % of it": regret[near].mean()}
        values["largest"] = regret[within][bench.macs[within] == bench.macs[within].max()].mean()
        lines += [
            f"| - | control, MACs <= {limit / 1e6:g}M | {name} | - | - | - | {value:.2f} | {five.get(name, value):.2f} |"
            for name, value in values.items()
        ]
    top = np.argsort(-bench.accuracy)[:600]
    whole = [kendalltau(bench.runs[some, 0], bench.runs[some, 1]).statistic for some in (slice(None), top)]
    return [*lines, f"| - | two of the benchmark's trainings | each other | {whole[0]:.3f} | - | {whole[1]:.3f} | - | - |"]


def best_of(regrets: np.ndarray, k: int) -> float:
    """The expected least of `k` drawn with replacement."""
    ordered, n = np.sort(regrets), len(regrets)
    at_least = ((n - np.arange(n + 1)) / n) ** k  # the chance that none of the i smallest is drawn
    return float((ordered * -np.diff(at_least)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--stages", type=int, nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--limits", type=int, nargs="+", default=list(LIMITS), choices=LIMITS)
    asked = parser.parse_args()
    path, bench = dated("nas_bench_macro"), Benchmark()
    if not path.exists():
        path.write_text(HEAD + "\n".join(exact(bench)) + "\n")
    for seed in asked.seeds:
        at, data = asked.folder / f"seed{seed}", images_of(seed)
        at.mkdir(parents=True, exist_ok=True)
        if 2 in asked.stages:
            append(path, ranking(bench, at, data, seed))
        for label in asked.limits:
            append(path, drawn(bench, at, data, label, seed))
            for stages in asked.stages:
                append(path, searched(bench, at, data, stages, label, seed))


def append(path: Path, lines: Sequence[str]) -> None:
    with path.open("a") as file:  # others may be writing, too
        for line in lines:
            if line not in path.read_text():
                file.write(line + "\n")
                print(line, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""Whether a supernet ranks better where every path, or the largest, gets its due: NAS-Bench-Macro, at equal multiply-adds.

    python benchmarks/fair_supernets.py FOLDER [SEED ...] [--epochs 2] [--ways uniform turns sandwich distilled]

uniform: one uniform path a step, as SPOS and HNAS train. turns: of each layer every option once in any three steps, in random
order (FairNAS' strict fairness without adding gradients up). sandwich: each step the largest path and a uniform one, gradients
added (Yu & Huang 2019). distilled: the same, and the uniform path learns what the largest one says instead of the labels
(in-place distillation). Each may compute what `epochs` epochs of mean paths compute. Its own loop, the same for all: the
product trains by the first way. Half an hour per way and seed on one core; what FOLDER has is not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor

from common import dated
from hiernas.data import augment, epoch_order, normalise
from hiernas.data.split import ImageData
from hiernas.gates import single_path
from hiernas.randomness import numpy_generator, seeded, torch_generator
from hiernas.train.evaluate import Evaluator
from hiernas.train.loop import make_fabric
from nas_bench_macro import CONFIG, LIMITS, RANDOM, Benchmark, append, cached, images_of

WAYS = ("uniform", "turns", "sandwich", "distilled")
HEAD = """# Supernets that rank large networks fairly

`python benchmarks/fair_supernets.py FOLDER`: NAS-Bench-Macro, CIFAR-10, one thread, equal multiply-adds of training.
Kendall's tau with the benchmark's accuracies over 120 random networks and over the larger half of them (by multiply-adds);
regret in points, under MACs <= 45.5M / 55.4M / 65.4M, of the network that a linear predictor of these 120 accuracies puts
first, and of the best of its first five.

| seed | way | epochs' worth | accuracy of the 120, mean | tau | tau, larger half | regret, k = 1 | regret, k = 5 |
|---|---|---|---|---|---|---|---|
"""


def drawn(way: str, sizes: list[int], largest: list[int], rng: np.random.Generator) -> Iterator[list[list[int]]]:
    """The genes of the paths of each step."""
    while True:
        if way == "turns":
            orders = [rng.permutation(n) for n in sizes]
            yield from ([[int(order[i % len(order)]) for order in orders]] for i in range(max(sizes)))
        else:
            one = [int(rng.integers(n)) for n in sizes]
            yield [one] if way == "uniform" else [largest, one]


def trained(bench: Benchmark, way: str, epochs: float, data: ImageData, seed: int) -> Any:
    with seeded(seed, "fair"):
        supernet: Any = bench.space.supernet()
    supernet.to(memory_format=torch.channels_last).train()
    recipe, lr, split = CONFIG.train, CONFIG.trainings()[0].lr, data.train
    groups = [[p for p in supernet.parameters() if p.ndim > 1], [p for p in supernet.parameters() if p.ndim <= 1]]
    decays = zip(groups, (recipe.weight_decay, 0.0), strict=True)
    optimizer = torch.optim.SGD([{"params": g, "weight_decay": d} for g, d in decays], lr=lr, momentum=recipe.momentum)
    macs = dict(zip(map(tuple, bench.genes.tolist()), bench.macs.tolist(), strict=True))
    largest = max(macs, key=lambda genes: macs[genes])
    sizes = [len(d.options) for d in bench.space.decisions]
    paths = drawn(way, sizes, list(largest), numpy_generator(seed, "fair", way))
    most, spent, epoch = epochs * len(split) * float(np.mean(bench.macs)), 0.0, 0
    while True:
        for step, indices in enumerate(epoch_order(len(split), recipe.batch_size, torch_generator(seed, "fair", epoch))):
            if spent >= most:
                return supernet
            images = augment(split.images.fetch(indices), recipe, torch_generator(seed, "fair", epoch, step, "augment"))
            x, y = normalise(images, data, torch.device("cpu")), split.labels[indices]
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr(lr, epochs * spent / most, epochs)
            optimizer.zero_grad(set_to_none=True)
            teacher: Tensor | None = None
            for genes in next(paths):
                logits = supernet(x, single_path(genes))
                if teacher is None or way != "distilled":
                    loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
                else:
                    loss = F.cross_entropy(logits, teacher.softmax(1))
                loss.backward()
                teacher = logits.detach()
                spent += len(y) * macs[tuple(genes)]
            optimizer.step()
        epoch += 1


def rows(bench: Benchmark, way: str, epochs: float, folder: Path, seed: int) -> list[str]:
    some = np.random.default_rng(7).permutation(len(bench.genes))[:RANDOM].tolist()  # those of nas_bench_macro.py

    def judged() -> list[float]:
        data = images_of(seed)
        supernet = trained(bench, way, epochs, data, seed)
        judge = Evaluator(
            supernet, data, make_fabric(CONFIG.train), seed=seed, calibration_images=CONFIG.calibration_images
        )
        networks = [bench.space.decode(bench.genes[i]) for i in some]
        return [x for start in range(0, len(networks), 30) for x in judge(networks[start : start + 30])]

    values = np.array(cached(folder / f"{way}-{epochs:g}-{seed}.json", judged))
    larger = np.argsort(bench.macs[some])[RANDOM // 2 :]
    truth = bench.accuracy[some]
    taus = [kendalltau(values[part], truth[part]).statistic for part in (slice(None), larger)]
    everywhere, regrets = bench.predicted(some, values), []
    for limit in LIMITS.values():
        order = bench.first(limit, everywhere)
        regrets.append([bench.regret(limit, order[:k]) for k in (1, 5)])
    shown = [" / ".join(f"{r[k]:.2f}" for r in regrets) for k in (0, 1)]
    means = f"{100 * values.mean():.1f}"
    return [f"| {seed} | {way} | {epochs:g} | {means} | {taus[0]:.3f} | {taus[1]:.3f} | {shown[0]} | {shown[1]} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    asked = parser.parse_args()
    path, bench = dated("fair_supernets"), Benchmark()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(HEAD)
    for seed in asked.seeds:
        for way in asked.ways:
            append(path, rows(bench, way, asked.epochs, asked.folder, seed))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

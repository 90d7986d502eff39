"""Evaluating a population in shared prefixes against one candidate at a time; and the memory that it takes.

    python benchmarks/shared_prefixes.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import torch

from common import ratio, side_by_side, write
from hiernas import spaces
from hiernas.data import ImageData, load_data
from hiernas.gates import uniform_path
from hiernas.networks.ops import MBConv
from hiernas.space import SearchSpace
from hiernas.train.evaluate import Evaluator
from hiernas.train.loop import make_fabric
from hiernas.train.recipes import Recipe


def images() -> ImageData:
    """Images of CIFAR's size; what they show does not matter for time."""
    pixels = torch.randint(0, 256, (400, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return load_data([(x, i % 10) for i, x in enumerate(pixels)])


OPS = tuple(MBConv(k, e) for k in (3, 5) for e in (3, 6))


def macro() -> SearchSpace:
    """8 layers of 4 options on the skeleton of NAS-Bench-Macro: layers 1, 3 and 6 halve the image."""
    stages = [spaces.Stage(64, 2, 2, OPS), spaces.Stage(128, 3, 2, OPS), spaces.Stage(256, 3, 2, OPS)]
    return spaces.chain_space("macro4", (3, 32, 32), 10, stem=32, stem_stride=1, stages=stages, head=1280)


def tiny() -> SearchSpace:
    """8 layers of 4 options; the image is halved late, so the layers that are rarely shared cost as much as the first."""
    space = spaces.tiny((3, 32, 32), 10)
    return space.restrict({d.name: [o for o in d.options if o != "skip"] for d in space.decisions})


def pruned(space: SearchSpace) -> SearchSpace:
    """As after two prunings: two options left in each layer (HNAS-L went from 10^27 to 10^9: 2.6 of 19 per layer)."""
    return space.restrict({d.name: d.options[1:3] for d in space.decisions})


def evaluator(space: SearchSpace, data: ImageData) -> Evaluator:
    torch.manual_seed(0)
    supernet = space.supernet().to(memory_format=torch.channels_last)
    x = torch.randn(8, 3, 32, 32)
    supernet(x, uniform_path(space, np.random.default_rng(0)))
    return Evaluator(supernet, data, make_fabric(Recipe(accelerator="cpu")), seed=0, calibration_images=64, batch_size=64)


def compare(name: str, space: SearchSpace, data: ImageData, rounds: int = 2) -> str:
    evaluate = evaluator(space, data)
    rng = np.random.default_rng(0)
    found = dict.fromkeys(space.sample(rng) for _ in range(2000))
    population = list(found)[:64]
    assert evaluate(population) == [evaluate([a])[0] for a in population], "the two must agree to the last digit"
    works = {"together": lambda: evaluate(population), "alone": lambda: [evaluate([a]) for a in population]}
    seconds = side_by_side(works, rounds, warmup=0)
    return f"| {name} | {len(population)} | {ratio(seconds['alone'], seconds['together'])} |"


def peak_memory(population: int) -> float:
    """Peak MiB of a process that evaluates a population of this size."""
    done = subprocess.run([sys.executable, __file__, str(population)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def child(population: int) -> None:
    space, rng = tiny(), np.random.default_rng(0)
    evaluator(space, images())([space.sample(rng) for _ in range(population)])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    data = images()
    rows = [
        compare("`macro`, 4 options", macro(), data),
        compare("`macro`, pruned to 2", pruned(macro()), data),
        compare("`tiny`, 4 options", tiny(), data),
        compare("`tiny`, pruned to 2", pruned(tiny()), data),
    ]
    memory = [f"| {n} | {peak_memory(n):.0f} |" for n in (1, 16, 64, 256)]
    lines = [
        "8 layers, 64 random candidates, 32x32 images. Goals: at least 1.7 with 4 options, 2.5 on a pruned space.",
        "Accuracies are equal to the last digit.", "",
        "| space | candidates | one by one over together |", "|---|---|---|", *rows, "",
        "Peak memory of the whole process:", "", "| candidates | MiB |", "|---|---|", *memory,
    ]  # fmt: skip
    write("shared_prefixes", "Evaluation in shared prefixes", lines)


if __name__ == "__main__":
    child(int(sys.argv[1])) if len(sys.argv) > 1 else main()

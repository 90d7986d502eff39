"""A single-path training step of a supernet against the same step of the same network built plainly.

    python benchmarks/training_step.py
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common import ratio, side_by_side, write
from hiernas import spaces
from hiernas.gates import of_architecture
from hiernas.space import SearchSpace


def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, optimizer: torch.optim.Optimizer, *gates: object) -> None:
    loss = F.cross_entropy(model(x, *gates), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def compare(name: str, space: SearchSpace, batch: int, rounds: int) -> str:
    torch.manual_seed(0)
    architecture = space.sample(np.random.default_rng(0))
    supernet = space.supernet().to(memory_format=torch.channels_last)
    plain = supernet.subnet(architecture).to(memory_format=torch.channels_last)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (supernet, plain)]
    x = torch.randn(batch, *space.skeleton.input_size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(space.skeleton.num_classes, (batch,))
    gates = of_architecture(space, architecture)
    works = {
        "supernet": lambda: step(supernet, x, y, optimizers[0], gates),
        "plain": lambda: step(plain, x, y, optimizers[1]),
    }
    seconds = side_by_side(works, rounds)
    return f"| {name} | {batch} | {ratio(seconds['supernet'], seconds['plain'])} |"


def main() -> None:
    rows = [
        compare("tiny, 3x32x32", spaces.tiny((3, 32, 32), 10), 64, 20),
        compare("tiny, 1x8x8", spaces.tiny((1, 8, 8), 10), 64, 60),
        compare("hnas_basic, 3x64x64", spaces.hnas_basic((3, 64, 64), 100), 16, 12),
        compare("hnas_large, 3x64x64", spaces.hnas_large((3, 64, 64), 100), 16, 12),
    ]
    goal = "Goal: at most 1.05. Forward, backward and SGD with momentum; the two take turns."
    table = ["| space | batch | ratio |", "|---|---|---|", *rows]
    write("training_step", "Training step: supernet over plain network", [goal, "", *table])


if __name__ == "__main__":
    main()

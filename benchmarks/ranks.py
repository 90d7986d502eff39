"""A training step by two processes against one: seconds, and what each process sends.

    python benchmarks/ranks.py [ROUNDS]
"""

from __future__ import annotations

import io
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from PIL import Image
from torch import distributed, multiprocessing, nn

from common import ratio, write
from hiernas import ranks, spaces
from hiernas.gates import Gates, softmax, uniform_path
from hiernas.space import SearchSpace
from hiernas.train.together import WholeBatch, backward_of, whole_batches

PROCESSES = 2


def cases() -> dict[str, tuple[SearchSpace, int]]:
    """Spaces, and images in a batch."""
    return {
        "tiny, 3x32x32": (spaces.tiny((3, 32, 32), 10), 64),
        "hnas_basic, 3x64x64, 100 classes": (spaces.hnas_basic((3, 64, 64), 100), 32),
        "hnas_basic, 3x224x224, 1000 classes": (spaces.hnas_basic((3, 224, 224), 1000), 4),
        "darts, 3x32x32, 5 cells of 8 channels, all operations": (spaces.darts((3, 32, 32), 10).proxy(8, 5), 16),
    }


def gates_of(space: SearchSpace, seed: int) -> Gates:
    """Of a single path in chains, of all operations in cells."""
    if space.skeleton.searched == "blocks":
        return uniform_path(space, np.random.default_rng(seed))
    return softmax([torch.zeros(len(d.options)) for d in space.decisions])


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Bytes that this process gives to collectives, and how many it takes part in, by kind."""
    found, all_reduce, all_gather = Counter[str](), distributed.all_reduce, distributed.all_gather

    def reduced(tensor: Any, *given: Any, **more: Any) -> Any:
        kind = "gradients" if tensor.ndim == 1 else "batch norm"
        found.update({kind: tensor.numel() * tensor.element_size(), f"{kind} messages": 1})
        return all_reduce(tensor, *given, **more)

    def gathered(every: Any, tensor: Any, *given: Any) -> Any:
        found.update({"logits": tensor.numel() * tensor.element_size(), "logits messages": 1})
        return all_gather(every, tensor, *given)

    distributed.all_reduce, distributed.all_gather = reduced, gathered
    try:
        yield found
    finally:
        distributed.all_reduce, distributed.all_gather = all_reduce, all_gather


def step_of(space: SearchSpace, batch: int) -> Callable[[int], None]:
    """A training step, by as many processes as share it when it is done, each at its rows of the same batch."""
    torch.manual_seed(0)
    network: Any = space.supernet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(batch, *space.skeleton.input_size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(space.skeleton.num_classes, (batch,))
    fabric = Fabric(accelerator="cpu", devices=1)

    def step(seed: int) -> None:
        model: nn.Module = network if ranks.size() == 1 else WholeBatch(network)
        with whole_batches(network):
            loss = F.cross_entropy(model(x[ranks.rows(batch)], gates_of(space, seed)), y)
            optimizer.zero_grad(set_to_none=True)
            backward_of(fabric)(loss)
        optimizer.step()

    return step


def seconds(step: Callable[[int], None], seed: int) -> tuple[float, float]:
    """That pass, and that a processor works for this process, which a busy neighbour hardly changes."""
    start, worked = time.perf_counter(), time.process_time()
    step(seed)
    return time.perf_counter() - start, time.process_time() - worked


def measured(name: str, space: SearchSpace, batch: int, rounds: int) -> list[str]:
    """Rows of one case: the time, by turns alone and together; and the traffic of a step, mean over as many paths."""
    step, alone, together, traffic = step_of(space, batch), [], [], Counter[str]()
    by_one = ranks.told(lambda seed: seconds(step, seed))
    for seed in range(rounds + 1):
        alone.append(by_one(seed))
        with counting() as found:
            together.append(seconds(step, seed))
        traffic += found
    (of_one, work_of_one), (of_two, work_of_two) = np.array(alone[1:]).T, np.array(together[1:]).T  # the first ones warm up
    mean = {k: v / (rounds + 1) for k, v in traffic.items()}
    megabytes = {k: mean.get(k, 0.0) / 1e6 for k in ("gradients", "batch norm", "logits")}
    all_weights = sum(p.numel() for p in space.supernet().parameters()) * 4 / 1e6
    messages = sum(n for kind, n in mean.items() if kind.endswith("messages"))
    return [
        f"| {name} | {batch} | {1e3 * np.median(of_one):.0f} | {1e3 * np.median(of_two):.0f} | {ratio(of_two, of_one)} | "
        f"{1e3 * np.median(work_of_one):.0f} | {1e3 * np.median(work_of_two):.0f} | {ratio(work_of_two, work_of_one)} |",
        f"| {name} | {megabytes['gradients']:.2f} | {all_weights:.2f} | {megabytes['batch norm']:.3f} | "
        f"{megabytes['logits']:.3f} | {messages:.0f} |",
    ]


def decoding() -> float:
    """Milliseconds that a picture of ImageNet's usual size takes to decode to 224 pixels, on one core."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        Image.open(io.BytesIO(file.getvalue())).convert("RGB").resize((299, 224), Image.Resampling.BILINEAR)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def work(number: int, port: int, rounds: int) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with ranks.joined():
        rows = [measured(name, *case, rounds) for name, case in cases().items()]
    if number == 0:
        lines = [
            f"Two processes over gloo on {os.cpu_count()} cores, a thread each, against one of one, by turns, with the same",
            "batch. Forward, backward and SGD with momentum. Work: processor time of one process; with two, half would be all",
            f"that there is to win. Other work was going on (load {os.getloadavg()[0]:.0f}).", "",
            "| space | batch | one, ms | two, ms | ratio | work of one, ms | of each of two, ms | ratio |",
            "|---|---|---|---|---|---|---|---|", *(time for time, _ in rows), "",
            "What each process gives to be exchanged in a step, in MB: the gradients of what was computed (beside it, what all",
            "weights would be), batch-norm statistics on both ways, logits of its rows. Messages: how many exchanges.", "",
            "| space | gradients | all weights | batch norm | logits | messages |", "|---|---|---|---|---|---|",
            *(sent for _, sent in rows), "",
            f"A JPEG of 500x375 pixels takes {decoding():.1f} ms to decode and scale to 224, on one core.",
        ]  # fmt: skip
        write("ranks", "One training step by two processes", lines)


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    multiprocessing.spawn(work, (port, int(sys.argv[1]) if len(sys.argv) > 1 else 8), PROCESSES)

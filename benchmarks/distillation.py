"""Whether a final training gains by a teacher: random networks of `tiny`, with and without one.

    python benchmarks/distillation.py DATA [SEED ...] [--images 8000] [--epochs 6]

DATA: what `hiernas search --data` takes, of which so many training images are used. Per seed one random network within half of
the largest one's multiply-adds is trained alone; as much longer as the teacher's forward passes cost; by half of its loss from
what the largest network of the space says, trained as long; and the same by the largest network as a uniformly trained supernet
has it, which a search has for nothing. Temperature 2, settled before anything was measured. A quarter of an hour a seed on one
core.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import dated
from hiernas.costs.tables import cost_tables
from hiernas.data import augment, epoch_order, load_data, normalise
from hiernas.data.split import ImageData
from hiernas.gates import uniform_path
from hiernas.methods.hnas import SMALL
from hiernas.randomness import numpy_generator, seeded, torch_generator
from hiernas.spaces import tiny
from hiernas.train.evaluate import calibrate
from hiernas.train.loop import accuracy

SHARE, TEMPERATURE, LR = 0.5, 2.0, 0.1
HEAD = """# A teacher in the final training

`python benchmarks/distillation.py DATA`, one thread. Test accuracy in percent: of the largest network of `tiny`, of the
same as a supernet has it, and of one random network per seed, trained in four ways.

| data | images, epochs | seed | largest | in supernet | alone | longer (epochs) | taught by largest | by that in supernet |
|---|---|---|---|---|---|---|---|---|
"""


def trained(
    model: Any, data: ImageData, rows: Tensor, epochs: int, name: str, seed: int, teacher: Any = None, space: Any = None
) -> Any:
    """A network (or supernet, where its space is given) after so many epochs; batch-norm statistics re-estimated."""
    recipe, split, cpu = SMALL.train, data.train, torch.device("cpu")
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    rng = numpy_generator(seed, "distil", name)
    for epoch in range(epochs):
        batches = epoch_order(len(rows), recipe.batch_size, torch_generator(seed, name, epoch))
        for step, chosen in enumerate(batches):
            images = augment(split.images.fetch(rows[chosen]), recipe, torch_generator(seed, name, epoch, step, "augment"))
            x, y = normalise(images, data, cpu), split.labels[rows[chosen]]
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr(LR, epoch + step / len(batches), epochs)
            model.train()
            logits = model(x) if space is None else model(x, uniform_path(space, rng))
            loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing if teacher is None else 0.0)
            if teacher is not None:
                with torch.no_grad():
                    said = (teacher(x) / TEMPERATURE).log_softmax(1)
                own = (logits / TEMPERATURE).log_softmax(1)
                taught = TEMPERATURE**2 * F.kl_div(own, said, reduction="batchmean", log_target=True)
                loss = (1 - SHARE) * loss + SHARE * taught
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
            optimizer.step()
    return model if space is not None else ready(model, data, rows)


def ready(network: Any, data: ImageData, rows: Tensor) -> Any:
    calibrate(network, [normalise(data.train.images.fetch(b), data, torch.device("cpu")) for b in rows[:2000].split(250)])
    return network.eval()


def of_seed(name: str, data: ImageData, images: int, epochs: int, seed: int) -> str:
    space = tiny(data.input_size, data.num_classes)
    macs = cost_tables(space, None)["macs"]
    rng = numpy_generator(seed, "distil")
    rows = torch.from_numpy(rng.permutation(len(data.train))[:images])
    genes = next(g for g in space.sample_encoded(rng, 1000) if macs.of(g[None])[0] <= macs.largest / 2)
    student, largest = space.decode(genes), space.decode([int(row.argmax()) for row in macs.sites])

    def new(architecture: Any, what: str) -> Any:
        with seeded(seed, what):
            return architecture.build()

    with seeded(seed, "supernet"):
        supernet: Any = space.supernet()
    big = trained(new(largest, "largest"), data, rows, epochs, "largest", seed)
    trained(supernet, data, rows, epochs, "supernet", seed, space=space)
    inherited = ready(supernet.subnet(largest), data, rows)
    longer = round(epochs * (1 + macs.largest / macs.of(genes[None])[0] / 3))  # a step costs three forward passes
    networks = [
        big, inherited,
        trained(new(student, "student"), data, rows, epochs, "student", seed),
        trained(new(student, "student"), data, rows, longer, "student", seed),
        trained(new(student, "student"), data, rows, epochs, "student", seed, big),
        trained(new(student, "student"), data, rows, epochs, "student", seed, inherited),
    ]  # fmt: skip
    shown = [f"{100 * accuracy(network, data.test, data):.2f}" for network in networks]
    shown[3] += f" ({longer})"
    return f"| {name} | {images}, {epochs} | {seed} | {' | '.join(shown)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=6)
    asked = parser.parse_args()
    path, data = dated("distillation"), load_data(asked.data)
    if not path.exists():
        path.write_text(HEAD)
    for seed in asked.seeds:
        begin = f"| {data.name} | {asked.images}, {asked.epochs} | {seed} |"
        if begin not in path.read_text():
            row = of_seed(data.name, data, asked.images, asked.epochs, seed)
            with path.open("a") as file:
                file.write(row + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

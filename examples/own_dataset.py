"""Images of your own, as a torch Dataset of (image, label), searched from Python.

    python examples/own_dataset.py [--quick] [--out FOLDER]

Takes well under a minute; `--quick` takes about ten seconds and finds nothing worth keeping.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

import hiernas
from hiernas import HNASConfig, Recipe


class Shapes(Dataset[tuple[Tensor, int]]):
    """Noisy colour pictures of 16x16 pixels: a disc (0), a square (1) or a cross (2) anywhere on a dark ground.

    An item is drawn from its own number, so it is the same each time it is asked for, as HierNAS needs it.
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if not 0 <= i < self.length:
            raise IndexError(i)
        generator = torch.Generator().manual_seed(i)
        label = i % 3
        y, x = torch.randint(5, 11, (2,), generator=generator).tolist()
        down, across = torch.meshgrid(torch.arange(16) - y, torch.arange(16) - x, indexing="ij")
        disc = down**2 + across**2 <= 16
        square = (down.abs() <= 3) & (across.abs() <= 3)
        cross = ((down.abs() <= 1) | (across.abs() <= 1)) & (down.abs() <= 4) & (across.abs() <= 4)
        colour = 0.4 + 0.6 * torch.rand(3, 1, 1, generator=generator)
        picture = (disc, square, cross)[label] * colour + 0.3 * torch.rand(3, 16, 16, generator=generator)
        return picture.clamp(0, 1), label  # float [C, H, W] within 0..1, and a whole number from 0


CONFIG = HNASConfig(
    epochs=(6, 3, 3),
    lr=(0.1, 0.05, 0.05),
    train=Recipe(batch_size=64, grad_clip=5.0),
    population=8,
    generations=3,
    calibration_images=250,
    final_epochs=10,
    final_lr=0.1,
    objective="macs",
)
QUICK = replace(CONFIG, epochs=(1, 1, 1), population=4, generations=1, final_epochs=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Search on a data set of your own.")
    parser.add_argument("--quick", action="store_true", help="one epoch of everything")
    parser.add_argument("--out", type=Path, default=None, help="run folder; default: a new one under runs/")
    asked = parser.parse_args()

    data = hiernas.load_data(Shapes(300 if asked.quick else 900))
    print(f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images of {data.input_size}")
    for note in data.notes:
        print(f"note: {note}")

    config = QUICK if asked.quick else CONFIG
    found = hiernas.hnas("tiny", data, limits=["macs<=1.5M"], config=config, out=asked.out)
    print(f"chosen: {' '.join(found.architecture.options)}, {found.chosen.macs:,} MACs")
    print(f"test accuracy {found.test_accuracy:.1%}, run folder {found.run_folder}")
    # an interrupted run has no name for these images: hiernas.resume(found.run_folder, data=data) goes on with it


if __name__ == "__main__":
    main()

"""A search space of your own, searched from Python on the digits data set.

    python examples/own_space.py [--quick] [--out FOLDER]

Takes well under a minute; `--quick` takes about ten seconds and finds nothing worth keeping.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import hiernas
from hiernas import HNASConfig, MBConv, Recipe, SearchSpace, Stage, chain_space


def my_space() -> SearchSpace:
    """Four layers for grey images of 8x8 pixels: 3 * 4 * 3 * 4 = 144 architectures."""
    ops = (MBConv(3, 2), MBConv(3, 4), MBConv(5, 2))
    stages = [
        Stage(width=16, repeats=2, stride=1, ops=ops, skip=True),  # 8x8 pixels; the first block changes the width
        Stage(width=32, repeats=2, stride=2, ops=ops, skip=True),  # 4x4 pixels
    ]
    return chain_space("mine", (1, 8, 8), 10, stem=12, stem_stride=1, stages=stages, head=96)


CONFIG = HNASConfig(
    epochs=(10, 5, 5),
    lr=(0.1, 0.05, 0.05),
    train=Recipe(batch_size=64, grad_clip=5.0),
    population=8,
    generations=3,
    calibration_images=250,
    final_epochs=20,
    final_lr=0.1,
)
QUICK = replace(CONFIG, epochs=(1, 1, 1), population=4, generations=1, final_epochs=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Search a space of your own.")
    parser.add_argument("--quick", action="store_true", help="one epoch of everything")
    parser.add_argument("--out", type=Path, default=None, help="run folder; default: a new one under runs/")
    asked = parser.parse_args()

    found = hiernas.hnas(
        my_space(), "digits", limits=["params<=16k"], config=QUICK if asked.quick else CONFIG, out=asked.out
    )
    for member in found.front:
        print(f"{member.latency_ms:.4f} ms  {member.params:6,} parameters  {' '.join(member.options)}")
    print(f"chosen: {' '.join(found.architecture.options)}, test accuracy {found.test_accuracy:.1%}")
    print(f"run folder: {found.run_folder}")

    again = hiernas.Architecture.load(found.run_folder / "best.json", my_space())  # a space of your own must be passed
    print(f"as a plain module: {sum(p.numel() for p in again.build().parameters()):,} parameters")


if __name__ == "__main__":
    main()

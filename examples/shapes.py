"""Draw a small folder of images to try a search on: circles, squares, triangles and stripes of many sizes, with noise.

    python examples/shapes.py shapes [IMAGES_PER_CLASS]
    hiernas search hnas --data shapes --limit "latency_ms<=2" --preset small
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "stripes", "triangle")
SIDES = (40, 131)  # pixels


def shape(kind: str, rng: np.random.Generator) -> Image.Image:
    """One image of a kind: any place, size and colours, under noise of deviation 25."""
    side = int(rng.integers(*SIDES))
    back, front = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    while np.abs(back - front).sum() < 200:  # a shape that cannot be seen teaches nothing
        front = rng.integers(0, 256, 3)
    image = Image.new("RGB", (side, side), tuple(map(int, back)))
    pen, colour = ImageDraw.Draw(image), tuple(map(int, front))
    radius = rng.uniform(0.25, 0.4) * side
    x, y = rng.uniform(radius, side - radius, 2)
    if kind == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif kind == "stripes":
        width = max(2, side // 8)
        for left in range(int(rng.integers(0, 2 * width)) - 2 * width, side, 2 * width):
            pen.rectangle((left, 0, left + width - 1, side), fill=colour)
    else:
        pen.regular_polygon((x, y, radius), 4 if kind == "square" else 3, fill=colour)
    noisy = np.asarray(image) + rng.normal(0, 25, (side, side, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw(folder: Path, per_class: int = 60, seed: int = 0) -> None:
    """`per_class` images of every kind, in class folders."""
    rng = np.random.default_rng(seed)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            shape(kind, rng).save(folder / kind / f"{i:03}.png")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60)

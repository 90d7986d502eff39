"""Pictures that the tests of data sources write, and their pixels as a data set gives them back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hiernas.data import ImageData, Split


def picture(seed: int, channels: int = 3) -> np.ndarray:
    shape = (12, 10, 3) if channels == 3 else (12, 10)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(folder: Path, counts: dict[str, int], first: int = 0) -> None:
    """PNG files of distinct pixels in class folders; picture `first`, `first + 1`, ... in order of the classes."""
    for name, n in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(picture(first)).save(folder / name / f"{i:03}.png")
            first += 1


def pixels(split: Split) -> torch.Tensor:
    return split.images.fetch(torch.arange(len(split)))


def everything(data: ImageData) -> set[tuple[int, bytes]]:
    """Labels and pixels of all splits, as a set."""
    splits = (data.train, data.val, data.test)
    return {(int(k), bytes(x.numpy().tobytes())) for s in splits for x, k in zip(pixels(s), s.labels, strict=True)}


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()

"""IDX files: what is in them, and what is said of damaged ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from hiernas.data import load_data
from hiernas.errors import DataError

FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def pixels(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 9, 8), dtype=np.uint8)


def labels(n: int) -> np.ndarray:
    return np.array([(3, 5, 8)[i % 3] for i in range(n)], dtype=np.uint8)


def folder(path: Path, packed: bool = True) -> Path:
    path.mkdir()
    for part, n in (("train", 60), ("t10k", 12)):
        for name, array in (("images-idx3", pixels(n, n)), ("labels-idx1", labels(n))):
            data = idx(array)
            (path / f"{part}-{name}-ubyte{'.gz' * packed}").write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_every_pixel_and_label(tmp_path: Path, packed: bool) -> None:
    data = load_data(folder(tmp_path / "d", packed))
    assert (data.classes, data.input_size) == (("3", "5", "8"), (1, 9, 8))
    assert torch.equal(data.test.images.fetch(torch.arange(12))[:, 0], torch.from_numpy(pixels(12, 12)))
    assert data.test.labels.tolist() == [i % 3 for i in range(12)]
    together = [s.images.fetch(torch.arange(len(s)))[:, 0] for s in (data.train, data.val)]
    found = {(image.numpy().tobytes(), label) for images, s in zip(together, (data.train, data.val), strict=True)
             for image, label in zip(images, s.labels.tolist(), strict=True)}  # fmt: skip
    assert found == {(image.tobytes(), i % 3) for i, image in enumerate(pixels(60, 60))}


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("train-images-idx3-ubyte.gz", lambda b: b[:100], "cannot be read"),
        ("train-images-idx3-ubyte.gz", lambda b: gzip.compress(idx(pixels(60, 1))[:-1]), "is damaged"),
        ("train-images-idx3-ubyte.gz", lambda b: gzip.compress(idx(pixels(60, 1)) + b"x"), "is damaged"),
        ("train-images-idx3-ubyte.gz", lambda b: gzip.compress(b"PK\3\4 something"), "is no IDX file"),
        ("train-images-idx3-ubyte.gz", lambda b: gzip.compress(b""), "is no IDX file"),
        ("t10k-images-idx3-ubyte.gz", lambda b: gzip.compress(idx(pixels(12, 1)[:, :5])), "different sizes"),
        ("t10k-images-idx3-ubyte.gz", lambda b: gzip.compress(struct.pack(">4I", 0x803, *[2**32 - 1] * 3)), "memory"),
        ("t10k-images-idx3-ubyte.gz", None, "images of test are missing"),
        ("t10k-labels-idx1-ubyte.gz", lambda b: gzip.compress(idx(labels(11))), "12 images and its labels are 11"),
        ("t10k-labels-idx1-ubyte.gz", lambda b: gzip.compress(idx(labels(12) + 1)), "label 4 of the test split"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(tmp_path: Path, file: str, change: object, said: str) -> None:
    path = folder(tmp_path / "d") / file
    if callable(change):
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(DataError, match=said):
        load_data(tmp_path / "d")


@pytest.mark.skipif(not FASHION.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist() -> None:
    data = load_data(FASHION)
    assert (len(data.train) + len(data.val), len(data.test), data.input_size) == (60_000, 10_000, (1, 28, 28))
    for split in (data.train, data.val, data.test):
        assert torch.bincount(split.labels).tolist() == [len(split) // 10] * 10

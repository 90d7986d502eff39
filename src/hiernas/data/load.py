"""`load_data`: from what the user names to an `ImageData`; how one set is cut in three, its statistics and fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hiernas.data.images import MIN_SIZE, PARTS, Found, load_images
from hiernas.data.sources import find
from hiernas.data.split import ImageData, Split, Subset
from hiernas.errors import DataError

STATISTICS_IMAGES = 10_000  # training images that mean and std are taken from, at most
MEMORY_GIB = 4.0  # of pixels kept in memory at most
PIECE = 256  # images fetched at a time


def load_data(
    source: str | Path | Dataset[Any], *, image_size: int | None = None, val_per_class: int | None = None, seed: int = 0,
    skip_bad_images: bool = False, memory_gib: float = MEMORY_GIB,
) -> ImageData:  # fmt: skip
    """Images, labels and splits of a source; the same source, options and seed give the same tensors.

    source: "digits" (scikit-learn's); a folder of class folders; a folder with train/ and, if wanted, val/ and test/
        that hold class folders; a folder of parquet files; "hf:NAME", a data set of the Hugging Face hub; or a torch
        data set of (image, label). Files and folders whose name starts with a dot are ignored.
    image_size: height and width in pixels that all images get. Without it a common size is kept where it is
        reasonable, and mixed sizes become squares (`hiernas.data.images` has the rules for sizes and colours).
    val_per_class: images of each class cut from training for validation, where the source has no validation split;
        default 20 %, at most max(50, 2000 // classes). Without a test split 20 % of each class are held out first.
    skip_bad_images: leave damaged images out instead of raising.
    memory_gib: GiB of pixels kept in memory at most; beyond it images are checked once, then decoded on demand. Larger
        parquet files are then unpacked into a temporary file.

    Raises `DataError` where the source is missing, empty or not in one of these layouts, an image is damaged, labels
    or classes do not fit, or a class has too few images.
    """
    _check(image_size, val_per_class, seed, memory_gib)
    found = find(source, memory_gib)
    if len(found.classes) < 2 or not found.reader.count:
        held = f"only the class '{found.classes[0]}'" if found.classes and found.reader.count else "no readable images"
        raise DataError(f"'{found.name}' holds {held}; a classifier needs images of at least two classes")
    loaded = load_images(found, image_size=image_size, skip_bad=skip_bad_images, memory_gib=memory_gib)
    usable = {part: np.setdiff1d(rows, loaded.bad) for part, rows in found.parts.items()}
    divided, cuts = divide(found.labels, usable, found.classes, val_per_class, seed)
    parts, labels = [divided[part] for part in PARTS], torch.from_numpy(found.labels)
    train, val, test = (Split(Subset(loaded.images, some), labels[some]) for some in map(torch.from_numpy, parts))
    input_size = (*loaded.form,)
    mean, std = channel_statistics(train, seed)
    ours = np.setdiff1d(np.arange(len(labels)), loaded.bad)
    notes = (*found.notes, *loaded.notes, *cuts, *_under_two_labels(found, loaded.digests, ours))
    fingerprint = fingerprint_of(found.classes, input_size, [(found.labels[r], loaded.digests[r]) for r in parts])
    return ImageData(found.name, train, val, test, found.classes, input_size, mean, std, notes, fingerprint)


def _check(image_size: int | None, val_per_class: int | None, seed: int, memory_gib: float) -> None:
    numbers = (("image_size", image_size, MIN_SIZE), ("val_per_class", val_per_class, 1), ("seed", seed, 0))
    for name, value, least in numbers:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            raise DataError(f"{name}={value} must be a whole number, at least {least}")
    if not memory_gib >= 0:
        raise DataError(f"memory_gib={memory_gib} must be 0 or more; 0 decodes every image on demand")


def default_val_per_class(images: int, classes: int) -> int:
    """Validation images cut from a class with so many training images: 20 %, at most max(50, 2000 // classes)."""
    return max(1, min((images + 2) // 5, max(50, 2000 // classes)))


def divide(
    labels: np.ndarray, parts: Mapping[str, np.ndarray], classes: Sequence[str], val_per_class: int | None, seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rows of "train", "val" and "test", in ascending order, and what was held out, in words.

    `labels` [N] belong to all rows; `parts` are the rows of "train" and of those of "val" and "test" that the source
    has. A missing one is cut from "train" class by class: for testing 20 %, for validation `val_per_class` images.
    Raises `DataError` where a class has too few images for that, or none in a split the source has.
    """
    if val_per_class is not None and "val" in parts:
        raise DataError(f"val_per_class={val_per_class} does nothing: the data have a validation split; leave it out")
    _check_counts(labels, parts, classes)
    rows, notes = dict(parts), []
    if "test" not in parts:
        shares = [max(1, (n + 2) // 5) for n in _counts(labels, rows["train"], classes)]
        rows["test"], rows["train"] = _cut(labels, rows["train"], shares, [seed, 0])
        notes.append(f"no test split given: {len(rows['test'])} images (20 % of each class) are held out for testing")
    if "val" not in parts:
        counts = _counts(labels, rows["train"], classes)
        shares = [val_per_class or default_val_per_class(n, len(classes)) for n in counts]
        for name, n, share in zip(classes, counts, shares, strict=True):
            if share >= n:
                of_class = f"the {n} training images of class '{name}'"
                raise DataError(f"val_per_class={share} would leave none of {of_class}; give at most {min(counts) - 1}")
        rows["val"], rows["train"] = _cut(labels, rows["train"], shares, [seed, 1])
        notes.append(f"no validation split given: {len(rows['val'])} training images are held out for validation")
    return rows, notes


def _counts(labels: np.ndarray, rows: np.ndarray, classes: Sequence[str]) -> list[int]:
    return [int(n) for n in np.bincount(labels[rows], minlength=len(classes))]


def _check_counts(labels: np.ndarray, parts: Mapping[str, np.ndarray], classes: Sequence[str]) -> None:
    needed = {0: 1, 1: 2, 2: 5}[("test" not in parts) + ("val" not in parts)]
    for part, rows in parts.items():
        least = needed if part == "train" else 1
        for name, n in zip(classes, _counts(labels, rows, classes), strict=True):
            if n < least:
                has = f"class '{name}' has {n} usable images in the {part} split"
                raise DataError(f"{has}, but at least {least} must be there; add images or leave the class out")


def _cut(labels: np.ndarray, rows: np.ndarray, shares: Sequence[int], seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """`shares[c]` random rows of each class c, and the others."""
    rng = np.random.default_rng(seed)
    taken = [rng.permutation(rows[labels[rows] == c])[:n] for c, n in enumerate(shares)]
    cut = np.sort(np.concatenate(taken))
    return cut, np.setdiff1d(rows, cut)


def channel_statistics(split: Split, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels scaled to 0..1, of up to 10,000 random images.

    Exact for the images taken, as it counts the 256 pixel values. A deviation of 0 is returned as 1.
    """
    rng = np.random.default_rng([seed, 2])
    rows = torch.from_numpy(np.sort(rng.permutation(len(split))[:STATISTICS_IMAGES]))
    pieces = (split.images.fetch(some).unbind(1) for some in torch.split(rows, PIECE))
    histograms = [torch.stack([torch.bincount(x.flatten(), minlength=256) for x in channels]) for channels in pieces]
    counts = torch.stack(histograms).sum(0).double()  # [C, 256]
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = (share * values).sum(1)
    std = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return tuple(mean.tolist()), tuple(s if s > 0 else 1.0 for s in std.tolist())


def fingerprint_of(
    classes: Sequence[str], input_size: tuple[int, int, int], splits: Sequence[tuple[np.ndarray, np.ndarray]]
) -> str:
    """16 hexadecimal digits over classes, sizes, and of each split in order all labels [N] and hashes of pixels [N, 16]."""
    digest = hashlib.sha256(repr((tuple(classes), input_size)).encode())
    for labels, digests in splits:
        digest.update(repr(len(labels)).encode() + labels.tobytes() + np.ascontiguousarray(digests).tobytes())
    return digest.hexdigest()[:16]


def _under_two_labels(found: Found, digests: np.ndarray, rows: np.ndarray) -> list[str]:
    """A note where pictures of the same pixels have several labels: no network can tell them apart."""
    _, same = np.unique(digests[rows], axis=0, return_inverse=True)
    pairs = np.unique(np.stack([same.ravel(), found.labels[rows]], 1), axis=0)  # a picture and one of its labels
    twice = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
    if not len(twice):
        return []
    names = [found.reader.name(int(row)).rstrip(",") for row in rows[same.ravel() == twice[0]][:2]]
    return [f"{len(twice)} images are there under several labels: {' and '.join(names)} have the same pixels"]


@dataclass(frozen=True)
class Joined:
    """Two sets of images as one."""

    first: Split
    second: Split

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def fetch(self, indices: Tensor) -> Tensor:
        """uint8 [B, C, H, W] of indices [B] into the first set's images, then the second's."""
        ours = indices < len(self.first)
        a, b = self.first.images.fetch(indices[ours]), self.second.images.fetch(indices[~ours] - len(self.first))
        out = a.new_empty((len(indices), *a.shape[1:]))
        out[ours], out[~ours] = a, b
        return out


def joined(first: Split, second: Split) -> Split:
    """Training and validation images together: what a stand-alone network is trained on."""
    return Split(Joined(first, second), torch.cat([first.labels, second.labels]))

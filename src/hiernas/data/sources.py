"""Where images come from: digits, folders, torch data sets; tables and IDX files are read by `tables.py`.

`find` looks at what the user named and returns a `Found`: pictures that can be opened by number, with their labels. `divide`
cuts the splits that a source lacks.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from hiernas.data.images import PART_NAMES, PARTS, Found, Header, Picture, Reader, measure, open_picture, reason_of, some
from hiernas.data.tables import from_hub, from_idx, from_parquet, idx_files
from hiernas.errors import DataError, did_you_mean

EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
ITEM = "item {} of the data set"
JUNK = ("thumbs.db", "desktop.ini", "__macosx")
LAYOUTS = "one folder per class, or train/, val/ and test/ with class folders, or parquet or IDX files"


def find(source: object) -> Found:
    """Looks at a source as `load_data` describes it. Raises `DataError` where there is nothing to train on."""
    if isinstance(source, str) and source == "digits":
        return from_digits()
    if isinstance(source, str) and source.startswith("hf:"):
        return from_hub(source.removeprefix("hf:"))
    if isinstance(source, str | Path) and str(source).strip():
        return from_folder(Path(source).expanduser())
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, str | Mapping):
        return from_dataset(source)
    kind = f"a {type(source).__name__}" if source else f"{source!r}"
    raise DataError(f"{kind} is not a data source; give 'digits', a folder, 'hf:NAME', or a data set of (image, label)")


def from_digits() -> Found:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels, values 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return from_dataset(list(zip(pixels, digits.target.tolist(), strict=True)), "digits")


# Folders


def from_folder(folder: Path) -> Found:
    """Class folders, split folders with class folders, parquet files, or IDX files."""
    if not folder.exists():
        hint = did_you_mean(str(folder), ["digits"])
        hint = f" ({hint})" if hint.startswith("did") else ""
        raise DataError(f"there is no folder '{folder}'{hint}; give 'digits', an existing folder, or 'hf:NAME'")
    if not folder.is_dir():
        raise DataError(f"'{folder}' is a file; give the folder that holds {LAYOUTS}")
    tables = [p for at in (folder, folder / "data") if at.is_dir() for p in _files(at) if p.suffix == ".parquet"]
    name = folder.resolve().name
    if tables:
        return from_parquet(name, tables).held_by([*map(str, tables)], str(folder.resolve()), str(folder))
    arrays = idx_files(_files(folder))
    return from_idx(name, arrays) if arrays else _from_class_folders(name, folder)


def _from_class_folders(name: str, folder: Path) -> Found:
    trees, notes = _split_folders(folder)
    classes = _classes(trees)
    paths, others, odd = list[str](), list[str](), list[str]()
    labels = list[int]()
    parts = {}
    for part, tree in trees.items():
        start = len(paths)
        others += map(str, _files(tree))
        for label, c in enumerate(classes):
            files, skipped = _walk(tree / c)
            odd += skipped
            images = [path for path in files if _is_image(path)]
            others += [path for path in files if not _is_image(path)]
            paths += images
            labels += [label] * len(images)
        parts[part] = range(start, len(paths))
    for left, why in ((others, "files that are no images in class folders are ignored"),
                      (odd, "pipes, devices or links to folders are skipped")):  # fmt: skip
        if left:
            notes.append(f"{len(left)} {why}: {some([os.path.relpath(path, folder) for path in left[:6]])}")
    reader = Reader.of(len(paths), lambda i: open_picture(paths[i]), lambda i: paths[i])
    found = Found(name, reader, np.array(labels, dtype=np.int64), parts, classes, tuple(notes))
    return found.held_by(paths, str(folder.resolve()), str(folder))


def _is_image(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def _split_folders(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The tree of class folders of each split; the folder itself where it has no split folders. And notes."""
    trees: dict[str, Path] = {}
    for d in _folders(folder):
        part = PART_NAMES.get(d.name.lower(), "")
        if part in trees:
            raise DataError(f"'{folder}' has {trees[part].name}/ and {d.name}/ for one split; keep one of the two")
        if part:
            trees[part] = d
    if not any(_folders(d) for d in trees.values()):  # then "train" and "test" are names of classes like any other
        return {"train": folder}, []
    if "train" not in trees:
        raise DataError(f"'{folder}' has {', '.join(f'{d.name}/' for d in trees.values())} but no train/; add it")
    extra = [d.name for d in _folders(folder) if d not in trees.values()]
    notes = [f"folders beside {trees['train'].name}/ are ignored: {some(extra)}"] if extra else []
    return {part: trees[part] for part in PARTS if part in trees}, notes


def _classes(trees: Mapping[str, Path]) -> tuple[str, ...]:
    """The names of the class folders, which all splits must have."""
    top = trees["train"]
    classes = tuple(d.name for d in _folders(top))
    if not classes:
        loose = sum(p.suffix.lower() in EXTENSIONS for p in _files(top))
        holds = f"holds {loose} images but no class folders" if loose else "holds no images"
        raise DataError(f"'{top}' {holds}; put the images into {LAYOUTS}")
    for tree in trees.values():
        names = [d.name for d in _folders(tree)]
        for name in [c for c in classes if c not in names]:
            raise DataError(f"class '{name}' of '{top}' is missing in '{tree}'; add it there, or move that folder elsewhere")
        for name in [c for c in names if c not in classes]:
            raise DataError(f"class '{name}' of '{tree}' is not in '{top}'; the classes must be the same")
    return classes


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _inside(folder: Path, *, folders: bool) -> list[Path]:
    """Its folders, or its files; hidden ones left out, sorted. No pipes, no devices, and no folder that holds this one."""
    try:
        within = folder.resolve()
        found = sorted(p for p in folder.iterdir() if (p.is_dir() if folders else p.is_file()) and not _hidden(p.name))
        return [p for p in found if not (folders and within.is_relative_to(p.resolve()))]
    except OSError as error:
        raise DataError(f"folder '{folder}' cannot be read ({error.strerror}); check its permissions") from None


_folders, _files = partial(_inside, folders=True), partial(_inside, folders=False)


def _walk(folder: str | Path) -> tuple[list[str], list[str]]:
    """All files below a folder, hidden ones left out, sorted; and what is skipped: reading a pipe would never end."""
    files, odd = list[str](), list[str]()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if _hidden(entry.name):
                continue
            if entry.is_dir() and not entry.is_symlink():
                for ours, deeper in zip((files, odd), _walk(entry.path), strict=True):
                    ours += deeper
            elif entry.is_file() or not os.path.exists(entry.path):
                files.append(entry.path)
            else:  # links to folders are not followed: they may lead in circles
                odd.append(entry.path)
    return files, odd


def pictures(given: Any) -> Reader:
    """Pictures without labels: a file, a folder of them, a Pillow image, a tensor, an array, or several of these in order.

    Raises `DataError` where there is no such file, or none is given.
    """
    several = isinstance(given, list | tuple) or getattr(given, "ndim", 0) == 4
    items: list[Any] = []
    for each in given if several else [given]:
        items += _below(Path(each).expanduser()) if isinstance(each, str | Path) else [each]
    if not items:
        raise DataError("there are no images; name picture files, or a folder that holds some")

    def name(i: int) -> str:
        return items[i] if isinstance(items[i], str) else f"image {i + 1}"

    def read(i: int) -> Picture:
        return open_picture(items[i]) if isinstance(items[i], str) else as_picture(items[i], name(i))

    return Reader.of(len(items), read, name)


def _below(path: Path) -> list[str]:
    """The file itself, or all pictures in a folder and below."""
    if path.is_dir():
        return [file for file in _walk(path)[0] if _is_image(file)]
    if not path.is_file():
        raise DataError(f"there is no file or folder '{path}'; name pictures, or a folder that holds some")
    return [str(path)]


# Data sets in Python


def from_dataset(dataset: Any, name: str | None = None) -> Found:
    """One set without splits; the classes are the label ids that occur, in ascending order.

    Items are (image, label): the image a Pillow image, a tensor uint8 [C, H, W] or [H, W], an array uint8 [H, W, C] or
    [H, W], or either with floats in 0..1. The data set must give the same image each time, so without random
    augmentation. Raises `DataError` for anything else.
    """
    rows = range(len(dataset))
    looked = [_look_at(dataset, i) for i in rows]
    labels = np.array([label for label, _ in looked], dtype=np.int64)
    ids = np.unique(labels[labels >= 0])
    classes, headers = tuple(str(i) for i in ids), [header for _, header in looked]
    # one thread, as data sets need not bear several
    reader = Reader.of(len(rows), lambda i: as_picture(dataset[i][0], ITEM.format(i)), ITEM.format, workers=1)
    name = name or type(dataset).__name__
    return Found(name, reader, np.searchsorted(ids, labels), {"train": rows}, classes, headers=headers)


def _look_at(dataset: Any, i: int) -> tuple[int, Header | str]:
    """Label and header of item i; label -1 and the reason where the data set fails to give the item."""
    name = ITEM.format(i)
    try:
        item = dataset[i]
    except MemoryError:
        raise
    except Exception as error:  # whatever the user's code raises
        return -1, reason_of(error)
    if not isinstance(item, tuple | list) or len(item) != 2:
        pair = "a pair (image, label), as list(zip(images, labels)) gives them"
        raise DataError(f"{name} is a {type(item).__name__}; it must be {pair}")
    try:
        label = operator.index(item[1])
    except TypeError:
        raise DataError(f"{name} has the label {item[1]!r}; labels must be whole numbers from 0") from None
    if label < 0:
        raise DataError(f"{name} has the label {label}; labels must be whole numbers from 0")
    try:
        return label, measure(as_picture(item[0], name))
    except (OSError, SyntaxError, ValueError) as error:  # a Pillow image whose pixels cannot be loaded
        return label, reason_of(error)


def as_picture(image: object, name: str) -> Picture:
    """What a data set may hold as a `Picture`. Raises `DataError` for anything else."""
    if isinstance(image, Image.Image):
        return image.copy()  # closing it leaves the data set's own image open
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        array, order = (tensor.float() if tensor.is_floating_point() else tensor).numpy(), "[C, H, W]"
    elif isinstance(image, np.ndarray):
        array, order = image, "[H, W, C]"
    else:
        raise DataError(f"{name} is a {type(image).__name__}; give a Pillow image, a tensor or an array")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"{name} has shape {list(array.shape)}; give {order} or [H, W]")
    if array.ndim == 3 and order == "[C, H, W]":
        array = array.transpose(1, 2, 0)
    array = np.atleast_3d(array)
    if array.shape[2] > 4 >= array.shape[0 if order == "[H, W, C]" else 1]:
        raise DataError(f"{name} has shape {list(image.shape)}, but a {type(image).__name__} must be {order}")
    array = _bytes(array, name)
    return Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array) if array.shape[2] in (1, 3) else array


def _bytes(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{name} has values of type {array.dtype}; give uint8, or floats in 0..1")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        raise DataError(f"{name} has values from {low:g} to {high:g}; floats must be in 0..1, so without normalisation")
    return np.rint(array * 255).astype(np.uint8)


# Splits that a source lacks


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

"""Images in IDX files, the form of MNIST and its sisters: one file of pixels and one of labels for each split."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hiernas.data.images import PARTS, Found, Header, Reader, reason_of
from hiernas.errors import DataError
from hiernas.machine import usable_memory

NAMED = re.compile(r"(train|val|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
SPLITS = {"train": "train", "val": "val", "t10k": "test", "test": "test"}
KINDS = {"images": 3, "labels": 1}  # dimensions


def idx_files(files: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """Those of them that are IDX files by their names, by split and "images" or "labels"; packed by gzip or not."""
    named = {path: NAMED.fullmatch(path.name) for path in files}
    return {(SPLITS[match[1]], match[2]): path for path, match in named.items() if match}


def from_idx(name: str, files: dict[tuple[str, str], Path]) -> Found:
    """A data set of IDX files. Raises `DataError` where one is missing, damaged, or does not go with its sister."""
    parts, pixels, labels, start = {}, list[np.ndarray](), list[np.ndarray](), 0
    for part in (part for part in PARTS if any(part == of for of, _ in files)):
        for kind in (kind for kind in KINDS if (part, kind) not in files):
            raise DataError(f"the {kind} of {part} are missing beside {next(iter(files.values()))}; add their IDX file")
        images, named = (_read(files[part, kind], dimensions) for kind, dimensions in KINDS.items())
        if len(images) != len(named):
            raise DataError(f"'{files[part, 'images']}' has {len(images)} images and its labels are {len(named)}; replace one")
        parts[part] = range(start, start := start + len(images))
        pixels.append(images)
        labels.append(named)
    if "train" not in parts:
        raise DataError(f"'{next(iter(files.values())).parent}' has no train-images-idx3-ubyte; add it, with its labels")
    if len({images.shape[1:] for images in pixels}) > 1:
        raise DataError(f"the IDX files of {', '.join(parts)} have images of different sizes; replace them")
    ids, every = np.unique(labels[0]), np.concatenate(labels)
    if not np.isin(every, ids).all():
        raise DataError(f"label {every[~np.isin(every, ids)][0]} occurs in no training image; replace the IDX files")
    joined = np.concatenate(pixels)
    header = Header("grey", 1, *joined.shape[1:])
    reader = Reader(len(joined), lambda i: Image.fromarray(joined[i]), "image {}".format)
    classes = tuple(str(i) for i in ids)
    return Found(name, reader, np.searchsorted(ids, every), parts, classes, headers=[header] * len(joined))


def _read(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an IDX file: uint8 [N] or [N, H, W]."""
    start = 4 * (1 + dimensions)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = np.frombuffer(file.read(start).ljust(start, b"\0"), dtype=">u4").astype(np.int64)
            if head[0] != 0x0800 + dimensions:
                raise DataError(f"'{path}' is no IDX file of {dimensions} dimensions of bytes; replace it")
            size = int(np.prod(head[1:].astype(object)))
            if size > usable_memory() / 4:
                raise DataError(f"'{path}' says that it holds {size:,} bytes, more than memory can bear; replace it")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read ({reason_of(error)}); replace it") from None
    if len(data) != size:
        raise DataError(f"'{path}' is damaged: its head promises {size:,} bytes; replace it")
    return np.frombuffer(data, dtype=np.uint8).reshape(head[1:])

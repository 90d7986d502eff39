"""`load_data`: from what the user names to an `ImageData`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from hiernas.data.divide import as_split, channel_statistics, divide, fingerprint_of
from hiernas.data.images import MIN_SIZE, load_images, survey
from hiernas.data.sources import find
from hiernas.data.split import ImageData
from hiernas.errors import DataError


def load_data(
    source: str | Path | Dataset[Any],
    *,
    image_size: int | None = None,
    val_per_class: int | None = None,
    seed: int = 0,
    skip_bad_images: bool = False,
    memory_gib: float = 4.0,
) -> ImageData:
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
    if len(found.classes) < 2 or not len(found.reader):
        held = f"only the class '{found.classes[0]}'" if found.classes and len(found.reader) else "no readable images"
        raise DataError(f"'{found.name}' holds {held}; a classifier needs images of at least two classes")
    headers = found.headers if found.headers is not None else survey(found.reader)
    loaded = load_images(
        found.reader, headers, image_size=image_size, skip_bad=skip_bad_images, memory_gib=memory_gib
    )
    bad = np.array(sorted(loaded.bad), dtype=np.int64)
    usable = {part: np.setdiff1d(np.arange(rows.start, rows.stop), bad) for part, rows in found.parts.items()}
    rows, notes = divide(found.labels, usable, found.classes, val_per_class, seed)
    train, val, test = (as_split(loaded.images, found.labels, rows[part]) for part in ("train", "val", "test"))
    input_size = (loaded.form.channels, loaded.form.height, loaded.form.width)
    mean, std = channel_statistics(train.images, seed)
    return ImageData(
        name=found.name,
        train=train,
        val=val,
        test=test,
        classes=found.classes,
        input_size=input_size,
        mean=mean,
        std=std,
        notes=(*found.notes, *loaded.notes, *notes),
        fingerprint=fingerprint_of(found.classes, input_size, (train, val, test)),
    )


def _check(image_size: int | None, val_per_class: int | None, seed: int, memory_gib: float) -> None:
    numbers = (("image_size", image_size, MIN_SIZE), ("val_per_class", val_per_class, 1), ("seed", seed, 0))
    for name, value, least in numbers:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            raise DataError(f"{name}={value} must be a whole number, at least {least}")
    if not memory_gib >= 0:
        raise DataError(f"memory_gib={memory_gib} must be 0 or more; 0 decodes every image on demand")

"""`load_data`: from what the user names to an `ImageData`. Every picture is decoded once, to a file in the cache folder.

There `pictures/KEY/` belongs to a source, by where it is, and to the size that was asked for. `pixels` holds uint8
[N, C, H, W], and behind them a hash of each picture's, uint8 [N, 16], zero where it is missing. `index.json` says what the
files are (names, sizes, times of change) and the form; once all is there, also which are damaged, and what is to be said.
Where a kill left it without that, pictures whose hashes are right are not decoded again; where the files are others, all
are. One process at a time decodes. Pixels are read as they are needed: a mapped file would count as memory of the process,
and end it where the disk fails.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import Dataset

import hiernas.data.images as pictures
from hiernas.data.images import DIGEST, PARTS, Form, Found, Header, InMemory, OnDisk, Opener, Reader
from hiernas.data.sources import divide, find
from hiernas.data.split import ImageData, Images, Split, Subset
from hiernas.errors import UNREADABLE, DataError
from hiernas.host import cache_folder
from hiernas.run.disk import replace_whole

Progress = Callable[[str, int, int], object]  # what is being done, with how many pictures, of how many

STATISTICS_IMAGES = 10_000  # training images that mean and std are taken from, at most
MEMORY_GIB = 4.0  # of pixels kept in memory at most, where nothing would tell a change of the source
VALUES = 2**22  # that are counted at a time, on 8 bytes each
VERSION = 1  # of what is kept: another one where pictures are decoded in another way
TOLD_EVERY, LOOK = 50, 1.0  # pictures; seconds that another process is waited for until that is said again


def load_data(
    source: str | Path | Dataset[Any], *, image_size: int | None = None, val_per_class: int | None = None, seed: int = 0,
    skip_bad_images: bool = False, memory_gib: float = MEMORY_GIB, on_progress: Progress | None = None,
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
    memory_gib: GiB of pixels kept in memory at most, of "digits", IDX files and data sets in Python; larger ones, and those
        of all other sources, are in a file in the cache folder.
    on_progress: called with what is being done to the pictures, with how many it is done, and of how many.

    Raises `DataError` where the source is missing, empty or not in one of these layouts, an image is damaged, labels
    or classes do not fit, a class has too few images, or the disk has no room for the pixels.
    """
    _check(image_size, val_per_class, seed, memory_gib)
    found = find(source)
    if len(found.classes) < 2 or not found.reader.count:
        held = f"only the class '{found.classes[0]}'" if found.classes and found.reader.count else "no readable images"
        raise DataError(f"'{found.name}' holds {held}; a classifier needs images of at least two classes")
    loaded = load_images(found, image_size, skip_bad_images, memory_gib, on_progress)
    usable = {part: np.setdiff1d(rows, list(loaded.bad)) for part, rows in found.parts.items()}
    divided, cuts = divide(found.labels, usable, found.classes, val_per_class, seed)
    parts, labels = [divided[part] for part in PARTS], torch.from_numpy(found.labels)
    train, val, test = (Split(Subset(loaded.images, some), labels[some]) for some in map(torch.from_numpy, parts))
    input_size = (*loaded.form,)
    mean, std = channel_statistics(train, seed)
    ours = np.setdiff1d(np.arange(len(labels)), list(loaded.bad))
    notes = (*found.notes, *loaded.notes, *cuts, *_under_two_labels(found, loaded.digests, ours))
    fingerprint = fingerprint_of(found.classes, input_size, [(found.labels[r], loaded.digests[r]) for r in parts])
    return ImageData(found.name, train, val, test, found.classes, input_size, mean, std, notes, fingerprint)


def _check(image_size: int | None, val_per_class: int | None, seed: int, memory_gib: float) -> None:
    numbers = (("image_size", image_size, pictures.MIN_SIZE), ("val_per_class", val_per_class, 1), ("seed", seed, 0))
    for name, value, least in numbers:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            raise DataError(f"{name}={value} must be a whole number, at least {least}")
    if not memory_gib >= 0:
        raise DataError(f"memory_gib={memory_gib} must be 0 or more; 0 keeps all pixels in a file")


def channel_statistics(split: Split, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels scaled to 0..1, of up to 10,000 random images.

    Exact for the images taken, as it counts the 256 pixel values. A deviation of 0 is returned as 1.
    """
    rng = np.random.default_rng([seed, 2])
    rows = torch.from_numpy(np.sort(rng.permutation(len(split))[:STATISTICS_IMAGES]))
    at_once = max(1, VALUES // split.images.fetch(rows[:1]).numel())
    pieces = (split.images.fetch(some).unbind(1) for some in torch.split(rows, at_once))
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


# -- pixels, decoded once ----------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """The pictures of a source in one form."""

    images: Images
    form: Form
    bad: Mapping[int, str]  # rows that are damaged and must not be fetched, and why
    notes: Sequence[str]
    digests: np.ndarray  # uint8 [N, 16]: a hash of the pixels of each


class Shelf:
    """Where the pixels of a source are put: memory, a file that goes with the process, or its folder in the cache."""

    images: InMemory | OnDisk
    digests: np.ndarray  # uint8 [N, 16]

    def __init__(self, found: Found, folder: Path | None, memory_gib: float) -> None:
        self.count, self.stamp, self.folder, self.memory_gib = found.reader.count, found.stamp, folder, memory_gib
        self.where = folder or Path()
        self.form: Form | None = None  # of the pixels that are here
        self.index: Mapping[str, Any] = {}
        if folder is not None:
            with suppress(OSError, *UNREADABLE):
                index = json.loads((folder / "index.json").read_text())
                if index["stamp"] == self.stamp:
                    self.form, self.index = Form(*map(int, index["form"])), index

    def whole(self) -> Loaded | None:
        """What was decoded before, if all of it is here."""
        if self.form is not None and "bad" in self.index:
            with suppress(OSError, DataError, *UNREADABLE):
                images = OnDisk(FileIO(self.where / "pixels"), self.count, self.form)
                bad = {int(row): reason for row, reason in self.index["bad"].items()}
                return Loaded(images, self.form, bad, self.index["notes"], images.digests())
        return None

    def done(self) -> int:
        """How many pictures another process has put here so far."""
        if self.form is not None:
            with suppress(OSError, DataError):
                return int(OnDisk(FileIO(self.where / "pixels"), self.count, self.form).digests().any(1).sum())
        return 0

    def take(self, form: Form) -> None:
        """Room for pixels of this form; what a kill left of it stays where it is whole."""
        goes_on, self.form = form == self.form and "bad" not in self.index, form
        self.digests = np.zeros((self.count, DIGEST), dtype=np.uint8)
        if self.folder is None and self.count * math.prod(form) <= self.memory_gib * 2**30:
            self.images = InMemory(torch.zeros((self.count, *form), dtype=torch.uint8))
            return
        self.where = self.folder or cache_folder("pixels")
        with self._writing():
            self.where.mkdir(parents=True, exist_ok=True)
            if self.folder is None:
                self.where = Path(tempfile.mkdtemp(dir=self.where))
            path = self.where / "pixels"
            if not goes_on:
                path.unlink(missing_ok=True)  # others may be reading what it was
                self._say()
            path.touch()
            self.images = OnDisk(FileIO(path, "r+b"), self.count, form)
            if self.folder is None:
                shutil.rmtree(self.where, ignore_errors=True)  # the file goes with the process
            taken = getattr(os.fstat(self.images.file.fileno()), "st_blocks", 0) * 512
            if self.images.total - taken > shutil.disk_usage(self.where.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.images.file.truncate(self.images.total)
        there = self.images.digests()
        for row in np.flatnonzero(there.any(1)).tolist():
            if np.array_equal(_digest(self.images.fetch(torch.tensor([row])).numpy()), there[row]):
                self.digests[row] = there[row]

    def put(self, row: int, pixels: np.ndarray) -> None:
        """A picture's pixels, uint8 [C, H, W]; several threads may do so."""
        digest = _digest(pixels)
        with self._writing():
            self.images.put(row, pixels, digest)
        self.digests[row] = digest

    def finish(self, bad: Mapping[int, str], notes: Sequence[str]) -> Loaded:
        """All is here."""
        assert self.form is not None
        if self.folder is not None and isinstance(self.images, OnDisk):
            with self._writing():
                os.fsync(self.images.file.fileno())
                self._say(bad=bad, notes=notes)
        return Loaded(self.images, self.form, bad, notes, self.digests)

    def _say(self, **more: Any) -> None:
        replace_whole(self.where / "index.json", json.dumps({"stamp": self.stamp, "form": self.form, **more}).encode())

    def _writing(self) -> AbstractContextManager[None]:
        return _writing(self.where, self.count, self.form)


@contextmanager
def _writing(where: Path, count: int, form: Form | None = None) -> Iterator[None]:
    """Where the system cannot write pixels, say so, with the size where it is known."""
    try:
        yield
    except OSError as error:
        size = "" if form is None else f" take {count * (math.prod(form) + DIGEST) / 2**30:.3g} GiB, which"
        free = f", {shutil.disk_usage(where).free / 2**30:.3g} GiB are free" if where.exists() else ""
        raise DataError(
            f"the pixels of {count:,} images{size} cannot be written to {where} ({error.strerror}{free}); free some space, "
            "name another folder by HIERNAS_CACHE, or choose a smaller --image-size"
        ) from error


def _digest(pixels: np.ndarray) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(pixels.tobytes(), digest_size=DIGEST).digest(), dtype=np.uint8)


def load_images(
    found: Found, image_size: int | Form | None, skip_bad: bool, memory_gib: float = MEMORY_GIB, told: Progress | None = None
) -> Loaded:
    """All pictures in one form, decoded, or taken from the cache folder.

    With `skip_bad` damaged pictures are left out, and have no say in the common form.
    Raises `DataError` for a damaged picture without it, or where no picture is left, or there is no room for the pixels. `told`
    hears of pictures that are decoded into the cache folder alone.
    """
    told = told or (lambda *_: None)
    if not found.stamp:
        return _decoded(found, image_size, skip_bad, Shelf(found, None, memory_gib), lambda *_: None)
    key = hashlib.sha256(os.fsencode(repr((VERSION, found.origin, image_size)))).hexdigest()[:16]
    folder = cache_folder("pixels").absolute() / "pictures" / key
    with _alone(folder, found, told):
        shelf = Shelf(found, folder, memory_gib)
        loaded = shelf.whole() or _decoded(found, image_size, skip_bad, shelf, told)
    if loaded.bad and not skip_bad:
        raise pictures.damaged(found.reader, *min(loaded.bad.items()))
    return loaded


@contextmanager
def _alone(folder: Path, found: Found, told: Progress) -> Iterator[None]:
    """Inside, no other process decodes these pictures."""
    lock, count = FileLock(folder.with_suffix(".lock"), timeout=LOOK), found.reader.count
    while not lock.is_locked:
        with _writing(folder.parent, count), suppress(Timeout):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            break
        told("waiting for another process that decodes", Shelf(found, folder, 0).done(), count)
    try:
        yield
    finally:
        lock.release()


def _decoded(found: Found, image_size: int | Form | None, skip_bad: bool, shelf: Shelf, told: Progress) -> Loaded:
    reader, look = found.reader, _Look(shelf, image_size)
    headers = list(found.headers or [""] * reader.count)
    left: Sequence[int] = () if found.headers else range(reader.count)
    if left:
        look.begin(reader)
    while True:
        for done, header in enumerate(pictures.each(look, reader, left, skip_bad)):
            headers[left[done]] = header
            if done % TOLD_EVERY == 0:
                told("decoding", done, len(left))
        bad = {row: header for row, header in enumerate(headers) if isinstance(header, str)}
        if bad and not skip_bad:
            raise pictures.damaged(reader, *min(bad.items()))
        good = [header for header in headers if isinstance(header, Header)]
        if not good:
            raise DataError(f"none of the {len(headers)} images can be read; the first one: {bad.get(0, 'there is none')}")
        if (form := _form_of(good, image_size)) != shelf.form:  # again if a picture that cannot be decoded had a say
            shelf.take(form)
        look.sure = True
        left = [row for row in np.flatnonzero(~shelf.digests.any(1)).tolist() if row not in bad]
        if not left:
            break
    named = pictures.some([reader.name(row) for row in sorted(bad)])
    notes = [f"{len(bad)} damaged images left out: {named}"] if bad else []
    return shelf.finish(bad, notes + pictures.form_notes(good, form))


class _Look:
    """A picture's header. Its pixels are put on the shelf if the form is sure, or all so far would have the first one's."""

    def __init__(self, shelf: Shelf, image_size: int | Form | None) -> None:
        self.shelf, self.image_size, self.sure, self.mixed = shelf, image_size, False, False
        self.own_form = cache(self._own_form)

    def begin(self, reader: Reader) -> None:
        """Make room for pictures like the first one, or go on with those that a kill left."""
        form = self.shelf.form
        if form is None:
            self.mixed = True  # nothing is put
            first = next(pictures.each(self, reader, [0], True))
            form = self.own_form(first) if isinstance(first, Header) else None
        self.mixed = form is None
        if form is not None:
            self.shelf.take(form)

    def __call__(self, row: int, opened: Opener) -> Header:
        with pictures.shut(opened()) as picture:
            header = pictures.measure(picture)
            self.mixed = self.mixed or self.own_form(header) != self.shelf.form
            if (self.sure or not self.mixed) and self.shelf.form is not None and not self.shelf.digests[row].any():
                self.shelf.put(row, pictures.decode(picture, self.shelf.form))
        return header

    def _own_form(self, header: Header) -> Form | None:
        with suppress(DataError):
            return _form_of([header], self.image_size)
        return None


def _form_of(headers: Sequence[Header], image_size: int | Form | None) -> Form:
    form = pictures.choose_form(headers, image_size)
    if not isinstance(image_size, Form):
        pictures.check_form(form, headers)
    return form

"""Pixels: what every source becomes, uint8 [B, C, H, W], and how picture files are turned into it.

Channels: where every picture is grey (1-bit, 8-bit, 16-bit, with or without transparency) the data have one channel;
otherwise all have three. 16-bit grey keeps its upper 8 bits, a palette becomes RGB, transparency is laid over white,
CMYK becomes RGB, the EXIF orientation is applied, and of an animation the first frame counts. Arrays with other
channel counts (say 4 bands) keep them.

Size: an `image_size` S gives S x S. Pictures of one size keep it, or their shape with a short side of 224 where
the short side exceeds 256. Mixed sizes become squares: the median short side, rounded down to a multiple of 8, within
8 to 224. Squares are cut from the centre and scaled to the short side in one bilinear step. Sizes that memory cannot bear
are refused, and those to which pictures would grow more than 16-fold.
"""

import base64
import errno
import hashlib
import io
import math
import os
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from multiprocessing.pool import AsyncResult, ThreadPool
from threading import Lock
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hiernas.errors import DataError
from hiernas.host import first_line, usable_cores, usable_memory

Picture = Image.Image | np.ndarray  # an array is uint8 [H, W, C] of other than 1 or 3 channels
T = TypeVar("T")

MIN_SIZE, KEEP_UP_TO, MAX_SIZE = 4, 256, 224  # pixels of the short side
DRAFT = 2  # a JPEG may be decoded at a fraction of its size that is no less than so many times what it becomes
PIECE = 16  # pictures that a thread takes at a time
DIGEST = 16  # bytes of the hash of a picture's pixels
BATCH, SHARE = 64, 16  # so many images as a network's input may take this part of the memory
ENLARGED = 16  # times that pictures may be enlarged
SMALL = 96  # pixels a side of a picture that is only shown
ORIENTATION = 0x0112  # EXIF tag
FORMATS = ("BMP", "GIF", "JPEG", "PPM", "PNG", "AVIF", "JPEG2000", "TIFF", "WEBP", "TGA")  # another one, EPS, starts a program
WORKERS = min(8, usable_cores())
PART_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
PARTS = ("train", "val", "test")
CONVERTED = {
    "palette": "{} palette pictures converted to RGB",
    "transparent": "{} pictures with transparency laid over white",
    "cmyk": "{} CMYK pictures converted to RGB",
    "16-bit": "{} 16-bit grey pictures scaled to 8 bits",
}


Opener = Callable[[], Picture]  # may raise anything where the picture is damaged


@dataclass(frozen=True)
class Reader:
    """Pictures by number."""

    count: int
    pictures: Callable[[Sequence[int]], Iterable[Opener]]  # how each of these is opened, which are in ascending order
    name: Callable[[int], str]
    workers: int = WORKERS  # threads that may open pictures at a time

    @classmethod
    def of(cls, count: int, opened: Callable[[int], Picture], name: Callable[[int], str], workers: int = WORKERS) -> Self:
        """Where each is opened by itself."""
        return cls(count, lambda rows: (partial(opened, row) for row in rows), name, workers)


class Header(NamedTuple):
    """What must be known of a picture before the common form is chosen."""

    kind: str  # grey, rgb, bands, or a key of `CONVERTED`
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Found:
    """Pictures and labels of a source, before anything is decoded."""

    name: str
    reader: Reader
    labels: np.ndarray  # int64 [N]
    parts: Mapping[str, range]  # rows of "train" and, where the source has them, "val" and "test"
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    headers: Sequence[Header | str] | None = None  # where opening the pictures was needed to get the labels
    origin: str = ""  # where they are from, for those that have a stamp
    stamp: str = ""  # changes with the files that hold them; "" where nothing would tell

    def held_by(self, files: Sequence[str], origin: str, within: str = "") -> Self:
        """The same with a stamp: names (what is behind `within`), sizes and times of change of these files; a swap of two
        leaves their contents' times as they are, and changes only those of the files themselves."""
        digest = hashlib.sha256()
        for path in files:
            with suppress(OSError):  # said when it is opened
                facts = os.stat(path)
                name, times = path.removeprefix(within).lstrip("/"), f"{facts.st_mtime_ns} {facts.st_ctime_ns}"
                digest.update(os.fsencode(f"{name}\n{facts.st_size} {times}\n"))
        return replace(self, origin=origin, stamp=digest.hexdigest())


class Form(NamedTuple):
    """The form all pictures get."""

    channels: int
    height: int
    width: int


class InMemory:
    """All pixels as one tensor: uint8 [N, C, H, W]."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def fetch(self, indices: Tensor) -> Tensor:
        return self.pixels[indices]

    def put(self, row: int, pixels: np.ndarray, digest: np.ndarray) -> None:
        self.pixels.numpy()[row] = pixels


class OnDisk:
    """Pixels in a file, one picture's behind the other's, then their hashes; memory holds what is fetched, and no more."""

    def __init__(self, file: io.FileIO, count: int, form: Form) -> None:
        self.file, self.count, self.form, self.size = file, count, form, math.prod(form)
        self.total = count * (self.size + DIGEST)  # bytes
        self._lock = Lock()  # a file has one position
        weakref.finalize(self, file.close)

    def fetch(self, indices: Tensor) -> Tensor:
        pixels = np.empty((len(indices), *self.form), dtype=np.uint8)
        for row, into in zip(indices.tolist(), pixels, strict=True):
            self._read(row * self.size, into)
        return torch.from_numpy(pixels)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, and what is sent to other processes, hold the pixels: the file may go, or become another."""
        return InMemory, (self.fetch(torch.arange(self.count)),)

    def digests(self) -> np.ndarray:
        found = np.empty((self.count, DIGEST), dtype=np.uint8)
        self._read(self.count * self.size, found)
        return found

    def put(self, row: int, pixels: np.ndarray, digest: np.ndarray) -> None:
        with self._lock:
            for at, values in ((row * self.size, pixels), (self.count * self.size + row * DIGEST, digest)):
                self.file.seek(at)
                if self.file.write(values.tobytes()) != values.nbytes:  # of a disk that is almost full
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self, at: int, into: np.ndarray) -> None:
        try:
            if hasattr(os, "preadv"):  # processes that are forked from this one share the file's position
                found = os.preadv(self.file.fileno(), [into.data], at)
            else:
                with self._lock:
                    self.file.seek(at)
                    found = self.file.readinto(into.data)
            reason = "" if found == into.nbytes else "they were cut off"
        except OSError as error:
            reason = str(error.strerror)
        if reason:
            raise DataError(f"the pixels in {self.file.name} cannot be read ({reason}); delete it, and start or resume again")


def open_picture(file: Any) -> Image.Image:
    """A picture file in one of the documented formats, by its content; any other is unidentified, whatever its name."""
    Image.init()  # loads what this Pillow has of them, once
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def shut(picture: Picture) -> AbstractContextManager[Picture]:
    """A picture that is closed in the end."""
    return nullcontext(picture) if isinstance(picture, np.ndarray) else picture


def measure(picture: Picture) -> Header:
    """Kind, channels and upright size, from the header alone where the format allows it."""
    if isinstance(picture, np.ndarray):
        height, width, channels = picture.shape
        return Header("bands", channels, height, width)
    width, height = picture.size
    if width != height and picture.getexif().get(ORIENTATION, 1) >= 5:  # turned by 90 degrees
        width, height = (height, width) if picture.format in ("JPEG", "MPO") else _upright(picture).size
    if picture.mode == "F":
        raise ValueError("32-bit float pixels; save it with 8 or 16 bits")
    sixteen = picture.mode.startswith("I")
    grey = sixteen or picture.mode in ("1", "L", "LA")
    kinds = {"P": "palette", "CMYK": "cmyk"}
    kind = "transparent" if picture.has_transparency_data else kinds.get(picture.mode, "grey" if grey else "rgb")
    return Header("16-bit" if sixteen else kind, 1 if grey else 3, height, width)


def choose_form(headers: Sequence[Header], image_size: int | Form | None) -> Form:
    """The common form by the rules on top of this file, or the given one.

    Raises `DataError` where channel counts do not go together, or pictures are under 4 pixels a side.
    """
    if isinstance(image_size, Form):
        return image_size
    channels = sorted({h.channels for h in headers})
    if len(channels) > 1 and channels != [1, 3]:
        raise DataError(f"images have {' and '.join(map(str, channels))} channels; give all of them the same channel count")
    if image_size is not None:
        return Form(channels[-1], image_size, image_size)
    sizes = {(h.height, h.width) for h in headers}
    if len(sizes) > 1:
        short = int(np.median([min(h.height, h.width) for h in headers]))
        side = min(MAX_SIZE, max(8, short // 8 * 8))
        return Form(channels[-1], side, side)
    height, width = sizes.pop()
    if min(height, width) < MIN_SIZE:
        raise DataError(f"images of {height}x{width} pixels are too small; give an image_size to enlarge them")
    scale = MAX_SIZE / min(height, width) if min(height, width) > KEEP_UP_TO else 1.0
    return Form(channels[-1], round(height * scale), round(width * scale))


def check_form(form: Form, headers: Sequence[Header]) -> None:
    """Refuse, before any pixel is allocated, sizes that no network could be trained on here, or that only enlarge."""
    short = int(np.median([min(h.height, h.width) for h in headers]))
    side, longer = sorted((form.height, form.width))
    memory = usable_memory()
    fits = int((memory / SHARE / (BATCH * form.channels * 4) * side / longer) ** 0.5)
    if side <= (most := min(fits, ENLARGED * short)):
        return
    taken = BATCH * 4 * form.channels * form.height * form.width / 2**30
    reason = (
        f"{BATCH} of them would take {taken:,.1f} GiB as a network's input, and what it computes from them many times that; "
        f"this machine has {memory / 2**30:.1f} GiB"
        if side > fits
        else f"the pictures have {short} on their short side, and enlarging them more than {ENLARGED}-fold adds nothing"
    )
    size = f"{form.height}x{form.width} pixels"
    raise DataError(f"images of {size} are too large: {reason}; give an image_size (--image-size) of at most {most}")


def decode(picture: Picture, form: Form) -> np.ndarray:
    """A picture in the common form: uint8 [C, H, W]. A JPEG of four times that size or more is read at 1/2 to 1/8."""
    bands = picture.shape[2] if isinstance(picture, np.ndarray) else form.channels if form.channels in (1, 3) else 3
    if bands != form.channels:
        raise ValueError(f"it has {bands} channels, and {form.channels} are needed")
    if isinstance(picture, np.ndarray):
        return np.stack([np.asarray(_fit(Image.fromarray(band), form)) for band in np.moveaxis(picture, 2, 0)])
    with picture:
        picture.draft(picture.mode, (DRAFT * max(form.height, form.width),) * 2)  # of a JPEG
        pixels = np.asarray(_fit(_flat(_upright(picture), "L" if form.channels == 1 else "RGB"), form))
    return pixels[None] if form.channels == 1 else pixels.transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # some formats keep their EXIF data behind the pixels
    return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """8 bits, without palette or transparency: mode L or RGB."""
    if image.mode.startswith("I"):  # by hand: Pillow's own I;16 -> L cuts values at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("grey values beyond 16 bits; save it with 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.new("RGB", over.size, "white")
        image.paste(over.convert("RGB"), mask=over.getchannel("A"))
    return image if image.mode == mode else image.convert(mode)


def _fit(image: Image.Image, form: Form) -> Image.Image:
    size = (form.width, form.height)
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.BILINEAR)


def reason_of(error: Exception) -> str:
    """One short line that says what is wrong with a picture."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    return first_line(error)[:120]


def some(names: Sequence[str]) -> str:
    """The first five of them."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def form_notes(headers: Sequence[Header], form: Form) -> list[str]:
    kinds = Counter(h.kind for h in headers)
    notes = [text.format(kinds[kind]) for kind, text in CONVERTED.items() if kinds[kind]]
    if form.channels == 3 and any(h.channels == 1 for h in headers):
        notes.append(f"{sum(h.channels == 1 for h in headers)} grey pictures repeated on three channels")
    resized = [(h.height, h.width) for h in headers if (h.height, h.width) != (form.height, form.width)]
    if resized:
        low, high = (f"{h}x{w}" for h, w in (min(resized), max(resized)))
        sizes = low if low == high else f"sizes from {low} to {high}"
        notes.append(f"{len(resized)} images scaled and cut from the centre to {form.height}x{form.width} ({sizes})")
    return notes


def small_png(pixels: Tensor) -> str:
    """Pixels, uint8 [C, H, W], as a PNG file of 96 pixels a side at most, in base64; of 2 or 4 channels and more the mean."""
    grey = pixels[0] if len(pixels) == 1 else pixels.float().mean(0).byte()
    picture = Image.fromarray((pixels.permute(1, 2, 0) if len(pixels) == 3 else grey).contiguous().numpy())
    picture.thumbnail((SMALL, SMALL))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def decode_rows(reader: Reader, form: Form, rows: Sequence[int], skip_bad: bool) -> tuple[np.ndarray, dict[int, str]]:
    """The pixels of these pictures, uint8 [N, C, H, W], and with `skip_bad` the rows that cannot be read, black, and why."""
    found = list(each(lambda _, opened: decode(opened(), form), reader, rows, skip_bad))
    bad = {row: reason for row, reason in zip(rows, found, strict=True) if isinstance(reason, str)}
    return np.stack([np.zeros(form, dtype=np.uint8) if isinstance(x, str) else x for x in found]), bad


def each(work: Callable[[int, Opener], T], reader: Reader, rows: Sequence[int], skip_bad: bool) -> Iterator[T | str]:
    """In order, what `work` returns for each of these pictures, which are in ascending order, or why it cannot be read.

    A few are under way at a time. Raises `DataError` where one cannot be read, without `skip_bad`.
    """

    def attempt(piece: list[tuple[int, Opener]]) -> list[T | str]:
        return [one(row, opened) for row, opened in piece if not ended]

    def one(row: int, opened: Opener) -> T | str:
        try:
            return work(row, opened)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # Pillow raises many types on damaged files
            if not skip_bad:
                raise damaged(reader, row, reason_of(error)) from None
            return reason_of(error)

    ended = list[bool]()
    pairs = zip(rows, reader.pictures(rows), strict=False)  # which would be read on until their end
    pieces = iter(lambda: list(islice(pairs, PIECE)), [])
    if reader.workers == 1:
        yield from chain.from_iterable(map(attempt, pieces))
        return
    pool, ahead = ThreadPool(reader.workers), deque[AsyncResult[list[T | str]]]()
    try:
        for piece in pieces:
            ahead.append(pool.apply_async(attempt, (piece,)))
            if len(ahead) > reader.workers + 1:
                yield from ahead.popleft().get()
        for result in ahead:
            yield from result.get()
    finally:  # nothing goes on behind an error
        ended.append(True)
        pool.close()
        pool.join()


def damaged(reader: Reader, row: int, reason: str) -> DataError:
    return DataError(
        f"{reader.name(row)} cannot be read ({reason}); replace it, or leave such images out with --skip-bad-images "
        "(skip_bad_images=True)"
    )

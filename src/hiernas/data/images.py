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

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hiernas.data.split import Images
from hiernas.errors import DataError
from hiernas.host import first_line, usable_cores, usable_memory

Picture = Image.Image | np.ndarray  # an array is uint8 [H, W, C] of other than 1 or 3 channels
T = TypeVar("T")

MIN_SIZE, KEEP_UP_TO, MAX_SIZE = 4, 256, 224  # pixels of the short side
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


@dataclass(frozen=True)
class Reader:
    """Pictures by number."""

    count: int
    open: Callable[[int], Picture]  # may raise anything where a picture is damaged
    name: Callable[[int], str]
    workers: int = WORKERS  # threads that may call `open` at a time


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


class OnDemand:
    """Pictures decoded at each `fetch`, by a few threads: the same pixels as `InMemory`."""

    def __init__(self, reader: Reader, form: Form, largest: int, digests: np.ndarray) -> None:
        self.reader, self.form, self.digests = reader, form, digests
        self.decoding_bytes = reader.workers * 4 * largest  # pictures of at most `largest` pixels, one for each thread

    def fetch(self, indices: Tensor) -> Tensor:
        rows = indices.tolist()
        pixels, digests, _ = decode_rows(self.reader, self.form, rows)
        for k in np.flatnonzero((digests != self.digests[rows]).any(1)).tolist():
            raise DataError(f"{self.reader.name(rows[k])} changed since the data were loaded; put the former image back")
        return torch.from_numpy(pixels)


class Loaded(NamedTuple):
    """The pictures of a source in one form."""

    images: Images
    form: Form
    bad: list[int]  # rows that are damaged and must not be fetched
    notes: list[str]
    digests: np.ndarray  # uint8 [N, 16]: a hash of the pixels of each


def open_picture(file: Any) -> Image.Image:
    """A picture file in one of the documented formats, by its content; any other is unidentified, whatever its name."""
    Image.init()  # loads what this Pillow has of them, once
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def measure(picture: Picture) -> Header:
    """Kind, channels and upright size, from the header alone where the format allows it."""
    if isinstance(picture, np.ndarray):
        height, width, channels = picture.shape
        return Header("bands", channels, height, width)
    width, height = picture.size
    if width != height and picture.getexif().get(ORIENTATION, 1) >= 5:  # turned by 90 degrees
        width, height = _upright(picture).size
    if picture.mode == "F":
        raise ValueError("32-bit float pixels; save it with 8 or 16 bits")
    sixteen = picture.mode.startswith("I")
    grey = sixteen or picture.mode in ("1", "L", "LA")
    kinds = {"P": "palette", "CMYK": "cmyk"}
    kind = "transparent" if picture.has_transparency_data else kinds.get(picture.mode, "grey" if grey else "rgb")
    return Header("16-bit" if sixteen else kind, 1 if grey else 3, height, width)


def survey(reader: Reader) -> list[Header | str]:
    """The header of every picture, or the reason why it cannot be read."""

    def header(i: int) -> Header:
        picture = reader.open(i)
        with nullcontext() if isinstance(picture, np.ndarray) else picture:
            return measure(picture)

    return list(_each(header, reader.count, reader.workers))


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


def _check_form(form: Form, headers: Sequence[Header]) -> None:
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
    """A picture in the common form: uint8 [C, H, W]."""
    bands = picture.shape[2] if isinstance(picture, np.ndarray) else form.channels if form.channels in (1, 3) else 3
    if bands != form.channels:
        raise ValueError(f"it has {bands} channels, and {form.channels} are needed")
    if isinstance(picture, np.ndarray):
        return np.stack([np.asarray(_fit(Image.fromarray(band), form)) for band in np.moveaxis(picture, 2, 0)])
    with picture:
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


def load_images(found: Found, *, image_size: int | Form | None, skip_bad: bool, memory_gib: float) -> Loaded:
    """All pictures in one form.

    Decodes every picture once; keeps the pixels where they fit in `memory_gib`, otherwise only checks the files.
    With `skip_bad` damaged pictures are left out, and have no say in the common form.
    Raises `DataError` for the first damaged picture without it, or where no picture is left.
    """
    reader, headers = found.reader, found.headers if found.headers is not None else survey(found.reader)
    bad = {i: header for i, header in enumerate(headers) if isinstance(header, str)}
    if bad and not skip_bad:
        raise _damaged(reader, *min(bad.items()))
    good, form = _good(headers, bad), None
    largest = max(h.height * h.width for h in good)
    while form != (chosen := choose_form(good, image_size)):  # again if a picture that cannot be decoded had a say
        form = chosen
        if not isinstance(image_size, Form):
            _check_form(form, good)
        gib = reader.count * math.prod(form) / 2**30
        pixels, digests, damaged = decode_rows(reader, form, range(reader.count), skip_bad, keep=gib <= memory_gib)
        bad = damaged | bad
        good = _good(headers, bad)
    notes = [f"{len(bad)} damaged images left out: {some([reader.name(i) for i in sorted(bad)])}"] if bad else []
    notes += _form_notes(good, form)
    if gib <= memory_gib:
        return Loaded(InMemory(torch.from_numpy(pixels)), form, list(bad), notes, digests)
    notes.append(f"images are decoded on demand: {gib:.2g} GiB of pixels exceed the limit of {memory_gib:g} GiB")
    return Loaded(OnDemand(reader, form, largest, digests), form, list(bad), notes, digests)


def reason_of(error: Exception) -> str:
    """One short line that says what is wrong with a picture."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    return first_line(error)[:120]


def some(names: Sequence[str]) -> str:
    """The first five of them."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _good(headers: Sequence[Header | str], bad: Mapping[int, str]) -> list[Header]:
    good = [header for i, header in enumerate(headers) if isinstance(header, Header) and i not in bad]
    if not good:
        raise DataError(f"none of the {len(headers)} images can be read; the first one: {bad[0]}")
    return good


def _damaged(reader: Reader, row: int, reason: str) -> DataError:
    return DataError(
        f"{reader.name(row)} cannot be read ({reason}); replace it, or leave such images out with --skip-bad-images "
        "(skip_bad_images=True)"
    )


def small_png(pixels: Tensor) -> str:
    """Pixels, uint8 [C, H, W], as a PNG file of 96 pixels a side at most, in base64; of 2 or 4 channels and more the mean."""
    grey = pixels[0] if len(pixels) == 1 else pixels.float().mean(0).byte()
    picture = Image.fromarray((pixels.permute(1, 2, 0) if len(pixels) == 3 else grey).contiguous().numpy())
    picture.thumbnail((SMALL, SMALL))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _form_notes(headers: Sequence[Header], form: Form) -> list[str]:
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


def decode_rows(
    reader: Reader, form: Form, rows: Sequence[int], skip_bad: bool = False, keep: bool = True
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """The pixels of these pictures, uint8 [N, C, H, W], or [0, C, H, W] where they are only tried and not kept; a hash of each
    one's, uint8 [N, 16]; and the rows that fail and why, if that is no error."""
    kept, digests = np.zeros((keep * len(rows), *form), dtype=np.uint8), np.zeros((len(rows), DIGEST), dtype=np.uint8)

    def put(k: int) -> None:
        pixels = decode(reader.open(rows[k]), form)
        digests[k] = np.frombuffer(hashlib.blake2b(pixels.tobytes(), digest_size=DIGEST).digest(), dtype=np.uint8)
        if keep:
            kept[k] = pixels

    bad = {}
    for row, reason in zip(rows, _each(put, len(rows), reader.workers), strict=True):
        if reason is not None:
            if not skip_bad:
                raise _damaged(reader, row, reason)
            bad[row] = reason
    return kept, digests, bad


def _each(work: Callable[[int], T], n: int, workers: int) -> Iterator[T | str]:
    """In order, for i below n, what `work(i)` returns, or the reason why picture i cannot be read."""

    def attempt(i: int) -> T | str:
        try:
            return work(i)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # Pillow raises many types on damaged files
            return reason_of(error)

    if workers == 1:
        yield from map(attempt, range(n))
        return
    with ThreadPool(workers) as pool:
        yield from pool.imap(attempt, range(n), max(1, min(256, n // (4 * workers))))  # pictures that a thread takes at a time

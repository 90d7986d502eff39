"""Pictures of every mode, size and state of repair, written here and compared with arithmetic on their pixels."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hiernas.data import images as images_module
from hiernas.data import load_data
from hiernas.data.images import Form, Header, choose_form, decode, measure, open_picture
from hiernas.data.load import Shelf
from hiernas.errors import DataError
from hiernas.host import usable_memory

RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (8, 12), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (8, 12), dtype=np.uint8)
SIXTEEN = RNG.integers(0, 65536, (8, 12), dtype=np.uint16)


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha.astype(float) / 255
    return pixels * share + 255 * (1 - share)


def test_eight_bit_pixels_are_kept() -> None:
    assert np.array_equal(decode(reopened(Image.fromarray(GREY), "PNG"), Form(1, 8, 12)), GREY[None])
    assert np.array_equal(decode(reopened(Image.fromarray(COLOUR), "PNG"), Form(3, 8, 12)), COLOUR.transpose(2, 0, 1))


def test_grey_is_repeated_on_three_channels() -> None:
    assert np.array_equal(decode(reopened(Image.fromarray(GREY), "PNG"), Form(3, 8, 12)), np.stack([GREY] * 3))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_upper_eight_bits(kind: str) -> None:
    image = reopened(Image.fromarray(SIXTEEN), kind)
    assert measure(image) == Header("16-bit", 1, 8, 12)
    assert np.array_equal(decode(image, Form(1, 8, 12)), (SIXTEEN // 256)[None])


def test_32_bit_values_within_16_bits_are_read_as_16_bit() -> None:
    assert np.array_equal(decode(Image.fromarray(SIXTEEN.astype(np.int32)), Form(1, 8, 12)), (SIXTEEN // 256)[None])


def test_wider_grey_values_are_refused() -> None:
    with pytest.raises(ValueError, match="beyond 16 bits"):
        decode(Image.fromarray(SIXTEEN.astype(np.int32) * 2 + 9), Form(1, 8, 12))
    with pytest.raises(ValueError, match="32-bit float"):
        measure(Image.fromarray(GREY.astype(np.float32)))


def test_one_bit_is_black_and_white() -> None:
    image = reopened(Image.fromarray(GREY > 99), "PNG")
    assert image.mode == "1"
    assert np.array_equal(decode(image, Form(1, 8, 12)), np.where(GREY > 99, 255, 0)[None])


def test_transparency_is_laid_over_white() -> None:
    colour = Image.merge("RGBA", [*Image.fromarray(COLOUR).split(), Image.fromarray(ALPHA)])
    got = decode(reopened(colour, "PNG"), Form(3, 8, 12)).transpose(1, 2, 0)
    assert np.abs(got - over_white(COLOUR, ALPHA[..., None])).max() <= 1
    grey = reopened(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG")
    assert measure(grey) == Header("transparent", 1, 8, 12)
    assert np.abs(decode(grey, Form(1, 8, 12))[0] - over_white(GREY, ALPHA)).max() <= 1


def test_palette_colours_are_looked_up() -> None:
    indices = RNG.integers(0, 4, (8, 12), dtype=np.uint8)
    palette = np.array([[255, 0, 0], [10, 20, 30], [0, 200, 0], [9, 9, 99]], dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert measure(reopened(image, "PNG")) == Header("palette", 3, 8, 12)
    assert np.array_equal(decode(reopened(image, "PNG"), Form(3, 8, 12)), palette[indices].transpose(2, 0, 1))
    clear = decode(reopened(image, "PNG", transparency=1), Form(3, 8, 12)).transpose(1, 2, 0)
    assert np.array_equal(clear, np.where((indices == 1)[..., None], 255, palette[indices]))


def test_cmyk_becomes_rgb() -> None:
    inks = RNG.integers(0, 256, (8, 12, 4), dtype=np.uint8)
    image = Image.merge("CMYK", [Image.fromarray(np.ascontiguousarray(inks[..., c])) for c in range(4)])
    got = decode(reopened(image, "TIFF"), Form(3, 8, 12)).transpose(1, 2, 0)
    paper = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert np.abs(got - paper).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, GREY), (3, GREY[::-1, ::-1]), (6, np.rot90(GREY, -1)), (8, np.rot90(GREY)), (5, GREY.T)],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int, upright: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image = reopened(Image.fromarray(GREY), kind, exif=exif, **options)
    header = measure(image)
    assert (header.height, header.width) == upright.shape
    assert np.array_equal(decode(image, Form(header.channels, *upright.shape))[0], upright)


def test_exif_orientation_of_a_jpeg_with_smooth_pixels() -> None:
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))  # 16x24, dark on the left
    exif = Image.Exif()
    exif[0x0112] = 6
    image = reopened(Image.fromarray(ramp), "JPEG", exif=exif, quality=95)
    assert measure(image) == Header("grey", 1, 24, 16)
    assert np.abs(decode(image, Form(1, 24, 16))[0].astype(int) - ramp.T).max() <= 6  # dark on top


def test_squares_are_cut_from_the_centre() -> None:
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = GREY[:, :8]
    assert np.array_equal(decode(Image.fromarray(wide), Form(1, 8, 8))[0], GREY[:, :8])
    halves = decode(Image.fromarray(np.repeat(np.repeat(wide, 2, 0), 2, 1)), Form(1, 16, 16))[0]
    assert np.array_equal(halves, np.repeat(np.repeat(GREY[:, :8], 2, 0), 2, 1))


@pytest.mark.parametrize("side", [30, 100, 101])
def test_large_jpegs_are_decoded_at_a_fraction(side: int) -> None:
    """From four times the size on, to the eye the same; below, to the bit."""
    coarse = Image.fromarray(RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize((500, 403), Image.Resampling.BICUBIC)
    whole = reopened(coarse, "JPEG", quality=90).convert("RGB")  # a picture of its own, which has no fractions
    full = decode(whole, Form(3, side, side)).astype(int)
    got = np.abs(decode(reopened(coarse, "JPEG", quality=90), Form(3, side, side)) - full)
    assert (got.max() > 0) == (4 * side <= 400)
    assert got.mean() <= 1.5
    assert got.max() <= 8


@pytest.mark.parametrize("size", [12, 15, 60])
def test_the_short_side_is_scaled_and_the_centre_kept(size: int) -> None:
    large = RNG.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    got = decode(Image.fromarray(large), Form(3, size, size))
    wide, edge = size * 5 // 3, size // 3
    whole = torch.from_numpy(large.transpose(2, 0, 1)[None].copy()).float()
    scaled = torch.nn.functional.interpolate(whole, (size, wide), mode="bilinear", antialias=True)[0].numpy()
    assert np.abs(got - scaled[:, :, edge : edge + size]).max() <= 1.01


def test_bands_are_scaled_one_by_one() -> None:
    bands = RNG.integers(0, 256, (20, 20, 5), dtype=np.uint8)
    got = decode(bands, Form(5, 8, 8))
    one = [decode(bands[..., c : c + 1], Form(1, 8, 8))[0] for c in range(5)]
    assert np.array_equal(got, np.stack(one))


def header(height: int, width: int, channels: int = 1) -> Header:
    return Header("grey" if channels == 1 else "rgb", channels, height, width)


def test_form_follows_the_stated_rules() -> None:
    assert choose_form([header(256, 300), header(256, 300, 3)], None) == Form(3, 256, 300)  # kept, colour wins
    assert choose_form([header(257, 514)], None) == Form(1, 224, 448)  # too large: scaled, shape kept
    assert choose_form([header(257, 514)], 32) == Form(1, 32, 32)
    assert choose_form([header(20, 90), header(31, 40), header(50, 47)], None) == Form(1, 24, 24)  # short: 20, 31, 47
    assert choose_form([header(3, 90), header(7, 9)], None) == Form(1, 8, 8)
    assert choose_form([header(900, 800), header(700, 600)], None) == Form(1, 224, 224)


def test_form_refuses_what_does_not_go_together() -> None:
    with pytest.raises(DataError, match="3 and 4 channels; give all of them the same"):
        choose_form([header(8, 8, 3), header(8, 8, 4)], None)
    with pytest.raises(DataError, match="3x9 pixels are too small; give an image_size"):
        choose_form([header(3, 9)], None)


def write_classes(folder: Path, per_class: int = 6, size: int = 16) -> list[Path]:
    """Two classes of colour PNG files."""
    rng = np.random.default_rng(0)
    paths = [folder / name / f"{i}.png" for name in ("ant", "bee") for i in range(per_class)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return paths


def truncate(path: Path, size: tuple[int, int]) -> None:
    """A JPEG file of which only the first half is left."""
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG", quality=90)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_truncated_image_is_named_or_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path, size=18)
    whole = load_data(tmp_path)
    truncate(tmp_path / "ant" / "half.jpg", (40, 40))  # of another size: it must not turn 18x18 into a mixed set
    (tmp_path / "bee" / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"bee/text.png cannot be read \(not a picture in a known format\)"):
        load_data(tmp_path)
    (tmp_path / "bee" / "text.png").unlink()
    with pytest.raises(DataError, match=r"ant/half.jpg cannot be read \(.*truncated.*--skip-bad-images"):
        load_data(tmp_path)
    (tmp_path / "bee" / "text.png").write_text("no picture")
    data = load_data(tmp_path, skip_bad_images=True)
    assert data.input_size == (3, 18, 18)
    assert data.mean == whole.mean
    assert data.fingerprint == whole.fingerprint
    note = next(n for n in data.notes if "damaged" in n)
    assert note.startswith("2 damaged images left out: ")
    assert "half.jpg" in note
    assert "text.png" in note


def test_nothing_but_damaged_images_is_an_error(tmp_path: Path) -> None:
    for path in write_classes(tmp_path):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="none of the 12 images can be read"):
        load_data(tmp_path, skip_bad_images=True)


def test_notes_count_what_was_done(tmp_path: Path) -> None:
    paths = write_classes(tmp_path)
    Image.fromarray(SIXTEEN).save(paths[0])
    Image.fromarray(GREY).save(paths[1])
    Image.fromarray(COLOUR).quantize(8).save(paths[2])
    notes = load_data(tmp_path).notes
    assert notes[:4] == (
        "1 palette pictures converted to RGB",
        "1 16-bit grey pictures scaled to 8 bits",
        "2 grey pictures repeated on three channels",
        "3 images scaled and cut from the centre to 16x16 (8x12)",
    )


def test_sizes_beyond_memory_are_refused_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path, size=16)

    def taken(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Shelf, "take", taken)
    monkeypatch.setattr(images_module, "usable_memory", lambda: 64 * 3 * 4 * 16 * 100**2)  # for a side of 100
    for size, most, reason in ((100_000, 100, "64 of them would take 7,152.6 GiB"), (101, 100, "GiB as a network's input")):
        with pytest.raises(DataError, match=f"{size}x{size} pixels are too large: .*{reason}.*at most {most}$"):
            load_data(tmp_path, image_size=size)
    monkeypatch.setattr(images_module, "usable_memory", lambda: 2**50)
    with pytest.raises(DataError, match=r"have 16 on their short side, and enlarging them more than 16-fold .* at most 256$"):
        load_data(tmp_path, image_size=257)
    for size in (100, 256):
        with pytest.raises(AssertionError):
            load_data(tmp_path, image_size=size)


def test_a_machine_says_its_memory() -> None:
    memory = usable_memory()
    if Path("/proc/meminfo").exists():
        kib = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
        assert 2**24 < memory <= 1.05 * 1024 * kib
    assert memory > 2**24


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 12 8
%%EndComments
(marker) (w) file closefile
showpage
"""


def test_only_the_documented_formats_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow goes by the content: PostScript under another name would be given to `gs`, which runs it."""
    kinds = {"bmp": "BMP", "gif": "GIF", "jpg": "JPEG", "png": "PNG", "ppm": "PPM", "tga": "TGA", "tif": "TIFF", "webp": "WEBP"}
    for extension, kind in kinds.items():
        Image.fromarray(COLOUR).save(tmp_path / f"x.{extension}", kind)
        with open_picture(tmp_path / f"x.{extension}") as picture:
            assert (picture.format, picture.size) == (kind, (12, 8))
    for i in range(12):
        (tmp_path / "data" / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOUR).save(tmp_path / "data" / f"c{i % 2}" / f"{i}.png")
    (tmp_path / "data" / "c0" / "evil.png").write_bytes(POSTSCRIPT)
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DataError, match=r"evil\.png cannot be read \(not a picture in a known format\)"):
        load_data(tmp_path / "data")
    assert "1 damaged images left out" in " ".join(load_data(tmp_path / "data", skip_bad_images=True).notes)
    assert not (tmp_path / "started").exists()

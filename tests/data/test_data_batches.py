"""Augmentation against slow loops over single images; order and normalisation against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hiernas.data import augment, epoch_order, in_order, load_data, normalise
from hiernas.errors import ConfigError
from hiernas.train.recipes import Recipe


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, c: int, h: int, w: int) -> Tensor:
    return torch.randint(0, 256, (n, c, h, w), generator=generator(9)).to(torch.uint8)


@pytest.mark.parametrize(("c", "h", "w"), [(1, 8, 8), (3, 32, 32), (3, 24, 40), (2, 5, 9)])
def test_crop_flip_and_cutout_equal_a_loop(c: int, h: int, w: int) -> None:
    x, cut = noise(150, c, h, w), 3
    got = augment(x, Recipe(augment="crop", flip=True, cutout=cut), generator())
    g, pad = generator(), max(1, min(h, w) // 8)
    top, left = torch.randint(0, 2 * pad + 1, (2, 150, 1), generator=g)
    mirror = torch.rand(150, generator=g) < 0.5
    cy, cx = (torch.randint(0, size, (150, 1), generator=g) for size in (h, w))
    moved = []
    for i in range(150):
        canvas = torch.zeros(c, h + 2 * pad, w + 2 * pad, dtype=torch.uint8)
        canvas[:, pad : pad + h, pad : pad + w] = x[i]
        image = canvas[:, top[i] : top[i] + h, left[i] : left[i] + w]
        moved.append(image.flip(2) if mirror[i] else image)
    want = torch.stack(moved)
    fill = want.double().mean((0, 2, 3)).round().to(torch.uint8)
    for i in range(150):
        y, z = int(cy[i]) - cut // 2, int(cx[i]) - cut // 2
        want[i, :, max(0, y) : y + cut, max(0, z) : z + cut] = fill[:, None, None]
    assert torch.equal(got, want)
    assert 0 < int(mirror.sum()) < 150
    assert len(torch.unique(top)) == 2 * pad + 1


def bilinear(image: np.ndarray, y: float, x: float) -> float:
    """One value at a continuous pixel position, the border continued."""
    h, w = image.shape
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    a, b = min(int(y), h - 2), min(int(x), w - 2)
    fy, fx = y - a, x - b
    rows = image[a, b : b + 2] * (1 - fy) + image[a + 1, b : b + 2] * fy
    return float(rows[0] * (1 - fx) + rows[1] * fx)


def test_resized_crop_equals_a_loop() -> None:
    h, w = 7, 10
    x = noise(12, 1, h, w)
    got = augment(x, Recipe(augment="resized_crop"), generator(4)).numpy().astype(float)
    area, ratio, across, down = (v.double().numpy() for v in torch.rand((4, 12), generator=generator(4)))
    for i in range(12):
        share, shape = 0.25 + 0.75 * area[i], (3 / 4) ** (1 - ratio[i]) * (4 / 3) ** ratio[i]
        height, width = min(1.0, math.sqrt(share / shape)) * h, min(1.0, math.sqrt(share * shape)) * w
        top, left = down[i] * (h - height), across[i] * (w - width)
        for r in range(h):
            for s in range(w):
                at = top + (r + 0.5) * height / h - 0.5, left + (s + 0.5) * width / w - 0.5
                assert abs(got[i, 0, r, s] - bilinear(x[i, 0].numpy().astype(float), *at)) <= 0.51


def test_auto_takes_the_kind_by_the_size() -> None:
    small, large = noise(6, 3, 95, 120), noise(6, 3, 96, 120)
    assert torch.equal(augment(small, Recipe(), generator()), augment(small, Recipe(augment="crop"), generator()))
    assert torch.equal(augment(large, Recipe(), generator()), augment(large, Recipe(augment="resized_crop"), generator()))


def test_only_colour_images_are_mirrored_by_default() -> None:
    colour, grey = noise(20, 3, 8, 8), noise(20, 1, 8, 8)
    for x, mirrored in ((colour, True), (grey, False)):
        same = augment(x, Recipe(augment="crop", flip=mirrored), generator())
        assert torch.equal(augment(x, Recipe(augment="crop"), generator()), same)
    assert torch.equal(augment(colour, Recipe(augment="none"), generator()), colour)
    flipped = augment(colour, Recipe(augment="none", flip=True), generator())
    kinds = [torch.equal(a, b) for a, b in zip(flipped, colour, strict=True)]
    assert all(torch.equal(a, b if k else b.flip(2)) for a, b, k in zip(flipped, colour, kinds, strict=True))
    assert 0 < sum(kinds) < 20


def test_the_same_image_is_varied_differently() -> None:
    x = noise(1, 3, 32, 32).expand(64, 3, 32, 32)
    got = augment(x, Recipe(), generator())
    assert len({bytes(image.numpy().tobytes()) for image in got}) > 50  # of 9 * 9 * 2
    again = augment(x, Recipe(), generator())
    assert torch.equal(got, again)


def test_augmentation_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"augment: input should be 'auto', 'crop', 'resized_crop' or 'none' \(got 'crops'\)"):
        Recipe(augment="crops")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cutout: input should be greater than or equal to 0 \(got -1\)"):
        Recipe(cutout=-1)
    with pytest.raises(ConfigError, match="cutout=16 covers images of 8 pixels; give at most 7"):
        augment(noise(2, 1, 8, 8), Recipe(cutout=16), generator())
    with pytest.raises(ConfigError, match=r"takes uint8 pixels, not torch\.float32"):
        augment(torch.zeros(2, 1, 8, 8), Recipe(), generator())


def test_normalise_subtracts_and_divides() -> None:
    data = load_data("digits")
    x = data.train.images.fetch(torch.arange(len(data.train)))
    y = normalise(x, data, "cpu")
    assert torch.allclose(y.double(), (x.double() / 255 - data.mean[0]) / data.std[0], atol=1e-6)
    assert y.mean().item() == pytest.approx(0, abs=1e-5)
    assert y.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_normalise_keeps_channels_last_in_memory() -> None:
    items = [(np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8), i % 2) for i in range(20)]
    data = load_data(items)
    y = normalise(data.train.images.fetch(torch.arange(8)), data, "cpu")
    assert y.is_contiguous(memory_format=torch.channels_last)
    for c in range(3):
        x = data.train.images.fetch(torch.arange(8))[:, c].double() / 255
        assert torch.allclose(y[:, c].double(), (x - data.mean[c]) / data.std[c], atol=1e-6)


def test_epoch_order_drops_only_an_incomplete_last_batch() -> None:
    batches = epoch_order(10, 4, generator())
    assert [len(b) for b in batches] == [4, 4]
    assert len(set(torch.cat(batches).tolist())) == 8
    assert sorted(torch.cat(epoch_order(12, 4, generator())).tolist()) == list(range(12))
    (only,) = epoch_order(3, 4, generator())
    assert sorted(only.tolist()) == [0, 1, 2]
    g = generator()
    assert [b.tolist() for b in epoch_order(12, 4, g)] != [b.tolist() for b in epoch_order(12, 4, g)]


def test_in_order_covers_everything_once() -> None:
    assert [b.tolist() for b in in_order(5, 2)] == [[0, 1], [2, 3], [4]]
    assert [b.tolist() for b in in_order(2, 5)] == [[0, 1]]

"""Splits, statistics and fingerprints, against counts and sums made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hiernas.data import ImageData, load_data
from hiernas.data.load import fingerprint_of
from hiernas.data.sources import default_val_per_class, divide
from hiernas.errors import DataError


def stripes(counts: list[int], size: int = 6) -> list[tuple[np.ndarray, int]]:
    """Grey images, all different, `counts[k]` of class k, the classes mixed."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    base = np.arange(size * size, dtype=np.uint8).reshape(size, size)
    images = [np.where(base < 2, [[i % 256] * size] * size, base).astype(np.uint8) for i in range(len(labels))]
    return list(zip(images, labels.tolist(), strict=True))


def per_class(data: ImageData) -> list[list[int]]:
    return [torch.bincount(s.labels, minlength=data.num_classes).tolist() for s in (data.train, data.val, data.test)]


def test_every_class_gives_its_share() -> None:
    # test: 20 % rounded half up; validation: 20 % of what is left
    assert per_class(load_data(stripes([50, 13, 5]))) == [[32, 8, 3], [8, 2, 1], [10, 3, 1]]
    assert per_class(load_data(stripes([50, 13, 5]), val_per_class=3)) == [[37, 7, 1], [3, 3, 3], [10, 3, 1]]


def test_default_number_of_validation_images() -> None:
    assert default_val_per_class(5000, 10) == 200  # CIFAR-10: 2000 // 10
    assert default_val_per_class(500, 100) == 50
    assert default_val_per_class(500, 10) == 100  # 20 %
    assert default_val_per_class(2, 10) == 1


def test_the_three_splits_share_no_row_and_lose_none() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 400)
    rows, _ = divide(labels, {"train": np.arange(400)}, list("abcd"), None, seed=2)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(400))
    assert all((np.diff(r) > 0).all() for r in rows.values())


def test_the_seed_decides_and_nothing_else() -> None:
    items = stripes([40, 40])
    a, b, other = load_data(items, seed=5), load_data(items, seed=5), load_data(items, seed=6)
    for x, y in ((a.train, b.train), (a.val, b.val), (a.test, b.test)):
        assert torch.equal(x.images.fetch(torch.arange(len(x))), y.images.fetch(torch.arange(len(y))))
        assert torch.equal(x.labels, y.labels)
    assert a.fingerprint == b.fingerprint
    assert a.fingerprint != other.fingerprint
    assert not torch.equal(
        a.test.images.fetch(torch.arange(len(a.test))), other.test.images.fetch(torch.arange(len(other.test)))
    )


def test_validation_images_do_not_change_the_test_images() -> None:
    items = stripes([40, 40])
    few, many = load_data(items, val_per_class=1), load_data(items, val_per_class=20)
    every = torch.arange(len(few.test))
    assert torch.equal(few.test.images.fetch(every), many.test.images.fetch(every))


def test_classes_with_too_few_images() -> None:
    with pytest.raises(DataError, match=r"class '1' has 4 usable images in the train split, but at least 5 must"):
        load_data(stripes([9, 4]))
    labels = np.array([0, 0, 1, 0, 1])
    given = {"train": np.arange(3), "test": np.arange(3, 5)}
    with pytest.raises(DataError, match="class 'b' has 1 usable images in the train split, but at least 2"):
        divide(labels, given, ["a", "b"], None, 0)
    full = {**given, "val": np.arange(3, 5)}
    rows, notes = divide(labels, full, ["a", "b"], None, 0)
    assert [r.tolist() for r in rows.values()] == [[0, 1, 2], [3, 4], [3, 4]]
    assert notes == []
    with pytest.raises(DataError, match="class 'b' has 0 usable images in the val split"):
        divide(labels, {**given, "val": np.array([0])}, ["a", "b"], None, 0)


def test_val_per_class_must_leave_training_images() -> None:
    with pytest.raises(
        DataError, match="val_per_class=8 would leave none of the 8 training images of class '1'; give at most 7"
    ):
        load_data(stripes([50, 10]), val_per_class=8)
    given = {"train": np.arange(3), "val": np.arange(3, 5)}
    with pytest.raises(DataError, match="val_per_class=1 does nothing: the data have a validation split"):
        divide(np.array([0, 0, 1, 0, 1]), given, ["a", "b"], 1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 3}, "image_size=3 must be a whole number, at least 4"),
        ({"image_size": 8.0}, "image_size=8.0 must be a whole number"),
        ({"val_per_class": 0}, "val_per_class=0 must be a whole number, at least 1"),
        ({"val_per_class": True}, "val_per_class=True must be a whole number"),
        ({"seed": -1}, "seed=-1 must be a whole number, at least 0"),
        ({"memory_gib": float("nan")}, "memory_gib=nan must be 0 or more"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data("digits", **options)  # type: ignore[arg-type]  # wrong types are the point


def test_image_size_scales_the_digits() -> None:
    data = load_data("digits", image_size=16)
    assert data.input_size == (1, 16, 16)
    assert "1797 images scaled and cut from the centre to 16x16 (8x8)" in data.notes
    small = load_data("digits")
    big = data.train.images.fetch(torch.arange(len(data.train))).float()
    assert big.mean().item() / 255 == pytest.approx(small.mean[0], rel=0.01)


def test_mean_and_deviation_are_those_of_the_training_images() -> None:
    items = [(np.random.default_rng(i).integers(0, 256, (7, 5, 3), dtype=np.uint8), i % 2) for i in range(40)]
    for image, _ in items:
        image[..., 2] = 51  # a constant channel
    data = load_data(items)
    train = data.train.images.fetch(torch.arange(len(data.train))).double() / 255
    assert data.mean == pytest.approx(train.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std[:2] == pytest.approx(train.std((0, 2, 3), correction=0).tolist()[:2], abs=1e-12)
    assert data.mean[2] == pytest.approx(0.2)
    assert data.std[2] == 1.0


def test_statistics_take_a_random_part_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiernas.data.load.STATISTICS_IMAGES", 300)
    data, full = load_data("digits", seed=1), 0.30579  # the mean of 1,151 images with seed 0
    assert data.mean == load_data("digits", seed=1).mean
    assert data.mean[0] != full
    assert data.mean[0] == pytest.approx(full, rel=0.05)


def test_the_fingerprint_sees_labels_pixels_counts_and_sizes() -> None:
    items = stripes([10, 10])
    swapped = [(x, 1 - k) for x, k in items]
    brighter = [(x + np.uint8(1), k) for x, k in items]
    prints = [load_data(v).fingerprint for v in (items, swapped, brighter, items[:-1])]
    prints.append(load_data(items, image_size=8).fingerprint)
    assert len(set(prints)) == 5
    assert load_data(list(items)).fingerprint == prints[0]
    labels, digests = np.array([0, 1, 1]), np.arange(48, dtype=np.uint8).reshape(3, 16)
    parts = [("ab", labels, digests), ("ab", 1 - labels, digests), ("ac", labels, digests), ("ab", labels, digests[::-1])]
    assert len({fingerprint_of(classes, (1, 6, 6), [(k, hashes)]) for classes, k, hashes in parts}) == 4


def test_the_fingerprint_sees_every_pixel_of_every_image() -> None:
    items = [(np.full((6, 6), i, dtype=np.uint8), i % 2) for i in range(200)]
    whole = load_data(items).fingerprint
    for i in range(0, 200, 7):
        other = items[i][0].copy()
        other[i % 6, i // 6 % 6] ^= 1
        assert load_data([*items[:i], (other, i % 2), *items[i + 1 :]]).fingerprint != whole
    held = [*items[:100], items[102], items[101], items[100], *items[103:]]  # two images of one class change places
    assert load_data(held).fingerprint != whole


def test_one_image_under_two_labels_is_said() -> None:
    items = [(np.full((6, 6), i, dtype=np.uint8), i % 2) for i in range(40)]
    assert not [note for note in load_data(items).notes if "labels" in note]
    twice = [*items, (items[5][0], 0), (items[7][0], 1)]
    said = "1 images are there under several labels: item 5 of the data set and item 40 of the data set have the same pixels"
    assert said in load_data(twice).notes

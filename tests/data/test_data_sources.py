"""Folders and Python data sets: what is found in them, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import everything, picture, pixels, write
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, TensorDataset

from hiernas.data import load_data
from hiernas.errors import DataError
from hiernas.host import visible


def test_digits_are_those_of_scikit_learn() -> None:
    data, truth = load_data("digits"), load_digits()
    assert data.input_size == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    grey = np.floor(truth.images * 255 / 16 + 0.5).astype(np.uint8)
    assert everything(data) == {(int(k), x.tobytes()) for x, k in zip(grey, truth.target, strict=True)}
    assert len(data.train) + len(data.val) + len(data.test) == 1797


def test_class_folders_in_sorted_order(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 5, "ant": 6, "bee": 7})
    (tmp_path / "bee" / "deep" / "er").mkdir(parents=True)
    Image.fromarray(picture(99)).save(tmp_path / "bee" / "deep" / "er" / "x.PNG")
    data = load_data(str(tmp_path))
    assert data.classes == ("ant", "bee", "cat")
    assert data.name == tmp_path.name
    truth = {(2, i) for i in range(5)} | {(0, i) for i in range(5, 11)} | {(1, i) for i in range(11, 18)} | {(1, 99)}
    assert everything(data) == {(k, picture(i).transpose(2, 0, 1).tobytes()) for k, i in truth}


def test_files_that_are_no_images_are_noted_or_ignored(tmp_path: Path) -> None:
    write(tmp_path, {"ant": 5, "bee": 5})
    clean = load_data(tmp_path)
    for name in (".DS_Store", "ant/.hidden.png", "ant/Thumbs.db", ".git/x.png", "__MACOSX/ant/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"junk")
    assert load_data(tmp_path).notes == clean.notes
    (tmp_path / "README.txt").write_text("hello")
    (tmp_path / "bee" / "labels.csv").write_text("a,b")
    data = load_data(tmp_path)
    assert data.notes[0] == "2 files that are no images in class folders are ignored: README.txt, bee/labels.csv"
    assert data.fingerprint == clean.fingerprint


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    write(tmp_path / "train", {"ant": 3, "bee": 2})
    write(tmp_path / val, {"ant": 1, "bee": 2}, 50)
    write(tmp_path / "test", {"ant": 2, "bee": 1}, 70)
    data = load_data(tmp_path)
    for split, numbers, labels in (
        (data.train, range(5), [0, 0, 0, 1, 1]),
        (data.val, range(50, 53), [0, 1, 1]),
        (data.test, range(70, 73), [0, 0, 1]),
    ):
        assert np.array_equal(pixels(split), np.stack([picture(i) for i in numbers]).transpose(0, 3, 1, 2))
        assert split.labels.tolist() == labels
    assert data.notes == ()


def test_train_and_test_may_be_classes(tmp_path: Path) -> None:
    write(tmp_path, {"train": 5, "test": 5, "tram": 5})
    assert load_data(tmp_path).classes == ("test", "train", "tram")


def test_only_what_is_missing_is_cut_from_training(tmp_path: Path) -> None:
    write(tmp_path / "train", {"ant": 10, "bee": 10})
    write(tmp_path / "test", {"ant": 1, "bee": 1}, 50)
    (tmp_path / "extra").mkdir()
    data = load_data(tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 2)
    assert data.notes == (
        "folders beside train/ are ignored: extra",
        "no validation split given: 4 training images are held out for validation",
    )


def test_class_folders_that_do_not_agree(tmp_path: Path) -> None:
    write(tmp_path / "train", {"ant": 5, "bee": 5})
    write(tmp_path / "test", {"ant": 2})
    with pytest.raises(DataError, match=r"class 'bee' of '.*train' is missing in '.*test'; add it there"):
        load_data(tmp_path)
    write(tmp_path / "test", {"bee": 2, "cow": 2})
    with pytest.raises(DataError, match=r"class 'cow' of '.*test' is not in '.*train'"):
        load_data(tmp_path)
    (tmp_path / "test" / "cow").rename(tmp_path / "valid")
    write(tmp_path / "val", {"ant": 1})
    with pytest.raises(DataError, match=r"has val/ and valid/ for one split; keep one"):
        load_data(tmp_path)


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder 'digit' \(did you mean 'digits'\?\); give"):
        load_data("digit")
    with pytest.raises(DataError, match="holds no images; put the images into one folder per class"):
        load_data(tmp_path)
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png' is a file; give the folder that holds"):
        load_data(tmp_path / "a.png")
    with pytest.raises(DataError, match="holds 1 images but no class folders"):
        load_data(tmp_path)
    write(tmp_path, {"ant": 5})
    with pytest.raises(DataError, match="holds only the class 'ant'; a classifier needs images of at least two"):
        load_data(tmp_path)
    for name in ("bee", "cow"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="'empty' holds no readable images; "):
        load_data(tmp_path / "empty")
    (tmp_path / "empty" / "bee").rename(tmp_path / "bee")
    (tmp_path / "empty" / "cow").rmdir()
    (tmp_path / "empty").rmdir()
    with pytest.raises(DataError, match="class 'bee' has 0 usable images in the train split, but at least 5"):
        load_data(tmp_path)
    with pytest.raises(DataError, match="a int is not a data source; give 'digits', a folder"):
        load_data(3)  # type: ignore[arg-type]  # the mistake is the point


def test_test_images_without_training_images(tmp_path: Path) -> None:
    write(tmp_path / "test", {"ant": 5, "bee": 5})
    with pytest.raises(DataError, match="has test/ but no train/; add it"):
        load_data(tmp_path)


# Python data sets


class Pairs(Dataset[tuple[object, object]]):
    def __init__(self, images: list[object], labels: list[object]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[object, object]:
        if self.images[i] is None:
            raise RuntimeError("lost")
        return self.images[i], self.labels[i]


def test_images_of_every_type_give_the_same_pixels() -> None:
    raw = [picture(i) for i in range(12)]
    planes = [torch.from_numpy(x.transpose(2, 0, 1).copy()) for x in raw]
    kinds: list[list[object]] = [
        [Image.fromarray(x) for x in raw],
        list(raw),
        list(planes),
        [x.double() / 255 for x in planes],
        [x / np.float32(255) for x in raw],
    ]
    loaded = [load_data(Pairs(images, [0, 1] * 6)) for images in kinds]
    assert everything(loaded[0]) == {(i % 2, x.numpy().tobytes()) for i, x in enumerate(planes)}
    assert {data.fingerprint for data in loaded} == {loaded[0].fingerprint}


def test_grey_images_and_bands_keep_their_channels() -> None:
    grey = [picture(i, channels=1) for i in range(12)]
    for images in ([torch.from_numpy(x) for x in grey], [torch.from_numpy(x)[None] for x in grey], grey):
        data = load_data(Pairs(list(images), [0, 1] * 6))
        assert data.input_size == (1, 12, 10)
        assert everything(data) == {(i % 2, x.tobytes()) for i, x in enumerate(grey)}
    bands = torch.randint(0, 256, (12, 6, 9, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = load_data(TensorDataset(bands, torch.tensor([4, 9] * 6)))
    assert data.classes == ("4", "9")
    assert everything(data) == {(i % 2, x.numpy().tobytes()) for i, x in enumerate(bands)}


def test_a_data_set_keeps_its_own_lazy_images_open(tmp_path: Path) -> None:
    write(tmp_path, {"ant": 5, "bee": 5})
    images = [Image.open(path) for path in sorted(tmp_path.glob("*/*.png"))]
    data = load_data([(image, i // 5) for i, image in enumerate(images)])  # type: ignore[arg-type]  # a list will do
    assert everything(data) == {(i // 5, np.asarray(x).transpose(2, 0, 1).tobytes()) for i, x in enumerate(images)}


def test_items_that_fail_are_left_out() -> None:
    images: list[object] = [picture(i) for i in range(13)]
    images[4] = None
    with pytest.raises(DataError, match=r"item 4 of the data set cannot be read \(lost\)"):
        load_data(Pairs(images, [0, 1] * 7))
    assert len(everything(load_data(Pairs(images, [0, 1] * 7), skip_bad_images=True))) == 12


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (torch.full((3, 8, 8), 1.5), 0, "item 0 of the data set has values from 1.5 to 1.5; floats must be in 0..1"),
        (torch.full((8, 8), float("nan")), 0, "has values from nan to nan"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), 0, "has values of type int64; give uint8, or floats"),
        (torch.zeros(8, 9, 3), 0, r"has shape \[8, 9, 3\], but a Tensor must be \[C, H, W\]"),
        (np.zeros((3, 8, 9)), 0, r"has shape \[3, 8, 9\], but a ndarray must be \[H, W, C\]"),
        (np.zeros((1, 3, 8, 9)), 0, r"has shape \[1, 3, 8, 9\]; give \[H, W, C\] or \[H, W\]"),
        ("cat.png", 0, "is a str; give a Pillow image, a tensor or an array"),
        (np.zeros((8, 8)), -2, "has the label -2; labels must be whole numbers from 0"),
        (np.zeros((8, 8)), "cat", "has the label 'cat'; labels must be whole numbers"),
    ],
)
def test_items_that_are_not_images_with_labels(image: object, label: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(Pairs([image], [label]), skip_bad_images=True)


def test_data_sets_without_pairs_or_items() -> None:
    with pytest.raises(DataError, match=r"item 0 of the data set is a dict; it must be a pair \(image, label\)"):
        load_data([{"image": 1, "label": 2}])  # type: ignore[arg-type]  # the mistake is the point
    with pytest.raises(DataError, match="'Pairs' holds no readable images; a classifier needs"):
        load_data(Pairs([], []))
    with pytest.raises(DataError, match="'Pairs' holds no readable images"):
        load_data(Pairs([None] * 3, [0, 1, 0]))


def test_pipes_devices_and_circles_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "d", {"a": 6, "b": 6})
    clean = load_data(tmp_path / "d")
    os.mkfifo(tmp_path / "d" / "a" / "pipe.png")
    os.mkfifo(tmp_path / "d" / "table.parquet")
    (tmp_path / "d" / "b" / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "d" / "a" / "again").symlink_to(tmp_path / "d")
    (tmp_path / "d" / "itself").symlink_to(tmp_path / "d")  # would be a class that holds all others
    (tmp_path / "d" / "above").symlink_to(tmp_path)
    data = load_data(tmp_path / "d")
    assert (data.classes, data.fingerprint) == (("a", "b"), clean.fingerprint)
    assert "3 pipes, devices or links to folders are skipped: a/again, a/pipe.png, b/zero.jpg" in data.notes


def test_names_that_steer_a_terminal_or_are_no_text(tmp_path: Path) -> None:
    """Names as a file system allows them reach the classes as they are; a terminal and a page get what can be seen."""
    names = [b"\x1b[31mred\x1b[0m", b"two\nlines", b"caf\xe9", b"<b>&$x'\"", "\u202eexe".encode()]
    for i, name in enumerate(names):
        folder = tmp_path / "d" / os.fsdecode(name)
        write(tmp_path / "d", {folder.name: 6}, first=10 * i)
    data = load_data(tmp_path / "d")
    assert sorted(map(os.fsencode, data.classes)) == sorted(names)
    shown = " ".join(map(visible, data.classes))
    assert shown.isprintable()
    for text in ("\\x1b[31mred", "two\\nlines", "caf\\udce9", "<b>&$x'\"", "\\u202eexe"):
        assert text in shown

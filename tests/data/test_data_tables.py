"""Parquet files and hub data sets, against the same pictures in folders and against a direct decode."""

from __future__ import annotations

import io
import json
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, everything, picture, pixels, write
from PIL import Image

from hiernas.data import load_data
from hiernas.data.tables import Table, _arrays, rows_of
from hiernas.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
NAMES = ("ant", "bee", "cat")


def write_table(path: Path, images: list[bytes | None], labels: list[int | None], names: tuple[str, ...] = ()) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": b, "path": None} for b in images], kind)
    table = pa.table({"id": pa.array(range(len(images))), "image": column, "label": pa.array(labels, pa.int64())})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=4)


def test_a_table_gives_the_pixels_of_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "files" / "train", {"ant": 7, "bee": 7, "cat": 7})
    write(tmp_path / "files" / "test", {"ant": 1, "bee": 1, "cat": 1}, 50)
    (tmp_path / "tables").mkdir()
    images = [encoded(picture(i)) for i in range(21)]
    labels = [0] * 7 + [1] * 7 + [2] * 7
    write_table(tmp_path / "tables" / "train-00000-of-00002.parquet", images[:10], labels[:10], NAMES)
    write_table(tmp_path / "tables" / "train-00001-of-00002.parquet", images[10:], labels[10:], NAMES)
    write_table(tmp_path / "tables" / "test.parquet", [encoded(picture(i)) for i in (50, 51, 52)], [0, 1, 2], NAMES)
    folder = load_data(tmp_path / "files", seed=4)
    table = load_data(tmp_path / "tables", seed=4)
    for a, b in ((folder.train, table.train), (folder.val, table.val), (folder.test, table.test)):
        assert torch.equal(pixels(a), pixels(b))
        assert torch.equal(a.labels, b.labels)
    assert (folder.classes, folder.mean, folder.fingerprint) == (table.classes, table.mean, table.fingerprint)


def test_rows_are_counted_within_their_table() -> None:
    pa = pytest.importorskip("pyarrow")
    numbers = [(0, 1, 2), (), (20, 21), (30, 31, 32, 33)]
    arrays = [pa.array([{"bytes": encoded(picture(i))} for i in some], pa.struct({"bytes": pa.binary()})) for some in numbers]
    empty = Table("empty", lambda: [arrays[1]], [], None)
    a, b = (Table(name, partial(iter, x), range(n), None) for name, x, n in (("a", arrays[:3], 5), ("b", arrays[3:], 4)))
    rows = rows_of([empty, a, empty, b], follow_paths=False)
    names = [f"a, row {i}," for i in range(5)] + [f"b, row {i}," for i in range(4)]
    assert [rows.name(i) for i in range(rows.count)] == names
    truth = [picture(i) for some in numbers for i in some]
    for some in (range(9), [8], [0, 4, 5, 7]):
        found = [np.asarray(opened()) for opened in rows.pictures(some)]
        assert np.array_equal(found, [truth[i] for i in some])


def test_a_table_is_read_a_little_at_a_time(tmp_path: Path) -> None:
    """60 MB in one row group, as pyarrow writes it when it is not told otherwise."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    table = pa.table({"image": pa.array([{"bytes": rng.bytes(2000)} for _ in range(30_000)])})
    parquet.write_table(table, tmp_path / "a.parquet")
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    for array in _arrays(tmp_path / "a.parquet", "image", 30_000):
        most, rows = max(most, pa.total_allocated_bytes() - before), rows + len(array)
    assert rows == 30_000
    assert most < 2**24
    with pytest.raises(DataError, match=r"a.parquet' cannot be read \(its columns have different lengths\); replace it"):
        list(_arrays(tmp_path / "a.parquet", "image", 30_001))


def test_labels_without_names_are_their_own_names(tmp_path: Path) -> None:
    write_table(tmp_path / "0000.parquet", [encoded(picture(i)) for i in range(12)], [7, 3] * 6)
    data = load_data(tmp_path)
    assert data.classes == ("3", "7")
    truth = {(i % 2 == 0, picture(i).transpose(2, 0, 1).tobytes()) for i in range(12)}
    assert everything(data) == truth


def test_tables_with_mistakes(tmp_path: Path) -> None:
    images: list[bytes | None] = [encoded(picture(i)) for i in range(12)]
    file = tmp_path / "train.parquet"
    write_table(file, images, [0, 1] * 5 + [0, -1])
    with pytest.raises(DataError, match=r"train.parquet, row 11, has the label -1; leave unlabelled rows out"):
        load_data(tmp_path)
    write_table(file, images, [0, 1, 0, None] + [0, 1] * 4)
    with pytest.raises(DataError, match=r"train.parquet, row 3, has no label"):
        load_data(tmp_path)
    write_table(file, [*images[:9], b"\x89PNG\r\n\x1a\n", None, images[0]], [0, 1] * 6)
    with pytest.raises(DataError, match=r"train.parquet, row 9, cannot be read \(.*skip-bad-images"):
        load_data(tmp_path)
    assert len(everything(load_data(tmp_path, skip_bad_images=True))) == 10
    write_table(file, images, [0, 1] * 6, ("zero",))
    with pytest.raises(DataError, match="label 1 has no name: the table names 1 classes"):
        load_data(tmp_path)
    write_table(file, images, [0, 1] * 6)
    write_table(tmp_path / "test.parquet", images[:2], [0, 5])
    with pytest.raises(DataError, match="label 5 of the test split is not in the train split"):
        load_data(tmp_path)
    file.rename(tmp_path / "part1.parquet")
    with pytest.raises(DataError, match=r"part1.parquet, test.parquet do not say which .* name them train"):
        load_data(tmp_path)
    (tmp_path / "test.parquet").unlink()
    (tmp_path / "part1.parquet").write_bytes(b"not a table")
    with pytest.raises(DataError, match=r"part1.parquet' cannot be read \(.*; replace it"):
        load_data(tmp_path)


def test_whatever_the_footer_of_a_table_holds(tmp_path: Path) -> None:
    """Changed at one to four bytes: it is read, or one sentence names the file, at once."""
    path, rng, refused = tmp_path / "train.parquet", random.Random(0), 0
    write_table(path, [encoded(picture(i)) for i in range(30)], [0, 1, 2] * 10, ("a", "b", "c"))
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[-rng.randint(1, footer)] = rng.randrange(256)
        path.write_bytes(data)
        began = time.monotonic()
        try:
            load_data(tmp_path)
        except DataError as error:
            refused += 1
            assert "train.parquet" in str(error)  # noqa: PT017 - most are refused, some are read
        assert time.monotonic() - began < 5.0, bytes(data[-footer:])
    assert refused > 50


STRANGE = ("<b>&$'\"", "n" * 300, "\x1b\n")


@pytest.mark.parametrize(
    ("names", "classes"), [("[" * 100_000, "012"), ('{"a": 1}', "012"), ("3", "012"), (json.dumps(STRANGE), STRANGE)]
)
def test_whatever_names_a_table_gives_its_classes(names: str, classes: Sequence[str], tmp_path: Path) -> None:
    parquet, path = pytest.importorskip("pyarrow.parquet"), tmp_path / "train.parquet"
    write_table(path, [encoded(picture(i)) for i in range(15)], [0, 1, 2] * 5)
    about = f'{{"info": {{"features": {{"label": {{"names": {names}}}}}}}}}'
    parquet.write_table(parquet.read_table(path).replace_schema_metadata({"huggingface": about}), path)
    assert load_data(tmp_path).classes == tuple(classes)


def test_columns_are_found_or_the_user_is_told(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    struct = pa.array([{"bytes": encoded(picture(i))} for i in range(12)])
    coarse, fine = pa.array([0] * 12), pa.array([0, 1] * 6)
    parquet.write_table(pa.table({"photo": struct, "coarse_label": coarse, "fine_label": fine}), tmp_path / "a.parquet")
    assert load_data(tmp_path).classes == ("0", "1")
    parquet.write_table(pa.table({"photo": struct, "x": coarse, "y": fine}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"has several columns that could be the label column .*x \(int64\).*'label'"):
        load_data(tmp_path)
    parquet.write_table(pa.table({"x": coarse}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet has no image column .*its columns are x"):
        load_data(tmp_path)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"reading parquet needs pyarrow: pip install 'hiernas\[hub\]'"):
        load_data(tmp_path)
    with pytest.raises(DataError, match=r"reading hf:some/name needs datasets: pip install 'hiernas\[hub\]'"):
        load_data("hf:some/name")


def test_cifar10_equals_a_direct_decode(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    if not (SHARED / "data" / "cifar10" / "test.parquet").exists():
        pytest.skip("CIFAR-10 parquet files are not beside the checkout")
    for part in ("train", "test"):
        with parquet.ParquetFile(SHARED / "data" / "cifar10" / f"{part}.parquet") as file:
            rows = next(file.iter_batches(batch_size=400))
            parquet.write_table(pa.Table.from_batches([rows], file.schema_arrow), tmp_path / f"{part}.parquet")
    data = load_data(tmp_path)
    assert " ".join(data.classes) == "airplane automobile bird cat deer dog frog horse ship truck"
    rows = parquet.read_table(tmp_path / "test.parquet").to_pylist()
    truth = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
    assert np.array_equal(pixels(data.test), np.stack(truth).transpose(0, 3, 1, 2))
    assert data.test.labels.tolist() == [row["label"] for row in rows]


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The `datasets` package, offline and with its files in a temporary folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the datasets package is not installed")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))


@pytest.mark.usefixtures("hub")
def test_hub_data_sets_equal_their_files(tmp_path: Path) -> None:
    write(tmp_path / "files" / "train", {"ant": 5, "bee": 6})
    write(tmp_path / "files" / "test", {"ant": 1, "bee": 1}, 50)
    (tmp_path / "tables").mkdir()
    images = [encoded(picture(i)) for i in range(11)]
    write_table(tmp_path / "tables" / "train.parquet", images, [0] * 5 + [1] * 6, NAMES)
    write_table(tmp_path / "tables" / "test.parquet", [encoded(picture(i)) for i in (50, 51)], [0, 1], NAMES)
    folder = load_data(tmp_path / "files")
    for kind in ("tables", "files"):
        data = load_data(f"hf:{tmp_path / kind}")
        assert data.classes == ("ant", "bee")
        assert data.fingerprint == folder.fingerprint
        assert everything(data) == everything(folder)


@pytest.mark.usefixtures("hub")
def test_hub_names_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hf:nobody/nothing cannot be loaded \(.*\); check the name and the network"):
        load_data("hf:nobody/nothing")
    for part in ("validation", "test"):
        write_table(tmp_path / f"{part}.parquet", [encoded(picture(i)) for i in range(4)], [0, 1, 0, 1])
    with pytest.raises(DataError, match="has the splits validation, test, but no 'train'"):
        load_data(f"hf:{tmp_path}")

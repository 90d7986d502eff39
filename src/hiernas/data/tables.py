"""Images in tables: parquet files, data sets of the Hugging Face hub, and IDX files, the form of MNIST and its sisters.

The image column is a struct with `bytes` (an encoded picture), the label column holds whole numbers. Both come in
Arrow's columns, so pictures stay encoded until they are needed. IDX: one file of pixels and one of labels for each split.
"""

from __future__ import annotations

import bisect
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hiernas.data.images import PART_NAMES, PARTS, Found, Header, Opener, Picture, Reader, open_picture, reason_of
from hiernas.errors import UNREADABLE, DataError
from hiernas.host import usable_memory

LABELS = ("label", "labels", "fine_label", "target")  # tried in this order where several columns hold whole numbers
IMAGES = ("image", "img")
SHARD = re.compile(r"(train|val|valid|validation|test)([-_.].*)?", re.IGNORECASE)  # train, test-00000-of-00002


class Table(NamedTuple):
    """One table: its pictures in Arrow's arrays, read anew each time; its labels, and class names where it has them."""

    name: str
    pictures: Callable[[], Iterable[Any]]
    labels: Any
    classes: tuple[str, ...] | None


def rows_of(tables: Sequence[Table], follow_paths: bool) -> Reader:
    """The pictures in the rows of these tables, one table after the other."""
    starts = np.cumsum([0, *(len(table.labels) for table in tables)]).tolist()

    def opened(array: Any, row: int) -> Picture:
        value = array[row].as_py() or {}
        if value.get("bytes") is not None:
            return open_picture(io.BytesIO(value["bytes"]))
        if not follow_paths or value.get("path") is None:
            raise ValueError("no picture in this row")
        return open_picture(value["path"])

    def pictures(rows: Sequence[int]) -> Iterator[Opener]:
        at = 0
        for array in chain.from_iterable(table.pictures() for table in tables):
            for row in rows[bisect.bisect_left(rows, at) : bisect.bisect_left(rows, at + len(array))]:
                yield partial(opened, array, row - at)
            at += len(array)

    def name(i: int) -> str:
        k = bisect.bisect_right(starts, i) - 1
        return f"{tables[k].name}, row {i - starts[k]},"

    return Reader(starts[-1], pictures, name)


def from_parquet(name: str, files: Sequence[Path]) -> Found:
    """Parquet files named after their split, or without any such name as one unsplit set. Raises `DataError`."""
    tables: dict[str, list[Table]] = {}
    for path in files:
        match = SHARD.fullmatch(path.stem)
        part = PART_NAMES[match.group(1).lower()] if match else ""
        with _parquet(path) as file:
            image, label = _columns(path.name, file.schema_arrow)
            labels, named = file.read(columns=[label])[label], _class_names(file.schema_arrow.metadata, label)
        tables.setdefault(part, []).append(Table(path.name, partial(_arrays, path, image, len(labels)), labels, named))
    if list(tables) == [""]:
        tables = {"train": tables[""]}
    elif "" in tables or "train" not in tables:
        raise DataError(
            f"the names {', '.join(p.name for p in files[:8])} do not say which parquet files are for training; "
            "name them train.parquet or train-*.parquet, and likewise validation and test"
        )
    return _found(name, tables, follow_paths=False)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """A parquet file, read a little at a time."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError("reading parquet needs pyarrow: pip install 'hiernas[hub]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            yield file
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"parquet file '{path}' cannot be read ({reason_of(error)}); replace it") from None


def _arrays(path: Path, column: str, rows: int) -> Iterator[Any]:
    """A column in pieces of about 4 MiB. Raises `DataError`, also where it has another length."""
    at_a_time = max(1, min(256, rows * 2**22 // path.stat().st_size))
    with _parquet(path) as file:
        for batch in file.iter_batches(at_a_time, columns=[column]):
            rows -= len(batch)
            yield batch.column(0)
        if rows:
            raise OSError("its columns have different lengths")


def from_hub(name: str) -> Found:
    """A data set of the Hugging Face hub by its name, with its own splits. Raises `DataError`."""
    try:
        import datasets
    except ImportError:
        raise DataError(f"reading hf:{name} needs datasets: pip install 'hiernas[hub]'") from None
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # the library raises many types for unknown names, no network, broken files
        raise DataError(f"hf:{name} cannot be loaded ({reason_of(error)}); check the name and the network") from None
    by_part = {PART_NAMES[split.lower()]: split for split in splits if split.lower() in PART_NAMES}
    if len(splits) == 1:
        by_part = {"train": next(iter(splits))}
    if "train" not in by_part:
        raise DataError(f"hf:{name} has the splits {', '.join(splits)}, but no 'train'; choose another data set")
    tables = {}
    for part, split in by_part.items():
        dataset = splits[split]
        image, label = _columns(f"hf:{name}", dataset.data.schema)
        names = getattr(dataset.features[label], "names", None)
        pictures, labels = dataset.data.column(image), dataset.data.column(label)  # as Arrow: nothing is decoded yet
        tables[part] = [Table(f"hf:{name} {split}", pictures.iterchunks, labels, tuple(names) if names else None)]
    skipped = [split for split in splits if split not in by_part.values()]
    notes = (f"other splits of the data set are ignored: {', '.join(skipped)}",) if skipped else ()
    found = _found(name, tables, follow_paths=True, notes=notes)
    files = [file["filename"] for part in by_part.values() for file in splits[part].cache_files]
    return found.held_by(files, f"hf:{name}") if files else found


def _columns(table: str, schema: Any) -> tuple[str, str]:
    """The names of the image and the label column."""
    import pyarrow as pa

    images = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    labels = [f.name for f in schema if pa.types.is_integer(f.type)]
    has = f"its columns are {', '.join(f'{f.name} ({f.type})' for f in schema)}"
    found = []
    for columns, known, what in (
        (images, IMAGES, "image column (a struct with 'bytes')"),
        (labels, LABELS, "label column (whole numbers)"),
    ):
        named = [c for c in known if c in columns] or columns
        if not named or (len(columns) > 1 and named is columns):
            word = "several columns that could be the" if named else "no"
            raise DataError(f"{table} has {word} {what}; {has}; name one of them '{known[0]}'")
        found.append(named[0])
    return found[0], found[1]


def _class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...] | None:
    """Class names from the description that Hugging Face puts into a schema."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except UNREADABLE:
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _found(name: str, tables: Mapping[str, Sequence[Table]], follow_paths: bool, notes: tuple[str, ...] = ()) -> Found:
    by_part = {part: np.concatenate([_labels(table) for table in tables[part]]) for part in PARTS if part in tables}
    rows = rows_of([table for part in by_part for table in tables[part]], follow_paths)
    ids, parts, classes = _classes(by_part, tables["train"][0].classes)
    return Found(name, rows, ids, parts, classes, notes)


def _classes(
    by_part: Mapping[str, np.ndarray], names: Sequence[str] | None = None
) -> tuple[np.ndarray, dict[str, range], tuple[str, ...]]:
    """Of the labels of each part, one behind the other: the class of each row, the rows of the parts, and the classes."""
    known = np.unique(by_part["train"])
    if names is not None and len(known) and known[-1] >= len(names):
        raise DataError(f"label {known[-1]} has no name: the table names {len(names)} classes, from 0; correct it")
    classes = tuple(str(i) if names is None else names[i] for i in known)
    for part, labels in by_part.items():
        for label in np.setdiff1d(labels, known):
            raise DataError(f"label {label} of the {part} split is not in the train split; give both the same classes")
    ends = np.cumsum([len(labels) for labels in by_part.values()]).tolist()
    parts = {part: range(end - len(by_part[part]), end) for part, end in zip(by_part, ends, strict=True)}
    return np.searchsorted(known, np.concatenate(list(by_part.values()))), parts, classes


def _labels(table: Table) -> np.ndarray:
    """Label ids: int64 [N]."""
    labels = table.labels.to_numpy()
    for row in np.flatnonzero(~(labels >= 0)).tolist():  # where there is none, NumPy has a NaN
        label = table.labels[row].as_py()
        has = "no label" if label is None else f"the label {label}"
        raise DataError(f"{table.name}, row {row}, has {has}; leave unlabelled rows out")
    return labels.astype(np.int64)


# -- IDX files ----------------------------------------------------------------------------------------------------

NAMED = re.compile(r"(train|val|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
SPLITS = {"train": "train", "val": "val", "t10k": "test", "test": "test"}
KINDS = {"images": 3, "labels": 1}  # dimensions


def idx_files(files: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """Those of them that are IDX files by their names, by split and "images" or "labels"; packed by gzip or not."""
    named = {path: NAMED.fullmatch(path.name) for path in files}
    return {(SPLITS[match[1]], match[2]): path for path, match in named.items() if match}


def from_idx(name: str, files: dict[tuple[str, str], Path]) -> Found:
    """A data set of IDX files. Raises `DataError` where one is missing, damaged, or does not go with its sister."""
    pixels, labels = list[np.ndarray](), dict[str, np.ndarray]()
    for part in (part for part in PARTS if any(part == of for of, _ in files)):
        for kind in (kind for kind in KINDS if (part, kind) not in files):
            raise DataError(f"the {kind} of {part} are missing beside {next(iter(files.values()))}; add their IDX file")
        images, named = (_bytes(files[part, kind], dimensions) for kind, dimensions in KINDS.items())
        if len(images) != len(named):
            raise DataError(f"'{files[part, 'images']}' has {len(images)} images and its labels are {len(named)}; replace one")
        pixels.append(images)
        labels[part] = named
    if "train" not in labels:
        raise DataError(f"'{next(iter(files.values())).parent}' has no train-images-idx3-ubyte; add it, with its labels")
    if len({images.shape[1:] for images in pixels}) > 1:
        raise DataError(f"the IDX files of {', '.join(labels)} have images of different sizes; replace them")
    ids, parts, classes = _classes(labels)
    joined = np.concatenate(pixels)
    header = Header("grey", 1, *joined.shape[1:])
    reader = Reader.of(len(joined), lambda i: Image.fromarray(joined[i]), "image {}".format)
    return Found(name, reader, ids, parts, classes, headers=[header] * len(joined))


def _bytes(path: Path, dimensions: int) -> np.ndarray:
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

"""Images that do not fit: the memory and time they take, at both starts; and 60,000 PNG files against torch's loader.

    python benchmarks/big_images.py [photos] [small] [files] [--images N] [--folder FOLDER]

photos: 2,000 JPEG files of 4,000 x 3,000, 16 distinct ones behind many names. small: N (500,000) JPEG pictures of 64 x 64 in
parquet files, 10,000 distinct ones. Each is searched by the plain command, stopped after 60 seconds at work.
Memory is the system's high-water mark of the process when the run folder appears, and at the end. A search of 100 such
pictures is beside it: what is more than there, the pictures take. files: 60,000 grey PNG files of 28 x 28, by `load_data`
(first and second start) and one epoch of `torch.utils.data.DataLoader` with 2 workers, in turns. Rows are written as they are
done; what the result file has is not done again. Everything is drawn in FOLDER (a temporary one) and deleted.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common import dated
from hiernas.data import load_data

TRAINED = 60.0  # seconds that a search goes on behind its start
HEAD = """# Images that do not fit

`python benchmarks/big_images.py`, on 2 cores under other work: compare rows of one table. Memory is the high-water mark of the
process (VmHWM) in MiB.

| pictures | start | pixels, MiB | until the run begins, s | memory then | memory after 60 s of training |
|---|---|---|---|---|---|
"""
FILES = """
| 60,000 PNG files of 28 x 28 | s | of torch's loader |
|---|---|---|
"""


def textured(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Soft shapes under grain, which an encoder has work with: about 2 bits a pixel at quality 90."""
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray((soft + rng.integers(-5, 6, (height, width, 1))).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photos(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    for k in range(min(n, 16)):
        at = folder / f"class{k % 2}"
        at.mkdir(parents=True, exist_ok=True)
        first = at / f"{k:05}.jpg"
        first.write_bytes(encoded(textured(rng, 3000, 4000), quality=90))
        for i in range(k + 16, n, 16):
            os.link(first, at / f"{i:05}.jpg")


def small(folder: Path, n: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    distinct = [encoded(textured(rng, 64, 64), quality=90) for _ in range(min(n, 10_000))]
    folder.mkdir(parents=True)
    for part in range(-(-n // 50_000)):
        rows = range(part * 50_000, min(n, (part + 1) * 50_000))
        images = pa.array([{"bytes": distinct[i % len(distinct)]} for i in rows], pa.struct({"bytes": pa.binary()}))
        table = pa.table({"image": images, "label": pa.array([i % len(distinct) % 10 for i in rows])})
        parquet.write_table(table, folder / f"train-{part:05}.parquet")


def peak(pid: int) -> int:
    """MiB of memory that a process had at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]  # it is always there


def searched(data: Path, folder: Path) -> tuple[float, int, int]:
    """Seconds until the run folder is there; memory then, and when it had trained for a while."""
    out = folder / f"run-{time.monotonic_ns()}"
    command = ["search", "hnas", "--space", "tiny", "--data", data, "--limit", "params<=10M", "--out", out]
    command += ["--preset", "paper", "--set", "train.batch_size=16"]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "hiernas", *map(str, command)], stdout=subprocess.DEVNULL)
    while not (out / "config.yaml").exists():
        if process.poll() is not None:
            raise SystemExit("the search ended before it began")
        time.sleep(0.05)
    seconds, memory = time.monotonic() - began, peak(process.pid)
    time.sleep(TRAINED)
    trained = peak(process.pid)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return seconds, memory, trained


def of_searches(
    name: str, draw: Callable[[Path, int], None], n: int, pixels: int, folder: Path, before: str
) -> Iterator[str]:
    for count, starts in ((100, ("first",)), (n, ("first", "second"))):
        if f"| {count:,} {name} | {starts[-1]} |" in before:
            continue
        data = folder / f"{name}{count}"
        draw(data, count)
        for start in starts:
            seconds, memory, trained = searched(data, folder)
            yield f"| {count:,} {name} | {start} | {count * pixels / 2**20:,.0f} | {seconds:.0f} | {memory:,} | {trained:,} |"
        shutil.rmtree(data)


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """As one would write it for torch."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.paths[i]) as picture:
            return torch.from_numpy(np.array(picture))[None]


def of_files(n: int, folder: Path) -> Iterator[str]:
    rng, data = np.random.default_rng(0), folder / "files"
    for i in range(n):
        at = data / str(i % 10) / f"{i}.png"
        at.parent.mkdir(parents=True, exist_ok=True)
        ragged = np.kron(rng.integers(0, 256, (7, 7), dtype=np.uint8), np.ones((4, 4), dtype=np.uint8))
        at.write_bytes(encoded(Image.fromarray(ragged), "PNG", compress_level=1))
    paths = sorted(map(str, data.glob("*/*.png")))
    seconds: dict[str, list[float]] = {"DataLoader, 2 workers, an epoch": [], "first start": [], "second start": []}
    for _ in range(2):
        shutil.rmtree(Path(os.environ["HIERNAS_CACHE"]) / "pictures", ignore_errors=True)
        for what, each in seconds.items():
            began = time.monotonic()
            if what.startswith("DataLoader"):
                for _ in torch.utils.data.DataLoader(Files(paths), batch_size=250, num_workers=2):
                    pass
            else:
                load_data(data)
            each.append(time.monotonic() - began)
    theirs = np.mean(seconds["DataLoader, 2 workers, an epoch"])
    for what, each in seconds.items():
        yield f"| {what} | {' and '.join(f'{s:.1f}' for s in each)} | {np.mean(each) / theirs:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=("photos", "small", "files"), default=("photos", "small", "files"))
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--folder")
    asked = parser.parse_args()
    path = dated("big_images")
    if not path.exists():
        path.write_text(HEAD)
    with tempfile.TemporaryDirectory(dir=asked.folder) as made:
        folder = Path(made)
        os.environ["HIERNAS_CACHE"] = str(folder / "cache")
        works = {
            "photos": lambda: of_searches("photos", photos, 2000, 3 * 224 * 299, folder, path.read_text()),
            "small": lambda: of_searches("small", small, asked.images, 3 * 64 * 64, folder, path.read_text()),
            "files": lambda: of_files(60_000, folder),
        }
        for part in asked.parts:
            done = {"photos": "| 2,000 photos | second", "small": f"{asked.images:,} small | second", "files": "second start"}
            if done[part] in path.read_text():
                continue
            for row in works[part]():
                print(row, flush=True)
                searches, _, files = path.read_text().partition(FILES)
                path.write_text(f"{searches}{FILES}{files}{row}\n" if part == "files" else f"{searches}{row}\n{FILES}{files}")


if __name__ == "__main__":
    main()

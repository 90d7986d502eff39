"""Pixels are decoded once: what the next start finds, what a kill leaves, who waits for whom, and what stays out of memory."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pictures import everything, picture, pixels, write
from PIL import Image

from hiernas.data import ImageData, load_data
from hiernas.data import images as images_module
from hiernas.data import load as load_module
from hiernas.data import sources as sources_module
from hiernas.data.images import OnDisk
from hiernas.errors import DataError
from processes import Forked, script

COUNT = 24


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of 12 pictures, and a cache folder of the test's own."""
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "data", {"ant": COUNT // 2, "bee": COUNT // 2})
    return tmp_path / "data"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The picture files that are opened from now on."""
    names: list[str] = []
    real = sources_module.open_picture
    monkeypatch.setattr(sources_module, "open_picture", lambda path: names.append(path) or real(path))  # type: ignore[func-returns-value]
    return names


def kept(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache" / "pictures").glob("*/pixels")
    return found


def stored(data: ImageData) -> OnDisk:
    images = data.train.images.images  # type: ignore[attr-defined]  # a Subset
    assert isinstance(images, OnDisk)
    return images


def truth(numbers: range = range(COUNT)) -> set[tuple[int, bytes]]:
    return {(i // (COUNT // 2), picture(i).transpose(2, 0, 1).tobytes()) for i in numbers}


def test_the_next_start_opens_no_picture(folder: Path, opened: list[str]) -> None:
    said: list[tuple[str, int, int]] = []
    first = load_data(folder, on_progress=lambda *event: said.append(event))
    assert said == [("decoding", 0, COUNT)]  # every fiftieth
    assert len(opened) == COUNT + 1  # the first one tells the form
    second = load_data(os.path.relpath(folder))
    assert len(opened) == COUNT + 1
    assert everything(first) == everything(second) == truth()
    assert (first.notes, first.mean, first.fingerprint) == (second.notes, second.mean, second.fingerprint)
    assert load_data(folder, image_size=8).input_size == (3, 8, 8)
    assert len(opened) == 2 * (COUNT + 1)  # another size is another file
    load_data(folder)
    assert len(opened) == 2 * (COUNT + 1)


def test_pictures_that_changed_are_decoded_again(folder: Path) -> None:
    first, path = load_data(folder), folder / "ant" / "003.png"
    before = everything(first)
    Image.fromarray(picture(99)).save(path, compress_level=0)
    times = path.stat().st_mtime_ns
    assert everything(load_data(folder)) == truth() - truth(range(3, 4)) | {(0, picture(99).transpose(2, 0, 1).tobytes())}
    Image.fromarray(picture(77)).save(path, compress_level=0)  # as long as before
    os.utime(path, ns=(times + 1000, times + 1000))
    assert (0, picture(77).transpose(2, 0, 1).tobytes()) in everything(load_data(folder))
    path.rename(folder / "bee" / "003b.png")
    assert (1, picture(77).transpose(2, 0, 1).tobytes()) in everything(load_data(folder))
    assert everything(first) == before  # who has loaded them goes on with what they were


def test_mixed_sizes_are_looked_at_first(folder: Path, opened: list[str]) -> None:
    odd = np.random.default_rng(1).integers(0, 256, (30, 21, 3), dtype=np.uint8)
    Image.fromarray(odd).save(folder / "ant" / "005.png")
    from_files = load_data(folder)
    paths = sorted(folder.glob("*/*.png"))
    pairs = [(Image.open(path), i // (COUNT // 2)) for i, path in enumerate(paths)]
    in_memory = load_data(pairs)  # type: ignore[arg-type]  # a list will do
    assert from_files.input_size == (3, 8, 8)
    assert everything(from_files) == everything(in_memory)
    assert from_files.mean == in_memory.mean
    assert len(opened) == 2 * COUNT + 1


def interrupted(folder: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that ends when so many pictures are decoded."""
    done, real = [0], images_module.decode

    def decode(*given: object) -> np.ndarray:
        if done[0] >= after:
            raise MemoryError
        done[0] += 1
        return real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(images_module, "decode", decode)
        with pytest.raises(MemoryError):
            load_data(folder)


def decoded(monkeypatch: pytest.MonkeyPatch, load: Callable[[], ImageData]) -> tuple[int, ImageData]:
    """How many pictures are decoded by it."""
    count, real = [0], images_module.decode

    def decode(*given: object) -> np.ndarray:
        count[0] += 1
        return real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(images_module, "decode", decode)
        data = load()
    return count[0], data


@pytest.mark.parametrize("damage", ["", "pixel", "hash", "cut"])
def test_what_was_stopped_goes_on(damage: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(folder, 10, monkeypatch)
    path, size = kept(tmp_path), 3 * 12 * 10
    whole = bytearray(path.read_bytes())
    assert len(whole) == COUNT * (size + 16)
    hashes = np.frombuffer(whole[COUNT * size :], dtype=np.uint8).reshape(COUNT, 16)
    done = np.flatnonzero(hashes.any(1))
    assert len(done) == 10
    if damage in ("pixel", "hash"):
        whole[done[3] * size + 5 if damage == "pixel" else COUNT * size + 16 * done[3]] ^= 1
    path.write_bytes(whole[: 9 * size] if damage == "cut" else whole)
    count, data = decoded(monkeypatch, lambda: load_data(folder))
    assert count == COUNT - {"": 10, "pixel": 9, "hash": 9, "cut": 0}[damage]
    assert everything(data) == truth()
    assert decoded(monkeypatch, lambda: load_data(folder))[0] == 0


def test_a_file_that_is_not_whole_is_not_taken(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_data(folder)
    path = kept(tmp_path)
    for spoil in (
        lambda: os.truncate(path, path.stat().st_size - 1),
        path.unlink,
        lambda: (path.parent / "index.json").write_text('{"stamp"'),
        lambda: (path.parent / "index.json").write_text(json.dumps({"stamp": "", "form": [3, 12, 10], "bad": {}, "notes": []})),
    ):
        spoil()
        count, data = decoded(monkeypatch, lambda: load_data(folder))
        assert (count, everything(data)) == (COUNT, truth())


CHILD = """
import sys, time
from hiernas.data import images as module
from hiernas.data import load_data
real, count = module.decode, [0]
def decode(*given):
    count[0] += 1
    print("decoding", flush=True)
    time.sleep(float(sys.argv[2]))
    return real(*given)
module.decode = decode
data = load_data(sys.argv[1])
print(count[0], data.fingerprint)
"""


def child(folder: Path, seconds: float) -> Forked:
    return Forked(script, f"import sys; sys.argv = ['', {str(folder)!r}, '{seconds}']{CHILD}")


def test_a_killed_process_leaves_what_it_did(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", CHILD, str(folder), "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(12):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    count, data = decoded(monkeypatch, lambda: load_data(folder))
    assert COUNT - 12 <= count < COUNT  # those under way when it was killed are lost
    assert everything(data) == truth()


def test_of_two_processes_one_decodes(folder: Path) -> None:
    ends = [each.ended()[1].splitlines()[-1].split() for each in [child(folder, 0.05) for _ in range(2)]]
    assert sorted(int(count) for count, _ in ends) == [0, COUNT]
    assert {fingerprint for _, fingerprint in ends} == {load_data(folder).fingerprint}


def test_one_that_waits_says_how_far_the_other_is(folder: Path) -> None:
    said: list[tuple[str, int, int]] = []
    process = child(folder, 0.4)
    while process.running and "decoding" not in process.said:
        time.sleep(0.02)
    load_data(folder, on_progress=lambda *event: said.append(event))
    assert process.ended()[0] == 0
    waited = [done for what, done, total in said if what.startswith("waiting") and total == COUNT]
    assert waited == sorted(waited)
    assert 0 < waited[-1] <= COUNT
    assert len(waited) == len(said)


def test_damaged_pictures_are_remembered(folder: Path, opened: list[str]) -> None:
    path = folder / "ant" / "004.png"
    path.write_bytes(path.read_bytes()[:-40])
    reason = r"004.png cannot be read \(.*\); replace it, or leave such images out with --skip-bad-images"
    with pytest.raises(DataError, match=reason):
        load_data(folder)
    left = load_data(folder, skip_bad_images=True)
    assert everything(left) == truth() - truth(range(4, 5))
    before = len(opened)
    with pytest.raises(DataError, match=reason):
        load_data(folder)
    again = load_data(folder, skip_bad_images=True)
    assert len(opened) == before
    assert (again.notes, again.fingerprint) == (left.notes, left.fingerprint)


SMALL_FILES = """
import resource
from hiernas import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # bytes of a file: the system itself refuses
cli.main()
"""


def test_a_disk_without_room(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = COUNT * (3 * 150 * 150 + 16) / 2**30
    with monkeypatch.context() as patch:
        patch.setattr(load_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
        said = r"\(No space left on device, .*GiB are free\); free some space, name another folder by HIERNAS_CACHE"
        with pytest.raises(DataError, match=f"the pixels of 24 images take {gib:.3g} GiB, which cannot be written to .*{said}"):
            load_data(folder, image_size=150)
    pytest.importorskip("resource")
    words = ["hiernas", "check", "--data", str(folder), "--image-size", "160"]
    code, _, said = Forked(script, f"import sys; sys.argv = {words!r}{SMALL_FILES}").ended()
    assert code == 2
    assert "the pixels of 24 images take 0.00172 GiB" in " ".join(said.split())
    assert "File too large" in said
    assert "Traceback" not in said


def test_large_data_sets_of_python_are_in_a_file_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path / "cache"))
    pairs = [(picture(i), i // 12) for i in range(24)]
    small, large = (load_data(pairs, memory_gib=gib) for gib in (1.0, 0.0))  # type: ignore[arg-type]  # a list will do
    assert isinstance(stored(large), OnDisk)
    assert everything(large) == everything(small) == truth()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_is_cut_off_later_is_named(folder: Path, tmp_path: Path) -> None:
    data = load_data(folder)
    os.truncate(kept(tmp_path), 100)
    with pytest.raises(DataError, match=r"the pixels in .*pixels cannot be read \(they were cut off\); delete it"):
        pixels(data.train)


MEMORY = """
import resource, sys, torch
from hiernas.data import load_data
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
few = load_data(sys.argv[1], image_size=256)
few.train.images.fetch(torch.arange(4))
before = peak()
data = load_data(sys.argv[2], image_size=256)
for rows in torch.arange(len(data.train)).split(16):
    data.train.images.fetch(rows)
print(peak() - before, (len(data.train) + len(data.val) + len(data.test)) * 3 * 256**2 // 2**20)
"""


def test_memory_holds_no_more_than_what_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The high-water mark of a process that decodes 150 MiB of pixels and reads all of them."""
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path / "cache"))
    for name, n in (("few", 10), ("many", 800)):
        for k in range(2):
            (tmp_path / name / str(k)).mkdir(parents=True)
            first = tmp_path / name / str(k) / "0.png"
            Image.new("RGB", (16, 16), (9 * k, 80, 7)).save(first)
            for i in range(1, n // 2):
                os.link(first, tmp_path / name / str(k) / f"{i}.png")
    for _ in ("first start", "second start"):
        given = f"import sys; sys.argv = ['', {str(tmp_path / 'few')!r}, {str(tmp_path / 'many')!r}]"
        code, said, mistakes = Forked(script, given + MEMORY).ended()
        assert code == 0, mistakes
        grown, held = map(int, said.split())
        assert held == 150
        assert grown < 50


def test_forked_processes_read_at_places_of_their_own(folder: Path) -> None:
    """They share the file's position with the one that they are forked from."""
    images = stored(load_data(folder))
    expected, children = images.fetch(torch.arange(COUNT)).numpy(), []

    def differs() -> bool:
        order = np.random.default_rng(os.getpid())
        for _ in range(400):
            rows = order.permutation(COUNT).tolist()
            if not np.array_equal(images.fetch(Rows(rows)).numpy(), expected[rows]):  # type: ignore[arg-type]
                return True
        return False

    for _ in range(3):
        if not (child := os.fork()):
            code = 1
            try:
                code = int(differs())
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


class Rows(list[int]):
    """Indices that are no tensor: in a forked process torch may wait for threads that are not there."""

    def tolist(self) -> list[int]:
        return self


def test_copies_hold_the_pixels(folder: Path) -> None:
    """So they do not change with the file, and go to processes that cannot share it."""
    data = load_data(folder)
    expected = data.train.images.fetch(torch.arange(len(data.train)))
    copies = [copy.deepcopy(data), pickle.loads(pickle.dumps(data))]
    kept(folder.parent).write_bytes(b"")
    for each in copies:
        assert torch.equal(each.train.images.fetch(torch.arange(len(data.train))), expected)
        assert each.fingerprint == data.fingerprint


def test_a_part_of_a_picture_is_not_taken_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is almost full takes what it can, and says how much."""

    class Short(FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[: len(data) // 2])

    monkeypatch.setattr(load_module, "FileIO", Short)
    with pytest.raises(DataError, match=r"cannot be written to .* \(No space left on device"):
        load_data(folder)
    monkeypatch.undo()
    monkeypatch.setenv("HIERNAS_CACHE", str(folder.parent / "cache"))
    assert everything(load_data(folder)) == truth()


def test_two_pictures_that_change_places_are_seen(folder: Path) -> None:
    """They have one size and one time of change, as files that were unpacked or copied with their times may."""
    one, other = folder / "ant" / "0.bmp", folder / "bee" / "0.bmp"
    for path, number in ((one, 1), (other, 2)):
        Image.fromarray(picture(number)).save(path)
        os.utime(path, (10**9, 10**9))
    before = load_data(folder)
    aside = one.rename(folder / "aside")
    other.rename(one)
    aside.rename(other)
    assert load_data(folder).fingerprint != before.fingerprint


def test_a_folder_is_the_same_from_within(folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load_data(folder)
    opened.clear()
    monkeypatch.chdir(folder)
    assert everything(load_data(".")) == truth()
    assert not opened

"""Files that survive: written whole and synced, each with its SHA-256 in the folder's SHA256SUMS."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from hiernas.errors import RunError

SUMS = "SHA256SUMS"  # as `sha256sum` writes and checks it
LINE = re.compile(r"([0-9a-f]{64})  (.+)")
WITHOUT = {  # what then of files of a run that are gone, if not that `resume` writes them again
    "rank.json": "`hiernas rank {}` trains again", "vital.json": "`hiernas vital {} --reset` writes it again",
    **dict.fromkeys(("int8.json", "best.int8.onnx"), "`hiernas export {} --to onnx-int8` writes it again"),
    "events.jsonl": "only the curves of the report are lost",
}  # fmt: skip


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or as it was before, also after a power cut."""
    with on_disk(path):
        replace_whole(path, data)


def replace_whole(path: Path, data: bytes) -> None:
    """The same; raises `OSError`."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)  # it would fill a full disk
        raise


def sync_folder(folder: Path) -> None:
    """Make sure that what was renamed or made in a folder is still there after a power cut."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def from_yaml(text: str) -> Any:
    """YAML as plain values; raises `ValueError`. References are refused: ten lines of them can stand for gigabytes."""
    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has references, *NAME, which are not read")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def to_yaml(values: Any) -> str:
    """Plain values as YAML that `from_yaml` reads, in their order."""
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, _: Any) -> bool:
            return True

    return yaml.dump(values, None, Dumper, sort_keys=False)


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Where the system cannot write, say so."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full(path) from error
        raise RunError(f"cannot write {path}: {error.strerror}; name a writable folder with --out") from error


def full(path: Path) -> RunError:
    return RunError(f"the disk is full: {path} could not be written; free some space, then resume the run or start it again")


def without(folder: Path, name: str) -> str:
    """The way out where a file of a run must be deleted, and what follows."""
    return f"delete it, and {WITHOUT.get(name, '`hiernas resume {}` writes it again').format(folder)}"


def damaged(folder: Path, name: str, why: str = "") -> RunError:
    """The error for a file of a run folder that cannot be what was written. `why`: is wrong in it."""
    return RunError(f"{folder / name} is damaged{f' ({why})' if why else ''}; {without(folder, name)}")


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file, None where there is none or it cannot be read."""
    try:
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError:
        return None


class Checksums:
    """What SHA256SUMS says of the files of a folder.

    A file's new checksum is written before the file itself: until that is done the former one holds, too, so that a kill
    between the two is no damage. Files without a line are not checked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> dict[str, list[str]]:
        """Checksums by name, the newest last; lines that are damaged are passed over."""
        try:
            text = (self.folder / SUMS).read_text(errors="replace")
        except OSError:
            return {}
        sums: dict[str, list[str]] = {}
        for line in text.splitlines():
            if match := LINE.fullmatch(line):
                sums.setdefault(match[2], []).append(match[1])
        return sums

    def holds(self, name: str) -> bool:
        """Whether a file is what was written, or nothing is known of it, or it is gone."""
        for _ in range(2):  # again, if another process wrote it in between
            known, digest = self.read().get(name), digest_of(self.folder / name)
            if known is None or digest is None or digest in known:
                return True
        return False

    def expect(self, name: str, digest: str) -> None:
        """Say before a file is written what it will be."""
        sums = self.read()
        former = sums.get(name, [])[-1:] if (self.folder / name).exists() else []
        self._write({**sums, name: [*former, digest]})

    def settle(self, live: Sequence[str] = (), sealed: Sequence[str] = ()) -> None:
        """The one checksum that holds for each file, or all where none does: it is damaged.

        None for those that will now grow (`live`), today's for those that are `sealed`.
        """
        sums = self.read()
        today = {name: digest_of(self.folder / name) for name, each in sums.items() if len(each) > 1}
        settled = {name: [today[name]] if today.get(name) in each else each for name, each in sums.items()}
        settled |= {name: [digest_of(self.folder / name)] for name in sealed}
        kept = {name: [d for d in each if d] for name, each in settled.items() if name not in live}
        if (kept := {name: each for name, each in kept.items() if each}) != sums:
            self._write(kept)

    def _write(self, sums: dict[str, list[str]]) -> None:
        lines = (f"{digest}  {name}\n" for name, each in sorted(sums.items()) for digest in each)
        write_whole(self.folder / SUMS, "".join(lines).encode())

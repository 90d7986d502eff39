"""A file system that fails: a process is killed at an operation, or finds the disk full; and files that are damaged."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


class Fault:
    """Counts what a process does to the file system below a folder; the operation `at` is the last one, or finds no space.

    `how`: "before", "amid" or "after" it the process is killed; "full" from it on nothing can be written.
    """

    def __init__(self, folder: Path, how: str = "none", at: int = -1) -> None:
        self.folder, self.how, self.at, self.count = str(folder), how, at, 0

    def step(self, path: Any, act: Callable[[], Any], half: Callable[[], Any] | None = None, writes: bool = False) -> Any:
        """Do an operation; `half`: what is there of it when the process dies amid it. `writes`: it takes space."""
        if not isinstance(path, int) and not os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            return act()
        self.count += 1
        now = self.count - 1 == self.at
        if self.how == "full" and writes and self.count > self.at >= 0:
            if half is not None:
                half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if now and self.how == "amid" and half is not None:
            half()
        if now and self.how in ("before", "amid"):
            os.kill(os.getpid(), signal.SIGKILL)
        done = act()
        if now and self.how == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def install(self) -> None:
        """From now on everything goes through here."""
        for name in ("replace", "rename", "mkdir", "unlink", "remove", "rmdir", "fsync"):
            setattr(os, name, partial(self._call, getattr(os, name), name in ("mkdir", "fsync")))
        builtins.open = io.open = partial(self._open, io.open)  # type: ignore[assignment]
        fault = self

        class Watched(sqlite3.Connection):
            def executemany(self, *words: Any) -> Any:
                return fault.sql(partial(super().executemany, *words))

            def __exit__(self, *raised: Any) -> Any:
                return fault.sql(partial(super().__exit__, *raised))

        sqlite3.connect = partial(sqlite3.connect, factory=Watched)  # type: ignore[assignment]

    def sql(self, act: Callable[[], Any]) -> Any:
        try:
            return self.step(0, act, writes=True)
        except OSError as error:
            raise sqlite3.OperationalError("database or disk is full") from error

    def _call(self, function: Any, writes: bool, path: Any, *words: Any, **more: Any) -> Any:
        act = partial(function, path, *words, **more)
        return act() if more.get("dir_fd") is not None else self.step(path, act, writes=writes)

    def _open(self, function: Any, path: Any, mode: str = "r", *words: Any, **more: Any) -> Any:
        act = partial(function, path, mode, *words, **more)
        inside = not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(self.folder)
        return Written(self.step(path, act, writes=True), self) if inside and set(mode) & set("wxa+") else act()


class Written:
    """A file that is written: half of what is written last may be all that is there."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self._file, self._fault = file, fault

    def write(self, data: Any) -> Any:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        return self._fault.step(0, partial(self._file.write, data), half, writes=True)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


# -- damage ----------------------------------------------------------------------------------------------------------


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_tail(path: Path) -> None:
    data = path.read_bytes()
    tail = -(-len(data) // 8)
    path.write_bytes(data[:-tail] + bytes(tail))


def flipped(path: Path) -> None:
    """The lowest bit of a digit, where there is one behind the middle: a value that can still be read."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    at = next((i for i in range(middle, len(data)) if chr(data[i]).isdigit()), middle)
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {"half": half, "zero tail": zero_tail, "flipped": flipped, "gone": Path.unlink}

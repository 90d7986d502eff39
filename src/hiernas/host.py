"""Around this process: cores and memory that it may use, and what others say in it, made fit to be shown."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

NOISY = (  # loggers that talk
    "torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir", "lightning_fabric", "huggingface_hub",
)  # fmt: skip
UNSEEN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")  # control, direction, none


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines, bars and graphs of exporters, Fabric and the hub's library; loggers are put back as they were."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_line(error: Exception) -> str:
    """The first line of an error's text that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def visible(text: str) -> str:
    """A text that is safe in a terminal and on a page: what would steer it, or is no character, as Python writes it."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory() -> int:
    """Bytes of memory that this machine or this process' control group has, used or not."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):  # no control groups, or no limit ("max")
            continue
    return min(limits, default=8 * 2**30)


def cache_folder(what: str) -> Path:
    """Where `what` is kept between runs: $HIERNAS_CACHE, or the user's cache folder by the system's custom.

    Where that cannot be written, a folder in the working folder, which is said as a warning.
    """
    from platformdirs import user_cache_path

    folder = Path(os.environ.get("HIERNAS_CACHE") or "~")
    with suppress(OSError, RuntimeError):  # the latter without HOME and passwd entry
        if str(folder) == "~":
            folder = user_cache_path("hiernas", appauthor=False)
        if not str(folder).startswith("~"):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    text = f"{what} cannot be kept in {folder}; they are kept in hiernas-cache here: name a folder by HIERNAS_CACHE"
    warnings.warn(text, stacklevel=3)
    return Path("hiernas-cache")

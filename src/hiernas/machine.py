"""What this process may use of the machine."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path


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

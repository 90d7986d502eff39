"""Asked to stop, by Ctrl-C or a scheduler's SIGTERM or SIGHUP: a training saves at its next step, anything else ends at once.

Whatever ends at once is as safe as a kill leaves it: files are whole, and what is done has been written.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hiernas import ranks

GRACE = 4.0  # seconds until a training ends although it could not save
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """The process was asked to stop, by this signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


_saving = False  # whether somebody looks at `now` soon
_asked = 0  # the signal that waits for it


def now(number: int = 0) -> None:
    """A safe point: all is saved; raises `Stopped` where this process, or another one by a signal, was asked to stop."""
    if number or _asked:
        raise Stopped(number or _asked)


def asked() -> int:
    """The signal that asked to save and to call `now`; 0 where none did."""
    return _asked


@contextmanager
def saves() -> Iterator[None]:
    """Inside, `asked` is looked at again and again."""
    global _saving
    before, _saving = _saving, True
    try:
        yield
    finally:
        _saving = before


@contextmanager
def heeded() -> Iterator[None]:
    """Inside, a first signal waits for a safe point where there will be one; signals that are ignored stay so (nohup)."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        _alarm(0.0)
        _asked = 0
        for number in heard:
            signal.signal(number, before[number])


def _on_signal(number: int, _: FrameType | None) -> None:
    global _asked
    if _saving and not _asked:
        _asked = number
        _alarm(GRACE)
    elif ranks.size() == 1 or not _saving:  # torchrun hands on a Ctrl-C that all have heard
        raise Stopped(number)


def _alarm(seconds: float) -> None:
    """Have `now` called in so many seconds, wherever the process is then; with 0 not any more."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda *_: now())
        signal.setitimer(signal.ITIMER_REAL, seconds)

"""What others say, made fit to be shown: notes of libraries kept away, errors in a line, and nothing that steers a terminal."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

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

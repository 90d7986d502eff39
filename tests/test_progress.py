"""What a terminal that is no terminal shows of a run, line by line."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from hiernas.cli.progress import Display


def shown(events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines, with eleven seconds between two events."""
    clock = iter(range(0, 100_000, 11))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    file = io.StringIO()
    display = Display(Console(file=file, width=200))
    for event in events:
        display(event)
    return file.getvalue().splitlines()


def test_the_bar_is_full_when_nothing_is_left_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = {"event": "epoch", "epochs": 2, "loss": 1.0, "train_accuracy": 0.5, "val_accuracy": None}
    events = [
        {"event": "start", "plan": {"train1": 50.0, "prior": 10.0, "final": 40.0}, "run": "r", "limits": ["params <= 60k"]},
        *({**epoch, "phase": phase, "epoch": n} for phase in ("train1", "final") for n in (1, 2)),
        *({"event": "measured", "done": n, "total": 3} for n in (1, 2, 3)),
    ]
    first, *lines = shown(events, monkeypatch)
    assert first == "run folder r, limits params <= 60k"
    shares = [int(re.findall(r"^ *(\d+)%", line)[0]) for line in lines]
    assert shares == sorted(shares)
    assert shares[:2] == [24, 49]  # of what is planned, 25 and 50 %
    assert all(share < 100 for share in shares[:-1])
    assert lines[-1] == "100% measuring whole network 3 of 3"
    assert "training the chosen network · epoch 2/2" in lines[3]

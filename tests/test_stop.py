"""Asked to stop: at the next safe point, or anyhow within seconds, with a sentence that is true."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from io import StringIO

import pytest
from rich.console import Console

from hiernas import cli, stop
from hiernas.cli import listening


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """What started the tests may ignore these signals, as `nohup` and `&` do."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in stop.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait(number: int) -> None:
    """Send a signal to this process, which then comes to no safe point."""
    os.kill(os.getpid(), number)
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("number", stop.SIGNALS)
def test_a_signal_waits_for_a_safe_point_but_not_for_long(number: int, saves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < stop.GRACE < 5
    monkeypatch.setattr(stop, "GRACE", 0.3)
    began = time.monotonic()
    with stop.heeded(), stop.saves() if saves else nullcontext(), pytest.raises(stop.Stopped) as found:
        wait(number)
    took = time.monotonic() - began
    assert found.value.number == number
    assert (0.3 if saves else 0.0) <= took < 2.0


def command(begun: bool, again: str) -> None:
    """A command that is interrupted."""
    with listening(again) as listener:
        if begun:
            listener({"event": "start", "plan": {"final": 1.0}, "run": "r", "limits": []})
        wait(signal.SIGINT)


@pytest.mark.parametrize(
    ("begun", "again", "said"),
    [
        (False, "", "no run was begun; latencies that were measured are kept"),
        (True, "", "go on with `hiernas resume r`; what was saved is not done again"),
        (True, "hiernas rank r", "go on with `hiernas rank r`; what was saved is not done again"),
    ],
)
def test_the_sentence_is_true_in_every_phase(begun: bool, again: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command(begun, again)
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"interrupted: {said}\n"


def test_before_anything_is_told_a_sentence_ends_it_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hiernas.commands.check.request_of", lambda asked: wait(signal.SIGINT))
    monkeypatch.setattr(sys, "argv", ["hiernas", "search"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: nothing had begun\n"


def test_in_a_terminal_the_bar_is_gone_before_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    for name in ("out", "errors"):
        monkeypatch.setattr(cli, name, Console(file=screen, force_terminal=True, width=60))
    monkeypatch.setattr(cli, "_say", lambda sentence: screen.write(f"{sentence}\n"))
    with pytest.raises(SystemExit):
        command(True, "")
    before, _, after = screen.getvalue().partition("interrupted: ")
    assert "starting" in before
    assert "\x1b[2K" in before.rpartition("starting")[2]  # the bar's lines were erased
    assert "\x1b[" not in after  # and the sentence's were not

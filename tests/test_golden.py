"""Golden runs: every method gives, from the command line to its files, what it gave when golden.json was written.

    python tests/test_golden.py --write [RUN ...]

writes golden.json again, after a change that is meant to change results. The values hold for one kind of machine and one
set of libraries: a probe beside them says which, and elsewhere the runs are skipped. Limits are on parameters and
multiply-adds only, so that no measured time decides anything. Everything goes by the command line and the files of a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from hiernas.cli import main
from hiernas.costs import MEMORY
from processes import bare

GOLDEN = Path(__file__).with_name("golden.json")
LIBRARIES = ("torch", "numpy", "scipy", "pymoo", "scikit-learn", "Pillow")
MEASURED = {"latency_ms", "latency_error", "device", "seconds", "outputs", "hiernas", "environment"}  # left out of result.json
MEASURED |= {*MEMORY, "tested"}  # follow from the architecture, and from the weights

# -- runs --------------------------------------------------------------------------------------------------------------

UNSEARCHED = "train.batch_size=24 train.accelerator=cpu final_epochs=2 final_lr=0.1"
ALL = f"{UNSEARCHED} calibration_images=24"
PATHS = "params<=120k macs<=4M"
ONE_SHOT = f"{ALL} train.batch_size=16 epochs=2,1,1 lr=0.1,0.05,0.05 population=6 generations=2 rank_below=4"
VITAL = f"{ALL} train.batch_size=16 vital_epochs=1 epochs=1 proposals=3 proposal_iterations=100"
LOGITS = (
    f"{ALL} search.train.batch_size=4 search.train.accelerator=cpu search.images=16 search.epochs=1 search.warmup_epochs=1 "
    "search.decided=0"
)
CELLS = f"{LOGITS} train.drop_path=0.2 space.channels=4"
GRAPHS = f"{CELLS} channels=4 space.cells=[3,2,2]"
MASKS = "mask.edges_epochs=1 mask.operations_epochs=1 mask.filters_epochs=1"
RUNS: Mapping[str, tuple[str, ...]] = {  # by method and what is special: limits, settings, the space where it is not its own
    "hnas": (PATHS, ONE_SHOT),
    "spos": (PATHS, ONE_SHOT),
    "random-search": (PATHS, ONE_SHOT),
    "random": (PATHS, UNSEARCHED),
    "random-k": (PATHS, f"{ALL} finalists=3 finalist_epochs=1"),
    "naswot": (PATHS, f"{ALL} drawn=6 finalists=3 finalist_epochs=1"),
    "plain": ("params<=2500", f"{UNSEARCHED} space.channels=4 space.cells=3", "darts"),
    "hournas": (PATHS, VITAL),
    "hournas at once, all options weighted": (PATHS, f"{VITAL} vital_prior=false sampling=gumbel_softmax"),
    "darts": ("params<=2500", f"{CELLS} space.cells=3 cells=3 channels=4"),
    "darts undecided": ("params<=5k", f"{CELLS} space.cells=3 cells=3 channels=4 search.decided=0.9"),
    "hdas": ("params<=28k macs<=440k", f"{GRAPHS} cells=5 extra_cells=1 least=2"),
    "hdas-cells": ("params<=7k macs<=170k", f"{CELLS} space.cells=5 cells=5 channels=4"),
    "hdas-distribution": ("params<=35400", f"{GRAPHS} space.least=2 depth_form=release search.keep=best search.epochs=2"),
    "hdas-stages": ("params<=35800", GRAPHS),
    "hmnas": ("params<=9k macs<=130k", f"{CELLS} space.cells=3 weights_level=true {MASKS}"),
    "hmnas chain": (PATHS, f"{LOGITS} {MASKS} compare=false inherit=false", "tiny"),
}  # fmt: skip


def images(folder: Path) -> Path:
    """80 colour images of 8x8 pixels under noise: rows, columns, squares or nothing."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:8, :8]
    for i in range(80):
        pattern = (y % 2, x % 2, (x // 2 + y // 2) % 2, 0 * x)[i % 4]
        pixels = 60 + 80 * pattern[..., None] + rng.integers(0, 90, (8, 8, 3))
        (folder / f"class{i % 4}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{i % 4}" / f"{i:03d}.png")
    return folder


@contextmanager
def calm() -> Iterator[None]:
    """One thread, and without what is not compared: latencies of whole networks, ONNX files, report pages."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with bare():
            yield
    finally:
        torch.set_num_threads(threads)


def hiernas(*words: str) -> None:
    """The command line, in this process."""
    with mock.patch.object(sys, "argv", ["hiernas", *words]), pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, words


def run(name: str, folder: Path) -> Path:
    """The run of a name, in a new folder."""
    limits, settings, *space = RUNS[name]
    words = ["search", name.split()[0], "--data", str(images(folder / "images")), "--out", str(folder / "run")]
    words += ["--threads", "1"]
    words += [word for limit in limits.split() for word in ("--limit", limit)]
    words += [word for setting in settings.split() for word in ("--set", setting)]
    with calm():
        hiernas(*words, *(word for s in space for word in ("--space", s)))
    return folder / "run"


# -- what is compared --------------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Of what JSON can hold, keys in any order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    rows = ((name, str(t.dtype), list(t.shape), t.contiguous().numpy().tobytes().hex()) for name, t in sorted(tensors.items()))
    return digest(list(rows))


def timeless(value: Any) -> Any:
    """Without what was measured, and sentences about it."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in MEASURED}
    if isinstance(value, list):
        return [timeless(v) for v in value if not (isinstance(v, str) and " ms" in v)]
    return value


def candidates(run: Path) -> list[Any]:
    """Every architecture that was evaluated, per phase."""
    query = "SELECT phase, options, val_accuracy, params, macs FROM candidates ORDER BY phase, options"
    with closing(sqlite3.connect(run / "candidates.sqlite")) as db:
        return db.execute(query).fetchall()


def learning(run: Path) -> list[Any]:
    """The losses and accuracies of every epoch of every phase: they depend on each step of weights, logits and masks."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    keys = ("phase", "epoch", "loss", "train_accuracy", "val_accuracy", "lr")
    return [[event[key] for key in keys] for event in events if event["event"] == "epoch"]


def digests(run: Path) -> dict[str, str]:
    """What a run gave."""
    return {
        "architecture": digest(json.loads((run / "best.json").read_text())),
        "candidates": digest(candidates(run)),
        "learning": digest(learning(run)),
        "result": digest(timeless(json.loads((run / "result.json").read_text()))),
        "weights": digest_of_tensors(load_file(run / "best.safetensors")),
    }


@cache
def probe() -> dict[str, str]:
    """Versions, and the bits of a little training: they differ between kinds of processors."""
    draw = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
        nn.Conv2d(16, 48, 1, bias=False), nn.BatchNorm2d(48), nn.SiLU(),
        nn.Conv2d(48, 48, 5, stride=2, padding=2, groups=48, bias=False), nn.BatchNorm2d(48),
        nn.Conv2d(48, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False),
        nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4),
    )  # fmt: skip
    network.to(memory_format=torch.channels_last)
    parameters = list(network.parameters())
    for p in parameters:
        p.data = p.data.copy_(torch.randn(p.shape, generator=draw) * 0.3)
    steps = [torch.optim.SGD(parameters[:6], lr=0.1, momentum=0.9), torch.optim.Adam(parameters[6:], lr=0.01)]
    with calm():
        for batch in (8, 16, 24):
            x, y = torch.randn(batch, 3, 8, 8, generator=draw), torch.arange(batch) % 4
            logits = network(x)
            loss = F.cross_entropy(logits, y, label_smoothing=0.1) + (logits.softmax(1) ** 2).sum()
            network.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            for step in steps:
                step.step()
    return {**{name: version(name) for name in LIBRARIES}, "bits": digest_of_tensors(network.state_dict())}


def golden() -> dict[str, dict[str, str]]:
    return dict(json.loads(GOLDEN.read_text()))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_what_it_gave(name: str, tmp_path: Path) -> None:
    here, there = probe(), golden()["probe"]
    other = [f"{key} {here.get(key)}, not {there.get(key)}" for key in {**here, **there} if here.get(key) != there.get(key)]
    if other:
        pytest.skip(f"golden.json was written elsewhere: {', '.join(other)}; python tests/test_golden.py --write")
    assert digests(run(name, tmp_path)) == golden()[name]


def test_every_method_has_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    hiernas("list", "methods")
    first = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].strip()}
    assert first == {"method", *(name.split()[0] for name in RUNS)}
    assert {"probe", *RUNS} == set(golden())


def write(names: list[str]) -> None:
    found = golden() if names else {}
    for name in names or RUNS:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, HIERNAS_CACHE=f"{folder}/cache"):
            found[name] = digests(run(name, Path(folder)))
    GOLDEN.write_text(json.dumps({"probe": probe(), **{name: found[name] for name in RUNS}}, indent=1) + "\n")


if __name__ == "__main__" and sys.argv[1:2] == ["--write"]:
    write(sys.argv[2:])

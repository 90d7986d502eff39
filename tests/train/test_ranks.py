"""Two processes against one: the same search, the same weights, the same accuracies; one that is killed ends the run.

In double precision what is left of the difference is rounding, which in single precision grows with every step.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import test_golden as golden
from hiernas import ranks
from hiernas.data.batches import Augment, augment, normalise
from hiernas.errors import ConfigError
from hiernas.methods import METHODS
from hiernas.randomness import torch_generator
from hiernas.run.folder import RunFolder
from hiernas.run.request import Request, prepare
from hiernas.run.search import make_problem
from hiernas.train import loop
from processes import FORKED, Command

SEARCHED = {  # by method: shorter than the golden runs
    "hnas": "train.warmup_epochs=0 epochs=1,1,1", "hournas": "vital_epochs=1", "darts": "search.images=16",
    "hmnas": "search.images=16 search.warmup_epochs=0 search.epochs=1 compare=false",
}  # fmt: skip


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells one of two processes."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _as_rank(do: Callable[..., Any], given: tuple[Any, ...], rank: int, port: int, out: Path) -> None:
    os.environ.update(environment(rank, port))
    with ranks.joined():
        out.write_bytes(pickle.dumps(do(*given)))


def by_two(do: Callable[..., Any], *given: Any, folder: Path) -> list[Any]:
    """What each of two processes returns that do the same."""
    port, outs = free_port(), [folder / f"rank{i}" for i in range(2)]
    pair = [FORKED.Process(target=_as_rank, args=(do, given, i, port, out), daemon=True) for i, out in enumerate(outs)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    return [pickle.loads(out.read_bytes()) for out in outs]


@contextmanager
def double_precision() -> Iterator[None]:
    def doubled(*given: Any) -> Tensor:
        return normalise(*given).double()

    with ExitStack() as patched:
        for module in ("loop", "evaluate"):
            patched.enter_context(mock.patch(f"hiernas.train.{module}.normalise", doubled))
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def searched(method: str, images: str, out: Path) -> dict[str, Any]:
    """One search in double precision, without its final training: what was found, and what was saved of each phase."""
    limits, settings, *space = golden.RUNS[method]
    words = [word for word in f"{settings} {SEARCHED[method]}".split() if not word.startswith("space.")]
    arguments = {} if limits == golden.PATHS else {"channels": 4, "cells": 3}
    request = Request(method, *space, space_arguments=arguments, data=images, limits=limits.split(), settings=words)
    saved: dict[str, str] = {}
    save = loop._save

    def noted(model: nn.Module, optimizer: Any, phase: Any, run: Any, position: Any, architect: Any, average: Any) -> None:
        tensors = [*model.state_dict().values(), *(architect.tensors().values() if architect is not None else ())]
        saved[phase.name] = hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()
        save(model, optimizer, phase, run, position, architect, average)

    torch.set_num_threads(1)
    with double_precision(), mock.patch.object(loop, "_save", noted):
        prepared = prepare(request)
        run = RunFolder.create(out, prepared.to_dict())
        problem = make_problem(prepared.space, prepared.data, prepared.limits, prepared.latency, run, prepared.seed)
        found = METHODS[method].search(problem, prepared.config)
    return {"architecture": found.architecture.to_json(), "accuracy": found.chosen.val_accuracy, "saved": saved}


def all_searched(images: str, folder: Path) -> dict[str, dict[str, Any]]:
    return {method: searched(method, images, folder / method) for method in SEARCHED}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(golden.images(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def both(images: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Any], Any]:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    return one, two, by_two(all_searched, images, two, folder=two), all_searched(images, one)


@pytest.mark.parametrize("method", SEARCHED)
def test_two_processes_search_as_one_does(both: tuple[Path, Path, list[Any], Any], method: str) -> None:
    one, two, (first, second), alone = both
    assert first[method] == second[method]  # to the last bit: weights, logits, proposals, masks
    files = sorted(p.name for p in (one / method / "checkpoint").glob("*.safetensors"))
    assert files == sorted(p.name for p in (two / method / "checkpoint").glob("*.safetensors"))
    assert len(files) >= 1
    for file in files:
        ours, theirs = (load_file(folder / method / "checkpoint" / file) for folder in (one, two))
        assert ours.keys() == theirs.keys()
        away = {k: float((ours[k].double() - theirs[k].double()).abs().max()) for k in ours if ours[k].numel()}
        assert max(away.values()) < 1e-9, {k: v for k, v in away.items() if v >= 1e-9}
    assert golden.candidates(one / method) == golden.candidates(two / method)
    assert first[method]["architecture"] == alone[method]["architecture"]

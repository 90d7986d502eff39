"""Two processes against one: the same search, the same weights, the same accuracies; one that is killed ends the run.

In double precision what is left of the difference is rounding, which in single precision grows with every step.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed import TCPStore

import hiernas.spaces
import test_golden as golden
from hiernas import ranks
from hiernas.data import augment, load_data, normalise
from hiernas.errors import ConfigError
from hiernas.methods import METHODS
from hiernas.networks.cell_ops import DropPath
from hiernas.networks.ops import MBConv
from hiernas.randomness import seeded, torch_generator
from hiernas.run.folder import RunFolder
from hiernas.run.request import Request, prepare
from hiernas.run.search import make_problem
from hiernas.space import SearchSpace
from hiernas.spaces import Stage, chain_space
from hiernas.train import loop
from hiernas.train.evaluate import Evaluator
from hiernas.train.loop import accuracy, fit
from hiernas.train.recipes import Phase, Recipe
from processes import FORKED, Command, cli

SEARCHED = {  # by method: shorter than the golden runs
    "hnas": "stages=3 epochs=4,2 lr=0.2,0.1 train.warmup_epochs=0 population=4 generations=1 calibration_images=8",
    "hournas": "calibration_images=8", "darts": "search.images=16 search.epochs=1 search.warmup_epochs=0",
    "hmnas": "search.images=16 search.warmup_epochs=0 search.epochs=1 compare=false calibration_images=8",
}  # fmt: skip
PATHS = "params<=5k macs<=80k"
LIMITS = {"hnas": PATHS, "hournas": PATHS, "darts": "params<=1500", "hmnas": "params<=2k macs<=40k"}


def space_of(method: str) -> SearchSpace:
    """Narrow networks, of some operations of each kind: in double precision convolutions take long."""
    if method in ("hnas", "hournas"):
        ops = tuple(MBConv(k, e) for k in (3, 5) for e in (1, 3))
        stages = [Stage(12, 2, 2, ops, skip=True), Stage(16, 2, 2, ops, skip=True)]
        return chain_space("narrow", (3, 8, 8), 4, stem=8, stem_stride=1, stages=stages, head=32)
    cells = hiernas.spaces.darts((3, 8, 8), 4, channels=2, cells=3, pool_bn=method == "hmnas")
    kept = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")
    return cells.restrict({d.name: [o for o in d.options if o in kept] for d in cells.decisions})


STORES: list[TCPStore] = []  # where two processes find each other, as torchrun's own process has it


def environments() -> list[dict[str, str]]:
    """What torchrun tells each of two processes."""
    STORES.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(STORES[-1].port)}
    both |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    return [{**both, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(2)]


def _as_rank(do: Callable[..., Any], given: tuple[Any, ...], environment: dict[str, str], out: Path) -> None:
    os.environ.update(environment)
    with ranks.joined():
        out.write_bytes(pickle.dumps(do(*given)))


def by_two(do: Callable[..., Any], *given: Any, folder: Path) -> list[Any]:
    """What each of two processes returns that do the same."""
    outs = [folder / f"rank{i}" for i in range(2)]
    given_each = [(do, given, environment, out) for environment, out in zip(environments(), outs, strict=True)]
    two = [FORKED.Process(target=_as_rank, args=each, daemon=True) for each in given_each]
    for process in two:
        process.start()
    for process in two:
        process.join()
    assert [process.exitcode for process in two] == [0, 0]
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
    words = [w for w in f"{golden.RUNS[method][1]} {SEARCHED[method]}".split() if not w.startswith(("space.", "channels"))]
    request = Request(method, space_of(method), data=images, limits=LIMITS[method].split(), settings=words)
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
    assert "train1.safetensors" in files
    for file in files:
        ours, theirs = (load_file(folder / method / "checkpoint" / file) for folder in (one, two))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():  # Adam divides what is left of gradients that cancel by as little
            np.testing.assert_allclose(theirs[name].numpy(), tensor.numpy(), rtol=1e-7, atol=1e-7, err_msg=name)
    assert golden.candidates(one / method) == golden.candidates(two / method)
    assert options(first[method]["architecture"]) == options(alone[method]["architecture"])


def options(architecture: dict[str, Any]) -> dict[str, list[str]]:
    """Without weights, which end in rounding."""
    return {site: [chosen] if isinstance(chosen, str) else list(chosen) for site, chosen in architecture["sites"].items()}


# -- parts -------------------------------------------------------------------------------------------------------------


def trained_and_judged(images: str) -> dict[str, Any]:
    """A step of a network that drops at random, in double precision; and accuracies of a population, in single precision."""
    data, digits = load_data(images), load_data("digits")
    with seeded(0, "test"):
        supernet = hiernas.spaces.tiny(digits.input_size, 10).supernet()
        last = nn.Flatten(), nn.Dropout(0.3), nn.Linear(288, 4)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), DropPath(), nn.BatchNorm2d(8), *last)
    for m in supernet.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)  # untrained residual branches start at 0: candidates would hardly differ
    rng = np.random.default_rng(0)
    population = [supernet.space.sample(rng) for _ in range(11)]
    evaluate = Evaluator(supernet, digits, Fabric(accelerator="cpu", devices=1), seed=0, calibration_images=100)
    accuracies = evaluate([*population, population[0]])
    recipe = Recipe(batch_size=24, drop_path=0.4, cutout=3, ema=0.9, grad_clip=0.1, accelerator="cpu", label_smoothing=0.1)
    with double_precision(), tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", {"method": "hnas", "seed": 0, "data": {}})
        fit(network.double(), data.train, data, Phase("final", 2, 0.1), recipe, seed=0, run=run)
        whole = accuracy(network, data.test, data, batch_size=5)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return {"accuracies": accuracies, "weights": weights, "accuracy": whole}


def test_a_population_and_all_that_looks_at_a_whole_batch(images: str, tmp_path: Path) -> None:
    first, second = by_two(trained_and_judged, images, folder=tmp_path)
    alone = trained_and_judged(images)
    assert first["accuracies"] == second["accuracies"] == alone["accuracies"]
    assert len(set(alone["accuracies"])) > 3
    assert first["accuracy"] == second["accuracy"] == alone["accuracy"]
    for name, value in alone["weights"].items():
        np.testing.assert_array_equal(first["weights"][name], second["weights"][name])
        np.testing.assert_allclose(first["weights"][name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["crop", "resized_crop", "none"])
def test_a_part_of_a_batch_is_varied_as_in_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(0, 256, (12, 3, 16, 16), generator=torch_generator(0), dtype=torch.uint8)
    recipe = Recipe(augment=kind, flip=True)
    whole = augment(x, recipe, torch_generator(1))
    assert not torch.equal(whole, x)
    monkeypatch.setattr(ranks, "size", lambda: 3)
    for number in range(3):
        monkeypatch.setattr(ranks, "number", lambda number=number: number)
        rows = ranks.rows(12)
        assert torch.equal(augment(x[rows], recipe, torch_generator(1)), whole[rows])


def test_parts_are_whole_and_even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "size", lambda: 3)
    parts = []
    for number in range(3):
        monkeypatch.setattr(ranks, "number", lambda number=number: number)
        parts.append(ranks.part(range(8)))
    assert [i for part in parts for i in part] == list(range(8))
    assert {len(part) for part in parts} == {2, 3}
    with pytest.raises(ConfigError, match="a batch of 8 images cannot be shared evenly by 3 processes; choose a multiple of 3"):
        ranks.rows(8)


# -- the command line --------------------------------------------------------------------------------------------------

FEW = [word for setting in f"{golden.ONE_SHOT} train.warmup_epochs=0".split() for word in ("--set", setting)]


def pair(*words: str) -> tuple[Command, Command]:
    """The same command in two processes."""
    started = []
    for environment in environments():
        with mock.patch.dict(os.environ, environment):
            started.append(Command(*words))
    return started[0], started[1]


def epochs(run: Path) -> int:
    events = run / "events.jsonl"
    return events.read_text().count('"epoch"') if events.exists() else 0


def wait_for(done: Callable[[], bool], *commands: Command) -> None:
    end = time.monotonic() + 240
    while not done():
        assert time.monotonic() < end
        assert all(command.running for command in commands)
        time.sleep(0.02)


def test_mistakes_are_said_once(images: str, tmp_path: Path) -> None:
    first, second = pair("search", "--data", images, "--set", "train.batch_size=7", "--out", str(tmp_path / "r"))
    code, _, said = first.ended()
    assert (code, said.count("a batch of 7 images cannot be shared evenly by 2 processes")) == (2, 1)
    assert second.ended() == (2, "", "")
    first, second = pair("list", "methods")
    assert first.ended() == (2, "", "error: list is done by one process; start it without torchrun\n")
    assert second.ended() == (2, "", "")


def test_a_run_of_two_stops_as_one_and_goes_on_with_any_number(images: str, tmp_path: Path) -> None:
    run = tmp_path / "r"
    words = ["search", "hnas", "--data", images, "--limit", "params<=120k", *FEW, "--set", "epochs=8,1,1", "--out", str(run)]
    first, second = pair(*words)
    wait_for(lambda: epochs(run) >= 1, first, second)
    os.kill(second.process.pid, signal.SIGTERM)  # which the other one does not hear
    code, _, said = first.ended()
    assert (code, said[:60]) == (143, f"asked to stop (SIGTERM): go on with `hiernas resume {run}`"[:60])
    assert second.ended() == (143, "", "")
    before = epochs(run)
    first, second = pair("resume", str(run))
    wait_for(lambda: epochs(run) > before, first, second)
    second.kill()
    code, _, said = first.ended()
    assert (code, said.count("another of the 2 processes of this run has ended")) == (2, 1)
    assert "Traceback" not in said
    said = cli("resume", str(run))
    assert "processes 2 -> 1" in said
    result = json.loads((run / "result.json").read_text())
    assert [result["environment"][end]["processes"] for end in ("began", "ended")] == [2, 1]
    first, second = pair("train", str(run), "--epochs", "1", "--out", str(tmp_path / "t"))
    code, said, err = first.ended()
    assert (code, err) == (0, "")
    assert "test accuracy" in said
    assert second.ended() == (0, "", "")
    RunFolder.open(tmp_path / "t").check("best.safetensors")
    assert json.loads((tmp_path / "t" / "result.json").read_text())["environment"]["ended"]["processes"] == 2

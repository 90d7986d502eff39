"""HourNAS' runs: interrupted in every phase, from beginning to end, and with each ablation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from little import CONFIG, LIMITS, OPS, few_of, found_by, latency_file, little, problem
from safetensors.torch import load_file

from hiernas.costs import parse_limits
from hiernas.costs.limits import satisfied
from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData
from hiernas.methods import hournas as module
from hiernas.methods.hournas import HourNASConfig, hournas
from hiernas.methods.hournas.architect import ProposalArchitect
from hiernas.methods.hournas.proposals import make_targets, probabilities, resources
from hiernas.networks.chain import ChainSupernet
from hiernas.problem import Found
from hiernas.run.folder import RunFolder
from hiernas.run.outcome import train_network
from hiernas.run.request import Request
from hiernas.run.search import resume, search
from hiernas.run.settings import from_file
from hiernas.spaces import Stage, chain_space
from hiernas.train.evaluate import RunTrainer
from hiernas.train.recipes import Phase
from toy import RUN


@pytest.fixture(scope="module")
def few(digits: ImageData) -> ImageData:
    return few_of(digits)


# -- interrupted -------------------------------------------------------------------------------------------------


def run_all(folder: Path, data: ImageData, listener: Callable[[Mapping[str, Any]], None] | None = None) -> Found:
    """The search and the final training, from where the folder stands."""
    run = RunFolder.open(folder, listener) if folder.exists() else RunFolder.create(folder, RUN, listener)
    try:
        run.own()
        found = hournas(problem(run, data), CONFIG)
        train_network(found.architecture, data, Phase("final", CONFIG.final_epochs, CONFIG.final_lr), CONFIG.train, run)
    finally:
        run.close()
    return found


class Stop:
    """Interrupts at the nth event of a kind."""

    def __init__(self, event: str, phase: str | None = None, nth: int = 1) -> None:
        self.event, self.phase, self.left = event, phase, nth

    def __call__(self, record: Mapping[str, Any]) -> None:
        if record["event"] == self.event and record.get("phase") == self.phase:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


STOPS = [  # an epoch has three steps of the weights and one of the architecture
    Stop("step", "train1", 1), Stop("step", "train1", 3), Stop("step", "train1", 3), Stop("epoch", "train1"),
    Stop("pruned"), Stop("proposals"), Stop("step", "train2", 2), Stop("step", "train2", 3), Stop("step", "train2", 2),
    Stop("epoch", "train2", 2),
]  # fmt: skip


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "checkpoint").glob("*.safetensors"))
    return {f"{file.stem}.{name}": value for file in files for name, value in load_file(file).items()}


def test_interrupted_in_every_phase_it_ends_with_the_same_bits(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_all(tmp_path / "whole", few)
    monkeypatch.setattr(RunFolder, "checkpoint_seconds", 0.0)  # from here on, save after every step
    for stop in STOPS:
        with pytest.raises(KeyboardInterrupt):
            run_all(tmp_path / "parts", few, stop)
    for place, name in ((RunTrainer, "evaluator"), (module.proposals, "spread")):  # in evolve2; and when all is evaluated
        with monkeypatch.context() as patched:
            patched.setattr(place, name, _interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_all(tmp_path / "parts", few)
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path / "parts", few, Stop("step", "final", 2))
    parts = run_all(tmp_path / "parts", few)
    saved = [tensors(tmp_path / name) for name in ("whole", "parts")]
    assert {name.split(".")[0] for name in saved[0]} == {"train1", "proposals", "train2", "final"}
    assert list(saved[0]) == list(saved[1])
    for name, value in saved[0].items():  # weights, theta, Pi, the optimiser's state
        assert torch.equal(value, saved[1][name]), name
    assert parts.chosen == whole.chosen
    assert parts.front == whole.front
    assert parts.details == whole.details
    assert parts.prunings == whole.prunings
    whole_epochs, parts_epochs = (told(tmp_path / n) for n in ("whole", "parts"))
    assert whole_epochs == parts_epochs
    assert "tau" in whole_epochs[0]


def told(folder: Path) -> list[str]:
    """What was told of the epochs; one that was told, but not saved, was told again, and the same."""
    epochs = (e for e in RunFolder.open(folder).events() if e["event"] == "epoch")
    return list(dict.fromkeys(json.dumps({k: v for k, v in e.items() if k != "time"}) for e in epochs))


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_with_one_epoch_of_each_the_architecture_learns_at_all_temperatures(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[float]] = {"draw": [], "learn": []}

    def watched(name: str) -> Callable[..., Any]:
        original = getattr(ProposalArchitect, name)

        def call(self: ProposalArchitect, *given: Any) -> Any:
            result = original(self, *given)
            seen[name].append(self.summary()["tau"])
            return result

        return call

    for name in seen:
        monkeypatch.setattr(ProposalArchitect, name, watched(name))
    train = replace(CONFIG.train, batch_size=8)
    found_by(tmp_path / "r", few, replace(CONFIG, vital_prior=False, vital_epochs=1, epochs=1, train=train))
    assert seen["draw"] == pytest.approx([tau for tau in 5.0 * 0.002 ** np.array([0, 1 / 3, 2 / 3]) for _ in range(9)])
    assert seen["learn"] == pytest.approx(list(5.0 * 0.002 ** (np.arange(9) / 9)))  # three epochs of three steps


def test_a_whole_run_and_what_it_says(tmp_path: Path, few: ImageData) -> None:
    request = Request("hournas", little(), {}, few, LIMITS, latency_file(tmp_path, little()), config=CONFIG)
    run = search(request, tmp_path / "r")
    result = run.read_json("result.json")
    assert result["details"]["vital"] == ["stage2.block1", "stage3.block1"]
    assert [row["tau"] for row in result["details"]["spread"]] == pytest.approx([5.0, 0.63, 0.0794, 0.01], rel=0.01)
    assert result["stages"][0]["kept"]["stage2.block1"] == [result["chosen"]["sites"]["stage2.block1"]]
    assert result["chosen"]["params"] <= 4000
    assert result["chosen"]["macs"] <= 20_000
    assert set(result["seconds"]) == {"train1", "proposals", "train2", "evolve2", "final"}
    assert from_file(HourNASConfig, run.config["config"]) == CONFIG  # what a resumed run goes by
    (tmp_path / "r" / "report.html").unlink()
    assert resume(tmp_path / "r").path == tmp_path / "r"
    assert (tmp_path / "r" / "report.html").exists()


# -- ablations ---------------------------------------------------------------------------------------------------


def test_without_the_vital_block_prior_all_blocks_are_searched_together(tmp_path: Path, few: ImageData) -> None:
    config = replace(CONFIG, vital_epochs=1, epochs=1, vital_prior=False)
    found = found_by(tmp_path / "r", few, config)
    epochs = [e for e in RunFolder.open(tmp_path / "r").events() if e["event"] == "epoch"]
    assert [(e["phase"], e["epoch"]) for e in epochs] == [("train1", i) for i in (1, 2, 3)]  # 6 hours for 1 and 2
    assert list(module.plan(config, few)) == ["train1"]
    assert found.prunings == ()
    saved = load_file(tmp_path / "r" / "checkpoint" / "train1.safetensors")
    assert saved["architecture.theta"].shape == (3, 5, 4)
    held = {name.split(".")[3] for name in saved if name.startswith("model.sites.2.")}
    assert held == {"k3_e1", "k3_e2", "k5_e2"}
    assert not (tmp_path / "r" / "checkpoint" / "train2.safetensors").exists()
    with_prior = found_by(tmp_path / "p", few, replace(CONFIG, epochs=1))
    saved = load_file(tmp_path / "p" / "checkpoint" / "train2.safetensors")
    held = {name.split(".")[3] for name in saved if name.startswith("model.sites.2.")}
    assert held == {with_prior.chosen.options[2]}


@pytest.mark.parametrize("sampling", ["gumbel_max", "gumbel_softmax"])
def test_sampling_says_how_many_options_are_computed(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch, sampling: str
) -> None:
    widths: dict[int, set[tuple[int, ...]]] = {}
    forward = ChainSupernet.forward

    def recorded(self: ChainSupernet, x: torch.Tensor, gates: Any) -> torch.Tensor:
        widths.setdefault(id(self), set()).add(tuple(len(i) for i in gates.indices))
        return forward(self, x, gates)

    monkeypatch.setattr(ChainSupernet, "forward", recorded)
    found = found_by(tmp_path / "r", few, replace(CONFIG, vital_epochs=1, epochs=1, sampling=sampling))
    one, vital, others = (1, 1, 1, 1, 1), (1, 1, 3, 1, 2), (4, 4, 1, 4, 1)
    expected = [{one}, {one}] if sampling == "gumbel_max" else [{vital}, {others}]
    assert list(widths.values())[:2] == expected
    assert satisfied(cost_tables(little(), None), parse_limits(LIMITS), little().encode(found.architecture)[None])[0]


def test_one_proposal_has_all_the_weight(tmp_path: Path, few: ImageData) -> None:
    found = found_by(tmp_path / "r", few, replace(CONFIG, proposals=1, vital_prior=False, epochs=1))
    assert [row["weight"] for row in found.details["proposals"]] == [1.0]
    assert found.details["best"] == 0
    assert len(found.front) == 1
    saved = load_file(tmp_path / "r" / "checkpoint" / "train1.safetensors")
    assert saved["architecture.pi"].tolist() == [0.0]  # there is nothing for it to learn


def test_beta_keeps_the_proposals_apart(tmp_path: Path, few: ImageData) -> None:
    away = []
    for beta in (0.05, 0.0):
        found_by(tmp_path / str(beta), few, replace(CONFIG, beta=beta, vital_prior=False, epochs=1, proposal_iterations=500))
        theta = load_file(tmp_path / str(beta) / "checkpoint" / "proposals.safetensors")["theta"].numpy().reshape(3, -1)
        away.append(np.abs(theta @ theta.T - np.eye(3)).mean())
    assert away[0] < 0.5 * away[1]


def test_alpha_holds_the_proposals_at_the_targets(tmp_path: Path, few: ImageData) -> None:
    away = {}
    for alpha in (0.0, 5.0):
        config = replace(CONFIG, alpha=alpha, vital_prior=False, epochs=15, architecture_lr=0.05, proposal_iterations=1)
        found = found_by(tmp_path / str(alpha), few, config)  # proposals that are not at the targets yet
        theta = load_file(tmp_path / str(alpha) / "checkpoint" / "train1.safetensors")["architecture.theta"].numpy()
        targets = make_targets(little(), cost_tables(little(), None), found.details["aims"])
        p = probabilities(theta, targets.options, 0.0, CONFIG.tau_end)
        away[alpha] = np.abs(resources(p, targets) - targets.values).mean()
    assert away[5.0] < 0.5 * away[0.0]


def test_a_space_without_vital_blocks_and_one_of_nothing_else(tmp_path: Path, few: ImageData) -> None:
    free = chain_space("free", (1, 8, 8), 10, stem=8, stages=[Stage(8, 2, 1, OPS, skip=True)], head=16)
    found = found_by(tmp_path / "free", few, replace(CONFIG, epochs=1), limits=("params<=2k",), space=free)
    assert (found.details["vital"], found.prunings) == ([], ())
    neck = chain_space("neck", (1, 8, 8), 10, stem=4, stages=[Stage(8, 1, 2, OPS), Stage(12, 1, 1, OPS)], head=16)
    found = found_by(tmp_path / "neck", few, replace(CONFIG, epochs=1), limits=("params<=3k",), space=neck)
    assert found.details["vital"] == ["stage1.block1", "stage2.block1"]
    assert found.prunings[-1].space.size() == 1
    assert found.chosen.params <= 3000

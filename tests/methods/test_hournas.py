"""HourNAS, Algorithm 1: vital blocks, limits that hold, ablations, and runs that were interrupted in every phase."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hiernas
from hiernas import spaces
from hiernas.costs.count import parts_of_space
from hiernas.costs.latency import Entry, LatencyTable
from hiernas.costs.limits import Limit, every, nearest, parse_limits, satisfied
from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData
from hiernas.data.images import Subset
from hiernas.data.split import Split
from hiernas.errors import ConfigError, LimitError
from hiernas.finish import train_network
from hiernas.methods import hournas as module
from hiernas.methods.hournas import HourNASConfig, fix_vital, hournas, minimal_space
from hiernas.run import Request, prepare, resume, search
from hiernas.runfolder import RunFolder
from hiernas.search import bilevel
from hiernas.search.problem import Found, Problem
from hiernas.search.proposals import aims_of, make_targets, optimise_proposals, option_mask
from hiernas.search.vital import vital_sites
from hiernas.settings import from_file
from hiernas.space import SearchSpace
from hiernas.spaces import Stage, chain_space
from hiernas.supernet.chain import ChainSupernet
from hiernas.train.recipes import Phase, Recipe
from toy import RUN

CONFIG = HourNASConfig(
    vital_epochs=2, epochs=3, train=Recipe(batch_size=24, accelerator="cpu"), share=0.25, proposals=3,
    proposal_iterations=200, objective="macs", calibration_images=40, final_epochs=1, final_lr=0.1,
)  # fmt: skip
LIMITS = ("params<=4k", "macs<=20k")
OPS = (hiernas.MBConv(3, 1), hiernas.MBConv(3, 2), hiernas.MBConv(5, 2))


def little() -> SearchSpace:
    """576 architectures over images of 8x8 pixels; the two blocks that change the shape are vital."""
    stages = [Stage(8, 2, 1, OPS, skip=True), Stage(16, 2, 2, OPS, skip=True), Stage(24, 1, 1, OPS[:2])]
    return chain_space("little", (1, 8, 8), 10, stem=8, stem_stride=2, stages=stages, head=16)


@pytest.fixture(scope="session")
def few(digits: ImageData) -> ImageData:
    """96 training images, 40 for validation, 40 for testing."""

    def first(split: Split, n: int) -> Split:
        return Split(Subset(split.images, torch.arange(n)), split.labels[:n])

    return replace(digits, train=first(digits.train, 96), val=first(digits.val, 40), test=first(digits.test, 40))


def problem(
    run: RunFolder, data: ImageData, limits: tuple[str, ...] = LIMITS, space: SearchSpace | None = None, seed: int = 0
) -> Problem:
    return Problem(space=space or little(), data=data, limits=parse_limits(limits), latency=None, run=run, seed=seed)


def found_by(folder: Path, data: ImageData, config: HourNASConfig = CONFIG, **more: Any) -> Found:
    return hournas(problem(RunFolder.create(folder, RUN), data, **more), config)


def paper_problem(space: SearchSpace, limits: tuple[Limit, ...]) -> Problem:
    """For what needs neither images nor a run folder."""
    return Problem(space=space, data=None, limits=limits, latency=None, run=None, seed=0)  # type: ignore[arg-type]


# -- vital blocks ------------------------------------------------------------------------------------------------


def test_the_minimal_space_skips_what_is_not_vital() -> None:
    space = little()
    minimal = minimal_space(space, paper_problem(space, ()))
    assert vital_sites(space) == ("stage2.block1", "stage3.block1")
    assert [d.options for d in minimal.decisions] == [
        ("skip",), ("skip",), ("k3_e1", "k3_e2", "k5_e2"), ("skip",), ("k3_e1", "k3_e2"),
    ]  # fmt: skip
    without = chain_space("plain", (1, 8, 8), 10, stem=8, stages=[Stage(8, 2, 1, (OPS[2], OPS[0]))], head=16)
    cheapest = minimal_space(without, paper_problem(without, ()))  # all residual, so not vital; none may be skipped
    assert [d.options for d in cheapest.decisions] == [("k3_e1",), ("k3_e1",)]


def test_vital_blocks_get_their_most_probable_options_with_which_the_limits_stay_reachable() -> None:
    space, rng = little(), np.random.default_rng(0)
    tables, genes = cost_tables(space, None), every(space)
    vital = [i for i, d in enumerate(space.decisions) if d.name in vital_sites(space)]
    outcomes = {"free": 0, "bound": 0}
    for _ in range(200):
        limits = random_limits(rng, space)
        met = genes[satisfied(tables, limits, genes)]
        given = paper_problem(space, limits)
        minimal = minimal_space(space, given)
        options = option_mask(minimal)
        theta = rng.normal(size=options.shape) * options
        fixed = fix_vital(space, theta, minimal, given)
        assert satisfied(cost_tables(fixed, None), limits, every(fixed)).any()
        chosen = [space.decisions[i].index(fixed.decisions[i].options[0]) for i in vital]
        assert [len(fixed.decisions[i].options) for i in vital] == [1, 1]
        assert all(fixed.decisions[i] == space.decisions[i] for i in range(5) if i not in vital)
        total = sum(theta[i, g] for i, g in zip(vital, chosen, strict=True))
        best = max(sum(theta[i, g[i]] for i in vital) for g in met)
        assert total == pytest.approx(best, abs=1e-9), limits
        free = [int(np.where(options[i], theta[i], -np.inf).argmax()) for i in vital]
        outcomes["free" if chosen == free else "bound"] += 1
    assert min(outcomes.values()) >= 10  # sometimes the limits leave no room for the most probable ones


def random_limits(rng: np.random.Generator, space: SearchSpace) -> tuple[Limit, ...]:
    """Upper bounds, lower bounds and ranges that one or more architectures meet."""
    tables, genes = cost_tables(space, None), space.sample_encoded(rng, 1)
    limits = []
    for metric in rng.permutation(["params", "macs"])[: rng.integers(1, 3)]:
        value, kind = float(tables[str(metric)].of(genes)[0]), rng.integers(3)
        low, high = value * rng.uniform(0.9, 1.0), value * rng.uniform(1.0, 1.1)
        limits.append(Limit(str(metric), -math.inf if kind == 0 else low, math.inf if kind == 1 else high))
    return tuple(limits)


CHAINS = {
    "tiny": (1, 8, 8), "nasbench_macro": (3, 32, 32), "fbnet": (3, 32, 32), "fbnet_enlarged": (3, 64, 64),
    "proxyless": (3, 32, 32), "mnasnet": (3, 64, 64), "efficientnet": (3, 32, 32), "mobilenetv2": (3, 32, 32),
    "hnas_large": (3, 32, 32),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CHAINS))
def test_every_chain_space_gets_its_proposals(name: str) -> None:
    space = getattr(spaces, name)(CHAINS[name], 10)
    tables = cost_tables(space, None)
    limits = tuple(Limit(m, high=(tables[m].smallest + tables[m].largest) / 2) for m in ("params", "macs"))
    given = paper_problem(space, limits)
    changing = [s.name for s in space.skeleton.sites if s.stride > 1 or s.cin != s.cout]
    assert list(vital_sites(space)) == changing  # in all of these; the others can be skipped or are residual
    minimal = minimal_space(space, given)
    assert minimal.size() == math.prod(len(d.options) for d in space.decisions if d.name in changing)
    theta = np.random.default_rng(0).normal(size=option_mask(minimal).shape)
    fixed = fix_vital(space, theta, minimal, given)
    assert fixed.size() == math.prod(len(d.options) for d in space.decisions if d.name not in changing)
    assert satisfied(cost_tables(fixed, None), limits, nearest(fixed, cost_tables(fixed, None), limits)[0])[0]
    aims = aims_of(fixed, cost_tables(fixed, None), limits)
    targets = make_targets(fixed, cost_tables(fixed, None), aims)
    proposals = optimise_proposals(targets, 8, 400, lr=0.01, beta=0.01, tau=(5.0, 0.01), rng=np.random.default_rng(0))
    genes = np.where(targets.options, proposals, -np.inf).argmax(-1)
    away = np.max([np.abs(cost_tables(fixed, None)[m].of(genes) / a - 1) for m, a in aims.items()], axis=0)
    assert away.min() < (0.02 if len(changing) < 7 or fixed.size() > 1e6 else 0.1), away  # on 3 to 5 sites costs are coarse


def test_the_second_search_goes_on_with_what_the_first_one_learned(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, sizes, original = list[dict[str, torch.Tensor]](), list[tuple[int, int]](), module.train_bilevel

    def watched(supernet: ChainSupernet, architect: Any, images: Split, *more: Any) -> None:
        starts.append({name: value.clone() for name, value in supernet.state_dict().items()})
        sizes.append((len(images), len(architect.images)))
        original(supernet, architect, images, *more)

    monkeypatch.setattr(module, "train_bilevel", watched)
    found = found_by(tmp_path / "r", few, replace(CONFIG, epochs=1))
    learned = load_file(tmp_path / "r" / "checkpoint" / "train1.safetensors")
    first, second = starts
    kept = [name for name in second if f"model.{name}" in learned]
    assert {name.split(".")[0] for name in kept} == {"stem", "sites", "head"}
    assert {".".join(name.split(".")[:3]) for name in kept if name.startswith("sites.")} == {
        f"sites.{i}.{found.last_space.decisions[i].options[0]}" for i in (2, 4)
    }
    for name in kept:
        assert torch.equal(second[name], learned[f"model.{name}"]), name
    changed = [not torch.equal(first[n], second[n]) for n in kept if n.endswith(".weight")]
    assert sum(changed) > 0.8 * len(changed)  # it did learn
    assert sizes == [(72, 24)] * 2  # a quarter of the training images is the architecture's


# -- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [("params<=4k",), ("macs<=20k", "params<=3k"), ("20k<=macs<=20500",), ("macs>=35k",), ("params<=1530",)],
    ids=" ".join,
)
def test_the_result_meets_its_limits_exactly(tmp_path: Path, few: ImageData, limits: tuple[str, ...]) -> None:
    asked = parse_limits(limits)
    found = found_by(tmp_path / "r", few, replace(CONFIG, vital_epochs=1, epochs=1), limits=limits)
    networks = [found.chosen.options, *(c.options for c in found.front)]
    networks += [tuple(row["options"]) for row in found.details["proposals"]]
    for options in networks:
        cost = hiernas.cost(found.space.architecture(options))  # counted on the whole network
        for limit in asked:
            assert limit.low <= getattr(cost, limit.metric) <= limit.high


def test_what_is_chosen_is_the_best_proposals_most_probable_network(tmp_path: Path, few: ImageData) -> None:
    chosen_by = set()
    for seed in range(4):
        found = found_by(tmp_path / str(seed), few, replace(CONFIG, vital_epochs=1, epochs=1), seed=seed)
        saved = load_file(tmp_path / str(seed) / "checkpoint" / "train2.safetensors")
        theta, best = saved["architecture.theta"].numpy(), int(saved["architecture.pi"].argmax())
        fixed = found.last_space
        genes = every(fixed)
        genes = genes[satisfied(cost_tables(fixed, None), parse_limits(LIMITS), genes)]
        for proposal, row in zip(theta, found.details["proposals"], strict=True):
            likely = max(genes, key=lambda g, t=proposal: sum(t[site, i] for site, i in enumerate(g)))
            assert row["options"] == list(fixed.decode(likely).options)
            free = np.where(option_mask(fixed), proposal, -np.inf).argmax(-1)
            assert row["moved"] == int((free != likely).sum())
        assert found.details["best"] == best
        assert found.chosen.options == tuple(found.details["proposals"][best]["options"])
        assert sum(row["weight"] for row in found.details["proposals"]) == pytest.approx(1.0, abs=1e-3)
        chosen_by.add(best)
    assert len(chosen_by) > 1
    (pruning,) = found.prunings
    for site in vital_sites(found.space):
        assert sum(pruning.frequency[site].values()) == pytest.approx(1.0)


def latency_file(folder: Path, space: SearchSpace) -> Path:
    """A made-up table of another device, so that nothing is measured."""
    fixed, options = parts_of_space(space)
    keys = dict.fromkeys(p.key for p in (*fixed, *(p for site in options for ps in site for p in ps)) if not p.is_identity)
    entries = {key: Entry(0.02 + 0.001 * i, 0.01 + 0.001 * i, 0.03 + 0.001 * i, 9) for i, key in enumerate(keys)}
    LatencyTable("another", "onnxruntime", "1", 1, 1, 0.01, entries).save(folder / "table.json")
    return folder / "table.json"


def test_impossible_targets_are_refused_before_anything_is_trained(tmp_path: Path, few: ImageData) -> None:
    table = latency_file(tmp_path, little())

    def ask(*limits: str) -> None:
        prepare(Request("hournas", little(), {}, few, limits, table, config=CONFIG))

    ask(*LIMITS)
    with pytest.raises(LimitError, match=r"^no architecture of 'little' meets params <= 1k; the smallest has \d\.\d+k$"):
        ask("params<=1k")
    with pytest.raises(LimitError, match=r"meets params >= 6k and macs <= 10k together; the nearest has params .* and macs"):
        ask("params>=6k", "macs<=10k")


def test_the_command_line_refuses_them_too(tmp_path: Path) -> None:
    table = latency_file(tmp_path, spaces.tiny((1, 8, 8), 10))
    command = [sys.executable, "-m", "hiernas.cli", "search", "hournas", "--space", "tiny", "--latency-table", str(table)]
    done = subprocess.run(
        [*command, "--limit", "params<=1k"], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no architecture of 'tiny' meets params <= 1k; the smallest has ")
    assert done.stderr.count("\n") == 1
    assert not Path("runs").exists()


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
    for place, name in ((bilevel, "make_evaluator"), (module, "spread")):  # in evolve2; and when all is evaluated
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
    epochs = [[e for e in RunFolder.open(tmp_path / n).events() if e["event"] == "epoch"] for n in ("whole", "parts")]
    assert [{k: v for k, v in e.items() if k != "time"} for e in epochs[0]] == [
        {k: v for k, v in e.items() if k != "time"} for e in epochs[1]
    ]
    assert "tau" in epochs[0][0]


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


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
    found = found_by(tmp_path / "r", few, replace(CONFIG, vital_epochs=0, epochs=1))
    assert found.prunings == ()
    assert found.last_space == little()
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
    found = found_by(tmp_path / "r", few, replace(CONFIG, proposals=1, vital_epochs=0, epochs=1))
    assert [row["weight"] for row in found.details["proposals"]] == [1.0]
    assert found.details["best"] == 0
    assert len(found.front) == 1
    saved = load_file(tmp_path / "r" / "checkpoint" / "train1.safetensors")
    assert saved["architecture.pi"].tolist() == [0.0]  # there is nothing for it to learn


def test_beta_keeps_the_proposals_apart(tmp_path: Path, few: ImageData) -> None:
    away = []
    for beta in (0.05, 0.0):
        found_by(tmp_path / str(beta), few, replace(CONFIG, beta=beta, vital_epochs=0, epochs=1, proposal_iterations=500))
        theta = load_file(tmp_path / str(beta) / "checkpoint" / "proposals.safetensors")["theta"].numpy().reshape(3, -1)
        away.append(np.abs(theta @ theta.T - np.eye(3)).mean())
    assert away[0] < 0.5 * away[1]


def test_alpha_holds_the_proposals_at_the_targets(tmp_path: Path, few: ImageData) -> None:
    moved = []
    for alpha in (0.0, 5.0):
        config = replace(CONFIG, alpha=alpha, vital_epochs=0, epochs=2, architecture_lr=0.05)
        found_by(tmp_path / str(alpha), few, config)
        start = load_file(tmp_path / str(alpha) / "checkpoint" / "proposals.safetensors")["theta"]
        end = load_file(tmp_path / str(alpha) / "checkpoint" / "train1.safetensors")["architecture.theta"]
        moved.append(((end - start).abs().sum((1, 2)) > 0).sum().item())
    assert moved[0] <= 2  # of two steps, each through one proposal
    assert moved[1] == 3  # the regulariser acts on all


def test_a_space_without_vital_blocks_and_one_of_nothing_else(tmp_path: Path, few: ImageData) -> None:
    free = chain_space("free", (1, 8, 8), 10, stem=8, stages=[Stage(8, 2, 1, OPS, skip=True)], head=16)
    found = found_by(tmp_path / "free", few, replace(CONFIG, epochs=1), limits=("params<=2k",), space=free)
    assert (found.details["vital"], found.prunings) == ([], ())
    neck = chain_space("neck", (1, 8, 8), 10, stem=4, stages=[Stage(8, 1, 2, OPS), Stage(12, 1, 1, OPS)], head=16)
    found = found_by(tmp_path / "neck", few, replace(CONFIG, epochs=1), limits=("params<=3k",), space=neck)
    assert found.details["vital"] == ["stage1.block1", "stage2.block1"]
    assert found.last_space.size() == 1
    assert found.chosen.params <= 3000


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"vital_epochs": -1}, "vital_epochs is -1; it must be at least 0"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"proposals": 0}, "proposals is 0; it must be at least 1"),
        ({"proposal_iterations": 0}, "proposal_iterations is 0"),
        ({"share": 1.0}, r"share is 1\.0; it is a share of the training images"),
        ({"tau": 0.001}, r"tau_end=0\.01 is above tau=0\.001; the temperature falls"),
        ({"tau_end": 0.0}, r"tau_end is 0\.0; it must be positive"),
        ({"alpha": -1.0}, r"alpha is -1\.0; it must be at least 0"),
        ({"beta": math.nan}, "beta is nan; it must be at least 0"),
        ({"architecture_lr": math.inf}, "architecture_lr is inf; it must be positive and finite"),
        ({"train": Recipe(precision="16-mixed")}, "16-mixed scales the architecture's gradients; use bf16-mixed"),
    ],
)
def test_settings_that_make_no_sense_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **setting)

"""HourNAS, Algorithm 1: vital blocks, proposals on every chain space, limits that hold, and settings that make no sense."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from little import CONFIG, LIMITS, OPS, few_of, found_by, latency_file, little
from safetensors.torch import load_file

import hiernas
from hiernas import spaces
from hiernas.budget import Limit
from hiernas.costs import parse_limits
from hiernas.costs.limits import nearest, satisfied
from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData
from hiernas.data.split import Split
from hiernas.errors import ConfigError, LimitError
from hiernas.methods.hournas import HourNASConfig, fix_vital, minimal_space, undecided, vital_sites
from hiernas.methods.hournas.proposals import aims_of, make_targets, optimise_proposals, option_mask
from hiernas.networks.chain import ChainSupernet
from hiernas.problem import Problem, Pruning
from hiernas.run.request import Request, prepare
from hiernas.run.search import make_problem
from hiernas.space import SearchSpace
from hiernas.spaces import Stage, chain_space
from hiernas.train.evaluate import RunTrainer
from hiernas.train.recipes import Recipe
from processes import Command


@pytest.fixture(scope="module")
def few(digits: ImageData) -> ImageData:
    return few_of(digits)


def paper_problem(space: SearchSpace, limits: tuple[Limit, ...]) -> Problem:
    """For what needs neither images nor a run folder."""
    return make_problem(space=space, data=None, limits=limits, latency=None, run=None, seed=0)  # type: ignore[arg-type]


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
    tables, genes = cost_tables(space, None), space.all_encoded()
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
        assert satisfied(cost_tables(fixed, None), limits, fixed.all_encoded()).any()
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
    aims = aims_of(fixed, given.budget)
    targets = make_targets(fixed, cost_tables(fixed, None), aims)
    proposals = optimise_proposals(targets, HourNASConfig(proposal_iterations=400), np.random.default_rng(0))
    genes = np.where(targets.options, proposals, -np.inf).argmax(-1)
    away = np.max([np.abs(cost_tables(fixed, None)[m].of(genes) / a - 1) for m, a in aims.items()], axis=0)
    assert away.min() < (0.02 if len(changing) < 7 or fixed.size() > 1e6 else 0.1), away  # on 3 to 5 sites costs are coarse


def test_the_second_search_goes_on_with_what_the_first_one_learned(
    tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, sizes, original = list[dict[str, torch.Tensor]](), list[tuple[int, int]](), RunTrainer.fit

    def watched(trainer: RunTrainer, supernet: ChainSupernet, images: Split, *more: Any, architect: Any) -> None:
        starts.append({name: value.clone() for name, value in supernet.state_dict().items()})
        sizes.append((len(images), len(architect.images)))
        original(trainer, supernet, images, *more, architect=architect)

    monkeypatch.setattr(RunTrainer, "fit", watched)
    found = found_by(tmp_path / "r", few, replace(CONFIG, epochs=1))
    learned = load_file(tmp_path / "r" / "checkpoint" / "train1.safetensors")
    first, second = starts
    kept = [name for name in second if f"model.{name}" in learned]
    assert {name.split(".")[0] for name in kept} == {"stem", "sites", "head"}
    assert {".".join(name.split(".")[:3]) for name in kept if name.startswith("sites.")} == {
        f"sites.{i}.{found.prunings[-1].space.decisions[i].options[0]}" for i in (2, 4)
    }
    for name in kept:
        assert torch.equal(second[name], learned[f"model.{name}"]), name
    changed = [not torch.equal(first[n], second[n]) for n in kept if n.endswith(".weight")]
    assert sum(changed) > 0.8 * len(changed)  # it did learn
    assert sizes == [(72, 24)] * 2  # a quarter of the training images is the architecture's


def test_a_search_of_vital_blocks_that_went_nowhere_says_so(tmp_path: Path, few: ImageData) -> None:
    still = found_by(tmp_path / "still", few, replace(CONFIG, vital_epochs=1, epochs=1, architecture_lr=1e-9))
    p = [list(row.values()) for site, row in still.prunings[0].frequency.items() if site in vital_sites(still.space)]
    share = sum(map(scipy.stats.entropy, p)) / (math.log(3) + math.log(2))  # of three options and of two
    assert share > 0.98
    (said,) = still.doubts
    assert f"vital blocks has decided nothing: its probabilities ended at {share:.2%} of the entropy of equal ones" in said
    assert found_by(tmp_path / "learned", few, replace(CONFIG, epochs=1, architecture_lr=0.1)).doubts == ()
    sites = {"a": {"x": 0.6, "y": 0.4}, "b": {"x": 0.98, "y": 0.02}, "c": {"x": 1.0}}  # 0.971, 0.141 and no bits
    assert undecided((Pruning(2, sites, 1, little()),)) == ()
    assert "ended at 97.10%" in undecided((Pruning(2, {"a": sites["a"], "c": sites["c"]}, 1, little()),))[0]


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
        fixed = found.prunings[-1].space
        genes = fixed.all_encoded()
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
    words = ["search", "hournas", "--space", "tiny", "--latency-table", str(table), "--limit", "params<=1k"]
    code, out, err = Command(*words).ended()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: no architecture of 'tiny' meets params <= 1k; the smallest has ")
    assert not Path("runs").exists()


# -- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"vital_epochs": 0}, "vital_epochs: input should be greater than 0"),
        ({"epochs": 0}, " epochs: input should be greater than 0"),
        ({"proposals": 0}, "proposals: input should be greater than 0"),
        ({"proposal_iterations": 0}, "proposal_iterations: input should be greater than 0"),
        ({"share": 1.0}, r"share: input should be less than 1 \(got 1\.0\)"),
        ({"tau": 0.001}, r"tau_end=0\.01 is above tau=0\.001; the temperature falls"),
        ({"tau_end": 0.0}, "tau_end: input should be greater than 0"),
        ({"alpha": -1.0}, "alpha: input should be greater than or equal to 0"),
        ({"beta": math.nan}, "beta: input should be a finite number"),
        ({"architecture_lr": math.inf}, "architecture_lr: input should be a finite number"),
        ({"sampling": "gumbel_softmax", "estimator": "straight_through"}, "with sampling=gumbel_softmax leave it out"),
        (
            {"train": Recipe(precision="16-mixed"), "estimator": "straight_through"},
            "16-mixed scales the architecture's gradients; use bf16-mixed",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **setting)

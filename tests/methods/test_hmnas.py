"""HM-NAS: the network that is found against the masks in the checkpoints, the masked supernet, and brute force; interrupted."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import hiernas
from hiernas.budget import Limit
from hiernas.costs import limits as limits_module
from hiernas.costs import parse_limits
from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData, load_data
from hiernas.errors import ConfigError, LimitError
from hiernas.gates import Gates
from hiernas.latency import LatencyTable
from hiernas.methods import METHODS
from hiernas.methods.hmnas import HMNASConfig, hmnas
from hiernas.methods.hmnas.encoding import Encoding
from hiernas.methods.hmnas.kept import candidate_of, start_of, within_limits
from hiernas.methods.hmnas.masks import MaskArchitect, MaskSettings
from hiernas.problem import Problem
from hiernas.randomness import seeded
from hiernas.run.folder import RunFolder
from hiernas.run.outcome import train_network
from hiernas.run.request import Request
from hiernas.run.search import make_problem, resume, search
from hiernas.run.settings import with_settings
from hiernas.search.alphas import AlphaSettings, Pressure
from hiernas.search.differentiable import SearchSettings
from hiernas.space import Architecture, SearchSpace
from hiernas.train.evaluate import calibrate
from hiernas.train.loop import accuracy
from hiernas.train.recipes import Phase, Recipe
from methods.test_contract import CHAIN, SKIPS, latency_file
from methods.test_encoding import NO_IMAGES, nodes_of, options_of, plain_shares, random_logits, tensors
from methods.test_masks import THRESHOLD, kept_edges, kept_operations, present, random_values
from networks.test_subsets import listed, two_nodes, with_fixed_edges
from processes import bare
from toy import RUN

SIZE, CLASSES = (1, 8, 8), 3
LITTLE = ("none", "skip_connect", "dil_conv_3x3", "max_pool_3x3")
RECIPE = Recipe(batch_size=10, accelerator="cpu")
CONFIG = HMNASConfig(
    search=SearchSettings(epochs=1, train=RECIPE, alpha=AlphaSettings(lr=0.3), decided=0.0),
    mask=MaskSettings(edges_epochs=2, operations_epochs=2), calibration_images=12, final_epochs=1,
    train=replace(RECIPE, batch_size=24),
)  # fmt: skip


@pytest.fixture(scope="module")
def few() -> ImageData:
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, SIZE) + 80 * (i % CLASSES)).astype(np.uint8) for i in range(72)]
    return load_data([(torch.from_numpy(x), i % CLASSES) for i, x in enumerate(pixels)])


def cells() -> SearchSpace:
    space = hiernas.spaces.darts(SIZE, CLASSES, channels=2, cells=3, pool_bn=True)
    return space.restrict({d.name: LITTLE for d in space.decisions})


def graphs() -> SearchSpace:
    return hiernas.spaces.hdas_stages(SIZE, CLASSES, channels=2, cells=(4, 2, 2), cell=SKIPS)


def chain() -> SearchSpace:
    return hiernas.spaces.chain_space("chain", SIZE, CLASSES, stem=8, stem_stride=2, stages=CHAIN, head=16)


def second_classifier() -> SearchSpace:
    space = hiernas.spaces.darts(SIZE, CLASSES, channels=2, cells=3, pool_bn=True, auxiliary=True)
    return space.restrict({d.name: LITTLE for d in space.decisions})


SPACES = {"cells": cells, "graphs": graphs, "chain": chain}


def problem(folder: Path, space: SearchSpace, data: ImageData, limits: Sequence[Limit] = ()) -> Problem:
    run = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder, RUN)
    return make_problem(space, data, tuple(limits), None, run, 0)


def masks(space: SearchSpace, rng: np.random.Generator, share: float = 0.6) -> tuple[MaskArchitect | None, MaskArchitect]:
    """Random masks over random logits: about this share above the threshold."""
    alphas, betas = random_logits(space, rng)
    logits = tensors(alphas, torch.float32), tensors(betas, torch.float32)

    def made(level: Any, edges: Sequence[Tensor] | None = None) -> MaskArchitect:
        a = MaskArchitect(Encoding(space), logits, level, NO_IMAGES, MaskSettings(), Pressure(()), 1, edges)
        random_values(a, rng, share)
        a.mask.data = a.mask.data.float()
        return a

    edges = made("edges") if nodes_of(space) else None
    return edges, made("operations", None if edges is None else edges.kept_edges())


def plain_masks(space: SearchSpace, edges: np.ndarray | None, operations: np.ndarray) -> tuple[Any, list[np.ndarray]]:
    """What flat masks of both levels keep, by the plain rules: per node its edges, per site its operations."""
    sizes = [len(sites) for sites in nodes_of(space)]
    of_edges = None if edges is None else kept_edges(space, np.split(edges, np.cumsum(sizes)[:-1]))
    values = np.split(operations, np.cumsum([len(o) for o in options_of(space)])[:-1])
    return of_edges, kept_operations(space, values, present(space, of_edges or []))


def numbers(t: Tensor) -> np.ndarray:
    return t.detach().double().numpy()


def weights_of(space: SearchSpace, architecture: Architecture) -> list[np.ndarray]:
    """The weights of all options but `none`, 0 for those that are not kept."""
    return [
        np.array([dict(choice).get(o, 0.0) for o in d.options if o != "none"])
        for d, choice in zip(space.decisions, architecture.choices, strict=True)
    ]


# -- the supernet's function -------------------------------------------------------------------------------------


class Masked(nn.Module):
    """The supernet with the gates of masks."""

    def __init__(self, supernet: nn.Module, gates: Gates) -> None:
        super().__init__()
        self.supernet, self.gates = supernet, gates

    def forward(self, x: Tensor) -> Tensor:
        return self.supernet(x, self.gates)


def supernet_of(space: SearchSpace, x: Tensor) -> nn.Module:
    """A supernet whose batch norms have seen images, each with its own scale where it has one."""
    with seeded(1, "supernet"):
        supernet = space.supernet()
        for p in supernet.parameters():
            if p.ndim == 1:
                p.data.uniform_(0.5, 1.5)
    encoding = Encoding(space)
    alphas, betas = random_logits(space, np.random.default_rng(0))
    gates = encoding.gates(tensors(alphas, torch.float32), tensors(betas, torch.float32))
    with torch.no_grad():
        for _ in range(3):
            supernet.train()(x, gates)
    return supernet


@pytest.mark.parametrize("name", [*SPACES, "second classifier"])
def test_the_network_with_inherited_weights_computes_what_the_masked_supernet_does(name: str) -> None:
    space = second_classifier() if name == "second classifier" else SPACES[name]()
    proxy, x = space.proxy(), torch.randn(16, *SIZE, generator=torch.Generator().manual_seed(0))
    supernet, several = supernet_of(proxy, x), 0
    for seed in range(4):
        _, operations = masks(proxy, np.random.default_rng(seed), (0.3, 0.6)[seed % 2])
        architecture = operations.encoding.architecture(operations.shares(), space.skeleton)
        if name == "graphs":
            without = replace(architecture, choices=space.skeleton.without_dead(architecture.choices))
            several += without != architecture
            architecture = without
        read = Architecture.from_json(json.loads(json.dumps(architecture.to_json())), space)
        assert read == architecture
        several += sum(len(choice) > 1 for choice in read.choices)

        gates = operations.draw(np.random.default_rng(0), 1.0)
        network, whole = supernet.subnet(replace(read, skeleton=proxy.skeleton)), copy.deepcopy(supernet)
        with torch.no_grad():  # in double precision, so that the order of sums makes no difference
            expected = whole.double().eval()(x.double(), gates)
            torch.testing.assert_close(network.double().eval()(x.double()), expected, rtol=1e-9, atol=1e-9)

        batches = SimpleNamespace(calibrate=lambda network: calibrate(network, [x[:8], x[8:]]))
        start = start_of(supernet, replace(read, skeleton=proxy.skeleton), space, batches, 0, 0.1)
        final = read.build()  # as it is trained for good: with scales and shifts of its own
        final.load_state_dict(dict(start.weights))
        masked = Masked(copy.deepcopy(supernet), gates)
        calibrate(masked, [x[:8], x[8:]])
        with torch.no_grad():
            torch.testing.assert_close(final.eval()(x), masked.eval()(x), rtol=1e-4, atol=1e-4)
    assert several > 6


def test_cells_are_searched_as_darts_does_and_found_with_scales(few: ImageData) -> None:
    final = hiernas.spaces.darts((3, 32, 32), 10, channels=4, cells=5, auxiliary=True, pool_bn=True)
    own = {key: tuple(p.shape) for key, p in final.proxy().supernet().state_dict().items()}
    darts = hiernas.spaces.darts((3, 32, 32), 10, channels=4, cells=5, search=True).supernet()
    assert own == {key: tuple(p.shape) for key, p in darts.state_dict().items()}
    stages = hiernas.spaces.hdas_stages((3, 32, 32), 10, channels=4, cells=14, auxiliary=True)
    assert stages.proxy().skeleton == replace(stages.skeleton, auxiliary=False)
    assert chain().proxy() == chain()


# -- the final choice --------------------------------------------------------------------------------------------


@pytest.fixture(params=["listed", "solved"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "solved":
        monkeypatch.setattr(limits_module, "ENUMERABLE", 0)
    return request.param


def chosen(operations: MaskArchitect, edges: MaskArchitect, asked: Problem) -> tuple[Architecture, dict[str, float], list[str]]:
    return within_limits(operations, edges, asked, asked.budget)


def distances(
    space: SearchSpace, edges: MaskArchitect, operations: MaskArchitect
) -> tuple[dict[tuple[str, str], float], set[str]]:
    """Of each pair how far its mask is from the threshold (of a dropped edge: the edge's mask); the dropped edges."""
    kept = np.concatenate(kept_edges(space, [numbers(v) for v in edges.values()]))
    order = [i for sites in nodes_of(space) for i in sites]
    of_edge = {i: float(v) for i, v, there in zip(order, numbers(edges.mask), kept, strict=True) if not there}
    found = {}
    for i, (d, row) in enumerate(zip(space.decisions, operations.values(), strict=True)):
        for option, value in zip([o for o in d.options if o != "none"], numbers(row), strict=True):
            found[d.name, option] = of_edge.get(i, float(value)) - THRESHOLD
    return found, {space.decisions[i].name for i in of_edge}


@pytest.mark.parametrize("space", [two_nodes(), with_fixed_edges()], ids=["cells", "fixed edges"])
def test_the_choice_within_limits_is_the_best_of_all_sets_of_pairs(space: SearchSpace, way: str) -> None:
    every = list(listed(space))
    table = cost_tables(space, None)
    costs = {
        m: np.array([t.constant + sum(
            t.sites[i][d.options.index(o)] for i, d in enumerate(space.decisions) for o in d.options if (d.name, o) in kept
        ) for kept in every])
        for m, t in table.items()
    }  # fmt: skip
    seen = {"moved": 0, "as they are": 0, "came back": 0, "refused": 0}
    for seed in range(24):
        rng = np.random.default_rng(seed)
        edges, operations = masks(space, rng, 0.5)
        assert edges is not None
        gains, dropped = distances(space, edges, operations)
        low, high = np.sort(rng.uniform(0, 1, 2)) if seed % 3 else (0.0, 1.0)
        if seed % 3 == 2:
            low, high = 0.97, 1.0  # what the masks keep is seldom that large
        bounds = Limit("params", *np.quantile(costs["params"], (low, high))), Limit("macs", high=float(np.quantile(
            costs["macs"], rng.uniform(0.6, 1.0))))  # fmt: skip
        inside = np.logical_and.reduce([(m.low <= costs[m.metric]) & (costs[m.metric] <= m.high) for m in bounds])
        asked = make_problem(space, None, bounds, None, None, 0)  # type: ignore[arg-type] # neither data nor a run are needed
        if not inside.any():
            seen["refused"] += 1
            with pytest.raises(LimitError, match=r"^found no architecture of 'darts' that meets .*params.* and macs <= .*"):
                chosen(operations, edges, asked)
            continue
        without = np.array([not any(site in dropped for site, _ in kept) for kept in every])
        totals = np.array([sum(gains[pair] for pair in kept) for kept in every])
        allowed = inside & without if (inside & without).any() else inside
        best = every[int(np.where(allowed, totals, -np.inf).argmax())]

        architecture, shown, moved = chosen(operations, edges, asked)
        weights = weights_of(space, architecture)
        pairs = [(d.name, o) for d in space.decisions for o in d.options if o != "none"]
        kept = {pair for pair, w in zip(pairs, np.concatenate(weights), strict=True) if w > 0}
        assert sum(gains[pair] for pair in kept) == pytest.approx(sum(gains[pair] for pair in best), abs=1e-9)
        assert kept == best
        binary = [np.array([float((d.name, o) in kept) for o in d.options if o != "none"]) for d in space.decisions]
        alphas, betas = ([numbers(t) for t in part] for part in (operations.alphas, operations.betas))
        for mine, theirs in zip(weights, plain_shares(space, alphas, betas, None, binary), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5)
        assert shown == {f"{site} {o}": pytest.approx(gain, abs=1e-6) for (site, o), gain in gains.items()}

        of_edges, of_masks = plain_masks(space, numbers(edges.mask), numbers(operations.mask))
        there = present(space, of_edges)
        own = np.concatenate([m * t for m, t in zip(of_masks, there, strict=True)])
        by_masks = frozenset(pair for pair, m in zip(pairs, own, strict=True) if m)
        assert moved == sorted(f"{site} {o}" for site, o in kept ^ by_masks)
        if inside[every.index(by_masks)]:
            assert moved == []
        seen["as they are" if not moved else "moved"] += 1
        back = any(site in dropped for site, _ in kept)
        assert back == (not (inside & without).any())
        seen["came back"] += back
    assert min(seen.values()) >= 1, seen


@pytest.fixture
def dead_ends(tmp_path: Path, few: ImageData) -> tuple[MaskArchitect, MaskArchitect, Problem]:
    """Masks that keep two cells of the first stage from which no path leads on, and a problem without limits."""
    space = graphs()
    edges, operations = masks(space, np.random.default_rng(0))
    assert edges is not None
    names = [d.name for d in space.decisions]
    kept = {"stage1.0->2", "stage1.1->3", "stage1.1->4", "stage1.4->5"}
    above = [names[i] in kept or not names[i].startswith("stage1") for sites in nodes_of(space) for i in sites]
    edges.mask.data = torch.where(torch.tensor(above), 0.01, 0.0)
    operations.edges = edges.kept_edges()
    operations.mask.data = torch.full_like(operations.mask, 0.01)
    table = LatencyTable.load(latency_file(tmp_path, "hmnas", space))
    return edges, operations, make_problem(space, few, (), table, RunFolder.create(tmp_path / "r", RUN), 0)


def test_edges_into_dead_cells_go_and_do_not_help_to_meet_a_lower_limit(dead_ends: Any) -> None:
    edges, operations, asked = dead_ends
    found, _, moved = chosen(operations, edges, asked)
    assert moved == []
    first = {site for site, label in zip(found.skeleton.site_names, found.labels, strict=True) if label != "none"}
    assert {site for site in first if site.startswith("stage1")} == {"stage1.1->4", "stage1.4->5"}
    candidate, cost = candidate_of(found, 0.5, asked, "evolve2"), hiernas.cost(found, asked.budget.latency)
    assert (candidate.params, candidate.macs) == (cost.params, cost.macs)
    assert candidate.latency_ms == pytest.approx(cost.latency_ms)
    higher = replace(asked, budget=asked.budget.within([Limit("params", low=candidate.params + 1)]))
    with pytest.raises(LimitError, match=r"^without its dead cells .* has params .*, and params >= .* was asked"):
        candidate_of(chosen(operations, edges, higher)[0], 0.5, higher, "evolve2")


@pytest.mark.parametrize("metric", ["latency_ms", "latency_int8_ms"])
def test_a_lower_limit_on_a_latency_is_not_met_by_edges_into_dead_cells(dead_ends: Any, metric: str) -> None:
    edges, operations, asked = dead_ends
    fp32 = asked.budget.latency
    asked = replace(asked, budget=replace(asked.budget, latency=replace(fp32, int8=fp32)))  # the same numbers for both
    network = chosen(operations, edges, asked)[0]
    latency = candidate_of(network, 0.5, asked, "evolve2").latency_ms
    higher = replace(asked, budget=asked.budget.within([Limit(metric, low=latency + 1e-6)]))
    with pytest.raises(LimitError, match=rf"^without its dead cells .* has {metric} .*, and {metric} >= .* was asked; search "):
        candidate_of(network, 0.5, higher, "evolve2")
    with suppress(LimitError):  # either what is kept for it is refused, or it meets it
        assert candidate_of(chosen(operations, edges, higher)[0], 0.5, higher, "evolve2").latency_ms > latency


@pytest.mark.parametrize("name", SPACES)
def test_the_control_takes_as_long_as_its_own_space_says(name: str, tmp_path: Path, few: ImageData) -> None:
    space = SPACES[name]()
    table = LatencyTable.load(latency_file(tmp_path, "hmnas", space))
    asked = make_problem(space, few, (), table, RunFolder.create(tmp_path / "r", RUN), 0)
    network = space.decode(space.sample_encoded(np.random.default_rng(0), 1)[0])  # two edges, one operation
    expected = hiernas.cost(network, table)
    found = candidate_of(network, 0.5, asked, "evolve2")
    assert (found.params, found.macs) == (expected.params, expected.macs)
    assert found.latency_ms == pytest.approx(expected.latency_ms)


# -- whole searches ----------------------------------------------------------------------------------------------


def saved(folder: Path, phase: str) -> dict[str, np.ndarray]:
    found = load_file(folder / "checkpoint" / f"{phase}.safetensors")
    return {k.removeprefix("architecture."): numbers(v) for k, v in found.items() if k.startswith("architecture.")}


@pytest.mark.parametrize("name", SPACES)
def test_what_is_found_is_what_the_learned_masks_keep(name: str, tmp_path: Path, few: ImageData) -> None:
    space = SPACES[name]()
    found = hmnas(problem(tmp_path / "r", space, few), CONFIG)
    logits = saved(tmp_path / "r", "train1")
    alphas = [logits[f"alpha{i}"] for i in range(len(space.decisions))]
    betas = [logits[f"beta{k}"] for k in range(len(nodes_of(space)))]
    of_edges = saved(tmp_path / "r", "mask1")["mask"] if betas else None
    edges, operations = plain_masks(space, of_edges, saved(tmp_path / "r", "mask2")["mask"])
    expected = plain_shares(space, alphas, betas, edges, operations)
    assert found.weighted is not None
    weights = weights_of(space, found.weighted)
    for i, (mine, theirs) in enumerate(zip(weights, expected, strict=True)):
        if name == "graphs" and not mine.any():  # an edge into a dead cell, too
            continue
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-7, err_msg=space.decisions[i].name)
    supernet = load_file(tmp_path / "r" / "checkpoint" / "mask2.safetensors")
    parameters = {f"model.{key}" for key in space.proxy().supernet().state_dict()}
    assert {key for key in supernet if key.startswith("model.")} == parameters
    kept = sum(int((w > 0).sum()) for w in weights)
    assert kept < sum(len(o) for o in options_of(space))  # something was dropped
    assert found.details["moved"] == []
    assert (found.architecture, found.chosen) == (found.weighted, found.rivals[0].candidate)
    assert found.rivals[0].architecture == found.weighted
    cost = hiernas.cost(found.weighted)
    assert (found.chosen.params, found.chosen.macs) == (cost.params, cost.macs)

    by_rule = found.rivals[1].architecture
    strengths = plain_shares(space, alphas, betas)
    for node in nodes_of(space):
        best = sorted(node, key=lambda i: -strengths[i].max())[:2]
        assert [i for i in node if by_rule.options[i] != "none"] == sorted(best)
    for i, (d, option) in enumerate(zip(space.decisions, by_rule.options, strict=True)):
        real = [o for o in d.options if o != "none"]
        assert option in ("none", real[int(strengths[i].argmax())])
        shown = found.details["importance"][d.name]
        assert [shown[o] for o in real] == pytest.approx(strengths[i].tolist(), abs=6e-5)
    records = found.details["masks"]
    assert list(records) == (["edges", "operations"] if betas else ["operations"])
    assert records["operations"]["steps"][-1] == len(saved(tmp_path / "r", "mask2")["history"]) == 4

    for rival in found.rivals:  # accuracies are those of the networks that training starts from
        network = rival.architecture.build()
        network.load_state_dict(dict(rival.start.weights))
        assert accuracy(network, few.val, few) == pytest.approx(rival.candidate.val_accuracy)
    assert load_file(tmp_path / "r" / "checkpoint" / "found.safetensors").keys() == found.rivals[0].start.weights.keys()


def test_limits_beyond_any_network_of_two_edges_leave_the_control_out(tmp_path: Path, few: ImageData) -> None:
    space = cells()
    two = cost_tables(space, None)["params"]
    config = replace(CONFIG, inherit=False)
    found = hmnas(problem(tmp_path / "r", space, few, [Limit("params", low=two.largest + 1)]), config)
    assert hiernas.cost(found.architecture).params == found.chosen.params > two.largest
    assert [rival.name for rival in found.rivals] == ["masked"]
    assert found.start is None
    low = parse_limits([f"params<={two.smallest * 1.02:.0f}"])
    alone = replace(CONFIG, compare=False, mask=replace(CONFIG.mask, cost_weight=0.0))
    tight = hmnas(problem(tmp_path / "s", space, few, low), alone)
    assert hiernas.cost(tight.architecture).params == tight.chosen.params <= low[0].high
    assert tight.details["moved"] != []
    assert tight.rivals == ()
    assert tight.start is not None


# -- interrupted -------------------------------------------------------------------------------------------------


class Stop:
    """Interrupts at the nth event of a kind in a phase."""

    def __init__(self, kind: str, phase: str, nth: int = 1) -> None:
        self.kind, self.phase, self.left = kind, phase, nth

    def __call__(self, record: Mapping[str, Any]) -> None:
        if (record["event"], record.get("phase")) == (self.kind, self.phase):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


STOPS = {
    "cells": [
        ("step", "train1", 2), ("step", "mask1", 1), ("epoch", "mask1", 1), ("step", "mask2", 2), ("epoch", "mask2", 2),
        ("step", "compare1", 2), ("epoch", "compare2", 1),
    ],
    "chain": [("epoch", "train1", 1), ("step", "mask2", 4), ("step", "compare2", 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", STOPS)
def test_stopped_in_every_phase_it_ends_as_if_it_had_not_been(
    name: str, tmp_path: Path, few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SPACES[name]()
    tables = cost_tables(space, None)
    limit = f"macs<={tables['macs'].of(space.sample_encoded(np.random.default_rng(0), 200)).mean():.0f}"
    request = Request("hmnas", space, {}, few, [limit], latency_file(tmp_path, "hmnas", space), config=CONFIG)
    first, *others = STOPS[name]
    with bare():
        search(request, tmp_path / "whole")
        monkeypatch.setattr(RunFolder, "checkpoint_seconds", -1.0)  # saved after every step
        with pytest.raises(KeyboardInterrupt):
            search(request, tmp_path / "parts", Stop(*first))
        for stop in others:
            with pytest.raises(KeyboardInterrupt):
                resume(tmp_path / "parts", Stop(*stop), space=space, data=few)
        resume(tmp_path / "parts", space=space, data=few)

    best, results = ([json.loads((tmp_path / f / file).read_text()) for f in ("whole", "parts")]
                     for file in ("best.json", "result.json"))  # fmt: skip
    assert best[0] == best[1]
    for part in ("chosen", "front", "compared", "details"):
        assert results[0][part] == results[1][part]
    phases = [{e["phase"] for e in RunFolder.open(tmp_path / f).events() if e["event"] == "epoch"} for f in ("whole", "parts")]
    assert phases[0] == phases[1]
    for phase in phases[0] | {"found"}:
        one, two = (load_file(tmp_path / f / "checkpoint" / f"{phase}.safetensors") for f in ("whole", "parts"))
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[key]) for key, value in one.items()), phase
    masked, rule = results[0]["compared"]
    assert masked["fine_tuned"] == results[0]["chosen"]["test_accuracy"]
    for row, way, phase in ((masked, "from_scratch", "compare1"), (rule, "fine_tuned", "compare2"),
                            (rule, "from_scratch", "compare3")):  # fmt: skip
        network = space.architecture(row["sites"]).build()
        weights = load_file(tmp_path / "parts" / "checkpoint" / f"{phase}.safetensors")
        network.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
        assert accuracy(network, few.test, few) == row[way]
        events = [e for e in RunFolder.open(tmp_path / "parts").events() if e["event"] == "epoch"]
        rate = CONFIG.inherited_lr if way == "fine_tuned" else CONFIG.final_lr
        assert {e["lr"] for e in events if e["phase"] == phase} == {rate}
    fresh = problem(tmp_path / "fresh", space, few).run
    phase = Phase("compare1", CONFIG.final_epochs, CONFIG.final_lr)
    network = train_network(space.architecture(masked["sites"]), few, phase, CONFIG.train, fresh)
    assert accuracy(network, few.test, few) == masked["from_scratch"]
    weights = load_file(tmp_path / "parts" / "checkpoint" / "compare1.safetensors")
    assert all(torch.equal(value, weights[f"model.{key}"]) for key, value in network.state_dict().items())


# -- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("inherited_lr=0.0", "^inherited_lr: input should be greater than 0 "),
        ("mask.operations_epochs=0", "^mask.operations_epochs: input should be greater than 0 "),
        ("search.lr=-1", "^search.lr: input should be greater than 0 "),
        ("search.alpha.lr=0", "^search.alpha.lr: input should be greater than 0 "),
        ("final_epochs=0", "^final_epochs: input should be greater than 0 "),
    ],
)
def test_settings_that_make_no_sense_are_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_settings(HMNASConfig(), [setting])
    with pytest.raises(ConfigError, match=r"^settings of HMNASConfig: inherited_lr: .* greater than 0 \(got 0\.0\)$"):
        HMNASConfig(inherited_lr=0.0)


def test_the_plan_counts_a_step_of_masks_as_two_thirds_of_one_of_the_weights(few: ImageData) -> None:
    config = METHODS["hmnas"].presets["paper"]
    half, whole = len(few.train) / 2, len(few.train) + len(few.val)
    found, final = METHODS["hmnas"].plan(config, few), 600 * whole * 3 + min(2000, whole)  # with batch-norm statistics
    assert found == {
        "train1": pytest.approx(50 * half * (3 + 2), rel=0.02), "mask1": pytest.approx(5 * half * 2, rel=0.02),
        "mask2": pytest.approx(5 * half * 2, rel=0.02), "compare1": final, "compare2": final,
        "compare3": final,
    }  # fmt: skip
    assert METHODS["hmnas"].plan(replace(config, compare=False), few).keys() == {"train1", "mask1", "mask2"}

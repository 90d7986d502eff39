"""Logits of a differentiable search: derivation and penalty against listing, steps against autograd and Adam by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiernas.budget import CostTable, Limit
from hiernas.costs import limits as limits_module
from hiernas.costs.limits import best_within
from hiernas.costs.tables import cost_tables
from hiernas.data.split import Split, Subset
from hiernas.errors import LimitError
from hiernas.gates import softmax
from hiernas.methods.hdas import StageSoftmax, sum_of_losses
from hiernas.run.folder import RunFolder
from hiernas.search.alphas import AlphaArchitect, AlphaSettings, Softmax, by_strength, cost_penalty, strengths
from hiernas.space import SearchSpace
from hiernas.spaces import darts, hdas_stages
from networks.plain_cells import plain_cells
from toy import RUN, budget

REAL = ("skip_connect", "sep_conv_3x3", "max_pool_3x3")
NO_IMAGES = Split(Subset(torch.zeros(0), torch.zeros(0, dtype=torch.int64)), torch.zeros(0, dtype=torch.int64))


def small() -> SearchSpace:
    """One kind of cell with three nodes: 9 edges of 3 operations and `none`, 13122 architectures."""
    skeleton = darts((1, 8, 8), 4, channels=2, cells=3).skeleton
    space = replace(skeleton, kinds=("normal",) * 3, nodes=3).space()
    return space.restrict({d.name: ("none", *REAL) for d in space.decisions})


def normal(space: SearchSpace, seed: int, scale: float = 1.0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.tensor(scale * rng.normal(size=len(d.options))).requires_grad_() for d in space.decisions]


def softmaxes(alphas: Sequence[Tensor]) -> list[np.ndarray]:
    exponentials = [np.exp(a.detach().numpy()) for a in alphas]
    return [e / e.sum() for e in exponentials]


def total_strengths(space: SearchSpace, alphas: Sequence[Tensor], genes: np.ndarray) -> np.ndarray:
    """Of architectures [N, sites] the sum of softmax weights of all that is not `none`: [N]."""
    total = np.zeros(len(genes))
    for d, p, column in zip(space.decisions, softmaxes(alphas), genes.T, strict=True):
        total += np.array([0.0 if o == "none" else x for o, x in zip(d.options, p, strict=True)])[column]
    return total


def encoded(space: SearchSpace, chosen: dict[str, str]) -> list[int]:
    return space.encode(space.architecture(chosen)).tolist()


# -- derivation --------------------------------------------------------------------------------------------------


def top_two(weights: np.ndarray, options: Sequence[str], nodes: int) -> list[tuple[str, int]]:
    """DARTS' rule: softmax weights [edges, options] of one cell -> two (operation, source) per node."""
    real, gene, start = [i for i, o in enumerate(options) if o != "none"], [], 0
    for node in range(2, 2 + nodes):
        rows = weights[start : start + node]
        for source in sorted(range(node), key=lambda s: -rows[s][real].max())[:2]:
            gene.append((options[real[int(rows[source][real].argmax())]], source))
        start += node
    return gene


@pytest.mark.parametrize("seed", range(6))
def test_derivation_is_darts_rule(seed: int) -> None:
    space = darts((3, 8, 8), 10, channels=4, cells=3)
    alphas = normal(space, seed, scale=0.0 if seed == 0 else 2.0)  # all equal: the first two edges, the first operation
    rows = np.array(softmaxes(alphas))
    genotype = space.skeleton.genotype(space.architecture(by_strength(space, strengths(space, alphas))))
    for kind, weights in (("normal", rows[:14]), ("reduce", rows[14:])):
        pairs = top_two(weights, space.decisions[0].options, 4)
        nodes = [sorted(pairs[i : i + 2], key=lambda pair: pair[1]) for i in range(0, 8, 2)]
        assert [list(node) for node in genotype.graph(kind)] == nodes
    assert seed > 0 or genotype.graph("normal")[3] == (("max_pool_3x3", 0), ("max_pool_3x3", 1))


def test_derivation_has_the_greatest_sum_of_strengths() -> None:
    space = small()
    genes = space.all_encoded()
    for seed in range(5):
        alphas = normal(space, seed, scale=3.0)
        totals = total_strengths(space, alphas, genes)
        best = genes[int(totals.argmax())].tolist()
        assert encoded(space, by_strength(space, strengths(space, alphas))) == best
        assert best_within(space, {}, [], strengths(space, alphas)).tolist() == best
        assert (totals == totals.max()).sum() == 1


def test_restricted_edges_stay_or_go_as_they_must() -> None:
    space = small().restrict({"normal.0->3": REAL, "normal.1->4": ("none",), "normal.2->4": ("skip_connect",)})
    genes = space.all_encoded()
    names = [d.name for d in space.decisions]
    for seed in range(5):
        alphas = normal(space, seed, scale=2.0)
        with torch.no_grad():  # weak, but it cannot be left out
            alphas[names.index("normal.0->3")].copy_(torch.tensor([0.0, 0.1, 0.2]))
        best = genes[int(total_strengths(space, alphas, genes).argmax())].tolist()
        assert encoded(space, by_strength(space, strengths(space, alphas))) == best
        assert best_within(space, {}, [], strengths(space, alphas)).tolist() == best


@pytest.mark.parametrize("way", ["listed", "solved"])
def test_derivation_within_limits_is_the_best_of_those_that_meet_them(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "solved":
        monkeypatch.setattr(limits_module, "ENUMERABLE", 0)
    space = small()
    genes, tables, rng = space.all_encoded(), cost_tables(space, None), np.random.default_rng(3)
    costs = {m: tables[m].of(genes) for m in ("params", "macs")}
    moved = 0
    for seed in range(6):
        alphas = normal(space, seed, scale=2.0)
        low, high = np.quantile(costs["params"], np.sort(rng.uniform(0, 0.6, 2)))
        limits = [Limit("params", low, high), Limit("macs", high=float(np.quantile(costs["macs"], 0.5)))]
        inside = (low <= costs["params"]) & (costs["params"] <= high) & (costs["macs"] <= limits[1].high)
        totals = np.where(inside, total_strengths(space, alphas, genes), -np.inf)
        found = best_within(space, tables, limits, strengths(space, alphas))
        row = int((genes == found).all(1).argmax())
        assert inside[row]
        assert totals[row] == pytest.approx(totals.max(), rel=1e-12)
        moved += found.tolist() != encoded(space, by_strength(space, strengths(space, alphas)))
    assert moved >= 3  # the limits bind
    with pytest.raises(LimitError, match="found no architecture of 'darts' that meets params <= 10; widen them"):
        best_within(space, tables, [Limit("params", high=10)], strengths(space, alphas))


# -- penalty of costs --------------------------------------------------------------------------------------------


def excess(space: SearchSpace, table: CostTable, high: float, alphas: Sequence[Tensor], weight: float = 1.0) -> Tensor:
    return cost_penalty(space, budget([Limit(table.metric, high=high)], {table.metric: table}), weight)(alphas)


def test_certain_logits_cost_what_their_architecture_costs() -> None:
    space = small()
    table = cost_tables(space, None)["macs"]
    for genes in space.sample_encoded(np.random.default_rng(0), 5):
        cost = float(table.of(genes[None])[0])
        alphas = [torch.full((len(d.options),), -90.0, dtype=torch.float64) for d in space.decisions]
        for d, a, g in zip(space.decisions, alphas, genes, strict=True):
            a[int(g)] = 0.0 if d.options[g] == "none" else 90.0
        assert excess(space, table, cost / 3, alphas, weight=0.5).item() == pytest.approx(0.5 * 2.0, rel=1e-6)
        assert excess(space, table, cost * (1 + 1e-5), alphas).item() == 0.0


def test_equal_logits_cost_the_mean_of_all_architectures() -> None:
    stages = hdas_stages((1, 8, 8), 4, channels=2, cells=(2, 2, 2))
    stages = stages.restrict({d.name: ("none", "max_pool_3x3", "skip_connect") for d in stages.decisions})
    for space in (small(), stages):
        genes = space.all_encoded()
        assert len(genes) == space.size() >= 13122
        for table in cost_tables(space, None).values():
            alphas = [torch.full((len(d.options),), 0.7, dtype=torch.float64) for d in space.decisions]
            assert 1.0 + excess(space, table, 1.0, alphas).item() == pytest.approx(table.of(genes).mean(), rel=1e-6)


def test_the_penalty_is_nothing_within_the_limits_and_slopes_outside() -> None:
    space = small().restrict({"normal.1->4": ("none",)})  # an edge without an operation has no share
    tables = cost_tables(space, None)
    alphas = normal(space, 1)
    limits = [Limit(m, high=0.3 * tables[m].largest) for m in ("params", "macs")]
    penalty = cost_penalty(space, budget(limits, tables), 0.7)
    assert torch.autograd.gradcheck(lambda *a: penalty(a), tuple(alphas), atol=1e-8)
    both = [excess(space, tables[x.metric], x.high, alphas).item() for x in limits]
    assert min(both) > 0.05
    assert penalty(alphas).item() == pytest.approx(0.7 * sum(both), rel=1e-6)
    wide = [Limit("params", 5.0, tables["params"].largest), Limit("macs", low=tables["macs"].largest)]  # no upper bound
    none = cost_penalty(space, budget(wide, tables), 100.0)(alphas)
    assert none.item() == 0.0
    assert all(g is None or not g.any() for g in torch.autograd.grad(none, alphas, allow_unused=True))


def test_descending_the_penalty_leads_inside_the_limits() -> None:
    space = small()
    table = cost_tables(space, None)["params"]
    high = float(np.quantile(table.of(space.all_encoded()), 0.1))
    alphas = normal(space, 4)
    optimizer = torch.optim.Adam(alphas, lr=0.1)
    before = float(table.of(np.array([encoded(space, by_strength(space, strengths(space, alphas)))]))[0])
    for _ in range(100):
        optimizer.zero_grad()
        excess(space, table, high, alphas).backward()
        optimizer.step()
    assert before > high >= float(table.of(np.array([encoded(space, by_strength(space, strengths(space, alphas)))]))[0])


# -- steps -------------------------------------------------------------------------------------------------------


def architect(space: SearchSpace, seed: int = 0, **more: object) -> AlphaArchitect:
    settings = AlphaSettings(**{"lr": 0.02, **more})
    return AlphaArchitect(Softmax(space), NO_IMAGES, settings, torch.Generator().manual_seed(seed))


def batch(space: SearchSpace, n: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *space.skeleton.input_size, generator=generator)
    return x, torch.randint(space.skeleton.num_classes, (n,), generator=generator)


def learn(a: AlphaArchitect, model: nn.Module, seed: int = 0) -> float:
    x, y = batch(a.space, seed=seed)
    return float(a.learn(model, x.to(next(model.parameters()).dtype), y, Tensor.backward, np.random.default_rng(0), 0.0))


def test_a_step_is_adam_on_the_gradient_of_the_current_weights() -> None:
    space = darts((1, 8, 8), 4, channels=2, cells=3, search=True)
    supernet = space.supernet().double().train()
    a = architect(space, weight_decay=0.1)
    for alpha in a.alphas:
        alpha.data = alpha.data.double() * 300  # far from equal
    a.extra = lambda alphas: 0.2 * alphas[3].square().sum()
    plain = copy.deepcopy(supernet)  # what the step must not depend on: every option by itself, all gradients
    before = [alpha.detach().clone().requires_grad_() for alpha in a.alphas]
    x, y = batch(space)
    loss = F.cross_entropy(plain_cells(plain, x.double(), [b.softmax(0) for b in before]), y) + 0.2 * before[3].square().sum()
    gradients = torch.autograd.grad(loss, before)
    assert learn(a, supernet) == pytest.approx(loss.item(), rel=1e-10)
    for alpha, b, g in zip(a.alphas, before, gradients, strict=True):
        decayed = g + 0.1 * b
        torch.testing.assert_close(a.optimizer.state[alpha]["exp_avg"], 0.5 * decayed, rtol=1e-7, atol=1e-10)
        torch.testing.assert_close(alpha, b - 0.02 * decayed / (decayed.abs() + 1e-8), rtol=1e-6, atol=1e-7)
    assert max(float(g.abs().max()) for g in gradients) > 1e-3


def test_a_released_loss_takes_a_step_of_its_own() -> None:
    """The task's step, then a second one of the same Adam on the further loss alone, at the logits that the first left."""
    space = small()
    model, released, x, y = Linear(space), lambda alphas: 0.2 * alphas[3].square().sum(), *batch(space)
    a = AlphaArchitect(Softmax(space), NO_IMAGES, AlphaSettings(lr=0.02), torch.Generator().manual_seed(0), apart=released)
    plain = [alpha.detach().clone().requires_grad_() for alpha in a.alphas]
    adam = torch.optim.Adam(plain, lr=0.02, betas=(0.5, 0.999), weight_decay=1e-3)
    for _ in range(3):
        task = F.cross_entropy(model(x, softmax(plain)), y)
        for alpha, g in zip(plain, torch.autograd.grad(task, plain), strict=True):
            alpha.grad = g
        adam.step()
        adam.zero_grad()
        further = released(plain)
        further.backward()
        adam.step()
        assert learn(a, model) == pytest.approx(task.item() + further.item(), rel=1e-6)
    for alpha, b in zip(a.alphas, plain, strict=True):
        torch.testing.assert_close(alpha, b)
    a.apart = sum_of_losses((0.0, released))  # no step
    steps = a.optimizer.state[a.alphas[3]]["step"].item()
    learn(a, model)
    assert a.optimizer.state[a.alphas[3]]["step"].item() == steps + 1


def test_a_released_search_compares_edges_by_their_logits_as_they_are() -> None:
    """As the authors' code: an edge all of whose logits are high is a strong one; by softmax weights that does not show."""
    space = hdas_stages((1, 8, 8), 4, channels=2, cells=(3, 2, 2))
    generator = torch.Generator().manual_seed(0)
    one = AlphaArchitect(StageSoftmax(space, raw=True), NO_IMAGES, AlphaSettings(), generator)
    two = AlphaArchitect(StageSoftmax(space, raw=False), NO_IMAGES, AlphaSettings(), generator)
    for a in (one, two):
        for alpha, d in zip(a.alphas, space.decisions, strict=True):
            high, best = d.name.endswith(("0->3", "1->3")), torch.tensor([0.0, 0.5, 1.0, 0.0])
            alpha.data = best / 10 + 5 if high else best
    kept = {name for name, option in one.summary()["derived"].items() if option != "none" and name.endswith("->3")}
    assert kept == {f"stage{k}.{s}->3" for k in (1, 2, 3) for s in (0, 1)}
    others = {name for name, option in two.summary()["derived"].items() if option != "none" and name.endswith("->3")}
    assert {f"stage{k}.2->3" for k in (1, 2, 3)} <= others


def test_a_step_of_the_logits_leaves_the_weights_alone() -> None:
    space = darts((1, 8, 8), 4, channels=2, cells=3, search=True)
    supernet = space.supernet()
    frozen = supernet.classifier.get_parameter(next(name for name, _ in supernet.classifier.named_parameters()))
    frozen.requires_grad_(False)
    before = {name: p.clone() for name, p in supernet.named_parameters()}
    a = architect(space)
    logits = [alpha.detach().clone() for alpha in a.alphas]
    learn(a, supernet)
    assert not any(torch.equal(alpha, b) for alpha, b in zip(a.alphas, logits, strict=True))
    gates = a.draw(np.random.default_rng(0), 0.5)
    assert not any(w.requires_grad for w in gates.weights)
    torch.testing.assert_close(gates.weights[5], a.alphas[5].detach().softmax(0))

    def fails(loss: Tensor) -> None:
        raise RuntimeError("stopped")

    x, y = batch(space)
    with pytest.raises(RuntimeError, match="stopped"):
        a.learn(supernet, x, y, fails, np.random.default_rng(0), 0.0)
    for name, p in supernet.named_parameters():
        assert p.grad is None, name
        assert torch.equal(p, before[name]), name
        assert p.requires_grad is (p is not frozen), name


class Linear(nn.Module):
    """Class logits that are linear in the gates."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        made = [torch.randn(len(d.options), space.skeleton.num_classes, generator=generator) for d in space.decisions]
        self.v = nn.ParameterList(made)

    def forward(self, x: Tensor, gates: object) -> Tensor:
        return sum((w @ v for w, v in zip(gates.weights, self.v, strict=True)), x.flatten(1)[:, :4])


def test_what_was_saved_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    space = small()
    run = RunFolder.create(tmp_path / "r", RUN)
    model, whole, parts = Linear(space), architect(space), architect(space)
    for step in range(5):
        assert learn(whole, model, step) == learn(parts, model, step)
        run.save_tensors("train1", parts.tensors(), {})
        parts = architect(space, seed=9)  # other logits, to be replaced
        parts.restore(run.load_tensors("train1")[0])
        assert parts.summary() == whole.summary()
    mine, theirs = whole.tensors(), parts.tensors()
    assert mine.keys() == theirs.keys()
    assert {name.partition(".")[2] for name in mine} == {"", "step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    with pytest.raises(KeyError, match="alpha0"):
        parts.restore({})


def test_the_summary_of_an_epoch() -> None:
    space = small()
    a = architect(space)
    for i, (alpha, d) in enumerate(zip(a.alphas, space.decisions, strict=True)):
        strong = "skip_connect" if i < 2 else "sep_conv_3x3"
        p = [0.4 if o == "none" else 0.3 if o == strong else 0.15 for o in d.options]
        alpha.data = torch.tensor(p).log()
    found = a.summary()
    assert found["entropy"] == pytest.approx(-sum(p * math.log(p) for p in (0.4, 0.3, 0.15, 0.15)), rel=1e-5)
    assert found["none"] == pytest.approx(0.4)
    assert found["skips"] == pytest.approx(2 / 6)
    assert found["derived"] == by_strength(space, strengths(space, a.alphas))

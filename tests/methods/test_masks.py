"""Masks of HM-NAS: gradients by finite differences, steps by hand, what stays by plain rules and by a planted truth."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hiernas.budget import CostTable, Limit
from hiernas.costs.tables import cost_tables
from hiernas.data.images import InMemory
from hiernas.data.split import ImageData, Split
from hiernas.errors import ConfigError, TrainingError
from hiernas.gates import Gates, single_path
from hiernas.methods.hmnas.encoding import Encoding
from hiernas.methods.hmnas.masks import MaskArchitect, MaskSettings
from hiernas.run.folder import RunFolder
from hiernas.search.alphas import Pressure, by_strength
from hiernas.space import Decision, Group, SearchSpace
from hiernas.train.loop import fit
from hiernas.train.recipes import Phase, Recipe
from methods.test_encoding import (
    NO_IMAGES,
    SPACES,
    Curved,
    batch,
    curved_loss,
    nodes_of,
    options_of,
    plain_shares,
    random_logits,
    slopes,
    tensors,
)
from toy import RUN

THRESHOLD = 0.005
LEVELS = [(name, level) for name in SPACES for level in ("edges", "operations") if (name, level) != ("chain", "edges")]
Masks = list[np.ndarray]


# -- what is kept, in plain loops --------------------------------------------------------------------------------


def kept_edges(space: SearchSpace, values: Sequence[np.ndarray]) -> Masks:
    """Edges above the threshold and those that cannot be `none`; of a node without any, its strongest."""
    found = []
    for sites, row in zip(nodes_of(space), values, strict=True):
        kept = np.array([v > THRESHOLD or "none" not in space.decisions[i].options for i, v in zip(sites, row, strict=True)])
        found.append((kept if kept.any() else row == row.max()).astype(float))
    return found


def must_have_one(space: SearchSpace, there: Sequence[bool]) -> list[list[int]]:
    """The sets of sites that cannot all go: blocks of a chain, edges that cannot be `none`, else a node's kept edges."""
    fixed = [i for i, d in enumerate(space.decisions) if "none" not in d.options]
    nodes = [sites for sites in nodes_of(space) if not set(sites) & set(fixed)]
    return [[i] for i in fixed] + [[i for i in sites if there[i]] for sites in nodes]


def present(space: SearchSpace, edges: Sequence[np.ndarray]) -> list[bool]:
    there = [bool(real) for real in options_of(space)]
    for sites, row in zip(nodes_of(space), edges, strict=True):
        for i, value in zip(sites, row, strict=True):
            there[i] = bool(value)
    return there


def kept_operations(space: SearchSpace, values: Sequence[np.ndarray], there: Sequence[bool]) -> Masks:
    """Operations above the threshold; where none of a set is that must have one, its strongest."""
    found = [(row > THRESHOLD).astype(float) for row in values]
    for sites in must_have_one(space, there):
        if not any(found[i].any() for i in sites):
            best = max(sites, key=lambda i: values[i].max())
            found[best][values[best].argmax()] = 1.0
    return found


def architect(
    space: SearchSpace, level: str, logits: tuple[list[np.ndarray], list[np.ndarray]], pressure: Pressure | None = None,
    edges: Masks | None = None, steps: int = 10, images: Split = NO_IMAGES, **more: float,
) -> MaskArchitect:  # fmt: skip
    """In double precision."""
    given = None if edges is None else tensors(edges)
    made = MaskArchitect(
        Encoding(space), (tensors(logits[0]), tensors(logits[1])), level, images, MaskSettings(**more),
        pressure or Pressure(()), steps, given,
    )  # fmt: skip
    made.mask.data, made.velocity = made.mask.data.double(), made.velocity.double()
    return made


def random_values(a: MaskArchitect, rng: np.random.Generator, share: float) -> Masks:
    """Random masks, of which about this share is above the threshold; given to the architect."""
    flat = THRESHOLD + 0.01 * (share - rng.random(len(a.mask)))
    a.mask.data = torch.tensor(flat)
    return np.split(flat, np.cumsum(a.sizes)[:-1])


def random_edges(space: SearchSpace, rng: np.random.Generator) -> Masks:
    return kept_edges(space, [THRESHOLD + rng.normal(size=len(sites)) for sites in nodes_of(space)])


# -- gradients and steps -----------------------------------------------------------------------------------------


def excess(tables: Mapping[str, CostTable], limits: Sequence[Limit], kept: Sequence[np.ndarray]) -> float:
    """How far the costs of what is kept, per option other than `none`, lie outside the limits, relatively."""
    total = 0.0
    for limit in limits:
        table = tables[limit.metric]
        real = options_of(table.space)
        cost = table.constant + sum(float(k @ row[i]) for k, row, i in zip(kept, table.sites, real, strict=True))
        total += max(0.0, cost / limit.high - 1.0) if math.isfinite(limit.high) else 0.0
        total += max(0.0, 1.0 - cost / limit.low) if limit.low > 0 else 0.0
    return total


def cost_limits(tables: Mapping[str, CostTable]) -> list[Limit]:
    """Both are missed by whatever is kept: one from above, one from below."""
    return [Limit("params", high=0.5 * tables["params"].constant), Limit("macs", low=10.0 * tables["macs"].largest)]


def loss_of_masks(
    a: MaskArchitect, model: Curved, space: SearchSpace, limits: Sequence[Limit], logits: tuple[Masks, Masks],
    edges: Masks | None, there: Sequence[bool], flat: np.ndarray, weight: float = 0.7,
) -> float:  # fmt: skip
    """The loss as a function of masks that can be any number. What must be there, and which edges are, stays fixed."""
    masks, tables = np.split(flat, np.cumsum(a.sizes)[:-1]), cost_tables(space, None)
    x, y = batch()
    if a.level == "edges":
        shares = plain_shares(space, *logits, edges=masks)
        weights = [np.exp(alpha[real]) for alpha, real in zip(logits[0], options_of(space), strict=True)]
        amounts = [row / row.sum() for row in weights]
        for sites, row in zip(nodes_of(space), masks, strict=True):
            for i, value in zip(sites, row, strict=True):
                amounts[i] = value * amounts[i]
    else:
        shares = plain_shares(space, *logits, edges=edges, operations=masks, there=there)
        amounts = [m * float(p) for m, p in zip(masks, present(space, edges or []), strict=True)]
    return curved_loss(model, space, x, y, shares) + weight * excess(tables, limits, amounts)


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_a_mask_learns_by_the_slope_of_the_loss_in_the_binary_mask(name: str, level: str) -> None:
    space, model = SPACES[name](), Curved(SPACES[name]())
    tables = cost_tables(space, None)
    limits = cost_limits(tables)
    dropped = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        logits = random_logits(space, rng)
        edges = random_edges(space, rng) if level == "operations" and name != "chain" else None
        a = architect(space, level, logits, Pressure.of(tables, limits, Encoding(space).options), edges, cost_weight=0.7)
        values = random_values(a, rng, 0.6)
        if level == "edges":
            binary = np.concatenate(kept_edges(space, values))
            there = [True] * len(space.decisions)
        else:
            kept = kept_operations(space, values, present(space, edges or []))
            binary, there = np.concatenate(kept), [bool(k.any()) for k in kept]
        taken: list[np.ndarray] = []

        def backward(loss: Tensor, a: MaskArchitect = a, taken: list[np.ndarray] = taken) -> None:
            loss.backward()
            taken.append(a.mask.grad.numpy().copy())

        a.learn(model, *batch(), backward, np.random.default_rng(0), 0.0)
        loss = partial(loss_of_masks, a, model, space, limits, logits, edges, there)
        expected = slopes(loss, binary)
        np.testing.assert_allclose(taken[0], expected, rtol=2e-5, atol=2e-8)
        dropped += int((np.abs(expected[binary == 0]) > 1e-4).sum())
    assert dropped > 3  # what is dropped goes on learning


@pytest.mark.parametrize("level", ["edges", "operations"])
def test_steps_divide_by_one_running_mean_square_of_the_level(level: str) -> None:
    space = SPACES["cells"]()
    model, rng = Curved(space), np.random.default_rng(3)
    logits = random_logits(space, rng)
    edges = random_edges(space, rng) if level == "operations" else None
    a = architect(space, level, logits, None, edges, steps=8, travel=0.04)
    random_values(a, rng, 0.7)
    there = present(space, edges) if edges else []
    decides = np.concatenate([np.full(n, t) for n, t in zip(a.sizes, there, strict=True)]) if edges else np.full(9, True)
    assert decides.all() == (level == "edges")
    mask, velocity, square = a.mask.detach().numpy().copy(), np.zeros(len(a.mask)), 0.0
    gradients: list[np.ndarray] = []

    def backward(loss: Tensor) -> None:
        (30.0 * loss).backward()  # how the loss is scaled makes no difference
        gradients.append(a.mask.grad.numpy().copy())

    for step in range(1, 5):
        a.learn(model, *batch(seed=step), backward, np.random.default_rng(0), 0.0)
        g = gradients[-1]
        square = 0.99 * square + 0.01 * float(np.mean(g[decides] ** 2))
        velocity = 0.9 * velocity + 0.1 * g / math.sqrt(square / (1 - 0.99**step))
        mask = mask - 0.04 / 8 * velocity
        np.testing.assert_allclose(a.mask.detach().numpy(), mask, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(a.history[step - 1].numpy(), mask, rtol=1e-9, atol=1e-12)
    assert np.ptp(gradients[0]) > 1e-3
    assert not gradients[-1][~decides].any()  # operations of dropped edges have nothing to learn


def test_without_a_gradient_nothing_moves() -> None:
    space = SPACES["chain"]()
    a = architect(space, "operations", random_logits(space, np.random.default_rng(0)))
    model = Curved(space)
    for v in model.v:
        v.data.zero_()
    before = a.mask.detach().clone()
    a.learn(model, *batch(), Tensor.backward, np.random.default_rng(0), 0.0)
    assert torch.equal(a.mask, before)
    assert torch.isfinite(a.velocity).all()


def test_a_gradient_that_is_not_finite_ends_the_search_and_moves_nothing() -> None:
    space = SPACES["cells"]()
    a, model = architect(space, "edges", random_logits(space, np.random.default_rng(0))), Curved(space)
    a.learn(model, *batch(), Tensor.backward, np.random.default_rng(0), 0.0)
    before = a.mask.detach().clone()
    with pytest.raises(TrainingError, match=r"^the loss on the masks' images has no finite gradient in step 2; start a new"):
        a.learn(model, *batch(), lambda loss: (loss * math.inf).backward(), np.random.default_rng(0), 0.0)
    assert torch.equal(a.mask, before)
    assert (a.step, len(a.history)) == (1, 1)


def test_a_step_leaves_the_model_as_it_was_whatever_happens() -> None:
    space = SPACES["cells"]()
    a = architect(space, "edges", random_logits(space, np.random.default_rng(0)))
    model = Curved(space)
    model.v[3].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    a.learn(model, *batch(), Tensor.backward, np.random.default_rng(0), 0.0)

    def fails(loss: Tensor) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        a.learn(model, *batch(), fails, np.random.default_rng(0), 0.0)
    for i, v in enumerate(model.v):
        assert (v.grad, v.requires_grad) == (None, i != 3)
        assert torch.equal(v, before[f"v.{i}"])


# -- what masks keep ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_what_random_masks_keep_is_a_network_and_follows_the_plain_rules(name: str) -> None:
    space = SPACES[name]()
    nodes, fallen, held = nodes_of(space), 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        logits, share = random_logits(space, rng), (0.0, 0.15, 0.4, 0.8)[seed % 4]  # of masks above the threshold
        edges = None
        if nodes:
            first = architect(space, "edges", logits)
            edges = kept_edges(space, random_values(first, rng, share))
            for mine, theirs in zip(first.kept_edges(), edges, strict=True):
                np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-9)
            whole = plain_shares(space, *logits, edges=edges)
            for mine, theirs in zip(first.gates().weights, whole, strict=True):
                np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=1e-9)
        a = architect(space, "operations", logits, None, edges)
        there = present(space, edges or [])
        values = random_values(a, rng, share)
        operations = kept_operations(space, values, there)
        expected = plain_shares(space, *logits, edges=edges, operations=operations)
        shares = [s.detach().numpy() for s in a.shares()]
        for mine, theirs in zip(shares, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9)
        for i, row in enumerate(shares):
            assert there[i] or not row.any()  # nothing under an edge that is not there
        for sites in nodes:  # every node keeps an edge, and its edges share one whole
            assert sum(shares[i].sum() for i in sites) == pytest.approx(1.0)
            fallen += sum(bool(there[i]) and not shares[i].any() for i in sites)
        for i, d in enumerate(space.decisions):
            assert "none" in d.options or shares[i].any()
        assert all(shares[i].sum() == pytest.approx(1.0) for i in range(len(shares)) if name == "chain")
        held += sum(o.sum() > (v > THRESHOLD).sum() for o, v in zip(operations, values, strict=True))
        gates = a.gates()
        assert [bool(g) for g in gates.indices] == there  # operations of edges that are not there are not computed
        if seed < 4:
            a.encoding.architecture(a.shares()).build()  # refuses what is no network
    assert held > 5
    assert name == "chain" or fallen > 5


def test_a_mask_on_the_threshold_is_dropped_and_one_above_is_kept() -> None:
    space = SPACES["chain"]()
    a = architect(space, "operations", random_logits(space, np.random.default_rng(0)))
    above = math.nextafter(THRESHOLD, 1.0)
    a.mask.data = torch.tensor([THRESHOLD, above, 0.0, -1.0, above, above, THRESHOLD], dtype=torch.float64)
    assert (torch.cat(a.binary()) > 0).tolist() == [False, True, False, False, True, True, False]


def single(space: SearchSpace, level: str, edges: list[Tensor] | None = None) -> MaskArchitect:
    """In single precision, where 1 + m - m is not always 1."""
    alphas, betas = random_logits(space, np.random.default_rng(0))
    logits = tensors(alphas, torch.float32), tensors(betas, torch.float32)
    return MaskArchitect(Encoding(space), logits, level, NO_IMAGES, MaskSettings(), Pressure(()), 9, edges)


def test_a_binary_mask_is_exactly_0_or_1_and_is_counted_as_such() -> None:
    space = SPACES["cells"]()
    a = single(space, "operations", [torch.ones(2 + k) for k in range(3)])
    for seed in range(20):
        values = torch.rand(27, generator=torch.Generator().manual_seed(seed))
        above = values < 0.8
        a.mask.data = torch.where(above, 0.006, 0.004) + 0.001 * values
        assert torch.cat(a.binary()).tolist() == above.tolist()
        assert a.summary()["kept"] == int(above.sum())


@pytest.mark.parametrize("level", ["edges", "operations"])
def test_what_is_held_below_the_threshold_is_exactly_1(level: str) -> None:
    space = SPACES["cells"]()
    a = single(space, level, [torch.ones(2 + k) for k in range(3)] if level == "operations" else None)
    for seed in range(20):
        a.mask.data = 0.004 * torch.rand(len(a.mask), generator=torch.Generator().manual_seed(seed))
        binary = torch.cat(a.binary())
        assert binary.sort(descending=True).values.tolist() == [1.0] * 3 + [0.0] * (len(binary) - 3)  # one of each node
        assert a.summary()["kept"] == 3


def test_the_summary_and_the_record_leave_out_what_decides_nothing() -> None:
    space = SPACES["cells"]()
    rng = np.random.default_rng(1)
    logits, tables = random_logits(space, rng), cost_tables(space, None)
    edges = [np.array([1.0, 0.0]), np.array([0.0, 1.0, 1.0]), np.array([1.0, 0.0, 0.0, 0.0])]
    limits = [Limit("params", high=tables["params"].constant)]
    a = architect(space, "operations", logits, Pressure.of(tables, limits, Encoding(space).options), edges)
    kept = [d.name for d, there in zip(space.decisions, present(space, edges), strict=True) if there]
    assert kept == ["normal.0->2", "normal.1->3", "normal.2->3", "normal.0->4"]
    a.mask.data[3 * 3] = 0.0  # of normal.1->3, its first operation
    of_operations = [np.ones(3) * there for there in present(space, edges)]
    of_operations[3][0] = 0.0
    assert a.summary() == {
        "level": "operations", "kept": 11, "of": 12, "excess": round(excess(tables, limits, of_operations), 4),
    }  # fmt: skip
    a.history = [torch.full((27,), float(i)) for i in range(100)]
    record = a.record()
    assert record["names"] == [f"{site} {o}" for site in kept for o in space.decisions[0].options if o != "none"]
    assert (len(record["steps"]), record["steps"][0], record["steps"][-1]) == (40, 1, 100)
    assert record["values"] == [[step - 1.0] * 12 for step in record["steps"]]
    assert json.loads(json.dumps(record)) == record
    first = architect(space, "edges", logits)
    assert (first.record()["names"], first.record()["values"]) == ([d.name for d in space.decisions], [])


def test_costs_of_what_is_kept_are_those_of_the_network_once_operations_are_chosen() -> None:
    space = SPACES["restricted"]()
    tables, rng = cost_tables(space, None), np.random.default_rng(2)
    logits, edges = random_logits(space, rng), random_edges(space, rng)
    a = architect(space, "operations", logits, None, edges)
    random_values(a, rng, 0.5)
    network = a.encoding.architecture(a.shares()).build()
    params = sum(p.numel() for p in network.parameters())
    for limit, wanted in ((Limit("params", high=params), 0.0), (Limit("params", high=params / 3), 2.0),
                          (Limit("params", low=params * 4), 0.75), (Limit("params", params / 2, params * 2), 0.0)):  # fmt: skip
        assert Pressure.of(tables, [limit], a.encoding.options)(a.kept()).item() == pytest.approx(wanted, abs=1e-5)


def test_what_was_saved_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    space = SPACES["cells"]()
    run = RunFolder.create(tmp_path / "r", RUN)
    logits, model = random_logits(space, np.random.default_rng(0)), Curved(space)
    whole, parts = (architect(space, "edges", logits) for _ in range(2))
    for step in range(4):
        for a in (whole, parts):
            a.learn(model, *batch(seed=step), Tensor.backward, np.random.default_rng(0), 0.0)
        run.save_tensors("mask1", parts.tensors(), {})
        parts = architect(space, "edges", logits)
        parts.restore(run.load_tensors("mask1")[0])
        assert parts.summary() == whole.summary()
        assert parts.record() == whole.record()
    assert all(torch.equal(value, parts.tensors()[key]) for key, value in whole.tensors().items())
    assert len(parts.history) == 4
    with pytest.raises(KeyError, match="mask"):
        parts.restore({})


# -- a planted truth ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """Skeleton of one node with four incoming edges; each reads its own pixel, or another one."""

    name: str = "planted"
    arguments: tuple[tuple[str, Any], ...] = ()
    input_size: tuple[int, int, int] = (1, 2, 4)
    num_classes: int = 2
    site_names: tuple[str, ...] = ("edge0", "edge1", "edge2", "edge3")
    groups: tuple[Group, ...] = (Group(("edge0", "edge1", "edge2", "edge3"), 2),)

    def space(self) -> SearchSpace:
        return SearchSpace(self, tuple(Decision(name, ("none", "own", "other")) for name in self.site_names))


class Reader(nn.Module):
    """The node's state is the weighted sum of pixels; the class is its sign. Its weights are those of a trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([-8.0, 8.0]))
        self.space = Planted().space()

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        pixels, state = x.flatten(1), torch.zeros(len(x))
        for edge, (indices, weights) in enumerate(zip(gates.indices, gates.weights, strict=True)):
            for j, i in enumerate(indices):
                if i:  # not `none`; the other pixel is four further
                    state = state + (1.0 if weights is None else weights[j]) * pixels[:, edge + 4 * (i - 1)]
        return state[:, None] * self.gain


def planted_images(n: int, seed: int) -> Split:
    """Eight random pixels; the class is whether the first three are bright together. The others say nothing."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(np.round(127.5 + 30 * rng.normal(size=(n, 1, 2, 4))), 0, 255).astype(np.uint8)
    bright = pixels.reshape(n, 8)[:, :3].sum(1) > 3 * 127.5
    return Split(InMemory(torch.from_numpy(pixels)), torch.from_numpy(bright.astype(np.int64)))


def accuracy(model: Reader, images: Split, gates: Gates) -> float:
    x = (images.images.fetch(torch.arange(len(images))).float() / 255 - 0.5) / 0.12
    with torch.no_grad():
        return float((model(x, gates).argmax(1) == images.labels).float().mean())


@pytest.mark.parametrize("betas", [(0.0, 0.0, 0.0, 0.0), (0.0, 0.3, 0.1, 0.6)], ids=["equal", "the bad edge strongest"])
def test_masks_find_the_three_edges_that_matter_and_two_by_rule_do_worse(betas: tuple[float, ...], tmp_path: Path) -> None:
    model = Reader()
    train, test = planted_images(2000, 0), planted_images(4000, 1)
    data = ImageData("planted", train, test, test, ("dark", "bright"), (1, 2, 4), (0.5,), (0.12,), (), "0")
    logits = [np.array([0.0, 0.2, 0.0])] * 4, [np.array(betas)]
    recipe = Recipe(batch_size=50, augment="none", flip=False, accelerator="cpu")
    run, before = RunFolder.create(tmp_path / "r", RUN), model.gain.detach().clone()

    def masked(level: str, phase: str, edges: Masks | None = None) -> MaskArchitect:
        a = MaskArchitect(
            Encoding(model.space), (tensors(logits[0], torch.float32), tensors(logits[1], torch.float32)), level, train,
            MaskSettings(), Pressure(()), 40, None if edges is None else tensors(edges, torch.float32),
        )  # fmt: skip
        fit(model, train, data, Phase(phase, 1, 0.1), recipe, seed=0, run=run, architect=a)
        return a

    first = masked("edges", "mask1")
    edges = [e.numpy() for e in first.kept_edges()]
    assert (edges[0] > 0).tolist() == [True, True, True, False]
    second = masked("operations", "mask2", edges)
    assert [[o > 0 for o in row] for row in second.binary()[:3]] == [[True, False]] * 3
    assert accuracy(model, test, second.draw(np.random.default_rng(0), 1.0)) >= (0.99 if betas[0] == betas[1] else 0.9)
    rule = by_strength(model.space, second.encoding.strengths(tensors(logits[0]), tensors(logits[1])))
    assert sum(option != "none" for option in rule.values()) == 2
    by_rule = accuracy(model, test, single_path([d.options.index(rule[d.name]) for d in model.space.decisions]))
    matter = [edge for edge in ("edge0", "edge1", "edge2") if rule[edge] == "own"]  # of the edges by rule
    correlation = len(matter) / math.sqrt(2 * 3)  # of the sum of two pixels with that of the three
    assert by_rule == pytest.approx(1 - math.acos(correlation) / math.pi, abs=0.02)
    assert len(matter) == (2 if betas[3] == 0.0 else 1)
    assert by_rule < 0.85
    assert torch.equal(model.gain, before)


# -- the weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cells", "graphs", "chain"])
def test_the_weights_stay_bit_for_bit_while_masks_learn(name: str, tmp_path: Path) -> None:
    space = SPACES[name]()
    size, classes = space.skeleton.input_size, space.skeleton.num_classes
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (24, *size), generator=generator, dtype=torch.uint8)
    images = Split(InMemory(pixels), torch.arange(24) % classes)
    data = ImageData("few", images, images, images, ("a",) * classes, size, (0.5,) * size[0], (0.3,) * size[0], (), "0")
    supernet = space.supernet()
    before = {key: p.detach().clone() for key, p in supernet.named_parameters()}
    statistics = {key: b.clone() for key, b in supernet.named_buffers() if b.is_floating_point()}
    alphas, betas = random_logits(space, np.random.default_rng(0))
    level = "operations" if name == "chain" else "edges"
    a = MaskArchitect(
        Encoding(space), (tensors(alphas, torch.float32), tensors(betas, torch.float32)), level, images, MaskSettings(),
        Pressure(()), 6,
    )  # fmt: skip
    recipe = Recipe(batch_size=8, accelerator="cpu", weight_decay=0.1, grad_clip=1.0)
    run = RunFolder.create(tmp_path / "r", RUN)
    fit(supernet, images, data, Phase("mask1", 2, 0.5), recipe, seed=0, run=run, architect=a)
    for key, p in supernet.named_parameters():
        assert torch.equal(p, before[key]), key
        assert p.grad is None, key
        assert p.requires_grad, key
    assert any(not torch.equal(b, statistics[key]) for key, b in supernet.named_buffers() if key in statistics)
    assert a.step == len(a.history) == 6
    assert not torch.equal(a.history[0], a.history[-1])
    events = [e for e in run.events() if e["event"] == "epoch"]
    assert [(e["epoch"], e["level"], e["train_accuracy"]) for e in events] == [(1, level, None), (2, level, None)]
    assert all(0 < e["loss"] < 20 for e in events)


# -- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"edges_epochs": 0}, "^settings of MaskSettings: edges_epochs: input should be greater than 0"),
        ({"operations_epochs": 0}, "operations_epochs: input should be greater than 0"),
        ({"travel": 0.0}, "travel: input should be greater than 0"),
        ({"travel": math.nan}, "travel: input should be a finite number"),
        ({"cost_weight": -0.5}, "cost_weight: input should be greater than or equal to 0"),
        ({"travel": math.inf}, "travel: input should be a finite number"),
        ({"cost_weight": math.inf}, "cost_weight: input should be a finite number"),
        ({"threshold": 0.01}, "mask.initial=0.01 must be above mask.threshold=0.01: all is kept at first"),
    ],
)
def test_settings_that_make_no_sense_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MaskSettings(**values)

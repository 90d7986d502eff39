"""HM-NAS' encoding against its definition in plain loops, and networks with weights on paper and in the supernet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiernas.budget import CostTable, Limit
from hiernas.data.split import Split, Subset
from hiernas.errors import SpaceError
from hiernas.gates import Gates
from hiernas.methods.hmnas.encoding import Encoding
from hiernas.search.alphas import AlphaArchitect, AlphaSettings, Pressure
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import darts, hdas_stages
from toy import toy_space

REAL = ("skip_connect", "sep_conv_3x3", "max_pool_3x3")
NO_IMAGES = Split(Subset(torch.zeros(0), torch.zeros(0, dtype=torch.int64)), torch.zeros(0, dtype=torch.int64))
Rows = Sequence[np.ndarray]


def cells() -> SearchSpace:
    """One kind of cell with three nodes: 9 edges of 3 operations and `none`."""
    skeleton = darts((1, 8, 8), 4, channels=2, cells=3).skeleton
    space = replace(skeleton, kinds=("normal",) * 3, nodes=3).space()
    return space.restrict({d.name: ("none", *REAL) for d in space.decisions})


def restricted() -> SearchSpace:
    """An edge that must stay, two that must go, one of a single operation, and one that has no choice at all."""
    fixed = {"normal.0->3": REAL, "normal.0->4": ("none",), "normal.1->4": ("none",), "normal.2->4": ("none", "skip_connect")}
    return cells().restrict({**fixed, "normal.1->2": ("max_pool_3x3",)})


def graphs() -> SearchSpace:
    return hdas_stages((1, 8, 8), 4, channels=2, cells=(3, 2, 2))


SPACES: Mapping[str, Callable[[], SearchSpace]] = {
    "cells": cells, "restricted": restricted, "graphs": graphs, "chain": toy_space,
}  # fmt: skip


def options_of(space: SearchSpace) -> list[list[int]]:
    return [[i for i, o in enumerate(d.options) if o != "none"] for d in space.decisions]


def nodes_of(space: SearchSpace) -> list[list[int]]:
    """Of each node the positions of its edges, without those that can only be `none`."""
    names = [d.name for d in space.decisions]
    return [[names.index(site) for site in g.sites if options_of(space)[names.index(site)]] for g in space.skeleton.groups]


def plain_shares(
    space: SearchSpace, alphas: Rows, betas: Rows, edges: Rows | None = None, operations: Rows | None = None,
    there: Sequence[bool] | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """The definition: e^alpha among an edge's kept operations times e^beta among a node's kept edges.

    Masks may be any numbers; `there`: which edges have an operation left (without it: those with one that is not 0).
    """
    rows = []
    for i, real in enumerate(options_of(space)):
        row = np.exp(alphas[i][real]) * (1.0 if operations is None else operations[i])
        rows.append(row / row.sum() if row.any() else row)
    left = [bool(row.any()) for row in rows] if there is None else there
    for k, sites in enumerate(nodes_of(space)):
        row = np.exp(betas[k]) * (1.0 if edges is None else edges[k]) * np.array([left[i] for i in sites])
        for i, weight in zip(sites, row / row.sum() if row.any() else row, strict=True):
            rows[i] = weight * rows[i]
    return rows


def random_logits(
    space: SearchSpace, rng: np.random.Generator, scale: float = 1.0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """alphas of all options of all sites, betas of the edges of all nodes."""
    alphas = [scale * rng.normal(size=len(d.options)) for d in space.decisions]
    return alphas, [scale * rng.normal(size=len(sites)) for sites in nodes_of(space)]


def tensors(rows: Rows, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.tensor(row, dtype=dtype) for row in rows]


class Curved(nn.Module):
    """Class logits that are a curved function of the gates, in double precision."""

    def __init__(self, space: SearchSpace, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        made = [torch.randn(len(d.options), classes, generator=generator, dtype=torch.float64) for d in space.decisions]
        self.v = nn.ParameterList(made)

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        z = x.flatten(1)[:, :4]
        for v, indices, weights in zip(self.v, gates.indices, gates.weights, strict=True):
            for i, weight in zip(indices, weights, strict=True):
                z = z + weight * v[i]
        return z + 0.3 * z * z


def curved_loss(model: Curved, space: SearchSpace, x: Tensor, y: Tensor, shares: Rows) -> float:
    """The cross entropy of `Curved` at given shares."""
    with torch.no_grad():
        gates = Gates(tuple(map(tuple, options_of(space))), tuple(tensors(shares)))
        return float(F.cross_entropy(model(x, gates), y))


def batch(n: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 2, 2, generator=generator, dtype=torch.float64), torch.arange(n) % 4


def slopes(f: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """The gradient of a function by central differences."""
    found = np.zeros(len(at))
    for i in range(len(at)):
        d = step * np.eye(len(at))[i]
        found[i] = (f(at + d) - f(at - d)) / (2 * step)
    return found


# -- shares ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_shares_are_those_of_the_definition(name: str) -> None:
    space = SPACES[name]()
    encoding, rng = Encoding(space), np.random.default_rng(0)
    lost = 0
    for _ in range(25):
        alphas, betas = random_logits(space, rng, 2.0)
        edges = [(rng.random(len(b)) < 0.6).astype(float) for b in betas]
        operations = [(rng.random(len(real)) < 0.5).astype(float) for real in options_of(space)]
        for masks in ((None, None), (edges, None), (None, operations), (edges, operations)):
            e, o = (None if m is None else tensors(m) for m in masks)
            found = encoding.shares(tensors(alphas), tensors(betas), e, o)
            for mine, theirs in zip(found, plain_shares(space, alphas, betas, *masks), strict=True):
                np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-12)
        lost += sum(not o.any() for o in operations)
    assert lost > 0  # edges without an operation were among them


def test_a_dropped_edge_gives_its_share_to_the_others_of_its_node() -> None:
    space = cells()
    alphas, betas = random_logits(space, np.random.default_rng(1))
    operations = [np.ones(3) for _ in alphas]
    operations[3] = np.zeros(3)  # of normal.1->3, the second edge into node 3
    shares = Encoding(space).shares(tensors(alphas), tensors(betas), None, tensors(operations))
    assert not shares[3].any()
    left = np.exp(betas[1][[0, 2]])
    np.testing.assert_allclose([float(shares[i].sum()) for i in (2, 4)], left / left.sum(), rtol=1e-12)
    np.testing.assert_allclose([float(shares[i].sum()) for i in (0, 1)], np.exp(betas[0]) / np.exp(betas[0]).sum(), rtol=1e-12)


def test_strengths_and_gates_name_the_same_options() -> None:
    space = restricted()
    encoding = Encoding(space)
    alphas, betas = random_logits(space, np.random.default_rng(2))
    plain = plain_shares(space, alphas, betas)
    strengths = encoding.strengths(tensors(alphas), tensors(betas))
    for d, row, real, share in zip(space.decisions, strengths, options_of(space), plain, strict=True):
        assert len(row) == len(d.options)
        np.testing.assert_allclose(row[real], share, rtol=1e-12)
        assert row.sum() == pytest.approx(share.sum())  # `none` has nothing
    shares = encoding.shares(tensors(alphas), tensors(betas))
    assert encoding.gates(tensors(alphas), tensors(betas)).indices == tuple(map(tuple, options_of(space)))
    present = [i % 2 == 1 for i in range(len(shares))]
    some = encoding.gates_of(shares, present)
    for real, share, there, indices, weights in zip(options_of(space), shares, present, *some, strict=True):
        assert indices == tuple(real if there else ())
        assert torch.equal(weights, share if there else share[:0])


def test_what_must_remain_of_a_restricted_space() -> None:
    space = restricted()
    names = [d.name for d in space.decisions]

    def bundles(present: Sequence[str]) -> list[list[str]]:
        found = Encoding(space).bundles([name in present for name in names])
        return [[names[i] for i in rows] for rows in found]

    fixed = [["normal.1->2"], ["normal.0->3"]]  # edges that cannot be `none` suffice for their nodes
    assert bundles(names) == [*fixed, ["normal.2->4", "normal.3->4"]]
    assert bundles([*names[:5], "normal.3->4"]) == [*fixed, ["normal.3->4"]]
    assert Encoding(toy_space()).bundles([True, True]) == [[0], [1]]


def test_costs_are_those_of_the_options_but_none() -> None:
    space = restricted()
    rows = [np.arange(len(d.options), dtype=float) * 3 for d in space.decisions]
    tables = {"params": CostTable("params", 0.0, tuple(rows), space)}
    ((_, _, found),) = Pressure.of(tables, [Limit("params", high=1.0)], Encoding(space).options).tables
    assert [r.tolist() for r in found] == [row[real].tolist() for row, real in zip(rows, options_of(space), strict=True)]


# -- networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_an_architecture_keeps_what_weighs_something_and_is_read_back_as_it_was(name: str) -> None:
    space = SPACES[name]()
    encoding, rng = Encoding(space), np.random.default_rng(3)
    for _ in range(5):
        alphas, betas = random_logits(space, rng)
        operations = [(rng.random(len(real)) < 0.6).astype(float) for real in options_of(space)]
        single = [tensors(rows, torch.float32) for rows in (alphas, betas, operations)]
        shares = encoding.shares(*single[:2], None, single[2])
        architecture = encoding.architecture(shares)
        for d, choice, share in zip(space.decisions, architecture.choices, shares, strict=True):
            named = [o for o in d.options if o != "none"]
            expected = {o: float(w) for o, w in zip(named, share, strict=True) if w > 0}
            assert dict(choice) == (expected or {"none": 1.0})
        if name != "chain" or all(m.any() for m in operations):  # a chain's site cannot be without
            whole = space.skeleton.space()
            assert Architecture.from_json(json.loads(json.dumps(architecture.to_json())), whole) == architecture


def test_a_file_gives_the_same_weights_to_the_last_bit(tmp_path: Path) -> None:
    space = graphs()
    alphas, betas = random_logits(space, np.random.default_rng(4))
    encoding = Encoding(space)
    architecture = encoding.architecture(encoding.shares(tensors(alphas, torch.float32), tensors(betas, torch.float32)))
    architecture.save(tmp_path / "a.json")
    assert Architecture.load(tmp_path / "a.json") == architecture
    assert not architecture.is_single
    with pytest.raises(SpaceError, match=r"^site 'stage1.0->2' keeps 3 options; read `choices` for them and their weights$"):
        _ = architecture.options


# -- learning of the logits --------------------------------------------------------------------------------------


def architect(space: SearchSpace, seed: int = 0, scale: float = 500.0) -> AlphaArchitect:
    generator = torch.Generator().manual_seed(seed)
    made = AlphaArchitect(Encoding(space), NO_IMAGES, AlphaSettings(lr=0.02, weight_decay=0.1), generator)
    for x in (*made.alphas, *made.betas):
        x.data = x.data.double() * scale  # far from equal
    return made


@pytest.mark.parametrize("name", ["restricted", "chain"])
def test_a_step_of_alpha_and_beta_is_adam_on_the_slopes_of_the_loss(name: str) -> None:
    space = SPACES[name]()
    a, model, (x, y) = architect(space), Curved(space), batch()
    logits = [*a.alphas, *a.betas]
    before = [t.detach().numpy().copy() for t in logits]
    sizes = np.cumsum([len(b) for b in before])[:-1]

    def loss(flat: np.ndarray) -> float:
        parts = np.split(flat, sizes)
        return curved_loss(model, space, x, y, plain_shares(space, parts[: len(a.alphas)], parts[len(a.alphas) :]))

    gradients = np.split(slopes(loss, np.concatenate(before)), sizes)
    found = a.learn(model, x, y, Tensor.backward, np.random.default_rng(0), 0.0)
    assert float(found) == pytest.approx(loss(np.concatenate(before)), rel=1e-12)
    for logit, b, g in zip(logits, before, gradients, strict=True):
        if "exp_avg" not in a.optimizer.state[logit]:  # where there is nothing but `none`
            assert np.abs(g).max() == 0.0
            continue
        np.testing.assert_allclose(a.optimizer.state[logit]["exp_avg"].numpy(), 0.5 * (g + 0.1 * b), rtol=1e-5, atol=1e-8)
    of_betas = [float(np.abs(g).max()) for g in gradients[len(a.alphas) :] if len(g) > 1]
    assert name == "chain" or min(of_betas) > 1e-4


def test_logits_of_nodes_are_saved_and_the_summary_goes_by_both_levels() -> None:
    space = cells()
    a, model, (x, y) = architect(space), Curved(space), batch()
    a.learn(model, x, y, Tensor.backward, np.random.default_rng(0), 0.0)
    b = architect(space, seed=5)
    b.restore(a.tensors())
    assert {key.partition(".")[0] for key in a.tensors()} == {f"alpha{i}" for i in range(9)} | {f"beta{k}" for k in range(3)}
    for architect_ in (a, b):
        architect_.learn(model, x, y, Tensor.backward, np.random.default_rng(0), 0.0)
    assert all(torch.equal(value, b.tensors()[key]) for key, value in a.tensors().items())
    for i, alpha in enumerate(a.alphas):
        alpha.data = torch.tensor([9.0, 0.0, 0.0, 0.0] if i else [0.0, 1.0, 0.0, 0.0])  # `none` has no part in anything
    a.betas[2].data = torch.tensor([0.0, 3.0, 1.0, 2.0])
    found = a.summary()
    p = np.exp([1.0, 0.0, 0.0]) / np.exp([1.0, 0.0, 0.0]).sum()
    assert found["entropy"] == pytest.approx((8 * np.log(3) - (p * np.log(p)).sum()) / 9, rel=1e-5)
    assert found["none"] == 0.0
    assert {site for site, option in found["derived"].items() if option != "none" and site.endswith("4")} == {
        "normal.1->4", "normal.3->4",
    }  # fmt: skip

"""Depth of stage graphs and the losses of H-DAS on it: by hand, by finite differences, by listing all paths."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hiernas.methods.hdas import computation_loss, depth_loss
from hiernas.networks.parts import StageShape
from hiernas.search.alphas import by_strength, strengths
from hiernas.space import SearchSpace
from hiernas.spaces import hdas_stages

Edges = Sequence[tuple[int, int]]


def stages(cells: tuple[int, int, int], **more: Any) -> SearchSpace:
    return hdas_stages((1, 8, 8), 4, channels=2, cells=cells, **more)


def logits(space: SearchSpace, given: dict[str, Sequence[float]]) -> list[Tensor]:
    """Logits whose softmax among equals are the given weights; of all other sites 0."""
    found = []
    for d in space.decisions:
        weights = given.get(d.name, [1.0] * len(d.options))
        found.append(torch.tensor(weights, dtype=torch.float64).log().requires_grad_())
    return found


def edge(strongest: float, rest: float = 1e-3, none: float = 1e6) -> list[float]:
    """One edge (none, max_pool, avg_pool, skip): a huge `none`, which counts for nothing, and one strong operation."""
    return [none, rest, strongest, rest]


# -- losses ------------------------------------------------------------------------------------------------------


def by_hand() -> tuple[SearchSpace, list[Tensor]]:
    """Stages of three, two and two cells; the edges of the first two are given."""
    space = stages((3, 2, 2))
    given = {
        "stage1.0->2": edge(5.0), "stage1.1->2": edge(1.0),  # depth 1, whatever the weights
        "stage1.0->3": edge(1.0), "stage1.1->3": edge(1.0), "stage1.2->3": edge(2.0),  # 1/4 1 + 1/4 1 + 1/2 2 = 3/2
        "stage1.1->4": edge(3.0), "stage1.2->4": edge(1.0), "stage1.3->4": edge(4.0),  # 3/8 1 + 1/8 2 + 1/2 5/2 = 15/8
        "stage2.0->3": edge(1.0), "stage2.1->3": edge(2.0), "stage2.2->3": edge(7.0),  # 3/10 1 + 7/10 2 = 17/10
    }  # fmt: skip
    return space, logits(space, given)


def test_equation_2_by_hand() -> None:
    space, alphas = by_hand()
    stage1 = (1 + 3 / 2 / 2 + 15 / 8 / 3) / 3
    stage2 = (1 + 17 / 10 / 2) / 2
    stage3 = (1 + (1 / 3 + 1 / 3 + 2 / 3) / 2) / 2  # equal weights
    assert depth_loss(space)(alphas).item() == pytest.approx(-(stage1 + stage2 + stage3), rel=1e-12)


def test_equation_4_by_hand() -> None:
    space = stages((4, 2, 2), least=2)
    given = {  # beta of 2, 3 and 4 cells
        "stage1.cells": (1.0, 2.0, 5.0), "stage2.cells": (1.0,), "stage3.cells": (1.0,),
        "stage1.2->3": edge(2.0), "stage1.0->3": edge(1.0), "stage1.1->3": edge(1.0),
        "stage1.1->4": edge(1.0), "stage1.2->4": edge(1.0), "stage1.3->4": edge(2.0),
        "stage1.2->5": edge(3.0), "stage1.3->5": edge(1.0), "stage1.4->5": edge(4.0),
    }  # fmt: skip
    alphas = logits(space, given)
    d = [1, 3 / 2, (1 + 2) / 4 + (5 / 2) / 2]
    d.append(3 / 8 * 2 + 1 / 8 * (5 / 2) + 1 / 2 * (d[2] + 1))
    stage1 = (d[0] + d[1] / 2 * (1 + 2 * 1 / 8) + d[2] / 3 * (1 + 3 * 2 / 8) + d[3] / 4 * (1 + 4 * 5 / 8)) / 4
    other = (1 + (2 / 3 + 2 / 3) / 2 * (1 + 2 * 1)) / 2  # two cells, certain, of equal weights
    assert depth_loss(space)(alphas).item() == pytest.approx(-(stage1 + 2 * other), rel=1e-12)


def test_equation_5_by_hand() -> None:
    space = stages((6, 5, 4), least=4)
    alphas = logits(space, {"stage1.cells": (1.0, 2.0, 5.0), "stage2.cells": (3.0, 1.0), "stage3.cells": (1.0,)})
    expected = (1 * 4 + 2 * 5 + 5 * 6) / 8 + (3 * 4 + 1 * 5) / 4 + 4
    assert computation_loss(space)(alphas).item() == pytest.approx(expected, rel=1e-12)


def test_a_restricted_space_keeps_numbers_and_edges_in_their_places() -> None:
    space = stages((4, 2, 2), least=2).restrict({"stage1.cells": ("2", "4"), "stage1.0->3": ("none",)})
    alphas = logits(space, {"stage1.cells": (1.0, 3.0), "stage1.0->3": (1.0,)})
    d = [1, (1 + 2) / 2]
    d.append((1 + 2 + (d[1] + 1)) / 3)
    d.append((2 + (d[1] + 1) + (d[2] + 1)) / 3)
    stage1 = (d[0] + d[1] / 2 * (1 + 2 / 4) + d[2] / 3 + d[3] / 4 * (1 + 4 * 3 / 4)) / 4
    other = (1 + (2 / 3 + 2 / 3) / 2 * (1 + 2 * 1)) / 2
    assert depth_loss(space)(alphas).item() == pytest.approx(-(stage1 + 2 * other), rel=1e-12)
    assert computation_loss(space)(alphas).item() == pytest.approx((2 + 3 * 4) / 4 + 2 + 2, rel=1e-12)


def recursion(weights: Sequence[Sequence[float]], factors: Sequence[float]) -> float:
    """The release's 1/N sum_i d_i, in plain numbers: by cell the weights of its edges, and what multiplies its depth."""
    depth = [0.0, 0.0]
    for edges, factor in zip(weights, factors, strict=True):
        before = depth[-len(edges) :]
        depth.append(factor * sum(w * (d + 1) for w, d in zip(edges, before, strict=True)) / len(edges))
    return sum(depth) / len(weights)


def softmax(values: Sequence[float]) -> list[float]:
    e = np.exp(np.array(values))
    return list(e / e.sum())


def released_distribution(strongest: Sequence[Sequence[float]], beta: Sequence[float] | None) -> float:
    """One stage of the release's distribution search: beta of N - 4 .. N - 1, cells counted from 0."""
    first = len(strongest) - len(beta or [])
    factors = [1.0] * first + [1 + (first + k) * b for k, b in enumerate(softmax(beta) if beta is not None else [])]
    return recursion([softmax(edges) for edges in strongest], factors)


def sum_of_gradients(loss: Any, values: Sequence[Sequence[float]]) -> float:
    """The sum of a function's gradients' sizes, by central differences."""
    total, h = 0.0, 1e-5
    for i, row in enumerate(values):
        for j in range(len(row)):
            moved = [[[v + by * (i == a and j == b) for b, v in enumerate(r)] for a, r in enumerate(values)] for by in (h, -h)]
            total += abs(loss(moved[0]) - loss(moved[1])) / (2 * h)
    return total


def stage1(space: SearchSpace, values: Sequence[Tensor]) -> list[Tensor]:
    return [v for d, v in zip(space.decisions, values, strict=True) if d.name.startswith("stage1") and "->" in d.name]


@pytest.mark.parametrize(
    ("form", "cells", "least", "expected"),
    [
        ("paper", 20, None, 0.1634),
        ("release", 20, None, 4.0),  # (2 edges * 4 operations / 2 + 5 cells * 3 edges * 4 operations / 3) / 6
        ("release", 26, 4, 0.1208),
    ],
)
def test_how_strongly_the_forms_pull_at_equal_logits(form: Any, cells: int, least: int | None, expected: float) -> None:
    """The sum of gradients' sizes of a stage; none of its own in the release's stage search is negative."""
    space = hdas_stages(cells=cells, least=least)
    alphas = [torch.zeros(len(d.options), dtype=torch.float64, requires_grad=True) for d in space.decisions]
    depth_loss(space, form)(alphas).backward()
    found = torch.cat([a.grad for a in stage1(space, alphas)])
    assert found.abs().sum().item() == pytest.approx(expected, rel=1e-3)
    if form == "release" and least is None:
        assert (found < 0).all()  # Adam moves all of them alike, whatever their sizes


def test_the_release_pulls_less_without_its_factor() -> None:
    """0.038 for six cells: the release's distribution search but for the factor of beta, which a number of 6 cells has not."""
    equal = [[0.0, 0.0], *[[0.0] * 3] * 5]
    assert sum_of_gradients(lambda v: released_distribution(v, None), equal) == pytest.approx(0.0383, rel=2e-3)
    eight = [[0.0, 0.0], *[[0.0] * 3] * 7]
    assert sum_of_gradients(lambda v: released_distribution(v, [0.0] * 5), eight) == pytest.approx(0.1208, rel=1e-3)


def test_the_release_on_any_logits() -> None:
    rng = np.random.default_rng(0)
    distribution, graphs = hdas_stages(cells=26, least=4), hdas_stages(cells=20)
    for space in (distribution, graphs):
        alphas = [torch.tensor(rng.normal(size=len(d.options))) for d in space.decisions]
        named = {d.name: a.tolist() for d, a in zip(space.decisions, alphas, strict=True)}
        expected = 0.0
        for k, cells in enumerate(space.skeleton.cells):
            into = [[named[f"stage{k + 1}.{s}->{n}"] for s in range(max(0, n - 3), n)] for n in range(2, 2 + cells)]
            if space is graphs:  # a recursion of each operation's own, `none` (the first) too
                expected += sum(recursion([[e[o] for e in edges] for edges in into], [1.0] * cells) for o in range(4))
            else:
                beta = named[f"stage{k + 1}.cells"]
                expected += released_distribution([[max(e[1:]) for e in edges] for edges in into], beta)
        assert depth_loss(space, "release")(alphas).item() == pytest.approx(-expected, rel=1e-12)


@pytest.mark.parametrize("form", ["paper", "release"])
@pytest.mark.parametrize("space", [stages((4, 3, 2)), stages((4, 3, 3), least=2)], ids=["eq2", "eq4"])
def test_gradients_are_those_of_finite_differences(space: SearchSpace, form: Any) -> None:
    rng, h = np.random.default_rng(0), 1e-5
    values = [rng.normal(size=len(d.options)) for d in space.decisions]
    losses = [depth_loss(space, form)] + ([computation_loss(space)] if space.skeleton.least else [])

    def at(loss: Any, changed: tuple[int, int], by: float) -> float:
        made = [torch.tensor(v) for v in values]
        made[changed[0]][changed[1]] += by
        return loss(made).item()

    for loss in losses:
        alphas = [torch.tensor(v).requires_grad_() for v in values]
        loss(alphas).backward()
        largest = 0.0
        for i, alpha in enumerate(alphas):
            for j in range(len(alpha)):
                slope = (at(loss, (i, j), h) - at(loss, (i, j), -h)) / (2 * h)
                assert (0.0 if alpha.grad is None else alpha.grad[j].item()) == pytest.approx(slope, abs=1e-8)
                largest = max(largest, abs(slope))
        assert largest > 0.03


def test_descending_the_losses_makes_deep_and_short_stages() -> None:
    """Equation 6 without a task: depth asks for chains and all cells, computation for the least number."""
    space = stages((4, 4, 4), least=3)
    for gamma, cells in ((0.0, 4), (4.0, 3)):
        generator = torch.Generator().manual_seed(0)
        alphas = [(1e-3 * torch.randn(len(d.options), generator=generator)).requires_grad_() for d in space.decisions]
        optimizer = torch.optim.Adam(alphas, lr=0.3)
        for _ in range(20):
            optimizer.zero_grad()
            (depth_loss(space)(alphas) + gamma * computation_loss(space)(alphas)).backward()
            optimizer.step()
        found = space.architecture(by_strength(space, strengths(space, alphas)))
        assert space.skeleton.shapes(found.choices) == [StageShape(cells, cells, 0)] * 3


@pytest.mark.parametrize("form", ["paper", "release"])
@pytest.mark.parametrize("least", [None, 2])
def test_stages_that_share_a_graph_count_thrice(form: Any, least: int | None) -> None:
    one, three = (stages((3, 3, 3), least=least, shared=shared) for shared in (True, False))
    rng = np.random.default_rng(0)
    values = {d.name: torch.tensor(rng.normal(size=len(d.options))) for d in one.decisions}
    repeated = [values["stages." + d.name.partition(".")[2]] for d in three.decisions]
    losses = [lambda space: depth_loss(space, form)] + ([computation_loss] if least else [])
    for loss in losses:
        assert loss(one)(list(values.values())).item() == pytest.approx(loss(three)(repeated).item(), rel=1e-12)


# -- shapes ------------------------------------------------------------------------------------------------------


def all_paths(edges: Edges, outputs: Sequence[int]) -> list[tuple[int, ...]]:
    """Every path from an input to an output, as the cells on it."""
    found, waiting = [], [(node,) for node in outputs]
    while waiting:
        path = waiting.pop()
        before = [s for s, n in edges if n == path[0]]
        found += [path] if any(s < 2 for s in before) else []
        waiting += [(s, *path) for s in before if s >= 2]
    return found


def truth(edges: Edges, cells: int) -> StageShape:
    paths = all_paths(edges, (cells, cells + 1))  # states 0 and 1 are inputs
    joined = {node for path in paths for node in path}
    return StageShape(cells, max(map(len, paths)), cells - len(joined))


def graphs(cells: int, window: int) -> list[list[tuple[int, int]]]:
    """All stage graphs: each cell reads two of the states in the window before it."""
    choices = []
    for node in range(2, 2 + cells):
        pairs = itertools.combinations(range(max(0, node - window), node), 2)
        choices.append([[(a, node), (b, node)] for a, b in pairs])
    return [[e for edges in chosen for e in edges] for chosen in itertools.product(*choices)]


def test_a_chain_and_a_flat_graph() -> None:
    chain = [(s, n) for n in range(2, 8) for s in (n - 2, n - 1)]
    flat = [(s, n) for n in range(2, 8) for s in (0, 1)]
    assert StageShape.of(chain, (6, 7), 6) == StageShape(6, 6, 0)
    assert StageShape.of(flat, (6, 7), 6) == StageShape(6, 1, 4)  # only the output's two cells are left
    assert StageShape.of(chain, (3, 4), 3) == StageShape(3, 3, 0)  # of a searched number: what lies behind does not count


@functools.cache
def shapes_of_six(window: int) -> set[StageShape]:
    return {StageShape.of(g, (6, 7), 6) for g in graphs(6, window)}


@pytest.mark.parametrize(("m", "dead", "depth"), [(7, 4, 2), (4, 1, 3), (3, 0, 5)])
def test_table_4(m: int, dead: int, depth: int) -> None:
    """Window, dead cells and depth of the graphs of figure 3, which itself is not at hand: six cells can have them."""
    assert StageShape(6, depth, dead) in shapes_of_six(m)
    assert all(s.depth + s.dead <= 6 for s in shapes_of_six(m))
    assert StageShape(6, 6, 0) in shapes_of_six(m)  # the chain


@pytest.mark.parametrize(("window", "most"), [(2, 0), (3, 2), (4, 2), (5, 3), (7, 4)])
def test_rule_3_a_smaller_window_bounds_the_dead_cells(window: int, most: int) -> None:
    """By hand: the last two cells live, and so do two of the states in the window before the first of them."""
    assert max(s.dead for s in shapes_of_six(window)) == most


def test_shapes_are_those_of_all_paths() -> None:
    for g in graphs(6, 3):
        assert StageShape.of(g, (6, 7), 6) == truth(g, 6)
    rng = np.random.default_rng(0)
    for _ in range(300):
        cells = int(rng.integers(2, 9))
        edges = []
        for node in range(2, 2 + cells):
            count = int(rng.integers(1, node + 1))  # any number of edges, in any order
            edges += [(int(s), node) for s in rng.permutation(node)[:count]]
        edges = [edges[i] for i in rng.permutation(len(edges))]
        assert StageShape.of(edges, (cells, cells + 1), cells) == truth(edges, cells)


@pytest.mark.parametrize("least", [None, 2])
def test_dead_cells_are_those_that_the_network_does_not_have(least: int | None) -> None:
    space, rng = stages((6, 5, 4), least=least, window=4), np.random.default_rng(1)
    seen = 0
    for _ in range(6):
        architecture = space.sample(rng)
        for found, stage in zip(architecture.skeleton.shapes(architecture.choices), architecture.build().stages, strict=True):
            assert len(stage.cells) == found.cells - found.dead
            seen += found.dead
    assert seen > 0
    chosen = dict(zip(space.skeleton.site_names, architecture.options, strict=True))
    if least is not None:
        shapes = architecture.skeleton.shapes(architecture.choices)
        assert [str(s.cells) for s in shapes] == [chosen[f"stage{k}.cells"] for k in (1, 2, 3)]

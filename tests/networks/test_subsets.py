"""Spaces of all subsets against plain enumeration and built networks; edges into dead cells against networkx."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import hiernas
from hiernas.budget import Limit
from hiernas.costs import limits as limits_module
from hiernas.costs.limits import best_within, check_reachable, nearest
from hiernas.costs.tables import cost_tables
from hiernas.errors import LimitError, SpaceError
from hiernas.networks.cell_ops import Cell, StageGraph, Sum
from hiernas.networks.parts import Mixture, Part
from hiernas.networks.stage import StageNetwork
from hiernas.space import Choice, SearchSpace
from hiernas.spaces import Stage, chain_space, darts, hdas_stages, tiny
from hiernas.subsets import subsets

Kept = frozenset[tuple[str, str]]  # (site, option) pairs


def two_nodes() -> SearchSpace:
    """One kind of cell, two nodes, five edges of two operations: 15 * 63 subsets."""
    skeleton = darts((1, 8, 8), 4, channels=2, cells=3).skeleton
    space = replace(skeleton, kinds=("normal",) * 3, nodes=2).space()
    return space.restrict({d.name: ("none", "skip_connect", "dil_conv_3x3") for d in space.decisions})


def with_fixed_edges() -> SearchSpace:
    """The edge 0->3 stays whatever happens, 1->3 is gone; of 1->2 only the convolution is left."""
    fixed = {"normal.0->3": ("skip_connect", "dil_conv_3x3"), "normal.1->3": ("none",), "normal.1->2": ("none", "dil_conv_3x3")}
    return two_nodes().restrict(fixed)


def chain() -> SearchSpace:
    ops = (hiernas.MBConv(3, 1), hiernas.MBConv(3, 2), hiernas.MBConv(5, 2))
    stages = [Stage(8, 1, 2, ops), Stage(8, 1, 1, ops[:2], skip=True)]
    return chain_space("chain", (1, 8, 8), 4, stem=4, stages=stages, head=8)


def graphs() -> SearchSpace:
    space = hdas_stages((1, 8, 8), 4, channels=2, cells=(2, 2, 2))
    few = {d.name: ("none", "skip_connect") if d.name.startswith("stage1") else ("skip_connect",) for d in space.decisions}
    fewer = {f"stage{k}.{s}->3": ("none",) for k in (2, 3) for s in (0,)}
    return space.restrict({**few, **fewer})


SPACES: Mapping[str, Callable[[], SearchSpace]] = {
    "cells": two_nodes, "fixed edges": with_fixed_edges, "chain": chain, "graphs": graphs,
}  # fmt: skip


def listed(space: SearchSpace) -> Iterator[Kept]:
    """All sets of pairs with an edge into every node, an operation on every edge that must stay, a block at every site."""
    pairs = [(d.name, o) for d in space.decisions for o in d.options if o != "none"]
    must = [{d.name} for d in space.decisions if "none" not in d.options]
    must += [set(group.sites) for group in space.skeleton.groups]
    for size in range(len(pairs) + 1):
        for chosen in itertools.combinations(pairs, size):
            sites = {site for site, _ in chosen}
            if all(sites & one_of for one_of in must):
                yield frozenset(chosen)


def as_kept(every: SearchSpace, genes: np.ndarray) -> Kept:
    named = zip(every.skeleton.site_names, every.decode(genes).options, strict=True)
    return frozenset((name.split(" ")[0], name.split(" ")[1]) for name, option in named if option != "none")


# -- size, order, sampling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_the_space_holds_every_network_once(name: str) -> None:
    space = SPACES[name]()
    every, expected = subsets(space), set(listed(space))
    genes = every.all_encoded()
    assert every.size() == len(genes) == len(expected)
    assert {as_kept(every, row) for row in genes} == expected
    rows = [tuple(row) for row in genes.tolist()]
    assert rows == sorted(rows)
    assert [tuple(every.encode(a)) for a in itertools.islice(every, 50)] == rows[:50]


def test_sizes_of_whole_spaces_are_products_over_nodes() -> None:
    cells = subsets(darts((3, 32, 32), 10, channels=4, cells=5))
    assert cells.size() == math.prod(2 ** (7 * edges) - 1 for edges in (2, 3, 4, 5)) ** 2
    stages = subsets(hdas_stages((3, 32, 32), 10, channels=4, cells=14))
    assert stages.size() == ((2**6 - 1) * (2**9 - 1) ** 3) ** 3
    assert subsets(tiny()).size() == (2**4 - 1) ** 3 * (2**5 - 1) ** 5


@pytest.mark.parametrize("name", ["fixed edges", "chain", "graphs"])
def test_samples_are_uniform(name: str) -> None:
    every = subsets(SPACES[name]())
    size = every.size()
    genes = every.sample_encoded(np.random.default_rng(0), 40 * size)
    found = {tuple(row): 0 for row in every.all_encoded().tolist()}
    for row in genes.tolist():
        found[tuple(row)] += 1  # a KeyError for one that is not of the space
    statistic = sum((count - 40) ** 2 / 40 for count in found.values())
    assert abs(statistic - (size - 1)) < 4 * math.sqrt(2 * (size - 1))  # chi-square: mean and four deviations


def test_drawing_one_node_anew_leaves_the_others() -> None:
    every, rng = subsets(two_nodes()), np.random.default_rng(1)
    before = every.sample_encoded(rng, 400)
    after = every.resample(before, rng)
    of_first, of_second = ((before[:, span] != after[:, span]).any(1) for span in (slice(0, 4), slice(4, 10)))
    assert not (of_first & of_second).any()
    assert of_first.sum() > 100 < of_second.sum()
    for row in after:
        every.decode(row)  # refuses what the space does not hold


# -- costs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_the_least_and_the_greatest_sums_are_those_of_the_list(name: str) -> None:
    every, rng = subsets(SPACES[name]()), np.random.default_rng(2)
    genes = every.all_encoded()
    for low, high in ((-1, 1), (0, 1), (-2, -1)):  # of any sign, none, all of them kept or as few as can be
        rows = [rng.uniform(low, high, 2) for _ in every.decisions]
        rows = [np.array([0.0, row[1]]) for row in rows]
        totals = sum(row[column] for row, column in zip(rows, genes.T, strict=True))
        assert sum(every.extreme(rows, True)) == pytest.approx(totals.max(), rel=1e-12)
        assert sum(every.extreme(rows, False)) == pytest.approx(totals.min(), rel=1e-12)
    for table in cost_tables(every, None).values():
        costs = table.of(genes)
        assert (table.smallest, table.largest) == (costs.min(), costs.max())


@pytest.mark.parametrize("name", SPACES)
def test_tables_count_what_the_built_networks_have(name: str) -> None:
    space = SPACES[name]()
    every, rng = subsets(space), np.random.default_rng(3)
    tables = cost_tables(every, None)
    for genes in every.sample_encoded(rng, 8):
        architecture = every.decode(genes)
        built, cost = architecture.build(), hiernas.cost(architecture)
        assert cost.params == sum(p.numel() for p in built.parameters())
        counted = tuple(tables[m].of(genes[None])[0] for m in ("params", "macs"))
        assert counted == (cost.params, cost.macs)
    whole = every.decode(np.ones(len(every.decisions), dtype=np.int64))
    assert hiernas.cost(whole).macs == tables["macs"].largest


def test_costs_of_graphs_with_dead_cells_are_bounds_from_above() -> None:
    every = subsets(hdas_stages((1, 8, 8), 4, channels=2, cells=(4, 2, 2)))
    names, tables = every.skeleton.site_names, cost_tables(every, None)
    inner = {"stage1": ((0, 2), (1, 3), (1, 4), (4, 5)), "stage2": ((1, 2), (0, 3)), "stage3": ((0, 2), (2, 3))}
    kept = {f"{stage}.{s}->{n} skip_connect" for stage, edges in inner.items() for s, n in edges}
    genes = np.array([int(name in kept) for name in names])
    cost = hiernas.cost(every.decode(genes))  # cells 2 and 3 of the first stage reach nothing
    alone = every.skeleton.space.skeleton.places()[0].cells[0]
    cell = sum(p.numel() for p in every.skeleton.space.skeleton.build_cell(alone).parameters())
    assert cost.params == tables["params"].of(genes[None])[0] - 2 * cell
    assert cost.macs < tables["macs"].of(genes[None])[0]
    genes[names.index("stage1.2->4 skip_connect")] = 1  # now one of them does
    assert hiernas.cost(every.decode(genes)).params == tables["params"].of(genes[None])[0] - cell


@dataclass(frozen=True)
class OnlySums:
    """A latency table in which adding a term takes 1 ms and all else nothing."""

    overhead_ms: float = 0.0
    int8: None = None

    def part_ms(self, part: Part) -> float:
        return float(isinstance(part.op, Sum))


def additions(network: nn.Module) -> int:
    """How many sums of two terms a built network computes."""
    found = 0
    for module in network.modules():
        if isinstance(module, Mixture):
            found += len(module.ops) - 1
        elif isinstance(module, Cell | StageGraph):
            sources = module.sources.values() if isinstance(module, StageGraph) else module.sources
            found += sum(len(terms) - 1 for terms in sources)
    return found


@pytest.mark.parametrize(("name", "nodes"), [("cells", 6), ("chain", 2), ("graphs", 6)])
def test_latencies_count_the_sums_of_the_built_networks(name: str, nodes: int) -> None:
    every = subsets(SPACES[name]())
    table = cost_tables(every, OnlySums())["latency_ms"]
    for genes in every.sample_encoded(np.random.default_rng(6), 8):
        counted = additions(every.decode(genes).build())
        assert counted <= table.of(genes[None])[0] <= counted + nodes  # one too many per node


def test_a_chain_with_one_operation_per_block_takes_as_long_among_all_subsets_as_by_itself() -> None:
    own, every = chain(), subsets(chain())
    single = own.architecture([d.options[0] for d in own.decisions])
    genes = every.encode(every.architecture([n.split(" ")[1] if n.split(" ")[1] in single.options else "none"
                                             for n in every.skeleton.site_names]))  # fmt: skip
    assert cost_tables(every, OnlySums())["latency_ms"].of(genes[None])[0] == additions(single.build()) == 0


def test_a_network_of_pairs_is_the_one_that_the_space_itself_builds() -> None:
    space = two_nodes()
    every = subsets(space)
    chosen = {"normal.0->2": {"skip_connect": 1.0, "dil_conv_3x3": 1.0}, "normal.1->3": {"skip_connect": 1.0},
              "normal.2->3": {"dil_conv_3x3": 1.0}}  # fmt: skip
    plain = space.architecture([chosen.get(d.name, "none") for d in space.decisions]).build().eval()
    pairs = {f"{site} {option}" for site, options in chosen.items() for option in options}
    names = every.skeleton.site_names
    network = every.architecture([n.split(" ")[1] if n in pairs else "none" for n in names]).build().eval()
    network.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(x), plain(x))


# -- restrictions ------------------------------------------------------------------------------------------------


def test_a_restricted_space_of_subsets_holds_what_is_left() -> None:
    space = two_nodes()
    every = subsets(space)
    gone = {"normal.0->2 skip_connect", "normal.1->2 dil_conv_3x3", "normal.2->3 skip_connect"}
    fixed = {"normal.1->3 skip_connect"}
    smaller = every.restrict({**dict.fromkeys(gone, ("none",)), **{pair: (pair.split(" ")[1],) for pair in fixed}})
    expected = {
        kept for kept in listed(space) if not gone & {" ".join(p) for p in kept} and fixed <= {" ".join(p) for p in kept}
    }
    genes = smaller.all_encoded()
    assert {as_kept(smaller, row) for row in genes} == expected
    assert smaller.size() == len(expected) == len(genes)
    drawn = {as_kept(smaller, row) for row in smaller.sample_encoded(np.random.default_rng(0), 2000)}
    assert drawn == expected
    for table in cost_tables(smaller, None).values():
        costs = table.of(genes)
        assert (table.smallest, table.largest) == (costs.min(), costs.max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normal.0->2 sep_conv_3x3": ("none",)}, "has no site 'normal.0->2 sep_conv_3x3'; did you mean 'normal.0->2 "),
        ({"normal.0->2 skip_connect": ("dil_conv_3x3",)}, "site 'normal.0->2 skip_connect' has no option 'dil_conv_3x3'"),
        (
            {f"normal.{s}->2 {o}": ("none",) for s in (0, 1) for o in ("skip_connect", "dil_conv_3x3")},
            r"^sites normal.0->2 skip_connect, .*1->2 dil_conv_3x3: at least one must be .*, and these options leave no way",
        ),
    ],
)
def test_restrictions_that_leave_nothing_are_refused(options: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        subsets(two_nodes()).restrict(options)


def test_a_node_without_a_pair_is_refused_and_a_supernet_is_not_made() -> None:
    every = subsets(two_nodes())
    with pytest.raises(SpaceError, match=r"^sites normal.0->3 skip_connect, .*: at least one must be other than 'none'"):
        every.decode([1, 0, 0, 0, *[0] * 6])
    with pytest.raises(TypeError, match=r"^the supernet is that of the space itself$"):
        every.supernet()


# -- limits ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["listed", "solved"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "solved":
        monkeypatch.setattr(limits_module, "ENUMERABLE", 0)
    return request.param


@pytest.mark.parametrize("name", SPACES)
def test_the_best_within_limits_is_that_of_the_list(name: str, way: str) -> None:
    every, rng = subsets(SPACES[name]()), np.random.default_rng(5)
    tables, genes = cost_tables(every, None), every.all_encoded()
    params, macs = (tables[m].of(genes) for m in ("params", "macs"))
    for _ in range(4):
        low, high = np.quantile(params, np.sort(rng.random(2)))
        limits = [Limit("params", low, high), Limit("macs", high=float(np.quantile(macs, rng.uniform(0.5, 1))))]
        inside = (low <= params) & (params <= high) & (macs <= limits[1].high)
        gains = [np.array([0.0, rng.normal()]) for _ in every.decisions]
        totals = sum(row[column] for row, column in zip(gains, genes.T, strict=True))
        if not inside.any():
            with pytest.raises(LimitError, match=r"^found no architecture of"):
                best_within(every, tables, limits, gains)
            continue
        found = best_within(every, tables, limits, gains)
        row = int((genes == found).all(1).argmax())
        assert inside[row]
        assert totals[row] == pytest.approx(totals[inside].max(), rel=1e-9)


def test_limits_are_refused_with_the_nearest_value_or_accepted(way: str) -> None:
    every = subsets(two_nodes())
    tables, genes = cost_tables(every, None), every.all_encoded()
    params, macs = (tables[m].of(genes) for m in ("params", "macs"))
    check_reachable(every, tables, [Limit("params", params.max(), params.max()), Limit("macs", high=macs.max())])
    check_reachable(every, tables, [Limit("params", params.min(), params.min())])
    small, large = int(params.min()), int(params.max())
    with pytest.raises(LimitError, match=f"meets params <= {small - 1}; the smallest has {small}$"):
        check_reachable(every, tables, [Limit("params", high=small - 1)])
    with pytest.raises(LimitError, match=f"meets params >= {large + 1}; the largest has {large}$"):
        check_reachable(every, tables, [Limit("params", low=large + 1)])
    # the two costs go together: many parameters and few multiply-adds are not to be had
    both = [Limit("params", low=float(large)), Limit("macs", high=float(macs.min()))]
    with pytest.raises(LimitError, match=r"together; the nearest has params .* and macs "):
        check_reachable(every, tables, both)
    costs = {"params": params, "macs": macs}
    outside = sum(limit.excess(costs[limit.metric]) for limit in both)
    proposed, proven = nearest(every, tables, both)
    assert proven
    assert outside[int((genes == proposed[0]).all(1).argmax())] == pytest.approx(outside.min(), rel=1e-9)
    gaps = np.setdiff1d(np.arange(small, large), params)
    if len(gaps):
        with pytest.raises(LimitError, match="the nearest has params"):
            check_reachable(every, tables, [Limit("params", float(gaps[0]), float(gaps[0]))])


def test_networks_larger_than_any_of_two_edges_are_within_reach() -> None:
    space = darts((1, 8, 8), 4, channels=2, cells=3)
    two, every = cost_tables(space, None)["params"], cost_tables(subsets(space), None)
    more = [Limit("params", low=two.largest + 1)]
    with pytest.raises(LimitError, match="the largest has"):
        check_reachable(space, {"params": two}, more)
    check_reachable(subsets(space), every, more)
    twice = [*more, Limit("macs", high=0.9 * every["macs"].largest)]
    check_reachable(subsets(space), every, twice)
    found = best_within(subsets(space), every, twice, [np.zeros(2)] * len(subsets(space).decisions))
    cost = hiernas.cost(subsets(space).decode(found))
    assert cost.params > two.largest
    assert cost.macs <= twice[1].high


# -- cells that reach no output ----------------------------------------------------------------------------------


def random_graphs(skeleton: StageNetwork, rng: np.random.Generator) -> list[Choice]:
    """Any number of edges into each cell, but one at least; each with one or more weighted operations."""
    found: list[Choice] = []
    for k in range(3):
        edges = list(skeleton.edges(k))
        kept = {e: bool(rng.random() < 0.35) for e in edges}
        for node in {n for _, n in edges}:
            into = [e for e in edges if e[1] == node]
            kept[into[int(rng.integers(len(into)))]] = True
        for e in edges:
            options = [o for o in ("max_pool_3x3", "avg_pool_3x3", "skip_connect") if rng.random() < 0.5] or ["skip_connect"]
            found.append(tuple((o, float(rng.uniform(0.1, 1))) for o in options) if kept[e] else (("none", 1.0),))
    return found


def live_by_networkx(skeleton: StageNetwork, stage: int, choices: Mapping[tuple[int, int], Choice]) -> set[int]:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(2 + skeleton.cells[stage]))
    graph.add_edges_from(edge for edge, choice in choices.items() if choice != (("none", 1.0),))
    outputs = (skeleton.cells[stage], skeleton.cells[stage] + 1)  # the last two states
    return set(outputs).union(*(nx.ancestors(graph, output) for output in outputs))


def test_edges_into_dead_cells_go_and_the_network_stays_the_same() -> None:
    skeleton = hdas_stages((1, 8, 8), 4, channels=2, cells=(6, 5, 4), window=4).skeleton
    assert isinstance(skeleton, StageNetwork)
    dead = 0
    for seed in range(25):
        choices = random_graphs(skeleton, np.random.default_rng(seed))
        without = skeleton.without_dead(choices)
        start, cells = 0, []
        for k in range(3):
            edges = list(skeleton.edges(k))
            before = dict(zip(edges, choices[start : start + len(edges)], strict=True))
            after = dict(zip(edges, without[start : start + len(edges)], strict=True))
            alive = live_by_networkx(skeleton, k, before)
            assert after == {e: choice if e[1] in alive else (("none", 1.0),) for e, choice in before.items()}
            cells.append(len([n for n in alive if n > 1]))
            start += len(edges)
        dead += sum(skeleton.cells) - sum(cells)
        assert skeleton.without_dead(without) == without
        if seed >= 4:
            continue
        one, two = (skeleton.build(c).eval() for c in (choices, without))
        two.load_state_dict(one.state_dict())  # the same modules, by name
        assert [len(stage.cells) for stage in two.stages] == cells
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            assert torch.equal(one(x), two(x))
    assert dead > 20


def test_a_live_cell_without_an_edge_is_refused() -> None:
    skeleton = hdas_stages((1, 8, 8), 4, channels=2, cells=(3, 2, 2)).skeleton
    assert isinstance(skeleton, StageNetwork)
    choices = random_graphs(skeleton, np.random.default_rng(0))
    last = [i for i, (_, node) in enumerate(skeleton.edges(0)) if node == 4]
    for i in last:
        choices[i] = (("none", 1.0),)
    with pytest.raises(SpaceError, match=r"^cell 4 of stage 1 has no edge; every cell needs at least one$"):
        skeleton.build(skeleton.without_dead(choices))

"""Cell supernets against plain networks, and cells against sums written out by hand."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hiernas import gates
from hiernas.costs.tables import cost, cost_tables
from hiernas.errors import SpaceError
from hiernas.networks import cell_ops as cells
from hiernas.networks.cell_ops import Cell, DropPath
from hiernas.networks.parts import live_nodes
from hiernas.networks.supernets import CellSupernet
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import darts, hdas_cells, hdas_stages
from planted_cells import LIGHT
from toy import stage_genotype

SPACES = [
    darts((3, 16, 16), 4, channels=4, cells=4),
    darts((3, 16, 16), 4, channels=4, cells=3, search=True),
    hdas_cells((3, 15, 15), 4, channels=4, cells=5),
    hdas_stages((3, 16, 16), 4, channels=4, cells=(2, 4, 3)),
]
by_name = pytest.mark.parametrize("space", SPACES, ids=["darts", "darts-search", "hdas_cells", "hdas_stages"])


def settled(module: nn.Module, size: tuple[int, ...]) -> nn.Module:
    """Random batch-norm statistics and scales, evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean = torch.randn(m.num_features, generator=generator) * 0.1
            m.running_var = torch.rand(m.num_features, generator=generator) + 0.5
            if m.affine:
                nn.init.uniform_(m.weight, 0.5, 1.5, generator=generator)
                nn.init.uniform_(m.bias, -0.2, 0.2, generator=generator)
    return module.eval()


def images(space: SearchSpace, n: int = 3) -> Tensor:
    return torch.randn(n, *space.skeleton.input_size, generator=torch.Generator().manual_seed(1))


@by_name
def test_a_path_computes_what_its_stand_alone_network_computes(space: SearchSpace) -> None:
    supernet = settled(space.supernet(), space.skeleton.input_size)
    rng = np.random.default_rng(0)
    for _ in range(4):
        architecture = space.sample(rng)
        path = gates.of_architecture(space, architecture)
        torch.testing.assert_close(
            supernet(images(space), path), supernet.subnet(architecture).eval()(images(space)), rtol=1e-5, atol=1e-5
        )


@by_name
def test_weights_on_several_edges_and_operations(space: SearchSpace) -> None:
    """An architecture of masks: any number of edges, operations with weights."""
    supernet = settled(space.supernet(), space.skeleton.input_size)
    rng = np.random.default_rng(1)
    choices = []
    for d in space.decisions:
        kept = rng.choice(len(d.options), 2, replace=False)
        choices.append({d.options[i]: float(w) for i, w in zip(sorted(kept), rng.uniform(0.2, 1, 2), strict=True)})
    architecture = space.architecture(dict(zip(space.skeleton.site_names, choices, strict=True)))
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    expected = supernet(images(space), gates.of_architecture(space, architecture))
    torch.testing.assert_close(supernet.subnet(again).eval()(images(space)), expected, rtol=1e-5, atol=1e-5)


def test_softmax_gates_are_the_sum_over_all_options() -> None:
    space = darts((3, 8, 8), 3, channels=4, cells=3, search=True)
    supernet = settled(space.supernet(), (3, 8, 8))
    assert isinstance(supernet, CellSupernet)
    generator = torch.Generator().manual_seed(0)
    alphas = [torch.randn(8, generator=generator, requires_grad=True) for _ in space.decisions]
    out = supernet(images(space), gates.softmax(alphas))

    def by_hand(cell: nn.Module, s0: Tensor, s1: Tensor, logits: list[Tensor]) -> Tensor:
        states, weights = [cell.preprocess0(s0), cell.preprocess1(s1)], iter(logits)
        for node in range(2, 6):
            total = 0
            for source in range(node):
                probabilities = next(weights).softmax(0)
                for p, name in zip(probabilities, cells.OPERATIONS, strict=True):
                    if name != "none":
                        total = total + p * cell.edges[f"{source}_{node}"].ops[name](states[source])
            states.append(total)
        return torch.cat(states[2:], 1)

    s0 = s1 = supernet.stem0(images(space))
    for i, kind in enumerate(space.skeleton.kinds):  # type: ignore[attr-defined]
        logits = alphas[:14] if kind == "normal" else alphas[14:]
        s0, s1 = s1, by_hand(supernet.cells[i], s0, s1, logits)
    torch.testing.assert_close(out, supernet.classifier(s1))
    out.sum().backward()
    assert all(a.grad is not None and a.grad.abs().sum() > 0 for a in alphas)


@by_name
def test_restriction_keeps_the_weights_of_what_is_left(space: SearchSpace) -> None:
    rng = np.random.default_rng(2)
    supernet = settled(space.supernet(), space.skeleton.input_size)
    one, two = space.sample(rng), space.sample(rng)
    kept = {n: {a, b} for n, a, b in zip(space.skeleton.site_names, one.options, two.options, strict=True)}
    smaller_space = space.restrict(kept)
    smaller = supernet.restrict(smaller_space)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in supernet.parameters())
    for a in (one, two):
        expected = supernet(images(space), gates.of_architecture(space, a))
        torch.testing.assert_close(smaller(images(space), gates.of_architecture(smaller_space, a)), expected)
    smaller.classifier[-1].weight.data.zero_()
    assert supernet.classifier[-1].weight.abs().sum() > 0  # copied, not shared
    with pytest.raises(SpaceError, match=r"cannot be restricted to|has no option"):
        smaller.restrict(darts())
    only = space.restrict({space.decisions[0].name: ["skip_connect"]})
    with pytest.raises(SpaceError, match="has no option"):
        supernet.restrict(only).restrict(space)


def test_only_gated_options_are_computed() -> None:
    space = darts((3, 8, 8), 3, channels=4, cells=3)
    supernet = space.supernet()
    architecture = space.sample(np.random.default_rng(0))
    supernet(images(space), gates.of_architecture(space, architecture)).sum().backward()
    trained = {name for name, p in supernet.named_parameters() if p.grad is not None and ".edges." in name}
    chosen = dict(zip(space.skeleton.site_names, architecture.options, strict=True))
    for name in trained:
        _, cell, _, edge, _, option, *_ = name.split(".")
        kind = space.skeleton.kinds[int(cell)]  # type: ignore[attr-defined]
        assert chosen[f"{kind}.{edge.replace('_', '->')}"] == option
    assert trained


def test_a_cell_is_the_sum_of_its_edges() -> None:
    edges = {(0, 2): nn.Conv2d(3, 3, 1), (1, 2): nn.Identity(), (0, 3): nn.Conv2d(3, 3, 1), (2, 3): nn.Conv2d(3, 3, 3, 1, 1)}
    cell = Cell(nn.Identity(), nn.Conv2d(5, 3, 1), edges, nodes=2)
    s0, s1 = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    two = edges[0, 2](s0) + cell.preprocess1(s1)
    three = edges[0, 3](s0) + edges[2, 3](two)
    torch.testing.assert_close(cell(s0, s1), torch.cat([two, three], 1))


def test_drop_path_keeps_the_mean_and_leaves_identities_alone() -> None:
    drop, x = DropPath(), torch.ones(20_000, 1, 1, 1)
    drop.p = 0.3
    torch.manual_seed(0)
    y = drop(x)
    assert set(y.flatten().tolist()) == {0.0, float(torch.tensor(1 / 0.7))}
    assert abs(float(y.mean()) - 1) < 0.02
    assert drop.eval()(x) is x
    cell = Cell(nn.Identity(), nn.Identity(), {(0, 2): nn.Identity(), (1, 2): nn.Conv2d(1, 1, 1)}, nodes=1)
    cell.drop.p = 0.999999
    torch.testing.assert_close(cell(x[:50], x[:50]), x[:50])


def test_dead_cells_are_left_out() -> None:
    assert live_nodes([(0, 2), (1, 2), (0, 3), (1, 3), (2, 4), (3, 4), (4, 5), (1, 5)], (4, 5)) == {0, 1, 2, 3, 4, 5}
    assert live_nodes([(0, 2), (1, 2), (0, 3), (1, 3), (2, 4), (0, 4), (4, 5), (1, 5)], (4, 5)) == {0, 1, 2, 4, 5}
    space = hdas_stages((3, 16, 16), 4, channels=4, cells=(4, 2, 2), window=5)
    rng = np.random.default_rng(0)
    for _ in range(200):
        architecture = space.sample(rng)
        chosen = dict(zip(space.skeleton.site_names, architecture.options, strict=True))
        read = {n for n in chosen if n.startswith("stage1.2->") and chosen[n] != "none"}
        if not read:
            break
    network = architecture.build()
    alive = list(network.stages[0].cells)  # type: ignore[index,union-attr]
    assert "2" not in alive
    assert alive[-2:] == ["4", "5"]
    supernet = settled(space.supernet(), (3, 16, 16))
    hooks: list[int] = []
    supernet.stages[0].cells["2"].register_forward_hook(lambda *_: hooks.append(1))
    supernet(images(space), gates.of_architecture(space, architecture))
    assert not hooks


@pytest.mark.parametrize("size", [(3, 8, 8), (3, 7, 9)])
def test_a_node_without_edges_is_empty(size: tuple[int, int, int]) -> None:
    """In a supernet and in a network, also where what it would read is of an odd size; a later node may read it."""
    space = darts(size, 3, channels=4, cells=3)
    options = dict(zip(space.skeleton.site_names, space.sample(np.random.default_rng(0)).options, strict=True))
    for name in ("reduce.0->2", "reduce.1->2"):
        options[name] = "none"
    options["reduce.2->3"] = "sep_conv_3x3"
    empty = space.architecture(options)
    supernet = settled(space.supernet(), size)
    states: list[Tensor] = []
    supernet.cells[1].register_forward_hook(lambda m, i, o: states.append(o))
    found = supernet(images(space), gates.of_architecture(space, empty))
    assert states[0][:, :8].abs().sum() == 0  # its channels in the concatenation
    assert states[0][:, 8:].abs().sum() > 0
    torch.testing.assert_close(supernet.subnet(empty).eval()(images(space)), found)


# -- one graph for all stages ------------------------------------------------------------------------------------


def shared_and_apart(**more: Any) -> tuple[SearchSpace, SearchSpace]:
    one, three = (hdas_stages((3, 8, 8), 3, channels=4, cells=(3, 3, 3), cell=LIGHT, shared=s, **more) for s in (True, False))
    return one, three


@pytest.mark.parametrize("least", [None, 2])
def test_stages_that_share_a_graph_are_the_network_of_three_equal_graphs(least: int | None) -> None:
    """The same network, costs and weights of its own in each stage; one third of the sites."""
    space, apart = shared_and_apart(least=least)
    assert space.size() == 9 * 27**2 * (2 if least else 1)
    assert apart.size() == space.size() ** 3
    rng, supernet = np.random.default_rng(0), settled(space.supernet(), (3, 8, 8))
    tables, tables_apart = cost_tables(space, None), cost_tables(apart, None)
    for _ in range(2):
        architecture = space.sample(rng)
        chosen = dict(zip(space.skeleton.site_names, architecture.options, strict=True))
        thrice = apart.architecture({site: chosen["stages." + site.partition(".")[2]] for site in apart.skeleton.site_names})
        assert cost(architecture) == cost(thrice)
        genes, genes_apart = space.encode(architecture)[None], apart.encode(thrice)[None]
        for name, table in tables.items():
            assert table.of(genes)[0] == tables_apart[name].of(genes_apart)[0]
        network, other = supernet.subnet(architecture).eval(), thrice.build().eval()
        other.load_state_dict(network.state_dict())
        x = images(space)
        torch.testing.assert_close(supernet(x, gates.of_architecture(space, architecture)), other(x))
        assert torch.equal(network(x), other(x))
    names = [name for name, _ in supernet.named_parameters() if name.startswith("stages.")]
    assert len(names) == 3 * len([name for name in names if name.startswith("stages.0.")])
    smaller = supernet.restrict(space.restrict({site: [option] for site, option in chosen.items()}))
    torch.testing.assert_close(smaller(x, gates.of_architecture(smaller.space, architecture)), network(x))


def test_a_shared_graph_is_read_and_written_as_three() -> None:
    space, apart = shared_and_apart()
    architecture = space.sample(np.random.default_rng(0))
    written = stage_genotype(architecture)
    assert written["stage"]["DAG1"] == written["stage"]["DAG2"] == written["stage"]["DAG3"]
    assert space.architecture(written) == architecture
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    assert cost(apart.architecture(written)) == cost(architecture)
    other = next(a for a in map(apart.sample, [np.random.default_rng(1)] * 9) if a.options[:8] != a.options[8:16])
    with pytest.raises(SpaceError, match="share one graph, and DAG1, DAG2 and DAG3 differ"):
        space.architecture(stage_genotype(other))
    with pytest.raises(SpaceError, match="share one graph have as many cells each, not 3, 2, 2"):
        hdas_stages((3, 8, 8), 3, channels=4, cells=(3, 2, 2), shared=True)
    assert hdas_stages(shared=True).size() == 9 * 27**5  # the cube root of the paper's 10^24

"""Vital blocks: the paper's rule on spaces, published networks written by hand, and paths counted one by one."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from handmade import BasicBlock, MobileNetV2, ResNet18
from torch import Tensor, nn

from hiernas import spaces
from hiernas.commands.vital import Block, blocks_of_graph, blocks_of_network, blocks_of_space
from hiernas.costs.tables import cost, cost_tables
from hiernas.errors import SpaceError
from hiernas.methods.hournas import vital_sites
from hiernas.networks.graph import Call, Graph, Region, graph_of_network, graph_of_program, regions
from hiernas.networks.ops import Conv, MBConv, Op, Skip
from hiernas.space import SearchSpace
from hiernas.spaces import Stage, chain_space


def first_blocks(*stages: int) -> tuple[str, ...]:
    return tuple(f"stage{i}.block1" for i in stages)


# In each space the stages change width, so that their first blocks are vital; but where stage 1 is as wide as the stem
# and keeps its size, its first block can be skipped or is residual.
VITAL = {
    "efficientnet": first_blocks(1, 2, 3, 4, 5, 6, 7),  # stem 32, stage 1: 16
    "fbnet": first_blocks(2, 3, 4, 5, 6, 7),  # 16, 16
    "fbnet_enlarged": first_blocks(2, 3, 4, 5, 6, 7),
    "hnas_basic": first_blocks(1, 2, 3, 4, 5, 6, 7),  # 32, 16
    "hnas_large": first_blocks(2, 3, 4, 5, 6, 7),  # 16, 16
    "mnasnet": first_blocks(1, 2, 3, 4, 5, 6, 7),  # 32, 16
    "mobilenetv2": first_blocks(1, 2, 3, 4, 5, 6, 7),  # 32, 16
    "nasbench_macro": first_blocks(1, 2, 3),  # 32, 64
    "proxyless": first_blocks(1, 2, 3, 4, 5, 6, 7),  # 32, 16
    "tiny": first_blocks(2, 3, 4),  # 16, 16
}
CELLS = ("darts", "hdas_cells", "hdas_stages")


@pytest.mark.parametrize("name", [name for name in spaces.NAMES if not name.startswith(("darts", "hdas"))])
def test_vital_sites_of_every_chain_space(name: str) -> None:
    space = getattr(spaces, name)()
    assert vital_sites(space) == VITAL[name]
    blocks = blocks_of_space(space)
    sites = [d.name for d in space.decisions]
    assert [b.name for b in blocks] == ["stem", *sites, "head", "classifier"]
    assert [b.name for b in blocks if b.vital] == ["stem", *VITAL[name], "head", "classifier"]
    assert sum(b.count.params for b in blocks) == cost_tables(space, None)["params"].largest


def test_width_alone_makes_a_block_vital() -> None:
    """For 32 pixels fewer stages halve the image; their first blocks still change the width."""
    assert vital_sites(spaces.fbnet((3, 32, 32), 10)) == VITAL["fbnet"]
    still = [Stage(8, 2, 1, (MBConv(3, 1),)), Stage(8, 2, 2, (MBConv(3, 1),))]
    assert vital_sites(chain_space("still", (3, 16, 16), 2, stem=8, stages=still, head=8)) == ("stage2.block1",)


@pytest.mark.parametrize("name", CELLS)
def test_spaces_of_cells_are_refused(name: str) -> None:
    with pytest.raises(SpaceError, match=rf"'{name}' is a space of cells; name a chain space"):
        vital_sites(getattr(spaces, name)())


# -- operations of a user's own ----------------------------------------------------------------------------------------


class Own(nn.Module):
    """A convolution, and how its output meets its input."""

    def __init__(self, channels: int, meet: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.meet = meet

    def forward(self, x: Tensor) -> Tensor:
        return self.meet(x, self.conv(x))


@dataclass(frozen=True)
class OwnOp:
    meet: Callable[[Tensor, Tensor], Tensor]
    name: str = "own"

    def describe(self) -> str:
        return self.name

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        return nn.Sequential(Own(cin, self.meet), nn.ReLU())


MEETINGS: list[tuple[Callable[[Tensor, Tensor], Tensor], bool]] = [
    (lambda x, y: x + y, False),
    (lambda x, y: F.relu(x) - 0.5 * y, False),
    (lambda x, y: torch.cat([x, y], 1)[:, ::2], False),
    (lambda x, y: x * y.sigmoid(), True),  # a gate: without the convolution nothing is let through
    (lambda x, y: x * x.sigmoid() + y, False),
    (lambda x, y: y, True),
    (lambda x, y: torch.zeros_like(x) + y, True),  # zeros carry nothing
    (lambda x, y: y + x.shape[2], True),  # neither does a size
]


@pytest.mark.parametrize(("meet", "vital"), MEETINGS)
def test_operations_of_a_users_own_are_judged_by_their_graph(meet: Callable[[Tensor, Tensor], Tensor], vital: bool) -> None:
    own = OwnOp(meet)
    expected = ("stage1.block1",) * vital
    assert vital_sites(one_site(own)) == expected
    assert vital_sites(one_site(own, MBConv(3, 2))) == expected  # residual
    assert vital_sites(one_site(own, Conv(3))) == ("stage1.block1",)  # through one option all information passes layers
    assert vital_sites(one_site(own, Conv(3), Skip())) == ()


def one_site(*ops: Op) -> SearchSpace:
    return chain_space("own", (3, 8, 8), 2, stem=4, stages=[Stage(4, 1, 1, ops)], head=4)


# -- networks ----------------------------------------------------------------------------------------------------------


def as_pairs(blocks: list[Block]) -> dict[str, bool]:
    return {b.name: b.vital for b in blocks}


def test_resnet_18() -> None:
    """A block with a projection shortcut is vital. torchvision counts 11,689,512 parameters and 1.814 GMACs."""
    blocks = blocks_of_network(ResNet18(), (3, 224, 224))
    assert as_pairs(blocks) == {
        "conv1 + bn1": True,
        "layer1.0": False,
        "layer1.1": False,
        "layer2.0": True,
        "layer2.1": False,
        "layer3.0": True,
        "layer3.1": False,
        "layer4.0": True,
        "layer4.1": False,
        "fc": True,
    }
    assert sum(b.count.params for b in blocks) == 11_689_512
    assert sum(b.count.macs for b in blocks) == 1_814_073_344


def test_mobilenet_v2() -> None:
    """Vital are the first blocks of the seven stages; torchvision counts 3,504,872 parameters and 300.8 MMACs."""
    blocks = blocks_of_network(MobileNetV2(), (3, 224, 224))
    names = [*(f"features.{i}" for i in range(19)), "classifier"]
    assert [b.name for b in blocks] == names
    vital = {*(f"features.{i}" for i in (0, 1, 2, 4, 7, 11, 14, 17, 18)), "classifier"}
    assert {b.name for b in blocks if b.vital} == vital
    assert sum(b.count.params for b in blocks) == 3_504_872
    assert sum(b.count.macs for b in blocks) == 300_774_272


@pytest.mark.parametrize(("name", "samples"), [("tiny", 3), ("nasbench_macro", 2), ("mnasnet", 1), ("fbnet", 1)])
def test_spaces_and_graphs_agree(name: str, samples: int) -> None:
    """The blocks of sampled networks are vital where the space says so, and cost what the whole network does."""
    space = getattr(spaces, name)((3, 32, 32), 7)
    rng = np.random.default_rng(1)
    for architecture in (space.sample(rng) for _ in range(samples)):
        blocks = blocks_of_network(architecture.build(), (3, 32, 32))
        found = as_pairs(blocks)
        for site in space.skeleton.sites:
            option = architecture.options[space.skeleton.site_names.index(site.name)]
            left_out = type(site.build(option)) is nn.Identity
            assert found.pop(site.name.replace(".", "_"), None) == (None if left_out else site.name in VITAL[name])
        assert found == {"stem.0": True, "head.0": True, "head.1": True}
        whole = cost(architecture)
        assert sum(b.count.params for b in blocks) == whole.params
        assert sum(b.count.macs for b in blocks) == whole.macs


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = inner
        self.scale = nn.Parameter(torch.ones(()))
        self.last = nn.Linear(classes, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.backbone(x) * self.scale)


class Stages(nn.Module):
    """Blocks in a list, within a module that is no container."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([BasicBlock(3, 3, 1), BasicBlock(3, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x.mean((2, 3))


def test_blocks_within_wrappers_are_found() -> None:
    small = (4, 4, 8, 8)
    plain = blocks_of_network(ResNet18(small, 5), (3, 32, 32))
    *inner, scale, last = blocks_of_network(Wrapped(ResNet18(small, 5), 5), (3, 32, 32))
    assert [(b.name.replace("backbone.", ""), b.vital, b.count) for b in inner] == [(b.name, b.vital, b.count) for b in plain]
    assert (scale.name, scale.vital, scale.count.params) == ("scale", True, 1)
    assert (last.name, last.vital, last.count.params, last.count.macs) == ("last", True, 12, 10)
    listed = as_pairs(blocks_of_network(Wrapped(Stages(), 3), (3, 8, 8)))
    assert listed == {"backbone.stages.0": False, "backbone.stages.1": False, "scale": True, "last": True}


class InPlace(nn.Module):
    """x + a(x), written as a change of x whose result nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x.add_(self.a(x))
        return self.fc(F.relu_(self.b(x)).mean((2, 3)))


def test_changes_in_place_are_followed() -> None:
    found = as_pairs(blocks_of_network(InPlace(), (3, 8, 8)))
    assert found == {"stem": True, "a": False, "b": True, "fc": True}


def test_transformer_blocks_are_not_vital() -> None:
    """An encoder layer has two residual sums, one around attention, one around the other layers: it stays one block."""
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True) for _ in range(2)]
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(2), nn.Linear(4, 8), *layers, nn.Flatten(), nn.Linear(32, 3))
    blocks = blocks_of_network(network, (3, 8, 8))
    assert as_pairs(blocks) == {"0": True, "2": True, "3": False, "4": False, "6": True}
    assert sum(b.count.params for b in blocks) == sum(p.numel() for p in network.parameters())


def test_reading_a_network_changes_nothing() -> None:
    network = ResNet18((4, 4, 8, 8), 5)
    network.layer2.eval()
    modes = [m.training for m in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    blocks_of_network(network, (3, 32, 32))
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, when it copies a program
def test_an_exported_program_has_the_networks_blocks() -> None:
    network, images = ResNet18((4, 4, 8, 8), 5), torch.zeros(2, 3, 32, 32)
    program = torch.export.export(network.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert blocks_of_graph(graph_of_program(torch.export.load(file))) == blocks_of_network(network, (3, 32, 32))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


def test_networks_without_a_graph_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"the graph of this Branching cannot be read for .*: .*; it must be a network that"):
        blocks_of_network(Branching(), (3, 8, 3))
    with pytest.raises(SpaceError, match=r"the graph of this Conv2d cannot be read for images \[2, 8, 8\]"):
        blocks_of_network(nn.Conv2d(3, 4, 1), (2, 8, 8))
    with pytest.raises(SpaceError, match="no layers between its first input and its first output"):
        blocks_of_network(nn.Flatten(), (3, 8, 8))
    assert as_pairs(blocks_of_network(nn.Linear(8, 2), (3, 8, 8))) == {"Linear": True}


# -- paths, one by one -------------------------------------------------------------------------------------------------


def random_graph(rng: np.random.Generator, nodes: int, products: float) -> Graph:
    """Calls 0 .. nodes - 1, each on some before it; the last one is the output, and every call leads to it."""
    sources: list[list[str]] = []
    for i in range(nodes):
        before = ["in", *map(str, range(i))]
        some = rng.choice(before[-4:], size=min(len(before[-4:]), int(rng.integers(1, 3))), replace=False)
        sources.append([str(s) for s in some])
    unused = [str(i) for i in range(nodes - 1) if not any(str(i) in s for s in sources)]
    sources[-1] = list(dict.fromkeys([*sources[-1], *unused]))
    calls = {}
    for i, taken in enumerate(sources):
        parameters = (f"m{i}.weight",) if rng.random() < 0.5 else ()
        calls[str(i)] = Call(str(i), tuple(taken), bool(rng.random() < products), "", parameters, 0)
    return Graph("in", str(nodes - 1), calls, {}, {})


def paths(graph: Graph, start: str, end: str) -> list[list[str]]:
    """Every path from one call to another, as the calls on it."""
    if start == end:
        return [[end]]
    sources = graph.calls[end].sources if end in graph.calls else ()
    return [[*path, end] for source in sources for path in paths(graph, start, source)]


def test_a_block_is_vital_if_every_path_takes_it() -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for _ in range(60):
        graph = random_graph(rng, int(rng.integers(3, 9)), 0.0)
        ways = paths(graph, graph.start, graph.end)
        names = list(graph.calls)
        for closed in [*itertools.combinations(names, 1), *itertools.combinations(names, 2)]:
            passes = any(not set(closed) & set(way) for way in ways)
            assert graph.passes(closed) == passes
            seen.add(passes)
    assert seen == {False, True}


def test_products_are_zero_where_a_factor_is() -> None:
    """Against numbers: the input is 1, sums are sums, products are products, closed calls are 0."""
    rng = np.random.default_rng(6)
    for _ in range(60):
        graph = random_graph(rng, int(rng.integers(3, 9)), 0.4)
        closed = {name for name in graph.calls if rng.random() < 0.2}
        values: dict[str, int] = {"in": 1}
        for call in graph.calls.values():
            taken = [values[s] for s in call.sources]
            values[call.name] = 0 if call.name in closed else int(np.prod(taken)) if call.product else sum(taken)
        assert graph.passes(closed) == (values[graph.end] > 0)


def test_identities_lead_from_one_dominator_to_the_next() -> None:
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(80):
        graph = random_graph(rng, int(rng.integers(3, 9)), 0.0)
        layers = graph.layers_of("")
        ways = paths(graph, graph.start, graph.end)
        on_all = [name for name in ("in", *graph.calls) if all(name in way for way in ways)]
        expected = {}
        for number, (first, last) in enumerate(itertools.pairwise(on_all)):
            between = paths(graph, first, last)
            if any(not layers & set(way[1:]) for way in between):
                expected |= {name: number for way in between for name in way[1:-1] if name in layers}
        assert dict(graph.bypassed) == expected
        found += len(expected)
    assert found > 20


def test_every_layer_belongs_to_one_block() -> None:
    rng = np.random.default_rng(8)
    for _ in range(20):
        graph = random_graph(rng, 8, 0.2)
        if not graph.layers_of(""):
            continue
        blocks: Mapping[str, Region] = {r.name: r for r in regions(graph)}
        assert sorted(layer for r in blocks.values() for layer in r.layers) == sorted(graph.layers_of(""))


def test_what_is_added_to_the_identity() -> None:
    graph = graph_of_network(ResNet18((4, 4, 8, 8), 5), (3, 32, 32))
    ends = {r.name: [graph.calls[e].module for e in graph.branch_ends(r)] for r in regions(graph)}
    assert ends["layer1.0"] == ["layer1.0.bn2"]
    assert ends["layer2.0"] == ends["conv1 + bn1"] == ends["fc"] == []

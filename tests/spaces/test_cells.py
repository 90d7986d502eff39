"""Cell spaces against published networks, closed forms and enumeration."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hiernas.costs.tables import Count, cost, cost_tables, count
from hiernas.errors import SpaceError
from hiernas.networks import cell_ops as cells
from hiernas.networks.ops import Op
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import darts, hdas_cells, hdas_stages

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "facts" / "reference_models.json"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="the reference models are not beside the checkout")


def reference_models() -> list[dict]:
    models = json.loads(REFERENCE.read_text())["models"] if REFERENCE.exists() else []
    return [m for m in models if m["space"] in ("darts", "h_das")]


def space_of(model: dict) -> SearchSpace:
    function = darts if model["space"] == "darts" else hdas_stages if "stage" in model["encoding"] else hdas_cells
    return function(input_size=tuple(model["input_size"]), num_classes=model["num_classes"])


@needs_reference
@pytest.mark.parametrize("model", reference_models(), ids=lambda m: m["name"])
def test_published_network(model: dict) -> None:
    space = space_of(model)
    architecture = space.architecture(model["encoding"])
    whole = cost(architecture)
    assert (whole.params, whole.macs) == (model["params"], model["macs"])
    tables, genes = cost_tables(space, None), space.encode(architecture)[None]
    assert [tables[name].of(genes)[0] for name in ("params", "macs")] == [model["params"], model["macs"]]


@needs_reference
def test_no_reference_model_is_left_out() -> None:
    assert [m["space"] for m in reference_models()].count("darts") == 9
    assert len(reference_models()) == 11


def test_claimed_sizes() -> None:
    cell = 180 * 7**8
    assert darts().size() == cell**2 == 1076746950455072400
    assert hdas_cells().size() == cell**5  # H-DAS: 1e45
    assert hdas_stages().size() == (9 * 27**5) ** 3  # H-DAS: 1e24
    assert hdas_stages(cells=26).size() == (9 * 27**7) ** 3  # H-DAS: 1e33
    assert hdas_stages(cells=(2, 3, 4), window=7).size() == 9 * 27 * 9 * 27 * 54 * 9 * 27 * 54 * 90


def test_parts_that_papers_count_apart() -> None:
    # DARTS' search network, and auxiliary heads, as the authors' code has them
    assert sum(p.numel() for p in darts(search=True).supernet().parameters()) == 1_930_618
    rng = np.random.default_rng(0)
    for size, classes, expected in (((3, 32, 32), 10, 476_426), ((3, 224, 224), 1000, 1_260_776)):
        with_head, without = (darts(size, classes, auxiliary=a).sample(rng) for a in (True, False))
        head = with_head.build().auxiliary
        assert sum(p.numel() for p in head.parameters()) == expected  # type: ignore[union-attr]
        assert cost(with_head) == cost(Architecture(with_head.skeleton, with_head.choices))
        assert cost(without) == cost(darts(size, classes, auxiliary=True).architecture(named(without)))


def named(architecture: Architecture) -> dict[str, str]:
    return dict(zip(architecture.skeleton.site_names, architecture.options, strict=True))


@pytest.mark.parametrize("stride", [1, 2])
def test_closed_forms(stride: int) -> None:
    rng = np.random.default_rng(stride)
    for _ in range(5):
        c, h = int(rng.integers(1, 20)) * 2, int(rng.integers(2, 9)) * 2
        out = (h // stride) ** 2
        for k in (3, 5):
            sep, dil = 2 * (k * k * c + c * c), k * k * c + c * c
            found = [counted(cells.operation(name), c, c, stride, h) for name in pair(k)]
            assert found == [Count(sep + 4 * c, sep * out), Count(dil + 2 * c, dil * out)]
        reduced = counted(cells.ReLUConv(1), c, 2 * c, 2, h)
        assert reduced == Count(2 * c * c + 4 * c, 2 * c * c * (h // 2) ** 2)
        for pool in ("max_pool_3x3", "avg_pool_3x3"):
            assert counted(cells.operation(pool), c, c, stride, h) == Count(0, 0)


def counted(op: Op, cin: int, cout: int, stride: int, side: int) -> Count:
    return count(lambda: op.build(cin, cout, stride), (cin, side, side))


def pair(k: int) -> tuple[str, str]:
    return f"sep_conv_{k}x{k}", f"dil_conv_{k}x{k}"


def test_odd_sizes_are_halved_upwards() -> None:
    for side in (5, 7, 8, 9):
        x = torch.randn(2, 4, side, side)
        assert cells.FactorizedReduce(4, 6).eval()(x).shape == (2, 6, -(-side // 2), -(-side // 2))
    even, shifted = torch.arange(16.0).reshape(1, 1, 4, 4), cells.FactorizedReduce(1, 2).eval()
    torch.nn.init.ones_(shifted.even.weight)
    torch.nn.init.ones_(shifted.odd.weight)
    expected = torch.tensor([[0.0, 2, 8, 10], [5, 7, 13, 15]]) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(shifted(even).flatten(2)[0], expected)


def first_two(space: SearchSpace) -> dict[str, list[str]]:
    """Restrictions that leave one architecture: the edges from the inputs are identities, there are no others."""
    names = space.skeleton.site_names
    return {name: ["skip_connect"] if ".0->" in name or ".1->" in name else ["none"] for name in names}


def test_size_equals_the_architectures_listed() -> None:
    free = {
        "normal.1->2": ["skip_connect", "none", "max_pool_3x3"],  # 2, since node 2 needs both of its edges
        "normal.0->3": ["none", "skip_connect"], "normal.1->3": ["none", "skip_connect", "sep_conv_3x3"],
        "normal.2->3": ["none", "max_pool_3x3"],  # with those: (0, 1) 2, (0, 2) 1, (1, 2) 2
        **{f"reduce.{i}->5": ["none", "dil_conv_5x5"] for i in range(5)},  # 10 pairs
    }  # fmt: skip
    whole = darts(channels=4, cells=3)
    space = whole.restrict({**first_two(whole), **free})
    listed = list(space)
    assert len(listed) == len(set(listed)) == space.size() == 2 * 5 * 10
    assert listed == sorted(listed, key=lambda a: space.encode(a).tolist())
    genes = np.array([space.encode(a) for a in listed])
    for table in cost_tables(space, None).values():
        assert (table.of(genes).min(), table.of(genes).max()) == (table.smallest, table.largest)
    drawn = [tuple(g) for g in space.sample_encoded(np.random.default_rng(0), 10_000).tolist()]
    counts = [drawn.count(tuple(g)) for g in genes.tolist()]
    assert sum(counts) == 10_000
    assert max(abs(n - 100) for n in counts) < 45  # four and a half standard deviations


def test_nodes_keep_two_edges() -> None:
    space = darts()
    genes = space.sample_encoded(np.random.default_rng(0), 50)
    assert all((space.encode(space.decode(g)) == g).all() for g in genes)
    broken = genes[0].copy()
    broken[:2] = 0
    with pytest.raises(SpaceError, match=r"normal\.1->2: exactly 2 must be other than 'none', and the options are none, none"):
        space.decode(broken)
    with pytest.raises(SpaceError, match=r"exactly 2 must .*, and these options leave no way"):
        space.restrict({"normal.0->2": ["none"]})
    three = space.architecture({**named(space.decode(genes[0])), **dict.fromkeys(three_edges(), "skip_connect")})
    assert three.build()(torch.randn(2, 3, 32, 32)).shape == (2, 10)  # masks may keep more; the space itself does not
    with pytest.raises(SpaceError, match=r"exactly 2 must be .* are skip_connect, skip_connect, skip_connect$"):
        space.encode(three)


def three_edges() -> list[str]:
    return ["normal.0->3", "normal.1->3", "normal.2->3"]


@pytest.mark.parametrize("side", [5, 8, 9, 28, 32, 33, 64, 79, 80, 127, 128, 160, 224])
def test_no_image_becomes_a_point(side: int) -> None:
    for function in (darts, hdas_cells, hdas_stages):
        fixed, _ = function((1, side, side), 3, channels=4).skeleton.parts()  # type: ignore[attr-defined]
        assert min(fixed[-1].size) >= 2


def test_large_images_begin_at_an_eighth() -> None:
    for function in (darts, hdas_cells, hdas_stages):
        at = {side: function((3, side, side), 3).skeleton for side in (79, 80, 224)}
        assert [skeleton.stem for skeleton in at.values()] == ["cifar", "imagenet", "imagenet"]  # type: ignore[attr-defined]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(SpaceError, match="unknown stem 'resnet'; known: imagenet, cifar"):
        darts(stem="resnet")
    with pytest.raises(SpaceError, match="stem 'imagenet' brings images of 32 pixels down to one"):
        darts(stem="imagenet")
    with pytest.raises(SpaceError, match="images of 4 pixels are too small"):
        hdas_cells((3, 4, 4))
    with pytest.raises(SpaceError, match="has 3 to 200 cells and an even number of channels up to 65536, not 2 and 36"):
        darts(cells=2)
    with pytest.raises(SpaceError, match="21 cells cannot be spread evenly"):
        hdas_stages(cells=21)
    with pytest.raises(SpaceError, match="window of 1"):
        hdas_stages(window=1)


@pytest.mark.parametrize(
    "space",
    [
        darts(channels=4, cells=5, auxiliary=True),
        hdas_cells((1, 12, 12), 5, channels=4, cells=5, search=True),
        hdas_stages((3, 16, 16), 7, channels=4, cells=(2, 3, 2), cell="HC_DAS", window=4),
        hdas_stages((3, 128, 128), 6, channels=4, cells=(2, 2, 2), cell="PDARTS"),
    ],
    ids=lambda s: s.name,
)
def test_files_bring_a_network_back(space: SearchSpace, tmp_path: Path) -> None:
    architecture = space.sample(np.random.default_rng(3))
    architecture.save(tmp_path / "a.json")
    again = Architecture.load(tmp_path / "a.json")
    assert again == architecture
    assert {k: v.shape for k, v in again.build().state_dict().items()} == {
        k: v.shape for k, v in architecture.build().state_dict().items()
    }

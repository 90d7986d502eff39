"""Output filters: what stays is the same function, costs are sums, gradients are those of finite differences, limits hold."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from export.generated import computes, written
from hiernas import spaces
from hiernas.budget import Limit
from hiernas.commands.train import transfer
from hiernas.costs.tables import Cost, cost, cost_tables, parts_of_space
from hiernas.data import ImageData, load_data
from hiernas.data.images import InMemory
from hiernas.data.split import Split
from hiernas.errors import ConfigError, ExportError, LimitError, SpaceError
from hiernas.export import export, timm_network
from hiernas.latency import Entry, LatencyTable
from hiernas.methods.hmnas import PRESETS, _filtered, plan
from hiernas.methods.hmnas.filter_masks import FilterArchitect, filters_within, with_fewer_filters
from hiernas.methods.hmnas.masks import MaskSettings
from hiernas.networks.cell_ops import operation
from hiernas.networks.filters import masked, outputs_of, tails_of
from hiernas.networks.genotype import genotype
from hiernas.networks.ops import MBConv
from hiernas.problem import Start
from hiernas.report.page import words
from hiernas.run.folder import RunFolder
from hiernas.run.request import Request
from hiernas.run.search import resume, search
from hiernas.run.settings import with_settings
from hiernas.search.differentiable import counted
from hiernas.space import Architecture, SearchSpace
from methods.test_contract import SPACES, binding_limits, latency_file, tiny_config
from toy import budget

SIZE = (1, 8, 8)
NO_IMAGES = Split(InMemory(torch.zeros(0, *SIZE, dtype=torch.uint8)), torch.zeros(0, dtype=torch.int64))
BLOCKS = (MBConv(3, 1), MBConv(3, 2, se=True), MBConv(5, 2, groups=2))
CHAIN = spaces.chain_space(
    "chain", SIZE, 3, stem=8, stem_stride=2, stages=[spaces.Stage(8, 2, 1, BLOCKS, skip=True), spaces.Stage(12, 1, 2, BLOCKS)],
    head=16,
)  # fmt: skip
FEW = spaces.chain_space(
    "few", SIZE, 3, stem=3, stages=[spaces.Stage(3, 2, 1, (MBConv(3, 1),)), spaces.Stage(4, 1, 2, (MBConv(3, 2),))], head=4
)
CELLS = spaces.darts(SIZE, 3, channels=4, cells=3, pool_bn=True, auxiliary=False)
GRAPHS = spaces.hdas_stages(SIZE, 3, channels=2, cells=(3, 2, 2), cell="DARTS_V2")


def mixed(space: SearchSpace, kept: Mapping[str, float], others: str = "none") -> Architecture:
    """A network with the same operations everywhere."""
    choices = (dict(kept) if set(kept) <= set(d.options) else others for d in space.decisions)
    return space.architecture(list(choices))


def chain() -> Architecture:
    """A residual block with every option beside the identity, one of a single operation, a mixture at stride 2."""
    every = {"k3_e1": 0.4, "k3_e2_se": 0.3, "k5_e2_g2": 0.2, "skip": 0.1}
    return CHAIN.architecture([every, "k3_e2_se", {"k3_e1": 0.75, "k3_e2_se": 0.25}])


def graphs() -> Architecture:
    """Every cell reads the two states before it, so that none is dead."""
    pairs = (d.name.partition(".")[2].split("->") for d in GRAPHS.decisions)
    return GRAPHS.architecture(["avg_pool_3x3" if int(n) - int(s) <= 2 else "none" for s, n in pairs])


NETWORKS: dict[str, Any] = {
    "chain": chain,
    "cells": lambda: mixed(CELLS, {"sep_conv_3x3": 0.5, "dil_conv_5x5": 0.25, "skip_connect": 0.25}),
    "stages": graphs,
}


def trained(network: nn.Module) -> nn.Module:
    """With statistics and scales that differ by channel, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            bounds = ((m.running_mean, -0.3, 0.3), (m.running_var, 0.5, 2), (m.weight, 0.5, 1.5), (m.bias, -1, 1))
            for tensor, low, high in bounds:
                tensor.data.uniform_(low, high, generator=generator)
    return network.eval()


def images(n: int = 4) -> Tensor:
    return torch.randn(n, *SIZE, generator=torch.Generator().manual_seed(2))


def some_filters(architecture: Architecture, seed: int = 0) -> Architecture:
    """About half of the filters of each operation, at random, with one of the first and all of the last."""
    rng = np.random.default_rng(seed)
    outputs = outputs_of(architecture.build, SIZE)[:-1]
    kept = {o.path: sorted(rng.choice(o.channels, size=max(1, o.channels // 2), replace=False).tolist()) for o in outputs}
    kept[outputs[0].path] = kept[outputs[0].path][:1]
    return Architecture(architecture.skeleton, architecture.choices, tuple((p, tuple(k)) for p, k in kept.items()))


def rows_of(network: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """Masks of 0 and 1 as an architecture has them."""
    kept = dict(architecture.filters)
    widths = {path: tail.conv.out_channels for path, tail in tails_of(network).items()}
    return {p: torch.tensor([float(i in kept.get(p, range(n))) for i in range(n)]) for p, n in widths.items()}


def narrow_state(whole: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """The weights of the small network, cut out of the whole one's by hand."""
    state = dict(whole.state_dict())
    for path, kept in architecture.filters:
        names = [name for name in state if name.startswith(f"{path}.")]
        last = max(int(name.split(".")[-2]) for name in names if "reduce" not in name and "expand" not in name)
        for name in names:
            if name.split(".")[-2] in (str(last - 1), str(last)) and state[name].ndim:
                state[name] = state[name][list(kept)]
    return state


# -- the network without filters ---------------------------------------------------------------------------------


def test_which_operations_have_output_filters() -> None:
    found = {name: [o.path for o in outputs_of(make().build, SIZE)] for name, make in NETWORKS.items()}
    blocks = ["stage1_block1.ops.0", "stage1_block1.ops.1", "stage1_block2", "stage2_block1.ops.0", "stage2_block1.ops.1"]
    assert found["chain"] == blocks  # not the one in groups, nor the identity, stem and head
    assert len(found["cells"]) == 3 * 14 * 2
    assert found["cells"][:3] == [f"cells.0.edges.{edge}" for edge in ("0_2.ops.1", "0_2.ops.2", "1_2.ops.1")]  # not the skip
    normal, reduction = (sum("conv" in op for node in g for op, _ in node) for g in _graphs("DARTS_V2"))
    assert len(found["stages"]) == (3 + 2 + 2) * normal + 2 * reduction


def _graphs(name: str) -> Any:
    found = genotype(name)
    return found.graph("normal1"), found.graph("reduce1")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_small_network_computes_what_the_masked_one_does(name: str) -> None:
    architecture = NETWORKS[name]()
    small = some_filters(architecture)
    whole, network = trained(architecture.build()), small.build().eval()
    network.load_state_dict(narrow_state(whole, small))
    tails, rows, x = tails_of(whole), rows_of(whole, small), images()
    with torch.no_grad():
        with masked([tails[path].norm for path in rows], list(rows.values())):
            expected = whole(x)
        assert (network(x) - expected).abs().max() < 1e-5 * expected.abs().max().clamp_min(1)
        assert (whole(x) - expected).abs().max() > 1e-3  # and what was dropped mattered; the masks are off again

    before, after = cost(architecture), cost(small)
    by_path = {o.path: o for o in outputs_of(architecture.build, SIZE)}
    dropped = {path: by_path[path].channels - len(kept) for path, kept in small.filters}
    assert after.params == before.params - sum(n * by_path[path].params for path, n in dropped.items())
    assert after.macs == before.macs - sum(n * by_path[path].macs for path, n in dropped.items())
    assert after.params == sum(p.numel() for p in network.parameters())


def test_what_a_filter_costs() -> None:
    by_path = {o.path: o for o in outputs_of(chain().build, SIZE)}
    projection = by_path["stage2_block1.ops.1"]  # from 8 * 2 channels at 2 x 2 pixels
    assert (projection.channels, projection.params, projection.macs) == (12, 16 + 2, 16 * 4)
    pointwise = outputs_of(NETWORKS["cells"]().build, SIZE)[0]  # in the first cell, 4 channels at 8 x 8 pixels
    assert (pointwise.channels, pointwise.params, pointwise.macs) == (4, 4 + 2, 4 * 64)
    plain = operation("dil_conv_3x3", affine=False)
    (output,) = outputs_of(lambda: nn.Sequential(*[nn.Identity()], plain.build(6, 6, 2)), (6, 7, 7))
    assert (output.channels, output.params, output.macs) == (6, 6, 6 * 16)  # batch norm without numbers; odd sizes


def test_an_architecture_with_filters_is_a_value_of_json(tmp_path: Path) -> None:
    small = some_filters(NETWORKS["cells"]())
    small.save(tmp_path / "a.json")
    read = Architecture.load(tmp_path / "a.json")
    assert read == small
    assert hash(read) == hash(small)
    assert "filters" not in NETWORKS["cells"]().to_json()
    wide = transfer(small, (3, 32, 32), 10, "cifar")
    assert (wide.filters, wide.choices) == ((), small.choices)  # they belong to the widths they were learned in


PATH = "cells.0.edges.0_2.ops.1"
BAD: dict[str, tuple[Any, str]] = {
    "no object": ([1, 2], "filters: input should be a valid dictionary"),
    "no list": ({PATH: "0"}, f"filters.{PATH}: input should be a valid list"),
    "no number": ({PATH: [0, "1"]}, f"filters.{PATH}.1: input should be a valid integer"),
    "no index": ({PATH: [True, 2]}, f"filters.{PATH}.0: input should be a valid integer"),
    "path": ({"cells.9.edges.0_2": [0]}, f"no operation there that has output filters, as '{PATH}' has"),
    "identity": ({"cells.0.edges.0_2.ops.0": [0]}, "filters of 'cells.0.edges.0_2.ops.0': the network has no operation there"),
    "beyond": ({PATH: [0, 4]}, f"filters of '{PATH}': there is no filter 4; it has 4, which count from 0"),
    "below": ({PATH: [-1, 2]}, "there is no filter -1"),
    "order": ({PATH: [2, 1]}, "must be at least one index, each greater than the one before"),
    "twice": ({PATH: [1, 1]}, "must be at least one index"),
    "nothing": ({PATH: []}, r"\[\] must be at least one index"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_filters_are_refused(case: str) -> None:
    filters, message = BAD[case]
    value = {**NETWORKS["cells"]().to_json(), "filters": filters}
    with pytest.raises(SpaceError, match=message) as caught:
        Architecture.from_json(value, source="best")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["chain", "cells"])
def test_a_python_file_without_the_filters(name: str, tmp_path: Path) -> None:
    small = some_filters(NETWORKS[name]())
    network = trained(small.build())
    text, module = written(network, tmp_path / "files", small)
    assert "class Spread(nn.Module):" in text
    read = module.load(tmp_path / "files" / "best.pt")
    assert sum(p.numel() for p in read.parameters()) == cost(small).params
    np.testing.assert_allclose(computes(read, images()), computes(network, images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_files_without_the_filters(to: str, tmp_path: Path) -> None:
    small = some_filters(next(iter(FEW)))
    found = export(trained(small.build()), images(), tmp_path / f"best.{to}", to, {}, small)  # compares the outputs
    assert found.largest_difference < 1e-5


def test_timm_has_no_words_for_it() -> None:
    small = some_filters(CHAIN.architecture(["k3_e1", "k3_e2_se", "k3_e2_se"]))
    with pytest.raises(ExportError, match="some of its operations keep only a part of their output filters"):
        timm_network(small)


# -- masks -------------------------------------------------------------------------------------------------------


def architect(
    architecture: Architecture, limits: tuple[Limit, ...] = (), network: nn.Module | None = None, **more: Any
) -> FilterArchitect:
    network = network or architecture.build()
    outputs = outputs_of(architecture.build, SIZE)
    return FilterArchitect(network, outputs, asdict(cost(architecture)), NO_IMAGES, MaskSettings(**more), limits, 10)


def test_gradients_are_those_of_the_masked_outputs() -> None:
    """Backwards a mask has the gradient that its 0 or 1 has: by finite differences, cost terms included."""
    architecture = NETWORKS["chain"]()
    network = trained(architecture.build()).double()
    full, size = cost(architecture), SIZE
    limits = (Limit("params", high=full.params * 0.8), Limit("macs", high=full.macs * 2.0), Limit("macs", low=full.macs * 1.0))
    a = architect(architecture, limits, network)
    rng = np.random.default_rng(3)
    a.mask.data = torch.tensor(0.005 + 0.01 * (rng.random(len(a.mask)) - 0.4))
    x, y = images(6).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    outputs = {o.path: o for o in outputs_of(architecture.build, size)}

    def loss(binary: np.ndarray) -> float:
        rows = np.split(binary, np.cumsum(a.sizes)[:-1])
        tails = tails_of(network)
        with torch.no_grad(), masked([tails[p].norm for p in outputs], [torch.tensor(row) for row in rows]):
            found = float(nn.functional.cross_entropy(network(x), y))
        dropped = {m: sum(getattr(o, m) * (1 - row).sum() for o, row in zip(outputs.values(), rows, strict=True))
                   for m in ("params", "macs")}  # fmt: skip
        over = max(0.0, (full.params - dropped["params"]) / limits[0].high - 1)  # the first limit on MACs is met
        return float(found + over + max(0.0, dropped["macs"] / full.macs))

    gradients: list[Tensor] = []
    a._update = lambda: gradients.append(a.mask.grad.clone())  # type: ignore[method-assign, union-attr]
    said = a.learn(network, x, y, lambda value: value.backward(), rng, 0.0)
    binary = a.binary().detach().numpy()
    assert 0 < binary.sum() < len(binary)
    assert all(p.requires_grad and p.grad is None for p in network.parameters())

    h, slopes = 1e-5, []
    for i in range(len(binary)):
        e = np.eye(len(binary))[i] * h
        slopes.append((loss(binary + e) - loss(binary - e)) / (2 * h))
    np.testing.assert_allclose(gradients[0].numpy(), slopes, rtol=1e-4, atol=1e-7)
    assert float(said) == pytest.approx(float(nn.functional.cross_entropy(_by_hand(network, a, x), y).detach()), abs=1e-9)


def _by_hand(network: nn.Module, a: FilterArchitect, x: Tensor) -> Tensor:
    """The masked network with scales and shifts of 0 where a filter is dropped."""
    network = copy.deepcopy(network)
    for tail, row in zip(tails_of(network).values(), torch.split(a.binary().detach(), a.sizes), strict=True):
        tail.norm.weight.data *= row
        tail.norm.bias.data *= row
    return network(x)


def test_every_operation_holds_its_strongest_filter() -> None:
    a = architect(NETWORKS["chain"]())
    rng = np.random.default_rng(0)
    values = [-rng.random(n) for n in a.sizes]  # all below the threshold
    values[1][3:5] = 1.0
    values[0][0] = 0.0067  # 1 + 0.0067 - 0.0067 is not 1 in this precision
    a.mask.data = torch.tensor(np.concatenate(values), dtype=torch.float32)
    expected = [np.arange(len(row)) == row.argmax() for row in values]
    expected[1] = values[1] > 0.005  # two of them
    np.testing.assert_array_equal(a.binary().detach().numpy(), np.concatenate(expected).astype(float))
    assert a.summary() == {"level": "filters", "kept": len(values) + 1, "of": sum(a.sizes), "excess": 0.0}


def brute_force(a: FilterArchitect, full: Cost, limits: tuple[Limit, ...]) -> float:
    """The greatest sum of (mask - threshold) within the limits, over all subsets of all filters."""
    rows = np.split(a.mask.detach().double().numpy() - 0.005, np.cumsum(a.sizes)[:-1])
    best, bits = -math.inf, [np.array(list(np.ndindex(*(2,) * n))) for n in a.sizes]
    bits = [b[b.sum(1) > 0] for b in bits]
    for index in np.ndindex(*map(len, bits)):
        chosen = [b[i] for b, i in zip(bits, index, strict=True)]
        costs = {m: getattr(full, m) - sum(getattr(o, m) * int((1 - c).sum()) for o, c in zip(a.outputs, chosen, strict=True))
                 for m in ("params", "macs")}  # fmt: skip
        if all(m.low <= costs[m.metric] <= m.high for m in limits):
            best = max(best, sum(float(row @ c) for row, c in zip(rows, chosen, strict=True)))
    return best


@pytest.mark.parametrize("asked", ["nothing", "less", "more", "between", "latency"])
def test_the_exact_choice_is_the_best_of_all(asked: str) -> None:
    architecture = next(iter(FEW))
    full = cost(architecture)
    limits = {
        "nothing": (), "less": (Limit("params", high=full.params - 35), Limit("macs", high=full.macs - 150)),
        "more": (Limit("params", low=full.params - 12),), "latency": (Limit("latency_ms", high=0.1),),
        "between": (Limit("params", full.params - 36, full.params - 34),),
    }[asked]  # fmt: skip
    on_counts = tuple(m for m in limits if m.metric != "latency_ms")
    for seed in range(3):
        a = architect(architecture, limits)
        a.mask.data = 0.005 + 0.01 * (torch.rand(len(a.mask), generator=torch.Generator().manual_seed(seed)) - 0.4)
        found = filters_within(a, architecture, budget(()))
        counted(found, budget(limits))
        kept = dict(found.filters)
        rows = torch.split(a.mask.detach().double() - 0.005, a.sizes)
        pairs = zip(a.outputs, rows, strict=True)
        total = sum(float(row[list(kept.get(o.path, range(o.channels)))].sum()) for o, row in pairs)
        assert total == pytest.approx(brute_force(a, full, on_counts), abs=1e-9)
        said, every = a.told(found), {o.path: set(kept.get(o.path, range(o.channels))) for o in a.outputs}
        wanted = [set(row.nonzero()[:, 0].tolist()) for row in torch.split(a.binary().detach(), a.sizes)]
        assert said["moved"] == sum(len(row ^ mine) for row, mine in zip(wanted, every.values(), strict=True))
        assert said["moved"] == 0 or on_counts
        assert said["operations"] == {o.path: [len(every[o.path]), o.channels] for o in a.outputs}


def test_limits_that_no_choice_of_filters_meets() -> None:
    architecture = next(iter(FEW))
    full = cost(architecture)
    outputs = outputs_of(architecture.build, SIZE)
    least = full.params - sum(o.params * (o.channels - 1) for o in outputs)
    a = architect(architecture, (Limit("params", high=least - 1),))
    with pytest.raises(LimitError, match=f"params from {least:,} to {full.params:,}; search again with") as caught:
        filters_within(a, architecture, budget(()))
    assert "\n" not in str(caught.value)
    with pytest.raises(LimitError, match=f"has params {full.params:,}, and params <= {least} was asked"):
        counted(architecture, budget((Limit("params", high=least),)))


def all_parts(space: SearchSpace) -> list[Any]:
    fixed, options = parts_of_space(space)
    return [*fixed, *(part for site in options for parts in site for part in parts)]


@pytest.mark.parametrize("space", [CHAIN, CELLS, GRAPHS], ids=["chain", "cells", "stages"])
def test_what_filters_can_be_counted_on_to_save(space: SearchSpace) -> None:
    """By tables, a network costs less by (1 - share) of what all its filters but one per operation cost."""
    entries = {p.key: Entry(0.02, 0.02, 0.02, 9) for p in all_parts(space)}
    tables = cost_tables(space, LatencyTable("d", "onnxruntime", "1", 1, 1, 0.01, entries))
    reduced = with_fewer_filters(tables, 0.75)
    assert reduced["latency_ms"] is tables["latency_ms"]
    drawn = [graphs()] if space is GRAPHS else [space.sample(np.random.default_rng(i)) for i in range(3)]
    for architecture in drawn:
        outputs, full = outputs_of(architecture.build, SIZE), cost(architecture)
        for metric in ("params", "macs"):
            saved = 0.25 * sum(getattr(o, metric) * (o.channels - 1) for o in outputs)
            found = reduced[metric].of(space.encode(architecture)[None])[0]
            assert found == pytest.approx(getattr(full, metric) - saved, rel=1e-12)


class Stopped(Exception):
    pass


def stop_within_the_third_level(record: Mapping[str, Any]) -> None:
    if record["event"] == "step" and record["phase"] == "mask3" and (record["epoch"], record["step"]) == (1, 3):
        raise Stopped


@pytest.fixture(scope="module")
def bright() -> ImageData:
    """120 images whose class is how bright they are."""
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 90, SIZE) + 80 * (i % 3)).astype(np.uint8) for i in range(120)]
    return load_data([(torch.from_numpy(x), i % 3) for i, x in enumerate(pixels)])


TIGHT = ["weights_level=true", "compare=false", "mask.filters=0.4", "search.train.batch_size=8"]  # many filters must go


@pytest.mark.parametrize("name", ["chain", "pooled cells"])
def test_a_search_with_the_third_level_even_when_stopped_within_it(
    name: str, tmp_path: Path, bright: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SPACES[name]
    limits = binding_limits(space)
    asked = [f"{limits['params'] - 25}<=params<={limits['params']}", f"macs<={2 * limits['macs']}"]
    config = with_settings(tiny_config("hmnas", space), TIGHT)
    request = Request("hmnas", space, {}, bright, asked, latency_file(tmp_path, "hmnas", space), config=config)
    run = whole = search(request, tmp_path / "whole")
    if name == "chain":
        monkeypatch.setattr(RunFolder, "checkpoint_seconds", -1.0)  # saved after every step
        with pytest.raises(Stopped):
            search(request, tmp_path / "r", stop_within_the_third_level)
        run = resume(tmp_path / "r", space=space, data=bright)

    best, result = json.loads((run.path / "best.json").read_text()), json.loads((run.path / "result.json").read_text())
    architecture = Architecture.from_json(best, space)
    assert json.loads(json.dumps(architecture.to_json())) == best == json.loads((whole.path / "best.json").read_text())
    assert result["details"] == json.loads((whole.path / "result.json").read_text())["details"]
    weights = load_file(run.path / "best.safetensors")
    assert all(torch.equal(value, weights[key]) for key, value in load_file(whole.path / "best.safetensors").items())

    found, without = cost(architecture), cost(Architecture(architecture.skeleton, architecture.choices))
    assert limits["params"] - 25 <= found.params == result["chosen"]["params"] <= limits["params"] < without.params
    assert found.macs == result["chosen"]["macs"] <= 2 * limits["macs"]
    network = architecture.build().eval()
    network.load_state_dict(weights)
    assert found.params == sum(p.numel() for p in network.parameters())
    x = images()
    session = onnxruntime.InferenceSession(str(run.path / "best.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], computes(network, x), rtol=1e-3, atol=1e-4)

    record, told_of = result["details"]["masks"]["filters"], result["details"]["filters"]
    assert record["steps"][-1] == 2 * (len(bright.train) // 2 // 8)
    assert len(record["names"]) == len(record["values"][0]) == min(60, record["of"])
    assert {path: kept for path, (kept, of) in told_of["operations"].items() if kept < of} == {
        path: len(kept) for path, kept in architecture.filters
    }
    said = words(result)
    assert sum("output filters of" in line and "were kept" in line for line in said) == 1
    page = (run.path / "report.html").read_text()
    assert "Masks of filters" in page
    assert "Output filters" in page


def test_networks_without_output_filters_have_no_third_level() -> None:
    space = SPACES["graphs"]  # over cells of identities
    architecture, start = space.sample(np.random.default_rng(0)), Start({}, 0.1)
    nothing: Any = None  # neither supernet nor run are needed
    assert _filtered(architecture, start, 0.5, nothing, nothing, PRESETS["quick"]) == (architecture, start, 0.5, {})


def test_settings_of_the_third_level(bright: ImageData) -> None:
    quick = PRESETS["quick"]
    assert "mask3" not in plan(quick, bright)
    assert plan(with_settings(quick, ["weights_level=true"]), bright)["mask3"] > 0
    for setting, allowed in (("filters_epochs=0", "greater"), ("filters=0", "greater"), ("filters=1.5", "less")):
        with pytest.raises(ConfigError, match=rf"^mask\.filters.*: input should be {allowed} than"):
            with_settings(quick, [f"mask.{setting}"])

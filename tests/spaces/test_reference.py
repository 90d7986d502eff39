"""Our spaces against published networks: parameters and MACs to the last digit, and the sizes of the spaces."""

import json
from pathlib import Path

import numpy as np
import pytest

from hiernas.costs.tables import cost, cost_tables
from hiernas.space import SearchSpace
from hiernas.spaces import efficientnet, fbnet, hnas_basic, hnas_large, mnasnet, mobilenetv2, nasbench_macro, proxyless

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
REFERENCE = SHARED / "facts" / "reference_models.json"
MACRO = SHARED / "data" / "nas-bench-macro" / "nas-bench-macro_cifar10.json"
OURS = {
    "efficientnet_b0": efficientnet,
    "fbnet_v1": fbnet,
    "hnas_basic": hnas_basic,
    "hnas_large": hnas_large,
    "mnasnet": mnasnet,
    "mobilenetv2": mobilenetv2,
    "nas_bench_macro": nasbench_macro,
    "proxylessnas": proxyless,
}

needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="the reference models are not beside the checkout")
needs_macro = pytest.mark.skipif(not MACRO.exists(), reason="the records of NAS-Bench-Macro are not beside the checkout")


def reference_models() -> list[dict]:
    models = json.loads(REFERENCE.read_text())["models"] if REFERENCE.exists() else []
    return [m for m in models if m["space"] in OURS]


def space_of(model: dict) -> SearchSpace:
    arguments = {"input_size": tuple(model["input_size"]), "num_classes": model["num_classes"]}
    if model["space"] == "proxylessnas":
        arguments["widths"] = model["name"].removeprefix("ProxylessNAS-")
    return OURS[model["space"]](**arguments)


@needs_reference
@pytest.mark.parametrize("model", reference_models(), ids=lambda m: m["name"])
def test_published_network(model: dict) -> None:
    space = space_of(model)
    architecture = space.architecture(model["encoding"])
    whole = cost(architecture)
    assert (whole.params, whole.macs) == (model["params"], model["macs"])
    tables, genes = cost_tables(space, None), space.encode(architecture)[None]
    assert {name: tables[name].of(genes)[0] for name in ("params", "macs")} == {
        "params": model["params"],
        "macs": model["macs"],
    }


@needs_reference
def test_no_reference_model_is_left_out() -> None:
    spaces = [m["space"] for m in reference_models()]
    assert {name: spaces.count(name) for name in OURS} == {
        "efficientnet_b0": 1, "fbnet_v1": 17, "hnas_basic": 5, "hnas_large": 8, "mnasnet": 1, "mobilenetv2": 1,
        "nas_bench_macro": 7, "proxylessnas": 2,
    }  # fmt: skip


@needs_macro
def test_every_record_of_nas_bench_macro() -> None:
    records = json.loads(MACRO.read_text())
    space = nasbench_macro()
    genes = np.array([[int(digit) for digit in name] for name in records])
    assert len(np.unique(genes, axis=0)) == space.size() == 6561
    tables = cost_tables(space, None)
    np.testing.assert_array_equal(tables["params"].of(genes), [r["params"] for r in records.values()])
    np.testing.assert_array_equal(tables["macs"].of(genes), [r["flops"] for r in records.values()])


@needs_macro
def test_sampled_networks_of_nas_bench_macro() -> None:
    records, space = json.loads(MACRO.read_text()), nasbench_macro()
    for name in np.random.default_rng(0).choice(sorted(records), 20, replace=False):
        whole = cost(space.decode([int(digit) for digit in name]))
        assert (whole.params, whole.macs) == (records[name]["params"], records[name]["flops"]), name


def test_claimed_sizes() -> None:
    assert hnas_basic().size() == 3 * 6**6 * 7**15  # HNAS: 6.64e17
    assert hnas_large().size() == 3 * 18**6 * 19**15  # HNAS: 1.55e27
    assert proxyless().size() == 6**6 * 7**15
    assert f"{hnas_basic().size():.3e} {hnas_large().size():.3e}" == "6.645e+17 1.549e+27"

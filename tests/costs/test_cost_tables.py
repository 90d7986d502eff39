"""Tables against whole networks, over all architectures of the toy space."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from hiernas.budget import METRICS
from hiernas.costs.tables import cost, cost_tables, parts_of_space, peak_tables
from hiernas.errors import LatencyError
from hiernas.latency import Entry, LatencyTable
from hiernas.space import SearchSpace
from toy import toy_space


def toy_latency(space: SearchSpace) -> LatencyTable:
    """A table with another number for each operation: 0.1, 0.3, 0.5, ... ms, and 0.07 ms overhead."""
    fixed, options = parts_of_space(space)
    searched = [part for site in options for (part,) in site]
    keys = dict.fromkeys(p.key for p in (*fixed, *searched) if not p.is_identity)
    entries = {key: Entry(i / 5 + 0.2, i / 5 + 0.1, i / 5 + 0.3, 9) for i, key in enumerate(keys)}
    return LatencyTable("toy", "onnxruntime", "1", 1, 1, 0.07, entries)


def test_tables_equal_whole_networks() -> None:
    space = toy_space()
    latency = toy_latency(space)
    half = replace(latency, entries={k: replace(e, p10_ms=e.p10_ms / 2) for k, e in latency.entries.items()})
    tables = {**cost_tables(space, replace(latency, int8=half)), **peak_tables(space)}
    genes = np.array([space.encode(a) for a in space])
    costs = [{**asdict(cost(a, latency)), "latency_int8_ms": half.predict(a)} for a in space]
    assert set(tables) == set(METRICS)
    for metric, table in tables.items():
        values = [c[metric] for c in costs]
        assert table.of(genes).tolist() == values  # to the last bit, latency included
        assert (table.smallest, table.largest) == (min(values), max(values))


def test_prediction_is_the_sum_of_the_tenth_percentiles() -> None:
    space = toy_space()
    latency = toy_latency(space)
    fixed = 0.07 + 0.1 + 0.3 + 0.5  # overhead, stem, head, classifier; the options follow in site order
    assert latency.predict(space.architecture(["k5_e2", "skip"])) == pytest.approx(fixed + 0.9)
    assert latency.predict(space.architecture(["k3_e4", "k7_e2"])) == pytest.approx(fixed + 1.1 + 1.7)
    both = space.architecture(["k3_e4", {"k3_e1": 1.0, "k7_e2": 1.0}])
    with pytest.raises(LatencyError, match="no entry 'weighted_sum 8->8 s1 4x4'"):
        latency.predict(both)
    sums = {"weighted_sum 8->8 s1 4x4": Entry(0.2, 0.01, 0.3, 9)}
    latency = replace(latency, entries={**latency.entries, **sums})
    assert latency.predict(both) == pytest.approx(fixed + 1.1 + 1.3 + 1.7 + 0.01)  # one sum of two


def test_a_restricted_space_has_shorter_rows() -> None:
    space = toy_space()
    smaller = space.restrict({"stage1.block1": ["k3_e4", "k5_e2"], "stage2.block1": ["skip"]})
    table, whole = cost_tables(smaller, None)["params"], cost_tables(space, None)["params"]
    assert [row.tolist() for row in table.sites] == [whole.sites[0][1:].tolist(), [0.0]]
    assert table.of(np.array([[0, 0]])) == whole.of(space.encode(space.architecture(["k5_e2", "skip"]))[None])
    assert table.largest < whole.largest


def test_a_missing_latency_is_never_made_up() -> None:
    space = toy_space()
    latency = toy_latency(space)
    entries = {k: v for k, v in latency.entries.items() if "k7_e2" not in k}
    table = LatencyTable("toy", "torch", "2", 1, 1, 0.0, entries)
    message = r"no entry 'mbconv_k7_e2_relu6 8->8 s1 4x4'.* hiernas measure SPACE --runtime torch"
    with pytest.raises(LatencyError, match=message):
        cost_tables(space, table)
    cost_tables(space.restrict({"stage2.block1": ["k3_e1", "skip"]}), table)  # what is not asked for may be missing

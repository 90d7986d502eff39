"""How much is loaded and kept at a time: sessions, threads and bytes have bounds, and these are foretold."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from known import Known
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hiernas.commands import check
from hiernas.costs.tables import footprint
from hiernas.data import ImageData
from hiernas.latency import runner
from hiernas.latency.measure import measure_table, plan_of
from hiernas.latency.runner import HELD, IN_TURN, together
from hiernas.methods import METHODS
from hiernas.networks.ops import MBConv
from hiernas.run.request import Request, prepare
from hiernas.run.search import largest_step
from hiernas.spaces import hnas_basic, tiny
from hiernas.train.evaluate import MOST_KEPT, Evaluator, batch_for, evaluation_bytes, kept_bytes
from hiernas.train.loop import accuracy, make_fabric
from hiernas.train.recipes import Recipe
from toy import toy_space


def test_groups_are_as_large_as_their_bounds_allow() -> None:
    assert together([0.5, 0.5, 0.5, 0.4, 0.2, 0.1], most=9) == [range(2), range(2, 4), range(4, 6)]
    assert together([0.1] * 7, most=3) == [range(3), range(3, 6), range(6, 7)]
    assert together([3.0, 3.0, 3.0], most=9, least=2) == [range(2), range(2, 3)]  # what must run by turns is not torn apart
    assert together([], most=9) == []
    rng = np.random.default_rng(0)
    for _ in range(50):
        shares, most, least = rng.uniform(0, 0.6, 40).tolist(), int(rng.integers(2, 9)), int(rng.integers(1, 3))
        groups = together(shares, most, least)
        assert [i for group in groups for i in group] == list(range(40))
        for group, after in zip(groups, [*groups[1:], None], strict=True):
            assert len(group) <= most
            assert sum(shares[i] for i in group) <= 1 or len(group) <= least
            if after is not None and len(group) < most:  # one more would not have fitted
                assert sum(shares[i] for i in (*group, after[0])) > 1


class Watched(Known):
    """A runtime of known latencies that notes how many of its operations are alive."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__()
        self.threads, self.alive, self.most = threads, weakref.WeakSet[Any](), 0

    def prepare(self, module: nn.Module, input_size: tuple[int, int, int]) -> Callable[[], float]:
        ms = super().prepare(module, input_size)()

        def call() -> float:
            return ms

        self.alive.add(call)
        self.most = max(self.most, len(self.alive))
        return call


def test_operations_that_are_loaded_have_a_bounded_number_of_threads() -> None:
    one, eight, many = (Watched(threads) for threads in (1, 8, 64))
    tables = [measure_table(tiny((3, 32, 32), 10), runtime, runs=1) for runtime in (one, eight, many)]
    assert tables[0].entries == tables[1].entries == tables[2].entries
    assert IN_TURN <= one.most <= 128
    assert eight.most <= 128 // 8 + IN_TURN  # while the next are loaded, the last ones' calls may linger
    assert many.most <= 4 * IN_TURN  # edges have two modules each, and four operations take turns


def test_operations_that_are_loaded_have_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tiny((3, 32, 32), 10), with_edges=True)
    sizes = {key: probe.taken() for key, probe in plan.probes().items()}
    assert plan.loaded_bytes() == sum(sizes.values())  # all at once
    bound = 5 * max(sizes.values())
    monkeypatch.setattr(runner, "MOST_BYTES", bound)
    chunks = plan.chunks()
    groups = [[chunk for chunk, _ in chunks[r.start : r.stop]] for r in together([taken for _, taken in chunks], HELD)]
    assert len(groups) > 1
    assert [i.key for group in groups for chunk in group for i in chunk] == [i.key for i in plan]
    for group in groups:
        assert sum(sizes[p.key] for chunk in group for item in chunk for p in item.probes) <= bound
        assert all(len(chunk) >= IN_TURN for chunk in group[:-1] if chunk[0].needs)
    assert plan.loaded_bytes() <= bound


def test_a_footprint_is_what_the_layers_compute() -> None:
    convolution = partial(nn.Conv2d, 3, 8, 3, stride=2, padding=1, bias=False)
    found = footprint(lambda: nn.Sequential(convolution(), nn.BatchNorm2d(8), nn.ReLU()), (3, 16, 16))
    assert found.weights == 4 * (8 * 3 * 9 + 2 * 8)
    assert found.activations == 4 * (3 * 16 * 16 + 3 * 8 * 8 * 8)
    wide, narrow = 32 * 8 * 8, 8 * 8 * 8  # two wide convolutions with activations and a narrow one, each with batch norm
    assert footprint(lambda: MBConv(3, 4).build(8, 8, 1), (8, 8, 8)).activations == 4 * (narrow + 6 * wide + 2 * narrow)


class Live(TorchDispatchMode):
    """The most bytes of tensors that were alive at a time, of those computed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self.seen = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for t in found if isinstance(found, tuple) else (found,):
            if isinstance(t, Tensor) and not t._is_view() and id(t) not in self.seen:
                self._note(t)
        return found

    def _note(self, t: Tensor) -> None:
        size, key = t.numel() * t.element_size(), id(t)
        self.seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(t, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def test_an_evaluation_keeps_no_more_than_is_foretold(digits: ImageData) -> None:
    space = tiny(digits.input_size, 10)
    supernet = space.supernet()
    rng = np.random.default_rng(0)
    candidates, fabric, batch = [space.sample(rng) for _ in range(10)], make_fabric(Recipe(accelerator="cpu")), 90
    evaluator = Evaluator(supernet, digits, fabric, seed=0, calibration_images=90, batch_size=batch)
    with Live() as live:
        evaluator(candidates)
    statistics = 10 * 4 * 3 * sum(m.num_features for m in supernet.modules() if isinstance(m, nn.BatchNorm2d))
    foretold, kept = batch * evaluation_bytes(space), MOST_KEPT - evaluator._room  # for later populations
    assert 0 < kept == sum(y.nbytes for of in evaluator._kept.values() for y in of) <= kept_bytes(space, 90 + len(digits.val))
    assert live.most <= foretold + statistics + kept
    assert live.most > foretold / 8  # and it is not many times more that is foretold


@pytest.mark.parametrize("method", ["darts", "hdas-stages"])
def test_an_evaluation_in_cells_keeps_no_more_than_is_foretold_either(method: str, digits: ImageData) -> None:
    """250 images at a time without gradients, against a step of 16 images with them, the fewest that a preset takes."""
    few = ["search.train.batch_size=16"]
    prepared = prepare(Request(method, data=digits, limits=["params<=500k"], preset="quick", settings=few))
    step, space = largest_step(prepared), METHODS[method].proxy(prepared.space, prepared.config)
    evaluator = Evaluator(space.supernet(), digits, make_fabric(Recipe(accelerator="cpu")), seed=0, calibration_images=250)
    with Live() as live:
        evaluator([space.sample(np.random.default_rng(0))])
    foretold = check._evaluating(prepared, step)
    assert foretold / 4 < live.most <= foretold


def test_large_images_are_evaluated_fewer_at_a_time() -> None:
    assert [batch_for(tiny(size, 10)) for size in ((1, 8, 8), (3, 32, 32))] == [250, 250]
    assert batch_for(toy_space()) == 250
    large = hnas_basic((3, 224, 224), 10)
    images, each = batch_for(large), evaluation_bytes(large)
    assert (images + 1) * each > 2 * 2**30 >= images * each


def test_the_accuracy_of_a_network_on_large_images_is_looked_at_in_smaller_batches(digits: ImageData) -> None:
    batches: list[int] = []

    class Constant(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            batches.append(len(x))
            return super().forward(x.flatten(1))

    network = Constant(64, 10)
    found = accuracy(network, digits.test, digits)
    assert batches == [250, 109]
    batches.clear()
    assert accuracy(network, digits.test, replace(digits, input_size=(3, 448, 224))) == found  # as many values as 125 images
    assert batches == [125, 125, 109]

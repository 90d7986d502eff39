"""Shared evaluation against candidates evaluated one by one and against plain networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from hiernas import spaces
from hiernas.data import ImageData
from hiernas.randomness import seeded
from hiernas.train.evaluate import Evaluator, calibrate, shared_prefixes
from hiernas.train.loop import accuracy


@pytest.fixture(scope="module")
def supernet(digits: ImageData) -> nn.Module:
    with seeded(0, "test"):
        net = spaces.tiny(digits.input_size, digits.num_classes).supernet()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)  # untrained residual branches start at 0: candidates would hardly differ
    return net


def make(supernet: nn.Module, digits: ImageData, batch_size: int = 100) -> Evaluator:
    fabric = Fabric(accelerator="cpu", devices=1)
    return Evaluator(supernet, digits, fabric, seed=0, calibration_images=200, batch_size=batch_size)


def test_a_population_gets_the_accuracies_of_one_by_one(supernet: nn.Module, digits: ImageData) -> None:
    evaluate = make(supernet, digits)
    rng = np.random.default_rng(0)
    population = [supernet.space.sample(rng) for _ in range(10)]
    together = evaluate(population + population[:1])
    assert together[:10] == [evaluate([a])[0] for a in population]
    assert together[10] == together[0]
    assert len(set(together)) > 3


def test_accuracy_is_that_of_the_recalibrated_network(supernet: nn.Module, digits: ImageData) -> None:
    evaluate = make(supernet, digits)
    architecture = supernet.space.sample(np.random.default_rng(5))
    network = supernet.subnet(architecture)
    calibrate(network, list(evaluate.calibration_batches()))
    assert evaluate([architecture]) == [accuracy(network, digits.val, digits, batch_size=100)]


def test_calibration_is_the_mean_of_batch_statistics() -> None:
    x = torch.randn(3, 8, 4, 5, 5) * 2 + 1  # three batches
    network = nn.Sequential(nn.BatchNorm2d(4))
    calibrate(network, list(x))
    torch.testing.assert_close(network[0].running_mean, x.mean((1, 3, 4)).mean(0))
    torch.testing.assert_close(network[0].running_var, x.var((1, 3, 4)).mean(0))


def test_the_supernet_is_left_as_it_was(supernet: nn.Module, digits: ImageData) -> None:
    supernet.train()
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    make(supernet, digits)([supernet.space.sample(np.random.default_rng(0))])
    assert supernet.training
    assert all(torch.equal(v, before[k]) for k, v in supernet.state_dict().items())  # counts of batches, too


def test_common_beginnings_run_once_and_little_is_kept() -> None:
    paths = sorted([("a", i, j, k)] for i in "xy" for j in "pq" for k in "mno")
    modules = {name: nn.Identity() for name in "axypqmno"}
    paths = [[(n, modules[n]) for n in path[0]] for path in paths]
    calls: list[tuple[str, ...]] = []

    def apply(names: tuple[str, ...], module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        calls.append(names)
        return x + len(names)

    outputs = [float(y) for y in shared_prefixes(paths, torch.zeros(1), apply)]
    assert outputs == [10.0] * 12  # 1 + 2 + 3 + 4
    assert len(calls) == len(set(calls)) == 1 + 2 + 4 + 12  # the nodes of the tree


def test_what_a_population_begins_with_is_known_from_those_before(supernet: nn.Module, digits: ImageData) -> None:
    """Two populations that begin alike, then the same with other weights: always the accuracies of a new evaluator."""
    evaluate, rng = make(supernet, digits), np.random.default_rng(2)
    first = [supernet.space.sample(rng) for _ in range(6)]
    genes = np.stack([supernet.space.encode(a) for a in first])
    genes[:, 5:] = genes[::-1, 5:]  # the stem, five sites, and others behind them
    second = [supernet.space.decode(g) for g in genes]
    evaluate(first)
    runs: list[nn.Module] = []
    stem = supernet.stem.register_forward_hook(lambda *_: runs.append(supernet.stem))
    found = evaluate(second)
    stem.remove()
    assert not runs
    assert found == make(supernet, digits)(second)
    with torch.no_grad():
        saved = supernet.stem[0][0].weight.clone()
        supernet.stem[0][0].weight.mul_(-1)
        changed = evaluate(second)
        assert changed == make(supernet, digits)(second) != found
        supernet.stem[0][0].weight.copy_(saved)


def test_an_operation_that_writes_into_its_input_changes_nothing_for_others(digits: ImageData) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8))
            self.a, self.b = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3)), nn.Identity()
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))

        def path(self, architecture: str) -> list[tuple[str, nn.Module]]:
            return [(name, getattr(self, name)) for name in ("stem", architecture, "head")]

    with seeded(0, "test"):
        net = Two()
    expected = {name: make(net, digits)([name])[0] for name in "ab"}  # type: ignore[list-item] # a path's name will do
    assert expected["a"] != expected["b"]
    evaluate = make(net, digits)
    for names in ("aaaaa", "bbbbb", "ababa"):
        assert evaluate(list(names)) == [expected[name] for name in names]  # type: ignore[arg-type]

"""HourNAS in planted spaces, and why the gradient of a gate of value 1 does not find what is planted there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hiernas.costs import parse_limits
from hiernas.costs.tables import cost_tables
from hiernas.gates import Gates
from hiernas.methods.hournas import HourNASConfig, hournas, vital_sites
from hiernas.networks.ops import MBConv, Residual
from hiernas.run.folder import RunFolder
from hiernas.run.search import make_problem
from hiernas.space import SearchSpace
from hiernas.spaces import Stage, chain_space
from hiernas.train.recipes import Recipe
from planted import RIGHT, residual_chain, right_sites, textures, vital_chain
from toy import RUN

CONFIG = HourNASConfig(
    vital_epochs=14, epochs=14,
    train=Recipe(batch_size=32, schedule="cosine", augment="none", accelerator="cpu", grad_clip=5.0), share=0.4,
    architecture_lr=0.03, proposal_iterations=300, objective="macs", calibration_images=64,
)  # fmt: skip
LIMITS = parse_limits(["macs<=10M"])  # that every network meets


@pytest.mark.parametrize(("make", "vital"), [(residual_chain, 0), (vital_chain, 3)])
def test_what_is_planted_differs_in_nothing_but_what_it_sees(make: Callable[..., SearchSpace], vital: int) -> None:
    for seed in range(3):
        space = make(options=3, seed=seed)
        assert len(vital_sites(space)) == vital
        tables = cost_tables(space, None)
        assert all(tables[metric].smallest == tables[metric].largest for metric in ("params", "macs"))
        places = [d.options.index("sees") for d in space.decisions]
        assert set(places) == {0, 1, 2}  # the first option is not always the right one
        assert right_sites([d.options[0] for d in space.decisions]) == places.count(0)


@pytest.mark.parametrize("make", [residual_chain, vital_chain])
def test_what_is_planted_is_found(tmp_path: Path, make: Callable[..., SearchSpace]) -> None:
    found, sites = 0, 0
    for seed in range(2):
        run = RunFolder.create(tmp_path / str(seed), RUN)
        given = make_problem(make(seed=seed), textures(seed=seed), limits=LIMITS, latency=None, run=run, seed=seed)
        found += right_sites(hournas(given, CONFIG).chosen.options)
        sites += len(given.space.decisions)
    assert found >= sites - 1  # the literal gradient finds about half of them


def test_what_is_planted_is_found_where_options_cost_differently(tmp_path: Path) -> None:
    """The limit is what the truth costs, and the proposals aim at it: some wrong networks meet it as well, others do not."""
    space = residual_chain(priced=True)
    costs, truth = cost_tables(space, None)["macs"], [[d.options.index(RIGHT) for d in space.decisions]]
    bound = float(costs.of(np.array(truth))[0])
    every = costs.of(space.all_encoded())
    assert ((every < bound).sum(), (every == bound).sum(), len(every)) == (5, 6, 16)
    given = make_problem(
        space, textures(), limits=parse_limits([f"macs<={bound:.0f}"]), latency=None, run=RunFolder.create(tmp_path / "r", RUN),
        seed=0,
    )  # fmt: skip
    found = hournas(given, CONFIG)
    assert found.details["aims"] == {"macs": pytest.approx(0.985 * bound)}
    assert found.chosen.macs <= bound
    assert right_sites(found.chosen.options) == 4


# -- a gate of value 1 -------------------------------------------------------------------------------------------


def slopes(space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """The loss' gradient by the gates of a random network, and by a scale of each residual branch (0 where there is none)."""
    torch.manual_seed(0)
    supernet, n = space.supernet().double().train(), len(space.decisions)
    for m in supernet.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            m.eps = 1e-30  # it is what is left of the scale
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight)
    gates = [torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(n)]
    scales = [torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(n)]
    for site, scale in zip(supernet.sites, scales, strict=True):
        (op,) = site.values()
        if isinstance(op, Residual):
            op.body.register_forward_hook(lambda _, __, out, s=scale: s * out)
    x, y = torch.randn(32, *space.skeleton.input_size, dtype=torch.float64), torch.arange(32) % 4
    F.cross_entropy(supernet(x, Gates(((0,),) * n, tuple(gates))), y).backward()
    of_gates, of_branches = ([0.0 if t.grad is None else float(t.grad) for t in row] for row in (gates, scales))
    return np.array(of_gates), np.array(of_branches)


def test_a_convolution_and_a_batch_norm_do_not_see_the_gate_before_them() -> None:
    stages = [Stage(width, 1, 1, (MBConv(3, 2),)) for width in (8, 12, 16)]
    of_gates, _ = slopes(chain_space("vital", (1, 8, 8), 4, stem=4, stages=stages, head=8, act="relu"))
    assert np.abs(of_gates).max() < 1e-12


def test_behind_a_residual_block_they_see_minus_what_the_later_branches_get() -> None:
    """A later branch does not see the scale of its input, so that of what it is added to and its own cancel out."""
    stages = [Stage(4, 4, 1, (MBConv(3, 2),))]
    of_gates, of_branches = slopes(chain_space("residual", (1, 8, 8), 4, stem=4, stages=stages, head=8, act="relu"))
    assert np.abs(of_branches).min() > 1e-4
    np.testing.assert_allclose(of_gates, [-of_branches[site + 1 :].sum() for site in range(4)], atol=1e-12)

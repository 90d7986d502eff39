"""Training: resumed bit for bit, no gradient for what is not on the path, the schedule, and what goes wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hiernas import gates, spaces
from hiernas.data import ImageData
from hiernas.errors import RunError, TrainingError
from hiernas.randomness import numpy_generator, seeded
from hiernas.runfolder import RunFolder
from hiernas.space import SearchSpace
from hiernas.train.loop import accuracy, fit
from hiernas.train.recipes import Phase, Recipe
from toy import RUN

RECIPE = Recipe(batch_size=256, accelerator="cpu")


def train(folder: Path, data: ImageData, epochs: int = 2, stop_at: int | None = None) -> nn.Module:
    """A supernet trained for a few epochs; `stop_at` interrupts it before that step of the whole training."""
    space = spaces.tiny(data.input_size, data.num_classes)
    supernet = _supernet(space)
    run = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder, RUN)
    run.checkpoint_seconds = 0.0  # save after every step
    drawn = 0

    def draw(rng: np.random.Generator) -> gates.Gates:
        nonlocal drawn
        drawn += 1
        if stop_at is not None and drawn > stop_at:
            raise KeyboardInterrupt
        return gates.uniform_path(space, rng)

    try:
        fit(supernet, data.train, data, Phase("train1", epochs, 0.1), RECIPE, seed=0, run=run, draw_gates=draw)
    finally:
        run.close()
    return supernet


def _supernet(space: SearchSpace) -> nn.Module:
    """A supernet whose residual branches are not at 0, so that every weight of a path has a gradient."""
    with seeded(0, "test"):
        supernet = space.supernet()
    for m in supernet.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
    return supernet


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path, digits: ImageData) -> None:
    whole = train(tmp_path / "whole", digits)
    for stop_at in (1, 4, 2):  # within the first and the second epoch
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", digits, stop_at=stop_at)
    parts = train(tmp_path / "parts", digits)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    records = [RunFolder.open(tmp_path / name).events() for name in ("whole", "parts")]
    shown = [[(e["epoch"], e["loss"], e["train_accuracy"]) for e in events] for events in records]
    assert shown[0] == shown[1]


def test_a_step_changes_what_is_on_the_path_and_nothing_else(tmp_path: Path, digits: ImageData) -> None:
    space = spaces.tiny(digits.input_size, digits.num_classes)
    before = _supernet(space).state_dict()
    stop_after_one = 1
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "r", digits, stop_at=stop_after_one)
    saved = RunFolder.open(tmp_path / "r").load_tensors("train1")
    assert saved is not None
    path = gates.uniform_path(space, numpy_generator(0, "train1", 0, 0, "gates"))
    on_path = {f"sites.{i}.{space.decisions[i].options[o[0]]}." for i, o in enumerate(path.indices)}
    for name, value in saved[0].items():
        if name.startswith("model.") and "num_batches" not in name:
            name = name.removeprefix("model.")
            trained = not name.startswith("sites.") or any(name.startswith(p) for p in on_path)
            assert torch.equal(value, before[name]) != trained, name


def test_one_step_is_that_of_sgd_written_by_hand(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = _two_classes()
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    w = network[1].weight.detach().clone().requires_grad_()
    b = network[1].bias.detach().clone().requires_grad_()
    recipe = Recipe(batch_size=64, augment="none", weight_decay=0.1, momentum=0.0, accelerator="cpu")
    run = RunFolder.create(tmp_path / "r", RUN)
    fit(network, data.train, data, Phase("p", 1, 0.5), recipe, seed=0, run=run)
    x = (data.train.images.fetch(torch.arange(len(data.train))) / 255 - data.mean[0]) / data.std[0]  # equal channels
    loss = nn.functional.cross_entropy(x.flatten(1) @ w.T + b, data.train.labels)
    loss.backward()
    torch.testing.assert_close(network[1].weight, w - 0.5 * (w.grad + 0.1 * w))  # decayed
    torch.testing.assert_close(network[1].bias, b - 0.5 * b.grad)  # not decayed


def _two_classes() -> ImageData:
    from hiernas.data import load_data

    grey = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return load_data([(image, i % 2) for i, image in enumerate(grey)])


def test_mixed_precision_trains_supernets(tmp_path: Path, digits: ImageData) -> None:
    space = spaces.tiny(digits.input_size, digits.num_classes)
    supernet = _supernet(space)
    seen = set()
    supernet.head[0][0].register_forward_hook(lambda *args: seen.add(args[2].dtype))
    recipe = Recipe(batch_size=512, accelerator="cpu", precision="bf16-mixed")
    run = RunFolder.create(tmp_path / "r", RUN)
    fit(
        supernet, digits.train, digits, Phase("train1", 1, 0.1), recipe, seed=0, run=run,
        draw_gates=lambda rng: gates.uniform_path(space, rng),
    )  # fmt: skip
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in supernet.parameters()} == {torch.float32}


def test_learning_rate_schedules() -> None:
    linear, cosine = Recipe(), Recipe(schedule="cosine", warmup_epochs=2)
    assert [linear.lr_factor(e, 4) for e in (0, 1, 3, 4)] == [1.0, 0.75, 0.25, 0.0]
    assert cosine.lr_factor(1, 10) == 0.5  # warm-up
    assert cosine.lr_factor(6, 10) == pytest.approx(0.5)
    assert cosine.lr_factor(10, 10) == pytest.approx(0.0)


def test_a_loss_that_is_not_finite_is_named_and_keeps_what_was_saved(tmp_path: Path, digits: ImageData) -> None:
    space = spaces.tiny(digits.input_size, digits.num_classes)
    supernet = space.supernet()
    run = RunFolder.create(tmp_path / "r", RUN)
    recipe = Recipe(batch_size=256, accelerator="cpu")
    with pytest.raises(TrainingError, match=r"not finite in train1, epoch 1.*smaller ones"):
        fit(
            supernet, digits.train, digits, Phase("train1", 3, 1e20), recipe, seed=0, run=run,
            draw_gates=lambda rng: gates.uniform_path(space, rng),
        )  # fmt: skip
    assert run.load_tensors("train1") is None  # nothing broken was saved


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, digits: ImageData) -> None:
    train(tmp_path / "r", digits, epochs=1)
    with pytest.raises(RunError, match="not from a training of 2 epochs"):
        train(tmp_path / "r", digits, epochs=2)
    (tmp_path / "r" / "checkpoint" / "train1.safetensors").write_bytes(b"rubbish")
    with pytest.raises(RunError, match=r"train1.safetensors is damaged; delete it"):
        train(tmp_path / "r", digits, epochs=1)


def test_a_single_path_network_learns_digits(tmp_path: Path, digits: ImageData) -> None:
    space = spaces.tiny(digits.input_size, digits.num_classes)
    with seeded(0, "test"):
        network = space.decode([0] * 8).build()
    chance = accuracy(network, digits.test, digits)
    run = RunFolder.create(tmp_path / "r", RUN)
    fit(network, digits.train, digits, Phase("final", 8, 0.1), Recipe(accelerator="cpu"), seed=0, run=run)
    assert chance < 0.3
    assert accuracy(network, digits.test, digits) > 0.85

"""Training: resumed bit for bit, no gradient for what is not on the path, bilevel steps, schedules, what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hiernas import gates, spaces
from hiernas.data import ImageData
from hiernas.data.split import Split
from hiernas.errors import ConfigError, RunError, TrainingError
from hiernas.networks.cell_ops import DropPath
from hiernas.randomness import numpy_generator, seeded
from hiernas.run.folder import RunFolder
from hiernas.space import SearchSpace
from hiernas.train.loop import accuracy, fit
from hiernas.train.recipes import Phase, Recipe
from hiernas.train.retraining import Retraining
from hiernas.train.together import whole_batches
from methods.little import few_of
from toy import RUN

RECIPE = Recipe(batch_size=24, accelerator="cpu")


@pytest.fixture(scope="module")
def few(digits: ImageData) -> ImageData:
    return few_of(digits)


def little(data: ImageData) -> SearchSpace:
    """Of 256 architectures: checkpoints are small."""
    space = spaces.tiny(data.input_size, data.num_classes)
    return space.restrict({d.name: d.options[:2] for d in space.decisions})


def train(folder: Path, data: ImageData, epochs: int = 2, stop_at: int | None = None) -> nn.Module:
    """A supernet trained for a few epochs; `stop_at` interrupts it before that step of the whole training."""
    space = little(data)
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


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path, few: ImageData) -> None:
    whole = train(tmp_path / "whole", few)
    for stop_at in (1, 4, 2):  # within the first and the second epoch
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", few, stop_at=stop_at)
    parts = train(tmp_path / "parts", few)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    records = [RunFolder.open(tmp_path / name).events() for name in ("whole", "parts")]
    shown = [[(e["epoch"], e["loss"], e["train_accuracy"]) for e in events] for events in records]
    assert shown[0] == shown[1]


@pytest.fixture(scope="module")
def whole(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """Trained for three epochs in one go."""
    return train(tmp_path_factory.mktemp("whole") / "r", few, epochs=3)


@pytest.mark.parametrize("saved", [True, False])
def test_a_kill_about_a_checkpoint_loses_no_epoch(
    tmp_path: Path, few: ImageData, whole: nn.Module, saved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right before, and right after, the first checkpoint at the end of an epoch."""
    save = RunFolder.save_tensors

    def killed(run: RunFolder, name: str, tensors: Any, position: Any) -> None:
        if saved:
            save(run, name, tensors, position)
        if position["epoch"] == 1 and position["step"] == 0:
            raise KeyboardInterrupt
        if not saved:
            save(run, name, tensors, position)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save_tensors", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", few, epochs=3)
    parts = train(tmp_path / "parts", few, epochs=3)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    told = [e["epoch"] for e in RunFolder.open(tmp_path / "parts").events()]
    assert told == ([1, 2, 3] if saved else [1, 1, 2, 3])


def test_a_step_changes_what_is_on_the_path_and_nothing_else(tmp_path: Path, few: ImageData) -> None:
    space = little(few)
    before = _supernet(space).state_dict()
    stop_after_one = 1
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "r", few, stop_at=stop_after_one)
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


def test_mixed_precision_trains_supernets(tmp_path: Path, few: ImageData, caplog: pytest.LogCaptureFixture) -> None:
    space = little(few)
    supernet = _supernet(space)
    seen = set()
    supernet.head[0][0].register_forward_hook(lambda *args: seen.add(args[2].dtype))
    recipe = replace(RECIPE, precision="bf16-mixed")
    run = RunFolder.create(tmp_path / "r", RUN)
    fit(
        supernet, few.train, few, Phase("train1", 1, 0.1), recipe, seed=0, run=run,
        draw_gates=lambda rng: gates.uniform_path(space, rng),
    )  # fmt: skip
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in supernet.parameters()} == {torch.float32}
    assert not caplog.records  # Fabric says so each time


def test_learning_rate_schedules() -> None:
    linear, cosine = Recipe(), Recipe(schedule="cosine", warmup_epochs=2)
    assert [linear.lr_factor(e, 4) for e in (0, 1, 3, 4)] == [1.0, 0.75, 0.25, 0.0]
    assert cosine.lr_factor(1, 10) == 0.5  # warm-up
    assert cosine.lr_factor(6, 10) == pytest.approx(0.5)
    assert cosine.lr_factor(10, 10) == pytest.approx(0.0)
    assert cosine.lr(0.3, 1, 10) == 0.3 * 0.5
    assert linear.lr(0.3, 1, 7) == 0.3 * (1 - 1 / 7)  # to the last bit what it was without a minimum


def test_a_learning_rate_ends_at_its_minimum() -> None:
    """As torch's own cosine annealing with eta_min has it, epoch by epoch."""
    recipe = Recipe(schedule="cosine", lr_min=0.001)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.025)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.001)
    for epoch in range(51):
        assert recipe.lr(0.025, epoch, 50) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        annealing.step()
    warm = Recipe(warmup_epochs=2, lr_min=0.1)
    assert [warm.lr(0.5, e, 6) for e in (0, 1, 2, 4, 6)] == pytest.approx([0, 0.25, 0.5, 0.3, 0.1])
    half = Retraining(Recipe(batch_size=128, lr_min=0.01), 600, 0.1).scaled("quick")  # batch 64
    assert (half.lr, half.recipe.lr_min) == (0.05, 0.005)


def test_a_loss_that_is_not_finite_is_named_and_keeps_what_was_saved(tmp_path: Path, few: ImageData) -> None:
    space = little(few)
    supernet = space.supernet()
    run = RunFolder.create(tmp_path / "r", RUN)
    with pytest.raises(TrainingError, match=r"not finite in train1, epoch 1.*smaller ones"):
        fit(
            supernet, few.train, few, Phase("train1", 3, 1e20), RECIPE, seed=0, run=run,
            draw_gates=lambda rng: gates.uniform_path(space, rng),
        )  # fmt: skip
    assert run.load_tensors("train1") is None  # nothing broken was saved


def test_a_gradient_too_large_for_a_number_is_an_error(tmp_path: Path) -> None:
    """Its norm overflows while loss and weights stay finite: clipped by it, every gradient would be zero."""
    data = _two_classes()

    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1e25 * self.weight.expand(len(x), 2)

    run = RunFolder.create(tmp_path / "r", RUN)
    recipe = Recipe(batch_size=15, augment="none", accelerator="cpu", grad_clip=5.0)
    with pytest.raises(TrainingError, match="the norm of the gradients is not finite in final, epoch 1"):
        fit(Steep(), data.train, data, Phase("final", 1, 0.1), recipe, seed=0, run=run)
    assert run.load_tensors("final") is None


def test_weights_that_are_not_finite_after_the_last_step_are_an_error(tmp_path: Path) -> None:
    """The loss is that before the last update, so it does not tell."""
    data = _two_classes()
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2), nn.Hardtanh(-1e3, 1e3))
    with torch.no_grad():
        network[1].weight.mul_(100)
        network[1].bias[0] = 300  # of half of the images the loss is large
    run = RunFolder.create(tmp_path / "r", RUN)
    recipe = Recipe(batch_size=64, augment="none", accelerator="cpu", weight_decay=10)
    with pytest.raises(TrainingError, match=r"the weights are not finite in final, epoch 1, step 1 \(learning rate 3e\+38\)"):
        fit(network, data.train, data, Phase("final", 1, 3e38), recipe, seed=0, run=run)
    assert run.load_tensors("final") is None


def test_logits_that_are_not_finite_are_an_error(tmp_path: Path, few: ImageData) -> None:
    class Broken:
        """It learns nothing, and its logits end as no numbers."""

        images, alternation = few.val, "epoch"

        def to(self, device: torch.device) -> None: ...
        def draw(self, rng: np.random.Generator, progress: float) -> gates.Gates:
            return gates.uniform_path(space, rng)

        def learn(self, *_: Any) -> Tensor:
            return torch.zeros(())

        def tensors(self) -> dict[str, Tensor]:
            return {"theta": torch.tensor([0.0, float("nan")])}

        def summary(self) -> dict[str, Any]:
            return {}

    space = little(few)
    run = RunFolder.create(tmp_path / "r", RUN)
    with pytest.raises(TrainingError, match=r"the logits of the architecture are not finite in train1, epoch 1, .*search\.lr"):
        fit(space.supernet(), few.train, few, Phase("train1", 1, 0.1), RECIPE, seed=0, run=run, architect=Broken())


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, few: ImageData) -> None:
    train(tmp_path / "r", few, epochs=1)
    with pytest.raises(RunError, match="not from a training of 2 epochs"):
        train(tmp_path / "r", few, epochs=2)
    (tmp_path / "r" / "checkpoint" / "train1.safetensors").write_bytes(b"rubbish")
    with pytest.raises(RunError, match=r"train1\.safetensors is not what the run wrote"):
        train(tmp_path / "r", few, epochs=1)


def test_a_single_path_network_learns_digits(tmp_path: Path, digits: ImageData) -> None:
    space = spaces.tiny(digits.input_size, digits.num_classes)
    with seeded(0, "test"):
        network = space.decode([0] * 8).build()
    chance = accuracy(network, digits.test, digits)
    run = RunFolder.create(tmp_path / "r", RUN)
    fit(network, digits.train, digits, Phase("final", 4, 0.1), Recipe(accelerator="cpu"), seed=0, run=run)
    assert chance < 0.3
    assert accuracy(network, digits.test, digits) > 0.8


# -- two levels --------------------------------------------------------------------------------------------------


class Alpha:
    """An architect of one number, the weight of the first of two inputs; writes down what it is asked for."""

    def __init__(self, images: Split, alternation: str, stop_at: int | None = None) -> None:
        self.images, self.alternation, self.stop_at = images, alternation, stop_at
        self.alpha = torch.zeros(1, dtype=torch.float64)
        self.calls, self.drawn = list[tuple[str, float, list[int]]](), list[float]()

    def to(self, device: torch.device) -> None:
        self.device = device

    def _call(self, what: str, progress: float, labels: list[int], rng: np.random.Generator) -> None:
        if self.stop_at is not None and len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((what, progress, labels))
        self.drawn.append(float(rng.random()))

    def draw(self, rng: np.random.Generator, progress: float) -> gates.Gates:
        self._call("weights", progress, [], rng)
        return gates.Gates(((0, 1),), (torch.cat([self.alpha, 1 - self.alpha]).float(),))

    def learn(
        self, model: nn.Module, x: Tensor, y: Tensor, backward: Callable[[Tensor], Any], rng: np.random.Generator,
        progress: float,
    ) -> Tensor:  # fmt: skip
        self._call("alpha", progress, y.tolist(), rng)
        alpha = self.alpha.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(x, gates.Gates(((0, 1),), (torch.cat([alpha, 1 - alpha]).float(),))), y)
        (gradient,) = torch.autograd.grad(loss, alpha)
        self.alpha -= 0.1 * gradient
        return loss.detach()

    def tensors(self) -> dict[str, Tensor]:
        return {"alpha": self.alpha}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.alpha = tensors["alpha"].clone()

    def summary(self) -> dict[str, Any]:
        return {"alpha": float(self.alpha)}


class TwoWays(nn.Module):
    """A sum of two classifiers, weighted by gates."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(48, 2), nn.Linear(48, 2)

    def forward(self, x: Tensor, given: gates.Gates) -> Tensor:
        (weights,) = given.weights
        return weights[0] * self.a(x.flatten(1)) + weights[1] * self.b(x.flatten(1))


def _halves(data: ImageData) -> tuple[Split, Split]:
    """10 images for the weights, the others for the architecture."""
    from hiernas.data.split import Subset

    rows = torch.arange(len(data.train))
    return tuple(Split(Subset(data.train.images, r), data.train.labels[r]) for r in (rows[:10], rows[10:]))  # type: ignore[return-value]


def bilevel(
    folder: Path, data: ImageData, alternation: str, batch_size: int, stop_at: int | None = None
) -> tuple[nn.Module, Alpha]:
    """Two epochs of a search for one number."""
    ours, others = _halves(data)
    architect = Alpha(others, alternation, stop_at)
    with seeded(0, "test"):
        model = TwoWays()
    run = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder, RUN)
    run.checkpoint_seconds = 0.0
    recipe = Recipe(batch_size=batch_size, augment="none", accelerator="cpu")
    try:
        fit(model, ours, data, Phase("train1", 2, 0.1), recipe, seed=0, run=run, architect=architect)
    finally:
        run.close()
    return model, architect


def test_an_architecture_learns_for_an_epoch_after_each_one_of_the_weights(tmp_path: Path) -> None:
    data = _two_classes()
    _, others = _halves(data)
    _, architect = bilevel(tmp_path / "r", data, "epoch", 5)
    n = len(others) // 5
    assert n >= 2
    assert [what for what, _, _ in architect.calls] == (["weights"] * 2 + ["alpha"] * n) * 2
    steps = [i / n for i in range(n)]  # progress is the share of the architecture's own steps that are done
    assert [p for _, p, _ in architect.calls] == pytest.approx(np.array([0, 0, *steps, 1, 1, *(1 + s for s in steps)]) / 2)
    for epoch in range(2):  # each of its images at most once an epoch
        seen = [y for what, p, ys in architect.calls if what == "alpha" and int(2 * p) == epoch for y in ys]
        assert len(seen) == 5 * n
        assert seen.count(0) <= others.labels.tolist().count(0)
        assert seen.count(1) <= others.labels.tolist().count(1)
    assert len(set(architect.drawn)) == len(architect.calls)  # every step has random numbers of its own


def test_the_weights_schedule_goes_by_their_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = list[float](), Recipe.lr

    def watched(self: Recipe, initial: float, epoch: float, epochs: int) -> float:
        seen.append(epoch)
        return original(self, initial, epoch, epochs)

    monkeypatch.setattr(Recipe, "lr", watched)
    bilevel(tmp_path / "epoch", _two_classes(), "epoch", 5)  # two steps of the weights per epoch, more of the architecture
    assert seen == [0, 0, 0.5, 0.5, 0, 1, 1, 1.5, 1.5, 1]  # of two groups of weights, and for the epoch's event
    seen.clear()
    bilevel(tmp_path / "step", _two_classes(), "step", 5)  # by turns: the architecture's step is the first half of a pair
    assert seen == [0.25, 0.25, 0.75, 0.75, 0, 1.25, 1.25, 1.75, 1.75, 1]


def test_an_architecture_learns_by_turns_with_the_weights(tmp_path: Path) -> None:
    _, architect = bilevel(tmp_path / "r", _two_classes(), "step", 2)
    assert [what for what, _, _ in architect.calls] == ["alpha", "weights"] * 10
    batches = [tuple(value) for what, _, value in architect.calls if what == "alpha"]
    assert len(batches) == 10
    assert float(architect.alpha) != 0.0


@pytest.mark.parametrize("alternation", ["epoch", "step"])
def test_an_interrupted_search_ends_with_the_same_bits(tmp_path: Path, alternation: str) -> None:
    data = _two_classes()
    whole, alpha = bilevel(tmp_path / "whole", data, alternation, 4)
    for stop_at in (1, 3, 2):
        with pytest.raises(KeyboardInterrupt):
            bilevel(tmp_path / "parts", data, alternation, 4, stop_at)
    parts, resumed = bilevel(tmp_path / "parts", data, alternation, 4)
    assert resumed.alpha.tolist() == alpha.alpha.tolist()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    assert resumed.calls == alpha.calls[-len(resumed.calls) :]
    assert resumed.drawn == alpha.drawn[-len(resumed.calls) :]
    shown = [[e["alpha"] for e in RunFolder.open(tmp_path / n).events()] for n in ("whole", "parts")]
    assert shown[0] == shown[1]
    assert shown[0][-1] == float(alpha.alpha)


# -- auxiliary classifier and dropped paths ----------------------------------------------------------------------


class TwoHeads(nn.Module):
    """In training two classifiers, the second one auxiliary."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.auxiliary = nn.Linear(48, 2), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = x.flatten(1)
        return (self.main(x), self.auxiliary(x)) if self.training else self.main(x)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_the_auxiliary_classifiers_loss_counts_with_its_weight(tmp_path: Path, weight: float) -> None:
    torch.manual_seed(0)
    data, network = _two_classes(), TwoHeads()
    before = {name: value.clone().requires_grad_() for name, value in network.state_dict().items()}
    recipe = Recipe(
        batch_size=64, augment="none", weight_decay=0.0, momentum=0.0, auxiliary=weight, label_smoothing=0.1,
        accelerator="cpu",
    )  # fmt: skip
    run = RunFolder.create(tmp_path / "r", RUN)
    fit(network, data.train, data, Phase("p", 1, 0.5), recipe, seed=0, run=run)
    x = (data.train.images.fetch(torch.arange(len(data.train))) / 255 - data.mean[0]) / data.std[0]  # equal channels
    logits, auxiliary = (x.flatten(1) @ before[f"{h}.weight"].T + before[f"{h}.bias"] for h in ("main", "auxiliary"))
    of = nn.CrossEntropyLoss(label_smoothing=0.1)
    loss = of(logits, data.train.labels) + weight * of(auxiliary, data.train.labels)
    loss.backward()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name].detach() - 0.5 * before[name].grad)
    (epoch,) = run.events()
    assert epoch["loss"] == pytest.approx(loss.item(), rel=1e-5)
    correct = (logits.argmax(1) == data.train.labels).float().mean()
    assert epoch["train_accuracy"] == pytest.approx(correct.item())  # of the network itself
    assert 0 <= accuracy(network, data.test, data) <= 1  # in evaluation there is one output


def test_paths_are_dropped_more_and_more_often(tmp_path: Path) -> None:
    seen = []

    class Watched(DropPath):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.p)
            return super().forward(x)

    data = _two_classes()
    network = nn.Sequential(Watched(), nn.Flatten(), nn.Linear(48, 2))
    recipe = Recipe(batch_size=64, augment="none", drop_path=0.4, accelerator="cpu")
    run = RunFolder.create(tmp_path / "r", RUN)
    fit(network, data.train, data, Phase("p", 4, 0.1), recipe, seed=0, run=run)
    assert seen == pytest.approx([0.0, 0.1, 0.2, 0.3])  # as DARTS: 0.4 * epoch / epochs, with epochs counted from 0
    x = torch.ones(2000, 3, 4, 4)
    network.train()
    network[0].p = 0.4
    kept = DropPath.forward(network[0], x).amax((1, 2, 3))
    assert sorted(set(kept.tolist())) == pytest.approx([0.0, 1 / 0.6])  # what stays is scaled
    assert float((kept > 0).float().mean()) == pytest.approx(0.6, abs=0.05)


def test_paths_cannot_be_dropped_where_there_are_none(tmp_path: Path) -> None:
    data = _two_classes()
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    run = RunFolder.create(tmp_path / "r", RUN)
    with pytest.raises(ConfigError, match="this network has no edge to drop; leave it out"):
        fit(network, data.train, data, Phase("p", 1, 0.1), Recipe(drop_path=0.2, accelerator="cpu"), seed=0, run=run)
    assert run.events() == []


def test_a_minimum_above_the_learning_rate_is_refused(tmp_path: Path, digits: ImageData) -> None:
    run = RunFolder.create(tmp_path / "r", RUN)
    with pytest.raises(ConfigError, match=r"train.lr_min=0.2 is above the learning rate 0.1 that it ends; make it smaller"):
        fit(nn.Linear(1, 1), digits.train, digits, Phase("final", 1, 0.1), Recipe(lr_min=0.2), seed=0, run=run)
    assert run.events() == []


def test_relu6_keeps_no_copy_of_its_input_and_gives_the_same_bits() -> None:
    """Its gradient is 0 at 0 and 6, and endless or missing numbers go on as they came."""
    network = nn.Sequential(nn.Identity(), nn.ReLU6(inplace=True), nn.Conv2d(1, 1, 1))  # which reads it and changes nothing
    x = torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 1e-30, 5.9, 6.0, 7.0, torch.inf, torch.nan], requires_grad=True)
    upstream = torch.arange(1.0, 11.0)

    def once() -> tuple[Tensor, Tensor, list[int]]:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
            y = network[1](x * 1.0)
        return y, torch.autograd.grad(y, x, upstream)[0], [p for p in kept if p != y.data_ptr()]

    y, gradient, others = once()
    with whole_batches(network):
        fast, fast_gradient, fast_others = once()
        assert torch.equal(network[1](torch.full((2,), 9.0)), torch.full((2,), 6.0))
    assert torch.equal(fast.nan_to_num(99), y.nan_to_num(99))
    assert torch.equal(fast_gradient.nan_to_num(99), gradient.nan_to_num(99))
    assert len(fast_others) < len(others)
    assert type(network[1]) is nn.ReLU6


def test_training_is_by_the_faster_convolutions_and_ends_with_plain_ones() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False), nn.ReLU6(inplace=True)).double()
    x, kinds = torch.randn(3, 4, 8, 8, dtype=torch.float64), [type(m) for m in network]
    expected = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    with whole_batches(network):
        y = network(x)
        assert "Depthwise" in repr(y.grad_fn.next_functions[0][0])
        torch.testing.assert_close(torch.autograd.grad(y.square().sum(), list(network.parameters())), expected)
    assert [type(m) for m in network] == kinds


def test_a_block_may_write_into_what_its_relu6_gave() -> None:
    """As a user's own block may: torch keeps a copy of that one's input, so the faster one is not for it."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU6(inplace=True))

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            y += x
            return y

    network, x = nn.Sequential(Own(), nn.ReLU6(inplace=True), nn.Dropout(0.0, inplace=True)), 4 * torch.randn(2, 3, 8, 8)
    expected = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    with whole_batches(network):
        found = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    torch.testing.assert_close(found, expected)

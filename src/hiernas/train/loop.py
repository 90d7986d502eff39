"""The training loop, for supernets (gates drawn per step), bilevel search and stand-alone networks (no gates).

All randomness of a step is derived from (seed, phase, epoch, step), and a checkpoint holds weights, momentum
and position. A training that was cut off anywhere therefore ends, on CPU, with the same bits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pydantic import Field
from torch import Tensor, nn

from hiernas import ranks, stop
from hiernas.data import at_once, augment, check_augment, epoch_order, in_order, normalise
from hiernas.data.split import ImageData, Split
from hiernas.errors import ConfigError, RunError, TrainingError, validated
from hiernas.gates import Gates
from hiernas.host import first_line, quiet
from hiernas.networks.cell_ops import DropPath
from hiernas.networks.graph import evaluating
from hiernas.problem import Architect, DrawGates, Journal, Validate
from hiernas.randomness import numpy_generator, seeded, torch_generator, torch_seed
from hiernas.train.recipes import Phase, Recipe
from hiernas.train.together import WholeBatch, backward_of, device_of, whole_batches


class Planned(NamedTuple):
    """One step of an epoch: of the weights or of the architecture, on which images."""

    of_weights: bool
    images: Tensor  # int64 [B], rows of the split
    done: float  # share of the epoch's steps of this kind that are done before it


@dataclass
class Position:
    """Where a training stands: completed epochs, steps done in the current one, and its sums so far."""

    epoch: Annotated[int, Field(ge=0)] = 0
    step: Annotated[int, Field(ge=0)] = 0
    loss: float = 0.0
    correct: int = 0
    images: int = 0


def make_fabric(recipe: Recipe) -> Fabric:
    """Device and precision of a recipe, by Lightning Fabric; of several processes each has a GPU of its own."""
    ranks.rows(recipe.batch_size)  # says so where it cannot be shared
    accelerator, devices = device_of(recipe.accelerator)
    try:
        with quiet():
            return Fabric(accelerator=accelerator, devices=devices, precision=recipe.precision)
    except Exception as error:  # Fabric raises its own and others' errors for what a machine lacks
        raise ConfigError(
            f"this machine cannot train with train.accelerator={recipe.accelerator}, train.precision={recipe.precision}: "
            f"{first_line(error)}; leave them out"
        ) from error


def fit(
    model: nn.Module, split: Split, data: ImageData, phase: Phase, recipe: Recipe, *, seed: int, run: Journal,
    draw_gates: DrawGates | None = None, architect: Architect | None = None, validate: Validate | None = None,
    finish: Callable[[nn.Module], None] | None = None,
) -> None:  # fmt: skip
    """Train `model` in place on `split`; resumes from, and saves to, `checkpoint/<phase>.safetensors` of the run.

    With `draw_gates` the model is called as `model(x, gates)` with new gates each step. With an `architect` the
    gates are its own, and it learns on its own images, for an epoch after each one of the weights or by turns.
    `finish` is done to the trained model once, before it is saved.
    Raises `TrainingError` where the loss is not finite; what was saved before stays.
    """
    if recipe.lr_min > phase.lr:
        raise ConfigError(f"train.lr_min={recipe.lr_min} is above the learning rate {phase.lr} that it ends; make it smaller")
    fabric = make_fabric(recipe)
    set_drop_path(model, recipe.drop_path)  # refused here where the model has none
    model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
    optimizer = _optimizer(model, phase, recipe)
    average = Average(model, recipe.ema) if recipe.ema else None
    position = _restore(model, optimizer, phase, run, architect, average)
    if architect is not None:
        architect.to(fabric.device)
    if position.epoch >= phase.epochs:
        return
    ranks.align([*model.state_dict().values(), *(architect.tensors().values() if architect is not None else ())])
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    whole: Any = wrapped if ranks.size() == 1 else WholeBatch(wrapped)
    trainer = _Trainer(fabric, whole, wrapped_optimizer, split, data, phase, recipe, seed, draw_gates, architect, average)
    with run.timed(phase.name), seeded(seed, phase.name), stop.saves():
        saved_at = time.monotonic()
        while position.epoch < phase.epochs:
            for steps in trainer.steps(position):
                run.tell("step", phase=phase.name, epoch=position.epoch, step=position.step, steps=steps, epochs=phase.epochs)
                number, due = ranks.greatest(stop.asked(), time.monotonic() - saved_at > run.checkpoint_seconds)
                if number or due:
                    trainer.read_totals(position)
                    trainer.check_weights(position.epoch, position.step)
                    _save(model, optimizer, phase, run, position, architect, average)
                    stop.now(number)
                    saved_at = time.monotonic()
            summary = trainer.summary(position)
            steps, position = position.step, Position(position.epoch + 1)
            if average is not None and position.epoch == phase.epochs:
                average.apply()
            if finish is not None and position.epoch == phase.epochs:
                finish(model)
            trainer.check_weights(position.epoch - 1, steps)
            accuracy = validate(position.epoch) if validate else None
            run.event(  # before it is saved: a kill between the two repeats the epoch, and loses none
                "epoch", phase=phase.name, epoch=position.epoch, epochs=phase.epochs, val_accuracy=accuracy, **summary
            )
            if position.epoch == phase.epochs or time.monotonic() - saved_at > min(5.0, run.checkpoint_seconds):
                _save(model, optimizer, phase, run, position, architect, average)
                saved_at = time.monotonic()


@dataclass
class _Trainer:
    """The steps of one training; what varies between steps is in `Position`."""

    fabric: Fabric
    model: Any
    optimizer: Any
    split: Split
    data: ImageData
    phase: Phase
    recipe: Recipe
    seed: int
    draw_gates: DrawGates | None
    architect: Architect | None
    average: Average | None

    def __post_init__(self) -> None:
        check_augment(self.recipe)
        self.backward = backward_of(self.fabric)

    def steps(self, position: Position) -> Iterator[int]:
        """Run the remaining steps of the current epoch, yielding the epoch's number of steps after each."""
        p = self.phase
        set_drop_path(self.model, self.recipe.drop_path * position.epoch / p.epochs)
        schedule = self._schedule(position.epoch)
        self.model.train()
        totals = torch.tensor([position.loss, float(position.correct), 0.0], dtype=torch.float64)
        self.totals = totals.to(self.fabric.device)  # loss * images, correct, gradient norms: on the device, read rarely
        with whole_batches(self.model):
            for step in range(position.step, len(schedule)):
                planned = schedule[step]
                if planned.of_weights:
                    self._step(planned, position.epoch, step, len(schedule))
                else:
                    self._learn(planned, position.epoch, step)
                position.images += len(planned.images) if planned.of_weights or self._is_alone else 0
                position.step = step + 1
                if step % 20 == 19 or step == len(schedule) - 1:
                    self.read_totals(position)
                yield len(schedule)

    def _schedule(self, epoch: int) -> list[Planned]:
        """The batches of an epoch in order."""
        name, size = self.phase.name, self.recipe.batch_size
        weights = epoch_order(len(self.split), size, torch_generator(self.seed, name, epoch))
        if self.architect is None:
            return _in_turn(True, weights)
        others = epoch_order(len(self.architect.images), size, torch_generator(self.seed, name, epoch, "architecture"))
        if self._is_alone:
            return _in_turn(False, others)
        if self.architect.alternation == "epoch":
            return _in_turn(True, weights) + _in_turn(False, others)
        pairs = [((False, others[i % len(others)]), (True, batch)) for i, batch in enumerate(weights)]
        both = [step for pair in pairs for step in pair]
        return [Planned(*step, i / len(both)) for i, step in enumerate(both)]

    def _learn(self, planned: Planned, epoch: int, step: int) -> None:
        assert self.architect is not None  # only an architect has such steps
        x, y = self._batch(self.architect.images, planned.images, epoch, step)
        torch.manual_seed(torch_seed(self.seed, self.phase.name, epoch, step, "dropout"))  # inside `seeded`
        rng = numpy_generator(self.seed, self.phase.name, epoch, step, "gates")
        loss = self.architect.learn(self.model, x, y, self.backward, rng, self._progress(epoch, planned))
        if self._is_alone:
            self.totals[0] += loss * len(y)
        if step % 20 == 19 and not bool(torch.isfinite(loss)):
            raise self._not_finite(epoch, step)

    def _progress(self, epoch: int, planned: Planned) -> float:
        """The share of the architecture's steps in this phase that are done."""
        assert self.architect is not None
        waits = planned.of_weights and self.architect.alternation == "epoch"  # for the end of the weights' epoch
        return (epoch + (0.0 if waits else planned.done)) / self.phase.epochs

    def _step(self, planned: Planned, epoch: int, step: int, steps: int) -> None:
        x, y = self._batch(self.split, planned.images, epoch, step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr(self.phase.lr, epoch + planned.done, self.phase.epochs)
        torch.manual_seed(torch_seed(self.seed, self.phase.name, epoch, step, "dropout"))  # inside `seeded`
        rng, gates = numpy_generator(self.seed, self.phase.name, epoch, step, "gates"), None
        if self.architect is not None:
            gates = self.architect.draw(rng, self._progress(epoch, planned))
        elif self.draw_gates is not None:
            gates = self.draw_gates(rng)
        output = self.model(x) if gates is None else self.model(x, gates)
        logits, auxiliary = output if isinstance(output, tuple) else (output, None)
        loss = F.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        if auxiliary is not None:
            loss = loss + self.recipe.auxiliary * F.cross_entropy(auxiliary, y, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.backward(loss)
        if self.recipe.grad_clip > 0:
            most = self.recipe.grad_clip
            norm = self.fabric.clip_gradients(self.model, self.optimizer, max_norm=most, error_if_nonfinite=False)
            self.totals[2] += 0.0 if norm is None else norm  # by an endless one all are clipped to nothing
        self.optimizer.step()
        if self.average is not None:
            self.average.update(epoch * steps + step)
        self.totals[0] += loss.detach() * len(y)
        self.totals[1] += (logits.detach().argmax(1) == y).sum()

    def _not_finite(self, epoch: int, step: int, what: str = "loss is") -> TrainingError:
        lr = self.optimizer.param_groups[0]["lr"]
        return TrainingError(
            f"the {what} not finite in {self.phase.name}, epoch {epoch + 1}, step {step + 1} (learning rate {lr:.3g}); "
            "start a new search with smaller ones, such as half of these (--set lr=..., --set final_lr=..., of logits --set "
            "search.lr=...), or with --set train.grad_clip=5"
        )

    def _batch(self, split: Split, indices: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The images that are this process' to look at, and the labels of all."""
        generator, own = torch_generator(self.seed, self.phase.name, epoch, step, "augment"), indices[ranks.rows(len(indices))]
        images = augment(split.images.fetch(own).to(self.fabric.device), self.recipe, generator)
        x = normalise(images, self.data, self.fabric.device)
        return x, split.labels[indices].to(self.fabric.device)

    def read_totals(self, position: Position) -> None:
        loss, correct, norms = self.totals.tolist()
        if not np.isfinite(loss + norms):
            what = "norm of the gradients is" if np.isfinite(loss) else "loss is"
            raise self._not_finite(position.epoch, position.step - 1, what)
        position.loss, position.correct = loss, int(correct)

    def check_weights(self, epoch: int, steps: int) -> None:
        """Raise `TrainingError` where weights or logits are not finite: the last loss came before its own update."""
        logits = {} if self.architect is None else self.architect.tensors()
        for what, tensors in (("weights are", self.model.state_dict()), ("logits of the architecture are", logits)):
            if not all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point()):
                raise self._not_finite(epoch, steps - 1, what)

    def summary(self, position: Position) -> dict[str, Any]:
        images = max(position.images, 1)
        lr = self.recipe.lr(self.phase.lr, position.epoch, self.phase.epochs)
        learned = {} if self.architect is None else self.architect.summary()
        accuracy = None if self._is_alone else position.correct / images
        return {"loss": position.loss / images, "train_accuracy": accuracy, "lr": lr, **learned}

    @property
    def _is_alone(self) -> bool:
        """Whether the weights stay as they are."""
        return self.architect is not None and self.architect.alternation == "alone"


def _in_turn(of_weights: bool, batches: Sequence[Tensor]) -> list[Planned]:
    return [Planned(of_weights, batch, i / len(batches)) for i, batch in enumerate(batches)]


def set_drop_path(model: nn.Module, probability: float) -> None:
    """Set the probability of all `DropPath` modules. Raises `ConfigError` where one is asked for and there is none."""
    modules = [m for m in model.modules() if isinstance(m, DropPath)]
    if probability > 0 and not modules:
        raise ConfigError("train.drop_path is for networks of cells, and this network has no edge to drop; leave it out")
    for module in modules:
        module.p = probability


def _optimizer(model: nn.Module, phase: Phase, recipe: Recipe) -> torch.optim.SGD:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=phase.lr, momentum=recipe.momentum)


def _save(
    model: nn.Module, optimizer: torch.optim.SGD, phase: Phase, run: Journal, position: Position,
    architect: Architect | None, average: Average | None,
) -> None:  # fmt: skip
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if architect is not None:
        tensors |= {f"architecture.{k}": v for k, v in architect.tensors().items()}
    if position.epoch < phase.epochs:  # a finished training needs neither average nor momentum
        tensors |= {f"average.{k}": v for k, v in (average.values if average is not None else {}).items()}
        momentum = {name: optimizer.state.get(p, {}).get("momentum_buffer") for name, p in model.named_parameters()}
        tensors |= {f"momentum.{name}": buffer for name, buffer in momentum.items() if buffer is not None}
    run.save_tensors(phase.name, tensors, {**asdict(position), "epochs": phase.epochs})


def _restore(
    model: nn.Module, optimizer: torch.optim.SGD, phase: Phase, run: Journal, architect: Architect | None,
    average: Average | None,
) -> Position:  # fmt: skip
    saved = run.load_tensors(phase.name)
    if saved is None:
        return Position()
    tensors, position = saved
    file = f"checkpoint/{phase.name}.safetensors"
    if position.pop("epochs", None) != phase.epochs:
        raise RunError(f"{run.path / file} is not from a training of {phase.epochs} epochs")
    at: Position = validated(Position, json.dumps(position), f"{run.path / file} is damaged: position", RunError)
    with run.fitting(file):
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        if architect is not None:
            architect.restore({k[13:]: v for k, v in tensors.items() if k.startswith("architecture.")})
        if average is not None and at.epoch < phase.epochs:
            average.restore({k[8:]: v for k, v in tensors.items() if k.startswith("average.")})
        for name, p in model.named_parameters():
            if f"momentum.{name}" in tensors:
                buffer = torch.empty_like(p, memory_format=torch.preserve_format)
                optimizer.state[p]["momentum_buffer"] = buffer.copy_(tensors[f"momentum.{name}"])
    return at


def accuracy(
    network: nn.Module, split: Split, data: ImageData, batch_size: int | None = None, gates: Gates | None = None
) -> float:
    """Share of the split's images that a network, or a supernet with gates, classifies rightly, in evaluation mode."""
    named = _said(network, split, data, batch_size or at_once(data.input_size), gates, lambda logits: logits.argmax(1))
    return int((named == split.labels).sum()) / len(split)


def logits(network: nn.Module, split: Split, data: ImageData) -> Tensor:
    """What a network says of each of the split's images: float32 [N, classes], on the CPU."""
    return _said(network, split, data, at_once(data.input_size), None, lambda logits: logits)


@torch.no_grad()
def _said(
    network: nn.Module, split: Split, data: ImageData, batch_size: int, gates: Gates | None, kept: Callable[[Tensor], Tensor]
) -> Tensor:
    device, given = next(network.parameters()).device, () if gates is None else (gates,)
    batches = (normalise(split.images.fetch(b), data, device) for b in ranks.part(in_order(len(split), batch_size)))
    with evaluating(network):
        return torch.cat(ranks.gather([kept(network(x, *given)).cpu() for x in batches]))


class Average:
    """A running average of everything in a network's state; early on it forgets faster, so that it is never stale.

    The decay of update n is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._current = dict(network.state_dict())  # shares its memory with the network
        self.values = {name: value.clone() for name, value in self._current.items()}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Take in the network's state after `done` updates before this one."""
        weight = 1.0 - min(self.decay, (1.0 + done) / (10.0 + done))
        floats = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[n] for n in floats], [self._current[n] for n in floats], weight)
        for name in self.values.keys() - set(floats):
            self.values[name].copy_(self._current[name])

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Go on with saved values."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average into the network."""
        for name, value in self._current.items():
            value.copy_(self.values[name])

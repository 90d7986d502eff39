"""What a search is given, what it gives back, and the record of a method.

A method sees a problem by contracts: the budget says what is allowed and what it costs, the trainer trains and judges
networks on images, the journal keeps what must outlive the process. What fulfils them is the program's affair.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.budget import Budget
from hiernas.data.split import ImageData, Split
from hiernas.errors import Settings, one_of
from hiernas.gates import Gates
from hiernas.randomness import seeded
from hiernas.space import Architecture, SearchSpace
from hiernas.train.recipes import Phase, Recipe

CALIBRATION_IMAGES = 2000  # at most, for the batch-norm statistics of a trained network
DrawGates = Callable[[np.random.Generator], Gates]
Validate = Callable[[int], float | None]  # epochs done -> accuracy
Frequency = dict[str, dict[str, float]]  # site -> option -> share


class Journal(Protocol):
    """What a search writes down: it survives a kill, and is read again by the process that goes on."""

    @property
    def path(self) -> Path: ...  # where it is kept
    @property
    def checkpoint_seconds(self) -> float: ...  # at most between two checkpoints of a training
    def event(self, event: str, **fields: Any) -> None: ...
    def tell(self, event: str, **fields: Any) -> None: ...  # what is not worth keeping, to whoever listens
    def timed(self, phase: str) -> AbstractContextManager[None]: ...  # counts the time spent inside
    def read_json(self, name: str, kind: Any = dict[str, Any]) -> Any | None: ...  # None where it was not written yet
    def write_json(self, name: str, value: Any) -> Any: ...
    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None: ...
    def load_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None: ...
    def fitting(self, name: str) -> AbstractContextManager[None]: ...  # inside, what was saved is taken up, or refused
    def add_candidates(self, phase: str, rows: Sequence[tuple[str, float, float, float, float | None]]) -> None: ...
    def candidates(self, phase: str) -> dict[str, float]: ...  # accuracy by options, joined by commas


class Architect(Protocol):
    """What learns an architecture beside the weights: the upper level of a bilevel search."""

    @property
    def images(self) -> Split: ...  # that it learns from
    @property
    def alternation(self) -> Literal["epoch", "step", "alone"]:
        """An epoch of each (HourNAS), by turns (DARTS), or the weights stay as they are (HM-NAS' masks)."""

    def to(self, device: torch.device) -> None: ...
    def draw(self, rng: np.random.Generator, progress: float) -> Gates:
        """Gates for a step of the weights, without gradients; `progress` is the architecture's: the share of its steps
        in this phase that are done."""

    def learn(
        self, model: nn.Module, x: Tensor, y: Tensor, backward: Callable[[Tensor], Any], rng: np.random.Generator,
        progress: float,
    ) -> Tensor:  # fmt: skip
        """One step of the architecture on images [B, C, H, W] and labels [B]; returns the loss, detached."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold."""

    def restore(self, tensors: dict[str, Tensor]) -> None: ...
    def summary(self) -> dict[str, Any]:
        """For the event of an epoch."""


class Evaluator(Protocol):
    """Validation accuracy with a supernet's weights, batch-norm statistics re-estimated for every network."""

    def __call__(self, architectures: Sequence[Architecture]) -> list[float]: ...  # in 0..1, in the order given
    def calibrate(self, network: nn.Module) -> None:
        """Re-estimate the batch-norm statistics of a network on the same training images, on the CPU."""

    def accuracy(self, network: nn.Module) -> float:
        """Of a network that the supernet does not hold, with its own statistics."""


class Trainer(Protocol):
    """Trains networks on the problem's images, and judges them. What was trained before the run was cut off is not repeated."""

    def fit(
        self, model: nn.Module, images: Split, phase: Phase, recipe: Recipe, *, draw_gates: DrawGates | None = None,
        architect: Architect | None = None, validate: Validate | None = None,
    ) -> None:  # fmt: skip
        """Train `model` in place: by gates drawn per step, or those of an architect, which learns beside it."""

    def accuracy(self, model: nn.Module, images: Split, batch_size: int, gates: Gates) -> float:
        """Of a supernet with these gates, by its running statistics."""

    def evaluator(self, supernet: Any, recipe: Recipe, calibration_images: int, *, paths: bool = True) -> Evaluator:
        """`paths`: the supernet's architectures are sequences of modules, and those with a common beginning share it."""


@dataclass(frozen=True)
class Problem:
    """A search to be done."""

    space: SearchSpace
    data: ImageData
    budget: Budget
    trainer: Trainer
    run: Journal
    seed: int

    def supernet(self, space: SearchSpace, *purpose: str) -> Any:
        """A supernet of the space with random weights, as `space.skeleton` has it: called as `supernet(x, gates)`."""
        with seeded(self.seed, *purpose, "supernet"):
            return space.supernet()


@dataclass(frozen=True)
class Candidate:
    """An evaluated architecture: its options in site order, supernet accuracy and costs."""

    options: tuple[str, ...]
    val_accuracy: float
    params: int
    macs: int
    latency_ms: float | None

    def cost(self, metric: str) -> float:
        return float(getattr(self, metric))  # a latency is known where it is an objective


@dataclass(frozen=True)
class Pruning:
    """One pruning of a space: the shares it went by, and the space that was left."""

    stage: int
    frequency: Frequency
    size_before: int
    space: SearchSpace

    def summary(self) -> dict[str, Any]:
        """As JSON, without the shares."""
        kept = {d.name: list(d.options) for d in self.space.decisions}
        return {"stage": self.stage, "size_before": self.size_before, "size_after": self.space.size(), "kept": kept}


@dataclass(frozen=True)
class Start:
    """Weights that a training of a network starts from, and its learning rate."""

    weights: Mapping[str, Tensor]  # the network's whole state dict
    lr: float


@dataclass(frozen=True)
class Rival:
    """One of several networks that are to be compared, each trained from its supernet's weights and from scratch."""

    name: str
    architecture: Architecture
    candidate: Candidate
    start: Start


@dataclass(frozen=True)
class Found:
    """What a method found: the Pareto front, the chosen member, and how the space was narrowed on the way."""

    space: SearchSpace
    front: tuple[Candidate, ...]
    chosen: Candidate
    prunings: tuple[Pruning, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON of the method's own, for result.json and the report
    weighted: Architecture | None = None  # the chosen architecture where its sites keep several options, with weights
    start: Start | None = None  # what the final training starts from; None: from scratch
    rivals: tuple[Rival, ...] = ()  # networks that are trained for comparison; the chosen one is the first
    doubts: tuple[str, ...] = ()  # sentences: why the search itself may mean nothing
    candidates: tuple[Candidate, ...] = ()  # all that the last search judged: the finalists are among them
    judge: Evaluator | None = None  # that of the last search

    @property
    def architecture(self) -> Architecture:
        return self.weighted or self.space.architecture(self.chosen.options)


def training_work(epochs: float, images: int) -> float:
    """The work of a training: a step's backward pass counts as two forward passes."""
    return 3.0 * epochs * images


def rungs(finalists: int, epochs: int, most: int) -> list[tuple[int, int]]:
    """Networks and their epochs, step by step: the better half goes on for twice as long, until one is left."""
    return [(finalists, min(epochs, most)), *rungs(finalists // 2, 2 * epochs, most)] if finalists > 1 else []


def brief_work(config: Any, data: ImageData, candidates: int = 0) -> dict[str, float]:
    """The work of the last step, per phase: NASWOT of the candidates, and the training of the finalists."""
    prior = {"prior": 600.0 * candidates} if getattr(config, "prior", "none") == "naswot" else {}  # measured
    judged = len(data.val) + min(config.calibration_images, len(data.train))
    steps = rungs(config.finalists, config.finalist_epochs, config.final_epochs)
    epochs = [e for n, e in steps for _ in range(n)]
    return prior | {f"brief{i}": training_work(e, len(data.train)) + judged for i, e in enumerate(epochs, 1)}


def final_work(epochs: float, data: ImageData) -> float:
    """The work of a final training, with the batch-norm statistics of what was trained."""
    images = len(data.train) + len(data.val)
    return training_work(epochs, images) + min(CALIBRATION_IMAGES, images)


# -- what the program must know of a method: its record stands at the end of the method's own file -----------------------


class Config(Settings):
    """Base of a method's settings."""

    @classmethod
    def preset(cls, name: str = "quick") -> Self:
        """Those of a preset: quick, small or paper. `dataclasses.replace` changes some of them."""
        methods: Mapping[str, Method] = sys.modules[cls.__module__].METHODS
        presets = next(m.presets for m in methods.values() if type(m.presets["paper"]) is cls)
        one_of("preset", name, presets)
        return presets[name]


Arguments = Mapping[str, Any]  # of a space, beyond image size and classes
Spaces = Mapping[str, Mapping[str, Arguments]]  # by preset: spaces by name; the first is the method's own
TINY: Spaces = {preset: {"tiny": {}} for preset in ("quick", "small", "paper")}


@dataclass(frozen=True)
class Method:
    """A search method as the program sees it.

    Its configurations are frozen dataclasses of one class, with at least `train` (a Recipe), `final_epochs`,
    `final_lr`, `objective` and `calibration_images`; where a search judges many networks, `finalists` and `finalist_epochs`.
    Numbers whose names end in `epochs`, and `generations`, are its lengths: fitted to few images, or to a given time.
    """

    search: Callable[[Problem, Any], Found]
    presets: Mapping[str, Any]
    plan: Callable[[Any, ImageData], dict[str, float]]  # work per phase, in forward passes of one image
    spaces: Spaces
    refusal: Callable[[SearchSpace], str | None]  # why a space cannot be searched by this method
    proxy: Callable[[SearchSpace, Any], SearchSpace] = lambda space, config: space  # in which supernet it is searched
    finds: tuple[str, ...] = ()  # arguments of the space that it finds itself, so that giving them would do nothing
    among: Callable[[SearchSpace], SearchSpace] = lambda space: space  # of what it finds, where that is more than the space
    several: bool = False  # whether its networks keep any number of a site's options
    control: Literal["", "search", "unsearched"] = ""  # what others are held against: a search, or a network without one
    matching: Callable[[Any, ImageData, float], list[str]] = lambda config, data, work: []  # settings for as much work as that
    inherits: bool = False  # whether its last supernet holds all networks of its space, whose weights can be taken over

    def work(self, config: Any, data: ImageData) -> dict[str, float]:
        """Work per phase, the final training included, in forward passes of one image."""
        found = self.plan(config, data)
        compared = {phase: found.pop(phase) for phase in list(found) if phase.startswith("compare")}  # after the final one
        return {**found, "final": final_work(config.final_epochs, data), **compared}

    def final_share(self, space: SearchSpace, config: Any, rng: np.random.Generator) -> float:
        """About how long a step of a final network takes by one of the supernet: by the number of operations, untimed."""
        if self.inherits:
            return 1.0  # single paths
        fixed, options = space.skeleton.parts()
        genes = space.sample_encoded(rng, 1)[0]
        own = len(fixed) + sum(len(s[d.options[g]]) for s, d, g in zip(options, space.decisions, genes, strict=True))
        mixed = self.proxy(space, config)
        always, every = mixed.skeleton.parts()
        all_parts = sum(len(s[o]) for s, d in zip(every, mixed.decisions, strict=True) for o in d.options)
        return own / (len(always) + all_parts)


def only(*searched: str, reason: str) -> Callable[[SearchSpace], str | None]:
    """The refusal of all spaces but those whose skeletons are of these kinds (`Skeleton.searched`)."""
    return lambda space: None if space.skeleton.searched in searched else reason


def sized(space: str, arguments: Mapping[str, Arguments]) -> Spaces:
    """One space, with its arguments by preset."""
    return {preset: {space: values} for preset, values in arguments.items()}


CHAINS = only("blocks", reason="it searches chains of layers, and this is a space of cells")
CELLS = only("cells", reason="it searches cells (darts, hdas_cells)")

"""What a method is, and what it is given: the space, the data, the limits, the costs, and the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hiernas.architecture import Architecture
from hiernas.costs.count import parts_of_space
from hiernas.costs.limits import Limit
from hiernas.costs.tables import CostTable, cost_tables
from hiernas.data.split import ImageData
from hiernas.runfolder import RunFolder
from hiernas.search.ranking import Candidate, Frequency
from hiernas.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """A search to be done. `latency` is a latency table (ours or a phone's) or None."""

    space: SearchSpace
    data: ImageData
    limits: tuple[Limit, ...]
    latency: Any | None
    run: RunFolder
    seed: int

    def tables(self, space: SearchSpace) -> dict[str, CostTable]:
        """Cost tables of a (restricted) space."""
        return cost_tables(space, self.latency)


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

    @property
    def architecture(self) -> Architecture:
        """The chosen architecture."""
        return self.weighted or self.space.architecture(self.chosen.options)

    @property
    def last_space(self) -> SearchSpace:
        """The space of the last search: what the last supernet holds."""
        return self.prunings[-1].space if self.prunings else self.space


@dataclass(frozen=True)
class Method:
    """A search method as the program sees it.

    Its configurations are frozen dataclasses of one class, with at least `train` (a Recipe), `final_epochs`,
    `final_lr`, `objective` and `calibration_images`.
    """

    search: Callable[[Problem, Any], Found]
    presets: Mapping[str, Any]
    plan: Callable[[Any, ImageData], dict[str, float]]  # work per phase, in forward passes of one image
    spaces: Mapping[str, Mapping[str, Mapping[str, Any]]]  # by preset: spaces by name with its arguments; the first is its own
    refusal: Callable[[SearchSpace], str | None]  # why a space cannot be searched by this method
    searched: Callable[[SearchSpace, Any], SearchSpace] = lambda space, config: space  # in which supernet
    finds: tuple[str, ...] = ()  # arguments of the space that it finds itself, so that giving them would do nothing
    also: Callable[[SearchSpace], tuple[SearchSpace, ...]] = lambda space: ()  # further spaces whose costs it needs
    among: Callable[[SearchSpace], SearchSpace] = lambda space: space  # of what it finds, where that is more than the space
    costs: Callable[[SearchSpace, SearchSpace, Any], dict[str, CostTable]] = (
        lambda space, among, latency: cost_tables(among, latency)
    )  # of that space, in the network of the given one

    def work(self, config: Any, data: ImageData) -> dict[str, float]:
        """Work per phase, the final training included, in forward passes of one image."""
        found = self.plan(config, data)
        final = {"final": training_work(config.final_epochs, len(data.train) + len(data.val))}
        compared = {phase: found.pop(phase) for phase in list(found) if phase.startswith("compare")}  # after the final one
        return {**found, **final, **compared}

    def final_share(self, space: SearchSpace, config: Any, rng: np.random.Generator) -> float:
        """About how long a step of a final network takes by one of the supernet: by the number of operations, untimed."""
        if not self.among(space).skeleton.groups:
            return 1.0  # single paths
        fixed, options = parts_of_space(space)
        genes = space.sample_encoded(rng, 1)[0]
        mixed, every = parts_of_space(self.searched(space, config))
        own = len(fixed) + sum(len(site[gene]) for site, gene in zip(options, genes, strict=True))
        return own / (len(mixed) + sum(len(parts) for site in every for parts in site))

    @property
    def summary(self) -> str:
        """The first line of what the method's function says of itself."""
        return (self.search.__doc__ or "").strip().splitlines()[0]


def training_work(epochs: float, images: int) -> float:
    """The work of a training: a step's backward pass counts as two forward passes."""
    return 3.0 * epochs * images

"""What the program must know of a search method: its record stands at the end of the method's own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiernas.data.split import ImageData
from hiernas.problem import Found, Problem, training_work
from hiernas.space import SearchSpace

Arguments = Mapping[str, Any]  # of a space, beyond image size and classes
Spaces = Mapping[str, Mapping[str, Arguments]]  # by preset: spaces by name; the first is the method's own
TINY: Spaces = {preset: {"tiny": {}} for preset in ("quick", "small", "paper")}


@dataclass(frozen=True)
class Method:
    """A search method as the program sees it.

    Its configurations are frozen dataclasses of one class, with at least `train` (a Recipe), `final_epochs`,
    `final_lr`, `objective` and `calibration_images`.
    """

    search: Callable[[Problem, Any], Found]
    presets: Mapping[str, Any]
    plan: Callable[[Any, ImageData], dict[str, float]]  # work per phase, in forward passes of one image
    spaces: Spaces
    refusal: Callable[[SearchSpace], str | None]  # why a space cannot be searched by this method
    proxy: Callable[[SearchSpace, Any], SearchSpace] = lambda space, config: space  # in which supernet it is searched
    finds: tuple[str, ...] = ()  # arguments of the space that it finds itself, so that giving them would do nothing
    among: Callable[[SearchSpace], SearchSpace] = lambda space: space  # of what it finds, where that is more than the space
    inherits: bool = False  # whether its last supernet holds all networks of its space, whose weights can be taken over

    def work(self, config: Any, data: ImageData) -> dict[str, float]:
        """Work per phase, the final training included, in forward passes of one image."""
        found = self.plan(config, data)
        final = {"final": training_work(config.final_epochs, len(data.train) + len(data.val))}
        compared = {phase: found.pop(phase) for phase in list(found) if phase.startswith("compare")}  # after the final one
        return {**found, **final, **compared}

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

    @property
    def summary(self) -> str:
        """The first line of what the method's function says of itself."""
        return (self.search.__doc__ or "").strip().splitlines()[0]


def only(*searched: str, reason: str) -> Callable[[SearchSpace], str | None]:
    """The refusal of all spaces but those whose skeletons are of these kinds (`Skeleton.searched`)."""
    return lambda space: None if space.skeleton.searched in searched else reason


def sized(space: str, arguments: Mapping[str, Arguments]) -> Spaces:
    """One space, with its arguments by preset."""
    return {preset: {space: values} for preset, values in arguments.items()}


CHAINS = only("blocks", reason="it searches chains of layers, and this is a space of cells")

"""`SearchSpace`: a frozen value made of a skeleton and ordered decisions. Its one verb is `restrict`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hiernas.architecture import Architecture, Choice
from hiernas.errors import SpaceError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

Choices = Mapping[str, "str | Mapping[str, float]"] | Sequence["str | Mapping[str, float]"]


@dataclass(frozen=True)
class Decision:
    """A named site with its options, in a fixed order."""

    name: str
    options: tuple[str, ...]

    def index(self, option: str) -> int:
        """Position of an option; raises `SpaceError` with what is allowed."""
        option = "skip" if option == "identity" else option
        if option not in self.options:
            raise SpaceError(f"site '{self.name}' has no option '{option}'; {did_you_mean(option, self.options)}")
        return self.options.index(option)


class Skeleton(Protocol):
    """What stays fixed in a space: everything that is needed to build networks from choices."""

    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> tuple[tuple[str, Any], ...]: ...  # of the function that made the space
    @property
    def input_size(self) -> tuple[int, int, int]: ...  # channels, height, width
    @property
    def num_classes(self) -> int: ...
    @property
    def site_names(self) -> tuple[str, ...]: ...
    def read(self, choices: Any) -> Any:
        """Choices in a published form (a genotype, a shorter list) as choices by site; any other value as it is."""
        ...

    def build(self, choices: Sequence[Choice]) -> nn.Module: ...
    def supernet(self, decisions: Sequence[Decision]) -> nn.Module: ...


@dataclass(frozen=True)
class SearchSpace:
    """Skeleton + decisions. Immutable: `restrict` returns a smaller space over the same skeleton."""

    skeleton: Skeleton
    decisions: tuple[Decision, ...]

    @property
    def name(self) -> str:
        return self.skeleton.name

    def size(self) -> int:
        """Number of architectures (exact)."""
        return math.prod(len(d.options) for d in self.decisions)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """One architecture, uniform over the space."""
        return self.decode([int(rng.integers(len(d.options))) for d in self.decisions])

    def sample_encoded(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` uniform architectures as option indices: int64 [n, sites]."""
        columns = [rng.integers(len(d.options), size=n) for d in self.decisions]
        return np.stack(columns, axis=1) if columns else np.zeros((n, 0), dtype=np.int64)

    def __iter__(self) -> Iterator[Architecture]:
        """Every architecture, in lexicographic order of the encoding. Meant for small spaces."""
        return (self.decode(genes) for genes in itertools.product(*(range(len(d.options)) for d in self.decisions)))

    def restrict(self, options: Mapping[str, Iterable[str]]) -> SearchSpace:
        """The space that keeps only these options at the named sites, in the sites' own order."""
        by_name = {d.name: d for d in self.decisions}
        for site in options:
            if site not in by_name:
                raise SpaceError(f"space '{self.name}' has no site '{site}'; {did_you_mean(site, by_name)}")
        return replace(self, decisions=tuple(self._restricted(d, options.get(d.name)) for d in self.decisions))

    @staticmethod
    def _restricted(decision: Decision, keep: Iterable[str] | None) -> Decision:
        if keep is None:
            return decision
        indices = {decision.index(option) for option in ([keep] if isinstance(keep, str) else keep)}
        if not indices:
            raise SpaceError(f"site '{decision.name}' would keep no option; keep at least one of {decision.options}")
        return replace(decision, options=tuple(decision.options[i] for i in sorted(indices)))

    def architecture(self, choices: Choices) -> Architecture:
        """An architecture from option names in site order, or from `{site: option}`; 'identity' is read as 'skip'.

        A site may also be `{option: weight}`. Raises `SpaceError` where the choices do not fit the space.
        """
        choices = self.skeleton.read(choices)
        if isinstance(choices, str) or len(choices) != len(self.decisions):
            raise SpaceError(f"space '{self.name}' has {len(self.decisions)} sites, but {len(choices)} choices were given")
        if isinstance(choices, Mapping):
            for site in choices:
                if site not in self.skeleton.site_names:
                    raise SpaceError(
                        f"space '{self.name}' has no site '{site}'; {did_you_mean(str(site), self.skeleton.site_names)}"
                    )
            choices = [choices[d.name] for d in self.decisions]
        return Architecture(self.skeleton, tuple(map(self._choice, self.decisions, choices)))

    @staticmethod
    def _choice(decision: Decision, value: str | Mapping[str, float]) -> Choice:
        kept = {value: 1.0} if isinstance(value, str) else value
        if not kept:
            raise SpaceError(f"site '{decision.name}' keeps no option; name at least one of {decision.options}")
        by_index = sorted((decision.index(option), float(weight)) for option, weight in kept.items())
        return tuple((decision.options[i], weight) for i, weight in by_index)

    def encode(self, architecture: Architecture) -> np.ndarray:
        """Option indices within this space: int64 [sites]."""
        if architecture.skeleton != self.skeleton:
            raise SpaceError(f"an architecture of '{architecture.skeleton.name}' is not one of '{self.name}'")
        return np.array([d.index(o) for d, o in zip(self.decisions, architecture.options, strict=True)], dtype=np.int64)

    def decode(self, genes: Sequence[int] | np.ndarray) -> Architecture:
        """The architecture of a vector of option indices [sites]."""
        if len(genes) != len(self.decisions):
            raise SpaceError(f"space '{self.name}' has {len(self.decisions)} sites, but {len(genes)} genes were given")
        for d, g in zip(self.decisions, genes, strict=True):
            if not 0 <= g < len(d.options):
                raise SpaceError(f"gene {g} is out of range at site '{d.name}'; it has {len(d.options)} options")
        return Architecture(
            self.skeleton, tuple(((d.options[g], 1.0),) for d, g in zip(self.decisions, genes, strict=True))
        )

    def build(self, architecture: Architecture) -> nn.Module:
        """The stand-alone network of an architecture: [B, C, H, W] -> [B, classes]."""
        return architecture.build()

    def supernet(self) -> nn.Module:
        """A fresh supernet that holds the weights of all options of all sites."""
        return self.skeleton.supernet(self.decisions)

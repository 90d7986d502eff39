"""`Architecture`: what a search returns. An immutable, hashable, JSON value."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hiernas.errors import SpaceError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
Choice = tuple[tuple[str, float], ...]  # the options kept at one site, each with its weight


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


@dataclass(frozen=True)
class Group:
    """Sites of which exactly `keep`, or with `more` at least so many, have an option other than 'none'.

    Such are the edges into one node of a graph.
    """

    sites: tuple[str, ...]
    keep: int
    more: bool = False  # only with keep = 1


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
    @property
    def groups(self) -> tuple[Group, ...]: ...  # of consecutive sites, in site order; none in a chain
    def read(self, choices: Any) -> Any:
        """Choices in a published form (a genotype, a shorter list) as choices by site; any other value as it is."""
        ...

    def build(self, choices: Sequence[Choice]) -> nn.Module: ...
    def supernet(self, decisions: Sequence[Decision]) -> nn.Module: ...


class Space(Protocol):
    """What reads an architecture: a `SearchSpace`."""

    @property
    def skeleton(self) -> Skeleton: ...
    def architecture(self, choices: Any) -> Architecture: ...


@dataclass(frozen=True)
class Architecture:
    """One network of a space: per site the options kept, each with its weight (one option of weight 1 is the rule).

    `filters`: where operations keep only some of their output filters, the paths of their modules in the network that is
    built, each with the indices of the filters that it keeps.
    """

    skeleton: Skeleton
    choices: tuple[Choice, ...]
    filters: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """The chosen option of every site, in site order; an error where a site keeps several."""
        for name, choice in zip(self.skeleton.site_names, self.choices, strict=True):
            if len(choice) != 1:
                raise SpaceError(f"site '{name}' keeps {len(choice)} options; read `choices` for them and their weights")
        return tuple(choice[0][0] for choice in self.choices)

    @property
    def labels(self) -> tuple[str, ...]:
        """What every site keeps, in words: the option, or several joined by '+' (without their weights)."""
        return tuple("+".join(option for option, _ in choice) for choice in self.choices)

    @property
    def is_single(self) -> bool:
        """Whether every site has one option, of weight 1."""
        return all(len(choice) == 1 and choice[0][1] == 1.0 for choice in self.choices)

    def build(self) -> nn.Module:
        """The stand-alone network, a plain `nn.Module` without search code: [B, C, H, W] -> [B, classes].

        Raises `SpaceError` for filters that it does not have.
        """
        network = self.skeleton.build(self.choices)
        if self.filters:  # looked up only here: the core imports no network code
            importlib.import_module("hiernas.supernet.filters").narrow(network, dict(self.filters))
        return network

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types; `Architecture.from_json` reads it back."""
        return {
            "format": FORMAT,
            "space": self.skeleton.name,
            "arguments": dict(self.skeleton.arguments),
            "sites": {
                name: choice[0][0] if len(choice) == 1 and choice[0][1] == 1.0 else dict(choice)
                for name, choice in zip(self.skeleton.site_names, self.choices, strict=True)
            },
            **({"filters": {path: list(kept) for path, kept in self.filters}} if self.filters else {}),
        }

    def save(self, path: str | Path) -> None:
        """Write the architecture as a JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, space: Space | None = None) -> Architecture:
        """Read an architecture file. `space` is needed where the file names a space that is not one of ours."""
        try:
            value = json.loads(Path(path).read_text())
        except OSError as error:
            raise SpaceError(f"cannot read the architecture file {path}: {error.strerror}") from error
        except ValueError as error:
            raise SpaceError(f"{path} is not an architecture file: {error}") from error
        return cls.from_json(value, space, source=str(path))

    @classmethod
    def from_json(cls, value: Any, space: Space | None = None, source: str = "value") -> Architecture:
        """Read the value `to_json` wrote; raises `SpaceError` where it does not fit the space."""
        if not isinstance(value, Mapping) or not isinstance(value.get("sites"), Mapping) or "space" not in value:
            raise SpaceError(f"{source} is not an architecture: an object with 'space' and 'sites' is expected")
        if value.get("format") != FORMAT:
            raise SpaceError(f"{source} has architecture format {value.get('format')!r}; this version reads {FORMAT}")
        space = space or known_space(str(value["space"]), value.get("arguments", {}), source)
        if space.skeleton.name != value["space"]:
            raise SpaceError(f"{source} belongs to space '{value['space']}', not to '{space.skeleton.name}'")
        architecture = space.architecture(value["sites"])
        return _with_filters(architecture, value["filters"], source) if "filters" in value else architecture


def _with_filters(architecture: Architecture, filters: Any, source: str) -> Architecture:
    if not isinstance(filters, Mapping) or not all(
        isinstance(kept, list) and all(type(i) is int for i in kept) for kept in filters.values()
    ):
        raise SpaceError(f"{source}: 'filters' must be an object with a list of indices for each path of an operation")
    found = replace(architecture, filters=tuple((str(path), tuple(kept)) for path, kept in filters.items()))
    with importlib.import_module("torch").device("meta"):  # without memory
        found.build()
    return found


def known_space(name: str, arguments: Mapping[str, Any], source: str = "value") -> Space:
    """One of our own spaces by name. Looked up only here and at call time: the core imports no space."""
    spaces = importlib.import_module("hiernas.spaces")
    if name not in spaces.NAMES:
        raise SpaceError(
            f"{source}: unknown space '{name}'; {did_you_mean(name, spaces.NAMES)} For a space of your own, pass it: "
            "Architecture.load(path, space=...)"
        )
    try:
        return getattr(spaces, name)(**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})
    except TypeError as error:
        raise SpaceError(f"{source}: space '{name}' does not take these arguments: {error}") from error

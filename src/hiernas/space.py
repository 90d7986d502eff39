"""`SearchSpace` and `Architecture`: frozen values over a skeleton, and its decisions. A space's one verb is `restrict`."""

from __future__ import annotations

import importlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from hiernas.errors import UNREADABLE, SpaceError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1  # of architecture files
Choice = tuple[tuple[str, float], ...]  # the options kept at one site, each with its weight
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


@dataclass(frozen=True)
class Group:
    """Sites of which exactly `keep`, or with `more` at least so many, are other than 'none': edges into a node of a graph."""

    sites: tuple[str, ...]
    keep: int
    more: bool = False  # only with keep = 1


@dataclass(frozen=True)
class Block:
    """Decisions that depend on each other, or one that depends on no other."""

    decisions: tuple[Decision, ...]
    group: Group | None

    @property
    def rule(self) -> str:
        """What holds for all members of a group, in words."""
        number = "" if self.group is None else "at least one" if self.group.more else f"exactly {self.group.keep}"
        return f"sites {', '.join(d.name for d in self.decisions)}: {number} must be other than 'none'"

    def allows(self, options: Sequence[str]) -> bool:
        """Whether these options are a member."""
        if self.group is None:
            return True
        kept = sum(option != "none" for option in options)
        return kept >= self.group.keep if self.group.more else kept == self.group.keep

    def size(self) -> int:
        """Number of members."""
        return sum(math.prod(map(len, choices)) for choices in self._choices())

    def members(self) -> list[tuple[int, ...]]:
        """All allowed option indices, in lexicographic order."""
        return sorted(genes for choices in self._choices() for genes in itertools.product(*choices))

    def extreme(self, rows: Sequence[np.ndarray], largest: bool) -> float:
        """The least or greatest sum of one number of each row over the members."""
        pick, every = max if largest else min, (choices for choices in self._choices() if all(choices))
        sums = ((pick(float(r[i]) for i in options) for r, options in zip(rows, choices, strict=True)) for choices in every)
        return pick(map(sum, sums))

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Uniform members: int64 [n, decisions]."""
        if self.group is None or self.group.more:  # any that is allowed: few are not
            genes = rng.integers(sizes := np.array([len(d.options) for d in self.decisions]), size=(n, len(self.decisions)))
            none = [d.options.index("none") if self.group and "none" in d.options else -1 for d in self.decisions]
            for i in np.flatnonzero((genes == none).all(axis=1)).tolist():
                while (genes[i] == none).all():
                    genes[i] = rng.integers(sizes)
            return genes
        every = list(self._choices())
        ways = np.array([math.prod(map(len, choices)) for choices in every], dtype=np.float64)
        drawn = rng.choice(len(every), size=n, p=ways / ways.sum())
        genes = np.zeros((n, len(self.decisions)), dtype=np.int64)
        for i, choices in enumerate(every):
            for column, options in enumerate(choices):
                if options:
                    genes[drawn == i, column] = rng.choice(options, size=int((drawn == i).sum()))
        return genes

    def _choices(self) -> Iterator[list[list[int]]]:
        """Sets that the members fall into, each member into one: the option indices that each decision then has."""
        every = [list(range(len(d.options))) for d in self.decisions]
        if self.group is None:
            yield every
            return
        none, some = ([[i for i, o in enumerate(d.options) if (o == "none") == is_none] for d in self.decisions]
                      for is_none in (True, False))  # fmt: skip
        if self.group.more:  # by the first one that is other than 'none'
            for first in range(len(every)):
                yield [*none[:first], some[first], *every[first + 1 :]]
        else:
            for kept in itertools.combinations(range(len(every)), self.group.keep):
                yield [some[i] if i in kept else none[i] for i in range(len(every))]


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

    @property
    def searched(self) -> str: ...  # blocks (of a chain), cells, graphs (between cells), or numbers (of cells, and graphs)
    @property
    def same_operations(self) -> bool: ...  # whether those of `proxy` are the network's own, but for their sizes
    def parts(self) -> Any:
        """Operations with their places: a list of those of every network, and per site those of each option, by name."""

    def proxy(self, channels: int | None = None, cells: int | None = None) -> Skeleton:
        """The same in the size, and with the batch norms, of the network that is searched in."""

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
        return math.prod(block.size() for block in self._blocks())

    def sample(self, rng: np.random.Generator) -> Architecture:
        """One architecture, uniform over the space."""
        return self.decode(self.sample_encoded(rng, 1)[0])

    def sample_encoded(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` uniform architectures as option indices: int64 [n, sites]."""
        columns = [block.sample(rng, n) for block in self._blocks()]
        return np.concatenate(columns, axis=1) if columns else np.zeros((n, 0), dtype=np.int64)

    def all_encoded(self) -> np.ndarray:
        """Every architecture as option indices, in lexicographic order: int64 [size, sites]. Meant for small spaces."""
        members = [np.array(block.members(), dtype=np.int64) for block in self._blocks()]
        rows = np.indices([len(m) for m in members]).reshape(len(members), -1)
        return np.concatenate([m[row] for m, row in zip(members, rows, strict=True)], axis=1)

    def resample(self, genes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Copies of architectures [n, sites] in which one random site, or one group of sites, is drawn anew."""
        blocks, changed = list(self._blocks()), genes.copy()
        chosen, start = rng.integers(len(blocks), size=len(genes)), 0
        for i, block in enumerate(blocks):
            changed[chosen == i, start : start + len(block.decisions)] = block.sample(rng, int((chosen == i).sum()))
            start += len(block.decisions)
        return changed

    def __iter__(self) -> Iterator[Architecture]:
        """Every architecture, in lexicographic order of the encoding. Meant for small spaces."""
        return map(self.decode, self.all_encoded())

    def _blocks(self) -> Iterator[Block]:
        """The decisions that depend on each other, group by group; a site outside any group is a block of its own."""
        starts = {group.sites[0]: group for group in self.skeleton.groups}
        left = iter(self.decisions)
        for first in left:
            group = starts.get(first.name)
            yield Block((first, *itertools.islice(left, len(group.sites) - 1 if group else 0)), group)

    def extreme(self, rows: Sequence[np.ndarray], largest: bool) -> list[float]:
        """The least or greatest sum of one number of each row over all architectures, as its terms by block."""
        left = iter(rows)
        return [block.extreme(list(itertools.islice(left, len(block.decisions))), largest) for block in self._blocks()]

    def restrict(self, options: Mapping[str, Iterable[str]]) -> SearchSpace:
        """The space that keeps only these options at the named sites, in the sites' own order."""
        self._check_sites(options)
        decisions = list(self.decisions)
        for at, d in enumerate(decisions):
            if (keep := options.get(d.name)) is not None:
                indices = {d.index(option) for option in ([keep] if isinstance(keep, str) else keep)}
                if not indices:
                    raise SpaceError(f"site '{d.name}' would keep no option; keep at least one of {d.options}")
                decisions[at] = replace(d, options=tuple(d.options[i] for i in sorted(indices)))
        smaller = replace(self, decisions=tuple(decisions))
        for block in smaller._blocks():
            if not block.size():
                raise SpaceError(f"{block.rule}, and these options leave no way to do so")
        return smaller

    def architecture(self, choices: Choices) -> Architecture:
        """An architecture from option names in site order, or from `{site: option}`; 'identity' is read as 'skip'.

        A site may also be `{option: weight}`. Raises `SpaceError` where the choices do not fit the space.
        """
        choices = self.skeleton.read(choices)
        if isinstance(choices, str) or len(choices) != len(self.decisions):
            raise SpaceError(f"space '{self.name}' has {len(self.decisions)} sites, but {len(choices)} choices were given")
        if isinstance(choices, Mapping):
            self._check_sites(choices)
            choices = [choices[d.name] for d in self.decisions]
        found = []
        for decision, value in zip(self.decisions, choices, strict=True):
            kept = {value: 1.0} if isinstance(value, str) else value
            if not kept:
                raise SpaceError(f"site '{decision.name}' keeps no option; name at least one of {decision.options}")
            by_index = sorted((decision.index(option), float(weight)) for option, weight in kept.items())
            found.append(tuple((decision.options[i], weight) for i, weight in by_index))
        return Architecture(self.skeleton, tuple(found))

    def _check_sites(self, names: Iterable[str]) -> None:
        known = self.skeleton.site_names
        for name in names:
            if name not in known:
                raise SpaceError(f"space '{self.name}' has no site '{name}'; {did_you_mean(str(name), known)}")

    def encode(self, architecture: Architecture) -> np.ndarray:
        """Option indices within this space: int64 [sites]."""
        if architecture.skeleton != self.skeleton:
            raise SpaceError(f"an architecture of '{architecture.skeleton.name}' is not one of '{self.name}'")
        genes = [d.index(o) for d, o in zip(self.decisions, architecture.options, strict=True)]
        self._check_groups(genes)
        return np.array(genes, dtype=np.int64)

    def decode(self, genes: Sequence[int] | np.ndarray) -> Architecture:
        """The architecture of a vector of option indices [sites]."""
        if len(genes) != len(self.decisions):
            raise SpaceError(f"space '{self.name}' has {len(self.decisions)} sites, but {len(genes)} genes were given")
        for d, g in zip(self.decisions, genes, strict=True):
            if not 0 <= g < len(d.options):
                raise SpaceError(f"gene {g} is out of range at site '{d.name}'; it has {len(d.options)} options")
        self._check_groups(genes)
        return Architecture(self.skeleton, tuple(((d.options[g], 1.0),) for d, g in zip(self.decisions, genes, strict=True)))

    def _check_groups(self, genes: Sequence[int] | np.ndarray) -> None:
        chosen = iter(genes)
        for block in self._blocks():
            options = [d.options[next(chosen)] for d in block.decisions]
            if not block.allows(options):
                raise SpaceError(f"{block.rule}, and the options are {', '.join(options)}")

    def proxy(self, channels: int | None = None, cells: int | None = None) -> SearchSpace:
        """The same choices in the smaller network that is searched in."""
        return replace(self, skeleton=self.skeleton.proxy(channels, cells))

    def supernet(self) -> nn.Module:
        """A fresh supernet that holds the weights of all options of all sites."""
        return self.skeleton.supernet(self.decisions)


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
            importlib.import_module("hiernas.networks.filters").narrow(network, dict(self.filters))
        return network

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types; `Architecture.from_json` reads it back."""
        sites = {
            name: choice[0][0] if len(choice) == 1 and choice[0][1] == 1.0 else dict(choice)
            for name, choice in zip(self.skeleton.site_names, self.choices, strict=True)
        }
        filters = {"filters": {path: list(kept) for path, kept in self.filters}} if self.filters else {}
        arguments = dict(self.skeleton.arguments)
        return {"format": FORMAT, "space": self.skeleton.name, "arguments": arguments, "sites": sites, **filters}

    def save(self, path: str | Path) -> None:
        """Write the architecture as a JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace | None = None) -> Architecture:
        """Read an architecture file. `space` is needed where the file names a space that is not one of ours."""
        try:
            value = json.loads(Path(path).read_text())
        except OSError as error:
            raise SpaceError(f"cannot read the architecture file {path}: {error.strerror}") from error
        except UNREADABLE as error:
            raise SpaceError(f"{path} is not an architecture file ({error}); a search writes one, RUN/best.json") from error
        return cls.from_json(value, space, source=str(path))

    @classmethod
    def from_json(cls, value: Any, space: SearchSpace | None = None, source: str = "value") -> Architecture:
        """Read the value `to_json` wrote; raises `SpaceError` where it does not fit the space."""
        read = importlib.import_module("hiernas.spaces").architecture_of  # looked up only here: the core imports no space
        return cast(Architecture, read(value, space, source))

"""`SearchSpace`: a frozen value made of a skeleton and ordered decisions. Its one verb is `restrict`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hiernas.architecture import Architecture, Choice, Decision, Skeleton
from hiernas.errors import SpaceError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

Choices = Mapping[str, "str | Mapping[str, float]"] | Sequence["str | Mapping[str, float]"]


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
        if self.skeleton.groups:
            return self.decode(self.sample_encoded(rng, 1)[0])
        return self.decode([int(rng.integers(len(d.options))) for d in self.decisions])

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
            end = start + len(block.decisions)
            changed[chosen == i, start:end] = block.sample(rng, int((chosen == i).sum()))
            start = end
        return changed

    def __iter__(self) -> Iterator[Architecture]:
        """Every architecture, in lexicographic order of the encoding. Meant for small spaces."""
        for choices in itertools.product(*(block.members() for block in self._blocks())):
            yield self.decode([gene for genes in choices for gene in genes])

    def _blocks(self) -> Iterator[_Block | _AnyOf]:
        """The decisions that depend on each other, group by group; a site outside any group is a block of its own."""
        starts = {group.sites[0]: group for group in self.skeleton.groups}
        position = 0
        while position < len(self.decisions):
            group = starts.get(self.decisions[position].name)
            length = len(group.sites) if group else 1
            decisions = self.decisions[position : position + length]
            yield _AnyOf(decisions) if group and group.more else _Block(decisions, group.keep if group else None)
            position += length

    def extreme(self, rows: Sequence[np.ndarray], largest: bool) -> list[float]:
        """The least or greatest sum of one number of each row over all architectures, as its terms by block."""
        terms, position = [], 0
        for block in self._blocks():
            end = position + len(block.decisions)
            terms.append(block.extreme(rows[position:end], largest))
            position = end
        return terms

    def restrict(self, options: Mapping[str, Iterable[str]]) -> SearchSpace:
        """The space that keeps only these options at the named sites, in the sites' own order."""
        by_name = {d.name: d for d in self.decisions}
        for site in options:
            if site not in by_name:
                raise SpaceError(f"space '{self.name}' has no site '{site}'; {did_you_mean(site, by_name)}")
        smaller = replace(self, decisions=tuple(self._restricted(d, options.get(d.name)) for d in self.decisions))
        for block in smaller._blocks():
            block.check_not_empty()
        return smaller

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
        return Architecture(
            self.skeleton, tuple(((d.options[g], 1.0),) for d, g in zip(self.decisions, genes, strict=True))
        )

    def _check_groups(self, genes: Sequence[int] | np.ndarray) -> None:
        chosen = iter(genes)
        for block in self._blocks():
            block.check([d.options[next(chosen)] for d in block.decisions])

    def build(self, architecture: Architecture) -> nn.Module:
        """The stand-alone network of an architecture: [B, C, H, W] -> [B, classes]."""
        return architecture.build()

    def supernet(self) -> nn.Module:
        """A fresh supernet that holds the weights of all options of all sites."""
        return self.skeleton.supernet(self.decisions)


@dataclass(frozen=True)
class _Block:
    """Decisions that depend on each other: exactly `keep` of them are not 'none' (None: one free decision)."""

    decisions: tuple[Decision, ...]
    keep: int | None

    def size(self) -> int:
        """Number of members."""
        return sum(self.ways(kept) for kept in self.subsets())

    def subsets(self) -> Iterator[tuple[int, ...]]:
        """The sets of positions that can be other than 'none'."""
        if self.keep is None:
            return iter([(0,)])
        return itertools.combinations(range(len(self.decisions)), self.keep)

    def ways(self, kept: tuple[int, ...]) -> int:
        """Number of members of which exactly these positions are other than 'none'."""
        return math.prod(len(options) for options in self._choices(kept))

    def members(self) -> list[tuple[int, ...]]:
        """All allowed option indices, in lexicographic order."""
        return sorted(genes for kept in self.subsets() for genes in itertools.product(*self._choices(kept)))

    def extreme(self, rows: Sequence[np.ndarray], largest: bool) -> float:
        """The least or greatest sum of one number of each row over the members."""
        pick = max if largest else min
        sums = []
        for kept in self.subsets():
            choices = self._choices(kept)
            if all(choices):
                sums.append(sum(pick(float(row[i]) for i in options) for row, options in zip(rows, choices, strict=True)))
        return pick(sums)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Uniform members: int64 [n, decisions]."""
        if self.keep is None:
            return rng.integers(len(self.decisions[0].options), size=(n, 1))
        subsets = list(self.subsets())
        ways = np.array([self.ways(kept) for kept in subsets], dtype=np.float64)
        drawn = rng.choice(len(subsets), size=n, p=ways / ways.sum())
        genes = np.zeros((n, len(self.decisions)), dtype=np.int64)
        for i, kept in enumerate(subsets):
            for column, options in enumerate(self._choices(kept)):
                if options:
                    genes[drawn == i, column] = rng.choice(options, size=int((drawn == i).sum()))
        return genes

    def check(self, options: Sequence[str]) -> None:
        """Refuse options of which too many or too few are 'none'."""
        kept = sum(option != "none" for option in options)
        if self.keep is not None and kept != self.keep:
            raise SpaceError(f"{_named(self.decisions)}: {kept} are other than 'none', and exactly {self.keep} must be")

    def check_not_empty(self) -> None:
        """Refuse a restriction that leaves no member."""
        if not self.size():
            raise SpaceError(f"{_named(self.decisions)}: these options leave no way to keep exactly {self.keep} of the edges")

    def _choices(self, kept: tuple[int, ...]) -> list[list[int]]:
        """Per decision the option indices that are allowed where exactly these positions are other than 'none'."""
        if self.keep is None:
            return [list(range(len(self.decisions[0].options)))]
        found = []
        for position, decision in enumerate(self.decisions):
            wanted = position in kept
            found.append([i for i, option in enumerate(decision.options) if (option != "none") == wanted])
        return found


@dataclass(frozen=True)
class _AnyOf:
    """Decisions of which any number are not 'none', but for no one."""

    decisions: tuple[Decision, ...]

    def size(self) -> int:
        """Number of members."""
        return math.prod(len(d.options) for d in self.decisions) - self._excluded()

    def _excluded(self) -> int:
        return int(all("none" in d.options for d in self.decisions))

    def members(self) -> list[tuple[int, ...]]:
        """All allowed option indices, in lexicographic order."""
        everything = itertools.product(*(range(len(d.options)) for d in self.decisions))
        return [genes for genes in everything if self._kept(genes)]

    def _kept(self, genes: Sequence[int]) -> int:
        return sum(d.options[gene] != "none" for d, gene in zip(self.decisions, genes, strict=True))

    def extreme(self, rows: Sequence[np.ndarray], largest: bool) -> float:
        """The least or greatest sum of one number of each row over the members."""
        pick = max if largest else min
        best = [pick(map(float, row)) for row in rows]
        if not self._excluded():
            return sum(best)
        regrets = []  # of each decision: what it costs to have it other than 'none'
        for decision, row, value in zip(self.decisions, rows, best, strict=True):
            kept = [float(x) for option, x in zip(decision.options, row, strict=True) if option != "none"]
            if kept:
                regrets.append(abs(pick(kept) - value))
        return sum(best) + (-min(regrets) if largest else min(regrets))

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Uniform members: int64 [n, decisions]."""
        sizes = np.array([len(d.options) for d in self.decisions])
        genes = rng.integers(sizes, size=(n, len(sizes)))
        for row in range(n):
            while not self._kept(genes[row]):
                genes[row] = rng.integers(sizes)
        return genes

    def check(self, options: Sequence[str]) -> None:
        """Refuse options that are all 'none'."""
        if all(option == "none" for option in options):
            raise SpaceError(f"{_named(self.decisions)}: all are 'none', and at least one must be kept")

    def check_not_empty(self) -> None:
        """Refuse a restriction that leaves no member."""
        if not self.size():
            raise SpaceError(f"{_named(self.decisions)}: these options leave nothing but 'none'")


def _named(decisions: Sequence[Decision]) -> str:
    return f"sites {', '.join(d.name for d in decisions)}"

"""Decisions, and the groups of them that depend on each other: how many ways there are to choose, which, and drawn evenly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hiernas.errors import SpaceError, did_you_mean


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


def blocks(decisions: Sequence[Decision], groups: Sequence[Group]) -> Iterator[Block | AnyOf]:
    """The decisions that depend on each other, group by group; a site outside any group is a block of its own."""
    starts = {group.sites[0]: group for group in groups}
    position = 0
    while position < len(decisions):
        group = starts.get(decisions[position].name)
        length = len(group.sites) if group else 1
        some = tuple(decisions[position : position + length])
        yield AnyOf(some) if group and group.more else Block(some, group.keep if group else None)
        position += length


@dataclass(frozen=True)
class Block:
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
        return [
            [i for i, option in enumerate(decision.options) if (option != "none") == (position in kept)]
            for position, decision in enumerate(self.decisions)
        ]


@dataclass(frozen=True)
class AnyOf:
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

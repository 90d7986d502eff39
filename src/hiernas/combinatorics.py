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


def blocks(decisions: Sequence[Decision], groups: Sequence[Group]) -> Iterator[Block]:
    """The decisions that depend on each other, group by group; a site outside any group is a block of its own."""
    starts = {group.sites[0]: group for group in groups}
    left = iter(decisions)
    for first in left:
        group = starts.get(first.name)
        yield Block((first, *itertools.islice(left, len(group.sites) - 1 if group else 0)), group)


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
        pick = max if largest else min
        return pick(
            sum(pick(float(row[i]) for i in options) for row, options in zip(rows, choices, strict=True))
            for choices in self._choices()
            if all(choices)
        )

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Uniform members: int64 [n, decisions]."""
        if self.group is None or self.group.more:  # any that is allowed: few are not
            sizes = np.array([len(d.options) for d in self.decisions])
            genes = rng.integers(sizes, size=(n, len(sizes)))
            for row in genes:
                while not self.allows([d.options[gene] for d, gene in zip(self.decisions, row, strict=True)]):
                    row[:] = rng.integers(sizes)
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

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

    @property
    def rule(self) -> str:
        """What holds for all members, in words."""
        return f"{_named(self.decisions)}: exactly {self.keep} must be other than 'none'"

    def allows(self, options: Sequence[str]) -> bool:
        """Whether these options are a member."""
        return self.keep is None or sum(option != "none" for option in options) == self.keep

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
        if self.keep is None:
            return rng.integers(len(self.decisions[0].options), size=(n, 1))
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
        """For each set of decisions that can be other than 'none', the option indices that each decision then has."""
        if self.keep is None:
            yield [list(range(len(self.decisions[0].options)))]
            return
        for kept in itertools.combinations(range(len(self.decisions)), self.keep):
            yield [
                [i for i, option in enumerate(decision.options) if (option != "none") == (position in kept)]
                for position, decision in enumerate(self.decisions)
            ]


@dataclass(frozen=True)
class AnyOf:
    """Decisions of which any number are not 'none', but for no one; otherwise as `Block`."""

    decisions: tuple[Decision, ...]

    @property
    def rule(self) -> str:
        return f"{_named(self.decisions)}: at least one must be other than 'none'"

    def allows(self, options: Sequence[str]) -> bool:
        return any(option != "none" for option in options)

    def size(self) -> int:
        return math.prod(len(d.options) for d in self.decisions) - self._excluded()

    def _excluded(self) -> int:
        return int(all("none" in d.options for d in self.decisions))

    def members(self) -> list[tuple[int, ...]]:
        everything = itertools.product(*(range(len(d.options)) for d in self.decisions))
        return [genes for genes in everything if self._kept(genes)]

    def _kept(self, genes: Sequence[int]) -> bool:
        return self.allows([d.options[gene] for d, gene in zip(self.decisions, genes, strict=True)])

    def extreme(self, rows: Sequence[np.ndarray], largest: bool) -> float:
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
        sizes = np.array([len(d.options) for d in self.decisions])
        genes = rng.integers(sizes, size=(n, len(sizes)))
        for row in range(n):
            while not self._kept(genes[row]):
                genes[row] = rng.integers(sizes)
        return genes


def _named(decisions: Sequence[Decision]) -> str:
    return f"sites {', '.join(d.name for d in decisions)}"

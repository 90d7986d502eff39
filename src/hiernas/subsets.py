"""The networks that keep any number of a space's options at each site, as a space of their own: what masks choose from.

A site is a pair (`normal.0->2 sep_conv_3x3`) that is kept or 'none'. A node of a graph keeps at least one of all pairs
that lead into it, a site of a chain at least one of its options. All limits, tables and integer programs of other
spaces work here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hiernas.combinatorics import Decision, Group
from hiernas.space import Architecture, Choice, SearchSpace, Skeleton

if TYPE_CHECKING:
    from torch import nn

NONE = "none"


@dataclass(frozen=True)
class Subsets:
    """Skeleton of the networks that keep any number of the options of `space`."""

    space: SearchSpace

    @property
    def _inner(self) -> Skeleton:
        return self.space.skeleton

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def arguments(self) -> tuple[tuple[str, Any], ...]:
        return self._inner.arguments

    @property
    def input_size(self) -> tuple[int, int, int]:
        return self._inner.input_size

    @property
    def num_classes(self) -> int:
        return self._inner.num_classes

    @property
    def pairs(self) -> list[tuple[int, str]]:
        """All (site, option) pairs: index into the sites of `space`, and an option other than 'none'."""
        return [(i, o) for i, d in enumerate(self.space.decisions) for o in d.options if o != NONE]

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(f"{self.space.decisions[i].name} {option}" for i, option in self.pairs)

    @property
    def groups(self) -> tuple[Group, ...]:
        """At least one pair of each node; where a restricted space cannot drop an edge, at least one of that edge."""
        node_of = {site: k for k, group in enumerate(self._inner.groups) for site in group.sites}
        fixed = {d.name for d in self.space.decisions if NONE not in d.options}
        held = {node_of[site] for site in fixed if site in node_of}  # nodes that an edge leads into whatever happens
        found: dict[object, list[str]] = {}
        for name, (i, _) in zip(self.site_names, self.pairs, strict=True):
            site = self.space.decisions[i].name
            if site in fixed or site not in node_of:
                found.setdefault(site, []).append(name)
            elif node_of[site] not in held:
                found.setdefault(node_of[site], []).append(name)
        return tuple(Group(tuple(names), 1, more=True) for names in found.values())

    def read(self, choices: Any) -> Any:
        return choices

    @property
    def searched(self) -> str:
        return self._inner.searched

    @property
    def same_operations(self) -> bool:
        return self._inner.same_operations

    def proxy(self, channels: int | None = None, cells: int | None = None) -> Subsets:
        return Subsets(self.space.proxy(channels, cells))

    def without_dead(self, choices: Sequence[Choice]) -> tuple[Choice, ...]:
        return tuple(choices)

    def _parts(self) -> Any:
        """Those of the space itself, but for its nodes' sums: here a weighted sum follows each operation."""
        fixed, options = self._inner.parts()
        summed = [{o: [x for part in of for x in (part, part.summed())] for o, of in site.items()} for site in options]
        return [part for part in fixed if not part.is_searched_sum], summed

    def parts(self) -> Any:
        """The operations of every network, and per pair those of its option, each with its weighted sum (see `saved`)."""
        fixed, by_site = self._parts()
        return fixed, [{NONE: (), option: by_site[i][option]} for i, option in self.pairs]

    def saved(self) -> Any:
        """What `parts` has too much of: of the pairs into a node, or at a site that leads into none, one is no sum."""
        _, by_site = self._parts()
        options = [next(parts for option, parts in site.items() if option != NONE) for site in by_site]
        position = {name: i for i, name in enumerate(self._inner.site_names)}
        grouped = {site for group in self._inner.groups for site in group.sites}
        firsts = [group.sites[0] for group in self._inner.groups] + [name for name in position if name not in grouped]
        return [part for name in firsts for part in options[position[name]] if part.is_sum]

    def build(self, choices: Sequence[Choice]) -> nn.Module:
        """The plain network that keeps these pairs, all of weight 1."""
        kept: list[list[tuple[str, float]]] = [[] for _ in self.space.decisions]
        for (i, option), ((chosen, _),) in zip(self.pairs, choices, strict=True):
            if chosen != NONE:
                kept[i].append((option, 1.0))
        return self._inner.build([tuple(choice) or ((NONE, 1.0),) for choice in kept])

    def supernet(self, decisions: Sequence[Decision]) -> nn.Module:
        raise TypeError("the supernet is that of the space itself")


def subsets(space: SearchSpace) -> SearchSpace:
    """All networks that keep any number of the options of `space`, but for those without a path."""
    skeleton = Subsets(space)
    decisions = (Decision(name, (NONE, o)) for name, (_, o) in zip(skeleton.site_names, skeleton.pairs, strict=True))
    return SearchSpace(skeleton, tuple(decisions))


def as_subset(architecture: Architecture) -> Architecture:
    """A network that keeps several options at its sites as one of `Subsets`, without the weights."""
    kept = [tuple(option for option, _ in choice) for choice in architecture.choices]
    decisions = tuple(Decision(name, options) for name, options in zip(architecture.skeleton.site_names, kept, strict=True))
    pairs = Subsets(SearchSpace(architecture.skeleton, decisions))
    return Architecture(pairs, tuple(((option, 1.0),) for _, option in pairs.pairs))

"""The networks that keep any number of a space's options at each site, as a space of their own: what masks choose from.

A site is a pair (`normal.0->2 sep_conv_3x3`) that is kept or 'none'. A node of a graph keeps at least one of all pairs
that lead into it, a site of a chain at least one of its options. All limits, tables and integer programs of other
spaces work here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hiernas.space import Architecture, Choice, Decision, Group, SearchSpace

if TYPE_CHECKING:
    from torch import nn

NONE = "none"


@dataclass(frozen=True)
class Subsets:
    """Skeleton of the networks that keep any number of the options of `space`; what stays fixed is as in its own."""

    space: SearchSpace
    name: str
    arguments: tuple[tuple[str, Any], ...]
    input_size: tuple[int, int, int]
    num_classes: int
    searched: str
    same_operations: bool

    @classmethod
    def of(cls, space: SearchSpace) -> Subsets:
        its = space.skeleton
        return cls(space, its.name, its.arguments, its.input_size, its.num_classes, its.searched, its.same_operations)

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
        node_of = {site: k for k, group in enumerate(self.space.skeleton.groups) for site in group.sites}
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

    def proxy(self, channels: int | None = None, cells: int | None = None) -> Subsets:
        return Subsets.of(self.space.proxy(channels, cells))

    def _parts(self) -> Any:
        """Those of the space itself, but for its nodes' sums: here a weighted sum follows each operation."""
        fixed, options = self.space.skeleton.parts()
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
        position = {name: i for i, name in enumerate(self.space.skeleton.site_names)}
        grouped = {site for group in self.space.skeleton.groups for site in group.sites}
        firsts = [group.sites[0] for group in self.space.skeleton.groups] + [name for name in position if name not in grouped]
        return [part for name in firsts for part in options[position[name]] if part.is_sum]

    def build(self, choices: Sequence[Choice]) -> nn.Module:
        """The plain network that keeps these pairs, all of weight 1."""
        kept: list[list[tuple[str, float]]] = [[] for _ in self.space.decisions]
        for (i, option), ((chosen, _),) in zip(self.pairs, choices, strict=True):
            if chosen != NONE:
                kept[i].append((option, 1.0))
        return self.space.skeleton.build([tuple(choice) or ((NONE, 1.0),) for choice in kept])

    def supernet(self, decisions: Sequence[Decision]) -> nn.Module:
        raise TypeError("the supernet is that of the space itself")


def subsets(space: SearchSpace) -> SearchSpace:
    """All networks that keep any number of the options of `space`, but for those without a path."""
    skeleton = Subsets.of(space)
    decisions = (Decision(name, (NONE, o)) for name, (_, o) in zip(skeleton.site_names, skeleton.pairs, strict=True))
    return SearchSpace(skeleton, tuple(decisions))


def as_subset(architecture: Architecture) -> Architecture:
    """A network that keeps several options at its sites as one of `Subsets`, without the weights."""
    kept = [tuple(option for option, _ in choice) for choice in architecture.choices]
    decisions = tuple(Decision(name, options) for name, options in zip(architecture.skeleton.site_names, kept, strict=True))
    pairs = Subsets.of(SearchSpace(architecture.skeleton, decisions))
    return Architecture(pairs, tuple(((option, 1.0),) for _, option in pairs.pairs))

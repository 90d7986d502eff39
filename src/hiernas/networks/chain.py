"""Chain networks: a sequence of sites, each with one or more candidate operations.

`Chain` is the skeleton (a frozen value), `ChainSupernet` the module with the weights of all options. The
stand-alone network is an `nn.Sequential` of the chosen modules and nothing else.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hiernas.gates import Gates
from hiernas.networks.graph import has_identity
from hiernas.networks.ops import initialise
from hiernas.networks.parts import Options, Part, Parts, Site, mixed, strided
from hiernas.networks.supernets import as_one_step, check_restriction, load_mixed
from hiernas.space import Architecture, Choice, Decision, Group, SearchSpace


@dataclass(frozen=True)
class Chain:
    """Skeleton of a chain space: fixed stem, sites with options, fixed head (the last site is the classifier)."""

    name: str
    arguments: tuple[tuple[str, Any], ...]
    input_size: tuple[int, int, int]
    num_classes: int
    stem: tuple[Site, ...]
    sites: tuple[Site, ...]
    head: tuple[Site, ...]
    bn_eps: float = 1e-5
    published: tuple[int, ...] | None = None  # blocks per stage of the published network, where it has fewer
    groups: ClassVar[tuple[Group, ...]] = ()  # its sites are independent
    searched = "blocks"
    same_operations = True

    def proxy(self, channels: int | None = None, cells: int | None = None) -> Chain:
        """A chain is searched in its own supernet."""
        return self

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.sites)

    def space(self) -> SearchSpace:
        return SearchSpace(self, tuple(Decision(s.name, tuple(op.name for op in s.ops)) for s in self.sites))

    def read(self, choices: Any) -> Any:
        """An option list of the published network's own length, with 'skip' behind the blocks of each stage.

        Any other value is returned as it is.
        """
        if self.published is None or isinstance(choices, str | Mapping) or len(choices) != sum(self.published):
            return choices
        stages = Counter(name.split(".")[0] for name in self.site_names)
        given, read = iter(choices), []
        for blocks, sites in zip(self.published, stages.values(), strict=True):
            read += [next(given) for _ in range(blocks)] + ["skip"] * (sites - blocks)
        return read

    def parts(self) -> Parts:
        fixed: list[Part] = []
        options: list[Options] = []
        size = self.input_size[1:]
        for site in (*self.stem, *self.sites, *self.head):
            parts = [site.part(op, size) for op in site.ops]
            if site in self.sites:
                options.append({part.op.name: (part,) for part in parts})
            else:
                fixed += parts
            size = strided(size, site.stride)
        return fixed, options

    def ways_around(self, decisions: Sequence[Decision]) -> list[bool]:
        """Per site whether there is a way around it: it can be skipped, or an identity leads around its every option."""
        _, sites = self.parts()
        with torch.device("meta"):
            return [
                any(part.is_identity for part in options.get("skip", ()))
                or all(has_identity(part.build(), part.input_size) for o in d.options for part in options[o])
                for d, options in zip(decisions, sites, strict=True)
            ]

    def build(self, choices: Sequence[Choice]) -> nn.Module:
        """The plain network of the chosen options: [B, C, H, W] -> [B, classes]."""
        layers: list[nn.Module] = [_fixed(self.stem)]
        for site, choice in zip(self.sites, choices, strict=True):
            layers.append(mixed([site.build(option) for option, _ in choice], [weight for _, weight in choice]))
        layers.append(_fixed(self.head))
        names = ["stem", *(n.replace(".", "_") for n in self.site_names), "head"]
        network = nn.Sequential(OrderedDict(zip(names, layers, strict=True)))
        self._finish(network)
        return network

    def supernet(self, decisions: Sequence[Decision]) -> ChainSupernet:
        supernet = ChainSupernet(self, decisions)
        self._finish(supernet)
        return supernet

    def _finish(self, module: nn.Module) -> None:
        initialise(module)
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d) and not getattr(m, "keeps_weights", False):
                m.eps = self.bn_eps


def _fixed(sites: Sequence[Site]) -> nn.Sequential:
    return nn.Sequential(*(site.build(site.ops[0].name) for site in sites))


class ChainSupernet(nn.Module):
    """The weights of all options of a chain space; the architecture is an argument of the call."""

    def __init__(self, skeleton: Chain, decisions: Sequence[Decision]) -> None:
        super().__init__()
        self.space = SearchSpace(skeleton, tuple(decisions))
        self.skeleton = skeleton
        self.stem = _fixed(skeleton.stem)
        self.sites = nn.ModuleList(
            nn.ModuleDict({option: site.build(option) for option in decision.options})
            for site, decision in zip(skeleton.sites, decisions, strict=True)
        )
        self.head = _fixed(skeleton.head)

    def _chosen(self, architecture: Architecture) -> list[list[nn.Module]]:
        """The modules of the options that each site keeps."""
        sites: Any = self.sites
        return [[site[option] for option, _ in kept] for site, kept in zip(sites, architecture.choices, strict=True)]

    def forward(self, x: Tensor, gates: Gates) -> Tensor:
        """[B, C, H, W] and gates -> [B, classes]. Only options with a gate are computed."""
        sites: Any = self.sites
        x = self.stem(x)
        for site, indices, weights in zip(sites, gates.indices, gates.weights, strict=True):
            ops = list(site.values())
            if weights is None:
                x = ops[indices[0]](x)
            else:
                x = torch.stack([w * ops[i](x) for i, w in zip(indices, weights, strict=True)]).sum(0)
        return self.head(x)

    def path(self, architecture: Architecture) -> list[tuple[str, nn.Module]]:
        """The modules an architecture runs through, each with a name that is equal where the module is.

        One module where sites keep several options.
        """
        if not architecture.is_single:
            return as_one_step(self, architecture)
        modules = [module for (module,) in self._chosen(architecture)]
        return list(zip(["stem", *architecture.options, "head"], [self.stem, *modules, self.head], strict=True))

    def restrict(self, space: SearchSpace) -> ChainSupernet:
        """A supernet of the smaller space that keeps the surviving weights (copied), stem and head included."""
        check_restriction(self.space, space)
        sites: Any = self.sites
        dropped = [(i, o) for i, d in enumerate(space.decisions) for o in sites[i] if o not in d.options]
        gone = {id(sites[i][option]): None for i, option in dropped}
        smaller = copy.deepcopy(self, {id(self.space): space, **gone})  # no copy of what is dropped
        kept: Any = smaller.sites
        for i, option in dropped:
            del kept[i][option]
        return smaller

    def subnet(self, architecture: Architecture) -> nn.Module:
        """The stand-alone network with inherited weights (copied). Its batch-norm statistics need re-estimation."""
        network = architecture.build()
        modules: list[list[nn.Module]] = [[self.stem], *self._chosen(architecture), [self.head]]
        for layer, sources in zip(network.children(), modules, strict=True):
            load_mixed(layer, sources)
        return network

"""The search methods by name. A method's record stands in its own file, which is read when it is first asked for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hiernas.errors import one_of

if TYPE_CHECKING:
    from hiernas.problem import Method

FILES = {  # where each one is, and what it is, for people
    "hnas": ("hnas", "HNAS, arXiv 2005.07564v1: a supernet of single paths, pruned to what its best networks use"),
    "hournas": ("hournas", "HourNAS, arXiv 2005.14446v3: vital blocks, then the others inside proposals within the limits"),
    "darts": ("darts", "DARTS, arXiv 1806.09055, first order: weights and logits by turns, then a node's two strongest edges"),
    "hdas": ("hdas", "H-DAS, arXiv 2101.04028v2: cells, then the number of cells of each stage, then the graphs between them"),
    "hdas-cells": ("hdas", "H-DAS' cells alone: three normal and two reduction ones, each stage's own"),
    "hdas-distribution": ("hdas", "H-DAS' number of cells of each stage, of given cells, with the graphs between them"),
    "hdas-stages": ("hdas", "H-DAS' graphs between given cells, with the depth loss"),
    "hmnas": ("hmnas", "HM-NAS, arXiv 1909.00122v2: weighted edges and operations, of which learned masks keep what stays"),
    "spos": ("baselines", "SPOS, arXiv 1904.00420, with its own evolution, by HNAS' configuration"),
    "random-search": ("baselines", "random networks within the limits, judged by the same supernet, by HNAS' configuration"),
    "random": ("controls", "no search: one network drawn within the limits"),
    "random-k": ("controls", "no search: networks drawn within the limits and trained briefly, the best of them taken"),
    "naswot": ("controls", "no search: networks drawn within the limits, put in order untrained, by NASWOT, arXiv 2006.04647"),
    "plain": ("controls", "no search: the largest regular network within the limits"),
}


def variants(text: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Name, method and settings of each of "hnas,once=hnas:stages=2+epochs=[30,15]"; "" where there is no name of its own."""
    found = []
    for part in re.split(r",(?![^\[]*\])", text):  # not those inside a list
        named, _, settings = part.strip().partition(":")
        name, _, method = named.rpartition("=")
        one_of("method", method, FILES)
        found.append((name, method, tuple(s.strip() for s in settings.split("+") if s.strip())))
    return found


class Methods(Mapping[str, "Method"]):
    """The records by name."""

    def __getitem__(self, name: str) -> Method:
        found: Mapping[str, Method] = importlib.import_module(f"hiernas.methods.{FILES[name][0]}").METHODS
        return found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(FILES)

    def __len__(self) -> int:
        return len(FILES)


METHODS = Methods()

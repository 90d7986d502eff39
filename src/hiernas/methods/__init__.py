"""The search methods by name. A method's record stands in its own file, which is read when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hiernas.problem import Method

FILES = {
    "hnas": "hnas", "hournas": "hournas", "darts": "darts", "hdas": "hdas", "hdas-cells": "hdas",
    "hdas-distribution": "hdas", "hdas-stages": "hdas", "hmnas": "hmnas", "spos": "baselines", "random": "baselines",
}  # fmt: skip


class Methods(Mapping[str, "Method"]):
    """The records by name."""

    def __getitem__(self, name: str) -> Method:
        found: Mapping[str, Method] = importlib.import_module(f"hiernas.methods.{FILES[name]}").METHODS
        return found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(FILES)

    def __len__(self) -> int:
        return len(FILES)


METHODS = Methods()

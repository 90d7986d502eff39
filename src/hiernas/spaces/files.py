"""Architecture files: read strictly, whoever wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NotRequired

import torch
from pydantic import FiniteFloat
from typing_extensions import TypedDict

from hiernas import spaces
from hiernas.errors import SpaceError, did_you_mean, validated
from hiernas.space import FORMAT, Architecture, SearchSpace


class _File(TypedDict):
    """An architecture file."""

    format: int
    space: str
    arguments: NotRequired[dict[str, Any]]
    sites: dict[str, str | dict[str, FiniteFloat]]
    filters: NotRequired[dict[str, list[int]]]


def architecture_of(value: Any, space: SearchSpace | None, source: str) -> Architecture:
    """See `Architecture.from_json`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("sites"), Mapping) or "space" not in value:
        raise SpaceError(f"{source} is not an architecture: an object with 'space' and 'sites' is expected")
    value = validated(_File, dict(value), f"{source} is not an architecture", SpaceError)
    if value.get("format") != FORMAT:
        raise SpaceError(f"{source} has architecture format {value.get('format')!r}; this version reads {FORMAT}")
    space = space or known_space(value["space"], value.get("arguments", {}), source)
    if space.skeleton.name != value["space"]:
        raise SpaceError(f"{source} belongs to space '{value['space']}', not to '{space.skeleton.name}'")
    architecture = space.architecture(value["sites"])
    return _with_filters(architecture, value["filters"]) if "filters" in value else architecture


def _with_filters(architecture: Architecture, filters: Mapping[str, list[int]]) -> Architecture:
    found = replace(architecture, filters=tuple((path, tuple(kept)) for path, kept in filters.items()))
    with torch.device("meta"):  # without memory
        found.build()
    return found


def known_space(name: str, arguments: Mapping[str, Any], source: str = "value") -> SearchSpace:
    """One of our own spaces by name."""
    if name not in spaces.NAMES:
        raise SpaceError(
            f"{source}: unknown space '{name}'; {did_you_mean(name, spaces.NAMES)} For a space of your own, pass it: "
            "Architecture.load(path, space=...)"
        )
    try:
        return spaces.space_function(name, arguments)(**arguments)
    except SpaceError as error:
        raise SpaceError(f"{source}: {error}") from error

"""Spaces by name, made for the data at hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hiernas import spaces
from hiernas.data.split import ImageData
from hiernas.errors import SpaceError, one_of
from hiernas.space import SearchSpace


def space_function(name: str, arguments: Mapping[str, Any]) -> Callable[..., SearchSpace]:
    one_of("space", name, spaces.NAMES, SpaceError)
    function: Callable[..., SearchSpace] = getattr(spaces, name)
    known = [p for p in inspect.signature(function).parameters if p not in ("input_size", "num_classes")]
    for key in arguments:
        if key not in known:
            raise SpaceError(f"space '{name}' has no setting 'space.{key}'; known: {', '.join(known) or 'none'}")
    return function


def make_space(space: str | SearchSpace | None, data: ImageData, arguments: Mapping[str, Any]) -> SearchSpace:
    """The named space for the data's image size and classes; a given space must fit them."""
    if space is None:
        raise SpaceError("no space was named")
    if isinstance(space, str):
        return space_function(space, arguments)(input_size=data.input_size, num_classes=data.num_classes, **arguments)
    wanted = (space.skeleton.input_size, space.skeleton.num_classes)
    if wanted != (data.input_size, data.num_classes):
        raise SpaceError(
            f"space '{space.name}' is for images of size {wanted[0]} in {wanted[1]} classes, but {data.name} has "
            f"{data.input_size} in {data.num_classes}; make the space with input_size={data.input_size}, "
            f"num_classes={data.num_classes}"
        )
    return space

"""Search spaces: functions that return a `SearchSpace`. All take `input_size` and `num_classes`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import ConfigDict, ValidationError, validate_call

from hiernas.data.split import ImageData
from hiernas.errors import SpaceError, one_of, problem
from hiernas.names import SPACES
from hiernas.space import SearchSpace
from hiernas.spaces.cells import darts, hdas_cells, hdas_stages
from hiernas.spaces.chains import (
    Stage,
    chain_space,
    efficientnet,
    fbnet,
    fbnet_enlarged,
    fit_strides,
    hnas_basic,
    hnas_large,
    mnasnet,
    mobilenetv2,
    nasbench_macro,
    proxyless,
    tiny,
)
from hiernas.spaces.known import KNOWN, Known, known

NAMES = tuple(SPACES)
SIZES = ("input_size", "num_classes")  # arguments that the images give

__all__ = [  # a space is found by its name among these
    "KNOWN", "NAMES", "Known", "Stage", "chain_space", "darts", "efficientnet", "fbnet", "fbnet_enlarged", "fit_strides",
    "hdas_cells", "hdas_stages", "hnas_basic", "hnas_large", "known", "make_space", "mnasnet", "mobilenetv2", "nasbench_macro",
    "proxyless", "space_function", "tiny",
]  # fmt: skip


def space_function(name: str, arguments: Mapping[str, Any]) -> Callable[..., SearchSpace]:
    one_of("space", name, NAMES, SpaceError)
    function: Callable[..., SearchSpace] = globals()[name]
    known = [p for p in inspect.signature(function).parameters if p not in SIZES]
    for key in arguments:
        if key not in (*known, *SIZES):
            raise SpaceError(f"space '{name}' has no setting 'space.{key}'; known: {', '.join(known) or 'none'}")
    return partial(_called, name, function)


def _called(name: str, function: Callable[..., SearchSpace], **arguments: Any) -> SearchSpace:
    """A space by arguments that may come from a file."""
    strictly = validate_call(config=ConfigDict(strict=True))(function)
    try:
        return strictly(**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})
    except ValidationError as error:
        raise SpaceError(f"space '{name}' does not take these arguments: {problem(error.errors()[0])}") from error


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

"""Search spaces: functions that return a `SearchSpace`. All take `input_size` and `num_classes`.

Here they are found by name, as are published networks (`known.toml`) and the networks of architecture files.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired

import torch
from pydantic import ConfigDict, FiniteFloat, ValidationError, validate_call
from typing_extensions import TypedDict

from hiernas.data.split import ImageData
from hiernas.errors import SpaceError, did_you_mean, one_of, problem, validated
from hiernas.names import SPACES
from hiernas.networks.genotype import GENOTYPES, nodes_of
from hiernas.space import FORMAT, Architecture, SearchSpace
from hiernas.spaces.backbone import backbone_space
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

NAMES = tuple(SPACES)
SIZES = ("input_size", "num_classes")  # arguments that the images give

__all__ = [  # a space is found by its name among these
    "KNOWN", "NAMES", "Known", "Stage", "backbone_space", "chain_space", "darts", "efficientnet", "fbnet", "fbnet_enlarged",
    "fit_strides", "hdas_cells", "hdas_stages", "hnas_basic", "hnas_large", "known", "make_space", "mnasnet", "mobilenetv2",
    "nasbench_macro", "proxyless", "space_function", "tiny",
]  # fmt: skip


def space_function(name: str, arguments: Mapping[str, Any]) -> Callable[..., SearchSpace]:
    one_of("space", name, NAMES, SpaceError)
    function: Callable[..., SearchSpace] = globals()[name]
    known = [p for p in inspect.signature(function).parameters if p not in SIZES]
    for key in arguments:
        if key not in (*known, *SIZES):
            if key == "cell":
                raise SpaceError(f"--cells gives the cells of a stage search, and space '{name}' takes none; leave it out")
            raise SpaceError(f"space '{name}' has no setting 'space.{key}'; known: {', '.join(known) or 'none'}")
    strictly = validate_call(config=ConfigDict(strict=True))(function)

    def called(**given: Any) -> SearchSpace:
        """By arguments that may come from a file."""
        try:
            return strictly(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
        except ValidationError as error:
            raise SpaceError(f"space '{name}' does not take these arguments: {problem(error.errors()[0])}") from error

    return called


def make_space(space: str | SearchSpace | None, data: ImageData, arguments: Mapping[str, Any]) -> SearchSpace:
    """The named space for the data's image size and classes; a given space must fit them."""
    if space is None:
        raise SpaceError("no space was named")
    if isinstance(space, str):
        return space_function(space, arguments)(input_size=data.input_size, num_classes=data.num_classes, **arguments)
    made_for, needed = (f"input_size={x.input_size}, num_classes={x.num_classes}" for x in (space.skeleton, data))
    if made_for != needed:
        raise SpaceError(f"space '{space.name}' is for {made_for}; make it for those of {data.name}: {needed}")
    return space


# -- published networks, see known.toml ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A published network: where it stands in which space, and what is printed about it."""

    name: str
    space: str  # the function in `hiernas.spaces`
    arguments: tuple[tuple[str, Any], ...]  # of that function, beyond input_size and num_classes
    encoding: Any  # what `SearchSpace.architecture` reads
    published_params: float | None  # millions, as printed
    published_macs: float | None  # millions, as printed
    source: str  # of the encoding and of the printed numbers
    note: str  # what explains a difference between the printed numbers and those we count
    published_latency: str | None  # as printed, with its device


def _known() -> Iterator[Known]:
    networks = tomllib.loads(Path(__file__).with_name("known.toml").read_text(encoding="utf-8"))
    notes = networks.pop("notes")
    for name, row in networks.items():
        arguments = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in row.get("arguments", {}).items())
        note = " ".join(filter(None, (notes.get(row.get("shared_note")), row.get("note"))))
        numbers = row.get("params"), row.get("macs")
        yield Known(name, row["space"], arguments, _encoding(row), *numbers, row["source"], note, row.get("latency"))


def _encoding(row: Mapping[str, Any]) -> Any:
    if "stage" in row:
        return {"cell": row["arguments"]["cell"], "stage": {name: nodes_of(text) for name, text in row["stage"].items()}}
    return GENOTYPES[row["genotype"]] if "genotype" in row else tuple(row["options"].split())


KNOWN: dict[str, Known] = {network.name: network for network in _known()}


def known(
    name: str, input_size: tuple[int, int, int] | None = None, num_classes: int | None = None, **arguments: Any
) -> Architecture:
    """A published network by name, as published or for other images and classes. `KNOWN` lists them.

    `arguments`: of its space, such as channels=16. Raises `SpaceError` for an unknown name, and for what its space
    does not take.
    """
    one_of("network", name, KNOWN, SpaceError)
    network = KNOWN[name]
    sizes = {"input_size": input_size, "num_classes": num_classes}
    arguments = dict(network.arguments) | {key: value for key, value in sizes.items() if value is not None} | arguments
    return known_space(network.space, arguments, source=name).architecture(network.encoding)


def known_space(name: str, arguments: Mapping[str, Any], source: str = "value") -> SearchSpace:
    """One of our own spaces by name."""
    if name not in NAMES:
        raise SpaceError(
            f"{source}: unknown space '{name}'; {did_you_mean(name, NAMES)} For a space of your own, pass it: "
            "Architecture.load(path, space=...)"
        )
    try:
        return space_function(name, arguments)(**arguments)
    except SpaceError as error:
        raise SpaceError(f"{source}: {error}") from error


# -- architecture files ----------------------------------------------------------------------------------------------


class _File(TypedDict):
    """An architecture file."""

    format: int
    space: str
    arguments: NotRequired[dict[str, Any]]
    sites: dict[str, str | dict[str, FiniteFloat]]
    filters: NotRequired[dict[str, list[int]]]


def architecture_of(value: Any, space: SearchSpace | None, source: str) -> Architecture:
    """See `Architecture.from_json`."""
    value = validated(_File, value, f"{source} is not an architecture, an object with 'space' and 'sites'", SpaceError)
    if value.get("format") != FORMAT:
        raise SpaceError(f"{source} has architecture format {value.get('format')!r}; this version reads {FORMAT}")
    space = space or known_space(value["space"], value.get("arguments", {}), source)
    if space.skeleton.name != value["space"]:
        raise SpaceError(f"{source} belongs to space '{value['space']}', not to '{space.skeleton.name}'")
    try:
        found = space.architecture(value["sites"])
        if "filters" in value:
            found = replace(found, filters=tuple((path, tuple(kept)) for path, kept in value["filters"].items()))
            with torch.device("meta"):  # refused here where the network does not have them; without memory
                found.build()
    except SpaceError as error:
        raise SpaceError(f"{source}: {error}") from error
    return found

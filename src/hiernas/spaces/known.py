"""Published networks of our spaces by name, with the numbers their authors print: see `known.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiernas.networks.genotype import GENOTYPES, nodes_of


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


def _read() -> Iterator[Known]:
    networks = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    notes = networks.pop("notes")
    for name, row in networks.items():
        arguments = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in row.get("arguments", {}).items())
        note = " ".join(filter(None, (notes.get(row.get("shared_note")), row.get("note"))))
        numbers = row.get("params"), row.get("macs")
        yield Known(name, row["space"], arguments, _encoding(row), *numbers, row["source"], note, row.get("latency"))


def _encoding(row: Mapping[str, Any]) -> Any:
    if "options" in row:
        return tuple(row["options"].split())
    if "genotype" in row:
        return GENOTYPES[row["genotype"]]
    return {"cell": row["arguments"]["cell"], "stage": {name: nodes_of(text) for name, text in row["stage"].items()}}


KNOWN: dict[str, Known] = {network.name: network for network in _read()}

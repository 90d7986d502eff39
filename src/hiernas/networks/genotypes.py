"""Published cells by name, as their authors' repositories print them (quark0/darts' form)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hiernas.errors import SpaceError, did_you_mean
from hiernas.networks.genotype import Genotype, read_genotype


def _cell(text: str) -> list[list[list[Any]]]:
    """'sep_conv_3x3 0, skip_connect 1 | ...': the edges into each node."""
    nodes = [[edge.split() for edge in node.split(",")] for node in text.split("|")]
    return [[[op, int(source)] for op, source in node] for node in nodes]


def _genotype(**cells: str) -> Genotype:
    return read_genotype({kind: _cell(text) for kind, text in cells.items()})


GENOTYPES: dict[str, Genotype] = {
    # Liu et al. 2019, first and second order
    "DARTS_V1": _genotype(
        normal="sep_conv_3x3 1, sep_conv_3x3 0 | skip_connect 0, sep_conv_3x3 1 | "
        "skip_connect 0, sep_conv_3x3 1 | sep_conv_3x3 0, skip_connect 2",
        reduce="max_pool_3x3 0, max_pool_3x3 1 | skip_connect 2, max_pool_3x3 0 | "
        "max_pool_3x3 0, skip_connect 2 | skip_connect 2, avg_pool_3x3 0",
    ),
    "DARTS_V2": _genotype(
        normal="sep_conv_3x3 0, sep_conv_3x3 1 | sep_conv_3x3 0, sep_conv_3x3 1 | "
        "sep_conv_3x3 1, skip_connect 0 | skip_connect 0, dil_conv_3x3 2",
        reduce="max_pool_3x3 0, max_pool_3x3 1 | skip_connect 2, max_pool_3x3 1 | "
        "max_pool_3x3 0, skip_connect 2 | skip_connect 2, max_pool_3x3 1",
    ),
    # Xie et al. 2019: mild, moderate and aggressive constraint
    "SNAS_mild": _genotype(
        normal="sep_conv_3x3 0, sep_conv_3x3 1 | skip_connect 0, dil_conv_3x3 1 | "
        "skip_connect 0, skip_connect 1 | skip_connect 0, sep_conv_3x3 1",
        reduce="max_pool_3x3 0, max_pool_3x3 1 | max_pool_3x3 1, skip_connect 2 | "
        "max_pool_3x3 1, skip_connect 2 | max_pool_3x3 0, dil_conv_5x5 2",
    ),
    "SNAS_moderate": _genotype(
        normal="dil_conv_5x5 0, skip_connect 1 | sep_conv_3x3 0, skip_connect 1 | "
        "skip_connect 0, skip_connect 1 | sep_conv_3x3 0, dil_conv_5x5 1",
        reduce="max_pool_3x3 0, max_pool_3x3 1 | sep_conv_5x5 0, dil_conv_5x5 1 | "
        "sep_conv_5x5 0, sep_conv_5x5 1 | sep_conv_5x5 0, sep_conv_5x5 1",
    ),
    "SNAS_aggressive": _genotype(
        normal="sep_conv_5x5 0, skip_connect 1 | skip_connect 0, skip_connect 1 | "
        "skip_connect 0, dil_conv_5x5 1 | skip_connect 0, dil_conv_5x5 1",
        reduce="sep_conv_5x5 0, none 1 | sep_conv_5x5 0, none 1 | none 0, none 1 | none 0, none 1",
    ),
    # Dong and Yang 2019
    "GDAS_V1": _genotype(
        normal="skip_connect 0, skip_connect 1 | skip_connect 0, sep_conv_5x5 2 | "
        "sep_conv_3x3 3, skip_connect 0 | sep_conv_5x5 4, sep_conv_3x3 3",
        reduce="sep_conv_5x5 0, sep_conv_3x3 1 | sep_conv_5x5 2, sep_conv_5x5 1 | "
        "dil_conv_5x5 2, sep_conv_3x3 1 | sep_conv_5x5 0, sep_conv_5x5 1",
    ),
    # Chen et al. 2019
    "PDARTS": _genotype(
        normal="skip_connect 0, dil_conv_3x3 1 | skip_connect 0, sep_conv_3x3 1 | "
        "sep_conv_3x3 1, sep_conv_3x3 3 | sep_conv_3x3 0, dil_conv_5x5 4",
        reduce="avg_pool_3x3 0, sep_conv_5x5 1 | sep_conv_3x3 0, dil_conv_5x5 2 | "
        "max_pool_3x3 0, dil_conv_3x3 1 | dil_conv_3x3 1, dil_conv_5x5 3",
    ),
    # Xu et al. 2020, searched on CIFAR-10 and on ImageNet
    "PC_DARTS_cifar": _genotype(
        normal="sep_conv_3x3 1, skip_connect 0 | sep_conv_3x3 0, dil_conv_3x3 1 | "
        "sep_conv_5x5 0, sep_conv_3x3 1 | avg_pool_3x3 0, dil_conv_3x3 1",
        reduce="sep_conv_5x5 1, max_pool_3x3 0 | sep_conv_5x5 1, sep_conv_5x5 2 | "
        "sep_conv_3x3 0, sep_conv_3x3 3 | sep_conv_3x3 1, sep_conv_3x3 2",
    ),
    "PC_DARTS_image": _genotype(
        normal="skip_connect 1, sep_conv_3x3 0 | sep_conv_3x3 0, skip_connect 1 | "
        "sep_conv_3x3 1, sep_conv_3x3 3 | sep_conv_3x3 1, dil_conv_5x5 4",
        reduce="sep_conv_3x3 0, skip_connect 1 | dil_conv_5x5 2, max_pool_3x3 1 | "
        "sep_conv_3x3 2, sep_conv_3x3 1 | sep_conv_5x5 0, sep_conv_3x3 3",
    ),
    # Liu et al. 2021, the cells of H-DAS' first level
    "HC_DAS": _genotype(
        normal1="sep_conv_3x3 0, sep_conv_3x3 1 | sep_conv_3x3 0, sep_conv_3x3 1 | "
        "sep_conv_3x3 0, sep_conv_3x3 1 | sep_conv_3x3 2, sep_conv_3x3 3",
        reduce1="max_pool_3x3 0, skip_connect 1 | max_pool_3x3 0, max_pool_3x3 2 | "
        "sep_conv_3x3 0, skip_connect 1 | sep_conv_3x3 0, dil_conv_3x3 4",
        normal2="skip_connect 0, dil_conv_3x3 1 | skip_connect 0, sep_conv_3x3 1 | "
        "skip_connect 0, sep_conv_3x3 1 | skip_connect 0, sep_conv_3x3 1",
        reduce2="max_pool_3x3 0, dil_conv_3x3 1 | max_pool_3x3 0, dil_conv_5x5 2 | "
        "max_pool_3x3 0, dil_conv_5x5 3 | max_pool_3x3 0, skip_connect 4",
        normal3="dil_conv_5x5 0, sep_conv_3x3 1 | sep_conv_3x3 1, dil_conv_3x3 2 | "
        "dil_conv_3x3 0, sep_conv_5x5 2 | sep_conv_5x5 3, sep_conv_3x3 4",
    ),
}


def genotype(value: str | Mapping[str, Any] | Genotype) -> Genotype:
    """A genotype by published name, from DARTS' text, or from JSON. Raises `SpaceError` where it is none of them."""
    if not isinstance(value, str) or "(" in value or "{" in value:
        return read_genotype(value)
    by_name = {_plain(name): cells for name, cells in GENOTYPES.items()}
    if _plain(value) not in by_name:
        raise SpaceError(f"there is no genotype '{value}'; {did_you_mean(value, GENOTYPES)}")
    return by_name[_plain(value)]


def name_of(value: Genotype) -> str:
    """The published name of a genotype, else its text: what `genotype` reads."""
    return next((name for name, known in GENOTYPES.items() if known == value), value.to_text())


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")

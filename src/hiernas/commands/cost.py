"""`hiernas cost`: what a network costs; of an architecture file, a run folder or a published network by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hiernas.combinatorics import Decision
from hiernas.commands.measure import teller
from hiernas.commands.options import CostOptions, SizedOptions
from hiernas.costs import MEMORY
from hiernas.costs.tables import cost as count_cost
from hiernas.errors import ConfigError, RunError, SpaceError
from hiernas.latency.measure import cached_table_path, measure_table
from hiernas.latency.runtimes import RUNTIME, make_runtime
from hiernas.latency.table import load_table
from hiernas.report import units
from hiernas.run.folder import Listener, RunFolder
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import KNOWN, Known, known
from hiernas.subsets import subsets


def cost(asked: CostOptions, listener: Listener) -> dict[str, str]:
    """Costs of a network by name of the cost: counted, as published, predicted and measured."""
    architecture, network = architecture_of(asked), published(asked.source)
    skeleton, counted = architecture.skeleton, count_cost(architecture)
    shown = {
        "space": skeleton.name,
        "for images of": f"{skeleton.input_size} in {skeleton.num_classes} classes",
        "params": f"{counted.params:,}",
        "macs": f"{counted.macs:,}",
        **{metric: units.value(metric, getattr(counted, metric)) for metric in MEMORY},
    }
    return shown | (_printed(network) if network else {}) | _latencies(architecture, asked, listener)


def _printed(network: Known) -> dict[str, str]:
    rows = {
        "published params": network.published_params and f"{network.published_params:g} M",
        "published macs": network.published_macs and f"{network.published_macs:g} M",
        "published latency": network.published_latency,
        "source": network.source,
        "note": network.note,
    }
    return {name: str(text) for name, text in rows.items() if text}


def _latencies(architecture: Architecture, asked: CostOptions, listener: Listener) -> dict[str, str]:
    if asked.latency_table is not None:
        table = load_table(asked.latency_table, asked.runtime, asked.threads)
        return {"latency predicted": f"{units.milliseconds(table.predict(architecture))} ({table.device}, {table.runtime})"}
    engine = make_runtime(asked.runtime or RUNTIME, asked.threads or 1)
    kept = tuple(
        Decision(name, tuple(option for option, _ in choice))
        for name, choice in zip(architecture.skeleton.site_names, architecture.choices, strict=True)
    )
    only = SearchSpace(architecture.skeleton, kept)  # its operations, however many a node keeps
    only = only if architecture.is_single else subsets(only)
    measured = measure_table(only, engine, cached_table_path(engine), teller(listener))
    whole = engine.measure(architecture.build(), architecture.skeleton.input_size, runs=100, warmup=10)
    where = f"{measured.device}, {measured.runtime}, {measured.threads} thread(s)"
    return {
        "latency predicted": f"{units.milliseconds(measured.predict(architecture))} ({where})",
        "latency measured": f"{units.milliseconds(whole.p10_ms)} (median {whole.median_ms:.3g}, 90 % {whole.p90_ms:.3g})",
    }


# -- the networks of this command and of others ------------------------------------------------------------------------


def published(text: str) -> Known | None:
    """The published network, where a text is the name of one."""
    return None if Path(text).exists() else KNOWN.get(text)


def architecture_of(asked: SizedOptions) -> Architecture:
    """The network that is asked for. Raises `SpaceError`, `RunError` or `ConfigError` with what is wrong."""
    path = Path(asked.source)
    if not (path.exists() or path.suffix or len(path.parts) > 1):
        return known(asked.source, asked.sizes, asked.num_classes, **asked.arguments)
    if asked.sizes or asked.num_classes or asked.arguments:
        raise ConfigError(
            f"{asked.source} says its own image size, classes and space; --input-size, --num-classes and --set are for "
            "published networks"
        )
    return architecture_file(path)


def architecture_file(source: Path) -> Architecture:
    """The architecture of a file, or of a run folder's result."""
    if not source.exists():
        also = "; it is a published network, which `hiernas cost` knows" if str(source) in KNOWN else ""
        raise SpaceError(f"there is no run folder and no architecture file {source}{also}")
    path = source / "best.json" if source.is_dir() else source
    if source.is_dir():
        RunFolder.open(source).check("best.json")  # says so where it is no run folder at all
        if not path.exists():
            raise RunError(f"{source} has not found its architecture yet; go on with `hiernas resume {source}`")
    return Architecture.load(path)


def cells_named(text: str) -> str:
    """The genotype of `--cells` as text or name: one by name or text, or that of a run's or file's architecture."""
    if not Path(text).exists():
        return text
    architecture = architecture_file(Path(text))
    skeleton: Any = architecture.skeleton
    if skeleton.searched == "blocks":
        nothing = f"{text} found a network of '{skeleton.name}', which has no cells"
        raise SpaceError(f"{nothing}; name a search in cells, or a genotype")
    found = skeleton.genotype(architecture) if skeleton.searched == "cells" else skeleton.genotype
    return str(found.to_text())

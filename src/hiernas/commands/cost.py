"""What a network costs: the command `hiernas cost`, for architecture files, run folders and published networks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hiernas.cli.progress import quantity
from hiernas.combinatorics import Decision
from hiernas.costs.count import cost as count_cost
from hiernas.errors import ConfigError, RunError, SpaceError
from hiernas.latency.measure import cached_table_path, measure_table
from hiernas.latency.phone import load_table
from hiernas.latency.runtimes import RUNTIME, make_runtime
from hiernas.networks.cell import CellNetwork
from hiernas.networks.stage import StageNetwork
from hiernas.run.folder import Listener, RunFolder
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import KNOWN, Known, known
from hiernas.subsets import subsets


@dataclass(frozen=True)
class Source:
    """Where an architecture comes from: a file, a run folder, or a published network's name, for other sizes if wanted."""

    text: str
    input_size: tuple[int, int, int] | None = None
    num_classes: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the published network's space

    @property
    def known(self) -> Known | None:
        """The published network, where the text is the name of one."""
        return None if Path(self.text).exists() else KNOWN.get(self.text)

    def load(self) -> Architecture:
        """The architecture. Raises `SpaceError`, `RunError` or `ConfigError` with what is wrong."""
        path = Path(self.text)
        looks_like_a_path = path.exists() or path.suffix or len(path.parts) > 1
        if not looks_like_a_path:
            return known(self.text, self.input_size, self.num_classes, **self.arguments)
        if self.input_size or self.num_classes or self.arguments:
            raise ConfigError(
                f"{self.text} says its own image size, classes and space; --input-size, --num-classes and --set are for "
                "published networks"
            )
        return architecture_file(path)


def architecture_file(source: Path) -> Architecture:
    """The architecture of a file, or of a run folder's result."""
    path = source / "best.json" if source.is_dir() else source
    if source.is_dir() and not path.exists():
        RunFolder.open(source)  # says so where it is no run folder at all
        raise RunError(f"{source} has not found its architecture yet; go on with `hiernas resume {source}`")
    return Architecture.load(path)


def cells_named(text: str) -> str:
    """The genotype of `--cells` as text or name: one by name or text, or that of a run's or file's architecture."""
    if not Path(text).exists():
        return text
    architecture = architecture_file(Path(text))
    skeleton: Any = architecture.skeleton
    if isinstance(skeleton, CellNetwork):
        return skeleton.genotype(architecture).to_text()
    if isinstance(skeleton, StageNetwork):
        return skeleton.genotype.to_text()
    raise SpaceError(f"{text} found a network of '{skeleton.name}', which has no cells; name a search in cells, or a genotype")


def cost_of(
    source: Source, latency_table: Path | None, runtime: str | None, threads: int | None, listener: Listener
) -> dict[str, str]:
    """Costs of a network by name of the cost: counted, as published, predicted and measured."""
    architecture = source.load()
    counted = count_cost(architecture)
    skeleton = architecture.skeleton
    shown = {
        "space": skeleton.name,
        "for images of": f"{skeleton.input_size} in {skeleton.num_classes} classes",
        "params": f"{counted.params:,}",
        "macs": f"{counted.macs:,}",
    }
    network = source.known
    if network is not None:
        shown |= _published(network)
    return shown | _latencies(architecture, latency_table, runtime, threads, listener)


def _published(network: Known) -> dict[str, str]:
    rows = {
        "published params": network.published_params and f"{network.published_params:g} M",
        "published macs": network.published_macs and f"{network.published_macs:g} M",
        "published latency": network.published_latency,
        "source": network.source,
        "note": network.note,
    }
    return {name: text for name, text in rows.items() if text}


def _latencies(
    architecture: Architecture, latency_table: Path | None, runtime: str | None, threads: int | None, listener: Listener
) -> dict[str, str]:
    if latency_table is not None:
        table = load_table(latency_table, runtime, threads)
        where = f"{table.device}, {table.runtime}"
        return {"latency predicted": f"{quantity('latency_ms', table.predict(architecture))} ({where})"}
    engine = make_runtime(runtime or RUNTIME, threads or 1)
    kept = tuple(
        Decision(name, tuple(option for option, _ in choice))
        for name, choice in zip(architecture.skeleton.site_names, architecture.choices, strict=True)
    )
    only = SearchSpace(architecture.skeleton, kept)  # its operations, however many a node keeps
    only = only if architecture.is_single else subsets(only)
    measured = measure_table(only, engine, cached_table_path(engine), _teller(listener))
    whole = engine.measure(architecture.build(), architecture.skeleton.input_size, runs=100, warmup=10)
    where = f"{measured.device}, {measured.runtime}, {measured.threads} thread(s)"
    return {
        "latency predicted": f"{quantity('latency_ms', measured.predict(architecture))} ({where})",
        "latency measured": f"{quantity('latency_ms', whole.p10_ms)} (median {whole.median_ms:.3g}, 90 % {whole.p90_ms:.3g})",
    }


def _teller(listener: Listener) -> Any:
    return lambda done, total, key: listener({"event": "measuring", "done": done, "total": total, "key": key})

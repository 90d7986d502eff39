"""`hiernas cost`: what a network costs; of an architecture file, a run folder or a published network by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiernas.commands import CostOptions, SizedOptions
from hiernas.costs import MEMORY
from hiernas.costs.tables import cost as count_cost
from hiernas.errors import RunError, SpaceError
from hiernas.latency import load_table
from hiernas.latency.calibrate import measured_whole
from hiernas.latency.measure import cached_table_path, measure_table
from hiernas.latency.runtimes import RUNTIME, make_runtime
from hiernas.report import units
from hiernas.run.folder import Listener, RunFolder, teller
from hiernas.space import Architecture, Decision, SearchSpace
from hiernas.spaces import KNOWN, Known, known
from hiernas.subsets import subsets


def cost(asked: CostOptions, listener: Listener) -> dict[str, Any]:
    """Costs of a network as numbers: counted, as published, predicted and measured."""
    architecture, network = architecture_of(asked), published(asked.source)
    skeleton, counted = architecture.skeleton, count_cost(architecture)
    if network is not None:
        millions = {"params": network.published_params, "macs": network.published_macs}
        texts = {"latency": network.published_latency, "source": network.source, "note": network.note}
        printed = {**{k: v and round(1e6 * v) for k, v in millions.items()}, **texts}
    return {
        "space": skeleton.name,
        "input_size": list(skeleton.input_size),
        "num_classes": skeleton.num_classes,
        **{metric: getattr(counted, metric) for metric in ("params", "macs", *MEMORY)},
        **({"published": printed} if network else {}),
        **_latencies(architecture, asked, listener),
    }


def in_words(found: Mapping[str, Any]) -> dict[str, str]:
    """The same for the terminal, by name of the cost."""
    printed, ms = found.get("published", {}), found["latency_ms"]
    device = f"{found['device']}, {found['runtime']}"
    rows = {
        "space": found["space"],
        "for images of": f"{tuple(found['input_size'])} in {found['num_classes']} classes",
        **{metric: f"{found[metric]:,}" for metric in ("params", "macs")},
        **{metric: units.value(metric, found[metric]) for metric in MEMORY},
        **{f"published {k}": printed.get(k) and f"{printed[k] / 1e6:g} M" for k in ("params", "macs")},
        "published latency": printed.get("latency"),
        **{k: printed.get(k) for k in ("source", "note")},
        "latency predicted": f"{units.milliseconds(ms['predicted'])} ({device}"
        + (f", {found['threads']} thread(s))" if "threads" in found else ")"),
    }
    if "measured" in ms:
        rows["latency measured"] = f"{units.milliseconds(ms['measured'])} (median {ms['median']:.3g}, 90 % {ms['p90']:.3g})"
    return {name: str(text) for name, text in rows.items() if text}


def _latencies(architecture: Architecture, asked: CostOptions, listener: Listener) -> dict[str, Any]:
    if asked.latency_table is not None:
        table = load_table(asked.latency_table, asked.runtime, asked.threads)
        return {"latency_ms": {"predicted": table.predict(architecture)}, "device": table.device, "runtime": table.runtime}
    engine = make_runtime(asked.runtime or RUNTIME, asked.threads or 1)
    kept = tuple(
        Decision(name, tuple(option for option, _ in choice))
        for name, choice in zip(architecture.skeleton.site_names, architecture.choices, strict=True)
    )
    only = SearchSpace(architecture.skeleton, kept)  # its operations, however many a node keeps
    only = only if architecture.is_single else subsets(only)
    measured = measure_table(only, engine, cached_table_path(engine), teller(listener))
    ((_, whole),) = measured_whole({"": architecture.build}, architecture.skeleton.input_size, engine)
    predicted = measured.predict(architecture)
    return {
        "latency_ms": {"predicted": predicted, "measured": whole.p10_ms, "median": whole.median_ms, "p90": whole.p90_ms},
        **{key: getattr(measured, key) for key in ("device", "runtime", "threads")},
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
    asked.none_given("image size, classes and space", "published networks")
    return architecture_file(path)


def architecture_file(source: Path) -> Architecture:
    """The architecture of a file, or of a run folder's result."""
    if not source.exists():
        way = "name a run (`hiernas list runs`) or its best.json"
        also = "it is a published network, which `hiernas cost` knows" if str(source) in KNOWN else way
        raise SpaceError(f"there is no run folder and no architecture file {source}; {also}")
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

"""`hiernas cost`: what a network costs; of an architecture file, a run folder or a published network by name."""

from __future__ import annotations

from hiernas.combinatorics import Decision
from hiernas.commands.measure import teller
from hiernas.commands.options import CostOptions
from hiernas.commands.sources import architecture_of, published
from hiernas.costs.count import cost as count_cost
from hiernas.latency.measure import cached_table_path, measure_table
from hiernas.latency.phone import load_table
from hiernas.latency.runtimes import RUNTIME, make_runtime
from hiernas.report.units import milliseconds
from hiernas.run.folder import Listener
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import Known
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
        return {"latency predicted": f"{milliseconds(table.predict(architecture))} ({table.device}, {table.runtime})"}
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
        "latency predicted": f"{milliseconds(measured.predict(architecture))} ({where})",
        "latency measured": f"{milliseconds(whole.p10_ms)} (median {whole.median_ms:.3g}, 90 % {whole.p90_ms:.3g})",
    }

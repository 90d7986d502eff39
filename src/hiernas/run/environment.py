"""What the bits of a run depend on beside what was asked: versions, threads and device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hiernas.latency.runner import cpu_name
from hiernas.names import VERSION
from hiernas.run.folder import RunFolder


def environment(config: Mapping[str, Any]) -> dict[str, Any]:
    """This process', for a run of this configuration: a GPU counts where a training may use it."""
    device = cpu_name()
    if torch.cuda.is_available() and set(_accelerators(config)) != {"cpu"}:
        device = f"{torch.cuda.get_device_name()}, {device}"
    return {"hiernas": VERSION, "torch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device}


def _accelerators(config: Mapping[str, Any]) -> list[Any]:
    own = [config["accelerator"]] if "accelerator" in config else []
    return own + [name for value in config.values() if isinstance(value, Mapping) for name in _accelerators(value)]


def tell_changes(run: RunFolder) -> None:
    """An event where a run goes on under another environment than it began under."""
    began, now = run.config.get("environment", {}), environment(run.config)
    changed = [f"{name} {began[name]} -> {now[name]}" for name in now if name in began and began[name] != now[name]]
    if changed:
        run.event("environment", changed=", ".join(changed))


def both_ends(run: RunFolder) -> dict[str, Any]:
    """What a result says of the environment it was begun and ended under."""
    return {"began": run.config.get("environment"), "ended": environment(run.config)}

"""HierNAS: hierarchical weight-sharing neural architecture search.

Importing this package touches no device, no seed and no optional dependency; names are loaded when used.
"""

from __future__ import annotations

import importlib
from typing import Any

from hiernas.version import VERSION as __version__

_HOMES = {
    "Architecture": "hiernas.space",
    "ConfigError": "hiernas.errors",
    "DARTSConfig": "hiernas.methods.darts",
    "DataError": "hiernas.errors",
    "ExportError": "hiernas.errors",
    "HDASConfig": "hiernas.methods.hdas",
    "HMNASConfig": "hiernas.methods.hmnas",
    "HNASConfig": "hiernas.methods.hnas",
    "HourNASConfig": "hiernas.methods.hournas",
    "HiernasError": "hiernas.errors",
    "ImageData": "hiernas.data",
    "LatencyError": "hiernas.errors",
    "LatencyTable": "hiernas.latency.table",
    "LimitError": "hiernas.errors",
    "MBConv": "hiernas.networks.ops",
    "Recipe": "hiernas.train.recipes",
    "RunError": "hiernas.errors",
    "SearchResult": "hiernas.api",
    "SearchSpace": "hiernas.space",
    "Skip": "hiernas.networks.ops",
    "SpaceError": "hiernas.errors",
    "Stage": "hiernas.spaces",
    "TrainingError": "hiernas.errors",
    "chain_space": "hiernas.spaces",
    "cost": "hiernas.costs.tables",
    "darts": "hiernas.api",
    "hdas": "hiernas.api",
    "hmnas": "hiernas.api",
    "hnas": "hiernas.api",
    "hournas": "hiernas.api",
    "known": "hiernas.spaces",
    "load_data": "hiernas.data",
    "random_search": "hiernas.api",
    "resume": "hiernas.api",
    "spaces": "hiernas.spaces",
    "spos": "hiernas.api",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hiernas' has no attribute '{name}'")
    home = importlib.import_module(_HOMES[name])
    return home if name == "spaces" else getattr(home, name)


def __dir__() -> list[str]:
    return __all__

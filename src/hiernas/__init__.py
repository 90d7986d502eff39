"""HierNAS: hierarchical weight-sharing neural architecture search.

Importing this package touches no device, no seed and no optional dependency; names are loaded when used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from hiernas.names import VERSION as __version__

_NAMES = {  # by the module that each comes from
    "api": (
        "SearchResult", "check", "compare", "cost", "darts", "evaluate", "export", "hdas", "hmnas", "hnas", "hournas",
        "measure", "random_search", "rank", "report", "resume", "spos", "train",
    ),
    "data": ("ImageData", "load_data"),
    "errors": (
        "ConfigError", "DataError", "ExportError", "HiernasError", "LatencyError", "LimitError", "RunError", "SpaceError",
        "TrainingError",
    ),
    "latency": ("LatencyTable",),
    "methods.darts": ("DARTSConfig",),
    "methods.hdas": ("HDASConfig",),
    "methods.hmnas": ("HMNASConfig",),
    "methods.hnas": ("HNASConfig",),
    "methods.hournas": ("HourNASConfig",),
    "networks.ops": ("MBConv", "Skip"),
    "run.trained": ("load",),
    "space": ("Architecture", "SearchSpace"),
    "spaces": ("Stage", "backbone_space", "chain_space", "known", "spaces"),
    "train.recipes": ("Recipe",),
}  # fmt: skip
_HOMES = {name: f"hiernas.{home}" for home, names in _NAMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hiernas' has no attribute '{name}'")
    home = importlib.import_module(_HOMES[name])
    return home if name == "spaces" else getattr(home, name)


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """What has the name of a function and of a folder (`train`, `export`, `report`) is the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

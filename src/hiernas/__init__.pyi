# Types of the public names, for editors and type checkers; written by tests/test_python.py.

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from torch.utils.data import Dataset

from hiernas import spaces as spaces
from hiernas.api import SearchResult as SearchResult
from hiernas.api import darts as darts
from hiernas.api import hdas as hdas
from hiernas.api import hmnas as hmnas
from hiernas.api import hnas as hnas
from hiernas.api import hournas as hournas
from hiernas.api import random_search as random_search
from hiernas.api import resume as resume
from hiernas.api import spos as spos
from hiernas.costs.tables import Cost
from hiernas.costs.tables import LatencyTable as Latencies
from hiernas.data import ImageData as ImageData
from hiernas.data import load_data as load_data
from hiernas.errors import ConfigError as ConfigError
from hiernas.errors import DataError as DataError
from hiernas.errors import ExportError as ExportError
from hiernas.errors import HiernasError as HiernasError
from hiernas.errors import LatencyError as LatencyError
from hiernas.errors import LimitError as LimitError
from hiernas.errors import RunError as RunError
from hiernas.errors import SpaceError as SpaceError
from hiernas.errors import TrainingError as TrainingError
from hiernas.latency import LatencyTable as LatencyTable
from hiernas.methods.darts import DARTSConfig as DARTSConfig
from hiernas.methods.hdas import HDASConfig as HDASConfig
from hiernas.methods.hmnas import HMNASConfig as HMNASConfig
from hiernas.methods.hnas import HNASConfig as HNASConfig
from hiernas.methods.hournas import HourNASConfig as HourNASConfig
from hiernas.networks.ops import MBConv as MBConv
from hiernas.networks.ops import Skip as Skip
from hiernas.run.trained import load as load
from hiernas.space import Architecture as Architecture
from hiernas.space import SearchSpace as SearchSpace
from hiernas.spaces import Stage as Stage
from hiernas.spaces import backbone_space as backbone_space
from hiernas.spaces import chain_space as chain_space
from hiernas.spaces import known as known
from hiernas.train.recipes import Recipe as Recipe

__version__: str
__all__: list[str]

@overload
def cost(architecture: Architecture, latency: Latencies | None = None, /) -> Cost: ...
@overload
def cost(
    source: str | Path, *, input_size: str | Sequence[int] | None = None, num_classes: int | None = None, settings: str
    | Sequence[str] | None = None, latency_table: str | Path | None = None, runtime: str | None = None, threads: int |
    None = None, on_event: Callable[[Mapping[str, Any]], None] | None = None, progress: bool = False,
) -> dict[str, Any]: ...
def check(
    method: str = "hnas", *, space: str | SearchSpace | None = None, data: str | Path | ImageData | Dataset[Any] = "digits",
    latency_table: str | Path | None = None, preset: str = "quick", settings: str | Sequence[str] | None = None,
    image_size: int | None = None, val_per_class: int | None = None, skip_bad_images: bool = False, runtime: str | None
    = None, threads: int | None = None, limits: str | Sequence[str] | None = None, cells: str | None = None, time: str |
    float | None = None, int8: bool | None = None, calibrate: int | None = None, seed: int = 0, on_event:
    Callable[[Mapping[str, Any]], None] | None = None, progress: bool = False,
) -> dict[str, Any]: ...
def train(
    source: str | Path, *, data: str | Path | ImageData | Dataset[Any] | None = None, inherit: bool = False, epochs: int |
    None = None, lr: float | None = None, recipe: str | None = None, network: str | None = None, preset: str | None =
    None, settings: str | Sequence[str] | None = None, time: str | float | None = None, seed: int = 0, out: str | Path |
    None = None, log: str | None = None, image_size: int | None = None, skip_bad_images: bool = False, on_event:
    Callable[[Mapping[str, Any]], None] | None = None, progress: bool = False,
) -> Path: ...
def export(
    source: str | Path, *, to: str = "onnx", out: str | Path | None = None, weights: str | Path | None = None,
    with_preprocessing: bool = False,
) -> dict[str, Any]: ...
def report(
    run: str | Path, *, open: bool = False,
) -> Path: ...
def rank(
    run: str | Path, *, against: str = "random", networks: int = 5, epochs: int | None = None, on_event:
    Callable[[Mapping[str, Any]], None] | None = None, progress: bool = False,
) -> dict[str, Any]: ...
def compare(
    runs: str | Path | Sequence[str | Path] | None = None, *, space: str | None = None, data: str | Path = "digits",
    latency_table: str | Path | None = None, preset: str = "quick", settings: str | Sequence[str] | None = None,
    image_size: int | None = None, val_per_class: int | None = None, skip_bad_images: bool = False, runtime: str | None
    = None, threads: int | None = None, limits: str | Sequence[str] | None = None, methods: str | Sequence[str] =
    "hnas,spos,random,random-k,plain", seeds: int = 3, out: str | Path | None = None, jobs: int = 1, backend: str | None
    = None, on_event: Callable[[Mapping[str, Any]], None] | None = None, progress: bool = False,
) -> dict[str, Any]: ...
def measure(
    source: str | Path, *, input_size: str | Sequence[int] | None = "3,224,224", num_classes: int | None = 1000,
    settings: str | Sequence[str] | None = None, runtime: str | None = None, threads: int | None = None, out: str | Path
    | None = None, pack: str | Path | None = None, device: str | None = None, python: str | None = None, import_file:
    str | Path | None = None, allow_missing: bool = False, merge: str | Path | None = None, calibrate: int | None =
    None, even: bool = False, seed: int | None = None, store_correction: bool = False, on_event: Callable[[Mapping[str,
    Any]], None] | None = None, progress: bool = False,
) -> dict[str, Any]: ...
def evaluate(
    source: str | Path, *, data: str | Path | ImageData | None = None, skip_bad_images: bool = False,
) -> dict[str, Any]: ...

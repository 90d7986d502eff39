"""Where the network of a command comes from: an architecture file, a run folder, or a published network's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from hiernas.commands.options import SizedOptions
from hiernas.errors import ConfigError, RunError, SpaceError
from hiernas.run.folder import RunFolder
from hiernas.space import Architecture
from hiernas.spaces import KNOWN, Known, known
from hiernas.supernet.cell import CellNetwork
from hiernas.supernet.stage import StageNetwork


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


def load_network(architecture: Architecture, weights: Path) -> tuple[nn.Module, dict[str, str]]:
    """The trained network of a weights file, and what the file says of it. Raises `RunError` where they do not fit."""
    from safetensors import SafetensorError, safe_open

    if not weights.is_file():
        raise RunError(f"there are no weights at {weights}; train the network first, or name the file with --weights")
    network = architecture.build()
    try:
        with safe_open(weights, "pt") as f:
            network.load_state_dict({k: f.get_tensor(k) for k in f.keys()})  # noqa: SIM118 - not a dict
            metadata = dict(f.metadata() or {})
    except SafetensorError as error:
        raise RunError(f"{weights} is damaged and cannot be read: {error}") from error
    except RuntimeError as error:
        raise RunError(f"the weights in {weights} are not of this architecture") from error
    return network.eval(), metadata

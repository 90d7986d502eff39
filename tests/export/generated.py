"""What the tests of generated Python files share."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from hiernas.export.python import python_files
from hiernas.space import Architecture

NUMBER = itertools.count()


def trained(network: nn.Module, seed: int = 1) -> nn.Module:
    """The network with the statistics and scales of a trained one, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2, generator=generator)
            m.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(m.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(m.bias, 0, 0.2, generator=generator)
    return network.eval()


def noise(size: tuple[int, ...], n: int = 3) -> Tensor:
    return torch.randn(n, *size, generator=torch.Generator().manual_seed(2))


def imported(path: Path) -> ModuleType:
    """A Python file as a module of its own name."""
    name = f"generated{next(NUMBER)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def written(
    network: nn.Module, folder: Path, architecture: Architecture | None = None,
    size: tuple[int, ...] | None = None, metadata: Mapping[str, str] | None = None,
) -> tuple[str, ModuleType]:  # fmt: skip
    """The text and the module of a network's Python file, written without the check in another interpreter."""
    size = size or (architecture.skeleton.input_size if architecture else (3, 8, 8))
    source, weights = python_files(network, noise(size), metadata or {}, architecture)
    folder.mkdir(exist_ok=True)
    (folder / "best.py").write_bytes(source)
    (folder / "best.pt").write_bytes(weights)
    return source.decode(), imported(folder / "best.py")


def computes(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x)

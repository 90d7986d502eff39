"""`hiernas export`: the trained network of a run or an architecture file in another format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hiernas.commands import ExportOptions, Table
from hiernas.commands.cost import architecture_file
from hiernas.errors import ConfigError, ExportError
from hiernas.export import OfPixels, as_input, as_pixels, export, timm_network
from hiernas.names import FORMATS
from hiernas.randomness import torch_generator
from hiernas.report import units
from hiernas.report.page import write_report
from hiernas.run.folder import RunFolder, owned
from hiernas.run.hub import fetched
from hiernas.run.request import reload_data
from hiernas.run.trained import in_int8, load_network
from hiernas.space import Architecture


def exported(asked: ExportOptions) -> tuple[dict[str, Any], Table]:
    """What was written, by name and in words. For INT8 what that gains and loses, as RUN/int8.json and the report have it."""
    folder, out, weights = fetched(asked.source), asked.out, asked.weights
    if folder != asked.source and out is None:
        raise ConfigError(f"{asked.source} lies in the hub's cache; name the file to write with --out")
    if asked.to != "onnx-int8":
        shown = export_network(folder, asked.to, out, weights, asked.with_preprocessing)
        return shown, (("Exported", ""), list(shown.items()), ())
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"an INT8 file is made with the training images of a run, and {folder} is none; name a run folder")
    path = _target(folder, out, "onnx-int8", asked.with_preprocessing)
    with owned(RunFolder.open(folder)) as run:
        network, metadata = load_network(architecture_file(folder), weights or folder / "best.safetensors")
        network = _of_pixels(network, metadata) if asked.with_preprocessing else network
        found = in_int8(run, network, reload_data(run), metadata, path)
        if (folder / "report.html").exists():
            write_report(run)
    remarks = [units.int8_words(found), f"wrote {path} and {folder / 'int8.json'}"]
    return {**found, "file": str(path)}, (units.INT8, units.int8_rows(found), remarks)


def export_network(
    source: Path, to: str, out: Path | None, weights: Path | None, with_preprocessing: bool = False
) -> dict[str, str]:
    """Export the trained network of a run or an architecture file; what was written, by name."""
    architecture = architecture_file(source)
    folder = source if source.is_dir() else source.parent
    weights = weights or folder / (f"{source.stem}.safetensors" if source.is_file() else "best.safetensors")
    network, metadata = load_network(architecture, weights)
    images, what = _parity_images(folder, architecture, with_preprocessing)
    network = _of_pixels(network, metadata) if with_preprocessing else network
    path = _target(folder, out, to, with_preprocessing)
    run = folder / "config.yaml"
    with owned(RunFolder.open(folder)) if path.parent == folder and run.exists() else nullcontext() as mine:
        written = export(network, images, path, to, metadata, architecture)
        for file in (written.path, written.weights):
            if mine is not None and file is not None:
                mine.record(file.name)
    shown = {"file": str(written.path), "weights": str(written.weights)} if written.weights else {"file": str(written.path)}
    shown["parity"] = f"largest relative difference {written.largest_difference:.1e} on {what}"
    return {**shown, "timm": _in_timm(architecture, network)} if to == "python" else shown


def _of_pixels(network: nn.Module, metadata: Mapping[str, str]) -> OfPixels:
    """With the normalisation that a weights file names."""
    mean, std = (json.loads(metadata.get(name, "[]")) for name in ("mean", "std"))
    if not mean or len(mean) != len(std):
        raise ConfigError("--with-preprocessing: the weights do not say their mean and std; export them without it")
    return OfPixels(network, mean, std).eval()


def _target(folder: Path, out: Path | None, to: str, pixels: bool) -> Path:
    path = out or folder / f"best{'.pixels' * pixels}{FORMATS[to]}"
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder; name a file" if path.is_dir() else f"the folder {path.parent} does not exist; make it first"
        raise ConfigError(f"--out {path}: {reason}")
    return path


def _in_timm(architecture: Architecture, network: nn.Module) -> str:
    """The arguments with which timm builds the network, or why it cannot."""
    try:
        found = timm_network(architecture, network)
    except ExportError as error:
        return f"timm cannot build this network: {error}"
    return (
        f"arch_def={found.arch_def}, stem_size={found.arguments['stem_size']}, "
        f"num_features={found.arguments['num_features']}, activation {found.act}, "
        f"batch-norm eps {found.bn_eps:g}" + ", then conv_stem.stride = (1, 1)" * (found.stem_stride == 1)
    )


def _parity_images(folder: Path, architecture: Architecture, pixels: bool) -> tuple[torch.Tensor, str]:
    """Images to check a file on, as `export` takes them, and what they are."""
    run = RunFolder.open(folder) if (folder / "config.yaml").exists() else None
    if run is not None and run.config["data"].get("source") is not None:
        data = reload_data(run, None)
        indices = torch.arange(min(16, len(data.test)))
        return (as_pixels if pixels else as_input)(data.test, data, indices), f"{len(indices)} test images"
    noise = torch.randn(16, *architecture.skeleton.input_size, generator=torch_generator(0, "parity"))
    noise = (noise * 64 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1) if pixels else noise
    return noise, "16 inputs of noise (it names no images)"

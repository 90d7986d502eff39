"""`hiernas export`: the trained network of a run or an architecture file in another format."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hiernas.commands import ExportOptions, Table
from hiernas.commands.cost import architecture_file
from hiernas.data.batches import normalise
from hiernas.errors import ConfigError, ExportError
from hiernas.export import export, export_int8, timm_network
from hiernas.names import FORMATS
from hiernas.randomness import torch_generator
from hiernas.report import units
from hiernas.report.page import write_report
from hiernas.run.folder import RunFolder, owned
from hiernas.run.request import reload_data
from hiernas.run.trained import load_network
from hiernas.space import Architecture


def exported(asked: ExportOptions) -> tuple[dict[str, Any], Table]:
    """What was written, by name and in words. For INT8 what that gains and loses, as RUN/int8.json and the report have it."""
    folder, out, weights = asked.source, asked.out, asked.weights
    if asked.to != "onnx-int8":
        shown = export_network(folder, asked.to, out, weights)
        return shown, (("Exported", ""), list(shown.items()), ())
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"an INT8 file is made with the training images of a run, and {folder} is none; name a run folder")
    path = _target(folder, out, "onnx-int8")
    with owned(RunFolder.open(folder)) as run:
        network, metadata = load_network(architecture_file(folder), weights or folder / "best.safetensors")
        found = export_int8(network, reload_data(run), path, metadata, run.config.get("threads", 1))
        if path.parent == folder:
            run.record(path.name)
        run.write_json("int8.json", found)
        if (folder / "report.html").exists():
            write_report(folder)
    remarks = [units.int8_words(found), f"wrote {path} and {folder / 'int8.json'}"]
    return {**found, "file": str(path)}, (units.INT8, units.int8_rows(found), remarks)


def export_network(source: Path, to: str, out: Path | None, weights: Path | None) -> dict[str, str]:
    """Export the trained network of a run or an architecture file; what was written, by name."""
    architecture = architecture_file(source)
    folder = source if source.is_dir() else source.parent
    weights = weights or folder / (f"{source.stem}.safetensors" if source.is_file() else "best.safetensors")
    network, metadata = load_network(architecture, weights)
    images, what = _parity_images(folder, architecture)
    path = _target(folder, out, to)
    run = folder / "config.yaml"
    with owned(RunFolder.open(folder)) if path.parent == folder and run.exists() else nullcontext() as mine:
        written = export(network, images, path, to, metadata, architecture)
        for file in (written.path, written.weights):
            if mine is not None and file is not None:
                mine.record(file.name)
    shown = {"file": str(written.path), "weights": str(written.weights)} if written.weights else {"file": str(written.path)}
    shown["parity"] = f"largest relative difference {written.largest_difference:.1e} on {what}"
    return {**shown, "timm": _in_timm(architecture, network)} if to == "python" else shown


def _target(folder: Path, out: Path | None, to: str) -> Path:
    path = out or folder / f"best{FORMATS[to]}"
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


def _parity_images(folder: Path, architecture: Architecture) -> tuple[torch.Tensor, str]:
    if (folder / "config.yaml").exists():
        data = reload_data(RunFolder.open(folder), None)
        indices = torch.arange(min(16, len(data.test)))
        return normalise(data.test.images.fetch(indices), data, torch.device("cpu")), f"{len(indices)} test images"
    noise = torch.randn(16, *architecture.skeleton.input_size, generator=torch_generator(0, "parity"))
    return noise, "16 inputs of noise (an architecture file names no images)"

"""The formats a network is exported in. Each one is a pair: write the network to bytes, run these bytes on images.

No file appears before the bytes, read back by their runtime, computed what PyTorch computes on real images.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hiernas.errors import ConfigError, ExportError, did_you_mean
from hiernas.export.alone import load_python
from hiernas.export.python import python_files
from hiernas.latency.runner import load_onnxruntime
from hiernas.quiet import quiet
from hiernas.space import Architecture

FORMATS = ("onnx", "pt2", "python")
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "python": ".py"}
TOLERANCE = 1e-4  # largest relative difference allowed; measured: about 1e-7

Runner = Callable[[Tensor], Tensor]  # images [B, C, H, W] -> logits [B, classes], by the format's runtime


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    format: str
    largest_difference: float  # max |runtime - PyTorch| / max(1, max |PyTorch|), over the images
    weights: Path | None = None  # the file beside it, where the format has one


def export(
    network: nn.Module,
    images: Tensor,
    path: Path,
    to: str,
    metadata: Mapping[str, str] | None = None,
    architecture: Architecture | None = None,
) -> Exported:
    """Write a network in evaluation mode as one file that takes any batch size, and check it on `images`.

    `images`: float32 [B, C, H, W], real images, normalised as in training. `metadata` is stored in the file
    beside its `input_size` (JSON: [C, H, W]). The network itself is not changed: a copy on the CPU is exported.
    An ONNX file has the input `image` [batch, C, H, W] and the output `logits` [batch, classes]. A Python file
    (`.py`) has its weights beside it (`.pt`) and, given the architecture, a table of its layers.

    Raises `ConfigError` for an unknown format, or a Python file whose name does not end in .py, and `ExportError` where
    the network cannot be exported or the outputs differ from PyTorch's; then no file is written, and an older one stays.
    """
    if to not in FORMATS:
        raise ConfigError(f"cannot export to '{to}'; {did_you_mean(to, FORMATS)}")
    if images.ndim != 4 or not len(images) or images.dtype != torch.float32:
        raise ExportError(f"export needs float32 images [B, C, H, W] to check the file on, not {_described(images)}")
    images = images.detach().cpu()
    frozen = copy.deepcopy(network).cpu().eval()
    metadata = {"input_size": json.dumps(list(images.shape[1:])), **(metadata or {})}
    files, run = _written(frozen, images, path, to, metadata, architecture)
    with quiet():
        difference = _largest_difference(frozen, run, images, to)
    _replace(files)
    return Exported(path, to, difference, next((other for other in files if other != path), None))


def _written(
    network: nn.Module, images: Tensor, path: Path, to: str, metadata: Mapping[str, str], architecture: Architecture | None
) -> tuple[dict[Path, bytes], Runner]:
    """The contents of all files of a format, and what runs them."""
    if to == "python" and path.suffix != ".py":
        raise ConfigError(f"a Python file is named NAME.py, and its weights beside it NAME.pt, so it cannot be named {path}")
    with quiet():
        try:
            if to == "python":
                source, weights = python_files(network, images, metadata, architecture)
                return {path.with_suffix(".pt"): weights, path: source}, load_python(source, weights, (images[:1], images))
            write, load = {"onnx": (_to_onnx, _load_onnx), "pt2": (_to_pt2, _load_pt2)}[to]
            data = write(network, images, metadata)
            return {path: data}, load(data)
        except ExportError:
            raise
        except Exception as error:  # exporters raise almost anything
            raise ExportError(f"the network cannot be exported to {to}: {_first_line(error)}") from error


def _described(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# -- the check -------------------------------------------------------------------------------------------------


def _largest_difference(network: nn.Module, run: Runner, images: Tensor, to: str) -> float:
    """The largest relative difference, over one image alone and the whole batch; raises where it is too large."""
    largest = 0.0
    for batch in (images[:1], images):
        with torch.no_grad():
            expected = network(batch)
        try:
            found = run(batch)
        except Exception as error:  # runtimes raise their own kinds
            raise ExportError(f"the {to} file does not run on {len(batch)} images: {_first_line(error)}") from error
        largest = max(largest, _difference(expected, found, to))
    if largest > TOLERANCE:
        raise ExportError(
            f"the {to} file computes something else than the network: outputs differ by {largest:.1e}, and at most "
            f"{TOLERANCE:.0e} is allowed; no file was written, try another format of {', '.join(FORMATS)}"
        )
    return largest


def _difference(expected: Tensor, found: Tensor, to: str) -> float:
    if not expected.isfinite().all():
        raise ExportError(f"the network's output on the images is not finite; train it before it is exported to {to}")
    if expected.shape != found.shape:
        raise ExportError(f"the {to} file returns {list(found.shape)} where the network returns {list(expected.shape)}")
    difference = float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))
    return difference if math.isfinite(difference) else math.inf


# -- ONNX ------------------------------------------------------------------------------------------------------


def _to_onnx(network: nn.Module, images: Tensor, metadata: Mapping[str, str]) -> bytes:
    import onnx

    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"], "verbose": False}
    try:
        model = _by_dynamo(network, _two(images), names)
    except Exception:  # the older exporter knows some networks that the new one refuses
        model = _by_tracing(network, _two(images), names)
    _remove_traces(model)
    onnx.helper.set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString())


def _by_dynamo(network: nn.Module, example: Tensor, names: Mapping[str, Any]) -> Any:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(network, (example,), dynamo=True, dynamic_shapes=shapes, external_data=False, **names)
    assert program is not None  # it is None only for the other exporter
    return program.model_proto


def _by_tracing(network: nn.Module, example: Tensor, names: Mapping[str, Any]) -> Any:
    import onnx

    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (example,), path, dynamo=False, dynamic_axes=axes, **names)
        return onnx.load_model(path)


def _remove_traces(model: Any) -> None:
    """Take the exporter's notes out: half the file, with source paths of this machine in it."""
    del model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.ClearField("doc_string")


def _load_onnx(data: bytes) -> Runner:
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])


# -- PyTorch's own format --------------------------------------------------------------------------------------


def _to_pt2(network: nn.Module, images: Tensor, metadata: Mapping[str, str]) -> bytes:
    program = torch.export.export(network, (_two(images),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source paths of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(dict(metadata))})
    return buffer.getvalue()


def _load_pt2(data: bytes) -> Runner:
    module = torch.export.load(io.BytesIO(data)).module()

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return module(x)

    return run


# -- helpers ---------------------------------------------------------------------------------------------------


def _two(images: Tensor) -> Tensor:
    """Two images: torch.export takes a batch of one as a constant."""
    return images[:2] if len(images) > 1 else images.repeat(2, 1, 1, 1)


def _replace(files: Mapping[Path, bytes]) -> None:
    """Write files at once, the last one last: each is whole, or as it was before."""
    partial = {path.with_name(path.name + ".partial"): path for path in files}
    try:
        for part, path in partial.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(files[path])
        for part, path in partial.items():
            os.replace(part, path)
    except OSError as error:
        for part in partial:
            with suppress(OSError):
                part.unlink()
        raise ExportError(
            f"cannot write {path}: {error.strerror}; name a file in a folder that can be written to and has space left"
        ) from error

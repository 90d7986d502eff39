"""Export: a trained network as a file that other programs run. A format is a pair: write bytes, run these bytes on images.

No file appears before the bytes, read back by their runtime, computed what PyTorch computes on real images.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.data import ImageData, at_once, in_order, normalise
from hiernas.data.split import Split
from hiernas.errors import ConfigError, ExportError, HiernasError, did_you_mean
from hiernas.export.python import python_files, timm_network
from hiernas.host import first_line, quiet
from hiernas.latency import calibrate, runtimes
from hiernas.latency.runner import Batch, by_looks, cpu_name, load_onnx, load_onnxruntime, onnx_session
from hiernas.latency.runtimes import load_executorch, load_litert, packages, quantised, to_executorch, to_litert, to_onnx
from hiernas.names import FORMATS
from hiernas.space import Architecture
from hiernas.train.evaluate import calibration_indices

__all__ = ["Exported", "export", "export_int8", "timm_network"]

TOLERANCE = 1e-4  # largest relative difference allowed; measured: about 1e-7
WEIGHTS = {"python": ".pt", "openvino": ".bin"}  # beside files of these formats
WITH_PIXELS = ("onnx", "onnx-int8", "openvino", "pt2")  # formats that can hold the preprocessing
TIMEOUT = 600  # seconds for a Python file to load and run

Runner = Callable[[Tensor], Tensor]  # images [B, C, H, W] -> logits [B, classes], by the format's runtime


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    format: str
    largest_difference: float  # max |runtime - PyTorch| / max(1, max |PyTorch|), over the images
    weights: Path | None = None  # the file beside it, where the format has one


class OfPixels(nn.Module):
    """A network with its preprocessing: pixels as pictures are held, uint8 [B, H, W, C] -> logits [B, classes].

    `mean`, `std`: per channel, of pixels scaled to 0..1, as in training.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).to(torch.float32)  # [B, C, H, W]
        return self.network(x.div(255).sub(self.mean).div(self.std))  # type: ignore[arg-type] # a buffer


def _input(network: nn.Module) -> str:
    return "pixels" if isinstance(network, OfPixels) else "image"


def export(
    network: nn.Module, images: Tensor, path: Path, to: str, metadata: Mapping[str, str] | None = None,
    architecture: Architecture | None = None,
) -> Exported:  # fmt: skip
    """Write a network in evaluation mode as a file that takes any batch size (a phone's: one image), and check it on `images`.

    `images`: float32 [B, C, H, W], real images, normalised as in training. `metadata` is stored in the file
    beside its `input_size` (JSON: [C, H, W]). The network itself is not changed: a copy on the CPU is exported.
    An ONNX file has the input `image` [batch, C, H, W] and the output `logits` [batch, classes]; of `OfPixels`, checked on
    uint8 [B, H, W, C], the input is `pixels` [batch, H, W, C]. A Python file
    (`.py`) has its weights beside it (`.pt`) and, given the architecture, timm's words for it; OpenVINO's has them in `.bin`.

    Raises `ConfigError` for an unknown format, or a name that does not fit it, and `ExportError` where a package is missing,
    the network cannot be exported or the outputs differ from PyTorch's; then no file is written, and an older one stays.
    """
    if to not in FORMATS:
        raise ConfigError(f"cannot export to '{to}'; {did_you_mean(to, FORMATS)}")
    if to == "onnx-int8":
        raise ConfigError("an INT8 file needs images to find its scales on; write it by hiernas.export.export_int8")
    if to in WEIGHTS and path.suffix != FORMATS[to]:
        named = f"NAME{FORMATS[to]}, and its weights beside it NAME{WEIGHTS[to]}"
        raise ConfigError(f"a file for {to} is named {named}, so it cannot be named {path}")
    pixels = isinstance(network, OfPixels)
    if pixels and to not in WITH_PIXELS:
        raise ConfigError(f"a file for {to} takes normalised images only; preprocessing goes into {', '.join(WITH_PIXELS)}")
    if images.ndim != 4 or not len(images) or images.dtype != (torch.uint8 if pixels else torch.float32):
        asked = "uint8 images [B, H, W, C]" if pixels else "float32 images [B, C, H, W]"
        found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        raise ExportError(f"export needs {asked} to check the file on, not {found}")
    images = images.detach().cpu().clone(memory_format=torch.contiguous_format)  # ExecuTorch takes no other
    frozen = copy.deepcopy(network).cpu().eval()
    for weight in frozen.parameters():  # as they were trained they leave needless operations in an ONNX file
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)
    size = [*images.shape[3:], *images.shape[1:3]] if pixels else list(images.shape[1:])
    metadata = {"input_size": json.dumps(size), **(metadata or {}), **({"preprocessing": '"included"'} if pixels else {})}
    with quiet():
        files, run = _written(frozen, images, path, to, metadata, architecture)
        difference = _largest_difference(frozen, run, images, to)
    write_files(files)
    return Exported(path, to, difference, next((other for other in files if other != path), None))


def _written(
    network: nn.Module, images: Tensor, path: Path, to: str, metadata: Mapping[str, str], architecture: Architecture | None
) -> tuple[dict[Path, bytes], Runner]:
    """The contents of all files of a format, and what runs them."""
    formats: dict[str, tuple[Callable[[], tuple[bytes, ...]], Callable[..., Runner]]] = {
        "onnx": (lambda: (_to_onnx(network, images, metadata),), onnx_runner),
        "pt2": (lambda: (_to_pt2(network, images, metadata),), _load_pt2),
        "openvino": (lambda: _to_openvino(network, images, metadata), _load_openvino),
        "litert": (lambda: (to_litert(network, images[:1]),), _load_litert),
        "executorch": (lambda: (to_executorch(network, images[:1]),), _load_executorch),
        "python": (
            lambda: python_files(network, images, metadata, architecture),
            lambda source, weights: _load_python(source, weights, (images[:1], images)),
        ),
    }
    write, load = formats[to]
    try:
        data, *weights = files = write()
        return {**{path.with_suffix(WEIGHTS[to]): beside for beside in weights}, path: data}, load(*files)
    except HiernasError as error:
        raise ExportError(str(error)) from error
    except Exception as error:  # exporters raise almost anything
        raise ExportError(f"the network cannot be exported to {to}: {first_line(error)}") from error


def _largest_difference(network: nn.Module, run: Runner, images: Tensor, to: str) -> float:
    """The largest relative difference, over one image alone and the whole batch; raises where it is too large."""
    largest = 0.0
    for batch in (images[:1], images):
        with torch.no_grad():
            expected = network(batch)
        try:
            found = run(batch)
        except Exception as error:  # runtimes raise their own kinds
            raise ExportError(f"the {to} file does not run on {len(batch)} images: {first_line(error)}") from error
        if not expected.isfinite().all():
            raise ExportError(f"the network's output on the images is not finite; train it before it is exported to {to}")
        if expected.shape != found.shape:
            raise ExportError(f"the {to} file returns {list(found.shape)} where the network returns {list(expected.shape)}")
        difference = float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))
        largest = max(largest, difference if math.isfinite(difference) else math.inf)
    if largest > TOLERANCE:
        raise ExportError(
            f"the {to} file computes something else than the network: outputs differ by {largest:.1e}, and at most "
            f"{TOLERANCE:.0e} is allowed; no file was written, try another format of {', '.join(FORMATS)}"
        )
    return largest


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files at once, the last one last: each is whole, or as it was before."""
    partial = {path: path.with_name(f"{path.name}.partial") for path in files}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial[path].write_bytes(content)
        for path in files:
            os.replace(partial[path], path)
    except OSError as error:
        for unfinished in partial.values():
            with suppress(OSError):  # it may never have been there
                unfinished.unlink()
        raise ExportError(
            f"cannot write {path}: {error.strerror}; name a file in a folder that can be written to and has space left"
        ) from error


# -- INT8: by ONNX Runtime's static quantisation on training images. Such a file computes only about what the network does:
# instead of their outputs, the accuracies of both files are compared.

IMAGES, BATCH = 250, 25  # training images that scales are found on, and how many at once


def export_int8(
    network: nn.Module, data: ImageData, path: Path, metadata: Mapping[str, str], threads: int = 1
) -> dict[str, Any]:
    """Write the file, and return what it gains and loses against the ONNX file in FP32: JSON, see docs/design.md.

    `network`: in evaluation mode, or `OfPixels` of it. Accuracies are of all test images; latencies of one image, both files
    in turns, in looks as of whole networks. Raises `ExportError` where a package is missing, or ONNX Runtime cannot quantise
    the network; then no file is written.
    """
    indices = calibration_indices(data, 0, IMAGES, BATCH)
    read = as_pixels if isinstance(network, OfPixels) else as_input
    with tempfile.TemporaryDirectory() as place:
        plain = Path(place, "fp32.onnx")
        export(network, read(data.train, data, indices[0]), plain, "onnx", metadata)
        files = {"fp32": plain.read_bytes()}
    try:
        files["int8"] = quantised(files["fp32"], (read(data.train, data, batch) for batch in indices), _input(network))
    except Exception as error:  # it raises almost anything
        raise ExportError(f"ONNX Runtime cannot quantise this network: {first_line(error)}") from error
    image = np.ascontiguousarray(read(data.test, data, torch.tensor([0])).numpy())
    loaders = {kind: partial(_timed, file, image, threads) for kind, file in files.items()}
    together = Batch(loaders, calibrate.RUNS, calibrate.WARMUP, 1.0)
    *_, rows = by_looks([together], looks=calibrate.LOOKS, apart=calibrate.APART)
    found = {
        kind: {
            "accuracy": _accuracy(file, data, read), "bytes": len(file),
            "latency_ms": {name: rows[kind][f"{name}_ms"] for name in ("median", "p10", "p90")},
        }
        for kind, file in files.items()
    }  # fmt: skip
    write_files({path: files["int8"]})
    return {
        "format": 1, "file": path.name, "preprocessing": isinstance(network, OfPixels), **found, "test_images": len(data.test),
        "calibration_images": sum(map(len, indices)), "device": cpu_name(), "version": load_onnxruntime().__version__,
        "threads": threads,
    }  # fmt: skip


def _timed(file: bytes, image: np.ndarray, threads: int) -> Callable[[], float]:
    return load_onnx(file, image, threads)[0]


def as_input(split: Split, data: ImageData, indices: Tensor) -> Tensor:
    """Images as the network takes them: float32 [B, C, H, W]."""
    return normalise(split.images.fetch(indices), data, "cpu")


def as_pixels(split: Split, data: ImageData, indices: Tensor) -> Tensor:
    """Images as `OfPixels` takes them: uint8 [B, H, W, C]."""
    return split.images.fetch(indices).permute(0, 2, 3, 1).contiguous()


def _accuracy(file: bytes, data: ImageData, read: Callable[[Split, ImageData, Tensor], Tensor]) -> float:
    """Share of the test images of which ONNX Runtime names the class."""
    run, right = onnx_runner(file), 0
    for batch in in_order(len(data.test), at_once(data.input_size)):
        right += int((run(read(data.test, data, batch)).argmax(1) == data.test.labels[batch]).sum())
    return right / len(data.test)


# -- ONNX and PyTorch's own format -------------------------------------------------------------------------------


def _two(images: Tensor) -> Tensor:
    """Two images: torch.export takes a batch of one as a constant."""
    return images[:2] if len(images) > 1 else images.repeat(2, 1, 1, 1)


def _to_onnx(network: nn.Module, images: Tensor, metadata: Mapping[str, str]) -> bytes:
    import onnx

    model = onnx.load_model_from_string(to_onnx(network, _two(images), (_input(network), "logits"), any_batch=True))
    del model.graph.metadata_props[:]  # the exporter's notes: half the file, with source paths of this machine
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    onnx.helper.set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString())


def onnx_runner(data: bytes) -> Runner:
    """An ONNX file as a function, by ONNX Runtime on the CPU."""
    session = onnx_session(data)
    (image,) = session.get_inputs()
    return lambda x: torch.from_numpy(session.run(["logits"], {image.name: x.numpy()})[0])


def _to_pt2(network: nn.Module, images: Tensor, metadata: Mapping[str, str]) -> bytes:
    program = torch.export.export(network, (_two(images),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source paths of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(dict(metadata))})
    return buffer.getvalue()


def _load_pt2(data: bytes) -> Runner:
    return torch.no_grad()(torch.export.load(io.BytesIO(data)).module())


# -- for the processor's maker, phones and small boards: packages of their own ------------------------------------------


def _to_openvino(network: nn.Module, images: Tensor, metadata: Mapping[str, str]) -> tuple[bytes, bytes]:
    (openvino,) = packages("openvino", "openvino")
    model = runtimes.openvino_core(openvino).read_model(_to_onnx(network, images, metadata))
    for key, value in metadata.items():
        model.set_rt_info(value, key)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _load_openvino(source: bytes, weights: bytes) -> Runner:
    (openvino,), hints = packages("openvino", "openvino"), {"INFERENCE_PRECISION_HINT": "f32"}
    core = runtimes.openvino_core(openvino)
    model = core.compile_model(core.read_model(source, weights), "CPU", hints)
    return lambda x: torch.from_numpy(model(x.numpy())[0].copy())


def _load_litert(data: bytes) -> Runner:
    _, run = load_litert(data)
    return lambda x: torch.cat([run(image) for image in torch.split(x, 1)])


def _load_executorch(data: bytes) -> Runner:
    run = load_executorch(data)
    return lambda x: torch.cat([run([image])[0].clone() for image in torch.split(x, 1) if data])  # which keeps `data` alive


# -- Python ------------------------------------------------------------------------------------------------------

CHECK = """
import sys
sys.modules["hiernas"] = None  # importing it fails
sys.path = [".", *sys.path, sys.argv[1]]  # where the file is; where torch is, should this interpreter not know
import network, torch
module = network.load()
with torch.no_grad():
    torch.save([module(x) for x in torch.load("images.pt", weights_only=True)], "outputs.pt")
"""


def _load_python(source: bytes, weights: bytes, batches: Sequence[Tensor]) -> Runner:
    """The file as a runner of these batches, all at once in a fresh interpreter without HierNAS, which takes seconds to start.

    Raises `ExportError` where it does not load or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "network.py").write_bytes(source)
        (place / "network.pt").write_bytes(weights)
        torch.save(list(batches), place / "images.pt")
        command = [sys.executable, "-I", "-c", CHECK, str(Path(torch.__file__).parents[1])]
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"the python file could not be run by itself: {error}") from error
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
            raise ExportError(f"the python file does not run by itself: {said[-1].strip()}; no file was written")
        found = dict(zip(map(len, batches), torch.load(place / "outputs.pt", weights_only=True), strict=True))
    return lambda x: found[len(x)]

"""Export to INT8: an ONNX file with weights of 8 bits, by ONNX Runtime's static quantisation on training images.

Such a file computes only about what the network does: instead of their outputs, the accuracies of both files are compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiernas.data import ImageData
from hiernas.data.batches import at_once, in_order, normalise
from hiernas.data.split import Split
from hiernas.errors import ExportError
from hiernas.export import export, onnx_runner, write_files
from hiernas.host import first_line
from hiernas.latency.runner import by_turns, cpu_name, load_onnx, load_onnxruntime
from hiernas.latency.runtimes import quantised
from hiernas.train.evaluate import calibration_indices

IMAGES, BATCH = 250, 25  # training images that scales are found on, and how many at once
RUNS, WARMUP = 100, 10


def export_int8(
    network: nn.Module, data: ImageData, path: Path, metadata: Mapping[str, str], threads: int = 1
) -> dict[str, Any]:
    """Write the file, and return what it gains and loses against the ONNX file in FP32: JSON, see docs/design.md.

    Accuracies are of all test images; latencies of one image, both files in turns. Raises `ExportError` where a package is
    missing, or ONNX Runtime cannot quantise the network; then no file is written.
    """
    indices = calibration_indices(data, 0, IMAGES, BATCH)
    with tempfile.TemporaryDirectory() as place:
        plain = Path(place, "fp32.onnx")
        export(network, _read(data.train, data, indices[0]), plain, "onnx", metadata)
        files = {"fp32": plain.read_bytes()}
    try:
        files["int8"] = quantised(files["fp32"], (_read(data.train, data, batch) for batch in indices), "image")
    except Exception as error:  # it raises almost anything
        raise ExportError(f"ONNX Runtime cannot quantise this network: {first_line(error)}") from error
    image = np.ascontiguousarray(_read(data.test, data, torch.tensor([0])).numpy())
    rows = by_turns([load_onnx(file, image, threads)[0] for file in files.values()], RUNS, WARMUP)
    found = {
        kind: {
            "accuracy": _accuracy(file, data), "bytes": len(file),
            "latency_ms": {name: row[f"{name}_ms"] for name in ("median", "p10", "p90")},
        }
        for (kind, file), row in zip(files.items(), rows, strict=True)
    }  # fmt: skip
    write_files({path: files["int8"]})
    return {
        "format": 1, "file": path.name, **found, "test_images": len(data.test),
        "calibration_images": sum(map(len, indices)), "device": cpu_name(), "version": load_onnxruntime().__version__,
        "threads": threads,
    }  # fmt: skip


def _read(split: Split, data: ImageData, indices: Tensor) -> Tensor:
    """Images as the network takes them: float32 [B, C, H, W]."""
    return normalise(split.images.fetch(indices), data, "cpu")


def _accuracy(file: bytes, data: ImageData) -> float:
    """Share of the test images of which ONNX Runtime names the class."""
    run, right = onnx_runner(file), 0
    for batch in in_order(len(data.test), at_once(data.input_size)):
        right += int((run(_read(data.test, data, batch)).argmax(1) == data.test.labels[batch]).sum())
    return right / len(data.test)

"""Fixtures: data, and a cache and a working folder of the tests' own."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are small, and two tests run at a time
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: see `hiernas.cli.main`
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the tests themselves load ONNX Runtime

import torch
from PIL import Image

from hiernas.data import ImageData, load_data

export = importlib.import_module("hiernas.export")  # `hiernas.export` is a function

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["HIERNAS_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX files by the older exporter, which takes a tenth of the time; the other one has tests of its own."""
    monkeypatch.setattr(export, "_by_dynamo", export._by_tracing)


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="session")
def few(digits: ImageData, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with 20 images of each digit."""
    path, pixels = tmp_path_factory.mktemp("data") / "few", digits.train.images.fetch(torch.arange(len(digits.train))).numpy()
    for label in range(10):
        (path / str(label)).mkdir(parents=True)
        for i, image in enumerate(pixels[digits.train.labels == label][:20]):
            Image.fromarray(image[0]).save(path / str(label) / f"{i}.png")
    return str(path)

"""Fixtures: data, and a cache and a working folder of the tests' own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are small, and two tests run at a time
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: see `hiernas.cli.main`
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the tests themselves load ONNX Runtime

from hiernas.data import ImageData, load_data

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERNAS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits")

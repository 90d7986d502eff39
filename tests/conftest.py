"""Fixtures: data, and a cache and a working folder of the tests' own."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are small, and two tests run at a time
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: see `hiernas.cli.main`
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes for the little that is compiled
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")  # what the processor says it has is not tried by compiling
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the tests themselves load ONNX Runtime

if TYPE_CHECKING:  # torch is loaded by the tests: what hands them out does without
    from hiernas.data import ImageData

LONG = (  # folders, and files outside them
    "test_golden", "test_run", "test_use", "test_pace", "test_faults", "test_study", "train", "methods", "test_checksums",
    "test_small_folder", "test_python", "test_hub", "latency", "export", "report", "costs", "test_readers", "test_wheel",
)  # fmt: skip
EXPORTED = {"export", "test_space_ops", "test_runtimes", "test_wheel"}  # tests of files as they are handed over
DRAWN = {  # and of pages and figures
    "report", "test_command", "test_progress", "test_run", "test_study", "test_train_command", "test_use", "vital",
}  # fmt: skip
SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that none of them is alone at the end."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).parts[0].removesuffix(".py")
        return LONG.index(name) if name in LONG else len(LONG)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    gc.freeze()  # half a million objects that stay are not looked through each time something may be garbage


@pytest.fixture(autouse=True, scope="session")
def _no_waiting() -> None:
    from hiernas.latency import calibrate
    from hiernas.run import request
    from processes import unsynced

    unsynced()
    calibrate.APART = 0.0  # between looks at whole networks
    request.WHOLE = 0  # that correct latencies of cells before each search


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["HIERNAS_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def _lighter(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a test is not about them: files by the quicker exporter, pages without figures, latencies by a few runs."""
    from processes import hasty, quick_export, undrawn

    about = {request.path.stem, *request.path.relative_to(Path(__file__).parent).parts}
    with ExitStack() as lighter:
        if not about & EXPORTED:
            lighter.enter_context(quick_export())
        if not about & DRAWN:
            lighter.enter_context(undrawn())
        if "latency" not in about:
            lighter.enter_context(hasty())
        yield


@pytest.fixture(scope="session")
def digits() -> ImageData:
    from hiernas.data import load_data

    return load_data("digits")


@pytest.fixture(scope="session")
def few(digits: ImageData, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with 20 images of each digit."""
    import torch
    from PIL import Image

    path, pixels = tmp_path_factory.mktemp("data") / "few", digits.train.images.fetch(torch.arange(len(digits.train))).numpy()
    for label in range(10):
        (path / str(label)).mkdir(parents=True)
        for i, image in enumerate(pixels[digits.train.labels == label][:20]):
            Image.fromarray(image[0]).save(path / str(label) / f"{i}.png")
    return str(path)

"""The trained network in use: what it sees in pictures (`hiernas predict`), how often it is right (`hiernas evaluate`)."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hiernas.commands import EvaluateOptions, PredictOptions, Table
from hiernas.data import at_once, in_order
from hiernas.data.images import Form, some
from hiernas.data.load import load_images
from hiernas.data.sources import find, pictures
from hiernas.data.split import ImageData, Split, Subset
from hiernas.errors import ConfigError, DataError, HiernasError, RunError
from hiernas.report import units
from hiernas.report.trust import MOST, SHOWN, Evaluation
from hiernas.run.folder import RunFolder
from hiernas.run.hub import fetched
from hiernas.run.request import reload_data
from hiernas.run.trained import TrainedNetwork, load

COLUMNS = ("image", "class", "probability")


def predict(asked: PredictOptions) -> tuple[list[list[str]], list[str]]:
    """Image, class and probability of each picture, and remarks; written as CSV where that is asked for."""
    network, reader, target = load(asked.source), pictures(asked.images), asked.csv
    if target is not None and (target.is_dir() or not target.parent.is_dir()):
        raise ConfigError(f"--csv {target}: name a file in a folder that exists, or - for standard output")
    rows, bad = [], []
    for name, found in network.probabilities(reader, asked.skip_bad_images):
        if isinstance(found, str):
            bad.append(f"{name} ({found})")
        else:
            label, probability = network.named(found)
            rows.append([name, label, f"{probability:.4f}"])
    remarks = [f"{len(bad)} damaged images left out: {some(bad)}"] if bad else []
    if target is not None:
        try:
            with nullcontext(sys.stdout) if str(target) == "-" else target.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        except OSError as error:
            raise ConfigError(f"--csv {target} cannot be written: {error.strerror}; name another file") from error
        remarks += [f"{units.number(len(rows), 'image')} written to {target}"] if str(target) != "-" else []
    return rows, remarks


def to_json(found: Evaluation, images: str) -> dict[str, Any]:
    """Accuracy with its 95 % interval (Wilson's), accuracy by class (null where there is no image), the matrix."""
    n = int(found.images.sum())
    return {
        "data": images, "images": n, "accuracy": found.accuracy, "interval": list(units.wilson(found.accuracy, n)),
        "classes": {name: {"images": of, "accuracy": right} for name, of, right in found.by_class},
        "confusion": found.confusion.tolist(),
    }  # fmt: skip


def tables(found: Evaluation, images: str) -> list[Table]:
    """For the terminal: accuracy by class, then what was taken for what. `images`: which they are."""
    low, high = units.wilson(found.accuracy, int(found.images.sum()))
    said = f"accuracy {found.accuracy:.2%}, 95 % interval {low:.2%} to {high:.2%} ({images})"
    rows = [[name, str(of), units.percent(right)] for name, of, right in found.by_class]
    if len(found.classes) <= SHOWN:
        matrix = [[name, *map(str, row)] for name, row in zip(found.classes, found.confusion.tolist(), strict=True)]
        return [(["class", "images", "accuracy"], rows, [said]), (["class \\ named", *found.classes], matrix, [])]
    confused = [[found.classes[a], found.classes[b], str(n)] for a, b, n in found.confused[:MOST]]
    return [(["class", "images", "accuracy"], rows, [said]), (["class", "taken for", "images"], confused, [])]


def evaluate(asked: EvaluateOptions) -> tuple[Evaluation, str]:
    """Of a run on its test images, or on others with the same class names; and which they are."""
    asked = replace(asked, source=fetched(asked.source))
    network = load(asked.source)
    split, images = _labelled(asked, network)
    with torch.no_grad():
        batches = in_order(len(split), at_once(network.input_size))
        named = torch.cat([network(split.images.fetch(b)).argmax(1).cpu() for b in batches])
    return Evaluation.of(network.classes, split.labels.numpy(), named.numpy()), images


def _labelled(asked: EvaluateOptions, network: TrainedNetwork) -> tuple[Split, str]:
    """The images, and which they are in words. Those a run was trained on are never among them, where it can be known."""
    run = next((RunFolder.open(at) for at in (asked.source, asked.source.parent) if (at / "config.yaml").exists()), None)
    if asked.data is None:
        if run is None:
            raise RunError(f"{asked.source} lies in no run folder, so it has no test images; name some with --data")
        data = reload_data(run)
        return data.test, f"{data.name}, {len(data.test)} test images"
    given: Any = asked.data
    if isinstance(given, ImageData):
        if given.input_size != network.input_size:
            raise DataError(f"'{given.name}' has images of {given.input_size}, and the network takes {network.input_size}")
        labels = _ours(given.name, given.classes, network)[given.test.labels]
        return Split(given.test.images, labels), f"{given.name}, {len(labels)} test images"
    found = find(given)
    if "test" not in found.parts and run is not None:
        try:
            data = reload_data(run, given)
        except HiernasError:  # others than the run's own
            pass
        else:
            return data.test, f"{data.name}, {len(data.test)} test images, which the run held out"
    ours = _ours(found.name, found.classes, network)
    loaded = load_images(found, Form(*network.input_size), asked.skip_bad_images)
    rows = np.setdiff1d(found.parts.get("test", np.arange(found.reader.count)), list(loaded.bad))
    if not len(rows):
        raise DataError(f"'{found.name}' has no image to look at; name a folder with class folders that hold some")
    labels = ours[torch.from_numpy(found.labels[rows])]
    which = f"{len(rows)} test images" if "test" in found.parts else f"all {len(rows)} images"
    return Split(Subset(loaded.images, torch.from_numpy(rows)), labels), f"{found.name}, {which}"


def _ours(name: str, classes: Sequence[str], network: TrainedNetwork) -> torch.Tensor:
    """The network's number of each class of other images."""
    strange = [each for each in classes if each not in network.classes]
    if strange:
        known = ", ".join(network.classes)
        raise DataError(f"class '{strange[0]}' of '{name}' is none of the network's: {known}; give its folder one of them")
    return torch.tensor([network.classes.index(each) for each in classes])

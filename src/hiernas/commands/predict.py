"""`hiernas predict`: what a trained network sees in pictures."""

from __future__ import annotations

import csv
import sys
from contextlib import nullcontext
from dataclasses import dataclass

from hiernas.commands.options import PredictOptions
from hiernas.data.images import some
from hiernas.data.sources import pictures
from hiernas.errors import ConfigError
from hiernas.report import units
from hiernas.run.trained import load

COLUMNS = ("image", "class", "probability")


@dataclass(frozen=True)
class Predicted:
    """Image, class and probability of each picture, and what is to be remarked."""

    rows: list[list[str]]
    remarks: list[str]


def predict(asked: PredictOptions) -> Predicted:
    """Load the network, look at all pictures, and write them as CSV where that is asked for."""
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
    return Predicted(rows, remarks)

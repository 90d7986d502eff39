"""`hiernas train`: one network by itself, from random weights or from those it has in a run's supernet."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hiernas.commands.cost import Source, architecture_file
from hiernas.data import ImageData, load_data
from hiernas.errors import ConfigError, SpaceError, did_you_mean
from hiernas.methods import METHODS
from hiernas.methods.hnas import PRESETS
from hiernas.run.folder import Listener, RunFolder, next_free
from hiernas.run.outcome import inherited_weights, train_only
from hiernas.run.search import reload_data
from hiernas.run.settings import differences, for_images, from_dict, names_of, to_dict, with_settings
from hiernas.space import Architecture, known_space
from hiernas.spaces import KNOWN, known
from hiernas.train.recipes import Recipe, retraining
from hiernas.version import VERSION


@dataclass(frozen=True)
class Training:
    """A training that was set up: call it to run it to its end."""

    path: Path
    run: RunFolder
    data: ImageData

    def __call__(self) -> None:
        try:
            self.run.tell("start", plan={"final": 1.0}, run=str(self.path), limits=["none"])
            train_only(self.run, self.data)
        finally:
            self.run.close()


def start_training(
    source: Path, *, data: str | None, inherit: bool, epochs: int | None, lr: float | None, recipe: str | None,
    network: str | None, preset: str | None, settings: Sequence[str], seed: int, out: Path | None, image_size: int | None,
    skip_bad_images: bool, listener: Listener,
) -> Training:  # fmt: skip
    """Check everything and make the run folder of `hiernas train`."""
    origin = RunFolder.open(source) if source.is_dir() else None
    if inherit and origin is None:
        raise ConfigError(f"--inherit needs a run folder, whose supernet has the weights; {source} is a file")
    if inherit and data is not None:
        raise ConfigError("--inherit goes on with the run's own images; leave --data out")
    if data is None and origin is not None and (image_size is not None or skip_bad_images):
        raise ConfigError("--image-size and --skip-bad-images are for --data; the run's own images are read as they were")
    if lr is not None and not 0 < lr < math.inf:
        raise ConfigError(f"--lr is {lr}; it must be positive")
    for text in settings:
        if not text.strip().startswith("train."):
            raise ConfigError(f"--set {text}: a training takes --epochs, --lr and --set train.KEY=VALUE")
    named = Source(str(source)).known is not None
    architecture = None if named else architecture_file(source)
    config = _recipe_source(origin, recipe, preset)
    with_settings(config, settings)  # a mistake is named before images are read
    images, asked = _training_data(origin, data, seed, image_size, skip_bad_images)
    if recipe is not None:
        config = replace(config, train=replace(config.train, cutout=min(config.train.cutout, min(images.input_size[1:]) // 2)))
    config = with_settings(config, settings)
    size = "run" if origin is not None and recipe is None and preset is None else preset or "quick"  # a run's own is fitted
    meant, config = config, for_images(config, size, len(images.train), names_of(settings))
    architecture = architecture or _published(str(source), images, config.train)
    config.train.augmentation()  # says so where it is not available
    if network is not None:
        architecture = transfer(architecture, images.input_size, images.num_classes, network)
    _fits(architecture, images, config.train)
    weights = inherited_weights(origin, architecture, images, config.train) if inherit and origin else None
    training = {
        "architecture": architecture.to_json(),
        "epochs": epochs or config.final_epochs,
        "lr": config.final_lr * (0.1 if inherit else 1.0) if lr is None else lr,
        "recipe": to_dict(config.train),
        "inherit": inherit,
    }
    path = out or next_free(Path("runs"), "train")
    plain = json.loads(json.dumps(training))
    name = preset or ("run" if origin else "quick")
    header = {"hiernas": VERSION, "method": "train", "preset": name, "seed": seed, "data": asked, "train": plain}
    header["fitted"] = differences(meant, config)
    run = RunFolder.create(path, header, listener)
    if weights is not None:
        run.save_tensors("inherited", weights, {})
    return Training(path, run, images)


@dataclass(frozen=True)
class _Settings:
    """How a network is trained by itself."""

    train: Recipe
    final_epochs: int
    final_lr: float


def _recipe_source(origin: RunFolder | None, recipe: str | None, preset: str | None) -> Any:
    if recipe is not None:
        found = retraining(recipe, preset or "quick")
        return _Settings(found.recipe, found.epochs, found.lr)
    if origin is not None and preset is None and "config" in origin.config:
        return from_dict(type(METHODS[origin.config["method"]].presets["paper"]), origin.config["config"])
    if origin is not None and preset is None:  # a run of `hiernas train`
        asked = origin.config["train"]
        return _Settings(from_dict(Recipe, asked["recipe"]), asked["epochs"], asked["lr"])
    name = preset or "quick"
    if name not in PRESETS:
        raise ConfigError(f"unknown preset '{name}'; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def _training_data(
    origin: RunFolder | None, source: str | None, seed: int, image_size: int | None, skip: bool
) -> tuple[ImageData, dict[str, Any]]:
    if source is None and origin is not None:
        return reload_data(origin, None), dict(origin.config["data"])
    if source is None:
        raise ConfigError("an architecture does not say which images to train on; name them with --data")
    images = load_data(source, image_size=image_size, seed=seed, skip_bad_images=skip)
    where = str(Path(source).resolve()) if Path(source).exists() else source
    asked = {"source": where, "image_size": image_size, "val_per_class": None, "skip_bad_images": skip, "seed": seed}
    return images, {**asked, "fingerprint": images.fingerprint}


def _published(name: str, images: ImageData, recipe: Recipe) -> Architecture:
    """A published network for these images, with its second classifier where the recipe is for one."""
    cells = KNOWN[name].space in ("darts", "hdas_cells", "hdas_stages")
    arguments = {"auxiliary": True} if cells and recipe.drop_path else {}
    return known(name, images.input_size, images.num_classes, **arguments)


def transfer(
    architecture: Architecture, input_size: tuple[int, int, int], num_classes: int, stem: str
) -> Architecture:
    """What was found in cells, in the network for other images: its stem, channels and number of cells.

    Stage graphs keep their number of cells. Raises `ConfigError` for networks that are no cells.
    """
    skeleton = architecture.skeleton
    if not skeleton.groups:
        raise ConfigError(f"--network is for networks of cells, and '{skeleton.name}' is a chain; leave it out")
    dropped = {"input_size", "num_classes", "channels", "stem"} | ({"cells"} if skeleton.name != "hdas_stages" else set())
    arguments = {key: value for key, value in skeleton.arguments if key not in dropped}
    arguments |= {"input_size": input_size, "num_classes": num_classes, "stem": stem}
    space = known_space(skeleton.name, arguments, source="--network")
    return Architecture(space.skeleton, architecture.choices)


def _fits(architecture: Architecture, data: ImageData, recipe: Recipe) -> None:
    if recipe.drop_path and not architecture.skeleton.groups:
        raise ConfigError(
            f"train.drop_path is for networks of cells, and '{architecture.skeleton.name}' is a chain; leave it out, or "
            "choose another recipe"
        )
    wanted = (architecture.skeleton.input_size, architecture.skeleton.num_classes)
    if wanted != (data.input_size, data.num_classes):
        raise SpaceError(
            f"the architecture is for images of size {wanted[0]} in {wanted[1]} classes, but {data.name} has "
            f"{data.input_size} in {data.num_classes}; search on these images, or choose data that fit"
        )

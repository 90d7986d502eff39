"""`hiernas train`: one network by itself, from random weights or from those it has in a run's supernet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from hiernas import ranks
from hiernas.commands import TrainOptions
from hiernas.commands.cost import architecture_file, published
from hiernas.data import ImageData
from hiernas.errors import ConfigError, SpaceError
from hiernas.methods import METHODS
from hiernas.methods.controls import ControlConfig
from hiernas.methods.hnas import PRESETS
from hiernas.names import VERSION
from hiernas.problem import final_work
from hiernas.run.folder import Listener, RunFolder, begin
from hiernas.run.outcome import environment, inherited_weights, train_only
from hiernas.run.request import check_recipe, read_data, reload_data, retraining_of
from hiernas.run.search import fitting, in_words, training_pace
from hiernas.run.settings import differences, for_images, from_dict, names_of, to_dict, with_settings
from hiernas.space import Architecture
from hiernas.spaces import known, known_space
from hiernas.train.recipes import Recipe
from hiernas.train.retraining import Retraining, retraining


def train(asked: TrainOptions, listener: Listener) -> Path:
    """Check everything, make a run folder, and train in it; returns the folder."""
    source, recipe, preset, settings = asked.source, asked.recipe, asked.preset, asked.settings or []
    origin = RunFolder.open(source) if ranks.told(source.is_dir)() else None
    architecture = None if published(str(source)) else ranks.told(architecture_file)(source)
    config = _recipe_source(origin, recipe, preset)
    with_settings(config, settings)  # a mistake is named before images are read
    images, data = _training_data(origin, asked, listener)
    if recipe is not None:
        config = replace(config, train=replace(config.train, cutout=min(config.train.cutout, min(images.input_size[1:]) // 2)))
    config = with_settings(config, settings)
    size = "run" if origin is not None and recipe is None and preset is None else preset or "quick"  # a run's own is fitted
    meant, config = config, for_images(config, size, len(images.train), names_of(settings))
    architecture = _network(asked, architecture, images, config.train)
    weights = inherited_weights(origin, architecture, images) if asked.inherit and origin else None
    lr = config.final_lr * (0.1 if asked.inherit else 1.0) if asked.lr is None else asked.lr
    how = Retraining(config.train, asked.epochs or config.final_epochs, lr)
    training = {"architecture": architecture.to_json(), **to_dict(how), "inherit": asked.inherit}
    header = {
        "hiernas": VERSION, "method": "train", "preset": preset or ("run" if origin else "quick"), "seed": asked.seed,
        "data": data, "train": json.loads(json.dumps(training)), "fitted": differences(meant, config),
    }  # fmt: skip
    header["environment"] = environment(header)
    if (seconds := asked.seconds) is not None:
        listener({"event": "rehearsal"})
        header = _within(seconds, asked.began, header, how, images)
    run = begin(asked.out, "train", header, listener)
    with closing(run):
        if weights is not None:
            run.save_tensors("inherited", weights, {})
        train_only(run, images)
    return run.path


def _within(asked: float, began: float, header: dict[str, Any], how: Retraining, images: ImageData) -> dict[str, Any]:
    """The config.yaml of a training that ends `asked` seconds after it began: see `hiernas.run.search`."""

    architecture = Architecture.from_json(header["train"]["architecture"], source="the network")
    pace = training_pace(header, architecture, how, images, asked - ranks.since(began))
    spent = ranks.since(began)

    def phases(how: Retraining) -> dict[str, float]:
        return pace.seconds({"final": final_work(how.epochs, images)})

    fitted = fitting(how, lambda h: sum(phases(h).values()), asked - spent)
    timed = in_words(asked, spent, differences(how, fitted), phases(fitted))
    return {**header, "train": {**header["train"], **to_dict(fitted)}, "timed": timed}


def _recipe_source(origin: RunFolder | None, recipe: str | None, preset: str | None) -> Any:
    """A configuration whose final training is meant: a published recipe's, the run's own, or a preset's."""
    if recipe is not None:
        return _of_training(retraining(recipe, preset or "quick"))
    if origin is not None and preset is None and "config" in origin.config:
        config = from_dict(type(METHODS[origin.config["method"]].presets["paper"]), origin.config["config"])
        other = origin.config.get("final_recipe")
        return config if other is None else replace(config, train=from_dict(Recipe, other))
    if origin is not None and preset is None:  # a run of `hiernas train`
        return _of_training(retraining_of(origin))
    return PRESETS[preset or "quick"]


def _of_training(how: Retraining) -> ControlConfig:
    return ControlConfig(final_epochs=how.epochs, final_lr=how.lr, train=how.recipe)


def _training_data(origin: RunFolder | None, asked: TrainOptions, listener: Listener) -> tuple[ImageData, Mapping[str, Any]]:
    if asked.data is None and origin is not None:
        return reload_data(origin, None), dict(origin.config["data"])
    if asked.data is None:
        raise ConfigError("an architecture does not say which images to train on; name them with --data")
    return read_data(
        asked.data, listener, image_size=asked.image_size, val_per_class=None, skip_bad_images=asked.skip_bad_images,
        seed=asked.seed,
    )


def _network(asked: TrainOptions, architecture: Architecture | None, images: ImageData, recipe: Recipe) -> Architecture:
    """The network to be trained, a published one where there is no architecture; it fits the images and the recipe."""
    if architecture is None:
        name = str(asked.source)
        architecture = known(name, images.input_size, images.num_classes)
        if recipe.drop_path and architecture.skeleton.searched != "blocks":  # the recipe is for a second classifier, too
            architecture = known(name, images.input_size, images.num_classes, auxiliary=True)
    if asked.network is not None:
        architecture = transfer(architecture, images.input_size, images.num_classes, asked.network)
    skeleton = architecture.skeleton
    check_recipe(recipe, skeleton)
    if (skeleton.input_size, skeleton.num_classes) != (images.input_size, images.num_classes):
        raise SpaceError(
            f"the architecture is for images of size {skeleton.input_size} in {skeleton.num_classes} classes, but "
            f"{images.name} has {images.input_size} in {images.num_classes}; search on these images, or choose data that fit"
        )
    return architecture


def transfer(architecture: Architecture, input_size: tuple[int, int, int], num_classes: int, stem: str) -> Architecture:
    """What was found in cells, in the network for other images: its stem, channels and number of cells.

    Stage graphs keep their number of cells. Raises `ConfigError` for networks that are no cells.
    """
    skeleton = architecture.skeleton
    if skeleton.searched == "blocks":
        raise ConfigError(f"--network is for networks of cells, and '{skeleton.name}' is a chain; leave it out")
    dropped = {"input_size", "num_classes", "channels", "stem"} | ({"cells"} if skeleton.searched == "cells" else set())
    arguments = {key: value for key, value in skeleton.arguments if key not in dropped}
    arguments |= {"input_size": input_size, "num_classes": num_classes, "stem": stem}
    space = known_space(skeleton.name, arguments, source="--network")
    return Architecture(space.skeleton, architecture.choices)

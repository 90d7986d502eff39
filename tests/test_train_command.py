"""`hiernas train`: the network that is trained, and options that do not go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hiernas.commands import TrainOptions
from hiernas.commands.train import _network
from hiernas.data import ImageData
from hiernas.errors import ConfigError, SpaceError
from hiernas.spaces import known
from hiernas.train.retraining import RECIPES

DARTS, PLAIN = RECIPES["darts"].recipe, replace(RECIPES["darts"].recipe, drop_path=0.0, auxiliary=0.0)


def test_a_published_network_is_made_for_the_images_and_the_recipe(digits: ImageData) -> None:
    cells, chain = TrainOptions(source=Path("darts-v2")), TrainOptions(source=Path("fbnet-c"))
    assert _network(cells, None, digits, PLAIN) == known("darts-v2", digits.input_size, 10)
    assert _network(cells, None, digits, DARTS) == known("darts-v2", digits.input_size, 10, auxiliary=True)
    assert _network(chain, None, digits, PLAIN) == known("fbnet-c", digits.input_size, 10)
    with pytest.raises(ConfigError, match=r"train\.drop_path is for networks of cells, and 'fbnet' is a chain"):
        _network(chain, None, digits, DARTS)


def test_what_was_found_fits_the_images_or_is_carried_over(digits: ImageData) -> None:
    found = known("darts-v2", (3, 16, 16), 4, channels=4)
    with pytest.raises(SpaceError, match=r"for images of size \(3, 16, 16\) in 4 classes, but .* has \(1, 8, 8\) in 10"):
        _network(TrainOptions(source=Path("a.json")), found, digits, PLAIN)
    carried = _network(TrainOptions(source=Path("a.json"), network="cifar"), found, digits, PLAIN)
    assert carried.choices == found.choices
    assert carried == known("darts-v2", digits.input_size, 10, stem="cifar")
    with pytest.raises(ConfigError, match="--network is for networks of cells, and 'fbnet' is a chain"):
        _network(TrainOptions(source=Path("a.json"), network="cifar"), known("fbnet-c"), digits, PLAIN)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'quik'; did you mean 'quick'\?"):
        TrainOptions(source=tmp_path, preset="quik")
    with pytest.raises(ConfigError, match="--inherit needs a run folder"):
        TrainOptions(source=tmp_path / "best.json", inherit=True)
    with pytest.raises(ConfigError, match="--inherit goes on with the run's own images"):
        TrainOptions(source=tmp_path, inherit=True, data="digits")
    with pytest.raises(ConfigError, match="--image-size and --skip-bad-images are for --data"):
        TrainOptions(source=tmp_path, image_size=32)
    for lr in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"--lr is {lr}; it must be positive"):
            TrainOptions(source=tmp_path, lr=lr)
    with pytest.raises(ConfigError, match=r"--set epochs=3: a training takes --epochs, --lr and --set train\.KEY=VALUE"):
        TrainOptions(source=tmp_path, settings=["train.cutout=2", "epochs=3"])

"""Presets and --set: what is understood, and what is said where it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hiernas.errors import ConfigError
from hiernas.methods import METHODS as RECORDS
from hiernas.methods import darts, hmnas, hournas
from hiernas.methods.hnas import PAPER, PRESETS, QUICK, HNASConfig
from hiernas.run.settings import MADE_FOR, differences, for_images, from_dict, keys, to_dict, with_settings
from hiernas.train.recipes import Recipe


def test_settings_are_applied_with_their_types() -> None:
    texts = ["population=16", "epochs=5,4,3", "lr=[0.2, 1e-2, 1e-2]", "train.batch_size=8", "train.flip=true"]
    config = with_settings(QUICK, texts)
    assert config.population == 16
    assert config.epochs == (5, 4, 3)
    assert config.lr == (0.2, 0.01, 0.01)
    assert (config.train.batch_size, config.train.flip) == (8, True)
    assert config.generations == QUICK.generations


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("popluation=3", "unknown key 'popluation'; did you mean 'population'"),
        ("train.batchsize=3", "did you mean 'train.batch_size'"),
        ("population", "write key=value"),
        ("population=many", r"population: input should be a valid integer.*got 'many'"),
        ("evolution=magic", "evolution: input should be 'ces', 'spos' or 'random'"),
        ("population=1", "population: input should be greater than or equal to 4"),
        ("stages=5", "stages=5 needs 4 values of epochs"),
        ("epochs=3", r"needs 3 values of epochs and lr \(epochs=\[4,2,1\]\); epochs has 1"),
        ("p_th=2", "p_th: input should be less than or equal to 1"),
        ("lr=0.1,-1,0.1", r"lr\.1: input should be greater than 0"),
        ("train.precision=8", "train.precision: input should be"),
        ("epochs=[", "cannot be read"),
        ("lr=.nan,0.1,0.1", r"lr\.0: input should be "),
        ("train.batch_size=0", r"train\.batch_size: input should be greater than or equal to 2 \(got 0\)"),
        ("train.momentum=5", r"train\.momentum: input should be less than or equal to 0\.9999 \(got 5"),
        ("train.grad_clip=.nan", r"train\.grad_clip: input should be greater than or equal to 0 \(got nan\)"),
    ],
)
def test_mistakes_are_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_settings(QUICK, [setting])


def test_configurations_survive_their_file() -> None:
    for config in PRESETS.values():
        assert from_dict(HNASConfig, to_dict(config)) == config
    assert set(keys(PAPER)) == set(keys(QUICK))


def test_the_paper_preset_is_the_papers() -> None:
    assert [(p.epochs, p.lr) for p in PAPER.trainings()] == [(120, 0.5), (80, 0.1), (40, 0.1)]
    assert (PAPER.population, PAPER.generations, PAPER.p_th, PAPER.rank_below) == (64, 40, 0.01, 10)
    assert (PAPER.train.batch_size, PAPER.train.momentum, PAPER.train.weight_decay) == (1024, 0.9, 4e-5)
    assert (PAPER.final_epochs, PAPER.final_lr) == (240, 0.5)


@pytest.mark.parametrize(("stages", "epochs"), [(2, [240]), (3, [120, 120]), (4, [120, 80, 40])])
def test_every_number_of_stages_trains_for_the_same_total(stages: int, epochs: list[int]) -> None:
    config = with_settings(PAPER, [f"stages={stages}"])
    assert [p.epochs for p in config.trainings()] == epochs


def trained_on(config: object, images: int) -> dict[str, float]:
    """Per training its length in batches, epochs * images / batch size; tuples are summed."""
    known = keys(config)
    recipe = {k: "search.train." if k.startswith(("search.", "mask.")) else "train." for k in known}
    counted = [k for k in known if k.endswith("epochs") and "warmup" not in k and k != "finalist_epochs"]
    lengths = {k: sum(known[k]) if isinstance(known[k], tuple) else known[k] for k in counted}
    return {k: n * images / known[f"{recipe[k]}batch_size"] for k, n in lengths.items()}


METHODS = {"hnas": PRESETS, "hournas": hournas.PRESETS, "darts": darts.PRESETS, "hmnas": hmnas.PRESETS}


@given(st.integers(20, 12_000), st.sampled_from(["quick", "small"]), st.sampled_from(list(METHODS)))
def test_few_images_get_as_many_steps_as_the_preset_is_made_for(images: int, preset: str, method: str) -> None:
    asked = METHODS[method][preset]
    config = for_images(asked, preset, images)
    if images >= MADE_FOR[preset]:
        assert config == asked
        return
    full, fitted = keys(asked), keys(config)
    searched = min(MADE_FOR[preset], full.get("search.images") or MADE_FOR[preset])
    meant, found = trained_on(asked, MADE_FOR[preset]), trained_on(config, images)
    meant |= {k: n for k, n in trained_on(asked, searched).items() if k.startswith(("search.", "mask."))}
    meant["final_epochs"] = max(meant["final_epochs"], 500)
    for key, length in found.items():
        rounding = 3 * images / 16  # an epoch of each of at most three trainings
        own = trained_on(asked, images)[key] * 8  # never fewer epochs than the preset's, in smaller batches
        assert meant[key] - 1e-6 <= length <= max(meant[key] + rounding, own)
    for key in (k for k in full if k.endswith("batch_size")):
        assert 16 <= fitted[key] <= full[key]
        assert fitted[key] < 32 or images >= 8 * fitted[key]  # eight steps in an epoch
    smaller = math.sqrt(fitted["train.batch_size"] / full["train.batch_size"])
    assert fitted["final_lr"] == pytest.approx(full["final_lr"] * smaller, rel=0.01)


def test_what_was_set_and_what_was_published_stays() -> None:
    asked = with_settings(QUICK, ["final_epochs=3", "train.batch_size=64"])
    config = for_images(asked, "quick", 100, {"final_epochs", "train.batch_size"})
    assert (config.final_epochs, config.train.batch_size, config.lr, config.epochs) == (3, 64, QUICK.lr, (300, 150, 100))
    assert for_images(PAPER, "paper", 100) == PAPER
    assert differences(asked, config) == "epochs 30/15/10 -> 300/150/100, train.warmup_epochs 2.0 -> 20.0"
    assert differences(asked, asked) == ""


def test_finalists_get_more_epochs_only_where_there_are_some() -> None:
    asked = PRESETS["quick"]
    assert for_images(asked, "quick", 100).finalist_epochs == asked.finalist_epochs
    several = with_settings(asked, ["finalists=5"])
    assert for_images(several, "quick", 100).finalist_epochs > asked.finalist_epochs


def test_lists_and_numbers_of_numpy_are_taken_as_what_they_are() -> None:
    taken = HNASConfig(epochs=[3, 2, 1], lr=np.array([0.5, 0.25, 0.125]), population=np.int64(8), p_th=np.float64(0.5))
    assert taken == HNASConfig(epochs=(3, 2, 1), lr=(0.5, 0.25, 0.125), population=8, p_th=0.5)
    assert [type(value) for value in (taken.epochs, taken.lr, taken.population, taken.p_th)] == [tuple, tuple, int, float]
    assert yaml.safe_load(yaml.safe_dump(to_dict(taken)))["lr"] == [0.5, 0.25, 0.125]
    assert type(Recipe(batch_size=np.int32(16)).batch_size) is int
    with pytest.raises(ConfigError, match=r"settings of HNASConfig: epochs\.1: input should be a valid integer \(got 2\.5\)"):
        HNASConfig(epochs=[3, 2.5, 1])


@pytest.mark.parametrize("method", list(RECORDS))
def test_a_configuration_gives_its_presets(method: str) -> None:
    for name, config in RECORDS[method].presets.items():
        assert type(config).preset(name) == config
    with pytest.raises(ConfigError, match="unknown preset 'quik'; did you mean 'quick'"):
        type(config).preset("quik")

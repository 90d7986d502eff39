"""A small folder of images gives a useful network by the plain commands, and one that has learned nothing says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shapes
import torch

from hiernas.commands.check import estimate, in_words
from hiernas.data import ImageData, load_data
from hiernas.data.load import joined
from hiernas.run.folder import RunFolder
from hiernas.run.outcome import train_network
from hiernas.run.request import Request, prepare
from hiernas.run.search import LargestStep, Pace, search
from hiernas.spaces import tiny
from hiernas.train.recipes import Phase, Recipe
from toy import RUN


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 drawn shapes of 40 to 130 pixels in 4 classes."""
    path = tmp_path_factory.mktemp("data") / "shapes"
    shapes.draw(path, 60)
    return path


@pytest.fixture(scope="module")
def images(folder: Path) -> ImageData:
    return load_data(folder, image_size=16)


def test_a_trained_network_has_the_statistics_of_its_images(images: ImageData, tmp_path: Path) -> None:
    """Against hooks: the mean and variance that every batch norm sees, given the images as they are, all at once."""
    architecture = next(iter(tiny(images.input_size, images.num_classes)))
    recipe = Recipe(batch_size=64, accelerator="cpu")
    run = RunFolder.create(tmp_path / "run", RUN)
    network = train_network(architecture, images, Phase("final", 1, 0.1), recipe, run)
    run.close()

    seen: dict[torch.nn.Module, torch.Tensor] = {}
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(lambda m, inputs: seen.__setitem__(m, inputs[0].transpose(0, 1).flatten(1)))
        norm.train()
        norm.momentum = 0.0  # normalises by the batch and leaves the statistics alone
    both = joined(images.train, images.val)
    x = both.images.fetch(torch.arange(len(both))).float() / 255
    shape = (1, -1, 1, 1)
    with torch.no_grad():
        network((x - torch.tensor(images.mean).view(shape)) / torch.tensor(images.std).view(shape))
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, seen[norm].mean(1), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(norm.running_var, seen[norm].var(1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["hnas", "hournas", "darts", "hmnas"])
def test_presets_have_steps_for_small_folders(method: str, images: ImageData) -> None:
    prepared = prepare(Request(method, data=images, limits=["macs<=100M"], preset="small"))
    final = prepared.config.final_epochs * -(-len(images.train) // prepared.config.train.batch_size)
    assert final >= 500
    assert f"final_epochs {Request(method, preset='small').resolved().final_epochs} -> " in prepared.fitted
    assert any("rules nothing out" in doubt for doubt in prepared.doubts)
    assert in_words(estimate(prepared, LargestStep(1, 0.1, 1), Pace({}, 0.0)))["for so few images"] == prepared.fitted


@pytest.mark.slow
def test_a_small_folder_gives_a_useful_network_and_little_training_says_so(images: ImageData, tmp_path: Path) -> None:
    few = ["population=4", "generations=1", "stages=2", "objective=macs", "epochs=1,1,1", "calibration_images=48"]
    request = Request("hnas", data=images, limits=["macs<=1.5M"], preset="small", settings=few)
    result = json.loads((search(request, tmp_path / "run").path / "result.json").read_text())
    assert result["chosen"]["test_accuracy"] >= 0.8  # 25 % with the preset's own 7 epochs of two steps
    assert result["fitted"].endswith("final_epochs 7 -> 58, final_lr 0.3 -> 0.106")
    assert not any("largest class every time" in doubt for doubt in result["doubts"])

    hurried = Request("hnas", data=images, preset="small", settings=[*few, "final_epochs=1", "final_lr=1e-4"])
    run = search(hurried, tmp_path / "hurried").path
    result = json.loads((run / "result.json").read_text())
    said = " ".join(result["doubts"])
    assert "largest class every time" in said
    assert "hardly above chance" in said
    assert "chosen by the program" in said
    page = (run / "report.html").read_text()
    assert page.index('class="doubts"') < page.index("Asked, predicted, measured")
    assert "naming the largest class every time" in page

"""`hiernas vital`: spaces, networks, files, runs and exported programs; and what is left of a run without each block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from hiernas.cli import app
from hiernas.commands import VitalOptions
from hiernas.commands.vital import Listing, listing, reset, reset_table
from hiernas.costs.tables import cost
from hiernas.data import ImageData
from hiernas.errors import ConfigError, HiernasError, RunError, SpaceError
from hiernas.export import export
from hiernas.randomness import seeded
from hiernas.run.folder import RunFolder
from hiernas.space import Architecture
from hiernas.spaces import known, tiny
from hiernas.train.loop import accuracy

SITES = ("k3_e3", "skip", "k5_e3", "skip", "k3_e6", "k3_e3", "k5_e6", "skip")
LISTED = ["stem", "stage1.block1", "stage2.block1", "stage3.block1", "stage3.block2", "stage4.block1", "head", "classifier"]
VITAL = ["stem", "stage2.block1", "stage3.block1", "stage4.block1", "head", "classifier"]


def listed(source: object, **options: Any) -> Listing:
    return listing(VitalOptions(source=str(source), **options))


def reset_of(run: Path, progress: Any = None, **options: Any) -> dict[str, Any]:
    return reset(VitalOptions(source=str(run), reset=True, **options), progress)


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return tiny().architecture(SITES)


@pytest.fixture(scope="module")
def network(architecture: Architecture) -> nn.Module:
    with seeded(0, "test"):
        network = architecture.build()
        network(torch.randn(64, 1, 8, 8))  # statistics
    return network.eval()


@pytest.fixture
def run(architecture: Architecture, network: nn.Module, digits: ImageData) -> Path:
    """The folder of a run whose network was trained (here: by nobody)."""
    asked = {"source": "digits", "image_size": None, "val_per_class": None, "skip_bad_images": False, "seed": 0}
    folder = RunFolder.create("run", {"method": "train", "seed": 0, "data": {**asked, "fingerprint": digits.fingerprint}})
    folder.close()
    architecture.save(folder.path / "best.json")
    save_file(network.state_dict(), folder.path / "best.safetensors")
    return folder.path


def test_a_file_a_run_and_its_program(architecture: Architecture, network: nn.Module, run: Path) -> None:
    whole = cost(architecture)
    listings = [listed(path) for path in (run, run / "best.json")]
    export(network, torch.randn(2, 1, 8, 8), Path("mine.pt2"), "pt2")
    listings.append(listed("mine.pt2"))
    for found in listings:
        assert [b.vital for b in found.blocks] == [name in VITAL for name in LISTED]
        assert (found.total().params, found.total().macs) == (whole.params, whole.macs)
    assert [b.name for b in listings[0].blocks] == LISTED
    assert listings[0].remarks == ("left out, since 'skip' was chosen: stage1.block2, stage2.block2, stage4.block2",)
    assert [b.count for b in listings[0].blocks] == [b.count for b in listings[2].blocks]


def test_sums_and_shares(run: Path) -> None:
    result = CliRunner().invoke(app, ["vital", str(run)])
    rows = [line.split() for line in result.stdout.splitlines()]
    whole = listed(run).total()
    blocks = {row[0]: row for row in rows if row and row[0] in LISTED}
    assert [row[0] for row in rows if row and row[0] in LISTED] == LISTED
    assert [name for name, row in blocks.items() if row[1] == "vital"] == VITAL
    params = {name: int(row[-4].replace(",", "")) for name, row in blocks.items()}
    macs = {name: int(row[-2].replace(",", "")) for name, row in blocks.items()}
    assert (sum(params.values()), sum(macs.values())) == (whole.params, whole.macs)
    vital = sum(params[name] for name in VITAL)
    total = next(row for row in rows if row[:2] == ["vital", "blocks"])
    assert total[2:4] == [f"{vital:,}", f"{100 * vital / sum(params.values()):.1f}%"]
    assert next(row for row in rows if row[:1] == ["all"])[2] == "100.0%"


def test_names_of_spaces_and_networks() -> None:
    space = listed("tiny", input_size="3,32,32", num_classes=5)
    assert "a space: every block counts with its largest operation" in space.remarks
    assert space.title == "tiny for images of (3, 32, 32) in 5 classes"
    small = listed("fbnet-c", input_size="3,32,32", num_classes=10)
    expected = cost(known("fbnet-c", (3, 32, 32), 10))
    assert (small.total().params, small.total().macs) == (expected.params, expected.macs)
    assert [b.name for b in small.blocks if b.vital][1:-2] == [f"stage{i}.block1" for i in range(2, 8)]
    slim = listed("proxyless", input_size="3,32,32", num_classes=10, settings=["space.widths=gpu"])
    assert slim.blocks[0].count.params == 3 * 40 * 9 + 2 * 40  # the stem of 'gpu' is 40 wide


def test_what_is_left_without_each_block(run: Path, network: nn.Module, digits: ImageData) -> None:
    seen = []
    found = reset_of(run, draws=2, images=30, progress=lambda done, of: seen.append(done / of))
    assert seen[-1] == 1.0
    assert found == json.loads((run / "vital.json").read_text())
    assert [b["name"] for b in found["blocks"]] == LISTED
    assert [b["reset"] == "whole output" for b in found["blocks"]] == [name in VITAL for name in LISTED]
    assert (found["images"], found["probabilities"], found["draws"]) == (30, [0.3, 0.6, 1.0], 2)
    assert [len(each) for each in found["blocks"][0]["accuracies"]] == [2, 2, 1]
    picture = (run / "vital.svg").read_text()
    assert picture.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert all(name in picture for name in LISTED)
    assert "@media" in picture  # light and dark
    assert reset_of(run, draws=2, images=30) == found  # same seed, same numbers
    assert reset_of(run, draws=2, images=30, seed=1) != found
    whole = reset_of(run, draws=1, images=10_000)
    assert (whole["images"], whole["accuracy"]) == (len(digits.test), accuracy(network, digits.test, digits))


def test_the_table_of_what_is_lost() -> None:
    block = {"name": "stem", "vital": True, "reset": "whole output", "accuracies": [[0.9, 0.8], [0.5, 0.95], [0.1]]}
    result = {"accuracy": 0.95, "images": 359, "draws": 2, "probabilities": [0.3, 0.6, 1.0], "blocks": [block]}
    head, rows, remarks = reset_table(result, Path("run"))
    assert [h.strip() for h in head] == ["block", "", "reset", "p = 0.3", "p = 0.6", "p = 1"]
    assert [cell.strip() for cell in rows[0]] == ["stem", "vital", "output", "10.0 (5.0 to 15.0)", "22.5 (0.0 to 45.0)", "85.0"]
    assert "accuracy 95.00% on 359 test images" in remarks[1]


def test_the_command_resets(run: Path) -> None:
    result = CliRunner().invoke(app, ["vital", str(run), "--reset", "--draws", "1", "--images", "20"])
    assert result.exit_code == 0, result.exception
    assert "wrote run/vital.svg and run/vital.json" in result.stdout


def failing(*arguments: str) -> Exception:
    error = CliRunner().invoke(app, ["vital", *arguments]).exception
    assert isinstance(error, HiernasError)
    return error


def test_mistakes_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"'darts' is a space of cells; .*one network of cells"):
        listed("darts")
    with pytest.raises(SpaceError, match=r"there is no space, network, file or run 'fbnett'; did you mean 'fbnet'\?"):
        listed("fbnett")
    (tmp_path / "text.json").write_text("[1, 2]")
    with pytest.raises(SpaceError, match=r"text\.json is not an architecture"):
        listed("text.json")
    (tmp_path / "text.pt2").write_text("no program")
    with pytest.raises(SpaceError, match=r"text\.pt2 cannot be read as a program of torch\.export: .*--to pt2"):
        listed("text.pt2")
    with pytest.raises(SpaceError, match=r"none\.pt2 cannot be read as a program of torch\.export: there is no such file"):
        listed("none.pt2")
    with pytest.raises(ConfigError, match=r"text\.pt2 says its own image size"):
        listed("text.pt2", num_classes=3)
    with pytest.raises(ConfigError, match="says its own image size, classes and space"):
        listed("run", input_size="3,32,32")
    with pytest.raises(SpaceError, match=r"space 'tiny' has no setting 'space\.width'"):
        listed("tiny", settings=["space.width=3"])
    assert "--draws, --images and --seed are for --reset" in str(failing("tiny", "--seed", "3"))
    assert "takes --set space.KEY=VALUE only" in str(failing("tiny", "--set", "epochs=3"))
    assert "--reset takes a run folder" in str(failing("tiny", "--reset"))
    (run / "best.safetensors").unlink()
    with pytest.raises(RunError, match="run has no trained network yet; go on with `hiernas resume run`"):
        reset_of(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="empty is not a run folder"):
        reset_of(tmp_path / "empty")

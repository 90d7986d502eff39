"""`hiernas export --to python` on an architecture file and its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from generated import computes, imported, noise, trained
from safetensors.torch import save_file
from typer.testing import CliRunner

from hiernas.cli import app
from hiernas.commands.export import export_network
from hiernas.errors import ConfigError, RunError
from hiernas.spaces import tiny

SITES = ("k3_e3", "skip", "k5_e3", "skip", "k3_e6", "k3_e3", "k5_e6", "skip")


def test_an_architecture_file_becomes_a_python_file(tmp_path: Path) -> None:
    architecture = tiny().architecture(SITES)
    network = trained(architecture.build())
    architecture.save(tmp_path / "mine.json")
    save_file(network.state_dict(), tmp_path / "mine.safetensors", {"mean": "[0.3]", "classes": json.dumps(list("0123456789"))})
    shown = export_network(tmp_path / "mine.json", "python", None, None)
    assert shown["file"] == str(tmp_path / "best.py")
    assert shown["weights"] == str(tmp_path / "best.pt")
    assert "on 16 inputs of noise" in shown["parity"]
    assert shown["timm"] == (
        "arch_def=[['ir_r1_k3_s1_e3_c16'], ['ir_r1_k5_s1_e3_c24'], ['ir_r1_k3_s1_e6_c40', 'ir_r1_k3_s1_e3_c40'], "
        "['ir_r1_k5_s2_e6_c80']], stem_size=16, num_features=160, activation relu6, batch-norm eps 1e-05, "
        "then conv_stem.stride = (1, 1)"
    )
    module = imported(tmp_path / "best.py")
    assert torch.equal(computes(module.load(), noise((1, 8, 8))), computes(network, noise((1, 8, 8))))
    assert {"input_size": [1, 8, 8], "mean": [0.3], "classes": list("0123456789")} == module.METADATA

    mistaken = CliRunner().invoke(app, ["export", str(tmp_path / "mine.json"), "--to", "pyhton"])
    assert str(mistaken.exception) == "unknown format 'pyhton'; did you mean 'python'?"
    with pytest.raises(ConfigError, match=r"a file for python is named NAME\.py"):
        export_network(tmp_path / "mine.json", "python", tmp_path / "mine.safetensors", None)
    with pytest.raises(ConfigError, match="it is a folder; name a file"):
        export_network(tmp_path / "mine.json", "python", tmp_path, None)
    with pytest.raises(RunError, match=r"there are no weights at .*none\.safetensors; train the network first"):
        export_network(tmp_path / "mine.json", "python", None, tmp_path / "none.safetensors")
    files = sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__")  # of best.py, imported above
    assert files == ["best.pt", "best.py", "mine.json", "mine.safetensors"]

"""Generated Python files against the networks they were made of, and what is refused."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generated import computes, imported, noise, trained, written
from safetensors.torch import save_file
from torch import Tensor, nn

from hiernas import spaces
from hiernas.errors import ConfigError, ExportError
from hiernas.export import export
from hiernas.networks.ops import ChannelShuffle, MBConv, Op, Residual, Skip, SqueezeExcite
from hiernas.networks.parts import Mixture
from hiernas.space import Architecture, SearchSpace
from hiernas.spaces import Stage, chain_space
from toy import toy_space

formats = importlib.import_module("hiernas.export")  # `hiernas.export` is a function

METADATA = {"classes": json.dumps(['<b>"""', "né\\", "x" * 60]), "mean": "[0.3]", "std": "[0.25]", "note": "plain text"}


def se_silu() -> SearchSpace:
    ops = (MBConv(3, 4, se=True, act="silu"), MBConv(5, 6, se=True, act="silu"), MBConv(3, 6, act="hswish"))
    stages = [Stage(16, 2, 2, ops, skip=True), Stage(24, 2, 1, ops, skip=True)]
    return chain_space("se_silu", (3, 16, 16), 7, stem=8, stages=stages, head=32, act="silu", dropout=0.2, bn_eps=1e-3)


SPACES = {
    "toy": toy_space,
    "tiny": spaces.tiny,
    "proxyless": lambda: spaces.proxyless((3, 64, 64), 10),
    "nasbench_macro": spaces.nasbench_macro,
    "fbnet": lambda: spaces.fbnet((3, 32, 32), 100),
    "mnasnet": lambda: spaces.mnasnet((3, 32, 32), 10),
    "se_silu": se_silu,
    "darts": lambda: spaces.darts((3, 16, 16), 10, channels=4, cells=5),
    "darts with pooling's batch norms": lambda: spaces.darts((3, 16, 16), 10, channels=4, cells=5, search=True),
}


@pytest.mark.parametrize("name", SPACES)
def test_file_computes_what_the_network_computes(name: str, tmp_path: Path) -> None:
    space = SPACES[name]()
    for i, architecture in enumerate(space.sample(np.random.default_rng(seed)) for seed in (0, 1)):
        network = trained(architecture.build()) if "batch norms" not in name else architecture.build().eval()
        text, module = written(network, tmp_path / str(i), architecture)
        again, x = module.load(), noise(space.skeleton.input_size)
        assert torch.equal(computes(again, x), computes(network, x))
        assert not again.training
        assert list(again.state_dict()) == list(network.state_dict())  # so that our safetensors fit
        assert list(module.build().state_dict()) == list(network.state_dict())
        assert "hiernas" not in text.replace("HierNAS", "")
        assert max(map(len, text.splitlines())) <= 128


def mixed() -> Architecture:
    ops = tuple(MBConv(k, e, se=se) for k in (3, 5, 7) for e in (3, 6) for se in (False, True))
    space = chain_space("mixed", (3, 8, 8), 4, stem=8, stages=[Stage(8, 3, 1, ops, skip=True)], head=16)
    every = {name: 0.1 * i for i, name in enumerate(space.decisions[0].options, 1)}
    return space.architecture([every, {"k3_e3": 0.25, "skip": 0.75}, {"k5_e6_se": 0.5}])


def test_sites_that_keep_several_options(tmp_path: Path) -> None:
    architecture = mixed()
    network = trained(architecture.build())
    text, module = written(network, tmp_path, architecture)
    x = noise((3, 8, 8))
    assert torch.equal(computes(module.load(), x), computes(network, x))
    assert module.build().stage1_block1.weights == tuple(0.1 * i for i in range(1, 14))
    assert '"stage1_block3": Mixture(nn.ModuleList([MBConv(5, 6, se=True).build(8, 8, 1)]), (0.5,))' in text
    assert "timm cannot build this network: 'stage1_block1' is a weighted sum" in text
    assert max(map(len, text.splitlines())) <= 128


def test_the_table_says_what_was_chosen(tmp_path: Path) -> None:
    architecture = spaces.mnasnet((3, 64, 64), 10).sample(np.random.default_rng(3))
    _, module = written(trained(architecture.build()), tmp_path, architecture)
    rows = {name: row for name, *row in module.LAYERS if name.startswith("stage")}
    widths = [16, *(width for width in (24, 40, 80, 112, 160) for _ in range(4)), 320]
    for site, option in architecture.to_json()["sites"].items():
        operation, _, cout, stride = rows.pop(site.replace(".", "_"))
        found = re.fullmatch(r"k(\d)_e(\d)(_se)?", option)
        if found:
            wanted = module.MBConv(int(found[1]), int(found[2]), se=found[3] is not None, act="relu")
        else:
            wanted = module.Skip("relu")
        assert operation == wanted
        assert [cout, stride] == [widths.pop(0), 2 if ".block1" in site and site[5] in "2346" else 1]
    assert not rows
    assert [name for name, *_ in module.LAYERS if "." in name] == ["stem.0", "head.0", "head.1"]
    assert [row[2:] for row in module.LAYERS if "." in row[0]] == [(3, 32, 1), (320, 1280, 1), (1280, 10, 1)]


def test_only_what_the_network_uses_is_there(tmp_path: Path) -> None:
    def names(*ops: Op) -> set[str]:
        space = chain_space("one", (3, 8, 8), 4, stem=8, stages=[Stage(8, len(ops), 1, ops)], head=16)
        architecture = space.architecture([op.name for op in ops])
        text, _ = written(architecture.build(), tmp_path, architecture)
        return set(re.findall(r"^(?:def|class) (\w+)", text, re.M))

    blocks = {"conv_bn", "Conv", "MBConv", "Residual", "SqueezeExcite", "ChannelShuffle", "Classifier"}
    assert names(MBConv(3, 3), MBConv(5, 6)) == blocks | {"build", "load", "to_timm"}
    assert names(MBConv(3, 3), MBConv(5, 1, groups=2)) == blocks | {"build", "load"}
    assert names(MBConv(3, 3), Skip()) == blocks | {"Skip", "build", "load", "to_timm"}


def test_every_setting_of_a_block_is_written(tmp_path: Path) -> None:
    settings = itertools.product((3, 5), (1, 4), (False, True), ("relu", "silu"), (1, 2), (False, True))
    every = [MBConv(k, e, se, act, groups, keep) for k, e, se, act, groups, keep in settings]
    for i, ops in enumerate([every, every[:2], [MBConv(3, 1, True, "hswish", 2, True)], [MBConv(3, 1, keep_1x1=True)]]):
        stages = [Stage(8 + 4 * (j % 3), 1, 1, (op,)) for j, op in enumerate(ops)]
        space = chain_space("all", (3, 8, 8), 4, stem=8, stages=stages, head=16, act="relu")
        architecture = space.architecture([op.name for op in ops])
        network = trained(architecture.build())
        _, module = written(network, tmp_path / str(i), architecture)
        assert str(module.build()) == str(network)
        x = noise((3, 8, 8))
        torch.testing.assert_close(computes(module.load(), x), computes(network, x), rtol=0, atol=0)


def test_file_runs_from_a_clean_folder_with_its_metadata(tmp_path: Path) -> None:
    architecture = toy_space().architecture(["k5_e2", "k7_e2"])
    network = trained(architecture.build())
    x = noise((3, 16, 16), 16)
    (tmp_path / "made").mkdir()
    done = export(network, x, tmp_path / "made" / "net.py", "python", METADATA, architecture)
    assert (done.path.name, done.weights) == ("net.py", tmp_path / "made" / "net.pt")
    assert done.largest_difference < 1e-5
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["net.pt", "net.py"]

    clean = tmp_path / "clean"
    clean.mkdir()
    for path in (done.path, done.weights):
        shutil.copy(path, clean)
    shown = subprocess.run([sys.executable, "-I", clean / "net.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("image (1, 3, 16, 16) -> logits (1, 4)\n", "")

    module = imported(clean / "net.py")
    values = {"classes": ['<b>"""', "né\\", "x" * 60], "mean": [0.3], "std": [0.25], "note": "plain text"}
    read = module.METADATA
    assert read == {"input_size": [3, 16, 16], **values}
    counted = sum(p.numel() for p in network.parameters())
    assert f"params   {counted:,}\n" in module.__doc__
    assert "options  k5_e2 k7_e2" in module.__doc__
    assert "mean [0.3], std [0.25]" in module.__doc__
    state = torch.load(clean / "net.pt", weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    save_file(trained(network, seed=9).state_dict(), clean / "other.safetensors")  # weights go round
    assert torch.equal(computes(module.load(clean / "other.safetensors"), x), computes(network, x))


# -- what is refused -------------------------------------------------------------------------------------------------


def breaks(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    """From here on, files have something wrong in the place of something right."""
    made = formats.python_files

    def files(*given: Any) -> tuple[bytes, bytes]:
        source, weights = made(*given)
        assert right.encode() in source
        return source.replace(right.encode(), wrong.encode()), weights

    monkeypatch.setattr(formats, "python_files", files)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("AdaptiveMaxPool2d(1)", r"the python file computes something else .* differ by"),
        ("NoSuchPool(1)", r"the python file does not run by itself: AttributeError: .*NoSuchPool.*; no file was written"),
        ("AdaptiveAvgPool2d(__import__('hiernas') and 1)", r"does not run by itself: ModuleNotFoundError: .*hiernas"),
    ],
)
def test_broken_files_are_not_written(wrong: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, "AdaptiveAvgPool2d(1)", wrong)
    for name in ("best.py", "best.pt"):
        (tmp_path / name).write_text("an older file")
    architecture = toy_space().architecture(["k3_e2", "skip"])
    with pytest.raises(ExportError, match=message):
        export(trained(architecture.build()), noise((3, 16, 16)), tmp_path / "best.py", "python", {}, architecture)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(["best.py", "best.pt"], "an older file")


def test_names_and_places_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval(), noise((3, 8, 8))
    with pytest.raises(ConfigError, match=r"a file for python is named NAME\.py, and its weights beside it NAME\.pt.*best\.pt"):
        export(network, x, tmp_path / "best.pt", "python")
    with pytest.raises(ConfigError, match=r"cannot export to 'pyton'; did you mean 'python'\?"):
        export(network, x, tmp_path / "best.py", "pyton")
    breaks(monkeypatch, "def load(", "def other(")
    with pytest.raises(ExportError, match=r"does not run by itself: AttributeError: .* has no attribute 'load'"):
        export(network, x, tmp_path / "best.py", "python")
    assert list(tmp_path.iterdir()) == []


# -- other modules ---------------------------------------------------------------------------------------------------


def half(x: Tensor) -> Tensor:
    return 0.5 * x


class Scaled(nn.Module):
    """A module with a parameter, a buffer and a function of its own."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))
        self.register_buffer("shift", torch.rand(channels, 1, 1))
        self.function, self.tags = half, {"a": (1, 2.5), "b": [None, "é"]}

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.scale * self.body(x) + self.shift + self.tags["a"][1])


class Strange:
    """An operation of a user's own, no dataclass: its arguments are attributes."""

    def __init__(self, kernel: int, kind: type[nn.Module] = Scaled) -> None:
        self.name, self.kernel, self.kind = f"strange{kernel}", kernel, kind

    def describe(self) -> str:
        return self.name

    def build(self, cin: int, cout: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(cin, cout, self.kernel, stride, self.kernel // 2, padding_mode="reflect")
        return self.kind(nn.Sequential(conv, nn.GroupNorm(2, cout), nn.LeakyReLU(0.2), nn.Softplus(beta=2.0)), cout)


def strange_space(*ops: Strange) -> SearchSpace:
    stages = [Stage(8, 2, 2, ops), Stage(12, 2, 1, (*ops, MBConv(3, 3)))]
    return chain_space("strange", (3, 16, 16), 4, stem=8, stages=stages, head=16)


def test_operations_of_a_users_own(tmp_path: Path) -> None:
    architecture = strange_space(Strange(3), Strange(5)).architecture(["strange3", "strange5", "strange5", "k3_e3"])
    network = trained(architecture.build())
    text, module = written(network, tmp_path, architecture)
    x = noise((3, 16, 16))
    assert torch.equal(computes(module.load(), x), computes(network, x))
    assert text.count("class Scaled(nn.Module)") == text.count("def half(") == 1
    assert text.count("class Strange:") == text.count("padding_mode") == 1
    assert '("stage1_block1", Strange(3),' in text
    assert "'stage1_block1' is a 'strange3', which timm has no block for" in text


class NeedsNumpy(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(np.sqrt(2.0))


class Secret(Strange):
    def __init__(self, kernel: int, secret: object = None) -> None:
        super().__init__(kernel)
        self.secret = object()


class Forgetful(Strange):
    def __init__(self, width: int) -> None:
        super().__init__(width)


def test_operations_that_cannot_be_written_are_named_with_the_reason(tmp_path: Path) -> None:
    x = noise((3, 16, 16))
    for op, message in (
        (Strange(3, NeedsNumpy), r"'NeedsNumpy' imports 'numpy', which a file that needs PyTorch only cannot do"),
        (Secret(3), r"a value of type object, which has no plain form"),
        (Forgetful(3), r"a Forgetful does not say which 'width' it was made with"),
    ):
        architecture = strange_space(op).architecture(["strange3"] * 4)
        with pytest.raises(ExportError, match=rf"^the network cannot be written .* its operation 'strange3': {message}"):
            export(trained(architecture.build()), x, tmp_path / "best.py", "python", {}, architecture)

    class Local(nn.Identity):
        pass

    with pytest.raises(ExportError, match=r"^the network cannot be written .*Local.* not defined at the top"):
        export(nn.Sequential(Local(), nn.Flatten()), x, tmp_path / "best.py", "python")
    assert list(tmp_path.iterdir()) == []


def test_any_network_without_its_architecture(tmp_path: Path) -> None:
    network = trained(nn.Sequential(
        nn.Conv2d(3, 8, (3, 1), padding=(1, 0), bias=False), nn.BatchNorm2d(8, eps=1e-2), nn.PReLU(8),
        Residual(nn.Sequential(ChannelShuffle(2), Mixture([nn.Identity(), nn.ReLU()], [0.5, 2.0]), nn.ZeroPad2d((0, 0, 0, 0)))),
        nn.Upsample(scale_factor=2.0), nn.MaxPool2d(3, stride=2), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(),
        nn.LayerNorm((32,)), nn.Linear(32, 5, bias=False),
    ))  # fmt: skip
    text, module = written(network, tmp_path)
    assert str(module.build()) == str(network)
    assert torch.equal(computes(module.load(), noise((3, 8, 8))), computes(network, noise((3, 8, 8))))
    assert "nn.Conv2d(3, 8, (3, 1), padding=(1, 0), bias=False)" in text
    assert "Mixture(nn.ModuleList([nn.Identity(), nn.ReLU()]), (0.5, 2.0))" in text
    with pytest.raises(ExportError, match="a SqueezeExcite does not say which 'channels' it was made with; export to onnx"):
        written(nn.Sequential(SqueezeExcite(3, 2, "silu"), nn.Flatten()), tmp_path)


def test_a_cell_network_is_written_as_kinds_of_cells(tmp_path: Path) -> None:
    space = spaces.darts((3, 16, 16), 10, channels=4, cells=20, auxiliary=True)
    architecture = space.sample(np.random.default_rng(0))
    network = trained(architecture.build())
    text, module = written(network, tmp_path, architecture)
    calls = re.findall(r"^ +Cell\(.+ (edges\d)\(\d+\)", text, re.M)
    assert (len(calls), sorted(set(calls))) == (20, ["edges1", "edges2"])  # of two kinds
    x = noise((3, 16, 16))
    assert torch.equal(computes(module.load(), x), computes(network, x))
    assert "AuxiliaryHead" not in text  # which only training needs
    save_file(network.state_dict(), tmp_path / "whole.safetensors")
    assert torch.equal(computes(module.load(tmp_path / "whole.safetensors"), x), computes(network, x))


def test_written_files_are_clean(tmp_path: Path) -> None:
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    networks = [mixed(), strange_space(Strange(3)).architecture(["strange3"] * 4), spaces.known("fbnet-a")]
    networks += [spaces.darts((3, 16, 16), 10, channels=4).sample(np.random.default_rng(0)), spaces.known("mnasnet-a1")]
    for i, architecture in enumerate(networks):
        written(trained(architecture.build()), tmp_path / str(i), architecture, metadata=METADATA)
    rules = "E,F,W,I,B,UP,C4,SIM,RUF,PIE,RET"
    command = [ruff, "check", "--isolated", "--no-cache", "--line-length", "128", "--select", rules, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout

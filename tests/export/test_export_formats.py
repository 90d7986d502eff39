"""Exported files against runtimes that are asked directly, and what is refused."""

from __future__ import annotations

import copy
import importlib
import io
import json
import logging
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hiernas.errors import ConfigError, ExportError
from hiernas.export import export
from hiernas.host import quiet
from hiernas.names import FORMATS
from hiernas.networks.ops import MBConv
from hiernas.spaces import Stage, chain_space

METADATA = {"classes": json.dumps(["<b>", "né", "2"]), "mean": "[0.3]", "std": "[0.25]"}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    stages = (Stage(12, 2, 1, (MBConv(3, 3),), skip=True), Stage(16, 1, 2, (MBConv(5, 2),)))  # residual blocks and others
    space = chain_space("own", (1, 8, 8), 10, stem=8, stages=stages, head=24)
    net = space.architecture(["k3_e3", "skip", "k5_e2"]).build()
    generator = torch.Generator().manual_seed(1)
    for m in net.modules():  # statistics of a trained network, so that folding them is not a matter of course
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2, generator=generator)
            m.running_var.uniform_(0.5, 2, generator=generator)
    return net


@pytest.fixture(scope="module")
def images() -> Tensor:
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().images[:7]).float() / 16
    return ((pixels - 0.3) / 0.25)[:, None]


@pytest.fixture(scope="module")
def plain(network: nn.Module, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file, made with a batch of one."""
    return export(network, images[:1], tmp_path_factory.mktemp("plain") / "best.onnx", "onnx", METADATA).path


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    """What the network computes in evaluation mode, its mode put back."""
    was = network.training
    with torch.no_grad():
        expected = network.eval()(images)
    network.train(was)
    return expected


def test_a_network_as_training_leaves_it_gives_the_same_file(
    network: nn.Module, images: Tensor, plain: Path, tmp_path: Path
) -> None:
    """Trainings keep weights in the layout of channels last, and files of weights do not."""
    trained = copy.deepcopy(network).to(memory_format=torch.channels_last)
    strides = [p.stride() for p in trained.parameters()]
    assert strides != [p.stride() for p in network.parameters()]
    export(trained, images, tmp_path / "trained.onnx", "onnx", METADATA)
    expected, found = onnx.load(plain), onnx.load(tmp_path / "trained.onnx")
    assert [node.op_type for node in found.graph.node] == [node.op_type for node in expected.graph.node]
    assert "Gather" not in {node.op_type for node in found.graph.node}
    assert strides == [p.stride() for p in trained.parameters()]  # the network is as it was


def test_onnx_computes_what_pytorch_computes(network: nn.Module, images: Tensor, tmp_path: Path, capfd) -> None:
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    done = export(network, images, tmp_path / "new" / "best.onnx", "onnx", METADATA)
    assert (done.path, done.format) == (tmp_path / "new" / "best.onnx", "onnx")

    session = onnxruntime.InferenceSession(done.path.read_bytes(), providers=["CPUExecutionProvider"])
    expected = outputs(network, images)
    for n in (1, 3, 7):
        found = session.run(["logits"], {"image": images[:n].numpy()})[0]
        np.testing.assert_allclose(found, expected[:n], atol=1e-4 * float(expected.abs().max()))
    largest = float((torch.from_numpy(found) - expected).abs().max() / max(1, expected.abs().max()))
    assert done.largest_difference == pytest.approx(largest, abs=2e-7)

    assert network.training  # the network is as it was
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert [p.name for p in done.path.parent.iterdir()] == ["best.onnx"]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_onnx_file_says_what_it_needs(plain: Path) -> None:
    model = onnx.load(plain)
    onnx.checker.check_model(model, full_check=True)
    assert {p.key: p.value for p in model.metadata_props} == {**METADATA, "input_size": "[1, 8, 8]"}
    (entry,), (result,) = model.graph.input, model.graph.output
    sizes = [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim]
    assert (entry.name, result.name, sizes) == ("image", "logits", ["batch", 1, 8, 8])
    weights = sum(np.prod(i.dims) for i in model.graph.initializer)
    assert len(plain.read_bytes()) < 4 * weights + 60_000  # no external file, no notes of the exporter
    assert b".py" not in plain.read_bytes()  # which name folders of the machine it was made on


def test_pt2_computes_what_pytorch_computes(network: nn.Module, images: Tensor, tmp_path: Path) -> None:
    done = export(network, images, tmp_path / "best.pt2", "pt2", METADATA)
    found: dict[str, str] = {"metadata.json": ""}
    module = torch.export.load(io.BytesIO(done.path.read_bytes()), extra_files=found).module()
    with torch.no_grad():
        for n in (1, 7):
            torch.testing.assert_close(module(images[:n]), outputs(network, images)[:n])
    assert done.largest_difference < 1e-6
    assert json.loads(found["metadata.json"]) == {**METADATA, "input_size": "[1, 8, 8]"}
    with zipfile.ZipFile(done.path) as archive:
        assert not any(b".py" in archive.read(name) for name in archive.namelist())


def test_openvino_computes_what_pytorch_computes(network: nn.Module, images: Tensor, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    done = export(network, images, tmp_path / "best.xml", "openvino", METADATA)
    assert done.weights == tmp_path / "best.bin"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.bin", "best.xml"]
    model = openvino.Core().read_model(done.path)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for n in (1, 7):
        torch.testing.assert_close(torch.from_numpy(compiled(images[:n].numpy())[0]), outputs(network, images)[:n])
    assert done.largest_difference < 1e-6
    assert {k: model.get_rt_info(k).astype(str) for k in METADATA} == METADATA
    assert b".py" not in done.path.read_bytes()
    with pytest.raises(ConfigError, match=r"a file for openvino is named NAME\.xml, and its weights beside it NAME\.bin"):
        export(network, images, tmp_path / "best.openvino", "openvino")


def test_litert_computes_what_pytorch_computes(network: nn.Module, images: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    done = export(network, images, tmp_path / "best.tflite", "litert")
    interpreter = interpreters.Interpreter(model_path=str(done.path))
    run = interpreter.get_signature_runner()
    (name,) = run.get_input_details()
    for i in range(3):
        (found,) = run(**{name: images[i : i + 1].numpy()}).values()
        torch.testing.assert_close(torch.from_numpy(found), outputs(network, images)[i : i + 1])
    assert done.largest_difference < 1e-6


def test_executorch_computes_what_pytorch_computes(network: nn.Module, images: Tensor, tmp_path: Path) -> None:
    runtime = pytest.importorskip("executorch.runtime").Runtime.get()
    strided = images.to(memory_format=torch.channels_last)  # as they come from the data
    done = export(network, strided, tmp_path / "best.pte", "executorch")
    method = runtime.load_program(done.path).load_method("forward")
    for i in range(3):
        torch.testing.assert_close(method.execute([images[i : i + 1]])[0], outputs(network, images)[i : i + 1])
    assert done.largest_difference < 1e-6


PACKAGES = {"openvino": "openvino", "litert": "litert_torch", "executorch": "executorch.exir"}


@pytest.mark.parametrize(("to", "package"), PACKAGES.items())
def test_a_missing_package_is_named(
    to: str, package: str, network: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"^the runtime '{to}' cannot be loaded \(.*\); install it: pip install 'hiernas\[{to}\]'$"
    with pytest.raises(ExportError, match=message):
        export(network, images, tmp_path / f"best{FORMATS[to]}", to)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_shuffled_groups_and_squeezes(to: str, tmp_path: Path) -> None:
    op = MBConv(3, 2, se=True, act="silu", groups=2)
    space = chain_space("one", (3, 8, 8), 4, stem=8, stages=[Stage(8, 1, 1, (op,)), Stage(12, 1, 2, (op,))], head=16)
    network = space.architecture([op.name] * 2).build()
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    done = export(network, x, tmp_path / f"best.{to}", to)
    if to == "onnx":
        session = onnxruntime.InferenceSession(done.path.read_bytes(), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(["logits"], {"image": x[:3].numpy()})[0])
    else:
        found = torch.export.load(io.BytesIO(done.path.read_bytes())).module()(x[:3]).detach()
    torch.testing.assert_close(found, outputs(network, x)[:3], rtol=1e-4, atol=1e-5)


class Restless(nn.Module):
    """Computes something else at every call, as a network with a forgotten counter would."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x.flatten(1)) + 0.01 * self.calls


@pytest.mark.parametrize("to", ["onnx", "pt2"])  # Python files hold the module itself
def test_file_that_differs_is_not_written(to: str, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / f"best.{to}"
    path.write_text("an older file")
    with pytest.raises(ExportError, match=rf"the {to} file computes something else .* differ by \d.*1e-04 is allowed"):
        export(Restless(), images, path, to)
    assert path.read_text() == "an older file"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("shift", "fits"), [(0.9e-4, True), (1.1e-4, False)])
def test_tolerance_is_relative_to_the_largest_output(
    shift: float, fits: bool, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([50.0, -200.0]))
    formats = importlib.import_module("hiernas.export")  # `hiernas.export` is a function
    monkeypatch.setattr(formats, "_load_pt2", lambda data: lambda x: network(x).detach() + 200 * shift)
    if fits:
        assert export(network, images, tmp_path / "a.pt2", "pt2").largest_difference == pytest.approx(shift, rel=1e-2)
    else:
        with pytest.raises(ExportError, match=r"differ by 1\.1e-04"):
            export(network, images, tmp_path / "a.pt2", "pt2")


class Branching(nn.Module):
    """Depends on the values of its input: torch.export refuses it, tracing bakes one branch in."""

    def __init__(self, both: float) -> None:
        super().__init__()
        self.linear, self.both = nn.Linear(64, 3), both

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x.flatten(1))
        return y if float(x.sum()) > 1e9 else y * self.both


def test_older_exporter_takes_over(images: Tensor, tmp_path: Path, capfd) -> None:
    network = Branching(2.0)
    path = export(network, images, tmp_path / "a.onnx", "onnx").path
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for n in (1, 5):
        found = session.run(["logits"], {"image": images[:n].numpy()})[0]
        np.testing.assert_allclose(found, outputs(network, images)[:n], atol=1e-4)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ExportError, match=r"the network cannot be exported to pt2: \w+"):
        export(network, images, tmp_path / "a.pt2", "pt2")
    assert not (tmp_path / "a.pt2").exists()


def test_what_is_refused(images: Tensor, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ConfigError, match=r"cannot export to 'onxx'; did you mean 'onnx'\?"):
        export(network, images, tmp_path / "a", "onxx")
    with pytest.raises(ExportError, match=r"needs float32 images \[B, C, H, W\].*not uint8 \[7, 1, 8, 8\]"):
        export(network, images.to(torch.uint8), tmp_path / "a", "onnx")
    with torch.no_grad():
        network[1].bias[0] = torch.nan
    with pytest.raises(ExportError, match="output on the images is not finite"):
        export(network, images, tmp_path / "a", "pt2")
    with torch.no_grad():
        network[1].bias[0] = 0
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot write .*a\.pt2: "):
        export(network, images, tmp_path / "file" / "a.pt2", "pt2")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_loggers_are_put_back(images: Tensor, tmp_path: Path) -> None:
    logger = logging.getLogger("torch.onnx")
    logger.setLevel(logging.INFO)
    try:
        with quiet():
            assert logger.getEffectiveLevel() == logging.ERROR
        with pytest.raises(ExportError):
            export(Branching(2.0), images, tmp_path / "a.pt2", "pt2")
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(logging.NOTSET)

"""A network that was trained, ready for use: with its classes, and with what makes its input of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hiernas.data import ImageData, at_once, in_order, normalise
from hiernas.data.images import Form, Reader, decode_rows
from hiernas.data.sources import pictures
from hiernas.errors import UNREADABLE, DataError, RunError, validated
from hiernas.export import export_int8
from hiernas.run.folder import RunFolder
from hiernas.run.hub import fetched
from hiernas.space import Architecture, SearchSpace


class Prediction(NamedTuple):
    """What a network sees in a picture, and how sure it is."""

    label: str
    probability: float  # in 0..1, of the softmax


@dataclass(frozen=True)
class Facts:
    """What the header of a trained network's weights says: how its images were read, and what its outputs mean."""

    architecture: dict[str, Any]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int]


class TrainedNetwork(nn.Module):
    """A trained network as a module of pixels: uint8 [B, C, H, W] -> logits [B, classes].

    `network` is the plain module inside, which takes normalised images, float32.
    """

    def __init__(self, architecture: Architecture, network: nn.Module, facts: Facts) -> None:
        super().__init__()
        self.architecture, self.network, self.classes = architecture, network, facts.classes
        self.mean, self.std, self.input_size = facts.mean, facts.std, facts.input_size

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or (x.dtype, x.dim(), *x.shape[1:2]) != (torch.uint8, 4, self.input_size[0]):
            given = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            takes = f"a uint8 tensor [B, {', '.join(map(str, self.input_size))}] of pixels in 0..255"
            raise DataError(f"the network takes {takes}, and was given {given}; `predict` reads whatever holds pictures")
        return self.network(normalise(x, self, next(self.network.parameters()).device))

    def features(self, x: Tensor) -> list[Tensor]:
        """What a detector or a segmentation head builds upon: the last feature map of each resolution, from fine to coarse.

        uint8 [B, C, H, W] -> [B, c, h, w] each. Gradients flow, so that it can be trained further.
        """
        maps: dict[torch.Size, Tensor] = {}
        parts = [part for child in self.network.children() for part in (child if isinstance(child, nn.ModuleList) else [child])]
        hooks = [part.register_forward_hook(lambda _, __, out: maps.update({out.shape[2:]: out})) for part in parts]
        try:
            self(x)
        finally:
            for hook in hooks:
                hook.remove()
        return [found for size, found in maps.items() if len(size) == 2]

    def predict(self, images: Any) -> list[Prediction]:
        """The most probable class of each picture.

        `images`: a file, a folder (all pictures below it), a Pillow image, an array [H, W, C] or a tensor [C, H, W] of uint8 or
        of floats in 0..1, or a sequence of these. Each is read, scaled and cut as the training's images were.
        Raises `DataError` where one cannot be read.
        """
        found = self.probabilities(pictures(images))
        return [self.named(row) for _, row in found if not isinstance(row, str)]

    def named(self, probabilities: Tensor) -> Prediction:
        """The most probable class of a picture: float32 [classes]."""
        at = int(probabilities.argmax())
        return Prediction(self.classes[at], float(probabilities[at]))

    @torch.no_grad()
    def probabilities(self, reader: Reader, skip_bad: bool = False) -> Iterator[tuple[str, Tensor | str]]:
        """Of each picture its name and float32 [classes]; with `skip_bad`, of one that cannot be read the reason."""
        self.eval()
        for batch in in_order(reader.count, at_once(self.input_size)):
            rows = batch.tolist()
            pixels, bad = decode_rows(reader, Form(*self.input_size), rows, skip_bad)
            found = self(torch.from_numpy(pixels)).softmax(1).cpu()
            yield from ((reader.name(row), bad.get(row, each)) for row, each in zip(rows, found, strict=True))


def load(source: str | Path, space: SearchSpace | None = None) -> TrainedNetwork:
    """The trained network of a run (`hiernas search`, `hiernas train`) or of its best.safetensors, which suffices alone.

    Or of hf:USER/NAME or hf:USER/NAME@REVISION, where `hiernas push` put one on the Hugging Face hub. `space` is needed where
    it was found in one of your own. Raises `RunError` where there is none yet, or it is damaged.
    """
    if not isinstance(source, str | Path):
        raise RunError(f"{source!r} is no run; name its folder, or the best.safetensors of one")
    path = fetched(source)
    if not path.exists():
        raise RunError(f"there is nothing at {path}; name a run folder, or the best.safetensors of one")
    if path.is_dir():
        RunFolder.open(path)  # says so where it is none
        path = path / "best.safetensors"
        if not path.exists():
            raise RunError(f"{path} is gone or not trained yet; go on with `hiernas resume {source}`")
    tensors, header = read_weights(path)
    keys = [f.name for f in fields(Facts)]
    for key in keys:
        if key not in header:
            raise RunError(f"{path} does not say its {key}; name a run folder, or the best.safetensors of one")
    text = ", ".join(f'"{key}": {header[key]}' for key in keys)
    facts = validated(Facts, f"{{{text}}}", f"{path} is damaged", RunError)
    architecture = Architecture.from_json(facts.architecture, space, source=str(path))
    skeleton = architecture.skeleton
    sizes = (skeleton.input_size[0],) * 2, skeleton.input_size, skeleton.num_classes
    if ((len(facts.mean), len(facts.std)), facts.input_size, len(facts.classes)) != sizes or min(facts.std) <= 0:
        raise RunError(f"{path} is damaged: its classes, input size and normalisation do not go together")
    return TrainedNetwork(architecture, _with_weights(architecture, tensors, path), facts)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a weights file and its header; one of a run must be as the run wrote it."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RunError(f"there are no weights at {path}; train the network first, or name the file with --weights")
    if (path.parent / "config.yaml").exists():
        RunFolder.open(path.parent).check(path.name)
    try:
        with safe_open(path, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, dict(f.metadata() or {})  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, *UNREADABLE) as error:
        way = "put it back, or name a run folder or the best.safetensors of one"
        raise RunError(f"{path} is damaged, or no file of weights ({error}); {way}") from error


def load_network(architecture: Architecture, weights: Path) -> tuple[nn.Module, dict[str, str]]:
    """The trained network of a weights file, and what the file says of it. Raises `RunError` where they do not fit."""
    tensors, header = read_weights(weights)
    return _with_weights(architecture, tensors, weights), header


def in_int8(run: RunFolder, network: nn.Module, data: ImageData, metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Write a run's network in INT8 to `path`; what that gains and loses is returned, and kept as int8.json."""
    found = export_int8(network, data, path, metadata, run.config.get("threads", 1))
    if path.parent == run.path:
        run.record(path.name)
    run.write_json("int8.json", found)
    return found


def _with_weights(architecture: Architecture, tensors: dict[str, Tensor], path: Path) -> nn.Module:
    network = architecture.build()
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(f"the weights in {path} are not of this architecture") from error
    return network.eval()

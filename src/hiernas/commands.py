"""What the commands other than search do, as functions that return what is to be shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hiernas.spaces
from hiernas.architecture import Architecture
from hiernas.costing import Source, architecture_file
from hiernas.costs.count import cost as count_cost
from hiernas.costs.runtimes import RUNTIMES
from hiernas.costs.tables import cost_tables
from hiernas.data import ImageData, load_data
from hiernas.data.batches import normalise
from hiernas.errors import ConfigError, ExportError, RunError, SpaceError, did_you_mean
from hiernas.export import FORMATS, SUFFIXES, export, timm_network
from hiernas.finish import inherited_weights, train_only
from hiernas.methods.hnas import PRESETS, HNASConfig
from hiernas.progress import number, quantity
from hiernas.randomness import torch_generator
from hiernas.run import METHODS, reload_data
from hiernas.runfolder import Listener, RunFolder, next_free
from hiernas.settings import from_dict, keys, to_dict, with_settings
from hiernas.spaces import known
from hiernas.train.recipes import Recipe
from hiernas.version import VERSION


def summary(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Lines and the asked / predicted / measured rows of a result."""
    chosen = result["chosen"]
    lines = [f"test accuracy {chosen['test_accuracy']:.2%} ({result['data']['name']}, {result['data']['test']} test images)"]
    if "front" not in result:
        return lines, []
    asked = {x["metric"]: x["text"] for x in result["limits"]}
    latency = chosen["latency_ms"]
    rows = [
        ["latency", asked.get("latency_ms", "-"), *(quantity("latency_ms", latency[k]) for k in ("predicted", "measured"))],
        ["params", asked.get("params", "-"), quantity("params", chosen["params"]), quantity("params", chosen["params"])],
        ["MACs", asked.get("macs", "-"), quantity("macs", chosen["macs"]), quantity("macs", chosen["macs"])],
        ["accuracy", "-", f"{chosen['val_accuracy']:.2%} (supernet)", f"{chosen['test_accuracy']:.2%} (test)"],
    ]
    error = result["latency_error"]
    if error:
        lines.append(
            f"latency predicted against measured over {error['networks']} networks: mean absolute error "
            f"{error['mean_absolute_percent']:.1f} %, bias {error['bias_percent']:+.1f} %"
        )
    elif result["device"]:
        lines.append(f"latency is of {result['device']['device']}; it cannot be measured on this machine")
    lines.append(f"Pareto front of {len(result['front'])} networks out of {result['evaluated']} evaluations")
    lines.append("chosen: " + " ".join(chosen["options"]))
    return lines, rows


# -- training ----------------------------------------------------------------------------------------------------------


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
    source: Path, *, data: str | None, inherit: bool, epochs: int | None, lr: float | None, preset: str | None,
    settings: Sequence[str], seed: int, out: Path | None, image_size: int | None, skip_bad_images: bool,
    listener: Listener,
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
    config = with_settings(_recipe_source(origin, preset), settings)
    images, asked = _training_data(origin, data, seed, image_size, skip_bad_images)
    architecture = architecture or known(str(source), images.input_size, images.num_classes)
    _fits(architecture, images)
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
    run = RunFolder.create(path, header, listener)
    if weights is not None:
        run.save_tensors("inherited", weights, {})
    return Training(path, run, images)


def _recipe_source(origin: RunFolder | None, preset: str | None) -> Any:
    if origin is not None and preset is None and "config" in origin.config:
        return from_dict(type(METHODS[origin.config["method"]].presets["paper"]), origin.config["config"])
    if origin is not None and preset is None:  # a run of `hiernas train`
        asked = origin.config["train"]
        recipe = from_dict(Recipe, asked["recipe"])
        return replace(HNASConfig(), train=recipe, final_epochs=asked["epochs"], final_lr=asked["lr"])
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


def _fits(architecture: Architecture, data: ImageData) -> None:
    wanted = (architecture.skeleton.input_size, architecture.skeleton.num_classes)
    if wanted != (data.input_size, data.num_classes):
        raise SpaceError(
            f"the architecture is for images of size {wanted[0]} in {wanted[1]} classes, but {data.name} has "
            f"{data.input_size} in {data.num_classes}; search on these images, or choose data that fit"
        )


# -- export ------------------------------------------------------------------------------------------------------------


def export_network(source: Path, to: str, out: Path | None, weights: Path | None) -> dict[str, str]:
    """Export the trained network of a run or an architecture file; what was written, by name."""
    if to not in FORMATS:
        raise ConfigError(f"unknown format '{to}'; {did_you_mean(to, FORMATS)}")
    architecture = architecture_file(source)
    folder = source if source.is_dir() else source.parent
    weights = weights or folder / (f"{source.stem}.safetensors" if source.is_file() else "best.safetensors")
    network, metadata = _load_network(architecture, weights)
    images, what = _parity_images(folder, architecture)
    path = out or folder / f"best{SUFFIXES[to]}"
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder; name a file" if path.is_dir() else f"the folder {path.parent} does not exist; make it first"
        raise ConfigError(f"--out {path}: {reason}")
    written = export(network, images, path, to, metadata, architecture)
    shown = {"file": str(written.path), "weights": str(written.weights)} if written.weights else {"file": str(written.path)}
    shown["parity"] = f"largest relative difference {written.largest_difference:.1e} on {what}"
    return {**shown, "timm": _in_timm(architecture)} if to == "python" else shown


def _in_timm(architecture: Architecture) -> str:
    """The arguments with which timm builds the network, or why it cannot."""
    try:
        found = timm_network(architecture)
    except ExportError as error:
        return f"timm cannot build this network: {error}"
    stages = [list(stage) for stage in found.arch_def]
    return (
        f"arch_def={stages}, stem_size={found.stem_size}, num_features={found.num_features}, activation {found.act}, "
        f"batch-norm eps {found.bn_eps:g}" + ", then conv_stem.stride = (1, 1)" * (found.stem_stride == 1)
    )


def _load_network(architecture: Architecture, weights: Path) -> tuple[nn.Module, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not weights.is_file():
        raise RunError(f"there are no weights at {weights}; train the network first, or name the file with --weights")
    network = architecture.build()
    try:
        with safe_open(weights, "pt") as f:
            network.load_state_dict({k: f.get_tensor(k) for k in f.keys()})  # noqa: SIM118 - not a dict
            metadata = dict(f.metadata() or {})
    except SafetensorError as error:
        raise RunError(f"{weights} is damaged and cannot be read: {error}") from error
    except RuntimeError as error:
        raise RunError(f"the weights in {weights} are not of this architecture") from error
    return network.eval(), metadata


def _parity_images(folder: Path, architecture: Architecture) -> tuple[torch.Tensor, str]:
    if (folder / "config.yaml").exists():
        data = reload_data(RunFolder.open(folder), None)
        indices = torch.arange(min(16, len(data.test)))
        return normalise(data.test.images.fetch(indices), data, torch.device("cpu")), f"{len(indices)} test images"
    noise = torch.randn(16, *architecture.skeleton.input_size, generator=torch_generator(0, "parity"))
    return noise, "16 inputs of noise (an architecture file names no images)"


# -- lists -------------------------------------------------------------------------------------------------------------


Listing = tuple[list[str], list[list[str]], list[str]]  # columns, rows, remarks below


def listing(kind: str) -> Listing:
    """What `hiernas list KIND` shows."""
    lists = {
        "methods": _methods,
        "spaces": _spaces,
        "networks": _networks,
        "data": _data,
        "runtimes": _runtimes,
        "presets": _presets,
    }
    if kind not in lists:
        raise ConfigError(f"there is no list of '{kind}'; {did_you_mean(kind, lists)}")
    return lists[kind]()


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def _methods() -> Listing:
    return ["method", ""], [[name, method.summary] for name, method in METHODS.items()], []


def _spaces() -> Listing:
    rows, remarks = [], []
    for name in hiernas.spaces.NAMES:
        function = getattr(hiernas.spaces, name)
        space = function()
        tables = cost_tables(space, None)
        spans = [f"{quantity(m, tables[m].smallest)} to {quantity(m, tables[m].largest)}" for m in ("params", "macs")]
        options = sorted({len(d.options) for d in space.decisions})
        per_site = str(options[0]) if len(options) == 1 else f"{options[0]} to {options[-1]}"
        rows.append([name, str(len(space.decisions)), per_site, number(space.size()), *spans])
        paper, size = hiernas.spaces.PAPERS[name], space.skeleton.input_size
        remarks.append(f"{name} ({paper}; costs for images of {size}): {_first_line(function)}")
    return ["space", "sites", "options", "size", "params", "MACs"], rows, ["", *remarks]


def _networks() -> Listing:
    rows = []
    for name, network in hiernas.spaces.KNOWN.items():
        counted = count_cost(known(name))
        printed = [f"{v:g} M" if v is not None else "-" for v in (network.published_params, network.published_macs)]
        rows.append([name, network.space, f"{counted.params:,}", printed[0], f"{counted.macs:,}", printed[1]])
    columns = ["network", "space", "params", "published", "MACs", "published"]
    return columns, rows, ["", "`hiernas cost NAME` says where the published numbers are from and why some of them differ"]


def _data() -> Listing:
    return ["--data", ""], [
        ["digits", "1,797 grey images of 8x8 pixels in 10 classes, from scikit-learn"],
        ["FOLDER", "class folders of images, or train/val/test folders that hold them"],
        ["FOLDER", "parquet files with an image and a label column (needs hiernas[hub])"],
        ["hf:NAME", "a data set of the Hugging Face hub (needs hiernas[hub])"],
    ], []


def _runtimes() -> Listing:
    return ["runtime", ""], [[name, _first_line(runtime)] for name, runtime in RUNTIMES.items()], []


def _presets() -> Listing:
    rows: list[list[str]] = []
    for title, method in (("hnas, spos and random", "hnas"), ("hournas", "hournas")):
        shown = [keys(config) for config in METHODS[method].presets.values()]
        rows += [[f"[{title}]", *[""] * len(shown)]]
        rows += [[key, *(str(values[key]) for values in shown)] for key in shown[0]]
    return ["setting", *PRESETS], rows, []

"""The commands: what each is asked, and a file for each that does it. Wrong names are refused before torch is loaded."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

from typer import Argument, Option

from hiernas.errors import ConfigError, HiernasError, LatencyError, SpaceError, one_of
from hiernas.host import usable_memory
from hiernas.methods import FILES, variants
from hiernas.names import FORMATS, PRESETS, RUNTIMES, SPACES

Texts = list[str] | None
Settings = Annotated[Texts, Option("--set", help="KEY=VALUE of the method's configuration, or space.KEY=VALUE; repeatable")]
Seed = Annotated[int, Option(help="seed of everything random", min=0)]
Folder = Annotated[Path | None, Option(help="folder to write; default: a new one under runs/")]
ImageSize = Annotated[int | None, Option(help="resize images to this many pixels a side")]
SkipBad = Annotated[bool, Option("--skip-bad-images", help="leave out images that cannot be read, and count them")]
Space = Annotated[
    str | None, Option(help="default: the (first) method's own; see `hiernas list spaces`", autocompletion=lambda: list(SPACES))
]
Preset = Annotated[str, Option(help="quick, small or paper; see `hiernas list presets`", autocompletion=lambda: list(PRESETS))]
Method = Annotated[
    str, Argument(help="hnas, hournas, darts, ...; see `hiernas list methods`", autocompletion=lambda: list(FILES))
]
TableFile = Annotated[Path | None, Option(help="a latency table file (ours or a phone's)")]
Runtime = Annotated[
    str | None,
    Option(help="what measures latency; default: onnxruntime; `hiernas list runtimes`", autocompletion=lambda: list(RUNTIMES)),
]
Time = Annotated[str | None, Option(help="in which all is to be done, such as 90s, 30m or 2h; epochs are set for it")]
Log = Annotated[str | None, Option(help="numbers by epoch as they come: csv (RUN/scalars.csv), tensorboard (RUN/tensorboard)")]
Json = Annotated[bool, Option("--json", help="print one JSON document; progress goes to standard error")]
Threads = Annotated[int | None, Option(help="threads of the measured runtime; default: 1", min=1)]
Table = tuple[Sequence[str], Sequence[Sequence[str]], Sequence[str]]  # column heads, rows, and remarks below
NAMES: dict[str, tuple[str, Iterable[str], type[HiernasError]]] = {  # by option: what it names, and which there are
    "method": ("method", FILES, ConfigError), "preset": ("preset", PRESETS, ConfigError),
    "to": ("format", FORMATS, ConfigError), "space": ("space", SPACES, SpaceError),
    "runtime": ("runtime", RUNTIMES, LatencyError),
    "backend": ("backend", ("loky", "multiprocessing", "ray", "dask"), ConfigError),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a command is asked: each option is declared once, and refused before anything is done."""

    def __post_init__(self) -> None:
        for option, (kind, known, error) in NAMES.items():
            if isinstance(name := getattr(self, option, None), str):  # no space that was given from Python
                one_of(kind, name, known, error)
        checked_log(getattr(self, "log", None))
        seconds_of(getattr(self, "time", None))

    @property
    def seconds(self) -> float | None:
        return seconds_of(getattr(self, "time", None))


@dataclass(frozen=True, kw_only=True)
class SharedOptions(Options):
    """What a search and a study are asked alike."""

    space: Space = None
    data: Annotated[str, Option(help="'digits', a folder of class folders, of parquet or of IDX files, or hf:NAME")] = "digits"
    latency_table: TableFile = None
    preset: Preset = "quick"
    settings: Settings = None
    image_size: ImageSize = None
    val_per_class: Annotated[int | None, Option(help="validation images per class, cut from the training images")] = None
    skip_bad_images: SkipBad = False
    runtime: Runtime = None
    threads: Threads = None


@dataclass(frozen=True, kw_only=True)
class AskedOptions(SharedOptions):
    """A search that is asked for or about."""

    method: Method = "hnas"
    limits: Annotated[Texts, Option("--limit", help='such as "latency_ms<=5" or "peak_ram_int8<=256k"; repeatable')] = None
    cells: Annotated[str | None, Option(help="of a stage search: a genotype by name or text, or a run that found some")] = None
    time: Time = None
    int8: Annotated[bool | None, Option("--int8/--no-int8", help="in INT8, too; default: where latencies are in INT8")] = None
    calibrate: Annotated[int | None, Option(help="whole networks that correct latencies; default: 12 of cells")] = None
    seed: Seed = 0
    began: float = field(init=False, default_factory=monotonic)

    def __post_init__(self) -> None:
        from hiernas.costs import parse_limits

        super().__post_init__()
        parse_limits(self.limits or ())


@dataclass(frozen=True, kw_only=True)
class CheckOptions(AskedOptions):
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class SearchOptions(AskedOptions):
    out: Folder = None
    log: Log = None
    continue_: Annotated[bool, Option("--continue", help="go on where --out holds this search already (requeued jobs)")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.continue_ and self.out is None:
            raise ConfigError("--continue needs the run's folder: name it with --out")


@dataclass(frozen=True, kw_only=True)
class CompareOptions(SharedOptions):
    """A study, or finished runs."""

    runs: Annotated[
        list[Path] | None, Argument(metavar="[RUN...]", help="finished runs, side by side; or a study, to go on with it")
    ] = None
    limits: Annotated[
        Texts, Option("--limit", help='such as "params<=60k and macs<=3M"; repeatable: the study is done under each')
    ] = None
    methods: Annotated[
        str, Option(help="by commas; once=hnas:stages=2+p_th=0.1 names a variant. All have the final training of the first")
    ] = "hnas,spos,random,random-k,plain"
    seeds: Annotated[int, Option(help="runs of each, with seeds 0, 1, ...", min=1)] = 3
    out: Annotated[Path | None, Option(help="folder of the study; default: study. Of runs: where the page goes")] = None
    jobs: Annotated[int, Option(help="processes on this machine", min=1)] = 1
    backend: Annotated[str | None, Option(help="of joblib: loky, multiprocessing, ray or dask")] = None
    json: Json = False

    def __post_init__(self) -> None:
        from hiernas.costs import parse_limits

        super().__post_init__()
        variants(self.methods)
        for text in self.limits or ():
            parse_limits([text])
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        strange = [name.replace("_", "-") for name in given if name not in ("runs", "out", "jobs", "backend", "json")]
        if self.runs and strange:
            flag = {"settings": "set", "limits": "limit"}.get(strange[0], strange[0])
            raise ConfigError(f"--{flag} is for a new study; with RUN... leave it out")


def checked_log(log: str | None) -> str | None:
    """What --log says; raises `ConfigError` where it cannot be done."""
    one_of("log", "csv" if log is None else log, ("csv", "tensorboard"))
    try:
        if log == "tensorboard":
            importlib.import_module("torch.utils.tensorboard")  # what the logger imports in the middle of a run
    except ImportError as error:
        raise ConfigError(f"--log tensorboard needs hiernas[tensorboard] ({error}); --log csv needs nothing") from error
    return log


def seconds_of(time: str | None) -> float | None:
    """90.0 of "90s", 1.5h and the like; raises `ConfigError` for what is no time."""
    if time is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*)([smh])", time.strip())
    if found is None or not float(found[1]):
        raise ConfigError(f"--time {time}: write a number with s, m or h, such as 90s, 30m or 1.5h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def split_settings(settings: list[str] | None) -> tuple[dict[str, Any], list[str]]:
    """The arguments of a space among "KEY=VALUE" settings, and the other settings."""
    of_space = [t.strip() for t in settings or [] if t.strip().startswith("space.")]
    pairs = [t.removeprefix("space.").partition("=") for t in of_space]
    for key, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"--set space.{key}: write space.KEY=VALUE")
    return {key: _value(value) for key, _, value in pairs}, [t for t in settings or [] if t.strip() not in of_space]


def _value(text: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return tuple(value) if isinstance(value, list) else text if isinstance(value, dict) else value


@dataclass(frozen=True, kw_only=True)
class SizedOptions(Options):
    """Of the commands that look at one space or network, which has its own image size and classes or is given them."""

    source: str
    input_size: Annotated[str | None, Option(help="channels,height,width; of a space or a published network")] = None
    num_classes: Annotated[int | None, Option(help="classes; of a space or a published network", min=2)] = None
    settings: Annotated[Texts, Option("--set", help="space.KEY=VALUE; repeatable")] = None

    @property
    def sizes(self) -> tuple[int, int, int] | None:
        """The image size: channels, height, width. Raises `ConfigError` for one that no machine could compute with."""
        if (text := self.input_size) is None:
            return None
        parts = text.split(",")
        if len(parts) != 3 or not all(p.strip().isdigit() for p in parts):
            raise ConfigError(f"--input-size {text}: write channels,height,width, such as 3,224,224")
        sizes = (int(parts[0]), int(parts[1]), int(parts[2]))
        bytes_, memory = 4 * math.prod(sizes), usable_memory()
        if bytes_ > memory / 64:
            most = int((memory / 64 / 4 / sizes[0]) ** 0.5)
            raise ConfigError(
                f"--input-size {text}: one such input takes {bytes_ / 2**30:,.1f} GiB, and what a network computes from it "
                f"many times that; this machine has {memory / 2**30:.1f} GiB; give sides of at most {most}"
            )
        return sizes

    def none_given(self, own: str, others: str) -> None:
        """Refuse all three options where what is looked at says its `own`: they are for others."""
        if self.sizes or self.num_classes or self.arguments:
            raise ConfigError(f"{self.source} says its own {own}; --input-size, --num-classes and --set are for {others}")

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of the space."""
        of_space, others = split_settings(self.settings)
        if others:
            raise ConfigError(f"--set {others[0]}: this command takes --set space.KEY=VALUE only")
        return of_space


@dataclass(frozen=True, kw_only=True)
class CostOptions(SizedOptions):
    source: Annotated[
        str, Argument(metavar="NETWORK", help="an architecture file (best.json), a run folder, or a name such as fbnet-c")
    ]
    latency_table: TableFile = None
    runtime: Runtime = None
    threads: Threads = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class VitalOptions(SizedOptions):
    source: Annotated[str, Argument(help="a space or network by name, an architecture file, a run folder, a .pt2 file")]
    reset: Annotated[bool, Option("--reset", help="of a run: reset each block, see what accuracy is left")] = False
    draws: Annotated[int | None, Option(help="random draws of channels to reset; default: 5", min=1)] = None
    images: Annotated[int | None, Option(help="test images to use; default: 1000 at most", min=1)] = None
    seed: Annotated[int | None, Option(help="of the draws; default: 0", min=0)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reset and (self.draws, self.images, self.seed) != (None, None, None):
            raise ConfigError("--draws, --images and --seed are for --reset; give both, or neither")


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(SizedOptions):
    source: Annotated[str, Argument(metavar="SPACE", help="search space; see `hiernas list spaces`")]
    input_size: Annotated[str | None, Option(help="channels,height,width")] = "3,224,224"
    num_classes: Annotated[int | None, Option(help="classes of the classifier", min=2)] = 1000
    runtime: Runtime = None
    threads: Threads = None
    out: Annotated[Path | None, Option(help="table file; default: the user's cache, with --device HOST.json")] = None
    pack: Annotated[Path | None, Option(help="folder to write, for a device without HierNAS")] = None
    device: Annotated[str | None, Option(help="ssh:[USER@]HOST, with ONNX Runtime; android[:SERIAL], with LiteRT")] = None
    python: Annotated[str | None, Option(help="of --device: with onnxruntime, or litert-cli; default: python3")] = None
    import_file: Annotated[Path | None, Option("--import", help="what a pack measured; becomes a table")] = None
    allow_missing: Annotated[bool, Option("--allow-missing", help="import what was measured so far")] = False
    merge: Annotated[Path | None, Option(help="another table of the same device, to be put into this one")] = None
    calibrate: Annotated[int | None, Option(help="compare with this many whole networks")] = None
    even: Annotated[bool, Option("--even", help="networks spread evenly over the latencies, not uniform")] = False
    seed: Annotated[int | None, Option(help="of the networks of --calibrate; default: 0", min=0)] = None
    store_correction: Annotated[bool, Option("--store-correction", help="the table then predicts corrected")] = False

    def __post_init__(self) -> None:
        one_of("space", self.source, SPACES, SpaceError)
        super().__post_init__()
        modes: dict[str, object] = {"--pack": self.pack, "--import": self.import_file, "--merge": self.merge}
        modes |= {"--calibrate": self.calibrate, "--device": self.device}
        given = [flag for flag, value in modes.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} do not go together; give one of them at a time")
        rules = {"allow_missing": "--import", "python": "--device"}
        rules |= dict.fromkeys(("even", "seed", "store_correction"), "--calibrate")
        for option, needed in rules.items():
            if getattr(self, option) is not getattr(MeasureOptions, option) and needed not in given:  # not its default
                raise ConfigError(f"--{option.replace('_', '-')} is for {needed}; give both, or neither")
        hosts = r"ssh:(\w[\w.-]*@)?(\w[\w.-]*|\[[\da-fA-F:]+\])|android(:\w[\w.:-]*)?"
        if self.device is not None and not re.fullmatch(hosts, self.device):
            other = "a port belongs into ssh's own config; others take --pack and --import"
            raise ConfigError(f"--device '{self.device}' is not ssh:[USER@]HOST, ssh:[IPV6] or android[:SERIAL]; {other}")
        elsewhere = given and given != ["--calibrate"]
        if elsewhere and (self.runtime or (self.threads and not f"{self.device}".startswith("ssh:"))):
            raise ConfigError(
                f"--runtime and --threads do not go with {given[0]}: nothing is measured here (a pack runs on onnxruntime, "
                "with `measure.py --threads N` on the device; --device ssh:HOST takes --threads, a phone has one)"
            )
        if self.pack is not None and self.out is not None:
            raise ConfigError("--out does not go with --pack: name the pack's folder with --pack DIR")
        if self.store_correction and self.out is None:
            raise ConfigError(
                "--store-correction needs a table of its own, --out FILE: the cached one serves all spaces, a correction one"
            )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    source: Annotated[Path, Argument(help="a run folder or an architecture file")]
    data: Annotated[str | None, Option(help="the images; default: those of the run")] = None
    inherit: Annotated[bool, Option("--inherit", help="start from the supernet's weights (of a run)")] = False
    epochs: Annotated[int | None, Option(help="default: the preset's final_epochs", min=1)] = None
    lr: Annotated[float | None, Option(help="initial learning rate; default: the preset's final_lr")] = None
    recipe: Annotated[str | None, Option(help="a published recipe; see `hiernas list recipes`")] = None
    network: Annotated[str | None, Option(help="'imagenet' or 'cifar': build found cells into its network")] = None
    preset: Annotated[str | None, Option(help="its size, or a search's recipe; default: the run's, or quick")] = None
    settings: Settings = None
    time: Time = None
    seed: Seed = 0
    out: Folder = None
    log: Log = None
    image_size: ImageSize = None
    skip_bad_images: SkipBad = False
    began: float = field(init=False, default_factory=monotonic)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inherit and not self.source.is_dir():
            raise ConfigError(f"--inherit needs a run folder, whose supernet has the weights; {self.source} is a file")
        if self.inherit and self.data is not None:
            raise ConfigError("--inherit goes on with the run's own images; leave --data out")
        if self.data is None and self.source.is_dir() and (self.image_size is not None or self.skip_bad_images):
            raise ConfigError("--image-size and --skip-bad-images are for --data; the run's own images are read as they were")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ConfigError(f"--lr is {self.lr}; it must be positive")
        if self.time is not None and self.epochs is not None:
            raise ConfigError("--time sets the epochs; leave it or --epochs out")
        for text in self.settings or ():
            if not text.strip().startswith("train."):
                raise ConfigError(f"--set {text}: a training takes --epochs, --lr and --set train.KEY=VALUE")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    source: Annotated[Path, Argument(help="a run folder, hf:USER/NAME, or an architecture file")]
    to: Annotated[str, Option(help="onnx, onnx-int8 (of a run), openvino, litert, executorch, pt2 or python")] = "onnx"
    out: Annotated[Path | None, Option(help="default: best.onnx, best.xml (openvino; and .bin), best.py (and .pt), ...")] = None
    weights: Annotated[Path | None, Option(help="safetensors file; default: the one beside the source")] = None
    with_preprocessing: Annotated[bool, Option("--with-preprocessing", help="for uint8 pixels [batch, H, W, C]")] = False


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    run: Annotated[Path, Argument(help="a finished run, or a study")]
    open_: Annotated[bool, Option("--open", help="in the browser")] = False


@dataclass(frozen=True, kw_only=True)
class RankOptions(Options):
    run: Annotated[Path, Argument(help="a finished search")]
    against: Annotated[str, Option(help="'random': networks drawn under the same limits")] = "random"
    networks: Annotated[
        int, Option(help="random ones to train; up to as many more of the last supernet's space and of the front", min=2)
    ] = 5
    epochs: Annotated[int | None, Option(help="of each training; default: the run's final_epochs", min=1)] = None
    json: Json = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.against != "random":
            raise ConfigError(f"--against {self.against}: there is 'random' only")

    @property
    def again(self) -> str:
        return f"hiernas rank {self.run}"


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    source: Annotated[Path, Argument(metavar="RUN", help="a run folder, its best.safetensors, or hf:USER/NAME")]
    images: Annotated[list[Path], Argument(metavar="IMAGE...", help="picture files, or folders of them")]
    csv: Annotated[Path | None, Option(help="a CSV file to write; - for standard output")] = None
    skip_bad_images: SkipBad = False


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    source: Annotated[Path, Argument(metavar="RUN", help="a run folder, its best.safetensors, or hf:USER/NAME")]
    data: Annotated[str | None, Option(help="other images of the same classes; default: the run's test images")] = None
    skip_bad_images: SkipBad = False
    json: Json = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is None and self.skip_bad_images:
            raise ConfigError("--skip-bad-images is for --data; the run's own images are read as they were")

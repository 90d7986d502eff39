"""Presets and `--set key=value`: from text to a method's frozen configuration, with every mistake named."""

from __future__ import annotations

import hashlib
import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from hiernas import ranks
from hiernas.errors import UNREADABLE, ConfigError, RunError, did_you_mean, problem, validated
from hiernas.run.disk import from_yaml

MADE_FOR = {"quick": 1_000, "small": 10_000}  # training images that a preset is made for at least; `paper` stays as published
FINAL_STEPS = 500  # of the final training on few images, where the preset has fewer
FORMAT = 1  # of run folders
SEAL = "# sha256 of the lines above: "
_adapter: Any = cache(TypeAdapter)  # made in milliseconds, and `--time` tries a hundred configurations
STEPS, SMALLEST = 8, 16  # a fitting batch leaves so many steps in an epoch, and has at least so many images


def keys(config: Any, prefix: str = "") -> dict[str, Any]:
    """All dotted keys of a configuration with their values."""
    found: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        found |= keys(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return found


def for_images(config: Any, preset: str, images: int, kept: Iterable[str] = ()) -> Any:
    """A preset for fewer training images than it is made for: the same number of optimisation steps, in smaller batches.

    Batches are halved while an epoch has fewer than `STEPS` of them; epochs, warm-up included, are multiplied until they
    have as many steps as with `MADE_FOR` images, or as the images that a search takes of them, and the final training until
    it has `FINAL_STEPS`; the weights' learning rates go with the square root of the batch. `kept`: dotted keys that stay as
    they are. Any other configuration is returned as it is.
    """
    values, made = keys(config), MADE_FOR.get(preset, images)
    if images >= made:
        return config
    batches = {k: v if k in kept else _batch(v, images) for k, v in values.items() if k.endswith("batch_size")}
    changed: dict[str, Any] = dict(batches)
    for key, value in values.items():
        searches = key.startswith(("search.", "mask.")) and "search.train.batch_size" in batches
        recipe = "search.train.batch_size" if searches else "train.batch_size"
        meant = min(made, values.get("search.images") or made) if searches else made
        if key == "final_epochs":
            meant = max(meant, FINAL_STEPS * values[recipe] / value)
        changed |= _fitted(key, value, batches[recipe] / values[recipe], meant / images)
    return _changed(config, {k: v for k, v in changed.items() if k not in {*kept, *_unused(config)}})


def _fitted(key: str, value: Any, smaller: float, fewer: float) -> dict[str, Any]:
    """An epoch or learning rate for batches `smaller` times as large, of `fewer` times fewer images; {} for other keys."""
    more = max(1.0, smaller * fewer)
    if key.endswith("epochs"):
        return {key: _times(key, value, more, math.ceil)}
    if key in ("lr", "final_lr", "inherited_lr", "search.lr"):
        rates = [float(f"{lr * math.sqrt(smaller):.3g}") for lr in (value if isinstance(value, tuple) else (value,))]
        return {key: tuple(rates) if isinstance(value, tuple) else rates[0]}
    return {}


def _times(key: str, value: Any, factor: float, whole: Callable[[float], int]) -> Any:
    """A length `factor` times as long: whole, but for the warm-up of a learning rate, and at least one where it had any."""
    if key.endswith(("train.warmup_epochs", "recipe.warmup_epochs")):
        return float(f"{value * factor:.3g}")
    if isinstance(value, tuple):
        return tuple(_times(key, n, factor, whole) for n in value)
    return max(min(value, 1), whole(value * factor))


def scaled(config: Any, factor: float, kept: Iterable[str] = ()) -> Any:
    """A configuration whose lengths (see `hiernas.problem.Method`) are all `factor` times as long, rounded, at least one.

    `kept`: dotted keys that stay as they are.
    """
    stays = {*kept, *_unused(config)}
    lengths = {k: v for k, v in keys(config).items() if (k.endswith("epochs") or k == "generations") and k not in stays}
    return _changed(config, {k: _times(k, v, factor, round) for k, v in lengths.items()})


def _unused(config: Any) -> set[str]:
    """Keys that mean nothing beside the others."""
    return {"finalist_epochs"} if getattr(config, "finalists", 0) == 1 else set()


def _batch(size: int, images: int) -> int:
    while size >= 2 * SMALLEST and images < STEPS * size:
        size //= 2
    return size


def differences(before: Any, after: Any) -> str:
    """What two configurations differ in, in words: "final_epochs 7 -> 58, ..."; "" where they are equal."""
    old, new = keys(before), keys(after)
    return ", ".join(f"{k} {_said(old[k])} -> {_said(new[k])}" for k in old if old[k] != new[k])


def _said(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def names_of(settings: Iterable[str]) -> set[str]:
    """The dotted keys that "key=value" settings set."""
    return {text.partition("=")[0].strip() for text in settings}


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    values = asdict(config)
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node: Any = reduce(dict.__getitem__, parents, values)
        node[leaf] = value
    return from_dict(type(config), values)


def with_settings(config: Any, settings: Iterable[str]) -> Any:
    """A configuration with "key=value" settings applied; raises `ConfigError` with all that is wrong."""
    changes, known = {}, keys(config)
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(f"--set {text}: write key=value, such as --set population=32")
        if key not in known:
            raise ConfigError(f"--set {text}: unknown key '{key}'; {did_you_mean(key, known)}")
        changes[key] = _value(text, value, known[key])
    return _changed(config, changes)


def _value(text: str, value: str, current: Any) -> Any:
    if isinstance(current, tuple) and not value.strip().startswith("["):
        value = f"[{value}]"
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value cannot be read as a number, word or list") from error


def from_file(kind: type[Any], values: Any) -> Any:
    """A configuration as `to_dict` wrote it: a key that is missing or unknown is an error, never a default."""
    known = {f.name for f in fields(kind)}
    if not isinstance(values, Mapping) or set(values) != known:
        differing = sorted(known ^ set(values)) if isinstance(values, Mapping) else sorted(known)
        raise ConfigError(f"missing or unknown: {', '.join(map(str, differing))}")
    for f in fields(kind):
        if isinstance(values[f.name], Mapping):
            from_file(typing.get_type_hints(kind)[f.name], values[f.name])
    return validated(kind, json.dumps(dict(values)), "its settings", ConfigError)


def from_dict(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A configuration from plain values, types checked."""
    try:
        return _adapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(map(problem, error.errors()))) from error


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values for YAML."""
    return {k: plain(v) for k, v in asdict(config).items()}


def plain(value: Any) -> Any:
    """With dicts and lists alone, as YAML and JSON have them."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value


# -- config.yaml ------------------------------------------------------------------------------------------------------

Count = Annotated[int, Field(ge=1)]


class Environment(TypedDict):  # what the run began under
    hiernas: str
    torch: str
    processes: NotRequired[Count]  # not of runs from before there were several
    threads: Count
    device: str


class Source(TypedDict, total=False):  # the images
    source: str | None
    image_size: Count | None
    val_per_class: Count | None
    skip_bad_images: bool
    seed: int
    fingerprint: str


class Space(TypedDict):  # the space that is searched
    name: str
    arguments: dict[str, Any]
    options: dict[str, list[str]]


class Bounds(TypedDict, total=False):  # a limit
    metric: Required[str]
    low: float | None
    high: float | None


class Config(TypedDict, total=False):  # config.yaml; a method's own settings and a training's are checked by their classes
    format: Required[int]
    hiernas: str
    method: Required[str]
    preset: str
    seed: Required[int]
    space: Space
    data: Required[Source]
    limits: list[Bounds]
    automatic_limit: bool
    latency_table: str | None
    runtime: str
    threads: Count
    config: dict[str, Any]
    final_recipe: dict[str, Any]
    train: dict[str, Any]
    fitted: str
    timed: str
    left: float | None
    doubts: list[str]
    asked: dict[str, Any]
    environment: Environment


def sealed(text: str) -> str:
    """The text of a config.yaml with its checksum."""
    return f"{text}{SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n"


@ranks.told
def config_of(path: Path) -> Mapping[str, Any]:
    """What the config.yaml of a run folder says."""
    try:
        text = (path / "config.yaml").read_text()
        config = from_yaml(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is not a run folder: it has no config.yaml" if path.exists() else "does not exist"
        raise RunError(f"{path} {what}; name the folder a search wrote (`hiernas list runs`)") from error
    except OSError as error:
        raise RunError(f"{path}/config.yaml cannot be read: {error.strerror}; name a run folder you may read") from error
    except UNREADABLE as error:
        raise RunError(f"{path}/config.yaml is damaged and cannot be read; start the search again") from error
    if not isinstance(config, dict) or "format" not in config:
        raise RunError(f"{path}/config.yaml is damaged: it does not say its format; start the search again")
    if config["format"] != FORMAT:
        raise RunError(
            f"{path} was written by HierNAS {config.get('hiernas', '?')} in run format {config['format']}, and this "
            f"version reads format {FORMAT}; install that version to go on with it"
        )
    if text != sealed(text.partition(SEAL)[0]):
        raise RunError(
            f"{path}/config.yaml is not what was asked when the run was started: it was edited or damaged; put it back, or "
            f"start a new run with what you want, `hiernas {'train' if config.get('method') == 'train' else 'search'} ... "
            "--set KEY=VALUE --out NEW`"
        )
    validated(Config, config, f"{path}/config.yaml is damaged", RunError)
    return config

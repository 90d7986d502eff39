"""Presets and `--set key=value`: from text to a method's frozen configuration, with every mistake named."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from hiernas.errors import ConfigError, did_you_mean


def keys(config: Any, prefix: str = "") -> dict[str, Any]:
    """All dotted keys of a configuration with their values."""
    found: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        found |= keys(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return found


def with_settings(config: Any, settings: Iterable[str]) -> Any:
    """A configuration with "key=value" settings applied; raises `ConfigError` with all that is wrong."""
    values, known = asdict(config), keys(config)
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(f"--set {text}: write key=value, such as --set population=32")
        if key not in known:
            raise ConfigError(f"--set {text}: unknown key '{key}'; {did_you_mean(key, known)}")
        *parents, leaf = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node[leaf] = _value(text, value, known[key])
    return from_dict(type(config), values)


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
    return from_dict(kind, values)


def from_dict(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A configuration from plain values, types checked."""
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg'][0].lower()}{e['msg'][1:]} (got {e['input']!r})"
            for e in error.errors()
        ]
        raise ConfigError("; ".join(problems)) from error


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values for YAML."""
    return {k: _plain(v) for k, v in asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value

"""The errors a user can cause, and the ones a run can end with.

Every message is one sentence with the value, the reason and the way out. The command line prints it
after "error:" and exits with `exit_code`; a traceback is never shown for these.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)  # by a parser


class HiernasError(Exception):
    """Base of every error HierNAS raises on purpose."""

    exit_code = 2


class SpaceError(HiernasError):
    """An unknown space, site or option, or an encoding that does not fit the space."""


class LimitError(HiernasError):
    """A limit that cannot be read, or that no architecture of the space meets."""


class DataError(HiernasError):
    """Images that are missing, damaged, too few, or not what they are said to be."""


class LatencyError(HiernasError):
    """A latency table that misses an entry, or a measurement that cannot be made."""


class ConfigError(HiernasError):
    """An unknown key, preset or method, or a value outside its range."""


class RunError(HiernasError):
    """A run folder that exists, is from another version, or is damaged."""


class TrainingError(HiernasError):
    """Training that cannot go on, such as a loss that is not finite."""


class ExportError(HiernasError):
    """A network that cannot be written in a format, or whose file does not compute what the network computes."""


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """The tail of an "unknown name" message: the nearest known name, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"


def one_of(kind: str, name: str, known: Iterable[str], error: type[HiernasError] = ConfigError) -> None:
    """Raise an error for a name that is not known, with the nearest that is."""
    known = list(known)
    if name not in known:
        raise error(f"unknown {kind} '{name}'; {did_you_mean(name, known)}")


def validated(kind: Any, value: Any, source: object, error: type[HiernasError]) -> Any:
    """A value, or a JSON text, as a type, strictly; raises an error that names the source and the first key that is wrong."""
    from pydantic import TypeAdapter, ValidationError

    adapter: Any = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        of = adapter.validate_json if isinstance(value, str) else adapter.validate_python
        return of(value, strict=True)
    except ValidationError as wrong:
        raise error(f"{source}: {problem(wrong.errors()[0])}") from wrong


class Settings:
    """Base of frozen dataclasses. Raises `ConfigError` for what an annotation does not allow, and for no finite number."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        vars(self).update({name: builtin(value) for name, value in vars(self).items()})
        validated(_allowed(kind), vars(self), f"settings of {kind.__name__}", ConfigError)


def builtin(value: Any) -> Any:
    """Lists and NumPy's arrays as tuples, and its numbers as Python's."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(builtin, value)) if isinstance(value, list | tuple) else value


@cache
def _allowed(kind: type[Any]) -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config
    from typing_extensions import TypedDict

    hints = typing.get_type_hints(kind, include_extras=True)
    own = {f.name: hints[f.name] for f in fields(kind) if not is_dataclass(hints[f.name])}  # those check themselves
    values = TypedDict(kind.__name__, own)  # type: ignore[misc] # types that are known only now
    return TypeAdapter(with_config(ConfigDict(allow_inf_nan=False))(values))


def problem(wrong: Any) -> str:
    """One of the errors of a `ValidationError` of pydantic: key, reason and value."""
    key, why = ".".join(map(str, wrong["loc"])) or "content", wrong["msg"]
    return f"{key}: {why[0].lower()}{why[1:]} (got {wrong['input']!r:.80})"

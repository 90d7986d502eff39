"""A tree of modules as the expression that builds it again, whatever modules it is made of.

PyTorch's layers are written as calls of their constructors. So are other modules where their attributes say what they
were made from; else they are put together from their parts.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import nn

from hiernas.errors import ExportError
from hiernas.export.layout import Call, Expression, data, one_line, quoted, row
from hiernas.export.sources import Sources

INTERNAL = frozenset(nn.Module().__dict__)  # what every module has
SKIPPED = ("device", "dtype")  # arguments of layers that a file leaves to its user


def expression(module: nn.Module, sources: Sources) -> Expression:
    """The expression that builds a module; its classes are imported, or copied to `sources`.

    Raises `ExportError`, with the class and the reason, for what cannot be written down.
    """
    if getattr(module, "train_only", False):
        return "None"  # auxiliary heads
    kind = type(module)
    if kind in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
        return _container(module, sources)
    try:
        if kind.__module__.startswith("torch."):
            return _layer(module, sources)
        return _constructed(module, sources) or _put_together(module, sources)
    except ExportError as error:
        raise ExportError(f"{kind.__name__}: {error}") from error


def assembled(kind: type[nn.Module], parts: dict[str, object]) -> nn.Module:
    """A module of this class made of its parts, without its constructor."""
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def _container(module: nn.Module, sources: Sources) -> Expression:
    head = sources.refer(type(module)) + "("
    children = [(name, expression(child, sources)) for name, child in module.named_children()]
    named = tuple((f"{quoted(name)}: ", child) for name, child in children)
    if isinstance(module, nn.ModuleDict):
        return Call(f"{head}{{", named, "})")
    if isinstance(module, nn.ModuleList):
        return Call(f"{head}[", tuple(("", child) for _, child in children), "])")
    if [name for name, _ in children] == [str(i) for i in range(len(children))]:
        return Call(head, tuple(("", child) for _, child in children), ")")
    sources.imports.add(("collections", "OrderedDict", ""))
    return Call(f"{head}OrderedDict({{", named, "}))")


def _layer(module: nn.Module, sources: Sources) -> Expression:
    """One of PyTorch's layers: its constructor's arguments are attributes of the same names."""
    items: list[tuple[str, Expression]] = []
    names: list[str] = []
    for name, parameter in _parameters(type(module)).items():
        if name in SKIPPED or _is_variadic(parameter):
            continue
        if not hasattr(module, name):
            if parameter.default is not parameter.empty:
                continue
            raise ExportError(f"the module does not say which '{name}' it was made with")
        given = _argument(module, name)
        if parameter.default is parameter.empty:
            items.append(("", _value(given, sources)))
            names.append(name)
        elif given != parameter.default:
            items.append((f"{name}=", _value(given, sources)))
    return Call(sources.refer(type(module)) + "(", tuple(items), ")", tuple(names))


def _argument(module: nn.Module, name: str) -> Any:
    given = getattr(module, name)
    if name == "bias" and (given is None or isinstance(given, torch.Tensor)):
        return given is not None
    if isinstance(given, tuple) and len(set(given)) == 1 and "Conv" in type(module).__name__:
        return given[0]  # convolutions keep a size per side
    return given


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    signature = inspect.signature(kind.__init__)  # type: ignore[misc] # read, not called
    return {name: p for name, p in signature.parameters.items() if name != "self"}


def _is_variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _constructed(module: nn.Module, sources: Sources) -> Expression | None:
    """The call of a module's own constructor, where that gives the same module again."""
    parameters = _parameters(type(module))
    if any(_is_variadic(p) or not hasattr(module, name) for name, p in parameters.items()):
        return None
    given = {name: getattr(module, name) for name in parameters}
    try:
        with torch.random.fork_rng(devices=[]):
            again = type(module)(**copy.deepcopy(given))
    except Exception:  # attributes that only happen to have the arguments' names
        return None
    if _summary(again) != _summary(module):
        return None
    items = tuple(
        (f"{name}=", _value(value, sources))
        for name, value in given.items()
        if parameters[name].default is parameters[name].empty or value is not parameters[name].default
    )
    return Call(sources.refer(type(module)) + "(", items, ")")


def _summary(module: nn.Module) -> tuple[str, dict[str, torch.Size], str]:
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    return repr(module), shapes, repr([_plain(m) for m in module.modules()])


def _plain(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.__dict__.items() if name not in INTERNAL}


def _put_together(module: nn.Module, sources: Sources) -> Expression:
    kept = set(module.state_dict())
    parts: dict[str, Any] = {**module._parameters, **module._buffers, **module._modules, **_plain(module)}
    items: list[tuple[str, Expression]] = []
    for name, part in parts.items():
        if name in module._buffers and name not in kept and part is not None:
            raise ExportError(f"its buffer '{name}' is not among its weights")
        items.append((f"{quoted(name)}: ", _value(part, sources)))
    kind = sources.refer(type(module))
    return Call(f"{sources.refer(assembled)}({kind}, {{", tuple(items), "})")


def _value(value: Any, sources: Sources) -> Expression:
    """What a module is made of: modules, tensors, classes, functions, plain values."""
    if isinstance(value, nn.Module):
        return expression(value, sources)
    if isinstance(value, torch.Tensor):
        return _tensor(value, sources)
    if isinstance(value, type | FunctionType):
        return sources.refer(value)
    if isinstance(value, tuple | list):
        items = row(*(_value(v, sources) for v in value))
        return items if isinstance(value, tuple) else Call("[", items.items, "]")
    if isinstance(value, dict):
        return Call("{", tuple((f"{one_line(data(k))}: ", _value(v, sources)) for k, v in value.items()), "}")
    return data(value)


def _tensor(value: torch.Tensor, sources: Sources) -> Expression:
    """A parameter or a buffer of this shape: its values come with the weights."""
    kind = "Parameter" if isinstance(value, nn.Parameter) else "Buffer"
    return f"nn.{kind}(torch.zeros({one_line(data(tuple(value.shape)))}, dtype={value.dtype}))"

"""A network as Python source: the expression that builds it again, and the definitions of all classes it uses.

Where a module was made by an operation, the operation is written, with channels and stride; other modules as calls of
their constructors, whose arguments are attributes of the same names. A chain becomes one table of its layers; the edges
that cells of one kind share become a function of their number of channels. Definitions are copied from where they stand,
so there is no second version to drift.
"""

from __future__ import annotations

import ast
import builtins
import copy
import importlib
import importlib.util
import inspect
import pprint
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

from torch import Tensor, nn

from hiernas.errors import ExportError
from hiernas.networks.cell_ops import Cell, StageGraph
from hiernas.networks.ops import Origin, origin_of

RESERVED = ("ARCH_DEF", "FILTERS", "LAYERS", "METADATA", "TIMM", "WEIGHTS", "build", "load", "to_timm")  # names of the frame
WIDTH = 120  # characters of a line of plain data
ROOM = 100  # characters of a call that stays on one line


def is_allowed(module: str) -> bool:
    """Whether a generated file may import a module."""
    return module.split(".")[0] in sys.stdlib_module_names | {"torch"}


def layers_of(module: nn.Module, name: str = "") -> Iterator[tuple[str, Origin | None]]:
    """The layers of a chain with the operations that made them; None for what is more than one operation."""
    origin = origin_of(module)
    if origin is None and type(module) is nn.Sequential:
        for place, child in module.named_children():
            yield from layers_of(child, f"{name}.{place}" if name else place)
    else:
        yield name, origin


def literal(value: Any) -> str:
    """A plain value as source; raises `ExportError` for any other."""
    text = pprint.pformat(value, width=WIDTH, compact=True, sort_dicts=False)
    try:
        is_plain = ast.literal_eval(text) == value
    except (ValueError, SyntaxError):
        is_plain = False
    if not is_plain:
        raise ExportError(f"a value of type {type(value).__name__}, which has no plain form in Python source")
    if "\n" in text and not isinstance(value, str):
        items = textwrap.dedent(f" {text[1:-1].removesuffix(',')}")
        return f"{text[0]}\n{textwrap.indent(items, '    ')},\n{text[-1]}"
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text


def bracketed(head: str, items: Sequence[str], tail: str) -> str:
    """Items between brackets: on one line where they fit, else one a line."""
    text = head + ", ".join(items) + tail
    if len(text) <= ROOM and "\n" not in text:
        return text
    lines = "".join(f"{item},\n" for item in items)
    return f"{head}\n{textwrap.indent(lines, '    ')}{tail.lstrip(',')}"


class Writer:
    """Writes expressions; what they call is added to `sources`."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.functions: dict[str, str] = {}  # what the functions for edges return, by name
        self._channels = 0  # the number that is called `c` in the body that is being written

    def value(self, value: Any) -> str:
        """A module, an operation, a class or function, or a plain value as an expression.

        Raises `ExportError` with the reason for what cannot be written down.
        """
        if origin := origin_of(value):
            cin, cout = ("c" if n == self._channels else n for n in (origin.cin, origin.cout))
            return f"{self._operation(origin)}.build({cin}, {cout}, {origin.stride})"
        if type(value) in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            return self._container(value)
        if isinstance(value, type | FunctionType):
            return self.sources.refer(value)
        if isinstance(value, tuple) and not all(isinstance(v, int | float | str) for v in value):
            return bracketed("(", [self.value(v) for v in value], ",)" if len(value) == 1 else ")")
        if isinstance(value, nn.Module) or not is_allowed(type(value).__module__):
            return self._call(value)
        return literal(value)

    def _operation(self, origin: Origin) -> str:
        try:
            return self._call(origin.op)
        except ExportError as error:
            raise ExportError(f"its operation '{origin.op.name}': {error}") from error

    def _container(self, module: nn.Module) -> str:
        children = {name: self.value(child) for name, child in module.named_children()}
        head, items = self.sources.refer(type(module)), list(children.values())
        named = [f"{literal(name)}: {child}" for name, child in children.items()]
        if isinstance(module, nn.ModuleDict):
            return bracketed(f"{head}({{", named, "})")
        if isinstance(module, nn.ModuleList):
            return bracketed(f"{head}([", items, "])")
        if all(name.isdigit() for name in children):
            return bracketed(f"{head}(", items, ")")
        return bracketed(f"{head}({self.sources.refer(OrderedDict)}({{", named, "}))")

    def _call(self, value: object) -> str:
        """The call of the constructor that made a value."""
        kind, items = type(value), []
        for name, parameter in inspect.signature(kind).parameters.items():
            argument, default = getattr(value, name, parameter.default), parameter.default
            if name in ("device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if argument is parameter.empty:
                raise ExportError(f"a {kind.__name__} does not say which '{name}' it was made with")
            if name == "bias" and isinstance(argument, Tensor | None):
                argument = argument is not None
            if isinstance(argument, nn.Module | Tensor) or argument not in (default, (default, default)):
                is_named = default is not parameter.empty or parameter.kind is parameter.KEYWORD_ONLY
                items.append(f"{name}=" * is_named + self._argument(value, name, argument))
        return bracketed(f"{self.sources.refer(kind)}(", items, ")")

    def _argument(self, owner: object, name: str, value: object) -> str:
        """An argument of a constructor. `Cell` and `StageGraph` take edges by (source, node), and cells by node.

        Edges become a call of a function of their number of channels: cells of one kind share it.
        """
        if not isinstance(owner, Cell | StageGraph) or not isinstance(value, nn.ModuleDict):
            return self.value(value)
        channels = next((origin.cin for m in value.modules() if (origin := origin_of(m))), 0) if name == "edges" else 0
        self._channels = channels
        items = [f"{ast.literal_eval(key.replace('_', ','))}: {self.value(m)}" for key, m in value.items()]
        body = bracketed("{", items, "}")
        self._channels = 0
        if not channels:
            return body
        function = next((f for f, same in self.functions.items() if same == body), f"edges{len(self.functions) + 1}")
        self.functions[function] = body
        return f"{function}({channels})"

    def table(self, layers: Mapping[str, Origin | None], input_size: tuple[int, ...]) -> list[str]:
        """A row per layer of a chain: its name, its operation, channels in and out, stride, and the size of its output."""
        rows, sizes, (height, width) = [["# name", "operation", "in", "out", "stride"]], [""], input_size[1:]
        for name, origin in layers.items():
            assert origin is not None
            _, cin, cout, stride = origin
            rows.append([f'("{name}",', f"{self._operation(origin)},", f"{cin},", f"{cout},", f"{stride}),"])
            height, width = -(-height // stride), -(-width // stride)
            sizes.append(f"  # {cout} x {height} x {width}")
        sizes[-1] = "  # classes"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = [[*map(str.ljust, row[:2], widths[:2]), *map(str.rjust, row[2:], widths[2:])] for row in rows]
        return [" ".join(row) + size for row, size in zip(padded, sizes, strict=True)]


# -- definitions -------------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """`from module import name as alias`; with no name `import module as alias`."""

    module: str
    name: str = ""
    alias: str = ""


class Sources:
    """The imports and definitions of one generated file, collected by name, each behind those it uses."""

    def __init__(self) -> None:
        self.definitions: dict[str, str] = {}
        self._imports: dict[str, set[str]] = {}  # what is imported, by the line's head
        self._homes = dict.fromkeys(RESERVED, "the file itself")  # the module that each name comes from
        for needed in (Import("pathlib", "Path"), Import("torch"), Import("torch", "nn")):
            self._add(needed)

    def refer(self, thing: Any) -> str:
        """The expression that names a class or function in the file, which then defines or imports it.

        Raises `ExportError` where its source is not at hand, or needs a package other than torch.
        """
        name = thing.__qualname__
        if getattr(nn, name, None) is thing:
            return f"nn.{name}"
        if not name.isidentifier():
            raise ExportError(f"'{name}' cannot be written into a file: it is not defined at the top of a module")
        if getattr(builtins, name, None) is not thing:
            self._add(Import(thing.__module__, name))
        return str(name)

    def _add(self, wanted: Import, user: str = "") -> None:
        """Import a name where the file may, else define it and all that it uses."""
        module, name, alias = wanted
        renamed = f" as {alias}" if alias else ""
        if is_allowed(module):
            head = f"from {module} import" if name else f"import {module}{renamed}"
            self._imports.setdefault(head, set()).update([name + renamed] if name else [])
        elif alias or not name:
            raise ExportError(f"'{user}' imports '{module}', which a file that needs PyTorch only cannot do")
        elif (home := self._homes.setdefault(name, module)) != module:
            raise ExportError(f"the name '{name}' of {module} is taken by {home}; rename one of them")
        elif name not in self.definitions:
            self._define(module, name)

    def _define(self, module: str, name: str) -> None:
        self.definitions[name] = ""  # in the making: a definition may name itself
        lines, names = _top_of(module)
        statement = names.get(name)
        if statement is None or isinstance(statement, Import):
            raise ExportError(f"'{name}' is not defined at the top of the module '{module}'")
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
        text = "\n".join(lines[first - 1 : statement.end_lineno])
        if module.startswith("hiernas.") and any(getattr(s, "name", "") == "build" for s in getattr(statement, "body", [])):
            statement = _only_what_builds(statement)
            text = ast.unparse(statement)
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):  # within a function, where it stays
                for found in _imported(module, node).values():
                    if not is_allowed(found.module):
                        self._add(Import(found.module), name)  # refuses
            elif isinstance(node, ast.Name) and node.id in names and node.id != name:
                used = names[node.id]
                self._add(used if isinstance(used, Import) else Import(module, node.id), name)
        del self.definitions[name]  # to stand behind what it uses
        self.definitions[name] = text

    def imports(self) -> str:
        """The lines that import, as isort orders them: the standard library, then torch."""
        sections: dict[bool, list[str]] = {False: [], True: []}
        for head in sorted(self._imports, key=lambda head: (head.startswith("from"), head)):
            line = f"{head} {', '.join(sorted(self._imports[head]))}".rstrip()
            sections[head.split()[1].split(".")[0] == "torch"].append(line)
        return "\n\n".join("\n".join(lines) for lines in sections.values())


@cache
def _top_of(module: str) -> tuple[list[str], dict[str, ast.stmt | Import]]:
    """A module's lines, and what the names at its top are: the statements that define them, or imports."""
    try:
        source = inspect.getsource(importlib.import_module(module))
    except (OSError, TypeError, ImportError) as error:
        raise ExportError(f"the source of the module '{module}' is not at hand") from error
    names: dict[str, ast.stmt | Import] = {}
    for statement in ast.parse(source).body:
        for inner in statement.body if isinstance(statement, ast.If) else [statement]:  # `if TYPE_CHECKING:`
            if isinstance(inner, ast.Import | ast.ImportFrom):
                names.update(_imported(module, inner))
            elif isinstance(inner, ast.FunctionDef | ast.ClassDef):
                names[inner.name] = inner
            elif isinstance(inner, ast.Assign | ast.AnnAssign):
                targets = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
                names.update({target.id: inner for target in targets if isinstance(target, ast.Name)})
    return source.splitlines(), names


def _imported(home: str, statement: ast.Import | ast.ImportFrom) -> dict[str, Import]:
    """What a statement in the module `home` imports, by the names it has there."""
    if isinstance(statement, ast.Import):
        return {(a.asname or a.name).split(".")[0]: Import(a.name, "", a.asname or "") for a in statement.names}
    package = getattr(sys.modules[home], "__package__", None)
    module = importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)
    return {a.asname or a.name: Import(module, a.name, a.asname or "") for a in statement.names}


def _only_what_builds(operation: ast.stmt) -> ast.stmt:
    """One of our operations without what only a search asks of it: its names, and the checks of its settings."""
    shorter: Any = copy.deepcopy(operation)
    methods = {m.name: m for m in shorter.body if isinstance(m, ast.FunctionDef)}
    for method in methods.values():
        method.body = [s for s in method.body if not isinstance(s, ast.If) or not isinstance(s.body[0], ast.Raise)]
    needed = ["build"]
    for name in needed:  # grows
        used = {n.attr for n in ast.walk(methods[name]) if isinstance(n, ast.Attribute)}
        needed += [other for other in methods if other in used and other not in needed]
    shorter.body = [s for s in shorter.body if not isinstance(s, ast.FunctionDef) or s.name in needed]
    return shorter

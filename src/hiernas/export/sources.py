"""Definitions copied into a generated file: classes, functions and constants with all that they use.

What stands in a generated module is the source of the modules themselves, so there is no second version to drift.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hiernas.errors import ExportError
from hiernas.export.layout import WIDTH

ALLOWED = frozenset(sys.stdlib_module_names) | {"torch"}  # what a generated file may import
MOST = 100  # definitions of a file: beyond that a whole library is being copied


@dataclass(frozen=True)
class Home:
    """A module's source by the names it defines: each with the statement, and the imported name where it is an import."""

    module: str
    lines: list[str]
    names: dict[str, tuple[ast.stmt, ast.alias | None]]

    def text(self, statement: ast.stmt) -> str:
        """The statement's lines, none longer than a generated file has them."""
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(d.lineno for d in decorators)])
        return "\n".join(narrow(line) for line in self.lines[first - 1 : statement.end_lineno])


def narrow(line: str) -> str:
    """A line that is too long, over several ones: the head of a function, or the beginning of a docstring."""
    found = re.fullmatch(r"(\s*)(def \w+\()(.+)(\)(?: -> .+)?:)", line)
    if len(line) <= WIDTH or not (found or line.lstrip().startswith('"""')):
        return line
    if found:
        indent, head, arguments, tail = found.groups()
        return f"{indent}{head}\n{_filled(arguments, indent + '    ')}\n{indent}{tail}"
    return _filled(line.strip(), " " * (len(line) - len(line.lstrip())))


def _filled(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def home_of(module: str) -> Home:
    """The top-level names of an imported module."""
    try:
        source = inspect.getsource(importlib.import_module(module))
    except (OSError, TypeError, ImportError) as error:
        raise ExportError(f"the source of the module '{module}' is not at hand") from error
    tree = ast.parse(source)
    names: dict[str, tuple[ast.stmt, ast.alias | None]] = {}
    for statement in _statements(tree.body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names.update({(a.asname or a.name).split(".")[0]: (statement, a) for a in statement.names})
        for name in _defined(statement):
            names[name] = (statement, None)
    return Home(module, source.splitlines(), names)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.If):  # `if TYPE_CHECKING:`
            yield from statement.body
        yield statement


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [t.id for t in targets if isinstance(t, ast.Name)]


@dataclass
class Sources:
    """The imports and definitions of one generated file, collected by name, each behind those it uses."""

    imports: set[tuple[str, str, str]] = field(default_factory=set)  # module, name ("" for the module itself), alias
    definitions: dict[str, str] = field(default_factory=dict)
    reserved: frozenset[str] = frozenset()  # names that the file gives itself
    _modules: dict[str, str] = field(default_factory=dict)  # where each definition comes from
    _homes: dict[str, Home] = field(default_factory=dict)

    def refer(self, thing: type | Callable[..., Any]) -> str:
        """The expression that names a class or function in the file, which then defines or imports it.

        Raises `ExportError` where its source is not at hand, or needs a package other than torch.
        """
        module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "?")
        if module is None or not name.isidentifier():
            raise ExportError(f"'{name}' cannot be written into a file: it is not defined at the top of a module")
        if getattr(builtins, name, None) is thing:
            return str(name)
        if getattr(nn, name, None) is thing:
            self.imports.add(("torch", "nn", ""))
            return f"nn.{name}"
        self._add(module, name)
        return name

    def _add(self, module: str, name: str) -> None:
        if module.split(".")[0] in ALLOWED:
            self.imports.add((module, name, ""))
            return
        if name in self.reserved or self._modules.setdefault(name, module) != module:
            other = self._modules.get(name, "the file itself")
            raise ExportError(f"the name '{name}' of {module} is taken by {other}; rename one of them")
        if name in self.definitions:
            return
        if len(self.definitions) >= MOST:
            raise ExportError(f"it uses more than {MOST} definitions")
        self.definitions[name] = ""  # in the making: a definition may name itself
        home = self._home(module)
        statement, alias = home.names.get(name, (None, None))
        if statement is None or alias is not None:
            raise ExportError(f"'{name}' is not defined at the top of the module '{module}'")
        _check_imports(statement, name)
        for used in _names(statement):
            if used in home.names and used != name:
                self._use(home, used)
        del self.definitions[name]  # to stand behind what it uses
        self.definitions[name] = home.text(statement)

    def _use(self, home: Home, name: str) -> None:
        """A name that a definition of this module uses: another of its definitions, or an import."""
        statement, alias = home.names[name]
        if alias is None:
            self._add(home.module, name)
            return
        is_from = isinstance(statement, ast.ImportFrom)
        module = _origin(home.module, statement) if isinstance(statement, ast.ImportFrom) else alias.name
        if module.split(".")[0] in ALLOWED:
            self.imports.add((module, alias.name if is_from else "", alias.asname or ""))
        elif is_from and alias.asname is None:
            self._add(module, alias.name)
        else:
            raise ExportError(f"'{home.module}' imports '{module}', which a file that needs PyTorch only cannot do")

    def _home(self, module: str) -> Home:
        if module not in self._homes:
            self._homes[module] = home_of(module)
        return self._homes[module]

    def import_lines(self) -> str:
        """The imports as isort orders them: the standard library, a blank line, torch."""
        sections = [sorted(i for i in self.imports if (i[0].split(".")[0] == "torch") == third) for third in (False, True)]
        return "\n\n".join("\n".join(_import_section(section)) for section in sections if section)


def _import_section(imports: list[tuple[str, str, str]]) -> list[str]:
    lines = [f"import {module}" + (f" as {alias}" if alias else "") for module, name, alias in imports if not name]
    for module in dict.fromkeys(module for module, name, _ in imports if name):
        members = sorted(((n, a) for m, n, a in imports if m == module and n), key=_member_order)
        lines.append(f"from {module} import " + ", ".join(n + (f" as {a}" if a else "") for n, a in members))
    return lines


def _member_order(member: tuple[str, str]) -> tuple[int, str]:
    """Constants, classes, functions."""
    name = member[0]
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


def _names(statement: ast.stmt) -> list[str]:
    """The names a definition uses, in order of their first appearance."""
    nodes = [n for n in ast.walk(statement) if isinstance(n, ast.Name)]
    nodes.sort(key=lambda n: (n.lineno, n.col_offset))
    return list(dict.fromkeys(n.id for n in nodes))


def _check_imports(statement: ast.stmt, name: str) -> None:
    for node in ast.walk(statement):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            if module.split(".")[0] not in ALLOWED:
                raise ExportError(f"'{name}' imports '{module}', which a file that needs PyTorch only cannot do")


def _origin(module: str, statement: ast.ImportFrom) -> str:
    package = getattr(sys.modules[module], "__package__", None)
    return importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)

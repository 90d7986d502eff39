"""The commands in the documents are commands that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hiernas.cli import app

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def written(page: str) -> list[str]:
    """Lines of code blocks, and code between words, that call HierNAS; where a line goes on it is one."""
    text = re.sub(r"\\\n\s*", "", (ROOT / page).read_text())
    blocks = re.findall(r"^\s*(?:\$ )?(hiernas \S.*)$", text, re.MULTILINE)
    return blocks + re.findall(r"`(hiernas [a-z]+ [^`\n]*)`", text)


def option_names(command: Any) -> set[str]:
    return {"--help"} | {name for p in command.params for name in (*p.opts, *p.secondary_opts)}


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_have_these_options(page: str) -> None:
    for line in written(page):
        words = shlex.split(re.split(r"\s[#>|]\s|\s#|\.\.\.$", line)[0].replace("'", ""))[1:]
        if words[0].startswith("-"):
            continue  # of the program itself
        assert words[0] in COMMANDS, f"{page}: {line}"
        given = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert given <= option_names(COMMANDS[words[0]]), f"{page}: {line}"


def test_there_are_commands_to_look_at() -> None:
    assert sum(len(written(page)) for page in PAGES) > 100

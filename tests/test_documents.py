"""What the documents name is there: commands and their options, files behind links, benchmarks and result files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hiernas.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMED = {"benchmarks/results": r"[\w.]+-\d{4}-\d{2}-\d{2}\.md", "benchmarks": r"benchmarks/(\w+\.py)"}  # by folder
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def written(page: Path) -> list[str]:
    """Lines of code blocks, and code between words, that call HierNAS; where a line goes on it is one."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    blocks = re.findall(r"^\s*(?:\$ )?(hiernas \S.*)$", text, re.MULTILINE)
    return blocks + re.findall(r"`(hiernas [a-z]+ [^`\n]*)`", text)


def option_names(command: Any) -> set[str]:
    return {"--help"} | {name for p in command.params for name in (*p.opts, *p.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_have_these_options(page: Path) -> None:
    for line in written(page):
        words = shlex.split(re.split(r"\s[#>|]\s|\s#|\.\.\.$", line)[0].replace("'", ""))[1:]
        if words[0].startswith("-"):
            continue  # of the program itself
        assert words[0] in COMMANDS, f"{page}: {line}"
        given = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert given <= option_names(COMMANDS[words[0]]), f"{page}: {line}"


def test_there_are_commands_to_look_at() -> None:
    assert sum(len(written(page)) for page in PAGES) > 100


def test_links_lead_to_files() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())]
    assert sum("results/" in link for _, link in links) >= 5
    assert not [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]


def test_results_and_benchmarks_that_are_named_exist() -> None:
    for folder, pattern in NAMED.items():
        named = {(page.name, name) for page in PAGES for name in re.findall(pattern, page.read_text())}
        assert len(named) >= 5
        assert not [f"{page}: {name}" for page, name in named if not (ROOT / folder / name).exists()]


def test_every_page_is_in_the_contents_of_the_site() -> None:
    named = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in (ROOT / "docs").rglob("*.md") if f": {page.relative_to(ROOT)}\n" not in named] == []

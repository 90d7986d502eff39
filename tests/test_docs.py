"""What the documentation names is there: files behind links, and the benchmarks and result files that figures rest on."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
NAMED = {"benchmarks/results": r"[\w.]+-\d{4}-\d{2}-\d{2}\.md", "benchmarks": r"benchmarks/(\w+\.py)"}  # by folder


def test_links_lead_to_files() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())]
    assert sum("results/" in link for _, link in links) >= 5
    assert not [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]


def test_results_and_benchmarks_that_are_named_exist() -> None:
    for folder, pattern in NAMED.items():
        named = {(page.name, name) for page in PAGES for name in re.findall(pattern, page.read_text())}
        assert len(named) >= 5
        assert not [f"{page}: {name}" for page, name in named if not (ROOT / folder / name).exists()]

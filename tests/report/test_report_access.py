"""Every kind of page can be read by everyone: its markup, and where Chromium is installed what the browser makes of it.

Contrasts are WCAG 2.2's (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio), computed here from the style sheet; in the browser
axe-core judges the pages, light and dark, wide and narrow, and as they are printed.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report_pages import write_pages
from report_runs import Page

from hiernas.report.kit import style

KINDS = (
    "run", "one-epoch", "large", "no-mistakes", "control", "train", "hournas", "hournas-one", "hmnas", "darts", "hdas", "study",
)  # fmt: skip
TEXTS = (  # colours of texts, on which ground, and its contrast at least: 4.5 for texts, 3 for marks of a figure
    *((text, ground, 4.5) for text in ("ink", "muted", "blue", "warn") for ground in ("paper", "panel")),
    ("orange", "paper", 4.5), ("ink", "warn-panel", 4.5), ("warn", "warn-panel", 4.5), ("ink", "tint", 4.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = write_pages(tmp_path_factory.mktemp("pages"))
    assert set(found) == set(KINDS)
    return found


# -- the markup ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_markup_of_a_page(kind: str, pages: dict[str, Path]) -> None:
    text = pages[kind].read_text(encoding="utf-8")
    page = Page(pages[kind])
    tags = Counter(tag for tag, _ in page.attributes)
    assert dict(page.attributes)["html"]["lang"] == "en"
    assert all(tags[tag] == 1 for tag in ("title", "h1", "main", "nav", "footer"))
    levels = [int(tag[1]) for tag, _ in page.attributes if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))  # none is left out on the way down
    ids = [a["id"] for _, a in page.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    inside = [a["href"][1:] for tag, a in page.attributes if tag == "a" and a["href"].startswith("#")]
    assert len(inside) == tags["section"] == tags["h2"]
    assert set(inside) <= set(ids)
    for tag, a in page.attributes:
        if tag == "th":
            assert a["scope"] in ("col", "row")
        if tag == "img":
            assert a["alt"]
        if "scroll" in a.get("class", "").split():
            assert a["tabindex"] == "0"
            assert a["role"] == "group"
            assert a["aria-label"]
        if a.get("role") == "img":
            assert len(a["aria-label"]) > 40
            assert re.search(r"\d", a["aria-label"])  # what it shows, with its figures
    assert not re.search(r"<th[^>]*>\s*</th>", text)
    assert tags["figure"] == tags["figcaption"]


def test_every_figure_says_what_to_look_for(pages: dict[str, Path]) -> None:
    captions = [c for kind in KINDS for c in re.findall(r"<figcaption>(.*?)</figcaption>", pages[kind].read_text(), re.DOTALL)]
    without = [c for c in captions if not c.strip().startswith('<span class="look">')]
    assert len(captions) > 30
    assert all("No other network that was found" in c for c in without)  # a front of one


def test_colours_have_contrast() -> None:
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in style().split("@media screen", 2)[:2])
    assert {"ink", "paper", "tint"} <= set(light) & set(dark)
    for scheme in (light, {**light, **dark}):
        for text, ground, least in TEXTS:
            assert contrast(scheme[text], scheme[ground]) >= least, (text, ground)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)  # the well-known grey that just fails


def contrast(a: str, b: str) -> float:
    """WCAG's contrast ratio of two sRGB colours."""
    low, high = sorted(map(_luminance, (a, b)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


# -- in a browser ----------------------------------------------------------------------------------------------------

FORMS = {
    "light": (1100, "screen", "light"), "narrow and dark": (390, "screen", "dark"),
    "printed": (688, "print", "light"),  # A4 less its margins
}  # fmt: skip
QUIET = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync")  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: see the extra browser")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium is installed here, so pages are not looked at in a browser")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, chromium_sandbox=False, args=[*QUIET])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's own script."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed: see the extra browser")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def opened(browser: Any, path: Path, width: int = 1100, media: str = "screen", scheme: str = "light") -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.emulate_media(media=media, color_scheme=scheme)
    page.route("http*://**", lambda _: pytest.fail("a page loads something"))
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing_in_any_form(kind: str, pages: dict[str, Path], browser: Any, axe: str) -> None:
    page = opened(browser, pages[kind])
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    page.evaluate(axe)
    for form, (width, media, scheme) in FORMS.items():
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(media=media, color_scheme=scheme)
        found = page.evaluate("axe.run({resultTypes: ['violations']})")
        assert len(found["passes"]) > 15  # it did look
        said = [f"{v['id']}: {v['nodes'][0]['html']}" for v in found["violations"]]
        assert said == [], form
        assert page.evaluate("document.documentElement.scrollWidth") <= width, form  # nothing is cut, nor scrolled sideways
    page.close()


def test_axe_sees_what_is_wrong(pages: dict[str, Path], browser: Any, axe: str) -> None:
    """So that a page without a violation says something."""
    page = opened(browser, pages["run"])
    page.evaluate("document.querySelector('svg').removeAttribute('aria-label')")
    page.add_style_tag(content="p { color: #999 !important; }")
    page.evaluate(axe)
    found = {v["id"] for v in page.evaluate("axe.run()")["violations"]}
    assert {"svg-img-alt", "color-contrast"} <= found
    page.close()


def test_the_keyboard_reaches_everything(pages: dict[str, Path], browser: Any) -> None:
    page = opened(browser, pages["large"], width=390)
    expected = page.evaluate(
        "[...document.querySelectorAll('a, button, summary, .scroll')].filter((e) =>"
        " !e.closest('details:not([open]) > :not(summary)') && (!e.matches('.scroll') || e.scrollWidth > e.clientWidth)).length"
    )
    seen = set()
    for _ in range(expected):
        page.keyboard.press("Tab")
        seen.add(page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.outerHTML.slice(0, 150), s.outlineStyle, s.outlineWidth].join('|'); })()"
        ))  # fmt: skip
    assert expected > 15
    assert len(seen) == expected
    assert all(each.endswith("|solid|2px") for each in seen)  # the focus is seen
    assert sum('class="scroll"' in each for each in seen) >= 3
    page.close()


def test_what_is_there_to_copy_is_copied_and_said(pages: dict[str, Path], browser: Any) -> None:
    page = opened(browser, pages["run"])
    page.evaluate("void (navigator.clipboard.writeText = async (text) => { window.copied = text; })")
    first = page.get_by_role("button").first
    assert first.get_attribute("aria-label") == f"Copy hiernas predict {pages['run'].parent} PICTURE..."
    first.press("Enter")
    page.wait_for_function("document.querySelector('[role=status]').textContent == 'Copied to the clipboard.'")
    assert page.evaluate("window.copied") == f"hiernas predict {pages['run'].parent} PICTURE..."
    page.evaluate("void (navigator.clipboard.writeText = async () => { throw Error(); })")
    code = page.get_by_role("button").last
    code.click()
    page.wait_for_function("document.querySelector('[role=status]').textContent.startsWith('Not copied')")
    assert "onnxruntime.InferenceSession(" in page.evaluate("getSelection().toString()")
    page.close()


def test_a_printout_has_the_folded_parts_and_the_targets_of_links(pages: dict[str, Path], browser: Any) -> None:
    page = opened(browser, pages["large"], width=688, media="print")
    hidden = page.locator("details td").first
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    assert hidden.bounding_box()["height"] > 5  # by the style sheet alone
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    assert page.locator("button:visible, nav:visible").count() == 0
    page.close()
    page = opened(browser, pages["study"], width=688, media="print")
    shown = page.evaluate("getComputedStyle(document.querySelector('td a, th a'), '::after').content")
    assert shown in ('" (" attr(href) ")"', '" (hnas-0/report.html)"')
    page.close()

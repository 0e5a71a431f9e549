"""Every page of the built book in a real browser: nothing fails, nothing is missing or from another host."""

from __future__ import annotations

from urllib.parse import unquote, urldefrag

import pytest
import yaml
from playwright.sync_api import Page

from tests.browser.conftest import ROOT, SITE

pytestmark = pytest.mark.browser


def pages() -> list[str]:
    """The pages of the table of contents, and the one with the search."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [f"{file}.html" for file in files] + ["search.html"]


def open_page(page: Page, address: str) -> None:
    page.goto(address, wait_until="load")
    page.wait_for_timeout(200)  # what scripts do once the page is there


@pytest.mark.parametrize("name", pages())
def test_page(page, site, name):
    open_page(page, site + name)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.faults == []
    # The theme repeats the title for print, hidden on screen.
    titles = [title for title in page.locator("h1:visible").all_inner_texts() if title.strip("# \n")]
    assert len(titles) == 1, titles
    images = page.eval_on_selector_all(
        "img", "all => all.map(i => ({src: i.src.slice(0, 90), alt: i.alt, width: i.complete ? i.naturalWidth : 0}))"
    )
    assert [image["src"] for image in images if not image["width"]] == [], "pictures that did not load"
    assert [image["src"] for image in images if not image["alt"].strip()] == [], "pictures without a description"
    links = page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")
    inside = {unquote(urldefrag(link).url.removeprefix(site)) for link in links if link.startswith(site)}
    assert [link for link in sorted(inside) if not (SITE / link).exists()] == [], "links to nothing"
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400, "wider than a telephone"


def test_the_site_opens_on_the_landing_page(page, site):
    open_page(page, site)
    page.wait_for_url(f"{site}{pages()[0]}")
    assert page.faults == []


def test_formulas_are_set(page, site):
    """Browsers set MathML themselves: a fraction is higher than a line of text, and its source can be copied."""
    for name in pages():
        open_page(page, site + name)
        boxes = page.eval_on_selector_all("math", "all => all.map(m => m.getBoundingClientRect().height)")
        if boxes:
            assert min(boxes) > 0
            return
    pytest.fail("no page of the book has a formula")


def test_search_finds_a_word(page, site):
    open_page(page, f"{site}search.html?q=margin")
    page.wait_for_selector("ul.search li a")
    assert page.faults == []

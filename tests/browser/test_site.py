"""Every page of the built book in a real browser: nothing fails, nothing is missing or from another host."""

from __future__ import annotations

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml
from playwright.sync_api import Page, sync_playwright

from cramming import export
from cramming.models import SMOLLM2, load

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_site"
NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
pytestmark = pytest.mark.browser


def pages() -> list[str]:
    """The pages of the table of contents, and the one with the search."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [f"{file}.html" for file in files] + ["search.html"]


def lacking(what: str) -> None:
    """Skip, but never where all tests have to run."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def site():
    """Address of the built book, served from this machine."""
    if not (SITE / "index.html").exists():
        lacking("no built book in _site: run `make book` first")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        lacking("no Chromium: install it (Debian: apt-get install chromium) or set CHROMIUM to its path")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, site):
    """A new page that remembers what went wrong on it, in `page.faults`."""
    new = browser.new_page(viewport={"width": 1280, "height": 900})
    new.set_default_timeout(120_000)  # a busy machine is no fault of the page
    new.faults = []
    new.on("console", lambda m: m.type in ("error", "warning") and new.faults.append(f"console: {m.text}"))
    new.on("pageerror", lambda error: new.faults.append(f"exception: {error}"))
    new.on("requestfailed", lambda request: new.faults.append(f"request failed: {request.url}"))
    new.on("response", lambda r: r.status >= 400 and new.faults.append(f"{r.status}: {r.url}"))
    new.on(
        "request", lambda r: r.url.startswith((site, "data:", "blob:")) or new.faults.append(f"other host: {r.url}")
    )
    yield new
    new.close()


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


@pytest.mark.realmodel
def test_a_browser_decodes_a_passage_by_itself_from_files(browser, tmp_path):
    """The book opened by double click, the weights from a file: exact, until the vector is changed."""
    if not (SITE / "book" / "decode.html").exists():
        lacking("no built book in _site: run `make book` first")
    weights, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    export.write(load(SMOLLM2, device="cpu"), weights)
    other.write_bytes(b"nothing")
    page, asked, faults = browser.new_page(), list[str](), list[str]()
    page.set_default_timeout(600_000)  # a busy machine is no fault of the page
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda m: m.type in ("error", "warning") and faults.append(m.text))
    page.goto((SITE / "book" / "decode.html").as_uri())
    said = page.locator("#decode-status")

    def decoded() -> tuple[str, str]:
        page.click("#decode-run")
        page.wait_for_selector("#decode-stop:disabled")
        page.wait_for_selector("#decode-run:enabled")
        return said.inner_text(), "".join(page.locator("#decode-out span").all_text_contents())

    page.set_input_files("#decode-file", other)
    page.wait_for_function("document.getElementById('decode-status').textContent.includes('does not hold')")
    assert page.locator("#decode-run").is_disabled()
    page.set_input_files("#decode-file", weights)
    page.wait_for_selector("#decode-run:enabled")
    shortest = "CRAMMED.passages.reduce((least, p, i, all) => (p.length < all[least].length ? i : least), 0)"
    which = page.evaluate(shortest)
    truth = page.evaluate(f"CRAMMED.passages[{which}].ids")
    page.select_option("#decode-passage", str(which))
    verdict, text = decoded()
    assert len(truth) >= 16
    assert verdict.startswith(f"Exact: {len(truth)} of {len(truth)} tokens right")
    assert text.replace("↵", "") == load(SMOLLM2, device="cpu").tokenizer.decode(truth)
    assert page.locator("#decode-out .wrong").count() == 0
    page.fill("#decode-angle", "60")
    verdict, _ = decoded()
    assert verdict.startswith("First error at token ")
    assert page.locator("#decode-out .wrong").count() > 0
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert faults == []
    page.close()

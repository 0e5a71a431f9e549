"""What the browser tests share: Chromium, the built book as a site, and a page that remembers its faults."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import BrowserContext, Page, sync_playwright

from benchmarks.browser import served
from cramming.book import build, export
from cramming.models import load
from cramming.results.plans import load_plan
from cramming.results.store import Store
from cramming.results.sweep import sweep

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_site"
STATIC = "book/_static"


def lacking(what: str) -> None:
    """Skip, but never where all tests have to run."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def site():
    """Address of the built book."""
    if not (SITE / "index.html").exists():
        lacking("no built book in _site: run `make book` first")
    with served(SITE) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    found = build.chromium()
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


@pytest.fixture(scope="session")
def widgets(tmp_path_factory) -> Path:
    """A folder with the pages that compute, for a tiny model: their fragments, what the build puts beside them, the
    weights in parts, and a file of them.
    """
    place, plan = tmp_path_factory.mktemp("widgets"), load_plan("smoke")
    lm = load(plan.models[0], device="cpu")
    store = Store(place / "data" / "results" / "smoke")
    again = next(one for one in plan.experiments if one.recipe == export.LIVE and not one.changes)
    sweep(plan.model_copy(update={"experiments": [plan.experiments[0], again]}), lm, store, progress=False)
    shutil.copytree(ROOT / STATIC, place / STATIC)
    runs = store.frame().query("exact")["key"].tolist()
    (place / export.PAGE).write_text(yaml.safe_dump({"scale": "smoke", "runs": runs}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "PART", 200_000)
        export.assemble(place, place, weights=True)
    export.write(lm, place / "model.onnx")
    (place / "book" / "pages").mkdir()
    for name in ("decode", "cram"):
        (fragment,) = re.findall(r"```\{raw\} html\n(.*?)```", (ROOT / "book" / f"{name}.md").read_text(), re.DOTALL)
        (place / "book" / "pages" / f"{name}.html").write_text(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Page</title><link rel="icon" href="data:,">'
            '<link rel="stylesheet" href="../_static/custom.css"><script defer src="../_static/replay.js"></script>'
            f"{fragment}</html>"
        )
    return place


@pytest.fixture
def parts(widgets) -> Path:
    """The folder of the parts, whatever a test does to them put right again."""
    there = widgets / STATIC / "browser" / export.WEIGHTS
    before = {path: path.read_bytes() for path in there.iterdir()}
    yield there
    for path, content in before.items():
        path.write_bytes(content)


@pytest.fixture
def context(browser):
    new = browser.new_context(reduced_motion="reduce")
    new.set_default_timeout(120_000)  # a busy machine is no fault of the page
    yield new
    new.close()


@pytest.fixture
def online(widgets, request):
    """Address of the page that a module of tests is about, its `PAGE`, served."""
    with served(widgets) as address:
        yield f"{address}book/pages/{request.module.PAGE}.html"


@pytest.fixture
def offline(widgets, request):
    """The same, opened from its folder."""
    return (widgets / "book" / "pages" / f"{request.module.PAGE}.html").as_uri()


def opened(context: BrowserContext, address: str) -> Page:
    """The page; what it asks for is in `asked`, what goes wrong in `faults`."""
    page = context.new_page()
    page.asked, page.faults = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda m: m.type in ("error", "warning") and page.faults.append(m.text))
    page.goto(address)
    return page


def here(page: Page) -> bool:
    """Whether the page asked nobody but the place that it came from."""
    own = page.url.split("/book/")[0]
    return all(url.startswith((own, "data:", "blob:")) for url in page.asked)

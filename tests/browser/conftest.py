"""What the browser tests share: Chromium, the built book as a site, and a page that remembers its faults."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from cramming.book import build

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_site"


def lacking(what: str) -> None:
    """Skip, but never where all tests have to run."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a folder, served from this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


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

"""The pages: Jupyter Book renders the staged tree; and the same as one archive, and as one PDF."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from cramming.book.execute import contents
from cramming.book.stage import stage
from cramming.errors import CrammingError


def build(root: Path, *, weights: bool = False) -> Path:
    """Render the staged tree with Jupyter Book, every warning an error, put the pages in _site, return index.html.

    With weights, the page that decodes can fetch the model from beside it, once the pages are served by a web server.

    Raises:
        CrammingError: Jupyter Book failed; its log is printed, and the pages of an earlier build stay.
    """
    staged, site = stage(root, weights=weights), root / "_site"
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(staged)]
    command += ["--warningiserror", "--nitpick", "--keep-going"]
    # The repository is the working directory, so that autodoc documents this package and not its staged copy.
    done = subprocess.run(command, cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        amiss = done.stdout.count("WARNING:") + done.stdout.count("ERROR:")
        raise CrammingError(f"the book did not build: {amiss} warnings and errors, all in the log above")
    # The front page only leads on to the first one and names no icon, so browsers ask for the one every site may have.
    pages = staged / "_build" / "html"
    if (icon := pages / "_static" / "favicon.svg").exists():
        shutil.copy2(icon, pages / "favicon.ico")
    if site.exists():
        site.rename(staged / "site_before")
    pages.rename(site)
    return site / "index.html"


def archive(root: Path, target: Path) -> Path:
    """The built pages as one zip, read by a double click on its index.html; so without weights, which take a server.

    Raises:
        CrammingError: nothing is built yet, or the archive cannot be written.
    """
    site = _built(root)
    with _writing(target), zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for path in sorted(path for path in site.rglob("*") if "weights" not in path.relative_to(site).parts):
            file.write(path, Path("cramming-book") / path.relative_to(site))
    return target


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Make the folder of a file, and say in one line if the file cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CrammingError(f"{target} cannot be written ({error.strerror}): name another place") from error


CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Path of a Chromium on this machine: the variable CHROMIUM, or the first that is found."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)


def printed(root: Path, target: Path) -> Path:
    """The whole book as one PDF, in the order of its contents, each page a bookmark.

    Chromium prints the built pages one by one, as a reader would, so the PDF shows what the pages show.

    Raises:
        CrammingError: nothing is built yet, Chromium or the packages that drive it are missing, or it cannot be
            written.
    """
    site, found = _built(root), chromium()
    try:
        from playwright.sync_api import sync_playwright
        from pypdf import PdfWriter
    except ImportError as error:
        raise CrammingError(f"a PDF takes {error.name}: pip install '.[dev]'") from error
    if not found:
        raise CrammingError("a PDF takes Chromium: install it (Debian: apt-get install chromium) or set CHROMIUM")
    whole = PdfWriter()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found)
        page = browser.new_page()
        page.emulate_media(media="print", color_scheme="light")
        for name in contents(root):
            page.goto((site / f"{name}.html").as_uri(), wait_until="load")
            page.evaluate("document.documentElement.dataset.theme = 'light'")
            sheet = page.pdf(
                format="A4",
                margin={"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
                print_background=True,
            )
            whole.append(BytesIO(sheet), outline_item=page.locator("h1").last.inner_text().strip("# \n"))
        browser.close()
    with _writing(target):
        whole.write(target)
    return target


def _built(root: Path) -> Path:
    if not (root / "_site" / "index.html").exists():
        raise CrammingError("no pages are built yet: run cramming book --no-execute first")
    return root / "_site"

"""Sentences crammed in a browser, as the page *Cram it yourself* does it, beside PyTorch on the same processor.

    python -m benchmarks.browser     # some minutes on two cores; writes data/benchmarks/browser/cram.csv

Wants the built book (`make book`) and Chromium (`make chromium`). Each count of threads is a visit of its own: the
weights from a file, then the first 16 tokens of each sentence from seed 0. A browser gives threads only to a page that
was served with two headers, so the page is served with them and without.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd
import psutil
from playwright.sync_api import Browser, sync_playwright
from tqdm import tqdm

from cramming.book import build, export
from cramming.engine import cram
from cramming.models import FrozenLM, load
from cramming.paths import BENCHMARKS, root
from cramming.recipes import RECIPES
from cramming.results.check import read_kept, recheck_kept
from cramming.texts import Passage, from_text

SENTENCES = (
    "The old lighthouse keeper counted every ship that passed before the storm took the lamp away from him.",
    "My sister says that three green parrots live behind the bakery and steal warm bread in the morning.",
    "Please remember to water the tomatoes, feed the cat twice, and leave the blue key under the third stone.",
    "In 1847 a clerk in Lisbon sold eleven copies of a map on which half the islands did not exist.",
)
LENGTH = 16  # tokens
PAGE, WEIGHTS = "book/cram.html", "model.onnx"
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


@contextlib.contextmanager
def served(folder: Path, headers: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Address of a folder, served from this machine with these headers."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def most_resident() -> float:
    """The most memory, in bytes, that one of the pages open now ever held; of Linux alone."""
    found = [0.0]
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if "--type=renderer" in " ".join(process.cmdline()):
                status = Path(f"/proc/{process.pid}/status").read_text()
                found.append(1024 * float(re.search(r"VmHWM:\s+(\d+) kB", status)[1]))  # type: ignore[index]
    return max(found)


class Visit(NamedTuple):
    """What a visit of the page came to: of each text its steps, their seconds, and the file with its vector."""

    threads: int
    steps: list[int]
    seconds: list[float]
    kept: list[Path]
    memory: float  # bytes, at most


def visit(browser: Browser, address: str, folder: Path, texts: list[str]) -> Visit:
    """Cram these texts on the page, with the weights that lie in the folder."""
    page = browser.new_page()
    page.set_default_timeout(1_200_000)
    page.goto(address + PAGE)
    threads = page.evaluate("crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1")
    page.set_input_files("#cram-file", folder / WEIGHTS)
    page.wait_for_selector("#cram-run:enabled")
    steps, seconds, kept = list[int](), list[float](), list[Path]()
    for text in texts:
        page.fill("#cram-text", text)
        page.click("#cram-run")
        page.wait_for_selector("#cram-run:disabled")
        page.wait_for_selector("#cram-run:enabled")
        said = page.inner_text("#cram-status")
        found = re.search(r"^Exact: .* found in (\d+) steps, ([\d.]+) s", said)
        if not found:
            raise SystemExit(f"{text!r} was not crammed: {said}")
        steps.append(int(found[1]))
        seconds.append(float(found[2]))
        with page.expect_download() as download:
            page.click("#cram-keep")
        kept.append(folder / f"{threads}-{len(kept)}.safetensors")
        download.value.save_as(kept[-1])
    most = most_resident()
    page.close()
    return Visit(threads, steps, seconds, kept, most)


def in_torch(lm: FrozenLM, passages: list[Passage]) -> float:
    """Seconds of a step of the package, one passage at a time."""
    runs = [run for one in passages for run in cram(lm, [one], RECIPES[export.LIVE], progress=False)]
    return sum(run.seconds for run in runs) / sum(run.steps for run in runs)


def spread(values: list[float], digits: int) -> str:
    """Median, and in brackets the least and the most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Measure, and write the table that the page shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="the model that the built book has")
    parser.add_argument("--site", type=Path, default=root() / "_site", help="the built book")
    parser.add_argument("--n", type=int, default=len(SENTENCES), help="how many of the sentences")
    parser.add_argument("--length", type=int, default=LENGTH, help="their first so many tokens")
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "browser" / "cram.csv")
    given = parser.parse_args()
    lm, found = load(given.model, device="cpu"), build.chromium()
    if not found or not (given.site / PAGE).exists():
        raise SystemExit("there is no browser or no built book: run make chromium and make book first")
    passages = [from_text(text, lm.tokenizer, length=given.length) for text in SENTENCES[: given.n]]
    rows = []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        folder = Path(name)
        export.write(lm, folder / WEIGHTS)
        for headers in tqdm([{}, ISOLATED], unit="visit"):
            browser = play.chromium.launch(executable_path=found)
            with served(given.site, headers) as address:
                seen = visit(browser, address, folder, [one.text for one in passages])
            certified = [recheck_kept(read_kept(path), device="cpu").exact for path in seen.kept]
            rows.append(
                {
                    "threads": seen.threads,
                    "steps": spread(list(map(float, seen.steps)), 0),
                    "seconds": spread(seen.seconds, 1),
                    "times a step of PyTorch": f"{sum(seen.seconds) / sum(seen.steps) / in_torch(lm, passages):.1f}",
                    "certified": f"{sum(certified)} of {len(certified)}",
                    "memory": f"{seen.memory / 1e9:.1f} GB",
                    "browser": f"Chromium {browser.version.split('.')[0]}",
                }
            )
            browser.close()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(given.out, index=False)
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()

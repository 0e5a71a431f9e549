"""Every page of the built book in a real browser: nothing fails, nothing is missing or from another host."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from urllib.parse import unquote, urldefrag

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page
from pypdf import PdfReader

from benchmarks.browser import most_resident
from cramming.book import build, export
from cramming.models import SMOLLM2, load
from cramming.paths import BENCHMARKS
from cramming.results.check import read_kept, recheck_kept
from tests.browser.conftest import ROOT, SITE, lacking, opened
from tests.steps import real_steps

WIDTHS = (390, 768, 1024, 1200, 1440)
MOST_SHIFT = 0.1  # the contents beside a page unfold as it is read, which counts too
LEAST_LETTERS = 9.0  # pixels
pytestmark = pytest.mark.browser


def pages() -> list[str]:
    """The pages of the table of contents, two modules of the API, and the page with the search."""
    files = [*build.contents(ROOT), "book/api/engine", "book/api/studies.growth", "search"]
    return [f"{file}.html" for file in files]


def open_page(page: Page, address: str) -> None:
    page.goto(address, wait_until="load")
    page.wait_for_timeout(200)  # what scripts do once the page is there


def watch_shifts(page: Page) -> None:
    """Sum up what moves by itself in `shift` of the window, as browsers count it: below 0.1 is what they call good."""
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver((list) => list.getEntries().forEach((entry) => {"
        "if (!entry.hadRecentInput) window.shift += entry.value;})).observe({type: 'layout-shift', buffered: true});"
    )


def scroll_through(page: Page) -> None:
    for top in range(0, page.evaluate("document.documentElement.scrollHeight"), 700):
        page.evaluate(f"window.scrollTo(0, {top})")
        page.wait_for_timeout(20)


def settle(page: Page) -> None:
    """Wait until sidebars have slid to their places and colours have faded."""
    page.wait_for_function("() => document.getAnimations().every(a => a.playState !== 'running')")


@pytest.mark.parametrize("name", pages())
def test_page(page, site, name):
    page.set_viewport_size({"width": 1440, "height": 900})
    watch_shifts(page)
    open_page(page, site + name)
    for answer in page.locator(".admonition.answer").all():
        box = answer.bounding_box()
        assert box["y"] + box["height"] <= 900, "the answer is not on the first screen"
    scroll_through(page)
    assert page.evaluate("window.shift") < MOST_SHIFT
    assert page.faults == []
    # The theme repeats the title for print, hidden on screen.
    titles = [title for title in page.locator("h1:visible").all_inner_texts() if title.strip("# \n")]
    assert len(titles) == 1, titles
    images = page.eval_on_selector_all(
        "img", "all => all.map(i => ({src: i.src.slice(0, 90), alt: i.alt, width: i.complete ? i.naturalWidth : 0}))"
    )
    assert [image["src"] for image in images if not image["width"]] == [], "pictures that did not load"
    described = re.compile(r"\S+( \S+){3,}.*[.!?]$", re.DOTALL)
    images += page.eval_on_selector_all("svg.drawn", "all => all.map(i => ({alt: i.ariaLabel}))")
    assert [i for i in images if not described.match(i["alt"].strip())] == [], "pictures not described in a sentence"
    links = page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")
    inside = {unquote(urldefrag(link).url.removeprefix(site)) for link in links if link.startswith(site)}
    assert [link for link in sorted(inside) if not (SITE / link).exists()] == [], "links to nothing"
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page has to be moved sideways"


@pytest.mark.parametrize("name", pages())
def test_a_page_is_accessible(page, site, name):
    page.emulate_media(reduced_motion="reduce")  # while a run is replayed, tokens to come are hidden
    open_page(page, site + name)
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        settle(page)
        said = Axe().run(page, options={"resultTypes": ["violations", "incomplete"]}).response
        grave = [
            f"{theme}: {found['impact']}: {found['id']}: {node['html'][:160]}"
            for found in said["violations"]
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        ]
        # Letters in the very colour behind them are for axe no fault but a doubt.
        grave += [
            f"{theme}: cannot be seen: {node['html'][:160]}"
            for found in said["incomplete"]
            if found["id"] == "color-contrast"
            for node in found["nodes"]
            if any(check["data"]["messageKey"] == "equalRatio" for check in node["any"])
        ]
        assert grave == []


def test_every_figure_and_table_leads_to_its_files(page, site):
    for name in pages():
        if not name.startswith("notebooks/"):
            continue
        open_page(page, site + name)
        shown = page.locator(".cell_output:has(table.dataframe), .cell_output:has(svg.drawn)")
        assert shown.count() == page.locator(".cell_output > p.made-from").count(), name
        assert "papermill" in page.locator("#made-from").inner_text()


def test_the_landing_page_has_its_picture(page, site):
    open_page(page, site + pages()[0])
    shown = page.locator("figure.finding svg.drawn")
    assert shown.count() == 1
    assert shown.bounding_box()["width"] > 300


def test_who_only_reads_has_the_method_in_five_minutes_and_all_in_thirty(page, site):
    open_page(page, site + pages()[0])
    rows = page.locator("table:has-text('what it tells') tbody tr")
    minutes = [int(re.search(r"(\d+) min$", row.strip())[1]) for row in rows.all_inner_texts()]
    assert "notebooks/method" in rows.first.locator("a").get_attribute("href")
    assert minutes[0] <= 5
    assert minutes[-1] == sum(minutes[:-1]) <= 30


def test_the_landing_page_is_light(page, site):
    """Without pictures it is 300 KB, before the server packs it; its icons are among them."""
    sizes = dict[str, int]()

    def weigh(response):
        if response.request.resource_type != "image":
            text = response.body()
            sizes[response.url] = len(re.sub(rb"<svg\b.*?</svg>", b"", text, flags=re.DOTALL))

    page.on("response", weigh)
    open_page(page, site + pages()[0])
    icons = "document.fonts.ready.then(f => [...f].filter(one => one.status === 'loaded').map(one => one.family))"
    assert any("Awesome" in family for family in page.evaluate(icons))
    assert len(sizes) > 10
    assert sum(sizes.values()) <= 300 * 1024, sorted(sizes.items(), key=lambda item: -item[1])[:5]


def test_tables_fit_and_on_a_telephone_the_result_is_in_view(page, site):
    """Where a table is wider than its frame, columns are hidden; a telephone has to show names and one result."""
    faults = []
    for name in pages():
        open_page(page, site + name)
        tables = page.locator(".bd-article table.dataframe:visible")
        for width in (1440, 1024):
            page.set_viewport_size({"width": width, "height": 900})
            settle(page)
            for i, table in enumerate(tables.all()):
                box = table.bounding_box()
                frame = table.evaluate("t => t.closest('.cell_output, .fold').getBoundingClientRect().right")
                if box and box["x"] + box["width"] > frame + 1:
                    faults.append(f"{name}, table {i + 1}: {box['width']:.0f} pixels at {width}")
        page.set_viewport_size({"width": 390, "height": 800})
        settle(page)
        for i, table in enumerate(tables.all()):
            second = table.locator("tbody tr").first.locator("th, td").nth(1)
            if second.count() and (box := second.bounding_box()) and box["x"] + box["width"] > 390:
                faults.append(f"{name}, table {i + 1}: no result in view at 390")
    assert faults == []


def test_one_switch_shows_and_hides_all_code_of_a_page(page, site):
    open_page(page, site + "notebooks/method.html")
    code = page.locator(".cell_input")
    assert code.count() > 3
    assert not any(one.is_visible() for one in code.all())
    assert page.locator(".cell summary:visible").count() == page.locator("details.fold > summary").count()
    button = page.get_by_role("button", name="Show code")
    button.click()
    assert all(one.is_visible() for one in code.all())
    page.get_by_role("button", name="Hide code").click()
    assert not any(one.is_visible() for one in code.all())


def test_drawings_follow_the_theme(page, site):
    open_page(page, site + "notebooks/tokens_per_vector.html")
    ink = "getComputedStyle(document.querySelector('svg.drawn text')).fill"
    inks = set()
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        inks.add(page.evaluate(ink))
    assert len(inks) == 2


@pytest.mark.parametrize("name", pages())
def test_on_a_telephone_nothing_moves_and_figures_can_be_read(page, site, name):
    page.set_viewport_size({"width": 390, "height": 900})
    watch_shifts(page)
    open_page(page, site + name)
    scroll_through(page)
    assert page.evaluate("window.shift") < MOST_SHIFT
    letters = page.eval_on_selector_all(
        "svg.drawn text",
        "all => all.filter(t => t.getClientRects().length && t.textContent.trim()).map(t => ["
        "t.textContent, parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getScreenCTM().a])",
    )
    assert [(text, height) for text, height in letters if height < LEAST_LETTERS] == []


def test_a_run_is_replayed(browser, site):
    """It moves once by itself, stops when asked, and stays still for readers who prefer that."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    open_page(page, site + pages()[0])
    live = page.locator(".replay-live")
    slider, status = live.locator("input"), live.locator(".replay-status")
    page.wait_for_function("Number(document.querySelector('.replay-live input').value) > 3")
    live.get_by_role("button", name="Pause").click()
    held = slider.input_value()
    page.wait_for_timeout(300)
    assert slider.input_value() == held
    last = slider.get_attribute("max")
    slider.fill(last)
    right = live.locator("span.right")
    assert right.count() == live.locator(".replay-tokens span").count() > 20
    assert status.inner_text().startswith(f"Step {last} of {last}: ")
    slider.fill("0")
    assert right.count() == 0
    page.close()
    page = browser.new_page(reduced_motion="reduce")
    open_page(page, site + pages()[0])
    page.locator(".replay-live").scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    assert page.locator(".replay-live input").input_value() == page.locator(".replay-live input").get_attribute("max")
    page.close()


def test_a_number_in_the_prose_names_its_notebook_and_its_runs(page, site):
    open_page(page, site + pages()[0])
    numbers = page.eval_on_selector_all("a.glued", "all => all.map(a => [a.innerText, a.title, a.href])")
    assert numbers
    for text, title, address in numbers:
        assert text.strip()
        assert re.match(r"\w+\.ipynb, cell \d+\. .*runs [0-9a-f]{16}", title), title
        assert "#made-from" in address


def test_the_archive_is_read_by_a_double_click_without_a_network(browser, site, tmp_path):
    target = build.archive(ROOT, tmp_path / "book.zip")
    assert target.stat().st_size < 60e6
    with zipfile.ZipFile(target) as file:
        file.extractall(tmp_path)
    context = browser.new_context(offline=True)
    page = context.new_page()
    faults = []

    def failed(request):
        # The browser fetches the picture of the tab when it likes, and the next page cuts that off.
        if not (request.failure == "net::ERR_ABORTED" and request.url.endswith("/favicon.svg")):
            faults.append(f"{request.failure}: {request.url}")

    page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or faults.append(r.url))
    page.on("requestfailed", failed)
    page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
    # The first leads on by itself: to open the next meanwhile would cut off what it loads.
    page.goto((tmp_path / "cramming-book" / "index.html").as_uri())
    page.wait_for_url(f"**/{pages()[0]}", wait_until="load")
    for name in pages():
        open_page(page, (tmp_path / "cramming-book" / name).as_uri())
    assert faults == []
    open_page(page, (tmp_path / "cramming-book" / "search.html").as_uri() + "?q=margin")
    page.wait_for_selector("ul.search li a")
    context.close()


def test_the_book_is_one_pdf(site, tmp_path):
    command = [sys.executable, "-m", "cramming.cli", "book", "--no-execute", "--no-build"]
    subprocess.run([*command, "--pdf", str(tmp_path / "book.pdf")], cwd=ROOT, check=True)
    read = PdfReader(tmp_path / "book.pdf")
    assert len(read.outline) == len(build.contents(ROOT))
    assert "one vector" in " ".join(read.pages[0].extract_text().split()).lower()


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
    page.set_viewport_size({"width": 390, "height": 900})
    open_page(page, f"{site}search.html?q=margin")
    page.wait_for_selector("ul.search li p.context")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page has to be moved sideways"
    assert page.faults == []


@pytest.mark.realmodel
def test_a_browser_decodes_a_passage_by_itself_from_files(context, tmp_path):
    """The book opened by double click, the weights from a file: exact, until the vector is changed."""
    if not (SITE / "book" / "decode.html").exists():
        lacking("no built book in _site: run `make book` first")
    weights, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    export.write(load(SMOLLM2, device="cpu"), weights)
    other.write_bytes(b"nothing")
    page = opened(context, (SITE / "book" / "decode.html").as_uri())
    page.set_default_timeout(600_000)  # a busy machine is no fault of the page
    page.wait_for_selector("#decode-replay .replay-live")  # the recording, before there are weights
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
    if sys.platform == "linux":
        assert most_resident() < 1.5e9
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
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.faults == []


STEPS = """async (steps) => {
  for (const name of ["gradient.js", "runtime.js"]) await crammingModel.script(name);
  const weights = new Uint8Array(await document.getElementById("weights").files[0].arrayBuffer());
  const ort = await crammingSession.runtime(CRAMMING_RUNTIME, 1), found = [];
  const session = await crammingSession.open(ort, CRAMMING_GRADIENT, weights);
  for (const { mem, ids, weights } of steps) {
    const { nats, gaps, gradient } = await session.run({
      mem: new ort.Tensor("float32", Float32Array.from(mem), [1, mem.length]),
      ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [ids.length]),
      weights: new ort.Tensor("float32", Float32Array.from(weights), [ids.length]),
      temperature: new ort.Tensor("float32", Float32Array.of(1), []),
    });
    found.push([nats, gaps, gradient].map((one) => Array.from(one.data)));
  }
  return found;
}"""


@pytest.mark.realmodel
def test_a_browser_finds_the_gradient_that_torch_finds(browser, tmp_path):
    if not (SITE / "book" / "cram.html").exists():
        lacking("no built book in _site: run `make book` first")
    lm, weights = load(SMOLLM2, device="cpu"), tmp_path / "model.onnx"
    export.write(lm, weights)
    page, steps = browser.new_page(), real_steps(lm)
    page.set_default_timeout(600_000)  # a busy machine is no fault of the page
    page.goto((SITE / "book" / "cram.html").as_uri())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<input type=file id=weights>')")
    page.set_input_files("#weights", weights)
    fed = [{"mem": one.mem[0].tolist(), "ids": one.ids, "weights": one.weights.tolist()} for one in steps]
    for one, (nats, gaps, gradient) in zip(steps, page.evaluate(STEPS, fed), strict=True):
        one.holds_to(np.array(nats), np.array(gaps), np.array(gradient)[None], most=2e-4)  # sums without FMA
    page.close()


@pytest.mark.realmodel
def test_a_browser_crams_a_sentence_by_itself_and_the_package_certifies_it(context, tmp_path):
    """The book opened by double click, the weights from a file; what was found holds outside too."""
    if not (SITE / "book" / "cram.html").exists():
        lacking("no built book in _site: run `make book` first")
    text, weights, kept = "Gulls play chess by candlelight.", tmp_path / "model.onnx", tmp_path / "kept.safetensors"
    export.write(load(SMOLLM2, device="cpu"), weights)
    page = opened(context, (SITE / "book" / "cram.html").as_uri())
    page.set_default_timeout(600_000)  # a busy machine is no fault of the page
    page.set_input_files("#cram-file", weights)
    page.wait_for_selector("#cram-run:enabled")
    page.fill("#cram-text", text)
    page.click("#cram-run")
    page.wait_for_selector("#cram-run:disabled")
    page.wait_for_selector("#cram-run:enabled")
    assert page.inner_text("#cram-status").startswith("Exact: ")
    assert page.inner_text("#cram-said") == text
    with page.expect_download() as download:
        page.click("#cram-keep")
    download.value.save_as(kept)
    found = read_kept(kept)
    assert found.token_ids == load(SMOLLM2, device="cpu").tokenizer(text, add_special_tokens=False)["input_ids"]
    assert recheck_kept(found, device="cpu").exact
    if sys.platform == "linux":
        assert most_resident() < 2e9
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.faults == []


@pytest.mark.realmodel
def test_the_benchmark_of_the_page_is_one_command(tmp_path):
    if not (SITE / "book" / "cram.html").exists():
        lacking("no built book in _site: run `make book` first")
    out, shipped = tmp_path / "cram.csv", BENCHMARKS / "browser" / "cram.csv"
    command = ["-m", "benchmarks.browser", "--site", SITE, "--n", "1", "--length", "4", "--out", out]
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True, capture_output=True)
    mine = pd.read_csv(out)
    assert list(mine) == list(pd.read_csv(shipped))
    assert mine["threads"].iloc[0] == 1
    assert set(mine["certified"]) == {"1 of 1"}

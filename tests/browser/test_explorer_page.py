"""The explorer by mouse and by keyboard: on a page of the fragment alone, opened from a folder, and on built pages."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest
from playwright.sync_api import Page, expect

from cramming.book import explorer
from tests.browser.conftest import ROOT, SITE, lacking

STATIC = ROOT / "book" / "_static"
PAGES = ["notebooks/growth.html", "notebooks/tokens_per_vector.html", "notebooks/information.html"]
pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

WORDS = ["Call", " me", " Ish", "mael", ".", "\n", " Some", " years", " ago", "—", "never", " mind"] * 3
CONTRAST = """all => all.map(token => {
  const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const style = getComputedStyle(token);
  const [a, b] = [light(style.color), light(style.backgroundColor)].sort((a, b) => b - a);
  return {level: Number(token.dataset.level), contrast: (a + 0.05) / (b + 0.05), light: light(style.backgroundColor)};
})"""


def tokens(passage: str, stages: list[int]) -> pd.DataFrame:
    """Each token costs 0.2 bits more than the one before without mem; with it a tenth if crammed, else as much."""
    rows = [
        (passage.split("/")[0], passage, crammed, i, word, *costs(i, crammed), i < crammed, step(i, stages[-1]), 200)
        for crammed in stages
        for i, word in enumerate(WORDS)
    ]
    names = ["source", "passage", "crammed", "position", "token", "bits", "bits_with", "right", "step", "steps"]
    return pd.DataFrame(rows, columns=names)


def costs(i: int, crammed: int) -> tuple[float, float]:
    bits = i * 0.6
    return (bits if i else float("nan"), bits / 10 if i < crammed else bits)


def step(i: int, crammed: int) -> float:
    return 5.0 * (i + 1) if i < crammed else float("nan")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A page with the fragment, the style and the script, as a file; the first passage has a vector a length."""
    some = pd.concat([tokens("novels/moby", list(range(1, 31))), tokens("fresh/last", [20])])
    file = tmp_path_factory.mktemp("explorer") / "page.html"
    file.write_text(
        '<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<link rel="stylesheet" href="{(STATIC / "custom.css").as_uri()}">'
        f'<script defer src="{(STATIC / "explorer.js").as_uri()}"></script>'
        f"<title>Page</title>{explorer.markup(some)}{explorer.markup(some)}</html>",
        encoding="utf-8",
    )
    return file.as_uri()


@pytest.fixture(scope="module")
def sheet(browser):
    """One page for all tests, since a new one takes its time, and a list of what goes wrong on it."""
    new, faults = browser.new_page(), []
    new.set_default_timeout(120_000)  # a busy machine is no fault of the page
    new.on("console", lambda m: m.type in ("error", "warning") and faults.append(m.text))
    new.on("pageerror", lambda error: faults.append(str(error)))
    yield new, faults
    new.close()


@pytest.fixture
def alone(sheet, address):
    """The page with the fragment, opened anew; what went wrong on it is an error at the end."""
    page, faults = sheet
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(reduced_motion="reduce")
    page.mouse.move(0, 0)
    page.goto(address)
    yield page
    assert faults == []


def part(page: Page, selector: str):
    return page.locator(".cramming-explorer").first.locator(selector)


def levels(page: Page) -> list[str | None]:
    return part(page, "[role=option]").evaluate_all("all => all.map(token => token.dataset.level ?? null)")


def test_the_slider_shows_the_vector_of_each_length(alone):
    slider, status = part(alone, "input[type=range]"), part(alone, ".explorer-status")
    assert slider.input_value() == slider.get_attribute("max") == "30"
    expect(status).to_contain_text("exactly 30 tokens, right by step 150 of 200. 30 of 30 right.")
    before = levels(alone)
    slider.fill("10")
    expect(status).to_contain_text("exactly 10 tokens, right by step 50 of 200. 10 of 10 right.")
    expect(status).to_contain_text(f"{0.6 * 45:.0f} bits without mem, 2.7 with.")
    after = levels(alone)
    assert before[:10] == after[:10]
    assert all(int(a) > int(b) for a, b in zip(after[10:30], before[10:30], strict=True))
    assert part(alone, "[role=option].crammed").count() == 10
    assert slider.get_attribute("aria-valuetext") == "10 of 30 tokens"


def test_where_one_vector_was_kept_the_page_says_so(alone):
    part(alone, "select").select_option("fresh/last")
    assert part(alone, "input[type=range]").get_attribute("max") == "20"
    before = levels(alone)
    part(alone, "input[type=range]").fill("7")
    expect(part(alone, ".explorer-status")).to_contain_text("The first 7 tokens, right by step 35 of 200.")
    expect(part(alone, ".explorer-status")).to_contain_text("vector for 20: none was kept for fewer")
    assert levels(alone) == before


def test_each_view_has_its_colours(alone):
    part(alone, "input[type=range]").fill("10")
    part(alone, "input[value=without]").check()
    assert levels(alone)[:5] == [None, "1", "2", "2", "3"]
    part(alone, "input[value=right]").check()
    assert levels(alone) == ["0"] * 10 + ["6"] * 26
    assert part(alone, "[role=option].wrong").count() == 26
    part(alone, "input[value=step]").check()
    shown = levels(alone)
    assert shown[:30] == sorted(shown[:30])
    assert shown[30:] == [None] * 6
    assert "never reached" in part(alone, ".explorer-legend").inner_text()
    assert alone.locator(".explorer-live").nth(1).locator("input:checked").get_attribute("value") == "with"


def test_numbers_by_mouse(alone):
    panel, options = part(alone, ".explorer-panel"), part(alone, "[role=option]")
    options.nth(8).hover()
    expect(panel).to_have_text(
        "Token 9, ·ago: 4.8 bits without mem; 0.48 bits with mem; right with this vector; "
        "with all before it by step 45 of 200."
    )
    alone.mouse.move(0, 0)
    expect(panel).to_contain_text("Token 1, Call: not predicted without mem; 0 bits with mem")
    options.nth(31).click()
    expect(panel).to_contain_text("wrong with this vector; never reached")
    assert "wrong with this vector" in options.nth(31).get_attribute("title")
    alone.mouse.move(0, 0)
    expect(panel).to_contain_text("Token 32")


def test_numbers_by_keyboard(alone):
    """From the first control on, Tab reaches all of them and one token; arrows move among the tokens."""
    part(alone, "select").focus()
    seen = []
    for _ in range(4):
        seen.append(alone.evaluate("document.activeElement.type || document.activeElement.getAttribute('role')"))
        alone.keyboard.press("Tab")
    assert seen == ["select-one", "range", "radio", "option"]
    alone.keyboard.press("Shift+Tab")
    here = alone.locator(":focus")
    alone.keyboard.press("ArrowRight")
    expect(here).to_have_attribute("aria-label", "2: ·me")
    expect(part(alone, ".explorer-panel")).to_contain_text("Token 2, ·me: 0.6 bits without mem")
    assert part(alone, '[role=option][tabindex="0"]').count() == 1
    assert part(alone, '[aria-selected="true"]').inner_text().strip() == "me"
    alone.keyboard.press("End")
    expect(here).to_have_attribute("aria-label", "36: ·mind")
    alone.keyboard.press("ArrowRight")
    expect(here).to_have_attribute("aria-label", "36: ·mind")
    top = here.bounding_box()["y"]
    alone.keyboard.press("ArrowUp")
    assert here.bounding_box()["y"] < top
    alone.keyboard.press("Home")
    expect(here).to_have_attribute("aria-label", "1: Call")
    outline = here.evaluate("token => getComputedStyle(token).outlineStyle + getComputedStyle(token).outlineWidth")
    assert outline == "solid3px"
    alone.keyboard.press("Shift+Tab")
    alone.keyboard.press("ArrowRight")
    assert part(alone, "input:checked").get_attribute("value") == "right"
    alone.keyboard.press("Shift+Tab")
    alone.keyboard.press("ArrowLeft")
    assert part(alone, "input[type=range]").input_value() == "29"
    expect(part(alone, "output")).to_have_text("29 of 30 tokens")


def test_everything_has_a_name(alone):
    tree = part(alone, ".explorer-live").aria_snapshot()
    for line in (
        'group "Explorer of crammed passages"',
        'combobox "Passage"',
        'slider "Crammed prefix"',
        'group "Colour by"',
        'radio "step at which solved"',
        'listbox "Tokens of novels/moby; arrow keys move between them"',
        'option "3: ·Ish"',
        'option "6: ⏎"',
        'list "Legend"',
    ):
        assert line in tree
    assert part(alone, ".explorer-panel").get_attribute("aria-live") == "polite"
    names = alone.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(names) == len(set(names))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_read_and_told_apart_in_grey(alone, theme):
    alone.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    found = []
    for view in ("with", "without"):
        part(alone, f"input[value={view}]").check()
        found += part(alone, "[role=option][data-level]").evaluate_all(CONTRAST)
    assert {token["level"] for token in found} == set(range(7))
    assert min(token["contrast"] for token in found) >= 4.5
    shades = [light for _, light in sorted({(token["level"], token["light"]) for token in found})]
    ordered = sorted(shades, reverse=theme == "light")
    assert shades == ordered
    assert all((max(a, b) + 0.05) / (min(a, b) + 0.05) > 1.2 for a, b in pairwise(shades))


def test_motion_only_for_those_who_want_it(alone):
    token = part(alone, "[role=option]").first
    alone.emulate_media(reduced_motion="no-preference")
    assert token.evaluate("token => getComputedStyle(token).transitionDuration") != "0s"
    alone.emulate_media(reduced_motion="reduce")
    assert token.evaluate("token => getComputedStyle(token).transitionDuration") == "0s"


def test_on_a_telephone_it_wraps(alone):
    alone.set_viewport_size({"width": 390, "height": 800})
    assert alone.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = part(alone, "[role=option], label, select, input").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(box => [box.left, box.right])"
    )
    assert len(boxes) > len(WORDS)
    assert min(left for left, _ in boxes) >= 0
    assert max(right for _, right in boxes) <= 390


def test_without_script_the_tables_are_there(browser, address):
    page = browser.new_page(java_script_enabled=False)
    page.goto(address)
    table = page.locator(".cramming-explorer table").first
    expect(table).to_be_visible()
    assert "·Ish" in table.inner_text()
    expect(page.locator("summary").nth(1)).to_have_text("fresh/last, every token with the vector for 20")
    page.close()


def test_on_paper_the_table_of_the_passage_chosen_is_open(alone):
    opened = "all => all.map(table => table.open)"
    part(alone, "select").select_option("fresh/last")
    assert part(alone, "details").evaluate_all(opened) == [False, False]
    alone.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert part(alone, "details").evaluate_all(opened) == [False, True]
    alone.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert part(alone, "details").evaluate_all(opened) == [False, False]


@pytest.mark.parametrize("name", PAGES)
def test_built_pages_have_it_from_a_folder_too(browser, name):
    if not (SITE / name).exists():
        lacking("no built book in _site: run `make book` first")
    page, faults = browser.new_page(viewport={"width": 390, "height": 800}), []
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto((SITE / name).as_uri())
    slider = part(page, "input[type=range]")
    slider.fill("9")
    expect(part(page, "[role=option].crammed")).to_have_count(9)
    expect(part(page, ".explorer-status")).to_contain_text("9 of 9 right")
    part(page, "[role=option]").nth(3).click()
    page.keyboard.press("ArrowRight")
    expect(part(page, ".explorer-panel")).to_contain_text("Token 5, ")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert faults == []
    page.close()

"""The page that decodes, for a tiny model: its recordings, weights in parts and from a file, and what goes wrong."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import here, opened

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)
PAGE = "decode"


def asked_parts(page: Page) -> list[str]:
    return [url.rsplit("/", 1)[1] for url in page.asked if url.endswith(".bin")]


def says(page: Page, text: str | re.Pattern) -> None:
    expect(page.locator("#decode-status")).to_contain_text(text)


def decodes(page: Page) -> None:
    """The stored vector gives its whole passage back, computed on the page."""
    page.click("#decode-run")
    page.wait_for_selector("#decode-stop:disabled")
    page.wait_for_selector("#decode-run:enabled")
    truth = page.evaluate("CRAMMED.passages[0].recorded[0].tokens.join('')")
    says(page, re.compile(rf"^Exact: {len(truth)} of {len(truth)} tokens right"))  # its tokens are letters
    assert "".join(page.locator("#decode-out span").all_text_contents()).replace("↵", "") == truth


def test_a_recording_plays_without_weights_from_a_folder(browser, offline):
    context = browser.new_context()
    page = opened(context, offline)
    live, slider = page.locator(".replay-live"), page.locator(".replay-live input")
    last = int(slider.get_attribute("max"))
    assert last == len(page.evaluate("CRAMMED.passages[0].ids"))
    live.scroll_into_view_if_needed()
    expect(live.locator("span.right").first).to_be_visible()
    live.get_by_role("button", name="Pause").click()
    held = slider.input_value()
    page.wait_for_timeout(300)
    assert slider.input_value() == held < str(last)
    live.get_by_role("button", name="Play").click()
    page.wait_for_function("held => document.querySelector('.replay-live input').value > held", arg=held)
    slider.fill(str(last))
    assert live.locator("span.right").count() == last
    margin = page.evaluate("CRAMMED.passages[0].margin")
    said = live.locator(".replay-status").inner_text()
    assert float(re.search(rf"{last} of {last} right, the closest win ([\d.]+) logits", said)[1]) == pytest.approx(
        margin, abs=2e-3
    )
    slider.fill("1")
    assert live.locator("span.right").count() == 1
    assert page.locator("#decode-run").is_disabled()
    assert page.locator("#decode-fetch").is_hidden()
    assert page.faults == []
    assert here(page)
    context.close()


def test_a_recording_shows_where_a_rounded_vector_breaks_and_stays_still_if_wanted(context, offline):
    page = opened(context, offline)
    found = page.evaluate("CRAMMED.passages.findIndex(passage => passage.recorded.length > 1)")
    page.select_option("#decode-passage", str(found))
    assert page.locator("#decode-recorded option").count() == 2
    page.select_option("#decode-recorded", "1")
    live = page.locator(".replay-live")
    live.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    slider = live.locator("input")
    assert slider.input_value() == slider.get_attribute("max")
    wrong = page.evaluate(
        f"(({{ids, recorded}}) => recorded[1].said.filter((id, i) => id !== ids[i]).length)(CRAMMED.passages[{found}])"
    )
    assert live.locator("span.wrong").count() == wrong > 0
    assert "expected" in live.locator("span.wrong").first.get_attribute("title")
    assert page.faults == []


def test_the_weights_are_fetched_once_and_kept(context, online, parts):
    manifest = json.loads((parts / "manifest.json").read_text())
    names = [part["name"] for part in manifest["parts"]]
    assert len(names) > 2
    page = opened(context, online)
    page.get_by_role("button", name="Fetch the weights, ").click()
    says(page, "The weights are here. Press Decode.")
    assert asked_parts(page) == names
    decodes(page)
    assert page.faults == []
    assert here(page)
    again = opened(context, online)
    again.get_by_role("button", name="Take the weights kept in this browser").click()
    says(again, "The weights are here. Press Decode.")
    assert asked_parts(again) == []
    decodes(again)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "came damaged: try again, or choose a file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "came damaged: try again, or choose a file"),
        (lambda path: path.write_bytes(path.read_bytes() + b"?"), "came damaged: try again, or choose a file"),
        (lambda path: path.unlink(), "is missing (404): choose a file instead"),
    ],
)
def test_a_part_that_is_not_right_is_one_line_and_can_be_fetched_again(context, online, parts, widgets, harm, said):
    second = parts / json.loads((parts / "manifest.json").read_text())["parts"][1]["name"]
    whole = second.read_bytes()
    harm(second)
    page = opened(context, online)
    page.click("#decode-fetch")
    says(page, f"That did not work: part {second.name} of the weights {said}")
    assert page.locator("#decode-run").is_disabled()
    page.locator(".replay-live input").fill("1")
    assert page.locator(".replay-live span.right").count() == 1
    page.set_input_files("#decode-file", widgets / "model.onnx")
    decodes(page)
    second.write_bytes(whole)
    page.asked.clear()
    page.click("#decode-fetch")
    says(page, "The weights are here. Press Decode.")
    first = json.loads((parts / "manifest.json").read_text())["parts"][0]["name"]
    assert second.name in asked_parts(page)
    assert first not in asked_parts(page)  # kept, though the whole was not to be had


def test_a_kept_part_that_is_not_right_is_fetched_again(context, online, parts):
    page = opened(context, online)
    page.click("#decode-fetch")
    says(page, "The weights are here. Press Decode.")
    page.evaluate("""async () => {
      const store = await caches.open("cramming-weights"), [first] = await store.keys();
      await store.put(first, new Response("nothing"));
      await store.put("old.bin", new Response("of an earlier book"));
    }""")
    page.asked.clear()
    page.evaluate("document.getElementById('decode-status').textContent = ''")
    page.click("#decode-fetch")
    says(page, "The weights are here. Press Decode.")
    assert len(asked_parts(page)) == 1
    names = {part["name"] for part in json.loads((parts / "manifest.json").read_text())["parts"]}
    kept = page.evaluate(
        "caches.open('cramming-weights').then(store => store.keys()).then(all => all.map(r => r.url))"
    )
    assert {url.rsplit("/", 1)[1] for url in kept} == names


def test_without_a_secure_connection_it_says_what_was_not_checked(context, online):
    context.add_init_script("delete Crypto.prototype.subtle; delete window.caches;")
    page = opened(context, online)
    page.click("#decode-fetch")
    says(page, "The weights are here, unchecked, since this connection is not a secure one. Press Decode.")
    decodes(page)


def test_a_file_is_taken_in_a_book_opened_from_a_folder(context, offline, widgets, tmp_path):
    page, content = opened(context, offline), (widgets / "model.onnx").read_bytes()
    for i, wrong in enumerate((b"nothing", content[::-1])):
        (tmp_path / f"{i}.onnx").write_bytes(wrong)
        page.set_input_files("#decode-file", tmp_path / f"{i}.onnx")
        says(page, "this file does not hold tiny-llama")
        assert page.locator("#decode-run").is_disabled()
        page.evaluate("document.getElementById('decode-status').textContent = ''")
    page.set_input_files("#decode-file", widgets / "model.onnx")
    says(page, "The weights are here. Press Decode.")
    decodes(page)
    page.fill("#decode-angle", "80")
    page.click("#decode-run")
    says(page, re.compile("^First error at token "))
    assert page.faults == []
    assert here(page)

"""The page that crams, for a tiny model: its search against the engine's, what it shows, and what goes wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from cramming import cli
from cramming.engine import cram
from cramming.models import load
from cramming.recipes import recipe
from cramming.results.check import read_kept, recheck_kept
from cramming.texts import from_text
from tests.browser.conftest import here, opened

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)
PAGE = "cram"


def says(page: Page, text: str | re.Pattern) -> None:
    expect(page.locator("#cram-status")).to_contain_text(text)


def with_weights(page: Page, widgets: Path) -> Page:
    page.set_input_files("#cram-file", widgets / "model.onnx")
    says(page, "The weights are here. Press Cram.")
    return page


def crammed(page: Page, text: str) -> None:
    page.fill("#cram-text", text)
    page.click("#cram-run")
    says(page, re.compile("^(Exact|Given up|That did not work)"))


SEARCH = """async ([how, ids, noise]) => {
  for (const name of ["gradient.js", "worker.js", "runtime.js"]) await crammingModel.script(name);
  const worker = new Worker(URL.createObjectURL(new Blob([CRAMMING_WORKER])));
  const weights = new Uint8Array(await (await fetch("/model.onnx")).arrayBuffer()), steps = [];
  const call = (name, given) => new Promise((done, failed) => {
    worker.onmessage = ({ data }) => {
      if (data.name === "step") steps.push(data);
      else if (data.name === "failed") failed(new Error(data.message));
      else done(data);
    };
    worker.postMessage({ name, ...given });
  });
  await call("open", { runtime: CRAMMING_RUNTIME, graph: CRAMMING_GRADIENT, weights, threads: 1 });
  const ended = await call("cram", { recipe: how, ids, noise: Float32Array.from(noise) });
  worker.terminate();
  return { steps, ended: ended.ended, best: ended.best, mem: Array.from(ended.mem) };
}"""


@pytest.mark.parametrize(
    "how",
    [
        recipe("best", max_steps=15),
        recipe("quick", max_steps=15, temperature=0.5),
        recipe("best", max_steps=15, averaging=0.1, schedule="by_length", growth={"start": 4, "block": 3}),
        recipe("best", max_steps=5, focus=1, schedule="constant", growth={"start": 2, "block": 1, "fraction": 0.5}),
    ],
)
def test_the_search_takes_the_steps_of_the_engine(context, online, how):
    lm = load("tiny-llama", device="cpu")
    passage = from_text("gulls play chess", lm.tokenizer)
    noise = torch.randn(1, lm.width, generator=torch.Generator().manual_seed(0))
    (ours,) = cram(lm, [passage], how, start=[noise], progress=False)
    page = opened(context, online)
    theirs = page.evaluate(SEARCH, [how.model_dump(mode="json"), list(passage.token_ids), noise[0].tolist()])
    assert (theirs["ended"], len(theirs["steps"]), theirs["best"]) == (ours.ended, ours.steps, int(ours.correct.sum()))
    assert [step["loss"] for step in theirs["steps"]] == pytest.approx([step.loss for step in ours.trace], rel=5e-3)
    assert [len(step["right"]) for step in theirs["steps"]] == [step.length for step in ours.trace]
    assert torch.nn.functional.cosine_similarity(torch.tensor(theirs["mem"]), ours.mem[0], dim=0) > 0.999


def test_a_recipe_that_the_page_does_not_follow_is_refused(context, online):
    page = opened(context, online)
    for how, said in (("paper", "parametrisation free"), ("horizon", "restart_steps 100")):
        with pytest.raises(Exception, match=f"recipe {how} has {said}, this page knows"):
            page.evaluate(SEARCH, [recipe(how).model_dump(mode="json"), [1, 2, 3], [1.0] * 64])


def test_a_sentence_is_crammed_said_back_and_certified(context, offline, widgets, tmp_path, monkeypatch, capsys):
    page = with_weights(opened(context, offline), widgets)
    vectors = []
    for seed in ("3", "4"):
        page.fill("#cram-seed", seed)
        crammed(page, "gull")
        says(page, re.compile(r"^Exact: 4 of 4 tokens said back from one vector of 64 numbers, found in \d+ steps"))
        expect(page.locator("#cram-said")).to_have_text("gull")
        assert page.locator("#cram-out span.right").count() == 4
        assert "4 of 4 tokens right" in page.inner_text("#cram-now")
        with page.expect_download() as download:
            page.click("#cram-keep")
        path = tmp_path / f"{seed}.safetensors"
        download.value.save_as(path)
        assert download.value.suggested_filename == "vector.safetensors"
        assert recheck_kept(read_kept(path)).exact
        vectors.append(read_kept(path).mem[0])
    apart = torch.rad2deg(torch.nn.functional.cosine_similarity(*vectors, dim=0).acos())
    assert f"Seeds 3 and 4 gave two vectors of one text, {apart:.1f}° apart" in page.inner_text("#cram-pair")
    monkeypatch.setattr("sys.argv", ["cramming", "check", "--vector", str(path)])
    cli.app(standalone_mode=False)
    assert "exact, 4 of 4 tokens decode from 64 numbers" in capsys.readouterr().out
    assert page.faults == []
    assert here(page)


def test_it_is_told_how_long_it_may_take_and_can_be_paused(context, online):
    page = opened(context, online)
    page.get_by_role("button", name="Fetch the weights, ").click()
    says(page, "The weights are here. Press Cram.")
    page.evaluate("Object.assign(CRAMMING.recipe, { stop_margin: 1000, max_steps: 1e6 })")  # never ends by itself
    page.fill("#cram-text", "gulls play")
    page.click("#cram-run")
    says(
        page, re.compile(r"^A step takes [\d.]+ s\. \d+ runs of \d+ tokens took \d+ to \d+ steps; here that would be")
    )
    assert page.locator("#cram-text").is_disabled()
    page.click("#cram-hold")
    says(page, re.compile(r"^Paused after \d+ steps\. Go on, or begin anew"))
    held = page.inner_text("#cram-now")
    page.wait_for_timeout(300)
    assert page.inner_text("#cram-now") == held
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#cram-now")).not_to_have_text(held)
    page.click("#cram-hold")
    says(page, "Paused after")
    page.click("#cram-anew")
    assert page.input_value("#cram-seed") == "1"
    page.click("#cram-run")
    expect(page.locator("#cram-now")).to_contain_text(re.compile("^Step [1-9]:"))
    # Left and opened again: nothing of it is left, and nothing hangs.
    page.reload()
    expect(page.locator("#cram-run")).to_be_disabled()
    assert page.faults == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Write a sentence of 3 to 24 tokens."),
        ("   ", "Write a sentence of 3 to 24 tokens."),
        ("ab", "2 tokens: write a little more, 3 at least."),
        ("x" * 30, "30 tokens: take 6 off, 24 at most."),
        ("word " * 2000, "This has 9,999 characters, and a sentence of 3 to 24 tokens fits: shorten it."),
        ("🦊" * 300, "1200 tokens: take 1176 off, 24 at most."),
    ],
)
def test_a_text_that_does_not_fit_is_one_line_before_anything_starts(context, offline, widgets, text, said):
    page = with_weights(opened(context, offline), widgets)
    page.fill("#cram-text", text)
    expect(page.locator("#cram-count")).to_have_text(said)
    page.click("#cram-run")
    says(page, said)
    assert page.locator("#cram-out").is_hidden()
    assert page.evaluate("document.activeElement.id") == "cram-text"
    assert page.faults == []


def test_emoji_and_other_scripts_are_crammed_as_they_are(context, offline, widgets):
    page = with_weights(opened(context, offline), widgets)
    for text in ("🦊", "né", "語"):
        crammed(page, text)
        says(page, re.compile("^Exact: "))
        expect(page.locator("#cram-said")).to_have_text(text)


TOKENS = """async text => {
  const tokenizer = await crammingModel.tokenizer(), ids = tokenizer.ids(text);
  return [ids, tokenizer.text(ids)];
}"""


def test_tokens_are_those_of_the_models_own_tokenizer(context, offline):
    page, tokenizer = opened(context, offline), load("tiny-llama", device="cpu").tokenizer
    for text in (
        "To be, or not to be",
        "naïve façade — “quoted”",
        "tab\tand  spaces",
        "🦊🦊",
        "日本語",
        "<|endoftext|>",
    ):
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = page.evaluate(TOKENS, text)
        assert found == [expected, text]


def test_damaged_weights_are_one_line(context, offline, widgets, tmp_path):
    page = opened(context, offline)
    (tmp_path / "model.onnx").write_bytes((widgets / "model.onnx").read_bytes()[::-1])
    page.set_input_files("#cram-file", tmp_path / "model.onnx")
    says(page, "That did not work: this file does not hold tiny-llama")
    assert page.locator("#cram-run").is_disabled()
    crammed(with_weights(page, widgets), "gulls")


def test_a_worker_that_breaks_off_is_one_line(context, offline, widgets):
    page = with_weights(opened(context, offline), widgets)
    page.evaluate("CRAMMING.recipe.bits = 4")
    page.fill("#cram-text", "gull")
    page.click("#cram-run")
    says(page, "That did not work: recipe best has bits 4, this page knows null only")
    page.evaluate("CRAMMING.recipe.bits = null")
    crammed(page, "gull")
    says(page, re.compile("^Exact: "))


def test_it_works_by_keyboard_alone_and_tells_what_happens(context, offline, widgets):
    page = with_weights(opened(context, offline), widgets)
    page.focus("#cram-text")
    page.keyboard.press("Control+a")
    page.keyboard.type("gull")
    order = []
    for _ in range(3):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    assert order == ["cram-seed", "cram-anew", "cram-run"]
    page.keyboard.press("Enter")
    says(page, re.compile("^Exact: "))
    assert page.get_attribute("#cram-status", "aria-live") == "polite"
    assert page.get_attribute("#cram-text", "aria-describedby") == "cram-count"
    for name in ("text", "seed"):
        assert page.locator(f"label:has(#cram-{name})").inner_text().strip()
    page.keyboard.press("Shift+Tab")
    assert json.loads(page.evaluate("JSON.stringify(document.activeElement.id)")) != "cram-run"

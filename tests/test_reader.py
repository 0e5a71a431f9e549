"""Every page has the same anatomy, so that a reader learns it once: answer first, short captions, readable figures."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from io import StringIO
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from cramming.book import execute

ROOT = Path(__file__).resolve().parents[1]
SURE = ("Holds", "Holds here only", "Open", "Contradicted")
MOST_WORDS = 60  # of a caption
MOST_COLUMNS = 7  # of a table that is not folded away, that of its names among them
# A telephone is 390 pixels wide, of which a figure has 358; letters are at least 9 of them high.
TELEPHONE, LEAST_LETTERS = 358, 9.0


def told(output) -> str:
    return output.get("data", {}).get("text/markdown", "")


def remembered(last: str) -> None:
    """Hold the end of a page."""
    box = re.fullmatch(r":::\{admonition\} Remember\n:class: remember\n\n(.+)\n:::", last, re.DOTALL)
    assert box, "the last prose of a page is a box of class remember"
    assert len(re.findall(r"[.!?](?:\s|$)", box[1])) == 2, "two sentences"
    assert not re.search(r"\d{2}", box[1]), "numbers come from the store"


def prose() -> list[str]:
    """Pages of prose with something to say: not the landing page, the examples, and those to look things up in."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    others = ["notebooks/*", "book/index", "book/contributing", *config["minutes_not_shown"]]
    return [page for page in execute.contents(ROOT) if not any(fnmatch(page, pattern) for pattern in others)]


@pytest.fixture(params=execute.notebooks(ROOT), scope="module")
def page(request):
    return nbformat.read(ROOT / request.param, as_version=4)


@pytest.fixture(scope="module")
def outputs(page):
    return [output for cell in page.cells for output in cell.get("outputs", []) if "data" in output]


def test_a_page_opens_with_its_title_and_its_answer(page, outputs):
    assert re.fullmatch(r"# .+", page.cells[0].source), "the first cell is the title, and nothing else"
    answers = [told(output) for output in outputs if ":class: answer" in told(output)]
    assert len(answers) == 1
    assert told(outputs[0]) == answers[0], "something is shown before the answer"
    shown = next(i for i, cell in enumerate(page.cells) if cell.get("outputs"))
    assert all(cell.cell_type == "code" for cell in page.cells[1:shown]), "prose before the answer"
    setting, _, box = answers[0].partition(":::\n\n:::{admonition} ")
    assert setting.startswith(":::{div} setting\n")
    assert len(setting.split()) <= MOST_WORDS
    question, _, said = box.partition("\n:class: answer\n\n")
    answer, rests = said.removesuffix("\n:::").split("\n\n")
    assert question.endswith("?")
    assert re.search(r"\d", answer), "an answer has a number"
    assert len(answer.split()) <= MOST_WORDS
    assert len(re.findall(r"[.!?](?:\*\*)?(?:\s|$)", answer)) == 1, "one sentence"
    assert re.search(rf"\*\*({'|'.join(SURE)})\*\*: ", rests), rests


def test_a_page_ends_with_what_to_remember(page):
    remembered([cell.source for cell in page.cells if cell.cell_type == "markdown"][-1])


@pytest.mark.parametrize("name", prose())
def test_a_page_of_prose_opens_with_its_answer_and_ends_with_what_to_remember(name):
    text = (ROOT / f"{name}.md").read_text()
    box = re.match(r"# .+\n\n:::\{admonition\} (.+)\n:class: answer\n\n\*\*([^*]+)\*\*\n\n((?:.+\n)+?):::\n", text)
    assert box, "title, then a box of class answer: a question, the answer in bold, how sure it is"
    question, answer, rests = box.groups()
    assert question.endswith("?")
    assert len(answer.split()) <= MOST_WORDS
    assert len(re.findall(r"[.!?](?:\s|$)", answer)) == 1, "one sentence"
    assert re.search(rf"\*\*({'|'.join(SURE)})\*\*", rests)
    assert text.count(":class: answer") == text.count(":class: remember") == 1
    remembered(text[text.rindex(":::{") :].strip())


def test_the_landing_page_leads_fourteen_questions_to_pages_that_open_with_an_answer():
    asked = (ROOT / "book" / "index.md").read_text().partition("## Ask")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+\?) \| \[.+?\]\((.+?)\) \|$", asked, re.MULTILINE)
    assert len(rows) == 14
    for question, link in rows:
        page = (ROOT / "book" / link).resolve()
        assert page.relative_to(ROOT).with_suffix("").as_posix() in execute.contents(ROOT), question
        assert ":class: answer" in page.read_text(), question


def test_captions_are_short_and_say_the_setting_once(outputs):
    captions = [told(output) for output in outputs if told(output) and ":class: answer" not in told(output)]
    long = {caption[:60]: len(caption.split()) for caption in captions if len(caption.split()) > MOST_WORDS}
    assert not long
    assert not [caption for caption in captions if "turned back to float32" in caption]


def test_code_has_one_switch(page):
    """Lines that a reader is to run, in an exercise, are seen without it."""
    for cell in page.cells:
        if cell.cell_type == "code":
            assert {"hide-input", "remove-cell", "exercise"} & set(cell.metadata.get("tags", [])), cell.source


def test_figures_can_be_read_on_a_telephone(outputs):
    for output in outputs:
        drawing = output["data"].get("image/svg+xml", "")
        if drawing:
            width = float(re.search(r'viewBox="0 0 ([\d.]+) ', drawing)[1])
            letters = [float(size) for size in re.findall(r"font(?:-size)?: [a-z ]*([\d.]+)px", drawing)]
            assert letters
            named = output["metadata"]["cramming"]["figure"]
            assert min(letters) * TELEPHONE / width >= LEAST_LETTERS, (named, width, min(letters))


def test_tables_are_narrow_or_folded(outputs):
    for output in outputs:
        text = output["data"].get("text/html", "")
        if 'class="dataframe"' in text and not text.startswith("<details"):
            table = pd.read_html(StringIO(text))[0]
            assert table.shape[1] <= MOST_COLUMNS, list(table.columns)

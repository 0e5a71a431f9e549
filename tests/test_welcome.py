"""What a stranger meets: landing page, glossary, how to cite, how to contribute; and the extensions behind them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import tomllib
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml
from docutils import nodes
from fontTools.ttLib import TTFont
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pybtex.database import BibliographyData, Entry, parse_file

from cramming import __version__

ROOT = Path(__file__).resolve().parent.parent
PAPER = "kuratov2025cramming"
CITE = ROOT / "book" / "_static" / "cite"


@cache
def extension(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]


def prose() -> dict[str, str]:
    """Markdown of every page in the contents, notebooks without their code."""
    found = {}
    for page in ["book/index", *contents()]:
        if (ROOT / f"{page}.md").exists():
            found[page] = (ROOT / f"{page}.md").read_text()
        else:
            cells = nbformat.read(ROOT / f"{page}.ipynb", as_version=4).cells
            found[page] = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return found


# The landing page


def test_the_landing_page_leads_to_every_page():
    text = (ROOT / "book" / "index.md").read_text()
    links = {link.removeprefix("../") for link in re.findall(r"\]\(([\w./]+)\.(?:md|ipynb)\)", text)}
    pages = {page.removeprefix("book/") for page in contents()} - {"bibliography", "changelog"}
    assert pages - links == set()


def test_minutes_on_the_landing_page_are_of_pages_there_are():
    found = re.findall(r"\{minutes\}`([^`]+)`", (ROOT / "book" / "index.md").read_text())
    assert found
    for page in (page.strip() for names in found for page in names.split(",")):
        place = (ROOT / "book" / page).resolve().relative_to(ROOT)
        assert str(place) in contents(), page


# The glossary


def entries() -> dict[str, str]:
    """Words of the glossary and what is said of each."""
    blocks = re.findall(r"```\{glossary\}\n(.*?)```", (ROOT / "book" / "glossary.md").read_text(), re.DOTALL)
    return dict(re.findall(r"^(\S.*)\n((?:  .+\n?)+)", "\n".join(blocks), re.MULTILINE))


def test_each_word_is_explained_in_a_few_sentences():
    words = entries()
    assert len(words) >= 30
    for word, meaning in words.items():
        said = " ".join(meaning.split())
        assert said.endswith("."), word
        assert len(re.findall(r"[.?!](?= |$)", said)) <= 3, word
        first = extension("hover").first_sentence(said)
        assert 20 < len(first) < 200, word
        assert not set("`$[{") & set(first), f"{word}: a link's title is plain text"


def test_words_that_pages_link_are_in_the_glossary():
    used = {}
    for page, text in prose().items():
        text = re.sub(r"``.*?``", "", text)
        for target in re.findall(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`", text):
            used.setdefault(target, page)
    assert {word: page for word, page in used.items() if word not in entries()} == {}
    assert len(used) > len(entries()) / 2


# Citing


def reference() -> Entry:
    return parse_file(str(ROOT / "book" / "references.bib")).entries[PAPER]


def facts(title: str, authors: list[tuple[str, str]], **others: str) -> dict:
    return {"title": title, "authors": authors, **others}


def of_bibtex(entry: Entry) -> dict:
    authors = [(" ".join(person.last_names), " ".join(person.first_names)) for person in entry.persons["author"]]
    names = {
        "book": "booktitle",
        "year": "year",
        "pages": "pages",
        "doi": "doi",
        "place": "address",
        "house": "publisher",
    }
    return facts(entry.fields["title"], authors, **{name: entry.fields[field] for name, field in names.items()})


def of_endnote(text: str) -> dict:
    lines = [line.split(" ", 1) for line in text.splitlines()]
    one = dict(lines)
    authors = [tuple(value.split(", ")) for tag, value in lines if tag == "%A"]
    names = {"book": "%B", "year": "%D", "pages": "%P", "doi": "%R", "place": "%C", "house": "%I"}
    found = facts(one["%T"], authors, **{name: one[tag] for name, tag in names.items()})
    return found | {"pages": found["pages"].replace("-", "--")}


def test_the_paper_is_the_same_in_every_format():
    expected = of_bibtex(reference())
    bibtex: BibliographyData = parse_file(str(CITE / f"{PAPER}.bib"))
    assert list(bibtex.entries) == [PAPER]
    assert of_bibtex(bibtex.entries[PAPER]) == expected
    assert of_endnote((CITE / f"{PAPER}.enw").read_text()) == expected
    (work,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    authors = [(author["family-names"], author["given-names"]) for author in work["authors"]]
    pages = f"{work['start']}--{work['end']}"
    ours = facts(
        work["title"], authors, book=work["collection-title"], year=str(work["year"]), pages=pages, doi=work["doi"]
    )
    assert ours == {name: expected[name] for name in ours}


def test_the_companion_has_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project["version"] == __version__


# Contributing


def examples() -> dict[str, list[str]]:
    """Python of the page by section."""
    sections = re.split(r"^## ", (ROOT / "book" / "contributing.md").read_text(), flags=re.MULTILINE)[1:]
    found = {
        section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL) for section in sections
    }
    return {name: blocks for name, blocks in found.items() if blocks}


PRINTED = {
    "A model": r"my-olmo 64 [0-9a-f]{16} (True|False)\n",
    "A text source": r"letters/goat-01 Dear sir, the go\n",
    "A recipe": r"0\.2 \[\d, \d\] \d+\n0\.4 \[\d, \d\] \d+\n(.*\n){2,}",
    "A page": r"\['notebooks/goats\.ipynb'\]\n",
}


@pytest.mark.parametrize("section", PRINTED)
def test_examples_of_the_contributing_page_run(section, tmp_path, monkeypatch, capsys):
    assert set(PRINTED) == set(examples()), "an example that no test runs"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, object] = {"__name__": "__main__"}
    for block in examples()[section]:
        assert block.count("\n") < 30
        exec(compile(block, section, "exec"), names)
    assert re.fullmatch(PRINTED[section], capsys.readouterr().out)
    if section == "A page":
        page = nbformat.read(next(tmp_path.rglob("_executed/notebooks/goats.ipynb")), as_version=4)
        assert page.cells[-1].outputs[0]["text"] == "6\n"


# The extensions


def test_seconds_count_words_and_figures_and_neither_code_nor_tables():
    seconds = extension("minutes").seconds
    words = nodes.paragraph("", "one two three four five six seven eight nine ten")
    assert seconds(words) == pytest.approx(3)
    assert seconds(nodes.section("", nodes.title("", "one two"), nodes.literal_block("", "a = 1"))) == pytest.approx(
        0.6
    )
    assert seconds(nodes.table("", nodes.tgroup("", words.deepcopy()))) == 0
    assert seconds(nodes.figure("", nodes.image(), nodes.caption("", "one two"))) == pytest.approx(12.6)

    def output(*kinds: str) -> nodes.Element:
        forms = [nodes.container("", words.deepcopy(), mime_type=kind) for kind in kinds]
        return nodes.container("", *forms, nb_element="mime_bundle")

    assert seconds(output("text/html", "text/plain")) == 0
    assert seconds(output("text/markdown", "text/plain")) == pytest.approx(3)
    assert seconds(output("image/png", "text/plain")) == 12


def test_first_sentence_ends_with_a_word():
    first = extension("hover").first_sentence
    assert first("At least 0.99 of\n  them. And more.") == "At least 0.99 of them."
    assert first("Only one") == "Only one"


SHEET = """/*! Free. */ /* And that. */
:root { --read: red; --half: var(--read); --left: blue }
.card, .gone > a { color: var(--half) }
.gone { color: green }
#here:not(.gone) a.bs-tip { content: "\ue001" }
@media print { .gone { color: green } }
@media screen { .w-1\\/2 { width: 50% } .gone a { color: green } }
"""


def test_style_sheets_keep_what_may_apply():
    pruned = extension("weight").pruned
    kept = pruned(SHEET, {"card", "here", "bs-", "--read", "--half"})
    assert kept.startswith("/*! Free. */")
    assert "And that" not in kept
    assert ":root{--read: red;--half: var(--read)}" in kept
    assert ".card{color: var(--half)}" in kept
    assert '#here:not(.gone) a.bs-tip{content: "\ue001"}' in kept
    assert "@media screen {.w-1\\/2{width: 50%}}" in kept
    assert "green" not in kept
    with pytest.raises(ValueError, match="not a style sheet"):
        pruned("a { color: red } }", set())


def test_fonts_keep_the_icons_that_are_asked_for():
    icons = Path(find_spec("pydata_sphinx_theme").origin).parent.glob("**/webfonts/fa-solid-900.woff2")
    few = extension("weight").few
    [font] = icons
    bars = few(font, {0xF0C9, 0xE000})
    assert set(TTFont(BytesIO(bars)).getBestCmap()) == {0xF0C9}
    assert len(bars) < 2000
    assert few(font, {0xE000}) == b""


SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>'
INDEX = """# Title

Words of a {term}`mem vector` take {minutes}`sub/page` or {minutes}`sub/page, words`.

```{picture} sub/page.ipynb::figure
A caption with a {term}`mem vector`.
```

```{toctree}
sub/page
words
```
"""
WORDS = """# Words

```{glossary}
mem vector
  A trainable & frozen vector. More of it.
```
"""


def small_book(folder: Path, index: str = INDEX, key: str = "figure") -> subprocess.CompletedProcess:
    """Two pages and a notebook with a figure, 400 words long, built with every warning an error."""
    glued = {"scrapbook": {"name": key, "mime_prefix": ""}}
    output = new_output("display_data", {"image/svg+xml": SVG, "text/plain": "<Figure>"}, metadata=glued)
    cell = new_code_cell("...", outputs=[output], metadata={"mystnb": {"image": {"alt": "Bars."}}})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    page = new_notebook(cells=[new_markdown_cell("# Page\n\n" + "word " * 400), cell], metadata=kernel)
    (folder / "sub").mkdir(exist_ok=True)
    nbformat.write(page, folder / "sub" / "page.ipynb")
    (folder / "index.md").write_text(index)
    (folder / "words.md").write_text(WORDS)
    (folder / "conf.py").write_text(
        f"import sys\nsys.path.append({str(ROOT / 'book' / '_ext')!r})\n"
        "extensions = ['myst_nb', 'hover', 'minutes', 'picture', 'weight']\nhtml_theme = 'sphinx_book_theme'\n"
        "nb_execution_mode = 'off'\nminutes_not_shown = ['word*']\n"
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", str(folder), str(folder / "out")]
    return subprocess.run(command, text=True, capture_output=True)


@pytest.mark.slow
def test_pages_show_minutes_meanings_and_described_pictures(tmp_path):
    done = small_book(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    index, page, words = ((tmp_path / "out" / f"{name}.html").read_text() for name in ("index", "sub/page", "words"))
    # 400 words and a figure: 132 seconds.
    assert '<p class="minutes">2 minutes to read</p>' in page
    assert '<p class="minutes">1 minute to read</p>' in index
    assert "to read" not in words
    assert re.findall(r'<span class="minutes">([^<]*)<', index) == ["2 min", "3 min"]
    links = re.findall(r'<a class="[^"]*glossary-word[^"]*" href="words.html#term-mem-vector" title="([^"]*)"', index)
    assert links == ["A trainable &amp; frozen vector."] * 2
    figure = re.search(r"<figure.*?</figure>", index, re.DOTALL)[0]
    (source,) = re.findall(r'<img alt="Bars\." src="([^"]+)"', figure)
    assert (tmp_path / "out" / source).read_text() == SVG
    assert "A caption with a" in figure


@pytest.mark.slow
def test_a_page_loads_what_it_uses(tmp_path):
    assert small_book(tmp_path).returncode == 0
    out = tmp_path / "out"
    pages = {name: (out / f"{name}.html").read_text() for name in ("index", "sub/page", "search")}
    loaded = {name: set(re.findall(r'"(?:[^"?]*/)?([\w.-]+\.(?:js|css))[?"]', text)) for name, text in pages.items()}
    assert {"bootstrap.js", "pydata-sphinx-theme.css"} <= loaded["index"] & loaded["sub/page"] & loaded["search"]
    assert {"searchindex.js", "searchtools.js"} <= loaded["search"]
    for name in ("index", "sub/page"):
        assert not {"searchindex.js", "searchtools.js", "fontawesome.js"} & loaded[name]
    assert "pygments.css" in loaded["sub/page"] - loaded["index"]
    sheet = (out / "_static" / "styles" / "pydata-sphinx-theme.css").read_text()
    assert len(sheet) < 120_000
    assert ".fa-bars" in sheet
    assert ".fa-cat" not in sheet
    assert re.findall(r"@font-face\{[^}]*url\((.{14})", sheet) == ["data:font/woff"] * 2
    assert not [*out.rglob("fontawesome.js"), *out.rglob("*.map"), *out.rglob("*.woff2")]


@pytest.mark.slow
def test_what_pages_refer_to_in_vain_fails_the_build(tmp_path):
    wrong = INDEX.replace("`sub/page, words`", "`nowhere`").replace("::figure", "::other")
    done = small_book(tmp_path, wrong)
    assert done.returncode
    assert "minutes of nowhere: no such page" in done.stderr
    assert "sub/page.ipynb has no described figure 'other'" in done.stderr

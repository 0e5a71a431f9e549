"""Executing, cleaning, staging and building, on a small repository made for each test."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cramming.book import build, execute, stage
from cramming.errors import CrammingError

ROOT = Path(__file__).resolve().parent.parent
NAME = "notebooks/page.ipynb"


def write(root: Path, *sources: str, name: str = NAME) -> None:
    """A notebook with a heading, a cell of parameters and the given cells."""
    cells = [new_markdown_cell("# Page"), new_code_cell("n = 3", metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    (root / name).parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), root / name)


def listed(root: Path, *entries: dict) -> None:
    (root / "book").mkdir(exist_ok=True)
    (root / "book" / "notebooks.yaml").write_text(yaml.safe_dump(list(entries)))


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository with one notebook."""
    listed(tmp_path, {"path": NAME})
    write(tmp_path, "import sys\nprint(n)\nprint(n * 7, file=sys.stdout)")
    return tmp_path


def stored(root: Path) -> str:
    return (root / NAME).read_text()


def printed(root: Path) -> list[str]:
    outputs = [output for cell in nbformat.read(root / NAME, 4).cells for output in cell.get("outputs", [])]
    return [output["text"] for output in outputs if output.get("name") == "stdout"]


def tags(root: Path) -> list[str]:
    return [tag for cell in nbformat.read(root / NAME, 4).cells for tag in cell.metadata.get("tags", [])]


def test_outputs_are_stored_clean_and_a_second_call_has_nothing_to_do(root, monkeypatch):
    # A kernel of the same name elsewhere on the machine is not the one that runs.
    other = root / "other" / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/nonexistent/python", "{connection_file}"], "display_name": "other", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(root / "other"))

    assert execute.execute(root, progress=False) == [NAME]
    assert printed(root) == ["3\n21\n"]
    assert tags(root) == ["parameters"]
    notebook = nbformat.read(root / NAME, 4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "version" not in notebook.metadata.language_info
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2]
    assert [path.name for path in (root / "notebooks").iterdir()] == ["page.ipynb"]

    before = stored(root)
    assert execute.execute(root, progress=False) == []
    assert execute.execute(root, only=NAME, progress=False) == [NAME]
    assert stored(root) == before
    (root / "data").mkdir()
    (root / "data" / "new.csv").write_text("a\n1\n")
    assert execute.execute(root, progress=False) == [NAME]


def test_parameters_that_differ_from_the_defaults_are_shown_and_do_not_pile_up(root):
    listed(root, {"path": NAME, "parameters": {"n": 5}})
    for _ in range(2):
        execute.execute(root, only=NAME, progress=False)
        assert printed(root) == ["5\n35\n"]
        assert tags(root) == ["parameters", "injected-parameters"]
    execute.execute(root, parameters={"n": 3}, progress=False)
    assert printed(root) == ["3\n21\n"]
    assert tags(root) == ["parameters"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", r"page\.ipynb, cell 3: ZeroDivisionError: division by zero"),
        ("from pathlib import Path\nprint(Path.home() / 'secret')", r"page\.ipynb: .*path of this machine, cell 3: "),
    ],
)
def test_a_failed_run_leaves_the_stored_notebook(root, source, message):
    write(root, source)
    before = stored(root)
    with pytest.raises(CrammingError, match=message) as error:
        execute.execute(root, parameters={"n": 4}, progress=False)
    assert "\n" not in str(error.value)
    assert stored(root) == before
    assert [path.name for path in (root / "notebooks").iterdir()] == ["page.ipynb"]


def test_an_interrupted_run_leaves_the_stored_notebook_and_is_run_again(root, monkeypatch):
    before = stored(root)
    with monkeypatch.context() as patch:
        patch.setattr(papermill, "execute_notebook", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            execute.execute(root, progress=False)
    assert stored(root) == before
    assert not (root / execute.RUNS).exists()


@pytest.mark.parametrize(
    ("entries", "arguments", "message"),
    [
        ([{"path": NAME, "parameters": {"m": 1}}], {}, r"no parameter 'm': it has n"),
        ([{"path": NAME}], {"parameters": {"scales": "smoke"}}, r"no parameter 'scales': it has n"),
        ([{"path": NAME}], {"only": "notebooks/pages.ipynb"}, r"pages\.ipynb: not in .*, which has notebooks/page"),
        ([{"path": "notebooks/none.ipynb"}], {}, r"none\.ipynb: listed in .* no such file"),
        ([{"paths": NAME}], {}, r"notebooks\.yaml: not a list of entries"),
        (["page"], {}, r"notebooks\.yaml: not a list of entries"),
    ],
)
def test_a_wrong_list_or_argument_is_one_line(root, entries, arguments, message):
    listed(root, *entries)
    before = stored(root)
    with pytest.raises(CrammingError, match=message) as error:
        execute.execute(root, **arguments, progress=False)
    assert "\n" not in str(error.value)
    assert stored(root) == before


def test_defaults_are_read_without_running_them():
    source = "a, b = 1, 2\nscale: str = 'laptop'\nlengths = [8, 16]\nhere = open('/nonexistent')\nunset: int"
    found = execute.defaults(new_notebook(cells=[new_code_cell(source, metadata={"tags": ["parameters"]})]))
    assert found["scale"] == "laptop"
    assert found["lengths"] == [8, 16]
    assert found["here"] != "/nonexistent"
    assert "unset" not in found
    assert execute.defaults(new_notebook(cells=[new_code_cell("a = 1")])) == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("saved in {home}/x.csv", True),
        ("{home}", True),
        ("{root}/data", True),
        ("'/tmp/x'", True),
        ("/tmporal and a/tmp and s/tmp/x", False),
        ("no path", False),
    ],
)
def test_paths_of_this_machine_are_found(tmp_path, monkeypatch, text, found):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    said = text.format(home=Path.home(), root=tmp_path)
    for output in (
        new_output("stream", text=said),
        new_output("display_data", data={"text/html": f"<b>{said}</b>"}),
        new_output("display_data", data={"image/png": "AAAA"}, metadata={"note": said}),
    ):
        notebook = new_notebook(cells=[new_code_cell("1", outputs=[output])])
        assert bool(execute.machine_paths(notebook, tmp_path)) is found


def test_the_stage_mirrors_the_repository(root, monkeypatch):
    files = ["_config.yml", "_toc.yml", "book/index.md", "data/a.csv", "data/v.safetensors", "README.md", ".git/x"]
    for name in files:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("{title: x, sphinx: {config: {html_theme_options: {a: 1}}}}\n")
    (root / "_stage").mkdir()
    (root / "_stage" / "left_from_before").touch()
    staged = stage.stage(root)
    found = {str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file()}
    assert found == {*files[:4], "README.md", NAME, "book/notebooks.yaml"}
    assert all((staged / name).read_bytes() == (root / name).read_bytes() for name in found)
    monkeypatch.setenv("CRAMMING_REPOSITORY_URL", "https://example.org/cramming")
    config = yaml.safe_load((stage.stage(root) / "_config.yml").read_text())
    theme = config["sphinx"]["config"]["html_theme_options"]
    assert (config["title"], theme["a"]) == ("x", 1)
    assert theme["repository_url"] == "https://example.org/cramming"
    assert theme["use_repository_button"]


@pytest.mark.slow
def test_a_warning_fails_the_build_and_keeps_the_pages_of_before(root, capfd):
    (root / "_config.yml").write_text("title: x\nonly_build_toc_files: true\nrepository: {url: ''}\n")
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (root / "book" / "index.md").write_text("# Title\n\nSee [nothing](nowhere.md).\n")
    (root / "_site").mkdir()
    (root / "_site" / "index.html").write_text("before")
    with pytest.raises(CrammingError, match=r"the book did not build: 1 warnings, all in the log above"):
        build.build(root)
    assert "nowhere.md" in capfd.readouterr().err
    assert (root / "_site" / "index.html").read_text() == "before"
    (root / "book" / "index.md").write_text("# Title\n\nText.\n")
    page = build.build(root)
    assert page == root / "_site" / "index.html"
    assert "before" not in page.read_text()


def test_every_page_of_notebooks_is_listed_and_in_the_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    names = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert sorted(execute.notebooks(ROOT)) == names
    assert [f"{page}.ipynb" for page in pages if page.startswith("notebooks/")] == list(execute.notebooks(ROOT))


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))])
def test_stored_notebooks_are_clean_complete_and_their_figures_described(name):
    text = (ROOT / "notebooks" / name).read_text()
    notebook = nbformat.reads(text, as_version=4)
    assert nbformat.writes(execute.clean(notebook)) + "\n" == text, "run it by `cramming book`, which stores it clean"
    assert execute.machine_paths(notebook, ROOT) == []
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        assert cell.execution_count, f"cell {number} was not run"
        told = [output.get("metadata", {}).get("cramming", {}).get("csv", {}) for output in cell.outputs]
        size = sum(len(text) for some in told for text in some.values())
        assert size < 3_000_000, f"cell {number}: {size:,} characters of data behind one figure"
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert cell.metadata.get("mystnb", {}).get("image", {}).get("alt"), f"cell {number}: figure without alt"

"""Executing, cleaning, staging and building, on a small repository made for each test."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cramming.book import build, execute, inputs, stage
from cramming.book.provenance import defaults
from cramming.errors import CrammingError
from cramming.results.store import SCHEMA, Store

ROOT = Path(__file__).resolve().parent.parent
NAME = "notebooks/page.ipynb"


def write(root: Path, *sources: str, name: str = NAME) -> None:
    """A notebook with a heading, a cell of parameters and the given cells."""
    cells = [new_markdown_cell("# Page"), new_code_cell("n = 3", metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    (root / name).parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), root / name)


def listed(root: Path, *names: str) -> None:
    chapters = [{"file": name.removesuffix(".ipynb")} for name in names]
    toc = {"format": "jb-book", "root": "book/index", "parts": [{"caption": "Pages", "chapters": chapters}]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository with one notebook."""
    listed(tmp_path, NAME)
    write(tmp_path, "import sys\nprint(n)\nprint(n * 7, file=sys.stdout)")
    return tmp_path


def stored(root: Path) -> str:
    return (root / NAME).read_text()


def shown(root: Path) -> nbformat.NotebookNode:
    """The notebook as the book has it."""
    return execute.current(root, NAME)[0]


def printed(root: Path) -> list[str]:
    outputs = [output for cell in shown(root).cells for output in cell.get("outputs", [])]
    return [output["text"] for output in outputs if output.get("name") == "stdout"]


def tags(root: Path) -> list[str]:
    return [tag for cell in shown(root).cells for tag in cell.metadata.get("tags", [])]


def test_a_notebook_runs_beside_the_stored_one_and_a_second_call_has_nothing_to_do(root, monkeypatch):
    # A kernel of the same name elsewhere on the machine is not the one that runs.
    other = root / "other" / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/nonexistent/python", "{connection_file}"], "display_name": "other", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(root / "other"))

    before = stored(root)
    assert execute.execute(root, progress=False) == [NAME]
    assert printed(root) == ["3\n21\n"]
    assert tags(root) == ["parameters"]
    notebook = shown(root)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "cramming"}
    assert "version" not in notebook.metadata.language_info
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2]
    assert stored(root) == before
    assert [path.name for path in (root / "notebooks").iterdir()] == ["page.ipynb"]

    assert execute.execute(root, progress=False) == []
    assert execute.execute(root, only=NAME, progress=False) == []
    assert execute.execute(root, anyway=True, progress=False) == [NAME]


def test_only_an_explicit_call_stores_what_was_executed(root):
    execute.execute(root, progress=False)
    assert not execute.holds(root, NAME)
    execute.store(root)
    assert execute.holds(root, NAME)
    assert printed(root) == ["3\n21\n"]
    assert not (root / execute.EXECUTED / NAME).exists()
    before = stored(root)
    assert execute.execute(root, progress=False) == []
    execute.store(root)
    assert stored(root) == before


def test_what_a_page_does_not_hang_on_leaves_its_outputs(root):
    execute.execute(root, progress=False)
    execute.store(root)
    notebook = nbformat.read(root / NAME, 4)
    notebook.cells[0].source = "# Another heading"
    nbformat.write(notebook, root / NAME)
    for file in ("cramming/studies/other.py", "data/plans/other.yaml", "README.md", "data/paper/README.md"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("x = 1\n")
    assert execute.execute(root, progress=False) == []
    assert printed(root) == ["3\n21\n"]


def test_comments_and_docstrings_decide_nothing(root):
    write(root, "if False:\n    import cramming")
    package = root / "cramming" / "__init__.py"
    package.parent.mkdir()
    package.write_text('"""One."""\n\n\ndef f(x):\n    """Two."""\n    return x  # three\n')
    execute.execute(root, progress=False)
    execute.store(root)
    package.write_text('"""Another."""\n# and more\n\ndef f(x):\n    return x\n')
    assert execute.holds(root, NAME)
    package.write_text('"""Another."""\n\n\ndef f(x):\n    return x + 0\n')
    assert not execute.holds(root, NAME)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("cramming/studies/mine.py", "from cramming.results import beneath\nfactor = 8\n"),
        ("cramming/results/beneath.py", "value = 2\n"),
        ("cramming/__init__.py", "other = 1\n"),
        ("data/paper/capacity.csv", "a\n2\n"),
        ("requirements.lock", "torch==9\n"),
    ],
)
def test_what_a_page_hangs_on_has_it_run_again(root, file, text):
    """Its study, what that imports in whatever folder, published numbers, the packages that do the arithmetic."""
    for name, content in {
        "cramming/__init__.py": "",
        "cramming/studies/__init__.py": "",
        "cramming/studies/mine.py": "from cramming.results import beneath\nfactor = 7\n",
        "cramming/results/__init__.py": "",
        "cramming/results/beneath.py": "value = 1\n",
        "data/paper/capacity.csv": "a\n1\n",
        "requirements.lock": "torch==1\npytest==1\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    write(root, "if False:\n    from cramming.studies import mine")
    execute.execute(root, progress=False)
    execute.store(root)
    assert execute.execute(root, progress=False) == []
    (root / file).write_text(text)
    assert not execute.holds(root, NAME)
    assert execute.execute(root, progress=False) == [NAME]


def test_the_numbers_behind_figures_go_into_an_archive_that_is_the_same_each_time(root):
    data, metadata = {"image/svg+xml": "<svg></svg>"}, {"cramming": {"figure": "dots", "csv": {"frame": "a\n1\n"}}}
    write(root, f"from IPython.display import display\ndisplay({data}, metadata={metadata}, raw=True)")
    execute.execute(root, progress=False)
    archive = execute.current(root, NAME)[1]
    first = archive.read_bytes()
    assert zipfile.ZipFile(archive).read("01-dots-frame.csv") == b"a\n1\n"
    [output] = shown(root).cells[-1].outputs
    assert output.metadata == {"cramming": {"figure": "dots", "files": ["01-dots-frame.csv"]}}
    execute.execute(root, anyway=True, progress=False)
    assert archive.read_bytes() == first
    execute.store(root)
    assert (root / execute.FIGURES / "page.zip").read_bytes() == first


def test_parameters_that_differ_from_the_defaults_are_shown_until_the_page_is_run_without(root):
    execute.execute(root, progress=False)
    execute.store(root)
    for _ in range(2):
        execute.execute(root, parameters={"n": 5}, progress=False)
        assert printed(root) == ["5\n35\n"]
        assert tags(root) == ["parameters", "injected-parameters"]
    execute.store(root)  # not what has parameters of its own
    assert "injected-parameters" not in stored(root)
    execute.execute(root, progress=False)
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
    assert not (root / execute.EXECUTED / NAME).exists()


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        ([NAME], {"parameters": {"scales": "smoke"}}, r"no parameter 'scales': the notebooks has n"),
        ([NAME], {"only": "notebooks/pages.ipynb"}, r"pages\.ipynb: not in _toc\.yml, which has notebooks/page"),
        (["notebooks/none.ipynb"], {}, r"none\.ipynb: listed in _toc\.yml but no such file"),
        ([], {}, r"_toc\.yml lists no pages"),
    ],
)
def test_a_wrong_list_or_argument_is_one_line(root, names, arguments, message):
    listed(root, *names) if names else (root / "_toc.yml").write_text("[1, 2]")
    before = stored(root)
    with pytest.raises(CrammingError, match=message) as error:
        execute.execute(root, **arguments, progress=False)
    assert "\n" not in str(error.value)
    assert stored(root) == before


def test_defaults_are_read_without_running_them():
    source = "scale: str = 'laptop'\nlengths = [8, 16]\nhere = open('/nonexistent')\nunset: int"
    found = defaults(new_notebook(cells=[new_code_cell(source, metadata={"tags": ["parameters"]})]))
    assert found["scale"] == "laptop"
    assert found["lengths"] == [8, 16]
    assert found["here"] != "/nonexistent"
    assert "unset" not in found
    assert defaults(new_notebook(cells=[new_code_cell("a = 1")])) == {}


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
    files = ["_config.yml", "book/index.md", "data/a.csv", "data/v.safetensors", "README.md", ".git/x"]
    for name in files:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("{title: x, sphinx: {config: {html_theme_options: {a: 1}}}}\n")
    (root / "_stage").mkdir()
    (root / "_stage" / "left_from_before").touch()
    staged = stage.stage(root)
    found = {str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file()}
    assert found == {*files[:3], "README.md", NAME, "_toc.yml"}
    assert all((staged / name).read_bytes() == (root / name).read_bytes() for name in found - {NAME})
    assert nbformat.read(staged / NAME, 4) == nbformat.read(root / NAME, 4)
    monkeypatch.setenv("CRAMMING_REPOSITORY_URL", "https://example.org/cramming")
    config = yaml.safe_load((stage.stage(root) / "_config.yml").read_text())
    theme = config["sphinx"]["config"]["html_theme_options"]
    assert (config["title"], theme["a"]) == ("x", 1)
    assert theme["repository_url"] == "https://example.org/cramming"
    assert theme["use_repository_button"]


def test_the_archive_holds_no_weights(tmp_path):
    """They take a web server, and an archive is read without one."""
    for name in ("index.html", "_static/browser/decode.js", "_static/decode/weights/00.bin"):
        (tmp_path / "_site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "_site" / name).touch()
    with zipfile.ZipFile(build.archive(tmp_path, tmp_path / "book.zip")) as file:
        found = {name.removeprefix("cramming-book/") for name in file.namelist() if not name.endswith("/")}
    assert found == {"index.html", "_static/browser/decode.js"}


@pytest.mark.slow
def test_a_warning_fails_the_build_and_keeps_the_pages_of_before(root, capfd):
    (root / "_config.yml").write_text("title: x\nonly_build_toc_files: true\nrepository: {url: ''}\n")
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (root / "book").mkdir()
    (root / "book" / "index.md").write_text("# Title\n\nSee [nothing](nowhere.md).\n")
    (root / "_site").mkdir()
    (root / "_site" / "index.html").write_text("before")
    with pytest.raises(CrammingError, match=r"the book did not build: 1 warnings and errors, all in the log above"):
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
        assert not any("image/png" in output.get("data", {}) for output in cell.outputs), f"cell {number}: no drawing"
        if any("image/svg+xml" in output.get("data", {}) for output in cell.outputs):
            assert cell.metadata.get("mystnb", {}).get("image", {}).get("alt"), f"cell {number}: figure without alt"


def test_rows_and_plan_of_a_page_are_among_what_it_hangs_on(root, smoke_store, monkeypatch):
    """A row made anew, or another passage in the plan of the page, has it run again; other pages' rows do not."""
    store = root / "data" / "results" / "smoke"
    shutil.copytree(smoke_store, store)
    keys = sorted(Store(store).keys())
    plans = root / "data" / "plans"
    plans.mkdir()
    entry = {"kind": "cram", "recipe": "best", "source": "novels", "n": 1, "lengths": [4]}
    other = entry | {"n": 2, "pages": ["other"]}
    mine = yaml.safe_dump({"model": "tiny-llama", "experiments": [entry | {"pages": ["page"]}, other]})
    (plans / "smoke.yaml").write_text(mine)
    monkeypatch.setattr("cramming.results.plans.PLANS", plans)
    notebook = new_notebook(cells=[new_code_cell('scale = "smoke"', metadata={"tags": ["parameters"]})])
    foot = f'<div class="provenance" data-store="smoke" data-keys="{keys[0][:16]}" data-said=""></div>'
    notebook.cells.append(new_code_cell("1", outputs=[new_output("display_data", data={"text/html": foot})]))

    def digest() -> str:
        return inputs.digest(root, NAME, notebook, {})

    first = digest()
    (plans / "smoke.yaml").write_text(mine.replace("n: 2", "n: 3"))
    assert digest() == first
    (plans / "smoke.yaml").write_text(mine.replace("n: 1", "n: 4"))
    assert digest() != first
    (plans / "smoke.yaml").write_text(mine)
    vectors, frame = Store(store).vectors(), Store(store).frame().set_index("key", drop=False)
    for key, same in ((keys[1], True), (keys[0], False)):
        shutil.rmtree(store)
        copy = Store(store)
        for row in frame.to_dict("records"):
            row = row | ({"cpu_seconds": 99.0} if row["key"] == key else {})
            copy.add({name: row[name] for name in SCHEMA.names}, vectors[row["key"]])
        assert (digest() == first) is same


def test_a_machine_more_that_was_measured_leaves_all_pages_but_its_own(root):
    notebook, data = new_notebook(cells=[new_code_cell("1")]), root / "data" / "benchmarks" / "device"
    data.mkdir(parents=True)

    def digests() -> list[str]:
        return [inputs.digest(root, f"notebooks/{page}.ipynb", notebook, {}) for page in ("page", "scale")]

    page, scale = digests()
    (data / "step-float32.parquet").write_bytes(b"1")
    assert digests()[0] == page
    assert digests()[1] != scale
    (data.parent / "step_cost.parquet").write_bytes(b"1")
    assert digests()[0] != page

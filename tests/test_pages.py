"""Every page runs at the smallest scale from an empty store, as it would on a new machine."""

from __future__ import annotations

from pathlib import Path

import nbformat
import papermill
import pytest
from matplotlib.figure import Figure

from cramming.book import execute
from cramming.book.provenance import defaults
from cramming.results.store import Store

ROOT = Path(__file__).resolve().parents[1]
# For parameters that name a plan, the one of the smallest scale.
SMALLEST = {
    "scale": "smoke",
    "cuts": "smoke-cuts",
    "architectures": "smoke",
    "bfloat16": "smoke",
    "model": "tiny-llama",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A folder for stores, empty at first; pages that show the same runs find them there."""
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("name", execute.notebooks(ROOT))
def test_page_runs_from_nothing(name, results, tmp_path, monkeypatch):
    monkeypatch.setenv("CRAMMING_RESULTS", str(results))
    notebook = nbformat.read(ROOT / name, as_version=4)
    known = defaults(notebook)
    parameters = {name: value for name, value in SMALLEST.items() if name in known}
    assert parameters
    target = tmp_path / "run.ipynb"
    # From a folder of its own: a page may not depend on where it is run.
    papermill.execute_notebook(
        ROOT / name, target, parameters, cwd=tmp_path, kernel_name="python3", progress_bar=False, log_output=False
    )
    ran = nbformat.read(target, as_version=4)
    assert any(cell.get("outputs") for cell in ran.cells)
    if "scale" in parameters and name != "notebooks/texts.ipynb":
        assert len(Store(results / "smoke").frame()) or len(Store(results / "smoke-cuts").frame())


def drawn(name: str, rename: dict[str, str], monkeypatch) -> list[int]:
    """Run a page's cells here, its texts renamed, and count what each of its figures draws."""
    from cramming.results.sweep import results as whole
    from cramming.studies import _page

    figures: list[Figure] = []

    def collected(self, caption, *shown):
        self.caption, self.shown = caption, shown
        figures.extend(one for one in shown if isinstance(one, Figure))

    def renamed(*arguments, **options):
        rows = whole(*arguments, **options)
        return rows.assign(source=rows["source"].replace(rename))

    monkeypatch.setattr(_page.Exhibit, "__init__", collected)
    monkeypatch.setattr(_page, "results", renamed)
    monkeypatch.setattr(_page, "glue", lambda **_: None)
    notebook, names = nbformat.read(ROOT / name, as_version=4), {"display": print}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {key: value for key, value in SMALLEST.items() if key in names}
    return [
        sum(len(line.get_xdata()) for line in axis.lines)
        + sum(len(marks.get_offsets()) for marks in axis.collections)
        + len(axis.patches)
        for figure in figures
        for axis in figure.axes
    ]


@pytest.mark.parametrize("name", [name for name in execute.notebooks(ROOT) if "ledger" not in name])
def test_figures_draw_texts_that_nobody_listed(name, results, monkeypatch):
    """Rows of pg19, and of a source that no module knows, are drawn as those of the shipped texts are."""
    monkeypatch.setattr("cramming.results.plans.RESULTS", results)
    with monkeypatch.context() as patch:
        listed = drawn(name, {}, patch)
    with monkeypatch.context() as patch:
        assert drawn(name, {"novels": "pg19", "fresh": "letters"}, patch) == listed
    assert sum(listed)

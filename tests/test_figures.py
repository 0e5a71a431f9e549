"""Figures draw every row that they are given, whatever text it is of."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure

from cramming.book import execute
from cramming.results.sweep import results as whole
from cramming.studies import _page
from tests.test_pages import ROOT, SMALLEST


@pytest.fixture(scope="module")
def results(smoke_store, tmp_path_factory) -> Path:
    """A folder for stores, with that of the smoke plan."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copytree(smoke_store, folder / "smoke")
    return folder


def drawn(name: str, rename: dict[str, str], monkeypatch) -> list[int]:
    """Run a page's cells here, its texts renamed, and count what each of its figures draws."""
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


@pytest.mark.parametrize(
    "name", [name for name in execute.notebooks(ROOT) if Path(name).stem not in ("ledger", "exercises")]
)
def test_figures_draw_texts_that_nobody_listed(name, results, monkeypatch):
    """Rows of pg19, and of a source that no module knows, are drawn as those of the shipped texts are."""
    monkeypatch.setattr("cramming.results.plans.RESULTS", results)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # IPython warns where another environment is active
    with monkeypatch.context() as patch:
        listed = drawn(name, {}, patch)
    with monkeypatch.context() as patch:
        assert drawn(name, {"novels": "pg19", "fresh": "letters"}, patch) == listed
    assert sum(listed)

"""Every page runs at the smallest scale from an empty store, as it would on a new machine."""

from __future__ import annotations

from pathlib import Path

import nbformat
import papermill
import pytest

from cramming.book import execute
from cramming.book.provenance import defaults
from cramming.results.store import Store

ROOT = Path(__file__).resolve().parents[1]
# For parameters that name a plan, the one of the smallest scale.
SMALLEST = {
    "scale": "smoke",
    "second": "smoke-second",
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

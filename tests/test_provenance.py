"""What a page says of its runs, read back from the notebook, and the files made of what it shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from cramming.book import provenance
from cramming.results.store import Store
from cramming.studies import _figures as figures
from cramming.studies import bound


@pytest.fixture
def rows(smoke_store) -> pd.DataFrame:
    return Store(smoke_store).frame().assign(provenance="random weights & <all>", width=8, vocab_size=259)


def shown(*frames) -> provenance.Shown:
    html = provenance.footer(*frames)._repr_html_()
    cell = new_code_cell("footer", outputs=[new_output("display_data", data={"text/html": html})])
    return provenance.read(new_notebook(cells=[cell]))


def test_the_runs_of_a_page_are_read_back_from_its_footer(rows):
    found = shown(("smoke", rows.iloc[:5]), ("smoke", rows.iloc[3:8]), ("plans/own.yaml", rows.iloc[8:9]))
    assert found.runs["smoke"] == sorted(key[:16] for key in rows["key"].iloc[:8])
    assert found.runs["own"] == [rows["key"].iloc[8][:16]]
    assert "random weights & <all>" in found.said["smoke"]
    assert "8 runs" in found.said["smoke"]


def test_a_page_without_runs_says_so(rows):
    assert "No run of the store" in provenance.footer(("smoke", rows.iloc[:0]))._repr_html_()
    assert shown(("smoke", rows.iloc[:0])).runs == {}


def test_parameters_come_with_their_comments_and_glued_numbers_with_their_cell():
    source = "scale = 'laptop'  # a plan\nlengths = [8, 16]  # tokens # of each\nplain = 1"
    glued = new_output("display_data", data={"text/plain": "3"}, metadata={"scrapbook": {"name": "three"}})
    cells = [
        new_code_cell("1"),
        new_code_cell(source, metadata={"tags": ["parameters"]}),
        new_code_cell("glue", outputs=[glued]),
    ]
    found = provenance.read(new_notebook(cells=cells))
    assert [(p.name, p.value, p.meaning) for p in found.parameters] == [
        ("scale", "'laptop'", "a plan"),
        ("lengths", "[8, 16]", "tokens # of each"),
        ("plain", "1", ""),
    ]
    assert found.glued == {"three": 3}


def test_a_table_keeps_its_cells_as_they_are_shown():
    index = pd.MultiIndex.from_product([["a"], ["x", "y"]], names=["first", "second"])
    frame = pd.DataFrame({"0.50": ["007", ""], "n": [1, 2]}, index=index)
    read = provenance.table(frame.to_html())
    assert list(read) == ["first", "second", "0.50", "n"]
    assert read["first"].tolist() == ["a", "a"]
    assert read["0.50"].tolist() == ["007", ""]


def test_columns_of_arrays_stay_out_of_csv(rows):
    assert "trace_loss" in rows
    plain = provenance.scalars(rows)
    assert {"key", "length", "recipe_json"} <= set(plain)
    assert not plain.map(lambda cell: isinstance(cell, (list, np.ndarray))).any().any()


def test_a_displayed_figure_takes_its_drawing_and_its_numbers_along():
    frame = pd.DataFrame(
        {"source": ["novels", "fresh"], "removed_bits": [1.25, 2], "least_bits": [1, 1], "bits": [3, 3]}
    ).assign(passage=["a", "b"], ids=[[1, 2], [3]])
    (data, metadata), again = (figures.shown(bound.reduction_figure(frame)) for _ in range(2))
    assert again == (data, metadata)
    told = metadata["cramming"]
    assert told["figure"] == "reduction"
    assert "</svg>" in data["image/svg+xml"]
    assert told["csv"]["frame"].splitlines()[:2] == [
        "source,removed_bits,least_bits,bits,passage",
        "novels,1.25,1,3,a",
    ]

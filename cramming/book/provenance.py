"""Where a page's numbers come from: written down by its last cell, read back when the book is built."""

from __future__ import annotations

import ast
import html
import re
import warnings
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import papermill
from nbformat import NotebookNode

from cramming.studies import _words as words

# Enough of a key to name a run among all those of a store, as the names of its shards do.
KEY = 16
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_NEEDED = ("key", "model", "provenance", "n_vectors", "device", "dtype", "versions", "cpu_seconds")


class Footer:
    """The foot of a page, shown by a notebook as HTML."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return "Runs of this page: the page has them"


def footer(*frames: tuple[str, pd.DataFrame]) -> Footer:
    """The foot of a page: which runs it shows, of which models, on what machine, at what cost.

    Args:
        frames: Pairs of a scale, or the name of another plan, and rows from `cramming.results.sweep.results`.

    Returns:
        An object that a notebook displays.
    """
    by_store: dict[str, list[pd.DataFrame]] = {}
    for scale, frame in frames:
        by_store.setdefault(scale, []).extend([frame] if len(frame) else [])
    return Footer("".join(_of_store(scale, some) for scale, some in by_store.items()))


def _of_store(scale: str, frames: list[pd.DataFrame]) -> str:
    name = html.escape(Path(scale).stem)
    if not frames:
        return f"<p>No run of the store <code>{name}</code> is shown here.</p>"
    rows = pd.concat([frame[list(_NEEDED)] for frame in frames]).drop_duplicates("key")
    keys = " ".join(sorted(key[:KEY] for key in rows["key"]))
    said = html.escape(f"{words.setting(rows)}. {words.cost(rows)}.")
    return (
        f'<div class="provenance" data-store="{name}" data-keys="{keys}" data-said="{said}">'
        f"<p><strong>Runs of this page</strong>, store <code>{name}</code>: {said}</p>"
        f"<details><summary>Keys of {len(rows):,} runs</summary><p><code>{keys}</code></p></details></div>"
    )


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook: its name, its value as it is written, and the comment behind it."""

    name: str
    value: str
    meaning: str


@dataclass
class Shown:
    """What a stored notebook says of itself."""

    parameters: list[Parameter] = field(default_factory=list)
    runs: dict[str, list[str]] = field(default_factory=dict)  # of each store the keys, cut to `KEY` digits
    said: dict[str, str] = field(default_factory=dict)  # of each store model, machine and cost, in a phrase
    glued: dict[str, int] = field(default_factory=dict)  # of each glued number its cell, from 1


def read(notebook: NotebookNode) -> Shown:
    """What a notebook, with its stored outputs, says of its parameters, its runs and its glued numbers."""
    found = Shown(parameters(notebook))
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        for output in cell.get("outputs", []):
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                found.glued[name] = number
            for store, keys, said in _FOOTER.findall(_text(output.get("data", {}).get("text/html", ""))):
                found.runs[html.unescape(store)] = keys.split()
                found.said[html.unescape(store)] = html.unescape(said)
    return found


_FOOTER = re.compile(r'class="provenance" data-store="([^"]*)" data-keys="([^"]*)" data-said="([^"]*)"')


def parameters(notebook: NotebookNode) -> list[Parameter]:
    """What the cell tagged `parameters` assigns, as papermill reads it: one line each."""
    with warnings.catch_warnings(action="ignore"):  # papermill's, of a notebook without such a cell
        told = papermill.inspect_notebook(nbformat.from_dict({**notebook, "metadata": {"kernelspec": KERNEL}}))
    return [Parameter(name, str(one["default"]), str(one["help"])) for name, one in told.items()]


def defaults(notebook: NotebookNode) -> dict[str, Any]:
    """Values of a notebook's parameters; one that is no literal equals nothing."""
    found: dict[str, Any] = {}
    for one in parameters(notebook):
        try:
            found[one.name] = ast.literal_eval(one.value)
        except (ValueError, SyntaxError):
            found[one.name] = float("nan")
    return found


def scalars(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame without its columns of arrays, for CSV."""
    arrays = [name for name in frame if frame[name].map(lambda cell: np.ndim(cell) > 0).any()]
    return frame.drop(columns=arrays)


def table(text: str) -> pd.DataFrame:
    """The table in a piece of HTML, as text, with one line of names."""
    width = pd.read_html(StringIO(text))[0].shape[1]
    as_shown: dict[Any, Any] = dict.fromkeys(range(width), str)  # no cell is read as a number
    frame = pd.read_html(StringIO(text), keep_default_na=False, converters=as_shown)[0]
    names = [name if isinstance(name, tuple) else (name,) for name in frame.columns]
    flat = [" ".join(dict.fromkeys(str(part) for part in name if "Unnamed" not in str(part))) for name in names]
    return frame.set_axis([name or f"row {i}" for i, name in enumerate(flat)], axis="columns").astype(str)


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)

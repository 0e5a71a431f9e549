"""Every number has a source: files behind each figure and table, where glued numbers come from, how to run a page."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nbformat
import pandas as pd
from docutils import nodes
from myst_nb.ext.glue.utils import PendingGlueReference
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

from cramming.book import provenance
from cramming.book.execute import FIGURES
from cramming.results.store import Store

# Under this folder of the site lie the files, one folder a page.
FILES = "_data"
_EMPTY = b"PK\x05\x06" + 18 * b"\0"  # an archive of nothing, for pages without figures


class NumbersLead(SphinxPostTransform):
    """A glued number becomes a link to its notebook, and says on hover which cell made it from which runs."""

    default_priority = 3  # before the numbers themselves are put in
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Wrap each number."""
        for node in list(self.document.findall(PendingGlueReference)):
            if node.gtype != "text":
                continue
            _, shown = _notebook(self.app.srcdir, node.refdoc)
            parts = [f"{Path(node.refdoc).name}.ipynb, cell {shown.glued.get(node.key, '?')}", *shown.said.values()]
            parts += [f"runs {', '.join(keys[:3])} and {max(0, len(keys) - 3)} more" for keys in shown.runs.values()]
            uri = self.app.builder.get_relative_uri(self.env.docname, node.refdoc)
            link = nodes.reference(
                "", "", internal=True, refuri=f"{uri}#made-from", reftitle=". ".join(parts), classes=["glued"]
            )
            node.replace_self(link)
            link += node


class FilesBehind(SphinxPostTransform):
    """Below each figure and table the files it was made from; at the foot of the page, how to run it."""

    default_priority = 3  # while the outputs of a cell are still told apart
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Write the files and put in the links."""
        name = self.env.docname
        source = self.app.srcdir / f"{name}.ipynb"
        if not source.exists():
            return
        notebook, shown = _notebook(self.app.srcdir, name)
        target = Path(self.app.outdir) / FILES / Path(name).name
        target.mkdir(parents=True, exist_ok=True)
        up = "../" * name.count("/")
        commit = _commit(f"{name}.ipynb")
        made = f'<a href="{up}_sources/{name}.ipynb" download>notebook</a>{f", commit {commit}" if commit else ""}'
        again = f"<code>cramming book --page {Path(name).name}</code>"
        archive = self.app.srcdir / FIGURES / f"{Path(name).name}.zip"
        numbers = ZipFile(archive if archive.is_file() else BytesIO(_EMPTY))
        number = 0
        for cell in self.document.findall(lambda node: _is(node, "cell_code")):
            outputs = [o for o in notebook.cells[cell["cell_index"]].get("outputs", []) if "data" in o]
            bundles = list(cell.findall(lambda node: _is(node, "mime_bundle")))
            lines = []
            for output in outputs if "remove-cell" not in cell["cell_metadata"].get("tags", []) else []:
                for kind, files in _files(output, numbers, target, number + 1):
                    number += 1
                    links = " ".join(
                        f'<a href="{up}{FILES}/{target.name}/{file.name}" download>{escape(label)}</a>'
                        for label, file in files
                    )
                    lines.append(f"{kind} {number}: {links}")
            if lines:
                foot = f'<p class="made-from">{" · ".join([*lines, made, again])}</p>'
                bundles[-1].parent.append(nodes.raw("", foot, format="html"))
        foot = _foot(Path(name).name, shown, self._runs(shown, target, up), made)
        next(iter(self.document.findall(nodes.section))).append(nodes.raw("", foot, format="html"))

    def _runs(self, shown: provenance.Shown, target: Path, up: str) -> list[str]:
        """Write the rows of the store behind a page; links to them."""
        links, folder = [], f"{up}{FILES}/{target.name}"
        for store, keys in shown.runs.items():
            rows = _rows(self.app.srcdir / "data" / "results" / store)
            rows = rows[rows["key"].str[: provenance.KEY].isin(keys)]
            for label, file in _both(rows, provenance.scalars(rows), target / f"runs-{store}"):
                named = f"{len(rows):,} runs of {store}, {label}"
                links.append(f'<a href="{folder}/{file.name}" download>{named}</a>')
        return links


def _files(
    output: NotebookNode, numbers: ZipFile, target: Path, number: int
) -> Iterator[tuple[str, list[tuple[str, Path]]]]:
    """The files behind one output of a cell, if it is a figure or a table: its kind, and labels and files."""
    told, text = output.get("metadata", {}).get("cramming"), output["data"].get("text/html", "")
    if told:
        drawing = target / f"{number:02}-{told['figure']}.svg"
        drawing.write_text(output["data"]["image/svg+xml"], encoding="utf-8")
        files = [("SVG", drawing)]
        for name in told["files"]:
            path = target / name
            path.write_bytes(numbers.read(name))
            pd.read_csv(path, low_memory=False).to_parquet(path.with_suffix(".parquet"))
            of = f"{path.stem.rpartition('-')[2]}, " if len(told["files"]) > 1 else ""
            files += [(f"{of}CSV", path), (f"{of}Parquet", path.with_suffix(".parquet"))]
        yield "Figure", files
    elif 'class="dataframe"' in (text := text if isinstance(text, str) else "".join(text)):
        frame = provenance.table(text)
        yield "Table", _both(frame, frame, target / f"{number:02}-table")


def _both(whole: pd.DataFrame, plain: pd.DataFrame, stem: Path) -> list[tuple[str, Path]]:
    csv, parquet = stem.with_suffix(".csv"), stem.with_suffix(".parquet")
    plain.to_csv(csv, index=False)
    whole.to_parquet(parquet)
    return [("CSV", csv), ("Parquet", parquet)]


def _foot(name: str, shown: provenance.Shown, runs: list[str], made: str) -> str:
    """The box at the end of a page."""
    given = " ".join(f"-p {p.name} {_quoted(p.value)}" for p in shown.parameters[:1])
    equal = " ".join(f"-p {p.name}={_quoted(p.value)}" for p in shown.parameters[:1])
    rows = "".join(
        f"<tr><td><code>{escape(p.name)}</code></td><td><code>{escape(p.value)}</code></td>"
        f"<td>{escape(p.meaning)}</td></tr>"
        for p in shown.parameters
    )
    commands = [
        f".venv/bin/papermill notebooks/{name}.ipynb mine.ipynb {given}  # into a notebook of your own",
        f".venv/bin/cramming book --page {name} {equal}  # beside the stored one, and the pages built anew",
        *(f".venv/bin/cramming sweep {store} --page {name}  # the runs alone" for store in shown.runs),
    ]
    files = f"<p>The runs it shows: {' · '.join(runs)}</p>" if runs else ""
    return (
        f'<section id="made-from" class="run-this-page"><h2>Run this page</h2>'
        f"<pre>{escape(chr(10).join(commands))}</pre>"
        f'<div class="table-wrapper"><table class="table"><caption>Parameters of this notebook</caption>'
        f"<thead><tr><th>parameter</th><th>default</th><th>meaning</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f"{files}<p>Source: {made}</p></section>"
    )


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"'[\w.-]+'", value) is None else value.strip("'")


def _is(node: nodes.Node, element: str) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == element


@cache
def _notebook(root: Path, name: str) -> tuple[NotebookNode, provenance.Shown]:
    notebook = nbformat.read(Path(root) / f"{name}.ipynb", as_version=4)
    return notebook, provenance.read(notebook)


@cache
def _rows(folder: Path) -> pd.DataFrame:
    return Store(folder).frame()


@cache
def _commit(path: str) -> str:
    """The commit that last changed a file, as a link where the repository's address is known; empty without git."""
    done = subprocess.run(["git", "log", "-1", "--format=%h", "--", path], capture_output=True, text=True)
    short, address = done.stdout.strip(), os.environ.get("CRAMMING_REPOSITORY_URL")
    return f'<a href="{address}/commit/{short}">{short}</a>' if short and address else short


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both transforms."""
    app.add_post_transform(NumbersLead)
    app.add_post_transform(FilesBehind)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

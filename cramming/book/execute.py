"""Papermill runs the notebooks whose outputs no longer hold, beside the stored ones and never over them.

A stored notebook shows what its own cells give when they are run from top to bottom, and carries a digest of all that
decides it (`cramming.book.inputs`). As long as the digest holds, its stored outputs are what the book shows. Otherwise
the notebook runs, and what it gives goes to the folder `EXECUTED`, from where the book takes it. Only `store` puts
outputs into the notebooks of the repository.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import papermill
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from cramming.book.inputs import digest, injected
from cramming.book.provenance import KERNEL, defaults
from cramming.errors import CrammingError, first_line
from cramming.files import atomic, read_yaml

EXECUTED = "_executed"
# The numbers behind the figures of each page, as CSV files in one archive.
FIGURES = "data/figures"


def contents(root: Path) -> list[str]:
    """Names of the pages in the order of _toc.yml.

    Raises:
        CrammingError: If it is missing or not what Jupyter Book takes.
    """
    try:
        toc = read_yaml(root / "_toc.yml", "it is part of the repository, so restore it from git")
        return [toc["root"], *(chapter["file"] for part in toc.get("parts", []) for chapter in part["chapters"])]
    except (OSError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise CrammingError(f"_toc.yml lists no pages ({first_line(error)}): restore it from git") from error


def notebooks(root: Path) -> list[str]:
    """Paths of the notebooks among the pages, relative to the root.

    Raises:
        CrammingError: If a page of notebooks/ does not exist.
    """
    found = [f"{page}.ipynb" for page in contents(root) if page.startswith("notebooks/")]
    for name in found:
        if not (root / name).is_file():
            raise CrammingError(f"{name}: listed in _toc.yml but no such file: correct the list or add the notebook")
    return found


def execute(
    root: Path,
    only: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    anyway: bool = False,
    progress: bool = True,
) -> list[str]:
    """Run the notebooks whose outputs do not hold.

    Args:
        root: The repository, which is also the working directory of the notebooks.
        only: This notebook alone; its path as in the list.
        parameters: Overrides, for each notebook that has a parameter of that name.
        anyway: Run those whose outputs hold too.
        progress: Show papermill's progress bar.

    Returns:
        The notebooks that ran.

    Raises:
        CrammingError: If a cell failed, a parameter is unknown, or an output holds a path of this machine. What is
            stored, and what was executed before, stays as it was.
    """
    listed, given = notebooks(root), dict(parameters or {})
    if only is not None and only not in listed:
        raise CrammingError(f"{only}: not in _toc.yml, which has {', '.join(listed)}: name one of these")
    chosen = [name for name in listed if only in (None, name)]
    known = {name: defaults(nbformat.read(root / name, as_version=4)) for name in chosen}
    if unknown := given.keys() - set().union(*known.values()):
        have = ", ".join(sorted(set().union(*known.values()))) or "none"
        raise CrammingError(f"no parameter {min(unknown)!r}: {only or 'the notebooks'} has {have}")
    ran = []
    for name in chosen:
        values = {key: value for key, value in given.items() if key in known[name] and value != known[name][key]}
        if not anyway and not values and holds(root, name):
            _drop(root, name)
            continue
        if not anyway and _executed(root, name, values) is not None:
            continue
        print(f"{name}: running", file=sys.stderr)
        _run(root, name, values, progress)
        ran.append(name)
    return ran


def holds(root: Path, name: str) -> bool:
    """Whether the stored outputs of a notebook are what it would give."""
    notebook = nbformat.read(root / name, as_version=4)
    return notebook.metadata.get("cramming", {}).get("inputs") == digest(root, name, notebook, {})


def store(root: Path, only: str | None = None) -> None:
    """Put what was executed, with the notebooks' own parameters, into the notebooks of the repository, or into one."""
    for name in [only] if only else notebooks(root):
        if (notebook := _executed(root, name, {})) is None:
            continue
        atomic(root / name, (nbformat.writes(notebook) + "\n").encode())
        ours, theirs = _figures(root, name), _figures(root / EXECUTED, name)
        if theirs.is_file():
            ours.parent.mkdir(parents=True, exist_ok=True)
            atomic(ours, theirs.read_bytes())
        else:
            ours.unlink(missing_ok=True)
        _drop(root, name)


def current(root: Path, name: str) -> tuple[NotebookNode, Path]:
    """A notebook as the book shows it, and the archive of its figures' numbers: as executed, or else as stored.

    Prose is that of the stored one, whose text may have changed since.
    """
    stored = nbformat.read(root / name, as_version=4)
    place = root / EXECUTED / name
    said = nbformat.read(place, as_version=4).metadata.cramming.parameters if place.is_file() else {}
    ran = _executed(root, name, said)
    if ran is None:
        return stored, _figures(root, name)
    prose = {cell.id: cell.source for cell in stored.cells if cell.cell_type == "markdown"}
    for cell in ran.cells:
        cell.source = prose.get(cell.id, cell.source)
    return ran, _figures(root / EXECUTED, name)


def clean(notebook: NotebookNode) -> NotebookNode:
    """Drop, in place, what differs from run to run and says nothing: timings, paths, versions, widget state."""
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    notebook.metadata["kernelspec"] = KERNEL
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if injected(cell):
            cell["id"] = "injected-parameters"
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return notebook


def machine_paths(notebook: NotebookNode, root: Path) -> list[str]:
    """Cells whose outputs name the home, the repository, the environment or the temporary folder: `cell 3: /tmp/x`."""
    places = {str(Path.home()), str(root.resolve()), sys.prefix, tempfile.gettempdir()} - {"/"}
    named = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    pattern = re.compile(rf"""(?<![\w.~/-])({named})(?![\w-])[^\s"'\\<]*""")
    found = []
    for number, cell in enumerate(_own_cells(notebook), start=1):
        for output in cell.get("outputs", []):
            data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
            if match := pattern.search(json.dumps({**output, "data": data}, ensure_ascii=False)):
                found.append(f"cell {number}: {match[0]}")
    return found


def pack(notebook: NotebookNode, target: Path) -> None:
    """Move the numbers behind a notebook's figures out of its outputs into an archive, the same for the same numbers.

    A figure keeps its name and those of its files.
    """
    found = dict[str, str]()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = [output.metadata.cramming for output in outputs if "cramming" in output.get("metadata", {})]
    for place, told in enumerate(drawn, start=1):
        files = {f"{place:02}-{told['figure']}-{name}.csv": text for name, text in told.pop("csv").items()}
        told["files"] = list(files)
        found |= files
    target.unlink(missing_ok=True)
    if found:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w") as archive:
            for name, text in sorted(found.items()):
                archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED, compresslevel=9)


def _run(root: Path, name: str, parameters: dict[str, Any], progress: bool) -> None:
    """Run one notebook and put the result where executed ones lie."""
    notebook = nbformat.read(root / name, as_version=4)
    notebook.cells = _own_cells(notebook)
    how = {"kernel_name": "python3", "language": "python", "cwd": root, "progress_bar": progress}
    # Pieces of one stream are joined, however they arrived; the kernel is talked to without a network port.
    how |= {"coalesce_streams": True, "config": Config({"KernelManager": {"transport": "ipc"}})}
    # The kernel of the running interpreter comes first on this path; progress bars stay out of the outputs.
    environment = {"JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter"), "TQDM_DISABLE": "1"}
    try:
        with patch.dict(os.environ, environment):
            result = papermill.execute_notebook(notebook, None, parameters, **how)
    except PapermillExecutionError as error:
        number = error.cell_index + 1 - bool(parameters)
        said = first_line(error.evalue) or "no message"
        raise CrammingError(f"{name}, cell {number}: {error.ename}: {said}: nothing stored") from error
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise CrammingError(f"{name}: the kernel stopped ({first_line(error)}): nothing stored") from error
    clean(result)
    if found := machine_paths(result, root):
        raise CrammingError(f"{name}: an output names a path of this machine, {found[0]}: print relative paths")
    pack(result, _figures(root / EXECUTED, name))
    result.metadata["cramming"] = {"inputs": digest(root, name, result, parameters), "parameters": parameters}
    target = root / EXECUTED / name
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic(target, (nbformat.writes(result) + "\n").encode())


def _executed(root: Path, name: str, parameters: Mapping[str, Any]) -> NotebookNode | None:
    """What a notebook gave with these parameters, if it has run here and would give the same again."""
    place = root / EXECUTED / name
    if not place.is_file():
        return None
    ran, stored = nbformat.read(place, as_version=4), nbformat.read(root / name, as_version=4)
    here = [cell.source for cell in stored.cells if cell.cell_type == "code"]
    there = [cell.source for cell in _own_cells(ran) if cell.cell_type == "code"]
    said = ran.metadata.get("cramming", {})
    same = here == there and said.get("parameters") == parameters
    return ran if same and said.get("inputs") == digest(root, name, ran, parameters) else None


def _drop(root: Path, name: str) -> None:
    """Forget what a notebook gave here."""
    for path in (root / EXECUTED / name, _figures(root / EXECUTED, name)):
        path.unlink(missing_ok=True)


def _figures(root: Path, name: str) -> Path:
    return root / FIGURES / f"{Path(name).stem}.zip"


def _own_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if not injected(cell)]

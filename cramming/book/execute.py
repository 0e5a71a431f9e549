"""The book: papermill runs the notebooks, a staged tree mirrors the repository, Jupyter Book renders it.

A stored notebook always shows what its own cells give when they are run from top to bottom. Papermill puts parameters
that differ from the notebook's defaults into a cell of its own, which is then stored as well; parameters equal to the
defaults leave no such cell, and one left by an earlier run is removed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import papermill
import yaml
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from cramming.errors import CrammingError
from cramming.files import inside, read_yaml

LIST = "book/notebooks.yaml"


# Digests of what each notebook was last run with on this machine; never committed.
RUNS = "_runs.json"
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebooks(root: Path) -> dict[str, dict[str, Any]]:
    """Read book/notebooks.yaml: path of each notebook, relative to the root, and the parameters the book gives it.

    Raises:
        CrammingError: the list is missing or malformed, or names a notebook that does not exist.
    """
    try:
        entries = read_yaml(root / LIST, "it is part of the repository, so restore it from git")
        found = {entry["path"]: dict(entry.get("parameters") or {}) for entry in entries}
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise CrammingError(f"{LIST}: not a list of entries with path and parameters ({_line(error)})") from error
    for name in found:
        if not inside(name):
            raise CrammingError(f"{name}: listed in {LIST} but not below the repository: give a path relative to it")
        if not (root / name).is_file():
            raise CrammingError(f"{name}: listed in {LIST} but no such file: correct the list or add the notebook")
    return found


def execute(
    root: Path, only: str | None = None, parameters: dict[str, Any] | None = None, progress: bool = True
) -> list[str]:
    """Run the notebooks of book/notebooks.yaml with papermill, in place, outputs stored and cleaned.

    A notebook is left out if it, its parameters, the package, the data and the lock are what they were when it last
    ran here; naming it with `only`, or giving parameters, runs it in any case. A run that fails or is interrupted
    leaves the stored notebook as it was.

    Args:
        root: the repository, which is also the working directory of the notebooks.
        only: run this notebook alone; its path as in the list.
        parameters: overrides, for each notebook that has a parameter of that name.
        progress: show papermill's progress bar.

    Returns:
        The notebooks that ran.

    Raises:
        CrammingError: a cell failed, a parameter is unknown, or an output holds a path of this machine.
    """
    listed, overrides = notebooks(root), parameters or {}
    if only is not None and only not in listed:
        raise CrammingError(f"{only}: not in {LIST}, which has {', '.join(listed)}: name one of these")
    chosen = {name: given for name, given in listed.items() if only in (None, name)}
    known = {name: defaults(nbformat.read(root / name, as_version=4)) for name in chosen}
    for name, given in chosen.items():
        # A parameter of the list has to be in its own notebook, an override in any one of those that run.
        unknown = given.keys() - known[name].keys() | overrides.keys() - set().union(*known.values())
        if unknown:
            raise CrammingError(f"{name}: no parameter {min(unknown)!r}: it has {', '.join(known[name]) or 'none'}")
    ran = []
    for name, given in chosen.items():
        values = given | {key: value for key, value in overrides.items() if key in known[name]}
        if only is None and not overrides and _recorded(root).get(name) == _state(root, name, values):
            print(f"{name}: nothing it depends on has changed since it last ran here", file=sys.stderr)
            continue
        print(f"{name}: running", file=sys.stderr)
        _run(root, name, {key: value for key, value in values.items() if value != known[name][key]}, progress)
        _replace(root / RUNS, json.dumps(_recorded(root) | {name: _state(root, name, values)}, indent=1))
        ran.append(name)
    return ran


def defaults(notebook: NotebookNode) -> dict[str, Any]:
    """Values that the cell tagged `parameters` assigns; a value that is no literal equals nothing."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code" or "parameters" not in cell.metadata.get("tags", []):
            continue
        for node in ast.parse(cell.source).body:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                try:
                    found[ast.unparse(target)] = ast.literal_eval(node.value)
                except ValueError:
                    found[ast.unparse(target)] = float("nan")
    return found


def clean(notebook: NotebookNode) -> NotebookNode:
    """Drop, in place, what differs from run to run and says nothing: timings, paths, versions, widget state."""
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    notebook.metadata["kernelspec"] = _KERNEL
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if "injected-parameters" in cell.metadata.get("tags", []):
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


def _run(root: Path, name: str, parameters: dict[str, Any], progress: bool) -> None:
    """Run one notebook and put the result in its place, if it differs."""
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
        raise CrammingError(f"{name}, cell {number}: {error.ename}: {_line(error.evalue)}: nothing stored") from error
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise CrammingError(f"{name}: the kernel stopped ({_line(error)}): nothing stored") from error
    clean(result)
    if found := machine_paths(result, root):
        raise CrammingError(f"{name}: an output names a path of this machine, {found[0]}: print relative paths")
    text = nbformat.writes(result) + "\n"
    if text != (root / name).read_text(encoding="utf-8"):
        _replace(root / name, text)


def _own_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]


def _state(root: Path, name: str, parameters: dict[str, Any]) -> str:
    """Digest of all that decides a notebook's outputs: itself, parameters, package, data and lock."""
    digest = hashlib.sha256(repr(sorted(parameters.items())).encode())
    package, data = sorted((root / "cramming").glob("*.py")), sorted((root / "data").rglob("*"))
    for path in (root / name, root / "requirements.lock", *package, *data):
        if path.is_file() and "unfinished" not in path.parts:
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def _recorded(root: Path) -> dict[str, str]:
    try:
        return json.loads((root / RUNS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]

"""What a page's outputs hang on, as one digest: it is stored with the notebook, and tells whether they still hold."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from nbformat import NotebookNode

from cramming.book.provenance import KEY, read
from cramming.errors import CrammingError
from cramming.results.plans import load_plan
from cramming.results.store import Store

# Of the pinned environment, those that numbers or pictures can hang on.
DECIDING = (
    "torch",
    "transformers",
    "numpy",
    "pandas",
    "matplotlib",
    "seaborn",
    "constriction",
    "wordfreq",
    "zstandard",
)
DATA = ("data/paper", "data/texts", "data/benchmarks", "data/estimates")
# Of them, what one page alone shows: a machine more that was measured leaves the other pages as they are.
OF_ONE_PAGE = {"data/benchmarks/device": "scale", "data/benchmarks/browser": "cram"}
# Of a stored row, what tells one run from the same run made anew.
_ROW = ["key", "length", "exact", "margin", "steps", "token_passes", "cpu_seconds", "device", "versions"]


def digest(root: Path, name: str, notebook: NotebookNode, parameters: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the outputs of a notebook; its prose does not.

    That is its cells of code and parameters, the code of this package's modules that they import, directly or not,
    the plans that a parameter names (of these the part that the page shows), the rows that the page shows, the other
    data, and the packages that do the arithmetic.

    Args:
        root: The repository.
        name: Path of the notebook in it.
        notebook: The notebook with its stored outputs, whose last cell says which rows it shows.
        parameters: Those that differ from the notebook's own.
    """
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not injected(cell)]
    shown = read(notebook)
    values = [parameter.value for parameter in shown.parameters] + list(map(repr, parameters.values()))
    parts: list[object] = [cells, sorted(parameters.items())]
    parts += [(path.as_posix(), _code((root / path).read_text(encoding="utf-8"))) for path in modules(root, cells)]
    parts += [_plan(value, Path(name).stem) for value in values]
    parts += [_rows(root / "data" / "results" / store, tuple(keys)) for store, keys in sorted(shown.runs.items())]
    parts += [_folder(root, data, Path(name).stem) for data in DATA] + [_packages(root / "requirements.lock")]
    return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()


def modules(root: Path, sources: Iterable[str]) -> list[Path]:
    """The modules of this package that pieces of code import, directly or through others; paths in the repository."""
    found, waiting = set[Path](), [path for source in sources for path in _imported(root, source)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(root, (root / path).read_text(encoding="utf-8"))
    return sorted(found)


@cache
def _imported(root: Path, source: str) -> list[Path]:
    """Files of the modules that one piece of code names in its imports."""
    names = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in names if name.split(".")[0] == "cramming"]
    stems = {Path(*part[:i]) for part in parts for i in range(1, len(part) + 1)}
    files = [file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py")]
    return [file for file in files if (root / file).is_file()]


@cache
def _code(source: str) -> str:
    """A module without its comments and docstrings, which decide nothing."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def injected(cell: NotebookNode) -> bool:
    """Whether papermill put the cell in, for parameters that differ from the notebook's own."""
    return "injected-parameters" in cell.metadata.get("tags", [])


def _plan(value: str, page: str) -> str:
    """The part of a plan that a page shows, if the value of a parameter, as it is written, names one."""
    try:
        plan = load_plan(str(ast.literal_eval(value)))
    except (CrammingError, ValueError, SyntaxError, OSError):  # most values name none, such as a text to be crammed
        return ""
    if any(page in experiment.pages for experiment in plan.experiments):
        plan = plan.of(page)
    return plan.model_dump_json(exclude_defaults=True)  # a new key of plans changes none of the old


def _rows(folder: Path, keys: tuple[str, ...]) -> list[str]:
    rows = _store(folder, tuple((path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.parquet"))))
    shown = rows[rows["key"].str[:KEY].isin(keys)].sort_values("key")
    return [repr(row) for row in shown.itertuples(index=False, name=None)]


@cache
def _store(folder: Path, shards: tuple[tuple[str, int], ...]) -> pd.DataFrame:
    """The rows of a store, read once as long as its shards are the same."""
    return Store(folder).frame()[_ROW]


def _folder(root: Path, folder: str, page: str) -> list[tuple[str, str]]:
    others = tuple(f"{own}/" for own, reader in OF_ONE_PAGE.items() if reader != page)
    files = [path for path in sorted((root / folder).rglob("*")) if path.is_file() and path.suffix != ".md"]
    names = {path.relative_to(root).as_posix(): path for path in files}
    return [(name, _sha(path)) for name, path in names.items() if not name.startswith(others)]


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _packages(lock: Path) -> list[str]:
    lines = lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else []
    return [line for line in lines if line.partition("==")[0] in DECIDING]

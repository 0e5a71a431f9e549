"""The house: floors that import from above alone, a core of one evening, documentation that keeps up."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import typer
import yaml
from packaging.specifiers import SpecifierSet

from cramming import __all__ as face
from cramming.book.stage import stage
from cramming.cli import app
from cramming.recipes import Growth, Recipe
from cramming.results.plans import Experiment, Plan

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "book").rglob("*.md")}
PAGES["README.md"] = (ROOT / "README.md").read_text()


def contract(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    return subprocess.run([*command, "--no-cache"], cwd=folder, text=True, capture_output=True)


def test_floors_import_from_above_alone():
    done = contract(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("cramming/engine.py", "from cramming.results.store import Store"),
        ("cramming/results/rows.py", "from cramming.studies import _words"),
        ("cramming/studies/growth.py", "from cramming.book import provenance"),
        ("cramming/studies/growth.py", "from cramming.studies import sphere"),
        ("cramming/results/new.py", "from cramming import cli"),
    ],
)
def test_one_import_turned_upward_is_found(tmp_path, file, line):
    shutil.copytree(ROOT / "cramming", tmp_path / "cramming", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / file
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    done = contract(tmp_path)
    assert done.returncode, done.stdout
    assert "BROKEN" in done.stdout


def test_the_core_is_one_evening():
    lines = sum(path.read_text().count("\n") for path in (ROOT / "cramming").glob("*.py") if path.name != "cli.py")
    assert lines <= 3500  # a little more than the blueprint's 3,200: paths and the face are its new rooms


# What is documented


def explained(name: str, *pages: str) -> bool:
    """Whether some page has the name as code."""
    found = [text for page, text in PAGES.items() if not pages or page in pages]
    return any(re.search(rf"`[^`\n]*(?<![\w-]){re.escape(name)}(?![\w])[^`\n]*`", text) for text in found)


@pytest.mark.parametrize("field", [*Recipe.model_fields, *Growth.model_fields])
def test_every_field_of_a_recipe_is_explained(field):
    assert explained(field, "book/settings.md"), f"recipe field {field}: explain it in book/settings.md"


@pytest.mark.parametrize("field", [*Plan.model_fields, *Experiment.model_fields])
def test_every_key_of_a_plan_is_explained(field):
    assert explained(field, "book/settings.md"), f"plan key {field}: explain it in book/settings.md"


OPTIONS = [
    (name, option)
    for name, command in typer.main.get_command(app).commands.items()
    for parameter in command.params
    for option in parameter.opts[:1]
    if option.startswith("-") and option != "--help"
]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_every_option_of_a_command_is_explained(command, option):
    text = PAGES["book/settings.md"]
    [section] = re.findall(rf"^## `cramming {command}`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert f"`{option}`" in section, f"cramming {command} {option}: explain it in book/settings.md"


MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in sorted((ROOT / "cramming").rglob("*.py"))
    if not path.name.startswith("_") and path.name != "cli.py"
]


def test_every_module_is_in_the_api_and_has_a_page_with_all_that_is_public(tmp_path):
    """Autodoc lists all that is public in a module, and takes no exceptions."""
    shutil.copytree(ROOT / "cramming", tmp_path / "cramming", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    shutil.copy2(ROOT / "notebooks" / "growth.ipynb", tmp_path / "notebooks")
    shutil.copy2(ROOT / "book" / "api.md", tmp_path / "book")
    chapters = [{"file": "notebooks/growth"}, {"file": "book/api"}]
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump({"root": "book/index", "parts": [{"chapters": chapters}]}))
    staged = stage(tmp_path)
    pages = {path.stem: path.read_text() for path in (staged / "book" / "api").glob("*.md")}
    shown = {name for text in pages.values() for name in re.findall(r"automodule:: (\S+)\n   :members:\n```", text)}
    assert set(MODULES) - shown == set(), "list them in book/api.md"
    assert shown - set(MODULES) == {"cramming.studies._page"}
    [_, api] = yaml.safe_load((staged / "_toc.yml").read_text())["parts"][0]["chapters"]
    assert {section["file"] for section in api["sections"]} == {f"book/api/{page}" for page in pages}
    assert {page for page, text in pages.items() if "Its page: " in text} == {"studies.growth"}


@pytest.mark.parametrize("name", [name for name in face if name != "__version__"])
def test_the_first_names_are_in_the_readme_or_the_api(name):
    assert re.search(rf"\bcramming\.{name}\b|`{name}`", PAGES["README.md"] + PAGES["book/api.md"])


@pytest.mark.parametrize(("given", "policy"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_that_wait_sleep_unless_a_user_says_otherwise(given, policy):
    """It has to be set before torch is loaded, whichever part of the package comes first."""
    code = "import sys, os, cramming.engine; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["True", policy]


def test_the_face_has_the_function_horizon_whatever_was_imported_before():
    code = "import cramming.horizon, cramming; print(cramming.horizon.__name__, callable(cramming.horizon))"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["horizon", "True"]


def test_the_oldest_python_takes_all_that_is_pinned_and_is_the_one_that_pages_name():
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    takes = {name: importlib.metadata.metadata(name).get("Requires-Python", "") for name in pinned}
    assert {name: said for name, said in takes.items() if oldest not in SpecifierSet(said)} == {}
    for name in ("README.md", "book/rerun.md", "Makefile", "requirements.lock", "environment.yml"):
        said = re.findall(r"(?:Python |python>=)(3\.[\d.]*\d)", (ROOT / name).read_text())
        assert set(said) == {oldest}, name
    assert f"version_info < ({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The contents of a wheel of this tree, as an installation lays them out."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("cramming", "data", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, source / name)
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True, capture_output=True)
    [made] = folder.glob("*.whl")
    zipfile.ZipFile(made).extractall(folder / "installed")
    assert made.stat().st_size < 2**21  # no results
    return folder / "installed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["-m", "cramming.cli", "cram", "--text", "xylo", "--model", "tiny-llama"], 0, "4 tokens decode"),
        (["-m", "cramming.cli", "cram", "--model", "tiny-opt", "--length", "3"], 0, "novels/"),
        (["-m", "cramming.cli", "sweep", "paper", "--estimate"], 0, "Llama-3.1-8B"),
        (["-m", "cramming.cli", "book"], 2, "installed without the book: clone the repository and work there"),
        (["-m", "doctest", "{installed}/cramming/__init__.py"], 0, ""),
    ],
)
def test_a_wheel_works_alone_in_an_empty_folder(wheel, tmp_path, command, code, said):
    environment = {**os.environ, "PYTHONPATH": str(wheel), "TQDM_DISABLE": "1"}
    filled = [part.format(installed=wheel) for part in command]
    done = subprocess.run([sys.executable, *filled], cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert str(ROOT) not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())

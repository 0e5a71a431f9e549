"""The staged tree: a mirror of the repository with the pages as they are now, from which Jupyter Book builds."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nbformat
import yaml

from cramming.book.execute import FIGURES, current, notebooks

# What stage() copies: all that a page may show or link to, at the same path as in the repository.
MIRRORED = ["_config.yml", "_toc.yml", "book", "notebooks", "cramming", "data", "tests", "benchmarks", "README.md"]
MIRRORED += ["CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "environment.yml", "requirements.lock"]

# The tables of this page list the modules that get a page of their own, below it in the contents.
API = "book/api"


def stage(root: Path, target: str = "_stage", *, weights: bool = False) -> Path:
    """Copy what the book is built from to a fresh tree that mirrors the repository.

    Notebooks are as they were executed here, or else as stored. Each module of the API gets its page. Stored vectors
    are left out, since they are large; the few that the page for browsers decodes are put beside it, and with weights
    the model's file in parts.
    With CRAMMING_REPOSITORY_URL set to the address of a public repository, pages get buttons that lead to their source
    there and run it on Binder or Colab.
    """
    place = root / target
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    skipped = shutil.ignore_patterns("*.safetensors", "unfinished", "sweep.log", "__pycache__", ".*")
    for name in MIRRORED:
        if (root / name).is_dir():
            shutil.copytree(root / name, place / name, ignore=skipped)
        elif (root / name).is_file():
            shutil.copy2(root / name, place / name)
    for name in notebooks(root) if (root / "_toc.yml").is_file() else []:
        notebook, figures = current(root, name)
        (place / name).write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        if figures.is_file():
            (place / FIGURES).mkdir(parents=True, exist_ok=True)
            shutil.copy2(figures, place / FIGURES)
    if (place / f"{API}.md").is_file():
        _modules(place)
    if address := os.environ.get("CRAMMING_REPOSITORY_URL"):
        config = yaml.safe_load((place / "_config.yml").read_text(encoding="utf-8"))
        theme = config["sphinx"]["config"]["html_theme_options"]
        theme |= {"repository_url": address, "repository_branch": "main", "use_repository_button": True}
        theme["launch_buttons"] = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
        if "github.com/" in address:  # Colab reads no other host
            theme["launch_buttons"]["colab_url"] = "https://colab.research.google.com"
        (place / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    if (place / "book" / "decode.yaml").is_file():
        from cramming.book.export import assemble  # here, since it brings in torch

        assemble(root, place, weights=weights)
    return place


def _modules(place: Path) -> None:
    """Write a page for each module that the API lists, in its order; a study's names the book's page."""
    listed = re.findall(r"^ +~cramming\.([\w.]+)$", (place / f"{API}.md").read_text(encoding="utf-8"), re.MULTILINE)
    (place / API).mkdir()
    for name in listed:
        notebook = f"notebooks/{name.partition('studies.')[2]}.ipynb"
        page = f"Its page: [](../../{notebook})\n\n" if (place / notebook).is_file() else ""
        text = f"# `cramming.{name}`\n\n{page}```{{eval-rst}}\n.. automodule:: cramming.{name}\n   :members:\n```\n"
        (place / API / f"{name}.md").write_text(text, encoding="utf-8")
    toc = yaml.safe_load((place / "_toc.yml").read_text(encoding="utf-8"))
    for chapter in (chapter for part in toc["parts"] for chapter in part["chapters"]):
        if chapter["file"] == API:
            chapter["sections"] = [{"file": f"{API}/{name}", "title": name} for name in listed]
    (place / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")

"""The book: papermill runs the notebooks, a staged tree mirrors the repository, Jupyter Book renders it.

A stored notebook always shows what its own cells give when they are run from top to bottom. Papermill puts parameters
that differ from the notebook's defaults into a cell of its own, which is then stored as well; parameters equal to the
defaults leave no such cell, and one left by an earlier run is removed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import yaml

# What stage() copies: all that a page may show or link to, at the same path as in the repository.
MIRRORED = ["_config.yml", "_toc.yml", "book", "notebooks", "cramming", "data", "tests", "benchmarks", "README.md"]
MIRRORED += ["CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "environment.yml", "requirements.lock"]


def stage(root: Path, target: str = "_stage") -> Path:
    """Copy what the book is built from to a fresh tree that mirrors the repository.

    Stored vectors are left out, since they are large; the few that the page for browsers decodes are put beside it.
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

        assemble(root, place)
    return place

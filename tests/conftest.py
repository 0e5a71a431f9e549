"""What the tests share: tiny models built once, a cram on each that succeeds, and a store of the smoke plan."""

from __future__ import annotations

import signal
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from cramming.cli import main
from cramming.engine import Cram, cram
from cramming.models import TINY_NAMES, FrozenLM, load
from cramming.recipes import recipe
from cramming.results.plans import load_plan
from cramming.results.store import Store
from cramming.results.sweep import LOG, sweep
from cramming.texts import Passage, from_text
from tests import gemma

# A slow or busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell that starts the tests in the background has them ignore Ctrl-C, which some tests are about.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tiny models gain nothing from threads, and lose much to them on a busy machine.
torch.set_num_threads(1)


@cache
def model(name: str) -> FrozenLM:
    """A model that no test may change."""
    return load(name, device="cpu")


@cache
def solve(name: str) -> Cram:
    """A solved cram of four bytes.

    Not every start leads there, and rounding decides which do, so several are tried.
    """
    lm = model(name)
    passages = [from_text("xylo", lm.tokenizer, id=f"start-{i}") for i in range(6)]

    def enough(run: Cram) -> None:
        if run.solved:
            raise KeyboardInterrupt  # the first will do

    runs = cram(lm, passages, recipe("best", max_steps=120), batch=6, progress=False, on_result=enough)
    solved = [run for run in runs if run.solved]
    assert solved, f"no start of {lm.name} reached four bytes"
    return solved[0]


@pytest.fixture(params=TINY_NAMES)
def tiny(request) -> FrozenLM:
    """Each of the five architectures in turn."""
    return model(request.param)


@pytest.fixture
def solved(tiny) -> Cram:
    """A solved cram on each architecture."""
    return solve(tiny.name)


@pytest.fixture(scope="session")
def tiny_llama() -> FrozenLM:
    return model("tiny-llama")


@pytest.fixture(scope="session")
def gemma_file(tmp_path_factory) -> Path:
    """A tiny Gemma 3 as a GGUF file, whose local attention sees four positions."""
    path = tmp_path_factory.mktemp("gemma") / "tiny.gguf"
    gemma.write(path)
    return path


@pytest.fixture(scope="session")
def tiny_gemma(gemma_file) -> FrozenLM:
    return load(str(gemma_file), device="cpu")


@pytest.fixture(scope="session")
def solved_llama() -> Cram:
    return solve("tiny-llama")


@pytest.fixture(scope="session")
def prose() -> list[Passage]:
    """Three passages of different lengths; every tiny model has the same tokenizer."""
    return [from_text(text, model("tiny-llama").tokenizer, id=text) for text in ("To be", "or not to be", "that is")]


@pytest.fixture(scope="session")
def smoke_store(tmp_path_factory) -> Path:
    """The folder of a store with the whole smoke plan; copy it before changing it."""
    folder = tmp_path_factory.mktemp("smoke") / "results"
    sweep(load_plan("smoke"), model("tiny-llama"), Store(folder), progress=False)
    return folder


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs a command in this process; its exit status, stdout and stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cramming", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def refused(cli):
    """Runs a command that must fail; the one line it says."""

    def run(*arguments) -> str:
        code, out, err = cli(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("cramming: ")
        assert err.count("\n") == 1
        return err

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden ones too, but no folder in it and no log: to tell whether anything changed."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.name != LOG}

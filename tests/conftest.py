"""What the tests share: tiny models built once, and one cram on each that is known to succeed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from cramming.engine import Cram, cram
from cramming.models import TINY_NAMES, FrozenLM, load
from cramming.recipes import recipe
from cramming.texts import Passage, from_text

# A slow or busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Tiny models gain nothing from threads, and lose much to them on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_llama() -> FrozenLM:
    return load("tiny-llama", device="cpu")


@pytest.fixture(scope="session", params=TINY_NAMES)
def tiny(request) -> FrozenLM:
    """Each of the five architectures in turn."""
    return load(request.param, device="cpu")


def solve(lm: FrozenLM) -> Cram:
    """A solved cram of four bytes.

    Not every start leads there, and rounding decides which do, so several are tried.
    """
    passages = [from_text("xylo", lm.tokenizer, id=f"start-{i}") for i in range(6)]
    runs = cram(lm, passages, recipe("best", max_steps=120), batch=6, progress=False)
    solved = [run for run in runs if run.solved]
    assert solved, f"no start of {lm.name} reached four bytes"
    return solved[0]


@pytest.fixture(scope="session")
def solved(tiny) -> Cram:
    """A solved cram on each architecture."""
    return solve(tiny)


@pytest.fixture(scope="session")
def solved_llama(tiny_llama) -> Cram:
    return solve(tiny_llama)


@pytest.fixture(scope="session")
def prose(tiny_llama) -> list[Passage]:
    """Three passages of different lengths; every tiny model has the same tokenizer."""
    return [from_text(text, tiny_llama.tokenizer, id=text) for text in ("To be", "or not to be", "that is")]

"""Horizons: only a prefix that decodes counts, and nothing after the first wrong token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cramming.decode import certify, greedy
from cramming.engine import Cram
from cramming.errors import CrammingError
from cramming.horizon import certified, horizon
from cramming.recipes import Growth, recipe
from cramming.texts import Passage
from tests.conftest import model

HOW = recipe("horizon", max_token_passes=500, growth=Growth(start=2, block=3))


@pytest.fixture(scope="module")
def grown(tiny_llama, prose):
    return horizon(tiny_llama, prose, HOW, progress=False)


def test_horizon_is_the_longest_prefix_that_decodes(tiny_llama, prose, grown):
    assert [result.passage for result in grown] == prose
    assert max(result.length for result in grown) >= 2  # the premise: something was reached
    for result in grown:
        tokens, _ = greedy(tiny_llama, result.run.mem, len(result.passage))
        wrong = (tokens != torch.tensor(result.passage.token_ids)).int()
        decoded = int(wrong.argmax()) if wrong.any() else len(wrong)
        # The claim asks for the recipe's margin, so decoding may happen to get further.
        assert result.length <= decoded
        assert result.length == result.run.length
        if result.length:
            again = certify(tiny_llama, result.run.mem, result.passage.token_ids[: result.length])
            assert again.exact
            assert result.certificate.margin == pytest.approx(again.margin)
            assert result.certificate.length == result.length
            assert again.margin > 0.9 * HOW.stop_margin
        else:
            assert result.certificate is None


def test_budget_is_kept(grown, prose):
    for result in grown:
        last = result.run.trace[-1][1]  # tokens fed with one vector: as many as are under optimisation
        assert result.run.token_passes < 500 + last
        assert result.run.ended == ("solved" if result.length == len(result.passage) else "budget")


def test_whole_passage_is_a_horizon_too(tiny_llama, solved_llama):
    [result] = horizon(tiny_llama, [solved_llama.passage], HOW, start=[solved_llama.mem], progress=False)
    assert (result.length, result.run.ended) == (4, "solved")
    # The prefix of 2 was exact at once, and the whole sooner than from noise.
    assert result.run.steps < solved_llama.steps


def test_results_are_handed_over_as_they_come(tiny_llama, prose, grown):
    seen = []
    how = HOW.model_copy(update={"max_token_passes": 60})
    results = horizon(tiny_llama, prose, how, batch=1, progress=False, on_result=seen.append)
    assert seen == results
    assert [result.passage for result in seen] == prose


def test_interrupted_passages_are_certified_but_not_handed_over(tiny_llama, prose):
    seen = []

    def stop(result):
        seen.append(result)
        raise KeyboardInterrupt

    how = HOW.model_copy(update={"max_token_passes": 60})
    results = horizon(tiny_llama, prose, how, progress=False, on_result=stop)
    assert len(seen) == 1
    assert len(results) == 3
    assert any(result.run.ended == "interrupted" for result in results)
    for result in results:
        assert result.length == 0 or result.certificate.exact


def test_recipe_must_grow_and_score_token_0(tiny_llama, prose):
    with pytest.raises(CrammingError, match="'best' has no growth: take one that has, such as horizon"):
        horizon(tiny_llama, prose, recipe("best"), progress=False)
    with pytest.raises(CrammingError, match="does not score token 0"):
        horizon(tiny_llama, prose, recipe("horizon", score_first=False), progress=False)


# A claim is not taken on trust


def claim(lm, mem, token_ids, length) -> Cram:
    """A cram that says it found the first `length` tokens right."""
    passage = Passage("made-up", "text", tuple(token_ids), "", "", lm.tokenizer)
    return Cram(
        passage, mem, length, np.ones(length, bool), np.zeros(length), "budget", 1, 1, 0.1, 0.1, [(1, length, 0, 1, 1)]
    )


@settings(max_examples=25)
@given(st.integers(0, 9), st.integers(1, 256), st.integers(0, 10), st.integers(0, 3))
def test_false_claim_is_shortened_to_what_decodes(position, shift, length, seed):
    lm = model("tiny-llama")
    mem = torch.randn(1, lm.width, generator=torch.Generator().manual_seed(seed))
    token_ids = greedy(lm, mem, 10)[0].tolist()
    # One wrong token, and all after it right again.
    token_ids[position] = (token_ids[position] + shift) % 257
    result = certified(lm, claim(lm, mem, token_ids, length))
    assert result.length == min(length, position)
    if result.length:
        assert result.certificate.exact
        assert result.certificate.length == result.length
    else:
        assert result.certificate is None


def test_vector_that_says_nothing_has_horizon_0(tiny_llama):
    token_ids = list(b"never said")
    result = certified(tiny_llama, claim(tiny_llama, torch.zeros(1, 64), token_ids, 10))
    assert (result.length, result.certificate) == (0, None)

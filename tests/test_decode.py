"""Decoding and its certificate: what is exact, where it first errs, and by how much."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from cramming import decode
from cramming.decode import certify, greedy, teacher_forced, without_mem
from cramming.errors import CrammingError
from cramming.models import load
from tests.conftest import model


def noise(lm, k=1, seed=0) -> torch.Tensor:
    return torch.randn(k, lm.width, generator=torch.Generator().manual_seed(seed))


def said(lm, mem, n) -> list[int]:
    """What the vectors decode to."""
    return greedy(lm, mem, n)[0].tolist()


@pytest.mark.parametrize("k", [1, 3])
def test_decoding_with_and_without_cache_agrees(tiny, k):
    for seed in range(3):
        mem = noise(tiny, k, seed)
        tokens, gaps = greedy(tiny, mem, 12)
        slow_tokens, slow_gaps = greedy(tiny, mem, 12, cached=False)
        assert torch.equal(tokens, slow_tokens)
        torch.testing.assert_close(gaps, slow_gaps, rtol=1e-3, atol=1e-3)
        assert (gaps > 0).all()
        assert torch.equal(greedy(tiny, mem, 5)[0], tokens[:5])


def test_what_decodes_is_what_teacher_forcing_finds_right(tiny):
    mem = noise(tiny, 2)
    tokens, gaps = greedy(tiny, mem, 12)
    nats, forced = teacher_forced(tiny, mem[None], tokens[None])
    torch.testing.assert_close(forced[0], gaps, rtol=1e-3, atol=1e-3)
    # By hand, from the probabilities of the whole model.
    embeds = torch.cat([mem, tiny.model.get_input_embeddings()(tokens)])[None]
    probabilities = tiny.model(inputs_embeds=embeds).logits[0, 1:-1].double().softmax(1)
    expected = -probabilities[range(12), tokens].log().float()
    torch.testing.assert_close(nats[0], expected, rtol=1e-3, atol=1e-4)


# The certificate


def test_crammed_passage_is_certified(tiny, solved):
    certificate = certify(tiny, solved.mem, solved.passage.token_ids)
    assert certificate.exact
    assert certificate.length == certificate.greedy_correct == certificate.agreed == 4
    assert certificate.correct.all()
    nats, gaps = teacher_forced(tiny, solved.mem[None], torch.tensor([solved.passage.token_ids]))
    assert certificate.margin == pytest.approx(gaps.min().item(), abs=1e-3)
    np.testing.assert_allclose(certificate.nats, nats[0])
    assert tiny.tokenizer.decode(said(tiny, solved.mem, 4)) == solved.passage.text == "xylo"


@settings(max_examples=25)
@given(st.integers(0, 9), st.integers(1, 256), st.integers(0, 3))
def test_wrong_token_is_found_where_it_is(position, shift, seed):
    lm = model("tiny-llama")
    passage = said(lm, noise(lm, seed=seed), 10)
    assert certify(lm, noise(lm, seed=seed), passage).exact
    passage[position] = (passage[position] + shift) % 257
    certificate = certify(lm, noise(lm, seed=seed), passage)
    assert not certificate.exact
    assert certificate.greedy_correct == certificate.agreed == position
    assert certificate.correct[:position].all()
    assert not certificate.correct[position]
    assert certificate.margin < 0


@pytest.mark.parametrize("way", ["alone", "padded"])
def test_each_way_of_teacher_forcing_has_a_veto(tiny_llama, monkeypatch, way):
    passage = said(tiny_llama, noise(tiny_llama), 6)

    def other_rounding(lm, mem, tokens, memory):
        nats, gaps = teacher_forced(lm, mem, tokens, memory)
        if (len(tokens) == 1) == (way == "alone"):
            gaps[:, 2] = -0.25
        return nats, gaps

    monkeypatch.setattr(decode, "teacher_forced", other_rounding)
    certificate = certify(tiny_llama, noise(tiny_llama), passage)
    assert (certificate.exact, certificate.agreed, certificate.greedy_correct) == (False, 2, 6)
    assert certificate.margin == pytest.approx(-0.25)


def test_decoding_with_a_cache_has_a_veto(tiny_llama, monkeypatch):
    passage = said(tiny_llama, noise(tiny_llama), 6)

    def astray(lm, mem, n_tokens, *, memory):
        tokens, gaps = greedy(lm, mem, n_tokens)
        tokens[2] += 1
        return tokens, gaps

    monkeypatch.setattr(decode, "greedy", astray)
    certificate = certify(tiny_llama, noise(tiny_llama), passage)
    assert (certificate.exact, certificate.agreed, certificate.greedy_correct) == (False, 2, 2)
    assert certificate.margin <= 0
    assert certificate.correct.all()  # teacher forcing alone is told apart


def test_smallest_gap_of_any_way_is_the_margin(tiny_llama, monkeypatch):
    passage = said(tiny_llama, noise(tiny_llama), 6)

    def close(lm, mem, n_tokens, *, memory):
        tokens, gaps = greedy(lm, mem, n_tokens)
        gaps[4] = 1e-4
        return tokens, gaps

    monkeypatch.setattr(decode, "greedy", close)
    certificate = certify(tiny_llama, noise(tiny_llama), passage)
    assert certificate.exact
    assert certificate.margin == pytest.approx(1e-4)


def test_tie_is_not_exact(tiny_llama):
    lm = load("tiny-llama", device="cpu")
    # Two rows of the output head alike: two tokens that always tie.
    mem = noise(lm)
    first = said(lm, mem, 1)[0]
    head = lm.model.get_output_embeddings().weight
    head.data[(first + 1) % 257] = head.data[first]
    for passage in ([first], [(first + 1) % 257]):
        certificate = certify(lm, mem, passage)
        assert not certificate.exact
        assert certificate.margin == pytest.approx(0, abs=1e-4)


def test_given_tokens_are_context_and_not_certified(tiny_llama):
    mem, given_token = noise(tiny_llama), 65
    embedded = tiny_llama.model.get_input_embeddings()(torch.tensor([given_token]))
    rest = said(tiny_llama, torch.cat([mem, embedded]), 5)
    assert rest != said(tiny_llama, mem, 5)  # the premise
    certificate = certify(tiny_llama, mem, [given_token, *rest], given=1)
    assert certificate.exact
    assert certificate.length == len(certificate.nats) == len(certificate.correct) == 5
    assert not certify(tiny_llama, mem, [given_token, *rest]).exact


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-opt"])
def test_passage_that_fills_the_context(name):
    lm = load(name, device="cpu")
    config = copy.deepcopy(lm.model.config)
    config.max_position_embeddings = 12
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = dataclasses.replace(lm, model=AutoModelForCausalLM.from_config(config).eval().requires_grad_(False))
    passage = said(lm, noise(lm, 2), 10)
    assert certify(lm, noise(lm, 2), passage).exact


def test_half_precision_is_decoded_as_such():
    lm = load("tiny-llama", device="cpu", dtype="bfloat16")
    mem = noise(lm, seed=3)
    certificate = certify(lm, mem, said(lm, mem, 4))
    assert certificate.greedy_correct == 4
    assert certificate.nats.dtype == np.float32


def test_what_cannot_be_certified_is_said_in_one_line(tiny_llama):
    for mem, passage, match in [
        (torch.full((1, 64), torch.nan), [1], "not finite: the vector is damaged"),
        (torch.full((1, 64), torch.inf), [1], "not finite"),
        (torch.zeros(64), [1], r"mem has shape \(64,\): expected \(k, 64\) for tiny-llama"),
        (torch.zeros(1, 63), [1], r"mem has shape \(1, 63\)"),
        (torch.zeros(1, 64), [], "passage is empty"),
    ]:
        with pytest.raises(CrammingError, match=match) as caught:
            certify(tiny_llama, mem, passage)
        assert "\n" not in str(caught.value)


# Without mem


def test_plain_text_costs_what_the_model_itself_says(tiny):
    token_ids = tuple(b"call me")
    nats, gaps = without_mem(tiny, token_ids)
    assert len(nats) == len(gaps) == 7
    tokens = torch.tensor([token_ids])
    out = tiny.model(input_ids=tokens, labels=tokens)
    assert nats[1:].mean() == pytest.approx(out.loss.item(), rel=1e-4)
    true, best = out.logits[0, :-1].gather(1, tokens[0, 1:, None])[:, 0], out.logits[0, :-1].amax(1)
    assert np.minimum(gaps[1:], 0) == pytest.approx((true - best).numpy(), abs=1e-5)
    assert ((gaps[1:] > 0) == (true == best).numpy()).all()
    # Nothing stands before token 0: a uniform guess.
    assert nats[0] == pytest.approx(math.log(257))
    assert gaps[0] == 0


def test_plain_text_that_the_model_expects(tiny_llama):
    token_ids = [65]
    for _ in range(5):
        token_ids.append(int(tiny_llama.model(input_ids=torch.tensor([token_ids])).logits[0, -1].argmax()))
    assert (without_mem(tiny_llama, token_ids)[1] > 0).tolist() == [False] + [True] * 5


def test_plain_text_of_one_token_and_of_none(tiny_llama):
    nats, gaps = without_mem(tiny_llama, [5])
    assert nats.tolist() == pytest.approx([math.log(257)])
    assert gaps.tolist() == [0]
    with pytest.raises(CrammingError, match="passage is empty"):
        without_mem(tiny_llama, [])

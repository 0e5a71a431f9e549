"""Mem against context: nothing gains nothing, chances multiply, and what is read again is what was read before."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from cramming import texts
from cramming.decode import teacher_forced
from cramming.errors import CrammingError
from cramming.sphere import noise_like
from cramming.studies import context
from cramming.texts import from_text, passages, preceding


def chosen(lm, *lengths):
    """Passages of two sources, cut to lengths of their own, and the ten tokens before each."""
    some = [p for source in ("novels", "fresh") for p in passages(source, lm.tokenizer, n=2, length=9, offset=10)]
    some = [p.prefix(n) for p, n in zip(some, lengths, strict=False)]
    return some, [preceding(p.id, lm.tokenizer) for p in some]


def mems(lm, n, k=1):
    noise = torch.randn(n, k, lm.width, generator=torch.Generator().manual_seed(2)) * 3
    return list(noise)


def nats_of(lm, ids):
    """Cross-entropy of each token after the first, from the whole model at once."""
    ids = torch.tensor([ids])
    logits = lm.model(input_ids=ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")


@torch.no_grad()
def test_given_context_a_passage_costs_what_both_cost_less_what_the_context_does(tiny):
    some, before = chosen(tiny, 9, 7, 8)
    frame = context.context_nats(tiny, mems(tiny, 3), some, before, (4, 10))
    sums = frame.groupby(["passage", "what", "context_tokens"])["nats"].sum()
    for i, (passage, text) in enumerate(zip(some, before, strict=True)):
        own = list(passage.token_ids)
        other = list(before[(1, 0, 0)[i]].token_ids)
        for what, words in (("context", list(text.token_ids)), ("other context", other)):
            for n in (4, 10):
                # Token 0 is left out, so it goes to the context.
                both, first = nats_of(tiny, words[-n:] + own).sum(), nats_of(tiny, words[-n:] + own[:1]).sum()
                assert sums[passage.id, what, n] == pytest.approx(float(both - first), rel=1e-3)
        assert sums[passage.id, "nothing", 0] == pytest.approx(float(nats_of(tiny, own).sum()), rel=1e-3)
        twice = nats_of(tiny, own + own)[len(own) :].sum()
        assert sums[passage.id, "copy", 0] == pytest.approx(float(twice), rel=1e-3)


@torch.no_grad()
def test_vectors_stand_where_the_condition_says(tiny):
    some, before = chosen(tiny, 9, 7)
    vectors = mems(tiny, 2, k=2)
    frame = context.context_nats(tiny, vectors, some, before, (4,)).set_index(["passage", "what"])
    table = tiny.model.get_input_embeddings()
    last = table(torch.tensor(before[0].token_ids[-4:]))
    for what, front in (
        ("mem", vectors[0]),
        ("other mem", vectors[1]),
        ("context, mem", torch.cat([last, vectors[0]])),
        ("mem, context", torch.cat([vectors[0], last])),
    ):
        nats, gaps = teacher_forced(tiny, front[None], torch.tensor([some[0].token_ids]))
        here = frame.loc[some[0].id, what]
        assert here["nats"].to_numpy() == pytest.approx(nats[0, 1:].numpy(), rel=1e-3, abs=1e-4)
        assert here["right"].tolist() == (gaps[0, 1:] > 0).tolist()


def test_the_random_vector_has_the_norm_of_mem_and_nothing_of_its_text(tiny):
    some, before = chosen(tiny, 9, 7)
    vectors = mems(tiny, 2, k=2)
    told = [context.context_nats(tiny, use, some, before, (4,)) for use in (vectors, [-mem for mem in vectors])]
    same, other = ([some.loc[some["what"] == what, "nats"].tolist() for some in told] for what in ("random", "mem"))
    assert same[0] == pytest.approx(same[1])
    assert other[0] != pytest.approx(other[1])
    noise = noise_like(vectors[0], torch.Generator().manual_seed(0))
    assert noise.norm(dim=1) == pytest.approx(vectors[0].norm(dim=1), rel=1e-5)


def test_gains_are_summed_over_all_tokens_but_the_first(tiny_llama):
    some, before = chosen(tiny_llama, 9, 5)
    frame = context.gains(context.context_nats(tiny_llama, mems(tiny_llama, 2), some, before, (4, 10, 11)))
    assert (frame.loc[frame["what"] == "nothing", "gain_bits"] == 0).all()
    assert sorted(frame["context_tokens"].unique()) == [0, 4, 10]  # of 11 tokens before there are none
    assert frame["gain_bits"].to_numpy() == pytest.approx((frame["bits_without"] - frame["bits_with"]).to_numpy())
    assert frame["gain_per_token"].to_numpy() == pytest.approx((frame["gain_bits"] / (frame["length"] - 1)).to_numpy())
    assert not frame.duplicated(["passage", "what", "context_tokens"]).any()
    # Three conditions without context, the other's mem and a random vector; four with it, at two lengths.
    assert frame.groupby("passage").size().tolist() == [5 + 2 * 4] * 2


def test_gains_by_hand():
    rows = [(what, position) for what in ("nothing", "mem") for position in (1, 2)]
    tokens = pd.DataFrame(rows, columns=["what", "position"]).assign(
        source="novels", passage="novels/a", length=3, context_tokens=0,
        nats=[3 * math.log(2), math.log(2), 0.0, math.log(2)], right=[False, True, True, True],
    )  # fmt: skip
    frame = context.gains(tokens).set_index("what")
    assert frame.loc["mem", ["bits_without", "bits_with", "gain_bits"]].tolist() == pytest.approx([4, 1, 3])
    assert frame.loc["mem", ["gain_per_token", "right"]].tolist() == pytest.approx([1.5, 1])
    assert frame.loc["nothing", "right"] == 0.5


def test_the_other_passage_is_of_the_same_source_where_there_is_one(tiny_llama):
    some, _ = chosen(tiny_llama, 4, 4, 4, 4)
    assert texts.other_of(some) == {0: 1, 1: 0, 2: 3, 3: 2}
    assert texts.other_of(some[:3]) == {0: 1, 1: 0, 2: 0}
    assert texts.other_of(some[:1]) == {}
    frame = context.context_nats(tiny_llama, mems(tiny_llama, 1), some[:1], some[:1], (4,))
    assert not frame["what"].str.startswith("other").any()


def test_what_cannot_be_compared_is_refused(tiny_llama):
    some, before = chosen(tiny_llama, 4, 4)
    vectors = mems(tiny_llama, 2)
    with pytest.raises(CrammingError, match="2 vectors, 2 passages and 1 texts"):
        context.context_nats(tiny_llama, vectors, some, before[:1])
    with pytest.raises(CrammingError, match="at least one"):
        context.context_nats(tiny_llama, [], [], [])
    with pytest.raises(CrammingError, match="has 1 token"):
        context.context_nats(tiny_llama, vectors, [some[0], some[1].prefix(1)], before)
    long = from_text("x" * tiny_llama.context_length, tiny_llama.tokenizer)
    with pytest.raises(CrammingError, match=f"tiny-llama has {tiny_llama.context_length}"):
        context.context_nats(tiny_llama, vectors, some, [long, long], (len(long),))


def by_hand(**gained):
    """Gains of a passage of five tokens that costs 8 bits, by condition; context at 16 and 32 tokens."""
    rows = [("nothing", 0, 0.0), ("mem", 0, gained["mem"]), *(("context", n, gained[f"c{n}"]) for n in (16, 32))]
    frame = pd.DataFrame(rows, columns=["what", "context_tokens", "gain_bits"])
    return frame.assign(
        source="novels", passage=gained["passage"], length=5, bits_without=8.0, bits_with=8 - frame["gain_bits"],
        gain_per_token=frame["gain_bits"] / 4, right=0.5,
    )  # fmt: skip


def test_context_is_worth_mem_where_it_first_tells_as_much():
    frame = pd.concat(
        [
            by_hand(passage="novels/a", mem=6.0, c16=2.0, c32=4.0),
            by_hand(passage="novels/b", mem=2.0, c16=2.0, c32=6.0),
        ]
    )
    worth = context.context_worth(frame)
    assert np.isnan(worth["novels/a"])
    assert worth["novels/b"] == 16
    table = context.context_table(frame)
    assert table.loc[("text before it", "32"), "gain, bits a token"] == "1.25 ± 0.35"  # 1 and 1.5 bits a token
    assert table.loc[("text before it", "32"), "of all bits"] == f"{10 / 16:.0%}"
    assert table.loc[("mem", ""), "gain, bits a token"] == "1.00 ± 0.71"
    assert table.loc[("mem", ""), "of all bits"] == "50%"
    both = [frame[frame["what"] == "context"].assign(what=what) for what in ("context, mem", "mem, context")]
    both[1]["gain_per_token"] += 1
    table = context.both_table(pd.concat([frame, *both]))
    assert len(table) == 4
    assert table.loc["16 tokens of text, then mem", "less the text alone"] == "0.00 (0.00 to 0.00)"
    assert table.loc["mem, then 32 tokens of text", "less the text alone"] == "1.00 (1.00 to 1.00)"
    assert table.loc["mem, then 32 tokens of text", "less mem alone"].startswith("1.25 (")  # 2.25 less 1 bit a token
    with pytest.raises(CrammingError, match="novels/a was given no context"):
        context.context_worth(frame[frame["what"] != "context"])


def test_tokens_are_sorted_by_what_they_cost_with_nothing_in_front():
    bits = {
        ("nothing", 0): (0.5, 4.0, 5.0),
        ("mem", 0): (0.5, 1.0, 0.0),
        ("copy", 0): (0.0, 4.0, 5.0),
        ("context", 16): (9.0, 9.0, 9.0),
        ("context", 32): (1.5, 3.0, 5.0),
        ("other mem", 0): (9.0, 9.0, 9.0),
    }
    rows = [
        ("novels/a", what, n, at, value * math.log(2))
        for (what, n), values in bits.items()
        for at, value in enumerate(values, 1)
    ]
    tokens = pd.DataFrame(rows, columns=["passage", "what", "context_tokens", "position", "nats"])
    table = context.context_by_surprise(context.token_gains(tokens))
    assert table.index.tolist() == ["under 1", "3 to 6"]
    assert table["tokens"].tolist() == [1, 2]
    assert table["gain from mem"].tolist() == ["0.00", "4.00"]
    assert table["gain from the passage itself"].tolist() == ["0.50", "0.00"]
    assert table["gain from text before it"].tolist() == ["-1.00", "0.50"]  # of the longest


def test_tables_and_figures_of_a_model(tiny_llama):
    some, before = chosen(tiny_llama, 9, 5)
    frame = context.gains(context.context_nats(tiny_llama, mems(tiny_llama, 2), some, before, (4, 6, 8)))
    table = context.context_table(frame)
    # Context at all three lengths, the three others that have some at two of them, and five without.
    assert len(table) == 3 + 3 * 2 + 5
    figure = context.gains_figure(frame)
    assert isinstance(figure, Figure)
    [labels] = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]
    assert labels == [context.CONTEXTS[what] for what in
                      ("copy", "context, mem", "mem", "mem, context", "context", "other context")]  # fmt: skip
    alone = context.gains(context.context_nats(tiny_llama, mems(tiny_llama, 1), some[:1], before[:1], (4,)))
    assert isinstance(context.gains_figure(alone), Figure)

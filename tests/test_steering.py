"""Beyond saying the text: what stands in front is where it should be, words are paired fairly, copies are counted."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cramming.decode import greedy, teacher_forced
from cramming.errors import CrammingError
from cramming.models import TINY_NAMES, load
from cramming.studies import steering
from cramming.texts import from_text, from_tokens, passages


def chosen(lm, *lengths):
    """Passages of two sources, cut to lengths of their own, vectors for them, and what follows."""
    some = [p for source in ("novels", "fresh") for p in passages(source, lm.tokenizer, n=2, length=24)]
    pairs = list(zip(some, lengths, strict=False))
    texts = [p.prefix(n) for p, n in pairs]
    rests = [from_tokens(p.id, p.source, p.token_ids[n:], lm.tokenizer) for p, n in pairs]
    noise = torch.randn(len(texts), 2, lm.width, generator=torch.Generator().manual_seed(2)) * 3
    return texts, rests, list(noise)


def after(lm, embeds, ids):
    """Bits of tokens behind embeddings (n, d), from the whole model at once."""
    nats, _ = teacher_forced(lm, embeds[None], torch.tensor([ids]))
    return nats[0].numpy() / math.log(2)


def embed(lm, ids):
    return lm.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))


@torch.no_grad()
def test_continuations_are_read_behind_what_the_front_says(tiny):
    texts, rests, vectors = chosen(tiny, 9, 7)
    fronts = steering.fronts(tiny, vectors, texts)
    frame = steering.continued(tiny, fronts, rests).set_index(["passage", "what"])
    ids, rest = list(texts[0].token_ids), list(rests[0].token_ids)
    for what, embeds in (
        ("nothing", vectors[0][:0]),
        ("text", embed(tiny, ids)),
        ("mem", vectors[0]),
        ("mem, text", torch.cat([vectors[0], embed(tiny, ids)])),
        ("other mem", vectors[1]),
    ):
        expected = after(tiny, torch.cat([embeds, embed(tiny, rest[:1])]), rest[1:])
        here = frame.loc[texts[0].id, what].sort_values("position")
        assert here["bits"].to_numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert here["position"].tolist() == list(range(1, len(rest)))


def test_a_random_vector_is_as_long_as_mem_and_points_elsewhere(tiny_llama):
    texts, _, vectors = chosen(tiny_llama, 9, 7)
    named = steering.fronts(tiny_llama, vectors, texts)[1]
    noise = named["random"].embeds
    assert noise.norm(dim=1).tolist() == pytest.approx(vectors[1].norm(dim=1).tolist(), rel=1e-5)
    assert torch.cosine_similarity(noise, vectors[1]).abs().max() < 0.6
    assert torch.equal(named["random, text"].embeds[:2], noise)
    again = steering.fronts(tiny_llama, vectors, texts)[1]["random"].embeds
    assert torch.equal(again, noise)
    assert "other mem" not in steering.fronts(tiny_llama, vectors[:1], texts[:1])[0]


@torch.no_grad()
def test_room_is_left_in_the_positions_alone(tiny_llama):
    texts, rests, vectors = chosen(tiny_llama, 9)
    [named] = steering.fronts(tiny_llama, vectors, texts)
    near, far = named["mem"], named["mem, room"]
    assert torch.equal(near.embeds, far.embeds)
    assert (near.next, far.next) == (2, 2 + 9)
    costs = steering.continued(tiny_llama, [{"near": near, "far": far, "none": named["nothing"]}], rests)
    bits = {what: some["bits"].to_numpy() for what, some in costs.groupby("what")}
    assert not np.allclose(bits["near"], bits["far"], atol=1e-3)
    # Places count from one token to another only, so from a distance too mem must be seen to make a difference.
    assert not np.allclose(bits["none"], bits["far"], atol=1e-3)
    ids = torch.tensor([rests[0].token_ids])
    embeds = torch.cat([vectors[0][None], tiny_llama.model.get_input_embeddings()(ids)[:, :-1]], dim=1)
    places = torch.tensor([[0, 1, *range(11, 11 + ids.shape[1] - 1)]])
    mask = torch.ones_like(places)
    logits = tiny_llama.model(inputs_embeds=embeds, position_ids=places, attention_mask=mask).logits[0, 2:]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none") / math.log(2)
    assert bits["far"] == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)


def test_a_continuation_begins_behind_all_that_a_step_saw(tiny_llama):
    ids = np.arange(24)
    runs = pd.DataFrame(
        [
            {"passage": "novels/a", "source": "novels", "length": 6, "trace_length": [4, 8], "token_ids": ids},
            {"passage": "novels/b", "source": "novels", "length": 20, "trace_length": [4, 20], "token_ids": ids},
        ]
    )
    texts, rests = steering.split(runs, tiny_llama, 10)
    assert [len(text) for text in texts] == [8, 20]
    assert rests[0].token_ids == tuple(range(8, 19))  # one given, ten scored
    assert rests[1].token_ids == (20, 21, 22, 23)
    with pytest.raises(CrammingError, match="novels/a has 1 tokens behind"):
        steering.split(runs.head(1).assign(token_ids=[ids[:9]]), tiny_llama)


ATTENTION = [name for name in TINY_NAMES if name != "tiny-mamba"]


@pytest.mark.parametrize("name", ATTENTION)
@torch.no_grad()
def test_what_is_written_is_what_decoding_alone_writes(name):
    tiny = load(name, device="cpu")
    texts, rests, vectors = chosen(tiny, 9, 5)  # of unequal length, so that one of them is padded
    fronts = steering.fronts(tiny, vectors, texts)
    frame = steering.written(tiny, fronts, texts, rests, n_tokens=8).set_index(["passage", "writer"])
    for text, rest, mem in zip(texts, rests, vectors, strict=True):
        own = embed(tiny, text.token_ids)
        plain, _ = greedy(tiny, own, 8)
        steered, _ = greedy(tiny, torch.cat([mem, own]), 8)
        here = frame.loc[text.id]
        assert here.loc["text", "wrote"] == tiny.tokenizer.decode(plain)
        assert here.loc["mem, text", "wrote"] == tiny.tokenizer.decode(steered)
        assert here.loc["truth", "wrote"] == tiny.tokenizer.decode(rest.token_ids[:8])
        assert here.loc["mem, text", "same"] == pytest.approx(float((plain == steered).float().mean()))
        assert here.loc["mem, text", "bits"] == pytest.approx(after(tiny, own, steered.tolist()).mean(), rel=1e-3)
        assert (here.loc["text", "same"], here.loc["text", "until"]) == (1, 8)


def test_repeats_and_copies_by_hand():
    assert steering._repeated([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert steering._repeated([7] * 6) == pytest.approx(2 / 3)
    assert np.isnan(steering._repeated([1, 2, 3]))
    assert steering._longest_copy([9, 1, 2, 3, 8, 2, 3], [1, 2, 3, 4]) == 3
    assert steering._longest_copy([9], [1]) == 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_the_longest_copy_is_the_longest_common_run(tokens, text):
    runs = [tokens[i:j] for i in range(len(tokens)) for j in range(i, len(tokens) + 1)]
    common = [run for run in runs if any(text[k : k + len(run)] == run for k in range(len(text) + 1))]
    assert steering._longest_copy(tokens, text) == max(map(len, common))


def test_words_are_paired_with_like_ones_that_the_text_lacks(tiny_llama):
    texts = [
        from_text("A rabbit fled; the rabbit saw Lisbon and a teapot.", tiny_llama.tokenizer, id="novels/a"),
        from_text("Some kitten and a walnut in Mumbai, no rabbit.", tiny_llama.tokenizer, id="novels/b"),
        from_text("A wizard, quietly", tiny_llama.tokenizer, id="novels/c"),
    ]
    pairs = steering.word_pairs(texts, tiny_llama.tokenizer)
    of = {name: dict(some[["word", "other"]].to_numpy()) for name, some in pairs.groupby("passage")}
    # Six letters each, as bytes are tokens; capitals go with capitals.
    assert set(of["novels/a"]) == {"rabbit", "Lisbon", "teapot"}
    assert of["novels/a"]["Lisbon"] == "Mumbai"
    assert {of["novels/a"]["rabbit"], of["novels/a"]["teapot"]} <= {"kitten", "walnut", "wizard"}
    assert of["novels/b"]["Mumbai"] == "Lisbon"
    assert "quietly" not in of["novels/c"]  # the text may have gone on
    for row in pairs.itertuples():
        [text] = [t.text for t in texts if t.id == row.passage]
        assert row.word in text
        assert row.other not in text


@pytest.mark.parametrize("name", ATTENTION)
@torch.no_grad()
def test_a_cloze_weighs_two_words_behind_the_prompt(name):
    lm = load(name, device="cpu")
    texts, _, vectors = chosen(lm, 9, 7)
    pairs = pd.DataFrame(
        [("novels", texts[0].id, "rabbit", "kitten"), ("novels", texts[0].id, "oak", "elm")],
        columns=["source", "passage", "word", "other"],
    )
    fronts = steering.fronts(lm, vectors, texts)
    frame = steering.cloze(lm, fronts, texts, pairs, prompt="Say").set_index(["what", "word"])
    for what, front in (("nothing", vectors[0][:0]), ("mem", vectors[0]), ("text", embed(lm, texts[0].token_ids))):
        for word, other in (("rabbit", "kitten"), ("oak", "elm")):
            asked = torch.cat([front, embed(lm, list(b"Say"))])
            bits = [after(lm, asked, list(f" {w}".encode())).sum() for w in (word, other)]
            assert frame.loc[(what, word), "bits"] == pytest.approx(bits[1] - bits[0], rel=1e-3, abs=1e-3)
    assert steering.cloze(lm, fronts, texts, pairs.head(0)).empty


@torch.no_grad()
def test_from_the_middle_only_the_last_tokens_are_seen(tiny):
    texts, _, vectors = chosen(tiny, 9, 7)
    frame = steering.from_the_middle(tiny, vectors, texts, (1, 4), step=2)
    ids = list(texts[0].token_ids)
    mine = frame[frame["passage"] == texts[0].id].set_index(["what", "left", "position"]).sort_index()
    assert sorted({at for _, _, at in mine.index}) == [5, 7]
    for what, front in (("nothing", vectors[0][:0]), ("mem", vectors[0])):
        for left, seen in ((1, ids[6:7]), (4, ids[3:7]), (np.inf, ids[:7])):
            expected = after(tiny, torch.cat([front, embed(tiny, seen)]), ids[7:8])[0]
            assert mine.loc[(what, left, 7), "bits"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert not np.allclose(mine.loc[("mem, room", 1), "bits"], mine.loc[("nothing", 1), "bits"], atol=1e-3)
    assert ("mem, room", np.inf, 7) not in mine.index  # with the whole text before it there is no room to leave


def test_a_model_without_attention_is_refused():
    lm = load("tiny-mamba", device="cpu")
    texts, rests, vectors = chosen(lm, 9)
    fronts = steering.fronts(lm, vectors, texts)
    with pytest.raises(CrammingError, match="tiny-mamba has no attention"):
        steering.written(lm, fronts, texts, rests)
    with pytest.raises(CrammingError, match="tiny-mamba has no attention"):
        steering.cloze(lm, fronts, texts, steering.word_pairs(texts, lm.tokenizer))


def test_vectors_and_texts_go_together(tiny_llama):
    texts, _, vectors = chosen(tiny_llama, 9, 7)
    with pytest.raises(CrammingError, match="1 vectors and 2 texts"):
        steering.fronts(tiny_llama, vectors[:1], texts)
    with pytest.raises(CrammingError, match="at least one"):
        steering.fronts(tiny_llama, [], [])


# Tables and figures


def costs(**bits):
    """Continuation costs of two passages, two tokens each, by front: bits of the first passage and of the second."""
    rows = [
        ("novels", f"novels/{name}", what, position, each)
        for what, pair in bits.items()
        for name, each in zip("ab", pair, strict=True)
        for position in (1, 2)
    ]
    return pd.DataFrame(rows, columns=["source", "passage", "what", "position", "bits"])


def test_what_is_saved_is_counted_passage_by_passage():
    frame = costs(nothing=(4, 6), text=(2, 4), mem=(5, 6))
    summary = steering.continued_summary(frame)
    assert summary.loc["text", ["n", "bits", "saved", "low", "high"]].tolist() == [2, 3, 2, 2, 2]
    assert summary.loc["mem", ["bits", "saved", "low", "high"]].tolist() == [5.5, -0.5, -1, 0]
    assert summary.loc["mem", ["share", "share_low", "share_high"]].tolist() == [-0.25, -0.5, 0]
    assert summary.loc["nothing", "saved"] == 0
    table = steering.continued_table(frame)
    assert table.loc["mem", "novels (n = 2)"] == "+0.50 (+0.00 to +1.00)"
    assert "nothing" not in table.index
    assert isinstance(steering.continued_figure(frame), Figure)


def test_conditions_are_compared_passage_by_passage():
    frame = costs(nothing=(4, 6), text=(2, 4), mem=(5, 6))
    assert steering.paired(frame, "mem", "text") == pytest.approx((2.5, 2, 3))
    assert steering.paired(frame, "text", "mem") == pytest.approx((-2.5, -3, -2))
    assert steering.paired(frame.rename(columns={"what": "writer"}), "mem", "nothing", by="writer")[0] == 0.5


def test_an_interval_that_includes_0_decides_nothing():
    frame = costs(nothing=(4, 6), text=(2, 4), mem=(5, 6), random=(6, 5), **{"mem, text": (2, 3)})
    table = steering.compared_table(frame)
    assert table.loc["mem, against a random vector"].tolist() == ["+0.00 (-1.00 to +1.00)", "undecided"]
    assert table.loc["mem, then the text, against the text", "the first is"] == "undecided"  # 0 is an end of it
    assert "mem, against mem of another passage" not in table.index
    dearer = costs(nothing=(4, 6), mem=(5, 8))
    assert steering.compared_table(dearer).loc["mem, against nothing"].tolist() == ["+1.50 (+1.00 to +2.00)", "dearer"]
    said = [steering.decided(low, high, "above", "below") for low, high in ((1, 2), (-2, -1), (-1, 1), (0, 1))]
    assert said == ["above", "below", "undecided", "undecided"]


def test_a_cloze_counts_pairs_passage_by_passage():
    rows = [("a", "mem", 1.0), ("a", "mem", -1.0), ("b", "mem", 2.0), ("a", "nothing", 0.5), ("a", "nothing", 0.5),
            ("b", "nothing", 0.0)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["passage", "what", "bits"]).assign(source="novels", word="x", other="y")
    summary = steering.cloze_summary(frame)
    assert summary.loc["mem", ["n", "pairs", "right", "low", "high"]].tolist() == [2, 3, 0.75, 0.5, 1]
    assert summary.loc["mem", ["bits", "bits_low", "bits_high"]].tolist() == [1, 0, 2]
    assert summary.loc["nothing", "right"] == 0.5
    table = steering.cloze_table(frame)
    assert table.loc["mem", "true word likelier"] == "75% (50% to 100%)"
    assert table.loc["mem", "over nothing, points"] == "+25 (-50 to +100, undecided)"
    assert steering.cloze_table(frame.head(0)).empty


def test_the_middle_is_summed_up_by_what_is_seen():
    rows = [(name, "mem", left, 5, bits, bits < 1) for name, bits in (("a", 0.0), ("b", 4.0)) for left in (1, np.inf)]
    frame = pd.DataFrame(rows, columns=["passage", "what", "left", "position", "bits", "right"])
    summary = steering.middle_summary(frame)
    assert summary.loc[("mem", np.inf), ["n", "right", "low", "high", "bits"]].tolist() == [2, 0.5, 0, 1, 2]
    assert steering.middle_table(frame).columns.tolist() == ["1", "all"]
    assert isinstance(steering.from_the_middle_figure(frame), Figure)


def test_what_was_written_is_shown_as_it_is():
    frame = pd.DataFrame(
        {
            "source": "novels", "passage": ["novels/a", "novels/a"], "writer": ["text", "mem, text"],
            "wrote": ["a *b* | c\n\nd", "`e' <f>"], "bits": [1.0, 2.0], "same": [1.0, 0.25], "until": [8, 2],
            "repeated": [0.0, 0.5], "copied": [1, 3],
        }
    )  # fmt: skip
    table = steering.written_table(frame)
    assert table.loc["mem, then the text", "as behind the text"] == "25% (25% to 25%)"
    examples = steering.written_examples(frame, ["novels/a"])
    assert examples.loc[("novels/a", "the text"), "wrote"] == "a *b* | c ⏎ ⏎ d"
    assert "&lt;f&gt;" in examples.to_html()


def test_pages_tables_and_figures_of_a_model(tiny_llama):
    texts, rests, vectors = chosen(tiny_llama, 9, 4, 3)
    fronts = steering.fronts(tiny_llama, vectors, texts)
    assert isinstance(steering.continued_figure(steering.continued(tiny_llama, fronts, rests)), Figure)
    middle = steering.from_the_middle(tiny_llama, vectors, texts)
    assert isinstance(steering.from_the_middle_figure(middle), Figure)
    wrote = steering.written(tiny_llama, fronts, texts, rests, n_tokens=4)
    assert set(steering.written_table(wrote).index) == {steering.WRITERS[name] for name in wrote["writer"]}

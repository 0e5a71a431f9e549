"""Files of passages: what is written comes back, its size is what theory says, and what does not come back is told."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cramming import recipes, rounding
from cramming.decode import greedy, without_mem
from cramming.errors import CrammingError
from cramming.studies import compression
from cramming.texts import from_text, from_tokens, passages
from tests.test_tables import OURS, row


def some(lm, n=2, length=20):
    return [p for source in ("novels", "fresh") for p in passages(source, lm.tokenizer, n=n, length=length)]


def test_tokens_come_back_from_every_architecture(tiny):
    ids = list(from_text("Every word of it.", tiny.tokenizer).token_ids)
    assert compression.decode_tokens(tiny, compression.encode_tokens(tiny, ids)) == ids


@settings(max_examples=25)
@given(ids=st.lists(st.integers(0, 256), min_size=1, max_size=12))
def test_any_tokens_come_back_in_as_many_bytes_as_the_model_is_surprised(tiny_llama, ids):
    data = compression.encode_tokens(tiny_llama, ids)
    assert compression.decode_tokens(tiny_llama, data) == ids
    nats, _ = without_mem(tiny_llama, ids)
    # The length, the bits rounded up, and a byte for the end of the code.
    assert len(data) <= compression.COUNT_BYTES + math.ceil(nats.sum() / math.log(2) / 8) + 1


def test_a_first_token_takes_what_a_uniform_guess_does(tiny_llama):
    # 257 tokens: eight bits name 256 of them, and a second byte is not always needed.
    sizes = [len(compression.encode_tokens(tiny_llama, [token])) - compression.COUNT_BYTES for token in (0, 100, 256)]
    assert max(sizes) <= 2
    assert sizes[0] == 0  # zeros stand in for what was cut off, and they name token 0


def test_what_cannot_be_coded_is_refused(tiny_llama):
    with pytest.raises(CrammingError, match="0 tokens cannot be coded with tiny-llama"):
        compression.encode_tokens(tiny_llama, [])
    with pytest.raises(CrammingError, match=f"give 1 to {tiny_llama.context_length}"):
        compression.encode_tokens(tiny_llama, [1] * (tiny_llama.context_length + 1))
    with pytest.raises(CrammingError, match="1 bytes hold no number of tokens"):
        compression.decode_tokens(tiny_llama, b"\x01")


def test_every_text_comes_back_and_sizes_are_those_of_the_files(tiny_llama):
    texts = [*some(tiny_llama), from_text("Ärger – 中文 \n\n\t  twice  ", tiny_llama.tokenizer)]
    frame = compression.files(texts, [*compression.general(), *compression.by_model(tiny_llama)])
    assert frame["same"].all()
    sizes = frame.pivot_table("bytes", "passage", "coder")
    about = frame.drop_duplicates("passage").set_index("passage").loc[sizes.index]
    assert (sizes["text"] == about["utf8"]).all()
    assert (sizes["token ids"] == 2 * about["tokens"]).all()  # 257 tokens do not fit a byte
    # RFC 1952: a header of ten bytes, and eight for checksum and length.
    assert (sizes["gzip"] == sizes["gzip, bare"] + 18).all()
    assert (sizes["xz, bare"] < sizes["xz"]).all()


def test_a_text_that_does_not_come_back_is_told(tiny_llama):
    careless = compression.Coder("careless", "", lambda passage: passage.text.encode()[:-1], list)
    texts = [from_text("abc", tiny_llama.tokenizer)]
    frame = compression.files(texts, [careless])
    assert (frame["bytes"].item(), frame["same"].item()) == (2, False)


def test_the_fewest_bits_are_exact_and_one_less_is_not(tiny_llama, solved_llama):
    ids = list(solved_llama.passage.token_ids)
    blob = compression.fewest_bits(tiny_llama, solved_llama.mem, ids)

    def exact(data):
        return greedy(tiny_llama, rounding.decode(data, tiny_llama.width), len(ids))[0].tolist() == ids

    assert exact(blob)
    assert not any(exact(rounding.encode(solved_llama.mem, bits)) for bits in range(1, blob[0]))


def test_if_no_rounding_is_exact_the_finest_is_kept(tiny_llama):
    blob = compression.fewest_bits(tiny_llama, torch.ones(1, tiny_llama.width), list(b"no such text"))
    assert blob[0] == recipes.MOST_BITS


def test_vectors_come_back_as_text(tiny_llama, solved_llama):
    passage, d = solved_llama.passage, tiny_llama.width
    frame = compression.files([passage], compression.by_vector(tiny_llama, {passage.id: solved_llama.mem})).set_index(
        "coder"
    )
    assert frame.loc["vector, float32", ["bytes", "same"]].tolist() == [compression.COUNT_BYTES + 4 * d, True]
    assert frame.loc["vector, bfloat16", "bytes"] == compression.COUNT_BYTES + 2 * d
    assert frame.loc["vector, fewest bits", "same"]
    bits = rounding.decode(compression.by_vector(tiny_llama, {passage.id: solved_llama.mem})[0].write(passage)[2:], d)
    assert bits.shape == (1, d)


def test_joined_passages_stand_one_after_the_other(tiny_llama):
    a, b = (from_text(text, tiny_llama.tokenizer) for text in ("one ", "two"))
    assert compression.joined([a, b]).text == "one two"
    blank = from_tokens("a", "text", [1], tiny_llama.tokenizer)
    object.__setattr__(blank, "tokenizer", None)
    with pytest.raises(CrammingError, match="has no tokenizer"):
        compression.joined([blank])


def by_hand():
    """Two passages of 10 and 20 characters, with one more byte each in UTF-8, by two coders."""
    rows = [
        ("text", "", "novels", "novels/a", 4, 10, 11, 11, True),
        ("text", "", "fresh", "fresh/b", 6, 20, 21, 21, True),
        ("vector, fewest bits", "", "novels", "novels/a", 4, 10, 11, 22, True),
        ("vector, fewest bits", "", "fresh", "fresh/b", 6, 20, 21, 84, False),
    ]
    columns = ["coder", "settings", "source", "passage", "tokens", "characters", "utf8", "bytes", "same"]
    frame = pd.DataFrame(rows, columns=columns)
    together = pd.DataFrame([("text", "", "together", "together", 10, 30, 32, 16, True)], columns=columns)
    return frame, together


def test_sizes_by_hand():
    frame, together = by_hand()
    sizes = compression.file_sizes(frame, together)
    vector = sizes.loc["vector, fewest bits"]
    assert (vector["n"], vector["same"], vector["mean"]) == (2, 1, 53)
    assert vector[["times", "times_low", "times_high"]].tolist() == [3, 2, 4]
    assert sizes.loc["text", ["times", "times_low", "times_high"]].tolist() == [1, 1, 1]
    assert vector["per_token"] == pytest.approx(106 * 8 / 10)
    # Vectors do not share anything: all of them take what they take one by one.
    assert vector["together_of_text"] == pytest.approx(106 / 32)
    assert sizes.loc["text", "together_of_text"] == 0.5
    table = compression.file_table(sizes)
    told = table.loc["vector, fewest bits", ["bytes a passage", "times its text", "came back"]]
    assert told.tolist() == ["53 ± 44", "3.00 (2.00 to 4.00)", "1 of 2"]
    ratio = compression.file_ratio(frame, "vector, fewest bits", "text")
    assert (ratio["n"], ratio["mean"], ratio["least"], ratio["most"]) == (2, 3, 2, 4)
    with pytest.raises(CrammingError, match="no file was written by 'zip'"):
        compression.file_ratio(frame, "zip", "text")
    assert isinstance(compression.file_sizes_figure(frame), Figure)


def test_units_of_the_title():
    frame, _ = by_hand()
    results = pd.DataFrame([row(OURS, "novels/a"), row(OURS, "fresh/b", length=6, nats_without=15.0)])
    units = compression.units(results, frame)
    said = units.loc["Llama-3.1-8B (published)"]
    assert said.loc["tokens over vectors", "ratio"] == 1568
    assert said.loc["tokens over numbers", "ratio"] == 1568 / 4096
    assert said.loc["bits of token ids over bits", "ratio"] == pytest.approx(1568 * math.log2(128256) / (4096 * 16))
    assert said.loc["characters over vectors", "ratio"] == pytest.approx(1568 * 3)
    lacks = 1266.66 / math.log(2) * 1568 / 512 / (4096 * 16)
    assert said.loc["bits the model lacks over bits", "ratio"] == pytest.approx(lacks)
    assert said.loc["information gain over bits", "text"] == pytest.approx(4865.7 / math.log(2))
    here = units.loc["tiny-llama (here)"]
    assert here.loc["tokens over vectors", "ratio"] == 5
    assert here.loc["bits the model lacks over bits", "text"] == pytest.approx(14 / math.log(2))
    assert here.loc["bytes of UTF-8 over bytes", "ratio"] == pytest.approx(5 * 3.2 / 128)
    table = compression.unit_table(units)
    assert table.loc["tokens over vectors", "Llama-3.1-8B (published)"] == "× 1,568"
    assert table.loc["tokens over numbers", "Llama-3.1-8B (published)"] == "× 0.38"
    assert table.loc["tokens over numbers", "Llama-3.1-8B (published): text / vector"] == "1,568 / 4,096"
    assert table.loc["tokens over vectors", "tiny-llama (here)"] == "× 5"

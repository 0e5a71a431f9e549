"""Few bits: what rounding gives, that bytes give it back, and what is left of a passage after it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from test_tables import row

from cramming.decode import exact_prefix, greedy
from cramming.engine import cram
from cramming.errors import CrammingError
from cramming.recipes import recipe
from cramming.rounding import decode, encode, quantise, stored_bits
from cramming.studies import bits

BLOCKS = st.sampled_from([None, 8, 32])


def noise(k, d, seed=0, size=1000.0):
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed)) * size


# Rounding


def test_rounding_by_hand():
    # One bit: the sign, at the mean size. Two: -1.5, -0.5, 0.5 and 1.5 scales, here all hit.
    assert quantise(torch.tensor([[-4.0, 1.0, 1.0, 2.0]]), 1).tolist() == [[-2, 2, 2, 2]]
    hit = torch.tensor([[3.0, -1.0, 1.0, -3.0], [0.75, 0.25, -0.25, 0.75]])
    assert quantise(hit, 2).tolist() == hit.tolist()
    # A scale a vector drowns the small half; a scale a block does not.
    halves = torch.tensor([[100.0, -100.0, 1.0, -1.0]])
    assert quantise(halves, 1, block=2).tolist() == halves.tolist()
    assert quantise(halves, 1)[0, 2] > 10


def test_a_lone_large_number_is_clipped_rather_than_all_others_lost():
    small = noise(1, 63, size=1)
    mem = torch.cat([small, torch.tensor([[12.0]])], dim=1)
    # With 12 as the outermost value the others would be 4 and -4.
    assert (quantise(mem, 2)[:, :63] - small).norm() < (small.sign() * 4 - small).norm() / 3


@given(st.integers(1, 8), BLOCKS, st.integers(1, 3), st.integers(0, 5), st.sampled_from([0.0, 0.01, 1.0, 1000.0]))
def test_bytes_give_back_the_rounded_vectors_and_rounding_them_again_changes_nothing(bits, block, k, seed, size):
    mem = noise(k, 64, seed, size)
    once = quantise(mem, bits, block)
    blob = encode(mem, bits, block)
    assert torch.equal(decode(blob, 64), once)
    assert torch.equal(quantise(once, bits, block), once)
    assert torch.equal(decode(encode(once, bits, block), 64), once)
    assert len(blob) == 2 + math.ceil(stored_bits(64, bits, block, k) / 8)
    for numbers in once.unflatten(1, (-1, block or 64)).flatten(0, 1):
        assert len(numbers.unique()) <= 2**bits


@given(st.integers(1, 7), BLOCKS, st.integers(0, 5))
def test_another_bit_brings_the_vector_nearer(bits, block, seed):
    mem = noise(1, 64, seed)
    errors = [float((quantise(mem, b, block) - mem).norm()) for b in (bits, bits + 1)]
    assert errors[1] < errors[0]


def test_bits_are_counted_by_hand():
    assert stored_bits(576, 4) == 4 * 576 + 16
    assert stored_bits(576, 4, 32) == 4 * 576 + 18 * 16
    assert stored_bits(576, 1, k=3) == 3 * (576 + 16)


def test_what_cannot_be_rounded_is_refused():
    mem = noise(1, 64)
    for wrong in (0, 9):
        with pytest.raises(CrammingError, match=f"bits is {wrong}: expected 1 to 8"):
            quantise(mem, wrong)
    with pytest.raises(CrammingError, match="block is 7: expected a divisor of the width 64"):
        quantise(mem, 2, 7)
    with pytest.raises(CrammingError, match=r"expected .k, d., all numbers finite"):
        quantise(mem * math.inf, 2)
    with pytest.raises(CrammingError, match=r"expected .k, d."):
        quantise(mem[0], 2)
    with pytest.raises(CrammingError, match="block is 512: a file holds at most 255"):
        encode(noise(1, 1024), 2, 512)


@pytest.mark.parametrize("blob", [b"", b"\x02", b"\x00\x00" + bytes(18), b"\x02\x07" + bytes(18), b"\x02\x00" * 3])
def test_bytes_that_are_no_vectors_are_refused(blob):
    with pytest.raises(CrammingError, match=f"{len(blob)} bytes hold no"):
        decode(blob, 64)


def test_a_file_cut_off_is_refused():
    with pytest.raises(CrammingError, match="cut off"):
        decode(encode(noise(2, 64), 3)[:-1], 64)


# In the loop


@pytest.mark.parametrize("bits", [1, 2])
def test_the_vector_kept_is_a_rounded_one_and_holds_its_passage(tiny_llama, prose, bits):
    how = recipe("best", max_steps=150, bits=bits)
    runs = cram(tiny_llama, [passage.prefix(3) for passage in prose], how, batch=3, progress=False)
    assert any(run.solved for run in runs)
    for run in runs:
        assert torch.equal(quantise(run.mem, bits), run.mem)
        if run.solved:
            again = decode(encode(run.mem, bits), tiny_llama.width)
            assert greedy(tiny_llama, again, 3)[0].tolist() == list(run.passage.token_ids)


def test_recipes_round_on_the_sphere_only_and_keep_their_keys():
    assert recipe("best", bits=2, block=32).deciding() == recipe("best").deciding() | {"bits": 2, "block": 32}
    with pytest.raises(CrammingError, match=r"bits = 2 is refused .*on the sphere only"):
        recipe("paper", bits=2)
    with pytest.raises(CrammingError, match=r"block = 32 is refused .*or set bits"):
        recipe("best", block=32)
    with pytest.raises(CrammingError, match="bits = 9 is refused"):
        recipe("best", bits=9)


# What is left


def test_turned_vectors_are_as_far_away_as_said():
    mem = noise(2, 64)
    changes = bits.turned(mem, [1, 45], torch.Generator().manual_seed(1), draws=2)
    assert [amount for _, amount, *_ in changes] == [1, 45, 1, 45]
    for _, angle, _, turned in changes:
        cosine = torch.nn.functional.cosine_similarity(mem.double(), turned.double())
        assert torch.rad2deg(torch.acos(cosine)).tolist() == pytest.approx([angle] * 2, rel=1e-2)
        assert turned.norm(dim=1).tolist() == pytest.approx(mem.norm(dim=1).tolist(), rel=1e-4)
    assert not torch.equal(changes[0][3], changes[2][3])


def test_the_smallest_numbers_go_first():
    [(what, share, _, thin)] = bits.thinned(torch.tensor([[3.0, -1.0, 2.0, -4.0]]), [0.5])
    assert (what, share, thin.tolist()) == ("zeroed", 0.5, [[3, 0, 0, -4]])


def test_every_way_of_writing_says_its_bits():
    changes = bits.rounded(noise(2, 64), [4, 1], 32)
    assert {(what, amount): bits for what, amount, bits, _ in changes} == {
        ("float32", 32): 32 * 128,
        ("bfloat16", 16): 16 * 128,
        ("float16", 16): 16 * 128,
        ("scale a vector", 4): 4 * 128 + 32,
        ("scale a block", 4): 4 * 128 + 64,
        ("scale a vector", 1): 128 + 32,
        ("scale a block", 1): 128 + 64,
    }
    assert len(bits.rounded(noise(1, 64), [4])) == 4


@torch.no_grad()
def test_tokens_are_exact_up_to_the_first_that_free_decoding_gets_wrong(tiny):
    mem = noise(1, tiny.width, size=3.0)
    ids = greedy(tiny, mem, 12, cached=False)[0].tolist()
    for wrong in (0, 3, 10, 12):  # before and after the first tokens, which are tried alone; 12: none
        text = [i if at != wrong else (i + 1) % tiny.vocab_size for at, i in enumerate(ids)]
        assert exact_prefix(tiny, torch.stack([mem, mem]), text) == [wrong] * 2


def test_survival_of_a_crammed_passage(tiny_llama, solved_llama):
    passage, mem = solved_llama.passage, solved_llama.mem
    generator = torch.Generator().manual_seed(0)
    frame = bits.survival(
        tiny_llama, [mem], [passage],
        lambda mem: bits.rounded(mem, [8, 1]) + bits.turned(mem, [90], generator, draws=5),
    )  # fmt: skip
    whole = frame[frame["what"] == "float32"].iloc[0]
    assert (whole["exact"], whole["length"], whole["stored_bits"]) == (len(passage), len(passage), 32 * mem.numel())
    assert whole["degrees"] == pytest.approx(0, abs=1e-3)
    rounded = frame[frame["what"] == "scale a vector"].set_index("amount")["degrees"]
    assert 0 < rounded[8] < rounded[1] < 60
    noisy = frame[frame["what"] == "noise"]
    assert len(noisy) == 5
    assert noisy["degrees"].to_numpy() == pytest.approx(90, abs=1e-2)
    assert noisy["exact"].mean() < len(passage)
    with pytest.raises(CrammingError, match="1 vectors and 2 passages"):
        bits.survival(tiny_llama, [mem], [passage] * 2, lambda mem: bits.rounded(mem, [1]))


def left(what, amount, passage, exact, length=10, stored=100.0, degrees=5.0):
    return {"source": passage.split("/")[0], "passage": passage, "length": length, "what": what, "amount": amount,
            "stored_bits": stored, "degrees": degrees, "exact": exact}  # fmt: skip


def test_fewest_bits_count_from_above():
    frame = pd.DataFrame(
        [
            left("scale a vector", bits, passage, exact, stored=100.0 * bits)
            for passage, by_bits in {
                "novels/a": {8: 10, 4: 10, 2: 3},
                "novels/b": {8: 10, 4: 9, 2: 10},  # whole again at 2 by luck
            }.items()
            for bits, exact in by_bits.items()
        ]
        + [left("noise", 3, "novels/a", 10, stored=math.nan), left("scale a block", 8, "novels/a", 9)]
    )
    found = bits.fewest_bits(frame).set_index(["what", "passage"])
    assert found.loc[("scale a vector", "novels/a"), ["fewest", "stored_bits"]].tolist() == [4, 400]
    assert found.loc[("scale a vector", "novels/b"), "fewest"] == 8
    assert np.isnan(found.loc[("scale a block", "novels/a"), "fewest"])
    every = bits.fewest_for_all(frame)
    assert every["scale a vector"] == 8
    assert np.isnan(every["scale a block"])
    summary = bits.survival_summary(frame)
    at4 = summary.loc[("scale a vector", 4)]
    assert at4[["n", "whole", "exact_mean", "share_mean"]].tolist() == [2, 1, 9.5, 0.95]
    assert at4[["share_low", "share_high"]].tolist() == pytest.approx([0.9, 1])
    assert at4["bits_per_token"] == pytest.approx(800 / 19)
    table = bits.survival_table(summary)
    assert table.loc[("scale a vector", "4"), "passages whole"] == "1 of 2"
    assert table.loc[("scale a vector", "4"), "bits of vector a token left"] == "42"
    assert "noise" not in table.index.get_level_values(0)
    assert isinstance(bits.survival_figure(summary), Figure)


def test_nothing_left_costs_no_number_of_bits_a_token():
    summary = bits.survival_summary(pd.DataFrame([left("scale a vector", 1, "novels/a", 0)]))
    assert np.isinf(summary["bits_per_token"].item())
    assert bits.survival_table(summary)["bits of vector a token left"].item() == ""


def test_rounding_in_the_loop_stands_beside_rounding_afterwards():
    how = recipe("best", bits=2)
    runs = bits.by_rounding(
        pd.DataFrame([row(how), row(recipe("best"), "novels/b"), row(how, "fresh/c", correct_greedy=3)])
    )
    assert runs["bits"].tolist() == pytest.approx([2, math.nan, 2], nan_ok=True)
    assert runs["stop_margin"].tolist() == [0.05] * 3
    after = pd.DataFrame(
        [left(what, bits, "novels/a", 1) for what, bits in (("float32", 32), ("bfloat16", 16), ("scale a vector", 2))]
    )
    frame = bits.few_bits(runs, {"rounded afterwards": after})
    assert frame["amount"].tolist() == [32, 2, 2, 2]
    loop = frame[frame["what"] == bits.IN_THE_LOOP]
    assert loop[["exact", "length"]].to_numpy().tolist() == [[4, 4], [3, 4]]
    assert loop["stored_bits"].tolist() == [2 * 64 + 16] * 2
    assert bits.survival_summary(frame).loc[(bits.IN_THE_LOOP, 2), "whole"] == 1
    assert isinstance(bits.few_bits_figure(frame), Figure)
    assert "" in set(bits.survival_table(bits.survival_summary(frame))["angle, degrees"])


def test_information_leaves_out_token_0():
    nats = np.log(2) * np.array([99.0, 3.0, 1.0, 99.0])
    runs = pd.DataFrame([row(recipe("best"), length=3, token_nats_without=nats)])
    assert bits.information_per_token(runs) == pytest.approx(2)

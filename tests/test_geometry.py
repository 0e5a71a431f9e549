"""How far layers turn a mem vector, and whether gradients agree between neighbours."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from cramming.errors import CrammingError
from cramming.sphere import random_directions
from cramming.studies.sphere import agreement_by_start, gradient_agreement, turning
from cramming.texts import from_text


def test_directions_are_on_the_sphere_and_repeat(tiny):
    one = random_directions(tiny, 3)
    torch.testing.assert_close(one.square().mean(1), torch.ones(3))
    torch.testing.assert_close(one, random_directions(tiny, 3))
    assert not torch.allclose(one, random_directions(tiny, 3, seed=1))


def test_a_longer_vector_is_turned_less_and_kept_apart(tiny):
    some = random_directions(tiny, 4)
    frame = turning(tiny, some, [1, 30, 1000])
    first = frame[frame["layer"] == 0]
    assert (first["turned"] < 1e-3).all()
    last = frame[frame["layer"] == frame["layer"].max()].groupby("radius")["turned"].mean()
    assert last[1] > last[30] > last[1000]
    assert len(frame) == 3 * 4 * tiny.model.config.num_hidden_layers
    # At S = 1000 the streams stay as far apart as they came in.
    apart = frame[frame["radius"] == 1000].groupby("layer")["apart"].mean()
    assert apart.iloc[-1] == pytest.approx(apart.iloc[0], rel=0.05)


def test_what_is_the_same_is_not_apart(tiny_llama):
    one = random_directions(tiny_llama, 1)
    frame = turning(tiny_llama, torch.cat([one, one * 7]), [1])
    assert frame["apart"].max() < 1e-3
    assert frame["turned"].max() > 1
    with pytest.raises(CrammingError, match="1 directions cannot be compared"):
        turning(tiny_llama, one, [1])


@pytest.fixture
def two(tiny):
    return [from_text(text, tiny.tokenizer) for text in ("To be, or not", "that is the Q")]


def test_a_gradient_agrees_with_itself_and_less_with_others(tiny, two):
    frame = gradient_agreement(tiny, two, [1000], [0, 1, 90])
    assert (frame.loc[frame["degrees"] == 0, "cosine"] > 0.9999).all()
    mean = frame.groupby("degrees")["cosine"].mean()
    assert mean[1] > mean[90]
    assert (frame["nats"] > 0).all()


def test_gradients_from_a_start_of_ones_own(tiny_llama):
    some = [from_text(text, tiny_llama.tokenizer) for text in ("To be, or not", "that is the Q")]
    start = random_directions(tiny_llama, 2)
    pd.testing.assert_frame_equal(
        gradient_agreement(tiny_llama, some, [30], [5], start=start * 3),
        gradient_agreement(tiny_llama, some, [30], [5]),
    )


def test_agreement_from_random_directions_and_from_those_found(tiny_llama):
    some = [from_text(text, tiny_llama.tokenizer, id=text) for text in ("To be, or not", "that is the Q")]
    start = random_directions(tiny_llama, 2)
    found = {30: {passage.id: vector for passage, vector in zip(some, start, strict=True)}}
    frame = agreement_by_start(tiny_llama, some, some[::-1], found, [1, 30], [5])
    assert frame.groupby("where")["radius"].unique().map(list).to_dict() == {
        "random directions": [1, 30],
        "directions found": [30],
    }
    alone = gradient_agreement(tiny_llama, some[::-1], [30], [5], start=start.flip(0))
    there = frame[frame["where"] == "directions found"].drop(columns="where").reset_index(drop=True)
    pd.testing.assert_frame_equal(there, alone)


def test_passages_of_two_lengths_are_refused(tiny_llama):
    some = [from_text(text, tiny_llama.tokenizer) for text in ("one", "three")]
    with pytest.raises(CrammingError, match=r"lengths \[3, 5\]"):
        gradient_agreement(tiny_llama, some, [1], [1])

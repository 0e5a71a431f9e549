"""What texts cost without mem, and the least of it that must go, against worked-out answers and by properties."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cramming import metrics
from cramming.errors import CrammingError
from cramming.results import rows
from cramming.studies import bound
from cramming.studies import texts as texts_page
from cramming.texts import passages
from tests.test_tables import OURS, frame, row

logits = st.lists(st.floats(-20, 20), min_size=2, max_size=6)


@given(logits, st.integers(0, 5))
def test_what_is_removed_makes_the_true_token_level_with_the_best_other(values, true):
    scores = torch.tensor(values, dtype=torch.float64)
    true %= len(values)
    others = torch.cat([scores[:true], scores[true + 1 :]]).max()
    nats, gap = float(scores.logsumexp(0) - scores[true]), float(scores[true] - others)
    [least] = metrics.least_reduction([max(nats, 0)], [gap])
    raised = scores.clone()
    raised[true] = max(scores[true], others)
    assert least == pytest.approx(nats - float(raised.logsumexp(0) - raised[true]), abs=1e-9)
    assert 0 <= least <= nats + 1e-9
    assert (least == 0) == (gap >= 0)


def test_least_reduction_refuses_what_is_no_cross_entropy():
    with pytest.raises(CrammingError, match="nats"):
        metrics.least_reduction([-1.0], [0.0])
    with pytest.raises(CrammingError, match="gaps"):
        metrics.least_reduction([1.0, 2.0], [0.0])


@pytest.fixture
def some(tiny_llama):
    return [p for source in ("novels", "random") for p in passages(source, tiny_llama.tokenizer, n=2, length=12)]


def test_surprise_is_that_of_every_token_but_the_first(tiny_llama, some):
    surprise = rows.surprise(tiny_llama, some)
    assert surprise.groupby("passage")["position"].apply(list).tolist() == [list(range(1, 12))] * 4
    tokens = torch.tensor([some[0].token_ids])
    loss = tiny_llama.model(input_ids=tokens, labels=tokens).loss.item()
    assert surprise.loc[surprise["passage"] == some[0].id, "nats"].mean() == pytest.approx(loss, rel=1e-4)
    assert (surprise["least_nats"] <= surprise["nats"] + 1e-6).all()
    assert isinstance(texts_page.surprise_figure(surprise), Figure)


def test_texts_are_described_by_source(tiny_llama, some):
    surprise, sizes = rows.surprise(tiny_llama, some), texts_page.sizes(some)
    table = texts_page.text_table(sizes, surprise)
    assert table.index.tolist() == ["novels", "random"]
    novels = surprise[surprise["source"] == "novels"].groupby("passage")["nats"].mean() / math.log(2)
    assert table.loc["novels", "bits a token"] == f"{novels.mean():.2f} ± {novels.std():.2f}"
    # One byte is one token here, so a token has one character, and both have the same price.
    assert (table["characters a token"] == "1.00").all()
    assert table.loc["novels", "bits a character"] == f"{novels.mean():.2f}"


def surprise_of(passage: str, n: int) -> pd.DataFrame:
    return pd.DataFrame({"source": "novels", "passage": passage, "position": range(1, n + 1), "nats": 3.0}).assign(
        least_nats=np.arange(n) % 2
    )


def test_reduction_compares_a_horizon_with_the_least_over_the_same_tokens():
    # Four tokens: the first is left out, the others fell from 3 nats to a quarter; of six least ones three are theirs.
    runs = frame(row(OURS), row(OURS, "novels/b", length=1))
    done = bound.reduction(runs, surprise_of("novels/a", 6))
    assert done["passage"].tolist() == ["novels/a"]  # of a single token nothing is known
    expected = np.array([9.0, 1.0, 3 * 2.75]) / math.log(2)
    assert done.loc[0, ["bits", "least_bits", "removed_bits"]].tolist() == pytest.approx(expected.tolist())
    table = bound.reduction_table(done).iloc[0]
    assert (table["removed over least"], table["least over all"], table["removed over all"]) == ("8.25", "11%", "92%")
    assert isinstance(bound.reduction_figure(done), Figure)
    with pytest.raises(CrammingError, match="surprisal covers 3 tokens of novels/a: give 4 or more"):
        bound.reduction(runs, surprise_of("novels/a", 2))

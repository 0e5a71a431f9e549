"""Forecasts: features computed another way, a fit whose answer is known, and what intervals promise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cramming.errors import CrammingError
from cramming.models import SMOLLM2, load
from cramming.recipes import Recipe
from cramming.results.plans import store_of
from cramming.results.store import Store
from cramming.results.sweep import results
from cramming.studies import predict
from cramming.studies.predict import FEATURES
from cramming.texts import passages
from tests.test_tables import OURS, frame, row


def known(n: int = 40, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Passages whose horizon falls by the power of their surprisal; other features are noise."""
    rng = np.random.default_rng(seed)
    x = pd.DataFrame(rng.normal(size=(n, len(FEATURES))), columns=list(FEATURES))
    horizon = np.exp(4 - 0.5 * x["surprisal"] + noise * rng.normal(size=n))
    sources = np.where(np.arange(n) % 2, "novels", "fresh")
    names = [f"{source}/{i}" for i, source in enumerate(sources)]
    return x.assign(source=sources, passage=names, horizon=horizon, steps=2 * horizon)


# What is read


def test_features_of_one_forward_pass(tiny_llama):
    some = passages("novels", tiny_llama.tokenizer, n=2, length=24)
    frame = predict.features(tiny_llama, some, 16)
    assert frame["passage"].tolist() == [passage.id for passage in some]
    ids = torch.tensor(some[0].token_ids[:16])
    with torch.no_grad():
        logits = tiny_llama.model(input_ids=ids[None]).logits[0, :-1].double()
    odds = logits.softmax(1)
    nats = -odds[torch.arange(15), ids[1:]].log()
    order = logits.argsort(dim=1, descending=True)
    ranks = [order[i].tolist().index(int(ids[i + 1])) + 1 for i in range(15)]
    expected = {
        "surprisal": float(nats.mean()),
        "entropy": float(-(odds * odds.log()).sum(1).mean()),
        "rank": float(np.log(ranks).mean()),
        "highest": float(nats.max()),
        "opening": float(nats[:8].mean()),
    }
    assert frame.loc[0, list(FEATURES)].to_dict() == pytest.approx(expected, rel=1e-4)


def test_tokens_behind_the_window_are_not_read(tiny_llama):
    long, short = (passages("fresh", tiny_llama.tokenizer, n=1, length=length) for length in (30, 12))
    pd.testing.assert_frame_equal(predict.features(tiny_llama, long, 12), predict.features(tiny_llama, short, 12))
    with pytest.raises(CrammingError, match="has 12 tokens, and the estimate reads the first 13"):
        predict.features(tiny_llama, short, 13)
    with pytest.raises(CrammingError, match="window is 1"):
        predict.features(tiny_llama, short, 1)


def runs(tiny_llama, n: int = 4) -> pd.DataFrame:
    """Horizons of 10, 11, ... tokens; 16 were under optimisation at step 3, so that 8 were exact."""
    texts = passages("novels", tiny_llama.tokenizer, n=n, length=20)
    rows = [
        row(OURS, text.id, length=10 + i, token_ids=list(text.token_ids), passage_digest=text.digest,
            trace_step=[1, 3, 7], trace_length=[8, 16, 18], trace_token_passes=[8, 24, 60], steps=9)
        for i, text in enumerate(texts)
    ]  # fmt: skip
    return frame(*rows)


def test_samples_hold_horizons_and_the_steps_to_the_first_tokens(tiny_llama):
    crams = runs(tiny_llama)
    some = predict.samples(tiny_llama, crams, window=12, first=8)
    assert some["horizon"].tolist() == [10, 11, 12, 13]
    assert some["steps"].tolist() == [3, 3, 3, 3]
    late = predict.samples(tiny_llama, crams, window=12, first=12)
    assert late["steps"].fillna(-1).tolist() == [-1, -1, 9, 9]
    mixed = frame(*crams.to_dict("records"), row(OURS.model_copy(update={"lr": 0.5}), token_ids=[1] * 20))
    with pytest.raises(CrammingError, match="of 2 recipes"):
        predict.samples(tiny_llama, mixed, window=12)


# The fit


def test_what_a_feature_tells_in_full_is_predicted():
    told = predict.left_out(known(), "horizon")
    assert told["predicted"].to_numpy() == pytest.approx(told["truth"].to_numpy(), rel=0.02)
    assert told["inside"].mean() > 0.8
    assert ((told["low"] <= told["predicted"] * 1.001) & (told["predicted"] <= told["high"] * 1.001)).all()


def test_without_features_it_is_the_mean_of_the_others():
    some = known(4)
    told = predict.left_out(some, "horizon", [])
    logs = np.log(some["horizon"])
    assert told["predicted"].to_numpy() == pytest.approx(np.exp((logs.sum() - logs) / 3).to_numpy())
    # Three known passages are too few for any finite interval of 90 %.
    assert (told["low"] == 0).all()
    assert np.isinf(told["high"]).all()


def test_features_that_tell_nothing_leave_about_the_mean():
    rng = np.random.default_rng(5)
    some = known(60).assign(horizon=np.exp(rng.normal(size=60)))
    plain, full = (predict.left_out(some, "horizon", columns) for columns in ([], list(FEATURES)))
    error = {
        name: np.log(told["predicted"] / told["truth"]).abs().mean() for name, told in (("p", plain), ("f", full))
    }
    assert error["f"] < 1.15 * error["p"]


def test_a_passage_has_no_part_in_its_own_forecast():
    some = known(20, noise=0.3)
    told = predict.left_out(some, "horizon")
    changed = some.assign(horizon=some["horizon"].where(some.index != 7, 1e6))
    again = predict.left_out(changed, "horizon")
    columns = ["predicted", "low", "high"]
    assert again.loc[7, columns].tolist() == told.loc[7, columns].tolist()
    assert again.loc[8, "predicted"] != told.loc[8, "predicted"]


def test_sources_are_forecast_from_the_others_or_from_themselves():
    some = known(24, noise=0.2)
    alone = predict.left_out(some, "horizon", [], by="source")
    own = predict.left_out(some, "horizon", [], within=True)
    means = np.log(some["horizon"]).groupby(some["source"]).mean()
    assert alone.loc[alone["source"] == "fresh", "predicted"].to_numpy() == pytest.approx(np.exp(means["novels"]))
    fresh = np.log(some.loc[some["source"] == "fresh", "horizon"])
    assert own.loc[fresh.index, "predicted"].to_numpy() == pytest.approx(np.exp((fresh.sum() - fresh) / 11).to_numpy())
    lonely = predict.left_out(some.iloc[:4].assign(source=list("aaab")), "horizon", [], within=True)
    assert lonely["source"].tolist() == ["a", "a", "a"]


def test_targets_that_are_missing_are_left_out():
    some = known(8).assign(steps=[0.0, math.nan] + [5.0] * 6)
    assert predict.left_out(some, "steps", [])["truth"].tolist() == [5.0] * 6
    with pytest.raises(CrammingError, match="no passage has steps above 0"):
        predict.forecast(some.iloc[:2], some, "steps")


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.8]))
def test_intervals_keep_more_than_they_promise(seed, level):
    """The jackknife+ promises 2 * level - 1 over draws of everything; here over passages of one draw, with slack."""
    told = predict.left_out(known(20, noise=0.5, seed=seed), "horizon", ["surprisal"], level=level)
    assert told["inside"].mean() >= 2 * level - 1 - 0.15


def test_a_higher_level_gives_a_wider_interval():
    some, new = known(40, noise=0.5), known(5, seed=9)
    narrow, wide = (predict.forecast(some, new, "horizon", level=level) for level in (0.6, 0.95))
    assert (wide["low"] < narrow["low"]).all()
    assert (wide["high"] > narrow["high"]).all()


# Tables and figures


def test_forecasts_are_held_against_the_first():
    truth = pd.DataFrame({"source": "novels", "passage": list("abcd"), "truth": [10.0, 20, 40, 80]})
    base = truth.assign(predicted=30.0, low=5.0, high=50.0, inside=[True, True, True, False])
    good = truth.assign(predicted=truth["truth"], low=1.0, high=100.0, inside=True)
    summary = predict.forecast_summary({"mean": base, "good": good})
    assert summary["error"].tolist() == [22.5, 0]
    assert summary["better"].tolist() == [0, 22.5]
    assert summary["covered"].tolist() == [0.75, 1]
    assert summary["width"].tolist() == [10, 100]
    table = predict.forecast_table(summary)
    assert table["gain on the mean"].str.split(" ").str[0].tolist() == ["", "+22.50"]
    assert table["truth inside"].tolist() == ["3 of 4", "4 of 4"]
    assert isinstance(predict.forecasts_figure({"tokens": base, "steps": good.assign(low=0.0, high=np.inf)}), Figure)


# What is stored


def test_estimate_comes_from_what_was_written(tiny_llama, tmp_path):
    crams = runs(tiny_llama, 12)
    path = predict.write(tiny_llama, crams, tmp_path, window=12, first=8)
    assert path.name == "tiny-llama.json"
    stored = predict.read("tiny-llama", tmp_path)
    some = predict.samples(tiny_llama, crams, window=12, first=8)
    pd.testing.assert_frame_equal(stored["rows"], some.astype({"horizon": "int64"}), atol=1e-4, check_dtype=False)
    assert (stored["window"], stored["first"], stored["recipe"]) == (12, 8, OURS)
    [passage] = passages("fresh", tiny_llama.tokenizer, n=1, length=12)
    told = predict.foretell(tiny_llama, passage, stored)
    assert told.index.tolist() == ["horizon", "steps"]
    assert told.loc["steps", ["predicted", "low", "high"]].tolist() == pytest.approx([3, 3, 3])
    assert 10 <= told.loc["horizon", "predicted"] <= 21
    with pytest.raises(CrammingError, match="fetch the same weights"):
        predict.foretell(tiny_llama, passage, stored | {"model_digest": "other"})
    with pytest.raises(CrammingError, match="'nope' are stored to estimate from: there are some of tiny-llama"):
        predict.read("nope", tmp_path)


def test_stored_estimates_are_those_of_the_store():
    """Every horizon and every step count; the features of a few passages, since each is a forward pass."""
    stored = predict.read(SMOLLM2)
    frame = store_of("laptop").frame()
    recipes = frame["recipe_json"].map(Recipe.model_validate_json)
    crams = frame[(frame["kind"] == "horizon") & (recipes == stored["recipe"]) & (frame["offered"] == 512)]
    rows = stored["rows"].set_index("passage")
    assert sorted(rows.index) == sorted(crams["passage"])
    assert rows.loc[crams["passage"], "horizon"].tolist() == crams["length"].tolist()
    lm, some = load(SMOLLM2), crams.iloc[::30]
    assert lm.digest == stored["model_digest"]
    again = predict.samples(lm, some, window=stored["window"], first=stored["first"]).set_index("passage")
    columns = [*FEATURES, "horizon", "steps"]
    pd.testing.assert_frame_equal(rows.loc[again.index, columns], again[columns], atol=2e-3, check_dtype=False)


def test_page_from_the_smoke_plan(smoke_store, tiny_llama):
    some = results("smoke", "predict", store=Store(smoke_store), progress=False).query("length >= 1")
    told = predict.left_out(predict.samples(tiny_llama, some, window=24, first=1), "steps")
    assert len(told) == len(some)

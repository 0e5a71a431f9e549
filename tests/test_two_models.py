"""Two models: claims judged by their intervals, and runs read without the model that made them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cramming import models
from cramming.models import consented
from cramming.recipes import recipe
from cramming.results import plans, sweep
from cramming.results.store import Store
from cramming.studies import two_models as study

SIGNS = st.sampled_from([-1, 0, 1])


@given(SIGNS, SIGNS)
def test_a_claim_is_true_of_a_model_where_its_interval_says_so(a, b):
    said = study.verdict(pd.Series({"one": a, "two": b}))
    assert (said == "both") == (a == b == 1)
    assert (said == "neither") == (a == b == -1)
    assert ("only" in said) == ((a == 1) != (b == 1))
    if "only" in said:
        assert said.startswith("one" if a == 1 else "two")
        assert said.endswith("against on the other" if -1 in (a, b) else "open on the other")


@pytest.mark.parametrize(("above", "holds"), [(True, [1, 0, -1]), (False, [-1, 0, 1])])
def test_the_side_of_a_claim_decides(monkeypatch, above, holds):
    measured = {"far": (3, 2, 4), "near": (1, 0, 2), "under": (-1, -2, 0.5)}
    one = study.Finding("a claim", "units", lambda model: study.Measured(*measured[model.name], 5), 1, above)
    none = study.Finding("not measured on one", "units", lambda model: None, 0, True)
    monkeypatch.setattr(study, "FINDINGS", (one, none))
    some = [type("Named", (), {"name": name}) for name in measured]
    frame = study.findings(some)
    assert frame["holds"].tolist() == holds
    assert set(frame["claim"]) == {"a claim"}
    assert study.findings_table(frame).loc["a claim (units)", "far"] == "3.00 (2.00 to 4.00), n = 5"


def crams(exact: list[bool], steps: list[list[int]]) -> study.Model:
    """A model with crams alone: steps by passage and seed."""
    found = object.__new__(study.Model)
    found.name, found.horizons, found.arms = "m", pd.DataFrame(), {}
    found.seeds = pd.DataFrame(
        [(f"p{i}", seed, n, f"k{i}{seed}") for i, row in enumerate(steps) for seed, n in enumerate(row)],
        columns=["passage", "seed", "steps", "key"],
    ).assign(exact=exact)
    return found


def test_all_exact_is_not_certain():
    """Wilson's interval of n out of n reaches down to n / (n + z²)."""
    found = study.solved(crams([True] * 6, [[1, 2], [3, 4], [5, 6]]))
    assert found == pytest.approx((1, 6 / (6 + 1.96**2), 1, 6))
    assert study.solved(crams([True, False], [[1, 2]])).value == 0.5


def test_seeds_against_passages():
    # Between seeds 0 or log 2, passages the same; and the other way round.
    wide = study.seeds_over_passages(crams([True] * 4, [[10, 20], [10, 20]]))
    level = study.seeds_over_passages(crams([True] * 4, [[10, 10], [20, 20]]))
    assert wide.value > 1 > level.value == 0
    assert study.seeds_over_passages(crams([True], [[10]])) is None


def test_angles_between_vectors_of_one_text_and_of_two():
    found = crams([True] * 4, [[1, 1], [1, 1]])
    x, y = torch.eye(3)[:2]
    found.vectors = {"k00": x[None], "k01": x[None] * 7, "k10": y[None], "k11": (x + y)[None]}
    half = 0.5**0.5
    assert found.cosines.loc["p0"].to_dict() == pytest.approx({"own": 1, "other": half / 2})
    assert found.cosines.loc["p1"].to_dict() == pytest.approx({"own": half, "other": half / 2})
    assert study.angle(found).value == pytest.approx(22.5, abs=1e-4)
    assert study.more_alike(found).value == pytest.approx((1 + half) / 2 - half / 2)


def test_the_page_on_two_tiny_models(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "RESULTS", tmp_path)
    page = study.Page("smoke", "smoke-second")
    assert [model.name for model in page.models] == ["tiny-llama", "tiny-gpt_neox"]
    first, second = (set(model.horizons["passage"]) for model in page.models)
    assert first == second
    assert page.budget == min(model.horizons["token_passes"].max() for model in page.models) or page.budget == 400
    for model in page.models:
        assert (model.horizons["exact_tokens"] <= model.horizons["length"]).all()
        assert set(model.arms) == {"sphere", "short"}
    assert [list(model.longer["limit"]) for model in page.models] == [[], [600]]
    table = study.models_table(page.models, page.results)
    row = table.loc["exact tokens within 600 token passes"]
    assert row["tiny-llama"] == "not run"
    assert row["tiny-gpt_neox"].endswith("n = 1")
    assert 4 <= page.findings["claim"].nunique() <= len(study.FINDINGS)
    assert isinstance(study.tokens_against_passes_figure(page.models), Figure)
    assert isinstance(study.findings_figure(page.findings), Figure)


# Without the model


def test_a_model_whose_terms_were_not_accepted_shows_its_stored_runs(tmp_path, monkeypatch):
    """Rows of the plan alone, with the facts that captions need; nothing is loaded and nothing run."""
    store = Store(tmp_path / "smoke-second")
    sweep.results("smoke-second", "two_models", store=store, progress=False)
    whole = store.frame()
    packaged = dataclasses.replace(
        models.PACKAGED["gemma-3-270m"], title="Tiny", weights="weights", width=64, vocab_size=257
    )
    monkeypatch.setitem(models.PACKAGED, "tiny-gpt_neox", packaged)
    monkeypatch.setattr(models, "_cache_directory", lambda: tmp_path)
    assert not consented("tiny-gpt_neox")
    monkeypatch.setattr(sweep, "load", lambda *a, **k: pytest.fail("it was loaded"))
    found = sweep.results("smoke-second", "two_models", store=store, progress=False)
    assert set(found["key"]) == set(whole["key"])
    facts = found[["provenance", "width", "vocab_size"]].drop_duplicates().to_dict("records")
    assert facts == [{"provenance": "Tiny, weights turned back to float32", "width": 64, "vocab_size": 257}]
    plan = plans.load_plan("smoke-second")
    some = plan.model_copy(update={"experiments": plan.experiments[:1]})
    kept = whole[whole["key"].isin(sweep._stored(some, store, "tiny-gpt_neox"))]
    assert set(kept["kind"]) == {"horizon"}
    assert recipe("horizon").name in set(kept["recipe"])
    assert np.isfinite(kept["margin"]).all()


def test_an_open_model_asks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_cache_directory", lambda: tmp_path)
    assert all(consented(name) for name in ("smollm2-135m", "tiny-llama", "Pythia-160M"))
    assert not consented("gemma-3-270m")
    (tmp_path / "gemma-3-270m").mkdir()
    (tmp_path / "gemma-3-270m" / "digest.txt").write_text("0")
    assert consented("gemma-3-270m")

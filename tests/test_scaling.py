"""Sizes and numbers of vectors: exact power laws, cut models against the whole, k vectors against k times one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cramming import metrics
from cramming.errors import CrammingError
from cramming.recipes import recipe
from cramming.results import rows, traces
from cramming.studies import model_size, several_vectors
from tests.conftest import model
from tests.test_tables import OURS, PAPER, frame, row

# Power laws


@given(
    st.lists(st.floats(0.1, 1e4), min_size=3, max_size=20),
    st.floats(-3, 3),
    st.floats(0.01, 1000),
)
def test_an_exact_power_law_comes_back(x, exponent, factor):
    assume(max(x) / min(x) > 1.5)
    fit = metrics.power_law(x, factor * np.array(x) ** exponent, n_boot=20)
    assert fit["exponent"] == pytest.approx(exponent, abs=1e-6)
    assert fit["factor"] == pytest.approx(factor, rel=1e-4)
    assert fit["high"] - fit["low"] == pytest.approx(0, abs=1e-4)
    if abs(exponent) > 0.01:
        assert fit["r2"] == pytest.approx(1)


@given(
    st.lists(st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e4)), min_size=3, max_size=20),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_units_change_the_factor_only(points, by_x, by_y):
    x, y = map(np.array, zip(*points, strict=True))
    assume(x.max() / x.min() > 1.5 and y.max() / y.min() > 1.5)
    fit, other = metrics.power_law(x, y, n_boot=20), metrics.power_law(by_x * x, by_y * y, n_boot=20)
    for same in ("n", "exponent", "low", "high", "r2"):
        assert other[same] == pytest.approx(fit[same], rel=1e-6, abs=1e-6)
    assert other["factor"] == pytest.approx(fit["factor"] * by_y / by_x ** fit["exponent"], rel=1e-6)
    assert -1e-9 <= fit["r2"] <= 1


def test_a_fit_by_hand():
    # Logs of x are -1, 0, 1 times log 10, those of y 0, 3, 0: a level line that explains nothing.
    fit = metrics.power_law([0.1, 1, 10], [1, 1000, 1])
    assert (fit["exponent"], fit["r2"]) == pytest.approx((0, 0))
    assert fit["factor"] == pytest.approx(10)


def test_two_points_are_met_and_level_ones_have_nothing_to_explain():
    fit = metrics.power_law([1, 10], [1, 100])
    assert (fit["exponent"], fit["r2"]) == pytest.approx((2, 1))
    level = metrics.power_law([1, 10, 100], [5, 5, 5])
    assert level["exponent"] == pytest.approx(0)
    assert math.isnan(level["r2"])


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1, 0], [1, 2], r"x\[1\] is 0"),
        ([1, 2], [1, 0], r"y\[1\] is 0"),
        ([1, -2], [1, 2], r"x\[1\] is -2"),
        ([3, 3], [1, 2], "x does not vary"),
        ([1, 2], [1], "y has shape"),
    ],
)
def test_what_has_no_power_law_is_refused(x, y, said):
    with pytest.raises(CrammingError, match=said):
        metrics.power_law(x, y)


# Published sizes


def test_published_models_are_in_their_families():
    sizes = model_size.sizes().set_index("model")
    assert sizes["family"].value_counts().to_dict() == {"Pythia": 4, "Llama": 4, "Mamba": 4, "other": 2}
    assert sizes.loc["Sh.Llama-1.3B", "family"] == "Llama"
    # Table 1 of the paper, by way of a hub id that changed.
    assert sizes.loc["Llama-3.1-8B", "capacity"] == 1568
    assert sizes.loc["Llama-3.1-8B", "bits"] == pytest.approx(4865.7 / math.log(2))


def test_fits_are_those_of_each_family_and_of_all():
    sizes = model_size.sizes()
    fits = model_size.size_fits(sizes).set_index(["family", "gain", "against"])
    assert set(fits.index.get_level_values("family")) == {"Pythia", "Llama", "Mamba", "all"}
    mamba = sizes[sizes["family"] == "Mamba"]
    slope, _ = np.polyfit(np.log(mamba["width"]), np.log(mamba["bits"]), 1)
    assert fits.loc[("Mamba", "bits", "width"), "exponent"] == pytest.approx(slope)
    assert fits.loc[("all", "token_gain", "parameters"), "n"] == 14
    table = model_size.size_fit_table(fits.reset_index())
    assert table.loc[("Mamba (n = 4)", "information"), "exponent of width (95 %)"].startswith(f"{slope:.2f} (")
    assert isinstance(model_size.sizes_figure(sizes, fits.reset_index()), Figure)


# Cut models


def test_models_are_measured_on_the_same_tokens():
    lm = model("tiny-llama")
    tokens = list(b"to be or not to be")
    names = ("tiny-llama", "tiny-llama@first-1", "tiny-llama@random-head")
    some = frame(*[row(OURS, model=name, token_ids=np.array(tokens)) for name in names for _ in range(2)])
    about = model_size.sizes_and_bits(some, 8).set_index("model")
    assert about.index.tolist() == list(names)  # each passage once
    assert about["layers"].tolist() == [2, 1, 2]
    assert about.loc["tiny-llama", "parameters"] == sum(weight.numel() for weight in lm.model.parameters())
    ids = torch.tensor([tokens[:8]])
    loss = lm.model(input_ids=ids, labels=ids).loss.item()
    assert about.loc["tiny-llama", "bits"] == pytest.approx(loss / math.log(2), rel=1e-4)
    assert abs(about.loc["tiny-llama@random-head", "bits"] - about.loc["tiny-llama", "bits"]) > 0.01
    with pytest.raises(CrammingError, match="tokens is 1"):
        model_size.sizes_and_bits(some, 1)


ABOUT = pd.DataFrame({"model": ["m", "m@first-1"], "parameters": [3e6, 2e6], "layers": [2, 1], "bits": [4.0, 9.0]})


def nothing(passage: str, **changes) -> dict:
    """A run that found no token."""
    return row(
        OURS,
        passage,
        length=0,
        correct_with=0,
        correct_without=0,
        token_nats_with=[],
        token_nats_without=[],
        **changes,
    )


def test_cut_models_are_compared_passage_by_passage():
    some = frame(
        row(OURS, "novels/a", model="m", length=10),
        row(OURS, "fresh/b", model="m", length=20),
        row(OURS, "fresh/b", model="m@first-1", length=14),
        nothing("novels/a", model="m@first-1"),
    )
    cuts = model_size.copies(some, ABOUT).set_index("change")
    assert cuts.index.tolist() == ["whole", "first layer"]
    assert cuts["horizon"].tolist() == [15, 7]
    cut = cuts.loc["first layer"]
    assert (cut["horizon_difference"], cut["horizon_low"], cut["horizon_high"]) == (-8, -10, -6)
    # One run won three tokens of 2.75 nats, the other none.
    assert cut["bits"] == pytest.approx(1.5 * 2.75 / math.log(2))
    assert cut["bits_difference"] == pytest.approx(-1.5 * 2.75 / math.log(2))
    assert cut["bits_capped"] == cut["bits"]
    assert math.isnan(cuts.loc["whole", "horizon_difference"])
    table = model_size.copies_table(cuts.reset_index())
    assert table["against the whole, tokens"].tolist() == ["", "-8.0 (-10.0 to -6.0)"]
    assert table.index.tolist() == ["whole (3.0 million)", "first layer (2.0 million)"]
    assert isinstance(model_size.copies_figure(rows.gains(some)), Figure)


def test_bits_of_a_model_worse_than_guessing_are_capped():
    # Three scored tokens fall from 10 nats to 1; a uniform guess among 257 would have cost 3 log 257.
    worse = row(OURS, token_nats_without=[9.0, 10.0, 10.0, 10.0], token_nats_with=[9.0, 1.0, 1.0, 1.0])
    runs = rows.gains(frame(worse, row(OURS, "novels/b"), nothing("novels/c")))
    assert runs["bits"].tolist() == pytest.approx([27 / math.log(2), 8.25 / math.log(2), 0])
    assert runs["bits_capped"].tolist() == pytest.approx([3 * math.log2(257) - 3 / math.log(2), 8.25 / math.log(2), 0])


def test_without_the_whole_model_there_is_nothing_to_compare_with():
    with pytest.raises(CrammingError, match="m@first-1"):
        model_size.copies(frame(row(OURS, model="m@first-1")), ABOUT)


def test_changes_are_said_in_words():
    said = ["whole", "first layer", "first 20 layers", "random embeddings"]
    assert [
        model_size.change_in_words(f"m{end}") for end in ("", "@first-1", "@first-20", "@random-embeddings")
    ] == said


# Several vectors


def k_run(k: int, passage: str, length: int, how=OURS, **changes) -> dict:
    """A run with k vectors: exact are 8 tokens after 4 steps and all of them at the end, after 10."""
    trace = {"trace_step": [2, 4, 8], "trace_length": [8, 16, 16], "trace_token_passes": [20, 40, 80]}
    return row(how, passage, n_vectors=k, length=length, offered=24, ended="budget") | trace | changes


def test_only_passages_that_every_number_of_vectors_has():
    other = recipe("horizon", lr=0.1)
    some = frame(
        k_run(2, "novels/a", 20),
        k_run(2, "novels/b", 12),
        k_run(1, "novels/a", 10),
        k_run(1, "novels/c", 10),
        k_run(1, "novels/b", 10, other),
        row(PAPER, "novels/b"),
    )
    runs = several_vectors.same_passages(some)
    assert runs[["n_vectors", "passage", "length"]].to_numpy().tolist() == [[1, "novels/a", 10], [2, "novels/a", 20]]
    with pytest.raises(CrammingError, match="2 mem vectors but none with 1"):
        several_vectors.same_passages(some.head(2))
    with pytest.raises(CrammingError, match="no passage was run with every number"):
        several_vectors.same_passages(frame(k_run(2, "novels/a", 20), k_run(1, "novels/b", 10)))


RUNS = [("novels/a", 10, 15), ("novels/b", 20, 22), ("novels/c", 0, 8)]


def both(**changes) -> pd.DataFrame:
    return several_vectors.same_passages(
        frame(*[k_run(k, name, n, **changes) for name, *lengths in RUNS for k, n in zip((1, 2), lengths, strict=True)])
    )


def test_vectors_are_set_against_as_many_single_ones():
    vectors = several_vectors.summary(both())
    ours = vectors[vectors["here"]].set_index("n_vectors")
    assert ours["capacity"].tolist() == [10, 15]
    assert ours["capacity_share"].tolist() == [1, 0.75]
    # Passage by passage 1.5 and 1.1; where one vector held nothing there is no ratio.
    assert ours.loc[2, ["ratio", "ratio_low", "ratio_high"]].tolist() == pytest.approx([1.3, 1.1, 1.5])
    said = vectors[vectors["model"] == "EleutherAI/pythia-160m"].set_index("n_vectors")
    assert said.loc[2, "capacity_share"] == pytest.approx(192 / 160)
    assert said.loc[16, "token_gain_share"] == pytest.approx(983.2 / 16 / said.loc[1, "token_gain"])
    assert np.isnan(said.loc[32, "bits_share"])
    table = several_vectors.summary_table(vectors)
    assert table.loc["tiny-llama, k = 2 (here)", "times one vector"] == "1.30 (1.10 to 1.50)"
    assert table.loc["tiny-llama, k = 2 (here)", "capacity of the ideal"] == "75%"
    assert table.loc["pythia-160m, k = 32 (published)", "information gain, bits"] == ""
    assert isinstance(several_vectors.summary_figure(vectors), Figure)


def test_where_one_vector_holds_nothing_there_is_no_ideal():
    runs = both().assign(length=0, token_gain=0, bits=0.0)
    vectors = several_vectors.summary(runs)
    ours = vectors[vectors["here"]]
    assert ours[["capacity_share", "token_gain_share", "bits_share", "ratio"]].isna().all(axis=None)
    assert several_vectors.summary_table(vectors).iloc[-1]["times one vector"] == ""
    assert isinstance(several_vectors.summary_figure(vectors), Figure)


def test_what_was_won_late_and_after_equally_many_steps():
    runs = both(steps=10, token_passes=100).assign(cpu_seconds=1.0)
    runs.loc[runs["n_vectors"] == 2, "steps"] = 8
    ends = several_vectors.ends(runs)
    # After 8 steps two vectors have all they will, one vector the 8 tokens that it had exact by then.
    assert ends["common_steps"].tolist() == [8, 8]
    assert ends["at_steps"].tolist() == [8, 15]
    assert ends.loc[2, ["at_steps_more", "at_steps_low", "at_steps_high"]].tolist() == pytest.approx([7, 0, 14])
    assert ends.loc[2, "horizon_more"] == pytest.approx((5 + 2 + 8) / 3)
    assert math.isnan(ends.loc[1, "horizon_more"])
    # After 75 of 100 token passes all had 8 tokens; the curve does not fall, so a run that ends with fewer won none.
    assert ends["late"].tolist() == pytest.approx([(2 + 12 + 0) / 3, (7 + 14 + 0) / 3])
    table = several_vectors.ends_table(ends)
    assert table["exact tokens after 8 steps"].tolist()[0] == "8.0 ± 0.0"
    assert table["against one vector"].tolist() == ["", "+5.0 (+2.0 to +8.0)"]
    assert isinstance(several_vectors.curves_figure(runs), Figure)


def test_a_curve_against_steps():
    steps, exact = traces.exact_curve(frame(k_run(1, "novels/a", 11, steps=10)), "steps")
    assert steps.tolist() == [0, 2, 4, 8, 10]
    assert exact.tolist() == [0, 0, 8, 8, 11]
    some = frame(row(PAPER, length=8, steps=3), row(PAPER, length=16, steps=4, exact=False))
    steps, exact = traces.exact_curve(some, "steps")
    assert (steps.tolist(), exact.tolist()) == ([0, 3, 7], [0, 8, 8])

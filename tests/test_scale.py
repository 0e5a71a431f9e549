"""Scale on paper: arithmetic by hand, what grows with what, and the memory formula against what autograd keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cramming.errors import CrammingError
from cramming.models import load, parameter_count
from cramming.paths import PAPER
from cramming.results import estimate, plans
from cramming.studies import scale
from tests.conftest import model

SHAPES = scale.shapes()
DEVICES = scale.devices()
SMALL = scale.Shape(layers=2, width=8, heads=4, kv_heads=2, head_size=2, ffn=16, gated=True, one_norm=False,
                    fused_qkv=False, wide_norm=True, vocab=100, tied=True)  # fmt: skip
A100 = DEVICES.loc["A100 80 GB"]


# The memory formula


def test_small_shape_by_hand():
    # Queries and output 8 x 8 each, keys and values 8 x 4 each, three of 8 x 16, and a table of 100 x 8 once.
    assert SMALL.weights == 2 * (64 + 64 + 32 + 32 + 3 * 128) + 800
    assert replace(SMALL, tied=False).weights == SMALL.weights + 800
    # A layer: norms 2 x 8 x 4 bytes; queries and result 2 x 8, keys and values 2 x 4, three of 16, in 2 bytes; 4 x 4.
    layer, ends = 64 + 2 * (16 + 8 + 48) + 16, 8 * 4 + 8 * 2
    assert scale.kept(SMALL) == 2 * layer + ends
    assert scale.kept(SMALL, checkpoint=True) == 2 * 8 * 2 + layer + ends
    assert scale.kept(SMALL, ways=2) == 2 * (64 + 72 + 8) + ends
    parts = scale.memory(SMALL, passages=3, length=10, head_rows=7)
    assert parts["weights"] == 2 * SMALL.weights
    assert parts["activations"] == 30 * scale.kept(SMALL)
    assert parts["logits"] == 7 * 100 * 6
    assert parts["optimiser"] == 4 * 4 * 3 * 8
    assert parts["keys_values"] == 30 * 2 * 2 * 2 * 2 * 2
    assert scale.at_once(parts) == sum(parts.values()) - parts["keys_values"]
    assert scale.memory(SMALL, passages=3, length=10, head_rows=None)["logits"] == 30 * 100 * 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt_neox", "tiny-opt", "tiny-olmo"])
def test_formula_is_what_autograd_keeps(name, dtype):
    lm = model(name) if dtype == "float32" else load(name, device="cpu", dtype=dtype)
    found = scale.measured_kept(lm, passages=3, length=32)
    assert scale.kept(scale.shape_of(lm), dtype) * 3 * 32 == pytest.approx(found, rel=0.03)


def test_shape_of_an_unknown_architecture_is_refused():
    with pytest.raises(CrammingError, match="shape of a mamba is not known here: use a llama"):
        scale.shape_of(model("tiny-mamba"))


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "Llama-3.1-70B"])
def test_shapes_have_the_parameters_that_the_paper_says(name):
    # Names round downwards by up to a quarter: Llama-3.2-1B has 1.24e9.
    assert 0.9 < SHAPES[name].weights / parameter_count(name) < 1.3


def test_shapes_agree_with_the_table_of_models():
    published = pd.read_csv(PAPER / "models.csv").set_index("name")
    for name, shape in SHAPES.items():
        if name in published.index:
            assert (shape.width, shape.vocab) == tuple(published.loc[name, ["hidden_size", "vocab_size"]])
    assert set(published.index) - set(SHAPES) == {f"Mamba-{size}" for size in ("130M", "370M", "790M", "1.4B")}
    assert SHAPES["Llama-3.1-70B"].weights == pytest.approx(70.55e9, rel=1e-3)


@given(
    passages=st.integers(1, 64),
    length=st.integers(1, 4096),
    more=st.integers(1, 64),
    name=st.sampled_from(sorted(SHAPES)),
    checkpoint=st.booleans(),
)
def test_memory_grows_with_work_and_shrinks_with_devices(passages, length, more, name, checkpoint):
    shape = SHAPES[name]

    def total(**how):
        return scale.at_once(scale.memory(shape, **{"passages": passages, "length": length} | how))

    assert total(passages=passages + more) > total()
    assert total(length=length + more) > total()
    assert total(dtype="float32") > total(dtype="bfloat16")
    assert total(head_rows=None) >= total(head_rows=256)
    assert total(checkpoint=True) < total(checkpoint=False)
    assert (
        total(ways=2, checkpoint=checkpoint) < total(checkpoint=checkpoint) <= 2 * total(ways=2, checkpoint=checkpoint)
    )


@given(gb=st.floats(1, 2000), more=st.floats(0, 2000), passages=st.integers(1, 32))
def test_ways_needed_is_the_least_that_fits(gb, more, passages):
    shape, how = SHAPES["Llama-3.1-70B"], {"passages": passages, "length": 512, "checkpoint": True}
    ways = scale.ways_needed(gb, shape, **how)
    if ways is None:
        assert scale.at_once(scale.memory(shape, ways=8, **how)) > 0.9 * gb * scale.GB
        return
    assert scale.at_once(scale.memory(shape, ways=ways, **how)) <= 0.9 * gb * scale.GB
    assert ways == 1 or scale.at_once(scale.memory(shape, ways=ways // 2, **how)) > 0.9 * gb * scale.GB
    assert scale.ways_needed(gb + more, shape, **how) <= ways


@pytest.mark.parametrize(
    ("how", "said"), [({"dtype": "int3"}, "dtype 'int3' has no size"), ({"ways": 0}, "ways is 0")]
)
def test_memory_refuses_what_it_does_not_know(how, said):
    with pytest.raises(CrammingError, match=said):
        scale.kept(SMALL, **how)


# Time and money


def test_hours_by_hand():
    # 312e12 operations a second at a quarter: 78e12 x 3600 in an hour.
    assert scale.hours(2 * 78e12 * 3600, 312e12, 0.25) == pytest.approx(2)
    bill = scale.bill(312e12 * 3600, DEVICES, (0.25, 0.5), ratio=4).set_index("device").loc["A100 80 GB"]
    assert (bill["hours_low"], bill["hours_high"]) == pytest.approx((2, 4))
    assert bill["dollars_high"] == pytest.approx(4 * A100["dollars_per_hour"])
    assert (bill["ours_hours_low"], bill["ours_dollars_high"]) == pytest.approx((0.5, A100["dollars_per_hour"]))


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_utilisation_is_a_share(share):
    with pytest.raises(CrammingError, match="utilisation is"):
        scale.hours(1, 1, share)


@given(n=st.integers(1, 10_000), passes=st.floats(1, 1e9))
def test_passages_bill_scales(n, passes):
    one, many = (
        scale.passages_bill([count], {"x": passes}, SHAPES["Llama-3.1-8B"], A100, (0.2, 0.5)).iloc[0]
        for count in (1, n)
    )
    for column in ("hours_low", "hours_high", "dollars_low", "dollars_high", "days_1", "files"):
        assert many[column] == pytest.approx(n * one[column])
    assert many["days_1"] * 24 == pytest.approx(many["hours_high"])
    assert many["days_64"] <= many["days_8"] <= many["days_1"]
    # A run does not divide.
    assert many["days_64"] >= one["days_1"] * (1 - 1e-9)
    assert many["days_8"] == pytest.approx(one["days_1"] * math.ceil(n / 8))


def test_prices_can_be_changed():
    assert scale.devices({"RTX 4090": 0.25}).loc["RTX 4090", "dollars_per_hour"] == 0.25
    assert DEVICES["source"].str.contains("datasheet|whitepaper").all()
    with pytest.raises(CrammingError, match=r"'A1000' is not in devices\.csv: use one of RTX 4090"):
        scale.devices({"A1000": 1})


def test_attention_and_talk_by_hand():
    assert scale.attention_share(SMALL, 100) == pytest.approx(6 * 100 * 2 * 8 / (4 * SMALL.weights))
    device = pd.Series({"bfloat16_ops": 1e12, "link_gbs": 100})
    # Four times two layers, 8 numbers of 2 bytes, once over (2 x 1 / 2), 50e9 bytes a second each way.
    talk = 4 * 2 * 8 * 2 / 50e9
    assert scale.talk_share(SMALL, device, 2, 0.5) == pytest.approx(talk / (4 * SMALL.weights / 2 / 0.5e12))
    assert scale.talk_share(SMALL, device, 1, 0.5) == 0


def test_padding_by_hand():
    assert scale.padding([4, 2, 1], 2) == pytest.approx(1 - 7 / 9)
    assert scale.padding([5, 5], 2) == 0
    assert math.isnan(scale.padding([], 2))


def test_grid_adds_up_to_the_estimate():
    plan = plans.load_plan("paper")
    most = estimate.plan_cost(plan)
    grid = scale.by_model(plan, most, passages=16).set_index("model")
    theirs = most[most["recipe"] == "paper"]
    assert list(grid.index) == list(plan.models)
    assert grid["operations"].sum() == theirs["operations"].sum()
    assert grid.loc["Llama-3.1-8B", "longest"] == 2560
    assert grid.loc["Llama-3.1-8B", "parameters"] == pytest.approx(8e9)
    assert list(grid.index[grid["memory_gb"].isna()]) == [name for name in grid.index if name.startswith("Mamba")]


# The page


def test_grid_table_ends_in_the_sum_and_leaves_out_what_is_not_known():
    plan = plans.load_plan("paper")
    grid = scale.by_model(plan, estimate.plan_cost(plan), passages=16)
    bills = scale.grid_bills(grid, DEVICES.loc[["A100 80 GB"]], (0.25, 0.5), ratio=10)
    assert bills["hours_low"].to_list() == pytest.approx((10 * bills["ours_hours_low"]).to_list())
    assert isinstance(scale.grid_figure(bills), Figure)
    table = scale.grid_table(bills)
    assert table.index[-1] == "all"
    assert table.loc["all", "runs"] == f"{grid['runs'].sum():,}"
    assert table.loc["Mamba-130M", "memory, GB"] == "—"
    whole = scale.bill(grid["operations"].sum(), DEVICES, (0.25, 0.5), ratio=10)
    shown = scale.bill_table(whole)
    assert shown.loc["A100 80 GB", "hours, paper's recipe"] == table.loc["all", "hours"]


@pytest.mark.parametrize(
    ("value", "said"), [(0.01234, "0.012"), (12.6, "13"), (123_456, "120,000"), (math.nan, "—"), (math.inf, "—")]
)
def test_amounts_have_two_figures(value, said):
    assert estimate.spend(value, value) == f"{said} to {said}"


def test_what_gives_way_follows_days_and_files():
    bill = scale.passages_bill((1, 1_000, 100_000), {"x": 1e7}, SHAPES["Llama-3.1-8B"], A100, (0.2, 0.5))
    few, some, most = scale.passages_table(bill)["what gives way"]
    assert few == "nothing"
    assert some == "one device: --part i/64 on 64"  # 1,200 hours: 59 days on one, 7.4 on eight
    assert most.startswith("64 devices are not enough")
    assert "files in one folder" in most


def test_memory_is_shown_part_by_part():
    shape = SHAPES["Llama-3.1-70B"]
    steps = scale.memory_steps(shape, passages=16, length=1568)
    assert list(steps["total"]) == sorted(steps["total"], reverse=True)
    assert steps["total"].to_list() == pytest.approx(
        (steps["weights"] + steps["activations"] + steps["logits"] + steps["optimiser"]).to_list()
    )
    table = scale.memory_table(steps, {"A100 80 GB": [None, None, 8, 4]})
    assert table["A100 80 GB"].to_list() == ["more than 8", "more than 8", 8, 4]
    assert isinstance(scale.memory_steps_figure({"a": steps}, {"A100": 80.0}), Figure)


# The store


def test_store_speed_says_what_was_written():
    found = scale.store_speed(runs=5, length=40, width=16)
    assert found["runs"] == 5
    assert min(found.values()) > 0
    longer = scale.store_speed(runs=5, length=4000, width=16)
    assert longer["gb"] > 5 * found["gb"]
    assert longer["merge_gb"] > 5 * found["merge_gb"]


# Machines that were measured


def test_what_a_machine_made_of_the_stored_runs(tmp_path):
    about = {"device": "gpu", "dtype": "float32", "driver": "1", "model": "m"}
    certified = {"exact_here": [True, False], "margin": [0.1, 0.2], "margin_here": [0.1, -0.1]}
    steps = {"passages": [1, 1, 4], "tokens": [8, 8, 8], "token_passes_per_second": [1, 3, 90], "share": [0, 0, 0.4]}
    crams = {"horizon": [3, 9], "stored_horizon": [5, math.nan], "budget": [7, 7]}
    for name, columns in {"certify": certified, "step": steps, "cram": crams}.items():
        pd.DataFrame(columns).assign(**about).to_parquet(tmp_path / f"{name}-float32.parquet")
    frame = scale.machines(tmp_path)
    [row] = frame.to_dict("records")
    assert (row["certified"], row["still"], row["moved_most"]) == (2, 1, pytest.approx(0.3))
    assert (row["rate"], row["share"], row["passages"], row["tokens"]) == (90, 0.4, 4, 8)
    assert (row["pairs"], row["horizon"], row["stored"], row["budget"]) == (1, 3, 5, 7)
    table = scale.machines_table(frame, (0.2, 0.5))
    assert table.loc["exact runs that stay exact", "gpu, float32"] == "1 of 2"
    assert table.loc["peak memory over the formula", "gpu, float32"] == "not measured"
    assert table["GPU, assumed above"].value_counts().to_dict() == {"not measured": len(table) - 1, "20% to 50%": 1}


def test_no_machine_was_measured(tmp_path):
    table = scale.machines_table(scale.machines(tmp_path), (0.2, 0.5))
    assert table.columns.tolist() == ["GPU, assumed above"]

"""What growth by one token costs, where it stops and how its way is measured, on runs made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from cramming.errors import CrammingError
from cramming.recipes import Growth, recipe
from cramming.results.store import Store
from cramming.results.sweep import results
from cramming.sphere import onto_sphere, principal
from cramming.studies import growth
from tests.test_tables import frame, row

SINGLE = recipe("horizon", growth=Growth(start=1, block=1), max_token_passes=60)


def run(**changes) -> dict:
    """Tokens 0 to 4, of which 0 took two steps, 1 one, 2 three, and 3 two in vain; token 4 was never tried."""
    return row(
        SINGLE,
        **{
            "length": 3,
            "steps": 8,
            "token_ids": [10, 20, 30, 40, 50],
            "trace_step": list(range(1, 9)),
            "trace_length": [1, 1, 2, 3, 3, 3, 4, 4],
            "trace_accuracy": [0, 1, 1, 2 / 3, 1 / 3, 1, 3 / 4, 1 / 4],
        }
        | changes,
    )


def test_steps_are_those_a_token_was_the_last_one(tiny_llama):
    tokens = growth.costs(tiny_llama, frame(run()))
    assert tokens["token"].tolist() == [10, 20, 30, 40]
    assert tokens["steps"].tolist() == [2, 1, 3, 2]
    assert tokens["share"].sum() == pytest.approx(1)
    assert tokens["got"].tolist() == [True, True, True, False]
    assert tokens["mistakes"].tolist() == pytest.approx([0.5, 0, 1, 2])
    assert tokens["lost"].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    ids = torch.tensor([[10, 20, 30, 40]])
    with torch.no_grad():
        logits = tiny_llama.model(input_ids=ids).logits[0]
    assert np.isnan(tokens["nats"][0])
    assert tokens["nats"][1:].mean() == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])), rel=1e-4
    )
    assert tokens["rank"][2] == 1 + int((logits[1] > logits[1, 30]).sum())


def test_a_thinned_trace_still_adds_up(tiny_llama):
    """Every second step was kept: token 1 was there for less than the steps between."""
    thin = run(trace_step=[1, 3, 5, 7, 8], trace_length=[1, 2, 3, 4, 4], trace_accuracy=[0, 1, 1, 0, 0])
    tokens = growth.costs(tiny_llama, frame(thin))
    assert tokens["steps"].tolist() == [2, 2, 2, 2]
    skipped = run(trace_step=[1, 4, 8], trace_length=[1, 3, 4], trace_accuracy=[0, 1, 0])
    assert growth.costs(tiny_llama, frame(skipped))["steps"].tolist() == [3, 0, 4, 1]


def test_runs_that_grew_in_blocks_are_refused(tiny_llama):
    with pytest.raises(CrammingError, match="novels/a did not grow token by token"):
        growth.costs(tiny_llama, frame(row(recipe("horizon"), token_ids=[1, 2, 3, 4])))


def tokens_of(steps: list[int], nats: list[float], passage: str = "novels/a") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "recipe": "horizon",
            "source": "novels",
            "passage": passage,
            "position": range(len(steps)),
            "nats": nats,
            "steps": steps,
            "got": [True] * (len(steps) - 1) + [False],
        }
    )


def test_correlation_leaves_the_first_and_the_last_token_out():
    some = growth.correlations(tokens_of([9, 1, 2, 5, 3, 900], [0.0, 1, 2, 4, 3, 0]))
    assert some["n"].tolist() == [4]
    assert some["rho"].tolist() == pytest.approx([1.0])


def test_what_goes_by_the_position_alone_is_gone_when_it_is_taken_out():
    rising = tokens_of([1, 1, 2, 3, 4, 5, 6], [0.0, 1, 2, 3, 4, 5, 0])
    [both] = growth.correlations(rising).itertuples()
    assert both.rho == pytest.approx(1)
    assert np.isnan(both.rho_within)
    # By hand: ranks of steps 2 1 4 3 and of nats 1 2 3 4 with places 1 2 3 4 leave nothing of the nats.
    [other] = growth.correlations(tokens_of([0, 2, 1, 4, 3, 0], [0.0, 2, 1, 4, 3, 0])).itertuples()
    assert other.rho == pytest.approx(1)
    assert other.rho_within == pytest.approx(1)


def test_a_mean_of_nothing_is_not_a_number():
    assert growth.mean_interval(pd.Series([np.nan]))["n"] == 0
    known = growth.mean_interval(pd.Series([1.0, np.nan, 3.0]))
    assert (known["n"], known["mean"]) == (2, 2)
    assert known["low"] <= 2 <= known["high"]


def test_where_it_stops(tiny_llama):
    [some], vector = (
        [frame(run(ended="budget"))],
        torch.randn(1, tiny_llama.width, generator=torch.Generator().manual_seed(0)),
    )
    tokens = growth.costs(tiny_llama, some)
    [stop] = growth.stops(tiny_llama, some, tokens, {some["key"][0]: vector}).itertuples()
    embeds = torch.cat([vector, tiny_llama.model.get_input_embeddings()(torch.tensor([10, 20, 30]))])[None]
    with torch.no_grad():
        logits = tiny_llama.model(inputs_embeds=embeds).logits[0, -1]
    others = torch.cat([logits[:40], logits[41:]])
    assert stop.gap == pytest.approx(float(logits[40] - others.max()), rel=1e-4)
    assert stop.rank_with == 1 + int((logits > logits[40]).sum())
    assert (stop.gap > 0) == (stop.rank_with == 1)
    assert (stop.length, stop.steps, stop.hardest, stop.lost) == (3, 2, 3, 0.5)
    stops = growth.stops(tiny_llama, some, tokens, {some["key"][0]: vector})
    assert growth.stops_table(stops)["exact tokens"].tolist() == [3]
    [end] = growth.ends_table(stops).to_dict("records")
    assert (end["steps in vain"], end["steps of the dearest got"], end["ended"]) == ("2", "3", "1 by budget")


def test_a_text_that_was_got_to_its_end_has_no_stop(tiny_llama):
    whole = frame(run(length=4))
    tokens = growth.costs(tiny_llama, whole)
    assert growth.stops(tiny_llama, whole, tokens, {whole["key"][0]: torch.zeros(1, tiny_llama.width)}).empty


def circle(*degrees: float) -> torch.Tensor:
    """Points on a circle in four dimensions, one mem vector each, shape (n, 1, 4)."""
    turn = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([turn.cos(), turn.sin(), 0 * turn, 0 * turn], dim=1)[:, None] * 7


def test_way_of_a_vector():
    some = frame(row(SINGLE))
    ways = growth.trajectories({some["key"][0]: circle(0, 10, 20, 15)}, some).set_index("what")
    there = ways.loc["growth"]
    assert (there["gone"], there["net"], there["step"]) == pytest.approx((25, 15, 25 / 3))
    # One move on and one back.
    assert there["cosine"] == pytest.approx(0, abs=0.02)
    assert there["two"] == pytest.approx(1)
    walk = ways.loc["random walk"]
    assert walk["gone"] == pytest.approx(25)
    assert len(growth.trajectories({}, some)) == 0


def test_random_walk_keeps_start_and_angles_and_nothing_else():
    path = onto_sphere(circle(0, 40, 50, 70)[:, 0])
    walk = growth.walk_like(path)
    assert torch.equal(walk[0], path[0])
    unit = torch.nn.functional.normalize(walk, dim=1)
    assert torch.rad2deg(torch.acos((unit[1:] * unit[:-1]).sum(1))).tolist() == pytest.approx([40, 10, 20])
    assert not torch.allclose(walk[1:], path[1:])
    assert torch.equal(walk, growth.walk_like(path))


def test_page_from_the_smoke_plan(smoke_store, tiny_llama):
    store = Store(smoke_store)
    some = results("smoke", "growth", store=store, progress=False)
    tokens = growth.costs(tiny_llama, some)
    ours, paths = some[some["recipe"] == "horizon"], store.paths()
    assert {len(paths[row.key]) >= row.length for row in ours.itertuples()} == {True}
    for run in ours[ours["length"] > 0].itertuples():
        # The vector kept at the end is the last one on the way.
        assert torch.equal(paths[run.key][-1], store.vectors()[run.key])
    assert tokens.groupby(["recipe", "passage"])["steps"].sum().sort_values().tolist() == sorted(some["steps"])
    table = growth.correlations_table({"surprisal": growth.correlations(tokens)})
    assert {name.split(" (n = ")[0] for name, _ in table.index} == {"horizon", "progressive"}
    assert isinstance(growth.costs_figure(tokens[tokens["recipe"] == "horizon"]), Figure)
    path = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    ways = growth.trajectories({ours["key"].iloc[0]: path[:, None]}, ours)
    assert growth.trajectories_table(ways).columns.tolist() == ["growth", "random walk", "growth less walk"]
    assert isinstance(growth.trajectories_figure(ways, principal(path)[0], principal(path)[0]), Figure)

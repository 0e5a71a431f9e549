"""The many solutions of one text: cosines, components and ways between them whose answers can be worked out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cramming import sphere
from cramming.decode import certify
from cramming.engine import cram
from cramming.errors import CrammingError
from cramming.recipes import recipe
from cramming.sphere import onto_sphere, random_directions
from cramming.studies import solutions
from cramming.texts import from_text
from tests.conftest import model, solve

# Two vectors of each text: those of "a" at a right angle, those of "b" opposite, "a" and "b" in different planes.
CROSS = torch.tensor([[1.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 1.0, 0], [0, 0, -2.0, 0]])
TEXTS = ["a", "a", "b", "b"]


def test_cosines_of_every_pair_whatever_the_lengths():
    pairs = solutions.similarity(CROSS, TEXTS)
    assert len(pairs) == 6
    assert pairs.loc[pairs["same"], "cosine"].tolist() == [0, -1]
    assert (pairs.loc[~pairs["same"], "cosine"] == 0).all()
    with pytest.raises(CrammingError, match="4 vectors and 1 texts"):
        solutions.similarity(CROSS, ["a"])


def test_cosines_text_by_text():
    vectors = torch.cat([CROSS, torch.tensor([[1.0, 1.0, 0, 0]])])
    by_text = solutions.similarity_by_text(solutions.similarity(vectors, [*TEXTS, "c"]))
    assert list(by_text.index) == ["a", "b"]  # c has no other vector to be like
    assert by_text["within"].tolist() == [0, -1]
    # Of the six pairs of an "a" and another text, the two with "c" have the cosine of 45 degrees.
    assert by_text["between"].tolist() == pytest.approx([2 * 0.5**0.5 / 6, 0])
    assert by_text["more"].tolist() == pytest.approx([-(2 * 0.5**0.5) / 6, -1])


def test_texts_dealt_at_random_are_seldom_as_alike_as_clusters():
    middles = torch.eye(8)[:2].repeat_interleave(5, 0)
    noise = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    clusters = solutions.similarity(middles + 0.1 * noise, ["a"] * 5 + ["b"] * 5)
    # Of 10! deals, two halves in two orders are as good as the real one: 2 of 252.
    assert solutions.similarity_by_chance(clusters, draws=2000) == pytest.approx(2 / 252, abs=0.006)
    assert solutions.similarity_by_chance(solutions.similarity(CROSS, TEXTS), draws=200) == 1


def test_components_of_a_line_and_of_axes():
    # On the circle, the two ends of an axis: one component holds all.
    places, shares = sphere.principal(torch.tensor([[2.0, 0], [-1.0, 0]]))
    assert shares == pytest.approx([1, 0])
    assert abs(places[:, 0]) == pytest.approx([2**0.5] * 2)
    _, shares = sphere.principal(torch.cat([torch.eye(3), -torch.eye(3)]))
    assert shares == pytest.approx([1 / 3] * 3)
    assert [sphere.needed(shares, part) for part in (0.3, 1 / 3, 0.5, 0.9, 1)] == [1, 1, 2, 3, 3]


def test_variance_between_texts():
    assert solutions.variance_between(torch.eye(2).repeat_interleave(3, 0), ["a"] * 3 + ["b"] * 3) == (1, 1 / 5)
    share, by_chance = solutions.variance_between(torch.eye(2).repeat(3, 1), ["a", "a", "b", "b", "c", "c"])
    assert (share, by_chance) == (0, 2 / 5)


def test_a_token_is_nearest_to_itself(tiny):
    passage = from_text("xylo", tiny.tokenizer, id="x")
    table = tiny.model.get_input_embeddings().weight
    inside, outside = passage.token_ids[2], next(i for i in range(40, 99) if i not in passage.token_ids)
    frame = solutions.nearest_tokens(tiny, table[[inside, outside]] * 5, [passage, passage])
    assert frame["token"].tolist() == [inside, outside]
    assert frame["cosine"].tolist() == pytest.approx([1, 1], rel=1e-5)
    assert frame["inside"].tolist() == [True, False]
    assert not frame["first"].any()
    [first] = solutions.nearest_tokens(tiny, table[[passage.token_ids[0]]], [passage])["first"]
    assert first
    assert frame["rank"].iloc[0] == 1
    assert frame["rank"].iloc[1] > 1
    unit = torch.nn.functional.normalize(table, dim=1)
    own = (unit[inside] @ unit[sorted(set(passage.token_ids))].T).mean().item()
    assert frame["own"].iloc[0] == pytest.approx(own, rel=1e-4)


def test_a_vector_that_never_moved_is_its_start(tiny_llama):
    passage = from_text("xylo", tiny_llama.tokenizer, id="x")
    how = recipe("best", max_steps=1, lr=1e-12, lr_min=1e-12)
    runs = [cram(tiny_llama, [passage], how, seed=seed, progress=False)[0] for seed in (0, 1)]
    rows = pd.DataFrame({"recipe_json": how.model_dump_json(), "seed": [0, 1]})
    ends = torch.cat([run.mem for run in runs])
    assert solutions.from_start(tiny_llama, rows, ends, [passage] * 2) == pytest.approx([1, 1], abs=1e-5)
    assert (solutions.from_start(tiny_llama, rows, ends.flip(0), [passage] * 2) < 0.6).all()


def runs(*exact: tuple[str, bool]) -> pd.DataFrame:
    return pd.DataFrame(
        [{"source": "novels", "passage": name, "seed": -i, "exact": yes} for i, (name, yes) in enumerate(exact)]
    )


def test_only_exact_runs_enter_unless_too_few_are():
    good = solutions.solutions(runs(("b", True), ("b", True), ("a", True), ("a", False), ("a", True)))
    assert good["passage"].tolist() == ["a", "a", "b", "b"]
    assert good["exact"].all()
    assert good["seed"].tolist() == [-4, -2, -1, 0]
    few = solutions.solutions(runs(("b", True), ("b", False), ("a", True), ("a", True)))
    assert len(few) == 4
    with pytest.raises(CrammingError, match="3 runs of 2 passages cannot be compared"):
        solutions.solutions(runs(("b", True), ("a", True), ("a", True)))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.integers(1, 4))
def test_pairs_of_one_text_share_no_vector(texts, most):
    pairs = solutions.pairs_within(texts, most)
    used = [vector for pair in pairs for vector in pair]
    assert len(used) == len(set(used))
    assert all(texts[first] == texts[second] for first, second in pairs)
    for text in set(texts):
        assert sum(texts[first] == text for first, _ in pairs) == min(most, texts.count(text) // 2)


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=12).filter(lambda texts: len(set(texts)) > 1))
def test_pairs_of_two_texts_start_once_at_each(texts):
    pairs = solutions.pairs_between(texts)
    assert sorted(texts[first] for first, _ in pairs) == sorted(set(texts))
    assert all(texts[first] != texts[second] for first, second in pairs)


def test_a_straight_way_is_evenly_spaced_by_angle():
    controls = onto_sphere(torch.tensor([[1.0, 0], [0, 1.0]]))[None]
    points, t, degrees = solutions.ways(controls, 4)
    assert degrees == pytest.approx([90])
    assert torch.rad2deg(torch.atan2(points[0, :, 1], points[0, :, 0])).tolist() == pytest.approx(
        [0, 30, 60, 90], abs=1e-3
    )
    assert t[0, [0, 3]] == pytest.approx([0, 1])
    # It cuts through the circle: in the middle it is nearer to the centre by the cosine of 45 degrees.
    half, _, _ = solutions.ways(controls, 3)
    assert half[0].norm(dim=1).tolist() == pytest.approx([2**0.5, 1, 2**0.5])
    with pytest.raises(CrammingError, match="1 points do not make a way"):
        solutions.ways(controls, 1)


def test_a_far_control_point_is_not_passed_over():
    # The curve runs almost to the control point and back: 90 degrees there and 90 to the other end.
    controls = torch.tensor([[[1.0, 0, 0], [0, 30.0, 0], [0, 0, 1.0]]])
    points, _, degrees = solutions.ways(controls, 9)
    assert degrees == pytest.approx([180], rel=0.1)
    unit = points[0] / points[0].norm(dim=1, keepdim=True)
    turns = torch.rad2deg(torch.acos((unit[1:] * unit[:-1]).sum(1).clamp(max=1)))
    assert turns.max() < 24  # 180 over 8 is 22.5


def test_a_control_point_in_the_middle_leaves_the_way_straight():
    ends = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0))
    bent = torch.stack([ends[:, 0], ends.mean(1), ends[:, 1]], 1)
    for straight, curved in zip(solutions.ways(ends, 5), solutions.ways(bent, 5), strict=True):
        np.testing.assert_allclose(straight, curved, atol=1e-4)


@pytest.fixture
def pair(tiny):
    """A solution of a passage, and a random direction: on the sphere of root mean square 1."""
    run = solve(tiny.name)
    ends = torch.cat([onto_sphere(run.mem), random_directions(tiny, 1, seed=5)])[None]
    return tiny, run.passage, ends


def test_a_way_begins_at_the_solution(pair):
    lm, passage, ends = pair
    frame = solutions.walk(lm, [passage], ends, 1000, count=5)
    assert frame["share"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert frame["right"].iloc[0] == 1
    other = certify(lm, ends[0, 1:] * 1000, passage.token_ids)
    assert frame["right"].iloc[-1] == pytest.approx(other.correct.mean())
    assert frame["nats"].iloc[-1] == pytest.approx(other.nats.mean(), rel=1e-3)
    # Off the sphere the ends are the same.
    through = solutions.walk(lm, [passage], ends, 1000, count=5, on_sphere=False)
    assert through["nats"].iloc[[0, -1]].tolist() == pytest.approx(frame["nats"].iloc[[0, -1]].tolist(), rel=1e-4)


def test_bending_lowers_the_loss_and_keeps_the_ends():
    lm = model("tiny-llama")
    passages = [from_text(text, lm.tokenizer, id=text) for text in ("xylo", "lamp")]
    ends = random_directions(lm, 4).view(2, 2, -1)
    controls = solutions.bend(lm, passages, ends, 1000, steps=30)
    torch.testing.assert_close(controls[:, [0, 2]], ends)
    assert not controls.requires_grad
    straight, curved = (
        solutions.walk(lm, passages, some, 1000, count=9).query("0.2 < share < 0.8")["nats"].mean()
        for some in (ends, controls)
    )
    assert curved < straight
    torch.testing.assert_close(solutions.bend(lm, passages, ends, 1000, steps=0)[:, 1], ends.mean(1))
    torch.testing.assert_close(controls, solutions.bend(lm, passages, ends, 1000, steps=30))
    with pytest.raises(CrammingError, match=r"lengths \[3, 4\]"):
        solutions.bend(lm, [passages[0], passages[1].prefix(3)], ends, 1000)


WALK = pd.DataFrame(
    {
        "way": [0, 0, 0, 1, 1, 1],
        "passage": ["a", "a", "a", "b", "b", "b"],
        "share": [0, 0.5, 1] * 2,
        "t": [0, 0.5, 1] * 2,
        "degrees": [80.0] * 3 + [100.0] * 3,
        "right": [1, 0.5, 1, 1, 1, 1],
        "nats": [0.1, 3, 0.1, 0.1, 0.2, 0.1],
    }
)


def test_ways_summed_up():
    each = solutions.ways_summary(WALK)
    assert each["middle"].tolist() == [0.5, 1]
    assert each["worst"].tolist() == [0.5, 1]
    assert each["exact"].tolist() == pytest.approx([2 / 3, 1])
    row = solutions.ways_table({"straight": WALK}).loc["straight (n = 2)"]
    assert row["length, degrees"] == "90 ± 14"
    assert row["right, %: worst point"] == "75 ± 35"
    assert row["points with all right"] == "83%"
    assert row["ways right throughout"] == 1
    assert each["passage"].tolist() == ["a", "b"]


def test_tables_and_figures():
    lm = model("tiny-llama")
    vectors = random_directions(lm, 6)
    passages = [from_text(text, lm.tokenizer, id=text) for text in ("xylo", "lamp")] * 3
    names = [passage.id for passage in passages]
    pairs = solutions.similarity(vectors, names)
    table = solutions.similarity_table(pairs, lm.width)
    assert table.index.tolist() == ["of one text (n = 6)", "of two texts (n = 9)", "random directions, expected"]
    assert table.loc["random directions, expected", "cosine"] == "0.000 ± 0.125"  # 1 / sqrt(64)
    nearest = solutions.nearest_table({"random": solutions.nearest_tokens(lm, vectors, passages)})
    assert nearest.index.tolist() == ["random (n = 6)"]
    places, shares = sphere.principal(vectors)
    assert isinstance(solutions.similarity_figure(pairs, solutions.similarity_by_text(pairs), lm.width), Figure)
    assert isinstance(solutions.components_figure(places, shares, shares, names), Figure)
    figure = solutions.ways_figure({"straight": WALK}, 0.25)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [100, 75, 100]

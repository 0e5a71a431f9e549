"""Exercises: what they measure, what their answers say, and that a class runs the lines that the page shows."""

from __future__ import annotations

import ast
import math
from io import StringIO
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cramming.book import execute
from cramming.decode import Certificate, certify
from cramming.sphere import random_directions
from cramming.studies import exercises
from cramming.texts import from_text
from tests.conftest import model, solve

ROOT = Path(__file__).resolve().parents[1]
CELLS = nbformat.read(ROOT / "notebooks" / "exercises.ipynb", as_version=4).cells
# The first says what all exercises need.
BEGIN, *LINES = [i for i, cell in enumerate(CELLS) if "exercise" in cell.metadata.get("tags", [])]


@pytest.fixture(scope="module")
def lm():
    return model("tiny-llama")


@pytest.fixture(scope="module")
def run():
    return solve("tiny-llama")


def certificate(right: list[bool], *, free: int | None = None, margin: float = 1.0) -> Certificate:
    agreed = int(np.cumprod(right).sum())
    return Certificate(
        length=len(right),
        greedy_correct=agreed if free is None else free,
        agreed=agreed,
        margin=margin if all(right) else -margin,
        correct=np.array(right),
        nats=np.zeros(len(right)),
    )


# What is measured


@given(st.floats(0, 180), st.floats(1e-3, 1e3))
def test_an_angle_is_that_of_the_turn_whatever_the_lengths(degrees, length):
    turn = math.radians(degrees)
    one, other = torch.tensor([[1.0, 0, 0]]), length * torch.tensor([[math.cos(turn), math.sin(turn), 0]])
    assert exercises.angle(one, other) == pytest.approx(degrees, abs=0.1)
    assert exercises.angle(one, other) == exercises.angle(other, one)


def test_surprise_is_bits_of_the_model_without_its_first_token(lm):
    passage = from_text("goat stool", lm.tokenizer)
    tokens = torch.tensor([passage.token_ids])
    with torch.no_grad():
        likely = lm.model(tokens).logits.log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])
    assert exercises.surprise(lm, passage) == pytest.approx(-float(likely.sum()) / math.log(2), rel=1e-4)


# What the answers say


def test_an_answer_is_behind_one_fold_with_what_is_told_above_its_table():
    table = pd.DataFrame({"it says": ["<b>goat</b>"]}, ["a & b"]).rename_axis("text")
    text = exercises.Solved("**Two** of 3.", table)._repr_html_()
    assert text.startswith('<details class="fold"><summary>Answer</summary><p><strong>Two</strong> of 3.</p>')
    assert text.endswith("</details>")
    assert "<b>goat" not in text
    assert pd.read_html(StringIO(text))[0].iloc[0].tolist() == ["a & b", "<b>goat</b>"]


def test_two_seeds_are_held_against_chance(lm):
    one = random_directions(lm, 1)
    chance = torch.tensor([-0.1, 0.1, 0.0])
    answer = exercises.show_seeds([True, False], [one, -one], chance)
    assert "1 of 2 are exact, and 180 degrees" in answer.told
    assert answer.table.loc["from two seeds"].tolist() == ["-1.00", "180"]
    assert answer.table.loc["random (n = 3)"].tolist() == ["0.00 ± 0.10", "90 ± 6"]


def test_bits_that_break_a_text_need_not_be_the_fewest(lm, run):
    found = {3: certificate([True] * 4), 2: certificate([True, False, True, True]), 1: certificate([True] * 4)}
    told = exercises.show_bits(lm, run.mem, found).told
    assert "3 and 1 bits a number keep all 4 tokens.** At 2, token 2 is the first to slip." in told
    assert "slip" not in exercises.show_bits(lm, run.mem, {8: certificate([True] * 4)}).told
    assert "None of these bits" in exercises.show_bits(lm, run.mem, {1: certificate([False] * 4)}).told


def test_what_the_model_says_from_a_rounded_vector_is_in_the_table(lm, run):
    found = {8: certify(lm, run.mem, run.passage.token_ids)}
    table = exercises.show_bits(lm, run.mem, found).table
    assert table["it says"].tolist() == ["xylo"]
    assert float(table.loc[8, "turned by, degrees"]) < 1


def test_a_text_is_held_against_another_by_steps_tokens_and_bits(lm, run):
    answer = exercises.show_hard(lm, [run, run])
    bits = f"{exercises.surprise(lm, run.passage):.0f}"
    assert answer.table.iloc[0].tolist()[:3] == [run.steps, 4, bits]
    assert answer.told.count(f"{run.steps} steps for 4 tokens of {bits} bits") == 2


def test_forced_and_free_are_counted_apart(lm, run):
    exact = exercises.show_forced(lm, run, certify(lm, run.mem, run.passage.token_ids))
    assert exact.table["right, of 4 tokens"].tolist() == [4, 4]
    assert "at token" not in exact.told
    answer = exercises.show_forced(lm, run, certificate([True, False, True, True], free=1))
    assert answer.table["before the first slip"].tolist() == [1, 1]
    assert "75% of 4 tokens" in answer.told
    assert "here at token 2" in answer.told


def test_noise_is_told_where_the_margin_makes_the_most_of_it(lm, run):
    noise = 1000 * random_directions(lm, 8)[:, None]
    kept = {0.02: [8, 8], 0.1: [1, 6], 0.4: [0, 1]}
    answer = exercises.show_noise(lm, run.passage, [run.mem, run.mem], noise, kept)
    assert "At 10% noise 1 of 8 directions keep the text" in answer.told
    assert "and 6 of 8 with" in answer.told
    assert answer.table.shape == (3, 3)
    turned = answer.table["turned by, degrees"].astype(float).tolist()
    assert turned == pytest.approx([math.degrees(math.atan(share)) for share in kept], rel=0.1)


# The page


def test_lines_of_an_exercise_are_few_seen_and_followed_by_their_answer():
    assert len(LINES) == 5
    for i in LINES:
        question, lines, answer = CELLS[i - 1], CELLS[i], CELLS[i + 1]
        assert question.cell_type == "markdown"
        assert question.source.startswith("## ")
        assert "?" in question.source
        assert 3 <= len(lines.source.splitlines()) <= 6
        assert "hide-output" in lines.metadata.tags, "a class guesses first"
        assert "hide-input" in answer.metadata.tags
        text = answer.outputs[0]["data"]["text/html"]
        assert text.startswith('<details class="fold"><summary>Answer</summary><p><strong>')
        assert len(text[text.index("<p>") : text.index("</p>")].split()) <= 60


def test_lines_of_an_exercise_run_without_the_book():
    """They hang on the parameters and on the package, and not on what the page keeps for itself."""
    known = {"model", "text", "speech", *dir(__builtins__), *__builtins__}
    for i in (BEGIN, *LINES):
        tree = ast.walk(ast.parse(CELLS[i].source))
        nodes = [node for node in tree if isinstance(node, ast.Name | ast.alias)]
        known |= {node.name for node in nodes if isinstance(node, ast.alias)}
        known |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assert {node.id for node in nodes if isinstance(node, ast.Name)} <= known
        assert "studies" not in CELLS[i].source


def test_only_exercises_show_their_code():
    for name in execute.notebooks(ROOT):
        if name != "notebooks/exercises.ipynb":
            cells = nbformat.read(ROOT / name, as_version=4).cells
            assert not any("exercise" in cell.metadata.get("tags", []) for cell in cells)


def test_stored_answers_bear_out_what_the_page_says_it_shows():
    tables = [pd.read_html(StringIO(CELLS[i + 1].outputs[0]["data"]["text/html"]))[0] for i in LINES]
    seeds, bits, hard, forced, noise = (table.set_index(table.columns[0]) for table in tables)
    assert "exact: [True, True]" in CELLS[LINES[0]].outputs[0]["text"]
    assert 30 < float(seeds.loc["from two seeds", "angle, degrees"]) < 88
    assert bits["margin, logits"].iloc[0] > 0 > bits["margin, logits"].iloc[-1]
    assert hard["steps"].iloc[0] > hard["steps"].iloc[1]
    assert hard["tokens"].iloc[0] < hard["tokens"].iloc[1]
    assert hard["bits"].iloc[0] > hard["bits"].iloc[1]
    right = forced["right, of 100 tokens"]
    assert right["forced"] >= 99 > 50 > right["free"]
    assert (noise.iloc[:, 1] >= noise.iloc[:, 0]).all()
    assert noise.iloc[:, 1].sum() > noise.iloc[:, 0].sum()

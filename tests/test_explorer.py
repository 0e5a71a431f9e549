"""The explorer's numbers, on runs made by hand and on a solved cram, and the fragment of a page that they end in."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from cramming.book import explorer
from cramming.decode import certify, teacher_forced, without_mem
from cramming.recipes import recipe
from cramming.results import traces
from cramming.texts import from_text
from tests.test_growth import run as grown
from tests.test_tables import PAPER, frame, row


def data_of(markup: str) -> dict:
    """What the script reads, by the rule that browsers have: a script ends at the first closing tag."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script', markup, re.S)[1])


@pytest.fixture
def crammed(solved_llama) -> pd.DataFrame:
    """A row of four exact bytes, with another text behind them."""
    ids = list(solved_llama.passage.token_ids)
    return frame(row(recipe("best"), key="k", token_ids=[*ids, 65, 66, 67], kind="cram", length=len(ids)))


def stored(lm, text: str, **changes) -> dict:
    """A row with all that the store has, of a text of single bytes."""
    ids = list(from_text(text, lm.tokenizer, id=text).token_ids)
    blank = {"token_ids": ids, "length": len(ids), "token_correct": [True] * len(ids), "kind": "cram"}
    nats = {"token_nats_with": [np.log(2)] * len(ids), "token_nats_without": [3 * np.log(2)] * len(ids)}
    return row(recipe("best"), **blank | nats | changes)


def test_steps_are_those_after_which_all_so_far_was_right():
    """Tokens took 2, 1 and 3 steps; the fourth never came."""
    some = frame(grown())
    assert traces.steps_to(next(some.itertuples()), some).tolist() == [2, 3, 6]


def test_a_token_won_in_the_last_step_has_that_step():
    some = frame(grown(length=4))
    assert traces.steps_to(next(some.itertuples()), some).tolist() == [2, 3, 6, 8]


def test_tokens_that_a_run_began_with_are_known_together():
    """Eight at once and a block of two ahead: the first six show as right only when the prefix grows past eight."""
    how = recipe("horizon", growth={"start": 8, "block": 2}, max_token_passes=60).model_dump_json()
    some = frame(grown(recipe_json=how, length=8, trace_length=[8, 8, 8, 9, 9, 9, 10, 10]))
    assert traces.steps_to(next(some.itertuples()), some).tolist() == [3] * 7 + [6]


def test_a_cram_of_a_fixed_length_says_nothing_of_single_tokens(crammed):
    assert traces.steps_to(next(crammed.itertuples()), crammed).tolist() == []


def test_pieces_make_up_the_text_where_a_character_takes_several_tokens(tiny_llama):
    text = "naïve — so"
    ids = from_text(text, tiny_llama.tokenizer, id="a").token_ids
    parts = explorer.pieces(tiny_llama, ids)
    assert len(parts) == len(ids) > len(text)
    assert "".join(parts) == text
    assert parts[2:4] == ["", "ï"]


def test_numbers_are_those_of_the_vector_and_of_the_plain_text(tiny_llama, solved_llama, crammed):
    tokens = explorer.measured(tiny_llama, crammed, vectors={"k": solved_llama.mem}, behind=2)
    ids = crammed["token_ids"][0][:6]
    certificate = certify(tiny_llama, solved_llama.mem, ids)
    assert tokens["bits_with"].to_numpy() == pytest.approx(certificate.nats / np.log(2), rel=1e-3, abs=1e-5)
    assert tokens["right"].tolist() == certificate.correct.tolist()
    assert tokens["right"][:4].all()
    assert np.isnan(tokens["bits"][0])
    assert tokens["bits"][1:].to_numpy() == pytest.approx(without_mem(tiny_llama, ids)[0][1:] / np.log(2), rel=1e-4)
    assert tokens["crammed"].unique().tolist() == [4]


def test_every_prefix_has_the_numbers_of_its_own_vector(tiny_llama, solved_llama, crammed, monkeypatch):
    monkeypatch.setattr(explorer, "CHUNK", 3)
    path = torch.stack([solved_llama.mem * scale for scale in (0.1, 0.3, -1, 1)])
    tokens = explorer.measured(tiny_llama, crammed, paths={"k": path}, behind=1)
    assert tokens.groupby("crammed").size().to_dict() == {1: 5, 2: 5, 3: 5, 4: 5}
    third = tokens[tokens["crammed"] == 3]
    truth = torch.tensor([crammed["token_ids"][0][:5]])
    nats, gaps = teacher_forced(tiny_llama, path[2:3], truth)
    assert third["bits_with"].to_numpy() == pytest.approx(nats[0].numpy() / np.log(2), rel=1e-3)
    assert third["right"].tolist() == (gaps[0] > 0).tolist()
    assert not third["right"].all()
    assert tokens[tokens["crammed"] == 4]["right"][:4].all()


def test_without_vectors_the_numbers_are_those_of_the_store(tiny_llama):
    tokens = explorer.measured(tiny_llama, frame(stored(tiny_llama, "abcd", token_correct=[1, 1, 0, 1])), behind=8)
    assert tokens["bits_with"].tolist() == pytest.approx([1] * 4)
    assert tokens["bits"][1:].tolist() == pytest.approx([3] * 3)
    assert tokens["right"].tolist() == [True, True, False, True]
    assert "".join(tokens["token"]) == "abcd"


def test_no_more_is_shown_than_asked_for(tiny_llama):
    tokens = explorer.measured(tiny_llama, frame(stored(tiny_llama, "abcdefgh")), most=5)
    assert len(tokens) == 5
    (passage,) = explorer.compact(tokens)["passages"]
    assert (len(passage["tokens"]), passage["stages"][0]["crammed"]) == (5, 8)


def test_a_given_token_is_neither_right_nor_wrong(tiny_llama):
    tokens = explorer.measured(
        tiny_llama, frame(stored(tiny_llama, "ab", **PAPER.model_dump(include={"score_first"})))
    )
    (passage,) = explorer.compact(tokens)["passages"]
    assert passage["stages"][0]["right"] == "-1"
    assert passage["stages"][0]["with"] == [None, 1.0]
    assert "<td>given</td>" in explorer.markup(tokens)


def test_numbers_are_short():
    tokens = pd.DataFrame(
        {
            "source": "a",
            "passage": "a/b",
            "crammed": 3,
            "position": range(3),
            "token": list("xyz"),
            "bits": [np.nan, 12.3456, 1.23456e-5],
            "bits_with": [0.0123456, 1234.5, 0.0005],
            "right": True,
            "step": [1.0, 2.0, np.nan],
            "steps": 5,
        }
    )
    (passage,) = explorer.compact(tokens)["passages"]
    assert passage["without"] == [None, 12.3, 0.0]
    assert passage["stages"][0]["with"] == [0.012, 1230.0, 0.001]
    assert passage["step"] == [1, 2, None]


def test_no_text_can_end_the_script_or_the_table_early(tiny_llama):
    text = "</script><b>&"
    made = explorer.explorer(tiny_llama, frame(stored(tiny_llama, text, passage="novels/<i>")))
    (passage,) = data_of(made.markup)["passages"]
    assert "".join(passage["tokens"]) == text
    assert passage["passage"] == "novels/<i>"
    assert made.markup.count("</script>") == 1
    assert "<b>" not in made.markup
    assert "<i>" not in made.markup


def test_the_plain_tables_have_every_token_and_the_first_is_open(tiny_llama):
    made = explorer.explorer(
        tiny_llama, frame(stored(tiny_llama, "a b"), stored(tiny_llama, "cde", passage="fresh/c"))
    )
    first, second = re.findall(r"<table.*?</table>", made.markup, re.S)
    assert (first.count("<tr"), second.count("<tr")) == (4, 4)
    assert f"<td>{explorer.SPACE}</td>" in first
    assert re.findall(r"<details[^>]*>", made.markup) == ["<details open>", "<details>"]
    assert repr(made) == "Explorer of 2 passages: the page has it"


def test_where_nothing_was_reached_one_line_says_so(tiny_llama):
    made = explorer.explorer(tiny_llama, frame(stored(tiny_llama, "abc", length=0)))
    assert made._repr_html_() == f'<p class="cramming-explorer">{explorer.NOTHING}</p>'
    assert repr(explorer.explorer(tiny_llama, explorer.first_of_each(frame(row(PAPER)).head(0)))) == explorer.NOTHING


def test_passages_are_chosen_by_name():
    names = ["novels/c", "novels/a", "novels/b", "fresh/z", "novels/a", "fresh/y"]
    some = frame(*(row(PAPER, name, length=length) for name, length in zip(names, [9, 9, 9, 5, 7, 1], strict=True)))
    chosen = explorer.first_of_each(some)
    assert chosen["passage"].tolist() == ["fresh/z", "novels/a", "novels/b"]
    assert chosen["length"].tolist() == [5, 9, 9]

"""Other ways of computing the same logits: what they agree on, where decoding goes wrong, what a margin buys."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies
from matplotlib.figure import Figure

from cramming.decode import greedy, teacher_forced
from cramming.errors import CrammingError
from cramming.studies import lossless
from cramming.studies.lossless import SETTINGS, Setting
from cramming.texts import from_tokens
from tests.conftest import model
from tests.test_tables import OURS, PAPER, frame, row

FEW = {name: SETTINGS[name] for name in ("one passage at a time", "eager attention", "all in bfloat16")}


def noise(lm, n, k=1):
    return list(torch.randn(n, k, lm.width, generator=torch.Generator().manual_seed(5)) * 3)


@cache
def decoded():
    """Vectors of the tiny model with what it says to them: exact, whatever their margin."""
    lm = model("tiny-llama")
    vectors = noise(lm, 3)
    texts = [
        from_tokens(f"novels/{i}", "novels", greedy(lm, mem, 6 + i)[0].tolist(), lm.tokenizer)
        for i, mem in enumerate(vectors)
    ]
    return lm, vectors, texts, lossless.gaps(lm, vectors, texts, [0, 0, 0])


def test_all_ways_of_computing_agree_up_to_rounding():
    lm, vectors, texts, found = decoded()
    assert list(dict.fromkeys(found["setting"])) == list(SETTINGS)
    assert found.groupby("setting").size().tolist() == [6 + 7 + 8] * len(SETTINGS)
    change = (found["gap"] - found["reference"]).abs()
    assert change[found["setting"] == "one passage at a time"].max() == 0
    assert change[~found["coarse"]].max() < 1e-4
    assert 1e-4 < change[found["setting"] == "all in bfloat16"].max() < 1  # 8 bits of precision do change something
    for run, (mem, text) in enumerate(zip(vectors, texts, strict=True)):
        _, gaps = teacher_forced(lm, mem[None], torch.tensor([text.token_ids]))
        assert found.loc[found["run"] == run, "reference"].to_numpy()[: len(text)] == pytest.approx(gaps[0].numpy())


def test_nothing_is_left_changed():
    lm, vectors, texts, _ = decoded()
    before = torch.get_num_threads(), lm.model.config._attn_implementation, lm.dtype
    lossless.gaps(lm, vectors, texts, [0] * 3, {"all": Setting(attention="eager", dtype=torch.float64, threads=3)})
    assert (torch.get_num_threads(), lm.model.config._attn_implementation, lm.dtype) == before


@pytest.mark.parametrize("layout", ["whole", "packed", "cached"])
def test_every_layout_on_every_architecture(tiny, layout):
    vectors, ids = noise(tiny, 3), [[7, 8, 9, 10], [65, 66, 67], [11, 12, 13, 14, 15]]
    texts = [from_tokens(f"novels/{i}", "novels", tokens, tiny.tokenizer) for i, tokens in enumerate(ids)]
    found = lossless.gaps(tiny, vectors, texts, [0, 1, 0], {"alone": Setting(), "it": Setting(rows=3, layout=layout)})
    assert found["gap"].to_numpy() == pytest.approx(found["reference"].to_numpy(), abs=1e-3)


def test_first_error_is_where_free_decoding_goes_astray(tiny):
    mem = noise(tiny, 1)[0]
    said = greedy(tiny, mem, 6)[0].tolist()
    for wrong in range(6):
        ids = list(said)
        ids[wrong] = (ids[wrong] + 1) % 250
        text = from_tokens("novels/a", "novels", ids, tiny.tokenizer)
        settings = {name: SETTINGS[name] for name in ("one passage at a time", "token by token, cached")}
        each = lossless.exactness(lossless.gaps(tiny, [mem], [text], [0], settings))
        assert each["first_error"].tolist() == [wrong + 1] * 2
        assert not each["exact"].any()


def test_given_tokens_are_handed_over_and_not_counted(tiny_llama):
    mem = noise(tiny_llama, 1)[0]
    ids = [65, 66, 67, 68]
    text = from_tokens("novels/a", "novels", ids, tiny_llama.tokenizer)
    found = lossless.gaps(tiny_llama, [mem], [text], [1], FEW)
    front = torch.cat([mem, tiny_llama.model.get_input_embeddings()(torch.tensor(ids[:1]))])
    _, gaps = teacher_forced(tiny_llama, front[None], torch.tensor([ids[1:]]))
    assert found["reference"].to_numpy()[:3] == pytest.approx(gaps[0].numpy())


def test_number_formats_are_copies(tiny_llama):
    half = lossless.in_dtype(tiny_llama, torch.bfloat16)
    assert (half.dtype, tiny_llama.dtype) == (torch.bfloat16, torch.float32)
    assert lossless.in_dtype(tiny_llama, torch.float32) is tiny_llama
    assert [Setting(rounded=True).coarse, Setting(dtype=torch.float16).coarse, Setting().coarse] == [True, True, False]
    assert not Setting(dtype=torch.float64).coarse


def test_what_cannot_be_computed_is_refused(tiny_llama):
    text = from_tokens("novels/a", "novels", [65], tiny_llama.tokenizer)
    with pytest.raises(CrammingError, match="1 vectors, 1 passages and 2 counts"):
        lossless.gaps(tiny_llama, noise(tiny_llama, 1), [text], [0, 0])
    with pytest.raises(CrammingError, match="at least one"):
        lossless.gaps(tiny_llama, [], [], [])
    with pytest.raises(CrammingError, match="novels/a has 1 tokens, 1 of them given"):
        lossless.gaps(tiny_llama, noise(tiny_llama, 1), [text], [1])


def by_hand(**changed):
    """Gaps of two vectors: the first wins by 3, 1 and 2 logits, the second by 0.5 and not at all."""
    rows = []
    for setting, run, gaps in (
        ("usual", 0, [3, 1, 2]), ("usual", 1, [0.5, -1]),
        ("fine", 0, [3, 1.25, 2]), ("fine", 1, [0.25, -1]),
        ("rough", 0, changed.get("rough", [3, -1, 2])), ("rough", 1, [0.75, 1]),
    ):  # fmt: skip
        usual = [[3, 1, 2], [0.5, -1]][run]
        some = {"setting": setting, "coarse": setting == "rough", "run": run, "key": "ab"[run]}
        rows += [some | {"position": i, "gap": gap, "reference": usual[i]} for i, gap in enumerate(gaps)]
    return pd.DataFrame(rows).astype({"gap": float, "reference": float})


def test_exactness_by_hand():
    each = lossless.exactness(by_hand()).set_index(["setting", "run"])
    assert each["exact"].tolist() == [True, False, True, False, False, True]
    assert each["first_error"].tolist() == pytest.approx([np.nan, 2, np.nan, 2, 2, np.nan], nan_ok=True)
    assert each["margin"].tolist() == [1, -1] * 3
    assert each["change"].tolist() == [0, 0, 0.25, 0.25, 2, 2]


def test_settings_by_hand():
    summary = lossless.settings(by_hand())
    assert summary["vectors"].tolist() == [1, 1, 1]  # the second is not exact to begin with
    assert summary["exact"].tolist() == [1, 1, 0]
    assert summary["tokens"].tolist() == [4, 4, 4]
    assert summary["undone"].tolist() == [0, 0, 1]
    assert summary.loc["rough", ["undone_margin", "change", "first_error"]].tolist() == [1, 2, 2]
    assert summary.loc["rough", "decoded"] == pytest.approx(1 / 3)
    table = lossless.settings_table(summary)
    assert table.index.tolist() == ["fine", "rough"]
    assert table.loc["rough"].tolist() == ["0 of 1", "2", 1, "1", "2"]
    assert table.loc["fine"].tolist() == ["1 of 1", "", 0, "", "0.25"]


def test_what_overflows_is_lost():
    gaps = by_hand(rough=[3, np.nan, 2])
    assert not lossless.exactness(gaps).set_index(["setting", "run"]).loc[("rough", 0), "exact"]
    assert lossless.safe_margin(gaps) == 1


def test_another_setting_as_the_reference():
    again = lossless.against(by_hand(), "rough")
    assert again["setting"].iloc[0] == "rough"
    assert lossless.settings(again).loc["usual", ["vectors", "exact"]].tolist() == [1, 0]
    assert again.loc[again["setting"] == "usual", "reference"].tolist() == [3, -1, 2, 0.75, 1]


logits = strategies.floats(-4, 4)


@given(strategies.lists(strategies.tuples(logits, logits), min_size=1, max_size=8))
def test_prefixes_above_the_safe_margin_are_exact(pairs):
    usual, other = np.array(pairs).T
    part = {"coarse": False, "run": 0, "position": range(len(pairs)), "reference": usual}
    gaps = pd.concat([pd.DataFrame({"setting": "usual", **part, "gap": usual}),
                      pd.DataFrame({"setting": "other", **part, "gap": other})])  # fmt: skip
    safe = lossless.safe_margin(gaps)
    assert lossless.to_margin(gaps, [np.nextafter(safe, 9)])["exact"].all()
    if safe:  # and it is no larger than it must be: the token itself was undone
        assert ((usual >= safe) & ~(other > 0)).any()


def test_cutting_by_hand():
    gaps = by_hand()
    cuts = lossless.to_margin(gaps, [0.5, 1, 2]).set_index(["margin", "run", "setting"]).sort_index()
    assert cuts.loc[0.5, "tokens"].groupby("run").first().tolist() == [3, 1]
    assert cuts.loc[1, "tokens"].groupby("run").first().tolist() == [3, 0]
    assert cuts.loc[2, "tokens"].groupby("run").first().tolist() == [1, 0]
    assert not cuts.loc[(1, 0, "rough"), "exact"]
    assert cuts.loc[(2, 0, "rough"), "exact"]
    price = lossless.margin_price(cuts.reset_index())
    assert price["left"].tolist() == pytest.approx([1, 0.5, 1 / 6])  # of the second, one token was exact
    assert price["tokens"].tolist() == [2, 1.5, 0.5]
    assert lossless.margin_price_table(price).loc["2", "left, % (95 % interval)"] == "17 (0 to 33)"


def test_margins_asked_for_are_compared_on_the_same_passages():
    more = OURS.model_copy(update={"stop_margin": 1.0})
    other = OURS.model_copy(update={"lr": 0.1})
    runs = lossless.asked(
        frame(
            row(OURS, "novels/a", key="a", length=8),
            row(OURS, "novels/b", length=4),
            row(OURS, "novels/c"),
            row(more, "novels/a", key="b", length=6),
            row(more, "novels/b", length=4),
            row(other, "novels/a"),
        )
    )
    assert runs["asked"].tolist() == [0.05, 0.05, 1, 1]
    assert runs["passage"].tolist() == ["novels/a", "novels/b"] * 2
    assert runs["left"].tolist() == [1, 1, 0.75, 1]
    table = lossless.asked_table(runs, by_hand())
    assert table["exact horizon, tokens"].tolist() == ["6.0 ± 2.8", "5.0 ± 1.4"]
    assert table["against the least margin"].tolist() == ["", "-1.0 (-2.0 to +0.0)"]
    assert table["exact in all of 32 and 64 bits"].tolist() == ["1 of 1", "0 of 1"]
    assert table["rough"].tolist() == ["0 of 1", "1 of 1"]
    with pytest.raises(CrammingError, match="no passage was run with every margin"):
        lossless.asked(frame(row(OURS, "novels/a"), row(more, "novels/b")))


def test_accuracy_against_exactness():
    some = frame(
        row(PAPER, "novels/a", length=5, correct_teacher=4, correct_greedy=4, exact=True),
        row(PAPER, "novels/b", length=5, correct_teacher=3, correct_greedy=0, exact=False),
        row(PAPER, "novels/b", length=11, correct_teacher=9, correct_greedy=5, exact=False),
    )
    table = lossless.accuracy_and_exactness(some)
    # Token 0 does not count.
    assert table.index.tolist() == ["all (n = 1)", "0.9 or more (n = 1)", "0.5 to 0.9 (n = 1)"]
    assert table["exact"].tolist() == [1, 0, 0]
    assert table["tokens before the first error, %"].tolist() == ["100", "50", "0"]
    assert table["first error at token"].tolist() == ["", "6", "1"]
    assert table["wrong from the first token on"].tolist() == [0, 0, 1]
    with pytest.raises(CrammingError, match="no run of kind cram"):
        lossless.accuracy_and_exactness(frame(row(OURS)))


def test_figures_of_a_model():
    _, _, _, found = decoded()
    assert isinstance(lossless.margins_and_changes_figure(found), Figure)
    cuts = lossless.to_margin(found, [0.001, 0.1, 9])
    asked = lossless.asked(frame(row(OURS), row(OURS.model_copy(update={"stop_margin": 1.0}), length=3)))
    figure = lossless.margin_bought_figure(cuts, lossless.margin_price(cuts), asked)
    assert [len(axis.get_legend().get_texts()) for axis in figure.axes] == [4, 2]
    lost = found.assign(gap=-1.0, reference=-1.0)  # nothing is right, as from a tiny model
    assert isinstance(lossless.margins_and_changes_figure(lost), Figure)


def test_shares_have_an_interval():
    assert lossless._share(0, 10) == "0 of 10 (0% to 26%)"
    assert lossless._share(10, 10, " vectors") == "10 of 10 vectors (74% to 100%)"
    assert lossless._share(5, 10).startswith("5 of 10 (2")

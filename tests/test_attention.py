"""Attention to mem: shares that are shares, and layers that cannot see what is hidden from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cramming.decode import teacher_forced
from cramming.errors import CrammingError
from cramming.models import TINY_NAMES
from cramming.results.attention import first_token_shares, mem_shares
from cramming.studies import attention as attention_page
from cramming.texts import passages
from tests.conftest import model

ATTENTION = [name for name in TINY_NAMES if name != "tiny-mamba"]


@pytest.fixture(params=ATTENTION)
def setup(request):
    lm = model(request.param)
    [passage] = passages("fresh", lm.tokenizer, n=1, length=7)
    mem = torch.randn(2, lm.width, generator=torch.Generator().manual_seed(3)) * 5
    return lm, mem, passage


def test_shares_are_those_of_the_model_itself(setup):
    lm, mem, passage = setup
    usual = lm.model.config._attn_implementation
    frame = mem_shares(lm, [mem], [passage])
    assert lm.model.config._attn_implementation == usual
    assert len(frame) == 2 * 4 * 7
    assert frame["share"].between(0, 1 + 1e-6).all()
    tokens = torch.tensor(passage.token_ids)
    lm.model.set_attn_implementation("eager")
    embeds = torch.cat([mem, lm.model.get_input_embeddings()(tokens)])[None]
    weights = lm.model(inputs_embeds=embeds, output_attentions=True).attentions
    lm.model.set_attn_implementation(usual)
    row = frame.query("layer == 1 and head == 2 and position == 4")["share"].item()
    assert row == pytest.approx(weights[1][0, 2, 6, :2].sum().item(), rel=1e-4)


def test_first_token_is_looked_at_by_those_behind_it(setup):
    lm, _, passage = setup
    frame = first_token_shares(lm, [passage])
    assert sorted(frame["position"].unique()) == list(range(1, 7))
    # The second token sees two tokens, itself one of them.
    assert frame.loc[frame["position"] == 1, "share"].between(0, 1).all()


def test_hidden_from_every_layer_mem_no_longer_matters(setup):
    lm, mem, passage = setup
    frame = attention_page.knock_out(lm, [mem], [passage]).set_index(["hidden", "layer"])
    nats, gaps = teacher_forced(lm, mem[None], torch.tensor([passage.token_ids]))
    assert frame.loc[("none", -1), "nats"] == pytest.approx(nats[0, 1:].mean().item(), rel=1e-4)
    assert frame.loc[("none", -1), "right"] == pytest.approx((gaps[0, 1:] > 0).float().mean().item())
    other = attention_page.knock_out(lm, [-3 * mem], [passage]).set_index(["hidden", "layer"])
    for everything in (("up to", 1), ("from", 0)):
        assert frame.loc[everything, "nats"] == pytest.approx(other.loc[everything, "nats"], rel=1e-4)
    # One layer of two still sees it, and the two ways of saying so agree.
    for one, same in ((("one", 0), ("up to", 0)), (("one", 1), ("from", 1))):
        assert frame.loc[one, "nats"] == pytest.approx(frame.loc[same, "nats"], rel=1e-4)
        assert abs(frame.loc[one, "nats"] - other.loc[one, "nats"]) > 1e-3
    again, _ = teacher_forced(lm, mem[None], torch.tensor([passage.token_ids]))
    assert torch.equal(again, nats)  # nothing stays hidden


def test_what_has_no_attention_says_so():
    lm = model("tiny-mamba")
    [passage] = passages("fresh", lm.tokenizer, n=1, length=4)
    mem = torch.zeros(1, lm.width)
    for call in (
        lambda: mem_shares(lm, [mem], [passage]),
        lambda: first_token_shares(lm, [passage]),
        lambda: attention_page.knock_out(lm, [mem], [passage]),
    ):
        with pytest.raises(CrammingError, match="tiny-mamba has no attention"):
            call()
    with pytest.raises(CrammingError, match="1 token"):
        attention_page.knock_out(model("tiny-llama"), [mem], [passage.prefix(1)])


def test_tables_and_figures(setup):
    lm, mem, passage = setup
    [other] = passages("novels", lm.tokenizer, n=1, length=7)
    shares = mem_shares(lm, [mem, mem], [passage, other])
    plain = first_token_shares(lm, [passage, other])
    table = attention_page.attention_table({"horizon": shares}, plain, "HuggingFaceTB/SmolLM2-135M")[
        "share of attention, %"
    ]
    each = shares.groupby("passage")["share"].mean() * 100
    assert table["mem, ours (n = 2)"] == f"{each.mean():.1f} ± {each.std():.1f}"
    assert table["published: mem, progressive"] == "60.8 ± 17.6"
    cut = attention_page.knock_out(lm, [mem], [passage])
    assert np.isfinite(cut[["right", "nats"]]).all(axis=None)
    assert isinstance(attention_page.maps_figure(shares, plain), Figure)
    assert isinstance(attention_page.by_position_figure(shares), Figure)
    assert isinstance(attention_page.knock_out_figure(cut), Figure)
    right = cut.pivot_table("right", "passage", ["hidden", "layer"]) * 100
    [still] = attention_page.knock_out_table(right).to_dict().values()
    for name, column in (
        ("nowhere", ("none", -1)),
        ("everywhere", ("from", 0)),
        ("the first half, 0 to 0", ("one", 0)),
    ):
        assert still[name].startswith(f"{right[column].mean():.0f} (")

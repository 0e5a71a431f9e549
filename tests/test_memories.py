"""Memories: the model sees what each says it does, and everything behind the interface works for all of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cramming.decode import certify, greedy, reading_seconds, teacher_forced
from cramming.engine import cram, score
from cramming.errors import CrammingError
from cramming.horizon import horizon
from cramming.memories import MEMORIES, _line_break, _past, _start_token, _units
from cramming.recipes import recipe
from cramming.results.check import recheck
from cramming.results.plans import Plan
from cramming.results.store import Store
from cramming.results.sweep import sweep
from cramming.studies import memories as memories_page
from cramming.texts import passages
from tests.conftest import model
from tests.test_tables import frame, row

SHAPES = (("vectors", 2), ("prefix", 1), ("prefix", 2), ("proto", 2), ("proto", 3))
CHANGES = {"parametrisation": "free", "lr": 0.1, "max_token_passes": 300, "growth": {"start": 2, "block": 2}}


def noise(lm, memory, k, n=1, seed=0):
    """Numbers of n passages, shape (n, k, floats of a part)."""
    shape = MEMORIES[memory].shape(lm, k)
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def in_units(lm, pairs):
    """Keys and values of layers as the prefix holds them, shape (1, k, floats of a layer)."""
    parts = [
        torch.cat([keys.flatten() / unit[0], values.flatten() / unit[1]])
        for (keys, values), unit in zip(pairs, _units(lm), strict=True)
    ]
    return torch.stack(parts)[None]


def test_floats_and_positions_by_hand(tiny_llama):
    # d = 64; two layers with 4 heads of 16, keys and values.
    assert {memory: way.shape(tiny_llama, 2) for memory, way in MEMORIES.items()} == {
        "vectors": (2, 64), "prefix": (2, 128), "proto": (2, 64),
    }  # fmt: skip
    # Five tokens: two vectors and four of them; the line break and four of them; one vector and five times another.
    assert {memory: way.positions(2, 5) for memory, way in MEMORIES.items()} == {"vectors": 6, "prefix": 5, "proto": 6}
    tokens = torch.arange(5)[None]
    for memory, k in SHAPES:
        fed = MEMORIES[memory].feed(tiny_llama, noise(tiny_llama, memory, k), tokens).embeds
        assert fed.shape == (1, MEMORIES[memory].positions(k, 5), 64)


@given(st.integers(1, 40), st.data())
def test_layers_of_a_prefix_are_spread_over_the_model(depth, data):
    k = data.draw(st.integers(1, depth))
    lm = model("tiny-llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cramming.memories._start_token", lambda lm: (None,) * depth)
        chosen = MEMORIES["prefix"].layers(lm, k)
    assert len(set(chosen)) == k
    assert chosen == sorted(chosen)
    # As far from one end as from the other, up to rounding.
    assert abs(chosen[0] - (depth - 1 - chosen[-1])) <= 1


@torch.no_grad()
def test_prefix_stands_for_a_token_in_front(tiny):
    if tiny.context_length is None:
        with pytest.raises(CrammingError, match="keeps no keys and values"):
            MEMORIES["prefix"].shape(tiny, 1)
        return
    table = tiny.model.get_input_embeddings()
    ids = list(b"a word")
    # Keys and values of some token, in every layer, are as good as that token.
    mem = in_units(tiny, _past(tiny, table(torch.tensor([[ids[0]]]))))
    nats, gaps = teacher_forced(tiny, mem, torch.tensor([ids[1:]]), MEMORIES["prefix"])
    logits = tiny.model(input_ids=torch.tensor([[ids[0], _line_break(tiny), *ids[1:-1]]])).logits[0, 1:]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    assert nats[0].numpy() == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)
    assert (gaps[0] > 0).tolist() == (logits.argmax(1) == torch.tensor(ids[1:])).tolist()


@torch.no_grad()
def test_layer_without_trained_numbers_has_the_start_token(tiny_llama):
    [layer] = MEMORIES["prefix"].layers(tiny_llama, 1)
    start = in_units(tiny_llama, _start_token(tiny_llama))
    tokens = torch.tensor([list(b"a word")])
    one, _ = teacher_forced(tiny_llama, start[:, [layer]], tokens, MEMORIES["prefix"])
    both, _ = teacher_forced(tiny_llama, start, tokens, MEMORIES["prefix"])
    assert one[0].numpy() == pytest.approx(both[0].numpy(), rel=1e-4)
    other, _ = teacher_forced(tiny_llama, start[:, [layer]] + 1, tokens, MEMORIES["prefix"])
    assert (other - one).abs().max() > 1e-3


@torch.no_grad()
def test_proto_tokens_are_read_in_one_pass(tiny):
    mem = noise(tiny, "proto", 2)
    logits = tiny.model(inputs_embeds=torch.stack([mem[0, 0], *[mem[0, 1]] * 4])[None]).logits[0, 1:]
    tokens, gaps = greedy(tiny, mem[0], 4, memory=MEMORIES["proto"])
    assert tokens.tolist() == logits.argmax(1).tolist()
    assert (gaps > 0).all()
    # What is true makes no difference to what is said.
    nats, _ = teacher_forced(tiny, mem, torch.tensor([[1, 2, 3, 4]]), MEMORIES["proto"])
    assert nats[0].numpy() == pytest.approx(-logits.log_softmax(1)[range(4), [1, 2, 3, 4]].numpy(), rel=1e-3)


@pytest.mark.parametrize(("memory", "k"), SHAPES)
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt_neox", "gemma"])
def test_engine_and_decoder_agree_padded_and_packed(name, memory, k, tiny_gemma):
    lm = tiny_gemma if name == "gemma" else model(name)
    mem = noise(lm, memory, k, 3)
    tokens = torch.randint(1, 256, (3, 9), generator=torch.Generator().manual_seed(1))
    lengths = (9, 4, 7)
    weights = torch.zeros(3, 9)
    for i, n in enumerate(lengths):
        weights[i, :n] = 1 / n
    gradients = []
    for pack in (False, True):
        trained = mem.clone().requires_grad_(True)
        loss, nats, gaps = score(lm, trained, tokens, weights, pack=pack, memory=MEMORIES[memory])
        gradients.append(torch.autograd.grad(loss, trained)[0])
        for i, n in enumerate(lengths):
            alone, alone_gaps = teacher_forced(lm, mem[i : i + 1], tokens[i : i + 1, :n], MEMORIES[memory])
            assert nats[i, :n].detach().numpy() == pytest.approx(alone[0].numpy(), rel=1e-3, abs=1e-4)
            assert gaps[i, :n].numpy() == pytest.approx(alone_gaps[0].numpy(), rel=1e-2, abs=1e-3)
    assert (gradients[0].abs().amax((1, 2)) > 0).all()
    assert torch.allclose(*gradients, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("memory", "k"), SHAPES)
def test_gradient_is_the_slope_of_the_loss(tiny_llama, memory, k):
    mem, way = noise(tiny_llama, memory, k), noise(tiny_llama, memory, k, seed=1)
    tokens, weights = torch.tensor([list(b"a word")]), torch.full((1, 6), 1 / 6)
    trained = mem.clone().requires_grad_(True)
    loss, _, _ = score(tiny_llama, trained, tokens, weights, memory=MEMORIES[memory])
    slope = float((torch.autograd.grad(loss, trained)[0] * way).sum())
    step = 1e-3
    ends = [
        score(tiny_llama, mem + side * step * way, tokens, weights, memory=MEMORIES[memory])[0] for side in (1, -1)
    ]
    assert float(ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=0.05, abs=0.02)


@pytest.mark.parametrize("name", ["tiny-llama", "gemma"])
@pytest.mark.parametrize("memory", ["vectors", "prefix"])
@torch.no_grad()
def test_decoding_with_a_cache_and_anew_agree(name, memory, tiny_gemma):
    lm = tiny_gemma if name == "gemma" else model(name)
    mem = noise(lm, memory, 2)[0]
    tokens, gaps = greedy(lm, mem, 8, memory=MEMORIES[memory])
    again, gaps_again = greedy(lm, mem, 8, cached=False, memory=MEMORIES[memory])
    assert tokens.tolist() == again.tolist()
    assert gaps.numpy() == pytest.approx(gaps_again.numpy(), rel=1e-2, abs=1e-3)
    certificate = certify(lm, mem, tokens.tolist(), memory=MEMORIES[memory])
    assert certificate.greedy_correct == 8
    assert certify(lm, mem, [*tokens.tolist()[:3], 256, 0], memory=MEMORIES[memory]).agreed <= 3


@pytest.mark.parametrize(("memory", "k"), SHAPES)
def test_horizons_grow_and_are_certified(tiny_llama, prose, memory, k):
    how = recipe("horizon", memory=memory, **CHANGES)
    results = horizon(tiny_llama, prose, how, n_vectors=k, progress=False)
    assert max(result.length for result in results) >= 2
    for result in results:
        run = result.run
        assert run.memory is MEMORIES[memory]
        assert tuple(run.mem.shape) == MEMORIES[memory].shape(tiny_llama, k)
        fed = [MEMORIES[memory].positions(k, n) for _, n, *_ in run.trace]
        assert run.token_passes == sum(fed)
        ids = list(result.passage.token_ids[: result.length])
        if ids:
            assert greedy(tiny_llama, run.mem, len(ids), memory=MEMORIES[memory])[0].tolist() == ids


def test_store_keeps_any_memory_and_checks_it(tiny_llama, tmp_path):
    entry = {"kind": "horizon", "recipe": "horizon", "source": ["novels", "fresh"], "n": 1, "lengths": [8]}
    plan = Plan.model_validate(
        {
            "model": "tiny-llama",
            "experiments": [
                {**entry, "changes": {"memory": memory, **CHANGES}, "n_vectors": k} for memory, k in SHAPES[1:4]
            ],
        }
    )
    store = Store(tmp_path)
    assert sweep(plan, tiny_llama, store, progress=False) == 6
    assert sweep(plan, tiny_llama, store, progress=False) == 0
    again = recheck(store, progress=False)
    assert again["exact_now"].tolist() == again["exact"].tolist()
    runs = memories_page.sized(store.frame(), store.vectors())
    assert runs.groupby(["memory", "n_vectors"])["floats"].unique().map(list).to_dict() == {
        ("prefix", 1): [128], ("prefix", 2): [256], ("proto", 2): [128],
    }  # fmt: skip
    with pytest.raises(CrammingError, match="has no vector in the store"):
        memories_page.sized(store.frame(), {})


def test_vectors_are_the_default_and_leave_old_keys(tiny_llama):
    assert "memory" not in recipe("horizon").deciding()
    assert recipe("horizon", memory="proto").deciding()["memory"] == "proto"


def test_what_a_memory_cannot_do_is_refused(tiny_llama):
    [passage] = passages("novels", tiny_llama.tokenizer, n=1, length=4)
    with pytest.raises(CrammingError, match="a prefix in 3 layers was asked for, tiny-llama has 2"):
        cram(tiny_llama, [passage], recipe("best", memory="prefix"), n_vectors=3, progress=False)
    with pytest.raises(CrammingError, match="makes the model say token 0 as well: set score_first"):
        cram(tiny_llama, [passage], recipe("paper", memory="proto"), n_vectors=2, progress=False)
    with pytest.raises(CrammingError, match="recipe 'best': memory = 'paper'"):
        recipe("best", memory="paper")
    with pytest.raises(CrammingError, match=r"expected \(k, 128\)"):
        certify(tiny_llama, torch.zeros(1, 64), [1], memory=MEMORIES["prefix"])


# Tables


def made_up() -> pd.DataFrame:
    """Two passages: two vectors hold 4 and 6 tokens, a prefix of one layer with as many floats 5 and 9."""
    rows = []
    for memory, k, floats, lengths in (
        ("vectors", 1, 64, (3, 3)),
        ("vectors", 2, 128, (4, 6)),
        ("prefix", 1, 128, (5, 9)),
    ):
        how = recipe("horizon", memory=memory)
        rows += [
            row(how, f"novels/{i}", memory=memory, n_vectors=k, floats=floats, length=n, trace_loss=[2.0, 1.0])
            for i, n in enumerate(lengths)
        ]
    return frame(*rows)


def test_memories_are_compared_passage_by_passage():
    table = memories_page.summary(made_up()).set_index(["floats", "memory"])
    assert table.index.tolist() == [(64, "vectors"), (128, "vectors"), (128, "prefix")]
    assert table["mean"].tolist() == [3, 5, 7]
    assert table["tokens_each"].tolist() == pytest.approx([3000 / 64, 5000 / 128, 7000 / 128])
    assert table.loc[(128, "prefix"), ["more", "more_low", "more_high"]].tolist() == [2, 1, 3]
    assert np.isnan(table.loc[(128, "vectors"), "more"])
    shown = memories_page.summary_table(table.reset_index())
    assert shown.loc[("128", "keys and values in 1 layer"), "against as many vectors"] == "+2.0 (+1.0 to +3.0)"
    assert shown.loc[("128", "2 mem vectors"), "against as many vectors"] == ""


def test_seconds_to_read_are_medians_over_readings():
    summary = memories_page.summary(made_up())
    read = pd.DataFrame(
        [("prefix", 1, 5, 0.5), ("prefix", 1, 9, 1.8), ("prefix", 1, 9, 2.7), ("vectors", 2, 4, 4.0)],
        columns=["memory", "n_vectors", "tokens", "seconds"],
    )
    shown = memories_page.seconds(summary, read)
    assert shown.loc[("128", "keys and values in 1 layer")].tolist() == ["2", "5 to 9", "200.0", "1.40"]
    assert shown.loc[("128", "2 mem vectors")].tolist() == ["2", "4", "1,000.0", "5.00"]
    assert shown.loc[("64", "1 mem vector")].tolist() == ["2", "", "", ""]


def test_tried_recipes_are_shown_best_first():
    tried = [
        row(
            recipe(
                "horizon",
                memory="prefix",
                lr=lr,
                averaging=None,
                temperature=1,
                restart_steps=None,
                max_token_passes=50,
            ),
            memory="prefix",
            n_vectors=2,
            length=n,
            trace_loss=[3.0, 1.0],
        )
        for lr, n in ((0.1, 3), (0.2, 5))
    ]
    shown = memories_page.tuning(frame(*tried))
    assert shown.index.tolist() == [("keys and values in 2 layers", f"lr = {lr}") for lr in (0.2, 0.1)]
    assert shown["exact horizon, tokens"].tolist() == ["5.0", "3.0"]


def test_figure_and_reading_of_a_model(tiny_llama):
    runs = made_up()
    assert isinstance(memories_page.summary_figure(memories_page.summary(runs), runs), Figure)
    assert reading_seconds(tiny_llama, noise(tiny_llama, "prefix", 2)[0], 3, memory=MEMORIES["prefix"], repeats=1) > 0

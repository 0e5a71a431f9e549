"""The engine: its arithmetic against plain torch, its independence of the batch, its ends, and its refusals."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import platformdirs
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cramming import engine
from cramming.decode import certify, greedy, teacher_forced
from cramming.engine import cram, packs, score
from cramming.errors import CrammingError
from cramming.models import SMOLLM2, TINY_NAMES, load, weights_digest
from cramming.recipes import Growth, Recipe, recipe
from cramming.texts import from_text, passages
from tests.conftest import model


def quick(**changes) -> Recipe:
    """A few steps that solve nothing."""
    return Recipe(**{"name": "quick", "parametrisation": "free", "lr": 0.01, "max_steps": 4, **changes})


@pytest.fixture
def steps(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """What the engine asks of the model at each step: the arguments of `score` and its nats and gaps."""
    seen = []

    def recorded(lm, mem, tokens, weights, **options):
        loss, nats, gaps = score(lm, mem, tokens, weights, **options)
        seen.append({"mem": mem.detach().clone(), "weights": weights.clone(), "nats": nats, "gaps": gaps})
        return loss, nats, gaps

    monkeypatch.setattr(engine, "score", recorded)
    return seen


def fails(match: str, *arguments, **options) -> None:
    with pytest.raises(CrammingError, match=match) as caught:
        cram(*arguments, progress=False, **options)
    assert "\n" not in str(caught.value)


# The loss and its gradient


def full_logits(lm, mem, tokens, weights):
    """The same as `score`, the long way: whole model, whole logits, torch's cross-entropy and autograd."""
    embeds = torch.cat([mem, lm.model.get_input_embeddings()(tokens)], dim=1)
    logits = lm.model(inputs_embeds=embeds, use_cache=False).logits[:, mem.shape[1] - 1 : -1]
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    true = logits.gather(2, tokens[..., None])[..., 0]
    is_true = torch.nn.functional.one_hot(tokens, lm.vocab_size).bool()
    return (nats * weights).sum(), nats, true - logits.masked_fill(is_true, -math.inf).amax(2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("head_rows", "pack"), [(3, False), (256, False), (256, True)])
def test_score_is_the_cross_entropy_of_the_full_logits(tiny, bias, head_rows, pack, monkeypatch):
    pack = pack and packs(tiny)
    monkeypatch.setattr(engine, "HEAD_ROWS", head_rows)
    lm = load(tiny.name, device="cpu") if bias else tiny
    generator = torch.Generator().manual_seed(1)
    if bias:
        values = torch.randn(lm.vocab_size, generator=generator)
        lm.model.get_output_embeddings().bias = torch.nn.Parameter(values, requires_grad=False)
    mem = torch.randn(2, 2, lm.width, generator=generator, requires_grad=True)
    tokens = torch.randint(0, 256, (2, 5), generator=generator)
    weights = torch.rand(2, 5, generator=generator)
    weights[0, 0] = weights[1, 3:] = 0  # a token that is given, and padding
    loss, nats, gaps = score(lm, mem, tokens, weights, pack=pack)
    expected_loss, expected_nats, expected_gaps = full_logits(lm, mem, tokens, weights)
    scored = weights > 0
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(nats[scored], expected_nats[scored], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gaps[scored], expected_gaps[scored], rtol=1e-4, atol=1e-4)
    assert nats[~scored].isnan().all()
    assert (gaps[~scored] == -math.inf).all()
    [gradient], [expected] = torch.autograd.grad(3 * loss, mem), torch.autograd.grad(3 * expected_loss, mem)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("temperature", [0.25, 3.0])
def test_temperature_divides_the_logits_of_the_loss_alone(tiny, temperature):
    generator = torch.Generator().manual_seed(1)
    mem = torch.randn(2, 1, tiny.width, generator=generator, requires_grad=True)
    tokens = torch.randint(0, 256, (2, 5), generator=generator)
    weights = torch.rand(2, 5, generator=generator)
    loss, nats, gaps = score(tiny, mem, tokens, weights, temperature=temperature)
    _, true_nats, true_gaps = full_logits(tiny, mem, tokens, weights)
    torch.testing.assert_close(nats, true_nats, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gaps, true_gaps, rtol=1e-4, atol=1e-4)
    embeds = torch.cat([mem, tiny.model.get_input_embeddings()(tokens)], dim=1)
    logits = tiny.model(inputs_embeds=embeds, use_cache=False).logits[:, :-1] / temperature
    expected = (torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens, reduction="none") * weights).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    [gradient], [reference] = torch.autograd.grad(loss, mem), torch.autograd.grad(expected, mem)
    torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-5 * reference.abs().max().item())


def stuck(**changes) -> Recipe:
    """Steps too short to win anything: every start is given up."""
    return quick(lr=1e-12, max_steps=10, restart_steps=3, growth=Growth(start=2, block=1), **changes)


def test_a_stuck_start_is_given_up_for_other_noise_and_its_cost_counts(tiny_llama, prose, steps):
    how = stuck(averaging=0.1)
    [run] = cram(tiny_llama, prose[:1], how, progress=False)
    assert (run.starts, run.steps, len(steps)) == (4, 10, 10)  # after steps 3, 6 and 9
    assert run.token_passes == sum(step["mem"].shape[1] + step["weights"].shape[1] - 1 for step in steps)
    begun = [steps[i]["mem"][0] for i in (0, 3, 6, 9)]
    for number, mem in enumerate(begun):
        expected = engine.first_mem(tiny_llama, prose[0], how, 1, 0, number)
        torch.testing.assert_close(mem, expected)
        others = [float((mem - other).norm()) for other in begun if other is not mem]
        assert min(others) > 0.1 * float(mem.norm())
    # What a start had learned does not reach the next one.
    alone = quick(lr=0.01, averaging=0.1, max_steps=3, growth=Growth(start=2, block=1))
    cram(tiny_llama, prose[:1], alone, start=[begun[1]], progress=False)
    fresh = [step["mem"] for step in steps[10:]]
    del steps[:]
    cram(tiny_llama, prose[:1], alone.model_copy(update={"restart_steps": 3, "max_steps": 6}), progress=False)
    for step, expected in zip(steps[3:], fresh, strict=True):
        torch.testing.assert_close(step["mem"], expected)


def test_the_best_of_all_starts_is_kept(tiny_llama, prose, monkeypatch):
    """The second of three starts wins a token more than the others, and its vectors come back."""
    won, seen = {0: 1, 4: 2, 8: 1}, []

    def staged(lm, mem, tokens, weights, **options):
        loss, nats, gaps = score(lm, mem, tokens, weights, **options)
        count = won.get(len(seen), 0)
        seen.append(mem.detach().clone())
        places = torch.arange(gaps.shape[1]).expand_as(gaps)
        return loss, nats, torch.where(places < count, gaps.abs() + 1, -1 - gaps.abs())

    monkeypatch.setattr(engine, "score", staged)
    [run] = cram(tiny_llama, prose[:1], stuck(), progress=False)
    assert run.length == 2
    torch.testing.assert_close(run.mem, seen[4][0])
    assert [row[1] for row in run.trace] == [2, 2, 2, 2, 2, 3, 3, 3, 2, 2]  # each start grows from the start


def test_a_start_that_holds_enough_goes_on(tiny_llama, prose, monkeypatch):
    def staged(lm, mem, tokens, weights, **options):
        loss, nats, gaps = score(lm, mem, tokens, weights, **options)
        return loss, nats, torch.where(torch.arange(gaps.shape[1]).expand_as(gaps) < 2, 1.0, -1.0)

    monkeypatch.setattr(engine, "score", staged)
    assert cram(tiny_llama, prose[:1], stuck(restart_below=2), progress=False)[0].starts == 1
    assert cram(tiny_llama, prose[:1], stuck(restart_below=3), progress=False)[0].starts == 3  # after steps 4 and 7


def test_a_run_that_may_begin_anew_has_no_path(tiny_llama, prose):
    fails("no one path", tiny_llama, prose, stuck(), path=True)


PACKING = [name for name in TINY_NAMES if name != "tiny-mamba"]


def test_models_with_attention_pack_and_recurrent_ones_do_not():
    assert [name for name in TINY_NAMES if packs(model(name))] == PACKING


@pytest.mark.parametrize("name", [*PACKING, "gemma"])
@pytest.mark.parametrize("positions", [1, 12, 30])
@pytest.mark.parametrize("longest", [2, 9])
def test_packed_rows_do_not_see_each_other(name, positions, longest, tiny_gemma, monkeypatch):
    """Rows of many lengths, over one sequence or several: each as if it were alone.

    The tiny Gemma packs rows of two vectors and two tokens, which fit into its window of four; longer ones it pads.
    """
    tiny = tiny_gemma if name == "gemma" else model(name)
    assert packs(tiny)
    monkeypatch.setattr(engine, "PACKED_POSITIONS", positions)
    generator = torch.Generator().manual_seed(1)
    mem = torch.randn(5, 2, tiny.width, generator=generator, requires_grad=True)
    tokens = torch.randint(0, 256, (5, longest), generator=generator)
    weights = torch.ones(5, longest)
    for row, length in enumerate((1, 9, 4, 4, 6)):
        weights[row, length:] = 0
    loss, nats, gaps = score(tiny, mem, tokens, weights, pack=True)
    [gradient] = torch.autograd.grad(loss, mem)
    for row in range(5):
        part = slice(row, row + 1)
        alone = score(tiny, mem[part], tokens[part, : int(weights[row].sum())], weights[part, weights[row] > 0])
        n = alone[1].shape[1]
        torch.testing.assert_close(nats[part, :n], alone[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gaps[part, :n], alone[2], rtol=1e-4, atol=1e-4)
        expected = torch.autograd.grad(alone[0], mem)[0]
        torch.testing.assert_close(gradient[part], expected[part], rtol=1e-3, atol=1e-5 * expected.abs().max().item())


def test_score_in_half_precision_is_near_that_in_full():
    generator = torch.Generator().manual_seed(1)
    half, full = load("tiny-llama", device="cpu", dtype="bfloat16"), load("tiny-llama", device="cpu")
    mem = torch.randn(1, 1, full.width, generator=generator, requires_grad=True)
    tokens, weights = torch.tensor([[97, 98, 99]]), torch.ones(1, 3)
    losses = [score(lm, mem, tokens, weights)[0] for lm in (half, full)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=0.05)
    gradients = [torch.autograd.grad(loss, mem)[0].flatten() for loss in losses]
    assert gradients[0].dtype == torch.float32
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


# The optimiser


def reference_losses(lm, token_ids, start, how, n) -> list[float]:
    """Losses on the way of torch's own AdamW, with the learning rate of each step set by hand."""
    tokens, k, first = torch.tensor(token_ids), len(start), 0 if how.score_first else 1
    passes = k + len(tokens) - 1
    param = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.AdamW([param], lr=1.0, betas=how.betas, eps=how.eps, weight_decay=how.weight_decay)
    losses = []
    for step in range(1, n + 1):
        lr = how.lr
        if step <= how.warmup_steps:
            lr = how.lr * step / how.warmup_steps
        elif how.schedule == "cosine" and how.max_steps:
            part = (step - how.warmup_steps) / (how.max_steps - how.warmup_steps)
            lr = how.lr_min + (how.lr - how.lr_min) * (1 + math.cos(math.pi * part)) / 2
        elif how.schedule == "cosine":
            part = step * passes / how.max_token_passes
            lr = how.lr_min + (how.lr - how.lr_min) * (1 + math.cos(math.pi * part)) / 2
        elif how.schedule == "by_length":
            lr = how.lr * math.sqrt(how.full_rate_length / len(tokens))
        optimiser.param_groups[0]["lr"] = lr
        mem = param
        if how.parametrisation == "sphere":
            mem = how.radius * math.sqrt(lm.width) * param / param.norm(dim=1, keepdim=True)
        embeds = torch.cat([mem, lm.model.get_input_embeddings()(tokens)])
        logits = lm.model(inputs_embeds=embeds[None]).logits[0, k - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits[first:], tokens[first:])
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        if how.clip_norm:
            torch.nn.utils.clip_grad_norm_([param], how.clip_norm)
        optimiser.step()
        if how.parametrisation == "sphere":
            with torch.no_grad():
                param *= math.sqrt(lm.width) / param.norm(dim=1, keepdim=True)
    return losses


def test_a_budget_of_token_passes_cuts_a_run_short_and_changes_nothing_before(tiny_llama):
    passage = from_text("Call me", tiny_llama.tokenizer)
    how = recipe("progressive", max_steps=30, warmup_steps=4)
    short = how.model_copy(update={"max_token_passes": 40})
    [whole], [cut] = (cram(tiny_llama, [passage], each, progress=False) for each in (how, short))
    assert cut.ended == "budget"
    assert 40 <= cut.token_passes < 50
    assert cut.steps < whole.steps
    assert cut.trace == whole.trace[: cut.steps]


@pytest.mark.parametrize("n_vectors", [1, 2])
@pytest.mark.parametrize(
    "how",
    [
        recipe("paper", max_steps=12),
        quick(max_steps=12, lr=0.1, betas=(0.8, 0.99), eps=1e-3),
        quick(max_steps=12, lr=0.02, weight_decay=5.0),
        quick(max_steps=12, lr=0.1, clip_norm=0.02, eps=1e-2),
        quick(max_steps=12, lr=0.1, lr_min=0.02, schedule="cosine", warmup_steps=4),
        quick(max_steps=None, max_token_passes=60, lr=0.1, lr_min=0.02, schedule="cosine"),
        quick(max_steps=12, lr=0.1, schedule="by_length", full_rate_length=2),
        Recipe(name="sphere", parametrisation="sphere", radius=1.0, lr=0.1, max_steps=12),
    ],
    ids=["paper", "betas", "decay", "clip", "cosine", "cosine-passes", "by-length", "sphere"],
)
def test_trajectory_is_that_of_torch_adamw(tiny_llama, how, n_vectors):
    lm, passage = tiny_llama, from_text("Call me", tiny_llama.tokenizer)
    start = torch.randn(n_vectors, lm.width, generator=torch.Generator().manual_seed(2))
    if how.parametrisation == "sphere":
        start *= math.sqrt(lm.width) / start.norm(dim=1, keepdim=True)
    [run] = cram(lm, [passage], how, n_vectors=n_vectors, start=[start], progress=False)
    losses = [row[2] for row in run.trace]
    assert len(losses) == run.steps >= 8
    assert losses == pytest.approx(reference_losses(lm, passage.token_ids, start, how, len(losses)), rel=2e-4)


def test_average_of_the_newest_alone_is_adam_without_momentum(tiny_llama):
    passage = from_text("Call me", tiny_llama.tokenizer)
    plain = Recipe(name="plain", parametrisation="sphere", lr=0.1, betas=(0, 0.9), max_steps=12)
    averaged = plain.model_copy(update={"averaging": 1.0, "betas": (0.7, 0.9)})
    [run], [other] = (cram(tiny_llama, [passage], how, progress=False) for how in (plain, averaged))
    assert [row[2] for row in run.trace] == pytest.approx([row[2] for row in other.trace], rel=1e-4)


def test_averaging_by_hand(tiny_llama):
    how = quick(lr=1.0, averaging=0.5, betas=(0.5, 0.9), eps=1e-12)
    start = torch.zeros(1, tiny_llama.width)
    run = engine._Run(tiny_llama, from_text("Call me", tiny_llama.tokenizer), how, 1, 0, start)
    places = []
    for run.steps in (1, 2, 3):
        engine._move([run], torch.ones_like(start)[None])
        places.append(run.param[0, 0].item())
    # iterates -1, -2, -3; their averages -1, -1.5, -2.25; mem half-way between
    assert places == pytest.approx([-1, -1.75, -2.625])


def test_rate_by_length_falls_as_the_prefix_grows_and_not_before(tiny_llama):
    passage = from_text("Call me Ishmael. Some years ago", tiny_llama.tokenizer)
    how = quick(lr=0.1, schedule="by_length", full_rate_length=4, growth=Growth(start=2, block=1))
    run = engine._Run(tiny_llama, passage, how, 1, 0, None)
    rates, run.steps = {}, 1
    for run.length in (2, 4, 9, 16):
        rates[run.length] = run.learning_rate()
    assert rates == pytest.approx({2: 0.1, 4: 0.1, 9: 0.1 * 2 / 3, 16: 0.05})


@pytest.mark.parametrize("n_vectors", [1, 3])
def test_sphere_holds_every_vector_at_its_radius(tiny_llama, steps, prose, n_vectors):
    how = recipe("best", max_steps=5, radius=30.0)
    for run in cram(tiny_llama, prose, how, n_vectors=n_vectors, progress=False):
        torch.testing.assert_close(run.mem.pow(2).mean(1).sqrt(), torch.full((n_vectors,), 30.0))
    for step in steps:
        torch.testing.assert_close(step["mem"].pow(2).mean(2).sqrt(), torch.full((3, n_vectors), 30.0))
    assert not torch.allclose(steps[0]["mem"], steps[-1]["mem"], rtol=1e-2)


def test_weight_of_a_wrong_token_grows_and_falls_back(tiny_llama, steps, prose):
    how = recipe("best", max_steps=40, focus=1.5, focus_max=4.0)
    cram(tiny_llama, prose[:1], how, progress=False)
    expected = torch.ones(len(prose[0]))
    for step in steps:
        torch.testing.assert_close(step["weights"][0], expected / expected.sum())
        won = step["gaps"][0] > how.stop_margin
        expected = torch.where(won, expected / 1.5, expected * 1.5).clamp(1, 4)
    # The premise: some tokens were won and some were not.
    assert 0 < torch.stack([step["gaps"][0] > how.stop_margin for step in steps]).float().mean() < 1


# Where it starts


def test_paper_start_has_the_spread_of_the_embedding_table(tiny_llama, steps, prose):
    cram(tiny_llama, prose[:1], recipe("paper", max_steps=1), n_vectors=64, progress=False)
    cram(tiny_llama, prose[:1], recipe("progressive", max_steps=1), n_vectors=64, progress=False)
    table = tiny_llama.model.get_input_embeddings().weight
    for step, std in zip(steps, (table.std(), 0.02), strict=True):
        assert step["mem"].std() == pytest.approx(float(std), rel=0.05)
        assert abs(step["mem"].mean()) < 0.1 * std


def test_start_depends_on_the_seed_and_the_passage_alone(tiny_llama, steps, prose):
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    for some, seed in ((prose, 0), (prose[::-1], 0), (prose[:1], 1)):
        cram(tiny_llama, some, quick(max_steps=1), seed=seed, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, reversed_, other = (step["mem"] for step in steps)
    assert torch.equal(first, reversed_.flip(0))
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first[0], other[0])


def test_given_start_is_where_it_starts_and_stays_unchanged(tiny_llama, steps, prose):
    start = torch.randn(1, tiny_llama.width)
    before = start.clone()
    cram(tiny_llama, prose[:1], quick(), start=[start], progress=False)
    assert torch.equal(steps[0]["mem"][0], before)
    assert torch.equal(start, before)


# One passage and the others


def assert_same(run, other, rel) -> None:
    assert (run.passage, run.length, run.ended) == (other.passage, other.length, other.ended)
    assert (run.steps, run.token_passes) == (other.steps, other.token_passes)
    np.testing.assert_allclose(np.array(run.trace), np.array(other.trace), rtol=rel)
    torch.testing.assert_close(run.mem, other.mem, rtol=rel, atol=rel)


def test_passage_ends_the_same_alone_and_in_company(tiny, prose):
    how = recipe("paper", max_steps=12)
    alone = cram(tiny, prose, how, batch=1, progress=False)
    together = cram(tiny, prose, how, batch=3, progress=False)
    assert len({len(run.passage) for run in alone}) == 3
    for run, other in zip(alone, together, strict=True):
        assert_same(run, other, rel=2e-3)


def test_each_retires_alone_and_its_place_is_taken(tiny_llama, steps, prose):
    # A budget in tokens ends short passages later: 60 / (1 vector + n - 1 tokens), rounded up.
    how, ended = quick(max_steps=None, max_token_passes=60), []
    runs = cram(tiny_llama, prose, how, batch=2, progress=False, on_result=lambda run: ended.append(run.passage.id))
    assert [run.passage for run in runs] == prose
    assert [run.steps for run in runs] == [math.ceil(60 / len(p)) for p in prose] == [12, 5, 9]
    assert ended == ["or not to be", "To be", "that is"]
    # Two at once while there are two: the third begins when the second is done, and is left alone by the first.
    assert [len(step["mem"]) for step in steps] == [2] * 12 + [1] * 2
    for run, other in zip(runs, cram(tiny_llama, prose, how, batch=8, progress=False), strict=True):
        assert_same(run, other, rel=1e-3)


@pytest.mark.parametrize("n_vectors", [1, 2])
def test_token_passes_are_what_was_fed(tiny_llama, prose, n_vectors):
    for run in cram(tiny_llama, prose, quick(), n_vectors=n_vectors, progress=False):
        # The mem vectors and all tokens but the last, at each of four steps; padding is not counted.
        assert run.token_passes == 4 * (n_vectors + len(run.passage) - 1)
        assert [row[4] for row in run.trace] == [run.token_passes * i // 4 for i in (1, 2, 3, 4)]
        assert run.mem.shape == (n_vectors, tiny_llama.width)
        assert run.mem.dtype == torch.float32


def test_time_is_shared_out(tiny_llama, prose):
    begin = time.perf_counter()
    runs = cram(tiny_llama, prose, quick(max_steps=20), progress=False)
    wall = time.perf_counter() - begin
    assert all(run.seconds > 0 and run.cpu_seconds > 0 for run in runs)
    assert 0.3 * wall < sum(run.seconds for run in runs) <= wall
    # By tokens: all took as many steps.
    per_token = [run.seconds / run.token_passes for run in runs]
    assert per_token == pytest.approx([per_token[0]] * 3, rel=1e-6)


def test_model_is_left_as_it_was(tiny_llama, prose):
    cram(tiny_llama, prose, quick(), progress=False)
    assert weights_digest(tiny_llama.model) == tiny_llama.digest
    assert all(parameter.grad is None for parameter in tiny_llama.model.parameters())


# On a device


class OnDevice(torch.Tensor):
    """A tensor as if on a device: what makes the processor wait for its numbers is counted, by name."""

    waits: ClassVar[list[str]] = []
    ASKS = (
        "item",
        "tolist",
        "cpu",
        "numpy",
        "nonzero",
        "masked_scatter",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
    )

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        at = args[1] if func.__name__ in ("__getitem__", "__setitem__") else ()
        masked = any(getattr(part, "dtype", None) == torch.bool for part in (at if isinstance(at, tuple) else (at,)))
        out = super().__torch_function__(func, types, args, kwargs or {})
        if func.__name__ in cls.ASKS or masked:
            cls.waits.append(func.__name__)
        return out.as_subclass(torch.Tensor) if func.__name__ == "cpu" else out


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("how", [recipe("horizon"), recipe("progressive"), recipe("paper")])
def test_a_step_waits_once_for_a_device_however_many_passages(tiny_llama, monkeypatch, n, how):
    noise = engine.first_mem
    monkeypatch.setattr(engine, "first_mem", lambda *arguments: noise(*arguments).as_subclass(OnDevice))
    some = passages("novels", tiny_llama.tokenizer, n=n, length=12)
    counted = {}
    for most in (5, 15):
        OnDevice.waits = []
        cram(tiny_llama, some, how.model_copy(update={"max_steps": most, "max_token_passes": None}), progress=False)
        counted[most] = Counter(OnDevice.waits)
    assert counted[15] - counted[5] == {"cpu": 10}


# What is kept


def test_solved_cram_is_exact_by_its_margin(tiny, solved):
    assert solved.ended == "solved"
    assert solved.length == len(solved.passage) == 4
    assert solved.correct.all()
    certificate = certify(tiny, solved.mem, solved.passage.token_ids)
    assert certificate.exact
    assert certificate.margin > 0.9 * recipe("best").stop_margin
    np.testing.assert_allclose(certificate.nats, solved.nats, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("score_first", [True, False])
@pytest.mark.parametrize("keep", ["measured", "after_step"])
def test_kept_vector_is_the_best_one_or_the_next(tiny_llama, steps, prose, keep, score_first):
    how = quick(max_steps=30, lr=0.2, keep=keep, score_first=score_first)
    [run] = cram(tiny_llama, prose[1:2], how, progress=False)
    accuracy = [row[3] for row in run.trace]
    best = int(np.argmax(accuracy))
    assert 0 < best < 29  # the premise: neither the first vector nor the last
    torch.testing.assert_close(run.mem, steps[best if keep == "measured" else best + 1]["mem"][0])
    # The numbers are those of the measurement, whichever vector is kept.
    first = 0 if score_first else 1
    assert run.correct[first:].mean() == pytest.approx(accuracy[best])
    assert run.nats[first:].mean() == pytest.approx(run.trace[best][2], rel=1e-5)
    assert (np.isnan(run.nats[0]), bool(run.correct[0])) == (not score_first, score_first and bool(run.correct[0]))
    tokens = torch.tensor([run.passage.token_ids])
    nats, gaps = teacher_forced(tiny_llama, run.mem[None], tokens)
    same = np.allclose(nats[0][first:], run.nats[first:], rtol=1e-3, atol=1e-3)
    assert same == (keep == "measured")
    if keep == "measured":
        assert ((gaps[0] > 0).numpy() == run.correct)[first:].all()


def test_first_token_that_is_not_scored_has_no_part(tiny_llama, steps, prose):
    cram(tiny_llama, prose, quick(score_first=False), progress=False)
    for step in steps:
        assert (step["weights"][:, 0] == 0).all()
        torch.testing.assert_close(step["weights"].sum(1), torch.ones(3))


def test_run_with_no_token_right_still_reports_its_loss(tiny_llama, prose):
    [run] = cram(tiny_llama, prose[:1], quick(max_steps=3, lr=1e-6), progress=False)
    assert not run.correct.any()  # the premise
    assert run.nats.mean() == pytest.approx(run.trace[0][2], rel=1e-5)


# The ends


def test_patience_counts_from_the_best_accuracy(tiny_llama, prose):
    [run] = cram(tiny_llama, prose[1:2], quick(max_steps=None, patience=6, lr=0.1), progress=False)
    accuracy = [row[3] for row in run.trace]
    assert run.ended == "patience"
    assert run.steps == int(np.argmax(accuracy)) + 1 + 6
    assert max(accuracy) > 0  # the premise: a better one has reset the count


def test_margin_to_stop_at(tiny_llama, prose):
    [easy] = cram(tiny_llama, [from_text("it", tiny_llama.tokenizer)], recipe("best", max_steps=50), progress=False)
    assert easy.solved
    assert easy.trace[-1][3] == 1.0
    # The same with a margin that is out of reach runs into its budget, though every token is right for a while.
    how = recipe("best", max_steps=50, stop_margin=1e6, focus=1.0)
    [strict] = cram(tiny_llama, [from_text("it", tiny_llama.tokenizer)], how, progress=False)
    assert (strict.ended, strict.solved, strict.steps) == ("budget", False, 50)


def test_growing_prefix(tiny_llama, prose):
    how = recipe("horizon", max_token_passes=600, growth=Growth(start=2, block=3))
    runs = cram(tiny_llama, prose, how, progress=False)
    assert max(run.length for run in runs) >= 2  # the premise: something grew
    for run in runs:
        lengths = [row[1] for row in run.trace]
        assert lengths[0] == 2
        assert lengths == sorted(lengths)
        assert run.length <= lengths[-1] <= min(len(run.passage), max(2, run.length + 3))
        assert run.correct.all()
        assert len(run.correct) == len(run.nats) == run.length
        # Without padding, and with the length each step had.
        assert run.token_passes == sum(lengths)
        assert run.token_passes - lengths[-1] < 600 <= run.token_passes or run.solved


@pytest.mark.parametrize(
    "how",
    [recipe("horizon", growth=Growth(start=1, block=1), restart_steps=None), recipe("best")],
    ids=["grown", "whole"],
)
def test_path_has_the_first_vector_of_every_count_of_right_tokens(tiny_llama, solved_llama, how):
    passage = solved_llama.passage
    [run] = cram(tiny_llama, [passage], how, path=True, progress=False)
    assert run.solved
    assert run.path.shape == (len(passage), 1, tiny_llama.width)
    tokens = torch.tensor([passage.token_ids])
    for right, mem in enumerate(run.path, 1):
        _, gaps = teacher_forced(tiny_llama, mem[None], tokens)
        won = gaps[0] > 0
        assert won[:right].all() if how.growth else won.sum() >= right
    assert cram(tiny_llama, [passage], quick(), progress=False)[0].path is None


def test_growth_by_a_share_of_what_is_exact(tiny_llama, solved_llama):
    passage = from_text("xylo, and more than that", tiny_llama.tokenizer, id=solved_llama.passage.id)
    how = recipe("horizon", max_token_passes=20, growth=Growth(start=4, block=1, fraction=2.0))
    [run] = cram(tiny_llama, [passage], how, start=[solved_llama.mem], progress=False)
    assert [row[1] for row in run.trace][:2] == [4, 12]


def test_stage_without_progress_ends_the_run(tiny_llama, prose):
    how = recipe("horizon", growth=Growth(start=5, stage_steps=3), lr=1e-6, stop_margin=50)
    [run] = cram(tiny_llama, prose[:1], how, progress=False)
    assert (run.ended, run.steps, run.length) == ("stage", 3, 0)


# Ctrl-C


def test_interrupt_at_a_result_keeps_it_and_hands_back_the_rest(tiny_llama, prose):
    def stop(run):
        raise KeyboardInterrupt

    how = quick(max_steps=None, max_token_passes=60)
    runs = cram(tiny_llama, prose, how, batch=2, progress=False, on_result=stop)
    # The third had not begun.
    assert [(run.passage, run.ended, run.steps) for run in runs] == [
        (prose[0], "interrupted", 5),
        (prose[1], "budget", 5),
    ]


def test_interrupt_does_not_unfinish_what_ended_in_the_same_step(tiny_llama, prose):
    def stop(run):
        raise KeyboardInterrupt

    runs = cram(tiny_llama, prose, quick(max_steps=3), progress=False, on_result=stop)
    assert [run.ended for run in runs] == ["budget"] * 3


def test_interrupt_in_a_step_hands_back_what_is_under_way(tiny_llama, prose, monkeypatch):
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    monkeypatch.setattr(engine, "score", interrupted)
    reported = []
    how = quick(max_steps=None, max_token_passes=60)
    runs = cram(tiny_llama, prose, how, batch=2, progress=False, on_result=reported.append)
    assert [(run.ended, run.steps) for run in runs] == [("interrupted", 7), ("budget", 5), ("interrupted", 2)]
    # Callers that store results are not handed unfinished ones.
    assert reported == [runs[1]]


class Checkpoints(dict):
    """States by passage, kept in memory."""

    def load(self, passage):
        return self.get(passage.id)

    def save(self, passage, state):
        self[passage.id] = {name: tensor.clone() for name, tensor in state.items()}


INTERRUPTIBLE = [
    recipe("paper", max_steps=12),
    recipe("best", max_steps=12),
    recipe("horizon", max_token_passes=60, growth=Growth(start=1, block=1), restart_steps=None),
    quick(max_steps=12, lr=0.1, schedule="cosine", warmup_steps=9, clip_norm=0.1),
    quick(max_steps=12, lr=0.1, averaging=0.2),
]


@pytest.mark.parametrize("path", [False, True], ids=["", "path"])
@pytest.mark.parametrize("how", INTERRUPTIBLE, ids=["paper", "best", "horizon", "cosine", "averaging"])
def test_interrupted_run_goes_on_as_if_nothing_had_happened(tiny_llama, prose, monkeypatch, how, path):
    whole = cram(tiny_llama, prose, how, path=path, progress=False)
    calls, checkpoints = [], Checkpoints()

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) in (4, 9):
            raise KeyboardInterrupt
        return score(*arguments, **options)

    monkeypatch.setattr(engine, "score", interrupted)
    for steps_so_far in (3, 7):
        runs = cram(tiny_llama, prose, how, path=path, progress=False, checkpoints=checkpoints)
        assert [(run.ended, run.steps) for run in runs] == [("interrupted", steps_so_far)] * 3
    before = {run.passage.id: run.seconds for run in runs}
    resumed = cram(tiny_llama, prose, how, path=path, progress=False, checkpoints=checkpoints)
    for run, other in zip(resumed, whole, strict=True):
        assert_same(run, other, rel=1e-6)
        assert (run.path is not None) == path
        if path:
            assert torch.allclose(run.path, other.path, rtol=1e-4)
        assert run.seconds > before[run.passage.id]  # the time before the interruption counts


def test_runs_under_way_are_saved_now_and_then(tiny_llama, prose, monkeypatch):
    saved = []

    class Recorded(Checkpoints):
        def save(self, passage, state):
            saved.append((passage.id, len(state["trace"])))

    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", -1.0)
    how = quick(max_steps=None, max_token_passes=14)
    cram(tiny_llama, prose[:2], how, progress=False, checkpoints=Recorded())
    # After each step those that go on: three steps of five tokens for the one, two of twelve for the other.
    assert saved == [("To be", 1), ("or not to be", 1), ("To be", 2)]
    saved.clear()
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 1e9)
    cram(tiny_llama, prose[:2], how, progress=False, checkpoints=Recorded())
    assert saved == []


def test_half_a_step_is_not_saved(tiny_llama, prose, monkeypatch):
    """One passage has digested the step, the next is in the middle of it."""
    take, calls, checkpoints = engine._Run.take, [], Checkpoints()

    def interrupted(run, *seen):
        calls.append(run)
        if len(calls) == 8:
            raise KeyboardInterrupt
        take(run, *seen)

    with monkeypatch.context() as patch:
        patch.setattr(engine._Run, "take", interrupted)
        cram(tiny_llama, prose, quick(), progress=False, checkpoints=checkpoints)
    assert {name: len(state["trace"]) for name, state in checkpoints.items()} == {"To be": 3}
    whole = cram(tiny_llama, prose, quick(), progress=False)
    resumed = cram(tiny_llama, prose, quick(), progress=False, checkpoints=checkpoints)
    for run, other in zip(resumed, whole, strict=True):
        assert_same(run, other, rel=1e-3)


def test_bar_says_how_it_stands(tiny_llama, prose, capsys):
    cram(tiny_llama, prose, quick(), progress=True)
    said = capsys.readouterr().err
    assert "cram quick" in said
    assert "loss" in said
    assert "/3 passages done" in said
    cram(tiny_llama, prose, quick(), progress=False)
    assert capsys.readouterr().err == ""


# What it refuses


def test_nothing_to_do(tiny_llama, prose):
    fails("no passages to cram", tiny_llama, [], quick())
    fails("n_vectors is 0", tiny_llama, prose, quick(), n_vectors=0)
    fails("batch is 0", tiny_llama, prose, quick(), batch=0)
    fails("'quick' has no budget: set max_steps", tiny_llama, prose, quick(max_steps=None))


def test_passage_that_is_too_short_or_too_long(tiny_llama):
    one, long = (from_text("x" * n, tiny_llama.tokenizer) for n in (1, 511))
    fails("needs passages of at least 2 tokens", tiny_llama, [one], quick(score_first=False))
    fails(
        "2 mem vectors and 511 tokens exceed the 512 positions of tiny-llama", tiny_llama, [long], quick(), n_vectors=2
    )
    [run] = cram(tiny_llama, [one], quick(), progress=False)
    assert len(run.nats) == 1


def test_start_that_does_not_fit(tiny_llama, prose):
    fails("start has 1 tensors for 3 passages", tiny_llama, prose, quick(), start=[torch.zeros(1, 64)])
    fails(r"shape \(2, 64\): expected \(1, 64\)", tiny_llama, prose[:1], quick(), start=[torch.zeros(2, 64)])


def test_model_that_scales_its_logits_is_refused(tiny_llama, prose):
    config = AutoConfig.for_model(
        "cohere",
        **{"vocab_size": 257, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1},
        **{"num_attention_heads": 4, "logit_scale": 0.1, "initializer_range": 0.4, "eos_token_id": 256},
    )
    lm = dataclasses.replace(tiny_llama, name="scaled", model=AutoModelForCausalLM.from_config(config).eval())
    fails("scaled changes its logits after the output head", lm, prose, quick())


# The real model

CACHE = Path(os.environ.get("CRAMMING_CACHE") or platformdirs.user_cache_dir("cramming"))


@pytest.mark.slow
@pytest.mark.realmodel
@pytest.mark.skipif(not (CACHE / "models" / SMOLLM2 / "digest.txt").exists(), reason="run `cramming fetch` first")
def test_real_model_crams_eight_tokens_of_a_novel():
    lm = load(SMOLLM2, device="cpu")
    [passage] = passages("novels", lm.tokenizer, n=1, length=8)
    [run] = cram(lm, [passage], recipe("best", max_steps=200), progress=False)
    assert run.solved
    assert certify(lm, run.mem, passage.token_ids).exact
    assert lm.tokenizer.decode(greedy(lm, run.mem, 8)[0]) == passage.text

"""Decoding from the mem vectors alone, and the certificate that a passage comes back token for token.

Nothing here is shared with the engine: logits come from the whole model, so that a certificate is a second opinion.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cramming.errors import CrammingError
from cramming.memories import VECTORS, Feed, Vectors
from cramming.models import FrozenLM


@dataclass(frozen=True)
class Certificate:
    """How much of a passage its mem vectors give back, by three ways of computing the same logits.

    Attributes:
        length: Tokens of the passage.
        greedy_correct: Tokens before the first error when the model decodes freely, token by token with a KV cache.
        agreed: The longest prefix that all three ways get right: free decoding with a cache, teacher forcing alone,
            and teacher forcing in a padded batch.
        margin: Smallest gap over the passage and the three ways, in logits; at most 0 where something is wrong.
        correct: Teacher-forced alone: whether each token is the argmax, shape (length,).
        nats: Teacher-forced alone: cross-entropy of each token, shape (length,).
    """

    length: int
    greedy_correct: int
    agreed: int
    margin: float
    correct: np.ndarray
    nats: np.ndarray

    @property
    def exact(self) -> bool:
        """Whether every way gives the whole passage back, with a positive margin."""
        return self.agreed == self.length and self.margin > 0


@torch.no_grad()
def certify(
    lm: FrozenLM, mem: torch.Tensor, token_ids: Sequence[int], *, given: int = 0, memory: Vectors = VECTORS
) -> Certificate:
    """Decode a passage from its vectors, or another memory, and compare the ways of doing so.

    Args:
        lm: The frozen model.
        mem: Shape (k, d), or what the memory asks for.
        token_ids: The passage.
        given: Tokens at its start that are handed to the model after mem and are no part of the certificate. The
            paper's protocol neither trains nor scores token 0: there, 1. For vectors only.
        memory: What mem is, see `cramming.memories`.

    Raises:
        CrammingError: If mem is not of that shape, holds a number that is not finite, or the passage is empty.
    """
    _check(lm, mem, token_ids[given:], memory)
    mem, truth = front(lm, mem, token_ids[:given]), torch.tensor(token_ids[given:], device=lm.device)
    nats, alone = teacher_forced(lm, mem[None], truth[None], memory)
    # The same passage beside another one and with padding after it: other matrix shapes, other rounding.
    company = torch.stack([truth, truth.flip(0)])
    padded = torch.nn.functional.pad(company, (0, 8), value=int(truth[-1]))
    if lm.context_length is not None:
        padded = padded[:, : max(len(truth), lm.context_length - len(mem))]
    _, batched = teacher_forced(lm, mem[None].expand(2, -1, -1), padded, memory)
    free, top_gaps = greedy(lm, mem, len(truth), memory=memory)
    wrong = free != truth
    greedy_correct = int(wrong.nonzero()[0]) if wrong.any() else len(truth)
    # Past its first error free decoding is about another text: its gaps say nothing of this one.
    cached = torch.where(torch.arange(len(truth), device=lm.device) < greedy_correct, top_gaps, -torch.inf)
    worst = torch.stack([alone[0], batched[0, : len(truth)], cached]).amin(0)
    return Certificate(
        length=len(truth),
        greedy_correct=greedy_correct,
        agreed=int((worst > 0).int().cumprod(0).sum()),
        # An infinite gap means that free decoding went astray; the teacher-forced one says by how much.
        margin=float(torch.where(worst.isinf(), torch.minimum(alone[0], alone.new_zeros(())), worst).min()),
        correct=(alone[0] > 0).cpu().numpy(),
        nats=nats[0].cpu().numpy(),
    )


def front(lm: FrozenLM, mem: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
    """Mem vectors (k, d), and behind them the embeddings of n tokens that are given, (k + n, d)."""
    mem = mem.to(lm.device)
    if not token_ids:
        return mem
    return torch.cat([mem, lm.model.get_input_embeddings()(torch.tensor(token_ids, device=lm.device)).float()])


@torch.no_grad()
def teacher_forced(
    lm: FrozenLM, mem: torch.Tensor, tokens: torch.Tensor, memory: Vectors = VECTORS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats and gap in logits of each token given mem and the true tokens before it.

    Args:
        lm: The frozen model.
        mem: Shape (B, k, d), or what the memory asks for.
        tokens: Shape (B, L).
        memory: What mem is, see `cramming.memories`. Proto-tokens are given no true tokens.

    Returns:
        nats and gaps, both (B, L). A gap is the true token's logit minus the best other one.
    """
    feed = memory.feed(lm, mem.to(lm.device), tokens)
    logits = lm.model(**feed.inputs()).logits[:, -tokens.shape[1] :].float()
    return nats_and_gaps(logits, tokens)


@torch.no_grad()
def without_mem(lm: FrozenLM, token_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy in nats and gap in logits of each token of the plain text, both (L,).

    Nothing stands before token 0, so the model says nothing of it: it counts as log V nats, what a uniform guess
    costs, and with a gap of 0 as not won.
    """
    if not token_ids:
        raise CrammingError("the passage is empty: give at least one token")
    tokens = torch.tensor([list(token_ids)], device=lm.device)
    nats = torch.full((tokens.shape[1],), math.log(lm.vocab_size))
    gaps = torch.zeros(tokens.shape[1])
    if tokens.shape[1] > 1:
        logits = lm.model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
        some_nats, some_gaps = nats_and_gaps(logits, tokens[:, 1:])
        nats[1:], gaps[1:] = some_nats[0].cpu(), some_gaps[0].cpu()
    return nats.numpy(), gaps.numpy()


@torch.no_grad()
def greedy(
    lm: FrozenLM, mem: torch.Tensor, n_tokens: int, *, cached: bool = True, memory: Vectors = VECTORS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode freely from the mem vectors alone: the argmax of each step is fed to the next.

    A memory that is read in one pass gives all tokens at once, and nothing is fed back.

    Args:
        lm: The frozen model.
        mem: Shape (k, d), or what the memory asks for.
        n_tokens: Tokens to decode.
        cached: Whether to feed one token at a time and keep keys and values (or the recurrent state), as a user would,
            or to run the whole sequence anew for every token.
        memory: What mem is, see `cramming.memories`.

    Returns:
        The tokens, and by how many logits each won over the next best; both (n_tokens,).
    """
    mem = mem[None].to(lm.device)
    ahead = torch.zeros(1, n_tokens if memory.one_pass else 1, dtype=torch.long, device=lm.device)
    feed = memory.feed(lm, mem, ahead)  # of these tokens none is fed: they say how many positions are wanted
    if memory.one_pass:
        best = lm.model(**feed.inputs()).logits[0, -n_tokens:].float().topk(2)
        return best.indices[:, 0], best.values[:, 0] - best.values[:, 1]
    ways = generated(lm, feed.inputs(use_cache=True), n_tokens) if cached else _anew(lm, feed, n_tokens)
    best = torch.cat(list(ways)).float().topk(2)
    return best.indices[:, 0], best.values[:, 0] - best.values[:, 1]


@torch.no_grad()
def generated(lm: FrozenLM, inputs: Mapping[str, Any], n_tokens: int) -> Iterator[torch.Tensor]:
    """Logits (B, V) of each step of greedy decoding: the argmax is fed to the next, with what the model carries on.

    Args:
        lm: The frozen model.
        inputs: Its arguments at the first step, with `use_cache`; if `attention_mask` and `position_ids` are among
            them they go on too.
        n_tokens: Steps.
    """
    inputs = dict(inputs)
    for _ in range(n_tokens):
        out = lm.model(**inputs)
        logits = out.logits[:, -1]
        yield logits
        inputs |= {"inputs_embeds": lm.model.get_input_embeddings()(logits.argmax(1, keepdim=True)), **carried(out)}
        if "attention_mask" in inputs:
            mask = inputs["attention_mask"]
            inputs["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            inputs["position_ids"] = inputs["position_ids"][:, -1:] + 1


def _anew(lm: FrozenLM, feed: Feed, n_tokens: int) -> Iterator[torch.Tensor]:
    """The same as `generated`, the whole sequence run anew for every token."""
    for _ in range(n_tokens):
        logits = lm.model(**feed.inputs()).logits[:, -1]
        yield logits
        following = lm.model.get_input_embeddings()(logits.argmax(1, keepdim=True))
        feed = replace(feed, embeds=torch.cat([feed.embeds, following], dim=1))


def carried(out: Mapping[str, object]) -> dict[str, object]:
    """What a model hands on from one step to the next: keys and values, or its recurrent state."""
    return {name: out[name] for name in ("past_key_values", "cache_params") if out.get(name) is not None}


def reading_seconds(
    lm: FrozenLM, mem: torch.Tensor, n_tokens: int, *, memory: Vectors = VECTORS, repeats: int = 3
) -> float:
    """Processor seconds that decoding takes, see `greedy`: the median of a few times."""
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        greedy(lm, mem, n_tokens, memory=memory)
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def nats_and_gaps(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats and gap in logits, both (B, L), of tokens (B, L) from the logits (B, L, V) for them."""
    true = logits.gather(2, tokens[..., None])
    others = logits.scatter(2, tokens[..., None], -torch.inf).amax(2)
    return (logits.logsumexp(2) - true[..., 0]), (true[..., 0] - others)


def ranks(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Rank of each token (L,) among the logits (L, V) for it; 1 is the likeliest."""
    return 1 + (logits > logits.gather(1, tokens[:, None])).sum(1)


def _check(lm: FrozenLM, mem: torch.Tensor, token_ids: Sequence[int], memory: Vectors) -> None:
    _, width = memory.shape(lm, 1)
    if mem.ndim != 2 or mem.shape[1] != width:
        raise CrammingError(f"mem has shape {tuple(mem.shape)}: expected (k, {width}) for {lm.name}")
    if not torch.isfinite(mem).all():
        raise CrammingError("mem holds numbers that are not finite: the vector is damaged, cram the passage again")
    if len(token_ids) == 0:
        raise CrammingError("the passage is empty: give at least one token")


_OPENING = 8  # tokens that changed vectors are tried on first: most that fail do so early, and cost little that way


def exact_prefix(lm: FrozenLM, mems: torch.Tensor, token_ids: Sequence[int]) -> list[int]:
    """Tokens before the first that is not the argmax given the true ones before it, for each of the mems (n, k, d)."""
    exact = torch.zeros(len(mems), dtype=torch.long)
    left = torch.arange(len(mems))
    for stop in (min(_OPENING, len(token_ids)), len(token_ids)):
        tokens = torch.tensor(token_ids[:stop], device=lm.device).expand(len(left), -1)
        _, gaps = teacher_forced(lm, mems[left], tokens)
        exact[left] = (gaps > 0).int().cumprod(1).sum(1).cpu()
        left = left[exact[left] == stop]
        if not len(left):
            break
    return exact.tolist()

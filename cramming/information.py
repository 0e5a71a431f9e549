"""What a text costs a model, token by token: told nothing of it, the least of that which must go, and given mem."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from cramming.decode import teacher_forced, without_mem
from cramming.metrics import least_reduction
from cramming.models import FrozenLM
from cramming.texts import Passage


def surprise(lm: FrozenLM, passages: Sequence[Passage]) -> pd.DataFrame:
    """Cross-entropy of every token of the plain passages, given the true tokens before it and no mem.

    Token 0 is left out: nothing stands before it, so the model says nothing of it.

    Returns:
        One row a token: source, passage, position (1 is the second token), nats, and least_nats, what has to be taken
        off them for the token to be the argmax; see `cramming.metrics.least_reduction`.
    """
    parts = []
    for passage in passages:
        nats, gaps = without_mem(lm, passage.token_ids)
        parts.append(
            pd.DataFrame(
                {
                    "source": passage.source,
                    "passage": passage.id,
                    "position": range(1, len(passage)),
                    "nats": nats[1:],
                    "least_nats": least_reduction(nats[1:], gaps[1:]),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def told(lm: FrozenLM, vectors: Sequence[torch.Tensor], passages: Sequence[Passage]) -> pd.DataFrame:
    """Cross-entropy of every token given the true tokens before it, without mem and with it.

    Passages may be longer than what their vectors hold: then one sees where the text ends that the vector tells.
    Token 0 is left out, as in `surprise`.

    Args:
        lm: The frozen model.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: The text, as far as it is to be looked at; at least two tokens.

    Returns:
        One row a token: source, passage, position (1 is the second token), nats, nats_with.
    """
    parts = []
    for mem, passage in zip(vectors, passages, strict=True):
        nats, _ = without_mem(lm, passage.token_ids)
        nats_with, _ = teacher_forced(lm, mem[None], torch.tensor([passage.token_ids], device=lm.device))
        parts.append(
            pd.DataFrame(
                {
                    "source": passage.source,
                    "passage": passage.id,
                    "position": range(1, len(passage)),
                    "nats": nats[1:],
                    "nats_with": nats_with[0, 1:].cpu().numpy(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def sizes(passages: Sequence[Passage]) -> pd.DataFrame:
    """How long passages are: one row a passage with source, passage, tokens, words (by blanks) and characters."""
    return pd.DataFrame(
        [(p.source, p.id, len(p), len(p.text.split()), len(p.text)) for p in passages],
        columns=["source", "passage", "tokens", "words", "characters"],
    )

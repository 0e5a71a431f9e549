"""What a text costs a model, token by token: told nothing of it, the least of that which must go, and given mem."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from cramming.decode import teacher_forced, without_mem
from cramming.errors import CrammingError
from cramming.metrics import least_reduction, nats_to_bits
from cramming.models import FrozenLM, layers, load
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
        parts.append(_after_first(passage, nats=nats[1:], least_nats=least_reduction(nats[1:], gaps[1:])))
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
        parts.append(_after_first(passage, nats=nats[1:], nats_with=nats_with[0, 1:].cpu().numpy()))
    return pd.concat(parts, ignore_index=True)


def sizes(passages: Sequence[Passage]) -> pd.DataFrame:
    """How long passages are: one row a passage with source, passage, tokens, words (by blanks) and characters."""
    return pd.DataFrame(
        [(p.source, p.id, len(p), len(p.text.split()), len(p.text)) for p in passages],
        columns=["source", "passage", "tokens", "words", "characters"],
    )


def by_model(results: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """How large each model is, and how well it predicts the passages without mem: the same tokens for every model.

    Args:
        results: Rows of the store, of several models.
        tokens: How many of each passage, from its start; of shorter ones all.

    Returns:
        One row a model and passage: model, parameters (distinct numbers, so that a table that is also the head counts
        once), layers, passage, bits (mean cross-entropy a token, token 0 left out).

    Raises:
        CrammingError: If tokens is below 2, or a model cannot be loaded.
    """
    if tokens < 2:
        raise CrammingError(f"tokens is {tokens}: token 0 is not scored, so take 2 or more")
    rows = []
    for (name, dtype), some in results.groupby(["model", "dtype"], sort=False):
        lm = load(str(name), dtype=str(dtype))
        parameters, depth = lm.model.num_parameters(), len(layers(lm.model))
        for run in some.drop_duplicates("passage").itertuples():
            nats, _ = without_mem(lm, list(run.token_ids[:tokens]))
            rows.append((name, parameters, depth, run.passage, nats_to_bits(nats[1:].mean())))
    return pd.DataFrame(rows, columns=["model", "parameters", "layers", "passage", "bits"])


def _after_first(passage: Passage, **columns: np.ndarray) -> pd.DataFrame:
    """One row a token of the passage but token 0: source, passage, position, and the columns given, each (L - 1,)."""
    names = {"source": passage.source, "passage": passage.id, "position": range(1, len(passage))}
    return pd.DataFrame({**names, **columns})

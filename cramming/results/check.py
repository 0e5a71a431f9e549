"""Every stored vector decoded again, and held against what its row claims."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from cramming.decode import certify
from cramming.engine import progress_bar
from cramming.errors import CrammingError
from cramming.memories import MEMORIES, Vectors
from cramming.models import FrozenLM, load
from cramming.recipes import Recipe
from cramming.results.plans import stays
from cramming.results.store import Store


def recheck(store: Store, *, device: str = "auto", progress: bool = True) -> pd.DataFrame:
    """Decode every stored vector again from its model.

    Returns:
        The store's frame with `exact_now` and `margin_now` (logits), of the first `length` tokens of each passage.

    Raises:
        CrammingError: If a model's weights are not those the row was made with, or a row has no vector.
    """
    frame, vectors = store.frame(), store.vectors()
    exact, margins = {}, {}
    with progress_bar(len(frame), "vector", "check", wanted=progress) as bar:
        for (name, dtype), rows in frame.groupby(["model", "dtype"]):
            stays(str(name), f"a row of {store.root.name}")
            lm = load(str(name), device=device, dtype=str(dtype))
            for row in rows.itertuples():
                if row.model_digest != lm.digest:
                    raise CrammingError(
                        f"{row.passage} was crammed into {name} {row.model_digest}, the model here is {lm.digest}: "
                        "fetch the same weights"
                    )
                if row.key not in vectors:
                    raise CrammingError(
                        f"run {row.key} of {row.passage} has no vector in the store: restore its shard"
                    )
                memory = MEMORIES[Recipe.model_validate_json(row.recipe_json).memory]
                if wrong := _impossible(lm, row, vectors[row.key], memory):
                    raise CrammingError(f"run {str(row.key)[:80]} of {store.root.name} {wrong}: restore its shard")
                if row.length:
                    again = certify(
                        lm,
                        vectors[row.key],
                        row.token_ids[: row.length].tolist(),
                        given=0 if row.score_first else 1,
                        memory=memory,
                    )
                    exact[row.key], margins[row.key] = again.exact, again.margin
                bar.update()
    return frame.assign(
        exact_now=frame["key"].map(exact).fillna(False).astype(bool),
        margin_now=frame["key"].map(margins).astype(float),
    )


def _impossible(lm: FrozenLM, row: Any, mem: torch.Tensor, memory: Vectors) -> str:
    """What of a stored row cannot be, given the model; empty if all can."""
    if not 0 <= row.length <= len(row.token_ids):
        return f"has length {row.length} of {len(row.token_ids)} tokens"
    if len(row.token_ids) and not (0 <= min(row.token_ids) <= max(row.token_ids) < lm.vocab_size):
        return f"has token ids beyond the model's {lm.vocab_size}"
    if not 1 <= row.n_vectors <= mem.numel() or tuple(mem.shape) != memory.shape(lm, row.n_vectors):
        return f"has a vector of shape {tuple(mem.shape)}, no {row.n_vectors} for {lm.name}"
    return ""

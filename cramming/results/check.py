"""Vectors decoded again: those of a store, held against what their rows claim, and one in a file of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

from cramming.decode import Certificate, certify
from cramming.engine import progress_bar
from cramming.errors import CrammingError
from cramming.files import read_tensors
from cramming.memories import MEMORIES, VECTORS, Vectors
from cramming.models import FrozenLM, load
from cramming.recipes import Recipe
from cramming.results.plans import stays
from cramming.results.store import Store


class Kept(NamedTuple):
    """A text's vectors in a file of safetensors, as the page that crams in a browser writes it.

    Attributes:
        mem: Tensor ``mem`` of the file, float32, shape (k, d).
        token_ids: Entry of that name of its metadata, a list in JSON.
        model, model_digest: Entries of its metadata: what the vectors were found for.
    """

    mem: torch.Tensor
    token_ids: list[int]
    model: str
    model_digest: str


def read_kept(path: Path) -> Kept:
    """The vectors of a file.

    Raises:
        CrammingError: If it is none, or lacks what has to be known to decode them.
    """
    way_out = "name a file that the page 'Cram it yourself' wrote"
    try:
        mem = read_tensors(path)["mem"]
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
        ids = json.loads(said["token_ids"])
        if mem.ndim != 2 or mem.dtype != torch.float32:
            raise ValueError(f"mem is {str(mem.dtype).removeprefix('torch.')} of shape {tuple(mem.shape)}")
        if not ids or not all(type(token) is int for token in ids):
            raise ValueError("token_ids are no list of numbers")
        return Kept(mem, ids, said["model"], said["model_digest"])
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise CrammingError(f"{path.name} holds no crammed text ({reason}): {way_out}") from error
    except KeyError as error:
        raise CrammingError(f"{path.name} holds no crammed text (no {error.args[0]} in it): {way_out}") from error


def recheck_kept(kept: Kept, *, device: str = "auto") -> Certificate:
    """Decode the vectors of a file from their model.

    Raises:
        CrammingError: If the model's weights are not those that the file names, or the vectors do not fit it.
    """
    stays(kept.model, "the file")
    lm = load(kept.model, device=device)
    if kept.model_digest != lm.digest:
        raise CrammingError(
            f"the vector was found for {kept.model} {kept.model_digest[:80]}, the model here is {lm.digest}: fetch "
            "the same weights"
        )
    if wrong := _unfit(lm, kept.token_ids, kept.mem, VECTORS.shape(lm, len(kept.mem))):
        raise CrammingError(f"the file {wrong}: write it again")
    return certify(lm, kept.mem, kept.token_ids)


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
    if not 1 <= row.n_vectors <= mem.numel():
        return f"has a vector of shape {tuple(mem.shape)}, no {row.n_vectors} for {lm.name}"
    return _unfit(lm, row.token_ids, mem, memory.shape(lm, row.n_vectors))


def _unfit(lm: FrozenLM, token_ids: Sequence[int], mem: torch.Tensor, shape: tuple[int, ...]) -> str:
    if len(token_ids) and not (0 <= min(token_ids) <= max(token_ids) < lm.vocab_size):
        return f"has token ids beyond the model's {lm.vocab_size}"
    if tuple(mem.shape) != shape:
        return f"has a vector of shape {tuple(mem.shape)}, {lm.name} takes {shape}"
    return ""

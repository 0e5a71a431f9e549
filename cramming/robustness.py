"""Whether a passage stays exact when the logits of the same vector are computed in another way."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence

from cramming.decode import carried, nats_and_gaps, teacher_forced
from cramming.engine import packs, score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.texts import Passage


@dataclass(frozen=True)
class Setting:
    """One way of computing the logits of passages given their vectors; in exact arithmetic all would agree.

    Attributes:
        rows: Passages at once; of unequal ones the shorter are padded to the longest.
        layout: whole: all tokens in one pass. packed: the same, several passages end to end in one sequence, as the
            engine crams them. cached: one token at a time, keys and values kept, as text is generated.
        attention: Which of the implementations in transformers.
        dtype: Number format of weights and activations. The norms compute in float32 whatever it is.
        rounded: Whether the vector is rounded to bfloat16 before it is used.
        threads: Of the processor.
    """

    rows: int = 1
    layout: Literal["whole", "packed", "cached"] = "whole"
    attention: Literal["sdpa", "eager"] = "sdpa"
    dtype: torch.dtype = torch.float32
    rounded: bool = False
    threads: int = 2

    @property
    def coarse(self) -> bool:
        """Whether numbers of 16 bits are involved."""
        return self.rounded or self.dtype.itemsize < 4


# The first is the one that the others are compared with. A processor without units for float16 takes too long over it.
SETTINGS = {
    "one passage at a time": Setting(),
    "one thread": Setting(threads=1),
    "eight passages, padded": Setting(rows=8),
    "eight passages, packed": Setting(rows=8, layout="packed"),
    "token by token, cached": Setting(rows=32, layout="cached"),
    "eager attention": Setting(attention="eager"),
    "float64": Setting(dtype=torch.float64),
    "vector in bfloat16": Setting(rounded=True),
    "all in bfloat16": Setting(dtype=torch.bfloat16),
    "all in bfloat16, eager attention": Setting(dtype=torch.bfloat16, attention="eager"),
}


@torch.no_grad()
def gaps(
    lm: FrozenLM,
    vectors: Sequence[torch.Tensor],
    passages: Sequence[Passage],
    given: Sequence[int],
    settings: Mapping[str, Setting] = SETTINGS,
) -> pd.DataFrame:
    """By how many logits each token wins or loses, given its vector and the true tokens before it, by setting.

    A passage is decoded greedily without an error in a setting if and only if all its gaps there are above 0: up to
    the first error, the argmax that decoding feeds back is the true token. The first gap at or below 0 is the first
    error.

    Args:
        lm: The frozen model, in float32.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: What they hold.
        given: How many tokens at the start of each passage are handed over after mem, and not counted: 1 for the
            paper's protocol, which neither trains nor scores token 0.
        settings: Ways of computing; the first is the reference.

    Returns:
        One row a setting, passage and token: setting, coarse (see `Setting`), run (place in the lists), position (0 is
        the first token that is not given), gap, reference (the gap in the first setting), both in logits. A gap is NaN
        where a number format is left behind, as float16 can be; such a token counts as lost.

    Raises:
        CrammingError: If there is no passage, or one has no token left to decode.
    """
    if not len(vectors) == len(passages) == len(given) > 0:
        raise CrammingError(
            f"{len(vectors)} vectors, {len(passages)} passages and {len(given)} counts of given tokens: "
            "give as many of each, at least one"
        )
    for passage, n in zip(passages, given, strict=True):
        if len(passage) <= n:
            raise CrammingError(f"passage {passage.id} has {len(passage)} tokens, {n} of them given: give more tokens")
    tokens = [torch.tensor(passage.token_ids, device=lm.device) for passage in passages]
    truths = [ids[n:] for ids, n in zip(tokens, given, strict=True)]
    heads = [lm.model.get_input_embeddings()(ids[:n]) for ids, n in zip(tokens, given, strict=True)]
    pack, reader, parts, reference = packs(lm), lm, list[pd.DataFrame](), list[torch.Tensor]()
    for name, setting in settings.items():
        if reader.dtype != setting.dtype:  # one copy at a time: each takes as much memory as the model
            reader = in_dtype(lm, setting.dtype)
        mems = [mem.bfloat16().float() if setting.rounded else mem for mem in vectors]
        fronts = [torch.cat([mem.to(lm.device), head.float()]) for mem, head in zip(mems, heads, strict=True)]
        found: dict[int, torch.Tensor] = {}
        with _computing(reader, setting):
            for some in _batches([len(front) for front in fronts], setting.rows):
                rows = _gaps(
                    reader, torch.stack([fronts[i] for i in some]), [truths[i] for i in some], setting.layout, pack
                )
                found |= {i: row[: len(truths[i])].cpu() for i, row in zip(some, rows, strict=True)}
        ordered = [found[i] for i in range(len(truths))]
        reference = reference or ordered
        for run, (gap, usual) in enumerate(zip(ordered, reference, strict=True)):
            columns = {"setting": name, "coarse": setting.coarse, "run": run, "position": range(len(gap))}
            parts.append(pd.DataFrame({**columns, "gap": gap, "reference": usual}))
    return pd.concat(parts, ignore_index=True)


def in_dtype(lm: FrozenLM, dtype: torch.dtype) -> FrozenLM:
    """The same weights in another number format, as a copy. Buffers such as rotary angles stay as they are."""
    if lm.dtype == dtype:
        return lm
    model = copy.deepcopy(lm.model)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return replace(lm, model=model)


def _gaps(lm: FrozenLM, fronts: torch.Tensor, truths: Sequence[torch.Tensor], layout: str, pack: bool) -> torch.Tensor:
    """Gaps (B, L) of passages of up to L tokens after fronts (B, k, d); past the end of a passage: noise."""
    tokens = pad_sequence(list(truths), batch_first=True)
    if layout == "packed":
        weights = pad_sequence([torch.ones(len(ids), device=lm.device) for ids in truths], batch_first=True)
        return score(lm, fronts, tokens, weights, pack=pack)[2]
    if layout == "whole":
        return teacher_forced(lm, fronts, tokens)[1]
    inputs, state, found = fronts.to(lm.dtype), dict[str, object](), []
    for token in tokens.split(1, dim=1):
        out = lm.model(inputs_embeds=inputs, use_cache=True, **state)
        found.append(nats_and_gaps(out.logits[:, -1:].float(), token)[1])
        inputs, state = lm.model.get_input_embeddings()(token), carried(out)
    return torch.cat(found, dim=1)


def _batches(lengths: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Places of the lengths, so many at a time and only equal ones together: mem has to end at the same position."""
    for length in sorted(set(lengths)):
        same = [i for i, other in enumerate(lengths) if other == length]
        yield from (same[at : at + rows] for at in range(0, len(same), rows))


@contextlib.contextmanager
def _computing(lm: FrozenLM, setting: Setting) -> Iterator[None]:
    """While it lasts, attention, if the model has any, and threads of the processor are as the setting says."""
    config, threads = lm.model.config, torch.get_num_threads()
    attention = config._attn_implementation if getattr(config, "num_attention_heads", None) else None
    torch.set_num_threads(setting.threads)
    if attention:
        lm.model.set_attn_implementation(setting.attention)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if attention:
            lm.model.set_attn_implementation(attention)

"""What a mem vector tells the model about its passage, against what the true text before the passage tells it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from cramming.decode import nats_and_gaps
from cramming.errors import CrammingError
from cramming.metrics import nats_to_bits
from cramming.models import FrozenLM
from cramming.texts import Passage

LENGTHS = (1, 4, 16, 32, 64, 128, 256, 512)


@torch.no_grad()
def told(
    lm: FrozenLM,
    vectors: Sequence[torch.Tensor],
    passages: Sequence[Passage],
    before: Sequence[Passage],
    lengths: Sequence[int] = LENGTHS,
) -> pd.DataFrame:
    """Cross-entropy of every token of crammed passages, by what stands in front of them.

    What stands there (column what), read from left to right:

    - ``nothing``: the passage alone.
    - ``context``: the last tokens of the text before it.
    - ``mem``: its mem vectors.
    - ``context, mem`` and ``mem, context``: both. The vectors were found with nothing before them and the passage
      right after: neither place is one that they were trained for.
    - ``copy``: the passage itself, so that it is read a second time.
    - ``other context``, ``other mem``: those of another passage, the next one of the same source if there is one, or
      else the next one. With a single passage these are left out.

    Token 0 is left out throughout: without anything before it the model says nothing of it.

    Args:
        lm: The frozen model.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: What they hold, at least two tokens each.
        before: The text before each passage.
        lengths: Tokens of context; those that a text before does not have are left out for that text.

    Returns:
        One row a passage, condition and token: source, passage, length (tokens of the passage), what, context_tokens
        (of text before; 0 where there is none), position (1 is the second token), nats, right (whether the token is
        the argmax given the true tokens before it).

    Raises:
        CrammingError: If there is no passage, one has a single token, or the model has too few positions.
    """
    _check(lm, vectors, passages, before, lengths)
    table = lm.model.get_input_embeddings()
    tokens = [torch.tensor(passage.token_ids, device=lm.device) for passage in passages]
    texts = [table(ids) for ids in tokens]
    mems = [mem.to(lm.device, lm.dtype) for mem in vectors]
    contexts = [table(torch.tensor(passage.token_ids, device=lm.device)) for passage in before]
    none = texts[0][:0]
    others = other_of(passages)
    parts = []

    def add(front: torch.Tensor, n: int, *tails: tuple[str, int, torch.Tensor]) -> None:
        results = _after(lm, front, [(between, tokens[i]) for _, i, between in tails])
        for (what, i, _), (nats, gaps) in zip(tails, results, strict=True):
            passage = passages[i]
            columns = {"source": passage.source, "passage": passage.id, "length": len(passage), "what": what}
            values = {
                "context_tokens": n,
                "position": range(1, len(passage)),
                "nats": nats.cpu(),
                "right": gaps.cpu() > 0,
            }
            parts.append(pd.DataFrame({**columns, **values}))

    for i, (mem, context) in enumerate(zip(mems, contexts, strict=True)):
        led = [reader for reader, other in others.items() if other == i]  # the passages that this one is the other of
        add(none, 0, ("nothing", i, none), ("mem", i, mem), ("copy", i, texts[i]))
        add(none, 0, *(("other mem", reader, mem) for reader in led))
        for n in (n for n in lengths if n <= len(context)):
            last = context[-n:]
            # The context goes through the model once, for all that follows it.
            add(last, n, ("context", i, none), ("context, mem", i, mem), *(("other context", r, none) for r in led))
            add(torch.cat([mem, last]), n, ("mem, context", i, none))
    return pd.concat(parts, ignore_index=True)


def gains(tokens: pd.DataFrame) -> pd.DataFrame:
    """What each condition takes off the cross-entropy of each passage, in bits, summed over its tokens from 1 on.

    Args:
        tokens: From `told`.

    Returns:
        One row a passage and condition: source, passage, length (tokens), what, context_tokens, bits_without (nothing
        in front), bits_with, gain_bits (the difference), gain_per_token (over length - 1), right (share of tokens).
    """
    keys = ["source", "passage", "length", "what", "context_tokens"]
    frame = tokens.groupby(keys, sort=False, as_index=False).agg(bits_with=("nats", "sum"), right=("right", "mean"))
    frame["bits_with"] = frame["bits_with"].map(nats_to_bits)
    alone = frame[frame["what"] == "nothing"].set_index("passage")["bits_with"]
    frame.insert(5, "bits_without", frame["passage"].map(alone))
    gain = frame["bits_without"] - frame["bits_with"]
    frame.insert(7, "gain_bits", gain)
    frame.insert(8, "gain_per_token", gain / (frame["length"] - 1))
    return frame


def _after(
    lm: FrozenLM, front: torch.Tensor, tails: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Nats and gaps of tokens 1 on of each text (L,), after a front (n, d) and what stands between the two (k, d)."""
    # A recurrent state cannot be taken back to where the front ended, so there the front is read again.
    cached = len(front) > 0 and lm.context_length is not None
    state: Any = lm.model.base_model(inputs_embeds=front[None], use_cache=True).past_key_values if cached else None
    results = []
    for between, tokens in tails:
        embeds = torch.cat([between, lm.model.get_input_embeddings()(tokens[:-1])])[None]
        if cached:
            logits = lm.model(inputs_embeds=embeds, past_key_values=state, use_cache=True).logits
            state.crop(-embeds.shape[1])
        else:
            logits = lm.model(inputs_embeds=torch.cat([front[None], embeds], dim=1), use_cache=False).logits
        logits = logits[:, 1 - len(tokens) :].float()
        nats, gaps = nats_and_gaps(logits, tokens[None, 1:])
        results.append((nats[0], gaps[0]))
    return results


def other_of(passages: Sequence[Passage]) -> dict[int, int]:
    """For each passage another one: the next of its source, around the end, or else simply the next."""
    n = len(passages)
    return {
        i: min(((i + step) % n for step in range(1, n)), key=lambda j: passages[j].source != passages[i].source)
        for i in range(n if n > 1 else 0)
    }


def _check(
    lm: FrozenLM,
    vectors: Sequence[torch.Tensor],
    passages: Sequence[Passage],
    before: Sequence[Passage],
    lengths: Sequence[int],
) -> None:
    if not len(vectors) == len(passages) == len(before) > 0:
        raise CrammingError(
            f"{len(vectors)} vectors, {len(passages)} passages and {len(before)} texts before them: "
            "give as many of each, at least one"
        )
    for passage in passages:
        if len(passage) < 2:
            raise CrammingError(f"passage {passage.id} has 1 token, of which nothing is compared: give at least 2")
    most = max([0, *(n for n in lengths for text in before if n <= len(text))])
    longest = max(most + len(vectors[0]), max(map(len, passages))) + max(map(len, passages))
    if lm.context_length is not None and longest > lm.context_length:
        raise CrammingError(
            f"passages and what stands in front of them take {longest} positions, {lm.name} has {lm.context_length}: "
            "give shorter ones"
        )

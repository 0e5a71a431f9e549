"""Who looks at mem: the share of attention it gets, layer by layer, and what is left when a layer cannot see it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from cramming.decode import teacher_forced
from cramming.errors import CrammingError
from cramming.models import FrozenLM, layers
from cramming.texts import Passage

ROWS = 16  # sequences that go through the network together

_NOTHING = pd.DataFrame(columns=["layer", "head", "position", "share", "passage"])


@torch.no_grad()
def mem_shares(lm: FrozenLM, vectors: Sequence[torch.Tensor], passages: Sequence[Passage]) -> pd.DataFrame:
    """Share of its attention that each token gives to mem, in each layer and head, along the true passage.

    Args:
        lm: A model with attention.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: What they hold.

    Returns:
        One row a passage, layer, head and position: passage, layer, head, position (of the token that looks, 0 is the
        first of the passage), share (0 to 1).

    Raises:
        CrammingError: If the model has no attention.
    """
    table = lm.model.get_input_embeddings()
    parts = []
    for mem, passage in zip(vectors, passages, strict=True):
        tokens = torch.tensor(passage.token_ids, device=lm.device)
        embeds = torch.cat([mem.to(lm.device, lm.dtype), table(tokens)])
        parts.append(_shares(lm, embeds, len(mem)).assign(passage=passage.id))
    return pd.concat(parts or [_NOTHING], ignore_index=True)


@torch.no_grad()
def first_token_shares(lm: FrozenLM, passages: Sequence[Passage]) -> pd.DataFrame:
    """The same for the first token of the plain passage, without mem: what an attention sink gets anyway.

    Returns:
        As `mem_shares`; positions begin at 1, since token 0 can only look at itself.
    """
    table = lm.model.get_input_embeddings()
    parts = []
    for passage in passages:
        frame = _shares(lm, table(torch.tensor(passage.token_ids, device=lm.device)), 1)
        parts.append(frame.assign(passage=passage.id, position=frame["position"] + 1))
    return pd.concat(parts or [_NOTHING], ignore_index=True)


@torch.no_grad()
def knock_out(lm: FrozenLM, vectors: Sequence[torch.Tensor], passages: Sequence[Passage]) -> pd.DataFrame:
    """What is left of crammed passages when tokens cannot see mem in some layers.

    Three ways: in one layer alone, in all layers up to one, in all layers from one on. Token 0 is left out: it is read
    off mem's own position, which still sees itself.

    Args:
        lm: A model with attention.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: What they hold, or the first tokens of it; at least two.

    Returns:
        One row a passage, way and layer: passage, hidden (one, up to, from), layer, right (share of tokens,
        teacher-forced), nats (mean cross-entropy). Layer -1 and hidden none is the passage with nothing hidden.

    Raises:
        CrammingError: If the model has no attention, or a passage is a single token.
    """
    stack = _layers(lm)
    ways = [("none", -1, range(0))]
    for layer in range(len(stack)):
        ways.append(("one", layer, range(layer, layer + 1)))
        ways.append(("up to", layer, range(layer + 1)))
        ways.append(("from", layer, range(layer, len(stack))))
    rows = []
    for mem, passage in zip(vectors, passages, strict=True):
        if len(passage) < 2:
            raise CrammingError(f"passage {passage.id} has 1 token, which sees only mem itself: give at least 2")
        tokens = torch.tensor(passage.token_ids, device=lm.device)
        for some in (ways[at : at + ROWS] for at in range(0, len(ways), ROWS)):
            with _hidden(stack, [hidden for _, _, hidden in some], len(mem)):
                nats, gaps = teacher_forced(lm, mem[None].expand(len(some), -1, -1), tokens.expand(len(some), -1))
            right, cost = (gaps[:, 1:] > 0).float().mean(1).tolist(), nats[:, 1:].mean(1).tolist()
            rows += [(passage.id, how, layer, *each) for (how, layer, _), *each in zip(some, right, cost, strict=True)]
    return pd.DataFrame(rows, columns=["passage", "hidden", "layer", "right", "nats"])


def _shares(lm: FrozenLM, embeds: torch.Tensor, k: int) -> pd.DataFrame:
    """Attention of the positions from k on to the first k together, from the embeddings (T, d) of one sequence."""
    _layers(lm)
    config = lm.model.config
    usual = config._attn_implementation
    # Only this implementation says what it attended to.
    lm.model.set_attn_implementation("eager")
    try:
        out = lm.model.base_model(inputs_embeds=embeds[None], use_cache=False, output_attentions=True)
    finally:
        lm.model.set_attn_implementation(usual)
    weights = torch.stack([layer[0, :, k:, :k].sum(-1).float().cpu() for layer in out.attentions]).numpy()
    layer, head, position = np.indices(weights.shape).reshape(3, -1)
    return pd.DataFrame({"layer": layer, "head": head, "position": position, "share": weights.ravel()})


def _layers(lm: FrozenLM) -> torch.nn.ModuleList:
    """The decoder layers, first to last."""
    config = lm.model.config
    if not getattr(config, "num_attention_heads", None):
        raise CrammingError(f"{lm.name} has no attention to look at: take a model of another architecture than Mamba")
    return layers(lm.model)


@contextlib.contextmanager
def _hidden(stack: torch.nn.ModuleList, where: Sequence[range], k: int) -> Iterator[None]:
    """While it lasts, tokens of row r cannot see the first k positions in the layers `where[r]`."""

    def hook_of(layer: int):  # type: ignore[no-untyped-def]
        rows = torch.tensor([layer in hidden for hidden in where])

        def hook(module, arguments, options):  # type: ignore[no-untyped-def]
            hidden_states = arguments[0] if arguments else options["hidden_states"]
            n, size = hidden_states.shape[:2]
            sees = torch.ones(size, size, dtype=torch.bool).tril().repeat(n, 1, 1)
            sees[rows, k:, :k] = False
            mask = torch.zeros(sees.shape, dtype=hidden_states.dtype)
            mask = mask.masked_fill(~sees, torch.finfo(hidden_states.dtype).min)
            return arguments, {**options, "attention_mask": mask[:, None].to(hidden_states.device)}

        return hook

    handles = [layer.register_forward_pre_hook(hook_of(i), with_kwargs=True) for i, layer in enumerate(stack)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

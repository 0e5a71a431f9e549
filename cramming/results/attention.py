"""The share of attention that mem gets, layer by layer and head by head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

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


def _shares(lm: FrozenLM, embeds: torch.Tensor, k: int) -> pd.DataFrame:
    """Attention of the positions from k on to the first k together, from the embeddings (T, d) of one sequence."""
    attending_layers(lm)
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


def attending_layers(lm: FrozenLM) -> torch.nn.ModuleList:
    """The layers of a model, first to last.

    Raises:
        CrammingError: If one of them has no attention to look at.
    """
    if not lm.attends:
        raise CrammingError(f"{lm.name} has no attention in some layers: take another architecture than Mamba")
    return layers(lm.model)

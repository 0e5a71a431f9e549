"""What a text is crammed into: mem vectors, keys and values of a prefix, or proto-tokens, behind one interface.

A memory is a matrix of trained numbers, one row a part. It says how large the matrix is and what the frozen model is
fed for it; everything else (loss, optimiser, growth, budget, checkpoints, certificates) is the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers import DynamicCache

from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.recipes import MemoryName


@dataclass(frozen=True)
class Feed:
    """What the model is fed for rows of L tokens. Its last L positions predict them.

    Attributes:
        embeds: Shape (B, T, d).
        past: Keys and values of one position ahead of these, layer by layer, each (B, heads, 1, head width); or none.
    """

    embeds: torch.Tensor
    past: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()

    def inputs(self, *, use_cache: bool = False) -> dict[str, Any]:
        """As arguments of the model. A cache grows when it is used, so each call makes another."""
        past = {"past_key_values": DynamicCache(self.past)} if self.past else {}
        return {"inputs_embeds": self.embeds, "use_cache": use_cache, **past}


class Vectors:
    """k input vectors of width d in front of the text: a mem vector, or several."""

    name: MemoryName = "vectors"
    one_pass = False  # whether all tokens are read in one pass, none of them fed back

    def shape(self, lm: FrozenLM, k: int) -> tuple[int, int]:
        """Of the matrix: its parts, and the floats of one."""
        return k, lm.width

    def positions(self, k: int, n: int) -> int:
        """Positions that go through the model for n tokens: the last token predicts nothing and is left out."""
        return k + n - 1

    def feed(self, lm: FrozenLM, mem: torch.Tensor, tokens: torch.Tensor) -> Feed:
        """What the model is fed to score tokens.

        Args:
            lm: The frozen model.
            mem: Shape (B, k, floats of a part).
            tokens: Shape (B, L); the last one is not looked at.
        """
        return Feed(torch.cat([mem.to(lm.dtype), lm.model.get_input_embeddings()(tokens[:, :-1])], dim=1))


class Prefix(Vectors):
    """Keys and values of one position ahead of the text, in k layers spread evenly over the model.

    The position is the first. A layer without trained numbers has the keys and values of the model's start token
    there: it costs no floats, and models expect it at their first position. Behind it comes a line break, which
    predicts token 0. It is not the start token, at which the residual stream of SmolLM2 grows so large, wherever it
    stands, that what it attends to hardly shows in it.

    The numbers of a layer are in units of what noise in the input gives there, keys and values apart, so that one
    learning rate fits all layers. Source: prefix tuning (Li and Liang 2021, arXiv 2101.00190), here without the
    network that made training steadier there.
    """

    name = "prefix"

    def shape(self, lm: FrozenLM, k: int) -> tuple[int, int]:
        """Of the matrix: its layers, and the floats of the keys and values of one."""
        keys, _ = _start_token(lm)[0]
        self.layers(lm, k)
        return k, 2 * keys.numel()

    def positions(self, k: int, n: int) -> int:
        """Positions that go through the model: the line break and all tokens but the last. The prefix does not."""
        return n

    def layers(self, lm: FrozenLM, k: int) -> list[int]:
        """Which layers have trained keys and values.

        Raises:
            CrammingError: If the model has fewer than k layers.
        """
        depth = len(_start_token(lm))
        if k > depth:
            raise CrammingError(
                f"a prefix in {k} layers was asked for, {lm.name} has {depth}: ask for {depth} or fewer"
            )
        return [(2 * i + 1) * depth // (2 * k) for i in range(k)]

    def feed(self, lm: FrozenLM, mem: torch.Tensor, tokens: torch.Tensor) -> Feed:
        """See `Vectors.feed`."""
        batch, k, _ = mem.shape
        past = [
            (keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1)) for keys, values in _start_token(lm)
        ]
        for row, layer in enumerate(self.layers(lm, k)):
            keys, values = mem[:, row].chunk(2, dim=1)
            key_unit, value_unit = _units(lm)[layer]
            shape = past[layer][0].shape
            past[layer] = (
                (keys.reshape(shape) * key_unit).to(lm.dtype),
                (values.reshape(shape) * value_unit).to(lm.dtype),
            )
        opening = torch.full((batch, 1), _line_break(lm), device=tokens.device)
        return Feed(lm.model.get_input_embeddings()(torch.cat([opening, tokens[:, :-1]], dim=1)), tuple(past))


class ProtoTokens(Vectors):
    """k - 1 input vectors and then the k-th again and again, once for each token; the model says all tokens at once.

    With k = 2 these are the two proto-tokens of Mezentsev and Oseledets (2025, arXiv 2505.21189).
    """

    name = "proto"
    one_pass = True

    def feed(self, lm: FrozenLM, mem: torch.Tensor, tokens: torch.Tensor) -> Feed:
        """See `Vectors.feed`. Of the tokens only their number counts."""
        repeated = mem[:, -1:].expand(-1, tokens.shape[1], -1)
        return Feed(torch.cat([mem[:, :-1], repeated], dim=1).to(lm.dtype))


VECTORS = Vectors()
MEMORIES: dict[str, Vectors] = {memory.name: memory for memory in (VECTORS, Prefix(), ProtoTokens())}


def _start_id(lm: FrozenLM) -> int:
    """The token that the model's texts begin with, or else the one that they end with."""
    ids = lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id
    return next((int(i) for i in ids if i is not None), 0)


def _line_break(lm: FrozenLM) -> int:
    """The token of a line break, or the last one where it takes several."""
    return int(lm.tokenizer("\n", add_special_tokens=False)["input_ids"][-1])


@lru_cache(maxsize=8)
def _start_token(lm: FrozenLM) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Keys and values of the start token at the first position, layer by layer, each (1, heads, 1, head width)."""
    return _past(lm, lm.model.get_input_embeddings()(torch.tensor([[_start_id(lm)]], device=lm.device)))


@lru_cache(maxsize=8)
def _units(lm: FrozenLM) -> list[tuple[float, float]]:
    """Root mean square of keys and of values that noise vectors give at the first position, layer by layer."""
    noise = torch.randn(64, 1, lm.width, generator=torch.Generator().manual_seed(0)).to(lm.device, lm.dtype)
    return [tuple(float(part.float().square().mean().sqrt()) for part in pair) for pair in _past(lm, noise)]  # type: ignore[misc]


@torch.no_grad()
def _past(lm: FrozenLM, embeds: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Keys and values, layer by layer, each (B, heads, T, head width), that input embeddings (B, T, d) leave."""
    cache = lm.model.base_model(inputs_embeds=embeds, use_cache=True).get("past_key_values")
    if cache is None:
        raise CrammingError(f"{lm.name} keeps no keys and values, so it takes no prefix: use the memory vectors")
    return tuple((layer.keys, layer.values) for layer in cache.layers)

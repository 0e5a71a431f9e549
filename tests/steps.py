"""Steps of cramming on the real model and what they come to, for whatever else computes them to be held against."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from cramming.engine import score
from cramming.models import FrozenLM
from cramming.sphere import random_directions
from cramming.texts import passages


@dataclass
class RealStep:
    """A step of cramming on the real model: what is fed, what it comes to in float64, and how near PyTorch is."""

    mem: torch.Tensor  # (1, d)
    ids: list[int]
    weights: torch.Tensor  # (n,)
    nats: np.ndarray  # (n,), as gaps
    gaps: np.ndarray
    gradient: np.ndarray  # (1, d)
    torch_error: float  # of its gradient in float32, relative

    def holds_to(self, nats: np.ndarray, gaps: np.ndarray, gradient: np.ndarray, most: float = 1e-4) -> None:
        """All as near as that, relatively, or about as near as PyTorch in float32, where rounding weighs more."""
        most = max(most, 2 * self.torch_error)
        for found, true in ((nats, self.nats), (gaps, self.gaps), (gradient, self.gradient)):
            assert np.linalg.norm(found - true) <= most * np.linalg.norm(true)


def real_steps(lm: FrozenLM) -> list[RealStep]:
    """Four passages of novels and four fresh ones, each from noise on the sphere."""
    exact, found = copy.deepcopy(lm.model).double(), []
    chosen = [one for source in ("novels", "fresh") for one in passages(source, lm.tokenizer, n=4, length=16)]
    for passage, direction in zip(chosen, random_directions(lm, len(chosen)), strict=True):
        mem, ids = direction[None] * 1000, torch.tensor([passage.token_ids])
        weights, here = torch.full(ids.shape, 1 / 16), mem[None].clone().requires_grad_(True)
        loss, *_ = score(lm, here, ids, weights)
        (single,) = torch.autograd.grad(loss, here)
        there = mem[None].double().requires_grad_(True)
        logits = exact(inputs_embeds=torch.cat([there, exact.get_input_embeddings()(ids[:, :-1])], 1)).logits[0]
        true = logits.gather(1, ids.T)[:, 0]
        others = logits.scatter(1, ids.T, -torch.inf).amax(1)
        nats = logits.logsumexp(1) - true
        (gradient,) = torch.autograd.grad((nats * weights[0]).sum(), there)
        error = float((single - gradient).norm() / gradient.norm())
        seen = [x.detach().numpy() for x in (nats, true - others, gradient[0])]
        found.append(RealStep(mem, list(passage.token_ids), weights[0], *seen, error))
    return found

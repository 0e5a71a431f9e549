"""Where a mem vector points as it passes through the network, and how smooth the loss is around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from cramming.engine import score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.texts import Passage


def random_directions(lm: FrozenLM, n: int, *, seed: int = 0) -> torch.Tensor:
    """Directions drawn evenly from the sphere of radius sqrt(d), shape (n, d): root mean square 1."""
    noise = torch.randn(n, lm.width, generator=torch.Generator().manual_seed(seed))
    return _onto_sphere(noise).to(lm.device)


@torch.no_grad()
def turning(lm: FrozenLM, directions: torch.Tensor, radii: Sequence[float]) -> pd.DataFrame:
    """How far each layer has turned the residual stream at mem's position away from where it started.

    Args:
        lm: The frozen model.
        directions: Shape (n, d); their length is ignored.
        radii: S, the root mean square of mem's numbers.

    Returns:
        One row a radius, direction and layer: radius, direction (0 to n - 1), layer (0 is the input of the first
        layer), degrees.

    Examples:
        >>> from cramming.models import load
        >>> lm = load("tiny-llama")
        >>> frame = turning(lm, random_directions(lm, 2), [1, 1000])
        >>> last = frame[frame["layer"] == frame["layer"].max()].groupby("radius")["degrees"].mean()
        >>> bool(last[1000] < last[1])
        True
    """
    rows = []
    for radius in radii:
        mem = (_onto_sphere(directions) * radius)[:, None].to(lm.device, lm.dtype)
        out = lm.model.base_model(inputs_embeds=mem, use_cache=False, output_hidden_states=True)
        first, *rest = (state[:, 0].double() for state in out.hidden_states[:-1])  # the last one is normalised
        for layer, state in enumerate([first, *rest]):
            # By the chord: the cosine of a small angle is 1 up to rounding.
            chord = (_unit(state) - _unit(first)).norm(dim=1)
            degrees = torch.rad2deg(2 * torch.asin((chord / 2).clamp(max=1))).tolist()
            rows += [(radius, i, layer, angle) for i, angle in enumerate(degrees)]
    return pd.DataFrame(rows, columns=["radius", "direction", "layer", "degrees"])


def gradient_agreement(
    lm: FrozenLM,
    passages: Sequence[Passage],
    radii: Sequence[float],
    degrees: Sequence[float],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Cosine between the loss's gradients at a random direction and at another one some degrees away.

    An optimiser can take long steps only where the gradient still points the same way after one. The loss is the mean
    cross-entropy of a passage, the gradient that along the sphere.

    Args:
        lm: The frozen model.
        passages: Of equal length; each has a direction, and a way to go from there, of its own.
        radii: S, the root mean square of mem's numbers.
        degrees: How far to go.
        seed: Of directions and ways, the same for every radius.

    Returns:
        One row a radius, angle and passage: radius, degrees, passage, cosine, nats (mean cross-entropy at the start).

    Raises:
        CrammingError: If there is no passage or their lengths differ.
    """
    lengths = sorted({len(passage) for passage in passages})
    if len(lengths) != 1:
        raise CrammingError(f"passages have lengths {lengths}: give at least one passage, all of one length")
    start = random_directions(lm, len(passages), seed=seed)
    way = random_directions(lm, len(passages), seed=seed + 1)
    way = _onto_sphere(_along(way, start))
    rows = []
    for radius in radii:
        here, nats = _gradient(lm, passages, start, radius)
        for angle in degrees:
            turn = math.radians(angle)
            there, _ = _gradient(lm, passages, math.cos(turn) * start + math.sin(turn) * way, radius)
            cosines = torch.nn.functional.cosine_similarity(here, there).tolist()
            rows += [
                (radius, angle, passage.id, cosine, float(loss))
                for passage, cosine, loss in zip(passages, cosines, nats, strict=True)
            ]
    return pd.DataFrame(rows, columns=["radius", "degrees", "passage", "cosine", "nats"])


def _gradient(
    lm: FrozenLM, passages: Sequence[Passage], directions: torch.Tensor, radius: float
) -> tuple[torch.Tensor, np.ndarray]:
    """Gradient of each passage's mean cross-entropy along the sphere, (n, d), and that mean in nats, (n,)."""
    tokens = torch.tensor([passage.token_ids for passage in passages], device=lm.device)
    weights = torch.full(tokens.shape, 1 / tokens.shape[1], device=lm.device)
    trained = directions.clone().requires_grad_(True)
    loss, nats, _ = score(lm, (trained * radius)[:, None], tokens, weights)
    (gradient,) = torch.autograd.grad(loss, trained)
    return _along(gradient, directions), nats.mean(1).cpu().numpy()


def _along(vectors: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The part of each vector at right angles to its direction."""
    unit = _unit(directions)
    return vectors - (vectors * unit).sum(1, keepdim=True) * unit


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


def _onto_sphere(vectors: torch.Tensor) -> torch.Tensor:
    return _unit(vectors) * math.sqrt(vectors.shape[1])

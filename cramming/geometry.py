"""Where a mem vector points as it passes through the network, and how smooth the loss is around it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from cramming.engine import along_sphere, onto_sphere, score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.texts import Passage


def random_directions(lm: FrozenLM, n: int, *, seed: int = 0) -> torch.Tensor:
    """Directions drawn evenly from the sphere of radius sqrt(d), shape (n, d): root mean square 1."""
    noise = torch.randn(n, lm.width, generator=torch.Generator().manual_seed(seed))
    return onto_sphere(noise).to(lm.device)


@torch.no_grad()
def turning(lm: FrozenLM, directions: torch.Tensor, radii: Sequence[float]) -> pd.DataFrame:
    """What each layer finds of mem in the residual stream at mem's position.

    Two angles tell: how far the stream has turned away from where it started, and how far apart the streams of
    different mem vectors still are. If the latter is 0, that layer sees the same whatever mem is.

    Args:
        lm: The frozen model.
        directions: Shape (n, d) with n at least 2; their length is ignored.
        radii: S, the root mean square of mem's numbers.

    Returns:
        One row a radius, direction and layer: radius, direction (0 to n - 1), layer (0 is the input of the first
        layer), turned (degrees from where it started), apart (mean degrees to the streams of the other directions).

    Raises:
        CrammingError: If there are fewer than two directions.

    Examples:
        >>> from cramming.models import load
        >>> lm = load("tiny-llama")
        >>> frame = turning(lm, random_directions(lm, 4), [1, 1000])
        >>> last = frame[frame["layer"] == frame["layer"].max()].groupby("radius").mean()
        >>> bool(last.loc[1000, "turned"] < last.loc[1, "turned"])
        True
    """
    n = len(directions)
    if n < 2:
        raise CrammingError(f"{n} directions cannot be compared: give at least 2")
    rows = []
    for radius in radii:
        mem = (onto_sphere(directions) * radius)[:, None].to(lm.device, lm.dtype)
        out = lm.model.base_model(inputs_embeds=mem, use_cache=False, output_hidden_states=True)
        streams = [_unit(state[:, 0].double()) for state in out.hidden_states[:-1]]  # the last one is normalised
        for layer, stream in enumerate(streams):
            turned = _degrees((stream - streams[0]).norm(dim=1)).tolist()
            apart = (_degrees(torch.cdist(stream, stream)).sum(1) / (n - 1)).tolist()
            rows += [(radius, i, layer, *angles) for i, angles in enumerate(zip(turned, apart, strict=True))]
    return pd.DataFrame(rows, columns=["radius", "direction", "layer", "turned", "apart"])


def gradient_agreement(
    lm: FrozenLM,
    passages: Sequence[Passage],
    radii: Sequence[float],
    degrees: Sequence[float],
    *,
    start: torch.Tensor | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Cosine between the loss's gradients at one direction and at another one some degrees away.

    An optimiser can take long steps only where the gradient still points the same way after one. The loss is the mean
    cross-entropy of a passage, the gradient that along the sphere.

    Args:
        lm: The frozen model.
        passages: Of equal length; each has a start, and a way to go from there, of its own.
        radii: S, the root mean square of mem's numbers.
        degrees: How far to go.
        start: Where to start from, one direction a passage, shape (n, d); random directions if not given.
        seed: Of random directions and of the ways, the same for every radius.

    Returns:
        One row a radius, angle and passage: radius, degrees, passage, cosine, nats (mean cross-entropy at the start).

    Raises:
        CrammingError: If there is no passage or their lengths differ.
    """
    lengths = sorted({len(passage) for passage in passages})
    if len(lengths) != 1:
        raise CrammingError(f"passages have lengths {lengths}: give at least one passage, all of one length")
    start = random_directions(lm, len(passages), seed=seed) if start is None else onto_sphere(start.to(lm.device))
    way = random_directions(lm, len(passages), seed=seed + 1)
    way = onto_sphere(along_sphere(way, start))
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


def agreement_by_start(
    lm: FrozenLM,
    passages: Sequence[Passage],
    crammed: Sequence[Passage],
    found: Mapping[float, Mapping[str, torch.Tensor]],
    radii: Sequence[float],
    degrees: Sequence[float],
) -> pd.DataFrame:
    """`gradient_agreement` from random directions, and from those that crams ended with.

    Args:
        lm: The frozen model.
        passages: For the random directions.
        crammed: For the directions found.
        found: By radius, the vector of each crammed passage, shape (d,): `cramming.tables.found`.
        radii: For the random directions.
        degrees: How far to go.

    Returns:
        The rows of both, with a column where: random directions, or directions found.
    """
    parts = [gradient_agreement(lm, passages, radii, degrees).assign(where="random directions")]
    for radius, vectors in found.items():
        start = torch.stack([vectors[passage.id] for passage in crammed])
        frame = gradient_agreement(lm, crammed, [radius], degrees, start=start)
        parts.append(frame.assign(where="directions found"))
    return pd.concat(parts, ignore_index=True)


def _gradient(
    lm: FrozenLM, passages: Sequence[Passage], directions: torch.Tensor, radius: float
) -> tuple[torch.Tensor, np.ndarray]:
    """Gradient of each passage's mean cross-entropy along the sphere, (n, d), and that mean in nats, (n,)."""
    tokens = torch.tensor([passage.token_ids for passage in passages], device=lm.device)
    weights = torch.full(tokens.shape, 1 / tokens.shape[1], device=lm.device)
    trained = directions.clone().requires_grad_(True)
    loss, nats, _ = score(lm, (trained * radius)[:, None], tokens, weights)
    (gradient,) = torch.autograd.grad(loss, trained)
    return along_sphere(gradient, directions), nats.mean(1).cpu().numpy()


def _degrees(chord: torch.Tensor) -> torch.Tensor:
    """Angle between unit vectors from their distance; the cosine of a small angle is 1 up to rounding."""
    return torch.rad2deg(2 * torch.asin((chord / 2).clamp(max=1)))


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)

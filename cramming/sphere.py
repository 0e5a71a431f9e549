"""The sphere that mem vectors are held on: directions, angles between them, how many dimensions they spread over."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from cramming.models import FrozenLM


def random_directions(lm: FrozenLM, n: int, *, seed: int = 0) -> torch.Tensor:
    """Directions drawn evenly from the sphere of radius sqrt(d), shape (n, d): root mean square 1."""
    noise = torch.randn(n, lm.width, generator=torch.Generator().manual_seed(seed))
    return onto_sphere(noise).to(lm.device)


def noise_like(mem: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random vectors with the norms of mem vectors, shape (k, d): what these do too is no doing of the text held."""
    noise = torch.randn(mem.shape, generator=generator).to(mem)
    return noise * (mem.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True))


def chord_degrees(chord: torch.Tensor) -> torch.Tensor:
    """Angle between unit vectors from their distance; the cosine of a small angle is 1 up to rounding."""
    return torch.rad2deg(2 * torch.asin((chord / 2).clamp(max=1)))


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Each of the vectors (n, d) at length 1."""
    return vectors / vectors.norm(dim=1, keepdim=True)


def principal(directions: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal components of vectors (n, d) on the sphere of root mean square 1, their mean taken off.

    Returns:
        Coordinates, shape (n, c) with c the smaller of n and d, and each component's share of the variance, (c,).
    """
    points = onto_sphere(directions.double()).cpu().numpy()
    left, size, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return left * size, size**2 / (size**2).sum()


def needed(shares: NDArray[np.float64], part: float = 0.9) -> int:
    """How many of the first shares it takes to hold that part of all.

    Examples:
        >>> needed(np.array([0.5, 0.3, 0.15, 0.05]))
        3
    """
    return int((np.cumsum(shares) < part - 1e-9).sum()) + 1


def degrees(cosine: float) -> float:
    """The angle that has that cosine.

    Examples:
        >>> round(degrees(0.5))
        60
    """
    return math.degrees(math.acos(cosine))


def onto_sphere(vectors: torch.Tensor) -> torch.Tensor:
    """Each of the vectors (..., d) at length sqrt(d), that is, with a root mean square of 1."""
    return vectors * (math.sqrt(vectors.shape[-1]) / vectors.norm(dim=-1, keepdim=True))


def along_sphere(vectors: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The part of each of the vectors (..., d) at right angles to its direction (..., d)."""
    unit = directions / directions.norm(dim=-1, keepdim=True)
    return vectors - (vectors * unit).sum(-1, keepdim=True) * unit

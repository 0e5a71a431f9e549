"""Rounding: mem vectors in a few bits a number, packed into bytes and read back."""

from __future__ import annotations

import numpy as np
import torch

from cramming.errors import CrammingError
from cramming.recipes import MOST_BITS

SCALE_BITS = 16  # a scale is a bfloat16
HEADER = 2  # bytes: bits a number, and block (0: one scale a vector)
_SHARES = torch.linspace(1, 1 / 16, 31)  # of the widest scale; the narrower ones clip the largest numbers


def quantise(mem: torch.Tensor, bits: int, block: int | None = None) -> torch.Tensor:
    """Mem vectors with each number rounded to one of 2**bits evenly spaced values, as many below 0 as above it.

    The values are odd multiples of half a scale, so that 1 bit is the sign. Every vector, or every block of `block`
    neighbouring numbers of it, has a scale of its own, a bfloat16: of a few candidates the one with the least sum of
    squared errors. The norm may change a little; on the sphere only the direction matters. Rounding what is rounded
    changes nothing, and `decode` gives back just these numbers.

    Args:
        mem: Shape (k, d).
        bits: Of each number, 1 to 8.
        block: Numbers that share a scale; has to divide d. One scale a vector if not given.

    Returns:
        The rounded vectors, float32, shape (k, d).

    Raises:
        CrammingError: If mem is not of shape (k, d) or not finite, or bits or block are out of range.

    Examples:
        >>> quantise(torch.tensor([[-4.0, 1.0, 1.0, 2.0]]), bits=1)
        tensor([[-2.,  2.,  2.,  2.]])
    """
    codes, scales = _codes(mem, bits, block)
    return _values(codes, scales)


def stored_bits(d: int, bits: int, block: int | None = None, k: int = 1) -> int:
    """Bits that k rounded vectors of d numbers take: `bits` a number and 16 a scale."""
    return k * (d * bits + SCALE_BITS * (d // (block or d)))


def encode(mem: torch.Tensor, bits: int, block: int | None = None) -> bytes:
    """Rounded mem vectors as bytes: a header of two, the scales, then the numbers of `bits` bits without gaps.

    Args:
        mem: Shape (k, d); rounded as by `quantise`.
        bits: Of each number, 1 to 8.
        block: Numbers that share a scale, at most 255; one scale a vector if not given.

    Returns:
        ``2 + ceil(stored_bits(d, bits, block, k) / 8)`` bytes.

    Raises:
        CrammingError: As `quantise` does, and if block is above 255.
    """
    if block and block > 255:
        raise CrammingError(f"block is {block}: a file holds at most 255, take a smaller one or one scale a vector")
    codes, scales = _codes(mem, bits, block)
    unsigned = (codes + 2 ** (bits - 1)).to(torch.uint8).flatten().cpu().numpy()
    digits = np.unpackbits(unsigned[:, None], axis=1)[:, -bits:]
    ends = scales.bfloat16().view(torch.int16).flatten().cpu().numpy().astype("<i2")
    return bytes([bits, block or 0]) + ends.tobytes() + np.packbits(digits).tobytes()


def decode(blob: bytes, d: int) -> torch.Tensor:
    """The mem vectors, float32, shape (k, d), that `encode` wrote; d is the model's embedding width.

    Raises:
        CrammingError: If the bytes are not such a file for that width.

    Examples:
        >>> mem = torch.randn(1, 64)
        >>> blob = encode(mem, bits=3, block=32)
        >>> len(blob), bool((decode(blob, 64) == quantise(mem, bits=3, block=32)).all())
        (30, True)
    """
    bits, block = (blob[0], blob[1] or d) if len(blob) >= HEADER else (0, d)
    if not 1 <= bits <= MOST_BITS or d % block:
        raise CrammingError(
            f"{len(blob)} bytes hold no vectors of width {d}: give what encode wrote, and the model's d"
        )
    k = 8 * (len(blob) - HEADER) // stored_bits(d, bits, block)  # the last byte has less of a gap than a vector takes
    if k < 1 or len(blob) != HEADER + -(-stored_bits(d, bits, block, k) // 8):
        raise CrammingError(
            f"{len(blob)} bytes hold no whole vectors of width {d} at {bits} bits: the file is cut off"
        )
    ends = HEADER + 2 * k * (d // block)
    scales = torch.from_numpy(np.frombuffer(blob[HEADER:ends], "<i2").astype(np.int16)).view(torch.bfloat16).float()
    digits = np.unpackbits(np.frombuffer(blob[ends:], np.uint8), count=k * d * bits).reshape(-1, bits)
    unsigned = np.packbits(np.pad(digits, ((0, 0), (8 - bits, 0))), axis=1)
    codes = torch.from_numpy(unsigned.astype(np.float32)) - 2 ** (bits - 1)
    return _values(codes.view(k, -1, block), scales.view(k, -1))


def _codes(mem: torch.Tensor, bits: int, block: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the 2**bits values each number takes, whole numbers around 0, (k, d / block, block) and the scales."""
    if mem.ndim != 2 or not torch.isfinite(mem).all():
        raise CrammingError(f"mem has shape {tuple(mem.shape)}: expected (k, d), all numbers finite")
    if not 1 <= bits <= MOST_BITS:
        raise CrammingError(f"bits is {bits}: expected 1 to {MOST_BITS} a number")
    block = block or mem.shape[1]
    if block < 1 or mem.shape[1] % block:
        raise CrammingError(f"block is {block}: expected a divisor of the width {mem.shape[1]}")
    half = 2 ** (bits - 1)
    numbers = mem.detach().float().unflatten(1, (-1, block))
    widest = numbers.abs().amax(2) / (half - 0.5)  # puts the largest number on the outermost value
    scales = (_SHARES.to(mem.device)[:, None, None] * widest).bfloat16().float()
    # Where all numbers are 0, so is the scale, and any code will do.
    codes = (numbers / scales[..., None]).nan_to_num().floor().clamp(-half, half - 1)
    best = (_values(codes, scales).unflatten(-1, (-1, block)) - numbers).square().sum(-1).argmin(0, keepdim=True)
    return codes.gather(0, best[..., None].expand(-1, -1, -1, block))[0], scales.gather(0, best)[0]


def _values(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The numbers, (..., d), from codes (..., d / block, block) and scales (..., d / block)."""
    return ((codes + 0.5) * scales[..., None]).flatten(-2)

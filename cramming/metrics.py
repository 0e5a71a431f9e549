"""Capacity, gains and bounds from arrays and frames; no model, no torch.

L is the number of tokens of a passage, n that of runs or passages. Functions named "published" compute a number the
way the authors' released notebooks do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cramming.errors import CrammingError

THRESHOLD = 0.99  # the mean teacher-forced accuracy that the paper counts as decoded
RUN_COLUMNS = ("length", "accuracy", "correct_with", "correct_without", "nats_with", "nats_without")


def token_gain(correct_with: ArrayLike, correct_without: ArrayLike) -> NDArray[np.float64]:
    """Correctly predicted tokens with mem minus without.

    Both are boolean flags, one a token, shape (L,), or both are counts: one number, or one a run, shape (n,). Flags
    give one number, counts as many as went in.

    Examples:
        >>> float(token_gain([True, True, True], [False, True, False]))
        2.0
    """
    mine, base = np.asarray(correct_with), np.asarray(correct_without)
    if mine.shape != base.shape or (mine.dtype == bool) != (base.dtype == bool):
        raise CrammingError(
            f"correct_with is {mine.dtype} {mine.shape}, correct_without {base.dtype} {base.shape}: "
            "pass two arrays of flags or two of counts, of one shape"
        )
    gain = _vector(np.ravel(mine), "correct_with", low=0) - _vector(np.ravel(base), "correct_without", low=0)
    return np.asarray(gain.sum()) if mine.dtype == bool else gain.reshape(mine.shape)


def information_gain(
    nats_without: ArrayLike, nats_with: ArrayLike, *, score_first: bool = True, per_token: bool = False
) -> float:
    """Cross-entropy of a passage without mem minus with mem, in nats, summed over tokens.

    Args:
        nats_without: Cross-entropy of each token without mem, shape (L,).
        nats_with: The same with mem, shape (L,).
        score_first: Whether token 0 counts. If not, ``[0]`` is ignored and may be nan: a model with nothing in front
            of token 0 cannot predict it.
        per_token: Whether to return the mean over the scored tokens instead of the sum.
    """
    start = 0 if score_first else 1
    base = _vector(nats_without, "nats_without", start)
    mine = _vector(nats_with, "nats_with", start, size=base.size)
    gain = math.fsum(base) - math.fsum(mine)
    return gain / base.size if per_token else gain


def least_reduction(nats: ArrayLike, gaps: ArrayLike) -> NDArray[np.float64]:
    """The cross-entropy, in nats, that has to be taken off each token for the argmax to be right everywhere.

    The logit of the true token is raised until it equals the best other one, and no other is touched: with p its
    probability and q that of the best other, that takes log(q / (1 - p + q)) - log p, and 0 where it wins already.
    Whoever may lower single other logits as well gets away with less. A token of probability 1/4 against one of 3/4
    becomes 1/2 against 1/2, which takes log 2.

    Args:
        nats: Cross-entropy of each token, -log p, shape (L,).
        gaps: Logit of each true token minus the best other one, log p - log q, shape (L,).

    Examples:
        >>> import math
        >>> round(float(least_reduction([math.log(4)], [math.log(1 / 3)])[0]), 4)
        0.6931
    """
    base = _vector(nats, "nats", low=0)
    gap = _vector(gaps, "gaps", size=base.size)
    behind = np.minimum(gap, 0)
    # q - p = p * (1 / e**gap - 1); log1p keeps it from being lost where both are small.
    return -behind - np.log1p(np.exp(-base) * np.expm1(-behind))


def nats_to_bits(nats: float) -> float:
    """Nats to bits; `bits_to_nats` is the way back."""
    return nats / math.log(2)


def bits_to_nats(bits: float) -> float:
    """Bits to nats."""
    return bits * math.log(2)


def published_sum(scored_sum: Any, length: Any) -> Any:
    """Blow a sum over L - 1 scored tokens up to L, for a number, an array or a column.

    The published gains multiply a mean over L - 1 tokens (token 0 is given, not scored) by L, in nats and in tokens.
    """
    if np.any(np.asarray(length) < 2):
        raise CrammingError(f"length {np.min(length)} leaves no token to score after token 0: pass 2 or more")
    return scored_sum * length / (length - 1)


def published_information_gain(nats_without: ArrayLike, nats_with: ArrayLike) -> float:
    """Information gain as published, in nats: token 0 ignored, mean over the other L - 1 tokens times L."""
    gain = information_gain(nats_without, nats_with, score_first=False)
    return float(published_sum(gain, np.asarray(nats_with).size))


def teacher_forced_accuracy(correct: ArrayLike, *, score_first: bool = True) -> float:
    """Share of flags (L,) that are true; the paper's accuracy leaves token 0 out (``score_first=False``)."""
    return float(_vector(correct, "correct", 0 if score_first else 1, low=0, high=1).mean())


def decoding_capacity(
    lengths: ArrayLike, accuracies: ArrayLike, threshold: float = THRESHOLD, *, contiguous: bool = False
) -> int:
    """The largest length whose mean teacher-forced accuracy over passages is at least the threshold (Table 1).

    0 if no length reaches it. The mean decides, so single passages may fail. Lengths are not binned: among random
    words, whose length is drawn for each passage, one lucky long passage is a length of its own.

    Args:
        lengths: Length of each run in tokens, shape (n,).
        accuracies: Teacher-forced accuracy of each run, shape (n,).
        threshold: Accuracy asked for.
        contiguous: Ask it of every shorter length too. The paper does not.

    Examples:
        >>> decoding_capacity([8, 8, 16, 16, 32], [1.0, 1.0, 0.99, 1.0, 0.8])
        16
    """
    tokens = _vector(lengths, "lengths", low=1)
    shares = _vector(accuracies, "accuracies", low=0, high=1, size=tokens.size)
    passed = pd.Series(shares).groupby(tokens).mean() >= threshold
    passed = passed.cummin() if contiguous else passed
    return int(max(passed.index[passed], default=0))


def published_beyond_capacity(frame: pd.DataFrame, threshold: float = THRESHOLD) -> dict[str, float]:
    """Token gain and information gain over the runs that are not crammed to the end, as in Table 1.

    Pass the runs of one model and source, all lengths together, that did not score token 0.

    Args:
        frame: One row a run, columns `RUN_COLUMNS`; counts and nats are sums over the L - 1 scored tokens.
        threshold: Runs whose accuracy is above it are left out.

    Returns:
        Means and sample standard deviations, named as in capacity.csv (nan if too few runs are left), and n_runs.
    """
    require_columns(frame, RUN_COLUMNS, "the runs")
    if frame[list(RUN_COLUMNS)].isna().any(axis=None):
        raise CrammingError(f"the runs have nan in one of {', '.join(RUN_COLUMNS)}: drop runs that did not finish")
    runs = frame[frame["accuracy"] <= threshold]
    tokens = published_sum(runs["correct_with"] - runs["correct_without"], runs["length"])
    nats = published_sum(runs["nats_without"] - runs["nats_with"], runs["length"])
    summary = {"n_runs": float(len(runs))}
    for name, gains in (("token_gain", tokens), ("information_gain_nats", nats)):
        summary |= {f"{name}_mean": float(gains.mean()), f"{name}_std": float(gains.std())}
    return summary


def horizon_summary(horizons: ArrayLike, *, n_boot: int = 10_000, seed: int = 0) -> dict[str, float]:
    """Horizons of n passages: n, mean, sd (sample; nan for n = 1), low and high (95 % bootstrap interval)."""
    tokens = pd.Series(_vector(horizons, "horizons", low=0))
    low, high = bootstrap_ci(tokens, n_boot=n_boot, seed=seed)
    return {"n": len(tokens), "mean": float(tokens.mean()), "sd": float(tokens.std()), "low": low, "high": high}


def bootstrap_ci(
    values: ArrayLike, statistic: Callable[..., Any] = np.mean, n_boot: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic that takes ``axis``, drawing the values (n,) anew with replacement."""
    sample = _vector(values, "values")
    if n_boot < 1:
        raise CrammingError(f"n_boot is {n_boot}: draw at least once")
    draws = np.random.default_rng(seed).choice(sample, size=(n_boot, sample.size))
    low, high = np.percentile(statistic(draws, axis=1), [2.5, 97.5])
    return float(low), float(high)


def power_law(x: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """Fit ``y = factor * x ** exponent`` by least squares of log y on log x.

    The interval of the exponent is that of Student's t, as if the logs scattered normally around the line: with four
    points it is wide, and rough.

    Args:
        x: Numbers above 0, shape (n,), at least two of them different.
        y: Numbers above 0, shape (n,).

    Returns:
        n, exponent, low and high (its 95 % interval; nan for two points), factor, r2 (share of the variance of log y
        that the line explains; nan if all y are equal).

    Raises:
        CrammingError: If a number is not above 0, or fewer than two x differ.

    Examples:
        >>> fit = power_law([1, 10, 100], [2, 20, 200])
        >>> round(fit["exponent"], 6), round(fit["factor"], 6)
        (1.0, 2.0)
    """
    along = _vector(x, "x", low=0)
    values = _vector(y, "y", low=0, size=along.size)
    for name, each in (("x", along), ("y", values)):
        if not each.all():
            raise CrammingError(f"{name} holds a 0, which has no logarithm: leave that point out of the power law")
    if len(set(along)) < 2:
        raise CrammingError(f"x is {along[0]:g} everywhere: a power law needs at least two different x")
    centre, middle = np.log(along).mean(), np.log(values).mean()
    steps, rises = np.log(along) - centre, np.log(values) - middle
    exponent = (steps @ rises) / (steps @ steps)
    left, all_of_it = ((rises - exponent * steps) ** 2).sum(), rises @ rises
    n = along.size
    half = _t_quantile(n - 2) * math.sqrt(left / (n - 2) / (steps @ steps)) if n > 2 else math.nan
    return {
        "n": n,
        "exponent": float(exponent),
        "low": float(exponent - half),
        "high": float(exponent + half),
        "factor": math.exp(middle - exponent * centre),
        "r2": float(1 - left / all_of_it) if len(set(values)) > 1 else math.nan,
    }


def theoretical_capacity(width: float, vocab_size: int, bits: float = 16) -> float:
    """Tokens that d numbers of b bits could name if every bit did: d * b / log2(V). For k vectors, pass k * d."""
    if not (width > 0 and bits > 0 and vocab_size > 1):
        raise CrammingError(f"width {width}, vocabulary {vocab_size}, bits {bits}: expected above 0, 1 and 0")
    return width * bits / math.log2(vocab_size)


def utilisation(tokens: float, width: float, vocab_size: int, bits: float = 16) -> float:
    """Tokens over the theoretical capacity; in Figure 5 the tokens are the published mean token gain."""
    return tokens / theoretical_capacity(width, vocab_size, bits)


def information_utilisation(nats: float, width: float, bits: float = 16) -> float:
    """Information gain over the d * b bits of a mem vector."""
    return nats_to_bits(nats) / theoretical_capacity(width, 2, bits)


def require_columns(frame: pd.DataFrame, columns: Collection[str], what: str) -> None:
    """Raise CrammingError if the frame lacks one of the columns."""
    missing = sorted(set(columns) - set(frame.columns))
    if missing:
        raise CrammingError(f"{what} have no column {', '.join(missing)}: pass a frame as the store returns it")


def _t_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t, for whole degrees of freedom.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4, which give the probability between -t and t as a finite sum in
    the angle whose tangent is t over the root of the degrees.
    """
    odd = degrees % 2

    def between(angle: float) -> float:
        term, total = math.cos(angle) ** odd, 0.0
        for i in range(1, degrees // 2 + 1):
            total += term
            term *= math.cos(angle) ** 2 * (2 * i - 1 + odd) / (2 * i + odd)
        total *= math.sin(angle)
        return 2 / math.pi * (angle + total) if odd else total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if between(middle) < 0.95 else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _vector(
    values: Any, name: str, start: int = 0, *, low: float = -math.inf, high: float = math.inf, size: int | None = None
) -> NDArray[np.float64]:
    """Values from position start on as float64: flat, at least one, as many as size says, finite, low to high."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CrammingError(f"{name} are not all numbers ({error}): pass a flat array of numbers") from error
    if array.ndim != 1 or array.size <= start or size not in (None, array.size - start):
        wanted = f"more than {start}" if size is None else f"{size + start}"
        raise CrammingError(f"{name} has shape {array.shape}: pass a flat array of {wanted} numbers")
    for at in np.flatnonzero(~(np.isfinite(array) & (array >= low) & (array <= high))):
        if at >= start:
            raise CrammingError(f"{name}[{at}] is {array[at]:g}: expected a finite number from {low:g} to {high:g}")
    return array[start:]

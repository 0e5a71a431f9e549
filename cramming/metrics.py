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


def information_gain(nats_without: ArrayLike, nats_with: ArrayLike, *, score_first: bool = True) -> float:
    """Cross-entropy of a passage without mem minus with mem, in nats, summed over tokens.

    Args:
        nats_without: Cross-entropy of each token without mem, shape (L,).
        nats_with: The same with mem, shape (L,).
        score_first: Whether token 0 counts. If not, ``[0]`` is ignored and may be nan: a model with nothing in front
            of token 0 cannot predict it.
    """
    start = 0 if score_first else 1
    base = _vector(nats_without, "nats_without", start)
    mine = _vector(nats_with, "nats_with", start, size=base.size)
    return math.fsum(base) - math.fsum(mine)


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
    """Nats to bits."""
    return nats / math.log(2)


def published_sum(scored_sum: Any, length: Any) -> Any:
    """Blow a sum over L - 1 scored tokens up to L, for a number, an array or a column.

    The published gains multiply a mean over L - 1 tokens (token 0 is given, not scored) by L, in nats and in tokens.
    """
    if np.any(np.asarray(length) < 2):
        raise CrammingError(f"length {np.min(length)} leaves no token to score after token 0: pass 2 or more")
    return scored_sum * length / (length - 1)


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


def power_law(
    x: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, *, n_boot: int = 2_000, seed: int = 0
) -> dict[str, float]:
    """Fit ``y = factor * x ** exponent`` by least squares of log y on log x.

    Args:
        x: Numbers above 0, shape (n,).
        y: Numbers above 0, shape (n,).
        groups: Labels, shape (n,). If given, each group has a factor of its own, and only differences within a group
            count.
        n_boot: Draws of points for the interval; of few points it is rough.
        seed: Of the draws.

    Returns:
        n, exponent, low and high (its 95 % bootstrap interval), factor (nan with groups), r2 (share of the variance of
        log y that is explained; nan if there is none).

    Raises:
        CrammingError: If a number is not above 0, or x does not vary.

    Examples:
        >>> fit = power_law([1, 10, 100], [2, 20, 200])
        >>> round(fit["exponent"], 6), round(fit["factor"], 6)
        (1.0, 2.0)
    """
    tiny = np.nextafter(0, 1)
    along = np.log(_vector(x, "x", low=tiny))
    values = np.log(_vector(y, "y", low=tiny, size=along.size))
    labels = np.zeros(along.size, np.int64) if groups is None else pd.factorize(np.asarray(groups))[0]

    def fit(rows: NDArray[np.int64]) -> tuple[float, float]:
        counts = np.maximum(1, np.bincount(labels[rows]))
        a, b = (v[rows] - (np.bincount(labels[rows], v[rows]) / counts)[labels[rows]] for v in (along, values))
        if a @ a < 1e-12:
            return math.nan, math.nan
        exponent = float(a @ b / (a @ a))
        return exponent, 1 - float(((b - exponent * a) ** 2).sum() / (b @ b)) if b @ b > 1e-12 else math.nan

    exponent, r2 = fit(np.arange(along.size))
    if math.isnan(exponent):
        raise CrammingError("x does not vary: give at least two different numbers, in one group if there are groups")
    draws = np.random.default_rng(seed).integers(0, along.size, size=(n_boot, along.size))
    low, high = np.nanpercentile([fit(rows)[0] for rows in draws], [2.5, 97.5])
    factor = math.exp(values.mean() - exponent * along.mean()) if groups is None else math.nan
    return {"n": along.size, "exponent": exponent, "low": float(low), "high": float(high), "factor": factor, "r2": r2}


def threshold(without: ArrayLike, with_mem: ArrayLike) -> float:
    """The most that mem takes off: the c for which with_mem = max(0, without - c) fits best (Figure 3).

    Args:
        without: Cross-entropy of each passage without mem, shape (n,), in nats or bits.
        with_mem: The same with mem.

    Returns:
        c, in the same unit: of all c the one with the least sum of squares.

    Examples:
        >>> threshold([1, 2, 5, 9], [0, 0, 2, 6])
        3.0
    """
    base = _vector(without, "without", low=0)
    rest = _vector(with_mem, "with_mem", low=0, size=base.size)
    order = np.argsort(base)
    base, rest = base[order], rest[order]
    # Between two neighbouring values of base the same passages lie above c, and the sum of squares is a parabola.
    best, least = 0.0, math.inf
    edges = [0.0, *base]
    for at in range(base.size + 1):
        low, high = edges[at], edges[at + 1] if at < base.size else math.inf
        c = float(np.clip((base[at:] - rest[at:]).mean(), low, high)) if at < base.size else low
        error = float(((np.maximum(0, base - c) - rest) ** 2).sum())
        if error < least:
            best, least = c, error
    return best


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


def difference(a: ArrayLike, b: ArrayLike, *, n_boot: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of a less that of b, with its 95 % bootstrap interval: each of both samples is drawn anew on its own.

    Examples:
        >>> difference([5, 5, 5], [2, 2])
        (3.0, 3.0, 3.0)
    """
    first, second, random = _vector(a, "a"), _vector(b, "b"), np.random.default_rng(seed)
    means = [random.choice(some, size=(n_boot, some.size)).mean(axis=1) for some in (first, second)]
    low, high = np.percentile(means[0] - means[1], [2.5, 97.5])
    return float(first.mean() - second.mean()), float(low), float(high)


def theoretical_capacity(width: float, vocab_size: int, bits: float = 16) -> float:
    """Tokens that d numbers of b bits could name if every bit did: d * b / log2(V). For k vectors, pass k * d."""
    if not (width > 0 and bits > 0 and vocab_size > 1):
        raise CrammingError(f"width {width}, vocabulary {vocab_size}, bits {bits}: expected above 0, 1 and 0")
    return width * bits / math.log2(vocab_size)


def utilisation(tokens: float, width: float, vocab_size: int, bits: float = 16) -> float:
    """Tokens over the theoretical capacity; in Figure 5 the tokens are the published mean token gain."""
    return tokens / theoretical_capacity(width, vocab_size, bits)


def require_columns(frame: pd.DataFrame, columns: Collection[str], what: str) -> None:
    """Raise CrammingError if the frame lacks one of the columns."""
    missing = sorted(set(columns) - set(frame.columns))
    if missing:
        raise CrammingError(f"{what} have no column {', '.join(missing)}: pass a frame as the store returns it")


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

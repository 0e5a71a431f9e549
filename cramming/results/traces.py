"""Traces: what a run saw at each step, thinned for the store, and read back as exact tokens against what was spent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cramming.engine import Step
from cramming.recipes import Recipe


def steps_to(run: Any, runs: pd.DataFrame) -> np.ndarray:
    """Step by which each token of a horizon and all before it were right at once, shape (length,); else nothing.

    The trace tells it of tokens that came one by one. Those that a run began with, or that lie between two kept steps
    of a thinned trace, are known to be right only once the prefix had grown beyond them.

    Args:
        run: A row of the store.
        runs: The same row as a frame.
    """
    if run.kind != "horizon":
        return np.zeros(0)
    spent, exact = exact_curve(runs, "steps")
    at = np.searchsorted(exact, np.arange(run.length), side="right")
    # The prefix under optimisation grows at the end of a step and shows in the next row; the last entry is the end.
    return spent[at] - (at < len(spent) - 1)


def thin(trace: list[Step], most: int = 400) -> list[Step]:
    """About `most` rows of a trace, evenly spaced, the last one and the one of least loss always among them."""
    least = min(trace, key=lambda row: row[2])
    every = -(-len(trace) // most)
    return [row for i, row in enumerate(trace) if i % every == 0 or row is least or row is trace[-1]]


def stair(spent: np.ndarray, exact: np.ndarray, at: ArrayLike) -> np.ndarray:
    """Exact tokens of a staircase from `exact_curve` once so much is spent; one number or several at a time."""
    return exact[np.searchsorted(spent, at, side="right") - 1]


def exact_at(runs: pd.DataFrame, spent: ArrayLike, along: str = "token_passes") -> np.ndarray:
    """Exact tokens of each run of kind horizon once so much was spent on it, shape (n,).

    Args:
        runs: Their rows.
        spent: One amount for all, or one for each, shape (n,).
        along: See `exact_curve`.
    """
    each = np.broadcast_to(np.asarray(spent), len(runs))
    return np.array([stair(*exact_curve(runs.iloc[[i]], along), most) for i, most in enumerate(each)], dtype=int)


def won_late(runs: pd.DataFrame) -> np.ndarray:
    """Exact tokens that each run of kind horizon won in the last quarter of its token passes, shape (n,)."""
    passes = runs["token_passes"].to_numpy()
    return exact_at(runs, passes) - exact_at(runs, 0.75 * passes)


def exact_curve(runs: pd.DataFrame, along: str = "token_passes") -> tuple[np.ndarray, np.ndarray]:
    """Exact tokens of one passage against what one system spent on it, as a staircase from (0, 0).

    Args:
        runs: Rows of one passage and system: a horizon, or the paper's crams of several lengths.
        along: What is spent: token_passes or steps.
    """
    if (runs["kind"] == "horizon").all():
        (run,) = runs.itertuples()
        how = Recipe.model_validate_json(run.recipe_json)
        trace = {"token_passes": "trace_token_passes", "steps": "trace_step"}[along]
        lengths, spent = np.asarray(run.trace_length), np.asarray(getattr(run, trace))
        # The prefix under optimisation runs ahead of the exact one by a block.
        ahead = how.growth.block if how.growth else 0
        exact = np.where(lengths > lengths[0], lengths - ahead, 0)
        spent, exact = np.append(spent, getattr(run, along)), np.append(exact, run.length)
    else:
        runs = runs.sort_values("length")
        spent = runs[along].cumsum().to_numpy()
        exact = runs["length"].where(runs["exact"].cummin(), 0).to_numpy()
    return np.append(0, spent), np.append(0, np.maximum.accumulate(exact))

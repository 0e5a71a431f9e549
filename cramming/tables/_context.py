"""A vector beside the text itself as context."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.errors import CrammingError
from cramming.tables import _words as words

SURPRISE = (-np.inf, 1, 3, 6, 10, np.inf)  # bits; rounding may put a certain token below 0

SURPRISE_LABELS = ("under 1", "1 to 3", "3 to 6", "6 to 10", "10 or more")

CONTEXTS = {
    "nothing": "nothing",
    "context": "text before it",
    "mem": "mem",
    "context, mem": "text before it, then mem",
    "mem, context": "mem, then text before it",
    "copy": "the passage itself",
    "other context": "text before another passage",
    "other mem": "mem of another passage",
}


def context_summary(gains: pd.DataFrame) -> pd.DataFrame:
    """What stands in front of passages and what it takes off their cross-entropy, one row a condition.

    Args:
        gains: From `cramming.context.gains`.

    Returns:
        Indexed by what (`CONTEXTS`) and context_tokens: n (passages), gain_mean, gain_sd (bits a passage), mean, sd,
        sem (bits a token, each passage counted alike), removed (share of the bits without, sums over passages),
        right_mean, right_sd (share of tokens).
    """
    rows = {}
    for key, some in gains.groupby(["what", "context_tokens"]):
        rows[key] = {
            "n": len(some),
            "gain_mean": some["gain_bits"].mean(),
            "gain_sd": some["gain_bits"].std(),
            "mean": some["gain_per_token"].mean(),
            "sd": some["gain_per_token"].std(),
            "sem": some["gain_per_token"].sem(),
            "removed": some["gain_bits"].sum() / some["bits_without"].sum(),
            "right_mean": some["right"].mean(),
            "right_sd": some["right"].std(),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "context_tokens"])
    return frame.loc[[what for what in CONTEXTS if what in frame.index]]


def context_table(gains: pd.DataFrame) -> pd.DataFrame:
    """`context_summary` as a page shows it: true context of every length, the rest with the shortest and longest."""
    summary = context_summary(gains).reset_index()
    lengths = summary.loc[summary["what"] == "context", "context_tokens"]
    shown = summary[summary["context_tokens"].isin([0, lengths.min(), lengths.max()]) | (summary["what"] == "context")]
    rows = {
        (CONTEXTS[row.what], f"{row.context_tokens}" if row.context_tokens else ""): {
            "passages": row.n,
            "gain, bits": words.spread(row.gain_mean, row.gain_sd, 0),
            "gain, bits a token": words.spread(row.mean, row.sd, 2),
            "of all bits": f"{row.removed:.0%}",
            "tokens right, %": words.spread(row.right_mean * 100, row.right_sd * 100, 0),
        }
        for row in shown.itertuples()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.rename_axis(["in front of the passage", "tokens of text before"])


def context_worth(gains: pd.DataFrame) -> pd.DataFrame:
    """How much true context tells as much as mem alone does, passage by passage.

    Args:
        gains: From `cramming.context.gains`.

    Returns:
        One row a passage: source, passage, mem_bits, context_bits (gain from the longest context), context_tokens (how
        long that is), worth (tokens of the shortest context that gains as much as mem, nan if none does).
    """
    rows = []
    for (source, passage), some in gains.groupby(["source", "passage"]):
        context = some[some["what"] == "context"].sort_values("context_tokens")
        mem = some.loc[some["what"] == "mem", "gain_bits"].item()
        if context.empty:
            raise CrammingError(f"{passage} was given no context: pass lengths that its text before it has")
        longest = context.iloc[-1]
        worth = context.loc[context["gain_bits"] >= mem, "context_tokens"].min()
        rows.append((source, passage, mem, longest["gain_bits"], longest["context_tokens"], worth))
    columns = ["source", "passage", "mem_bits", "context_bits", "context_tokens", "worth"]
    return pd.DataFrame(rows, columns=columns).astype({"worth": float})


def context_by_surprise(tokens: pd.DataFrame) -> pd.DataFrame:
    """Which tokens context, a copy and mem tell of: tokens sorted by what they cost with nothing in front.

    Args:
        tokens: From `cramming.context.told`; of context only the longest of each passage is used.

    Returns:
        One row a class of bits without: tokens (count), bits without, and the mean gain in bits from the longest
        context, the copy and mem.
    """
    context = tokens[tokens["what"] == "context"]
    longest = context[context["context_tokens"] == context.groupby("passage")["context_tokens"].transform("max")]
    some = pd.concat([tokens[tokens["what"].isin(["nothing", "mem", "copy"])], longest])
    bits = some.pivot_table("nats", ["passage", "position"], "what").map(metrics.nats_to_bits)
    alone = bits["nothing"]
    classes = pd.cut(alone, SURPRISE, labels=SURPRISE_LABELS, right=False).rename("bits without")
    frame = bits.rsub(alone, axis=0).assign(nothing=alone).groupby(classes, observed=True)
    shown = frame.mean().map("{:.2f}".format)[["nothing", "context", "copy", "mem"]]
    shown.columns = ["mean bits without", *(f"gain from {CONTEXTS[what]}" for what in ("context", "copy", "mem"))]
    shown.insert(0, "tokens", frame.size())
    return shown

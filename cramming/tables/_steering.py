"""What mem is good for besides saying its text."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.tables import _words as words

FRONTS = {
    "nothing": "nothing",
    "text": "the text",
    "mem": "mem",
    "mem, room": "mem, and room for the text",
    "random": "a random vector",
    "other mem": "mem of another passage",
    "mem, text": "mem, then the text",
    "random, text": "a random vector, then the text",
}

WRITERS = {**FRONTS, "truth": "nobody: the true continuation"}


def continued_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """What stands in front of true continuations and what it takes off their cross-entropy, one row a condition.

    Args:
        frame: From `cramming.steering.continued`, of all texts or some.

    Returns:
        Index what (`FRONTS`); columns n (passages), bits (a token, each passage counted alike), saved (bits a token
        fewer than with nothing in front), low, high, share (saved over what the text itself saves, of sums), share_low
        and share_high. Intervals: 95 %, drawing passages anew.
    """
    each = frame.pivot_table("bits", "passage", "what")
    saved = each.rsub(each["nothing"], axis=0)
    text, rows = saved["text"].to_numpy(), {}
    for what in [what for what in FRONTS if what in each]:
        mine = saved[what].to_numpy()
        low, high = metrics.bootstrap_ci(mine)
        with np.errstate(divide="ignore", invalid="ignore"):  # where the text saves nothing there is no share
            share = mine.sum() / text.sum()
        share_low, share_high = words.ratio_interval(mine, text)
        columns = {"n": len(mine), "bits": each[what].mean(), "saved": mine.mean(), "low": low, "high": high}
        rows[what] = {**columns, "share": share, "share_low": share_low, "share_high": share_high}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")


def continued_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`continued_summary` by source as a page shows it."""
    rows = {}
    for source, some in frame.groupby("source", sort=False):
        for r in continued_summary(some).itertuples():
            rows[source, FRONTS[str(r.Index)]] = {
                "passages": r.n,
                "bits a token": f"{r.bits:.2f}",
                "saved, bits a token": words.interval(r.saved, r.low, r.high, 2) if r.Index != "nothing" else "",
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["text", "in front of its continuation"])


def paired(
    frame: pd.DataFrame, one: str, other: str, value: str = "bits", by: str = "what"
) -> tuple[float, float, float]:
    """By how much one condition is above another, passage by passage: mean, and its 95 % bootstrap interval.

    Args:
        frame: One row or several a passage and condition; several are averaged.
        one: A condition.
        other: Another one.
        value: Which column is compared.
        by: Which column names the condition.
    """
    each = frame.pivot_table(value, "passage", by)
    difference = (each[one] - each[other]).dropna()
    return float(difference.mean()), *metrics.bootstrap_ci(difference)


def written_table(frame: pd.DataFrame) -> pd.DataFrame:
    """What the model wrote behind its texts, summed up: means over passages with 95 % bootstrap intervals.

    Args:
        frame: From `cramming.steering.written`.
    """
    rows = {}
    for writer, some in frame.groupby("writer", sort=False):
        rows[WRITERS[str(writer)]] = {
            "passages": len(some),
            "tokens as behind the text alone": words.share_mean(some["same"]),
            "tokens until the first other": f"{some['until'].mean():.1f}",
            "bits a token, given the text": words.mean(some["bits"], 2),
            "runs of four written before": words.share_mean(some["repeated"].dropna()),
            "longest run from the text, tokens": words.mean(some["copied"], 1),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("behind")


def written_examples(frame: pd.DataFrame, passages: Collection[str]) -> pd.DataFrame:
    """What the model wrote behind some of the texts, with line breaks spelled out.

    Args:
        frame: From `cramming.steering.written`.
        passages: Which.
    """
    some = frame[frame["passage"].isin(passages)]
    shown = some.assign(behind=some["writer"].map(WRITERS), wrote=some["wrote"].map(repr))
    return shown.set_index(["passage", "behind"])[["wrote"]]


def cloze_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """How often a text's word was likelier than one it lacks, one row a condition, each passage counted alike.

    Args:
        frame: From `cramming.steering.cloze`.

    Returns:
        Index what (`FRONTS`); columns n (passages), pairs, right (share of pairs, chance is a half), low, high, bits
        (by how much the true word was likelier), bits_low, bits_high. Intervals: 95 %, drawing passages anew.
    """
    rows = {}
    for what in [what for what in FRONTS if (frame["what"] == what).any()]:
        some = frame[frame["what"] == what]
        right = (some["bits"] > 0).groupby(some["passage"]).mean()
        bits = some.groupby("passage")["bits"].mean()
        (low, high), (bits_low, bits_high) = metrics.bootstrap_ci(right), metrics.bootstrap_ci(bits)
        columns = {"n": len(right), "pairs": len(some), "right": right.mean(), "low": low, "high": high}
        rows[what] = {**columns, "bits": bits.mean(), "bits_low": bits_low, "bits_high": bits_high}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")


def cloze_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cloze_summary` as a page shows it."""
    rows = {
        FRONTS[str(r.Index)]: {
            "passages": r.n,
            "pairs of words": r.pairs,
            "true word likelier": words.percent(r.right, r.low, r.high),
            "by, bits": words.interval(r.bits, r.bits_low, r.bits_high, 2),
        }
        for r in cloze_summary(frame).itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("in front of the question")


def middle_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Tokens right by what stands in front and how many true tokens are seen, each passage counted alike.

    Args:
        frame: From `cramming.steering.from_the_middle`.

    Returns:
        Indexed by what and left (tokens; inf for the whole text before): n (passages), right (share of tokens), low
        and high (95 % interval, drawing passages anew), sem, bits (a token), bits_sem.
    """
    rows = {}
    for key, some in frame.groupby(["what", "left"], sort=False):
        each = some.groupby("passage")[["right", "bits"]].mean()
        low, high = metrics.bootstrap_ci(each["right"])
        columns = {"n": len(each), "right": each["right"].mean(), "low": low, "high": high}
        errors = {"sem": each["right"].sem(), "bits": each["bits"].mean(), "bits_sem": each["bits"].sem()}
        rows[key] = columns | errors
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "left"])


def middle_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Tokens right of `middle_summary` as a page shows them, one column a number of tokens seen."""
    summary = middle_summary(frame)
    rows: dict[str, dict[str, str]] = {
        FRONTS[what]: {} for what in ("mem", "mem, room", "nothing") if what in summary.index
    }
    for (what, left), r in summary.iterrows():
        rows[FRONTS[what]][seen(left)] = words.percent(r["right"], r["low"], r["high"])
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("in front")


def seen(left: float) -> str:
    """How many tokens are seen, in a word: a number, or ``all``."""
    return "all" if left == np.inf else f"{left:.0f}"

"""Which unit a capacity is best counted in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.paper import hub_id, published
from cramming.tables import _words as words
from cramming.tables._horizons import gains

PUBLISHED = ("meta-llama/Llama-3.1-8B", "pg19")  # model and text of the title


def units(results: pd.DataFrame, files: pd.DataFrame, bits: int = 16) -> pd.DataFrame:
    """What goes into one vector, over that vector, by the unit that both are counted in; published and here.

    Published numbers: the capacity in tokens and the information gain (capacity.csv), width, vocabulary and what a
    token costs the model without mem (models.csv, over the first 512 of a text). How many characters and bytes a token
    has is not published: there, those of the passages here stand in, though of another tokenizer.

    Args:
        results: Horizon rows of the store with one mem vector, at least two tokens each.
        files: From `cramming.coding.files`, of the same passages.
        bits: Of each number of the vector.

    Returns:
        Indexed by model and unit (of text over of vector): text and vector (means over passages), ratio (text over
        vector), source (file and column, or that it was measured here).
    """
    hub, source = PUBLISHED
    about = published("models").set_index("hub_id").loc[hub]
    capacity = published("capacity")
    said = capacity[(capacity["model"].map(hub_id) == hub) & (capacity["source"] == source)].iloc[0]
    sizes = files[files["coder"] == files["coder"].iloc[0]]
    per_token = sizes[["characters", "utf8"]].sum() / sizes["tokens"].sum()
    gained = gains(results)["bits"].mean()
    cases = {
        f"{about['name']} (published)": (
            said["decoding_capacity_tokens"],
            int(about["hidden_size"]),
            int(about["vocab_size"]),
            about["text_cross_entropy_nats_512_tokens_pg19"] / 512 * said["decoding_capacity_tokens"],
            metrics.nats_to_bits(said["information_gain_nats_mean"]),
            ("capacity.csv", "capacity.csv; characters a token as here", "capacity.csv, models.csv"),
        ),
        f"{results['model'].iloc[0]} (here)": (
            results["length"].mean(),
            int(results["width"].iloc[0]),
            int(results["vocab_size"].iloc[0]),
            results["nats_without"].mean(),
            gained,
            ("measured", "measured", "measured"),
        ),
    }
    rows = {}
    for model, (tokens, width, vocab_size, nats, gain, (first, second, third)) in cases.items():
        vector = width * bits
        for unit, text, size, where in (
            ("tokens over vectors", tokens, 1, first),
            ("characters over vectors", tokens * per_token["characters"], 1, second),
            ("tokens over numbers", tokens, width, third),
            ("bytes of UTF-8 over bytes", tokens * per_token["utf8"], vector / 8, second),
            ("bits of token ids over bits", tokens * np.log2(vocab_size), vector, third),
            ("bits the model lacks over bits", metrics.nats_to_bits(nats), vector, third),
            ("information gain over bits", gain, vector, third),
        ):
            rows[model, unit] = {"text": text, "vector": size, "ratio": text / size, "source": where}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "unit"])


def unit_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`units` as a page shows it: one row a unit, one group of columns a model."""
    shown = pd.DataFrame(
        {
            "of text": frame["text"].map("{:,.0f}".format),
            "of vector": frame["vector"].map("{:,.0f}".format),
            "ratio": [f"× {ratio:,.0f}" if ratio >= 10 else f"× {ratio:.2g}" for ratio in frame["ratio"]],
            "from": frame["source"],
        }
    )
    models = frame.index.get_level_values("model").unique()
    return pd.concat({model: shown.loc[model] for model in models}, axis=1)


def forecast_summary(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How far forecasts are off, one row a way of making them; the first is what the others are held against.

    Args:
        frames: From `cramming.predict.left_out`, of one target, by what to call them.

    Returns:
        Index way; columns n (passages), error (mean absolute), better, low, high (by how much less than that of the
        first way on the same passages, with its 95 % bootstrap interval), r2 (share of the squared error of the first
        way, in logarithms, that is gone), covered, covered_low, covered_high (share of truths in their interval, with
        the same), width (median of the interval's upper over its lower end).
    """
    base, rows = next(iter(frames.values())), {}
    for name, frame in frames.items():
        same = base.loc[frame.index]
        gained = (same["predicted"] - same["truth"]).abs() - (frame["predicted"] - frame["truth"]).abs()
        squares = [((np.log(some["predicted"]) - np.log(some["truth"])) ** 2).sum() for some in (frame, same)]
        (low, high), (covered_low, covered_high) = (
            metrics.bootstrap_ci(values) for values in (gained, frame["inside"].astype(float))
        )
        rows[name] = {
            "n": len(frame),
            "error": (frame["predicted"] - frame["truth"]).abs().mean(),
            "better": gained.mean(),
            "low": low,
            "high": high,
            "r2": 1 - squares[0] / squares[1] if squares[1] > 0 else np.nan,
            "covered": frame["inside"].mean(),
            "covered_low": covered_low,
            "covered_high": covered_high,
            "width": (frame["high"] / frame["low"].clip(lower=1e-9)).median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("forecast from")


def forecast_table(summaries: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`forecast_summary` of several targets as a page shows it.

    Args:
        summaries: By target.
    """
    rows = {}
    for target, summary in summaries.items():
        for place, (name, row) in enumerate(summary.iterrows()):
            covered, low, high = (f"{row[end]:.0%}" for end in ("covered", "covered_low", "covered_high"))
            rows[target, name] = {
                "passages": f"{row['n']:.0f}",
                "mean absolute error": f"{row['error']:,.1f}",
                "less than the first": words.interval(row["better"], row["low"], row["high"], 2) if place else "",
                "variance of the logarithm told": f"{row['r2']:.0%}" if place else "",
                "truth in the interval": f"{covered} ({low} to {high})",
                "upper over lower end": f"{row['width']:,.1f}" if row["width"] < 1e6 else "unbounded",
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["target", "forecast from"])

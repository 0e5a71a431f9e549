"""Exact horizons, and the paper's protocol as its own rules count it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.errors import CrammingError
from cramming.recipes import Recipe
from cramming.tables import _words as words


def horizons(results: pd.DataFrame) -> pd.DataFrame:
    """Exact horizons by recipe, model and source: the summary that figures and captions read.

    Columns: recipe, model, width, vocab_size, source, n, mean, sd, low, high (tokens; 95 % bootstrap interval of the
    mean), least, most (tokens), bits_mean, bits_sd (information gain over tokens 1 on, bits), bits_per_token,
    token_gain_mean, token_gain_sd (tokens), token_passes_per_token, cpu_seconds_per_token (per exact token).
    """
    rows = []
    for (recipe, model, source), some in gains(results).groupby(["recipe", "model", "source"], sort=False):
        bits, gain, exact = some["bits"], some["token_gain"], some["length"].sum()
        rows.append(
            {
                "recipe": recipe,
                "model": model,
                "width": some["width"].iloc[0],
                "vocab_size": some["vocab_size"].iloc[0],
                "source": source,
                **metrics.horizon_summary(some["length"]),
                "least": some["length"].min(),
                "most": some["length"].max(),
                "bits_mean": bits.mean(),
                "bits_sd": bits.std(),
                "bits_per_token": bits.sum() / exact if exact else np.nan,
                "token_gain_mean": gain.mean(),
                "token_gain_sd": gain.std(),
                "token_passes_per_token": some["token_passes"].sum() / exact if exact else np.nan,
                "cpu_seconds_per_token": some["cpu_seconds"].sum() / exact if exact else np.nan,
            }
        )
    return pd.DataFrame(rows)


def paper_protocol(results: pd.DataFrame) -> pd.DataFrame:
    """The paper's recipe by model, source and length, as its own rules count and as decoding counts.

    Columns: model, source, length (tokens), n, accuracy (mean, teacher-forced, as the recipe measures it), solved
    (runs at accuracy 1), exact (runs that decode from the vector and the given token 0), greedy_tokens (mean tokens
    before the first error of decoding, token 0 given), token_gain, information_gain_nats (means, published
    convention), steps (mean), cpu_seconds (mean).
    """
    runs = words.some(results, "cram")
    runs = runs[runs["recipe"] == "paper"]
    if runs.empty:
        raise CrammingError("the results hold no run of recipe paper: sweep a plan that asks for it")
    runs = runs.assign(
        solved=runs["accuracy"] == 1,
        token_gain=metrics.published_sum(runs["correct_with"] - runs["correct_without"], runs["length"]),
        information_gain_nats=metrics.published_sum(runs["nats_without"] - runs["nats_with"], runs["length"]),
    )
    grouped = runs.groupby(["model", "source", "length"], as_index=False)
    return grouped.agg(
        n=("key", "size"),
        accuracy=("accuracy", "mean"),
        solved=("solved", "sum"),
        exact=("exact", "sum"),
        greedy_tokens=("correct_greedy", "mean"),
        token_gain=("token_gain", "mean"),
        information_gain_nats=("information_gain_nats", "mean"),
        steps=("steps", "mean"),
        cpu_seconds=("cpu_seconds", "mean"),
    )


def protocols(results: pd.DataFrame) -> pd.DataFrame:
    """The paper's recipe and our horizon on the passages that both were run on, by length.

    Columns: length (tokens), n (passages), paper_accuracy (mean), paper_exact (share, token 0 given),
    paper_cpu_seconds (mean), horizon_exact (share whose horizon reaches the length), horizon_cpu_seconds (mean, of
    the whole horizon).
    """
    ours = words.some(results, "horizon").query("recipe == 'horizon'").set_index("passage")
    paper = results[(results["kind"] == "cram") & (results["recipe"] == "paper") & results["passage"].isin(ours.index)]
    if paper.empty:
        raise CrammingError("no passage was crammed by recipe paper and grown to its horizon: sweep a plan with both")
    rows = []
    for length, some in paper.groupby("length"):
        same = ours.loc[some["passage"]]
        rows.append(
            {
                "length": length,
                "n": len(some),
                "paper_accuracy": some["accuracy"].mean(),
                "paper_exact": some["exact"].mean(),
                "paper_cpu_seconds": some["cpu_seconds"].mean(),
                "horizon_exact": (same["length"] >= length).mean(),
                "horizon_cpu_seconds": same["cpu_seconds"].mean(),
            }
        )
    return pd.DataFrame(rows)


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


def horizon_table(results: pd.DataFrame) -> pd.DataFrame:
    """`horizons` as a page shows it: one row a model and source, spread and unit in every cell or heading."""
    rows = {}
    for row in horizons(results).to_dict("records"):
        bound = metrics.theoretical_capacity(row["width"], row["vocab_size"])
        rows[(row["model"], row["source"])] = {
            "passages": row["n"],
            "exact horizon, tokens": words.spread(row["mean"], row["sd"]),
            "95 % of the mean": f"{row['low']:.1f} to {row['high']:.1f}",
            "range": f"{row['least']} to {row['most']}",
            "token gain, tokens": words.spread(row["token_gain_mean"], row["token_gain_sd"]),
            "information gain, bits": words.spread(row["bits_mean"], row["bits_sd"], 0),
            "bits per token": f"{row['bits_per_token']:.2f}",
            "horizon over 16-bit bound": f"{row['mean'] / bound:.1%}",
            "token passes per exact token": f"{row['token_passes_per_token']:.0f}",
            "processor seconds per exact token": f"{row['cpu_seconds_per_token']:.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "text"])


def protocol_table(results: pd.DataFrame) -> pd.DataFrame:
    """`paper_protocol` beside `protocols` as a page shows them: one row a length."""
    both = paper_protocol(results).merge(protocols(results)[["length", "horizon_exact"]], on="length", how="left")
    return pd.DataFrame(
        {
            "length, tokens": both["length"],
            "passages": both["n"],
            "paper's recipe: accuracy": both["accuracy"].map("{:.3f}".format),
            "solved (accuracy 1)": both["solved"],
            "decode exactly, token 0 given": both["exact"],
            "tokens decoded, mean": both["greedy_tokens"].map("{:.1f}".format),
            "steps, mean": both["steps"].map("{:,.0f}".format),
            "processor seconds, mean": both["cpu_seconds"].map("{:,.0f}".format),
            "ours: passages exact at this length": (both["horizon_exact"] * both["n"]).round().astype("Int64"),
        }
    ).set_index("length, tokens")


def gains(results: pd.DataFrame) -> pd.DataFrame:
    """The horizons of the results with what each vector gained.

    Returns:
        The rows of kind horizon and their columns, with token_gain (tokens), bits (information gain over tokens 1 on)
        and bits_capped (the same, where without mem these tokens cost no more than a uniform guess: a model worse than
        that gains bits by being cured of its errors, too). A horizon of 0 or 1 tokens gains no bits.
    """
    runs = words.some(results, "horizon")
    bits = runs.apply(words.bits_after_first, axis=1)
    without = [metrics.nats_to_bits(float(np.sum(nats[1:]))) for nats in runs["token_nats_without"]]
    guess = (runs["length"] - 1).clip(lower=0) * np.log2(runs["vocab_size"])
    return runs.assign(
        token_gain=runs["correct_with"] - runs["correct_without"],
        bits=bits,
        bits_capped=bits - (without - guess).clip(lower=0),
    )

"""Tables: the store's tidy frame in, the frame a page shows out. Means come with their spread and n."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.errors import CrammingError
from cramming.paper import published


def horizons(results: pd.DataFrame) -> pd.DataFrame:
    """Exact horizons by recipe, model and source: the summary that figures and captions read.

    Columns: recipe, model, source, n, mean, sd, low, high (tokens; 95 % bootstrap interval of the mean), least, most
    (tokens), bits_mean, bits_sd (information gain over tokens 1 on, bits), bits_per_token, token_gain_mean,
    token_gain_sd (tokens), token_passes_per_token, cpu_seconds_per_token (per exact token).
    """
    runs = _some(results, "horizon")
    rows = []
    for (recipe, model, source), some in runs.groupby(["recipe", "model", "source"], sort=False):
        bits = some.apply(_bits_after_first, axis=1)
        gain = some["correct_with"] - some["correct_without"]
        exact = some["length"].sum()
        rows.append(
            {
                "recipe": recipe,
                "model": model,
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
    runs = _some(results, "cram")
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
    paper_cpu_seconds (mean), horizon_exact (share whose horizon reaches the length), horizon_cpu_seconds (mean, of the whole horizon).
    """
    ours = _some(results, "horizon").query("recipe == 'horizon'").set_index("passage")
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


def published_capacity() -> pd.DataFrame:
    """The 14 models of the paper: size, width, bound, and capacity (tokens) by source, as published."""
    models = published("models")[["name", "hub_id", "params_billion", "hidden_size", "theoretical_capacity_tokens"]]
    capacity = published("capacity").assign(hub_id=lambda frame: frame["model"].str.replace("Meta-Llama", "Llama"))
    wide = capacity.set_index(["hub_id", "source"])["decoding_capacity_tokens"].unstack().add_prefix("capacity_")  # noqa: PD010
    return models.merge(wide, left_on="hub_id", right_index=True, how="left").sort_values(
        "capacity_pg19", ascending=False, ignore_index=True
    )


def provenance(results: pd.DataFrame) -> str:
    """One line for captions: machine, number format, versions and total cost of the runs."""
    parts = [", ".join(sorted(results[column].unique())) for column in ("device", "dtype", "versions")]
    hours = results["cpu_seconds"].sum() / 3600
    return f"{parts[0]}, {parts[1]}; {parts[2]}; {len(results)} runs, {hours:.1f} processor hours"


def _some(results: pd.DataFrame, kind: str) -> pd.DataFrame:
    runs = results[results["kind"] == kind]
    if runs.empty:
        raise CrammingError(f"the results hold no run of kind {kind}: sweep a plan that asks for some")
    return runs


def _bits_after_first(run: pd.Series) -> float:
    """Information gain of tokens 1 on: without mem nothing stands before token 0, and its cost is a convention."""
    if run["length"] < 2:
        return 0.0
    return metrics.nats_to_bits(
        metrics.information_gain(run["token_nats_without"], run["token_nats_with"], score_first=False)
    )

"""Exact horizons, and the paper's protocol as its own rules count it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.errors import CrammingError
from cramming.results.published import hub_id, published
from cramming.results.rows import of_kind
from cramming.studies._figures import COLOURS, SOURCE_MARKS, styled


def paper_protocol(results: pd.DataFrame) -> pd.DataFrame:
    """The paper's recipe by model, source and length, as its own rules count and as decoding counts.

    Columns: model, source, length (tokens), n, accuracy (mean, teacher-forced, as the recipe measures it), solved
    (runs at accuracy 1), exact (runs that decode from the vector and the given token 0), greedy_tokens (mean tokens
    before the first error of decoding, token 0 given), token_gain, information_gain_nats (means, published
    convention), steps (mean), cpu_seconds (mean).
    """
    runs = of_kind(results, "cram")
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
    ours = of_kind(results, "horizon").query("recipe == 'horizon'").set_index("passage")
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


def published_table() -> pd.DataFrame:
    """The 14 models of the paper as published: size, width, bound and capacity in tokens by source."""
    models = published("models").set_index("hub_id")
    capacity = published("capacity")
    by_source = {
        f"{source}, tokens": some.set_index(some["model"].map(hub_id))["decoding_capacity_tokens"]
        for source, some in capacity.groupby("source")
    }
    frame = pd.DataFrame(
        {
            "model": models["name"] + " (published)",
            "parameters, billions": models["params_billion"],
            "width d": models["hidden_size"],
            "16-bit bound, tokens": models["theoretical_capacity_tokens"],
            **{name: column.reindex(models.index).astype("Int64") for name, column in by_source.items()},
        }
    ).sort_values("pg19, tokens", ascending=False)
    return frame.astype(object).where(frame.notna(), "").set_index("model")


@styled
def capacity_by_model_figure(capacity: pd.DataFrame, ours: pd.DataFrame) -> Figure:
    """Figure 1: tokens one vector holds, model by model; published capacities, and our horizons beside them.

    Args:
        capacity: capacity.csv, or the part of it with one source.
        ours: `cramming.results.rows.horizons`.
    """
    said = pd.DataFrame(
        {
            "label": capacity["model"].str.split("/").str[-1],
            "tokens": capacity["decoding_capacity_tokens"],
            "sd": 0.0,
            "note": capacity["decoding_capacity_tokens"].map("{:,}".format),
        }
    )
    mine = pd.DataFrame(
        {
            "label": ours["model"] + ", " + ours["source"],
            "tokens": ours["mean"],
            "sd": ours["sd"].fillna(0),
            "note": [f"{row.mean:.0f} (n = {row.n})" for row in ours.itertuples()],
        }
    )
    both = pd.concat([said.assign(here=False), mine.assign(here=True)]).sort_values("tokens", ignore_index=True)
    figure, axis = plt.subplots(figsize=(8.5, 0.34 * len(both) + 1.2))
    for here, colour, label in (
        (False, COLOURS[2], "published: mean accuracy ≥ 0.99"),
        (True, COLOURS[0], "measured here: mean exact horizon ± 1 sd"),
    ):
        some = both[both["here"] == here]
        axis.barh(some.index, some["tokens"], color=colour, label=label)
        if here:
            axis.errorbar(some["tokens"], some.index, xerr=some["sd"], fmt="none", ecolor=COLOURS[1], capsize=3)
    for row in both.itertuples():
        end = (row.tokens + row.sd, row.Index)
        axis.annotate(row.note, end, (5, 0), va="center", textcoords="offset points", fontsize="small")
    axis.set_yticks(both.index, both["label"])
    axis.set(xscale="log", xlabel="tokens in one vector (log scale)", xlim=(10, 6000))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.grid(visible=False, axis="y")
    axis.legend(loc="lower right", fontsize="small")
    return figure


@styled
def horizons_by_source_figure(runs: pd.DataFrame) -> Figure:
    """Exact horizon of every passage, by source, with the mean and its 95 % bootstrap interval.

    Args:
        runs: Horizon rows of the store.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.4))
    sources = [source for source in SOURCE_MARKS if source in set(runs["source"])]
    for place, source in enumerate(sources):
        colour, marker = SOURCE_MARKS[source]
        tokens = np.sort(runs.loc[runs["source"] == source, "length"].to_numpy())
        spread = (np.arange(len(tokens)) % 5 - 2) * 0.05  # side by side, so that equal horizons can be seen
        axis.scatter(tokens, place + spread, color=colour, marker=marker, s=36, edgecolor="black", linewidth=0.5)
        summary = metrics.horizon_summary(tokens)
        axis.plot([summary["low"], summary["high"]], [place - 0.28] * 2, color="black", linewidth=2)
        axis.plot(summary["mean"], place - 0.28, marker="D", color="white", markeredgecolor="black")
    axis.set_yticks(range(len(sources)), [f"{source}\n(n = {(runs['source'] == source).sum()})" for source in sources])
    axis.set(xlabel="exact horizon, tokens", xlim=(0, None), ylim=(len(sources) - 0.5, -0.6))
    axis.grid(visible=False, axis="y")
    return figure


@styled
def protocols_figure(comparison: pd.DataFrame) -> Figure:
    """The paper's protocol and the exact horizon on the same passages, against length.

    Args:
        comparison: `cramming.studies.tokens_per_vector.protocols`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.6))
    lengths = comparison["length"]
    axis.plot(
        lengths, comparison["paper_accuracy"], color=COLOURS[1], marker="s", label="paper's recipe: mean accuracy"
    )
    axis.plot(
        lengths, comparison["paper_exact"], color=COLOURS[2], marker="^", linestyle="--",
        label="paper's recipe: share exact, token 0 given",
    )  # fmt: skip
    axis.plot(
        lengths, comparison["horizon_exact"], color=COLOURS[0], marker="o", linestyle=":", label="ours: share exact"
    )
    axis.axhline(metrics.THRESHOLD, color="#777777", linewidth=1)
    axis.annotate("0.99, the paper's threshold", (lengths.max(), metrics.THRESHOLD), (0, 4), ha="right",
                  textcoords="offset points", fontsize="small")  # fmt: skip
    axis.set(xlabel="tokens of the passage", ylabel="share", ylim=(-0.04, 1.12), xticks=sorted(set(lengths)))
    axis.legend(loc="lower left")
    return figure

"""Several vectors, and other memories than vectors."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.errors import CrammingError
from cramming.recipes import Recipe
from cramming.results import traces
from cramming.results.published import published
from cramming.results.rows import gains
from cramming.results.traces import exact_curve, stair
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, styled


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Capacity and gains by number of mem vectors, published and ours, against what that many single ones would hold.

    The ideal is k times what one vector holds. Published gains are means over runs beyond capacity, ours over
    horizons, and ours leave out the information of token 0.

    Args:
        runs: From `same_passages`.

    Returns:
        One row a model and k: model, here (whether measured here), n_vectors, n (passages, 0 if not published),
        capacity (tokens; ours the mean horizon) and capacity_sd (nan where published), token_gain, token_gain_sd
        (tokens), bits, bits_sd (information gain); of these three the columns _each (over k) and _share (over the
        ideal); ratio, ratio_low, ratio_high (horizon over that of one vector, mean over passages whose single vector
        holds any, 95 % bootstrap interval; nan where published or where there is none).
    """
    said = published("n_vectors")
    rows = [
        {
            "model": row.model,
            "here": False,
            "n_vectors": row.n_vectors,
            "n": 0,
            "capacity": row.decoding_capacity_tokens,
            "token_gain": row.token_gain_mean,
            "token_gain_sd": row.token_gain_std,
            "bits": metrics.nats_to_bits(row.information_gain_nats_mean),
            "bits_sd": metrics.nats_to_bits(row.information_gain_nats_std),
        }
        for row in said.itertuples()
    ]
    single = runs[runs["n_vectors"] == 1].set_index("passage")["length"]
    for (model, k), some in runs.groupby(["model", "n_vectors"]):
        ratios = (some.set_index("passage")["length"] / single[single > 0]).dropna()
        low, high = metrics.bootstrap_ci(ratios) if len(ratios) else (np.nan, np.nan)
        rows.append(
            {
                "model": model,
                "here": True,
                "n_vectors": k,
                "n": len(some),
                "capacity": some["length"].mean(),
                "capacity_sd": some["length"].std(),
                "token_gain": some["token_gain"].mean(),
                "token_gain_sd": some["token_gain"].std(),
                "bits": some["bits"].mean(),
                "bits_sd": some["bits"].std(),
                "ratio": ratios.mean(),
                "ratio_low": low,
                "ratio_high": high,
            }
        )
    frame = pd.DataFrame(rows)
    for column in ("capacity", "token_gain", "bits"):
        one = frame["model"].map(frame[frame["n_vectors"] == 1].set_index("model")[column])
        frame[f"{column}_each"] = frame[column] / frame["n_vectors"]
        frame[f"{column}_share"] = frame[f"{column}_each"] / one.where(one > 0)
    return frame


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`several_vectors` as a page shows it: one row a model and number of vectors."""
    rows = {}
    for row in frame.to_dict("records"):
        where = "here" if row["here"] else "published"
        shown: dict[str, object] = {"passages": row["n"] or ""}
        for column, name, short, digits in (
            ("capacity", "capacity or horizon, tokens", "capacity", 1 if row["here"] else 0),
            ("token_gain", "token gain, tokens", "token gain", 1),
            ("bits", "information gain, bits", "information", 0),
        ):
            known = row[column] == row[column]
            shown[name] = words.spread(row[column], row[f"{column}_sd"], digits) if known else ""
            shown[f"{short} per vector"] = f"{row[f'{column}_each']:,.{digits}f}" if known else ""
            shown[f"{short} of the ideal"] = words.share(row[f"{column}_share"])
        known = row["here"] and row["n_vectors"] > 1 and row["ratio"] == row["ratio"]
        ratio = words.within(row["ratio"], row["ratio_low"], row["ratio_high"], 2)
        shown["times one vector"] = ratio if known else ""
        rows[(f"{row['model'].split('/')[-1]} ({where})", row["n_vectors"])] = shown
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "vectors"])


def ends(runs: pd.DataFrame) -> pd.DataFrame:
    """How runs with several vectors ended, and what they had after as many steps as the shortest run took.

    Args:
        runs: From `same_passages`.

    Returns:
        Index n_vectors; columns n, ended (why, with counts), offered (runs that reached the end of their text), steps,
        token_passes and cpu_seconds (means), horizon and horizon_sd (tokens, at the end), late and late_sd (exact
        tokens won in the last quarter of the token passes), common_steps (of the shortest run of all), at_steps and
        at_steps_sd (exact tokens by then).
    """
    common = runs["steps"].min()
    each = []
    for i in range(len(runs)):
        (passes, exact), (steps, by_then) = (exact_curve(runs.iloc[[i]], along) for along in ("token_passes", "steps"))
        each.append((exact[-1] - stair(passes, exact, 0.75 * passes[-1]), stair(steps, by_then, common)))
    rows = {}
    timed = runs.assign(**dict(zip(("late", "at_steps"), zip(*each, strict=True), strict=True)))
    for k, some in timed.groupby("n_vectors"):
        rows[k] = {
            "n": len(some),
            "ended": ", ".join(f"{n} {why}" for why, n in some["ended"].value_counts().items()),
            "offered": int((some["length"] == some["offered"]).sum()),
            "steps": some["steps"].mean(),
            "token_passes": some["token_passes"].mean(),
            "cpu_seconds": some["cpu_seconds"].mean(),
            "horizon": some["length"].mean(),
            "horizon_sd": some["length"].std(),
            "late": some["late"].mean(),
            "late_sd": some["late"].std(),
            "common_steps": common,
            "at_steps": some["at_steps"].mean(),
            "at_steps_sd": some["at_steps"].std(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("n_vectors")


def ends_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`ends` as a page shows it: one row a number of vectors."""
    common = frame["common_steps"].iloc[0]
    return pd.DataFrame(
        {
            "passages": frame["n"],
            "ended by": frame["ended"],
            "reached the end of the text": frame["offered"],
            "steps, mean": frame["steps"].map("{:,.0f}".format),
            "token passes, mean": frame["token_passes"].map("{:,.0f}".format),
            "exact tokens at the end": [words.spread(r.horizon, r.horizon_sd) for r in frame.itertuples()],
            "of these won in the last quarter": [words.spread(r.late, r.late_sd) for r in frame.itertuples()],
            f"exact tokens after {common:,} steps": [
                words.spread(r.at_steps, r.at_steps_sd) for r in frame.itertuples()
            ],
        }
    ).rename_axis("vectors")


def same_passages(results: pd.DataFrame) -> pd.DataFrame:
    """`gains` of runs that differ in the number of mem vectors only, on the passages that every number was run on.

    Args:
        results: Rows of kind horizon of one model. If several recipes are among them, the one with most numbers of
            vectors counts.

    Returns:
        One row a number of vectors and passage, sorted by both.

    Raises:
        CrammingError: If there are no runs with one vector to compare with, or no passage has them all.
    """
    runs = gains(results)
    hows = runs["recipe_json"].map(lambda text: Recipe.model_validate_json(text).model_dump_json())
    runs = runs[hows == runs.groupby(hows)["n_vectors"].nunique().idxmax()]
    if 1 not in set(runs["n_vectors"]):
        known = ", ".join(map(str, sorted(set(runs["n_vectors"]))))
        raise CrammingError(f"there are runs with {known} mem vectors but none with 1: sweep those as well")
    shared = runs.groupby("passage")["n_vectors"].transform("nunique") == runs["n_vectors"].nunique()
    if not shared.any():
        raise CrammingError("no passage was run with every number of mem vectors: sweep the same passages for each")
    return runs[shared].sort_values(["n_vectors", "passage"], ignore_index=True)


@styled
def summary_figure(frame: pd.DataFrame) -> Figure:
    """Figure 4: capacity in tokens and information gain in bits against the number of mem vectors, with the ideal.

    Args:
        frame: `cramming.studies.several_vectors.summary`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2))
    styles = ((COLOURS[2], "^", "-."), (COLOURS[1], "s", "--"), (COLOURS[3], "D", ":"))
    said = frame.loc[~frame["here"], "model"].unique()
    styled = dict(zip(said, styles, strict=False)) | dict.fromkeys(
        frame.loc[frame["here"], "model"], (COLOURS[0], "o", "-")
    )
    for axis, column, title in (
        (axes[0], "capacity", "Capacity, tokens"),
        (axes[1], "bits", "Information gain, bits"),
    ):
        for model, (colour, marker, style) in styled.items():
            some = frame[(frame["model"] == model) & (frame[column] > 0)]
            if some.empty:
                continue
            here = bool(some["here"].all())
            label = f"{model.split('/')[-1]}, {f'here (n = {some.n.iloc[0]})' if here else 'published'}"
            # On a log axis a spread down to 0 would have no end.
            spread = some[f"{column}_sd"].fillna(0).clip(upper=0.95 * some[column])
            axis.errorbar(some["n_vectors"], some[column], yerr=spread, color=colour, marker=marker, linestyle=style,
                          markeredgecolor="black", markeredgewidth=0.5, capsize=2, label=label)  # fmt: skip
            ks = np.array([1, some["n_vectors"].max()])
            one = some.loc[some["n_vectors"] == 1, column]
            if len(one):
                axis.plot(ks, one.iloc[0] * ks, color=colour, linewidth=0.9, alpha=0.8)
        axis.plot([], [], color="#777777", linewidth=0.9, label="ideal: k times one vector")
        ticks = sorted(set(frame.loc[frame[column] > 0, "n_vectors"]))
        axis.set(xscale="log", yscale="log", xlabel="mem vectors k (log scale)", title=f"{title} (log scale)")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[0].legend(fontsize="small", loc="upper left")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high * 8)  # room for the legend
    return figure


@styled
def curves_figure(runs: pd.DataFrame) -> Figure:
    """Exact tokens against token passes and against steps, mean over passages, one line a number of mem vectors.

    Args:
        runs: `cramming.studies.several_vectors.same_passages`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), sharey=True)
    styles = (("-", COLOURS[0]), ("--", COLOURS[1]), (":", COLOURS[3]), ("-.", COLOURS[2]))
    for axis, along, label in (
        (axes[0], "token_passes", "token passes spent on a passage"),
        (axes[1], "steps", "steps"),
    ):
        for i, (k, some) in enumerate(runs.groupby("n_vectors")):
            curves = [traces.exact_curve(some.iloc[[at]], along) for at in range(len(some))]
            # Up to where the first of these runs ends: beyond, the mean would be one of other passages.
            grid = np.linspace(0, min(spent[-1] for spent, _ in curves), 300)
            lines = [traces.stair(*curve, grid) for curve in curves]
            style, colour = styles[i % len(styles)]
            axis.plot(grid, np.mean(lines, axis=0), style, color=colour, linewidth=2.2, label=f"k = {k}")
        axis.set(xlabel=label, xlim=(0, None), ylim=(0, None))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[0].set(ylabel="exact tokens, mean")
    axes[0].legend(title="mem vectors", fontsize="small")
    return figure

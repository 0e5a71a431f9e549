"""Capacity and gains of several mem vectors, against what as many single ones would hold."""

from __future__ import annotations

from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.errors import CrammingError
from cramming.recipes import Recipe
from cramming.results.published import published
from cramming.results.rows import gains
from cramming.results.traces import exact_curve, stair
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, styled
from cramming.studies._page import Exhibit
from cramming.studies._page import Page as AnyPage


class Page(AnyPage):
    """Horizons of the same passages with one vector and with several."""

    def __init__(self, scale: str) -> None:
        super().__init__("several_vectors", scale)
        self.runs = same_passages(self.results)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """From `summary`."""
        return summary(self.runs)

    @cached_property
    def ends(self) -> pd.DataFrame:
        """From `ends`."""
        return ends(self.runs)

    @cached_property
    def said(self) -> pd.DataFrame:
        """What is published, of the summary."""
        return self.summary[~self.summary["here"]]

    @cached_property
    def most(self) -> pd.Series:
        """The summary's row of most vectors here."""
        return self.summary[self.summary["here"]].iloc[-1]

    @cached_property
    def counted(self) -> str:
        """Passages by source, for captions."""
        sources = self.runs.loc[self.runs["n_vectors"] == 1, "source"].value_counts()
        return ", ".join(f"{n} {source}" for source, n in sources.items())


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
        for row in published("n_vectors").itertuples()
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
                **_spread(some, capacity="length", token_gain="token_gain", bits="bits"),
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


def ends(runs: pd.DataFrame) -> pd.DataFrame:
    """How runs with several vectors ended, and what they had after as many steps as the shortest run took.

    Args:
        runs: From `same_passages`.

    Returns:
        Index n_vectors; columns n, ended (why, with counts), offered (runs that reached the end of their text), steps
        and token_passes (means), common_steps (of the shortest run of all), horizon and horizon_sd (tokens, at the
        end), late and late_sd (exact tokens won in the last quarter of the token passes), at_steps and at_steps_sd
        (exact tokens by common_steps).
    """
    common, late, at_steps = runs["steps"].min(), [], []
    for i in range(len(runs)):
        passes, exact = exact_curve(runs.iloc[[i]])
        late.append(exact[-1] - stair(passes, exact, 0.75 * passes[-1]))
        at_steps.append(stair(*exact_curve(runs.iloc[[i]], "steps"), common))
    rows = {
        k: {
            "n": len(some),
            "ended": ", ".join(f"{n} {why}" for why, n in some["ended"].value_counts().items()),
            "offered": int((some["length"] == some["offered"]).sum()),
            "steps": some["steps"].mean(),
            "token_passes": some["token_passes"].mean(),
            "common_steps": common,
            **_spread(some, horizon="length", late="late", at_steps="at_steps"),
        }
        for k, some in runs.assign(late=late, at_steps=at_steps).groupby("n_vectors")
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("n_vectors")


def _spread(some: pd.DataFrame, **columns: str) -> dict[str, float]:
    """Mean and sample standard deviation of columns, under new names and these with _sd."""
    found = dict[str, float]()
    for name, column in columns.items():
        found |= {name: some[column].mean(), f"{name}_sd": some[column].std()}
    return found


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`summary` as a page shows it: one row a model and number of vectors."""
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
        known = row["n_vectors"] > 1 and row["ratio"] == row["ratio"]
        ratio = words.within(row["ratio"], row["ratio_low"], row["ratio_high"], 2)
        shown["times one vector"] = ratio if known else ""
        rows[(f"{row['model'].split('/')[-1]} ({where})", row["n_vectors"])] = shown
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "vectors"])


def ends_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`ends` as a page shows it: one row a number of vectors."""
    common, each = frame["common_steps"].iloc[0], list(frame.itertuples())
    return pd.DataFrame(
        {
            "passages": frame["n"],
            "ended by": frame["ended"],
            "reached the end of the text": frame["offered"],
            "steps, mean": frame["steps"].map("{:,.0f}".format),
            "token passes, mean": frame["token_passes"].map("{:,.0f}".format),
            "exact tokens at the end": [words.spread(r.horizon, r.horizon_sd) for r in each],
            "of these won in the last quarter": [words.spread(r.late, r.late_sd) for r in each],
            f"exact tokens after {common:,} steps": [words.spread(r.at_steps, r.at_steps_sd) for r in each],
        }
    ).rename_axis("vectors")


@styled
def summary_figure(frame: pd.DataFrame) -> Figure:
    """Figure 4: capacity in tokens and information gain in bits against the number of mem vectors, with the ideal.

    Args:
        frame: `cramming.studies.several_vectors.summary`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2))
    styles = ((COLOURS[2], "^", "-."), (COLOURS[1], "s", "--"), (COLOURS[3], "D", ":"))
    said, ours = (frame.loc[frame["here"] == here, "model"].unique() for here in (False, True))
    drawn = dict(zip(said, styles, strict=False)) | dict.fromkeys(ours, (COLOURS[0], "o", "-"))
    for axis, column, title in zip(
        axes, ("capacity", "bits"), ("Capacity, tokens", "Information gain, bits"), strict=True
    ):
        for model, (colour, marker, style) in drawn.items():
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
    for axis, along, label in zip(
        axes, ("token_passes", "steps"), ("token passes spent on a passage", "steps"), strict=True
    ):
        for i, (k, some) in enumerate(runs.groupby("n_vectors")):
            curves = [exact_curve(some.iloc[[at]], along) for at in range(len(some))]
            # Up to where the first of these runs ends: beyond, the mean would be one of other passages.
            grid = np.linspace(0, min(spent[-1] for spent, _ in curves), 300)
            style, colour = styles[i % len(styles)]
            means = np.mean([stair(*curve, grid) for curve in curves], axis=0)
            axis.plot(grid, means, style, color=colour, linewidth=2.2, label=f"k = {k}")
        axis.set(xlabel=label, xlim=(0, None), ylim=(0, None))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[0].set(ylabel="exact tokens, mean")
    axes[0].legend(title="mem vectors", fontsize="small")
    return figure


def show_figure(page: Page) -> Exhibit:
    """Figure 4, with ours."""
    most, said = page.most, page.said
    times = " and ".join(
        f"{row.capacity_share * row.n_vectors:.1f} times ({row.model.split('/')[-1]})"
        for row in said[said["n_vectors"] == most.n_vectors].itertuples()
    )
    caption = (
        f"**{most.n_vectors} vectors hold {most.ratio:.1f} times what one does here, within one budget; published, "
        f"{times}.** Left: capacity at mean accuracy ≥ 0.99 (published), mean exact horizon (here). Right: "
        "information gain. Thin lines: the ideal, k times what one vector holds. Published: Kuratov et al., PG-19; "
        "bars are standard deviations over runs beyond capacity, number of runs not published; no gain is published "
        "for the largest k. Pythia-160m stops rising where its context ends, which says nothing of its vectors. Here: "
        f"{page.setting}; {page.counted}, the same for each k, within {words.budgets(page.runs)} a passage; bars are "
        f"sample standard deviations over passages; n = {most.n}."
    )
    return Exhibit(caption, summary_figure(page.summary))


def show_table(page: Page) -> Exhibit:
    """The same in numbers."""
    caption = (
        "**Capacity and gains by number of mem vectors.** *Of the ideal*: over k times that of one vector. *Times one "
        "vector*: horizon over that of one vector, mean over passages with its 95 % bootstrap interval. Published "
        "gains are means over runs beyond capacity, ours over horizons, without the information of token 0; ± "
        f"standard deviation. Here: {page.setting}; {page.counted}, within {words.budgets(page.runs)} a passage. "
        f"{words.cost(page.runs)}."
    )
    return Exhibit(caption, summary_table(page.summary))


def show_curves(page: Page) -> Exhibit:
    """How the runs came to what they hold."""
    one, last = page.ends.loc[1], page.ends.iloc[-1]
    caption = (
        f"**After equally many steps ({last.common_steps:,}) {last.name} vectors hold {last.at_steps:.1f} exact "
        f"tokens and one holds {one.at_steps:.1f}; at the end of an equal budget, {last.horizon:.1f} and "
        f"{one.horizon:.1f}.** Exact tokens, mean over passages, against token passes and against steps; each line "
        f"ends where the first of its runs does. {page.setting}; {page.counted}."
    )
    return Exhibit(caption, curves_figure(page.runs))


def show_ends(page: Page) -> Exhibit:
    """How the runs ended."""
    caption = (
        "**How the runs ended.** *Won in the last quarter*: exact tokens won during the last quarter of the token "
        f"passes. *After {page.ends['common_steps'].iloc[0]:,} steps*: as many as the shortest of all runs took. Mean "
        f"± sample standard deviation over passages. {page.setting}; {page.counted}, {words.budgets(page.runs)} a "
        "passage."
    )
    return Exhibit(caption, ends_table(page.ends))


def show_claim(page: Page) -> Exhibit:
    """Shares of the ideal, published and here."""
    one, last, most = page.ends.loc[1], page.ends.iloc[-1], page.most
    said = "; ".join(
        f"{row.Index.split('/')[-1]} at k = {row.n_vectors}: {row.capacity_share:.0%} of the ideal in capacity, "
        f"{row.token_gain_share:.0%} in token gain, {row.bits_share:.0%} in bits"
        for row in page.said.dropna(subset=["bits"]).groupby("model", sort=False).last().itertuples()
    )
    of_ideal = last.at_steps / (last.name * one.at_steps) if one.at_steps else np.nan
    return Exhibit(
        f"Published, capacity keeps close to k times that of one vector, while the gains fall behind: {said}. Which "
        "lengths the gains were averaged over differs with k, so part of that may be the lengths. **Here k = "
        f"{last.name} reaches {most.capacity_share:.0%} of the ideal in tokens and {most.bits_share:.0%} in bits.** "
        f"Ended by: {last.ended} (k = {last.name}), {one.ended} (k = 1). In the last quarter of their budget the runs "
        f"with k = {last.name} still won {last.late:.1f} tokens, those with one vector {one.late:.1f}; after "
        f"{last.common_steps:,} steps each, k = {last.name} was at {of_ideal:.0%} of the ideal."
    )

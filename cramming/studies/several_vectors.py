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
from cramming.results.traces import exact_at, exact_curve, stair, won_late
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit, Fold
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
    def most(self) -> pd.Series:
        """The summary's row of most vectors here."""
        return self.summary[self.summary["here"]].iloc[-1]

    @cached_property
    def gained(self) -> pd.DataFrame:
        """The summary's row of each model with most vectors among those with gains."""
        return self.summary.dropna(subset=["bits"]).groupby("model", sort=False).tail(1)

    @cached_property
    def published(self) -> str:
        """By what factor as many vectors hold more than one, as published."""
        said = self.summary[~self.summary["here"] & (self.summary["n_vectors"] == self.most["n_vectors"])]
        return words.listed(
            [f"{row.capacity_share * row.n_vectors:.1f} for {row.model.split('/')[-1]}" for row in said.itertuples()]
        )


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
        (tokens), bits, bits_sd (information gain); of these three the column _share (over the ideal); ratio,
        ratio_low, ratio_high (horizon over that of one vector, mean over passages whose single vector holds any, 95 %
        bootstrap interval; nan where published or where there is none).
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
        frame[f"{column}_share"] = frame[column] / (frame["n_vectors"] * one.where(one > 0))
    return frame


def ends(runs: pd.DataFrame) -> pd.DataFrame:
    """What runs with several vectors held at their end, and after as many steps as the shortest run took.

    Args:
        runs: From `same_passages`.

    Returns:
        Index n_vectors; columns steps (mean), common_steps (of the shortest run of all), horizon and horizon_sd
        (tokens, at the end), late and late_sd (exact tokens won in the last quarter of the token passes), at_steps and
        at_steps_sd (exact tokens by common_steps), and of horizon and at_steps the columns _more, _low, _high (less
        that of one vector, passage by passage: mean with its 95 % bootstrap interval; nan for one vector).
    """
    common = runs["steps"].min()
    runs = runs.assign(
        late=won_late(runs), at_steps=exact_at(runs, common, "steps"), horizon=runs["length"]
    ).set_index("passage")
    single, rows = runs[runs["n_vectors"] == 1], {}
    for k, some in runs.groupby("n_vectors"):
        rows[k] = {
            "steps": some["steps"].mean(),
            "common_steps": common,
            **_spread(some, horizon="horizon", late="late", at_steps="at_steps"),
        }
        for what in ("horizon", "at_steps"):
            apart = some[what] - single[what]
            values = (apart.mean(), *metrics.bootstrap_ci(apart)) if k > 1 else [np.nan] * 3
            rows[k] |= dict(zip((f"{what}_more", f"{what}_low", f"{what}_high"), values, strict=True))
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
        shown = {}
        for column, name, short, digits in (
            ("capacity", "capacity or horizon, tokens", "capacity", 1 if row["here"] else 0),
            ("token_gain", "token gain, tokens", "token gain", 1),
            ("bits", "information gain, bits", "information", 0),
        ):
            known = row[column] == row[column]
            shown[name] = words.spread(row[column], row[f"{column}_sd"], digits) if known else ""
            shown[f"{short} of the ideal"] = words.share(row[f"{column}_share"])
        known = row["n_vectors"] > 1 and row["ratio"] == row["ratio"]
        ratio = words.within(row["ratio"], row["ratio_low"], row["ratio_high"], 2)
        shown["times one vector"] = ratio if known else ""
        where = "here" if row["here"] else "published"
        rows[f"{row['model'].split('/')[-1]}, k = {row['n_vectors']} ({where})"] = shown
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model and vectors")


def ends_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`ends` as a page shows it: one row a number of vectors."""
    after = f"after {frame['common_steps'].iloc[0]:,} steps"
    each = list(frame.itertuples())
    return pd.DataFrame(
        {
            "exact tokens at the end": [words.spread(r.horizon, r.horizon_sd) for r in each],
            "against one vector": [words.interval(r.horizon_more, r.horizon_low, r.horizon_high) for r in each],
            f"exact tokens {after}": [words.spread(r.at_steps, r.at_steps_sd) for r in each],
            f"against one, {after}": [words.interval(r.at_steps_more, r.at_steps_low, r.at_steps_high) for r in each],
            "won in the last quarter": [words.spread(r.late, r.late_sd) for r in each],
            "steps": frame["steps"].map("{:,.0f}".format),
        },
        index=frame.index,
    ).rename_axis("vectors")


@styled
def summary_figure(frame: pd.DataFrame) -> Figure:
    """Figure 4: capacity in tokens and information gain in bits against the number of mem vectors, with the ideal.

    Args:
        frame: `cramming.studies.several_vectors.summary`.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 8.2), gridspec_kw={"hspace": 0.06})
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
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left")
    return figure


@styled
def curves_figure(runs: pd.DataFrame) -> Figure:
    """Exact tokens against token passes and against steps, mean over passages, one line a number of mem vectors.

    Args:
        runs: `cramming.studies.several_vectors.same_passages`.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 6.6), sharey=True)
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
        axis.set(xlabel=label, xlim=(0, None), ylim=(0, None), ylabel="exact tokens, mean")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def show_answer(page: Page) -> Answer:
    """How many times as much the most vectors hold here, and as published."""
    most, limited = page.most, (page.runs["ended"] == "budget").sum()
    return Answer(
        page.setting,
        "Do several vectors hold as many times what one holds?",
        f"Within one budget {most['n_vectors']} vectors hold **{most['ratio']:.1f} times** the exact tokens of one "
        f"({most['ratio_low']:.1f} to {most['ratio_high']:.1f}), where proportion would make it {most['n_vectors']} "
        f"times; published are factors of {page.published}, without intervals.",
        rests=f"Mean ratio over {words.counted(page.runs)} passages, the same for each number of vectors, with its "
        f"95 % bootstrap interval; {words.budgets(page.runs)} each",
        sure="contradicted" if most["ratio_high"] < most["n_vectors"] and not limited else "open",
        why=f"one small model, and {limited} of {len(page.runs)} runs ended with their budget, which says what was "
        "found in time and not what fits",
    )


def show_figure(page: Page) -> Exhibit:
    """Figure 4, with ours, and the same in numbers."""
    tokens = page.runs.pivot_table("length", "passage", "n_vectors")
    ks, added = tokens.columns, tokens.diff(axis="columns")
    first, last = (words.interval(added[k].mean(), *metrics.bootstrap_ci(added[k])) for k in (ks[1], ks[-1]))
    caption = (
        f"**From {ks[0]} to {ks[1]} vectors a horizon here changes by {first} tokens, from {ks[-2]} to {ks[-1]} by "
        f"{last}.** Above: capacity at mean accuracy ≥ 0.99 (published), mean exact horizon (here). Thin lines: the "
        "ideal. Bars: standard deviations, over passages here, over runs beyond capacity, number unknown, where "
        "published: Kuratov et al., PG-19."
    )
    named = "Capacity and gains by model and number of vectors, with shares of the ideal"
    return Exhibit(caption, summary_figure(page.summary), Fold(named, summary_table(page.summary)))


def show_shares(page: Page) -> Exhibit:
    """Capacity and gains as shares of the ideal."""
    said = page.gained[~page.gained["here"]]
    held, bits = (f"{said[f'{what}_share'].min():.0%} to {said[f'{what}_share'].max():.0%}"
                  for what in ("capacity", "bits"))  # fmt: skip
    caption = (
        f"**Published, capacity comes to {held} of the ideal, information gain to {bits}, without intervals.** At the "
        "most vectors with published gains, which are means over runs beyond capacity. Their lengths differ with k, "
        f"so part of the gap may be the lengths. Ours: over mean horizons, n = {page.most['n']}, without the bits of "
        "token 0."
    )
    return Exhibit(caption, summary_table(page.gained).filter(like="of the ideal"))


def show_curves(page: Page) -> Exhibit:
    """How the runs came to what they hold, and the same in numbers."""
    last = page.ends.iloc[-1]
    early = words.interval(last["at_steps_more"], last["at_steps_low"], last["at_steps_high"])
    late = words.interval(last["horizon_more"], last["horizon_low"], last["horizon_high"])
    caption = (
        f"**Against one vector, {last.name} hold {early} exact tokens after {last['common_steps']:,.0f} steps each, "
        f"{late} at the end of the budget.** Means over n = {page.most['n']} passages; each line ends where the first "
        "of its runs does. ±: standard deviation; differences passage by passage, 95 % interval. *Last quarter*: of "
        "the token passes."
    )
    return Exhibit(caption, curves_figure(page.runs), ends_table(page.ends))

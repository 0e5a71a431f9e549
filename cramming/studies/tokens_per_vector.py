"""How many tokens one vector holds: exact horizons, and the paper's protocol as its own rules count it."""

from __future__ import annotations

from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.errors import CrammingError
from cramming.results.published import LENGTH_GRID, hub_id, published
from cramming.results.rows import horizons, of_kind
from cramming.results.traces import exact_at
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, horizon_growth_figure, shown, source_marks, styled
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage


class Page(AnyPage):
    """The exact horizons, and runs of the paper's recipe on some of their passages.

    Attributes:
        runs: Rows of kind horizon.
        summary: From `cramming.results.rows.horizons`.
    """

    def __init__(self, scale: str) -> None:
        super().__init__("tokens_per_vector", scale)
        self.runs, self.summary = of_kind(self.results, "horizon"), horizons(self.results)

    @cached_property
    def protocols(self) -> pd.DataFrame:
        """From `protocols`, of all runs."""
        return protocols(self.results)


def protocols(results: pd.DataFrame) -> pd.DataFrame:
    """The paper's recipe and our horizon on the passages that both were run on, by length.

    Returns:
        Columns length (tokens) and n (passages); of the paper's recipe accuracy (mean, teacher-forced, as the recipe
        measures it), solved (runs at accuracy 1), exact (runs that decode from the vector and the given token 0),
        greedy_tokens (mean tokens before the first error of decoding, token 0 given), steps and cpu_seconds (means);
        of ours horizon_exact (runs whose horizon reaches the length) and horizon_cpu_seconds (mean, of the whole
        horizon).

    Raises:
        CrammingError: If no passage was run with both.
    """
    ours = of_kind(results, "horizon").query("recipe == 'horizon'")
    ours = ours[["model", "passage", "length", "cpu_seconds"]]
    paper = results.query("kind == 'cram' and recipe == 'paper'")
    both = paper.merge(ours, on=["model", "passage"], suffixes=("", "_ours"))
    if both.empty:
        raise CrammingError("no passage was crammed by recipe paper and grown to its horizon: sweep a plan with both")
    both = both.assign(solved=both["accuracy"] == 1, horizon_exact=both["length_ours"] >= both["length"])
    return both.groupby("length", as_index=False).agg(
        n=("key", "size"),
        accuracy=("accuracy", "mean"),
        solved=("solved", "sum"),
        exact=("exact", "sum"),
        greedy_tokens=("correct_greedy", "mean"),
        steps=("steps", "mean"),
        cpu_seconds=("cpu_seconds", "mean"),
        horizon_exact=("horizon_exact", "sum"),
        horizon_cpu_seconds=("cpu_seconds_ours", "mean"),
    )


def capacities(results: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Decoding capacity as the paper defines it, of its recipe and of ours, on novels: tokens, and passages behind it.

    The largest length on trial at which the mean teacher-forced accuracy is at least 0.99, token 0 given. Ours is not
    run length by length: of a vector found for a horizon, tokens up to it are right and those behind count as wrong,
    so the number is a lower bound. Its lengths are those of the paper's grid.

    Returns:
        By recipe, paper and horizon; what was not run is left out.
    """
    novels, found = results[results["source"] == "novels"], dict[str, tuple[int, int]]()
    paper = novels[(novels["kind"] == "cram") & (novels["recipe"] == "paper")]
    ours = novels[(novels["kind"] == "horizon") & (novels["recipe"] == "horizon")]
    if len(paper):
        capacity = metrics.decoding_capacity(paper["length"], paper["accuracy"])
        found["paper"] = capacity, paper["passage"].nunique()
    if len(ours):
        lengths = np.repeat(LENGTH_GRID, len(ours))
        right = np.minimum(np.tile(ours["length"].clip(lower=1), len(LENGTH_GRID)), lengths) - 1
        found["horizon"] = metrics.decoding_capacity(lengths, right / (lengths - 1)), len(ours)
    return found


def last_doubling(runs: pd.DataFrame) -> tuple[float, float, float]:
    """Tokens that the second half of the budget added over those won by the first, with the 95 % interval of the mean.

    Args:
        runs: Rows of kind horizon; those that won nothing in the first half are left out.
    """
    half, whole = (exact_at(runs, runs["token_passes"] * share) for share in (0.5, 1))
    shares = whole[half > 0] / half[half > 0] - 1
    return float(np.mean(shares)), *metrics.bootstrap_ci(shares)


def protocol_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """`protocols` as a page shows them: one row a length."""
    return pd.DataFrame(
        {
            "tokens": comparison["length"],
            "ours: exact": comparison["horizon_exact"],
            "paper's: accuracy": comparison["accuracy"].map("{:.3f}".format),
            "at accuracy 1": comparison["solved"],
            "exact, token 0 given": comparison["exact"],
            "tokens decoded, mean": comparison["greedy_tokens"].map("{:.1f}".format),
            "processor seconds, mean": comparison["cpu_seconds"].map("{:,.0f}".format),
        }
    ).set_index("tokens")


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
            "model": models["name"],
            **{name: column.reindex(models.index).astype("Int64") for name, column in by_source.items()},
            "16-bit bound, tokens": models["theoretical_capacity_tokens"],
            "width d": models["hidden_size"],
            "parameters, billions": models["params_billion"],
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
    figure, axis = plt.subplots(figsize=(WIDTH, 0.34 * len(both) + 1.2))
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
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left")
    return figure


@styled
def horizons_by_source_figure(runs: pd.DataFrame) -> Figure:
    """Exact horizon of every passage, by source, with the mean and its 95 % bootstrap interval.

    Args:
        runs: Horizon rows of the store.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    labels = []
    for place, (source, (colour, marker)) in enumerate(source_marks(runs["source"]).items()):
        tokens = np.sort(runs.loc[runs["source"] == source, "length"].to_numpy())
        spread = (np.arange(len(tokens)) % 5 - 2) * 0.05  # side by side, so that equal horizons can be seen
        axis.scatter(tokens, place + spread, color=colour, marker=marker, s=36, edgecolor="black", linewidth=0.5)
        summary = metrics.horizon_summary(tokens)
        axis.plot([summary["low"], summary["high"]], [place - 0.28] * 2, color="black", linewidth=2)
        axis.plot(summary["mean"], place - 0.28, marker="D", color="white", markeredgecolor="black")
        labels.append(f"{source}\n(n = {len(tokens)})")
    axis.set_yticks(range(len(labels)), labels)
    axis.set(xlabel="exact horizon, tokens", xlim=(0, None), ylim=(len(labels) - 0.5, -0.6))
    axis.grid(visible=False, axis="y")
    return figure


@styled
def protocols_figure(comparison: pd.DataFrame) -> Figure:
    """The paper's protocol and the exact horizon on the same passages, against length.

    Args:
        comparison: `cramming.studies.tokens_per_vector.protocols`.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    lengths = comparison["length"]
    for share, colour, style, label in (
        (comparison["accuracy"], COLOURS[1], "s-", "paper's recipe: mean accuracy"),
        (comparison["exact"] / comparison["n"], COLOURS[2], "^--", "paper's recipe: share exact, token 0 given"),
        (comparison["horizon_exact"] / comparison["n"], COLOURS[0], "o:", "ours: share exact"),
    ):
        axis.plot(lengths, share, style, color=colour, label=label)
    axis.axhline(metrics.THRESHOLD, color="#777777", linewidth=1, label="0.99, the paper's threshold")
    axis.set(xlabel="tokens of the passage", ylabel="share", ylim=(-0.04, 1.12), xticks=lengths)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left")
    return figure


def show_answer(page: Page) -> Answer:
    """How many tokens one vector holds, exactly."""
    by_text = page.summary.set_index("source")
    told = [
        f"{words.spread(by_text['mean'][source], by_text['sd'][source], 0)} tokens of {source}"
        for source in source_marks(by_text.index)
    ]
    growing = (page.runs["ended"] == "budget").mean()
    return Answer(
        page.setting,
        "How many tokens does one vector hold?",
        f"One vector of {page.runs['width'].iloc[0]:,} numbers gives back **{words.listed(told)}**, word for word, by "
        "decoding from the vector alone.",
        rests=f"Mean ± standard deviation over {words.counted(page.runs)} passages, {words.budgets(page.runs)} each",
        sure="holds here only",
        why=f"one small model, and a lower bound: {growing:.0%} of the runs ended with their budget, still growing",
    )


def show_horizons(page: Page) -> Exhibit:
    """Every passage's horizon, by text, and the same in numbers."""
    ordered = page.summary.sort_values("mean")
    shortest, longest = ordered.iloc[0]["source"], ordered.iloc[-1]["source"]
    of = dict(tuple(page.runs.groupby("source")["length"]))
    caption = (
        f"**From {longest} to {shortest} horizons differ by {words.difference(of[longest], of[shortest])} "
        "tokens, with the 95 % interval of the difference.** One mark a passage; diamond and bar: mean with its 95 % "
        "interval. Information gain leaves token 0 out. The bound is d · 16 / log2(V) tokens."
    )
    return Exhibit(caption, horizons_by_source_figure(page.runs), words.horizon_table(page.results))


def show_growth(page: Page) -> Exhibit:
    """The prefix under optimisation against what was spent."""
    caption = (
        f"**The second half of the budget added {words.percent(*last_doubling(page.runs))} to what the first had "
        "won.** In brackets: 95 % interval. The prefix under optimisation, up to 8 tokens past the longest exact one, "
        f"against token passes. Thin: n = {len(page.runs)} passages; bold: mean of a text."
    )
    return Exhibit(caption, horizon_growth_figure(page.runs))


def show_protocols(page: Page) -> Exhibit:
    """Both protocols against length, and the same in numbers."""
    last = page.protocols.iloc[-1]
    caption = (
        f"**At {last['length']:.0f} tokens the paper's recipe decodes {last['exact']:.0f} of {last['n']:.0f} passages "
        f"exactly, ours {last['horizon_exact']:.0f}.** In {last['cpu_seconds']:.0f} processor seconds a passage, ours "
        f"in {last['horizon_cpu_seconds']:.0f} for its whole horizon. "
        f"{_capacities(page)}"
    )
    return Exhibit(caption, protocols_figure(page.protocols), protocol_table(page.protocols))


def _capacities(page: Page) -> str:
    """Decoding capacity by both recipes, for captions; where nothing longer was tried, it is a bound."""
    found, said = capacities(page.results), []
    for name, whose, longest in (("paper", "the paper's", page.protocols["length"].max()), ("horizon", "our", 0)):
        if name in found:
            tokens, n = found[name]
            said.append(f"{'at least ' if tokens >= longest else ''}{tokens} tokens by {whose} recipe (n = {n})")
    return f"Decoding capacity by the paper's definition: {' and '.join(said)}, novels."


def show_capacity(page: Page) -> Exhibit:
    """Figure 1, with our model, and Table 1 behind it; the start page shows the figure, too."""
    from IPython.display import display

    figure = capacity_by_model_figure(published("capacity").query("source == 'pg19'"), page.summary)
    data, metadata = shown(figure)
    glued = {"scrapbook": {"name": "capacity_figure", "mime_prefix": ""}}
    display(data, metadata=metadata | glued, raw=True)  # type: ignore[no-untyped-call]
    source = next(iter(source_marks(page.summary["source"])))  # running text, if there is some
    first = page.summary[page.summary["source"] == source].iloc[0]
    caption = (
        f"**A model of {page.lm.model.num_parameters() / 1e6:.3g} million parameters holds {first['mean']:.0f} tokens "
        f"of {'a novel' if source == 'novels' else source}, exactly.** Published: decoding capacity on PG-19, "
        "mean accuracy at least 0.99, from the released notebooks of Kuratov et al. Measured here: mean exact "
        "horizon ± 1 standard deviation. Two measures: the picture shows scale, not a race."
    )
    return Exhibit(caption, Fold("Table 1 as published: 14 models, decoding capacity in tokens", published_table()))


def show_explored(page: Page, n: int) -> Exhibit:
    """What the explorer shows, of n passages."""
    return Exhibit(
        f"**The first {n} passages by name, two a text.** Surprisal in bits, given the true tokens before. *Right*: "
        "the argmax, given the same. A token's step is the first by which it and all before it were right. Only the "
        "last vector was kept: the slider moves through steps, and surprisal with mem stays that of the last vector."
    )


def glue_numbers(page: Page) -> None:
    """Horizons by text, how many reach 32 tokens, and what they cost."""
    for row in page.summary.itertuples():
        glue(**{f"horizon_{row.source}": f"{row.mean:.0f} ± {row.sd:.0f}", f"n_{row.source}": f"{row.n}"})
    cost = page.summary["cpu_seconds_per_token"]
    exact_32 = ((page.runs["length"] >= 32) & page.runs["exact"]).sum()
    glue(exact_32=f"{exact_32}", cpu_per_token=f"{cost.min():.1f}", cpu_per_token_most=f"{cost.max():.1f}")

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
from cramming.results.published import hub_id, published
from cramming.results.rows import horizons, of_kind
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, horizon_growth_figure, shown, source_marks, styled
from cramming.studies._page import Exhibit, glue
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


def protocol_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """`protocols` as a page shows them: one row a length."""
    return pd.DataFrame(
        {
            "length, tokens": comparison["length"],
            "passages": comparison["n"],
            "paper's recipe: accuracy": comparison["accuracy"].map("{:.3f}".format),
            "solved (accuracy 1)": comparison["solved"],
            "decode exactly, token 0 given": comparison["exact"],
            "tokens decoded, mean": comparison["greedy_tokens"].map("{:.1f}".format),
            "steps, mean": comparison["steps"].map("{:,.0f}".format),
            "processor seconds, mean": comparison["cpu_seconds"].map("{:,.0f}".format),
            "ours: passages exact at this length": comparison["horizon_exact"],
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
    figure, axis = plt.subplots(figsize=(7.5, 3.6))
    lengths = comparison["length"]
    for share, colour, style, label in (
        (comparison["accuracy"], COLOURS[1], "s-", "paper's recipe: mean accuracy"),
        (comparison["exact"] / comparison["n"], COLOURS[2], "^--", "paper's recipe: share exact, token 0 given"),
        (comparison["horizon_exact"] / comparison["n"], COLOURS[0], "o:", "ours: share exact"),
    ):
        axis.plot(lengths, share, style, color=colour, label=label)
    axis.axhline(metrics.THRESHOLD, color="#777777", linewidth=1)
    axis.annotate("0.99, the paper's threshold", (lengths.max(), metrics.THRESHOLD), (0, 4), ha="right",
                  textcoords="offset points", fontsize="small")  # fmt: skip
    axis.set(xlabel="tokens of the passage", ylabel="share", ylim=(-0.04, 1.12), xticks=lengths)
    axis.legend(loc="lower left")
    return figure


def show_horizon_table(page: Page) -> Exhibit:
    """Horizons by text."""
    caption = (
        f"**Horizons by text.** {page.setting}. Mean ± sample standard deviation over passages; the interval of the "
        "mean is a bootstrap over passages. Information gain leaves token 0 out. The bound is d · 16 / log2(V) "
        f"tokens. {words.cost(page.runs)}."
    )
    return Exhibit(caption, words.horizon_table(page.results))


def show_horizons(page: Page) -> Exhibit:
    """Every passage's horizon, by text."""
    ordered = page.summary.sort_values("mean")
    shortest, longest = ordered.iloc[0], ordered.iloc[-1]
    counts = ", ".join(f"{row.n} {row.source}" for row in page.summary.itertuples())
    caption = (
        f"**{longest['source'].capitalize()} texts go furthest: {longest['mean']:.0f} tokens on average, against "
        f"{shortest['mean']:.0f} for {shortest['source']} ones.** One mark a passage, vertical offset only to keep "
        "equal ones apart; above them the mean (diamond) with its 95 % bootstrap interval. "
        f"{page.setting}; n = {counts} passages, each with a budget of {words.budgets(page.runs)}."
    )
    return Exhibit(caption, horizons_by_source_figure(page.runs))


def show_explored(page: Page, n: int) -> Exhibit:
    """What the explorer shows, of n passages."""
    return Exhibit(
        f"**The first {n} passages by name, two a source.** Surprisal is in bits, given the true tokens before; "
        "*right* is the argmax, given the same: in an exact prefix, every token. The step is the first by which the "
        "token and all before it were known to be right; a prefix begins with several tokens, which are known "
        "together. Only the last vector of a passage was kept, so the slider moves through the steps, and surprisal "
        "with mem stays that of the last vector. Without mem the model says nothing of the first token. "
        f"{page.setting}; {words.budgets(page.runs)} a passage."
    )


def show_growth(page: Page) -> Exhibit:
    """The prefix under optimisation against what was spent."""
    caption = (
        "**The prefix is still growing when the budget ends.** The prefix under optimisation, which reaches 8 tokens "
        "past the longest exact one, against token passes (tokens through forward and backward, summed over steps). "
        f"Thin: passages; bold: mean of a source. {page.setting}; n = {len(page.runs)} passages."
    )
    return Exhibit(caption, horizon_growth_figure(page.runs))


def show_protocol_table(page: Page) -> Exhibit:
    """The paper's recipe by length."""
    sources = ", ".join(page.results.query("recipe == 'paper'")["source"].unique())
    caption = (
        f"**The paper's recipe by length.** {page.setting}, {sources}. *Solved* counts runs that reached accuracy 1. "
        "The last column counts, of the same passages, those whose horizon by our recipe reaches the length, token 0 "
        "included."
    )
    return Exhibit(caption, protocol_table(page.protocols))


def show_protocols(page: Page) -> Exhibit:
    """Both protocols against length."""
    last = page.protocols.iloc[-1]
    exact, ours = last["exact"] / last["n"], last["horizon_exact"] / last["n"]
    caption = (
        f"At {last['length']:.0f} tokens the paper's recipe decodes {exact:.0%} of {last['n']:.0f} passages exactly, "
        f"for {last['cpu_seconds']:.0f} processor seconds a passage on average. Our recipe has {ours:.0%} of the same "
        "passages exact at that length, on its way to a horizon that took "
        f"{last['horizon_cpu_seconds']:.0f} processor seconds."
    )
    return Exhibit(caption, protocols_figure(page.protocols))


def show_published_table(page: Page) -> Exhibit:
    """Table 1 as published."""
    return Exhibit(
        "**Table 1 as published**: decoding capacity in tokens, one mem vector, 16-bit bound. Source: released "
        "notebooks of Kuratov et al. (data/paper/README.md).",
        published_table(),
    )


def show_capacity(page: Page) -> Exhibit:
    """Figure 1, with our model; the start page shows it, too."""
    from IPython.display import display

    figure = capacity_by_model_figure(published("capacity").query("source == 'pg19'"), page.summary)
    data, metadata = shown(figure)
    glued = {"scrapbook": {"name": "capacity_figure", "mime_prefix": ""}}
    display(data, metadata=metadata | glued, raw=True)  # type: ignore[no-untyped-call]
    source = next(iter(source_marks(page.summary["source"])))  # running text, if there is some
    first = page.summary[page.summary["source"] == source].iloc[0]
    caption = (
        f"**A model of {page.lm.model.num_parameters() / 1e6:.3g} million parameters holds {first['mean']:.0f} tokens "
        f"of {'a novel' if source == 'novels' else source}, exactly.** Light: published decoding capacity on "
        "PG-19, mean accuracy at least 0.99. Dark: mean exact horizon measured here, ± 1 standard deviation, "
        f"{page.setting}. The two measures differ, see above; the figure shows scale, not a race."
    )
    return Exhibit(caption)


def glue_numbers(page: Page) -> None:
    """Horizons by text, how many reach 32 tokens, and what they cost."""
    for row in page.summary.itertuples():
        glue(**{f"horizon_{row.source}": f"{row.mean:.0f} ± {row.sd:.0f}", f"n_{row.source}": f"{row.n}"})
    cost = page.summary["cpu_seconds_per_token"]
    exact_32 = ((page.runs["length"] >= 32) & page.runs["exact"]).sum()
    glue(exact_32=f"{exact_32}", cpu_per_token=f"{cost.min():.1f}", cpu_per_token_most=f"{cost.max():.1f}")

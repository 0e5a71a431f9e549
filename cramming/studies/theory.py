"""What a vector could hold, by its width and number format, and what it held."""

from __future__ import annotations

from functools import cached_property

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from cramming import metrics
from cramming.results.published import hub_id, published
from cramming.results.rows import gains, horizons
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, source_marks, styled
from cramming.studies._page import Answer, Exhibit, Fold
from cramming.studies._page import Page as AnyPage


class Page(AnyPage):
    """Bound and use of one mem vector, published and here.

    Attributes:
        theory: From `theory`.
        said: Its published rows.
        used: From `used`.
        running: The running text that random words are set against.
    """

    def __init__(self, scale: str) -> None:
        super().__init__("theory", scale)
        self.theory, self.used = theory(self.results), used(self.results)
        self.said = self.theory[~self.theory["here"]]
        self.running = next(iter(source_marks(self.used["source"])))

    @cached_property
    def ratio(self) -> pd.DataFrame:
        """Shares of the bound that PG-19 uses over those of random words: one row a published model that has both."""
        by_text = {
            text: some[["tokens_used", "bits_used"]] for text, some in self.said.set_index("model").groupby("source")
        }
        return (by_text["pg19"] / by_text["random"]).dropna(subset="tokens_used")


def used(results: pd.DataFrame) -> pd.DataFrame:
    """What each horizon uses of the bound for 16-bit numbers.

    Returns:
        The rows of `cramming.results.rows.gains` and their columns, with tokens_used and bits_used in per cent.
    """
    runs = gains(results)
    bound = [metrics.theoretical_capacity(row.width, row.vocab_size) for row in runs.itertuples()]
    return runs.assign(
        tokens_used=100 * runs["token_gain"] / bound, bits_used=100 * runs["bits"] / (16 * runs["width"])
    )


def theory(results: pd.DataFrame) -> pd.DataFrame:
    """Bound and utilisation, in tokens and in bits, of every model published and of ours (Figure 5).

    The bound is `metrics.theoretical_capacity` for numbers of 32, 16 and 8 bits. What is set against it is the mean
    token gain, and the mean information gain against the bits of the vector. Published gains are means over runs
    beyond capacity, ours over horizons, and ours leave out the information of token 0.

    Returns:
        Columns model, here (whether measured here), source, n (passages, 0 if not published), width, vocab_size,
        bound_32, bound_16, bound_8 (tokens), token_gain (tokens), information_bits, tokens_used, bits_used (shares of
        the bound for 16-bit numbers).
    """
    models = published("models").set_index("hub_id")
    capacity = published("capacity")
    about = models.loc[capacity["model"].map(hub_id)].reset_index()
    said = pd.DataFrame(
        {
            "model": about["name"],
            "here": False,
            "source": capacity["source"],
            "n": 0,
            "width": about["hidden_size"],
            "vocab_size": about["vocab_size"],
            "token_gain": capacity["token_gain_mean"],
            "information_bits": capacity["information_gain_nats_mean"].map(metrics.nats_to_bits),
        }
    )
    ours = horizons(results).assign(here=True)
    ours = ours.rename(columns={"token_gain_mean": "token_gain", "bits_mean": "information_bits"})
    both = pd.concat([said, ours[list(said)]], ignore_index=True)
    for bits in (32, 16, 8):
        both[f"bound_{bits}"] = [metrics.theoretical_capacity(r.width, r.vocab_size, bits) for r in both.itertuples()]
    return both.assign(
        tokens_used=both["token_gain"] / both["bound_16"],
        bits_used=both["information_bits"] / (16 * both["width"]),
    )


def theory_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`theory` as a page shows it: one row a model and text."""
    return pd.DataFrame(
        {
            "model": [f"{r.model} ({f'here, n = {r.n}' if r.here else 'published'})" for r in frame.itertuples()],
            "used, in tokens": frame["tokens_used"].map("{:.1%}".format),
            "in bits": frame["bits_used"].map("{:.1%}".format),
            "token gain": frame["token_gain"].map("{:,.1f}".format),
            "information gain, bits": frame["information_bits"].map("{:,.0f}".format),
            "bits a number": (frame["information_bits"] / frame["width"]).map("{:.2f}".format),
            "bound, tokens (8 to 32 bits)": [
                f"{r.bound_16:,.0f} ({r.bound_8:,.0f} to {r.bound_32:,.0f})" for r in frame.itertuples()
            ],
            "text": frame["source"],
        }
    ).set_index("model")


def used_table(runs: pd.DataFrame) -> pd.DataFrame:
    """`used` as a page shows it: one row a text."""
    rows = {}
    for source in source_marks(runs["source"]):
        some = runs[runs["source"] == source]
        rows[f"{source} (n = {len(some)})"] = {
            "used in tokens, %": words.mean(some["tokens_used"], 1),
            "in bits, %": words.mean(some["bits_used"], 1),
            "token gain": words.spread(some["token_gain"].mean(), some["token_gain"].std()),
            "information gain, bits": words.spread(some["bits"].mean(), some["bits"].std(), 0),
            "bits a number": words.mean(some["bits"] / some["width"], 2),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("text")


@styled
def utilisation_figure(frame: pd.DataFrame) -> Figure:
    """Figure 5: share of the 16-bit bound that is used, in tokens and in bits; running against random text.

    Running text is the first that a model has of novels, PG-19 and any other.

    Args:
        frame: `cramming.studies.theory.theory`.
    """
    order = list(source_marks(frame["source"]))
    some = frame.sort_values("source", key=lambda source: source.map(order.index))
    running = some[some["source"] != "random"].drop_duplicates("model").sort_values("tokens_used")
    places = {model: place for place, model in enumerate(running["model"])}
    random = some[(some["source"] == "random") & some["model"].isin(places)]
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 0.44 * len(places) + 1.4), sharex=True)
    here = set(frame.loc[frame["here"], "model"])
    for axis, column, label in ((axes[0], "tokens_used", "tokens"), (axes[1], "bits_used", "bits")):
        for kind, one, colour, marker in (
            ("running text", running, COLOURS[0], "o"),
            ("random words", random, COLOURS[1], "^"),
        ):
            axis.plot(one[column] * 100, one["model"].map(places), marker, color=colour, markersize=7,
                      markeredgecolor="black", markeredgewidth=0.5, label=kind)  # fmt: skip
        ends = pd.concat([running, random]).groupby("model")[column].agg(["min", "max"]) * 100
        axis.hlines(ends.index.map(places), ends["min"], ends["max"], color="#777777", linewidth=1, zorder=0)
        axis.set(title=f"in {label}", xlim=(0, None))
        axis.set_yticks(range(len(places)), [f"{model}, here" if model in here else model for model in places])
    axes[1].set_xlabel("share of the 16-bit bound, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def show_answer(page: Page) -> Answer:
    """How much of its bound one vector uses."""
    by_text, said = dict(tuple(page.used.groupby("source"))), page.said["tokens_used"]
    tokens, bits, *random = (
        words.mean(by_text[text][column], 1)
        for text in (page.running, "random")
        for column in ("tokens_used", "bits_used")
    )
    return Answer(
        page.setting,
        "How much of what it could hold does one vector use?",
        f"With {page.running} one vector uses **{tokens} % of its 16-bit bound in tokens and {bits} % in bits**, "
        f"with random words {random[0]} and {random[1]} %; the {page.said['model'].nunique()} published models use "
        f"{said.min() * 100:.1f} to {said.max() * 100:.1f} % in tokens.",
        rests="Ours: mean with its 95 % interval over "
        f"{words.counted(page.used)} passages, {words.budgets(page.used)} each",
        sure="holds here only",
        why="one small model, a budget that ends its horizons, and 16 bits a number by convention",
    )


def show_utilisation(page: Page) -> Exhibit:
    """Figure 5, with our model, and its numbers behind it."""
    tokens, bits = (
        words.within(page.ratio[name].median(), page.ratio[name].min(), page.ratio[name].max(), 2)
        for name in ("tokens_used", "bits_used")
    )
    caption = (
        f"**In tokens published models use {tokens} times as much with running text as with random words, in bits "
        f"{bits} times.** Median and range of {len(page.ratio)} models; no interval can be had. Running text: PG-19 "
        f"published, {page.running} here. Published gains: means over runs beyond capacity; ours: over horizons, "
        "without token 0's bits."
    )
    table = Fold(f"Bound and use of every model and text: {len(page.theory)} rows", theory_table(page.theory))
    return Exhibit(caption, utilisation_figure(page.theory), table)


def show_used(page: Page) -> Exhibit:
    """What our vectors use, by text."""
    by_text = dict(tuple(page.used.groupby("source")))
    tokens, bits = (
        words.difference(by_text["random"][column], by_text[page.running][column])
        for column in ("tokens_used", "bits_used")
    )
    said = page.said[page.said["source"] == "pg19"]
    each = said["information_bits"] / said["width"]
    return Exhibit(
        f"**Here, random words less {page.running} is {bits} percentage points of the bits, and {tokens} of the "
        "tokens.** Means with 95 % intervals; gains: ± standard deviation. *Bits a number*: information gain over "
        f"width; published {each.min():.1f} to {each.max():.1f}, PG-19.",
        used_table(page.used),
    )

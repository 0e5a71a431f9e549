"""What a vector could hold, by its width and number format, and what it held."""

from __future__ import annotations

from functools import cached_property

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from cramming import metrics
from cramming.results.published import hub_id, published
from cramming.results.rows import horizons, of_kind
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, source_marks, styled
from cramming.studies._page import Exhibit
from cramming.studies._page import Page as AnyPage


class Page(AnyPage):
    """Bound and use of one mem vector, published and here."""

    def __init__(self, scale: str) -> None:
        super().__init__("theory", scale)
        self.theory = theory(self.results)
        self.here = self.theory[self.theory["here"]]

    @cached_property
    def ratio(self) -> pd.DataFrame:
        """Shares of the bound that PG-19 uses over those of random words: one row a published model that has both."""
        said = self.theory[~self.theory["here"]].set_index("model")
        used = {source: some[["tokens_used", "bits_used"]] for source, some in said.groupby("source")}
        return (used["pg19"] / used["random"]).dropna(subset="tokens_used")


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
            "model": [f"{r.model} ({'here' if r.here else 'published'})" for r in frame.itertuples()],
            "text": frame["source"],
            "width d": frame["width"],
            "bound, tokens: 32-bit": frame["bound_32"].map("{:,.0f}".format),
            "16-bit": frame["bound_16"].map("{:,.0f}".format),
            "8-bit": frame["bound_8"].map("{:,.0f}".format),
            "token gain, tokens": frame["token_gain"].map("{:,.1f}".format),
            "of the 16-bit bound": frame["tokens_used"].map("{:.1%}".format),
            "information gain, bits": frame["information_bits"].map("{:,.0f}".format),
            "of 16 d bits": frame["bits_used"].map("{:.1%}".format),
            "of 32 d": (frame["bits_used"] / 2).map("{:.1%}".format),
            "of 8 d": (frame["bits_used"] * 2).map("{:.1%}".format),
        }
    ).set_index("model")


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
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 0.33 * len(places) + 1.4), sharey=True)
    for axis, column, label in ((axes[0], "tokens_used", "tokens"), (axes[1], "bits_used", "bits")):
        for kind, one, colour, marker in (
            ("running text", running, COLOURS[0], "o"),
            ("random words", random, COLOURS[1], "^"),
        ):
            axis.plot(one[column] * 100, one["model"].map(places), marker, color=colour, markersize=8,
                      markeredgecolor="black", markeredgewidth=0.5, label=kind)  # fmt: skip
        ends = pd.concat([running, random]).groupby("model")[column].agg(["min", "max"]) * 100
        axis.hlines(ends.index.map(places), ends["min"], ends["max"], color="#777777", linewidth=1, zorder=0)
        axis.set(xlabel=f"share of the 16-bit bound, in {label}, %", xlim=(0, None))
    here = set(frame.loc[frame["here"], "model"])
    axes[0].set_yticks(range(len(places)), [f"{model}, here" if model in here else model for model in places])
    axes[0].legend(loc="lower right", fontsize="small")
    return figure


def show_table(page: Page) -> Exhibit:
    """Bound and use by model and text."""
    counts = ", ".join(f"{row.n} {row.source}" for row in page.here.itertuples())
    caption = (
        "**Bound and use of one mem vector.** *Published*: Kuratov et al., PG-19, fan fiction and random words; gains "
        f"are means over runs beyond capacity, number of runs not published. *Here*: {page.setting}; exact horizons "
        f"of {counts} passages within {words.budgets(of_kind(page.results, 'horizon'))}; gains are means over "
        "passages, and the information of token 0 is left out."
    )
    return Exhibit(caption, theory_table(page.theory))


def show_utilisation(page: Page) -> Exhibit:
    """Figure 5, with our model."""
    tokens, bits = page.ratio["tokens_used"], page.ratio["bits_used"]
    caption = (
        "**In tokens, running text gets further than random words; in bits it hardly does.** Mean gain over the bound "
        "for 16-bit numbers, one row a model, ordered by tokens. Running text is PG-19 for published models and "
        f"{next(iter(source_marks(page.here['source'])))} for ours. Over the {len(page.ratio)} published models the "
        f"share of running text over that of random words is {tokens.median():.2f} in tokens (median; "
        f"{tokens.min():.2f} to {tokens.max():.2f}) and {bits.median():.2f} in bits ({bits.min():.2f} to "
        f"{bits.max():.2f}). {page.setting}."
    )
    return Exhibit(caption, utilisation_figure(page.theory))


def show_claim(page: Page) -> Exhibit:
    """What is sure of the paper's claim."""
    shares = "; ".join(
        f"{row.source}: {row.tokens_used:.1%} of the bound in tokens, {row.bits_used:.1%} in bits"
        for row in page.here.itertuples()
    )
    return Exhibit(
        f"Measured here, one model: {shares}. A small part, as published. **Counted in bits, random words use more "
        f"of the vector than novels, here as for {(page.ratio['bits_used'] < 1).sum()} of the {len(page.ratio)} "
        "published models**; only where models are large do the two meet. That information rather than length is "
        "what is limited is the better description, but not an exact law. Sure is this of the published numbers, "
        "which were recomputed from the authors' files. Of ours it is less sure: our horizons end with a budget, so "
        "they are lower bounds, one model says nothing of size, and its 16 bits are a convention, since its weights "
        "have four."
    )

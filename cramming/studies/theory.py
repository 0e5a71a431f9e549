"""Theory, surprisal and information: what a vector could hold, what must go, and what it held."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from cramming import metrics
from cramming.results.published import hub_id, published
from cramming.results.rows import horizons
from cramming.studies._figures import COLOURS, styled


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

    Args:
        frame: `cramming.studies.theory.theory`.
    """
    kinds = {"running text": ("pg19", "novels"), "random words": ("random",)}
    order = frame[frame["source"] != "random"].groupby("model")["tokens_used"].max().sort_values().index
    places = {model: place for place, model in enumerate(order)}
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 0.33 * len(order) + 1.4), sharey=True)
    for axis, column, label in ((axes[0], "tokens_used", "tokens"), (axes[1], "bits_used", "bits")):
        for (kind, sources), colour, marker in zip(kinds.items(), COLOURS[:2], "o^", strict=False):
            some = frame[frame["source"].isin(sources) & frame["model"].isin(order)]
            axis.plot(some[column] * 100, some["model"].map(places), marker, color=colour, markersize=8,
                      markeredgecolor="black", markeredgewidth=0.5, label=kind)  # fmt: skip
        pairs = frame[frame["source"].isin(sum(kinds.values(), ()))].groupby("model")[column]
        for model, low, high in zip(pairs.min().index, pairs.min(), pairs.max(), strict=True):
            axis.plot([low * 100, high * 100], [places[model]] * 2, color="#777777", linewidth=1, zorder=0)
        axis.set(xlabel=f"share of the 16-bit bound, in {label}, %", xlim=(0, None))
    here = set(frame.loc[frame["here"], "model"])
    axes[0].set_yticks(range(len(order)), [f"{model}, here" if model in here else model for model in order])
    axes[0].legend(loc="lower right", fontsize="small")
    return figure

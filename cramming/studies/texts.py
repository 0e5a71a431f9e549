"""What a text costs a model, token by token: told nothing of it, the least of that which must go, and given mem."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.studies import _words as words
from cramming.studies._figures import SOURCE_MARKS, styled
from cramming.texts import Passage


def sizes(passages: Sequence[Passage]) -> pd.DataFrame:
    """How long passages are: one row a passage with source, passage, tokens, words (by blanks) and characters."""
    return pd.DataFrame(
        [(p.source, p.id, len(p), len(p.text.split()), len(p.text)) for p in passages],
        columns=["source", "passage", "tokens", "words", "characters"],
    )


def text_table(sizes: pd.DataFrame, surprise: pd.DataFrame) -> pd.DataFrame:
    """What passages are like, one row a source: sizes, and what they cost the model without mem.

    Args:
        sizes: From `cramming.studies.texts.sizes`.
        surprise: From `cramming.results.rows.surprise`, of the same passages.
    """
    rows = {}
    for source, some in sizes.groupby("source", sort=False):
        tokens = surprise[surprise["source"] == source].groupby("passage")["nats"]
        bits = tokens.mean().map(metrics.nats_to_bits)
        # Characters of the tokens that are scored, as nearly as one can say: all but the first token's share.
        characters = some.set_index("passage")["characters"] * (1 - 1 / some.set_index("passage")["tokens"])
        rows[source] = {
            "passages": len(some),
            "tokens of each": words.range(some["tokens"]),
            "words": words.range(some["words"]),
            "characters a token": f"{some['characters'].sum() / some['tokens'].sum():.2f}",
            "bits a token": words.spread(bits.mean(), bits.std(), 2),
            "range": f"{bits.min():.2f} to {bits.max():.2f}",
            "bits a character": f"{metrics.nats_to_bits(tokens.sum().sum()) / characters.sum():.2f}",
            "already the argmax": f"{(surprise.loc[surprise['source'] == source, 'least_nats'] == 0).mean():.0%}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("text")


@styled
def surprise_figure(frame: pd.DataFrame) -> Figure:
    """What passages cost the model without mem: each passage's mean, by source, and the mean by position.

    Args:
        frame: `cramming.results.rows.surprise`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[1, 1.3])
    bits = frame.assign(bits=frame["nats"].map(metrics.nats_to_bits))
    sources = [source for source in SOURCE_MARKS if source in set(frame["source"])]
    edges = np.unique(np.geomspace(1, frame["position"].max() + 1, 13).astype(int))
    for place, source in enumerate(sources):
        colour, marker = SOURCE_MARKS[source]
        some = bits[bits["source"] == source]
        means = np.sort(some.groupby("passage")["bits"].mean())
        spread = (np.arange(len(means)) % 5 - 2) * 0.06
        left.scatter(means, place + spread, color=colour, marker=marker, s=30, edgecolor="black", linewidth=0.5)
        binned = some.groupby(pd.cut(some["position"], edges, right=False, labels=edges[:-1]), observed=True)["bits"]
        right.plot(binned.mean().index.astype(int), binned.mean(), color=colour, marker=marker, label=source)
    left.set_yticks(range(len(sources)), sources)
    left.set(xlabel="bits a token, mean of a passage", xlim=(0, None), ylim=(len(sources) - 0.5, -0.5))
    left.grid(visible=False, axis="y")
    right.set(xscale="log", xlabel="position in the passage (log scale)", ylabel="bits a token", ylim=(0, None))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.legend()
    return figure

"""The texts themselves: how long passages are, and what they cost the model before any vector is there."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.models import load
from cramming.results import rows
from cramming.results.plans import load_plan
from cramming.studies import _words as words
from cramming.studies._figures import source_marks, styled
from cramming.studies._page import Exhibit
from cramming.texts import Passage, passages

SOURCES = ("novels", "fresh", "random")  # those that come with the companion


class Page:
    """Passages of each source and what they cost the plan's first model. The page shows no runs.

    Args:
        scale: Name of the plan, or its path.
        n: Passages of each source.
        length: Tokens of each.
        seed: Of their choice.
    """

    def __init__(self, scale: str, n: int, length: int, seed: int) -> None:
        lm = load(load_plan(scale).models[0])
        some = [p for source in SOURCES for p in passages(source, lm.tokenizer, n=n, length=length, seed=seed)]
        self.sizes, self.surprise = sizes(some), rows.surprise(lm, some)
        self.setting = (
            f"{lm.name} ({lm.provenance}); {n} passages a source, the first {length} tokens of each, seed {seed}; "
            f"{rows.device_name(lm.device)}"
        )


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
    lines = {}
    for source, some in sizes.groupby("source", sort=False):
        scored = surprise[surprise["source"] == source]
        bits = scored.groupby("passage")["nats"].mean().map(metrics.nats_to_bits)
        # Characters of the tokens that are scored, as nearly as one can say: all but the first token's share.
        characters = some["characters"] * (1 - 1 / some["tokens"])
        lines[source] = {
            "passages": len(some),
            "tokens of each": words.range(some["tokens"]),
            "words": words.range(some["words"]),
            "characters a token": f"{some['characters'].sum() / some['tokens'].sum():.2f}",
            "bits a token": words.spread(bits.mean(), bits.std(), 2),
            "range": f"{bits.min():.2f} to {bits.max():.2f}",
            "bits a character": f"{metrics.nats_to_bits(scored['nats'].sum()) / characters.sum():.2f}",
            "already the argmax": f"{(scored['least_nats'] == 0).mean():.0%}",
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("text")


@styled
def surprise_figure(frame: pd.DataFrame) -> Figure:
    """What passages cost the model without mem: each passage's mean, by source, and the mean by position.

    Args:
        frame: `cramming.results.rows.surprise`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[1, 1.3])
    bits = frame.assign(bits=frame["nats"].map(metrics.nats_to_bits))
    sources = source_marks(frame["source"])
    edges = np.unique(np.geomspace(1, frame["position"].max() + 1, 13).astype(int))
    for place, (source, (colour, marker)) in enumerate(sources.items()):
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


def show_table(page: Page) -> Exhibit:
    """What the texts are like, by source."""
    caption = (
        f"**What the texts are like.** {page.setting}. Bits are cross-entropy of the plain text in the model, token 0 "
        "left out; mean ± sample standard deviation over passages. *Already the argmax*: tokens that the model would "
        "say by itself, given those before."
    )
    return Exhibit(caption, text_table(page.sizes, page.surprise))


def show_surprise(page: Page) -> Exhibit:
    """What they cost, by passage and by position."""
    mean = page.surprise.groupby(["source", "passage"])["nats"].mean().groupby("source").mean()
    random, fresh = mean["random"] / mean["novels"], mean["fresh"] / mean["novels"]
    caption = (
        f"**Random words cost {random:.1f} times as many bits a token as novels, fresh texts {fresh:.1f} times.** "
        "Left: each passage's mean. Right: mean over passages by position: the second token is dear in any text, and "
        "from the third on running text goes on getting cheaper with what has been said, random words less so. "
        f"{page.setting}."
    )
    return Exhibit(caption, surprise_figure(page.surprise))

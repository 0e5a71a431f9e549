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
from cramming.studies._figures import WIDTH, source_marks, styled
from cramming.studies._page import Answer, Exhibit
from cramming.texts import Passage, passages

# Those that come with the companion, in words.
SOURCES = {"novels": "novels", "fresh": "fresh texts", "random": "random words"}


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
        self.n, self.length = n, length
        self.sizes, self.surprise = sizes(some), rows.surprise(lm, some)
        self.costs = costs(self.surprise)
        said = rows.circumstances(lm)
        self.setting = (
            f"{lm.name} ({lm.provenance}), no mem vector; {said['dtype']} on {said['device']}; {', '.join(SOURCES)}; "
            f"{said['versions']}"
        )


def sizes(passages: Sequence[Passage]) -> pd.DataFrame:
    """How long passages are: one row a passage with source, passage, tokens, words (by blanks) and characters."""
    return pd.DataFrame(
        [(p.source, p.id, len(p), len(p.text.split()), len(p.text)) for p in passages],
        columns=["source", "passage", "tokens", "words", "characters"],
    )


def costs(surprise: pd.DataFrame) -> pd.DataFrame:
    """What passages cost the model without mem: one row a passage.

    Args:
        surprise: From `cramming.results.rows.surprise`.

    Returns:
        Columns source, passage, bits (a token, mean) and early (by how many bits a token its first eighth costs more
        than the rest).
    """
    early = surprise["position"] <= max(1, surprise["position"].max() / 8)
    every, first, rest = (
        some.groupby(["source", "passage"], sort=False)["nats"].mean().map(metrics.nats_to_bits)
        for some in (surprise, surprise[early], surprise[~early])
    )
    return pd.DataFrame({"bits": every, "early": first - rest}).reset_index()


def text_table(sizes: pd.DataFrame, surprise: pd.DataFrame) -> pd.DataFrame:
    """What passages are like, one row a source: what they cost the model without mem, and sizes.

    Args:
        sizes: From `cramming.studies.texts.sizes`.
        surprise: From `cramming.results.rows.surprise`, of the same passages.
    """
    lines, of = {}, dict(tuple(costs(surprise).groupby("source")))
    for source, some in sizes.groupby("source", sort=False):
        scored, cost = surprise[surprise["source"] == source], of[source]
        # Characters of the tokens that are scored, as nearly as one can say: all but the first token's share.
        characters = some["characters"] * (1 - 1 / some["tokens"])
        lines[source] = {
            "bits a token": words.spread(cost["bits"].mean(), cost["bits"].std(), 2),
            "more at the start": words.interval(cost["early"].mean(), *metrics.bootstrap_ci(cost["early"])),
            "already the argmax": f"{(scored['least_nats'] == 0).mean():.0%}",
            "bits a character": f"{metrics.nats_to_bits(scored['nats'].sum()) / characters.sum():.2f}",
            "characters a token": f"{some['characters'].sum() / some['tokens'].sum():.2f}",
            "words": words.range(some["words"]),
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("text")


@styled
def surprise_figure(frame: pd.DataFrame) -> Figure:
    """What passages cost the model without mem: each passage's mean, by source, and the mean by position.

    Args:
        frame: `cramming.results.rows.surprise`.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 6.4), height_ratios=[1, 1.3])
    bits = frame.assign(bits=frame["nats"].map(metrics.nats_to_bits))
    sources = source_marks(frame["source"])
    edges = np.unique(np.geomspace(1, frame["position"].max() + 1, 13).astype(int))
    for place, (source, (colour, marker)) in enumerate(sources.items()):
        some = bits[bits["source"] == source]
        means = np.sort(some.groupby("passage")["bits"].mean())
        spread = (np.arange(len(means)) % 5 - 2) * 0.09
        above.scatter(means, place + spread, color=colour, marker=marker, s=30, edgecolor="black", linewidth=0.5)
        binned = some.groupby(pd.cut(some["position"], edges, right=False, labels=edges[:-1]), observed=True)["bits"]
        below.plot(binned.mean().index.astype(int), binned.mean(), color=colour, marker=marker, label=source)
    above.set_yticks(range(len(sources)), sources)
    above.set(xlabel="bits a token, mean of a passage", xlim=(0, None), ylim=(len(sources) - 0.5, -0.5))
    above.grid(visible=False, axis="y")
    below.set(xscale="log", xlabel="position in the passage (log scale)", ylabel="bits a token", ylim=(0, None))
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.legend(*below.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def show_answer(page: Page) -> Answer:
    """What a token of each text costs."""
    of = dict(tuple(page.costs.groupby("source")["bits"]))
    told = [f"{words.spread(of[source].mean(), of[source].std())} bits in {said}" for source, said in SOURCES.items()]
    return Answer(
        page.setting,
        "How hard are the texts, before any vector is there?",
        f"Given the tokens before it, a token costs the model **{words.listed(told)}**.",
        rests=(
            f"Mean ± standard deviation over {page.n} passages a text, the first {page.length} tokens of each; one "
            "forward pass each, no runs"
        ),
        sure="holds here only",
        why="bits are those of one small model",
    )


def show_surprise(page: Page) -> Exhibit:
    """What texts cost, by passage and by position, and what they are like."""
    of = dict(tuple(page.costs.groupby("source")["bits"]))
    random, fresh = (words.difference(of[source], of["novels"]) for source in ("random", "fresh"))
    caption = (
        f"**Random words cost {random} bits a token over novels, fresh texts {fresh}**, with 95 % intervals. One mark "
        f"a passage, n = {page.n} a text; below, means. *More at the start*: the first eighth less the rest, bits a "
        "token. *Already the argmax*: what the model says unaided. Token 0 is left out."
    )
    return Exhibit(caption, surprise_figure(page.surprise), text_table(page.sizes, page.surprise))

"""One interface, several memories: mem vectors, keys and values, and proto-tokens with as many floats each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cramming import metrics
from cramming.decode import reading_seconds
from cramming.errors import CrammingError
from cramming.memories import MEMORIES
from cramming.models import FrozenLM
from cramming.recipes import Recipe, changed_fields, recipe
from cramming.results.rows import of_kind
from cramming.results.traces import won_late
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit
from cramming.studies._page import Page as AnyPage

# What a passage is crammed into, as a page calls it, and with the number of its parts.
LABELS = {
    "vectors": ("mem vectors", "{} mem vector"),
    "prefix": ("keys and values", "keys and values in {} layer"),
    "proto": ("proto-tokens", "{} proto-token"),
}
# What the recipes of other memories are compared with: ours as it was when they were chosen.
PLAIN = recipe("horizon", averaging=None, temperature=1, restart_steps=None)


class Page(AnyPage):
    """The runs of all memories, and those that chose their recipes.

    Args:
        scale: Name of the plan, or its path.
        read_tokens: Tokens that each memory is timed reading, where they are said one by one.
    """

    def __init__(self, scale: str, read_tokens: int) -> None:
        super().__init__("memories", scale)
        self.read_tokens = read_tokens
        self.tuning = self.more("memories_tuning")
        self.shown.append((scale, self.tuning))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """From `sized`, of the page's runs."""
        return sized(self.results, self.vectors)

    @cached_property
    def held(self) -> pd.DataFrame:
        """From `summary`."""
        return summary(self.runs)


def sized(results: pd.DataFrame, vectors: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Runs with what their passages were crammed into.

    Args:
        results: Rows of the store.
        vectors: What the store keeps for them, by key.

    Returns:
        The rows with the columns memory and floats (numbers trained for the passage).

    Raises:
        CrammingError: If a row has nothing kept for it.
    """
    missing = set(results["key"]) - set(vectors)
    if missing:
        raise CrammingError(f"run {min(missing)} has no vector in the store: restore its shard")
    return results.assign(
        memory=results["recipe_json"].map(lambda text: Recipe.model_validate_json(text).memory),
        floats=results["key"].map(lambda key: vectors[key].numel()),
    )


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """What several memories hold, their floats and their cost, and each against mem vectors of as many floats.

    Args:
        runs: Rows of kind horizon, from `sized`.

    Returns:
        One row a memory and number of its parts, by floats: floats, memory, parts, n, mean, sd, low, high (exact
        horizon, tokens, with its 95 % bootstrap interval), tokens_each (per 1,000 floats), late (tokens won in the
        last quarter of the token passes, mean), steps and cpu_seconds (means), more, more_low, more_high (horizon
        less that of as many floats in mem vectors on the same passages, mean with its interval; nan if there are none
        such).

    Raises:
        CrammingError: If there is no run of kind horizon.
    """
    runs = of_kind(runs, "horizon")
    runs = runs.assign(late=won_late(runs), place=runs["memory"].map(list(LABELS).index))
    plain = runs[runs["memory"] == "vectors"].set_index(["floats", "passage"])["length"]
    rows = []
    for (floats, _, parts), some in runs.groupby(["floats", "place", "n_vectors"]):
        memory = some["memory"].iloc[0]
        more = (some.set_index(["floats", "passage"])["length"] - plain).dropna()
        known = memory != "vectors" and len(more) > 0
        low, high = metrics.bootstrap_ci(more) if known else (np.nan, np.nan)
        rows.append(
            {
                "floats": floats,
                "memory": memory,
                "parts": parts,
                **metrics.horizon_summary(some["length"]),
                "tokens_each": 1000 * some["length"].mean() / floats,
                **some[["late", "steps", "cpu_seconds"]].mean(),
                "more": more.mean() if known else np.nan,
                "more_low": low,
                "more_high": high,
            }
        )
    return pd.DataFrame(rows)


def readings(lm: FrozenLM, runs: pd.DataFrame, vectors: Mapping[str, torch.Tensor], most: int) -> pd.DataFrame:
    """Read each memory once: at most so many tokens where they are said one by one, else the whole horizon.

    Args:
        lm: The frozen model.
        runs: From `sized`.
        vectors: What the store keeps for them, by key.
        most: Tokens.

    Returns:
        The runs that hold any token, with the columns tokens (read back) and seconds (of the processor).
    """
    runs = runs[runs["length"] > 0]
    tokens, seconds = [], []
    for run in runs.itertuples():
        memory = MEMORIES[run.memory]
        tokens.append(run.length if memory.one_pass else min(run.length, most))
        seconds.append(reading_seconds(lm, vectors[run.key], tokens[-1], memory=memory, repeats=1))
    return runs.assign(tokens=tokens, seconds=seconds)


def memory_in_words(memory: str, parts: int) -> str:
    """Such as ``keys and values in 3 layers``."""
    return LABELS[memory][1].format(parts) + ("s" if parts > 1 else "")


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`summary` as a page shows it: one row a memory and number of floats."""
    rows = {
        (f"{row.floats:,}", memory_in_words(row.memory, row.parts)): {
            "exact horizon, tokens": words.within(row.mean, row.low, row.high, 1),
            "against as many vectors": words.interval(row.more, row.more_low, row.more_high),
            "tokens per 1,000 floats": f"{row.tokens_each:.1f}",
            "won in the last quarter": f"{row.late:.1f}",
            "steps": f"{row.steps:,.0f}",
        }
        for row in frame.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["floats", "memory"])


def seconds(frame: pd.DataFrame, read: pd.DataFrame) -> pd.DataFrame:
    """Processor seconds to make a memory and to read it back, one row a memory and number of floats.

    Args:
        frame: From `summary`.
        read: Columns memory, n_vectors, tokens (read back), seconds; one row a reading.
    """
    rows = {}
    for row in frame.itertuples():
        some = read[(read["memory"] == row.memory) & (read["n_vectors"] == row.parts)]
        each = (some["seconds"] / some["tokens"]).median()
        rows[(f"{row.floats:,}", memory_in_words(row.memory, row.parts))] = {
            "seconds to make": f"{row.cpu_seconds:,.0f}",
            "tokens read": words.range(some["tokens"]) if len(some) else "",
            "milliseconds to read a token": f"{1000 * each:,.1f}" if each == each else "",
            "seconds to read the mean horizon": f"{each * row.mean:,.2f}" if each == each else "",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["floats", "memory"])


def tuning(runs: pd.DataFrame) -> pd.DataFrame:
    """The recipes that were tried for each memory, the best first: one row a memory and change.

    Args:
        runs: From `sized`.
    """
    base, rows = PLAIN.model_dump(exclude={"name", "memory", "max_token_passes"}), []
    for (memory, parts, text), some in of_kind(runs, "horizon").groupby(["memory", "n_vectors", "recipe_json"]):
        change = changed_fields(base, Recipe.model_validate_json(str(text)).model_dump())
        loss = np.mean([losses[-1] for losses in some["trace_loss"]])
        rows.append((memory_in_words(memory, parts), change, some["length"].mean(), loss))
    which, numbers = ["memory", "recipe"], ["exact horizon, tokens", "loss at the end, nats"]
    tried = pd.DataFrame(rows, columns=[*which, *numbers])
    tried = tried.sort_values(["memory", *numbers], ascending=[True, False, True]).set_index(which)
    return tried.assign(**tried[numbers].map("{:.1f}".format))


@styled
def summary_figure(frame: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Exact tokens against floats, one mark a kind of memory: means with their intervals, and every passage.

    Args:
        frame: `cramming.studies.memories.summary`.
        runs: The runs it sums up.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.6))
    styles = itertools.cycle(zip(COLOURS, "os^D", ("-", "--", ":", "-."), strict=True))
    for i, (memory, (colour, marker, line)) in enumerate(zip(LABELS, styles, strict=False)):
        some, each = frame[frame["memory"] == memory], runs[runs["memory"] == memory]
        if some.empty:
            continue
        beside = 1.05 ** (i - 1)  # so that equal floats do not hide each other
        axis.plot(each["floats"] * beside, each["length"], marker, color=colour, markersize=3, alpha=0.5)
        interval = [some["mean"] - some["low"], some["high"] - some["mean"]]
        axis.errorbar(some["floats"] * beside, some["mean"], yerr=interval, color=colour, marker=marker,
                      linestyle=line, markersize=8, markeredgecolor="black", markeredgewidth=0.5, capsize=3,
                      label=LABELS[memory][0])  # fmt: skip
    ticks = sorted(set(frame["floats"]))
    axis.set(xscale="log", xlabel="floats trained for a passage (log scale)", ylabel="exact horizon, tokens")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.set_ylim(0, None)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def show_answer(page: Page) -> Answer:
    """Each memory against as many floats in mem vectors."""
    apart, said = page.held.dropna(subset=["more"]), []
    for row in apart.itertuples():
        within = f"{row.more_low:+.1f} to {row.more_high:+.1f}" + ", 0 in it" * (row.more_low <= 0 <= row.more_high)
        more = f"**{abs(row.more):.1f} tokens {'more' if row.more > 0 else 'fewer'}** ({within})"
        said.append(f"{memory_in_words(row.memory, row.parts)} hold {more}")
    return Answer(
        page.setting,
        "Do other memories hold more than mem vectors of as many floats?",
        f"Against mem vectors of as many floats, {words.listed(said)}.",
        rests=f"Mean differences over the same {words.counted(page.runs)} passages with 95 % bootstrap intervals; "
        f"{words.budgets(page.results)} each",
        sure="holds here only" if (apart["more_low"] * apart["more_high"] > 0).all() else "open",
        why="one small model, one budget, and recipes that took far more searching for vectors than for the others",
    )


def show_figure(page: Page) -> Exhibit:
    """Tokens against floats, and the same in numbers."""
    each = page.held[page.held["memory"] == "vectors"].iloc[[0, -1]]
    first, last = (
        words.within(row.tokens_each, row.low * rate, row.high * rate, 1)
        + f" in {memory_in_words(row.memory, row.parts)}"
        for row, rate in zip(each.itertuples(), 1000 / each["floats"], strict=True)
    )
    caption = (
        f"**Tokens per 1,000 floats: {first}, {last}.** Large marks: mean exact horizon, 95 % interval, n = "
        f"{page.held['n'].min()}; small: passages; equal floats side by side. *Last quarter*: of the token passes; "
        "where much was won in it, the budget ended the run, not the memory."
    )
    return Exhibit(caption, summary_figure(page.held, page.runs), summary_table(page.held))


def show_seconds(page: Page) -> Exhibit:
    """Making and reading, timed."""
    read = readings(page.lm, page.runs, page.vectors, page.read_tokens)
    each = (1000 * read["seconds"] / read["tokens"]).groupby(read["memory"])
    said = [f"{words.within(some.median(), some.min(), some.max(), 0)} in {LABELS[name][0]}" for name, some in each]
    caption = (
        f"**Milliseconds to read a token, median and range: {words.listed(said)}.** Processor time, summed over "
        f"threads. Making: mean. Reading: timed once while this page ran; up to {page.read_tokens} tokens said one by "
        "one, or the whole horizon at once."
    )
    return Exhibit(caption, seconds(page.held, read))


def show_tuning(page: Page) -> Exhibit:
    """Recipes tried on other passages."""
    tried = tuning(sized(page.tuning, page.vectors))
    caption = (
        f"**{len(tried)} recipes were tried for {tried.index.unique('memory').size} memories, without intervals: "
        f"{words.counted(page.tuning)}, none of those above, {words.budgets(page.tuning)} each.** Changes "
        "against the recipe `horizon`; horizon and loss are means, the loss over the tokens under optimisation at the "
        "end. Keys and values are in units of what noise in the input gives in that layer."
    )
    return Exhibit(caption, tried)

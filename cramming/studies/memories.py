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
from cramming.recipes import RECIPES, Recipe, changed_fields
from cramming.results.rows import device_name, of_kind
from cramming.results.traces import exact_curve, stair
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, styled
from cramming.studies._page import Exhibit
from cramming.studies._page import Page as AnyPage

# What a passage is crammed into, as a page calls it, and with the number of its parts.
LABELS = {
    "vectors": ("mem vectors", "{} mem vector"),
    "prefix": ("keys and values", "keys and values in {} layer"),
    "proto": ("proto-tokens", "{} proto-token"),
}


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

    @cached_property
    def setting(self) -> str:
        """Model, weights and machine, for captions."""
        return f"{words.setting(self.results)}; {device_name(self.lm.device)}, {self.results['dtype'].iloc[0]}"

    @cached_property
    def counted(self) -> str:
        """Passages by source, for captions."""
        passages = self.runs.drop_duplicates("passage")["source"].value_counts()
        return ", ".join(f"{n} {source}" for source, n in passages.items())

    @cached_property
    def budget(self) -> str:
        """What each passage could spend, for captions."""
        return f"{words.budgets(self.results)} a passage"


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
    late = []
    for i in range(len(runs)):
        passes, exact = exact_curve(runs.iloc[[i]])
        late.append(exact[-1] - stair(passes, exact, 0.75 * passes[-1]))
    runs = runs.assign(late=late, place=runs["memory"].map(list(LABELS).index))
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
            "passages": row.n,
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
    base, rows = RECIPES["horizon"].model_dump(exclude={"name", "memory", "max_token_passes"}), []
    for (memory, parts, text), some in of_kind(runs, "horizon").groupby(["memory", "n_vectors", "recipe_json"]):
        change = changed_fields(base, Recipe.model_validate_json(str(text)).model_dump())
        loss = np.mean([losses[-1] for losses in some["trace_loss"]])
        rows.append((memory_in_words(memory, parts), change, len(some), some["length"].mean(), loss))
    which, numbers = ["memory", "recipe"], ["exact horizon, tokens", "loss at the end, nats"]
    tried = pd.DataFrame(rows, columns=[*which, "passages", *numbers])
    tried = tried.sort_values(["memory", *numbers], ascending=[True, False, True]).set_index(which)
    return tried.assign(**tried[numbers].map("{:.1f}".format))


@styled
def summary_figure(frame: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Exact tokens against floats, one mark a kind of memory: means with their intervals, and every passage.

    Args:
        frame: `cramming.studies.memories.summary`.
        runs: The runs it sums up.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.4))
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
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncol=3, borderaxespad=0.2)
    return figure


def show_answer(page: Page) -> Exhibit:
    """What the memories hold that have as many floats."""
    said = ""
    for floats, some in page.held.groupby("floats"):
        if len(set(some["memory"])) > 1:
            each = (
                f"{memory_in_words(row.memory, row.parts)}: {row.mean:.1f} tokens ({row.low:.1f} to {row.high:.1f})"
                for row in some.itertuples()
            )
            said += f"**With {floats:,} floats:** {'; '.join(each)}. "
    return Exhibit(
        f"{said}Mean exact horizons within {page.budget}, with 95 % bootstrap intervals over n = "
        f"{page.held['n'].min()} passages ({page.counted})."
    )


def show_figure(page: Page) -> Exhibit:
    """Tokens against floats."""
    most = page.held.loc[page.held["mean"].idxmax()]
    caption = (
        f"**Most tokens: {most['mean']:.1f}, in {memory_in_words(most['memory'], most['parts'])} ({most['floats']:,} "
        "floats).** Exact horizon in tokens against the floats trained for a passage. Large marks: means over "
        "passages with 95 % bootstrap intervals; small marks: passages. Marks at equal floats stand side by side. "
        f"{page.setting}; {page.counted}, the same for each memory; {page.budget}. {words.cost(page.results)}."
    )
    return Exhibit(caption, summary_figure(page.held, page.runs))


def show_table(page: Page) -> Exhibit:
    """The same in numbers, and what the budget cut off."""
    caption = (
        "**What each memory holds.** *Against as many vectors*: horizon less that of mem vectors with as many floats, "
        "mean over the same passages with its 95 % bootstrap interval. *Won in the last quarter*: exact tokens won "
        "during the last quarter of the token passes; where that is much, the budget ended the run and not the "
        f"memory. {page.setting}; {page.counted}, within {page.budget}."
    )
    return Exhibit(caption, summary_table(page.held))


def show_seconds(page: Page) -> Exhibit:
    """Making and reading, timed."""
    read = readings(page.lm, page.runs, page.vectors, page.read_tokens)
    caption = (
        "**Seconds of processor time.** To make: mean over passages, from the store; to read: measured while this "
        f"page ran, median over passages, of up to {page.read_tokens} tokens each where tokens are said one by one "
        "and of the whole horizon where they are said in one pass. Processor time sums over threads, so with two of "
        f"them a clock shows about half of it. {page.setting}; {page.counted}."
    )
    return Exhibit(caption, seconds(page.held, read))


def show_tuning(page: Page) -> Exhibit:
    """Recipes tried on other passages."""
    tried = tuning(sized(page.tuning, page.vectors))
    caption = (
        f"**Recipes tried: {len(tried)}.** Changes against the recipe `horizon`; exact horizon and loss are means "
        "over passages, the loss over the tokens under optimisation when the run ended. Numbers of keys and values "
        f"are in units of what noise in the input gives in that layer. {page.setting}; {words.budgets(page.tuning)} a "
        "passage, on none of the passages above."
    )
    return Exhibit(caption, tried)


def show_verdicts(page: Page) -> Exhibit:
    """Each memory against as many floats in mem vectors."""
    said = ""
    for row in page.held.dropna(subset=["more"]).itertuples():
        clear = row.more_low * row.more_high > 0
        verdict = ("more" if row.more > 0 else "fewer") if clear else "neither clearly more nor clearly fewer"
        said += (
            f"{memory_in_words(row.memory, row.parts).capitalize()} hold {verdict} than as many floats in mem "
            f"vectors: {row.more:+.1f} tokens ({row.more_low:+.1f} to {row.more_high:+.1f}, n = {row.n}). "
        )
    late = page.held["late"]
    return Exhibit(
        f"{said}In the last quarter of their budgets the memories still won {late.min():.1f} to {late.max():.1f} "
        "tokens on average."
    )

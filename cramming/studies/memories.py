"""Several vectors, and other memories than vectors."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cramming import metrics
from cramming.recipes import RECIPES, Recipe, changed_fields
from cramming.results.rows import of_kind
from cramming.results.traces import exact_curve, stair
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, styled

# What a passage is crammed into, as a page calls it, and with the number of its parts.
LABELS = {
    "vectors": ("mem vectors", "{} mem vector"),
    "prefix": ("keys and values", "keys and values in {} layer"),
    "proto": ("proto-tokens", "{} proto-token"),
}


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """What several memories hold, their floats and their cost, and each against mem vectors of as many floats.

    Args:
        runs: Rows of kind horizon, from `cramming.memories.sized`.

    Returns:
        One row a memory and number of its parts, by floats: floats, memory, parts, n, mean, sd, low, high (exact
        horizon, tokens, with its 95 % bootstrap interval), tokens_each (per 1,000 floats), late (tokens won in the
        last quarter of the token passes, mean), token_passes, steps and cpu_seconds (means), more, more_low, more_high
        (horizon less that of as many floats in mem vectors on the same passages, mean with its interval; nan if there
        are none such).

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
                **some[["late", "token_passes", "steps", "cpu_seconds"]].mean(),
                "more": more.mean() if known else np.nan,
                "more_low": low,
                "more_high": high,
            }
        )
    return pd.DataFrame(rows)


def memory_in_words(memory: str, parts: int) -> str:
    """Such as ``keys and values in 3 layers``."""
    return LABELS[memory][1].format(parts) + ("s" if parts > 1 else "")


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`memories` as a page shows it: one row a memory and number of floats."""
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
        frame: From `memories`.
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
        runs: From `cramming.memories.sized`.
    """
    base, rows = RECIPES["horizon"].model_dump(exclude={"name", "memory", "max_token_passes"}), []
    for (memory, parts, text), some in of_kind(runs, "horizon").groupby(["memory", "n_vectors", "recipe_json"]):
        how = Recipe.model_validate_json(str(text)).model_dump()
        loss = np.mean([losses[-1] for losses in some["trace_loss"]])
        rows.append(
            (memory_in_words(memory, parts), changed_fields(base, how), len(some), some["length"].mean(), loss)
        )
    names = ["memory", "recipe", "passages", "horizon", "loss"]
    tried = pd.DataFrame(rows, columns=names).sort_values(["memory", "horizon", "loss"], ascending=[True, False, True])
    return pd.DataFrame(
        {
            "passages": tried["passages"],
            "exact horizon, tokens": tried["horizon"].map("{:.1f}".format),
            "loss at the end, nats": tried["loss"].map("{:.1f}".format),
        }
    ).set_index(pd.MultiIndex.from_frame(tried[["memory", "recipe"]]))


@styled
def summary_figure(frame: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Exact tokens against floats, one mark a kind of memory: means with their intervals, and every passage.

    Args:
        frame: `cramming.studies.memories.summary`.
        runs: The runs it sums up.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.4))
    styles = ((COLOURS[0], "o", "-"), (COLOURS[1], "s", "--"), (COLOURS[2], "^", ":"))
    for i, (memory, (colour, marker, line)) in enumerate(zip(LABELS, styles, strict=True)):
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

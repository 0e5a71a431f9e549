"""Several vectors, and other memories than vectors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.paper import published
from cramming.recipes import RECIPES, Recipe, changed_fields
from cramming.tables import _words as words
from cramming.tables._cost import stair
from cramming.tables._horizons import exact_curve


def several_vectors(runs: pd.DataFrame) -> pd.DataFrame:
    """Capacity and gains by number of mem vectors, published and ours, against what that many single ones would hold.

    The ideal is k times what one vector holds. Published gains are means over runs beyond capacity, ours over
    horizons, and ours leave out the information of token 0.

    Args:
        runs: From `same_passages`.

    Returns:
        One row a model and k: model, here (whether measured here), n_vectors, n (passages, 0 if not published),
        capacity (tokens; ours the mean horizon) and capacity_sd (nan where published), token_gain, token_gain_sd
        (tokens), bits, bits_sd (information gain); of these three the columns _each (over k) and _share (over the
        ideal); ratio, ratio_low, ratio_high (horizon over that of one vector, mean over passages whose single vector
        holds any, 95 % bootstrap interval; nan where published or where there is none).
    """
    said = published("n_vectors")
    rows = [
        {
            "model": row.model,
            "here": False,
            "n_vectors": row.n_vectors,
            "n": 0,
            "capacity": row.decoding_capacity_tokens,
            "token_gain": row.token_gain_mean,
            "token_gain_sd": row.token_gain_std,
            "bits": metrics.nats_to_bits(row.information_gain_nats_mean),
            "bits_sd": metrics.nats_to_bits(row.information_gain_nats_std),
        }
        for row in said.itertuples()
    ]
    single = runs[runs["n_vectors"] == 1].set_index("passage")["length"]
    for (model, k), some in runs.groupby(["model", "n_vectors"]):
        ratios = (some.set_index("passage")["length"] / single[single > 0]).dropna()
        low, high = metrics.bootstrap_ci(ratios) if len(ratios) else (np.nan, np.nan)
        rows.append(
            {
                "model": model,
                "here": True,
                "n_vectors": k,
                "n": len(some),
                "capacity": some["length"].mean(),
                "capacity_sd": some["length"].std(),
                "token_gain": some["token_gain"].mean(),
                "token_gain_sd": some["token_gain"].std(),
                "bits": some["bits"].mean(),
                "bits_sd": some["bits"].std(),
                "ratio": ratios.mean(),
                "ratio_low": low,
                "ratio_high": high,
            }
        )
    frame = pd.DataFrame(rows)
    for column in ("capacity", "token_gain", "bits"):
        one = frame["model"].map(frame[frame["n_vectors"] == 1].set_index("model")[column])
        frame[f"{column}_each"] = frame[column] / frame["n_vectors"]
        frame[f"{column}_share"] = frame[f"{column}_each"] / one.where(one > 0)
    return frame


def several_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`several_vectors` as a page shows it: one row a model and number of vectors."""
    rows = {}
    for row in frame.to_dict("records"):
        where = "here" if row["here"] else "published"
        shown: dict[str, object] = {"passages": row["n"] or ""}
        for column, name, short, digits in (
            ("capacity", "capacity or horizon, tokens", "capacity", 1 if row["here"] else 0),
            ("token_gain", "token gain, tokens", "token gain", 1),
            ("bits", "information gain, bits", "information", 0),
        ):
            known = row[column] == row[column]
            shown[name] = words.spread(row[column], row[f"{column}_sd"], digits) if known else ""
            shown[f"{short} per vector"] = f"{row[f'{column}_each']:,.{digits}f}" if known else ""
            shown[f"{short} of the ideal"] = words.share(row[f"{column}_share"])
        known = row["here"] and row["n_vectors"] > 1 and row["ratio"] == row["ratio"]
        ratio = words.within(row["ratio"], row["ratio_low"], row["ratio_high"], 2)
        shown["times one vector"] = ratio if known else ""
        rows[(f"{row['model'].split('/')[-1]} ({where})", row["n_vectors"])] = shown
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "vectors"])


def several_ends(runs: pd.DataFrame) -> pd.DataFrame:
    """How runs with several vectors ended, and what they had after as many steps as the shortest run took.

    Args:
        runs: From `same_passages`.

    Returns:
        Index n_vectors; columns n, ended (why, with counts), offered (runs that reached the end of their text), steps,
        token_passes and cpu_seconds (means), horizon and horizon_sd (tokens, at the end), late and late_sd (exact
        tokens won in the last quarter of the token passes), common_steps (of the shortest run of all), at_steps and
        at_steps_sd (exact tokens by then).
    """
    common = runs["steps"].min()
    each = []
    for i in range(len(runs)):
        (passes, exact), (steps, by_then) = (exact_curve(runs.iloc[[i]], along) for along in ("token_passes", "steps"))
        each.append((exact[-1] - stair(passes, exact, 0.75 * passes[-1]), stair(steps, by_then, common)))
    rows = {}
    timed = runs.assign(**dict(zip(("late", "at_steps"), zip(*each, strict=True), strict=True)))
    for k, some in timed.groupby("n_vectors"):
        rows[k] = {
            "n": len(some),
            "ended": ", ".join(f"{n} {why}" for why, n in some["ended"].value_counts().items()),
            "offered": int((some["length"] == some["offered"]).sum()),
            "steps": some["steps"].mean(),
            "token_passes": some["token_passes"].mean(),
            "cpu_seconds": some["cpu_seconds"].mean(),
            "horizon": some["length"].mean(),
            "horizon_sd": some["length"].std(),
            "late": some["late"].mean(),
            "late_sd": some["late"].std(),
            "common_steps": common,
            "at_steps": some["at_steps"].mean(),
            "at_steps_sd": some["at_steps"].std(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("n_vectors")


def several_ends_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`several_ends` as a page shows it: one row a number of vectors."""
    common = frame["common_steps"].iloc[0]
    return pd.DataFrame(
        {
            "passages": frame["n"],
            "ended by": frame["ended"],
            "reached the end of the text": frame["offered"],
            "steps, mean": frame["steps"].map("{:,.0f}".format),
            "token passes, mean": frame["token_passes"].map("{:,.0f}".format),
            "exact tokens at the end": [words.spread(r.horizon, r.horizon_sd) for r in frame.itertuples()],
            "of these won in the last quarter": [words.spread(r.late, r.late_sd) for r in frame.itertuples()],
            f"exact tokens after {common:,} steps": [
                words.spread(r.at_steps, r.at_steps_sd) for r in frame.itertuples()
            ],
        }
    ).rename_axis("vectors")


# What a passage is crammed into, as a page calls it, and with the number of its parts.
MEMORIES = {
    "vectors": ("mem vectors", "{} mem vector"),
    "prefix": ("keys and values", "keys and values in {} layer"),
    "proto": ("proto-tokens", "{} proto-token"),
}


def memories(runs: pd.DataFrame) -> pd.DataFrame:
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
    runs = words.some(runs, "horizon")
    late = []
    for i in range(len(runs)):
        passes, exact = exact_curve(runs.iloc[[i]])
        late.append(exact[-1] - stair(passes, exact, 0.75 * passes[-1]))
    runs = runs.assign(late=late, place=runs["memory"].map(list(MEMORIES).index))
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
    return MEMORIES[memory][1].format(parts) + ("s" if parts > 1 else "")


def memories_table(frame: pd.DataFrame) -> pd.DataFrame:
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


def memories_seconds(frame: pd.DataFrame, read: pd.DataFrame) -> pd.DataFrame:
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


def memories_tuning(runs: pd.DataFrame) -> pd.DataFrame:
    """The recipes that were tried for each memory, the best first: one row a memory and change.

    Args:
        runs: From `cramming.memories.sized`.
    """
    base, rows = RECIPES["horizon"].model_dump(exclude={"name", "memory", "max_token_passes"}), []
    for (memory, parts, text), some in words.some(runs, "horizon").groupby(["memory", "n_vectors", "recipe_json"]):
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

"""Whether exact stays exact: accuracy, rounding, margins."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from cramming import metrics
from cramming.errors import CrammingError
from cramming.recipes import Recipe
from cramming.tables import _words as words

ACCURACY_CLASSES = {"all": (1, 2), "0.9 or more": (0.9, 1), "0.5 to 0.9": (0.5, 0.9), "under 0.5": (0, 0.5)}


def accuracy_and_exactness(results: pd.DataFrame) -> pd.DataFrame:
    """Crams of a fixed length by teacher-forced accuracy, and how far greedy decoding from the same vectors gets.

    Both are of the vector kept, as certified. Where token 0 was given, it counts for neither.

    Args:
        results: Rows of kind cram.

    Returns:
        One row a class of share right, teacher-forced: crams, passages, exact, tokens before the first error (mean ±
        sd, as % of the passage), first error (token number, median of those that have one), crams without one token.
    """
    runs = words.some(results, "cram")
    scored = runs["length"] - ~runs["score_first"]
    right, decoded = runs["correct_teacher"] / scored, runs["correct_greedy"] / scored * 100
    first = (runs["correct_greedy"] + 1).where(decoded < 100)
    rows = {}
    for label, (low, high) in ACCURACY_CLASSES.items():
        some = (right >= low) & (right < high)
        if some.any():
            rows[label] = {
                "crams": some.sum(),
                "passages": runs.loc[some, "passage"].nunique(),
                "exact": runs.loc[some, "exact"].sum(),
                "tokens before the first error, %": words.spread(decoded[some].mean(), decoded[some].std(), 0),
                "first error at token": words.number(first[some].median()),
                "wrong from the first token on": (runs.loc[some, "correct_greedy"] == 0).sum(),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tokens right, teacher-forced")


def exactness(gaps: pd.DataFrame) -> pd.DataFrame:
    """What each setting makes of each vector.

    Args:
        gaps: From `cramming.robustness.gaps`.

    Returns:
        One row a setting and run, in the order given: setting, coarse, run, tokens, exact, first_error (token number,
        nan if exact), margin (smallest reference gap, logits), change (greatest change of a gap, logits).
    """
    frame = gaps.assign(
        change=(gaps["gap"] - gaps["reference"]).abs(), first_error=(gaps["position"] + 1).where(~(gaps["gap"] > 0))
    )
    each = frame.groupby(["setting", "coarse", "run"], sort=False, as_index=False).agg(
        tokens=("gap", "size"),
        first_error=("first_error", "min"),
        margin=("reference", "min"),
        change=("change", "max"),
    )
    return each.assign(exact=each["first_error"].isna())


def against(gaps: pd.DataFrame, setting: str) -> pd.DataFrame:
    """`cramming.robustness.gaps` with another setting as the reference, put first."""
    own = gaps[gaps["setting"] == setting]
    usual = own.set_index(["run", "position"])["gap"].rename("reference")
    frame = pd.concat([own, gaps[gaps["setting"] != setting]]).drop(columns="reference")
    return frame.join(usual, on=["run", "position"])


def settings(gaps: pd.DataFrame) -> pd.DataFrame:
    """What survives each setting, of the tokens and vectors that are right in the first one.

    Args:
        gaps: From `cramming.robustness.gaps`.

    Returns:
        Index setting; columns coarse, vectors (exact in the first setting), exact (of these), first_error (token
        number, median of those that fail), decoded (mean share of their tokens before it), tokens (won in the first
        setting), undone (of these), undone_margin (the greatest that one of them had, logits, nan if there is none),
        change (greatest change of a gap, of all tokens, logits).
    """
    each, won = exactness(gaps), gaps[gaps["reference"] > 0]
    rows = {}
    for setting, some in each.groupby("setting", sort=False):
        exact, lost = some[some["margin"] > 0], won[(won["setting"] == setting) & ~(won["gap"] > 0)]
        failed = exact[~exact["exact"]]
        rows[setting] = {
            "coarse": some["coarse"].iloc[0],
            "vectors": len(exact),
            "exact": exact["exact"].sum(),
            "first_error": failed["first_error"].median(),
            "decoded": ((failed["first_error"] - 1) / failed["tokens"]).mean(),
            "tokens": (won["setting"] == setting).sum(),
            "undone": len(lost),
            "undone_margin": lost["reference"].max(),
            "change": some["change"].max(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("setting")


def settings_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`settings` as a page shows it; the first setting, which the others are compared with, is left out."""
    some = frame.iloc[1:]
    return pd.DataFrame(
        {
            "vectors exact": [f"{row.exact} of {row.vectors}" for row in some.itertuples()],
            "first error at token": some["first_error"].map(words.number),
            "tokens undone": [f"{row.undone} of {row.tokens:,}" for row in some.itertuples()],
            "greatest margin undone, logits": some["undone_margin"].map(words.figures),
            "greatest change of a margin, logits": some["change"].map(words.figures),
        }
    )


def safe_margin(gaps: pd.DataFrame) -> float:
    """The smallest margin above which no token is undone by any of the settings, in logits; 0 if none is at all.

    A prefix whose margin is greater stays exact in all of them.
    """
    lost = gaps[(gaps["reference"] > 0) & ~(gaps["gap"] > 0)]
    return float(lost["reference"].max()) if len(lost) else 0.0


def asked(results: pd.DataFrame) -> pd.DataFrame:
    """Horizons that differ in the margin asked for only, on the passages that every margin was asked on.

    Args:
        results: Rows of kind horizon. If several recipes are among them, the one with most margins counts.

    Returns:
        The rows, with asked (the margin, logits) and left (length over that with the least margin; nan if that is 0),
        sorted by asked and passage.

    Raises:
        CrammingError: If no passage has been run with every margin.
    """
    runs = words.some(results, "horizon")
    hows = [Recipe.model_validate_json(text) for text in runs["recipe_json"]]
    runs = runs.assign(asked=[how.stop_margin for how in hows])
    rest = pd.Series([how.model_copy(update={"stop_margin": 0.0}).model_dump_json() for how in hows], runs.index)
    runs = runs[rest == runs.groupby(rest)["asked"].nunique().idxmax()]
    runs = runs[runs.groupby("passage")["asked"].transform("nunique") == runs["asked"].nunique()]
    if runs.empty:
        raise CrammingError("no passage was run with every margin: sweep the same passages for each")
    runs = runs.sort_values(["asked", "passage"], ignore_index=True)
    least = runs[runs["asked"] == runs["asked"].min()].set_index("passage")["length"]
    return runs.assign(left=runs["length"] / runs["passage"].map(least.where(least > 0)))


def asked_table(runs: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """What asking for a margin from the start costs in tokens, and what it buys.

    Args:
        runs: From `asked`.
        gaps: From `cramming.robustness.gaps`, with a column key.

    Returns:
        Index margin asked for; columns passages, exact horizon (tokens, mean ± sd), against the least margin (mean of
        the differences passage by passage, tokens, with a 95 % bootstrap interval), left (mean %), and of the vectors
        how many are exact in all settings that are not coarse, and in each that is.
    """
    each = exactness(gaps).assign(key=lambda frame: frame["run"].map(gaps.groupby("run")["key"].first()))
    least = runs[runs["asked"] == runs["asked"].min()].set_index("passage")["length"]
    rows = {}
    for margin, some in runs.groupby("asked"):
        gain = some.set_index("passage")["length"] - least
        mine = each[each["key"].isin(some["key"])]
        n, fine = mine["run"].nunique(), mine[~mine["coarse"]].groupby("run")["exact"].all()
        rows[f"{margin:g}"] = {
            "passages": len(some),
            "exact horizon, tokens": words.spread(some["length"].mean(), some["length"].std()),
            "against the least margin": words.interval(gain.mean(), *metrics.bootstrap_ci(gain)) if gain.any() else "",
            "left, %": f"{some['left'].mean() * 100:.0f}" if some["left"].notna().any() else "",
            "exact in all of 32 and 64 bits": f"{fine.sum()} of {n}",
            **{
                setting: f"{kept['exact'].sum()} of {n}"
                for setting, kept in mine[mine["coarse"]].groupby("setting", sort=False)
            },
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("margin asked for, logits")


def cut(gaps: pd.DataFrame, margins: Collection[float]) -> pd.DataFrame:
    """Vectors cut afterwards to the longest prefix whose margin in the first setting is at least so much.

    Args:
        gaps: From `cramming.robustness.gaps`.
        margins: In logits, above 0.

    Returns:
        One row a margin, setting and run: margin, setting, coarse, run, tokens (of the prefix), left (share of the
        tokens that are exact uncut), exact (in that setting; True for a prefix of no token).
    """
    each, once = exactness(gaps), gaps[gaps["setting"] == gaps["setting"].iloc[0]]

    def prefix(won: pd.Series) -> pd.Series:
        """Tokens of each run before the first that is not won."""
        return won.astype(int).groupby(once["run"]).cumprod().groupby(once["run"]).sum()

    whole, parts = prefix(once["reference"] > 0), []
    for margin in margins:
        tokens = each["run"].map(prefix(once["reference"] >= margin))
        left = tokens / each["run"].map(whole.where(whole > 0))
        exact = ~(each["first_error"] <= tokens)
        part = each[["setting", "coarse", "run"]]
        parts.append(part.assign(margin=float(margin), tokens=tokens, left=left, exact=exact))
    return pd.concat(parts, ignore_index=True)


def cut_price(cuts: pd.DataFrame) -> pd.DataFrame:
    """What cutting afterwards leaves, over runs that are exact for a token or more.

    Args:
        cuts: From `cut`.

    Returns:
        Index margin; columns n (runs), tokens (mean), left, low, high (mean share and its 95 % bootstrap interval).
    """
    each = cuts.dropna(subset="left").drop_duplicates(["margin", "run"])
    rows = {}
    for margin, some in each.groupby("margin"):
        low, high = metrics.bootstrap_ci(some["left"])
        rows[margin] = {
            "n": len(some), "tokens": some["tokens"].mean(), "left": some["left"].mean(), "low": low, "high": high
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("margin")


def cut_price_table(price: pd.DataFrame) -> pd.DataFrame:
    """`cut_price` as a page shows it."""
    shown = pd.DataFrame(
        {
            "vectors": price["n"].astype(int),
            "exact tokens, mean": price["tokens"].map("{:,.1f}".format),
            "left, % (95 % interval)": [
                f"{row.left:.0%} ({row.low:.0%} to {row.high:.0%})".replace("%", "") for row in price.itertuples()
            ],
        }
    )
    return shown.set_axis([f"{margin:g}" for margin in price.index]).rename_axis("margin, logits")

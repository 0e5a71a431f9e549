"""How a vector moves as its prefix grows."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from cramming import metrics
from cramming.tables import _words as words


def growth_correlations(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean Spearman correlations over runs, as a page shows them.

    Args:
        frames: From `cramming.growth.correlations`, by what the steps are held against.
    """
    rows = {}
    for recipe in next(iter(frames.values()))["recipe"].unique():
        for name, frame in frames.items():
            some = frame[frame["recipe"] == recipe]
            row = {"runs": len(some), "tokens a run": f"{some['n'].mean():.0f}"}
            for column, label in (("rho", "Spearman"), ("rho_within", "position taken out")):
                known = some[column].dropna()
                row[label] = words.interval(known.mean(), *metrics.bootstrap_ci(known), 2) if len(known) else ""
            rows[recipe, name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["recipe", "steps against"])


def stops(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.growth.stops` as a page shows it, one row a run."""
    return pd.DataFrame(
        {
            "recipe": frame["recipe"],
            "exact tokens": frame["length"],
            "next token": [repr(token) for token in frame["token"]],
            "bits without mem": frame["nats"].map(metrics.nats_to_bits).map("{:.1f}".format),
            "rank without mem": frame["rank"].map("{:,.0f}".format),
            "tokens that surprise less": frame["harder"].map(words.share),
            "rank with mem": frame["rank_with"].map("{:,}".format),
            "gap with mem, logits": frame["gap"].map("{:.1f}".format),
            "steps in vain": frame["steps"].map("{:,.0f}".format),
            "of all steps": frame["share"].map(words.share),
            "tokens wrong at a step": frame["mistakes"].map("{:.1f}".format),
            "steps with an earlier one wrong": frame["lost"].map(words.share),
        }
    ).set_index(pd.Index(frame["passage"], name="passage"))


def trajectories(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.growth.trajectories` summed up: mean ± sample standard deviation over passages."""
    rows = {}
    for what, some in frame.groupby("what"):
        spread = {
            "way, degrees": ("gone", 0, 1),
            "end from start, degrees": ("net", 0, 1),
            "cosine of successive moves": ("cosine", 2, 1),
            "first component, %": ("first", 0, 100),
            "second component, %": ("second", 0, 100),
            "components for 90 %": ("needed_90", 1, 1),
            "components for 99 %": ("needed_99", 1, 1),
        }
        rows[what] = {"passages": len(some), "points a passage": f"{some['tokens'].mean():.0f}"} | {
            label: words.spread(some[column].mean() * by, some[column].std() * by, digits)
            for label, (column, digits, by) in spread.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")

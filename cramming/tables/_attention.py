"""Who looks at mem."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from cramming.paper import published
from cramming.tables import _words as words
from cramming.tables._cost import SYSTEMS


def attention_table(shares: Mapping[str, pd.DataFrame], plain: pd.DataFrame, hub: str) -> pd.DataFrame:
    """Share of attention on mem, by recipe, and on the first token of plain text: here, and published for one model.

    Args:
        shares: From `cramming.attention.mem_shares`, by name of the recipe.
        plain: From `cramming.attention.first_token_shares`.
        hub: Hub id of the published model. Source: arXiv 2607.21231 (attention_mass.csv).
    """
    said = published("attention_mass").set_index("model").loc[hub]
    rows: dict[str, tuple[str, str]] = {}
    for recipe, some in shares.items():
        each = some.groupby("passage")["share"].mean() * 100
        rows[f"mem, {SYSTEMS[recipe]}"] = words.spread(each.mean(), each.std()), f"here, {len(each)} passages"
    for what, name in (("mem", "mem, progressive"), ("bos", "first token of plain text")):
        value, sd = (said[f"{what}_attention_mass_percent_{part}"] for part in ("mean", "std"))
        rows[f"{name}, {hub}"] = words.spread(value, sd), "published"
    each = plain.groupby("passage")["share"].mean() * 100
    rows["first token of plain text"] = words.spread(each.mean(), each.std()), f"here, {len(each)} passages"
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["share of attention, %", "where"])
    return frame.rename_axis("what is looked at").sort_index(ascending=False)

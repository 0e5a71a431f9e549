"""What is published beside what was measured here."""

from __future__ import annotations

import pandas as pd

from cramming.results.published import OUTSIDE, hub_id
from cramming.studies import _words as words


def ledger_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """The published numbers of a ledger of `cramming.paper` that one of ours stands beside: a row each."""
    held = ledger[ledger["ours_n"] > 0]
    shown = pd.DataFrame(
        {
            "model": _names(held),
            "text": _texts(held),
            "quantity": _quantities(held),
            "published": _published(held),
            "ours": [_ours(row.ours, row.ours_n, row.unit) for row in held.itertuples()],
            "tolerance": held["tolerance"],
            "verdict": held["verdict"],
            "why": held["reason"],
        }
    )
    return _with_vectors(shown, held).set_index("model")


def recipes_used(ledger: pd.DataFrame) -> str:
    """The recipes behind our numbers in a ledger of `cramming.paper`, with what was changed in them, for captions."""
    return "; ".join(ledger.loc[ledger["ours_n"] > 0, "our_recipe"].unique())


def unmeasured_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """The published numbers of a ledger of `cramming.paper` that nothing here stands beside.

    Returns:
        A row a model, text, number of mem vectors and reason, a column a quantity.
    """
    left = ledger[~(ledger["ours_n"] > 0)]
    rows = _with_vectors(pd.DataFrame({"model": _names(left), "text": _texts(left), "why": left["reason"]}), left)
    wide = _wide(rows.assign(quantity=_quantities(left), said=_published(left)), list(rows))
    return wide[[*wide.columns.drop("why"), "why"]].set_index("model")


def bounds_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """The rows of `cramming.results.published.bounds_ledger` that follow by arithmetic: published, and in brackets computed anew.

    Returns:
        A row a model: its bound in tokens, the shares of it by text, and what does not agree.
    """
    held = ledger[ledger["ours_n"] > 0]
    source = held["source"].where(held["source"] != "any", "")
    digits = (held["unit"] == "share") * 4
    both = [f"{r.published:,.{n}f} ({r.ours:,.{n}f})" for r, n in zip(held.itertuples(), digits, strict=True)]
    quantity = (source + " " + _quantities(held)).str.strip()
    wide = _wide(pd.DataFrame({"model": _names(held), "quantity": quantity, "said": both}), ["model"]).set_index(
        "model"
    )
    wrong = held[held["verdict"] == OUTSIDE]
    return wide.assign(contradicted=wrong.groupby(_names(wrong))["reason"].agg("; ".join)).fillna({"contradicted": ""})


def _wide(long: pd.DataFrame, rows: list[str]) -> pd.DataFrame:
    """What is said of each quantity in a column of its own. In the order of the ledger; a pivot sorts both ways."""
    wide = long.pivot_table("said", index=rows, columns="quantity", aggfunc=", ".join, fill_value="").reset_index()
    ordered = long[rows].drop_duplicates().merge(wide.rename_axis(columns=None), on=rows)
    return ordered[[*rows, *long["quantity"].unique()]]


def _names(ledger: pd.DataFrame) -> pd.Series:
    return ledger["model"].map(hub_id).str.split("/").str[-1]


def _texts(ledger: pd.DataFrame) -> pd.Series:
    blank = pd.Series(pd.NA, index=ledger.index, dtype=object)
    return ledger.get("source", blank).fillna(ledger.get("setting", blank))


def _quantities(ledger: pd.DataFrame) -> pd.Series:
    return ledger["quantity"].str.replace("_", " ") + ", " + ledger["unit"]


def _published(ledger: pd.DataFrame) -> list[str]:
    return [words.spread(r.published, r.published_sd, 4 if r.unit == "share" else 1) for r in ledger.itertuples()]


def _with_vectors(shown: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """With the number of mem vectors behind the text where there are several."""
    if "n_vectors" in ledger and (ledger["n_vectors"] > 1).any():
        shown.insert(2, "mem vectors", ledger["n_vectors"])
    return shown


def _ours(value: float, n: int, unit: str) -> str:
    return f"{value:,.4f}" if unit == "share" else f"{value:,.1f} (n = {n})"


def verdicts(ledger: pd.DataFrame) -> pd.DataFrame:
    """How many published numbers got which verdict, by quantity."""
    quantity = ledger["quantity"].str.replace("_", " ")
    return pd.crosstab(quantity, ledger["verdict"], margins=True, margins_name="all").rename_axis(columns=None)

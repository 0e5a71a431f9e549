"""What is published beside what was measured here."""

from __future__ import annotations

import pandas as pd

from cramming.errors import CrammingError
from cramming.paper import OUTSIDE, hub_id, published
from cramming.tables import _words as words


def published_table() -> pd.DataFrame:
    """The 14 models of the paper as published: size, width, bound and capacity in tokens by source."""
    models = published("models").set_index("hub_id")
    capacity = published("capacity")
    by_source = {
        f"{source}, tokens": some.set_index(some["model"].map(hub_id))["decoding_capacity_tokens"]
        for source, some in capacity.groupby("source")
    }
    frame = pd.DataFrame(
        {
            "model": models["name"] + " (published)",
            "parameters, billions": models["params_billion"],
            "width d": models["hidden_size"],
            "16-bit bound, tokens": models["theoretical_capacity_tokens"],
            **{name: column.reindex(models.index).astype("Int64") for name, column in by_source.items()},
        }
    ).sort_values("pg19, tokens", ascending=False)
    return frame.astype(object).where(frame.notna(), "").set_index("model")


def published_horizon(hub: str) -> str:
    """Mean ± standard deviation in tokens of the progressive protocol on a model, by its hub id, as published.

    Source: arXiv 2607.21231, the table of model scales (progressive.csv).
    """
    rows = published("progressive").query("model == @hub and setting == 'model scales'")
    if len(rows) != 1:
        raise CrammingError(f"no horizon is published for {hub!r}: progressive.csv lists the models that have one")
    return words.spread(rows["horizon_tokens_mean"].iloc[0], rows["horizon_tokens_std"].iloc[0]) + " tokens"


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
    """The rows of `cramming.paper.bounds_ledger` that follow by arithmetic: published, and in brackets computed anew.

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

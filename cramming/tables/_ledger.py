"""What is published beside what was measured here."""

from __future__ import annotations

import pandas as pd

from cramming.errors import CrammingError
from cramming.paper import hub_id, published
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
    """A ledger of `cramming.paper` as a page shows it: one row a published number."""
    known = ledger["ours_n"] > 0
    blank = pd.Series(pd.NA, index=ledger.index, dtype=object)
    shown = pd.DataFrame(
        {
            "model": ledger["model"].str.split("/").str[-1],
            "text": ledger.get("source", blank).fillna(ledger.get("setting", blank)),
            "quantity": ledger["quantity"].str.replace("_", " ") + ", " + ledger["unit"],
            "published": [
                words.spread(r.published, r.published_sd, 4 if r.unit == "share" else 1) for r in ledger.itertuples()
            ],
            "ours": [_ours(row.ours, row.ours_n, row.unit) for row in ledger.itertuples()],
            "tolerance": ledger["tolerance"],
            "verdict": ledger["verdict"],
            "why": ledger["reason"],
        }
    )
    if "our_source" in ledger:
        made = ledger["our_model"] + ", " + ledger["our_source"] + ", recipe " + ledger["our_recipe"]
        shown.insert(5, "made with", made.where(known, "").fillna(""))
    if "n_vectors" in ledger and (ledger["n_vectors"] > 1).any():
        shown.insert(2, "mem vectors", ledger["n_vectors"])
    if (shown["tolerance"] == "").all():
        shown = shown.drop(columns="tolerance")
    return shown.set_index("model")


def _ours(value: float, n: int, unit: str) -> str:
    if not n:
        return ""
    return f"{value:,.4f}" if unit == "share" else f"{value:,.1f} (n = {n})"


def verdicts(ledger: pd.DataFrame) -> pd.DataFrame:
    """How many published numbers got which verdict, by quantity."""
    return pd.crosstab(ledger["quantity"].str.replace("_", " "), ledger["verdict"], margins=True, margins_name="all")

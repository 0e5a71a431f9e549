"""What is published beside what was measured here."""

from __future__ import annotations

import pandas as pd

from cramming.attention import first_token_shares, mem_shares
from cramming.results import published as numbers
from cramming.results.rows import crammed
from cramming.studies import _words as words
from cramming.studies._page import Exhibit, glue
from cramming.studies._page import Page as AnyPage


class Page(AnyPage):
    """Every published number, in the four ledgers of `cramming.results.published`.

    Attributes:
        paper: Capacities and gains of the paper.
        bounds: Its bounds, and the cross-entropies of its texts.
        progressive: Horizons and gains of the later paper.
        attention: Its shares of attention.
        every: All four.
    """

    def __init__(self, scale: str) -> None:
        super().__init__("ledger", scale)
        self.paper, self.bounds = numbers.ledger(self.results), numbers.bounds_ledger()
        self.progressive = numbers.progressive_ledger(self.results)
        looked_at = self.results.query("recipe == 'progressive' and length >= 2")
        vectors, passages = [self.vectors[key] for key in looked_at["key"]], crammed(looked_at, self.lm)
        shares = mem_shares(self.lm, vectors, passages), first_token_shares(self.lm, passages)
        self.attention = numbers.attention_ledger(*shares, self.lm.name)
        self.every = pd.concat([self.paper, self.bounds, self.progressive, self.attention], ignore_index=True)


def verdicts_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """How many published numbers got which verdict, by quantity."""
    quantity = ledger["quantity"].str.replace("_", " ")
    return pd.crosstab(quantity, ledger["verdict"], margins=True, margins_name="all").rename_axis(columns=None)


def ledger_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """The published numbers of a ledger that one of ours stands beside: a row each."""
    held = ledger[ledger["ours_n"] > 0]
    ours = [
        f"{row.ours:,.4f}" if row.unit == "share" else f"{row.ours:,.1f} (n = {row.ours_n})"
        for row in held.itertuples()
    ]
    shown = _subjects(held).assign(quantity=_quantities(held), published=_published(held), ours=ours)
    return shown.assign(**held[["tolerance", "verdict"]], why=held["reason"]).set_index("model")


def unmeasured_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """The published numbers of a ledger that nothing here stands beside.

    Returns:
        A row a model, text, number of mem vectors and reason, a column a quantity.
    """
    left = ledger[~(ledger["ours_n"] > 0)]
    rows = _subjects(left).assign(why=left["reason"])
    wide = _wide(rows.assign(quantity=_quantities(left), said=_published(left)), list(rows))
    return wide[[*wide.columns.drop("why"), "why"]].set_index("model")


def bounds_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """The rows of `bounds_ledger` that follow by arithmetic: published, and in brackets computed anew.

    Returns:
        A row a model: its bound in tokens, the shares of it by text, and what does not agree.
    """
    held = ledger[ledger["ours_n"] > 0]
    digits = (held["unit"] == "share") * 4
    both = [f"{r.published:,.{n}f} ({r.ours:,.{n}f})" for r, n in zip(held.itertuples(), digits, strict=True)]
    quantity = (held["source"].where(held["source"] != "any", "") + " " + _quantities(held)).str.strip()
    long = pd.DataFrame({"model": _names(held), "quantity": quantity, "said": both})
    wrong = held[held["verdict"] == numbers.OUTSIDE]
    contradicted = wrong.groupby(_names(wrong))["reason"].agg("; ".join)
    return _wide(long, ["model"]).set_index("model").assign(contradicted=contradicted).fillna({"contradicted": ""})


def _wide(long: pd.DataFrame, rows: list[str]) -> pd.DataFrame:
    """What is said of each quantity in a column of its own. In the order of the ledger; a pivot sorts both ways."""
    wide = long.pivot_table("said", index=rows, columns="quantity", aggfunc=", ".join, fill_value="").reset_index()
    ordered = long[rows].drop_duplicates().merge(wide.rename_axis(columns=None), on=rows)
    return ordered[[*rows, *long["quantity"].unique()]]


def _subjects(ledger: pd.DataFrame) -> pd.DataFrame:
    """What each number is about: model, text and, where there are several, the number of mem vectors."""
    texts = ledger.reindex(columns=["source", "setting"]).astype(object).bfill(axis=1)["source"]
    shown = pd.DataFrame({"model": _names(ledger), "text": texts})
    several = "n_vectors" in ledger and (ledger["n_vectors"] > 1).any()
    return shown.assign(**{"mem vectors": ledger["n_vectors"]}) if several else shown


def _names(ledger: pd.DataFrame) -> pd.Series:
    return ledger["model"].map(numbers.hub_id).str.split("/").str[-1]


def _quantities(ledger: pd.DataFrame) -> pd.Series:
    return ledger["quantity"].str.replace("_", " ") + ", " + ledger["unit"]


def _published(ledger: pd.DataFrame) -> list[str]:
    return [words.spread(r.published, r.published_sd, 4 if r.unit == "share" else 1) for r in ledger.itertuples()]


class InFull(Exhibit):
    """An exhibit with every row of its tables, and no text in them cut."""

    def _ipython_display_(self) -> None:
        with pd.option_context("display.max_rows", None, "display.max_colwidth", None):
            super()._ipython_display_()


def show_verdicts(page: Page) -> Exhibit:
    """Published numbers by verdict."""
    caption = (
        f"**Published numbers by verdict**: {len(page.every)} rows of {page.every['model'].nunique()} models. A "
        "number of the later paper has a row for each way it was measured here."
    )
    return Exhibit(caption, verdicts_table(page.every))


def show_beside(page: Page) -> Exhibit:
    """The published numbers that one of ours stands beside."""
    recipes = page.progressive.loc[page.progressive["ours_n"] > 0, "our_recipe"].unique()
    caption = (
        "**Published numbers beside ours, for the related model.** Published: mean ± sample standard deviation; ours: "
        f"mean, n passages. Our recipes: {'; '.join(recipes)}. {page.setting}. {words.cost(page.results)}."
    )
    return InFull(caption, ledger_table(pd.concat([page.progressive, page.attention, page.paper])))


def show_bounds(page: Page) -> Exhibit:
    """What follows by arithmetic from published numbers."""
    caption = (
        "**Published bounds and shares of them, and in brackets the same computed anew** (models.csv; gains from "
        "capacity.csv): tokens, and shares of the bound of 16-bit mem vectors."
    )
    return InFull(caption, bounds_table(page.bounds))


def show_paper_left(page: Page) -> Exhibit:
    """Every capacity and gain left of the paper."""
    caption = (
        "**Published capacities and gains not within reach here** (capacity.csv, n_vectors.csv): mean ± sample "
        "standard deviation over passages. Gains are over runs beyond capacity (accuracy at most 0.99). No deviation "
        "is published for capacities, and from 32 vectors on no gain."
    )
    return InFull(caption, unmeasured_table(page.paper))


def show_texts_left(page: Page) -> Exhibit:
    """Every cross-entropy left of the paper."""
    return InFull("**Published cross-entropies not within reach here** (models.csv).", unmeasured_table(page.bounds))


def show_progressive_left(page: Page) -> Exhibit:
    """Every horizon and information gain left of the later paper."""
    caption = (
        "**Published horizons and information gains not within reach here** (progressive.csv): mean ± sample standard "
        "deviation."
    )
    return InFull(caption, unmeasured_table(page.progressive))


def show_attention_left(page: Page) -> Exhibit:
    """Every share of attention left of the later paper."""
    caption = (
        "**Published shares of attention not within reach here** (attention_mass.csv): mean ± sample standard "
        "deviation, on a mem vector and, without one, on the first token."
    )
    return InFull(caption, unmeasured_table(page.attention))


def glue_numbers(page: Page) -> None:
    """How many numbers are published, and how many of them have which verdict."""
    found = page.every["verdict"].value_counts()
    glue(
        published_numbers=f"{len(page.every)}",
        reproduced_numbers=f"{found.get(numbers.WITHIN, 0)}",
        same_numbers=f"{found.get(numbers.SAME, 0)}",
    )

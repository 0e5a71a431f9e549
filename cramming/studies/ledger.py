"""What is published beside what was measured here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.results import published as numbers
from cramming.results.attention import first_token_shares, mem_shares
from cramming.results.rows import crammed, gains
from cramming.studies import _words as words
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage

# What makes a published number and what stands beside it agree.
RULES = {
    numbers.ARITHMETIC: "by arithmetic: the same",
    numbers.MEASURED: "measured again: within tolerance",
    numbers.RELATED: "related run: at least half",
}


class Page(AnyPage):
    """Every published number, in the ledgers of `cramming.results.published`.

    Attributes:
        shares: Of attention, on mem and on the first token of plain text.
        several: Runs with several vectors.
        paper: Capacities and gains of the paper.
        bounds: Its bounds, and the cross-entropies of its texts.
        progressive: Horizons and gains of the later paper.
        attention: Its shares of attention.
        later: Its other tables.
        every: All of them.
        said: One row a published number.
    """

    def __init__(self, scale: str) -> None:
        super().__init__("ledger", scale)
        self.paper, self.bounds = numbers.ledger(self.results), numbers.bounds_ledger()
        self.progressive = numbers.progressive_ledger(self.results)
        looked_at = self.results.query("recipe == 'progressive' and length >= 2")
        vectors, passages = [self.vectors[key] for key in looked_at["key"]], crammed(looked_at, self.lm)
        self.shares = mem_shares(self.lm, vectors, passages), first_token_shares(self.lm, passages)
        self.attention = numbers.attention_ledger(*self.shares, self.lm.name)
        self.several = self.more("several_vectors")
        self.shown.append((scale, self.several))
        self.later = numbers.later_ledger()
        ledgers = [self.paper, self.bounds, self.progressive, self.attention, self.later]
        self.every = pd.concat(ledgers, ignore_index=True)
        self.said = self.every.drop_duplicates(["model", "source", "setting", "n_vectors", "quantity", "unit"])


def finding(published: str, here: tuple[float, float, float], n: str, *, side: str, of: float) -> dict[str, object]:
    """A published finding beside our measurement of the same, with its verdict.

    Args:
        published: What was found, in numbers.
        here: A value with its 95 % interval.
        n: What it was measured on.
        side: Where the published value lies: above or below what no effect would give, or at, for a number itself.
        of: What no effect would give, or the number.
    """
    value, low, high = here
    within, where = low <= of <= high, "above" if low > of else "below"
    if side == "at":
        verdict = "includes it" if within else f"lies {where} it"
    else:
        verdict = f"open: includes {of:g}" if within else "the same way" if where == side else "the other way"
    shown = words.within(value, low, high, 2 if abs(value) < 10 else 1)
    return {"here": shown, "verdict of the interval": verdict, "published": published, "n": n}


def findings(
    results: pd.DataFrame, several: pd.DataFrame, mem: pd.DataFrame, plain: pd.DataFrame, model: str
) -> pd.DataFrame:
    """Published findings that runs of ours measure too, on other weights and texts: whether they come out alike.

    Args:
        results: From `cramming.results.rows.gains`: by our recipe of novels and random words, and by progressive.
        several: Horizons of the same passages with several mem vectors.
        mem: From `cramming.results.attention.mem_shares`, of vectors by progressive.
        plain: From `cramming.results.attention.first_token_shares`, of the same passages.
        model: What they were measured on.

    Returns:
        Index finding; columns as `finding` has them. Left out is what the rows do not hold.
    """
    kin = numbers.RELATIVES.get(model, (numbers.hub_id(model), ""))[0]
    progressive = results[results["recipe"] == "progressive"]
    parts = (_by_text(results), _by_vectors(several), _progressive(progressive, kin), _attention(mem, plain, kin))
    return pd.DataFrame.from_dict(dict(chain(*parts)), orient="index").rename_axis("finding")


Found = Iterator[tuple[str, dict[str, object]]]


def _by_text(results: pd.DataFrame) -> Found:
    """How much of random words a vector holds, against novels."""
    ours = results[(results["recipe"] == "horizon") & (results["n_vectors"] == 1) & (results["bits"] > 0)]
    random, novels = (ours[ours["source"] == source] for source in ("random", "novels"))
    if random.empty or novels.empty:
        return
    for said, column, side in (("tokens", "length", "below"), ("information", "bits", "above")):
        known = numbers.text_ratios()[said]
        value, low, high = np.exp(metrics.difference(np.log(random[column]), np.log(novels[column])))
        told = f"{words.within(known.median(), known.min(), known.max(), 2)}, {len(known)} models"
        n = f"{len(random)} random, {len(novels)} novels"
        more = {"below": "fewer", "above": "more"}[side]
        yield (
            f"random words over novels, {more} {column.replace('length', 'tokens')}",
            finding(told, (value, low, high), n, side=side, of=1),
        )


def _by_vectors(several: pd.DataFrame) -> Found:
    """How many times as much several vectors hold as one."""
    tokens = several.pivot_table("length", "passage", "n_vectors").dropna()
    said = numbers.published("n_vectors").pivot_table("decoding_capacity_tokens", "model", "n_vectors")
    for k in (k for k in tokens.columns if k > 1 and k in said):
        times = (tokens[k] / tokens[1])[tokens[1] > 0]
        told = words.listed([f"{known:.1f}" for known in (said[k] / said[1]).dropna()])
        here, n = (times.mean(), *metrics.bootstrap_ci(times)), f"{len(times)} passages"
        yield f"{k} vectors over one, more than 1", finding(told, here, n, side="above", of=1)
        yield f"{k} vectors over one, {k} times", finding(told, here, n, side="at", of=k)


def _progressive(runs: pd.DataFrame, kin: str) -> Found:
    """How far progressive cramming gets, and what its vectors gain."""
    said = numbers.published("progressive")
    said = said[(said["model"] == kin) & (said["setting"] == "model scales")]
    if runs.empty or said.empty:
        return
    known = said.iloc[0]
    for name, column, key in (("tokens", "length", "horizon_tokens"), ("bits", "bits", "information_gain_bits")):
        here = (runs[column].mean(), *metrics.bootstrap_ci(runs[column]))
        told = words.spread(known[f"{key}_mean"], known[f"{key}_std"])
        yield (
            f"progressive, {name}",
            finding(told, here, f"{len(runs)} passages", side="at", of=known[f"{key}_mean"]),
        )


def _attention(mem: pd.DataFrame, plain: pd.DataFrame, kin: str) -> Found:
    """How much of all attention goes to mem, and to the first token of plain text."""
    said = numbers.published("attention_mass")
    for known in said[said["model"] == kin].to_dict("records"):
        for name, column, shares in (("mem", "mem", mem), ("the first token", "bos", plain)):
            each = shares.groupby("passage")["share"].mean() * 100
            if each.empty:
                continue
            mean, sd = (known[f"{column}_attention_mass_percent_{part}"] for part in ("mean", "std"))
            here, n = (each.mean(), *metrics.bootstrap_ci(each)), f"{len(each)} passages"
            yield f"attention on {name}, %", finding(words.spread(mean, sd), here, n, side="at", of=mean)


def kinds(ledger: pd.DataFrame) -> Counter[str]:
    """How many numbers of a ledger have what beside them."""
    return Counter(ledger["kind"])


def agree(ledger: pd.DataFrame) -> pd.Series:
    """Whether each number of a ledger met its rule."""
    return ledger["verdict"].isin([numbers.WITHIN, numbers.NEAR])


def verdicts_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """How many rows of a ledger met the rule of their kind, of how many, by quantity."""
    rows = {}
    for quantity, some in [*ledger.groupby(ledger["quantity"].str.replace("_", " ")), ("all", ledger)]:
        none, met, of = "none" if quantity == "all" else "", agree(some).groupby(some["kind"]).sum(), kinds(some)
        told = {rule: f"{met[kind]} of {of[kind]}" if of[kind] else none for kind, rule in RULES.items()}
        rows[quantity] = {numbers.NOTHING: of[numbers.NOTHING], "rows": len(some)} | told
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity")


def ledger_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """The published numbers of a ledger that one of ours stands beside: a row each."""
    held = ledger[ledger["ours_n"] > 0]
    ours = [
        f"{row.ours:,.4f}" if row.unit == "share" else f"{row.ours:,.1f} (n = {row.ours_n})"
        for row in held.itertuples()
    ]
    texts = [
        f"{text}, {k:.0f} vectors" if k > 1 else text
        for text, k in zip(_subjects(held)["text"], held["n_vectors"], strict=True)
    ]
    undecided = held["verdict"] == numbers.MISSING
    rule = held["tolerance"] + ": " + agree(held).map({True: "met", False: "not met"}).mask(undecided, "undecided")
    shown = pd.DataFrame({"quantity": _quantities(held), "ours": ours, "published": _published(held)}, held.index)
    shown = shown.assign(text=texts, rule=rule, model=_names(held)).assign(**{"what differs": held["reason"]})
    # What is the same in every row is for the caption.
    return shown.set_index("quantity").drop(columns=[name for name in ("model", "what differs") if alike(shown[name])])


def alike(values: pd.Series) -> bool:
    """Whether there are several, all the same."""
    return len(values) > 1 and len(set(values)) == 1


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


def show_answer(page: Page) -> Answer:
    """How many published numbers are reproduced, by arithmetic and by measurement."""
    of, counts = kinds(page.said), verdicts_table(page.said).loc["all"]
    same, again = (counts[RULES[kind]] for kind in (numbers.ARITHMETIC, numbers.MEASURED))
    measured = page.said[page.said["kind"] == numbers.MEASURED]
    contradicted = (measured["verdict"] == numbers.OUTSIDE).any()
    return Answer(
        page.setting,
        "How many published numbers are reproduced here?",
        f"Of {len(page.said)} published numbers **{same} that follow from others come out the same by arithmetic, and "
        f"by measurement with the same weights {again}**; beside {of[numbers.RELATED]} stand runs of related weights, "
        f"and beside {of[numbers.NOTHING]} nothing.",
        rests=f"Every number in the tables of two papers, of {page.every['model'].nunique()} models; our runs are on "
        f"{words.counted(page.results)} passages",
        sure="contradicted" if contradicted else "holds here only" if len(measured) else "open",
        why="arithmetic shows that the tables fit together, not that the experiments repeat",
    )


def show_verdicts(page: Page) -> Exhibit:
    """Published numbers by what stands beside them."""
    left = kinds(page.said)[numbers.NOTHING]
    caption = (
        f"**Nothing stands beside {left} of {len(page.said)} published numbers.** Cells: how many met the rule at the "
        f"head of the column, of how many. {len(page.every)} rows, since a number of the later paper has one for each "
        "way in which a related run was made here."
    )
    return Exhibit(caption, verdicts_table(page.every))


def show_beside(page: Page) -> Exhibit:
    """The published numbers that a run of ours stands beside."""
    beside = pd.concat([page.progressive, page.attention, page.paper])
    related = beside[beside["kind"] == numbers.RELATED]
    recipes = page.progressive.loc[page.progressive["ours_n"] > 0, "our_recipe"].unique()
    caption = (
        f"**{agree(related).sum()} of {len(related)} comparisons with related runs meet the loose rule; none is a "
        "reproduction.** Ours: mean, n passages; published: mean ± sample standard deviation. Our recipes: "
        f"{'; '.join(recipes)}."
    )
    held = beside[beside["ours_n"] > 0]
    caption += f" Published of {_names(held).iloc[0]}." if alike(_names(held)) else ""
    caption += f" What differs: {held['reason'].iloc[0]}." if alike(held["reason"]) else ""
    return Exhibit(caption, ledger_table(beside))


def show_findings(page: Page) -> Exhibit:
    """Published findings beside our own measurement of each."""
    table = findings(gains(page.results), page.several, *page.shares, page.lm.name)
    alike = table["verdict of the interval"].isin(["the same way", "includes it"]).sum()
    caption = (
        f"**{alike} of {len(table)} findings that could be measured here come out alike, by their 95 % bootstrap "
        "interval.** Alike: it lies wholly on the published side of no effect, or includes the published number (of "
        "vectors: proportion). Weights, texts and mostly the recipe are others. ±: standard deviation; ranges: over "
        "models."
    )
    return Exhibit(caption, table)


def show_bounds(page: Page) -> Exhibit:
    """What follows by arithmetic from published numbers."""
    held, table = page.bounds[page.bounds["ours_n"] > 0], bounds_table(page.bounds)
    other = words.listed(table.index[table["contradicted"] != ""].tolist())
    caption = (
        f"**{agree(held).sum()} of {len(held)} bounds and shares of them come out the same.** Published, and in "
        "brackets computed anew: the bound of 16-bit mem vectors in tokens, and published token gains over it. That "
        f"the tables fit together is all that this shows; the last column says what does not: {other}."
    )
    return Exhibit(caption, Fold(f"Bounds and shares of {len(table)} models", table))


def show_paper_left(page: Page) -> Exhibit:
    """Every capacity, gain and cross-entropy left of the paper."""
    capacities, texts = unmeasured_table(page.paper), unmeasured_table(page.bounds)
    caption = (
        f"**{_left(page.paper, page.bounds)} numbers of the paper.** Mean ± sample standard deviation over passages. "
        "Gains are over runs beyond capacity, accuracy at most 0.99. No deviation is published for capacities and "
        "cross-entropies, and from 32 vectors on no gain."
    )
    return Exhibit(
        caption,
        Fold(f"Capacities and gains: {len(capacities)} rows", capacities),
        Fold(f"Cross-entropies of texts: {len(texts)} rows", texts),
    )


def show_later_left(page: Page) -> Exhibit:
    """Every number left of the later paper."""
    ledgers = page.progressive, page.attention, page.later
    horizons, attention, others = map(unmeasured_table, ledgers)
    return Exhibit(
        f"**{_left(*ledgers)} numbers of the later paper.** Mean ± sample standard deviation. Attention goes to a mem "
        "vector or, without one, to the first token.",
        Fold(f"Horizons and information gains: {len(horizons)} rows", horizons),
        Fold(f"Shares of attention: {len(attention)} rows", attention),
        Fold(f"Temperature, layers, width, dimensions, tokens a stage: {len(others)} rows", others),
    )


def _left(*ledgers: pd.DataFrame) -> int:
    return sum(kinds(ledger)[numbers.NOTHING] for ledger in ledgers)


def glue_numbers(page: Page) -> None:
    """How many numbers are published, and how many of them have which verdict."""
    met = page.every[agree(page.every)]["kind"].value_counts()
    glue(
        published_numbers=f"{len(page.every)}",
        arithmetic_numbers=f"{met.get(numbers.ARITHMETIC, 0)}",
        measured_numbers=f"{met.get(numbers.MEASURED, 0)}",
        related_numbers=f"{met.get(numbers.RELATED, 0)}",
    )

"""What is true of two models: each finding that was measured on both, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.recipes import Recipe
from cramming.results.plans import store_of
from cramming.results.published import published
from cramming.results.rows import gains
from cramming.results.sweep import results
from cramming.results.traces import exact_at, exact_curve, stair
from cramming.sphere import degrees, unit
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, DRAWN, WIDTH, styled
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage

# Whose published numbers stand beside a model's; the first is the base of the instruction-tuned one that runs here.
PUBLISHED_AS = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M", "gemma-3-270m": "google/gemma-3-270m"}
OF_16 = "tokens of 16, difference"  # what the settings of `ARMS` are compared by
SETTING = "model scales"  # rows of the published table that are alike but for the model
# How 16 tokens were crammed in 100 steps: what of the recipe says which it was.
ARMS: dict[str, Mapping[str, object]] = {
    "sphere": {"parametrisation": "sphere", "radius": 1000, "lr": 0.2},
    "short": {"parametrisation": "sphere", "radius": 1, "lr": 0.2},
    "slow": {"parametrisation": "sphere", "radius": 1000, "lr": 0.05},
    "free": {"parametrisation": "free", "init_std": 1000, "lr": 200},
    "published": {"parametrisation": "free", "schedule": "constant", "lr": 0.01},
}


class Measured(NamedTuple):
    """A number of one model with its 95 % interval, and of how many passages or runs."""

    value: float
    low: float
    high: float
    n: int


class Finding(NamedTuple):
    """A claim of the book, and what it would have to be for it to be wrong."""

    claim: str
    what: str  # what was measured, and its unit
    measure: Callable[[Model], Measured | None]  # nothing where the runs are lacking
    null: float
    above: bool  # whether the claim is that it is above null, or below
    digits: int = 2
    label: str = ""  # of its row, where a figure shows it
    quoted: str = ""  # name under which other pages quote it, where it holds on both models


class Model:
    """The runs of one model.

    Args:
        name: Of the model.
        rows: Of the store.
        vectors: The kept vectors by key, each (k, d).
        budget: Token passes at which horizons are counted.

    Attributes:
        horizons: Rows of kind horizon by our recipe within the least of its budgets, with bits, exact_tokens (within
            `budget`) and bits_a_token (of the passage up to its horizon without mem, token 0 left out; NaN where
            nothing else is held).
        longer: Length and limit, in token passes, of the runs with more.
        seeds: Rows of kind cram by `best`, of the same passages from several seeds.
        arms: Of each of `ARMS` that was run: tokens right of 16 after 100 steps, by passage.
    """

    def __init__(self, name: str, rows: pd.DataFrame, vectors: Mapping[str, torch.Tensor], budget: int) -> None:
        self.name, self.vectors, self.budget = name, vectors, budget
        runs = gains(rows).query("recipe == 'horizon'")
        limits = runs["recipe_json"].map(lambda text: Recipe.model_validate_json(text).max_token_passes)
        self.longer = runs.assign(limit=limits).loc[limits > limits.min(), ["limit", "length"]]
        runs = runs[limits == limits.min()]
        plain = [float(np.mean(nats[1:])) if len(nats) > 1 else np.nan for nats in runs["token_nats_without"]]
        self.horizons = runs.assign(
            exact_tokens=exact_at(runs, budget), bits_a_token=[metrics.nats_to_bits(nats) for nats in plain]
        ).set_index("passage", drop=False)
        crams = rows[(rows["kind"] == "cram") & (rows["recipe"] == "best")]
        how = [Recipe.model_validate_json(text) for text in crams["recipe_json"]]
        self.seeds = crams[[recipe.focus > 1 for recipe in how]]
        self.arms = {
            arm: some.set_index("passage")["correct_teacher"]
            for arm, says in ARMS.items()
            if len(some := crams[[r.focus == 1 and all(getattr(r, k) == v for k, v in says.items()) for r in how]])
        }

    @cached_property
    def known(self) -> pd.Series | None:
        """What is published of the model by progressive cramming, if anything."""
        table = published("progressive").query("setting == @SETTING")
        some = table[table["model"] == PUBLISHED_AS.get(self.name)]
        return some.iloc[0] if len(some) else None

    @cached_property
    def cosines(self) -> pd.DataFrame:
        """Of each passage that was crammed from several seeds, mean cosine of its vectors with each other (own), and
        with those of the other passages (other)."""
        points = unit(torch.cat([self.vectors[key] for key in self.seeds["key"]]).double()).cpu().numpy()
        names = self.seeds["passage"].to_numpy()
        first, second = np.triu_indices(len(names), 1)
        pairs = pd.DataFrame({"cosine": (points @ points.T)[first, second], "same": names[first] == names[second]})
        each = pd.concat([pairs.assign(passage=names[end]) for end in (first, second)])
        means = each.pivot_table("cosine", index="passage", columns="same")
        return means.rename(columns={True: "own", False: "other"}).reindex(columns=["own", "other"]).dropna()


class Page(AnyPage):
    """The runs of two plans, each of one model, that the page shows.

    Args:
        scale: Plan of the first model, see `cramming.studies._page.Page`.
        second: Plan of the second. Where its model is under terms that were not accepted on this machine, its runs are
            those of the store.
    """

    def __init__(self, scale: str, second: str) -> None:
        super().__init__("two_models", scale)
        other = results(second, "two_models")
        self.shown = [(scale, self.results), (second, other)]
        limits = {
            how.max_token_passes
            for text in pd.concat([self.results, other]).query("recipe == 'horizon'")["recipe_json"]
            if (how := Recipe.model_validate_json(text)).max_token_passes
        }
        self.budget = min(limits)
        # Passages and seeds that one model alone was run on say nothing of the difference.
        pair = [rows.set_index(["kind", "passage", "seed"], drop=False) for rows in (self.results, other)]
        both = pair[0].index.intersection(pair[1].index)
        self.results = pd.concat([rows[rows.index.isin(both)] for rows in pair], ignore_index=True)
        vectors = self.vectors | store_of(second).vectors()
        self.models = [
            Model(str(name), rows, vectors, self.budget) for name, rows in self.results.groupby("model", sort=False)
        ]

    @cached_property
    def findings(self) -> pd.DataFrame:
        """From `findings`."""
        return findings(self.models)


# What is measured of one model


def _mean(values: pd.Series | np.ndarray) -> Measured | None:
    """Mean with its bootstrap interval, if there is anything."""
    some = np.asarray(values, dtype=float)
    if not len(some):
        return None
    low, high = metrics.bootstrap_ci(some)
    return Measured(float(some.mean()), low, high, len(some))


def over_published(model: Model) -> Measured | None:
    """Exact tokens within the budget over the published mean of progressive cramming."""
    if model.known is None:
        return None
    return _mean(model.horizons["exact_tokens"] / model.known["horizon_tokens_mean"])


def second_half(model: Model) -> Measured | None:
    """Share by which the second half of the budget adds to the exact tokens of the first."""
    half = exact_at(model.horizons, model.budget / 2)
    return _mean((model.horizons["exact_tokens"] / half - 1)[half > 0])


def first_tokens(model: Model) -> Measured | None:
    """Share of the token passes that the first half of the exact tokens took."""
    shares = []
    for i, run in enumerate(model.horizons.itertuples()):
        spent, exact = exact_curve(model.horizons.iloc[[i]])
        if run.exact_tokens:
            shares.append(spent[np.argmax(exact >= run.exact_tokens / 2)] / model.budget)
    return _mean(np.array(shares))


def slope(model: Model) -> Measured | None:
    """Slope of exact tokens on bits a token of the passage without mem, both as logarithms."""
    runs = model.horizons.query("exact_tokens > 1")
    if len(runs) < 3:
        return None
    fit = metrics.power_law(runs["bits_a_token"], runs["exact_tokens"])
    return Measured(fit["exponent"], fit["low"], fit["high"], int(fit["n"]))


def solved(model: Model) -> Measured | None:
    """Share of the crams of 16 tokens that decode exactly, with the interval of Wilson (1927)."""
    n = len(model.seeds)
    if not n:
        return None
    share, z2 = float(model.seeds["exact"].mean()), 1.96**2
    middle, half = share + z2 / (2 * n), math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2)))
    return Measured(share, (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n), n)


def angle(model: Model) -> Measured | None:
    """Degrees between vectors of one text from several seeds, from the mean cosine of each passage."""
    return _mean(model.cosines["own"].map(degrees))


def more_alike(model: Model) -> Measured | None:
    """Mean cosine between vectors of one text less that between those of different texts."""
    return _mean(model.cosines["own"] - model.cosines["other"])


def seeds_over_passages(model: Model) -> Measured | None:
    """Standard deviation of log steps between seeds, over that of the passages' means; passages drawn anew."""
    steps = np.log(model.seeds.pivot_table("steps", index="passage", columns="seed")).dropna().to_numpy()  # (P, S)
    if min(steps.shape) < 2:
        return None

    def ratio(draws: np.ndarray, axis: int = -1) -> np.ndarray:
        some = steps[draws.astype(int)]  # (..., P, S)
        return np.sqrt(some.var(-1, ddof=1).mean(-1) / np.maximum(some.mean(-1).var(-1, ddof=1), 1e-9))

    places = np.arange(len(steps))
    low, high = metrics.bootstrap_ci(places, ratio)
    return Measured(float(ratio(places)), low, high, len(steps))


def _by_arms(claim: str, label: str, other: str, quoted: str = "") -> Finding:
    """That the sphere has more tokens right of 16 after 100 steps than another of `ARMS`, passage by passage."""

    def measure(model: Model) -> Measured | None:
        if not {"sphere", other} <= model.arms.keys():
            return None
        return _mean((model.arms["sphere"] - model.arms[other]).dropna())

    return Finding(claim, OF_16, measure, 0, True, 1, label, quoted)


FINDINGS = (
    Finding(
        "Our recipe finds longer exact prefixes than published for progressive cramming",
        "exact tokens over the published mean (PG-19)",
        over_published, 1, True, 1, quoted="published",
    ),
    Finding(
        "The search ends the horizon, not the vector: the second half of the budget still adds tokens",
        "share added",
        second_half, 0, True, quoted="late",
    ),
    Finding(
        "Late tokens cost more: the first half of the tokens takes less than half of the budget",
        "share of token passes",
        first_tokens, 0.5, False,
    ),
    Finding(
        "Text that the model predicts badly fits fewer tokens",
        "slope on bits a token, logarithms",
        slope, 0, False, quoted="dense",
    ),
    Finding(
        "16 tokens decode exactly, more than three times in four",
        "share of crams",
        solved, 0.75, True,
    ),
    Finding(
        "One text has many vectors, far apart: more than 60 degrees between two seeds",
        "degrees",
        angle, 60, True, 0, quoted="angle",
    ),
    Finding(
        "Vectors of one text are more alike than those of two",
        "cosine, difference",
        more_alike, 0, True, quoted="alike",
    ),
    Finding(
        "The seed moves the number of steps more than the passage does",
        "spread of log steps, ratio",
        seeds_over_passages, 1, True,
    ),
    _by_arms(
        "A long vector is found sooner: S = 1,000 has more tokens right after 100 steps than S = 1",
        "S = 1,000 less S = 1",
        "short",
        "long",
    ),
    _by_arms("Large steps on the sphere pay: a rate of 0.2 has more right than 0.05", "rate 0.2 less 0.05", "slow"),
    _by_arms(
        "The sphere has more right than the published setting", "less published\nsetting", "published", "setting"
    ),
    _by_arms(
        "The sphere has more right than a free vector as long, at a rate in proportion", "less free,\nas long", "free"
    ),
)  # fmt: skip


def findings(models: list[Model]) -> pd.DataFrame:
    """Each of `FINDINGS` that was measured on every model.

    Returns:
        One row a finding and model: claim, what, model, value, low, high, n, digits, holds (1 where the interval lies
        on the claim's side of its null, -1 where it lies on the other, else 0).
    """
    rows = []
    for one in FINDINGS:
        found = {model.name: one.measure(model) for model in models}
        for name, measured in found.items():
            if measured is None or any(other is None for other in found.values()):
                continue
            side = int(measured.low > one.null) - int(measured.high < one.null)
            told = {"claim": one.claim, "what": one.what, "digits": one.digits, "model": name}
            rows.append(told | measured._asdict() | {"holds": side if one.above else -side})
    columns = ["claim", "what", "digits", "model", *Measured._fields, "holds"]
    return pd.DataFrame(rows, columns=columns)


def verdict(holds: pd.Series) -> str:
    """What the models say together, from `holds` by model."""
    if (holds == 1).all():
        return "both"
    if (holds == 1).any():
        [*names] = holds.index[holds == 1]
        return f"{words.listed(names)} only; {'against' if (holds == -1).any() else 'open'} on the other"
    return "neither" if (holds == -1).all() else "open"


def findings_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`findings` as a page shows them: one row a claim, its number on either model, and of which it is true."""
    rows = {}
    for claim, some in frame.groupby("claim", sort=False):
        numbers = {
            row.model: f"{words.within(row.value, row.low, row.high, row.digits)}, n = {row.n}"
            for row in some.itertuples()
        }
        rows[f"{claim} ({some['what'].iloc[0]})"] = {
            "true of": verdict(some.set_index("model")["holds"]), **numbers
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("claim (what was measured)")


def models_table(models: list[Model], rows: pd.DataFrame) -> pd.DataFrame:
    """The two models and what a vector of each holds, one column a model."""
    columns = {}
    for model in models:
        runs, facts = model.horizons, rows[rows["model"] == model.name].iloc[0]
        bound = metrics.theoretical_capacity(facts["width"], facts["vocab_size"])
        known, bits = model.known, runs["bits"]
        longer = {
            f"exact tokens within {limit:,} token passes": f"{words.spread(some.mean(), some.std())}, n = {len(some)}"
            for limit, some in model.longer.groupby("limit")["length"]
        }
        columns[model.name] = {
            "numbers of a vector": f"{facts['width']:,}",
            "vocabulary, tokens": f"{facts['vocab_size']:,}",
            "bits a token, no mem, no start token": words.spread(
                runs["bits_a_token"].mean(), runs["bits_a_token"].std(), 2
            ),
            f"exact tokens within {model.budget:,} token passes": words.spread(
                runs["exact_tokens"].mean(), runs["exact_tokens"].std()
            ),
            "published, progressive, PG-19": "none"
            if known is None
            else words.spread(known["horizon_tokens_mean"], known["horizon_tokens_std"]),
            **longer,
            "exact tokens at the end of the run": words.spread(runs["length"].mean(), runs["length"].std()),
            "information gain over that, bits": words.spread(bits.mean(), bits.std(), 0),
            "of it for each number, bits": words.mean(bits / facts["width"], 2),
            "of the 16-bit bound, tokens": f"{runs['length'].mean() / bound:.1%}",
            "smallest margin, logits": f"{runs['margin'].min():.2g}",
            "n": f"{len(runs)}",
        }
    order = sorted((list(one) for one in columns.values()), key=len)[-1]  # of who has the most rows
    return pd.DataFrame(columns).reindex(order).fillna("not run").rename_axis(" ")


@styled
def tokens_against_passes_figure(models: list[Model]) -> Figure:
    """Exact tokens against token passes: one thin line a passage, the mean of each model in bold, and at the right
    edge what is published of it."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.2))
    lines = {}
    for model, colour, style, mark in zip(models, COLOURS, ("-", "--"), ("o", "s"), strict=False):
        grid = np.linspace(0, model.budget, 200)
        each = [stair(*exact_curve(model.horizons.iloc[[i]]), grid) for i in range(len(model.horizons))]
        for line in each:
            axis.plot(grid, line, color=colour, alpha=0.22, linewidth=0.8)
        label = f"{model.name} (n = {len(model.horizons)})"
        axis.plot(grid, np.mean(each, axis=0), style, color=colour, linewidth=2.6, label=label)
        lines[model.name] = pd.DataFrame({"token_passes": grid, "tokens": np.mean(each, axis=0)})
        if model.known is not None:
            mean, sd = model.known["horizon_tokens_mean"], model.known["horizon_tokens_std"]
            place = model.budget * (1.04 if model is models[0] else 1.08)
            axis.errorbar([place], [mean], yerr=[sd], fmt=mark, color=colour, capsize=4, markeredgecolor="black",
                          label="published, progressive")  # fmt: skip
    axis.set(xlabel="token passes spent on a passage", ylabel="exact tokens", xlim=(0, None), ylim=(0, None))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    setattr(figure, DRAWN, {"mean": lines})
    return figure


@styled
def findings_figure(frame: pd.DataFrame) -> Figure:
    """Tokens right of 16 after 100 steps of each arm less another, both models: marks with their intervals."""
    some = frame[frame["what"] == OF_16]
    claims, labels = list(dict.fromkeys(some["claim"])), {one.claim: one.label for one in FINDINGS}
    figure, axis = plt.subplots(figsize=(WIDTH, 1.3 + 0.75 * len(claims)))
    for i, (name, rows) in enumerate(some.groupby("model", sort=False)):
        at = [claims.index(claim) + (i - 0.5) * 0.3 for claim in rows["claim"]]
        spans = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
        axis.errorbar(rows["value"], at, xerr=spans, fmt="os"[i], color=COLOURS[i], markeredgecolor="black", capsize=4,
                      label=str(name))  # fmt: skip
    axis.axvline(0, color="#888888", linewidth=1)
    axis.set(xlabel="tokens right of 16, difference", ylim=(len(claims) - 0.4, -0.6))
    axis.set_yticks(range(len(claims)), [labels[claim] for claim in claims])
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


# What the page says of it


def show_answer(page: Page) -> Answer:
    """How many findings hold on both models, and which model holds more."""
    frame, (first, *_) = page.findings, page.models
    of, both = frame["claim"].nunique(), _count(frame, "both")
    held = words.listed(
        [
            f"{words.spread(exact.mean(), exact.std(), 0)} tokens on {model.name}"
            for model in page.models
            for exact in [model.horizons["exact_tokens"]]
        ]
    )
    return Answer(
        page.setting,
        "Is it true of one model only?",
        f"**Of {of} findings measured on two models, {both} hold on both**, and within {page.budget:,} token passes "
        f"one vector gives back {held}, with no constant of the recipe tuned on the second.",
        rests=f"{len(first.horizons)} passages of novels, the same for both, and {first.seeds['passage'].nunique()} "
        f"passages of {words.spelled(first.seeds['length'])} tokens from {first.seeds['seed'].nunique()} seeds and in "
        f"{len(first.arms)} settings",
        sure="holds here only",
        why="two small models, both with weights of a few bits turned back",
    )


def show_tokens(page: Page) -> Exhibit:
    """Exact tokens of both models as token passes are spent."""
    ratios = [(model, over_published(model)) for model in page.models]
    told = words.listed(
        [f"{words.within(*ratio[:3], 1)} times on {model.name}" for model, ratio in ratios if ratio is not None]
    )
    caption = (
        f"**Within {page.budget:,} token passes our recipe reaches {told or 'no known multiple of'} the published "
        "mean.** Thin: passages; bold: mean. Tokens right at the true ones before, by more than 0.05 logits; ends are "
        "certified by decoding. Published: progressive cramming, PG-19, mean ± standard deviation, base models."
    )
    return Exhibit(caption, tokens_against_passes_figure(page.models), models_table(page.models, page.results))


def show_findings(page: Page) -> Exhibit:
    """The findings, each with its number on either model."""
    frame = page.findings
    caption = (
        f"**{_count(frame, 'both')} of {frame['claim'].nunique()} findings hold on both models.** Mean with 95 % "
        "interval, n passages or runs. A claim is true of a model where its interval lies whole on the claim's side; "
        "open where the interval reaches across."
    )
    return Exhibit(caption, findings_table(frame))


def show_arms(page: Page) -> Exhibit:
    """What makes the sphere work, on either model."""
    n = words.range(page.findings.loc[page.findings["what"] == OF_16, "n"])
    rights = [
        f"{words.spread(some.mean(), some.std())} right on {model.name}"
        for model in page.models
        if (some := model.arms.get("sphere")) is not None
    ]
    caption = (
        f"**The sphere finds 16 tokens within 100 steps: {words.listed(rights)}.** Differences between settings, "
        f"passage by passage: mean with 95 % interval, n = {n}. Published setting: mem free, from noise of the "
        "embedding table's spread, rate 0.01."
    )
    table = Fold("Tokens right of 16 after 100 steps, by setting", _arms_table(page.models))
    return Exhibit(caption, findings_figure(page.findings), table)


def _arms_table(models: list[Model]) -> pd.DataFrame:
    """Tokens right and runs with all of them right, one row a setting."""
    columns = {
        model.name: {
            arm: f"{words.spread(some.mean(), some.std())}, all in {int((some == some.max()).sum())} of {len(some)}"
            for arm, some in model.arms.items()
        }
        for model in models
    }
    return pd.DataFrame(columns).rename_axis("setting")


def _count(frame: pd.DataFrame, which: str) -> int:
    """Claims of that verdict."""
    return sum(verdict(some.set_index("model")["holds"]) == which for _, some in frame.groupby("claim"))


def glue_numbers(page: Page) -> None:
    """What other pages quote: how many findings hold on both models, and of some of these the number on either."""
    frame, quoted = page.findings, {}
    for one in FINDINGS:
        some = frame[frame["claim"] == one.claim].set_index("model")
        if one.quoted and len(some) and verdict(some["holds"]) == "both":
            quoted[f"both_{one.quoted}"] = words.listed([f"{value:.{one.digits}f}" for value in some["value"]])
    glue(findings_both=str(_count(frame, "both")), findings_measured=str(frame["claim"].nunique()), **quoted)

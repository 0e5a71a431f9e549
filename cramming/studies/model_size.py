"""Information gain against model size: of the published models, and of one model cut and drowned in noise."""

from __future__ import annotations

from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming.decode import without_mem
from cramming.errors import CrammingError
from cramming.metrics import bootstrap_ci, nats_to_bits, power_law
from cramming.models import layers, load
from cramming.results.published import hub_id, published
from cramming.results.rows import gains
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, source_marks, styled
from cramming.studies._page import Exhibit, glue
from cramming.studies._page import Page as AnyPage

# By the beginning of a hub id.
FAMILY_OF = {
    "EleutherAI/pythia": "Pythia",
    "meta-llama/": "Llama",
    "princeton-nlp/Sheared-LLaMA": "Llama",
    "state-spaces/mamba": "Mamba",
}
FAMILY_MARKS = {
    "Pythia": (COLOURS[0], "o", "-"),
    "Llama": (COLOURS[1], "s", "--"),
    "Mamba": (COLOURS[2], "^", "-."),
    "other": (COLOURS[3], "D", "none"),
}


class Page(AnyPage):
    """Published models by size, and one model beside changed copies of it.

    Args:
        scale: Plan of the changed models, see `cramming.studies._page.Page`.
        scored_tokens: Tokens of each passage scored without mem.

    Attributes:
        whole: The results of the model itself.
        sizes, fits: From `sizes` and `size_fits`.
        r2: R² of the fits by family and gain, a column a size.
        alike: The published models of the commonest width.
    """

    def __init__(self, scale: str, scored_tokens: int) -> None:
        super().__init__("model_size", scale)
        self.scored_tokens, names = scored_tokens, self.plan.models
        self.results = self.results.sort_values(
            ["model", "passage"], key=lambda column: column.map(names.index) if column.name == "model" else column
        )
        self.shown = [(scale, self.results)]
        self.whole = self.results[~self.results["model"].str.contains("@")]
        self.sizes = sizes()
        self.fits = size_fits(self.sizes)
        self.r2 = self.fits.pivot_table("r2", index=["family", "gain"], columns="against")
        self.alike = self.sizes[self.sizes["width"] == self.sizes["width"].mode().max()]

    @cached_property
    def cuts(self) -> pd.DataFrame:
        """From `cuts`, in the order of the plan."""
        return cuts(self.results, sizes_and_bits(self.results, self.scored_tokens))

    @cached_property
    def entire(self) -> pd.Series:
        """The row of the whole model in it."""
        return self.cuts.set_index("change").loc["whole"]


def sizes_and_bits(results: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """How large each model is, and how well it predicts the passages without mem: the same tokens for every model.

    Args:
        results: Rows of the store, of several models.
        tokens: How many of each passage, from its start; of shorter ones all.

    Returns:
        One row a model and passage: model, parameters (distinct numbers, so that a table that is also the head counts
        once), layers, passage, bits (mean cross-entropy a token, token 0 left out).

    Raises:
        CrammingError: If tokens is below 2, or a model cannot be loaded.
    """
    if tokens < 2:
        raise CrammingError(f"tokens is {tokens}: token 0 is not scored, so take 2 or more")
    rows = []
    for (name, dtype), some in results.groupby(["model", "dtype"], sort=False):
        lm = load(str(name), dtype=str(dtype))
        parameters, depth = lm.model.num_parameters(), len(layers(lm.model))
        for run in some.drop_duplicates("passage").itertuples():
            nats, _ = without_mem(lm, list(run.token_ids[:tokens]))
            rows.append((name, parameters, depth, run.passage, nats_to_bits(nats[1:].mean())))
    return pd.DataFrame(rows, columns=["model", "parameters", "layers", "passage", "bits"])


def sizes() -> pd.DataFrame:
    """The published models with their sizes and gains on PG-19, one mem vector.

    Returns:
        One row a model, in the paper's order: model, family (Pythia, Llama, Mamba, other), parameters (billions,
        nominal), width, capacity (tokens), token_gain and token_gain_sd (tokens), bits and bits_sd (information gain).
    """
    models, capacity = published("models"), published("capacity").query("source == 'pg19'")
    said = capacity.set_index(capacity["model"].map(hub_id)).loc[models["hub_id"]].reset_index(drop=True)
    return pd.DataFrame(
        {
            "model": models["name"],
            "family": [
                next((family for start, family in FAMILY_OF.items() if name.startswith(start)), "other")
                for name in models["hub_id"]
            ],
            "parameters": models["params_billion"],
            "width": models["hidden_size"],
            "capacity": said["decoding_capacity_tokens"],
            "token_gain": said["token_gain_mean"],
            "token_gain_sd": said["token_gain_std"],
            "bits": said["information_gain_nats_mean"].map(nats_to_bits),
            "bits_sd": said["information_gain_nats_std"].map(nats_to_bits),
        }
    )


def size_fits(sizes: pd.DataFrame) -> pd.DataFrame:
    """Power laws of the gains in parameters and in width, for each family of three models or more and for all.

    Args:
        sizes: From `sizes`.

    Returns:
        One row a family, gain and size: family (or all), gain (bits, token_gain), against (parameters, width), and
        what `cramming.metrics.power_law` returns.
    """
    rows = [
        {"family": family, "gain": gain, "against": size, **power_law(some[size], some[gain])}
        for family, some in [*sizes.groupby("family", sort=False), ("all", sizes)]
        if len(some) >= 3
        for gain in ("bits", "token_gain")
        for size in ("parameters", "width")
    ]
    return pd.DataFrame(rows)


def cuts(results: pd.DataFrame, about: pd.DataFrame) -> pd.DataFrame:
    """Horizons in a model and in changed copies of it, on the same passages.

    Args:
        results: Rows of kind horizon, of a model and of copies named after it with an @.
        about: From `sizes_and_bits`, of the same models.

    Returns:
        One row a model, in the order of the results: model, change (whole, or what was done), parameters, layers, n
        (passages), horizon, horizon_sd, least, most (tokens), none (passages without an exact token), bits_without and
        bits_without_sd (bits a token without mem), bits and bits_sd (information gain), bits_capped and bits_capped_sd
        (see `gains`), token_gain and token_gain_sd (tokens), and against the whole model, passage by passage, mean
        and 95 % bootstrap interval of horizon and information gain: horizon_difference, _low, _high, bits_difference,
        _low, _high; nan for the whole model. Over the mean of the whole model: horizon_share, bits_share,
        bits_capped_share; nan if that is 0.

    Raises:
        CrammingError: If the whole model is not among them.
    """
    runs = gains(results).rename(columns={"length": "horizon"})
    whole = runs[~runs["model"].str.contains("@")].set_index("passage")
    if whole.empty:
        raise CrammingError(f"the results lack the whole model: they have {', '.join(sorted(set(runs['model'])))}")
    rows = []
    for name, some in runs.groupby("model", sort=False):
        facts = about[about["model"] == name]
        row = {
            "model": name,
            "change": change_in_words(str(name)),
            "parameters": facts["parameters"].iloc[0],
            "layers": facts["layers"].iloc[0],
            "n": len(some),
            "least": some["horizon"].min(),
            "most": some["horizon"].max(),
            "none": (some["horizon"] == 0).sum(),
        }
        measured = {gain: some[gain] for gain in ("horizon", "bits", "bits_capped", "token_gain")}
        for what, each in {**measured, "bits_without": facts["bits"]}.items():
            row |= {what: each.mean(), f"{what}_sd": each.std()}
        for what in ("horizon", "bits"):
            apart = (some.set_index("passage")[what] - whole[what]).dropna()
            known = row["change"] != "whole" and len(apart)
            values = (apart.mean(), *bootstrap_ci(apart)) if known else [np.nan] * 3
            row |= dict(zip((f"{what}_difference", f"{what}_low", f"{what}_high"), values, strict=True))
        for what in ("horizon", "bits", "bits_capped"):
            row[f"{what}_share"] = row[what] / whole[what].mean() if whole[what].mean() > 0 else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def change_in_words(model: str) -> str:
    """What the name of a model says was done to it: ``first 5 layers`` for ``smollm2-135m@first-5``, or ``whole``."""
    kind, _, what = model.partition("@")[2].partition("-")
    if kind == "first":
        return "first layer" if what == "1" else f"first {what} layers"
    return f"{kind} {what}".strip() or "whole"


def size_fit_table(fits: pd.DataFrame) -> pd.DataFrame:
    """`size_fits` as a page shows it: one row a family and gain, exponent and R² against parameters and width."""
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for fit in fits.itertuples():
        key = (str(fit.family), {"bits": "information", "token_gain": "tokens"}[str(fit.gain)])
        shown = rows.setdefault(key, {"models": int(fit.n)})
        shown[f"exponent of {fit.against} (95 %)"] = words.within(fit.exponent, fit.low, fit.high, 2)
        shown[f"R², {fit.against}"] = f"{fit.r2:.3f}"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["family", "gain in"])


def cut_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cuts` as a page shows it: one row a model."""

    def spread(what: str, digits: int = 1) -> list[str]:
        return [words.spread(*pair, digits) for pair in zip(frame[what], frame[f"{what}_sd"], strict=True)]

    def against(what: str, digits: int = 1) -> list[str]:
        found = (frame[f"{what}_{part}"] for part in ("difference", "low", "high"))
        return [words.interval(mean, low, high, digits) for mean, low, high in zip(*found, strict=True)]

    return pd.DataFrame(
        {
            "model": frame["change"],
            "parameters, millions": frame["parameters"].map(lambda n: f"{n / 1e6:,.1f}"),
            "layers": frame["layers"],
            "bits a token without mem": spread("bits_without"),
            "passages": frame["n"],
            "exact horizon, tokens": spread("horizon"),
            "range": [f"{row.least} to {row.most}" for row in frame.itertuples()],
            "against the whole, tokens": against("horizon"),
            "token gain, tokens": spread("token_gain"),
            "information gain, bits": spread("bits", 0),
            "against the whole, bits": against("bits", 0),
            "against a uniform guess at most": spread("bits_capped", 0),
        }
    ).set_index("model")


@styled
def sizes_figure(sizes: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Information gain against parameters and against width, one mark a published model, power laws by family.

    Args:
        sizes: `sizes`.
        fits: `size_fits` of the same.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.4), sharey=True)
    laws = fits[fits["gain"] == "bits"].set_index(["family", "against"])
    for axis, size, label, ticks in (
        (axes[0], "parameters", "parameters, billions, nominal", (0.1, 0.3, 1, 3, 10)),
        (axes[1], "width", "width d, numbers", sorted(set(sizes["width"]))),
    ):
        for family, (colour, marker, style) in FAMILY_MARKS.items():
            some = sizes[sizes["family"] == family]
            label_of = f"{family} (n = {len(some)})"
            if (family, size) in laws.index:
                law, ends = laws.loc[(family, size)], np.array([some[size].min(), some[size].max()])
                axis.plot(ends, law["factor"] * ends ** law["exponent"], color=colour, linestyle=style, linewidth=1.6)
                label_of += f", exponent {law['exponent']:.2f}"
            axis.errorbar(some[size], some["bits"], yerr=some["bits_sd"], color=colour, marker=marker, markersize=8,
                          linestyle="none", markeredgecolor="black", markeredgewidth=0.5, elinewidth=1,
                          capsize=2)  # fmt: skip
            axis.plot([], [], color=colour, marker=marker, linestyle=style, label=label_of, markeredgecolor="black",
                      markeredgewidth=0.5)  # fmt: skip
        law, ends = laws.loc[("all", size)], np.array([sizes[size].min(), sizes[size].max()])
        axis.plot(ends, law["factor"] * ends ** law["exponent"], color="#777777", linestyle=":", linewidth=1.6,
                  label=f"all {law['n']:.0f}, exponent {law['exponent']:.2f}")  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel=f"{label} (log scale)")
        axis.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], rotation=45 if size == "width" else 0)
        axis.minorticks_off()
        axis.legend(fontsize="x-small", loc="upper left")
    for row in sizes[sizes["family"] == "other"].itertuples():
        axes[0].annotate(row.model, (row.parameters, row.bits), (-8, 0), textcoords="offset points",
                         fontsize="x-small", ha="right", va="center")  # fmt: skip
    low, high = (sizes["bits"] - sizes["bits_sd"]).min(), (sizes["bits"] + sizes["bits_sd"]).max()
    axes[0].set(ylabel="information gain, bits (log scale)", ylim=(low * 0.8, high * 3))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return figure


@styled
def cuts_figure(runs: pd.DataFrame) -> Figure:
    """Exact horizon and information gain of every passage, by model, with the mean of each model.

    Args:
        runs: `cramming.results.rows.gains`, of a model and of changed copies, in the order to show them.
    """
    models, sources = list(runs["model"].unique()), source_marks(runs["source"])
    # Each source in two rows of its own, so that equal numbers can be seen.
    rows_of = dict(zip(sources, np.linspace(-0.14, 0.08, len(sources)), strict=True))
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 0.5 * len(models) + 1.3), sharey=True)
    for axis, column, label in zip(
        axes, ("length", "bits"), ("exact horizon, tokens", "information gain, bits"), strict=True
    ):
        for place, name in enumerate(models):
            some = runs[runs["model"] == name]
            for source, (colour, marker) in sources.items():
                each = np.sort(some.loc[some["source"] == source, column].to_numpy())
                rows = place + rows_of[source] + (np.arange(len(each)) % 2) * 0.06
                axis.scatter(each, rows, color=colour, marker=marker, s=32, edgecolor="black", linewidth=0.5,
                             label=source if place == 0 else None)  # fmt: skip
            axis.plot([some[column].mean()] * 2, [place - 0.3, place + 0.3], color="black", linewidth=2,
                      label="mean" if place == 0 else None)  # fmt: skip
        axis.set(xlabel=label, xlim=(min(0, runs[column].min()) - 0.02 * runs[column].max(), None))
        axis.grid(visible=False, axis="y")
    axes[0].set_yticks(range(len(models)), [change_in_words(name) for name in models])
    axes[0].set(ylim=(len(models) - 0.5, -0.5))
    axes[0].legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=len(sources) + 1)
    return figure


def show_sizes(page: Page) -> Exhibit:
    """Published gains against parameters and width."""
    alike, explained = page.alike, page.r2.loc["all", "bits"]
    caption = (
        "**Within each family larger models gain more bits; across families size says less: over all "
        f"{len(page.sizes)} models, parameters explain {explained['parameters']:.0%} of the variance of the "
        f"logarithm, and width {explained['width']:.0%}.** Information gain of one mem vector on PG-19, as published "
        "(Kuratov et al.; mean ± standard deviation over runs beyond capacity, number of runs not published), against "
        "nominal parameters and against width. Lines: least-squares power laws of each family of three models or "
        f"more, dotted for all. The {len(alike)} models of width {alike['width'].iloc[0]:,} have "
        f"{alike['parameters'].min():g} to {alike['parameters'].max():g} billion parameters, and gain "
        f"{alike['bits'].min():,.0f} to {alike['bits'].max():,.0f} bits."
    )
    return Exhibit(caption, sizes_figure(page.sizes, page.fits))


def show_fits(page: Page) -> Exhibit:
    """Their power laws, family by family."""
    logs, r2 = np.log(page.sizes[["parameters", "width"]]), page.r2
    together = [some.corr().iloc[0, 1] for _, some in logs.groupby(page.sizes["family"]) if len(some) >= 3]
    caption = (
        f"**Width explains more than parameters in {(r2['width'] > r2['parameters']).sum()} of the {len(r2)} fits, "
        "and the two can hardly be told apart.** Power laws, gain = factor × size ^ exponent, fitted by least squares "
        "to the logarithms of the published means; in brackets the 95 % interval from drawing models anew, rough for "
        "so few; R² is the share of the variance of the logarithm that is explained. *Llama* has Sheared-LLaMA in it. "
        f"Families with fewer than three models (OPT, OLMo) have no fit of their own. Over the {len(logs)} models the "
        f"logarithms of parameters and width have a correlation of {logs.corr().iloc[0, 1]:.3f}; within families, of "
        f"{min(together):.3f} or more. So this says nothing of which of the two it is: a wider vector, or a better "
        "model to read it."
    )
    return Exhibit(caption, size_fit_table(page.fits))


def show_cuts_table(page: Page) -> Exhibit:
    """The model and its changed copies."""
    vocabulary = page.whole["vocab_size"].iloc[0]
    counted = " and ".join(f"{n} {source}" for source, n in page.whole["source"].value_counts().items())
    caption = (
        "**The model whole, cut to its first layers, and with a part replaced by noise.** "
        f"{words.setting(page.whole)}, and copies of it; exact horizons within {words.budgets(page.results)} a "
        f"passage, {counted} passages, the same for each. Parameters are counted, tied ones once. *Bits a token "
        f"without mem*: mean over the first {page.scored_tokens} tokens of each passage but token 0; the lower, the "
        "better the language model. Information gain leaves token 0 out; *against a uniform guess at most*: a model "
        f"worse than guessing among its {vocabulary:,} tokens ({np.log2(vocabulary):.1f} bits each) also gains bits "
        "by being cured of its errors, and these are left out here. Mean ± sample standard deviation over passages; "
        "*against the whole*: mean difference passage by passage, with its 95 % bootstrap interval. "
        f"{words.cost(page.results)}."
    )
    return Exhibit(caption, cut_table(page.cuts))


def show_cuts_figure(page: Page) -> Exhibit:
    """The same, passage by passage."""
    runs, entire = gains(page.results), page.entire
    changed = page.cuts.query("change != 'whole'").sort_values("horizon")
    best, worst = changed.iloc[-1], changed.iloc[0]
    apart = (changed["horizon_low"] > 0) | (changed["horizon_high"] < 0)
    caption = (
        f"**Of {len(changed)} changed models, {(changed['horizon'] < entire.horizon).sum()} hold fewer tokens than "
        f"the whole one, {(changed['bits'] < entire.bits).sum()} gain fewer bits.** One mark a passage, black: mean "
        f"of a model. The whole holds {entire.horizon:.1f} tokens, the changed ones from {worst.horizon:.1f} "
        f"({worst.change}) to {best.horizon:.1f} ({best.change}); for {apart.sum()} of the {len(changed)} the "
        f"interval of the difference leaves out 0. Without mem the whole needs {entire.bits_without:.1f} bits a "
        f"token. {page.cuts['none'].sum()} of {len(runs)} runs held no token. {words.setting(page.whole)}, "
        f"{words.budgets(page.results)} a passage; n = {entire.n} passages a model."
    )
    return Exhibit(caption, cuts_figure(runs))


def show_claim(page: Page) -> Exhibit:
    """What is published and what was measured, in words."""
    entire, change, bits = page.entire, page.cuts["change"], page.alike["bits"]
    shallow = page.cuts[change.str.startswith("first")].sort_values("layers").iloc[0]
    drowned = page.cuts[change.str.startswith("random")]
    shares = ", ".join(f"{row.horizon_share:.0%} ({row.change})" for row in drowned.itertuples())
    return Exhibit(
        "Published, size goes with gain in every family: a power law in width explains "
        f"{page.r2['width'].drop(index='all').min():.0%} or more of the variance. Across families it does not "
        f"suffice, since at one width and about one size bits differ by a factor of {bits.max() / bits.min():.1f}. "
        f"Measured here, at one width: with {shallow.layers} of {entire.layers} layers "
        f"({shallow.parameters / entire.parameters:.0%} of the parameters) a vector holds {shallow.horizon_share:.0%} "
        f"of the tokens of the whole model and {shallow.bits_share:.1f} times its bits "
        f"({shallow.bits_capped_share:.1f} times, against a uniform guess at most), although without mem that model "
        f"needs {shallow.bits_without:.1f} bits a token, the whole {entire.bits_without:.1f}. With noise for a part, "
        f"the tokens are {shares} of the whole model's, the bits {drowned['bits_share'].min():.1f} to "
        f"{drowned['bits_share'].max():.1f} times."
    )


def glue_numbers(page: Page) -> None:
    """Horizons of the whole model and of the one with noise for layers."""
    noise, entire = page.cuts.set_index("change").loc["random layers"], page.entire
    glue(
        noise_tokens=f"{noise['horizon']:.0f} ± {noise['horizon_sd']:.0f}",
        whole_tokens=f"{entire['horizon']:.0f} ± {entire['horizon_sd']:.0f}",
        n_cuts=f"{entire['n']}",
    )

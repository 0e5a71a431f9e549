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
from cramming.studies._figures import COLOURS, WIDTH, source_marks, styled
from cramming.studies._page import Answer, Exhibit, glue
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
    def copies(self) -> pd.DataFrame:
        """From `copies`, in the order of the plan."""
        return copies(self.results, sizes_and_bits(self.results, self.scored_tokens))

    @cached_property
    def setting(self) -> str:
        """What the whole model was measured with, and its copies by name."""
        copies = words.listed([change_in_words(name) for name in self.plan.models if "@" in name])
        return f"{words.setting_line(self.whole)}; copies of it: {copies}"

    @cached_property
    def entire(self) -> pd.Series:
        """The row of the whole model in it."""
        return self.copies.set_index("change").loc["whole"]

    @cached_property
    def noise(self) -> pd.Series:
        """The row of the copy with noise for its layers."""
        return self.copies.set_index("change").loc["random layers"]

    @cached_property
    def changed(self) -> pd.DataFrame:
        """The rows of all copies."""
        return self.copies[self.copies["change"] != "whole"]


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


def copies(results: pd.DataFrame, about: pd.DataFrame) -> pd.DataFrame:
    """Horizons in a model and in changed copies of it, on the same passages.

    Args:
        results: Rows of kind horizon, of a model and of copies named after it with an @.
        about: From `sizes_and_bits`, of the same models.

    Returns:
        One row a model, in the order of the results: change (whole, or what was done), parameters, layers, n
        (passages), horizon and horizon_sd (tokens), bits_without and bits_without_sd (bits a token without mem), bits
        and bits_sd (information gain), bits_capped and bits_capped_sd (see `gains`), and against the whole model,
        passage by passage, mean and 95 % bootstrap interval of horizon and information gain: horizon_difference,
        _low, _high, bits_difference, _low, _high; nan for the whole model.

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
            "change": change_in_words(str(name)),
            "parameters": facts["parameters"].iloc[0],
            "layers": facts["layers"].iloc[0],
            "n": len(some),
        }
        measured = {what: some[what] for what in ("horizon", "bits", "bits_capped")}
        for what, each in {**measured, "bits_without": facts["bits"]}.items():
            row |= {what: each.mean(), f"{what}_sd": each.std()}
        for what in ("horizon", "bits"):
            apart = (some.set_index("passage")[what] - whole[what]).dropna()
            known = row["change"] != "whole" and len(apart)
            values = (apart.mean(), *bootstrap_ci(apart)) if known else [np.nan] * 3
            row |= dict(zip((f"{what}_difference", f"{what}_low", f"{what}_high"), values, strict=True))
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
        key = (f"{fit.family} (n = {fit.n})", {"bits": "information", "token_gain": "tokens"}[str(fit.gain)])
        shown = rows.setdefault(key, {})
        shown[f"exponent of {fit.against} (95 %)"] = words.within(fit.exponent, fit.low, fit.high, 2)
        shown[f"R², {fit.against}"] = f"{fit.r2:.3f}"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["models", "gain in"])


def copies_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`copies` as a page shows it: one row a model."""

    def spread(what: str, digits: int = 1) -> list[str]:
        return [words.spread(*pair, digits) for pair in zip(frame[what], frame[f"{what}_sd"], strict=True)]

    def against(what: str, digits: int = 1) -> list[str]:
        found = (frame[f"{what}_{part}"] for part in ("difference", "low", "high"))
        return [words.interval(mean, low, high, digits) for mean, low, high in zip(*found, strict=True)]

    return pd.DataFrame(
        {
            "model": [f"{row.change} ({row.parameters / 1e6:,.1f} million)" for row in frame.itertuples()],
            "exact horizon, tokens": spread("horizon"),
            "against the whole, tokens": against("horizon"),
            "information gain, bits": spread("bits", 0),
            "against the whole, bits": against("bits", 0),
            "capped at a uniform guess": spread("bits_capped", 0),
            "bits a token without mem": spread("bits_without"),
        }
    ).set_index("model")


@styled
def sizes_figure(sizes: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Information gain against parameters and against width, one mark a published model, power laws by family.

    Args:
        sizes: `sizes`.
        fits: `size_fits` of the same.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 8), sharey=True)
    laws = fits[fits["gain"] == "bits"].set_index(["family", "against"])
    for axis, size, label, ticks in (
        (axes[0], "parameters", "nominal parameters, billions", (0.1, 0.3, 1, 3, 10)),
        (axes[1], "width", "width d, numbers", sorted(set(sizes["width"]))),
    ):
        for family, (colour, marker, style) in FAMILY_MARKS.items():
            some = sizes[sizes["family"] == family]
            if (family, size) in laws.index:
                law, ends = laws.loc[(family, size)], np.array([some[size].min(), some[size].max()])
                axis.plot(ends, law["factor"] * ends ** law["exponent"], color=colour, linestyle=style, linewidth=1.6)
            axis.errorbar(some[size], some["bits"], yerr=some["bits_sd"], color=colour, marker=marker, markersize=8,
                          linestyle="none", markeredgecolor="black", markeredgewidth=0.5, elinewidth=1,
                          capsize=2)  # fmt: skip
            axis.plot([], [], color=colour, marker=marker, linestyle=style, label=f"{family} (n = {len(some)})",
                      markeredgecolor="black", markeredgewidth=0.5)  # fmt: skip
        law, ends = laws.loc[("all", size)], np.array([sizes[size].min(), sizes[size].max()])
        axis.plot(ends, law["factor"] * ends ** law["exponent"], color="#777777", linestyle=":", linewidth=1.6,
                  label=f"all (n = {law['n']:.0f})")  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel=f"{label} (log scale)")
        axis.set(ylabel="information gain, bits (log scale)")
        axis.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        axis.set_yticks((500, 1000, 2000, 5000))
        axis.minorticks_off()
    for row in sizes[sizes["family"] == "other"].itertuples():
        axes[0].annotate(row.model, (row.parameters, row.bits), (-8, 0), textcoords="offset points",
                         fontsize="small", ha="right", va="center")  # fmt: skip
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return figure


@styled
def copies_figure(runs: pd.DataFrame) -> Figure:
    """Exact horizon and information gain of every passage, by model, with the mean of each model.

    Args:
        runs: `cramming.results.rows.gains`, of a model and of changed copies, in the order to show them.
    """
    models, sources = list(runs["model"].unique()), source_marks(runs["source"])
    # Each source in two rows of its own, so that equal numbers can be seen.
    rows_of = dict(zip(sources, np.linspace(-0.14, 0.08, len(sources)), strict=True))
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 0.84 * len(models) + 1.9))
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
        axis.set_yticks(range(len(models)), [change_in_words(name) for name in models])
        axis.set(ylim=(len(models) - 0.5, -0.5))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(sources) + 1)
    return figure


def show_answer(page: Page) -> Answer:
    """How published gains go with size, and what one model holds whose layers were never trained."""
    law, noise = page.fits.set_index(["family", "gain", "against"]).loc[("all", "bits", "parameters")], page.noise
    apart = words.interval(noise["horizon_difference"], noise["horizon_low"], noise["horizon_high"])
    alike = noise["horizon_low"] <= 0 <= noise["horizon_high"]
    return Answer(
        page.setting,
        "Does a larger model hold more in one vector, and what in it does that?",
        "Published information gains grow as the power "
        f"**{words.within(law['exponent'], law['low'], law['high'], 2)}** of the parameters, over {law['n']:.0f} "
        "models; here, noise in place of all layers of the one model that ran changes its "
        f"{page.entire['horizon']:.1f} tokens by **{apart}**{', an interval with 0 in it' if alike else ''}.",
        rests=f"Means as published (Kuratov et al.); {words.counted(page.whole)} passages a model here, "
        f"{words.budgets(page.results)} each; 95 % bootstrap intervals",
        sure="open",
        why="in published models width, parameters and training change together, and here one model was changed at "
        "one width, within a small budget",
    )


def show_sizes(page: Page) -> Exhibit:
    """Published gains against parameters and width."""
    alike, explained = page.alike, page.r2.loc["all", "bits"]
    caption = (
        f"**Over {len(page.sizes)} models parameters explain {explained['parameters']:.0%} of the variance of the "
        f"logarithm of bits, width {explained['width']:.0%}; neither has an interval.** Published, PG-19 (Kuratov et "
        "al.): mean ± standard deviation over runs beyond capacity. Lines: power laws of families of three or more; "
        f"dotted: all. {len(alike)} models of width {alike['width'].iloc[0]:,} and {alike['parameters'].min():g} to "
        f"{alike['parameters'].max():g} billion parameters gain {alike['bits'].min():,.0f} to "
        f"{alike['bits'].max():,.0f} bits."
    )
    return Exhibit(caption, sizes_figure(page.sizes, page.fits))


def show_fits(page: Page) -> Exhibit:
    """Their power laws, family by family."""
    logs, r2 = np.log(page.sizes[["parameters", "width"]]), page.r2
    caption = (
        f"**Width explains more than parameters in {(r2['width'] > r2['parameters']).sum()} of {len(r2)} fits, but "
        f"the logarithms of the two have a correlation of {logs.corr().iloc[0, 1]:.3f}: the fits cannot tell which it "
        "is.** Gain = factor × size ^ exponent, least squares on logarithms; 95 % interval from drawing models anew, "
        "rough for so few. R²: share of the logarithm's variance explained, without interval."
    )
    return Exhibit(caption, size_fit_table(page.fits))


def show_copies_figure(page: Page) -> Exhibit:
    """Tokens and bits of the model and its changed copies, passage by passage."""
    changed, noise = page.changed, page.noise
    apart = words.interval(noise["horizon_difference"], noise["horizon_low"], noise["horizon_high"])
    caption = (
        f"**Of {len(changed)} changed models {(changed['horizon_high'] < 0).sum()} hold fewer tokens than the whole "
        f"one ({page.entire['layers']:.0f} layers, {page.entire['horizon']:.1f} tokens) and "
        f"{(changed['horizon_low'] > 0).sum()} more, with intervals of the difference that leave out 0; with noise "
        f"for all layers it is {apart}.** One mark a passage, stroke: mean of a model. n = {page.entire['n']:.0f} "
        f"({words.counted(page.whole)}), the same for each."
    )
    return Exhibit(caption, copies_figure(gains(page.results)))


def show_copies_table(page: Page) -> Exhibit:
    """The same in numbers, and how well each model predicts."""
    changed, vocabulary = page.changed, page.whole["vocab_size"].iloc[0]
    without = changed["bits_without"]
    caption = (
        f"**{(changed['bits_low'] > 0).sum()} of {len(changed)} changed models gain more bits than the whole one, "
        f"their intervals leave out 0; without mem a token costs them {without.min():.1f} to {without.max():.1f} "
        f"bits, the whole {page.entire['bits_without']:.1f}.** Without mem: first {page.scored_tokens} tokens. "
        f"*Capped*: as if no text cost more than a uniform guess, {np.log2(vocabulary):.1f} bits a token. ±: standard "
        "deviation; differences passage by passage, 95 % interval."
    )
    return Exhibit(caption, copies_table(page.copies))


def glue_numbers(page: Page) -> None:
    """Horizons of the whole model and of the one with noise for layers."""
    noise, entire = page.noise, page.entire
    glue(
        noise_tokens=f"{noise['horizon']:.0f} ± {noise['horizon_sd']:.0f}",
        whole_tokens=f"{entire['horizon']:.0f} ± {entire['horizon_sd']:.0f}",
        n_cuts=f"{entire['n']:.0f}",
    )

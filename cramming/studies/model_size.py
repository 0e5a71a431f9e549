"""What a text costs a model, token by token: told nothing of it, the least of that which must go, and given mem."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.decode import without_mem
from cramming.errors import CrammingError
from cramming.metrics import nats_to_bits
from cramming.models import layers, load
from cramming.results.published import hub_id, published
from cramming.results.rows import gains
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, SOURCE_MARKS, styled


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


# By the beginning of a hub id.
FAMILY_OF = {
    "EleutherAI/pythia": "Pythia",
    "meta-llama/": "Llama",
    "princeton-nlp/Sheared-LLaMA": "Llama",
    "state-spaces/mamba": "Mamba",
}


def sizes() -> pd.DataFrame:
    """The published models with their sizes and gains on PG-19, one mem vector.

    Returns:
        One row a model, in the paper's order: model, family (Pythia, Llama, Mamba, other), parameters (billions,
        nominal), width, capacity (tokens), token_gain and token_gain_sd (tokens), bits and bits_sd (information gain).
    """
    models, capacity = published("models"), published("capacity").query("source == 'pg19'")
    said = capacity.set_index(capacity["model"].map(hub_id)).loc[models["hub_id"]].reset_index(drop=True)
    families = [
        next((family for start, family in FAMILY_OF.items() if name.startswith(start)), "other")
        for name in models["hub_id"]
    ]
    return pd.DataFrame(
        {
            "model": models["name"],
            "family": families,
            "parameters": models["params_billion"],
            "width": models["hidden_size"],
            "capacity": said["decoding_capacity_tokens"],
            "token_gain": said["token_gain_mean"],
            "token_gain_sd": said["token_gain_std"],
            "bits": said["information_gain_nats_mean"].map(metrics.nats_to_bits),
            "bits_sd": said["information_gain_nats_std"].map(metrics.nats_to_bits),
        }
    )


def size_fits(sizes: pd.DataFrame) -> pd.DataFrame:
    """Power laws of the gains in parameters and in width, for each family of three models or more and for all.

    Args:
        sizes: From `model_sizes`.

    Returns:
        One row a family, gain and size: family (or all), gain (bits, token_gain), against (parameters, width), and
        what `metrics.power_law` returns.
    """
    rows = []
    for family, some in [*sizes.groupby("family", sort=False), ("all", sizes)]:
        if len(some) < 3:
            continue
        for gain in ("bits", "token_gain"):
            for size in ("parameters", "width"):
                fit = metrics.power_law(some[size], some[gain])
                rows.append({"family": family, "gain": gain, "against": size, **fit})
    return pd.DataFrame(rows)


def size_fit_table(fits: pd.DataFrame) -> pd.DataFrame:
    """`size_fits` as a page shows it: one row a family and gain, exponent and R² against parameters and width."""
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for fit in fits.itertuples():
        key = (str(fit.family), {"bits": "information", "token_gain": "tokens"}[str(fit.gain)])
        shown = rows.setdefault(key, {"models": int(fit.n)})
        shown[f"exponent of {fit.against} (95 %)"] = words.within(fit.exponent, fit.low, fit.high, 2)
        shown[f"R², {fit.against}"] = f"{fit.r2:.3f}"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["family", "gain in"])


def cuts(results: pd.DataFrame, about: pd.DataFrame) -> pd.DataFrame:
    """Horizons in a model and in changed copies of it, on the same passages.

    Args:
        results: Rows of kind horizon, of a model and of copies named after it with an @.
        about: From `cramming.studies.model_size.sizes_and_bits`, of the same models.

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
    runs = gains(results)
    whole = runs[~runs["model"].str.contains("@")].set_index("passage")
    if whole.empty:
        raise CrammingError(f"the results lack the whole model: they have {', '.join(sorted(set(runs['model'])))}")
    rows = []
    for name, some in runs.groupby("model", sort=False):
        facts, change = about[about["model"] == name], str(name).partition("@")[2]
        row = {
            "model": name,
            "change": change_in_words(str(name)),
            "parameters": facts["parameters"].iloc[0],
            "layers": facts["layers"].iloc[0],
            "n": len(some),
            "horizon": some["length"].mean(),
            "horizon_sd": some["length"].std(),
            "least": some["length"].min(),
            "most": some["length"].max(),
            "none": (some["length"] == 0).sum(),
            "bits_without": facts["bits"].mean(),
            "bits_without_sd": facts["bits"].std(),
            "bits": some["bits"].mean(),
            "bits_sd": some["bits"].std(),
            "bits_capped": some["bits_capped"].mean(),
            "bits_capped_sd": some["bits_capped"].std(),
            "token_gain": some["token_gain"].mean(),
            "token_gain_sd": some["token_gain"].std(),
        }
        for column, short in (("length", "horizon"), ("bits", "bits")):
            apart = (some.set_index("passage")[column] - whole[column]).dropna()
            known = change and len(apart)
            low, high = metrics.bootstrap_ci(apart) if known else (np.nan, np.nan)
            row[f"{short}_difference"] = apart.mean() if known else np.nan
            row |= {f"{short}_low": low, f"{short}_high": high}
        for column, short in (("length", "horizon"), ("bits", "bits"), ("bits_capped", "bits_capped")):
            entire = whole[column].mean()
            row[f"{short}_share"] = some[column].mean() / entire if entire > 0 else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def change_in_words(model: str) -> str:
    """What the name of a model says was done to it: ``first 5 layers`` for ``smollm2-135m@first-5``, or ``whole``."""
    kind, _, what = model.partition("@")[2].partition("-")
    if kind == "first":
        return "first layer" if what == "1" else f"first {what} layers"
    return f"{kind} {what}".strip() or "whole"


def cut_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cuts` as a page shows it: one row a model."""
    return pd.DataFrame(
        {
            "model": frame["change"],
            "parameters, millions": frame["parameters"].map(lambda n: f"{n / 1e6:,.1f}"),
            "layers": frame["layers"],
            "bits a token without mem": [words.spread(r.bits_without, r.bits_without_sd) for r in frame.itertuples()],
            "passages": frame["n"],
            "exact horizon, tokens": [words.spread(r.horizon, r.horizon_sd) for r in frame.itertuples()],
            "range": [f"{r.least} to {r.most}" for r in frame.itertuples()],
            "against the whole, tokens": [
                words.interval(r.horizon_difference, r.horizon_low, r.horizon_high) for r in frame.itertuples()
            ],
            "token gain, tokens": [words.spread(r.token_gain, r.token_gain_sd) for r in frame.itertuples()],
            "information gain, bits": [words.spread(r.bits, r.bits_sd, 0) for r in frame.itertuples()],
            "against the whole, bits": [
                words.interval(r.bits_difference, r.bits_low, r.bits_high, 0) for r in frame.itertuples()
            ],
            "against a uniform guess at most": [
                words.spread(r.bits_capped, r.bits_capped_sd, 0) for r in frame.itertuples()
            ],
        }
    ).set_index("model")


FAMILY_MARKS = {"Pythia": (COLOURS[0], "o", "-"), "Llama": (COLOURS[1], "s", "--"), "Mamba": (COLOURS[2], "^", "-.")}
FAMILY_MARKS |= {"other": (COLOURS[3], "D", "none")}


@styled
def sizes_figure(sizes: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Information gain against parameters and against width, one mark a published model, power laws by family.

    Args:
        sizes: `cramming.studies.model_size.sizes`.
        fits: `cramming.studies.model_size.size_fits` of the same.
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
    models = list(runs["model"].unique())
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 0.5 * len(models) + 1.3), sharey=True)
    for axis, column, label in (
        (axes[0], "length", "exact horizon, tokens"),
        (axes[1], "bits", "information gain, bits"),
    ):
        for place, name in enumerate(models):
            some = runs[runs["model"] == name]
            for source, (colour, marker) in SOURCE_MARKS.items():
                each = np.sort(some.loc[some["source"] == source, column].to_numpy())
                # Side by side, the sources in two rows, so that equal numbers can be seen.
                rows = place + (-0.14 if source == "novels" else 0.08) + (np.arange(len(each)) % 2) * 0.06
                axis.scatter(each, rows, color=colour, marker=marker, s=32, edgecolor="black", linewidth=0.5,
                             label=source if place == 0 and len(each) else None)  # fmt: skip
            axis.plot([some[column].mean()] * 2, [place - 0.3, place + 0.3], color="black", linewidth=2,
                      label="mean" if place == 0 else None)  # fmt: skip
        axis.set(xlabel=label, xlim=(min(0, runs[column].min()) - 0.02 * runs[column].max(), None))
        axis.grid(visible=False, axis="y")
    axes[0].set_yticks(range(len(models)), [change_in_words(name) for name in models])
    axes[0].set(ylim=(len(models) - 0.5, -0.5))
    axes[0].legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure

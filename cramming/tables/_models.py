"""Size of models, and what is left when they are cut or changed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.errors import CrammingError
from cramming.paper import hub_id, published
from cramming.recipes import Recipe
from cramming.tables import _words as words
from cramming.tables._horizons import gains

# By the beginning of a hub id.
FAMILIES = {
    "EleutherAI/pythia": "Pythia",
    "meta-llama/": "Llama",
    "princeton-nlp/Sheared-LLaMA": "Llama",
    "state-spaces/mamba": "Mamba",
}


def model_sizes() -> pd.DataFrame:
    """The published models with their sizes and gains on PG-19, one mem vector.

    Returns:
        One row a model, in the paper's order: model, family (Pythia, Llama, Mamba, other), parameters (billions,
        nominal), width, capacity (tokens), token_gain and token_gain_sd (tokens), bits and bits_sd (information gain).
    """
    models, capacity = published("models"), published("capacity").query("source == 'pg19'")
    said = capacity.set_index(capacity["model"].map(hub_id)).loc[models["hub_id"]].reset_index(drop=True)
    families = [
        next((family for start, family in FAMILIES.items() if name.startswith(start)), "other")
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
        about: From `cramming.information.by_model`, of the same models.

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


def same_passages(results: pd.DataFrame) -> pd.DataFrame:
    """`gains` of runs that differ in the number of mem vectors only, on the passages that every number was run on.

    Args:
        results: Rows of kind horizon of one model. If several recipes are among them, the one with most numbers of
            vectors counts.

    Returns:
        One row a number of vectors and passage, sorted by both.

    Raises:
        CrammingError: If there are no runs with one vector to compare with, or no passage has them all.
    """
    runs = gains(results)
    hows = runs["recipe_json"].map(lambda text: Recipe.model_validate_json(text).model_dump_json())
    runs = runs[hows == runs.groupby(hows)["n_vectors"].nunique().idxmax()]
    if 1 not in set(runs["n_vectors"]):
        known = ", ".join(map(str, sorted(set(runs["n_vectors"]))))
        raise CrammingError(f"there are runs with {known} mem vectors but none with 1: sweep those as well")
    shared = runs.groupby("passage")["n_vectors"].transform("nunique") == runs["n_vectors"].nunique()
    if not shared.any():
        raise CrammingError("no passage was run with every number of mem vectors: sweep the same passages for each")
    return runs[shared].sort_values(["n_vectors", "passage"], ignore_index=True)

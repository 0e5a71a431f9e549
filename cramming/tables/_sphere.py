"""Ways of holding mem, and their learning rates."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
import torch

from cramming import metrics
from cramming.recipes import Recipe
from cramming.tables import _words as words


def arms(results: pd.DataFrame, vectors: Mapping[str, torch.Tensor] | None = None) -> pd.DataFrame:
    """One row a way of holding mem and its learning rate: what the sphere page compares.

    Args:
        results: Rows of kind cram.
        vectors: `Store.vectors`, if the norm that mem ended with is wanted.

    Returns:
        Columns: model, dtype, mem (sphere or free), rms_start (root mean square of mem's numbers; nan where it is that
        of the embedding table), lr (learning rate), lr_relative (lr over that root mean square), n, solved (runs),
        right (mean share of tokens right), low and high (its 95 % bootstrap interval), nats (mean cross-entropy a
        token), steps (median of the solved runs), rms_end (median).
    """
    runs = words.some(results, "cram")
    rows = []
    for (model, dtype, text), some in runs.groupby(["model", "dtype", "recipe_json"], sort=False):
        how = Recipe.model_validate_json(str(text))
        sphere = how.parametrisation == "sphere"
        start = how.radius if sphere else np.nan if how.init == "embedding_std" else how.init_std
        low, high = metrics.bootstrap_ci(some["accuracy"])
        solved = some["ended"] == "solved"
        ends = [float(vectors[key].square().mean().sqrt()) for key in some["key"]] if vectors else []
        rows.append(
            {
                "model": model,
                "dtype": dtype,
                "mem": how.parametrisation,
                "rms_start": start,
                "lr": how.lr,
                "lr_relative": how.lr if sphere else how.lr / start,
                "n": len(some),
                "solved": int(solved.sum()),
                "right": some["accuracy"].mean(),
                "low": low,
                "high": high,
                "nats": (some["nats_with"] / some["length"]).mean(),
                "steps": some.loc[solved, "steps"].median(),
                "rms_end": np.median(ends) if ends else np.nan,
            }
        )
    return pd.DataFrame(rows).sort_values(["model", "dtype", "mem", "rms_start", "lr"], ignore_index=True)


def found(
    results: pd.DataFrame, vectors: Mapping[str, torch.Tensor], radii: Collection[float]
) -> dict[float, dict[str, torch.Tensor]]:
    """The vectors that runs on a sphere ended with, by radius and passage, at the learning rate most of them had.

    Args:
        results: Rows of kind cram with one mem vector.
        vectors: `Store.vectors`.
        radii: Which spheres; those with no runs are left out.

    Returns:
        For each radius the vector of each passage, shape (d,).
    """
    hows = results["recipe_json"].map(Recipe.model_validate_json)
    sphere = results.assign(how=hows)[[how.parametrisation == "sphere" for how in hows]]
    usual = sphere["how"].map(lambda how: how.lr).mode().max()
    chosen: dict[float, dict[str, torch.Tensor]] = {}
    for row in sphere.itertuples():
        if row.how.radius in radii and row.how.lr == usual:
            chosen.setdefault(row.how.radius, {})[row.passage] = vectors[row.key][0]
    return chosen


def arms_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`arms` of one model as a page shows it. Size is the root mean square of mem's numbers."""
    shown = pd.DataFrame(
        {
            "mem": frame["mem"],
            "size at start": ["embedding table's" if x != x else f"{x:,.4g}" for x in frame["rms_start"]],
            "size at end": ["" if x != x else f"{x:,.4g}" for x in frame["rms_end"]],
            "learning rate": frame["lr"].map("{:.4g}".format),
            "relative to size": ["" if x != x else f"{x:.2g}" for x in frame["lr_relative"]],
            "tokens right, %": [
                f"{r.right:.0%} ({r.low:.0%}–{r.high:.0%})".replace("%", "") for r in frame.itertuples()
            ],
            "nats a token": frame["nats"].map("{:.2f}".format),
            "exact": [f"{r.solved}/{r.n}" for r in frame.itertuples()],
            "their steps, median": ["" if x != x else f"{x:.0f}" for x in frame["steps"]],
        }
    )
    return shown.drop(columns=[name for name in shown if (shown[name] == "").all()]).set_index("mem")


def arms_by_model(frame: pd.DataFrame) -> pd.DataFrame:
    """Share of tokens right and exact passages, from the `arms` of several models: a row a way, a column a model."""
    sizes = ["at the embedding table's size" if x != x else f"of size {x:,.4g}" for x in frame["rms_start"]]
    shown = frame.assign(
        how=[f"{r.mem} {size}, rate {r.lr:.4g}" for r, size in zip(frame.itertuples(), sizes, strict=True)],
        cell=[f"{r.right:.0%}, {r.solved} exact" for r in frame.itertuples()],
    )
    return shown.pivot_table("cell", "how", "model", aggfunc="first", sort=False).rename_axis(
        columns=None, index="mem"
    )

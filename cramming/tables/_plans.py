"""Forecasts: of a text, and of the whole paper on GPUs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cramming import scale
from cramming.tables import _words as words


def estimate_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.sweep.estimate` for people: one row a model and text, and the sum."""
    total = frame.assign(model="all", recipe="", source="", n_vectors="").groupby(
        ["model", "recipe", "source", "n_vectors"], as_index=False
    )
    both = pd.concat([frame, total.sum()], ignore_index=True)
    shown = pd.DataFrame(
        {
            "recipe": both["recipe"],
            "text": both["source"],
            "mem vectors": both["n_vectors"],
            "runs": both["runs"].map("{:,}".format),
            "stored": both["stored"].map("{:,}".format),
            "unfinished": both["unfinished"].map("{:,}".format),
            "pending": both["pending"].map("{:,}".format),
            "tokens": both["tokens"].map("{:,}".format),
            "token passes, at most": both["token_passes"].map("{:.3g}".format),
            "operations, at most": both["operations"].map("{:.3g}".format),
            "GPU hours, at most": both["gpu_hours"].map("{:,.1f}".format),
        }
    )
    return shown.set_index(pd.Index(both["model"], name="model"))


def hours_table(frame: pd.DataFrame, rates: pd.DataFrame) -> pd.DataFrame:
    """Hours that all of `cramming.sweep.estimate` takes at most, by device of `cramming.sweep.rates`."""
    hours = frame["operations"].sum() / rates["rate"] / 3600
    return pd.DataFrame(
        {
            "operations a second": rates["rate"].map("{:.2g}".format),
            "known from": rates["known"],
            "hours, at most": hours.map("{:,.2f}".format),
        }
    ).set_index(pd.Index(rates["device"], name="one device"))


def estimate_line(frame: pd.DataFrame) -> str:
    """The sum of `cramming.sweep.estimate` in a line."""
    return (
        f"the whole plan is {frame['runs'].sum():,} runs of {frame['tokens'].sum():,} tokens, at most "
        f"{frame['token_passes'].sum():.2g} token passes or {frame['gpu_hours'].sum():.2g} hours of a large GPU; "
        "what the store holds is not run again"
    )


def devices_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.scale.devices` as a page shows them."""
    return pd.DataFrame(
        {
            "memory, GB": frame["memory_gb"],
            "peak, 10¹² operations/s, bfloat16": (frame["bfloat16_ops"] / 1e12).map("{:,.0f}".format),
            "float32": (frame["float32_ops"] / 1e12).map("{:,.0f}".format),
            "memory, GB/s": frame["bandwidth_gbs"].map("{:,.0f}".format),
            "link, GB/s": frame["link_gbs"].map("{:,.0f}".format),
            "$ an hour, assumed": frame["dollars_per_hour"].map("{:.2f}".format),
        }
    )


def devices_sources(frame: pd.DataFrame) -> str:
    """Where the numbers of `cramming.scale.devices` come from, for captions."""
    return "; ".join(f"{name}: {source}" for name, source in frame["source"].items())


def grid_table(grid: pd.DataFrame, some: pd.DataFrame, utilisation: tuple[float, float], ratio: float) -> pd.DataFrame:
    """The paper's grid model by model, with hours of one device and dollars.

    Args:
        grid: From `cramming.scale.by_model`.
        some: From `cramming.scale.devices`, one row.
        utilisation: Least and greatest share of the peak.
        ratio: As in `cramming.scale.bill`.
    """
    total = grid[["runs", "token_passes", "operations"]].sum()
    rows = [*grid.to_dict("records"), {"model": "all", **total}]
    bills = [scale.bill(row["operations"], some, utilisation, ratio).iloc[0] for row in rows]
    shown = pd.DataFrame(
        {
            "runs": [f"{row['runs']:,.0f}" for row in rows],
            "token passes, at most": [f"{row['token_passes']:.2g}" for row in rows],
            "operations, at most": [f"{row['operations']:.2g}" for row in rows],
            "longest, tokens": [f"{row['longest']:,}" if "longest" in row else "" for row in rows],
            "memory, GB": [words.large(row.get("memory_gb", np.nan)) for row in rows],
            "hours": [words.spend(bill["hours_low"], bill["hours_high"]) for bill in bills],
            "dollars": [words.spend(bill["dollars_low"], bill["dollars_high"]) for bill in bills],
            "hours, our recipe": [words.spend(bill["ours_hours_low"], bill["ours_hours_high"]) for bill in bills],
        }
    )
    return shown.set_index(pd.Index([row["model"] for row in rows], name="model"))


def bill_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.scale.bill` as a page shows it."""
    shown = {}
    for who, said in (("", "paper's recipe"), ("ours_", "ours")):
        for unit in ("hours", "dollars"):
            low, high = frame[f"{who}{unit}_low"], frame[f"{who}{unit}_high"]
            shown[f"{unit}, {said}"] = [words.spend(*ends) for ends in zip(low, high, strict=True)]
    return pd.DataFrame(shown, index=pd.Index(frame["device"]))


def passages_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.scale.passages_bill` as a page shows it, with what gives way first and what to do."""
    shown = pd.DataFrame(
        {
            "run": frame["what"],
            "device hours": [words.spend(r.hours_low, r.hours_high) for r in frame.itertuples()],
            "dollars": [words.spend(r.dollars_low, r.dollars_high) for r in frame.itertuples()],
            **{f"days on {d}": frame[f"days_{d}"].map(words.large) for d in (1, 8, 64)},
            "files": frame["files"].map("{:,}".format),
            "vectors, GB": frame["vectors_gb"].map(words.large),
            "what gives way": [_gives_way(r) for _, r in frame.iterrows()],
        }
    )
    return shown.set_index(pd.Index(frame["passages"].map("{:,}".format), name="passages"))


def _gives_way(row: pd.Series, days: float = 7, files: int = 10_000) -> str:
    """What of a bill is too much for a week on so many devices, or for one folder."""
    fits = [d for d in (1, 8, 64) if row[f"days_{d}"] <= days]
    said = []
    if not fits:
        said.append("64 devices are not enough for a week: fewer passages, or a smaller budget")
    elif fits[0] > 1:
        said.append(f"one device: --part i/{fits[0]} on {fits[0]}")
    if row["files"] > files:
        said.append("files in one folder: one store a part, --compact after each")
    return "; ".join(said) or "nothing"


def memory_table(frame: pd.DataFrame, needed: Mapping[str, list[int | None]]) -> pd.DataFrame:
    """`cramming.scale.memory_steps` as a page shows it.

    Args:
        frame: From there.
        needed: Of each device, how many hold the step, row by row.
    """
    parts = ["weights", "activations", "logits", "total"]
    shown = {f"{part}, GB": frame[part].map(words.large).to_list() for part in parts}
    shown |= {"mem and optimiser, MB": (frame["optimiser"] * 1000).map(words.large).to_list()}
    shown |= {"operations": [f"{n} a parameter" for n in frame["operations"]]}
    shown |= {f"{name}, number": [n or "more than 8" for n in numbers] for name, numbers in needed.items()}
    return pd.DataFrame(shown, index=pd.Index(frame["what"], name="a step"))

"""What an exact token costs, by system, by recipe and by step."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cramming import metrics
from cramming.errors import CrammingError
from cramming.recipes import Recipe, changed_fields
from cramming.tables import _words as words
from cramming.tables._horizons import exact_curve

SYSTEMS = {
    "paper": "the paper's protocol",
    "paper_own": "the same, by its own count",
    "progressive": "progressive, as published",
    "horizon": "ours",
    "short": "ours, stopped at the horizon of progressive",
}


def systems(results: pd.DataFrame) -> pd.DataFrame:
    """What an exact token costs by each of three systems, on the passages that all of them were run on.

    The paper's protocol crams one length after the other, each from scratch. Its exact tokens are the longest length
    that decodes exactly (token 0 given) before the first that does not, and it pays for that failure too: without it,
    nobody would know where to stop. Lengths beyond are not counted against it. By its own count, a length is reached
    at accuracy 1, whether it decodes or not.

    Late tokens cost more than early ones. So ours is counted a second time, as if every run had been stopped at the
    same number of token passes: the least at which the mean of the prefixes right so far is that of progressive.

    Returns:
        One row a system and passage: system (`SYSTEMS`), passage, exact (tokens), token_passes, steps, cpu_seconds.
    """
    rows = []
    for run in words.some(results, "horizon").query("recipe in ('progressive', 'horizon')").itertuples():
        rows.append((run.recipe, run.passage, run.length, run.token_passes, run.steps, run.cpu_seconds))
    paper = results[(results["kind"] == "cram") & (results["recipe"] == "paper")].sort_values("length")
    for passage, runs in paper.groupby("passage"):
        for system, reached in (("paper", runs["exact"]), ("paper_own", runs["accuracy"] == 1)):
            tried = runs[reached.shift(fill_value=True).cummin()]  # up to and with the first failure
            tokens = tried["length"].where(reached, 0).max()
            rows.append((system, passage, tokens, *tried[["token_passes", "steps", "cpu_seconds"]].sum()))
    columns = ["system", "passage", "exact", "token_passes", "steps", "cpu_seconds"]
    frame = pd.DataFrame(rows, columns=columns)
    shared = frame.groupby("passage")["system"].transform("nunique") == frame["system"].nunique()
    frame = frame[shared]
    ours = results[(results["recipe"] == "horizon") & results["passage"].isin(frame["passage"])]
    frame = pd.concat([frame, _stopped(ours, frame.loc[frame["system"] == "progressive", "exact"].mean())])
    order = frame["system"].map(list(SYSTEMS).index)
    return frame.assign(order=order).sort_values(["order", "passage"], ignore_index=True).drop(columns="order")


def _stopped(runs: pd.DataFrame, target: float) -> pd.DataFrame:
    """Horizon runs as if stopped together, as soon as their mean exact prefix is the target; none if it never is."""
    curves = {row.passage: (row, *exact_curve(runs.loc[[row.Index]])) for row in runs.itertuples()}
    for spent in sorted({passes for _, grid, _ in curves.values() for passes in grid}):
        at = {name: np.searchsorted(grid, spent, side="right") - 1 for name, (_, grid, _) in curves.items()}
        if np.mean([curves[name][2][place] for name, place in at.items()]) >= target:
            rows = []
            for name, (row, grid, exact) in curves.items():
                place = at[name]
                steps = [0, *row.trace_step, row.steps][place]
                seconds = row.cpu_seconds * grid[place] / row.token_passes
                rows.append(("short", name, exact[place], grid[place], steps, seconds))
            return pd.DataFrame(rows, columns=["system", "passage", "exact", "token_passes", "steps", "cpu_seconds"])
    return pd.DataFrame()


def stair(spent: np.ndarray, exact: np.ndarray, at: ArrayLike) -> np.ndarray:
    """Exact tokens of a staircase from `exact_curve` once so much is spent; one number or several at a time."""
    return exact[np.searchsorted(spent, at, side="right") - 1]


def systems_summary(costs: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """`systems` summed up, one row a system, with ratios to ours.

    Token passes do not depend on the machine. Seconds are token passes times the seconds that one takes in the shape
    the system runs in, all measured in one run of benchmarks/step_cost.py.

    Args:
        costs: From `systems`.
        steps: From `step_cost`.

    Returns:
        Index system; columns n (passages), exact and sd (tokens), steps (mean), passes and seconds and cpu (token
        passes, seconds, processor seconds as they were, each per exact token), passes_ratio, seconds_ratio.
    """
    per_pass = steps.groupby("what")["seconds"].sum() / steps.groupby("what")["positions"].sum()
    rows = {}
    for system, some in costs.groupby("system", sort=False):
        exact = some["exact"].sum() or np.nan
        passes = some["token_passes"].sum() / exact
        rows[str(system)] = {
            "n": len(some),
            "exact": some["exact"].mean(),
            "sd": some["exact"].std(),
            "steps": some["steps"].mean(),
            "passes": passes,
            "seconds": passes * per_pass["horizon" if system == "short" else str(system).removesuffix("_own")],
            "cpu": some["cpu_seconds"].sum() / exact,
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("system")
    ours = frame.loc["horizon"]
    return frame.assign(
        passes_ratio=frame["passes"] / ours["passes"], seconds_ratio=frame["seconds"] / ours["seconds"]
    )


def systems_table(summary: pd.DataFrame) -> pd.DataFrame:
    """`systems_summary` as a page shows it."""
    shown = pd.DataFrame(
        {
            "passages": summary["n"],
            "exact tokens of a passage": [words.spread(r.exact, r.sd) for r in summary.itertuples()],
            "steps a passage": summary["steps"].map("{:,.0f}".format),
            "token passes per exact token": summary["passes"].map("{:,.0f}".format),
            "seconds per exact token": summary["seconds"].map("{:,.2f}".format),
            "token passes, times ours": summary["passes_ratio"].map("{:,.1f}".format),
            "seconds, times ours": summary["seconds_ratio"].map("{:,.1f}".format),
            "processor seconds as they were": summary["cpu"].map("{:,.1f}".format),
        }
    )
    return shown.rename(index=SYSTEMS)


def bars(summary: pd.DataFrame, horizons: pd.DataFrame, benchmark: pd.DataFrame) -> pd.DataFrame:
    """What this companion set out to reach on a laptop, and where it stands.

    Args:
        summary: From `systems_summary`.
        horizons: Rows of kind horizon by our recipe, of the passages the mean is taken over.
        benchmark: What benchmarks/step_cost.py wrote.

    Returns:
        Index bar; columns target, measured, reached.
    """
    ratios, steps = summary["seconds_ratio"], step_cost(benchmark)
    batch = steps[(steps["what"] == "passages") & (steps["passages"] == 16)].iloc[0]
    latency, memory = (benchmark[benchmark["what"] == what] for what in ("latency", "memory"))
    latency = latency[latency["source"] == "novels"]
    # A cram that came to nothing takes for ever.
    waits = latency["seconds"].where(latency["solved"].astype(bool), np.inf)
    tokens, seconds = horizons["length"], waits.median()
    gibibytes = memory["peak_bytes"].iloc[0] / 2**30
    # Ours gets dearer as it goes on. The horizon of progressive is past that of the paper's protocol.
    early = dict.fromkeys(("paper", "progressive"), np.nan)
    if {"progressive", "short"} <= set(summary.index):
        early |= {system: summary.loc[system, "seconds"] / summary.loc["short", "seconds"] for system in early}
    paper, progressive = (
        f"{early[system]:,.0f} at the horizon of progressive, {ratios[system]:,.1f} at ours"
        if early[system] == early[system]
        else otherwise
        for system, otherwise in (("paper", f"{ratios['paper']:,.1f} at ours"), ("progressive", "not reached by ours"))
    )
    rows = [
        (
            "seconds per exact token, the paper's protocol over ours",
            "at least 50",
            paper,
            bool(max(early["paper"], ratios["paper"]) >= 50),
        ),
        (
            "the same, progressive over ours, at a mean horizon no shorter than its own",
            "at least 10",
            progressive,
            bool(early["progressive"] >= 10),
        ),
        (
            f"mean exact horizon of {len(tokens)} passages, tokens",
            "at least 128",
            words.spread(tokens.mean(), tokens.std()),
            tokens.mean() >= 128,
        ),
        (
            f"{latency['tokens'].iloc[0]:.0f} tokens of a novel exact, one passage, "
            f"recipe {latency['recipe'].iloc[0]}, seconds, median of {len(latency)}",
            "under 20",
            "{} ({} to {})".format(*(words.seconds(value) for value in (seconds, waits.min(), waits.max()))),
            seconds < 20,
        ),
        (
            f"share of the matrix-product rate, {batch['passages']} passages of {batch['tokens']} tokens",
            "at least 60 %",
            f"{batch['share']:.0%}",
            batch["share"] >= 0.6,
        ),
        (
            f"memory, {memory['passages'].iloc[0]:.0f} passages of {memory['tokens'].iloc[0]:.0f} tokens, GiB",
            "at most 6",
            f"{gibibytes:.1f}",
            gibibytes <= 6,
        ),
    ]
    frame = pd.DataFrame(rows, columns=["bar", "target", "measured", "reached"])
    return frame.assign(reached=["yes" if yes else "no" for yes in frame["reached"]]).set_index("bar")


def variants(results: pd.DataFrame, base: Recipe) -> pd.DataFrame:
    """Recipes that differ from one of them, on the same passages: what each change gains or loses.

    Args:
        results: Rows of kind horizon.
        base: The recipe that the others are compared with; what its budget is does not matter.

    Returns:
        Index changed (the fields that differ and their values, `nothing` for none); columns passages, exact horizon
        (tokens, mean ± sd), shortest, against no change (mean of the differences passage by passage, tokens, with a
        95 % bootstrap interval).

    Raises:
        CrammingError: If no row has the recipe that the others are compared with.
    """
    runs = words.some(results, "horizon")
    fields, lengths = base.model_dump(exclude={"name", "max_token_passes"}), {}
    for text, some in runs.groupby("recipe_json", sort=False):
        how = Recipe.model_validate_json(str(text)).model_dump()
        lengths[changed_fields(fields, how) or "nothing"] = some.set_index("passage")["length"]
    if "nothing" not in lengths:
        raise CrammingError(f"no row has the recipe {base.name} to compare with: sweep a plan that has it")
    rows = {}
    for changed, some in sorted(lengths.items(), key=lambda item: item[0] != "nothing"):
        gain = (some - lengths["nothing"]).dropna()
        low, high = metrics.bootstrap_ci(gain)
        rows[changed] = {
            "passages": len(some),
            "exact horizon, tokens": words.spread(some.mean(), some.std()),
            "shortest": some.min(),
            "against no change": "" if changed == "nothing" else f"{gain.mean():+.1f} ({low:+.1f} to {high:+.1f})",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("changed")


def executors(frame: pd.DataFrame) -> pd.DataFrame:
    """What benchmarks/executors.py wrote, against serial in the same round.

    Args:
        frame: Its rows.

    Returns:
        Index executor, in the order measured; columns rate (token passes a second, median over rounds), ratio, low and
        high (to serial, round by round: median, least and greatest), rounds.
    """
    rate = frame["token_passes"] / frame["seconds"]
    serial = frame["executor"] == "serial"
    ratio = rate / frame["round"].map(rate[serial].set_axis(frame.loc[serial, "round"]))
    grouped = frame.assign(rate=rate, ratio=ratio).groupby("executor", sort=False)
    return grouped.agg(
        rate=("rate", "median"),
        ratio=("ratio", "median"),
        low=("ratio", "min"),
        high=("ratio", "max"),
        rounds=("round", "nunique"),
    )


def executors_table(summary: pd.DataFrame) -> pd.DataFrame:
    """`executors` for the page."""
    return pd.DataFrame(
        {
            "token passes a second": summary["rate"].map("{:.0f}".format),
            "of serial": [words.within(row.ratio, row.low, row.high, 2) for row in summary.itertuples()],
        }
    ).rename_axis("executor")


def step_cost(frame: pd.DataFrame) -> pd.DataFrame:
    """Medians of benchmarks/step_cost.py by shape.

    Columns: what, passages, tokens, n_vectors, positions (tokens through the model in a step), seconds (median over
    rounds), share (of the rate of a large matrix product, median of the ratios round by round), rounds.
    """
    steps = frame[~frame["what"].isin(["latency", "memory"])]
    # Of a passage, all tokens but the last are fed; two operations a number forward, two backward.
    positions = steps["passages"] * (steps["tokens"] - 1 + steps["n_vectors"])
    gflops = 4 * steps["matmul_parameters"] * positions / steps["seconds"] / 1e9
    steps = steps.assign(positions=positions, share=gflops / steps["matmul_gflops"])
    shape = ["what", "passages", "tokens", "n_vectors", "positions"]
    grouped = steps.groupby(shape, sort=False, as_index=False)
    return grouped.agg(seconds=("seconds", "median"), share=("share", "median"), rounds=("repeat", "size"))

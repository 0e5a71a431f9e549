"""Tables: the store's tidy frame in, the frame a page shows out. Means come with their spread and n."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from cramming import metrics, scale
from cramming.errors import CrammingError
from cramming.paper import hub_id, published
from cramming.precision import stored_bits
from cramming.recipes import RECIPES, Recipe


def horizons(results: pd.DataFrame) -> pd.DataFrame:
    """Exact horizons by recipe, model and source: the summary that figures and captions read.

    Columns: recipe, model, width, vocab_size, source, n, mean, sd, low, high (tokens; 95 % bootstrap interval of the
    mean), least, most (tokens), bits_mean, bits_sd (information gain over tokens 1 on, bits), bits_per_token,
    token_gain_mean, token_gain_sd (tokens), token_passes_per_token, cpu_seconds_per_token (per exact token).
    """
    rows = []
    for (recipe, model, source), some in gains(results).groupby(["recipe", "model", "source"], sort=False):
        bits, gain, exact = some["bits"], some["token_gain"], some["length"].sum()
        rows.append(
            {
                "recipe": recipe,
                "model": model,
                "width": some["width"].iloc[0],
                "vocab_size": some["vocab_size"].iloc[0],
                "source": source,
                **metrics.horizon_summary(some["length"]),
                "least": some["length"].min(),
                "most": some["length"].max(),
                "bits_mean": bits.mean(),
                "bits_sd": bits.std(),
                "bits_per_token": bits.sum() / exact if exact else np.nan,
                "token_gain_mean": gain.mean(),
                "token_gain_sd": gain.std(),
                "token_passes_per_token": some["token_passes"].sum() / exact if exact else np.nan,
                "cpu_seconds_per_token": some["cpu_seconds"].sum() / exact if exact else np.nan,
            }
        )
    return pd.DataFrame(rows)


def paper_protocol(results: pd.DataFrame) -> pd.DataFrame:
    """The paper's recipe by model, source and length, as its own rules count and as decoding counts.

    Columns: model, source, length (tokens), n, accuracy (mean, teacher-forced, as the recipe measures it), solved
    (runs at accuracy 1), exact (runs that decode from the vector and the given token 0), greedy_tokens (mean tokens
    before the first error of decoding, token 0 given), token_gain, information_gain_nats (means, published
    convention), steps (mean), cpu_seconds (mean).
    """
    runs = _some(results, "cram")
    runs = runs[runs["recipe"] == "paper"]
    if runs.empty:
        raise CrammingError("the results hold no run of recipe paper: sweep a plan that asks for it")
    runs = runs.assign(
        solved=runs["accuracy"] == 1,
        token_gain=metrics.published_sum(runs["correct_with"] - runs["correct_without"], runs["length"]),
        information_gain_nats=metrics.published_sum(runs["nats_without"] - runs["nats_with"], runs["length"]),
    )
    grouped = runs.groupby(["model", "source", "length"], as_index=False)
    return grouped.agg(
        n=("key", "size"),
        accuracy=("accuracy", "mean"),
        solved=("solved", "sum"),
        exact=("exact", "sum"),
        greedy_tokens=("correct_greedy", "mean"),
        token_gain=("token_gain", "mean"),
        information_gain_nats=("information_gain_nats", "mean"),
        steps=("steps", "mean"),
        cpu_seconds=("cpu_seconds", "mean"),
    )


def protocols(results: pd.DataFrame) -> pd.DataFrame:
    """The paper's recipe and our horizon on the passages that both were run on, by length.

    Columns: length (tokens), n (passages), paper_accuracy (mean), paper_exact (share, token 0 given),
    paper_cpu_seconds (mean), horizon_exact (share whose horizon reaches the length), horizon_cpu_seconds (mean, of
    the whole horizon).
    """
    ours = _some(results, "horizon").query("recipe == 'horizon'").set_index("passage")
    paper = results[(results["kind"] == "cram") & (results["recipe"] == "paper") & results["passage"].isin(ours.index)]
    if paper.empty:
        raise CrammingError("no passage was crammed by recipe paper and grown to its horizon: sweep a plan with both")
    rows = []
    for length, some in paper.groupby("length"):
        same = ours.loc[some["passage"]]
        rows.append(
            {
                "length": length,
                "n": len(some),
                "paper_accuracy": some["accuracy"].mean(),
                "paper_exact": some["exact"].mean(),
                "paper_cpu_seconds": some["cpu_seconds"].mean(),
                "horizon_exact": (same["length"] >= length).mean(),
                "horizon_cpu_seconds": same["cpu_seconds"].mean(),
            }
        )
    return pd.DataFrame(rows)


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
    for run in _some(results, "horizon").query("recipe in ('progressive', 'horizon')").itertuples():
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


def exact_curve(runs: pd.DataFrame, along: str = "token_passes") -> tuple[np.ndarray, np.ndarray]:
    """Exact tokens of one passage against what one system spent on it, as a staircase from (0, 0).

    Args:
        runs: Rows of one passage and system: a horizon, or the paper's crams of several lengths.
        along: What is spent: token_passes or steps.
    """
    if (runs["kind"] == "horizon").all():
        (run,) = runs.itertuples()
        how = Recipe.model_validate_json(run.recipe_json)
        trace = {"token_passes": "trace_token_passes", "steps": "trace_step"}[along]
        lengths, spent = np.asarray(run.trace_length), np.asarray(getattr(run, trace))
        # The prefix under optimisation runs ahead of the exact one by a block.
        ahead = how.growth.block if how.growth else 0
        exact = np.where(lengths > lengths[0], lengths - ahead, 0)
        spent, exact = np.append(spent, getattr(run, along)), np.append(exact, run.length)
    else:
        runs = runs.sort_values("length")
        spent = runs[along].cumsum().to_numpy()
        exact = runs["length"].where(runs["exact"].cummin(), 0).to_numpy()
    return np.append(0, spent), np.append(0, np.maximum.accumulate(exact))


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
            "exact tokens of a passage": [_spread(r.exact, r.sd) for r in summary.itertuples()],
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
            _spread(tokens.mean(), tokens.std()),
            tokens.mean() >= 128,
        ),
        (
            f"{latency['tokens'].iloc[0]:.0f} tokens of a novel exact, one passage, "
            f"recipe {latency['recipe'].iloc[0]}, seconds, median of {len(latency)}",
            "under 20",
            "{} ({} to {})".format(*(_seconds(value) for value in (seconds, waits.min(), waits.max()))),
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
    runs = _some(results, "horizon")
    fields, lengths = base.model_dump(exclude={"name", "max_token_passes"}), {}
    for text, some in runs.groupby("recipe_json", sort=False):
        how = Recipe.model_validate_json(str(text)).model_dump()
        lengths[changes(fields, how) or "nothing"] = some.set_index("passage")["length"]
    if "nothing" not in lengths:
        raise CrammingError(f"no row has the recipe {base.name} to compare with: sweep a plan that has it")
    rows = {}
    for changed, some in sorted(lengths.items(), key=lambda item: item[0] != "nothing"):
        gain = (some - lengths["nothing"]).dropna()
        low, high = metrics.bootstrap_ci(gain)
        rows[changed] = {
            "passages": len(some),
            "exact horizon, tokens": _spread(some.mean(), some.std()),
            "shortest": some.min(),
            "against no change": "" if changed == "nothing" else f"{gain.mean():+.1f} ({low:+.1f} to {high:+.1f})",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("changed")


def changes(base: Mapping[str, object], how: Mapping[str, object]) -> str:
    """The fields that differ, in words: ``growth.block = 16, lr = 0.1``."""
    said = []
    for field, value in base.items():
        if isinstance(value, Mapping):
            inner = how[field]
            assert isinstance(inner, Mapping)
            said += [f"{field}.{part} = {inner[part]}" for part in value if inner[part] != value[part]]
        elif how[field] != value:
            said.append(f"{field} = {how[field]}")
    return ", ".join(said)


def executors(frame: pd.DataFrame) -> pd.DataFrame:
    """What benchmarks/executors.py wrote, against serial in the same round.

    Args:
        frame: Its rows.

    Returns:
        Index executor, in the order measured; columns rate (token passes a second, median over rounds), ratio (to
        serial, median of the ratios round by round), rounds.
    """
    rate = frame["token_passes"] / frame["seconds"]
    serial = frame["executor"] == "serial"
    ratio = rate / frame["round"].map(rate[serial].set_axis(frame.loc[serial, "round"]))
    grouped = frame.assign(rate=rate, ratio=ratio).groupby("executor", sort=False)
    return grouped.agg(rate=("rate", "median"), ratio=("ratio", "median"), rounds=("round", "nunique"))


def executors_table(summary: pd.DataFrame) -> pd.DataFrame:
    """`executors` for the page."""
    return pd.DataFrame(
        {
            "token passes a second": summary["rate"].map("{:.0f}".format),
            "of serial": summary["ratio"].map("{:.2f}".format),
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
    runs = _some(results, "cram")
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


def horizon_table(results: pd.DataFrame) -> pd.DataFrame:
    """`horizons` as a page shows it: one row a model and source, spread and unit in every cell or heading."""
    rows = {}
    for row in horizons(results).to_dict("records"):
        bound = metrics.theoretical_capacity(row["width"], row["vocab_size"])
        rows[(row["model"], row["source"])] = {
            "passages": row["n"],
            "exact horizon, tokens": _spread(row["mean"], row["sd"]),
            "95 % of the mean": f"{row['low']:.1f} to {row['high']:.1f}",
            "range": f"{row['least']} to {row['most']}",
            "token gain, tokens": _spread(row["token_gain_mean"], row["token_gain_sd"]),
            "information gain, bits": _spread(row["bits_mean"], row["bits_sd"], 0),
            "bits per token": f"{row['bits_per_token']:.2f}",
            "horizon over 16-bit bound": f"{row['mean'] / bound:.1%}",
            "token passes per exact token": f"{row['token_passes_per_token']:.0f}",
            "processor seconds per exact token": f"{row['cpu_seconds_per_token']:.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "text"])


def protocol_table(results: pd.DataFrame) -> pd.DataFrame:
    """`paper_protocol` beside `protocols` as a page shows them: one row a length."""
    both = paper_protocol(results).merge(protocols(results)[["length", "horizon_exact"]], on="length", how="left")
    return pd.DataFrame(
        {
            "length, tokens": both["length"],
            "passages": both["n"],
            "paper's recipe: accuracy": both["accuracy"].map("{:.3f}".format),
            "solved (accuracy 1)": both["solved"],
            "decode exactly, token 0 given": both["exact"],
            "tokens decoded, mean": both["greedy_tokens"].map("{:.1f}".format),
            "steps, mean": both["steps"].map("{:,.0f}".format),
            "processor seconds, mean": both["cpu_seconds"].map("{:,.0f}".format),
            "ours: passages exact at this length": (both["horizon_exact"] * both["n"]).round().astype("Int64"),
        }
    ).set_index("length, tokens")


def theory(results: pd.DataFrame) -> pd.DataFrame:
    """Bound and utilisation, in tokens and in bits, of every model published and of ours (Figure 5).

    The bound is `metrics.theoretical_capacity` for numbers of 32, 16 and 8 bits. What is set against it is the mean
    token gain, and the mean information gain against the bits of the vector. Published gains are means over runs
    beyond capacity, ours over horizons, and ours leave out the information of token 0.

    Returns:
        Columns model, here (whether measured here), source, n (passages, 0 if not published), width, vocab_size,
        bound_32, bound_16, bound_8 (tokens), token_gain (tokens), information_bits, tokens_used, bits_used (shares of
        the bound for 16-bit numbers).
    """
    models = published("models").set_index("hub_id")
    capacity = published("capacity")
    about = models.loc[capacity["model"].map(hub_id)].reset_index()
    said = pd.DataFrame(
        {
            "model": about["name"],
            "here": False,
            "source": capacity["source"],
            "n": 0,
            "width": about["hidden_size"],
            "vocab_size": about["vocab_size"],
            "token_gain": capacity["token_gain_mean"],
            "information_bits": capacity["information_gain_nats_mean"].map(metrics.nats_to_bits),
        }
    )
    ours = horizons(results).assign(here=True)
    ours = ours.rename(columns={"token_gain_mean": "token_gain", "bits_mean": "information_bits"})
    both = pd.concat([said, ours[list(said)]], ignore_index=True)
    for bits in (32, 16, 8):
        both[f"bound_{bits}"] = [metrics.theoretical_capacity(r.width, r.vocab_size, bits) for r in both.itertuples()]
    return both.assign(
        tokens_used=both["token_gain"] / both["bound_16"],
        bits_used=both["information_bits"] / (16 * both["width"]),
    )


def theory_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`theory` as a page shows it: one row a model and text."""
    return pd.DataFrame(
        {
            "model": [f"{r.model} ({'here' if r.here else 'published'})" for r in frame.itertuples()],
            "text": frame["source"],
            "width d": frame["width"],
            "bound, tokens: 32-bit": frame["bound_32"].map("{:,.0f}".format),
            "16-bit": frame["bound_16"].map("{:,.0f}".format),
            "8-bit": frame["bound_8"].map("{:,.0f}".format),
            "token gain, tokens": frame["token_gain"].map("{:,.1f}".format),
            "of the 16-bit bound": frame["tokens_used"].map("{:.1%}".format),
            "information gain, bits": frame["information_bits"].map("{:,.0f}".format),
            "of 16 d bits": frame["bits_used"].map("{:.1%}".format),
            "of 32 d": (frame["bits_used"] / 2).map("{:.1%}".format),
            "of 8 d": (frame["bits_used"] * 2).map("{:.1%}".format),
        }
    ).set_index("model")


def text_table(sizes: pd.DataFrame, surprise: pd.DataFrame) -> pd.DataFrame:
    """What passages are like, one row a source: sizes, and what they cost the model without mem.

    Args:
        sizes: From `cramming.information.sizes`.
        surprise: From `cramming.information.surprise`, of the same passages.
    """
    rows = {}
    for source, some in sizes.groupby("source", sort=False):
        tokens = surprise[surprise["source"] == source].groupby("passage")["nats"]
        bits = tokens.mean().map(metrics.nats_to_bits)
        # Characters of the tokens that are scored, as nearly as one can say: all but the first token's share.
        characters = some.set_index("passage")["characters"] * (1 - 1 / some.set_index("passage")["tokens"])
        rows[source] = {
            "passages": len(some),
            "tokens of each": _range(some["tokens"]),
            "words": _range(some["words"]),
            "characters a token": f"{some['characters'].sum() / some['tokens'].sum():.2f}",
            "bits a token": _spread(bits.mean(), bits.std(), 2),
            "range": f"{bits.min():.2f} to {bits.max():.2f}",
            "bits a character": f"{metrics.nats_to_bits(tokens.sum().sum()) / characters.sum():.2f}",
            "already the argmax": f"{(surprise.loc[surprise['source'] == source, 'least_nats'] == 0).mean():.0%}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("text")


def reduction(results: pd.DataFrame, surprise: pd.DataFrame) -> pd.DataFrame:
    """What cramming takes off the cross-entropy of each horizon, and the least that would do.

    Args:
        results: Rows of kind horizon.
        surprise: From `cramming.information.surprise`, of the same passages at least as long.

    Returns:
        One row a run: model, source, passage, length (tokens), bits (without mem), least_bits, removed_bits; all three
        leave token 0 out.
    """
    rows = []
    tokens = {str(name): some.sort_values("position") for name, some in surprise.groupby("passage")}
    for run in _some(results, "horizon").query("length >= 2").itertuples():
        some = tokens[run.passage].head(run.length - 1)
        if len(some) < run.length - 1:
            raise CrammingError(f"surprise covers {len(some) + 1} tokens of {run.passage}: give {run.length} or more")
        removed = metrics.information_gain(run.token_nats_without, run.token_nats_with, score_first=False)
        nats = (some["nats"].sum(), some["least_nats"].sum(), removed)
        rows.append((run.model, run.source, run.passage, run.length, *map(metrics.nats_to_bits, nats)))
    columns = ["model", "source", "passage", "length", "bits", "least_bits", "removed_bits"]
    return pd.DataFrame(rows, columns=columns)


def reduction_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`reduction` summed up, one row a model and source; shares are of sums over passages."""
    rows = {}
    for key, some in frame.groupby(["model", "source"], sort=False):
        ratio = some["removed_bits"] / some["least_bits"]
        rows[key] = {
            "passages": len(some),
            "horizon, tokens": _spread(some["length"].mean(), some["length"].std()),
            "bits without mem": _spread(some["bits"].mean(), some["bits"].std(), 0),
            "least to remove, bits": _spread(some["least_bits"].mean(), some["least_bits"].std(), 0),
            "removed, bits": _spread(some["removed_bits"].mean(), some["removed_bits"].std(), 0),
            "removed over least": _spread(ratio.mean(), ratio.std(), 2),
            "least over all": f"{some['least_bits'].sum() / some['bits'].sum():.0%}",
            "removed over all": f"{some['removed_bits'].sum() / some['bits'].sum():.0%}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "text"])


def limits(results: pd.DataFrame, told: pd.DataFrame, window: int) -> pd.DataFrame:
    """Each horizon beside what two laws foretell: as many tokens for every text, or as many bits.

    The forecast for a passage is made from the others: their mean horizon, or the length at which its own bits without
    mem add up to the mean bits of the others at their horizons. How dense a text is gets measured over its first
    `window` tokens, whatever its horizon: bits a token over the horizon itself would go along with it by arithmetic.

    Args:
        results: Rows of kind horizon.
        told: From `cramming.information.told`, of the same passages and at least as long as their horizons.
        window: Tokens.

    Returns:
        One row a run: source, passage, length (tokens), bits (without mem, over the horizon), density (bits a token
        over the window), by_tokens and by_bits (forecasts, tokens). Token 0 has no bits.
    """
    runs = _some(results, "horizon").query("length >= 2")
    sums = {
        str(name): np.append(0.0, np.cumsum(metrics.nats_to_bits(some.sort_values("position")["nats"].to_numpy())))
        for name, some in told.groupby("passage")
    }
    frame = pd.DataFrame(
        {
            "source": runs["source"],
            "passage": runs["passage"],
            "length": runs["length"],
            "bits": [sums[run.passage][run.length - 1] for run in runs.itertuples()],
            "density": [
                bits[:window][-1] / (len(bits[:window]) - 1) for bits in map(sums.__getitem__, runs["passage"])
            ],
        }
    ).reset_index(drop=True)
    others = max(1, len(frame) - 1)
    mean_tokens = (frame["length"].sum() - frame["length"]) / others
    mean_bits = (frame["bits"].sum() - frame["bits"]) / others
    reached = [
        min(int(np.searchsorted(sums[passage], bits, side="right")), len(sums[passage]))
        for passage, bits in zip(frame["passage"], mean_bits, strict=True)
    ]
    return frame.assign(by_tokens=mean_tokens, by_bits=reached)


def limit_tests(frame: pd.DataFrame) -> pd.DataFrame:
    """What speaks for tokens and what for bits as the limit of a vector, each with a 95 % bootstrap interval.

    Args:
        frame: From `limits`.

    Returns:
        Index test; columns value, low, high, tokens and bits (what the value would be if one of the two were the
        limit, in words), speaks (for tokens, bits, neither of them, or leaves both open).
    """
    rows: dict[str, tuple[float, float, float, str, str, str]] = {}
    for name, groups in (("all texts", None), ("within sources", frame["source"])):
        found = metrics.power_law(frame["density"], frame["length"], groups)
        low, high = found["low"], found["high"]
        fits = [law for law, slope in (("for tokens", 0), ("for bits", -1)) if low <= slope <= high]
        speaks = fits[0] if len(fits) == 1 else "leaves both open" if fits else "for neither"
        rows[f"slope of log horizon on log density, {name}"] = found["exponent"], low, high, "0", "-1", speaks

    def scatter(sample: pd.DataFrame) -> float:
        varies = {column: sample[column].std() / sample[column].mean() for column in ("bits", "length")}
        return _ratio(varies["bits"], varies["length"])

    def errors(sample: pd.DataFrame) -> float:
        wrong = {column: (sample[column] - sample["length"]).abs().mean() for column in ("by_bits", "by_tokens")}
        return _ratio(wrong["by_bits"], wrong["by_tokens"])

    generator = np.random.default_rng(0)
    draws = [frame.iloc[generator.integers(0, len(frame), len(frame))] for _ in range(1_000)]
    for name, statistic in (
        ("relative scatter of bits over that of tokens", scatter),
        ("error of the forecast by bits over that by tokens", errors),
    ):
        low, high = np.percentile([statistic(draw) for draw in draws], [2.5, 97.5], method="closest_observation")
        speaks = "for bits" if high < 1 else "for tokens" if low > 1 else "leaves both open"
        rows[name] = statistic(frame), float(low), float(high), "above 1", "below 1", speaks
    columns = ["value", "low", "high", "tokens", "bits", "speaks"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("test")


def limit_table(tests: pd.DataFrame) -> pd.DataFrame:
    """`limit_tests` as a page shows them."""
    return pd.DataFrame(
        {
            "measured": tests["value"].map("{:.2f}".format),
            "95 % interval": [f"{r.low:.2f} to {r.high:.2f}" for r in tests.itertuples()],
            "if tokens were the limit": tests["tokens"],
            "if bits were": tests["bits"],
            "speaks": tests["speaks"],
        }
    )


def held(frame: pd.DataFrame) -> pd.DataFrame:
    """`limits` by source as a page shows them: how much a vector held, in tokens and in bits."""
    rows = {}
    for source, some in [*frame.groupby("source", sort=False), ("all", frame)]:
        rows[source] = {
            "passages": len(some),
            "bits a token": _spread(some["density"].mean(), some["density"].std(), 2),
            "horizon, tokens": _spread(some["length"].mean(), some["length"].std()),
            "sd over mean, tokens": f"{some['length'].std() / some['length'].mean():.0%}",
            "horizon, bits without mem": _spread(some["bits"].mean(), some["bits"].std(), 0),
            "sd over mean, bits": f"{some['bits'].std() / some['bits'].mean():.0%}",
            "forecast by tokens is off by, tokens": f"{(some['by_tokens'] - some['length']).abs().mean():.1f}",
            "forecast by bits": f"{(some['by_bits'] - some['length']).abs().mean():.1f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("text")


def crammed_bits(results: pd.DataFrame) -> pd.DataFrame:
    """Bits of what was crammed, without mem and with it: one dot of Figure 3 a run; token 0 left out.

    Args:
        results: Rows of the store. A horizon counts with the prefix it reached, a cram with its whole passage, solved
            or not.

    Returns:
        Columns kind, source, passage, length (tokens), bits, bits_with.
    """
    runs = results[results["length"] >= 2]
    bits = {
        column: [metrics.nats_to_bits(float(np.sum(nats[1:]))) for nats in runs[f"token_nats_{which}"]]
        for column, which in (("bits", "without"), ("bits_with", "with"))
    }
    return runs[["kind", "source", "passage", "length"]].assign(**bits)


def past_capacity(dots: pd.DataFrame) -> pd.Series:
    """Which runs left more than a third of the bits of their passage: without some, a threshold would be made up.

    Args:
        dots: From `crammed_bits`.
    """
    return dots["bits_with"] > dots["bits"] / 3


def beyond(results: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """What a vector does to tokens before and behind the horizon it was found for.

    Args:
        results: Rows of kind horizon.
        told: From `cramming.information.told`, of the same passages, longer than their horizons.

    Returns:
        One row a token: source, passage, past (tokens past the last exact one; 0 and below are exact), bits_saved
        (bits without mem minus bits with it).
    """
    ends = _some(results, "horizon").set_index("passage")["length"]
    saved = (told["nats"] - told["nats_with"]).map(metrics.nats_to_bits)
    past = told["position"] - told["passage"].map(ends) + 1
    return told[["source", "passage"]].assign(past=past, bits_saved=saved)


def published_gains(source: str = "random", over: str = "pg19") -> pd.DataFrame:
    """Published token and information gains of one text over those of another, one row a model that has both.

    Returns:
        Index model; columns tokens and information: ratios.
    """
    capacity = published("capacity").assign(model=lambda frame: frame["model"].map(hub_id))
    by_model = capacity.set_index(["model", "source"])
    ratio = {
        name: by_model[column].xs(source, level="source") / by_model[column].xs(over, level="source")
        for name, column in (("tokens", "token_gain_mean"), ("information", "information_gain_nats_mean"))
    }
    return pd.DataFrame(ratio).dropna()


def attention_table(shares: Mapping[str, pd.DataFrame], plain: pd.DataFrame, hub: str) -> pd.DataFrame:
    """Share of attention on mem, by recipe, and on the first token of plain text: here, and published for one model.

    Args:
        shares: From `cramming.attention.mem_shares`, by name of the recipe.
        plain: From `cramming.attention.first_token_shares`.
        hub: Hub id of the published model. Source: arXiv 2607.21231 (attention_mass.csv).
    """
    said = published("attention_mass").set_index("model").loc[hub]
    rows: dict[str, tuple[str, str]] = {}
    for recipe, some in shares.items():
        each = some.groupby("passage")["share"].mean() * 100
        rows[f"mem, {SYSTEMS[recipe]}"] = _spread(each.mean(), each.std()), f"here, {len(each)} passages"
    for what, name in (("mem", "mem, progressive"), ("bos", "first token of plain text")):
        value, sd = (said[f"{what}_attention_mass_percent_{part}"] for part in ("mean", "std"))
        rows[f"{name}, {hub}"] = _spread(value, sd), "published"
    each = plain.groupby("passage")["share"].mean() * 100
    rows["first token of plain text"] = _spread(each.mean(), each.std()), f"here, {len(each)} passages"
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["share of attention, %", "where"])
    return frame.rename_axis("what is looked at").sort_index(ascending=False)


def gains(results: pd.DataFrame) -> pd.DataFrame:
    """The horizons of the results with what each vector gained.

    Returns:
        The rows of kind horizon and their columns, with token_gain (tokens), bits (information gain over tokens 1 on)
        and bits_capped (the same, where without mem these tokens cost no more than a uniform guess: a model worse than
        that gains bits by being cured of its errors, too). A horizon of 0 or 1 tokens gains no bits.
    """
    runs = _some(results, "horizon")
    bits = runs.apply(_bits_after_first, axis=1)
    without = [metrics.nats_to_bits(float(np.sum(nats[1:]))) for nats in runs["token_nats_without"]]
    guess = (runs["length"] - 1).clip(lower=0) * np.log2(runs["vocab_size"])
    return runs.assign(
        token_gain=runs["correct_with"] - runs["correct_without"],
        bits=bits,
        bits_capped=bits - (without - guess).clip(lower=0),
    )


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
        shown[f"exponent of {fit.against} (95 %)"] = f"{fit.exponent:.2f} ({fit.low:.2f} to {fit.high:.2f})"
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
            "bits a token without mem": [_spread(r.bits_without, r.bits_without_sd) for r in frame.itertuples()],
            "passages": frame["n"],
            "exact horizon, tokens": [_spread(r.horizon, r.horizon_sd) for r in frame.itertuples()],
            "range": [f"{r.least} to {r.most}" for r in frame.itertuples()],
            "against the whole, tokens": [
                _interval(r.horizon_difference, r.horizon_low, r.horizon_high) for r in frame.itertuples()
            ],
            "token gain, tokens": [_spread(r.token_gain, r.token_gain_sd) for r in frame.itertuples()],
            "information gain, bits": [_spread(r.bits, r.bits_sd, 0) for r in frame.itertuples()],
            "against the whole, bits": [
                _interval(r.bits_difference, r.bits_low, r.bits_high, 0) for r in frame.itertuples()
            ],
            "against a uniform guess at most": [
                _spread(r.bits_capped, r.bits_capped_sd, 0) for r in frame.itertuples()
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


def several_vectors(runs: pd.DataFrame) -> pd.DataFrame:
    """Capacity and gains by number of mem vectors, published and ours, against what that many single ones would hold.

    The ideal is k times what one vector holds. Published gains are means over runs beyond capacity, ours over
    horizons, and ours leave out the information of token 0.

    Args:
        runs: From `same_passages`.

    Returns:
        One row a model and k: model, here (whether measured here), n_vectors, n (passages, 0 if not published),
        capacity (tokens; ours the mean horizon) and capacity_sd (nan where published), token_gain, token_gain_sd
        (tokens), bits, bits_sd (information gain); of these three the columns _each (over k) and _share (over the
        ideal); ratio, ratio_low, ratio_high (horizon over that of one vector, mean over passages whose single vector
        holds any, 95 % bootstrap interval; nan where published or where there is none).
    """
    said = published("n_vectors")
    rows = [
        {
            "model": row.model,
            "here": False,
            "n_vectors": row.n_vectors,
            "n": 0,
            "capacity": row.decoding_capacity_tokens,
            "token_gain": row.token_gain_mean,
            "token_gain_sd": row.token_gain_std,
            "bits": metrics.nats_to_bits(row.information_gain_nats_mean),
            "bits_sd": metrics.nats_to_bits(row.information_gain_nats_std),
        }
        for row in said.itertuples()
    ]
    single = runs[runs["n_vectors"] == 1].set_index("passage")["length"]
    for (model, k), some in runs.groupby(["model", "n_vectors"]):
        ratios = (some.set_index("passage")["length"] / single[single > 0]).dropna()
        low, high = metrics.bootstrap_ci(ratios) if len(ratios) else (np.nan, np.nan)
        rows.append(
            {
                "model": model,
                "here": True,
                "n_vectors": k,
                "n": len(some),
                "capacity": some["length"].mean(),
                "capacity_sd": some["length"].std(),
                "token_gain": some["token_gain"].mean(),
                "token_gain_sd": some["token_gain"].std(),
                "bits": some["bits"].mean(),
                "bits_sd": some["bits"].std(),
                "ratio": ratios.mean(),
                "ratio_low": low,
                "ratio_high": high,
            }
        )
    frame = pd.DataFrame(rows)
    for column in ("capacity", "token_gain", "bits"):
        one = frame["model"].map(frame[frame["n_vectors"] == 1].set_index("model")[column])
        frame[f"{column}_each"] = frame[column] / frame["n_vectors"]
        frame[f"{column}_share"] = frame[f"{column}_each"] / one.where(one > 0)
    return frame


def several_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`several_vectors` as a page shows it: one row a model and number of vectors."""
    rows = {}
    for row in frame.to_dict("records"):
        where = "here" if row["here"] else "published"
        shown: dict[str, object] = {"passages": row["n"] or ""}
        for column, name, short, digits in (
            ("capacity", "capacity or horizon, tokens", "capacity", 1 if row["here"] else 0),
            ("token_gain", "token gain, tokens", "token gain", 1),
            ("bits", "information gain, bits", "information", 0),
        ):
            known = row[column] == row[column]
            shown[name] = _spread(row[column], row[f"{column}_sd"], digits) if known else ""
            shown[f"{short} per vector"] = f"{row[f'{column}_each']:,.{digits}f}" if known else ""
            shown[f"{short} of the ideal"] = _share(row[f"{column}_share"])
        known = row["here"] and row["n_vectors"] > 1 and row["ratio"] == row["ratio"]
        shown["times one vector"] = (
            f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})" if known else ""
        )
        rows[(f"{row['model'].split('/')[-1]} ({where})", row["n_vectors"])] = shown
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "vectors"])


def several_ends(runs: pd.DataFrame) -> pd.DataFrame:
    """How runs with several vectors ended, and what they had after as many steps as the shortest run took.

    Args:
        runs: From `same_passages`.

    Returns:
        Index n_vectors; columns n, ended (why, with counts), offered (runs that reached the end of their text), steps,
        token_passes and cpu_seconds (means), horizon and horizon_sd (tokens, at the end), late and late_sd (exact
        tokens won in the last quarter of the token passes), common_steps (of the shortest run of all), at_steps and
        at_steps_sd (exact tokens by then).
    """
    common = runs["steps"].min()
    each = []
    for i in range(len(runs)):
        (passes, exact), (steps, by_then) = (exact_curve(runs.iloc[[i]], along) for along in ("token_passes", "steps"))
        each.append((exact[-1] - stair(passes, exact, 0.75 * passes[-1]), stair(steps, by_then, common)))
    rows = {}
    timed = runs.assign(**dict(zip(("late", "at_steps"), zip(*each, strict=True), strict=True)))
    for k, some in timed.groupby("n_vectors"):
        rows[k] = {
            "n": len(some),
            "ended": ", ".join(f"{n} {why}" for why, n in some["ended"].value_counts().items()),
            "offered": int((some["length"] == some["offered"]).sum()),
            "steps": some["steps"].mean(),
            "token_passes": some["token_passes"].mean(),
            "cpu_seconds": some["cpu_seconds"].mean(),
            "horizon": some["length"].mean(),
            "horizon_sd": some["length"].std(),
            "late": some["late"].mean(),
            "late_sd": some["late"].std(),
            "common_steps": common,
            "at_steps": some["at_steps"].mean(),
            "at_steps_sd": some["at_steps"].std(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("n_vectors")


def several_ends_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`several_ends` as a page shows it: one row a number of vectors."""
    common = frame["common_steps"].iloc[0]
    return pd.DataFrame(
        {
            "passages": frame["n"],
            "ended by": frame["ended"],
            "reached the end of the text": frame["offered"],
            "steps, mean": frame["steps"].map("{:,.0f}".format),
            "token passes, mean": frame["token_passes"].map("{:,.0f}".format),
            "exact tokens at the end": [_spread(r.horizon, r.horizon_sd) for r in frame.itertuples()],
            "of these won in the last quarter": [_spread(r.late, r.late_sd) for r in frame.itertuples()],
            f"exact tokens after {common:,} steps": [_spread(r.at_steps, r.at_steps_sd) for r in frame.itertuples()],
        }
    ).rename_axis("vectors")


# What a passage is crammed into, as a page calls it, and with the number of its parts.
MEMORIES = {
    "vectors": ("mem vectors", "{} mem vector"),
    "prefix": ("keys and values", "keys and values in {} layer"),
    "proto": ("proto-tokens", "{} proto-token"),
}


def memories(runs: pd.DataFrame) -> pd.DataFrame:
    """What several memories hold, their floats and their cost, and each against mem vectors of as many floats.

    Args:
        runs: Rows of kind horizon, from `cramming.memories.sized`.

    Returns:
        One row a memory and number of its parts, by floats: floats, memory, parts, n, mean, sd, low, high (exact
        horizon, tokens, with its 95 % bootstrap interval), tokens_each (per 1,000 floats), late (tokens won in the
        last quarter of the token passes, mean), token_passes, steps and cpu_seconds (means), more, more_low, more_high
        (horizon less that of as many floats in mem vectors on the same passages, mean with its interval; nan if there
        are none such).

    Raises:
        CrammingError: If there is no run of kind horizon.
    """
    runs = _some(runs, "horizon")
    late = []
    for i in range(len(runs)):
        passes, exact = exact_curve(runs.iloc[[i]])
        late.append(exact[-1] - stair(passes, exact, 0.75 * passes[-1]))
    runs = runs.assign(late=late, place=runs["memory"].map(list(MEMORIES).index))
    plain = runs[runs["memory"] == "vectors"].set_index(["floats", "passage"])["length"]
    rows = []
    for (floats, _, parts), some in runs.groupby(["floats", "place", "n_vectors"]):
        memory = some["memory"].iloc[0]
        more = (some.set_index(["floats", "passage"])["length"] - plain).dropna()
        known = memory != "vectors" and len(more) > 0
        low, high = metrics.bootstrap_ci(more) if known else (np.nan, np.nan)
        rows.append(
            {
                "floats": floats,
                "memory": memory,
                "parts": parts,
                **metrics.horizon_summary(some["length"]),
                "tokens_each": 1000 * some["length"].mean() / floats,
                **some[["late", "token_passes", "steps", "cpu_seconds"]].mean(),
                "more": more.mean() if known else np.nan,
                "more_low": low,
                "more_high": high,
            }
        )
    return pd.DataFrame(rows)


def memory_in_words(memory: str, parts: int) -> str:
    """Such as ``keys and values in 3 layers``."""
    return MEMORIES[memory][1].format(parts) + ("s" if parts > 1 else "")


def memories_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`memories` as a page shows it: one row a memory and number of floats."""
    rows = {
        (f"{row.floats:,}", memory_in_words(row.memory, row.parts)): {
            "passages": row.n,
            "exact horizon, tokens": f"{row.mean:.1f} ({row.low:.1f} to {row.high:.1f})",
            "against as many vectors": _interval(row.more, row.more_low, row.more_high),
            "tokens per 1,000 floats": f"{row.tokens_each:.1f}",
            "won in the last quarter": f"{row.late:.1f}",
            "steps": f"{row.steps:,.0f}",
        }
        for row in frame.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["floats", "memory"])


def memories_seconds(frame: pd.DataFrame, read: pd.DataFrame) -> pd.DataFrame:
    """Processor seconds to make a memory and to read it back, one row a memory and number of floats.

    Args:
        frame: From `memories`.
        read: Columns memory, n_vectors, tokens (read back), seconds; one row a reading.
    """
    rows = {}
    for row in frame.itertuples():
        some = read[(read["memory"] == row.memory) & (read["n_vectors"] == row.parts)]
        each = (some["seconds"] / some["tokens"]).median()
        rows[(f"{row.floats:,}", memory_in_words(row.memory, row.parts))] = {
            "seconds to make": f"{row.cpu_seconds:,.0f}",
            "tokens read": _range(some["tokens"]) if len(some) else "",
            "milliseconds to read a token": f"{1000 * each:,.1f}" if each == each else "",
            "seconds to read the mean horizon": f"{each * row.mean:,.2f}" if each == each else "",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["floats", "memory"])


def memories_tuning(runs: pd.DataFrame) -> pd.DataFrame:
    """The recipes that were tried for each memory, the best first: one row a memory and change.

    Args:
        runs: From `cramming.memories.sized`.
    """
    base, rows = RECIPES["horizon"].model_dump(exclude={"name", "memory", "max_token_passes"}), []
    for (memory, parts, text), some in _some(runs, "horizon").groupby(["memory", "n_vectors", "recipe_json"]):
        how = Recipe.model_validate_json(str(text)).model_dump()
        loss = np.mean([losses[-1] for losses in some["trace_loss"]])
        rows.append((memory_in_words(memory, parts), changes(base, how), len(some), some["length"].mean(), loss))
    names = ["memory", "recipe", "passages", "horizon", "loss"]
    tried = pd.DataFrame(rows, columns=names).sort_values(["memory", "horizon", "loss"], ascending=[True, False, True])
    return pd.DataFrame(
        {
            "passages": tried["passages"],
            "exact horizon, tokens": tried["horizon"].map("{:.1f}".format),
            "loss at the end, nats": tried["loss"].map("{:.1f}".format),
        }
    ).set_index(pd.MultiIndex.from_frame(tried[["memory", "recipe"]]))


def similarity_table(pairs: pd.DataFrame, width: int) -> pd.DataFrame:
    """Cosine between vectors of one text and of two, and what random directions of that width would have.

    Args:
        pairs: From `cramming.landscape.similarity`.
        width: d.
    """
    rows = {}
    for same, name in ((True, "of one text"), (False, "of two texts")):
        some = pairs.loc[pairs["same"] == same, "cosine"]
        rows[name] = (f"{len(some):,}", _spread(some.mean(), some.std(), 3), f"{some.min():.3f} to {some.max():.3f}")
    rows["random directions, expected"] = ("", _spread(0.0, width**-0.5, 3), "")
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["pairs", "cosine", "range"])
    return frame.rename_axis("two vectors")


def nearest_table(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How near vectors are to token embeddings, one row a kind of vector.

    Args:
        frames: From `cramming.landscape.nearest_tokens`, by what was compared with what.
    """
    rows = {}
    for name, some in frames.items():
        rows[name] = {
            "vectors": len(some),
            "cosine with the nearest token": _spread(some["cosine"].mean(), some["cosine"].std(), 3),
            "nearest token is in the passage": f"{some['inside'].mean():.0%}",
            "nearest is token 0": f"{some['first'].mean():.0%}",
            "cosine with the passage's tokens": _spread(some["own"].mean(), some["own"].std(), 3),
            "rank of the nearest of these, median": f"{some['rank'].median():,.0f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what is compared")


def ways(frame: pd.DataFrame) -> pd.DataFrame:
    """What comes out along each way between two vectors, summed up.

    Args:
        frame: From `cramming.landscape.walk`.

    Returns:
        Index way; columns passage, degrees (length), ends, middle, worst, mean (share of tokens right at the two ends,
        at the point next to half of the way, at the worst point, over all points), exact (share of points with every
        token right).
    """
    rows = {}
    for way, some in frame.groupby("way"):
        right = some.sort_values("share")["right"].to_numpy()
        rows[way] = {
            "passage": some["passage"].iloc[0],
            "degrees": some["degrees"].iloc[0],
            "ends": right[[0, -1]].mean(),
            "middle": right[len(right) // 2],
            "worst": right.min(),
            "mean": right.mean(),
            "exact": (right == 1).mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("way")


def ways_table(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`ways` as a page shows it, one row a kind of way.

    Args:
        frames: From `cramming.landscape.walk`, by kind of way.
    """
    rows = {}
    for name, frame in frames.items():
        each = ways(frame)
        percent = {
            f"right, %: {what}": _spread(each[column].mean() * 100, each[column].std() * 100, 0)
            for what, column in (("ends", "ends"), ("half-way", "middle"), ("worst point", "worst"), ("mean", "mean"))
        }
        rows[name] = {
            "ways": len(each),
            "length, degrees": _spread(each["degrees"].mean(), each["degrees"].std(), 0),
            **percent,
            "points with all right": f"{each['exact'].mean():.0%}",
            "ways with all right throughout": int((each["worst"] == 1).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("way")


SURPRISE = (-np.inf, 1, 3, 6, 10, np.inf)  # bits; rounding may put a certain token below 0
SURPRISE_LABELS = ("under 1", "1 to 3", "3 to 6", "6 to 10", "10 or more")

CONTEXTS = {
    "nothing": "nothing",
    "context": "text before it",
    "mem": "mem",
    "context, mem": "text before it, then mem",
    "mem, context": "mem, then text before it",
    "copy": "the passage itself",
    "other context": "text before another passage",
    "other mem": "mem of another passage",
}


def context_summary(gains: pd.DataFrame) -> pd.DataFrame:
    """What stands in front of passages and what it takes off their cross-entropy, one row a condition.

    Args:
        gains: From `cramming.context.gains`.

    Returns:
        Indexed by what (`CONTEXTS`) and context_tokens: n (passages), gain_mean, gain_sd (bits a passage), mean, sd,
        sem (bits a token, each passage counted alike), removed (share of the bits without, sums over passages),
        right_mean, right_sd (share of tokens).
    """
    rows = {}
    for key, some in gains.groupby(["what", "context_tokens"]):
        rows[key] = {
            "n": len(some),
            "gain_mean": some["gain_bits"].mean(),
            "gain_sd": some["gain_bits"].std(),
            "mean": some["gain_per_token"].mean(),
            "sd": some["gain_per_token"].std(),
            "sem": some["gain_per_token"].sem(),
            "removed": some["gain_bits"].sum() / some["bits_without"].sum(),
            "right_mean": some["right"].mean(),
            "right_sd": some["right"].std(),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "context_tokens"])
    return frame.loc[[what for what in CONTEXTS if what in frame.index]]


def context_table(gains: pd.DataFrame) -> pd.DataFrame:
    """`context_summary` as a page shows it: true context of every length, the rest with the shortest and longest."""
    summary = context_summary(gains).reset_index()
    lengths = summary.loc[summary["what"] == "context", "context_tokens"]
    shown = summary[summary["context_tokens"].isin([0, lengths.min(), lengths.max()]) | (summary["what"] == "context")]
    rows = {
        (CONTEXTS[row.what], f"{row.context_tokens}" if row.context_tokens else ""): {
            "passages": row.n,
            "gain, bits": _spread(row.gain_mean, row.gain_sd, 0),
            "gain, bits a token": _spread(row.mean, row.sd, 2),
            "of all bits": f"{row.removed:.0%}",
            "tokens right, %": _spread(row.right_mean * 100, row.right_sd * 100, 0),
        }
        for row in shown.itertuples()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.rename_axis(["in front of the passage", "tokens of text before"])


def context_worth(gains: pd.DataFrame) -> pd.DataFrame:
    """How much true context tells as much as mem alone does, passage by passage.

    Args:
        gains: From `cramming.context.gains`.

    Returns:
        One row a passage: source, passage, mem_bits, context_bits (gain from the longest context), context_tokens (how
        long that is), worth (tokens of the shortest context that gains as much as mem, nan if none does).
    """
    rows = []
    for (source, passage), some in gains.groupby(["source", "passage"]):
        context = some[some["what"] == "context"].sort_values("context_tokens")
        mem = some.loc[some["what"] == "mem", "gain_bits"].item()
        if context.empty:
            raise CrammingError(f"{passage} was given no context: pass lengths that its text before it has")
        longest = context.iloc[-1]
        worth = context.loc[context["gain_bits"] >= mem, "context_tokens"].min()
        rows.append((source, passage, mem, longest["gain_bits"], longest["context_tokens"], worth))
    columns = ["source", "passage", "mem_bits", "context_bits", "context_tokens", "worth"]
    return pd.DataFrame(rows, columns=columns).astype({"worth": float})


def context_by_surprise(tokens: pd.DataFrame) -> pd.DataFrame:
    """Which tokens context, a copy and mem tell of: tokens sorted by what they cost with nothing in front.

    Args:
        tokens: From `cramming.context.told`; of context only the longest of each passage is used.

    Returns:
        One row a class of bits without: tokens (count), bits without, and the mean gain in bits from the longest
        context, the copy and mem.
    """
    context = tokens[tokens["what"] == "context"]
    longest = context[context["context_tokens"] == context.groupby("passage")["context_tokens"].transform("max")]
    some = pd.concat([tokens[tokens["what"].isin(["nothing", "mem", "copy"])], longest])
    bits = some.pivot_table("nats", ["passage", "position"], "what").map(metrics.nats_to_bits)
    alone = bits["nothing"]
    classes = pd.cut(alone, SURPRISE, labels=SURPRISE_LABELS, right=False).rename("bits without")
    frame = bits.rsub(alone, axis=0).assign(nothing=alone).groupby(classes, observed=True)
    shown = frame.mean().map("{:.2f}".format)[["nothing", "context", "copy", "mem"]]
    shown.columns = ["mean bits without", *(f"gain from {CONTEXTS[what]}" for what in ("context", "copy", "mem"))]
    shown.insert(0, "tokens", frame.size())
    return shown


ACCURACY_CLASSES = {"all": (1, 2), "0.9 or more": (0.9, 1), "0.5 to 0.9": (0.5, 0.9), "under 0.5": (0, 0.5)}


def accuracy_and_exactness(results: pd.DataFrame) -> pd.DataFrame:
    """Crams of a fixed length by teacher-forced accuracy, and how far greedy decoding from the same vectors gets.

    Both are of the vector kept, as certified. Where token 0 was given, it counts for neither.

    Args:
        results: Rows of kind cram.

    Returns:
        One row a class of share right, teacher-forced: crams, passages, exact, tokens before the first error (mean ±
        sd, as % of the passage), first error (token number, median of those that have one), crams without one token.
    """
    runs = _some(results, "cram")
    scored = runs["length"] - ~runs["score_first"]
    right, decoded = runs["correct_teacher"] / scored, runs["correct_greedy"] / scored * 100
    first = (runs["correct_greedy"] + 1).where(decoded < 100)
    rows = {}
    for label, (low, high) in ACCURACY_CLASSES.items():
        some = (right >= low) & (right < high)
        if some.any():
            rows[label] = {
                "crams": some.sum(),
                "passages": runs.loc[some, "passage"].nunique(),
                "exact": runs.loc[some, "exact"].sum(),
                "tokens before the first error, %": _spread(decoded[some].mean(), decoded[some].std(), 0),
                "first error at token": _number(first[some].median()),
                "wrong from the first token on": (runs.loc[some, "correct_greedy"] == 0).sum(),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tokens right, teacher-forced")


def exactness(gaps: pd.DataFrame) -> pd.DataFrame:
    """What each setting makes of each vector.

    Args:
        gaps: From `cramming.robustness.gaps`.

    Returns:
        One row a setting and run, in the order given: setting, coarse, run, tokens, exact, first_error (token number,
        nan if exact), margin (smallest reference gap, logits), change (greatest change of a gap, logits).
    """
    frame = gaps.assign(
        change=(gaps["gap"] - gaps["reference"]).abs(), first_error=(gaps["position"] + 1).where(~(gaps["gap"] > 0))
    )
    each = frame.groupby(["setting", "coarse", "run"], sort=False, as_index=False).agg(
        tokens=("gap", "size"),
        first_error=("first_error", "min"),
        margin=("reference", "min"),
        change=("change", "max"),
    )
    return each.assign(exact=each["first_error"].isna())


def against(gaps: pd.DataFrame, setting: str) -> pd.DataFrame:
    """`cramming.robustness.gaps` with another setting as the reference, put first."""
    own = gaps[gaps["setting"] == setting]
    usual = own.set_index(["run", "position"])["gap"].rename("reference")
    frame = pd.concat([own, gaps[gaps["setting"] != setting]]).drop(columns="reference")
    return frame.join(usual, on=["run", "position"])


def settings(gaps: pd.DataFrame) -> pd.DataFrame:
    """What survives each setting, of the tokens and vectors that are right in the first one.

    Args:
        gaps: From `cramming.robustness.gaps`.

    Returns:
        Index setting; columns coarse, vectors (exact in the first setting), exact (of these), first_error (token
        number, median of those that fail), decoded (mean share of their tokens before it), tokens (won in the first
        setting), undone (of these), undone_margin (the greatest that one of them had, logits, nan if there is none),
        change (greatest change of a gap, of all tokens, logits).
    """
    each, won = exactness(gaps), gaps[gaps["reference"] > 0]
    rows = {}
    for setting, some in each.groupby("setting", sort=False):
        exact, lost = some[some["margin"] > 0], won[(won["setting"] == setting) & ~(won["gap"] > 0)]
        failed = exact[~exact["exact"]]
        rows[setting] = {
            "coarse": some["coarse"].iloc[0],
            "vectors": len(exact),
            "exact": exact["exact"].sum(),
            "first_error": failed["first_error"].median(),
            "decoded": ((failed["first_error"] - 1) / failed["tokens"]).mean(),
            "tokens": (won["setting"] == setting).sum(),
            "undone": len(lost),
            "undone_margin": lost["reference"].max(),
            "change": some["change"].max(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("setting")


def settings_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`settings` as a page shows it; the first setting, which the others are compared with, is left out."""
    some = frame.iloc[1:]
    return pd.DataFrame(
        {
            "vectors exact": [f"{row.exact} of {row.vectors}" for row in some.itertuples()],
            "first error at token": some["first_error"].map(_number),
            "tokens undone": [f"{row.undone} of {row.tokens:,}" for row in some.itertuples()],
            "greatest margin undone, logits": some["undone_margin"].map(_figures),
            "greatest change of a margin, logits": some["change"].map(_figures),
        }
    )


def safe_margin(gaps: pd.DataFrame) -> float:
    """The smallest margin above which no token is undone by any of the settings, in logits; 0 if none is at all.

    A prefix whose margin is greater stays exact in all of them.
    """
    lost = gaps[(gaps["reference"] > 0) & ~(gaps["gap"] > 0)]
    return float(lost["reference"].max()) if len(lost) else 0.0


def asked(results: pd.DataFrame) -> pd.DataFrame:
    """Horizons that differ in the margin asked for only, on the passages that every margin was asked on.

    Args:
        results: Rows of kind horizon. If several recipes are among them, the one with most margins counts.

    Returns:
        The rows, with asked (the margin, logits) and left (length over that with the least margin; nan if that is 0),
        sorted by asked and passage.

    Raises:
        CrammingError: If no passage has been run with every margin.
    """
    runs = _some(results, "horizon")
    hows = [Recipe.model_validate_json(text) for text in runs["recipe_json"]]
    runs = runs.assign(asked=[how.stop_margin for how in hows])
    rest = pd.Series([how.model_copy(update={"stop_margin": 0.0}).model_dump_json() for how in hows], runs.index)
    runs = runs[rest == runs.groupby(rest)["asked"].nunique().idxmax()]
    runs = runs[runs.groupby("passage")["asked"].transform("nunique") == runs["asked"].nunique()]
    if runs.empty:
        raise CrammingError("no passage was run with every margin: sweep the same passages for each")
    runs = runs.sort_values(["asked", "passage"], ignore_index=True)
    least = runs[runs["asked"] == runs["asked"].min()].set_index("passage")["length"]
    return runs.assign(left=runs["length"] / runs["passage"].map(least.where(least > 0)))


def asked_table(runs: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """What asking for a margin from the start costs in tokens, and what it buys.

    Args:
        runs: From `asked`.
        gaps: From `cramming.robustness.gaps`, with a column key.

    Returns:
        Index margin asked for; columns passages, exact horizon (tokens, mean ± sd), against the least margin (mean of
        the differences passage by passage, tokens, with a 95 % bootstrap interval), left (mean %), and of the vectors
        how many are exact in all settings that are not coarse, and in each that is.
    """
    each = exactness(gaps).assign(key=lambda frame: frame["run"].map(gaps.groupby("run")["key"].first()))
    least = runs[runs["asked"] == runs["asked"].min()].set_index("passage")["length"]
    rows = {}
    for margin, some in runs.groupby("asked"):
        gain = some.set_index("passage")["length"] - least
        mine = each[each["key"].isin(some["key"])]
        n, fine = mine["run"].nunique(), mine[~mine["coarse"]].groupby("run")["exact"].all()
        rows[f"{margin:g}"] = {
            "passages": len(some),
            "exact horizon, tokens": _spread(some["length"].mean(), some["length"].std()),
            "against the least margin": _interval(gain.mean(), *metrics.bootstrap_ci(gain)) if gain.any() else "",
            "left, %": f"{some['left'].mean() * 100:.0f}" if some["left"].notna().any() else "",
            "exact in all of 32 and 64 bits": f"{fine.sum()} of {n}",
            **{
                setting: f"{kept['exact'].sum()} of {n}"
                for setting, kept in mine[mine["coarse"]].groupby("setting", sort=False)
            },
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("margin asked for, logits")


def cut(gaps: pd.DataFrame, margins: Collection[float]) -> pd.DataFrame:
    """Vectors cut afterwards to the longest prefix whose margin in the first setting is at least so much.

    Args:
        gaps: From `cramming.robustness.gaps`.
        margins: In logits, above 0.

    Returns:
        One row a margin, setting and run: margin, setting, coarse, run, tokens (of the prefix), left (share of the
        tokens that are exact uncut), exact (in that setting; True for a prefix of no token).
    """
    each, once = exactness(gaps), gaps[gaps["setting"] == gaps["setting"].iloc[0]]

    def prefix(won: pd.Series) -> pd.Series:
        """Tokens of each run before the first that is not won."""
        return won.astype(int).groupby(once["run"]).cumprod().groupby(once["run"]).sum()

    whole, parts = prefix(once["reference"] > 0), []
    for margin in margins:
        tokens = each["run"].map(prefix(once["reference"] >= margin))
        left = tokens / each["run"].map(whole.where(whole > 0))
        exact = ~(each["first_error"] <= tokens)
        part = each[["setting", "coarse", "run"]]
        parts.append(part.assign(margin=float(margin), tokens=tokens, left=left, exact=exact))
    return pd.concat(parts, ignore_index=True)


def cut_price(cuts: pd.DataFrame) -> pd.DataFrame:
    """What cutting afterwards leaves, over runs that are exact for a token or more.

    Args:
        cuts: From `cut`.

    Returns:
        Index margin; columns n (runs), tokens (mean), left, low, high (mean share and its 95 % bootstrap interval).
    """
    each = cuts.dropna(subset="left").drop_duplicates(["margin", "run"])
    rows = {}
    for margin, some in each.groupby("margin"):
        low, high = metrics.bootstrap_ci(some["left"])
        rows[margin] = {
            "n": len(some), "tokens": some["tokens"].mean(), "left": some["left"].mean(), "low": low, "high": high
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("margin")


def cut_price_table(price: pd.DataFrame) -> pd.DataFrame:
    """`cut_price` as a page shows it."""
    shown = pd.DataFrame(
        {
            "vectors": price["n"].astype(int),
            "exact tokens, mean": price["tokens"].map("{:,.1f}".format),
            "left, % (95 % interval)": [
                f"{row.left:.0%} ({row.low:.0%} to {row.high:.0%})".replace("%", "") for row in price.itertuples()
            ],
        }
    )
    return shown.set_axis([f"{margin:g}" for margin in price.index]).rename_axis("margin, logits")


def survival_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """What is left of passages after their vectors were changed, one row a way and amount of change.

    Args:
        frame: From `cramming.precision.survival` or `few_bits`.

    Returns:
        Indexed by what and amount: n (passages), cases (more, if noise is drawn several times), stored_bits (of the
        vectors of a passage), degrees (mean angle to the vectors before), exact_mean, exact_sd, exact_sem (tokens),
        share_mean, share_sem (of the tokens of a passage), whole (cases of which every token is left), bits_per_token
        (bits stored over tokens left, sums over passages; infinite if none is left).
    """
    rows = {}
    share = frame["exact"] / frame["length"]
    for key, some in frame.assign(share=share).groupby(["what", "amount"], sort=False):
        rows[key] = {
            "n": some["passage"].nunique(),
            "cases": len(some),
            "stored_bits": some["stored_bits"].mean(),
            "degrees": some["degrees"].mean(),
            "exact_mean": some["exact"].mean(),
            "exact_sd": some["exact"].std(),
            "exact_sem": some["exact"].sem(),
            "share_mean": some["share"].mean(),
            "share_sem": some["share"].sem(),
            "whole": int((some["exact"] == some["length"]).sum()),
            "bits_per_token": _ratio(some["stored_bits"].sum(), some["exact"].sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "amount"])


def survival_table(summary: pd.DataFrame, first: str = "written as") -> pd.DataFrame:
    """`survival_summary` of what takes a number of bits, as a page shows it; `first` heads the first column."""
    some = summary[summary["stored_bits"].notna()].reset_index()
    rows = {
        (row.what, f"{row.amount:g}"): {
            "bits a vector": f"{row.stored_bits:,.0f}",
            "angle, degrees": f"{row.degrees:.1f}" if row.degrees == row.degrees else "",
            "exact tokens left": _spread(row.exact_mean, row.exact_sd),
            "passages whole": f"{row.whole} of {row.n}",
            "bits of vector a token left": f"{row.bits_per_token:,.0f}" if np.isfinite(row.bits_per_token) else "",
        }
        for row in some.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis([first, "bits a number"])


def fewest_bits(frame: pd.DataFrame) -> pd.DataFrame:
    """The fewest bits a number at which passages stay exact over their whole length, and at all more that were tried.

    Args:
        frame: From `cramming.precision.survival` or `few_bits`.

    Returns:
        One row a way of rounding and passage: what, source, passage, length, fewest (bits a number; nan if some token
        is lost even at the most), stored_bits (of the vectors of that passage, then).
    """
    rows = []
    some = frame[frame["stored_bits"].notna()].sort_values("amount", ascending=False)
    for (what, source, passage), each in some.groupby(["what", "source", "passage"], sort=False):
        kept = each[(each["exact"] == each["length"]).cummin()]
        fewest, bits = (kept["amount"].iloc[-1], kept["stored_bits"].iloc[-1]) if len(kept) else (np.nan, np.nan)
        rows.append((what, source, passage, each["length"].iloc[0], fewest, bits))
    return pd.DataFrame(rows, columns=["what", "source", "passage", "length", "fewest", "stored_bits"])


def fewest_for_all(frame: pd.DataFrame) -> pd.Series:
    """By way of rounding the fewest bits a number at which all passages stay exact; nan if they do at none tried."""
    return fewest_bits(frame).groupby("what", sort=False)["fewest"].agg(lambda bits: bits.max(skipna=False))


IN_THE_LOOP = "rounded while crammed"


def by_rounding(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of the store with the columns bits (mem was rounded to; nan if it was not) and stop_margin (logits)."""
    hows = [Recipe.model_validate_json(text) for text in results["recipe_json"]]
    bits = np.array([how.bits or np.nan for how in hows])
    return results.assign(bits=bits, stop_margin=[how.stop_margin for how in hows])


def few_bits(runs: pd.DataFrame, afterwards: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rounding in the loop and rounding afterwards side by side.

    Args:
        runs: Rows from `by_rounding`; those rounded with one scale a vector count. Their tokens left are those that
            free decoding gives.
        afterwards: From `cramming.precision.survival` with `rounded`, by what to call the vectors that were rounded.

    Returns:
        The columns of `cramming.precision.survival`, what being the way of rounding and amount the bits a number;
        degrees is nan in the loop, where there is no vector before.
    """
    parts = [
        frame[frame["what"].isin(["float32", "scale a vector"])].assign(what=name)
        for name, frame in afterwards.items()
    ]
    loop = runs[runs["bits"].notna()].sort_values("bits", ascending=False)
    bits = [stored_bits(row.width, int(row.bits), k=row.n_vectors) for row in loop.itertuples()]
    columns = {"what": IN_THE_LOOP, "amount": loop["bits"], "stored_bits": bits, "degrees": np.nan}
    parts.append(loop[["source", "passage", "length"]].assign(**columns, exact=loop["correct_greedy"]))
    return pd.concat(parts, ignore_index=True)


def information_per_token(runs: pd.DataFrame) -> float:
    """Bits that a token of the passages of runs carries without mem, mean over tokens 1 on of all passages."""
    nats = [np.asarray(row.token_nats_without)[1 : row.length] for row in runs.itertuples()]
    return float(metrics.nats_to_bits(np.concatenate(nats).mean()))


def file_sizes(files: pd.DataFrame, together: pd.DataFrame) -> pd.DataFrame:
    """What passages take as files, one row a way of writing them; shares are of sums over passages.

    Args:
        files: From `cramming.coding.files`.
        together: The same of all passages written as one, by those coders that can.

    Returns:
        Index coder, in the order given; columns settings, n (passages), same (how many came back byte for byte), mean,
        sd, least, most (bytes a file), of_text (bytes over those of the text in UTF-8), of_ids (bits over 16 bits a
        token), per_character and per_token (bits), together (bytes of one file for all; of coders that wrote none,
        the sum), together_of_text (the same over the text's), together_same (whether it came back).
    """
    one = together.set_index("coder")
    rows = {}
    for coder, some in files.groupby("coder", sort=False):
        sums, alone = some[["bytes", "utf8", "characters", "tokens"]].sum(), coder not in one.index
        whole = sums if alone else one.loc[coder]
        rows[str(coder)] = {
            "settings": some["settings"].iloc[0],
            "n": len(some),
            "same": int(some["same"].sum()),
            "mean": some["bytes"].mean(),
            "sd": some["bytes"].std(),
            "least": some["bytes"].min(),
            "most": some["bytes"].max(),
            "of_text": sums["bytes"] / sums["utf8"],
            "of_ids": 8 * sums["bytes"] / (16 * sums["tokens"]),
            "per_character": 8 * sums["bytes"] / sums["characters"],
            "per_token": 8 * sums["bytes"] / sums["tokens"],
            "together": whole["bytes"],
            "together_of_text": whole["bytes"] / whole["utf8"],
            "together_same": bool(some["same"].all() if alone else whole["same"]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("coder")


def file_table(sizes: pd.DataFrame) -> pd.DataFrame:
    """`file_sizes` as a page shows it."""
    return pd.DataFrame(
        {
            "settings": sizes["settings"],
            "bytes a passage": [_spread(r.mean, r.sd, 0) for r in sizes.itertuples()],
            "range": [f"{r.least} to {r.most}" for r in sizes.itertuples()],
            "over the text's UTF-8": sizes["of_text"].map("{:.2f}".format),
            "over 16 bits a token": sizes["of_ids"].map("{:.2f}".format),
            "bits a character": sizes["per_character"].map("{:.1f}".format),
            "bits a token": sizes["per_token"].map("{:.1f}".format),
            "came back": [f"{r.same} of {r.n}" for r in sizes.itertuples()],
            "all as one file, bytes": sizes["together"].map("{:,.0f}".format),
            "that over its UTF-8": sizes["together_of_text"].map("{:.2f}".format),
        }
    )


def file_ratio(files: pd.DataFrame, over: str, under: str) -> dict[str, float]:
    """How many times as large the files of one coder are as those of another, passage by passage.

    Args:
        files: From `cramming.coding.files`.
        over: A coder.
        under: Another one.

    Returns:
        n (passages), mean, low and high (95 % bootstrap interval of the mean), least, most.

    Raises:
        CrammingError: If the files lack one of the coders.
    """
    sizes = files.pivot_table("bytes", "passage", "coder")
    for coder in (over, under):
        if coder not in sizes:
            raise CrammingError(f"no file was written by {coder!r}: choose from {', '.join(sizes)}")
    ratio = sizes[over] / sizes[under]
    low, high = metrics.bootstrap_ci(ratio)
    return {"n": len(ratio), "mean": ratio.mean(), "low": low, "high": high, "least": ratio.min(), "most": ratio.max()}


PUBLISHED = ("meta-llama/Llama-3.1-8B", "pg19")  # model and text of the title


def units(results: pd.DataFrame, files: pd.DataFrame, bits: int = 16) -> pd.DataFrame:
    """What goes into one vector, over that vector, by the unit that both are counted in; published and here.

    Published numbers: the capacity in tokens and the information gain (capacity.csv), width, vocabulary and what a
    token costs the model without mem (models.csv, over the first 512 of a text). How many characters and bytes a token
    has is not published: there, those of the passages here stand in, though of another tokenizer.

    Args:
        results: Horizon rows of the store with one mem vector, at least two tokens each.
        files: From `cramming.coding.files`, of the same passages.
        bits: Of each number of the vector.

    Returns:
        Indexed by model and unit (of text over of vector): text and vector (means over passages), ratio (text over
        vector), source (file and column, or that it was measured here).
    """
    hub, source = PUBLISHED
    about = published("models").set_index("hub_id").loc[hub]
    capacity = published("capacity")
    said = capacity[(capacity["model"].map(hub_id) == hub) & (capacity["source"] == source)].iloc[0]
    sizes = files[files["coder"] == files["coder"].iloc[0]]
    per_token = sizes[["characters", "utf8"]].sum() / sizes["tokens"].sum()
    gained = gains(results)["bits"].mean()
    cases = {
        f"{about['name']} (published)": (
            said["decoding_capacity_tokens"],
            int(about["hidden_size"]),
            int(about["vocab_size"]),
            about["text_cross_entropy_nats_512_tokens_pg19"] / 512 * said["decoding_capacity_tokens"],
            metrics.nats_to_bits(said["information_gain_nats_mean"]),
            ("capacity.csv", "capacity.csv; characters a token as here", "capacity.csv, models.csv"),
        ),
        f"{results['model'].iloc[0]} (here)": (
            results["length"].mean(),
            int(results["width"].iloc[0]),
            int(results["vocab_size"].iloc[0]),
            results["nats_without"].mean(),
            gained,
            ("measured", "measured", "measured"),
        ),
    }
    rows = {}
    for model, (tokens, width, vocab_size, nats, gain, (first, second, third)) in cases.items():
        vector = width * bits
        for unit, text, size, where in (
            ("tokens over vectors", tokens, 1, first),
            ("characters over vectors", tokens * per_token["characters"], 1, second),
            ("tokens over numbers", tokens, width, third),
            ("bytes of UTF-8 over bytes", tokens * per_token["utf8"], vector / 8, second),
            ("bits of token ids over bits", tokens * np.log2(vocab_size), vector, third),
            ("bits the model lacks over bits", metrics.nats_to_bits(nats), vector, third),
            ("information gain over bits", gain, vector, third),
        ):
            rows[model, unit] = {"text": text, "vector": size, "ratio": text / size, "source": where}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "unit"])


def unit_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`units` as a page shows it: one row a unit, one group of columns a model."""
    shown = pd.DataFrame(
        {
            "of text": frame["text"].map("{:,.0f}".format),
            "of vector": frame["vector"].map("{:,.0f}".format),
            "ratio": [f"× {ratio:,.0f}" if ratio >= 10 else f"× {ratio:.2g}" for ratio in frame["ratio"]],
            "from": frame["source"],
        }
    )
    models = frame.index.get_level_values("model").unique()
    return pd.concat({model: shown.loc[model] for model in models}, axis=1)


def forecast_summary(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How far forecasts are off, one row a way of making them; the first is what the others are held against.

    Args:
        frames: From `cramming.predict.left_out`, of one target, by what to call them.

    Returns:
        Index way; columns n (passages), error (mean absolute), better, low, high (by how much less than that of the
        first way on the same passages, with its 95 % bootstrap interval), r2 (share of the squared error of the first
        way, in logarithms, that is gone), covered, covered_low, covered_high (share of truths in their interval, with
        the same), width (median of the interval's upper over its lower end).
    """
    base, rows = next(iter(frames.values())), {}
    for name, frame in frames.items():
        same = base.loc[frame.index]
        gained = (same["predicted"] - same["truth"]).abs() - (frame["predicted"] - frame["truth"]).abs()
        squares = [((np.log(some["predicted"]) - np.log(some["truth"])) ** 2).sum() for some in (frame, same)]
        (low, high), (covered_low, covered_high) = (
            metrics.bootstrap_ci(values) for values in (gained, frame["inside"].astype(float))
        )
        rows[name] = {
            "n": len(frame),
            "error": (frame["predicted"] - frame["truth"]).abs().mean(),
            "better": gained.mean(),
            "low": low,
            "high": high,
            "r2": 1 - squares[0] / squares[1] if squares[1] > 0 else np.nan,
            "covered": frame["inside"].mean(),
            "covered_low": covered_low,
            "covered_high": covered_high,
            "width": (frame["high"] / frame["low"].clip(lower=1e-9)).median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("forecast from")


def forecast_table(summaries: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`forecast_summary` of several targets as a page shows it.

    Args:
        summaries: By target.
    """
    rows = {}
    for target, summary in summaries.items():
        for place, (name, row) in enumerate(summary.iterrows()):
            covered, low, high = (f"{row[end]:.0%}" for end in ("covered", "covered_low", "covered_high"))
            rows[target, name] = {
                "passages": f"{row['n']:.0f}",
                "mean absolute error": f"{row['error']:,.1f}",
                "less than the first": _interval(row["better"], row["low"], row["high"], 2) if place else "",
                "variance of the logarithm told": f"{row['r2']:.0%}" if place else "",
                "truth in the interval": f"{covered} ({low} to {high})",
                "upper over lower end": f"{row['width']:,.1f}" if row["width"] < 1e6 else "unbounded",
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["target", "forecast from"])


def growth_correlations(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean Spearman correlations over runs, as a page shows them.

    Args:
        frames: From `cramming.growth.correlations`, by what the steps are held against.
    """
    rows = {}
    for recipe in next(iter(frames.values()))["recipe"].unique():
        for name, frame in frames.items():
            some = frame[frame["recipe"] == recipe]
            row = {"runs": len(some), "tokens a run": f"{some['n'].mean():.0f}"}
            for column, label in (("rho", "Spearman"), ("rho_within", "position taken out")):
                known = some[column].dropna()
                row[label] = _interval(known.mean(), *metrics.bootstrap_ci(known), 2) if len(known) else ""
            rows[recipe, name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["recipe", "steps against"])


def stops(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.growth.stops` as a page shows it, one row a run."""
    return pd.DataFrame(
        {
            "recipe": frame["recipe"],
            "exact tokens": frame["length"],
            "next token": [repr(token) for token in frame["token"]],
            "bits without mem": frame["nats"].map(metrics.nats_to_bits).map("{:.1f}".format),
            "rank without mem": frame["rank"].map("{:,.0f}".format),
            "tokens that surprise less": frame["harder"].map(_share),
            "rank with mem": frame["rank_with"].map("{:,}".format),
            "gap with mem, logits": frame["gap"].map("{:.1f}".format),
            "steps in vain": frame["steps"].map("{:,.0f}".format),
            "of all steps": frame["share"].map(_share),
            "tokens wrong at a step": frame["mistakes"].map("{:.1f}".format),
            "steps with an earlier one wrong": frame["lost"].map(_share),
        }
    ).set_index(pd.Index(frame["passage"], name="passage"))


def trajectories(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.growth.trajectories` summed up: mean ± sample standard deviation over passages."""
    rows = {}
    for what, some in frame.groupby("what"):
        spread = {
            "way, degrees": ("gone", 0, 1),
            "end from start, degrees": ("net", 0, 1),
            "cosine of successive moves": ("cosine", 2, 1),
            "first component, %": ("first", 0, 100),
            "second component, %": ("second", 0, 100),
            "components for 90 %": ("needed_90", 1, 1),
            "components for 99 %": ("needed_99", 1, 1),
        }
        rows[what] = {"passages": len(some), "points a passage": f"{some['tokens'].mean():.0f}"} | {
            label: _spread(some[column].mean() * by, some[column].std() * by, digits)
            for label, (column, digits, by) in spread.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")


FRONTS = {
    "nothing": "nothing",
    "text": "the text",
    "mem": "mem",
    "mem, room": "mem, and room for the text",
    "random": "a random vector",
    "other mem": "mem of another passage",
    "mem, text": "mem, then the text",
    "random, text": "a random vector, then the text",
}
WRITERS = {**FRONTS, "truth": "nobody: the true continuation"}


def continued_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """What stands in front of true continuations and what it takes off their cross-entropy, one row a condition.

    Args:
        frame: From `cramming.steering.continued`, of all texts or some.

    Returns:
        Index what (`FRONTS`); columns n (passages), bits (a token, each passage counted alike), saved (bits a token
        fewer than with nothing in front), low, high, share (saved over what the text itself saves, of sums), share_low
        and share_high. Intervals: 95 %, drawing passages anew.
    """
    each = frame.pivot_table("bits", "passage", "what")
    saved = each.rsub(each["nothing"], axis=0)
    text, rows = saved["text"].to_numpy(), {}
    for what in [what for what in FRONTS if what in each]:
        mine = saved[what].to_numpy()
        low, high = metrics.bootstrap_ci(mine)
        with np.errstate(divide="ignore", invalid="ignore"):  # where the text saves nothing there is no share
            share = mine.sum() / text.sum()
        share_low, share_high = _ratio_interval(mine, text)
        columns = {"n": len(mine), "bits": each[what].mean(), "saved": mine.mean(), "low": low, "high": high}
        rows[what] = {**columns, "share": share, "share_low": share_low, "share_high": share_high}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")


def continued_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`continued_summary` by source as a page shows it."""
    rows = {}
    for source, some in frame.groupby("source", sort=False):
        for r in continued_summary(some).itertuples():
            rows[source, FRONTS[str(r.Index)]] = {
                "passages": r.n,
                "bits a token": f"{r.bits:.2f}",
                "saved, bits a token": _interval(r.saved, r.low, r.high, 2) if r.Index != "nothing" else "",
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["text", "in front of its continuation"])


def paired(
    frame: pd.DataFrame, one: str, other: str, value: str = "bits", by: str = "what"
) -> tuple[float, float, float]:
    """By how much one condition is above another, passage by passage: mean, and its 95 % bootstrap interval.

    Args:
        frame: One row or several a passage and condition; several are averaged.
        one: A condition.
        other: Another one.
        value: Which column is compared.
        by: Which column names the condition.
    """
    each = frame.pivot_table(value, "passage", by)
    difference = (each[one] - each[other]).dropna()
    return float(difference.mean()), *metrics.bootstrap_ci(difference)


def written_table(frame: pd.DataFrame) -> pd.DataFrame:
    """What the model wrote behind its texts, summed up: means over passages with 95 % bootstrap intervals.

    Args:
        frame: From `cramming.steering.written`.
    """
    rows = {}
    for writer, some in frame.groupby("writer", sort=False):
        rows[WRITERS[str(writer)]] = {
            "passages": len(some),
            "tokens as behind the text alone": _share_mean(some["same"]),
            "tokens until the first other": f"{some['until'].mean():.1f}",
            "bits a token, given the text": _mean(some["bits"], 2),
            "runs of four written before": _share_mean(some["repeated"].dropna()),
            "longest run from the text, tokens": _mean(some["copied"], 1),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("behind")


def written_examples(frame: pd.DataFrame, passages: Collection[str]) -> pd.DataFrame:
    """What the model wrote behind some of the texts, with line breaks spelled out.

    Args:
        frame: From `cramming.steering.written`.
        passages: Which.
    """
    some = frame[frame["passage"].isin(passages)]
    shown = some.assign(behind=some["writer"].map(WRITERS), wrote=some["wrote"].map(repr))
    return shown.set_index(["passage", "behind"])[["wrote"]]


def cloze_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """How often a text's word was likelier than one it lacks, one row a condition, each passage counted alike.

    Args:
        frame: From `cramming.steering.cloze`.

    Returns:
        Index what (`FRONTS`); columns n (passages), pairs, right (share of pairs, chance is a half), low, high, bits
        (by how much the true word was likelier), bits_low, bits_high. Intervals: 95 %, drawing passages anew.
    """
    rows = {}
    for what in [what for what in FRONTS if (frame["what"] == what).any()]:
        some = frame[frame["what"] == what]
        right = (some["bits"] > 0).groupby(some["passage"]).mean()
        bits = some.groupby("passage")["bits"].mean()
        (low, high), (bits_low, bits_high) = metrics.bootstrap_ci(right), metrics.bootstrap_ci(bits)
        columns = {"n": len(right), "pairs": len(some), "right": right.mean(), "low": low, "high": high}
        rows[what] = {**columns, "bits": bits.mean(), "bits_low": bits_low, "bits_high": bits_high}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")


def cloze_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cloze_summary` as a page shows it."""
    rows = {
        FRONTS[str(r.Index)]: {
            "passages": r.n,
            "pairs of words": r.pairs,
            "true word likelier": percent(r.right, r.low, r.high),
            "by, bits": _interval(r.bits, r.bits_low, r.bits_high, 2),
        }
        for r in cloze_summary(frame).itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("in front of the question")


def middle_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Tokens right by what stands in front and how many true tokens are seen, each passage counted alike.

    Args:
        frame: From `cramming.steering.from_the_middle`.

    Returns:
        Indexed by what and left (tokens; inf for the whole text before): n (passages), right (share of tokens), low
        and high (95 % interval, drawing passages anew), sem, bits (a token), bits_sem.
    """
    rows = {}
    for key, some in frame.groupby(["what", "left"], sort=False):
        each = some.groupby("passage")[["right", "bits"]].mean()
        low, high = metrics.bootstrap_ci(each["right"])
        columns = {"n": len(each), "right": each["right"].mean(), "low": low, "high": high}
        errors = {"sem": each["right"].sem(), "bits": each["bits"].mean(), "bits_sem": each["bits"].sem()}
        rows[key] = columns | errors
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "left"])


def middle_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Tokens right of `middle_summary` as a page shows them, one column a number of tokens seen."""
    summary = middle_summary(frame)
    rows: dict[str, dict[str, str]] = {
        FRONTS[what]: {} for what in ("mem", "mem, room", "nothing") if what in summary.index
    }
    for (what, left), r in summary.iterrows():
        rows[FRONTS[what]][seen(left)] = percent(r["right"], r["low"], r["high"])
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("in front")


def seen(left: float) -> str:
    """How many tokens are seen, in a word: a number, or ``all``."""
    return "all" if left == np.inf else f"{left:.0f}"


def published_table() -> pd.DataFrame:
    """The 14 models of the paper as published: size, width, bound and capacity in tokens by source."""
    models = published("models").set_index("hub_id")
    capacity = published("capacity")
    by_source = {
        f"{source}, tokens": some.set_index(some["model"].map(hub_id))["decoding_capacity_tokens"]
        for source, some in capacity.groupby("source")
    }
    frame = pd.DataFrame(
        {
            "model": models["name"] + " (published)",
            "parameters, billions": models["params_billion"],
            "width d": models["hidden_size"],
            "16-bit bound, tokens": models["theoretical_capacity_tokens"],
            **{name: column.reindex(models.index).astype("Int64") for name, column in by_source.items()},
        }
    ).sort_values("pg19, tokens", ascending=False)
    return frame.astype(object).where(frame.notna(), "").set_index("model")


def published_horizon(hub: str) -> str:
    """Mean ± standard deviation in tokens of the progressive protocol on a model, by its hub id, as published.

    Source: arXiv 2607.21231, the table of model scales (progressive.csv).
    """
    rows = published("progressive").query("model == @hub and setting == 'model scales'")
    if len(rows) != 1:
        raise CrammingError(f"no horizon is published for {hub!r}: progressive.csv lists the models that have one")
    return _spread(rows["horizon_tokens_mean"].iloc[0], rows["horizon_tokens_std"].iloc[0]) + " tokens"


def ledger_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """A ledger of `cramming.paper` as a page shows it: one row a published number."""
    known = ledger["ours_n"] > 0
    blank = pd.Series(pd.NA, index=ledger.index, dtype=object)
    shown = pd.DataFrame(
        {
            "model": ledger["model"].str.split("/").str[-1],
            "text": ledger.get("source", blank).fillna(ledger.get("setting", blank)),
            "quantity": ledger["quantity"].str.replace("_", " ") + ", " + ledger["unit"],
            "published": [
                _spread(r.published, r.published_sd, 4 if r.unit == "share" else 1) for r in ledger.itertuples()
            ],
            "ours": [_ours(row.ours, row.ours_n, row.unit) for row in ledger.itertuples()],
            "tolerance": ledger["tolerance"],
            "verdict": ledger["verdict"],
            "why": ledger["reason"],
        }
    )
    if "our_source" in ledger:
        made = ledger["our_model"] + ", " + ledger["our_source"] + ", recipe " + ledger["our_recipe"]
        shown.insert(5, "made with", made.where(known, "").fillna(""))
    if "n_vectors" in ledger and (ledger["n_vectors"] > 1).any():
        shown.insert(2, "mem vectors", ledger["n_vectors"])
    if (shown["tolerance"] == "").all():
        shown = shown.drop(columns="tolerance")
    return shown.set_index("model")


def _ours(value: float, n: int, unit: str) -> str:
    if not n:
        return ""
    return f"{value:,.4f}" if unit == "share" else f"{value:,.1f} (n = {n})"


def verdicts(ledger: pd.DataFrame) -> pd.DataFrame:
    """How many published numbers got which verdict, by quantity."""
    return pd.crosstab(ledger["quantity"].str.replace("_", " "), ledger["verdict"], margins=True, margins_name="all")


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
            "source": frame["source"],
        }
    )


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
            "memory, GB": [_large(row.get("memory_gb", np.nan)) for row in rows],
            "hours": [spend(bill["hours_low"], bill["hours_high"]) for bill in bills],
            "dollars": [spend(bill["dollars_low"], bill["dollars_high"]) for bill in bills],
            "hours, our recipe": [spend(bill["ours_hours_low"], bill["ours_hours_high"]) for bill in bills],
        }
    )
    return shown.set_index(pd.Index([row["model"] for row in rows], name="model"))


def bill_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.scale.bill` as a page shows it."""
    shown = {}
    for who, said in (("", "paper's recipe"), ("ours_", "ours")):
        for unit in ("hours", "dollars"):
            low, high = frame[f"{who}{unit}_low"], frame[f"{who}{unit}_high"]
            shown[f"{unit}, {said}"] = [spend(*ends) for ends in zip(low, high, strict=True)]
    return pd.DataFrame(shown, index=pd.Index(frame["device"]))


def passages_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.scale.passages_bill` as a page shows it, with what gives way first and what to do."""
    shown = pd.DataFrame(
        {
            "run": frame["what"],
            "device hours": [spend(r.hours_low, r.hours_high) for r in frame.itertuples()],
            "dollars": [spend(r.dollars_low, r.dollars_high) for r in frame.itertuples()],
            **{f"days on {d}": frame[f"days_{d}"].map(_large) for d in (1, 8, 64)},
            "files": frame["files"].map("{:,}".format),
            "vectors, GB": frame["vectors_gb"].map(_large),
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
    shown = {f"{part}, GB": frame[part].map(_large).to_list() for part in parts}
    shown |= {"mem and optimiser, MB": (frame["optimiser"] * 1000).map(_large).to_list()}
    shown |= {"operations": [f"{n} a parameter" for n in frame["operations"]]}
    shown |= {f"{name}, number": [n or "more than 8" for n in numbers] for name, numbers in needed.items()}
    return pd.DataFrame(shown, index=pd.Index(frame["what"], name="a step"))


def spend(low: float, high: float) -> str:
    """From the least to the most, two significant figures each."""
    return f"{_large(low)} to {_large(high)}"


def _large(value: float) -> str:
    """Two significant figures, thousands set apart; a dash for what is not known."""
    if not np.isfinite(value):
        return "—"
    short = float(f"{value:.1e}")
    return f"{short:,.0f}" if short >= 10 else f"{short:g}"


def setting(results: pd.DataFrame) -> str:
    """Model, weights and number of mem vectors, for captions."""
    weights = results[["model", "provenance"]].drop_duplicates().itertuples(index=False)
    vectors = "one mem vector" if (results["n_vectors"] == 1).all() else "mem vectors as stated"
    return "; ".join(f"{row.model} ({row.provenance})" for row in weights) + f", {vectors}"


def cost(results: pd.DataFrame) -> str:
    """One line for captions: machine, number format, versions and total cost of the runs."""
    parts = [", ".join(sorted(results[column].unique())) for column in ("device", "dtype", "versions")]
    hours = results["cpu_seconds"].sum() / 3600
    return f"{parts[0]}, {parts[1]}; {parts[2]}; {len(results)} runs, {hours:.1f} processor hours"


def _interval(mean: float, low: float, high: float, digits: int = 1) -> str:
    return f"{mean:+,.{digits}f} ({low:+,.{digits}f} to {high:+,.{digits}f})" if mean == mean else ""


def percent(share: float, low: float, high: float) -> str:
    """A share with its interval, for captions: ``40% (30% to 55%)``."""
    return f"{share:.0%} ({low:.0%} to {high:.0%})"


def bits(mean: float, low: float, high: float) -> str:
    """Bits with their interval, for captions: ``1.20 bits (0.90 to 1.41)``."""
    return f"{mean:.2f} bits ({low:.2f} to {high:.2f})"


def _share_mean(shares: pd.Series) -> str:
    return percent(shares.mean(), *metrics.bootstrap_ci(shares)) if len(shares) else ""


def _mean(values: pd.Series, digits: int) -> str:
    low, high = metrics.bootstrap_ci(values)
    return f"{values.mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _ratio_interval(over: np.ndarray, under: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the sum of one over the sum of the other, both (n,), drawn in pairs."""

    def ratio(draws: np.ndarray, axis: int) -> np.ndarray:
        at = draws.astype(int)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(over[at].sum(axis) / under[at].sum(axis))

    return metrics.bootstrap_ci(np.arange(len(over)), ratio)


def _share(share: float) -> str:
    return f"{share:.0%}" if share == share else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == value else ""


def _figures(value: float) -> str:
    """Two significant figures: what rounding does spans many orders of magnitude."""
    return f"{float(f'{value:.1e}'):g}" if value == value else ""


def _seconds(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "never"


def _spread(mean: float, sd: float, digits: int = 1) -> str:
    return f"{mean:,.{digits}f}" + (f" ± {sd:,.{digits}f}" if sd == sd else "")


def budgets(results: pd.DataFrame) -> str:
    """What ended runs that were never solved, for captions."""
    return "; ".join(sorted({Recipe.model_validate_json(text).budget for text in results["recipe_json"]}))


def spelled(values: pd.Series) -> str:
    """The different values in order, for captions: ``8, 16 and 32``."""
    words = [f"{value:,}" for value in sorted(set(values))]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _ratio(over: float, under: float) -> float:
    """A ratio, infinite where nothing is below it."""
    return float(over / under) if under > 0 else np.inf


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _some(results: pd.DataFrame, kind: str) -> pd.DataFrame:
    runs = results[results["kind"] == kind]
    if runs.empty:
        raise CrammingError(f"the results hold no run of kind {kind}: sweep a plan that asks for some")
    return runs


def _bits_after_first(run: pd.Series) -> float:
    """Information gain of tokens 1 on: without mem nothing stands before token 0, and its cost is a convention."""
    if run["length"] < 2:
        return 0.0
    return metrics.nats_to_bits(
        metrics.information_gain(run["token_nats_without"], run["token_nats_with"], score_first=False)
    )

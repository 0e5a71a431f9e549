"""Tables: the store's tidy frame in, the frame a page shows out. Means come with their spread and n."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from cramming import metrics
from cramming.errors import CrammingError
from cramming.paper import hub_id, published
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
    tokens, seconds = horizons["length"], latency["seconds"].median()
    gibibytes = memory["peak_bytes"].iloc[0] / 2**30
    progressive, reached = "not reached by ours", False
    if {"progressive", "short"} <= set(summary.index):
        ratio = summary.loc["progressive", "seconds"] / summary.loc["short", "seconds"]
        progressive, reached = f"{ratio:.0f} at its horizon, {ratios['progressive']:.1f} at ours", bool(ratio >= 10)
    rows = [
        (
            "seconds per exact token, the paper's protocol over ours",
            "at least 50",
            f"{ratios['paper']:,.0f}",
            ratios["paper"] >= 50,
        ),
        (
            "the same, progressive over ours, at a mean horizon no shorter than its own",
            "at least 10",
            progressive,
            reached,
        ),
        (
            f"mean exact horizon of {len(tokens)} passages, tokens",
            "at least 128",
            _spread(tokens.mean(), tokens.std()),
            tokens.mean() >= 128,
        ),
        (
            f"{latency['tokens'].iloc[0]:.0f} tokens exact, one passage, seconds, median of {len(latency)}",
            "under 20",
            f"{seconds:.1f} ({latency['seconds'].min():.1f} to {latency['seconds'].max():.1f})",
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


def variants(results: pd.DataFrame) -> pd.DataFrame:
    """Recipes that differ from ours in one thing, on the same passages: what each change gains or loses.

    Args:
        results: Rows of kind horizon, of recipe horizon with changes.

    Returns:
        Index changed (the fields that differ and their values, `as it is` for none); columns passages, exact horizon
        (tokens, mean ± sd), shortest, against it as it is (mean of the differences passage by passage, tokens, with a
        95 % bootstrap interval).
    """
    runs = _some(results, "horizon")
    base, lengths = RECIPES["horizon"].model_dump(exclude={"name", "max_token_passes"}), {}
    for text, some in runs.groupby("recipe_json", sort=False):
        how = Recipe.model_validate_json(str(text)).model_dump()
        lengths[_changes(base, how) or "as it is"] = some.set_index("passage")["length"]
    if "as it is" not in lengths:
        raise CrammingError("the results lack the recipe horizon as it is: sweep a plan that has it")
    rows = {}
    for changed, some in lengths.items():
        gain = (some - lengths["as it is"]).dropna()
        low, high = metrics.bootstrap_ci(gain)
        rows[changed] = {
            "passages": len(some),
            "exact horizon, tokens": _spread(some.mean(), some.std()),
            "shortest": some.min(),
            "against it as it is": "" if changed == "as it is" else f"{gain.mean():+.1f} ({low:+.1f} to {high:+.1f})",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("changed")


def _changes(base: Mapping[str, object], how: Mapping[str, object]) -> str:
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
        rows.append((memory_in_words(memory, parts), _changes(base, how), len(some), some["length"].mean(), loss))
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
            "tokens": both["tokens"].map("{:,}".format),
            "token passes, at most": both["token_passes"].map("{:.3g}".format),
            "operations, at most": both["operations"].map("{:.3g}".format),
            "GPU hours, at most": both["gpu_hours"].map("{:,.1f}".format),
        }
    )
    return shown.set_index(pd.Index(both["model"], name="model"))


def estimate_line(frame: pd.DataFrame) -> str:
    """The sum of `cramming.sweep.estimate` in a line."""
    return (
        f"the whole plan is {frame['runs'].sum():,} runs of {frame['tokens'].sum():,} tokens, at most "
        f"{frame['token_passes'].sum():.2g} token passes or {frame['gpu_hours'].sum():.2g} hours of a large GPU; "
        "what the store holds is not run again"
    )


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


def _share(share: float) -> str:
    return f"{share:.0%}" if share == share else ""


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

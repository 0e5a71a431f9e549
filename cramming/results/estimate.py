"""What a plan may cost before it is run, and what runs have cost: token passes, operations, seconds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from cramming.memories import MEMORIES
from cramming.models import FrozenLM, load, parameter_count
from cramming.paths import BENCHMARKS
from cramming.results.plans import Experiment, Plan, key_of, names_of, offered
from cramming.results.rows import of_kind
from cramming.results.store import Store, run_key
from cramming.results.traces import exact_curve

# Operations a second that a large GPU sustains in bfloat16: about a third of the 312e12 an A100 is sold with. Assumed.
GPU_RATE = 1e14


def most_passes(experiment: Experiment, length: int) -> float:
    """Token passes that one run of an experiment can take at most, from its budget; infinite if it has none."""
    how = experiment.resolved()
    # With growth that many positions only at the end.
    positions = MEMORIES[how.memory].positions(experiment.n_vectors, length)
    return min((how.max_steps or math.inf) * positions, (how.max_token_passes or math.inf) + positions)


def plan_cost(plan: Plan, store: Store | None = None) -> pd.DataFrame:
    """The most that a plan can cost, from its budgets: nothing is run.

    A step takes 2 operations a parameter and token forward, and 2 backward, since the weights themselves get no
    gradient. Runs that are solved before their budget ends cost less; most do.

    Args:
        plan: What is wanted.
        store: Where results are looked up. Costs are then of what is pending only. Without one, or where it holds no
            runs of a model, the weights of the paper's models are not fetched.

    Returns:
        One row a model, recipe, text and number of vectors: model, recipe, source, n_vectors, runs, stored, pending,
        unfinished (those of the pending with a checkpoint), tokens (of the pending passages), token_passes and
        operations (of the pending, at most), gpu_hours (operations at `GPU_RATE`).

    Raises:
        CrammingError: If a model is unknown, or the weights of one that has runs in the store cannot be had.
    """
    rows, stored = [], store.keys() if store else set[str]()
    models = set(store.frame()["model"]) if store else set[str]()
    started = {path.stem for path in (store.root / "unfinished").glob("*.safetensors")} if store else set[str]()
    for name in plan.models:
        parameters, seen = parameter_count(name), set[object]()
        lm = load(name, dtype=plan.dtype) if started or models & names_of(name) else None
        for experiment in plan.on(lm.name if lm else name):
            how = experiment.resolved()
            most = {length: most_passes(experiment, length) for length in experiment.lengths}
            for length, run in _wanted(experiment, lm):
                if run in seen:
                    continue
                seen.add(run)
                left = run not in stored
                rows.append(
                    {
                        "model": name,
                        "recipe": how.name,
                        "source": ", ".join(experiment.sources),
                        "n_vectors": experiment.n_vectors,
                        "runs": 1,
                        "stored": int(not left),
                        "unfinished": int(left and str(run)[:16] in started),
                        "pending": int(left),
                        "tokens": length * left,
                        "token_passes": most[length] if left else 0,
                        "operations": 4 * parameters * most[length] if left else 0,
                    }
                )
    frame = pd.DataFrame(rows)
    by = ["model", "recipe", "source", "n_vectors"]
    frame = frame.groupby(by, as_index=False, sort=False).sum()
    return frame.assign(gpu_hours=frame["operations"] / GPU_RATE / 3600)


def _wanted(experiment: Experiment, lm: FrozenLM | None) -> list[tuple[int, object]]:
    """Length and identity of each run of an experiment: its key, or without a model what comes to the same."""
    slots = [
        (length, source, i)
        for length in experiment.lengths
        for source in experiment.sources
        for i in range(experiment.skip, experiment.skip + experiment.n)
    ]
    if lm is not None:
        keys = [key_of(lm, experiment, passage) for passage in offered(experiment, lm)]
        return [(length, key) for (length, *_), key in zip(slots, keys, strict=True)]
    texts = experiment.seed if experiment.text_seed is None else experiment.text_seed
    how = run_key(
        {
            "recipe": experiment.resolved().deciding(),
            **experiment.model_dump(include={"kind", "n_vectors", "seed", "offset", "path"}),
            "texts": texts,
        }
    )
    return [(length, (how, length, source, i)) for length, source, i in slots]


def rates(plan: Plan, store: Store | None = None) -> pd.DataFrame:
    """Operations a second by device, to turn those of `plan_cost` into hours.

    Returns:
        One row a device: device, rate, known (assumed, measured by benchmarks/step_cost.py, or from the store's runs
        of the plan's models, by the wall clock).
    """
    rows = [("large GPU", GPU_RATE, "assumed")]
    steps = pd.read_parquet(BENCHMARKS / "step_cost.parquet").query("what in ('passages', 'tokens', 'vectors')")
    fed = steps["passages"] * (steps["tokens"] - 1 + steps["n_vectors"])
    measured = 4 * steps["matmul_parameters"] * fed / steps["seconds"]
    device = f"{steps['device'].iloc[0]}, {steps['threads'].iloc[0]} threads"
    rows.append((device, float(measured.median()), f"measured, {steps['model'].iloc[0]}"))
    frame = store.frame() if store else pd.DataFrame({"model": []})
    for name in plan.models:
        for (device, threads), some in frame[frame["model"].isin(names_of(name))].groupby(["device", "threads"]):
            rate = 4 * parameter_count(name) * some["token_passes"].sum() / some["seconds"].sum()
            rows.append((f"{device}, {threads} threads", rate, f"the store's {len(some)} runs of {name}"))
    return pd.DataFrame(rows, columns=["device", "rate", "known"])


def state_of(store: Store) -> str:
    """What a store holds before a sweep, in a line: runs, checkpoints, and shards that were set aside."""
    unfinished = len(list((store.root / "unfinished").glob("*.safetensors")))
    aside = [path for path in store.root.glob("*/*.parquet*") if path.parent.name != "unfinished"]
    return (
        f"{store.root}: {len(store.keys()):,} runs stored, {unfinished:,} with a checkpoint, "
        f"{len(aside):,} shards set aside"
    )


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
    for run in of_kind(results, "horizon").query("recipe in ('progressive', 'horizon')").itertuples():
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


def estimate_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cramming.results.estimate.plan_cost` for people: one row a model and text, and the sum."""
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
    """Hours that all of `plan_cost` takes at most, by device of `rates`."""
    hours = frame["operations"].sum() / rates["rate"] / 3600
    return pd.DataFrame(
        {
            "operations a second": rates["rate"].map("{:.2g}".format),
            "known from": rates["known"],
            "hours, at most": hours.map("{:,.2f}".format),
        }
    ).set_index(pd.Index(rates["device"], name="one device"))


def estimate_line(frame: pd.DataFrame) -> str:
    """The sum of `cramming.results.estimate.plan_cost` in a line."""
    return (
        f"the whole plan is {frame['runs'].sum():,} runs of {frame['tokens'].sum():,} tokens, at most "
        f"{frame['token_passes'].sum():.2g} token passes or {frame['gpu_hours'].sum():.2g} hours of a large GPU; "
        "what the store holds is not run again"
    )


def spend(low: float, high: float) -> str:
    """From the least to the most, two significant figures each."""
    return f"{large(low)} to {large(high)}"


def large(value: float) -> str:
    """Two significant figures, thousands set apart; a dash for what is not known."""
    if not np.isfinite(value):
        return "—"
    short = float(f"{value:.1e}")
    return f"{short:,.0f}" if short >= 10 else f"{short:g}"

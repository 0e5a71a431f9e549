"""What an exact token costs, by system, by recipe and by step."""

from __future__ import annotations

from collections.abc import Collection

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from cramming import metrics
from cramming.errors import CrammingError
from cramming.paths import BENCHMARKS
from cramming.recipes import Recipe, changed_fields, recipe
from cramming.results import estimate, traces
from cramming.results.estimate import SYSTEMS, step_cost
from cramming.results.published import published
from cramming.results.rows import of_kind
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, horizon_growth_figure, styled
from cramming.studies._page import Answer, Exhibit, glue
from cramming.studies._page import Page as AnyPage

HUB = "HuggingFaceTB/SmolLM2-135M"  # the model whose published horizon stands beside ours
# Our recipe as it was, with momentum.
WITHOUT = recipe("horizon", lr=0.2, averaging=None, temperature=1, restart_steps=None)


class Page(AnyPage):
    """Runs of three systems on the same passages, and the seconds of a step."""

    def __init__(self, scale: str) -> None:
        super().__init__("cost", scale)
        self.ours = self.results[self.results["recipe"] == "horizon"]
        self.costs = estimate.systems(self.results)
        self.benchmark = pd.read_parquet(BENCHMARKS / "step_cost.parquet")
        self.steps = step_cost(self.benchmark)
        self.summary = estimate.systems_summary(self.costs, self.steps)
        self.variants = self.more("cost_variants")
        self.shown.append((scale, self.variants))

    def times(self, system: str, ours: str = "horizon") -> str:
        """Seconds per exact token of a system over those of ours, with the 95 % interval; passages drawn in pairs."""
        summary = self.summary.reindex([system, ours])
        times, in_passes = (summary[column].iloc[0] / summary[column].iloc[1] for column in ("seconds", "passes"))
        if times != times:
            return "never"
        one, other = (
            self.costs[self.costs["system"] == name].sort_values("passage")[["token_passes", "exact"]].to_numpy()
            for name in (system, ours)
        )

        def cheaper(draws: np.ndarray, axis: int) -> np.ndarray:
            # The inverse: a draw of passages may leave a system without an exact token.
            (spent, exact), (less, more) = (some[draws.astype(int)].sum(axis).T for some in (one, other))
            return np.asarray(exact / spent * less / more)

        ends = metrics.bootstrap_ci(np.arange(len(one)), cheaper)
        high, low = (words.ratio(times / in_passes, end) for end in ends)
        return words.within(times, low, high, 0 if times >= 100 else 1)


def variants(results: pd.DataFrame, base: Recipe) -> pd.DataFrame:
    """Recipes that differ from one of them, on the same passages: what each change gains or loses.

    Args:
        results: Rows of kind horizon.
        base: The recipe that the others are compared with; what its budget is does not matter.

    Returns:
        Index changed (the fields that differ and their values, `nothing` for none); columns n (passages), mean, sd and
        shortest (exact horizon, tokens), gain, low and high (mean of the differences passage by passage, tokens, with
        a 95 % bootstrap interval; nan for nothing).

    Raises:
        CrammingError: If no row has the recipe that the others are compared with.
    """
    runs = of_kind(results, "horizon")
    fields, lengths = base.model_dump(exclude={"name", "max_token_passes"}), {}
    for text, some in runs.groupby("recipe_json", sort=False):
        how = Recipe.model_validate_json(str(text)).model_dump()
        lengths[changed_fields(fields, how) or "nothing"] = some.set_index("passage")["length"]
    if "nothing" not in lengths:
        raise CrammingError(f"no row has the recipe {base.name} to compare with: sweep a plan that has it")
    rows = {}
    for changed, some in sorted(lengths.items(), key=lambda item: item[0] != "nothing"):
        gain = (some - lengths["nothing"]).dropna()
        low, high = metrics.bootstrap_ci(gain) if changed != "nothing" else (np.nan, np.nan)
        rows[changed] = {
            "n": len(some),
            "mean": some.mean(),
            "sd": some.std(),
            "shortest": some.min(),
            "gain": gain.mean() if changed != "nothing" else np.nan,
            "low": low,
            "high": high,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("changed")


def variants_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`variants` as a page shows it."""
    return pd.DataFrame(
        {
            "against no change, tokens": [words.interval(r.gain, r.low, r.high) for r in frame.itertuples()],
            "exact horizon, tokens": [words.spread(r.mean, r.sd) for r in frame.itertuples()],
            "shortest": frame["shortest"].astype(int),
        },
        index=frame.index,
    )


def published_horizon(hub: str) -> str:
    """Mean ± standard deviation in tokens of the progressive protocol on a model, by its hub id, as published.

    Source: arXiv 2607.21231, the table of model scales (progressive.csv).
    """
    rows = published("progressive").query("model == @hub and setting == 'model scales'")
    if len(rows) != 1:
        raise CrammingError(f"no horizon is published for {hub!r}: progressive.csv lists the models that have one")
    return words.spread(rows["horizon_tokens_mean"].iloc[0], rows["horizon_tokens_std"].iloc[0]) + " tokens"


def systems_table(summary: pd.DataFrame) -> pd.DataFrame:
    """`cramming.results.estimate.systems_summary` as a page shows it."""
    shown = pd.DataFrame(
        {
            "seconds per exact token": summary["seconds"].map("{:,.2f}".format),
            "seconds, times ours": summary["seconds_ratio"].map("{:,.2f}".format),
            "token passes per exact token": summary["passes"].map("{:,.0f}".format),
            "token passes, times ours": summary["passes_ratio"].map("{:,.2f}".format),
            "exact tokens": [words.spread(r.exact, r.sd) for r in summary.itertuples()],
        }
    )
    return shown.rename(index=SYSTEMS)


def bars(summary: pd.DataFrame, horizons: pd.DataFrame, benchmark: pd.DataFrame) -> pd.DataFrame:
    """What this companion set out to reach on a laptop, and where it stands.

    Args:
        summary: From `cramming.results.estimate.systems_summary`.
        horizons: Rows of kind horizon by our recipe, of the passages the mean is taken over.
        benchmark: What benchmarks/step_cost.py wrote.

    Returns:
        Index aim; columns measured, target, reached. The systems are compared twice: each at its own end, and ours
        stopped early, at the mean length of progressive, which leaves out its late tokens, the dear ones.
    """
    steps = step_cost(benchmark)
    batch = steps[(steps["what"] == "passages") & (steps["passages"] == 16)].iloc[0]
    latency = benchmark[(benchmark["what"] == "latency") & (benchmark["source"] == "novels")]
    memory = benchmark[benchmark["what"] == "memory"].iloc[0]
    # A cram that came to nothing takes for ever.
    waits = latency["seconds"].where(latency["solved"].astype(bool), np.inf)
    tokens, seconds, gibibytes = horizons["length"], waits.median(), memory["peak_bytes"] / 2**30
    price, rows = summary["seconds"].reindex(["paper", "progressive", "horizon", "short"]), []
    for system, name, least in (("paper", "the paper's protocol", 50), ("progressive", "progressive", 10)):
        for ours, end in (("horizon", "each at its own end"), ("short", "ours stopped early")):
            times = price[system] / price[ours]
            said = f"{times:,.1f}" if times == times else "never"
            rows.append((f"{name} over ours, seconds: {end}", said, f"at least {least}", times >= least))
    name = f"mean exact horizon, tokens, n = {len(tokens)}"
    rows.append((name, words.mean(tokens, 1), "at least 128", tokens.mean() >= 128))
    first = latency.iloc[0]
    name = f"{first['tokens']:.0f} tokens of a novel, recipe {first['recipe']}, seconds, median of {len(latency)}"
    said = "{} ({} to {})".format(*(words.seconds(value) for value in (seconds, waits.min(), waits.max())))
    rows.append((name, said, "under 20", seconds < 20))
    name = f"share of the matrix-product rate, {batch['passages']} passages of {batch['tokens']} tokens"
    rows.append((name, f"{batch['share']:.0%}", "at least 60 %", batch["share"] >= 0.6))
    name = f"memory, {memory['passages']:.0f} passages of {memory['tokens']:.0f} tokens, GiB"
    rows.append((name, f"{gibibytes:.1f}", "at most 6", gibibytes <= 6))
    frame = pd.DataFrame(rows, columns=["aim", "measured", "target", "reached"]).set_index("aim")
    return frame.assign(reached=np.where(frame["reached"], "yes", "no"))


@styled
def step_cost_figure(steps: pd.DataFrame) -> Figure:
    """Seconds a passage and step, as passages, tokens or mem vectors grow; each axis logarithmic.

    Args:
        steps: `cramming.results.estimate.step_cost`.
    """
    figure, axes = plt.subplots(3, 1, figsize=(WIDTH, 8))
    panels = (
        ("passages", "passages", "passages at once (32 tokens each)"),
        ("tokens", "tokens", "tokens of a passage (8 at once)"),
        ("vectors", "n_vectors", "mem vectors (8 passages of 32 tokens)"),
    )
    for axis, (what, column, label) in zip(axes, panels, strict=True):
        some = steps[steps["what"] == what]
        each = some["seconds"] / some["passages"]
        axis.plot(some[column], each, color=COLOURS[0], marker="o")
        for x, y, share in zip(some[column], each, some["share"], strict=True):
            axis.annotate(f"{share:.0%}", (x, y), (0, 7), textcoords="offset points", fontsize="small", ha="center")
        axis.set(xscale="log", yscale="log", xlabel=label, xticks=list(some[column]), ylabel="seconds a passage",
                 xticklabels=[f"{x}" for x in some[column]], ylim=(each.min() / 2, each.max() * 2.5))  # fmt: skip
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.minorticks_off()
    return figure


@styled
def exact_against_passes_figure(results: pd.DataFrame, passages: Collection[str]) -> Figure:
    """Exact tokens against token passes, one curve a system, mean over passages.

    Args:
        results: Rows of the store.
        passages: Ids of the passages that every system was run on.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.2))
    some = results[results["passage"].isin(list(passages))]
    styles = {"paper": (COLOURS[2], ":"), "progressive": (COLOURS[1], "--"), "horizon": (COLOURS[0], "-")}
    for system, (colour, style) in styles.items():
        curves = [traces.exact_curve(runs) for _, runs in some[some["recipe"] == system].groupby("passage")]
        if not curves:
            continue
        grid = np.geomspace(100, max(passes[-1] for passes, _ in curves), 300)
        # Each curve is a staircase that stays at its last step once its run has ended.
        lines = [traces.stair(*curve, grid) for curve in curves]
        label = f"{SYSTEMS[system]} (n = {len(curves)})"
        axis.plot(grid, np.mean(lines, axis=0), color=colour, linestyle=style, linewidth=2.2, label=label)
    axis.set(xscale="log", xlabel="token passes spent on a passage (log scale)", ylabel="exact tokens, mean",
             ylim=(0, None))  # fmt: skip
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left")
    return figure


def show_answer(page: Page) -> Answer:
    """What an exact token costs, at two lengths of ours."""
    ours = page.costs[page.costs["system"] == "horizon"]
    price = page.summary.loc["horizon", "passes"]
    low, high = words.ratio_interval(ours["token_passes"].to_numpy(), ours["exact"].to_numpy())
    return Answer(
        page.setting,
        "What does an exact token cost?",
        f"Ours takes **{price:,.0f} token passes ({low:,.0f} to {high:,.0f})**, and the paper's protocol "
        f"**{page.times('paper')} times its seconds**, each at its own end; that is {page.times('paper', 'short')} "
        "times if ours is stopped early, where its mean length is that of progressive cramming, so that its late "
        "tokens, the dear ones, are not counted.",
        rests=f"95 % bootstrap intervals over {len(ours)} novel passages, the same for all; ours had "
        f"{words.budgets(page.ours)} each",
        sure="holds here only",
        why="one model, few passages, only our recipe was tuned on it, and seconds count that ours runs in batches",
    )


def show_systems(page: Page) -> Exhibit:
    """What an exact token costs by each system."""
    caption = (
        f"**The paper's protocol takes {page.times('paper')} times our seconds per exact token, progressive "
        f"{page.times('progressive')}; against ours stopped early {page.times('paper', 'short')} and "
        f"{page.times('progressive', 'short')}.** n = {page.summary['n'].min()} novel passages, the same for all; 95 "
        "% bootstrap intervals. *Exact tokens*: mean ± standard deviation. *Own count*: accuracy 1, true tokens given."
    )
    return Exhibit(caption, systems_table(page.summary))


def show_exact_against_passes(page: Page) -> Exhibit:
    """Where each system stands after so many token passes."""
    progressive = page.results[page.results["recipe"] == "progressive"]
    ended = progressive["ended"].replace("stage", "a token not won in its steps").value_counts()
    said = words.listed([f"{n} by {why}" for why, n in ended.items()])
    exact = page.costs.pivot_table("exact", "passage", "system")
    paper, other = (
        words.interval(gain.mean(), *metrics.bootstrap_ci(gain), 0)
        for gain in (exact["horizon"] - exact[system] for system in ("paper", "progressive"))
    )
    caption = (
        f"**At its end ours has {paper} exact tokens against the paper's protocol and {other} against progressive.** "
        "Mean prefix right so far, at the end what decoding confirms; level once runs have ended. Progressive, "
        f"with {words.budgets(progressive)}, ended {said}."
    )
    return Exhibit(caption, exact_against_passes_figure(page.results, page.costs["passage"].unique()))


def show_horizons(page: Page) -> Exhibit:
    """How far our recipe goes, and how the prefix grows as token passes are spent."""
    ours = page.ours
    curves = [traces.exact_curve(ours.loc[[i]]) for i in ours.index]
    half = pd.Series([passes[np.argmax(exact >= exact[-1] / 2)] / passes[-1] for passes, exact in curves])
    caption = (
        f"**The exact horizon is {words.mean(ours['length'], 0)} tokens, and its first half takes "
        f"{words.share_mean(half)} of the token passes.** Thin: n = {len(ours)} novel passages, {words.budgets(ours)} "
        "each; bold: mean, of a prefix that runs 8 tokens ahead. Intervals: 95 %. Smallest margin: "
        f"{ours['margin'].min():.2g} logits. Published, by progressive, for the base model: {published_horizon(HUB)}."
    )
    return Exhibit(caption, horizon_growth_figure(ours), words.horizon_table(ours))


def show_variants(page: Page) -> Exhibit:
    """What changes to the recipe gain or lose."""
    frame = variants(page.variants, WITHOUT)
    changed = frame.drop("nothing")
    caption = (
        f"**Of {len(changed)} changes to the recipe with momentum {(changed['low'] > 0).sum()} gain tokens and "
        f"{(changed['high'] < 0).sum()} lose some; of the others the interval includes 0.** Differences passage by "
        f"passage with their 95 % bootstrap interval, not corrected for their number; n = {frame['n'].max()} passages "
        f"({words.counted(page.variants)}), {words.budgets(page.variants)} each. Horizons: mean ± standard deviation."
    )
    return Exhibit(caption, variants_table(frame))


def show_step_cost(page: Page) -> Exhibit:
    """Seconds of a step."""
    rate, some = page.benchmark["matmul_gflops"], page.benchmark[page.benchmark["what"] == "passages"]
    each = (some["seconds"] / some["passages"]).groupby(some["passages"]).agg(["median", "min", "max"])
    alone, most = (words.within(r["median"], r["min"], r["max"], 2) for _, r in each.iloc[[0, -1]].iterrows())
    caption = (
        f"**A step takes {alone} seconds a passage where it is alone, {most} among {each.index[-1]:.0f}.** Median and "
        f"range of {page.steps['rounds'].max()} rounds, {page.benchmark['threads'].iloc[0]} threads. Percentages: of "
        f"the rate of a large matrix product measured beside it, {rate.median():.0f} GFLOP/s ({rate.min():.0f} to "
        f"{rate.max():.0f}: the machine is shared)."
    )
    return Exhibit(caption, step_cost_figure(page.steps))


def show_bars(page: Page) -> Exhibit:
    """Which aims are reached."""
    table = bars(page.summary, page.ours, page.benchmark)
    own, early = (table[~table.index.str.endswith(end)]["reached"] == "yes" for end in ("early", "own end"))
    caption = (
        f"**{own.sum()} of {len(own)} aims are reached with each system at its own end, {early.sum()} with ours "
        "stopped early, where only its cheap tokens count.** By mean or median, whatever the interval or, of seconds, "
        "the range. Against the paper's protocol no length was named, against progressive one no shorter than its "
        "own. Set before anything was measured, for two cores."
    )
    return Exhibit(caption, table)


def glue_numbers(page: Page) -> None:
    """Hand what other pages quote to them."""
    summary, ours = page.summary, page.ours
    glue(
        passes_ours=f"{summary.loc['horizon', 'passes']:,.0f}",
        paper_ratio=f"{summary.loc['paper', 'seconds_ratio']:,.0f}",
        horizon_long=f"{ours['length'].mean():.0f} ± {ours['length'].std():.0f}",
        budget_long=words.budgets(ours),
        n_horizon_long=f"{len(ours)}",
        n_systems=f"{summary['n'].min()}",
    )

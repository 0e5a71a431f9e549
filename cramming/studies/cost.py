"""What an exact token costs, by system, by recipe and by step."""

from __future__ import annotations

from collections.abc import Collection

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.errors import CrammingError
from cramming.paths import BENCHMARKS
from cramming.recipes import Recipe, changed_fields, recipe
from cramming.results import estimate, traces
from cramming.results.estimate import SYSTEMS, step_cost
from cramming.results.published import published
from cramming.results.rows import of_kind
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, horizon_growth_figure, styled
from cramming.studies._page import Exhibit, glue
from cramming.studies._page import Page as AnyPage

HUB = "HuggingFaceTB/SmolLM2-135M"  # the model whose published horizon stands beside ours
WITHOUT = recipe("horizon", lr=0.2, averaging=None)  # our recipe as it was, with momentum


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
        first = self.benchmark.iloc[0]
        self.machine = f"{first['device']}, {first['threads']} threads, {first['dtype']}, {first['versions']}"


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
        low, high = metrics.bootstrap_ci(gain)
        rows[changed] = {
            "passages": len(some),
            "exact horizon, tokens": words.spread(some.mean(), some.std()),
            "shortest": some.min(),
            "against no change": "" if changed == "nothing" else words.interval(gain.mean(), low, high),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("changed")


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
        summary: From `cramming.results.estimate.systems_summary`.
        horizons: Rows of kind horizon by our recipe, of the passages the mean is taken over.
        benchmark: What benchmarks/step_cost.py wrote.

    Returns:
        Index bar; columns target, measured, reached.
    """
    ratios, steps = summary["seconds_ratio"], step_cost(benchmark)
    batch = steps[(steps["what"] == "passages") & (steps["passages"] == 16)].iloc[0]
    latency = benchmark[(benchmark["what"] == "latency") & (benchmark["source"] == "novels")]
    memory = benchmark[benchmark["what"] == "memory"].iloc[0]
    # A cram that came to nothing takes for ever.
    waits = latency["seconds"].where(latency["solved"].astype(bool), np.inf)
    tokens, seconds, gibibytes = horizons["length"], waits.median(), memory["peak_bytes"] / 2**30
    # Ours gets dearer as it goes on. The horizon of progressive is past that of the paper's protocol.
    early = summary["seconds"].reindex(["paper", "progressive"]) / summary["seconds"].get("short", np.nan)
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
            early["paper"] >= 50 or ratios["paper"] >= 50,
        ),
        (
            "the same, progressive over ours, at a mean horizon no shorter than its own",
            "at least 10",
            progressive,
            early["progressive"] >= 10,
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
            f"memory, {memory['passages']:.0f} passages of {memory['tokens']:.0f} tokens, GiB",
            "at most 6",
            f"{gibibytes:.1f}",
            gibibytes <= 6,
        ),
    ]
    frame = pd.DataFrame(rows, columns=["bar", "target", "measured", "reached"]).set_index("bar")
    return frame.assign(reached=np.where(frame["reached"], "yes", "no"))


@styled
def step_cost_figure(steps: pd.DataFrame) -> Figure:
    """Seconds a passage and step, as passages, tokens or mem vectors grow; each axis logarithmic.

    Args:
        steps: `cramming.results.estimate.step_cost`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4))
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
            axis.annotate(f"{share:.0%}", (x, y), (0, 7), textcoords="offset points", fontsize="x-small", ha="center")
        axis.set(xscale="log", yscale="log", xlabel=label, xticks=list(some[column]),
                 xticklabels=[f"{x}" for x in some[column]], ylim=(each.min() / 2, each.max() * 2))  # fmt: skip
        axis.minorticks_off()
    axes[0].set(ylabel="seconds a passage and step")
    return figure


@styled
def exact_against_passes_figure(results: pd.DataFrame, passages: Collection[str]) -> Figure:
    """Exact tokens against token passes, one curve a system, mean over passages.

    Args:
        results: Rows of the store.
        passages: Ids of the passages that every system was run on.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
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
    axis.legend()
    return figure


def show_systems(page: Page) -> Exhibit:
    """What an exact token costs by each system."""
    summary, progressive = page.summary, page.results[page.results["recipe"] == "progressive"]
    prices = "; ".join(f"{row.passes:,.0f}: {SYSTEMS[name]}" for name, row in summary.iterrows())
    ended = ", ".join(f"{n} by {why}" for why, n in progressive["ended"].value_counts().items())
    caption = (
        f"**An exact token costs, in token passes: {prices}.** {page.setting}; {summary['n'].min()} novel passages, "
        "the same for all; mean ± sample standard deviation over passages. *Exact* means decoded from the vector "
        "alone; *by its own count*: accuracy 1 with the true tokens given; *stopped*: as if all runs had ended "
        "together, as soon as the mean of the prefixes right so far was that of progressive. Seconds: "
        f"{page.machine}, medians of {page.steps['rounds'].max()} rounds. *As they were*: processor seconds of the "
        f"runs themselves, in whatever batch they shared. Progressive runs have {words.budgets(progressive)}, or end "
        f"after 1,000 steps in vain for a token: here {ended}. {words.cost(page.results)}."
    )
    return Exhibit(caption, systems_table(summary))


def show_exact_against_passes(page: Page) -> Exhibit:
    """Where each system stands after so many token passes."""
    caption = (
        "**Ours goes on where the paper's protocol stops.** Exact tokens against token passes spent on a passage, "
        "mean over the passages that all systems were run on; a curve stays level once its runs have ended. The "
        f"curves show the prefix that was right on the way, their last point what decoding confirms. {page.setting}; "
        "n as in the legend."
    )
    return Exhibit(caption, exact_against_passes_figure(page.results, page.costs["passage"].unique()))


def show_horizons(page: Page) -> Exhibit:
    """How far our recipe goes."""
    ours = page.ours
    caption = (
        f"**The exact horizon is {ours['length'].mean():.0f} ± {ours['length'].std():.0f} tokens on {len(ours)} novel "
        f"passages; {published_horizon(HUB)} are published for the base model by the progressive protocol.** "
        f"{page.setting}; budget {words.budgets(ours)} a passage; all certified by decoding, smallest margin "
        f"{ours['margin'].min():.2g} logits. {words.cost(ours)}."
    )
    return Exhibit(caption, words.horizon_table(ours))


def show_growth(page: Page) -> Exhibit:
    """How the prefix grows as token passes are spent."""
    caption = (
        "**The prefix grows fast at first, then each token costs more.** The prefix under optimisation, which reaches "
        f"8 tokens past the longest exact one, against token passes; thin: passages, bold: mean. {page.setting}; n = "
        f"{len(page.ours)}."
    )
    return Exhibit(caption, horizon_growth_figure(page.ours))


def show_variants(page: Page) -> Exhibit:
    """What changes to the recipe gain or lose."""
    runs = page.variants
    caption = (
        f"**Changes to the recipe with momentum.** {words.setting(runs)}; passages of "
        f"{' and '.join(sorted(runs['source'].unique()))}; {words.budgets(runs)} a passage. Mean ± sample standard "
        f"deviation; the last column pairs passages and gives a 95 % bootstrap interval. {words.cost(runs)}."
    )
    return Exhibit(caption, variants(runs, WITHOUT))


def show_step_cost(page: Page) -> Exhibit:
    """Seconds of a step."""
    rate = page.benchmark["matmul_gflops"]
    caption = (
        "**A passage gets cheaper in company.** Seconds a passage and step as passages, tokens or mem vectors grow; "
        f"each mark a median of {page.steps['rounds'].max()} rounds, with the share of the rate of a large matrix "
        f"product measured around it, which was {rate.median():.0f} GFLOP/s ({rate.min():.0f} to {rate.max():.0f}: "
        f"the machine is shared). {page.benchmark['provenance'].iloc[0]}; {page.machine}."
    )
    return Exhibit(caption, step_cost_figure(page.steps))


def show_bars(page: Page) -> Exhibit:
    """Which aims are reached."""
    table = bars(page.summary, page.ours, page.benchmark)
    caption = (
        f"**{(table['reached'] == 'yes').sum()} of {len(table)} aims reached.** They were set before anything was "
        f"measured, for this model on two cores. {page.setting}; {page.machine}."
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

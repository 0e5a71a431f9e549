"""Figures: one function each, a tidy frame in, a matplotlib figure out. The style is here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from inspect import signature
from io import StringIO
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from cramming import metrics, tables
from cramming.engine import Cram

# Dark, middle and light in this order, so that they stay apart in grey; markers tell them apart a second time.
COLOURS = ("#12436d", "#d1602c", "#8fb8a8", "#3f3f46")
SOURCES = {"novels": (COLOURS[0], "o"), "fresh": (COLOURS[1], "s"), "random": (COLOURS[2], "^")}
STYLE: dict[Any, Any] = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("notebook"),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "cramming",
}

# Attribute of a figure for the frames that it draws, where those it is given are far larger.
DRAWN = "cramming_drawn"

P = ParamSpec("P")


def _styled(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the common style, and leave the figure to the caller instead of to pyplot's list of open ones.

    Displayed in a notebook, the figure takes its own SVG and the numbers it was drawn from along, in the metadata of
    the output: from there the book makes files of them.
    """

    @wraps(plot)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = plot(*args, **kwargs)
            figure.canvas.draw()
        plt.close(figure)
        given = getattr(figure, DRAWN, None) or signature(plot).bind(*args, **kwargs).arguments

        def bundle(**_: object) -> tuple[dict[str, Any], dict[str, Any]]:
            return {}, {"cramming": {"figure": plot.__name__, "svg": _svg(figure), "csv": _csv(given)}}

        figure._repr_mimebundle_ = bundle  # type: ignore[attr-defined]
        return figure

    return wrapper


def _svg(figure: Figure) -> str:
    """The figure as SVG, the same each time that it is drawn from the same numbers."""
    text = StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _csv(given: Mapping[str, Any]) -> dict[str, str]:
    """The frames among the arguments of a figure as CSV, by name; columns of arrays and of long texts are left out."""
    found = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and value and all(isinstance(part, pd.DataFrame) for part in value.values()):
            parts = {str(key): part for key, part in value.items()}
            value = pd.concat(parts, names=["series"])
            if value.index.names == ["series", None]:
                value = value.droplevel(1)
        if isinstance(value, pd.DataFrame) and len(value):
            told = [
                column
                for column, cell in value.iloc[0].items()
                if np.ndim(cell) == 0 and not (isinstance(cell, str) and len(cell) > 200)
            ]
            index = value.index.names != [None]
            found[name] = value[told].to_csv(index=index, float_format="%.6g", lineterminator="\n")
    return found


@_styled
def cram_progress(run: Cram) -> Figure:
    """Loss in nats and share of right tokens, against steps, of one cram."""
    trace = pd.DataFrame(run.trace, columns=["step", "length", "loss", "accuracy", "token_passes"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    left.plot(trace["step"], trace["loss"], color=COLOURS[0])
    left.set(yscale="log", xlabel="step", ylabel="nats a token", title="Mean cross-entropy")
    right.plot(trace["step"], trace["accuracy"] * run.length, color=COLOURS[0])
    right.axhline(run.length, color=COLOURS[1], linestyle="--", linewidth=1)
    right.annotate(f"{run.length} tokens", (trace["step"].iloc[0], run.length), color=COLOURS[1], va="bottom")
    right.set(xlabel="step", ylabel="tokens", title="Right tokens, teacher-forced", ylim=(0, run.length * 1.12))
    return figure


@_styled
def mem_numbers(mem: torch.Tensor, embeddings: torch.Tensor) -> Figure:
    """What the d numbers of a mem vector look like, in order, and beside those of the model's own token embeddings.

    Args:
        mem: One mem vector, shape (d,).
        embeddings: The embedding table, shape (V, d).
    """
    numbers = mem.detach().float().cpu().numpy()
    scaled = numbers / np.sqrt((numbers**2).mean())
    table = embeddings.detach().float().cpu().numpy()
    table = table[table.any(1)]  # a padding row is all zeros
    table = table / np.sqrt((table**2).mean(1, keepdims=True))
    rows = next(n for n in range(int(np.sqrt(len(scaled))), 0, -1) if len(scaled) % n == 0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[1.1, 1])
    image = left.imshow(scaled.reshape(rows, -1), cmap="gray", vmin=-3, vmax=3, aspect="auto")
    left.set(title=f"The vector, {rows} rows of {len(scaled) // rows} numbers", xticks=[], yticks=[])
    left.grid(visible=False)
    figure.colorbar(image, ax=left, label="number / root mean square")
    bins = np.linspace(-4, 4, 41)
    right.hist(
        table.ravel()[:: max(1, table.size // 500_000)], bins, density=True, color=COLOURS[2], label="token embeddings"
    )
    right.hist(scaled, bins, density=True, histtype="step", linewidth=2, color=COLOURS[0], label="mem vector")
    right.set(xlabel="number / root mean square", ylabel="density", title="Their distribution")
    right.margins(y=0.3)
    right.legend()
    return figure


@_styled
def capacity_by_model(capacity: pd.DataFrame, ours: pd.DataFrame) -> Figure:
    """Figure 1: tokens one vector holds, model by model; published capacities, and our horizons beside them.

    Args:
        capacity: capacity.csv, or the part of it with one source.
        ours: `cramming.tables.horizons`.
    """
    said = pd.DataFrame(
        {
            "label": capacity["model"].str.split("/").str[-1],
            "tokens": capacity["decoding_capacity_tokens"],
            "sd": 0.0,
            "note": capacity["decoding_capacity_tokens"].map("{:,}".format),
        }
    )
    mine = pd.DataFrame(
        {
            "label": ours["model"] + ", " + ours["source"],
            "tokens": ours["mean"],
            "sd": ours["sd"].fillna(0),
            "note": [f"{row.mean:.0f} (n = {row.n})" for row in ours.itertuples()],
        }
    )
    both = pd.concat([said.assign(here=False), mine.assign(here=True)]).sort_values("tokens", ignore_index=True)
    figure, axis = plt.subplots(figsize=(8.5, 0.34 * len(both) + 1.2))
    for here, colour, label in (
        (False, COLOURS[2], "published: mean accuracy ≥ 0.99"),
        (True, COLOURS[0], "measured here: mean exact horizon ± 1 sd"),
    ):
        some = both[both["here"] == here]
        axis.barh(some.index, some["tokens"], color=colour, label=label)
        if here:
            axis.errorbar(some["tokens"], some.index, xerr=some["sd"], fmt="none", ecolor=COLOURS[1], capsize=3)
    for row in both.itertuples():
        end = (row.tokens + row.sd, row.Index)
        axis.annotate(row.note, end, (5, 0), va="center", textcoords="offset points", fontsize="small")
    axis.set_yticks(both.index, both["label"])
    axis.set(xscale="log", xlabel="tokens in one vector (log scale)", xlim=(10, 6000))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.grid(visible=False, axis="y")
    axis.legend(loc="lower right", fontsize="small")
    return figure


@_styled
def utilisation(frame: pd.DataFrame) -> Figure:
    """Figure 5: share of the 16-bit bound that is used, in tokens and in bits; running against random text.

    Args:
        frame: `cramming.tables.theory`.
    """
    kinds = {"running text": ("pg19", "novels"), "random words": ("random",)}
    order = frame[frame["source"] != "random"].groupby("model")["tokens_used"].max().sort_values().index
    places = {model: place for place, model in enumerate(order)}
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 0.33 * len(order) + 1.4), sharey=True)
    for axis, column, label in ((axes[0], "tokens_used", "tokens"), (axes[1], "bits_used", "bits")):
        for (kind, sources), colour, marker in zip(kinds.items(), COLOURS[:2], "o^", strict=False):
            some = frame[frame["source"].isin(sources) & frame["model"].isin(order)]
            axis.plot(some[column] * 100, some["model"].map(places), marker, color=colour, markersize=8,
                      markeredgecolor="black", markeredgewidth=0.5, label=kind)  # fmt: skip
        pairs = frame[frame["source"].isin(sum(kinds.values(), ()))].groupby("model")[column]
        for model, low, high in zip(pairs.min().index, pairs.min(), pairs.max(), strict=True):
            axis.plot([low * 100, high * 100], [places[model]] * 2, color="#777777", linewidth=1, zorder=0)
        axis.set(xlabel=f"share of the 16-bit bound, in {label}, %", xlim=(0, None))
    here = set(frame.loc[frame["here"], "model"])
    axes[0].set_yticks(range(len(order)), [f"{model}, here" if model in here else model for model in order])
    axes[0].legend(loc="lower right", fontsize="small")
    return figure


@_styled
def surprise(frame: pd.DataFrame) -> Figure:
    """What passages cost the model without mem: each passage's mean, by source, and the mean by position.

    Args:
        frame: `cramming.information.surprise`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[1, 1.3])
    bits = frame.assign(bits=frame["nats"].map(metrics.nats_to_bits))
    sources = [source for source in SOURCES if source in set(frame["source"])]
    edges = np.unique(np.geomspace(1, frame["position"].max() + 1, 13).astype(int))
    for place, source in enumerate(sources):
        colour, marker = SOURCES[source]
        some = bits[bits["source"] == source]
        means = np.sort(some.groupby("passage")["bits"].mean())
        spread = (np.arange(len(means)) % 5 - 2) * 0.06
        left.scatter(means, place + spread, color=colour, marker=marker, s=30, edgecolor="black", linewidth=0.5)
        binned = some.groupby(pd.cut(some["position"], edges, right=False, labels=edges[:-1]), observed=True)["bits"]
        right.plot(binned.mean().index.astype(int), binned.mean(), color=colour, marker=marker, label=source)
    left.set_yticks(range(len(sources)), sources)
    left.set(xlabel="bits a token, mean of a passage", xlim=(0, None), ylim=(len(sources) - 0.5, -0.5))
    left.grid(visible=False, axis="y")
    right.set(xscale="log", xlabel="position in the passage (log scale)", ylabel="bits a token", ylim=(0, None))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.legend()
    return figure


@_styled
def reduction(frame: pd.DataFrame) -> Figure:
    """Bits that cramming removes against the least that would do, one mark a passage, on the line nothing is wasted.

    Args:
        frame: `cramming.tables.reduction`.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.4))
    most = max(frame["removed_bits"].max(), frame["least_bits"].max()) * 1.05
    axis.plot([0, most], [0, most], color="#777777", linewidth=1, linestyle="--", label="the least that would do")
    _marks_by_source(axis, frame, "least_bits", "removed_bits")
    axis.set(xlabel="least to remove, bits", ylabel="removed by the mem vector, bits", xlim=(0, None), ylim=(0, most))
    axis.legend()
    return figure


def _marks_by_source(axis: Axes, frame: pd.DataFrame, x: str, y: str) -> None:
    """One mark a row, in the colour and shape of its source, with n in the legend."""
    for source, (colour, marker) in SOURCES.items():
        some = frame[frame["source"] == source]
        if len(some):
            axis.plot(some[x], some[y], marker, color=colour, markeredgecolor="black", markeredgewidth=0.5,
                      label=f"{source} (n = {len(some)})")  # fmt: skip


@_styled
def horizons_by_source(runs: pd.DataFrame) -> Figure:
    """Exact horizon of every passage, by source, with the mean and its 95 % bootstrap interval.

    Args:
        runs: Horizon rows of the store.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.4))
    sources = [source for source in SOURCES if source in set(runs["source"])]
    for place, source in enumerate(sources):
        colour, marker = SOURCES[source]
        tokens = np.sort(runs.loc[runs["source"] == source, "length"].to_numpy())
        spread = (np.arange(len(tokens)) % 5 - 2) * 0.05  # side by side, so that equal horizons can be seen
        axis.scatter(tokens, place + spread, color=colour, marker=marker, s=36, edgecolor="black", linewidth=0.5)
        summary = metrics.horizon_summary(tokens)
        axis.plot([summary["low"], summary["high"]], [place - 0.28] * 2, color="black", linewidth=2)
        axis.plot(summary["mean"], place - 0.28, marker="D", color="white", markeredgecolor="black")
    axis.set_yticks(range(len(sources)), [f"{source}\n(n = {(runs['source'] == source).sum()})" for source in sources])
    axis.set(xlabel="exact horizon, tokens", xlim=(0, None), ylim=(len(sources) - 0.5, -0.6))
    axis.grid(visible=False, axis="y")
    return figure


@_styled
def horizon_growth(runs: pd.DataFrame) -> Figure:
    """Tokens under optimisation against token passes, one thin line a passage, the mean of each source in bold."""
    figure, axis = plt.subplots(figsize=(7.5, 3.6))
    for source, some in runs.groupby("source"):
        colour, _ = SOURCES.get(str(source), (COLOURS[3], "o"))
        most = max(passes[-1] for passes in some["trace_token_passes"])
        grid = np.linspace(0, most, 200)
        lines = [np.interp(grid, row.trace_token_passes, row.trace_length) for row in some.itertuples()]
        for line in lines:
            axis.plot(grid, line, color=colour, alpha=0.25, linewidth=0.8)
        style = {"novels": "-", "fresh": "--", "random": ":"}.get(str(source), "-.")
        axis.plot(grid, np.mean(lines, axis=0), color=colour, linewidth=2.6, linestyle=style, label=f"{source}, mean")
    axis.set(xlabel="token passes spent on a passage", ylabel="prefix under optimisation, tokens", xlim=(0, None))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.legend()
    return figure


@_styled
def protocols(comparison: pd.DataFrame) -> Figure:
    """The paper's protocol and the exact horizon on the same passages, against length.

    Args:
        comparison: `cramming.tables.protocols`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.6))
    lengths = comparison["length"]
    axis.plot(
        lengths, comparison["paper_accuracy"], color=COLOURS[1], marker="s", label="paper's recipe: mean accuracy"
    )
    axis.plot(
        lengths, comparison["paper_exact"], color=COLOURS[2], marker="^", linestyle="--",
        label="paper's recipe: share exact, token 0 given",
    )  # fmt: skip
    axis.plot(
        lengths, comparison["horizon_exact"], color=COLOURS[0], marker="o", linestyle=":", label="ours: share exact"
    )
    axis.axhline(metrics.THRESHOLD, color="#777777", linewidth=1)
    axis.annotate("0.99, the paper's threshold", (lengths.max(), metrics.THRESHOLD), (0, 4), ha="right",
                  textcoords="offset points", fontsize="small")  # fmt: skip
    axis.set(xlabel="tokens of the passage", ylabel="share", ylim=(-0.04, 1.12), xticks=sorted(set(lengths)))
    axis.legend(loc="lower left")
    return figure


@_styled
def arms(frame: pd.DataFrame) -> Figure:
    """Share of tokens right against the root mean square of mem, on the sphere and free.

    Args:
        frame: `cramming.tables.arms`, of one model and number format.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    sphere = frame[frame["mem"] == "sphere"]
    usual = sphere["lr"].mode().max()
    line, others = sphere[sphere["lr"] == usual].sort_values("rms_start"), sphere[sphere["lr"] != usual]
    free = frame[(frame["mem"] == "free") & frame["rms_start"].notna()]
    # Side by side where all three have the same size.
    others, free = (some.assign(rms_start=some["rms_start"] * by) for some, by in ((others, 0.72), (free, 1.4)))
    for some, colour, marker, style, label in (
        (line, COLOURS[0], "o", "-", f"on a sphere, learning rate {usual:g}"),
        (others, COLOURS[2], "D", "none", "on a sphere, other rates"),
        (free, COLOURS[1], "s", "none", "free, from a start of that size"),
    ):
        if some.empty:
            continue
        spread = np.abs(some[["low", "high"]].to_numpy().T - some["right"].to_numpy())
        axis.errorbar(some["rms_start"], some["right"], yerr=spread, color=colour, marker=marker, linestyle=style,
                      capsize=2, label=label, markeredgecolor="black", markeredgewidth=0.5)  # fmt: skip
    for some, shift, side in ((others, -6, "right"), (free, 6, "left")):
        for row in some.itertuples():
            axis.annotate(f"{row.lr:.3g}", (row.rms_start, row.right), (shift, 0), textcoords="offset points",
                          fontsize="small", va="center", ha=side)  # fmt: skip
    axis.set(xscale="log", xlabel="root mean square of mem's numbers, at the start if free (log scale)",
             ylabel="share of tokens right", ylim=(0, 1.08))  # fmt: skip
    axis.legend(loc="best", fontsize="small")
    return figure


@_styled
def turning(frame: pd.DataFrame) -> Figure:
    """What layers find of mem at its position, one line a radius, mean over directions.

    Left: degrees the stream has turned away from mem. Right: degrees between the streams of different mem vectors.

    Args:
        frame: `cramming.geometry.turning`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    for axis, column, title in (
        (axes[0], "turned", "away from mem"),
        (axes[1], "apart", "between different mem vectors"),
    ):
        for radius, (line, style) in _by_radius(frame, column, "layer").items():
            axis.plot(line.index, line, label=f"S = {radius:g}", **{**style, "marker": ""}, linewidth=1.8)
        axis.axhline(90, color="#777777", linewidth=0.8)
        axis.set(xlabel="layer whose input is looked at", title=f"Degrees {title}", ylim=(-3, 103))
    axes[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@_styled
def gradient_agreement(frame: pd.DataFrame) -> Figure:
    """Cosine between the gradients at two directions, against the angle between them, one line a radius.

    Args:
        frame: `cramming.geometry.gradient_agreement`, with a column where: one panel for each of its values.
    """
    places = frame["where"].unique()
    figure, axes = plt.subplots(1, len(places), figsize=(10, 3.6), sharey=True, squeeze=False)
    for axis, where in zip(axes[0], places, strict=True):
        some = frame[frame["where"] == where]
        spread = some.groupby(["radius", "degrees"])["cosine"].sem()
        for radius, (line, style) in _by_radius(some, "cosine", "degrees").items():
            axis.errorbar(line.index, line, yerr=spread[radius], label=f"S = {radius:g}", capsize=2, **style)
        ticks = sorted(some["degrees"].unique())
        axis.set(xscale="log", xlabel="degrees between the two (log scale)", title=f"From {where}", xticks=ticks,
                 xticklabels=[f"{x:g}" for x in ticks])  # fmt: skip
        axis.minorticks_off()
    axes[0][0].set(ylabel="cosine of the gradients")
    axes[0][-1].legend(fontsize="small")
    return figure


def _by_radius(frame: pd.DataFrame, value: str, along: str) -> dict[float, tuple[pd.Series, dict[str, Any]]]:
    """Mean line of each radius, with colours from dark to light and styles that tell them apart in grey."""
    means = frame.pivot_table(value, along, "radius")
    styles = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
    shades = plt.get_cmap("cividis")(np.linspace(0, 0.85, means.shape[1]))
    return {
        float(radius): (means[radius], {"color": shade, "linestyle": styles[i % 4][0], "marker": styles[i % 4][1]})
        for i, (radius, shade) in enumerate(zip(means, shades, strict=True))
    }


@_styled
def step_cost(steps: pd.DataFrame) -> Figure:
    """Seconds a passage and step, as passages, tokens or mem vectors grow; each axis logarithmic.

    Args:
        steps: `cramming.tables.step_cost`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4))
    for axis, (what, column, label) in zip(
        axes,
        (
            ("passages", "passages", "passages at once (32 tokens each)"),
            ("tokens", "tokens", "tokens of a passage (8 at once)"),
            ("vectors", "n_vectors", "mem vectors (8 passages of 32 tokens)"),
        ),
        strict=True,
    ):
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


@_styled
def exact_against_passes(results: pd.DataFrame, passages: Collection[str]) -> Figure:
    """Exact tokens against token passes, one curve a system, mean over passages.

    Args:
        results: Rows of the store.
        passages: Ids of the passages that every system was run on.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    some = results[results["passage"].isin(list(passages))]
    styles = {"paper": (COLOURS[2], ":"), "progressive": (COLOURS[1], "--"), "horizon": (COLOURS[0], "-")}
    for system, (colour, style) in styles.items():
        curves = [tables.exact_curve(runs) for _, runs in some[some["recipe"] == system].groupby("passage")]
        if not curves:
            continue
        grid = np.geomspace(100, max(passes[-1] for passes, _ in curves), 300)
        # Each curve is a staircase that stays at its last step once its run has ended.
        lines = [tables.stair(*curve, grid) for curve in curves]
        label = f"{tables.SYSTEMS[system]} (n = {len(curves)})"
        axis.plot(grid, np.mean(lines, axis=0), color=colour, linestyle=style, linewidth=2.2, label=label)
    axis.set(xscale="log", xlabel="token passes spent on a passage (log scale)", ylabel="exact tokens, mean",
             ylim=(0, None))  # fmt: skip
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.legend()
    return figure


@_styled
def attention_maps(shares: pd.DataFrame, plain: pd.DataFrame) -> Figure:
    """Mean share of attention by layer and head: to mem, and to the first token of the plain text.

    Args:
        shares: From `cramming.attention.mem_shares`.
        plain: From `cramming.attention.first_token_shares`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 5), sharey=True)
    drawn = {"to mem": shares, "to the first token, no mem": plain}
    grids = {title: some.pivot_table("share", "layer", "head") * 100 for title, some in drawn.items()}
    long = {title: grid.melt(ignore_index=False, value_name="percent").reset_index() for title, grid in grids.items()}
    setattr(figure, DRAWN, {"percent": long})
    for axis, (title, grid) in zip(axes, grids.items(), strict=True):
        image = axis.imshow(grid, cmap="cividis", vmin=0, vmax=100, aspect="auto", origin="lower")
        axis.set(xlabel="head", title=f"Attention {title}, %", xticks=range(grid.shape[1]))
        axis.grid(visible=False)
    axes[0].set(ylabel="layer")
    figure.colorbar(image, ax=axes, label="share of attention, %", shrink=0.8)
    return figure


@_styled
def attention_by_position(shares: pd.DataFrame) -> Figure:
    """Share of attention to mem against the position of the token that looks, for thirds of the network.

    Args:
        shares: From `cramming.attention.mem_shares`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.6))
    depth = shares["layer"].max() + 1
    third, lines = np.minimum(shares["layer"] * 3 // depth, 2), {}
    for part, (label, style, colour) in enumerate(
        zip(("first third", "middle third", "last third"), ("-", "--", ":"), COLOURS[:3], strict=True)
    ):
        some = shares[third == part].groupby(["passage", "position"])["share"].mean().groupby("position")
        line = some.mean()[some.size() >= min(3, shares["passage"].nunique())]
        axis.plot(line.index, line * 100, style, color=colour, linewidth=2, label=f"{label} of the layers")
        lines[f"{label} of the layers"] = (line * 100).rename("percent").reset_index()
    setattr(figure, DRAWN, {"percent": lines})
    axis.set(xlabel="position of the token that looks", ylabel="share of attention on mem, %", ylim=(0, 100))
    axis.legend()
    return figure


@_styled
def knock_out(frame: pd.DataFrame) -> Figure:
    """Share of tokens still right when mem is hidden in one layer, in all up to it, or in all from it on.

    Args:
        frame: From `cramming.attention.knock_out`, of one passage or several.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    for (hidden, label), colour, style, marker in zip(
        {"one": "in this layer alone", "up to": "in all layers up to it", "from": "in all layers from it on"}.items(),
        COLOURS[:3], ("-", "--", ":"), "os^", strict=True,
    ):  # fmt: skip
        lines = frame[frame["hidden"] == hidden].groupby("layer")["right"]
        mean, error = lines.mean() * 100, lines.sem().fillna(0) * 100
        axis.plot(mean.index, mean, style, color=colour, marker=marker, markersize=4, label=f"hidden {label}")
        axis.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axis.axhline(frame.loc[frame["hidden"] == "none", "right"].mean() * 100, color="#777777", linewidth=1)
    axis.set(xlabel="layer", ylabel="tokens still right, %", ylim=(-3, 103))
    axis.legend()
    return figure


@_styled
def crammed_bits(frame: pd.DataFrame) -> Figure:
    """Figure 3: bits of a passage given mem against those without it, and the line of no gain.

    Of a source with runs beyond what a vector holds, the threshold is fitted as well.

    Args:
        frame: `cramming.tables.crammed_bits`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.4))
    most = frame["bits"].max() * 1.03
    axis.plot([0, most], [0, most], color="#777777", linewidth=1, linestyle="--", label="no gain")
    for (source, (colour, marker)), style in zip(SOURCES.items(), ("-", "--", ":"), strict=True):
        some = frame[frame["source"] == source]
        if some.empty:
            continue
        for kind, face in (("horizon", colour), ("cram", "white")):
            dots = some[some["kind"] == kind]
            axis.plot(dots["bits"], dots["bits_with"], marker, color=colour, markerfacecolor=face, markersize=5)
        label = f"{source} (n = {len(some)})"
        if tables.past_capacity(some).any():
            fitted = metrics.threshold(some["bits"], some["bits_with"])
            axis.plot([0, fitted, most], [0, 0, max(0, most - fitted)], style, color=colour, linewidth=1.5)
            label += f": threshold {fitted:.0f} bits"
        axis.plot([], [], marker, linestyle=style, color=colour, label=label)
    axis.set(xlabel="bits of the passage without mem", ylabel="bits of the same passage given mem",
             xlim=(0, most), ylim=(-0.02 * most, most))  # fmt: skip
    axis.legend(fontsize="small")
    return figure


@_styled
def beyond(frame: pd.DataFrame, before: int = 24, behind: int = 48, width: int = 4) -> Figure:
    """Bits a token that mem saves, against the distance from the horizon, mean over passages by source.

    Args:
        frame: `cramming.tables.beyond`.
        before: Tokens before the end of the horizon to show.
        behind: Tokens behind it.
        width: Tokens averaged in one mark.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    some = frame[frame["past"].between(-before + 1, behind)]
    middle = np.floor((some["past"] - 1) / width) * width + (width + 1) / 2
    for (source, (colour, marker)), style in zip(SOURCES.items(), ("-", "--", ":"), strict=True):
        mine = some[some["source"] == source].assign(middle=middle)
        if mine.empty:
            continue
        means = mine.groupby(["passage", "middle"])["bits_saved"].mean().groupby("middle")
        label = f"{source} (n = {mine['passage'].nunique()})"
        axis.errorbar(means.mean().index, means.mean(), yerr=means.sem(), fmt=marker, linestyle=style, color=colour,
                      capsize=2, label=label)  # fmt: skip
    axis.axhline(0, color="#777777", linewidth=1)
    axis.axvline(0.5, color="#777777", linewidth=1, linestyle="--")
    axis.annotate("horizon", (0.5, 1), (4, -10), xycoords=("data", "axes fraction"), textcoords="offset points",
                  fontsize="small")  # fmt: skip
    axis.set(xlabel="tokens past the last exact one", ylabel="bits a token saved by mem")
    axis.legend(fontsize="small")
    return figure


@_styled
def limits(frame: pd.DataFrame) -> Figure:
    """Horizon against how dense its text is, beside the lines of equal tokens and of equal bits; both axes in logs.

    Args:
        frame: `cramming.tables.limits`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    _marks_by_source(axis, frame, "density", "length")
    x, y = np.exp(np.log(frame["density"]).mean()), np.exp(np.log(frame["length"]).mean())
    ends = np.array([frame["density"].min(), frame["density"].max()])
    axis.plot(ends, [y, y], color="#777777", linewidth=1, linestyle="--", label="as many tokens for every text")
    axis.plot(ends, y * x / ends, color="#777777", linewidth=1, linestyle=":", label="as many bits for every text")
    ticks = [2, 3, 4, 5, 6, 8, 10, 12], [5, 10, 20, 30, 50, 75, 100, 150, 200]
    axis.set(xscale="log", yscale="log", xlabel="bits a token without mem (log scale)",
             ylabel="exact horizon, tokens (log scale)")  # fmt: skip
    for which, values in zip((axis.xaxis, axis.yaxis), ticks, strict=True):
        low, high = which.get_view_interval()
        which.set_ticks([v for v in values if low <= v <= high], [f"{v}" for v in values if low <= v <= high])
        which.set_minor_locator(NullLocator())
    axis.legend(fontsize="small")
    return figure


FAMILIES = {"Pythia": (COLOURS[0], "o", "-"), "Llama": (COLOURS[1], "s", "--"), "Mamba": (COLOURS[2], "^", "-.")}
FAMILIES |= {"other": (COLOURS[3], "D", "none")}


@_styled
def model_sizes(sizes: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Information gain against parameters and against width, one mark a published model, power laws by family.

    Args:
        sizes: `cramming.tables.model_sizes`.
        fits: `cramming.tables.size_fits` of the same.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.4), sharey=True)
    laws = fits[fits["gain"] == "bits"].set_index(["family", "against"])
    for axis, size, label, ticks in (
        (axes[0], "parameters", "parameters, billions, nominal", (0.1, 0.3, 1, 3, 10)),
        (axes[1], "width", "width d, numbers", sorted(set(sizes["width"]))),
    ):
        for family, (colour, marker, style) in FAMILIES.items():
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


@_styled
def cuts(runs: pd.DataFrame) -> Figure:
    """Exact horizon and information gain of every passage, by model, with the mean of each model.

    Args:
        runs: `cramming.tables.gains`, of a model and of changed copies, in the order to show them.
    """
    models = list(runs["model"].unique())
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 0.5 * len(models) + 1.3), sharey=True)
    for axis, column, label in (
        (axes[0], "length", "exact horizon, tokens"),
        (axes[1], "bits", "information gain, bits"),
    ):
        for place, name in enumerate(models):
            some = runs[runs["model"] == name]
            for source, (colour, marker) in SOURCES.items():
                each = np.sort(some.loc[some["source"] == source, column].to_numpy())
                # Side by side, the sources in two rows, so that equal numbers can be seen.
                rows = place + (-0.14 if source == "novels" else 0.08) + (np.arange(len(each)) % 2) * 0.06
                axis.scatter(each, rows, color=colour, marker=marker, s=32, edgecolor="black", linewidth=0.5,
                             label=source if place == 0 and len(each) else None)  # fmt: skip
            axis.plot([some[column].mean()] * 2, [place - 0.3, place + 0.3], color="black", linewidth=2,
                      label="mean" if place == 0 else None)  # fmt: skip
        axis.set(xlabel=label, xlim=(min(0, runs[column].min()) - 0.02 * runs[column].max(), None))
        axis.grid(visible=False, axis="y")
    axes[0].set_yticks(range(len(models)), [tables.change_in_words(name) for name in models])
    axes[0].set(ylim=(len(models) - 0.5, -0.5))
    axes[0].legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


@_styled
def several_vectors(frame: pd.DataFrame) -> Figure:
    """Figure 4: capacity in tokens and information gain in bits against the number of mem vectors, with the ideal.

    Args:
        frame: `cramming.tables.several_vectors`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2))
    styles = ((COLOURS[2], "^", "-."), (COLOURS[1], "s", "--"), (COLOURS[3], "D", ":"))
    said = frame.loc[~frame["here"], "model"].unique()
    styled = dict(zip(said, styles, strict=False)) | dict.fromkeys(
        frame.loc[frame["here"], "model"], (COLOURS[0], "o", "-")
    )
    for axis, column, title in (
        (axes[0], "capacity", "Capacity, tokens"),
        (axes[1], "bits", "Information gain, bits"),
    ):
        for model, (colour, marker, style) in styled.items():
            some = frame[(frame["model"] == model) & (frame[column] > 0)]
            if some.empty:
                continue
            here = bool(some["here"].all())
            label = f"{model.split('/')[-1]}, {f'here (n = {some.n.iloc[0]})' if here else 'published'}"
            # On a log axis a spread down to 0 would have no end.
            spread = some[f"{column}_sd"].fillna(0).clip(upper=0.95 * some[column])
            axis.errorbar(some["n_vectors"], some[column], yerr=spread, color=colour, marker=marker, linestyle=style,
                          markeredgecolor="black", markeredgewidth=0.5, capsize=2, label=label)  # fmt: skip
            ks = np.array([1, some["n_vectors"].max()])
            one = some.loc[some["n_vectors"] == 1, column]
            if len(one):
                axis.plot(ks, one.iloc[0] * ks, color=colour, linewidth=0.9, alpha=0.8)
        axis.plot([], [], color="#777777", linewidth=0.9, label="ideal: k times one vector")
        ticks = sorted(set(frame.loc[frame[column] > 0, "n_vectors"]))
        axis.set(xscale="log", yscale="log", xlabel="mem vectors k (log scale)", title=f"{title} (log scale)")
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[0].legend(fontsize="small", loc="upper left")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low, high * 8)  # room for the legend
    return figure


@_styled
def several_curves(runs: pd.DataFrame) -> Figure:
    """Exact tokens against token passes and against steps, mean over passages, one line a number of mem vectors.

    Args:
        runs: `cramming.tables.same_passages`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), sharey=True)
    styles = (("-", COLOURS[0]), ("--", COLOURS[1]), (":", COLOURS[3]), ("-.", COLOURS[2]))
    for axis, along, label in (
        (axes[0], "token_passes", "token passes spent on a passage"),
        (axes[1], "steps", "steps"),
    ):
        for i, (k, some) in enumerate(runs.groupby("n_vectors")):
            curves = [tables.exact_curve(some.iloc[[at]], along) for at in range(len(some))]
            # Up to where the first of these runs ends: beyond, the mean would be one of other passages.
            grid = np.linspace(0, min(spent[-1] for spent, _ in curves), 300)
            lines = [tables.stair(*curve, grid) for curve in curves]
            style, colour = styles[i % len(styles)]
            axis.plot(grid, np.mean(lines, axis=0), style, color=colour, linewidth=2.2, label=f"k = {k}")
        axis.set(xlabel=label, xlim=(0, None), ylim=(0, None))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[0].set(ylabel="exact tokens, mean")
    axes[0].legend(title="mem vectors", fontsize="small")
    return figure


@_styled
def memories(frame: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Exact tokens against floats, one mark a kind of memory: means with their intervals, and every passage.

    Args:
        frame: `cramming.tables.memories`.
        runs: The runs it sums up.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.4))
    styles = ((COLOURS[0], "o", "-"), (COLOURS[1], "s", "--"), (COLOURS[2], "^", ":"))
    for i, (memory, (colour, marker, line)) in enumerate(zip(tables.MEMORIES, styles, strict=True)):
        some, each = frame[frame["memory"] == memory], runs[runs["memory"] == memory]
        if some.empty:
            continue
        beside = 1.05 ** (i - 1)  # so that equal floats do not hide each other
        axis.plot(each["floats"] * beside, each["length"], marker, color=colour, markersize=3, alpha=0.5)
        interval = [some["mean"] - some["low"], some["high"] - some["mean"]]
        axis.errorbar(some["floats"] * beside, some["mean"], yerr=interval, color=colour, marker=marker,
                      linestyle=line, markersize=8, markeredgecolor="black", markeredgewidth=0.5, capsize=3,
                      label=tables.MEMORIES[memory][0])  # fmt: skip
    ticks = sorted(set(frame["floats"]))
    axis.set(xscale="log", xlabel="floats trained for a passage (log scale)", ylabel="exact horizon, tokens")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.set_ylim(0, None)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncol=3, borderaxespad=0.2)
    return figure


@_styled
def similarity(pairs: pd.DataFrame, by_text: pd.DataFrame, width: int) -> Figure:
    """Cosine between vectors of one text and of two: all pairs, and the means text by text.

    Args:
        pairs: From `cramming.landscape.similarity`.
        by_text: From `cramming.landscape.similarity_by_text`.
        width: d, for what random directions would have.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=[1.2, 1])
    spread = width**-0.5
    edges = np.linspace(
        min(pairs["cosine"].min(), -3 * spread), max(pairs["cosine"].max(), 3 * spread), 41
    )  # the same for both
    styles = ((False, COLOURS[2], "stepfilled", "two texts"), (True, COLOURS[0], "step", "one text"))
    for same, colour, kind, name in styles:
        some = pairs.loc[pairs["same"] == same, "cosine"]
        left.hist(
            some, edges, density=True, histtype=kind, color=colour, linewidth=2, label=f"{name}, n = {len(some):,}"
        )
    grid = np.linspace(edges[0], edges[-1], 200)
    bell = np.exp(-((grid / spread) ** 2) / 2) / (spread * np.sqrt(2 * np.pi))
    left.plot(grid, bell, color=COLOURS[1], linestyle="--", label="random directions")
    left.set(xlabel="cosine of two vectors", ylabel="density")
    left.margins(y=0.35)
    left.legend(fontsize="small", loc="upper left")
    places = range(len(by_text))
    for column, colour, marker, name in (
        ("between", COLOURS[2], "s", "other texts"),
        ("within", COLOURS[0], "o", "its own"),
    ):
        right.plot(by_text[column], places, marker, color=colour, markeredgecolor="black", markeredgewidth=0.5,
                   markersize=8, label=f"with {name}")  # fmt: skip
    right.axvline(0, color="#777777", linewidth=1)
    right.set_yticks(places, [str(text) for text in by_text.index], fontsize="small")
    right.set(xlabel="mean cosine of a text's vectors", ylim=(len(by_text) - 0.5, -0.5))
    right.margins(x=0.15)
    right.legend(fontsize="small", loc="best")
    return figure


@_styled
def components(
    places: np.ndarray, shares: np.ndarray, random_shares: np.ndarray, texts: Collection[str], part: float = 0.9
) -> Figure:
    """Vectors on their first two principal components, and how many components hold how much of the variance.

    Args:
        places: Coordinates of n vectors, shape (n, c).
        shares: Of the variance, by component, shape (c,).
        random_shares: The same of as many random directions.
        texts: What each vector holds, n names.
        part: Share of the variance to draw a line at.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[1.5, 1])
    names = list(dict.fromkeys(texts))
    shades = plt.get_cmap("cividis")(np.linspace(0, 0.95, len(names)))
    second = places[:, 1] if places.shape[1] > 1 else np.zeros(len(places))
    for i, (name, shade) in enumerate(zip(names, shades, strict=True)):
        some = np.asarray(list(texts), dtype=object) == name
        left.plot(places[some, 0], second[some], "os^DvPX*<>"[i % 10], color=shade, markeredgecolor="black",
                  markeredgewidth=0.5, markersize=7, linestyle="none", label=name)  # fmt: skip
    left.set(xlabel=f"first component, {shares[0]:.1%} of the variance",
             ylabel=f"second component, {shares[1:2].sum():.1%}")  # fmt: skip
    left.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    for some, colour, style, label in (
        (shares, COLOURS[0], "-", "the vectors"),
        (random_shares, COLOURS[1], "--", "random directions"),
    ):
        right.plot(range(1, len(some) + 1), np.cumsum(some) * 100, color=colour, linestyle=style, label=label)
    right.axhline(part * 100, color="#777777", linewidth=1)
    right.set(xlabel="components", ylabel="share of the variance, %", ylim=(0, 104))
    right.legend(fontsize="small", loc="lower right")
    return figure


@_styled
def ways(frames: Mapping[str, pd.DataFrame], without: float) -> Figure:
    """Share of tokens right along ways between two vectors, mean over passages with its standard error.

    Args:
        frames: From `cramming.landscape.walk`, by what to call them.
        without: Share of tokens right with no mem at all.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4))
    looks = zip(COLOURS, "os^D", ("-", "--", ":", "-."), strict=True)
    for (name, frame), (colour, marker, style) in zip(frames.items(), looks, strict=False):
        each = frame.groupby(["passage", "share"])["right"].mean().groupby("share")
        mean, error = each.mean() * 100, each.sem().fillna(0) * 100
        axis.plot(mean.index, mean, style, color=colour, marker=marker, markersize=5, linewidth=2, label=name)
        axis.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axis.axhline(without * 100, color="#777777", linewidth=1)
    axis.annotate("no mem", (1, without * 100), (0, 3), textcoords="offset points", fontsize="small", ha="right")
    axis.set(xlabel="share of the way, by angle", ylabel="tokens right, %", ylim=(-3, 103))
    axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.24), ncols=2)
    return figure


@_styled
def context_gains(gains: pd.DataFrame) -> Figure:
    """Bits a token gained, and tokens right, against tokens of true context; mem and a copy as level lines.

    Bold lines: means over passages, with a band of one standard error. Thin ones: single passages, for context alone
    and for mem alone (marks at the edge).

    Args:
        gains: From `cramming.context.gains`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6))
    lengths = sorted(gains.loc[gains["what"] == "context", "context_tokens"].unique())
    edges = (lengths[0] / 1.3, lengths[-1] * 1.3) if lengths else (1, 2)
    styles = {
        "copy": (COLOURS[3], "--", ""),
        "context, mem": (COLOURS[0], "-", "s"),
        "mem": (COLOURS[0], ":", ""),
        "mem, context": (COLOURS[2], "-.", "D"),
        "context": (COLOURS[1], "-", "o"),
        "other context": ("#777777", ":", "^"),
    }
    for axis, column, factor in ((axes[0], "gain_per_token", 1), (axes[1], "right", 100)):
        for what, (colour, style, marker) in styles.items():
            some = gains[gains["what"] == what]
            if some.empty:  # of a single passage there is no other
                continue
            each = some.groupby("context_tokens")[column]
            mean, error = each.mean() * factor, each.sem().fillna(0) * factor
            if not some["context_tokens"].any():  # no context: the same at every length
                mean, error = (pd.Series(values.to_list() * 2, edges) for values in (mean, error))
            axis.plot(mean.index, mean, style, color=colour, marker=marker, linewidth=2.2, label=tables.CONTEXTS[what])
            axis.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
        for _, some in gains[gains["what"] == "context"].groupby("passage"):
            axis.plot(some["context_tokens"], some[column] * factor, color=COLOURS[1], alpha=0.35, linewidth=0.8)
        alone = gains.loc[gains["what"] == "mem", column] * factor
        axis.plot([edges[1]] * len(alone), alone, "_", color=COLOURS[0], alpha=0.7, clip_on=False)
        axis.set(xscale="log", xlabel="tokens of text before the passage (log scale)", xlim=edges, xticks=lengths,
                 xticklabels=[f"{n}" for n in lengths])  # fmt: skip
        axis.minorticks_off()
    axes[0].axhline(0, color="#777777", linewidth=0.8)
    axes[0].set(ylabel="bits a token", title="Information gained")
    alone = gains.loc[gains["what"] == "nothing", "right"].mean() * 100
    axes[1].axhline(alone, color="#777777", linewidth=0.8)
    axes[1].set(ylabel="tokens right, %", title="Tokens right", ylim=(0, 103))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


@_styled
def margins_and_changes(gaps: pd.DataFrame) -> Figure:
    """How large the margins are that tokens have, and by how much other ways of computing change them.

    Left: shares of tokens, and of passages with their smallest margin, below a margin. Right: the greatest change of
    every token's margin in each class of settings; what lies above the diagonal can be undone.

    Args:
        gaps: `cramming.robustness.gaps`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=[1, 1.4])
    once = gaps[gaps["setting"] == gaps["setting"].iloc[0]]
    for values, colour, style, label in (
        (once["reference"], COLOURS[0], "-", "tokens"),
        (once.groupby("run")["reference"].min(), COLOURS[1], "--", "passages, smallest"),
    ):
        won = np.sort(values[values > 0])
        share = np.arange(1, len(won) + 1) / max(1, len(won)) * 100
        left.step(won, share, where="post", color=colour, linestyle=style, label=f"{label} (n = {len(won)})")
    left.set(
        xscale="log", xlabel="margin, logits (log scale)", ylabel="share below, %", title="Margins", ylim=(0, 103)
    )
    left.legend(fontsize="small", loc="upper left")
    others = gaps[(gaps["reference"] > 0) & (gaps["setting"] != gaps["setting"].iloc[0])]
    others = others.assign(change=(others["gap"] - others["reference"]).abs())
    vector = others["setting"] == "vector in bfloat16"
    for some, colour, marker, label in (
        (others[others["coarse"] & ~vector], COLOURS[1], "s", "all in 16 bits"),
        (others[vector], COLOURS[2], "^", "vector in bfloat16"),
        (others[~others["coarse"]], COLOURS[0], "o", "32 and 64 bits"),
    ):
        each = some.groupby(["run", "position"]).agg(margin=("reference", "first"), change=("change", "max"))
        each = each[each["change"] > 0]  # a log axis has no place for what does not change at all
        right.plot(each["margin"], each["change"], marker, color=colour, alpha=0.35, markersize=4, markeredgewidth=0,
                   label=label, rasterized=True)  # fmt: skip
    right.set(xscale="log", yscale="log", xlabel="margin, logits (log scale)", title="Greatest change of a margin",
              ylabel="logits (log scale)")  # fmt: skip
    ends = np.array(right.get_xlim())
    right.plot(ends, ends, color="#777777", linewidth=1.2, label="change = margin")
    right.set_xlim(*ends)
    for handle in right.legend(fontsize="small", loc="lower right").legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return figure


@_styled
def margin_bought(cuts: pd.DataFrame, price: pd.DataFrame, asked: pd.DataFrame) -> Figure:
    """What a margin buys, and what it costs: share of prefixes exact by setting, and tokens left.

    Args:
        cuts: `cramming.tables.cut`.
        price: `cramming.tables.cut_price`.
        asked: `cramming.tables.asked`, the margins asked for from the start.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4))
    some = cuts[cuts["tokens"] > 0]
    fine = some[~some["coarse"]].groupby(["margin", "run"])["exact"].all().groupby("margin").mean()
    lines = {"32 and 64 bits, in all": fine} | {
        str(setting): kept.groupby("margin")["exact"].mean()
        for setting, kept in some[some["coarse"]].groupby("setting", sort=False)
    }
    styles = zip(COLOURS, "o^sD", ("-", "-.", "--", ":"), strict=True)
    for (label, share), (colour, marker, style) in zip(lines.items(), styles, strict=False):
        left.plot(share.index, share * 100, marker=marker, linestyle=style, color=colour, label=label)
    left.set(ylabel="prefixes exact, %", title="What it buys", ylim=(-3, 103))
    left.legend(fontsize="small", loc="lower right")
    right.plot(price.index, price["left"] * 100, "o-", color=COLOURS[0], label=f"cut afterwards (n = {price.n.max()})")
    right.fill_between(price.index, price["low"] * 100, price["high"] * 100, color=COLOURS[0], alpha=0.2, linewidth=0)
    shares = asked.dropna(subset="left").groupby("asked")["left"]
    for margin, each in shares:
        low, high = metrics.bootstrap_ci(each)
        right.plot([margin] * 2, [low * 100, high * 100], color=COLOURS[1], linewidth=2)
    if len(shares):
        right.plot(shares.mean().index, shares.mean() * 100, "s--", color=COLOURS[1], markeredgecolor="black",
                   label=f"asked for from the start (n = {shares.size().max()})")  # fmt: skip
    right.set(ylabel="tokens left, %", title="What it costs", ylim=(0, None))
    right.legend(fontsize="small", loc="lower left")
    for axis in (left, right):
        axis.set(xscale="log", xlabel="margin, logits (log scale)")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


# How ways of changing or rounding vectors look, in the order they come.
_WAYS = ((COLOURS[0], "o", "-"), (COLOURS[1], "s", "--"), (COLOURS[3], "^", ":"), (COLOURS[2], "D", "-."))


@_styled
def survival(summary: pd.DataFrame) -> Figure:
    """Share of a passage that is left after rounding, against bits a number, and after any change, against its angle.

    Args:
        summary: `cramming.tables.survival_summary` of rounding, noise and zeroing.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    frame = summary.reset_index()
    names = [what for what in dict.fromkeys(frame["what"]) if "float" not in what]
    for what, (colour, marker, style) in zip(names, _WAYS, strict=False):
        some = frame[frame["what"] == what]
        mean, error = some["share_mean"] * 100, some["share_sem"].fillna(0) * 100
        panels = [(axes[1], some["degrees"])]
        if some["stored_bits"].notna().any():
            panels.append((axes[0], some["amount"]))
        for axis, along in panels:
            axis.plot(along, mean, style, color=colour, marker=marker, markersize=5, linewidth=2, label=what)
            axis.fill_between(along, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    bits = sorted(frame.loc[frame["what"].isin(names) & frame["stored_bits"].notna(), "amount"].unique())
    axes[0].set(xlabel="bits a number", ylabel="exact tokens left, % of passage", ylim=(-3, 103), xticks=bits)
    axes[1].set(xlabel="angle to the vector found, degrees (log scale)", xscale="log")
    axes[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure


@_styled
def few_bits(frame: pd.DataFrame) -> Figure:
    """Passages that stay whole, and exact tokens, against bits a number, by when mem was rounded.

    Args:
        frame: `cramming.tables.few_bits`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4))
    amounts = sorted(frame["amount"].unique())
    place = {amount: at for at, amount in enumerate(amounts)}  # evenly spaced, or 32 would push the few together
    names = list(dict.fromkeys(frame["what"]))
    for i, (what, (colour, marker, style)) in enumerate(zip(names, _WAYS, strict=False)):
        some = frame[frame["what"] == what]
        whole = (some["exact"] == some["length"]).groupby(some["amount"]).mean() * 100
        tokens = some.groupby("amount")["exact"].mean()
        for axis, line in zip(axes, (whole, tokens), strict=True):
            axis.plot(line.index.map(place), line, style, color=colour, marker=marker, linewidth=2, label=what)
        # Side by side, since many passages keep equally many.
        beside = some["amount"].map(place) + (i - 1) * 0.15
        axes[1].plot(beside, some["exact"], marker, color=colour, markersize=3.5, alpha=0.45)
    for axis, label in zip(axes, ("passages whole, %", "exact tokens left"), strict=True):
        axis.set(xlabel="bits a number", ylabel=label)
        axis.set_xticks(range(len(amounts)), [f"{amount:g}" for amount in amounts])
        axis.grid(visible=False, axis="x")
    axes[0].set(ylim=(-3, 103))
    axes[1].set(ylim=(-0.03 * frame["length"].max(), 1.03 * frame["length"].max()))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


@_styled
def file_sizes(files: pd.DataFrame) -> Figure:
    """Bytes of each file by coder, one mark a passage, with the mean of each coder as a stroke.

    Args:
        files: From `cramming.coding.files`.
    """
    order = {coder: place for place, coder in enumerate(files["coder"].unique())}
    figure, axis = plt.subplots(figsize=(8, 0.36 * len(order) + 1.5))
    for source, (colour, marker) in SOURCES.items():
        some = files[files["source"] == source]
        if len(some):
            shift = {"novels": -0.14, "fresh": 0.14}.get(source, 0)
            axis.plot(some["bytes"], some["coder"].map(order) + shift, marker, color=colour, markersize=5,
                      markeredgecolor="black", markeredgewidth=0.4, alpha=0.85,
                      label=f"{source} (n = {some['passage'].nunique()})")  # fmt: skip
    means = files.groupby("coder", sort=False)["bytes"].mean()
    axis.plot(means, means.index.map(order), "|", color="black", markersize=17, markeredgewidth=1.6, label="mean")
    for coder, mean in means.items():
        axis.annotate(f"{mean:,.0f}", (1.01, order[str(coder)]), va="center", fontsize="small",
                      xycoords=("axes fraction", "data"))  # fmt: skip
    axis.set_yticks(range(len(order)), list(order))
    axis.set(xscale="log", xlabel="bytes of the file (log scale); means at the right", ylim=(len(order) - 0.5, -0.5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.grid(visible=False, axis="y")
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, 1.12), ncols=3, fontsize="small")
    return figure


@_styled
def forecasts(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """What was forecast for each passage from the others, with its interval, and what came: one panel a target.

    Args:
        frames: From `cramming.predict.left_out`, by what is forecast.
    """
    figure, axes = plt.subplots(1, len(frames), figsize=(4.9 * len(frames), 4.2), squeeze=False)
    for axis, (label, frame) in zip(axes[0], frames.items(), strict=True):
        low, high = (frame[end].where(np.isfinite(frame[end]) & (frame[end] > 0)) for end in ("low", "high"))
        axis.vlines(frame["predicted"], low, high, color=COLOURS[3], linewidth=0.8, alpha=0.35)
        ends = [f(f(frame[["predicted", "truth"]])) for f in (np.min, np.max)]
        axis.plot(ends, ends, color="#777777", linestyle="--", linewidth=1, label="as forecast")
        _marks_by_source(axis, frame, "predicted", "truth")
        axis.set(xscale="log", yscale="log", xlabel=f"forecast: {label}", ylabel=f"truth: {label}")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            side.set_minor_locator(NullLocator())
    axes[0, 0].legend(fontsize="small", loc="upper left")
    return figure


@_styled
def token_costs(tokens: pd.DataFrame) -> Figure:
    """Steps of every token against its surprisal, and the steps spent so far against the tokens got.

    Args:
        tokens: `cramming.growth.costs`, of one recipe.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    got = tokens[tokens["got"] & (tokens["position"] > 0)]
    some = got.assign(bits=got["nats"].map(metrics.nats_to_bits))
    _marks_by_source(left, some, "bits", "steps")
    classes = pd.cut(some["bits"], tables.SURPRISE, right=False)
    means = some.groupby(classes, observed=True)[["bits", "steps"]].mean()
    left.plot(means["bits"], means["steps"], color=COLOURS[3], linewidth=2.4, label="mean of a class")
    left.set(yscale="log", xlabel="surprisal without mem, bits", ylabel="steps (log scale)")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    left.legend(fontsize="small")
    for source, (colour, _) in SOURCES.items():
        style = {"novels": "-", "fresh": "--"}.get(source, ":")
        for i, (_, run) in enumerate(tokens[tokens["source"] == source].groupby("passage")):
            had = run[run["got"]]
            right.plot(had["position"] + 1, had["steps"].cumsum(), style, color=colour, linewidth=1.2, alpha=0.8,
                       label=source if i == 0 else None)  # fmt: skip
    right.set(xlabel="exact tokens", ylabel="steps so far", xlim=(0, None), ylim=(0, None))
    right.legend(fontsize="small")
    return figure


@_styled
def trajectories(frame: pd.DataFrame, path: np.ndarray, walk: np.ndarray) -> Figure:
    """One way of the vector on its first two principal components, and the variance that components hold.

    Args:
        frame: `cramming.growth.trajectories`.
        path: Coordinates of a vector's way, shape (n, c), from `cramming.landscape.principal`.
        walk: The same of a random walk like it.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for points, colour, style, label in (
        (path, COLOURS[0], "-", "growth"),
        (walk, COLOURS[1], "--", "random walk"),
    ):
        left.plot(*points[:, :2].T, style, color=colour, linewidth=1.2, label=label)
        left.plot(*points[:, :2].T, ".", color=colour, markersize=5)
        left.plot(*points[:1, :2].T, "o", color="white", markeredgecolor=colour, markersize=9)
        left.plot(*points[-1:, :2].T, "s", color=colour, markersize=8)
    left.set(xlabel="first component", ylabel="second component")
    left.legend(fontsize="small")
    looks = {"growth": (COLOURS[0], "o"), "random walk": (COLOURS[1], "^")}
    for what, (colour, marker) in looks.items():
        some = frame[frame["what"] == what]
        right.plot(some["tokens"], (some["first"] + some["second"]) * 100, marker, color=colour, label=what,
                   markeredgecolor="black", markeredgewidth=0.5)  # fmt: skip
    right.set(xlabel="points of the way (tokens)", ylabel="first two components, % of the variance", ylim=(0, 104))
    right.legend(fontsize="small")
    return figure


@_styled
def continued(frame: pd.DataFrame, width: int = 8) -> Figure:
    """Bits a token of the true continuation against the place in it, by what stands in front, with and without text.

    Args:
        frame: From `cramming.steering.continued`.
        width: Tokens averaged in one mark.
    """
    styles = {
        "nothing": ("#777777", ":", ""),
        "text": (COLOURS[1], "-", "o"),
        "mem": (COLOURS[0], "-", "s"),
        "mem, room": (COLOURS[0], "--", "D"),
        "random": (COLOURS[2], "-.", "^"),
        "other mem": (COLOURS[3], "-.", "v"),
        "mem, text": (COLOURS[0], "-", "s"),
        "random, text": (COLOURS[2], "-.", "^"),
    }
    panels = {
        "Without the text": ("nothing", "text", "mem", "mem, room", "random", "other mem"),
        "With the text": ("nothing", "text", "mem, text", "random, text"),
    }
    middle = (frame["position"] - 1) // width * width + (width + 1) / 2
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), sharey=True)
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for what in names:
            some = frame[frame["what"] == what]
            if some.empty:  # of a single passage there is no other
                continue
            colour, style, marker = styles[what]
            means = some.groupby(["passage", middle.rename("middle")])["bits"].mean().groupby("middle")
            axis.errorbar(means.mean().index, means.mean(), yerr=means.sem().fillna(0), fmt=marker, linestyle=style,
                          color=colour, capsize=2, label=tables.FRONTS[what])  # fmt: skip
        axis.set(xlabel="tokens into the continuation", title=title)
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    axes[0].set(ylabel="bits a token", ylim=(0, None))
    return figure


@_styled
def from_the_middle(frame: pd.DataFrame) -> Figure:
    """Tokens right, and bits a token, against how many true tokens are seen, with mem and without.

    Args:
        frame: From `cramming.steering.from_the_middle`.
    """
    summary = tables.middle_summary(frame)
    lefts = sorted(summary.index.unique("left"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2))
    for axis, column, error, factor in ((axes[0], "right", "sem", 100), (axes[1], "bits", "bits_sem", 1)):
        for what, colour, style, marker in (
            ("mem", COLOURS[0], "-", "s"),
            ("mem, room", COLOURS[1], "--", "o"),
            ("nothing", COLOURS[3], ":", "^"),
        ):
            if what not in summary.index:
                continue
            some = summary.loc[what]
            places = [lefts.index(left) for left in some.index]
            axis.errorbar(places, some[column] * factor, yerr=some[error].fillna(0) * factor, fmt=marker,
                          linestyle=style, color=colour, capsize=2, label=tables.FRONTS[what])  # fmt: skip
        axis.set(xlabel="true tokens seen before the one asked for", xticks=range(len(lefts)),
                 xticklabels=[tables.seen(left) for left in lefts])  # fmt: skip
    axes[0].set(ylabel="tokens right, %", ylim=(-3, 103), title="Tokens right")
    axes[1].set(ylabel="bits a token", ylim=(0, None), title="Cross-entropy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


@_styled
def memory_steps(frames: Mapping[str, pd.DataFrame], limits: Mapping[str, float]) -> Figure:
    """Memory of a step by part, as one thing after the other is done about it: one panel a model.

    Args:
        frames: `cramming.scale.memory_steps` by model.
        limits: Memory of what a step may run on, in GB, by name.
    """
    figure, axes = plt.subplots(1, len(frames), figsize=(3.4 * len(frames), 4.2), squeeze=False)
    for axis, (name, frame) in zip(axes[0], frames.items(), strict=True):
        places, below = np.arange(len(frame)), np.zeros(len(frame))
        for part, colour, hatch in zip(("weights", "activations", "logits"), COLOURS, ("", "//", ".."), strict=False):
            axis.bar(places, frame[part], bottom=below, color=colour, hatch=hatch, width=0.7, edgecolor="white",
                     linewidth=0.5, label=part)  # fmt: skip
            below += frame[part].to_numpy()
        top = below.max() * 1.15
        for label, limit in limits.items():
            if limit < top:
                axis.axhline(limit, color="black", linestyle="--", linewidth=1.2)
                axis.annotate(label, (len(frame) - 0.5, limit), (0, 4), textcoords="offset points", fontsize="x-small",
                              ha="right", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        for place, total in zip(places, frame["total"], strict=True):
            axis.annotate(f"{total:,.0f}", (place, total), (0, 3), textcoords="offset points", fontsize="x-small",
                          ha="center")  # fmt: skip
        axis.set_xticks(places, frame["what"], rotation=35, ha="right", fontsize="x-small")
        axis.set(title=name, ylim=(0, top))
        axis.grid(visible=False, axis="x")
    axes[0][0].set(ylabel="memory of a step, GB")
    axes[0][0].legend(fontsize="x-small", loc="upper right")
    return figure

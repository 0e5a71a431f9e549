"""Where a mem vector points as it passes through the network, and how smooth the loss is around it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cramming import metrics
from cramming.engine import score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.recipes import Recipe
from cramming.results.plans import offered
from cramming.results.rows import device_name, of_kind
from cramming.results.sweep import results
from cramming.sphere import along_sphere, chord_degrees, onto_sphere, random_directions, unit
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, styled
from cramming.studies._page import Exhibit
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage, passages

RADII = (0.1356, 1, 3, 10, 30, 100, 1000, 10000)  # the first is that of SmolLM2's embedding table
NEAR = (1, 30, 1000)  # radii whose gradients are compared


class Page(AnyPage):
    """The ways of holding mem, of the plan's model, of other architectures, and in bfloat16."""

    def __init__(self, scale: str, architectures: str, bfloat16: str) -> None:
        super().__init__("sphere", scale)
        self.tiny, self.coarse = results(architectures, "sphere"), results(bfloat16, "sphere")
        self.shown += [(architectures, self.tiny), (bfloat16, self.coarse)]
        self.arms = arms(self.results, self.vectors)
        self.length, self.steps = int(self.results["length"].max()), words.budgets(self.results)
        self.sources = " and ".join(sorted(self.results["source"].unique()))
        self.machine = f"{self.lm.provenance}, {device_name(self.lm.device)}"


@torch.no_grad()
def turning(lm: FrozenLM, directions: torch.Tensor, radii: Sequence[float]) -> pd.DataFrame:
    """What each layer finds of mem in the residual stream at mem's position.

    Two angles tell: how far the stream has turned away from where it started, and how far apart the streams of
    different mem vectors still are. If the latter is 0, that layer sees the same whatever mem is.

    Args:
        lm: The frozen model.
        directions: Shape (n, d) with n at least 2; their length is ignored.
        radii: S, the root mean square of mem's numbers.

    Returns:
        One row a radius, direction and layer: radius, direction (0 to n - 1), layer (0 is the input of the first
        layer), turned (degrees from where it started), apart (mean degrees to the streams of the other directions).

    Raises:
        CrammingError: If there are fewer than two directions.

    Examples:
        >>> from cramming.models import load
        >>> lm = load("tiny-llama")
        >>> frame = turning(lm, random_directions(lm, 4), [1, 1000])
        >>> last = frame[frame["layer"] == frame["layer"].max()].groupby("radius").mean()
        >>> bool(last.loc[1000, "turned"] < last.loc[1, "turned"])
        True
    """
    n = len(directions)
    if n < 2:
        raise CrammingError(f"{n} directions cannot be compared: give at least 2")
    rows = []
    for radius in radii:
        mem = (onto_sphere(directions) * radius)[:, None].to(lm.device, lm.dtype)
        out = lm.model.base_model(inputs_embeds=mem, use_cache=False, output_hidden_states=True)
        streams = [unit(state[:, 0].double()) for state in out.hidden_states[:-1]]  # the last one is normalised
        for layer, stream in enumerate(streams):
            turned = chord_degrees((stream - streams[0]).norm(dim=1)).tolist()
            apart = (chord_degrees(torch.cdist(stream, stream)).sum(1) / (n - 1)).tolist()
            rows += [(radius, i, layer, *angles) for i, angles in enumerate(zip(turned, apart, strict=True))]
    return pd.DataFrame(rows, columns=["radius", "direction", "layer", "turned", "apart"])


def gradient_agreement(
    lm: FrozenLM,
    passages: Sequence[Passage],
    radii: Sequence[float],
    degrees: Sequence[float],
    *,
    start: torch.Tensor | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Cosine between the loss's gradients at one direction and at another one some degrees away.

    An optimiser can take long steps only where the gradient still points the same way after one. The loss is the mean
    cross-entropy of a passage, the gradient that along the sphere.

    Args:
        lm: The frozen model.
        passages: Of equal length; each has a start, and a way to go from there, of its own.
        radii: S, the root mean square of mem's numbers.
        degrees: How far to go.
        start: Where to start from, one direction a passage, shape (n, d); random directions if not given.
        seed: Of random directions and of the ways, the same for every radius.

    Returns:
        One row a radius, angle and passage: radius, degrees, passage, cosine, nats (mean cross-entropy at the start).

    Raises:
        CrammingError: If there is no passage or their lengths differ.
    """
    lengths = sorted({len(passage) for passage in passages})
    if len(lengths) != 1:
        raise CrammingError(f"passages have lengths {lengths}: give at least one passage, all of one length")
    start = random_directions(lm, len(passages), seed=seed) if start is None else onto_sphere(start.to(lm.device))
    way = random_directions(lm, len(passages), seed=seed + 1)
    way = onto_sphere(along_sphere(way, start))
    rows = []
    for radius in radii:
        here, nats = _gradient(lm, passages, start, radius)
        for angle in degrees:
            turn = math.radians(angle)
            there, _ = _gradient(lm, passages, math.cos(turn) * start + math.sin(turn) * way, radius)
            cosines = torch.nn.functional.cosine_similarity(here, there).tolist()
            rows += [
                (radius, angle, passage.id, cosine, float(loss))
                for passage, cosine, loss in zip(passages, cosines, nats, strict=True)
            ]
    return pd.DataFrame(rows, columns=["radius", "degrees", "passage", "cosine", "nats"])


def agreement_by_start(
    lm: FrozenLM,
    passages: Sequence[Passage],
    crammed: Sequence[Passage],
    found: Mapping[float, Mapping[str, torch.Tensor]],
    radii: Sequence[float],
    degrees: Sequence[float],
) -> pd.DataFrame:
    """`gradient_agreement` from random directions, and from those that crams ended with.

    Args:
        lm: The frozen model.
        passages: For the random directions.
        crammed: For the directions found.
        found: By radius, the vector of each crammed passage, shape (d,), from `found`.
        radii: For the random directions.
        degrees: How far to go.

    Returns:
        The rows of both, with a column where: random directions, or directions found.
    """
    parts = [gradient_agreement(lm, passages, radii, degrees).assign(where="random directions")]
    for radius, vectors in found.items():
        start = torch.stack([vectors[passage.id] for passage in crammed])
        frame = gradient_agreement(lm, crammed, [radius], degrees, start=start)
        parts.append(frame.assign(where="directions found"))
    return pd.concat(parts, ignore_index=True)


def _gradient(
    lm: FrozenLM, passages: Sequence[Passage], directions: torch.Tensor, radius: float
) -> tuple[torch.Tensor, np.ndarray]:
    """Gradient of each passage's mean cross-entropy along the sphere, (n, d), and that mean in nats, (n,)."""
    tokens = torch.tensor([passage.token_ids for passage in passages], device=lm.device)
    weights = torch.full(tokens.shape, 1 / tokens.shape[1], device=lm.device)
    trained = directions.clone().requires_grad_(True)
    loss, nats, _ = score(lm, (trained * radius)[:, None], tokens, weights)
    (gradient,) = torch.autograd.grad(loss, trained)
    return along_sphere(gradient, directions), nats.mean(1).cpu().numpy()


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
    runs = of_kind(results, "cram")
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
    table = shown.pivot_table("cell", "how", "model", aggfunc="first", sort=False)
    return table.rename_axis(columns=None, index="mem")


@styled
def arms_figure(frame: pd.DataFrame) -> Figure:
    """Share of tokens right against the root mean square of mem, on the sphere and free.

    Args:
        frame: `cramming.studies.sphere.arms`, of one model and number format.
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


@styled
def turning_figure(frame: pd.DataFrame) -> Figure:
    """What layers find of mem at its position, one line a radius, mean over directions.

    Left: degrees the stream has turned away from mem. Right: degrees between the streams of different mem vectors.

    Args:
        frame: `cramming.studies.sphere.turning`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    shown = (("turned", "away from mem"), ("apart", "between different mem vectors"))
    for axis, (column, title) in zip(axes, shown, strict=True):
        for radius, (line, style) in _by_radius(frame, column, "layer").items():
            axis.plot(line.index, line, label=f"S = {radius:g}", **{**style, "marker": ""}, linewidth=1.8)
        axis.axhline(90, color="#777777", linewidth=0.8)
        axis.set(xlabel="layer whose input is looked at", title=f"Degrees {title}", ylim=(-3, 103))
    axes[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def gradient_agreement_figure(frame: pd.DataFrame) -> Figure:
    """Cosine between the gradients at two directions, against the angle between them, one line a radius.

    Args:
        frame: `cramming.studies.sphere.gradient_agreement`, with a column where: one panel for each of its values.
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


def show_arms_table(page: Page) -> Exhibit:
    """The ways of holding mem, one row each."""
    caption = (
        f"**Ways of holding mem.** {page.setting}; {page.arms['n'].max()} passages of {page.length} tokens "
        f"({page.sources}), at most {page.steps}. *Size*: root mean square of mem's numbers. *Exact*: every token the "
        "argmax by a margin of 0.05 logits, teacher-forced. Intervals: 95 % bootstrap of the mean over passages. "
        f"{words.cost(page.results)}."
    )
    return Exhibit(caption, arms_table(page.arms))


def show_arms_figure(page: Page) -> Exhibit:
    """The same, by size."""
    caption = (
        f"**Size decides.** Share of tokens right after at most {page.steps}, against the root mean square of mem's "
        "numbers; learning rates beside the marks that do not have the usual one, which stand a little aside of their "
        f"size. {page.setting}; n = {page.arms['n'].max()} passages of {page.length} tokens for each mark; bars: 95 % "
        "bootstrap interval of the mean."
    )
    return Exhibit(caption, arms_figure(page.arms))


def show_turning(page: Page) -> Exhibit:
    """What layers find of random directions at mem's position."""
    n = 16
    frame = turning(page.lm, random_directions(page.lm, n), RADII)
    layer = frame["layer"].max()
    last, middle = (
        {
            radius: words.spread(some.mean(), some.std())
            for radius, some in frame[frame["layer"] == at].groupby("radius")[column]
        }
        for at, column in ((layer, "turned"), (layer // 2, "apart"))
    )
    caption = (
        "**Half-way through the network, short mem vectors all look the same.** Left: degrees between the residual "
        "stream at mem's position and mem itself, at the input of each layer; at S = 1000 the last layer still finds "
        f"it within {last[1000]} degrees. Right: degrees between the streams of different mem vectors; at S = 1 they "
        f"are {middle[1]} degrees apart in the middle, at S = 1000 {middle[1000]}. Mean ± standard deviation over n = "
        f"{n} random directions, no text. {page.machine}."
    )
    return Exhibit(caption, turning_figure(frame))


def show_gradient_agreement(page: Page) -> Exhibit:
    """Whether long vectors have a smoother loss."""
    lm, first = page.lm, page.plan.experiments[0]
    some = [p for source in first.sources for p in passages(source, lm.tokenizer, n=16, length=page.length, seed=1)]
    crammed = offered(first, lm)
    frame = agreement_by_start(lm, some, crammed, found(page.results, page.vectors, NEAR), NEAR, [1, 3, 10])
    cosines = frame[frame["degrees"] == 10].groupby(["where", "radius"])["cosine"]
    said = {key: words.spread(each.mean(), each.sem(), 2) for key, each in cosines}
    caption = (
        "**Long vectors do not have a clearly smoother loss.** Cosine between the gradients, along the sphere, of a "
        "passage's mean cross-entropy at one direction and at another; mean ± standard error. Ten degrees away, from "
        f"random directions (n = {len(some)} passages): {said['random directions', 1000]} at S = 1000, "
        f"{said['random directions', 30]} at S = 30, {said['random directions', 1]} at S = 1. From the directions "
        f"that the runs above ended with (n = {len(crammed)}): {said['directions found', 1000]}, "
        f"{said['directions found', 30]}, {said['directions found', 1]}. Passages of {page.length} tokens "
        f"({page.sources}). {page.machine}."
    )
    return Exhibit(caption, gradient_agreement_figure(frame))


def show_architectures(page: Page) -> Exhibit:
    """The ways of holding mem in tiny models of other architectures."""
    runs, by_model = page.tiny, arms(page.tiny)
    caption = (
        f"**Tiny random models.** {by_model['n'].max()} passages of {runs['length'].max()} tokens (bytes) a cell, at "
        f"most {words.budgets(runs)}: share of tokens right, and how many passages came out exact. {words.cost(runs)}."
    )
    return Exhibit(caption, arms_by_model(by_model))


def show_bfloat16(page: Page) -> Exhibit:
    """A long and a short vector in bfloat16."""
    runs, coarse = page.coarse, arms(page.coarse)
    caption = (
        f"**In bfloat16.** {words.setting(runs)}; {coarse['n'].max()} passages of {runs['length'].max()} tokens a "
        f"row, at most {words.budgets(runs)}. *Exact* is what the run itself saw. Of these, "
        f"{int(runs['exact'].sum())} of {len(runs)} runs also decode exactly in all three ways, in bfloat16. "
        f"{words.cost(runs)}."
    )
    return Exhibit(caption, arms_table(coarse))

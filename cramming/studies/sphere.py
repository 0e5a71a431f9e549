"""Where a mem vector points as it passes through the network, and how smooth the loss is around it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cramming import metrics
from cramming.engine import score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.recipes import Recipe
from cramming.results.plans import offered
from cramming.results.rows import of_kind
from cramming.results.sweep import results
from cramming.sphere import along_sphere, chord_degrees, onto_sphere, random_directions, unit
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit, Fold
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage, passages

RADII = (0.1356, 1, 3, 10, 30, 100, 1000, 10000)  # the first is that of SmolLM2's embedding table
NEAR = (1, 30, 1000)  # radii whose gradients are compared
SHORT, *_, LONG = NEAR


class Page(AnyPage):
    """The ways of holding mem, of the plan's model, of other architectures, and in bfloat16."""

    def __init__(self, scale: str, architectures: str, bfloat16: str) -> None:
        super().__init__("sphere", scale)
        self.tiny, self.coarse = results(architectures, "sphere"), results(bfloat16, "sphere")
        self.shown += [(architectures, self.tiny), (bfloat16, self.coarse)]
        self.arms = arms(self.results, self.vectors)
        self.length = int(self.results["length"].max())

    @cached_property
    def setting(self) -> str:
        """Of the plan's runs, with what differs in the others."""
        tiny = self.tiny["model"].nunique()
        return f"{words.setting_line(self.results)}; at the end {tiny} tiny random models, and bfloat16"

    @cached_property
    def turned(self) -> pd.DataFrame:
        """From `turning`, of 16 random directions."""
        return turning(self.lm, random_directions(self.lm, 16), RADII)

    def angles(self, column: str, depth: float) -> dict[float, str]:
        """A column of `turned` by radius, mean ± standard deviation, that share of the way through the layers."""
        at = int(self.turned["layer"].max() * depth)
        by_radius = self.turned[self.turned["layer"] == at].groupby("radius")[column]
        return {float(radius): words.spread(some.mean(), some.std()) for radius, some in by_radius}


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
        right (mean share of tokens right), low and high (its 95 % bootstrap interval), rms_end (median),
        each (share of tokens right by passage).
    """
    runs = of_kind(results, "cram")
    rows = []
    for (model, dtype, text), some in runs.groupby(["model", "dtype", "recipe_json"], sort=False):
        how = Recipe.model_validate_json(str(text))
        sphere = how.parametrisation == "sphere"
        start = how.radius if sphere else np.nan if how.init == "embedding_std" else how.init_std
        low, high = metrics.bootstrap_ci(some["accuracy"])
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
                "solved": int((some["ended"] == "solved").sum()),
                "right": some["accuracy"].mean(),
                "low": low,
                "high": high,
                "rms_end": np.median(ends) if ends else np.nan,
                "each": some.set_index("passage")["accuracy"],
            }
        )
    return pd.DataFrame(rows).sort_values(["model", "dtype", "mem", "rms_start", "lr"], ignore_index=True)


def at_one_rate(frame: pd.DataFrame) -> pd.DataFrame:
    """Of `arms`, those that move mem at the rate relative to its size that most spheres have."""
    usual = frame.loc[frame["mem"] == "sphere", "lr_relative"].mode().max()
    return frame[np.isclose(frame["lr_relative"], usual)]


def gain(
    frame: pd.DataFrame, more: tuple[str, float] = ("sphere", LONG), less: tuple[str, float] = ("sphere", SHORT)
) -> tuple[float, float, float]:
    """Tokens right by one way of holding mem less those by another, of the same passages at one relative rate.

    Args:
        frame: `arms` of one model and number format.
        more: Sphere or free, and the size at the start.
        less: What it is compared with.

    Returns:
        Mean difference in points of a percentage, with its 95 % bootstrap interval; nan if there is none of either.
    """
    each = at_one_rate(frame).set_index(["mem", "rms_start"])["each"]
    if not {more, less} <= set(each.index):
        return (np.nan,) * 3
    points = (each[more] - each[less]) * 100
    return points.mean(), *metrics.bootstrap_ci(points)


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
            "tokens right, %": [
                f"{r.right:.0%} ({r.low:.0%} to {r.high:.0%})".replace("%", "") for r in frame.itertuples()
            ],
            "exact": [f"{r.solved} of {r.n}" for r in frame.itertuples()],
            "size at start": ["embedding table's" if x != x else f"{x:,.5g}" for x in frame["rms_start"]],
            "size at end": ["" if x != x else f"{x:,.5g}" for x in frame["rms_end"]],
            "learning rate": frame["lr"].map("{:.4g}".format),
            "relative to size": ["" if x != x else f"{x:.2g}" for x in frame["lr_relative"]],
        }
    )
    return shown.drop(columns=[name for name in shown if (shown[name] == "").all()]).set_index("mem")


def arms_by_model(frame: pd.DataFrame) -> pd.DataFrame:
    """Share of tokens right and exact passages, from the `arms` of several models: a row a way, a column a model."""
    sizes = ["at the embedding table's size" if x != x else f"of size {x:,.5g}" for x in frame["rms_start"]]
    shown = frame.assign(
        how=[f"{r.mem} {size}, rate {r.lr:.4g}" for r, size in zip(frame.itertuples(), sizes, strict=True)],
        cell=[f"{r.right:.0%}, {r.solved} exact" for r in frame.itertuples()],
    )
    table = shown.pivot_table("cell", "how", "model", aggfunc="first", sort=False)
    return table.rename_axis(columns=None, index="mem")


@styled
def arms_figure(frame: pd.DataFrame) -> Figure:
    """Share of tokens right against the size of mem at one relative rate, and against that rate at one size.

    Args:
        frame: `cramming.studies.sphere.arms`, of one model and number format.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 8))
    one = at_one_rate(frame)
    more = frame[frame.groupby(["mem", "rms_start"])["lr"].transform("size") > 1]
    for axis, some, by, x in ((above, one, ["mem"], "rms_start"), (below, more, ["mem", "rms_start"], "lr_relative")):
        looks = zip(COLOURS, "os^D", ("-", "--", ":", "-."), (1, 1.08, 1.17, 1.26), strict=True)  # side by side
        for ((mem, *size), arm), (colour, marker, style, aside) in zip([*some.groupby(by)][::-1], looks, strict=False):
            arm = arm.sort_values(x)
            spread = np.abs(arm[["low", "high"]].to_numpy().T - arm["right"].to_numpy())
            axis.errorbar(arm[x] * aside, arm["right"], yerr=spread, color=colour, marker=marker, linestyle=style,
                          capsize=2, markeredgecolor="black", markeredgewidth=0.5,
                          label=", size ".join([str(mem), *(f"{each:,.5g}" for each in size)]))  # fmt: skip
        axis.set(xscale="log", ylabel="share of tokens right", ylim=(0, 1.08))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        if len(some):
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    above.set(xlabel="size of mem, at the start if free (log scale)")
    below.set(xlabel="learning rate relative to size (log scale)")
    return figure


@styled
def turning_figure(frame: pd.DataFrame) -> Figure:
    """What layers find of mem at its position, one line a radius, mean over directions.

    Above: degrees the stream has turned away from mem. Below: degrees between the streams of different mem vectors.

    Args:
        frame: `cramming.studies.sphere.turning`.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7.4), sharex=True)
    shown = (("turned", "away from mem"), ("apart", "between different mem vectors"))
    for axis, (column, title) in zip(axes, shown, strict=True):
        for radius, (line, style) in _by_radius(frame, column, "layer").items():
            axis.plot(line.index, line, label=f"S = {radius:g}", **{**style, "marker": ""}, linewidth=1.8)
        axis.axhline(90, color="#777777", linewidth=0.8)
        axis.set(ylabel="degrees", title=f"Degrees {title}", ylim=(-3, 103))
    axes[-1].set(xlabel="layer whose input is looked at")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, columnspacing=1)
    return figure


@styled
def gradient_agreement_figure(frame: pd.DataFrame) -> Figure:
    """Cosine between the gradients at two directions, against the angle between them, one line a radius.

    Args:
        frame: `cramming.studies.sphere.gradient_agreement`, with a column where: one panel for each of its values.
    """
    places = frame["where"].unique()
    figure, axes = plt.subplots(len(places), 1, figsize=(WIDTH, 3.6 * len(places)), sharey=True, squeeze=False)
    for axis, where in zip(axes[:, 0], places, strict=True):
        some = frame[frame["where"] == where]
        spread = some.groupby(["radius", "degrees"])["cosine"].sem()
        for i, (radius, (line, style)) in enumerate(_by_radius(some, "cosine", "degrees").items()):
            aside = line.index * 1.06**i  # side by side, so that the bars can be told apart
            axis.errorbar(aside, line, yerr=spread[radius], label=f"S = {radius:g}", capsize=2, **style)
        ticks = sorted(some["degrees"].unique())
        axis.set(xscale="log", ylabel="cosine of the gradients", title=f"From {where}", xticks=ticks,
                 xticklabels=[f"{x:g}" for x in ticks])  # fmt: skip
        axis.minorticks_off()
    axes[-1, 0].set(xlabel="degrees between the two (log scale)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _by_radius(frame: pd.DataFrame, value: str, along: str) -> dict[float, tuple[pd.Series, dict[str, Any]]]:
    """Mean line of each radius, with a colour and a style that tell it apart from the others."""
    means = frame.pivot_table(value, along, "radius")
    return {
        float(radius): (
            means[radius],
            {"color": COLOURS[i % 4], "linestyle": "-" if i < 4 else "--", "marker": "os^D"[i % 4]},
        )
        for i, radius in enumerate(means)
    }


def show_answer(page: Page) -> Answer:
    """What the size of mem does to the search, and what inside the network goes with it."""
    mean, low, high = gain(page.arms)
    sphere = at_one_rate(page.arms).set_index(["mem", "rms_start"])[["right", "low", "high"]]
    long, short = (words.percent(*sphere.loc[("sphere", size)]) for size in (LONG, SHORT))
    middle = page.angles("apart", 0.5)
    return Answer(
        page.setting,
        "Why is a long vector easier to find?",
        f"On a sphere of size {LONG:,} a vector gets **{long}** of its tokens right, of size {SHORT} {short}, a "
        f"difference of {words.interval(mean, low, high, 0)} points, and half-way through the network, where deep "
        f"layers read mem, different vectors of these sizes are {middle[LONG]} and {middle[SHORT]} degrees apart.",
        rests=f"Means with 95 % bootstrap intervals over {words.counted(page.results)} passages of {page.length} "
        f"tokens, {words.budgets(page.results)} at most",
        sure="holds here only" if low > 0 else "open",
        why="one trained model, few short passages, and no test yet that what deep layers read is the cause",
    )


def show_arms(page: Page) -> Exhibit:
    """The ways of holding mem: by size, by learning rate, and all of them."""
    long = ("free", LONG)
    pairs: tuple[tuple[Any, ...], ...] = ((), (long, ("free", SHORT)), (("sphere", LONG), long))
    sphere, free, over = (words.interval(*gain(page.arms, *pair), 0) for pair in pairs)
    caption = (
        f"**From size {SHORT} to size {LONG:,} a sphere gains {sphere} points of tokens right.** A free start gains "
        f"{free}; at size {LONG:,} the sphere has {over} against it. Above and in these pairs the rate is "
        f"{at_one_rate(page.arms)['lr_relative'].iloc[-1]:g} of the size. n = {page.arms['n'].max()} passages; bars: "
        "95 % bootstrap interval."
    )
    table = Fold("All ways of holding mem; exact: teacher-forced, by a margin of 0.05 logits", arms_table(page.arms))
    return Exhibit(caption, arms_figure(page.arms), table)


def show_turning(page: Page) -> Exhibit:
    """What layers find of random directions at mem's position."""
    last, middle = page.angles("turned", 1), page.angles("apart", 0.5)
    caption = (
        f"**Half-way through, different mem vectors of size {SHORT} are {middle[SHORT]} degrees apart, of size "
        f"{LONG:,} {middle[LONG]}.** Above: between the residual stream at mem's position and mem, {last[LONG]} at "
        f"the last layer for S = {LONG:,}. Below: between the streams of different vectors. Mean ± standard deviation "
        f"over n = {page.turned['direction'].nunique()} random directions, no text."
    )
    return Exhibit(caption, turning_figure(page.turned))


def show_gradient_agreement(page: Page) -> Exhibit:
    """Whether long vectors have a smoother loss."""
    lm, first = page.lm, page.plan.experiments[0]
    some = [p for source in first.sources for p in passages(source, lm.tokenizer, n=16, length=page.length, seed=1)]
    crammed = offered(first, lm)
    frame = agreement_by_start(lm, some, crammed, found(page.results, page.vectors, NEAR), NEAR, [1, 3, 10])
    cosines = frame[frame["degrees"] == 10].pivot_table("cosine", ["where", "passage"], "radius")
    (random, ended), (random_near, ended_near) = (
        [
            words.interval(each.mean(), *metrics.bootstrap_ci(each), 2)
            for each in (
                (cosines[LONG] - cosines[size]).loc[where] for where in ("random directions", "directions found")
            )
        ]
        for size in (SHORT, NEAR[1])
    )
    caption = (
        f"**Ten degrees on, the cosine of gradients is at size {LONG:,} against size {SHORT} {random} from random "
        f"directions, {ended} from those found; against size {NEAR[1]} {random_near} and {ended_near}.** Along the "
        f"sphere; *found*: where runs ended; n = {len(some)} and {len(crammed)} passages, in pairs. Marks: mean ± "
        "standard error."
    )
    return Exhibit(caption, gradient_agreement_figure(frame))


def show_architectures(page: Page) -> Exhibit:
    """The ways of holding mem in tiny models of other architectures."""
    runs, by_model = page.tiny, arms(page.tiny)
    gains = {str(model): gain(some) for model, some in by_model.groupby("model")}
    none = sum(low <= 0 <= high for _, low, high in gains.values())
    said = "; ".join(f"{name} {words.interval(*each, 0)}" for name, each in gains.items())
    caption = (
        f"**In {none} of {len(gains)} tiny models the gain from size {SHORT} to size {LONG:,} has an interval that "
        f"includes 0.** In points: {said}. Cells: tokens right, exact passages of {by_model['n'].max()}; "
        f"{runs['length'].max()} bytes, {words.budgets(runs)}."
    )
    return Exhibit(caption, arms_by_model(by_model))


def show_bfloat16(page: Page) -> Exhibit:
    """A long and a short vector in bfloat16."""
    runs, coarse = page.coarse, arms(page.coarse)
    caption = (
        f"**In bfloat16 size {LONG:,} gains {words.interval(*gain(coarse), 0)} points on size {SHORT}.** n = "
        f"{coarse['n'].max()} passages of {runs['length'].max()} tokens a row, at most {words.budgets(runs)}. *Exact* "
        f"is what the run itself saw; {int(runs['exact'].sum())} of {len(runs)} runs also decode exactly in all three "
        "ways."
    )
    return Exhibit(caption, arms_table(coarse))

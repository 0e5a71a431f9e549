"""What fills a vector up: how many tokens it holds, or how much they surprise the model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cramming import metrics
from cramming.decode import teacher_forced, without_mem
from cramming.models import FrozenLM
from cramming.results.published import hub_id, published, text_ratios
from cramming.results.rows import after_first, bits_after_first, crammed, of_kind
from cramming.results.traces import exact_at, stair
from cramming.sphere import noise_like
from cramming.studies import _words as words
from cramming.studies._figures import WIDTH, marks_by_source, source_marks, styled
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage

LINES = ("-", "--", ":", "-.")  # of sources, in turn


class Page(AnyPage):
    """The exact horizons, and what their texts cost with mem and without, behind the horizon too.

    Attributes:
        window: Tokens of a passage that its bits a token are taken over.
        behind: Tokens looked at behind the horizon.
        horizons: Rows of kind horizon with two tokens or more.
    """

    def __init__(self, scale: str, window: int, behind: int) -> None:
        super().__init__("information", scale)
        self.window, self.behind = window, behind
        self.horizons = of_kind(self.results, "horizon").query("length >= 2")

    @cached_property
    def token_nats(self) -> pd.DataFrame:
        """From `token_nats`, of all horizons."""
        tokens = max(self.window, self.horizons["length"].max() + self.behind)
        vectors = [self.vectors[key] for key in self.horizons["key"]]
        return token_nats(self.lm, vectors, crammed(self.horizons, self.lm, tokens=tokens))

    @cached_property
    def beyond(self) -> pd.DataFrame:
        """From `beyond`, of all horizons."""
        return beyond(self.horizons, self.token_nats)

    @cached_property
    def past(self) -> pd.DataFrame:
        """Bits saved a token behind the horizon, by mem and by a random vector (bits_saved, bits_random), each
        passage's mean; the first eight tokens were under optimisation too."""
        some = self.beyond[self.beyond["past"].between(9, self.behind)]
        return some.groupby("passage")[["bits_saved", "bits_random"]].mean()

    @cached_property
    def limits(self) -> pd.DataFrame:
        """From `limits`, of all horizons."""
        return limits(self.horizons, self.token_nats, self.window)

    @cached_property
    def overfull(self) -> pd.DataFrame:
        """From `overfull`, of all runs."""
        return overfull(self.results)

    @cached_property
    def tests(self) -> pd.DataFrame:
        """From `limit_tests`, of all horizons."""
        return limit_tests(self.limits)


def token_nats(lm: FrozenLM, vectors: Sequence[torch.Tensor], passages: Sequence[Passage]) -> pd.DataFrame:
    """Cross-entropy of every token given the true tokens before it: without mem, with it, behind a random vector.

    Passages may be longer than what their vectors hold: then one sees where the text ends that the vector tells.
    Token 0 is left out, as in `cramming.results.rows.surprise`.

    Args:
        lm: The frozen model.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: The text, as far as it is to be looked at; at least two tokens.

    Returns:
        One row a token: source, passage, position (1 is the second token), nats, nats_with, nats_random (random
        vectors with the norms of mem in its place).
    """
    parts, generator = [], torch.Generator().manual_seed(0)
    for mem, passage in zip(vectors, passages, strict=True):
        nats, _ = without_mem(lm, passage.token_ids)
        tokens, columns = torch.tensor([passage.token_ids], device=lm.device), {"nats": nats[1:]}
        for name, front in (("nats_with", mem), ("nats_random", noise_like(mem, generator))):
            columns[name] = teacher_forced(lm, front[None], tokens)[0][0, 1:].cpu().numpy()
        parts.append(after_first(passage, **columns))
    return pd.concat(parts, ignore_index=True)


def limits(results: pd.DataFrame, token_nats: pd.DataFrame, window: int) -> pd.DataFrame:
    """Each horizon beside what two laws foretell: as many tokens for every text, or as many bits.

    The forecast for a passage is made from the others: their mean horizon, or the length at which its own bits without
    mem add up to the mean bits of the others at their horizons. How dense a text is gets measured over its first
    `window` tokens, whatever its horizon: bits a token over the horizon itself would go along with it by arithmetic.

    Args:
        results: Rows of kind horizon.
        token_nats: From the function of that name, of the same passages and at least as long as their horizons.
        window: Tokens.

    Returns:
        One row a run: source, passage, length (tokens), bits (without mem, over the horizon), density (bits a token
        over the window), by_tokens and by_bits (forecasts, tokens). Token 0 has no bits.
    """
    runs = of_kind(results, "horizon").query("length >= 2").reset_index(drop=True)
    by_passage = {
        str(name): np.append(0.0, np.cumsum(metrics.nats_to_bits(some.sort_values("position")["nats"].to_numpy())))
        for name, some in token_nats.groupby("passage")
    }
    sums = [by_passage[passage] for passage in runs["passage"]]
    frame = runs[["source", "passage", "length"]].assign(
        bits=[bits[length - 1] for bits, length in zip(sums, runs["length"], strict=True)],
        density=[bits[:window][-1] / (len(bits[:window]) - 1) for bits in sums],
    )
    others = max(1, len(frame) - 1)
    mean_bits = (frame["bits"].sum() - frame["bits"]) / others
    return frame.assign(
        by_tokens=(frame["length"].sum() - frame["length"]) / others,
        by_bits=[int(np.searchsorted(*pair, side="right")) for pair in zip(sums, mean_bits, strict=True)],
    )


def limit_tests(frame: pd.DataFrame) -> pd.DataFrame:
    """Four tests of whether tokens or bits are the limit of a vector, each with a 95 % bootstrap interval.

    Args:
        frame: From `limits`.

    Returns:
        Index test; columns value, low, high, tokens and bits (what the value would be if one of the two were the
        limit, in words), includes (which of these lie in the interval, in words).
    """
    rows: dict[str, tuple[float, float, float, str, str, str]] = {}
    for name, groups in (("all texts", None), ("within sources", frame["source"])):
        found = metrics.power_law(frame["density"], frame["length"], groups)
        low, high = found["low"], found["high"]
        includes = {
            (True, True): "0 and -1",
            (True, False): "0, not -1",
            (False, True): "-1, not 0",
            (False, False): "neither 0 nor -1",
        }[low <= 0 <= high, low <= -1 <= high]
        rows[f"slope, {name}"] = found["exponent"], low, high, "0", "-1", includes

    def scatter(sample: pd.DataFrame) -> float:
        varies = {column: sample[column].std() / sample[column].mean() for column in ("bits", "length")}
        return words.ratio(varies["bits"], varies["length"])

    def errors(sample: pd.DataFrame) -> float:
        wrong = {column: (sample[column] - sample["length"]).abs().mean() for column in ("by_bits", "by_tokens")}
        return words.ratio(wrong["by_bits"], wrong["by_tokens"])

    generator = np.random.default_rng(0)
    draws = [frame.iloc[generator.integers(0, len(frame), len(frame))] for _ in range(1_000)]
    for name, statistic in (("scatter of bits over tokens", scatter), ("error by bits over tokens", errors)):
        low, high = np.percentile([statistic(draw) for draw in draws], [2.5, 97.5], method="closest_observation")
        includes = "only below 1" if high < 1 else "only above 1" if low > 1 else "both sides of 1"
        rows[name] = statistic(frame), float(low), float(high), "above 1", "below 1", includes
    columns = ["value", "low", "high", "tokens", "bits", "includes"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("test")


def slopes(results: pd.DataFrame, densities: pd.Series) -> pd.DataFrame:
    """The slope of horizons against bits a token, on logarithms, as the budget grows: from the traces of one sweep.

    Args:
        results: Rows of kind horizon.
        densities: Bits a token without mem, by passage.

    Returns:
        Index share (of the token passes that each run took); columns horizon (exact tokens so far, mean), slope, low
        and high (over all texts, 95 % bootstrap interval) and n (passages with an exact token by then).
    """
    runs, rows = of_kind(results, "horizon"), {}
    for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1):
        exact = exact_at(runs, share * runs["token_passes"])
        held = exact > 0
        if held.sum() < 2:
            continue
        found = metrics.power_law(runs["passage"].map(densities)[held], pd.Series(exact[held]))
        rows[share] = {"horizon": exact[held].mean(), "slope": found["exponent"], **found, "n": held.sum()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("share")[["horizon", "slope", "low", "high", "n"]]


def crammed_bits(results: pd.DataFrame) -> pd.DataFrame:
    """Bits of what was crammed, without mem and with it: one dot of Figure 3 a run; token 0 left out.

    Args:
        results: Rows of the store. A horizon counts with the prefix it reached, a cram with its whole passage, solved
            or not.

    Returns:
        Columns kind, source, passage, length (tokens), exact, bits, bits_with.
    """
    runs = results[results["length"] >= 2]
    bits = {
        column: [metrics.nats_to_bits(float(np.sum(nats[1:]))) for nats in runs[f"token_nats_{which}"]]
        for column, which in (("bits", "without"), ("bits_with", "with"))
    }
    return runs[["kind", "source", "passage", "length", "exact"]].assign(**bits)


def past_capacity(dots: pd.DataFrame) -> pd.Series:
    """Which runs are not exact and left more than a third of the bits of their passage.

    Without some, a threshold would be made up. An exact one may leave as much: its tokens win without being certain.

    Args:
        dots: From `crammed_bits`.
    """
    return ~dots["exact"] & (dots["bits_with"] > dots["bits"] / 3)


def overfull(results: pd.DataFrame) -> pd.DataFrame:
    """What vectors gain on passages of more tokens than they hold: sums over tokens 1 to L - 1.

    Table 1 has the same sums, multiplied by L / (L - 1), see `cramming.metrics.published_sum`.

    Args:
        results: Rows of the store; those of `past_capacity` count.

    Returns:
        One row a run: source, passage, length (tokens), token_passes, right (tokens), tokens (token gain), bits
        (information gain), per_number (bits a number of the vector) and late (share of the bits that the last quarter
        of the token passes brought, from the least loss so far). Token 0 is left out.
    """
    past = past_capacity(crammed_bits(results))
    runs = results.loc[past.index[past]]
    bits = runs.apply(bits_after_first, axis=1)
    late = []
    for run, gain in zip(runs.itertuples(), bits, strict=True):
        least = np.minimum.accumulate(run.trace_loss)
        early = stair(np.append(0, run.trace_token_passes), np.append(np.nan, least), 0.75 * run.token_passes)
        late.append(metrics.nats_to_bits(run.length * (early - least[-1])) / gain)
    right = np.array([sum(right[1:]) for right in runs["token_correct"]], dtype=int)
    return runs[["source", "passage", "length", "token_passes"]].assign(
        right=right,
        tokens=right - runs["correct_without"],  # without mem, token 0 is never right
        bits=bits,
        per_number=bits / (runs["width"] * runs["n_vectors"]),
        late=late,
    )


def beyond(results: pd.DataFrame, token_nats: pd.DataFrame) -> pd.DataFrame:
    """What a vector does to tokens before and behind the horizon it was found for.

    Args:
        results: Rows of kind horizon.
        token_nats: From the function of that name, of the same passages, longer than their horizons.

    Returns:
        One row a token: source, passage, past (tokens past the last exact one; 0 and below are exact), bits_saved
        (bits without mem minus bits with it) and bits_random (the same of a random vector).
    """
    ends = of_kind(results, "horizon").set_index("passage")["length"]
    saved, noise = (
        (token_nats["nats"] - token_nats[name]).map(metrics.nats_to_bits) for name in ("nats_with", "nats_random")
    )
    past = token_nats["position"] - token_nats["passage"].map(ends) + 1
    return token_nats[["source", "passage"]].assign(past=past, bits_saved=saved, bits_random=noise)


def limit_table(tests: pd.DataFrame) -> pd.DataFrame:
    """`limit_tests` as a page shows them."""
    return pd.DataFrame(
        {
            "measured": tests["value"].map("{:.2f}".format),
            "95 % interval": [f"{r.low:.2f} to {r.high:.2f}" for r in tests.itertuples()],
            "it includes": tests["includes"],
            "if tokens are the limit": tests["tokens"],
            "if bits are": tests["bits"],
        }
    )


def held(frame: pd.DataFrame) -> pd.DataFrame:
    """`limits` by source as a page shows them: how much a vector held, in tokens and in bits."""
    rows = {}
    for source, some in [*frame.groupby("source", sort=False), ("all", frame)]:
        rows[f"{source} (n = {len(some)})"] = {
            "horizon, tokens": words.spread(some["length"].mean(), some["length"].std()),
            "bits without mem": words.spread(some["bits"].mean(), some["bits"].std(), 0),
            "bits a token": words.spread(some["density"].mean(), some["density"].std(), 2),
            "forecast by tokens is off by": f"{(some['by_tokens'] - some['length']).abs().mean():.1f}",
            "by bits": f"{(some['by_bits'] - some['length']).abs().mean():.1f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("text")


@styled
def crammed_bits_figure(frame: pd.DataFrame) -> Figure:
    """Figure 3: bits of a passage given mem against those without it, and the line of no gain.

    Of a source with runs beyond what a vector holds, the threshold is fitted to its crams as well: horizons have no
    passage that their vector could not hold.

    Args:
        frame: `cramming.studies.information.crammed_bits`.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.2))
    most = frame["bits"].max() * 1.03
    axis.plot([0, most], [0, most], color="#777777", linewidth=1, linestyle="--", label="no gain")
    marks = source_marks(frame["source"])
    for (source, (colour, marker)), style in zip(marks.items(), itertools.cycle(LINES), strict=False):
        some = frame[frame["source"] == source]
        for kind, face in (("horizon", colour), ("cram", "white")):
            dots = some[some["kind"] == kind]
            axis.plot(dots["bits"], dots["bits_with"], marker, color=colour, markerfacecolor=face, markersize=5)
        label = f"{source} (n = {len(some)})"
        if past_capacity(some).any():
            crams = some[some["kind"] == "cram"]
            fitted = metrics.threshold(crams["bits"], crams["bits_with"])
            axis.plot([0, fitted, most], [0, 0, max(0, most - fitted)], style, color=colour, linewidth=1.5)
            label += f": threshold {fitted:.0f} bits"
        axis.plot([], [], marker, linestyle=style, color=colour, label=label)
    axis.set(xlabel="bits of the passage without mem", ylabel="bits of the same passage given mem",
             xlim=(0, most), ylim=(-0.02 * most, most))  # fmt: skip
    axis.legend(loc="upper left")  # above the line of no gain, where no run should be
    return figure


@styled
def beyond_figure(frame: pd.DataFrame, behind: int, before: int = 24, width: int = 4) -> Figure:
    """Bits a token that mem saves, against the distance from the horizon, mean over passages by source.

    Args:
        frame: `cramming.studies.information.beyond`.
        behind: Tokens behind the horizon to show.
        before: Tokens before its end.
        width: Tokens averaged in one mark.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.8))
    some = frame[frame["past"].between(-before + 1, behind)]
    some = some.assign(middle=np.floor((some["past"] - 1) / width) * width + (width + 1) / 2)
    marks = source_marks(some["source"])
    for (source, (colour, marker)), style in zip(marks.items(), itertools.cycle(LINES), strict=False):
        mine = some[some["source"] == source]
        means = mine.groupby(["passage", "middle"])["bits_saved"].mean().groupby("middle")
        axis.errorbar(means.mean().index, means.mean(), yerr=means.sem(), fmt=marker, linestyle=style, color=colour,
                      capsize=2, label=f"{source} (n = {mine['passage'].nunique()})")  # fmt: skip
    noise = some.groupby("middle")["bits_random"].mean()
    axis.plot(noise.index, noise, color="black", linewidth=1, label="random vectors, all texts")
    axis.axhline(0, color="#777777", linewidth=1)
    axis.axvline(0.5, color="#777777", linewidth=1, linestyle="--")
    axis.annotate("horizon", (0.5, 1), (4, -10), xycoords=("data", "axes fraction"), textcoords="offset points",
                  fontsize="small")  # fmt: skip
    axis.set(xlabel="tokens past the last exact one", ylabel="bits a token saved by mem")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def limits_figure(frame: pd.DataFrame) -> Figure:
    """Horizon against how dense its text is, beside the lines of equal tokens and of equal bits; both axes in logs.

    Args:
        frame: `cramming.studies.information.limits`.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.4))
    marks_by_source(axis, frame, "density", "length")
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
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def show_answer(page: Page) -> Answer:
    """Whether tokens or bits fill a vector up."""
    (_, slope), _, (_, scatter), _ = page.tests.iterrows()
    ended, bits = (page.horizons["ended"] == "budget").sum(), slope["high"] < -0.5 and scatter["high"] < 1
    return Answer(
        page.setting,
        "Do tokens fill a vector up, or bits?",
        f"{'Bits rather than tokens: w' if bits else 'W'}here text has 1 % more bits a token, its exact horizon "
        f"changes by **{slope['value']:.2f} % (95 % interval {slope['low']:.2f} to {slope['high']:.2f} %)**, where "
        f"tokens as the limit would give 0 and bits -1; bits at the horizon scatter {_interval(scatter)} times as "
        "much as tokens.",
        rests=f"Exact horizons of {words.counted(page.horizons)} passages, {words.budgets(page.horizons)} each",
        sure="holds here only" if bits else "open",
        why=f"one small model, and a budget ended {ended} of {len(page.horizons)} horizons, which draws the slope "
        "from -1 towards 0",
    )


def show_limits(page: Page) -> Exhibit:
    """Horizons against how dense their texts are."""
    every, within = (test for _, test in page.tests.head(2).iterrows())
    return Exhibit(
        f"**Over all texts the slope is {_interval(every)}: its 95 % interval includes {every['includes']}. Within "
        f"sources it is {_interval(within)}: {within['includes']}.** One mark a passage, n = {len(page.limits)}. "
        "Dashed: as many tokens for every text, slope 0; dotted: as many bits, slope -1. Bits a token: over the "
        f"first {page.window} tokens.",
        limits_figure(page.limits),
    )


def show_slopes(page: Page) -> Exhibit:
    """How the slope moves as the budget grows."""
    table = slopes(page.horizons, page.limits.set_index("passage")["density"])
    first, last = table.iloc[0], table.iloc[-1]
    shown = pd.DataFrame(
        {
            "slope": [words.within(row.slope, row.low, row.high, 2) for row in table.itertuples()],
            "exact tokens so far, mean": table["horizon"].map("{:.1f}".format),
            "n": table["n"].astype(int),
        }
    )
    shown.index = pd.Index([f"{share:.0%}" for share in table.index], name="of the budget")
    return Exhibit(
        f"**With {table.index[0]:.0%} of the budget the slope is {first['slope']:.2f} ({first['low']:.2f} to "
        f"{first['high']:.2f}), with all of it {last['slope']:.2f} ({last['low']:.2f} to {last['high']:.2f}).** The "
        "same runs, cut off early: the longest prefix right so far, over all texts. 95 % bootstrap intervals.",
        shown,
    )


def show_tests(page: Page) -> Exhibit:
    """The tests of which law it is, and what a vector held by text."""
    _, _, scatter, forecast = (test for _, test in page.tests.iterrows())
    return Exhibit(
        f"**Bits scatter {_interval(scatter)} times as much as tokens, and a forecast by equal bits errs "
        f"{_interval(forecast)} times as far as one by equal tokens.** Scatter: standard deviation over mean. A "
        "forecast takes the others' mean horizon, or the length at which a passage's bits reach their mean. 95 % "
        f"intervals, n = {len(page.limits)}.",
        limit_table(page.tests),
        Fold("What a vector held, by text: mean ± standard deviation; forecasts off by tokens", held(page.limits)),
    )


def show_published(page: Page) -> Exhibit:
    """What the paper's own numbers say of tokens and bits."""
    gains = text_ratios()
    tokens, bits = (
        words.within(gains[name].median(), gains[name].min(), gains[name].max(), 2)
        for name in ("tokens", "information")
    )
    return Exhibit(
        f"**Published gains of random words over those of PG-19: {tokens} times in tokens, {bits} times in bits.** "
        f"Median and range of {len(gains)} models, computed anew from the authors' file; at 1 both texts would gain "
        "as much. Gains are means over runs beyond capacity; no interval can be had from them."
    )


def show_dots(page: Page) -> Exhibit:
    """Figure 3, one dot a run."""
    dots = crammed_bits(page.results)
    crams, past_it = dots[dots["kind"] == "cram"], past_capacity(dots)
    whole = dots[(dots["kind"] == "horizon") & dots["exact"]]
    left = words.share_mean(whole["bits_with"] / whole["bits"])
    if past_it.any():
        lines = "Lines: a fixed number of bits taken off, fitted to crams."
    else:
        lines = "So no threshold can be fitted: that takes longer crams."
    return Exhibit(
        f"**{past_it.sum()} of {len(dots)} runs lie beyond what their vector took in; exact horizons leave {left} of "
        "their bits.** One mark a run, token 0 left out; dashed: no gain. "
        f"{lines} Filled: {len(dots) - len(crams)} exact horizons; open: {len(crams)} crams of "
        f"{words.spelled(crams['length'])} tokens.",
        crammed_bits_figure(dots),
    )


def show_overfull(page: Page) -> Exhibit:
    """What a vector gains on far more tokens than it holds, by text, and published gains a number of the vector."""
    runs = page.overfull
    if runs.empty:
        return Exhibit("No run lies beyond what its vector holds: sweep longer crams to see what it takes off them.")
    width = published("models").set_index("hub_id")["hidden_size"]
    said = published("capacity").query("source == 'pg19'")
    scale = metrics.nats_to_bits(1) * said["information_gain_nats_mean"] / said["model"].map(hub_id).map(width)
    table = pd.DataFrame.from_dict(
        {
            f"{source} (n = {len(some)})": {
                "information gain, bits": words.spread(some["bits"].mean(), some["bits"].std(), 0),
                "95 % of the mean": "{:.0f} to {:.0f}".format(*metrics.bootstrap_ci(some["bits"])),
                "bits a number": f"{some['per_number'].mean():.2f}",
                "tokens right": words.spread(some["right"].mean(), some["right"].std()),
                "token gain": words.spread(some["tokens"].mean(), some["tokens"].std()),
                "gained in the last quarter": words.share_mean(some["late"]),
            }
            for source, some in runs.groupby("source", sort=False)
        },
        orient="index",
    ).rename_axis("text")
    return Exhibit(
        f"**At {words.spelled(runs['length'])} tokens a vector took off {words.mean(runs['bits'], 0)} bits so far, "
        f"{words.share_mean(runs['late'])} of them in the last quarter of the budget: a lower bound.** That is "
        f"{runs['per_number'].mean():.2f} bits a number of the vector; published on PG-19: {scale.min():.2f} to "
        f"{scale.max():.2f}, {len(scale)} models. {runs['token_passes'].max():,} token passes at most, token 0 left "
        "out; mean ± standard deviation.",
        table,
    )


def show_beyond(page: Page) -> Exhibit:
    """What vectors do to the tokens around the horizon."""
    own, noise = -page.past["bits_saved"], -page.past["bits_random"]
    low, high = metrics.bootstrap_ci(own)
    does = "harms" if low > 0 else "still helps" if high < 0 else "may help or harm"
    more = own - noise
    return Exhibit(
        f"**Behind its horizon a vector {does}: {words.interval(own.mean(), low, high)} bits a token, a random vector "
        f"of its norm {words.interval(noise.mean(), *metrics.bootstrap_ci(noise))}; the difference is "
        f"{words.interval(more.mean(), *metrics.bootstrap_ci(more))}.** Tokens 9 to {page.behind} behind, 95 % "
        f"intervals over {len(own)} passages. Marks: bits without mem less bits with it, mean and standard error, in "
        "steps of four tokens.",
        beyond_figure(page.beyond, page.behind),
    )


def show_explored(page: Page, n: int) -> Exhibit:
    """What the explorer shows, of n passages."""
    return Exhibit(
        f"**The first {n} passages by name, two a text, with up to 24 tokens behind the horizon.** Surprisal in bits, "
        "given the true tokens before; *right*: the argmax, given the same. The slider counts the underlined tokens; "
        "the vector is the last one throughout. Tokens behind its prefix have no step, and the first token has no "
        "surprisal without mem."
    )


def glue_numbers(page: Page) -> None:
    """Slope and scatter, of how many passages; how far vectors mislead past their horizon, and random ones."""
    own, noise = (f"{-page.past[name].mean():.1f}" for name in ("bits_saved", "bits_random"))
    glue(slope=_interval(page.tests.iloc[0]), scatter=_interval(page.tests.iloc[2]))
    glue(n_limits=f"{len(page.limits)}", misleads=own, misleads_random=noise)


def _interval(test: pd.Series) -> str:
    return words.within(test["value"], test["low"], test["high"], 2)

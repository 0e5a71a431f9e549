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
from cramming.results.published import hub_id, published
from cramming.results.rows import after_first, crammed, of_kind
from cramming.studies import _words as words
from cramming.studies._figures import marks_by_source, source_marks, styled
from cramming.studies._page import Exhibit, glue
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
    def setting(self) -> str:
        """Model, weights, number of mem vectors and budget of the horizons, for captions."""
        return f"{words.setting(self.horizons)}; exact horizons within {words.budgets(self.horizons)} a passage"

    @cached_property
    def told(self) -> pd.DataFrame:
        """From `told`, of all horizons."""
        tokens = max(self.window, self.horizons["length"].max() + self.behind)
        vectors = [self.vectors[key] for key in self.horizons["key"]]
        return told(self.lm, vectors, crammed(self.horizons, self.lm, tokens=tokens))

    @cached_property
    def beyond(self) -> pd.DataFrame:
        """From `beyond`, of all horizons."""
        return beyond(self.horizons, self.told)

    @cached_property
    def past(self) -> pd.Series:
        """Bits saved a token behind the horizon, each passage's mean; the first eight were under optimisation too."""
        return self.beyond[self.beyond["past"].between(9, self.behind)].groupby("passage")["bits_saved"].mean()

    @cached_property
    def limits(self) -> pd.DataFrame:
        """From `limits`, of all horizons."""
        return limits(self.horizons, self.told, self.window)

    @cached_property
    def tests(self) -> pd.DataFrame:
        """From `limit_tests`, of all horizons."""
        return limit_tests(self.limits)


def told(lm: FrozenLM, vectors: Sequence[torch.Tensor], passages: Sequence[Passage]) -> pd.DataFrame:
    """Cross-entropy of every token given the true tokens before it, without mem and with it.

    Passages may be longer than what their vectors hold: then one sees where the text ends that the vector tells.
    Token 0 is left out, as in `cramming.results.rows.surprise`.

    Args:
        lm: The frozen model.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: The text, as far as it is to be looked at; at least two tokens.

    Returns:
        One row a token: source, passage, position (1 is the second token), nats, nats_with.
    """
    parts = []
    for mem, passage in zip(vectors, passages, strict=True):
        nats, _ = without_mem(lm, passage.token_ids)
        nats_with, _ = teacher_forced(lm, mem[None], torch.tensor([passage.token_ids], device=lm.device))
        parts.append(after_first(passage, nats=nats[1:], nats_with=nats_with[0, 1:].cpu().numpy()))
    return pd.concat(parts, ignore_index=True)


def limits(results: pd.DataFrame, told: pd.DataFrame, window: int) -> pd.DataFrame:
    """Each horizon beside what two laws foretell: as many tokens for every text, or as many bits.

    The forecast for a passage is made from the others: their mean horizon, or the length at which its own bits without
    mem add up to the mean bits of the others at their horizons. How dense a text is gets measured over its first
    `window` tokens, whatever its horizon: bits a token over the horizon itself would go along with it by arithmetic.

    Args:
        results: Rows of kind horizon.
        told: From `cramming.studies.information.told`, of the same passages and at least as long as their horizons.
        window: Tokens.

    Returns:
        One row a run: source, passage, length (tokens), bits (without mem, over the horizon), density (bits a token
        over the window), by_tokens and by_bits (forecasts, tokens). Token 0 has no bits.
    """
    runs = of_kind(results, "horizon").query("length >= 2").reset_index(drop=True)
    by_passage = {
        str(name): np.append(0.0, np.cumsum(metrics.nats_to_bits(some.sort_values("position")["nats"].to_numpy())))
        for name, some in told.groupby("passage")
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
        return words.ratio(varies["bits"], varies["length"])

    def errors(sample: pd.DataFrame) -> float:
        wrong = {column: (sample[column] - sample["length"]).abs().mean() for column in ("by_bits", "by_tokens")}
        return words.ratio(wrong["by_bits"], wrong["by_tokens"])

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
        told: From `cramming.studies.information.told`, of the same passages, longer than their horizons.

    Returns:
        One row a token: source, passage, past (tokens past the last exact one; 0 and below are exact), bits_saved
        (bits without mem minus bits with it).
    """
    ends = of_kind(results, "horizon").set_index("passage")["length"]
    saved = (told["nats"] - told["nats_with"]).map(metrics.nats_to_bits)
    past = told["position"] - told["passage"].map(ends) + 1
    return told[["source", "passage"]].assign(past=past, bits_saved=saved)


def published_gains() -> pd.DataFrame:
    """Published gains of random words over those of PG-19, one row a model that has both.

    Returns:
        Index model; columns tokens and information: ratios.
    """
    capacity = published("capacity").assign(model=lambda frame: frame["model"].map(hub_id))
    by_source = {source: some.set_index("model") for source, some in capacity.groupby("source")}
    ratio = {
        name: by_source["random"][column] / by_source["pg19"][column]
        for name, column in (("tokens", "token_gain_mean"), ("information", "information_gain_nats_mean"))
    }
    return pd.DataFrame(ratio).dropna()


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
            "bits a token": words.spread(some["density"].mean(), some["density"].std(), 2),
            "horizon, tokens": words.spread(some["length"].mean(), some["length"].std()),
            "sd over mean, tokens": f"{some['length'].std() / some['length'].mean():.0%}",
            "horizon, bits without mem": words.spread(some["bits"].mean(), some["bits"].std(), 0),
            "sd over mean, bits": f"{some['bits'].std() / some['bits'].mean():.0%}",
            "forecast by tokens is off by, tokens": f"{(some['by_tokens'] - some['length']).abs().mean():.1f}",
            "forecast by bits": f"{(some['by_bits'] - some['length']).abs().mean():.1f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("text")


@styled
def crammed_bits_figure(frame: pd.DataFrame) -> Figure:
    """Figure 3: bits of a passage given mem against those without it, and the line of no gain.

    Of a source with runs beyond what a vector holds, the threshold is fitted as well.

    Args:
        frame: `cramming.studies.information.crammed_bits`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.4))
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
            fitted = metrics.threshold(some["bits"], some["bits_with"])
            axis.plot([0, fitted, most], [0, 0, max(0, most - fitted)], style, color=colour, linewidth=1.5)
            label += f": threshold {fitted:.0f} bits"
        axis.plot([], [], marker, linestyle=style, color=colour, label=label)
    axis.set(xlabel="bits of the passage without mem", ylabel="bits of the same passage given mem",
             xlim=(0, most), ylim=(-0.02 * most, most))  # fmt: skip
    axis.legend(fontsize="small")
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
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    some = frame[frame["past"].between(-before + 1, behind)]
    some = some.assign(middle=np.floor((some["past"] - 1) / width) * width + (width + 1) / 2)
    marks = source_marks(some["source"])
    for (source, (colour, marker)), style in zip(marks.items(), itertools.cycle(LINES), strict=False):
        mine = some[some["source"] == source]
        means = mine.groupby(["passage", "middle"])["bits_saved"].mean().groupby("middle")
        axis.errorbar(means.mean().index, means.mean(), yerr=means.sem(), fmt=marker, linestyle=style, color=colour,
                      capsize=2, label=f"{source} (n = {mine['passage'].nunique()})")  # fmt: skip
    axis.axhline(0, color="#777777", linewidth=1)
    axis.axvline(0.5, color="#777777", linewidth=1, linestyle="--")
    axis.annotate("horizon", (0.5, 1), (4, -10), xycoords=("data", "axes fraction"), textcoords="offset points",
                  fontsize="small")  # fmt: skip
    axis.set(xlabel="tokens past the last exact one", ylabel="bits a token saved by mem")
    axis.legend(fontsize="small")
    return figure


@styled
def limits_figure(frame: pd.DataFrame) -> Figure:
    """Horizon against how dense its text is, beside the lines of equal tokens and of equal bits; both axes in logs.

    Args:
        frame: `cramming.studies.information.limits`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
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
    axis.legend(fontsize="small")
    return figure


def show_dots(page: Page) -> Exhibit:
    """Figure 3, one dot a run."""
    dots, runs = crammed_bits(page.results), page.horizons
    crams, past_it = dots[dots["kind"] == "cram"], past_capacity(dots)
    if past_it.any():
        lines = "Lines: what would be left if a vector took off a fixed number of bits, fitted by least squares."
    else:
        lines = "So no threshold can be fitted: that takes crams of lengths past capacity, which scale `paper` has."
    caption = (
        f"**{past_it.sum()} of {len(dots)} runs here lie beyond what their vector holds.** One mark a run, token 0 "
        f"left out; dashed: no gain. {lines} Filled: {len(dots) - len(crams)} exact horizons, {words.budgets(runs)} a "
        f"passage; open: {len(crams)} crams of {words.spelled(crams['length'])} tokens. "
        f"{words.setting(page.results)}. {words.cost(page.results)}."
    )
    return Exhibit(caption, crammed_bits_figure(dots))


def show_beyond(page: Page) -> Exhibit:
    """What vectors do to the tokens around the horizon."""
    saved = page.past.mean()
    does, change = ("harms", "more") if saved < 0 else ("still helps", "less")
    caption = (
        f"**Behind its horizon a vector {does}: {abs(saved):.1f} ± {page.past.std():.1f} bits a token {change} than "
        "without it.** Bits a token without mem minus with it, given the true tokens before, in steps of four tokens; "
        f"mean and standard error over passages. The number is for tokens 9 to {page.behind} past the horizon, mean ± "
        f"sample standard deviation over {len(page.past)} passages: the first eight were under optimisation too. "
        f"{page.setting}."
    )
    return Exhibit(caption, beyond_figure(page.beyond, page.behind))


def show_explored(page: Page, n: int) -> Exhibit:
    """What the explorer shows, of n passages."""
    return Exhibit(
        f"**The first {n} passages by name, two a source, with up to 24 tokens behind the horizon.** Surprisal is in "
        "bits, given the true tokens before; *right* is the argmax, given the same. The underlined tokens are those "
        "that the slider counts; the vector is the last one throughout. Tokens behind its prefix have no step. "
        f"Without mem the model says nothing of the first token. {page.setting}."
    )


def show_held(page: Page) -> Exhibit:
    """What a vector held, by text."""
    n = page.limits["source"].nunique()
    sources = "three sources" if n == 3 else f"{n} sources"
    caption = (
        "**What a vector held, by text.** Bits are the model's own cross-entropy without mem. *Bits a token* is the "
        f"mean over the first {page.window} tokens. The forecasts for a passage are made from all others of the "
        f"{sources}: their mean horizon, or the length at which its own bits add up to their mean; the "
        f"columns give the mean absolute error. Mean ± sample standard deviation over passages. {page.setting}."
    )
    return Exhibit(caption, held(page.limits))


def show_limits(page: Page) -> Exhibit:
    """Horizons against how dense their texts are."""
    every, within = (test for _, test in page.tests.head(2).iterrows())
    caption = (
        f"**Denser text gets less far: one per cent more bits a token costs {-every['value']:.2f} per cent of the "
        "horizon.** One mark a passage. Dashed: the same number of tokens for every text (slope 0); dotted: the same "
        f"number of bits (slope -1). Slope over all texts {every['value']:.2f} (95 % interval {every['low']:.2f} to "
        f"{every['high']:.2f}), within sources {_interval(within)}; n = {len(page.limits)}. {page.setting}."
    )
    return Exhibit(caption, limits_figure(page.limits))


def show_limit_table(page: Page) -> Exhibit:
    """The tests of which law it is."""
    caption = (
        "**Four tests of which law it is.** Slopes by least squares on logarithms; intervals from drawing passages "
        f"anew. Scatter is standard deviation over mean. n = {len(page.limits)} passages. {page.setting}."
    )
    return Exhibit(caption, limit_table(page.tests))


def show_claim(page: Page) -> Exhibit:
    """What the tests say of the paper's claim, and what its own numbers do."""
    every, within, scatter, forecast = (test for _, test in page.tests.iterrows())
    gains, bits = published_gains(), page.limits.groupby("source")["bits"].mean()
    tokens, information = gains["tokens"], gains["information"]
    return Exhibit(
        f"The slope over all texts speaks {every['speaks']}, within sources {within['speaks']}. Bits scatter "
        f"{scatter['value']:.2f} times as much as tokens ({scatter['low']:.2f} to {scatter['high']:.2f}), and a "
        f"forecast that assumes equal bits is off {forecast['value']:.2f} times as far as one that assumes equal "
        f"tokens ({forecast['low']:.2f} to {forecast['high']:.2f}). Mean bits at the horizon are "
        + ", ".join(f"{mean:.0f} for {source}" for source, mean in bits.items())
        + f". In the published numbers, over {len(gains)} models, random words have a median of {tokens.median():.2f} "
        f"times the token gain of PG-19, and {information.median():.2f} times its information gain "
        f"({information.min():.2f} to {information.max():.2f})."
    )


def glue_numbers(page: Page) -> None:
    """The slope, which law it speaks for, and how far vectors mislead behind their horizon."""
    every = page.tests.iloc[0]
    glue(slope=_interval(every), slope_speaks=every["speaks"], n_limits=f"{len(page.limits)}")
    glue(misleads=f"{-page.past.mean():.1f}")


def _interval(test: pd.Series) -> str:
    return words.within(test["value"], test["low"], test["high"], 2)

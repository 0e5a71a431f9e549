"""What a text costs a model, token by token: told nothing of it, the least of that which must go, and given mem."""

from __future__ import annotations

from collections.abc import Sequence

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
from cramming.results.rows import after_first, of_kind
from cramming.studies import _words as words
from cramming.studies._figures import SOURCE_MARKS, marks_by_source, styled
from cramming.texts import Passage


def told(lm: FrozenLM, vectors: Sequence[torch.Tensor], passages: Sequence[Passage]) -> pd.DataFrame:
    """Cross-entropy of every token given the true tokens before it, without mem and with it.

    Passages may be longer than what their vectors hold: then one sees where the text ends that the vector tells.
    Token 0 is left out, as in `surprise`.

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
    runs = of_kind(results, "horizon").query("length >= 2")
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
    for (source, (colour, marker)), style in zip(SOURCE_MARKS.items(), ("-", "--", ":"), strict=True):
        some = frame[frame["source"] == source]
        if some.empty:
            continue
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
def beyond_figure(frame: pd.DataFrame, before: int = 24, behind: int = 48, width: int = 4) -> Figure:
    """Bits a token that mem saves, against the distance from the horizon, mean over passages by source.

    Args:
        frame: `cramming.studies.information.beyond`.
        before: Tokens before the end of the horizon to show.
        behind: Tokens behind it.
        width: Tokens averaged in one mark.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    some = frame[frame["past"].between(-before + 1, behind)]
    middle = np.floor((some["past"] - 1) / width) * width + (width + 1) / 2
    for (source, (colour, marker)), style in zip(SOURCE_MARKS.items(), ("-", "--", ":"), strict=True):
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

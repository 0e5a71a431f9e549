"""Theory, surprisal and information: what a vector could hold, what must go, and what it held."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cramming import metrics
from cramming.errors import CrammingError
from cramming.paper import hub_id, published
from cramming.tables import _words as words
from cramming.tables._horizons import horizons


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
            "tokens of each": words.range(some["tokens"]),
            "words": words.range(some["words"]),
            "characters a token": f"{some['characters'].sum() / some['tokens'].sum():.2f}",
            "bits a token": words.spread(bits.mean(), bits.std(), 2),
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
    for run in words.some(results, "horizon").query("length >= 2").itertuples():
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
            "horizon, tokens": words.spread(some["length"].mean(), some["length"].std()),
            "bits without mem": words.spread(some["bits"].mean(), some["bits"].std(), 0),
            "least to remove, bits": words.spread(some["least_bits"].mean(), some["least_bits"].std(), 0),
            "removed, bits": words.spread(some["removed_bits"].mean(), some["removed_bits"].std(), 0),
            "removed over least": words.spread(ratio.mean(), ratio.std(), 2),
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
    runs = words.some(results, "horizon").query("length >= 2")
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
        told: From `cramming.information.told`, of the same passages, longer than their horizons.

    Returns:
        One row a token: source, passage, past (tokens past the last exact one; 0 and below are exact), bits_saved
        (bits without mem minus bits with it).
    """
    ends = words.some(results, "horizon").set_index("passage")["length"]
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

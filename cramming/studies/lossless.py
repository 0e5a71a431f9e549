"""Whether a passage stays exact when the logits of the same vector are computed in another way."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch.nn.utils.rnn import pad_sequence

from cramming import metrics
from cramming.decode import carried, nats_and_gaps, teacher_forced
from cramming.engine import packs, score
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.recipes import Recipe
from cramming.results.rows import crammed, device_name, of_kind
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage


@dataclass(frozen=True)
class Setting:
    """One way of computing the logits of passages given their vectors; in exact arithmetic all would agree.

    Attributes:
        rows: Passages at once; of unequal ones the shorter are padded to the longest.
        layout: whole: all tokens in one pass. packed: the same, several passages end to end in one sequence, as the
            engine crams them. cached: one token at a time, keys and values kept, as text is generated.
        attention: Which of the implementations in transformers.
        dtype: Number format of weights and activations. The norms compute in float32 whatever it is.
        rounded: Whether the vector is rounded to bfloat16 before it is used.
        threads: Of the processor.
    """

    rows: int = 1
    layout: Literal["whole", "packed", "cached"] = "whole"
    attention: Literal["sdpa", "eager"] = "sdpa"
    dtype: torch.dtype = torch.float32
    rounded: bool = False
    threads: int = 2

    @property
    def coarse(self) -> bool:
        """Whether numbers of 16 bits are involved."""
        return self.rounded or self.dtype.itemsize < 4


FIRST = "one passage at a time"  # what the other settings are compared with
# A processor without units for float16 takes too long over it.
SETTINGS = {
    FIRST: Setting(),
    "one thread": Setting(threads=1),
    "eight passages, padded": Setting(rows=8),
    "eight passages, packed": Setting(rows=8, layout="packed"),
    "token by token, cached": Setting(rows=32, layout="cached"),
    "eager attention": Setting(attention="eager"),
    "float64": Setting(dtype=torch.float64),
    "vector in bfloat16": Setting(rounded=True),
    "all in bfloat16": Setting(dtype=torch.bfloat16),
    "all in bfloat16, eager attention": Setting(dtype=torch.bfloat16, attention="eager"),
}
ACCURACY_CLASSES = {"all": (1, 2), "0.9 or more": (0.9, 1), "0.5 to 0.9": (0.5, 0.9), "under 0.5": (0, 0.5)}


class Page(AnyPage):
    """Vectors whose logits are computed in many ways, and horizons that were asked for a margin.

    Attributes:
        margins: Margins that vectors are cut to, logits.
        asked: From `asked`.
        plain: Horizons of the recipe as it is.
        chosen: The vectors computed in every setting: a few plain ones of each source, all that differ in the margin
            asked for, and those of other recipes.
    """

    def __init__(self, scale: str, per_source: int, margins: list[float]) -> None:
        super().__init__("lossless", scale)
        self.margins = margins
        self.asked = asked(self.results[self.results["recipe"] == "horizon"])
        held = self.results[self.results["length"] > ~self.results["score_first"]]
        more = self.asked.loc[self.asked["asked"] > self.asked["asked"].min(), "key"]
        self.plain = held[(held["recipe"] == "horizon") & ~held["key"].isin(more)]
        few = self.plain[~self.plain["key"].isin(self.asked["key"])].groupby("source").head(per_source)
        others = held[held["recipe"].isin(["paper", "progressive"])]
        self.chosen = pd.concat([few, held[held["key"].isin(self.asked["key"])], others], ignore_index=True)

    def computed(self, runs: pd.DataFrame, settings: Mapping[str, Setting] = SETTINGS) -> pd.DataFrame:
        """From `gaps`, of the vectors of some runs."""
        vectors, given = [self.vectors[key] for key in runs["key"]], (~runs["score_first"]).astype(int).tolist()
        return gaps(self.lm, vectors, crammed(runs, self.lm), given, settings)

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """From `gaps`, of all that are chosen, with a column key."""
        found = self.computed(self.chosen)
        return found.assign(key=found["run"].map(self.chosen["key"]))

    @cached_property
    def kept(self) -> pd.DataFrame:
        """Of vectors exact in the first setting, by run: margin (logits), fine and all, whether exact in all settings
        that are not coarse, and in all."""
        exact = exactness(self.gaps).query("margin > 0")
        fine = exact[~exact["coarse"]].groupby("run")["exact"].all()
        runs = exact.groupby("run")
        return pd.DataFrame({"margin": runs["margin"].min(), "fine": fine, "all": runs["exact"].all()})

    @cached_property
    def safe(self) -> float:
        """From `safe_margin`, of all settings."""
        return safe_margin(self.gaps)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """From `settings`."""
        return settings(self.gaps)

    @cached_property
    def price(self) -> pd.DataFrame:
        """From `margin_price`, of plain horizons."""
        return margin_price(to_margin(self.computed(self.plain, {FIRST: SETTINGS[FIRST]}), self.margins))


@torch.no_grad()
def gaps(
    lm: FrozenLM,
    vectors: Sequence[torch.Tensor],
    passages: Sequence[Passage],
    given: Sequence[int],
    settings: Mapping[str, Setting] = SETTINGS,
) -> pd.DataFrame:
    """By how many logits each token wins or loses, given its vector and the true tokens before it, by setting.

    A passage is decoded greedily without an error in a setting if and only if all its gaps there are above 0: up to
    the first error, the argmax that decoding feeds back is the true token. The first gap at or below 0 is the first
    error.

    Args:
        lm: The frozen model, in float32.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: What they hold.
        given: How many tokens at the start of each passage are handed over after mem, and not counted: 1 for the
            paper's protocol, which neither trains nor scores token 0.
        settings: Ways of computing; the first is the reference.

    Returns:
        One row a setting, passage and token: setting, coarse (see `Setting`), run (place in the lists), position (0 is
        the first token that is not given), gap, reference (the gap in the first setting), both in logits. A gap is NaN
        where a number format is left behind, as float16 can be; such a token counts as lost.

    Raises:
        CrammingError: If there is no passage, or one has no token left to decode.
    """
    if not len(vectors) == len(passages) == len(given) > 0:
        raise CrammingError(
            f"{len(vectors)} vectors, {len(passages)} passages and {len(given)} counts of given tokens: give as many "
            "of each, at least one"
        )
    for passage, n in zip(passages, given, strict=True):
        if len(passage) <= n:
            raise CrammingError(f"passage {passage.id} has {len(passage)} tokens, {n} of them given: give more tokens")
    tokens = [torch.tensor(passage.token_ids, device=lm.device) for passage in passages]
    truths = [ids[n:] for ids, n in zip(tokens, given, strict=True)]
    heads = [lm.model.get_input_embeddings()(ids[:n]) for ids, n in zip(tokens, given, strict=True)]
    pack, reader, parts, reference = packs(lm), lm, list[pd.DataFrame](), list[torch.Tensor]()
    for name, setting in settings.items():
        if reader.dtype != setting.dtype:  # one copy at a time: each takes as much memory as the model
            reader = in_dtype(lm, setting.dtype)
        mems = [mem.bfloat16().float() if setting.rounded else mem for mem in vectors]
        fronts = [torch.cat([mem.to(lm.device), head.float()]) for mem, head in zip(mems, heads, strict=True)]
        found: dict[int, torch.Tensor] = {}
        with _computing(reader, setting):
            for some in _batches([len(front) for front in fronts], setting.rows):
                stacked = torch.stack([fronts[i] for i in some])
                rows = _gaps(reader, stacked, [truths[i] for i in some], setting.layout, pack)
                found |= {i: row[: len(truths[i])].cpu() for i, row in zip(some, rows, strict=True)}
        ordered = [found[i] for i in range(len(truths))]
        reference = reference or ordered
        for run, (gap, usual) in enumerate(zip(ordered, reference, strict=True)):
            columns = {"setting": name, "coarse": setting.coarse, "run": run, "position": range(len(gap))}
            parts.append(pd.DataFrame({**columns, "gap": gap, "reference": usual}))
    return pd.concat(parts, ignore_index=True)


def in_dtype(lm: FrozenLM, dtype: torch.dtype) -> FrozenLM:
    """The same weights in another number format, as a copy. Buffers such as rotary angles stay as they are."""
    if lm.dtype == dtype:
        return lm
    model = copy.deepcopy(lm.model)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return replace(lm, model=model)


def _gaps(lm: FrozenLM, fronts: torch.Tensor, truths: Sequence[torch.Tensor], layout: str, pack: bool) -> torch.Tensor:
    """Gaps (B, L) of passages of up to L tokens after fronts (B, k, d); past the end of a passage: noise."""
    tokens = pad_sequence(list(truths), batch_first=True)
    if layout == "packed":
        weights = pad_sequence([torch.ones(len(ids), device=lm.device) for ids in truths], batch_first=True)
        return score(lm, fronts, tokens, weights, pack=pack)[2]
    if layout == "whole":
        return teacher_forced(lm, fronts, tokens)[1]
    inputs, state, found = fronts.to(lm.dtype), dict[str, object](), []
    for token in tokens.split(1, dim=1):
        out = lm.model(inputs_embeds=inputs, use_cache=True, **state)
        found.append(nats_and_gaps(out.logits[:, -1:].float(), token)[1])
        inputs, state = lm.model.get_input_embeddings()(token), carried(out)
    return torch.cat(found, dim=1)


def _batches(lengths: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Places of the lengths, so many at a time and only equal ones together: mem has to end at the same position."""
    for length in sorted(set(lengths)):
        same = [i for i, other in enumerate(lengths) if other == length]
        yield from (same[at : at + rows] for at in range(0, len(same), rows))


@contextlib.contextmanager
def _computing(lm: FrozenLM, setting: Setting) -> Iterator[None]:
    """While it lasts, attention, if the model has any, and threads of the processor are as the setting says."""
    config, threads = lm.model.config, torch.get_num_threads()
    attention = config._attn_implementation if getattr(config, "num_attention_heads", None) else None
    torch.set_num_threads(setting.threads)
    if attention:
        lm.model.set_attn_implementation(setting.attention)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if attention:
            lm.model.set_attn_implementation(attention)


def exactness(gaps: pd.DataFrame) -> pd.DataFrame:
    """What each setting makes of each vector.

    Args:
        gaps: From `gaps`.

    Returns:
        One row a setting and run, in the order given: setting, coarse, run, tokens, exact, first_error (token number,
        nan if exact), margin (smallest reference gap, logits), change (greatest change of a gap, logits).
    """
    first_error = (gaps["position"] + 1).where(~(gaps["gap"] > 0))
    frame = gaps.assign(first_error=first_error, change=(gaps["gap"] - gaps["reference"]).abs())
    each = frame.groupby(["setting", "coarse", "run"], sort=False, as_index=False).agg(
        tokens=("gap", "size"),
        first_error=("first_error", "min"),
        margin=("reference", "min"),
        change=("change", "max"),
    )
    return each.assign(exact=each["first_error"].isna())


def _first(gaps: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first setting."""
    return gaps[gaps["setting"] == gaps["setting"].iloc[0]]


def against(gaps: pd.DataFrame, setting: str) -> pd.DataFrame:
    """`gaps` with another setting as the reference, put first."""
    own = gaps[gaps["setting"] == setting]
    usual = own.set_index(["run", "position"])["gap"].rename("reference")
    frame = pd.concat([own, gaps[gaps["setting"] != setting]]).drop(columns="reference")
    return frame.join(usual, on=["run", "position"])


def settings(gaps: pd.DataFrame) -> pd.DataFrame:
    """What survives each setting, of the tokens and vectors that are right in the first one.

    Args:
        gaps: From `gaps`.

    Returns:
        Index setting; columns coarse, vectors (exact in the first setting), exact (of these), first_error (token
        number, median of those that fail), decoded (mean share of their tokens before it), tokens (won in the first
        setting), undone (of these), undone_margin (the greatest that one of them had, logits, nan if there is none),
        change (greatest change of a gap, of all tokens, logits).
    """
    each, won = exactness(gaps), gaps[gaps["reference"] > 0]
    rows = {}
    for setting, some in each.groupby("setting", sort=False):
        exact, lost = some[some["margin"] > 0], won[(won["setting"] == setting) & ~(won["gap"] > 0)]
        failed = exact[~exact["exact"]]
        rows[setting] = {
            "coarse": some["coarse"].iloc[0],
            "vectors": len(exact),
            "exact": exact["exact"].sum(),
            "first_error": failed["first_error"].median(),
            "decoded": ((failed["first_error"] - 1) / failed["tokens"]).mean(),
            "tokens": (won["setting"] == setting).sum(),
            "undone": len(lost),
            "undone_margin": lost["reference"].max(),
            "change": some["change"].max(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("setting")


def safe_margin(gaps: pd.DataFrame) -> float:
    """The smallest margin above which no token is undone by any of the settings, in logits; 0 if none is at all.

    A prefix whose margin is greater stays exact in all of them.
    """
    lost = gaps[(gaps["reference"] > 0) & ~(gaps["gap"] > 0)]
    return float(lost["reference"].max()) if len(lost) else 0.0


def asked(results: pd.DataFrame) -> pd.DataFrame:
    """Horizons that differ in the margin asked for only, on the passages that every margin was asked on.

    Args:
        results: Rows of kind horizon. If several recipes are among them, the one with most margins counts.

    Returns:
        The rows, with asked (the margin, logits) and left (length over that with the least margin; nan if that is 0),
        sorted by asked and passage.

    Raises:
        CrammingError: If no passage has been run with every margin.
    """
    runs = of_kind(results, "horizon")
    hows = [Recipe.model_validate_json(text) for text in runs["recipe_json"]]
    runs = runs.assign(asked=[how.stop_margin for how in hows])
    rest = pd.Series([how.model_copy(update={"stop_margin": 0.0}).model_dump_json() for how in hows], runs.index)
    runs = runs[rest == runs.groupby(rest)["asked"].nunique().idxmax()]
    runs = runs[runs.groupby("passage")["asked"].transform("nunique") == runs["asked"].nunique()]
    if runs.empty:
        raise CrammingError("no passage was run with every margin: sweep the same passages for each")
    runs = runs.sort_values(["asked", "passage"], ignore_index=True)
    least = runs[runs["asked"] == runs["asked"].min()].set_index("passage")["length"]
    return runs.assign(left=runs["length"] / runs["passage"].map(least.where(least > 0)))


def to_margin(gaps: pd.DataFrame, margins: Collection[float]) -> pd.DataFrame:
    """Vectors cut afterwards to the longest prefix whose margin in the first setting is at least so much.

    Args:
        gaps: From `gaps`.
        margins: In logits, above 0.

    Returns:
        One row a margin, setting and run: margin, setting, coarse, run, tokens (of the prefix), left (share of the
        tokens that are exact uncut), exact (in that setting; True for a prefix of no token).
    """
    each, once = exactness(gaps), _first(gaps)

    def prefix(won: pd.Series) -> pd.Series:
        """Tokens of each run before the first that is not won."""
        return won.astype(int).groupby(once["run"]).cumprod().groupby(once["run"]).sum()

    whole, parts = prefix(once["reference"] > 0), []
    for margin in margins:
        tokens = each["run"].map(prefix(once["reference"] >= margin))
        left = tokens / each["run"].map(whole.where(whole > 0))
        exact = ~(each["first_error"] <= tokens)
        part = each[["setting", "coarse", "run"]]
        parts.append(part.assign(margin=float(margin), tokens=tokens, left=left, exact=exact))
    return pd.concat(parts, ignore_index=True)


def margin_price(cuts: pd.DataFrame) -> pd.DataFrame:
    """What cutting afterwards leaves, over runs that are exact for a token or more.

    Args:
        cuts: From `to_margin`.

    Returns:
        Index margin; columns n (runs), tokens (mean), left, low, high (mean share and its 95 % bootstrap interval).
    """
    each = cuts.dropna(subset="left").drop_duplicates(["margin", "run"])
    rows = {}
    for margin, some in each.groupby("margin"):
        rows[margin] = (len(some), some["tokens"].mean(), some["left"].mean(), *metrics.bootstrap_ci(some["left"]))
    columns = ["n", "tokens", "left", "low", "high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("margin")


def accuracy_and_exactness(results: pd.DataFrame) -> pd.DataFrame:
    """Crams of a fixed length by teacher-forced accuracy, and how far greedy decoding from the same vectors gets.

    Both are of the vector kept, as certified. Where token 0 was given, it counts for neither.

    Args:
        results: Rows of kind cram.

    Returns:
        One row a class of share right, teacher-forced: crams that are exact, tokens before the first error (mean ± sd,
        as % of the passage), first error (token number, median of those that have one), crams without one token.
    """
    runs = of_kind(results, "cram")
    scored = runs["length"] - ~runs["score_first"]
    right, decoded = runs["correct_teacher"] / scored, runs["correct_greedy"] / scored * 100
    first = (runs["correct_greedy"] + 1).where(decoded < 100)
    rows = {}
    for label, (low, high) in ACCURACY_CLASSES.items():
        some = (right >= low) & (right < high)
        if some.any():
            rows[f"{label} (n = {some.sum()})"] = {
                "exact": runs.loc[some, "exact"].sum(),
                "tokens before the first error, %": words.spread(decoded[some].mean(), decoded[some].std(), 0),
                "first error at token": words.number(first[some].median()),
                "wrong from the first token on": (runs.loc[some, "correct_greedy"] == 0).sum(),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tokens right, teacher-forced")


def settings_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`settings` as a page shows it; the first setting, which the others are compared with, is left out."""
    some = frame.iloc[1:]
    return pd.DataFrame(
        {
            "vectors exact": [f"{row.exact} of {row.vectors}" for row in some.itertuples()],
            "first error at token": some["first_error"].map(words.number),
            "tokens undone": some["undone"],
            "greatest margin undone, logits": some["undone_margin"].map(words.figures),
            "greatest change of a margin, logits": some["change"].map(words.figures),
        }
    )


def asked_table(runs: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """What asking for a margin from the start costs in tokens, and what it buys.

    Args:
        runs: From `asked`.
        gaps: From `gaps`, with a column key.

    Returns:
        Index margin asked for; columns exact horizon (tokens, mean ± sd), against the least margin (mean of the
        differences passage by passage, tokens, with a 95 % bootstrap interval), and of the vectors how many are exact
        in all settings that are not coarse, and in each that is.
    """
    each = exactness(gaps)
    each["key"] = each["run"].map(gaps.groupby("run")["key"].first())
    least = runs[runs["asked"] == runs["asked"].min()].set_index("passage")["length"]
    rows = {}
    for margin, some in runs.groupby("asked"):
        gain = some.set_index("passage")["length"] - least
        mine = each[each["key"].isin(some["key"])]
        n, fine = mine["run"].nunique(), mine[~mine["coarse"]].groupby("run")["exact"].all()
        rows[f"{margin:g}"] = {
            "exact horizon, tokens": words.spread(some["length"].mean(), some["length"].std()),
            "against the least margin": words.interval(gain.mean(), *metrics.bootstrap_ci(gain)) if gain.any() else "",
            "exact in all of 32 and 64 bits": f"{fine.sum()} of {n}",
        }
        for setting, kept in mine[mine["coarse"]].groupby("setting", sort=False):
            rows[f"{margin:g}"][str(setting)] = f"{kept['exact'].sum()} of {n}"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("margin asked for, logits")


def margin_price_table(price: pd.DataFrame) -> pd.DataFrame:
    """`margin_price` as a page shows it."""
    rows = {
        f"{row.Index:g}": {
            "left, % (95 % interval)": words.percent(row.left, row.low, row.high).replace("%", ""),
            "exact tokens, mean": f"{row.tokens:,.1f}",
        }
        for row in price.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("margin, logits")


@styled
def margins_and_changes_figure(gaps: pd.DataFrame) -> Figure:
    """How large the margins are that tokens have, and by how much other ways of computing change them.

    Shares of tokens, and of vectors with their smallest margin, below a margin; and of tokens by the greatest change
    of their margin in each class of settings.

    Args:
        gaps: From `gaps`.
    """
    once = _first(gaps)
    others = gaps[(gaps["reference"] > 0) & (gaps["setting"] != once["setting"].iloc[0])]
    vector, change = others["setting"] == "vector in bfloat16", (others["gap"] - others["reference"]).abs()
    token = [others["run"], others["position"]]
    won = {"margins of tokens": once["reference"], "margins of vectors": once.groupby("run")["reference"].min()}
    lines = {
        "changes, 32 and 64 bits": change[~others["coarse"]].groupby(token).max().dropna(),
        "changes, vector in bfloat16": change[vector].dropna(),
        "changes, all in 16 bits": change[others["coarse"] & ~vector].groupby(token).max().dropna(),
    } | {name: margins[margins > 0] for name, margins in won.items()}
    looks = zip((*COLOURS[2:], COLOURS[1], COLOURS[0], COLOURS[0]), (":", "-.", "-", "-", "--"), strict=True)
    figure, axis = plt.subplots(figsize=(WIDTH, 4.8))
    share = np.linspace(0, 1, 201)
    for (label, values), (colour, style) in zip(lines.items(), looks, strict=True):
        below = np.quantile(values, share) if len(values) else np.zeros_like(share)
        seen = below > 0  # a log axis has no place for what does not change at all
        axis.plot(below[seen], share[seen] * 100, style, color=colour, linewidth=2,
                  label=f"{label} (n = {len(values):,})")  # fmt: skip
    axis.set(xscale="log", xlabel="logits (log scale)", ylabel="share below, %", xticks=(1e-6, 1e-4, 1e-2, 1))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: np.format_float_positional(value, trim="-")))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left")
    return figure


@styled
def margin_bought_figure(cuts: pd.DataFrame, price: pd.DataFrame, asked: pd.DataFrame) -> Figure:
    """What a margin buys, and what it costs: share of prefixes exact by setting, and tokens left.

    Args:
        cuts: From `to_margin`.
        price: From `margin_price`.
        asked: From `asked`, the margins asked for from the start.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 7.8), sharex=True)
    some = cuts[cuts["tokens"] > 0]
    fine = some[~some["coarse"]].groupby(["margin", "run"])["exact"].all().groupby("margin").mean()
    lines = {"32 and 64 bits, in all": fine} | {
        str(setting): kept.groupby("margin")["exact"].mean()
        for setting, kept in some[some["coarse"]].groupby("setting", sort=False)
    }
    styles = zip(COLOURS, "o^sD", ("-", "-.", "--", ":"), strict=True)
    for (label, share), (colour, marker, style) in zip(lines.items(), styles, strict=False):
        above.plot(share.index, share, marker=marker, linestyle=style, color=colour, label=label)
    above.set(ylabel="share of prefixes exact", ylim=(-0.03, 1.03))
    below.plot(price.index, price["left"] * 100, "o-", color=COLOURS[0], label=f"cut afterwards (n = {price.n.max()})")
    below.fill_between(price.index, price["low"] * 100, price["high"] * 100, color=COLOURS[0], alpha=0.2, linewidth=0)
    shares = asked.dropna(subset="left").groupby("asked")["left"]
    for margin, each in shares:
        low, high = metrics.bootstrap_ci(each)
        below.plot([margin] * 2, [low * 100, high * 100], color=COLOURS[1], linewidth=2)
    if len(shares):
        below.plot(shares.mean().index, shares.mean() * 100, "s--", color=COLOURS[1], markeredgecolor="black",
                   label=f"asked for from the start (n = {shares.size().max()})")  # fmt: skip
    below.set(xscale="log", xlabel="margin, logits (log scale)", ylabel="tokens left, %", ylim=(0, None))
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (above, below):
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure


def _share(some: int, n: int, what: str = "") -> str:
    """How many of n are what, with the 95 % interval of the share, one-sided where it is none or all of them."""
    bound = 0.05 ** (1 / max(n, 1))
    low, high = metrics.bootstrap_ci(np.arange(n) < some) if 0 < some < n else (bound, 1) if some else (0, 1 - bound)
    return f"{some} of {n}{what} ({low:.0%} to {high:.0%})"


def show_answer(page: Page) -> Answer:
    """How many vectors stay exact, and the greatest margin that was not enough."""
    kept, n, fine = page.kept, len(page.kept), page.summary[~page.summary["coarse"]]
    lost = f"tokens that had won by up to {page.safe:.2g} logits were lost" if page.safe else "no token was lost"
    return Answer(
        page.setting,
        "Is exact still exact when the same logits are computed in another way?",
        f"In 32 and 64 bits **{_share(kept['fine'].sum(), n, ' exact vectors')}** stay exact in all {len(fine) - 1} "
        f"other ways tried; with 16 bits too {_share(kept['all'].sum(), n)} do, and {lost}.",
        rests=f"One vector or more of each of {words.counted(page.chosen.loc[kept.index])} passages; 95 % intervals "
        "as if vectors were independent. More passages, or another machine, can only raise the margin lost",
        sure="holds here only" if kept["fine"].all() else "contradicted",
        why=f"one model, computed on {device_name(page.lm.device)} alone, with vectors that were found in float32",
    )


def show_accuracy(page: Page) -> Exhibit:
    """What decodes exactly, by teacher-forced accuracy."""
    crams = of_kind(page.results, "cram")
    solved = crams[(crams["recipe"] == "paper") & (crams["accuracy"] == 1)]
    right = solved["correct_teacher"] == solved["length"] - 1
    caption = (
        f"**Of {len(solved)} crams that the paper's protocol counts as solved, {solved['exact'].sum()} decode "
        f"exactly.** It keeps the vector of one step later, and {right.sum()} of those have every token right. Table: "
        f"crams of {words.range(crams['length'])} tokens by the share right, teacher-forced. Tokens before the first "
        "error: share of the passage, mean ± standard deviation; first error: median."
    )
    return Exhibit(caption, accuracy_and_exactness(crams))


def show_settings(page: Page) -> Exhibit:
    """What survives each setting."""
    change, reference = page.summary.groupby("coarse")["change"].max().map(words.figures), page.summary.iloc[0]
    caption = (
        f"**Outside 16 bits margins change by at most {change[False]} logits, and the smallest of an exact vector is "
        f"{page.kept['margin'].min():.2g}; in 16 bits they change by up to {change[True]}.** Against one passage at a "
        f"time, float32, sdpa, {SETTINGS[FIRST].threads} threads. Undone: of {reference['tokens']:,} tokens right "
        f"there, in {len(page.chosen)} vectors. First error: median of failures. In float64 norms stay in float32."
    )
    return Exhibit(caption, settings_table(page.summary))


def show_margins(page: Page) -> Exhibit:
    """How large margins are, and by how much they change."""
    once = _first(page.gaps)["reference"]
    caption = (
        f"**Half of all tokens win by more than {once[once > 0].median():.1f} logits, half of the exact vectors have "
        f"one that wins by less than {page.kept['margin'].median():.2g}.** Share of tokens, or of exact vectors, with "
        "a margin below a value; of tokens, with smaller changes in all settings of a class. A token can be lost only "
        "where its change exceeds its margin."
    )
    return Exhibit(caption, margins_and_changes_figure(page.gaps))


def show_kernel(page: Page) -> Exhibit:
    """What the attention kernel does by itself, in 32 and in 16 bits."""
    half = page.gaps[page.gaps["setting"].str.startswith("all in bfloat16")]
    single, kernel = page.summary.loc["eager attention"], settings(against(half, "all in bfloat16")).iloc[1]
    failed, lost = (
        _share(row["vectors"] - row["exact"], row["vectors"], " exact vectors") for row in (single, kernel)
    )
    return Exhibit(
        f"**In float32 another attention kernel, eager for sdpa, undoes {failed}; in bfloat16 {lost}.** Exact "
        f"there with sdpa, that is; in bfloat16 the kernel changes margins by up to {words.figures(kernel['change'])} "
        "logits. 95 % intervals, as if vectors were independent."
    )


def show_margin_bought(page: Page) -> Exhibit:
    """What a margin buys and costs, cut afterwards and asked for."""
    cuts = to_margin(page.gaps, page.margins)
    prefixes = cuts[(cuts["tokens"] > 0) & (cuts["setting"] == FIRST)].groupby("margin").size()
    most = page.asked[page.asked["asked"] == page.asked["asked"].max()]
    margin, least = most["asked"].iloc[0], page.asked["asked"].min()
    afterwards = page.price[["left", "low", "high"]].reindex([margin]).iloc[0]
    alike = f"; cut afterwards, {words.percent(*afterwards)}" if afterwards.notna().all() else ""
    caption = (
        f"**Asked for from the start, a margin of {margin:g} leaves {words.share_mean(most['left'].dropna())} of the "
        f"tokens{alike}.** Above: longest prefixes with that margin, of {prefixes.max()} vectors at the smallest, "
        f"{prefixes.min()} at the largest. Below: means with 95 % intervals; asked for, against a margin of {least:g} "
        f"with the same {words.budgets(page.asked)}."
    )
    table = Fold("What cutting horizons to a margin leaves, in numbers", margin_price_table(page.price))
    return Exhibit(caption, margin_bought_figure(cuts, page.price, page.asked), table)


def show_asked(page: Page) -> Exhibit:
    """What horizons asked to win by a margin cost and hold."""
    table = asked_table(page.asked, page.gaps)
    held = table["all in bfloat16"]
    caption = (
        f"**All in bfloat16, {held.iloc[-1]} horizons asked for a margin of {table.index[-1]} stay exact, "
        f"{held.iloc[0]} asked for {table.index[0]}: too few for an interval.** The same "
        f"{words.counted(page.asked)} passages, same budget. Horizons mean ± standard deviation; differences passage "
        "by passage with their 95 % interval; then vectors exact over their whole horizon."
    )
    return Exhibit(caption, table)


def glue_numbers(page: Page) -> None:
    """What other pages quote."""
    kept, n = page.kept, len(page.kept)
    glue(
        lossless_fine=f"{kept['fine'].sum()} of {n}",
        lossless_coarse=f"{kept['all'].sum()} of {n}",
        lossless_margin=f"{page.safe or kept['margin'].min():.2g}",
    )

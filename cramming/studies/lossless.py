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
from cramming.studies._figures import COLOURS, styled
from cramming.studies._page import Exhibit, glue
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
        counted: How many these are, for captions.
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
        self.counted = (
            f"{len(self.chosen)} vectors of {self.chosen['passage'].nunique()} passages from "
            f"{self.chosen['source'].nunique()} sources"
        )

    @cached_property
    def setting(self) -> str:
        """Model, weights, number of mem vectors and the machine of this page, for captions."""
        return f"{words.setting(self.results)}; {device_name(self.lm.device)}"

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
        """From `cut_price`, of plain horizons."""
        return cut_price(cut(self.computed(self.plain, {FIRST: SETTINGS[FIRST]}), self.margins))


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


def cut(gaps: pd.DataFrame, margins: Collection[float]) -> pd.DataFrame:
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


def cut_price(cuts: pd.DataFrame) -> pd.DataFrame:
    """What cutting afterwards leaves, over runs that are exact for a token or more.

    Args:
        cuts: From `cut`.

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
        One row a class of share right, teacher-forced: crams, passages, exact, tokens before the first error (mean ±
        sd, as % of the passage), first error (token number, median of those that have one), crams without one token.
    """
    runs = of_kind(results, "cram")
    scored = runs["length"] - ~runs["score_first"]
    right, decoded = runs["correct_teacher"] / scored, runs["correct_greedy"] / scored * 100
    first = (runs["correct_greedy"] + 1).where(decoded < 100)
    rows = {}
    for label, (low, high) in ACCURACY_CLASSES.items():
        some = (right >= low) & (right < high)
        if some.any():
            rows[label] = {
                "crams": some.sum(),
                "passages": runs.loc[some, "passage"].nunique(),
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
            "tokens undone": [f"{row.undone} of {row.tokens:,}" for row in some.itertuples()],
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
        Index margin asked for; columns passages, exact horizon (tokens, mean ± sd), against the least margin (mean of
        the differences passage by passage, tokens, with a 95 % bootstrap interval), left (mean %), and of the vectors
        how many are exact in all settings that are not coarse, and in each that is.
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
            "passages": len(some),
            "exact horizon, tokens": words.spread(some["length"].mean(), some["length"].std()),
            "against the least margin": words.interval(gain.mean(), *metrics.bootstrap_ci(gain)) if gain.any() else "",
            "left, %": f"{some['left'].mean() * 100:.0f}" if some["left"].notna().any() else "",
            "exact in all of 32 and 64 bits": f"{fine.sum()} of {n}",
        }
        for setting, kept in mine[mine["coarse"]].groupby("setting", sort=False):
            rows[f"{margin:g}"][str(setting)] = f"{kept['exact'].sum()} of {n}"
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("margin asked for, logits")


def cut_price_table(price: pd.DataFrame) -> pd.DataFrame:
    """`cut_price` as a page shows it."""
    rows = {
        f"{row.Index:g}": {
            "vectors": row.n,
            "exact tokens, mean": f"{row.tokens:,.1f}",
            "left, % (95 % interval)": words.percent(row.left, row.low, row.high).replace("%", ""),
        }
        for row in price.itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("margin, logits")


@styled
def margins_and_changes_figure(gaps: pd.DataFrame) -> Figure:
    """How large the margins are that tokens have, and by how much other ways of computing change them.

    Left: shares of tokens, and of passages with their smallest margin, below a margin. Right: the greatest change of
    every token's margin in each class of settings; what lies above the diagonal can be undone.

    Args:
        gaps: From `gaps`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=[1, 1.4])
    once = _first(gaps)
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


@styled
def margin_bought_figure(cuts: pd.DataFrame, price: pd.DataFrame, asked: pd.DataFrame) -> Figure:
    """What a margin buys, and what it costs: share of prefixes exact by setting, and tokens left.

    Args:
        cuts: From `cut`.
        price: From `cut_price`.
        asked: From `asked`, the margins asked for from the start.
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


def show_finding(page: Page) -> Exhibit:
    """How many vectors stay exact, and the margin that was enough."""
    kept, n = page.kept, len(page.kept)
    survived, least = kept["fine"].sum(), kept["margin"].min()
    safe_fine = safe_margin(page.gaps[~page.gaps["coarse"]])
    stated = (
        f"margins above {safe_fine:.2g} logits were enough"
        if safe_fine
        else f"the smallest margin among them, {least:.2g} logits, was enough"
    )
    bound = (
        f"None of {n} failing in 32 and 64 bits bounds the share that would at {1 - 0.05 ** (1 / n):.0%} (one-sided, "
        "95 %, if vectors count as independent). "
        if survived == n > 0
        else ""
    )
    return Exhibit(
        f"**In 32 and 64 bits {survived} of {n} exact vectors stay exact in every way tried, and {stated}; in 16 bits "
        f"it took {f'more than {page.safe:.2g} logits' if page.safe else 'none'}.** So the smallest margin at which "
        f"all passages stay exact across everything tried is {page.safe or least:.2g} logits. {n} vectors of "
        f"{page.chosen.loc[kept.index, 'passage'].nunique()} passages from {page.chosen['source'].nunique()} sources "
        f"are exact one passage at a time; {kept['all'].sum()} of them stay exact in everything tried. {bound}A "
        "margin that was enough is a maximum over what was seen: more passages, or another machine, can only raise it."
    )


def show_accuracy(page: Page) -> Exhibit:
    """What decodes exactly, by teacher-forced accuracy."""
    crams = of_kind(page.results, "cram")
    solved = crams[(crams["recipe"] == "paper") & (crams["accuracy"] == 1)]
    right = solved["correct_teacher"] == solved["length"] - 1
    caption = (
        f"**Of {len(solved)} crams that the paper's protocol counts as solved, {solved['exact'].sum()} decode "
        f"exactly.** The kept vector of {right.sum()} of them is right on every token: the protocol keeps the vector "
        f"after the step that followed the best one, and that step can spoil it. Table: all {len(crams)} crams of "
        f"{words.spelled(crams['length'])} tokens, by the share of tokens that the kept vector has right, "
        "teacher-forced; what greedy decoding gives back is counted up to the first error, as a share of the passage, "
        "mean ± sample standard deviation over crams. Token 0 is given where the recipe gives it. "
        f"{words.setting(crams)}. {words.cost(crams)}."
    )
    return Exhibit(caption, accuracy_and_exactness(crams))


def show_settings(page: Page) -> Exhibit:
    """What survives each setting."""
    change = page.summary.groupby("coarse")["change"].max().map(words.figures)
    scored = page.chosen[page.chosen["recipe"] != "paper"]
    free = (scored["correct_greedy"] == scored["length"]).sum()
    caption = (
        f"**Outside 16 bits the greatest change of any margin is {change[False]} logits; in 16 bits it is "
        f"{change[True]}.** Each setting against one passage at a time in one pass, float32, attention sdpa, "
        f"{SETTINGS[FIRST].threads} threads. *Vectors exact*: of those exact there. *Tokens undone*: of those right "
        "there, in whatever vector. *First error*: median over vectors that fail. In float64 the norms still compute "
        "in float32. *Vector in bfloat16*: only the vector is rounded, the model computes in float32. Before they "
        f"were stored, {free} of the {len(scored)} vectors here that score token 0 had also been decoded freely, "
        f"alone and token by token. {page.counted}, {len(_first(page.gaps)):,} tokens. {page.setting}. "
        f"{words.cost(page.chosen)}."
    )
    return Exhibit(caption, settings_table(page.summary))


def show_margins(page: Page) -> Exhibit:
    """How large margins are, and by how much they change."""
    once = _first(page.gaps)["reference"]
    caption = (
        f"**Half of all tokens win by more than {once[once > 0].median():.1f} logits; the margin of a passage is that "
        "of its weakest.** Left: share of tokens right, and of passages exact, whose margin is below the value. "
        "Right: one mark a token and class of settings, at its margin and the greatest change of it; a mark above the "
        f"line can lose its token, one below cannot. Changes of exactly 0 are left out. {page.counted}. "
        f"{page.setting}."
    )
    return Exhibit(caption, margins_and_changes_figure(page.gaps))


def show_kernel(page: Page) -> Exhibit:
    """What the attention kernel does by itself, in 32 and in 16 bits."""
    half = page.gaps[page.gaps["setting"].str.startswith("all in bfloat16")]
    single, kernel = page.summary.loc["eager attention"], settings(against(half, "all in bfloat16")).iloc[1]
    failed = kernel["vectors"] - kernel["exact"]
    return Exhibit(
        "Does the kernel matter by itself? In float32, changing sdpa for eager undoes "
        f"{single['vectors'] - single['exact']} of {single['vectors']} exact vectors. Of the {kernel['vectors']} "
        f"vectors that happen to be exact in bfloat16 with sdpa, {failed} {'is' if failed == 1 else 'are'} not with "
        f"eager, where margins change by up to {words.figures(kernel['change'])} logits. All of these vectors were "
        "found in float32, and were never asked to hold in another format."
    )


def show_cut_price(page: Page) -> Exhibit:
    """What is left of horizons cut to a margin."""
    half = page.price.index[page.price["left"] < 0.5]
    finding = (
        f"Cutting afterwards for a margin of {half.min():g} logits costs more than half of the tokens"
        if len(half)
        else "No margin tried costs half of the tokens"
    )
    caption = (
        f"**{finding}.** What is left of exact horizons when each is cut to the longest prefix with at least that "
        "margin; mean share over vectors with its 95 % bootstrap interval. Computed one passage at a time. Exact "
        f"horizons within {words.budgets(page.plain)} a passage, "
        f"{', '.join(f'{n} {source}' for source, n in page.plain['source'].value_counts().items())}; {page.setting}."
    )
    return Exhibit(caption, cut_price_table(page.price))


def show_asked(page: Page) -> Exhibit:
    """What horizons asked to win by a margin cost and hold."""
    runs = page.asked
    most = runs[runs["asked"] == runs["asked"].max()]
    caption = (
        f"**Asked for from the start, a margin of {most['asked'].iloc[0]:g} leaves {most['left'].mean():.0%} of the "
        "tokens.** Horizons of the same passages with the same budget, that differ only in the margin at which a "
        "token counts as won; tokens are mean ± sample standard deviation, differences are passage by passage with a "
        "95 % bootstrap interval; *left* is the mean share. The other columns: vectors exact over their whole horizon "
        f"in all settings of 32 and 64 bits, and in each of 16 bits. {words.budgets(runs)} a passage, "
        f"{runs['passage'].nunique()} passages. {words.setting(runs)}. {words.cost(runs)}."
    )
    return Exhibit(caption, asked_table(runs, page.gaps))


def show_margin_bought(page: Page) -> Exhibit:
    """What a margin buys and costs, cut afterwards and asked for."""
    caption = (
        "**Safety against tokens.** Left: vectors cut to the longest prefix with at least that margin, share of these "
        "prefixes that are exact in each setting; blue, in all of 32 and 64 bits at once. Vectors of which nothing is "
        "left are not counted. Right: tokens left, mean and 95 % bootstrap interval over passages, cut afterwards, "
        f"and asked for from the start (against the least margin asked, {page.asked['asked'].min():g}, so that one is "
        f"at 100 % by definition). Left: {page.counted}. {page.setting}."
    )
    return Exhibit(caption, margin_bought_figure(cut(page.gaps, page.margins), page.price, page.asked))


def show_claim(page: Page) -> Exhibit:
    """Whether exact means exact here."""
    kept, fine, n = page.kept, page.summary[~page.summary["coarse"]], len(page.kept)
    survived, every, least = kept["fine"].sum(), kept["all"].sum(), kept["margin"].min()
    largest = page.asked["asked"].max()
    if page.safe > largest:
        return Exhibit(
            f"For this model, on this machine, exact means exact as long as numbers have 32 bits: {survived} of {n} "
            f"vectors gave the same tokens in every one of {len(fine) - 1} other ways, with margins down to "
            f"{least:.2g} logits, where rounding moved a margin by at most {words.figures(fine['change'].max())}. The "
            f"recipe asks for {page.asked['asked'].min():g}. In 16 bits it is another matter: {every} of {n} survive "
            f"everything, and tokens with margins of up to {page.safe:.2g} logits were undone, more than the "
            f"{largest:g} that was asked for at most."
        )
    return Exhibit(
        f"For this model, on this machine, {survived} of {n} vectors gave the same tokens in every way tried in 32 "
        f"and 64 bits, with margins down to {least:.2g} logits. In 16 bits {every} of {n} survive everything, and the "
        f"largest margin undone was {page.safe:.2g} logits."
    )


def glue_numbers(page: Page) -> None:
    """What other pages quote."""
    kept, n = page.kept, len(page.kept)
    glue(
        lossless_fine=f"{kept['fine'].sum()} of {n}",
        lossless_coarse=f"{kept['all'].sum()} of {n}",
        lossless_margin=f"{page.safe or kept['margin'].min():.2g}",
    )

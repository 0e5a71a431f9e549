"""What a mem vector tells the model about its passage, against what the true text before the passage tells it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from cramming import metrics
from cramming.decode import nats_and_gaps
from cramming.errors import CrammingError
from cramming.metrics import nats_to_bits
from cramming.models import FrozenLM
from cramming.results.rows import crammed
from cramming.sphere import noise_like
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage, other_of, preceding

LENGTHS = (1, 4, 16, 32, 64, 128, 256, 512)
SURPRISE_LABELS = ("under 1", "1 to 3", "3 to 6", "6 to 10", "10 or more")
CONTEXTS = {
    "nothing": "nothing",
    "context": "text before it",
    "mem": "mem",
    "context, mem": "text before it, then mem",
    "mem, context": "mem, then text before it",
    "copy": "the passage itself",
    "other context": "text before another passage",
    "other mem": "mem of another passage",
    "random": "a random vector of mem's norm",
}


class Page(AnyPage):
    """The horizons whose texts begin before them, and what they cost by what stands in front."""

    def __init__(self, scale: str, lengths: Sequence[int]) -> None:
        super().__init__("context", scale)
        self.lengths = lengths
        self.results = self.results.query("length >= 2").sort_values(["source", "passage"])
        self.shown = [(scale, self.results)]

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """From `context_nats`."""
        before = [preceding(passage, self.lm.tokenizer) for passage in self.results["passage"]]
        vectors = [self.vectors[key] for key in self.results["key"]]
        return context_nats(self.lm, vectors, crammed(self.results, self.lm), before, self.lengths)

    @cached_property
    def gains(self) -> pd.DataFrame:
        """From `gains`."""
        return gains(self.tokens)

    @cached_property
    def worth(self) -> pd.Series:
        """From `context_worth`."""
        return context_worth(self.gains)

    @cached_property
    def reach(self) -> tuple[int, int]:
        """Tokens of the shortest and of the longest context."""
        lengths = self.gained["context"].columns
        return lengths.min(), lengths.max()

    @cached_property
    def gained(self) -> pd.DataFrame:
        """Bits a token gained: a row a passage, a column what stands in front and tokens of context."""
        return gained(self.gains)

    def removed(self, what: str, context_tokens: int = 0) -> tuple[float, float, float]:
        """Share of the bits of all passages that a condition takes away, with its 95 % interval over passages."""
        some = self.gains.query("what == @what and context_tokens == @context_tokens")
        gain, without = some["gain_bits"].to_numpy(), some["bits_without"].to_numpy()
        return gain.sum() / without.sum(), *words.ratio_interval(gain, without)


@torch.no_grad()
def context_nats(
    lm: FrozenLM,
    vectors: Sequence[torch.Tensor],
    passages: Sequence[Passage],
    before: Sequence[Passage],
    lengths: Sequence[int] = LENGTHS,
) -> pd.DataFrame:
    """Cross-entropy of every token of crammed passages, by what stands in front of them.

    What stands there (column what), read from left to right:

    - ``nothing``: the passage alone.
    - ``context``: the last tokens of the text before it.
    - ``mem``: its mem vectors.
    - ``context, mem`` and ``mem, context``: both. The vectors were found with nothing before them and the passage
      right after: neither place is one that they were trained for.
    - ``copy``: the passage itself, so that it is read a second time.
    - ``random``: random vectors with the norms of its mem vectors.
    - ``other context``, ``other mem``: those of another passage, the next one of the same source if there is one, or
      else the next one. With a single passage these are left out.

    Token 0 is left out throughout: without anything before it the model says nothing of it.

    Args:
        lm: The frozen model.
        vectors: Mem vectors of each passage, shape (k, d).
        passages: What they hold, at least two tokens each.
        before: The text before each passage.
        lengths: Tokens of context; those that a text before does not have are left out for that text.

    Returns:
        One row a passage, condition and token: source, passage, length (tokens of the passage), what, context_tokens
        (of text before; 0 where there is none), position (1 is the second token), nats, right (whether the token is
        the argmax given the true tokens before it).

    Raises:
        CrammingError: If there is no passage, one has a single token, or the model has too few positions.
    """
    if not len(vectors) == len(passages) == len(before) > 0:
        raise CrammingError(
            f"{len(vectors)} vectors, {len(passages)} passages and {len(before)} texts before them: give as many of "
            "each, at least one"
        )
    for passage in passages:
        if len(passage) < 2:
            raise CrammingError(f"passage {passage.id} has 1 token, of which nothing is compared: give at least 2")
    most = max([0, *(n for n in lengths for text in before if n <= len(text))])
    longest = max(most + len(vectors[0]), max(map(len, passages))) + max(map(len, passages))
    if lm.context_length is not None and longest > lm.context_length:
        raise CrammingError(
            f"passages and what stands in front of them take {longest} positions, {lm.name} has {lm.context_length}: "
            "give shorter ones"
        )
    table = lm.model.get_input_embeddings()
    tokens = [torch.tensor(passage.token_ids, device=lm.device) for passage in passages]
    texts = [table(ids) for ids in tokens]
    mems = [mem.to(lm.device, lm.dtype) for mem in vectors]
    contexts = [table(torch.tensor(passage.token_ids, device=lm.device)) for passage in before]
    none = texts[0][:0]
    others, generator = other_of(passages), torch.Generator().manual_seed(0)
    parts = []

    def add(front: torch.Tensor, n: int, *tails: tuple[str, int, torch.Tensor]) -> None:
        results = _after(lm, front, [(between, tokens[i]) for _, i, between in tails])
        for (what, i, _), (nats, gaps) in zip(tails, results, strict=True):
            passage = passages[i]
            columns = {"source": passage.source, "passage": passage.id, "length": len(passage), "what": what,
                       "context_tokens": n, "position": range(1, len(passage)), "nats": nats.cpu(),
                       "right": gaps.cpu() > 0}  # fmt: skip
            parts.append(pd.DataFrame(columns))

    for i, (mem, context) in enumerate(zip(mems, contexts, strict=True)):
        led = [reader for reader, other in others.items() if other == i]  # the passages that this one is the other of
        add(none, 0, ("nothing", i, none), ("mem", i, mem), ("copy", i, texts[i]))
        add(none, 0, ("random", i, noise_like(mem, generator)))
        add(none, 0, *(("other mem", reader, mem) for reader in led))
        for n in (n for n in lengths if n <= len(context)):
            last = context[-n:]
            # The context goes through the model once, for all that follows it.
            add(last, n, ("context", i, none), ("context, mem", i, mem), *(("other context", r, none) for r in led))
            add(torch.cat([mem, last]), n, ("mem, context", i, none))
    return pd.concat(parts, ignore_index=True)


def gains(tokens: pd.DataFrame) -> pd.DataFrame:
    """What each condition takes off the cross-entropy of each passage, in bits, summed over its tokens from 1 on.

    Args:
        tokens: From `context_nats`.

    Returns:
        One row a passage and condition: source, passage, length (tokens), what, context_tokens, bits_without (nothing
        in front), bits_with, gain_bits (the difference), gain_per_token (over length - 1), right (share of tokens).
    """
    keys = ["source", "passage", "length", "what", "context_tokens"]
    frame = tokens.groupby(keys, sort=False, as_index=False).agg(bits_with=("nats", "sum"), right=("right", "mean"))
    frame["bits_with"] = frame["bits_with"].map(nats_to_bits)
    alone = frame[frame["what"] == "nothing"].set_index("passage")["bits_with"]
    frame["bits_without"] = frame["passage"].map(alone)
    frame["gain_bits"] = frame["bits_without"] - frame["bits_with"]
    frame["gain_per_token"] = frame["gain_bits"] / (frame["length"] - 1)
    return frame[[*keys, "bits_without", "bits_with", "gain_bits", "gain_per_token", "right"]]


def context_worth(gains: pd.DataFrame) -> pd.Series:
    """How much true context tells as much as mem alone does, passage by passage.

    Args:
        gains: From `cramming.studies.context.gains`.

    Returns:
        By passage: tokens of the shortest context that gains as much as mem, nan if none does.
    """
    worth = {}
    for passage, some in gains.groupby("passage"):
        context, mem = some[some["what"] == "context"], some.loc[some["what"] == "mem", "gain_bits"].item()
        if context.empty:
            raise CrammingError(f"{passage} was given no context: pass lengths that its text before it has")
        worth[passage] = context.loc[context["gain_bits"] >= mem, "context_tokens"].min()
    return pd.Series(worth, dtype=float)


def _after(
    lm: FrozenLM, front: torch.Tensor, tails: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Nats and gaps of tokens 1 on of each text (L,), after a front (n, d) and what stands between the two (k, d)."""
    # A recurrent state cannot be taken back to where the front ended, so there the front is read again.
    cached = len(front) > 0 and lm.context_length is not None
    state: Any = lm.model.base_model(inputs_embeds=front[None], use_cache=True).past_key_values if cached else None
    results = []
    for between, tokens in tails:
        embeds = torch.cat([between, lm.model.get_input_embeddings()(tokens[:-1])])[None]
        if cached:
            logits = lm.model(inputs_embeds=embeds, past_key_values=state, use_cache=True).logits
            state.crop(-embeds.shape[1])
        else:
            logits = lm.model(inputs_embeds=torch.cat([front[None], embeds], dim=1), use_cache=False).logits
        logits = logits[:, 1 - len(tokens) :].float()
        nats, gaps = nats_and_gaps(logits, tokens[None, 1:])
        results.append((nats[0], gaps[0]))
    return results


def gained(gains: pd.DataFrame) -> pd.DataFrame:
    """Bits a token gained, from `gains`: a row a passage, a column what stands in front and tokens of context."""
    return gains.pivot_table("gain_per_token", "passage", ["what", "context_tokens"])


def context_table(gains: pd.DataFrame) -> pd.DataFrame:
    """What stands in front of passages and what it takes off their cross-entropy, mean ± standard deviation.

    True context is shown at every length, all else that has some at the shortest and the longest. Each passage counts
    alike, but in the share of all bits, which is one of sums.

    Args:
        gains: From `cramming.studies.context.gains`.
    """
    lengths = gains.loc[gains["what"] == "context", "context_tokens"]
    rows = {}
    for (what, n), some in gains.groupby(["what", "context_tokens"]):
        if what == "context" or n in (0, lengths.min(), lengths.max()):
            rows[CONTEXTS[what], f"{n}" if n else ""] = {
                "gain, bits a token": words.spread(some["gain_per_token"].mean(), some["gain_per_token"].std(), 2),
                "of all bits": f"{some['gain_bits'].sum() / some['bits_without'].sum():.0%}",
                "tokens right, %": words.spread(some["right"].mean() * 100, some["right"].std() * 100, 0),
            }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["in front of the passage", "tokens before it"])
    return frame.loc[[name for name in CONTEXTS.values() if name in frame.index]]


def both_table(gains: pd.DataFrame) -> pd.DataFrame:
    """What mem and the shortest or longest context gain together, in both orders, and beside either one alone.

    Args:
        gains: From `cramming.studies.context.gains`.
    """
    each, rows = gained(gains), {}
    right = gains.pivot_table("right", "passage", ["what", "context_tokens"]) * 100
    lengths = each["context"].columns
    for n in sorted({lengths.min(), lengths.max()}):
        orders = {"context, mem": f"{_tokens(n)} of text, then mem", "mem, context": f"mem, then {_tokens(n)} of text"}
        for what, name in orders.items():
            some = each[what, n].dropna()
            rows[name] = {
                "gain, bits a token": words.mean(some, 2),
                "less mem alone": words.mean(some - each["mem", 0], 2),
                "less the text alone": words.mean(some - each["context", n], 2),
                "tokens right, %": words.mean(right[what, n].dropna(), 0),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("in front of the passage")


def token_gains(tokens: pd.DataFrame) -> pd.DataFrame:
    """Bits that each token gains from the longest context, a copy and mem.

    Args:
        tokens: From `cramming.studies.context.context_nats`; of context only the longest of each passage is used.

    Returns:
        One row a passage and position: nothing (bits that the token costs with nothing in front), the gains context,
        copy and mem, and bits without (the class of nothing).
    """
    context = tokens[tokens["what"] == "context"]
    longest = context[context["context_tokens"] == context.groupby("passage")["context_tokens"].transform("max")]
    some = pd.concat([tokens[tokens["what"].isin(["nothing", "mem", "copy"])], longest])
    bits = some.pivot_table("nats", ["passage", "position"], "what").map(nats_to_bits)
    alone = bits["nothing"]
    classes = pd.cut(alone, words.SURPRISE, labels=SURPRISE_LABELS, right=False).rename("bits without")
    return bits.rsub(alone, axis=0).assign(nothing=alone).join(classes)


def context_by_surprise(gains: pd.DataFrame) -> pd.DataFrame:
    """Which tokens context, a copy and mem tell of: tokens sorted by what they cost with nothing in front.

    Args:
        gains: From `token_gains`.

    Returns:
        One row a class of bits without: the mean gain in bits from mem, the copy and the longest context, mean bits
        without and tokens (count).
    """
    frame = gains.groupby("bits without", observed=True)
    shown = frame[["mem", "copy", "context", "nothing"]].mean().map("{:.2f}".format)
    shown.columns = [*(f"gain from {CONTEXTS[what]}" for what in ("mem", "copy", "context")), "mean bits without"]
    return shown.assign(tokens=frame.size())


@styled
def gains_figure(gains: pd.DataFrame) -> Figure:
    """Bits a token gained, and below tokens right, against tokens of true context; mem and a copy as level lines.

    Bold lines: means over passages, with a band of one standard error. Thin ones: single passages, for context alone
    and for mem alone (marks at the edge).

    Args:
        gains: From `cramming.studies.context.gains`.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7.8), sharex=True)
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
            axis.plot(mean.index, mean, style, color=colour, marker=marker, linewidth=2.2, label=CONTEXTS[what])
            axis.fill_between(mean.index, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
        for _, some in gains[gains["what"] == "context"].groupby("passage"):
            axis.plot(some["context_tokens"], some[column] * factor, color=COLOURS[1], alpha=0.35, linewidth=0.8)
        alone = gains.loc[gains["what"] == "mem", column] * factor
        axis.hlines(alone, edges[1] / 1.12, edges[1], color=COLOURS[0], linewidth=1.2)
        axis.set(xscale="log", xlim=edges, xticks=lengths, xticklabels=[f"{n}" for n in lengths])
        axis.minorticks_off()
    axes[0].axhline(0, color="#777777", linewidth=0.8)
    axes[0].set(ylabel="bits gained a token")
    alone = gains.loc[gains["what"] == "nothing", "right"].mean() * 100
    axes[1].axhline(alone, color="#777777", linewidth=0.8)
    axes[1].set(ylabel="tokens right, %", ylim=(0, 103), xlabel="tokens of text before the passage (log scale)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def show_answer(page: Page) -> Answer:
    """How much text before it tells as much of a passage as its vector."""
    n, longest = len(page.worth), page.reach[1]
    return Answer(
        page.setting,
        "How much text before a passage tells the model as much of it as one vector?",
        f"The vector takes away **{words.percent(*page.removed('mem'))} of the bits** of what it holds and "
        f"{_tokens(longest)} of true text before it {words.percent(*page.removed('context', longest))}; for "
        f"{page.worth.isna().sum()} of {n} passages no context that was tried tells as much as the vector.",
        rests=f"{words.counted(page.results)} passages, cut to horizons of {words.range(page.results['length'])} "
        f"tokens that {words.budgets(page.results)} each found; 95 % intervals over passages",
        sure="holds here only",
        why="one small model and few passages, and the vector was searched for on the tokens that it is scored on",
    )


def show_gains(page: Page) -> Exhibit:
    """How much each condition tells, against tokens of context and in numbers."""
    each, longest = page.gained, page.reach[1]
    mem, copy = each["mem", 0], each["copy", 0]
    caption = (
        f"**Mem takes {words.mean(mem, 2)} bits off a token: {words.mean(mem - copy, 2)} more than a copy of the "
        f"passage, {words.mean(mem - each['context', longest], 2)} more than {_tokens(longest)} of text before it.** "
        "Bold: means; bands: one standard error. Thin lines, strokes at the edge: single passages. Grey: nothing in "
        f"front. n = {len(page.worth)}; 95 % intervals."
    )
    table = Fold("Gain and tokens right by what stands in front, mean ± standard deviation", context_table(page.gains))
    return Exhibit(caption, gains_figure(page.gains), table)


def show_both(page: Page) -> Exhibit:
    """What vector and context tell together."""
    shortest, mem = page.reach[0], page.gained["mem", 0]
    before, between = (words.mean(page.gained[what, shortest] - mem, 2) for what in ("context, mem", "mem, context"))
    caption = (
        f"**{_tokens(shortest).capitalize()} of true text before mem changes its gain by {before} bits a token, the "
        f"same text between mem and passage by {between}.** Means over n = {len(page.worth)} passages with 95 % "
        "intervals; differences are taken passage by passage. Below 0 more is lost than gained."
    )
    return Exhibit(caption, both_table(page.gains))


def show_other(page: Page) -> Exhibit:
    """What the vector of another passage does, and the text before it."""
    longest, each = page.reach[1], page.gained
    ways = (("other mem", 0), ("random", 0), ("other context", longest))
    mem, noise, text = (words.mean(each[way].dropna(), 2) for way in ways)
    apart = (each["other mem", 0] - each["random", 0]).dropna()
    return Exhibit(
        f"**The vector of another passage gains {mem} bits a token, a random vector of its own vector's norm {noise}: "
        f"the other passage's less the random one, {words.interval(apart.mean(), *metrics.bootstrap_ci(apart), 2)}.** "
        f"Below 0: worse than nothing. {_tokens(longest).capitalize()} of the text before another passage gain "
        f"{text}. n = {len(apart)}; 95 % intervals."
    )


def show_surprise(page: Page) -> Exhibit:
    """Which tokens each condition tells of."""
    gains = token_gains(page.tokens)
    dearest = gains["bits without"].max()
    some = gains[gains["bits without"] == dearest]
    beside = {}
    for what in ("copy", "context"):
        sums = (some["mem"] - some[what]).groupby("passage").agg(["sum", "size"])
        interval = words.ratio_interval(sums["sum"].to_numpy(), sums["size"].to_numpy())
        beside[what] = words.within(sums["sum"].sum() / sums["size"].sum(), *interval, 2)
    caption = (
        f"**Of tokens of {dearest} bits mem takes off {beside['copy']} more than the copy and {beside['context']} "
        f"more than {_tokens(page.reach[1])} of context.** Mean bits by what a token costs with nothing in front. "
        f"Dear ones tend to gain from anything: compare along rows. n = {len(page.worth)} passages; 95 % intervals "
        "over these."
    )
    return Exhibit(caption, context_by_surprise(gains))


def glue_numbers(page: Page) -> None:
    """The numbers that other pages quote."""
    shown = {"mem": 0, "copy": 0, "context": page.reach[1]}
    glue(**{f"{what}_removed": f"{page.removed(what, n)[0]:.0%}" for what, n in shown.items()})
    glue(n_context=f"{len(page.worth)}")


def _tokens(n: int) -> str:
    return f"{n} token{'s' if n > 1 else ''}"

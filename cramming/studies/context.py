"""What a mem vector tells the model about its passage, against what the true text before the passage tells it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from cramming.decode import nats_and_gaps
from cramming.errors import CrammingError
from cramming.metrics import nats_to_bits
from cramming.models import FrozenLM
from cramming.results.rows import crammed, device_name
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, styled
from cramming.studies._page import Exhibit, glue
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
}


class Page(AnyPage):
    """The horizons whose texts begin before them, and what they cost by what stands in front."""

    def __init__(self, scale: str, lengths: Sequence[int]) -> None:
        super().__init__("context", scale)
        self.lengths = lengths
        self.results = self.results.query("length >= 2").sort_values(["source", "passage"])
        self.shown = [(scale, self.results)]

    @cached_property
    def setting(self) -> str:
        """Model, machine and number format, for captions."""
        dtype = self.results["dtype"].iloc[0]
        return f"{words.setting(self.results)}; {device_name(self.lm.device)}, {dtype}"

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """From `told`."""
        before = [preceding(passage, self.lm.tokenizer) for passage in self.results["passage"]]
        vectors = [self.vectors[key] for key in self.results["key"]]
        return told(self.lm, vectors, crammed(self.results, self.lm), before, self.lengths)

    @cached_property
    def gains(self) -> pd.DataFrame:
        """From `gains`."""
        return gains(self.tokens)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """From `context_summary`."""
        return context_summary(self.gains)

    @cached_property
    def worth(self) -> pd.DataFrame:
        """From `context_worth`."""
        return context_worth(self.gains)

    @cached_property
    def reach(self) -> tuple[int, int]:
        """Tokens of the shortest and of the longest context."""
        lengths = self.summary.loc["context"].index
        return lengths.min(), lengths.max()

    def condition(self, what: str, context_tokens: int = 0) -> pd.Series:
        """A row of `context_summary`."""
        return self.summary.loc[(what, context_tokens)]

    @cached_property
    def removed(self) -> dict[str, str]:
        """Shares of the bits that mem, a copy and the longest context take away."""
        shown = {"mem": 0, "copy": 0, "context": self.reach[1]}
        return {what: f"{self.condition(what, n)['removed']:.0%}" for what, n in shown.items()}


@torch.no_grad()
def told(
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
    others = other_of(passages)
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
        tokens: From `told`.

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


def context_summary(gains: pd.DataFrame) -> pd.DataFrame:
    """What stands in front of passages and what it takes off their cross-entropy, one row a condition.

    Args:
        gains: From `cramming.studies.context.gains`.

    Returns:
        Indexed by what (`CONTEXTS`) and context_tokens: n (passages), gain_mean, gain_sd (bits a passage), mean, sd,
        sem (bits a token, each passage counted alike), removed (share of the bits without, sums over passages),
        right_mean, right_sd (share of tokens).
    """
    rows = {}
    for key, some in gains.groupby(["what", "context_tokens"]):
        rows[key] = {
            "n": len(some),
            "gain_mean": some["gain_bits"].mean(),
            "gain_sd": some["gain_bits"].std(),
            "mean": some["gain_per_token"].mean(),
            "sd": some["gain_per_token"].std(),
            "sem": some["gain_per_token"].sem(),
            "removed": some["gain_bits"].sum() / some["bits_without"].sum(),
            "right_mean": some["right"].mean(),
            "right_sd": some["right"].std(),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "context_tokens"])
    return frame.loc[[what for what in CONTEXTS if what in frame.index]]


def context_worth(gains: pd.DataFrame) -> pd.DataFrame:
    """How much true context tells as much as mem alone does, passage by passage.

    Args:
        gains: From `cramming.studies.context.gains`.

    Returns:
        One row a passage: source, passage, mem_bits, context_bits (gain from the longest context), context_tokens (how
        long that is), worth (tokens of the shortest context that gains as much as mem, nan if none does).
    """
    rows = []
    for (source, passage), some in gains.groupby(["source", "passage"]):
        context = some[some["what"] == "context"].sort_values("context_tokens")
        mem = some.loc[some["what"] == "mem", "gain_bits"].item()
        if context.empty:
            raise CrammingError(f"{passage} was given no context: pass lengths that its text before it has")
        longest = context.iloc[-1]
        worth = context.loc[context["gain_bits"] >= mem, "context_tokens"].min()
        rows.append((source, passage, mem, longest["gain_bits"], longest["context_tokens"], worth))
    columns = ["source", "passage", "mem_bits", "context_bits", "context_tokens", "worth"]
    return pd.DataFrame(rows, columns=columns).astype({"worth": float})


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


def context_table(gains: pd.DataFrame) -> pd.DataFrame:
    """`context_summary` as a page shows it: true context of every length, the rest with the shortest and longest."""
    summary = context_summary(gains).reset_index()
    lengths = summary.loc[summary["what"] == "context", "context_tokens"]
    shown = summary[summary["context_tokens"].isin([0, lengths.min(), lengths.max()]) | (summary["what"] == "context")]
    rows = {
        (CONTEXTS[row.what], f"{row.context_tokens}" if row.context_tokens else ""): {
            "passages": row.n,
            "gain, bits": words.spread(row.gain_mean, row.gain_sd, 0),
            "gain, bits a token": words.spread(row.mean, row.sd, 2),
            "of all bits": f"{row.removed:.0%}",
            "tokens right, %": words.spread(row.right_mean * 100, row.right_sd * 100, 0),
        }
        for row in shown.itertuples()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.rename_axis(["in front of the passage", "tokens of text before"])


def context_by_surprise(tokens: pd.DataFrame) -> pd.DataFrame:
    """Which tokens context, a copy and mem tell of: tokens sorted by what they cost with nothing in front.

    Args:
        tokens: From `cramming.studies.context.told`; of context only the longest of each passage is used.

    Returns:
        One row a class of bits without: tokens (count), bits without, and the mean gain in bits from the longest
        context, the copy and mem.
    """
    context = tokens[tokens["what"] == "context"]
    longest = context[context["context_tokens"] == context.groupby("passage")["context_tokens"].transform("max")]
    some = pd.concat([tokens[tokens["what"].isin(["nothing", "mem", "copy"])], longest])
    bits = some.pivot_table("nats", ["passage", "position"], "what").map(nats_to_bits)
    alone = bits["nothing"]
    classes = pd.cut(alone, words.SURPRISE, labels=SURPRISE_LABELS, right=False).rename("bits without")
    frame = bits.rsub(alone, axis=0).assign(nothing=alone).groupby(classes, observed=True)
    shown = frame.mean().map("{:.2f}".format)[["nothing", "context", "copy", "mem"]]
    shown.columns = ["mean bits without", *(f"gain from {CONTEXTS[what]}" for what in ("context", "copy", "mem"))]
    shown.insert(0, "tokens", frame.size())
    return shown


@styled
def gains_figure(gains: pd.DataFrame) -> Figure:
    """Bits a token gained, and tokens right, against tokens of true context; mem and a copy as level lines.

    Bold lines: means over passages, with a band of one standard error. Thin ones: single passages, for context alone
    and for mem alone (marks at the edge).

    Args:
        gains: From `cramming.studies.context.gains`.
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
            axis.plot(mean.index, mean, style, color=colour, marker=marker, linewidth=2.2, label=CONTEXTS[what])
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


def show_gains_table(page: Page) -> Exhibit:
    """How much each condition tells."""
    runs, removed = page.results, page.removed
    copies = page.gains[page.gains["what"] == "copy"]
    scored = copies["length"] - 1
    counted = ", ".join(f"{n} {source}" for source, n in runs["source"].value_counts().items())
    caption = (
        f"**The vector takes away {removed['mem']} of the bits of what it holds, a copy of the passage "
        f"{removed['copy']}, the {page.reach[1]} tokens of true text before it {removed['context']}.** What stands in "
        "front of the passage, and what that takes off its cross-entropy; *of all bits* is a share of sums, the "
        "others are means over passages ± sample standard deviation, each passage counted alike. Tokens right: "
        f"argmax, given the true tokens before. By copying, {(copies['right'] * scored).sum():.0f} of {scored.sum()} "
        f"tokens are right. Another passage is the next of the same source where there is one. {page.setting}; exact "
        f"horizons of {runs['length'].min()} to {runs['length'].max()} tokens, {counted}, within "
        f"{words.budgets(runs)} a passage; token 0 left out. {words.cost(runs)}."
    )
    return Exhibit(caption, context_table(page.gains))


def show_gains_figure(page: Page) -> Exhibit:
    """The same, against tokens of context."""
    shortest, longest = page.reach
    few, many, other = (
        page.condition(what, n)["mean"]
        for what, n in (("context", shortest), ("context", longest), ("other context", longest))
    )
    caption = (
        f"**Mem gains {page.condition('mem')['mean']:.2f} bits a token; context gains {few:.2f} with "
        f"{_tokens(shortest)} and {many:.2f} with {longest}, and {other:.2f} if it is that of another passage.** "
        "Left: bits a token gained over the passage alone, against tokens of text before it; mem alone and the copy "
        "have no such text and are drawn level. Right: tokens right, the grey line with nothing in front. Bold lines: "
        "means; bands: one standard error over passages. Thin lines and the short strokes at the edge: single "
        f"passages with context and with mem. {page.setting}; n = {len(page.worth)}."
    )
    return Exhibit(caption, gains_figure(page.gains))


def show_worth(page: Page) -> Exhibit:
    """How much context tells as much as the vector."""
    n, enough = len(page.worth), page.worth["worth"].dropna()
    share = page.worth["context_bits"] / page.worth["mem_bits"]
    others = f" For the others {enough.min():.0f} to {enough.max():.0f} tokens do." if len(enough) else ""
    return Exhibit(
        f"How much context buys as much as the vector? For {n - len(enough)} of {n} passages none that was tried: up "
        f"to {page.reach[1]} tokens never tell as much.{others} The longest context gains {share.mean():.0%} of what "
        f"the vector does, mean over passages ({share.min():.0%} to {share.max():.0%}). How much more context it "
        "would take was not tried, and the curve does not say."
    )


def show_both(page: Page) -> Exhibit:
    """What vector and context tell together."""
    mem, other = page.condition("mem"), page.condition("other mem")
    text = f"Mem alone gains {mem['mean']:.2f} bits a token and has {mem['right_mean']:.0%} of tokens right."
    for n in sorted(set(page.reach)):
        alone, after, ahead = (page.condition(what, n) for what in ("context", "context, mem", "mem, context"))
        text += (
            f" With {_tokens(n)} of context before it, vector and context together gain {after['mean']:.2f} bits a "
            f"token and have {after['right_mean']:.0%} of tokens right; that is {after['mean'] - alone['mean']:.2f} "
            f"bits more than the context alone and {mem['mean'] - after['mean']:.2f} fewer than the vector alone. "
            f"With the same text between vector and passage they gain {ahead['mean']:.2f} bits and have "
            f"{ahead['right_mean']:.0%} right."
        )
    return Exhibit(
        f"{text} The vector of another passage gains {other['mean']:.2f} bits a token; below 0 it misleads."
    )


def show_surprise(page: Page) -> Exhibit:
    """Which tokens each condition tells of."""
    caption = (
        "**Gain in bits, by what a token costs with nothing in front.** Means over the tokens of all passages; "
        f"context: {page.reach[1]} tokens. Tokens were put into classes by their cost, so cheap ones have little to "
        f"gain, and dear ones tend to gain from anything: compare along rows. {page.setting}; n = {len(page.worth)} "
        "passages, token 0 left out."
    )
    return Exhibit(caption, context_by_surprise(page.tokens))


def glue_numbers(page: Page) -> None:
    """The numbers that other pages quote."""
    glue(**{f"{what}_removed": share for what, share in page.removed.items()}, n_context=f"{len(page.worth)}")


def _tokens(n: int) -> str:
    return f"{n} token{'s' if n > 1 else ''}"

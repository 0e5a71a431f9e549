"""What mem is good for besides saying its text: going on from it, naming its words, saying it from the middle."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from wordfreq import zipf_frequency

from cramming import metrics
from cramming.decode import generated, nats_and_gaps
from cramming.errors import CrammingError
from cramming.models import FrozenLM
from cramming.results.plans import offered
from cramming.results.rows import crammed
from cramming.sphere import noise_like
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit, Fold, glue
from cramming.studies._page import Page as AnyPage
from cramming.texts import Passage, from_tokens, other_of

FRONTS = {
    "nothing": "nothing",
    "text": "the text",
    "mem": "mem",
    "mem, room": "mem, with room",
    "random": "a random vector",
    "other mem": "mem of another passage",
    "mem, text": "mem, then the text",
    "random, text": "a random vector, then the text",
}
# Fronts whose costs are compared, each with the one that it is set against.
AGAINST = (
    ("mem", "nothing"),
    ("random", "nothing"),
    ("mem", "random"),
    ("mem", "other mem"),
    ("mem, room", "mem"),
    ("mem, text", "text"),
    ("random, text", "text"),
    ("mem, text", "random, text"),
)
BEHIND = ("text", "mem, text", "random, text")  # fronts that the model writes behind
WRITERS = {**FRONTS, "truth": "nobody: the true continuation"}
PROMPT = "\n\nThe text above mentions the word"
ASKED = ("nothing", "text", "mem", "random", "other mem", "mem, text")  # fronts that the prompt is put behind
COMMON = 5.0  # words this frequent (Zipf scale: 10 to the power of this in a billion words) say nothing of a text
ROWS = 512  # positions that go through the network together
NGRAM = 4


class Page(AnyPage):
    """The first passages of each source; the notebook's parameter cell says what the parameters are."""

    def __init__(self, scale: str, n: int, following: int, writes: int, left: Sequence[int], every: int) -> None:
        super().__init__("steering", scale)
        self.following, self.writes, self.left, self.every = following, writes, left, every
        order = [passage.id for part in self.plan.on(self.lm.name) for passage in offered(part, self.lm)]
        # Two tokens must be held, and two must follow what the run saw.
        seen = self.results["trace_length"].map(max)
        enough = self.results[(self.results["length"] >= 2) & (seen + 2 <= self.results["offered"])]
        self.runs = enough.sort_values("passage", key=lambda ids: ids.map(order.index)).groupby("source").head(n)
        self.prose = self.runs[self.runs["source"] != "random"]

    @cached_property
    def continued(self) -> pd.DataFrame:
        """From `continued`, of all passages."""
        texts, rests = split(self.runs, self.lm, self.following)
        return continued(self.lm, fronts(self.lm, self.mems(self.runs), texts), rests)

    @cached_property
    def in_prose(self) -> pd.DataFrame:
        """Of `continued` the passages in prose."""
        return self.continued[self.continued["source"] != "random"]

    def mems(self, runs: pd.DataFrame) -> list[torch.Tensor]:
        """The vectors of runs, each (k, d)."""
        return [self.vectors[key] for key in runs["key"]]

    @cached_property
    def held(self) -> list[Passage]:
        """The exact prefixes in prose."""
        return crammed(self.prose, self.lm)

    @cached_property
    def fronts(self) -> list[dict[str, Front]]:
        """From `fronts`, of the exact prefixes."""
        return fronts(self.lm, self.mems(self.prose), self.held)

    @cached_property
    def wrote(self) -> pd.DataFrame:
        """From `written`, behind the exact prefixes."""
        truth = [
            from_tokens(run.passage, run.source, run.token_ids[run.length :].tolist(), self.lm.tokenizer)
            for run in self.prose.itertuples()
        ]
        return written(self.lm, self.fronts, self.held, truth, n_tokens=self.writes)

    @cached_property
    def middle(self) -> pd.DataFrame:
        """From `from_the_middle`, of the exact prefixes."""
        return from_the_middle(self.lm, self.mems(self.prose), self.held, self.left, step=self.every)


class Front(NamedTuple):
    """What stands in front: embeddings (n, d), and the position that the next token is told it has."""

    embeds: torch.Tensor
    next: int


def split(results: pd.DataFrame, lm: FrozenLM, tokens: int = 64) -> tuple[list[Passage], list[Passage]]:
    """The text that each run saw, and what follows it.

    While a vector is optimised some tokens past the exact prefix are in the loss too. So a text is cut here behind the
    last token that any step of its run saw, and no vector has seen anything of what follows.

    Args:
        results: Rows of the store, with at least two tokens on offer behind what the run saw.
        lm: Their model.
        tokens: How many of what follows are to be scored; there is one more, given and not scored.

    Returns:
        Texts and what follows them, one each a row; the second may be shorter than asked for.

    Raises:
        CrammingError: If fewer than two tokens follow.
    """
    texts, rests = [], []
    for run in results.itertuples():
        seen = max(run.length, *run.trace_length)
        ids = run.token_ids[seen : seen + tokens + 1].tolist()
        if len(ids) < 2:
            raise CrammingError(f"{run.passage} has {len(ids)} tokens behind what its run saw: leave it out")
        texts.append(from_tokens(run.passage, run.source, run.token_ids[:seen].tolist(), lm.tokenizer))
        rests.append(from_tokens(run.passage, run.source, ids, lm.tokenizer))
    return texts, rests


def fronts(
    lm: FrozenLM, vectors: Sequence[torch.Tensor], texts: Sequence[Passage], *, seed: int = 0
) -> list[dict[str, Front]]:
    """What can stand in front of a question about a text, the text and its mem vectors among it.

    - ``nothing``, ``text``, ``mem``: as they say; ``mem, text``: the text behind its mem vectors, as after decoding.
    - ``mem, room``: mem alone, but what comes next is told the position it would have behind mem and text.
    - ``random`` and ``random, text``: a random vector as long as mem in mem's place.
    - ``other mem``: the mem vectors of another passage, of the same source if there is one; of one passage, left out.

    Args:
        lm: The frozen model.
        vectors: Mem vectors of each text, shape (k, d).
        texts: As many.
        seed: Of the random vectors.

    Returns:
        For each text the fronts, by name.

    Raises:
        CrammingError: If there are not as many vectors as texts, or none.
    """
    if not len(vectors) == len(texts) > 0:
        raise CrammingError(f"{len(vectors)} vectors and {len(texts)} texts: give as many of each, at least one")
    generator = torch.Generator().manual_seed(seed)
    mems = [mem.to(lm.device, lm.dtype) for mem in vectors]
    others, every = other_of(texts), []
    for i, (mem, passage) in enumerate(zip(mems, texts, strict=True)):
        text = _embed(lm, passage.token_ids)
        noise = noise_like(mem, generator)
        places = {"nothing": text[:0], "text": text, "mem": mem, "mem, text": torch.cat([mem, text])}
        places |= {"random": noise, "random, text": torch.cat([noise, text])}
        if i in others:
            places["other mem"] = mems[others[i]]
        named = {what: Front(embeds, len(embeds)) for what, embeds in places.items()}
        every.append(named | {"mem, room": Front(mem, len(mem) + len(text))})
    return every


@torch.no_grad()
def continued(lm: FrozenLM, fronts: Sequence[Mapping[str, Front]], rests: Sequence[Passage]) -> pd.DataFrame:
    """Cross-entropy of the true continuation of each text, by what stands in front of it.

    The first token of the continuation is given: with nothing before it the model says nothing of it.

    Args:
        lm: The frozen model.
        fronts: From `fronts`.
        rests: What follows each text, from `split`.

    Returns:
        One row a text, front and token: source, passage, what, position (1 is the second token behind the text), bits.
    """
    parts = []
    for named, rest in zip(fronts, rests, strict=True):
        rows = [_behind(lm, front, rest.token_ids[:-1]) for front in named.values()]
        for what, (nats, _) in zip(named, _scored(lm, rows, [rest.token_ids[1:]] * len(rows)), strict=True):
            columns = {"source": rest.source, "passage": rest.id, "what": what, "position": range(1, len(rest))}
            parts.append(pd.DataFrame({**columns, "bits": _bits(nats)}))
    return pd.concat(parts, ignore_index=True)


@torch.no_grad()
def written(
    lm: FrozenLM,
    fronts: Sequence[Mapping[str, Front]],
    texts: Sequence[Passage],
    truth: Sequence[Passage],
    *,
    n_tokens: int = 48,
) -> pd.DataFrame:
    """What the model writes behind each text, greedily, with and without mem before the text.

    Args:
        lm: A model with attention.
        fronts: From `fronts`, of the same texts.
        texts: Such as exact prefixes: then ``mem, text`` is what free decoding from mem alone goes on to.
        truth: What follows each text in truth, as long as n_tokens or shorter.
        n_tokens: How many to write.

    Returns:
        One row a text and writer (`BEHIND`, and ``truth`` for the true continuation): source, passage, writer, wrote
        (text), bits (mean cross-entropy a token under the frozen model, given the text and no mem), same (share of
        tokens that are those written behind the text alone), until (tokens before the first that is not), repeated
        (share of runs of four tokens that had been written before), copied (longest run of tokens that stands in the
        text).

    Raises:
        CrammingError: If the model has no attention.
    """
    _needs_attention(lm)
    ids = iter(_greedy(lm, [named[writer] for named in fronts for writer in BEHIND], n_tokens).tolist())
    rows = []
    for named, text, rest in zip(fronts, texts, truth, strict=True):
        of = {writer: next(ids) for writer in BEHIND}
        plain = np.array(of["text"])
        of["truth"] = list(rest.token_ids[:n_tokens])
        scored = _scored(lm, [_behind(lm, named["text"], tokens[:-1]) for tokens in of.values()], list(of.values()))
        for (writer, tokens), (nats, _) in zip(of.items(), scored, strict=True):
            agrees = np.array(tokens) == plain[: len(tokens)]
            rows.append(
                {
                    "source": text.source,
                    "passage": text.id,
                    "writer": writer,
                    "wrote": from_tokens(text.id, text.source, tokens, lm.tokenizer).text,
                    "bits": metrics.nats_to_bits(float(nats.mean())),
                    "same": agrees.mean(),
                    "until": agrees.cumprod().sum(),
                    "repeated": _repeated(tokens),
                    "copied": _longest_copy(tokens, text.token_ids),
                }
            )
    return pd.DataFrame(rows)


def word_pairs(texts: Sequence[Passage], tokenizer: Any) -> pd.DataFrame:
    """Rare words of each text, each paired with one that it lacks, of another text of the same source.

    A word is a run of four letters or more, less frequent than `COMMON`, and not cut off by the end of the text. Its
    partner has as many tokens and the frequency nearest to it, is capitalised alike, and is used once a text. Words
    without a partner are left out.

    Returns:
        One row a pair: source, passage, word, other.
    """
    rare = {text.id: _words(text.text) for text in texts}
    size = {word: len(_ids(tokenizer, f" {word}")) for some in rare.values() for word in some}
    zipf = {word: zipf_frequency(word, "en") for word in size}
    rows = []
    for text in texts:
        theirs = {
            word: None
            for other in texts
            if other.source == text.source and other.id != text.id
            for word in rare[other.id]
            if word.lower() not in text.text.lower()
        }
        for word in rare[text.id]:
            fit = [w for w in theirs if size[w] == size[word] and w[0].isupper() == word[0].isupper()]
            if fit:
                other = min(fit, key=lambda w: (abs(zipf[w] - zipf[word]), w))
                del theirs[other]
                rows.append((text.source, text.id, word, other))
    return pd.DataFrame(rows, columns=["source", "passage", "word", "other"])


@torch.no_grad()
def cloze(
    lm: FrozenLM,
    fronts: Sequence[Mapping[str, Front]],
    texts: Sequence[Passage],
    pairs: pd.DataFrame,
    *,
    prompt: str = PROMPT,
) -> pd.DataFrame:
    """Whether the model, asked for a word of the text, finds the true one likelier than one of another text.

    Args:
        lm: A model with attention.
        fronts: From `fronts`; the prompt follows those named in `ASKED`.
        texts: The same texts.
        pairs: From `word_pairs`.
        prompt: What the word follows, after a blank.

    Returns:
        One row a pair and front: source, passage, word, other, what, bits (by how much the true word is likelier).

    Raises:
        CrammingError: If the model has no attention.
    """
    _needs_attention(lm)
    parts, asked = [], _ids(lm.tokenizer, prompt)
    for named, text in zip(fronts, texts, strict=True):
        mine = pairs[pairs["passage"] == text.id]
        both = [_ids(lm.tokenizer, f" {word}") for word in [*mine["word"], *mine["other"]]]
        for what in [what for what in ASKED if both and what in named]:
            nats = _of_words(lm, named[what], asked, both)
            parts.append(mine.assign(what=what, bits=_bits(nats[len(mine) :] - nats[: len(mine)])))
    return pd.concat(parts or [pairs.assign(what="", bits=0.0)], ignore_index=True)


@torch.no_grad()
def from_the_middle(
    lm: FrozenLM,
    vectors: Sequence[torch.Tensor],
    texts: Sequence[Passage],
    lengths: Sequence[int] = (1, 2, 4, 8, 16),
    *,
    step: int = 4,
) -> pd.DataFrame:
    """Whether mem tells a token of its text's second half, given only a few true tokens before that one.

    - ``mem``: those few tokens right behind mem.
    - ``mem, room``: the same, but told the positions that they have in the text; not where all of it is seen.
    - ``nothing``: those few tokens alone.

    Args:
        lm: The frozen model.
        vectors: Mem vectors of each text, shape (k, d), k the same for all.
        texts: What the vectors hold.
        lengths: How many tokens before it; those that do not fit between the first token and it are left out.
        step: One in so many tokens of the second half is asked for.

    Returns:
        One row a text, condition, length and token: source, passage, what, left (tokens; inf for the whole text before
        it), position (in the text, from 0), bits, right (whether it is the argmax).
    """
    mems = [mem.to(lm.device, lm.dtype) for mem in vectors]
    halves = [max(1, (len(text) + 1) // 2) for text in texts]
    parts = []
    for left in (*lengths, None):
        # Each span: which text, from where it is seen, and the first and last token asked for.
        if left is None:
            spans = [(i, 0, half, len(text) - 1) for i, (text, half) in enumerate(zip(texts, halves, strict=True))]
        else:
            asked = [(i, at) for i, text in enumerate(texts) for at in range(halves[i], len(text), step)]
            spans = [(i, at - left, at, at) for i, at in asked if left < at]
        for what in ("nothing", "mem") if left is None else ("nothing", "mem", "mem, room"):
            rows = []
            for i, start, _, last in spans:
                front = mems[i][:0] if what == "nothing" else mems[i]
                place = len(front) + (start if what == "mem, room" else 0)
                rows.append(_behind(lm, Front(front, place), texts[i].token_ids[start:last]))
            scored = _scored(lm, rows, [texts[i].token_ids[first : last + 1] for i, _, first, last in spans])
            for (i, _, first, last), (nats, gaps) in zip(spans, scored, strict=True):
                columns = {"source": texts[i].source, "passage": texts[i].id, "what": what, "left": left or np.inf}
                values = {"position": range(first, last + 1, step), "bits": _bits(nats[::step])}
                parts.append(pd.DataFrame({**columns, **values, "right": gaps[::step] > 0}))
    return pd.concat(parts, ignore_index=True)


def continued_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """What stands in front of true continuations and what it takes off their cross-entropy, one row a condition.

    Args:
        frame: From `continued`, of all texts or some.

    Returns:
        Index what (`FRONTS`); columns n (passages), bits (a token, each passage counted alike), saved (bits a token
        fewer than with nothing in front), low, high, share (saved over what the text itself saves, of sums), share_low
        and share_high. Intervals: 95 %, drawing passages anew.
    """
    each = frame.pivot_table("bits", "passage", "what")
    saved = each.rsub(each["nothing"], axis=0)
    text, rows = saved["text"].to_numpy(), {}
    for what in [what for what in FRONTS if what in each]:
        mine = saved[what].to_numpy()
        low, high = metrics.bootstrap_ci(mine)
        with np.errstate(divide="ignore", invalid="ignore"):  # where the text saves nothing there is no share
            share = mine.sum() / text.sum()
        share_low, share_high = words.ratio_interval(mine, text)
        columns = {"n": len(mine), "bits": each[what].mean(), "saved": mine.mean(), "low": low, "high": high}
        rows[what] = {**columns, "share": share, "share_low": share_low, "share_high": share_high}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")


def cloze_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """How often a text's word was likelier than one it lacks, one row a condition, each passage counted alike.

    Args:
        frame: From `cloze`.

    Returns:
        Index what (`FRONTS`); columns n (passages), pairs, right (share of pairs, chance is a half), low, high, bits
        (by how much the true word was likelier), bits_low, bits_high. Intervals: 95 %, drawing passages anew.
    """
    rows = {}
    for what in [what for what in FRONTS if (frame["what"] == what).any()]:
        some = frame[frame["what"] == what]
        right = (some["bits"] > 0).groupby(some["passage"]).mean()
        bits = some.groupby("passage")["bits"].mean()
        (low, high), (bits_low, bits_high) = metrics.bootstrap_ci(right), metrics.bootstrap_ci(bits)
        columns = {"n": len(right), "pairs": len(some), "right": right.mean(), "low": low, "high": high}
        rows[what] = {**columns, "bits": bits.mean(), "bits_low": bits_low, "bits_high": bits_high}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what")


def middle_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Tokens right by what stands in front and how many true tokens are seen, each passage counted alike.

    Args:
        frame: From `from_the_middle`.

    Returns:
        Indexed by what and left (tokens; inf for the whole text before): n (passages), right (share of tokens), low
        and high (95 % interval, drawing passages anew), sem, bits (a token), bits_sem.
    """
    rows = {}
    for key, some in frame.groupby(["what", "left"], sort=False):
        each = some.groupby("passage")[["right", "bits"]].mean()
        low, high = metrics.bootstrap_ci(each["right"])
        columns = {"n": len(each), "right": each["right"].mean(), "low": low, "high": high}
        errors = {"sem": each["right"].sem(), "bits": each["bits"].mean(), "bits_sem": each["bits"].sem()}
        rows[key] = columns | errors
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["what", "left"])


def paired(
    frame: pd.DataFrame, one: str, other: str, value: str = "bits", by: str = "what"
) -> tuple[float, float, float]:
    """By how much one condition is above another, passage by passage: mean, and its 95 % bootstrap interval.

    Args:
        frame: One row or several a passage and condition; several are averaged.
        one: A condition.
        other: Another one.
        value: Which column is compared.
        by: Which column names the condition.
    """
    each = frame.pivot_table(value, "passage", by)
    difference = (each[one] - each[other]).dropna()
    return float(difference.mean()), *metrics.bootstrap_ci(difference)


def _needs_attention(lm: FrozenLM) -> None:
    """Several sequences go on from one state here, and padded ones side by side: a recurrent state allows neither."""
    if not lm.attends:
        raise CrammingError(f"{lm.name} has no attention: take a model of another architecture than Mamba")


def _behind(lm: FrozenLM, front: Front, token_ids: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    """Embeddings (T, d) of a front and the tokens behind it, and their T places."""
    places = [*range(len(front.embeds)), *range(front.next, front.next + len(token_ids))]
    return torch.cat([front.embeds, _embed(lm, token_ids)]), places


def _scored(
    lm: FrozenLM, rows: Sequence[tuple[torch.Tensor, list[int]]], tokens: Sequence[Sequence[int]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Nats and gaps, (m,) each, of m tokens behind each row; the last position of the row foretells the last of them.

    Rows are embeddings (T, d) and places, from `_behind`. Those of one shape go through the network together.
    """
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, (embeds, _) in enumerate(rows):
        shapes.setdefault((len(embeds), len(tokens[i])), []).append(i)
    results: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for (length, m), members in shapes.items():
        size = max(1, ROWS // length)
        for some in (members[at : at + size] for at in range(0, len(members), size)):
            embeds = torch.stack([rows[i][0] for i in some])
            # Without a mask, a gap in the places is taken for the border of two packed texts, and mem is not seen.
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=lm.device)
            places = torch.tensor([rows[i][1] for i in some], device=lm.device)
            logits = lm.model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=m
            ).logits.float()
            nats, gaps = nats_and_gaps(logits, torch.tensor([tokens[i] for i in some], device=lm.device))
            results.update(zip(some, zip(nats.cpu().numpy(), gaps.cpu().numpy(), strict=True), strict=True))
    return [results[i] for i in range(len(rows))]


def _of_words(lm: FrozenLM, front: Front, prompt: Sequence[int], choices: Sequence[Sequence[int]]) -> np.ndarray:
    """Nats of each word, summed over its tokens, behind a front and a prompt: (n,)."""
    embeds, _ = _behind(lm, front, prompt)
    out = lm.model(inputs_embeds=embeds[None], use_cache=True, logits_to_keep=1)
    lengths = torch.tensor([[len(word)] for word in choices], device=lm.device)
    longest = int(lengths.max())
    logits = out.logits.expand(len(choices), -1, -1)
    # Each word goes on from the same state; what pads a short one comes after it and is not scored.
    padded = torch.tensor([[*word, *[word[-1]] * (longest - len(word))] for word in choices], device=lm.device)
    if longest > 1:
        out.past_key_values.batch_repeat_interleave(len(choices))
        fed = lm.model.get_input_embeddings()(padded[:, :-1])
        more = lm.model(inputs_embeds=fed, past_key_values=out.past_key_values).logits
        logits = torch.cat([logits, more], dim=1)
    nats, _ = nats_and_gaps(logits.float(), padded)
    return (nats * (torch.arange(longest, device=lm.device) < lengths)).sum(1).cpu().numpy()


def _greedy(lm: FrozenLM, fronts: Sequence[Front], n_tokens: int) -> torch.Tensor:
    """What the model writes behind each front, all at once: tokens (B, n_tokens), the argmax of each step."""
    longest = max(len(front.embeds) for front in fronts)
    inputs = torch.stack([torch.nn.functional.pad(f.embeds, (0, 0, longest - len(f.embeds), 0)) for f in fronts])
    lengths = torch.tensor([[len(front.embeds)] for front in fronts], device=lm.device)
    # Padding stands on the left and is masked, so that all write at the same place.
    mask = (torch.arange(longest, device=lm.device) >= longest - lengths).long()
    places = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    steps = generated(lm, {"inputs_embeds": inputs, **places, "use_cache": True, "logits_to_keep": 1}, n_tokens)
    return torch.stack([logits.argmax(1) for logits in steps], dim=1)


def _repeated(tokens: Sequence[int]) -> float:
    """Share of the runs of `NGRAM` tokens that had occurred before; nan if there are none."""
    runs = [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else np.nan


def _longest_copy(tokens: Sequence[int], text: Sequence[int]) -> int:
    """Length of the longest run of tokens that stands in the text."""
    ends, longest = dict[int, int](), 0
    for token in tokens:
        ends = {j: ends.get(j - 1, 0) + 1 for j, other in enumerate(text) if other == token}
        longest = max(longest, *ends.values(), 0)
    return longest


def _words(text: str) -> list[str]:
    """Rare words of a text in order, each once, as it is first written; without one that the end may have cut off."""
    found: dict[str, str] = {}
    for match in re.finditer(r"(?<![A-Za-z'’-])[A-Za-z]{4,}(?=[^A-Za-z])", text):
        if zipf_frequency(match[0], "en") < COMMON:
            found.setdefault(match[0].lower(), match[0])
    return list(found.values())


def _bits(nats: np.ndarray) -> np.ndarray:
    return nats * metrics.nats_to_bits(1)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _embed(lm: FrozenLM, token_ids: Sequence[int]) -> torch.Tensor:
    """Embeddings (n, d) of tokens, none too."""
    return lm.model.get_input_embeddings()(torch.tensor(token_ids, dtype=torch.long, device=lm.device))


def compared_table(frame: pd.DataFrame) -> pd.DataFrame:
    """What a token of the true continuation costs behind one front more than behind another, and what that says.

    Args:
        frame: From `continued`.
    """
    there, rows = set(frame["what"]), {}
    for one, other in [pair for pair in AGAINST if there.issuperset(pair)]:  # of a single passage there is no other
        mean, low, high = paired(frame, one, other)
        rows[f"{FRONTS[one]}, against {FRONTS[other]}"] = {
            "difference, bits a token": words.interval(mean, low, high, 2),
            "the first is": decided(low, high, "dearer", "cheaper"),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("in front")


def decided(low: float, high: float, above: str, below: str, neither: str = "undecided") -> str:
    """What the interval of a difference says: one or the other, or neither where it includes 0."""
    return above if low > 0 else below if high < 0 else neither


def continued_table(frame: pd.DataFrame) -> pd.DataFrame:
    """What a token of the true continuation costs more than with nothing in front: one row a front, one column a text.

    Args:
        frame: From `continued`.
    """
    columns = {}
    for source, some in frame.groupby("source", sort=False):
        over = {what: paired(some, what, "nothing") for what in FRONTS if what in set(some["what"]) - {"nothing"}}
        name = f"{source} (n = {some['passage'].nunique()})"
        columns[name] = {FRONTS[what]: words.interval(*difference, 2) for what, difference in over.items()}
    return pd.DataFrame(columns).fillna("").rename_axis("in front")


def written_table(frame: pd.DataFrame) -> pd.DataFrame:
    """What the model wrote behind its texts, summed up: means over passages with 95 % bootstrap intervals.

    Args:
        frame: From `written`.
    """
    rows = {}
    for writer, some in frame.groupby("writer", sort=False):
        rows[WRITERS[str(writer)]] = {
            "as behind the text": words.share_mean(some["same"]),
            "bits a token, given the text": words.mean(some["bits"], 2),
            "tokens until the first other": f"{some['until'].mean():.1f}",
            "written before": words.share_mean(some["repeated"].dropna()),
            "longest run from the text, tokens": words.mean(some["copied"], 1),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("behind")


def written_examples(frame: pd.DataFrame, passages: Collection[str]) -> pd.DataFrame:
    """What the model wrote behind some of the texts, with line breaks spelled out.

    Args:
        frame: From `written`.
        passages: Which.
    """
    some = frame[frame["passage"].isin(passages)]
    shown = some.assign(behind=some["writer"].map(WRITERS), wrote=some["wrote"].map(_on_one_line))
    return shown.set_index(["passage", "behind"])[["wrote"]]


def _on_one_line(text: str) -> str:
    """Text with marks where it would break off: ⏎ for a line's end, an open box for a space at either end."""
    inside = text.strip(" ")
    before, after = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" ")) if inside else 0
    return "␣" * before + " ".join(inside.replace("\n", " ⏎ ").split()) + "␣" * after


def cloze_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`cloze_summary` as a page shows it, and by how many points each front is above nothing."""
    right = frame.assign(right=frame["bits"] > 0)
    rows = {
        FRONTS[str(r.Index)]: {
            "true word likelier": words.percent(r.right, r.low, r.high),
            "over nothing, points": _told(right, str(r.Index), "nothing", "right") if r.Index != "nothing" else "",
            "likelier by, bits": words.interval(r.bits, r.bits_low, r.bits_high, 2),
        }
        for r in cloze_summary(frame).itertuples()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("in front of the question")


def middle_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Tokens right of `middle_summary` as a page shows them, one column a number of tokens seen."""
    summary = middle_summary(frame)
    rows: dict[str, dict[str, str]] = {
        FRONTS[what]: {} for what in ("mem", "mem, room", "nothing") if what in summary.index
    }
    for (what, left), r in summary.iterrows():
        rows[FRONTS[what]][seen(left)] = words.percent(r["right"], r["low"], r["high"])
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("in front")


def seen(left: float) -> str:
    """How many tokens are seen, in a word: a number, or ``all``."""
    return "all" if left == np.inf else f"{left:.0f}"


@styled
def continued_figure(frame: pd.DataFrame, width: int = 8) -> Figure:
    """Bits a token of the true continuation against the place in it, by what stands in front, with and without text.

    Args:
        frame: From `continued`.
        width: Tokens averaged in one mark.
    """
    styles = {
        "nothing": ("#777777", ":", ""),
        "text": (COLOURS[1], "-", "o"),
        "mem": (COLOURS[0], "-", "s"),
        "mem, room": (COLOURS[0], "--", "D"),
        "random": (COLOURS[2], "-.", "^"),
        "other mem": (COLOURS[3], "-.", "v"),
    }
    panels = {
        "Alone": ("nothing", "text", "mem", "mem, room", "random", "other mem"),
        "Mem or a random vector, then the text": ("nothing", "text", "mem, text", "random, text"),
    }
    middle = (frame["position"] - 1) // width * width + (width + 1) / 2
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7.6), sharex=True, sharey=True)
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for i, what in enumerate(names):
            some = frame[frame["what"] == what]
            if some.empty:  # of a single passage there is no other
                continue
            colour, style, marker = styles[what.removesuffix(", text")]
            means = some.groupby(["passage", middle.rename("middle")])["bits"].mean().groupby("middle")
            beside = means.mean().index + (i - len(names) / 2) * width / 13  # so that bars can be told apart
            axis.errorbar(beside, means.mean(), yerr=means.sem().fillna(0), fmt=marker, linestyle=style,
                          color=colour, markersize=5, capsize=2, label=FRONTS[what])  # fmt: skip
        axis.set(ylabel="bits a token", ylim=(0, None), title=title)
    axes[1].set(xlabel="tokens into the continuation")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@styled
def from_the_middle_figure(frame: pd.DataFrame) -> Figure:
    """Tokens right, and bits a token, against how many true tokens are seen, with mem and without.

    Args:
        frame: From `from_the_middle`.
    """
    summary = middle_summary(frame)
    lefts = sorted(summary.index.unique("left"))
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 6.4), sharex=True)
    for axis, column, error, factor in ((axes[0], "right", "sem", 100), (axes[1], "bits", "bits_sem", 1)):
        for what, colour, style, marker, beside in (
            ("mem", COLOURS[0], "-", "s", 0),
            ("mem, room", COLOURS[1], "--", "o", 0.07),
            ("nothing", COLOURS[3], ":", "^", -0.07),
        ):
            if what not in summary.index:
                continue
            some = summary.loc[what]
            places = [lefts.index(left) + beside for left in some.index]
            axis.errorbar(places, some[column] * factor, yerr=some[error].fillna(0) * factor, fmt=marker,
                          linestyle=style, color=colour, capsize=2, label=FRONTS[what])  # fmt: skip
    axes[0].set(ylabel="tokens right, %", ylim=(-3, 103))
    axes[1].set(ylabel="bits a token", ylim=(0, None), xlabel="true tokens seen before the one asked for",
                xticks=range(len(lefts)), xticklabels=[seen(left) for left in lefts])  # fmt: skip
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _told(frame: pd.DataFrame, one: str, other: str, value: str = "bits", by: str = "what") -> str:
    """`paired` in words, in bits or points of a hundred, with a remark where it does not decide."""
    mean, low, high = (part * (100 if value == "right" else 1) for part in paired(frame, one, other, value, by))
    said = words.interval(mean, low, high, 0 if value == "right" else 2)
    return said.removesuffix(")") + decided(low, high, ")", ")", ", undecided)")


def show_answer(page: Page) -> Answer:
    """What a vector costs in its text's place, and whether more or less than one that holds nothing."""
    mem, text = (paired(page.in_prose, one, "nothing") for one in ("mem", "text"))
    own = paired(page.in_prose, "mem", "random")
    says = decided(*mem[1:], "No", "In part", "That is not shown")
    content = decided(
        *own[1:],
        "so holding the text makes it worse than holding nothing",
        "so holding the text makes it better than holding nothing",
        "which includes 0, so whether it matters here what the vector holds is open",
    )
    return Answer(
        page.setting,
        "Can a vector take the place of its text?",
        f"{says}: in its text's place it changes the cost of a token of what follows by "
        f"**{words.interval(*mem, 2)} bits**, the text itself by {words.interval(*text, 2)}; own minus random vector "
        f"is {words.interval(*own, 2)}, {content}.",
        rests=f"Means and 95 % intervals over {words.counted(page.prose)} passages, exact horizons of "
        f"{words.range(page.prose['length'])} tokens, {words.budgets(page.prose)} each",
        sure="open" if says == "That is not shown" else "holds here only",
        why="one small model, and vectors made only to have their text said",
    )


def show_continued(page: Page) -> Exhibit:
    """What the true continuation costs along its tokens, by what stands in front, and how the fronts differ."""
    others = [other for other in ("random", "other mem") if (page.in_prose["what"] == other).any()]
    told = [f"{_told(page.in_prose, 'mem', other)} against {FRONTS[other]}" for other in others]
    caption = (
        f"**In bits a token, mem costs {words.listed(told)}.** Undecided: the interval includes 0, so dearer and "
        f"cheaper both fit. Differences passage by passage, n = {len(page.prose)}, 95 % intervals. Figure: the true "
        "continuation, eight tokens a mark, mean ± standard error."
    )
    by_text = Fold("Cost over nothing in front, bits a token, by text", continued_table(page.continued))
    return Exhibit(caption, continued_figure(page.in_prose), compared_table(page.in_prose), by_text)


def show_written_table(page: Page) -> Exhibit:
    """What the model writes on, in numbers."""
    same = words.share_mean(page.wrote[page.wrote["writer"] == "mem, text"]["same"])
    ahead = max(0, (page.runs["trace_length"].map(max) - page.runs["length"]).max())
    caption = (
        f"**Behind mem and its text, {same} of {page.writes} tokens are as behind the text alone; they cost "
        f"{_told(page.wrote, 'mem, text', 'text', by='writer')} bits a token more.** *Written before*: share of runs "
        f"of four tokens. Up to {ahead} tokens past the horizon were in the vector's loss. n = {len(page.prose)}; "
        "95 % intervals."
    )
    return Exhibit(caption, written_table(page.wrote))


def show_written_examples(page: Page) -> Exhibit:
    """What the model writes on, of the first passage of each source."""
    from IPython.display import HTML

    few = page.prose.groupby("source").head(1)["passage"]
    with pd.option_context("display.max_colwidth", None):
        table = HTML(written_examples(page.wrote, few).to_html(notebook=True))
    return Exhibit(f"**What was written behind {len(few)} passages:** the first of each source, not chosen.", table)


def show_cloze(page: Page) -> Exhibit:
    """Whether the model, asked for a word, names that of the text."""
    asked = cloze(page.lm, page.fronts, page.held, word_pairs(page.held, page.lm.tokenizer))
    table, said = cloze_table(asked), "No pairs of words"
    if len(asked):
        right = asked.assign(right=asked["bits"] > 0)
        over = f"{_told(right, 'mem', 'nothing', 'right')} points over nothing"
        over = f"{over}, {_told(right, 'mem', 'random', 'right')} over a random vector"
        share = table.loc["mem", "true word likelier"]
        said = f"Behind mem the true word is likelier in {share} of pairs: {over}"
    caption = (
        f"**{said}.** Chance is one half; with nothing in front the words alone decide. "
        f"{asked.groupby(['passage', 'word']).ngroups} pairs in {asked['passage'].nunique()} passages, each passage "
        "counted alike; 95 % intervals."
    )
    return Exhibit(caption, table)


def show_middle(page: Page) -> Exhibit:
    """How many true tokens the model needs to go on from the middle."""
    table, few, told = middle_table(page.middle), page.middle[np.isfinite(page.middle["left"])], []
    if len(few):
        over = _told(few, "mem", "nothing", "right")
        told = [f"with {words.range(few['left'].astype(int))} seen, mem adds {over} points over nothing"]
    whole = f"{table.loc['mem', seen(np.inf)]} behind mem, {table.loc['nothing', seen(np.inf)]} behind nothing"
    caption = (
        f"**Tokens right: {'; '.join([*told, f'with all before them seen, {whole}'])}.** One token in "
        f"{page.every} of the text's second half; longer stretches only where they fit. Mean ± standard error; "
        f"brackets: 95 % intervals; n = {page.middle['passage'].nunique()}."
    )
    folded = Fold("Tokens right, by how many true tokens are seen", table)
    return Exhibit(caption, from_the_middle_figure(page.middle), folded)


def glue_numbers(page: Page) -> None:
    """Numbers that other pages quote."""
    mem = continued_summary(page.in_prose).loc["mem"]
    share = words.percent(mem["share"], mem["share_low"], mem["share_high"])
    glue(steering_share=share, n_steering=f"{len(page.prose)}")

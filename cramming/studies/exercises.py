"""Exercises for a class: what the few lines of each came to, behind a fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import eq

import pandas as pd
import torch

from cramming import metrics
from cramming.decode import Certificate, certify, greedy, without_mem
from cramming.engine import Cram
from cramming.models import FrozenLM, load
from cramming.results.rows import circumstances
from cramming.rounding import quantise
from cramming.sphere import degrees
from cramming.studies import _words as words
from cramming.studies._page import Answer, Fold
from cramming.texts import Passage, from_text

MOST_SAID = 10  # tokens of what the model says that are shown


class Solved(Fold):
    """The answer to an exercise: what is told, in Markdown without links, and a table, behind one fold."""

    def __init__(self, told: str, table: pd.DataFrame) -> None:
        super().__init__("Answer", table)
        self.told = told

    def __repr__(self) -> str:
        return f"{self.told}\n{super().__repr__()}"

    def _repr_html_(self) -> str:
        from markdown_it import MarkdownIt

        return super()._repr_html_().replace("</summary>", f"</summary>{MarkdownIt().render(self.told)}", 1)


class Page:
    """The model and the sentence that the exercises are about; see `cramming.models.load`."""

    def __init__(self, model: str, text: str) -> None:
        self.lm = load(model)
        self.sentence = from_text(text, self.lm.tokenizer)

    @cached_property
    def setting(self) -> str:
        """As of other pages, though no run of a store is shown."""
        about = {"provenance": self.lm.provenance, "n_vectors": 1, "source": "texts of this page"}
        return words.setting_line(pd.DataFrame([circumstances(self.lm) | about]))


def surprise(lm: FrozenLM, passage: Passage) -> float:
    """Bits of a text under the model alone, token 0 left out, since nothing stands before it."""
    return metrics.nats_to_bits(float(without_mem(lm, passage.token_ids)[0][1:].sum()))


def angle(mem: torch.Tensor, other: torch.Tensor) -> float:
    """Degrees between two memories of one shape."""
    cosine = torch.cosine_similarity(mem.double().flatten(), other.double().flatten(), dim=0)
    return degrees(float(cosine.clamp(-1, 1)))


def show_answer(page: Page) -> Answer:
    """What a class learns, and on what."""
    return Answer(
        page.setting,
        "What can a class find out about one vector in ninety minutes?",
        "How unlike two vectors of one sentence are, how many bits and how much noise each of them bears, what makes "
        "a text hard, and what nearly right is worth: mostly with "
        f"**{len(page.sentence)} tokens, {surprise(page.lm, page.sentence):.0f} bits of surprise, in one vector of "
        f"{page.lm.width} numbers**.",
        rests=(
            f"The sentence: “{' '.join(page.sentence.text.split())}” Bits are the model's own cross-entropy, token 0 "
            "left out. Each exercise rests on one cram or two, recipe `quick`, exercise 4 on `horizon`"
        ),
        sure="holds here only",
        why="one small model, one text or two an exercise",
    )


def show_seeds(exact: Sequence[bool], mems: Sequence[torch.Tensor], chance: torch.Tensor) -> Solved:
    """How alike two vectors of one sentence are.

    Args:
        exact: Whether each gives the sentence back.
        mems: The two, each (1, d).
        chance: Cosines of pairs of random directions, (n,).
    """
    one, two = mems
    cosine, n = float(torch.cosine_similarity(one, two)), f"{len(chance):,}"
    turned = torch.rad2deg(chance.acos())
    spreads = [
        words.spread(float(some.mean()), float(some.std()), digits) for some, digits in ((chance, 2), (turned, 0))
    ]
    table = pd.DataFrame(
        [[f"{cosine:.2f}", f"{angle(one, two):.0f}"], spreads],
        ["from two seeds", f"random (n = {n})"],
        ["cosine", "angle, degrees"],
    )
    told = (
        f"**{sum(exact)} of 2 are exact, and {angle(one, two):.0f} degrees lie between them.** Random directions in "
        f"{one.shape[1]} dimensions have a cosine of {spreads[0]} (mean ± standard deviation, n = {n}); the same "
        "vector twice has 1. Two seeds are one pair: more seeds tell more."
    )
    return Solved(told, table.rename_axis("two vectors"))


def show_bits(lm: FrozenLM, mem: torch.Tensor, found: Mapping[int, Certificate]) -> Solved:
    """At how many bits a number the text breaks, and where.

    Args:
        lm: The frozen model.
        mem: The vector, (1, d).
        found: What became of it, by bits.
    """
    rows = {}
    for bits, one in found.items():
        rounded = quantise(mem, bits)
        rows[bits] = {
            "tokens before a slip": one.agreed,
            "margin, logits": f"{one.margin:.2f}",
            "turned by, degrees": f"{angle(mem, rounded):.1f}",
            "it says": _said(lm, rounded, min(one.length, MOST_SAID)),
        }
    kept = words.listed([str(bits) for bits, one in found.items() if one.exact]) or "None of these"
    broken = next((bits for bits, one in found.items() if not one.exact), None)
    slip = f"At {broken}, token {found[broken].agreed + 1} is the first to slip. " if broken else ""
    told = (
        f"**{kept} bits a number keep all {one.length} tokens.** {slip}To round is to turn the vector "
        "a little, and some token loses to another. At a thin margin it is partly luck which way, and the other "
        "seed may break elsewhere (n = 1); exercise 5 widens the margin."
    )
    return Solved(told, pd.DataFrame.from_dict(rows, orient="index").rename_axis("bits"))


def show_hard(lm: FrozenLM, runs: Sequence[Cram]) -> Solved:
    """What a text takes, beside its tokens and its bits."""
    rows = []
    for run in runs:
        bits = surprise(lm, run.passage)
        rows.append((run.steps, run.length, f"{bits:.0f}", f"{bits / max(1, run.length - 1):.1f}"))
    columns = ["steps", "tokens", "bits", "bits a token"]
    table = pd.DataFrame(rows, [run.passage.text for run in runs], columns)
    took = words.listed(
        [f"{row.steps} steps for {row.tokens} tokens of {row.bits} bits" for row in table.itertuples()]
    )
    told = (
        f"**{took}.** A vector has to add what the model cannot foretell, and bits count that: the model's own "
        "cross-entropy, token 0 left out. One seed each, and two texts make no law."
    )
    return Solved(told, table.rename_axis("text"))


def show_forced(lm: FrozenLM, run: Cram, found: Certificate) -> Solved:
    """What a vector that is nearly right is worth, with the true tokens given and without.

    Args:
        lm: The frozen model.
        run: Its cram.
        found: Its certificate.
    """
    true, n = run.passage.token_ids, len(run.passage)
    said = greedy(lm, run.mem, n)[0].tolist()
    in_place = sum(map(eq, said, true))
    read = (_one_line(lm, ids[:MOST_SAID]) for ids in (true, said))
    rows = {
        "forced": (int(found.correct.sum()), int(found.correct.cumprod().sum()), next(read)),
        "free": (in_place, found.greedy_correct, next(read)),
    }
    columns = [f"right, of {n} tokens", "before the first slip", "it goes on from"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    slip = f"What a slip costs depends on where it stands, here at token {found.greedy_correct + 1}. "
    told = (
        f"**{found.correct.mean():.0%} of {n} tokens are right when the true ones are given, {in_place / n:.0%} "
        f"are in their place when the model goes on from its own words.** {slip if found.greedy_correct < n else ''}"
        f"This is one vector of one text, after {run.steps} steps."
    )
    return Solved(told, table.rename_axis("decoding"))


def show_noise(
    lm: FrozenLM,
    passage: Passage,
    mems: Sequence[torch.Tensor],
    noise: torch.Tensor,
    kept: Mapping[float, Sequence[int]],
) -> Solved:
    """How far a vector can be turned before its text breaks, by its margin.

    Args:
        lm: The frozen model.
        passage: The text.
        mems: The vectors, each (1, d), by growing margin.
        noise: As long as they are, (n, 1, d).
        kept: By share of the noise that is added, of each vector the directions that keep the text.
    """
    margins = [f"{certify(lm, mem, passage.token_ids).margin:.2f}" for mem in mems]
    names = [f"kept by vector {i}, margin {margin}" for i, margin in enumerate(margins, start=1)]
    turned = {share: sum(angle(mems[0], mems[0] + share * one) for one in noise) / len(noise) for share in kept}
    rows = {f"{share:.0%}": [*map(str, some), f"{turned[share]:.1f}"] for share, some in kept.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*names, "turned by, degrees"])
    at = max(kept, key=lambda share: kept[share][-1] - kept[share][0])
    told = (
        f"**At {at:.0%} noise {kept[at][0]} of {len(noise)} directions keep the text with a margin of {margins[0]} "
        f"logits, and {kept[at][-1]} of {len(noise)} with {margins[-1]}.** The wider margin lies "
        f"{angle(mems[0], mems[-1]):.0f} degrees away. Hold the degrees in the table, means over directions, beside "
        "those of exercise 2: rounding is noise, too."
    )
    return Solved(told, table.rename_axis("noise"))


def _said(lm: FrozenLM, mem: torch.Tensor, n: int) -> str:
    """The first n tokens that the model says from a vector."""
    return _one_line(lm, greedy(lm, mem, n)[0].tolist())


def _one_line(lm: FrozenLM, ids: Sequence[int]) -> str:
    return " ".join(str(lm.tokenizer.decode(list(ids))).split())

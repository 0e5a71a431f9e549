"""One passage, one vector: the method, from a text to the text decoded again."""

from __future__ import annotations

from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cramming.decode import Certificate, certify, greedy
from cramming.engine import Cram, cram
from cramming.models import load
from cramming.recipes import recipe
from cramming.studies._figures import COLOURS, styled
from cramming.studies._page import Exhibit
from cramming.texts import from_text, passages


class Page:
    """A model, a passage, and the vector that makes the model say it.

    Args:
        model: See `cramming.models.load`.
        text: What the passage is taken from; empty: the first passage of the source.
        source: See `cramming.texts.passages`.
        length: Tokens of the passage.
        recipe: See `cramming.recipes.recipe`.
        seed: Of the passages, and of the noise that mem starts from.
    """

    def __init__(self, model: str, *, text: str, source: str, length: int, recipe: str, seed: int) -> None:
        self.lm, self.recipe, self.seed = load(model), recipe, seed
        if text:
            self.passage = from_text(text, self.lm.tokenizer, length=length)
        else:
            [self.passage] = passages(source, self.lm.tokenizer, n=1, length=length, seed=seed)

    @cached_property
    def run(self) -> Cram:
        """The passage, crammed."""
        return cram(self.lm, [self.passage], recipe(self.recipe), seed=self.seed)[0]

    @cached_property
    def decoded(self) -> torch.Tensor:
        """What the model says from the vector alone: token ids, shape (L,)."""
        return greedy(self.lm, self.run.mem, len(self.passage))[0]

    @cached_property
    def certificate(self) -> Certificate:
        """Whether the passage comes back in each of three ways, and by what margin."""
        return certify(self.lm, self.run.mem, self.passage.token_ids)


@styled
def cram_progress_figure(run: Cram) -> Figure:
    """Loss in nats and share of right tokens, against steps, of one cram."""
    trace = pd.DataFrame(run.trace, columns=["step", "length", "loss", "accuracy", "token_passes"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    left.plot(trace["step"], trace["loss"], color=COLOURS[0])
    left.set(yscale="log", xlabel="step", ylabel="nats a token", title="Mean cross-entropy")
    right.plot(trace["step"], trace["accuracy"] * run.length, color=COLOURS[0])
    right.axhline(run.length, color=COLOURS[1], linestyle="--", linewidth=1)
    right.annotate(f"{run.length} tokens", (trace["step"].iloc[0], run.length), color=COLOURS[1], va="bottom")
    right.set(xlabel="step", ylabel="tokens", title="Right tokens, teacher-forced", ylim=(0, run.length * 1.12))
    return figure


@styled
def mem_numbers_figure(mem: torch.Tensor, embeddings: torch.Tensor) -> Figure:
    """What the d numbers of a mem vector look like, in order, and beside those of the model's own token embeddings.

    Args:
        mem: One mem vector, shape (d,).
        embeddings: The embedding table, shape (V, d).
    """
    numbers = mem.detach().float().cpu().numpy()
    scaled = numbers / np.sqrt((numbers**2).mean())
    table = embeddings.detach().float().cpu().numpy()
    table = table[table.any(1)]  # a padding row is all zeros
    table = table / np.sqrt((table**2).mean(1, keepdims=True))
    rows = next(n for n in range(int(np.sqrt(len(scaled))), 0, -1) if len(scaled) % n == 0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[1.1, 1])
    image = left.imshow(scaled.reshape(rows, -1), cmap="gray", vmin=-3, vmax=3, aspect="auto")
    left.set(title=f"The vector, {rows} rows of {len(scaled) // rows} numbers", xticks=[], yticks=[])
    left.grid(visible=False)
    figure.colorbar(image, ax=left, label="number / root mean square")
    bins = np.linspace(-4, 4, 41)
    right.hist(
        table.ravel()[:: max(1, table.size // 500_000)], bins, density=True, color=COLOURS[2], label="token embeddings"
    )
    right.hist(scaled, bins, density=True, histtype="step", linewidth=2, color=COLOURS[0], label="mem vector")
    right.set(xlabel="number / root mean square", ylabel="density", title="Their distribution")
    right.margins(y=0.3)
    right.legend()
    return figure


def show_passage(page: Page) -> Exhibit:
    """What is crammed into what."""
    from IPython.display import Markdown

    passage = Markdown(  # type: ignore[no-untyped-call]
        f"**The passage** ({page.passage.id}, {len(page.passage)} tokens):\n\n> {page.passage.text.strip()}"
    )
    return Exhibit(f"**The model**: {page.lm.provenance}. One mem vector is {page.lm.width} numbers.", passage)


def show_progress(page: Page) -> Exhibit:
    """How the cram went."""
    run = page.run
    caption = (
        f"**{run.correct.sum()} of {run.length} tokens right after {run.steps} steps.** Left: mean cross-entropy of "
        "the passage in nats a token, on a log scale. Right: tokens that are the argmax given the true tokens before "
        f"them. {page.lm.name}, {page.passage.id}, n = 1 passage, recipe {page.recipe}; {run.cpu_seconds:.0f} "
        f"processor seconds, {run.token_passes:,} token passes."
    )
    return Exhibit(caption, cram_progress_figure(run))


def show_decoded(page: Page) -> Exhibit:
    """What the model says from the vector alone."""
    said = str(page.lm.tokenizer.decode(page.decoded)).strip()
    return Exhibit(f"**Decoded from the vector alone:**\n\n> {said}")


def show_margin(page: Page) -> Exhibit:
    """By how much the certificate holds."""
    found = page.certificate
    first = "none" if found.greedy_correct == found.length else found.greedy_correct
    return Exhibit(f"Margin: {found.margin:.3f} logits. First error of free decoding: {first}.")


def show_numbers(page: Page) -> Exhibit:
    """What the numbers of the vector look like, beside those of token embeddings."""
    lm, mem = page.lm, page.run.mem[0]
    embeddings: torch.Tensor = lm.model.get_input_embeddings().weight  # type: ignore[assignment]
    rms, table_rms = mem.square().mean().sqrt(), embeddings.square().mean().sqrt()
    caption = (
        f"**To the eye, the mem vector is noise.** Left: its {lm.width} numbers in order, in units of their root mean "
        f"square. Right: their distribution beside that of all {lm.vocab_size:,} token embeddings, each in its own "
        f"unit. The scale differs: root mean square {rms:,.0f} for the mem vector, {table_rms:.2f} for the "
        f"embeddings. {lm.name}, {page.passage.id}, n = 1."
    )
    return Exhibit(caption, mem_numbers_figure(mem, embeddings))

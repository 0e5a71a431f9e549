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
from cramming.results.rows import circumstances
from cramming.studies import _words as words
from cramming.studies._figures import COLOURS, WIDTH, styled
from cramming.studies._page import Answer, Exhibit
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
    def setting(self) -> str:
        """As of other pages, though no run of a store is shown."""
        about = {"provenance": self.lm.provenance, "n_vectors": 1, "source": self.passage.source}
        return words.setting_line(pd.DataFrame([circumstances(self.lm) | about]))

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
    """Loss in nats and number of right tokens, against steps, of one cram."""
    trace = pd.DataFrame(run.trace, columns=["step", "length", "loss", "accuracy", "token_passes"])
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.2), sharex=True)
    above.plot(trace["step"], trace["loss"], color=COLOURS[0])
    above.set(ylabel="nats a token", title="Mean cross-entropy", ylim=(0, None))
    below.plot(trace["step"], trace["accuracy"] * run.length, color=COLOURS[0])
    below.axhline(run.length, color=COLOURS[1], linestyle="--", linewidth=1)
    below.annotate(f"{run.length} tokens", (trace["step"].iloc[0], run.length), (0, 4), color=COLOURS[1],
                   textcoords="offset points", fontsize="small")  # fmt: skip
    below.set(xlabel="step", ylabel="tokens", title="Right tokens, teacher-forced", ylim=(0, run.length * 1.2))
    return figure


@styled
def mem_numbers_figure(mem: torch.Tensor, embeddings: torch.Tensor) -> Figure:
    """What the d numbers of a mem vector look like, in order, and below those of the model's own token embeddings.

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
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 6.4))
    image = above.imshow(scaled.reshape(rows, -1), cmap="gray", vmin=-3, vmax=3, aspect="auto")
    above.set(title=f"The vector, {rows} rows of {len(scaled) // rows} numbers", xticks=[], yticks=[])
    above.grid(visible=False)
    figure.colorbar(image, ax=above, label="number / root mean square")
    bins = np.linspace(-4, 4, 41)
    below.hist(
        table.ravel()[:: max(1, table.size // 500_000)], bins, density=True, color=COLOURS[2], label="token embeddings"
    )
    below.hist(scaled, bins, density=True, histtype="step", linewidth=2, color=COLOURS[0], label="mem vector")
    below.set(xlabel="number / root mean square", ylabel="density", title="Their distribution")
    figure.legend(*below.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    return figure


def show_answer(page: Page) -> Answer:
    """What this cram came to."""
    run, found = page.run, page.certificate
    said = f"all {found.length} tokens" if found.exact else f"{found.agreed} of {found.length} tokens"
    return Answer(
        page.setting,
        "Can one vector make a model say a text, word for word?",
        f"{'Yes' if found.exact else 'Not this time'}: after {run.steps} steps of training, one vector of "
        f"{page.lm.width} numbers makes a frozen model say **{said}** of the passage below.",
        rests=(
            f"One passage, `{page.passage.id}`; recipe `{page.recipe}`, {run.token_passes:,} token passes, "
            f"{run.cpu_seconds:.0f} processor seconds"
        ),
        sure="holds",
        why=f"certified in three ways of computing, with a margin of {found.margin:.2f} logits",
    )


def show_passage(page: Page) -> Exhibit:
    """What is crammed into what."""
    said = [str(page.lm.tokenizer.decode([token])).strip() for token in page.passage.token_ids[:6]]
    table = pd.DataFrame([said], ["it has to say"], ["the vector", *said[:-1]]).rename_axis("the model reads")
    caption = f"**The first of {len(page.passage)} places.** The passage:"
    return Exhibit(f"{caption}\n\n{_quoted(page.passage.text)}", table)


def show_progress(page: Page) -> Exhibit:
    """How the cram went."""
    run = page.run
    caption = (
        f"**{run.correct.sum()} of {run.length} tokens are right after {run.steps} steps.** Above: the loss. Below: "
        "tokens that are the model's first choice, given the true ones before."
    )
    return Exhibit(caption, cram_progress_figure(run))


def show_decoded(page: Page) -> Exhibit:
    """What the model says from the vector alone."""
    found = page.certificate
    caption = f"**{found.agreed} of {found.length} tokens come back, all three ways:**"
    return Exhibit(f"{caption}\n\n{_quoted(str(page.lm.tokenizer.decode(page.decoded)))}")


def show_numbers(page: Page) -> Exhibit:
    """What the numbers of the vector look like, beside those of token embeddings."""
    lm, mem = page.lm, page.run.mem[0]
    embeddings: torch.Tensor = lm.model.get_input_embeddings().weight  # type: ignore[assignment]
    rms, table_rms = mem.square().mean().sqrt(), embeddings.square().mean().sqrt()
    caption = (
        f"**To the eye, the vector is noise.** Above: its {lm.width} numbers. Below: their distribution, beside that "
        f"of all token embeddings. Root mean square: {rms:,.0f}, of the embeddings {table_rms:.2f}."
    )
    return Exhibit(caption, mem_numbers_figure(mem, embeddings))


def _quoted(text: str) -> str:
    """A text as a quotation in Markdown, whatever lines it has."""
    return "\n".join(f"> {line}" for line in text.strip().splitlines())

"""Figures: one function each, a tidy frame in, a matplotlib figure out. The style is here and nowhere else."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cramming.engine import Cram
from cramming.studies._figures import COLOURS, styled


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

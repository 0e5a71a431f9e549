"""How much of a passage's surprisal must go for it to be exact, and how much cramming takes away."""

from __future__ import annotations

from functools import cached_property

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from cramming import metrics
from cramming.errors import CrammingError
from cramming.results.rows import crammed, of_kind, surprise
from cramming.studies import _words as words
from cramming.studies._figures import marks_by_source, styled
from cramming.studies._page import Exhibit
from cramming.studies._page import Page as AnyPage


class Page(AnyPage):
    """The exact horizons, and what they had to lose."""

    def __init__(self, scale: str) -> None:
        super().__init__("bound", scale)
        self.horizons = of_kind(self.results, "horizon")

    @cached_property
    def reduction(self) -> pd.DataFrame:
        """From `reduction`, of all horizons."""
        return reduction(self.horizons, surprise(self.lm, crammed(self.horizons, self.lm)))


def reduction(results: pd.DataFrame, surprisal: pd.DataFrame) -> pd.DataFrame:
    """What cramming takes off the cross-entropy of each horizon, and the least that would do.

    Args:
        results: Rows of kind horizon.
        surprisal: From `cramming.results.rows.surprise`, of the same passages at least as long.

    Returns:
        One row a run: model, source, passage, length (tokens), bits (without mem), least_bits, removed_bits; all three
        leave token 0 out.
    """
    rows = []
    tokens = {str(name): some.sort_values("position") for name, some in surprisal.groupby("passage")}
    for run in of_kind(results, "horizon").query("length >= 2").itertuples():
        some = tokens[run.passage].head(run.length - 1)
        if len(some) < run.length - 1:
            raise CrammingError(f"surprisal covers {len(some) + 1} tokens of {run.passage}: give {run.length} or more")
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


@styled
def reduction_figure(frame: pd.DataFrame) -> Figure:
    """Bits that cramming removes against the least that would do, one mark a passage, on the line nothing is wasted.

    Args:
        frame: `cramming.studies.bound.reduction`.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.4))
    most = max(frame["removed_bits"].max(), frame["least_bits"].max()) * 1.05
    axis.plot([0, most], [0, most], color="#777777", linewidth=1, linestyle="--", label="the least that would do")
    marks_by_source(axis, frame, "least_bits", "removed_bits")
    axis.set(xlabel="least to remove, bits", ylabel="removed by the mem vector, bits", xlim=(0, None), ylim=(0, most))
    axis.legend()
    return figure


def show_table(page: Page) -> Exhibit:
    """What is removed, and what would do, by text."""
    runs = page.horizons
    caption = (
        f"**What is removed, and what would do.** {words.setting(runs)}; exact horizons within {words.budgets(runs)} "
        "a passage. All in bits of the model's own cross-entropy, token 0 left out; mean ± sample standard deviation "
        f"over passages; the last two columns are shares of sums. {words.cost(runs)}."
    )
    return Exhibit(caption, reduction_table(page.reduction))


def show_figure(page: Page) -> Exhibit:
    """The same, passage by passage."""
    done = page.reduction
    ratio, bits = done["removed_bits"] / done["least_bits"], done["bits"].sum()
    caption = (
        f"**Cramming removes {ratio.mean():.1f} times what would be needed.** One mark a passage; the line is what "
        f"would just do. Of all bits of these prefixes cramming removes {done['removed_bits'].sum() / bits:.0%}, and "
        f"{done['least_bits'].sum() / bits:.0%} would be enough: over passages the ratio is {ratio.mean():.2f} ± "
        f"{ratio.std():.2f}. {words.setting(page.horizons)}; n = {len(done)}."
    )
    return Exhibit(caption, reduction_figure(done))

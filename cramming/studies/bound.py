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
from cramming.studies._figures import WIDTH, marks_by_source, styled
from cramming.studies._page import Answer, Exhibit
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
        One row a run: model, source, passage, length (tokens), bits (without mem), least_bits, removed_bits, ratio (of
        removed to least; nan if nothing has to go). All of them leave token 0 out.
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
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(ratio=frame["removed_bits"] / frame["least_bits"].where(frame["least_bits"] > 0))


def reduction_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`reduction` summed up, one row a model and source; shares are of sums over passages."""
    rows = {}
    for (model, source), some in frame.groupby(["model", "source"], sort=False):
        rows[(model, f"{source} (n = {len(some)})")] = {
            "removed over least": words.spread(some["ratio"].mean(), some["ratio"].std(), 2),
            "removed over all": f"{some['removed_bits'].sum() / some['bits'].sum():.0%}",
            "least over all": f"{some['least_bits'].sum() / some['bits'].sum():.0%}",
            "removed, bits": words.spread(some["removed_bits"].mean(), some["removed_bits"].std(), 0),
            "least, bits": words.spread(some["least_bits"].mean(), some["least_bits"].std(), 0),
            "all, bits": words.spread(some["bits"].mean(), some["bits"].std(), 0),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "text"])
    return table.droplevel("model") if len({model for model, _ in rows}) == 1 else table


@styled
def reduction_figure(frame: pd.DataFrame) -> Figure:
    """Bits that cramming removes against those that raising the true tokens alone would take, one mark a passage.

    Args:
        frame: `cramming.studies.bound.reduction`.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.6))
    most = max(frame["removed_bits"].max(), frame["least_bits"].max()) * 1.05
    axis.plot(
        [0, most],
        [0, most],
        color="#777777",
        linewidth=1,
        linestyle="--",
        label="as much as raising true tokens alone",
    )
    marks_by_source(axis, frame, "least_bits", "removed_bits")
    axis.set(
        xlabel="to be removed by raising true tokens alone, bits",
        ylabel="removed by the mem vector, bits",
        xlim=(0, None),
        ylim=(0, most),
    )
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def show_answer(page: Page) -> Answer:
    """How many times the least is removed."""
    done, all_bits = page.reduction, page.reduction["bits"].sum()
    return Answer(
        page.setting,
        "How much of a text's surprise has to go, and how much does cramming take away?",
        f"Cramming takes away {done['removed_bits'].sum() / all_bits:.0%} of the bits of an exact prefix; raising the "
        f"true tokens alone until they are level with the best other would take "
        f"{done['least_bits'].sum() / all_bits:.0%}: **{words.spread(done['ratio'].mean(), done['ratio'].std(), 2)} "
        "times** as much is removed as that.",
        rests=(
            f"Mean ± standard deviation over {words.counted(done)} passages at their exact horizons, "
            f"{words.budgets(page.horizons)} each; shares are of sums"
        ),
        sure="holds here only",
        why="one small model, one loss, and a yardstick that is no strict minimum",
    )


def show_reduction(page: Page) -> Exhibit:
    """What is removed and what would do, passage by passage and by text."""
    done = page.reduction
    of = dict(tuple(done.dropna(subset="ratio").groupby("source")["ratio"]))
    low, high = (pick(of, key=lambda source: of[source].mean()) for pick in (min, max))
    caption = (
        f"**From {low} to {high} the ratio of removed to least differs by {words.difference(of[high], of[low], 2)}**, "
        "with its 95 % interval. *Least*: by raising true tokens alone; dashed: as much. One mark a passage. Bits are "
        "the model's own cross-entropy, token 0 left out: mean ± standard deviation over passages; shares are of sums."
    )
    return Exhibit(caption, reduction_figure(done), reduction_table(done))
